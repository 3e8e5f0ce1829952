//! The server's own loop and connections with nothing behind them: every request is answered 202, unread.
//!
//! What it costs is what HTTP alone costs; the difference to the server is what storage costs.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ringlog_benches::announce::announce;
use ringlog_engine::io::IoMode;

#[derive(Parser)]
#[command(about = "Answers 202 to every request, as the server's connections would")]
struct Arguments {
    /// Where to listen; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: String,
    /// Written once the server accepts: {"http":"ADDRESS"}
    #[arg(long)]
    ports_file: Option<PathBuf>,
    /// The processor to stay on.
    #[arg(long)]
    cpu: Option<usize>,
    /// epoll instead of io_uring
    #[arg(long)]
    fallback: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("null_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), String> {
    let listener = TcpListener::bind(&arguments.http).map_err(|error| format!("{}: {error}", arguments.http))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let io = if arguments.fallback { IoMode::Fallback } else { IoMode::Uring };
    ringlog_server::core::null::run(listener, arguments.cpu, io, || announce(address, arguments.ports_file.as_deref()))
}
