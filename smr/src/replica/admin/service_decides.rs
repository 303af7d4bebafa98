//! What an operator asks of a group whose members a configuration service decides on: nothing of it is for the group to
//! do, and each request is told so.

use super::{Admin, AdminContext, AdminRequest};
use crate::configured::Configured;
use crate::epoch::EpochKind;
use crate::id::NodeId;
use crate::protocol::{Routing, Time};
use crate::replica::{Outcome, ReplyTo, Tuning};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct ServiceDecides {
    /// The kind of the group.
    pub kind: EpochKind,
}

impl Admin<Configured> for ServiceDecides {
    fn begin(&mut self, _: AdminContext<'_, Configured>, request: AdminRequest, reply: ReplyTo) {
        let what = match request {
            AdminRequest::Transfer { .. } => "who is first",
            AdminRequest::Readmit { .. } | AdminRequest::Scale { .. } => "who the members are",
        };
        let kind = self.kind;
        reply.send(Outcome::Refused(format!("in a group of kind {kind} the configuration service decides {what}")));
    }

    fn tick(&mut self, _: AdminContext<'_, Configured>) {}

    fn next_tick(&self) -> Option<Time> {
        None
    }

    fn tune(&mut self, context: AdminContext<'_, Configured>, tuning: &Tuning) {
        context.core.set_detection(tuning.detection_ms.saturating_mul(1_000));
        context.core.set_checkpoints(tuning.checkpoint_ms.saturating_mul(1_000), tuning.checkpoint_requests);
    }

    fn waiting(&self) -> usize {
        0
    }

    fn met(&mut self, _: Time, _: NodeId) {}

    fn routing_changed(&mut self, _: &Routing) {}

    fn transfer_failed(&mut self) {}

    fn hand_over(&mut self, _: AdminContext<'_, Configured>) -> bool {
        false
    }

    fn stop(&mut self, _: &mut Vec<String>) {}
}
