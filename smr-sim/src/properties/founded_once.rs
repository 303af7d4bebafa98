//! M14: a group is founded once, and again only by the operator's word. Whoever was told that its group exists without
//! it never founds it, and no one does before its genesis is recorded, where it has to be.

use std::collections::BTreeSet;

use smr::entry::GenesisHash;
use smr::id::NodeId;

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct FoundedOnce {
    founded: Option<GenesisHash>,
    excluded: BTreeSet<NodeId>,
    /// All replicas have the operator's word, and the group was not founded since.
    may_begin_again: bool,
}

impl Property for FoundedOnce {
    fn name(&self) -> &'static str {
        "M14 a group is founded once"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Excluded { node } => {
                self.excluded.insert(*node);
            }
            Observation::ToldToFoundAnew => self.may_begin_again = true,
            Observation::Founds { node, genesis, recorded } => {
                let hash = genesis.hash();
                if recorded.is_some_and(|recorded| recorded != Some(hash)) {
                    return Err(format!(
                        "{node} founds a group with genesis {hash}, recorded is {:?}",
                        recorded.flatten()
                    ));
                }
                if self.founded == Some(hash) {
                    return Ok(());
                }
                if std::mem::take(&mut self.may_begin_again) {
                    self.founded = Some(hash);
                    return Ok(());
                }
                if recorded.is_some() {
                    if let Some(first) = self.founded {
                        return Err(format!("{node} founds a group with genesis {hash}, there is one with {first}"));
                    }
                } else if let Some(told) = genesis.members.intersection(&self.excluded).next() {
                    // Without anyone who remembers, emptied directories are new ones; but not those that were told.
                    // (Where there is a record, a founder that it names may have heard of the group before it was
                    // initialized.)
                    return Err(format!("{told} was told that its group exists, and is a founder for {node}"));
                }
                self.founded = Some(hash);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, D, E};
    use smr::entry::Genesis;

    fn genesis(members: &[NodeId]) -> Genesis {
        let group = crate::sim_node::group();
        Genesis { cluster: Some(crate::sim_node::CLUSTER), group, members: members.iter().copied().collect() }
    }

    struct Play(FoundedOnce);

    impl Play {
        fn on(&mut self, observation: &Observation<'_>) -> Result<(), String> {
            self.0.on(observation, &Ledger::default())
        }

        fn founds(&mut self, genesis: &Genesis, recorded: Option<Option<GenesisHash>>) -> Result<(), String> {
            let node = *genesis.members.first().unwrap();
            self.on(&Observation::Founds { node, genesis, recorded })
        }
    }

    // covers M14
    #[test]
    fn second_genesis_without_the_operators_word_is_rejected() {
        let (first, second) = (genesis(&[A, B, C]), genesis(&[A, D, E]));
        let recorded = |genesis: &Genesis| Some(Some(genesis.hash()));
        let mut play = Play(FoundedOnce::default());
        play.founds(&first, recorded(&first)).unwrap();
        play.founds(&first, recorded(&first)).unwrap();
        assert!(play.founds(&second, recorded(&second)).unwrap_err().contains("there is one"));
        play.on(&Observation::ToldToFoundAnew).unwrap();
        play.founds(&second, recorded(&second)).unwrap();
        assert!(play.founds(&first, recorded(&first)).is_err(), "the word counts once");
    }

    // covers M14
    #[test]
    fn founding_before_it_is_recorded_is_rejected() {
        let first = genesis(&[A, B, C]);
        let mut play = Play(FoundedOnce::default());
        assert!(play.founds(&first, Some(None)).unwrap_err().contains("recorded is None"));
    }

    // covers M14
    #[test]
    fn founder_that_was_told_of_its_group_is_rejected_and_one_that_was_not_is_new() {
        let mut play = Play(FoundedOnce::default());
        play.founds(&genesis(&[A, B, C]), None).unwrap();
        play.founds(&genesis(&[D, E]), None).unwrap();
        play.on(&Observation::Excluded { node: B }).unwrap();
        assert!(play.founds(&genesis(&[A, B]), None).unwrap_err().contains("was told"));
    }
}
