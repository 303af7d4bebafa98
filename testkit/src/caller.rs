//! One client of a run: the real program behind pipes, or the library in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use madkv_client::cli::RETRYING;
use madkv_client::{Client, Error, Options, Trace};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::history::{Action, Answer};
use crate::line_client::{ClientProcess, LineClient, NoAnswer};

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was answered.
    Answer(Answer),
    /// It certainly has no effect, now or later; the client says why.
    NotDone(String),
    /// A write that may have happened, or may yet; the client says why.
    Unknown(String),
    /// The client did what no client should: hung, ended by itself, or said what is no answer. It is of no more use.
    Broken(String),
}

/// How to make clients.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The program; `None`: the library.
    pub program: Option<PathBuf>,
    /// `host:port` of each manager replica.
    pub managers: Vec<String>,
    /// How long a client tries before it gives up on a request; `None`: for ever.
    pub timeout: Option<Duration>,
    /// How long a request may take before its client counts as hung.
    pub hang_timeout: Duration,
    /// Where the library's calls run.
    pub runtime: Handle,
}

/// A client. Blocking.
pub enum Caller {
    /// The command-line client, driven through its pipes.
    Program(Box<Program>),
    /// The client library, in this process.
    Library(Library),
}

impl Maker {
    /// Makes client number `number`.
    ///
    /// # Errors
    /// If its process cannot be created.
    pub fn make(&self, number: u32) -> std::io::Result<Caller> {
        let Some(program) = &self.program else {
            let retries = Arc::new(Retries::default());
            let trace: Arc<dyn Trace> = retries.clone();
            let inside = self.runtime.enter();
            let client = Client::connect(Options {
                managers: self.managers.clone(),
                timeout: self.timeout,
                trace: Some(trace),
                ..Options::default()
            });
            drop(inside);
            let (runtime, hang_timeout) = (self.runtime.clone(), self.hang_timeout);
            return Ok(Caller::Library(Library { client, retries, runtime, hang_timeout }));
        };
        let mut arguments = vec!["--manager_addrs".to_owned(), self.managers.join(","), "--trace_retries".to_owned()];
        arguments.push(format!("--client_id={number}"));
        arguments.extend(self.timeout.map(|timeout| format!("--timeout_ms={}", timeout.as_millis())));
        let client = LineClient::start(program, &arguments)?;
        Ok(Caller::Program(Box::new(Program::new(client, self.hang_timeout))))
    }
}

impl Caller {
    /// Sends a request and waits until it is over.
    pub fn call(&mut self, action: &Action) -> Heard {
        match self {
            Caller::Program(program) => program.call(action),
            Caller::Library(library) => library.call(action, library.hang_timeout),
        }
    }

    /// Sends a request and abandons it after `after`: the program is killed (and this client of no more use), the
    /// library's call is dropped.
    pub fn abandon(&mut self, action: &Action, after: Duration) {
        match self {
            Caller::Program(program) => {
                // A pipe that is broken already does not matter.
                let _ = program.client.send(&line(action));
                thread::sleep(after);
            }
            // Whatever it heard is forgotten.
            Caller::Library(library) => drop(library.call(action, after)),
        }
    }

    /// How often a request had to be tried again so far.
    pub fn retries(&mut self) -> u64 {
        match self {
            Caller::Program(program) => {
                program.listen();
                program.retries
            }
            Caller::Library(library) => library.retries.0.load(Ordering::Relaxed),
        }
    }
}

/// The program behind pipes.
pub struct Program {
    client: LineClient,
    hang_timeout: Duration,
    retries: u64,
    /// The last lines that it wrote to stderr, other than about retries.
    said: Vec<String>,
}

/// Lines of stderr that are kept for the report of a failure.
const SAID_MAX: usize = 5;
/// As much of a request is shown in it.
const ASKED_MAX_CHARS: usize = 80;

impl Program {
    /// A request may take as long as `hang_timeout` before the client counts as hung.
    pub fn new(client: LineClient, hang_timeout: Duration) -> Program {
        Program { client, hang_timeout, retries: 0, said: Vec::new() }
    }

    /// Its process, for someone who has to end it while another thread waits for its answer.
    pub fn process(&self) -> ClientProcess {
        self.client.process().clone()
    }

    fn listen(&mut self) {
        for line in self.client.complaints() {
            if line.contains(RETRYING) {
                self.retries += 1;
            } else {
                self.said.push(line);
            }
        }
        let surplus = self.said.len().saturating_sub(SAID_MAX);
        self.said.drain(..surplus);
    }

    /// Sends a request and waits until it is over.
    pub fn call(&mut self, action: &Action) -> Heard {
        let request = line(action);
        let heard = self.client.send(&request).and_then(|()| self.answer(action));
        self.listen();
        match heard {
            Ok(heard) => heard,
            Err(error) => {
                // Values may be long.
                let asked: String = request.chars().take(ASKED_MAX_CHARS).collect();
                let what = match error {
                    NoAnswer::Late(hang_timeout) => {
                        format!("hangs: {asked:?} was not answered within {hang_timeout:?}")
                    }
                    NoAnswer::Ended | NoAnswer::Pipe(_) => format!("{error}, at {asked:?}"),
                };
                Heard::Broken(format!("{what}; stderr: {:?}", self.said))
            }
        }
    }

    fn answer(&mut self, action: &Action) -> Result<Heard, NoAnswer> {
        let first = self.client.line(self.hang_timeout)?;
        if let Some(reason) = first.strip_prefix("ERROR ") {
            let unknown = action.is_write() && reason.contains("may have happened");
            return Ok(if unknown { Heard::Unknown(reason.to_owned()) } else { Heard::NotDone(reason.to_owned()) });
        }
        let broken = |line: &str| Heard::Broken(format!("answered {:?} with {line:?}", self::line(action)));
        let Action::Scan { .. } = action else {
            return Ok(parse(action, &first).map_or_else(|| broken(&first), Heard::Answer));
        };
        if first != format!("{} BEGIN", line(action)) {
            return Ok(broken(&first));
        }
        let mut records: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let line = self.client.line(self.hang_timeout)?;
            if line == "SCAN END" {
                return Ok(Heard::Answer(Answer::Records(records)));
            }
            let Some((key, value)) = line.strip_prefix("  ").and_then(|record| record.split_once(' ')) else {
                return Ok(broken(&line));
            };
            records.push((Bytes::from(key.to_owned()), Bytes::from(value.to_owned())));
        }
    }
}

/// The request as the line protocol has it. The fuzzer's keys and values are words.
fn line(action: &Action) -> String {
    let text = String::from_utf8_lossy;
    let verb = action.verb();
    match action {
        Action::Put { key, value } | Action::Swap { key, value } => format!("{verb} {} {}", text(key), text(value)),
        Action::Get { key } | Action::Delete { key } => format!("{verb} {}", text(key)),
        Action::Scan { from, to } => format!("{verb} {} {}", text(from), text(to)),
    }
}

/// The answer on one line; `None` if it is none of this request.
fn parse(action: &Action, line: &str) -> Option<Answer> {
    let (Action::Put { key, .. } | Action::Swap { key, .. } | Action::Get { key } | Action::Delete { key }) = action
    else {
        return None;
    };
    let rest = line.strip_prefix(action.verb())?.strip_prefix(' ')?;
    let answer = rest.strip_prefix(std::str::from_utf8(key).ok()?)?.strip_prefix(' ')?;
    match (action, answer) {
        (Action::Put { .. } | Action::Delete { .. }, "found") => Some(Answer::Found(true)),
        (Action::Put { .. } | Action::Delete { .. }, "not_found") => Some(Answer::Found(false)),
        (Action::Swap { .. } | Action::Get { .. }, "null") => Some(Answer::Value(None)),
        (Action::Swap { .. } | Action::Get { .. }, value) if !value.is_empty() && !value.contains(' ') => {
            Some(Answer::Value(Some(Bytes::from(value.to_owned()))))
        }
        _ => None,
    }
}

/// What the library's client does for a request.
pub async fn perform(client: &Client, action: &Action) -> Result<Answer, Error> {
    match action {
        Action::Put { key, value } => client.put(key, value).await.map(Answer::Found),
        Action::Swap { key, value } => client.swap(key, value).await.map(Answer::Value),
        Action::Get { key } => client.get(key).await.map(Answer::Value),
        Action::Delete { key } => client.delete(key).await.map(Answer::Found),
        Action::Scan { from, to } => client.scan(from, to).await.map(Answer::Records),
    }
}

/// The library in this process.
pub struct Library {
    client: Client,
    retries: Arc<Retries>,
    runtime: Handle,
    hang_timeout: Duration,
}

/// Counts retries.
#[derive(Debug, Default)]
struct Retries(AtomicU64);

impl Trace for Retries {
    fn sent(&self, _server: usize, _number: u32) {}

    fn received(&self, _server: usize, _number: u32) {}

    fn duplicate(&self, _server: usize, _number: u32) {}

    fn retried(&self, _why: &'static str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Library {
    fn call(&self, action: &Action, hang_timeout: Duration) -> Heard {
        match self.runtime.block_on(async { timeout(hang_timeout, perform(&self.client, action)).await }) {
            Err(_) => Heard::Broken(format!("hangs: {:?} was not answered within {hang_timeout:?}", line(action))),
            Ok(Ok(answer)) => Heard::Answer(answer),
            Ok(Err(Error::BadAnswer { what })) => Heard::Broken(format!("got a senseless answer: {what}")),
            Ok(Err(error)) if action.is_write() && error.may_have_happened() => Heard::Unknown(error.to_string()),
            Ok(Err(error)) => Heard::NotDone(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_answers_of_the_line_protocol() {
        let key = Bytes::from_static(b"k");
        let put = Action::Put { key: key.clone(), value: "v".into() };
        let get = Action::Get { key: key.clone() };
        assert_eq!(parse(&put, "PUT k found"), Some(Answer::Found(true)));
        assert_eq!(parse(&put, "PUT k not_found"), Some(Answer::Found(false)));
        assert_eq!(parse(&get, "GET k null"), Some(Answer::Value(None)));
        assert_eq!(parse(&get, "GET k v7"), Some(Answer::Value(Some("v7".into()))));
        for wrong in ["PUT k", "PUT k maybe", "PUT kk found", "GET k found", "STOP", "", "PUT  k found"] {
            assert_eq!(parse(&put, wrong), None, "{wrong:?}");
        }
        assert_eq!(parse(&get, "GET k v w"), None);
    }

    fn caller(script: &str) -> Program {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let client = LineClient::start(std::path::Path::new("/bin/sh"), &arguments).unwrap();
        Program::new(client, Duration::from_secs(60))
    }

    #[test]
    fn call_program_that_answers_is_understood() {
        let get = Action::Get { key: "k".into() };
        let scan = Action::Scan { from: "a".into(), to: "z".into() };
        let swap = Action::Swap { key: "k".into(), value: "v".into() };
        let script = "read l; echo '[t] Retrying C1: silent' >&2; echo 'GET k v'; read l; echo 'SCAN a z BEGIN'; \
                      echo '  k v'; echo 'SCAN END'; read l; \
                      echo 'ERROR timeout after 5 ms: the write may have happened'; \
                      read l; echo 'ERROR timeout after 5 ms: nothing was changed'; read l; echo 'WHAT'; read l";
        let mut program = caller(script);
        assert_eq!(program.call(&get), Heard::Answer(Answer::Value(Some("v".into()))));
        assert_eq!(program.call(&scan), Heard::Answer(Answer::Records(vec![("k".into(), "v".into())])));
        assert!(matches!(program.call(&swap), Heard::Unknown(_)));
        assert!(matches!(program.call(&swap), Heard::NotDone(_)));
        assert!(matches!(program.call(&swap), Heard::Broken(what) if what.contains("WHAT")));
        assert!(matches!(program.call(&swap), Heard::Broken(what) if what.contains("ended")));
        // Its stderr is read by a thread of its own.
        crate::wait::wait_for(Duration::from_secs(60), "what it said of the retry", || {
            program.listen();
            (program.retries > 0).then_some(())
        })
        .unwrap();
        assert_eq!(program.retries, 1);
    }

    #[test]
    fn call_program_that_hangs_is_broken_and_says_at_what() {
        let mut program = caller("exec sleep 600");
        program.hang_timeout = Duration::from_millis(50);
        let heard = program.call(&Action::Get { key: "k".into() });
        assert!(matches!(&heard, Heard::Broken(what) if what.contains("hangs: \"GET k\"")), "{heard:?}");
    }
}
