//! Seeds that must pass, breakages that must be noticed, and as many seeds more as somebody asks for.

use std::panic::catch_unwind;

use super::*;

const SEEDS: u64 = 25;
const REPRODUCE: &str = "reproduce: scripts/simulate-catalog.sh 1";

fn add(total: &mut Report, report: &Report) {
    total.lives += report.lives;
    total.crashes += report.crashes;
    total.crashes_in_recovery += report.crashes_in_recovery;
    total.kills += report.kills;
    total.restarts += report.restarts;
    total.commands += report.commands;
    total.acknowledged += report.acknowledged;
    total.unanswered_found += report.unanswered_found;
    total.unanswered_lost += report.unanswered_lost;
    total.latched += report.latched;
    total.full += report.full;
    total.segments_rolled += report.segments_rolled;
    total.tenants_erased += report.tenants_erased;
    total.ids_given_again += report.ids_given_again;
    total.records += report.records;
}

/// Runs seeds from `first` on. A violation names the seed that shows it again.
fn run_all(first: u64, count: u64) -> Report {
    let mut total = Report::default();
    for seed in first..first + count {
        match catch_unwind(|| run(seed, SimulationOptions::default())) {
            Ok(Ok(report)) => add(&mut total, &report),
            Ok(Err(violation)) => panic!("seed {seed}: {violation}\n{REPRODUCE} {seed}"),
            Err(_) => panic!("seed {seed} panics, as printed above\n{REPRODUCE} {seed}"),
        }
    }
    total
}

/// How many of the seeds notice what is broken.
fn noticed(options: SimulationOptions, seeds: u64) -> Vec<Violation> {
    // What is broken may also trip an assertion of the code that it is broken under.
    let outcome = |seed| match catch_unwind(|| run(seed, options)) {
        Ok(outcome) => outcome.err(),
        Err(_) => Some("a panic".to_owned()),
    };
    (0..seeds).filter_map(outcome).collect()
}

#[test]
fn nothing_that_was_answered_is_lost_and_the_chain_always_verifies() {
    let total = run_all(0, SEEDS);
    println!("{total:?}");
    // Otherwise it proves nothing.
    for count in [
        total.crashes_in_recovery,
        total.kills,
        total.restarts,
        total.unanswered_found,
        total.unanswered_lost,
        total.latched,
        total.full,
        total.segments_rolled,
        total.tenants_erased,
        total.ids_given_again,
    ] {
        assert!(0 < count, "{total:?}");
    }
    assert!(SEEDS * 3 <= total.lives && 500 < total.acknowledged, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_lives() {
    for seed in [3, 4] {
        assert_eq!(run(seed, SimulationOptions::default()), run(seed, SimulationOptions::default()));
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    let noticed = noticed(SimulationOptions { lying_disk: true, ..SimulationOptions::default() }, 12);
    // The others' power cuts happen to leave everything.
    assert!(9 < noticed.len(), "{noticed:?}");
}

#[test]
fn answers_before_records_are_durable_are_noticed() {
    let noticed = noticed(SimulationOptions { answers_early: true, ..SimulationOptions::default() }, 12);
    assert!(6 < noticed.len(), "{noticed:?}");
    assert!(noticed.iter().any(|violation| violation.contains("changes were answered")), "{noticed:?}");
}

#[test]
fn a_record_that_was_dropped_is_noticed() {
    let noticed = noticed(SimulationOptions { swallows_a_record: true, ..SimulationOptions::default() }, 12);
    assert_eq!(noticed.len(), 12, "{noticed:?}");
}

#[test]
fn a_sync_that_is_left_out_is_noticed() {
    for site in [Site::Block, Site::SegmentHeader, Site::SegmentDir] {
        let options = SimulationOptions { ignored_site: Some(site), ..SimulationOptions::default() };
        let first = (0..40).find(|seed| catch_unwind(|| run(*seed, options)).is_ok_and(|outcome| outcome.is_err()));
        assert!(first.is_some(), "{site:?}");
    }
}

/// Without the ledger the log is whole by its own word, and only those who were told something else can tell.
#[test]
fn what_answers_promised_is_missed_without_a_look_at_records() {
    let options = SimulationOptions { answers_early: true, forgets_the_ledger: true, ..SimulationOptions::default() };
    let noticed = noticed(options, 40);
    let complaints = |text: &str| noticed.iter().filter(|violation| violation.contains(text)).count();
    assert!(10 < complaints("promised"), "{noticed:?}");
    assert!(0 < complaints("is not in the audit log"), "{noticed:?}");
}

#[test]
fn a_changed_bit_of_a_stored_record_is_never_passed_over() {
    for seed in 0..20 {
        let mut world = World::new(seed, SimulationOptions::default());
        world.live_in_peace().unwrap();
        assert_eq!(world.verify(), Ok(world.ledger.records().len() as u64), "seed {seed}");
        world.restart();
        world.rot();
        assert!(world.verify().is_err(), "seed {seed}");
    }
}

#[test]
#[ignore = "as long as it is asked to be: scripts/simulate-catalog.sh"]
fn as_many_seeds_as_asked_for() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (first, count) = (number("RINGLOG_SIM_FIRST").unwrap_or(0), number("RINGLOG_SIM_SEEDS").unwrap_or(1000));
    println!("seeds {first} to {}: {:?}", first + count - 1, run_all(first, count));
}
