//! Names of the files of a shard. Made of numbers only; nothing a client sends ever reaches a file name.
//!
//! ```text
//! shard-0000/log-000000000000002a.seg     a segment in the log       log-000000000000002a.idx    its sealed index
//! shard-0000/free-000000000000002a.seg    a segment in the pool      ent-<from>-<to>.run         a run of the entity directory
//! shard-0000/key-<from>-<to>.run          a run of idempotency keys
//! quarantine/shard-0000-<sequence>-<segment>.tail                    a cut tail
//! ```

use crate::ids::{BlockSequence, SegmentNumber, ShardNumber};

pub const QUARANTINE_DIR: &str = "quarantine";
/// A file that was being written when the machine stopped. Removed at the next open.
pub const ASIDE_SUFFIX: &str = ".tmp";

/// What a name in a shard's folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardEntry {
    Log(SegmentNumber),
    Free(SegmentNumber),
    Index(SegmentNumber),
    Run {
        from: u64,
        to: u64,
    },
    KeyRun {
        from: u64,
        to: u64,
    },
    Aside,
    /// Not ours: left alone.
    Unknown,
}

pub fn shard_dir(shard: ShardNumber) -> String {
    format!("shard-{:04}", shard.0)
}

pub fn log_path(dir: &str, number: SegmentNumber) -> String {
    format!("{dir}/log-{:016x}.seg", number.0)
}

pub fn free_path(dir: &str, number: SegmentNumber) -> String {
    format!("{dir}/free-{:016x}.seg", number.0)
}

pub fn index_path(dir: &str, number: SegmentNumber) -> String {
    format!("{dir}/log-{:016x}.idx", number.0)
}

pub fn run_path(dir: &str, from: u64, to: u64) -> String {
    format!("{dir}/ent-{from:016x}-{to:016x}.run")
}

pub fn key_run_path(dir: &str, from: u64, to: u64) -> String {
    format!("{dir}/key-{from:016x}-{to:016x}.run")
}

pub fn quarantine_path(dir: &str, sequence: BlockSequence, number: SegmentNumber, copy: u64) -> String {
    format!("{QUARANTINE_DIR}/{dir}-{:016x}-{:016x}-{copy:016x}.tail", sequence.0, number.0)
}

pub fn parse_name(name: &str) -> ShardEntry {
    if name.ends_with(ASIDE_SUFFIX) {
        return ShardEntry::Aside;
    }
    let numbered = |prefix: &str, suffix: &str| name.strip_prefix(prefix)?.strip_suffix(suffix).and_then(number);
    if let Some(number) = numbered("log-", ".seg") {
        ShardEntry::Log(SegmentNumber(number))
    } else if let Some(number) = numbered("log-", ".idx") {
        ShardEntry::Index(SegmentNumber(number))
    } else if let Some(number) = numbered("free-", ".seg") {
        ShardEntry::Free(SegmentNumber(number))
    } else if let Some((from, to)) = run_range("ent-", name) {
        ShardEntry::Run { from, to }
    } else if let Some((from, to)) = run_range("key-", name) {
        ShardEntry::KeyRun { from, to }
    } else {
        ShardEntry::Unknown
    }
}

fn run_range(prefix: &str, name: &str) -> Option<(u64, u64)> {
    let (from, to) = name.strip_prefix(prefix)?.strip_suffix(".run")?.split_once('-')?;
    Some((number(from)?, number(to)?))
}

fn number(text: &str) -> Option<u64> {
    let is_ours = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_ours { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_what_they_stand_for() {
        let file = |path: String| path.split_once('/').unwrap().1.to_owned();
        assert_eq!(parse_name(&file(log_path("s", SegmentNumber(42)))), ShardEntry::Log(SegmentNumber(42)));
        assert_eq!(parse_name(&file(free_path("s", SegmentNumber(1)))), ShardEntry::Free(SegmentNumber(1)));
        assert_eq!(parse_name(&file(index_path("s", SegmentNumber(7)))), ShardEntry::Index(SegmentNumber(7)));
        assert_eq!(parse_name(&file(run_path("s", 3, 9))), ShardEntry::Run { from: 3, to: 9 });
        assert_eq!(parse_name(&file(key_run_path("s", 3, 9))), ShardEntry::KeyRun { from: 3, to: 9 });
        assert_eq!(parse_name("log-000000000000002a.idx.tmp"), ShardEntry::Aside);
        for stranger in ["log-2a.seg", "log-00000000000000+a.seg", "notes.txt", "ent-1-2.run"] {
            assert_eq!(parse_name(stranger), ShardEntry::Unknown, "{stranger}");
        }
    }
}
