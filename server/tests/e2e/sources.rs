//! The sources that push and are told nothing: frames over TCP, syslog over TCP and UDP.
//!
//! A connection whose sender has ended its side is closed once all that it sent is stored, so that the end of a connection
//! says when to look. Not a byte comes back before it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tell_encoding::{BatchParams, EventParams, EventType, SchemaType, encode_batch, encode_event_data_into};

use crate::harness::{Io, Place, Server};
use crate::on_both;
use crate::quotas::{BOOTSTRAP, set_quotas, tenant};

on_both! {
    keys_that_take_turns_on_one_connection_store_each_its_own_in_order,
    an_oversized_frame_ends_the_connection_behind_what_came_before,
    a_key_that_is_revoked_in_the_middle_stores_no_more_and_the_connection_reads_on,
    a_quota_refuses_a_frame_whole_and_the_connection_reads_on,
    a_sender_is_as_fast_as_its_tenants_rate_and_loses_nothing,
    senders_that_are_faster_than_the_disk_lose_nothing_and_keep_their_order,
    a_stop_stores_what_was_sent_before_it,
    long_frames_and_many_short_ones_arrive_whole_however_they_are_cut,
    syslog_lines_and_counted_messages_go_to_the_listeners_workspace_or_to_a_keys,
    datagrams_are_stored_in_the_order_in_which_they_came,
}

/// Only ends a test that would hang.
pub const WITHIN: Duration = Duration::from_secs(60);

pub const ACME: [u8; 16] = [0xaa; 16];
pub const UMBRELLA: [u8; 16] = [0xbb; 16];

pub fn hex(key: [u8; 16]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server on two cores with two tenants, a streaming key of each, and a key of each that reads.
pub struct Rig {
    pub server: Server,
    pub acme: String,
    pub umbrella: String,
}

impl Rig {
    pub fn new(io: Io, more: &[&str]) -> Rig {
        let bootstrap = format!("--bootstrap-key={BOOTSTRAP}");
        let usual: &[&str] = &["--cores=2", &bootstrap];
        let server = Place::new(io).start(usual);
        let (acme, umbrella) = (tenant(&server, "acme", &json!({})), tenant(&server, "umbrella", &json!({})));
        let (status, place) = server.stop();
        assert!(status.success());
        let file = place.path("data/apikeys.conf");
        let first = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{first}{}:2:a\n{}:3:u\n", hex(ACME), hex(UMBRELLA))).unwrap();
        Rig { server: place.start(&[usual, more].concat()), acme, umbrella }
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.server.ports()[name].as_str().unwrap().parse().unwrap()
    }

    pub fn connect(&self, name: &str) -> Sender {
        let stream = TcpStream::connect(self.address(name)).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        stream.set_write_timeout(Some(WITHIN)).unwrap();
        Sender { stream }
    }
}

pub struct Sender {
    stream: TcpStream,
}

impl Sender {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Ends this side, and waits until the server has stored everything and closed. It has said nothing.
    pub fn finish(mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.stream.read(&mut [0; 16]).unwrap(), 0);
    }

    /// Waits for an end that the server makes by itself. What it has not read makes it a reset.
    pub fn wait_for_end(mut self) {
        match self.stream.read(&mut [0; 16]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

pub fn framed(body: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = (body.len() as u32).to_le_bytes();
    [&[d, c, b, a], body].concat()
}

/// A frame as the published SDK makes it: events about one entity, numbered.
pub fn frame(key: [u8; 16], entity: &str, numbers: std::ops::Range<usize>, filler: usize) -> Vec<u8> {
    let filler = "x".repeat(filler);
    let payload = |number| json!({ "user_id": entity, "n": number, "x": filler }).to_string();
    let payloads: Vec<String> = numbers.map(payload).collect();
    let events: Vec<_> = payloads
        .iter()
        .map(|payload| EventParams {
            event_type: EventType::Track,
            timestamp: 1_700_000_000_000,
            service: Some("test"),
            device_id: None,
            session_id: None,
            event_name: Some("Page Viewed"),
            payload: Some(payload.as_bytes()),
        })
        .collect();
    let mut data = Vec::new();
    encode_event_data_into(&mut data, &events);
    framed(&encode_batch(&BatchParams {
        api_key: &key,
        schema_type: SchemaType::Event,
        version: 100,
        batch_id: 0,
        data: &data,
    }))
}

/// Everything of an entity, in the order of the tenant's feed.
fn stored(server: &Server, key: &str, entity: &str) -> Vec<Value> {
    let page = server.get(&format!("/api/v1/events/query?limit=10000&entity_id={entity}"), key);
    assert_eq!(page["has_more"], false);
    page["events"].as_array().unwrap().clone()
}

fn numbers(server: &Server, key: &str, entity: &str) -> Vec<u64> {
    stored(server, key, entity).iter().map(|event| event["payload"]["n"].as_u64().unwrap()).collect()
}

fn total(server: &Server, key: &str) -> u64 {
    server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"].as_u64().unwrap()
}

fn up_to(count: u64) -> Vec<u64> {
    (0..count).collect()
}

/// Waits for something that nothing but its effect tells of.
pub fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < WITHIN);
    }
}

fn keys_that_take_turns_on_one_connection_store_each_its_own_in_order(io: Io) {
    let rig = Rig::new(io, &[]);
    // Enough connections that both cores have some.
    let mut senders: Vec<_> = (0..8).map(|_| rig.connect("tcp")).collect();
    for round in 0..60 {
        for (index, sender) in senders.iter_mut().enumerate() {
            let entity = format!("entity-{index}");
            let mut bytes = frame(ACME, &entity, round * 3..round * 3 + 3, 10);
            bytes.extend(frame(UMBRELLA, &entity, round * 2..round * 2 + 2, 10));
            // Neither a key that nobody has nor a frame that is none takes anything with it.
            bytes.extend(frame([0xcc; 16], &entity, 0..1, 10));
            bytes.extend(framed(&[0xff; 40]));
            sender.send(&bytes);
        }
    }
    senders.into_iter().for_each(Sender::finish);
    for index in 0..8 {
        let entity = format!("entity-{index}");
        assert_eq!(numbers(&rig.server, &rig.acme, &entity), up_to(180));
        assert_eq!(numbers(&rig.server, &rig.umbrella, &entity), up_to(120));
    }
    assert_eq!((total(&rig.server, &rig.acme), total(&rig.server, &rig.umbrella)), (8 * 180, 8 * 120));
    let event = &stored(&rig.server, &rig.acme, "entity-0")[0];
    assert_eq!(event["event_type"], "Page Viewed");
    assert_eq!(
        (&event["metadata"]["source_kind"], &event["metadata"]["source_ip"]),
        (&json!("tcp"), &json!("127.0.0.1"))
    );
}

fn an_oversized_frame_ends_the_connection_behind_what_came_before(io: Io) {
    let rig = Rig::new(io, &[]);
    for entity in ["one", "two", "three", "four"] {
        let mut sender = rig.connect("tcp");
        let mut bytes = frame(ACME, entity, 0..5, 10);
        bytes.extend([0x01, 0x00, 0x00, 0x01]);
        bytes.extend(frame(ACME, entity, 5..6, 10));
        sender.send(&bytes);
        sender.wait_for_end();
        assert_eq!(numbers(&rig.server, &rig.acme, entity), up_to(5));
    }
}

fn a_key_that_is_revoked_in_the_middle_stores_no_more_and_the_connection_reads_on(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut sender = rig.connect("tcp");
    sender.send(&frame(ACME, "e", 0..3, 10));
    until(|| numbers(&rig.server, &rig.acme, "e") == up_to(3));
    let file = rig.server.path("data/apikeys.conf");
    std::fs::write(&file, format!("{}:3:u\n{}:2:another\n", hex(UMBRELLA), hex([0xdd; 16]))).unwrap();
    rig.server.signal(Signal::HUP);
    let event = json!({ "event_type": "tried", "entity_id": "other", "payload": {} });
    until(|| rig.server.call("POST", "/api/v1/events", &hex(ACME), Some(&event)).status == 401);
    sender.send(&frame(ACME, "e", 3..4, 10));
    sender.send(&frame(UMBRELLA, "e", 0..2, 10));
    sender.send(&frame([0xdd; 16], "e", 3..5, 10));
    sender.finish();
    assert_eq!(numbers(&rig.server, &rig.acme, "e"), up_to(5));
    assert_eq!(stored(&rig.server, &rig.acme, "e").len(), 5);
    assert_eq!(numbers(&rig.server, &rig.umbrella, "e"), up_to(2));
}

fn a_quota_refuses_a_frame_whole_and_the_connection_reads_on(io: Io) {
    let rig = Rig::new(io, &[]);
    assert_eq!(set_quotas(&rig.server, "acme", &json!({ "events_per_month": 10 })).status, 200);
    let mut sender = rig.connect("tcp");
    for (entity, count) in [("a", 6), ("b", 5), ("c", 4), ("d", 1)] {
        sender.send(&frame(ACME, entity, 0..count, 10));
        sender.send(&frame(UMBRELLA, entity, 0..count, 10));
    }
    sender.finish();
    let counts = |key: &str| ["a", "b", "c", "d"].map(|entity| stored(&rig.server, key, entity).len());
    assert_eq!(counts(&rig.acme), [6, 0, 4, 0]);
    assert_eq!(counts(&rig.umbrella), [6, 5, 4, 1]);
}

fn a_sender_is_as_fast_as_its_tenants_rate_and_loses_nothing(io: Io) {
    let rig = Rig::new(io, &[]);
    assert_eq!(set_quotas(&rig.server, "acme", &json!({ "requests_per_second": 1 })).status, 200);
    let mut limited = rig.connect("tcp");
    let frames = 400;
    let bytes: Vec<u8> = (0..frames).flat_map(|number| frame(ACME, "e", number..number + 1, 100_000)).collect();
    // Far more than the kernel keeps for a reader that does not read.
    limited.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    let stopped = loop {
        match limited.stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) => break error.kind(),
        }
        assert!(sent < bytes.len(), "nothing slowed the sender");
    };
    assert_eq!(stopped, ErrorKind::WouldBlock);
    // Nobody else is slowed, on whichever core.
    let mut others: Vec<_> = (0..8).map(|_| rig.connect("tcp")).collect();
    others.iter_mut().for_each(|other| other.send(&frame(UMBRELLA, "e", 0..1, 10)));
    others.into_iter().for_each(Sender::finish);
    assert_eq!(total(&rig.server, &rig.umbrella), 8);
    assert!(stored(&rig.server, &rig.umbrella, "e").len() == 8);

    assert_eq!(set_quotas(&rig.server, "acme", &json!({ "requests_per_second": "unlimited" })).status, 200);
    limited.stream.set_write_timeout(Some(WITHIN)).unwrap();
    limited.send(&bytes[sent..]);
    limited.finish();
    let found = rig.server.get("/api/v1/events/query?limit=100&entity_id=e", &rig.acme);
    assert_eq!(found["entity_version"], frames);
    assert_eq!(total(&rig.server, &rig.acme), frames as u64);
}

fn senders_that_are_faster_than_the_disk_lose_nothing_and_keep_their_order(io: Io) {
    let rig = Rig::new(io, &[]);
    let senders = 6;
    let frames = 40;
    let addressed: Vec<_> = (0..senders).map(|index| (rig.connect("tcp"), format!("entity-{index}"))).collect();
    std::thread::scope(|scope| {
        for (mut sender, entity) in addressed {
            scope.spawn(move || {
                // Far more than may be under way at once, of two tenants in turn.
                for number in 0..frames {
                    let key = if number % 2 == 0 { ACME } else { UMBRELLA };
                    sender.send(&frame(key, &entity, number..number + 1, 600_000));
                }
                sender.finish();
            });
        }
    });
    for (key, remainder) in [(&rig.acme, 0), (&rig.umbrella, 1)] {
        for index in 0..senders {
            let expected: Vec<_> = (0..frames as u64).filter(|number| number % 2 == remainder).collect();
            assert_eq!(numbers(&rig.server, key, &format!("entity-{index}")), expected);
        }
    }
}

fn a_stop_stores_what_was_sent_before_it(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut senders: Vec<_> = (0..8).map(|_| rig.connect("tcp")).collect();
    for (index, sender) in senders.iter_mut().enumerate() {
        let entity = format!("entity-{index}");
        for number in 0..50 {
            sender.send(&frame(ACME, &entity, number * 20..number * 20 + 20, 200));
        }
    }
    // One that connects and sends in the very last moment is heard too.
    let mut last = rig.connect("tcp");
    last.send(&frame(UMBRELLA, "last", 0..2, 10));
    let (status, place) = rig.server.stop();
    assert!(status.success(), "{status}");
    for mut sender in senders {
        assert_eq!(sender.stream.read(&mut [0; 16]).unwrap(), 0);
    }
    let server = place.start(&["--cores=2"]);
    for index in 0..8 {
        assert_eq!(numbers(&server, &rig.acme, &format!("entity-{index}")), up_to(1_000));
    }
    assert_eq!(numbers(&server, &rig.umbrella, "last"), up_to(2));
}

fn long_frames_and_many_short_ones_arrive_whole_however_they_are_cut(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut sender = rig.connect("tcp");
    let mut number = 0;
    let mut bytes = Vec::new();
    for (count, filler) in [(1, 10), (300, 10_000), (1, 0), (40, 1_000), (3, 5), (12, 900_000), (1, 1), (100, 300)] {
        bytes.extend(frame(ACME, "e", number..number + count, filler));
        number += count;
    }
    for (index, piece) in bytes.chunks(70_001).enumerate() {
        // Odd pieces first and alone, so that reads end in the middle of lengths too.
        let (first, rest) = piece.split_at(index % 5);
        sender.send(first);
        sender.send(rest);
    }
    sender.finish();
    let by_hundreds =
        |offset| rig.server.get(&format!("/api/v1/events/query?limit=1&offset={offset}&entity_id=e"), &rig.acme);
    for offset in [0, 1, 300, 301, 302, 341, 345, 356, 357, number - 1] {
        assert_eq!(by_hundreds(offset)["events"][0]["payload"]["n"], offset, "{offset}");
    }
    assert_eq!(total(&rig.server, &rig.acme), number as u64);
    // A frame that its sender never ends is not there, and takes nothing with it.
    let mut cut = rig.connect("tcp");
    let whole = frame(ACME, "cut", 0..2, 10);
    cut.send(&whole);
    cut.send(&whole[..whole.len() - 1]);
    cut.finish();
    assert_eq!(numbers(&rig.server, &rig.acme, "cut"), up_to(2));
}

fn syslog_lines_and_counted_messages_go_to_the_listeners_workspace_or_to_a_keys(io: Io) {
    let rig = Rig::new(io, &["--syslog-tcp=127.0.0.1:0", "--syslog-workspace=ws-2"]);
    let mut sender = rig.connect("syslog_tcp");
    let line = |app: &str, number: usize, data: &str| format!("<34>1 2026-01-02T03:04:05Z h {app} - - {data} {number}");
    let named = format!("[ringlog@32473 key=\"{}\"]", hex(UMBRELLA));
    let bad = format!("[ringlog@32473 key=\"{}\"]", hex([0xcc; 16]));
    let mut bytes = Vec::new();
    for number in 0..3_000 {
        let own = line("own", number, "-");
        if number % 2 == 0 {
            bytes.extend(format!("{own}\n").into_bytes());
        } else {
            bytes.extend(format!("{} {own}", own.len()).into_bytes());
        }
        if number % 3 == 0 {
            bytes.extend(format!("{}\n", line("theirs", number / 3, &named)).into_bytes());
            bytes.extend(format!("{}\n", line("nobody", number, &bad)).into_bytes());
        }
    }
    // The last line has no end but the connection's.
    bytes.extend(line("own", 3_000, "-").into_bytes());
    bytes.chunks(4_321).for_each(|piece| sender.send(piece));
    sender.finish();
    let messages = |key: &str, entity: &str| -> Vec<String> {
        let found = stored(&rig.server, key, entity);
        found.iter().map(|event| event["payload"]["message"].as_str().unwrap().to_owned()).collect()
    };
    let expected = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(messages(&rig.acme, "own"), expected(3_001));
    assert_eq!(messages(&rig.umbrella, "theirs"), expected(1_000));
    assert_eq!((total(&rig.server, &rig.acme), total(&rig.server, &rig.umbrella)), (3_001, 1_000));
}

fn datagrams_are_stored_in_the_order_in_which_they_came(io: Io) {
    let rig = Rig::new(io, &["--syslog-udp=127.0.0.1:0", "--syslog-workspace=2"]);
    let address = rig.address("syslog_udp");
    // Enough senders that both cores have some; few enough datagrams that none is dropped.
    let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let named = format!("[ringlog@32473 key=\"{}\"]", hex(UMBRELLA));
    for number in 0..20 {
        for (index, socket) in sockets.iter().enumerate() {
            for data in ["-", &named] {
                let text = format!("<34>1 2026-01-02T03:04:05Z h app-{index} - - {data} {number}\n");
                socket.send_to(text.as_bytes(), address).unwrap();
            }
        }
    }
    // A stop takes what the kernel has.
    let (status, place) = rig.server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2"]);
    for key in [&rig.acme, &rig.umbrella] {
        assert_eq!(total(&server, key), 160);
        for index in 0..8 {
            let found = stored(&server, key, &format!("app-{index}"));
            let found: Vec<_> = found.iter().map(|event| event["payload"]["message"].as_str().unwrap()).collect();
            assert_eq!(found, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
            assert_eq!(stored(&server, key, &format!("app-{index}"))[0]["metadata"]["source_kind"], "syslog");
        }
    }
}
