//! As little HTTP as a null server can do with: where does a request end?
//!
//! Owns the state of one connection, for every null server alike, so that what differs between them is their loop. Must
//! never: be taken for a parser. It believes what it reads.

/// What every null server answers, as long as the answer that the server's own connections give.
pub const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\nX-Content-Type-Options: nosniff\r\n\
X-Request-Id: req_00000000000000000000000000000000\r\nContent-Length: 0\r\n\r\n";

/// A head larger than this is none.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Why a connection has to end.
#[derive(Debug, PartialEq, Eq)]
pub struct NotHttp;

/// Counts the requests of one connection as their bytes arrive, pipelined or in pieces.
#[derive(Debug, Default)]
pub struct Requests {
    /// Of a body, still to come.
    body_bytes_left: usize,
    /// The beginning of a head whose end has not come.
    head: Vec<u8>,
}

impl Requests {
    /// Takes everything that arrived and returns how many requests ended in it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, NotHttp> {
        if self.head.is_empty() {
            return self.count(bytes);
        }
        let mut joined = std::mem::take(&mut self.head);
        joined.extend_from_slice(bytes);
        self.count(&joined)
    }

    fn count(&mut self, mut bytes: &[u8]) -> Result<usize, NotHttp> {
        let mut ended = 0;
        loop {
            if self.body_bytes_left > 0 {
                let taken = self.body_bytes_left.min(bytes.len());
                bytes = &bytes[taken..];
                self.body_bytes_left -= taken;
                if self.body_bytes_left > 0 {
                    return Ok(ended);
                }
                ended += 1;
            }
            if bytes.is_empty() {
                return Ok(ended);
            }
            let Some((head_bytes, body_bytes)) = head(bytes)? else {
                self.head = bytes.to_vec();
                return if bytes.len() < HEAD_BYTES_MAX { Ok(ended) } else { Err(NotHttp) };
            };
            bytes = &bytes[head_bytes..];
            self.body_bytes_left = body_bytes;
            ended += usize::from(body_bytes == 0);
        }
    }
}

/// The bytes of a head with its empty line, and of the body that it announces; `None` while it has no end.
fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>, NotHttp> {
    const CONTENT_LENGTH: &[u8] = b"content-length:";
    let mut body_bytes = 0;
    let mut line_at = 0;
    while let Some(line_bytes) = bytes[line_at..].iter().position(|byte| *byte == b'\n') {
        let line = bytes[line_at..line_at + line_bytes].trim_ascii_end();
        line_at += line_bytes + 1;
        if line.is_empty() {
            return Ok(Some((line_at, body_bytes)));
        }
        if let Some((name, value)) = line.split_at_checked(CONTENT_LENGTH.len())
            && name.eq_ignore_ascii_case(CONTENT_LENGTH)
        {
            let value = str::from_utf8(value.trim_ascii()).map_err(|_| NotHttp)?;
            body_bytes = value.parse().map_err(|_| NotHttp)?;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &[u8] = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345GET /b HTTP/1.1\r\n\r\n\
        POST /c HTTP/1.1\r\ncontent-length:  2\r\n\r\n\r\n";

    #[test]
    fn requests_are_counted_wherever_the_network_splits_them() {
        assert_eq!(Requests::default().take(THREE), Ok(3));
        for size in 1..THREE.len() {
            let mut requests = Requests::default();
            let ended: usize = THREE.chunks(size).map(|piece| requests.take(piece).unwrap()).sum();
            assert_eq!(ended, 3, "in pieces of {size}");
        }
    }

    #[test]
    fn a_request_ends_with_its_last_byte_and_not_before() {
        let mut requests = Requests::default();
        assert_eq!(requests.take(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n12"), Ok(0));
        assert_eq!(requests.take(b"3"), Ok(1));
        assert_eq!(requests.take(b""), Ok(0));
    }

    #[test]
    fn what_is_not_http_ends_the_connection() {
        assert_eq!(Requests::default().take(b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n"), Err(NotHttp));
        assert_eq!(Requests::default().take(&[b'x'; HEAD_BYTES_MAX]), Err(NotHttp));
    }
}
