//! What was sent and not stored: told to its tenant and to nobody else, bounded, and counted.

use std::net::UdpSocket;

use serde_json::{Value, json};
use tell_encoding::{BatchParams, EventParams, EventType, SchemaType, encode_batch, encode_event_data_into};

use crate::harness::{Io, Server};
use crate::on_both;
use crate::quotas::{BOOTSTRAP, set_quotas};
use crate::sources::{ACME, Rig, UMBRELLA, frame, framed, hex, until};

on_both! {
    a_frame_that_cannot_be_read_is_told_to_its_keys_tenant,
    a_quota_is_told_of_once_and_the_rest_with_how_many,
    a_quota_over_http_is_answered_and_told_of,
    whoever_still_writes_with_a_key_that_was_taken_back_is_told_of,
    a_suspended_tenant_finds_later_what_was_refused,
    what_is_cut_off_of_syslog_is_shown_to_its_owner_without_a_key,
    a_datagram_of_a_key_that_nobody_has_is_counted_and_nobodys,
    a_quota_refuses_datagrams_and_is_told_of_once_for_each_writer,
    a_suspended_tenant_finds_later_what_was_refused_of_its_datagrams,
    the_tenant_that_holds_rejects_is_nobodys,
    rejects_are_listed_newest_first_and_by_pages,
    all_cores_numbers_are_one_exposition,
}

/// Newest first.
fn rejects(server: &Server, key: &str, query: &str) -> Vec<Value> {
    server.get(&format!("/api/v1/rejects{query}"), key)["rejects"].as_array().unwrap().clone()
}

/// Nobody waits for a reject to be stored: it is asked for until it shows.
fn wait_for(server: &Server, key: &str, count: usize) -> Vec<Value> {
    until(|| count <= rejects(server, key, "").len());
    let found = rejects(server, key, "");
    assert_eq!(found.len(), count, "{found:?}");
    found
}

fn of(reject: &Value) -> (&str, &str, u64) {
    let text = |name: &str| reject[name].as_str().unwrap();
    (text("source"), text("reason"), reject["count"].as_u64().unwrap())
}

/// A frame of one event with this payload.
fn frame_with(key: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let event = EventParams {
        event_type: EventType::Track,
        timestamp: 1_700_000_000_000,
        service: None,
        device_id: None,
        session_id: None,
        event_name: Some("e"),
        payload: Some(payload),
    };
    let mut data = Vec::new();
    encode_event_data_into(&mut data, &[event]);
    let batch = BatchParams { api_key: &key, schema_type: SchemaType::Event, version: 100, batch_id: 0, data: &data };
    framed(&encode_batch(&batch))
}

/// What the list of streaming keys calls a tenant's only one.
fn key_id(server: &Server, tenant: &str) -> String {
    let mut client = server.connect();
    let head = format!("GET /api/v1/admin/streaming-keys HTTP/1.1\r\nHost: h\r\nX-Tenant-ID: {tenant}\r\n");
    client.send(format!("{head}Authorization: Bearer {BOOTSTRAP}\r\n\r\n").as_bytes());
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let found = text.split('"').find(|part| part.starts_with("key_") && part[4..].parse::<u64>().is_ok());
    found.unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn metrics(server: &Server) -> String {
    let answer = server.call("GET", "/metrics", "", None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// The value of a sample, 0 if it is not there.
fn sample(text: &str, sample: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

fn a_frame_that_cannot_be_read_is_told_to_its_keys_tenant(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut sender = rig.connect("tcp");
    sender.send(&frame_with(ACME, b"{\"a\":"));
    sender.send(&frame_with(UMBRELLA, b"{}"));
    // Of neither is it known whose they are.
    sender.send(&frame_with([0xcc; 16], b"{}"));
    sender.send(&framed(&[0xff; 40]));
    sender.finish();
    let found = wait_for(&rig.server, &rig.acme, 1);
    assert_eq!(of(&found[0]), ("tcp", "payload_json", 1));
    assert_eq!(found[0]["key_id"], key_id(&rig.server, "acme"), "{found:?}");
    assert!(found[0]["message"].as_str().unwrap().contains("payload"), "{found:?}");
    assert!(found[0].get("sample").is_none() && found[0].get("request_id").is_none());
    assert!(rejects(&rig.server, &rig.umbrella, "").is_empty());
    let text = metrics(&rig.server);
    for (reason, count) in [("payload_json", 1), ("bad_key", 1), ("quota", 0)] {
        assert_eq!(sample(&text, &format!("ringlog_rejected_total{{source=\"tcp\",reason=\"{reason}\"}}")), count);
    }
    assert_eq!(sample(&text, "ringlog_source_events_total{source=\"tcp\"}"), 1);
}

fn a_quota_is_told_of_once_and_the_rest_with_how_many(io: Io) {
    let rig = Rig::new(io, &[]);
    assert_eq!(set_quotas(&rig.server, "acme", &json!({ "events_per_month": 2 })).status, 200);
    let mut sender = rig.connect("tcp");
    for number in 0..20 {
        sender.send(&frame(ACME, "e", number..number + 3, 10));
    }
    sender.send(&frame(ACME, "e", 0..2, 10));
    sender.finish();
    let found = wait_for(&rig.server, &rig.acme, 1);
    assert_eq!(of(&found[0]), ("tcp", "quota", 1));
    assert_eq!(found[0]["key_id"], key_id(&rig.server, "acme"));
    let usage = rig.server.get("/api/v1/usage", &rig.acme);
    assert_eq!(usage["usage"]["events_per_month"]["used"], 2, "{usage}");
    // A stop tells what a minute would have.
    let (status, place) = rig.server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2"]);
    let found = wait_for(&server, &rig.acme, 2);
    assert_eq!([of(&found[0]), of(&found[1])], [("tcp", "quota", 19), ("tcp", "quota", 1)]);
    assert_eq!(server.get("/api/v1/usage", &rig.acme)["usage"]["events_per_month"]["used"], 2);
}

fn a_quota_over_http_is_answered_and_told_of(io: Io) {
    let rig = Rig::new(io, &[]);
    assert_eq!(set_quotas(&rig.server, "acme", &json!({ "events_per_month": 1 })).status, 200);
    let event = r#"{"event_type":"a.b","entity_id":"e","payload":{}}"#;
    let track = "{\"type\":\"track\",\"event\":\"e\",\"user_id\":\"u\"}\n";
    let record = r#"{"body":{"stringValue":"text"}}"#;
    let otlp = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record},{record}]}}]}}]}}"#);
    let requests: [(&str, &str, Vec<u8>); 7] = [
        ("/api/v1/events", "application/json", event.into()),
        ("/api/v1/events/batch", "application/json", format!("{{\"events\":[{event},{event}]}}").into()),
        ("/v1/events", "application/x-ndjson", track.repeat(3).into()),
        ("/v1/logs", "application/x-ndjson", "{\"level\":\"info\",\"message\":\"m\"}\n".repeat(4).into()),
        ("/v1/ingest", "application/x-flatbuffers", frame(ACME, "e", 0..5, 10).split_off(4)),
        ("/ingest/ndjson", "application/x-ndjson", "{\"message\":\"m\"}\n".repeat(6).into()),
        ("/otlp/v1/logs", "application/json", otlp.into()),
    ];
    // One connection is on one core, which tells of it once in a minute.
    let mut client = rig.server.connect();
    let mut send = |round: usize, number: usize| {
        let (path, content_type, body) = &requests[number];
        let id = format!("request-{round}-{number}");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nX-Request-Id: {id}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            hex(ACME),
            body.len()
        );
        client.send(&[head.as_bytes(), body].concat());
        client.answer()
    };
    assert_eq!(send(0, 0).status, 200);
    for round in 1..4 {
        for number in 0..requests.len() {
            let answer = send(round, number);
            assert_eq!(answer.status, 402, "{number}: {}", answer.text());
        }
    }
    let told = |server: &Server, count: usize| -> Vec<(String, u64, String)> {
        let found = wait_for(server, &rig.acme, count);
        let mut found: Vec<_> = found
            .iter()
            .map(|reject| {
                let (source, reason, count) = of(reject);
                assert_eq!((reason, &reject["key_id"]), ("quota", &json!(key_id(server, "acme"))), "{reject}");
                (source.to_owned(), count, reject["request_id"].as_str().unwrap().to_owned())
            })
            .collect();
        found.sort();
        found
    };
    // Lines, records and the envelope's events are counted one by one, a frame as one. The second of a source is not the first.
    let first = [("api", 1, 0), ("http", 3, 2), ("http_frame", 1, 4), ("otlp", 2, 6), ("shipper", 6, 5)];
    let first = first.map(|(source, count, number)| (source.to_owned(), count, format!("request-1-{number}")));
    assert_eq!(told(&rig.server, 5), first);
    let text = metrics(&rig.server);
    for (source, count) in [("api", 9), ("http", 21), ("http_frame", 3), ("otlp", 6), ("shipper", 18)] {
        let name = format!("ringlog_rejected_total{{source=\"{source}\",reason=\"quota\"}}");
        assert_eq!(sample(&text, &name), count, "{text}");
    }
    // What came since is told of at the end, with the last request of it.
    let (status, place) = rig.server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")]);
    let rest = [("api", 8, 1), ("http", 18, 3), ("http_frame", 2, 4), ("otlp", 4, 6), ("shipper", 12, 5)];
    let rest = rest.map(|(source, count, number)| (source.to_owned(), count, format!("request-3-{number}")));
    let mut expected = [first, rest].concat();
    expected.sort();
    assert_eq!(told(&server, 10), expected);
    assert_eq!(server.get("/api/v1/usage", &rig.acme)["usage"]["events_per_month"]["used"], 1);
}

fn whoever_still_writes_with_a_key_that_was_taken_back_is_told_of(io: Io) {
    let rig = Rig::new(io, &[]);
    let key_id = key_id(&rig.server, "acme");
    std::fs::write(rig.server.path("data/apikeys.conf"), format!("{}:3:u\n", hex(UMBRELLA))).unwrap();
    rig.server.signal(rustix::process::Signal::HUP);
    let event = json!({ "event_type": "tried", "entity_id": "other", "payload": {} });
    until(|| rig.server.call("POST", "/api/v1/events", &hex(ACME), Some(&event)).status == 401);
    let mut sender = rig.connect("tcp");
    (0..5).for_each(|_| sender.send(&frame(ACME, "e", 0..1, 10)));
    sender.finish();
    let found = wait_for(&rig.server, &rig.acme, 1);
    assert_eq!((of(&found[0]), &found[0]["key_id"]), (("tcp", "revoked", 1), &json!(key_id)));
    // A restart knows it, too.
    let (_, place) = rig.server.stop();
    let server = place.start(&["--cores=1"]);
    assert_eq!(of(&wait_for(&server, &rig.acme, 2)[0]), ("tcp", "revoked", 4));
    let rig = Rig { server, ..rig };
    let mut sender = rig.connect("tcp");
    sender.send(&frame(ACME, "e", 0..1, 10));
    sender.finish();
    let found = wait_for(&rig.server, &rig.acme, 3);
    assert_eq!((of(&found[0]), &found[0]["key_id"]), (("tcp", "revoked", 1), &json!(key_id)));
}

fn a_suspended_tenant_finds_later_what_was_refused(io: Io) {
    let rig = Rig::new(io, &["--syslog-tcp=127.0.0.1:0", "--syslog-workspace=2"]);
    let set = |verb: &str| rig.server.call("POST", &format!("/api/v1/tenants/acme/{verb}"), BOOTSTRAP, None).status;
    assert_eq!(set("deactivate"), 200);
    let mut sender = rig.connect("tcp");
    sender.send(&frame(ACME, "e", 0..1, 10));
    sender.finish();
    let mut sender = rig.connect("syslog_tcp");
    sender.send(b"<34>1 2026-01-02T03:04:05Z h app - - - text\n");
    sender.finish();
    assert_eq!(rig.server.call("GET", "/api/v1/rejects", &rig.acme, None).status, 401);
    assert_eq!(set("activate"), 200);
    let mut found: Vec<_> = wait_for(&rig.server, &rig.acme, 2);
    found.sort_by_key(|reject| reject["source"].to_string());
    assert_eq!([of(&found[0]), of(&found[1])], [("syslog_tcp", "revoked", 1), ("tcp", "revoked", 1)]);
    // The listener's workspace has no key.
    assert!(found[0].get("key_id").is_none() && found[1].get("key_id").is_some());
}

fn what_is_cut_off_of_syslog_is_shown_to_its_owner_without_a_key(io: Io) {
    let rig = Rig::new(io, &["--syslog-tcp=127.0.0.1:0", "--syslog-workspace=2"]);
    let long = "x".repeat(100_000);
    let named = format!("[ringlog@32473 key=\"{}\"]", hex(UMBRELLA));
    let unknown = format!("[ringlog@32473 key=\"{}\"]", hex([0xcc; 16]));
    // Its structured data does not end before the cut: a key may be behind it.
    let unsure = format!("[a@1 b=\"{}\"]{named}", "y".repeat(2_000));
    let mut sender = rig.connect("syslog_tcp");
    for (data, text) in [("-", "mine"), (&named, "theirs"), (&unknown, "nobody's"), (&unsure, "anybody's")] {
        sender.send(format!("<34>1 2026-01-02T03:04:05Z h app - - {data} {text} {long}\n").as_bytes());
    }
    sender.send(b"<34>1 2026-01-02T03:04:05Z h app - - - good\n");
    sender.send(b"500 <34>1 2026-01-02T03:04:05Z h app - - - ends too soon");
    sender.finish();
    let mut mine = wait_for(&rig.server, &rig.acme, 2);
    mine.sort_by_key(|reject| reject["reason"].to_string());
    assert_eq!([of(&mine[0]), of(&mine[1])], [("syslog_tcp", "cut_off", 1), ("syslog_tcp", "oversized", 1)]);
    assert!(mine[0]["sample"].as_str().unwrap().ends_with("ends too soon"), "{mine:?}");
    let shown = mine[1]["sample"].as_str().unwrap();
    assert!(shown.contains("mine x") && shown.len() == 1024, "{shown}");
    let theirs = wait_for(&rig.server, &rig.umbrella, 1);
    let shown = theirs[0]["sample"].as_str().unwrap();
    assert!(shown.contains("theirs x") && shown.contains("[ringlog@32473]"), "{shown}");
    assert_eq!(theirs[0]["key_id"], key_id(&rig.server, "umbrella"));
    let text = metrics(&rig.server);
    for (reason, expected) in [("oversized", 3), ("bad_key", 1), ("cut_off", 1)] {
        let name = format!("ringlog_rejected_total{{source=\"syslog_tcp\",reason=\"{reason}\"}}");
        assert_eq!(sample(&text, &name), expected, "{text}");
    }
    assert!(!rig.server.log().contains(&hex(UMBRELLA)));
}

/// A server that takes datagrams for the first tenant, unless a message names another.
struct Datagrams {
    rig: Rig,
    /// Datagrams of one socket come to one core, in order.
    socket: UdpSocket,
}

impl Datagrams {
    fn new(io: Io) -> Datagrams {
        let rig = Rig::new(io, &["--syslog-udp=127.0.0.1:0", "--syslog-workspace=2"]);
        Datagrams { rig, socket: UdpSocket::bind("127.0.0.1:0").unwrap() }
    }

    /// `key`: what the structured data says of one.
    fn send(&self, key: Option<&str>) {
        let data = key.map_or("-".to_owned(), |key| format!("[ringlog@32473 key=\"{key}\"]"));
        let message = format!("<34>1 2026-01-02T03:04:05Z h app - - {data} text");
        self.socket.send_to(message.as_bytes(), self.rig.address("syslog_udp")).unwrap();
    }

    /// Nothing else tells what has become of a datagram.
    fn wait_for_count(&self, name: &str, count: u64) {
        until(|| count <= sample(&metrics(&self.rig.server), name));
        assert_eq!(sample(&metrics(&self.rig.server), name), count, "{name}");
    }

    fn wait_for_stored(&self, count: u64) {
        self.wait_for_count("ringlog_source_events_total{source=\"syslog_udp\"}", count);
    }

    fn wait_for_refused(&self, reason: &str, count: u64) {
        self.wait_for_count(&format!("ringlog_rejected_total{{source=\"syslog_udp\",reason=\"{reason}\"}}"), count);
    }
}

fn a_datagram_of_a_key_that_nobody_has_is_counted_and_nobodys(io: Io) {
    let datagrams = Datagrams::new(io);
    datagrams.send(Some(&hex([0xcc; 16])));
    // It names a key, so that the listener's own workspace has no part in it.
    datagrams.send(Some("no key at all"));
    datagrams.send(None);
    datagrams.send(Some(&hex(UMBRELLA)));
    datagrams.wait_for_stored(2);
    datagrams.wait_for_refused("bad_key", 2);
    let Datagrams { rig, .. } = datagrams;
    let (_, place) = rig.server.stop();
    let server = place.start(&["--cores=2"]);
    for key in [&rig.acme, &rig.umbrella] {
        assert!(rejects(&server, key, "").is_empty());
        assert_eq!(server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"], 1);
    }
}

fn a_quota_refuses_datagrams_and_is_told_of_once_for_each_writer(io: Io) {
    let datagrams = Datagrams::new(io);
    for tenant in ["acme", "umbrella"] {
        assert_eq!(set_quotas(&datagrams.rig.server, tenant, &json!({ "events_per_month": 1 })).status, 200);
    }
    let theirs = hex(UMBRELLA);
    datagrams.send(None);
    datagrams.send(Some(&theirs));
    datagrams.wait_for_stored(2);
    for _ in 0..10 {
        datagrams.send(None);
        datagrams.send(None);
        datagrams.send(Some(&theirs));
    }
    datagrams.wait_for_refused("quota", 30);
    let Datagrams { rig, .. } = datagrams;
    let of_umbrella = key_id(&rig.server, "umbrella");
    for key in [&rig.acme, &rig.umbrella] {
        wait_for(&rig.server, key, 1);
    }
    let (_, place) = rig.server.stop();
    let server = place.start(&["--cores=2"]);
    // The listener's workspace has no key.
    for (key, count, key_id) in [(&rig.acme, 20, None), (&rig.umbrella, 10, Some(json!(of_umbrella)))] {
        // Those of the first batch, and what came in the rest of the minute.
        let all = rejects(&server, key, "");
        assert!((1..=2).contains(&all.len()), "{all:?}");
        assert!(all.iter().all(|reject| (of(reject).0, of(reject).1) == ("syslog_udp", "quota")), "{all:?}");
        assert!(all.iter().all(|reject| reject.get("key_id") == key_id.as_ref()), "{all:?}");
        assert_eq!(all.iter().map(|reject| of(reject).2).sum::<u64>(), count);
        assert_eq!(server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"], 1);
    }
}

fn a_suspended_tenant_finds_later_what_was_refused_of_its_datagrams(io: Io) {
    let datagrams = Datagrams::new(io);
    let set = |verb: &str| {
        let path = format!("/api/v1/tenants/acme/{verb}");
        assert_eq!(datagrams.rig.server.call("POST", &path, BOOTSTRAP, None).status, 200);
    };
    set("deactivate");
    datagrams.send(None);
    datagrams.send(Some(&hex(ACME)));
    datagrams.wait_for_refused("revoked", 2);
    set("activate");
    let Datagrams { rig, .. } = &datagrams;
    let mut found = wait_for(&rig.server, &rig.acme, 2);
    found.sort_by_key(|reject| reject.get("key_id").is_some());
    assert_eq!([of(&found[0]), of(&found[1])], [("syslog_udp", "revoked", 1); 2]);
    assert_eq!((found[0].get("key_id"), &found[1]["key_id"]), (None, &json!(key_id(&rig.server, "acme"))));
    datagrams.send(None);
    datagrams.wait_for_stored(1);
}

fn the_tenant_that_holds_rejects_is_nobodys(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut sender = rig.connect("tcp");
    sender.send(&frame_with(ACME, b"nonsense"));
    sender.finish();
    wait_for(&rig.server, &rig.acme, 1);
    let shadow = (1_u32 << 31) + 2;
    let ask = |method: &str, path: &str, key: &str, header: &str| {
        let mut client = rig.server.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{header}\r\n\r\n");
        client.send(head.as_bytes());
        client.answer().status
    };
    for path in ["/api/v1/events/query", "/api/v1/rejects", "/api/v1/usage"] {
        for name in [format!("X-Workspace-ID: ws-{shadow}"), format!("X-Tenant-ID: ws-{shadow}")] {
            assert_eq!(ask("GET", path, BOOTSTRAP, &name), 404, "{path} {name}");
            assert_eq!(ask("GET", path, &rig.acme, &name), 403, "{path} {name}");
        }
    }
    let by_parameter = format!("/api/v1/events/query?tenant_id=ws-{shadow}");
    assert_eq!(rig.server.call("GET", &by_parameter, &rig.acme, None).status, 403);
    for path in ["", "/stats", "/quotas"] {
        let path = format!("/api/v1/tenants/ws-{shadow}{path}");
        assert_eq!(rig.server.call("GET", &path, BOOTSTRAP, None).status, 404, "{path}");
    }
    // It is not among the tenants, and what it holds is not among the events of its own.
    let tenants = rig.server.get("/api/v1/tenants", BOOTSTRAP).to_string();
    assert!(tenants.contains("acme") && !tenants.contains(&shadow.to_string()), "{tenants}");
    assert_eq!(rig.server.get("/api/v1/events/query", &rig.acme)["count"], 0);
    let usage = rig.server.get("/api/v1/usage", &rig.acme);
    assert_eq!(usage["usage"]["events_per_month"]["used"], 0, "{usage}");
    let stats = rig.server.get("/api/v1/tenants/acme/stats", BOOTSTRAP);
    assert_eq!((&stats["events_stored"], &stats["usage"]["stored_bytes"]["used"]), (&json!(0), &json!(0)), "{stats}");
    // It survives a restart, and goes out of sight with its own.
    let (_, place) = rig.server.stop();
    let server = place.start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")]);
    assert_eq!(rejects(&server, &rig.acme, "").len(), 1);
    assert_eq!(server.call("DELETE", "/api/v1/tenants/acme?confirm=acme", BOOTSTRAP, None).status, 202);
    assert_eq!(server.call("GET", "/api/v1/rejects", &rig.acme, None).status, 401);
    let rig = Rig { server, ..rig };
    let mut sender = rig.connect("tcp");
    sender.send(&frame_with(ACME, b"{}"));
    sender.finish();
    let text = metrics(&rig.server);
    assert_eq!(sample(&text, "ringlog_rejected_total{source=\"tcp\",reason=\"bad_key\"}"), 1, "{text}");
}

fn rejects_are_listed_newest_first_and_by_pages(io: Io) {
    let rig = Rig::new(io, &[]);
    let mut sender = rig.connect("tcp");
    for (number, payload) in ["nonsense", "[]", "7", "{}x", "{"].into_iter().enumerate() {
        sender.send(&frame_with(ACME, payload.as_bytes()));
        until(|| number < rejects(&rig.server, &rig.acme, "").len());
    }
    sender.finish();
    let all = rejects(&rig.server, &rig.acme, "");
    let oldest: Vec<_> = rejects(&rig.server, &rig.acme, "?order=asc").into_iter().rev().collect();
    assert_eq!((all.len(), &all), (5, &oldest));
    assert!(all.windows(2).all(|pair| pair[1]["at"].as_str() <= pair[0]["at"].as_str()), "{all:?}");
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.server.get(&format!("/api/v1/rejects?limit=2{cursor}"), &rig.acme);
        found.extend(page["rejects"].as_array().unwrap().clone());
        if page["has_more"] == false {
            break;
        }
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(found, all);
    let count = |query: &str| rejects(&rig.server, &rig.acme, query).len();
    assert_eq!((count("?source=tcp"), count("?source=http"), count("?reason=payload_json")), (5, 0, 5));
    assert_eq!(
        (count("?reason=quota"), count("?since=2100-01-01T00:00:00Z"), count("?until=2020-01-01T00:00:00Z")),
        (0, 0, 0)
    );
    for (query, status) in [
        ("limit=x", 400),
        ("order=up", 400),
        ("reason=a&reason=b", 400),
        ("event_type=a&strict=1", 400),
        ("cursor=nonsense", 400),
        ("tenant_id=umbrella", 403),
    ] {
        let answer = rig.server.call("GET", &format!("/api/v1/rejects?{query}"), &rig.acme, None);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    // A place in one list is none in the other.
    let answer = rig.server.call("GET", &format!("/api/v1/events/query?order=desc{cursor}"), &rig.acme, None);
    assert_eq!(answer.status, 400, "{}", answer.text());
    // Whoever only writes reads nothing.
    assert_eq!(rig.server.call("GET", "/api/v1/rejects", &hex(ACME), None).status, 403);
}

fn all_cores_numbers_are_one_exposition(io: Io) {
    let rig = Rig::new(io, &["--syslog-udp=127.0.0.1:0", "--syslog-workspace=2"]);
    // Enough connections that both cores have some.
    let mut senders: Vec<_> = (0..8).map(|_| rig.connect("tcp")).collect();
    for (index, sender) in senders.iter_mut().enumerate() {
        sender.send(&frame(ACME, &format!("e{index}"), 0..3, 10));
        sender.send(&framed(&[0xff; 40]));
    }
    senders.into_iter().for_each(|sender| sender.finish());
    let event = json!({ "event_type": "a.b", "entity_id": "e", "payload": {} });
    assert_eq!(rig.server.call("POST", "/api/v1/events", &hex(ACME), Some(&event)).status, 200);
    let answer = rig.server.call("GET", "/metrics", "", None);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    check_exposition(&text);
    for (name, value) in [
        ("ringlog_source_events_total{source=\"tcp\"}", 24),
        ("ringlog_source_batches_total{source=\"tcp\"}", 8),
        ("ringlog_source_connections_total{source=\"tcp\"}", 8),
        ("ringlog_source_events_total{source=\"api\"}", 1),
        ("ringlog_shards_read_only", 0),
        ("ringlog_udp_kernel_drops_total", 0),
    ] {
        assert_eq!(sample(&text, name), value, "{name}: {text}");
    }
    assert!(text.contains("ringlog_udp_kernel_drops_total 0\n"));
    assert!(text.lines().any(|line| line.starts_with("ringlog_rejected_total{source=\"tcp\"") && line.ends_with(" 8")));
    // These numbers are of all tenants.
    for (key, status) in [(rig.acme.as_str(), 403), (&hex(ACME), 403), ("nonsense", 401), (BOOTSTRAP, 200)] {
        assert_eq!(rig.server.call("GET", "/metrics", key, None).status, status, "{key}");
    }
    let mut client = rig.server.connect();
    client.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.7\r\n\r\n");
    assert_eq!(client.answer().status, 401);
}

/// The grammar of the format, as far as it is used: comments before samples, each family once, names and labels of the
/// right letters, values that are whole numbers.
fn check_exposition(text: &str) {
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        let first = name.chars().next().unwrap_or('0');
        !first.is_ascii_digit() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let mut families: Vec<(&str, &str)> = Vec::new();
    let mut helped = None;
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty(), "{line}");
            helped = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take(), Some(name), "{line}");
            assert!(["counter", "gauge"].contains(&kind) && families.iter().all(|(known, _)| *known != name), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            families.push((name, kind));
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<u64>().is_ok(), "{line}");
            let (name, labels) = match sample.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (sample, ""),
            };
            assert_eq!(families.last().map(|(name, _)| *name), Some(name), "{line}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
                assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
            }
            assert!(!samples.contains(&sample), "{line}");
            samples.push(sample);
        }
    }
    assert!(families.iter().any(|(name, _)| *name == "ringlog_build_info"));
}
