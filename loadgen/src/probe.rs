//! What the machine says about the server: CPU time of its process, flushes of its disk.

use crate::failure::Failure;

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
    fn this_process_has_used_some() {
        assert!(process_cpu_us(std::process::id()).is_ok());
        assert!(process_cpu_us(0).is_err());
    }
}
