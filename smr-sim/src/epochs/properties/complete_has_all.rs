//! I6: each committed entry is on the device of every member that is complete in its epoch or a later one.

use std::collections::BTreeMap;

use smr::entry::{EntryId, Term};
use smr::id::NodeId;
use smr::internals::configured::invariants;
use smr::internals::protocol::{LogChange, Protocol};

use super::Property;
use crate::epochs::ledger::{Device, Ledger, Seen};

/// Who is complete, in which epoch. Each has everything that was committed up to there, from then on.
#[derive(Default)]
pub(super) struct CompleteHasAll {
    complete: BTreeMap<NodeId, Term>,
}

fn lacks(device: &Device, epoch: Term, ledger: &Ledger) -> Option<EntryId> {
    let after_start = ledger.committed.range(device.start.index.next()..);
    let lacking =
        after_start.map(|(_, commit)| commit).find(|commit| commit.epoch <= epoch && !device.holds(commit.id));
    lacking.map(|commit| commit.id)
}

impl CompleteHasAll {
    fn judge(&self, node: NodeId, device: &Device, ledger: &Ledger) -> Result<(), String> {
        let Some(epoch) = self.complete.get(&node) else { return Ok(()) };
        match lacks(device, *epoch, ledger) {
            Some(id) => Err(format!("{node} is complete in epoch {epoch}, and {id}, which is committed, is not there")),
            None => Ok(()),
        }
    }
}

impl Property for CompleteHasAll {
    fn name(&self) -> &'static str {
        "I6 who is complete has all that was committed"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        match seen {
            Seen::Stepped { node, core, .. } => {
                let epoch = core.routing().term;
                if self.complete.get(node) == Some(&epoch) || !invariants::is_complete(core) {
                    return Ok(());
                }
                self.complete.insert(*node, epoch);
                ledger.devices.get(node).map_or(Ok(()), |device| self.judge(*node, device, ledger))
            }
            Seen::Durable { node, write } => {
                let Some(device) = ledger.devices.get(node) else { return Ok(()) };
                let removed = write.log().iter().find_map(|change| match change {
                    LogChange::RemoveFrom(index) => Some(*index),
                    _ => None,
                });
                let Some(index) = removed else { return Ok(()) };
                let (epoch, mut left) = (self.complete.get(node).copied().unwrap_or_default(), device.clone());
                drop(left.entries.split_off(&index));
                match lacks(&left, epoch, ledger).filter(|_| epoch > Term::ZERO) {
                    Some(id) => Err(format!("{node} cuts its log from {index} on, and {id} is committed")),
                    None => Ok(()),
                }
            }
            Seen::Committed { node, entry, configuration } if !ledger.committed.contains_key(&entry.id.index) => {
                let behind = self.complete.iter().filter(|(_, epoch)| configuration.epoch <= **epoch);
                for (other, epoch) in behind {
                    if ledger.devices.get(other).is_some_and(|device| !device.holds(entry.id)) {
                        let id = entry.id;
                        return Err(format!("{node} commits {id}, and {other}, complete in epoch {epoch}, lacks it"));
                    }
                }
                Ok(())
            }
            Seen::Started { node, .. } => {
                // What it has found is compared by another property; until it is complete again it says nothing.
                self.complete.remove(node);
                Ok(())
            }
            Seen::Emptied { node } => {
                self.complete.remove(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
