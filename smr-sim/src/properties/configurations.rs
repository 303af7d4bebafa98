//! I15: at most one uncommitted change of members; two neighbouring configurations share a member in any two quorums;
//! and a leader changes members only after it has committed an entry of its own term (M1).
//!
//! Quorums are tried out one by one, with a majority counted here: what the core believes of quorums plays no part.

use std::collections::BTreeSet;

use smr::entry::{Configuration, Entry, EntryId, Index, Payload};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;

use super::{Property, majority};
use crate::ledger::Ledger;
use crate::observation::Observation;

/// Voters of two configurations together, up to which all quorums are tried.
const VOTERS_TRIED_MAX: usize = 12;

#[derive(Default)]
pub(super) struct Configurations {
    /// All entries of this kind so far: a copy on its way to others is not a new change.
    seen: BTreeSet<EntryId>,
}

/// Two quorums without a common member, if there are such.
fn disjoint(one: &Configuration, other: &Configuration) -> Option<(Vec<NodeId>, Vec<NodeId>)> {
    let voters: BTreeSet<NodeId> =
        [&one.voters, &one.outgoing, &other.voters, &other.outgoing].into_iter().flatten().copied().collect();
    let voters: Vec<NodeId> = voters.into_iter().collect();
    if voters.len() > VOTERS_TRIED_MAX {
        return None;
    }
    let (inside, outside) = (0..1u32 << voters.len())
        .map(|subset| {
            let is_in = |at: usize| subset & 1 << at != 0;
            let (inside, outside): (Vec<usize>, Vec<usize>) = (0..voters.len()).partition(|at| is_in(*at));
            let name = |places: Vec<usize>| places.into_iter().map(|at| voters[at]).collect::<Vec<_>>();
            (name(inside), name(outside))
        })
        .find(|(inside, outside)| {
            majority(one, &|node| inside.contains(node)) && majority(other, &|node| outside.contains(node))
        })?;
    Some((inside, outside))
}

fn carries(entry: &&Entry) -> bool {
    matches!(entry.payload, Payload::Configuration(_))
}

impl Property for Configurations {
    fn name(&self) -> &'static str {
        "I15 configurations"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        if let Observation::Started { recovered, .. } = observation {
            // A founder has the first one without a leader's doing.
            self.seen.extend(recovered.entries.iter().filter(carries).map(|entry| entry.id));
        }
        let Observation::WriteIssued { node, write } = observation else { return Ok(()) };
        for change in write.log() {
            let LogChange::Append(entries) = change else { continue };
            for entry in entries {
                let Payload::Configuration(new) = &entry.payload else { continue };
                if !self.seen.insert(entry.id) {
                    continue;
                }
                let Some(page) = ledger.page(*node) else { continue };
                let Some((carrier, old)) = page.log.configurations().filter(|(at, _)| *at < entry.id.index).last()
                else {
                    continue;
                };
                let last = ledger.committed();
                if carrier > last.index {
                    return Err(format!("{node} makes {} while the change at {carrier} is uncommitted", entry.id));
                }
                // A leader that is cut off may go on where its successors have committed more.
                let known = (0..=last.index.0).rev().filter_map(|index| ledger.committed_at(Index(index)));
                let reached = known.map(|(id, _)| id.term).find(|term| *term <= entry.id.term);
                if reached != Some(entry.id.term) {
                    return Err(format!("{node} makes {} before it committed in its term", entry.id));
                }
                if let Some((one, other)) = disjoint(old, new) {
                    return Err(format!("quorums {one:?} before {} and {other:?} from it on", entry.id));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, D, E, Play, append, members, noop};

    fn founded() -> Play<Configurations> {
        let mut play = Play::new(Configurations::default());
        let first = members(1, 1, &[A, B, C], &[]);
        play.writes(A, None, vec![append(&[first.clone(), noop(2, 1)])]).unwrap();
        play.applies(A, first).unwrap();
        play.applies(A, noop(2, 1)).unwrap();
        play
    }

    // covers I15, M2
    #[test]
    fn second_uncommitted_change_is_rejected() {
        let mut play = founded();
        let joint = members(3, 1, &[A, B, D], &[A, B, C]);
        play.writes(A, None, vec![append(std::slice::from_ref(&joint))]).unwrap();
        assert!(play.writes(A, None, vec![append(&[members(4, 1, &[A, B, D], &[])])]).is_err());

        let mut play = founded();
        play.writes(A, None, vec![append(std::slice::from_ref(&joint))]).unwrap();
        play.applies(A, joint).unwrap();
        play.writes(A, None, vec![append(&[members(4, 1, &[A, B, D], &[])])]).unwrap();
    }

    // covers I15
    #[test]
    fn change_whose_quorums_may_miss_each_other_is_rejected() {
        let change = |voters: &[NodeId]| vec![append(&[members(3, 1, voters, &[])])];
        assert!(founded().writes(A, None, change(&[A, D, E])).is_err(), "two replaced at once");
        assert!(founded().writes(A, None, change(&[A])).is_err(), "two removed at once");
        founded().writes(A, None, change(&[A, B, C, D])).unwrap();
    }

    // covers I15, M1
    #[test]
    fn change_before_an_entry_of_the_own_term_is_committed_is_rejected() {
        let mut play = founded();
        play.writes(A, None, vec![append(&[noop(3, 2)])]).unwrap();
        assert!(play.writes(A, None, vec![append(&[members(4, 2, &[A, B, C, D], &[])])]).is_err());
    }

    // covers I15, M1
    #[test]
    fn change_of_a_leader_cut_off_from_successors_that_committed_more_is_judged_by_what_was_committed_in_its_own_term()
    {
        // B leads in term 3 and has committed there, A still in an older one.
        let succeeded = |term_of_a: u64, index: u64| {
            let mut play = founded();
            if term_of_a == 2 {
                play.writes(A, None, vec![append(&[noop(3, 2)])]).unwrap();
            }
            play.writes(B, None, vec![append(&[members(1, 1, &[A, B, C], &[]), noop(2, 1), noop(3, 3)])]).unwrap();
            play.applies(B, noop(3, 3)).unwrap();
            play.writes(A, None, vec![append(&[members(index, term_of_a, &[A, B, C, D], &[])])])
        };
        succeeded(1, 3).unwrap();
        assert!(succeeded(2, 4).is_err(), "in term 2 nothing was ever committed");
    }

    #[test]
    fn disjoint_quorums_are_found_where_there_are_some() {
        let of = |voters: &[NodeId], outgoing: &[NodeId]| Configuration {
            voters: voters.iter().copied().collect(),
            outgoing: outgoing.iter().copied().collect(),
            ..Configuration::default()
        };
        assert_eq!(disjoint(&of(&[A, B, C], &[]), &of(&[D, E], &[A, B, C])), None);
        assert_eq!(disjoint(&of(&[A, B, C], &[]), &of(&[A, B], &[])), None);
        assert!(disjoint(&of(&[A, B, C], &[]), &of(&[C, D, E], &[])).is_some());
        assert!(disjoint(&of(&[A, B], &[]), &of(&[C], &[])).is_some());
    }
}
