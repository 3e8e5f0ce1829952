//! placeholder
pub struct Map;
