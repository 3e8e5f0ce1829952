//! Whole lives of a catalog on the engine's simulated disk: the control plane, its records, the audit chain and the shard
//! under them, all as they are in a server, through power cuts, failing writes and syncs, full disks and kills.
//!
//! One thread, one seed. Three judges that know nothing of each other: `ledger` of what the log must hold, `promises` of
//! what answers said, and the proof of the chain that `ringlog audit verify` runs.
//!
//! ```text
//! world: begin ─► check ─► disturb ─► workload ─► Control ─► EngineRecords ─► SimEngine ─► SimDisk
//!          ▲                                                                                 │
//!          └──────────────────── power cut, kill or stop ◄──────────────────────────────────┘
//! ```

mod ledger;
mod promises;
mod running;
mod workload;
mod world;

use ringlog_engine::io::Site;

use world::World;

/// Which promise was broken.
type Violation = String;

/// What is broken on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, Default)]
struct SimulationOptions {
    /// The disk says that syncs succeed and does not do them.
    lying_disk: bool,
    /// The same for one place that asks for durability.
    ignored_site: Option<Site>,
    /// The engine answers before a record is durable.
    answers_early: bool,
    /// The log says of one record in each life that it is stored, and drops it.
    swallows_a_record: bool,
    /// The ledger believes what it finds, so that only the promises are left to judge.
    forgets_the_ledger: bool,
}

/// What one seed went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Report {
    lives: u64,
    crashes: u64,
    crashes_in_recovery: u64,
    kills: u64,
    restarts: u64,
    commands: u64,
    /// Appends that were answered.
    acknowledged: u64,
    /// Records without an answer, by what became of them.
    unanswered_found: u64,
    unanswered_lost: u64,
    latched: u64,
    full: u64,
    segments_rolled: u64,
    tenants_erased: u64,
    /// Of those, to others.
    ids_given_again: u64,
    /// In the log at the end.
    records: u64,
    trace: u64,
}

/// Runs every life of one seed.
fn run(seed: u64, options: SimulationOptions) -> Result<Report, Violation> {
    let mut world = World::new(seed, options);
    world.live()?;
    Ok(world.close_report())
}

#[cfg(test)]
mod tests;
