//! One direction of a connection: bytes are taken in as they come, and given out as the rules of the link allow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::CHUNK_MAX_BYTES;
use super::end::Cut;
use super::frames::Frames;
use super::record::{RECORDED_MAX_BYTES, Record};
use super::rules::{Flow, Rules, Setting};

/// Chunks on their way in one direction of a connection; beyond them the proxy does not read.
pub const CHUNKS_UNDER_WAY_MAX: usize = 32;

/// One direction of one connection.
pub(super) struct Direction<'a> {
    pub(super) flow: fn(&Rules) -> Flow,
    pub(super) record: Option<Record>,
    pub(super) delivered: &'a AtomicU64,
    pub(super) lost: &'a AtomicU64,
}

/// Bytes on their way, and when they may arrive.
struct Chunk {
    bytes: Vec<u8>,
    due: Instant,
}

impl Direction<'_> {
    /// Carries bytes until the reading side ends, and that end too.
    pub(super) async fn pump(
        &self,
        rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        early: Vec<u8>,
        read: ReadHalf<'_>,
        write: WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let (chunks, waiting) = mpsc::channel(CHUNKS_UNDER_WAY_MAX);
        let for_writer = ChaCha8Rng::seed_from_u64(random.random());
        tokio::try_join!(
            self.take_in(rules.clone(), random, early, read, chunks),
            self.give_out(rules, for_writer, waiting, write),
        )
        .map(drop)
    }

    async fn take_in(
        &self,
        rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        early: Vec<u8>,
        mut read: ReadHalf<'_>,
        chunks: mpsc::Sender<Chunk>,
    ) -> Result<(), Cut> {
        let mut buffer = vec![0; CHUNK_MAX_BYTES];
        let mut last_due = Instant::now();
        let mut bytes = early;
        loop {
            if !bytes.is_empty() {
                if let Some(record) = &self.record {
                    let mut record = record.lock();
                    let room = RECORDED_MAX_BYTES.saturating_sub(record.len());
                    record.extend_from_slice(&bytes[..room.min(bytes.len())]);
                }
                let flow = (self.flow)(&rules.borrow().rules);
                let late = match flow {
                    Flow::Late { delay, jitter } => delay + jitter.mul_f64(random.random_range(0.0..1.0)),
                    _ => Duration::ZERO,
                };
                // Never before what came before it.
                last_due = last_due.max(Instant::now() + late);
                let chunk = Chunk { bytes, due: last_due };
                if chunks.send(chunk).await.is_err() {
                    return Ok(()); // the writing side has ended, and says why
                }
            }
            match read.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => bytes = buffer[..count].to_vec(),
                // A process that dies with unread bytes resets its connections; the other side is to know at once.
                Err(_) => return Err(Cut),
            }
        }
    }

    async fn give_out(
        &self,
        mut rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        mut waiting: mpsc::Receiver<Chunk>,
        mut write: WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let mut left_bytes: Option<usize> = None;
        let loses = |rules: &watch::Receiver<Setting>| match (self.flow)(&rules.borrow().rules) {
            Flow::LoseFrames { permille } => Some(permille),
            _ => None,
        };
        let mut frames = loses(&rules).map(|_| Frames::default());
        while let Some(mut chunk) = waiting.recv().await {
            sleep_until(chunk.due).await;
            if let Some(frames) = &mut frames {
                let (bytes, lost) = frames.pass(&chunk.bytes, loses(&rules).unwrap_or(0), &mut random);
                self.lost.fetch_add(lost, Ordering::Relaxed);
                chunk.bytes = bytes;
            }
            let mut rest = &chunk.bytes[..];
            while !rest.is_empty() {
                let (count, pause) = match self.flow_now(&mut rules).await {
                    Flow::Trickle { pause } => (1, pause),
                    Flow::Thin { bytes_per_s } => {
                        // A tenth of a second's worth at a time.
                        let count = (bytes_per_s as usize / 10).clamp(1, rest.len());
                        (count, Duration::from_secs_f64(count as f64 / f64::from(bytes_per_s.max(1))))
                    }
                    Flow::ResetAfter { bytes_max } => {
                        let left = left_bytes.get_or_insert_with(|| random.random_range(0..=bytes_max as usize));
                        let count = rest.len().min(*left);
                        *left -= count;
                        (count, Duration::ZERO)
                    }
                    Flow::Pass | Flow::Late { .. } | Flow::LoseFrames { .. } | Flow::Hold => {
                        (rest.len(), Duration::ZERO)
                    }
                };
                if count == 0 {
                    return Err(Cut);
                }
                // Counted first: whoever has them can see that they were counted.
                self.delivered.fetch_add(count as u64, Ordering::Relaxed);
                write.write_all(&rest[..count]).await.map_err(|_| Cut)?;
                rest = &rest[count..];
                sleep(pause).await;
            }
        }
        // The end of the connection is held up like everything else.
        self.flow_now(&mut rules).await;
        write.shutdown().await.map_err(|_| Cut)
    }

    /// How bytes flow, once they flow.
    async fn flow_now(&self, rules: &mut watch::Receiver<Setting>) -> Flow {
        loop {
            match (self.flow)(&rules.borrow_and_update().rules) {
                Flow::Hold => {}
                flow => return flow,
            }
            if rules.changed().await.is_err() {
                return Flow::Hold; // the proxy ends
            }
        }
    }
}
