//! I8: when commit passes an index, the entry there has survived a sync on a majority of every configuration in force.
//! Judged by what is on the disks, not by what nodes say or count.
//!
//! The books of what is on the disks are compared with the disks themselves at each start and now and then in between
//! ([`super::persist_before_send`]).

use std::collections::BTreeSet;

use smr::entry::{Configuration, EntryId, Index};
use smr::id::NodeId;

use super::{Property, View, majority};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct DurableMajority {
    /// Commits that the configuration in the books does not explain. One that the same step has appended may.
    doubtful: Vec<Doubt>,
}

struct Doubt {
    leader: NodeId,
    id: EntryId,
    synced: BTreeSet<NodeId>,
    /// The carrier of the configuration that was tried.
    tried: Index,
}

impl Property for DurableMajority {
    fn name(&self) -> &'static str {
        "I8 commit needs a durable majority"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        let Observation::Committed { node, entry } = observation else { return Ok(()) };
        let Some((id, chain)) = ledger.committed_at(entry.id.index).filter(|_| ledger.is_newly_committed()) else {
            return Ok(());
        };
        // The first who knows an entry to be committed is the leader, who has just committed it.
        let Some((tried, configuration)) = ledger.page(*node).and_then(|page| page.log.configuration()) else {
            return Err(format!("{node} commits {id} without a configuration"));
        };
        let has = |voter: &NodeId| ledger.page(*voter).is_some_and(|page| page.has_synced(id.index, chain));
        if majority(configuration, &has) {
            return Ok(());
        }
        let synced = ledger.nodes().filter(has).collect();
        self.doubtful.push(Doubt { leader: *node, id, synced, tried });
        Ok(())
    }

    fn after_step(&mut self, _view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        for Doubt { leader, id, synced, tried } in self.doubtful.drain(..) {
            let page = ledger.page(leader);
            let newer: Vec<(Index, &Configuration)> = page
                .map(|page| page.log.configurations().filter(|(carrier, _)| *carrier > tried).collect())
                .unwrap_or_default();
            if !newer.iter().any(|(_, configuration)| majority(configuration, &|voter| synced.contains(voter))) {
                let configuration = page.and_then(|page| page.log.configuration());
                return Err(format!("{leader} commits {id}, which is durable on {synced:?} of {configuration:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, D, Play, append, members, noop};
    use smr::internals::protocol::LogChange;

    fn founded() -> Play<DurableMajority> {
        let mut play = Play::new(DurableMajority::default());
        for node in [A, B, C] {
            play.writes(node, None, vec![append(&[members(1, 1, &[A, B, C], &[])])]).unwrap();
        }
        play.applies(A, members(1, 1, &[A, B, C], &[])).unwrap();
        play.step().unwrap();
        play
    }

    // covers I8
    #[test]
    fn commit_before_the_leaders_own_sync_is_rejected() {
        let mut play = founded();
        play.writes(B, None, vec![append(&[noop(2, 1)])]).unwrap();
        play.issues(A, None, vec![append(&[noop(2, 1)])]).unwrap();
        play.applies(A, noop(2, 1)).unwrap();
        assert!(play.step().unwrap_err().contains("2.t1"));
    }

    // covers I8, E20
    #[test]
    fn commit_with_half_of_the_voters_is_rejected_and_with_a_majority_not() {
        let mut play = Play::new(DurableMajority::default());
        let first = members(1, 1, &[A, B, C, D], &[]);
        for node in [A, B] {
            play.writes(node, None, vec![append(std::slice::from_ref(&first))]).unwrap();
        }
        play.applies(A, first.clone()).unwrap();
        assert!(play.step().is_err());

        let mut play = founded();
        for node in [A, C] {
            play.writes(node, None, vec![append(&[noop(2, 1)])]).unwrap();
        }
        play.applies(A, noop(2, 1)).unwrap();
        play.step().unwrap();
    }

    // covers I8, L5
    #[test]
    fn commit_that_counts_another_entry_at_the_same_index_is_rejected() {
        let mut play = founded();
        play.writes(A, None, vec![append(&[noop(2, 2)])]).unwrap();
        play.writes(B, None, vec![append(&[noop(2, 1)])]).unwrap();
        play.applies(A, noop(2, 2)).unwrap();
        assert!(play.step().is_err());
    }

    // covers I8, L7
    #[test]
    fn commit_that_counts_what_was_truncated_since_is_rejected() {
        let mut play = founded();
        play.writes(A, None, vec![append(&[noop(2, 1)])]).unwrap();
        play.writes(B, None, vec![append(&[noop(2, 1)])]).unwrap();
        play.writes(B, None, vec![LogChange::RemoveFrom(Index(2))]).unwrap();
        play.applies(A, noop(2, 1)).unwrap();
        assert!(play.step().is_err());
    }

    // covers I8, I15
    #[test]
    fn commit_in_a_joint_configuration_needs_both_majorities() {
        let joint = members(2, 1, &[A, D], &[A, B, C]);
        let mut play = founded();
        for node in [A, B] {
            play.writes(node, None, vec![append(std::slice::from_ref(&joint))]).unwrap();
        }
        play.applies(A, joint.clone()).unwrap();
        assert!(play.step().is_err(), "a majority of the old one only");

        let mut play = founded();
        for node in [A, B] {
            play.writes(node, None, vec![append(std::slice::from_ref(&joint))]).unwrap();
        }
        play.writes(D, None, vec![append(&[members(1, 1, &[A, B, C], &[]), joint.clone()])]).unwrap();
        play.applies(A, joint).unwrap();
        play.step().unwrap();
    }
}
