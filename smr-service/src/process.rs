//! How a server or manager process starts and ends.
//!
//! It starts quickly or says in one line why not; it ends in order at the first SIGTERM or SIGINT, and at once at the
//! second. SIGHUP is ignored. All that it says goes through [`crate::log_sink`]: it never waits for whoever reads its
//! stderr.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal as Number, getpid, getrlimit, kill_process, setrlimit};
use smr::panics::guarded;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::args::{self, BadArgument, Parsed};
use crate::fatal::exit_on_panic;
use crate::log_sink::{self, LineWriter};

/// Exit code for a command line that cannot work.
const EXIT_USAGE: u8 = 2;
/// Exit code for everything else that keeps a process from running.
const EXIT_FAILED: u8 = 1;
/// Worker threads for the network; replicas and disks have threads of their own.
const NETWORK_THREADS_MAX: usize = 4;
/// Threads for work that blocks, which exist from the start and stay: later the operating system may refuse another
/// one, and such work would wait for it without an end.
const BLOCKING_THREADS: usize = 4;
/// How long they may take to start.
const THREADS_START: Duration = Duration::from_secs(5);
/// How long an idle thread for work that blocks stays.
const BLOCKING_THREAD_STAYS: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long to wait before stdin is tried again where a read does not wait.
const STDIN_LOOK: Duration = Duration::from_millis(200);

/// Why a process cannot run, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The command line cannot work.
    #[error(transparent)]
    Usage(#[from] BadArgument),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What `main` does: parses the command line, runs, and turns the outcome into an exit code.
pub fn start<O: clap::Parser>(program: &'static str, run: impl FnOnce(O) -> Result<(), Fatal>) -> ExitCode {
    start_on(program, std::env::args_os().collect(), run)
}

/// The same, for a program that does something else if its first argument is this word.
pub fn start_or<W: clap::Parser, O: clap::Parser>(
    program: &'static str,
    (word, run_word): (&str, impl FnOnce(W) -> Result<(), Fatal>),
    run: impl FnOnce(O) -> Result<(), Fatal>,
) -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == word) {
        arguments.remove(1);
        return start_on(program, arguments, run_word);
    }
    start_on(program, arguments, run)
}

fn start_on<O: clap::Parser>(
    program: &'static str,
    arguments: Vec<OsString>,
    run: impl FnOnce(O) -> Result<(), Fatal>,
) -> ExitCode {
    exit_on_panic();
    let outcome = match args::parse::<O>(arguments) {
        Ok(Parsed::Print(text)) => {
            // No one may be listening any more; then nothing is lost.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Options(options)) => prepare(program).and_then(|()| run(options)),
        Err(error) => Err(Fatal::Usage(error)),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            say(program, &fatal.to_string());
            ExitCode::from(if matches!(fatal, Fatal::Usage(_)) { EXIT_USAGE } else { EXIT_FAILED })
        }
    };
    log_sink::flush();
    code
}

/// What a process does before anything else, so that whatever happens to it then is told.
fn prepare(program: &str) -> Result<(), Fatal> {
    outlive_signals(&[Number::XFSZ, Number::HUP, Number::USR1, Number::USR2])?;
    log_sink::start().map_err(no_threads)?;
    log_to_stderr(program);
    Ok(())
}

fn no_threads(error: impl std::fmt::Display) -> Fatal {
    Fatal::Failed(format!("cannot start threads: {error}"))
}

/// From now on these signals do nothing to this process.
/// - SIGXFSZ comes with a write beyond the limit of a file's size, and would end it without a word; now the write
///   fails.
/// - SIGHUP comes when a terminal closes or logs are rotated, often to all replicas at once. Nothing is read again by
///   it.
/// - SIGUSR1 and SIGUSR2 mean something to other programs, and come here by mistake.
///
/// # Errors
/// If the operating system refuses.
pub fn outlive_signals(signals: &[Number]) -> Result<(), Fatal> {
    let refused = |error: std::io::Error| Fatal::Failed(format!("cannot listen for signals: {error}"));
    // A handler stays for the life of the process, without the runtime that it was made in. Programs that this one
    // starts have the default again.
    let runtime = Builder::new_current_thread().enable_io().build().map_err(refused)?;
    let _inside = runtime.enter();
    for number in signals {
        drop(signal(SignalKind::from_raw(number.as_raw())).map_err(refused)?);
    }
    Ok(())
}

/// Says something to the operator: one line on stderr.
pub fn say(program: &str, line: &str) {
    let line = line.replace('\n', " ");
    log_sink::line(format!("{program}: {line}"));
}

/// Structured logs to stderr, warnings and worse unless `RUST_LOG` says otherwise: `debug`, or a level for some
/// modules, as `warn,smr::replica=debug`.
fn log_to_stderr(program: &str) {
    let warnings = Targets::new().with_default(LevelFilter::WARN);
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => text.parse().unwrap_or_else(|error| {
            say(program, &format!("RUST_LOG={text}: {error}; warnings are logged"));
            warnings
        }),
        Err(_) => warnings,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(LineWriter::default).with_filter(filter);
    // A test may have set one already.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Binds a listener.
///
/// # Errors
/// One line that names the address, for example if the port is in use.
pub fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Fatal> {
    TcpListener::bind(address).map_err(|error| Fatal::Failed(format!("{flag}: cannot listen on {address}: {error}")))
}

/// Checks that `directory` is one, or can still become one.
///
/// # Errors
/// One line that names it.
pub fn check_directory(directory: &Path) -> Result<(), Fatal> {
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Fatal::Failed(format!("--backer_path: {} is not a directory", directory.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Fatal::Failed(format!("--backer_path: {}: {error}", directory.display()))),
    }
}

/// The runtime on which the network tasks run, in a process with as many file descriptors as it can have.
///
/// # Errors
/// If threads cannot be made.
pub fn runtime() -> Result<Runtime, Fatal> {
    raise_descriptor_limit();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let build = || {
        Builder::new_multi_thread()
            .worker_threads(cores.min(NETWORK_THREADS_MAX))
            .thread_name("net")
            .thread_keep_alive(BLOCKING_THREAD_STAYS)
            .enable_all()
            .build()
    };
    // It panics if there is no thread to be had.
    let runtime = guarded(build).map_err(no_threads)?.map_err(no_threads)?;
    start_blocking_threads(&runtime)?;
    Ok(runtime)
}

/// Makes the runtime start its threads for work that blocks: each job waits until all of them have one.
fn start_blocking_threads(runtime: &Runtime) -> Result<(), Fatal> {
    let (here, all_here) = mpsc::channel();
    let mut held = Vec::new();
    for _ in 0..BLOCKING_THREADS {
        let (release, released) = mpsc::channel::<()>();
        let here = here.clone();
        runtime.spawn_blocking(move || {
            // Ends when the other side has gone, too.
            let _ = here.send(());
            let _ = released.recv();
        });
        held.push(release);
    }
    for _ in 0..BLOCKING_THREADS {
        all_here.recv_timeout(THREADS_START).map_err(no_threads)?;
    }
    Ok(())
}

/// The usual soft limit of 1024 is less than the connections that we guarantee.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was; the listener fits its connections to what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many file descriptors the process may have.
pub fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// A random duration around `base`: from a half of it to one and a half, so that those who wait for the same thing do
/// not come back together.
pub fn jittered(base: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    base / 2 + base.mul_f64(random as f64 / u64::MAX as f64)
}

fn terminate_at_end_of_stdin() {
    read_to_end_of(std::io::stdin().lock(), || std::thread::sleep(STDIN_LOOK));
    terminate();
}

/// Asks this process to end in order.
pub fn terminate() {
    // No one may not signal himself.
    let _ = kill_process(getpid(), Number::TERM);
}

/// Reads until there is nothing more to come. Whoever shares the descriptor may have made it non-blocking: that there
/// is nothing yet is no end; then it is tried again after `pause`. Any other error is one: no one can be heard there
/// any more.
fn read_to_end_of(mut input: impl Read, mut pause: impl FnMut()) {
    let mut buffer = [0; 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Err(error) => {
                tracing::warn!("stdin ends with an error: {error}");
                return;
            }
        }
    }
}

/// The signals that end a process in order.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen for them. Called inside a runtime. With `end_with_stdin` the end of stdin is one, too: it comes
    /// when whoever holds the other end is gone, also if that one was killed and could end no one.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen(end_with_stdin: bool) -> Result<Signals, Fatal> {
        let refused = |error: std::io::Error| Fatal::Failed(format!("cannot listen for signals: {error}"));
        let one = |kind| signal(kind).map_err(refused);
        let signals = Signals { terminate: one(SignalKind::terminate())?, interrupt: one(SignalKind::interrupt())? };
        if end_with_stdin {
            // A thread of its own, which no one waits for: a read cannot be called off.
            std::thread::Builder::new().name("stdin".to_owned()).spawn(terminate_at_end_of_stdin).map_err(refused)?;
        }
        Ok(signals)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jittered_any_draw_stays_around_base() {
        let base = Duration::from_millis(100);
        let draws: Vec<Duration> = (0..100).map(|_| jittered(base)).collect();
        assert!(draws.iter().all(|&draw| draw >= base / 2 && draw <= base * 3 / 2), "{draws:?}");
        assert!(draws.iter().any(|&draw| draw != draws[0]), "a constant is no jitter");
    }

    /// Gives what was ordered, one after the other; fails if it is asked for more.
    struct Ordered(std::collections::VecDeque<std::io::Result<usize>>);

    impl Read for Ordered {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            self.0.pop_front().expect("read on after the end")
        }
    }

    #[test]
    fn read_to_end_of_goes_on_after_interruptions_and_while_nothing_has_come() {
        let fails = |kind: ErrorKind| Err(std::io::Error::from(kind));
        let some: [std::io::Result<usize>; 4] =
            [fails(ErrorKind::Interrupted), fails(ErrorKind::WouldBlock), Ok(5), fails(ErrorKind::WouldBlock)];
        for end in [Ok(0), fails(ErrorKind::ConnectionReset)] {
            let again = some.iter().map(|one| one.as_ref().map_or_else(|error| fails(error.kind()), |len| Ok(*len)));
            let mut input = Ordered(again.chain([end]).collect());
            let mut pauses = 0;
            read_to_end_of(&mut input, || pauses += 1);
            assert!(input.0.is_empty(), "it ended early: {:?} were left", input.0);
            assert_eq!(pauses, 2, "only where a read does not wait");
        }
    }

    // covers B9
    #[test]
    fn bind_port_in_use_names_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("--x", address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
