//! The ring on io_uring.
//!
//! Owns the kernel's queues and everything an operation in flight refers to: buffers, descriptors, the provided
//! receive buffers. Each lives in a slab until the completion that ends its operation; only then is it handed back.
//!
//! ```text
//! tag of a completion:   kind (8 bits) │ slot (24 bits) │ generation (32 bits)
//! ```
//!
//! Must never: free or hand out memory before the kernel has said that it is done with it, or retry a failed write.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::buffer::{Arena, Buffer, BufferPool};
use super::disk::{DiskDone, DiskError, DiskFile, DiskOp, DiskResult, Persist, ReadFrom};
use super::files::{FILES_MAX, FileTable, Place};
use super::fs::{disk_error, real};
use super::ring::{
    AcceptTrouble, Completion, Datagram, Doorbell, End, ReceiveBuffer, Remote, RingConfig, RingError, RingNumber,
    SocketId, SyncMode, accept_trouble, receive_datagram,
};
use super::slab::{SLOTS_MAX, Slab};
use crate::limits::ALIGNMENT;

/// What a completion belongs to. The high byte of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Receive,
    Send,
    /// A disk write or read, or the sync of a `DiskOp::Sync`.
    Disk,
    /// The sync behind a write.
    DiskSync,
    Cancel,
    /// Our poll of the eventfd.
    Doorbell,
    /// Our message to a peer has arrived, or not.
    MessageSent,
    /// A peer's message to us.
    Message,
    /// Our poll of a datagram socket.
    Datagrams,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Accept,
        Kind::Receive,
        Kind::Send,
        Kind::Disk,
        Kind::DiskSync,
        Kind::Cancel,
        Kind::Doorbell,
        Kind::MessageSent,
        Kind::Message,
        Kind::Datagrams,
    ];

    fn tag(self, slot: u32, generation: u32) -> u64 {
        assert!(slot < SLOTS_MAX);
        (self as u64) << 56 | u64::from(slot) << 32 | u64::from(generation)
    }

    fn of(tag: u64) -> (Kind, u32, u32) {
        let byte = (tag >> 56) as usize;
        assert!(1 <= byte);
        assert!(byte <= Kind::ALL.len());
        (Kind::ALL[byte - 1], (tag >> 32) as u32 & (SLOTS_MAX - 1), tag as u32)
    }
}

/// The group of provided buffers that every multishot receive takes from.
const BUFFER_GROUP: u16 = 0;

/// Pools that one ring can register: the commit arena, and a few for reads.
const ARENAS_MAX: usize = 4;

/// The kernel takes no larger registered buffer.
const ARENA_BYTES_MAX: usize = 1 << 30;

/// Disk operations in flight, and wake-ups under way. Callers have far lower ceilings of their own.
const DISK_MAX: u32 = 1 << 20;
const MESSAGES_MAX: u32 = 1 << 16;

/// One send or receive. The kernel cuts transfers just below 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// Seconds that `drop` waits for the kernel to let go of memory before it leaks it.
const DRAIN_SECONDS: u32 = 10;

pub(super) struct Uring {
    /// The first field, so that it goes first: what is below may be in use as long as it lives.
    ring: IoUring,
    number: RingNumber,
    sync: SyncMode,
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    datagrams: Slab<Datagrams>,
    disk: Slab<DiskFlight>,
    messages: Slab<Arc<Doorbell>>,
    provided: Provided,
    /// Sockets whose receive waits for a free buffer.
    starved: VecDeque<SocketId>,
    /// `None` where the kernel refused a table.
    files: Option<FileTable>,
    arenas: Vec<Arc<Arena>>,
    doorbell: Arc<Doorbell>,
    /// Entries that found the submission queue full, in order; those of one element stay together.
    backlog: VecDeque<Vec<squeue::Entry>>,
    reaped: Vec<cqueue::Entry>,
    events: VecDeque<Completion>,
    /// Entries pushed whose last completion has not come.
    in_flight: usize,
}

struct Socket {
    stream: TcpStream,
    receive: Receive,
    send: Option<SendFlight>,
    shutdown_after_send: bool,
    is_closing: bool,
}

enum Receive {
    Idle,
    Multishot {
        is_stopping: bool,
    },
    /// Wanted, but no buffer was free: not armed in the kernel.
    Starved,
    Into {
        buffer: Vec<u8>,
        bytes_max: usize,
        is_stopping: bool,
    },
}

struct SendFlight {
    buffer: Vec<u8>,
    sent_bytes: usize,
}

struct Listener {
    listener: TcpListener,
    token: u32,
    state: Accepting,
}

struct Datagrams {
    socket: UdpSocket,
    token: u32,
    /// The kernel tells when there is one.
    is_armed: bool,
    is_forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Armed,
    /// After `AcceptFailed`: not armed.
    Idle,
    /// Told `AcceptFailed`, and being canceled.
    Failing,
    Stopping,
}

struct DiskFlight {
    ticket: u64,
    file: DiskFile,
    work: DiskWork,
    /// Completions that the current step still waits for.
    waiting: u8,
    /// Result of the current step's transfer, and of its sync.
    transfer: Option<i32>,
    synced: Option<i32>,
    /// The link between write and sync may have been cut: sync once more before believing it.
    must_sync_again: bool,
}

enum DiskWork {
    Write { buffer: Buffer, offset: u64, bytes: usize, done_bytes: usize, persist: Persist },
    Read { buffer: Buffer, offset: u64, bytes: usize, done_bytes: usize, from: ReadFrom },
    Sync,
}

impl Uring {
    /// The ring, and how it was set up in words.
    pub fn new(config: &RingConfig) -> Result<(Uring, &'static str), RingError> {
        let (ring, how) = match set_up(config.entries, Effort::Deferred) {
            Ok(ring) => (ring, "single issuer, deferred task work"),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let ring = set_up(config.entries, Effort::Cooperative).map_err(ring_error)?;
                (ring, "single issuer, cooperative task work: slower than on Linux 6.1 or later")
            }
            Err(error) => return Err(ring_error(error)),
        };
        let provided = Provided::new(config.receive_buffers, config.receive_buffer_bytes as usize);
        provided.register(&ring).map_err(|error| match ring_error(error) {
            RingError::KernelTooOld { .. } => RingError::KernelTooOld { missing: "provided buffer rings" },
            other => other,
        })?;
        let files = ring.submitter().register_files_sparse(FILES_MAX as u32).ok().map(|()| FileTable::new());
        let doorbell = Arc::new(Doorbell::new().map_err(RingError::Io)?);
        doorbell.ring_fd.store(ring.as_raw_fd(), Ordering::Release);

        let mut uring = Uring {
            ring,
            number: RingNumber::next(),
            sync: config.sync,
            sockets: Slab::new(config.sockets_max.min(SLOTS_MAX)),
            listeners: Slab::new(SLOTS_MAX),
            datagrams: Slab::new(SLOTS_MAX),
            disk: Slab::new(DISK_MAX),
            messages: Slab::new(MESSAGES_MAX),
            provided,
            starved: VecDeque::new(),
            files,
            arenas: Vec::new(),
            doorbell,
            backlog: VecDeque::new(),
            reaped: Vec::new(),
            events: VecDeque::new(),
            in_flight: 0,
        };
        uring.watch_doorbell();
        Ok((uring, how))
    }

    #[expect(unsafe_code, reason = "the kernel is handed memory")]
    pub fn register_pool(&mut self, pool: &BufferPool) -> bool {
        let arena = pool.arena();
        if self.arenas.iter().any(|known| Arc::ptr_eq(known, arena)) {
            return true;
        }
        let index = self.arenas.len();
        if index == ARENAS_MAX || arena.bytes() > ARENA_BYTES_MAX {
            return false;
        }
        let submitter = self.ring.submitter();
        if index == 0 && submitter.register_buffers_sparse(ARENAS_MAX as u32).is_err() {
            return false;
        }
        let range = libc::iovec { iov_base: arena.start().cast(), iov_len: arena.bytes() };
        // SAFETY: `self.arenas` keeps the memory until the ring is gone; it is last in, first refused.
        let registered = unsafe { submitter.register_buffers_update(index as u32, &[range], None) };
        if registered.is_err() {
            if index == 0 {
                let _ = submitter.unregister_buffers();
            }
            return false;
        }
        self.arenas.push(arena.clone());
        true
    }

    // ── disk ──

    pub fn disk(&mut self, op: DiskOp) {
        let (ticket, file, work) = match op {
            DiskOp::Write { ticket, file, offset, buffer, bytes, persist } => {
                (ticket, file, DiskWork::Write { buffer, offset, bytes, done_bytes: 0, persist })
            }
            DiskOp::Read { ticket, file, offset, buffer, bytes, from } => {
                (ticket, file, DiskWork::Read { buffer, offset, bytes, done_bytes: 0, from })
            }
            DiskOp::Sync { ticket, file } => (ticket, file, DiskWork::Sync),
        };
        let flight =
            DiskFlight { ticket, file, work, waiting: 0, transfer: None, synced: None, must_sync_again: false };
        let Ok((slot, generation)) = self.disk.insert(flight) else {
            panic!("more than {DISK_MAX} disk operations in flight");
        };
        self.issue_disk(slot, generation);
    }

    /// Pushes the next step of a disk operation: what is left of its transfer, with its sync behind it.
    fn issue_disk(&mut self, slot: u32, generation: u32) {
        let flight = self.disk.get_mut(slot, generation).expect("an operation in flight has a place");
        flight.transfer = None;
        flight.synced = None;
        let tag = Kind::Disk.tag(slot, generation);
        let file = real(&flight.file);
        let (entry, is_linked) = match &mut flight.work {
            DiskWork::Write { buffer, offset, bytes, done_bytes, persist } => {
                let is_durable = *persist == Persist::Durable;
                let is_linked = is_durable && self.sync == SyncMode::Fdatasync;
                let flags = if is_durable && !is_linked { libc::RWF_DSYNC } else { 0 };
                let len = (*bytes - *done_bytes) as u32;
                let start = buffer[*done_bytes..].as_ptr();
                let at = *offset + *done_bytes as u64;
                let arena = self.arenas.iter().position(|arena| buffer.is_part_of(arena));
                let (fd, fd_flags) = registered_fd(&self.ring, &mut self.files, &flight.file);
                let entry = match arena {
                    Some(index) => {
                        opcode::WriteFixed::new(fd, start, len, index as u16).offset(at).rw_flags(flags).build()
                    }
                    None => opcode::Write::new(fd, start, len).offset(at).rw_flags(flags).build(),
                };
                (entry.flags(fd_flags), is_linked)
            }
            DiskWork::Read { buffer, offset, bytes, done_bytes, from } => {
                let fd = match from {
                    ReadFrom::Device => file.direct.as_raw_fd(),
                    ReadFrom::Cache => file.cached.as_raw_fd(),
                };
                let len = (*bytes - *done_bytes) as u32;
                let start = buffer[*done_bytes..].as_mut_ptr();
                (opcode::Read::new(Fd(fd), start, len).offset(*offset + *done_bytes as u64).build(), false)
            }
            DiskWork::Sync => {
                let fd = Fd(file.direct.as_raw_fd());
                (opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(), false)
            }
        };
        let entry = entry.user_data(tag);
        if is_linked {
            flight.waiting = 2;
            let sync = opcode::Fsync::new(Fd(file.direct.as_raw_fd())).flags(FsyncFlags::DATASYNC).build();
            let sync = sync.user_data(Kind::DiskSync.tag(slot, generation));
            self.push(vec![entry.flags(squeue::Flags::IO_LINK), sync]);
        } else {
            flight.waiting = 1;
            self.push_one(entry);
        }
    }

    fn on_disk(&mut self, kind: Kind, slot: u32, generation: u32, result: i32) {
        let flight = self.disk.get_mut(slot, generation).expect("a disk completion belongs to an operation");
        match kind {
            Kind::DiskSync => flight.synced = Some(result),
            _ => flight.transfer = Some(result),
        }
        flight.waiting -= 1;
        if flight.waiting > 0 {
            return;
        }
        match flight.settle() {
            Step::Finished(result) => self.finish_disk(slot, generation, result),
            Step::GoOn => self.issue_disk(slot, generation),
            Step::SyncAgain => {
                flight.must_sync_again = false;
                flight.waiting = 1;
                let fd = Fd(real(&flight.file).direct.as_raw_fd());
                let sync = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
                self.push_one(sync.user_data(Kind::DiskSync.tag(slot, generation)));
            }
        }
    }

    fn finish_disk(&mut self, slot: u32, generation: u32, result: DiskResult<usize>) {
        let flight = self.disk.remove(slot, generation).expect("an operation in flight has a place");
        let buffer = match flight.work {
            DiskWork::Write { buffer, .. } | DiskWork::Read { buffer, .. } => Some(buffer),
            DiskWork::Sync => None,
        };
        self.events.push_back(Completion::Disk(DiskDone { ticket: flight.ticket, result, buffer }));
    }

    // ── listeners ──

    pub fn listen(&mut self, listener: TcpListener, token: u32) -> io::Result<()> {
        assert!(self.find_listener(token).is_none());
        // The kernel waits for us; a non-blocking listener would answer EAGAIN instead.
        listener.set_nonblocking(false)?;
        let Ok((slot, generation)) = self.listeners.insert(Listener { listener, token, state: Accepting::Idle }) else {
            panic!("more than {SLOTS_MAX} listeners");
        };
        self.arm_accept(slot, generation);
        Ok(())
    }

    pub fn listen_again(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_listener(token) else { return };
        let listener = self.listeners.get_mut(slot, generation).expect("just found");
        match listener.state {
            Accepting::Idle => self.arm_accept(slot, generation),
            // The cancellation under way ends in a new accept.
            Accepting::Failing => listener.state = Accepting::Armed,
            Accepting::Armed | Accepting::Stopping => {}
        }
    }

    pub fn stop_listening(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_listener(token) else { return };
        let listener = self.listeners.get_mut(slot, generation).expect("just found");
        let state = std::mem::replace(&mut listener.state, Accepting::Stopping);
        if state == Accepting::Idle {
            self.listeners.remove(slot, generation);
        } else {
            self.cancel(Kind::Accept.tag(slot, generation));
        }
    }

    fn find_listener(&mut self, token: u32) -> Option<(u32, u32)> {
        self.listeners
            .iter_mut()
            .find(|(_, _, listener)| listener.token == token && listener.state != Accepting::Stopping)
            .map(|(slot, generation, _)| (slot, generation))
    }

    fn arm_accept(&mut self, slot: u32, generation: u32) {
        let listener = self.listeners.get_mut(slot, generation).expect("armed while listening");
        listener.state = Accepting::Armed;
        let fd = Fd(listener.listener.as_raw_fd());
        let accept = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push_one(accept.user_data(Kind::Accept.tag(slot, generation)));
    }

    fn on_accept(&mut self, slot: u32, generation: u32, result: i32, more: bool) {
        let is_full = result >= 0 && !self.accepted(slot, generation, result);
        let listener = self.listeners.get_mut(slot, generation).expect("a listener outlives its accept");
        let token = listener.token;
        if is_full && listener.state == Accepting::Armed {
            listener.state = Accepting::Failing;
            let error = io::Error::from_raw_os_error(libc::EMFILE);
            self.events.push_back(Completion::AcceptFailed { listener: token, error });
            if more {
                self.cancel(Kind::Accept.tag(slot, generation));
            }
        }
        if more {
            return;
        }
        let listener = self.listeners.get_mut(slot, generation).expect("looked up above");
        match listener.state {
            Accepting::Stopping => {
                self.listeners.remove(slot, generation);
            }
            Accepting::Failing => listener.state = Accepting::Idle,
            Accepting::Armed | Accepting::Idle => {
                let errno = -result;
                let is_transient =
                    result >= 0 || errno == libc::ECANCELED || matches!(accept_trouble(errno), AcceptTrouble::Again);
                if is_transient {
                    self.arm_accept(slot, generation);
                } else {
                    listener.state = Accepting::Idle;
                    let error = io::Error::from_raw_os_error(errno);
                    self.events.push_back(Completion::AcceptFailed { listener: token, error });
                }
            }
        }
    }

    /// Takes an accepted descriptor; false if there is no place for another socket.
    fn accepted(&mut self, slot: u32, generation: u32, fd: RawFd) -> bool {
        let listener = self.listeners.get_mut(slot, generation).expect("a listener outlives its accept").token;
        let stream = TcpStream::from(own_fd(fd));
        // Without an address the peer is gone already; one without TCP_NODELAY is slow but works.
        let Ok(peer) = stream.peer_addr() else { return true };
        let _ = stream.set_nodelay(true);
        self.add_socket(listener, stream, peer)
    }

    fn add_socket(&mut self, listener: u32, stream: TcpStream, peer: SocketAddr) -> bool {
        let socket =
            Socket { stream, receive: Receive::Idle, send: None, shutdown_after_send: false, is_closing: false };
        let Ok((slot, generation)) = self.sockets.insert(socket) else { return false };
        let socket = SocketId { slot, generation };
        self.events.push_back(Completion::Accepted { listener, socket, peer });
        true
    }

    // ── receiving ──

    pub fn receive(&mut self, id: SocketId) {
        let Some(socket) = self.open_socket(id) else { return };
        assert!(matches!(socket.receive, Receive::Idle));
        self.arm_multishot(id);
    }

    fn arm_multishot(&mut self, id: SocketId) {
        let socket = self.open_socket(id).expect("armed while open");
        socket.receive = Receive::Multishot { is_stopping: false };
        let fd = Fd(socket.stream.as_raw_fd());
        let receive = opcode::RecvMulti::new(fd, BUFFER_GROUP).build();
        self.push_one(receive.user_data(Kind::Receive.tag(id.slot, id.generation)));
    }

    pub fn receive_into(&mut self, id: SocketId, mut buffer: Vec<u8>, bytes_max: usize) {
        let Some(socket) = self.open_socket(id) else { return };
        assert!(matches!(socket.receive, Receive::Idle));
        buffer.reserve(bytes_max);
        socket.receive = Receive::Into { buffer, bytes_max, is_stopping: false };
        self.arm_into(id);
    }

    fn arm_into(&mut self, id: SocketId) {
        let socket = self.open_socket(id).expect("armed while open");
        let Receive::Into { buffer, bytes_max, .. } = &mut socket.receive else { panic!("armed with a buffer") };
        let spare = buffer.spare_capacity_mut();
        let len = spare.len().min(*bytes_max).min(TRANSFER_BYTES_MAX) as u32;
        let start = spare.as_mut_ptr().cast::<u8>();
        let fd = Fd(socket.stream.as_raw_fd());
        let receive = opcode::Recv::new(fd, start, len).build();
        self.push_one(receive.user_data(Kind::Receive.tag(id.slot, id.generation)));
    }

    pub fn stop_receive(&mut self, id: SocketId) {
        let Some(socket) = self.open_socket(id) else { return };
        match &mut socket.receive {
            Receive::Idle => {}
            Receive::Multishot { is_stopping } | Receive::Into { is_stopping, .. } => {
                if !std::mem::replace(is_stopping, true) {
                    self.cancel(Kind::Receive.tag(id.slot, id.generation));
                }
            }
            Receive::Starved => {
                socket.receive = Receive::Idle;
                self.receive_ended(id, None, End::Canceled);
            }
        }
    }

    fn on_receive(&mut self, id: SocketId, result: i32, flags: u32) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("a socket outlives its operations");
        match std::mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Multishot { is_stopping } => self.on_multishot(id, is_stopping, result, flags),
            Receive::Into { buffer, bytes_max, is_stopping } => {
                self.on_into(id, buffer, bytes_max, is_stopping, result);
            }
            Receive::Idle | Receive::Starved => panic!("a receive completion without a receive"),
        }
    }

    fn on_multishot(&mut self, id: SocketId, is_stopping: bool, result: i32, flags: u32) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("looked up by the caller");
        let is_closing = socket.is_closing;
        if cqueue::more(flags) {
            socket.receive = Receive::Multishot { is_stopping };
        }
        if let Some(index) = cqueue::buffer_select(flags) {
            let buffer = ReceiveBuffer { ring: self.number, index, bytes: result.max(0) as u32 };
            self.provided.out_count += 1;
            if result > 0 && !is_closing {
                self.events.push_back(Completion::Received { socket: id, buffer });
            } else {
                self.provided.give_back(buffer.index);
            }
        }
        if cqueue::more(flags) {
            return;
        }
        let end = match result {
            0 => Some(End::Eof),
            1.. => None,
            _ => match -result {
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => None,
                libc::ECANCELED => Some(End::Canceled),
                errno => Some(End::Error(io::Error::from_raw_os_error(errno))),
            },
        };
        let end = end.or_else(|| (is_stopping || is_closing).then_some(End::Canceled));
        match end {
            Some(end) => self.receive_ended(id, None, end),
            None if -result == libc::ENOBUFS => {
                let socket = self.open_socket(id).expect("a closing socket has ended above");
                socket.receive = Receive::Starved;
                self.starved.push_back(id);
            }
            None => self.arm_multishot(id),
        }
    }

    #[expect(unsafe_code, reason = "the kernel has filled spare memory")]
    fn on_into(&mut self, id: SocketId, mut buffer: Vec<u8>, bytes_max: usize, is_stopping: bool, result: i32) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("looked up by the caller");
        let is_wanted = !is_stopping && !socket.is_closing;
        if result > 0 {
            let bytes = result as usize;
            let len = buffer.len() + bytes;
            assert!(len <= buffer.capacity());
            // SAFETY: the kernel has written `bytes` bytes from the old length on, and is done with the memory.
            unsafe { buffer.set_len(len) };
            self.events.push_back(Completion::ReceivedInto { socket: id, buffer, bytes });
            self.finish_close(id);
            return;
        }
        match -result {
            0 => self.receive_ended(id, Some(buffer), End::Eof),
            libc::EINTR | libc::EAGAIN if is_wanted => {
                socket.receive = Receive::Into { buffer, bytes_max, is_stopping };
                self.arm_into(id);
            }
            libc::EINTR | libc::EAGAIN | libc::ECANCELED => self.receive_ended(id, Some(buffer), End::Canceled),
            errno => {
                let error = io::Error::from_raw_os_error(errno);
                self.receive_ended(id, Some(buffer), End::Error(error));
            }
        }
    }

    fn receive_ended(&mut self, id: SocketId, buffer: Option<Vec<u8>>, end: End) {
        self.events.push_back(Completion::ReceiveEnded { socket: id, buffer, end });
        self.finish_close(id);
    }

    /// Arms the receives that found no buffer, once there is one. All of them: which has data is not known, and one
    /// that finds none again costs a completion.
    fn feed_starved(&mut self) {
        if self.provided.is_empty() {
            return;
        }
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { break };
            let Some(socket) = self.open_socket(id) else { continue };
            if matches!(socket.receive, Receive::Starved) {
                self.arm_multishot(id);
            }
        }
    }

    pub fn bytes(&self, buffer: &ReceiveBuffer) -> &[u8] {
        assert!(buffer.ring == self.number);
        self.provided.bytes(buffer)
    }

    pub fn recycle(&mut self, buffer: ReceiveBuffer) {
        assert!(buffer.ring == self.number);
        self.provided.give_back(buffer.index);
    }

    // ── sending and closing ──

    pub fn send(&mut self, id: SocketId, buffer: Vec<u8>) {
        let Some(socket) = self.open_socket(id) else { return };
        assert!(socket.send.is_none());
        if buffer.is_empty() {
            self.events.push_back(Completion::Sent { socket: id, buffer, result: Ok(()) });
            return;
        }
        socket.send = Some(SendFlight { buffer, sent_bytes: 0 });
        self.issue_send(id);
    }

    fn issue_send(&mut self, id: SocketId) {
        let socket = self.open_socket(id).expect("sent while open");
        let Some(send) = &socket.send else { panic!("sent with a buffer") };
        let rest = &send.buffer[send.sent_bytes..];
        let len = rest.len().min(TRANSFER_BYTES_MAX) as u32;
        // MSG_WAITALL lets the kernel itself go on after a partial send.
        let entry = opcode::Send::new(Fd(socket.stream.as_raw_fd()), rest.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push_one(entry.user_data(Kind::Send.tag(id.slot, id.generation)));
    }

    fn on_send(&mut self, id: SocketId, result: i32) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("a socket outlives its operations");
        let mut send = socket.send.take().expect("a send completion belongs to a send");
        let result = if result >= 0 {
            send.sent_bytes += result as usize;
            assert!(send.sent_bytes <= send.buffer.len());
            Ok(())
        } else {
            Err(-result)
        };
        let result = match result {
            Ok(()) if send.sent_bytes == send.buffer.len() => Ok(()),
            Ok(()) | Err(libc::EINTR | libc::EAGAIN) if !socket.is_closing => {
                socket.send = Some(send);
                return self.issue_send(id);
            }
            Ok(()) => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        };
        if socket.shutdown_after_send {
            socket.shut_down_write();
        }
        self.events.push_back(Completion::Sent { socket: id, buffer: send.buffer, result });
        self.finish_close(id);
    }

    pub fn shutdown_write(&mut self, id: SocketId) {
        let Some(socket) = self.open_socket(id) else { return };
        if socket.send.is_some() {
            socket.shutdown_after_send = true;
        } else {
            socket.shut_down_write();
        }
    }

    pub fn shutdown_read(&mut self, id: SocketId) {
        let Some(socket) = self.open_socket(id) else { return };
        // A peer that is gone already sends no more.
        let _ = socket.stream.shutdown(std::net::Shutdown::Read);
    }

    pub fn close(&mut self, id: SocketId) {
        let Some(socket) = self.open_socket(id) else { return };
        socket.is_closing = true;
        let is_sending = socket.send.is_some();
        match &mut socket.receive {
            Receive::Idle => {}
            Receive::Multishot { is_stopping } | Receive::Into { is_stopping, .. } => {
                if !std::mem::replace(is_stopping, true) {
                    self.cancel(Kind::Receive.tag(id.slot, id.generation));
                }
            }
            Receive::Starved => {
                socket.receive = Receive::Idle;
                self.events.push_back(Completion::ReceiveEnded { socket: id, buffer: None, end: End::Canceled });
            }
        }
        if is_sending {
            self.cancel(Kind::Send.tag(id.slot, id.generation));
        }
        self.finish_close(id);
    }

    /// Lets go of a closing socket once the kernel has.
    fn finish_close(&mut self, id: SocketId) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("called for a live socket");
        if socket.is_closing && socket.send.is_none() && matches!(socket.receive, Receive::Idle) {
            self.sockets.remove(id.slot, id.generation);
            self.events.push_back(Completion::Closed { socket: id });
        }
    }

    /// A socket that is neither closed nor closing.
    fn open_socket(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.slot, id.generation).filter(|socket| !socket.is_closing)
    }

    // ── datagrams ──

    pub fn watch_datagrams(&mut self, socket: UdpSocket, token: u32) -> io::Result<()> {
        assert!(self.find_datagrams(token).is_none());
        let watched = Datagrams { socket, token, is_armed: false, is_forgotten: false };
        let Ok((slot, generation)) = self.datagrams.insert(watched) else {
            panic!("more than {SLOTS_MAX} datagram sockets");
        };
        self.arm_datagrams(slot, generation);
        Ok(())
    }

    pub fn take_datagram(&mut self, token: u32, into: &mut [u8]) -> Option<Datagram> {
        let (slot, generation) = self.find_datagrams(token)?;
        let datagrams = self.datagrams.get(slot, generation).expect("just found");
        let taken = receive_datagram(&datagrams.socket, into);
        if taken.is_none() {
            self.arm_datagrams(slot, generation);
        }
        taken
    }

    pub fn forget_datagrams(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_datagrams(token) else { return };
        let datagrams = self.datagrams.get_mut(slot, generation).expect("just found");
        datagrams.is_forgotten = true;
        if datagrams.is_armed {
            self.cancel(Kind::Datagrams.tag(slot, generation));
        } else {
            self.datagrams.remove(slot, generation);
        }
    }

    fn find_datagrams(&mut self, token: u32) -> Option<(u32, u32)> {
        let mut all = self.datagrams.iter_mut();
        all.find(|(_, _, known)| known.token == token && !known.is_forgotten)
            .map(|(slot, generation, _)| (slot, generation))
    }

    /// One poll that ends with the first datagram: one that was told is not told again for each that follows it.
    fn arm_datagrams(&mut self, slot: u32, generation: u32) {
        let datagrams = self.datagrams.get_mut(slot, generation).expect("armed while watched");
        if std::mem::replace(&mut datagrams.is_armed, true) {
            return;
        }
        let poll = opcode::PollAdd::new(Fd(datagrams.socket.as_raw_fd()), libc::POLLIN as u32).build();
        self.push_one(poll.user_data(Kind::Datagrams.tag(slot, generation)));
    }

    fn on_datagrams(&mut self, slot: u32, generation: u32) {
        let datagrams = self.datagrams.get_mut(slot, generation).expect("a socket outlives its poll");
        datagrams.is_armed = false;
        if datagrams.is_forgotten {
            self.datagrams.remove(slot, generation);
        } else {
            // Also where the poll failed: whoever asks finds nothing, and arms it again.
            self.events.push_back(Completion::DatagramsReady { token: datagrams.token });
        }
    }

    // ── waking ──

    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    /// A multishot poll tells every write to the eventfd; its count is never read.
    fn watch_doorbell(&mut self) {
        let fd = Fd(self.doorbell.eventfd.as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push_one(poll.user_data(Kind::Doorbell.tag(0, 0)));
    }

    pub fn wake_peer(&mut self, remote: &Remote) {
        let doorbell = &remote.0;
        if !doorbell.claim() {
            return;
        }
        let ring_fd = doorbell.ring_fd.load(Ordering::Acquire);
        if ring_fd < 0 {
            return doorbell.ring();
        }
        match self.messages.insert(doorbell.clone()) {
            Ok((slot, generation)) => {
                // The peer may go away before this is submitted. The message then fails, or reaches another ring of
                // ours that has got the number, which takes it for a wake-up that found nothing.
                let message = opcode::MsgRingData::new(Fd(ring_fd), 0, Kind::Message.tag(0, 0), None).build();
                self.push_one(message.user_data(Kind::MessageSent.tag(slot, generation)));
            }
            Err(doorbell) => doorbell.ring(),
        }
    }

    fn woken(&mut self) {
        if self.doorbell.settle() {
            self.events.push_back(Completion::Woken);
        }
    }

    // ── queues ──

    pub fn submit(&mut self) -> io::Result<()> {
        self.feed_starved();
        loop {
            self.drain_backlog();
            let submission = self.ring.submission();
            if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
                return Ok(());
            }
            drop(submission);
            self.enter(0, None)?;
            if self.backlog.is_empty() || !self.ring.submission().is_empty() {
                return Ok(());
            }
        }
    }

    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.submit_backlog()?;
        let has_something = !self.events.is_empty() || !self.ring.completion().is_empty();
        if has_something || timeout == Some(Duration::ZERO) {
            self.submit()?;
        } else {
            self.feed_starved();
            self.enter(1, timeout)?;
        }
        self.reap();
        if self.ring.submission().cq_overflow() {
            self.enter(0, None)?;
            self.reap();
        }
        Ok(())
    }

    pub fn next(&mut self) -> Option<Completion> {
        self.events.pop_front()
    }

    /// Before waiting: what did not fit into the submission queue must not wait for a completion of something else.
    fn submit_backlog(&mut self) -> io::Result<()> {
        if self.backlog.is_empty() { Ok(()) } else { self.submit() }
    }

    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout {
            None => self.ring.submit_and_wait(want),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timeout))
            }
        };
        if !self.ring.submission().is_empty() {
            self.links_may_be_cut();
        }
        match result {
            Ok(_) => Ok(()),
            // Nothing came in time, a signal came, memory is short for a moment, completions want to be reaped first:
            // in each case the caller's next turn goes on where this one stopped.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The kernel has taken only a part of the queue. A chain ends where a submission ends, so that a sync may have
    /// been parted from its write and run before it: none in flight is believed.
    fn links_may_be_cut(&mut self) {
        if self.sync == SyncMode::Fdatasync {
            for (_, _, flight) in self.disk.iter_mut() {
                flight.must_sync_again |= flight.waiting > 0 && flight.is_durable_write();
            }
        }
    }

    fn push_one(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if self.backlog.is_empty() {
            if self.try_push(std::slice::from_ref(&entry)) {
                return;
            }
            // An error here shows again at the next submit.
            let _ = self.enter(0, None);
            if self.try_push(std::slice::from_ref(&entry)) {
                return;
            }
        }
        self.backlog.push_back(vec![entry]);
    }

    /// Pushes entries that are linked.
    fn push(&mut self, entries: Vec<squeue::Entry>) {
        self.in_flight += entries.len();
        if self.backlog.is_empty() {
            if self.try_push(&entries) {
                return;
            }
            let _ = self.enter(0, None);
            if self.try_push(&entries) {
                return;
            }
        }
        self.backlog.push_back(entries);
    }

    fn drain_backlog(&mut self) {
        while let Some(entries) = self.backlog.pop_front() {
            if !self.try_push(&entries) {
                self.backlog.push_front(entries);
                return;
            }
        }
    }

    #[expect(unsafe_code, reason = "the kernel is handed memory")]
    fn try_push(&mut self, entries: &[squeue::Entry]) -> bool {
        // SAFETY: every entry refers to memory and descriptors in `sockets`, `listeners`, `datagrams`, `disk`,
        // `provided` or `doorbell`, in allocations that do not move. They stay there until the completion with the entry's tag has
        // come; `drop` waits for those that are left, and leaks what does not come back.
        unsafe { self.ring.submission().push_multiple(entries) }.is_ok()
    }

    fn cancel(&mut self, tag: u64) {
        let cancel = opcode::AsyncCancel::new(tag).build();
        self.push_one(cancel.user_data(Kind::Cancel.tag(0, 0)));
    }

    fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion());
        for entry in reaped.drain(..) {
            self.on_completion(&entry);
        }
        self.reaped = reaped;
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) {
        let (kind, slot, generation) = Kind::of(entry.user_data());
        let result = entry.result();
        let more = cqueue::more(entry.flags());
        if kind != Kind::Message && !more {
            self.in_flight -= 1;
        }
        match kind {
            Kind::Accept => self.on_accept(slot, generation, result, more),
            Kind::Receive => self.on_receive(SocketId { slot, generation }, result, entry.flags()),
            Kind::Send => self.on_send(SocketId { slot, generation }, result),
            Kind::Disk | Kind::DiskSync => self.on_disk(kind, slot, generation, result),
            // What was to be canceled tells its own end, or has told it.
            Kind::Cancel => {}
            Kind::Doorbell => {
                if !more {
                    self.watch_doorbell();
                }
                self.woken();
            }
            Kind::MessageSent => {
                let doorbell = self.messages.remove(slot, generation).expect("a message has a place");
                if result < 0 {
                    doorbell.ring();
                }
            }
            Kind::Message => self.woken(),
            Kind::Datagrams => self.on_datagrams(slot, generation),
        }
    }

    /// Cancels everything and waits for its end. False if the kernel still holds something.
    fn drain(&mut self) -> bool {
        self.in_flight -= self.backlog.iter().map(Vec::len).sum::<usize>();
        self.backlog.clear();
        for _ in 0..DRAIN_SECONDS {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            self.push_one(cancel.user_data(Kind::Cancel.tag(0, 0)));
            let mut is_quiet = false;
            while self.in_flight > 0 && !is_quiet {
                let before = self.in_flight;
                if self.enter(1, Some(Duration::from_secs(1))).is_err() {
                    return false;
                }
                self.discard();
                is_quiet = before == self.in_flight;
            }
            if self.in_flight == 0 && self.backlog.is_empty() {
                return true;
            }
        }
        false
    }

    /// Counts completions, and closes what was accepted meanwhile.
    fn discard(&mut self) {
        self.drain_backlog();
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion());
        for entry in reaped.drain(..) {
            let (kind, _, _) = Kind::of(entry.user_data());
            if kind != Kind::Message && !cqueue::more(entry.flags()) {
                self.in_flight -= 1;
            }
            if kind == Kind::Accept && entry.result() >= 0 {
                drop(own_fd(entry.result()));
            }
        }
        self.reaped = reaped;
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.doorbell.ring_fd.store(-1, Ordering::Release);
        // Peers whose message may not leave any more are woken the other way.
        for (_, _, doorbell) in self.messages.iter_mut() {
            doorbell.ring();
        }
        if self.drain() {
            let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
            return;
        }
        // Whatever the kernel still writes to must not become somebody else's memory.
        std::mem::forget(std::mem::replace(&mut self.sockets, Slab::new(0)));
        std::mem::forget(std::mem::replace(&mut self.listeners, Slab::new(0)));
        std::mem::forget(std::mem::replace(&mut self.datagrams, Slab::new(0)));
        std::mem::forget(std::mem::replace(&mut self.disk, Slab::new(0)));
        std::mem::forget(std::mem::replace(&mut self.provided, Provided::new(1, 1)));
        std::mem::forget(std::mem::take(&mut self.arenas));
        std::mem::forget(self.doorbell.clone());
    }
}

impl Socket {
    fn shut_down_write(&mut self) {
        self.shutdown_after_send = false;
        // A peer that is gone already needs no telling.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

enum Step {
    Finished(DiskResult<usize>),
    GoOn,
    SyncAgain,
}

impl DiskFlight {
    fn is_durable_write(&self) -> bool {
        matches!(self.work, DiskWork::Write { persist: Persist::Durable, .. })
    }

    /// What follows from the results of the current step.
    fn settle(&mut self) -> Step {
        let transfer = self.transfer.take();
        let synced = self.synced.take();
        match &mut self.work {
            DiskWork::Sync => Step::Finished(bytes_of(transfer.unwrap_or(0))),
            DiskWork::Read { bytes, done_bytes, from, .. } => {
                let count = match bytes_of(transfer.expect("a read has one result")) {
                    Ok(count) => count,
                    Err(DiskError::Io(libc::EINTR | libc::EAGAIN)) => return Step::GoOn,
                    Err(error) => return Step::Finished(Err(error)),
                };
                *done_bytes += count;
                assert!(*done_bytes <= *bytes);
                // Past the cache a count that is no multiple of the alignment can only come from the file's end.
                let is_last_block = *from == ReadFrom::Device && !done_bytes.is_multiple_of(ALIGNMENT);
                let is_finished = count == 0 || *done_bytes == *bytes || is_last_block;
                if is_finished { Step::Finished(Ok(*done_bytes)) } else { Step::GoOn }
            }
            DiskWork::Write { bytes, done_bytes, .. } => {
                if let Some(transfer) = transfer {
                    let count = match bytes_of(transfer) {
                        Ok(count) => count,
                        Err(error) => return Step::Finished(Err(error)),
                    };
                    *done_bytes += count;
                    assert!(*done_bytes <= *bytes);
                    if *done_bytes < *bytes {
                        // A sync behind it was canceled with the link, and comes again with the rest.
                        let can_go_on = count > 0 && done_bytes.is_multiple_of(ALIGNMENT);
                        return if can_go_on { Step::GoOn } else { Step::Finished(Err(DiskError::ShortTransfer)) };
                    }
                }
                match synced.map(bytes_of) {
                    Some(Err(error)) => Step::Finished(Err(error)),
                    Some(Ok(_)) if self.must_sync_again => Step::SyncAgain,
                    Some(Ok(_)) | None => Step::Finished(Ok(*bytes)),
                }
            }
        }
    }
}

fn bytes_of(result: i32) -> DiskResult<usize> {
    usize::try_from(result).map_err(|_| disk_error(Errno::from_raw_os_error(-result)))
}

/// The descriptor to write a file through: its slot in the table, where it has one.
fn registered_fd(ring: &IoUring, files: &mut Option<FileTable>, file: &DiskFile) -> (Fd, squeue::Flags) {
    let plain = (Fd(real(file).direct.as_raw_fd()), squeue::Flags::empty());
    let Some(files) = files else { return plain };
    for slot in files.sweep() {
        if ring.submitter().register_files_update(slot, &[-1]).is_ok() {
            files.forget(slot);
        }
    }
    let slot = match files.place(file) {
        Place::Known(slot) => slot,
        Place::New(slot) => {
            if ring.submitter().register_files_update(slot, &[plain.0.0]).is_err() {
                files.forget(slot);
                return plain;
            }
            slot
        }
        Place::Full => return plain,
    };
    (Fd(slot as i32), squeue::Flags::FIXED_FILE)
}

#[expect(unsafe_code, reason = "the kernel hands over a descriptor")]
fn own_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: the result of an accept is a new descriptor that nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

enum Effort {
    /// Linux 6.1.
    Deferred,
    /// Linux 6.0, the first with multishot receives.
    Cooperative,
}

fn set_up(entries: u32, effort: Effort) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(entries.saturating_mul(4)).setup_clamp();
    builder.setup_submit_all().setup_single_issuer().setup_taskrun_flag().dontfork();
    match effort {
        Effort::Deferred => builder.setup_defer_taskrun(),
        Effort::Cooperative => builder.setup_coop_taskrun(),
    };
    builder.build(entries)
}

fn ring_error(error: io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            match value.trim() {
                "" | "0" => RingError::Forbidden,
                value => RingError::Disabled { value: value.to_string() },
            }
        }
        Some(libc::ENOMEM) => RingError::Memory,
        Some(libc::EINVAL | libc::ENOSYS) => RingError::KernelTooOld { missing: "io_uring with single issuer" },
        _ => RingError::Io(error),
    }
}

/// The buffers that multishot receives fill, and the ring that offers them to the kernel.
///
/// A buffer is the kernel's from `give_back` until a completion names it, and its holder's from then on.
struct Provided {
    /// `BufRingEntry`s, shared with the kernel; the tail lies in the first one.
    entries: Buffer,
    entries_start: *mut BufRingEntry,
    _data: Buffer,
    data_start: *mut u8,
    bytes_each: usize,
    count: u16,
    tail: u16,
    /// Buffers that a completion has named and nobody has given back.
    out_count: u16,
}

impl Provided {
    fn new(count: u16, bytes_each: usize) -> Provided {
        let mut entries = Buffer::new(usize::from(count) * size_of::<BufRingEntry>());
        let mut data = Buffer::new(usize::from(count) * bytes_each);
        let entries_start = entries.as_mut_ptr().cast::<BufRingEntry>();
        let data_start = data.as_mut_ptr();
        let mut provided =
            Provided { entries, entries_start, _data: data, data_start, bytes_each, count, tail: 0, out_count: count };
        for index in 0..count {
            provided.give_back(index);
        }
        provided
    }

    #[expect(unsafe_code, reason = "the kernel is handed memory")]
    fn register(&self, ring: &IoUring) -> io::Result<()> {
        assert!(size_of::<BufRingEntry>() * usize::from(self.count) <= self.entries.len());
        let start = self.entries_start as u64;
        // SAFETY: both allocations are fields of the ring that live until it is drained and this is unregistered.
        unsafe { ring.submitter().register_buf_ring_with_flags(start, self.count, BUFFER_GROUP, 0) }
    }

    /// Whether the kernel has none left, as far as we have heard.
    fn is_empty(&self) -> bool {
        self.out_count == self.count
    }

    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    fn give_back(&mut self, index: u16) {
        assert!(index < self.count);
        assert!(0 < self.out_count);
        self.out_count -= 1;
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: place and index are below `count`, for which both allocations are large enough. The kernel reads an
        // entry only below the tail, which the release store moves past it; we are the only writer.
        unsafe {
            let entry = &mut *self.entries_start.add(place);
            entry.set_addr(self.data_start.add(usize::from(index) * self.bytes_each) as u64);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries_start).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    fn bytes(&self, buffer: &ReceiveBuffer) -> &[u8] {
        assert!(buffer.index < self.count);
        assert!(buffer.bytes as usize <= self.bytes_each);
        // SAFETY: the buffer is its holder's: the kernel gets it back only by `give_back`, which consumes the
        // `ReceiveBuffer` that is borrowed here. The slice covers this buffer alone.
        unsafe {
            let start = self.data_start.add(usize::from(buffer.index) * self.bytes_each);
            std::slice::from_raw_parts(start, buffer.bytes as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: i32 = ALIGNMENT as i32;

    #[derive(Debug, PartialEq, Eq)]
    enum Outcome {
        Finished(DiskResult<usize>),
        GoOn,
        SyncAgain,
    }

    fn outcome(mut flight: DiskFlight, transfer: Option<i32>, synced: Option<i32>) -> Outcome {
        flight.transfer = transfer;
        flight.synced = synced;
        match flight.settle() {
            Step::Finished(result) => Outcome::Finished(result),
            Step::GoOn => Outcome::GoOn,
            Step::SyncAgain => Outcome::SyncAgain,
        }
    }

    fn flight(work: DiskWork) -> DiskFlight {
        let file = DiskFile::simulated(0);
        DiskFlight { ticket: 0, file, work, waiting: 0, transfer: None, synced: None, must_sync_again: false }
    }

    /// A durable write of two blocks.
    fn write() -> DiskFlight {
        let (buffer, bytes) = (Buffer::new(2 * ALIGNMENT), 2 * ALIGNMENT);
        flight(DiskWork::Write { buffer, offset: 0, bytes, done_bytes: 0, persist: Persist::Durable })
    }

    fn read(from: ReadFrom) -> DiskFlight {
        let (buffer, bytes) = (Buffer::new(2 * ALIGNMENT), 2 * ALIGNMENT);
        flight(DiskWork::Read { buffer, offset: 0, bytes, done_bytes: 0, from })
    }

    #[test]
    fn a_write_is_durable_only_whole_and_synced() {
        let whole = 2 * ALIGNMENT;
        let ok = Outcome::Finished(Ok(whole));
        let failed = |errno| Outcome::Finished(Err(DiskError::Io(errno)));
        let check = |transfer, synced, expected| assert_eq!(outcome(write(), transfer, synced), expected);
        check(Some(2 * BLOCK), None, ok);
        check(Some(2 * BLOCK), Some(0), Outcome::Finished(Ok(whole)));
        check(Some(2 * BLOCK), Some(-libc::EIO), failed(libc::EIO));
        check(Some(2 * BLOCK), Some(-libc::ECANCELED), failed(libc::ECANCELED));
        check(Some(-libc::EIO), Some(-libc::ECANCELED), failed(libc::EIO));
        check(Some(-libc::EINTR), None, failed(libc::EINTR));
        check(Some(-libc::ENOSPC), None, Outcome::Finished(Err(DiskError::NoSpace)));
        check(Some(BLOCK), Some(-libc::ECANCELED), Outcome::GoOn);
        check(Some(BLOCK), None, Outcome::GoOn);
        check(Some(512), None, Outcome::Finished(Err(DiskError::ShortTransfer)));
        check(Some(0), None, Outcome::Finished(Err(DiskError::ShortTransfer)));
    }

    #[test]
    fn a_sync_that_may_have_overtaken_its_write_is_not_believed() {
        let doubtful = DiskFlight { must_sync_again: true, ..write() };
        assert_eq!(outcome(doubtful, Some(2 * BLOCK), Some(0)), Outcome::SyncAgain);
        let doubtful = DiskFlight { must_sync_again: true, ..write() };
        assert_eq!(
            outcome(doubtful, Some(2 * BLOCK), Some(-libc::EIO)),
            Outcome::Finished(Err(DiskError::Io(libc::EIO)))
        );
        assert_eq!(outcome(write(), None, Some(0)), Outcome::Finished(Ok(2 * ALIGNMENT)));
    }

    #[test]
    fn a_read_goes_on_to_the_end_of_the_file() {
        let finished = |bytes| Outcome::Finished(Ok(bytes));
        for from in [ReadFrom::Cache, ReadFrom::Device] {
            assert_eq!(outcome(read(from), Some(2 * BLOCK), None), finished(2 * ALIGNMENT));
            assert_eq!(outcome(read(from), Some(BLOCK), None), Outcome::GoOn);
            assert_eq!(outcome(read(from), Some(0), None), finished(0));
            assert_eq!(outcome(read(from), Some(-libc::EINTR), None), Outcome::GoOn);
            assert_eq!(outcome(read(from), Some(-libc::EIO), None), Outcome::Finished(Err(DiskError::Io(libc::EIO))));
        }
        assert_eq!(outcome(read(ReadFrom::Cache), Some(100), None), Outcome::GoOn);
        assert_eq!(outcome(read(ReadFrom::Device), Some(100), None), finished(100));
    }

    #[test]
    fn tags_name_their_operation() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.tag(SLOTS_MAX - 1, u32::MAX)), (kind, SLOTS_MAX - 1, u32::MAX));
            assert_eq!(Kind::of(kind.tag(0, 0)), (kind, 0, 0));
        }
    }
}
