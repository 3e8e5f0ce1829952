//! Payloads of metrics and spans, which are sent as tables: the same fields as a JSON object.
//!
//! Owns the names of those fields; docs/wire-protocol.md lists them. Must never: make more than a payload may hold, however
//! often the labels of a hostile frame lead to the same bytes.

use std::io::Write;

use ringlog_engine::limits::PAYLOAD_BYTES_MAX;

use super::entry::{Metric, Span};
use super::flat::{Buffer, Tables};
use super::{Fault, Part, text};
use crate::wire::response::{push_decimal, push_json_string};

const METRIC_TYPES: [&str; 4] = ["unknown", "gauge", "counter", "histogram"];
const TEMPORALITIES: [&str; 3] = ["unspecified", "cumulative", "delta"];
const SPAN_KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const SPAN_STATUSES: [&str; 3] = ["unset", "ok", "error"];

const NS_PER_US: u64 = 1000;

/// Writes the payload of a metric, in place of what `out` held.
pub fn metric(buffer: Buffer<'_>, metric: &Metric<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    out.clear();
    if metric.entry.name.is_empty() {
        return Err(Fault::MetricName);
    }
    out.push(b'{');
    push_text(out, "name", metric.entry.name, Part::Name)?;
    push_word(out, "type", &METRIC_TYPES, metric.metric_type);
    push_key(out, "value");
    push_float(out, metric.value);
    if metric.temporality != 0 {
        push_word(out, "temporality", &TEMPORALITIES, metric.temporality);
    }
    push_fraction(out, metric.entry.timestamp);
    let labels = buffer.tables(metric.labels)?;
    if labels.count > 0 {
        push_key(out, "labels");
        push_labels(buffer, labels, out, |buffer, place, out| {
            push_json_string(out, bounded_text(buffer.bytes(place)?, Part::Label)?);
            Ok(())
        })?;
    }
    let labels = buffer.tables(metric.int_labels)?;
    if labels.count > 0 {
        push_key(out, "int_labels");
        push_labels(buffer, labels, out, |buffer, place, out| {
            push_signed(out, buffer.u64(place)? as i64);
            Ok(())
        })?;
    }
    if metric.histogram != 0 {
        push_key(out, "histogram");
        push_histogram(buffer, buffer.target(metric.histogram)?, out)?;
    }
    out.push(b'}');
    check_bytes(out)
}

/// Writes the payload of a span, in place of what `out` held. The span's own payload has been checked.
pub fn span(span: &Span<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    out.clear();
    out.push(b'{');
    if !span.entry.name.is_empty() {
        push_text(out, "name", span.entry.name, Part::Name)?;
    }
    for (key, id) in [("trace_id", span.trace_id), ("span_id", span.span_id), ("parent_span_id", span.parent_span_id)] {
        if !id.is_empty() {
            push_hex_string(out, key, id);
        }
    }
    push_word(out, "kind", &SPAN_KINDS, span.kind);
    push_word(out, "status", &SPAN_STATUSES, span.status);
    push_key(out, "duration_ns");
    push_decimal(out, span.duration_ns);
    push_fraction(out, span.entry.timestamp);
    if !span.entry.payload.is_empty() {
        push_key(out, "payload");
        out.extend_from_slice(span.entry.payload);
    }
    out.push(b'}');
    check_bytes(out)
}

/// An object of labels. `push_value` writes the value at a place.
fn push_labels(
    buffer: Buffer<'_>,
    labels: Tables<'_>,
    out: &mut Vec<u8>,
    push_value: impl Fn(Buffer<'_>, usize, &mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    out.push(b'{');
    for index in 0..labels.count {
        let [key, value] = buffer.fields(labels.at(index)?)?.places;
        if index > 0 {
            out.push(b',');
        }
        push_json_string(out, bounded_text(buffer.bytes(key)?, Part::Label)?);
        out.push(b':');
        push_value(buffer, value, out)?;
        check_bytes(out)?;
    }
    out.push(b'}');
    Ok(())
}

fn push_histogram(buffer: Buffer<'_>, at: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    let [count, sum, buckets, min, max] = buffer.fields(at)?.places;
    out.push(b'{');
    push_key(out, "count");
    push_decimal(out, buffer.u64(count)?);
    for (key, place) in [("sum", sum), ("min", min), ("max", max)] {
        push_key(out, key);
        push_float(out, buffer.f64(place)?);
    }
    out.extend_from_slice(b",\"buckets\":[");
    let buckets = buffer.tables(buckets)?;
    for index in 0..buckets.count {
        let [upper_bound, count] = buffer.fields(buckets.at(index)?)?.places;
        out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        push_key(out, "upper_bound");
        push_float(out, buffer.f64(upper_bound)?);
        push_key(out, "count");
        push_decimal(out, buffer.u64(count)?);
        out.push(b'}');
        check_bytes(out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Names and labels that could not fit a payload are not even looked at.
fn bounded_text(bytes: &[u8], part: Part) -> Result<&str, Fault> {
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(Fault::PayloadBytes { bytes: bytes.len() });
    }
    text(bytes, part)
}

fn check_bytes(out: &[u8]) -> Result<(), Fault> {
    if out.len() > PAYLOAD_BYTES_MAX { Err(Fault::PayloadBytes { bytes: out.len() }) } else { Ok(()) }
}

fn push_text(out: &mut Vec<u8>, key: &str, bytes: &[u8], part: Part) -> Result<(), Fault> {
    push_key(out, key);
    push_json_string(out, bounded_text(bytes, part)?);
    Ok(())
}

/// A field's key, behind a comma unless it is the object's first.
fn push_key(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_hex_string(out: &mut Vec<u8>, key: &str, id: &[u8]) {
    push_key(out, key);
    out.push(b'"');
    push_hex(out, id);
    out.push(b'"');
}

/// The name of a number, or the number for those that have no name yet; a string either way.
fn push_word(out: &mut Vec<u8>, key: &str, words: &[&str], number: u8) {
    push_key(out, key);
    push_name(out, words, number);
}

pub fn push_name(out: &mut Vec<u8>, words: &[&str], number: u8) {
    out.push(b'"');
    match words.get(usize::from(number)) {
        Some(word) => out.extend_from_slice(word.as_bytes()),
        None => push_decimal(out, u64::from(number)),
    }
    out.push(b'"');
}

/// An event's timestamp ends at the microsecond. What is finer stays here.
fn push_fraction(out: &mut Vec<u8>, timestamp_ns: u64) {
    if !timestamp_ns.is_multiple_of(NS_PER_US) {
        push_key(out, "timestamp_ns");
        push_decimal(out, timestamp_ns);
    }
}

/// JSON has no number for what is not finite: `"NaN"`, `"Infinity"` and `"-Infinity"`, as protobuf's JSON writes them.
fn push_float(out: &mut Vec<u8>, value: f64) {
    let word = if value.is_nan() {
        "\"NaN\""
    } else if value == f64::INFINITY {
        "\"Infinity\""
    } else if value == f64::NEG_INFINITY {
        "\"-Infinity\""
    } else {
        // The shortest digits that read back as the same number.
        write!(out, "{value:?}").expect("memory takes all that is written");
        return;
    };
    out.extend_from_slice(word.as_bytes());
}

fn push_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_decimal(out, value.unsigned_abs());
}

/// Appends bytes as lower-case hexadecimal digits.
#[inline]
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.extend_from_slice(&hex_pair(byte));
    }
}

#[inline(always)]
pub fn hex_pair(byte: u8) -> [u8; 2] {
    HEX_PAIRS[usize::from(byte)]
}

const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        push_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn finite_floats_read_back_as_they_were_and_others_are_strings() {
        for value in [0.0, -0.0, 0.5, 1.0, -3.25, 1e16, 1e300, 5e-324, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2] {
            let back: f64 = serde_json::from_str(&float(value)).unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{}", float(value));
        }
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(float);
        assert_eq!(odd, ["\"NaN\"", "\"Infinity\"", "\"-Infinity\""]);
    }

    #[test]
    fn integers_keep_their_sign_and_size() {
        let mut out = Vec::new();
        push_signed(&mut out, i64::MIN);
        out.push(b' ');
        push_signed(&mut out, 7);
        assert_eq!(out, b"-9223372036854775808 7");
    }
}
