//! Rot: what had been acknowledged and no longer verifies is named, served around, and never cut.

use ringlog_engine::format::block::{BLOCK_HEADER_BYTES, BLOCK_MAGIC, BlockError, BlockKind};
use ringlog_engine::format::run::{RUN_HEADER_BYTES, RUN_HEADER_CRC_FROM};
use ringlog_engine::format::scan::LogEnd;
use ringlog_engine::ids::{BlockSequence, Position, SegmentNumber, Tenant, Version};
use ringlog_engine::io::{Disk, Site};
use ringlog_engine::limits::{ALIGNMENT, RUNS_PER_TIER};
use ringlog_engine::query::{Order, QuerySpec, SearchError};
use ringlog_engine::shard::names::run_path;
use ringlog_engine::shard::recover::{Damage, OpenError, RecoveryReport};
use ringlog_engine::shard::{AppendError, ReadOnly};

use crate::rig::{BlockAt, Event, Image, Rig};

/// One sealed segment (1) and an open one (2) with several data blocks of three tenants, closed cleanly.
fn closed_log() -> Rig {
    let mut rig = Rig::new(1);
    rig.open().unwrap();
    for round in 0..3 {
        fill(&mut rig, round);
    }
    rig.roll();
    for round in 3..6 {
        fill(&mut rig, round);
    }
    rig.close();
    rig
}

fn fill(rig: &mut Rig, round: u32) {
    for tenant in 1..=3 {
        let entity = format!("entity-{}", round % 2);
        rig.put(tenant, "order.placed", &entity, &format!("{{\"round\":{round},\"tenant\":{tenant}}}"));
    }
    rig.settle();
}

fn data_blocks(rig: &Rig, segment: u64) -> Vec<BlockAt> {
    let mut blocks = rig.blocks(segment);
    blocks.retain(|block| block.kind == BlockKind::Data);
    blocks
}

fn flip_body(rig: &Rig, segment: u64, block: &BlockAt) {
    rig.disk.flip_bit(&rig.segment_path(segment), block.offset + BLOCK_HEADER_BYTES as u64 + 40, 3);
}

/// Opens a damaged log twice: it must be read-only and the same both times, and nothing on disk may change.
fn open_damaged(rig: &mut Rig) -> RecoveryReport {
    let before = Image::of(rig);
    let report = rig.open().unwrap();
    assert_eq!(rig.shard().read_only(), Some(ReadOnly::Damaged), "{report:?}");
    let refused = rig.append(Tenant(1), &[Event::new("a", "b", "c")]);
    assert_eq!(refused, Some(Err(AppendError::ReadOnly(ReadOnly::Damaged))));
    assert_eq!(report.tail, None);
    rig.stop();
    assert!(Image::of(rig) == before, "opening a damaged log changed it");
    let again = rig.open().unwrap();
    assert_eq!(again.damage, report.damage);
    report
}

/// What is found of a tenant must be what was acknowledged, without the missing positions.
fn check_served(rig: &mut Rig, tenant: Tenant, missing: &[u64]) {
    let mut expected = rig.acknowledged[&tenant].clone();
    expected.retain(|found| !missing.contains(&found.position.0));
    assert_eq!(rig.all(tenant), Ok(expected), "{tenant:?}");
}

#[test]
fn rot_below_the_watermark_of_an_open_segment_is_named_and_everything_else_is_served() {
    let mut rig = closed_log();
    let blocks = data_blocks(&rig, 2);
    let hit = &blocks[4];
    flip_body(&rig, 2, hit);
    let report = open_damaged(&mut rig);
    let sequence = hit.header.sequence();
    let expected = Damage {
        segment: SegmentNumber(2),
        from: hit.offset,
        to: hit.offset + hit.bytes,
        sequences: Some((sequence, sequence)),
        why: Some(LogEnd::Bad(BlockError::BodyCrc)),
        positions: vec![(Tenant(2), Position(5), Position(5))],
    };
    assert_eq!(report.damage, [expected]);
    check_served(&mut rig, Tenant(1), &[]);
    check_served(&mut rig, Tenant(2), &[5]);
    check_served(&mut rig, Tenant(3), &[]);
}

#[test]
fn a_zeroed_range_of_several_blocks_is_one_damage_with_every_tenant_it_hit() {
    let mut rig = closed_log();
    let blocks = data_blocks(&rig, 2);
    let (first, last) = (blocks[0], blocks[2]);
    let to = last.offset + last.bytes;
    rig.disk.zero_range(&rig.segment_path(2), first.offset, to - first.offset);
    let report = open_damaged(&mut rig);
    assert_eq!(report.damage.len(), 1);
    let damage = &report.damage[0];
    assert_eq!((damage.segment, damage.from, damage.to), (SegmentNumber(2), first.offset, to));
    assert_eq!(damage.sequences, Some((first.header.sequence(), last.header.sequence())));
    let mut positions = damage.positions.clone();
    positions.sort_unstable();
    assert_eq!(positions, [1, 2, 3].map(|tenant| (Tenant(tenant), Position(4), Position(4))));
    for tenant in 1..=3 {
        check_served(&mut rig, Tenant(tenant), &[4]);
    }
}

#[test]
fn rot_in_the_last_block_before_the_watermark_is_damage() {
    let mut rig = closed_log();
    let hit = *data_blocks(&rig, 2).last().unwrap();
    flip_body(&rig, 2, &hit);
    let report = open_damaged(&mut rig);
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].from, hit.offset);
    assert_eq!(report.damage[0].sequences, Some((hit.header.sequence(), hit.header.sequence())));
    check_served(&mut rig, Tenant(1), &[]);
    check_served(&mut rig, Tenant(3), &[6]);
}

#[test]
fn rot_in_the_watermark_block_itself_loses_nothing() {
    let mut rig = closed_log();
    let last = *rig.blocks(2).last().unwrap();
    assert_eq!(last.kind, BlockKind::Watermark);
    rig.disk.flip_bit(&rig.segment_path(2), last.offset + 40, 1);
    let report = rig.open().unwrap();
    assert_eq!(report.damage, []);
    rig.check_acknowledged("a rotten watermark");
    rig.put(1, "order.paid", "entity-0", "after");
    rig.close();
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.tail), (0, None));
    rig.check_acknowledged("after another life");
}

#[test]
fn the_log_comes_to_rest_and_knows_its_last_block_however_full_the_segment_is() {
    for count in 1..20 {
        let mut rig = Rig::new(count);
        rig.config.home.segment_bytes = 32 << 10;
        rig.open().unwrap();
        for at in 0..count {
            rig.put(1, "order.placed", &format!("entity-{at}"), "{}");
        }
        rig.close();
        let last_segment = rig.segments().into_iter().rfind(|&number| !data_blocks(&rig, number).is_empty()).unwrap();
        let hit = *data_blocks(&rig, last_segment).last().unwrap();
        flip_body(&rig, last_segment, &hit);
        let report = open_damaged(&mut rig);
        assert_eq!(report.damage[0].from, hit.offset, "{count} blocks");
    }
}

#[test]
fn a_torn_tail_is_cut_and_quarantined_and_the_next_open_is_clean() {
    let mut torn = 0;
    let mut reasons = Vec::new();
    for seed in 0..60 {
        let mut rig = Rig::new(seed);
        rig.open().unwrap();
        fill(&mut rig, 0);
        // Two blocks on their way when the power goes; nobody was told that they arrived.
        for round in 0..2 {
            let payload = "x".repeat(6000);
            rig.start(Tenant(1), &[Event::new("order.placed", &format!("entity-{round}"), &payload)]).unwrap();
        }
        let mut out = ringlog_engine::shard::Output::default();
        rig.now.monotonic_us += 50;
        let now = rig.now;
        rig.shard().turn(now, &mut out);
        assert!(!out.disk.is_empty());
        for op in out.disk {
            rig.disk.submit(op);
        }
        rig.crash();
        let report = rig.open().unwrap();
        assert_eq!(report.damage, [], "seed {seed}");
        rig.check_acknowledged("a torn tail");
        if let Some(tail) = report.tail {
            torn += 1;
            assert_eq!(tail.segment, SegmentNumber(1));
            assert!(!tail.quarantined.is_empty());
            reasons.push(tail.why);
            for path in &tail.quarantined {
                let bytes = rig.disk.peek(path).unwrap();
                assert!(bytes.iter().any(|&byte| byte != 0), "seed {seed}: an empty copy");
            }
            let segment = rig.disk.peek(&rig.segment_path(1)).unwrap();
            let mut pages = segment[tail.offset as usize..].chunks(ALIGNMENT);
            assert!(pages.all(|page| !page.starts_with(&BLOCK_MAGIC)), "seed {seed}: a block is left behind the cut");
        }
        rig.put(2, "order.placed", "entity-0", "after");
        rig.crash();
        let report = rig.open().unwrap();
        assert_eq!((report.damage.len(), report.tail), (0, None), "seed {seed}");
        rig.check_acknowledged("after the cut");
    }
    assert!(torn >= 5, "only {torn} tails were torn");
    assert!(reasons.contains(&LogEnd::Bad(BlockError::BodyCrc)), "{reasons:?}");
}

#[test]
fn rot_in_a_sealed_segment_is_named_by_the_query_that_meets_it() {
    let mut rig = closed_log();
    let hit = data_blocks(&rig, 1)[4];
    flip_body(&rig, 1, &hit);
    let report = rig.open().unwrap();
    assert_eq!((report.damage.len(), report.indexes_rebuilt), (0, 0));
    let damaged = SearchError::Damaged { segment: SegmentNumber(1), position: Some(Position(2)) };
    assert_eq!(rig.all(Tenant(2)), Err(damaged));
    check_served(&mut rig, Tenant(1), &[]);
    check_served(&mut rig, Tenant(3), &[]);
    let behind = QuerySpec { after: Some(Position(2)), ..QuerySpec::all(Tenant(2), 100) };
    assert_eq!(rig.query(behind).unwrap().0, rig.acknowledged[&Tenant(2)][2..]);
    let before = QuerySpec::all(Tenant(2), 1);
    assert_eq!(rig.query(before).unwrap().0, rig.acknowledged[&Tenant(2)][..1]);
}

#[test]
fn a_rotten_sealed_index_is_made_again_from_its_segment() {
    let offsets = [0, 30, 150, 4096, 4096 + 100, 4096 + 300];
    for offset in offsets {
        let mut rig = closed_log();
        let path = format!("{}/{}", rig.config.home.dir, rig.files(".idx")[0]);
        rig.disk.flip_bit(&path, offset, 2);
        let report = rig.open().unwrap();
        assert_eq!((report.indexes_rebuilt, report.damage.len(), report.segments_sealed), (1, 0, 1), "byte {offset}");
        rig.check_acknowledged("a rotten index");
        check_versions(&mut rig, 6);
        rig.close();
        let report = rig.open().unwrap();
        assert_eq!((report.indexes_rebuilt, report.damage.len()), (0, 0), "byte {offset}: not repaired");
        rig.check_acknowledged("after the repair");
    }
}

/// Each tenant's two entities had this many events together, in turn.
fn check_versions(rig: &mut Rig, rounds: u32) {
    let key = rig.config.fingerprint;
    for tenant in 1..=3 {
        let versions = [0, 1].map(|at| rig.shard().entity_version(Tenant(tenant), key.entity(&format!("entity-{at}"))));
        let expected = [rounds.div_ceil(2), rounds / 2].map(|count| Version(u64::from(count)));
        assert_eq!(versions, expected, "tenant {tenant}");
    }
}

#[test]
fn rot_in_the_columns_of_a_sealed_index_is_named_by_the_query_that_meets_it() {
    let mut rig = closed_log();
    let path = format!("{}/{}", rig.config.home.dir, rig.files(".idx")[0]);
    let bytes = rig.disk.peek(&path).unwrap();
    rig.disk.flip_bit(&path, bytes.len() as u64 - 20_000, 5);
    assert_eq!(rig.open().unwrap().damage, []);
    let damaged = SearchError::Damaged { segment: SegmentNumber(1), position: None };
    assert_eq!(rig.all(Tenant(1)), Err(damaged));
    let newest = QuerySpec { after: Some(Position(3)), ..QuerySpec::all(Tenant(1), 100) };
    assert_eq!(rig.query(newest).unwrap().0, rig.acknowledged[&Tenant(1)][3..]);
}

#[test]
fn a_rotten_run_is_made_again_while_its_segments_exist() {
    for offset in [0, 40, 4096, 8192, 8192 + 17] {
        let mut rig = closed_log();
        let path = format!("{}/{}", rig.config.home.dir, rig.files(".run")[0]);
        rig.disk.flip_bit(&path, offset, 0);
        let report = rig.open().unwrap();
        assert_eq!((report.indexes_rebuilt, report.damage.len()), (1, 0), "byte {offset}");
        check_versions(&mut rig, 6);
        rig.check_acknowledged("a rotten run");
        rig.put(1, "order.paid", "entity-0", "next");
        assert_eq!(rig.acknowledged[&Tenant(1)].last().unwrap().version, Version(4));
        rig.close();
        assert_eq!(rig.open().unwrap().indexes_rebuilt, 0, "byte {offset}: not repaired");
    }
}

/// Eight sealed segments whose runs are merged into one.
fn merged_log() -> Rig {
    let mut rig = Rig::new(2);
    rig.open().unwrap();
    for round in 0..RUNS_PER_TIER as u32 {
        fill(&mut rig, round);
        rig.roll();
    }
    rig.settle();
    assert_eq!(rig.files(".run").len(), 1, "{:?}", rig.files(".run"));
    fill(&mut rig, RUNS_PER_TIER as u32);
    rig
}

#[test]
fn a_rotten_merged_run_is_made_again_while_its_segments_exist() {
    let mut rig = merged_log();
    rig.close();
    let path = format!("{}/{}", rig.config.home.dir, rig.files(".run")[0]);
    rig.disk.flip_bit(&path, 8200, 1);
    let report = rig.open().unwrap();
    assert_eq!((report.indexes_rebuilt, report.damage.len()), (RUNS_PER_TIER, 0));
    check_versions(&mut rig, RUNS_PER_TIER as u32 + 1);
    rig.check_acknowledged("a rotten merged run");
    rig.settle();
    rig.close();
    let report = rig.open().unwrap();
    assert_eq!((report.indexes_rebuilt, report.damage.len()), (0, 0));
    check_versions(&mut rig, RUNS_PER_TIER as u32 + 1);
    rig.check_acknowledged("after the repair");
}

#[test]
fn a_rotten_run_whose_segments_are_gone_makes_the_shard_read_only() {
    for is_merged in [false, true] {
        let mut rig = if is_merged { merged_log() } else { closed_log() };
        if !is_merged {
            rig.open().unwrap();
        }
        rig.retire();
        rig.settle();
        rig.close();
        let path = format!("{}/{}", rig.config.home.dir, rig.files(".run")[0]);
        rig.disk.flip_bit(&path, 8200, 1);
        let report = rig.open().unwrap();
        assert_eq!(rig.shard().read_only(), Some(ReadOnly::Damaged), "{report:?}");
        rig.check_acknowledged("a rotten run of retired segments");
        rig.stop();
        assert_eq!(rig.open().unwrap().damage, report.damage);
    }
}

#[test]
fn a_rotten_segment_header_is_damage_wherever_the_segment_stands() {
    for segment in [1, 2] {
        let mut rig = closed_log();
        rig.disk.flip_bit(&rig.segment_path(segment), 30, 4);
        let report = open_damaged(&mut rig);
        let named = report.damage.iter().find(|damage| damage.segment == SegmentNumber(segment));
        assert!(named.is_some(), "segment {segment}: {:?}", report.damage);
        for tenant in 1..=3 {
            let kept = if segment == 1 { 4..=6 } else { 1..=3 };
            let missing: Vec<u64> = (1..=6).filter(|position| !kept.contains(position)).collect();
            check_served(&mut rig, Tenant(tenant), &missing);
        }
    }
}

#[test]
fn a_whole_segment_of_zeros_is_damage() {
    for segment in [1, 2] {
        let mut rig = closed_log();
        rig.disk.zero_range(&rig.segment_path(segment), 0, crate::rig::SEGMENT_BYTES);
        open_damaged(&mut rig);
    }
}

#[test]
fn the_first_block_of_a_log_is_not_lost_in_silence() {
    let mut rig = Rig::new(3);
    rig.open().unwrap();
    for round in 0..3 {
        fill(&mut rig, round);
    }
    rig.close();
    let blocks = rig.blocks(1);
    assert_eq!(blocks[0].header.sequence(), BlockSequence(1));
    rig.disk.flip_bit(&rig.segment_path(1), blocks[0].offset + 20, 3);
    let report = open_damaged(&mut rig);
    assert_eq!(report.damage[0].sequences, Some((BlockSequence(1), BlockSequence(1))));
    for tenant in 1..=3 {
        check_served(&mut rig, Tenant(tenant), &[]);
    }
}

#[test]
fn rot_in_the_checkpoint_of_the_open_segment_is_damage() {
    let mut rig = closed_log();
    let checkpoint = rig.blocks(2)[0];
    assert_eq!(checkpoint.kind, BlockKind::Checkpoint);
    flip_body(&rig, 2, &checkpoint);
    let report = open_damaged(&mut rig);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert_eq!((report.damage[0].segment, report.damage[0].from), (SegmentNumber(2), checkpoint.offset));
    // Only the checkpoint is gone: every event is where it was.
    assert_eq!(report.damage[0].positions, []);
    for tenant in 1..=3 {
        check_served(&mut rig, Tenant(tenant), &[]);
    }
}

#[test]
fn a_tenant_whose_place_only_the_rotten_checkpoint_knew_is_still_served() {
    let mut rig = Rig::new(4);
    rig.open().unwrap();
    rig.put(1, "order.placed", "entity-0", "retired");
    rig.roll();
    rig.put(1, "order.placed", "entity-0", "kept");
    rig.put(2, "order.placed", "entity-0", "kept");
    rig.roll();
    rig.put(2, "order.placed", "entity-0", "open");
    rig.settle();
    rig.retire();
    rig.close();
    let checkpoint = rig.blocks(3)[0];
    flip_body(&rig, 3, &checkpoint);
    let report = open_damaged(&mut rig);
    assert_eq!(report.damage.len(), 1);
    check_served(&mut rig, Tenant(1), &[]);
    check_served(&mut rig, Tenant(2), &[]);
    let newest = QuerySpec { order: Order::Descending, ..QuerySpec::all(Tenant(1), 10) };
    let (found, summary) = rig.query(newest).unwrap();
    assert_eq!((found.len(), summary.total), (1, Some(1)));
}

#[test]
fn an_entity_run_of_a_newer_version_is_refused_and_left_alone() {
    let mut rig = closed_log();
    let path = run_path("shard-0000", 1, 1);
    let mut newer = rig.disk.peek(&path).unwrap();
    newer[RUN_HEADER_CRC_FROM] += 1;
    let crc = crc32fast::hash(&newer[RUN_HEADER_CRC_FROM..RUN_HEADER_BYTES]);
    newer[8..RUN_HEADER_CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    let file = rig.disk.open(&path).unwrap();
    rig.disk.write(&file, 0, &newer).unwrap();
    rig.disk.sync(&file, Site::RunFile).unwrap();
    assert!(matches!(rig.open(), Err(OpenError::Newer { segment: SegmentNumber(1), .. })));
    assert_eq!(rig.disk.peek(&path).unwrap(), newer);
}
