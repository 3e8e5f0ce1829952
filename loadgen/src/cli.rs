//! The command line, and nothing else: what was written, not yet what it means.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const RUN_EXAMPLES: &str = "\
EXAMPLES

  As fast as 64 connections go, ten events per request (closed loop):
    ringlog-load run --url http://127.0.0.1:3900 --connections 64 --batch 10 --duration 30

  What latency is at 50,000 events a second (open loop: a stalled server cannot slow the schedule down):
    ringlog-load run --rate 50000 --batch 10 --connections 64 --duration 60 --json result.json

  What the server pays, and whether it really flushes:
    taskset -c 1 ringlog-load run --batch 100 --server-pid $(pidof ringlog) --device vda

  A run that can be checked afterwards, through crashes and restarts, and the check:
    ringlog-load run --ledger ledger.bin --tenants 4 --batch 1,10 --reconnect --duration 60
    ringlog-load verify --ledger ledger.bin --url http://127.0.0.1:3900

  Any other server, with a request of your own:
    ringlog-load run --url http://127.0.0.1:8080 --raw POST /v1/ingest --body batch.json \\
        --header 'content-type: application/json' --batch 100";

const VERIFY_EXAMPLES: &str = "\
EXAMPLES

  Everything that was acknowledged, read back and compared:
    ringlog-load verify --ledger ledger.bin --url http://127.0.0.1:3900

  In a script; the exit code is 0, or 8 when something is wrong:
    ringlog-load verify --ledger ledger.bin --ports-file ports.json --json verdict.json";

#[derive(Debug, Parser)]
#[command(name = "ringlog-load", version, about = "Drives an event store and proves afterwards that it kept its word")]
#[command(after_help = "Five worked examples: ringlog-load run --help")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send events, queries or a request of your own, and measure
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Read everything back and compare it with the ledger of a run
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
}

#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Where the server is
    #[arg(long, default_value = "http://127.0.0.1:3900", value_name = "URL")]
    pub url: String,
    /// Take the address from the JSON that the server wrote, anew for every connection
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub ports_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections, all opened before the first request
    #[arg(long, short, default_value_t = 16, value_name = "N")]
    pub connections: u32,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub depth: usize,
    /// Seconds that are measured (default 10, unless --count is given)
    #[arg(long, short, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Seconds before the measured ones (default 1; 0 with --count or --ledger)
    #[arg(long, value_name = "SECONDS")]
    pub warmup: Option<f64>,
    /// The same seed sends the same bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Bytes of one event as JSON, on average; each is up to a fifth smaller or larger
    #[arg(long, default_value_t = 220, value_name = "BYTES")]
    pub event_bytes: usize,
    /// Events per request; several sizes are mixed at random, as in 1,10
    #[arg(long, short, default_value = "1", value_delimiter = ',', value_name = "N")]
    pub batch: Vec<usize>,
    /// Send batches of one as {"events":[..]} too, instead of as a single event
    #[arg(long)]
    pub always_batch: bool,
    /// Tenants that are onboarded for this run
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "key")]
    pub tenants: u16,
    /// Use this key instead of onboarding; may be repeated, one tenant each
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,
    /// Begins the e-mail address that tenants are onboarded with (default: made from the time)
    #[arg(long, value_name = "TEXT")]
    pub tenant_prefix: Option<String>,
    /// Entities per tenant
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub entities: u32,
    /// Open loop: send at this rate whatever happens, in events a second (requests a second for queries)
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Query the newest events instead of sending any
    #[arg(long, conflicts_with_all = ["ledger", "raw"])]
    pub query: bool,
    /// With --query: of one entity, chosen at random
    #[arg(long, requires = "query")]
    pub query_entity: bool,
    /// With --query: how many
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub query_limit: u32,
    /// Send this request instead; any 2xx is good, and --batch says how many events it counts for
    #[arg(long, num_args = 2, value_names = ["METHOD", "PATH"], conflicts_with = "ledger")]
    pub raw: Option<Vec<String>>,
    /// With --raw: the body
    #[arg(long, requires = "raw", value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// A header line for every request; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Do not look into answers: any 2xx is good (for servers that only pretend)
    #[arg(long, conflicts_with = "ledger")]
    pub accept_any_2xx: bool,
    /// Keep this process on one CPU
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Note every request and its outcome here, for `verify`; an existing ledger and its keys are continued
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Connect again when the server goes away, and go on
    #[arg(long)]
    pub reconnect: bool,
    /// With --reconnect: give up when no connection succeeded for so long
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub reconnect_for: f64,
    /// A request without an answer for so long is an error and closes its connection
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// End early once this file exists
    #[arg(long, value_name = "FILE")]
    pub stop_file: Option<PathBuf>,
    /// Report the CPU time that this process used, per event
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Report the flushes of this block device, as in vda
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Write the result as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress lines
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// What `run --ledger` wrote
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Events per page
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub page: u32,
    /// Accept versions that skip numbers
    #[arg(long)]
    pub allow_gaps: bool,
    /// Seconds to wait for one page
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Write the verdict as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write every finding here, one line of JSON each; the table shows the first few of each kind
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// No progress lines
    #[arg(long, short)]
    pub quiet: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
