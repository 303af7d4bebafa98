//! Lets system calls of a running process fail or hang, by means of strace's tampering.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Skipped;
use madkv_testkit::proc::is_traced;
use madkv_testkit::wait::wait_for;

/// How long strace may take until it holds each thread.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to let go, before it is killed.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// With that one the process is killed.
    Kill(u32),
}

/// strace, attached. Lets go when dropped.
#[derive(Debug)]
pub struct Injector {
    child: Child,
}

impl Injector {
    /// Tampers with `calls` (names with commas between) of the process `pid` on `place`, a file, or a directory with
    /// all in it.
    ///
    /// # Errors
    /// [`Skipped`] without strace, or without the right to trace.
    pub fn attach(pid: u32, calls: &str, tampering: Tampering, place: &Path, trace: &Path) -> Outcome<Injector> {
        let mut command = strace(calls, tampering, trace)?;
        // strace filters by whole paths.
        for path in all_below(place) {
            command.arg("-P").arg(path);
        }
        let complaints = trace.with_extension("complaints");
        let stderr = fs::File::create(&complaints)?;
        let child = command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(stderr).spawn();
        let child = child.map_err(|error| Skipped(format!("cannot run strace: {error}")))?;
        let mut injector = Injector { child };
        // If the process has ended before it was seen to be traced, then from what was done to it.
        wait_for(ATTACH_TIMEOUT, "strace", || {
            (is_traced(pid) || !matches!(injector.child.try_wait(), Ok(None))).then_some(())
        })?;
        let complaints = fs::read_to_string(&complaints)?;
        if complaints.contains("ptrace(") {
            return Err(Skipped(format!("strace may not trace here: {}", complaints.trim())).into());
        }
        Ok(injector)
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // Asked first, so that it lets the process go on. While it delays a call it does not listen.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let ended =
            wait_for(DETACH_TIMEOUT, "strace to let go", || (!matches!(self.child.try_wait(), Ok(None))).then_some(()));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
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

/// What starts a program with its calls tampered with, from its first instruction on: the process that is started is
/// the program, and strace a child of it. Given a `place`, only calls on that file, or on what is in that directory
/// now.
///
/// # Errors
/// [`Skipped`] without strace.
pub fn starter(calls: &str, tampering: Tampering, place: Option<&Path>, trace: &Path) -> Result<Command, Skipped> {
    let mut command = strace(calls, tampering, trace)?;
    command.arg("-D");
    for path in place.into_iter().flat_map(all_below) {
        command.arg("-P").arg(path);
    }
    Ok(command)
}

fn strace(calls: &str, tampering: Tampering, trace: &Path) -> Result<Command, Skipped> {
    available()?;
    let how = match tampering {
        Tampering::FailFrom(number) => format!("error=EIO:when={number}+"),
        Tampering::FailOnce(number) => format!("error=EIO:when={number}"),
        Tampering::Kill(number) => format!("signal=KILL:when={number}"),
        Tampering::DelayFrom(number, delay_ms) => format!("delay_enter={}:when={number}+", delay_ms * 1000),
    };
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-y", "-s", "0", "-o"]).arg(trace);
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{how}")]);
    Ok(command)
}

fn all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(all_below(&path)) } else { found.push(path) }
    }
    found
}

/// How many calls a trace shows that were tampered with.
pub fn tampered(trace: &Path) -> usize {
    let text = fs::read(trace).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
}
