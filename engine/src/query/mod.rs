//! Questions and answers: what a reader asks for, and how it is found without ever stopping a core.
//!
//! ```text
//! spec ─► search ─► active (asked of the owner, in bites) ─┐
//!            └────► sealed indexes (a pinned snapshot) ────┴─► places ─► reads ─► verified rows
//! ```

pub mod active;
pub mod search;
pub mod spec;

pub use search::{Row, Rows, Search, SearchError, SearchStep, Summary};
pub use spec::{Order, QuerySpec, TypeFilter};
