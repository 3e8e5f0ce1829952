//! The sealed index of one full segment: where every event lies, clustered by tenant and then by position.
//!
//! ```text
//! | header page | tenants | types | type text | fences | entity filter | zeros to 4096 |   resident: mapped and populated
//! | group 0 | group 1 | ...                                                        |   columns of 1024 events each, read when asked
//! ```
//! Built in memory from the active index, written once, never changed.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::filter::FilterRef;
use crate::ids::{Micros, Position, Tenant};
use crate::io::{FileMemory, Map};
use crate::limits::ALIGNMENT;

pub const INDEX_MAGIC: [u8; 8] = *b"RLINDEX1";
pub const INDEX_VERSION: u16 = 1;
/// Some of the segment's batches have idempotency keys: a key run covers the segment.
pub const INDEX_FLAG_KEY_RUN: u16 = 0b0000_0001;
pub const INDEX_HEADER_BYTES: usize = 160;
/// Where the checksummed part of the header begins.
pub const INDEX_HEADER_CRC_FROM: usize = 12;
pub const INDEX_TENANT_BYTES: usize = 48;
pub const INDEX_TYPE_BYTES: usize = 8;
pub const INDEX_FENCE_BYTES: usize = 32;
/// Events whose columns are read together.
pub const GROUP_EVENTS: usize = 1024;
/// Columns of one group: timestamp 8, entity 8, batch offset 4, record offset 4, type 4, each as an array.
pub const GROUP_BYTES: usize = GROUP_EVENTS * 28;
const _: () = assert!(GROUP_BYTES.is_multiple_of(ALIGNMENT));

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexHeader {
    pub magic: [u8; 8],
    /// Over the rest of the header.
    pub header_crc: U32,
    pub version: U16,
    pub flags: U16,
    pub shard: U32,
    pub tenant_count: U32,
    pub type_count: U32,
    pub group_count: U32,
    pub event_count: U64,
    pub segment_number: U64,
    pub epoch: U64,
    /// Sequences of the segment's first and last block.
    pub first_sequence: U64,
    pub last_sequence: U64,
    /// Ordinal that the event after the segment's last one gets.
    pub next_ordinal: U64,
    /// Header checksum of the segment's last block.
    pub last_block_crc: U32,
    /// Over everything resident behind the header page.
    pub resident_crc: U32,
    pub timestamp_min: I64,
    pub timestamp_max: I64,
    pub tenants_offset: U64,
    pub types_offset: U64,
    pub type_text_offset: U64,
    pub fences_offset: U64,
    pub filter_offset: U64,
    pub filter_bytes: U64,
    /// Header page and resident sections; groups begin here.
    pub resident_bytes: U64,
}

const _: () = assert!(size_of::<IndexHeader>() == INDEX_HEADER_BYTES);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexTenant {
    pub tenant: U32,
    pub event_count: U32,
    /// Place of the tenant's first event in the clustered columns.
    pub start: U32,
    pub reserved: U32,
    pub first_position: U64,
    pub last_received_at: I64,
    pub timestamp_min: I64,
    pub timestamp_max: I64,
}

const _: () = assert!(size_of::<IndexTenant>() == INDEX_TENANT_BYTES);

/// One event type's text; types are sorted by it, so a prefix is a range of types.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexType {
    pub text_offset: U32,
    pub text_bytes: U32,
}

const _: () = assert!(size_of::<IndexType>() == INDEX_TYPE_BYTES);

/// What a group can contain, so that it is read only when it may matter.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexFence {
    pub timestamp_min: I64,
    pub timestamp_max: I64,
    pub type_min: U32,
    pub type_max: U32,
    /// Over the group's columns.
    pub group_crc: U32,
    pub reserved: U32,
}

const _: () = assert!(size_of::<IndexFence>() == INDEX_FENCE_BYTES);

/// Why bytes are not a sealed index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexError {
    Short,
    Magic,
    Crc,
    Version(u16),
    UnknownFlags(u16),
    /// Sections that overlap, leave the file, or disagree with the counts.
    Layout,
}

/// One event of a clustered index, for the builder.
#[derive(Debug, Clone, Copy)]
pub struct IndexEvent {
    pub timestamp: i64,
    pub entity: u64,
    pub batch_offset: u32,
    pub record_offset: u32,
    pub event_type: u32,
}

/// A tenant's share of a clustered index, for the builder: `event_count` events from `start`.
#[derive(Debug, Clone, Copy)]
pub struct TenantSlice {
    pub tenant: Tenant,
    pub first_position: Position,
    pub event_count: u32,
    pub start: u32,
    pub last_received_at: Micros,
    pub timestamp_min: i64,
    pub timestamp_max: i64,
}

/// What identifies the segment that an index is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexIdentity {
    pub shard: u32,
    pub segment_number: u64,
    pub epoch: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub next_ordinal: u64,
    pub last_block_crc: u32,
    /// Whether a key run covers the segment.
    pub has_key_run: bool,
}

/// Encodes a whole index file into `memory`. `tenants` is sorted by number, `types` by text; `filter` is a binary fuse filter
/// over `entity_filter_key`s. `fill` sets each event of the clustered columns once.
pub fn encode_index<'m>(
    memory: &'m mut FileMemory,
    identity: &IndexIdentity,
    tenants: &[TenantSlice],
    types: &[&str],
    filter: &[u8],
    fill: impl FnOnce(&mut Groups<'_>),
) -> &'m [u8] {
    let event_count: usize = tenants.iter().map(|slice| slice.event_count as usize).sum();
    let group_count = event_count.div_ceil(GROUP_EVENTS);
    let type_text_bytes: usize = types.iter().map(|text| text.len()).sum();
    let tenants_offset = ALIGNMENT;
    let types_offset = tenants_offset + tenants.len() * INDEX_TENANT_BYTES;
    let type_text_offset = types_offset + types.len() * INDEX_TYPE_BYTES;
    let fences_offset = type_text_offset + type_text_bytes;
    let filter_offset = fences_offset + group_count * INDEX_FENCE_BYTES;
    let resident_bytes = (filter_offset + filter.len()).next_multiple_of(ALIGNMENT);
    let file = memory.take(resident_bytes + group_count * GROUP_BYTES);
    let (resident, groups) = file.split_at_mut(resident_bytes);

    let groups = <[Group]>::mut_from_bytes(groups).expect("as many bytes as the groups have");
    if let Some(last) = groups.last_mut() {
        last.as_mut_bytes().fill(0);
    }
    let mut groups = Groups { groups, event_count };
    fill(&mut groups);

    resident[..ALIGNMENT].fill(0);
    let mut out = Cursor { bytes: resident, at: ALIGNMENT };
    for slice in tenants {
        let entry = IndexTenant {
            tenant: U32::new(slice.tenant.0),
            event_count: U32::new(slice.event_count),
            start: U32::new(slice.start),
            reserved: U32::new(0),
            first_position: U64::new(slice.first_position.0),
            last_received_at: I64::new(slice.last_received_at.0),
            timestamp_min: I64::new(slice.timestamp_min),
            timestamp_max: I64::new(slice.timestamp_max),
        };
        out.put(entry.as_bytes());
    }
    let mut text_offset = 0u32;
    for text in types {
        let entry = IndexType { text_offset: U32::new(text_offset), text_bytes: U32::new(text.len() as u32) };
        out.put(entry.as_bytes());
        text_offset += text.len() as u32;
    }
    types.iter().for_each(|text| out.put(text.as_bytes()));
    (0..group_count).for_each(|group| out.put(groups.fence(group).as_bytes()));
    out.put(filter);
    let filled = out.at;
    resident[filled..].fill(0);

    let mut header = IndexHeader {
        magic: INDEX_MAGIC,
        header_crc: U32::new(0),
        version: U16::new(INDEX_VERSION),
        flags: U16::new(if identity.has_key_run { INDEX_FLAG_KEY_RUN } else { 0 }),
        shard: U32::new(identity.shard),
        tenant_count: U32::new(tenants.len() as u32),
        type_count: U32::new(types.len() as u32),
        group_count: U32::new(group_count as u32),
        event_count: U64::new(event_count as u64),
        segment_number: U64::new(identity.segment_number),
        epoch: U64::new(identity.epoch),
        first_sequence: U64::new(identity.first_sequence),
        last_sequence: U64::new(identity.last_sequence),
        next_ordinal: U64::new(identity.next_ordinal),
        last_block_crc: U32::new(identity.last_block_crc),
        resident_crc: U32::new(crc32fast::hash(&resident[ALIGNMENT..])),
        timestamp_min: I64::new(tenants.iter().map(|slice| slice.timestamp_min).min().unwrap_or(0)),
        timestamp_max: I64::new(tenants.iter().map(|slice| slice.timestamp_max).max().unwrap_or(0)),
        tenants_offset: U64::new(tenants_offset as u64),
        types_offset: U64::new(types_offset as u64),
        type_text_offset: U64::new(type_text_offset as u64),
        fences_offset: U64::new(fences_offset as u64),
        filter_offset: U64::new(filter_offset as u64),
        filter_bytes: U64::new(filter.len() as u64),
        resident_bytes: U64::new(resident_bytes as u64),
    };
    header.header_crc = U32::new(crc32fast::hash(&header.as_bytes()[INDEX_HEADER_CRC_FROM..]));
    resident[..INDEX_HEADER_BYTES].copy_from_slice(header.as_bytes());
    file
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, piece: &[u8]) {
        self.bytes[self.at..self.at + piece.len()].copy_from_slice(piece);
        self.at += piece.len();
    }
}

/// The columns of one group, as they lie in the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Group {
    timestamps: [I64; GROUP_EVENTS],
    entities: [U64; GROUP_EVENTS],
    batch_offsets: [U32; GROUP_EVENTS],
    record_offsets: [U32; GROUP_EVENTS],
    types: [U32; GROUP_EVENTS],
}

const _: () = assert!(size_of::<Group>() == GROUP_BYTES);

/// The clustered columns of an index that is being encoded.
pub struct Groups<'a> {
    groups: &'a mut [Group],
    event_count: usize,
}

impl Groups<'_> {
    /// Sets the event at a place: `start` of its tenant's slice and on.
    #[inline]
    pub fn set(&mut self, place: usize, event: IndexEvent) {
        let group = &mut self.groups[place / GROUP_EVENTS];
        let row = place % GROUP_EVENTS;
        group.timestamps[row] = I64::new(event.timestamp);
        group.entities[row] = U64::new(event.entity);
        group.batch_offsets[row] = U32::new(event.batch_offset);
        group.record_offsets[row] = U32::new(event.record_offset);
        group.types[row] = U32::new(event.event_type);
    }

    fn fence(&self, number: usize) -> IndexFence {
        let group = &self.groups[number];
        let rows = (self.event_count - number * GROUP_EVENTS).min(GROUP_EVENTS);
        let times = || group.timestamps[..rows].iter().map(|at| at.get());
        let types = || group.types[..rows].iter().map(|event_type| event_type.get());
        IndexFence {
            timestamp_min: I64::new(times().min().unwrap_or(0)),
            timestamp_max: I64::new(times().max().unwrap_or(0)),
            type_min: U32::new(types().min().unwrap_or(0)),
            type_max: U32::new(types().max().unwrap_or(0)),
            group_crc: U32::new(crc32fast::hash(group.as_bytes())),
            reserved: U32::new(0),
        }
    }
}

/// The columns of one group, as they were read and checked.
#[derive(Debug, Clone, Copy)]
pub struct GroupColumns<'a> {
    pub timestamps: &'a [I64],
    pub entities: &'a [U64],
    pub batch_offsets: &'a [U32],
    pub record_offsets: &'a [U32],
    pub types: &'a [U32],
}

/// Splits a group's bytes into its columns. `None` if they are not `GROUP_BYTES` long or not what the fence says.
pub fn group_columns<'a>(bytes: &'a [u8], fence: &IndexFence) -> Option<GroupColumns<'a>> {
    if bytes.len() != GROUP_BYTES || crc32fast::hash(bytes) != fence.group_crc.get() {
        return None;
    }
    let (timestamps, rest) = <[I64]>::ref_from_prefix_with_elems(bytes, GROUP_EVENTS).ok()?;
    let (entities, rest) = <[U64]>::ref_from_prefix_with_elems(rest, GROUP_EVENTS).ok()?;
    let (batch_offsets, rest) = <[U32]>::ref_from_prefix_with_elems(rest, GROUP_EVENTS).ok()?;
    let (record_offsets, rest) = <[U32]>::ref_from_prefix_with_elems(rest, GROUP_EVENTS).ok()?;
    let (types, _) = <[U32]>::ref_from_prefix_with_elems(rest, GROUP_EVENTS).ok()?;
    Some(GroupColumns { timestamps, entities, batch_offsets, record_offsets, types })
}

/// The key that an entity has in a segment's filter. 64 of the fingerprint's 96 bits, mixed with the tenant.
pub fn entity_filter_key(tenant: Tenant, entity: u64) -> u64 {
    entity ^ u64::from(tenant.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The resident part of a sealed index, checked once and mapped.
#[derive(Debug)]
pub struct IndexResident {
    map: Map,
    header: IndexHeader,
}

impl IndexResident {
    /// How much of the file `open` wants mapped, from its first page.
    pub fn resident_bytes(page: &[u8]) -> Result<u64, IndexError> {
        let (header, _) = IndexHeader::read_from_prefix(page).map_err(|_| IndexError::Short)?;
        if header.magic != INDEX_MAGIC {
            return Err(IndexError::Magic);
        }
        if crc32fast::hash(&page[INDEX_HEADER_CRC_FROM..INDEX_HEADER_BYTES]) != header.header_crc.get() {
            return Err(IndexError::Crc);
        }
        if header.version.get() != INDEX_VERSION {
            return Err(IndexError::Version(header.version.get()));
        }
        if header.flags.get() & !INDEX_FLAG_KEY_RUN != 0 {
            return Err(IndexError::UnknownFlags(header.flags.get()));
        }
        Ok(header.resident_bytes.get())
    }

    /// Checks a mapping of the resident bytes of a file of `file_bytes`.
    pub fn open(map: Map, file_bytes: u64) -> Result<IndexResident, IndexError> {
        let resident_bytes = IndexResident::resident_bytes(&map)?;
        let (header, _) = IndexHeader::read_from_prefix(&map).map_err(|_| IndexError::Short)?;
        if map.len() as u64 != resident_bytes || resident_bytes < ALIGNMENT as u64 {
            return Err(IndexError::Short);
        }
        let groups_bytes = u64::from(header.group_count.get()) * GROUP_BYTES as u64;
        if resident_bytes.checked_add(groups_bytes) != Some(file_bytes) {
            return Err(IndexError::Layout);
        }
        let event_count = header.event_count.get();
        if event_count.div_ceil(GROUP_EVENTS as u64) != u64::from(header.group_count.get()) {
            return Err(IndexError::Layout);
        }
        // The log goes on behind the segment: its last block has a successor.
        if header.last_sequence.get() == u64::MAX {
            return Err(IndexError::Layout);
        }
        if crc32fast::hash(&map[ALIGNMENT..]) != header.resident_crc.get() {
            return Err(IndexError::Crc);
        }
        let resident = IndexResident { map, header };
        let tenants = resident.try_tenants().ok_or(IndexError::Layout)?;
        let mut start = 0u64;
        for tenant in tenants {
            if u64::from(tenant.start.get()) != start {
                return Err(IndexError::Layout);
            }
            start += u64::from(tenant.event_count.get());
        }
        let sorted = tenants.windows(2).all(|pair| pair[0].tenant.get() < pair[1].tenant.get());
        let types = resident.try_types().ok_or(IndexError::Layout)?;
        let text_bytes = resident.type_text().ok_or(IndexError::Layout)?.len() as u64;
        let texts_fit = types
            .iter()
            .all(|entry| u64::from(entry.text_offset.get()) + u64::from(entry.text_bytes.get()) <= text_bytes);
        let fences = resident.try_fences().is_some();
        let filter = resident.filter_bytes().and_then(FilterRef::parse).is_some();
        if start != event_count || !sorted || !texts_fit || !fences || !filter {
            return Err(IndexError::Layout);
        }
        Ok(resident)
    }

    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    pub fn identity(&self) -> IndexIdentity {
        IndexIdentity {
            shard: self.header.shard.get(),
            segment_number: self.header.segment_number.get(),
            epoch: self.header.epoch.get(),
            first_sequence: self.header.first_sequence.get(),
            last_sequence: self.header.last_sequence.get(),
            next_ordinal: self.header.next_ordinal.get(),
            last_block_crc: self.header.last_block_crc.get(),
            has_key_run: self.header.flags.get() & INDEX_FLAG_KEY_RUN != 0,
        }
    }

    pub fn event_count(&self) -> u64 {
        self.header.event_count.get()
    }

    /// Bytes of memory that stay mapped and populated.
    pub fn mapped_bytes(&self) -> usize {
        self.map.len()
    }

    pub fn tenants(&self) -> &[IndexTenant] {
        self.try_tenants().expect("checked at open")
    }

    pub fn tenant(&self, tenant: Tenant) -> Option<&IndexTenant> {
        let tenants = self.tenants();
        tenants.binary_search_by_key(&tenant.0, |entry| entry.tenant.get()).ok().map(|place| &tenants[place])
    }

    pub fn fences(&self) -> &[IndexFence] {
        self.try_fences().expect("checked at open")
    }

    /// Where a group's columns lie in the file.
    pub fn group_offset(&self, group: usize) -> u64 {
        self.header.resident_bytes.get() + (group * GROUP_BYTES) as u64
    }

    pub fn may_contain_entity(&self, tenant: Tenant, entity: u64) -> bool {
        let filter = self.filter_bytes().and_then(FilterRef::parse).expect("checked at open");
        filter.may_contain(entity_filter_key(tenant, entity))
    }

    /// The types that satisfy `keep`'s order: the half-open range of sorted types for which `below` is false and `above` is false.
    pub fn type_range(&self, below: impl Fn(&[u8]) -> bool, above: impl Fn(&[u8]) -> bool) -> (u32, u32) {
        let types = self.try_types().expect("checked at open");
        let text = self.type_text().expect("checked at open");
        let text_of = |entry: &IndexType| {
            let from = entry.text_offset.get() as usize;
            &text[from..from + entry.text_bytes.get() as usize]
        };
        let from = types.partition_point(|entry| below(text_of(entry)));
        let to = types.partition_point(|entry| !above(text_of(entry)));
        (from as u32, to.max(from) as u32)
    }

    fn section(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let to = offset.checked_add(bytes)?;
        if offset < ALIGNMENT as u64 || to > self.map.len() as u64 {
            return None;
        }
        Some(&self.map[offset as usize..to as usize])
    }

    fn try_tenants(&self) -> Option<&[IndexTenant]> {
        let bytes = u64::from(self.header.tenant_count.get()) * INDEX_TENANT_BYTES as u64;
        <[IndexTenant]>::ref_from_bytes(self.section(self.header.tenants_offset.get(), bytes)?).ok()
    }

    fn try_types(&self) -> Option<&[IndexType]> {
        let bytes = u64::from(self.header.type_count.get()) * INDEX_TYPE_BYTES as u64;
        <[IndexType]>::ref_from_bytes(self.section(self.header.types_offset.get(), bytes)?).ok()
    }

    fn type_text(&self) -> Option<&[u8]> {
        let from = self.header.type_text_offset.get();
        self.section(from, self.header.fences_offset.get().checked_sub(from)?)
    }

    fn try_fences(&self) -> Option<&[IndexFence]> {
        let bytes = u64::from(self.header.group_count.get()) * INDEX_FENCE_BYTES as u64;
        <[IndexFence]>::ref_from_bytes(self.section(self.header.fences_offset.get(), bytes)?).ok()
    }

    fn filter_bytes(&self) -> Option<&[u8]> {
        self.section(self.header.filter_offset.get(), self.header.filter_bytes.get())
    }
}
