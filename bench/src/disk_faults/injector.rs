//! Lets system calls of a running process fail or hang, by means of strace's tampering.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Skipped;
use crate::wait::wait_for;

/// How long strace may take until it holds each thread.
const ATTACH_PATIENCE: Duration = Duration::from_secs(10);

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What happens to the chosen calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// The call with this number (from 1, of each thread by itself) and all later ones fail with EIO.
    FailFrom(u32),
    /// Only that one fails.
    FailOnce(u32),
    /// From that one on, each call begins late by this many milliseconds.
    DelayFrom(u32, u64),
}

/// strace, attached. Lets go when dropped.
#[derive(Debug)]
pub struct Injector {
    child: Child,
    trace: PathBuf,
}

impl Injector {
    /// Tampers with `calls` (names with commas between) of the process `pid`, on files below `directory` only.
    ///
    /// # Errors
    /// [`Skipped`] without strace, or without the right to trace.
    pub fn attach(pid: u32, calls: &str, tampering: Tampering, directory: &Path, trace: &Path) -> Outcome<Injector> {
        let child = strace(calls, tampering, directory, trace)?.args(["-p", &pid.to_string()]).spawn();
        let child = child.map_err(|error| Skipped(format!("cannot run strace: {error}")))?;
        let mut injector = Injector { child, trace: trace.to_path_buf() };
        let attached = wait_for(ATTACH_PATIENCE, "strace", || {
            (is_traced(pid) || !matches!(injector.child.try_wait(), Ok(None))).then_some(())
        });
        if attached.is_err() || !is_traced(pid) {
            return Err(Skipped("strace may not trace here (ptrace is not allowed)".to_owned()).into());
        }
        Ok(injector)
    }

    /// The calls that were tampered with so far.
    pub fn tampered(&self) -> Vec<String> {
        let text = fs::read(&self.trace).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        text.lines().filter(|line| line.contains("INJECTED") || line.contains("DELAYED")).map(str::to_owned).collect()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // Ended already, if the process that it traced has. Asked first, because it must let go of what it holds.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}

/// Whether there is an strace that may trace.
///
/// # Errors
/// [`Skipped`] if not.
pub fn available() -> Result<(), Skipped> {
    let output = Command::new("strace").args(["-q", "-o", "/dev/null", "true"]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Skipped(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim()))),
        Err(error) => Err(Skipped(format!("cannot run strace: {error}"))),
    }
}

/// strace with everything but what it is to trace.
///
/// # Errors
/// [`Skipped`] without strace.
pub fn strace(calls: &str, tampering: Tampering, directory: &Path, trace: &Path) -> Result<Command, Skipped> {
    available()?;
    let how = match tampering {
        Tampering::FailFrom(number) => format!("error=EIO:when={number}+"),
        Tampering::FailOnce(number) => format!("error=EIO:when={number}"),
        Tampering::DelayFrom(number, delay_ms) => format!("delay_enter={}:when={number}+", delay_ms * 1000),
    };
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-y", "-s", "0", "-o"]).arg(trace);
    for path in paths(directory) {
        command.arg("-P").arg(path);
    }
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{how}")]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// strace filters by whole paths.
fn paths(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(paths(&path)) } else { found.push(path) }
    }
    found
}

/// Whether each thread of a process has a tracer.
pub fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}
