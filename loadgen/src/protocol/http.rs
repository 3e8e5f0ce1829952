//! HTTP/1.1 as a client needs it: request heads, and responses cut out of a growing buffer.
//!
//! Owns the framing of responses (Content-Length, chunked, until close). It never waits and never opens anything:
//! bytes go in, whole responses come out. A peer that breaks the framing is an error, never a guess.

use super::{Body, ReadError};

/// A response head larger than this is refused. A guess: the servers we drive send under 1 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The largest body: a page of 10,000 events of 64 KiB would be larger, and is asked for in smaller pages.
const BODY_BYTES_MAX: usize = 256 << 20;

/// One whole response; `consumed` bytes of the buffer belong to it.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub will_close: bool,
    pub consumed: usize,
    pub head_bytes: usize,
    pub body: Body,
}

impl Response {
    /// The first header of that name; `buffer` is the one that [`ResponseReader::advance`] was given.
    pub fn header<'a>(&self, buffer: &'a [u8], name: &str) -> Option<&'a str> {
        let head = std::str::from_utf8(&buffer[..self.head_bytes]).ok()?;
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut of_name = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        of_name.next().map(|(_, value)| value.trim())
    }

    /// The body; `buffer` is the one that [`ResponseReader::advance`] was given.
    pub fn body<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match &self.body {
            Body::InBuffer(range) => &buffer[range.clone()],
            Body::Decoded(bytes) => bytes,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    will_close: bool,
    framing: Framing,
    head_bytes: usize,
}

/// Reads one response at a time; keeps how far it has come, so that a large body is not scanned again and again.
#[derive(Debug, Default)]
pub struct ResponseReader {
    head: Option<Head>,
    /// No end of the head lies before this offset.
    searched: usize,
    chunk_offset: usize,
    decoded: Vec<u8>,
    /// The head that was parsed last. Servers repeat theirs byte for byte, and comparing is cheaper than parsing.
    known: Option<(Vec<u8>, Head)>,
}

/// Longer heads are not worth remembering.
const KNOWN_HEAD_BYTES_MAX: usize = 1024;

impl ResponseReader {
    /// Whether a part of a response has been read.
    pub fn is_midway(&self, buffer: &[u8]) -> bool {
        self.head.is_some() || !buffer.is_empty()
    }

    /// The next response that starts at the beginning of `buffer`, if it is complete.
    /// `closed` says that the peer will send no more.
    pub fn advance(&mut self, buffer: &[u8], closed: bool) -> Result<Option<Response>, ReadError> {
        let head = match self.head {
            Some(head) => head,
            None => match self.read_head(buffer)? {
                Some(head) => head,
                None if closed && !buffer.is_empty() => return Err(ReadError::Truncated),
                None => return Ok(None),
            },
        };
        self.head = Some(head);
        let (body, consumed) = match head.framing {
            Framing::Length(length) => {
                let end = head.head_bytes + length;
                if buffer.len() < end {
                    return if closed { Err(ReadError::Truncated) } else { Ok(None) };
                }
                (Body::InBuffer(head.head_bytes..end), end)
            }
            Framing::UntilClose => {
                if BODY_BYTES_MAX < buffer.len() {
                    return Err(ReadError::TooLarge("body"));
                }
                if !closed {
                    return Ok(None);
                }
                (Body::InBuffer(head.head_bytes..buffer.len()), buffer.len())
            }
            Framing::Chunked => match self.read_chunks(buffer)? {
                Some(end) => (Body::Decoded(std::mem::take(&mut self.decoded)), end),
                None if closed => return Err(ReadError::Truncated),
                None => return Ok(None),
            },
        };
        (self.head, self.searched, self.chunk_offset) = (None, 0, 0);
        Ok(Some(Response {
            status: head.status,
            will_close: head.will_close,
            consumed,
            head_bytes: head.head_bytes,
            body,
        }))
    }

    fn read_head(&mut self, buffer: &[u8]) -> Result<Option<Head>, ReadError> {
        if let Some((text, head)) = &self.known
            && buffer.starts_with(text)
        {
            self.chunk_offset = head.head_bytes;
            return Ok(Some(*head));
        }
        const START: &[u8] = b"HTTP/1.";
        let known = buffer.len().min(START.len());
        if buffer[..known] != START[..known] {
            return Err(ReadError::Malformed("not HTTP"));
        }
        let Some(at) = find(&buffer[self.searched..], b"\r\n\r\n") else {
            self.searched = buffer.len().saturating_sub(3);
            return if HEAD_BYTES_MAX < buffer.len() { Err(ReadError::TooLarge("head")) } else { Ok(None) };
        };
        let text_end = self.searched + at;
        let head = parse_head(&buffer[..text_end], text_end + 4)?;
        self.chunk_offset = head.head_bytes;
        if head.head_bytes <= KNOWN_HEAD_BYTES_MAX {
            let (text, known) = self.known.get_or_insert_with(|| (Vec::new(), head));
            text.clear();
            text.extend_from_slice(&buffer[..head.head_bytes]);
            *known = head;
        }
        Ok(Some(head))
    }

    /// Decodes whole chunks; answers where the response ends once the last chunk and the trailers are there.
    fn read_chunks(&mut self, buffer: &[u8]) -> Result<Option<usize>, ReadError> {
        loop {
            let rest = &buffer[self.chunk_offset..];
            let Some(line_bytes) = find(rest, b"\r\n") else {
                return if 256 < rest.len() { Err(ReadError::Malformed("chunk")) } else { Ok(None) };
            };
            let size = parse_chunk_size(&rest[..line_bytes])?;
            let data = line_bytes + 2;
            if size == 0 {
                // Trailers, if any, end with an empty line; without any the empty line follows at once.
                let trailers = &rest[line_bytes..];
                return match find(trailers, b"\r\n\r\n") {
                    Some(at) => Ok(Some(self.chunk_offset + line_bytes + at + 4)),
                    None if HEAD_BYTES_MAX < trailers.len() => Err(ReadError::TooLarge("head")),
                    None => Ok(None),
                };
            }
            if BODY_BYTES_MAX < self.decoded.len() + size {
                return Err(ReadError::TooLarge("body"));
            }
            if rest.len() < data + size + 2 {
                return Ok(None);
            }
            if &rest[data + size..data + size + 2] != b"\r\n" {
                return Err(ReadError::Malformed("chunk"));
            }
            self.decoded.extend_from_slice(&rest[data..data + size]);
            self.chunk_offset += data + size + 2;
        }
    }
}

fn parse_head(text: &[u8], head_bytes: usize) -> Result<Head, ReadError> {
    let mut lines = text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status_line = lines.next().unwrap_or_default();
    let status = match status_line.get(8..12) {
        Some([b' ', digits @ ..]) if digits.iter().all(u8::is_ascii_digit) => {
            digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(ReadError::Malformed("not HTTP")),
    };
    let mut will_close = status_line[7] == b'0';
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            return Err(ReadError::Malformed("not HTTP"));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(value).map_err(|_| ReadError::Malformed("content-length"))?;
            let parsed: usize = text.parse().map_err(|_| ReadError::Malformed("content-length"))?;
            if length.is_some_and(|earlier| earlier != parsed) {
                return Err(ReadError::Malformed("content-length"));
            }
            length = Some(parsed);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = value.eq_ignore_ascii_case(b"chunked");
            if !chunked {
                return Err(ReadError::Malformed("chunk"));
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            if value.eq_ignore_ascii_case(b"close") {
                will_close = true;
            } else if value.eq_ignore_ascii_case(b"keep-alive") {
                will_close = false;
            }
        }
    }
    let framing = match (status, chunked, length) {
        (100..=199 | 204 | 304, ..) => Framing::Length(0),
        (_, true, _) => Framing::Chunked,
        (_, false, Some(length)) if BODY_BYTES_MAX < length => return Err(ReadError::TooLarge("body")),
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => {
            will_close = true;
            Framing::UntilClose
        }
    };
    Ok(Head { status, will_close, framing, head_bytes })
}

fn parse_chunk_size(line: &[u8]) -> Result<usize, ReadError> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    let is_plausible = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).map_err(|_| ReadError::Malformed("chunk"))?;
    match usize::from_str_radix(text, 16) {
        Ok(size) if is_plausible => Ok(size),
        _ => Err(ReadError::Malformed("chunk")),
    }
}

/// Where `needle` first occurs. Heads are short and needles rare-headed, so the simple search is the fast one.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|&byte| byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The part of a request head that does not change between requests: everything but the body's length.
pub fn request_head(method: &str, path: &str, host: &str, key: Option<&str>, headers: &[String]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    if let Some(key) = key {
        head.push_str(&format!("authorization: Bearer {key}\r\n"));
    }
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.into_bytes()
}

/// Ends a head that [`request_head`] began.
pub fn push_length_and_end(out: &mut Vec<u8>, body_bytes: usize) {
    out.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut rest = body_bytes;
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` one byte at a time and all at once; both must come to the same.
    fn check(bytes: &[u8], expected: Result<(u16, &[u8], bool), ReadError>) {
        let mut whole = ResponseReader::default();
        let at_once = whole.advance(bytes, true).map(|response| response.expect("a closed peer leaves no half"));
        match (&at_once, &expected) {
            (Ok(response), Ok((status, body, will_close))) => {
                assert_eq!(response.status, *status);
                assert_eq!(response.body(bytes), *body);
                assert_eq!(response.will_close, *will_close);
                assert_eq!(response.consumed, bytes.len());
            }
            (Err(error), Err(expected)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        let mut slow = ResponseReader::default();
        for end in 1..=bytes.len() {
            match slow.advance(&bytes[..end], end == bytes.len()) {
                Ok(None) => assert!(end < bytes.len()),
                Ok(Some(response)) => {
                    assert_eq!(end, bytes.len());
                    assert_eq!(response.status, expected.as_ref().expect("the whole was refused").0);
                }
                Err(error) => return assert_eq!(Err(error), expected),
            }
        }
    }

    #[test]
    fn responses_are_cut_out_of_the_stream() {
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Ok((200, b"hi", false)));
        check(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Ok((202, b"", true)));
        check(b"HTTP/1.1 204 No Content\r\n\r\n", Ok((204, b"", false)));
        check(b"HTTP/1.1 200 OK\r\n\r\nuntil close", Ok((200, b"until close", true)));
        check(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            Ok((200, b"abcde", false)),
        );
        check(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nsum: 1\r\n\r\n",
            Ok((200, b"a", false)),
        );
    }

    #[test]
    fn broken_framing_is_an_error() {
        check(b"hello there", Err(ReadError::Malformed("not HTTP")));
        check(b"HTTP/1.1 2x0 OK\r\n\r\n", Err(ReadError::Malformed("not HTTP")));
        check(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Err(ReadError::Malformed("not HTTP")));
        check(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Err(ReadError::Malformed("content-length")));
        check(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            Err(ReadError::Malformed("content-length")),
        );
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", Err(ReadError::Truncated));
        check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Err(ReadError::Malformed("chunk")));
        check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", Err(ReadError::Malformed("chunk")));
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", Err(ReadError::TooLarge("body")));
    }

    #[test]
    fn pipelined_responses_come_one_by_one() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 201 OK\r\ncontent-length: 1\r\n\r\nb";
        let mut reader = ResponseReader::default();
        let first = reader.advance(bytes, false).unwrap().unwrap();
        assert_eq!((first.status, first.body(bytes)), (200, b"a".as_slice()));
        let rest = &bytes[first.consumed..];
        let second = reader.advance(rest, false).unwrap().unwrap();
        assert_eq!((second.status, second.body(rest)), (201, b"b".as_slice()));
        assert_eq!(first.consumed + second.consumed, bytes.len());
    }

    #[test]
    fn a_head_that_is_known_is_read_as_if_it_were_new() {
        let first = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n".as_slice();
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice();
        let longer = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n".as_slice();
        let mut reader = ResponseReader::default();
        let answers: [(&[u8], &[u8], &[u8]); 7] = [
            (first, b"a", b"a"),
            (first, b"b", b"b"),
            (longer, b"twelve bytes", b"twelve bytes"),
            (first, b"c", b"c"),
            (chunked, b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
            (chunked, b"1\r\n!\r\n0\r\n\r\n", b"!"),
            (first, b"d", b"d"),
        ];
        for (head, sent, expected) in answers {
            let bytes = [head, sent].concat();
            assert!(reader.advance(&bytes[..bytes.len() - 1], false).unwrap().is_none());
            let response = reader.advance(&bytes, false).unwrap().unwrap();
            assert_eq!((response.body(&bytes), response.consumed), (expected, bytes.len()));
        }
    }

    #[test]
    fn heads_end_with_the_length() {
        let mut out = request_head("POST", "/x", "h:1", Some("k"), &["a: b".to_owned()]);
        push_length_and_end(&mut out, 120);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST /x HTTP/1.1\r\nhost: h:1\r\nauthorization: Bearer k\r\na: b\r\ncontent-length: 120\r\n\r\n"
        );
    }
}
