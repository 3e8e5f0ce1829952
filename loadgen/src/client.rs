//! Connecting, and one request at a time: for onboarding and reading back, where speed does not matter.

use crate::failure::Failure;
use crate::protocol::http::{self, ResponseReader};
use crate::target::Target;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and a second handle to its socket that can end it from outside.
pub struct Connected {
    pub stream: TcpStream,
    pub control: std::net::TcpStream,
}

/// Connects without stopping the thread: the socket is non-blocking until it is connected.
pub async fn connect(address: SocketAddr) -> io::Result<Connected> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let plain = std::net::TcpStream::from(socket);
    let control = plain.try_clone()?;
    let stream = TcpStream::from_std(plain)?;
    monoio::time::timeout(CONNECT_TIMEOUT, stream.writable(false))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if let Some(error) = control.take_error()? {
        return Err(error);
    }
    // On loopback a connect to a port of the ephemeral range that nobody listens on can meet itself.
    if control.local_addr()? == control.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    control.set_nodelay(true)?;
    control.set_nonblocking(false)?;
    Ok(Connected { stream, control })
}

pub struct Answer {
    pub status: u16,
    /// What the server calls itself.
    pub server: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body of a 2xx answer; anything else is a failure with what the server said.
    pub fn into_good(self) -> Result<Vec<u8>, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(Failure::Refused { status: self.status, message: text.chars().take(500).collect() })
    }
}

/// One connection, used again as long as the server keeps it.
pub struct Client {
    target: Target,
    timeout: Duration,
    connected: Option<Connected>,
}

impl Client {
    pub fn new(target: Target, timeout: Duration) -> Self {
        Self { target, timeout, connected: None }
    }

    /// Connects, if it is not connected yet.
    pub async fn reach(&mut self) -> Result<&mut Connected, Failure> {
        let connected = match self.connected.take() {
            Some(connected) => connected,
            None => {
                let address = self.target.address().ok_or_else(|| {
                    Failure::Unavailable("the ports file is not there or names no address: is the server up?".into())
                })?;
                connect(address).await.map_err(|error| {
                    Failure::Unavailable(format!("nothing answers at {address} ({error}): is the server up?"))
                })?
            }
        };
        Ok(self.connected.insert(connected))
    }

    pub async fn get(&mut self, path: &str, key: impl Into<Option<&str>>) -> Result<Answer, Failure> {
        let mut request = http::request_head("GET", path, self.target.host(), key.into(), &[]);
        request.extend_from_slice(b"\r\n");
        self.exchange(request).await
    }

    pub async fn post(&mut self, path: &str, key: Option<&str>, json: &str) -> Result<Answer, Failure> {
        let headers = ["content-type: application/json".to_owned()];
        let mut request = http::request_head("POST", path, self.target.host(), key, &headers);
        http::push_length_and_end(&mut request, json.len());
        request.extend_from_slice(json.as_bytes());
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Vec<u8>) -> Result<Answer, Failure> {
        let unavailable = |error: io::Error| Failure::Unavailable(format!("the server cannot be reached: {error}"));
        self.reach().await?;
        // Taken out, so that an exchange that fails half-way leaves no connection with half an answer in it.
        let Some(mut connected) = self.connected.take() else { return Err(unavailable(io::ErrorKind::Other.into())) };
        let (answer, will_close) = monoio::time::timeout(self.timeout, exchange(&mut connected.stream, request))
            .await
            .map_err(|_| Failure::Unavailable(format!("no answer within {:?}", self.timeout)))?
            .map_err(unavailable)?;
        if !will_close {
            self.connected = Some(connected);
        }
        Ok(answer)
    }
}

async fn exchange(stream: &mut TcpStream, request: Vec<u8>) -> io::Result<(Answer, bool)> {
    stream.write_all(request).await.0?;
    let mut reader = ResponseReader::default();
    let mut buffer: Vec<u8> = Vec::with_capacity(64 << 10);
    loop {
        if buffer.capacity() - buffer.len() < 16 << 10 {
            buffer.reserve(buffer.capacity());
        }
        let filled = buffer.len();
        let (read, slice) = stream.read(buffer.slice_mut(filled..)).await;
        buffer = slice.into_inner();
        let closed = read? == 0;
        let response = reader
            .advance(&buffer, closed)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if let Some(response) = response {
            let server = response.header(&buffer, "server").map(str::to_owned);
            let answer = Answer { status: response.status, server, body: response.body(&buffer).to_vec() };
            return Ok((answer, response.will_close));
        }
        if closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
