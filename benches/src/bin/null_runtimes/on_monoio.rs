//! The null server on monoio.

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use ringlog_benches::requests::{ANSWER, Requests};

use crate::{Place, RECEIVE_BYTES};

/// How monoio's ring is made.
#[derive(Clone, Copy)]
pub enum Setup {
    AsItComes,
    /// Completions are delivered where they are asked for, not by interrupting whatever runs.
    Flags,
}

pub fn serve(place: Place, setup: Setup) -> Result<(), String> {
    place.pin()?;
    let mut builder = RuntimeBuilder::<IoUringDriver>::new();
    if let Setup::Flags = setup {
        let mut ring = io_uring_of_monoio::IoUring::builder();
        ring.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
        builder = builder.uring_builder(ring).with_entries(4096);
    }
    let mut runtime = builder.build().map_err(|error| format!("monoio has no ring: {error}"))?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(place.http).map_err(|error| format!("{}: {error}", place.http))?;
        place.announce(listener.local_addr().map_err(|error| error.to_string())?)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            monoio::spawn(answer(stream));
        }
    })
}

async fn answer(mut stream: TcpStream) {
    let mut requests = Requests::default();
    let mut received = Vec::with_capacity(RECEIVE_BYTES);
    let mut answers = Vec::new();
    loop {
        let (result, buffer) = stream.read(received).await;
        received = buffer;
        let Ok(bytes @ 1..) = result else { return };
        let Ok(count) = requests.take(&received[..bytes]) else { return };
        if count > 0 {
            for _ in 0..count {
                answers.extend_from_slice(ANSWER);
            }
            let (result, buffer) = stream.write_all(answers).await;
            answers = buffer;
            answers.clear();
            if result.is_err() {
                return;
            }
        }
    }
}
