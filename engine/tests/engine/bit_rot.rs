//! One flipped bit anywhere, and files of garbage: opening never panics, and nothing acknowledged goes missing in silence.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ringlog_engine::event::{IdempotencyKey, KeyClass};
use ringlog_engine::format::batch::{BATCH_HEADER_BYTES, BATCH_HEADER_CRC_FROM, BatchHeader, head_bytes};
use ringlog_engine::format::block::{BLOCK_HEADER_BYTES, BLOCK_HEADER_CRC_FROM, BLOCK_MAGIC, BlockHeader};
use ringlog_engine::format::index::{INDEX_HEADER_BYTES, INDEX_HEADER_CRC_FROM, INDEX_MAGIC, IndexHeader};
use ringlog_engine::format::key_run::{KEY_RUN_HEADER_BYTES, KEY_RUN_HEADER_CRC_FROM, KEY_RUN_MAGIC, KeyRunHeader};
use ringlog_engine::format::record::{RECORD_CRC_FROM, RECORD_HEADER_BYTES, RecordHeader};
use ringlog_engine::format::run::{RUN_HEADER_BYTES, RUN_HEADER_CRC_FROM, RUN_MAGIC, RunHeader};
use ringlog_engine::format::segment::{SEGMENT_HEADER_BYTES, SEGMENT_HEADER_CRC_FROM, SEGMENT_MAGIC};
use ringlog_engine::ids::{Position, Tenant, Version};
use ringlog_engine::limits::{ALIGNMENT, BATCH_EVENTS_MAX};
use ringlog_engine::query::{QuerySpec, SearchError};
use ringlog_engine::shard::ReadOnly;
use ringlog_engine::sim::Rng;

use crate::rig::{Event, Found, Image, Rig};

const TENANTS: u32 = 3;
/// Bits that are flipped, one at a time, in every kind of log.
const FLIPS: u64 = 1_000;

/// A closed log and everything that was acknowledged in it.
struct Written {
    name: &'static str,
    image: Image,
    acknowledged: BTreeMap<Tenant, Vec<Found>>,
    /// Of every entity that ever had an event, retired or not.
    versions: BTreeMap<(Tenant, String), Version>,
    /// Every other round's batch has an idempotency key.
    rounds: u32,
}

/// Logs with one to four segments: unsealed, sealed, with retired ones behind them, with one in the pool.
fn written_logs() -> Vec<Written> {
    vec![
        write("one segment", 6, |rig| fill(rig, 0..6)),
        write("two sealed segments and an open one", 11, |rig| {
            fill(rig, 0..4);
            rig.roll();
            fill(rig, 4..8);
            rig.roll();
            fill(rig, 8..11);
        }),
        write("one retired, one sealed, one open", 11, |rig| {
            fill(rig, 0..4);
            rig.roll();
            fill(rig, 4..8);
            rig.roll();
            fill(rig, 8..11);
            rig.retire();
        }),
    ]
}

fn write(name: &'static str, rounds: u32, act: impl Fn(&mut Rig)) -> Written {
    let mut rig = Rig::new(5);
    rig.open().unwrap();
    act(&mut rig);
    rig.close();
    let mut versions = BTreeMap::new();
    rig.open().unwrap();
    let key = rig.config.fingerprint;
    for tenant in 1..=TENANTS {
        for at in 0..20 {
            let entity = format!("entity-{at}");
            let version = rig.shard().entity_version(Tenant(tenant), key.entity(&entity));
            versions.insert((Tenant(tenant), entity), version);
        }
    }
    rig.close();
    Written { name, image: Image::of(&rig), acknowledged: rig.acknowledged.clone(), versions, rounds }
}

fn fill(rig: &mut Rig, rounds: std::ops::Range<u32>) {
    for round in rounds {
        let (tenant, events) = batch_of_round(round);
        let appended = match key_of_round(round) {
            Some(key) => rig.append_keyed(tenant, key, &events),
            None => rig.append(tenant, &events),
        };
        appended.expect("the power is on").expect("a healthy disk");
        if round % 3 == 0 {
            rig.settle();
        }
    }
    rig.settle();
}

fn batch_of_round(round: u32) -> (Tenant, Vec<Event>) {
    let events = (0..1 + round % 4).map(|at| {
        let mut event = Event::new("order.placed", &format!("entity-{}", (round + at) % 5), "{\"amount\":12}");
        event.payload.resize(20 + 40 * at as usize, b'x');
        event
    });
    (Tenant(1 + round % TENANTS), events.collect())
}

fn key_of_round(round: u32) -> Option<IdempotencyKey> {
    let key = [round as u8 + 1; 16];
    round.is_multiple_of(2).then_some(IdempotencyKey { class: KeyClass::ALL[round as usize / 2 % 2], key, body: key })
}

/// What a flip led to, to see that the property is not empty.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Outcomes {
    unharmed: u64,
    damage: u64,
    damaged_reads: u64,
    rebuilt: u64,
}

#[test]
fn a_flipped_bit_is_repaired_or_reported_and_never_passes_in_silence() {
    let mut rng = Rng::new(9);
    for log in written_logs() {
        let mut outcomes = Outcomes::default();
        let paths: Vec<&String> = log.image.0.keys().collect();
        for trial in 0..FLIPS {
            let path = paths[rng.index(paths.len())];
            let bytes = &log.image.0[path];
            let written: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
            // Mostly where something was written: the rest of a segment is zeros.
            let offset = if rng.chance(4, 5) && !written.is_empty() {
                (written[rng.index(written.len())] + rng.index(3)).min(bytes.len() - 1)
            } else {
                rng.index(bytes.len())
            };
            let bit = rng.index(8) as u8;
            let context = format!("{}, trial {trial}: bit {bit} of byte {offset} of {path}", log.name);
            let seed = rng.draw();
            let checked =
                catch_unwind(AssertUnwindSafe(|| check_flip(&log, path, offset as u64, bit, seed, &mut outcomes)));
            match checked {
                Ok(Ok(())) => {}
                Ok(Err(violation)) => panic!("{context}: {violation}"),
                Err(_) => panic!("{context}: a panic, printed above"),
            }
        }
        println!("{}: {outcomes:?}", log.name);
        assert!(0 < outcomes.unharmed && 0 < outcomes.damage, "{}: {outcomes:?}", log.name);
    }
}

fn check_flip(
    log: &Written,
    path: &str,
    offset: u64,
    bit: u8,
    seed: u64,
    outcomes: &mut Outcomes,
) -> Result<(), String> {
    let mut rig = Rig::with_disk(log.image.load(seed));
    rig.disk.flip_bit(path, offset, bit);
    rig.acknowledged = log.acknowledged.clone();
    rig.seed = seed;
    let report = rig.open().map_err(|error| format!("refused to open: {error}"))?;
    let is_damaged = !report.damage.is_empty();
    if is_damaged != (rig.shard().read_only() == Some(ReadOnly::Damaged)) {
        return Err(format!("damage and read-only do not go together: {report:?}"));
    }
    outcomes.rebuilt += u64::from(report.indexes_rebuilt > 0);
    let mut has_damaged_read = false;
    for (&tenant, expected) in &log.acknowledged {
        match rig.all(tenant) {
            Ok(found) if is_damaged => check_subset(&found, expected)?,
            Ok(found) if found == *expected => {}
            Ok(found) => return Err(format!("{tenant:?} has {} of {}: {report:?}", found.len(), expected.len())),
            Err(SearchError::Damaged { .. }) => {
                has_damaged_read = true;
                check_one_by_one(&mut rig, tenant, expected)?;
            }
            Err(SearchError::Disk(error)) => return Err(format!("{tenant:?} cannot be read: {error}")),
        }
    }
    if is_damaged {
        outcomes.damage += 1;
        let before = Image::of(&rig);
        rig.stop();
        let again = rig.open().map_err(|error| format!("refused to open again: {error}"))?;
        if again.damage != report.damage || Image::of(&rig) != before {
            return Err(format!("opening again is not the same: {report:?}, then {again:?}"));
        }
        return Ok(());
    }
    if has_damaged_read {
        outcomes.damaged_reads += 1;
    } else {
        outcomes.unharmed += 1;
    }
    let key = rig.config.fingerprint;
    for ((tenant, entity), &version) in &log.versions {
        let found = rig.shard().entity_version(*tenant, key.entity(entity));
        if found != version {
            return Err(format!("{tenant:?} {entity} is at {found:?} instead of {version:?}"));
        }
    }
    for round in 0..log.rounds {
        let (tenant, events) = batch_of_round(round);
        let Some(key) = key_of_round(round) else { continue };
        let answer = rig.append_keyed(tenant, key, &events);
        if !answer.is_some_and(|answer| answer.is_ok_and(|appended| appended.is_replay)) {
            return Err(format!("the key of round {round} is forgotten: {answer:?}"));
        }
    }
    let tenant = Tenant(1);
    let next = log.acknowledged[&tenant].last().map_or(1, |last| last.position.0 + 1);
    let appended = rig.put(1, "order.paid", "entity-1", "after");
    if appended.first_position != Position(next) {
        return Err(format!("the next event got {:?} instead of {next}", appended.first_position));
    }
    rig.close();
    let report = rig.open().map_err(|error| format!("refused to open again: {error}"))?;
    if !report.damage.is_empty() || report.tail.is_some() || report.indexes_rebuilt > 0 {
        return Err(format!("not clean after a clean life: {report:?}"));
    }
    if !has_damaged_read {
        rig.check_acknowledged("after another life");
    }
    Ok(())
}

/// Everything that is found was acknowledged, just so.
fn check_subset(found: &[Found], expected: &[Found]) -> Result<(), String> {
    for found in found {
        if !expected.contains(found) {
            return Err(format!("was never acknowledged: {found:?}"));
        }
    }
    Ok(())
}

/// Each event alone is either right or reported.
fn check_one_by_one(rig: &mut Rig, tenant: Tenant, expected: &[Found]) -> Result<(), String> {
    for wanted in expected {
        let after = Position(wanted.position.0 - 1);
        match rig.query(QuerySpec { after: Some(after), ..QuerySpec::all(tenant, 1) }) {
            Ok((found, _)) if found.as_slice() == std::slice::from_ref(wanted) => {}
            Ok((found, _)) => return Err(format!("{found:?} instead of {wanted:?}")),
            Err(SearchError::Damaged { position: Some(position), .. }) if position == wanted.position => {}
            Err(SearchError::Damaged { position: None, .. }) => {}
            Err(error) => return Err(format!("asked for {:?}: {error}", wanted.position)),
        }
    }
    Ok(())
}

/// Overwrites parts of a file with noise and, often, makes its checksums right again.
fn poison(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        let page = rng.index(bytes.len().div_ceil(ALIGNMENT)) * ALIGNMENT;
        let at = if rng.chance(3, 4) { page + rng.index(400) } else { rng.index(bytes.len()) };
        let count = [1, 2, 4, 8, 64, 5000][rng.index(6)];
        let to = (at + count).min(bytes.len());
        let from = at.min(to);
        match rng.below(4) {
            0 => bytes[from..to].fill(0xff),
            1 => bytes[from..to].fill(0),
            2 => bytes[from..to].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)),
            _ => rng.fill(&mut bytes[from..to]),
        }
    }
    if rng.chance(2, 3) {
        seal_checksums(bytes);
    }
}

/// Makes the header checksum of every page right that has a magic, and the body checksums of blocks, indexes and runs.
fn seal_checksums(bytes: &mut [u8]) {
    for page in (0..bytes.len()).step_by(ALIGNMENT) {
        let magic = bytes[page..].first_chunk::<8>().copied().unwrap_or_default();
        let (header_bytes, crc_from, body_crc_at) = match magic {
            BLOCK_MAGIC => (BLOCK_HEADER_BYTES, BLOCK_HEADER_CRC_FROM, Some(offset_of!(BlockHeader, body_crc))),
            SEGMENT_MAGIC => (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_CRC_FROM, None),
            INDEX_MAGIC => (INDEX_HEADER_BYTES, INDEX_HEADER_CRC_FROM, Some(offset_of!(IndexHeader, resident_crc))),
            RUN_MAGIC => (RUN_HEADER_BYTES, RUN_HEADER_CRC_FROM, Some(offset_of!(RunHeader, body_crc))),
            KEY_RUN_MAGIC => (KEY_RUN_HEADER_BYTES, KEY_RUN_HEADER_CRC_FROM, Some(offset_of!(KeyRunHeader, body_crc))),
            _ => continue,
        };
        if bytes.len() < page + header_bytes {
            continue;
        }
        if let Some(at) = body_crc_at {
            let body = match magic {
                BLOCK_MAGIC => {
                    let from = page + BLOCK_HEADER_BYTES;
                    from..from + u32_at(bytes, page + offset_of!(BlockHeader, body_bytes))
                }
                INDEX_MAGIC => page + ALIGNMENT..u32_at(bytes, page + offset_of!(IndexHeader, resident_bytes)),
                _ => page + ALIGNMENT..bytes.len(),
            };
            if magic == BLOCK_MAGIC
                && let Some(body) = bytes.get_mut(body.clone())
            {
                seal_batches(body);
            }
            if let Some(body) = bytes.get(body) {
                let crc = crc32fast::hash(body);
                bytes[page + at..page + at + 4].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let crc = crc32fast::hash(&bytes[page + crc_from..page + header_bytes]);
        bytes[page + 8..page + 12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes the checksums of batches and records right, as far as their lengths lead.
fn seal_batches(body: &mut [u8]) {
    let mut at = 0;
    while at + BATCH_HEADER_BYTES <= body.len() {
        let batch = &mut body[at..];
        let batch_bytes = u32_at(batch, offset_of!(BatchHeader, batch_bytes));
        let head = head_bytes(u32_at(batch, offset_of!(BatchHeader, event_count)).min(BATCH_EVENTS_MAX));
        let mut record_at = head;
        while record_at + RECORD_HEADER_BYTES <= batch.len().min(batch_bytes) {
            let record_bytes = u32_at(batch, record_at);
            let Some(record) = batch.get(record_at + RECORD_CRC_FROM..record_at.saturating_add(record_bytes)) else {
                break;
            };
            let crc = crc32fast::hash(record);
            batch[record_at + offset_of!(RecordHeader, crc)..][..4].copy_from_slice(&crc.to_le_bytes());
            record_at += record_bytes;
        }
        if let Some(header) = batch.get(BATCH_HEADER_CRC_FROM..head) {
            let crc = crc32fast::hash(header);
            batch[..BATCH_HEADER_CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        }
        at += batch_bytes.max(1);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within a header")) as usize
}

#[test]
fn hostile_files_never_panic_the_recovery() {
    let mut rng = Rng::new(21);
    let logs = written_logs();
    let mut opened = 0;
    for trial in 0..4_000 {
        let log = &logs[rng.index(logs.len())];
        let mut image = log.image.clone();
        for _ in 0..1 + rng.below(3) {
            let paths: Vec<String> = image.0.keys().cloned().collect();
            let path = &paths[rng.index(paths.len())];
            let bytes = image.0.get_mut(path).unwrap();
            match rng.below(6) {
                0 => rng.fill(bytes),
                1 => {
                    let len = rng.index(bytes.len() + 1);
                    bytes.truncate(len);
                }
                _ => {}
            }
            if !bytes.is_empty() {
                poison(bytes, &mut rng);
            }
        }
        let seed = rng.draw();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut rig = Rig::with_disk(image.load(seed));
            if rig.open().is_err() {
                return false;
            }
            for tenant in 1..=TENANTS {
                let _ = rig.all(Tenant(tenant));
            }
            true
        }));
        match outcome {
            Ok(has_opened) => opened += u32::from(has_opened),
            Err(_) => panic!("trial {trial}: a panic, printed above"),
        }
    }
    assert!(opened > 500, "only {opened} opened at all");
}

#[test]
fn files_of_noise_under_any_name_never_panic_the_recovery() {
    let mut rng = Rng::new(22);
    let log = &written_logs()[1];
    let names = [
        "log-0000000000000009.seg",
        "log-0000000000000009.idx",
        "free-0000000000000009.seg",
        "ent-0000000000000001-0000000000000009.run",
        "ent-0000000000000009-0000000000000001.run",
        "ent-0000000000000000-ffffffffffffffff.run",
        "key-0000000000000001-0000000000000009.run",
        "key-0000000000000009-0000000000000001.run",
        "key-0000000000000000-ffffffffffffffff.run",
        "log-ffffffffffffffff.seg",
        "log-0000000000000001.idx.tmp",
        "stranger",
    ];
    for trial in 0..200 {
        let mut image = log.image.clone();
        let name = names[rng.index(names.len())];
        let len = [0, 1, 100, 4096, 5000, 65536, 70000][rng.index(7)];
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        let magic = [BLOCK_MAGIC, SEGMENT_MAGIC, INDEX_MAGIC, RUN_MAGIC, KEY_RUN_MAGIC][rng.index(5)];
        if len >= 8 && rng.chance(1, 2) {
            bytes[..8].copy_from_slice(&magic);
        }
        image.0.insert(format!("shard-0000/{name}"), bytes);
        let mut rig = Rig::with_disk(image.load(rng.draw()));
        rig.acknowledged = log.acknowledged.clone();
        let report = rig.open().unwrap_or_else(|error| panic!("trial {trial}, {len} bytes of {name}: {error}"));
        rig.check_acknowledged(&format!("trial {trial}, {len} bytes of {name}: {report:?}"));
    }
}
