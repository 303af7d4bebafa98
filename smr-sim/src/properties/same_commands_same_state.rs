//! I7, state-machine safety: the first replica that applies an index fixes the command there and the digest of all that
//! took effect up to it; everyone else must agree, also with what is in snapshots.
//!
//! Three digests, from cheap to thorough: of commands and answers, with each entry; of the whole state machine, with
//! each [`crate::probe::DEEP_DIGEST_EVERY`] entries; of sessions and state, in each snapshot, and whenever two
//! nodes happen to stop at the same index. So a replica whose state differs by one bit is found within an interval,
//! even if no answer ever shows it (L17).

use std::collections::BTreeMap;

use smr::codec;
use smr::entry::{EntryId, Index, Payload};

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

/// How often, in steps, whole nodes are compared that stand at the same index.
const COMPARE_EVERY_STEPS: u64 = 1024;
/// How many indexes such digests are kept for.
const COMPARED_MAX: usize = 64;

#[derive(Default)]
pub(super) struct SameCommandsSameState {
    applied: BTreeMap<Index, (EntryId, u64, u64)>,
    deep: BTreeMap<Index, u64>,
    snapshots: BTreeMap<Index, u64>,
    whole: BTreeMap<Index, u64>,
}

impl Property for SameCommandsSameState {
    fn name(&self) -> &'static str {
        "I7 same commands, same state"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Applied { node, entry, digest, deep, .. } => {
                let payload = match &entry.payload {
                    Payload::Command(bytes) => codec::checksum(&[bytes]),
                    Payload::Noop => 1,
                    Payload::Configuration(configuration) => codec::checksum(&[&codec::encode(configuration)]),
                };
                let this = (entry.id, payload, *digest);
                let first = *self.applied.entry(entry.id.index).or_insert(this);
                if first != this {
                    return Err(format!("{node} applied (entry, payload, digest) {this:?}, the first one {first:?}"));
                }
                if let Some(deep) = deep
                    && *self.deep.entry(entry.id.index).or_insert(*deep) != *deep
                {
                    return Err(format!("{node} has another state than the first one behind {}", entry.id));
                }
            }
            Observation::SnapshotTaken { node, last, checksum } if *checksum != 0 => {
                let first = *self.snapshots.entry(last.index).or_insert(*checksum);
                if first != *checksum {
                    return Err(format!("the snapshot of {node} at {last} differs from another one that ends there"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, _ledger: &Ledger) -> Result<(), String> {
        if !view.step.is_multiple_of(COMPARE_EVERY_STEPS) {
            return Ok(());
        }
        for replica in 0..view.nodes.replicas() {
            let Some(node) = view.nodes.node(replica) else { continue };
            let Some(digest) = view.nodes.deep_digest(replica) else { continue };
            if *self.whole.entry(node.applied.index).or_insert(digest) != digest {
                return Err(format!(
                    "{} has other sessions or another state than one before at {}",
                    node.node, node.applied
                ));
            }
        }
        while self.whole.len() > COMPARED_MAX {
            self.whole.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play, command};

    fn applied(
        play: &mut Play<SameCommandsSameState>,
        node: smr::id::NodeId,
        digest: u64,
        deep: u64,
    ) -> Result<(), String> {
        let entry = command(1, 1, b"x");
        let deep = Some(deep);
        play.feed(&Observation::Applied { node, entry: &entry, took_effect: true, digest, deep })
    }

    // covers I7
    #[test]
    fn other_command_digest_or_state_at_an_index_is_rejected() {
        let begun = || {
            let mut play = Play::new(SameCommandsSameState::default());
            applied(&mut play, A, 5, 9).unwrap();
            play
        };
        applied(&mut begun(), B, 5, 9).unwrap();
        assert!(applied(&mut begun(), B, 6, 9).is_err());
        assert!(applied(&mut begun(), B, 5, 8).is_err(), "L17");
        assert!(begun().applies(B, command(1, 1, b"y")).is_err());
    }

    // covers I7, S10
    #[test]
    fn snapshots_that_differ_at_an_index_are_rejected() {
        let mut play = Play::new(SameCommandsSameState::default());
        let last = EntryId::new(7, 2);
        play.feed(&Observation::SnapshotTaken { node: A, last, checksum: 3 }).unwrap();
        play.feed(&Observation::SnapshotTaken { node: B, last, checksum: 0 }).unwrap();
        assert!(play.feed(&Observation::SnapshotTaken { node: B, last, checksum: 4 }).is_err());
    }
}
