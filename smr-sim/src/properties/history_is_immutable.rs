//! I9: the global list of committed (index, term, hash) never changes, also not through a snapshot: the first replica
//! that applies an index fixes the entry, its term and everything below it; and a snapshot ends with a committed entry,
//! and names the configuration that was in force there.

use std::collections::BTreeMap;

use smr::entry::{Configuration, EntryId, Index, Payload, SnapshotMeta};

use super::Property;
use crate::ledger::{Ledger, chain};
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct HistoryIsImmutable {
    /// The configurations that were committed, by their carriers.
    configurations: BTreeMap<Index, Configuration>,
}

impl HistoryIsImmutable {
    fn snapshot(&self, meta: &SnapshotMeta, ledger: &Ledger) -> Result<(), String> {
        ends_with_committed(meta.last, ledger)?;
        let Some((carrier, configuration)) = self.configurations.range(..=meta.last.index).next_back() else {
            return Ok(());
        };
        if *carrier != meta.configuration_index || *configuration != meta.configuration {
            return Err(format!("a snapshot names {meta:?}, but {configuration:?} of index {carrier} was committed"));
        }
        Ok(())
    }
}

fn ends_with_committed(last: EntryId, ledger: &Ledger) -> Result<(), String> {
    match ledger.committed_at(last.index) {
        Some((id, _)) if id == last => Ok(()),
        found => Err(format!("a snapshot ends with {last}, and there {found:?} was committed")),
    }
}

impl Property for HistoryIsImmutable {
    fn name(&self) -> &'static str {
        "I9 history is immutable"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Committed { node, entry } | Observation::Applied { node, entry, .. } => {
                let before = ledger.committed_at(entry.id.index.previous()).map(|(_, chain)| chain);
                let this = before.map(|before| (entry.id, chain(before, entry)));
                let first = ledger.committed_at(entry.id.index);
                if this.is_none() || first != this {
                    return Err(format!("{node} commits or applies {} where {first:?} was committed", entry.id));
                }
                if let Payload::Configuration(configuration) = &entry.payload
                    && ledger.is_newly_committed()
                {
                    self.configurations.insert(entry.id.index, configuration.clone());
                }
                Ok(())
            }
            Observation::SnapshotTaken { last, checksum, .. } if *checksum != 0 => ends_with_committed(*last, ledger),
            Observation::SnapshotInstalled { meta, accepted: true, .. } => self.snapshot(meta, ledger),
            Observation::Started { recovered, .. } if recovered.snapshot.last != EntryId::ZERO => {
                self.snapshot(&recovered.snapshot, ledger)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, Play, command, members, noop};

    fn play() -> Play<HistoryIsImmutable> {
        let mut play = Play::new(HistoryIsImmutable::default());
        play.applies(A, members(1, 1, &[A, B, C], &[])).unwrap();
        play.applies(A, command(2, 1, b"x")).unwrap();
        play.applies(A, noop(3, 2)).unwrap();
        play
    }

    fn meta(index: u64, term: u64, voters: &[smr::id::NodeId]) -> SnapshotMeta {
        SnapshotMeta {
            last: EntryId::new(index, term),
            configuration: Configuration::of(voters.iter().copied()),
            configuration_index: Index(1),
        }
    }

    // covers I9
    #[test]
    fn another_entry_applied_at_a_committed_index_is_rejected() {
        for wrong in [command(2, 1, b"y"), command(2, 2, b"x"), noop(2, 1)] {
            let mut play = play();
            play.applies(B, members(1, 1, &[A, B, C], &[])).unwrap();
            assert!(play.applies(B, wrong).is_err());
        }
        play().applies(B, noop(3, 2)).unwrap();
    }

    // covers I9
    #[test]
    fn snapshot_of_what_was_never_committed_is_rejected() {
        for wrong in [meta(3, 1, &[A, B, C]), meta(4, 2, &[A, B, C]), meta(3, 2, &[A, B])] {
            assert!(play().installs(B, &wrong).is_err(), "{wrong:?}");
        }
        play().installs(B, &meta(3, 2, &[A, B, C])).unwrap();
    }
}
