//! Frames of the binary source: each is looked at alone, and becomes one batch of its key's tenant or nothing.

use std::net::IpAddr;

use ringlog_engine::event::Source;

use crate::core::host::CoreHost;
use crate::core::sources::counters::{Refusal, SourceKind};
use crate::core::sources::{Sender, Wait};
use crate::net::streams::{StreamKey, Taken, Then};
use crate::wire::frame::{Frame, Framing, LENGTH_BYTES, Received, next_frame};

const SOURCE_KIND: &str = "tcp";

impl CoreHost {
    pub(super) fn take_frames(
        &mut self,
        key: StreamKey,
        peer: IpAddr,
        is_paid: &mut bool,
        in_flight: &mut usize,
        bytes: &[u8],
        is_end: bool,
    ) -> Taken {
        let mut taken_bytes = 0;
        loop {
            let rest = &bytes[taken_bytes..];
            let (unit_bytes, then) = match next_frame(rest) {
                Framing::Frame(body) => {
                    let unit_bytes = body.end;
                    match self.take_frame(key, peer, is_paid, &rest[body]) {
                        Ok(is_sent) => {
                            taken_bytes += unit_bytes;
                            *in_flight += usize::from(is_sent);
                            continue;
                        }
                        Err(wait) => {
                            self.sources.wait(key, SourceKind::Frames, wait);
                            (unit_bytes, Then::Pause)
                        }
                    }
                }
                Framing::TooLarge(_) => {
                    self.sources.counters.reject(SourceKind::Frames, Refusal::Oversized.name(), 1);
                    (LENGTH_BYTES, Then::End)
                }
                Framing::Need(_) if is_end => {
                    let count = u64::from(!rest.is_empty());
                    self.sources.counters.reject(SourceKind::Frames, Refusal::CutOff.name(), count);
                    (LENGTH_BYTES, Then::End)
                }
                Framing::Need(unit_bytes) => (unit_bytes, Then::Receive),
            };
            return Taken { bytes: taken_bytes, unit_bytes, then };
        }
    }

    /// `Ok` once the frame has been dealt with: whether it has been sent on its way.
    fn take_frame(&mut self, key: StreamKey, peer: IpAddr, is_paid: &mut bool, body: &[u8]) -> Result<bool, Wait> {
        let frame = match Frame::parse(body) {
            Ok(frame) => frame,
            Err(error) => {
                // Nobody's: its key is not known.
                self.sources.counters.reject(SourceKind::Frames, error.reason(), 1);
                return Ok(false);
            }
        };
        let Some(writer) = self.writer_of_key(&frame.key) else {
            // Nobody is answered, so that nothing is to be had by guessing: there is no limit to hold against it.
            self.reject_key(SourceKind::Frames, &frame.key);
            return Ok(false);
        };
        let sender = Sender::Stream(key);
        self.may_send(sender, &writer, body.len(), is_paid)?;
        let mut batch = self.appends.take_batch(writer.tenant, Source::Tcp);
        let received = Received { source_kind: SOURCE_KIND, peer, trust_source_ip: false };
        if let Err(error) = frame.put(&received, &mut self.sources.scratch, &mut batch) {
            self.appends.keep(batch);
            // It is not shown: it has its key in it.
            self.reject(&writer, SourceKind::Frames, error.reason(), || (error.to_string(), None));
            *is_paid = false;
            return Ok(false);
        }
        // What the SDKs' disk buffers replay after a cut connection is stored once.
        let seed = self.appends.fingerprint().0;
        if let Some(replay_key) = frame.replay_key(seed) {
            batch.set_idempotency(replay_key.idempotency(seed));
        }
        match self.send_batch(sender, SourceKind::Frames, &writer, batch) {
            Ok(()) => {
                *is_paid = false;
                Ok(true)
            }
            // The frame itself is kept, and read again.
            Err((batch, wait)) => {
                self.appends.keep(batch);
                Err(wait)
            }
        }
    }
}
