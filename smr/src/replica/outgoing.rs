//! Messages of the core on their way to the transport: from a turn, or from the disk thread once what they rest on is
//! durable.

use crate::protocol::{Envelope, Protocol};
use crate::replica::message::PeerMessage;
use crate::transport::{Lane, Transport};

/// Queues one message of the core, to leave with the transport's next flush; never blocks. Returns whether it is worth
/// one.
#[must_use]
pub(super) fn queue<P>(transport: &Transport<PeerMessage<P::Message>>, envelope: Envelope<P::Message>) -> bool
where
    P: Protocol,
{
    let lane = if P::is_bulk(&envelope.message) { Lane::Bulk } else { Lane::Urgent };
    let size_bytes = P::message_size_bytes(&envelope.message);
    let leaves_now = !P::may_wait(&envelope.message);
    transport.queue(envelope.to, PeerMessage::Protocol(envelope.message), lane, size_bytes);
    leaves_now
}
