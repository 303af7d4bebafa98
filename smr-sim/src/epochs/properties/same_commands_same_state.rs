//! I7: after the same commands all states are the same, however they were reached: applied, by a checkpoint, from a
//! snapshot.

use std::collections::BTreeMap;

use smr::entry::Index;

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

#[derive(Default)]
pub(super) struct SameCommandsSameState {
    digests: BTreeMap<Index, u64>,
}

impl Property for SameCommandsSameState {
    fn name(&self) -> &'static str {
        "I7 same commands, same state"
    }

    fn on(&mut self, seen: &Seen<'_>, _: &Ledger) -> Result<(), String> {
        let Seen::State { node, last, digest } = seen else { return Ok(()) };
        if *self.digests.entry(*last).or_insert(*digest) == *digest {
            return Ok(());
        }
        Err(format!("{node} is in another state after the command at {last} than someone was before"))
    }
}
