//! The receiving side of a transfer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::net::tcp::WriteHalf;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval_at, timeout};

use super::send::Chunk;
use super::{BUSY_SIGNS, CALL_MAX_MS, CHUNK_MAX_BYTES, NotBegun, Offer, PAYLOAD_MAX_BYTES, SnapshotSink, kind};
use crate::codec;
use crate::entry::EntryId;
use crate::id::NodeId;
use crate::transport::Shared;
use crate::transport::handshake::{self, refuse};
use crate::transport::outbound::push_empty_frame;
use crate::wire::{self, Frame, FrameReader, WireError};

/// The transfer that this replica receives, if any.
#[derive(Default)]
pub(in crate::transport) struct Receiving {
    current: Mutex<Option<Current>>,
    /// Held by the transfer that may use the sink, and by each of its calls: a call cannot be interrupted, so a
    /// successor waits until the last one has returned.
    turn: Arc<AsyncMutex<()>>,
}

struct Current {
    from: NodeId,
    last: EntryId,
    cancelled: Arc<Notify>,
}

impl Receiving {
    /// Makes a transfer the current one, or says why not.
    fn claim(&self, from: NodeId, offer: &Offer) -> Result<Arc<Notify>, String> {
        let mut current = self.current.lock();
        if let Some(present) = &*current {
            // A sender has one transfer to us at a time, so a second one means that its first is broken.
            if present.from != from && offer.last <= present.last {
                return Err(format!("receiving the snapshot at {} from {}", present.last, present.from));
            }
            present.cancelled.notify_one();
        }
        let cancelled = Arc::new(Notify::new());
        *current = Some(Current { from, last: offer.last, cancelled: cancelled.clone() });
        Ok(cancelled)
    }

    /// The transfer has ended.
    fn release(&self, cancelled: &Arc<Notify>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|present| Arc::ptr_eq(&present.cancelled, cancelled)) {
            *current = None;
        }
    }
}

/// Why a transfer ended before its end.
enum Stop {
    /// The sender is told, and shall not try again.
    Refuse(String),
    /// The connection is of no more use.
    Close(String),
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Stop {
        Stop::Close(error.to_string())
    }
}

/// Receives a snapshot on an accepted and welcomed connection.
pub(in crate::transport) async fn receive<M, R: AsyncRead + Unpin>(
    shared: &Shared<M>,
    from: NodeId,
    reader: &mut FrameReader<R>,
    write: &mut WriteHalf<'_>,
) {
    reader.set_payload_max_bytes(PAYLOAD_MAX_BYTES);
    let stall_max = Duration::from_millis(shared.pace.snapshot_stall_max_ms);
    let mut stream = Stream { reader, write, stall_max };
    let stopped = match stream.offer().await {
        Ok(offer) => match shared.receiving.claim(from, &offer) {
            Ok(cancelled) => {
                // Dropping the transfer half-way is sound: a call of the sink goes on, and keeps the turn until it
                // returns.
                let stopped = tokio::select! {
                    biased;
                    () = cancelled.notified() => Err(Stop::Close("another transfer took its place".to_owned())),
                    transferred = transfer(shared, from, &offer, &mut stream) => transferred,
                };
                shared.receiving.release(&cancelled);
                stopped.map(|()| offer)
            }
            Err(reason) => Err(Stop::Refuse(reason)),
        },
        Err(stop) => Err(stop),
    };
    match stopped {
        Ok(offer) => {
            shared.counters.snapshots_received.add(1);
            tracing::info!(group = %shared.group, me = %shared.me, peer = %from, last = %offer.last,
                bytes = offer.len_bytes, "snapshot received");
        }
        Err(Stop::Refuse(reason)) => {
            tracing::info!(group = %shared.group, me = %shared.me, peer = %from, %reason, "snapshot refused");
            refuse(stream.write, &reason, stall_max).await;
        }
        Err(Stop::Close(reason)) => {
            tracing::info!(group = %shared.group, me = %shared.me, peer = %from, %reason, "snapshot not received");
        }
    }
}

async fn transfer<M, R: AsyncRead + Unpin>(
    shared: &Shared<M>,
    from: NodeId,
    offer: &Offer,
    stream: &mut Stream<'_, '_, R>,
) -> Result<(), Stop> {
    let turn = Arc::new(stream.busy(shared.receiving.turn.clone().lock_owned()).await?);
    let begun = offer.clone();
    let begun = stream.call(shared, &turn, move |sink| sink.begin(from, &begun)).await?;
    let mut have = begun.map_err(|why| match why {
        NotBegun::Early(reason) => Stop::Close(reason),
        NotBegun::Refused(reason) => Stop::Refuse(reason),
    })?;
    if have > offer.len_bytes {
        return Err(Stop::Refuse(format!("{have} of {} bytes are there", offer.len_bytes)));
    }
    handshake::send(stream.write, kind::RESUME, &have, stream.stall_max).await?;
    while have < offer.len_bytes {
        let chunk = stream.chunk(have, offer.len_bytes).await?;
        let behind = have + chunk.bytes.len() as u64;
        let appended = stream.call(shared, &turn, move |sink| sink.append(chunk.offset, &chunk.bytes)).await?;
        appended.map_err(|error| Stop::Refuse(format!("storing the snapshot: {error}")))?;
        have = behind;
        handshake::send(stream.write, kind::ACK, &have, stream.stall_max).await?;
    }
    let finished = stream.call(shared, &turn, |sink| sink.finish()).await?;
    finished.map_err(|error| Stop::Refuse(format!("finishing the snapshot: {error}")))?;
    // If this is lost, the sender offers it again and the sink says that it has it all.
    handshake::send(stream.write, kind::FINISHED, &(), stream.stall_max).await?;
    Ok(())
}

struct Stream<'s, 'w, R> {
    reader: &'s mut FrameReader<R>,
    write: &'s mut WriteHalf<'w>,
    stall_max: Duration,
}

impl<R: AsyncRead + Unpin> Stream<'_, '_, R> {
    async fn frame(&mut self) -> Result<Frame<'_>, Stop> {
        let frame =
            timeout(self.stall_max, self.reader.next()).await.map_err(|_| WireError::Stalled(self.stall_max))??;
        frame.ok_or_else(|| Stop::Close("closed by the sender".to_owned()))
    }

    async fn offer(&mut self) -> Result<Offer, Stop> {
        let frame = self.frame().await?;
        if frame.kind != kind::OFFER {
            return Err(Stop::Close(format!("a frame of kind {:#x} instead of an offer", frame.kind)));
        }
        Ok(codec::decode(frame.payload).map_err(WireError::Codec)?)
    }

    /// The chunk at `offset` of a snapshot of `len_bytes`.
    async fn chunk(&mut self, offset: u64, len_bytes: u64) -> Result<Chunk, Stop> {
        let frame = self.frame().await?;
        if frame.kind != kind::CHUNK {
            return Err(Stop::Close(format!("a frame of kind {:#x} instead of a chunk", frame.kind)));
        }
        let chunk: Chunk = codec::decode(frame.payload).map_err(WireError::Codec)?;
        let len = chunk.bytes.len() as u64;
        let fits = 0 < len && len <= CHUNK_MAX_BYTES as u64 && len <= len_bytes - offset;
        if chunk.offset != offset || !fits {
            return Err(Stop::Close(format!("a chunk of {len} bytes at {}, expected at {offset}", chunk.offset)));
        }
        Ok(chunk)
    }

    /// Calls the sink on a thread that may block.
    async fn call<M, T: Send + 'static>(
        &mut self,
        shared: &Shared<M>,
        turn: &Arc<OwnedMutexGuard<()>>,
        work: impl FnOnce(&dyn SnapshotSink) -> T + Send + 'static,
    ) -> Result<T, Stop> {
        let sink = shared.snapshots.clone();
        let turn = turn.clone();
        let called = spawn_blocking(move || {
            let value = work(&*sink);
            drop(turn);
            value
        });
        self.busy(called).await?.map_err(|error| Stop::Close(format!("the sink is gone: {error}")))
    }

    /// Awaits what takes its time, and tells the sender so.
    async fn busy<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let began = Instant::now();
        let interval = self.stall_max / BUSY_SIGNS;
        let mut ticks = interval_at(began + interval, interval);
        let mut busy = Vec::new();
        push_empty_frame(&mut busy, kind::BUSY);
        let mut work = std::pin::pin!(work);
        while began.elapsed() < Duration::from_millis(CALL_MAX_MS) {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                _ = ticks.tick() => {
                    wire::write_all(&mut *self.write, &busy, self.stall_max).await?;
                }
            }
        }
        Err(Stop::Refuse("the disk takes too long".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(index: u64) -> Offer {
        Offer { header: vec![], last: EntryId::new(index, 1), len_bytes: 1, fingerprint: index }
    }

    #[test]
    fn newer_offer_and_same_sender_take_the_place_and_others_are_refused() {
        let receiving = Receiving::default();
        let one = NodeId::new(1, 11);
        let two = NodeId::new(2, 22);
        let first = receiving.claim(one, &offer(5)).unwrap();
        assert!(receiving.claim(two, &offer(5)).is_err());
        assert!(receiving.claim(two, &offer(4)).is_err());
        let again = receiving.claim(one, &offer(5)).unwrap();
        let newer = receiving.claim(two, &offer(6)).unwrap();
        // The end of one that was replaced is not the end of its successor.
        receiving.release(&first);
        receiving.release(&again);
        assert!(receiving.claim(one, &offer(6)).is_err());
        receiving.release(&newer);
        assert!(receiving.claim(one, &offer(1)).is_ok());
    }
}
