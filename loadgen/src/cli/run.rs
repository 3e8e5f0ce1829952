//! The arguments of `run`.

use super::TargetArgs;
use crate::source::BodyKind;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
A MIX is a list of NAME=WEIGHT. The names:
  single     one event to /api/v1/events
  batch      events to /api/v1/events/batch, as many as --batch says
  lines      events as JSON lines to --lines-path, as many as --batch says
  newest     the newest --query-limit events          by-type    ... of one type
  by-entity  ... of one entity                         window     ... of the last --window seconds

PLACEHOLDERS in the path, the headers and the body of --raw:
  {seq}      16 hex digits, another number each time   {entity}   e-XXXXXXXX, chosen as --entities says
  {event}    a whole event, as JSON                    {uuid}     a random UUID, from the seed
  {now_ms}   milliseconds since 1970

EXAMPLES

  A tenant that is onboarded has a tier, and with it a quota of events and a rate of requests. Against ringlog, give the
  server's bootstrap key, and the run makes tenants without limits:
    export RINGLOG_LOAD_BOOTSTRAP_KEY=rl_bk_...

  What latency is at 50,000 events a second (open loop: a stalled server cannot slow the schedule down):
    ringlog-load run --rate 50000 --batch 10 --connections 64 --duration 60 --json result.json --hlog result.hlog

  As fast as 64 connections go, ten events per request (closed loop: it waits for the server, and says so):
    ringlog-load run --closed --connections 64 --batch 10 --duration 30

  Writers and readers together, many tenants of unequal size, arrivals as of independent users, on cores 1 and 2:
    ringlog-load run --rate 20000 --arrivals poisson --mix single=70,batch=20,newest=5,by-entity=5 --batch 50 \\
        --tenants 100 --tenant-skew zipf:1.1 --event-size lognormal:300,0.6 --threads 2 --cpus 1,2

  A run that can be checked afterwards, through crashes and restarts, and the check:
    ringlog-load run --closed --ledger ledger.bin --tenants 4 --batch 1,10 --reconnect --duration 60
    ringlog-load verify --ledger ledger.bin --url http://127.0.0.1:3900

  Any other HTTP server, with a request of your own:
    ringlog-load run --rate 2000 --url http://127.0.0.1:8080 --raw POST '/items/{uuid}' --body item.json \\
        --header 'content-type: application/json'";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// The same time between any two
    Uniform,
    /// Random times, as of many independent senders
    Poisson,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Open loop: send at this rate whatever happens, in events a second (requests a second once there are queries)
    #[arg(long, value_name = "PER_SECOND", allow_negative_numbers = true, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Closed loop: each connection waits for its answers before it sends more, so a slow server is asked less
    #[arg(long, conflicts_with = "rate", help_heading = "Load")]
    pub closed: bool,
    /// With --rate: how the requests are spread over time (default: uniform)
    #[arg(long, value_enum, conflicts_with = "closed", help_heading = "Load")]
    pub arrivals: Option<Arrivals>,
    /// Connections, all opened before the first request
    #[arg(long, short, default_value_t = 16, value_name = "N", help_heading = "Load")]
    pub connections: u32,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Load")]
    pub depth: usize,
    /// Threads that send; the connections are divided among them
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Load")]
    pub threads: usize,
    /// Keep this program on these CPUs, one thread on each in turn, as in 1,2
    #[arg(long, visible_alias = "cpu", value_delimiter = ',', value_name = "CPU", help_heading = "Load")]
    pub cpus: Vec<usize>,
    /// Seconds that are measured (default 10, unless --count is given)
    #[arg(long, short, value_name = "SECONDS", help_heading = "Load")]
    pub duration: Option<f64>,
    /// Stop after this many requests
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub count: Option<u64>,
    /// Seconds before the measured ones (default 1; 0 with --count or --ledger)
    #[arg(long, value_name = "SECONDS", help_heading = "Load")]
    pub warmup: Option<f64>,

    /// What is sent, by ratio, as in single=70,batch=20,newest=5,by-entity=5 (default: events, as --batch says)
    #[arg(long, value_name = "MIX", conflicts_with_all = ["query", "raw", "always_batch"], help_heading = "Requests")]
    pub mix: Option<String>,
    /// Events per request; several sizes are mixed at random, as in 1,10 (default 1; 10 for batches in a --mix)
    #[arg(long, short, value_delimiter = ',', value_name = "N", help_heading = "Requests")]
    pub batch: Vec<usize>,
    /// Send batches of one as {"events":[..]} too, instead of as a single event
    #[arg(long, help_heading = "Requests")]
    pub always_batch: bool,
    /// Where JSON lines go
    #[arg(long, default_value = "/api/v1/events/batch", value_name = "PATH", help_heading = "Requests")]
    pub lines_path: String,
    /// The content type of JSON lines
    #[arg(long, default_value = "application/x-ndjson", value_name = "TYPE", help_heading = "Requests")]
    pub lines_type: String,
    /// Query the newest events instead of sending any: the same as --mix newest=1
    #[arg(long, conflicts_with_all = ["ledger", "raw"], help_heading = "Requests")]
    pub query: bool,
    /// With --query: of one entity, chosen at random: the same as --mix by-entity=1
    #[arg(long, requires = "query", help_heading = "Requests")]
    pub query_entity: bool,
    /// How many events a query asks for
    #[arg(long, default_value_t = 100, value_name = "N", help_heading = "Requests")]
    pub query_limit: u32,
    /// How far back a query by time looks
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", help_heading = "Requests")]
    pub window: f64,
    /// Send this request instead; any 2xx is good, and --batch says how many events it counts for
    #[arg(long, num_args = 2, value_names = ["METHOD", "PATH"], conflicts_with = "ledger", help_heading = "Requests")]
    pub raw: Option<Vec<String>>,
    /// With --raw: the body
    #[arg(long, requires = "raw", value_name = "FILE", help_heading = "Requests")]
    pub body: Option<PathBuf>,
    /// With --raw: the body, as it stands here
    #[arg(long, requires = "raw", conflicts_with = "body", value_name = "TEXT", help_heading = "Requests")]
    pub body_text: Option<String>,
    /// With --raw: a body that is made here, of as many events as --batch says, other ones each time
    #[arg(long, value_enum, requires = "raw", conflicts_with_all = ["body", "body_text"], value_name = "KIND", help_heading = "Requests")]
    pub made: Option<BodyKind>,
    /// With --made frame: the key in the frame, 32 hex digits
    #[arg(long, requires = "made", value_name = "KEY", help_heading = "Requests")]
    pub streaming_key: Option<String>,
    /// With --raw: what looks like a placeholder is none
    #[arg(long, requires = "raw", help_heading = "Requests")]
    pub verbatim: bool,
    /// A header line for every request; may be repeated
    #[arg(long, value_name = "NAME: VALUE", help_heading = "Requests")]
    pub header: Vec<String>,
    /// Do not look into answers: any 2xx is good (for servers that only pretend)
    #[arg(long, conflicts_with = "ledger", help_heading = "Requests")]
    pub accept_any_2xx: bool,

    /// The same seed sends the same bytes
    #[arg(long, default_value_t = 1, help_heading = "Events")]
    pub seed: u64,
    /// Bytes of one event as JSON, on average; each is up to a fifth smaller or larger
    #[arg(long, default_value_t = 220, value_name = "BYTES", conflicts_with = "event_size", help_heading = "Events")]
    pub event_bytes: usize,
    /// Bytes of one event: fixed:220, uniform:180-260, normal:220,30, lognormal:MEDIAN,SIGMA or BYTES=WEIGHT,..
    #[arg(long, value_name = "DISTRIBUTION", help_heading = "Events")]
    pub event_size: Option<String>,
    /// Entities per tenant
    #[arg(long, default_value_t = 10_000, value_name = "N", help_heading = "Events")]
    pub entities: u32,
    /// How often each entity is chosen: uniform, or zipf:EXPONENT
    #[arg(long, default_value = "uniform", value_name = "SKEW", help_heading = "Events")]
    pub entity_skew: String,
    /// Tenants that are made for this run
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "key", help_heading = "Events")]
    pub tenants: u16,
    /// How often each tenant is chosen: uniform, or zipf:EXPONENT (default: connections take turns)
    #[arg(long, value_name = "SKEW", help_heading = "Events")]
    pub tenant_skew: Option<String>,
    /// Use this key instead of making a tenant; may be repeated, one tenant each
    #[arg(long, value_name = "KEY", help_heading = "Events")]
    pub key: Vec<String>,
    /// Make tenants without limits with this key (or RINGLOG_LOAD_BOOTSTRAP_KEY) instead of onboarding them: an
    /// onboarded one is stopped by its quota
    #[arg(long, value_name = "KEY", conflicts_with = "key", help_heading = "Events")]
    pub bootstrap_key: Option<String>,
    /// Begins the id, or the e-mail address, of the tenants that are made (default: made from the time)
    #[arg(long, value_name = "TEXT", help_heading = "Events")]
    pub tenant_prefix: Option<String>,

    /// Note every request and its outcome here, for `verify`; an existing ledger and its keys are continued
    #[arg(long, value_name = "FILE", help_heading = "Faults")]
    pub ledger: Option<PathBuf>,
    /// Connect again when the server goes away, and go on
    #[arg(long, help_heading = "Faults")]
    pub reconnect: bool,
    /// With --reconnect: give up when no connection succeeded for so long
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", help_heading = "Faults")]
    pub reconnect_for: f64,
    /// A request without an answer for so long is an error and closes its connection
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", help_heading = "Faults")]
    pub timeout: f64,
    /// End early once this file exists
    #[arg(long, value_name = "FILE", help_heading = "Faults")]
    pub stop_file: Option<PathBuf>,

    /// Report the CPU time that this process used, per event
    #[arg(long, value_name = "PID", help_heading = "Output")]
    pub server_pid: Option<u32>,
    /// Report the flushes of this block device, as in vda
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    pub device: Option<String>,
    /// Write the result as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write the latencies, second by second, as an HdrHistogram interval log
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hlog: Option<PathBuf>,
    /// No progress lines
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}
