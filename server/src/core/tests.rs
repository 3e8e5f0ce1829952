//! Whole cores on threads, over real sockets and a real disk, on both backends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use ringlog_engine::data_dir::{DataDir, NewDir};
use ringlog_engine::ids::Micros;
use ringlog_engine::io::{IoMode, SyncMode};
use ringlog_engine::shard::Durability;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::auth::delta::Delta;
use crate::auth::secret::Secret;
use crate::catalog::control::{Control, ControlSettings};
use crate::catalog::log::MemoryLog;
use crate::catalog::set_up::SetUp;
use crate::catalog::thread::{Acks, ControlThread, Publish};
use crate::core::mailbox::{Address, Message, mailbox};
use crate::core::run;
use crate::core::setup::CoreSetup;

/// Nothing here waits for it to pass; a test that hangs ends by it.
const LONG: Duration = Duration::from_secs(60);
const BOOTSTRAP: &str = "a-bootstrap-key-of-the-tests";
const BACKENDS: [IoMode; 2] = [IoMode::Auto, IoMode::Fallback];

struct ToCores(Vec<Address>);

impl Publish for ToCores {
    fn publish(&mut self, delta: &Arc<Delta>) {
        for address in &self.0 {
            address.send(Message::Delta(Arc::clone(delta))).unwrap();
        }
    }

    fn core_is_stuck(&mut self, core: usize) {
        panic!("core {core} does not turn");
    }
}

struct Server {
    http: Vec<SocketAddr>,
    addresses: Vec<Address>,
    cores: Vec<JoinHandle<()>>,
    control: Option<ControlThread>,
    dir: TempDir,
}

#[derive(Clone, Copy)]
struct Options {
    cores: usize,
    durability: Durability,
    io: IoMode,
}

impl Server {
    fn start(options: Options) -> Server {
        Server::start_in(TempDir::new().unwrap(), options)
    }

    /// One shard for each core.
    fn start_in(dir: TempDir, options: Options) -> Server {
        let (data, control) = open(dir.path(), options.cores as u32);
        let mut control = control;
        let snapshot = Arc::new(control.snapshot());
        let acks = Arc::new(Acks::new(options.cores, snapshot.epoch));
        let (mailboxes, addresses): (Vec<_>, Vec<_>) = (0..options.cores).map(|_| mailbox()).unzip();
        let publish = Box::new(ToCores(addresses.clone()));
        let control = ControlThread::start(control, publish, Arc::clone(&acks), LONG).unwrap();
        let (mut http, mut cores) = (Vec::new(), Vec::new());
        for (core, mailbox) in mailboxes.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            http.push(listener.local_addr().unwrap());
            let (started, report) = sync_channel(1);
            let setup = CoreSetup {
                core,
                cpu: Some(core),
                mailbox,
                addresses: addresses.clone(),
                dir: data.clone(),
                shard_owners: (0..options.cores).collect(),
                durability: options.durability,
                io: options.io,
                sync: SyncMode::Dsync,
                http: listener,
                closing: Vec::new(),
                catalog: Arc::clone(&snapshot),
                acks: Arc::clone(&acks),
                control: control.handle(),
                cursor_secret: [7; 32],
                started,
                version: "0.0.0",
            };
            cores.push(std::thread::spawn(move || run(setup)));
            assert_eq!(report.recv().unwrap().unwrap().core, core);
        }
        Server { http, addresses, cores, control: Some(control), dir }
    }

    fn client(&self, core: usize) -> Client {
        Client::connect(self.http[core])
    }

    /// A tenant and its key.
    fn onboard(&self, email: &str) -> Value {
        let answer = self.client(0).post("/api/v1/onboard/start", None, &json!({"email": email}).to_string());
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    fn key(&self, email: &str) -> String {
        self.onboard(email)["api_key"].as_str().unwrap().to_owned()
    }

    fn tell_to_stop(&self) {
        for address in &self.addresses {
            address.send(Message::Stop).unwrap();
        }
    }

    /// Ends everything, and gives back the directory.
    fn stop(mut self) -> TempDir {
        if let Some(control) = self.control.take() {
            control.stop().unwrap();
        }
        self.tell_to_stop();
        for core in self.cores {
            core.join().unwrap();
        }
        self.dir
    }
}

fn open(path: &Path, shard_count: u32) -> (DataDir, Control<MemoryLog>) {
    let new = NewDir { now: Micros(1), segment_bytes: 16 << 20, random: [3; 40] };
    let data = DataDir::open(&path.join("data"), Some(shard_count), new).unwrap();
    let settings = ControlSettings { shard_count, onboard_per_hour: 0 };
    let mut control = Control::open(MemoryLog::default(), settings).unwrap();
    let bootstrap = Secret::new(BOOTSTRAP);
    let set_up =
        SetUp { jwt_secret_file: &path.join("jwt"), keys_file: &path.join("keys"), bootstrap_key: Some(&bootstrap) };
    control.set_up(&set_up, Micros(1)).unwrap();
    (data, control)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn request(&mut self, method: &str, path: &str, key: Option<&str>, more: &str, body: &str) -> Answer {
        self.send(request(method, path, key, more, body));
        self.answer(method == "HEAD")
    }

    fn post(&mut self, path: &str, key: Option<&str>, body: &str) -> Answer {
        self.request("POST", path, key, "Content-Type: application/json\r\n", body)
    }

    fn get(&mut self, path: &str, key: &str) -> Answer {
        self.request("GET", path, Some(key), "", "")
    }

    fn query(&mut self, query: &str, key: &str) -> Value {
        let answer = self.get(&format!("/api/v1/events/query?{query}"), key);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn ingest(&mut self, key: &str, event: &Value) -> Value {
        let answer = self.post("/api/v1/events", Some(key), &event.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        let count = self.stream.read(&mut piece).unwrap();
        self.read.extend_from_slice(&piece[..count]);
        count > 0
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.read.drain(..end + 2).take(end).collect()).unwrap();
                return line;
            }
            assert!(self.fill(), "the connection ended in a line: {}", String::from_utf8_lossy(&self.read));
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.fill(), "the connection ended in a body");
        }
        self.read.drain(..count).collect()
    }

    fn answer(&mut self, head_only: bool) -> Answer {
        let mut head = String::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            head.push_str(&line);
            head.push('\n');
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if head_only || status == 100 || status == 204 || status == 304 {
            return answer;
        }
        if answer.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let line = self.line();
                let count = usize::from_str_radix(&line, 16).unwrap();
                answer.body.extend(self.bytes(count));
                assert_eq!(self.line(), "");
                if count == 0 {
                    return answer;
                }
            }
        }
        let count = answer.header("Content-Length").unwrap().parse().unwrap();
        answer.body = self.bytes(count);
        answer
    }

    fn is_ended(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }
}

fn request(method: &str, path: &str, key: Option<&str>, more: &str, body: &str) -> String {
    let auth = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: test:80\r\n{auth}{more}{length}\r\n{body}")
}

fn event(entity: &str, number: u64) -> Value {
    json!({"event_type": "order.paid", "entity_id": entity, "payload": {"n": number}})
}

fn each_backend(cores: usize, durability: Durability, test: impl Fn(&Server)) {
    for io in BACKENDS {
        let server = Server::start(Options { cores, durability, io });
        test(&server);
        server.stop();
    }
}

#[test]
fn a_stranger_onboards_ingests_and_reads_back() {
    each_backend(1, Durability::Commit, |server| {
        let made = server.onboard("a@x.com");
        assert_eq!((&made["tier"], &made["events_quota"]), (&json!("free"), &json!(100_000)));
        assert!(made["getting_started"]["ingest_event"].as_str().unwrap().contains("'http://test:80/api/v1/events'"));
        let key = made["api_key"].as_str().unwrap();
        let mut client = server.client(0);
        let mut sent = event("order-7", 1);
        sent["metadata"] = json!({"a": [1, null]});
        let answer = client.post("/api/v1/events", Some(key), &sent.to_string());
        assert_eq!((answer.status, answer.header("Ringlog-Durability")), (200, Some("disk")));
        assert!(answer.header("X-Request-Id").is_some());
        let stored = answer.json();
        assert_eq!(stored["version"], 1);
        let found = client.query("entity_id=order-7", key);
        assert_eq!(
            found,
            json!({
                "events": [{
                    "id": stored["event_id"], "event_type": "order.paid", "entity_id": "order-7",
                    "tenant_id": made["tenant_id"], "payload": {"n": 1}, "timestamp": stored["timestamp"],
                    "metadata": {"a": [1, null]}, "version": 1, "position": 1,
                }],
                "count": 1, "total_count": 1, "has_more": false, "entity_version": 1,
            })
        );
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        let all: String = (0..100)
            .map(|number| request("POST", "/api/v1/events", Some(&key), "", &event("e", number).to_string()))
            .collect();
        client.send(all);
        for number in 0..100 {
            assert_eq!(client.answer(false).json()["version"], number + 1);
        }
        assert_eq!(client.query("limit=1", &key)["total_count"], 100);
    });
}

#[test]
fn a_batch_is_stored_whole_or_not_at_all() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        let mut third = event("b", 3);
        third["expected_version"] = json!(9);
        let events = json!({"events": [event("a", 1), event("b", 2), third]});
        let answer = client.post("/api/v1/events/batch", Some(&key), &events.to_string());
        let refused = answer.json();
        assert_eq!(answer.status, 409, "{refused}");
        assert_eq!(
            (&refused["error"], &refused["expected_version"], &refused["current_version"], &refused["event_index"]),
            (&json!("version_conflict"), &json!(9), &json!(1), &json!(2))
        );
        assert_eq!(client.query("", &key)["count"], 0);
        let events = json!({"events": [event("a", 1), event("b", 2), event("a", 3)]});
        let answer = client.post("/api/v1/events/batch", Some(&key), &events.to_string()).json();
        assert_eq!((&answer["total"], &answer["ingested"]), (&json!(3), &json!(3)));
        let versions: Vec<_> = answer["events"].as_array().unwrap().iter().map(|event| &event["version"]).collect();
        assert_eq!(versions, [1, 1, 2]);
        assert_eq!(client.query("", &key)["count"], 3);
    });
}

#[test]
fn a_tenant_is_reached_through_every_core() {
    each_backend(2, Durability::Commit, |server| {
        let keys = [server.key("a@x.com"), server.key("b@x.com")];
        let mut clients = [server.client(0), server.client(1)];
        for (place, key) in keys.iter().enumerate() {
            for (version, client) in clients.iter_mut().enumerate() {
                let stored = client.ingest(key, &event("e", place as u64));
                assert_eq!(stored["version"], version + 1);
            }
            for client in &mut clients {
                let found = client.query("order=desc&payload_filter=%7B%7D", key);
                assert_eq!((&found["count"], &found["events"][0]["payload"]["n"]), (&json!(2), &json!(place)));
            }
            let mut wrong = event("e", 0);
            wrong["expected_version"] = json!(7);
            for client in &mut clients {
                assert_eq!(client.post("/api/v1/events", Some(key), &wrong.to_string()).json()["current_version"], 2);
            }
        }
    });
}

#[test]
fn a_large_batch_arrives_whole_and_is_streamed_back() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        let text = "x".repeat(5000);
        for round in 0..2 {
            let events: Vec<_> = (0..1000)
                .map(|number| {
                    json!({"event_type": "big.one", "entity_id": format!("e{number}"), "payload": {"n": number, "text": text}})
                })
                .collect();
            let body = json!({ "events": events }).to_string();
            assert!(body.len() > 5_000_000);
            let answer = client.post("/api/v1/events/batch", Some(&key), &body).json();
            assert_eq!(answer["ingested"], 1000);
            // The connection goes on receiving into its own memory, and small requests fit there too.
            assert_eq!(client.ingest(&key, &event("small", round))["version"], round + 1);
        }
        let answer = client.get("/api/v1/events/query?event_type=big.one", &key);
        assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
        let found = answer.json();
        assert_eq!((&found["count"], &found["has_more"]), (&json!(2000), &json!(false)));
        assert_eq!(found["events"][1999]["payload"]["text"], json!(text));
        assert_eq!(client.query("limit=1", &key)["total_count"], 2002);
    });
}

#[test]
fn a_client_that_has_finished_sending_is_answered() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        client.send(request("POST", "/api/v1/events", Some(&key), "", &event("e", 1).to_string()));
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.answer(false).json()["version"], 1);
        assert!(client.is_ended());
    });
}

#[test]
fn what_is_acknowledged_from_memory_can_be_read_at_once() {
    for durability in [Durability::Memory, Durability::Interval { every_us: 5_000 }] {
        each_backend(2, durability, |server| {
            for email in ["a@x.com", "b@x.com"] {
                let key = server.key(email);
                let mut client = server.client(0);
                for number in 1..=50 {
                    client.ingest(&key, &event("e", number));
                    let found = client.query("order=desc&limit=1&entity_id=e", &key);
                    assert_eq!((&found["total_count"], &found["entity_version"]), (&json!(number), &json!(number)));
                    assert_eq!(found["events"][0]["payload"]["n"], number);
                }
            }
        });
    }
}

#[test]
fn a_stop_finishes_what_was_begun_and_the_next_life_has_it() {
    for io in BACKENDS {
        let options = Options { cores: 2, durability: Durability::Commit, io };
        let server = Server::start(options);
        let mut idle = server.client(1);
        assert_eq!(idle.request("GET", "/ready", None, "", "").status, 200);
        let body = event("e", 1).to_string();
        let head = request(
            "POST",
            "/api/v1/events",
            Some(BOOTSTRAP),
            "X-Workspace-ID: ws-1\r\nExpect: 100-continue\r\n",
            &body,
        );
        // The tenant `default` is on the first shard; the request comes in on the other core.
        let mut client = server.client(1);
        client.send(&head.as_bytes()[..head.len() - body.len()]);
        assert_eq!(client.answer(false).status, 100);
        server.tell_to_stop();
        assert!(idle.is_ended());
        client.send(&body);
        let answer = client.answer(false);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(client.is_ended());
        let dir = server.stop();
        let server = Server::start_in(dir, options);
        let mut client = server.client(0);
        let more = "X-Tenant-ID: default\r\n";
        let found = client.request("GET", "/api/v1/events/query", Some(BOOTSTRAP), more, "").json();
        assert_eq!((&found["count"], &found["events"][0]["payload"]["n"]), (&json!(1), &json!(1)));
        server.stop();
    }
}
