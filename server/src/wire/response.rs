//! Answers as bytes.
//!
//! Owns the shape of every response head and the escaping of what goes into one. Never emits a header value that is
//! not of the checked type: a line end from a client cannot split an answer. Nothing here allocates but the buffer
//! it is handed.

use std::borrow::Cow;

use super::cors::CorsHeaders;

/// What an answer needs to know about its request. Small and owned, so that it travels with work that is not done yet.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    pub request_id: RequestId,
    pub persistence: Persistence,
    /// HEAD: the head of the answer, without its body.
    pub head_only: bool,
    /// HTTP/1.1; a 1.0 client reads a stream to the end of the connection instead.
    pub may_chunk: bool,
    /// What the page that asked may know of the answer.
    pub cors: CorsHeaders,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    KeepAlive,
    /// For HTTP/1.0, where staying open must be said.
    KeepAliveStated,
    Close,
}

/// `[A-Za-z0-9._-]{1,64}`: safe in a header, a log line and JSON as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    bytes: [u8; Self::LEN_MAX],
    len: u8,
}

impl RequestId {
    const LEN_MAX: usize = 64;

    /// A client's own, if it is well-formed.
    pub fn from_client(value: &[u8]) -> Option<Self> {
        let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if value.is_empty() || value.len() > Self::LEN_MAX || !value.iter().all(is_safe) {
            return None;
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes[..value.len()].copy_from_slice(value);
        Some(Self { bytes, len: value.len() as u8 })
    }

    /// `req_` and a UUIDv7 in hexadecimal.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        const VERSION: u128 = 0x7 << 76;
        const VARIANT: u128 = 0b10 << 62;
        let random = random & !(0xffff_ffff_ffff_u128 << 80) & !(0xf << 76) & !(0b11 << 62);
        let uuid = u128::from(unix_ms & 0xffff_ffff_ffff) << 80 | VERSION | VARIANT | random;
        let mut bytes = [0; Self::LEN_MAX];
        bytes[..4].copy_from_slice(b"req_");
        for (index, digit) in bytes[4..36].iter_mut().enumerate() {
            *digit = HEX_DIGITS[(uuid >> (124 - 4 * index)) as usize & 0xf];
        }
        Self { bytes, len: 36 }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Visible ASCII and inner spaces; nothing that could end the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue<'a>(Cow<'a, str>);

impl<'a> HeaderValue<'a> {
    /// `None` when the text does not fit into a header as it is.
    pub fn new(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        is_header_text(text.as_bytes()).then_some(Self(text))
    }

    /// For text that stands in the program; anything else is a bug in it.
    pub const fn from_static(text: &'static str) -> HeaderValue<'static> {
        assert!(is_header_text(text.as_bytes()));
        HeaderValue(Cow::Borrowed(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_header_text(bytes: &[u8]) -> bool {
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] < 0x20 || 0x7e < bytes[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Json,
    ProblemJson,
    Ndjson,
    Text,
    /// Prometheus' exposition format.
    Metrics,
    EventStream,
    Html,
    Protobuf,
    Bytes,
}

impl ContentType {
    const fn line(self) -> &'static [u8] {
        match self {
            Self::Json => b"Content-Type: application/json\r\n",
            Self::ProblemJson => b"Content-Type: application/problem+json\r\n",
            Self::Ndjson => b"Content-Type: application/x-ndjson\r\n",
            Self::Text => b"Content-Type: text/plain; charset=utf-8\r\n",
            Self::Metrics => b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
            Self::EventStream => b"Content-Type: text/event-stream\r\n",
            Self::Html => b"Content-Type: text/html; charset=utf-8\r\n",
            Self::Protobuf => b"Content-Type: application/x-protobuf\r\n",
            Self::Bytes => b"Content-Type: application/octet-stream\r\n",
        }
    }
}

/// Where an event was when its answer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Disk,
    Memory,
}

/// A response whose head is being written. One of `body`, `with_body`, `without_body` or `chunked` ends it.
#[must_use]
pub struct Response<'o> {
    out: &'o mut Vec<u8>,
    status: u16,
    persistence: Persistence,
    head_only: bool,
    may_chunk: bool,
}

impl<'o> Response<'o> {
    /// Appends to `out` the status line and the headers that every answer has.
    pub fn begin(out: &'o mut Vec<u8>, status: u16, reply: &ReplyTo) -> Self {
        push_status_line(out, status);
        out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\nX-Request-Id: ");
        out.extend_from_slice(reply.request_id.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(reply.cors.as_bytes());
        if reply.persistence == Persistence::Close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        Self { out, status, persistence: reply.persistence, head_only: reply.head_only, may_chunk: reply.may_chunk }
    }

    pub fn content_type(&mut self, content_type: ContentType) -> &mut Self {
        self.out.extend_from_slice(content_type.line());
        self
    }

    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.out.extend_from_slice(match durability {
            Durability::Disk => b"Ringlog-Durability: disk\r\n",
            Durability::Memory => b"Ringlog-Durability: memory\r\n",
        });
        self
    }

    /// With its quotes.
    pub fn etag(&mut self, etag: &HeaderValue<'_>) -> &mut Self {
        self.header("ETag", etag)
    }

    pub fn retry_after(&mut self, seconds: u32) -> &mut Self {
        self.out.extend_from_slice(b"Retry-After: ");
        push_decimal(self.out, u64::from(seconds));
        self.out.extend_from_slice(b"\r\n");
        self
    }

    pub fn header(&mut self, name: &'static str, value: &HeaderValue<'_>) -> &mut Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value.as_str().as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Ends the head and the answer with a body that is already there.
    pub fn with_body(mut self, body: &[u8]) {
        assert!(!has_no_body(self.status));
        self.state_keep_alive();
        self.out.extend_from_slice(b"Content-Length: ");
        push_decimal(self.out, body.len() as u64);
        self.out.extend_from_slice(b"\r\n\r\n");
        if !self.head_only {
            self.out.extend_from_slice(body);
        }
    }

    /// Ends the head and the answer: 204 and 304 say nothing of a length, others say zero.
    pub fn without_body(mut self) {
        self.state_keep_alive();
        self.out.extend_from_slice(if has_no_body(self.status) { b"\r\n" } else { b"Content-Length: 0\r\n\r\n" });
    }

    /// Ends the head for a body that is written in place and measured by [`Body::finish`].
    pub fn body(mut self) -> Body<'o> {
        assert!(!has_no_body(self.status));
        self.state_keep_alive();
        self.out.extend_from_slice(b"Content-Length: ");
        let length_at = self.out.len();
        self.out.extend_from_slice(&[b'0'; LENGTH_DIGITS_MAX]);
        self.out.extend_from_slice(b"\r\n\r\n");
        let body_at = self.out.len();
        Body { out: self.out, length_at, body_at, head_only: self.head_only }
    }

    fn state_keep_alive(&mut self) {
        if self.persistence == Persistence::KeepAliveStated {
            self.out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }

    /// Ends the head for a body of unknown length; the returned value writes its pieces.
    pub fn chunked(self) -> Chunks {
        self.out.extend_from_slice(match (self.may_chunk, self.persistence) {
            (true, _) => b"Transfer-Encoding: chunked\r\n\r\n",
            // A 1.0 client knows no chunks: it reads to the end of the connection, which follows the last piece.
            (false, Persistence::Close) => b"\r\n",
            (false, _) => b"Connection: close\r\n\r\n",
        });
        match (self.head_only, self.may_chunk) {
            (true, _) => Chunks::Dropped,
            (false, true) => Chunks::Framed,
            (false, false) => Chunks::Plain,
        }
    }
}

/// Room for a length below 10 GB: no single answer comes near.
const LENGTH_DIGITS_MAX: usize = 10;

/// A body under construction behind its head.
#[must_use]
pub struct Body<'o> {
    out: &'o mut Vec<u8>,
    length_at: usize,
    body_at: usize,
    head_only: bool,
}

impl Body<'_> {
    /// Append to it; what stands before belongs to the head.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Fills in the length. The body moves up by the digits that were not needed: answers of this kind are small,
    /// and larger ones are streamed.
    pub fn finish(self) {
        let len = self.out.len().checked_sub(self.body_at).expect("a body only grows");
        let mut digits = [0; DECIMAL_DIGITS_MAX];
        let digits = decimal(&mut digits, len as u64);
        assert!(digits.len() <= LENGTH_DIGITS_MAX);
        let digits_end = self.length_at + digits.len();
        self.out[self.length_at..digits_end].copy_from_slice(digits);
        if self.head_only {
            self.out.truncate(digits_end);
            self.out.extend_from_slice(b"\r\n\r\n");
            return;
        }
        let unused = LENGTH_DIGITS_MAX - digits.len();
        self.out.copy_within(digits_end + unused.., digits_end);
        self.out.truncate(self.out.len() - unused);
    }
}

/// How the pieces of a streamed body are written. Travels with the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    Framed,
    Plain,
    Dropped,
}

impl Chunks {
    /// Appends one piece. An empty one is skipped: on the wire it would be the end.
    pub fn push(self, out: &mut Vec<u8>, piece: &[u8]) {
        match self {
            Self::Framed if !piece.is_empty() => {
                push_hex(out, piece.len() as u64);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Self::Plain => out.extend_from_slice(piece),
            Self::Framed | Self::Dropped => {}
        }
    }

    /// Appends the end.
    pub fn end(self, out: &mut Vec<u8>) {
        if self == Self::Framed {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const fn has_no_body(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn push_status_line(out: &mut Vec<u8>, status: u16) {
    let line: &[u8] = match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        _ => {
            out.extend_from_slice(b"HTTP/1.1 ");
            push_decimal(out, u64::from(status));
            out.push(b' ');
            out.extend_from_slice(reason(status).as_bytes());
            b"\r\n"
        }
    };
    out.extend_from_slice(line);
}

const fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        207 => "Multi-Status",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
const DECIMAL_DIGITS_MAX: usize = 20;

fn decimal(digits: &mut [u8; DECIMAL_DIGITS_MAX], mut value: u64) -> &[u8] {
    let mut at = DECIMAL_DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

/// Appends a number as JSON and HTTP write it.
pub fn push_decimal(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(decimal(&mut [0; DECIMAL_DIGITS_MAX], value));
}

fn push_hex(out: &mut Vec<u8>, value: u64) {
    let digit_count = (64 - value.leading_zeros()).div_ceil(4).max(1);
    for index in (0..digit_count).rev() {
        out.push(HEX_DIGITS[(value >> (4 * index)) as usize & 0xf]);
    }
}

/// Appends the text as a JSON string, quotes included.
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain_at = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain_at..index]);
        plain_at = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX_DIGITS[usize::from(byte >> 4)]);
                out.push(HEX_DIGITS[usize::from(byte & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain_at..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(persistence: Persistence) -> ReplyTo {
        let request_id = RequestId::from_client(b"r").unwrap();
        ReplyTo { request_id, persistence, head_only: false, may_chunk: true, cors: CorsHeaders::default() }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn a_body_written_in_place_reads_like_one_that_was_there() {
        for len in [0, 1, 9, 10, 99, 100, 12_345] {
            let body = "x".repeat(len);
            let in_place = written(|out| {
                let mut response = Response::begin(out, 200, &reply(Persistence::KeepAlive));
                response.content_type(ContentType::Json);
                let mut place = response.body();
                place.buffer().extend_from_slice(body.as_bytes());
                place.finish();
            });
            let ready = written(|out| {
                let mut response = Response::begin(out, 200, &reply(Persistence::KeepAlive));
                response.content_type(ContentType::Json);
                response.with_body(body.as_bytes());
            });
            assert_eq!(in_place, ready);
            assert_eq!(
                ready,
                format!(
                    "HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: r\r\n\
                     Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
                )
            );
        }
    }

    #[test]
    fn head_keeps_the_length_and_drops_the_body() {
        let reply = ReplyTo { head_only: true, ..reply(Persistence::KeepAlive) };
        let ready = written(|out| Response::begin(out, 200, &reply).with_body(b"hello"));
        let in_place = written(|out| {
            let mut body = Response::begin(out, 200, &reply).body();
            body.buffer().extend_from_slice(b"hello");
            body.finish();
        });
        assert!(ready.ends_with("Content-Length: 5\r\n\r\n"), "{ready}");
        assert_eq!(in_place, ready);
        let streamed = written(|out| {
            let chunks = Response::begin(out, 200, &reply).chunked();
            chunks.push(out, b"hello");
            chunks.end(out);
        });
        assert!(streamed.ends_with("Transfer-Encoding: chunked\r\n\r\n"), "{streamed}");
    }

    #[test]
    fn an_answer_without_a_body_says_so_as_its_status_allows() {
        let with = |status| written(|out| Response::begin(out, status, &reply(Persistence::Close)).without_body());
        assert!(with(200).ends_with("Connection: close\r\nContent-Length: 0\r\n\r\n"));
        assert!(with(204).starts_with("HTTP/1.1 204 No Content\r\n") && with(204).ends_with("close\r\n\r\n"));
        assert!(!with(304).contains("Content-Length"));
    }

    #[test]
    fn a_stream_is_chunked_in_1_1_and_plain_in_1_0() {
        let stream = |may_chunk| {
            written(|out| {
                let reply = ReplyTo { may_chunk, ..reply(Persistence::Close) };
                let chunks = Response::begin(out, 200, &reply).chunked();
                chunks.push(out, b"hello");
                chunks.push(out, b"");
                chunks.push(out, &[b'x'; 17]);
                chunks.end(out);
            })
        };
        assert!(stream(true).ends_with("chunked\r\n\r\n5\r\nhello\r\n11\r\nxxxxxxxxxxxxxxxxx\r\n0\r\n\r\n"));
        assert!(stream(false).ends_with("\r\n\r\nhelloxxxxxxxxxxxxxxxxx"));
        assert!(!stream(false).contains("Transfer-Encoding"));
    }

    #[test]
    fn optional_headers_stand_in_the_head() {
        let text = written(|out| {
            let mut response = Response::begin(out, 207, &reply(Persistence::KeepAliveStated));
            response.durability(Durability::Disk).etag(&HeaderValue::from_static("\"a\"")).retry_after(12);
            response.without_body();
        });
        for line in [
            "HTTP/1.1 207 Multi-Status",
            "Connection: keep-alive",
            "Ringlog-Durability: disk",
            "ETag: \"a\"",
            "Retry-After: 12",
        ] {
            assert!(text.split("\r\n").any(|found| found == line), "{line} is missing from {text}");
        }
    }

    #[test]
    fn a_header_value_cannot_end_its_line() {
        for text in ["a\r\nB: c", "a\nb", "a\rb", "a\0", "é", "\u{7f}", "a\tb"] {
            assert_eq!(HeaderValue::new(text), None, "{text:?}");
        }
        assert!(HeaderValue::new("\"tenant\";r=9;t=1").is_some());
    }

    #[test]
    fn request_ids_are_taken_or_made() {
        let id = |text: &str| RequestId::from_client(text.as_bytes()).map(|id| id.as_str().to_owned());
        assert_eq!(id("aZ9._-"), Some("aZ9._-".to_owned()));
        assert_eq!(id(&"a".repeat(64)), Some("a".repeat(64)));
        for text in ["", "a b", "a\"", "a\r\n", "é", &"a".repeat(65)] {
            assert_eq!(id(text), None, "{text:?}");
        }
        let made = RequestId::generate(0x0193_f000_0000, u128::MAX);
        assert_eq!(made.as_str(), "req_0193f00000007fffbfffffffffffffff");
        assert_eq!(RequestId::generate(0x0193_f000_0000, 0).as_str(), "req_0193f000000070008000000000000000");
    }

    #[test]
    fn numbers_are_written_as_format_writes_them() {
        for value in [0, 1, 9, 10, 255, 256, 4096, 65_535, u64::MAX] {
            assert_eq!(written(|out| push_decimal(out, value)), format!("{value}"));
            assert_eq!(written(|out| push_hex(out, value)), format!("{value:x}"));
        }
    }
}
