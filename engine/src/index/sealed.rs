//! Full segments: immutable, queryable by any core through a snapshot that pins them.

use std::sync::Arc;

use crate::format::index::IndexResident;
use crate::ids::SegmentNumber;
use crate::io::DiskFile;
use crate::query::{QuerySpec, TypeFilter};

/// One life of a segment file. Whoever holds a clone keeps the file from going back to the pool.
#[derive(Debug)]
pub struct SegmentFile {
    pub number: SegmentNumber,
    pub epoch: u64,
    pub file: DiskFile,
    /// The file's size. Blocks end there at the latest.
    pub bytes: u64,
}

/// A full segment with its sealed index.
#[derive(Debug)]
pub struct SealedSegment {
    pub segment: Arc<SegmentFile>,
    pub index_file: DiskFile,
    pub resident: IndexResident,
}

/// The sealed segments of one shard at one moment, oldest first.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub segments: Vec<Arc<SealedSegment>>,
}

/// A query's conditions in terms of one sealed index. Types are a half-open range, plus excluded ranges.
#[derive(Debug, Clone)]
pub struct SealedFilter {
    pub entity: Option<u64>,
    pub since: i64,
    pub until: i64,
    types: (u32, u32),
    excluded: Vec<(u32, u32)>,
}

impl SealedSegment {
    /// `None`: nothing in the segment can match.
    pub fn filter(&self, spec: &QuerySpec, entity: Option<u128>) -> Option<SealedFilter> {
        let entity = entity.map(|fingerprint| fingerprint as u64);
        if entity.is_some_and(|entity| !self.resident.may_contain_entity(spec.tenant, entity)) {
            return None;
        }
        let types = match &spec.event_type {
            None => (0, u32::MAX),
            Some(TypeFilter::Exact(wanted)) => {
                let wanted = wanted.as_bytes();
                self.resident.type_range(|text| text < wanted, |text| wanted < text)
            }
            Some(TypeFilter::Prefix(prefix)) => self.prefix_range(prefix),
        };
        if types.0 == types.1 {
            return None;
        }
        let excluded = spec.exclude_type_prefixes.iter().map(|prefix| self.prefix_range(prefix)).collect();
        Some(SealedFilter {
            entity,
            since: spec.since.map_or(i64::MIN, |at| at.0),
            until: spec.until.map_or(i64::MAX, |at| at.0),
            types,
            excluded,
        })
    }

    fn prefix_range(&self, prefix: &str) -> (u32, u32) {
        let prefix = prefix.as_bytes();
        self.resident.type_range(|text| text < prefix, |text| !text.starts_with(prefix) && prefix < text)
    }
}

impl SealedFilter {
    pub fn matches(&self, timestamp: i64, entity: u64, event_type: u32) -> bool {
        self.since <= timestamp
            && timestamp <= self.until
            && self.types.0 <= event_type
            && event_type < self.types.1
            && self.entity.is_none_or(|wanted| wanted == entity)
            && !self.excluded.iter().any(|range| range.0 <= event_type && event_type < range.1)
    }

    /// Whether a group with these bounds can hold a match.
    pub fn may_match(&self, timestamps: (i64, i64), types: (u32, u32)) -> bool {
        self.since <= timestamps.1 && timestamps.0 <= self.until && self.types.0 <= types.1 && types.0 < self.types.1
    }
}
