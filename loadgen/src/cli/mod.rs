//! The command line, and nothing else: what was written, not yet what it means. One file for each subcommand.

pub mod run;
pub mod stream;
pub mod verify;

use crate::compare::{self, CompareArgs};
use crate::plot::{self, PlotArgs};
use crate::sweep::{self, SweepArgs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

pub use run::RunArgs;
pub use stream::StreamArgs;
pub use verify::VerifyArgs;

#[derive(Debug, Parser)]
#[command(name = "ringlog-load", version, about = "Drives an event store and proves afterwards that it kept its word")]
#[command(after_help = "Five worked examples: ringlog-load run --help")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Where a bootstrap key may stand that is not for others on the machine to see, as a command line is.
const BOOTSTRAP_KEY_VARIABLE: &str = "RINGLOG_LOAD_BOOTSTRAP_KEY";

impl Cli {
    /// Takes from the environment what was not written.
    pub fn read_environment(&mut self) {
        let key = match &mut self.command {
            Command::Run(args) => &mut args.bootstrap_key,
            Command::Sweep(sweep) => &mut sweep.run.bootstrap_key,
            Command::Stream(args) => &mut args.bootstrap_key,
            Command::Verify(_) | Command::Compare(_) | Command::Plot(_) => return,
        };
        if key.is_none() {
            *key = std::env::var(BOOTSTRAP_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send events, queries or a request of your own, and measure
    #[command(after_help = run::EXAMPLES)]
    Run(Box<RunArgs>),
    /// Send to a source that answers nothing, until all of it is stored
    #[command(after_help = stream::EXAMPLES)]
    Stream(Box<StreamArgs>),
    /// Read everything back and compare it with the ledger of a run
    #[command(after_help = verify::EXAMPLES)]
    Verify(VerifyArgs),
    /// Find the highest rate that keeps a bound of latency, then measure at half of it
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(Box<SweepArgs>),
    /// Say what became better or worse between two groups of runs, and how sure that is
    #[command(after_help = compare::EXAMPLES)]
    Compare(CompareArgs),
    /// Draw results as SVG
    #[command(after_help = plot::EXAMPLES)]
    Plot(PlotArgs),
}

#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Where the server is
    #[arg(long, default_value = "http://127.0.0.1:3900", value_name = "URL")]
    pub url: String,
    /// Take the address from the JSON that the server wrote, anew for every connection
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub ports_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
