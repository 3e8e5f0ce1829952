//! HTTP/1.1 as it comes over a real socket: refusals that end the connection, order, and methods.

use serde_json::json;

use crate::harness::{Io, Server};
use crate::http::request;
use crate::on_both;

on_both! {
    broken_requests_are_answered_and_then_closed,
    refused_requests_leave_the_connection_usable,
    a_body_waits_for_continue_and_comes_only_when_it_is_wanted,
    ten_pipelined_requests_are_answered_in_order,
    head_and_options_say_what_get_and_post_would,
    health_needs_no_key,
    http_1_0_and_close_are_honoured,
}

fn broken_requests_are_answered_and_then_closed(io: Io) {
    let server = Server::new(io);
    let head = |line: &str, headers: &str| format!("{line}\r\nHost: h\r\n{headers}\r\n");
    let get = |headers: &str| head("GET /health HTTP/1.1", headers);
    let post = |headers: &str| head("POST /api/v1/onboard/start HTTP/1.1", headers);
    let cases = [
        ("no host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", get("Host: h\r\n"), 400),
        ("bare line feeds", "GET /health HTTP/1.1\nHost: h\n\n".to_owned(), 400),
        ("space before the colon", get("X-A : 1\r\n"), 400),
        ("folded header", get("X-A: 1\r\n 2\r\n"), 400),
        ("a control byte", get("X-A: \u{1}\r\n"), 400),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n"), 400),
        ("a signed length", post("Content-Length: +2\r\n"), 400),
        ("length and chunks", post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("unknown coding", post("Transfer-Encoding: gzip, chunked\r\n"), 400),
        ("a broken chunk", post("Transfer-Encoding: chunked\r\n") + "zz\r\n", 400),
        ("no request at all", "hello\r\n\r\n".to_owned(), 400),
        ("unknown method", head("BREW /health HTTP/1.1", ""), 501),
        ("a later version", head("GET /health HTTP/2.0", ""), 505),
        ("a long line", head(&format!("GET /{} HTTP/1.1", "x".repeat(9_000)), ""), 414),
        ("a long header", get(&format!("X-A: {}\r\n", "x".repeat(17_000))), 431),
        ("many headers", get(&"X-A: 1\r\n".repeat(65)), 431),
        ("a long control body", post("Content-Type: application/json\r\nContent-Length: 70000\r\n"), 413),
    ];
    for (what, bytes, status) in cases {
        let mut client = server.connect();
        client.send(bytes.as_bytes());
        let answer = client.answer();
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert!(answer.json()["request_id"].is_string(), "{what}");
        assert!(client.is_closed(), "{what}");
    }
    assert_eq!(server.call("GET", "/health", "", None).status, 200);
}

fn refused_requests_leave_the_connection_usable(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("refused");
    let mut client = server.connect();
    let body = json!({ "event_type": "a.b", "entity_id": "e", "payload": null });
    let missing = client.call("GET", "/api/v1/nothing", &key, None);
    assert_eq!((missing.status, missing.error().as_str()), (404, "not_found"));
    let method = client.call("DELETE", "/api/v1/events", &key, None);
    assert_eq!((method.status, method.error().as_str()), (405, "method_not_allowed"));
    assert!(method.header("Allow").unwrap().contains("POST"));
    assert_eq!(client.call("POST", "/api/v1/events/query", &key, Some(&body)).status, 405);

    let text = body.to_string();
    let mut typed = |extra: &str| {
        client.send(
            format!(
                "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{extra}\
                 Content-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .as_bytes(),
        );
        client.answer()
    };
    assert_eq!(typed("Content-Type: text/plain\r\n").status, 415);
    assert_eq!(typed("Content-Encoding: br\r\n").status, 415);
    let stored = typed("Content-Type: application/json\r\n");
    assert_eq!((stored.status, &stored.json()["version"]), (200, &json!(1)));
    assert_eq!(client.call("POST", "/api/v1/events", "nonsense", Some(&body)).status, 401);
    assert_eq!(client.call("GET", "/api/v1/events/query", &key, None).json()["count"], 1);
}

fn a_body_waits_for_continue_and_comes_only_when_it_is_wanted(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("continue");
    let body = json!({ "event_type": "a.b", "entity_id": "e", "payload": null }).to_string();
    let head = |key: &str| {
        format!(
            "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            body.len()
        )
    };
    let mut client = server.connect();
    client.send(head(&key).as_bytes());
    assert_eq!(client.answer().status, 100);
    client.send(body.as_bytes());
    assert_eq!(client.answer().status, 200);

    let mut client = server.connect();
    client.send(head("nonsense").as_bytes());
    assert_eq!(client.answer().status, 401);
    let mut client = server.connect();
    client.send(head(&key).replace("100-continue", "magic").as_bytes());
    assert_eq!(client.answer().status, 417);
}

fn ten_pipelined_requests_are_answered_in_order(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("pipeline");
    let mut bytes = Vec::new();
    for number in 0..10 {
        let body = json!({ "event_type": "a.b", "entity_id": format!("e-{number}"), "payload": number });
        bytes.extend(request("POST", "/api/v1/events", &key, Some(&body)));
    }
    for number in 0..10 {
        // Each write is judged by what the one before it stored; a query sees what is durable when its turn comes.
        let body = json!({ "event_type": "a.b", "entity_id": "last", "payload": number, "expected_version": number });
        bytes.extend(request("POST", "/api/v1/events", &key, Some(&body)));
        bytes.extend(request("GET", "/api/v1/events/query?entity_id=last", &key, None));
    }
    let mut client = server.connect();
    client.send(&bytes);
    for _ in 0..10 {
        assert_eq!(client.answer().json()["version"], 1);
    }
    for number in 1..=10 {
        assert_eq!(client.answer().json()["version"], number);
        assert!(client.answer().json()["count"].as_u64().unwrap() <= 10);
    }
}

fn head_and_options_say_what_get_and_post_would(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("methods");
    let mut client = server.connect();
    let full = client.call("GET", "/health", "", None);
    let head = client.call("HEAD", "/health", "", None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-type"), full.header("content-type"));
    assert!(head.header("content-length").is_some() || head.header("transfer-encoding").is_some());
    let head = client.call("HEAD", "/api/v1/events/query", &key, None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(client.call("HEAD", "/nothing", "", None).status, 404);

    for (path, methods) in [("/api/v1/events", "POST"), ("/api/v1/events/query", "GET"), ("/health", "HEAD")] {
        let options = client.call("OPTIONS", path, "", None);
        assert_eq!((options.status, options.body.len()), (204, 0), "{path}");
        assert!(options.header("Allow").unwrap().contains(methods), "{path}: {options:?}");
    }
    assert_eq!(client.call("GET", "/health", "", None).status, 200);
}

fn health_needs_no_key(io: Io) {
    let server = Server::new(io);
    let health = server.get("/health", "");
    assert_eq!(health["status"], "healthy");
    assert!(health["version"].is_string());
    assert_eq!(server.call("GET", "/ready", "", None).status, 200);
    let answer = server.call("GET", "/health", "", None);
    assert!(answer.header("X-Request-Id").is_some());
}

fn http_1_0_and_close_are_honoured(io: Io) {
    let server = Server::new(io);
    for bytes in ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"] {
        let mut client = server.connect();
        client.send(bytes.as_bytes());
        assert_eq!(client.answer().status, 200);
        assert!(client.is_closed());
    }
    let mut client = server.connect();
    client.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let kept = client.answer();
    assert_eq!(kept.status, 200);
    if kept.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")) {
        assert_eq!(client.call("GET", "/health", "", None).status, 200);
    }
}
