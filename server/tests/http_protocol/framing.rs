//! Where a request begins and ends, and what is refused because two readers could disagree about it.
//!
//! Every vector is followed by a canary request and fed whole, byte by byte, and split at every place. What is sound
//! must leave the canary as the next request; what is not must end the connection before it.

use proptest::prelude::*;
use ringlog_server::net::http1::Action;

use crate::peer::Peer;

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: h\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    requests: Vec<(String, Vec<u8>)>,
    statuses: Vec<u16>,
    ended: Option<Action>,
}

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut peer = Peer::new();
    for piece in pieces {
        peer.feed(piece);
    }
    // An interim answer goes out or not, depending on whether its body was there already.
    let statuses = peer.statuses().into_iter().filter(|&status| status != 100).collect();
    let ended = peer.ended;
    Outcome { requests: peer.seen.into_iter().map(|seen| (seen.line, seen.body)).collect(), statuses, ended }
}

/// The outcome, which must not depend on the splitting.
fn outcome(vector: &[u8]) -> Outcome {
    let bytes = [vector, CANARY].concat();
    let whole = run([&bytes[..]]);
    assert_eq!(run(bytes.chunks(1)), whole, "byte by byte: {}", vector.escape_ascii());
    let step = bytes.len() / 400 + 1;
    for split in (1..bytes.len()).step_by(step) {
        let (first, second) = bytes.split_at(split);
        assert_eq!(run([first, second]), whole, "split at {split}: {}", vector.escape_ascii());
    }
    whole
}

#[track_caller]
fn accepts(vector: impl AsRef<[u8]>, line: &str, body: &[u8]) {
    let vector = vector.as_ref();
    let outcome = outcome(vector);
    let expected = [(line.to_owned(), body.to_vec()), ("GET /canary".to_owned(), Vec::new())];
    assert_eq!(outcome.requests, expected, "{}", vector.escape_ascii());
    assert_eq!((outcome.statuses, outcome.ended), (vec![200, 200], None), "{}", vector.escape_ascii());
}

#[track_caller]
fn refuses(status: u16, vector: impl AsRef<[u8]>) {
    let vector = vector.as_ref();
    let outcome = outcome(vector);
    let expected = Outcome { requests: Vec::new(), statuses: vec![status], ended: Some(Action::ShutdownWrite) };
    assert_eq!(outcome, expected, "{}", vector.escape_ascii());
}

/// A GET with these header lines, each with its own line end.
fn get(headers: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}")
}

fn target(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn line_ends_are_crlf_and_nothing_else() {
    refuses(400, "GET /a HTTP/1.1\nHost: h\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\n\r\n");
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\r\n\n");
    refuses(400, "GET /a HTTP/1.1\nHost: h\n\n");
    refuses(400, "\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, "\rGET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1\rHost: h\r\n\r\n");
    refuses(400, get("A: b\rC: d\r\n"));
    refuses(400, get("A: b\r\r\n"));
    refuses(400, get("A\r: b\r\n"));
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\r\n\rX");
    refuses(400, "GET\r\n /a HTTP/1.1\r\nHost: h\r\n\r\n");
}

#[test]
fn two_empty_lines_may_come_first() {
    accepts(get(""), "GET /a", b"");
    accepts(format!("\r\n{}", get("")), "GET /a", b"");
    accepts(format!("\r\n\r\n{}", get("")), "GET /a", b"");
    refuses(400, format!("\r\n\r\n\r\n{}", get("")));
    refuses(400, format!("\r\n \r\n{}", get("")));
}

#[test]
fn the_method_is_one_of_a_list() {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        accepts(format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n"), &format!("{method} /a"), b"");
    }
    for method in ["get", "TRACE", "CONNECT", "BREW", "GETT", "GE", "G'T"] {
        refuses(501, format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    for method in ["", "G(T", "G\"T", "{"] {
        refuses(400, format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    refuses(400, [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[0x55; 64]].concat());
    refuses(400, [&b"G\xc3\x89T /a HTTP/1.1\r\nHost: h\r\n\r\n"[..]].concat());
}

#[test]
fn the_version_is_1_0_or_1_1() {
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP/2", "HTTP/3"] {
        refuses(505, format!("GET /a {version}\r\nHost: h\r\n\r\n"));
    }
    refuses(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for version in
        ["http/1.1", "HTTP/1.1x", "HTTP/1,1", "HTTP/11", "HTTP/1.", "HTTP/", "FTP/1.1", "HTTP/1.10", "HTTP1.1"]
    {
        refuses(400, format!("GET /a {version}\r\nHost: h\r\n\r\n"));
    }
    refuses(400, "GET /a\r\nHost: h\r\n\r\n");
    refuses(400, "GET /a \r\nHost: h\r\n\r\n");
    refuses(400, "GET\r\nHost: h\r\n\r\n");
    refuses(400, "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, "GET /a  HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1 \r\nHost: h\r\n\r\n");
    refuses(400, "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, "GET\t/a\tHTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, " GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
}

#[test]
fn the_target_is_a_path_or_a_url_of_this_host() {
    accepts(target("/"), "GET /", b"");
    accepts(target("/a/b.c/..d/e../.../%41?x=/../%00&y=\\"), "GET /a/b.c/..d/e../.../%41?x=/../%00&y=\\", b"");
    accepts(target("/a?"), "GET /a?", b"");
    accepts(target("/a?b?c"), "GET /a?b?c", b"");
    accepts(target("http://h/a?b"), "GET /a?b", b"");
    accepts(target("HTTPS://H/a"), "GET /a", b"");
    accepts(target("http://h"), "GET /", b"");
    accepts(target("http://h?b"), "GET /?b", b"");
    accepts("GET http://h:80/a HTTP/1.1\r\nHost: h:80\r\n\r\n", "GET /a", b"");
    for refused in
        ["http://other/a", "http://h:80/a", "http://user@h/a", "http:///a", "http://", "ftp://h/a", "h/a", "*", "h:80"]
    {
        refuses(400, target(refused));
    }
    refuses(400, "GET http://a,b/ HTTP/1.1\r\nHost: a,b\r\n\r\n");
    refuses(400, "GET http://h/a HTTP/1.0\r\n\r\n");
}

#[test]
fn a_path_is_what_it_says() {
    for refused in [
        "/..",
        "/../a",
        "/a/..",
        "/a/../b",
        "/%2e%2e",
        "/a/.%2E/b",
        "/a/%2e./b",
        "/..?x",
        "/%00",
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a%5cb",
        "/a\\b",
        "/%",
        "/%4",
        "/%zz",
        "/%4g",
        "/a%%",
        "/a#b",
        "/a?b#c",
    ] {
        refuses(400, target(refused));
    }
    refuses(400, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, b"GET /a?\xff HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, b"GET /a\x00b HTTP/1.1\r\nHost: h\r\n\r\n");
    refuses(400, b"GET /a\x7fb HTTP/1.1\r\nHost: h\r\n\r\n");
}

#[test]
fn the_host_is_named_exactly_once() {
    accepts("GET /a HTTP/1.1\r\nhOsT:h.example:3900\r\n\r\n", "GET /a", b"");
    accepts("GET /a HTTP/1.1\r\nHost: [::1]:3900\r\n\r\n", "GET /a", b"");
    refuses(400, "GET /a HTTP/1.1\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1\r\nA: b\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n");
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\nhost: i\r\n\r\n");
    refuses(400, "GET /a HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n");
    for host in ["", "a b", "a,b", "a/b", "user@h", "a?b", "h#", "a\"b", "a\tb"] {
        refuses(400, format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
}

#[test]
fn a_length_is_one_plain_number() {
    accepts(post("Content-Length: 5\r\n", "hello"), "POST /a", b"hello");
    accepts(post("Content-Length:5\r\n", "hello"), "POST /a", b"hello");
    accepts(post("Content-Length: \t 5 \t \r\n", "hello"), "POST /a", b"hello");
    accepts(post("content-LENGTH: 00005\r\n", "hello"), "POST /a", b"hello");
    accepts(post("Content-Length: 0\r\n", ""), "POST /a", b"");
    accepts(post("", ""), "POST /a", b"");
    accepts(
        post("Content-Length: 36\r\n", "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n\r"),
        "POST /a",
        b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n\r",
    );
    for refused in [
        "+5",
        "-5",
        "-0",
        "5,5",
        "5, 5",
        "5 5",
        "0x5",
        "5.0",
        "5e0",
        "",
        "five",
        "5;",
        "\"5\"",
        "9007199254740993",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        refuses(400, post(&format!("Content-Length: {refused}\r\n"), "hello"));
    }
    refuses(400, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"));
    refuses(400, post("Content-Length: 5\r\nA: b\r\ncontent-length: 6\r\n", "hello"));
    refuses(400, post("Content-Length: 0\r\nContent-Length: 0\r\n", ""));
    // The largest that is a length at all is too long here.
    refuses(413, post("Content-Length: 9007199254740992\r\n", "hello"));
    refuses(413, post("Content-Length: 16777217\r\n", "hello"));
}

#[test]
fn the_only_transfer_coding_is_chunked() {
    accepts(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), "POST /a", b"hello");
    accepts(
        post("transfer-encoding:chunked \r\n", "5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nT: u\r\n\r\n"),
        "POST /a",
        b"hello!",
    );
    accepts(post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), "POST /a", b"");
    for refused in [
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, identity",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "xchunked",
        "Chunked",
        "chunked;q=1",
        "\"chunked\"",
        "",
        "chunke",
    ] {
        refuses(400, post(&format!("Transfer-Encoding: {refused}\r\n"), "0\r\n\r\n"));
    }
    refuses(400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
    refuses(400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"));
    refuses(400, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"));
    refuses(400, post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
    refuses(400, "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    refuses(400, post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"));
    refuses(400, post("Transfer_Encoding: chunked\r\n", "0\r\n\r\n"));
    refuses(400, post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"));
}

#[test]
fn a_broken_chunk_ends_the_connection() {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for body in [
        "\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "g\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "0\r\nBad Trailer: x\r\n\r\n",
        "0\r\n x\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
    ] {
        refuses(400, chunked(body));
    }
    refuses(413, chunked("1000001\r\n"));
    refuses(413, chunked("ffffffffffffffff\r\n"));
    refuses(400, chunked(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(256))));
    refuses(400, chunked(&"0000000000000001\r\nx\r\n".repeat(100)));
}

#[test]
fn header_names_and_values_are_clean() {
    accepts(get("A: \t b\tc \r\nEmpty:\r\nX!#$%&'*+-.^`|~1: \"\u{e9}\"\r\n"), "GET /a", b"");
    for refused in [
        "A : b\r\n",
        "A\t: b\r\n",
        ": b\r\n",
        "A\r\n",
        "A b: c\r\n",
        " A: b\r\n",
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        "A_b: c\r\n",
        "X_Tenant_ID: a\r\n",
        "A: \x00\r\n",
        "A: \x01\r\n",
        "A: \x0b\r\n",
        "A: \x1f\r\n",
        "A: \x7f\r\n",
        "A(b): c\r\n",
        "A\u{e9}: c\r\n",
        "=: c\r\n",
        "\"A\": b\r\n",
    ] {
        refuses(400, get(refused));
    }
    refuses(400, "GET /a HTTP/1.1\r\n Host: h\r\n\r\n");
}

#[test]
fn what_says_who_asks_or_what_the_body_is_stands_once() {
    for name in [
        "Authorization",
        "X-API-Key",
        "X-Tenant-ID",
        "X-Workspace-ID",
        "Content-Type",
        "Content-Encoding",
        "Idempotency-Key",
    ] {
        accepts(get(&format!("{name}: a\r\n")), "GET /a", b"");
        refuses(400, get(&format!("{name}: a\r\n{name}: a\r\n")));
        refuses(400, get(&format!("{name}:\r\n{}: a\r\n", name.to_lowercase())));
    }
    accepts(
        get("Accept: a\r\nAccept: b\r\nIf-None-Match: a\r\nIf-None-Match: b\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n"),
        "GET /a",
        b"",
    );
}

#[test]
fn every_method_frames_its_body() {
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"] {
        let length = format!(
            "{method} /a HTTP/1.1\r\nHost: h\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        );
        accepts(length, &format!("{method} /a"), b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        let chunked =
            format!("{method} /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n");
        accepts(chunked, &format!("{method} /a"), b"ab");
    }
    refuses(400, "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab");
}

#[test]
fn expectations_and_upgrades() {
    accepts(post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"), "POST /a", b"hello");
    accepts(post("Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n"), "POST /a", b"x");
    accepts(get("Expect: 100-continue\r\n"), "GET /a", b"");
    refuses(417, post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello"));
    refuses(417, post("Expect: 100-continue, x\r\nContent-Length: 5\r\n", "hello"));
    refuses(417, post("Expect:\r\nContent-Length: 5\r\n", "hello"));
    accepts(get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"), "GET /a", b"");
}

#[test]
fn the_ceilings_of_a_head_hold_on_both_sides() {
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(len - 14));
    for len in [8191, 8192] {
        accepts(line(len), &format!("GET /{}", "a".repeat(len - 14)), b"");
    }
    refuses(414, line(8193));
    refuses(414, "a".repeat(8193));

    // `Host: h` with its line end is 9 bytes, the empty line is 2.
    let block = |len: usize| get(&format!("A: {}\r\n", "b".repeat(len - 16)));
    for len in [16383, 16384] {
        accepts(block(len), "GET /a", b"");
    }
    refuses(431, block(16385));
    refuses(431, format!("GET /a HTTP/1.1\r\n{}", "a".repeat(16385)));

    let count = |count: usize| get(&"A: b\r\n".repeat(count - 1));
    for headers in [63, 64] {
        accepts(count(headers), "GET /a", b"");
    }
    refuses(431, count(65));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_do_not_depend_on_the_splitting(
        kinds in prop::collection::vec((0usize..7, 0usize..3000), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for (kind, size) in kinds {
            let body = "x".repeat(size);
            let request = match kind {
                0 => get(""),
                1 => format!("\r\n{}", get(&format!("A: {body}\r\n"))),
                2 => post(&format!("Content-Length: {size}\r\n"), &body),
                3 if size > 0 => post("Transfer-Encoding: chunked\r\n", &format!("{size:x}\r\n{body}\r\n0\r\nT: u\r\n\r\n")),
                4 => post("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"),
                5 if size % 4 == 0 => "GET /bad HTTP/1.1\nHost: h\r\n\r\n".to_owned(),
                _ => target(&format!("/{size}?q")),
            };
            bytes.extend_from_slice(request.as_bytes());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let whole = run([&bytes[..]]);
        let split = run(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn no_bytes_panic_and_every_refusal_is_an_answer(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::sample::select(vec![
                "GET ", "POST /a ", "/", "HTTP/1.1", "\r\n", "\r\n\r\n", "\n", "\r", "Host: h\r\n", "Content-Length: ", "5", "0", ":", " ",
                "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", ";", "=", "\"", "%", "hello", "Connection: close\r\n", "http://h",
                "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            ]).prop_map(|text: &str| text.as_bytes().to_vec()),
        ], 0..40),
        finish in any::<bool>(),
    ) {
        let bytes = pieces.concat();
        let whole = run([&bytes[..]]);
        let split = run(pieces.iter().map(Vec::as_slice));
        prop_assert_eq!(&whole, &split);
        prop_assert!(whole.statuses.len() >= whole.requests.len());
        let mut peer = Peer::new();
        peer.feed(&bytes);
        if finish {
            peer.eof();
            prop_assert!(peer.ended.is_some());
        }
        while peer.ended != Some(Action::Close) {
            let Some(deadline) = peer.connection.deadline() else { break };
            peer.now_us = peer.now_us.max(deadline);
            match peer.connection.on_deadline(peer.now_us) {
                Action::Close | Action::Abort => break,
                _ => peer.send(),
            }
        }
        prop_assert!(peer.statuses().iter().all(|&status| [100, 200, 400, 408, 413, 414, 417, 431, 501, 505].contains(&status)));
    }
}
