//! `plot`: results as a picture that needs nothing else to be looked at.

mod axis;
mod chart;
mod essentials;
mod percentiles;
mod svg;
mod sweeps;
mod timeline;

use crate::failure::Failure;
use crate::kept::{self, Kept};
use crate::result::{RunResult, SweepResult};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

pub const EXAMPLES: &str = "\
EXAMPLES

  The percentile curve of a run, response and service time:
    ringlog-load run --rate 50000 --duration 60 --json run.json
    ringlog-load plot run.json -o latency.svg

  Two builds over each other; a file with several runs is drawn as several curves of one colour:
    ringlog-load plot old.json new.json -o compared.svg --title 'With and without packing'

  Latency against the rate, with the knee and the bound:
    ringlog-load sweep --p99 10ms --json sweep.json
    ringlog-load plot sweep.json -o sweep.svg

  How a run went, second by second:
    ringlog-load plot run.json --kind time -o time.svg

  --kind percentiles takes sweeps too: of those it draws the run at half of the knee.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlotKind {
    /// How slow the slow requests are
    Percentiles,
    /// Latency against the rate of a sweep
    Rate,
    /// Rate and latency second by second
    Time,
}

#[derive(Debug, Clone, Args)]
pub struct PlotArgs {
    /// What `run --json` or `sweep --json` wrote
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the picture goes; - is standard output
    #[arg(long, short, value_name = "FILE.svg")]
    pub out: PathBuf,
    /// What is drawn (default: percentiles of runs, rate of sweeps)
    #[arg(long, value_enum)]
    pub kind: Option<PlotKind>,
    /// Written above instead of what is drawn
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
}

/// The results of one file, and what to call it.
#[derive(Debug)]
pub struct Named<T> {
    pub name: String,
    pub path: PathBuf,
    pub results: Vec<T>,
}

impl<T> Named<T> {
    /// For the legend. Results of one file that have nothing of their own share one entry.
    fn label(&self, result_index: usize, own: &[String], flags: &str) -> String {
        let count = self.results.len();
        let is_one_kind = own.iter().all(|other| *other == own[0]);
        let number = match count {
            1 => String::new(),
            _ if is_one_kind && flags.is_empty() => format!(" ({count} runs)"),
            _ => format!(" (run {})", result_index + 1),
        };
        let own = own.get(result_index).filter(|own| !own.is_empty()).map_or(String::new(), |own| format!(": {own}"));
        format!("{}{number}{own}{flags}", self.name)
    }

    /// For messages.
    fn place(&self, result_index: usize) -> String {
        format!("{}, result {}", self.path.display(), result_index + 1)
    }
}

pub fn main(args: &PlotArgs) -> Result<u8, Failure> {
    let svg = draw(args)?;
    if args.out == Path::new("-") {
        print!("{svg}");
    } else {
        std::fs::write(&args.out, svg).map_err(Failure::io(args.out.display()))?;
    }
    Ok(0)
}

pub fn draw(args: &PlotArgs) -> Result<String, Failure> {
    let files = args
        .files
        .iter()
        .map(|path| Ok(Named { name: name_of(path, &args.files), path: path.clone(), results: kept::read(path)? }));
    let files: Vec<Named<Kept>> = files.collect::<Result<_, Failure>>()?;
    let kind = match args.kind {
        Some(kind) => kind,
        None => kind_of(&files)?,
    };
    let mut chart = match kind {
        PlotKind::Percentiles => percentiles::chart(&runs_of(files, true)?)?,
        PlotKind::Time => timeline::chart(&runs_of(files, false)?)?,
        PlotKind::Rate => sweeps::chart(&sweeps_of(files)?),
    };
    if let Some(title) = &args.title {
        chart.title = title.clone();
    }
    Ok(chart.to_svg())
}

/// The name of the file, or its path where two files have one name.
fn name_of(path: &Path, all: &[PathBuf]) -> String {
    let is_unique = all.iter().filter(|other| other.file_name() == path.file_name()).count() == 1;
    let name = path.file_name().filter(|_| is_unique).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn kind_of(files: &[Named<Kept>]) -> Result<PlotKind, Failure> {
    let is_sweep = |kept: &Kept| matches!(kept, Kept::Sweep(_));
    let mut all = files.iter().flat_map(|file| &file.results).map(is_sweep);
    let first = all.next().unwrap_or(false);
    if all.any(|other| other != first) {
        return Err(Failure::Usage("runs and sweeps in one picture: say which with --kind percentiles".to_owned()));
    }
    Ok(if first { PlotKind::Rate } else { PlotKind::Percentiles })
}

fn runs_of(files: Vec<Named<Kept>>, takes_half: bool) -> Result<Vec<Named<RunResult>>, Failure> {
    let of_file = |file: Named<Kept>| {
        let mut runs = Vec::new();
        for (index, kept) in file.results.into_iter().enumerate() {
            let what = format!("{}, result {}", file.path.display(), index + 1);
            match kept {
                Kept::Run(run) => runs.push(*run),
                Kept::Sweep(_) if !takes_half => {
                    return Err(Failure::Usage(format!(
                        "{what}: a sweep has no seconds: use --kind rate or percentiles"
                    )));
                }
                Kept::Sweep(sweep) => runs.push(sweep.half.ok_or_else(|| {
                    Failure::Usage(format!("{what}: this sweep found no good rate, so it has no run to draw"))
                })?),
            }
        }
        Ok(Named { name: file.name, path: file.path, results: runs })
    };
    files.into_iter().map(of_file).collect()
}

fn sweeps_of(files: Vec<Named<Kept>>) -> Result<Vec<Named<SweepResult>>, Failure> {
    let of_file = |file: Named<Kept>| {
        let mut sweeps = Vec::new();
        for (index, kept) in file.results.into_iter().enumerate() {
            match kept {
                Kept::Sweep(sweep) if !sweep.points.is_empty() => sweeps.push(*sweep),
                Kept::Sweep(_) => {
                    let what = format!("{}, result {}", file.path.display(), index + 1);
                    return Err(Failure::Usage(format!("{what}: a sweep without a point")));
                }
                Kept::Run(_) => {
                    let path = file.path.display();
                    return Err(Failure::Usage(format!(
                        "{path} holds runs: --kind rate draws what `sweep --json` wrote"
                    )));
                }
            }
        }
        Ok(Named { name: file.name, path: file.path, results: sweeps })
    };
    files.into_iter().map(of_file).collect()
}

#[cfg(test)]
mod tests;
