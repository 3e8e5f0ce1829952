//! What a command says at its end: a table for people, one line of JSON for programs.

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::stats::Stats;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The result of a run. Field names are unique and flat, so that a script can cut them out without a JSON parser.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// `open` or `closed`: figures of the two are never comparable.
    #[serde(rename = "loop")]
    pub loop_kind: &'static str,
    pub command: String,
    pub seconds: f64,
    pub events_per_second: f64,
    pub requests_per_second: f64,
    pub offered_per_second: Option<f64>,
    pub service_p50_us: f64,
    pub service_p99_us: f64,
    pub service_p999_us: f64,
    pub service_max_us: f64,
    /// From the intended moment; absent in a closed loop, which has none.
    pub response_p50_us: Option<f64>,
    pub response_p99_us: Option<f64>,
    pub response_p999_us: Option<f64>,
    pub response_max_us: Option<f64>,
    pub send_lag_p99_us: Option<f64>,
    pub send_lag_max_us: Option<f64>,
    pub server_cpu_us_per_event: Option<f64>,
    pub server_cpu_percent: Option<f64>,
    pub flushes: Option<u64>,
    pub flushes_per_second: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub events_measured: u64,
    pub requests_measured: u64,
    pub events_good: u64,
    pub requests_good: u64,
    pub error_count: u64,
    pub errors: BTreeMap<String, u64>,
    pub reconnects: u64,
    pub connections: u32,
    pub depth: usize,
    pub batch: Vec<usize>,
    pub event_bytes: usize,
    pub seed: u64,
}

impl Summary {
    pub fn new(args: &RunArgs, stats: &Stats, seconds: f64, cpu_us: Option<u64>, flushes: Option<u64>) -> Self {
        let per_second = |count: u64| if 0.0 < seconds { count as f64 / seconds } else { 0.0 };
        let us = |histogram: &Histogram<u64>, quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let is_open = args.rate.is_some();
        let response = |quantile: f64| is_open.then(|| us(&stats.response, quantile));
        // Queries carry no events: then the cost is per request.
        let work = if args.query { stats.requests_in_window } else { stats.events_in_window };
        Self {
            loop_kind: if is_open { "open" } else { "closed" },
            command: command_line(),
            seconds,
            events_per_second: per_second(stats.events_in_window),
            requests_per_second: per_second(stats.requests_in_window),
            offered_per_second: args.rate,
            service_p50_us: us(&stats.service, 0.5),
            service_p99_us: us(&stats.service, 0.99),
            service_p999_us: us(&stats.service, 0.999),
            service_max_us: us(&stats.service, 1.0),
            response_p50_us: response(0.5),
            response_p99_us: response(0.99),
            response_p999_us: response(0.999),
            response_max_us: response(1.0),
            send_lag_p99_us: is_open.then(|| us(&stats.send_lag, 0.99)),
            send_lag_max_us: is_open.then(|| us(&stats.send_lag, 1.0)),
            server_cpu_us_per_event: cpu_us.filter(|_| 0 < work).map(|cpu| cpu as f64 / work as f64),
            server_cpu_percent: cpu_us.filter(|_| 0.0 < seconds).map(|cpu| cpu as f64 / seconds / 1e4),
            flushes,
            flushes_per_second: flushes.map(per_second),
            bytes_sent: stats.bytes_out_in_window,
            bytes_received: stats.bytes_in_in_window,
            events_measured: stats.events_in_window,
            requests_measured: stats.requests_in_window,
            events_good: stats.events_good,
            requests_good: stats.requests_good,
            error_count: stats.error_count(),
            errors: stats.errors.clone(),
            reconnects: stats.reconnects,
            connections: args.connections,
            depth: args.depth,
            batch: args.batch.clone(),
            event_bytes: args.event_bytes,
            seed: args.seed,
        }
    }
}

/// As it was typed, but for keys: a result is kept and passed on.
fn command_line() -> String {
    let mut hides_next = false;
    let words = std::env::args().map(|word| {
        let is_secret = std::mem::replace(&mut hides_next, word == "--key");
        match word.split_once('=') {
            _ if is_secret => "***".to_owned(),
            Some(("--key", _)) => "--key=***".to_owned(),
            _ => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

pub fn summary_text(summary: &Summary) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<16} {value}");
    };
    line(
        "mode",
        match summary.offered_per_second {
            Some(rate) => format!("OPEN LOOP at {rate} per second: latency counts from the intended moment"),
            None => "CLOSED LOOP: a slow server is asked less, so percentiles hide its stalls".to_owned(),
        },
    );
    line("measured", format!("{:.2} s, {} connections, depth {}", summary.seconds, summary.connections, summary.depth));
    line("events/s", format!("{:.0}", summary.events_per_second));
    line("requests/s", format!("{:.0}", summary.requests_per_second));
    let quantiles = |p50: f64, p99: f64, p999: f64, max: f64| {
        format!("p50 {}  p99 {}  p99.9 {}  max {}", time(p50), time(p99), time(p999), time(max))
    };
    if let (Some(p50), Some(p99), Some(p999), Some(max)) =
        (summary.response_p50_us, summary.response_p99_us, summary.response_p999_us, summary.response_max_us)
    {
        line("response", quantiles(p50, p99, p999, max));
    }
    line(
        "service",
        quantiles(summary.service_p50_us, summary.service_p99_us, summary.service_p999_us, summary.service_max_us),
    );
    if let (Some(p99), Some(max)) = (summary.send_lag_p99_us, summary.send_lag_max_us) {
        let warning = if 1000.0 < p99 { "  THE LOAD GENERATOR IS THE BOTTLENECK" } else { "" };
        line("send lag", format!("p99 {}  max {}{warning}", time(p99), time(max)));
    }
    if let (Some(cpu), Some(percent)) = (summary.server_cpu_us_per_event, summary.server_cpu_percent) {
        line("server CPU", format!("{cpu:.3} us per event, {percent:.0} % of a core"));
    }
    if let (Some(flushes), Some(per_second)) = (summary.flushes, summary.flushes_per_second) {
        line("flushes", format!("{flushes}, {per_second:.0} per second"));
    }
    line("bytes", format!("{} sent, {} received", summary.bytes_sent, summary.bytes_received));
    line("whole run", format!("{} events in {} requests acknowledged", summary.events_good, summary.requests_good));
    if 0 < summary.reconnects {
        line("reconnects", summary.reconnects.to_string());
    }
    line("errors", summary.error_count.to_string());
    for (kind, count) in &summary.errors {
        line("", format!("{count:>8}  {kind}"));
    }
    text
}

/// The table goes to standard output; where JSON is wanted there, the table makes room and goes to standard error.
pub fn publish(value: &impl Serialize, text: &str, json: Option<&Path>) -> Result<(), Failure> {
    let to_json = || serde_json::to_string(value).map_err(|error| Failure::Other(format!("JSON: {error}")));
    match json {
        None => print!("{text}"),
        Some(path) if path == Path::new("-") => {
            eprint!("{text}");
            println!("{}", to_json()?);
        }
        Some(path) => {
            print!("{text}");
            std::fs::write(path, to_json()? + "\n").map_err(Failure::io(path.display()))?;
        }
    }
    Ok(())
}

fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_a_readable_unit() {
        assert_eq!(time(12.3), "12 us");
        assert_eq!(time(1234.0), "1.23 ms");
        assert_eq!(time(3_210_000.0), "3.21 s");
    }
}
