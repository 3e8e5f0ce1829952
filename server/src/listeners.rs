//! The sockets that the server listens on, bound before anything else is made.
//! A port that another process has is an error, although cores share theirs: the first socket of a port is bound
//! without SO_REUSEPORT, which fails if anybody has it, and only then opened to its siblings. So no moment is left in
//! which another process could take the port, also when the kernel picked it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The flag that names the address.
    pub flag: &'static str,
    pub address: SocketAddr,
    pub error: io::Error,
}

impl ListenError {
    /// Somebody else has the port, and may let go of it.
    pub fn is_taken(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flag, address) = (self.flag, self.address);
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is taken: another process listens there (ss -ltnp 'sport = {port}' shows which); \
                 stop it, or choose another address with {flag}",
                port = address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{address} is not an address of this machine: choose another with {flag}")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{address} is not permitted to this user: choose a port from 1024 with {flag}, or give the binary \
                 CAP_NET_BIND_SERVICE"
            ),
            _ => write!(f, "cannot listen on {address} ({flag}): {}", self.error),
        }
    }
}

impl std::error::Error for ListenError {}

/// One listening socket per core, all on the address that comes back.
pub fn listen_tcp(
    flag: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let failed = |address, error: rustix::io::Errno| ListenError { flag, address, error: error.into() };
    let first = socket(address, SocketType::STREAM).map_err(|error| failed(address, error))?;
    rustix::net::bind(&first, &address).map_err(|error| failed(address, error))?;
    // A second of two that bound at the same time fails here, not at `bind`.
    rustix::net::listen(&first, BACKLOG).map_err(|error| failed(address, error))?;
    let first = TcpListener::from(first);
    let bound = first.local_addr().map_err(|error| ListenError { flag, address, error })?;
    let mut listeners = vec![first];
    if 1 < count {
        let rest = siblings(&listeners[0], bound, count - 1).map_err(|error| failed(bound, error))?;
        listeners.extend(rest);
    }
    Ok((listeners, bound))
}

/// A bound datagram socket.
pub fn bind_udp(flag: &'static str, address: SocketAddr) -> Result<(UdpSocket, SocketAddr), ListenError> {
    let failed = |error| ListenError { flag, address, error };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

/// More listeners on the port that `first` has.
fn siblings(first: &TcpListener, bound: SocketAddr, count: usize) -> rustix::io::Result<Vec<TcpListener>> {
    sockopt::set_socket_reuseport(first, true)?;
    let mut listeners = Vec::new();
    for _ in 0..count {
        let socket = socket(bound, SocketType::STREAM)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &bound)?;
        rustix::net::listen(&socket, BACKLOG)?;
        listeners.push(TcpListener::from(socket));
    }
    // Listening again puts the first, which had no group when it began, into that of the others.
    rustix::net::listen(first, BACKLOG)?;
    Ok(listeners)
}

fn socket(address: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // A restart does not wait for what the last life's connections leave behind.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it: an answer is written whole, and there is nothing to wait for.
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn every_listener_of_a_port_gets_connections() {
        let (listeners, bound) = listen_tcp("--http", any(), 3).unwrap();
        let clients: Vec<_> = (0..128).map(|_| TcpStream::connect(bound).unwrap()).collect();
        let mut accepted = 0;
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
            let own = std::iter::from_fn(|| listener.accept().ok()).count();
            assert!(0 < own);
            accepted += own;
        }
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn a_taken_port_is_an_error_whoever_has_it() {
        for count in [1, 2] {
            let (_listeners, bound) = listen_tcp("--http", any(), count).unwrap();
            for wanted in [1, 2] {
                let error = listen_tcp("--http", bound, wanted).unwrap_err();
                assert!(error.is_taken());
                assert!(error.to_string().starts_with(&format!("{bound} is taken")), "{error}");
            }
        }
        let (_socket, bound) = bind_udp("--syslog-udp", any()).unwrap();
        assert!(bind_udp("--syslog-udp", bound).unwrap_err().is_taken());
    }

    #[test]
    fn a_foreign_address_is_an_error_that_says_so() {
        let error = listen_tcp("--tcp", "192.0.2.1:0".parse().unwrap(), 2).unwrap_err();
        assert!(!error.is_taken());
        assert!(error.to_string().contains("not an address of this machine"), "{error}");
    }
}
