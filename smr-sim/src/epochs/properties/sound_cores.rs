//! What one core can know of itself: the shape of its log, its window, what never falls (I3, I4, I10, I16, I17).

use std::collections::BTreeMap;

use smr::id::NodeId;
use smr::internals::configured::invariants::{IDLE_WRITES_MAX, Summary, check, check_transition, load, summary};

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

/// A core is looked at as a whole, which takes time, once in this many steps.
const WHOLE_EVERY: u64 = 16;

#[derive(Default)]
pub(super) struct SoundCores {
    before: BTreeMap<NodeId, Summary>,
    steps: u64,
}

impl Property for SoundCores {
    fn name(&self) -> &'static str {
        "I17 bounds of a core"
    }

    /// What the core's own invariants find ends the run as a panic.
    fn on(&mut self, seen: &Seen<'_>, _: &Ledger) -> Result<(), String> {
        match seen {
            Seen::Stepped { node, core, .. } => {
                self.steps += 1;
                if self.steps.is_multiple_of(WHOLE_EVERY) {
                    check(core);
                }
                if let Some(before) = self.before.insert(*node, summary(core)) {
                    check_transition(&before, core);
                }
                let load = load(core);
                let most = core.settings().inflight_appends_max + 1;
                if load.inflight_appends_most > most || load.idle_writes_pending > IDLE_WRITES_MAX {
                    return Err(format!("{node}: {load:?}"));
                }
                Ok(())
            }
            Seen::Started { node, .. } | Seen::Ended { node } => {
                self.before.remove(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
