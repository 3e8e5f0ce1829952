//! Messages of syslog over TCP: what came together for one tenant becomes one batch.
//!
//! A message that has been taken is in a batch, and a batch that cannot be sent waits with its connection, which reads no
//! further.

use std::collections::VecDeque;
use std::net::IpAddr;

use ringlog_engine::event::{EventBatch, Source};

use crate::core::host::CoreHost;
use crate::core::sources::counters::{Refusal, SourceKind};
use crate::core::sources::{Open, Sender, Wait, Writer};
use crate::limits::{STREAM_HELD_FREE_BYTES, SYSLOG_BATCH_BYTES, SYSLOG_BATCH_MESSAGES};
use crate::net::streams::{StreamKey, Taken, Then};
use crate::wire::syslog::framing::{Frame, Framer};
use crate::wire::syslog::key::find_key;
use crate::wire::syslog::{map, parse};

/// Memory that messages are read and written with, one after the other.
#[derive(Default)]
pub struct Messages {
    reader: parse::Reader,
    writer: map::Writer,
    peer: Option<IpAddr>,
    peer_text: String,
}

impl Messages {
    fn note_peer(&mut self, peer: IpAddr) {
        if self.peer.replace(peer) != Some(peer) {
            self.peer_text = peer.to_string();
        }
    }
}

/// The connection that bytes came by.
pub(super) struct From<'a> {
    pub key: StreamKey,
    pub peer: IpAddr,
    pub framer: &'a mut Framer,
    pub open: &'a mut VecDeque<Open>,
    pub in_flight: &'a mut usize,
}

impl CoreHost {
    pub(super) fn take_messages(&mut self, from: &mut From<'_>, bytes: &[u8], is_end: bool) -> Taken {
        let mut taken_bytes = 0;
        loop {
            // All but the last one are full, or another tenant's.
            let keep_count = if from.open.back().is_some_and(is_full) { 0 } else { 1 };
            if let Err(wait) = self.send_messages(from, keep_count) {
                return self.pause(from, wait, taken_bytes);
            }
            let rest = &bytes[taken_bytes..];
            let step = from.framer.step(rest);
            match step.frame {
                Frame::Message(message) => {
                    self.put_message(from.open, SourceKind::SyslogStream, from.peer, &rest[message])
                }
                Frame::Truncated(_) => self.sources.counters.syslog_streams.refuse(Refusal::Oversized, 1),
                Frame::Need => {
                    taken_bytes += step.consumed;
                    break;
                }
            }
            taken_bytes += step.consumed;
        }
        if is_end {
            let rest = &bytes[taken_bytes..];
            match from.framer.finish(rest) {
                Some(Frame::Message(message)) => {
                    self.put_message(from.open, SourceKind::SyslogStream, from.peer, &rest[message]);
                }
                Some(Frame::Truncated(_)) => self.sources.counters.syslog_streams.refuse(Refusal::CutOff, 1),
                Some(Frame::Need) | None => {}
            }
            taken_bytes = bytes.len();
        }
        if let Err(wait) = self.send_messages(from, 0) {
            return self.pause(from, wait, taken_bytes);
        }
        let rest_bytes = bytes.len() - taken_bytes;
        // How long a line is, nobody knows before its end.
        let is_long = STREAM_HELD_FREE_BYTES / 2 < rest_bytes;
        let unit_bytes = if is_long { from.framer.pending_bytes_max() } else { rest_bytes + 1 };
        Taken { bytes: taken_bytes, unit_bytes, then: if is_end { Then::End } else { Then::Receive } }
    }

    fn pause(&mut self, from: &From<'_>, wait: Wait, taken_bytes: usize) -> Taken {
        self.sources.wait(from.key, SourceKind::SyslogStream, wait);
        Taken { bytes: taken_bytes, unit_bytes: 1, then: Then::Pause }
    }

    /// Sends the batches of a connection, but for so many of the last.
    fn send_messages(&mut self, from: &mut From<'_>, keep_count: usize) -> Result<(), Wait> {
        while keep_count < from.open.len() {
            let open = from.open.pop_front().expect("there is more than none");
            if let Err((open, wait)) = self.send_open(Sender::Stream(from.key), SourceKind::SyslogStream, open) {
                from.open.push_front(open);
                return Err(wait);
            }
            *from.in_flight += 1;
        }
        Ok(())
    }

    /// Sends one batch on its way, or gives it back.
    pub(super) fn send_open(&mut self, sender: Sender, kind: SourceKind, mut open: Open) -> Result<(), (Open, Wait)> {
        let bytes = open.batch.records().len();
        if let Err(wait) = self.may_send(sender, &open.writer, bytes, &mut open.is_paid) {
            return Err((open, wait));
        }
        let Open { writer, batch, is_paid } = open;
        self.send_batch(sender, kind, &writer, batch).map_err(|(batch, wait)| (Open { writer, batch, is_paid }, wait))
    }

    /// Puts a message into the batch of its tenant that is open: the last one, or a new one behind it.
    pub(super) fn put_message(&mut self, open: &mut VecDeque<Open>, kind: SourceKind, peer: IpAddr, bytes: &[u8]) {
        // What is read lies in the reader's memory until it is written.
        let mut messages = std::mem::take(&mut self.sources.messages);
        messages.note_peer(peer);
        let Messages { reader, writer: into, peer_text, .. } = &mut messages;
        let message = reader.read(bytes, self.now.wall);
        let writer = match find_key(&message) {
            Ok(Some(key)) => self.writer_of_key(&key),
            Ok(None) => self.writer_of_listener(),
            Err(_) => None,
        };
        match writer {
            None => self.sources.counters.of(kind).refuse(Refusal::BadKey, 1),
            Some(writer) => {
                let is_open = open.back().is_some_and(|last| last.writer == writer && !is_full(last));
                if !is_open {
                    let batch = self.appends.take_batch(writer.tenant, Source::Syslog);
                    open.push_back(Open { writer, batch, is_paid: false });
                }
                let last = open.back_mut().expect("one was just made, or there");
                // A batch that is not full has room for any message.
                if into.push(&message, peer_text, &mut last.batch).is_err() {
                    self.sources.counters.of(kind).refuse(Refusal::Malformed, 1);
                }
                if last.batch.is_empty() {
                    let empty = open.pop_back().expect("it was just looked at");
                    self.appends.keep(empty.batch);
                }
            }
        }
        self.sources.messages = messages;
    }

    fn writer_of_listener(&self) -> Option<Writer> {
        let tenant = self.sources.syslog_workspace.filter(|tenant| self.credentials.is_active(*tenant))?;
        let shard = self.credentials.tenant(tenant)?.shard;
        Some(Writer { tenant, shard, credential: None })
    }
}

fn is_full(open: &Open) -> bool {
    fills(&open.batch)
}

fn fills(batch: &EventBatch) -> bool {
    SYSLOG_BATCH_MESSAGES <= batch.event_count() || SYSLOG_BATCH_BYTES <= batch.records().len()
}
