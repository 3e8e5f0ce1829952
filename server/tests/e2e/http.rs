//! A client that sends exactly the bytes that it is told to, and reads answers strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Only ends a test that would hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub struct Client {
    stream: TcpStream,
    /// Received and not yet read.
    ahead: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The error's word.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// The bytes of a request with a body as long as it says.
pub fn request(method: &str, path: &str, key: &str, body: Option<&Value>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if !key.is_empty() {
        head += &format!("Authorization: Bearer {key}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}").into_bytes()
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        stream.set_write_timeout(Some(ANSWER_WITHIN)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, ahead: Vec::new() }
    }

    pub fn call(&mut self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Response {
        self.send(&request(method, path, key, body));
        self.answer_to(method)
    }

    /// A peer that has answered and closed may refuse the rest, which is no fault of either.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn answer(&mut self) -> Response {
        self.answer_to("GET")
    }

    pub fn try_answer(&mut self) -> Option<Response> {
        let head = self.head()?;
        Some(self.rest("GET", &head))
    }

    fn answer_to(&mut self, method: &str) -> Response {
        let head = self.head().expect("an answer before the end");
        self.rest(method, &head)
    }

    /// A head with its empty line, or nothing where the connection ended before one began.
    fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.ahead.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more() {
                assert!(self.ahead.is_empty(), "a cut head: {:?}", String::from_utf8_lossy(&self.ahead));
                return None;
            }
        }
    }

    fn rest(&mut self, method: &str, head: &str) -> Response {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap();
        assert!(status_line.starts_with("HTTP/1.1 "), "{status_line}");
        let status = status_line[9..12].parse().unwrap();
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = lines.filter(|line| !line.is_empty()).map(|line| header(line).unwrap()).collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if method != "HEAD" && 200 <= status && status != 204 && status != 304 {
            response.body = match response.header("Transfer-Encoding") {
                Some("chunked") => self.chunks(),
                Some(other) => panic!("{other}"),
                None => {
                    let length = response.header("Content-Length").expect("a length").parse().unwrap();
                    self.take(length)
                }
            };
        }
        response
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let length = usize::from_str_radix(&line, 16).unwrap();
            body.extend(self.take(length));
            assert_eq!(self.line(), "");
            if length == 0 {
                return body;
            }
        }
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            assert!(self.more(), "the connection ended in a body");
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.ahead.len() < length {
            assert!(self.more(), "the connection ended in a body");
        }
        self.ahead.drain(..length).collect()
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.ahead.extend_from_slice(&buffer[..length]);
                    return true;
                }
                // Another test's server has ended; a read with a timeout is not begun again by the kernel after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Whether the peer ends the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.ahead.is_empty() && !self.more()
    }
}
