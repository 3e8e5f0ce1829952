//! `run`: prepares everything once, then measures a point: opens the connections, lets them work, adds up.
//!
//! ```text
//! main ─► Prepared::new ─► measure(plan) ─► one thread::run each ─► lane, connection, schedule
//!                              └─► second (adds the intervals up) ─► outcome ─► RunResult
//! ```

mod alarm;
mod books;
mod check;
mod connection;
mod lane;
pub mod measure;
mod outcome;
pub mod prepare;
pub mod progress;
mod schedule;
mod second;
mod starvation;
mod thread;

use crate::cli::{RunArgs, TargetArgs};
use crate::failure::{EXIT_OTHER, EXIT_UNAVAILABLE, Failure};
use crate::interrupt;
use crate::report;
use crate::target::Target;

use measure::Plan;
use prepare::Prepared;
use progress::Printer;

pub fn main(args: &RunArgs) -> Result<u8, Failure> {
    let plan = Plan::from_args(args)?;
    let mut prepared = Prepared::new(args)?;
    interrupt::watch(prepared.stops())?;
    let mut printer = Printer::new(args.quiet);
    let measured = prepared.measure(&plan, &mut |progress| printer.tell(progress));
    printer.end();
    let result = measured?;
    let text = report::run_text(&result);
    report::publish(&result, &text, args.json.as_deref())?;
    Ok(if result.requests_good == 0 {
        EXIT_UNAVAILABLE
    } else if 0 < result.error_count && !args.reconnect {
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

#[cfg(test)]
pub mod tests;
