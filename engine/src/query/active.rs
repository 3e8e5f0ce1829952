//! The part of a query that the shard's owner answers: one bite over what is not sealed.
//!
//! The owner returns places, never bytes; whoever asked reads them through its own ring. A place pins its segment.

use std::sync::Arc;

use crate::ids::{Position, SegmentNumber, Version};
use crate::index::active::{ActiveIndex, Match};
use crate::index::sealed::{SegmentFile, Snapshot};
use crate::limits::{QUERY_BITE_ENTRIES, QUERY_BITE_PLACES};
use crate::query::{Order, QuerySpec};

/// One bite, asked of the owner.
#[derive(Debug, Clone)]
pub struct ActiveRequest {
    pub spec: Arc<QuerySpec>,
    /// Fingerprint of the wanted entity.
    pub entity: Option<u128>,
    /// Only positions beyond this one in the query's order.
    pub bound: Position,
    /// Ascending: the last sealed segment that has been searched. The owner sends the asker back if there are newer ones.
    pub sealed_to: Option<SegmentNumber>,
    /// Ascending: where the bite before stopped.
    pub resume: Option<(SegmentNumber, usize)>,
    pub matches_max: usize,
}

/// A match and the segment it lies in.
#[derive(Debug, Clone)]
pub struct Place {
    pub found: Match,
    pub segment: Arc<SegmentFile>,
    /// Sealed segments no longer change, so that their pages may be cached.
    pub is_sealed: bool,
}

/// What comes after a bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveNext {
    /// Ask again with this bound (descending).
    Before(Position),
    /// Ask again from here (ascending).
    From(SegmentNumber, usize),
    /// Segments have been sealed in the meantime: search the answer's snapshot first (ascending).
    Sealed,
    /// Nothing is left that is not sealed.
    Exhausted,
}

/// The owner's answer.
#[derive(Debug)]
pub struct ActiveAnswer {
    pub places: Vec<Place>,
    pub next: ActiveNext,
    pub snapshot: Arc<Snapshot>,
    /// The wanted entity's last version.
    pub entity_version: Option<Version>,
    /// The position that the tenant's next event gets, and the oldest one that is still kept.
    pub next_position: Position,
    pub oldest_position: Position,
}

impl ActiveAnswer {
    /// The answer for a tenant that has no event.
    pub(crate) fn nothing(request: &ActiveRequest) -> ActiveAnswer {
        ActiveAnswer {
            places: Vec::new(),
            next: ActiveNext::Exhausted,
            snapshot: Arc::default(),
            entity_version: request.entity.map(|_| Version(0)),
            next_position: Position(1),
            oldest_position: Position(1),
        }
    }
}

/// `segments` are the unsealed ones, oldest first.
pub(crate) fn search(
    request: &ActiveRequest,
    segments: &[(&ActiveIndex, &Arc<SegmentFile>)],
    snapshot: Arc<Snapshot>,
    entity_version: Option<Version>,
    next_position: Position,
) -> ActiveAnswer {
    let tenant = request.spec.tenant;
    let sealed_oldest = snapshot
        .segments
        .iter()
        .find_map(|segment| segment.resident.tenant(tenant))
        .map(|entry| Position(entry.first_position.get()));
    let oldest_position = sealed_oldest
        .or_else(|| segments.iter().find_map(|(index, _)| index.tenant_positions(tenant)).map(|(first, _)| first))
        .unwrap_or(next_position);
    let mut answer = ActiveAnswer {
        places: Vec::new(),
        next: ActiveNext::Exhausted,
        snapshot,
        entity_version,
        next_position,
        oldest_position,
    };
    let matches_max = request.matches_max.min(QUERY_BITE_PLACES);
    match request.spec.order {
        Order::Descending => search_down(request, segments, matches_max, &mut answer),
        Order::Ascending => search_up(request, segments, matches_max, &mut answer),
    }
    answer
}

fn search_down(
    request: &ActiveRequest,
    segments: &[(&ActiveIndex, &Arc<SegmentFile>)],
    matches_max: usize,
    answer: &mut ActiveAnswer,
) {
    let mut found = Vec::new();
    for (index, segment) in segments.iter().rev() {
        let filter = index.filter(&request.spec, request.entity);
        let room = matches_max - answer.places.len();
        let more = index.search_down(&filter, request.bound, room, QUERY_BITE_ENTRIES, &mut found);
        take(&mut found, segment, answer);
        if let Some(before) = more {
            answer.next = ActiveNext::Before(before);
            return;
        }
    }
}

fn search_up(
    request: &ActiveRequest,
    segments: &[(&ActiveIndex, &Arc<SegmentFile>)],
    matches_max: usize,
    answer: &mut ActiveAnswer,
) {
    let newest_sealed = answer.snapshot.segments.last().map(|segment| segment.segment.number);
    if request.sealed_to < newest_sealed {
        answer.next = ActiveNext::Sealed;
        return;
    }
    let mut found = Vec::new();
    for (index, segment) in segments {
        let from = match request.resume {
            Some((number, _)) if segment.number < number => continue,
            Some((number, ordinal)) if segment.number == number => ordinal,
            _ => 0,
        };
        let filter = index.filter(&request.spec, request.entity);
        let room = matches_max - answer.places.len();
        let more = index.search_up(&filter, request.bound, from, room, QUERY_BITE_ENTRIES, &mut found);
        take(&mut found, segment, answer);
        if let Some(ordinal) = more {
            answer.next = ActiveNext::From(segment.number, ordinal);
            return;
        }
        // A segment that shows less than it has is the last one that may be looked at.
        if index.visible() < index.event_count() {
            return;
        }
    }
}

fn take(found: &mut Vec<Match>, segment: &Arc<SegmentFile>, answer: &mut ActiveAnswer) {
    let places = found.drain(..).map(|found| Place { found, segment: Arc::clone(segment), is_sealed: false });
    answer.places.extend(places);
}
