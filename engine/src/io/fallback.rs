//! The ring without io_uring: epoll for sockets, helper threads for the disk.
//!
//! Owns the sockets and the threads. Slower, and otherwise indistinguishable from `uring`: the same calls end in the
//! same completions, which the tests of both hold.
//!
//! Must never: block in a call other than `wait`, or poll a socket that nobody wants anything of.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with};

use super::disk::{DiskDone, DiskError, DiskOp, DiskResult, Persist, ReadFrom};
use super::fs::{RealFile, disk_error, real};
use super::ring::{
    AcceptTrouble, Completion, Datagram, Doorbell, End, ReceiveBuffer, RingConfig, RingNumber, SocketId, SyncMode,
    accept_trouble, receive_datagram,
};
use super::slab::{SLOTS_MAX, Slab};
use crate::limits::ALIGNMENT;

/// As many as a shard has blocks in flight.
const DISK_THREADS: usize = 4;

/// Events of one look at epoll.
const EVENTS_MAX: usize = 256;

/// Connections taken, and buffers filled, from one ready socket before the others get their turn.
const ACCEPTS_PER_EVENT: usize = 64;
const RECEIVES_PER_EVENT: usize = 4;

/// One `receive_into`: what it prepares is zeroed first, so that it must not be much more than what comes.
const INTO_BYTES_MAX: usize = 256 << 10;

const DOORBELL: u64 = 0;
const LISTENER: u64 = 1;
const SOCKET: u64 = 2;
const DATAGRAMS: u64 = 3;

fn tag(kind: u64, slot: u32, generation: u32) -> epoll::EventData {
    assert!(slot < SLOTS_MAX);
    epoll::EventData::new_u64(kind << 56 | u64::from(slot) << 32 | u64::from(generation))
}

pub(super) struct Fallback {
    epoll: OwnedFd,
    number: RingNumber,
    sync: SyncMode,
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    datagrams: Slab<Datagrams>,
    buffers: Vec<Vec<u8>>,
    free: Vec<u16>,
    /// Sockets whose receive waits for a free buffer.
    starved: VecDeque<SocketId>,
    /// Started with the first operation.
    disk: Option<DiskThreads>,
    doorbell: Arc<Doorbell>,
    ready: Vec<epoll::Event>,
    events: VecDeque<Completion>,
}

struct Socket {
    stream: TcpStream,
    receive: Receive,
    send: Option<SendFlight>,
    shutdown_after_send: bool,
    /// What epoll watches; it does not know the socket while this is empty.
    interest: epoll::EventFlags,
}

enum Receive {
    Idle,
    Multishot,
    /// Wanted, but no buffer was free: not watched.
    Starved,
    Into {
        buffer: Vec<u8>,
        bytes_max: usize,
    },
}

struct SendFlight {
    buffer: Vec<u8>,
    sent_bytes: usize,
}

struct Listener {
    listener: TcpListener,
    token: u32,
    is_armed: bool,
}

struct Datagrams {
    socket: UdpSocket,
    token: u32,
    /// epoll tells when there is one.
    is_armed: bool,
}

impl Fallback {
    pub fn new(config: &RingConfig) -> io::Result<Fallback> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let doorbell = Arc::new(Doorbell::new()?);
        epoll::add(&epoll, &doorbell.eventfd, tag(DOORBELL, 0, 0), epoll::EventFlags::IN)?;
        let count = config.receive_buffers;
        Ok(Fallback {
            epoll,
            number: RingNumber::next(),
            sync: config.sync,
            sockets: Slab::new(config.sockets_max.min(SLOTS_MAX)),
            listeners: Slab::new(SLOTS_MAX),
            datagrams: Slab::new(SLOTS_MAX),
            buffers: (0..count).map(|_| vec![0; config.receive_buffer_bytes as usize]).collect(),
            free: (0..count).rev().collect(),
            starved: VecDeque::new(),
            disk: None,
            doorbell,
            ready: Vec::with_capacity(EVENTS_MAX),
            events: VecDeque::new(),
        })
    }

    pub fn disk(&mut self, op: DiskOp) {
        let (doorbell, sync) = (&self.doorbell, self.sync);
        self.disk.get_or_insert_with(|| DiskThreads::start(doorbell, sync)).submit(op);
    }

    // ── listeners ──

    pub fn listen(&mut self, listener: TcpListener, token: u32) -> io::Result<()> {
        assert!(self.find_listener(token).is_none());
        listener.set_nonblocking(true)?;
        let Ok((slot, generation)) = self.listeners.insert(Listener { listener, token, is_armed: false }) else {
            panic!("more than {SLOTS_MAX} listeners");
        };
        self.arm_accept(slot, generation)
    }

    pub fn listen_again(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_listener(token) else { return };
        if let Err(error) = self.arm_accept(slot, generation) {
            self.events.push_back(Completion::AcceptFailed { listener: token, error });
        }
    }

    pub fn stop_listening(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_listener(token) else { return };
        self.disarm_accept(slot, generation);
        self.listeners.remove(slot, generation);
    }

    fn find_listener(&mut self, token: u32) -> Option<(u32, u32)> {
        self.listeners
            .iter_mut()
            .find(|(_, _, listener)| listener.token == token)
            .map(|(slot, generation, _)| (slot, generation))
    }

    fn arm_accept(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let listener = self.listeners.get_mut(slot, generation).expect("armed while listening");
        if !listener.is_armed {
            let data = tag(LISTENER, slot, generation);
            epoll::add(&self.epoll, &listener.listener, data, epoll::EventFlags::IN)?;
            listener.is_armed = true;
        }
        Ok(())
    }

    fn disarm_accept(&mut self, slot: u32, generation: u32) {
        let listener = self.listeners.get_mut(slot, generation).expect("disarmed while listening");
        if std::mem::replace(&mut listener.is_armed, false) {
            // It cannot fail for a descriptor that is watched.
            let _ = epoll::delete(&self.epoll, &listener.listener);
        }
    }

    fn on_listener(&mut self, slot: u32, generation: u32) {
        for _ in 0..ACCEPTS_PER_EVENT {
            let Some(listener) = self.listeners.get(slot, generation) else { return };
            let token = listener.token;
            let error = match accept_with(&listener.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) => {
                    let stream = TcpStream::from(fd);
                    // Without an address the peer is gone already; one without TCP_NODELAY is slow but works.
                    let Ok(peer) = stream.peer_addr() else { continue };
                    let _ = stream.set_nodelay(true);
                    if self.add_socket(token, stream, peer) {
                        continue;
                    }
                    io::Error::from_raw_os_error(libc::EMFILE)
                }
                Err(Errno::AGAIN) => return,
                Err(errno) => match accept_trouble(errno.raw_os_error()) {
                    AcceptTrouble::Again => continue,
                    AcceptTrouble::Stop => errno.into(),
                },
            };
            self.disarm_accept(slot, generation);
            self.events.push_back(Completion::AcceptFailed { listener: token, error });
            return;
        }
    }

    fn add_socket(&mut self, listener: u32, stream: TcpStream, peer: SocketAddr) -> bool {
        let socket = Socket {
            stream,
            receive: Receive::Idle,
            send: None,
            shutdown_after_send: false,
            interest: epoll::EventFlags::empty(),
        };
        let Ok((slot, generation)) = self.sockets.insert(socket) else { return false };
        let socket = SocketId { slot, generation };
        self.events.push_back(Completion::Accepted { listener, socket, peer });
        true
    }

    // ── receiving ──

    pub fn receive(&mut self, id: SocketId) {
        let Some(socket) = self.socket(id) else { return };
        assert!(matches!(socket.receive, Receive::Idle));
        socket.receive = Receive::Multishot;
        self.watch(id);
    }

    pub fn receive_into(&mut self, id: SocketId, buffer: Vec<u8>, bytes_max: usize) {
        let Some(socket) = self.socket(id) else { return };
        assert!(matches!(socket.receive, Receive::Idle));
        socket.receive = Receive::Into { buffer, bytes_max };
        self.watch(id);
    }

    pub fn stop_receive(&mut self, id: SocketId) {
        self.end_receive(id, End::Canceled);
    }

    /// Tells the end of the receive that is under way, if one is.
    fn end_receive(&mut self, id: SocketId, end: End) {
        let Some(socket) = self.socket(id) else { return };
        let buffer = match std::mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Idle => return,
            Receive::Multishot | Receive::Starved => None,
            Receive::Into { buffer, .. } => Some(buffer),
        };
        self.events.push_back(Completion::ReceiveEnded { socket: id, buffer, end });
        self.watch(id);
    }

    fn on_readable(&mut self, id: SocketId) {
        for _ in 0..RECEIVES_PER_EVENT {
            let Some(socket) = self.socket(id) else { return };
            let is_done = match &mut socket.receive {
                Receive::Idle | Receive::Starved => return,
                Receive::Multishot => self.receive_pooled(id),
                Receive::Into { .. } => self.receive_appended(id),
            };
            if is_done {
                return;
            }
        }
    }

    /// Fills one buffer of the ring's own; true if there is nothing more to get for the moment.
    fn receive_pooled(&mut self, id: SocketId) -> bool {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("looked up by the caller");
        let Some(index) = self.free.pop() else {
            socket.receive = Receive::Starved;
            self.starved.push_back(id);
            self.watch(id);
            return true;
        };
        let buffer = &mut self.buffers[usize::from(index)];
        let received = receive_some(&socket.stream, buffer);
        let is_full = matches!(received, Ok(count) if count == buffer.len());
        if let Ok(count @ 1..) = received {
            let buffer = ReceiveBuffer { ring: self.number, index, bytes: count as u32 };
            self.events.push_back(Completion::Received { socket: id, buffer });
            return !is_full;
        }
        self.free.push(index);
        match received {
            Ok(_) => self.end_receive(id, End::Eof),
            Err(Errno::AGAIN) => {}
            Err(errno) => self.end_receive(id, End::Error(errno.into())),
        }
        true
    }

    fn receive_appended(&mut self, id: SocketId) -> bool {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("looked up by the caller");
        let Receive::Into { buffer, bytes_max } = &mut socket.receive else { panic!("looked up by the caller") };
        let len = buffer.len();
        buffer.resize(len + (*bytes_max).min(INTO_BYTES_MAX), 0);
        let received = receive_some(&socket.stream, &mut buffer[len..]);
        buffer.truncate(len + received.unwrap_or(0));
        match received {
            Ok(0) => self.end_receive(id, End::Eof),
            Ok(bytes) => {
                let buffer = std::mem::take(buffer);
                socket.receive = Receive::Idle;
                self.events.push_back(Completion::ReceivedInto { socket: id, buffer, bytes });
                self.watch(id);
            }
            Err(Errno::AGAIN) => {}
            Err(errno) => self.end_receive(id, End::Error(errno.into())),
        }
        true
    }

    fn feed_starved(&mut self) {
        if self.free.is_empty() {
            return;
        }
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { break };
            let Some(socket) = self.socket(id) else { continue };
            if matches!(socket.receive, Receive::Starved) {
                socket.receive = Receive::Multishot;
                self.watch(id);
            }
        }
    }

    pub fn bytes(&self, buffer: &ReceiveBuffer) -> &[u8] {
        assert!(buffer.ring == self.number);
        &self.buffers[usize::from(buffer.index)][..buffer.bytes as usize]
    }

    pub fn recycle(&mut self, buffer: ReceiveBuffer) {
        assert!(buffer.ring == self.number);
        self.free.push(buffer.index);
    }

    // ── sending and closing ──

    pub fn send(&mut self, id: SocketId, buffer: Vec<u8>) {
        let Some(socket) = self.socket(id) else { return };
        assert!(socket.send.is_none());
        socket.send = Some(SendFlight { buffer, sent_bytes: 0 });
        self.on_writable(id);
    }

    /// Sends until all is sent or the socket is full.
    fn on_writable(&mut self, id: SocketId) {
        let Some(socket) = self.socket(id) else { return };
        let Some(send) = &mut socket.send else { return };
        let result = loop {
            let rest = &send.buffer[send.sent_bytes..];
            if rest.is_empty() {
                break Ok(());
            }
            match rustix::net::send(&socket.stream, rest, SendFlags::NOSIGNAL) {
                Ok(count) => send.sent_bytes += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.watch(id),
                Err(errno) => break Err(errno.into()),
            }
        };
        self.end_send(id, result);
    }

    fn end_send(&mut self, id: SocketId, result: Result<(), io::Error>) {
        let Some(socket) = self.socket(id) else { return };
        let Some(send) = socket.send.take() else { return };
        if socket.shutdown_after_send {
            socket.shut_down_write();
        }
        self.events.push_back(Completion::Sent { socket: id, buffer: send.buffer, result });
        self.watch(id);
    }

    pub fn shutdown_write(&mut self, id: SocketId) {
        let Some(socket) = self.socket(id) else { return };
        if socket.send.is_some() {
            socket.shutdown_after_send = true;
        } else {
            socket.shut_down_write();
        }
    }

    pub fn shutdown_read(&mut self, id: SocketId) {
        let Some(socket) = self.socket(id) else { return };
        // A peer that is gone already sends no more.
        let _ = socket.stream.shutdown(std::net::Shutdown::Read);
    }

    pub fn close(&mut self, id: SocketId) {
        if self.socket(id).is_none() {
            return;
        }
        self.end_receive(id, End::Canceled);
        self.end_send(id, Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        self.sockets.remove(id.slot, id.generation);
        self.events.push_back(Completion::Closed { socket: id });
    }

    fn socket(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.slot, id.generation)
    }

    /// Tells epoll what is wanted of a socket. One of which nothing is wanted is taken out altogether: epoll would
    /// report its hang-up for ever.
    fn watch(&mut self, id: SocketId) {
        let socket = self.sockets.get_mut(id.slot, id.generation).expect("watched while open");
        let mut interest = epoll::EventFlags::empty();
        if matches!(socket.receive, Receive::Multishot | Receive::Into { .. }) {
            interest |= epoll::EventFlags::IN;
        }
        if socket.send.is_some() {
            interest |= epoll::EventFlags::OUT;
        }
        if interest == socket.interest {
            return;
        }
        let data = tag(SOCKET, id.slot, id.generation);
        let told = if interest.is_empty() {
            epoll::delete(&self.epoll, &socket.stream)
        } else if socket.interest.is_empty() {
            epoll::add(&self.epoll, &socket.stream, data, interest)
        } else {
            epoll::modify(&self.epoll, &socket.stream, data, interest)
        };
        match told {
            Ok(()) => socket.interest = interest,
            // Out of watches or memory: this socket cannot be served.
            Err(errno) => {
                if let Some(send) = socket.send.take() {
                    let result = Err(errno.into());
                    self.events.push_back(Completion::Sent { socket: id, buffer: send.buffer, result });
                }
                let socket = self.sockets.get_mut(id.slot, id.generation).expect("looked up above");
                let buffer = match std::mem::replace(&mut socket.receive, Receive::Idle) {
                    Receive::Idle => return,
                    Receive::Multishot | Receive::Starved => None,
                    Receive::Into { buffer, .. } => Some(buffer),
                };
                let end = End::Error(errno.into());
                self.events.push_back(Completion::ReceiveEnded { socket: id, buffer, end });
            }
        }
    }

    // ── datagrams ──

    pub fn watch_datagrams(&mut self, socket: UdpSocket, token: u32) -> io::Result<()> {
        assert!(self.find_datagrams(token).is_none());
        let Ok((slot, generation)) = self.datagrams.insert(Datagrams { socket, token, is_armed: false }) else {
            panic!("more than {SLOTS_MAX} datagram sockets");
        };
        let armed = self.arm_datagrams(slot, generation);
        if armed.is_err() {
            self.datagrams.remove(slot, generation);
        }
        armed
    }

    pub fn take_datagram(&mut self, token: u32, into: &mut [u8]) -> Option<Datagram> {
        let (slot, generation) = self.find_datagrams(token)?;
        let datagrams = self.datagrams.get(slot, generation).expect("just found");
        let taken = receive_datagram(&datagrams.socket, into);
        if taken.is_none() && self.arm_datagrams(slot, generation).is_err() {
            // Out of watches or memory: whoever asks again arms it again.
            self.events.push_back(Completion::DatagramsReady { token });
        }
        taken
    }

    pub fn forget_datagrams(&mut self, token: u32) {
        let Some((slot, generation)) = self.find_datagrams(token) else { return };
        // Closing takes it out of epoll.
        self.datagrams.remove(slot, generation);
    }

    fn find_datagrams(&mut self, token: u32) -> Option<(u32, u32)> {
        let mut all = self.datagrams.iter_mut();
        all.find(|(_, _, known)| known.token == token).map(|(slot, generation, _)| (slot, generation))
    }

    fn arm_datagrams(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let datagrams = self.datagrams.get_mut(slot, generation).expect("armed while watched");
        if !datagrams.is_armed {
            let data = tag(DATAGRAMS, slot, generation);
            epoll::add(&self.epoll, &datagrams.socket, data, epoll::EventFlags::IN)?;
            datagrams.is_armed = true;
        }
        Ok(())
    }

    /// Told once, and not again for each datagram that follows.
    fn on_datagrams(&mut self, slot: u32, generation: u32) {
        let Some(datagrams) = self.datagrams.get_mut(slot, generation) else { return };
        if std::mem::replace(&mut datagrams.is_armed, false) {
            // It cannot fail for a descriptor that is watched.
            let _ = epoll::delete(&self.epoll, &datagrams.socket);
            self.events.push_back(Completion::DatagramsReady { token: datagrams.token });
        }
    }

    // ── waiting ──

    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    /// Everything is handed to the kernel at once, or by `wait`.
    pub fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.feed_starved();
        self.take_disk();
        let timeout = if self.events.is_empty() { timeout } else { Some(Duration::ZERO) };
        let timeout =
            timeout.map(|span| Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() });
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut ready), timeout.as_ref());
        for event in &ready {
            let (data, flags) = (event.data.u64(), event.flags);
            self.on_event(data, flags);
        }
        self.ready = ready;
        self.take_disk();
        match waited {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn on_event(&mut self, data: u64, flags: epoll::EventFlags) {
        let (kind, slot, generation) = (data >> 56, (data >> 32) as u32 & (SLOTS_MAX - 1), data as u32);
        match kind {
            DOORBELL => {
                // Emptied before it is settled: a bell that rings in between is heard in the next wait.
                let _ = rustix::io::read(&self.doorbell.eventfd, &mut [0; 8]);
                if self.doorbell.settle() {
                    self.events.push_back(Completion::Woken);
                }
            }
            LISTENER => self.on_listener(slot, generation),
            DATAGRAMS => self.on_datagrams(slot, generation),
            _ => {
                // An event of a socket that an earlier event of this round has closed finds nothing.
                let id = SocketId { slot, generation };
                let trouble = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                if flags.intersects(epoll::EventFlags::IN | trouble) {
                    self.on_readable(id);
                }
                if flags.intersects(epoll::EventFlags::OUT | trouble) {
                    self.on_writable(id);
                }
            }
        }
    }

    fn take_disk(&mut self) {
        if let Some(disk) = &self.disk {
            self.events.extend(disk.done.try_iter().map(Completion::Disk));
        }
    }

    pub fn next(&mut self) -> Option<Completion> {
        self.events.pop_front()
    }
}

impl Socket {
    fn shut_down_write(&mut self) {
        self.shutdown_after_send = false;
        // A peer that is gone already needs no telling.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

fn receive_some(stream: &TcpStream, into: &mut [u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::net::recv(stream, &mut *into, RecvFlags::empty()) {
            Ok((count, _)) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Threads that carry out disk operations in whatever order they get to them.
struct DiskThreads {
    queue: Arc<Queue>,
    done: Receiver<DiskDone>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    ops: VecDeque<DiskOp>,
    is_closing: bool,
}

impl DiskThreads {
    fn start(doorbell: &Arc<Doorbell>, sync: SyncMode) -> DiskThreads {
        let queue = Arc::new(Queue::default());
        let (results, done) = channel();
        let threads = (0..DISK_THREADS)
            .map(|index| {
                let (queue, results, doorbell) = (queue.clone(), results.clone(), doorbell.clone());
                std::thread::Builder::new()
                    .name(format!("disk-{index}"))
                    .spawn(move || serve(&queue, &results, &doorbell, sync))
                    .expect("the machine has a few threads for us")
            })
            .collect();
        DiskThreads { queue, done, threads }
    }

    fn submit(&self, op: DiskOp) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).ops.push_back(op);
        self.queue.changed.notify_one();
    }
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        {
            let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_closing = true;
            state.ops.clear();
        }
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

fn serve(queue: &Queue, results: &Sender<DiskDone>, doorbell: &Doorbell, sync: SyncMode) {
    while let Some(op) = next_op(queue) {
        // The ring may be going already.
        let _ = results.send(carry_out(op, sync));
        doorbell.ring();
    }
}

fn next_op(queue: &Queue) -> Option<DiskOp> {
    let mut state = queue.state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if state.is_closing {
            return None;
        }
        if let Some(op) = state.ops.pop_front() {
            return Some(op);
        }
        state = queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn carry_out(op: DiskOp, sync: SyncMode) -> DiskDone {
    match op {
        DiskOp::Write { ticket, file, offset, buffer, bytes, persist } => {
            let result = write(real(&file), offset, &buffer[..bytes], persist, sync);
            DiskDone { ticket, result: result.map(|()| bytes), buffer: Some(buffer) }
        }
        DiskOp::Read { ticket, file, offset, mut buffer, bytes, from } => {
            let result = read(real(&file), offset, &mut buffer[..bytes], from);
            DiskDone { ticket, result, buffer: Some(buffer) }
        }
        DiskOp::Sync { ticket, file } => {
            let result = rustix::fs::fdatasync(&real(&file).direct).map_err(disk_error);
            DiskDone { ticket, result: result.map(|()| 0), buffer: None }
        }
    }
}

fn write(file: &RealFile, offset: u64, bytes: &[u8], persist: Persist, sync: SyncMode) -> DiskResult<()> {
    let mut is_dsync = persist == Persist::Durable && sync == SyncMode::Dsync;
    let mut written = 0;
    while written < bytes.len() {
        let flags = if is_dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let rest = IoSlice::new(&bytes[written..]);
        match rustix::io::pwritev2(file.direct.as_fd(), &[rest], offset + written as u64, flags) {
            Ok(count) => {
                written += count;
                if count == 0 || !written.is_multiple_of(ALIGNMENT) {
                    return Err(DiskError::ShortTransfer);
                }
            }
            // The file system does not know the flag, and has written nothing.
            Err(Errno::OPNOTSUPP) if is_dsync => is_dsync = false,
            Err(errno) => return Err(disk_error(errno)),
        }
    }
    if persist == Persist::Durable && !is_dsync {
        rustix::fs::fdatasync(&file.direct).map_err(disk_error)?;
    }
    Ok(())
}

fn read(file: &RealFile, offset: u64, into: &mut [u8], from: ReadFrom) -> DiskResult<usize> {
    let source = match from {
        ReadFrom::Device => &file.direct,
        ReadFrom::Cache => &file.cached,
    };
    let mut filled = 0;
    while filled < into.len() {
        match rustix::io::pread(source, &mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                // Past the cache a count that is no multiple of the alignment can only come from the file's end.
                if from == ReadFrom::Device && !filled.is_multiple_of(ALIGNMENT) {
                    break;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(disk_error(errno)),
        }
    }
    Ok(filled)
}
