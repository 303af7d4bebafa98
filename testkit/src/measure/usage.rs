//! What a process has cost so far, as the kernel counts it.

use std::time::Duration;

use serde::Serialize;

use crate::proc;

/// What a process has cost, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time on a processor since its start, its own and the kernel's for it, all threads; in steps of 10 ms.
    pub cpu: Duration,
    /// The most memory that it ever had resident, in bytes.
    pub peak_bytes: u64,
    /// What it had written to a device, in bytes; `None` if that is for others to know.
    pub written_bytes: Option<u64>,
}

impl Usage {
    /// Of a running process; `None` if there is none with this number.
    pub fn of(pid: u32) -> Option<Usage> {
        let process = proc::process(pid)?;
        let stat = process.stat().ok()?;
        let milliseconds = (stat.utime + stat.stime) * 1_000 / procfs::ticks_per_second();
        let cpu = Duration::from_millis(milliseconds);
        let written_bytes = process.io().ok().map(|io| io.write_bytes);
        Some(Usage { cpu, peak_bytes: process.status().ok()?.vmhwm? << 10, written_bytes })
    }
}

/// What no process has cost.
const NOTHING: Usage = Usage { cpu: Duration::ZERO, peak_bytes: 0, written_bytes: Some(0) };

/// Of all these processes. One that ended meanwhile counts as nothing.
pub fn total(pids: &[u32]) -> Usage {
    pids.iter().filter_map(|&pid| Usage::of(pid)).fold(NOTHING, |sum, one| Usage {
        cpu: sum.cpu + one.cpu,
        peak_bytes: sum.peak_bytes + one.peak_bytes,
        written_bytes: sum.written_bytes.zip(one.written_bytes).map(|(sum, one)| sum + one),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(total(&[u32::MAX]), NOTHING);
    }
}
