//! One thread's way to the kernel: disk and socket operations by owned buffers, their ends as completions.
//!
//! Owns the vocabulary and picks the backend: io_uring, or epoll with helper threads where io_uring is refused. Both
//! give the same completions for the same calls.
//!
//! ```text
//! receive ─► Received* ─► ReceiveEnded           receive_into ─► ReceivedInto | ReceiveEnded
//! send ─► Sent            disk ─► Disk           close ─► ends of whatever was under way ─► Closed
//! watch_datagrams ─► DatagramsReady ─► take_datagram, until there is none ─► DatagramsReady ─► ...
//! ```
//!
//! Must never: interpret a byte, hold back a completion, or end an operation twice.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};

use super::buffer::BufferPool;
use super::disk::{DiskDone, DiskOp};
use super::fallback::Fallback;
use super::uring::Uring;

/// Which backend to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring where the machine allows it, else the fallback.
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll and helper threads.
    Fallback,
}

/// How `Persist::Durable` is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// RWF_DSYNC on the write itself.
    Dsync,
    /// A write, then fdatasync.
    Fdatasync,
}

/// What a ring is made with.
#[derive(Debug, Clone)]
pub struct RingConfig {
    pub mode: IoMode,
    /// Submission queue entries; completions get four times as many. More operations than that are fine.
    pub entries: u32,
    /// Buffers that `receive` fills: a power of two up to 32768.
    pub receive_buffers: u16,
    pub receive_buffer_bytes: u32,
    pub sync: SyncMode,
    /// Open sockets. One more is accepted and closed, and accepting stops with `AcceptFailed`.
    pub sockets_max: u32,
}

/// An accepted socket. Inert once the socket is closed, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SocketId {
    /// Below `sockets_max`, and no other open socket's: a place in a table.
    pub fn index(&self) -> usize {
        self.slot as usize
    }
}

/// A filled buffer of the ring's own. It must go back by `Ring::recycle`: a dropped one is lost to the ring.
#[derive(Debug)]
#[must_use = "a buffer that is not recycled is lost to its ring"]
pub struct ReceiveBuffer {
    pub(super) ring: RingNumber,
    pub(super) index: u16,
    pub(super) bytes: u32,
}

impl ReceiveBuffer {
    pub fn len(&self) -> usize {
        self.bytes as usize
    }

    /// Never: a received buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// Tells rings of one process apart, so that no buffer is taken for another ring's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingNumber(u32);

impl RingNumber {
    pub fn next() -> RingNumber {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        RingNumber(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a socket gives no more data.
#[derive(Debug)]
pub enum End {
    /// The peer has finished sending.
    Eof,
    Error(io::Error),
    /// By `stop_receive` or `close`.
    Canceled,
}

/// The end of an operation, or one of the things an operation goes on to tell.
#[derive(Debug)]
pub enum Completion {
    Accepted {
        listener: u32,
        socket: SocketId,
        peer: SocketAddr,
    },
    /// Accepting has stopped (EMFILE and the like) until `listen_again`.
    AcceptFailed {
        listener: u32,
        error: io::Error,
    },
    /// At least one byte.
    Received {
        socket: SocketId,
        buffer: ReceiveBuffer,
    },
    /// `bytes`, at least one, were appended to `buffer`.
    ReceivedInto {
        socket: SocketId,
        buffer: Vec<u8>,
        bytes: usize,
    },
    /// The only end of a `receive`, and the end without data of a `receive_into`, whose buffer comes back unchanged.
    ReceiveEnded {
        socket: SocketId,
        buffer: Option<Vec<u8>>,
        end: End,
    },
    /// `Ok` when every byte has been handed to the kernel.
    Sent {
        socket: SocketId,
        buffer: Vec<u8>,
        result: Result<(), io::Error>,
    },
    /// Every operation of the socket has ended; nothing more will come for it.
    Closed {
        socket: SocketId,
    },
    /// `take_datagram` has something, or was never asked. Told once, until it has been asked and had nothing.
    DatagramsReady {
        token: u32,
    },
    Disk(DiskDone),
    /// Somebody called `Remote::wake` or `wake_peer` since the last `Woken`.
    Woken,
}

/// One datagram, as far as it fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes at the start of what it was taken into. A datagram may be empty.
    pub bytes: usize,
    /// It was longer than that.
    pub is_truncated: bool,
    pub from: SocketAddr,
}

/// Why there is no ring.
#[derive(Debug)]
pub enum RingError {
    /// The sysctl says no.
    Disabled {
        value: String,
    },
    /// Something else says no: a container's filter, as a rule.
    Forbidden,
    /// Not enough lockable memory.
    Memory,
    /// The kernel lacks io_uring, or what we need of it.
    KernelTooOld {
        missing: &'static str,
    },
    Io(io::Error),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Disabled { value } => write!(
                f,
                "io_uring is disabled on this machine (kernel.io_uring_disabled={value}): \
                 sudo sysctl -w kernel.io_uring_disabled=0"
            ),
            RingError::Forbidden => f.write_str(
                "io_uring is not permitted here, most likely by a container's seccomp profile: \
                 docker run --security-opt seccomp=unconfined, or a profile that allows io_uring_setup, \
                 io_uring_enter and io_uring_register",
            ),
            RingError::Memory => f.write_str(
                "not enough lockable memory for io_uring: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit file",
            ),
            RingError::KernelTooOld { missing } => {
                write!(f, "the kernel has no {missing}: io_uring needs Linux 6.0 or later, 6.1 to be fast")
            }
            RingError::Io(error) => write!(f, "io: {error}"),
        }
    }
}

impl std::error::Error for RingError {}

/// Wakes a ring from any thread.
#[derive(Clone)]
pub struct Remote(pub(super) Arc<Doorbell>);

impl Remote {
    /// Makes the ring tell `Woken`. What the caller did before is visible to whoever then takes that completion.
    /// Calls that come before the ring has told it cost no system call.
    pub fn wake(&self) {
        if self.0.claim() {
            self.0.ring();
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

/// What a ring and its `Remote`s share.
pub(super) struct Doorbell {
    pub eventfd: OwnedFd,
    /// A wake-up is under way that its ring has not told yet.
    is_pending: AtomicBool,
    /// The io_uring to send a message to; -1 for a fallback, or when the ring is gone.
    pub ring_fd: AtomicI32,
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Doorbell { eventfd, is_pending: AtomicBool::new(false), ring_fd: AtomicI32::new(-1) })
    }

    /// True for the one caller that has to ring.
    pub fn claim(&self) -> bool {
        !self.is_pending.swap(true, Ordering::AcqRel)
    }

    /// True if somebody has claimed. The read-modify-write makes visible what every claimer did before, also of those
    /// whose claim came to nothing.
    pub fn settle(&self) -> bool {
        self.is_pending.swap(false, Ordering::AcqRel)
    }

    #[expect(clippy::host_endian_bytes, reason = "an eventfd counts in the machine's own byte order")]
    pub fn ring(&self) {
        // It can only fail when the counter is full, and then its ring is awake anyway.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

/// Belongs to the thread that made it.
///
/// Calls for a socket that is closing or closed do nothing and end in nothing.
/// Dropping a ring cancels what is under way and waits for it, because the kernel may still use the memory.
pub struct Ring {
    backend: Backend,
    notice: String,
    /// io_uring accepts submissions from the thread that made it only.
    _thread: PhantomData<Rc<()>>,
}

enum Backend {
    Uring(Box<Uring>),
    Fallback(Box<Fallback>),
}

macro_rules! backend {
    ($ring:expr, $name:ident => $call:expr) => {
        match &mut $ring.backend {
            Backend::Uring($name) => $call,
            Backend::Fallback($name) => $call,
        }
    };
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Panics
    /// If `receive_buffers` is not a power of two up to 32768, or `receive_buffer_bytes` is zero.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        assert!(config.receive_buffers.is_power_of_two());
        assert!(config.receive_buffers <= 32768);
        assert!(config.receive_buffer_bytes > 0);
        let (backend, notice) = match config.mode {
            IoMode::Fallback => (fallback(&config)?, "io: epoll and helper threads, as configured".to_string()),
            IoMode::Uring => uring(&config)?,
            IoMode::Auto => match uring(&config) {
                Ok(made) => made,
                Err(error) => (fallback(&config)?, format!("io: slow fallback (epoll and helper threads): {error}")),
            },
        };
        Ok(Ring { backend, notice, _thread: PhantomData })
    }

    pub fn is_uring(&self) -> bool {
        matches!(self.backend, Backend::Uring(_))
    }

    /// One line for the log: which backend, and why.
    pub fn notice(&self) -> &str {
        &self.notice
    }

    /// Lets the kernel pin a pool's memory once instead of at each write. False where it is refused: nothing but speed
    /// is lost.
    pub fn register_pool(&mut self, pool: &BufferPool) -> bool {
        match &mut self.backend {
            Backend::Uring(uring) => uring.register_pool(pool),
            Backend::Fallback(_) => false,
        }
    }

    /// Queues a disk operation. It ends as `Completion::Disk`.
    ///
    /// # Panics
    /// If a write or a `Device` read is not aligned to 4096, is empty, or is longer than its buffer.
    pub fn disk(&mut self, op: DiskOp) {
        check_disk_op(&op);
        backend!(self, ring => ring.disk(op));
    }

    /// Accepts on a listening socket until `stop_listening`. Accepted sockets have TCP_NODELAY.
    ///
    /// # Panics
    /// If the token is already listening.
    pub fn listen(&mut self, listener: TcpListener, token: u32) -> io::Result<()> {
        backend!(self, ring => ring.listen(listener, token))
    }

    /// Accepts again after `AcceptFailed`.
    pub fn listen_again(&mut self, token: u32) {
        backend!(self, ring => ring.listen_again(token));
    }

    /// Accepts no more. What has been accepted already is still told.
    pub fn stop_listening(&mut self, token: u32) {
        backend!(self, ring => ring.stop_listening(token));
    }

    /// Receives into the ring's own buffers until the end is told. With no buffer free it waits for `recycle`.
    ///
    /// # Panics
    /// If the socket is already receiving, that is before the last receive's end was told.
    pub fn receive(&mut self, socket: SocketId) {
        backend!(self, ring => ring.receive(socket));
    }

    /// Appends whatever comes next, up to `bytes_max`, to `buffer`, which is grown as needed.
    ///
    /// # Panics
    /// As `receive`; and if `bytes_max` is zero.
    pub fn receive_into(&mut self, socket: SocketId, buffer: Vec<u8>, bytes_max: usize) {
        assert!(bytes_max > 0);
        backend!(self, ring => ring.receive_into(socket, buffer, bytes_max));
    }

    /// Ends the receive that is under way, if one is. Data that the kernel has handed out already is told first.
    pub fn stop_receive(&mut self, socket: SocketId) {
        backend!(self, ring => ring.stop_receive(socket));
    }

    /// Sends all of `bytes`.
    ///
    /// # Panics
    /// If the last send has not ended.
    pub fn send(&mut self, socket: SocketId, bytes: Vec<u8>) {
        backend!(self, ring => ring.send(socket, bytes));
    }

    /// Tells the peer that no more comes, after the send that is under way.
    pub fn shutdown_write(&mut self, socket: SocketId) {
        backend!(self, ring => ring.shutdown_write(socket));
    }

    /// Ends the input where it is: what the kernel holds by then can still be received, and behind it comes `End::Eof`.
    /// A peer that goes on sending may get a little more in between.
    pub fn shutdown_read(&mut self, socket: SocketId) {
        backend!(self, ring => ring.shutdown_read(socket));
    }

    /// Cancels what is under way and closes the socket. Ends as `Completion::Closed`.
    pub fn close(&mut self, socket: SocketId) {
        backend!(self, ring => ring.close(socket));
    }

    /// Watches a bound socket, and tells whenever there is a datagram to take. Where the machine has no watch left, that
    /// is an error and the socket is closed.
    ///
    /// # Panics
    /// If the token is already watched.
    pub fn watch_datagrams(&mut self, socket: UdpSocket, token: u32) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        backend!(self, ring => ring.watch_datagrams(socket, token))
    }

    /// The next datagram, if there is one; what does not fit into `into` is cut off. `None` also where the token is not
    /// watched. Whoever asks no more leaves the rest with the kernel, and hears nothing until there was none.
    pub fn take_datagram(&mut self, token: u32, into: &mut [u8]) -> Option<Datagram> {
        backend!(self, ring => ring.take_datagram(token, into))
    }

    /// Closes a socket that was watched.
    pub fn forget_datagrams(&mut self, token: u32) {
        backend!(self, ring => ring.forget_datagrams(token));
    }

    /// What a buffer holds.
    ///
    /// # Panics
    /// If the buffer is another ring's.
    pub fn bytes(&self, buffer: &ReceiveBuffer) -> &[u8] {
        match &self.backend {
            Backend::Uring(ring) => ring.bytes(buffer),
            Backend::Fallback(ring) => ring.bytes(buffer),
        }
    }

    /// Gives a buffer back to be filled again.
    ///
    /// # Panics
    /// If the buffer is another ring's.
    pub fn recycle(&mut self, buffer: ReceiveBuffer) {
        backend!(self, ring => ring.recycle(buffer));
    }

    /// Something that wakes this ring from any thread.
    pub fn remote(&self) -> Remote {
        match &self.backend {
            Backend::Uring(ring) => Remote(ring.doorbell().clone()),
            Backend::Fallback(ring) => Remote(ring.doorbell().clone()),
        }
    }

    /// Wakes another ring with the next submit, without a system call of its own where both are io_urings.
    pub fn wake_peer(&mut self, remote: &Remote) {
        match &mut self.backend {
            Backend::Uring(ring) => ring.wake_peer(remote),
            Backend::Fallback(_) => remote.wake(),
        }
    }

    /// Hands queued operations to the kernel and does not wait.
    pub fn submit(&mut self) -> io::Result<()> {
        backend!(self, ring => ring.submit())
    }

    /// Submits, then waits for a completion or the timeout; zero only looks. It may return early with nothing.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        backend!(self, ring => ring.wait(timeout))
    }

    /// The next completion that the last `wait` has brought.
    #[expect(clippy::should_implement_trait, reason = "an iterator would borrow the ring across the caller's turn")]
    pub fn next(&mut self) -> Option<Completion> {
        backend!(self, ring => ring.next())
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({})", self.notice)
    }
}

fn uring(config: &RingConfig) -> Result<(Backend, String), RingError> {
    let (uring, how) = Uring::new(config)?;
    Ok((Backend::Uring(Box::new(uring)), format!("io: io_uring ({how})")))
}

fn fallback(config: &RingConfig) -> Result<Backend, RingError> {
    Ok(Backend::Fallback(Box::new(Fallback::new(config).map_err(RingError::Io)?)))
}

/// Longest disk operation: far above any block, and below what the kernel cuts a transfer to.
const DISK_OP_BYTES_MAX: usize = 1 << 30;

fn check_disk_op(op: &DiskOp) {
    let (offset, buffer, bytes, is_aligned) = match op {
        DiskOp::Write { offset, buffer, bytes, .. } => (*offset, buffer, *bytes, true),
        DiskOp::Read { offset, buffer, bytes, from, .. } => {
            (*offset, buffer, *bytes, *from == super::disk::ReadFrom::Device)
        }
        DiskOp::Sync { .. } => return,
    };
    assert!(0 < bytes);
    assert!(bytes <= buffer.len());
    assert!(bytes <= DISK_OP_BYTES_MAX);
    if is_aligned {
        assert!(offset.is_multiple_of(crate::limits::ALIGNMENT as u64));
        assert!(bytes.is_multiple_of(crate::limits::ALIGNMENT));
    }
}

/// Takes a datagram from a socket that does not block. `None`: there is none.
pub(super) fn receive_datagram(socket: &UdpSocket, into: &mut [u8]) -> Option<Datagram> {
    loop {
        let (bytes, whole_bytes, from) = match recvfrom(socket, &mut *into, RecvFlags::TRUNC) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return None,
            // Also what an ICMP error leaves behind, which says nothing about the next datagram.
            Err(Errno::INTR | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => continue,
            Err(_) => return None,
        };
        let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { continue };
        return Some(Datagram { bytes, is_truncated: bytes < whole_bytes, from });
    }
}

/// What to do about a failed accept.
pub(super) enum AcceptTrouble {
    /// That connection is gone, the next may be fine.
    Again,
    /// The next one would fail as well.
    Stop,
}

pub(super) fn accept_trouble(errno: i32) -> AcceptTrouble {
    match errno {
        libc::ECONNABORTED
        | libc::EINTR
        | libc::EAGAIN
        | libc::EPROTO
        | libc::EPERM
        | libc::ENETDOWN
        | libc::ENOPROTOOPT
        | libc::EHOSTDOWN
        | libc::ENONET
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH => AcceptTrouble::Again,
        _ => AcceptTrouble::Stop,
    }
}
