//! One thread of a run: a ring, a lane, its connections' tasks and its clock. Between threads there are only the
//! atomics of [`Control`] and one channel for intervals.

use super::alarm::Alarm;
use super::books::State;
use super::connection;
use super::lane::{Lane, Pace, Phase};
use super::schedule::Schedule;
use super::starvation::Starvation;
use crate::cli::run::Arrivals;
use crate::failure::Failure;
use crate::ledger::LedgerWriter;
use crate::ring;
use crate::stats::Interval;
use crate::target::Target;
use crate::workload::{Stream, Workload};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How often a thread looks after itself: time-outs, the end.
const LOOK: Duration = Duration::from_millis(10);
const TIMER: &str = "the timer of the schedule";
const START_LOOK: Duration = Duration::from_millis(1);
/// Connections that are not open after so long are waited for no more.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// After the end, answers that are on their way are waited for so long, or for the time-out if that is shorter.
const DRAIN_NS_MAX: u64 = 5_000_000_000;

/// What the threads of a run and the one that coordinates them share.
#[derive(Debug)]
pub struct Control {
    pub origin: Instant,
    /// Threads whose connections are open, or have failed.
    pub ready_count: AtomicUsize,
    /// When the load begins, and the measured time; 0 until it is known. Nanoseconds since the origin.
    pub start_at: AtomicU64,
    pub from: AtomicU64,
    pub to: AtomicU64,
    /// The run is to end before its time.
    pub stops: AtomicBool,
}

impl Control {
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            ready_count: AtomicUsize::new(0),
            start_at: AtomicU64::new(0),
            from: AtomicU64::new(u64::MAX),
            to: AtomicU64::new(u64::MAX),
            stops: AtomicBool::new(false),
        }
    }

    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    pub fn begin(&self, start_at: u64, from: u64, to: u64) {
        self.from.store(from, Ordering::Relaxed);
        self.to.store(to, Ordering::Relaxed);
        self.start_at.store(start_at, Ordering::Release);
    }

    /// For threads that wait for a beginning that never comes.
    pub fn begin_if_it_has_not(&self) {
        // Where the beginning was given, this changes nothing.
        let _ = self.start_at.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The beginning and the measured time, once they are known.
    fn begun(&self) -> Option<(u64, (u64, u64))> {
        let start_at = self.start_at.load(Ordering::Acquire);
        (0 < start_at).then(|| (start_at, (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed))))
    }
}

/// What one thread is given.
#[derive(Debug)]
pub struct Share {
    pub control: Arc<Control>,
    pub workload: Arc<Workload>,
    pub target: Target,
    pub streams: Vec<Stream>,
    pub depth: usize,
    pub ledger: Option<LedgerWriter>,
    pub reconnect_for: Option<Duration>,
    pub timeout: Duration,
    pub cpu: Option<usize>,
    /// Which thread, and of how many.
    pub place: (usize, usize),
    /// Requests that this thread sends at most.
    pub count: u64,
    /// Of all threads together; `None` for a closed loop.
    pub requests_per_second: Option<f64>,
    pub arrivals: Arrivals,
    pub seed: u64,
}

/// How a thread ended.
#[derive(Debug)]
pub struct Ended {
    /// When it stopped sending.
    pub at: u64,
    pub last_answer_at: u64,
    /// Every connection was lost before that.
    pub lost_all: bool,
    /// Share of the time that it was ready to run and waited, in per cent; `None` where nobody knows.
    pub starved_percent: Option<f64>,
}

pub fn run(share: Share, intervals: &Sender<(usize, Interval)>) -> Result<Ended, Failure> {
    if let Some(cpu) = share.cpu {
        ring::pin(&[cpu])?;
    }
    ring::block_on(drive(share, intervals))?
}

async fn drive(share: Share, intervals: &Sender<(usize, Interval)>) -> Result<Ended, Failure> {
    let (control, timeout_ns, place) = (Arc::clone(&share.control), share.timeout.as_nanos() as u64, share.place);
    let lane = Lane::new(Arc::clone(&share.workload), control.origin, share.depth, share.streams, share.ledger);
    let lane = Rc::new(RefCell::new(lane));
    let connection_count = lane.borrow().connection_count();
    let tasks: Vec<_> = (0..connection_count)
        .map(|index| {
            let target = share.target.clone();
            monoio::spawn(connection::run(Rc::clone(&lane), index, target, share.reconnect_for))
        })
        .collect();
    let patience_ends_at = Instant::now() + CONNECT_PATIENCE;
    while !lane.borrow().is_settled() && Instant::now() < patience_ends_at {
        monoio::time::sleep(START_LOOK).await;
    }
    control.ready_count.fetch_add(1, Ordering::AcqRel);
    let (start_at, window) = loop {
        if let Some(begun) = control.begun() {
            break begun;
        }
        monoio::time::sleep(START_LOOK).await;
    };
    // A schedule keeps its own time; without one nothing may leave before the beginning.
    while share.requests_per_second.is_none() && control.now() < start_at {
        monoio::time::sleep(START_LOOK).await;
    }
    let pace = match share.requests_per_second {
        None => Pace::Closed { left: share.count },
        Some(rate) => Pace::Open(Schedule::new(share.arrivals, rate, start_at, share.place, share.count, share.seed)),
    };
    let alarm = match &pace {
        Pace::Closed { .. } => None,
        Pace::Open(_) => Some(Alarm::new().map_err(Failure::io(TIMER))?),
    };
    let ticks = alarm.as_ref().map(Alarm::ticks).transpose().map_err(Failure::io(TIMER))?;
    lane.borrow_mut().start(pace, alarm, start_at, window);
    connection::help_the_stuck(&lane);
    let pacing = ticks.map(|ticks| monoio::spawn(keep_pace(Rc::clone(&lane), ticks)));

    let mut starvation = Starvation::new(control.now());
    let lost_all = loop {
        let now = control.now();
        starvation.look(now, window.0 <= now);
        {
            let mut lane = lane.borrow_mut();
            lane.window.1 = control.to.load(Ordering::Relaxed);
            let window = lane.window;
            if let Some(over) = lane.tally.turn(now, window) {
                lane.over.push(over);
            }
            // The other end is gone only when the run has failed.
            lane.over.drain(..).for_each(|over| drop(intervals.send((place.0, over))));
            let lost_all = lane.states().all(|state| state == State::Ended);
            let has_run_out = lane.has_run_out() && lane.is_idle();
            if window.1 <= now
                || has_run_out
                || lost_all
                || lane.fatal.is_some()
                || control.stops.load(Ordering::Relaxed)
            {
                // What was due by now is sent, or counted as not sent.
                lane.pace(now);
                break lost_all && !has_run_out;
            }
            lane.check_timeouts(now, timeout_ns);
        }
        let left = Duration::from_nanos(lane.borrow().window.1.saturating_sub(now));
        monoio::time::sleep(LOOK.min(left)).await;
    };
    connection::help_the_stuck(&lane);
    let ended_at = control.now();
    end(&lane, ended_at, timeout_ns).await;
    for task in tasks {
        task.await;
    }
    if let Some(pacing) = pacing {
        pacing.await.map_err(Failure::io(TIMER))?;
    }
    let mut lane = lane.borrow_mut();
    lane.flush_ledger();
    if let Some(why) = lane.fatal.take() {
        return Err(Failure::Other(why));
    }
    lane.over.drain(..).for_each(|over| drop(intervals.send((place.0, over))));
    // The other end is gone only when the run has failed.
    drop(intervals.send((place.0, lane.tally.take())));
    let at = ended_at.min(lane.window.1);
    Ok(Ended { at, last_answer_at: lane.last_answer_at, lost_all, starved_percent: starvation.percent() })
}

/// Lets what is in flight be answered, then ends every connection.
async fn end(lane: &Rc<RefCell<Lane>>, now: u64, timeout_ns: u64) {
    lane.borrow_mut().end(now);
    let deadline = now + timeout_ns.min(DRAIN_NS_MAX);
    loop {
        {
            let lane = lane.borrow();
            if deadline <= lane.now() || lane.is_idle() {
                break;
            }
        }
        monoio::time::sleep(START_LOOK).await;
    }
    let mut lane = lane.borrow_mut();
    for index in 0..lane.connection_count() {
        lane.break_off(index, "unanswered");
    }
}

/// Sends what is due whenever the alarm goes off.
async fn keep_pace(lane: Rc<RefCell<Lane>>, ticks: File) -> io::Result<()> {
    let ticks = monoio::fs::File::from_std(ticks)?;
    let mut tick = vec![0; 8];
    loop {
        {
            let mut lane = lane.borrow_mut();
            if lane.phase == Phase::Ending {
                return Ok(());
            }
            lane.on_alarm();
        }
        connection::help_the_stuck(&lane);
        let (read, returned) = ticks.read_at(tick, 0).await;
        tick = returned;
        read?;
    }
}
