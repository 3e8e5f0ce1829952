//! Questions and answers.
pub mod spec;
pub use spec::{Order, QuerySpec, TypeFilter};
