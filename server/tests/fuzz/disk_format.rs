//! The engine's readers of its own files. Checksums are mended, so that what they stand in front of is reached as well.
//!
//! The first byte of an input says which reader it is for.

use std::mem::offset_of;

use ringlog_engine::filter::FilterRef;
use ringlog_engine::format::batch::{
    BATCH_HEADER_BYTES, BATCH_HEADER_CRC_FROM, BATCH_VERSION_BYTES, BatchHeader, BatchView,
};
use ringlog_engine::format::block::{BLOCK_HEADER_BYTES, BLOCK_HEADER_CRC_FROM, BlockHeader, BlockKind, BlockPlace};
use ringlog_engine::format::checkpoint::checkpoint_entries;
use ringlog_engine::format::index::{
    GROUP_BYTES, INDEX_HEADER_BYTES, INDEX_HEADER_CRC_FROM, IndexHeader, IndexResident, group_columns,
};
use ringlog_engine::format::key_run::{KEY_RUN_HEADER_BYTES, KEY_RUN_HEADER_CRC_FROM, KeyRunHeader, KeyRunView};
use ringlog_engine::format::record::{RECORD_CRC_FROM, Record, RecordHeader};
use ringlog_engine::format::run::{RUN_HEADER_BYTES, RUN_HEADER_CRC_FROM, RunHeader, RunView};
use ringlog_engine::format::scan::SegmentBytes;
use ringlog_engine::format::segment::{
    REWRITTEN_HEADER_BYTES, REWRITTEN_HEADER_CRC_FROM, RewrittenHeader, SEGMENT_FLAG_REWRITTEN, SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_CRC_FROM, SegmentHeader,
};
use ringlog_engine::format::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_CRC_FROM, Superblock};
use ringlog_engine::ids::{SegmentNumber, Tenant};
use ringlog_engine::io::Map;
use ringlog_engine::limits::ALIGNMENT;

use crate::run::{Target, mark, size};

pub const DISK_FORMAT: Target = Target {
    name: "disk_format",
    corpus,
    words: &[b"RLBLOCK1", b"RLINDEX1", b"\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\0\x10\0\0\0\0\0\0"],
    mend,
    checker: || Box::new(check),
};

/// Files of `engine/tests/data/v1/encoders`, in the order of their readers' numbers.
const GOLDEN: [&str; 9] = [
    "record.bin",
    "batch.bin",
    "block.bin",
    "segment_header.bin",
    "../directory/superblock",
    "index.bin",
    "run.bin",
    "key_run.bin",
    "filter.bin",
];
const CHECKPOINT: u8 = GOLDEN.len() as u8;
const READERS: u8 = CHECKPOINT + 1;

fn corpus() -> Vec<Vec<u8>> {
    let read = |name: &str| {
        std::fs::read(format!("{}/../engine/tests/data/v1/encoders/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let mut corpus: Vec<_> =
        GOLDEN.iter().zip(0..).map(|(name, reader)| [&[reader], &read(name)[..]].concat()).collect();
    corpus.push([&[1], &read("keyed_batch.bin")[..]].concat());
    corpus.push([&[3], &read("rewritten_header.bin")[..]].concat());
    corpus.push([&[CHECKPOINT], &[7; 128][..]].concat());
    for input in &corpus {
        let mut mended = input.clone();
        mend(&mut mended);
        assert_eq!(&mended, input, "a golden file's checksums are right");
    }
    corpus
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

/// Writes the checksum of `from..to` to `at`.
fn put_crc(bytes: &mut [u8], at: usize, from: usize, to: usize) -> Option<()> {
    let mut crc = flate2::Crc::new();
    crc.update(bytes.get(from..to)?);
    bytes.get_mut(at..at + 4)?.copy_from_slice(&crc.sum().to_le_bytes());
    Some(())
}

fn mend(input: &mut [u8]) {
    // What is too short has no checksums.
    let _ = try_mend(input);
}

fn try_mend(input: &mut [u8]) -> Option<()> {
    let (reader, bytes) = input.split_first_mut()?;
    let all = bytes.len();
    match *reader % READERS {
        0 => {
            let mut at = 0;
            while let Some(record_bytes) = u32_at(bytes, at) {
                let record = bytes.get_mut(at..at + record_bytes)?;
                put_crc(record, offset_of!(RecordHeader, crc), RECORD_CRC_FROM, record_bytes)?;
                at += record_bytes.max(1);
            }
        }
        1 => {
            let events = u32_at(bytes, offset_of!(BatchHeader, event_count))?;
            let head = BATCH_HEADER_BYTES + events * BATCH_VERSION_BYTES;
            put_crc(bytes, offset_of!(BatchHeader, header_crc), BATCH_HEADER_CRC_FROM, head)?;
        }
        2 => {
            let body = u32_at(bytes, offset_of!(BlockHeader, body_bytes))?;
            // The header is right even where the body is not all there.
            let _ = put_crc(bytes, offset_of!(BlockHeader, body_crc), BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + body);
            put_crc(bytes, offset_of!(BlockHeader, header_crc), BLOCK_HEADER_CRC_FROM, BLOCK_HEADER_BYTES)?;
        }
        3 => {
            put_crc(bytes, offset_of!(SegmentHeader, header_crc), SEGMENT_HEADER_CRC_FROM, SEGMENT_HEADER_BYTES)?;
            if u16::from(*bytes.get(offset_of!(SegmentHeader, flags))?) & SEGMENT_FLAG_REWRITTEN != 0 {
                let rewritten = bytes.get_mut(SEGMENT_HEADER_BYTES..)?;
                put_crc(rewritten, 0, REWRITTEN_HEADER_CRC_FROM, REWRITTEN_HEADER_BYTES)?;
            }
        }
        4 => put_crc(bytes, offset_of!(Superblock, crc), SUPERBLOCK_CRC_FROM, SUPERBLOCK_BYTES)?,
        5 => {
            let resident = u32_at(bytes, offset_of!(IndexHeader, resident_bytes))?.min(all);
            put_crc(bytes, offset_of!(IndexHeader, resident_crc), ALIGNMENT, resident)?;
            put_crc(bytes, offset_of!(IndexHeader, header_crc), INDEX_HEADER_CRC_FROM, INDEX_HEADER_BYTES)?;
        }
        6 => {
            put_crc(bytes, offset_of!(RunHeader, body_crc), ALIGNMENT, all)?;
            put_crc(bytes, offset_of!(RunHeader, header_crc), RUN_HEADER_CRC_FROM, RUN_HEADER_BYTES)?;
        }
        7 => {
            put_crc(bytes, offset_of!(KeyRunHeader, body_crc), ALIGNMENT, all)?;
            put_crc(bytes, offset_of!(KeyRunHeader, header_crc), KEY_RUN_HEADER_CRC_FROM, KEY_RUN_HEADER_BYTES)?;
        }
        _ => {}
    }
    Some(())
}

fn check(input: &[u8]) -> u64 {
    let Some((&reader, bytes)) = input.split_first() else { return 0 };
    let reader = reader % READERS;
    let what = match reader {
        0 => records(bytes),
        1 => batch(bytes),
        2 => block(bytes),
        3 => segment(bytes),
        4 => mark(Superblock::parse(bytes).map(|_| ()).map_err(debug)),
        5 => index(bytes),
        6 => run(bytes),
        7 => key_run(bytes),
        8 => filter(bytes),
        _ => mark(checkpoint_entries(bytes).map(|entries| size(entries.len()))),
    };
    mark((reader, what))
}

/// Of a file as long as its header says.
fn segment(bytes: &[u8]) -> u64 {
    let rewritten = RewrittenHeader::parse(bytes).map_err(debug);
    let file_bytes = rewritten.as_ref().map_or(65536, |header| header.blocks_to.get());
    let parse = |file_bytes| SegmentHeader::parse(bytes, 1, SegmentNumber(7), file_bytes, *b"golden-instance!");
    let header = parse(file_bytes).or_else(|_| parse(65536));
    if let Ok(header) = &header {
        assert!(file_bytes <= header.segment_bytes.get() || !header.is_rewritten());
    }
    mark((header.map(|header| header.is_rewritten()).map_err(debug), rewritten.is_ok()))
}

fn debug(error: impl std::fmt::Debug) -> String {
    format!("{error:?}").split('(').next().unwrap().to_owned()
}

fn records(bytes: &[u8]) -> u64 {
    let (mut rest, mut count) = (bytes, 0);
    loop {
        match Record::parse(rest) {
            Ok(record) => {
                let strings =
                    record.event_type.len() + record.entity.len() + record.payload.len() + record.metadata.len();
                assert!(strings < record.record_bytes && record.record_bytes <= rest.len());
                rest = &rest[record.record_bytes..];
                count += 1;
            }
            Err(error) => return mark((count, debug(error))),
        }
    }
}

fn batch(bytes: &[u8]) -> u64 {
    match BatchView::parse(bytes) {
        Ok(view) => {
            assert!(view.event_count() > 0);
            assert!(view.head_bytes() <= view.batch_bytes() && view.head_bytes() <= bytes.len());
            let versions: Vec<_> = (0..view.event_count()).map(|index| view.version(index)).collect();
            let records = bytes.get(view.head_bytes()..view.batch_bytes()).map(records);
            mark((view.idempotency().is_some(), versions.len(), records))
        }
        Err(error) => mark(debug(error)),
    }
}

fn block(bytes: &[u8]) -> u64 {
    let place = BlockPlace { shard: 3, segment: SegmentNumber(9), epoch: 0xE90C, offset: 8192, segment_bytes: 65536 };
    let segment = SegmentBytes {
        shard: place.shard,
        number: place.segment,
        epoch: place.epoch,
        segment_bytes: place.segment_bytes,
        base: place.offset,
        bytes,
    };
    let mut behind = place.offset;
    for found in segment.blocks_from(place.offset) {
        assert!(behind <= found.offset);
        behind = found.offset + found.header.block_bytes();
        assert!(behind <= place.segment_bytes);
    }
    match BlockHeader::parse(bytes, &place) {
        Ok((header, kind)) => {
            let body = header.body(bytes);
            if let Ok(body) = body {
                assert!(body.len() + BLOCK_HEADER_BYTES <= bytes.len());
                if kind == BlockKind::Data {
                    batch(body);
                }
            }
            mark((kind as u8, body.map(|body| size(body.len())).map_err(debug)))
        }
        Err(error) => mark(debug(error)),
    }
}

fn index(bytes: &[u8]) -> u64 {
    let resident_bytes = match IndexResident::resident_bytes(bytes) {
        Ok(resident_bytes) => resident_bytes,
        Err(error) => return mark(debug(error)),
    };
    let Some(resident) = usize::try_from(resident_bytes).ok().and_then(|to| bytes.get(..to)) else { return 1 };
    match IndexResident::open(Map::owned(resident.to_vec()), bytes.len() as u64) {
        Ok(index) => {
            let mut events = 0;
            for tenant in index.tenants() {
                let tenant = Tenant(tenant.tenant.get());
                let found = index.tenant(tenant).expect("a tenant that is there");
                events += u64::from(found.event_count.get());
                index.may_contain_entity(tenant, 7);
            }
            assert_eq!(events, index.event_count());
            let (from, to) = index.type_range(|text| text < &b"b"[..], |text| text > &b"y"[..]);
            assert!(from <= to);
            let groups: Vec<_> = index
                .fences()
                .iter()
                .enumerate()
                .map(|(group, fence)| {
                    let at = index.group_offset(group) as usize;
                    group_columns(&bytes[at..at + GROUP_BYTES], fence).map(|columns| columns.timestamps.len())
                })
                .collect();
            assert_eq!(index.identity().shard, index.header().shard.get());
            mark((index.tenants().len(), from, to, groups))
        }
        Err(error) => mark(debug(error)),
    }
}

fn run(bytes: &[u8]) -> u64 {
    match RunView::open(Map::owned(bytes.to_vec())) {
        Ok(run) => {
            assert!(run.entries().windows(2).all(|pair| pair[0].key() < pair[1].key()));
            // A filter that says no hides an entry; one that says yes shows the right one.
            for entry in run.entries() {
                if let Some((version, position)) = run.find(entry.key()) {
                    assert_eq!((version.0, position.0), (entry.version.get(), entry.position.get()));
                }
            }
            mark((run.entries().len(), run.segments().0 < run.segments().1))
        }
        Err(error) => mark(debug(error)),
    }
}

fn key_run(bytes: &[u8]) -> u64 {
    match KeyRunView::open(Map::owned(bytes.to_vec())) {
        Ok(run) => {
            let tenants: Vec<_> = run.entries().iter().map(|entry| entry.tenant().0).collect();
            mark((size(tenants.len()), run.segments().0 < run.segments().1))
        }
        Err(error) => mark(debug(error)),
    }
}

fn filter(bytes: &[u8]) -> u64 {
    let Some(filter) = FilterRef::parse(bytes) else { return 0 };
    let found = (0..64).filter(|&key| filter.may_contain(key * 0x9e37_79b9)).count();
    mark((size(found), size(filter.key_count() as usize)))
}
