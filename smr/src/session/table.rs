//! The table itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    ANSWER_OVERHEAD_BYTES, ANSWERS_MAX_BYTES, REQUESTS_IN_FLIGHT_MAX, SESSIONS_MAX, SessionCommand, SessionImage,
    UNUSED_SHARE,
};
use crate::entry::Index;
use crate::id::{ClientId, ReplicaId};
use crate::request::Outcome;
use crate::version::CommandVersions;

/// Where replicas are reached, as `host:port`.
pub type Addresses = BTreeMap<ReplicaId, String>;

/// The bounds of a table. They decide what is evicted, so they must be equal on all replicas of a group. Anything but
/// the default is for tests and simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// How many sessions live.
    pub sessions_max: usize,
    /// How much all stored answers together may take, each counted with [`ANSWER_OVERHEAD_BYTES`].
    pub answers_max_bytes: usize,
}

impl SessionLimits {
    /// How many sessions that were never used may live while the table is full.
    fn unused_max(self) -> usize {
        (self.sessions_max / UNUSED_SHARE).max(1)
    }
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits { sessions_max: SESSIONS_MAX, answers_max_bytes: ANSWERS_MAX_BYTES }
    }
}

/// Clients, what was executed for them, and the answers they may still ask for.
///
/// Invariants, besides those of [`Session`]:
/// - `by_use` holds each session once, under its `last_used`; an entry uses one session at most, so no two collide;
/// - `unused` holds the sessions whose last entry is still the one that opened them;
/// - `by_age` holds each stored answer once, under the index of the entry that was executed;
/// - `answers_bytes` is the sum of all stored answers' costs, and at most `limits.answers_max_bytes`;
/// - there are at most `limits.sessions_max` sessions;
/// - no index in the table is above `applied`.
#[derive(Debug)]
pub struct SessionTable {
    pub(super) limits: SessionLimits,
    /// The last entry with a command; 0 before the first.
    pub(super) applied: Index,
    /// The highest versions of all commands that were applied.
    pub(super) open_versions: CommandVersions,
    /// Where replicas are reached, as far as commands said so.
    pub(super) addresses: Arc<Addresses>,
    /// The only other part that an image needs; the rest follows from it. Sessions are shared with images until they
    /// change.
    pub(super) sessions: OrdMap<ClientId, Arc<Session>>,
    by_use: BTreeMap<Index, ClientId>,
    unused: BTreeSet<ClientId>,
    by_age: BTreeMap<Index, (ClientId, u64)>,
    answers_bytes: usize,
}

/// One client's session.
///
/// Invariants: each number in `stored` is in `executed`; `stored` is in order of numbers; all numbers of both are in
/// the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The last entry of this session: the one that opened it, at first.
    pub(super) last_used: Index,
    /// The lowest unanswered number, as far as the client said; from 1, never falls. The window starts here.
    pub(super) lowest: u64,
    pub(super) executed: Window,
    pub(super) stored: VecDeque<Stored>,
}

/// The answer to an executed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) number: u64,
    /// The entry that was executed: the answer's age.
    pub(super) index: Index,
    /// Tells a copy of the request from another request under the same number.
    pub(super) command_hash: u64,
    pub(super) answer: Bytes,
}

impl Stored {
    pub(super) fn cost_bytes(&self) -> usize {
        ANSWER_OVERHEAD_BYTES + self.answer.len()
    }
}

const WINDOW_WORDS: usize = REQUESTS_IN_FLIGHT_MAX as usize / 64;
const _: () = assert!(WINDOW_WORDS * 64 == REQUESTS_IN_FLIGHT_MAX as usize);

/// A set of numbers of which no two are [`REQUESTS_IN_FLIGHT_MAX`] or more apart: a ring with a bit for each. So a
/// number whose answer was evicted costs one bit, and a hostile client cannot make the table large by leaving gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window(pub(super) [u64; WINDOW_WORDS]);

impl Window {
    fn place(number: u64) -> (usize, u64) {
        let bit = number % REQUESTS_IN_FLIGHT_MAX;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let (word, bit) = Window::place(number);
        self.0[word] & bit != 0
    }

    fn insert(&mut self, number: u64) {
        let (word, bit) = Window::place(number);
        self.0[word] |= bit;
    }

    /// Forgets the numbers from `from` up to, not including, `to`.
    fn remove_range(&mut self, from: u64, to: u64) {
        if to - from >= REQUESTS_IN_FLIGHT_MAX {
            *self = Window::default();
            return;
        }
        for number in from..to {
            let (word, bit) = Window::place(number);
            self.0[word] &= !bit;
        }
    }
}

impl Session {
    fn new(opened: Index) -> Session {
        Session { last_used: opened, lowest: 1, executed: Window::default(), stored: VecDeque::new() }
    }

    /// What a request gets without being executed; `None` if it is new.
    fn known(&self, number: u64, lowest_unanswered: u64, command: &[u8]) -> Option<Outcome> {
        if number == 0 || lowest_unanswered == 0 || lowest_unanswered > number {
            let why = format!("request number {number}, lowest unanswered {lowest_unanswered}");
            return Some(Outcome::Refused(why));
        }
        if number < self.lowest {
            return Some(Outcome::AnswerGone);
        }
        let lowest = self.lowest.max(lowest_unanswered);
        if number - lowest >= REQUESTS_IN_FLIGHT_MAX {
            let why = format!(
                "request number {number} is beyond the window of {REQUESTS_IN_FLIGHT_MAX} numbers from {lowest}"
            );
            return Some(Outcome::Refused(why));
        }
        // The ring says nothing of numbers beyond the window as it still stands; they are new.
        if number - self.lowest >= REQUESTS_IN_FLIGHT_MAX || !self.executed.contains(number) {
            return None;
        }
        match self.stored.binary_search_by_key(&number, |stored| stored.number) {
            Err(_) => Some(Outcome::AnswerGone),
            Ok(at) if self.stored[at].command_hash == xxh3_64(command) => {
                Some(Outcome::Answer(self.stored[at].answer.clone()))
            }
            Ok(_) => Some(Outcome::Refused(format!("request number {number} was used for another command"))),
        }
    }
}

impl Default for SessionTable {
    fn default() -> SessionTable {
        SessionTable::new()
    }
}

impl SessionTable {
    /// An empty table, with the limits that production has.
    pub fn new() -> SessionTable {
        SessionTable::with_limits(SessionLimits::default())
    }

    /// An empty table with limits of one's own.
    ///
    /// # Panics
    /// If no session fits.
    pub fn with_limits(limits: SessionLimits) -> SessionTable {
        assert!(limits.sessions_max > 0, "a table without room for a session");
        SessionTable {
            limits,
            applied: Index::ZERO,
            open_versions: CommandVersions::FIRST,
            addresses: Arc::default(),
            sessions: OrdMap::new(),
            by_use: BTreeMap::new(),
            unused: BTreeSet::new(),
            by_age: BTreeMap::new(),
            answers_bytes: 0,
        }
    }

    /// A table of the given parts, which the caller has checked.
    pub(super) fn from_parts(
        limits: SessionLimits,
        applied: Index,
        open_versions: CommandVersions,
        addresses: Arc<Addresses>,
        sessions: OrdMap<ClientId, Arc<Session>>,
    ) -> SessionTable {
        let mut table =
            SessionTable { applied, open_versions, addresses, sessions, ..SessionTable::with_limits(limits) };
        for (client, session) in &table.sessions {
            table.by_use.insert(session.last_used, *client);
            if session.last_used.0 == client.index {
                table.unused.insert(*client);
            }
            for stored in &session.stored {
                table.by_age.insert(stored.index, (*client, stored.number));
                table.answers_bytes += stored.cost_bytes();
            }
        }
        table
    }

    /// Whether sessions that came from two places are those of one table: no two have an entry in common.
    pub(super) fn fits_together(&self) -> bool {
        let answers: usize = self.sessions.values().map(|session| session.stored.len()).sum();
        let indexes_rise = self.sessions.keys().is_sorted_by(|one, next| one.index < next.index);
        indexes_rise && self.by_use.len() == self.sessions.len() && self.by_age.len() == answers
    }

    /// How many sessions and answers it keeps at most.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// Applies the command of the committed entry at `index`. `run` is the state machine: called once if the command
    /// is to take effect, else not at all.
    ///
    /// # Panics
    /// If the entries do not come in the order of the log, each once: applying twice is what the table must prevent.
    pub fn apply(&mut self, index: Index, command: &SessionCommand, run: impl FnOnce(&[u8]) -> Vec<u8>) -> Outcome {
        assert!(index > self.applied, "entry {index} applied after entry {}", self.applied);
        self.applied = index;
        match command {
            SessionCommand::Open { nonce } => self.open(index, *nonce),
            SessionCommand::Idempotent { command } => Outcome::Answer(Bytes::from(run(command))),
            SessionCommand::Addresses { addresses } => {
                let known = Arc::make_mut(&mut self.addresses);
                for (&name, address) in addresses {
                    if address.is_empty() {
                        known.remove(&name);
                    } else {
                        known.insert(name, address.clone());
                    }
                }
                Outcome::Done
            }
            SessionCommand::Write { client, number, lowest_unanswered, command } => {
                self.write(index, *client, *number, *lowest_unanswered, command, run)
            }
        }
    }

    /// The outcome of a write that is certain without the log: the leader asks before it proposes. `None` means that
    /// the write must go through the log, where [`SessionTable::apply`] judges it again: another copy may be on its
    /// way.
    ///
    /// A replica that leads no longer may answer this way too: what it says rests on committed entries alone, and
    /// stays true.
    pub fn check(&self, client: ClientId, number: u64, lowest_unanswered: u64, command: &[u8]) -> Option<Outcome> {
        match self.sessions.get(&client) {
            Some(session) => session.known(number, lowest_unanswered, command),
            // The entry that would have opened it is applied, and the session is not there; it never comes back.
            None if client.index <= self.applied.0 => Some(Outcome::SessionExpired),
            // The leader may be behind with applying: the session may be about to open.
            None => None,
        }
    }

    /// A point-in-time copy, in constant time: it shares everything with the table until the table changes.
    pub fn image(&self) -> SessionImage {
        let SessionTable { limits, applied, open_versions, .. } = *self;
        let (addresses, sessions) = (Arc::clone(&self.addresses), self.sessions.clone());
        SessionImage { limits, applied, open_versions, addresses, sessions }
    }

    /// A hash over the whole table, equal on all replicas that applied the same entries (fault catalogue I7, L17).
    /// Takes time in proportion to the stored answers; [`SessionImage::digest`] gives it in the background.
    pub fn digest(&self) -> u64 {
        self.image().digest()
    }

    /// The last entry with a command that was applied; 0 before the first.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Where the replicas of the group are reached, as far as commands said so.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The highest versions of all commands applied since the first entry, snapshots included: what needs no more than
    /// these may be proposed, whoever is heard.
    pub fn open_versions(&self) -> CommandVersions {
        self.open_versions
    }

    /// A command of these versions is applied.
    pub(crate) fn open_versions_to(&mut self, versions: CommandVersions) {
        self.open_versions.library = self.open_versions.library.max(versions.library);
        self.open_versions.machine = self.open_versions.machine.max(versions.machine);
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What the stored answers take, each with [`ANSWER_OVERHEAD_BYTES`].
    pub fn answers_bytes(&self) -> usize {
        self.answers_bytes
    }

    fn open(&mut self, index: Index, nonce: u64) -> Outcome {
        let client = ClientId { index: index.0, nonce };
        self.sessions.insert(client, Arc::new(Session::new(index)));
        self.by_use.insert(index, client);
        self.unused.insert(client);
        if self.sessions.len() > self.limits.sessions_max {
            // The new session was used last, and there is room for one of its kind, so it is never itself that goes.
            // Entries of earlier builds have no nonce. They were applied by the rule of their time, and must be again
            // (L20).
            self.evict_session(nonce != 0);
        }
        Outcome::SessionOpened(client)
    }

    fn write(
        &mut self,
        index: Index,
        client: ClientId,
        number: u64,
        lowest_unanswered: u64,
        command: &Bytes,
        run: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Outcome {
        let Some(session) = self.sessions.get_mut(&client) else {
            return Outcome::SessionExpired;
        };
        let session = Arc::make_mut(session);
        self.by_use.remove(&session.last_used);
        self.by_use.insert(index, client);
        self.unused.remove(&client);
        session.last_used = index;

        let known = session.known(number, lowest_unanswered, command);
        if let Some(Outcome::Refused(why)) = known {
            // Nothing that a senseless request says is believed, its lowest unanswered number included.
            return Outcome::Refused(why);
        }
        // A late copy may carry an older claim: the lowest number only rises.
        if lowest_unanswered > session.lowest {
            session.executed.remove_range(session.lowest, lowest_unanswered);
            session.lowest = lowest_unanswered;
            while let Some(stored) = session.stored.pop_front_if(|stored| stored.number < lowest_unanswered) {
                self.by_age.remove(&stored.index);
                self.answers_bytes -= stored.cost_bytes();
            }
        }
        if let Some(outcome) = known {
            return outcome;
        }

        // Boxed, so that the answer keeps no room to grow: its cost is counted by its length.
        let answer = Bytes::from(run(command).into_boxed_slice());
        let stored = Stored { number, index, command_hash: xxh3_64(command), answer: answer.clone() };
        self.answers_bytes += stored.cost_bytes();
        self.by_age.insert(index, (client, number));
        session.executed.insert(number);
        let at = session.stored.partition_point(|stored| stored.number < number);
        session.stored.insert(at, stored);
        while self.answers_bytes > self.limits.answers_max_bytes {
            self.evict_answer();
        }
        Outcome::Answer(answer)
    }

    /// Drops the session whose last entry lies furthest back, with its answers. Sessions that were never used push out
    /// none that was, once they take their share of the table (`unused_first`): whoever only opens sessions drives out
    /// no one who writes.
    fn evict_session(&mut self, unused_first: bool) {
        let oldest = if unused_first && self.unused.len() > self.limits.unused_max() {
            self.unused.first().map(|client| Index(client.index))
        } else {
            self.by_use.first_key_value().map(|(last_used, _)| *last_used)
        };
        let Some(client) = oldest.and_then(|oldest| self.by_use.remove(&oldest)) else { panic!("no session to evict") };
        self.unused.remove(&client);
        let Some(session) = self.sessions.remove(&client) else { panic!("session {client:?} is in by_use only") };
        for stored in &session.stored {
            self.by_age.remove(&stored.index);
            self.answers_bytes -= stored.cost_bytes();
        }
    }

    /// Drops the oldest stored answer; its number stays executed.
    fn evict_answer(&mut self) {
        let Some((index, (client, number))) = self.by_age.pop_first() else {
            panic!("no answer to evict, yet {} bytes are counted", self.answers_bytes)
        };
        let Some(session) = self.sessions.get_mut(&client) else { panic!("answer {index} of no session {client:?}") };
        let session = Arc::make_mut(session);
        let Ok(at) = session.stored.binary_search_by_key(&number, |stored| stored.number) else {
            panic!("answer {index} of {client:?} is in by_age only")
        };
        let stored = session.stored.remove(at);
        self.answers_bytes -= stored.map_or(0, |stored| stored.cost_bytes());
    }
}
