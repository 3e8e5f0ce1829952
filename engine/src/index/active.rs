//! The index of a segment that is not sealed: columns in arrival order and newest-first chains.
//!
//! ```text
//!   ordinal:      0    1    2    3  ...          one array each: timestamp, entity, batch and record offset, type, tenant, place
//!   chain:        -  ◄─┘    -  ◄─┘               previous event of the same entity / (tenant, type) / tenant
//! ```
//! Owned by the shard while it is written, shared unchanged once the segment is full. Nothing at or beyond `visible`
//! is shown to a reader: it may not be durable. Must never: read the disk.

use crate::event::EventBatch;
use crate::format::batch::head_bytes;
use crate::format::index::{IndexEvent, IndexIdentity, TenantSlice, encode_index, entity_filter_key};
use crate::format::key_run::KeyEntry;
use crate::format::record::record_type;
use crate::format::run::{RunEntry, encode_run, run_filter_key};
use crate::ids::{Micros, Position, Tenant, Version};
use crate::index::table::HashTable;
use crate::io::{FileMemory, huge_vec, prefetch};
use crate::query::{QuerySpec, TypeFilter};

/// No event: the end of a chain.
pub const NO_EVENT: u32 = u32::MAX;

/// What the index knows of one entity: enough to give the next version, and where its chain begins. Half a cache line, and
/// never parts of two: most events look one of them up at random.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct EntityEntry {
    fingerprint_low: u64,
    version: Version,
    fingerprint_high: u32,
    tenant: Tenant,
    last: u32,
}

const _: () = assert!(size_of::<EntityEntry>() == 32);

impl EntityEntry {
    /// 96 bits.
    fn fingerprint(&self) -> u128 {
        u128::from(self.fingerprint_high) << 64 | u128::from(self.fingerprint_low)
    }

    fn is(&self, tenant: Tenant, fingerprint: u128) -> bool {
        self.fingerprint_low == fingerprint as u64
            && self.fingerprint_high == (fingerprint >> 64) as u32
            && self.tenant == tenant
    }
}

#[derive(Debug, Clone, Copy)]
struct TenantEntry {
    tenant: Tenant,
    first_position: Position,
    next_position: Position,
    event_count: u32,
    last: u32,
    last_received_at: Micros,
    timestamp_min: i64,
    timestamp_max: i64,
}

#[derive(Debug)]
struct TypeEntry {
    hash: u64,
    text: Box<str>,
}

#[derive(Debug, Clone, Copy)]
struct TenantTypeEntry {
    tenant: Tenant,
    event_type: u32,
    last: u32,
}

/// Invariant: every column has `event_count` entries; `visible <= event_count`; chains point backwards only.
#[derive(Debug)]
pub struct ActiveIndex {
    visible: usize,
    timestamps: Vec<i64>,
    entities: Vec<u64>,
    batch_offsets: Vec<u32>,
    record_offsets: Vec<u32>,
    types: Vec<u32>,
    tenants: Vec<u32>,
    /// Position minus the tenant's first position in this segment.
    places: Vec<u32>,
    previous_of_entity: Vec<u32>,
    previous_of_type: Vec<u32>,
    previous_of_tenant: Vec<u32>,
    entity_entries: Vec<EntityEntry>,
    entity_table: HashTable,
    tenant_entries: Vec<TenantEntry>,
    tenant_table: HashTable,
    type_entries: Vec<TypeEntry>,
    type_table: HashTable,
    tenant_type_entries: Vec<TenantTypeEntry>,
    tenant_type_table: HashTable,
    /// Of the batches that have one, in their order, for the segment's key run.
    idempotency_keys: Vec<KeyEntry>,
    /// Some tenant's positions have a hole: the segment is damaged and cannot be sealed.
    has_gap: bool,
}

/// One match, as the index sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    pub position: Position,
    pub timestamp: Micros,
    pub batch_offset: u32,
    pub record_offset: u32,
}

/// A query's conditions in terms of one active index.
#[derive(Debug)]
pub struct ActiveFilter {
    tenant: Tenant,
    entity: Option<(u128, u64)>,
    since: i64,
    until: i64,
    types: TypeSet,
}

#[derive(Debug)]
enum TypeSet {
    Any,
    None,
    One(u32),
    /// One bit a type.
    Some(Vec<u64>),
}

impl TypeSet {
    fn contains(&self, event_type: u32) -> bool {
        match self {
            TypeSet::Any => true,
            TypeSet::None => false,
            TypeSet::One(one) => *one == event_type,
            TypeSet::Some(bits) => bits[event_type as usize / 64] >> (event_type % 64) & 1 == 1,
        }
    }
}

impl ActiveIndex {
    /// An empty index with room for `event_count_max` events in huge pages.
    pub fn new(event_count_max: usize) -> ActiveIndex {
        ActiveIndex {
            visible: 0,
            timestamps: huge_vec(event_count_max),
            entities: huge_vec(event_count_max),
            batch_offsets: huge_vec(event_count_max),
            record_offsets: huge_vec(event_count_max),
            types: huge_vec(event_count_max),
            tenants: huge_vec(event_count_max),
            places: huge_vec(event_count_max),
            previous_of_entity: huge_vec(event_count_max),
            previous_of_type: huge_vec(event_count_max),
            previous_of_tenant: huge_vec(event_count_max),
            entity_entries: huge_vec(event_count_max),
            entity_table: HashTable::new(),
            tenant_entries: Vec::new(),
            tenant_table: HashTable::new(),
            type_entries: Vec::new(),
            type_table: HashTable::new(),
            tenant_type_entries: Vec::new(),
            tenant_type_table: HashTable::new(),
            idempotency_keys: Vec::new(),
            has_gap: false,
        }
    }

    /// Empties the index for the next segment; its memory stays.
    pub fn clear(&mut self) {
        self.visible = 0;
        self.timestamps.clear();
        self.entities.clear();
        self.batch_offsets.clear();
        self.record_offsets.clear();
        self.types.clear();
        self.tenants.clear();
        self.places.clear();
        self.previous_of_entity.clear();
        self.previous_of_type.clear();
        self.previous_of_tenant.clear();
        self.entity_entries.clear();
        self.entity_table.clear();
        self.tenant_entries.clear();
        self.tenant_table.clear();
        self.type_entries.clear();
        self.type_table.clear();
        self.tenant_type_entries.clear();
        self.tenant_type_table.clear();
        // Most segments have few or none: this memory does not stay.
        self.idempotency_keys = Vec::new();
        self.has_gap = false;
    }

    pub fn event_count(&self) -> usize {
        self.timestamps.len()
    }

    pub fn has_gap(&self) -> bool {
        self.has_gap
    }

    /// What the segment's batches with an idempotency key are remembered by, in the order of admission.
    pub fn idempotency_keys(&self) -> &[KeyEntry] {
        &self.idempotency_keys
    }

    /// Everything before this ordinal may be shown.
    pub fn visible(&self) -> usize {
        self.visible
    }

    pub fn set_visible(&mut self, visible: usize) {
        assert!(self.visible <= visible);
        assert!(visible <= self.event_count());
        self.visible = visible;
    }

    /// The entity's entry, if it had an event or a look-up in this segment.
    pub fn find_entity(&self, tenant: Tenant, fingerprint: u128) -> Option<u32> {
        self.entity_table
            .find(fingerprint as u64, |number| self.entity_entries[number as usize].is(tenant, fingerprint))
    }

    /// Asks the memory for where the look-ups of a batch will begin: some time before `fetch_entities`. Changes nothing.
    pub fn fetch_places(&self, batch: &EventBatch) {
        batch.keys().iter().for_each(|key| self.entity_table.fetch(key.entity as u64));
    }

    /// Asks the memory for the entries that a batch will look up: some time before it does. Changes nothing.
    pub fn fetch_entities(&self, batch: &EventBatch) {
        for key in batch.keys() {
            if let Some(number) = self.entity_table.first_candidate(key.entity as u64) {
                prefetch(&self.entity_entries[number as usize]);
            }
        }
    }

    pub fn version(&self, number: u32) -> Version {
        self.entity_entries[number as usize].version
    }

    pub fn entity_count(&self) -> usize {
        self.entity_entries.len()
    }

    /// Adds an entity with the version that older segments know.
    pub fn insert_entity(&mut self, tenant: Tenant, fingerprint: u128, version: Version) -> u32 {
        let number = self.entity_entries.len() as u32;
        self.entity_entries.push(EntityEntry {
            fingerprint_low: fingerprint as u64,
            version,
            fingerprint_high: (fingerprint >> 64) as u32,
            tenant,
            last: NO_EVENT,
        });
        self.entity_table.insert(fingerprint as u64, number);
        number
    }

    /// The entity's number, with the version that one of its events in this segment has.
    pub fn restore_entity(&mut self, tenant: Tenant, fingerprint: u128, version: Version) -> u32 {
        match self.find_entity(tenant, fingerprint) {
            Some(number) => {
                let entry = &mut self.entity_entries[number as usize];
                entry.version = entry.version.max(version);
                number
            }
            None => self.insert_entity(tenant, fingerprint, version),
        }
    }

    /// Takes back every entity inserted since there were `count`.
    pub fn remove_entities_from(&mut self, count: usize) {
        while self.entity_entries.len() > count {
            let number = self.entity_entries.len() as u32 - 1;
            let entry = self.entity_entries[number as usize];
            assert!(entry.last == NO_EVENT);
            self.entity_table.remove(entry.fingerprint_low, number);
            self.entity_entries.pop();
        }
    }

    /// The next version of an entity, counted up.
    pub fn next_version(&mut self, number: u32) -> u64 {
        let entry = &mut self.entity_entries[number as usize];
        entry.version.0 += 1;
        entry.version.0
    }

    /// Takes back the last `next_version` of an entity.
    pub fn undo_version(&mut self, number: u32) {
        self.entity_entries[number as usize].version.0 -= 1;
    }

    /// Adds the events of a batch that has its place in the segment and its versions. `entity_numbers` are those of the
    /// batch's events.
    pub fn append(
        &mut self,
        batch: &EventBatch,
        entity_numbers: &[u32],
        batch_offset: u32,
        first_position: Position,
        received_at: Micros,
    ) {
        assert!(entity_numbers.len() == batch.event_count());
        if let Some(idempotency) = batch.idempotency() {
            self.idempotency_keys.push(KeyEntry::new(batch, idempotency, first_position, received_at));
        }
        let tenant = batch.tenant();
        let mut record_offset = batch_offset + head_bytes(batch.event_count()) as u32;
        let mut record_from = 0usize;
        let tenant_number = self.tenant_number(tenant, first_position);
        let tenant_entry = self.tenant_entries[tenant_number as usize];
        if tenant_entry.next_position != first_position {
            assert!(tenant_entry.next_position < first_position);
            self.has_gap = true;
        }
        let first_place = (first_position.0 - tenant_entry.first_position.0) as u32;
        let (first_ordinal, count) = (self.timestamps.len(), batch.event_count());
        // What does not depend on the event is added a column at a time.
        self.batch_offsets.resize(first_ordinal + count, batch_offset);
        self.tenants.resize(first_ordinal + count, tenant.0);
        self.places.extend(first_place..first_place + count as u32);
        self.entities.extend(batch.keys().iter().map(|key| key.entity as u64));
        self.timestamps.extend(batch.keys().iter().map(|key| key.timestamp.unwrap_or(received_at).0));
        let (mut timestamp_min, mut timestamp_max) = (tenant_entry.timestamp_min, tenant_entry.timestamp_max);
        for &timestamp in &self.timestamps[first_ordinal..] {
            timestamp_min = timestamp_min.min(timestamp);
            timestamp_max = timestamp_max.max(timestamp);
        }
        let mut last = tenant_entry.last;
        let mut last_type = None;
        for (ordinal, (key, &entity_number)) in (first_ordinal as u32..).zip(batch.keys().iter().zip(entity_numbers)) {
            let record = &batch.records()[record_from..record_from + key.record_bytes as usize];
            let (event_type, tenant_type) = self.type_of(tenant, key.event_type, record, last_type);
            last_type = Some((event_type, tenant_type));
            self.record_offsets.push(record_offset);
            self.types.push(event_type);
            let entity_last = &mut self.entity_entries[entity_number as usize].last;
            self.previous_of_entity.push(std::mem::replace(entity_last, ordinal));
            let type_last = &mut self.tenant_type_entries[tenant_type as usize].last;
            self.previous_of_type.push(std::mem::replace(type_last, ordinal));
            self.previous_of_tenant.push(std::mem::replace(&mut last, ordinal));
            record_offset += key.record_bytes;
            record_from += key.record_bytes as usize;
        }
        let entry = &mut self.tenant_entries[tenant_number as usize];
        entry.next_position = Position(first_position.0 + batch.event_count() as u64);
        entry.event_count += batch.event_count() as u32;
        entry.last = last;
        entry.last_received_at = received_at;
        entry.timestamp_min = timestamp_min;
        entry.timestamp_max = timestamp_max;
    }

    /// First position and the one after the last of a tenant in this segment, durable or not.
    pub fn tenant_positions(&self, tenant: Tenant) -> Option<(Position, Position)> {
        let number = self.find_tenant(tenant)?;
        let entry = &self.tenant_entries[number as usize];
        Some((entry.first_position, entry.next_position))
    }

    /// How many of a tenant's events here readers must not see yet. Costs a step for each: they are what is in flight.
    pub fn hidden_of_tenant(&self, tenant: Tenant) -> u64 {
        let last = self.find_tenant(tenant).map(|number| self.tenant_entries[number as usize].last);
        self.hidden_of_chain(last, &self.previous_of_tenant)
    }

    /// How many of an entity's events here readers must not see yet.
    pub fn hidden_of_entity(&self, tenant: Tenant, fingerprint: u128) -> u64 {
        let last = self.find_entity(tenant, fingerprint).map(|number| self.entity_entries[number as usize].last);
        self.hidden_of_chain(last, &self.previous_of_entity)
    }

    fn hidden_of_chain(&self, last: Option<u32>, chain: &[u32]) -> u64 {
        let mut hidden = 0;
        let mut at = last.unwrap_or(NO_EVENT);
        while at != NO_EVENT && at as usize >= self.visible {
            hidden += 1;
            at = chain[at as usize];
        }
        hidden
    }

    /// The query's conditions in this index's terms. Costs a walk over the types when it asks for a prefix.
    pub fn filter(&self, spec: &QuerySpec, entity: Option<u128>) -> ActiveFilter {
        let types = match &spec.event_type {
            None if spec.exclude_type_prefixes.is_empty() => TypeSet::Any,
            Some(TypeFilter::Exact(text)) if spec.exclude_type_prefixes.is_empty() => {
                match self.type_entries.iter().position(|entry| *entry.text == **text) {
                    Some(number) => TypeSet::One(number as u32),
                    None => TypeSet::None,
                }
            }
            _ => {
                let mut bits = vec![0u64; self.type_entries.len().div_ceil(64)];
                for (number, entry) in self.type_entries.iter().enumerate() {
                    if spec.matches_type(&entry.text) {
                        bits[number / 64] |= 1 << (number % 64);
                    }
                }
                TypeSet::Some(bits)
            }
        };
        ActiveFilter {
            tenant: spec.tenant,
            entity: entity.map(|fingerprint| (fingerprint, fingerprint as u64)),
            since: spec.since.map_or(i64::MIN, |at| at.0),
            until: spec.until.map_or(i64::MAX, |at| at.0),
            types,
        }
    }

    /// Matches in descending order from the newest visible one below `before`, at most `matches_max`, looking at no more than
    /// `visits_max` entries. Returns the position to go on before, or `None` when the segment has nothing older.
    pub fn search_down(
        &self,
        filter: &ActiveFilter,
        before: Position,
        matches_max: usize,
        visits_max: usize,
        out: &mut Vec<Match>,
    ) -> Option<Position> {
        let tenant_number = self.find_tenant(filter.tenant)?;
        let tenant_entry = &self.tenant_entries[tenant_number as usize];
        let first_position = tenant_entry.first_position;
        // The shortest chain that holds every match.
        let (mut at, chain) = match (&filter.entity, &filter.types) {
            (_, TypeSet::None) => return None,
            (Some((fingerprint, _)), _) => {
                let number = self.find_entity(filter.tenant, *fingerprint)?;
                (self.entity_entries[number as usize].last, &self.previous_of_entity)
            }
            (None, TypeSet::One(event_type)) => {
                let number = self.find_tenant_type(filter.tenant, *event_type)?;
                (self.tenant_type_entries[number as usize].last, &self.previous_of_type)
            }
            (None, _) => (tenant_entry.last, &self.previous_of_tenant),
        };
        let mut visits = 0;
        while at != NO_EVENT {
            let ordinal = at as usize;
            let position = Position(first_position.0 + u64::from(self.places[ordinal]));
            if visits == visits_max || out.len() >= matches_max {
                return Some(Position(position.0 + 1));
            }
            visits += 1;
            if ordinal < self.visible && position < before && self.matches(filter, ordinal) {
                out.push(self.match_at(ordinal, position));
            }
            at = chain[ordinal];
        }
        None
    }

    /// Matches in ascending order behind `after`, at most `matches_max`, looking at no more than `visits_max` entries from
    /// ordinal `from`. Returns the ordinal to go on from, or `None` when nothing visible is left.
    pub fn search_up(
        &self,
        filter: &ActiveFilter,
        after: Position,
        from: usize,
        matches_max: usize,
        visits_max: usize,
        out: &mut Vec<Match>,
    ) -> Option<usize> {
        let tenant_number = self.find_tenant(filter.tenant)?;
        let first_position = self.tenant_entries[tenant_number as usize].first_position;
        if matches!(filter.types, TypeSet::None) {
            return None;
        }
        let tenant = filter.tenant.0;
        let until = self.visible.min(from.saturating_add(visits_max));
        let mut ordinal = from;
        while ordinal < until {
            // The tenant column decides for most entries; this loop compiles to vector compares.
            const STRIDE: usize = 64;
            if ordinal + STRIDE <= until && self.tenants[ordinal..ordinal + STRIDE].iter().all(|&t| t != tenant) {
                ordinal += STRIDE;
                continue;
            }
            let stop = until.min(ordinal + STRIDE);
            while ordinal < stop {
                if self.tenants[ordinal] == tenant && self.matches(filter, ordinal) {
                    let position = Position(first_position.0 + u64::from(self.places[ordinal]));
                    if after < position {
                        if out.len() == matches_max {
                            return Some(ordinal);
                        }
                        out.push(self.match_at(ordinal, position));
                    }
                }
                ordinal += 1;
            }
        }
        if ordinal < self.visible { Some(ordinal) } else { None }
    }

    /// The index file of a full segment.
    pub fn seal<'m>(&self, identity: &IndexIdentity, memory: &'m mut FileMemory) -> &'m [u8] {
        assert!(!self.has_gap);
        assert!(self.visible == self.event_count());
        assert!(identity.has_key_run != self.idempotency_keys.is_empty());
        let mut order: Vec<u32> = (0..self.tenant_entries.len() as u32).collect();
        order.sort_unstable_by_key(|&number| self.tenant_entries[number as usize].tenant);
        let mut starts = vec![0u32; self.tenant_entries.len()];
        let mut slices = Vec::with_capacity(order.len());
        let mut start = 0;
        for &number in &order {
            let entry = &self.tenant_entries[number as usize];
            assert!(u64::from(entry.event_count) == entry.next_position.0 - entry.first_position.0);
            starts[number as usize] = start;
            slices.push(TenantSlice {
                tenant: entry.tenant,
                first_position: entry.first_position,
                event_count: entry.event_count,
                start,
                last_received_at: entry.last_received_at,
                timestamp_min: entry.timestamp_min,
                timestamp_max: entry.timestamp_max,
            });
            start += entry.event_count;
        }
        let mut type_order: Vec<u32> = (0..self.type_entries.len() as u32).collect();
        type_order.sort_unstable_by(|&a, &b| {
            self.type_entries[a as usize].text.as_bytes().cmp(self.type_entries[b as usize].text.as_bytes())
        });
        let mut type_rank = vec![0u32; self.type_entries.len()];
        for (rank, &number) in type_order.iter().enumerate() {
            type_rank[number as usize] = rank as u32;
        }
        let types: Vec<&str> = type_order.iter().map(|&number| &*self.type_entries[number as usize].text).collect();

        let mut keys: Vec<u64> =
            self.entities_with_events().map(|entry| entity_filter_key(entry.tenant, entry.fingerprint_low)).collect();
        let filter = crate::filter::build(&mut keys, identity.epoch);
        encode_index(memory, identity, &slices, &types, &filter, |groups| {
            // A counting sort: the place of an event among its tenant's is known already.
            let mut last_tenant = (u32::MAX, 0u32);
            for ordinal in 0..self.event_count() {
                let tenant = self.tenants[ordinal];
                if last_tenant.0 != tenant {
                    let number = self.find_tenant(Tenant(tenant)).expect("every event's tenant has an entry");
                    last_tenant = (tenant, starts[number as usize]);
                }
                groups.set(
                    (last_tenant.1 + self.places[ordinal]) as usize,
                    IndexEvent {
                        timestamp: self.timestamps[ordinal],
                        entity: self.entities[ordinal],
                        batch_offset: self.batch_offsets[ordinal],
                        record_offset: self.record_offsets[ordinal],
                        event_type: type_rank[self.types[ordinal] as usize],
                    },
                );
            }
        })
    }

    /// The run of the entity directory of a full segment.
    pub fn seal_run<'m>(&self, identity: &IndexIdentity, memory: &'m mut FileMemory) -> &'m [u8] {
        let mut last_tenant = (Tenant(u32::MAX), Position(0));
        let mut entries: Vec<RunEntry> = Vec::with_capacity(self.entity_count());
        for entry in self.entities_with_events() {
            if last_tenant.0 != entry.tenant || last_tenant.1 == Position(0) {
                let number = self.find_tenant(entry.tenant).expect("a tenant with events has an entry");
                last_tenant = (entry.tenant, self.tenant_entries[number as usize].first_position);
            }
            let position = Position(last_tenant.1.0 + u64::from(self.places[entry.last as usize]));
            entries.push(RunEntry::new(entry.tenant, entry.fingerprint(), entry.version, position));
        }
        entries.sort_unstable_by_key(RunEntry::key);
        let mut keys: Vec<u64> = entries.iter().map(|entry| run_filter_key(entry.key())).collect();
        let filter = crate::filter::build(&mut keys, identity.epoch);
        encode_run(memory, identity.shard, identity.segment_number, identity.segment_number, &entries, &filter)
    }

    fn entities_with_events(&self) -> impl Iterator<Item = &EntityEntry> {
        self.entity_entries.iter().filter(|entry| entry.last != NO_EVENT)
    }

    /// Last version of an entity, as far as this segment knows.
    pub fn last_version(&self, tenant: Tenant, fingerprint: u128) -> Option<Version> {
        Some(self.version(self.find_entity(tenant, fingerprint)?))
    }

    fn matches(&self, filter: &ActiveFilter, ordinal: usize) -> bool {
        filter.since <= self.timestamps[ordinal]
            && self.timestamps[ordinal] <= filter.until
            && filter.types.contains(self.types[ordinal])
            && filter.entity.is_none_or(|(_, low)| self.entities[ordinal] == low)
    }

    fn match_at(&self, ordinal: usize, position: Position) -> Match {
        Match {
            position,
            timestamp: Micros(self.timestamps[ordinal]),
            batch_offset: self.batch_offsets[ordinal],
            record_offset: self.record_offsets[ordinal],
        }
    }

    fn find_tenant(&self, tenant: Tenant) -> Option<u32> {
        self.tenant_table.find(u64::from(tenant.0), |number| self.tenant_entries[number as usize].tenant == tenant)
    }

    fn tenant_number(&mut self, tenant: Tenant, first_position: Position) -> u32 {
        if let Some(number) = self.find_tenant(tenant) {
            return number;
        }
        let number = self.tenant_entries.len() as u32;
        self.tenant_entries.push(TenantEntry {
            tenant,
            first_position,
            next_position: first_position,
            event_count: 0,
            last: NO_EVENT,
            last_received_at: Micros(i64::MIN),
            timestamp_min: i64::MAX,
            timestamp_max: i64::MIN,
        });
        self.tenant_table.insert(u64::from(tenant.0), number);
        number
    }

    /// The numbers of an event's type and of its tenant's events of that type. Those of the batch's last event are tried first.
    #[inline]
    fn type_of(&mut self, tenant: Tenant, hash: u64, record: &[u8], last: Option<(u32, u32)>) -> (u32, u32) {
        let text = record_type(record);
        if let Some(last) = last {
            let entry = &self.type_entries[last.0 as usize];
            if entry.hash == hash && entry.text.as_bytes() == text {
                return last;
            }
        }
        let event_type = self.type_number(hash, text);
        (event_type, self.tenant_type_number(tenant, event_type))
    }

    fn type_number(&mut self, hash: u64, text: &[u8]) -> u32 {
        let entries = &self.type_entries;
        let found = self.type_table.find(hash, |number| {
            let entry = &entries[number as usize];
            entry.hash == hash && entry.text.as_bytes() == text
        });
        if let Some(number) = found {
            return number;
        }
        let text = std::str::from_utf8(text)
            .expect("a record's type is UTF-8: it was encoded from a str, or checked when read");
        let number = self.type_entries.len() as u32;
        self.type_entries.push(TypeEntry { hash, text: text.into() });
        self.type_table.insert(hash, number);
        number
    }

    fn find_tenant_type(&self, tenant: Tenant, event_type: u32) -> Option<u32> {
        self.tenant_type_table.find(tenant_type_hash(tenant, event_type), |number| {
            let entry = &self.tenant_type_entries[number as usize];
            entry.tenant == tenant && entry.event_type == event_type
        })
    }

    fn tenant_type_number(&mut self, tenant: Tenant, event_type: u32) -> u32 {
        if let Some(number) = self.find_tenant_type(tenant, event_type) {
            return number;
        }
        let number = self.tenant_type_entries.len() as u32;
        self.tenant_type_entries.push(TenantTypeEntry { tenant, event_type, last: NO_EVENT });
        self.tenant_type_table.insert(tenant_type_hash(tenant, event_type), number);
        number
    }
}

fn tenant_type_hash(tenant: Tenant, event_type: u32) -> u64 {
    u64::from(tenant.0) << 32 | u64::from(event_type)
}
