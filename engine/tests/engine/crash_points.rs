//! One short life, cut short at every operation, or with every write, sync and allocation failing once.
//!
//! The life has everything that touches the disk: a new log, batches, a roll with its seal, a retirement, the reuse of
//! the retired segment, a merge of runs, and a clean end.

use ringlog_engine::ids::Tenant;
use ringlog_engine::io::DiskError;
use ringlog_engine::limits::RUNS_PER_TIER;
use ringlog_engine::query::SearchError;
use ringlog_engine::shard::jobs::JobError;
use ringlog_engine::shard::recover::OpenError;
use ringlog_engine::shard::{AppendError, ReadOnly};
use ringlog_engine::sim::{Fault, SimDisk};

use crate::rig::{Event, Rig};

/// Whether a life came to its end.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Whole,
    CutShort,
}

/// Lives the life as far as the disk lets it. `rolls`: how many segments are filled.
fn live(rig: &mut Rig, rolls: usize) -> Life {
    match rig.open() {
        Ok(_) => {}
        Err(OpenError::Disk(_) | OpenError::Seal(JobError::Disk(_))) => return Life::CutShort,
        Err(error) => panic!("opening an undamaged log: {error}"),
    }
    for round in 0..rolls {
        for (tenant, count) in [(1, 1), (2, 3)] {
            let events: Vec<Event> = (0..count)
                .map(|at| Event::new("order.placed", &format!("entity-{}", (round + at) % 3), &"x".repeat(700 * at)))
                .collect();
            match rig.append(Tenant(tenant), &events) {
                Some(Ok(_)) => {}
                // The disk is full, and heals by itself.
                Some(Err(AppendError::StorageFull)) => {}
                Some(Err(AppendError::OutcomeUnknown | AppendError::ReadOnly(ReadOnly::WriteFailed))) | None => {
                    return Life::CutShort;
                }
                Some(Err(error)) => panic!("nothing is wrong with the batch: {error:?}"),
            }
        }
        rig.settle();
        if is_over(rig) {
            return Life::CutShort;
        }
        // Without room for another segment there is nothing to roll into yet.
        rig.try_roll();
        if is_over(rig) {
            return Life::CutShort;
        }
        if round == 1 {
            rig.retire();
        }
        if is_over(rig) {
            return Life::CutShort;
        }
    }
    rig.shard().close();
    rig.settle();
    if is_over(rig) { Life::CutShort } else { Life::Whole }
}

fn is_over(rig: &mut Rig) -> bool {
    rig.disk.is_down() || rig.shard().read_only().is_some()
}

/// Opens the log again and checks that what had been acknowledged is there, that it takes events, and that a clean end
/// leaves a clean log.
fn check_next_life(rig: &mut Rig, context: &str) {
    let report = rig.open().unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(report.damage, [], "{context}");
    assert_eq!(report.indexes_rebuilt, 0, "{context}");
    rig.check_acknowledged(context);
    let tenant = Tenant(1);
    let last = rig.all(tenant).unwrap_or_else(|error: SearchError| panic!("{context}: {error}"));
    let next = last.last().map(|last| last.position.0 + 1);
    let appended = rig.put(1, "order.paid", "entity-0", "after");
    if let Some(next) = next {
        assert_eq!(appended.first_position.0, next, "{context}");
    }
    rig.close();
    let report = rig.open().unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!((report.damage.len(), report.tail), (0, None), "{context}");
    // What the first life did not answer may have been found: from here on only what is new counts.
    let after = rig.acknowledged.get_mut(&tenant).and_then(Vec::pop).expect("just appended");
    assert_eq!(rig.all(tenant).map(|found| found.last().cloned()), Ok(Some(after)), "{context}");
}

fn crash_everywhere(seed: u64, rolls: usize) -> u64 {
    for operations in 0.. {
        let mut rig = Rig::with_disk(SimDisk::new(seed ^ operations));
        rig.disk.crash_after(operations);
        let outcome = live(&mut rig, rolls);
        let is_whole = outcome == Life::Whole && !rig.disk.is_down();
        rig.crash();
        check_next_life(&mut rig, &format!("seed {seed}, power lost after {operations} operations"));
        if is_whole {
            return operations;
        }
    }
    unreachable!("some life is whole")
}

#[test]
fn the_power_may_fail_at_every_operation_of_a_life() {
    let mut points = 0;
    for seed in 0..4 {
        points += crash_everywhere(seed << 32, 3);
    }
    println!("{points} crash points");
    assert!(400 < points);
}

#[test]
fn the_power_may_fail_at_every_operation_of_a_life_with_a_merge() {
    let points = crash_everywhere(7 << 32, RUNS_PER_TIER + 1);
    println!("{points} crash points");
    assert!(300 < points);
}

#[test]
fn the_power_may_fail_at_every_operation_of_a_recovery() {
    // A torn tail and an unsealed full segment: recovery has everything to do.
    for first in [60, 75, 90, 105] {
        for operations in 0.. {
            let mut rig = Rig::with_disk(SimDisk::new(first));
            rig.disk.crash_after(first);
            let _ = live(&mut rig, 3);
            rig.crash();
            rig.disk.crash_after(operations);
            let opened = rig.open();
            let is_whole = !rig.disk.is_down();
            assert!(opened.is_ok() || !is_whole, "{opened:?}");
            rig.crash();
            check_next_life(&mut rig, &format!("crash at {first}, then at {operations} of the recovery"));
            if is_whole {
                break;
            }
        }
    }
}

#[test]
fn every_write_and_every_sync_may_fail_once() {
    for fault in [Fault::Write, Fault::Sync] {
        for goes_on_as in ["a restart of the process", "a power cut"] {
            let mut failures = 0;
            for nth in 0.. {
                let mut rig = Rig::with_disk(SimDisk::new(nth));
                rig.disk.fail_nth(fault, nth);
                let outcome = live(&mut rig, 3);
                let context = format!("{fault:?} {nth} failed, then {goes_on_as}");
                if outcome == Life::CutShort && rig.shard.is_some() {
                    // Latched: the reason is named and no event is taken.
                    assert_eq!(rig.shard().read_only(), Some(ReadOnly::WriteFailed), "{context}");
                    let refused = rig.append(Tenant(1), &[Event::new("a", "b", "c")]);
                    assert_eq!(refused, Some(Err(AppendError::ReadOnly(ReadOnly::WriteFailed))), "{context}");
                    rig.check_acknowledged(&context);
                }
                // The fault that was never met must not meet the next life.
                rig.disk.fail_nth(fault, u64::MAX);
                if goes_on_as == "a power cut" {
                    rig.crash()
                } else {
                    rig.stop()
                }
                check_next_life(&mut rig, &context);
                if outcome == Life::Whole {
                    break;
                }
                failures += 1;
            }
            println!("{fault:?}, {goes_on_as}: {failures} failures");
            assert!(10 < failures);
        }
    }
}

#[test]
fn every_allocation_may_find_the_disk_full_once() {
    let mut lives = 0;
    for nth in 0..20 {
        let mut rig = Rig::with_disk(SimDisk::new(nth));
        rig.disk.fail_nth(Fault::Space, nth);
        let outcome = live(&mut rig, 3);
        let context = format!("allocation {nth} failed");
        if let Some(shard) = &rig.shard {
            assert_eq!(shard.read_only(), None, "{context}: a full disk does not latch");
        }
        lives += u64::from(outcome == Life::Whole);
        rig.disk.fail_nth(Fault::Space, u64::MAX);
        rig.crash();
        check_next_life(&mut rig, &context);
    }
    assert!(15 < lives, "{lives}");
}

#[test]
fn a_full_disk_refuses_and_writing_resumes_when_there_is_room() {
    let mut rig = Rig::new(1);
    rig.disk.set_capacity(3 * crate::rig::SEGMENT_BYTES);
    rig.open().unwrap();
    let mut refused = 0;
    for round in 0..100 {
        match rig.append(Tenant(1), &[Event::new("order.placed", &format!("entity-{round}"), &"x".repeat(3000))]) {
            Some(Ok(_)) => {}
            Some(Err(AppendError::StorageFull)) => {
                refused += 1;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 1);
    rig.check_acknowledged("a full disk");
    rig.disk.set_capacity(1 << 30);
    rig.now.monotonic_us += 2_000_000;
    rig.settle();
    rig.put(1, "order.placed", "entity-0", "again");
    rig.check_acknowledged("room again");
    rig.crash();
    assert_eq!(rig.open().map(|report| report.damage), Ok(Vec::new()));
    rig.check_acknowledged("after a power cut");
    assert_ne!(rig.all(Tenant(1)), Err(SearchError::Disk(DiskError::NoSpace)));
}

#[test]
fn nothing_smaller_overtakes_a_batch_that_found_the_disk_full() {
    for large_bytes in (1_000..12_000).step_by(1_000) {
        let mut rig = Rig::new(1);
        rig.disk.set_capacity(3 * crate::rig::SEGMENT_BYTES);
        rig.open().unwrap();
        let sized = |bytes: usize| [Event::new("order.placed", "entity", &"x".repeat(bytes))];
        // All of them wait in the same turn, and the last ones fit where the first no longer does.
        let events = (0..100).flat_map(|_| [large_bytes, 600, 60].map(sized));
        let tickets: Vec<u64> = events.map(|events| rig.start(Tenant(1), &events).unwrap()).collect();
        rig.settle();
        let results: Vec<_> = tickets.iter().map(|ticket| rig.answered(*ticket).unwrap()).collect();
        let stored = results.iter().take_while(|result| result.is_ok()).count();
        assert!(0 < stored && stored < results.len(), "{stored}");
        assert!(results[stored..].iter().all(|result| *result == Err(AppendError::StorageFull)), "{large_bytes}");
        rig.check_acknowledged("a full disk");
    }
}
