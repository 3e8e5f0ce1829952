//! What a command line cannot mean, said before anything is sent.

use crate::cli::RunArgs;
use crate::corpus::Seq;
use crate::corpus::distribution::EVENT_BYTES_MAX;
use crate::failure::Failure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A batch is one piece of the corpus, whose places are 32-bit.
const BATCH_BYTES_MAX: u64 = 1 << 30;

/// Rings, timers, the ledger, standard streams. A guess with room to spare.
const OPEN_FILES_BESIDES: u64 = 64;

pub fn check(args: &RunArgs) -> Result<(), Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    let is_within = |name: &str, value: u64, max: u64| {
        if (1..=max).contains(&value) {
            return Ok(());
        }
        Err(Failure::Usage(format!("{name} must be 1 to {max}")))
    };
    is_within("--connections", u64::from(args.connections), u64::from(Seq::CONNECTION_MAX))?;
    is_within("--depth", args.depth as u64, 4096)?;
    is_within("--entities", u64::from(args.entities), u64::from(u32::MAX))?;
    is_within("--tenants", u64::from(args.tenants), u64::from(u16::MAX))?;
    is_within("--query-limit", u64::from(args.query_limit), u64::from(u32::MAX))?;
    for size in &args.batch {
        is_within("--batch", *size as u64, 100_000)?;
    }
    let batch_max = args.batch.iter().max().map_or(1, |max| *max as u64);
    let event_bytes = if args.event_size.is_some() { EVENT_BYTES_MAX.min(4096) } else { args.event_bytes } as u64;
    if BATCH_BYTES_MAX < event_bytes * (batch_max + 1024) {
        return usage("--batch times the size of an event must stay below 1 GiB".to_owned());
    }
    check_threads(args)?;
    raise_open_files(args.connections)?;
    for (name, value) in [
        ("--duration", args.duration),
        ("--timeout", Some(args.timeout)),
        ("--reconnect-for", Some(args.reconnect_for)),
        ("--window", Some(args.window)),
    ] {
        if value.is_some_and(|value| !(0.001..=1e9).contains(&value)) {
            return usage(format!("{name} must be 0.001 to 1e9 seconds"));
        }
    }
    if args.count == Some(0) {
        return usage("--count must be at least 1".to_owned());
    }
    if args.warmup.is_some_and(|value| !(0.0..=1e6).contains(&value)) {
        return usage("--warmup must be 0 to 1e6 seconds".to_owned());
    }
    if let Some(line) = args.header.iter().find(|line| !line.contains(':') || line.contains(['\r', '\n'])) {
        return usage(format!("--header {line:?} must be one line, NAME: VALUE"));
    }
    if !args.lines_path.starts_with('/') || args.lines_path.contains([' ', '\r', '\n']) {
        return usage("--lines-path must begin with / and hold no space".to_owned());
    }
    if let Some([method, path]) = args.raw.as_deref() {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return usage(format!(
                "--raw {method} {path}: the method comes first, in capitals, as in --raw POST /path"
            ));
        }
        if !path.starts_with('/') || path.contains([' ', '\r', '\n']) {
            return usage(format!("--raw {method} {path}: the path must begin with / and hold no space"));
        }
    }
    Ok(())
}

/// Each connection is two descriptors; the soft limit is often far below what may be had.
fn raise_open_files(connections: u32) -> Result<(), Failure> {
    let wanted = u64::from(connections) * 2 + OPEN_FILES_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| wanted <= current) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        let maximum = limit.maximum.unwrap_or_default();
        return Err(Failure::Usage(format!(
            "--connections {connections}: they need {wanted} open files and {maximum} are allowed: raise ulimit -n"
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .map_err(|error| Failure::Other(format!("ulimit -n {wanted}: {error}")))
}

fn check_threads(args: &RunArgs) -> Result<(), Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    let cpu_count = std::thread::available_parallelism().map_or(1, |count| count.get());
    if args.threads == 0 {
        return usage("--threads must be at least 1".to_owned());
    }
    if cpu_count < args.threads {
        return usage(format!("--threads {}: there are {cpu_count} CPUs, and each thread wants one", args.threads));
    }
    if (args.connections as usize) < args.threads {
        return usage(format!("--threads {}: each thread needs a connection: raise --connections", args.threads));
    }
    if !args.cpus.is_empty() && args.cpus.len() < args.threads {
        return usage(format!("--cpus names {} CPUs for {} threads", args.cpus.len(), args.threads));
    }
    Ok(())
}
