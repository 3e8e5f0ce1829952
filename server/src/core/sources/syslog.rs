//! Messages of syslog over TCP: what came together for one tenant becomes one batch.
//!
//! A message that has been taken is in a batch, and a batch that cannot be sent waits with its connection, which reads no
//! further.

use std::collections::VecDeque;
use std::net::IpAddr;

use ringlog_engine::event::{EventBatch, Source};

use crate::auth::delta::TenantState;
use crate::core::host::CoreHost;
use crate::core::sources::counters::{Refusal, SourceKind};
use crate::core::sources::{Open, Sender, Wait, Writer};
use crate::limits::{REJECT_SAMPLE_BYTES, STREAM_HELD_FREE_BYTES, SYSLOG_BATCH_BYTES, SYSLOG_BATCH_MESSAGES};
use crate::net::streams::{StreamKey, Taken, Then};
use crate::wire::syslog::framing::{Frame, Framer};
use crate::wire::syslog::key::{MalformedKey, find_key, refused_text};
use crate::wire::syslog::parse::Form;
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
                Frame::Truncated(beginning) => {
                    self.refuse_cut(SourceKind::SyslogStream, Refusal::Oversized, &rest[beginning]);
                }
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
                Some(Frame::Truncated(beginning)) => {
                    self.refuse_cut(SourceKind::SyslogStream, Refusal::CutOff, &rest[beginning]);
                }
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
        match self.writer_of_message(kind, find_key(&message)) {
            None => {}
            Some(writer) => {
                let is_open = open.back().is_some_and(|last| last.writer == writer && !is_full(last));
                if !is_open {
                    let batch = self.appends.take_batch(writer.tenant, Source::Syslog);
                    open.push_back(Open { writer, batch, is_paid: false });
                }
                let last = open.back_mut().expect("one was just made, or there");
                // A batch that is not full has room for any message.
                if let Err(error) = into.push(&message, peer_text, &mut last.batch) {
                    let tell = || (error.to_string(), Some(shown(bytes)));
                    self.reject(&writer, kind, Refusal::Malformed.name(), tell);
                }
                if last.batch.is_empty() {
                    let empty = open.pop_back().expect("it was just looked at");
                    self.appends.keep(empty.batch);
                }
            }
        }
        self.sources.messages = messages;
    }

    /// A message of which there is only the beginning. Whoever it belongs to is shown that, if it is certain whose it is.
    pub(super) fn refuse_cut(&mut self, kind: SourceKind, why: Refusal, beginning: &[u8]) {
        let mut messages = std::mem::take(&mut self.sources.messages);
        let message = messages.reader.read(beginning, self.now.wall);
        let key = find_key(&message);
        // A key may stand behind the cut, or in what was cut in two.
        let may_be_anothers = key == Ok(None)
            && (message.may_name_key || (message.form == Form::Unparsed && beginning.starts_with(b"<")));
        if may_be_anothers {
            self.sources.counters.reject(kind, why.name(), 1);
        } else if let Some(writer) = self.writer_of_message(kind, key) {
            self.reject(&writer, kind, why.name(), || (why.text().to_owned(), Some(shown(beginning))));
        }
        self.sources.messages = messages;
    }

    /// Whose a message is. Those that are nobody's, or of one who may not write, are counted.
    fn writer_of_message(&mut self, kind: SourceKind, key: Result<Option<[u8; 16]>, MalformedKey>) -> Option<Writer> {
        let writer = match key {
            Ok(Some(key)) => {
                let writer = self.writer_of_key(&key);
                if writer.is_none() {
                    self.reject_key(kind, &key);
                }
                return writer;
            }
            Ok(None) => self.writer_of_listener(),
            Err(MalformedKey) => None,
        };
        match writer {
            Some(writer) if self.credentials.is_active(writer.tenant) => return Some(writer),
            Some(writer) => self.reject_repeated(&writer, kind, Refusal::Revoked, 1),
            None => self.sources.counters.reject(kind, Refusal::BadKey.name(), 1),
        }
        None
    }

    /// Whether it is active or not.
    fn writer_of_listener(&self) -> Option<Writer> {
        let row = self.credentials.tenant(self.sources.syslog_workspace?)?;
        (row.state != TenantState::Deleting).then_some(Writer {
            tenant: row.number,
            shard: row.shard,
            credential: None,
        })
    }
}

/// The beginning of a message, without a key.
fn shown(message: &[u8]) -> String {
    refused_text(&message[..message.len().min(REJECT_SAMPLE_BYTES)])
}

fn is_full(open: &Open) -> bool {
    fills(&open.batch)
}

fn fills(batch: &EventBatch) -> bool {
    SYSLOG_BATCH_MESSAGES <= batch.event_count() || SYSLOG_BATCH_BYTES <= batch.records().len()
}
