//! The sources over HTTP, as their published clients use them: what they sent is queried back, and what was refused is
//! in the rejects.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::Response;
use crate::on_both;

on_both! {
    what_the_second_seeds_sdks_send_is_stored_and_found,
    bad_lines_are_named_and_kept_as_rejects,
    keys_come_in_four_places_and_the_first_one_counts,
    packed_bodies_are_read_and_bombs_are_not,
    a_binary_batch_needs_its_own_key,
    opentelemetry_exporters_get_what_they_understand,
    shippers_never_get_a_207,
    browsers_are_told_that_they_may,
    a_batch_may_come_as_lines,
}

pub const KEY: &str = "000102030405060708090a0b0c0d0e0f";
const OTHER: &str = "feed1e11feed1e11feed1e11feed1e11";
pub const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";

/// Tenant 1 has the key, tenant 2 the other.
fn start(io: Io) -> Server {
    let place = Place::new(io);
    std::fs::write(place.path("keys.conf"), format!("{KEY}:1:golden\n")).unwrap();
    let server = place.start(&["--cores=2", "--keys-file=keys.conf", &format!("--bootstrap-key={BOOTSTRAP}")]);
    assert_eq!(server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": "other" }))).status, 201);
    std::fs::write(server.path("keys.conf"), format!("{KEY}:1:golden\n{OTHER}:2:other\n")).unwrap();
    let begun = std::time::Instant::now();
    while post(&server, "/v1/events", &[&bearer(OTHER)], br#"{"type":"track","user_id":"u"}"#).status != 202 {
        assert!(begun.elapsed().as_secs() < 20, "{}", server.log());
    }
    server
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}")
}

fn send(server: &Server, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if method == "POST" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut client = server.connect();
    client.send(&[format!("{head}\r\n").as_bytes(), body].concat());
    client.answer()
}

fn post(server: &Server, path: &str, headers: &[&str], body: &[u8]) -> Response {
    send(server, "POST", path, headers, body)
}

fn refused(answer: &Response) -> (u16, String) {
    (answer.status, answer.error())
}

/// As the operator reads it: a streaming key reads nothing.
pub fn page(server: &Server, path: &str, tenant: &str) -> Vec<Value> {
    let answer = send(server, "GET", path, &[&bearer(BOOTSTRAP), &format!("X-Tenant-ID: {tenant}")], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list = if path.starts_with("/api/v1/rejects") { "rejects" } else { "events" };
    answer.json()[list].as_array().unwrap().clone()
}

fn events(server: &Server) -> Vec<Value> {
    page(server, "/api/v1/events/query?limit=1000", "default")
}

/// Nobody waits for a reject to be stored: it is asked for until it shows. Oldest first.
fn rejects(server: &Server, count: usize) -> Vec<Value> {
    let begun = std::time::Instant::now();
    loop {
        let found = page(server, "/api/v1/rejects?limit=100&sort=asc", "default");
        if found.len() == count {
            return found;
        }
        assert!(found.len() < count && begun.elapsed().as_secs() < 20, "{found:?}");
    }
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A golden request: its head's lines and its body.
fn golden(name: &str) -> (String, Vec<String>, Vec<u8>) {
    let text = String::from_utf8(data(&format!("lines/{name}"))).unwrap().replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().replace(OTHER, KEY);
    let is_ours = |line: &&str| !line.starts_with("Host") && !line.starts_with("Content-Length");
    let headers = lines.filter(is_ours).map(|line| line.replace(OTHER, KEY)).collect();
    (path, headers, body.trim_end_matches('\n').as_bytes().to_vec())
}

fn what_the_second_seeds_sdks_send_is_stored_and_found(io: Io) {
    let server = start(io);
    let mut expected = 0;
    for name in ["browser_events.http", "browser_logs.http", "node_events.http"] {
        let (path, headers, body) = golden(name);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = post(&server, &path, &headers, &body);
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!((answer.status, &answer.json()["accepted"]), (202, &json!(lines)), "{name}: {}", answer.text());
        expected += lines;
    }
    let events = events(&server);
    assert_eq!(events.len(), expected);
    let of_type =
        |name: &str| events.iter().find(|event| event["event_type"] == name).unwrap_or_else(|| panic!("{name}"));
    let clicked = of_type("Button Clicked");
    assert_eq!((&clicked["payload"]["button"], &clicked["payload"]["utm_source"]), (&json!("signup"), &json!("x")));
    assert_eq!(clicked["metadata"]["service"], "shop.example");
    assert_eq!(clicked["metadata"]["source_kind"], "http");
    assert_eq!(of_type("context")["payload"]["browser"], "Chrome");
    let order = of_type("Order Completed");
    assert_eq!((&order["entity_id"], &order["payload"]["amount"]), (&json!("user_123"), &json!(9.99)));
    assert_eq!(of_type("log")["payload"]["message"], "Checkout started");
    // Nothing of it is anywhere else.
    assert_eq!(page(&server, "/api/v1/events/query", "other").len(), 1);
}

fn bad_lines_are_named_and_kept_as_rejects(io: Io) {
    let server = start(io);
    let body = concat!(
        r#"{"type":"track","event":"good","user_id":"u1"}"#,
        "\n\n",
        r#"{"type":"track","event":"bad","device_id":"zz"}"#,
        "\nnonsense\n",
        r#"{"type":"track","event":"good","user_id":"u2"}"#
    );
    let answer = post(&server, "/v1/events", &[&bearer(KEY), "X-Request-ID: req-of-mine"], body.as_bytes());
    let told = answer.json();
    assert_eq!((answer.status, &told["accepted"], &told["rejected"]), (207, &json!(2), &json!(2)), "{told}");
    assert_eq!((&told["errors"][0]["line"], &told["errors"][1]["line"]), (&json!(3), &json!(4)));
    assert_eq!(events(&server).len(), 2);

    let answer = post(&server, "/v1/events", &[&bearer(KEY)], b"nonsense");
    assert_eq!(refused(&answer), (400, "parse_error".to_owned()));
    assert_eq!(refused(&post(&server, "/v1/logs", &[&bearer(KEY)], b" \n")), (400, "empty_body".to_owned()));

    let rejects = rejects(&server, 3);
    assert_eq!((&rejects[0]["reason"], &rejects[0]["source"]), (&json!("device_id"), &json!("http")));
    assert_eq!(rejects[0]["request_id"], "req-of-mine");
    assert_eq!(rejects[0]["sample"], r#"{"type":"track","event":"bad","device_id":"zz"}"#);
    assert_eq!((&rejects[1]["reason"], &rejects[1]["sample"]), (&json!("not_an_object"), &json!("nonsense")));
    assert!(rejects.iter().all(|reject| reject["key_id"] == rejects[0]["key_id"] && reject["count"] == 1));
    let key_id = rejects[0]["key_id"].as_str().unwrap();
    assert!(key_id.strip_prefix("key_").unwrap().parse::<u64>().is_ok(), "{key_id}");
    assert!(page(&server, "/api/v1/rejects", "other").is_empty());
    // They are durable, and count against no quota.
    let usage = send(&server, "GET", "/api/v1/usage", &[&bearer(BOOTSTRAP), "X-Tenant-ID: default"], b"").json();
    assert_eq!(usage["usage"]["events_per_month"]["used"], 2, "{usage}");
    let server = server.kill().start(&["--cores=2", "--keys-file=keys.conf", &format!("--bootstrap-key={BOOTSTRAP}")]);
    assert_eq!(page(&server, "/api/v1/rejects?reason=not_an_object&source=http", "default").len(), 2);
    assert_eq!(events(&server).len(), 2);
}

fn keys_come_in_four_places_and_the_first_one_counts(io: Io) {
    let server = start(io);
    let line = br#"{"type":"track","event":"e","user_id":"u"}"#;
    let status = |path: &str, headers: &[&str]| post(&server, path, headers, line).status;
    let (good, api, bare) = (bearer(KEY), format!("X-API-Key: {KEY}"), format!("Authorization: {KEY}"));
    let by_token = format!("/v1/events?token={KEY}");
    for (path, headers) in [
        ("/v1/events", vec![good.as_str()]),
        ("/v1/events", vec![bare.as_str()]),
        ("/v1/events", vec![api.as_str()]),
        (by_token.as_str(), vec![]),
        (by_token.as_str(), vec!["X-API-Key: 000102030405060708090a0b0c0d0e0f"]),
        ("/v1/events?token=nonsense", vec![good.as_str()]),
    ] {
        assert_eq!(status(path, &headers), 202, "{path} {headers:?}");
    }
    for (path, headers) in [
        ("/v1/events", vec![]),
        ("/v1/events", vec!["Authorization: Bearer nonsense", api.as_str()]),
        (by_token.as_str(), vec!["X-API-Key: nonsense"]),
        ("/v1/events?token=nonsense", vec![]),
        // Only this surface takes a key out of the address.
        ("/ingest/ndjson?token=000102030405060708090a0b0c0d0e0f", vec![]),
    ] {
        assert_eq!(status(path, &headers), 401, "{path} {headers:?}");
    }
    assert!(!server.log().contains(KEY));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed_bodies_are_read_and_bombs_are_not(io: Io) {
    let server = start(io);
    let line = br#"{"type":"track","event":"e","user_id":"u"}"#;
    let zstd = zstd::encode_all(&line[..], 1).unwrap();
    for (coding, body) in [("gzip", gzip(line)), ("zstd", zstd), ("identity", line.to_vec())] {
        let answer = post(&server, "/v1/events", &[&bearer(KEY), &format!("Content-Encoding: {coding}")], &body);
        assert_eq!(answer.status, 202, "{coding}: {}", answer.text());
    }
    let event = br#"{"event_type":"a.b","entity_id":"e","payload":{}}"#;
    let json = "Content-Type: application/json";
    let answer = post(&server, "/api/v1/events", &[&bearer(KEY), json, "Content-Encoding: gzip"], &gzip(event));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(events(&server).len(), 4);

    let bomb = gzip(&vec![b' '; 17 << 20]);
    let answer = post(&server, "/v1/events", &[&bearer(KEY), "Content-Encoding: gzip"], &bomb);
    assert_eq!(refused(&answer), (413, "payload_too_large".to_owned()));
    let answer = post(&server, "/v1/events", &[&bearer(KEY), "Content-Encoding: br"], line);
    assert_eq!(answer.status, 415, "{}", answer.text());
    let cut = &gzip(line)[..20];
    assert_eq!(post(&server, "/v1/events", &[&bearer(KEY), "Content-Encoding: gzip"], cut).status, 400);
    assert_eq!(events(&server).len(), 4);
}

fn a_binary_batch_needs_its_own_key(io: Io) {
    let server = start(io);
    // As it goes over TCP, its length first.
    let frame = data("frames/event.bin");
    let body = &frame[4..];
    let flat = "Content-Type: application/x-flatbuffers";
    let answer = post(&server, "/v1/ingest", &[&bearer(KEY), flat], body);
    assert_eq!((answer.status, &answer.json()["accepted"]), (202, &json!(1)), "{}", answer.text());
    let stored = &events(&server)[0];
    assert_eq!((&stored["event_type"], &stored["entity_id"]), (&json!("Sign Up"), &json!("u1")));
    assert_eq!(stored["payload"], json!({ "user_id": "u1", "plan": "pro" }));

    let refusal = |headers: &[&str], body: &[u8]| refused(&post(&server, "/v1/ingest", headers, body));
    assert_eq!(refusal(&[&bearer(OTHER), flat], body), (403, "api_key_mismatch".to_owned()));
    assert_eq!(refusal(&[&bearer(KEY), "Content-Type: text/plain"], body), (415, "unsupported_media_type".to_owned()));
    assert_eq!(refusal(&[&bearer(KEY), flat], &body[..40]), (400, "invalid_flatbuffer".to_owned()));
    assert_eq!(refusal(&[&bearer(KEY), flat], b""), (400, "invalid_flatbuffer".to_owned()));
    assert_eq!(events(&server).len(), 1);
    assert!(rejects(&server, 2).iter().all(|reject| reject["source"] == "http_frame"));
}

fn opentelemetry_exporters_get_what_they_understand(io: Io) {
    let server = start(io);
    let (protobuf, json) = ("Content-Type: application/x-protobuf", "Content-Type: application/json");
    let (pb, text) = (data("otlp/python_sdk.pb"), data("otlp/python_sdk.json"));
    for (path, content_type, body) in
        [("/otlp/v1/logs", protobuf, &pb), ("/v1/logs", protobuf, &pb), ("/otlp/v1/logs", json, &text)]
    {
        let answer = post(&server, path, &[&bearer(KEY), content_type], body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("Content-Type"), Some(&content_type["Content-Type: ".len()..]));
    }
    let stored = events(&server);
    assert!(stored.len().is_multiple_of(3) && !stored.is_empty());
    assert!(stored.iter().all(|event| event["metadata"]["source_kind"] == "otlp"), "{stored:?}");

    // A refusal is a Status in the request's own encoding.
    let answer = post(&server, "/otlp/v1/logs", &[protobuf], &pb);
    assert_eq!((answer.status, answer.header("Content-Type")), (401, Some("application/x-protobuf")));
    let answer = post(&server, "/otlp/v1/logs", &[&bearer(KEY), json], b"{\"resourceLogs\":7}");
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{}", answer.text());
    assert_eq!(post(&server, "/otlp/v1/logs", &[&bearer(KEY), "Content-Type: text/plain"], b"x").status, 415);
    // Nothing in it is nothing to wait for.
    assert_eq!(post(&server, "/otlp/v1/logs", &[&bearer(KEY), protobuf], b"").status, 200);
}

fn shippers_never_get_a_207(io: Io) {
    let server = start(io);
    let body = concat!(
        r#"{"message":"one","host":"web-1","timestamp":"2026-01-02T03:04:05.678Z"}"#,
        "\nnonsense\n",
        r#"{"message":"two","host":"web-1","date":1767323045.5}"#,
        "\n"
    );
    let answer = post(&server, "/ingest/ndjson?type=app.log", &[&bearer(KEY)], body.as_bytes());
    let told = answer.json();
    assert_eq!((answer.status, &told["accepted"], &told["rejected"]), (200, &json!(2), &json!(1)), "{told}");
    let stored = events(&server);
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|event| event["event_type"] == "app.log" && event["entity_id"] == "web-1"), "{stored:?}");
    assert_eq!(rejects(&server, 1)[0]["source"], "shipper");
}

fn browsers_are_told_that_they_may(io: Io) {
    let server = start(io);
    let origin = "Origin: https://shop.example";
    let line = br#"{"type":"track","event":"e","user_id":"u"}"#;
    let path = format!("/v1/events?token={KEY}");
    for (path, body, status) in [(path.as_str(), &line[..], 202), ("/v1/events", line, 401), (path.as_str(), b"", 400)]
    {
        let answer = post(&server, path, &[origin, "Content-Type: text/plain"], body);
        assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (status, Some("*")), "{path}");
    }
    let asks = [origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-api-key"];
    let answer = send(&server, "OPTIONS", "/v1/events", &asks, b"");
    assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (204, Some("*")));
    assert!(answer.header("Access-Control-Allow-Headers").unwrap().to_ascii_lowercase().contains("x-api-key"));
}

fn a_batch_may_come_as_lines(io: Io) {
    let server = start(io);
    let body = concat!(
        r#"{"event_type":"a.b","entity_id":"e1","payload":{}}"#,
        "\n",
        r#"{"event_type":"a.b","entity_id":"e2","payload":{}}"#,
        "\n"
    );
    let lines = "Content-Type: application/x-ndjson";
    let answer = post(&server, "/api/v1/events/batch", &[&bearer(KEY), lines], body.as_bytes());
    assert_eq!((answer.status, &answer.json()["ingested"]), (200, &json!(2)), "{}", answer.text());
    let answer = post(&server, "/api/v1/events/batch", &[&bearer(KEY), lines], format!("{body}nonsense").as_bytes());
    assert_eq!((answer.status, &answer.json()["event_index"]), (400, &json!(2)), "{}", answer.text());
    assert_eq!(post(&server, "/api/v1/events", &[&bearer(KEY), lines], body.as_bytes()).status, 415);
    assert_eq!(events(&server).len(), 2);
}
