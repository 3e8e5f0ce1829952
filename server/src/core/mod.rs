//! One core: one pinned thread with its ring, its connections and its shards.
//!
//! Owns everything that a request needs, so that nothing on its way takes a lock. Must never: wait for anything but its
//! ring, or do one request's work for so long that another notices.

mod appends;
mod controls;
mod host;
pub mod mailbox;
mod notes;
pub mod null;
mod paid_routes;
mod peers;
mod queries;
pub mod rates;
pub mod setup;
mod shards;
mod slots;
#[cfg(test)]
mod tests;
mod turns;
mod usage;

use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{IoMode, Ring, RingConfig, SyncMode};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::core::host::{Context, CoreHost};
use crate::core::setup::{CoreSetup, CoreStarted};
use crate::core::shards::OwnedShards;
use crate::core::turns::{Clock, Pace, turn_until_over};
use crate::limits::{CONNECTIONS_MAX, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFER_COUNT, RING_ENTRIES};
use crate::net::connections::Connections;

/// Sockets that the ring has room for beyond the core's connections: those that are accepted only to be closed.
const SOCKETS_SPARE: usize = 64;

/// The token of the listener that is served. What the ones behind it accept is closed.
const HTTP_LISTENER: u32 = 0;

/// Runs a core on the calling thread until it is told to stop.
pub fn run(mut setup: CoreSetup) {
    pin(setup.cpu);
    let clock = Clock::start();
    let started = setup.started.clone();
    match open(&mut setup, clock) {
        Ok(Opened { mut ring, mut connections, shards, listener_count, report }) => {
            // Whoever started us may have given up; then nobody tells us to stop either, and the mailbox says so.
            let _ = started.send(Ok(report));
            let (acks, core) = (setup.acks.clone(), setup.core);
            let mut host = CoreHost::new(setup, shards, listener_count, ring.notice().to_owned(), clock.now());
            turn_until_over(&mut host, &mut connections, &mut ring, clock);
            // Nobody is let in here any more, under whatever epoch.
            acks.acknowledge(core, u64::MAX);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

struct Opened {
    ring: Ring,
    connections: Connections<Context>,
    shards: OwnedShards,
    listener_count: u32,
    report: CoreStarted,
}

fn open(setup: &mut CoreSetup, clock: Clock) -> Result<Opened, String> {
    let connections_max = (CONNECTIONS_MAX / setup.addresses.len()).max(1);
    let mut ring = Ring::new(ring_config(setup.io, setup.sync, connections_max)).map_err(|error| error.to_string())?;
    setup.mailbox.set_remote(ring.remote());
    let now = Pace::default().now(clock.now());
    let (shards, reports) =
        OwnedShards::open(&setup.dir, setup.core, &setup.shard_owners, setup.durability, now, &mut ring)?;
    let closing_from = HTTP_LISTENER + 1;
    // The ring's own; the one in the setup closes with it.
    let http = setup.http.try_clone().map_err(|error| format!("the listener cannot be shared: {error}"))?;
    let listeners = std::iter::once(http).chain(setup.closing.drain(..));
    let mut listener_count = 0;
    for listener in listeners {
        ring.listen(listener, listener_count).map_err(|error| format!("a listener cannot be served: {error}"))?;
        listener_count += 1;
    }
    let connections = Connections::new(connections_max, closing_from, random_u64(), clock.now().unix_us);
    let report = CoreStarted { core: setup.core, io_notice: ring.notice().to_owned(), reports };
    Ok(Opened { ring, connections, shards, listener_count, report })
}

fn ring_config(io: IoMode, sync: SyncMode, connections_max: usize) -> RingConfig {
    RingConfig {
        mode: io,
        entries: RING_ENTRIES,
        receive_buffers: RECEIVE_BUFFER_COUNT,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        sync,
        sockets_max: (connections_max + SOCKETS_SPARE) as u32,
    }
}

/// Keeps the thread on one processor. Where that is refused, it runs where the kernel puts it.
fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu.filter(|cpu| *cpu < CpuSet::MAX_CPU) {
        let mut set = CpuSet::new();
        set.set(cpu);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::debug!(cpu, %error, "the thread is not pinned");
        }
    }
}
