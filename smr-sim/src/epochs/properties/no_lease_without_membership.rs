//! K2: whoever may answer reads by a lease is a member of the configuration that is decided on.

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

pub(super) struct NoLeaseWithoutMembership;

impl Property for NoLeaseWithoutMembership {
    fn name(&self) -> &'static str {
        "K2 no lease of one who is no member"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        match seen {
            Seen::Decided { configuration, leased, .. } => {
                match leased.iter().find(|node| !configuration.is_member(**node)) {
                    Some(node) => Err(format!("{configuration} is decided on, and {node} has a lease")),
                    None => Ok(()),
                }
            }
            Seen::Stepped { node, is_leased: true, .. } => match &ledger.decided {
                Some(decided) if !decided.is_member(*node) => {
                    Err(format!("{node} has a lease, and there is {decided}"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
