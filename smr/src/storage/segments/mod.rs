//! The log in segment files of our own.
//!
//! # Layout
//! ```text
//! log/00000007.segment   a segment: one block of header, then frames; the numbers rise by one
//!     00000008.segment   prepared: the next one, whose header is still zeros
//!     new                a segment being made; means nothing
//! ```
//! A *segment* is a file of constant length ([`SEGMENT_BYTES`]; the header says which, so a later build may choose another),
//! written full of zeros, synced, and only then given its name, in a directory that is synced too. From then on neither its length
//! nor its place on the device changes, so a write into it needs no more than one `fdatasync` that is free of metadata.
//! ```text
//! header    0 magic [u8; 8] | 8 version u16 | 10 whether its first frame goes on with a record u8 | 11 zeros
//!          16 length of the segment u64 | 24 hash of the owner's identity u64 | 32 number u64
//!          40 index u64 and 48 term u64 of the last entry when it was begun
//!          56 seed: the checksum of the last frame of the segment before it u64
//!          64 checksum u64 over the 64 bytes before it; zeros to the end of the block
//! frame     0 checksum u64 over the checksum of the frame before it (of the first: the header's), and the rest of this frame
//!           8 length of the payload u32 | 12 kind u8 | 13 first or last of its record u8 | 14 zeros
//!          16 payload
//! ```
//! little endian. A *record* is one frame, and never crosses the end of a segment, unless it is longer than a segment: then it has
//! several frames, the pieces of its payload in order. The kinds are in [`format::Kind`]: entries come, entries go, the log is emptied, a process has opened it.
//! So a segment is a journal: nothing that counts is ever overwritten, other than with the same bytes; a conflict is not cut
//! off but *recorded* as removed. Every prefix of the journal is a log that there was at some time.
//!
//! # Writing
//! Appends collect in one buffer, which begins with what the last block already holds. A flush writes it from there, filled
//! up with zeros to whole blocks (a part of a block would have to be read first), in one write, and syncs once. If the
//! segment ends, the buffer is written and synced, and the next one begun, whose header goes into the same write as its first
//! frames. That one is prepared long before, by [`LogStore::tidy`] after everybody has been answered, in a thread of its own.
//!
//! A segment is *dead* when the one behind it was begun at or before the snapshot, with a record of its own. A dead one is recycled: its header is
//! overwritten with zeros and synced, then it gets the number of the next one to be prepared. The frames of its former life
//! stay, and cannot come back: each is chained to a header with a smaller number.
//!
//! # What a crash leaves behind, and what the next start does with it
//! - *While a segment is made*: `new`, which the next one overwrites. *While one is recycled*: a dead one with a header of
//!   zeros, or the prepared one; both are fit for being prepared, and where none is, one is made.
//! - *In a flush*: any of its sectors, old or new, in any order. The frames up to the first that does not fit into the chain
//!   count; of a record in pieces all have to be there. Behind that point may be frames that were never confirmed: they are
//!   chained to one that is missing. So that none of them ever fits again, should the very same entries come once more, each start
//!   writes a record of its own, `Opened` with a number that rises, and syncs it before anything else is written.
//! - *Between two segments*: the old one is synced before anything of the next is written. So if a next one was begun, the old
//!   one is whole and its last checksum is the next one's seed: everything else is damage, wherever the mark is. If the next one's
//!   header was lost, all of it was lost, whatever of its frames is there: they are chained to that header, and the one that
//!   will be written has another seed, because of `Opened`. Only if the old segment has no room for `Opened` the very same header is
//!   written again; but then `Opened` is its first frame, in the same write, where that segment's first one was. Before that
//!   write is synced, nothing rests on this start, and the next one may find the frames of the one before or not, as after any
//!   crash in a flush. Once it is, they are chained to a frame that is no longer there.
//! - *In a conflict truncation*: the entries are there until the record of their removal is, and the mark was lowered before.
//! - *In a prefix truncation*: nothing is written. Segments are recycled only after a flush, so that the headers, which say from
//!   where on the log can be read, are on the device.
//! - *In an install*: the record `Reset`, all of it or nothing.
//! - *A failed write or sync*, or a kill between the two: the process ends. What the next start reads may be in the page cache alone;
//!   after a failed `fdatasync` it counts as clean there, and no later one would bring it to the device (D6). So before anything rests on
//!   it, each start writes the used blocks of the last segment once more, the same bytes to the same places, with its own record behind
//!   them, and syncs. That is one segment at most. The ones before it need none of this: each was synced, without an error,
//!   before anything of the next was written.
//!
//! # Damage
//! The next start reads from the last segment that was begun at or before the snapshot, with a record of its own, and
//! checks each byte of the headers' blocks and of the frames up to the end of the chain. Before the last segment the chain
//! must reach the seed of the next; in the last one the mark says how far it must reach, as with every engine; behind that
//! damage cannot be told from a torn write (D2), and behind the end are zeros or the frames of former lives, which mean
//! nothing. Damage names the file. A header that is neither zeros nor whole is damage unless its segment is dead; a header
//! of zeros in a segment that was begun looks like a prepared one, and is found by the mark, or by the segment behind it.
//!
//! # The models
//! As in *etcd's* log the checksums are chained across the files, conflicts are overwritten by replay and not in place, and the
//! next file is made ahead. But etcd makes and names a file for each segment anew and lets frames end anywhere in a block. As in
//! *LogCabin's* there are segments of constant length, prepared by a thread, and named by numbers; but there a closed one is cut
//! and renamed, and a conflict cuts it again, which costs metadata each time. Neither recycles.

mod format;
mod pool;
mod replay;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, read_fully};
use super::extent::Extent;
use super::mark::Mark;
use super::record::{self, ENTRY_LENGTH_BYTES};
use super::record_log::{Recovered, confirm};
use super::{Damage, LoadError, LogStore, StorageError};
use crate::codec;
use crate::entry::{Entry, EntryId, Index, Term};
use format::{BLOCK_BYTES, FIRST_PIECE, FRAME_HEADER_BYTES, FRAMES_OFFSET, Header, Kind, LAST_PIECE};
pub(crate) use pool::present;
use pool::{Found, Pool, segment_path};
use replay::Replay;

/// Length of a segment in bytes: at full speed one is begun a few times in a second, and two of them, the one in use and the one
/// prepared, are what the smallest log occupies.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// The longest payload of a record with more than one entry, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// A piece of a record is not shorter than this, in bytes, unless it is the last.
const PIECE_BYTES_MIN: usize = 64;
/// The buffer of a flush is kept for the next one, up to this size in bytes.
const BUFFER_KEPT_BYTES: usize = 2 << 20;
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

/// The end of the last segment, as it is being written.
struct Tail {
    /// What the segment holds from `begin` on.
    buffer: Vec<u8>,
    /// A multiple of [`BLOCK_BYTES`].
    begin: u64,
    /// The checksum of the last frame.
    checksum: u64,
    /// Whether the buffer has more than the file, and whether the file has more than the device.
    unwritten: bool,
    unsynced: bool,
}

impl Tail {
    fn end(&self) -> u64 {
        self.begin + self.buffer.len() as u64
    }
}

impl SegmentLog {
    /// Reads the log back, or makes an empty one. `snapshot` and `mark` as in [`super::record_log::RecordLog::recover`]; without a
    /// mark nothing was ever confirmed.
    ///
    /// # Errors
    /// Damage, or fatal ones of the device.
    pub(crate) fn recover(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: u64,
        snapshot: EntryId,
        mark: Option<Mark>,
    ) -> Result<Recovered<SegmentLog>, LoadError> {
        let found = pool::find(disk.as_ref(), directory)?;
        let Some(top) = found.begun.keys().next_back().copied() else {
            if let Some((number, what)) = found.damaged.iter().next() {
                return Err(Damage::new(&segment_path(directory, *number), what).into());
            }
            if mark.is_some() {
                let first = found.blank.first().copied().unwrap_or(1);
                return Err(Damage::new(&segment_path(directory, first), "zeros, and no segment was begun").into());
            }
            let log = SegmentLog::create(disk, directory, identity, found.blank.first().copied())?;
            return Ok(Recovered { log, entries: Vec::new(), fits: true, notes: Vec::new() });
        };
        let first = readable_from(directory, &found, identity, top, snapshot)?;
        // A prepared one is used again, and so are the dead; their numbers are smaller.
        let prepared = found.blank.iter().copied().filter(|number| *number == top + 1);
        let dead = (found.begun.keys().chain(&found.blank).chain(found.damaged.keys())).copied();
        let dead: BTreeSet<u64> = dead.filter(|number| *number < first).collect();
        let mut segments = VecDeque::new();
        for (_, (header, _)) in found.begun.range(first..=top) {
            let path = segment_path(directory, header.number);
            let file = disk.open(&path, false).map_err(|error| StorageError::new(&path, "opening", error))?;
            segments.push_back(Segment { header: *header, file });
        }
        let is_first = found.begun.keys().chain(found.damaged.keys()).all(|number| *number >= first);
        let (replay, bytes) = play(directory, &segments, None, is_first)?;
        let last = segment_path(directory, top);

        let end = replay.last();
        if replay.base.index > snapshot.index {
            let what = format!("the log starts behind entry {}, the newest snapshot ends with {snapshot}", replay.base);
            return Err(Damage::new(&last, format!("{what}: entries are missing")).into());
        }
        let is_covered = end.index <= snapshot.index;
        // The log says something else than the snapshot at their seam. With entries in front of it that is a conflict which was not
        // removed yet: the snapshot is on the device before the log is changed for it. Without any, it is damage.
        let before = snapshot.index.0 - replay.base.index.0;
        let at_seam = match before.checked_sub(1) {
            None => replay.base,
            Some(place) => replay.entries.get(place as usize).map_or(end, |entry| entry.id),
        };
        let contradicts = !is_covered && at_seam.term != snapshot.term;
        if contradicts && before == 0 && replay.is_rebased {
            let what = format!("the log starts behind entry {at_seam}, the snapshot ends with {snapshot}");
            return Err(Damage::new(&last, what).into());
        }
        let interrupted = replay.is_interrupted();
        let Replay { mut entries, records, fingerprint, checksum, end: end_offset, opened, .. } = replay;
        entries.retain(|entry| entry.id.index > snapshot.index);
        let present = entries.last().map_or(snapshot, |entry| entry.id);
        confirm(&last, &entries, mark.filter(|mark| mark.last.index > snapshot.index), present)?;

        // Everything is in order; only now anything is written.
        let mut buffer = bytes;
        buffer.truncate(end_offset as usize);
        // The frames are what their checksums say. The header was checked when it was read before, so it is written as it was then.
        let (header, _) = found.begun[&top].0.encode();
        buffer[..FRAMES_OFFSET].fill(0);
        buffer[..header.len()].copy_from_slice(&header);
        let mut log = SegmentLog {
            pool: Pool::new(disk, directory, prepared.chain(dead)),
            identity,
            extent: Extent::empty(snapshot),
            records,
            segments,
            tail: Tail {
                // All of it is written again: what was read may be in the cache alone, and clean there.
                buffer,
                begin: 0,
                checksum,
                unwritten: true,
                unsynced: true,
            },
            fingerprint,
        };
        // The header of a segment that has to be begun names the last entry of the journal.
        log.extent = Extent::empty(end);
        log.write_record(Kind::Opened, &(opened + 1).to_le_bytes())?;
        if is_covered && end != snapshot {
            // The next entry is the one behind the snapshot, so the journal has to say that this is where it goes on.
            log.reset_to(snapshot)?;
        } else if !contradicts {
            log.extent = Extent::empty(snapshot);
            log.extent.append(&entries);
            log.forget_records();
        }
        log.flush()?;
        let notes = interrupted.then(|| format!("{}: cut an interrupted write", last.display()));
        if contradicts {
            // Emptied by the caller, who has to lower the mark before.
            entries.clear();
        }
        Ok(Recovered { log, entries, fits: !contradicts, notes: notes.into_iter().collect() })
    }

    fn create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: u64,
        blank: Option<u64>,
    ) -> Result<SegmentLog, StorageError> {
        let mut pool = Pool::new(disk, directory, blank);
        let number = blank.unwrap_or(1);
        let file = pool.take(number)?;
        let tail = Tail { buffer: Vec::new(), begin: 0, checksum: 0, unwritten: false, unsynced: false };
        let extent = Extent::empty(EntryId::ZERO);
        let (records, segments) = (VecDeque::new(), VecDeque::new());
        let mut log = SegmentLog { pool, identity, extent, records, segments, tail, fingerprint: None };
        log.begin_segment(number, file, false);
        Ok(log)
    }

    fn path(&self, number: u64) -> PathBuf {
        segment_path(self.pool.directory(), number)
    }

    fn current(&self) -> &Segment {
        self.segments.back().unwrap_or_else(|| panic!("a log without segments"))
    }

    fn fail(&self, segment: &Segment, doing: &'static str, error: io::Error) -> StorageError {
        StorageError::new(&self.path(segment.header.number), doing, error)
    }

    /// The file becomes the one that is written. Its header waits in the buffer.
    fn begin_segment(&mut self, number: u64, file: Box<dyn DiskFile>, continues: bool) {
        let (size, identity, base) = (self.pool.size(), self.identity, self.extent.last());
        let header = Header { size, identity, number, base, seed: self.tail.checksum, continues };
        self.segments.push_back(Segment { header, file });
        self.write_header(header);
    }

    fn write_header(&mut self, header: Header) {
        let (bytes, checksum) = header.encode();
        let tail = &mut self.tail;
        tail.buffer.clear();
        tail.buffer.extend_from_slice(&bytes);
        tail.buffer.resize(FRAMES_OFFSET, 0);
        (tail.begin, tail.checksum, tail.unwritten, tail.unsynced) = (0, checksum, true, true);
    }

    /// The segment that is written ends, and the next one begins.
    fn roll(&mut self, continues: bool) -> Result<(), StorageError> {
        // All of it is on the device before anything of the next one is: what the next start relies on.
        self.write()?;
        self.sync()?;
        let number = self.current().header.number + 1;
        let file = self.pool.take(number)?;
        self.begin_segment(number, file, continues);
        Ok(())
    }

    /// Brings the buffer to the file, and keeps of it what its last block holds.
    fn write(&mut self) -> Result<(), StorageError> {
        if !self.tail.unwritten {
            return Ok(());
        }
        let length = self.tail.buffer.len();
        self.tail.buffer.resize(length.next_multiple_of(BLOCK_BYTES), 0);
        let current = self.current();
        let written = current.file.write_at(&self.tail.buffer, self.tail.begin);
        written.map_err(|error| self.fail(current, "writing", error))?;
        let tail = &mut self.tail;
        let whole = length - length % BLOCK_BYTES;
        tail.buffer.truncate(length);
        tail.buffer.drain(..whole);
        tail.buffer.shrink_to(BUFFER_KEPT_BYTES);
        tail.begin += whole as u64;
        tail.unwritten = false;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        if self.tail.unsynced {
            let current = self.current();
            current.file.sync().map_err(|error| self.fail(current, "flushing", error))?;
            self.tail.unsynced = false;
        }
        Ok(())
    }

    fn write_record(&mut self, kind: Kind, payload: &[u8]) -> Result<(), StorageError> {
        let at = self.tail.buffer.len();
        self.tail.buffer.resize(at + FRAME_HEADER_BYTES, 0);
        self.tail.buffer.extend_from_slice(payload);
        self.seal(at, kind)?;
        Ok(())
    }

    /// Makes a record of what the buffer holds behind `at`, where there is room for a header; in the next segment if there is no more
    /// room in this one, and in pieces if there is not enough in any.
    fn seal(&mut self, at: usize, kind: Kind) -> Result<Place, StorageError> {
        let room = (self.current().header.size - self.tail.begin) as usize;
        if self.tail.buffer.len() <= room {
            return Ok(self.seal_frame(at, kind, FIRST_PIECE | LAST_PIECE));
        }
        let record = self.tail.buffer.split_off(at);
        if record.len() <= self.pool.size() as usize - FRAMES_OFFSET {
            self.roll(false)?;
            self.tail.buffer.extend_from_slice(&record);
            return Ok(self.seal_frame(FRAMES_OFFSET, kind, FIRST_PIECE | LAST_PIECE));
        }
        let mut rest = &record[FRAME_HEADER_BYTES..];
        let mut first = None;
        loop {
            let room = (self.current().header.size - self.tail.end()) as usize;
            let fits = rest.len() + FRAME_HEADER_BYTES <= room;
            if !fits && room < FRAME_HEADER_BYTES + PIECE_BYTES_MIN {
                self.roll(first.is_some())?;
                continue;
            }
            let (piece, behind) = rest.split_at(if fits { rest.len() } else { room - FRAME_HEADER_BYTES });
            let at = self.tail.buffer.len();
            self.tail.buffer.resize(at + FRAME_HEADER_BYTES, 0);
            self.tail.buffer.extend_from_slice(piece);
            let pieces = if first.is_none() { FIRST_PIECE } else { 0 } | if fits { LAST_PIECE } else { 0 };
            let place = self.seal_frame(at, kind, pieces);
            let first = *first.get_or_insert(place);
            if fits {
                return Ok(first);
            }
            rest = behind;
        }
    }

    fn seal_frame(&mut self, at: usize, kind: Kind, pieces: u8) -> Place {
        let segment = self.current().header.number;
        let tail = &mut self.tail;
        let place = Place { segment, offset: tail.begin + at as u64, previous: tail.checksum };
        tail.checksum = format::seal(&mut tail.buffer[at..], kind, pieces, tail.checksum);
        (tail.unwritten, tail.unsynced) = (true, true);
        place
    }

    /// Writes the first entries, as many as one record has, and returns how many.
    fn append_record(&mut self, entries: &[Entry]) -> Result<usize, StorageError> {
        let at = self.tail.buffer.len();
        let body = at + FRAME_HEADER_BYTES + APPEND_HEADER_BYTES;
        let buffer = &mut self.tail.buffer;
        buffer.resize(body, 0);
        let mut count = 0;
        let mut last = body;
        for entry in entries {
            if count > 0 && buffer.len() - body + entry.size_bytes() > RECORD_BYTES_MAX {
                break;
            }
            last = buffer.len() + ENTRY_LENGTH_BYTES;
            buffer.resize(last, 0);
            codec::encode_into(buffer, entry);
            let length = u32::try_from(buffer.len() - last).unwrap_or_else(|_| panic!("an entry of over 4 GiB"));
            buffer[last - ENTRY_LENGTH_BYTES..last].copy_from_slice(&length.to_le_bytes());
            count += 1;
        }
        let fingerprint = record::fingerprint(&buffer[last..]);
        let first = entries[0].id.index.0;
        let header = &mut buffer[body - APPEND_HEADER_BYTES..body];
        header[..8].copy_from_slice(&first.to_le_bytes());
        header[8..16].copy_from_slice(&self.extent.last().term.0.to_le_bytes());
        header[16..].copy_from_slice(&(count as u32).to_le_bytes());
        let place = self.seal(at, Kind::Append)?;
        self.extent.append(&entries[..count]);
        self.records.push_back(Held { first, last: self.extent.last().index.0, place });
        self.fingerprint = Some(fingerprint);
        Ok(count)
    }

    /// Forgets the records whose entries are all before the start.
    fn forget_records(&mut self) {
        let start = self.extent.start().index.0;
        while self.records.front().is_some_and(|held| held.last <= start) {
            self.records.pop_front();
        }
    }

    /// Reads one record of entries back from its segments.
    fn read(&self, held: &Held) -> Result<Vec<Entry>, StorageError> {
        let mut replay = Replay::new(EntryId { index: Index(held.first - 1), term: Term::ZERO }, false);
        replay.is_base_term_known = false;
        let begin = self.segments.partition_point(|segment| segment.header.number < held.place.segment);
        let mut place = held.place;
        for segment in self.segments.iter().skip(begin) {
            let path = self.path(segment.header.number);
            let bytes = read_segment(segment, None).map_err(|error| self.fail(segment, "reading back", error))?;
            if segment.header.number > place.segment {
                let previous = segment.header.encode().1;
                place = Place { segment: segment.header.number, offset: FRAMES_OFFSET as u64, previous };
            }
            replay
                .play_from(&path, place, &bytes, Some(held.last))
                .map_err(|damage| StorageError::new(&path, "reading back", damage))?;
            if replay.last().index.0 >= held.last {
                return Ok(replay.entries);
            }
        }
        let what = format!("the record at index {} is not there", held.first);
        Err(StorageError::new(&self.path(held.place.segment), "reading back", what))
    }
}

/// The content of a segment; of the last one with what waits in the buffer.
fn read_segment(segment: &Segment, tail: Option<&Tail>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; segment.header.size as usize]; // at most the format's limit
    read_fully(segment.file.as_ref(), &mut bytes, 0)?;
    if let Some(tail) = tail {
        let begin = tail.begin as usize;
        bytes[begin..begin + tail.buffer.len()].copy_from_slice(&tail.buffer);
    }
    Ok(bytes)
}

/// From which segment on the log has to be read: the last one that was begun at or before the snapshot.
fn readable_from(
    directory: &Path,
    found: &Found,
    identity: u64,
    top: u64,
    snapshot: EntryId,
) -> Result<u64, LoadError> {
    let damage = |number: u64, what: &str| Err(Damage::new(&segment_path(directory, number), what).into());
    if let Some((number, what)) = found.damaged.range(top..).next() {
        return damage(*number, what);
    }
    if let Some(blank) = found.blank.iter().find(|number| **number > top + 1) {
        return damage(blank - 1, "missing or zeros, though a later one was prepared");
    }
    let mut lowest = top;
    while let Some((header, _)) = found.begun.get(&lowest) {
        if header.identity != identity {
            return damage(lowest, "written by another node, or in another life of this one");
        }
        if header.is_readable_from(snapshot.index) {
            return Ok(lowest);
        }
        lowest -= 1;
    }
    let base = found.begun.get(&(lowest + 1)).map_or(EntryId::ZERO, |(header, _)| header.base);
    let why = found.damaged.get(&lowest).map_or("missing", String::as_str);
    let what = format!(
        "{why}; the log behind it starts with entry {}, the newest snapshot ends with {snapshot}",
        base.index.next()
    );
    damage(lowest, &what)
}

/// Plays the segments; also gives the content of the last one.
fn play(
    directory: &Path,
    segments: &VecDeque<Segment>,
    tail: Option<&Tail>,
    is_first: bool,
) -> Result<(Replay, Vec<u8>), LoadError> {
    let base = segments.front().map_or(EntryId::ZERO, |segment| segment.header.base);
    let mut replay = Replay::new(base, is_first);
    let mut bytes = Vec::new();
    for (place, segment) in segments.iter().enumerate() {
        let path = segment_path(directory, segment.header.number);
        if place > 0 && segment.header.seed != replay.checksum {
            let what = format!("damaged at byte {}, before the segment behind it begins", replay.end);
            return Err(Damage::new(&segment_path(directory, segment.header.number - 1), what).into());
        }
        let is_last = place + 1 == segments.len();
        bytes = read_segment(segment, tail.filter(|_| is_last))
            .map_err(|error| StorageError::new(&path, "reading", error))?;
        replay.play(&path, &segment.header, &bytes)?;
    }
    Ok((replay, bytes))
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
        // Before the extent changes: if the record begins a segment, its header names the last entry that the journal has there.
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
