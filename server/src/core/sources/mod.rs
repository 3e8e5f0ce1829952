//! Sources that push and are told nothing: frames over TCP, syslog over TCP and UDP.
//!
//! Owns what they have on its way into the shards, and who waits for room there. Nobody can be answered, so that nothing may
//! be lost and nothing may be overtaken: what finds no room is kept or not read, and the sender is slowed down by TCP alone.
//! Must never: put events of two tenants into one batch, or refuse anything because there is too much of it.
//!
//! ```text
//! bytes ─► frame | messages ─► whose? ─► room and rate? ─no─► Pause, until there is
//!                                           └─yes─► batch ─► gate of the shard, here or on its owner ─► shard ─► counted
//! ```

pub mod counters;
mod datagrams;
mod frames;
mod gate;
mod syslog;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ringlog_engine::event::EventBatch;
use ringlog_engine::ids::{ShardNumber, Tenant};
use ringlog_engine::io::Ring;
use ringlog_engine::shard::{Ack, AppendError, Appended, ReadOnly};

use crate::auth::role::Permission;
use crate::core::appends::Waiter;
use crate::core::host::CoreHost;
use crate::core::mailbox::Message;
use crate::core::rejects::refused_count;
use crate::core::sources::counters::{Counters, Failed, Refusal, SourceKind, failed};
use crate::core::sources::datagrams::Inlet;
use crate::core::sources::gate::{Gate, Held, Passing};
use crate::core::sources::syslog::Messages;
use crate::limits::{ROOM_RETRY_US, SOURCES_APPENDING_BYTES_MAX, SOURCES_APPENDS_MAX};
use crate::net::sockets::Sockets;
use crate::net::streams::{StreamKey, StreamService, Taken, Then};
use crate::wire::frame;
use crate::wire::syslog::framing::Framer;

/// The tokens of the listeners, and of the datagrams.
pub const FRAMES_LISTENER: u32 = 1;
pub const SYSLOG_LISTENER: u32 = 2;
pub const SYSLOG_DATAGRAMS: u32 = 0;

/// Who may write where: found by a key, or given to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer {
    pub tenant: Tenant,
    pub shard: ShardNumber,
    /// Slot and generation. A listener's workspace has none.
    pub credential: Option<(u32, u32)>,
}

/// A batch that is being filled or waits to be sent.
#[derive(Debug)]
struct Open {
    writer: Writer,
    batch: EventBatch,
    /// It has been taken out of its tenant's rate.
    is_paid: bool,
}

/// Who sent a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Stream(StreamKey),
    Datagrams,
}

/// A batch on its way, as the core knows it that received it.
#[derive(Debug, Clone, Copy)]
pub struct OnItsWay {
    sender: Sender,
    kind: SourceKind,
    writer: Writer,
    bytes: usize,
}

/// Whom the gate's core tells of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Asker {
    Own(OnItsWay),
    Peer { core: usize, ticket: u64 },
}

/// A batch that has passed the gate.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    asker: Asker,
    shard: ShardNumber,
    credential: Option<(u32, u32)>,
}

type Entry = (Asker, Option<(u32, u32)>);

/// What the sources of this core have under way in one shard.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    count: usize,
    /// Streams that wait for room, in order.
    waiting: VecDeque<StreamKey>,
}

/// What a connection has of its own.
pub struct SourceStream {
    peer: IpAddr,
    protocol: Protocol,
    /// Batches under way.
    in_flight: usize,
    /// All has been taken that will be: it closes when nothing is under way.
    is_ending: bool,
}

enum Protocol {
    Frames {
        /// The frame in front has been taken out of its tenant's rate.
        is_paid: bool,
    },
    Syslog {
        framer: Framer,
        open: VecDeque<Open>,
    },
}

/// Why a batch cannot be sent at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Until something is stored that is under way to its shard.
    Room(ShardNumber),
    Until {
        at_us: u64,
    },
}

pub struct Sources {
    gates: Vec<Gate<Entry>>,
    shares: Vec<Share>,
    on_its_way_count: usize,
    /// The stream that is being resumed out of a share's queue, and whether it has sent anything since.
    resuming: Option<(StreamKey, bool)>,
    /// Streams that go on at a time, soonest first.
    due: BTreeSet<(u64, StreamKey)>,
    /// Streams of which something is stored or refused that was under way.
    ended: Vec<StreamKey>,
    counters: Arc<Counters>,
    scratch: frame::Scratch,
    messages: Messages,
    inlet: Inlet,
    /// Whose messages are that name nobody.
    syslog_workspace: Option<Tenant>,
}

impl Sources {
    pub fn new(shard_count: usize, syslog_workspace: Option<Tenant>, counters: Arc<Counters>) -> Sources {
        Sources {
            gates: (0..shard_count).map(|_| Gate::new()).collect(),
            shares: (0..shard_count).map(|_| Share::default()).collect(),
            on_its_way_count: 0,
            resuming: None,
            due: BTreeSet::new(),
            ended: Vec::new(),
            counters,
            scratch: frame::Scratch::default(),
            messages: Messages::default(),
            inlet: Inlet::default(),
            syslog_workspace,
        }
    }

    /// What this core's sources have taken and refused.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn count_stored(&self, kind: SourceKind, batch: &EventBatch, appended: &Appended) {
        if !appended.is_replay {
            let counters = self.counters.of(kind);
            counters.batches_stored.add(1);
            counters.events_stored.add(batch.event_count() as u64);
        }
    }

    pub fn datagrams_ready(&mut self) {
        self.inlet.ready();
    }

    /// Told to stop, and nothing of the datagrams is left. Streams are there until nothing of theirs is.
    pub fn is_inlet_done(&self) -> bool {
        self.inlet.is_done()
    }

    /// When there is something to do although nothing has happened.
    pub fn deadline(&self) -> Option<u64> {
        let due = self.due.first().map(|(at_us, _)| *at_us);
        let gates = self.gates.iter().filter_map(Gate::deadline).min();
        [due, gates, self.inlet.deadline()].into_iter().flatten().min()
    }

    /// Whether a batch of about so many bytes may go to a shard.
    fn has_room(&self, sender: Sender, shard: ShardNumber, bytes: usize) -> bool {
        let share = &self.shares[shard.0 as usize];
        let is_next = match (sender, self.resuming) {
            (Sender::Stream(key), Some((resuming, _))) => key == resuming,
            (Sender::Stream(_), None) => share.waiting.is_empty(),
            (Sender::Datagrams, _) => true,
        };
        let share_bytes_max = SOURCES_APPENDING_BYTES_MAX / self.shares.len();
        let fits = share.bytes + bytes <= share_bytes_max && self.on_its_way_count < SOURCES_APPENDS_MAX;
        is_next && (share.count == 0 || fits)
    }

    /// Puts a stream where it is found when it can go on.
    fn wait(&mut self, key: StreamKey, kind: SourceKind, wait: Wait) {
        self.counters.of(kind).pauses.add(1);
        match (wait, self.resuming) {
            (Wait::Until { at_us }, _) => {
                self.due.insert((at_us, key));
            }
            // It has got nowhere, and keeps its place.
            (Wait::Room(shard), Some((resuming, false))) if resuming == key => {
                self.shares[shard.0 as usize].waiting.push_front(key);
            }
            (Wait::Room(shard), _) => self.shares[shard.0 as usize].waiting.push_back(key),
        }
    }
}

impl CoreHost {
    // ----- on the way out -----

    /// Whose key it is, and where that tenant's events go.
    fn writer_of_key(&mut self, key: &[u8; 16]) -> Option<Writer> {
        let principal = self.credentials.authenticate_streaming_key(key, self.now.wall).ok()?;
        if !principal.may(Permission::Write) {
            return None;
        }
        let shard = self.credentials.tenant(principal.tenant)?.shard;
        Some(Writer { tenant: principal.tenant, shard, credential: Some((principal.slot, principal.generation)) })
    }

    /// Whether a batch of about so many bytes can be sent, as far as that can be known before it is made. It is taken out of
    /// the tenant's rate if it is not `is_paid`, and then it is.
    fn may_send(&mut self, sender: Sender, writer: &Writer, bytes: usize, is_paid: &mut bool) -> Result<(), Wait> {
        if !self.sources.has_room(sender, writer.shard, bytes) {
            return Err(Wait::Room(writer.shard));
        }
        if !*is_paid {
            let now_us = self.now.monotonic_us;
            self.take_rate(writer.tenant).map_err(|(_, refused)| Wait::Until { at_us: now_us + refused.fits_in_us })?;
            *is_paid = true;
        }
        Ok(())
    }

    /// Sends a batch on its way, or gives it back.
    fn send_batch(
        &mut self,
        sender: Sender,
        kind: SourceKind,
        writer: &Writer,
        batch: EventBatch,
    ) -> Result<(), (EventBatch, Wait)> {
        let Writer { shard, credential, .. } = *writer;
        let bytes = batch.records().len();
        let on_its_way = OnItsWay { sender, kind, writer: *writer, bytes };
        let owner = self.shard_owners[shard.0 as usize];
        if owner == self.core {
            self.sources.gates[shard.0 as usize].push(Held { who: (Asker::Own(on_its_way), credential), batch });
            self.has_news = true;
        } else {
            let wait = Wait::Until { at_us: self.now.monotonic_us + ROOM_RETRY_US };
            let Ok(key) = self.appends.waiters.insert(Waiter::Sent(on_its_way)) else { return Err((batch, wait)) };
            let message = Message::AppendHeld { from: self.core, ticket: key.to_ticket(), shard, credential, batch };
            if let Err(message) = self.peers.ask(owner, message) {
                self.appends.waiters.take(key);
                let Message::AppendHeld { batch, .. } = message else { unreachable!("what was sent comes back") };
                return Err((batch, wait));
            }
        }
        let sources = &mut self.sources;
        let share = &mut sources.shares[shard.0 as usize];
        share.bytes += bytes;
        share.count += 1;
        sources.on_its_way_count += 1;
        if let Some((_, has_sent)) = &mut sources.resuming {
            *has_sent = true;
        }
        Ok(())
    }

    // ----- the gates of this core's shards -----

    /// Takes a batch that came in on another core.
    pub(super) fn hold_for_peer(
        &mut self,
        core: usize,
        ticket: u64,
        shard: ShardNumber,
        credential: Option<(u32, u32)>,
        batch: EventBatch,
    ) {
        self.sources.gates[shard.0 as usize].push(Held { who: (Asker::Peer { core, ticket }, credential), batch });
        self.has_news = true;
    }

    /// Lets into the shards what has room there.
    pub(super) fn pass_gates(&mut self) {
        let mut gates = std::mem::take(&mut self.sources.gates);
        for (index, gate) in gates.iter_mut().enumerate() {
            gate.pass(self.now.monotonic_us, |held| self.pass_gate(ShardNumber(index as u32), held));
        }
        self.sources.gates = gates;
    }

    fn pass_gate(&mut self, shard: ShardNumber, held: Held<Entry>) -> Passing<Entry> {
        let Held { who: (asker, credential), batch } = held;
        let is_good = self.credentials.is_active(batch.tenant())
            && credential.is_none_or(|(slot, generation)| self.credentials.still_valid(slot, generation));
        if !is_good {
            self.tell_asker(asker, batch, Err(Failed::Refused(Refusal::Revoked)));
            return Passing::Refused;
        }
        let held = |batch| Held { who: (asker, credential), batch };
        let Ok(key) = self.appends.waiters.insert(Waiter::Passed(Passed { asker, shard, credential })) else {
            return Passing::NotNow(held(batch), ROOM_RETRY_US);
        };
        let Err((batch, error)) = self.shards.append(shard, key.to_ticket(), batch) else { return Passing::Inside };
        self.appends.waiters.take(key);
        match failed(error) {
            Failed::NoRoom { retry_us } => Passing::NotNow(held(batch), retry_us),
            refused @ Failed::Refused(_) => {
                self.tell_asker(asker, batch, Err(refused));
                Passing::Refused
            }
        }
    }

    /// A shard of this core has answered one that had passed.
    pub(super) fn passed_ended(&mut self, passed: Passed, ack: Ack) {
        let Passed { asker, shard, credential } = passed;
        let now_us = self.now.monotonic_us;
        let gate = &mut self.sources.gates[shard.0 as usize];
        let result = match ack.result.map_err(failed) {
            Err(Failed::NoRoom { retry_us }) => {
                let held = Held { who: (asker, credential), batch: ack.batch };
                return gate.came_back(held, retry_us, now_us);
            }
            Err(refused) => Err(refused),
            Ok(appended) => Ok(appended),
        };
        gate.answered(&ack.batch, now_us);
        // What waits behind it may have room.
        self.has_news |= 0 < gate.len();
        if let Asker::Peer { core, ticket } = asker {
            self.peers.answer(core, Message::Appended { ack: Ack { ticket, ..ack } });
        } else {
            self.tell_asker(asker, ack.batch, result);
        }
    }

    fn tell_asker(&mut self, asker: Asker, batch: EventBatch, result: Result<Appended, Failed>) {
        match (asker, result) {
            (Asker::Own(on_its_way), result) => self.source_ended(&on_its_way, batch, result),
            (Asker::Peer { core, ticket }, Err(Failed::Refused(Refusal::Revoked))) => {
                self.peers.answer(core, Message::AppendRevoked { ticket, batch });
            }
            (Asker::Peer { core, ticket }, _) => {
                // Whoever asks hears of the shard's own answers by `passed_ended`; what is left is that it is closing.
                let result = Err(AppendError::ReadOnly(ReadOnly::Closing));
                self.peers.answer(core, Message::Appended { ack: Ack { ticket, batch, result } });
            }
        }
    }

    // ----- on the way back -----

    /// What became of a batch that came in on this core.
    pub(super) fn source_ended(&mut self, on_its_way: &OnItsWay, batch: EventBatch, result: Result<Appended, Failed>) {
        let OnItsWay { sender, kind, writer, bytes } = *on_its_way;
        let sources = &mut self.sources;
        let share = &mut sources.shares[writer.shard.0 as usize];
        share.bytes -= bytes;
        share.count -= 1;
        sources.on_its_way_count -= 1;
        match result {
            Ok(appended) => sources.count_stored(kind, &batch, &appended),
            Err(Failed::Refused(why)) => {
                self.reject_repeated(&writer, kind, why, refused_count(kind, &batch));
            }
            Err(Failed::NoRoom { .. }) => unreachable!("a gate keeps what finds no room"),
        }
        let sources = &mut self.sources;
        match sender {
            Sender::Stream(key) => sources.ended.push(key),
            Sender::Datagrams => sources.inlet.in_flight -= 1,
        }
        self.appends.keep(batch);
    }

    /// Goes on with whoever waited for what has happened in this turn.
    pub(super) fn work_on_sources(&mut self, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) {
        let mut ended = std::mem::take(&mut self.sources.ended);
        for key in ended.drain(..) {
            let Some(stream) = sockets.streams.get_mut(key) else { continue };
            stream.in_flight -= 1;
            if stream.is_ending && stream.in_flight == 0 {
                sockets.streams.close(key, ring);
            }
        }
        self.sources.ended = ended;
        let now_us = self.now.unix_us;
        while let Some((at_us, key)) = self.sources.due.first().copied()
            && at_us <= self.now.monotonic_us
        {
            self.sources.due.pop_first();
            sockets.streams.resume(key, self, now_us);
        }
        for index in 0..self.sources.shares.len() {
            self.resume_waiting(ShardNumber(index as u32), sockets);
        }
        self.take_datagrams(ring);
    }

    /// Lets those go on that wait for room in a shard, in order, as long as there is some.
    fn resume_waiting(&mut self, shard: ShardNumber, sockets: &mut Sockets<CoreHost>) {
        let index = shard.0 as usize;
        // Each once: one that comes back to the end has had its turn.
        for _ in 0..self.sources.shares[index].waiting.len() {
            let Some(key) = self.sources.shares[index].waiting.front().copied() else { return };
            self.sources.resuming = Some((key, false));
            if self.sources.has_room(Sender::Stream(key), shard, 1) {
                self.sources.shares[index].waiting.pop_front();
                sockets.streams.resume(key, self, self.now.unix_us);
            }
            self.sources.resuming = None;
            if self.sources.shares[index].waiting.front() == Some(&key) {
                return;
            }
        }
    }

    /// The core is told to stop, or it is late. What the kernel has of datagrams is still taken.
    pub(super) fn stop_sources(&mut self) {
        self.sources.inlet.stop();
        self.has_news = true;
    }

    /// One line for the log, at the end.
    pub(super) fn tell_what_sources_did(&self, sockets: &Sockets<CoreHost>) {
        let counters = self.sources.counters().to_string();
        if !counters.is_empty() {
            tracing::info!(core = self.core, stalled = sockets.streams.stalled_count(), "sources: {counters}");
        }
    }

    /// Says what is lost by an end that comes too soon.
    pub(super) fn tell_what_is_lost(&self, cut_streams: usize) {
        let held: usize = self.sources.gates.iter().map(Gate::len).sum();
        let batches = held + self.sources.inlet.unsent();
        if 0 < cut_streams + batches {
            tracing::error!(
                core = self.core,
                connections = cut_streams,
                batches,
                "the time to stop is over: what these had sent and no shard had room for is not stored"
            );
        }
    }
}

impl StreamService for CoreHost {
    type Stream = SourceStream;

    fn on_open(&mut self, listener: u32, peer: IpAddr) -> SourceStream {
        let (kind, protocol) = match listener {
            FRAMES_LISTENER => (SourceKind::Frames, Protocol::Frames { is_paid: false }),
            SYSLOG_LISTENER => {
                let protocol = Protocol::Syslog { framer: Framer::default(), open: VecDeque::new() };
                (SourceKind::SyslogStream, protocol)
            }
            _ => unreachable!("a listener that nobody has made"),
        };
        self.sources.counters.of(kind).connections_opened.add(1);
        SourceStream { peer: peer.to_canonical(), protocol, in_flight: 0, is_ending: false }
    }

    fn on_bytes(&mut self, key: StreamKey, stream: &mut SourceStream, bytes: &[u8], is_end: bool) -> Taken {
        let SourceStream { peer, protocol, in_flight, .. } = stream;
        let taken = match protocol {
            Protocol::Frames { is_paid } => self.take_frames(key, *peer, is_paid, in_flight, bytes, is_end),
            Protocol::Syslog { framer, open } => {
                let mut from = syslog::From { key, peer: *peer, framer, open, in_flight };
                self.take_messages(&mut from, bytes, is_end)
            }
        };
        if taken.then == Then::End {
            stream.is_ending = true;
            if stream.in_flight == 0 {
                // `work_on_sources` closes it.
                stream.in_flight = 1;
                self.sources.ended.push(key);
                self.has_news = true;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ShardNumber = ShardNumber(0);
    const THERE: ShardNumber = ShardNumber(1);
    const SHARE: usize = SOURCES_APPENDING_BYTES_MAX / 2;

    fn key(place: u32) -> StreamKey {
        StreamKey::of_place(place)
    }

    fn sources() -> Sources {
        Sources::new(2, None, Arc::default())
    }

    fn has_room(sources: &Sources, place: u32, shard: ShardNumber, bytes: usize) -> bool {
        sources.has_room(Sender::Stream(key(place)), shard, bytes)
    }

    /// As `send_batch` counts it.
    fn put(sources: &mut Sources, shard: ShardNumber, bytes: usize) {
        let share = &mut sources.shares[shard.0 as usize];
        share.bytes += bytes;
        share.count += 1;
        sources.on_its_way_count += 1;
    }

    #[test]
    fn a_shard_that_stands_still_takes_its_own_share_and_no_more() {
        let mut sources = sources();
        put(&mut sources, HERE, SHARE - 10);
        assert!(has_room(&sources, 1, HERE, 10) && !has_room(&sources, 1, HERE, 11));
        assert!(has_room(&sources, 1, THERE, SHARE));
    }

    #[test]
    fn what_is_larger_than_a_share_goes_alone() {
        let mut sources = sources();
        assert!(has_room(&sources, 1, HERE, 2 * SHARE));
        put(&mut sources, HERE, 1);
        assert!(!has_room(&sources, 1, HERE, 2 * SHARE));
    }

    #[test]
    fn batches_are_bounded_too() {
        let mut sources = sources();
        (0..SOURCES_APPENDS_MAX).for_each(|_| put(&mut sources, HERE, 1));
        assert!(!has_room(&sources, 1, HERE, 1));
        // A shard of which nothing is under way is never shut out by another.
        assert!(has_room(&sources, 1, THERE, 1));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let mut sources = sources();
        sources.wait(key(1), SourceKind::Frames, Wait::Room(HERE));
        sources.wait(key(2), SourceKind::Frames, Wait::Room(HERE));
        assert!(!has_room(&sources, 3, HERE, 1) && has_room(&sources, 3, THERE, 1));
        sources.resuming = Some((key(1), false));
        assert!(has_room(&sources, 1, HERE, 1) && !has_room(&sources, 2, HERE, 1));
        assert_eq!(sources.counters().of(SourceKind::Frames).pauses.get(), 2);
    }

    #[test]
    fn who_got_nowhere_keeps_its_place_and_who_did_goes_to_the_end() {
        let mut sources = sources();
        for (has_sent, expected) in [(false, [1, 2]), (true, [2, 1])] {
            sources.shares[0].waiting = VecDeque::from([key(2)]);
            sources.resuming = Some((key(1), has_sent));
            sources.wait(key(1), SourceKind::Frames, Wait::Room(HERE));
            assert_eq!(sources.shares[0].waiting, expected.map(key));
        }
    }

    #[test]
    fn those_with_a_time_go_on_by_it() {
        let mut sources = sources();
        assert_eq!(sources.deadline(), None);
        for (at_us, place) in [(30, 1), (20, 2), (20, 1)] {
            sources.wait(key(place), SourceKind::SyslogStream, Wait::Until { at_us });
        }
        assert_eq!(sources.deadline(), Some(20));
        let order: Vec<_> = sources.due.iter().copied().collect();
        assert_eq!(order, [(20, key(1)), (20, key(2)), (30, key(1))]);
    }
}
