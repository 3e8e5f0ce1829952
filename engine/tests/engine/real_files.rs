//! The engine on a real file system, in every way that it can ask the kernel.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringlog_engine::data_dir::OpenDirError;
use ringlog_engine::engine::{Engine, EngineError, EngineOptions};
use ringlog_engine::event::{EventBatch, EventInput};
use ringlog_engine::ids::{Micros, Position, ShardNumber, Tenant, Version};
use ringlog_engine::io::{DataDirError, IoMode, RingError, SyncMode};
use ringlog_engine::query::{Order, QuerySpec, TypeFilter};
use ringlog_engine::shard::{AppendError, Durability, KeyBounds, Limits, QuotaKind};
use ringlog_engine::sim::Rng;
use ringlog_engine::sim::model::{Model, ModelEvent, Promise};
use tempfile::TempDir;

/// Small segments, so that a test sees several; no reserve, so that it runs on any machine.
fn options(io: IoMode) -> EngineOptions {
    EngineOptions { segment_bytes: 1 << 20, io, reserve_bytes: 0, ..EngineOptions::default() }
}

/// Every way to ask the kernel that this machine allows.
fn modes() -> Vec<IoMode> {
    let mut modes = vec![IoMode::Fallback];
    let dir = TempDir::new().unwrap();
    match Engine::open(dir.path(), &options(IoMode::Uring)) {
        Ok(engine) => {
            modes.push(IoMode::Uring);
            engine.close();
        }
        Err(EngineError::Ring(
            refused @ (RingError::Disabled { .. } | RingError::Forbidden | RingError::KernelTooOld { .. }),
        )) => {
            println!("skipped with io_uring: {refused}");
        }
        Err(error) => panic!("{error}"),
    }
    modes
}

fn open(dir: &Path, options: &EngineOptions) -> Engine {
    let engine = Engine::open(dir, options).unwrap_or_else(|error| panic!("{error}"));
    for report in engine.recovery_reports() {
        assert_eq!(report.damage, []);
    }
    engine
}

fn batch(engine: &Engine, tenant: u32, from: u64, count: u64) -> EventBatch {
    let mut batch = engine.batch(Tenant(tenant));
    for at in from..from + count {
        let payload = format!("{{\"at\":{at},\"tenant\":{tenant}}}");
        batch.push(EventInput::new("order.placed", &format!("order-{}", at % 97), payload.as_bytes())).unwrap();
    }
    batch
}

/// The payloads of a tenant must be those of `batch`, from the first to the `count`th.
fn check_counted(engine: &mut Engine, tenant: u32, count: u64) {
    let mut at = 0;
    let summary = engine
        .query(QuerySpec::all(Tenant(tenant), usize::MAX), |row| {
            assert_eq!(row.position.0, at + 1);
            assert_eq!(row.version.0, at / 97 + 1);
            assert_eq!(row.record.payload, format!("{{\"at\":{at},\"tenant\":{tenant}}}").as_bytes());
            at += 1;
        })
        .unwrap();
    assert_eq!((at, summary.total, summary.has_more), (count, Some(count), false));
}

#[test]
fn what_was_appended_is_found_after_reopening_whatever_the_mode() {
    let durabilities = [Durability::Commit, Durability::Interval { every_us: 2_000 }, Durability::Memory];
    for io in modes() {
        for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
            for durability in durabilities {
                let dir = TempDir::new().unwrap();
                let options = EngineOptions { durability, sync, ..options(io) };
                let mut engine = open(dir.path(), &options);
                let mut count = 0;
                for size in [1, 500, 3, 500, 10] {
                    let (appended, _) = engine.append(batch(&engine, 1, count, size)).unwrap();
                    assert_eq!(appended.first_position.0, count + 1);
                    count += size;
                }
                check_counted(&mut engine, 1, count);
                engine.close();
                let mut engine = open(dir.path(), &options);
                assert_eq!(engine.recovery_reports()[0].tail, None, "{io:?} {sync:?} {durability:?}");
                check_counted(&mut engine, 1, count);
                engine.append(batch(&engine, 1, count, 500)).unwrap();
                check_counted(&mut engine, 1, count + 500);
                engine.close();
            }
        }
    }
}

/// Bytes that the file system has allocated for the files of the first shard.
#[expect(clippy::disallowed_methods, reason = "what is on disk is asked of the file system itself")]
fn allocated_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir.join("shard-0000")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn an_erased_tenants_room_on_disk_comes_back() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let mut engine = open(dir.path(), &options(io));
        let mut count = 0;
        while engine.stats(ShardNumber(0)).segments_sealed < 5 {
            for tenant in [1, 2, 2, 2] {
                let from = if tenant == 1 { count } else { 0 };
                engine.append(batch(&engine, tenant, from, 250)).unwrap();
            }
            count += 250;
        }
        engine.settle();
        let before = allocated_bytes(dir.path());
        engine.erase(Tenant(2));
        while !engine.is_erased(Tenant(2)) {
            engine.settle();
        }
        let after = allocated_bytes(dir.path());
        // Five segments of 1 MiB of which a quarter stays, the one that was open, and two that are ready.
        assert!(after + (3 << 20) < before, "{io:?}: {after} of {before}");
        check_counted(&mut engine, 1, count);
        let refused = engine.append(batch(&engine, 2, 0, 1));
        assert!(matches!(refused, Err((_, AppendError::TenantErased))), "{io:?}");
        engine.close();
        let mut engine = open(dir.path(), &options(io));
        check_counted(&mut engine, 1, count);
        check_counted(&mut engine, 2, 0);
        engine.append(batch(&engine, 1, count, 10)).unwrap();
        engine.close();
    }
}

#[test]
fn an_engine_that_is_dropped_in_mid_flight_keeps_what_it_answered() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let mut started = 0;
        let mut answered = 0;
        for life in 0..5 {
            let mut engine = open(dir.path(), &options(io));
            let mut found = 0;
            engine.query(QuerySpec::all(Tenant(1), usize::MAX), |_| found += 1).unwrap();
            assert!(answered <= found && found <= started, "{io:?}, life {life}: {answered} <= {found} <= {started}");
            check_counted(&mut engine, 1, found);
            started = found;
            answered = found;
            for _ in 0..20 {
                assert!(engine.start(batch(&engine, 1, started, 100)).is_ok());
                started += 100;
                if life % 2 == 0 {
                    answered += engine.finished().iter().filter(|ack| ack.result.is_ok()).count() as u64 * 100;
                }
            }
            drop(engine);
        }
    }
}

#[test]
fn a_quota_is_kept_by_an_engine_and_counted_across_reopening() {
    let dir = TempDir::new().unwrap();
    let options = EngineOptions { shard_count: Some(2), ..options(IoMode::Fallback) };
    let limits = Limits { events_per_month: Some(250), ..Limits::default() };
    let mut stored = 0;
    for life in 0..3 {
        let mut engine = open(dir.path(), &options);
        engine.set_limits(Tenant(1), limits);
        for _ in 0..4 {
            match engine.append(batch(&engine, 1, stored, 30)) {
                Ok(_) => stored += 30,
                Err((_, AppendError::QuotaExceeded { kind: QuotaKind::EventsPerMonth, used, quota: 250, .. })) => {
                    assert_eq!((life, used), (2, 240));
                }
                Err((_, error)) => panic!("{error:?}"),
            }
        }
        assert_eq!(engine.usage(Tenant(1)).stored_events, stored);
        assert_eq!(engine.usage(Tenant(2)).stored_events, 0);
        drop(engine);
    }
    assert_eq!(stored, 240);
}

#[test]
fn large_payloads_come_back_whole_and_a_batch_beyond_a_segment_is_refused() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let options = EngineOptions { segment_bytes: 4 << 20, ..options(io) };
        let mut engine = open(dir.path(), &options);
        let mut rng = Rng::new(3);
        let payloads: Vec<Vec<u8>> = (0..5)
            .map(|_| {
                let mut payload = vec![0; 1 << 20];
                rng.fill(&mut payload);
                payload
            })
            .collect();
        for payload in &payloads {
            let mut batch = engine.batch(Tenant(1));
            batch.push(EventInput::new("blob", "large", payload)).unwrap();
            engine.append(batch).unwrap();
        }
        let mut too_large = engine.batch(Tenant(1));
        for payload in &payloads[..4] {
            too_large.push(EventInput::new("blob", "large", payload)).unwrap();
        }
        assert_eq!(engine.append(too_large).unwrap_err().1, AppendError::TooLarge);
        for _ in 0..2 {
            let mut at = 0;
            engine
                .query(QuerySpec::all(Tenant(1), 100), |row| {
                    assert!(row.record.payload == payloads[at], "{io:?}: payload {at} changed");
                    at += 1;
                })
                .unwrap();
            assert_eq!(at, payloads.len());
            engine.close();
            engine = open(dir.path(), &options);
        }
    }
}

#[test]
fn a_conflict_names_the_event_and_the_version_and_stores_nothing() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let mut engine = open(dir.path(), &options(io));
        engine.append(batch(&engine, 1, 0, 97 * 2)).unwrap();
        let mut conflicting = engine.batch(Tenant(1));
        conflicting.push(EventInput::new("order.paid", "order-new", b"{}")).unwrap();
        let expecting = |version| EventInput {
            expected_version: Some(Version(version)),
            ..EventInput::new("order.paid", "order-5", b"{}")
        };
        conflicting.push(expecting(2)).unwrap();
        conflicting.push(expecting(2)).unwrap();
        let (returned, error) = engine.append(conflicting).unwrap_err();
        let expected = AppendError::VersionConflict { event_index: 2, expected: Version(2), current: Version(3) };
        assert_eq!(error, expected);
        assert_eq!(returned.event_count(), 3);
        check_counted(&mut engine, 1, 97 * 2);
        let mut right = engine.batch(Tenant(1));
        right.push(expecting(2)).unwrap();
        right.push(expecting(3)).unwrap();
        let (appended, right) = engine.append(right).unwrap();
        assert_eq!(appended.first_position, Position(97 * 2 + 1));
        assert_eq!(right.keys().iter().map(|key| key.version).collect::<Vec<_>>(), [3, 4]);
        let mut never = engine.batch(Tenant(1));
        let must_be_new = EventInput { expected_version: Some(Version(0)), ..EventInput::new("a", "order-new", b"") };
        never.push(must_be_new).unwrap();
        assert!(engine.append(never).is_ok(), "the refused batch left an entity behind");
        engine.close();
    }
}

#[test]
fn shards_can_be_added_and_never_taken_away() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let with = |shard_count| EngineOptions { shard_count, ..options(io) };
        let mut engine = open(dir.path(), &with(Some(2)));
        assert_ne!(engine.shard_of(Tenant(2)), engine.shard_of(Tenant(3)));
        for tenant in [2, 3] {
            engine.append(batch(&engine, tenant, 0, 100)).unwrap();
        }
        let none = engine.query(QuerySpec::all(Tenant(4), 10), |row| panic!("{row:?}")).unwrap();
        assert_eq!(none.total, Some(0));
        for tenant in [2, 3] {
            check_counted(&mut engine, tenant, 100);
        }
        engine.close();
        let refused = Engine::open(dir.path(), &with(Some(1)));
        assert!(matches!(refused, Err(EngineError::Dir(OpenDirError::ShardCount { asked: 1, has: 2 }))));
        let engine = open(dir.path(), &with(None));
        assert_eq!(engine.recovery_reports().len(), 2);
        engine.close();
        let mut engine = open(dir.path(), &with(Some(6)));
        assert_eq!(engine.recovery_reports().len(), 6);
        // Tenants 2 and 3 stay where they are: an embedded engine spreads by number, and 2 and 3 are below both counts.
        check_counted(&mut engine, 5, 0);
        engine.append(batch(&engine, 5, 0, 10)).unwrap();
        check_counted(&mut engine, 5, 10);
        engine.close();
    }
}

#[test]
fn a_second_opener_is_refused_until_the_first_has_gone() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path(), &options(IoMode::Auto));
    let second = Engine::open(dir.path(), &options(IoMode::Auto));
    assert!(matches!(second, Err(EngineError::Dir(OpenDirError::Dir(DataDirError::InUse { .. })))));
    first.close();
    open(dir.path(), &options(IoMode::Auto)).close();
}

#[test]
fn a_retired_segment_takes_its_events_with_it_and_its_file_is_used_again() {
    for io in modes() {
        let dir = TempDir::new().unwrap();
        let mut engine = open(dir.path(), &options(io));
        let mut count = 0;
        while engine.stats(ShardNumber(0)).segments_sealed < 3 {
            engine.append(batch(&engine, 1, count, 500)).unwrap();
            engine.append(batch(&engine, 2, count, 500)).unwrap();
            count += 500;
        }
        engine.settle();
        assert!(engine.retire_oldest(ShardNumber(0)).is_some());
        engine.settle();
        let mut lives = 0;
        let oldest = loop {
            let mut oldest = Vec::new();
            for tenant in [1, 2] {
                let mut positions = Vec::new();
                engine.query(QuerySpec::all(Tenant(tenant), usize::MAX), |row| positions.push(row.position.0)).unwrap();
                assert_eq!(positions.last(), Some(&count), "{io:?}");
                assert!(positions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{io:?}");
                assert!(1 < positions[0], "{io:?}: nothing was retired");
                oldest.push(positions[0]);
            }
            lives += 1;
            if lives == 2 {
                break oldest;
            }
            engine.close();
            engine = open(dir.path(), &options(io));
        };
        // Versions go on, though the events are gone.
        let mut next = engine.batch(Tenant(1));
        next.push(EventInput::new("order.placed", "order-0", b"")).unwrap();
        let (_, next) = engine.append(next).unwrap();
        assert_eq!(next.keys()[0].version, count.div_ceil(97) + 1, "{io:?}, oldest {oldest:?}");
        engine.close();
    }
}

const TYPES: [&str; 5] = ["order.placed", "order.paid", "order.shipped", "user.left", "x"];
const TENANTS: u32 = 3;

fn random_event(rng: &mut Rng, number: u64) -> ModelEvent {
    ModelEvent {
        event_type: TYPES[rng.index(TYPES.len())].to_owned(),
        entity: if rng.chance(9, 10) { format!("entity-{}", rng.below(400)) } else { format!("once-{number}") },
        timestamp: rng.chance(1, 3).then(|| Micros(rng.below(1_000_000) as i64)),
        payload: format!("{{\"number\":{number},\"pad\":\"{}\"}}", "p".repeat(rng.index(120))).into_bytes(),
        metadata: if rng.chance(1, 4) { b"{\"m\":1}".to_vec() } else { Vec::new() },
        expected_version: None,
    }
}

fn random_spec(rng: &mut Rng, count: u64) -> QuerySpec {
    let mut spec =
        QuerySpec::all(Tenant(1 + rng.below(u64::from(TENANTS)) as u32), [0, 1, 10, 100, 5_000][rng.index(5)]);
    if rng.chance(1, 2) {
        spec.order = Order::Descending;
    }
    match rng.below(5) {
        0 => spec.event_type = Some(TypeFilter::Exact(TYPES[rng.index(TYPES.len())].to_owned())),
        1 => spec.event_type = Some(TypeFilter::Prefix(["order.", "u", "none", ""][rng.index(4)].to_owned())),
        2 => spec.exclude_type_prefixes = vec!["order.p".to_owned()],
        _ => {}
    }
    if rng.chance(1, 3) {
        spec.entity = Some(format!("entity-{}", rng.below(410)));
    }
    if rng.chance(1, 4) {
        spec.since = Some(Micros(rng.below(1_000_000) as i64));
    }
    if rng.chance(1, 4) {
        spec.until = Some(Micros(rng.below(1_000_000) as i64));
    }
    if rng.chance(1, 3) {
        spec.offset = rng.below(2_000);
    } else if rng.chance(1, 3) {
        spec.after = Some(Position(rng.below(count)));
    }
    spec
}

#[test]
fn fifty_thousand_events_answer_every_query_as_a_plain_list_would() {
    const EVENTS: u64 = 50_000;
    let dir = TempDir::new().unwrap();
    let mut rng = Rng::new(17);
    let mut model = Model::new(Promise::Durable, KeyBounds::STANDARD);
    let mut engine = open(dir.path(), &options(IoMode::Auto));
    let mut number = 0;
    // Tickets of the engine count from 0, by one for each append.
    let mut ticket = 0;
    while number < EVENTS {
        let tenant = Tenant(1 + rng.below(u64::from(TENANTS)) as u32);
        let events: Vec<ModelEvent> = (0..1 + rng.below(600)).map(|at| random_event(&mut rng, number + at)).collect();
        number += events.len() as u64;
        let mut batch = engine.batch(tenant);
        for event in &events {
            let input = EventInput {
                timestamp: event.timestamp,
                metadata: &event.metadata,
                ..EventInput::new(&event.event_type, &event.entity, &event.payload)
            };
            batch.push(input).unwrap();
        }
        model.appended(ticket, tenant, events);
        let (appended, batch) = engine.append(batch).unwrap();
        model.answered(ticket, &batch, Ok(appended)).unwrap();
        ticket += 1;
    }
    for life in 0..2 {
        assert!(engine.recovery_reports()[0].segments_sealed >= 5 * life, "{:?}", engine.recovery_reports());
        for query in 0..150 {
            let spec = random_spec(&mut rng, EVENTS / u64::from(TENANTS));
            let mut found = Vec::new();
            let summary = engine
                .query(spec.clone(), |row| {
                    let stored = &model.stored(spec.tenant)[row.position.0 as usize - 1];
                    assert_eq!(ModelEvent::of(&row.record), stored.event, "{spec:?}");
                    assert_eq!((row.version, row.received_at), (stored.version, stored.received_at), "{spec:?}");
                    found.push(row.position);
                })
                .unwrap();
            let (positions, has_more, total) = model.expected(&spec, Position(1));
            assert!(found == positions, "life {life}, query {query}: {spec:?}");
            assert_eq!(summary.has_more, has_more, "{spec:?}");
            if spec.after.is_none() {
                assert_eq!(summary.total, Some(total), "{spec:?}");
            }
            if let Some(entity) = &spec.entity {
                assert_eq!(summary.entity_version, Some(model.version(spec.tenant, entity)), "{spec:?}");
            }
        }
        engine.close();
        engine = open(dir.path(), &options(IoMode::Auto));
    }
    engine.close();
}
