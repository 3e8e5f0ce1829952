//! Small servers for the tests: a good one that keeps events in memory, and several that misbehave.

use crate::protocol::http::find;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// The request with this number holds everybody up for so long, once.
    Stall {
        request: u64,
        for_ms: u64,
    },
    /// Something that is not HTTP.
    Garbage,
    /// HTTP, and something that is no acknowledgement.
    Thanks,
    /// Stores the event, then closes without an answer, at every so many requests.
    CloseAt {
        every: u64,
    },
    /// Closes as it says, after every answer.
    Polite,
    Silent,
    /// Every other request is refused with 429.
    Limited,
    /// Knows nobody.
    Locked,
}

/// With it a tenant is made, and not onboarded.
pub const BOOTSTRAP_KEY: &str = "the-bootstrap-key";

#[derive(Debug, Clone)]
pub struct Stored {
    pub key: String,
    pub id: String,
    pub event_type: String,
    pub entity: String,
    pub payload: String,
    pub metadata: String,
    pub version: u64,
}

#[derive(Debug, Default)]
pub struct Store {
    pub events: Vec<Stored>,
    pub bodies: Vec<Vec<u8>>,
    pub tenant_count: u64,
    /// What was asked for with the bootstrap key.
    pub made: Vec<serde_json::Value>,
    pub gives_cursors: bool,
}

pub struct FakeServer {
    pub address: SocketAddr,
    pub store: Arc<Mutex<Store>>,
    ends: Arc<AtomicBool>,
}

impl FakeServer {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(Store::default()));
        let ends = Arc::new(AtomicBool::new(false));
        let request_count = Arc::new(AtomicU64::new(0));
        let (shared_store, shared_ends) = (Arc::clone(&store), Arc::clone(&ends));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared_ends.load(Ordering::SeqCst) {
                    return;
                }
                let (store, request_count) = (Arc::clone(&shared_store), Arc::clone(&request_count));
                std::thread::spawn(move || serve(stream.unwrap(), behaviour, &store, &request_count));
            }
        });
        Self { address, store, ends }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn event_count(&self) -> usize {
        self.store.lock().unwrap().events.len()
    }

    pub fn change(&self, change: impl FnOnce(&mut Vec<Stored>)) {
        change(&mut self.store.lock().unwrap().events);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, behaviour: Behaviour, store: &Mutex<Store>, request_count: &AtomicU64) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = next_request(&mut stream, &mut buffer) {
        // Onboarding and reading back work with every server: what is tested is the ingest.
        let is_ingest = ["POST /api/v1/events", "POST /v1/events", "POST /raw"].iter().any(|it| head.starts_with(it));
        let number = if is_ingest { request_count.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        let answer = |store: &mut Store| respond(&head, &body, store);
        let text = match behaviour {
            Behaviour::Locked => http(401, r#"{"error":"unauthorized"}"#),
            _ if !is_ingest => answer(&mut store.lock().unwrap()),
            Behaviour::Stall { request, for_ms } if request == number => {
                let mut held = store.lock().unwrap();
                // The stall is what is tested.
                std::thread::sleep(Duration::from_millis(for_ms));
                answer(&mut held)
            }
            Behaviour::Garbage => "what would you like?\r\n\r\n".to_owned(),
            Behaviour::Thanks => http(200, "thank you"),
            Behaviour::CloseAt { every } if number.is_multiple_of(every) => {
                answer(&mut store.lock().unwrap());
                return;
            }
            Behaviour::Silent => continue,
            Behaviour::Limited if number.is_multiple_of(2) => http(429, r#"{"error":"rate_limited"}"#),
            _ => answer(&mut store.lock().unwrap()),
        };
        let text =
            if behaviour == Behaviour::Polite { text.replacen("\r\n", "\r\nconnection: close\r\n", 1) } else { text };
        if stream.write_all(text.as_bytes()).is_err() || behaviour == Behaviour::Polite {
            return;
        }
    }
}

fn next_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let length: usize = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
            if end + 4 + length <= buffer.len() {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        let mut chunk = [0; 16384];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(bytes) => buffer.extend_from_slice(&chunk[..bytes]),
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn http(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let (first, second) = body.split_at(body.floor_char_boundary(body.len() / 2));
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(first), chunk(second))
}

#[derive(Deserialize)]
struct Incoming<'a> {
    event_type: &'a str,
    entity_id: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    events: Vec<Incoming<'a>>,
}

fn respond(head: &str, body: &[u8], store: &mut Store) -> String {
    let key = header(head, "authorization").unwrap_or_default().trim_start_matches("Bearer ").to_owned();
    let path = head.split(' ').nth(1).unwrap();
    if head.starts_with("POST /api/v1/onboard/start") {
        store.tenant_count += 1;
        let key = format!("key-{}", store.tenant_count);
        append(
            store,
            &key,
            &serde_json::from_str(r#"{"event_type":"sample","entity_id":"s","payload":1,"metadata":{}}"#).unwrap(),
        );
        return http(201, &format!(r#"{{"tenant_id":"onboard-{key}","api_key":"{key}"}}"#));
    }
    if path == "/api/v1/tenants" {
        if key != BOOTSTRAP_KEY {
            return http(403, r#"{"error":"forbidden"}"#);
        }
        let made: serde_json::Value = serde_json::from_slice(body).unwrap();
        store.made.push(made);
        return http(201, "{}");
    }
    if path == "/api/v1/teams/agent-keys" {
        let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
        let tenant = asked["tenant_id"].as_str().unwrap();
        if key != BOOTSTRAP_KEY || !store.made.iter().any(|made| made["id"] == tenant) {
            return http(404, r#"{"error":"not_found"}"#);
        }
        return http(201, &format!(r#"{{"tenant_id":"{tenant}","api_key":"key-of-{tenant}"}}"#));
    }
    if path == "/health" {
        return http(200, r#"{"status":"healthy","version":"9.9","uptime_secs":1,"durability":"commit","io":"uring"}"#);
    }
    if head.starts_with("POST ") {
        store.bodies.push(body.to_vec());
    }
    if path.starts_with("/raw") {
        return http(202, "");
    }
    // As lines: no other body has an event's own members at its top.
    if path == "/api/v1/events/batch" && !body.starts_with(b"{\"events\"") {
        let lines = std::str::from_utf8(body).unwrap().lines();
        let acks: Vec<String> = lines.map(|line| append(store, &key, &serde_json::from_str(line).unwrap())).collect();
        return http(200, &format!(r#"{{"ingested":{},"events":[{}]}}"#, acks.len(), acks.join(",")));
    }
    if path == "/api/v1/events/batch" {
        let batch: Batch<'_> = serde_json::from_slice(body).unwrap();
        let acks: Vec<String> = batch.events.iter().map(|event| append(store, &key, event)).collect();
        let count = acks.len();
        return http(200, &format!(r#"{{"total":{count},"ingested":{count},"events":[{}]}}"#, acks.join(",")));
    }
    if path == "/api/v1/events" {
        let ack = append(store, &key, &serde_json::from_slice(body).unwrap());
        return http(200, &ack);
    }
    query(path, &key, store)
}

fn append(store: &mut Store, key: &str, event: &Incoming<'_>) -> String {
    let of_entity = store.events.iter().rev().find(|other| other.key == key && other.entity == event.entity_id);
    let version = of_entity.map_or(1, |other| other.version + 1);
    let id = format!("id-{}", store.events.len());
    store.events.push(Stored {
        key: key.to_owned(),
        id: id.clone(),
        event_type: event.event_type.to_owned(),
        entity: event.entity_id.to_owned(),
        payload: event.payload.get().to_owned(),
        metadata: event.metadata.get().to_owned(),
        version,
    });
    format!(r#"{{"event_id":"{id}","timestamp":"2026-01-01T00:00:00Z","version":{version}}}"#)
}

fn query(path: &str, key: &str, store: &Store) -> String {
    let number = |name: &str| {
        let parameters = path.split_once('?').unwrap().1.split('&');
        parameters.filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    let limit: usize = number("limit").unwrap().parse().unwrap();
    let from: usize = number("offset").or(number("cursor")).map_or(0, |value| value.parse().unwrap());
    let all: Vec<&Stored> = store.events.iter().filter(|event| event.key == key).collect();
    let page: Vec<String> = all
        .iter()
        .skip(from)
        .take(limit)
        .map(|event| {
            format!(
                r#"{{"id":"{}","event_type":"{}","entity_id":"{}","payload":{},"metadata":{},"version":{}}}"#,
                event.id, event.event_type, event.entity, event.payload, event.metadata, event.version
            )
        })
        .collect();
    let end = from + page.len();
    let cursor = if store.gives_cursors { format!(r#","next_cursor":"{end}""#) } else { String::new() };
    let text = format!(r#"{{"events":[{}],"has_more":{}{cursor}}}"#, page.join(","), end < all.len());
    if store.gives_cursors { chunked(&text) } else { http(200, &text) }
}
