//! The messages of `--trace_messages`: who said what to whom, and the state around each request.
//!
//! For demonstrations, not for speed. The state machine does not know who asks, and must not: so the listener leaves
//! a note about each request that it lets in, and [`Tracer::before`] looks for the note. A command that came from
//! another replica has none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use smr::id::ReplicaId;
use smr::replica::{Outcome, ReplySink, ReplyTo};
use smr::state_machine::{Checkpointed, Readiness};
use smr_service::log_sink;

/// Notes kept about requests that were let in and neither processed nor answered yet.
const NOTES_MAX: usize = 10_000;
/// Clients whose highest request number is remembered.
const WATERMARKS_MAX: usize = 10_000;

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// The tracer, if there is one.
pub fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

/// Traces from now on, under the name of this server, for example `S1`.
/// `group_start` is the number of its group's replica 0.
pub fn enable(name: String, group_start: u32) {
    // A second call changes nothing: there is one server in a process.
    let (notes, last_note, high_watermarks) = (Mutex::default(), AtomicU64::new(0), Mutex::default());
    let _ = TRACER.set(Tracer { name, group_start, notes, last_note, high_watermarks });
}

/// A heartbeat came from the agent of this host, and is about to be answered.
pub(crate) fn heartbeat(count: u64, console: u32, agent: u16) {
    if tracer().is_some() {
        log_sink::message(format_args!("[{count}] S{console} receives heartbeat from LFD{agent}"));
    }
}

/// Prints messages.
pub struct Tracer {
    name: String,
    group_start: u32,
    notes: Mutex<VecDeque<Note>>,
    last_note: AtomicU64,
    /// `high_watermark_request_num`: the highest request number that came from each client.
    high_watermarks: Mutex<BTreeMap<u64, u64>>,
}

/// A request that was let in.
struct Note {
    id: u64,
    /// The command or query, as the state machine will see it.
    bytes: Bytes,
    /// What to call it.
    request: String,
    client: u64,
}

impl Tracer {
    /// Request `number` of `client` came in. Returns what to call it.
    pub fn received(&self, client: u64, number: u64) -> String {
        let request = format!("C{client}, {}, {number}", self.name);
        let mut high_watermarks = self.high_watermarks.lock();
        let is_known = high_watermarks.len() < WATERMARKS_MAX || high_watermarks.contains_key(&client);
        if is_known {
            let highest = high_watermarks.entry(client).or_default();
            *highest = number.max(*highest);
        }
        drop(high_watermarks);
        log_sink::message(format_args!("Received <{request}, request>"));
        request
    }

    /// The request goes to the replica; the state machine will see these bytes. Returns what its reply passes through.
    pub fn admitted(&'static self, client: u64, request: String, bytes: Bytes, reply: ReplyTo) -> ReplyTo {
        let id = self.last_note.fetch_add(1, Ordering::Relaxed);
        let mut notes = self.notes();
        if notes.len() == NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back(Note { id, bytes, request: request.clone(), client });
        let tag = reply.tag;
        ReplyTo { tag, sink: Arc::new(TracedReply { tracer: self, note: id, request, inner: reply }) }
    }

    /// The request was answered without the replica.
    pub fn turned_away(&self, request: &str, why: &str) {
        log_sink::message(format_args!("Sending <{request}, reply>: {why}"));
    }

    /// Whether a client has asked for this, and waits.
    pub fn knows(&self, bytes: &[u8]) -> bool {
        self.notes().iter().any(|note| note.bytes == bytes)
    }

    /// A command or query is about to be processed, in this state. Returns what to call it; `otherwise` is for one that
    /// came from another replica.
    pub fn before(&self, state: &str, bytes: &[u8], otherwise: impl FnOnce() -> String) -> String {
        let request = {
            let mut notes = self.notes();
            let position = notes.iter().position(|note| note.bytes == bytes);
            position.and_then(|position| notes.remove(position)).map(|note| note.request)
        };
        let request = request.unwrap_or_else(|| format!("?, {}, {}", self.name, otherwise()));
        log_sink::message(format_args!("my_state_{} = {state} before processing <{request}, request>", self.name));
        request
    }

    /// It was processed.
    pub fn after(&self, state: &str, request: &str) {
        log_sink::message(format_args!("my_state_{} = {state} after processing <{request}, request>", self.name));
    }

    /// A checkpoint leaves this replica, or has become its state, which is this.
    pub fn checkpointed(&self, state: &str, checkpoint: &Checkpointed<'_>) {
        let called = |replica: ReplicaId| format!("S{}", self.group_start + u32::from(replica.0));
        let name = &self.name;
        let print = |what: &str, from: &str, to: &str, count: u64| {
            log_sink::message(format_args!(
                "{what} <{from}, {to}, checkpoint>: my_state_{name} = {state}, checkpoint_count = {count}"
            ));
        };
        match checkpoint {
            Checkpointed::Sent { to, count } => to.iter().for_each(|to| print("Sending", name, &called(*to), *count)),
            Checkpointed::TakenOver { from, count } => print("Received", &called(*from), name, *count),
        }
    }

    /// This replica of an `active` group is ready to answer clients, or not; or it has stored a request that came
    /// before it is.
    pub fn readiness(&self, readiness: &Readiness<'_>) {
        let name = &self.name;
        match readiness {
            Readiness::Ready => log_sink::message(format_args!("i_am_ready_{name} = 1")),
            Readiness::NotReady => log_sink::message(format_args!("i_am_ready_{name} = 0")),
            Readiness::Stored { command } => {
                // The latest of those with these bytes: it is being handed over.
                let noted = |note: &Note| (note.request.clone(), note.client);
                let Some((request, client)) = self.notes().iter().rfind(|note| note.bytes == *command).map(noted)
                else {
                    return;
                };
                let high_watermark = self.high_watermarks.lock().get(&client).copied().unwrap_or_default();
                log_sink::message(format_args!(
                    "i_am_ready_{name} = 0: stored <{request}, request>, high_watermark_request_num[C{client}] = \
                     {high_watermark}"
                ));
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.notes.lock()
    }
}

/// Prints the reply on its way to the connection.
struct TracedReply {
    tracer: &'static Tracer,
    note: u64,
    request: String,
    inner: ReplyTo,
}

impl TracedReply {
    fn tell(&self, outcome: &Outcome) {
        // A request that was not processed here must not lend its name to a later one with the same bytes.
        self.tracer.notes().retain(|note| note.id != self.note);
        let Some(why) = refusal(outcome) else {
            log_sink::message(format_args!("Sending <{}, reply>", self.request));
            return;
        };
        self.tracer.turned_away(&self.request, why);
    }
}

/// Why it is no answer, in the words that the client's console has for it.
fn refusal(outcome: &Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::NotLeader(_) => "not the leader",
        Outcome::Busy { .. } => "busy",
        Outcome::DiskFull => "disk full",
        Outcome::TooLarge { .. } => "too large",
        Outcome::SessionExpired => "session evicted",
        Outcome::AnswerGone => "answer evicted",
        Outcome::Refused(_) => "refused",
        Outcome::Unknown => "outcome unknown",
        Outcome::OutOfService(_) => "out of service",
        Outcome::Answer(_) | Outcome::SessionOpened(_) | Outcome::Status(_) | Outcome::Done => return None,
    })
}

impl ReplySink for TracedReply {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        self.tell(&outcome);
        self.inner.sink.deliver(tag, outcome);
    }

    fn deliver_now(&self, tag: u64, outcome: Outcome) {
        self.tell(&outcome);
        self.inner.sink.deliver_now(tag, outcome);
    }

    fn has_room(&self) -> bool {
        self.inner.sink.has_room()
    }

    fn reserve(&self, tag: u64, bytes: usize) -> bool {
        self.inner.sink.reserve(tag, bytes)
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
