//! `sweep`: raises the rate to the knee, then measures at half of it.
//!
//! ```text
//! main ─► course (points, time, words) ─► search (which rate next)
//!  └────► run::Prepared (each point)
//! ```

mod course;
mod search;

use crate::cli::RunArgs;
use crate::cli::run::Arrivals;
use crate::failure::{EXIT_OTHER, Failure};
use crate::figures;
use crate::interrupt;
use crate::report;
use crate::result::RunResult;
use crate::run::measure;
use crate::run::prepare::Prepared;
use crate::run::progress::Printer;
use clap::Args;
use course::{Bench, Plan};
use search::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const EXAMPLES: &str = "\
EXAMPLES

  The highest rate of events with p99 under 10 ms and no errors, then the latency at half of it:
    ringlog-load sweep --p99 10ms --batch 10 --connections 64 --json sweep.json

  More exactly, from a rate that is known to be good, in twenty minutes at most:
    ringlog-load sweep --p99 5ms --from 20000 --precision 2 --duration 20 --max-seconds 1200 --batch 10

  With what the server pays, and a picture:
    ringlog-load sweep --server-pid $(pidof ringlog) --batch 100 --json sweep.json
    ringlog-load plot sweep.json -o sweep.svg

  p99 is that of the response time, which counts from the moment a request was meant to be sent. The rate goes up by
  --step until a point is not good: p99 above the bound, less than 98 % of the offered rate achieved, any error, or a
  send lag above 1 ms at p99, which means that this program was too slow. Then it halves the distance between the best
  and the worst rate until they are as close as --precision says, and measures the best once more. A point that is not
  good is measured again and two of three decide, but for errors, which decide at once. Where this program was the
  limit no knee is found, and the best rate is a lower bound. Ctrl-C ends the sweep with what it knows.
  The exit code is 1 when no rate was good.";

#[derive(Debug, Clone, Args)]
#[command(mut_arg("rate", |arg| arg.hide(true)), mut_arg("closed", |arg| arg.hide(true)))]
#[command(mut_arg("count", |arg| arg.hide(true)), mut_arg("ledger", |arg| arg.hide(true)))]
#[command(mut_arg("hlog", |arg| arg.hide(true)))]
#[command(mut_arg("arrivals", |arg| arg.help("How the requests are spread over time (default: uniform)")))]
#[command(mut_arg("duration", |arg| arg.help("Seconds that are measured at each point (default 5)")))]
#[command(mut_arg("warmup", |arg| arg.help("Seconds before the measured ones of each point (default 1)")))]
pub struct SweepArgs {
    /// The response time that 99 % of the requests must keep, as in 500us, 10ms, 1s
    #[arg(long, default_value = "10ms", value_parser = figures::parse_time, value_name = "TIME", help_heading = "Sweep")]
    pub p99: f64,
    /// The first rate, in events a second (requests a second once there are queries)
    #[arg(long, default_value_t = 1000.0, value_name = "PER_SECOND", help_heading = "Sweep")]
    pub from: f64,
    /// The last rate: a knee above is not looked for
    #[arg(long, default_value_t = 100e6, value_name = "PER_SECOND", help_heading = "Sweep")]
    pub to: f64,
    /// How much faster each point is than the last one, until one is not good
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR", help_heading = "Sweep")]
    pub step: f64,
    /// How exactly the knee is found, in per cent
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT", help_heading = "Sweep")]
    pub precision: f64,
    /// Seconds of rest before each point but the first
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", help_heading = "Sweep")]
    pub settle: f64,
    /// Seconds that are measured at half of the knee
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS", help_heading = "Sweep")]
    pub half_duration: f64,
    /// The sweep with all its points takes no longer
    #[arg(long, default_value_t = 900.0, value_name = "SECONDS", help_heading = "Sweep")]
    pub max_seconds: f64,
    #[command(flatten)]
    pub run: RunArgs,
}

const DURATION_DEFAULT: f64 = 5.0;
const WARMUP_DEFAULT: f64 = 1.0;

impl SweepArgs {
    fn point_seconds(&self) -> f64 {
        self.run.duration.unwrap_or(DURATION_DEFAULT)
    }

    fn warmup_seconds(&self) -> f64 {
        self.run.warmup.unwrap_or(WARMUP_DEFAULT)
    }

    fn plan(&self, unit: &'static str) -> Plan {
        let around = self.settle + self.warmup_seconds();
        let range = Range { from: self.from, to: self.to, step: self.step, precision: self.precision / 100.0 };
        Plan {
            range,
            p99_us_max: self.p99,
            point_seconds: around + self.point_seconds(),
            half_seconds: around + self.half_duration,
            seconds_max: self.max_seconds,
            unit,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        let run = &self.run;
        for (name, is_given) in [
            ("--rate", run.rate.is_some()),
            ("--closed", run.closed),
            ("--count", run.count.is_some()),
            ("--ledger", run.ledger.is_some()),
            ("--hlog", run.hlog.is_some()),
        ] {
            if is_given {
                return usage(&format!("{name} is for a run: a sweep chooses its rates and repeats its points"));
            }
        }
        if !(0.001..=1e9).contains(&self.from) || !(self.from..=1e9).contains(&self.to) {
            return usage("--from and --to must be 0.001 to 1e9, and --to not below --from");
        }
        if !(1.05..=100.0).contains(&self.step) {
            return usage("--step must be 1.05 to 100");
        }
        if !(0.1..=50.0).contains(&self.precision) {
            return usage("--precision must be 0.1 to 50 per cent");
        }
        for (name, seconds, min) in [
            ("--settle", self.settle, 0.0),
            ("--warmup", self.warmup_seconds(), 0.0),
            ("--duration", self.point_seconds(), 0.1),
            ("--half-duration", self.half_duration, 0.1),
            ("--max-seconds", self.max_seconds, 0.1),
        ] {
            if !(min..=1e6).contains(&seconds) {
                return usage(&format!("{name} must be {min} to 1000000 seconds"));
            }
        }
        let plan = self.plan("");
        let needed = plan.point_seconds + plan.half_seconds;
        if self.max_seconds < needed {
            return usage(&format!(
                "--max-seconds must be {needed} at least: one point and the run at half of the knee"
            ));
        }
        Ok(())
    }
}

pub fn main(args: &SweepArgs) -> Result<u8, Failure> {
    args.check()?;
    let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let prepared = Prepared::new(&args.run)?;
    let unit = prepared.rate_unit();
    let stops = prepared.stops();
    interrupt::watch(Arc::clone(&stops))?;
    let printer = Printer::new(args.run.quiet);
    let mut bench = Points { args, prepared, stops, printer, began_at: Instant::now(), is_first: true };
    let (course, end, half) = course::conduct(args.plan(unit), &mut bench)?;
    let sweep = course.finish(end, started_at.as_millis() as u64, report::command_line(), half);
    report::publish(&sweep, &course::sweep_text(&sweep), args.run.json.as_deref())?;
    Ok(if sweep.knee_per_second.is_some() { 0 } else { EXIT_OTHER })
}

/// The real server.
struct Points<'a> {
    args: &'a SweepArgs,
    prepared: Prepared,
    stops: Arc<AtomicBool>,
    printer: Printer,
    began_at: Instant,
    is_first: bool,
}

impl Bench for Points<'_> {
    fn measure(&mut self, rate: f64, is_half: bool) -> Result<Option<RunResult>, Failure> {
        if !std::mem::replace(&mut self.is_first, false) {
            // What the last point left behind is not this one's.
            std::thread::sleep(Duration::from_secs_f64(self.args.settle));
        }
        let plan = measure::Plan {
            rate: Some(rate),
            arrivals: self.args.run.arrivals.unwrap_or(Arrivals::Uniform),
            warmup_seconds: self.args.warmup_seconds(),
            seconds: Some(if is_half { self.args.half_duration } else { self.args.point_seconds() }),
            count: None,
        };
        let printer = &mut self.printer;
        let measured = self.prepared.measure(&plan, &mut |progress| printer.tell(progress));
        self.printer.end();
        let is_stopped =
            self.stops.load(Ordering::Relaxed) || self.args.run.stop_file.as_ref().is_some_and(|path| path.exists());
        measured.map(|result| (!is_stopped).then_some(result))
    }

    fn elapsed_seconds(&self) -> f64 {
        self.began_at.elapsed().as_secs_f64()
    }

    fn tell(&mut self, line: &str) {
        if !self.args.run.quiet {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests;
