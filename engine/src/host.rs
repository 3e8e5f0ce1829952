//! A shard on the real machine: its operations go to a ring, its slow work to a helper thread.
//!
//! Owns the translation between a shard's tickets and the ring's: the upper 8 bits of a ticket say whose operation it
//! is, so that one ring serves several shards, queries and sockets. Must never: touch what the operations mean.

use std::sync::Arc;

use crate::event::EventBatch;
use crate::io::worker::Worker;
use crate::io::{BufferPool, DiskDone, DiskOp, FileMemory, FsDisk, Remote, Ring};
use crate::limits::{BLOCK_BYTES_TARGET, IN_FLIGHT_BLOCKS_MAX};
use crate::shard::jobs::{Job, JobDone};
use crate::shard::recover::{OpenError, RecoveryReport};
use crate::shard::{Ack, AppendError, Now, Output, Shard, ShardConfig};

/// Where the route stands in a ticket, and how many routes there are.
const ROUTE_SHIFT: u32 = 56;
const TICKET_MASK: u64 = (1 << ROUTE_SHIFT) - 1;

/// Whose disk operation a ticket belongs to. One byte of every ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route(pub u8);

impl Route {
    /// Marks an operation as this route's. Its own ticket must fit 56 bits.
    pub fn tag(self, mut op: DiskOp) -> DiskOp {
        let ticket = match &mut op {
            DiskOp::Write { ticket, .. } | DiskOp::Read { ticket, .. } | DiskOp::Sync { ticket, .. } => ticket,
        };
        assert!(*ticket <= TICKET_MASK);
        *ticket |= u64::from(self.0) << ROUTE_SHIFT;
        op
    }

    /// Whose operation has ended, with the ticket as its owner gave it.
    pub fn untag(mut done: DiskDone) -> (Route, DiskDone) {
        let route = Route((done.ticket >> ROUTE_SHIFT) as u8);
        done.ticket &= TICKET_MASK;
        (route, done)
    }
}

/// One shard with its helper thread.
pub struct ShardHost {
    shard: Shard,
    worker: Worker<Job, JobDone>,
    route: Route,
    out: Output,
}

impl ShardHost {
    /// Opens the shard and starts its helper. `remote` wakes the ring that will drive it.
    pub fn open(
        disk: Arc<FsDisk>,
        config: ShardConfig,
        now: Now,
        seed: u64,
        route: Route,
        ring: &mut Ring,
    ) -> Result<(ShardHost, RecoveryReport), OpenError> {
        // The window, the open block, and one for the checkpoint of a roll.
        let pool = BufferPool::new(IN_FLIGHT_BLOCKS_MAX as usize + 2, BLOCK_BYTES_TARGET);
        ring.register_pool(&pool);
        let name = config.home.dir.clone();
        let (shard, report) = Shard::open(&*disk, config, pool, now, seed)?;
        let remote: Remote = ring.remote();
        let mut memory = FileMemory::default();
        let worker = Worker::start(&name, move |job: Job| job.run(&*disk, &mut memory), move || remote.wake());
        Ok((ShardHost { shard, worker, route, out: Output::default() }, report))
    }

    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// See `Shard::append`.
    pub fn append(&mut self, ticket: u64, batch: EventBatch) -> Result<(), (EventBatch, AppendError)> {
        self.shard.append(ticket, batch)
    }

    /// Takes the end of a disk operation whose route is this shard's.
    pub fn disk_done(&mut self, done: DiskDone) {
        self.shard.disk_done(done);
    }

    /// One turn: takes finished jobs, lets the shard work, hands its operations to the ring and its jobs to the helper.
    /// Answers are appended to `acks`. Returns when the shard wants another turn even if nothing completes.
    pub fn turn(&mut self, ring: &mut Ring, now: Now, acks: &mut Vec<Ack>) -> Option<u64> {
        while let Some(done) = self.worker.try_next() {
            self.shard.job_done(done, now);
        }
        let deadline = self.shard.turn(now, &mut self.out);
        self.carry_out(ring, acks);
        deadline
    }

    /// See `Shard::roll_now`.
    pub fn roll_now(&mut self, ring: &mut Ring, now: Now, acks: &mut Vec<Ack>) -> bool {
        let has_rolled = self.shard.roll_now(now, &mut self.out);
        self.carry_out(ring, acks);
        has_rolled
    }

    fn carry_out(&mut self, ring: &mut Ring, acks: &mut Vec<Ack>) {
        for op in self.out.disk.drain(..) {
            ring.disk(self.route.tag(op));
        }
        for job in self.out.jobs.drain(..) {
            // A shard has one job at a time, far below what a worker takes.
            assert!(self.worker.submit(job).is_ok());
        }
        acks.append(&mut self.out.acks);
    }
}
