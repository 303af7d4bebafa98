//! I4: a leader never removes or rewrites an entry during its own term, and appends entries of its own term only (Raft
//! §5.3). And no one removes an entry that was committed in its own term or before (L3). In a later one it may be: a
//! leader that is cut off and does not know of its successors still reaches someone who does not know of them either,
//! and whose copy no majority needed.

use std::collections::BTreeMap;

use smr::entry::{Index, Term};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;
use smr::status::Role;

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct LeaderAppendOnly {
    leaders: BTreeMap<NodeId, Term>,
    /// Elected in this step: what they wrote in it, they may have written before.
    elected: Vec<(NodeId, Term)>,
    /// The terms that nodes are in.
    terms: BTreeMap<NodeId, Term>,
    /// Those that nodes were in when the step began in which they came to others.
    terms_before: BTreeMap<NodeId, Term>,
    /// The last index that was committed in each term.
    committed: BTreeMap<Term, Index>,
}

impl LeaderAppendOnly {
    fn enters(&mut self, node: NodeId, term: Term) {
        let known = self.terms.entry(node).or_insert(term);
        if term > *known {
            self.terms_before.entry(node).or_insert(*known);
            *known = term;
        }
    }

    /// The term in which an index was committed, or a later one.
    fn committed_in(&self, index: Index) -> Option<Term> {
        self.committed.iter().find(|(_, last)| **last >= index).map(|(term, _)| *term)
    }

    /// Whether `node`, which removes the entry at `index` by this write, or whoever had it do so, must have it.
    fn must_have(&self, node: NodeId, index: Index, log: &[LogChange]) -> bool {
        let Some((committed, own)) = self.committed_in(index).zip(self.terms.get(&node)) else { return true };
        let before = self.terms_before.get(&node).unwrap_or(own);
        // Whoever led it to remove the entry was of the term of what came in its place, or of a later one.
        let by_later = |replacement: Term| replacement >= committed;
        committed <= *own && (committed <= *before || replacement(index, log).is_none_or(by_later))
    }
}

/// The term of what first takes the place of the entry at `index`.
fn replacement(index: Index, log: &[LogChange]) -> Option<Term> {
    let removed = log.iter().position(|change| matches!(change, LogChange::RemoveFrom(from) if *from <= index))?;
    let appended = log[removed..].iter().filter_map(|change| match change {
        LogChange::Append(entries) => Some(entries),
        _ => None,
    });
    appended.flatten().find(|entry| entry.id.index == index).map(|entry| entry.id.term)
}

impl Property for LeaderAppendOnly {
    fn name(&self) -> &'static str {
        "I4 leader append-only"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Committed { node, entry } if ledger.is_newly_committed() => {
                // The first who knows it is the leader who committed it.
                let term = self.terms.get(node).copied().unwrap_or(entry.id.term);
                self.committed.insert(term, entry.id.index);
                Ok(())
            }
            Observation::Started { node, recovered, .. } => {
                self.enters(*node, recovered.hard_state().term);
                Ok(())
            }
            Observation::RoleChanged { node, role, term, .. } => {
                self.enters(*node, *term);
                self.leaders.remove(node);
                self.elected.retain(|(elected, _)| elected != node);
                if *role == Role::Leader {
                    self.elected.push((*node, *term));
                }
                Ok(())
            }
            Observation::Ended { node, .. } => {
                self.leaders.remove(node);
                self.elected.retain(|(elected, _)| elected != node);
                Ok(())
            }
            Observation::WriteIssued { node, write } => {
                if let Some(hard_state) = write.hard_state() {
                    self.enters(*node, hard_state.term);
                }
                for (id, chain) in ledger.removed() {
                    let is_committed = ledger.committed_at(id.index) == Some((*id, *chain));
                    if is_committed && self.must_have(*node, id.index, write.log()) {
                        return Err(format!("{node} removes {id}, which is committed"));
                    }
                }
                let Some(term) = self.leaders.get(node) else { return Ok(()) };
                for change in write.log() {
                    match change {
                        LogChange::RemoveFrom(index) => {
                            return Err(format!("{node} leads {term:?} and removes entries from {index}"));
                        }
                        LogChange::Install(meta) => {
                            return Err(format!("{node} leads {term:?} and installs a snapshot at {}", meta.last));
                        }
                        LogChange::Append(entries) => {
                            if let Some(entry) = entries.iter().find(|entry| entry.id.term != *term) {
                                return Err(format!("{node} leads {term:?} and appends {}", entry.id));
                            }
                        }
                        LogChange::RemoveThrough(_) => {}
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn after_step(&mut self, _view: &View<'_>, _ledger: &Ledger) -> Result<(), String> {
        self.leaders.extend(self.elected.drain(..));
        self.terms_before.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, Play, append, noop};
    use smr::entry::{Index, SnapshotMeta};

    // covers I4
    #[test]
    fn leader_that_rewrites_its_log_is_rejected() {
        let wrong =
            [LogChange::RemoveFrom(Index(2)), LogChange::Install(SnapshotMeta::default()), append(&[noop(4, 1)])];
        for change in wrong {
            let mut play = Play::new(LeaderAppendOnly::default());
            play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 1)])]).unwrap();
            play.leads(A, 2).unwrap();
            play.step().unwrap();
            play.writes(A, None, vec![append(&[noop(3, 2)])]).unwrap();
            assert!(play.writes(A, None, vec![change]).is_err());
        }
    }

    #[test]
    fn follower_and_deposed_leader_may_remove_what_is_not_committed() {
        let mut play = Play::new(LeaderAppendOnly::default());
        play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 1)])]).unwrap();
        play.leads(A, 2).unwrap();
        play.step().unwrap();
        play.follows(A, 3, Some(B)).unwrap();
        play.writes(A, None, vec![LogChange::RemoveFrom(Index(2)), append(&[noop(2, 3)])]).unwrap();
    }

    // covers L3
    #[test]
    fn committed_entry_removed_is_rejected_even_if_it_comes_again() {
        let mut play = Play::new(LeaderAppendOnly::default());
        play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 1)])]).unwrap();
        play.applies(B, noop(1, 1)).unwrap();
        assert!(play.writes(A, None, vec![LogChange::RemoveFrom(Index(1)), append(&[noop(1, 1)])]).is_err());
    }

    // covers L3
    #[test]
    fn entry_committed_in_a_later_term_than_its_holder_has_heard_of_may_be_removed_there_and_not_by_one_who_has() {
        for (own_term, may) in [(3, true), (4, false)] {
            let mut play = Play::new(LeaderAppendOnly::default());
            play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 2)])]).unwrap();
            // B leads term 4 and commits it on a majority without A, whom only the leader of term 3 still reaches.
            play.leads(B, 4).unwrap();
            play.step().unwrap();
            play.applies(B, noop(1, 1)).unwrap();
            play.applies(B, noop(2, 2)).unwrap();
            play.follows(A, own_term, Some(C)).unwrap();
            let removed = play.writes(A, None, vec![LogChange::RemoveFrom(Index(2)), append(&[noop(2, 3)])]);
            assert_eq!(removed.is_ok(), may, "{removed:?}");
        }
    }

    // covers L3
    #[test]
    fn what_took_the_place_of_an_entry_tells_in_which_of_two_terms_of_one_step_it_was_removed() {
        let committed_by_b_in_4 = || {
            let mut play = Play::new(LeaderAppendOnly::default());
            play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 2)])]).unwrap();
            play.leads(B, 4).unwrap();
            play.step().unwrap();
            play.applies(B, noop(1, 1)).unwrap();
            play.applies(B, noop(2, 2)).unwrap();
            play
        };
        for (replacement_term, knew, may) in [(3, false, true), (4, false, false), (3, true, false)] {
            let mut play = committed_by_b_in_4();
            play.follows(A, 3, Some(C)).unwrap();
            play.follows(A, 4, Some(B)).unwrap();
            if knew {
                play.step().unwrap();
            }
            let change = vec![LogChange::RemoveFrom(Index(2)), append(&[noop(2, replacement_term)])];
            let removed = play.writes(A, None, change);
            assert_eq!(removed.is_ok(), may, "{replacement_term} {knew}: {removed:?}");
        }
    }
}
