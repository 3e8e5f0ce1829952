//! One connection: it sends as fast as it may, ends its side, and waits until the server has closed the other.
//!
//! Must never: read a byte that it would believe. A source is told nothing; a byte from the server is an error.

use crate::cli::stream::Source;
use crate::corpus::{Rng, Seq};
use crate::source::{Made, frame, syslog};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Other messages of syslog, so that not every one is alike.
const MESSAGE_KINDS: usize = 64;

/// What every connection of a run sends.
#[derive(Debug)]
pub struct Plan {
    pub source: Source,
    pub to: SocketAddr,
    pub batch: usize,
    pub write_bytes: usize,
    pub entities: u32,
    pub patience: Duration,
    /// By tenant.
    pub templates: Vec<Vec<Made>>,
    pub until: Option<Instant>,
    /// Batches that nobody has taken yet.
    pub left: AtomicU64,
}

/// What one connection did.
#[derive(Debug, Default)]
pub struct Sent {
    pub batches: u64,
    pub bytes: u64,
    /// By tenant.
    pub events: Vec<u64>,
    /// Until its last byte was written.
    pub sending: Duration,
    /// Time inside of writes, and in the longest of them.
    pub writing: Duration,
    pub longest_write: Duration,
    pub stored_at: Option<Instant>,
}

impl Plan {
    /// The batches of one tenant: a frame, or messages of syslog of which a write takes as many as it wants.
    pub fn templates_of(source: Source, key: &str, batch: usize, event_bytes: usize) -> Result<Vec<Made>, String> {
        Ok(match source {
            Source::Frames => vec![frame::frame(&frame::key_bytes(key)?, batch, event_bytes)],
            Source::Syslog | Source::SyslogUdp => {
                frame::key_bytes(key)?;
                let framed = source == Source::Syslog;
                (0..MESSAGE_KINDS).map(|index| syslog(key, index, event_bytes, framed)).collect()
            }
        })
    }

    fn takes_one(&self) -> bool {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return false;
        }
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Connection number `connection`, from its first byte to its end.
    pub fn run(&self, connection: u32) -> Result<Sent, String> {
        let mut stream = Stream { plan: self, connection, sent: Sent::default(), rng: Rng::stream(1, 0, connection) };
        stream.sent.events = vec![0; self.templates.len()];
        match self.source {
            Source::Frames | Source::Syslog => stream.over_tcp()?,
            Source::SyslogUdp => stream.over_udp()?,
        }
        Ok(stream.sent)
    }
}

struct Stream<'a> {
    plan: &'a Plan,
    connection: u32,
    sent: Sent,
    rng: Rng,
}

impl Stream<'_> {
    fn over_tcp(&mut self) -> Result<(), String> {
        let to = self.plan.to;
        let mut socket = TcpStream::connect(to).map_err(|error| format!("{to}: {error}"))?;
        let mut out = Vec::with_capacity(2 * self.plan.write_bytes);
        let connected_at = Instant::now();
        while self.fill(&mut out) {
            let began_at = Instant::now();
            socket.write_all(&out).map_err(|error| format!("{to}: after {} bytes: {error}", self.sent.bytes))?;
            let took = began_at.elapsed();
            self.sent.writing += took;
            self.sent.longest_write = self.sent.longest_write.max(took);
            self.sent.bytes += out.len() as u64;
            out.clear();
        }
        self.sent.sending = connected_at.elapsed();
        let end = |error| format!("{to}: {error}");
        socket.shutdown(Shutdown::Write).map_err(end)?;
        socket.set_read_timeout(Some(self.plan.patience)).map_err(end)?;
        match socket.read(&mut [0; 1]) {
            Ok(0) => self.sent.stored_at = Some(Instant::now()),
            Ok(_) => return Err(format!("{to}: a source has been answered")),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("{to}: not closed within {:?}", self.plan.patience));
            }
            Err(error) => return Err(end(error)),
        }
        Ok(())
    }

    fn over_udp(&mut self) -> Result<(), String> {
        let to = self.plan.to;
        let failed = |error| format!("{to}: {error}");
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).map_err(failed)?;
        socket.connect(to).map_err(failed)?;
        let mut out = Vec::new();
        while self.plan.takes_one() {
            for _ in 0..self.plan.batch {
                out.clear();
                self.append_one(&mut out);
                socket.send(&out).map_err(failed)?;
                self.sent.bytes += out.len() as u64;
            }
            self.sent.batches += 1;
        }
        Ok(())
    }

    /// Fills one write. `false`: there is nothing more to send.
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        while self.plan.takes_one() {
            self.sent.batches += 1;
            match self.plan.source {
                Source::Frames => self.append_one(out),
                Source::Syslog | Source::SyslogUdp => (0..self.plan.batch).for_each(|_| self.append_one(out)),
            }
            let is_full = self.plan.source != Source::Frames || self.plan.write_bytes <= out.len();
            if is_full {
                return true;
            }
        }
        !out.is_empty()
    }

    /// The next frame or message: tenants take turns.
    fn append_one(&mut self, out: &mut Vec<u8>) {
        let Self { plan, connection, sent, rng } = self;
        let total: u64 = sent.events.iter().sum();
        let unit_events = plan.templates[0][0].event_count() as u64;
        let turn = total / unit_events;
        let tenant = (turn % plan.templates.len() as u64) as usize;
        let kinds = &plan.templates[tenant];
        let made = &kinds[(turn % kinds.len() as u64) as usize];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = Seq::new(tenant as u16, *connection, sent.events[tenant]);
        // Batch ids count from 1 in each of a sender's lives, and 0 is none.
        let entities = u64::from(plan.entities);
        made.append(out, turn + 1, first, now, || rng.below(entities) as u32);
        sent.events[tenant] += made.event_count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn plan(to: SocketAddr, count: u64) -> Plan {
        let keys = ["00".repeat(16), "0123456789abcdef0123456789abcdef".to_owned()];
        let templates = keys.iter().map(|key| Plan::templates_of(Source::Frames, key, 3, 100).unwrap()).collect();
        Plan {
            source: Source::Frames,
            to,
            batch: 3,
            write_bytes: 1000,
            entities: 10,
            patience: Duration::from_secs(10),
            templates,
            until: None,
            left: AtomicU64::new(count),
        }
    }

    /// Accepts one connection, reads it to its end, answers with `answer`, and closes it.
    fn serve(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            socket.read_to_end(&mut bytes).unwrap();
            socket.write_all(answer).unwrap();
            bytes
        });
        (address, server)
    }

    #[test]
    fn keys_take_turns_frame_by_frame() {
        let (address, server) = serve(b"");
        let sent = plan(address, 7).run(2).unwrap();
        let bytes = server.join().unwrap();
        assert_eq!((sent.batches, sent.bytes, &sent.events[..]), (7, bytes.len() as u64, &[12, 9][..]));
        assert!(sent.stored_at.is_some());
        let (mut rest, mut keys) = (&bytes[..], Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length).swap_bytes() as usize;
            keys.push(after[0x34]);
            rest = &after[length..];
        }
        assert_eq!(keys, [0, 1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn an_answer_is_an_error() {
        let (address, server) = serve(b"x");
        let error = plan(address, 1).run(0).unwrap_err();
        server.join().unwrap();
        assert!(error.contains("has been answered"), "{error}");
    }
}
