//! Heads and chunked bodies: the outcome does not depend on where the network cuts, and `httparse` reads what is accepted the
//! same way.

use std::collections::BTreeSet;

use ringlog_server::wire::chunked::ChunkDecoder;
use ringlog_server::wire::http::{BodyFraming, Head, HeadLimits, HeadScan, HttpError, parse_extent, parse_head};

use crate::frame::golden_folder;
use crate::mutate::cuts;
use crate::run::{Check, Target, leave, mark, size};

pub const HEAD: Target = Target {
    name: "http_head",
    corpus: heads,
    words: &[
        b"\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"HTTP/1.0",
        b"Host: h\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: close, keep-alive\r\n",
        b"Expect: 100-continue\r\n",
        b"Authorization: Bearer x\r\n",
        b"http://h:1",
        b"%00",
        b"/../",
        b"?a=b",
        b" ",
        b"\t",
        b"\n",
        b":",
    ],
    mend: leave,
    checker: head_checker,
};

pub const CHUNKED: Target = Target {
    name: "http_chunked",
    corpus: chunked,
    words: &[
        b"\r\n",
        b"0\r\n\r\n",
        b"1\r\na\r\n",
        b";a=b",
        b";a=\"b\\\"\"",
        b"ffffffffffffffff\r\n",
        b"A: b\r\n",
        b"\n",
    ],
    mend: leave,
    checker: chunked_checker,
};

fn heads() -> Vec<Vec<u8>> {
    let mut heads: Vec<Vec<u8>> = golden_folder("lines").into_iter().map(|(_, request)| request).collect();
    // As the files are kept, and as they are sent.
    let sent: Vec<_> = heads
        .iter()
        .map(|head| String::from_utf8_lossy(head).replace("\r\n", "\n").replace('\n', "\r\n").into_bytes())
        .collect();
    heads.extend(sent);
    heads.extend(
        [
            "GET /api/v1/events/query?entity_id=a%20b&limit=1 HTTP/1.1\r\nHost: h:80\r\nX-API-Key: k\r\nX-Tenant-ID: t\r\n\r\n",
            "POST http://h/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nIdempotency-Key: \"a\"\r\n\r\n",
            "\r\nHEAD / HTTP/1.0\r\nConnection: Keep-Alive\r\nIf-None-Match: \"x\"\r\nAccept:\r\n\r\n",
            "DELETE /api/v1/auth/me HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Encoding: gzip\r\nX-Request-ID: r\r\n\r\n",
        ]
        .map(|head| head.as_bytes().to_vec()),
    );
    heads
}

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// All that a head says.
#[derive(Debug, PartialEq)]
struct Said {
    end: usize,
    method: &'static str,
    path: String,
    query: Option<String>,
    host: Option<String>,
    keep_alive: bool,
    expects: bool,
    framing: BodyFraming,
    headers: Headers,
}

fn said(head: &Head<'_>, end: usize) -> Said {
    Said {
        end,
        method: head.method().as_str(),
        path: head.path().to_owned(),
        query: head.query().map(str::to_owned),
        host: head.host().map(str::to_owned),
        keep_alive: head.keep_alive(),
        expects: head.expect_continue(),
        framing: head.framing(),
        headers: head.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Said>, HttpError> {
    Ok(parse_head(bytes, &HeadLimits::SERVER)?.map(|(head, end)| said(&head, end)))
}

/// As a connection reads it: the end is looked for over several arrivals, the head is parsed once.
fn parse_in_pieces(bytes: &[u8]) -> Result<Option<Said>, HttpError> {
    let mut scan = HeadScan::default();
    for cut in cuts(bytes) {
        if let Some(extent) = scan.advance(&bytes[..cut], &HeadLimits::SERVER)? {
            let head = parse_extent(&bytes[..cut], extent, &HeadLimits::SERVER)?;
            return Ok(Some(said(&head, extent.end)));
        }
    }
    Ok(None)
}

fn head_checker() -> Check {
    Box::new(|input| {
        let whole = parse(input);
        assert_eq!(whole, parse_in_pieces(input));
        match whole {
            Ok(None) => mark(size(input.len())),
            Err(error) => mark((error.code.as_str(), error.message)),
            Ok(Some(said)) => {
                // Nothing behind the end matters, and without its last byte it is not there.
                assert_eq!(parse(&input[..said.end]).as_ref(), Ok(&Some(parse(input).unwrap().unwrap())));
                assert_eq!(parse(&input[..said.end - 1]), Ok(None));
                agrees_with_httparse(input, &said);
                let framing = std::mem::discriminant(&said.framing);
                mark((
                    said.method,
                    said.keep_alive,
                    said.expects,
                    framing,
                    said.query.is_some(),
                    size(said.headers.len()),
                ))
            }
        }
    })
}

/// No cut of it, and nothing behind it: the fuzz target has those.
#[test]
fn every_wrong_byte_of_a_golden_head_is_refused_or_read_as_another_reads_it() {
    let mut outcomes = [0; 2];
    // As they are sent: files that end their lines as text files do are no heads.
    let whole = |head: Vec<u8>| parse(&head).ok()?.map(|said| head[..said.end].to_vec());
    let goldens: BTreeSet<Vec<u8>> = heads().into_iter().filter_map(whole).collect();
    assert_eq!(goldens.len(), 7);
    for golden in goldens {
        let mut changed = golden.clone();
        for place in 0..golden.len() {
            for value in (0..=u8::MAX).filter(|&value| value != golden[place]) {
                changed[place] = value;
                match parse(&changed) {
                    Ok(Some(said)) => {
                        agrees_with_httparse(&changed, &said);
                        outcomes[0] += 1;
                    }
                    Ok(None) | Err(_) => outcomes[1] += 1,
                }
            }
            changed[place] = golden[place];
        }
    }
    assert!(outcomes.iter().all(|&count| count > 50_000), "{outcomes:?}");
}

fn agrees_with_httparse(input: &[u8], said: &Said) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(input), Ok(httparse::Status::Complete(said.end)));
    assert_eq!(request.method, Some(said.method));
    let found: Headers = request.headers.iter().map(|header| (header.name.into(), header.value.into())).collect();
    assert_eq!(found, said.headers);
    let target = request.path.unwrap();
    let ours = format!("{}{}", said.path, said.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default());
    assert!(target.ends_with(&ours) || target.starts_with("http"), "{target} is not {ours}");

    let all = |name: &str| -> Vec<String> {
        let is = |header: &&(Vec<u8>, Vec<u8>)| header.0.eq_ignore_ascii_case(name.as_bytes());
        said.headers.iter().filter(is).map(|header| String::from_utf8_lossy(&header.1).into_owned()).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match said.framing {
        BodyFraming::Chunked => {
            assert!(lengths.is_empty());
            assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"), "{codings:?}");
        }
        BodyFraming::Length(length) => {
            assert!(codings.is_empty());
            assert_eq!(lengths, [length.to_string()].map(|_| lengths[0].clone()));
            assert_eq!(lengths[0].parse(), Ok(length));
        }
        BodyFraming::None => {
            assert!(codings.is_empty());
            assert!(lengths.iter().all(|length| length.parse() == Ok(0)), "{lengths:?}");
        }
    }
}

fn chunked() -> Vec<Vec<u8>> {
    [
        &b"5\r\nhello\r\n0\r\n\r\n"[..],
        b"3;a=b;c=\"d\\\"e\"\r\nabc\r\n00a\r\n0123456789\r\n0;x\r\nTrailer: a\r\nOther: b\r\n\r\nGET / HTTP/1.1\r\n",
        b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n1\r\ne\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

const PAYLOAD_BYTES_MAX: usize = 4096;

/// How much was taken, and whether the message ended within.
fn decode(input: &[u8], pieces: &[usize], payload: &mut Vec<u8>) -> Result<(usize, bool), HttpError> {
    let mut decoder = ChunkDecoder::new(PAYLOAD_BYTES_MAX);
    let (mut taken, mut from) = (0, 0);
    for &cut in pieces {
        let now = decoder.decode(&input[from..cut], payload)?;
        assert!(now == cut - from || decoder.is_done());
        taken += now;
        from = cut;
        if decoder.is_done() {
            break;
        }
    }
    Ok((taken, decoder.is_done()))
}

fn chunked_checker() -> Check {
    Box::new(|input| {
        let (mut whole, mut pieced) = (Vec::new(), Vec::new());
        let outcome = decode(input, &[input.len()], &mut whole);
        assert_eq!(outcome, decode(input, &cuts(input), &mut pieced));
        assert!(whole.len() <= PAYLOAD_BYTES_MAX);
        assert_eq!(whole, pieced);
        match outcome {
            Err(error) => mark((error.message, size(whole.len()))),
            Ok((taken, is_done)) => {
                assert!(taken <= input.len());
                if is_done {
                    assert_eq!(payload_by_httparse(input), whole);
                    assert!(input[..taken].ends_with(b"\r\n"));
                }
                mark((is_done, size(whole.len()), size(input.len() - taken)))
            }
        }
    })
}

fn payload_by_httparse(input: &[u8]) -> Vec<u8> {
    let (mut payload, mut rest) = (Vec::new(), input);
    loop {
        let Ok(httparse::Status::Complete((at, length))) = httparse::parse_chunk_size(rest) else {
            panic!("no size in {rest:?}");
        };
        let length = length as usize;
        payload.extend_from_slice(&rest[at..at + length]);
        if length == 0 {
            return payload;
        }
        assert_eq!(&rest[at + length..at + length + 2], b"\r\n");
        rest = &rest[at + length + 2..];
    }
}
