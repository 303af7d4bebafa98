//! My side of the connections: one dialled connection per peer carries my messages to it.
//!
//! If nothing is under way, a few small messages are written by the sender's own thread: waking a task for them would
//! cost more than the write. Otherwise a message waits in one of two bounded lanes until the connection's task takes
//! everything that is waiting, encodes it into one buffer and writes that at once. The urgent lane goes first in each
//! batch; inside a lane order is kept.
//! When a connection ends, whatever waits for it is dropped: a later connection may reach another process, and the
//! core sends again what still matters (N5, N10).

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::handshake::{self, Greeting, HANDSHAKE_PAYLOAD_MAX_BYTES, HandshakeError, Met, Purpose, kind};
use super::{EVENT_RETRY_MS, Lane, PINGS_MISSED_MAX, Shared, TransportEvent};
use crate::codec;
use crate::durations::{Recent, RecentCounts};
use crate::id::{Incarnation, NodeId, ReplicaId};
use crate::reach;
use crate::wire::{self, BUFFER_KEEP_MAX_BYTES, FrameReader, WireError};

/// Messages that wait in one lane for one peer. A core's in-flight limits keep well below this.
pub const LANE_MESSAGES_MAX: usize = 4096;
/// Bytes, as estimated by the sender, that wait in the urgent lane for one peer.
pub const URGENT_LANE_MAX_BYTES: usize = 4 << 20;
/// Bytes, as estimated by the sender, that wait in the bulk lane for one peer: four full frames.
pub const BULK_LANE_MAX_BYTES: usize = 32 << 20;
/// Bulk bytes taken into one batch (at least one message is). Small enough that an urgent message does not wait long.
const BATCH_BULK_MAX_BYTES: usize = 256 << 10;
/// Up to this many bytes, as estimated by the sender, are written by the sender's thread. It must not spend long there.
const DIRECT_MAX_BYTES: usize = 64 << 10;
/// The shortest and the longest first pause before dialling again, in milliseconds. Short: a restarted peer is found
/// fast.
const BACKOFF_FIRST_MS: (u64, u64) = (10, 50);
/// The longest pause before dialling again, in milliseconds.
const BACKOFF_MAX_MS: u64 = 500;
/// A connection that lived this long was a good one: the next pause starts from the shortest again. In milliseconds.
const STEADY_AFTER_MS: u64 = 1_000;

/// One peer, seen from the sending side.
pub(super) struct Peer<M> {
    pub(super) name: ReplicaId,
    /// Where it is dialled next.
    address: Mutex<String>,
    outbox: Mutex<Outbox<M>>,
    /// The connection's task sleeps until this: something waits.
    work: Notify,
    /// The dialler's pause is cut short by this: the peer was seen alive.
    seen: Notify,
    round_trips: RoundTrips,
}

/// How long pings to a peer take to be answered.
#[derive(Default)]
struct RoundTrips {
    recent: Recent,
    /// When the ping left that is timed now.
    left_at: Mutex<Option<Instant>>,
}

/// Which ping of a connection is timed: one at a time, however late answers are.
#[derive(Default)]
struct TimedPing {
    sent: u64,
    answered: u64,
    timed: Option<(u64, Instant)>,
}

impl TimedPing {
    fn sent(&mut self, of: &RoundTrips) {
        self.sent += 1;
        if self.timed.is_none() {
            let now = Instant::now();
            self.timed = Some((self.sent, now));
            *of.left_at.lock() = Some(now);
        }
    }

    fn answered(&mut self, of: &RoundTrips) {
        self.answered += 1;
        if let Some((_, left_at)) = self.timed.take_if(|(number, _)| *number <= self.answered) {
            of.recent.record(left_at.elapsed());
            *of.left_at.lock() = None;
        }
    }
}

struct Outbox<M> {
    /// Whom the connection leads to, and its version; without one the lanes are empty.
    connected: Option<(Incarnation, u16)>,
    /// Whether the connection's task found nothing to do and must be woken. Only then may others write to the socket.
    idle: bool,
    /// The socket. It belongs to the connection's task: with that it goes.
    direct: Weak<OwnedWriteHalf>,
    /// The rest of what a sender has begun to write; nothing else may be written before it.
    begun: Vec<u8>,
    /// Empty but for its memory: where senders collect what they write.
    batch: Vec<M>,
    urgent: Queue<M>,
    bulk: Queue<M>,
}

struct Queue<M> {
    messages: VecDeque<(M, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl<M> Queue<M> {
    fn new(bytes_max: usize) -> Queue<M> {
        Queue { messages: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// An empty queue takes a message of any size, or the largest ones would never get through.
    fn has_room(&self, size_bytes: usize) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < LANE_MESSAGES_MAX && self.bytes.saturating_add(size_bytes) <= self.bytes_max)
    }

    fn push(&mut self, message: M, size_bytes: usize) {
        self.bytes = self.bytes.saturating_add(size_bytes);
        self.messages.push_back((message, size_bytes));
    }

    fn pop(&mut self) -> Option<(M, usize)> {
        let (message, size_bytes) = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(size_bytes);
        Some((message, size_bytes))
    }
}

/// What became of a message given to [`Peer::push`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    Unconnected,
    Full,
}

impl<M> Peer<M> {
    pub(super) fn new(name: ReplicaId, address: String) -> Peer<M> {
        let outbox = Outbox {
            connected: None,
            idle: false,
            direct: Weak::new(),
            begun: Vec::new(),
            batch: Vec::new(),
            urgent: Queue::new(URGENT_LANE_MAX_BYTES),
            bulk: Queue::new(BULK_LANE_MAX_BYTES),
        };
        Peer {
            name,
            address: Mutex::new(address),
            outbox: Mutex::new(outbox),
            work: Notify::new(),
            seen: Notify::new(),
            round_trips: RoundTrips::default(),
        }
    }

    /// Where it is dialled.
    pub(super) fn address(&self) -> String {
        self.address.lock().clone()
    }

    /// It is dialled there from now on. A connection that there is stays as long as it carries: who is at its other end
    /// was compared.
    pub(super) fn move_to(&self, address: &str) {
        let mut known = self.address.lock();
        if *known != address {
            address.clone_into(&mut known);
            self.seen.notify_one();
        }
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.outbox.lock().connected.map(|(incarnation, _)| incarnation)
    }

    /// How many bytes wait in the bulk lane.
    pub(super) fn bulk_bytes(&self) -> usize {
        self.outbox.lock().bulk.bytes
    }

    /// How long pings took since this was last called. One that has waited for `known_after` counts as well.
    pub(super) fn take_round_trips(&self, known_after: Duration) -> RecentCounts {
        let taken = self.round_trips.recent.take();
        let waits = self.round_trips.left_at.lock().map(|at| at.elapsed()).filter(|waits| *waits >= known_after);
        waits.map_or(taken, |waits| taken.with(waits))
    }

    /// The version of the connection, if there is one.
    pub(super) fn version(&self) -> Option<u16> {
        self.outbox.lock().connected.map(|(_, version)| version)
    }

    /// The peer has just dialled us, so it is worth dialling it now.
    pub(super) fn saw_alive(&self) {
        if self.incarnation().is_none() {
            self.seen.notify_one();
        }
    }

    /// Queues a message for that very incarnation, to leave with the next [`Peer::flush`]. One that finds no room is
    /// dropped by the caller, after the lock.
    pub(super) fn push(&self, to: Incarnation, message: M, lane: Lane, size_bytes: usize) -> Pushed {
        let mut outbox = self.outbox.lock();
        if outbox.connected.is_none_or(|(incarnation, _)| incarnation != to) {
            return Pushed::Unconnected;
        }
        let queue = match lane {
            Lane::Urgent => &mut outbox.urgent,
            Lane::Bulk => &mut outbox.bulk,
        };
        if !queue.has_room(size_bytes) {
            return Pushed::Full;
        }
        queue.push(message, size_bytes);
        Pushed::Queued
    }

    /// Lets what is queued leave: little is written here and now, with one system call; for more the connection's task
    /// is woken. While that task is at work it finds what is queued by itself.
    pub(super) fn flush(&self, shared: &Shared<M>)
    where
        M: Serialize,
    {
        let mut guard = self.outbox.lock();
        let outbox = &mut *guard;
        let queued_bytes = outbox.urgent.bytes + outbox.bulk.bytes;
        if !outbox.idle || (outbox.urgent.messages.is_empty() && outbox.bulk.messages.is_empty()) {
            return;
        }
        let direct = outbox.direct.upgrade().filter(|_| queued_bytes <= DIRECT_MAX_BYTES);
        if let Some(direct) = direct {
            let mut batch = std::mem::take(&mut outbox.batch);
            batch.extend(std::iter::from_fn(|| outbox.urgent.pop()).map(|(message, _)| message));
            batch.extend(std::iter::from_fn(|| outbox.bulk.pop()).map(|(message, _)| message));
            shared.encode(&mut batch, &mut outbox.begun);
            outbox.batch = batch;
            // An error is met again, and dealt with, by the connection's task.
            let written = direct.try_write(&outbox.begun).unwrap_or(0);
            shared.counters.batches_sent.add(1);
            shared.counters.bytes_sent.add(written as u64);
            outbox.begun.drain(..written);
            outbox.begun.shrink_to(BUFFER_KEEP_MAX_BYTES);
            if outbox.begun.is_empty() {
                return;
            }
        }
        outbox.idle = false;
        drop(guard);
        self.work.notify_one();
    }

    /// From now on, until the next batch is taken, only the connection's task writes.
    fn claim(&self, buffer: &mut Vec<u8>) {
        let mut outbox = self.outbox.lock();
        buffer.append(&mut outbox.begun);
        outbox.idle = false;
    }

    /// Moves the next batch to `batch`: all that is urgent, then a bounded amount of bulk. What senders have begun to
    /// write goes to `buffer`.
    fn take(&self, batch: &mut Vec<M>, buffer: &mut Vec<u8>) {
        let mut outbox = self.outbox.lock();
        buffer.append(&mut outbox.begun);
        while let Some((message, _)) = outbox.urgent.pop() {
            batch.push(message);
        }
        let mut bulk_bytes = 0;
        while bulk_bytes < BATCH_BULK_MAX_BYTES
            && let Some((message, size_bytes)) = outbox.bulk.pop()
        {
            bulk_bytes += size_bytes;
            batch.push(message);
        }
        outbox.idle = batch.is_empty() && buffer.is_empty();
    }

    fn connect(&self, incarnation: Incarnation, version: u16, direct: Weak<OwnedWriteHalf>) {
        let mut outbox = self.outbox.lock();
        outbox.connected = Some((incarnation, version));
        outbox.direct = direct;
        outbox.idle = false;
    }

    /// Returns how many messages were waiting, and are lost.
    fn disconnect(&self) -> usize {
        *self.round_trips.left_at.lock() = None;
        let mut outbox = self.outbox.lock();
        outbox.connected = None;
        outbox.direct = Weak::new();
        outbox.begun.clear();
        let urgent = std::mem::replace(&mut outbox.urgent, Queue::new(URGENT_LANE_MAX_BYTES));
        let bulk = std::mem::replace(&mut outbox.bulk, Queue::new(BULK_LANE_MAX_BYTES));
        drop(outbox);
        urgent.messages.len() + bulk.messages.len()
    }
}

/// Pauses between attempts that grow, and that differ from node to node so that they do not all come at once (N8).
pub(super) struct Backoff {
    random: StdRng,
    ceiling_ms: u64,
}

impl Backoff {
    pub(super) fn new(me: NodeId, peer: ReplicaId) -> Backoff {
        let seed = me.incarnation.0 ^ (u64::from(me.name.0) << 16) ^ u64::from(peer.0);
        Backoff { random: StdRng::seed_from_u64(seed), ceiling_ms: BACKOFF_FIRST_MS.1 }
    }

    pub(super) fn reset(&mut self) {
        self.ceiling_ms = BACKOFF_FIRST_MS.1;
    }

    /// Uniform between a fifth of the ceiling and the ceiling, which doubles up to its maximum.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.random.random_range(self.ceiling_ms / 5..=self.ceiling_ms);
        self.ceiling_ms = (self.ceiling_ms * 2).min(BACKOFF_MAX_MS);
        Duration::from_millis(pause)
    }
}

/// Keeps a connection to `peer` as long as the transport lives.
pub(super) async fn dial_forever<M>(shared: Arc<Shared<M>>, peer: Arc<Peer<M>>)
where
    M: Serialize + DeserializeOwned + Send + 'static,
{
    let mut backoff = Backoff::new(shared.me, peer.name);
    let mut refused: Option<String> = None;
    let mut unreachable = false;
    loop {
        // Before the facts are read: a change of them is noticed.
        let mut initialized = shared.initialized.subscribe();
        let address = peer.address();
        match dial(&shared, peer.name, &address, Purpose::Messages).await {
            Ok((stream, Met { node, version, .. })) => {
                refused = None;
                unreachable = false;
                shared.counters.dialled.add(1);
                tracing::info!(group = %shared.group, me = %shared.me, peer = %node, version, "connected");
                let began = Instant::now();
                let (mut read, write) = stream.into_split();
                let write = Arc::new(write);
                peer.connect(node.incarnation, version, Arc::downgrade(&write));
                let ended = carry(&shared, &peer, node, &mut read, &write, &mut initialized).await;
                if let WireError::Stalled(_) = ended {
                    shared.counters.closed_for_silence.add(1);
                    // What the kernel still holds is old news; without this it would be delivered some day (N5).
                    if let Err(error) = write.as_ref().as_ref().set_zero_linger() {
                        tracing::debug!(%error, "no reset on close");
                    }
                }
                shared.counters.dropped_unconnected.add(peer.disconnect() as u64);
                let (group, me) = (&shared.group, &shared.me);
                tracing::info!(%group, %me, peer = %node, reason = %ended, "connection lost");
                if began.elapsed() >= Duration::from_millis(STEADY_AFTER_MS) {
                    backoff.reset();
                }
            }
            Err(HandshakeError::Refused(reason)) => {
                unreachable = false;
                if refused.as_ref() != Some(&reason) {
                    tracing::warn!(group = %shared.group, me = %shared.me, peer = %peer.name, %reason, "refused");
                    // If the sink is full, the next attempt says it again.
                    let event = TransportEvent::Refused { peer: peer.name, reason: reason.clone() };
                    refused = shared.emit(event).then_some(reason);
                }
            }
            Err(HandshakeError::Disqualified(why)) => {
                unreachable = false;
                shared.tell(|| TransportEvent::Disqualified { by: peer.name, why }).await;
            }
            Err(HandshakeError::Failed(reason)) => {
                if !unreachable {
                    tracing::info!(group = %shared.group, me = %shared.me, peer = %peer.name, %address, %reason,
                        "not reachable, trying until it is");
                    unreachable = true;
                }
            }
        }
        let pause = backoff.pause();
        let shortest = Duration::from_millis(BACKOFF_FIRST_MS.0);
        sleep(shortest).await;
        tokio::select! {
            () = sleep(pause.saturating_sub(shortest)) => {}
            () = peer.seen.notified() => {}
        }
    }
}

/// Connects to the replica `to`, and shakes hands; once more as the build before this one does if that is what is
/// there.
pub(super) async fn dial<M>(
    shared: &Shared<M>,
    to: ReplicaId,
    address: &str,
    purpose: Purpose,
) -> Result<(TcpStream, Met), HandshakeError> {
    match dial_once(shared, to, address, (purpose, Greeting::Range)).await {
        Err(HandshakeError::Refused(reason)) if handshake::is_before_ranges(&reason) => {
            dial_once(shared, to, address, (purpose, Greeting::WithoutRange)).await
        }
        ended => ended,
    }
}

async fn dial_once<M>(
    shared: &Shared<M>,
    to: ReplicaId,
    address: &str,
    what: (Purpose, Greeting),
) -> Result<(TcpStream, Met), HandshakeError> {
    let limit = Duration::from_millis(shared.pace.handshake_max_ms);
    let mut stream = reach::connect(address, limit).await.map_err(|error| HandshakeError::Failed(error.to_string()))?;
    let (read, mut write) = stream.split();
    // The answerer says nothing after its Welcome before it is asked, so nothing is lost with this reader's buffer.
    let mut reader = FrameReader::new(read, HANDSHAKE_PAYLOAD_MAX_BYTES);
    let mine = shared.myself();
    let met = handshake::introduce(&mut reader, &mut write, &mine, to, what, limit).await?;
    // It hears of it where it dials.
    let refused = |why| HandshakeError::Refused(format!("replica {}: {why}", met.node));
    shared.admit(met).await.map_err(refused)?;
    shared.note_commands(&met);
    if let Ok(reached) = stream.peer_addr() {
        reach::greeted(address, reached);
    }
    Ok((stream, met))
}

/// Carries messages over `stream` until it ends; says why it ended.
async fn carry<M>(
    shared: &Shared<M>,
    peer: &Peer<M>,
    node: NodeId,
    read: &mut OwnedReadHalf,
    write: &OwnedWriteHalf,
    initialized: &mut watch::Receiver<()>,
) -> WireError
where
    M: Serialize,
{
    let ping = Duration::from_millis(shared.pace.ping_interval_ms);
    let stall_max = Duration::from_millis(shared.pace.write_stall_max_ms);
    let mut reader = FrameReader::new(read, HANDSHAKE_PAYLOAD_MAX_BYTES);
    let mut ticks = interval_at(tokio::time::Instant::now() + ping, ping);
    // After a pause of the process one ping is due, not all that were missed (E18).
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = 0;
    let mut pings = TimedPing::default();
    let mut announced = shared.emit(TransportEvent::Connected { peer: node });
    let mut batch = Vec::new();
    let mut buffer = Vec::new();
    loop {
        peer.take(&mut batch, &mut buffer);
        shared.encode(&mut batch, &mut buffer);
        tokio::select! {
            biased;
            // Only pongs come back; above all, this is how the end of the connection is noticed while nothing is sent.
            frame = reader.next() => match frame {
                Ok(Some(frame)) if frame.kind == kind::PONG => {
                    unanswered = 0;
                    pings.answered(&peer.round_trips);
                }
                Ok(Some(frame)) => {
                    shared.counters.closed_for_violations.add(1);
                    let what = format!("a frame of kind {:#x} on a connection that is not for it", frame.kind);
                    return WireError::Codec(codec::CodecError::Malformed(what));
                }
                Ok(None) => return WireError::Io(std::io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return error,
            },
            Ok(()) = initialized.changed() => {
                return WireError::Io(std::io::Error::other("this replica was initialized meanwhile"));
            }
            _ = ticks.tick() => {
                unanswered += 1;
                if unanswered > PINGS_MISSED_MAX {
                    return WireError::Stalled(ping * PINGS_MISSED_MAX);
                }
                peer.claim(&mut buffer);
                push_empty_frame(&mut buffer, kind::PING);
                pings.sent(&peer.round_trips);
            }
            () = async { sleep(Duration::from_millis(EVENT_RETRY_MS)).await }, if !announced => {
                announced = shared.emit(TransportEvent::Connected { peer: node });
            }
            () = async { if buffer.is_empty() { peer.work.notified().await } } => {}
        }
        if buffer.is_empty() {
            continue;
        }
        match wire::write_all_shared(write, &buffer, stall_max).await {
            // The kernel's buffer was full, and room came: the other side takes what we send, however slowly its
            // answers get through.
            Ok(true) => unanswered = 0,
            Ok(false) => {}
            Err(error) => return error,
        }
        shared.counters.batches_sent.add(1);
        shared.counters.bytes_sent.add(buffer.len() as u64);
        buffer.clear();
        buffer.shrink_to(BUFFER_KEEP_MAX_BYTES);
    }
}

/// Appends a frame that says everything by its kind.
pub(super) fn push_empty_frame(buffer: &mut Vec<u8>, kind: u16) {
    codec::frame(buffer, kind, &()).unwrap_or_else(|error| panic!("an empty frame of kind {kind} is {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation(7);

    fn peer() -> Peer<u32> {
        let peer = Peer::new(ReplicaId(1), String::new());
        peer.connect(LIFE, 5, Weak::new());
        peer
    }

    fn taken(peer: &Peer<u32>) -> Vec<u32> {
        let mut batch = Vec::new();
        peer.take(&mut batch, &mut Vec::new());
        batch
    }

    #[test]
    fn urgent_lane_overtakes_bulk_lane_and_each_keeps_its_order() {
        let peer = peer();
        for (message, lane) in [(1, Lane::Bulk), (2, Lane::Bulk), (3, Lane::Urgent), (4, Lane::Urgent)] {
            assert_eq!(peer.push(LIFE, message, lane, 10), Pushed::Queued);
        }
        assert_eq!(taken(&peer), [3, 4, 1, 2]);
    }

    #[test]
    fn batch_takes_bounded_bulk_so_that_urgent_waits_briefly() {
        let peer = peer();
        for message in 0..3 {
            peer.push(LIFE, message, Lane::Bulk, BATCH_BULK_MAX_BYTES);
        }
        assert_eq!(taken(&peer), [0]);
        peer.push(LIFE, 99, Lane::Urgent, 10);
        assert_eq!(taken(&peer), [99, 1]);
    }

    // covers N7
    #[test]
    fn full_lane_drops_by_bytes_and_by_count_and_leaves_the_other_alone() {
        let peer = peer();
        assert_eq!(peer.bulk_bytes(), 0);
        assert_eq!(peer.push(LIFE, 0, Lane::Bulk, BULK_LANE_MAX_BYTES + 1), Pushed::Queued);
        assert_eq!(peer.bulk_bytes(), BULK_LANE_MAX_BYTES + 1);
        assert_eq!(peer.push(LIFE, 0, Lane::Bulk, 1), Pushed::Full);
        for _ in 0..LANE_MESSAGES_MAX {
            assert_eq!(peer.push(LIFE, 0, Lane::Urgent, 0), Pushed::Queued);
        }
        assert_eq!(peer.push(LIFE, 0, Lane::Urgent, 0), Pushed::Full);
        taken(&peer);
        assert_eq!(peer.push(LIFE, 0, Lane::Bulk, 1), Pushed::Queued);
    }

    // covers M7, N10
    #[test]
    fn message_for_another_incarnation_or_a_lost_connection_dropped() {
        let peer = peer();
        assert_eq!(peer.push(Incarnation(6), 0, Lane::Bulk, 1), Pushed::Unconnected);
        peer.push(LIFE, 1, Lane::Bulk, 1);
        assert_eq!(peer.disconnect(), 1);
        assert_eq!(peer.push(LIFE, 2, Lane::Bulk, 1), Pushed::Unconnected);
        peer.connect(LIFE, 5, Weak::new());
        assert!(taken(&peer).is_empty());
    }

    #[test]
    fn ping_is_timed_until_its_own_answer_and_counts_while_it_waits() {
        let peer = peer();
        let mut pings = TimedPing::default();
        pings.sent(&peer.round_trips);
        assert_eq!(peer.take_round_trips(Duration::from_secs(60)).count, 0, "not yet late");
        assert_eq!(peer.take_round_trips(Duration::ZERO).count, 1);
        // The second one is sent while the first is timed.
        pings.sent(&peer.round_trips);
        pings.answered(&peer.round_trips);
        pings.answered(&peer.round_trips);
        assert_eq!(peer.take_round_trips(Duration::ZERO).count, 1);
        pings.sent(&peer.round_trips);
        peer.disconnect();
        assert_eq!(peer.take_round_trips(Duration::ZERO).count, 0, "no one waits for it any more");
    }

    // covers N8
    #[test]
    fn backoff_starts_short_grows_to_its_cap_and_differs_between_nodes() {
        let mut one = Backoff::new(NodeId::new(0, 1), ReplicaId(1));
        let mut other = Backoff::new(NodeId::new(2, 3), ReplicaId(1));
        let pauses: Vec<Duration> = (0..20).map(|_| one.pause()).collect();
        let others: Vec<Duration> = (0..20).map(|_| other.pause()).collect();
        assert_ne!(pauses, others);
        assert!((Duration::from_millis(10)..=Duration::from_millis(50)).contains(&pauses[0]), "{pauses:?}");
        let late = Duration::from_millis(100)..=Duration::from_millis(BACKOFF_MAX_MS);
        assert!(pauses[5..].iter().all(|pause| late.contains(pause)), "{pauses:?}");
        one.reset();
        assert!(one.pause() <= Duration::from_millis(50));
    }
}
