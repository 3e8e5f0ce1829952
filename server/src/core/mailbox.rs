//! Bounded mailboxes between threads: whole batches, answers, deltas; one wake-up for as many as there are.
//!
//! Each core owns one mailbox. Cores, the control thread and the signal thread post to it. Must never: block a core,
//! or wake one per message: a core that is awake drains its mailbox every turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use ringlog_engine::event::EventBatch;
use ringlog_engine::ids::{ShardNumber, Tenant};
use ringlog_engine::io::{Remote, Ring};
use ringlog_engine::query::active::{ActiveAnswer, ActiveRequest};
use ringlog_engine::shard::Ack;

use crate::auth::delta::Delta;
use crate::catalog::command::Answer;
use crate::core::shards::EventCounts;
use crate::handle::x402::due::Outcome;

/// Messages that wait in one mailbox. Cores that find it full answer `overloaded`, or keep an answer until there is
/// room; other threads wait.
pub const MAILBOX_MESSAGES_MAX: usize = 65_536;

/// How long a thread without a ring waits for room: as long as a core may stand still before the process ends.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
const ROOM_RETRY: Duration = Duration::from_millis(1);

/// What one thread tells a core.
#[derive(Debug)]
pub enum Message {
    /// Append for a request that came in on core `from`. `slot` and `generation` are its credential's, checked again at admit.
    Append {
        from: usize,
        ticket: u64,
        shard: ShardNumber,
        slot: u32,
        generation: u32,
        batch: EventBatch,
    },
    /// Rejects of a tenant in a shard of the receiver. Nobody waits for them.
    Rejected {
        shard: ShardNumber,
        batch: EventBatch,
    },
    /// Append for a source of core `from`, behind all that it sent before, and when there is room.
    AppendHeld {
        from: usize,
        ticket: u64,
        shard: ShardNumber,
        /// Slot and generation, where it has one.
        credential: Option<(u32, u32)>,
        batch: EventBatch,
    },
    /// The answer to an `Append` or `AppendHeld` that this core sent.
    Appended {
        ack: Ack,
    },
    /// The credential of one of these has been revoked in the meantime.
    AppendRevoked {
        ticket: u64,
        batch: EventBatch,
    },
    /// One bite of a query that came in on core `from`.
    Search {
        from: usize,
        ticket: u64,
        shard: ShardNumber,
        request: ActiveRequest,
    },
    Searched {
        ticket: u64,
        answer: ActiveAnswer,
    },
    /// How many events a tenant has, for a request that came in on core `from`.
    CountEvents {
        from: usize,
        ticket: u64,
        shard: ShardNumber,
        tenant: Tenant,
    },
    EventsCounted {
        ticket: u64,
        counts: EventCounts,
    },
    /// The catalog has changed. Applied at the start of the next turn, then acknowledged.
    Delta(Arc<Delta>),
    /// The control plane's answer.
    Controlled {
        ticket: u64,
        answer: Box<Answer>,
    },
    /// What became of the payment of a held request.
    Paid {
        ticket: u64,
        outcome: Box<Outcome>,
    },
    /// A shard of the sender's takes no more events.
    ShardReadOnly {
        shard: ShardNumber,
    },
    /// The sender has answered everything that it was asked, and asks others for nothing more.
    Drained,
    /// Stop accepting, finish what was received, make it durable, answer, and return.
    Stop,
}

/// What both ends share.
#[derive(Debug, Default)]
struct Shared {
    /// The owner drains its mailbox before it waits: nobody needs to wake it.
    is_awake: AtomicBool,
    /// Set by the owner once its ring exists.
    remote: OnceLock<Remote>,
}

/// The receiving end, owned by one core.
#[derive(Debug)]
pub struct Mailbox {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    /// Taken out by `prepare_wait`, given out by `next`.
    waiting: Option<Message>,
}

/// A sending end. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Address {
    messages: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// A new mailbox and its address.
pub fn mailbox() -> (Mailbox, Address) {
    let (sender, receiver) = sync_channel(MAILBOX_MESSAGES_MAX);
    let shared = Arc::new(Shared { is_awake: AtomicBool::new(true), remote: OnceLock::new() });
    let mailbox = Mailbox { messages: receiver, shared: Arc::clone(&shared), waiting: None };
    (mailbox, Address { messages: sender, shared })
}

impl Mailbox {
    /// Says how to wake the owner. Called once, on its thread, before the first wait.
    pub fn set_remote(&self, remote: Remote) {
        assert!(self.shared.remote.set(remote).is_ok());
    }

    /// The next message, if there is one.
    #[expect(clippy::should_implement_trait, reason = "an iterator would borrow the mailbox across the core's turn")]
    pub fn next(&mut self) -> Option<Message> {
        self.waiting.take().or_else(|| self.messages.try_recv().ok())
    }

    /// Announces that the owner is about to wait. `false`: a message came in the meantime and it must not.
    pub fn prepare_wait(&mut self) -> bool {
        self.shared.is_awake.store(false, Ordering::SeqCst);
        self.waiting = self.messages.try_recv().ok();
        if self.waiting.is_some() {
            self.shared.is_awake.store(true, Ordering::SeqCst);
        }
        self.waiting.is_none()
    }

    /// The owner is back from waiting.
    pub fn awake(&self) {
        self.shared.is_awake.store(true, Ordering::SeqCst);
    }
}

impl Address {
    /// Puts a message into the mailbox without waking its owner: for cores, which wake each peer once a turn.
    /// Gives the message back if the mailbox is full or its owner has gone.
    pub fn post(&self, message: Message) -> Result<(), Message> {
        self.messages.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })
    }

    /// Puts a message into the mailbox and wakes its owner: for threads without a ring, never for a core. What they
    /// send is not said again, so it waits for room. Gives the message back if the owner has gone, or stands still.
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.send_within(message, ROOM_WITHIN)
    }

    fn send_within(&self, mut message: Message, within: Duration) -> Result<(), Message> {
        let deadline = Instant::now() + within;
        loop {
            let outcome = self.messages.try_send(message);
            // Also where it is full: those who filled it may not have come to wake anybody yet.
            self.wake();
            message = match outcome {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(message)) if Instant::now() < deadline => message,
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => return Err(message),
            };
            thread::sleep(ROOM_RETRY);
        }
    }

    fn wake(&self) {
        if self.needs_wake()
            && let Some(remote) = self.shared.remote.get()
        {
            remote.wake();
        }
    }

    /// Wakes the owner through one's own ring if it sleeps. Call once a turn after `post`.
    pub fn wake_from(&self, ring: &mut Ring) {
        if self.needs_wake()
            && let Some(remote) = self.shared.remote.get()
        {
            ring.wake_peer(remote);
        }
    }

    fn needs_wake(&self) -> bool {
        !self.shared.is_awake.swap(true, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_posted_before_the_wait_keeps_the_owner_awake() {
        let (mut owner, address) = mailbox();
        assert!(owner.prepare_wait());
        owner.awake();
        address.post(Message::Stop).unwrap();
        assert!(!owner.prepare_wait());
        assert!(matches!(owner.next(), Some(Message::Stop)));
        assert!(owner.next().is_none());
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (mut owner, address) = mailbox();
        for _ in 0..MAILBOX_MESSAGES_MAX {
            address.post(Message::Stop).unwrap();
        }
        assert!(address.post(Message::Stop).is_err());
        assert!(owner.next().is_some());
        assert!(address.post(Message::Stop).is_ok());
    }

    #[test]
    fn a_sender_without_a_ring_waits_for_room_and_not_for_ever() {
        let (mut owner, address) = mailbox();
        for _ in 0..MAILBOX_MESSAGES_MAX {
            address.post(Message::Drained).unwrap();
        }
        assert!(address.send_within(Message::Stop, Duration::from_millis(5)).is_err());
        let sender = thread::spawn({
            let address = address.clone();
            move || address.send(Message::Stop).is_ok()
        });
        // Room for one: whichever comes last is the one that waited.
        assert!(matches!(owner.next(), Some(Message::Drained)));
        assert!(sender.join().unwrap());
        let last = std::iter::from_fn(|| owner.next()).last();
        assert!(matches!(last, Some(Message::Stop)));
        drop(owner);
        assert!(address.send(Message::Stop).is_err());
    }
}
