//! `ringlog-load`: drives an event store over its public HTTP API and proves afterwards that it kept its word.
//!
//! It shares no code with the server, so that a mistake of the server's cannot hide in its own judge.
//!
//! ```text
//! run ─► lane (one per thread) ─► workload, protocol, ledger      verify ─► client, ledger
//!  └──► tenants ─► client ─► protocol::http                       both ─► report
//! sweep ─► run (each point)                    compare, plot ─► kept ─► result
//! stream ─► source, tenants, verify::readback  (sources that answer nothing)
//! ```

mod cli;
mod client;
mod compare;
mod corpus;
mod failure;
mod figures;
mod hlog;
mod interrupt;
mod kept;
mod ledger;
mod plot;
mod probe;
mod protocol;
mod report;
mod result;
mod ring;
mod run;
mod source;
mod stats;
mod stream;
mod sweep;
mod target;
mod tenants;
mod verify;
mod workload;

#[cfg(test)]
mod fake;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cli = cli::Cli::parse();
    cli.read_environment();
    let outcome = match cli.command {
        cli::Command::Run(args) => run::main(&args),
        cli::Command::Stream(args) => stream::main(&args),
        cli::Command::Verify(args) => verify::main(&args),
        cli::Command::Sweep(args) => sweep::main(&args),
        cli::Command::Compare(args) => compare::main(&args),
        cli::Command::Plot(args) => plot::main(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("ringlog-load: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
