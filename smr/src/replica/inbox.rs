//! The two queues into a replica: requests, and everything else.
//!
//! Both are bounded, and their senders drop or refuse rather than wait. Whoever has put something in sees to it that a
//! turn follows ([`ExecuteTurns`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender};

use crate::entry::EntryId;
use crate::epoch_service::ServiceWord;
use crate::protocol::{Protocol, WriteId};
use crate::replica::engine::{BuiltCheckpoint, ForwardedWrite, Install};
use crate::replica::message::{CHECKPOINT_PIECE_OVERHEAD_BYTES, PeerMessage};
use crate::replica::turn::EVENTS_MAX_BYTES;
use crate::replica::turn_executor::ExecuteTurns;
use crate::replica::{ReplyTo, Request, Tuning};
use crate::state_machine::StateMachine;
use crate::status::StateDigest;
use crate::transport::{EventSink, TransportEvent};

/// What reaches the replica thread besides requests.
pub(super) enum NodeInput<P: Protocol, S> {
    /// From the network.
    Peer(TransportEvent<PeerMessage<P::Message>>),
    /// From the disk: writes up to this one are done.
    Durable(WriteId),
    /// A snapshot was taken.
    SnapshotTaken {
        /// Where it ends.
        last: EntryId,
        /// How long its file is.
        len_bytes: u64,
    },
    /// There was no room for a snapshot.
    SnapshotLacksRoom(String),
    /// The disk has become full, or has room again.
    Room {
        /// Which of the two.
        is_full: bool,
    },
    /// The state was hashed.
    DigestTaken(StateDigest),
    /// The newest snapshot is damaged, and was put out of service.
    SnapshotLost(String),
    /// A snapshot arrived and its state is built.
    SnapshotBuilt(Box<Install<S>>, u64),
    /// The checkpoint that was to be made is on its way.
    CheckpointMade,
    /// What a checkpoint makes of the state is built, or cannot be.
    CheckpointBuilt(BuiltCheckpoint<S>),
    /// Someone outside of the group says why this replica must not take part any longer.
    Disqualified(String),
    /// The configuration service has answered, or no one could speak for it.
    Service(Option<Box<ServiceWord>>),
    /// The host tunes the replica.
    Tuned(Tuning),
    /// Stop in an orderly way, then say so.
    Shutdown(Sender<()>),
}

/// Something that happened to one incarnation of a directory. A process that goes on in the next one does not mistake
/// it for its own.
pub(super) struct Sent<P: Protocol, S> {
    /// Which incarnation, counted from 1; [`ANY_INCARNATION`] for whichever there is.
    incarnation: u64,
    what: NodeInput<P, S>,
}

/// For what concerns the process.
pub(super) const ANY_INCARNATION: u64 = 0;

/// The two queues into the replica, their reading ends.
pub(super) struct Inbox<P: Protocol, S> {
    pub(super) events: Receiver<Sent<P, S>>,
    pub(super) requests: Receiver<(Request, ReplyTo)>,
    pub(super) waiting_bytes: Arc<WaitingBytes>,
}

/// Bytes of messages of peers in the inbox.
#[derive(Default)]
pub(super) struct WaitingBytes(AtomicUsize);

impl WaitingBytes {
    /// Whether this many more fit in; if so they are counted.
    fn add(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= EVENTS_MAX_BYTES;
        if !fits {
            self.remove(bytes);
        }
        fits
    }

    /// How many there are.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What something in the inbox is counted with.
fn size_bytes<P: Protocol, S>(input: &NodeInput<P, S>) -> usize {
    match input {
        NodeInput::Peer(TransportEvent::Received { message: PeerMessage::Protocol(message), .. }) => {
            P::message_size_bytes(message)
        }
        NodeInput::Peer(TransportEvent::Received { message: PeerMessage::Checkpoint(piece), .. }) => {
            CHECKPOINT_PIECE_OVERHEAD_BYTES + piece.bytes.len()
        }
        NodeInput::Peer(TransportEvent::Received { message: PeerMessage::Forward(writes), .. }) => {
            writes.iter().map(ForwardedWrite::size_bytes).sum()
        }
        _ => 0,
    }
}

impl<P: Protocol, S> Inbox<P, S> {
    /// Whether something is there.
    pub(super) fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.requests.is_empty()
    }

    /// The next event that concerns this incarnation; those of others are dropped.
    pub(super) fn next_event(&self, incarnation: u64) -> Option<NodeInput<P, S>> {
        self.events.try_iter().find_map(|Sent { incarnation: of, what }| {
            self.waiting_bytes.remove(size_bytes(&what));
            (of == incarnation || of == ANY_INCARNATION).then_some(what)
        })
    }

    /// Waits until something other than a request is there, or for this long.
    pub(super) fn wait_for_events(&self, at_most: Duration) {
        let mut select = Select::new();
        select.recv(&self.events);
        let _ = select.ready_timeout(at_most);
    }
}

/// The way into the inbox for a replica's own threads.
pub(super) struct InputSender<P: Protocol, S> {
    pub(super) events: Sender<Sent<P, S>>,
    /// The incarnation that it speaks for.
    pub(super) incarnation: u64,
    pub(super) waiting_bytes: Arc<WaitingBytes>,
    pub(super) executor: Arc<dyn ExecuteTurns>,
}

impl<P: Protocol, S> Clone for InputSender<P, S> {
    fn clone(&self) -> InputSender<P, S> {
        InputSender {
            events: self.events.clone(),
            incarnation: self.incarnation,
            waiting_bytes: self.waiting_bytes.clone(),
            executor: self.executor.clone(),
        }
    }
}

impl<P: Protocol, S: StateMachine> InputSender<P, S> {
    /// The same way, for another incarnation.
    pub(super) fn of_incarnation(&self, incarnation: u64) -> InputSender<P, S> {
        InputSender { incarnation, ..self.clone() }
    }

    /// Puts it in, waiting for room. False if no one listens any more.
    pub(super) fn send(&self, what: NodeInput<P, S>) -> bool {
        self.events.send(Sent { incarnation: self.incarnation, what }).is_ok()
    }

    /// Puts it in, waiting for room, and leaves it to the replica thread. False if no one listens any more.
    pub(super) fn tell(&self, input: NodeInput<P, S>) -> bool {
        let told = self.send(input);
        self.executor.wake();
        told
    }

    /// As [`InputSender::tell`], but gives up after a while: false.
    pub(super) fn tell_within(&self, input: NodeInput<P, S>, timeout: Duration) -> bool {
        let told = self.events.send_timeout(Sent { incarnation: self.incarnation, what: input }, timeout).is_ok();
        self.executor.wake();
        told
    }
}

impl<P: Protocol, S: StateMachine> EventSink<PeerMessage<P::Message>> for InputSender<P, S> {
    fn take(&self, event: TransportEvent<PeerMessage<P::Message>>) -> bool {
        let what = NodeInput::Peer(event);
        let bytes = size_bytes(&what);
        if !self.waiting_bytes.add(bytes) {
            return false;
        }
        let taken = self.events.try_send(Sent { incarnation: self.incarnation, what }).is_ok();
        if !taken {
            self.waiting_bytes.remove(bytes);
        }
        taken
    }

    fn flush(&self) {
        self.executor.try_run_inline();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B14: many large appends do not fill memory while a turn takes long, and one is never too large.
    #[test]
    fn messages_that_wait_are_bounded_in_bytes_and_one_always_fits() {
        let waiting = WaitingBytes::default();
        assert!(waiting.add(2 * EVENTS_MAX_BYTES), "alone");
        assert!(!waiting.add(1));
        waiting.remove(2 * EVENTS_MAX_BYTES);
        let messages = (0..1_000).filter(|_| waiting.add(1 << 20)).count();
        assert_eq!(messages, EVENTS_MAX_BYTES >> 20);
        waiting.remove(1 << 20);
        assert!(waiting.add(1 << 20) && !waiting.add(1 << 20));
    }
}
