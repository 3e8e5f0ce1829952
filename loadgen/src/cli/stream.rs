//! The arguments of `stream`.

use super::TargetArgs;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
A source that pushes is told nothing. The server closes the connection once all that came over it is stored, so that what is
measured ends there: a rate counts stored events. What the tenants have used is then asked for, and must be as many.

EXAMPLES

  Frames of 100 events, as fast as the server takes them:
    export RINGLOG_LOAD_BOOTSTRAP_KEY=rl_bk_...
    ringlog-load stream --source frames --batch 100 --seconds 10 --ports-file ports.json

  A million frames on two connections, two keys in turn on each, read back and compared:
    ringlog-load stream --source frames --count 1000000 --connections 2 --tenants 2 --verify --ports-file ports.json

  Syslog with octet counting, to a server that only pretends:
    ringlog-load stream --source syslog --to 127.0.0.1:5514 --streaming-key 00112233445566778899aabbccddeeff";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Binary frames over TCP
    Frames,
    /// RFC 5424 over TCP, with octet counting
    Syslog,
    /// RFC 5424 over UDP, a message a datagram
    SyslogUdp,
}

#[derive(Debug, Clone, Args)]
pub struct StreamArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// What is sent
    #[arg(long, value_enum, default_value = "frames", help_heading = "Load")]
    pub source: Source,
    /// Where it is sent (default: as the ports file says)
    #[arg(long, value_name = "ADDRESS", help_heading = "Load")]
    pub to: Option<SocketAddr>,
    /// Events of a frame; messages of one write of syslog
    #[arg(long, short, default_value_t = 100, value_name = "N", help_heading = "Load")]
    pub batch: usize,
    /// Connections, each with a thread of its own
    #[arg(long, short, default_value_t = 4, value_name = "N", help_heading = "Load")]
    pub connections: u32,
    /// Seconds that are sent for (default 10, unless --count is given)
    #[arg(long, short, value_name = "SECONDS", help_heading = "Load")]
    pub seconds: Option<f64>,
    /// Stop after so many batches, over all connections
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub count: Option<u64>,
    /// Frames are gathered up to so many bytes for one write
    #[arg(long, default_value_t = 64 << 10, value_name = "BYTES", help_heading = "Load")]
    pub write_bytes: usize,
    /// Keep this program on these CPUs
    #[arg(long, visible_alias = "cpu", value_delimiter = ',', value_name = "CPU", help_heading = "Load")]
    pub cpus: Vec<usize>,
    /// Give up when the server has not closed a connection for so long after its end
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", help_heading = "Load")]
    pub patience: f64,

    /// Bytes of one event
    #[arg(long, default_value_t = 220, value_name = "BYTES", help_heading = "Events")]
    pub event_bytes: usize,
    /// Entities per tenant
    #[arg(long, default_value_t = 10_000, value_name = "N", help_heading = "Events")]
    pub entities: u32,
    /// Tenants that are made for this run; each connection sends for all of them in turn
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "streaming_key", help_heading = "Events")]
    pub tenants: u16,
    /// Send with this key of 32 hex digits, and ask the server nothing; may be repeated
    #[arg(long, value_name = "KEY", help_heading = "Events")]
    pub streaming_key: Vec<String>,
    /// Makes the tenants (or RINGLOG_LOAD_BOOTSTRAP_KEY)
    #[arg(long, value_name = "KEY", help_heading = "Events")]
    pub bootstrap_key: Option<String>,
    /// Read every tenant's events back: each has its own and no others, in the order of each connection
    #[arg(long, conflicts_with = "streaming_key", help_heading = "Events")]
    pub verify: bool,

    /// Report the CPU time that this process used, per event
    #[arg(long, value_name = "PID", help_heading = "Output")]
    pub server_pid: Option<u32>,
    /// Report the flushes of this block device, as in vda
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    pub device: Option<String>,
    /// Write the result as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
}
