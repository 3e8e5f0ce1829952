//! The null server on the engine's ring.

use std::net::TcpListener;

use ringlog_benches::requests::{ANSWER, Requests};
use ringlog_engine::io::{Completion, IoMode, Ring, RingConfig, SocketId, SyncMode};

use crate::{Place, RECEIVE_BYTES};

const CONNECTIONS_MAX: u32 = 4096;

#[derive(Default)]
struct Connection {
    requests: Requests,
    /// Answers that wait for the send that is under way.
    unsent: Vec<u8>,
    is_sending: bool,
}

pub fn serve(place: &Place) -> Result<(), String> {
    place.pin()?;
    let listener = TcpListener::bind(place.http).map_err(|error| format!("{}: {error}", place.http))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut ring = Ring::new(RingConfig {
        mode: IoMode::Uring,
        entries: 1024,
        receive_buffers: 1024,
        receive_buffer_bytes: RECEIVE_BYTES as u32,
        sync: SyncMode::Dsync,
        sockets_max: CONNECTIONS_MAX,
    })
    .map_err(|error| error.to_string())?;
    ring.listen(listener, 0).map_err(|error| error.to_string())?;
    place.announce(address)?;
    let mut connections: Vec<Connection> = Vec::new();
    connections.resize_with(CONNECTIONS_MAX as usize, Connection::default);
    loop {
        ring.wait(None).map_err(|error| error.to_string())?;
        while let Some(completion) = ring.next() {
            turn(&mut ring, &mut connections, completion);
        }
    }
}

fn turn(ring: &mut Ring, connections: &mut [Connection], completion: Completion) {
    match completion {
        Completion::Accepted { socket, .. } => {
            connections[socket.index()] = Connection::default();
            ring.receive(socket);
        }
        Completion::Received { socket, buffer } => {
            let connection = &mut connections[socket.index()];
            let taken = connection.requests.take(ring.bytes(&buffer));
            ring.recycle(buffer);
            match taken {
                Ok(count) => {
                    for _ in 0..count {
                        connection.unsent.extend_from_slice(ANSWER);
                    }
                    send(ring, socket, connection);
                }
                Err(_) => ring.close(socket),
            }
        }
        Completion::ReceiveEnded { socket, .. } | Completion::Sent { socket, result: Err(_), .. } => ring.close(socket),
        Completion::Sent { socket, mut buffer, result: Ok(()) } => {
            let connection = &mut connections[socket.index()];
            connection.is_sending = false;
            if connection.unsent.is_empty() {
                buffer.clear();
                connection.unsent = buffer;
            }
            send(ring, socket, connection);
        }
        _ => {}
    }
}

fn send(ring: &mut Ring, socket: SocketId, connection: &mut Connection) {
    if !connection.is_sending && !connection.unsent.is_empty() {
        connection.is_sending = true;
        ring.send(socket, std::mem::take(&mut connection.unsent));
    }
}
