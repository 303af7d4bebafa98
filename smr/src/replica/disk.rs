//! The disk thread: one owner of everything durable.
//!
//! It takes all jobs that wait, does them in order, ends with one sync, and only then sends the messages that rest on
//! them and tells the replica thread. An error is final: the process ends, nothing of the batch is acknowledged, and
//! the sync is not repeated (fault catalogue D6).

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::entry::Entry;
use crate::protocol::{LogChange, Protocol, Write, WriteId};
use crate::replica::driver::{Happening, queue};
use crate::replica::message::PeerMessage;
use crate::snapshot::{ReceivedSnapshot, SnapshotError};
use crate::storage::{StorageError, Store};
use crate::transport::Transport;

/// Jobs that share one sync at most.
const JOBS_PER_SYNC: usize = 512;
/// Bytes of entries that share one sync at most; a batch beyond that would delay the first of them.
const BYTES_PER_SYNC: usize = 8 << 20;

/// Work for the disk thread.
pub(super) enum DiskJob<M> {
    /// Make this durable.
    Write(Write<M>),
    /// Make this received snapshot the current one.
    Adopt(ReceivedSnapshot),
    /// Remove this received snapshot.
    Discard(ReceivedSnapshot),
    /// The group counts this life as a voter: the former one is closed.
    CompleteReadmission,
}

/// Runs until the replica thread is gone.
pub(super) fn run<P: Protocol, S: Send + 'static>(
    mut store: Store,
    jobs: &Receiver<DiskJob<P::Message>>,
    events: &Sender<Happening<P, S>>,
    transport: &Arc<Transport<PeerMessage<P::Message>>>,
) -> Result<(), String> {
    let mut done: Vec<Write<P::Message>> = Vec::new();
    while let Ok(first) = jobs.recv() {
        let mut batch = Batch::default();
        let mut next = Some(first);
        let mut count = 0;
        while let Some(job) = next.take() {
            count += 1;
            do_job(&mut store, &mut batch, &mut done, job).map_err(|error| format!("disk failed: {error}"))?;
            if count < JOBS_PER_SYNC && batch.bytes < BYTES_PER_SYNC {
                next = jobs.try_recv().ok();
            }
        }
        batch.flush(&mut store).and_then(|()| store.flush()).map_err(|error| format!("disk failed: {error}"))?;
        let mut last: Option<WriteId> = None;
        for write in done.drain(..) {
            let (id, messages) = write.durable();
            messages.into_iter().for_each(|envelope| queue::<P>(transport, envelope));
            last = Some(id);
        }
        transport.flush();
        if let Some(id) = last
            && events.send(Happening::Durable(id)).is_err()
        {
            break;
        }
        store.follow().map_err(|error| format!("disk failed: {error}"))?;
    }
    Ok(())
}

/// Why the disk thread gives up.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Appends that wait to become one record: entries of neighbouring writes go to the log together.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Batch {
    fn flush(&mut self, store: &mut Store) -> Result<(), StorageError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        store.apply(&LogChange::Append(std::mem::take(&mut self.entries)))
    }
}

fn do_job<M>(store: &mut Store, batch: &mut Batch, done: &mut Vec<Write<M>>, job: DiskJob<M>) -> Result<(), DiskError> {
    match job {
        DiskJob::Write(write) => {
            if let Some(promise) = write.promise() {
                store.save_promise(promise)?;
            }
            for change in write.log() {
                if let LogChange::Append(entries) = change {
                    batch.bytes += entries.iter().map(Entry::size_bytes).sum::<usize>();
                    batch.entries.extend(entries.iter().cloned());
                } else {
                    batch.flush(store)?;
                    store.apply(change)?;
                }
            }
            done.push(write);
        }
        DiskJob::Adopt(file) => {
            batch.flush(store)?;
            file.adopt()?;
        }
        DiskJob::Discard(file) => file.discard()?,
        DiskJob::CompleteReadmission => {
            batch.flush(store)?;
            store.complete_readmission()?;
        }
    }
    Ok(())
}
