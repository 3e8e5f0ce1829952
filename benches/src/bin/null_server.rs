//! The server's own loop and connections with nothing behind them: every request is answered 202, unread; frames and messages of
//! syslog are found and dropped.
//!
//! What it costs is what the network alone costs; the difference to the server is what parsing and storage cost.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ringlog_benches::announce::announce;
use ringlog_engine::io::IoMode;
use ringlog_server::core::null::{self, Listeners};

#[derive(Parser)]
#[command(about = "Answers 202 to every request and drops what sources push, as the server's connections would")]
struct Arguments {
    /// Where to listen; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: String,
    /// Where frames go
    #[arg(long, default_value = "127.0.0.1:0")]
    tcp: String,
    #[arg(long, default_value = "127.0.0.1:0")]
    syslog_tcp: String,
    #[arg(long, default_value = "127.0.0.1:0")]
    syslog_udp: String,
    /// Written once the server accepts: {"http":"ADDRESS","tcp":..,"syslog_tcp":..,"syslog_udp":..}
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
    let listen = |at: &String| TcpListener::bind(at).map_err(|error| format!("{at}: {error}"));
    let syslog_udp = &arguments.syslog_udp;
    let listeners = Listeners {
        http: listen(&arguments.http)?,
        frames: listen(&arguments.tcp)?,
        syslog_tcp: listen(&arguments.syslog_tcp)?,
        syslog_udp: UdpSocket::bind(syslog_udp).map_err(|error| format!("{syslog_udp}: {error}"))?,
    };
    let places = places(&listeners).map_err(|error| error.to_string())?;
    let io = if arguments.fallback { IoMode::Fallback } else { IoMode::Uring };
    null::run(listeners, arguments.cpu, io, || announce(&places, arguments.ports_file.as_deref()))
}

/// By the names that the server's own ports file has.
fn places(listeners: &Listeners) -> std::io::Result<[(&'static str, SocketAddr); 4]> {
    Ok([
        ("http", listeners.http.local_addr()?),
        ("tcp", listeners.frames.local_addr()?),
        ("syslog_tcp", listeners.syslog_tcp.local_addr()?),
        ("syslog_udp", listeners.syslog_udp.local_addr()?),
    ])
}
