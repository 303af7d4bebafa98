//! I4: a leader never removes or rewrites an entry during its own term, and appends entries of its own term only (Raft §5.3).
//! And nobody ever removes an entry that was committed (L3).

use std::collections::BTreeMap;

use super::{Happening, Property, View};
use crate::entry::Term;
use crate::id::NodeId;
use crate::protocol::{LogChange, Role};
use crate::sim::ledger::Ledger;

#[derive(Default)]
pub(super) struct LeaderAppendOnly {
    leaders: BTreeMap<NodeId, Term>,
    /// Elected in this step: what they wrote in it, they may have written before.
    elected: Vec<(NodeId, Term)>,
}

impl Property for LeaderAppendOnly {
    fn name(&self) -> &'static str {
        "I4 leader append-only"
    }

    fn on(&mut self, happening: &Happening<'_>, ledger: &Ledger) -> Result<(), String> {
        match happening {
            Happening::RoleChanged { node, role, term, .. } => {
                self.leaders.remove(node);
                self.elected.retain(|(elected, _)| elected != node);
                if *role == Role::Leader {
                    self.elected.push((*node, *term));
                }
                Ok(())
            }
            Happening::Ended { node, .. } => {
                self.leaders.remove(node);
                self.elected.retain(|(elected, _)| elected != node);
                Ok(())
            }
            Happening::WriteIssued { node, write } => {
                for (id, chain) in ledger.removed() {
                    if ledger.committed_at(id.index) == Some((*id, *chain)) {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Index, SnapshotMeta};
    use crate::sim::properties::testing::{A, B, Play, append, noop};

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
}
