//! From counts to the result that is kept.

use super::measure::{Plan, Probes};
use super::prepare::Prepared;
use super::second::Seconds;
use crate::cli::run::Arrivals;
use crate::failure::Failure;
use crate::hlog;
use crate::probe;
use crate::report;
use crate::result::{Operation, RUN_SCHEMA, RunResult, SEND_LAG_P99_US_MAX};
use crate::stats::{quantiles, us_at};
use crate::workload::mix::Shape;
use std::time::{SystemTime, UNIX_EPOCH};

/// CPU time of a sending thread, in per cent, beyond which it had nothing left to give.
const THREAD_BUSY_PERCENT: f64 = 95.0;
/// Share of the time that a sending thread may wait for its CPU. Below it the wait adds to latencies, which is why it
/// is reported, but the load arrives; beyond it others had the CPU more than the thread.
const STARVED_PERCENT_MAX: f64 = 50.0;
/// A rate that is kept to less than this was not reached.
const RATE_KEPT_MIN: f64 = 0.99;

/// The measured time and what the machine said at its ends.
#[derive(Debug)]
pub(super) struct Measured {
    pub started_at: SystemTime,
    pub measured_ns: u64,
    pub is_partial: bool,
    /// Of the thread that was kept waiting most.
    pub starved_percent: Option<f64>,
    pub first: Probes,
    pub last: Probes,
}

pub(super) fn result_of(
    prepared: &Prepared,
    plan: &Plan,
    seconds: Seconds,
    measured: &Measured,
) -> Result<RunResult, Failure> {
    let args = &prepared.args;
    let (first, last) = (&measured.first, &measured.last);
    let total = seconds.total.clone();
    let length = measured.measured_ns as f64 / 1e9;
    let per_second = |count: u64| if 0.0 < length { count as f64 / length } else { 0.0 };
    let is_open = plan.rate.is_some();
    let (service, response) = (total.service(), total.response());
    let at = |quantile: f64| is_open.then(|| us_at(&response, quantile));
    let lag = |quantile: f64| is_open.then(|| us_at(&total.send_lag, quantile));
    let (requests, events) = (total.requests_measured(), total.events_measured());
    // Queries carry no events: then the cost is per request.
    let work = if 0 < events { events } else { requests };
    let server_cpu_us = last.server_cpu_us.zip(first.server_cpu_us).map(|(after, before)| after.saturating_sub(before));
    let flushes = last.flushes.zip(first.flushes).map(|(after, before)| after.saturating_sub(before));
    let own_cpu_us = last.own_cpu_us.saturating_sub(first.own_cpu_us);
    // The machine was asked close to the ends of the measured time, not exactly there.
    let between_us = last.at.saturating_duration_since(first.at).as_micros().max(1) as f64;
    let percent = |cpu_us: u64| 100.0 * cpu_us as f64 / between_us;
    let loader_cpu_percent = percent(own_cpu_us);
    let counted = if prepared.workload.recipe.mix.has_queries() { per_second(requests) } else { per_second(events) };
    let kept = plan.rate.map(|rate| counted / rate);
    let operations =
        prepared.workload.recipe.mix.operations.iter().zip(&total.operations).map(|(kind, stats)| Operation {
            name: kind.name.to_owned(),
            op_requests: stats.requests_measured,
            op_events: stats.events_measured,
            op_errors: stats.errors,
            op_service_us: quantiles(&stats.service),
            op_response_us: is_open.then(|| quantiles(&stats.response)),
        });
    let started_at = measured.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(RunResult {
        schema: RUN_SCHEMA.to_owned(),
        started_unix_ms: started_at.as_millis() as u64,
        loop_kind: if is_open { "open" } else { "closed" }.to_owned(),
        arrivals: is_open.then(|| match plan.arrivals {
            Arrivals::Uniform => "uniform".to_owned(),
            Arrivals::Poisson => "poisson".to_owned(),
        }),
        partial: measured.is_partial,
        loader_bound: is_loader_bound(
            lag(0.99),
            measured.starved_percent,
            loader_cpu_percent / args.threads as f64,
            kept,
        ),
        command: report::command_line(),
        seconds: length,
        events_per_second: per_second(events),
        requests_per_second: per_second(requests),
        offered_per_second: plan.rate,
        service_p50_us: us_at(&service, 0.5),
        service_p99_us: us_at(&service, 0.99),
        service_p999_us: us_at(&service, 0.999),
        service_max_us: us_at(&service, 1.0),
        response_p50_us: at(0.5),
        response_p99_us: at(0.99),
        response_p999_us: at(0.999),
        response_max_us: at(1.0),
        send_lag_p99_us: lag(0.99),
        send_lag_max_us: lag(1.0),
        server_cpu_us_per_event: server_cpu_us.filter(|_| 0 < work).map(|cpu| cpu as f64 / work as f64),
        server_cpu_percent: server_cpu_us.map(percent),
        loader_cpu_percent,
        loader_starved_percent: measured.starved_percent,
        flushes,
        flushes_per_second: flushes.map(per_second),
        bytes_sent: total.bytes_sent,
        bytes_received: total.bytes_received,
        events_measured: events,
        requests_measured: requests,
        events_good: total.events_good,
        requests_good: total.requests_good,
        error_count: total.error_count(),
        errors: total.errors.clone(),
        reconnects: total.reconnects,
        connections: args.connections,
        depth: args.depth,
        threads: args.threads as u32,
        batch: batch_sizes(prepared),
        event_bytes: prepared.event_bytes,
        seed: args.seed,
        machine: probe::machine(first.ticks, last.ticks),
        server: prepared.server.clone(),
        operations: operations.collect(),
        series: seconds.into_series(measured.measured_ns),
        service_histogram: hlog::encode(&service)?,
        response_histogram: if is_open { Some(hlog::encode(&response)?) } else { None },
    })
}

/// As the command line has them, or what stands in for it where it says nothing.
fn batch_sizes(prepared: &Prepared) -> Vec<usize> {
    if !prepared.args.batch.is_empty() {
        return prepared.args.batch.clone();
    }
    let sizes = prepared.workload.recipe.mix.operations.iter().find_map(|operation| match &operation.shape {
        Shape::Batch(sizes) | Shape::Lines(sizes) => Some(sizes.clone()),
        Shape::Single | Shape::Query(_) | Shape::Raw => None,
    });
    sizes.unwrap_or_else(|| vec![1])
}

/// Whether the generator itself was the bottleneck: it sent late, or the machine did not let it run, or it had
/// no CPU left and did not keep the rate.
/// A closed loop has no rate to keep: there a thread without CPU left is enough.
fn is_loader_bound(
    send_lag_p99_us: Option<f64>,
    starved_percent: Option<f64>,
    thread_cpu_percent: f64,
    rate_kept: Option<f64>,
) -> bool {
    let is_late = send_lag_p99_us.is_some_and(|p99_us| SEND_LAG_P99_US_MAX < p99_us);
    let is_starved = starved_percent.is_some_and(|percent| STARVED_PERCENT_MAX < percent);
    let is_behind = rate_kept.is_none_or(|share| share < RATE_KEPT_MIN);
    is_late || is_starved || (THREAD_BUSY_PERCENT <= thread_cpu_percent && is_behind)
}

#[cfg(test)]
mod tests {
    use super::is_loader_bound;

    #[test]
    fn a_generator_that_is_late_or_out_of_cpu_says_so() {
        let check = |lag, cpu, kept, expected| assert_eq!(is_loader_bound(lag, Some(0.5), cpu, kept), expected);
        check(Some(200.0), 60.0, Some(1.0), false);
        check(Some(1001.0), 60.0, Some(1.0), true);
        // The server was too slow, and the generator had time to spare.
        check(Some(200.0), 60.0, Some(0.5), false);
        check(Some(200.0), 99.0, Some(0.9), true);
        check(Some(200.0), 99.0, Some(1.0), false);
        check(None, 99.0, None, true);
        check(None, 80.0, None, false);
        assert!(is_loader_bound(Some(200.0), Some(51.0), 20.0, Some(1.0)), "kept from running");
        assert!(!is_loader_bound(None, None, 20.0, None), "what is not known is not claimed");
    }
}
