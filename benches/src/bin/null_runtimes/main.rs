//! One null HTTP server on four loops: the engine's own ring, monoio as it comes and with the right ring flags, glommio.
//!
//! Every loop finds the end of each request with the same code and gives the same answer, so that what differs in cost is
//! the loop. `scripts/runtimes.sh` runs them side by side. Must never: do more for one loop than for another.

mod on_glommio;
mod on_monoio;
mod on_ring;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// What one receive may bring, on every loop.
const RECEIVE_BYTES: usize = 16 << 10;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Loop {
    /// The engine's ring: multishot accept and receive, provided buffers, one system call a turn
    Ring,
    /// monoio, as it comes
    Monoio,
    /// monoio with SINGLE_ISSUER, DEFER_TASKRUN and COOP_TASKRUN
    MonoioFlags,
    /// glommio, as it comes
    Glommio,
}

#[derive(Parser)]
#[command(about = "Answers 202 to every request, on the loop that is asked for")]
struct Arguments {
    #[arg(long = "loop", value_name = "LOOP")]
    runs_on: Loop,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Place {
    /// Where to listen; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Written once the server accepts: {"http":"ADDRESS"}
    #[arg(long)]
    ports_file: Option<PathBuf>,
    /// The processor to stay on.
    #[arg(long)]
    cpu: Option<usize>,
}

impl Place {
    fn announce(&self, address: SocketAddr) -> Result<(), String> {
        ringlog_benches::announce::announce(&[("http", address)], self.ports_file.as_deref())
    }

    fn pin(&self) -> Result<(), String> {
        match self.cpu {
            Some(cpu) => monoio::utils::bind_to_cpu_set([cpu]).map_err(|error| format!("--cpu {cpu}: {error}")),
            None => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let Arguments { runs_on, place } = Arguments::parse();
    let ended = match runs_on {
        Loop::Ring => on_ring::serve(&place),
        Loop::Monoio => on_monoio::serve(place, on_monoio::Setup::AsItComes),
        Loop::MonoioFlags => on_monoio::serve(place, on_monoio::Setup::Flags),
        Loop::Glommio => on_glommio::serve(place),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("null_runtimes: {error}");
            ExitCode::FAILURE
        }
    }
}
