//! Processes of replicas: seen, ended and launched.
//!
//! A process is named by its number and the moment of its start, and held by a descriptor of the kernel (pidfd) that
//! was opened while both fitted. Signals go through that, so they never reach another process that has the number by
//! now.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use madkv_proto::agent::{LaunchCommand, ProcessId};
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use smr::internals::disk::{Disk, DiskLock, RealDisk};
use smr_service::proc_stat;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The flag that ties a replica to the stdin of whoever started it.
const END_WITH_STDIN: &[u8] = b"end_with_stdin";
/// The flag by which an operator lets a group begin again. It was meant once, and not for each launch.
const FOUND_ANEW: &[u8] = b"found_anew";
/// How many names are tried for a directory that is set aside.
const ASIDE_NAMES_MAX: u32 = 1_000;
/// The file in a replica's directory that is locked by whoever uses that, beside the directory itself.
const LOCK_FILE: &str = "lock";
/// How often the lock of a directory is tried: a process that has just ended may hold it for a moment.
const LOCK_TRIES: u32 = 50;
/// The pause between two tries, in milliseconds.
const LOCK_PAUSE_MS: u64 = 10;

/// The exit code of a server that a bug or its disk has ended.
const EXIT_FATAL: i32 = smr_service::fatal::EXIT_FATAL;
/// With less room a disk counts as full, in bytes; on a small one it is [`ROOM_SHARE`] of it.
const ROOM_MIN_BYTES: u64 = 64 << 20;
/// The same as a share of the whole disk: one in this many bytes.
const ROOM_SHARE: u64 = 8;

/// How a process ended, as far as that can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// In words.
    pub(super) how: String,
    /// It exited with 0.
    pub(super) in_order: bool,
    /// It crashed: by a signal of its own making, or as it does when it cannot go on.
    pub(super) is_crash: bool,
}

impl Ended {
    /// No one knows more than `how`.
    pub(super) fn somehow(how: &str) -> Ended {
        Ended { how: how.to_owned(), ..Ended::default() }
    }

    fn by(status: ExitStatus) -> Ended {
        let crashes = [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::ABORT, Signal::FPE, Signal::SYS];
        let by_itself = status.signal().is_some_and(|signal| crashes.iter().any(|crash| crash.as_raw() == signal));
        let is_crash = by_itself || status.code() == Some(EXIT_FATAL);
        Ended { how: how(status), in_order: status.success(), is_crash }
    }
}

/// Whether a directory's disk has room, so that no lack of it explains how its replica ended.
pub(super) fn has_room(directory: &Path) -> bool {
    // It may not be there any more; then the one above says it.
    let room = RealDisk.room(directory).or_else(|error| directory.parent().map_or(Err(error), |up| RealDisk.room(up)));
    room.is_ok_and(|room| room.free >= (room.total / ROOM_SHARE).min(ROOM_MIN_BYTES))
}

/// Whether this very process runs.
pub(super) fn is_alive(process: ProcessId) -> bool {
    proc_stat::of(process.pid).is_ok_and(|stat| stat.started_ticks == process.started_ticks && !stat.has_ended)
}

/// Whether this very process runs, and the executable that it is.
pub(super) fn is_alive_as(process: ProcessId, executable: &[u8]) -> bool {
    let program = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
    // The link ends like this if a build has replaced the file.
    let program = program.as_os_str().as_bytes();
    program.strip_suffix(b" (deleted)").unwrap_or(program) == executable && is_alive(process)
}

/// A process that cannot be mistaken for another one.
struct Handle {
    pidfd: OwnedFd,
}

impl Handle {
    /// `None` if it has ended already.
    fn of(process: ProcessId) -> io::Result<Option<Handle>> {
        let number = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let Some(number) = number else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now: what has the number from here on is what the descriptor holds.
        Ok(is_alive(process).then_some(Handle { pidfd }))
    }

    /// Waits until the process has ended.
    async fn gone(pidfd: OwnedFd) -> io::Result<()> {
        // Deprecated for types that may close their descriptor early; this one closes it when it is dropped.
        #[expect(deprecated, reason = "its successor is unsafe to call")]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        pidfd.readable().await.map(drop)
    }
}

/// The processes that an agent watches.
#[derive(Clone, Default)]
pub(super) struct Processes {
    inner: Arc<Mutex<Inner>>,
    /// Replicas that are launched here get this process's stdin.
    shares_stdin: bool,
}

#[derive(Default)]
struct Inner {
    handles: BTreeMap<ProcessId, Handle>,
    /// Those that were launched here.
    children: BTreeMap<ProcessId, Child>,
}

impl Processes {
    /// None yet.
    pub(super) fn new(shares_stdin: bool) -> Processes {
        Processes { inner: Arc::default(), shares_stdin }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Waits until a process is gone. Returns how it ended.
    pub(super) async fn gone(&self, process: ProcessId) -> Ended {
        match self.hold(process) {
            Ok(Some(pidfd)) => {
                if let Err(error) = Handle::gone(pidfd).await {
                    tracing::warn!("{process} cannot be watched: {error}");
                    poll_until_gone(process).await;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("{process} cannot be watched: {error}");
                poll_until_gone(process).await;
            }
        }
        let child = {
            let mut inner = self.inner();
            inner.handles.remove(&process);
            inner.children.remove(&process)
        };
        // Of a process that someone else has started, only that one hears how it ended.
        let Some(mut child) = child else { return Ended::somehow("its process is gone") };
        match child.wait() {
            Ok(status) => Ended::by(status),
            Err(error) => Ended::somehow(&format!("its process is gone, and no one knows how it ended: {error}")),
        }
    }

    /// Keeps a handle of a process; the result is for waiting.
    fn hold(&self, process: ProcessId) -> io::Result<Option<OwnedFd>> {
        let Some(handle) = Handle::of(process)? else { return Ok(None) };
        let pidfd = handle.pidfd.try_clone()?;
        self.inner().handles.insert(process, handle);
        Ok(Some(pidfd))
    }

    /// Sends a signal to a process, if it still runs.
    pub(super) fn signal(&self, process: ProcessId, signal: Signal) {
        // Whoever kills it may not have come to watch it yet.
        let fresh = if self.inner().handles.contains_key(&process) { Ok(None) } else { Handle::of(process) };
        let sent = match fresh {
            Ok(Some(handle)) => pidfd_send_signal(handle.pidfd.as_fd(), signal),
            Ok(None) => match self.inner().handles.get(&process) {
                Some(handle) => pidfd_send_signal(handle.pidfd.as_fd(), signal),
                None => Ok(()),
            },
            Err(error) => {
                tracing::warn!("{process} cannot be signalled: {error}");
                return;
            }
        };
        match sent {
            // It has just ended, which is what was wanted.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!("{process} cannot be signalled: {error}"),
        }
    }

    /// Launches a replica; with `fresh` its directory is set aside before. Blocks.
    ///
    /// # Errors
    /// Why it is not launched.
    pub(super) fn launch(&self, command: &LaunchCommand, fresh: bool) -> Result<(ProcessId, Option<PathBuf>), String> {
        let directory = Path::new(OsStr::from_bytes(&command.directory));
        let aside = if fresh {
            set_aside(directory).map_err(|error| format!("cannot set {} aside: {error}", directory.display()))?
        } else {
            None
        };
        let executable = Path::new(OsStr::from_bytes(&command.executable));
        let child = self.spawn(command).map_err(|error| format!("cannot start {}: {error}", executable.display()))?;
        let pid = child.id();
        // It was not waited for, so its number is its own, dead or alive.
        let started_ticks = proc_stat::of(pid).map_err(|error| error.to_string())?.started_ticks;
        let process = ProcessId { pid, started_ticks };
        self.inner().children.insert(process, child);
        Ok((process, aside))
    }

    fn spawn(&self, command: &LaunchCommand) -> io::Result<Child> {
        let arguments = command.arguments.iter().filter(|argument| self.is_for_relaunch(argument));
        let mut launched = Command::new(OsStr::from_bytes(&command.executable));
        launched
            .args(arguments.map(|argument| OsStr::from_bytes(argument)))
            .current_dir(OsStr::from_bytes(&command.working_directory))
            .stdin(if self.shares_stdin { Stdio::inherit() } else { Stdio::null() })
            // A Ctrl-C on the agent's terminal is for the agent.
            .process_group(0);
        let stderr = command
            .stderr
            .as_ref()
            .and_then(|path| OpenOptions::new().create(true).append(true).open(OsStr::from_bytes(path)).ok());
        match stderr {
            Some(file) => launched.stdout(file.try_clone()?).stderr(file),
            // A pipe's other end is gone or not for us: it is told where this agent's own words go.
            None => launched.stdout(Stdio::null()).stderr(Stdio::inherit()),
        };
        launched.spawn()
    }

    /// Whether an argument of a replica's first start is one of its next, too.
    fn is_for_relaunch(&self, argument: &[u8]) -> bool {
        let Some(flag) = argument.strip_prefix(b"--") else { return true };
        let is = |name: &[u8]| {
            flag.len() == name.len()
                && flag.iter().zip(name).all(|(one, other)| one == other || (*one, *other) == (b'-', b'_'))
        };
        !is(FOUND_ANEW) && (self.shares_stdin || !is(END_WITH_STDIN))
    }
}

/// Where the kernel gives no descriptor of a process.
async fn poll_until_gone(process: ProcessId) {
    while is_alive(process) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => status.to_string(),
    }
}

/// Locks a replica's directory as the replica itself does, so that none uses it while the result lives.
fn lock(directory: &Path) -> io::Result<Vec<DiskLock>> {
    let file = directory.join(LOCK_FILE);
    let mut locks = Vec::new();
    if RealDisk.exists(&file)? {
        locks.push(lock_patiently(|| RealDisk.lock(&file))?);
    }
    match lock_patiently(|| RealDisk.lock_dir(directory)) {
        Ok(lock) => locks.push(lock),
        // Some file systems lock no directory, and a replica there goes by the file alone.
        Err(error) if error.kind() != ErrorKind::WouldBlock && !locks.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok(locks)
}

fn lock_patiently(attempt: impl Fn() -> io::Result<DiskLock>) -> io::Result<DiskLock> {
    for _ in 0..LOCK_TRIES {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(LOCK_PAUSE_MS));
            }
            other => return other,
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "another process uses it"))
}

/// Gives a directory that no one uses another name, beside it. Returns that; `None` if there is no such directory.
fn set_aside(directory: &Path) -> io::Result<Option<PathBuf>> {
    if let Err(error) = fs::symlink_metadata(directory) {
        return if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    // Until it has its new name: a replica that runs would go on in there, while another one begins under the old name.
    let _locks = lock(directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for number in 0..ASIDE_NAMES_MAX {
        let mut name = directory.as_os_str().to_owned();
        name.push(if number == 0 { format!(".aside-{now}") } else { format!(".aside-{now}-{number}") });
        let aside = PathBuf::from(name);
        // A rename would replace an empty directory of that name.
        if fs::symlink_metadata(&aside).is_ok() {
            continue;
        }
        fs::rename(directory, &aside)?;
        if let Some(parent) = aside.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        return Ok(Some(aside));
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "no name is free for it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this() -> ProcessId {
        let pid = std::process::id();
        ProcessId { pid, started_ticks: proc_stat::of(pid).unwrap().started_ticks }
    }

    fn sleeper() -> (Child, ProcessId) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id();
        (child, ProcessId { pid, started_ticks: proc_stat::of(pid).unwrap().started_ticks })
    }

    fn command(script: &str, directory: &Path) -> LaunchCommand {
        LaunchCommand {
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.to_owned().into()],
            working_directory: "/".into(),
            directory: directory.as_os_str().as_bytes().to_vec().into(),
            stderr: None,
        }
    }

    // covers B44
    #[tokio::test]
    async fn process_with_the_number_of_another_one_is_neither_seen_nor_signalled() {
        let (mut child, process) = sleeper();
        // The number was given again: the one that is meant had started at another moment.
        let earlier = ProcessId { started_ticks: process.started_ticks - 1, ..process };
        let processes = Processes::new(false);
        assert!(is_alive(process) && !is_alive(earlier));
        processes.signal(earlier, Signal::KILL);
        assert_eq!(processes.gone(earlier).await.how, "its process is gone", "at once, for it is");
        assert!(child.try_wait().unwrap().is_none(), "the one that has the number now was killed");
        processes.signal(process, Signal::KILL);
        processes.gone(process).await;
        assert!(child.wait().unwrap().signal() == Some(9));
    }

    #[test]
    fn process_is_alive_as_its_own_program_only() {
        let own = std::env::current_exe().unwrap();
        assert!(is_alive_as(this(), own.as_os_str().as_bytes()));
        assert!(!is_alive_as(this(), b"/bin/sh"));
    }

    #[tokio::test]
    async fn launched_process_tells_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let processes = Processes::new(false);
        for (script, ends) in [
            ("exit 3", ("it exited with 3", false, false)),
            ("exit 0", ("it exited with 0", true, false)),
            ("exit 70", ("it exited with 70", false, true)),
            ("kill -9 $$", ("signal 9 ended it", false, false)),
            ("kill -11 $$", ("signal 11 ended it", false, true)),
        ] {
            let (process, aside) = processes.launch(&command(script, directory.path()), false).unwrap();
            assert_eq!(aside, None);
            let Ended { how, in_order, is_crash } = processes.gone(process).await;
            assert_eq!((how.as_str(), in_order, is_crash), ends);
        }
        let missing = LaunchCommand { executable: "/nowhere/x".into(), ..command("", directory.path()) };
        assert!(processes.launch(&missing, false).unwrap_err().contains("/nowhere/x"));
    }

    #[tokio::test]
    async fn directory_is_set_aside_each_time_and_never_removed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("backer");
        let processes = Processes::new(false);
        let mut kept = Vec::new();
        for content in ["one", "two", "three"] {
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("data"), content).unwrap();
            let (process, aside) = processes.launch(&command("exit 0", &directory), true).unwrap();
            processes.gone(process).await;
            assert!(!directory.exists());
            kept.push((aside.unwrap(), content));
        }
        assert!(kept.iter().all(|(aside, content)| fs::read_to_string(aside.join("data")).unwrap() == *content));
        let (process, aside) = processes.launch(&command("exit 0", &directory), true).unwrap();
        processes.gone(process).await;
        assert_eq!(aside, None, "there was none");
    }

    #[test]
    fn directory_that_a_replica_uses_is_not_set_aside() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("backer");
        fs::create_dir(&directory).unwrap();
        let processes = Processes::new(false);
        let file = directory.join(LOCK_FILE);
        // As the replica takes it, and as one does where directories cannot be locked.
        let takes: [&dyn Fn() -> DiskLock; 2] =
            [&|| RealDisk.lock_dir(&directory).unwrap(), &|| RealDisk.lock(&file).unwrap()];
        for take in takes {
            let _held = take();
            let why = processes.launch(&command("exit 0", &directory), true).unwrap_err();
            assert!(why.contains("another process uses it"), "{why}");
            assert!(directory.exists());
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        let aside = set_aside(&directory).unwrap().unwrap();
        assert!(aside.exists() && !directory.exists(), "no one uses it any more");
    }

    #[test]
    fn flags_of_the_first_start_alone_are_left_out_of_the_next() {
        let tied = Processes::new(true);
        let free = Processes::new(false);
        for flag in [&b"--found_anew"[..], b"--found-anew"] {
            assert!(!tied.is_for_relaunch(flag) && !free.is_for_relaunch(flag));
        }
        for flag in [&b"--end_with_stdin"[..], b"--end-with-stdin"] {
            assert!(tied.is_for_relaunch(flag) && !free.is_for_relaunch(flag));
        }
        for word in [&b"--found_anew_x"[..], b"found_anew", b"--", b"--replica_id", b"7"] {
            assert!(tied.is_for_relaunch(word) && free.is_for_relaunch(word));
        }
    }
}
