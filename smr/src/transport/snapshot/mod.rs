//! Snapshots on connections of their own, so that messages never wait behind them.
//!
//! ```text
//! sender   -> Offer  { header, last, length, fingerprint }
//! receiver -> Resume { offset }               what it has kept of an earlier attempt
//! sender   -> Chunk  { offset, bytes }   ...  in bursts, each acknowledged before the next, with a rest between
//! receiver -> Ack    { offset after it } ...
//! receiver -> Finished                        verified and durable
//! ```
//! The receiver says Busy now and then while its disk works, so both sides can tell a slow one from a hung one and
//! every wait has an end. It may answer with a refusal at any time; that ends the transfer for good, whereas a broken
//! connection is dialled again and the transfer goes on at the offset that the receiver names.
//!
//! A replica receives one snapshot at a time. A newer one, or another attempt of the same sender, takes the place of
//! the one under way; an older one is refused.

mod receive;
mod send;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::entry::EntryId;
use crate::id::NodeId;

pub(super) use self::receive::{Receiving, receive};
pub(super) use self::send::{Sends, send};

/// The largest chunk, in bytes.
pub const CHUNK_MAX_BYTES: usize = 256 << 10;
/// Bytes sent at once: two chunks. Then the sender waits until they are acknowledged, and rests for as long as that
/// took.
const BURST_BYTES: u64 = 2 * CHUNK_MAX_BYTES as u64;
/// A sender rests between two bursts for as long as the last one took, but no longer than this: both ends and their
/// disks serve requests meanwhile, and a snapshot has time.
pub const REST_MAX: Duration = Duration::from_millis(100);
/// A receiver that has all of a snapshot works at it for as long as the transfer took, or for this long, before that
/// counts as standing still.
const WORK_EXPECTED_MIN: Duration = Duration::from_secs(10);
/// The longest [`Offer::header`], in bytes.
pub const OFFER_HEADER_MAX_BYTES: usize = 64 << 10;
/// The largest payload of a frame that a receiver takes: a chunk, or an offer, and the lengths in them.
const PAYLOAD_MAX_BYTES: usize = CHUNK_MAX_BYTES + 1024;
const _: () = assert!(OFFER_HEADER_MAX_BYTES < CHUNK_MAX_BYTES);
/// A receiver whose disk works says so this many times within the time that the sender waits for a sign of life.
const BUSY_SIGNS: u32 = 16;
/// How long one call of a [`SnapshotSink`] may take, in milliseconds. Verifying a large snapshot takes a while; a disk
/// that needs longer is taken for hung.
const CALL_MAX_MS: u64 = 120_000;
/// Snapshots sent at once by one replica; others wait for their turn.
pub const SNAPSHOT_SENDS_MAX: usize = 2;

/// The kinds of frames of a transfer; they continue those of the handshake.
mod kind {
    pub(super) const OFFER: u16 = 0x5007;
    pub(super) const RESUME: u16 = 0x5008;
    pub(super) const CHUNK: u16 = 0x5009;
    pub(super) const ACK: u16 = 0x500a;
    pub(super) const BUSY: u16 = 0x500b;
    pub(super) const FINISHED: u16 = 0x500c;
}

/// What the sender of a snapshot says before it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Opaque to the transport: what the receiving store needs to know. At most [`OFFER_HEADER_MAX_BYTES`].
    pub header: Vec<u8>,
    /// The last entry that the snapshot includes.
    pub last: EntryId,
    /// Length of the snapshot in bytes.
    pub len_bytes: u64,
    /// Tells this very file from another one with the same `last`: whoever resumes must not mix two.
    pub fingerprint: u64,
}

/// A snapshot to send. Called from threads that may block.
pub trait SnapshotSource: Send {
    /// What is sent.
    fn offer(&self) -> Offer;

    /// At most `len` bytes from `offset` on, at least one while `offset` is below [`Offer::len_bytes`].
    ///
    /// # Errors
    /// Those of the disk; the transfer fails.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// How long to rest after a burst that took this long. Called from a thread that must not block, as the next one.
    fn rest(&self, worked: Duration) -> Duration {
        worked.min(REST_MAX)
    }

    /// The receiver got further: it has stored more, or, for a bounded time, works at what it has.
    fn advanced(&self) {}
}

/// Why a transfer does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// It is too early to say, for this reason: the sender tries again soon.
    Early(String),
    /// The snapshot is not wanted, for this reason: the sender does not try again.
    Refused(String),
}

/// Where received snapshots go. Called from threads that may block, never by two at once.
pub trait SnapshotSink: Send + Sync {
    /// A peer offers a snapshot. Returns the offset from which to send: what an earlier, broken transfer of the very
    /// same snapshot (fingerprint) has left; [`Offer::len_bytes`] if it is already here in whole, and then
    /// [`SnapshotSink::finish`] is called again. An unfinished transfer of another snapshot is forgotten.
    ///
    /// # Errors
    /// Why not, or not yet.
    fn begin(&self, from: NodeId, offer: &Offer) -> Result<u64, NotBegun>;

    /// The next bytes of the snapshot begun last; without gaps.
    ///
    /// # Errors
    /// Those of the disk; the transfer fails.
    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// All bytes are here: verify, make durable, tell the replica.
    ///
    /// # Errors
    /// The snapshot is damaged, or the disk failed; the transfer fails.
    fn finish(&self) -> io::Result<()>;
}

/// A sink for replicas that take no snapshots.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

impl SnapshotSink for NoSnapshots {
    fn begin(&self, _: NodeId, _: &Offer) -> Result<u64, NotBegun> {
        Err(NotBegun::Refused("this replica takes no snapshots".to_owned()))
    }

    fn append(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn finish(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
