//! What must be true of one core, and of a core before and after a step. Tests and simulators run both after each step.
//!
//! The core asserts most of this where it changes state, also in release builds. Here it is said once more, in one
//! place and from outside, so that a forgotten assertion does not go unnoticed. Facts about several nodes (election
//! safety, log matching, state-machine safety) belong to the harness that sees them all.

use super::progress::Pace;
use super::{Raft, Role};
use crate::entry::{EntryId, HardState, Index};
use crate::id::NodeId;
use crate::protocol::Time;

pub use super::output::IDLE_WRITES_MAX;

/// What is kept of a core to compare it with later.
#[derive(Clone, Debug)]
pub struct Summary {
    hard_state: HardState,
    leader: Option<NodeId>,
    leads: bool,
    commit: EntryId,
    snapshot: Index,
    start: Index,
    last: EntryId,
}

/// Summarises a core, for [`check_transition`].
pub fn summary(raft: &Raft) -> Summary {
    Summary {
        hard_state: raft.hard_state,
        leader: raft.leader.node,
        leads: matches!(raft.role, Role::Leader(_)),
        commit: raft.committed_id(),
        snapshot: raft.log.snapshot().index,
        start: raft.log.start().index,
        last: raft.log.last(),
    }
}

/// Where a node's log begins and ends, and how far it is committed. Cheap: for a look after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The entry that the log starts after.
    pub start: EntryId,
    /// The last entry under the newest snapshot.
    pub snapshot: EntryId,
    /// The last entry known to be committed.
    pub commit: Index,
    /// The last entry.
    pub last: EntryId,
}

/// See [`Span`].
pub fn span(raft: &Raft) -> Span {
    Span { start: raft.log.start(), snapshot: raft.log.snapshot(), commit: raft.commit, last: raft.log.last() }
}

/// How much waits in a core, of what has a limit (I17). Cheap, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The most appends in flight to any one member.
    pub inflight_appends_most: usize,
    /// Reads that wait for a confirmation.
    pub reads_waiting: usize,
    /// Writes on their way to the disk that have nothing to write, at most [`IDLE_WRITES_MAX`].
    pub idle_writes_pending: usize,
    /// Members of the configuration in force.
    pub members: usize,
    /// Bytes of the log in memory.
    pub log_bytes: usize,
}

/// See [`Load`].
pub fn load(raft: &Raft) -> Load {
    let (inflight_appends_most, reads_waiting) = match &raft.role {
        Role::Leader(leader) => {
            let most = leader.peers.values().map(|progress| progress.inflight.len()).max();
            (most.unwrap_or(0), leader.reads.len())
        }
        _ => (0, 0),
    };
    let configuration = raft.configurations.current();
    Load {
        inflight_appends_most,
        reads_waiting,
        idle_writes_pending: raft.out.idle_pending(),
        members: configuration.voters.len() + configuration.learners.len(),
        log_bytes: raft.log.size_bytes(),
    }
}

/// Whether a node holds a lease at a time of its clock: then it answers reads by itself, and no one may lead in a later
/// term.
pub fn holds_lease(raft: &Raft, at: Time) -> bool {
    raft.holds_lease_at(at)
}

/// Whether a node lacks entries that it may have acknowledged, and so is to be silent.
pub fn is_healing(raft: &Raft) -> bool {
    raft.is_healing()
}

/// Up to where a node that heals has to get at least, whatever its leader says.
pub fn heals_past(raft: &Raft) -> Option<Index> {
    raft.heals_past()
}

/// Whether a lease forbids a node to vote, as of its last step.
pub fn is_bound(raft: &Raft) -> bool {
    raft.is_bound()
}

/// Checks one state. Walks the whole log; for tests.
///
/// # Panics
/// If an invariant is broken, with the values.
pub fn check(raft: &Raft) {
    let (start, snapshot, last) = (raft.log.start(), raft.log.snapshot(), raft.log.last());
    // I10
    raft.log.assert_shape();
    assert!(
        start.index <= snapshot.index && snapshot.index <= raft.commit && raft.commit <= last.index,
        "start {start}, snapshot {snapshot}, commit {}, last {last}",
        raft.commit
    );
    assert!(last.term <= raft.hard_state.term, "entry {last} in {}", raft.hard_state.term);
    assert!(raft.out.durable() <= last.index, "durable {} after the last entry {last}", raft.out.durable());
    raft.out.assert_order();
    // I15
    raft.configurations.assert_steps();
    assert!(
        raft.configurations.current_index() <= last.index,
        "configuration {} after the last entry {last}",
        raft.configurations.current_index()
    );
    match &raft.role {
        Role::Leader(leader) => {
            assert!(raft.leader.node == Some(raft.node), "a leader follows {:?}", raft.leader.node);
            assert!(raft.hard_state.vote == Some(raft.node), "a leader voted for {:?}", raft.hard_state.vote);
            assert!(last.term == raft.hard_state.term, "a leader of {} without an entry: {last}", raft.hard_state.term);
            assert!(!leader.peers.contains_key(&raft.node), "a leader is its own follower");
            for (node, progress) in &leader.peers {
                let (matched, next) = (progress.match_index, progress.next_index);
                assert!(matched < next, "{node}: match {matched}, next {next}");
                assert!(next <= last.index.next(), "{node}: next {next}, but the log ends at {last}");
                assert!(progress.confirmed_round <= leader.reads.round, "{node} confirmed a round of the future");
                assert!(progress.inflight.len() <= raft.settings.inflight_appends_max + 1, "{node}: window overflow");
                let idle = progress.inflight.is_empty();
                assert!(idle || !matches!(progress.pace, Pace::Snapshot(_)), "{node}: appends during a snapshot");
            }
            // A leader may inherit several whose commitment it has not learnt of yet, but never starts a second one.
            let uncommitted = raft.configurations.uncommitted(raft.commit);
            let settled = raft.has_committed_in_term();
            assert!(!settled || uncommitted <= 1, "{uncommitted} uncommitted configurations");
        }
        Role::Candidate(_) => {
            assert!(raft.hard_state.vote == Some(raft.node), "a candidate voted for {:?}", raft.hard_state.vote);
            assert!(raft.leader.node.is_none(), "a candidate of a term led by {:?}", raft.leader.node);
        }
        Role::Follower(_) | Role::PreCandidate(_) => {}
    }
}

/// Checks two states of the same run, one step (or more) apart.
///
/// # Panics
/// If an invariant is broken, with the values.
pub fn check_transition(before: &Summary, raft: &Raft) {
    let after = summary(raft);
    // I3
    assert!(after.hard_state.term >= before.hard_state.term, "the term fell: {before:?}, {after:?}");
    assert!(after.commit.index >= before.commit.index, "the commit index fell: {before:?}, {after:?}");
    assert!(after.hard_state.lease_us >= before.hard_state.lease_us, "a lease was forgotten: {before:?}, {after:?}");
    assert!(after.snapshot >= before.snapshot, "the snapshot went back: {before:?}, {after:?}");
    assert!(after.start >= before.start, "the log's start went back: {before:?}, {after:?}");
    // What was committed is still the same entry, as far as one can still see it (I9).
    if let Some(id) = raft.log.id_at(before.commit.index) {
        assert!(id == before.commit, "committed {} became {id}", before.commit);
    }
    if after.hard_state.term == before.hard_state.term {
        // I2, I1
        assert!(
            before.hard_state.vote.is_none() || after.hard_state.vote == before.hard_state.vote,
            "the vote changed: {before:?}, {after:?}"
        );
        assert!(
            before.leader.is_none() || after.leader == before.leader,
            "the term's leader changed: {before:?}, {after:?}"
        );
        assert!(before.leads || !after.leads || before.leader.is_none(), "a deposed leader came back: {before:?}");
        // I4
        if before.leads && after.leads {
            assert!(after.last.index >= before.last.index, "a leader's log shrank: {before:?}, {after:?}");
            let kept = before.last.index < after.start || raft.log.has(before.last);
            assert!(kept, "a leader rewrote its log: {before:?}, {after:?}");
        }
    }
}
