//! `/metrics`: what all cores count, put together when somebody asks.
//!
//! Owns the names of the metrics. Every core writes its own numbers and reads the others' as they are at the moment: the sum is of no
//! one instant, and no number in it ever falls. Must never: have a label for what clients choose, or hold up a core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::host::CoreHost;
use crate::core::sources::counters::{Count, Counters, SourceCounters, SourceKind};
use crate::limits::SECOND_US;
use crate::net::connections::{Asked, Handled};
use crate::wire::exposition::{Exposition, MetricKind};
use crate::wire::response::{ContentType, HeaderValue, Response};

/// What the server counts: one for all cores.
#[derive(Debug)]
pub struct Metrics {
    cores: Box<[Arc<Counters>]>,
    /// Datagrams that the kernel had no room for, as far as has been looked. Absent where nothing is received by datagrams.
    pub datagrams_dropped: Option<AtomicU64>,
}

impl Metrics {
    pub fn new(core_count: usize, has_datagrams: bool) -> Metrics {
        Metrics {
            cores: (0..core_count).map(|_| Arc::default()).collect(),
            datagrams_dropped: has_datagrams.then(AtomicU64::default),
        }
    }

    pub fn of_core(&self, core: usize) -> Arc<Counters> {
        Arc::clone(&self.cores[core])
    }

    fn put_sources(&self, text: &mut Exposition) {
        let sum = |kind, count: fn(&SourceCounters) -> &Count| -> u64 {
            self.cores.iter().map(|core| count(core.of(kind)).get()).sum()
        };
        text.family("ringlog_source_events_total", MetricKind::Counter, "Events stored, by the source they came by.");
        for kind in SourceKind::ALL {
            text.sample(&[("source", kind.name())], sum(kind, |of| &of.events_stored));
        }
        text.family(
            "ringlog_source_batches_total",
            MetricKind::Counter,
            "Batches stored, by the source they came by: requests, frames, or messages taken together.",
        );
        for kind in SourceKind::ALL {
            text.sample(&[("source", kind.name())], sum(kind, |of| &of.batches_stored));
        }
        text.family(
            "ringlog_source_connections_total",
            MetricKind::Counter,
            "Connections accepted, of sources that have some of their own.",
        );
        for kind in SourceKind::ALL.into_iter().filter(|kind| kind.is_stream()) {
            text.sample(&[("source", kind.name())], sum(kind, |of| &of.connections_opened));
        }
        text.family(
            "ringlog_source_pauses_total",
            MetricKind::Counter,
            "How often a source was not read for a while, because there was no room or its tenant's rate was used up.",
        );
        for kind in SourceKind::ALL.into_iter().filter(|kind| kind.is_pushed()) {
            text.sample(&[("source", kind.name())], sum(kind, |of| &of.pauses));
        }
        let mut rejected: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((kind, reason), count) in self.cores.iter().flat_map(|core| core.rejected()) {
            *rejected.entry((kind.name(), reason)).or_default() += count;
        }
        text.family(
            "ringlog_rejected_total",
            MetricKind::Counter,
            "Frames, lines, records and messages that were refused, by source and reason.",
        );
        for ((source, reason), count) in rejected {
            text.sample(&[("source", source), ("reason", reason)], count);
        }
        if let Some(dropped) = &self.datagrams_dropped {
            text.family(
                "ringlog_udp_kernel_drops_total",
                MetricKind::Counter,
                "Datagrams of syslog that the kernel dropped because nothing had room for them.",
            );
            text.sample(&[], dropped.load(Ordering::Relaxed));
        }
    }
}

impl CoreHost {
    pub(super) fn answer_metrics(&self, asked: &Asked, answer: &mut Vec<u8>) -> Handled {
        let health = self.health();
        let mut text = Exposition::default();
        text.family("ringlog_build_info", MetricKind::Gauge, "Always 1: the version, and what an answer promises.")
            .sample(&[("version", health.version), ("durability", &health.durability_text())], 1);
        let uptime_s = (self.now.monotonic_us - self.started_us) / SECOND_US;
        text.family("ringlog_uptime_seconds", MetricKind::Gauge, "Since the server started.").sample(&[], uptime_s);
        text.family("ringlog_shards_read_only", MetricKind::Gauge, "Shards that take no events any more.")
            .sample(&[], health.read_only_shards.len() as u64);
        self.metrics.put_sources(&mut text);
        let mut response = Response::begin(answer, 200, &asked.reply);
        response.content_type(ContentType::Metrics).header("Cache-Control", &HeaderValue::from_static("no-store"));
        response.with_body(text.as_bytes());
        Handled::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cores_count_is_added_up() {
        let metrics = Metrics::new(2, true);
        for core in 0..2 {
            let counters = metrics.of_core(core);
            counters.of(SourceKind::Frames).events_stored.add(core as u64 + 1);
            counters.reject(SourceKind::Frames, "quota", 5);
        }
        metrics.of_core(1).reject(SourceKind::Http, "missing", 1);
        let mut text = Exposition::default();
        metrics.put_sources(&mut text);
        let text = std::str::from_utf8(text.as_bytes()).unwrap();
        for line in [
            "ringlog_source_events_total{source=\"tcp\"} 3",
            "ringlog_source_events_total{source=\"otlp\"} 0",
            "ringlog_rejected_total{source=\"tcp\",reason=\"quota\"} 10",
            "ringlog_rejected_total{source=\"http\",reason=\"missing\"} 1",
            "ringlog_udp_kernel_drops_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
