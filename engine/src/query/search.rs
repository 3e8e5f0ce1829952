//! A query as a state machine: it asks the owner, reads sealed indexes, fetches the records, and verifies them.
//!
//! ```text
//! AskOwner ─► owner_answered ─┐
//! Wait ◄──────► disk_done ────┴─► Rows (in bites, in order) ─► Done
//! ```
//! Runs on the core that asked, over any ring. Every step is bounded. Hashes only find candidates: what is returned was
//! read back, its checksum verified, and its strings compared. Must never: show a record that it has not verified.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::event::FingerprintKey;
use crate::format::batch::{BatchView, head_bytes};
use crate::format::index::{GROUP_BYTES, GROUP_EVENTS, group_columns};
use crate::format::record::{RECORD_HEADER_BYTES, Record};
use crate::ids::{Micros, Position, SegmentNumber, Tenant, Version};
use crate::index::active::Match;
use crate::index::sealed::{SealedFilter, SealedSegment, SegmentFile, Snapshot};
use crate::io::{Buffer, DiskDone, DiskError, DiskFile, DiskOp, ReadFrom};
use crate::limits::{ALIGNMENT, BATCH_EVENTS_MAX, QUERY_BITE_ENTRIES};
use crate::query::active::{ActiveAnswer, ActiveNext, ActiveRequest, Place};
use crate::query::{Order, QuerySpec};

/// Places whose records are read together.
/// Each may cost the head of the largest batch, 80 KB.
const FETCH_PLACES: usize = 64;
/// Record bytes handed out in one bite, unless a single record is longer.
const FETCH_BYTES: usize = 4 << 20;
/// How far apart two reads may be and still be one.
const SPAN_GAP_BYTES: u64 = 16 << 10;
const SPAN_BYTES_MAX: u64 = 1 << 20;
/// Most records are shorter; a longer one costs a second read.
const RECORD_GUESS_BYTES: u64 = 2 << 10;
/// Index entries that are visited beyond the answer to tell how many matches there are in all.
pub const COUNT_VISITS_MAX: u64 = 262_144;

/// What the search wants next.
#[derive(Debug)]
pub enum SearchStep {
    /// Pass this to the shard's owner and its answer to `owner_answered`.
    AskOwner(ActiveRequest),
    /// Disk operations are under way; their ends go to `disk_done`.
    Wait,
    /// The next rows of the answer, in order. More may follow.
    Rows(Rows),
    Done(Summary),
}

/// What is known at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// At least one more event matches behind the last one returned.
    pub has_more: bool,
    /// Number of all matches, if it could be told without looking at more than `COUNT_VISITS_MAX` further entries.
    pub total: Option<u64>,
    /// The last version of the wanted entity, 0 if it does not exist.
    pub entity_version: Option<Version>,
}

/// Why a query cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchError {
    /// A stored event, or its index, does not verify. It is named, never skipped.
    Damaged {
        segment: SegmentNumber,
        position: Option<Position>,
    },
    Disk(DiskError),
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SearchError::Damaged { segment, position: Some(position) } => {
                write!(f, "the event at position {} in segment {} is damaged", position.0, segment.0)
            }
            SearchError::Damaged { segment, position: None } => {
                write!(f, "the index of segment {} is damaged", segment.0)
            }
            SearchError::Disk(error) => write!(f, "reading failed: {error}"),
        }
    }
}

impl std::error::Error for SearchError {}

/// One event of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub position: Position,
    pub version: Version,
    pub received_at: Micros,
    /// The event's own time, or the received time.
    pub timestamp: Micros,
    pub record: Record<'a>,
}

/// Some rows and the memory they lie in.
#[derive(Debug)]
pub struct Rows {
    spans: Vec<Span>,
    rows: Vec<RowAt>,
}

#[derive(Debug, Clone, Copy)]
struct RowAt {
    position: Position,
    version: Version,
    received_at: Micros,
    span: usize,
    from: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|row| {
            let record =
                Record::parse(&self.spans[row.span].bytes()[row.from..]).expect("verified when it was fetched");
            Row {
                position: row.position,
                version: row.version,
                received_at: row.received_at,
                timestamp: record.timestamp.unwrap_or(row.received_at),
                record,
            }
        })
    }
}

/// A part of a segment that is read in one go.
#[derive(Debug)]
struct Span {
    file: DiskFile,
    from: u64,
    bytes: u64,
    source: ReadFrom,
    buffer: Option<Buffer>,
    filled: usize,
}

impl Span {
    fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[..self.filled],
            None => &[],
        }
    }

    fn at(&self, offset: u64) -> Option<&[u8]> {
        let start = offset.checked_sub(self.from)?;
        self.bytes().get(start as usize..)
    }
}

#[derive(Debug)]
enum Phase {
    Owner,
    AwaitOwner,
    Sealed,
    Exhausted,
}

#[derive(Debug)]
struct SealedCursor {
    segment: Arc<SealedSegment>,
    filter: SealedFilter,
    first_position: Position,
    /// The tenant's first event in the clustered columns, and what is left of its slice, relative to that.
    start: u64,
    from: u64,
    to: u64,
    /// The group that is being read.
    reading: Option<usize>,
}

#[derive(Debug)]
struct Fetch {
    places: Vec<Place>,
    spans: Vec<Span>,
    outstanding: usize,
    round: FetchRound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchRound {
    First,
    /// Longer records, and what did not verify, read again past every cache.
    Again,
}

/// See the module's picture.
#[derive(Debug)]
pub struct Search {
    spec: Arc<QuerySpec>,
    entity: Option<u128>,
    phase: Phase,
    bound: Position,
    skip: u64,
    want: usize,
    matches_seen: u64,
    count_visits: u64,
    has_more: bool,
    counts: bool,
    snapshot: Arc<Snapshot>,
    /// Sealed segments of the snapshot that are still to be searched, in the order of the query.
    segments_left: VecDeque<Arc<SealedSegment>>,
    sealed_to: Option<SegmentNumber>,
    resume: Option<(SegmentNumber, usize)>,
    cursor: Option<SealedCursor>,
    ready: VecDeque<Place>,
    fetch: Option<Fetch>,
    outcome: Option<SearchError>,
    unfiltered_total: Option<u64>,
    entity_version: Option<Version>,
}

impl Search {
    /// `fingerprint` is the data directory's.
    pub fn new(spec: QuerySpec, fingerprint: FingerprintKey) -> Search {
        let entity = spec.entity.as_deref().map(|entity| fingerprint.entity(entity));
        let bound = spec.after.unwrap_or(match spec.order {
            Order::Ascending => Position(0),
            Order::Descending => Position(u64::MAX),
        });
        Search {
            entity,
            phase: Phase::Owner,
            bound,
            skip: spec.offset,
            want: spec.limit,
            matches_seen: 0,
            count_visits: 0,
            has_more: false,
            counts: spec.after.is_none(),
            snapshot: Arc::default(),
            segments_left: VecDeque::new(),
            sealed_to: None,
            resume: None,
            cursor: None,
            ready: VecDeque::new(),
            fetch: None,
            outcome: None,
            unfiltered_total: None,
            entity_version: None,
            spec: Arc::new(spec),
        }
    }

    pub fn spec(&self) -> &QuerySpec {
        &self.spec
    }

    /// Goes on as far as it can without waiting. Tickets of `ops` are small numbers of this search's own.
    pub fn step(&mut self, ops: &mut Vec<DiskOp>) -> Result<SearchStep, SearchError> {
        loop {
            if let Some(error) = self.outcome {
                return Err(error);
            }
            if let Some(fetch) = &self.fetch {
                if fetch.outstanding > 0 {
                    return Ok(SearchStep::Wait);
                }
                if let Some(rows) = self.finish_fetch(ops)? {
                    return Ok(SearchStep::Rows(rows));
                }
                continue;
            }
            let is_over = matches!(self.phase, Phase::Exhausted) || self.is_answered();
            if self.ready.len() >= FETCH_PLACES || (is_over && !self.ready.is_empty()) {
                self.begin_fetch(ops);
                continue;
            }
            if is_over {
                return Ok(SearchStep::Done(self.summary()));
            }
            match self.phase {
                Phase::Owner => {
                    self.phase = Phase::AwaitOwner;
                    return Ok(SearchStep::AskOwner(self.request()));
                }
                Phase::AwaitOwner => return Ok(SearchStep::Wait),
                Phase::Sealed => {
                    if self.cursor.as_ref().is_some_and(|cursor| cursor.reading.is_some()) {
                        return Ok(SearchStep::Wait);
                    }
                    self.search_sealed(ops);
                }
                Phase::Exhausted => unreachable!("handled as over"),
            }
        }
    }

    /// Takes the owner's answer to the last `AskOwner`.
    pub fn owner_answered(&mut self, answer: ActiveAnswer) {
        assert!(matches!(self.phase, Phase::AwaitOwner));
        self.entity_version = answer.entity_version;
        let is_unfiltered = self.spec.event_type.is_none()
            && self.spec.exclude_type_prefixes.is_empty()
            && self.spec.entity.is_none()
            && self.spec.since.is_none()
            && self.spec.until.is_none();
        if is_unfiltered && self.counts && self.unfiltered_total.is_none() {
            // A damaged shard may have lost a tenant's place: then nobody can tell the total.
            self.unfiltered_total = answer.next_position.0.checked_sub(answer.oldest_position.0);
        }
        for place in answer.places {
            self.bound = place.found.position;
            self.absorb(place);
        }
        if self.has_more && matches!(answer.next, ActiveNext::Before(_) | ActiveNext::From(..)) {
            // The owner does not say how many entries it looked at: at most a whole bite.
            self.count_visits += QUERY_BITE_ENTRIES as u64;
        }
        match answer.next {
            ActiveNext::Before(position) => {
                self.bound = position;
                self.phase = Phase::Owner;
            }
            ActiveNext::From(number, ordinal) => {
                self.resume = Some((number, ordinal));
                self.phase = Phase::Owner;
            }
            ActiveNext::Sealed | ActiveNext::Exhausted => {
                let is_up = self.spec.order == Order::Ascending;
                if is_up && answer.next == ActiveNext::Exhausted {
                    self.phase = Phase::Exhausted;
                    return;
                }
                let sealed_to = self.sealed_to;
                let newer = answer.snapshot.segments.iter().filter(|segment| sealed_to < Some(segment.segment.number));
                self.segments_left = if is_up { newer.cloned().collect() } else { newer.rev().cloned().collect() };
                self.resume = None;
                self.phase = Phase::Sealed;
            }
        }
        self.snapshot = answer.snapshot;
    }

    /// Takes the end of one of this search's disk operations.
    pub fn disk_done(&mut self, done: DiskDone) {
        let bytes = match done.result {
            Ok(bytes) => bytes,
            Err(error) => {
                self.outcome = Some(SearchError::Disk(error));
                return;
            }
        };
        if let Some(fetch) = &mut self.fetch {
            let span = &mut fetch.spans[done.ticket as usize];
            span.buffer = done.buffer;
            span.filled = bytes;
            fetch.outstanding -= 1;
            return;
        }
        let buffer = done.buffer.expect("a read returns its buffer");
        self.scan_group(&buffer[..bytes.min(buffer.len())]);
    }

    fn is_answered(&self) -> bool {
        if !self.has_more {
            return false;
        }
        let is_counted = self.unfiltered_total.is_some() || !self.counts;
        is_counted || self.count_visits > COUNT_VISITS_MAX
    }

    fn summary(&self) -> Summary {
        let counted =
            if matches!(self.phase, Phase::Exhausted) && self.counts { Some(self.matches_seen) } else { None };
        Summary {
            has_more: self.has_more,
            total: self.unfiltered_total.or(counted),
            entity_version: self.entity_version,
        }
    }

    fn request(&self) -> ActiveRequest {
        let wanted = self.skip.saturating_add(self.want as u64).saturating_add(1);
        let matches_max = if self.has_more { usize::MAX } else { usize::try_from(wanted).unwrap_or(usize::MAX) };
        ActiveRequest {
            spec: Arc::clone(&self.spec),
            entity: self.entity,
            bound: self.bound,
            sealed_to: self.sealed_to,
            resume: self.resume,
            matches_max,
        }
    }

    fn absorb(&mut self, place: Place) {
        self.matches_seen += 1;
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.want > 0 {
            self.want -= 1;
            self.ready.push_back(place);
        } else {
            self.has_more = true;
        }
    }

    /// Starts reading the next group of sealed columns that can hold a match, or leaves the sealed phase.
    fn search_sealed(&mut self, ops: &mut Vec<DiskOp>) {
        loop {
            let Some(cursor) = &mut self.cursor else {
                let Some(segment) = self.segments_left.pop_front() else {
                    self.leave_sealed();
                    return;
                };
                self.cursor = self.cursor_of(segment);
                continue;
            };
            if cursor.from == cursor.to {
                self.cursor = None;
                continue;
            }
            let at = match self.spec.order {
                Order::Ascending => cursor.start + cursor.from,
                Order::Descending => cursor.start + cursor.to - 1,
            };
            let group = (at / GROUP_EVENTS as u64) as usize;
            let fence = &cursor.segment.resident.fences()[group];
            self.count_visits += u64::from(self.has_more);
            let may_match = cursor.filter.may_match(
                (fence.timestamp_min.get(), fence.timestamp_max.get()),
                (fence.type_min.get(), fence.type_max.get()),
            );
            if !may_match {
                let (group_from, group_to) = group_range(cursor, group);
                match self.spec.order {
                    Order::Ascending => cursor.from = group_to,
                    Order::Descending => cursor.to = group_from,
                }
                continue;
            }
            cursor.reading = Some(group);
            ops.push(DiskOp::Read {
                ticket: 0,
                file: cursor.segment.index_file.clone(),
                offset: cursor.segment.resident.group_offset(group),
                buffer: Buffer::new(GROUP_BYTES),
                bytes: GROUP_BYTES,
                from: ReadFrom::Cache,
            });
            return;
        }
    }

    fn cursor_of(&self, segment: Arc<SealedSegment>) -> Option<SealedCursor> {
        let entry = segment.resident.tenant(self.spec.tenant)?;
        let first_position = Position(entry.first_position.get());
        let count = u64::from(entry.event_count.get());
        let start = u64::from(entry.start.get());
        let (from, to) = match self.spec.order {
            Order::Ascending => ((self.bound.0 + 1).saturating_sub(first_position.0).min(count), count),
            Order::Descending => (0, self.bound.0.saturating_sub(first_position.0).min(count)),
        };
        let filter = segment.filter(&self.spec, self.entity)?;
        let can_match =
            filter.since <= entry.timestamp_max.get() && entry.timestamp_min.get() <= filter.until && from < to;
        if !can_match {
            return None;
        }
        Some(SealedCursor { segment, filter, first_position, start, from, to, reading: None })
    }

    fn leave_sealed(&mut self) {
        match self.spec.order {
            Order::Ascending => {
                self.sealed_to =
                    self.snapshot.segments.last().map(|segment| segment.segment.number).max(self.sealed_to);
                self.phase = Phase::Owner;
            }
            Order::Descending => self.phase = Phase::Exhausted,
        }
    }

    fn scan_group(&mut self, bytes: &[u8]) {
        let mut cursor = self.cursor.take().expect("a group is read for a cursor");
        let group = cursor.reading.take().expect("a group is being read");
        let fence = cursor.segment.resident.fences()[group];
        let Some(columns) = group_columns(bytes, &fence) else {
            self.outcome = Some(SearchError::Damaged { segment: cursor.segment.segment.number, position: None });
            return;
        };
        let (from, to) = group_range(&cursor, group);
        let group_start = (group * GROUP_EVENTS) as u64;
        let visit = |search: &mut Search, place: u64| {
            let row = (cursor.start + place - group_start) as usize;
            let timestamp = columns.timestamps[row].get();
            if !cursor.filter.matches(timestamp, columns.entities[row].get(), columns.types[row].get()) {
                return;
            }
            let found = Match {
                position: Position(cursor.first_position.0 + place),
                timestamp: Micros(timestamp),
                batch_offset: columns.batch_offsets[row].get(),
                record_offset: columns.record_offsets[row].get(),
            };
            search.absorb(Place { found, segment: Arc::clone(&cursor.segment.segment), is_sealed: true });
        };
        if self.has_more {
            self.count_visits += to - from;
        }
        match self.spec.order {
            Order::Ascending => (from..to).for_each(|place| visit(self, place)),
            Order::Descending => (from..to).rev().for_each(|place| visit(self, place)),
        }
        match self.spec.order {
            Order::Ascending => {
                cursor.from = to;
                self.bound = Position(cursor.first_position.0 + to - 1);
            }
            Order::Descending => {
                cursor.to = from;
                self.bound = Position(cursor.first_position.0 + from);
            }
        }
        self.cursor = Some(cursor);
    }

    fn begin_fetch(&mut self, ops: &mut Vec<DiskOp>) {
        let count = self.ready.len().min(FETCH_PLACES);
        let places: Vec<Place> = self.ready.drain(..count).collect();
        let mut ranges = Vec::with_capacity(places.len() * 2);
        for (place_index, place) in places.iter().enumerate() {
            let batch = u64::from(place.found.batch_offset);
            let record = u64::from(place.found.record_offset);
            ranges.push((place_index, batch, record.min(batch + head_bytes(BATCH_EVENTS_MAX) as u64)));
            ranges.push((place_index, record, record + RECORD_GUESS_BYTES));
        }
        let spans = spans_of(&places, ranges);
        self.fetch = Some(Fetch { places, spans, outstanding: 0, round: FetchRound::First });
        self.submit_spans(0, ops);
    }

    fn submit_spans(&mut self, from: usize, ops: &mut Vec<DiskOp>) {
        let fetch = self.fetch.as_mut().expect("called with a fetch");
        for (span_index, span) in fetch.spans.iter_mut().enumerate().skip(from) {
            ops.push(DiskOp::Read {
                ticket: span_index as u64,
                file: span.file.clone(),
                offset: span.from,
                buffer: Buffer::new(span.bytes as usize),
                bytes: span.bytes as usize,
                from: span.source,
            });
            fetch.outstanding += 1;
        }
    }

    /// Verifies what was read. `None`: some of it has to be read again.
    fn finish_fetch(&mut self, ops: &mut Vec<DiskOp>) -> Result<Option<Rows>, SearchError> {
        let mut fetch = self.fetch.take().expect("called with a fetch");
        let mut rows = Vec::with_capacity(fetch.places.len());
        let mut again = Vec::new();
        let mut bytes_taken = 0;
        let mut taken = fetch.places.len();
        for (place_index, place) in fetch.places.iter().enumerate() {
            if bytes_taken >= FETCH_BYTES {
                taken = place_index;
                break;
            }
            match locate(place, self.spec.tenant, &fetch.spans) {
                Ok((row, record)) => {
                    bytes_taken += record.record_bytes;
                    if self.confirms(&row, &record) {
                        rows.push(row);
                    }
                }
                Err(missing_bytes) => {
                    if fetch.round == FetchRound::Again {
                        return Err(SearchError::Damaged {
                            segment: place.segment.number,
                            position: Some(place.found.position),
                        });
                    }
                    bytes_taken += missing_bytes as usize;
                    again.push((place_index, missing_bytes));
                }
            }
        }
        // What did not fit this bite waits for the next one.
        for place in fetch.places.drain(taken..).rev() {
            self.ready.push_front(place);
        }
        if again.is_empty() {
            return Ok(Some(Rows { spans: fetch.spans, rows }));
        }
        let old_spans = fetch.spans.len();
        for (place_index, record_bytes) in again {
            let place = &fetch.places[place_index];
            let batch = u64::from(place.found.batch_offset);
            let record = u64::from(place.found.record_offset);
            let head_to = record.min(batch + head_bytes(BATCH_EVENTS_MAX) as u64);
            for (from, to) in [(batch, head_to), (record, record + record_bytes)] {
                fetch.spans.push(span_of(&place.segment, from, to, ReadFrom::Device));
            }
        }
        fetch.round = FetchRound::Again;
        self.fetch = Some(fetch);
        self.submit_spans(old_spans, ops);
        Ok(None)
    }

    /// The stored bytes decide what the hashes only suggested.
    fn confirms(&self, row: &RowAt, record: &Record<'_>) -> bool {
        let timestamp = record.timestamp.unwrap_or(row.received_at);
        self.spec.matches_type(record.event_type)
            && self.spec.entity.as_deref().is_none_or(|entity| entity == record.entity)
            && self.spec.since.is_none_or(|since| since <= timestamp)
            && self.spec.until.is_none_or(|until| timestamp <= until)
    }
}

/// The part of a cursor's slice that lies in a group.
fn group_range(cursor: &SealedCursor, group: usize) -> (u64, u64) {
    let group_from = (group * GROUP_EVENTS) as u64;
    let group_to = group_from + GROUP_EVENTS as u64;
    let from = group_from.saturating_sub(cursor.start).max(cursor.from);
    let to = (group_to - cursor.start).min(cursor.to);
    (from, to)
}

/// Finds a place's batch, which must be the tenant's, and its record in what was read. `Err`: how many record bytes to
/// read to find out more.
fn locate<'a>(place: &Place, tenant: Tenant, spans: &'a [Span]) -> Result<(RowAt, Record<'a>), u64> {
    let mut record_bytes = RECORD_GUESS_BYTES;
    // Later spans were read again: they know better.
    let batch_offset = u64::from(place.found.batch_offset);
    let record_offset = u64::from(place.found.record_offset);
    let mut batch = None;
    let mut record = None;
    for (span_index, span) in spans.iter().enumerate().rev() {
        if !is_of(span, &place.segment) {
            continue;
        }
        if batch.is_none()
            && let Some(bytes) = span.at(batch_offset)
        {
            batch = BatchView::parse(bytes).ok().filter(|batch| batch.tenant() == tenant);
        }
        if record.is_none()
            && let Some(bytes) = span.at(record_offset)
        {
            match Record::parse(bytes) {
                Ok(parsed) => record = Some((span_index, (record_offset - span.from) as usize, parsed)),
                Err(_) => record_bytes = record_bytes.max(claimed_bytes(bytes)),
            }
        }
    }
    let (Some(batch), Some((span, from, record))) = (batch, record) else { return Err(record_bytes) };
    let Some(event_index) = place.found.position.0.checked_sub(batch.first_position().0) else {
        return Err(record_bytes);
    };
    if event_index >= batch.event_count() as u64 {
        return Err(record_bytes);
    }
    let row = RowAt {
        position: place.found.position,
        version: Version(batch.version(event_index as usize)),
        received_at: batch.received_at(),
        span,
        from,
    };
    Ok((row, record))
}

/// How long a record says it is, within what a record can be.
fn claimed_bytes(bytes: &[u8]) -> u64 {
    let claimed = bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let longest = RECORD_HEADER_BYTES
        + crate::limits::TYPE_BYTES_MAX
        + crate::limits::ENTITY_BYTES_MAX
        + crate::limits::PAYLOAD_BYTES_MAX
        + crate::limits::METADATA_BYTES_MAX;
    u64::from(claimed).min(longest as u64)
}

fn is_of(span: &Span, segment: &SegmentFile) -> bool {
    span.file.is_same(&segment.file)
}

/// Covers byte ranges, one list entry `(place, from, to)` each, by few aligned reads.
fn spans_of(places: &[Place], mut ranges: Vec<(usize, u64, u64)>) -> Vec<Span> {
    ranges.sort_unstable_by_key(|&(place_index, from, to)| (places[place_index].segment.number, from, to));
    let mut spans: Vec<Span> = Vec::new();
    for (place_index, from, to) in ranges {
        let place = &places[place_index];
        let source = if place.is_sealed { ReadFrom::Cache } else { ReadFrom::Device };
        let span = span_of(&place.segment, from, to, source);
        if let Some(last) = spans.last_mut()
            && is_of(last, &place.segment)
            && span.from <= last.from + last.bytes + SPAN_GAP_BYTES
            && (span.from + span.bytes).saturating_sub(last.from) <= SPAN_BYTES_MAX
        {
            last.bytes = last.bytes.max(span.from + span.bytes - last.from);
            continue;
        }
        spans.push(span);
    }
    spans
}

fn span_of(segment: &SegmentFile, from: u64, to: u64, source: ReadFrom) -> Span {
    let aligned_from = from / ALIGNMENT as u64 * ALIGNMENT as u64;
    let aligned_to = to.next_multiple_of(ALIGNMENT as u64);
    Span {
        file: segment.file.clone(),
        from: aligned_from,
        bytes: aligned_to - aligned_from,
        source,
        buffer: None,
        filled: 0,
    }
}
