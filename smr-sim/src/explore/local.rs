//! One node in an exploration: the real core, its disk and the writes between them; what can happen to it, and what
//! must then be true of it alone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Entry, EntryId, HardState, Term};
use smr::id::NodeId;
use smr::internals::protocol::{self, Envelope, Event, Input, LogChange, Protocol, Recovered, Time, WriteId};
use smr::internals::raft::message::Body;
use smr::internals::raft::{Canonical, LATER, NOW, renamed_hard_state};
use smr::internals::raft::{Message, Raft, Settings, invariants};
use smr::status::Role;

/// What is on a node's disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    /// From index 1 on: nothing is ever cut here.
    pub(super) entries: Vec<Entry>,
}

/// A part of a write that the disk may have when the rest of it is lost.
#[derive(Clone, Debug)]
enum Part {
    HardState(HardState),
    Log(LogChange),
}

/// A write on its way to the disk.
#[derive(Clone, Debug)]
struct Pending {
    parts: Vec<Part>,
    then: Vec<Envelope<Message>>,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) raft: Raft,
    pub(super) disk: Disk,
    queue: VecDeque<Pending>,
}

/// What may happen to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    /// A message arrives.
    Deliver {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The oldest write under way is complete.
    Sync,
    /// The process dies and comes back. This many parts of the writes under way have reached the disk.
    Crash {
        /// How many, oldest first.
        kept: usize,
    },
    /// A voter's timer fires. With abstract pre-votes, it also hears that it would be elected.
    TimeOut,
    /// A voter's timer fires, and it hears that someone is in a later term (abstract pre-votes only).
    Refused {
        /// That term.
        term: Term,
    },
    /// A leader's timer fires; it has heard its followers.
    Heartbeat,
    /// A leader's timer fires; it has not heard anyone for a whole election timeout.
    Silence,
    /// A client's command arrives at a leader.
    Propose {
        /// Which one, counted from 1.
        number: u8,
    },
}

/// How an exploration simplifies; see the module above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) abstract_pre_vote: bool,
    pub(super) keep_dead: bool,
}

impl Rules {
    /// Whether this can have an effect on anyone, here and now or later.
    fn matters(self, envelope: &Envelope<Message>) -> bool {
        match envelope.message.body {
            Body::HeartbeatAck { .. } => self.keep_dead,
            // News of a later term, of which anyone may hear at any time.
            Body::VoteRefused | Body::StaleTerm => self.keep_dead || !self.abstract_pre_vote,
            _ => true,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    /// What left the node.
    pub(super) sent: Vec<Envelope<Message>>,
    /// It now leads this term, and did not before.
    pub(super) elected: Option<Term>,
    /// What it newly knows to be committed.
    pub(super) committed: Vec<Entry>,
}

impl Disk {
    /// Applies one part.
    ///
    /// # Panics
    /// If a hard state is taken back (I2), or the log gets a hole (I10).
    fn apply(&mut self, part: &Part) {
        match part {
            Part::HardState(hard_state) => {
                let old = self.hard_state;
                let kept = hard_state.term > old.term
                    || (hard_state.term == old.term && (old.vote.is_none() || old.vote == hard_state.vote));
                assert!(kept, "the hard_state on disk {old:?} is replaced by {hard_state:?} (I2)");
                self.hard_state = *hard_state;
            }
            Part::Log(LogChange::RemoveFrom(index)) => self.entries.retain(|entry| entry.id.index < *index),
            Part::Log(LogChange::Append(new)) => {
                for entry in new {
                    let end = self.entries.len() as u64;
                    assert!(entry.id.index.0 == end + 1, "{} written after entry {end} (I10)", entry.id);
                    self.entries.push(entry.clone());
                }
            }
            Part::Log(change) => panic!("no snapshots here, but {change:?}"),
        }
    }

    fn has(&self, id: EntryId) -> bool {
        id == EntryId::ZERO || self.entries.get(id.index.0 as usize - 1).is_some_and(|entry| entry.id == id)
    }
}

impl Local {
    /// A founding member: entry 1 is on its disk.
    pub(super) fn founding(node: NodeId, genesis: &Entry) -> Local {
        let disk =
            Disk { hard_state: HardState { term: Term(1), ..HardState::default() }, entries: vec![genesis.clone()] };
        Local::start(node, disk)
    }

    fn start(node: NodeId, disk: Disk) -> Local {
        // One append at a time to each follower.
        // No log is long enough here to be cut, so no one needs to hear what all have.
        let log_retain_held_bytes = Settings::default().log_retain_bytes;
        let settings = Settings { inflight_appends_max: 1, log_retain_held_bytes, ..Settings::default() };
        let recovered =
            Recovered { stored: disk.hard_state.into(), entries: disk.entries.clone(), ..Recovered::default() };
        let mut raft = Raft::new(settings, node, recovered, ChaCha8Rng::seed_from_u64(0), Time(0));
        raft.forget_time_and_chance();
        invariants::check(&raft);
        Local { raft, disk, queue: VecDeque::new() }
    }

    /// How many parts the writes under way have.
    pub(super) fn parts(&self) -> usize {
        self.queue.iter().map(|pending| pending.parts.len()).sum()
    }

    /// Whether a write is under way.
    pub(super) fn writes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The same node by another name.
    pub(super) fn renamed(&self, name: &impl Fn(NodeId) -> NodeId) -> Local {
        let mut local = self.clone();
        local.raft.rename(name);
        local.disk.hard_state = renamed_hard_state(local.disk.hard_state, name);
        for pending in &mut local.queue {
            for part in &mut pending.parts {
                if let Part::HardState(hard_state) = part {
                    *hard_state = renamed_hard_state(*hard_state, name);
                }
            }
            for envelope in &mut pending.then {
                envelope.to = name(envelope.to);
            }
            sort(&mut pending.then);
        }
        local
    }

    /// What becomes of the node, and what leaves it.
    ///
    /// # Errors
    /// The invariant that broke.
    pub(super) fn step(&self, event: &LocalEvent, rules: Rules) -> Result<(Local, Effects), String> {
        let mut local = self.clone();
        catch_unwind(AssertUnwindSafe(move || {
            let effects = local.run(event, rules);
            local.raft.forget_time_and_chance();
            (local, effects)
        }))
        .map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        })
    }

    fn run(&mut self, event: &LocalEvent, rules: Rules) -> Effects {
        let mut effects = Effects::default();
        match event {
            LocalEvent::Deliver { from, message } => {
                self.input(NOW, Input::Receive { from: *from, message: message.clone() }, rules, &mut effects);
            }
            LocalEvent::Sync => {
                let Some(pending) = self.queue.pop_front() else { panic!("no write is under way") };
                pending.parts.iter().for_each(|part| self.disk.apply(part));
                for envelope in pending.then {
                    self.leave(envelope, &mut effects);
                }
                self.input(NOW, Input::Durable(WriteId(1)), rules, &mut effects);
            }
            LocalEvent::Crash { kept } => {
                let mut disk = self.disk.clone();
                let parts = self.queue.iter().flat_map(|pending| &pending.parts);
                parts.take(*kept).for_each(|part| disk.apply(part));
                *self = Local::start(self.raft.status().node, disk);
            }
            LocalEvent::TimeOut if !rules.abstract_pre_vote => self.input(NOW, Input::Tick, rules, &mut effects),
            LocalEvent::TimeOut => {
                let term = self.raft.hard_state().term.next();
                if let Some((other, campaign)) = self.pre_vote(rules) {
                    let message = Message { term, body: Body::PreVoteGranted { campaign } };
                    self.input(NOW, Input::Receive { from: other, message }, rules, &mut effects);
                }
            }
            LocalEvent::Refused { term } => {
                if let Some((other, campaign)) = self.pre_vote(rules) {
                    let message = Message { term: *term, body: Body::PreVoteRefused { campaign } };
                    self.input(NOW, Input::Receive { from: other, message }, rules, &mut effects);
                }
            }
            LocalEvent::Heartbeat => self.input(NOW, Input::Tick, rules, &mut effects),
            LocalEvent::Silence => self.input(LATER, Input::Tick, rules, &mut effects),
            LocalEvent::Propose { number } => {
                let commands = vec![Bytes::copy_from_slice(&[*number])];
                self.act(rules, &mut effects, |raft, asked| {
                    // A node that has ceased to lead refuses it, and that is that.
                    let _ = raft.propose(NOW, commands, asked);
                });
            }
        }
        sort(&mut effects.sent);
        effects
    }

    /// Fires a voter's timer; returns whom it asked first, and in which campaign. No one else hears of it.
    fn pre_vote(&mut self, rules: Rules) -> Option<(NodeId, u32)> {
        let mut effects = Effects::default();
        self.input(NOW, Input::Tick, rules, &mut effects);
        effects.sent.iter().find_map(|envelope| match envelope.message.body {
            Body::PreVote { campaign, .. } => Some((envelope.to, campaign)),
            _ => None,
        })
    }

    fn input(&mut self, now: Time, input: Input<Message>, rules: Rules, effects: &mut Effects) {
        self.act(rules, effects, |raft, asked| *asked = raft.step(now, input));
    }

    fn act(
        &mut self,
        rules: Rules,
        effects: &mut Effects,
        act: impl FnOnce(&mut Raft, &mut protocol::Effects<Message>),
    ) {
        let before = invariants::summary(&self.raft);
        let led = self.raft.role() == Role::Leader;
        let commit = self.raft.commit();
        let mut asked = protocol::Effects::default();
        act(&mut self.raft, &mut asked);
        let protocol::Effects { messages, writes, events, .. } = asked;
        invariants::check(&self.raft);
        invariants::check_transition(&before, &self.raft);
        for write in writes {
            let hard_state = write.hard_state().map(Part::HardState);
            let log = write.log().iter().cloned().map(Part::Log);
            let parts: Vec<_> = hard_state.into_iter().chain(log).collect();
            // What only waits its turn leaves with the write it waits for. (Later would be the same as a slow network.)
            let joins = parts.is_empty();
            if joins {
                self.raft.join_latest_write();
            } else {
                self.queue.push_back(Pending { parts, then: Vec::new() });
            }
            if let Some(pending) = self.queue.back_mut() {
                pending.then.extend(write.peek().iter().filter(|envelope| rules.matters(envelope)).cloned());
                sort(&mut pending.then);
                pending.then.dedup();
            }
        }
        for envelope in messages {
            self.leave(envelope, effects);
        }
        effects.committed.extend(self.raft.committed_from(commit.next(), usize::MAX, usize::MAX));
        if self.raft.role() == Role::Leader && !led {
            effects.elected = Some(self.raft.hard_state().term);
        }
        for event in events {
            // No one lies here, and no disk forgets.
            let is_sound =
                !matches!(event, Event::ProtocolViolation { .. } | Event::Forgot { .. } | Event::LossProven { .. });
            assert!(is_sound, "{event:?}");
        }
    }

    /// A message leaves the node.
    ///
    /// # Panics
    /// If what it rests on is not on the disk (I11).
    fn leave(&self, envelope: Envelope<Message>, effects: &mut Effects) {
        let Envelope { to, message: Message { term, body } } = &envelope;
        let Disk { hard_state, .. } = &self.disk;
        let voted = |whom| hard_state.term > *term || (hard_state.term == *term && hard_state.vote == Some(whom));
        let durable = match body {
            Body::PreVote { .. } | Body::PreVoteGranted { .. } => true,
            Body::VoteGranted => voted(*to),
            Body::Vote { .. } => voted(self.raft.status().node),
            Body::AppendAccepted { last } => hard_state.term >= *term && self.disk.has(*last),
            _ => hard_state.term >= *term,
        };
        assert!(durable, "left before it was durable: {:?} to {to}; on disk {hard_state:?} (I11)", envelope.message);
        effects.sent.push(envelope);
    }
}

/// What leaves together may arrive in any order: one order stands for all.
fn sort(envelopes: &mut [Envelope<Message>]) {
    envelopes.sort_by_cached_key(|envelope| format!("{envelope:?}"));
}
