//! The arguments of `verify`.

use super::TargetArgs;
use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
EXAMPLES

  Everything that was acknowledged, read back and compared:
    ringlog-load verify --ledger ledger.bin --url http://127.0.0.1:3900

  In a script; the exit code is 0, or 8 when something is wrong:
    ringlog-load verify --ledger ledger.bin --ports-file ports.json --json verdict.json";

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// What `run --ledger` wrote
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Events per page
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub page: u32,
    /// Accept versions that skip numbers
    #[arg(long)]
    pub allow_gaps: bool,
    /// Seconds to wait for one page
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Write the verdict as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write every finding here, one line of JSON each; the table shows the first few of each kind
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// No progress lines
    #[arg(long, short)]
    pub quiet: bool,
}
