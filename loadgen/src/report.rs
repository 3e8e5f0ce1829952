//! What a command says at its end: a table for people, one line of JSON for programs.

use crate::failure::Failure;
use crate::result::{Quantiles, RunResult, SEND_LAG_P99_US_MAX};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Flags whose values are in no result.
const SECRET_FLAGS: [&str; 3] = ["--key", "--bootstrap-key", "--streaming-key"];

/// As it was typed, but for keys: a result is kept and passed on.
pub fn command_line() -> String {
    without_secrets(std::env::args())
}

fn without_secrets(words: impl Iterator<Item = String>) -> String {
    let mut hides_next = false;
    let words = words.map(|word| {
        let is_secret = std::mem::replace(&mut hides_next, SECRET_FLAGS.contains(&word.as_str()));
        match word.split_once('=') {
            _ if is_secret => "***".to_owned(),
            Some((flag, _)) if SECRET_FLAGS.contains(&flag) => format!("{flag}=***"),
            _ => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

pub fn run_text(result: &RunResult) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<16} {value}");
    };
    line(
        "mode",
        match result.offered_per_second {
            Some(rate) => format!(
                "OPEN LOOP at {rate} per second, {} arrivals: response counts from the intended moment",
                result.arrivals.as_deref().unwrap_or("uniform")
            ),
            None => "CLOSED LOOP: a slow server is asked less, so percentiles hide its stalls".to_owned(),
        },
    );
    line(
        "measured",
        format!(
            "{:.2} s{}, {} connections, depth {}, {} threads",
            result.seconds,
            if result.partial { " (PARTIAL: ended before its time)" } else { "" },
            result.connections,
            result.depth,
            result.threads
        ),
    );
    let server = &result.server;
    let said: Vec<&str> =
        [&server.version, &server.durability, &server.io].into_iter().flatten().map(String::as_str).collect();
    line("server", format!("{} {}", server.url, said.join(", ")));
    line("events/s", format!("{:.0}", result.events_per_second));
    line("requests/s", format!("{:.0}", result.requests_per_second));
    let quantiles = |p50: f64, p99: f64, p999: f64, max: f64| {
        format!("p50 {}  p99 {}  p99.9 {}  max {}", time(p50), time(p99), time(p999), time(max))
    };
    if let (Some(p50), Some(p99), Some(p999), Some(max)) =
        (result.response_p50_us, result.response_p99_us, result.response_p999_us, result.response_max_us)
    {
        line("response", quantiles(p50, p99, p999, max));
    }
    line(
        "service",
        quantiles(result.service_p50_us, result.service_p99_us, result.service_p999_us, result.service_max_us),
    );
    if let (Some(p99), Some(max)) = (result.send_lag_p99_us, result.send_lag_max_us) {
        let warning = if SEND_LAG_P99_US_MAX < p99 { "  (1 ms at p99 is the most that is good)" } else { "" };
        line("send lag", format!("p99 {}  max {}{warning}", time(p99), time(max)));
    }
    let warning = if result.loader_bound { "  THE LOAD GENERATOR IS THE BOTTLENECK" } else { "" };
    let starved = match result.loader_starved_percent {
        Some(percent) if 1.0 < percent => format!(", waited for its CPU {percent:.0} % of the time"),
        _ => String::new(),
    };
    line("loader CPU", format!("{:.0} % of a core{starved}{warning}", result.loader_cpu_percent));
    if 1 < result.operations.len() {
        for operation in &result.operations {
            let Quantiles { p50, p99, .. } = operation.op_response_us.unwrap_or(operation.op_service_us);
            let requests = operation.op_requests;
            line(&operation.name, format!("{requests} requests, p50 {}  p99 {}", time(p50), time(p99)));
        }
    }
    if let (Some(cpu), Some(percent)) = (result.server_cpu_us_per_event, result.server_cpu_percent) {
        line("server CPU", format!("{cpu:.3} us per event, {percent:.0} % of a core"));
    }
    if let (Some(flushes), Some(per_second)) = (result.flushes, result.flushes_per_second) {
        line("flushes", format!("{flushes}, {per_second:.0} per second"));
    }
    line("bytes", format!("{} sent, {} received", result.bytes_sent, result.bytes_received));
    line("whole run", format!("{} events in {} requests acknowledged", result.events_good, result.requests_good));
    if 0 < result.reconnects {
        line("reconnects", result.reconnects.to_string());
    }
    line("errors", result.error_count.to_string());
    for (kind, count) in &result.errors {
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

pub fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::{time, without_secrets};

    #[test]
    fn keys_are_in_no_recorded_command() {
        let typed = "ringlog-load run --key a --key=b --bootstrap-key c --bootstrap-key=d --tenants 2";
        let recorded = without_secrets(typed.split(' ').map(str::to_owned));
        assert_eq!(
            recorded,
            "ringlog-load run --key *** --key=*** --bootstrap-key *** --bootstrap-key=*** --tenants 2"
        );
    }

    #[test]
    fn times_have_a_readable_unit() {
        assert_eq!(time(12.3), "12 us");
        assert_eq!(time(1234.0), "1.23 ms");
        assert_eq!(time(3_210_000.0), "3.21 s");
    }
}
