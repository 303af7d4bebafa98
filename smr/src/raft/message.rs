//! What the members of a group say to each other.

use serde::{Deserialize, Serialize};

use crate::core_kit::matching::validate_append;
use crate::entry::{Entry, EntryId, Index, Term};
use crate::id::NodeId;

/// Terms at or above this one are no result of elections (one a microsecond would take 290,000 years): whoever
/// names one is broken, and must not be able to use up the terms of the group (B5).
pub const TERM_LIMIT: Term = Term(u64::MAX / 2);
/// The same for indexes.
pub const INDEX_LIMIT: Index = Index(u64::MAX / 2);
/// The longest lease that a voter grants, in microseconds: a broken leader must not be able to put off elections for
/// long (B5).
pub const LEASE_MAX_US: u64 = 10_000_000;

/// A message: a term and what is said in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's term. In [`Body::PreVote`] and [`Body::PreVoteGranted`] it is the term that the sender of the
    /// question *would* campaign in, which no one has entered yet.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What is said. The table in [`crate::raft`] shows who says it to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Would you vote for me? Changes nothing at the receiver (thesis §9.6).
    PreVote {
        /// Tells the campaigns of one node apart; drawn at random, comes back in the answer.
        campaign: u32,
        /// The last entry of the sender's log.
        last: EntryId,
    },
    /// I would.
    PreVoteGranted {
        /// From the question.
        campaign: u32,
    },
    /// I would not; the message's term is the sender's own, so that it can be caught up with (E13).
    PreVoteRefused {
        /// From the question.
        campaign: u32,
    },
    /// Vote for me (§5.2).
    Vote {
        /// The last entry of the sender's log.
        last: EntryId,
        /// The leader itself asked the sender to take over: voters need not wait for its silence (thesis §3.10).
        transfer: bool,
    },
    /// You have my vote in this term.
    VoteGranted,
    /// You have not.
    VoteRefused,
    /// Entries for the log; without any it only asks whether the log reaches here (§5.3).
    Append {
        /// The entry right before `entries`.
        previous: EntryId,
        /// Consecutive entries.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// My durable log equals yours up to this entry.
    AppendAccepted {
        /// The entry.
        last: EntryId,
    },
    /// My log has no such previous entry.
    AppendRejected {
        /// The previous entry's index in the append.
        previous: Index,
        /// The last entry at which the logs may still agree, as seen from the follower; before `previous`.
        hint: EntryId,
    },
    /// The leader is there. Starts or repeats a round of read confirmation (thesis §6.4).
    Heartbeat {
        /// The latest round; 0 before the first.
        round: u64,
        /// The last entry that is committed and, as far as the leader knows, in the receiver's log. The receiver moves
        /// its commit index only if it has this very entry, term included.
        commit: EntryId,
        /// Every member has the log durably up to here, as far as the leader knows; not beyond `commit`. Then no one
        /// will ask for it, and the receiver need not keep it either.
        held_by_all: Index,
        /// The lease that the leader asks for, if it serves reads that way.
        lease: Option<Lease>,
    },
    /// The leader was heard. Does not wait for the disk, except for the first lease of its length.
    HeartbeatAck {
        /// From the heartbeat.
        round: u64,
        /// From the heartbeat: the sender is bound by it.
        lease: Option<Lease>,
    },
    /// Like the commit in a heartbeat, for followers that have nothing else to wait for. Not answered.
    Commit {
        /// The last entry that is committed.
        last: EntryId,
    },
    /// The term in which you lead is over; the message's term is the sender's.
    StaleTerm,
    /// Start an election at once (thesis §3.10).
    TimeoutNow,
    /// A snapshot is in place; my durable log equals yours up to this entry.
    SnapshotInstalled {
        /// The snapshot's last entry, or a later one that is known to be committed.
        last: EntryId,
    },
    /// I have lost entries that I may have acknowledged, and heal: send me what you have, and count me as down. In the
    /// place of an answer to a heartbeat.
    Healing {
        /// Names this start of the sender; drawn at random, comes back in the answer.
        start: u64,
    },
    /// The answer of a leader: its log as it was when it heard that.
    HealingHeard {
        /// From the question.
        start: u64,
        /// The last entry of the leader's log.
        last: EntryId,
    },
    /// My durable log equals yours up to this entry. As I am healing, that counts for nothing.
    AppendStored {
        /// As in [`Body::Healing`].
        start: u64,
        /// The entry.
        last: EntryId,
    },
}

/// A lease, as a leader asks for it and a voter grants it ([`super::lease`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When the heartbeat was sent, in microseconds of the leader's clock. Means something to the leader only.
    pub asked_at_us: u64,
    /// How long who answers is bound from then on, in microseconds of its own clock.
    pub length_us: u64,
}

impl Message {
    /// A lower bound for every enum variant's fixed part on the wire, in bytes.
    const FIXED_BYTES: usize = 64;

    /// About how many bytes the message takes on the wire.
    pub(super) fn size_bytes(&self) -> usize {
        let entries = match &self.body {
            Body::Append { entries, .. } => entries.iter().map(Entry::size_bytes).sum(),
            _ => 0,
        };
        Message::FIXED_BYTES + entries
    }

    /// Whether the message is sound, judged by itself (B5); if not, why. The receiver's state plays no part here.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.term >= TERM_LIMIT {
            return Err(format!("{:?} is beyond all terms", self.term));
        }
        if self.term == Term::ZERO && !matches!(self.body, Body::PreVoteRefused { .. } | Body::VoteRefused) {
            return Err("a message of term 0".to_owned());
        }
        if let Body::Heartbeat { lease: Some(lease), .. } | Body::HeartbeatAck { lease: Some(lease), .. } = &self.body
            && !(1..=LEASE_MAX_US).contains(&lease.length_us)
        {
            return Err(format!("a lease of {} us", lease.length_us));
        }
        let named = match &self.body {
            Body::PreVote { last, .. } | Body::Vote { last, .. } => *last,
            Body::Append { previous, entries, .. } => {
                validate_append(self.term, *previous, entries)?;
                *previous
            }
            Body::AppendAccepted { last }
            | Body::Commit { last }
            | Body::SnapshotInstalled { last }
            | Body::HealingHeard { last, .. }
            | Body::AppendStored { last, .. } => *last,
            Body::AppendRejected { previous, hint } => {
                if hint.index >= *previous {
                    return Err(format!("hint {hint} is not before the rejected entry {previous}"));
                }
                *hint
            }
            Body::Heartbeat { commit, held_by_all, .. } => {
                if *held_by_all > commit.index {
                    return Err(format!("all members have {held_by_all}, but only {commit} is committed"));
                }
                *commit
            }
            Body::PreVoteGranted { .. }
            | Body::PreVoteRefused { .. }
            | Body::VoteGranted
            | Body::VoteRefused
            | Body::HeartbeatAck { .. }
            | Body::Healing { .. }
            | Body::StaleTerm
            | Body::TimeoutNow => EntryId::ZERO,
        };
        // An entry's term is at most its holder's. A pre-vote names the term after the holder's, so this holds there
        // too.
        if named.term > self.term
            || named.index >= INDEX_LIMIT
            || (named.index == Index::ZERO) != (named.term == Term::ZERO)
        {
            return Err(format!("entry {named} cannot exist in {:?}", self.term));
        }
        Ok(())
    }
}

/// A message and its receiver, as cores hand them out.
pub(super) type Envelope = crate::protocol::Envelope<Message>;

/// Addresses a message.
pub(super) fn envelope(to: NodeId, term: Term, body: Body) -> Envelope {
    Envelope { to, message: Message { term, body } }
}
