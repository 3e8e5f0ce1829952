//! placeholder
pub struct RealFile;
impl RealFile {
    pub fn id(&self) -> u64 {
        0
    }
}
pub struct FsDisk;
