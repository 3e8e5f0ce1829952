//! Results as they were kept: files with one line of JSON per result, and the histograms inside.
//!
//! What is not a result is refused with the file, the line and the reason, never skipped.

use crate::failure::Failure;
use crate::result::{RUN_SCHEMA, RunResult, SWEEP_SCHEMA, SweepResult};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

#[derive(Debug)]
pub enum Kept {
    Run(Box<RunResult>),
    Sweep(Box<SweepResult>),
}

/// Every result of a file, in its order; at least one.
pub fn read(path: &Path) -> Result<Vec<Kept>, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::io(path.display()))?;
    let mut kept = Vec::new();
    for (line_index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let result =
            parse(line).map_err(|why| Failure::Usage(format!("{}, line {}: {why}", path.display(), line_index + 1)))?;
        kept.push(result);
    }
    if kept.is_empty() {
        return Err(Failure::Usage(format!(
            "{} is empty: one line of JSON per result is expected, as `run --json` and `sweep --json` write it",
            path.display()
        )));
    }
    Ok(kept)
}

fn parse(line: &str) -> Result<Kept, String> {
    #[derive(Deserialize)]
    struct Head {
        schema: Option<String>,
    }

    fn all<T: DeserializeOwned>(line: &str) -> Result<Box<T>, String> {
        serde_json::from_str(line).map(Box::new).map_err(|error| error.to_string())
    }

    let head: Head = serde_json::from_str(line).map_err(|error| format!("not a result in JSON: {error}"))?;
    match head.schema.as_deref() {
        Some(RUN_SCHEMA) => all(line).map(Kept::Run),
        Some(SWEEP_SCHEMA) => all(line).map(Kept::Sweep),
        Some(other) => Err(format!("schema {other:?} is not known here: {RUN_SCHEMA} and {SWEEP_SCHEMA} are")),
        None => Err(format!("no schema, so not a result of this program ({RUN_SCHEMA} or {SWEEP_SCHEMA})")),
    }
}

/// Nanoseconds. What comes out of a file may be anything, so every step may fail.
pub fn histogram(text: &str) -> Result<Histogram<u64>, String> {
    if text.is_empty() {
        return Err("no histogram".to_owned());
    }
    let bytes = STANDARD.decode(text).map_err(|error| format!("a histogram that is not base64: {error}"))?;
    let histogram = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram that cannot be read: {error}"))?;
    if histogram.is_empty() { Err("an empty histogram".to_owned()) } else { Ok(histogram) }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::result::{Machine, Operation, Series, Server};
    use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
    use std::collections::BTreeMap;

    pub fn encoded(values: impl IntoIterator<Item = u64>) -> String {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
        STANDARD.encode(bytes)
    }

    /// An open loop's result, all figures of which follow from two.
    pub fn run_result(events_per_second: f64, p99_us: f64) -> RunResult {
        let ns = (p99_us * 1000.0) as u64;
        RunResult {
            schema: RUN_SCHEMA.to_owned(),
            started_unix_ms: 1_767_225_600_000,
            loop_kind: "open".to_owned(),
            arrivals: Some("uniform".to_owned()),
            partial: false,
            loader_bound: false,
            loader_starved_percent: None,
            command: "ringlog-load run --rate 50000".to_owned(),
            seconds: 10.0,
            events_per_second,
            requests_per_second: events_per_second / 10.0,
            offered_per_second: Some(50_000.0),
            service_p50_us: p99_us / 4.0,
            service_p99_us: p99_us / 2.0,
            service_p999_us: p99_us,
            service_max_us: p99_us * 2.0,
            response_p50_us: Some(p99_us / 2.0),
            response_p99_us: Some(p99_us),
            response_p999_us: Some(p99_us * 2.0),
            response_max_us: Some(p99_us * 4.0),
            send_lag_p99_us: Some(5.0),
            send_lag_max_us: Some(9.0),
            server_cpu_us_per_event: Some(1.5),
            server_cpu_percent: Some(75.0),
            loader_cpu_percent: 30.0,
            flushes: Some(10_000),
            flushes_per_second: Some(1000.0),
            bytes_sent: 1,
            bytes_received: 1,
            events_measured: 500_000,
            requests_measured: 50_000,
            events_good: 500_000,
            requests_good: 50_000,
            error_count: 0,
            errors: BTreeMap::new(),
            reconnects: 0,
            connections: 64,
            depth: 1,
            threads: 1,
            batch: vec![10],
            event_bytes: 220,
            seed: 1,
            machine: Machine { cpu_count: 2, cpu_model: "Model 1".to_owned(), ..Machine::default() },
            server: Server {
                url: "http://127.0.0.1:3900".to_owned(),
                version: Some("0.1.0".to_owned()),
                durability: Some("sync".to_owned()),
                io: Some("uring".to_owned()),
            },
            operations: vec![Operation { name: "batch".to_owned(), ..Operation::default() }],
            series: Series {
                event_rate: vec![events_per_second; 10],
                request_rate: vec![events_per_second / 10.0; 10],
                error_rate: vec![0.0; 10],
                p50: vec![p99_us / 2.0; 10],
                p99: vec![p99_us; 10],
                max: vec![p99_us * 4.0; 10],
            },
            service_histogram: encoded((1..=1000).map(|number| ns * number / 2000)),
            response_histogram: Some(encoded((1..=1000).map(|number| ns * number / 1000))),
        }
    }

    pub fn line(result: &impl serde::Serialize) -> String {
        serde_json::to_string(result).unwrap() + "\n"
    }

    fn refusal(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let failure = read(file.path()).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        failure.to_string().replace(&file.path().display().to_string(), "F")
    }

    #[test]
    fn results_come_back_line_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, line(&run_result(1000.0, 50.0)) + "\n" + &line(&run_result(2000.0, 60.0))).unwrap();
        let kept = read(file.path()).unwrap();
        let rates = kept.iter().map(|kept| match kept {
            Kept::Run(run) => run.events_per_second,
            Kept::Sweep(_) => panic!("no sweep was written"),
        });
        assert_eq!(rates.collect::<Vec<_>>(), [1000.0, 2000.0]);
    }

    #[test]
    fn what_is_no_result_is_refused_with_its_line() {
        let good = line(&run_result(1000.0, 50.0));
        assert!(refusal("\n \n").starts_with("F is empty: one line of JSON per result"));
        assert!(refusal(&format!("{good}oops\n")).starts_with("F, line 2: not a result in JSON: expected value"));
        assert!(refusal("{}").starts_with("F, line 1: no schema"));
        let other = refusal(r#"{"schema":"ringlog-load.run.v9"}"#);
        assert!(other.starts_with(r#"F, line 1: schema "ringlog-load.run.v9" is not known here"#), "{other}");
        let cut = good.replace("\"seconds\":10.0,", "");
        assert!(refusal(&format!("{good}{good}{cut}")).starts_with("F, line 3: missing field `seconds`"));
        let gone = read(Path::new("/nowhere/a.json")).unwrap_err().to_string();
        assert!(gone.starts_with("/nowhere/a.json: No such file"), "{gone}");
    }

    #[test]
    fn histograms_come_back_or_say_why_not() {
        let read = histogram(&encoded([1000, 2000, 3000])).unwrap();
        assert_eq!((read.len(), read.max()), (3, read.highest_equivalent(3000)));
        assert_eq!(histogram("").unwrap_err(), "no histogram");
        assert!(histogram("!").unwrap_err().starts_with("a histogram that is not base64"));
        assert!(histogram("AAAA").unwrap_err().starts_with("a histogram that cannot be read"));
        assert_eq!(histogram(&encoded([])).unwrap_err(), "an empty histogram");
    }
}
