//! A core without time and chance, and with its nodes renamed: what an exhaustive explorer needs so that states which
//! behave alike *are* equal. Not part of the protocol, and reached through [`crate::internals`] only.
//!
//! Every struct is taken apart by name, so a new field does not compile before someone has decided what it means here.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::disk_lag::DiskLag;
use super::leader::LeadershipTransfer;
use super::progress::Progress;
use super::{Candidate, Follower, Leader, Leadership, PreCandidate, Raft, Role};
use crate::entry::{Entry, EntryId, HardState, Index};
use crate::id::NodeId;
use crate::protocol::{Time, WriteId};

/// When every event of an exploration happens: all timers are due, whoever was heard was heard long ago, and writes and
/// followers are young.
pub const NOW: Time = Time(1 << 40);
/// When a leader looks at the clock that has not heard anyone for long.
pub const LATER: Time = Time(1 << 41);

const BEFORE: Time = Time(0);

/// A core as an explorer sees it.
pub trait Canonical {
    /// Forgets when things happened and what was drawn, and numbers the writes under way from 1 on. Then a step at
    /// [`NOW`] finds every timer due, and no reason to refuse a candidate that rests on time alone.
    fn forget_time_and_chance(&mut self);

    /// The latest write, which has nothing to write and only waits its turn, is complete as soon as the one before it.
    fn join_latest_write(&mut self);

    /// The same core with other names for all nodes, itself included. The names are those of the members, exchanged,
    /// and the members were never others: so the log stays what it is.
    fn rename(&mut self, name: &impl Fn(NodeId) -> NodeId);

    /// The log after its start.
    fn entries(&self) -> impl Iterator<Item = &Entry>;

    /// Term and vote, durable or not.
    fn hard_state(&self) -> HardState;

    /// The last committed entry that this core knows of.
    fn committed(&self) -> EntryId;
}

impl Canonical for Raft {
    fn forget_time_and_chance(&mut self) {
        let Raft {
            settings,
            node: _,
            rng,
            now,
            hard_state: _,
            log: _,
            configurations: _,
            commit: _,
            held_by_all: _,
            role,
            leader,
            timeout_us,
            pre_vote_backoff,
            bound_until,
            disk_lag,
            healing: _,
            out,
        } = self;
        *rng = ChaCha8Rng::seed_from_u64(0);
        *now = BEFORE;
        *timeout_us = settings.election_timeout_us;
        *pre_vote_backoff = None;
        *bound_until = BEFORE;
        // It only puts off when this node stands.
        *disk_lag = DiskLag::default();
        let Leadership { node, heard_at, lost_at, commit, believed } = leader;
        // What it named is only for those who watch.
        (*heard_at, *lost_at, *commit, *believed) = (None, None, Index::ZERO, node.is_some());
        let written = out.forget_time(NOW);
        match role {
            Role::Follower(Follower { election_at, campaign_at }) => (*election_at, *campaign_at) = (BEFORE, None),
            // The campaign's number stays, or no answer would fit. Drawn with the same chance each time, it is always
            // the same.
            Role::PreCandidate(PreCandidate { campaign: _, granted: _, refused, asked_at, retry_at }) => {
                (*asked_at, *retry_at) = (BEFORE, BEFORE);
                // It only matters to someone who asked a moment ago.
                refused.clear();
            }
            Role::Candidate(Candidate { granted: _, own_vote, retry_at }) => {
                (*own_vote, *retry_at) = (WriteId(own_vote.0.saturating_sub(written)), BEFORE);
            }
            Role::Leader(leader) => {
                let Leader { peers, reads: _, lease_state, transfer, heartbeat_at } = &mut **leader;
                *heartbeat_at = BEFORE;
                lease_state.forget_time(BEFORE);
                if let Some(LeadershipTransfer { target: _, deadline, told: _ }) = transfer {
                    *deadline = LATER;
                }
                for progress in peers.values_mut() {
                    (progress.since, progress.heard_at, progress.lease_asked_at) = (NOW, None, None);
                    // A commit index may be told twice; and what is on its way may be overdue, for all anyone knows.
                    (progress.commit_sent, progress.overdue) = (Index::ZERO, progress.inflight.oldest());
                    progress.disk_lag = DiskLag::default();
                    progress.forget_return(NOW);
                }
            }
        }
    }

    fn join_latest_write(&mut self) {
        self.out.join_latest();
    }

    fn rename(&mut self, name: &impl Fn(NodeId) -> NodeId) {
        let Raft {
            settings: _,
            node,
            rng: _,
            now: _,
            hard_state,
            log: _,
            configurations,
            commit: _,
            held_by_all: _,
            role,
            leader: Leadership { node: followed, heard_at: _, lost_at: _, commit: _, believed: _ },
            timeout_us: _,
            pre_vote_backoff,
            bound_until: _,
            disk_lag: _,
            healing: _,
            out: _,
        } = self;
        *node = name(*node);
        *hard_state = renamed_hard_state(*hard_state, name);
        let members = configurations.current().members();
        assert!(renamed(&members, name) == members, "the names change the members {members:?}");
        *followed = followed.map(name);
        *pre_vote_backoff = None;
        match role {
            Role::Follower(_) => {}
            Role::PreCandidate(PreCandidate { campaign: _, granted, refused, asked_at: _, retry_at: _ }) => {
                (*granted, *refused) = (renamed(granted, name), renamed(refused, name));
            }
            Role::Candidate(Candidate { granted, own_vote: _, retry_at: _ }) => *granted = renamed(granted, name),
            Role::Leader(leader) => {
                let Leader { peers, reads: _, lease_state: _, transfer, heartbeat_at: _ } = &mut **leader;
                let old: BTreeMap<NodeId, Progress> = std::mem::take(peers);
                peers.extend(old.into_iter().map(|(node, progress)| (name(node), progress)));
                if let Some(LeadershipTransfer { target, deadline: _, told: _ }) = transfer {
                    *target = name(*target);
                }
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.log.range(self.log.start().index.next(), self.log.last().index)
    }

    fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn committed(&self) -> EntryId {
        self.committed_id()
    }
}

/// A hard state with other names for the nodes.
pub fn renamed_hard_state(hard_state: HardState, name: &impl Fn(NodeId) -> NodeId) -> HardState {
    HardState { vote: hard_state.vote.map(name), ..hard_state }
}

fn renamed(set: &BTreeSet<NodeId>, name: &impl Fn(NodeId) -> NodeId) -> BTreeSet<NodeId> {
    set.iter().copied().map(name).collect()
}
