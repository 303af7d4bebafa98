//! I8: whoever is the first to know that an entry is committed knows it in an epoch all of whose members have it on
//! their devices, the incomplete one too.

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

pub(super) struct CommittedIsEverywhere;

impl Property for CommittedIsEverywhere {
    fn name(&self) -> &'static str {
        "I8 what is committed is on the devices of all members"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Committed { node, entry, configuration } = seen else { return Ok(()) };
        if ledger.committed.contains_key(&entry.id.index) {
            return Ok(());
        }
        let holds = |member| ledger.devices.get(member).is_some_and(|device| device.holds(entry.id));
        match configuration.members.iter().find(|member| !holds(*member)) {
            Some(member) => Err(format!(
                "{node} takes {} for committed in {configuration}, and {member} does not have it",
                entry.id
            )),
            None => Ok(()),
        }
    }
}
