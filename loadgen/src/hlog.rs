//! HdrHistogram's own formats: the interval log, and one histogram as text.

use crate::failure::Failure;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::path::Path;
use std::time::{Duration, SystemTime};

const NS_PER_MS: f64 = 1e6;

/// One second of a run, or the answers that came after it.
#[derive(Debug)]
pub struct Slice {
    pub starts_after: Duration,
    pub length: Duration,
    pub service: Histogram<u64>,
    /// Open loop only.
    pub response: Option<Histogram<u64>>,
}

/// HdrHistogram V2 with deflate, in base64: what stands at the end of an interval log's line.
pub fn encode(histogram: &Histogram<u64>) -> Result<String, Failure> {
    let (starts_after, length) = (Duration::ZERO, Duration::ZERO);
    let line = lines(&Slice { starts_after, length, service: histogram.clone(), response: None })?;
    line.trim_end().rsplit_once(',').map(|(_, encoded)| encoded.to_owned()).ok_or_else(|| failed("no line"))
}

/// A whole log; `lines` are those of [`lines`], in order.
pub fn write(path: &Path, command: &str, started_at: SystemTime, lines: &str) -> Result<(), Failure> {
    let text = header(command, started_at)? + lines;
    std::fs::write(path, text).map_err(Failure::io(format!("--hlog {}", path.display())))
}

fn header(command: &str, started_at: SystemTime) -> Result<String, Failure> {
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(command).add_comment("values in nanoseconds, maxima in milliseconds");
    builder.with_start_time(started_at).with_base_time(started_at).with_max_value_divisor(NS_PER_MS);
    let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    builder.begin_log_with(&mut text, &mut serializer).map_err(|error| failed(&error.to_string()))?;
    String::from_utf8(text).map_err(|error| failed(&error.to_string()))
}

/// The lines of one slice, one for each kind of latency.
pub fn lines(slice: &Slice) -> Result<String, Failure> {
    let mut builder = IntervalLogWriterBuilder::new();
    builder.with_max_value_divisor(NS_PER_MS);
    let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut log = builder.begin_log_with(&mut text, &mut serializer).map_err(|error| failed(&error.to_string()))?;
    for (name, histogram) in [("service", Some(&slice.service)), ("response", slice.response.as_ref())] {
        let Some(histogram) = histogram else { continue };
        log.write_histogram(histogram, slice.starts_after, slice.length, Tag::new(name))
            .map_err(|error| failed(&format!("{error:?}")))?;
    }
    let text = String::from_utf8(text).map_err(|error| failed(&error.to_string()))?;
    let is_line = |line: &&str| !line.starts_with('#') && !line.starts_with('"');
    Ok(text.lines().filter(is_line).flat_map(|line| [line, "\n"]).collect())
}

fn failed(why: &str) -> Failure {
    Failure::Other(format!("the histogram cannot be written: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_has_one_line_for_each_second_and_kind() {
        let mut service = histogram();
        service.record_n(1_000_000, 10).unwrap();
        let slices = [0, 1].map(|second| Slice {
            starts_after: Duration::from_secs(second),
            length: Duration::from_secs(1),
            service: service.clone(),
            response: Some(service.clone()),
        });
        let lines: String = slices.iter().map(|slice| lines(slice).unwrap()).collect();
        let text = header("ringlog-load run", SystemTime::now()).unwrap() + &lines;
        let tags: Vec<String> = IntervalLogIterator::new(text.as_bytes())
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => {
                    assert!((0.99..1.01).contains(&interval.max()), "{text}");
                    assert!(text.contains(&encode(&service).unwrap()));
                    interval.tag().map(|tag| tag.as_str().to_owned())
                }
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["service", "response", "service", "response"]);
    }

    #[test]
    fn an_encoded_histogram_begins_as_the_format_does() {
        // The cookie of V2 with deflate, 0x1c849304, in base64.
        assert!(encode(&histogram()).unwrap().starts_with("HISTF"), "{}", encode(&histogram()).unwrap());
    }
}
