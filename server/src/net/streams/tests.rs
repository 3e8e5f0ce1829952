//! Streams over real sockets of both backends, under a service that knows one thing: a unit is a length in four bytes and as
//! many bytes behind it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ringlog_engine::io::{IoMode, RingConfig, SyncMode};

use super::*;
use crate::limits::{BODY_DEADLINE_US, BODY_GRACE_US};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const LISTENER: u32 = 1;

/// What it has of each connection: the first bytes and the lengths of its units.
#[derive(Default)]
struct Units {
    taken: HashMap<StreamKey, Vec<(u8, usize)>>,
    keys: Vec<StreamKey>,
    ended: Vec<StreamKey>,
    /// Units that it takes of each connection before it pauses.
    room: usize,
}

impl StreamService for Units {
    type Stream = ();

    fn on_open(&mut self, listener: u32, peer: IpAddr) {
        assert!(listener == LISTENER && peer.is_loopback());
    }

    fn on_bytes(&mut self, key: StreamKey, (): &mut (), bytes: &[u8], is_end: bool) -> Taken {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        let taken = self.taken.entry(key).or_default();
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let unit_bytes = rest.first_chunk().map_or(4, |length| 4 + u32::from_le_bytes(*length) as usize);
            let is_whole = 4 <= rest.len() && unit_bytes <= rest.len();
            if is_whole && taken.len() < self.room {
                taken.push((rest[4], unit_bytes - 4));
                at += unit_bytes;
                continue;
            }
            let then = match (is_whole, is_end) {
                (true, _) => Then::Pause,
                (false, true) => Then::End,
                (false, false) => Then::Receive,
            };
            if then == Then::End {
                self.ended.push(key);
            }
            return Taken { bytes: at, unit_bytes, then };
        }
    }
}

struct Rig {
    ring: Ring,
    streams: Streams<()>,
    units: Units,
    address: SocketAddr,
    now_us: u64,
}

impl Rig {
    fn new(mode: IoMode) -> Rig {
        let config = RingConfig {
            mode,
            entries: 64,
            receive_buffers: 64,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            sync: SyncMode::Dsync,
            sockets_max: 64,
        };
        let mut ring = Ring::new(config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        ring.listen(listener, LISTENER).unwrap();
        let units = Units { room: usize::MAX, ..Units::default() };
        Rig { ring, streams: Streams::new(32), units, address, now_us: 1_000_000 }
    }

    fn turn(&mut self, wait: Duration) -> bool {
        self.ring.wait(Some(wait)).unwrap();
        let mut has_come = false;
        while let Some(completion) = self.ring.next() {
            has_come = true;
            self.streams.on_completion(completion, &mut self.ring, &mut self.units, self.now_us);
        }
        self.streams.on_time(&mut self.ring, self.now_us);
        self.streams.flush(&mut self.ring);
        has_come
    }

    fn until(&mut self, what: impl Fn(&Rig) -> bool) {
        while !what(self) {
            assert!(self.turn(PATIENCE), "nothing came");
        }
    }

    /// Until nothing comes any more of what is there.
    fn rest(&mut self) {
        while self.turn(Duration::from_millis(50)) {}
    }

    fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let before = self.streams.admission.open_count();
        self.until(|rig| before < rig.streams.admission.open_count());
        client
    }

    /// In the order in which they first sent.
    fn key(&self, number: usize) -> StreamKey {
        self.units.keys[number]
    }

    fn taken(&self, number: usize) -> &[(u8, usize)] {
        self.units.keys.get(number).map_or(&[], |key| &self.units.taken[key])
    }
}

fn on_both(test: impl Fn(Rig)) {
    for mode in [IoMode::Auto, IoMode::Fallback] {
        test(Rig::new(mode));
    }
}

fn unit(first: u8, bytes: usize) -> Vec<u8> {
    let mut unit = (bytes as u32).to_le_bytes().to_vec();
    unit.resize(4 + bytes, first);
    unit
}

/// Writes on a thread of its own, and hands the stream back: what is read may be less than what the kernel takes.
fn write(mut client: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        client.write_all(&bytes).unwrap();
        client
    })
}

#[test]
fn units_of_every_length_are_taken_whole_and_nothing_is_kept() {
    on_both(|mut rig| {
        let lengths = [1, 3, 100, 16_380, 16_384, 40_000, 2, 1_000_000, 5, 100_000, 7, 33_000, 1, 3_000_000, 9];
        let bytes: Vec<u8> = lengths.iter().enumerate().flat_map(|(n, bytes)| unit(n as u8, *bytes)).collect();
        let client = rig.connect();
        let writer = write(client, bytes);
        rig.until(|rig| rig.taken(0).len() == lengths.len());
        let expected: Vec<_> = lengths.iter().enumerate().map(|(n, bytes)| (n as u8, *bytes)).collect();
        assert_eq!(rig.taken(0), expected);
        assert_eq!((rig.streams.reserved_bytes, rig.streams.backlog_bytes), (0, 0));
        let mut client = writer.join().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        rig.until(|rig| rig.units.ended.len() == 1);
        let key = rig.key(0);
        rig.streams.close(key, &mut rig.ring);
        rig.until(|rig| rig.streams.is_empty());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn fast_senders_of_long_units_share_a_bounded_number_of_wide_receives() {
    on_both(|mut rig| {
        rig.streams.wide_left = 1;
        let count = 300;
        let bytes: Vec<u8> = (0..count).flat_map(|number| unit(number as u8, 40_000)).collect();
        let writers = [0, 1].map(|_| write(rig.connect(), bytes.clone()));
        rig.until(|rig| rig.streams.wide_left == 0);
        rig.until(|rig| rig.taken(0).len() == count && rig.taken(1).len() == count);
        for number in 0..2 {
            assert!(rig.taken(number).iter().enumerate().all(|(number, unit)| *unit == (number as u8, 40_000)));
        }
        let clients = writers.map(|writer| writer.join().unwrap());
        clients.each_ref().iter().for_each(|client| client.shutdown(Shutdown::Write).unwrap());
        rig.until(|rig| rig.units.ended.len() == 2);
        for number in 0..2 {
            let key = rig.key(number);
            rig.streams.close(key, &mut rig.ring);
        }
        rig.until(|rig| rig.streams.is_empty());
        assert_eq!(rig.streams.wide_left, 1);
    });
}

#[test]
fn the_memory_of_a_long_unit_does_not_stay_for_the_beginning_of_the_next() {
    let mut held = Held::default();
    held.push(&vec![1; 3_000_000]);
    held.push(&[2, 3]);
    held.consume(3_000_000);
    assert_eq!(held.bytes(), [2, 3]);
    assert!(held.bytes.capacity() <= 2 * STREAM_WIDE_BYTES);
    held.bytes.reserve_exact(2 * STREAM_WIDE_BYTES - 2);
    let lent = held.lend(RECEIVE_BUFFER_BYTES as usize);
    assert_eq!(lent, [2, 3]);
    assert!(lent.capacity() <= 4 * RECEIVE_BUFFER_BYTES as usize);
}

#[test]
fn one_that_is_paused_slows_its_sender_and_loses_nothing() {
    on_both(|mut rig| {
        rig.units.room = 10;
        let client = rig.connect();
        let count = 2_000;
        let bytes: Vec<u8> = (0..count).flat_map(|number| unit(number as u8, 10_000)).collect();
        let total_bytes = bytes.len();
        let writer = write(client, bytes);
        rig.until(|rig| rig.taken(0).len() == 10);
        rig.rest();
        assert!(!writer.is_finished());
        // What came while it was being stopped is held, and is far less than what was sent.
        assert!(rig.streams.backlog_bytes < total_bytes / 4, "{}", rig.streams.backlog_bytes);
        let mut room = 10;
        while room < count {
            room += 500;
            rig.units.room = room;
            let key = rig.key(0);
            rig.streams.resume(key, &mut rig.units, rig.now_us);
            rig.streams.flush(&mut rig.ring);
            rig.until(|rig| rig.taken(0).len() == room.min(count));
        }
        assert!(rig.taken(0).iter().enumerate().all(|(number, unit)| *unit == (number as u8, 10_000)));
        assert_eq!(rig.streams.backlog_bytes, 0);
        writer.join().unwrap();
    });
}

#[test]
fn the_end_waits_for_what_was_held_before_it() {
    on_both(|mut rig| {
        rig.units.room = 1;
        let mut client = rig.connect();
        client.write_all(&[unit(1, 10), unit(2, 10), unit(3, 10)].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        rig.until(|rig| rig.taken(0).len() == 1);
        rig.rest();
        assert!(rig.units.ended.is_empty());
        rig.units.room = 3;
        let key = rig.key(0);
        rig.streams.resume(key, &mut rig.units, rig.now_us);
        rig.streams.flush(&mut rig.ring);
        rig.until(|rig| rig.units.ended.len() == 1);
        assert_eq!(rig.taken(0).len(), 3);
    });
}

#[test]
fn long_units_wait_for_their_memory_in_order_and_short_ones_do_not_wait() {
    on_both(|mut rig| {
        rig.streams.reserved_bytes_max = 250_000;
        // Two that fit, and two that wait for them.
        let units: Vec<_> = (0..4).map(|number| unit(number, 100_000)).collect();
        let mut clients = Vec::new();
        for (number, unit) in units.iter().enumerate() {
            let mut client = rig.connect();
            client.write_all(&unit[..50_000]).unwrap();
            rig.until(|rig| rig.units.keys.len() == number + 1);
            rig.rest();
            clients.push(client);
        }
        assert_eq!((rig.streams.reserved_bytes, rig.streams.waiting.len()), (200_008, 2));
        let mut short = rig.connect();
        short.write_all(&unit(9, 1_000)).unwrap();
        rig.until(|rig| rig.taken(4) == [(9, 1_000)]);
        // The second comes to its end, and the third gets what it had.
        clients[1].write_all(&units[1][50_000..]).unwrap();
        rig.until(|rig| rig.taken(1).len() == 1);
        assert_eq!(rig.streams.waiting.len(), 1);
        clients[2].write_all(&units[2][50_000..]).unwrap();
        rig.until(|rig| rig.taken(2).len() == 1);
        clients[3].write_all(&units[3][50_000..]).unwrap();
        rig.until(|rig| rig.taken(3).len() == 1);
        clients[0].write_all(&units[0][50_000..]).unwrap();
        rig.until(|rig| rig.taken(0).len() == 1);
        assert_eq!((rig.streams.reserved_bytes, rig.streams.stalled_count()), (0, 0));
    });
}

#[test]
fn one_that_stalls_in_a_long_unit_loses_it_only_to_those_who_wait() {
    on_both(|mut rig| {
        rig.streams.reserved_bytes_max = 250_000;
        let mut stalled = rig.connect();
        stalled.write_all(&unit(1, 200_000)[..20_000]).unwrap();
        rig.until(|rig| rig.streams.reserved_bytes == 200_004);
        // Nobody is in need of it: it may take as long as it likes.
        rig.now_us += 10 * BODY_DEADLINE_US;
        rig.turn(Duration::ZERO);
        assert_eq!(rig.streams.deadline(), None);
        let mut next = rig.connect();
        next.write_all(&unit(2, 150_000)[..20_000]).unwrap();
        rig.until(|rig| rig.streams.waiting.len() == 1);
        rig.now_us = rig.streams.deadline().unwrap();
        rig.until(|rig| rig.streams.reserved_bytes == 150_004);
        assert_eq!((rig.streams.stalled_count(), rig.streams.waiting.len()), (1, 0));
        assert!(matches!(stalled.read(&mut [0]), Ok(0) | Err(_)));
        // The one that waited begins anew: what it waited does not count.
        let mut third = rig.connect();
        third.write_all(&unit(3, 150_000)[..20_000]).unwrap();
        rig.until(|rig| rig.streams.waiting.len() == 1);
        rig.now_us += BODY_GRACE_US - 1;
        rig.turn(Duration::ZERO);
        assert_eq!(rig.streams.stalled_count(), 1);
        next.write_all(&unit(2, 150_000)[20_000..]).unwrap();
        rig.until(|rig| rig.taken(1) == [(2, 150_000)]);
        assert_eq!(rig.streams.waiting.len(), 0);
    });
}

#[test]
fn an_end_takes_what_was_sent_before_it_from_those_that_stay() {
    on_both(|mut rig| {
        let mut quiet = rig.connect();
        quiet.write_all(&[unit(1, 10), unit(2, 100_000)].concat()).unwrap();
        let mut half = rig.connect();
        half.write_all(&unit(3, 10)[..7]).unwrap();
        rig.streams.drain(rig.now_us);
        assert_eq!(rig.streams.deadline(), Some(rig.now_us + STREAM_QUIET_US));
        rig.until(|rig| rig.taken(0).len() == 2 && rig.units.keys.len() == 2);
        rig.rest();
        assert!(rig.units.ended.is_empty());
        rig.now_us += 2 * STREAM_QUIET_US;
        rig.turn(Duration::ZERO);
        rig.until(|rig| rig.units.ended.len() == 2);
    });
}

#[test]
fn one_that_never_stops_is_cut() {
    on_both(|mut rig| {
        let mut client = rig.connect();
        client.write_all(&unit(1, 10)).unwrap();
        rig.until(|rig| rig.taken(0).len() == 1);
        rig.streams.drain(rig.now_us);
        // It sends just before each look, and so is never quiet.
        for number in 2..5 {
            rig.now_us += STREAM_QUIET_US;
            client.write_all(&unit(number, 10)).unwrap();
            rig.until(|rig| rig.taken(0).len() == usize::from(number));
        }
        assert!(rig.units.ended.is_empty());
        rig.streams.cut(&mut rig.ring, &mut rig.units, rig.now_us);
        rig.until(|rig| rig.units.ended.len() == 1);
        assert_eq!(rig.taken(0).len(), 4);
    });
}

#[test]
fn places_are_bounded() {
    on_both(|mut rig| {
        rig.streams = Streams::new(2);
        let _clients = [rig.connect(), rig.connect()];
        let mut refused = TcpStream::connect(rig.address).unwrap();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.turn(PATIENCE);
        rig.turn(Duration::ZERO);
        assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(rig.streams.admission.open_count(), 2);
    });
}
