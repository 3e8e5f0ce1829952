//! The sockets that the server listens on, bound before anything else is made.
//! A port that another process has is an error, although cores share theirs: the first socket of a port is bound
//! without SO_REUSEPORT, which fails if anybody has it, and only then opened to its siblings. So no moment is left in
//! which another process could take the port, also when the kernel picked it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::limits::DATAGRAM_BUFFER_BYTES;

/// Connections that wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A peer that is gone without a word is found out after two minutes: 60 s of silence, and six questions 10 s apart.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 6;

/// A restart finds the ports of its last life taken for a moment: the kernel lets go of a ring's sockets behind the end of its
/// process, within some milliseconds where nothing is busy.
const FREE_WITHIN: Duration = Duration::from_secs(2);
const FREE_ASKED_EVERY: Duration = Duration::from_millis(10);

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
    let failed = |address, error| ListenError { flag, address, error };
    let first = when_free(|| listen_alone(address)).map_err(|error| failed(address, error))?;
    let bound = first.local_addr().map_err(|error| failed(address, error))?;
    let mut listeners = vec![first];
    if 1 < count {
        let rest = siblings(&listeners[0], bound, count - 1).map_err(|error| failed(bound, error.into()))?;
        listeners.extend(rest);
    }
    Ok((listeners, bound))
}

fn listen_alone(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = socket(address, SocketType::STREAM)?;
    rustix::net::bind(&listener, &address)?;
    // A second of two that bound at the same time fails here, not at `bind`.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener.into())
}

/// What `bind` makes, once nobody else has the port; its error, if somebody keeps it.
fn when_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < FREE_WITHIN => {
                thread::sleep(FREE_ASKED_EVERY);
            }
            result => return result,
        }
    }
}

/// Lets the kernel find out which of a listener's connections have lost their peer, for protocols whose connections may be
/// idle for ever. Those that it accepts inherit it.
pub fn keep_alive(listener: &TcpListener) -> io::Result<()> {
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(listener, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(listener, KEEP_ALIVE_PROBES)?;
    Ok(())
}

/// One datagram socket per core, all on the address that comes back: the kernel spreads senders over them.
pub fn bind_udp(
    flag: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<UdpSocket>, SocketAddr), ListenError> {
    let failed = |error: io::Error| ListenError { flag, address, error };
    // Alone at first, so that a taken port is an error. It holds the port until the others have it, and is gone then: it
    // belongs to no group, and would take senders from those that do.
    let first = when_free(|| UdpSocket::bind(address)).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let sockets = datagram_sockets(&first, bound, count).map_err(|error| failed(error.into()))?;
    Ok((sockets, bound))
}

fn datagram_sockets(first: &UdpSocket, bound: SocketAddr, count: usize) -> rustix::io::Result<Vec<UdpSocket>> {
    sockopt::set_socket_reuseport(first, true)?;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = udp_socket(bound)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        // Beyond what the machine allows for everybody only with CAP_NET_ADMIN. Less is fewer datagrams, and no error.
        if sockopt::set_socket_recv_buffer_size_force(&socket, DATAGRAM_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, DATAGRAM_BUFFER_BYTES)?;
        }
        rustix::net::bind(&socket, &bound)?;
        sockets.push(UdpSocket::from(socket));
    }
    Ok(sockets)
}

/// How many datagrams the kernel has dropped because a socket's buffer was full, out of what it tells of all sockets.
/// `None`: it does not tell.
pub fn datagrams_dropped(socket: &UdpSocket) -> Option<u64> {
    let inode = rustix::fs::fstat(socket).ok()?.st_ino.to_string();
    let is_v4 = socket.local_addr().ok()?.is_ipv4();
    let table = std::fs::read_to_string(if is_v4 { "/proc/self/net/udp" } else { "/proc/self/net/udp6" }).ok()?;
    // sl local remote st queues timer retransmits uid timeout inode references pointer drops
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(9);
        if fields.next() == Some(&inode) { fields.nth(2)?.parse().ok() } else { None }
    })
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

fn udp_socket(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(family(address), SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn socket(address: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(family(address), kind, SocketFlags::CLOEXEC, None)?;
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
    fn a_port_that_the_last_life_leaves_late_is_waited_for() {
        let (listeners, bound) = listen_tcp("--http", any(), 2).unwrap();
        let mut listeners = Some(listeners);
        let mut attempts = 0;
        let listener = when_free(|| {
            attempts += 1;
            let result = listen_alone(bound);
            listeners = None;
            result
        });
        assert_eq!((listener.unwrap().local_addr().unwrap(), attempts), (bound, 2));
    }

    #[test]
    fn a_taken_port_is_an_error_whoever_has_it() {
        for count in [1, 2] {
            let (_listeners, bound) = listen_tcp("--http", any(), count).unwrap();
            assert_eq!(listen_alone(bound).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        let (_listeners, bound) = listen_tcp("--http", any(), 1).unwrap();
        let error = listen_tcp("--http", bound, 2).unwrap_err();
        assert!(error.is_taken());
        assert!(error.to_string().starts_with(&format!("{bound} is taken")), "{error}");
    }

    #[test]
    fn a_taken_port_of_datagrams_is_an_error_too() {
        let (_sockets, bound) = bind_udp("--syslog-udp", any(), 2).unwrap();
        assert!(bind_udp("--syslog-udp", bound, 2).unwrap_err().is_taken());
    }

    #[test]
    fn every_datagram_socket_of_a_port_gets_senders() {
        let (sockets, bound) = bind_udp("--syslog-udp", any(), 2).unwrap();
        for _ in 0..128 {
            UdpSocket::bind(any()).unwrap().send_to(b"x", bound).unwrap();
        }
        let mut received = 0;
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            let own = std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count();
            assert!(0 < own);
            received += own;
        }
        assert_eq!(received, 128);
    }

    #[test]
    fn the_kernel_tells_what_it_dropped() {
        let (sockets, bound) = bind_udp("--syslog-udp", any(), 1).unwrap();
        assert_eq!(datagrams_dropped(&sockets[0]), Some(0));
        sockopt::set_socket_recv_buffer_size(&sockets[0], 4096).unwrap();
        let client = UdpSocket::bind(any()).unwrap();
        for _ in 0..100 {
            client.send_to(&[0; 1000], bound).unwrap();
        }
        sockets[0].set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| sockets[0].recv(&mut [0; 1000]).ok()).count() as u64;
        assert!(0 < received && received < 100, "{received}");
        assert_eq!(datagrams_dropped(&sockets[0]), Some(100 - received));
    }

    #[test]
    fn accepted_connections_are_kept_alive_as_their_listener_is() {
        let (listeners, bound) = listen_tcp("--tcp", any(), 1).unwrap();
        keep_alive(&listeners[0]).unwrap();
        let _client = TcpStream::connect(bound).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), KEEP_ALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), KEEP_ALIVE_INTERVAL);
    }

    #[test]
    fn a_foreign_address_is_an_error_that_says_so() {
        let error = listen_tcp("--tcp", "192.0.2.1:0".parse().unwrap(), 2).unwrap_err();
        assert!(!error.is_taken());
        assert!(error.to_string().contains("not an address of this machine"), "{error}");
    }
}
