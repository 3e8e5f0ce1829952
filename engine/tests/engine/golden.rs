//! Golden files: bytes of format version 1 that must be read for ever, and that today's encoders still write.
//!
//! ```text
//! tests/data/v1/directory/   a whole data directory     tests/data/v1/events.txt   the events in it
//! tests/data/v1/encoders/    one file for each encoder
//! tests/data/v1/uncounted/   the directory's shard as it was before checkpoints counted what tenants had stored
//! tests/data/v1/rewritten/   the directory's shard after a tenant was erased
//! ```
//! They are written by `RINGLOG_BLESS=1 cargo test -p ringlog-engine --test engine golden`. Once a version is released
//! its files never change: a new version gets a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringlog_engine::event::{EventBatch, EventInput, FingerprintKey, IdempotencyKey, Source};
use ringlog_engine::filter::{self, FilterRef};
use ringlog_engine::format::batch::{BatchHead, BatchView, encode_batch, head_bytes};
use ringlog_engine::format::block::{
    BLOCK_FLAG_WINDOWED, BLOCK_HEADER_BYTES, BlockHeader, BlockKind, BlockPlace, block_bytes, empty_header,
    finish_block,
};
use ringlog_engine::format::index::{
    IndexEvent, IndexIdentity, IndexResident, TenantSlice, encode_index, entity_filter_key, group_columns,
};
use ringlog_engine::format::key_run::{KeyEntry, KeyRunView, encode_key_run};
use ringlog_engine::format::record::{EventKind, Record, encode_record};
use ringlog_engine::format::run::{RunEntry, RunView, encode_run, run_filter_key, run_key};
use ringlog_engine::format::segment::{RewrittenHeader, SegmentHeader};
use ringlog_engine::format::superblock::Superblock;
use ringlog_engine::ids::{Micros, Position, SegmentNumber, Tenant, Version};
use ringlog_engine::io::Map;
use zerocopy::little_endian::{U32, U64};

use crate::rig::{Event, Found, Image, Rig};

const INSTANCE: [u8; 16] = *b"golden-instance!";
const SEGMENT_BYTES: u64 = 32 << 10;
const SUPERBLOCK: &str = "superblock";
const SHARD: &str = "directory/shard-0000";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1")
}

fn is_blessing() -> bool {
    std::env::var_os("RINGLOG_BLESS").is_some_and(|value| value == "1")
}

/// Compares bytes with a golden file, or makes it.
#[expect(clippy::disallowed_methods, reason = "golden files lie beside the tests")]
fn check_file(path: &str, bytes: &[u8]) {
    let full = folder().join(path);
    if is_blessing() {
        std::fs::create_dir_all(full.parent().expect("a file in a folder")).unwrap();
        std::fs::write(&full, bytes).unwrap();
        return;
    }
    let golden = read(path);
    let differs = golden.iter().zip(bytes).position(|(golden, now)| golden != now);
    assert_eq!(differs, None, "{path}: the first byte that differs");
    assert_eq!(golden.len(), bytes.len(), "{path}: length");
}

#[expect(clippy::disallowed_methods, reason = "golden files lie beside the tests")]
fn read(path: &str) -> Vec<u8> {
    std::fs::read(folder().join(path)).unwrap_or_else(|error| panic!("golden file {path}: {error}"))
}

/// The names of the directory's files, so that none is forgotten.
#[expect(clippy::disallowed_methods, reason = "golden files lie beside the tests")]
fn golden_shard(path: &str) -> Image {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder().join(path)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.insert(format!("shard-0000/{name}"), read(&format!("{path}/{name}")));
    }
    Image(files)
}

fn superblock() -> Superblock {
    Superblock::new(INSTANCE, *b"golden-event-key", 0x5EED, SEGMENT_BYTES, 1, 1_700_000_000_000_000)
}

/// The life that the golden directory is the end of: a sealed segment with its index and run, an open one with its
/// checkpoint, blocks of one and of several batches, and a watermark.
fn write_directory() -> Rig {
    let mut rig = Rig::new(1);
    rig.config.home.segment_bytes = SEGMENT_BYTES;
    rig.config.home.instance = INSTANCE;
    rig.is_wall_frozen = true;
    let mut second = 0;
    let mut pass_a_second = |rig: &mut Rig| {
        second += 1;
        rig.now.wall = Micros(1_700_000_000_000_000 + second * 1_000_000);
    };
    rig.open().unwrap();
    rig.put(1, "order.placed", "order-1", "{\"amount\":12}");
    pass_a_second(&mut rig);
    let mut timed = Event::new("order.paid", "order-1", "{\"amount\":12,\"currency\":\"EUR\"}");
    timed.timestamp = Some(Micros(1_600_000_000_123_456));
    timed.metadata = b"{\"by\":\"golden\"}".to_vec();
    let batch = [Event::new("user.signed_up", "müller", "null"), timed, Event::new("user.signed_up", "order-1", "")];
    assert!(rig.append(Tenant(7), &batch).unwrap().is_ok());
    // Two tenants in one block.
    pass_a_second(&mut rig);
    rig.start(Tenant(1), &[Event::new("order.shipped", "order-1", "{}")]).unwrap();
    rig.start(Tenant(u32::MAX), &[Event::new("x", "y", &"z".repeat(300))]).unwrap();
    rig.roll();
    pass_a_second(&mut rig);
    rig.put(7, "user.left", "müller", "{\"reason\":\"none\"}");
    pass_a_second(&mut rig);
    rig.put(1, "order.placed", "order-2", "{\"amount\":3}");
    rig.close();
    rig
}

/// One line for each event, in the order of tenants and positions.
fn events_text(acknowledged: &BTreeMap<Tenant, Vec<Found>>) -> String {
    let mut text = String::from("# tenant position version received_at timestamp type entity payload metadata\n");
    for (tenant, events) in acknowledged {
        for found in events {
            let event = &found.event;
            let timestamp = event.timestamp.map_or("-".to_owned(), |at| at.0.to_string());
            let part = |bytes: &[u8]| match bytes {
                [] => "-".to_owned(),
                bytes => String::from_utf8(bytes.to_vec()).unwrap(),
            };
            text += &format!(
                "{} {} {} {} {timestamp} {} {} {} {}\n",
                tenant.0,
                found.position.0,
                found.version.0,
                found.received_at.0,
                event.event_type,
                event.entity,
                part(&event.payload),
                part(&event.metadata),
            );
        }
    }
    text
}

#[test]
fn todays_shard_writes_the_golden_directory() {
    let rig = write_directory();
    let image = Image::of(&rig);
    let total: usize = image.0.values().map(Vec::len).sum();
    assert!(total < 200 << 10, "{total} bytes are too many for the repository");
    for (path, bytes) in &image.0 {
        check_file(&format!("directory/{path}"), bytes);
    }
    check_file(&format!("directory/{SUPERBLOCK}"), &superblock().to_page());
    check_file("events.txt", events_text(&rig.acknowledged).as_bytes());
    assert_eq!(golden_shard(SHARD).0.keys().collect::<Vec<_>>(), image.0.keys().collect::<Vec<_>>());
}

/// A golden shard on a disk, to be opened.
fn golden_rig(path: &str) -> Rig {
    golden_rig_of(&golden_shard(path))
}

fn golden_rig_of(image: &Image) -> Rig {
    let parsed = Superblock::parse(&read(&format!("directory/{SUPERBLOCK}"))).unwrap();
    assert_eq!(parsed, superblock());
    let mut rig = Rig::with_disk(image.load(1));
    rig.config.home.segment_bytes = parsed.segment_bytes.get();
    rig.config.home.instance = parsed.instance;
    rig.config.fingerprint = FingerprintKey(parsed.fingerprint_seed.get());
    rig
}

/// The golden directory's shard, from which tenant 7 was erased.
fn write_rewritten() -> Rig {
    let mut rig = write_directory();
    rig.open().unwrap();
    rig.acknowledged.remove(&Tenant(7));
    rig.shard().erase(Tenant(7));
    rig.settle();
    assert!(rig.shard().is_erased(Tenant(7)));
    rig.close();
    rig
}

#[test]
fn todays_shard_rewrites_segments_as_ever() {
    let rig = write_rewritten();
    let image = Image::of(&rig);
    for (path, bytes) in &image.0 {
        let name = path.rsplit('/').next().unwrap();
        check_file(&format!("rewritten/{name}"), bytes);
    }
    assert_eq!(golden_shard("rewritten").0.keys().collect::<Vec<_>>(), image.0.keys().collect::<Vec<_>>());
}

#[test]
fn a_golden_shard_with_rewritten_segments_opens_and_holds_the_other_tenants_events() {
    if is_blessing() {
        return;
    }
    // With its indexes, and from its blocks alone.
    for is_indexed in [true, false] {
        let mut image = golden_shard("rewritten");
        if !is_indexed {
            image.0.retain(|path, _| !path.ends_with(".idx"));
        }
        let mut rig = golden_rig_of(&image);
        let report = rig.open().unwrap();
        assert_eq!((report.segments_sealed, report.damage.len(), report.tail), (2, 0, None));
        let found = [1, 7, u32::MAX].map(|tenant| (Tenant(tenant), rig.all(Tenant(tenant)).unwrap()));
        let all = String::from_utf8(read("events.txt")).unwrap();
        let others: Vec<&str> = all.lines().filter(|line| !line.starts_with("7 ")).collect();
        assert_eq!(events_text(&BTreeMap::from(found)).lines().collect::<Vec<_>>(), others);
        assert_eq!(rig.shard().tenant_count(), 2);
    }
}

/// Events and bytes of the month, events and bytes ever.
fn usage(rig: &mut Rig, tenant: Tenant) -> (u64, u64, u64, u64) {
    let wall = rig.now.wall;
    let usage = rig.shard().usage(tenant, wall);
    (usage.events_this_month, usage.bytes_this_month, usage.stored_events, usage.stored_bytes)
}

/// The checkpoint says nothing of them: tenants are counted from the batches behind it.
#[test]
fn a_shard_from_before_counters_opens_and_counts_from_its_open_segment_on() {
    let mut rig = golden_rig("uncounted");
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.tail), (0, None));
    let usages = [1, 7, u32::MAX].map(|tenant| usage(&mut rig, Tenant(tenant)));
    assert_eq!(usages, [(1, 63, 3, 63), (1, 65, 4, 65), (0, 0, 1, 0)]);
    rig.put(7, "user.left", "müller", "after");
    rig.roll();
    rig.close();
    rig.open().unwrap();
    let (events, _, stored_events, _) = usage(&mut rig, Tenant(7));
    assert_eq!((events, stored_events), (2, 5));
}

#[test]
fn the_golden_directory_opens_and_holds_exactly_its_events() {
    if is_blessing() {
        return;
    }
    let mut rig = golden_rig(SHARD);
    let report = rig.open().unwrap();
    assert_eq!((report.segments_sealed, report.indexes_rebuilt, report.damage.len()), (1, 0, 0), "{report:?}");
    assert_eq!(report.tail, None);
    let tenants = [1, 7, u32::MAX].map(Tenant);
    let found = tenants.map(|tenant| (tenant, rig.all(tenant).unwrap()));
    assert_eq!(rig.shard().tenant_count(), tenants.len());
    assert_eq!(events_text(&BTreeMap::from(found)).into_bytes(), read("events.txt"));
    let usages = tenants.map(|tenant| usage(&mut rig, tenant));
    assert_eq!(usages, [(3, 181, 3, 181), (4, 269, 4, 269), (1, 334, 1, 334)]);
    // The log goes on: positions, versions and times follow what was found.
    rig.put(7, "user.left", "müller", "after");
    let last = rig.acknowledged[&Tenant(7)].last().unwrap();
    assert_eq!((last.position, last.version), (Position(5), Version(3)));
    rig.close();
    assert_eq!(rig.open().unwrap().damage, []);
}

fn sample_records() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_record(&mut bytes, EventKind::Event, None, "order.placed", "order-1", b"{\"a\":1}", b"");
    let at = Some(Micros(-5));
    encode_record(&mut bytes, EventKind::Log, at, "é", "x", b"", b"null");
    bytes
}

#[test]
fn a_record_is_encoded_as_ever() {
    let bytes = sample_records();
    check_file("encoders/record.bin", &bytes);
    let golden = read("encoders/record.bin");
    let first = Record::parse(&golden).unwrap();
    assert_eq!((first.kind, first.timestamp), (EventKind::Event, None));
    assert_eq!((first.event_type, first.entity), ("order.placed", "order-1"));
    assert_eq!((first.payload, first.metadata), (b"{\"a\":1}".as_slice(), b"".as_slice()));
    let second = Record::parse(&golden[first.record_bytes..]).unwrap();
    assert_eq!((second.kind, second.timestamp), (EventKind::Log, Some(Micros(-5))));
    assert_eq!((second.event_type, second.entity), ("é", "x"));
    assert_eq!((second.payload, second.metadata), (b"".as_slice(), b"null".as_slice()));
}

fn sample_batch(idempotency: Option<IdempotencyKey>) -> Vec<u8> {
    let records = sample_records();
    let mut bytes = vec![0; head_bytes(2) + records.len()];
    let versions = [3, u64::MAX - 1].into_iter();
    let head = BatchHead {
        tenant: Tenant(5),
        source: Source::Syslog as u8,
        idempotency,
        first_position: Position(11),
        received_at: Micros(99),
    };
    encode_batch(&mut bytes, &head, versions, &records);
    bytes
}

#[test]
fn a_batch_is_encoded_as_ever() {
    check_file("encoders/batch.bin", &sample_batch(None));
    let golden = read("encoders/batch.bin");
    let view = BatchView::parse(&golden).unwrap();
    assert_eq!((view.tenant(), view.first_position(), view.received_at()), (Tenant(5), Position(11), Micros(99)));
    assert_eq!((view.event_count(), view.version(0), view.version(1)), (2, 3, u64::MAX - 1));
    assert_eq!(view.header.source, Source::Syslog as u8);
    assert_eq!(view.idempotency(), None);
    assert_eq!(golden[view.head_bytes()..], sample_records());
    let idempotency = IdempotencyKey { key: *b"a client's key..", body: *b"its body's hash." };
    check_file("encoders/keyed_batch.bin", &sample_batch(Some(idempotency)));
    let golden = read("encoders/keyed_batch.bin");
    assert_eq!(BatchView::parse(&golden).unwrap().idempotency(), Some(idempotency));
}

/// A batch is what it was whoever encodes it: the one that applications fill has the same records.
#[test]
fn the_batch_of_an_application_has_the_golden_records() {
    let mut batch = EventBatch::new(Tenant(5), Source::Syslog, FingerprintKey(1));
    batch.push(EventInput::new("order.placed", "order-1", b"{\"a\":1}")).unwrap();
    let second = EventInput {
        kind: EventKind::Log,
        timestamp: Some(Micros(-5)),
        metadata: b"null",
        ..EventInput::new("é", "x", b"")
    };
    batch.push(second).unwrap();
    assert_eq!(batch.records(), read("encoders/record.bin"));
}

const PLACE: BlockPlace =
    BlockPlace { shard: 3, segment: SegmentNumber(9), epoch: 0xE90C, offset: 8192, segment_bytes: 65536 };

#[test]
fn a_block_is_encoded_as_ever() {
    let body = sample_batch(None);
    let mut block = vec![0xAA; block_bytes(body.len())];
    block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + body.len()].copy_from_slice(&body);
    let header = BlockHeader {
        kind: BlockKind::Data as u8,
        flags: BLOCK_FLAG_WINDOWED,
        epoch: U64::new(PLACE.epoch),
        sequence: U64::new(41),
        segment_offset: U64::new(PLACE.offset),
        durable_sequence: U64::new(39),
        first_ordinal: U64::new(1000),
        shard: U32::new(PLACE.shard),
        previous_crc: U32::new(0xC4C4_C4C4),
        batch_count: U32::new(1),
        event_count: U32::new(2),
        segment_number: U64::new(PLACE.segment.0),
        ..empty_header()
    };
    finish_block(&mut block, header, body.len());
    check_file("encoders/block.bin", &block);
    let golden = read("encoders/block.bin");
    let (header, kind) = BlockHeader::parse(&golden, &PLACE).unwrap();
    assert_eq!((kind, header.sequence.get(), header.durable_sequence.get()), (BlockKind::Data, 41, 39));
    assert_eq!((header.first_ordinal.get(), header.previous_crc.get()), (1000, 0xC4C4_C4C4));
    assert_eq!(header.body(&golden), Ok(body.as_slice()));
}

#[test]
fn a_segment_header_is_encoded_as_ever() {
    let header = SegmentHeader::new(1, SegmentNumber(7), 99, 65536, 5, INSTANCE);
    check_file("encoders/segment_header.bin", &header.to_page());
    let golden = read("encoders/segment_header.bin");
    assert_eq!(SegmentHeader::parse(&golden, 1, SegmentNumber(7), 65536, INSTANCE), Ok(header));
}

#[test]
fn a_rewritten_segments_header_is_encoded_as_ever() {
    let rewritten = RewrittenHeader::new(12288, 41, 1003, 0xC4C4_C4C4);
    let header = SegmentHeader::new(1, SegmentNumber(7), 99, 65536, 5, INSTANCE);
    check_file("encoders/rewritten_header.bin", &header.to_rewritten_page(rewritten));
    let golden = read("encoders/rewritten_header.bin");
    assert!(SegmentHeader::parse(&golden, 1, SegmentNumber(7), 12288, INSTANCE).unwrap().is_rewritten());
    assert_eq!(RewrittenHeader::parse(&golden), Ok(rewritten));
}

const IDENTITY: IndexIdentity = IndexIdentity {
    shard: 1,
    segment_number: 7,
    epoch: 99,
    first_sequence: 4,
    last_sequence: 8,
    next_ordinal: 1003,
    last_block_crc: 0xABCD,
    has_key_run: false,
};

#[test]
fn an_index_is_encoded_as_ever() {
    let event = |timestamp, entity, record_offset, event_type| IndexEvent {
        timestamp,
        entity,
        batch_offset: 4224,
        record_offset,
        event_type,
    };
    let events = [event(10, 5, 4336, 0), event(-20, 6, 4400, 1), event(30, 5, 4500, 1)];
    let slice = |tenant, first_position, event_count, start, timestamp_min, timestamp_max| TenantSlice {
        tenant: Tenant(tenant),
        first_position: Position(first_position),
        event_count,
        start,
        last_received_at: Micros(30),
        timestamp_min,
        timestamp_max,
    };
    let tenants = [slice(2, 11, 2, 0, -20, 10), slice(9, 1, 1, 2, 30, 30)];
    let mut keys =
        vec![entity_filter_key(Tenant(2), 5), entity_filter_key(Tenant(2), 6), entity_filter_key(Tenant(9), 5)];
    let filter = filter::build(&mut keys, 99);
    let bytes = encode_index(&IDENTITY, &tenants, &["order.paid", "order.placed"], &events, &filter);
    check_file("encoders/index.bin", &bytes);
    let golden = read("encoders/index.bin");
    let resident_bytes = IndexResident::resident_bytes(&golden).unwrap() as usize;
    let resident = IndexResident::open(Map::owned(golden[..resident_bytes].to_vec()), golden.len() as u64).unwrap();
    assert_eq!(resident.identity(), IDENTITY);
    let entry = resident.tenant(Tenant(2)).unwrap();
    assert_eq!((entry.event_count.get(), entry.start.get(), entry.first_position.get()), (2, 0, 11));
    assert!(resident.tenant(Tenant(3)).is_none());
    assert!(resident.may_contain_entity(Tenant(9), 5));
    let columns = group_columns(&golden[resident_bytes..], &resident.fences()[0]).unwrap();
    assert_eq!(columns.timestamps[..3].iter().map(|at| at.get()).collect::<Vec<_>>(), [10, -20, 30]);
    assert_eq!(columns.record_offsets[..3].iter().map(|at| at.get()).collect::<Vec<_>>(), [4336, 4400, 4500]);
}

#[test]
fn a_run_is_encoded_as_ever() {
    let entries = [
        RunEntry::new(Tenant(2), 5, Version(3), Position(12)),
        RunEntry::new(Tenant(2), 1 << 95 | 7, Version(1), Position(13)),
        RunEntry::new(Tenant(9), 5, Version(u64::MAX), Position(1)),
    ];
    let mut keys: Vec<u64> = entries.iter().map(|entry| run_filter_key(entry.key())).collect();
    let filter = filter::build(&mut keys, 99);
    check_file("encoders/run.bin", &encode_run(1, 5, 7, &entries, &filter));
    let run = RunView::open(Map::owned(read("encoders/run.bin"))).unwrap();
    assert_eq!((run.shard(), run.segments()), (1, (5, 7)));
    assert_eq!(run.entries(), entries);
    assert_eq!(run.find(run_key(Tenant(2), 1 << 95 | 7)), Some((Version(1), Position(13))));
    assert_eq!(run.find(run_key(Tenant(3), 5)), None);
}

#[test]
fn a_key_run_is_encoded_as_ever() {
    let mut batch = EventBatch::new(Tenant(2), Source::Http, FingerprintKey(1));
    batch.push(EventInput::new("order.placed", "order-1", b"{}")).unwrap();
    let entry = |key: u8, position, received_at| {
        let idempotency = IdempotencyKey { key: [key; 16], body: [key + 1; 16] };
        KeyEntry::new(&batch, idempotency, Position(position), Micros(received_at))
    };
    let entries = [entry(7, 12, 99), entry(3, 13, 100)];
    check_file("encoders/key_run.bin", &encode_key_run(1, 5, 7, &entries));
    let run = KeyRunView::open(Map::owned(read("encoders/key_run.bin"))).unwrap();
    assert_eq!((run.shard(), run.segments()), (1, (5, 7)));
    assert_eq!(run.entries(), entries);
    let first = run.entries()[0];
    assert_eq!((first.tenant(), first.first_position(), first.received_at()), (Tenant(2), Position(12), Micros(99)));
}

#[test]
fn a_filter_is_encoded_as_ever() {
    let keys: Vec<u64> = (0..100u64).map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
    check_file("encoders/filter.bin", &filter::build(&mut keys.clone(), 42));
    let golden = read("encoders/filter.bin");
    let filter = FilterRef::parse(&golden).unwrap();
    assert_eq!(filter.key_count(), 100);
    assert!(keys.iter().all(|&key| filter.may_contain(key)));
}
