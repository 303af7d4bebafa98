//! K10: the service's record of complete members is never empty, and its epochs follow each other.

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

pub(super) struct RecordKeepsTheComplete;

impl Property for RecordKeepsTheComplete {
    fn name(&self) -> &'static str {
        "K10 a complete member stays, by the record"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Decided { configuration, complete, .. } = seen else { return Ok(()) };
        if *complete == 0 {
            return Err(format!("{configuration} has no complete member"));
        }
        match &ledger.decided {
            Some(before) if configuration.epoch != before.epoch.next() => {
                Err(format!("{configuration} is decided on after {before}"))
            }
            _ => Ok(()),
        }
    }
}
