//! What a process has cost so far, as the kernel counts it.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// Ticks of the kernel's clock in a second, as /proc shows them: 100 on every Linux that we run on (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What a process has cost, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time on a processor since its start, its own and the kernel's for it, all threads; in steps of 10 ms.
    pub cpu: Duration,
    /// The most memory that it ever had resident, in bytes.
    pub peak_bytes: u64,
}

impl Usage {
    /// Of a running process; `None` if there is none with this number.
    pub fn of(pid: u32) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Usage { cpu: cpu(&stat)?, peak_bytes: memory_bytes(&status, "VmHWM:")? })
    }
}

/// Of all these processes. One that ended meanwhile counts as nothing.
pub fn total(pids: &[u32]) -> Usage {
    pids.iter().filter_map(|&pid| Usage::of(pid)).fold(Usage::default(), |sum, one| Usage {
        cpu: sum.cpu + one.cpu,
        peak_bytes: sum.peak_bytes + one.peak_bytes,
    })
}

/// `<pid> (<name>) <state> ...`, and the name may hold anything; fields 14 and 15 are the ticks.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let sum = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Duration::from_millis(sum * 1_000 / TICKS_PER_SECOND))
}

/// A field of `/proc/<pid>/status` that is a size.
pub fn memory_bytes(status: &str, field: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?;
    Some(kib.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_of_a_name_with_spaces_and_brackets_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 3 0 150 25 0 0 20 0 9 0 100 1000 50";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(cpu("7 (a"), None);
    }

    #[test]
    fn usage_of_this_process_grows_with_work() {
        let before = Usage::of(std::process::id()).unwrap();
        assert!(before.peak_bytes > 1 << 20);
        crate::wait::wait_for(Duration::from_secs(60), "50 ms of processor time", || {
            std::hint::black_box((0..1_000_000_u64).sum::<u64>());
            let now = Usage::of(std::process::id()).unwrap();
            (now.cpu >= before.cpu + Duration::from_millis(50)).then_some(())
        })
        .unwrap();
    }

    #[test]
    fn usage_of_no_one_is_none() {
        assert_eq!(Usage::of(u32::MAX), None);
        assert_eq!(total(&[u32::MAX]), Usage::default());
    }
}
