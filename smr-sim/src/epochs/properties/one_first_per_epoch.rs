//! I16: who orders writes in an epoch is one node, in the one start in which it entered that epoch.

use std::collections::BTreeMap;

use smr::entry::Term;
use smr::id::NodeId;
use smr::internals::configured::invariants;
use smr::internals::protocol::Protocol;

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

#[derive(Default)]
pub(super) struct OneFirstPerEpoch {
    firsts: BTreeMap<Term, (NodeId, u64)>,
}

impl Property for OneFirstPerEpoch {
    fn name(&self) -> &'static str {
        "I16 one first per epoch, in one start"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Stepped { node, run, core, .. } = seen else { return Ok(()) };
        let epoch = core.routing().term;
        // Before that is durable nothing has left, and a crash undoes it all.
        let has_entered = ledger.devices.get(node).is_some_and(|device| device.epoch() == epoch);
        if !has_entered || !invariants::orders(core) {
            return Ok(());
        }
        let known = *self.firsts.entry(epoch).or_insert((*node, *run));
        if known == (*node, *run) {
            return Ok(());
        }
        Err(format!(
            "epoch {epoch} is ordered by {node} in its run {run}, and was by {} in its run {}",
            known.0, known.1
        ))
    }
}
