//! What the machine says of itself and of the server: CPU time of its process, flushes of its disk.

use crate::failure::Failure;
use crate::result::Machine;

/// CPU time that a process has used so far, in microseconds, user and system together.
pub fn process_cpu_us(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(Failure::io(&path))?;
    let ticks = parse_process_stat(&text).ok_or_else(|| Failure::Other(format!("{path}: unexpected content")))?;
    Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// Flush requests that a block device has completed since the machine started.
pub fn device_flushes(device: &str) -> Result<u64, Failure> {
    let path = format!("/sys/block/{device}/stat");
    let text = std::fs::read_to_string(&path).map_err(Failure::io(&path))?;
    text.split_ascii_whitespace()
        .nth(15)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Failure::Other(format!("{path}: no count of flushes, which needs Linux 5.5")))
}

/// CPU time that this program has used so far, in microseconds.
pub fn own_cpu_us() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as u64 * 1_000_000 + used.tv_nsec as u64 / 1000
}

/// Of all CPUs together, in clock ticks since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTicks {
    total: u64,
    idle: u64,
    steal: u64,
}

pub fn cpu_ticks() -> Option<CpuTicks> {
    parse_cpu_ticks(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// user nice system idle iowait irq softirq steal; what guests use is within user.
fn parse_cpu_ticks(text: &str) -> Option<CpuTicks> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    let &[_, _, _, idle, waiting, _, _, steal] = fields.as_slice() else { return None };
    Some(CpuTicks { total: fields.iter().sum(), idle: idle + waiting, steal })
}

/// The machine, and how busy it was between two looks.
pub fn machine(first: Option<CpuTicks>, last: Option<CpuTicks>) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu_info, memory_info) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value_of = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let memory_kib = value_of(&memory_info, "MemTotal")
        .and_then(|value| value.split(' ').next().and_then(|number| number.parse::<u64>().ok()));
    let between = first.zip(last).filter(|(first, last)| first.total < last.total);
    let percent = |part: fn(&CpuTicks) -> u64| {
        between.map(|(first, last)| 100.0 * (part(&last) - part(&first)) as f64 / (last.total - first.total) as f64)
    };
    Machine {
        cpu_model: value_of(&cpu_info, "model name").unwrap_or_default(),
        cpu_count: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
        memory_bytes: memory_kib.unwrap_or_default() * 1024,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        steal_percent: percent(|ticks| ticks.steal),
        busy_percent: percent(|ticks| ticks.total - ticks.idle),
    }
}

/// utime + stime. The name in the second field may hold spaces and parentheses, so count from the last one.
fn parse_process_stat(text: &str) -> Option<u64> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_the_14th_and_15th_field_whatever_the_name() {
        let text = "42 (a) b c) S 1 42 42 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 1 0 1000 1 1";
        assert_eq!(parse_process_stat(text), Some(42));
        assert_eq!(parse_process_stat("42 (short) S 1"), None);
    }

    #[test]
    fn busy_and_stolen_time_are_shares_of_all_time() {
        let at = |text: &str| parse_cpu_ticks(text).unwrap();
        let (first, last) = (at("cpu  10 0 10 70 5 0 0 5 0 0\ncpu0 1"), at("cpu  40 0 20 120 5 0 0 15 0 0"));
        let machine = machine(Some(first), Some(last));
        assert_eq!((machine.busy_percent, machine.steal_percent), (Some(50.0), Some(10.0)));
        assert!(!machine.kernel.is_empty() && 0 < machine.cpu_count && 0 < machine.memory_bytes);
        assert_eq!(parse_cpu_ticks("intr 1"), None);
    }

    #[test]
    fn this_process_has_used_some() {
        assert!(process_cpu_us(std::process::id()).is_ok());
        assert!(process_cpu_us(0).is_err());
    }
}
