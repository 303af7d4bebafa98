//! The end of the journal: records are made in a buffer, and the buffer is written and synced.

use super::format::{
    self, BLOCK_BYTES, FIRST_PIECE, FRAME_HEADER_BYTES, FRAMES_OFFSET, Header, Kind, LAST_PIECE, SEGMENT_VERSION,
    SyncedClaim,
};
use super::{APPEND_HEADER_BYTES, Held, Place, Segment, SegmentLog};
use crate::codec;
use crate::disk::DiskFile;
use crate::entry::{Entry, EntryId};
use crate::storage::StorageError;
use crate::storage::record::{self, ENTRY_LENGTH_BYTES};

/// The longest payload of a record with more than one entry, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// A piece of a record is not shorter than this, in bytes, unless it is the last.
const PIECE_BYTES_MIN: usize = 64;
/// The buffer of a flush is kept for the next one, up to this size in bytes.
const BUFFER_KEPT_BYTES: usize = 2 << 20;

/// The end of the last segment, as it is being written.
pub(super) struct Tail {
    /// What the segment holds from `begin` on.
    pub(super) buffer: Vec<u8>,
    /// A multiple of [`BLOCK_BYTES`].
    pub(super) begin: u64,
    /// The checksum of the last frame.
    pub(super) checksum: u64,
    /// Whether the buffer has more than the file, and whether the file has more than the device.
    pub(super) unwritten: bool,
    pub(super) unsynced: bool,
    /// What is known of this segment: up to where it was written and synced, in this incarnation, and what says so in
    /// it.
    pub(super) written: Reach,
    pub(super) synced: Reach,
    pub(super) claimed: Reach,
}

/// A place in the segment that is written, and the last entry of the log there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reach {
    end: u64,
    last: EntryId,
}

impl Tail {
    /// The end of a segment of which this was read, or nothing. All of that is to be written again.
    pub(super) fn over(buffer: Vec<u8>, checksum: u64) -> Tail {
        let is_new = buffer.is_empty();
        let none = Reach::default();
        let (written, synced, claimed) = (none, none, none);
        Tail { buffer, begin: 0, checksum, unwritten: !is_new, unsynced: !is_new, written, synced, claimed }
    }

    pub(super) fn end(&self) -> u64 {
        self.begin + self.buffer.len() as u64
    }
}

impl SegmentLog {
    /// The file becomes the one that is written. Its header waits in the buffer.
    pub(super) fn begin_segment(&mut self, number: u64, file: Box<dyn DiskFile>, continues: bool) {
        let (size, identity, base) = (self.pool.size(), self.identity, self.extent.last());
        let header =
            Header { version: SEGMENT_VERSION, size, identity, number, base, seed: self.tail.checksum, continues };
        self.segments.push_back(Segment { header, file });
        self.write_header(header);
    }

    pub(super) fn write_header(&mut self, header: Header) {
        let (bytes, checksum) = header.encode();
        let tail = &mut self.tail;
        let mut buffer = std::mem::take(&mut tail.buffer);
        buffer.clear();
        buffer.extend_from_slice(&bytes);
        buffer.resize(FRAMES_OFFSET, 0);
        *tail = Tail::over(buffer, checksum);
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
    pub(super) fn write(&mut self) -> Result<(), StorageError> {
        if !self.tail.unwritten {
            return Ok(());
        }
        let length = self.tail.buffer.len();
        self.tail.buffer.resize(length.next_multiple_of(BLOCK_BYTES), 0);
        let current = self.current();
        let written = current.file.write_at(&self.tail.buffer, self.tail.begin);
        written.map_err(|error| self.fail(current, "writing", error))?;
        let last = self.extent.last();
        let tail = &mut self.tail;
        tail.written = Reach { end: tail.begin + length as u64, last };
        let whole = length - length % BLOCK_BYTES;
        tail.buffer.truncate(length);
        tail.buffer.drain(..whole);
        tail.buffer.shrink_to(BUFFER_KEPT_BYTES);
        tail.begin += whole as u64;
        tail.unwritten = false;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        if self.tail.unsynced {
            let current = self.current();
            current.file.sync().map_err(|error| self.fail(current, "flushing", error))?;
            self.tail.unsynced = false;
            self.tail.synced = self.tail.written;
        }
        Ok(())
    }

    /// Before the first frame of a write stands what was synced before it, so that damage to that is not taken for an
    /// interrupted write, however far back the watermark was set (D2). Where it has no room it is left out.
    fn claim_synced(&mut self) {
        let Reach { end, last } = self.tail.synced;
        let header = self.current().header;
        let at = self.tail.buffer.len();
        let fits = self.tail.end() + (FRAME_HEADER_BYTES + SyncedClaim::BYTES) as u64 <= header.size;
        let is_new = !self.tail.unwritten && end > self.tail.claimed.end.max(FRAMES_OFFSET as u64);
        if !is_new || !fits || !header.says_what_is_synced() {
            return;
        }
        let claim = SyncedClaim { segment: header.number, end, last };
        self.tail.buffer.resize(at + FRAME_HEADER_BYTES, 0);
        self.tail.buffer.extend_from_slice(&claim.encode(self.identity));
        self.seal_frame(at, Kind::Synced, FIRST_PIECE | LAST_PIECE);
        self.tail.claimed = self.tail.synced;
    }

    pub(super) fn write_record(&mut self, kind: Kind, payload: &[u8]) -> Result<(), StorageError> {
        self.claim_synced();
        let at = self.tail.buffer.len();
        self.tail.buffer.resize(at + FRAME_HEADER_BYTES, 0);
        self.tail.buffer.extend_from_slice(payload);
        self.seal(at, kind)?;
        Ok(())
    }

    /// Makes a record of what the buffer holds after `at`, where there is room for a header; in the next segment if
    /// there is no more room in this one, and in pieces if there is not enough in any.
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
    pub(super) fn append_record(&mut self, entries: &[Entry]) -> Result<usize, StorageError> {
        self.claim_synced();
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
}
