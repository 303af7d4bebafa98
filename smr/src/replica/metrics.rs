//! What a replica's parts count while they run, for whoever watches it from outside.
//!
//! Each part writes where no one else does, and never waits: counting costs a few stores in each turn, and two looks at
//! the clock for each sync. It can be read also while a turn hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::durations::{DurationCounts, Durations};
use crate::entry::Index;
use crate::transport::TransportStats;

/// What was counted until some moment, and how full the queues were then. Counts begin with the process; those of the
/// transport with the present incarnation of the directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicaMetrics {
    /// Messages, connections and snapshots; `None` while there are no connections.
    pub transport: Option<TransportStats>,
    /// How long each sync of the disk took, with the writes before it.
    pub syncs: DurationCounts,
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
    /// How often it became a candidate.
    pub elections: u64,
    /// How often it became the leader.
    pub elections_won: u64,
    /// Messages that were dropped because too many writes were under way.
    pub messages_refused: u64,
    /// Messages that no sound peer sends.
    pub violations: u64,
}

type Read<T> = dyn Fn() -> Option<T> + Send + Sync;

/// Where the parts count.
#[derive(Default)]
pub(super) struct Meters {
    pub(super) syncs: Durations,
    pub(super) durable: AtomicU64,
    pub(super) snapshot_bytes: AtomicU64,
    pub(super) disk_jobs_queued: AtomicU64,
    pub(super) requests_waiting: AtomicU64,
    pub(super) requests_held: AtomicU64,
    pub(super) elections: AtomicU64,
    pub(super) elections_won: AtomicU64,
    pub(super) messages_refused: AtomicU64,
    pub(super) violations: AtomicU64,
    /// How many inputs wait, and their bytes.
    pub(super) inputs: OnceLock<Box<Read<(usize, usize)>>>,
    /// Of the present incarnation.
    pub(super) transport: Mutex<Option<Arc<Read<TransportStats>>>>,
}

impl Meters {
    /// Everything but the queue of requests.
    pub(super) fn read(&self) -> ReplicaMetrics {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inputs, inputs_bytes) = self.inputs.get().and_then(|read| read()).unwrap_or_default();
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ReplicaMetrics {
            transport: transport.and_then(|read| read()),
            syncs: self.syncs.read(),
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
        }
    }

    /// From now on the transport's counts come from there.
    pub(super) fn watch_transport(&self, read: impl Fn() -> Option<TransportStats> + Send + Sync + 'static) {
        *self.transport.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(read));
    }
}
