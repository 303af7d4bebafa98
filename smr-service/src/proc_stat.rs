//! What the kernel says of a process in `/proc/<pid>/stat`: whether it still runs, and when it started. And how a
//! number is found in files there that have names.
//!
//! A process number alone is no name: it is given again. With the moment of the start it is one, for this boot.

use std::fs;
use std::io::{self, ErrorKind};

/// A process, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// When it started, in clock ticks since the host did.
    pub started_ticks: u64,
    /// Whether it has ended, and only waits for its parent to hear of it.
    pub has_ended: bool,
}

/// What the kernel says of process `pid`.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::InvalidData`] if that is not what it looks like on Linux.
pub fn of(pid: u32) -> io::Result<ProcStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| {
        // It ended between opening and reading.
        if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) {
            ErrorKind::NotFound.into()
        } else {
            error
        }
    })?;
    parse(&text).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text:?}")))
}

/// `<pid> (<name>) <state> ...`: the name may hold anything, also `) R `. The start is field 22.
fn parse(text: &str) -> Option<ProcStat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3.
    let started_ticks = fields.nth(22 - 4)?.parse().ok()?;
    Some(ProcStat { started_ticks, has_ended: matches!(state, "Z" | "X" | "x") })
}

/// The number after a name in `/proc/<pid>/status`, `/proc/<pid>/io` and their like.
pub fn field_of(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_any_name_finds_state_and_start() {
        let fields = "12 11 5 0 -1 4227084 77 0 0 0 0 0 0 0 20 0 1 0 4758236 0 0";
        for name in ["sleep", "a) R (b", ") Z ", ""] {
            let running = parse(&format!("7 ({name}) S {fields}"));
            assert_eq!(running, Some(ProcStat { started_ticks: 4_758_236, has_ended: false }), "{name}");
            let ended = parse(&format!("7 ({name}) Z {fields}"));
            assert_eq!(ended, Some(ProcStat { started_ticks: 4_758_236, has_ended: true }), "{name}");
        }
        assert_eq!(parse("7 (x) S 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn field_of_missing_or_mangled_is_none() {
        assert_eq!(field_of("VmRSS:\t  120 kB\nThreads:\t7\n", "Threads:"), Some(7));
        assert_eq!(field_of("VmRSS:\t  120 kB\n", "VmRSS:"), Some(120));
        assert_eq!(field_of("VmRSS: x\n", "VmRSS:"), None);
        assert_eq!(field_of("", "VmRSS:"), None);
    }

    #[test]
    fn of_this_process_is_the_same_each_time_and_of_none_is_not_found() {
        let own = of(std::process::id()).unwrap();
        assert!(!own.has_ended && own.started_ticks > 0);
        assert_eq!(of(std::process::id()).unwrap(), own);
        // Above the highest that the kernel gives.
        assert_eq!(of(u32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
