//! One core: one pinned thread with its ring, its connections and its shards.
//!
//! Owns everything that a request needs, so that nothing on its way takes a lock. Must never: wait for anything but its
//! ring, or do one request's work for so long that another notices.

mod appends;
mod controls;
mod erasures;
mod host;
mod kept;
pub mod mailbox;
pub mod metrics;
mod notes;
pub mod null;
mod paid_routes;
mod peers;
mod queries;
pub mod rates;
mod rejects;
pub mod setup;
mod shards;
mod slots;
mod sources;
#[cfg(test)]
mod tests;
mod turns;
mod usage;

use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{IoMode, Ring, RingConfig, SyncMode};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::core::host::CoreHost;
use crate::core::setup::{CoreSetup, CoreStarted};
use crate::core::shards::OwnedShards;
use crate::core::sources::{FRAMES_LISTENER, SYSLOG_DATAGRAMS, SYSLOG_LISTENER};
use crate::core::turns::{Clock, Pace, turn_until_over};
use crate::limits::{CONNECTIONS_MAX, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFER_COUNT, RING_ENTRIES, STREAMS_MAX};
use crate::net::connections::Connections;
use crate::net::sockets::{HTTP_LISTENER, Sockets};
use crate::net::streams::Streams;

/// Sockets that the ring has room for beyond the core's connections: those that are accepted only to be closed.
const SOCKETS_SPARE: usize = 64;

/// Runs a core on the calling thread until it is told to stop.
pub fn run(mut setup: CoreSetup) {
    pin(setup.cpu);
    let clock = Clock::start();
    let started = setup.started.clone();
    match open(&mut setup, clock) {
        Ok(Opened { mut ring, mut sockets, shards, listeners, report }) => {
            // Whoever started us may have given up; then nobody tells us to stop either, and the mailbox says so.
            let _ = started.send(Ok(report));
            let (acks, core) = (setup.acks.clone(), setup.core);
            let mut host = CoreHost::new(setup, shards, listeners, ring.notice().to_owned(), clock.now());
            turn_until_over(&mut host, &mut sockets, &mut ring, clock);
            host.tell_what_sources_did(&sockets);
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
    sockets: Sockets<CoreHost>,
    shards: OwnedShards,
    listeners: Vec<u32>,
    report: CoreStarted,
}

fn open(setup: &mut CoreSetup, clock: Clock) -> Result<Opened, String> {
    let connections_max = (CONNECTIONS_MAX / setup.addresses.len()).max(1);
    let streams_max = (STREAMS_MAX / setup.addresses.len()).max(1);
    let ring_config = ring_config(setup.io, setup.sync, connections_max + streams_max);
    let mut ring = Ring::new(ring_config).map_err(|error| error.to_string())?;
    setup.mailbox.set_remote(ring.remote());
    let now = Pace::default().now(clock.now());
    let (shards, reports) =
        OwnedShards::open(&setup.dir, setup.core, &setup.shard_owners, setup.durability, now, &mut ring)?;
    // The ring's own; the one in the setup closes with it.
    let http = setup.http.try_clone().map_err(|error| format!("the listener cannot be shared: {error}"))?;
    let all =
        [(HTTP_LISTENER, Some(http)), (FRAMES_LISTENER, setup.tcp.take()), (SYSLOG_LISTENER, setup.syslog_tcp.take())];
    let mut listeners = Vec::new();
    for (token, listener) in all {
        let Some(listener) = listener else { continue };
        ring.listen(listener, token).map_err(|error| format!("a listener cannot be served: {error}"))?;
        listeners.push(token);
    }
    if let Some(socket) = setup.syslog_udp.take() {
        ring.watch_datagrams(socket, SYSLOG_DATAGRAMS)
            .map_err(|error| format!("the syslog socket cannot be served: {error}"))?;
    }
    let http = Connections::new(connections_max, random_u64(), clock.now().unix_us);
    let sockets = Sockets { http, streams: Streams::new(streams_max) };
    let report = CoreStarted { core: setup.core, io_notice: ring.notice().to_owned(), reports };
    Ok(Opened { ring, sockets, shards, listeners, report })
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
