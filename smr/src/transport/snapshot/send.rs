//! The sending side of a transfer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::{
    BURST_BYTES, CALL_MAX_MS, CHUNK_MAX_BYTES, OFFER_HEADER_MAX_BYTES, Offer, SNAPSHOT_SENDS_MAX, SnapshotSource,
    WORK_EXPECTED_MIN, kind,
};
use crate::codec;
use crate::entry::EntryId;
use crate::id::NodeId;
use crate::transport::handshake::{
    self, HANDSHAKE_PAYLOAD_MAX_BYTES, HandshakeError, Purpose, kind as handshake_kind, read_refusal,
};
use crate::transport::outbound::{Backoff, dial};
use crate::transport::{Shared, TransportEvent};
use crate::wire::{self, FrameReader, WireError};

/// Attempts in a row that end without any progress before a transfer is given up.
const ATTEMPTS_MAX: u32 = 10;
/// How long the failure of a transfer that never began is held back, in milliseconds: whoever asks again at once must
/// not spin.
const IMMEDIATE_FAILURE_DELAY_MS: u64 = 200;

/// The transfers under way.
pub(in crate::transport) struct Sends {
    turns: Semaphore,
    receivers: Mutex<BTreeSet<NodeId>>,
}

impl Default for Sends {
    fn default() -> Sends {
        Sends { turns: Semaphore::new(SNAPSHOT_SENDS_MAX), receivers: Mutex::new(BTreeSet::new()) }
    }
}

/// Why an attempt ended.
enum Failure {
    /// Trying again is of no use.
    Final(String),
    /// The connection broke, or was not to be had.
    Broken(String),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        match error {
            WireError::Stalled(_) | WireError::Codec(_) => Failure::Final(error.to_string()),
            WireError::Io(_) | WireError::CutOff => Failure::Broken(error.to_string()),
        }
    }
}

/// Sends a snapshot to that very incarnation, and tells how it ended.
pub(in crate::transport) async fn send<M>(shared: Arc<Shared<M>>, to: NodeId, source: Box<dyn SnapshotSource>) {
    let began = shared.sends.receivers.lock().insert(to);
    let last = if began {
        let last = take_turn(&shared, to, source).await;
        // Before the event: whoever hears it may send again.
        shared.sends.receivers.lock().remove(&to);
        last
    } else {
        tracing::warn!(group = %shared.group, me = %shared.me, peer = %to, "a snapshot is already being sent there");
        sleep(Duration::from_millis(IMMEDIATE_FAILURE_DELAY_MS)).await;
        None
    };
    shared.tell(|| TransportEvent::SnapshotSent { to, last }).await;
}

async fn take_turn<M>(shared: &Shared<M>, to: NodeId, source: Box<dyn SnapshotSource>) -> Option<EntryId> {
    let _turn = shared.sends.turns.acquire().await.ok()?;
    match attempt_until_done(shared, to, source).await {
        Ok(offer) => {
            shared.counters.snapshots_sent.add(1);
            tracing::info!(group = %shared.group, me = %shared.me, peer = %to, last = %offer.last,
                bytes = offer.len_bytes, "snapshot sent");
            Some(offer.last)
        }
        Err(reason) => {
            tracing::warn!(group = %shared.group, me = %shared.me, peer = %to, %reason, "snapshot not sent");
            sleep(Duration::from_millis(IMMEDIATE_FAILURE_DELAY_MS)).await;
            None
        }
    }
}

async fn attempt_until_done<M>(
    shared: &Shared<M>,
    to: NodeId,
    source: Box<dyn SnapshotSource>,
) -> Result<Offer, String> {
    let mut source = Source(Some(source));
    let offer = match source.call(|source| source.offer()).await {
        Ok(offer) if offer.header.len() <= OFFER_HEADER_MAX_BYTES => offer,
        Ok(offer) => return Err(format!("a header of {} bytes", offer.header.len())),
        Err(Failure::Final(reason) | Failure::Broken(reason)) => return Err(reason),
    };
    let mut backoff = Backoff::new(shared.me, to.name);
    let mut failed = 0;
    // The furthest acknowledgement so far. Only beyond it there is progress, so attempts come to an end even if the
    // receiver forgets what it has each time.
    let mut furthest = 0;
    loop {
        let before = furthest;
        match attempt(shared, to, &offer, &mut source, &mut furthest).await {
            Ok(()) => return Ok(offer),
            Err(Failure::Final(reason)) => return Err(reason),
            Err(Failure::Broken(reason)) => {
                if furthest > before {
                    failed = 0;
                    backoff.reset();
                }
                failed += 1;
                let (group, me) = (&shared.group, &shared.me);
                tracing::debug!(%group, %me, peer = %to, %reason, furthest, "transfer broken");
                if failed >= ATTEMPTS_MAX {
                    return Err(format!("{failed} attempts without progress, the last one: {reason}"));
                }
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// One connection's worth of a transfer.
async fn attempt<M>(
    shared: &Shared<M>,
    to: NodeId,
    offer: &Offer,
    source: &mut Source,
    furthest: &mut u64,
) -> Result<(), Failure> {
    let peer = shared.peer(to.name).ok_or_else(|| Failure::Final("an unknown replica".to_owned()))?;
    let dialled = dial(shared, to.name, &peer.address(), Purpose::Snapshot).await;
    let (mut stream, met) = dialled.map_err(|error| match error {
        HandshakeError::Refused(reason) => Failure::Final(reason),
        // Said where messages are dialled for, too, and acted upon there.
        HandshakeError::Disqualified(why) => Failure::Final(why.to_string()),
        HandshakeError::Failed(reason) => Failure::Broken(reason),
    })?;
    if met.node != to {
        return Err(Failure::Final(format!("the present incarnation is {}", met.node.incarnation)));
    }
    let (read, mut write) = stream.split();
    let stall_max = Duration::from_millis(shared.pace.snapshot_stall_max_ms);
    let mut answers = Answers { reader: FrameReader::new(read, HANDSHAKE_PAYLOAD_MAX_BYTES), stall_max };
    handshake::send(&mut write, kind::OFFER, offer, stall_max).await?;
    let mut acked = match answers.next().await? {
        Answer::Resume(offset) if offset <= offer.len_bytes => offset,
        other => return Err(other.unexpected()),
    };
    let mut sent = acked;
    let mut buffer = Vec::new();
    let (mut burst_at, mut began) = (acked, Instant::now());
    let carrying_since = began;
    while acked < offer.len_bytes {
        if sent < offer.len_bytes && sent - burst_at < BURST_BYTES {
            let len = (offer.len_bytes - sent).min(CHUNK_MAX_BYTES as u64) as usize;
            let bytes = source.read_at(sent, len).await?;
            let len = bytes.len() as u64;
            buffer.clear();
            codec::frame(&mut buffer, kind::CHUNK, &Chunk { offset: sent, bytes }).map_err(WireError::Codec)?;
            if let Err(error) = wire::write_all(&mut write, &buffer, stall_max).await {
                return Err(answers.last_words().await.unwrap_or_else(|| Failure::from(error)));
            }
            sent += len;
        } else {
            match answers.next().await? {
                Answer::Ack(offset) if acked < offset && offset <= sent => acked = offset,
                other => return Err(other.unexpected()),
            }
            *furthest = acked.max(*furthest);
            source.advanced();
            if acked == sent {
                sleep(source.rest(began.elapsed())).await;
                (burst_at, began) = (acked, Instant::now());
            }
        }
    }
    let (works_since, expected) = (Instant::now(), carrying_since.elapsed().max(WORK_EXPECTED_MIN));
    let limit = Duration::from_millis(CALL_MAX_MS) + stall_max;
    loop {
        match answers.next_sign().await? {
            Sign::Busy if works_since.elapsed() < expected => source.advanced(),
            Sign::Busy if works_since.elapsed() > limit => return Err(Failure::from(WireError::Stalled(limit))),
            Sign::Busy => {}
            Sign::Answer(Answer::Finished) => return Ok(()),
            Sign::Answer(other) => return Err(other.unexpected()),
        }
    }
}

/// The payload of [`kind::CHUNK`].
#[derive(Serialize, serde::Deserialize)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What a receiver says.
#[derive(Debug)]
enum Answer {
    Resume(u64),
    Ack(u64),
    Finished,
}

impl Answer {
    fn unexpected(&self) -> Failure {
        Failure::Final(format!("the receiver answers {self:?}, which makes no sense here"))
    }
}

/// An answer, or only a sign of life.
enum Sign {
    Answer(Answer),
    Busy,
}

struct Answers<R> {
    reader: FrameReader<R>,
    stall_max: Duration,
}

impl<R: AsyncRead + Unpin> Answers<R> {
    /// The refusal that a receiver left behind before it closed the connection, if any.
    async fn last_words(&mut self) -> Option<Failure> {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(Failure::Final(reason)) => return Some(Failure::Final(reason)),
                Err(Failure::Broken(_)) => return None,
            }
        }
    }

    /// The next answer other than Busy.
    async fn next(&mut self) -> Result<Answer, Failure> {
        let limit = Duration::from_millis(CALL_MAX_MS) + self.stall_max;
        let waited = timeout(limit, async {
            loop {
                if let Sign::Answer(answer) = self.next_sign().await? {
                    return Ok(answer);
                }
            }
        });
        waited.await.unwrap_or_else(|_| Err(Failure::from(WireError::Stalled(limit))))
    }

    /// The next answer, or the next sign of life.
    async fn next_sign(&mut self) -> Result<Sign, Failure> {
        let frame = timeout(self.stall_max, self.reader.next())
            .await
            .map_err(|_| WireError::Stalled(self.stall_max))??
            .ok_or_else(|| Failure::Broken("closed by the receiver".to_owned()))?;
        let answer = match frame.kind {
            kind::BUSY => return Ok(Sign::Busy),
            kind::RESUME => Answer::Resume(codec::decode(frame.payload).map_err(WireError::Codec)?),
            kind::ACK => Answer::Ack(codec::decode(frame.payload).map_err(WireError::Codec)?),
            kind::FINISHED => Answer::Finished,
            handshake_kind::REFUSAL => return Err(Failure::Final(read_refusal(frame.payload))),
            other => return Err(Failure::Final(format!("a frame of kind {other:#x}"))),
        };
        Ok(Sign::Answer(answer))
    }
}

/// The source, lent to a thread that may block for each call.
struct Source(Option<Box<dyn SnapshotSource>>);

impl Source {
    async fn call<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&dyn SnapshotSource) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let source = self.0.take().ok_or_else(|| Failure::Final("the source is gone".to_owned()))?;
        let called = spawn_blocking(move || {
            let value = work(&*source);
            (source, value)
        });
        let (source, value) = called.await.map_err(|error| Failure::Final(format!("the source is gone: {error}")))?;
        self.0 = Some(source);
        Ok(value)
    }

    /// See [`SnapshotSource::rest`].
    fn rest(&self, worked: Duration) -> Duration {
        self.0.as_ref().map_or(worked, |source| source.rest(worked))
    }

    /// See [`SnapshotSource::advanced`].
    fn advanced(&self) {
        if let Some(source) = &self.0 {
            source.advanced();
        }
    }

    /// From one to `len` bytes.
    async fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes, Failure> {
        let read = self.call(move |source| source.read_at(offset, len)).await?;
        let bytes = read.map_err(|error| Failure::Final(format!("reading the snapshot: {error}")))?;
        if bytes.is_empty() || bytes.len() > len {
            return Err(Failure::Final(format!("the source gives {} of {len} bytes at {offset}", bytes.len())));
        }
        Ok(Bytes::from(bytes))
    }
}
