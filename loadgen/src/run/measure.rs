//! Measures one point: starts the threads, says when to begin and when to end, and watches over them meanwhile.

use super::outcome::{Measured, result_of};
use super::prepare::Prepared;
use super::progress::Progress;
use super::second::{Closed, Seconds};
use super::thread::{self, Control, Ended, Share};
use crate::cli::RunArgs;
use crate::cli::run::Arrivals;
use crate::failure::Failure;
use crate::hlog;
use crate::ledger::LedgerFile;
use crate::probe::{self, CpuTicks};
use crate::report;
use crate::result::RunResult;
use crate::stats::{AFTERWARDS, Interval, Second};
use crate::workload::Stream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How often the run looks after its threads: the stop file, Ctrl-C, a thread that failed.
const LOOK_NS: u64 = 20_000_000;
/// Until the threads have seen that it begins.
const START_NS: u64 = 5_000_000;
const SECONDS_DEFAULT: f64 = 10.0;
const WARMUP_SECONDS_DEFAULT: f64 = 1.0;

/// One point: how hard, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Open loop at this rate, in events a second (requests a second once there are queries); `None`: closed loop.
    pub rate: Option<f64>,
    pub arrivals: Arrivals,
    pub warmup_seconds: f64,
    /// How long is measured; `None`: until `count` requests are sent.
    pub seconds: Option<f64>,
    pub count: Option<u64>,
}

impl Plan {
    pub fn from_args(args: &RunArgs) -> Result<Self, Failure> {
        if args.rate.is_none() && !args.closed {
            return Err(Failure::Usage(
                "say how hard: --rate PER_SECOND sends on a schedule (open loop: what latency is at that rate), \
                 --closed sends whenever an answer comes (closed loop: what the most is, with latencies that hide stalls)"
                    .to_owned(),
            ));
        }
        let is_short = args.count.is_some() || args.ledger.is_some();
        let plan = Self {
            rate: args.rate,
            arrivals: args.arrivals.unwrap_or(Arrivals::Uniform),
            warmup_seconds: args.warmup.unwrap_or(if is_short { 0.0 } else { WARMUP_SECONDS_DEFAULT }),
            seconds: args.duration.or(if args.count.is_some() { None } else { Some(SECONDS_DEFAULT) }),
            count: args.count,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
            return Err(Failure::Usage("--rate must be 0.001 to 1e9 a second".to_owned()));
        }
        if self.seconds.is_none() && self.count.is_none() {
            return Err(Failure::Usage("a point needs a duration or a count".to_owned()));
        }
        Ok(())
    }
}

/// What the machine said at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probes {
    pub at: Instant,
    pub server_cpu_us: Option<u64>,
    pub flushes: Option<u64>,
    pub own_cpu_us: u64,
    pub ticks: Option<CpuTicks>,
}

impl Probes {
    fn take(args: &RunArgs) -> Result<Self, Failure> {
        Ok(Self {
            at: Instant::now(),
            server_cpu_us: args.server_pid.map(probe::process_cpu_us).transpose()?,
            flushes: args.device.as_deref().map(probe::device_flushes).transpose()?,
            own_cpu_us: probe::own_cpu_us(),
            ticks: probe::cpu_ticks(),
        })
    }
}

impl Prepared {
    /// Opens the connections anew, measures, and tells `see` once a second how it goes.
    pub fn measure(&mut self, plan: &Plan, see: &mut dyn FnMut(&Progress)) -> Result<RunResult, Failure> {
        plan.check()?;
        let run = self.next_run()?;
        if let Some(ledger) = &self.ledger {
            let mut writer = ledger.writer();
            writer.run(self.args.seed);
            writer.flush().map_err(Failure::io("the ledger cannot be written"))?;
        }
        let control = Arc::new(Control::new());
        let (sender, intervals) = channel();
        let mut threads = Vec::new();
        for thread in 0..self.args.threads {
            let share = self.share_of(thread, run, plan, &control);
            let sender: Sender<(usize, Interval)> = sender.clone();
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            let handle = builder.spawn(move || thread::run(share, &sender)).map_err(Failure::io("a thread"))?;
            threads.push(Some(handle));
        }
        drop(sender);
        let operation_count = self.workload.recipe.mix.operations.len();
        let seconds = Seconds::new(operation_count, threads.len(), plan.rate.is_some(), self.args.hlog.is_some());
        let mut watch = Watch { prepared: self, plan, control, intervals, threads, seconds, ended: Vec::new() };
        let outcome = watch.conduct(see);
        // Whatever happened: no thread outlives its point.
        watch.control.stops.store(true, Ordering::Relaxed);
        watch.control.begin_if_it_has_not();
        watch.join_all();
        let (times, probes) = outcome?;
        watch.finish(times, probes)
    }

    fn share_of(&self, thread: usize, run: u16, plan: &Plan, control: &Arc<Control>) -> Share {
        let args = &self.args;
        let connections = (thread as u32..args.connections).step_by(args.threads);
        let count = plan.count.map_or(u64::MAX, |count| {
            let (share, rest) = (count / args.threads as u64, count % args.threads as u64);
            share + u64::from((thread as u64) < rest)
        });
        Share {
            control: Arc::clone(control),
            workload: Arc::clone(&self.workload),
            target: self.target.clone(),
            streams: connections.map(|connection| Stream::new(args.seed, run, connection)).collect(),
            depth: args.depth,
            ledger: self.ledger.as_ref().map(LedgerFile::writer),
            reconnect_for: args.reconnect.then(|| Duration::from_secs_f64(args.reconnect_for)),
            timeout: Duration::from_secs_f64(args.timeout),
            cpu: args.cpus.get(thread).copied(),
            place: (thread, args.threads),
            count,
            requests_per_second: plan.rate.map(|rate| rate / self.workload.rate_units_per_request()),
            arrivals: plan.arrivals,
            seed: args.seed,
        }
    }
}

/// The moments of a point, in nanoseconds since its origin.
#[derive(Debug, Clone, Copy)]
struct Times {
    started_at: SystemTime,
    from: u64,
    to: u64,
    is_stopped: bool,
}

struct Watch<'a> {
    prepared: &'a mut Prepared,
    plan: &'a Plan,
    control: Arc<Control>,
    intervals: Receiver<(usize, Interval)>,
    threads: Vec<Option<JoinHandle<Result<Ended, Failure>>>>,
    seconds: Seconds,
    ended: Vec<Result<Ended, Failure>>,
}

impl Watch<'_> {
    /// From the first connect until every thread has ended, or will.
    fn conduct(&mut self, see: &mut dyn FnMut(&Progress)) -> Result<(Times, (Probes, Probes)), Failure> {
        let args = self.prepared.args.clone();
        while self.control.ready_count.load(Ordering::Acquire) < self.threads.len() {
            if self.threads.iter().flatten().any(JoinHandle::is_finished) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let start_at = self.control.now() + START_NS;
        let from = start_at + ns(self.plan.warmup_seconds);
        let planned_to = self.plan.seconds.map_or(u64::MAX, |seconds| from + ns(seconds));
        let started_at = SystemTime::now() + Duration::from_nanos(from - self.control.now().min(from));
        self.control.begin(start_at, from, planned_to);

        let mut times = Times { started_at, from, to: planned_to, is_stopped: false };
        let mut first = None;
        let mut last = None;
        loop {
            let now = self.control.now();
            // Without a warm-up the beginning is now: a short run may be over at the next look.
            if first.is_none() && (from <= now || from == start_at) {
                first = Some(Probes::take(&args)?);
            }
            if last.is_none() && times.to <= now {
                last = Some(Probes::take(&args)?);
            }
            let is_stopped = self.prepared.stops.load(Ordering::Relaxed)
                || args.stop_file.as_ref().is_some_and(|path| path.exists());
            if is_stopped && now < times.to {
                times = Times { to: now, is_stopped: true, ..times };
                self.control.to.store(now, Ordering::Relaxed);
                self.control.stops.store(true, Ordering::Relaxed);
                continue;
            }
            if self.hear(self.patience(now, from, times.to), start_at, &times, see)? {
                break;
            }
        }
        let last = match last {
            Some(last) => last,
            None => Probes::take(&args)?,
        };
        Ok((times, (first.unwrap_or(last), last)))
    }

    /// Until something has to be done on time.
    fn patience(&self, now: u64, from: u64, to: u64) -> Duration {
        let next = [from, to].into_iter().filter(|at| now < *at).min().unwrap_or(u64::MAX);
        Duration::from_nanos(LOOK_NS.min(next - now.min(next)))
    }

    /// Takes what the threads hand over; answers whether all of them have ended.
    fn hear(
        &mut self,
        patience: Duration,
        start_at: u64,
        times: &Times,
        see: &mut dyn FnMut(&Progress),
    ) -> Result<bool, Failure> {
        let has_ended = match self.intervals.recv_timeout(patience) {
            Ok((thread, interval)) => {
                self.seconds.take(thread, &interval);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        for (index, thread) in self.threads.iter_mut().enumerate() {
            // What it sent last may still be on its way; its end is noted once the channel is empty.
            if thread.as_ref().is_some_and(JoinHandle::is_finished) {
                while let Ok((thread, interval)) = self.intervals.try_recv() {
                    self.seconds.take(thread, &interval);
                }
                self.seconds.thread_ended(index);
                let Some(handle) = thread.take() else { continue };
                self.ended.push(handle.join().unwrap_or_else(|_| Err(Failure::Other("a thread failed".to_owned()))));
                if self.ended.iter().any(Result::is_err) {
                    // The others need not go on.
                    self.control.stops.store(true, Ordering::Relaxed);
                }
            }
        }
        for closed in self.seconds.close()? {
            if closed.second != Second::MIN && closed.second != AFTERWARDS {
                see(&self.progress(closed, start_at, times));
            }
        }
        Ok(has_ended && self.threads.iter().all(Option::is_none))
    }

    fn progress(&self, closed: Closed, start_at: u64, times: &Times) -> Progress {
        let second_ns = 1_000_000_000_i64;
        // The last second may be cut short.
        let end = (times.from as i64 + (closed.second + 1) * second_ns).min(times.to.min(i64::MAX as u64) as i64);
        let is_warm_up = closed.second < 0;
        let (from, to) = if is_warm_up { (start_at, times.from) } else { (times.from, times.to) };
        // So may be the first second of a warm-up.
        let begin = (times.from as i64 + closed.second * second_ns).max(from as i64);
        let length = (end - begin).max(1) as f64 / 1e9;
        Progress {
            is_warm_up,
            elapsed_seconds: (end - from as i64) as f64 / 1e9,
            left_seconds: (to != u64::MAX).then(|| (to as i64 - end).max(0) as f64 / 1e9),
            events_per_second: closed.events as f64 / length,
            requests_per_second: closed.requests as f64 / length,
            latencies: closed.latencies,
            error_count: self.seconds.total.error_count(),
        }
    }

    fn join_all(&mut self) {
        for (index, thread) in self.threads.iter_mut().enumerate() {
            if let Some(handle) = thread.take() {
                self.ended.push(handle.join().unwrap_or_else(|_| Err(Failure::Other("a thread failed".to_owned()))));
                self.seconds.thread_ended(index);
            }
        }
    }

    fn finish(self, times: Times, (first, last): (Probes, Probes)) -> Result<RunResult, Failure> {
        let Self { prepared, plan, seconds, ended, .. } = self;
        let ended = ended.into_iter().collect::<Result<Vec<Ended>, Failure>>()?;
        let stopped_at = ended.iter().map(|ended| ended.at).max().unwrap_or_default();
        let answered_at = ended.iter().map(|ended| ended.last_answer_at).max().unwrap_or_default();
        let lost_all = ended.iter().any(|ended| ended.lost_all);
        let to = match plan.seconds {
            _ if times.is_stopped => times.to.min(stopped_at),
            // A count ends with its last answer, wherever the threads were by then.
            None => answered_at + 1,
            Some(_) => times.to.min(stopped_at),
        };
        if let Some(path) = &prepared.args.hlog {
            hlog::write(path, &report::command_line(), times.started_at, &seconds.log_lines)?;
        }
        let measured = Measured {
            started_at: times.started_at,
            measured_ns: to.saturating_sub(times.from),
            is_partial: times.is_stopped || lost_all,
            starved_percent: ended.iter().filter_map(|ended| ended.starved_percent).reduce(f64::max),
            first,
            last,
        };
        result_of(prepared, plan, seconds, &measured)
    }
}

fn ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
