//! What a replica's parts count while they run, for whoever watches it from outside.
//!
//! Each part writes where no one else does, and never waits: counting costs a few stores in each turn, and two looks at
//! the clock for each sync. It can be read also while a turn hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::durations::{DurationCounts, Durations, Recent, RecentCounts};
use crate::entry::Index;
use crate::id::ReplicaId;
use crate::transport::TransportStats;

/// What was counted until some moment, and how full the queues were then. Counts begin with the process; those of the
/// transport with the present incarnation of the directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicaMetrics {
    /// Messages, connections and snapshots; `None` while there are no connections.
    pub transport: Option<TransportStats>,
    /// How long each sync of the disk took, with the writes before it.
    pub syncs: DurationCounts,
    /// For how long the disk has been at work on what it took up last; zero while it has nothing to do.
    pub sync_under_way: Duration,
    /// How long ago its last turn ended; `None` before the first one.
    pub since_turn: Option<Duration>,
    /// The last entry that it had applied then.
    pub applied: Index,
    /// How long ago its leader was last heard; `None` if it follows no one.
    pub since_leader: Option<Duration>,
    /// The highest commit index that this leader has named.
    pub leader_commit: Index,
    /// How long ago the leader named a commit index up to which it has applied everything by now.
    pub since_caught_up: Option<Duration>,
    /// How long ago a snapshot from another replica got further, if it is not in place yet.
    pub since_intake: Option<Duration>,
    /// The last entry that has reached the replica's own device.
    pub durable: Index,
    /// Length of the newest snapshot's file, in bytes; 0 without one.
    pub snapshot_bytes: u64,
    /// Requests that wait for a turn.
    pub requests_queued: u64,
    /// What else waits for a turn: messages, and news of the disk.
    pub inputs_queued: u64,
    /// Bytes of messages among these.
    pub inputs_queued_bytes: u64,
    /// Jobs that wait for the disk.
    pub disk_jobs_queued: u64,
    /// Requests that were taken and have no outcome yet.
    pub requests_waiting: u64,
    /// Of these, writes that wait for the disk or for those before them.
    pub requests_held: u64,
    /// In how many terms it was a candidate.
    pub elections: u64,
    /// In how many terms it became the leader.
    pub elections_won: u64,
    /// Messages that were dropped because too many writes were under way.
    pub messages_refused: u64,
    /// Messages that no sound peer sends.
    pub violations: u64,
    /// `checkpoint_count` in a group that has checkpoints: at the primary the number of its next one, at a backup that
    /// of the last one that has become its state.
    pub checkpoint_count: Option<u64>,
    /// It has found its own disk to be a slow one, and leaves leading to others as long as they can.
    pub disk_is_slow: bool,
}

/// How long things took since this was last taken ([`take_pace`](crate::replica::ReplicaHandle::take_pace)).
#[derive(Clone, Debug, Default)]
pub struct ReplicaPace {
    /// Syncs of the disk, with the writes before them.
    pub syncs: RecentCounts,
    /// What applying took for each entry, of turns that applied any.
    pub applies: RecentCounts,
    /// From a ping to its answer, for each other replica that is connected or was: the network both ways, and how soon
    /// the process there reads what has come. One that waits for its answer counts with the time that it has waited.
    pub round_trips: Vec<(ReplicaId, RecentCounts)>,
}

type Read<T> = dyn Fn() -> Option<T> + Send + Sync;

/// A moment that one thread notes and others look at, or none.
#[derive(Debug)]
pub(super) struct Moment {
    origin: Instant,
    /// In microseconds after `origin`, and one more; 0 for none.
    at: AtomicU64,
}

impl Default for Moment {
    fn default() -> Moment {
        Moment { origin: Instant::now(), at: AtomicU64::new(0) }
    }
}

impl Moment {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    /// It is this long ago now; not before the process began.
    pub(super) fn was(&self, ago: Duration) {
        let ago = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
        self.at.store(self.now().saturating_sub(ago).max(1), Ordering::Relaxed);
    }

    /// There is none.
    pub(super) fn clear(&self) {
        self.at.store(0, Ordering::Relaxed);
    }

    /// How long ago it is.
    pub(super) fn ago(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_micros(self.now().saturating_sub(at)))
    }
}

/// Where the parts count.
#[derive(Default)]
pub(super) struct Meters {
    pub(super) syncs: Durations,
    pub(super) recent_syncs: Recent,
    pub(super) recent_applies: Recent,
    pub(super) sync_began: Moment,
    pub(super) turn_ended: Moment,
    pub(super) applied: AtomicU64,
    pub(super) leader_heard: Moment,
    pub(super) leader_commit: AtomicU64,
    pub(super) caught_up: Moment,
    pub(super) intake: Moment,
    pub(super) durable: AtomicU64,
    pub(super) snapshot_bytes: AtomicU64,
    pub(super) disk_jobs_queued: AtomicU64,
    pub(super) requests_waiting: AtomicU64,
    pub(super) requests_held: AtomicU64,
    pub(super) elections: AtomicU64,
    pub(super) elections_won: AtomicU64,
    pub(super) messages_refused: AtomicU64,
    pub(super) violations: AtomicU64,
    /// 0 in a group that has none.
    pub(super) checkpoint_count: AtomicU64,
    /// 1 if it is.
    pub(super) disk_is_slow: AtomicU64,
    /// How many inputs wait, and their bytes.
    pub(super) inputs: OnceLock<Box<Read<(usize, usize)>>>,
    /// Of the present incarnation.
    pub(super) transport: Mutex<Option<Arc<Read<TransportStats>>>>,
    pub(super) round_trips: Mutex<Option<Arc<TakeRoundTrips>>>,
}

type TakeRoundTrips = dyn Fn(Duration) -> Option<RoundTrips> + Send + Sync;

/// For each other replica.
pub(super) type RoundTrips = Vec<(ReplicaId, RecentCounts)>;

impl Meters {
    /// Everything but the queue of requests.
    pub(super) fn read(&self) -> ReplicaMetrics {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inputs, inputs_bytes) = self.inputs.get().and_then(|read| read()).unwrap_or_default();
        let transport = self.transport.lock().clone();
        ReplicaMetrics {
            transport: transport.and_then(|read| read()),
            syncs: self.syncs.read(),
            sync_under_way: self.sync_began.ago().unwrap_or_default(),
            since_turn: self.turn_ended.ago(),
            applied: Index(of(&self.applied)),
            since_leader: self.leader_heard.ago(),
            leader_commit: Index(of(&self.leader_commit)),
            since_caught_up: self.caught_up.ago(),
            since_intake: self.intake.ago(),
            durable: Index(of(&self.durable)),
            snapshot_bytes: of(&self.snapshot_bytes),
            requests_queued: 0,
            inputs_queued: inputs as u64,
            inputs_queued_bytes: inputs_bytes as u64,
            disk_jobs_queued: of(&self.disk_jobs_queued),
            requests_waiting: of(&self.requests_waiting),
            requests_held: of(&self.requests_held),
            elections: of(&self.elections),
            elections_won: of(&self.elections_won),
            messages_refused: of(&self.messages_refused),
            violations: of(&self.violations),
            checkpoint_count: Some(of(&self.checkpoint_count)).filter(|count| *count > 0),
            disk_is_slow: of(&self.disk_is_slow) > 0,
        }
    }

    /// What took how long since this was last taken. A sync that goes on for longer than `known_after` counts with the
    /// time that it has taken so far: a disk that hangs finishes none.
    pub(super) fn take_pace(&self, known_after: Duration) -> ReplicaPace {
        let mut syncs = self.recent_syncs.take();
        if let Some(under_way) = self.sync_began.ago().filter(|under_way| *under_way >= known_after) {
            syncs = syncs.with(under_way);
        }
        let round_trips = self.round_trips.lock().clone();
        ReplicaPace {
            syncs,
            applies: self.recent_applies.take(),
            round_trips: round_trips.and_then(|take| take(known_after)).unwrap_or_default(),
        }
    }

    /// From now on the transport's counts come from there.
    pub(super) fn watch_transport(
        &self,
        read: impl Fn() -> Option<TransportStats> + Send + Sync + 'static,
        round_trips: impl Fn(Duration) -> Option<RoundTrips> + Send + Sync + 'static,
    ) {
        *self.transport.lock() = Some(Arc::new(read));
        *self.round_trips.lock() = Some(Arc::new(round_trips));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_is_as_long_ago_as_was_said_until_it_is_cleared() {
        let moment = Moment::default();
        assert_eq!(moment.ago(), None);
        moment.was(Duration::ZERO);
        assert!(moment.ago().is_some(), "also one at the very beginning");
        std::thread::sleep(Duration::from_millis(3));
        moment.was(Duration::from_millis(2));
        assert!(moment.ago().unwrap() >= Duration::from_millis(2));
        moment.clear();
        assert_eq!(moment.ago(), None);
    }
}
