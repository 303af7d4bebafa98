//! Well-formed messages that violate the protocol, into a core: terms and indexes at their limits, entries with gaps
//! and falling terms, a match index and a commit beyond the log, answers to questions that were never asked. It is
//! dropped and told; the core's state stays sound (B5).

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smr::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::{Effects, Event, Input, Protocol, Recovered, Time, WriteId};
use smr::internals::raft::message::{Body, INDEX_LIMIT, Lease, TERM_LIMIT};
use smr::internals::raft::{LEASE_MAX_US, Message, Raft, Settings, invariants};
use smr::status::Role;

const CORES: u64 = 150;
const MESSAGES: usize = 300;
const ME: NodeId = NodeId::new(0, 1);

/// A core of three with a log of its own, and its clock.
struct Subject {
    raft: Raft,
    now: u64,
    committed: Vec<Entry>,
    violations: u64,
}

impl Subject {
    fn new(seed: u64) -> Subject {
        let members = (0..3).map(|name| NodeId::new(name, 1));
        let genesis = Entry { id: EntryId::new(1, 1), payload: Payload::Configuration(Configuration::of(members)) };
        let entry = |index, term| Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::from("c")) };
        let entries = [genesis, entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 4)];
        let recovered = Recovered {
            stored: HardState { term: Term(4), vote: None, lease_us: 0 }.into(),
            snapshot: SnapshotMeta::default(),
            entries: entries.to_vec(),
            ..Recovered::default()
        };
        let raft = Raft::new(Settings::default(), ME, recovered, ChaCha8Rng::seed_from_u64(seed), Time(0));
        Subject { raft, now: 0, committed: Vec::new(), violations: 0 }
    }

    fn step(&mut self, input: Input<Message>, at: &str) -> Effects<Message> {
        let before = invariants::summary(&self.raft);
        let effects = self.raft.step(Time(self.now), input);
        invariants::check(&self.raft);
        invariants::check_transition(&before, &self.raft);
        let is_told = |event: &&Event| matches!(event, Event::ProtocolViolation { .. } | Event::LossProven { .. });
        self.violations += effects.events.iter().filter(is_told).count() as u64;
        for entry in self.raft.committed_from(Index(self.committed.len() as u64 + 1), usize::MAX, usize::MAX) {
            assert_eq!(entry.id.index.0, self.committed.len() as u64 + 1, "{at}: a hole among the committed");
            self.committed.push(entry);
        }
        effects
    }

    /// A step whose writes reach the device at once.
    fn step_durably(&mut self, input: Input<Message>, at: &str) {
        let mut waiting = self.step(input, at).writes;
        while !waiting.is_empty() {
            let last: WriteId = waiting.last().unwrap().id();
            waiting = self.step(Input::Durable(last), at).writes;
        }
    }
}

struct SimRng(ChaCha8Rng);

impl SimRng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    /// Small, or at a border.
    fn number(&mut self, border: u64) -> u64 {
        match self.below(8) {
            0 => border,
            1 => border - 1,
            2 => u64::MAX,
            3 => self.0.next_u64(),
            _ => self.below(9),
        }
    }

    fn id(&mut self) -> EntryId {
        EntryId { index: Index(self.number(INDEX_LIMIT.0)), term: Term(self.number(TERM_LIMIT.0)) }
    }

    /// Entries with a gap, a falling term, or a term or index at the limit. (An append that is sound in itself and
    /// contradicts what is committed is no violation but a broken group: the node stops, L3.)
    fn entries(&mut self, previous: EntryId) -> Vec<Entry> {
        let EntryId { index, term } = previous;
        let id = match self.below(4) {
            0 => EntryId::new(index.0.wrapping_add(2 + self.below(3)), term.0),
            1 => EntryId::new(index.0.wrapping_add(1), term.0.saturating_sub(1 + self.below(3))),
            2 => EntryId::new(index.0.wrapping_add(1), TERM_LIMIT.0),
            _ => EntryId::new(index.0.wrapping_sub(self.below(2)), term.0),
        };
        vec![Entry { id, payload: Payload::Noop }]
    }

    /// An entry after every log here.
    fn id_beyond(&mut self) -> EntryId {
        let id = self.id();
        EntryId { index: Index(id.index.0.max(50)), term: id.term }
    }

    fn lease(&mut self) -> Option<Lease> {
        let length_us = self.number(LEASE_MAX_US + 1);
        (self.below(3) == 0).then(|| Lease { asked_at_us: self.number(1 << 40), length_us })
    }

    fn body(&mut self) -> Body {
        let campaign = self.below(4) as u32;
        match self.below(15) {
            0 => Body::PreVote { campaign, last: self.id() },
            1 => Body::PreVoteGranted { campaign },
            2 => Body::PreVoteRefused { campaign },
            3 => Body::Vote { last: self.id(), transfer: self.below(2) == 0 },
            4 => Body::VoteGranted,
            5 => Body::VoteRefused,
            6 => {
                let id = self.id();
                // With a term that can fall.
                let previous = EntryId { index: id.index, term: Term(id.term.0.max(1)) };
                Body::Append { previous, entries: self.entries(previous), commit: Index(self.number(INDEX_LIMIT.0)) }
            }
            7 => Body::AppendAccepted { last: self.id() },
            8 => Body::AppendRejected { previous: Index(self.number(INDEX_LIMIT.0)), hint: self.id() },
            9 => {
                let (round, commit) = (self.number(1000), self.id_beyond());
                // Mostly not beyond what is committed: that alone is refused.
                let held_by_all = Index(self.number(commit.index.0.saturating_add(1)));
                Body::Heartbeat { round, commit, held_by_all, lease: self.lease() }
            }
            10 => Body::HeartbeatAck { round: self.number(1000), lease: self.lease() },
            11 => Body::Commit { last: self.id_beyond() },
            12 => Body::StaleTerm,
            13 => Body::TimeoutNow,
            _ => Body::SnapshotInstalled { last: self.id() },
        }
    }
}

/// Answers, and whatever else rests on a question or on a role that this core does not have.
fn is_answer(body: &Body) -> bool {
    matches!(
        body,
        Body::PreVoteGranted { .. }
            | Body::VoteGranted
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatAck { .. }
            | Body::SnapshotInstalled { .. }
    )
}

// covers B5, E6
#[test]
fn answers_that_no_one_asked_for_change_nothing() {
    for seed in 0..CORES {
        let mut subject = Subject::new(seed);
        let mut rng = SimRng(ChaCha8Rng::seed_from_u64(seed));
        for number in 0..MESSAGES {
            let body = rng.body();
            if !is_answer(&body) {
                continue;
            }
            let at = format!("seed {seed}, message {number}, {body:?}");
            let from = NodeId::new(1 + rng.below(2) as u16, 1);
            // Of its own term: a higher one may be taken over.
            let message = Message { term: Term(4), body };
            let committed = subject.committed.len();
            let effects = subject.step(Input::Receive { from, message }, &at);
            assert!(effects.writes.is_empty() && subject.committed.len() == committed, "{at}");
            assert_ne!(subject.raft.role(), Role::Leader, "{at}");
        }
    }
}

// covers B5
#[test]
fn violations_of_one_peer_are_dropped_and_told_and_the_core_stays_sound() {
    let mut violations = 0;
    for seed in 0..CORES {
        let mut subject = Subject::new(seed);
        let mut rng = SimRng(ChaCha8Rng::seed_from_u64(seed));
        for number in 0..MESSAGES {
            subject.now += rng.below(400_000);
            let message = Message { term: Term(rng.number(TERM_LIMIT.0)), body: rng.body() };
            let at = format!("seed {seed}, message {number}, {message:?}");
            // One peer violates the protocol, the others say nothing: with it alone there is no quorum against this
            // core's own log.
            let from = NodeId::new(1, 1);
            if subject.now.is_multiple_of(3) {
                subject.step_durably(Input::Tick, &at);
            }
            subject.step_durably(Input::Receive { from, message }, &at);
            assert!(subject.raft.status().term < TERM_LIMIT, "{at}: the terms are used up");
        }
        violations += subject.violations;
    }
    assert!(violations > CORES * 20, "only {violations} messages were called violations");
}
