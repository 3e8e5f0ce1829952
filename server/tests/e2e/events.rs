//! Writing: single events, batches, versions, and what is stored of what was sent.

use serde_json::{Value, json};

use crate::harness::{Io, Server};
use crate::on_both;

on_both! {
    an_event_can_be_read_as_soon_as_it_is_answered,
    versions_count_per_entity_and_guard_writes,
    a_batch_is_stored_as_a_whole_or_not_at_all,
    payloads_come_back_as_they_were_sent,
    events_that_break_a_rule_are_refused_by_name,
    large_and_chunked_bodies_are_taken,
}

fn event(event_type: &str, entity: &str, payload: Value) -> Value {
    json!({ "event_type": event_type, "entity_id": entity, "payload": payload })
}

fn count(server: &Server, key: &str) -> u64 {
    server.get("/api/v1/events/query", key)["count"].as_u64().unwrap()
}

fn an_event_can_be_read_as_soon_as_it_is_answered(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("reader");
    let mut client = server.connect();
    for number in 1..=50 {
        let entity = format!("order-{number}");
        let stored = client.call("POST", "/api/v1/events", &key, Some(&event("order.paid", &entity, json!(number))));
        assert_eq!(stored.status, 200, "{}", stored.text());
        let stored = stored.json();
        let read = client.call("GET", &format!("/api/v1/events/query?entity_id={entity}"), &key, None).json();
        assert_eq!(read["count"], 1);
        let found = &read["events"][0];
        assert_eq!(found["id"], stored["event_id"]);
        assert_eq!(found["timestamp"], stored["timestamp"]);
        assert_eq!(found["version"], stored["version"]);
        assert_eq!(found["position"], number);
        assert_eq!(found["tenant_id"], "onboard-reader-at-example-com");
    }
}

fn versions_count_per_entity_and_guard_writes(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("versions");
    for expected in 1..=3 {
        let stored = server.post("/api/v1/events", &key, &event("a.b", "one", json!(null)));
        assert_eq!(stored["version"], expected);
    }
    assert_eq!(server.post("/api/v1/events", &key, &event("a.b", "two", json!(null)))["version"], 1);

    let guarded = |entity: &str, version: u64| {
        let mut body = event("a.b", entity, json!(version));
        body["expected_version"] = json!(version);
        server.call("POST", "/api/v1/events", &key, Some(&body))
    };
    assert_eq!(guarded("one", 3).json()["version"], 4);
    assert_eq!(guarded("three", 0).json()["version"], 1);
    for (entity, expected, current) in [("one", 3, 4), ("one", 9, 4), ("three", 0, 1), ("four", 1, 0)] {
        let refused = guarded(entity, expected);
        assert_eq!(refused.status, 409);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let body = refused.json();
        assert_eq!(body["error"], "version_conflict");
        assert_eq!(body["expected_version"], expected);
        assert_eq!(body["current_version"], current);
        assert_eq!(body["status"], 409);
        assert_eq!(body["retryable"], false);
    }
    assert_eq!(count(&server, &key), 6);
}

fn a_batch_is_stored_as_a_whole_or_not_at_all(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("batches");
    let events: Vec<_> = (0..5).map(|number| event("a.b", "one", json!(number))).collect();
    let stored = server.post("/api/v1/events/batch", &key, &json!({ "events": events }));
    assert_eq!((&stored["total"], &stored["ingested"]), (&json!(5), &json!(5)));
    let versions: Vec<_> = stored["events"].as_array().unwrap().iter().map(|event| event["version"].clone()).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5]);

    // The guard of the last counts the ones before it.
    let mut guarded = event("a.b", "one", json!(6));
    guarded["expected_version"] = json!(6);
    let good = json!({ "events": [event("a.b", "one", json!(5)), guarded] });
    assert_eq!(server.post("/api/v1/events/batch", &key, &good)["ingested"], 2);
    let conflict = server.call("POST", "/api/v1/events/batch", &key, Some(&good));
    assert_eq!((conflict.status, conflict.error().as_str()), (409, "version_conflict"));
    assert_eq!((&conflict.json()["expected_version"], &conflict.json()["current_version"]), (&json!(6), &json!(8)));

    let bad = json!({ "events": [event("a.b", "one", json!(8)), event("Not Allowed", "one", json!(9))] });
    let refused = server.call("POST", "/api/v1/events/batch", &key, Some(&bad));
    assert_eq!((refused.status, refused.error().as_str()), (400, "invalid_event"));
    assert_eq!(count(&server, &key), 7);
}

fn payloads_come_back_as_they_were_sent(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("payloads");
    // Byte for byte: numbers beyond doubles, doubled keys, odd spacing, escapes.
    let payloads = [
        "null",
        "\"text \\u00e9 \\\"quoted\\\" \u{1f980}\"",
        "123456789012345678901234567890.00",
        "{ \"b\" : 1,\n \"a\" : [ ] , \"b\" : 2 }",
        "[[[[{}]]]]",
    ];
    let mut client = server.connect();
    for (number, payload) in payloads.iter().enumerate() {
        let body = format!(
            "{{\"event_type\":\"a.b\",\"entity_id\":\"e-{number}\",\"payload\":{payload},\"metadata\":{{\"n\": {number}}}}}"
        );
        client.send(
            format!(
                "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nX-API-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        let stored = client.answer();
        assert_eq!(stored.status, 200, "{}", stored.text());
        let read = client.call("GET", &format!("/api/v1/events/query?entity_id=e-{number}"), &key, None).text();
        assert!(read.contains(&format!("\"payload\":{payload},\"timestamp\"")), "{read}");
        assert!(read.contains(&format!("\"metadata\":{{\"n\": {number}}}")), "{read}");
    }
}

fn events_that_break_a_rule_are_refused_by_name(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("rules");
    let cases = [
        ("{\"event_type\":\"a.b\",\"entity_id\":\"e\",\"payload\":1", 400, "invalid_json"),
        ("{\"event_type\":\"a.b\",\"entity_id\":\"e\",\"payload\":01}", 400, "invalid_json"),
        ("{\"event_type\":\"a.b\",\"payload\":1}", 400, "invalid_event"),
        ("{\"event_type\":\"A.B\",\"entity_id\":\"e\",\"payload\":1}", 400, "invalid_event"),
        ("{\"event_type\":\"a..b\",\"entity_id\":\"e\",\"payload\":1}", 400, "invalid_event"),
        ("{\"event_type\":\"a.b\",\"entity_id\":\"\",\"payload\":1}", 400, "invalid_event"),
        (
            "{\"event_type\":\"a.b\",\"entity_id\":\"e\",\"payload\":1,\"tenant_id\":\"default\"}",
            403,
            "tenant_forbidden",
        ),
    ];
    let mut client = server.connect();
    for (body, status, word) in cases {
        client.send(
            format!(
                "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
                 Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        let refused = client.answer();
        assert_eq!((refused.status, refused.error().as_str()), (status, word), "{body}: {}", refused.text());
    }
    assert_eq!(count(&server, &key), 0);
}

fn large_and_chunked_bodies_are_taken(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("large");
    let text = "x".repeat(700 * 1024);
    let stored = server.post("/api/v1/events", &key, &event("a.large", "one", json!(text)));
    assert_eq!(stored["version"], 1);
    let events: Vec<_> = (0..2_000).map(|number| event("a.small", &format!("e-{number}"), json!(number))).collect();
    assert_eq!(server.post("/api/v1/events/batch", &key, &json!({ "events": events }))["ingested"], 2_000);

    let body = event("a.chunked", "two", json!("y".repeat(50_000))).to_string();
    let mut client = server.connect();
    client.send(
        format!(
            "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .as_bytes(),
    );
    for chunk in body.as_bytes().chunks(7_000) {
        client.send(format!("{:x}\r\n", chunk.len()).as_bytes());
        client.send(chunk);
        client.send(b"\r\n");
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.answer().json()["version"], 1);

    let found = server.get("/api/v1/events/query?event_type=a.large", &key);
    assert_eq!(found["events"][0]["payload"], text);
    assert_eq!(count(&server, &key), 2_002);
}
