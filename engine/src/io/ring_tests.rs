//! What both backends of the ring promise, held by one set of tests over loopback and temporary files.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;

/// Far longer than anything here takes: a missing completion becomes a failure instead of a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(mode: IoMode) -> RingConfig {
    RingConfig {
        mode,
        entries: 64,
        receive_buffers: 16,
        receive_buffer_bytes: 4096,
        sync: SyncMode::Dsync,
        sockets_max: 64,
    }
}

/// Runs a test on every backend that this machine has.
fn on_both(test: impl Fn(RingConfig)) {
    match Ring::new(config(IoMode::Uring)) {
        Ok(_) => test(config(IoMode::Uring)),
        Err(error) => eprintln!("not tested on io_uring: {error}"),
    }
    test(config(IoMode::Fallback));
}

/// A ring, and its completions in order as far as nobody has asked for them.
struct Host {
    ring: Ring,
    pending: VecDeque<Completion>,
}

impl Host {
    fn new(config: RingConfig) -> Host {
        Host { ring: Ring::new(config).unwrap(), pending: VecDeque::new() }
    }

    fn listening(config: RingConfig) -> (Host, SocketAddr) {
        let mut host = Host::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        host.ring.listen(listener, 7).unwrap();
        (host, address)
    }

    fn next(&mut self) -> Completion {
        loop {
            if let Some(completion) = self.pending.pop_front().or_else(|| self.ring.next()) {
                return completion;
            }
            let before = clock::monotonic_us();
            self.ring.wait(Some(PATIENCE)).unwrap();
            let waited = Duration::from_micros(clock::monotonic_us() - before);
            assert!(waited < PATIENCE, "nothing came");
        }
    }

    fn accept(&mut self) -> SocketId {
        match self.next() {
            Completion::Accepted { listener: 7, socket, peer } => {
                assert!(peer.ip().is_loopback());
                socket
            }
            other => panic!("{other:?}"),
        }
    }

    /// One ready completion without waiting.
    fn poll(&mut self) -> Option<Completion> {
        self.ring.wait(Some(Duration::ZERO)).unwrap();
        self.ring.next()
    }

    fn disk(&mut self) -> DiskDone {
        match self.next() {
            Completion::Disk(done) => done,
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new().spawn(run).unwrap()
}

/// A client that sends all of `bytes`, ends its side, and reads to the end.
fn client(address: SocketAddr, bytes: Vec<u8>) -> JoinHandle<Vec<u8>> {
    thread(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let writer = thread(move || {
            for message in bytes.chunks(100) {
                stream.write_all(message).unwrap();
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        back
    })
}

#[test]
fn pipelined_messages_are_echoed_in_order() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let sent = pattern(300_000);
        let clients = [client(address, sent.clone()), client(address, sent.clone())];
        let mut closed = 0;
        let mut waiting: std::collections::HashMap<SocketId, (Vec<u8>, bool, bool)> = Default::default();
        while closed < 2 {
            let id = match host.next() {
                Completion::Accepted { socket, .. } => {
                    host.ring.receive(socket);
                    waiting.insert(socket, (Vec::new(), false, false));
                    continue;
                }
                Completion::Received { socket, buffer } => {
                    assert!(!buffer.is_empty());
                    assert_eq!(host.ring.bytes(&buffer).len(), buffer.len());
                    waiting.get_mut(&socket).unwrap().0.extend_from_slice(host.ring.bytes(&buffer));
                    host.ring.recycle(buffer);
                    socket
                }
                Completion::Sent { socket, result, .. } => {
                    result.unwrap();
                    waiting.get_mut(&socket).unwrap().1 = false;
                    socket
                }
                Completion::ReceiveEnded { socket, buffer: None, end: End::Eof } => {
                    waiting.get_mut(&socket).unwrap().2 = true;
                    socket
                }
                Completion::Closed { socket } => {
                    waiting.remove(&socket).unwrap();
                    closed += 1;
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let (out, is_sending, is_ended) = waiting.get_mut(&id).unwrap();
            if !*is_sending && !out.is_empty() {
                *is_sending = true;
                host.ring.send(id, std::mem::take(out));
            } else if !*is_sending && *is_ended {
                host.ring.close(id);
            }
        }
        for client in clients {
            assert!(client.join().unwrap() == sent);
        }
    });
}

#[test]
fn a_large_body_is_received_into_one_vector() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let sent = pattern(1 << 20);
        let client = client(address, sent.clone());
        let socket = host.accept();
        host.ring.receive_into(socket, b"head".to_vec(), 1 << 20);
        let mut body = loop {
            match host.next() {
                Completion::ReceivedInto { socket: from, buffer, bytes } => {
                    assert_eq!(from, socket);
                    assert!(0 < bytes);
                    let rest = sent.len() + 4 - buffer.len();
                    if rest == 0 {
                        break buffer;
                    }
                    host.ring.receive_into(socket, buffer, rest);
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(&body[..4], b"head");
        assert!(body[4..] == sent[..]);
        body.truncate(4);
        host.ring.receive_into(socket, body, 10);
        let end = host.next();
        assert!(
            matches!(&end, Completion::ReceiveEnded { buffer: Some(buffer), end: End::Eof, .. } if buffer == b"head")
        );
        host.ring.close(socket);
        assert!(matches!(host.next(), Completion::Closed { .. }));
        assert!(client.join().unwrap().is_empty());
    });
}

#[test]
fn a_receive_into_takes_no_more_than_it_was_asked_to() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"abcdef").unwrap();
        let socket = host.accept();
        let mut seen = Vec::new();
        for count in 1..=3 {
            let roomy = Vec::with_capacity(1000);
            host.ring.receive_into(socket, roomy, count);
            match host.next() {
                Completion::ReceivedInto { buffer, bytes, .. } => {
                    assert!(bytes <= count);
                    assert_eq!(buffer.len(), bytes);
                    seen.extend(buffer);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, b"abcdef");
    });
}

#[test]
fn a_large_answer_reaches_a_slow_reader_whole_before_the_shutdown() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let sent = pattern(8 << 20);
        let (go, gone) = channel();
        let reader = thread(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            gone.recv().unwrap();
            let mut all = Vec::new();
            let mut chunk = [0; 10_000];
            loop {
                let count = stream.read(&mut chunk).unwrap();
                if count == 0 {
                    return all;
                }
                all.extend_from_slice(&chunk[..count]);
            }
        });
        let socket = host.accept();
        host.ring.send(socket, sent.clone());
        host.ring.shutdown_write(socket);
        assert!(host.poll().is_none());
        go.send(()).unwrap();
        match host.next() {
            Completion::Sent { socket: to, buffer, result } => {
                result.unwrap();
                assert_eq!(to, socket);
                assert!(buffer == sent);
            }
            other => panic!("{other:?}"),
        }
        assert!(reader.join().unwrap() == sent);
    });
}

#[test]
fn an_empty_send_ends_at_once() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let _stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.send(socket, Vec::new());
        assert!(matches!(host.next(), Completion::Sent { result: Ok(()), .. }));
    });
}

#[test]
fn close_ends_every_operation_and_its_id_stays_inert() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let _stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.receive(socket);
        host.ring.send(socket, vec![1; 64 << 20]);
        assert!(host.poll().is_none());
        host.ring.close(socket);
        host.ring.close(socket);
        host.ring.stop_receive(socket);
        let (mut received_ended, mut sent) = (0, 0);
        loop {
            match host.next() {
                Completion::ReceiveEnded { end: End::Canceled, .. } => received_ended += 1,
                Completion::Sent { result, buffer, .. } => {
                    assert!(result.is_err());
                    assert_eq!(buffer.len(), 64 << 20);
                    sent += 1;
                }
                Completion::Closed { socket: closed } => {
                    assert_eq!(closed, socket);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((received_ended, sent), (1, 1));

        let mut second = TcpStream::connect(address).unwrap();
        let newer = host.accept();
        assert_eq!(newer.index(), socket.index());
        assert_ne!(newer, socket);
        host.ring.receive(socket);
        host.ring.receive_into(socket, Vec::new(), 10);
        host.ring.send(socket, vec![2; 10]);
        host.ring.stop_receive(socket);
        host.ring.shutdown_write(socket);
        host.ring.close(socket);
        assert!(host.poll().is_none());

        host.ring.receive(newer);
        second.write_all(b"x").unwrap();
        match host.next() {
            Completion::Received { socket, buffer } => {
                assert_eq!(socket, newer);
                assert_eq!(host.ring.bytes(&buffer), b"x");
                host.ring.recycle(buffer);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_idle_socket_closes_at_once() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let mut stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.close(socket);
        assert!(matches!(host.next(), Completion::Closed { socket: closed } if closed == socket));
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn a_reset_by_the_peer_ends_the_receive() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.receive(socket);
        assert!(host.poll().is_none());
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        assert!(matches!(host.next(), Completion::ReceiveEnded { end: End::Error(_), .. }));
        assert!(host.poll().is_none());
        host.ring.close(socket);
        assert!(matches!(host.next(), Completion::Closed { .. }));
    });
}

#[test]
fn switching_from_multishot_to_one_vector_loses_no_byte() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let sent = pattern(1 << 20);
        let client = client(address, sent.clone());
        let socket = host.accept();
        let mut all = Vec::new();
        let mut switches = 0;
        while all.len() < sent.len() {
            host.ring.receive(socket);
            let mut is_stopped = false;
            loop {
                match host.next() {
                    Completion::Received { buffer, .. } => {
                        all.extend_from_slice(host.ring.bytes(&buffer));
                        host.ring.recycle(buffer);
                        if !std::mem::replace(&mut is_stopped, true) {
                            host.ring.stop_receive(socket);
                        }
                    }
                    Completion::ReceiveEnded { end: End::Canceled | End::Eof, .. } => break,
                    other => panic!("{other:?}"),
                }
            }
            switches += 1;
            if all.len() < sent.len() {
                let most = (sent.len() - all.len()).min(3000);
                host.ring.receive_into(socket, all, most);
                match host.next() {
                    Completion::ReceivedInto { buffer, .. } => all = buffer,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(all == sent);
        assert!(1 < switches);
        host.ring.close(socket);
        client.join().unwrap();
    });
}

#[test]
fn a_stopped_receive_into_gives_its_buffer_back() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let _stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.receive_into(socket, b"kept".to_vec(), 100);
        assert!(host.poll().is_none());
        host.ring.stop_receive(socket);
        let end = host.next();
        assert!(
            matches!(&end, Completion::ReceiveEnded { buffer: Some(buffer), end: End::Canceled, .. } if buffer == b"kept")
        );
        host.ring.stop_receive(socket);
        assert!(host.poll().is_none());
    });
}

#[test]
fn exhausted_receive_buffers_recover_once_recycled() {
    on_both(|mut config| {
        config.receive_buffers = 4;
        config.receive_buffer_bytes = 1024;
        let (mut host, address) = Host::listening(config);
        let sent = pattern(64 << 10);
        let clients = [client(address, sent.clone()), client(address, sent.clone())];
        let mut all: std::collections::HashMap<SocketId, Vec<u8>> = Default::default();
        for _ in 0..2 {
            // Data of the first may come before the second is accepted, but nothing is received yet.
            let socket = host.accept();
            all.insert(socket, Vec::new());
        }
        for socket in all.keys() {
            host.ring.receive(*socket);
        }
        let mut held = VecDeque::new();
        let mut ended = 0;
        while ended < 2 {
            match host.next() {
                Completion::Received { socket, buffer } => {
                    all.get_mut(&socket).unwrap().extend_from_slice(host.ring.bytes(&buffer));
                    held.push_back(buffer);
                    if held.len() == 4 {
                        // Only an end, or a close, needs no buffer.
                        if let Some(completion) = host.poll() {
                            assert!(!matches!(completion, Completion::Received { .. }), "{completion:?}");
                            host.pending.push_back(completion);
                        }
                        held.drain(..).for_each(|buffer| host.ring.recycle(buffer));
                    }
                }
                Completion::ReceiveEnded { end: End::Eof, socket, .. } => {
                    ended += 1;
                    host.ring.close(socket);
                    held.drain(..).for_each(|buffer| host.ring.recycle(buffer));
                }
                Completion::Closed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(all.values().all(|bytes| *bytes == sent));
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn a_starved_receive_can_be_stopped() {
    on_both(|mut config| {
        config.receive_buffers = 1;
        config.receive_buffer_bytes = 10;
        let (mut host, address) = Host::listening(config);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[5; 15]).unwrap();
        let socket = host.accept();
        host.ring.receive(socket);
        let Completion::Received { buffer, .. } = host.next() else { panic!("data first") };
        assert_eq!(buffer.len(), 10);
        assert!(host.poll().is_none());
        host.ring.stop_receive(socket);
        assert!(matches!(host.next(), Completion::ReceiveEnded { end: End::Canceled, .. }));
        host.ring.recycle(buffer);
        host.ring.receive(socket);
        let Completion::Received { buffer, .. } = host.next() else { panic!("the rest") };
        assert_eq!(host.ring.bytes(&buffer), [5; 5]);
        host.ring.recycle(buffer);
    });
}

#[test]
fn accepting_stops_at_the_socket_limit_until_told_to_go_on() {
    on_both(|mut config| {
        config.sockets_max = 2;
        let (mut host, address) = Host::listening(config);
        let _streams: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
        let first = host.accept();
        host.accept();
        let mut refused = TcpStream::connect(address).unwrap();
        match host.next() {
            Completion::AcceptFailed { listener: 7, error } => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(refused.read(&mut [0; 1]).unwrap(), 0);
        host.ring.close(first);
        assert!(matches!(host.next(), Completion::Closed { .. }));
        assert!(host.poll().is_none());
        let _waiting = TcpStream::connect(address).unwrap();
        host.ring.listen_again(7);
        host.accept();
        host.ring.stop_listening(7);
        assert!(host.poll().is_none());
        assert!(host.poll().is_none());
        // The token is free again, and the port refuses.
        assert!(TcpStream::connect(address).is_err());
        host.ring.listen(TcpListener::bind("127.0.0.1:0").unwrap(), 7).unwrap();
    });
}

fn data_dir() -> (tempfile::TempDir, FsDisk) {
    let folder = tempfile::tempdir().unwrap();
    let disk = FsDisk::open(folder.path()).unwrap();
    (folder, disk)
}

#[test]
fn disk_operations_round_trip_with_and_without_registered_buffers() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        on_both(|mut config| {
            config.sync = sync;
            let (_folder, disk) = data_dir();
            let file = disk.create("log", 64 << 10, Fill::Zeros).unwrap();
            let mut host = Host::new(config);
            let mut pool = BufferPool::new(4, 8192);
            let mut buffers = vec![pool.take().unwrap()];
            assert_eq!(host.ring.register_pool(&pool), host.ring.is_uring());
            buffers.push(pool.take().unwrap());
            buffers.push(Buffer::new(8192));
            for (index, mut buffer) in buffers.into_iter().enumerate() {
                let fill = index as u8 + 1;
                let offset = 8192 * index as u64;
                for persist in [Persist::Written, Persist::Durable] {
                    buffer.fill(fill);
                    let op = DiskOp::Write { ticket: 1, file: file.clone(), offset, buffer, bytes: 8192, persist };
                    host.ring.disk(op);
                    let done = host.disk();
                    assert_eq!((done.ticket, done.result), (1, Ok(8192)));
                    buffer = done.buffer.unwrap();
                }
                host.ring.disk(DiskOp::Sync { ticket: 2, file: file.clone() });
                let done = host.disk();
                assert_eq!((done.ticket, done.result), (2, Ok(0)));
                assert!(done.buffer.is_none());
                for from in [ReadFrom::Device, ReadFrom::Cache] {
                    buffer.fill(0);
                    host.ring.disk(DiskOp::Read { ticket: 3, file: file.clone(), offset, buffer, bytes: 4096, from });
                    let done = host.disk();
                    assert_eq!((done.ticket, done.result), (3, Ok(4096)));
                    buffer = done.buffer.unwrap();
                    assert!(buffer[..4096].iter().all(|byte| *byte == fill));
                    assert!(buffer[4096..].iter().all(|byte| *byte == 0));
                }
            }
        });
    }
}

#[test]
fn reads_are_short_only_at_the_end_of_the_file() {
    on_both(|config| {
        let (_folder, disk) = data_dir();
        let file = disk.create("pack", 10_000, Fill::Zeros).unwrap();
        let mut host = Host::new(config);
        for from in [ReadFrom::Device, ReadFrom::Cache] {
            for (offset, expected) in [(0, 10_000), (8192, 1808), (12_288, 0)] {
                let buffer = Buffer::new(16_384);
                host.ring.disk(DiskOp::Read { ticket: 0, file: file.clone(), offset, buffer, bytes: 16_384, from });
                assert_eq!(host.disk().result, Ok(expected));
            }
        }
    });
}

#[test]
fn a_failed_write_is_told_and_gives_its_buffer_back() {
    on_both(|config| {
        let (_folder, disk) = data_dir();
        let file = disk.create("log", 4096, Fill::Allocate).unwrap();
        let mut host = Host::new(config);
        let (buffer, offset) = (Buffer::new(4096), i64::MAX as u64 - 4095);
        host.ring.disk(DiskOp::Write { ticket: 9, file, offset, buffer, bytes: 4096, persist: Persist::Durable });
        let done = host.disk();
        assert!(done.result.is_err());
        assert!(done.buffer.is_some());
    });
}

#[test]
fn many_writes_go_through_a_small_ring() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        on_both(|mut config| {
            config.entries = 4;
            config.sync = sync;
            let (_folder, disk) = data_dir();
            // More files than the ring registers.
            let files: Vec<DiskFile> =
                (0..70).map(|index| disk.create(&format!("{index}"), 16 << 10, Fill::Zeros).unwrap()).collect();
            let mut host = Host::new(config);
            for ticket in 0..280u64 {
                let mut buffer = Buffer::new(4096);
                buffer.fill(ticket as u8);
                let (file, offset) = (files[ticket as usize % 70].clone(), ticket / 70 * 4096);
                let persist = if ticket % 2 == 0 { Persist::Durable } else { Persist::Written };
                host.ring.disk(DiskOp::Write { ticket, file, offset, buffer, bytes: 4096, persist });
            }
            let mut tickets: Vec<u64> = (0..280)
                .map(|_| {
                    let done = host.disk();
                    assert_eq!(done.result, Ok(4096));
                    done.ticket
                })
                .collect();
            tickets.sort_unstable();
            assert!(tickets.into_iter().eq(0..280));
            for ticket in 0..280u64 {
                let mut content = [0; 4096];
                disk.read(&files[ticket as usize % 70], ticket / 70 * 4096, &mut content).unwrap();
                assert_eq!(content, [ticket as u8; 4096]);
            }
        });
    }
}

#[test]
fn registered_files_are_forgotten_when_nobody_holds_them() {
    on_both(|config| {
        let (_folder, disk) = data_dir();
        let mut host = Host::new(config);
        for index in 0..600u64 {
            let file = disk.create(&format!("{index}"), 4096, Fill::Allocate).unwrap();
            let mut buffer = Buffer::new(4096);
            buffer.fill(index as u8);
            let persist = Persist::Written;
            host.ring.disk(DiskOp::Write {
                ticket: index,
                file: file.clone(),
                offset: 0,
                buffer,
                bytes: 4096,
                persist,
            });
            assert_eq!(host.disk().result, Ok(4096));
            let mut content = [0; 4096];
            disk.read(&file, 0, &mut content).unwrap();
            assert_eq!(content, [index as u8; 4096]);
        }
    });
}

#[test]
fn wakes_from_another_thread_arrive_and_coalesce() {
    on_both(|config| {
        let mut host = Host::new(config);
        let remote = host.ring.remote();
        remote.wake();
        remote.wake();
        assert!(matches!(host.next(), Completion::Woken));
        assert!(host.poll().is_none());

        let count = Arc::new(AtomicU32::new(0));
        let counter = count.clone();
        let waker = thread(move || {
            for _ in 0..1000 {
                counter.fetch_add(1, Ordering::Relaxed);
                remote.wake();
            }
        });
        // The last wake either finds one pending, or makes a new one: the final count is always seen.
        while count.load(Ordering::Relaxed) < 1000 {
            assert!(matches!(host.next(), Completion::Woken));
        }
        waker.join().unwrap();
    });
}

#[test]
fn rings_on_two_threads_wake_each_other() {
    fn play(mut host: Host, peer: Remote, turn: &AtomicU32, mine: u32) {
        while turn.load(Ordering::Acquire) < 200 {
            if turn.load(Ordering::Acquire) % 2 == mine {
                turn.fetch_add(1, Ordering::AcqRel);
                host.ring.wake_peer(&peer);
                host.ring.submit().unwrap();
            } else {
                assert!(matches!(host.next(), Completion::Woken));
            }
        }
    }
    for (left, right) in
        [(IoMode::Auto, IoMode::Auto), (IoMode::Auto, IoMode::Fallback), (IoMode::Fallback, IoMode::Fallback)]
    {
        let turn = Arc::new(AtomicU32::new(0));
        let (to_left, at_left) = channel();
        let (to_right, at_right) = channel();
        let right_turn = turn.clone();
        let peer = thread(move || {
            let host = Host::new(config(right));
            to_left.send(host.ring.remote()).unwrap();
            let left: Remote = at_right.recv().unwrap();
            play(host, left, &right_turn, 1);
        });
        let host = Host::new(config(left));
        to_right.send(host.ring.remote()).unwrap();
        play(host, at_left.recv().unwrap(), &turn, 0);
        peer.join().unwrap();
    }
}

#[test]
fn waking_a_ring_that_is_gone_does_nothing() {
    on_both(|config| {
        let gone = Host::new(config.clone()).ring.remote();
        gone.wake();
        let gone = Host::new(config.clone()).ring.remote();
        let mut host = Host::new(config);
        host.ring.wake_peer(&gone);
        assert!(host.poll().is_none());
    });
}

#[test]
fn a_ring_is_dropped_with_everything_in_flight() {
    on_both(|config| {
        let (_folder, disk) = data_dir();
        let file = disk.create("log", 4 << 20, Fill::Zeros).unwrap();
        let (mut host, address) = Host::listening(config);
        let mut stream = TcpStream::connect(address).unwrap();
        let _unaccepted = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        host.ring.receive(socket);
        host.ring.send(socket, vec![1; 16 << 20]);
        for ticket in 0..4 {
            let (file, offset, buffer) = (file.clone(), ticket << 20, Buffer::new(1 << 20));
            host.ring.disk(DiskOp::Write { ticket, file, offset, buffer, bytes: 1 << 20, persist: Persist::Durable });
        }
        host.ring.submit().unwrap();
        drop(host);
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

#[test]
fn the_notice_names_the_backend() {
    let ring = Ring::new(config(IoMode::Fallback)).unwrap();
    assert!(!ring.is_uring());
    assert!(ring.notice().contains("epoll"));
    let ring = Ring::new(config(IoMode::Auto)).unwrap();
    assert_eq!(ring.is_uring(), ring.notice().contains("io_uring ("));
}

#[test]
fn what_the_kernel_holds_is_received_behind_the_end_of_input() {
    on_both(|config| {
        let (mut host, address) = Host::listening(config);
        let mut stream = TcpStream::connect(address).unwrap();
        let socket = host.accept();
        let sent = pattern(100_000);
        stream.write_all(&sent).unwrap();
        host.ring.shutdown_read(socket);
        host.ring.receive(socket);
        let mut received = Vec::new();
        loop {
            match host.next() {
                Completion::Received { buffer, .. } => {
                    received.extend_from_slice(host.ring.bytes(&buffer));
                    host.ring.recycle(buffer);
                }
                Completion::ReceiveEnded { end: End::Eof, .. } => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(received == sent);
        // One that receives already is told of the end too.
        let _other = TcpStream::connect(address).unwrap();
        let other = host.accept();
        host.ring.receive(other);
        assert!(host.poll().is_none());
        host.ring.shutdown_read(other);
        let end = host.next();
        assert!(matches!(end, Completion::ReceiveEnded { socket, end: End::Eof, .. } if socket == other), "{end:?}");
    });
}

#[test]
fn datagrams_are_told_once_until_there_is_none() {
    on_both(|config| {
        let mut host = Host::new(config);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        host.ring.watch_datagrams(socket, 3).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = client.local_addr().unwrap();
        let mut into = [0; 8];
        for round in 0..3 {
            for datagram in [&b"one"[..], b"", b"longer than eight"] {
                client.send_to(datagram, address).unwrap();
            }
            assert!(matches!(host.next(), Completion::DatagramsReady { token: 3 }), "{round}");
            let mut take = || host.ring.take_datagram(3, &mut into);
            assert_eq!(take(), Some(Datagram { bytes: 3, is_truncated: false, from }));
            assert_eq!(take(), Some(Datagram { bytes: 0, is_truncated: false, from }));
            // Nobody is told of what waits already.
            assert!(host.poll().is_none());
            let last = host.ring.take_datagram(3, &mut into);
            assert_eq!(last, Some(Datagram { bytes: 8, is_truncated: true, from }));
            assert_eq!(&into, b"longer t");
            assert_eq!(host.ring.take_datagram(3, &mut into), None);
            assert_eq!(host.ring.take_datagram(3, &mut into), None);
            assert!(host.poll().is_none());
        }
        host.ring.forget_datagrams(3);
        assert!(host.poll().is_none());
        assert_eq!(host.ring.take_datagram(3, &mut into), None);
        // Its token is free for another.
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        host.ring.watch_datagrams(other, 3).unwrap();
        client.send_to(b"x", address).unwrap();
        assert!(matches!(host.next(), Completion::DatagramsReady { token: 3 }));
    });
}
