//! What a reader must know beside the curves: how was it asked, who answered, what was promised.
//! What all results have in common becomes a note of the chart, the rest goes into the legend.

use crate::figures::rate;
use crate::plot::chart::LINE_CHARS;
use crate::result::RunResult;

/// The parts of a description, each of which may or may not be the same for all.
pub type Parts = Vec<String>;

pub fn of_run(run: &RunResult) -> Parts {
    vec![loop_of(run), workload_of(run), durability_of(run), server_of(run), machine_of(run)]
}

/// Of the run at half of the knee: a sweep's points keep no description of their own.
pub fn of_sweep_half(half: &RunResult) -> Parts {
    vec![workload_of(half), durability_of(half), server_of(half), machine_of(half)]
}

/// Why the figures may be less than they seem; empty when nothing speaks against them.
pub fn flags(run: &RunResult) -> String {
    let mut flags = String::new();
    if run.loader_bound {
        flags.push_str(", BOUND BY THE LOADER");
    }
    if run.partial {
        flags.push_str(", ENDED EARLY");
    }
    if 0 < run.error_count {
        flags.push_str(&format!(", {} ERRORS", run.error_count));
    }
    flags
}

/// Sorts the parts: those that all have, and for each what only it has.
pub fn shared_and_own(all: &[Parts]) -> (Vec<String>, Vec<String>) {
    let Some(first) = all.first() else { return (Vec::new(), Vec::new()) };
    let is_shared = |part: &&String| all.iter().all(|parts| parts.contains(part));
    let shared: Vec<String> = first.iter().filter(is_shared).cloned().collect();
    let own = all.iter().map(|parts| {
        let own: Vec<&str> = parts.iter().filter(|part| !shared.contains(part)).map(String::as_str).collect();
        own.join("; ")
    });
    let own = own.collect();
    (shared.into_iter().filter(|part| !part.is_empty()).collect(), own)
}

/// The parts beside each other, as many in a line as fit, none of them torn apart.
pub fn lines(parts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + part.chars().count() <= LINE_CHARS => {
                line.push_str("; ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

fn loop_of(run: &RunResult) -> String {
    match (run.loop_kind.as_str(), run.offered_per_second) {
        ("open", Some(offered)) => {
            // Once there are queries, requests are counted.
            let has_queries =
                run.operations.iter().any(|operation| 0 < operation.op_requests && operation.op_events == 0);
            let unit = if has_queries || run.events_per_second == 0.0 { "requests" } else { "events" };
            let arrivals = run.arrivals.as_ref().map_or(String::new(), |arrivals| format!(", {arrivals} arrivals"));
            format!("open loop at {} {unit}/s{arrivals}", rate(offered))
        }
        ("closed", _) => "closed loop (hides stalls)".to_owned(),
        (other, _) => format!("{other} loop"),
    }
}

fn workload_of(run: &RunResult) -> String {
    let names: Vec<&str> = run.operations.iter().map(|operation| operation.name.as_str()).collect();
    let requests = if names.is_empty() { String::new() } else { format!("requests: {}, ", names.join("+")) };
    let batch: Vec<String> = run.batch.iter().map(ToString::to_string).collect();
    format!(
        "{requests}batch size {}, {}-byte events, {} connections, depth {}",
        batch.join("/"),
        run.event_bytes,
        run.connections,
        run.depth
    )
}

fn durability_of(run: &RunResult) -> String {
    format!("durability: {}", run.server.durability.as_deref().unwrap_or("unknown"))
}

fn server_of(run: &RunResult) -> String {
    // Some servers say it with its name.
    let io = run.server.io.as_ref().map_or(String::new(), |io| format!(", io {}", io.trim_start_matches("io: ")));
    format!("server {}{io}", run.server.version.as_deref().unwrap_or("of unknown version"))
}

fn machine_of(run: &RunResult) -> String {
    match run.machine.cpu_count {
        0 => String::new(),
        count => format!("{count} x {}", run.machine.cpu_model),
    }
}
