//! I11: nothing leaves before what it rests on is on the device: the epoch of each message, and what is acknowledged.

use smr::internals::configured::message::Body;

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

pub(super) struct DurableBeforeSaid;

impl Property for DurableBeforeSaid {
    fn name(&self) -> &'static str {
        "I11 durable before it is said"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Sent { from, to, message } = seen else { return Ok(()) };
        let Some(device) = ledger.devices.get(from) else { return Err(format!("{from} speaks, and never began")) };
        if device.epoch() < message.epoch {
            return Err(format!("{from} speaks to {to} in epoch {}, and has stored {}", message.epoch, device.epoch()));
        }
        match &message.body {
            // In a later epoch its log may have been cut since.
            Body::Accepted { last: named } | Body::Durable { through: named }
                if device.epoch() == message.epoch && !device.holds(*named) =>
            {
                Err(format!("{from} tells {to} that it has {named}, which is not on its device"))
            }
            _ => Ok(()),
        }
    }
}
