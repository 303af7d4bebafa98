//! Everything that an exploration meets, once each, under a number: nodes, messages, logs, histories. A state of the
//! group is then a handful of numbers, and what a node does in a situation is computed once and looked up ever after.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};

use smr::entry::{Entry, EntryId, Index, Term};
use smr::id::NodeId;
use smr::internals::protocol::Protocol;
use smr::internals::raft::Canonical;
use smr::internals::raft::Message;
use smr::internals::raft::message::Body;
use smr::status::Role;
use xxhash_rust::xxh3::Xxh3;

use super::local::{Effects, Local, LocalEvent, Rules};
use super::log_text::told_log;
use super::{NODES, PERMUTATIONS, Permutation, letter};

/// No number yet.
const UNKNOWN: u32 = u32::MAX;

/// A message, with both its ends.
#[derive(Clone, Debug)]
pub(super) struct Wired {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

/// What has happened in the group that no node need know any more. Also what is left of the bounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// Who led which term (I1); the first is that of term 2.
    pub(super) leaders: Vec<Option<NodeId>>,
    /// Everything ever committed, and the term of the leader that committed it (I6, I7, I9).
    pub(super) history: Vec<(Entry, Term)>,
    pub(super) crashes: u8,
    pub(super) proposals: u8,
    pub(super) duplicates: u8,
}

/// What the search must know of a node at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) durable_term: u64,
    pub(super) durable_vote: Option<NodeId>,
    pub(super) parts: usize,
    pub(super) writes: bool,
    /// Its log in memory.
    pub(super) log: u32,
    /// Its log on disk.
    pub(super) disk: u32,
}

/// What a message is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// An answer that counts in its own term only.
    Answer,
    /// The same, of a voter.
    Grant,
    /// An answer that only the clock cares for.
    Alive,
    /// News of a later term.
    News,
    /// A leader's word.
    Order,
    /// A candidate's question.
    Question,
    /// Pre-votes.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    what: Use,
    term: u64,
    from: NodeId,
    to: NodeId,
}

/// What happens to a node in a situation.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) next: u32,
    pub(super) sent: Box<[u32]>,
    pub(super) elected: Option<Term>,
    pub(super) committed: Box<[Entry]>,
    /// Which of its invariants broke.
    pub(super) broken: Option<String>,
}

/// Things under numbers.
#[derive(Debug)]
struct Numbered<T> {
    things: Vec<T>,
    numbers: HashMap<u128, u32>,
    /// What a thing is called after each exchange of names.
    renamed: Vec<[u32; PERMUTATIONS.len()]>,
}

struct Hashing(Xxh3);

impl fmt::Write for Hashing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// 128 bits over everything that a thing consists of. No two of a billion different things are likely to share them
/// (a chance of 10^-21).
fn hash(thing: &impl fmt::Debug) -> u128 {
    let mut hashing = Hashing(Xxh3::new());
    // Writing into a hash cannot fail.
    let _ = write!(hashing, "{thing:?}");
    hashing.0.digest128()
}

impl<T: fmt::Debug> Numbered<T> {
    fn new() -> Numbered<T> {
        Numbered { things: Vec::new(), numbers: HashMap::new(), renamed: Vec::new() }
    }

    /// The thing's number, and whether it is new.
    fn number(&mut self, thing: T) -> (u32, bool) {
        self.number_of(hash(&thing), || thing)
    }

    /// The same for a thing with this hash, which is made only if it is new.
    fn number_of(&mut self, hash: u128, thing: impl FnOnce() -> T) -> (u32, bool) {
        let next = self.things.len() as u32;
        assert!(next < UNKNOWN, "too many different things");
        let number = *self.numbers.entry(hash).or_insert(next);
        if number == next {
            self.things.push(thing());
            self.renamed.push([UNKNOWN; PERMUTATIONS.len()]);
        }
        (number, number == next)
    }

    fn get(&self, number: u32) -> &T {
        &self.things[number as usize]
    }
}

/// See the module.
pub(super) struct Tables {
    rules: Rules,
    locals: Numbered<Local>,
    infos: Vec<Info>,
    messages: Numbered<Wired>,
    usages: Vec<Usage>,
    books: Numbered<Book>,
    /// What is on the wire: numbers of messages, ascending.
    wires: Numbered<Box<[u32]>>,
    logs: Numbered<Vec<Entry>>,
    outcomes: Vec<Outcome>,
    memo: HashMap<u64, u32>,
    /// Pairs of logs that match.
    matching: HashSet<(u32, u32)>,
}

impl Tables {
    pub(super) fn new(rules: Rules) -> Tables {
        Tables {
            rules,
            locals: Numbered::new(),
            infos: Vec::new(),
            messages: Numbered::new(),
            usages: Vec::new(),
            books: Numbered::new(),
            wires: Numbered::new(),
            logs: Numbered::new(),
            outcomes: Vec::new(),
            memo: HashMap::new(),
            matching: HashSet::new(),
        }
    }

    pub(super) fn local_number(&mut self, local: Local) -> u32 {
        let log: Vec<_> = local.raft.entries().cloned().collect();
        let info = Info {
            role: local.raft.role(),
            term: local.raft.hard_state().term.0,
            durable_term: local.disk.hard_state.term.0,
            durable_vote: local.disk.hard_state.vote,
            parts: local.parts(),
            writes: local.writes(),
            log: UNKNOWN,
            disk: UNKNOWN,
        };
        let disk = local.disk.entries.clone();
        let (number, new) = self.locals.number(local);
        if new {
            let (log, disk) = (self.logs.number(log).0, self.logs.number(disk).0);
            self.infos.push(Info { log, disk, ..info });
        }
        number
    }

    pub(super) fn local(&self, number: u32) -> &Local {
        self.locals.get(number)
    }

    pub(super) fn info(&self, number: u32) -> &Info {
        &self.infos[number as usize]
    }

    pub(super) fn message(&self, number: u32) -> &Wired {
        self.messages.get(number)
    }

    /// The replica of a message's receiver.
    pub(super) fn receiver(&self, number: u32) -> usize {
        usize::from(self.usages[number as usize].to.name.0)
    }

    pub(super) fn is_append(&self, number: u32) -> bool {
        matches!(self.message(number).message.body, Body::Append { .. })
    }

    fn message_number(&mut self, wired: Wired) -> u32 {
        let what = match &wired.message.body {
            Body::AppendAccepted { .. } | Body::AppendRejected { .. } => Use::Answer,
            Body::VoteGranted => Use::Grant,
            Body::HeartbeatAck { .. } => Use::Alive,
            Body::VoteRefused | Body::StaleTerm => Use::News,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Commit { .. } => Use::Order,
            Body::Vote { .. } => Use::Question,
            _ => Use::Other,
        };
        let (term, from, to) = (wired.message.term.0, wired.from, wired.to);
        let (number, new) = self.messages.number(wired);
        if new {
            self.usages.push(Usage { what, term, from, to });
        }
        number
    }

    /// Whether a message will never have any effect, whatever happens: its receiver's disk remembers a term in which it
    /// says nothing. Such a message only takes a place on the wire.
    ///
    /// With abstract pre-votes news of a later term has no effect either: the receiver may hear of it at any time.
    pub(super) fn is_dead(&self, message: u32, receiver: u32) -> bool {
        let Usage { what, term, from, .. } = self.usages[message as usize];
        let info = self.info(receiver);
        let news_is_dead = self.rules.abstract_pre_vote;
        let durable = info.durable_term;
        !self.rules.keep_dead
            && match what {
                Use::Alive => true,
                // Who is not leader, or candidate, of a durable term any more will never be again.
                Use::Answer => durable >= term && !(info.term == term && info.role == Role::Leader),
                Use::Grant => durable >= term && !(info.term == term && info.role == Role::Candidate),
                Use::News => news_is_dead || durable >= term,
                // All that it would cause is news.
                Use::Order => news_is_dead && durable > term,
                Use::Question => {
                    let taken = info.durable_vote.is_some_and(|vote| vote != from);
                    news_is_dead && (durable > term || (durable == term && taken))
                }
                Use::Other => false,
            }
    }

    pub(super) fn book_number(&mut self, book: Book) -> u32 {
        self.books.number(book).0
    }

    pub(super) fn book(&self, number: u32) -> &Book {
        self.books.get(number)
    }

    pub(super) fn log(&self, number: u32) -> &[Entry] {
        self.logs.get(number)
    }

    /// What the node `local` is called after an exchange of names.
    pub(super) fn renamed_local(&mut self, local: u32, permutation: usize) -> u32 {
        let known = self.locals.renamed[local as usize][permutation];
        if known != UNKNOWN {
            return known;
        }
        let renamed = self.local(local).renamed(&|node| rename(node, &PERMUTATIONS[permutation]));
        let number = self.local_number(renamed);
        self.locals.renamed[local as usize][permutation] = number;
        number
    }

    /// The same for a message. What it says names no one: configurations are the same for all.
    pub(super) fn renamed_message(&mut self, message: u32, permutation: usize) -> u32 {
        let known = self.messages.renamed[message as usize][permutation];
        if known != UNKNOWN {
            return known;
        }
        let Wired { from, to, message: said } = self.message(message).clone();
        let names = &PERMUTATIONS[permutation];
        let number = self.message_number(Wired { from: rename(from, names), to: rename(to, names), message: said });
        self.messages.renamed[message as usize][permutation] = number;
        number
    }

    /// The same for the wire.
    pub(super) fn renamed_wire(&mut self, wire: u32, permutation: usize) -> u32 {
        let known = self.wires.renamed[wire as usize][permutation];
        if known != UNKNOWN {
            return known;
        }
        let messages = self.wire(wire).to_vec();
        let mut renamed: Vec<_> =
            messages.into_iter().map(|message| self.renamed_message(message, permutation)).collect();
        let number = self.wire_number(&mut renamed);
        self.wires.renamed[wire as usize][permutation] = number;
        number
    }

    /// The wire with these messages on it.
    pub(super) fn wire_number(&mut self, messages: &mut [u32]) -> u32 {
        messages.sort_unstable();
        let mut hashing = Xxh3::new();
        messages.iter().for_each(|message| hashing.update(&message.to_le_bytes()));
        self.wires.number_of(hashing.digest128(), || (&*messages).into()).0
    }

    pub(super) fn wire(&self, number: u32) -> &[u32] {
        self.wires.get(number)
    }

    /// The same for a book.
    pub(super) fn renamed_book(&mut self, book: u32, permutation: usize) -> u32 {
        let known = self.books.renamed[book as usize][permutation];
        if known != UNKNOWN {
            return known;
        }
        let mut renamed = self.book(book).clone();
        for leader in renamed.leaders.iter_mut().flatten() {
            *leader = rename(*leader, &PERMUTATIONS[permutation]);
        }
        let number = self.book_number(renamed);
        self.books.renamed[book as usize][permutation] = number;
        number
    }

    /// The event under its key.
    pub(super) fn event(&self, key: u32) -> LocalEvent {
        let argument = key & EventKey::ARGUMENT;
        match key & !EventKey::ARGUMENT {
            EventKey::SYNC => LocalEvent::Sync,
            EventKey::CRASH => LocalEvent::Crash { kept: argument as usize },
            EventKey::TIME_OUT => LocalEvent::TimeOut,
            EventKey::REFUSED => LocalEvent::Refused { term: Term(u64::from(argument)) },
            EventKey::HEARTBEAT => LocalEvent::Heartbeat,
            EventKey::SILENCE => LocalEvent::Silence,
            EventKey::PROPOSE => LocalEvent::Propose { number: argument as u8 },
            _ => {
                let Wired { from, message, .. } = self.message(argument).clone();
                LocalEvent::Deliver { from, message }
            }
        }
    }

    /// What happens to a node; computed at most once. The outcome's number.
    pub(super) fn outcome(&mut self, local: u32, key: u32) -> u32 {
        let situation = (u64::from(local) << 32) | u64::from(key);
        if let Some(known) = self.memo.get(&situation) {
            return *known;
        }
        let event = self.event(key);
        let outcome = match self.local(local).step(&event, self.rules) {
            Ok((next, Effects { sent, elected, committed })) => {
                let from = next.raft.status().node;
                let wired = sent.into_iter().map(|envelope| Wired { from, to: envelope.to, message: envelope.message });
                let mut sent: Vec<_> = wired.map(|wired| self.message_number(wired)).collect();
                sent.sort_unstable();
                sent.dedup();
                let next = self.local_number(next);
                Outcome { next, sent: sent.into(), elected, committed: committed.into(), broken: None }
            }
            Err(broken) => {
                Outcome { next: local, sent: [].into(), elected: None, committed: [].into(), broken: Some(broken) }
            }
        };
        let number = self.outcomes.len() as u32;
        self.outcomes.push(outcome);
        self.memo.insert(situation, number);
        number
    }

    pub(super) fn known_outcome(&self, number: u32) -> &Outcome {
        &self.outcomes[number as usize]
    }

    /// I5: where two logs have the same entry, they are the same up to there.
    pub(super) fn check_matching(&mut self, one: u32, other: u32) -> Result<(), String> {
        let pair = (one.min(other), one.max(other));
        if one == other || self.matching.contains(&pair) {
            return Ok(());
        }
        let (first, second) = (self.log(one), self.log(other));
        let same = first.iter().zip(second).rposition(|(one, other)| one.id == other.id);
        if let Some(last) = same
            && first[..=last] != second[..=last]
        {
            return Err(format!(
                "two logs share an entry, and differ below it (I5): {} and {}",
                told_log(first),
                told_log(second)
            ));
        }
        self.matching.insert(pair);
        Ok(())
    }

    /// How many different nodes, messages and situations were met.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.locals.things.len(), self.messages.things.len(), self.outcomes.len())
    }
}

/// Whether a log has this very entry.
pub(super) fn has(log: &[Entry], entry: &Entry) -> bool {
    entry.id.index.0.checked_sub(1).and_then(|position| log.get(position as usize)) == Some(entry)
}

/// Events as numbers: a kind, and in the lower bits an argument (for messages: which).
pub(super) struct EventKey;

impl EventKey {
    pub(super) const ARGUMENT: u32 = (1 << 28) - 1;
    pub(super) const SYNC: u32 = 1 << 28;
    pub(super) const CRASH: u32 = 2 << 28;
    pub(super) const TIME_OUT: u32 = 3 << 28;
    pub(super) const REFUSED: u32 = 4 << 28;
    pub(super) const HEARTBEAT: u32 = 5 << 28;
    pub(super) const SILENCE: u32 = 6 << 28;
    pub(super) const PROPOSE: u32 = 7 << 28;
}

fn rename(node: NodeId, permutation: &Permutation) -> NodeId {
    let replica = permutation.get(usize::from(node.name.0)).copied();
    replica.map_or(node, super::node)
}

impl Book {
    pub(super) fn new() -> Book {
        Book::default()
    }

    /// I1 and I6: `node` was elected in `term`, with this log.
    pub(super) fn elect(&mut self, node: NodeId, term: Term, log: &[Entry]) -> Result<(), String> {
        let position = term.0 as usize - 2;
        if self.leaders.len() <= position {
            self.leaders.resize(position + 1, None);
        }
        match self.leaders[position] {
            Some(other) => {
                return Err(format!(
                    "{term:?} has had {} as its leader, and now has {} (I1)",
                    letter(other),
                    letter(node)
                ));
            }
            None => self.leaders[position] = Some(node),
        }
        self.check_complete(node, term, log)
    }

    /// I6: whatever was committed in an earlier term is in a leader's log.
    pub(super) fn check_complete(&self, leader: NodeId, term: Term, log: &[Entry]) -> Result<(), String> {
        let missing = self.history.iter().find(|(entry, committed)| *committed < term && !has(log, entry));
        match missing {
            None => Ok(()),
            Some((entry, committed)) => Err(format!(
                "{} leads {term:?} without {}, which was committed in {committed:?} (I6)",
                letter(leader),
                entry.id
            )),
        }
    }

    /// I7 and I9: a node says that this is committed. Whether that is news.
    pub(super) fn commit(&mut self, entry: &Entry, term: Term) -> Result<bool, String> {
        let position = entry.id.index.0 as usize - 1;
        match self.history.get(position) {
            Some((known, _)) if known == entry => Ok(false),
            Some((known, _)) => Err(format!("{known:?} was committed, and now {entry:?} (I7)")),
            None if position == self.history.len() => {
                self.history.push((entry.clone(), term));
                Ok(true)
            }
            None => Err(format!("{} is committed without what stands before it (I7)", entry.id)),
        }
    }
}

/// The genesis entry of a group of [`NODES`].
pub(super) fn genesis() -> Entry {
    let members = (0..NODES as u8).map(super::node);
    let configuration = smr::entry::Configuration::of(members);
    Entry { id: EntryId { index: Index(1), term: Term(1) }, payload: smr::entry::Payload::Configuration(configuration) }
}
