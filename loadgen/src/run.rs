//! `run`: prepares everything, opens the connections, lets them work for a measured time, and adds up.

use crate::cli::{RunArgs, TargetArgs};
use crate::client::Client;
use crate::corpus::{Corpus, Seq};
use crate::failure::{EXIT_OTHER, EXIT_UNAVAILABLE, Failure};
use crate::http;
use crate::ledger::LedgerFile;
use crate::probe;
use crate::report::{self, Summary};
use crate::session::{self, Loop, Phase, Session, Shared, State};
use crate::stats::Stats;
use crate::target::Target;
use crate::tenants;
use crate::workload::{Kind, Scrutiny, Stream, Workload};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often the run looks after itself: time-outs, the stop file, the end.
const LOOK: Duration = Duration::from_millis(10);
const PROGRESS_NS: u64 = 1_000_000_000;
/// Connections that are not open after so long are waited for no more.
const CONNECT_NS_MAX: u64 = 10_000_000_000;
/// After the end, answers that are on their way are waited for so long, or for --timeout if that is shorter.
const DRAIN_SECONDS_MAX: f64 = 5.0;
const SECONDS_DEFAULT: f64 = 10.0;

pub fn main(args: &RunArgs) -> Result<u8, Failure> {
    check(args)?;
    if let Some(cpu) = args.cpu {
        crate::ring::pin(cpu)?;
    }
    let summary = crate::ring::block_on(run(args))??;
    let text = report::summary_text(&summary);
    report::publish(&summary, &text, args.json.as_deref())?;
    Ok(if summary.requests_good == 0 {
        EXIT_UNAVAILABLE
    } else if 0 < summary.error_count && !args.reconnect {
        EXIT_OTHER
    } else {
        0
    })
}

pub fn target_of(args: &TargetArgs) -> Result<Target, Failure> {
    match &args.ports_file {
        Some(path) => Ok(Target::PortsFile(path.clone())),
        None => Target::from_url(&args.url),
    }
}

fn check(args: &RunArgs) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    if !(1..=Seq::CONNECTION_MAX).contains(&args.connections) {
        return usage("--connections must be 1 to 16383");
    }
    if !(1..=4096).contains(&args.depth) {
        return usage("--depth must be 1 to 4096");
    }
    if args.batch.is_empty() || args.batch.iter().any(|size| !(1..=100_000).contains(size)) {
        return usage("--batch must be 1 to 100000");
    }
    if !(150..=65_536).contains(&args.event_bytes) {
        return usage("--event-bytes must be 150 to 65536");
    }
    // The places of events in the joined corpus are 32-bit.
    if 1 << 30 < (args.event_bytes as u64) * args.batch.iter().max().map_or(0, |&max| max as u64 + 1024) {
        return usage("--batch times --event-bytes must stay below 1 GiB");
    }
    if args.entities == 0 {
        return usage("--entities must be at least 1");
    }
    if args.tenants == 0 {
        return usage("--tenants must be at least 1");
    }
    for (name, seconds) in [
        ("--rate", args.rate),
        ("--duration", args.duration),
        ("--timeout", Some(args.timeout)),
        ("--reconnect-for", Some(args.reconnect_for)),
    ] {
        if seconds.is_some_and(|value| !(0.001..=1e9).contains(&value)) {
            return usage(&format!("{name} must be 0.001 to 1e9"));
        }
    }
    if args.warmup.is_some_and(|value| !(0.0..=1e6).contains(&value)) {
        return usage("--warmup must be 0 to 1e6");
    }
    if args.header.iter().any(|line| !line.contains(':') || line.contains(['\r', '\n'])) {
        return usage("--header must be one line, NAME: VALUE");
    }
    Ok(())
}

fn kind_of(args: &RunArgs, target: &Target) -> Result<Kind, Failure> {
    if let Some(raw) = &args.raw {
        let body = match &args.body {
            Some(path) => std::fs::read(path).map_err(Failure::io(format!("--body {}", path.display())))?,
            None => Vec::new(),
        };
        let key = args.key.first().map(String::as_str);
        let mut request = http::request_head(&raw[0], &raw[1], target.host(), key, &args.header);
        http::push_length_and_end(&mut request, body.len());
        request.extend_from_slice(&body);
        return Ok(Kind::Raw { request, event_count: args.batch[0] as u32 });
    }
    if args.query {
        return Ok(Kind::Query { entity_count: args.query_entity.then_some(args.entities), limit: args.query_limit });
    }
    let batch_max = args.batch.iter().copied().max().unwrap_or(1);
    Ok(Kind::Events {
        corpus: Corpus::new(args.seed, args.event_bytes, args.entities, batch_max),
        batch_sizes: args.batch.clone(),
        always_batch: args.always_batch,
    })
}

pub async fn run(args: &RunArgs) -> Result<Summary, Failure> {
    let target = target_of(&args.target)?;
    let mut ledger = match &args.ledger {
        Some(path) => {
            let (file, known) = LedgerFile::open(path)?;
            Some((file.writer(), known))
        }
        None => None,
    };
    let run_number = ledger.as_ref().map_or(0, |(_, known)| known.run_count);
    if Seq::RUN_MAX < run_number {
        return Err(Failure::Usage("this ledger has seen too many runs: begin another".to_owned()));
    }
    let tenants = if args.raw.is_some() {
        Vec::new()
    } else {
        let mut client = Client::new(target.clone(), Duration::from_secs_f64(args.timeout));
        tenants::prepare(args, &mut client, ledger.as_mut().map(|(writer, known)| (writer, &*known))).await?
    };
    let ledger = ledger.map(|(mut writer, _)| {
        writer.run(args.seed);
        RefCell::new(writer)
    });
    let scrutiny = match (args.accept_any_2xx || args.raw.is_some(), &ledger) {
        (true, _) => Scrutiny::Status,
        (false, Some(_)) => Scrutiny::Everything,
        (false, None) => Scrutiny::Counts,
    };
    let kind = kind_of(args, &target)?;
    let shared = Rc::new(Shared {
        workload: Workload::new(kind, scrutiny, args.connections, target.host(), &tenants, &args.header),
        target,
        pace: if args.rate.is_some() { Loop::Open } else { Loop::Closed },
        depth: args.depth,
        reconnect_for: args.reconnect.then(|| Duration::from_secs_f64(args.reconnect_for)),
        origin: Instant::now(),
        phase: Cell::new(Phase::Connecting),
        window: Cell::new((u64::MAX, u64::MAX)),
        tickets: Cell::new(args.count.unwrap_or(u64::MAX)),
        stats: RefCell::new(Stats::new()),
        ledger,
        fatal: RefCell::new(None),
    });
    let sessions: Vec<Rc<Session>> = (0..args.connections)
        .map(|index| Rc::new(Session::new(Rc::clone(&shared), Stream::new(args.seed, run_number, index))))
        .collect();
    conduct(args, shared, Rc::new(sessions)).await
}

/// What the machine said at the beginning and at the end of the measured time.
#[derive(Clone, Copy)]
struct Probes {
    cpu_us: Option<u64>,
    flushes: Option<u64>,
}

fn probe(args: &RunArgs) -> Result<Probes, Failure> {
    Ok(Probes {
        cpu_us: args.server_pid.map(probe::process_cpu_us).transpose()?,
        flushes: args.device.as_deref().map(probe::device_flushes).transpose()?,
    })
}

async fn conduct(args: &RunArgs, shared: Rc<Shared>, sessions: Rc<Vec<Rc<Session>>>) -> Result<Summary, Failure> {
    // Fail on a wrong pid or device before the run, not after it.
    probe(args)?;
    let tasks: Vec<_> = sessions.iter().map(|session| monoio::spawn(Rc::clone(session).run())).collect();
    while shared.now() < CONNECT_NS_MAX && sessions.iter().any(|session| session.state() == State::Connecting) {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }

    let started_at = shared.now();
    let seconds_to_ns = |seconds: f64| (seconds * 1e9) as u64;
    let is_exact = args.count.is_some() || args.ledger.is_some();
    let warmup = args.warmup.unwrap_or(if is_exact { 0.0 } else { 1.0 });
    let from = started_at + seconds_to_ns(warmup);
    let planned_to = match (args.duration, args.count) {
        (None, Some(_)) => u64::MAX,
        (seconds, _) => from + seconds_to_ns(seconds.unwrap_or(SECONDS_DEFAULT)),
    };
    shared.window.set((from, planned_to));
    shared.phase.set(Phase::Running);
    sessions.iter().for_each(|session| session.wake());
    let pacing = args.rate.map(|rate| {
        let events_per_request = match &shared.workload.kind {
            Kind::Events { batch_sizes, .. } => batch_sizes.iter().sum::<usize>() as f64 / batch_sizes.len() as f64,
            Kind::Raw { event_count, .. } => f64::from(*event_count),
            Kind::Query { .. } => 1.0,
        };
        monoio::spawn(session::pace(Rc::clone(&shared), Rc::clone(&sessions), rate / events_per_request))
    });

    let mut first = None;
    let mut progress = Progress::new(started_at);
    let timeout_ns = seconds_to_ns(args.timeout);
    loop {
        let now = shared.now();
        if first.is_none() && from <= now {
            first = Some(probe(args)?);
        }
        if planned_to <= now || shared.fatal.borrow().is_some() {
            break;
        }
        let is_idle = sessions.iter().all(|session| session.is_idle());
        let has_run_out = shared.tickets.get() == 0 && is_idle;
        if has_run_out || sessions.iter().all(|session| session.state() == State::Ended) {
            break;
        }
        if args.stop_file.as_ref().is_some_and(|path| path.exists()) {
            break;
        }
        sessions.iter().for_each(|session| session.check_timeout(now, timeout_ns));
        if !args.quiet {
            progress.tell(now, from, &shared);
        }
        let next_at = if now < from { from } else { planned_to };
        monoio::time::sleep(LOOK.min(Duration::from_nanos(next_at.saturating_sub(now)))).await;
    }
    let last = probe(args)?;
    let ended_at = shared.now().min(planned_to);
    let to = if args.count.is_some() { shared.stats.borrow().last_answer_at.min(ended_at) } else { ended_at };
    shared.window.set((from, to.saturating_add(u64::from(args.count.is_some()))));
    end(args, &shared, &sessions).await;
    for task in tasks {
        task.await;
    }
    if let Some(pacing) = pacing {
        pacing.await.map_err(Failure::io("the timer of the schedule"))?;
    }
    shared.flush_ledger();
    if let Some(why) = shared.fatal.borrow_mut().take() {
        return Err(Failure::Other(why));
    }
    let seconds = to.saturating_sub(from) as f64 / 1e9;
    let first = first.unwrap_or(last);
    let cpu_us = last.cpu_us.zip(first.cpu_us).map(|(after, before)| after - before);
    let flushes = last.flushes.zip(first.flushes).map(|(after, before)| after - before);
    Ok(Summary::new(args, &shared.stats.borrow(), seconds, cpu_us, flushes))
}

/// Lets what is in flight be answered, then ends every connection.
async fn end(args: &RunArgs, shared: &Shared, sessions: &[Rc<Session>]) {
    shared.phase.set(Phase::Ending);
    let patience = Duration::from_secs_f64(args.timeout.min(DRAIN_SECONDS_MAX));
    let deadline = Instant::now() + patience;
    for session in sessions {
        session.wake();
        if session.is_idle() {
            session.break_off("ended");
        }
    }
    while Instant::now() < deadline && sessions.iter().any(|session| !session.is_idle()) {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
    for session in sessions {
        session.break_off("unanswered");
    }
}

/// One line per second on standard error.
struct Progress {
    told_at: u64,
    events: u64,
    requests: u64,
}

impl Progress {
    fn new(now: u64) -> Self {
        Self { told_at: now, events: 0, requests: 0 }
    }

    fn tell(&mut self, now: u64, from: u64, shared: &Shared) {
        if now < self.told_at + PROGRESS_NS {
            return;
        }
        let stats = shared.stats.borrow();
        let seconds = (now - self.told_at) as f64 / 1e9;
        let phase = if now < from { "warm-up" } else { "measured" };
        eprintln!(
            "{:6.1} s  {phase}  {:>10.0} events/s  {:>9.0} requests/s  {} errors",
            now as f64 / 1e9,
            (stats.events_good - self.events) as f64 / seconds,
            (stats.requests_good - self.requests) as f64 / seconds,
            stats.error_count(),
        );
        *self = Self { told_at: now, events: stats.events_good, requests: stats.requests_good };
    }
}

#[cfg(test)]
mod tests;
