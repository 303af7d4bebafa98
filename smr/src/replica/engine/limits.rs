//! How much may wait in a replica, and how large it may be.

use super::waiting::WRITES_WAITING_MAX;

/// The largest command or query, in bytes: a value of 1 MiB with its key and some room.
pub const COMMAND_MAX_BYTES: usize = (1 << 20) + (64 << 10);
/// Reads that may wait for their confirmation; the next ones are `Busy`.
pub const READS_WAITING_MAX: usize = 32 << 10;
/// When a client is asked to try again after `Busy`, in milliseconds.
pub const BUSY_RETRY_MS: u32 = 20;
/// With a full log, what makes the state smaller is still taken for this many bytes more: otherwise a group that cannot
/// make a snapshot for lack of room would never have any again.
pub const LOG_FREEING_BYTES: usize = 16 << 20;
/// With this many entries in a leader's log that are not known to be committed, writes are `Busy`. What earlier leaders
/// left counts: each one that is cut off before it commits adds what clients want at that moment, copies of the same
/// writes. Without a limit over all of them the group has to send and write the whole pile before it commits anything
/// new.
pub const UNCOMMITTED_ENTRIES_MAX: u64 = WRITES_WAITING_MAX as u64;
