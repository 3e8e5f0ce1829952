//! What a tenant may store: refused whole at the limit, counted exactly, in months, across crashes.

use ringlog_engine::format::batch::BATCH_HEADER_BYTES;
use ringlog_engine::format::block::{BLOCK_HEADER_BYTES, BlockKind};
use ringlog_engine::format::segment::SEGMENT_BLOCKS_FROM;
use ringlog_engine::ids::{Micros, Tenant, Version};
use ringlog_engine::month::Month;
use ringlog_engine::shard::{AppendError, Limits, Output, QuotaKind, Usage};

use crate::rig::{Event, Rig, batch_of};

const TENANT: Tenant = Tenant(1);
/// A record of `some_events` without its payload.
const RECORD_BYTES: u64 = 32 + "order.placed".len() as u64 + "order-0".len() as u64;

fn opened(seed: u64) -> Rig {
    let mut rig = Rig::new(seed);
    rig.is_wall_frozen = true;
    rig.open().unwrap();
    rig
}

fn some_events(count: usize) -> Vec<Event> {
    vec![Event::new("order.placed", "order-0", ""); count]
}

fn events_per_month(limit: u64) -> Limits {
    Limits { events_per_month: Some(limit), ..Limits::default() }
}

fn usage(rig: &mut Rig, tenant: Tenant) -> Usage {
    let wall = rig.now.wall;
    rig.shard().usage(tenant, wall)
}

/// Appends, and the outcome as what was used of the limit.
fn append(rig: &mut Rig, count: usize) -> Result<(), u64> {
    match rig.append(TENANT, &some_events(count)).expect("the power is on") {
        Ok(_) => Ok(()),
        Err(AppendError::QuotaExceeded { used, .. }) => Err(used),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_batch_that_would_cross_the_quota_is_refused_whole() {
    let mut rig = opened(1);
    rig.shard().set_limits(TENANT, events_per_month(10));
    assert_eq!(append(&mut rig, 8), Ok(()));
    rig.settle();
    let blocks = rig.shard().stats().blocks_submitted;
    let month = Month::of(rig.now.wall);
    let refused = rig.append(TENANT, &some_events(3)).unwrap();
    let resets_at = Some(month.ends_at());
    assert_eq!(
        refused,
        Err(AppendError::QuotaExceeded { kind: QuotaKind::EventsPerMonth, used: 8, quota: 10, resets_at })
    );
    rig.settle();
    assert_eq!(rig.shard().stats().blocks_submitted, blocks, "a refusal costs the disk nothing");
    assert_eq!(append(&mut rig, 2), Ok(()));
    assert_eq!(append(&mut rig, 1), Err(10));
    let expected = Usage {
        month,
        events_this_month: 10,
        bytes_this_month: 10 * RECORD_BYTES,
        resets_at: month.ends_at(),
        stored_events: 10,
        stored_bytes: 10 * RECORD_BYTES,
        last_received_at: Some(rig.now.wall),
    };
    assert_eq!(usage(&mut rig, TENANT), expected);
    assert_eq!(rig.all(TENANT).unwrap().len(), 10);
    // Another tenant has its own.
    rig.put(2, "order.placed", "order-0", "");
    assert_eq!(usage(&mut rig, Tenant(2)).stored_events, 1);
}

#[test]
fn a_month_begins_at_its_first_instant() {
    let mut rig = opened(1);
    rig.shard().set_limits(TENANT, events_per_month(5));
    let month = Month::of(rig.now.wall);
    rig.now.wall = Micros(month.ends_at().0 - 1);
    assert_eq!(append(&mut rig, 5), Ok(()));
    assert_eq!(append(&mut rig, 1), Err(5));
    rig.now.wall = month.ends_at();
    assert_eq!(usage(&mut rig, TENANT).events_this_month, 0);
    assert_eq!(append(&mut rig, 3), Ok(()));
    assert_eq!((usage(&mut rig, TENANT).month, usage(&mut rig, TENANT).events_this_month), (Month(month.0 + 1), 3));
    // The clock steps back: received time does not, and the month neither.
    rig.now.wall = Micros(month.ends_at().0 - 1);
    assert_eq!(append(&mut rig, 3), Err(3));
    assert_eq!(append(&mut rig, 2), Ok(()));
    assert_eq!(usage(&mut rig, TENANT).stored_events, 10);
}

#[test]
fn stored_bytes_are_those_of_records_and_never_begin_again() {
    let mut rig = opened(1);
    rig.shard().set_limits(TENANT, Limits { stored_bytes: Some(4 * RECORD_BYTES), ..Limits::default() });
    assert_eq!(append(&mut rig, 3), Ok(()));
    rig.now.wall = Month::of(rig.now.wall).ends_at();
    let refused = rig.append(TENANT, &some_events(2)).unwrap();
    let (used, quota) = (3 * RECORD_BYTES, 4 * RECORD_BYTES);
    assert_eq!(refused, Err(AppendError::QuotaExceeded { kind: QuotaKind::StoredBytes, used, quota, resets_at: None }));
    assert_eq!(append(&mut rig, 1), Ok(()));
    assert_eq!(append(&mut rig, 1), Err(quota));
    assert_eq!(usage(&mut rig, TENANT).bytes_this_month, RECORD_BYTES);
}

#[test]
fn a_changed_limit_holds_for_batches_that_already_wait() {
    let mut rig = opened(1);
    rig.put(2, "order.placed", "order-0", "");
    rig.shard().set_limits(TENANT, events_per_month(0));
    assert_eq!(append(&mut rig, 1), Err(0));
    let fingerprint = rig.config.fingerprint;
    rig.shard().append(900, batch_of(TENANT, fingerprint, &some_events(2), None)).unwrap();
    rig.shard().append(901, batch_of(TENANT, fingerprint, &some_events(2), None)).unwrap();
    rig.shard().set_limits(TENANT, events_per_month(3));
    let mut out = Output::default();
    let now = rig.now;
    rig.shard().turn(now, &mut out);
    assert_eq!(usage(&mut rig, TENANT).events_this_month, 2);
    rig.shard().set_limits(TENANT, Limits::default());
    assert_eq!(rig.shard().limits(TENANT), Limits::default());
}

#[test]
fn a_refusal_leaves_with_the_events_that_it_counts() {
    let mut rig = opened(1);
    rig.put(1, "order.placed", "order-0", "");
    rig.settle();
    rig.shard().set_limits(TENANT, events_per_month(2));
    let fingerprint = rig.config.fingerprint;
    rig.shard().append(900, batch_of(TENANT, fingerprint, &some_events(1), None)).unwrap();
    rig.shard().append(901, batch_of(TENANT, fingerprint, &some_events(1), None)).unwrap();
    let (mut out, now) = (Output::default(), rig.now);
    rig.shard().turn(now, &mut out);
    assert!(out.acks.is_empty(), "the first event is not durable yet");
    for op in out.disk.drain(..) {
        rig.disk.submit(op);
    }
    for done in rig.disk.complete_some(usize::MAX) {
        rig.shard().disk_done(done);
    }
    rig.shard().turn(now, &mut out);
    let answers: Vec<_> = out.acks.iter().map(|ack| (ack.ticket, ack.result.is_ok())).collect();
    assert_eq!(answers, [(900, true), (901, false)]);
}

#[test]
fn a_batch_that_is_refused_for_another_reason_is_not_counted() {
    let mut rig = opened(1);
    rig.put(1, "order.placed", "order-0", "");
    let fingerprint = rig.config.fingerprint;
    let batch = batch_of(TENANT, fingerprint, &some_events(3), Some(Version(7)));
    rig.shard().append(900, batch).unwrap();
    let (mut out, now) = (Output::default(), rig.now);
    rig.shard().turn(now, &mut out);
    assert_eq!(usage(&mut rig, TENANT).stored_events, 1);
    assert_eq!(usage(&mut rig, TENANT).events_this_month, 1);
}

fn acknowledged(rig: &Rig) -> usize {
    rig.acknowledged.get(&TENANT).map_or(0, Vec::len)
}

/// Clients that send one event at a time, eight at once, until every one of them is refused.
#[test]
fn eight_clients_store_exactly_the_quota_whenever_the_power_fails() {
    const QUOTA: usize = 120;
    let mut cuts = 0;
    for operations in 0..120 {
        let mut rig = opened(operations);
        rig.shard().set_limits(TENANT, events_per_month(QUOTA as u64));
        rig.disk.crash_after(operations);
        loop {
            let before = acknowledged(&rig);
            for _ in 0..8 {
                rig.start(TENANT, &some_events(1)).unwrap();
            }
            rig.settle();
            if rig.disk.is_down() {
                cuts += 1;
                rig.crash();
                assert_eq!(rig.open().unwrap().damage, []);
                rig.shard().set_limits(TENANT, events_per_month(QUOTA as u64));
                let stored = rig.all(TENANT).unwrap().len();
                assert!(acknowledged(&rig) <= stored);
                assert_eq!(usage(&mut rig, TENANT).events_this_month, stored as u64);
            } else if acknowledged(&rig) == before {
                break;
            }
        }
        assert_eq!(rig.all(TENANT).unwrap().len(), QUOTA, "power lost after {operations} operations");
    }
    assert!(40 < cuts, "{cuts}");
}

/// A log whose second segment begins with nothing, as if the power had gone between the first one's seal and the
/// checkpoint behind it.
fn without_checkpoint_behind(rig: &mut Rig) {
    assert_eq!(append(rig, 4), Ok(()));
    rig.now.wall = Month::of(rig.now.wall).ends_at();
    assert_eq!(append(rig, 2), Ok(()));
    rig.put(2, "order.placed", "order-0", "");
    assert_eq!(append(rig, 3), Ok(()));
    rig.roll();
    rig.close();
    let segment = rig.segment_path(2);
    rig.disk.zero_range(&segment, SEGMENT_BLOCKS_FROM, rig.config.home.segment_bytes - SEGMENT_BLOCKS_FROM);
}

#[test]
fn a_sealed_segment_can_tell_what_the_checkpoint_behind_it_would_have_said() {
    let mut rig = opened(1);
    without_checkpoint_behind(&mut rig);
    assert_eq!(rig.open().unwrap().damage, []);
    let found = usage(&mut rig, TENANT);
    assert_eq!((found.events_this_month, found.bytes_this_month), (5, 5 * RECORD_BYTES));
    assert_eq!((found.stored_events, found.stored_bytes), (9, 9 * RECORD_BYTES));
    assert_eq!(usage(&mut rig, Tenant(2)).stored_bytes, RECORD_BYTES);
    rig.shard().set_limits(TENANT, events_per_month(6));
    assert_eq!(append(&mut rig, 2), Err(5));
    assert_eq!(append(&mut rig, 1), Ok(()));
}

#[test]
fn events_of_a_rotten_block_are_counted_by_the_index() {
    let mut rig = opened(1);
    without_checkpoint_behind(&mut rig);
    let data: Vec<_> = rig.blocks(1).into_iter().filter(|block| block.kind == BlockKind::Data).collect();
    let last = data.last().expect("a block of three events");
    rig.disk.flip_bit(&rig.segment_path(1), last.offset + (BLOCK_HEADER_BYTES + BATCH_HEADER_BYTES) as u64, 0);
    rig.open().unwrap();
    let found = usage(&mut rig, TENANT);
    assert_eq!((found.events_this_month, found.stored_events), (5, 9));
    assert_eq!(found.stored_bytes, 6 * RECORD_BYTES, "nobody knows the bytes of the rotten ones");
}
