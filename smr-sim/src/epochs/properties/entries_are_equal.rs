//! I5: two entries with one epoch and index are equal, wherever they are, and whoever says so.

use std::collections::BTreeMap;

use smr::entry::{Entry, EntryId};
use smr::id::NodeId;
use smr::internals::configured::message::Body;
use smr::internals::protocol::LogChange;

use super::Property;
use crate::epochs::ledger::{Ledger, Seen, payload};

#[derive(Default)]
pub(super) struct EntriesAreEqual {
    known: BTreeMap<EntryId, u64>,
}

impl EntriesAreEqual {
    fn compare(&mut self, node: NodeId, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let payload = payload(entry);
            if *self.known.entry(entry.id).or_insert(payload) != payload {
                return Err(format!("{node} has another entry {} than someone had before", entry.id));
            }
        }
        Ok(())
    }
}

impl Property for EntriesAreEqual {
    fn name(&self) -> &'static str {
        "I5 entries of one epoch and index are equal"
    }

    fn on(&mut self, seen: &Seen<'_>, _: &Ledger) -> Result<(), String> {
        match seen {
            Seen::Started { node, entries, .. } => self.compare(*node, entries),
            Seen::Durable { node, write } => write.log().iter().try_for_each(|change| match change {
                LogChange::Append(entries) => self.compare(*node, entries),
                _ => Ok(()),
            }),
            Seen::Sent { from, message, .. } => match &message.body {
                Body::Append { entries, .. } => self.compare(*from, entries),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
