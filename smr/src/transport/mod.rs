//! Connections between the replicas of a group.
//!
//! Every replica dials every other one, and its dialled connection carries its own messages; nothing but the answer to
//! the handshake and to pings comes back on it. So there are two connections between two replicas, one for each
//! direction, both dial at once without a race to settle, and each learns by itself when the other is gone.
//!
//! # What it guarantees
//! - [`TransportEvent::Received`] names the sender of a finished [handshake]: same protocol, cluster, group
//!   and genesis, a name among the configured peers, and a present incarnation.
//! - Messages of one lane from one sender arrive in order, each at most once. Any message may be lost.
//! - Nothing of a connection is delivered after its successor's first message, or after its
//!   [`TransportEvent::Disconnected`].
//! - [`Transport::send`] never waits. Queues are bounded; what does not fit, or is for an incarnation that is not
//!   connected at this moment, is dropped and counted.
//! - [`TransportEvent::Disconnected`] follows within about a millisecond when a peer's process ends: the quick
//!   replacement of a dead leader rests on it.
//!
//! # What it does not do
//! It keeps nothing for later, repeats nothing, orders nothing across lanes and across peers, and encrypts nothing:
//! peers are trusted not to lie.
//!
//! # Words
//! *Dialled* connections are those we opened (module `outbound`), *accepted* ones those that peers opened (`inbound`).
//! Snapshots travel on connections of their own (`snapshot`).

mod handshake;
mod inbound;
mod outbound;
mod refusals;
mod snapshot;
mod stats;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

pub use self::handshake::PEER_VERSIONS;
pub use self::inbound::{CONNECTIONS_OF_PEER_MAX, STRANGERS_MAX};
pub use self::outbound::{BULK_LANE_MAX_BYTES, LANE_MESSAGES_MAX, URGENT_LANE_MAX_BYTES};
pub use self::snapshot::{
    CHUNK_MAX_BYTES, NoSnapshots, NotBegun, OFFER_HEADER_MAX_BYTES, Offer, REST_MAX, SNAPSHOT_SENDS_MAX, SnapshotSink,
    SnapshotSource,
};
pub use self::stats::TransportStats;

use self::handshake::{Facts, Met, Myself, kind};
use self::inbound::Registry;
use self::outbound::{Peer, Pushed};
use self::refusals::Refusals;
use self::snapshot::{Receiving, Sends};
use self::stats::Counters;
use crate::codec;
use crate::durations::RecentCounts;
use crate::entry::{EntryId, GenesisHash};
use crate::epoch::GroupKind;
use crate::id::{ClusterId, Disqualified, GroupName, Incarnation, NodeId, ReplicaId, StartTrail};
use crate::version::CommandVersions;

/// How long to wait before an event that the sink did not take is offered again, in milliseconds.
pub const EVENT_RETRY_MS: u64 = 5;
/// Pings in a row that may be missing, or unanswered, before a connection is taken for half-open and closed (N6).
pub const PINGS_MISSED_MAX: u32 = 5;

/// What a transport needs to know.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The group whose replicas are met; those of other groups are refused.
    pub group: GroupName,
    /// This replica.
    pub node: NodeId,
    /// The cluster, if it is known yet.
    pub cluster: Option<ClusterId>,
    /// The group's bootstrap record, once it is initialized.
    pub genesis: Option<GenesisHash>,
    /// This start of its process, which is durable already.
    pub start: StartTrail,
    /// The kind of the group. Only replicas of the same kind are met.
    pub kind: GroupKind,
    /// The commands that this build applies; peers are told.
    pub commands: CommandVersions,
    /// Judges the starts that peers show.
    pub admission: Arc<dyn Admission>,
    /// The other replicas' addresses, as `host:port`, until [`Transport::set_addresses`] says more. This replica's own
    /// name is ignored.
    pub peers: BTreeMap<ReplicaId, String>,
}

/// Judges who has shaken hands, before the connection counts.
pub trait Admission: fmt::Debug + Send + Sync {
    /// A node shows itself in this start of its process. When this returns, the start is remembered durably, or
    /// refused. May wait for the disk; it is called where that is allowed.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, node: NodeId, start: StartTrail) -> Result<(), NotAdmitted>;
}

/// Why a node that has shaken hands is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It must not take part any longer; it is told so.
    Disqualified(Disqualified),
    /// Nothing can be said of it, because this replica cannot go on. It is told nothing.
    Unable,
}

impl From<Disqualified> for NotAdmitted {
    fn from(why: Disqualified) -> NotAdmitted {
        NotAdmitted::Disqualified(why)
    }
}

/// Remembers nothing, and admits everyone. For tests.
#[derive(Debug)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _node: NodeId, _start: StartTrail) -> Result<(), NotAdmitted> {
        Ok(())
    }
}

/// How long a transport waits for its peers. The defaults suit one site; a slower network wants longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long connecting, and each step of a handshake, may take, in milliseconds. More than a round trip (N3).
    pub handshake_max_ms: u64,
    /// How often a dialled connection pings, in milliseconds. After [`PINGS_MISSED_MAX`] of them without a sign of life
    /// a connection is closed. The same for all replicas of a group.
    pub ping_interval_ms: u64,
    /// How long a peer may take nothing of what is written to it before the connection is closed (N7), in milliseconds.
    pub write_stall_max_ms: u64,
    /// How long the other side of a snapshot's transfer may show no sign of life, in milliseconds.
    pub snapshot_stall_max_ms: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            handshake_max_ms: 2_000,
            ping_interval_ms: 1_000,
            write_stall_max_ms: 5_000,
            snapshot_stall_max_ms: 10_000,
        }
    }
}

/// What a transport has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum TransportEvent<M> {
    /// A message arrived.
    Received {
        /// Its sender.
        from: NodeId,
        /// The message.
        message: M,
    },
    /// The dialled connection to this peer is ready; from now on messages to it are sent.
    Connected {
        /// The peer in its present incarnation.
        peer: NodeId,
    },
    /// The connection *from* this peer was closed by its side, orderly or not, and it has no newer one. News, not proof
    /// of death.
    Disconnected {
        /// The peer.
        peer: NodeId,
    },
    /// This peer and we do not fit together. Told again only when the reason changes, or after a connection.
    Refused {
        /// The peer's name, from the configuration.
        peer: ReplicaId,
        /// Why, for the operator.
        reason: String,
    },
    /// A peer knows that this node must not take part any longer.
    Disqualified {
        /// The peer that says so.
        by: ReplicaId,
        /// The reason.
        why: Disqualified,
    },
    /// The transfer of a snapshot to this node ended. Exactly one for each call of
    /// [`Transport::send_snapshot`].
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// The entry that the snapshot ends with, or `None` if the transfer failed.
        last: Option<EntryId>,
    },
}

/// Where events go. Called from the transport's tasks, so it must not block: the thread that it holds may be the one
/// that watches all sockets of the runtime. A function from an event will do.
pub trait EventSink<M>: Send + Sync {
    /// Takes an event. Returns `false` when there is no room. A message is then dropped; any other event is offered
    /// again soon.
    fn take(&self, event: TransportEvent<M>) -> bool;

    /// Nothing more is at hand now. What was taken may be acted upon by this thread, if that takes no longer than
    /// reading a batch of messages does.
    fn flush(&self) {}
}

impl<M, F: Fn(TransportEvent<M>) -> bool + Send + Sync> EventSink<M> for F {
    fn take(&self, event: TransportEvent<M>) -> bool {
        self(event)
    }
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small and urgent: heartbeats, votes, acknowledgements. Overtakes bulk.
    Urgent,
    /// Log entries.
    Bulk,
}

/// The connections of one replica to its group. Ends with [`Transport::shutdown`], or when dropped.
pub struct Transport<M> {
    shared: Arc<Shared<M>>,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

/// What the tasks of a transport share.
struct Shared<M> {
    group: GroupName,
    me: NodeId,
    facts: Mutex<Facts>,
    commands: CommandVersions,
    /// What the build of each node applies, by its last handshake.
    theirs: Mutex<BTreeMap<ReplicaId, (NodeId, CommandVersions)>>,
    /// Tells each connection that the facts have changed under which it was made.
    initialized: watch::Sender<()>,
    admission: Arc<dyn Admission>,
    /// The other replicas, whose addresses may change, and which grow with the group.
    peers: RwLock<BTreeMap<ReplicaId, Arc<Peer<M>>>>,
    registry: Registry,
    sink: Arc<dyn EventSink<M>>,
    snapshots: Arc<dyn SnapshotSink>,
    sends: Sends,
    receiving: Receiving,
    pace: Pace,
    stopped: AtomicBool,
    counters: Counters,
    refusals: Mutex<Refusals>,
}

impl<M> Transport<M>
where
    M: Serialize + DeserializeOwned + Send + 'static,
{
    /// Starts to accept on `listener` and to dial the peers. `runtime` needs its I/O and time drivers. Snapshots from
    /// peers go to `snapshots`.
    ///
    /// # Errors
    /// Those of the listener.
    pub fn start(
        config: TransportConfig,
        listener: std::net::TcpListener,
        runtime: Handle,
        sink: Arc<dyn EventSink<M>>,
        snapshots: Arc<dyn SnapshotSink>,
    ) -> io::Result<Transport<M>> {
        Transport::start_at_pace(config, listener, runtime, sink, snapshots, Pace::default())
    }

    /// As [`Transport::start`], for a network with its own pace.
    ///
    /// # Errors
    /// Those of the listener.
    pub fn start_at_pace(
        config: TransportConfig,
        listener: std::net::TcpListener,
        runtime: Handle,
        sink: Arc<dyn EventSink<M>>,
        snapshots: Arc<dyn SnapshotSink>,
        pace: Pace,
    ) -> io::Result<Transport<M>> {
        listener.set_nonblocking(true)?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let peers = config.peers;
        let shared = Arc::new(Shared {
            group: config.group.clone(),
            me: config.node,
            facts: Mutex::new(Facts {
                cluster: config.cluster,
                group: config.group,
                node: config.node,
                genesis: config.genesis,
                start: config.start,
                kind: config.kind,
            }),
            commands: config.commands,
            theirs: Mutex::default(),
            initialized: watch::Sender::new(()),
            admission: config.admission,
            peers: RwLock::default(),
            registry: Registry::default(),
            sink,
            snapshots,
            sends: Sends::default(),
            receiving: Receiving::default(),
            pace,
            stopped: AtomicBool::new(false),
            counters: Counters::default(),
            refusals: Mutex::new(Refusals::new(Instant::now())),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn_on(inbound::accept_forever(shared.clone(), listener), &runtime);
        let transport = Transport { shared, runtime, tasks: Mutex::new(tasks) };
        transport.set_addresses(&peers);
        Ok(transport)
    }

    /// From now on these replicas are dialled at these addresses, and may dial; replicas that are not named stay what
    /// they are. This replica's own name is ignored.
    pub fn set_addresses(&self, addresses: &BTreeMap<ReplicaId, String>) {
        let others = addresses.iter().filter(|(name, _)| **name != self.shared.me.name);
        for (&name, address) in others.filter(|(_, address)| !address.is_empty()) {
            if let Some(peer) = self.shared.peer(name) {
                peer.move_to(address);
                continue;
            }
            let peer = Arc::new(Peer::new(name, address.clone()));
            self.shared.peers.write().insert(name, Arc::clone(&peer));
            if !self.shared.stopped.load(Ordering::SeqCst) {
                self.tasks.lock().spawn_on(outbound::dial_forever(self.shared.clone(), peer), &self.runtime);
            }
        }
    }

    /// Sends `message` to that very incarnation, or drops it. `size_bytes` is what it costs against the lane's bound;
    /// an estimate will do.
    pub fn send(&self, to: NodeId, message: M, lane: Lane, size_bytes: usize) {
        self.queue(to, message, lane, size_bytes);
        if let Some(peer) = self.shared.peer(to.name) {
            peer.flush(&self.shared);
        }
    }

    /// Like [`Transport::send`], but the message may wait for [`Transport::flush`]: several then share a system call.
    pub fn queue(&self, to: NodeId, message: M, lane: Lane, size_bytes: usize) {
        let pushed = match self.shared.peer(to.name) {
            Some(peer) => peer.push(to.incarnation, message, lane, size_bytes),
            None => Pushed::Unconnected,
        };
        match pushed {
            Pushed::Queued => {}
            Pushed::Unconnected => self.shared.counters.dropped_unconnected.add(1),
            Pushed::Full => self.shared.counters.dropped_full.add(1),
        }
    }

    /// As [`Transport::queue`], for a message that depends on the version of the connection: one of [`PEER_VERSIONS`].
    /// Without a connection, or if that version has no such message, nothing is sent.
    pub fn queue_for(&self, to: NodeId, message: impl FnOnce(u16) -> Option<M>, lane: Lane, size_bytes: usize) {
        let version = self.shared.peer(to.name).and_then(|peer| peer.version());
        match version.map(message) {
            // A connection that is made meanwhile in another version costs, at worst, this very connection.
            Some(Some(message)) => self.queue(to, message, lane, size_bytes),
            Some(None) => {}
            None => self.shared.counters.dropped_unconnected.add(1),
        }
    }

    /// Lets everything leave that was queued.
    pub fn flush(&self) {
        self.shared.all_peers().values().for_each(|peer| peer.flush(&self.shared));
    }

    /// Starts to send a snapshot to that very incarnation, on a connection of its own that is dialled again if it
    /// breaks. At most [`SNAPSHOT_SENDS_MAX`] are sent at once, the others wait; a second one for the same node fails.
    /// [`TransportEvent::SnapshotSent`] tells how it ended.
    pub fn send_snapshot(&self, to: NodeId, source: Box<dyn SnapshotSource>) {
        if self.shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let mut tasks = self.tasks.lock();
        // Those that have ended; the others of this set never do.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(snapshot::send(self.shared.clone(), to, source), &self.runtime);
    }
}

impl<M> Transport<M> {
    /// The group is initialized: handshakes carry this from now on. Connections that were made before it was known end,
    /// soon: who is at their other ends was not compared.
    pub fn set_bootstrap(&self, cluster: Option<ClusterId>, genesis: GenesisHash) {
        let mut facts = self.shared.facts.lock();
        let changed = facts.cluster != cluster || facts.genesis != Some(genesis);
        facts.cluster = cluster;
        facts.genesis = Some(genesis);
        drop(facts);
        if changed {
            self.shared.initialized.send_replace(());
        }
    }

    /// The incarnation of `name` that messages reach at this moment, if any.
    pub fn incarnation_of(&self, name: ReplicaId) -> Option<Incarnation> {
        self.shared.peer(name)?.incarnation()
    }

    /// How many bytes, as estimated by the sender, wait in the bulk lane for `name`; none without a connection.
    pub fn bulk_bytes_waiting(&self, name: ReplicaId) -> usize {
        self.shared.peer(name).map_or(0, |peer| peer.bulk_bytes())
    }

    /// Those who are connected at this moment: messages reach them.
    pub fn connected(&self) -> Vec<NodeId> {
        let reached =
            |(&name, peer): (&ReplicaId, &Arc<Peer<M>>)| Some(NodeId { name, incarnation: peer.incarnation()? });
        self.shared.all_peers().iter().filter_map(reached).collect()
    }

    /// The commands that the build of this node applies, by its last handshake; `None` if there was none since this
    /// transport began.
    pub fn commands_of(&self, node: NodeId) -> Option<CommandVersions> {
        let theirs = self.shared.theirs.lock();
        theirs.get(&node.name).filter(|(met, _)| *met == node).map(|(_, commands)| *commands)
    }

    /// How long pings to each peer took since this was last called; see
    /// [`ReplicaPace`](crate::replica::ReplicaPace::round_trips).
    pub fn take_round_trips(&self, known_after: Duration) -> Vec<(ReplicaId, RecentCounts)> {
        let of = |(&name, peer): (&ReplicaId, &Arc<Peer<M>>)| (name, peer.take_round_trips(known_after));
        self.shared.all_peers().iter().map(of).collect()
    }

    /// What was counted since the start.
    pub fn stats(&self) -> TransportStats {
        self.shared.counters.read()
    }

    /// Closes all connections, soon, and drops what waits in the lanes. No event is given out after this returns,
    /// except by calls of the sink that are under way.
    pub fn shutdown(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.tasks.lock().abort_all();
    }
}

impl<M> Drop for Transport<M> {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl<M> Shared<M> {
    fn all_peers(&self) -> RwLockReadGuard<'_, BTreeMap<ReplicaId, Arc<Peer<M>>>> {
        self.peers.read()
    }

    fn peer(&self, name: ReplicaId) -> Option<Arc<Peer<M>>> {
        self.all_peers().get(&name).cloned()
    }

    fn myself(&self) -> Myself {
        Myself { facts: self.facts.lock().clone(), commands: self.commands }
    }

    /// Remembers what a node that was admitted applies.
    fn note_commands(&self, met: &Met) {
        self.theirs.lock().insert(met.node.name, (met.node, met.commands));
    }

    /// Whether a node that has shaken hands may take part, in the start that it shows.
    async fn admit(&self, met: Met) -> Result<(), Disqualified> {
        let admission = Arc::clone(&self.admission);
        match spawn_blocking(move || admission.admit(met.node, met.start)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotAdmitted::Disqualified(why))) => Err(why),
            // This replica ends, or the runtime does: no one is admitted any more, and no one accused.
            Ok(Err(NotAdmitted::Unable)) | Err(_) => std::future::pending().await,
        }
    }

    /// Offers an event to the sink; `true` if it was taken, or if no one wants to hear any more. It may wait for a
    /// flush of the sink.
    fn offer(&self, event: TransportEvent<M>) -> bool {
        self.stopped.load(Ordering::SeqCst) || self.sink.take(event)
    }

    /// As [`Shared::offer`], for an event that comes alone.
    fn emit(&self, event: TransportEvent<M>) -> bool {
        let taken = self.offer(event);
        self.sink.flush();
        taken
    }

    /// Offers an event until the sink takes it.
    async fn tell(&self, event: impl Fn() -> TransportEvent<M>) {
        while !self.emit(event()) {
            tokio::time::sleep(Duration::from_millis(EVENT_RETRY_MS)).await;
        }
    }

    /// Appends the frames of a batch to `buffer`, and empties the batch.
    fn encode(&self, batch: &mut Vec<M>, buffer: &mut Vec<u8>)
    where
        M: Serialize,
    {
        for message in batch.drain(..) {
            match codec::frame(buffer, kind::MESSAGE, &message) {
                Ok(()) => self.counters.messages_sent.add(1),
                Err(error) => {
                    self.counters.dropped_too_long.add(1);
                    tracing::error!(group = %self.group, me = %self.me, %error, "a message fits no frame");
                }
            }
        }
    }
}
