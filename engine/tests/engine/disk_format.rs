//! `docs/disk-format.md` says what the code does: every field of every struct on disk, its offset and its width.

use std::mem::offset_of;

use ringlog_engine::format::batch::BatchHeader;
use ringlog_engine::format::block::BlockHeader;
use ringlog_engine::format::checkpoint::CheckpointEntry;
use ringlog_engine::format::index::{GROUP_BYTES, GROUP_EVENTS, IndexFence, IndexHeader, IndexTenant, IndexType};
use ringlog_engine::format::key_run::{KeyEntry, KeyRunHeader};
use ringlog_engine::format::record::RecordHeader;
use ringlog_engine::format::run::{RunEntry, RunHeader};
use ringlog_engine::format::segment::{RewrittenHeader, SegmentHeader};
use ringlog_engine::format::superblock::Superblock;

/// One row of a byte table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    offset: usize,
    bytes: usize,
    name: String,
}

/// A struct's fields as the compiler lays them out. Naming all of them is checked by the compiler, too.
macro_rules! layout {
    ($layout:ident { $($field:ident),+ $(,)? }) => {{
        fn every_field_is_named(whole: $layout) {
            let $layout { $($field: _),+ } = whole;
        }
        let _ = every_field_is_named;
        let offsets = [$((stringify!($field), offset_of!($layout, $field))),+];
        (stringify!($layout), fields(&offsets, size_of::<$layout>()))
    }};
}

/// Every field ends where the next one begins: the structs have no padding.
fn fields(offsets: &[(&str, usize)], total_bytes: usize) -> Vec<Field> {
    let ends = offsets.iter().skip(1).map(|&(_, offset)| offset).chain([total_bytes]);
    offsets
        .iter()
        .zip(ends)
        .map(|(&(name, offset), end)| Field { offset, bytes: end - offset, name: name.to_owned() })
        .collect()
}

fn code() -> Vec<(&'static str, Vec<Field>)> {
    vec![
        layout!(Superblock {
            magic,
            crc,
            version,
            flags,
            instance,
            id_key,
            fingerprint_seed,
            segment_bytes,
            shard_count,
            reserved,
            created_at,
        }),
        layout!(SegmentHeader {
            magic,
            header_crc,
            version,
            flags,
            shard,
            reserved,
            number,
            epoch,
            segment_bytes,
            created_at,
            instance,
            reserved_instance,
        }),
        layout!(RewrittenHeader { crc, last_block_crc, blocks_to, last_sequence, next_ordinal, reserved }),
        layout!(BlockHeader {
            magic,
            header_crc,
            version,
            kind,
            flags,
            epoch,
            sequence,
            segment_offset,
            durable_sequence,
            first_ordinal,
            shard,
            previous_crc,
            body_bytes,
            body_crc,
            batch_count,
            event_count,
            segment_number,
            reserved,
        }),
        layout!(BatchHeader {
            header_crc,
            batch_bytes,
            tenant,
            event_count,
            first_position,
            received_at,
            records_bytes,
            source,
            flags,
            reserved_source,
            idempotency_hash,
            body_hash,
            reserved,
        }),
        layout!(RecordHeader {
            record_bytes,
            crc,
            kind,
            flags,
            type_bytes,
            entity_bytes,
            reserved,
            payload_bytes,
            metadata_bytes,
            timestamp,
        }),
        layout!(CheckpointEntry {
            tenant,
            reserved_tenant,
            next_position,
            last_received_at,
            month_events,
            month_bytes,
            stored_bytes,
            reserved,
        }),
        layout!(IndexHeader {
            magic,
            header_crc,
            version,
            flags,
            shard,
            tenant_count,
            type_count,
            group_count,
            event_count,
            segment_number,
            epoch,
            first_sequence,
            last_sequence,
            next_ordinal,
            last_block_crc,
            resident_crc,
            timestamp_min,
            timestamp_max,
            tenants_offset,
            types_offset,
            type_text_offset,
            fences_offset,
            filter_offset,
            filter_bytes,
            resident_bytes,
        }),
        layout!(IndexTenant {
            tenant,
            event_count,
            start,
            reserved,
            first_position,
            last_received_at,
            timestamp_min,
            timestamp_max,
        }),
        layout!(IndexType { text_offset, text_bytes }),
        layout!(IndexFence { timestamp_min, timestamp_max, type_min, type_max, group_crc, reserved }),
        layout!(RunHeader {
            magic,
            header_crc,
            version,
            flags,
            shard,
            body_crc,
            segment_from,
            segment_to,
            entry_count,
            filter_bytes,
            entries_offset,
            reserved,
        }),
        layout!(RunEntry { tenant, fingerprint_high, fingerprint_low, version, position }),
        layout!(KeyRunHeader {
            magic,
            header_crc,
            version,
            flags,
            shard,
            body_crc,
            segment_from,
            segment_to,
            entry_count,
            reserved,
        }),
        layout!(KeyEntry {
            tenant,
            event_count,
            first_position,
            received_at,
            first_version,
            idempotency_hash,
            body_hash,
        }),
        ("GroupColumns", group_columns()),
    ]
}

/// The columns of a group are arrays, not a struct.
fn group_columns() -> Vec<Field> {
    let widths = [("timestamps", 8), ("entities", 8), ("batch_offsets", 4), ("record_offsets", 4), ("types", 4)];
    let mut offset = 0;
    let mut columns = Vec::new();
    for (name, width) in widths {
        columns.push((name, offset));
        offset += width * GROUP_EVENTS;
    }
    fields(&columns, GROUP_BYTES)
}

/// The byte table under the heading that names a struct.
fn documented(text: &str, layout: &str) -> Vec<Field> {
    let mut rows = Vec::new();
    let mut is_here = false;
    let mut is_table = false;
    for line in text.lines() {
        if line.starts_with('#') {
            let words = line.split(|at: char| !at.is_alphanumeric());
            is_here = words.into_iter().any(|word| word == layout);
            is_table = false;
        }
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if is_here && cells == ["offset", "bytes", "field", "meaning"] {
            is_table = true;
        } else if is_here && is_table && line.starts_with('|') && !line.starts_with("|-") {
            let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{layout}: no number in {line}"));
            assert_eq!(cells.len(), 4, "{layout}: {line}");
            let name = cells[2].trim_matches('`').to_owned();
            rows.push(Field { offset: number(cells[0]), bytes: number(cells[1]), name });
        } else if !line.starts_with('|') {
            is_table = false;
        }
    }
    rows
}

#[test]
fn every_byte_table_of_the_document_is_what_the_code_lays_out() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/disk-format.md");
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("docs/disk-format.md must describe the format that the code writes: {error}"));
    for (layout, fields) in code() {
        let rows = documented(&text, layout);
        assert!(!rows.is_empty(), "no table `| offset | bytes | field | meaning |` under a heading with {layout}");
        for (row, field) in rows.iter().zip(&fields) {
            assert_eq!(row, field, "{layout}: the document is on the left, the code on the right");
        }
        assert_eq!(rows.len(), fields.len(), "{layout}: number of fields");
    }
}
