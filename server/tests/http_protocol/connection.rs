//! Order, patience and the end of a connection.

use ringlog_server::limits::{
    BODY_BYTES_MAX, BODY_DEADLINE_US, BODY_GRACE_US, CONNECTION_AGE_US, FIRST_REQUEST_IDLE_US, HEADER_DEADLINE_US,
    KEEP_ALIVE_IDLE_US, LINGER_BYTES_MAX, LINGER_US, PIPELINE_DEPTH_MAX, REQUESTS_PER_CONNECTION_MAX, SECOND_US,
    UNSENT_BYTES_MAX, WRITE_RATE_BYTES_PER_SECOND_MIN, WRITE_STALL_US,
};
use ringlog_server::net::http1::{Action, Decision, Http1, Step};
use ringlog_server::wire::http::{BodyFraming, Version};
use ringlog_server::wire::response::{HeaderValue, Persistence, Response};
use ringlog_server::wire::status::{ErrorCode, Problem};

use crate::peer::{Peer, START_US};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}")
}

fn bodies(peer: &Peer) -> Vec<String> {
    peer.answers().into_iter().map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// A peer that answers when it is told to.
fn slow_peer() -> Peer {
    Peer { answers_at_once: false, ..Peer::new() }
}

fn unauthorized<T>() -> Decision<T> {
    Decision::Reject(Box::new(Problem::new(ErrorCode::Unauthorized, "no such key")))
}

// ----- order -----

#[test]
fn ten_pipelined_requests_get_ten_answers_in_order() {
    let mut peer = Peer::new();
    peer.feed((0..10).map(|number| get(&format!("/{number}"))).collect::<String>().as_bytes());
    assert_eq!(peer.lines(), (0..10).map(|number| format!("GET /{number}")).collect::<Vec<_>>());
    assert_eq!(bodies(&peer), numbers(10));
    assert_eq!(peer.ended, None);
}

#[test]
fn answers_leave_in_order_whatever_order_they_are_made_in() {
    for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1], [0, 1, 2, 3]] {
        let mut peer = slow_peer();
        peer.feed(get("/").repeat(4).as_bytes());
        let mut done = [false; 4];
        for index in order {
            let (sequence, reply) = peer.owed[index];
            peer.answer(sequence, &reply);
            peer.send();
            done[index] = true;
            let contiguous = done.iter().take_while(|&&done| done).count();
            assert_eq!(bodies(&peer), numbers(contiguous), "{order:?}");
        }
        assert_eq!(peer.connection.in_flight(), 0);
    }
}

#[test]
fn a_refusal_waits_for_the_answers_before_it() {
    let mut peer = slow_peer();
    peer.feed(format!("{}{}GET /bad HTTP/1.1\nHost: h\r\n\r\n{}", get("/0"), get("/1"), get("/3")).as_bytes());
    assert_eq!(peer.lines(), ["GET /0", "GET /1"]);
    assert!(peer.output.is_empty() && peer.ended.is_none() && !peer.connection.wants_read());
    for (sequence, reply) in std::mem::take(&mut peer.owed).into_iter().rev() {
        peer.answer(sequence, &reply);
    }
    peer.send();
    assert_eq!(peer.statuses(), [200, 200, 400]);
    assert_eq!(peer.ended, Some(Action::ShutdownWrite));
    assert_eq!(peer.connection.take_refusal(), Some(ErrorCode::BadFraming));
}

#[test]
fn reading_stops_at_the_pipelining_depth_and_goes_on_below_it() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(150).as_bytes());
    assert_eq!(peer.seen.len(), PIPELINE_DEPTH_MAX);
    assert!(!peer.connection.wants_read() && !peer.connection.has_backlog());
    let mut answered = 0;
    while !peer.owed.is_empty() {
        let (sequence, reply) = peer.owed.remove(0);
        peer.answer(sequence, &reply);
        peer.send();
        answered += 1;
        if peer.connection.has_backlog() {
            peer.feed(b"");
        }
        assert!(peer.connection.in_flight() <= PIPELINE_DEPTH_MAX);
    }
    assert_eq!(answered, 150);
    assert_eq!(bodies(&peer), numbers(150));
    assert!(peer.connection.wants_read() && !peer.connection.has_backlog());
}

#[test]
fn reading_stops_while_the_client_does_not_take_its_answers() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(3).as_bytes());
    peer.connection.complete(0, &vec![b'x'; UNSENT_BYTES_MAX]);
    assert!(peer.connection.wants_read());
    peer.connection.complete(2, b"y");
    assert!(!peer.connection.wants_read());
    peer.step_all(get("/later").as_bytes(), |_, _| panic!("nothing is read now"));
    let output = peer.connection.take_output(START_US).unwrap();
    assert!(!peer.connection.wants_read(), "what is being sent is unsent");
    peer.connection.on_sent(output, START_US);
    assert!(peer.connection.wants_read() && peer.connection.has_backlog());
    peer.feed(b"");
    assert_eq!(peer.seen.last().unwrap().line, "GET /later");
}

#[test]
fn a_streamed_answer_keeps_its_place() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(3).as_bytes());
    let (_, reply) = peer.owed[1];
    let mut head = Vec::new();
    let chunks = Response::begin(&mut head, 200, &reply).chunked();
    let piece = |text: &[u8]| {
        let mut out = Vec::new();
        chunks.push(&mut out, text);
        out
    };
    assert!(!peer.connection.can_stream(1));
    peer.connection.stream(1, &head, false);
    peer.connection.complete(2, b"[2]");
    peer.connection.complete(0, b"[0]");
    assert!(peer.connection.can_stream(1));
    peer.connection.stream(1, &piece(b"hello"), false);
    peer.send();
    peer.connection.stream(1, &piece(b"world"), false);
    let mut end = Vec::new();
    chunks.end(&mut end);
    peer.connection.stream(1, &end, true);
    peer.send();
    let expected = [b"[0]", &head[..], b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n[2]"].concat();
    assert_eq!(peer.output, expected, "{}", peer.output.escape_ascii());
    assert_eq!(peer.connection.in_flight(), 0);
}

// ----- memory -----

#[test]
fn a_request_that_arrives_whole_is_not_copied() {
    let bytes = [get("/first").into_bytes(), post("Content-Length: 5\r\n", "hello").into_bytes()].concat();
    let mut connection = Http1::new(1, START_US);
    let mut input = &bytes[..];
    let mut count = 0;
    while let Step::Request(request) =
        connection.step(&mut input, START_US, |_, _| Decision::Accept { body_bytes_max: 5, context: () })
    {
        count += 1;
        assert!(bytes.as_ptr_range().contains(&request.head.path().as_ptr()));
        assert!(request.body.is_empty() || bytes.as_ptr_range().contains(&request.body.as_ptr()));
    }
    assert_eq!(count, 2);
}

#[test]
fn a_large_body_is_received_straight_into_its_memory() {
    for len in [32 * 1024 + 1, 3_000_000, BODY_BYTES_MAX] {
        let mut peer = Peer::new();
        let body: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
        let head = post(&format!("Content-Length: {len}\r\n"), "");
        let (early, mut late) = body.split_at(100);
        peer.feed(&[head.as_bytes(), early].concat());
        let mut rounds = 0;
        while let Some(wanted) = peer.connection.wants_direct() {
            let mut buffer = peer.connection.take_buffer();
            assert!(wanted <= buffer.capacity() - buffer.len());
            assert!(peer.connection.wants_direct().is_none() && !peer.connection.wants_read(), "one receive at a time");
            let before = buffer.as_ptr();
            // A socket delivers less than it is asked for.
            let (piece, rest) = late.split_at((wanted / 2 + 1).min(late.len()));
            buffer.extend_from_slice(piece);
            assert_eq!(buffer.as_ptr(), before);
            late = rest;
            peer.connection.give_buffer(buffer);
            peer.feed(b"");
            rounds += 1;
        }
        assert!(late.is_empty() && rounds < 60, "{rounds}");
        assert_eq!(peer.seen.len(), 1);
        assert!(peer.seen[0].body == body);
        peer.feed(get("/next").as_bytes());
        assert_eq!(peer.lines(), ["POST /a", "GET /next"]);
    }
    let mut peer = Peer::new();
    peer.feed(post("Content-Length: 32768\r\n", "").as_bytes());
    assert_eq!(peer.connection.wants_direct(), None, "small bodies come through provided buffers");
}

#[test]
fn a_declared_length_reserves_little() {
    let mut peer = Peer::new();
    peer.feed(post(&format!("Content-Length: {BODY_BYTES_MAX}\r\n"), "").as_bytes());
    assert!(peer.connection.take_buffer().capacity() <= 1_100_000);
}

// ----- the decision between head and body -----

#[test]
fn the_head_is_judged_before_the_body_is_asked_for() {
    let head = post("Expect: 100-continue\r\nContent-Length: 5\r\nAuthorization: Bearer x\r\n", "");
    let mut peer = Peer::new();
    let mut asked = 0;
    peer.feed_deciding(head.as_bytes(), |head, _| {
        asked += 1;
        assert_eq!(head.authorization(), Some(&b"Bearer x"[..]));
        assert_eq!(head.framing(), BodyFraming::Length(5));
        Decision::Accept { body_bytes_max: 5, context: 42 }
    });
    assert_eq!(peer.output, b"HTTP/1.1 100 Continue\r\n\r\n");
    peer.feed(b"hello");
    assert_eq!((asked, peer.seen[0].body.as_slice()), (1, &b"hello"[..]));
    assert_eq!(peer.statuses(), [100, 200]);

    let mut peer = Peer::new();
    peer.feed_deciding(head.as_bytes(), |_, _| unauthorized());
    assert_eq!(peer.statuses(), [401]);
    assert_eq!(peer.ended, Some(Action::ShutdownWrite));
    assert!(peer.seen.is_empty());
}

#[test]
fn an_interim_answer_waits_for_its_turn() {
    let mut peer = slow_peer();
    peer.feed(get("/").as_bytes());
    peer.feed(post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "").as_bytes());
    assert!(peer.output.is_empty());
    let (sequence, reply) = peer.owed[0];
    peer.answer(sequence, &reply);
    peer.send();
    assert_eq!(peer.statuses(), [200, 100]);
    peer.feed(b"5\r\nhello\r\n0\r\n\r\n");
    let (sequence, reply) = peer.owed[1];
    peer.answer(sequence, &reply);
    peer.send();
    assert_eq!(peer.statuses(), [200, 100, 200]);
}

#[test]
fn no_interim_answer_when_the_body_is_already_here() {
    let mut peer = Peer::new();
    peer.feed(post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello").as_bytes());
    assert_eq!(peer.statuses(), [200]);
    peer.feed(b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(peer.statuses(), [200], "HTTP/1.0 knows none");
}

#[test]
fn a_connection_survives_a_refused_head_with_a_small_body() {
    for split in [0, 1, 100, 64 * 1024] {
        let len = LINGER_BYTES_MAX;
        let mut peer = Peer::new();
        let body = "GET /x HTTP/1.1\r\n".repeat(len / 16 + 1);
        let body = &body[..len];
        let head = post(&format!("Content-Length: {len}\r\n"), "");
        peer.feed_deciding(&[head.as_bytes(), &body.as_bytes()[..split]].concat(), |_, _| unauthorized());
        peer.feed(&[&body.as_bytes()[split..], get("/next").as_bytes()].concat());
        assert_eq!(peer.statuses(), [401, 200]);
        assert_eq!((peer.lines(), peer.ended), (vec!["GET /next"], None));
    }
    let mut peer = Peer::new();
    peer.feed_deciding(post(&format!("Content-Length: {}\r\n", LINGER_BYTES_MAX + 1), "").as_bytes(), |_, _| {
        unauthorized()
    });
    assert!(peer.answers()[0].head.contains("\r\nConnection: close\r\n"));
    assert_eq!(peer.ended, Some(Action::ShutdownWrite));
}

#[test]
fn a_refused_head_between_others_keeps_its_place() {
    let mut peer = slow_peer();
    let bytes = [get("/a"), post("Content-Length: 5\r\n", "hello"), get("/b")].concat();
    // Half of it first, so that the rest is parsed from kept bytes.
    for piece in bytes.as_bytes().chunks(20) {
        peer.step_all(piece, |head, _| {
            if head.path() == "/a" && head.framing() != BodyFraming::None {
                unauthorized()
            } else {
                Decision::Accept { body_bytes_max: 9, context: 0 }
            }
        });
    }
    assert_eq!(peer.lines(), ["GET /a", "GET /b"]);
    for (sequence, reply) in std::mem::take(&mut peer.owed) {
        peer.answer(sequence, &reply);
    }
    peer.send();
    assert_eq!((peer.statuses(), peer.ended), (vec![200, 401, 200], None));
}

#[test]
fn a_body_may_be_as_long_as_its_route_takes() {
    let check = |body_bytes_max: usize, request: String, status: u16| {
        for whole in [true, false] {
            let mut peer = Peer { body_bytes_max, ..Peer::new() };
            for piece in request.as_bytes().chunks(if whole { request.len() } else { 1 }) {
                peer.feed(piece);
            }
            assert_eq!(peer.statuses(), [status], "{request}");
            if status == 413 {
                let body: serde_json::Value = serde_json::from_slice(&peer.answers()[0].body).unwrap();
                assert_eq!((&body["error"], &body["limit"]), (&"body_too_large".into(), &body_bytes_max.into()));
            }
        }
    };
    for (limit, status) in [(6, 200), (5, 200), (4, 413)] {
        check(limit, post("Content-Length: 5\r\n", "hello"), status);
        check(limit, post("Transfer-Encoding: chunked\r\n", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), status);
    }
    check(0, post("Content-Length: 0\r\n", ""), 200);
}

// ----- persistence -----

#[test]
fn persistence_is_what_version_and_headers_say() {
    let check = |version: &str, connection: &str, persistence: Persistence| {
        let mut peer = slow_peer();
        let header = if connection.is_empty() { String::new() } else { format!("Connection: {connection}\r\n") };
        peer.feed(format!("GET / {version}\r\nHost: h\r\n{header}\r\n{}", get("/next")).as_bytes());
        let (sequence, reply) = peer.owed.remove(0);
        assert_eq!(reply.persistence, persistence, "{version} {connection}");
        peer.answer(sequence, &reply);
        peer.send();
        let head = &peer.answers()[0].head;
        assert_eq!(head.contains("\r\nConnection: close\r\n"), persistence == Persistence::Close);
        assert_eq!(head.contains("\r\nConnection: keep-alive\r\n"), persistence == Persistence::KeepAliveStated);
        if peer.connection.has_backlog() {
            peer.feed(b"");
        }
        assert_eq!(peer.seen.len(), if persistence == Persistence::Close { 1 } else { 2 });
        assert_eq!(peer.ended, (persistence == Persistence::Close).then_some(Action::ShutdownWrite));
    };
    check("HTTP/1.1", "", Persistence::KeepAlive);
    check("HTTP/1.1", "keep-alive", Persistence::KeepAlive);
    check("HTTP/1.1", "close", Persistence::Close);
    check("HTTP/1.1", "x, CLOSE ,y", Persistence::Close);
    check("HTTP/1.1", "keep-alive, close", Persistence::Close);
    check("HTTP/1.1", "closed", Persistence::KeepAlive);
    check("HTTP/1.0", "", Persistence::Close);
    check("HTTP/1.0", "Keep-Alive", Persistence::KeepAliveStated);
    check("HTTP/1.0", "keep-alive, close", Persistence::Close);
}

#[test]
fn an_http_1_0_stream_ends_with_the_connection() {
    let mut peer = slow_peer();
    peer.feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /never HTTP/1.0\r\n\r\n");
    assert_eq!(peer.lines(), ["GET /"]);
    let (sequence, reply) = peer.owed[0];
    let mut out = Vec::new();
    let chunks = Response::begin(&mut out, 200, &reply).chunked();
    chunks.push(&mut out, b"hello");
    peer.connection.stream(sequence, &out, false);
    peer.connection.stream(sequence, b"", true);
    peer.send();
    let text = String::from_utf8_lossy(&peer.output).into_owned();
    assert!(text.contains("\r\nConnection: close\r\n") && text.ends_with("\r\n\r\nhello"), "{text}");
    assert!(!text.contains("keep-alive"), "{text}");
    assert_eq!(peer.ended, Some(Action::ShutdownWrite));
}

#[test]
fn head_is_answered_without_a_body_and_options_like_any_other() {
    let mut peer = Peer::new();
    peer.feed(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
    let text = String::from_utf8(std::mem::take(&mut peer.output)).unwrap();
    assert!(text.ends_with("\r\nContent-Length: 1\r\n\r\n"), "{text}");
    peer.feed(b"OPTIONS /a HTTP/1.1\r\nHost: h\r\nOrigin: http://o\r\n\r\n");
    assert_eq!(peer.lines(), ["HEAD /a", "OPTIONS /a"]);
    assert_eq!(bodies(&peer), ["1"]);
    peer.output.clear();
    peer.feed_deciding(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n", |_, _| unauthorized());
    assert!(peer.output.ends_with(b"\r\n\r\n"), "a refusal to HEAD has no body either");
}

#[test]
fn the_last_request_a_connection_may_send_closes_it() {
    let mut peer = slow_peer();
    let bytes = get("/");
    for number in 1..=REQUESTS_PER_CONNECTION_MAX {
        let before = peer.owed.len();
        peer.step_all(bytes.as_bytes(), |_, _| Decision::Accept { body_bytes_max: 0, context: 0 });
        assert_eq!(peer.owed.len(), before + 1);
        let (sequence, reply) = peer.owed[before];
        assert_eq!(reply.persistence == Persistence::Close, number == REQUESTS_PER_CONNECTION_MAX);
        peer.connection.complete(sequence, b"x");
        let output = peer.connection.take_output(START_US).unwrap();
        peer.connection.on_sent(output, START_US);
        peer.owed.clear();
    }
    assert_eq!(peer.connection.action(START_US), Action::ShutdownWrite);
}

#[test]
fn an_old_connection_is_asked_to_come_again() {
    let mut peer = Peer { now_us: START_US + CONNECTION_AGE_US * 8 / 10, ..Peer::new() };
    peer.feed(get("/").as_bytes());
    assert_eq!(peer.ended, None);
    peer.now_us = START_US + CONNECTION_AGE_US * 11 / 10;
    peer.feed(get("/").as_bytes());
    assert_eq!(peer.ended, Some(Action::ShutdownWrite));
}

#[test]
fn a_leaving_server_finishes_what_was_begun() {
    let mut peer = Peer::new();
    peer.connection.drain();
    assert_eq!(peer.connection.action(START_US), Action::Close, "nothing was begun");

    let mut peer = slow_peer();
    peer.feed(&post("Content-Length: 5\r\n", "hel").into_bytes());
    peer.connection.drain();
    assert_eq!(peer.connection.action(START_US), Action::Continue);
    peer.feed(b"lo");
    let (sequence, reply) = peer.owed[0];
    peer.answer(sequence, &reply);
    peer.send();
    assert_eq!((peer.statuses(), peer.ended), (vec![200], Some(Action::Close)));
}

#[test]
fn request_ids_are_echoed_or_made() {
    let mut peer = Peer::new();
    peer.feed(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: abc-1\r\n\r\n");
    peer.feed(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: not valid\r\n\r\n");
    peer.feed(get("/").as_bytes());
    peer.feed(b"bad\n");
    let ids: Vec<_> = peer
        .answers()
        .iter()
        .map(|answer| answer.head.split("X-Request-Id: ").nth(1).unwrap().lines().next().unwrap().to_owned())
        .collect();
    assert_eq!(ids[0], "abc-1");
    assert!(ids[1..].iter().all(|id| id.starts_with("req_018bcfe56800") && id.len() == 36), "{ids:?}");
    assert!(ids[1] != ids[2] && ids[2] != ids[3]);
    let body: serde_json::Value = serde_json::from_slice(&peer.answers()[3].body).unwrap();
    assert_eq!(body["request_id"], ids[3].as_str());
}

#[test]
fn a_head_says_everything_that_was_sent() {
    let mut connection: Http1<()> = Http1::new(1, START_US);
    let mut input = &b"GET /p%20q?x=1&y=2 HTTP/1.0\r\nhost: h:1\r\nContent-Type: a/b\r\nContent-Encoding: gzip\r\n\
        AUTHORIZATION:  Bearer  x \r\nX-Api-Key: k\r\nX-Request-Id: r\r\nIf-None-Match: \"e\"\r\nAccept: c/d\r\n\
        Idempotency-Key: i\r\nX-Tenant-Id: t\r\nX-Workspace-Id: w\r\nOrigin: o\r\nEmpty:\r\norigin: second\r\n\r\n"[..];
    let Step::Request(request) =
        connection.step(&mut input, START_US, |_, _| Decision::Accept { body_bytes_max: 0, context: () })
    else {
        panic!("one request")
    };
    let head = request.head;
    assert_eq!((head.path(), head.query(), head.version()), ("/p%20q", Some("x=1&y=2"), Version::Http10));
    let some = |text: &'static str| Some(text.as_bytes());
    assert_eq!(head.host(), Some("h:1"));
    assert_eq!((head.content_type(), head.content_encoding()), (some("a/b"), some("gzip")));
    assert_eq!((head.authorization(), head.x_api_key()), (some("Bearer  x"), some("k")));
    assert_eq!((head.x_request_id(), head.if_none_match()), (some("r"), some("\"e\"")));
    assert_eq!((head.accept(), head.idempotency_key()), (some("c/d"), some("i")));
    assert_eq!((head.x_tenant_id(), head.x_workspace_id()), (some("t"), some("w")));
    assert_eq!((head.header("ORIGIN"), head.header("empty"), head.header("none")), (some("o"), some(""), None));
    assert_eq!(head.headers().count(), 14);
}

// ----- deadlines -----

fn expire(peer: &mut Peer) -> Action {
    let deadline_us = peer.connection.deadline().expect("a deadline");
    assert_eq!(peer.connection.on_deadline(deadline_us - 1), Action::Continue, "one microsecond early");
    peer.now_us = deadline_us;
    let action = peer.connection.on_deadline(deadline_us);
    peer.send();
    action
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let mut peer = Peer::new();
    assert_eq!(peer.connection.deadline(), Some(START_US + FIRST_REQUEST_IDLE_US));
    assert_eq!(expire(&mut peer), Action::Close);
    assert!(peer.output.is_empty());

    let mut peer = Peer::new();
    peer.now_us += 3 * SECOND_US;
    peer.feed(get("/").as_bytes());
    assert_eq!(peer.connection.deadline(), Some(peer.now_us + KEEP_ALIVE_IDLE_US));
    peer.connection.set_idle_limit(15 * SECOND_US);
    assert_eq!(peer.connection.deadline(), Some(peer.now_us + 15 * SECOND_US));
    assert_eq!(expire(&mut peer), Action::Close);
    assert_eq!(peer.statuses(), [200]);
}

#[test]
fn a_trickling_head_gets_408_ten_seconds_after_its_first_byte() {
    let mut peer = Peer::new();
    peer.now_us += SECOND_US;
    let first_us = peer.now_us;
    for byte in get("/").as_bytes()[..20].chunks(1) {
        peer.feed(byte);
        peer.now_us += SECOND_US / 4;
        assert_eq!(peer.connection.deadline(), Some(first_us + HEADER_DEADLINE_US));
    }
    assert_eq!(expire(&mut peer), Action::Continue);
    assert_eq!((peer.statuses(), peer.ended), (vec![408], Some(Action::ShutdownWrite)));
}

#[test]
fn work_in_flight_has_no_deadline_of_the_connection() {
    let mut peer = slow_peer();
    peer.feed(get("/").as_bytes());
    assert_eq!(peer.connection.deadline(), None);
    // But a head that begins behind it has.
    peer.feed(b"GET");
    assert_eq!(expire(&mut peer), Action::Continue);
    assert!(peer.output.is_empty());
    let (sequence, reply) = peer.owed[0];
    peer.answer(sequence, &reply);
    peer.send();
    assert_eq!(peer.statuses(), [200, 408]);
}

#[test]
fn a_head_is_not_late_while_nothing_is_read() {
    let mut peer = slow_peer();
    peer.feed(format!("{}GET", get("/").repeat(PIPELINE_DEPTH_MAX)).as_bytes());
    assert_eq!(peer.connection.deadline(), None);
    peer.now_us += 100 * SECOND_US;
    let (sequence, reply) = peer.owed.remove(0);
    peer.answer(sequence, &reply);
    peer.send();
    assert!(peer.connection.has_backlog());
    peer.feed(b"");
    assert!(!peer.connection.has_backlog());
    assert_eq!(peer.connection.deadline(), Some(peer.now_us + HEADER_DEADLINE_US));
    peer.feed(&get("/last").as_bytes()[3..]);
    assert_eq!(peer.seen.last().unwrap().line, "GET /last");
}

#[test]
fn a_body_must_keep_a_pace() {
    for framing in ["Content-Length: 10000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut peer = Peer::new();
        peer.feed(post(framing, "").as_bytes());
        assert_eq!(peer.connection.deadline(), Some(START_US + BODY_GRACE_US));
        peer.feed(b"989680\r\n");
        // 40 KiB are worth ten seconds.
        peer.feed(&[b'x'; 40 * 1024 - 8]);
        assert_eq!(peer.connection.deadline(), Some(START_US + 10 * SECOND_US));
        peer.feed(&[b'x'; 1024 * 1024]);
        assert_eq!(peer.connection.deadline(), Some(START_US + BODY_DEADLINE_US));
        assert_eq!(expire(&mut peer), Action::Continue);
        assert_eq!((peer.statuses(), peer.ended), (vec![408], Some(Action::ShutdownWrite)));
        assert!(peer.seen.is_empty());
    }
}

#[test]
fn a_body_that_is_late_while_its_buffer_is_out_is_refused_all_the_same() {
    let mut peer = Peer::new();
    peer.feed(post("Content-Length: 100000\r\n", "").as_bytes());
    let mut buffer = peer.connection.take_buffer();
    assert_eq!(expire(&mut peer), Action::Continue);
    assert_eq!(peer.statuses(), [408]);
    buffer.extend_from_slice(b"late");
    peer.connection.give_buffer(buffer);
    peer.feed(b"");
    assert!(peer.seen.is_empty());
    assert_eq!(expire_linger(&mut peer), Action::Close);
}

fn expire_linger(peer: &mut Peer) -> Action {
    assert_eq!(peer.connection.deadline(), Some(peer.now_us + LINGER_US));
    expire(peer)
}

#[test]
fn a_send_without_progress_aborts() {
    let mut peer = slow_peer();
    peer.feed(get("/").as_bytes());
    peer.connection.complete(0, b"0123456789");
    let output = peer.connection.take_output(START_US).unwrap();
    assert_eq!(peer.connection.deadline(), Some(START_US + WRITE_STALL_US));
    peer.connection.on_send_progress(5, START_US + SECOND_US);
    assert_eq!(peer.connection.deadline(), Some(START_US + SECOND_US + WRITE_STALL_US));
    assert_eq!(peer.connection.on_deadline(START_US + SECOND_US + WRITE_STALL_US), Action::Abort);
    assert_eq!(peer.connection.take_output(START_US), None);
    drop(output);
}

#[test]
fn a_long_send_has_the_time_that_a_slow_client_needs() {
    let mut peer = slow_peer();
    peer.feed(get("/").as_bytes());
    peer.connection.complete(0, &vec![b'x'; UNSENT_BYTES_MAX + 3 * WRITE_RATE_BYTES_PER_SECOND_MIN as usize]);
    let _output = peer.connection.take_output(START_US).unwrap();
    let deadline_us = START_US + WRITE_STALL_US + 3 * SECOND_US;
    assert_eq!(peer.connection.deadline(), Some(deadline_us));
    assert_eq!(peer.connection.on_deadline(deadline_us - 1), Action::Continue);
    assert_eq!(peer.connection.on_deadline(deadline_us), Action::Abort);
}

// ----- the end -----

#[test]
fn after_a_refusal_a_little_is_read_for_a_little_while() {
    let refused = || {
        let mut peer = Peer::new();
        peer.feed(b"bad\n");
        assert_eq!(peer.ended, Some(Action::ShutdownWrite));
        assert!(peer.connection.wants_read());
        peer
    };
    let mut peer = refused();
    assert_eq!(expire_linger(&mut peer), Action::Close);

    let mut peer = refused();
    peer.feed(&vec![b'x'; LINGER_BYTES_MAX]);
    assert_eq!(peer.connection.action(peer.now_us), Action::Continue);
    peer.feed(b"x");
    assert_eq!(peer.connection.action(peer.now_us), Action::Close);

    let mut peer = refused();
    peer.eof();
    assert_eq!(peer.connection.action(peer.now_us), Action::Close);
    assert_eq!(peer.statuses(), [400]);
}

#[test]
fn a_client_that_stops_sending_still_gets_its_answers() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(3).as_bytes());
    peer.eof();
    assert!(peer.ended.is_none() && !peer.connection.wants_read());
    for (sequence, reply) in std::mem::take(&mut peer.owed) {
        peer.answer(sequence, &reply);
    }
    peer.send();
    assert_eq!((peer.statuses(), peer.ended), (vec![200; 3], Some(Action::Close)));
}

#[test]
fn the_backlog_of_a_client_that_stops_sending_is_answered_too() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(150).as_bytes());
    peer.eof();
    while !peer.owed.is_empty() {
        let (sequence, reply) = peer.owed.remove(0);
        peer.answer(sequence, &reply);
        peer.send();
        if peer.connection.has_backlog() {
            peer.feed(b"");
        }
    }
    assert_eq!((bodies(&peer), peer.ended), (numbers(150), Some(Action::Close)));
}

#[test]
fn half_a_request_is_nobodys() {
    let whole = post("Content-Length: 5\r\n", "hello");
    for len in 0..whole.len() {
        let mut peer = Peer::new();
        peer.feed(&whole.as_bytes()[..len]);
        peer.eof();
        assert!(peer.seen.is_empty() && peer.output.is_empty());
        assert_eq!(peer.ended, Some(Action::Close), "{len}");
    }
    let mut peer = Peer::new();
    peer.feed(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n").as_bytes());
    peer.eof();
    assert_eq!((peer.seen.len(), peer.ended), (0, Some(Action::Close)));
}

#[test]
fn an_answer_to_an_aborted_connection_goes_nowhere() {
    let mut peer = slow_peer();
    peer.feed(get("/").repeat(2).as_bytes());
    peer.connection.complete(0, b"x");
    let _output = peer.connection.take_output(START_US);
    assert_eq!(peer.connection.on_deadline(START_US + WRITE_STALL_US), Action::Abort);
    peer.connection.complete(1, b"y");
    peer.connection.stream(1, b"y", true);
    assert_eq!(peer.connection.take_output(START_US), None);
}

#[test]
fn an_idle_connection_can_give_its_memory_back() {
    let mut peer = Peer::new();
    for piece in post("Content-Length: 9000\r\n", &"x".repeat(9000)).as_bytes().chunks(1000) {
        peer.feed(piece);
    }
    peer.connection.trim();
    peer.feed(get("/").as_bytes());
    assert_eq!(peer.statuses(), [200, 200]);
}

#[test]
fn a_header_is_added_to_its_own_answer_wherever_that_is_written() {
    let mut peer = Peer::new();
    peer.answers_at_once = false;
    peer.feed(
        b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    let owed = std::mem::take(&mut peer.owed);
    for (sequence, _) in &owed[..2] {
        let value = HeaderValue::new(format!("of {sequence}")).unwrap();
        peer.connection.add_header(*sequence, "Own", &value);
    }
    // The last first: answers wait in their places, with what belongs to them.
    for (sequence, reply) in owed.iter().rev() {
        peer.answer(*sequence, reply);
    }
    peer.send();
    let answers = peer.answers();
    assert_eq!(peer.statuses(), [200, 200, 200]);
    for (answer, (sequence, _)) in answers.iter().zip(&owed[..2]) {
        assert!(answer.head.starts_with(&format!("HTTP/1.1 200 OK\r\nOwn: of {sequence}\r\n")), "{}", answer.head);
        assert_eq!(answer.body, sequence.to_string().as_bytes());
    }
    assert!(!answers[2].head.contains("Own"), "{}", answers[2].head);
}

#[test]
fn a_header_is_added_to_a_stream_once_and_behind_an_interim_answer() {
    let mut peer = Peer::new();
    peer.answers_at_once = false;
    peer.feed(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    peer.feed(b"x");
    let (sequence, reply) = peer.owed.remove(0);
    peer.connection.add_header(sequence, "Own", &HeaderValue::from_static("x"));
    let mut piece = Vec::new();
    let chunks = Response::begin(&mut piece, 200, &reply).chunked();
    chunks.push(&mut piece, b"one");
    peer.connection.stream(sequence, &piece, false);
    piece.clear();
    chunks.push(&mut piece, b"two\nthree");
    chunks.end(&mut piece);
    peer.connection.stream(sequence, &piece, true);
    peer.send();
    let text = String::from_utf8(peer.output.clone()).unwrap();
    let rest = text
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nOwn: x\r\n")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(!rest.contains("Own") && rest.ends_with("3\r\none\r\n9\r\ntwo\nthree\r\n0\r\n\r\n"), "{text}");
}
