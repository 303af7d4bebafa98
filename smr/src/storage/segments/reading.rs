//! Reading the log: all of it at a start, which then says that it was there, and later one record or the other.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::{FRAMES_OFFSET, Header, Kind, SyncedClaim};
use super::pool::{self, Found, Pool, segment_path};
use super::replay::Replay;
use super::writing::Tail;
use super::{Held, Place, Segment, SegmentLog};
use crate::disk::{Disk, read_fully};
use crate::entry::{Entry, EntryId, Index, Term};
use crate::storage::extent::Extent;
use crate::storage::record_log::{Recovered, confirm};
use crate::storage::watermark::SyncedWatermark;
use crate::storage::{Damage, LoadError, LogStore, StorageError};

impl SegmentLog {
    /// Reads the log back, or makes an empty one. `snapshot` and `mark` as in
    /// [`crate::storage::record_log::RecordLog::recover`]; without a watermark nothing was ever confirmed.
    ///
    /// # Errors
    /// Damage, or fatal ones of the device.
    pub(crate) fn recover(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: u64,
        snapshot: EntryId,
        watermark: Option<SyncedWatermark>,
    ) -> Result<Recovered<SegmentLog>, LoadError> {
        let found = pool::find(disk.as_ref(), directory)?;
        let Some(top) = found.begun.keys().next_back().copied() else {
            if let Some((number, what)) = found.damaged.iter().next() {
                return Err(Damage::new(&segment_path(directory, *number), what).into());
            }
            if watermark.is_some() {
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
        check_synced(&last, &found.begun[&top].0, &bytes, replay.end)?;

        let end = replay.last();
        if replay.base.index > snapshot.index {
            let what = format!("the log starts after entry {}, the newest snapshot ends with {snapshot}", replay.base);
            return Err(Damage::new(&last, format!("{what}: entries are missing")).into());
        }
        let is_covered = end.index <= snapshot.index;
        // The log says something else than the snapshot at their seam. With entries in front of it that is a conflict
        // which was not removed yet: the snapshot is on the device before the log is changed for it. Without any, it is
        // damage.
        let before = snapshot.index.0 - replay.base.index.0;
        let at_seam = match before.checked_sub(1) {
            None => replay.base,
            Some(place) => replay.entries.get(place as usize).map_or(end, |entry| entry.id),
        };
        let contradicts = !is_covered && at_seam.term != snapshot.term;
        if contradicts && before == 0 && replay.is_rebased {
            let what = format!("the log starts after entry {at_seam}, the snapshot ends with {snapshot}");
            return Err(Damage::new(&last, what).into());
        }
        let interrupted = replay.is_interrupted();
        let Replay { mut entries, records, fingerprint, checksum, end: end_offset, opened, .. } = replay;
        entries.retain(|entry| entry.id.index > snapshot.index);
        let present = entries.last().map_or(snapshot, |entry| entry.id);
        confirm(&last, &entries, watermark.filter(|watermark| watermark.last.index > snapshot.index), present)?;

        // Everything is in order; only now anything is written.
        let mut buffer = bytes;
        buffer.truncate(end_offset as usize);
        // The frames are what their checksums say. The header was checked when it was read before, so it is written as
        // it was then.
        let (header, _) = found.begun[&top].0.encode();
        buffer[..FRAMES_OFFSET].fill(0);
        buffer[..header.len()].copy_from_slice(&header);
        let mut log = SegmentLog {
            pool: Pool::new(disk, directory, prepared.chain(dead)),
            identity,
            extent: Extent::empty(snapshot),
            records,
            segments,
            // All of it is written again: what was read may be in the cache alone, and clean there.
            tail: Tail::over(buffer, checksum),
            fingerprint,
        };
        // The header of a segment that has to be begun names the last entry of the journal.
        log.extent = Extent::empty(end);
        log.write_record(Kind::Opened, &(opened + 1).to_le_bytes())?;
        if is_covered && end != snapshot {
            // The next entry is the one after the snapshot, so the journal has to say that this is where it goes on.
            log.reset_to(snapshot)?;
        } else if !contradicts {
            log.extent = Extent::empty(snapshot);
            log.extent.append(&entries);
            log.forget_records();
        }
        log.flush()?;
        let notes = interrupted.then(|| format!("{}: cut an interrupted write", last.display()));
        if contradicts {
            // Emptied by the caller, who has to lower the watermark before.
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
        let tail = Tail::over(Vec::new(), 0);
        let extent = Extent::empty(EntryId::ZERO);
        let (records, segments) = (VecDeque::new(), VecDeque::new());
        let mut log = SegmentLog { pool, identity, extent, records, segments, tail, fingerprint: None };
        log.begin_segment(number, file, false);
        Ok(log)
    }

    /// Reads one record of entries back from its segments.
    pub(super) fn read(&self, held: &Held) -> Result<Vec<Entry>, StorageError> {
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

/// The chain must not end before what a later write knew to be synced.
fn check_synced(path: &Path, header: &Header, bytes: &[u8], end: u64) -> Result<(), Damage> {
    let claim = SyncedClaim::furthest(bytes, end as usize, header).filter(|claim| claim.end > end);
    claim.map_or(Ok(()), |SyncedClaim { end: synced, last, .. }| {
        let what = format!("damaged at byte {end}, though it was synced up to byte {synced}, with entry {last}");
        Err(Damage::new(path, what))
    })
}

/// The content of a segment; of the last one with what waits in the buffer.
pub(super) fn read_segment(segment: &Segment, tail: Option<&Tail>) -> io::Result<Vec<u8>> {
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
            return Err(Damage::foreign(&segment_path(directory, lowest)).into());
        }
        if header.is_readable_from(snapshot.index) {
            return Ok(lowest);
        }
        lowest -= 1;
    }
    let base = found.begun.get(&(lowest + 1)).map_or(EntryId::ZERO, |(header, _)| header.base);
    let why = found.damaged.get(&lowest).map_or("missing", String::as_str);
    let what = format!(
        "{why}; the log after it starts with entry {}, the newest snapshot ends with {snapshot}",
        base.index.next()
    );
    damage(lowest, &what)
}

/// Plays the segments; also gives the content of the last one.
pub(super) fn play(
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
