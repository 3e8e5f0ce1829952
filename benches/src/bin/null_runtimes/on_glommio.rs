//! The null server on glommio.

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use ringlog_benches::requests::{ANSWER, Requests};

use crate::{Place, RECEIVE_BYTES};

pub fn serve(place: Place) -> Result<(), String> {
    let placement = place.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement).make().map_err(refused)?;
    executor.run(async move {
        let listener = TcpListener::bind(place.http).map_err(|error| format!("{}: {error}", place.http))?;
        place.announce(listener.local_addr().map_err(|error| error.to_string())?)?;
        loop {
            let stream = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            glommio::spawn_local(answer(stream)).detach();
        }
    })
}

/// glommio wants memory that it may lock, and names what it may have and what it needs, in bytes.
fn refused(error: GlommioError<()>) -> String {
    format!(
        "glommio has no executor: {error}\n\
         MemLockLimit(allowed/needed) means that too little memory may be locked: ulimit -l unlimited, or LimitMEMLOCK=infinity"
    )
}

async fn answer(mut stream: TcpStream) {
    let mut requests = Requests::default();
    let mut received = vec![0; RECEIVE_BYTES];
    let mut answers = Vec::new();
    loop {
        let Ok(bytes @ 1..) = stream.read(&mut received).await else { return };
        let Ok(count) = requests.take(&received[..bytes]) else { return };
        if count > 0 {
            for _ in 0..count {
                answers.extend_from_slice(ANSWER);
            }
            if stream.write_all(&answers).await.is_err() {
                return;
            }
            answers.clear();
        }
    }
}
