//! The messages of `--trace_messages`: who said what to whom, and the state around each command.
//!
//! For demonstrations, not for speed. The state machine does not know who asks, and must not: so the listener leaves
//! a note about each command that it lets in, and [`Tracer::before`] looks for the note. A command that came from
//! another replica has none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use smr::entry::Index;
use smr::replica::{Outcome, ReplySink, ReplyTo};
use smr_service::log_sink;

/// Notes kept about commands that were let in and not applied yet; some never are.
const NOTES_MAX: usize = 10_000;

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// The tracer, if there is one.
pub fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

/// Traces from now on, under the name of this server, for example `S1`.
pub fn enable(name: String) {
    // A second call changes nothing: there is one server in a process.
    let _ = TRACER.set(Tracer { name, notes: Mutex::default() });
}

/// Prints messages.
pub struct Tracer {
    name: String,
    notes: Mutex<VecDeque<(Bytes, String)>>,
}

impl Tracer {
    /// A request came in. Returns what its reply passes through.
    pub fn received(&self, client: u64, number: u64, command: &Bytes, reply: ReplyTo) -> ReplyTo {
        let request = format!("C{client}, {}, {number}", self.name);
        print(&format!("Received <{request}, request>"));
        let mut notes = self.notes();
        if notes.len() == NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back((command.clone(), request.clone()));
        let tag = reply.tag;
        ReplyTo { tag, sink: Arc::new(TracedReply { request, inner: reply }) }
    }

    /// A command is about to be applied to a state of this many keys. Returns what to call it.
    pub fn before(&self, index: Index, keys: usize, command: &[u8]) -> String {
        let request = {
            let mut notes = self.notes();
            let position = notes.iter().position(|(noted, _)| noted == command);
            position.and_then(|position| notes.remove(position)).map(|(_, request)| request)
        };
        let request = request.unwrap_or_else(|| format!("?, {}, entry {}", self.name, index.0));
        print(&format!("my_state_{} = {keys} keys before processing <{request}, request>", self.name));
        request
    }

    /// It was applied.
    pub fn after(&self, request: &str, keys: usize) {
        print(&format!("my_state_{} = {keys} keys after processing <{request}, request>", self.name));
    }

    fn notes(&self) -> MutexGuard<'_, VecDeque<(Bytes, String)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints the reply on its way to the connection.
struct TracedReply {
    request: String,
    inner: ReplyTo,
}

impl ReplySink for TracedReply {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        print(&format!("Sent <{}, reply>", self.request));
        self.inner.sink.deliver(tag, outcome);
    }

    fn begin_parts(&self, tag: u64) -> bool {
        self.inner.sink.begin_parts(tag)
    }

    fn poll_room(&self, tag: u64, context: &mut Context<'_>) -> Poll<bool> {
        self.inner.sink.poll_room(tag, context)
    }

    fn deliver_part(&self, tag: u64, part: Bytes) -> bool {
        self.inner.sink.deliver_part(tag, part)
    }
}

/// One line on stderr, with its time.
fn print(line: &str) {
    log_sink::line(format!("[{}] {line}", log_sink::timestamp()));
}
