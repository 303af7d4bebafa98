//! Everything that looks on: the trace, the properties, and who counts rare situations.

use smr::codec;
use smr::entry::{EntryId, Index};
use smr::internals::protocol::Time;
use smr::internals::raft::message::{Body, Lease};
use smr::replica::Outcome;
use smr::status::Role;

use crate::ledger::Ledger;
use crate::observation::{End, Observation};
use crate::properties::{Property, View};
use crate::rare::RareCounts;
use crate::rare_watch::RareWatch;
use crate::trace::Trace;

/// A property did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property that is violated.
    pub property: String,
    /// What was wrong.
    pub why: String,
    /// The step of the world after which it was seen.
    pub step: u64,
    /// When that was seen.
    pub at: Time,
}

/// Those who look on.
pub struct Watch {
    /// What has happened.
    pub trace: Trace,
    /// How often what was seen.
    pub rare: RareCounts,
    /// What an all-knowing observer writes down.
    pub ledger: Ledger,
    /// What must hold.
    pub properties: Vec<Box<dyn Property>>,
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    pub(super) rare_watch: RareWatch,
    pub(super) now: Time,
    pub(super) step: u64,
}

impl Watch {
    pub(super) fn new(trace: Trace, properties: Vec<Box<dyn Property>>) -> Watch {
        Watch {
            trace,
            rare: RareCounts::default(),
            ledger: Ledger::default(),
            properties,
            violation: None,
            rare_watch: RareWatch::default(),
            now: Time(0),
            step: 0,
        }
    }

    /// Something happened: everyone hears of it.
    pub(super) fn observe(&mut self, observation: &Observation<'_>) {
        self.trace.note(self.now, &words(observation), || text(observation));
        self.rare_watch.on(observation, &mut self.rare);
        let (step, at) = (self.step, self.now);
        let mut violated = |property: &dyn Property, why: String| {
            let property = property.name().to_owned();
            self.violation.get_or_insert(Violation { property, why, step, at });
        };
        for property in &mut self.properties {
            if let Err(why) = property.before(observation, &self.ledger) {
                violated(property.as_ref(), why);
            }
        }
        self.ledger.note(observation);
        for property in &mut self.properties {
            if let Err(why) = property.on(observation, &self.ledger) {
                violated(property.as_ref(), why);
            }
        }
    }

    /// A step is over.
    pub(super) fn after_step(&mut self, view: &View<'_>) {
        for property in &mut self.properties {
            if let Err(why) = property.after_step(view, &self.ledger) {
                let name = property.name();
                self.violation.get_or_insert_with(|| Violation {
                    property: name.to_owned(),
                    why,
                    step: view.step,
                    at: view.now,
                });
            }
        }
    }

    /// Something outside of the properties is wrong.
    pub(super) fn violate(&mut self, property: &str, why: String) {
        let (step, at) = (self.step, self.now);
        self.violation.get_or_insert_with(|| Violation { property: property.to_owned(), why, step, at });
    }
}

/// What goes into the hash of the trace.
fn words(observation: &Observation<'_>) -> [u64; 5] {
    use Observation as H;
    let id = |entry: EntryId| entry.index.0 << 16 ^ entry.term.0;
    match observation {
        H::Started { node, recovered, forgot } => {
            let last = recovered.entries.last().map_or(EntryId::ZERO, |entry| entry.id);
            [1, node.incarnation.0, recovered.hard_state().term.0, id(last), u64::from(*forgot)]
        }
        H::Waits { node } => [2, node.incarnation.0, 0, 0, 0],
        H::Ended { node, end } => {
            let how = match end {
                End::Killed => 0,
                End::PowerCut => 1,
                End::DiskError(_) => 2,
                End::Quarantined(_) => 3,
            };
            [3, node.incarnation.0, how, 0, 0]
        }
        H::DirectorySpoiled { node, how } => [4, node.incarnation.0, *how as u64, 0, 0],
        H::Sent { from, to, message } => [5, from.incarnation.0, to.incarnation.0, message.term.0, body(&message.body)],
        H::Received { from, to, message } => {
            [6, from.incarnation.0, to.incarnation.0, message.term.0, body(&message.body)]
        }
        H::WriteIssued { node, write } => [7, node.incarnation.0, write.id().0, write.log().len() as u64, 0],
        H::WriteDurable { node, write } => [8, node.incarnation.0, write.id().0, 0, 0],
        H::Applied { node, entry, took_effect, digest, .. } => {
            [9, node.incarnation.0, id(entry.id), u64::from(*took_effect), *digest]
        }
        H::RoleChanged { node, role, term, leader } => {
            let role = match role {
                Role::Leader => 0,
                Role::Candidate => 1,
                Role::Follower => 2,
                Role::Learner => 3,
            };
            [10, node.incarnation.0, role, term.0, leader.map_or(0, |leader| leader.incarnation.0)]
        }
        H::Forgot { node, .. } => [11, node.incarnation.0, 0, 0, 0],
        H::SnapshotTaken { node, last, checksum } => [12, node.incarnation.0, id(*last), *checksum, 0],
        H::SnapshotInstalled { node, meta, accepted } => {
            [13, node.incarnation.0, id(meta.last), u64::from(*accepted), 0]
        }
        H::SnapshotSent { from, to, last } => {
            [14, from.incarnation.0, to.incarnation.0, last.map_or(0, id), u64::from(last.is_some())]
        }
        H::Asked { node, tag, .. } => [15, node.incarnation.0, *tag, 0, 0],
        H::Answered { node, tag, outcome } => [16, node.incarnation.0, *tag, outcome_word(outcome), 0],
        H::Cut { from, to } => [17, u64::from(*from), u64::from(*to), 0, 0],
        H::CutsHealed => [18, 0, 0, 0, 0],
        H::Calm => [19, 0, 0, 0, 0],
        H::Excluded { node } => [20, node.incarnation.0, 0, 0, 0],
        H::Founds { node, genesis, .. } => [21, node.incarnation.0, genesis.hash().0 as u64, 0, 0],
        H::ToldToFoundAnew => [22, 0, 0, 0, 0],
        H::Committed { node, entry } => [23, node.incarnation.0, id(entry.id), 0, 0],
    }
}

fn body(body: &Body) -> u64 {
    let id = |entry: EntryId| entry.index.0 << 16 ^ entry.term.0;
    let leased = |lease: &Option<Lease>| lease.map_or(0, |lease| lease.asked_at_us << 20 ^ lease.length_us);
    match body {
        Body::PreVote { campaign, last } => 1 << 60 ^ u64::from(*campaign) ^ id(*last) << 24,
        Body::PreVoteGranted { campaign } => 2 << 60 ^ u64::from(*campaign),
        Body::PreVoteRefused { campaign } => 3 << 60 ^ u64::from(*campaign),
        Body::Vote { last, transfer } => 4 << 60 ^ id(*last) ^ u64::from(*transfer) << 50,
        Body::VoteGranted => 5 << 60,
        Body::VoteRefused => 6 << 60,
        Body::Append { previous, entries, commit: Index(commit) } => {
            7 << 60 ^ id(*previous) ^ (entries.len() as u64) << 40 ^ commit << 48
        }
        Body::AppendAccepted { last } => 8 << 60 ^ id(*last),
        Body::AppendRejected { previous, hint } => 9 << 60 ^ previous.0 << 30 ^ id(*hint),
        Body::Heartbeat { round, commit, held_by_all, lease } => {
            10 << 60 ^ round << 30 ^ id(*commit) ^ held_by_all.0 << 45 ^ leased(lease)
        }
        Body::HeartbeatAck { round, lease } => 11 << 60 ^ round ^ leased(lease),
        Body::Commit { last } => 12 << 60 ^ id(*last),
        Body::StaleTerm => 13 << 60,
        Body::TimeoutNow => 14 << 60,
        Body::SnapshotInstalled { last } => 15 << 60 ^ id(*last),
        Body::Healing { start } => start.rotate_left(1),
        Body::HealingHeard { start, last } => start.rotate_left(2) ^ id(*last),
        Body::AppendStored { start, last } => start.rotate_left(3) ^ id(*last),
    }
}

fn outcome_word(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Answer(answer) => codec::checksum(&[answer]),
        Outcome::SessionOpened(client) => client.index,
        Outcome::Status(_) => 1,
        Outcome::Done => 2,
        Outcome::NotLeader(hint) => 3 ^ hint.term.0 << 8,
        Outcome::Busy { .. } => 4,
        Outcome::TooLarge { .. } => 5,
        Outcome::SessionExpired => 6,
        Outcome::AnswerGone => 7,
        Outcome::Refused(_) => 8,
        Outcome::Unknown => 9,
        Outcome::OutOfService(_) => 10,
        Outcome::DiskFull => 11,
    }
}

fn text(observation: &Observation<'_>) -> String {
    format!("{observation:?}")
}
