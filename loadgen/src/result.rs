//! The result of a run as it is kept: one line of JSON that `compare`, `plot` and scripts read.
//!
//! Field names at the top are unique and flat, so that a script can cut them out without a JSON parser; what is
//! nested (`machine`, `server`, `operations`, `series`) repeats none of those names.
//! Times are microseconds, rates are per second, unless a name says otherwise.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first field of every result. A reader refuses what it does not know.
pub const RUN_SCHEMA: &str = "ringlog-load.run.v1";
pub const SWEEP_SCHEMA: &str = "ringlog-load.sweep.v1";

/// Beyond this send lag at p99 a point says more about the load generator than about the server.
pub const SEND_LAG_P99_US_MAX: f64 = 1000.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunResult {
    pub schema: String,
    pub started_unix_ms: u64,
    /// `open` or `closed`: figures of the two are never comparable.
    #[serde(rename = "loop")]
    pub loop_kind: String,
    /// `uniform` or `poisson`; absent in a closed loop.
    pub arrivals: Option<String>,
    /// Ended before its time: by Ctrl-C, the stop file, or because every connection was lost.
    pub partial: bool,
    /// The generator itself was too slow: the figures are a lower bound of what the server can do.
    pub loader_bound: bool,
    /// The command line as it was typed, but for keys.
    pub command: String,
    pub seconds: f64,
    pub events_per_second: f64,
    pub requests_per_second: f64,
    /// The rate that was asked for: events a second for events, requests a second otherwise.
    pub offered_per_second: Option<f64>,
    /// From the actual send to the answer.
    pub service_p50_us: f64,
    pub service_p99_us: f64,
    pub service_p999_us: f64,
    pub service_max_us: f64,
    /// From the intended send to the answer; absent in a closed loop, which has none.
    pub response_p50_us: Option<f64>,
    pub response_p99_us: Option<f64>,
    pub response_p999_us: Option<f64>,
    pub response_max_us: Option<f64>,
    /// How much later than possible the generator sent.
    pub send_lag_p99_us: Option<f64>,
    pub send_lag_max_us: Option<f64>,
    pub server_cpu_us_per_event: Option<f64>,
    pub server_cpu_percent: Option<f64>,
    pub loader_cpu_percent: f64,
    /// Share of the time that a sending thread was ready to run and waited for its CPU; absent where the kernel does
    /// not say. It is part of every latency: answers lay there meanwhile.
    pub loader_starved_percent: Option<f64>,
    pub flushes: Option<u64>,
    pub flushes_per_second: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub events_measured: u64,
    pub requests_measured: u64,
    pub events_good: u64,
    pub requests_good: u64,
    pub error_count: u64,
    /// By kind, over the whole run.
    pub errors: BTreeMap<String, u64>,
    pub reconnects: u64,
    pub connections: u32,
    pub depth: usize,
    pub threads: u32,
    pub batch: Vec<usize>,
    pub event_bytes: usize,
    pub seed: u64,
    pub machine: Machine,
    pub server: Server,
    /// One entry per kind of request in the mix, in the order of the command line.
    pub operations: Vec<Operation>,
    pub series: Series,
    /// HdrHistogram V2 with deflate, in base64, nanoseconds: the payload of an interval log's line.
    pub service_histogram: String,
    pub response_histogram: Option<String>,
}

/// Where a result was taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_model: String,
    pub cpu_count: u32,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Share of the time that the hypervisor took away and that all CPUs were busy, in per cent, while it was measured.
    pub steal_percent: Option<f64>,
    pub busy_percent: Option<f64>,
}

/// What the server says of itself; empty where it does not say.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Server {
    pub url: String,
    pub version: Option<String>,
    pub durability: Option<String>,
    pub io: Option<String>,
}

/// One kind of request: `single`, `batch`, `lines`, `newest`, `by-type`, `by-entity`, `window`, `raw`, ...
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Operation {
    pub name: String,
    pub op_requests: u64,
    pub op_events: u64,
    pub op_errors: u64,
    pub op_service_us: Quantiles,
    pub op_response_us: Option<Quantiles>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// The measured time second by second, as columns of one length; a last second that is not whole is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Series {
    pub event_rate: Vec<f64>,
    pub request_rate: Vec<f64>,
    pub error_rate: Vec<f64>,
    /// Of the response time in an open loop, of the service time in a closed one.
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
    pub max: Vec<f64>,
}

/// What a sweep found: one line of JSON as well.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SweepResult {
    pub schema: String,
    pub started_unix_ms: u64,
    pub command: String,
    /// What the rates count: `events` or `requests`.
    pub rates_of: String,
    /// The bound that every good point keeps.
    pub p99_us_max: f64,
    /// The highest rate that kept it; absent when not even the lowest did.
    pub knee_per_second: Option<f64>,
    /// False when no rate above was seen to fail by the server's own doing: then it is a lower bound only.
    pub knee_found: bool,
    /// Why the sweep went no higher.
    pub ended_by: String,
    pub points: Vec<SweepPoint>,
    /// The run at half of the knee, whole.
    pub half: Option<RunResult>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SweepPoint {
    pub offered: f64,
    pub achieved: f64,
    pub response_p50: f64,
    pub response_p99: f64,
    pub response_p999: f64,
    pub service_p99: f64,
    pub send_lag_p99: f64,
    pub point_errors: u64,
    pub cpu_us_per_event: Option<f64>,
    /// `good`, `too slow`, `behind`, `errors`, `bound by the loader`
    pub verdict: String,
}
