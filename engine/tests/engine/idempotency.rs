//! A batch with an idempotency key is stored once: answered again as it was, whatever happens in between.

use ringlog_engine::event::{IdempotencyKey, KeyClass, UNKNOWN_VERSION};
use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::io::Disk;
use ringlog_engine::query::QuerySpec;
use ringlog_engine::shard::{AppendError, Appended, KeyBounds, Limits, Output, ReadOnly};
use ringlog_engine::sim::{Fault, SimDisk};

use crate::rig::{Event, Rig};

const TENANT: Tenant = Tenant(1);
const HOUR_US: i64 = 3_600_000_000;

fn opened(seed: u64) -> Rig {
    let mut rig = Rig::new(seed);
    rig.open().unwrap();
    rig
}

fn key(key: u64) -> IdempotencyKey {
    with_body(key, key)
}

fn with_body(key: u64, body: u64) -> IdempotencyKey {
    let wide = |number: u64| u128::from(number).to_le_bytes();
    IdempotencyKey { class: KeyClass::Request, key: wide(key), body: wide(body) }
}

/// The key of a frame, whose number may be a request's, too.
fn frame(number: u64) -> IdempotencyKey {
    IdempotencyKey { class: KeyClass::Frame, ..key(number) }
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|at| Event::new("order.placed", &format!("order-{}", at % 3), "{}")).collect()
}

fn append(rig: &mut Rig, key: IdempotencyKey, count: usize) -> Result<Appended, AppendError> {
    rig.append_keyed(TENANT, key, &events(count)).expect("the power is on")
}

/// Appends what must not be known yet.
fn store(rig: &mut Rig, key: IdempotencyKey, count: usize) -> Appended {
    let appended = append(rig, key, count).expect("an append that nothing hinders");
    assert!(!appended.is_replay);
    appended
}

/// Appends what must be known, as it was answered before.
fn check_replay(rig: &mut Rig, key: IdempotencyKey, count: usize, original: Appended, context: &str) {
    let before = rig.shard().stats().events_appended;
    assert_eq!(append(rig, key, count), Ok(Appended { is_replay: true, ..original }), "{context}");
    assert_eq!(rig.shard().stats().events_appended, before, "{context}");
}

fn stored_count(rig: &mut Rig) -> usize {
    rig.all(TENANT).unwrap().len()
}

#[test]
fn a_batch_that_is_sent_again_gets_the_answer_that_it_got() {
    let mut rig = opened(1);
    rig.put(1, "order.placed", "order-0", "{}");
    let one = store(&mut rig, key(7), 1);
    let versions = rig.answered_versions.clone();
    let many = store(&mut rig, key(8), 5);
    rig.put(1, "order.placed", "order-0", "{}");
    check_replay(&mut rig, key(7), 1, one, "one event");
    assert_eq!((versions.as_slice(), rig.answered_versions.as_slice()), ([2].as_slice(), [2].as_slice()));
    check_replay(&mut rig, key(8), 5, many, "five events");
    assert_eq!(rig.answered_versions, [UNKNOWN_VERSION; 5]);
    assert_eq!(stored_count(&mut rig), 8);
    // What the answer does not hold is where it says.
    let spec = QuerySpec { after: Some(one.first_position), ..QuerySpec::all(TENANT, 5) };
    assert_eq!(many.first_position.0, one.first_position.0 + 1);
    let versions: Vec<u64> = rig.query(spec).unwrap().0.iter().map(|found| found.version.0).collect();
    assert_eq!(versions, [3, 1, 1, 4, 2]);
    assert_eq!(rig.shard().stats().batches_replayed, 2);
}

#[test]
fn another_body_under_the_same_key_is_refused() {
    let mut rig = opened(1);
    let original = store(&mut rig, key(7), 1);
    assert_eq!(append(&mut rig, with_body(7, 8), 1), Err(AppendError::IdempotencyMismatch));
    // The same hash of another number of events is not the same request.
    assert_eq!(append(&mut rig, key(7), 2), Err(AppendError::IdempotencyMismatch));
    check_replay(&mut rig, key(7), 1, original, "the refusals changed nothing");
    assert_eq!(stored_count(&mut rig), 1);
    // The key is another tenant's own.
    let other = rig.append_keyed(Tenant(2), with_body(7, 8), &events(1)).unwrap().unwrap();
    assert!(!other.is_replay);
}

#[test]
fn a_batch_without_a_key_is_stored_as_often_as_it_comes() {
    let mut rig = opened(1);
    for _ in 0..3 {
        rig.put(1, "order.placed", "order-0", "{}");
    }
    assert_eq!((stored_count(&mut rig), rig.shard().key_count()), (3, 0));
    rig.roll();
    assert!(!rig.files(".run").iter().any(|name| name.starts_with("key-")), "a segment without keys has no key run");
}

/// One after the other in the queue, answered with one write.
#[test]
fn a_replay_waits_for_the_batch_that_is_on_its_way() {
    let mut rig = opened(1);
    // The first block of a log is its checkpoint.
    rig.put(2, "order.placed", "order-0", "{}");
    rig.settle();
    let fingerprint = rig.config.fingerprint;
    let now = rig.now;
    let start = |rig: &mut Rig, ticket, idempotency| {
        let mut batch = crate::rig::batch_of(TENANT, fingerprint, &events(1), None);
        batch.set_idempotency(idempotency);
        rig.shard().append(ticket, batch).unwrap();
    };
    start(&mut rig, 900, key(7));
    start(&mut rig, 901, key(7));
    start(&mut rig, 902, with_body(7, 8));
    let mut out = Output::default();
    rig.shard().turn(now, &mut out);
    assert_eq!((out.disk.len(), out.acks.len()), (1, 0), "no answer leaves before the disk's");
    for op in out.disk.drain(..) {
        rig.disk.submit(op);
    }
    start(&mut rig, 903, key(7));
    rig.shard().turn(now, &mut out);
    assert_eq!((out.disk.len(), out.acks.len()), (0, 0), "a replay writes nothing and waits");
    for done in rig.disk.complete_some(usize::MAX) {
        rig.shard().disk_done(done);
    }
    rig.shard().turn(now, &mut out);
    let answers: Vec<_> =
        out.acks.iter().map(|ack| (ack.ticket, ack.result.map(|appended| appended.is_replay))).collect();
    let mismatch = Err(AppendError::IdempotencyMismatch);
    assert_eq!(answers, [(900, Ok(false)), (901, Ok(true)), (902, mismatch), (903, Ok(true))]);
}

#[test]
fn a_replay_of_a_batch_whose_write_failed_is_as_unknown_as_the_batch() {
    let mut rig = opened(1);
    rig.put(2, "order.placed", "order-0", "{}");
    rig.settle();
    let first = rig.start_keyed(TENANT, key(7), &events(1)).unwrap();
    let second = rig.start_keyed(TENANT, key(7), &events(1)).unwrap();
    rig.disk.fail_nth(Fault::Write, 0);
    assert_eq!(rig.answer(first), Some(Err(AppendError::OutcomeUnknown)));
    assert_eq!(rig.answer(second), Some(Err(AppendError::OutcomeUnknown)));
    assert_eq!(append(&mut rig, key(7), 1), Err(AppendError::ReadOnly(ReadOnly::WriteFailed)));
    // A restart finds it or not; either way it is stored once.
    rig.crash();
    rig.open().unwrap();
    append(&mut rig, key(7), 1).unwrap();
    assert_eq!(stored_count(&mut rig), 1);
}

#[test]
fn a_replay_is_not_counted_and_a_full_quota_does_not_hinder_it() {
    let mut rig = opened(1);
    rig.shard().set_limits(TENANT, Limits { events_per_month: Some(3), ..Limits::default() });
    let original = store(&mut rig, key(7), 3);
    check_replay(&mut rig, key(7), 3, original, "the quota is used up");
    let wall = rig.now.wall;
    assert_eq!(rig.shard().usage(TENANT, wall).events_this_month, 3);
}

#[test]
fn a_batch_that_was_refused_is_not_remembered() {
    let mut rig = opened(1);
    rig.shard().set_limits(TENANT, Limits { events_per_month: Some(0), ..Limits::default() });
    assert!(matches!(append(&mut rig, key(7), 1), Err(AppendError::QuotaExceeded { .. })));
    assert_eq!(rig.shard().key_count(), 0);
    rig.shard().set_limits(TENANT, Limits::default());
    store(&mut rig, key(7), 1);
}

#[test]
fn a_key_holds_for_a_day_of_received_time() {
    let mut rig = opened(1);
    rig.is_wall_frozen = true;
    let original = store(&mut rig, key(7), 1);
    rig.now.wall = Micros(original.received_at.0 + 24 * HOUR_US - 1);
    check_replay(&mut rig, key(7), 1, original, "a moment before");
    rig.now.wall = Micros(rig.now.wall.0 + 1);
    let second = store(&mut rig, key(7), 1);
    check_replay(&mut rig, key(7), 1, second, "from then on it stands for the second one");
    // The clock steps back: the tenant's time does not.
    rig.now.wall = original.received_at;
    check_replay(&mut rig, key(7), 1, second, "after the clock stepped back");
}

#[test]
fn the_last_keys_of_a_tenant_are_remembered_and_the_memory_is_bounded() {
    let mut rig = Rig::new(1);
    rig.config.keys = KeyBounds { per_tenant: 10, per_shard: 15, ..KeyBounds::STANDARD };
    rig.open().unwrap();
    let originals: Vec<Appended> = (0..30).map(|at| store(&mut rig, key(at), 1)).collect();
    assert_eq!(rig.shard().key_count(), 10);
    for at in 20..30 {
        check_replay(&mut rig, key(at), 1, originals[at as usize], "one of the last ten");
    }
    for at in 0..10 {
        assert!(!rig.append_keyed(Tenant(2), key(at), &events(1)).unwrap().unwrap().is_replay);
    }
    assert_eq!(rig.shard().key_count(), 15, "the shard's own bound");
    store(&mut rig, key(19), 1);
    // All of it goes back once its time is over, though nobody sends anything with a key.
    rig.is_wall_frozen = true;
    rig.now.wall = Micros(rig.now.wall.0 + 25 * HOUR_US);
    rig.turn(20);
    rig.turn(20);
    rig.turn(20);
    assert_eq!(rig.shard().key_count(), 0);
}

#[test]
fn a_frame_and_a_request_of_one_number_are_two_batches() {
    let mut rig = opened(1);
    let request = store(&mut rig, key(7), 1);
    let of_frame = store(&mut rig, frame(7), 2);
    check_replay(&mut rig, key(7), 1, request, "the request");
    check_replay(&mut rig, frame(7), 2, of_frame, "the frame");
    rig.roll();
    rig.stop();
    rig.open().unwrap();
    check_replay(&mut rig, key(7), 1, request, "the request after a restart");
    check_replay(&mut rig, frame(7), 2, of_frame, "the frame after a restart");
}

/// However many frames come, of however many tenants: in this life, in the next one, and when key runs are merged.
#[test]
fn a_flood_of_frames_pushes_out_no_key_of_a_request() {
    let mut rig = Rig::new(1);
    rig.config.keys = KeyBounds {
        per_tenant: 4,
        per_shard: 8,
        frames_per_tenant: 3,
        frames_per_shard: 5,
        runs: 3,
        dead: 0,
        ..KeyBounds::STANDARD
    };
    rig.open().unwrap();
    let requests: Vec<Appended> = (0..4).map(|at| store(&mut rig, key(at), 1)).collect();
    for round in 0..12u64 {
        for at in 0..10 {
            store(&mut rig, frame(10 * round + at), 2);
        }
        for tenant in 2..6 {
            assert!(!rig.append_keyed(Tenant(tenant), frame(round), &events(1)).unwrap().unwrap().is_replay);
        }
        let check = |rig: &mut Rig, context: &str| {
            for (at, original) in requests.iter().enumerate() {
                check_replay(rig, key(at as u64), 1, *original, &format!("{context}, round {round}"));
            }
            assert_eq!(rig.shard().key_count(), 4 + 5, "{context}");
        };
        check(&mut rig, "in the same life");
        match round % 4 {
            // Runs are merged as soon as there are three.
            0 => rig.roll(),
            1 => {
                rig.settle();
                rig.stop();
                rig.open().unwrap();
            }
            2 => {
                rig.settle();
                rig.crash();
                rig.open().unwrap();
            }
            _ => {
                rig.settle();
                rig.close();
                rig.open().unwrap();
            }
        }
        check(&mut rig, "after it");
    }
    let runs = key_runs(&rig);
    assert_eq!(runs.len(), 1, "{runs:?}");
    // It has no more than what was remembered when it was merged.
    let bytes = rig.disk.peek(&format!("{}/{}", rig.config.home.dir, runs[0])).unwrap();
    assert!(bytes.len() <= 4096 + (4 + 5) * 64, "{} bytes", bytes.len());
    // Their own bounds hold: the tenant's newest is known, its oldest is not.
    let newest = store(&mut rig, frame(1_000), 2);
    check_replay(&mut rig, frame(1_000), 2, newest, "the newest frame");
    let again = store(&mut rig, frame(0), 2);
    // And the other way round: requests take nothing from frames.
    for at in 100..120 {
        store(&mut rig, key(at), 1);
    }
    check_replay(&mut rig, frame(0), 2, again, "behind a flood of requests");
    store(&mut rig, key(0), 1);
}

/// The answer was on its way when the process died.
#[test]
fn a_key_survives_the_death_of_the_process_between_append_and_answer() {
    for is_power_cut in [false, true] {
        let mut rig = opened(3);
        rig.put(2, "order.placed", "order-0", "{}");
        rig.settle();
        let mut out = Output::default();
        let mut batch = crate::rig::batch_of(TENANT, rig.config.fingerprint, &events(2), None);
        batch.set_idempotency(key(7));
        rig.shard().append(900, batch).unwrap();
        let now = rig.now;
        rig.shard().turn(now, &mut out);
        for op in out.disk {
            rig.disk.submit(op);
        }
        assert_eq!(rig.disk.complete_some(usize::MAX).len(), 1);
        if is_power_cut {
            rig.crash();
        } else {
            rig.stop();
        }
        rig.open().unwrap();
        let appended = append(&mut rig, key(7), 2).unwrap();
        assert_eq!((appended.is_replay, appended.first_position.0, stored_count(&mut rig)), (true, 1, 2));
    }
}

#[test]
fn keys_survive_restarts_and_the_retirement_of_their_segments() {
    let mut rig = opened(1);
    let mut originals = Vec::new();
    for round in 0..6u64 {
        originals.push((key(2 * round), 1, store(&mut rig, key(2 * round), 1)));
        originals.push((key(2 * round + 1), 3, store(&mut rig, key(2 * round + 1), 3)));
        if round % 2 == 1 {
            rig.roll();
        }
    }
    let check = |rig: &mut Rig, context: &str| {
        for &(key, count, original) in &originals {
            check_replay(rig, key, count, original, context);
        }
    };
    check(&mut rig, "in the same life");
    rig.close();
    let report = rig.open().unwrap();
    assert_eq!((report.segments_sealed, report.indexes_rebuilt), (3, 0));
    check(&mut rig, "after a clean end");
    rig.crash();
    rig.open().unwrap();
    check(&mut rig, "after a power cut");
    rig.retire();
    rig.retire();
    assert_eq!(rig.shard().snapshot().segments.len(), 1);
    rig.crash();
    rig.open().unwrap();
    check(&mut rig, "after the events are gone");
}

/// Segments with keys, whose key runs become one; those of the first tenant's last batches are kept.
fn merged(rig: &mut Rig) -> Vec<Appended> {
    rig.config.keys = KeyBounds { per_tenant: 5, runs: 4, ..KeyBounds::STANDARD };
    rig.open().unwrap();
    let mut originals = Vec::new();
    for round in 0..4 {
        for at in 0..3 {
            originals.push(store(rig, key(3 * round + at), 1));
        }
        rig.roll();
    }
    rig.settle();
    originals
}

fn key_runs(rig: &Rig) -> Vec<String> {
    let mut names = rig.files(".run");
    names.retain(|name| name.starts_with("key-"));
    names
}

#[test]
fn many_key_runs_become_one_without_what_is_forgotten() {
    let mut rig = Rig::new(1);
    let originals = merged(&mut rig);
    assert_eq!(key_runs(&rig), ["key-0000000000000001-0000000000000004.run"]);
    assert_eq!(rig.shard().stats().key_runs_merged, 1);
    let bytes = rig.disk.peek(&format!("{}/{}", rig.config.home.dir, key_runs(&rig)[0])).unwrap();
    assert_eq!(bytes.len(), 4096 + 5 * 64);
    rig.close();
    assert_eq!(rig.open().unwrap().indexes_rebuilt, 0);
    assert_eq!(rig.shard().key_count(), 5);
    for at in 7..12 {
        check_replay(&mut rig, key(at), 1, originals[at as usize], "one of the last five");
    }
    store(&mut rig, key(6), 1);
}

#[test]
fn a_rotten_or_missing_key_run_is_made_again_while_its_segments_exist() {
    for offset in [Some(0), Some(20), Some(4096), Some(4200), None] {
        let mut rig = Rig::new(1);
        let originals = merged(&mut rig);
        rig.close();
        let path = format!("{}/{}", rig.config.home.dir, key_runs(&rig)[0]);
        match offset {
            Some(offset) => rig.disk.flip_bit(&path, offset, 0),
            None => rig.disk.remove(&path).unwrap(),
        }
        let report = rig.open().unwrap();
        assert_eq!((report.indexes_rebuilt, report.damage.len()), (4, 0), "{offset:?}");
        for at in 7..12 {
            check_replay(&mut rig, key(at), 1, originals[at as usize], "one of the last five");
        }
        rig.check_acknowledged("a rotten key run");
        rig.settle();
        rig.close();
        assert_eq!(rig.open().unwrap().indexes_rebuilt, 0, "{offset:?}: not repaired");
        check_replay(&mut rig, key(11), 1, originals[11], "after the repair");
    }
}

/// Nobody knows which keys were in it: what was stored might be stored again.
/// The batch that was stored last under a key is forgotten, and so is the one before it: reading its segment again must not
/// bring that one back.
#[test]
fn keys_that_a_merge_has_dropped_do_not_come_back_with_their_segment() {
    let other = Tenant(2);
    let mut rig = Rig::new(1);
    rig.config.keys = KeyBounds { per_shard: 2, runs: 2, ..KeyBounds::STANDARD };
    rig.open().unwrap();
    let mut number = 100;
    let mut send_other = |rig: &mut Rig| {
        number += 1;
        assert!(rig.append_keyed(other, key(number), &events(1)).unwrap().is_ok());
    };
    let first = store(&mut rig, key(1), 1);
    send_other(&mut rig);
    send_other(&mut rig);
    rig.roll();
    // The shard has room for two keys.
    let second = store(&mut rig, key(1), 1);
    assert!(first.first_position < second.first_position);
    store(&mut rig, key(2), 1);
    for _ in 0..6 {
        send_other(&mut rig);
    }
    rig.roll();
    assert_eq!(rig.shard().stats().key_runs_merged, 1);
    rig.close();
    rig.disk.remove("shard-0000/log-0000000000000001.idx").unwrap();
    rig.open().unwrap();
    store(&mut rig, key(1), 1);
}

#[test]
fn a_rotten_key_run_whose_segments_are_gone_makes_the_shard_read_only() {
    let mut rig = Rig::new(1);
    merged(&mut rig);
    rig.retire();
    rig.close();
    let path = format!("{}/{}", rig.config.home.dir, key_runs(&rig)[0]);
    rig.disk.flip_bit(&path, 4200, 1);
    let report = rig.open().unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!(rig.shard().read_only(), Some(ReadOnly::Damaged));
    rig.check_acknowledged("a rotten key run of retired segments");
}

/// The rename of a merged run was not durable, its sync failed, and only the process ended: what the run replaces must not
/// go before it is.
#[test]
fn leftovers_of_a_merge_go_only_when_the_merged_run_is_durable() {
    let mut rig = Rig::new(1);
    rig.config.keys = KeyBounds { runs: 100, ..KeyBounds::STANDARD };
    rig.open().unwrap();
    let original = store(&mut rig, key(7), 1);
    rig.roll();
    store(&mut rig, key(8), 1);
    rig.roll();
    rig.close();
    let image = crate::rig::Image::of(&rig);
    for seed in 0..320 {
        let mut next = Rig::with_disk(image.load(seed));
        next.config = rig.config.clone();
        next.config.keys.runs = 2;
        next.open().unwrap();
        // Two syncs prepare the next segment; the merge's first one is of the file.
        next.disk.fail_nth(Fault::Sync, 3);
        next.settle();
        assert_eq!(next.shard().read_only(), Some(ReadOnly::WriteFailed));
        assert_eq!(key_runs(&next).len(), 3, "the merged one is seen, and the others are still there");
        next.stop();
        // The power goes while the leftovers do, or soon after.
        next.disk.crash_after(seed % 16);
        let _ = next.open();
        next.crash();
        assert_eq!(next.open().unwrap().indexes_rebuilt, 0, "seed {seed}: the runs of a segment are gone");
        check_replay(&mut next, key(7), 1, original, &format!("seed {seed}"));
    }
}

fn live_with_keys(rig: &mut Rig, answered: &mut Vec<(u64, Appended)>) -> Result<(), Option<AppendError>> {
    rig.config.keys = KeyBounds { runs: 2, dead: 0, per_tenant: 4, ..KeyBounds::STANDARD };
    rig.open().map_err(|_| None)?;
    for round in 0..6u64 {
        for at in 0..2 {
            let number = 2 * round + at;
            let appended = rig.append_keyed(TENANT, key(number), &events(1 + at as usize)).ok_or(None)?;
            answered.push((number, appended.map_err(Some)?));
        }
        if !rig.try_roll() {
            return Err(None);
        }
        if round == 3 {
            rig.retire();
        }
    }
    Ok(())
}

#[test]
fn no_crash_makes_a_remembered_batch_be_stored_twice() {
    let mut points = 0;
    for operations in 0.. {
        let mut rig = Rig::with_disk(SimDisk::new(operations));
        rig.disk.crash_after(operations);
        let mut answered = Vec::new();
        let outcome = live_with_keys(&mut rig, &mut answered);
        rig.crash();
        rig.open().unwrap();
        for &(number, original) in answered.iter().rev().take(3).rev() {
            let context = format!("power lost after {operations} operations");
            check_replay(&mut rig, key(number), 1 + number as usize % 2, original, &context);
        }
        points = operations;
        if outcome.is_ok() {
            break;
        }
    }
    assert!(150 < points, "{points}");
}

#[test]
fn no_failed_write_sync_or_allocation_makes_a_remembered_batch_be_stored_twice() {
    for fault in [Fault::Write, Fault::Sync, Fault::Space] {
        for nth in 0..60 {
            let mut rig = Rig::with_disk(SimDisk::new(nth));
            rig.disk.fail_nth(fault, nth);
            let mut answered = Vec::new();
            let outcome = live_with_keys(&mut rig, &mut answered);
            let known = matches!(
                outcome,
                Ok(())
                    | Err(
                        None | Some(AppendError::OutcomeUnknown | AppendError::ReadOnly(_) | AppendError::StorageFull)
                    )
            );
            assert!(known, "{outcome:?}");
            rig.disk.fail_nth(fault, u64::MAX);
            if nth % 2 == 0 {
                rig.crash()
            } else {
                rig.stop()
            }
            rig.open().unwrap();
            for &(number, original) in answered.iter().rev().take(3).rev() {
                let context = format!("{fault:?} {nth}");
                check_replay(&mut rig, key(number), 1 + number as usize % 2, original, &context);
            }
        }
    }
}
