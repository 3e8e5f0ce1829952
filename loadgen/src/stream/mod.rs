//! `stream`: sends to a source that answers nothing, until the server has closed every connection.
//!
//! Owns what that measures. A connection is closed by the server when all that it sent is stored, so that the rate is one of
//! stored events; the tenants' own count of events is asked for afterwards and must agree.

mod order;
mod sender;

use crate::cli::stream::{Source, StreamArgs};
use crate::client::Client;
use crate::failure::{EXIT_VERIFICATION_FAILED, Failure};
use crate::figures::rate;
use crate::ledger::Tenant;
use crate::report::{self, publish, time};
use crate::target::Target;
use crate::{probe, ring, run, tenants, verify};
use order::Feed;
use sender::{Plan, Sent};
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

const ASK_PATIENCE: Duration = Duration::from_secs(30);
/// Events of a page that is read back.
const PAGE_EVENTS: u32 = 10_000;
/// Datagrams have come to rest when the count has not changed for so many looks.
const RESTING_LOOKS: usize = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Outcome {
    schema: &'static str,
    command: String,
    source: &'static str,
    batch_size: usize,
    connections: u32,
    tenants: usize,
    /// From the first byte until the last connection was closed by the server.
    seconds: f64,
    batches_sent: u64,
    events_sent: u64,
    bytes_sent: u64,
    /// As the tenants' usage has it; absent where nobody was asked.
    events_stored: Option<u64>,
    events_per_second: f64,
    bytes_per_second: f64,
    /// How much of the time until its last byte a connection stood in a write, and the longest that one did.
    writing_percent: f64,
    longest_write_us: f64,
    client_cpu_us_per_event: f64,
    server_cpu_us_per_event: Option<f64>,
    server_cpu_percent: Option<f64>,
    flushes: Option<u64>,
    flushes_per_second: Option<f64>,
    /// Events that were read back.
    events_verified: Option<u64>,
    finding_count: u64,
    findings: Vec<String>,
}

/// A tenant and its key for sources.
struct Sender {
    tenant: Option<Tenant>,
    streaming_key: String,
}

pub fn main(args: &StreamArgs) -> Result<u8, Failure> {
    check(args)?;
    if !args.cpus.is_empty() {
        ring::pin(&args.cpus)?;
    }
    let target = run::target_of(&args.target)?;
    let name = match args.source {
        Source::Frames => "tcp",
        Source::Syslog => "syslog_tcp",
        Source::SyslogUdp => "syslog_udp",
    };
    let to = args.to.or_else(|| target.address_of(name)).ok_or_else(|| {
        Failure::Usage(format!("where to? --to ADDRESS, or a --ports-file with an address for {name:?}"))
    })?;
    let senders = ring::block_on(senders(args, &target))??;
    let templates = senders
        .iter()
        .map(|sender| Plan::templates_of(args.source, &sender.streaming_key, args.batch, args.event_bytes))
        .collect::<Result<_, _>>()
        .map_err(Failure::Usage)?;
    let seconds = args.seconds.or(args.count.is_none().then_some(10.0));
    let began_at = Instant::now();
    let plan = Plan {
        source: args.source,
        to,
        batch: args.batch,
        write_bytes: args.write_bytes,
        entities: args.entities,
        patience: Duration::from_secs_f64(args.patience),
        templates,
        until: seconds.map(|seconds| began_at + Duration::from_secs_f64(seconds)),
        left: AtomicU64::new(args.count.unwrap_or(u64::MAX)),
    };
    let server_cpu = || args.server_pid.map(probe::process_cpu_us).transpose();
    let flushes = || args.device.as_deref().map(probe::device_flushes).transpose();
    let (server_before, own_before, flushes_before) = (server_cpu()?, probe::own_cpu_us(), flushes()?);
    let sent = send(&plan, args.connections)?;
    let stored_at = sent.iter().filter_map(|sent| sent.stored_at).max();
    let mut seconds = stored_at.unwrap_or_else(Instant::now).duration_since(began_at).as_secs_f64();
    let mut own_cpu_us = probe::own_cpu_us() - own_before;
    let events_sent: u64 = sent.iter().flat_map(|sent| &sent.events).sum();
    let (events_stored, rested_at) = ring::block_on(stored(args, &target, &senders))??;
    if args.source == Source::SyslogUdp {
        seconds = rested_at.duration_since(began_at).as_secs_f64();
        own_cpu_us = probe::own_cpu_us() - own_before;
    }
    let server_cpu_us = server_cpu()?.zip(server_before).map(|(after, before)| (after - before) as f64);
    let flushes = flushes()?.zip(flushes_before).map(|(after, before)| after - before);
    let (events_verified, finding_count, findings) = match args.verify {
        true => ring::block_on(read_back(&target, &senders, &sent))??,
        false => (None, 0, Vec::new()),
    };
    let sum = |of: fn(&Sent) -> u64| sent.iter().map(of).sum::<u64>();
    let counted = events_stored.unwrap_or(events_sent) as f64;
    let bytes_sent = sum(|sent| sent.bytes);
    let time = |of: fn(&Sent) -> Duration| sent.iter().map(of).sum::<Duration>().as_secs_f64();
    let (writing, sending) = (time(|sent| sent.writing), time(|sent| sent.sending));
    let longest = sent.iter().map(|sent| sent.longest_write).max().unwrap_or_default();
    let outcome = Outcome {
        schema: "ringlog-load/stream/1",
        command: report::command_line(),
        source: name,
        batch_size: args.batch,
        connections: args.connections,
        tenants: senders.len(),
        seconds,
        batches_sent: sum(|sent| sent.batches),
        events_sent,
        bytes_sent,
        events_stored,
        events_per_second: counted / seconds,
        bytes_per_second: bytes_sent as f64 / seconds,
        writing_percent: if 0.0 < sending { 100.0 * writing / sending } else { 0.0 },
        longest_write_us: longest.as_secs_f64() * 1e6,
        client_cpu_us_per_event: own_cpu_us as f64 / counted,
        server_cpu_us_per_event: server_cpu_us.map(|us| us / counted),
        server_cpu_percent: server_cpu_us.map(|us| us / seconds / 1e4),
        flushes,
        flushes_per_second: flushes.map(|flushes| flushes as f64 / seconds),
        events_verified,
        finding_count,
        findings,
    };
    publish(&outcome, &text(&outcome), args.json.as_deref())?;
    // Datagrams may be lost; what came over a connection may not.
    let is_short = args.source != Source::SyslogUdp && events_stored.is_some_and(|stored| stored != events_sent);
    Ok(if is_short || 0 < finding_count { EXIT_VERIFICATION_FAILED } else { 0 })
}

fn check(args: &StreamArgs) -> Result<(), Failure> {
    for (name, value, max) in [
        ("--batch", args.batch as u64, 10_000),
        ("--connections", u64::from(args.connections), 1024),
        ("--entities", u64::from(args.entities), u64::from(u32::MAX)),
        ("--tenants", u64::from(args.tenants), 1024),
        ("--event-bytes", args.event_bytes as u64, 64 << 10),
        ("--write-bytes", args.write_bytes as u64, 64 << 20),
        ("--count", args.count.unwrap_or(1), u64::MAX),
    ] {
        if !(1..=max).contains(&value) {
            return Err(Failure::Usage(format!("{name} must be 1 to {max}")));
        }
    }
    for (name, value) in [("--seconds", args.seconds), ("--patience", Some(args.patience))] {
        if value.is_some_and(|value| !(0.001..=1e6).contains(&value)) {
            return Err(Failure::Usage(format!("{name} must be 0.001 to 1e6")));
        }
    }
    Ok(())
}

/// Tenants that are made, or keys that were given.
async fn senders(args: &StreamArgs, target: &Target) -> Result<Vec<Sender>, Failure> {
    if !args.streaming_key.is_empty() {
        let given = args.streaming_key.iter();
        return Ok(given.map(|key| Sender { tenant: None, streaming_key: key.clone() }).collect());
    }
    let Some(bootstrap_key) = &args.bootstrap_key else {
        return Err(Failure::Usage("who sends? --bootstrap-key makes tenants, --streaming-key names one".to_owned()));
    };
    #[derive(Deserialize)]
    struct Made {
        key: String,
    }
    let mut client = Client::new(target.clone(), ASK_PATIENCE);
    let prefix = tenants::fresh_prefix();
    let mut senders = Vec::new();
    for index in 0..args.tenants {
        let tenant = tenants::make(&mut client, bootstrap_key, &format!("{prefix}-{index}")).await?;
        let body = serde_json::json!({ "name": "ringlog-load", "workspace_id": tenant.id }).to_string();
        let answer = client.post("/api/v1/admin/streaming-keys", Some(bootstrap_key), &body).await?.into_good()?;
        let made: Made = serde_json::from_slice(&answer)
            .map_err(|error| Failure::Other(format!("the answer has no streaming key: {error}")))?;
        senders.push(Sender { tenant: Some(tenant), streaming_key: made.key });
    }
    Ok(senders)
}

fn send(plan: &Plan, connections: u32) -> Result<Vec<Sent>, Failure> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|number| scope.spawn(move || plan.run(number))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("a sender does not panic"));
        ended.collect::<Result<_, _>>().map_err(Failure::Other)
    })
}

/// How many events the tenants have used, and when that was so.
async fn stored(args: &StreamArgs, target: &Target, senders: &[Sender]) -> Result<(Option<u64>, Instant), Failure> {
    let mut client = Client::new(target.clone(), ASK_PATIENCE);
    let mut rested_at = Instant::now();
    let Some(mut count) = used(&mut client, senders).await? else { return Ok((None, rested_at)) };
    if args.source == Source::SyslogUdp {
        let mut looks = 0;
        while looks < RESTING_LOOKS {
            monoio::time::sleep(LOOK_AGAIN).await;
            let more = used(&mut client, senders).await?.unwrap_or(count);
            looks = if more == count { looks + 1 } else { 0 };
            if more != count {
                (count, rested_at) = (more, Instant::now());
            }
        }
    }
    Ok((Some(count), rested_at))
}

async fn used(client: &mut Client, senders: &[Sender]) -> Result<Option<u64>, Failure> {
    let mut sum = None;
    for tenant in senders.iter().filter_map(|sender| sender.tenant.as_ref()) {
        let body = client.get("/api/v1/usage", tenant.key.as_str()).await?.into_good()?;
        let usage: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let used = usage.pointer("/usage/events_per_month/used").and_then(serde_json::Value::as_u64);
        let used = used.ok_or_else(|| Failure::Other("the usage has no count of events".to_owned()))?;
        *sum.get_or_insert(0) += used;
    }
    Ok(sum)
}

type Findings = (Option<u64>, u64, Vec<String>);

async fn read_back(target: &Target, senders: &[Sender], sent: &[Sent]) -> Result<Findings, Failure> {
    let mut client = Client::new(target.clone(), ASK_PATIENCE);
    let (mut seen, mut count, mut findings) = (0, 0, Vec::new());
    for (number, tenant) in senders.iter().filter_map(|sender| sender.tenant.as_ref()).enumerate() {
        let mut feed = Feed::new(number as u16, sent.len());
        seen += verify::readback::for_each_event(&mut client, &tenant.key, PAGE_EVENTS, |event| {
            feed.see(event.payload.get());
        })
        .await?;
        feed.end(sent.iter().map(|sent| sent.events[number]));
        count += feed.finding_count;
        findings.append(&mut feed.findings);
    }
    Ok((Some(seen), count, findings))
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<16} {value}\n"));
    let Outcome { source, batch_size, connections, tenants, seconds, .. } = outcome;
    line("source", format!("{source}, batches of {batch_size}, {connections} connections, {tenants} keys"));
    line("measured", format!("{seconds:.2} s, until the server had closed every connection"));
    line("events/s", format!("{}, {:.1} MB/s", rate(outcome.events_per_second), outcome.bytes_per_second / 1e6));
    let stored = outcome.events_stored.map_or("nobody was asked".to_owned(), |stored| stored.to_string());
    line("events", format!("{} sent, {stored} stored", outcome.events_sent));
    let longest = time(outcome.longest_write_us);
    line("sending", format!("{:.0} % of its time in writes, the longest {longest}", outcome.writing_percent));
    line("client CPU", format!("{:.3} us per event", outcome.client_cpu_us_per_event));
    if let (Some(us), Some(percent)) = (outcome.server_cpu_us_per_event, outcome.server_cpu_percent) {
        line("server CPU", format!("{us:.3} us per event, {percent:.0} % of a core"));
    }
    if let (Some(flushes), Some(per_second)) = (outcome.flushes, outcome.flushes_per_second) {
        line("flushes", format!("{flushes}, {per_second:.0} per second"));
    }
    if let Some(verified) = outcome.events_verified {
        line("verified", format!("{verified} events, {} findings", outcome.finding_count));
        outcome.findings.iter().for_each(|finding| line("", finding.clone()));
    }
    text
}
