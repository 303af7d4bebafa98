//! What the kernel says of processes, by way of `procfs`.
//!
//! A number of a process is that of another one some day: these functions are for children of ours that are not waited
//! for yet, and for a look at what runs.

use procfs::process::{Process, all_processes};

/// The process with this number, running or a zombie.
pub(crate) fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// Its resident memory, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    Some(process(pid)?.status().ok()?.vmrss? << 10)
}

/// How many descriptors it holds.
pub(crate) fn descriptors(pid: u32) -> Option<usize> {
    // Not `fd_count`, which counts the directory's own entries too where the kernel is older than 6.2.
    Some(process(pid)?.fd().ok()?.count())
}

/// Whether all its threads are stopped, or there are none.
pub(crate) fn stands_still(pid: u32) -> bool {
    let Some(threads) = process(pid).and_then(|process| process.tasks().ok()) else { return true };
    // A thread that has just ended has no state.
    threads.flatten().all(|thread| thread.stat().map_or(true, |stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X')))
}

/// Whether it has ended as far as it can: a thread whose call hangs keeps what is left of it, with a disk as with a
/// tracer.
pub fn has_ended(pid: u32) -> bool {
    !process(pid).is_some_and(|process| process.is_alive())
}

/// Whether each of its threads has a tracer.
pub fn is_traced(pid: u32) -> bool {
    let Some(mut threads) = process(pid).and_then(|process| process.tasks().ok()) else { return false };
    threads.all(|thread| thread.and_then(|thread| thread.status()).is_ok_and(|status| status.tracerpid != 0))
}

/// The numbers and command lines of all processes, those left out that have none, as kernel threads, or one that is no
/// text.
pub fn command_lines() -> Vec<(u32, Vec<String>)> {
    let Ok(all) = all_processes() else { return Vec::new() };
    let lines = all.flatten().filter_map(|process| {
        let words = process.cmdline().ok().filter(|words| !words.is_empty())?;
        Some((u32::try_from(process.pid()).ok()?, words))
    });
    lines.collect()
}

/// How many threads ran or waited for a processor or a disk, on average over the last minute.
pub fn load_average() -> Option<f32> {
    use procfs::Current;
    procfs::LoadAverage::current().ok().map(|load| load.one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_holds_descriptors_and_is_among_the_command_lines() {
        let own = std::process::id();
        assert!(!has_ended(own) && !is_traced(own) && !stands_still(own));
        assert!(resident_bytes(own).unwrap() > 1 << 20);
        let before = descriptors(own).unwrap();
        assert!(before >= 3, "{before}");
        let line = command_lines().into_iter().find(|(pid, _)| *pid == own).unwrap().1;
        assert_eq!(line, std::env::args().collect::<Vec<_>>());
        assert!(load_average().unwrap() >= 0.0);
    }

    #[test]
    fn process_that_no_one_has_ended_and_stands_still() {
        for none in [u32::MAX, i32::MAX as u32] {
            assert!(has_ended(none) && stands_still(none) && !is_traced(none));
            assert_eq!((resident_bytes(none), descriptors(none)), (None, None));
        }
    }
}
