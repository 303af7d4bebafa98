//! The peers' side of the connections: what they dial, we accept.
//!
//! A connection is no one's until its handshake is done; until then it costs a bounded buffer and two seconds at most,
//! and a place in the [lobby](crate::lobby), which strangers share. Afterwards it belongs to one [`NodeId`], and has
//! one of the places of that name: no crowd of strangers keeps a peer out.
//! If that node connects again, the newer connection takes the older one's
//! place at once: from then on nothing of the older one is delivered, and its end is no news (N5, N8).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::handshake::{self, HANDSHAKE_PAYLOAD_MAX_BYTES, HandshakeError, Purpose, kind};
use super::outbound::push_empty_frame;
use super::{EVENT_RETRY_MS, PINGS_MISSED_MAX, Shared, TransportEvent, snapshot};
use crate::codec::{self, FRAME_PAYLOAD_MAX_BYTES};
use crate::id::{NodeId, ReplicaId};
use crate::lobby::{Guest, Lobby};
use crate::wire::{Frame, FrameReader, WireError};

/// Accepted connections whose handshake is not done.
pub const STRANGERS_MAX: usize = 64;
/// Accepted connections of one peer: one for messages and one for a snapshot, and some that these have just replaced.
pub const CONNECTIONS_OF_PEER_MAX: usize = 8;
/// How long accepting pauses after it failed (no descriptors left, for example), in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;

/// Which accepted connection speaks for which node.
#[derive(Default)]
pub(super) struct Registry {
    current: Mutex<BTreeMap<NodeId, Arc<Gate>>>,
    /// How many connections each peer has.
    counts: Mutex<BTreeMap<ReplicaId, usize>>,
}

/// A place among those of a peer, until dropped.
struct PeerPermit<'r> {
    registry: &'r Registry,
    name: ReplicaId,
}

impl Drop for PeerPermit<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.registry.counts.lock().get_mut(&self.name) {
            *count -= 1;
        }
    }
}

/// What the frames of one accepted connection must pass.
struct Gate {
    /// Whether the connection still speaks for its node. Held while a message is handed over, so whoever has closed
    /// the gate knows that nothing more comes through it.
    open: Mutex<bool>,
    /// Tells the connection's task that its gate was closed.
    closed: Notify,
}

impl Registry {
    /// A place for a connection of `name`; `None` if it has too many.
    fn permit(&self, name: ReplicaId) -> Option<PeerPermit<'_>> {
        let mut counts = self.counts.lock();
        let count = counts.entry(name).or_default();
        if *count >= CONNECTIONS_OF_PEER_MAX {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(PeerPermit { registry: self, name })
    }

    /// Makes a new connection the one that speaks for `node`.
    fn register(&self, node: NodeId) -> Arc<Gate> {
        let gate = Arc::new(Gate { open: Mutex::new(true), closed: Notify::new() });
        let older = self.current.lock().insert(node, gate.clone());
        if let Some(older) = older {
            *older.open.lock() = false;
            older.closed.notify_one();
        }
        gate
    }

    /// Takes a connection that has ended out. Returns whether it spoke for `node` until then.
    fn unregister(&self, node: NodeId, gate: &Arc<Gate>) -> bool {
        let mut current = self.current.lock();
        let mine = current.get(&node).is_some_and(|present| Arc::ptr_eq(present, gate));
        if mine {
            current.remove(&node);
        }
        mine
    }
}

/// Accepts connections as long as the transport lives.
pub(super) async fn accept_forever<M>(shared: Arc<Shared<M>>, listener: TcpListener)
where
    M: Serialize + DeserializeOwned + Send + 'static,
{
    // Dropped with this task, and takes all connections with it.
    let mut connections = JoinSet::new();
    let lobby = Lobby::new(STRANGERS_MAX);
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    failing = false;
                    let guest = lobby.enter(Some(address.ip()));
                    connections.spawn(serve(shared.clone(), stream, address, guest));
                    // Whoever has said already who he is leaves the lobby before others come in.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(group = %shared.group, me = %shared.me, %error, "cannot accept connections");
                        failing = true;
                    }
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(group = %shared.group, me = %shared.me, %error, "a connection's task panicked");
                }
            }
        }
    }
}

async fn serve<M>(shared: Arc<Shared<M>>, mut stream: TcpStream, address: SocketAddr, guest: Guest)
where
    M: Serialize + DeserializeOwned + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no immediate sending");
    }
    let (read, mut write) = stream.split();
    let mut reader = FrameReader::new(read, HANDSHAKE_PAYLOAD_MAX_BYTES);
    // Before the facts are read: a change of them is noticed.
    let mut initialized = shared.initialized.subscribe();
    let mine = shared.myself();
    let limit = Duration::from_millis(shared.pace.handshake_max_ms);
    let is_peer = |name| shared.peer(name).is_some();
    let heard = tokio::select! {
        heard = handshake::listen(&mut reader, &mut write, &mine.facts, is_peer, limit) => heard,
        () = guest.shown_out() => Err(HandshakeError::Failed("too many strangers".to_owned())),
    };
    let heard = match heard {
        Ok((met, purpose)) => match shared.registry.permit(met.node.name) {
            Some(permit) => Ok((met, purpose, permit)),
            None => {
                let reason = format!("replica {} has too many connections here", met.node.name);
                handshake::refuse(&mut write, &reason, limit).await;
                Err(HandshakeError::Failed(reason))
            }
        },
        Err(error) => Err(error),
    };
    drop(guest);
    let (met, purpose, _permit) = match heard {
        Ok(heard) => heard,
        Err(HandshakeError::Refused(reason)) => {
            shared.counters.turned_away.add(1);
            let unsaid = shared.refusals.lock().note(&reason, std::time::Instant::now());
            if let Some(unsaid) = unsaid {
                tracing::warn!(group = %shared.group, me = %shared.me, %address, %reason, unsaid, "turned away");
            }
            return;
        }
        Err(HandshakeError::Disqualified(_)) => panic!("a dialler was disqualified before it was judged"),
        Err(HandshakeError::Failed(reason)) => {
            shared.counters.turned_away.add(1);
            tracing::debug!(group = %shared.group, me = %shared.me, %address, %reason, "no peer");
            return;
        }
    };
    if let Err(why) = shared.admit(met).await {
        shared.counters.turned_away.add(1);
        let reason = format!("replica {}: {why}", met.node);
        let unsaid = shared.refusals.lock().note(&reason, std::time::Instant::now());
        if let Some(unsaid) = unsaid {
            tracing::warn!(group = %shared.group, me = %shared.me, %address, %reason, unsaid, "disqualified");
        }
        handshake::disqualify(&mut write, why, limit).await;
        return;
    }
    shared.note_commands(&met);
    let node = met.node;
    // Registered before it is welcomed: once the peer knows its new connection, nothing of its older one is delivered.
    match purpose {
        Purpose::Messages => {
            let gate = shared.registry.register(node);
            let ended = match handshake::welcome(&mut write, &mine, met.version, limit).await {
                Ok(()) => {
                    shared.counters.accepted.add(1);
                    if let Some(peer) = shared.peer(node.name) {
                        peer.saw_alive();
                    }
                    reader.set_payload_max_bytes(FRAME_PAYLOAD_MAX_BYTES);
                    receive(&shared, node, &gate, &mut reader, &mut write, &mut initialized).await
                }
                Err(error) => End::of(error),
            };
            conclude(&shared, node, &gate, ended).await;
        }
        Purpose::Snapshot => {
            if handshake::welcome(&mut write, &mine, met.version, limit).await.is_ok() {
                shared.counters.accepted.add(1);
                snapshot::receive(&shared, node, &mut reader, &mut write).await;
            }
        }
    }
}

/// Why an accepted connection has ended.
enum End {
    /// The peer closed it, or died.
    ByPeer(String),
    /// We closed it.
    ByUs(String),
    /// A newer one took its place.
    Superseded,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::ByPeer(reason) => write!(f, "closed by the peer: {reason}"),
            End::ByUs(reason) => write!(f, "closed here: {reason}"),
            End::Superseded => f.write_str("superseded"),
        }
    }
}

impl End {
    fn of(error: WireError) -> End {
        if error.is_closed_by_peer() { End::ByPeer(error.to_string()) } else { End::ByUs(error.to_string()) }
    }
}

/// Takes a connection out of the registry and, if the peer closed it, says so.
async fn conclude<M>(shared: &Shared<M>, node: NodeId, gate: &Arc<Gate>, ended: End) {
    let was_current = shared.registry.unregister(node, gate);
    tracing::debug!(group = %shared.group, me = %shared.me, peer = %node, %ended, "accepted connection ended");
    if !was_current || !matches!(ended, End::ByPeer(_)) {
        return;
    }
    loop {
        {
            // Under the registry's lock, so that a newer connection comes either before (then this is no news any more)
            // or after the event.
            let current = shared.registry.current.lock();
            if current.contains_key(&node) || shared.offer(TransportEvent::Disconnected { peer: node }) {
                break;
            }
        }
        sleep(Duration::from_millis(EVENT_RETRY_MS)).await;
    }
    shared.sink.flush();
}

/// Hands over what comes until the connection ends.
async fn receive<M, R>(
    shared: &Shared<M>,
    node: NodeId,
    gate: &Gate,
    reader: &mut FrameReader<R>,
    write: &mut WriteHalf<'_>,
    initialized: &mut watch::Receiver<()>,
) -> End
where
    M: DeserializeOwned,
    R: tokio::io::AsyncRead + Unpin,
{
    let period = Duration::from_millis(shared.pace.ping_interval_ms);
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    // Ticks are counted, not time: after a pause of this process, what the peers sent meanwhile is read first (E18).
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        tokio::select! {
            biased;
            () = gate.closed.notified() => return End::Superseded,
            Ok(()) = initialized.changed() => return End::ByUs("this replica was initialized meanwhile".to_owned()),
            first = reader.next() => {
                missed = 0;
                // Many frames come with one read; the timers need no look between them.
                let mut next = first;
                let ended = loop {
                    match next {
                        Ok(Some(frame)) => {
                            if let Err(end) = hand_over(shared, node, gate, frame, write) {
                                break Some(end);
                            }
                        }
                        Ok(None) => break Some(End::ByPeer("closed".to_owned())),
                        Err(error) => break Some(not_a_frame(shared, node, error)),
                    }
                    match reader.buffered() {
                        Ok(None) => break None,
                        more => next = more,
                    }
                };
                shared.sink.flush();
                if let Some(ended) = ended {
                    return ended;
                }
            }
            _ = ticks.tick() => {
                missed += 1;
                if missed > PINGS_MISSED_MAX {
                    shared.counters.closed_for_silence.add(1);
                    return End::ByUs("silent for too long".to_owned());
                }
            }
        }
    }
}

fn not_a_frame<M>(shared: &Shared<M>, node: NodeId, error: WireError) -> End {
    if let WireError::Codec(_) = error {
        shared.counters.closed_for_violations.add(1);
        tracing::warn!(group = %shared.group, me = %shared.me, peer = %node, %error, "not a frame");
    }
    End::of(error)
}

fn hand_over<M>(
    shared: &Shared<M>,
    node: NodeId,
    gate: &Gate,
    frame: Frame<'_>,
    write: &mut WriteHalf<'_>,
) -> Result<(), End>
where
    M: DeserializeOwned,
{
    shared.counters.bytes_received.add(frame.payload.len() as u64);
    match frame.kind {
        kind::MESSAGE => {
            let message = codec::decode(frame.payload).map_err(|error| {
                shared.counters.closed_for_violations.add(1);
                tracing::warn!(group = %shared.group, me = %shared.me, peer = %node, %error, "not a message");
                End::ByUs(error.to_string())
            })?;
            let open = gate.open.lock();
            if !*open {
                return Err(End::Superseded);
            }
            let taken = shared.offer(TransportEvent::Received { from: node, message });
            drop(open);
            let counter = if taken { &shared.counters.messages_received } else { &shared.counters.dropped_by_sink };
            counter.add(1);
            Ok(())
        }
        kind::PING => {
            let mut pong = Vec::new();
            push_empty_frame(&mut pong, kind::PONG);
            match write.try_write(&pong) {
                Ok(count) if count == pong.len() => Ok(()),
                // A peer that does not read its pongs gets none; it will find out.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
                Ok(_) => Err(End::ByUs("a pong went out in part".to_owned())),
                Err(error) => Err(End::of(WireError::Io(error))),
            }
        }
        other => {
            shared.counters.closed_for_violations.add(1);
            Err(End::ByUs(format!("a frame of kind {other:#x}")))
        }
    }
}
