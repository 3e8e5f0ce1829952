//! Runs whole lives of shards on the simulated disk, one seed after another, and stops at the first broken promise.

use std::process::ExitCode;

use ringlog_engine::io::clock::{monotonic_us, random_u64};
use ringlog_engine::sim::world::{WorldOptions, WorldReport, run};

const HELP: &str = "\
Runs simulated lives of a shard: appends, queries, retirements, erased tenants, disk faults and power cuts, checked against a model.

Usage: simulate [--seeds N] [--first-seed S] [--lying-disk]

  --seeds N        how many seeds (default 1000)
  --first-seed S   begin with this seed instead of a fresh random one; repeats a run exactly
  --lying-disk     the disk claims to sync and does not: every seed must fail

Examples:
  simulate --seeds 10000
  simulate --first-seed 41 --seeds 1
";

struct Arguments {
    seeds: u64,
    first_seed: Option<u64>,
    lying_disk: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("simulate: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // Fresh seeds stay short enough to be typed.
    let first = arguments.first_seed.unwrap_or_else(|| random_u64() >> 24);
    let options = WorldOptions { lying_disk: arguments.lying_disk, ..WorldOptions::default() };
    let started_us = monotonic_us();
    let mut total = WorldReport::default();
    let mut failures = 0u64;
    for at in 0..arguments.seeds {
        let seed = first.wrapping_add(at);
        let outcome = std::panic::catch_unwind(|| run(seed, options));
        let failure = match outcome {
            Ok(Ok(report)) => {
                add(&mut total, &report);
                None
            }
            Ok(Err(violation)) => Some(violation),
            Err(_) => Some("a panic, printed above".to_owned()),
        };
        if let Some(failure) = failure {
            failures += 1;
            if !arguments.lying_disk {
                println!("seed {seed} failed: {failure}");
                println!(
                    "reproduce: cargo run --release -p ringlog-engine --bin simulate -- --first-seed {seed} --seeds 1"
                );
                return ExitCode::FAILURE;
            }
        }
        if (at + 1) % 1000 == 0 {
            eprintln!("{} seeds, {:.1} s", at + 1, (monotonic_us() - started_us) as f64 / 1e6);
        }
    }
    println!(
        "seeds {} from {first}, lives {}, crashes {} ({} in recovery), restarts {}, batches {}, refused by quota {}, replays {}, mismatches {}, key runs merged {}, queries {}, rolls {}, retired {}, tails cut {}, latched {}, segments rewritten {}, tenants erased {}, refused by a full disk {}, {:.1} s",
        arguments.seeds,
        total.lives,
        total.crashes,
        total.crashes_in_recovery,
        total.restarts,
        total.appended,
        total.quota_refusals,
        total.replays,
        total.mismatches,
        total.key_runs_merged,
        total.queries,
        total.rolls,
        total.retired,
        total.tails_cut,
        total.latched,
        total.segments_rewritten,
        total.tenants_erased,
        total.storage_full,
        (monotonic_us() - started_us) as f64 / 1e6,
    );
    if arguments.lying_disk {
        println!("caught the lying disk on {failures} of {} seeds", arguments.seeds);
        return if failures == arguments.seeds { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    ExitCode::SUCCESS
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments { seeds: 1000, first_seed: None, lying_disk: false };
    while let Some(word) = words.next() {
        let mut number = |name: &str| -> Result<u64, String> {
            let value = words.next().ok_or(format!("{name} needs a number"))?;
            value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))
        };
        match word.as_str() {
            "--seeds" => arguments.seeds = number("--seeds")?,
            "--first-seed" => arguments.first_seed = Some(number("--first-seed")?),
            "--lying-disk" => arguments.lying_disk = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(arguments))
}

fn add(total: &mut WorldReport, report: &WorldReport) {
    total.lives += report.lives;
    total.crashes += report.crashes;
    total.crashes_in_recovery += report.crashes_in_recovery;
    total.restarts += report.restarts;
    total.appended += report.appended;
    total.quota_refusals += report.quota_refusals;
    total.replays += report.replays;
    total.mismatches += report.mismatches;
    total.key_runs_merged += report.key_runs_merged;
    total.queries += report.queries;
    total.rolls += report.rolls;
    total.retired += report.retired;
    total.tails_cut += report.tails_cut;
    total.latched += report.latched;
    total.segments_rewritten += report.segments_rewritten;
    total.tenants_erased += report.tenants_erased;
    total.storage_full += report.storage_full;
}
