//! Golden requests and frames, cut off and changed byte by byte, over real sockets: each is answered or refused, the server
//! lives, and what is stored is what was said to be.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Io, Place, Server};
use crate::on_both;
use crate::quotas::BOOTSTRAP;

on_both! {
    requests_with_one_changed_byte_are_answered_and_store_what_was_answered,
    requests_that_are_cut_off_store_nothing,
    frames_that_are_cut_off_or_changed_store_whole_frames_or_nothing,
}

/// Only ends a test that would hang.
const WITHIN: Duration = Duration::from_secs(60);

const KEY: &str = "000102030405060708090a0b0c0d0e0f";
/// The key that the golden requests of the browser's SDK were sent with.
const SENT_KEY: &str = "feed1e11feed1e11feed1e11feed1e11";

fn start(io: Io) -> Server {
    let place = Place::new(io);
    std::fs::write(place.path("keys.conf"), format!("{KEY}:1:golden\n{SENT_KEY}:1:sent\n")).unwrap();
    // One tenant has it all; every connection comes from one address.
    place.start(&["--cores=2", "--keys-file=keys.conf", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn request(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// One whole request of each source.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let mut requests: Vec<_> = ["browser_events.http", "browser_logs.http", "node_events.http"]
        .into_iter()
        .map(|name| {
            // As it goes over the wire: the files end their lines as text files do.
            let text = String::from_utf8(data(&format!("lines/{name}"))).unwrap().replace("\r\n", "\n");
            let (head, body) = text.split_once("\n\n").unwrap();
            let body = body.trim_end_matches('\n');
            let kept: Vec<_> = head.lines().filter(|line| !line.starts_with("Content-Length")).collect();
            let head = format!("{}\r\nContent-Length: {}\r\n\r\n", kept.join("\r\n"), body.len());
            (name, [head.as_bytes(), body.as_bytes()].concat())
        })
        .collect();
    requests.push(("ingest", request("/v1/ingest", "application/x-flatbuffers", &data("frames/event.bin")[4..])));
    requests.push(("otlp", request("/otlp/v1/logs", "application/x-protobuf", &data("otlp/python_sdk.pb"))));
    requests.push(("otlp json", request("/otlp/v1/logs", "application/json", &data("otlp/python_sdk.json"))));
    let line = br#"{"message":"one","host":"web-1","timestamp":"2026-01-02T03:04:05.678Z"}"#;
    requests.push(("shipper", request("/ingest/ndjson", "application/x-ndjson", line)));
    let event = br#"{"event_type":"a.b","entity_id":"e1","payload":{"n":1}}"#;
    requests.push(("envelope", request("/api/v1/events", "application/json", event)));
    requests
}

fn body_at(request: &[u8]) -> usize {
    request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Sends everything while it reads, ends its side, and reads to the end. What comes back is whole answers.
fn exchange(server: &Server, bytes: &[u8]) -> Vec<Answer> {
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.set_write_timeout(Some(WITHIN)).unwrap();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        let mut sender = stream.try_clone().unwrap();
        scope.spawn(move || {
            // A server that has refused and closed takes no more.
            let _ = sender.write_all(bytes);
            let _ = sender.shutdown(Shutdown::Write);
        });
        let mut buffer = [0; 64 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no end: {error}"),
            }
        }
    });
    answers(&received)
}

fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(bytes).unwrap();
        assert!(head.is_complete(), "a cut answer: {:?}", String::from_utf8_lossy(bytes));
        let head = head.unwrap();
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.map_or(0, |header| std::str::from_utf8(header.value).unwrap().parse().unwrap());
        let status = response.code.unwrap();
        answers.push(Answer { status, body: bytes[head..head + length].to_vec() });
        bytes = &bytes[head + length..];
    }
    answers
}

/// How many events an answer says are stored; `uncounted` where it has taken some and does not say.
fn told_stored(answer: &Answer, uncounted: usize) -> usize {
    if !matches!(answer.status, 200 | 202 | 207) {
        return 0;
    }
    let told = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    match (&told["accepted"], &told["event_id"]) {
        (Value::Number(count), _) => count.as_u64().unwrap() as usize,
        (_, Value::String(_)) => 1,
        _ => uncounted,
    }
}

fn ask(server: &Server, path: &str) -> Value {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {BOOTSTRAP}\r\nX-Tenant-ID: default\r\n\r\n");
    let mut client = server.connect();
    client.send(head.as_bytes());
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// How many events the tenant has.
fn stored(server: &Server) -> usize {
    ask(server, "/api/v1/usage")["usage"]["events_per_month"]["used"].as_u64().unwrap() as usize
}

/// Everything that is stored, each of which must be what an event must be.
fn events(server: &Server) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let page = ask(server, &format!("/api/v1/events/query?limit=1000&offset={}", events.len()));
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        if page["has_more"] != true {
            break;
        }
    }
    for event in &events {
        let text = |name: &str| event[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(text("event_type") && text("entity_id"), "{event}");
        // The first seed's events need no metadata.
        assert!(event["metadata"].is_object() || event["metadata"].is_null(), "{event}");
        assert!(event["payload"].is_object(), "{event}");
        assert!(!event["event_type"].as_str().unwrap().starts_with("_system."), "{event}");
    }
    events
}

fn is_alive(server: &Server) {
    assert_eq!(server.call("GET", "/health", "", None).status, 200);
}

fn requests_with_one_changed_byte_are_answered_and_store_what_was_answered(io: Io) {
    let server = start(io);
    let mut statuses = HashMap::<u16, usize>::new();
    for (name, golden) in requests() {
        let before = stored(&server);
        let mut answers = exchange(&server, &golden);
        assert!(matches!(answers[0].status, 200 | 202), "{name}: {}", String::from_utf8_lossy(&answers[0].body));
        let whole = stored(&server) - before;
        let body_at = body_at(&golden);
        let changed = |place: usize| {
            let mut changed = golden.clone();
            changed[place] ^= 1 << (place % 8);
            changed
        };
        // In the head a change may move the end of the request, so that it comes alone; the ends of bodies stay where they are.
        answers.extend((0..body_at).flat_map(|place| exchange(&server, &changed(place))));
        let places: Vec<_> = (body_at..golden.len()).collect();
        for places in places.chunks(64) {
            let requests: Vec<u8> = places.iter().flat_map(|&place| changed(place)).collect();
            let found = exchange(&server, &requests);
            assert_eq!(found.len(), places.len(), "{name}: each request on a connection has an answer");
            answers.extend(found);
        }
        for answer in &answers {
            *statuses.entry(answer.status).or_default() += 1;
            // 501 and 505 are for methods and versions that are not spoken.
            let is_refusal = answer.status < 500 || matches!(answer.status, 501 | 505);
            assert!(is_refusal, "{name}: {}", String::from_utf8_lossy(&answer.body));
        }
        let told: usize = answers.iter().map(|answer| told_stored(answer, whole)).sum();
        let now = stored(&server) - before;
        // A frame that is sent again is stored once, and an OTLP answer has no count of what was taken.
        if name == "ingest" || name.starts_with("otlp") {
            assert!(whole <= now && now <= told, "{name}: {now} stored, {told} told");
        } else {
            assert_eq!(now, told, "{name}");
        }
    }
    is_alive(&server);
    assert_eq!(events(&server).len(), stored(&server));
    assert!(statuses.contains_key(&400) && statuses.contains_key(&401) && statuses.contains_key(&207), "{statuses:?}");
}

fn requests_that_are_cut_off_store_nothing(io: Io) {
    let server = start(io);
    for (name, golden) in requests() {
        let body_at = body_at(&golden);
        // Every seventh place, those around the end of the head, and all but the last byte.
        let lengths =
            (1..golden.len()).filter(|len| len % 7 == 0 || len.abs_diff(body_at) < 3 || len + 1 == golden.len());
        for len in lengths {
            for answer in exchange(&server, &golden[..len]) {
                assert!((400..500).contains(&answer.status), "{name} at {len}: {}", answer.status);
            }
        }
    }
    is_alive(&server);
    assert!(events(&server).is_empty());
}

fn frames_that_are_cut_off_or_changed_store_whole_frames_or_nothing(io: Io) {
    let server = start(io);
    let address: std::net::SocketAddr = server.ports()["tcp"].as_str().unwrap().parse().unwrap();
    let send = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Once the server has stored what there was it closes, and has said nothing. What it has not read makes it a reset.
        match stream.read(&mut [0; 16]) {
            Ok(len) => assert_eq!(len, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    };
    let names = [
        "event",
        "events-old-layout",
        "events-unnamed",
        "log",
        "logs-levels",
        "metric-gauge",
        "metric-histogram",
        "metric-int-labels",
        "trace",
        "snapshot",
    ];
    let frames: Vec<_> = names.iter().map(|name| data(&format!("frames/{name}.bin"))).collect();
    for frame in &frames {
        for len in (1..frame.len()).filter(|len| len % 11 == 0 || len + 1 == frame.len()) {
            send(&frame[..len]);
        }
    }
    assert!(events(&server).is_empty());

    // A frame without a batch id is stored as often as it comes.
    let mark = data("frames/events-unnamed.bin");
    send(&mark);
    let marked = events(&server);
    // Each frame whole, and what becomes of it.
    let mut most = marked.len();
    for frame in &frames {
        let before = stored(&server);
        send(frame);
        let count = stored(&server) - before;
        assert!(count > 0);
        most += count * (1 + frame.len());
    }

    // Whole frames between the changed ones: what is refused takes nothing of its neighbours along.
    let mut marks = 0;
    for frame in &frames {
        let mut stream = Vec::new();
        for place in 4..frame.len() {
            let mut changed = frame.clone();
            changed[place] ^= 1 << (place % 8);
            stream.extend_from_slice(&changed);
            if place % 16 == 0 {
                stream.extend_from_slice(&mark);
                marks += 1;
            }
        }
        send(&stream);
    }
    // A length that is not right: the bytes behind it are what they are taken for, and the connection ends.
    for frame in &frames {
        for place in 0..4 {
            let mut changed = frame.clone();
            changed[place] ^= 1 << (place * 2);
            send(&changed);
        }
    }
    is_alive(&server);
    let found = events(&server);
    let is_mark = |event: &&Value| {
        ["event_type", "entity_id", "payload", "metadata"].iter().all(|part| event[*part] == marked[0][*part])
    };
    let of_one = marked.iter().filter(is_mark).count();
    let found_marks = found.iter().filter(is_mark).count();
    assert!((marks + 2) * of_one <= found_marks, "{marks} frames between, {found_marks} events");
    assert!(found.len() <= most + marks * marked.len(), "{} stored of {most}", found.len());
}
