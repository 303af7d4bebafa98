//! The disk thread: one owner of everything durable.
//!
//! It takes all jobs that wait, does them in order, ends with one sync, and only then sends the messages that rest on
//! them and tells the replica thread. An error is final: the replica ends, nothing of the batch is acknowledged, and
//! the sync is not repeated (fault catalogue D6).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::entry::{Entry, Index};
use crate::protocol::{LogChange, Protocol, Write, WriteId};
use crate::replica::inbox::{InputSender, NodeInput};
use crate::replica::message::PeerMessage;
use crate::replica::metrics::Meters;
use crate::replica::outgoing::queue;
use crate::snapshot::{ReceivedSnapshot, SnapshotError};
use crate::state_machine::StateMachine;
use crate::storage::{Quarantined, StorageError, Store};
use crate::transport::Transport;

/// How often someone looks how much room there is.
const LOOK_AT_ROOM: Duration = Duration::from_millis(250);
/// Jobs that share one sync at most.
const JOBS_PER_SYNC: usize = 512;
/// Bytes of entries that share one sync at most; a batch beyond that would delay the first of them.
const BYTES_PER_SYNC: usize = 8 << 20;

/// Work for the disk thread.
pub enum DiskJob<M> {
    /// Make this durable.
    Write(Write<M>),
    /// Make this received snapshot the current one.
    PublishSnapshot(ReceivedSnapshot),
    /// Remove this received snapshot.
    Discard(ReceivedSnapshot),
    /// The log lacks nothing any more: a start may believe it.
    Healed,
    /// The group counts this incarnation as a voter: the former one is closed.
    CompleteReadmission,
    /// This node must not take part any longer: it goes into quarantine, and whoever waits there begins its next
    /// incarnation.
    Quarantine(String, Sender<Quarantined>),
}

/// Runs until the replica thread is gone.
pub(super) fn run<P: Protocol, S: StateMachine>(
    store: Store,
    jobs: &Receiver<DiskJob<P::Message>>,
    inputs: &InputSender<P, S>,
    transport: &Arc<Transport<PeerMessage<P::Message>>>,
    meters: &Meters,
) -> Result<(), String> {
    let mut batch = DiskBatch::new(store);
    // One that went into quarantine may have left it.
    meters.sync_began.clear();
    meters.durable.store(batch.last().0, Ordering::Relaxed);
    let mut look_at = Instant::now();
    loop {
        let mut next = match jobs.recv_deadline(look_at) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut began: Option<Instant> = None;
        let mut writes = false;
        while let Some(job) = next.take() {
            if let DiskJob::Quarantine(reason, done) = job {
                // What waits for a sync is never sent.
                let quarantined = batch.quarantine(&reason)?;
                // No one may be waiting any more.
                let _ = done.send(quarantined);
                return Ok(());
            }
            if began.is_none() {
                began = Some(Instant::now());
                meters.sync_began.was(Duration::ZERO);
            }
            writes |=
                matches!(&job, DiskJob::Write(write) if write.stored_state().is_some() || !write.log().is_empty());
            batch.take(job).map_err(|error| format!("disk failed: {error}"))?;
            if batch.has_room() {
                next = jobs.try_recv().ok();
            }
        }
        let mut last: Option<WriteId> = None;
        let mut messages_leave = false;
        let done = batch.flush().map_err(|error| format!("disk failed: {error}"))?;
        meters.sync_began.clear();
        // What has nothing to sync would make the disk look fast.
        if let Some(took) = began.filter(|_| writes).map(|began| began.elapsed()) {
            meters.syncs.record(took);
            meters.recent_syncs.record(took);
        }
        for write in done {
            let (id, messages) = write.durable();
            for envelope in messages {
                messages_leave |= queue::<P>(transport, envelope);
            }
            last = Some(id);
        }
        if messages_leave {
            transport.flush();
        }
        if let Some(id) = last {
            meters.durable.store(batch.last().0, Ordering::Relaxed);
            if !inputs.send(NodeInput::Durable(id)) {
                break;
            }
            // With nothing else to do this thread looks itself what follows from it; a write may, which it then has to
            // do.
            if jobs.is_empty() { inputs.executor.try_run_one_inline() } else { inputs.executor.wake() }
        }
        batch.follow().map_err(|error| format!("disk failed: {error}"))?;
        if look_at <= Instant::now() {
            if let Some(is_full) = batch.look_at_room().map_err(|error| format!("disk failed: {error}"))?
                && !inputs.tell(NodeInput::Room { is_full })
            {
                break;
            }
            look_at = Instant::now() + LOOK_AT_ROOM;
        }
    }
    Ok(())
}

/// Why the disk thread gives up.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The log or the hard state could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A snapshot could not be written or published.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// What the disk thread works at: jobs are done in order, and rest on one flush. After an error it is of no more use.
pub struct DiskBatch<M> {
    store: Store,
    /// Entries of neighbouring writes wait here to go to the log together, as one record.
    entries: Vec<Entry>,
    /// Jobs since the last flush, and bytes of entries in them.
    jobs: usize,
    bytes: usize,
    /// Writes that are done once the next flush is.
    done: Vec<Write<M>>,
}

impl<M> DiskBatch<M> {
    /// An idle one.
    pub fn new(store: Store) -> DiskBatch<M> {
        DiskBatch { store, entries: Vec::new(), jobs: 0, bytes: 0, done: Vec::new() }
    }

    /// `Some` if the disk has become full (true), or has room again.
    ///
    /// # Errors
    /// Those of the device.
    pub fn look_at_room(&mut self) -> Result<Option<bool>, StorageError> {
        self.store.look_at_room()
    }

    /// Puts the node into quarantine, durably.
    ///
    /// # Errors
    /// If that cannot be written down: then the replica has to end.
    pub fn quarantine(self, reason: &str) -> Result<Quarantined, String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.store.into_quarantine(reason, now.as_secs()).map_err(|error| {
            format!("this node belongs into quarantine ({reason}), which cannot be written down: {error}")
        })
    }

    /// The last entry of the log; durable after a flush.
    pub fn last(&self) -> Index {
        self.store.last().index
    }

    /// Whether another job should share the next flush.
    pub fn has_room(&self) -> bool {
        self.jobs < JOBS_PER_SYNC && self.bytes < BYTES_PER_SYNC
    }

    /// Does a job. What it wrote is durable after the next [`DiskBatch::flush`].
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn take(&mut self, job: DiskJob<M>) -> Result<(), DiskError> {
        self.jobs += 1;
        match job {
            DiskJob::Write(write) => {
                if let Some(stored) = write.stored_state() {
                    self.store.save(stored)?;
                }
                for change in write.log() {
                    if let LogChange::Append(entries) = change {
                        self.bytes += entries.iter().map(Entry::size_bytes).sum::<usize>();
                        self.entries.extend(entries.iter().cloned());
                    } else {
                        self.append()?;
                        self.store.apply(change)?;
                    }
                }
                self.done.push(write);
            }
            DiskJob::PublishSnapshot(file) => {
                self.append()?;
                match file.adopt() {
                    // One of our own overtook it while it waited here. It covers the log just as well.
                    Ok(_) | Err(SnapshotError::Obsolete { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            DiskJob::Discard(file) => file.discard()?,
            DiskJob::Healed => {
                self.append()?;
                self.store.end_healing()?;
            }
            DiskJob::Quarantine(reason, _) => panic!("the end of this node ({reason}) shares no flush"),
            DiskJob::CompleteReadmission => {
                self.append()?;
                self.store.complete_readmission()?;
            }
        }
        Ok(())
    }

    /// Makes everything durable, and hands out the writes that were waiting for it.
    ///
    /// # Errors
    /// Fatal ones of the device: then none of the writes is done.
    pub fn flush(&mut self) -> Result<impl Iterator<Item = Write<M>>, DiskError> {
        self.append()?;
        self.store.flush()?;
        (self.jobs, self.bytes) = (0, 0);
        Ok(self.done.drain(..))
    }

    /// Lets the watermark follow the log; no one waits for this.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn follow(&mut self) -> Result<(), DiskError> {
        Ok(self.store.follow()?)
    }

    fn append(&mut self) -> Result<(), StorageError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.store.apply(&LogChange::Append(std::mem::take(&mut self.entries)))
    }
}
