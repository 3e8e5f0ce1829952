//! Erased tenants: refused and not found at once, gone from every file in the end, and nobody else notices.

use ringlog_engine::event::{IdempotencyKey, KeyClass};
use ringlog_engine::format::block::{BLOCK_HEADER_BYTES, BlockKind};
use ringlog_engine::format::key_run::KeyRunView;
use ringlog_engine::format::run::RunView;
use ringlog_engine::ids::{SegmentNumber, Tenant};
use ringlog_engine::io::{Disk, Map, Site};
use ringlog_engine::limits::{ERASE_PENDING_MAX, ERASE_RETRY_US, ERASE_ROLL_EVERY_US};
use ringlog_engine::query::{Order, QuerySpec, TypeFilter};
use ringlog_engine::shard::names::{ShardEntry, index_path, parse_name};
use ringlog_engine::shard::{AppendError, ReadOnly};

use crate::rig::{Event, Image, Rig};

const ERASED: Tenant = Tenant(2);
/// In each of its events.
const MARK: &str = "of-the-second";

fn key(number: u8) -> IdempotencyKey {
    IdempotencyKey {
        class: if number.is_multiple_of(2) { KeyClass::Request } else { KeyClass::Frame },
        key: [number; 16],
        body: [number; 16],
    }
}

/// A few events of three tenants, some of them under keys.
fn fill(rig: &mut Rig, round: u8) {
    for tenant in 1..=3u32 {
        let name = if Tenant(tenant) == ERASED { MARK.to_owned() } else { format!("of-{tenant}") };
        let event = |at: u8| Event::new(&format!("type.{name}"), &format!("{name}-{at}"), &name.repeat(40));
        let events: Vec<Event> = (0..4).map(|at| event(at % 3)).collect();
        assert!(rig.append(Tenant(tenant), &events).unwrap().is_ok());
        assert!(rig.append_keyed(Tenant(tenant), key(round), &[event(round)]).unwrap().is_ok());
    }
}

/// Three sealed segments and an open one with events of all three tenants.
fn filled() -> Rig {
    let mut rig = Rig::new(1);
    rig.open().unwrap();
    for round in 0..4 {
        fill(&mut rig, round);
        if round < 3 {
            rig.roll();
        }
    }
    rig
}

/// Erases the second tenant, of whom nothing is expected any more.
fn erase(rig: &mut Rig) {
    rig.shard().erase(ERASED);
    rig.acknowledged.remove(&ERASED);
}

/// What is left of the second tenant in the shard's files.
fn left(rig: &Rig) -> Vec<String> {
    let holds = |path: &str, bytes: &[u8]| {
        let map = || Map::owned(bytes.to_vec());
        let has_mark = bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
        has_mark
            || match parse_name(path.rsplit('/').next().unwrap()) {
                ShardEntry::Run { .. } => RunView::open(map()).unwrap().holds(ERASED),
                ShardEntry::KeyRun { .. } => {
                    KeyRunView::open(map()).unwrap().entries().iter().any(|entry| entry.tenant() == ERASED)
                }
                _ => false,
            }
    };
    Image::of(rig).0.iter().filter(|(path, bytes)| holds(path, bytes)).map(|(path, _)| path.clone()).collect()
}

fn check_others(rig: &mut Rig, context: &str) {
    rig.check_acknowledged(context);
    for tenant in [1, 3].map(Tenant) {
        let all = rig.all(tenant).unwrap();
        let mut newest = QuerySpec::all(tenant, 3);
        newest.order = Order::Descending;
        newest.event_type = Some(TypeFilter::Exact(format!("type.of-{}", tenant.0)));
        let (found, summary) = rig.query(newest).unwrap();
        assert!(found.iter().eq(all.iter().rev().take(3)), "{context}: {tenant:?}");
        assert_eq!(summary.total, Some(all.len() as u64), "{context}: {tenant:?}");
        let mut of_entity = QuerySpec::all(tenant, 100);
        of_entity.entity = Some(format!("of-{}-1", tenant.0));
        let (found, summary) = rig.query(of_entity).unwrap();
        assert_eq!(summary.entity_version, found.last().map(|last| last.version), "{context}: {tenant:?}");
    }
}

#[test]
fn an_erased_tenant_is_refused_and_not_found_from_that_moment() {
    let mut rig = filled();
    let waiting = rig.start(ERASED, &[Event::new("a", "b", "c")]).unwrap();
    let of_another = rig.start(Tenant(1), &[Event::new("type.of-1", "of-1-1", "c")]).unwrap();
    erase(&mut rig);
    assert_eq!(rig.answer(waiting), Some(Err(AppendError::TenantErased)));
    assert!(rig.answer(of_another).unwrap().is_ok());
    let mut spec = QuerySpec::all(ERASED, 10);
    for order in [Order::Ascending, Order::Descending] {
        spec.order = order;
        spec.entity = Some(format!("{MARK}-1"));
        let (found, summary) = rig.query(spec.clone()).unwrap();
        assert_eq!((found.len(), summary.entity_version.map(|version| version.0)), (0, Some(0)));
        spec.entity = None;
        let (found, summary) = rig.query(spec.clone()).unwrap();
        assert_eq!((found.len(), summary.total, summary.has_more), (0, Some(0), false));
    }
    // A replay is no less an append.
    let again = rig.append_keyed(ERASED, key(0), &[Event::new("a", "b", "c")]);
    assert_eq!(again, Some(Err(AppendError::TenantErased)));
    let wall = rig.now.wall;
    assert_eq!(rig.shard().usage(ERASED, wall).stored_events, 0);
    check_others(&mut rig, "while it is erased");
}

#[test]
fn nothing_of_an_erased_tenant_is_left_and_others_stay_as_they_were() {
    let mut rig = filled();
    assert!(left(&rig).len() > 8, "{:?}", left(&rig));
    let sizes =
        |rig: &Rig| (1..=3).map(|number| rig.disk.peek(&rig.segment_path(number)).unwrap().len()).sum::<usize>();
    let before = sizes(&rig);
    erase(&mut rig);
    assert!(!rig.shard().is_erased(ERASED));
    rig.settle();
    assert!(rig.shard().is_erased(ERASED));
    assert_eq!(left(&rig), Vec::<String>::new());
    assert!(sizes(&rig) * 3 < before, "{} of {before}", sizes(&rig));
    let stats = rig.shard().stats();
    // The open segment was ended for it.
    assert_eq!((stats.segments_rewritten, stats.tenants_erased, stats.segments_rolled), (4, 1, 4));
    check_others(&mut rig, "in the same life");
    let replayed = rig.append_keyed(Tenant(1), key(0), &[Event::new("a", "b", "c")]).unwrap().unwrap();
    assert!(replayed.is_replay);
    rig.close();
    // Nobody remembers the tenant: it is as one that never was.
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.indexes_rebuilt, report.segments_sealed), (0, 0, 4), "{report:?}");
    assert_eq!(rig.shard().tenant_count(), 2);
    check_others(&mut rig, "in the next life");
    fill(&mut rig, 9);
    assert_eq!(rig.acknowledged[&ERASED][0].position.0, 1);
    check_others(&mut rig, "with new events");
}

#[test]
fn a_tenant_that_never_had_an_event_is_erased_without_a_roll() {
    let mut rig = filled();
    rig.settle();
    let rolled = rig.shard().stats().segments_rolled;
    rig.shard().erase(Tenant(99));
    rig.settle();
    assert!(rig.shard().is_erased(Tenant(99)));
    assert!(!rig.shard().is_erased(Tenant(98)));
    assert_eq!(rig.shard().stats().segments_rolled, rolled);
}

#[test]
fn many_deletions_do_not_make_many_segments() {
    let mut rig = filled();
    rig.settle();
    let rolled = rig.shard().stats().segments_rolled;
    for tenant in [2, 3] {
        rig.acknowledged.remove(&Tenant(tenant));
        rig.shard().erase(Tenant(tenant));
        rig.settle();
    }
    assert_eq!(rig.shard().stats().segments_rolled, rolled + 1);
    assert_eq!([2, 3].map(|tenant| rig.shard().is_erased(Tenant(tenant))), [true, false]);
    rig.now.monotonic_us += ERASE_ROLL_EVERY_US;
    rig.settle();
    assert_eq!(rig.shard().stats().segments_rolled, rolled + 2);
    assert!(rig.shard().is_erased(Tenant(3)));
    rig.check_acknowledged("with one tenant left");
    // Nor large ones: what was ended early has given its room back, whoever's events were in it.
    let sealed: Vec<u64> =
        (1..100).filter(|&n| rig.disk.peek(&index_path(&rig.config.home.dir, SegmentNumber(n))).is_some()).collect();
    assert!(2 < sealed.len());
    for number in sealed {
        let bytes = rig.disk.peek(&rig.segment_path(number)).unwrap().len() as u64;
        assert!(bytes < rig.config.home.segment_bytes / 2, "segment {number} has {bytes} bytes");
    }
}

#[test]
fn more_tenants_than_are_erased_at_a_time_all_have_their_turn() {
    let mut rig = filled();
    rig.settle();
    let tenants: Vec<Tenant> = (1000..1000 + 2 * ERASE_PENDING_MAX as u32 + 10).map(Tenant).chain([ERASED]).collect();
    rig.acknowledged.remove(&ERASED);
    tenants.iter().for_each(|&tenant| rig.shard().erase(tenant));
    for _ in 0..4 {
        rig.settle();
        rig.now.monotonic_us += ERASE_ROLL_EVERY_US;
    }
    assert!(tenants.iter().all(|&tenant| rig.shard().is_erased(tenant)));
    assert_eq!(rig.shard().stats().tenants_erased, tenants.len() as u64);
    assert_eq!(left(&rig), Vec::<String>::new());
    check_others(&mut rig, "with all of them gone");
}

#[test]
fn the_power_may_fail_at_every_operation_of_an_erasure() {
    let mut rig = filled();
    rig.close();
    let (image, acknowledged) = (Image::of(&rig), rig.acknowledged);
    for operations in 0.. {
        let context = format!("power lost after {operations} operations");
        let mut rig = Rig::with_disk(image.load(operations));
        rig.acknowledged = acknowledged.clone();
        rig.open().unwrap();
        rig.disk.crash_after(operations);
        erase(&mut rig);
        rig.settle();
        let is_whole = !rig.disk.is_down();
        rig.crash();
        let report = rig.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!((report.damage.len(), report.indexes_rebuilt), (0, 0), "{context}: {report:?}");
        check_others(&mut rig, &context);
        if is_whole {
            assert!(100 < operations, "{operations}");
            assert_eq!(left(&rig), Vec::<String>::new(), "{context}");
            return;
        }
        erase(&mut rig);
        rig.settle();
        assert!(rig.shard().is_erased(ERASED), "{context}");
        assert_eq!(left(&rig), Vec::<String>::new(), "{context}");
        check_others(&mut rig, &context);
    }
}

/// A log of which some segments were rewritten, closed cleanly.
fn rewritten() -> Rig {
    let mut rig = filled();
    erase(&mut rig);
    rig.settle();
    rig.close();
    rig
}

fn lose_index(rig: &Rig, number: u64) {
    rig.disk.remove(&index_path(&rig.config.home.dir, SegmentNumber(number))).unwrap();
    rig.disk.sync_dir(&rig.config.home.dir, Site::IndexDir).unwrap();
}

#[test]
fn a_rewritten_segment_without_its_index_is_indexed_again_wherever_it_is() {
    for lost in [&[1][..], &[2, 3], &[1, 2, 3, 4], &[4]] {
        let mut rig = rewritten();
        lost.iter().for_each(|&number| lose_index(&rig, number));
        let report = rig.open().unwrap();
        assert_eq!((report.damage.len(), report.tail, report.segments_sealed), (0, None, 4), "{lost:?}");
        check_others(&mut rig, &format!("{lost:?}"));
        fill(&mut rig, 9);
        rig.close();
        assert_eq!(rig.open().unwrap().damage, [], "{lost:?}");
        check_others(&mut rig, &format!("{lost:?}, later"));
    }
}

#[test]
fn a_rewritten_segment_at_the_end_of_the_log_is_not_written_to() {
    let mut rig = rewritten();
    // The segment behind it never came to be, and its index is lost.
    rig.disk.remove(&rig.segment_path(5)).unwrap();
    lose_index(&rig, 4);
    let before = rig.disk.peek(&rig.segment_path(4)).unwrap();
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.tail, report.segments_sealed), (0, None, 4));
    assert_eq!(rig.shard().tenant_count(), 2);
    fill(&mut rig, 9);
    check_others(&mut rig, "with new events");
    rig.close();
    assert_eq!(rig.disk.peek(&rig.segment_path(4)).unwrap(), before);
    assert_eq!(rig.open().unwrap().damage, []);
    check_others(&mut rig, "later");
}

#[test]
fn what_does_not_verify_in_a_rewritten_segment_is_damage_and_no_torn_tail() {
    let mut rig = rewritten();
    let blocks = rig.blocks(4);
    let last = blocks.iter().rfind(|block| block.kind == BlockKind::Data).unwrap();
    rig.disk.flip_bit(&rig.segment_path(4), last.offset + BLOCK_HEADER_BYTES as u64 + 200, 1);
    rig.disk.remove(&rig.segment_path(5)).unwrap();
    lose_index(&rig, 4);
    let image = Image::of(&rig);
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.tail.clone()), (1, None), "{report:?}");
    let damage = &report.damage[0];
    assert_eq!((damage.segment, damage.from, damage.to), (SegmentNumber(4), last.offset, last.offset + last.bytes));
    assert_eq!(rig.shard().read_only(), Some(ReadOnly::Damaged));
    rig.stop();
    assert!(Image::of(&rig) == image);
}

#[test]
fn a_read_only_shard_erases_nothing() {
    let mut rig = filled();
    rig.close();
    let blocks = rig.blocks(2);
    lose_index(&rig, 2);
    rig.disk.flip_bit(&rig.segment_path(2), blocks[1].offset + 60, 1);
    let image = Image::of(&rig);
    rig.open().unwrap();
    assert_eq!(rig.shard().read_only(), Some(ReadOnly::Damaged));
    rig.shard().erase(ERASED);
    rig.settle();
    assert!(!rig.shard().is_erased(ERASED));
    assert_eq!(rig.all(ERASED).unwrap(), []);
    rig.stop();
    assert!(Image::of(&rig) == image);
}

#[test]
fn a_segment_that_cannot_be_copied_stays_as_it_is() {
    let mut rig = filled();
    let blocks = rig.blocks(2);
    let block = blocks.iter().find(|block| block.kind == BlockKind::Data).unwrap();
    let path = rig.segment_path(2);
    // In the padding of nobody: only the header's and the body's checksums decide.
    rig.disk.flip_bit(&path, block.offset + BLOCK_HEADER_BYTES as u64 + 8, 1);
    let before = rig.disk.peek(&path).unwrap();
    erase(&mut rig);
    rig.settle();
    let stats = rig.shard().stats();
    assert_eq!((stats.segments_rewritten, stats.segments_not_rewritten, stats.tenants_erased), (3, 1, 0));
    assert!(!rig.shard().is_erased(ERASED));
    assert_eq!(rig.disk.peek(&path).unwrap(), before);
    assert_eq!(
        left(&rig),
        [path, index_path(&rig.config.home.dir, SegmentNumber(2))]
            .map(|path| path)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    // Nobody else is held up by it.
    assert_eq!(rig.shard().read_only(), None);
    rig.put(1, "a", "b", "c");
}

#[test]
fn a_full_disk_makes_erasing_wait_and_erasing_makes_room() {
    let mut rig = filled();
    rig.settle();
    let used = |rig: &Rig| Image::of(rig).0.values().map(|bytes| bytes.len() as u64).sum::<u64>();
    // The next segment is there, and no room for the one behind it, nor for a copy.
    rig.disk.set_capacity(used(&rig) + 4096);
    erase(&mut rig);
    rig.settle();
    rig.now.monotonic_us += ERASE_RETRY_US;
    rig.settle();
    assert_eq!(rig.shard().read_only(), None);
    assert!(!rig.shard().is_erased(ERASED));
    assert_eq!(rig.shard().stats().segments_rewritten, 0);
    check_others(&mut rig, "on a full disk");
    // Room for a copy and its index, and for no segment: what the copies give back is enough.
    rig.disk.set_capacity(used(&rig) + 56 * 1024);
    for _ in 0..4 {
        rig.now.monotonic_us += ERASE_RETRY_US;
        rig.settle();
    }
    assert!(rig.shard().is_erased(ERASED));
    assert_eq!(left(&rig), Vec::<String>::new());
    check_others(&mut rig, "with room again");
}

#[test]
fn a_query_that_is_under_way_goes_on_over_the_old_files() {
    let mut rig = filled();
    let snapshot = rig.shard().snapshot();
    erase(&mut rig);
    rig.settle();
    assert!(rig.shard().is_erased(ERASED));
    // Whoever holds the old segments still reads them.
    let old = &snapshot.segments[0];
    let mut bytes = vec![0; old.segment.bytes as usize];
    rig.disk.read(&old.segment.file, 0, &mut bytes).unwrap();
    assert!(bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes()));
    assert!(old.resident.tenant(ERASED).is_some());
    drop(snapshot);
    // A retired segment that was rewritten goes like any other.
    rig.retire();
    assert_eq!(rig.segments(), [2, 3, 4, 5, 6]);
    check_others(&mut rig, "after a retirement");
}
