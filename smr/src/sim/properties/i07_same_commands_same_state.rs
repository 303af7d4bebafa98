//! I7, state-machine safety: the first replica that applies an index fixes the entry there, and the digest of all that
//! took effect up to it; everybody else must agree, also with what is in snapshots.

use std::collections::BTreeMap;

use super::{Happening, Property};
use crate::codec;
use crate::entry::{EntryId, Index, Payload};

#[derive(Default)]
pub(super) struct SameCommandsSameState {
    applied: BTreeMap<Index, (EntryId, u64, u64)>,
    snapshots: BTreeMap<Index, u64>,
}

impl Property for SameCommandsSameState {
    fn name(&self) -> &'static str {
        "I7 same commands, same state"
    }

    fn on(&mut self, happening: &Happening<'_>) -> Result<(), String> {
        match happening {
            Happening::Applied { node, entry, digest, .. } => {
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
            }
            Happening::SnapshotTaken { node, last, checksum } if *checksum != 0 => {
                let first = *self.snapshots.entry(last.index).or_insert(*checksum);
                if first != *checksum {
                    return Err(format!("the snapshot of {node} at {last} differs from another one that ends there"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
