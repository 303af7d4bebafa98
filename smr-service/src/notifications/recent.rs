//! Recent notifications, which are kept beside the replicated state and not in it.
//!
//! `apply` of a state machine emits them by the index of the entry that it applies. So they are the same on every
//! replica and are never counted twice, and the state, its images and its digests know nothing of them. The price is
//! that a replica has only those of the entries that it has applied since it began: one whose state came from a
//! snapshot says so ([`NotHere::Compacted`]) to whoever wants older ones.
//!
//! Emitting copies the notification to the end of the last one and allocates nothing, once as much is kept as may be.
//! A service that tells its subscribers everything for ever keeps a [`NotificationLog`](super::NotificationLog).

use std::collections::VecDeque;

/// The bytes that are kept, at most.
pub const KEPT_MAX_BYTES: usize = 16 << 20;
/// The notifications that are kept, at most, and those of one chunk more.
pub const KEPT_MAX: usize = 1 << 18;
/// Bytes that are taken and given up together. A notification that is longer has a chunk for itself.
const CHUNK_BYTES: usize = 64 << 10;
/// What a notification takes beside its bytes: the index of its entry, and its length.
const HEAD_BYTES: usize = 12;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct RecentLog {
    chunks: VecDeque<Chunk>,
    /// A chunk that was given up, for the next one.
    spare: Option<Vec<u8>>,
    /// The room of all chunks.
    kept_bytes: usize,
    kept: usize,
    /// All notifications of entries after this one are here.
    after: u64,
    /// The last entry of which is known whether it emitted one.
    position: u64,
}

/// Notifications one after the other: index, length, bytes.
#[derive(Clone, Debug)]
struct Chunk {
    bytes: Vec<u8>,
    count: usize,
    /// The entry of the last one.
    last: u64,
}

/// Why notifications from an entry on cannot be had here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHere {
    /// They are not kept any more, or never were here: those from this entry on are.
    Compacted {
        /// The first entry.
        oldest: u64,
    },
    /// This is the last entry that was applied here, and it is not even the one before.
    Ahead {
        /// That entry.
        position: u64,
    },
}

impl RecentLog {
    /// From now on those of entries after `index` are kept: the state is as of that entry.
    pub fn begin_after(&mut self, index: u64) {
        *self = RecentLog { after: index, position: index, ..RecentLog::default() };
    }

    /// The entry at `index` was applied, and has emitted whatever it emits.
    pub fn passed(&mut self, index: u64) {
        self.position = self.position.max(index);
    }

    /// The last entry that was applied, as far as is known here.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The first entry from which on all notifications are here.
    pub fn oldest(&self) -> u64 {
        self.after + 1
    }

    /// Appends the notification of the entry at `index`, which is the only one of that entry.
    pub fn emit(&mut self, index: u64, notification: &[u8]) {
        let len = HEAD_BYTES + notification.len();
        if self.chunks.back().is_none_or(|chunk| chunk.bytes.len() + len > chunk.bytes.capacity()) {
            self.begin_chunk(len);
        }
        let Some(chunk) = self.chunks.back_mut() else { return };
        chunk.bytes.extend_from_slice(&index.to_le_bytes());
        chunk.bytes.extend_from_slice(&(notification.len() as u32).to_le_bytes()); // a command's, of a few MiB
        chunk.bytes.extend_from_slice(notification);
        (chunk.count, chunk.last) = (chunk.count + 1, index);
        self.kept += 1;
        self.position = self.position.max(index);
    }

    fn begin_chunk(&mut self, len: usize) {
        let spare = self.spare.take().filter(|spare| spare.capacity() >= len);
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(len.max(CHUNK_BYTES)));
        self.kept_bytes += bytes.capacity();
        while self.kept_bytes > KEPT_MAX_BYTES || self.kept > KEPT_MAX {
            let Some(Chunk { mut bytes, count, last }) = self.chunks.pop_front() else { break };
            self.kept_bytes -= bytes.capacity();
            self.kept -= count;
            self.after = last;
            bytes.clear();
            self.spare = Some(bytes).filter(|bytes| bytes.capacity() <= 2 * CHUNK_BYTES);
        }
        self.chunks.push_back(Chunk { bytes, count: 0, last: 0 });
    }

    /// The notifications of the entry at `from` and of later ones, in order.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn since(&self, from: u64) -> Result<impl Iterator<Item = (u64, &[u8])>, NotHere> {
        if from <= self.after {
            return Err(NotHere::Compacted { oldest: self.oldest() });
        }
        if from > self.position + 1 {
            return Err(NotHere::Ahead { position: self.position });
        }
        let first = self.chunks.partition_point(|chunk| chunk.last < from);
        let all = self.chunks.iter().skip(first).flat_map(|chunk| Notifications(&chunk.bytes));
        Ok(all.skip_while(move |(index, _)| *index < from))
    }
}

/// Those of a chunk.
struct Notifications<'c>(&'c [u8]);

impl<'c> Iterator for Notifications<'c> {
    type Item = (u64, &'c [u8]);

    fn next(&mut self) -> Option<(u64, &'c [u8])> {
        let (index, rest) = self.0.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (notification, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some((u64::from_le_bytes(*index), notification))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(log: &RecentLog, from: u64) -> Vec<u64> {
        log.since(from).unwrap().map(|(index, _)| index).collect()
    }

    #[test]
    fn since_gives_each_once_in_order_from_where_it_is_asked() {
        let mut log = RecentLog::default();
        assert!(indexes(&log, 1).is_empty());
        for index in (2..=100_000).step_by(2) {
            log.emit(index, format!("{index}").as_bytes());
        }
        log.passed(100_003);
        assert_eq!(indexes(&log, 1).len(), 50_000);
        for from in [2, 3, 4, 999, 50_000, 99_999] {
            let expected: Vec<u64> = (from + from % 2..=100_000).step_by(2).collect();
            assert_eq!(indexes(&log, from), expected, "{from}");
        }
        assert!(indexes(&log, 100_004).is_empty(), "nothing new");
        assert_eq!(log.since(100_005).err(), Some(NotHere::Ahead { position: 100_003 }));
        assert!(log.since(9).unwrap().all(|(index, bytes)| bytes == index.to_string().as_bytes()));
    }

    // covers C17
    #[test]
    fn begin_after_a_snapshot_says_that_what_was_before_is_not_here() {
        let mut log = RecentLog::default();
        log.emit(5, b"5");
        log.begin_after(9);
        assert_eq!(log.since(9).err(), Some(NotHere::Compacted { oldest: 10 }));
        assert_eq!((indexes(&log, 10), log.position()), (vec![], 9));
        log.emit(12, b"12");
        assert_eq!(indexes(&log, 10), [12]);
    }

    // covers C19
    #[test]
    fn kept_bytes_and_count_are_bounded_whatever_is_emitted() {
        for lens in [&[0][..], &[100], &[CHUNK_BYTES, 1], &[1 << 20], &[3_000, 0, 70_000]] {
            let mut log = RecentLog::default();
            let mut emitted = 0;
            for (index, len) in (1..).zip(lens.iter().cycle()) {
                log.emit(index, &vec![7; *len]);
                emitted += len + HEAD_BYTES;
                if index % 97 != 0 {
                    continue;
                }
                let room: usize = log.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum();
                assert_eq!(room, log.kept_bytes);
                assert!(room <= KEPT_MAX_BYTES, "{room} bytes of {lens:?}");
                let kept: usize = log.chunks.iter().map(|chunk| chunk.count).sum();
                assert_eq!(kept, log.kept);
                assert!(kept <= KEPT_MAX + CHUNK_BYTES / HEAD_BYTES, "{kept} of {lens:?}");
                let first = log.since(log.oldest()).unwrap().next().map(|(index, _)| index);
                assert_eq!(first, Some(log.oldest()), "{lens:?} at {index}");
                if emitted > 2 * KEPT_MAX_BYTES {
                    break;
                }
            }
            assert!(log.oldest() > 1, "{lens:?}");
            assert_eq!(log.since(log.after).err(), Some(NotHere::Compacted { oldest: log.oldest() }));
        }
    }

    #[test]
    fn emit_allocates_nothing_once_as_much_is_kept_as_may_be() {
        let mut log = RecentLog::default();
        let mut index = 0;
        let mut fill = |log: &mut RecentLog, bytes: usize| {
            for _ in 0..bytes / 100 {
                index += 1;
                log.emit(index, &[1; 100 - HEAD_BYTES]);
            }
        };
        fill(&mut log, 2 * KEPT_MAX_BYTES);
        let rooms = |log: &RecentLog| {
            let mut rooms: Vec<*const u8> = log.chunks.iter().map(|chunk| chunk.bytes.as_ptr()).collect();
            rooms.extend(log.spare.iter().map(|spare| spare.as_ptr()));
            rooms.sort();
            rooms
        };
        let before = rooms(&log);
        fill(&mut log, 3 * KEPT_MAX_BYTES);
        assert_eq!(rooms(&log), before);
    }
}
