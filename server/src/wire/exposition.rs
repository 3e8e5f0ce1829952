//! Prometheus' text exposition format, version 0.0.4: families of samples, one after the other.
//!
//! Must never: give a family twice, or a label whose values clients choose.
//!
//! ```text
//! # HELP ringlog_rejected_total What was refused.
//! # TYPE ringlog_rejected_total counter
//! ringlog_rejected_total{source="tcp",reason="quota"} 3
//! ```

use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Its name ends in `_total`.
    Counter,
    Gauge,
}

#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family. What follows are its samples.
    pub fn family(&mut self, name: &'static str, kind: MetricKind, help: &'static str) -> &mut Exposition {
        debug_assert_eq!(name.ends_with("_total"), kind == MetricKind::Counter);
        self.name = name;
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let _ = write!(self.text, "# HELP {name} ");
        put_escaped(&mut self.text, help, false);
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
        self
    }

    pub fn sample(&mut self, labels: &[(&'static str, &str)], value: u64) -> &mut Exposition {
        self.text.push_str(self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            put_escaped(&mut self.text, value, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn put_escaped(out: &mut String, text: &str, is_quoted: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_quoted => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_type_and_samples() {
        let mut text = Exposition::default();
        text.family("a_total", MetricKind::Counter, "What \"it\" is.\nAnd \\more.")
            .sample(&[], 0)
            .sample(&[("source", "tcp"), ("why", "a\"b\\c\nd")], u64::MAX);
        text.family("b", MetricKind::Gauge, "Another.").sample(&[("x", "")], 1);
        let expected = concat!(
            "# HELP a_total What \"it\" is.\\nAnd \\\\more.\n# TYPE a_total counter\na_total 0\n",
            "a_total{source=\"tcp\",why=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n",
            "# HELP b Another.\n# TYPE b gauge\nb{x=\"\"} 1\n",
        );
        assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), expected);
    }
}
