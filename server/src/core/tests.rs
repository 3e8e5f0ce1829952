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
use crate::catalog::thread::{Acks, ControlThread, Files, Publish};
use crate::core::mailbox::{Address, Message, mailbox};
use crate::core::metrics::Metrics;
use crate::core::rates::Rates;
use crate::core::run;
use crate::core::setup::CoreSetup;
use crate::wire::cors::Cors;
use crate::wire::forwarded::TrustedProxies;

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

    fn control_has_died(&mut self) {
        for address in &self.0 {
            // Those who wait for an answer must not wait for ever.
            let _ = address.send(Message::Stop);
        }
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
        let rates = Arc::new(Rates::default());
        let metrics = Arc::new(Metrics::new(options.cores, false));
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
                tcp: None,
                syslog_tcp: None,
                syslog_udp: None,
                syslog_workspace: None,
                catalog: Arc::clone(&snapshot),
                acks: Arc::clone(&acks),
                control: control.handle(),
                rates: Arc::clone(&rates),
                metrics: Arc::clone(&metrics),
                trusted_proxies: TrustedProxies::default(),
                cors: Cors::default(),
                pricing: Arc::default(),
                facilitator: None,
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
            // One that was told before may have gone.
            let _ = address.send(Message::Stop);
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

    /// `false` if the server has closed the connection instead of an answer.
    fn is_ready(&mut self) -> bool {
        let is_sent = self.stream.write_all(request("GET", "/ready", None, "", "").as_bytes()).is_ok();
        let mut first = [0];
        is_sent && matches!(self.stream.read(&mut first), Ok(1))
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
fn a_query_sees_what_its_connection_stored_before_it() {
    each_backend(2, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        for core in 0..2 {
            let mut client = server.client(core);
            for number in 0..30 {
                let event = event(&format!("e{core}"), number);
                let read = request("GET", &format!("/api/v1/events/query?entity_id=e{core}"), Some(&key), "", "");
                client.send(request("POST", "/api/v1/events", Some(&key), "", &event.to_string()) + &read + &read);
            }
            for number in 1..=30 {
                assert_eq!(client.answer(false).json()["version"], number);
                for _ in 0..2 {
                    assert!(number <= client.answer(false).json()["count"].as_u64().unwrap());
                }
            }
        }
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

fn check(server: &Server, request: String, status: u16, error: &str, lines: &[&str]) {
    let mut client = server.client(0);
    let head_only = request.starts_with("HEAD");
    client.send(&request);
    let answer = client.answer(head_only);
    assert_eq!(answer.status, status, "{request}: {answer:?}");
    assert!(answer.header("X-Request-Id").is_some(), "{answer:?}");
    for line in lines {
        assert!(answer.head.lines().any(|found| found == *line), "{line} is missing: {answer:?}");
    }
    if !error.is_empty() {
        assert_eq!(answer.json()["error"], error, "{answer:?}");
    }
}

#[test]
fn a_request_is_refused_from_its_head() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let key = Some(key.as_str());
        let (events, query) = ("/api/v1/events", "/api/v1/events/query");
        let check = |request, status, error, lines: &[&str]| check(server, request, status, error, lines);
        check(request("GET", "/api/v1/nothing", key, "", ""), 404, "not_found", &[]);
        check(request("GET", "/", None, "", ""), 404, "not_found", &[]);
        check(request("DELETE", events, None, "", ""), 405, "method_not_allowed", &["Allow: POST, OPTIONS"]);
        check(request("POST", query, key, "", "{}"), 405, "method_not_allowed", &["Allow: GET, HEAD, OPTIONS"]);
        check(request("OPTIONS", query, None, "", ""), 204, "", &["Allow: GET, HEAD, OPTIONS"]);
        check(request("HEAD", query, key, "", ""), 200, "", &[]);
        check(request("GET", "/health", None, "X-Request-Id: mine\r\n", ""), 200, "", &["X-Request-Id: mine"]);
        check(request("POST", events, None, "", "{}"), 401, "unauthorized", &[]);
        check(request("POST", events, Some("wrong"), "", "{}"), 401, "unauthorized", &[]);
        check(request("POST", events, key, "X-Tenant-ID: default\r\n", "{}"), 403, "tenant_forbidden", &[]);
        check(request("POST", events, key, "X-Workspace-ID: ws-1\r\n", "{}"), 403, "tenant_forbidden", &[]);
        check(request("POST", events, Some(BOOTSTRAP), "", "{}"), 400, "bad_request", &[]);
        check(request("POST", events, Some(BOOTSTRAP), "X-Tenant-ID: system\r\n", "{}"), 403, "tenant_forbidden", &[]);
        check(request("POST", events, Some(BOOTSTRAP), "X-Tenant-ID: nobody\r\n", "{}"), 404, "not_found", &[]);
        let text = "Content-Type: text/plain\r\n";
        check(request("POST", events, key, text, "{}"), 415, "unsupported_media_type", &["Accept: application/json"]);
        let brotli = "Content-Encoding: br\r\n";
        check(
            request("POST", events, key, brotli, "{}"),
            415,
            "unsupported_encoding",
            &["Accept-Encoding: gzip, zstd, identity"],
        );
        let large = "Content-Length: 2000000\r\n";
        check(request("POST", events, key, large, ""), 413, "body_too_large", &["Connection: close"]);
        check(request("POST", events, key, "", "{"), 400, "invalid_json", &[]);
        check(request("POST", events, key, "", "{\"entity_id\":\"e\"}"), 400, "invalid_event", &[]);
        check(request("POST", "/api/v1/onboard/start", None, "", "{}"), 400, "invalid_email", &[]);
        check(request("POST", "/api/v1/onboard/start", None, "", "[]"), 400, "bad_request", &[]);
        let again = json!({"email": "A@x.com"}).to_string();
        check(request("POST", "/api/v1/onboard/start", None, "", &again), 409, "tenant_exists", &[]);
        check(request("GET", &format!("{query}?order=up"), key, "", ""), 400, "invalid_parameter", &[]);
        check(request("GET", &format!("{query}?tenant_id=default"), key, "", ""), 403, "tenant_forbidden", &[]);
    });
}

#[test]
fn a_streaming_key_writes_until_it_is_revoked() {
    each_backend(2, Durability::Commit, |server| {
        let file = server.dir.path().join("keys");
        let line = std::fs::read_to_string(&file).unwrap();
        let key = line.lines().find(|line| !line.starts_with('#')).unwrap().split(':').next().unwrap().to_owned();
        // On both cores: the owner of the shard asks again for the other one.
        let mut clients = [server.client(0), server.client(1)];
        for client in &mut clients {
            client.ingest(&key, &event("e", 1));
            assert_eq!(client.get("/api/v1/events/query", &key).json()["permission"], "read");
        }
        std::fs::write(&file, "# none\n").unwrap();
        let (sender, answer) = sync_channel(1);
        let reply = Box::new(move |result: Result<_, _>| sender.send(result.unwrap()).unwrap());
        let files = Files { bootstrap_key: None, keys: file, jwt_secret: server.dir.path().join("jwt") };
        server.control.as_ref().unwrap().handle().read_files(files, Micros(2), reply).unwrap();
        assert_eq!(answer.recv().unwrap().revoked, 1);
        for client in &mut clients {
            assert_eq!(client.post("/api/v1/events", Some(&key), &event("e", 2).to_string()).status, 401);
        }
    });
}

#[test]
fn pages_filters_and_entity_tags_agree() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        let events: Vec<_> = (0..1000).map(|number| event(&format!("e{}", number % 10), number % 4)).collect();
        client.post("/api/v1/events/batch", Some(&key), &json!({ "events": events }).to_string());
        let mut seen = Vec::new();
        let mut query = "limit=300".to_owned();
        loop {
            let page = client.query(&query, &key);
            seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            assert_eq!(page["has_more"], true);
            query = format!("limit=300&cursor={cursor}");
        }
        assert_eq!(seen, (1..=1000).collect::<Vec<u64>>());
        let other = query.replace("limit", "order=desc&limit");
        assert_eq!(client.get(&format!("/api/v1/events/query?{other}"), &key).json()["error"], "cursor_mismatch");

        let filter = "payload_filter=%7B%22n%22%3A3%7D";
        let all = client.query(filter, &key);
        assert_eq!((&all["count"], &all["total_count"], &all["has_more"]), (&json!(250), &json!(250), &json!(false)));
        let page = client.query(&format!("{filter}&offset=240&limit=5&entity_id=e3"), &key);
        assert_eq!((&page["count"], &page["has_more"]), (&json!(0), &json!(false)));
        let page = client.query(&format!("{filter}&offset=10&limit=5&entity_id=e3"), &key);
        assert_eq!(
            (&page["count"], &page["has_more"], &page["entity_version"]),
            (&json!(5), &json!(true), &json!(100))
        );
        // Both conditions hold for every twentieth event, from the fourth on.
        assert_eq!(page["events"][0]["position"], 4 + 10 * 20);

        let path = "/api/v1/events/query?entity_id=e1";
        let etag = client.get(path, &key).header("ETag").unwrap().to_owned();
        let known = format!("If-None-Match: {etag}\r\n");
        let answer = client.request("GET", path, Some(&key), &known, "");
        assert_eq!((answer.status, answer.header("ETag")), (304, Some(etag.as_str())));
        client.ingest(&key, &event("e1", 1));
        assert_eq!(client.request("GET", path, Some(&key), &known, "").status, 200);
    });
}

#[test]
fn readers_that_do_not_read_hold_up_nobody() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let mut client = server.client(0);
        let text = "y".repeat(10_000);
        let events: Vec<_> =
            (0..1000).map(|_| json!({"event_type": "big", "entity_id": "e", "payload": text})).collect();
        client.post("/api/v1/events/batch", Some(&key), &json!({ "events": events }).to_string());
        let query = request("GET", "/api/v1/events/query", Some(&key), "", "");
        let mut idle: Vec<_> = (0..2 * crate::limits::QUERIES_PER_TENANT_MAX).map(|_| server.client(0)).collect();
        for (place, client) in idle.iter_mut().enumerate() {
            client.send(&query);
            if place < crate::limits::QUERIES_PER_TENANT_MAX {
                // It has begun, and is far from its end.
                client.bytes(1000);
            }
        }
        for version in 1001..1010 {
            assert_eq!(client.ingest(&key, &event("e", 1))["version"], version);
        }
        let other = server.key("b@x.com");
        assert_eq!(client.query("limit=1", &other)["count"], 0);
        // Those that leave make room for the tenant's own.
        drop(idle);
        assert_eq!(client.query("limit=2", &key)["count"], 2);
    });
}

#[test]
fn one_address_gets_so_many_connections_and_no_more() {
    each_backend(1, Durability::Commit, |server| {
        let mut clients: Vec<_> = (0..crate::limits::CONNECTIONS_PER_IP_MAX).map(|_| server.client(0)).collect();
        for client in &mut clients {
            assert_eq!(client.request("GET", "/ready", None, "", "").status, 200);
        }
        assert!(server.client(0).is_ended());
        // What is free again is seen to be free once the server has heard of it.
        drop(clients);
        while !server.client(0).is_ready() {}
    });
}

#[test]
fn a_chunked_body_of_any_size_is_read() {
    each_backend(1, Durability::Commit, |server| {
        let key = server.key("a@x.com");
        let text = "z".repeat(2000);
        let events: Vec<_> =
            (0..1000).map(|_| json!({"event_type": "big", "entity_id": "e", "payload": text})).collect();
        let body = json!({ "events": events }).to_string();
        let mut client = server.client(0);
        let more = "Transfer-Encoding: chunked\r\n";
        client.send(request("POST", "/api/v1/events/batch", Some(&key), more, ""));
        for piece in body.as_bytes().chunks(100_000) {
            client.send(format!("{:x}\r\n", piece.len()));
            client.send(piece);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.answer(false).json()["ingested"], 1000);
    });
}
