//! The log in segment files of our own.
//!
//! # Layout
//! ```text
//! log/00000007.segment   a segment: one block of header, then frames; the numbers rise by one
//!     00000008.segment   prepared: the next one, whose header is still zeros
//!     new                a segment being made; means nothing
//! ```
//! A *segment* is a file of constant length ([`SEGMENT_BYTES`]; the header says which, so a later build may choose
//! another), written full of zeros, synced, and only then given its name, in a directory that is synced too. From then
//! on neither its length nor its place on the device changes, so a write into it needs no more than one `fdatasync`
//! that is free of metadata.
//! ```text
//! header    0 magic [u8; 8] | 8 version u16 | 10 whether its first frame goes on with a record u8 | 11 zeros
//!          16 length of the segment u64 | 24 hash of the owner's identity u64 | 32 number u64
//!          40 index u64 and 48 term u64 of the last entry when it was begun
//!          56 seed: the checksum of the last frame of the segment before it u64
//!          64 checksum u64 over the 64 bytes before it; zeros to the end of the block
//! frame     0 checksum u64 over the checksum of the frame before it (of the first: the header's), and the rest of it
//!           8 length of the payload u32 | 12 kind u8 | 13 first or last of its record u8 | 14 zeros
//!          16 payload
//! ```
//! little endian. A *record* is one frame, and never crosses the end of a segment, unless it is longer than a segment:
//! then it has several frames, the pieces of its payload in order. The kinds are in [`format::Kind`]: entries come,
//! entries go, the log is emptied, a process has opened it. So a segment is a journal: nothing that counts is ever
//! overwritten, other than with the same bytes; a conflict is not cut off but *recorded* as removed. Every prefix of
//! the journal is a log that there was at some time. One kind changes nothing: before its other frames each write says
//! up to which byte of this segment the one before it was synced ([`format::SyncedClaim`], since version 2).
//!
//! # Writing
//! Appends collect in one buffer, which begins with what the last block already holds. A flush writes it from there,
//! filled up with zeros to whole blocks (a part of a block would have to be read first), in one write, and syncs once.
//! If the segment ends, the buffer is written and synced, and the next one begun, whose header goes into the same write
//! as its first frames. That one is prepared long before, by [`LogStore::tidy`] after everyone has been answered, in a
//! thread of its own.
//!
//! A segment is *dead* when the one after it was begun at or before the snapshot, with a record of its own. A dead one
//! is recycled: its header is overwritten with zeros and synced, then it gets the number of the next one to be
//! prepared. The frames of its previous use stay, and cannot come back: each is chained to a header with a smaller
//! number.
//!
//! # What a crash leaves behind, and what the next start does with it
//! - *While a segment is made*: `new`, which the next one overwrites. *While one is recycled*: a dead one with a header
//!   of zeros, or the prepared one; both are fit for being prepared, and where none is, one is made.
//! - *In a flush*: any of its sectors, old or new, in any order. The frames up to the first that does not fit into the
//!   chain count; of a record in pieces all have to be there. After that point may be frames that were never
//!   confirmed: they are chained to one that is missing. So that none of them ever fits again, should the very same
//!   entries come once more, each start writes a record of its own, `Opened` with a number that rises, and syncs it
//!   before anything else is written.
//! - *Between two segments*: the old one is synced before anything of the next is written. So if a next one was begun,
//!   the old one is whole and its last checksum is the next one's seed: everything else is damage, wherever the
//!   watermark is. If the next one's header was lost, all of it was lost, whatever of its frames is there: they are
//!   chained to that header, and the one that will be written has another seed, because of `Opened`. Only if the old
//!   segment has no room for `Opened` the very same header is written again; but then `Opened` is its first frame, in
//!   the same write, where that segment's first one was. Before that write is synced, nothing rests on this start, and
//!   the next one may find the frames of the one before or not, as after any crash in a flush. Once it is, they are
//!   chained to a frame that is no longer there.
//! - *In a conflict truncation*: the entries are there until the record of their removal is, and the watermark was
//!   lowered before.
//! - *In a prefix truncation*: nothing is written. Segments are recycled only after a flush, so that the headers, which
//!   say from where on the log can be read, are on the device.
//! - *In an install*: the record `Reset`, all of it or nothing.
//! - *A failed write or sync*, or a kill between the two: the replica ends. What the next start reads may be in the
//!   page cache alone; after a failed `fdatasync` it counts as clean there, and no later one would bring it to the
//!   device (D6). So before anything rests on it, each start writes the used blocks of the last segment once more, the
//!   same bytes to the same places, with its own record after them, and syncs. That is one segment at most. The ones
//!   before it need none of this: each was synced, without an error, before anything of the next was written.
//!
//! # Damage
//! The next start reads from the last segment that was begun at or before the snapshot, with a record of its own, and
//! checks each byte of the headers' blocks and of the frames up to the end of the chain. Before the last segment the
//! chain must reach the seed of the next; in the last one the watermark says how far it must reach, as with every
//! engine, and, wherever they stand, the claims of what was synced. So only in the very last write damage cannot be
//! told from a torn one (D2). After the end are zeros or the frames of previous incarnations, which mean nothing.
//! Damage names the file. A header that is neither zeros nor whole is damage unless its segment is dead; a header of
//! zeros in a segment that was begun looks like a prepared one, and is found by the watermark, or by the segment after
//! it.
//!
//! # The models
//! As in *etcd's* log the checksums are chained across the files, conflicts are overwritten by replay and not in place,
//! and the next file is made ahead. But etcd makes and names a file for each segment again and lets frames end anywhere
//! in a block. As in *LogCabin's* there are segments of constant length, prepared by a thread, and named by numbers;
//! but there a closed one is cut and renamed, and a conflict cuts it again, which costs metadata each time. Neither
//! recycles.

mod format;
mod pool;
mod reading;
mod replay;
mod salvage;
mod writing;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use super::disk::DiskFile;
use super::extent::Extent;
use super::record;
use super::{LoadError, LogStore, StorageError};
use crate::codec;
use crate::entry::{Entry, EntryId, Index, Term};
use format::{FRAMES_OFFSET, Header, Kind};
pub(crate) use pool::present;
use pool::{Pool, segment_path};
use reading::play;
pub(crate) use salvage::{owners, salvage};
use writing::Tail;

pub use super::disk::SEGMENT_BYTES;

/// Before its entries a record has the first index, the term before, and how many they are.
const APPEND_HEADER_BYTES: usize = 20;

/// The log in segments.
pub(crate) struct SegmentLog {
    pool: Pool,
    identity: u64,
    extent: Extent,
    /// Where the records are that hold entries, in order.
    records: VecDeque<Held>,
    /// Those that count, in order; the last one is written.
    segments: VecDeque<Segment>,
    tail: Tail,
    /// The fingerprint of the last entry, if it is known.
    fingerprint: Option<u64>,
}

/// A segment that was begun.
struct Segment {
    header: Header,
    file: Box<dyn DiskFile>,
}

/// A record that holds entries.
#[derive(Clone, Debug)]
struct Held {
    first: u64,
    /// The last entry that still counts.
    last: u64,
    place: Place,
}

/// Where a frame begins.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    /// The checksum that it is chained to.
    previous: u64,
}

impl SegmentLog {
    fn path(&self, number: u64) -> PathBuf {
        segment_path(self.pool.directory(), number)
    }

    fn current(&self) -> &Segment {
        self.segments.back().unwrap_or_else(|| panic!("a log without segments"))
    }

    fn fail(&self, segment: &Segment, doing: &'static str, error: io::Error) -> StorageError {
        StorageError::new(&self.path(segment.header.number), doing, error)
    }

    /// Forgets the records whose entries are all before the start.
    fn forget_records(&mut self) {
        let start = self.extent.start().index.0;
        while self.records.front().is_some_and(|held| held.last <= start) {
            self.records.pop_front();
        }
    }
}

impl LogStore for SegmentLog {
    fn adopt(&mut self, identity: u64) {
        let is_new = self.segments.len() == 1 && self.tail.end() == FRAMES_OFFSET as u64;
        assert!(is_new, "a log that was written to changes its owner");
        self.identity = identity;
        let header = Header { identity, ..self.current().header };
        if let Some(current) = self.segments.back_mut() {
            current.header = header;
        }
        self.write_header(header);
    }

    fn append(&mut self, mut entries: &[Entry]) -> Result<(), StorageError> {
        while !entries.is_empty() {
            let count = self.append_record(entries)?;
            entries = &entries[count..];
        }
        Ok(())
    }

    fn remove_from(&mut self, index: Index) -> Result<(), StorageError> {
        self.extent.expect(index, "removal from");
        // Before the extent changes: if the record begins a segment, its header names the last entry that the journal
        // has there.
        self.write_record(Kind::RemoveFrom, &index.0.to_le_bytes())?;
        self.extent.remove_from(index);
        replay::cut(&mut self.records, index.0);
        self.fingerprint = None;
        Ok(())
    }

    fn remove_through(&mut self, index: Index) {
        self.extent.remove_through(index);
        self.forget_records();
    }

    fn compact_slice(&mut self) -> Result<bool, StorageError> {
        // Segments are given back after a flush, as wholes.
        Ok(false)
    }

    fn reset_to(&mut self, start: EntryId) -> Result<(), StorageError> {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&start.index.0.to_le_bytes());
        payload[8..].copy_from_slice(&start.term.0.to_le_bytes());
        self.write_record(Kind::Reset, &payload)?;
        self.extent = Extent::empty(start);
        self.records.clear();
        self.fingerprint = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.write()?;
        self.sync()?;
        // Only now: the headers that the next start goes by are on the device.
        while let Some(next) = self.segments.get(1)
            && next.header.is_readable_from(self.extent.start().index)
            && let Some(dead) = self.segments.pop_front()
        {
            self.pool.bury(dead.header.number);
        }
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), StorageError> {
        self.pool.tidy(self.current().header.number + 1)
    }

    fn start(&self) -> EntryId {
        self.extent.start()
    }

    fn last(&self) -> EntryId {
        self.extent.last()
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        self.extent.term_at(index)
    }

    fn fingerprint_at(&mut self, index: Index) -> Result<u64, StorageError> {
        self.extent.expect(index, "asked for entry");
        let is_last = index == self.extent.last().index;
        if is_last && let Some(fingerprint) = self.fingerprint {
            return Ok(fingerprint);
        }
        self.write()?;
        let position = self.records.partition_point(|held| held.first <= index.0);
        let held = position.checked_sub(1).map(|before| &self.records[before]);
        let held = held.unwrap_or_else(|| panic!("no record for {index}, log from {}", self.extent.start()));
        let entries = self.read(held)?;
        let entry = entries.iter().find(|entry| entry.id.index == index);
        let entry = entry.unwrap_or_else(|| panic!("no entry {index} in the record at {}", held.first));
        let fingerprint = record::fingerprint(&codec::encode(entry));
        if is_last {
            self.fingerprint = Some(fingerprint);
        }
        Ok(fingerprint)
    }

    fn load(&self) -> Result<Vec<Entry>, LoadError> {
        let (replay, _) = play(self.pool.directory(), &self.segments, Some(&self.tail), true)?;
        let mut entries = replay.entries;
        entries.retain(|entry| entry.id.index > self.extent.start().index);
        Ok(entries)
    }
}
