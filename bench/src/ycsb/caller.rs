//! One client of a run: a real program over the line protocol, or the library in this process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use madkv_client::{Client, Options};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use madkv_testkit::caller::{Heard, Program, perform};
use madkv_testkit::history::{Action, Answer};
use madkv_testkit::line_client::{ClientProcess, LineClient};
use madkv_testkit::measure::Trouble;

/// How long a request may take before its client counts as hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What kind of clients.
#[derive(Clone, Debug)]
pub(super) enum How {
    /// Our program, a process for each client.
    Program(PathBuf),
    /// Any command that speaks the line protocol.
    Command(String),
    /// The library, each client on a thread of this process.
    Library,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Program(program) => {
                let name = program.file_name().unwrap_or_default().to_string_lossy();
                write!(f, "processes of {name} over the line protocol")
            }
            How::Command(command) => write!(f, "processes of `{command}` over the line protocol"),
            How::Library => write!(f, "library, a thread of the benchmarker each"),
        }
    }
}

/// A client. Blocking.
pub(super) enum Caller {
    Program(Box<Program>),
    Library(Box<Library>),
}

/// The library, with a runtime of its own, so that no request changes threads.
pub(super) struct Library {
    client: Client,
    runtime: Runtime,
    stop: Arc<Notify>,
}

/// Ends a client from another thread: it waits for no answer any more, and gets none.
pub(super) enum Stopper {
    Program(ClientProcess),
    Library(Arc<Notify>),
}

impl Stopper {
    pub(super) fn stop(&self) {
        match self {
            Stopper::Program(process) => process.end(),
            // Kept for the next call if there is none now.
            Stopper::Library(stop) => stop.notify_one(),
        }
    }
}

impl Caller {
    pub(super) fn new(how: &How, managers: &[String]) -> Result<Caller, Trouble> {
        match how {
            How::Program(program) => {
                let arguments = ["--manager_addrs".to_owned(), managers.join(",")];
                Ok(Caller::started(LineClient::start(program, &arguments)?))
            }
            How::Command(command) => {
                let arguments = ["-c".to_owned(), format!("exec {command}")];
                Ok(Caller::started(LineClient::start(Path::new("/bin/sh"), &arguments)?))
            }
            How::Library => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let inside = runtime.enter();
                let client = Client::connect(Options { managers: managers.to_vec(), ..Options::default() });
                drop(inside);
                Ok(Caller::Library(Box::new(Library { client, runtime, stop: Arc::default() })))
            }
        }
    }

    fn started(client: LineClient) -> Caller {
        Caller::Program(Box::new(Program::new(client, TIMEOUT)))
    }

    pub(super) fn stopper(&self) -> Stopper {
        match self {
            Caller::Program(program) => Stopper::Program(program.process()),
            Caller::Library(library) => Stopper::Library(Arc::clone(&library.stop)),
        }
    }

    /// Sends a request and waits for the answer.
    pub(super) fn call(&mut self, action: &Action) -> Result<Answer, Trouble> {
        match self {
            Caller::Program(program) => match program.call(action) {
                Heard::Answer(answer) => Ok(answer),
                Heard::NotDone(why) | Heard::Unknown(why) | Heard::Broken(why) => Err(why.into()),
            },
            Caller::Library(library) => {
                let Library { client, runtime, stop } = &**library;
                runtime.block_on(async {
                    tokio::select! {
                        answer = timeout(TIMEOUT, perform(client, action)) => {
                            let verb = action.verb();
                            Ok(answer.map_err(|_| format!("hangs: no answer to a {verb} within {TIMEOUT:?}"))??)
                        }
                        () = stop.notified() => Err("stopped".into()),
                    }
                })
            }
        }
    }
}
