//! One child process: started with its output in a log file, killed, frozen, thawed, started again.
//!
//! Whatever happens to this value, the child does not outlive it. Children are signalled by their own handle, never by
//! name: a handle that was not waited for cannot mean another process.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::proc;
use crate::wait::{WaitTimeout, wait_for};

/// How much of the end of a log goes into a message, in bytes.
const LOG_TAIL_MAX_BYTES: usize = 4 << 10;
/// How long a stopped process may take to stand still.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// A child process, running or not.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    has_stdin: bool,
    shared_stdin: Option<Arc<PipeReader>>,
    child: Option<Child>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// A process that is not running yet; `log` will take its stdout and stderr.
    pub fn new(program: PathBuf, arguments: Vec<OsString>, log: PathBuf) -> Process {
        Process { program, arguments, log, has_stdin: false, shared_stdin: None, child: None, ended: None }
    }

    /// With a stdin on which nothing ever comes, and which ends with this process, however that ends.
    pub fn with_stdin(mut self) -> Process {
        self.has_stdin = true;
        self
    }

    /// With a stdin that it shares with others, and which ends when all who can write to it are gone.
    pub fn with_shared_stdin(mut self, stdin: Arc<PipeReader>) -> Process {
        self.shared_stdin = Some(stdin);
        self
    }

    /// Lets it be another program, from its next start on.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Gives it further arguments, from its next start on.
    pub fn add_arguments(&mut self, arguments: &[OsString]) {
        self.arguments.extend(arguments.iter().cloned());
    }

    /// Starts it. Does nothing if it runs. In a process group of its own, so that a Ctrl-C on the terminal reaches only
    /// the one who started it, and that one decides.
    ///
    /// # Errors
    /// If the log or the process cannot be created.
    pub fn start(&mut self) -> io::Result<()> {
        let command = Command::new(&self.program);
        self.start_with(command)
    }

    /// Starts it by means of another program, which becomes it: `command` gets the program and its arguments as further
    /// arguments.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_by(&mut self, mut command: Command) -> io::Result<()> {
        command.arg(&self.program);
        self.start_with(command)
    }

    fn start_with(&mut self, mut command: Command) -> io::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let stdin = match &self.shared_stdin {
            Some(shared) => shared.try_clone()?.into(),
            None if self.has_stdin => Stdio::piped(),
            None => Stdio::null(),
        };
        let child =
            command.args(&self.arguments).stdin(stdin).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
        self.child = Some(child);
        self.ended = None;
        Ok(())
    }

    /// Whether it runs (or is frozen).
    pub fn is_running(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        if let Ok(Some(status)) = child.try_wait() {
            self.ended = Some(status);
            self.child = None;
        }
        self.child.is_some()
    }

    /// How it ended, if it was started and ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.is_running();
        self.ended
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it (SIGKILL) without waiting, so that many can be killed at the same instant.
    pub fn send_kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.send_kill();
        self.reap();
    }

    /// Asks it to end (SIGTERM) without waiting.
    pub fn send_terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it ends by itself.
    pub fn wait_end(&mut self, timeout: Duration) -> Option<ExitStatus> {
        wait_for(timeout, "the end of a process", || if self.is_running() { None } else { Some(self.ended) })
            .ok()
            .flatten()
    }

    /// Stops it (SIGSTOP) and waits until each of its threads stands still.
    ///
    /// # Panics
    /// If it does not stand still, which no process can refuse.
    pub fn freeze(&mut self) {
        self.send_freeze();
        self.wait_frozen();
    }

    /// Stops it (SIGSTOP) without waiting.
    pub fn send_freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Waits until each of its threads stands still.
    ///
    /// # Panics
    /// If it does not, which no process can refuse.
    pub fn wait_frozen(&mut self) {
        let Some(pid) = self.pid() else { return };
        wait_for(FREEZE_TIMEOUT, "a stopped process", || proc::stands_still(pid).then_some(()))
            .unwrap_or_else(|error| panic!("process {pid}: {error}"));
    }

    /// Continues it (SIGCONT).
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// All that it wrote so far, since the first start.
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until it has written this. Its lines come by a thread of their own: what else it does says nothing about
    /// how far they are.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_said(&self, text: &str, timeout: Duration) -> Result<(), WaitTimeout> {
        wait_for(timeout, &format!("{text:?} in {}", self.log.display()), || {
            self.log_text().contains(text).then_some(())
        })
    }

    /// The end of what it wrote.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let start = text.len().saturating_sub(LOG_TAIL_MAX_BYTES);
        text[text.ceil_char_boundary(start)..].to_owned()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its resident memory in bytes, while it runs.
    pub fn resident_bytes(&self) -> Option<u64> {
        proc::resident_bytes(self.pid()?)
    }

    /// How many descriptors it holds, while it runs.
    pub fn descriptors(&self) -> Option<usize> {
        proc::descriptors(self.pid()?)
    }

    fn signal(&mut self, signal: Signal) {
        // Not waited for, so the number is still this child's, dead or alive.
        if let Some(child) = &self.child {
            // A child that has just died is no error: it is what a kill wants, and the others find out by waiting.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.ended = child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Truncates the log, so that what follows belongs to the next start.
///
/// # Errors
/// If the file cannot be written.
pub fn clear_log(process: &Process) -> io::Result<()> {
    File::create(process.log_path()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Process {
        Process::new(PathBuf::from("/bin/sh"), vec!["-c".into(), script.into()], directory.join("log"))
    }

    #[test]
    fn start_short_script_keeps_log_and_exit_code() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(directory.path(), "echo out; echo err >&2; exit 7");
        process.start().unwrap();
        let status = process.wait_end(Duration::from_secs(60)).unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(process.log_text(), "out\nerr\n");
    }

    #[test]
    fn freeze_busy_process_stands_still_until_thawed() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(directory.path(), "while :; do echo x; done");
        process.start().unwrap();
        wait_for(Duration::from_secs(60), "output", || (!process.log_text().is_empty()).then_some(())).unwrap();
        process.freeze();
        let frozen = fs::metadata(process.log_path()).unwrap().len();
        assert!(proc::stands_still(process.pid().unwrap()));
        process.thaw();
        let grows = || fs::metadata(process.log_path()).unwrap().len() > frozen;
        wait_for(Duration::from_secs(60), "more output", || grows().then_some(())).unwrap();
        process.kill();
        assert!(!process.is_running());
    }

    #[test]
    fn drop_running_process_leaves_none_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(directory.path(), "exec sleep 600");
        process.start().unwrap();
        let pid = process.pid().unwrap();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
