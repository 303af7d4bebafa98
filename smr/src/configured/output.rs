//! What the messages of a configured group rest on (I11); [`Outbox`] lets none of them leave before that.

use super::message::Message;
use crate::core_kit::outbox::Outbox;
use crate::id::NodeId;
use crate::protocol::Envelope;

pub use crate::core_kit::outbox::IDLE_WRITES_MAX;

impl Outbox<Message> {
    /// Sends a message that rests on the configuration of its epoch, which its sender acts in: all do.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.push_after_hard_state(Envelope { to, message });
    }

    /// Sends a message that rests on the log as it is now.
    pub(super) fn send_after_log(&mut self, to: NodeId, message: Message) {
        self.push_after_log(Envelope { to, message });
    }
}
