//! placeholder
#[derive(Debug)]
pub struct Buffer;
pub struct BufferPool;
