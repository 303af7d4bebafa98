//! The record log: entries as chained records in an ordered map of bytes.
//!
//! The key of a value is the first index of its record and its part; so the entry with index i is in the record with
//! the greatest key not above i. The order of the writes makes every prefix of them a sound log:
//! - an append goes part by part to the end;
//! - a conflict truncation goes from the end backwards, then shortens the record that is hit, under its own key;
//! - a prefix truncation goes from the front, in slices of at most [`COMPACT_SLICE_RECORDS_MAX`] values.
//!
//! # Recovery
//! All values are read, in order, and verified as one chain. Records wholly under the snapshot are not: no one needs
//! them, they wait for the next slice. The predecessor's checksum in the first record that counts is taken on trust,
//! for its predecessor may be gone; the term of the entry before it is not, it has to be the snapshot's. A hole, a
//! falling term, a record of another owner or place, and anything unreadable that is not the very last record is
//! damage. The last record, if unreadable, is an interrupted write and is cut, unless the watermark says that it was
//! synced.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::Path;

use super::extent::Extent;
use super::healing::{Salvage, behind_snapshot};
use super::record::{self, Link, Record, Unreadable};
use super::watermark::SyncedWatermark;
use super::{ByteMap, Damage, LoadError, LogStore, StorageError};
use crate::codec;
use crate::entry::{Entry, EntryId, Index, Term};

/// How many values one slice of a prefix truncation removes at most: about a millisecond's work for sled.
pub const COMPACT_SLICE_RECORDS_MAX: usize = 256;

/// The log over an ordered map of bytes.
pub struct RecordLog {
    map: Box<dyn ByteMap>,
    identity: u64,
    /// Records that end at or before its start only wait to be removed.
    extent: Extent,
    /// All records in the map, in order.
    records: VecDeque<Held>,
    /// The checksum that the next record is chained to.
    checksum: u64,
    /// The fingerprint of `last`, if it is known.
    fingerprint: Option<u64>,
    dirty: bool,
}

/// A record in the map.
#[derive(Clone, Debug)]
struct Held {
    first: u64,
    last: u64,
    /// Its parts that are (still) there.
    parts: Range<u32>,
    checksum: u64,
}

/// A log that was read back.
pub struct Recovered<L = RecordLog> {
    /// The log, ready to be appended to.
    pub log: L,
    /// Its entries behind the snapshot.
    pub entries: Vec<Entry>,
    /// Whether they continue the snapshot. If not, [`LogStore::reset_to`] has to come next: an install was interrupted.
    pub fits: bool,
    /// What was repaired, a line each.
    pub notes: Vec<String>,
}

/// Checks that the entry that is marked as synced is there. `end` is the last of `entries`, or the snapshot's.
pub(super) fn confirm(
    place: &Path,
    entries: &[Entry],
    watermark: Option<SyncedWatermark>,
    end: EntryId,
) -> Result<(), Damage> {
    let Some(watermark) = watermark else { return Ok(()) };
    let Some(entry) = entries.iter().find(|entry| entry.id.index == watermark.last.index) else {
        return Err(Damage::new(
            place,
            format!("the log ends with {end}, though entry {} is marked as synced", watermark.last),
        ));
    };
    if entry.id != watermark.last || record::fingerprint(&codec::encode(entry)) != watermark.fingerprint {
        return Err(Damage::new(place, format!("entry {} is not the one that is marked as synced", entry.id)));
    }
    Ok(())
}

impl RecordLog {
    /// Reads the log back. `snapshot` is the last entry under the newest snapshot, `mark` what is known to have been
    /// synced. The map is changed only after everything was found in order.
    ///
    /// # Errors
    /// Damage, or fatal ones of the engine.
    pub fn recover(
        map: Box<dyn ByteMap>,
        identity: u64,
        snapshot: EntryId,
        watermark: Option<SyncedWatermark>,
    ) -> Result<Recovered, LoadError> {
        let scan = Scan::run(map.as_ref(), identity, snapshot.index.0)?;
        let damage = |what: String| Err(LoadError::Damage(Damage::new(map.place(), what)));
        // Nothing after the snapshot: whatever is left waits to be removed, also if an install had to empty the log.
        let covered = scan.last.is_none_or(|last| last.index <= snapshot.index);
        let end = scan.last.filter(|_| !covered).unwrap_or(snapshot);
        let watermark = watermark.filter(|watermark| watermark.last.index > snapshot.index);
        if let Some(torn) = &scan.torn {
            if torn.first > end.index.0 + 1 {
                return damage(format!("entries {} to {} are missing", end.index.next(), torn.first - 1));
            }
            if let Some(watermark) = watermark
                && watermark.last.index.0 >= torn.first
            {
                return damage(format!(
                    "the record at index {} is damaged ({}), though entry {} is marked as synced",
                    torn.first, torn.why, watermark.last
                ));
            }
        }
        // The log contradicts the snapshot at their seam. With entries in front of it that is a conflict which was not
        // removed yet: the snapshot is on the device before the log is changed for it. Without any, it is damage.
        let contradicts =
            scan.first.is_some_and(|(first, before)| first == snapshot.index.0 + 1 && before != snapshot.term);
        if let Some((first, before)) = scan.first {
            if first > snapshot.index.0 + 1 {
                return damage(format!(
                    "the log starts at index {first}, the newest snapshot ends with {snapshot}: entries are missing"
                ));
            }
            if contradicts && scan.records.front().is_some_and(|held| held.first == first) {
                return damage(format!(
                    "the log starts after a term {before} entry, the snapshot ends with {snapshot}"
                ));
            }
        }
        confirm(map.place(), &scan.entries, watermark, end)?;

        let Scan { entries, records, terms, checksum, fingerprint, torn, last, .. } = scan;
        let (extent, fits) = if covered {
            (Extent::empty(snapshot), true)
        } else {
            let extent = Extent::of(snapshot, end, terms);
            let fits = !contradicts && extent.term_at(snapshot.index) == Some(snapshot.term);
            (extent, fits)
        };
        let mut log = RecordLog {
            map,
            identity,
            extent,
            records,
            checksum: checksum.unwrap_or_else(|| anchor(snapshot)),
            fingerprint: fingerprint.filter(|_| last == Some(end)),
            dirty: false,
        };
        let mut notes = Vec::new();
        if let Some(torn) = torn {
            notes.push(format!(
                "{}: cut an interrupted write at index {} ({})",
                log.map.place().display(),
                torn.first,
                torn.why
            ));
            for part in torn.parts.rev() {
                log.map.remove(&record::key(torn.first, part))?;
            }
            log.map.flush()?;
        }
        Ok(Recovered { log, entries: if fits { entries } else { Vec::new() }, fits, notes })
    }

    fn remove_last_record(&mut self) -> Result<(), StorageError> {
        if let Some(held) = self.records.pop_back() {
            for part in held.parts.rev() {
                self.map.remove(&record::key(held.first, part))?;
            }
            self.dirty = true;
        }
        Ok(())
    }

    fn read(&self, held: &Held) -> Result<Record, StorageError> {
        let mut values = Vec::new();
        self.map
            .scan(&record::key(held.first, 0), &mut |key, value| {
                let inside = record::parse_key(key).0 == held.first;
                if inside {
                    values.push(value.to_vec());
                }
                inside
            })
            .map_err(|error| error.into_fatal(self.map.place()))?;
        record::read(self.identity, held.first, &values).map_err(|error| {
            StorageError::new(self.map.place(), "reading back", format!("record at index {}: {error:?}", held.first))
        })
    }

    fn put(&mut self, written: &record::Written) -> Result<(), StorageError> {
        for (part, value) in written.values.iter().enumerate() {
            self.map.insert(&record::key(written.first, part as u32), value)?;
        }
        self.dirty = true;
        self.records.push_back(Held {
            first: written.first,
            last: written.last,
            parts: 0..written.values.len() as u32,
            checksum: written.checksum,
        });
        self.checksum = written.checksum;
        self.fingerprint = Some(written.fingerprint);
        Ok(())
    }

    /// Takes the part at and after `index` out of the record that is now the last one.
    fn shorten_last_record(&mut self, index: Index) -> Result<(), StorageError> {
        let Some(held) = self.records.back().filter(|held| held.last >= index.0).cloned() else {
            return Ok(());
        };
        let mut record = self.read(&held)?;
        record.entries.retain(|entry| entry.id.index < index);
        let link = Link { identity: self.identity, previous: record.previous, previous_term: record.previous_term };
        self.records.pop_back();
        // What is left of a record that fit into one value fits into one value.
        for written in record::write(&record.entries, link) {
            self.put(&written)?;
        }
        Ok(())
    }
}

/// What the first record of a log is chained to. No one checks it: the record's predecessor may be gone for good
/// reasons.
fn anchor(start: EntryId) -> u64 {
    codec::checksum(&[b"start", &start.index.0.to_le_bytes(), &start.term.0.to_le_bytes()])
}

impl LogStore for RecordLog {
    fn adopt(&mut self, identity: u64) {
        assert!(self.records.is_empty(), "a log with {} records changes its owner", self.records.len());
        self.identity = identity;
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        if entries.is_empty() {
            return Ok(());
        }
        let previous_term = self.extent.last().term;
        self.extent.append(entries);
        let link = Link { identity: self.identity, previous: self.checksum, previous_term };
        for written in record::write(entries, link) {
            self.put(&written)?;
        }
        Ok(())
    }

    fn remove_from(&mut self, index: Index) -> Result<(), StorageError> {
        self.extent.remove_from(index);
        while self.records.back().is_some_and(|held| held.first >= index.0) {
            self.remove_last_record()?;
        }
        self.shorten_last_record(index)?;
        self.checksum = self.records.back().map_or_else(|| anchor(self.extent.start()), |held| held.checksum);
        self.fingerprint = None;
        Ok(())
    }

    fn remove_through(&mut self, index: Index) {
        self.extent.remove_through(index);
    }

    fn compact_slice(&mut self) -> Result<bool, StorageError> {
        let start = self.extent.start().index.0;
        for _ in 0..COMPACT_SLICE_RECORDS_MAX {
            let Some(held) = self.records.front_mut().filter(|held| held.last <= start) else {
                return Ok(false);
            };
            if let Some(part) = held.parts.next() {
                self.map.remove(&record::key(held.first, part))?;
                self.dirty = true;
            }
            if held.parts.is_empty() {
                self.records.pop_front();
            }
        }
        Ok(self.records.front().is_some_and(|held| held.last <= start))
    }

    fn reset_to(&mut self, start: EntryId) -> Result<(), StorageError> {
        // Records wholly under the new start may wait for a slice: at the next open the snapshot covers them.
        while self.records.back().is_some_and(|held| held.last > start.index.0) {
            self.remove_last_record()?;
        }
        self.extent = Extent::empty(start);
        self.checksum = anchor(start);
        self.fingerprint = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.dirty {
            self.map.flush()?;
            self.dirty = false;
        }
        Ok(())
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
        let position = self.records.partition_point(|held| held.first <= index.0);
        let held = position.checked_sub(1).map(|before| &self.records[before]);
        let held = held.unwrap_or_else(|| panic!("no record for {index}, log from {}", self.extent.start()));
        let record = self.read(held)?;
        let entry = record.entries.iter().find(|entry| entry.id.index == index);
        let entry = entry.unwrap_or_else(|| panic!("no entry {index} in the record at {}", held.first));
        let fingerprint = record::fingerprint(&codec::encode(entry));
        if is_last {
            self.fingerprint = Some(fingerprint);
        }
        Ok(fingerprint)
    }

    fn load(&self) -> Result<Vec<Entry>, LoadError> {
        let scan = Scan::run(self.map.as_ref(), self.identity, self.extent.start().index.0)?;
        if let Some(torn) = scan.torn {
            let what = format!("the record at index {} is damaged ({})", torn.first, torn.why);
            return Err(Damage::new(self.map.place(), what).into());
        }
        Ok(scan.entries)
    }
}

/// Whose records these are, as far as the values that verify say.
pub(crate) fn owners(map: &dyn ByteMap) -> Result<BTreeSet<u64>, LoadError> {
    let mut owners = BTreeSet::new();
    map.scan(&record::key(0, 0), &mut |_, value| {
        owners.extend(record::owner(value));
        true
    })?;
    Ok(owners)
}

/// What can still be read of a damaged map; nothing is changed. The entries are those of the records that form one
/// chain from the snapshot on, up to the first that does not.
///
/// # Errors
/// Those of the device, and `Newer`.
pub(crate) fn salvage(map: &dyn ByteMap, identity: u64, snapshot: EntryId) -> Result<Salvage, LoadError> {
    let mut records: Vec<(u64, Vec<Vec<u8>>)> = Vec::new();
    let scanned = map.scan(&record::key(0, 0), &mut |key, value| {
        let (first, part) = record::parse_key(key);
        match records.last_mut().filter(|(index, _)| *index == first) {
            Some((_, values)) => values.push(value.to_vec()),
            // Without its first part it is none.
            None if part == 0 => records.push((first, vec![value.to_vec()])),
            None => {}
        }
        true
    });
    match scanned {
        // Up to where it could be read.
        Ok(()) | Err(LoadError::Damage(_)) => {}
        Err(error) => return Err(error),
    }
    let mut salvage = Salvage::default();
    // The latest row of records that follow each other: the entry before it, the entries, and the checksum of the last
    // record.
    let mut row: Option<(EntryId, Vec<Entry>, u64)> = None;
    let mut is_closed = false;
    for (first, values) in records {
        let reaches =
            |(before, entries, _): &(EntryId, Vec<Entry>, u64)| entries.last().map_or(*before, |last| last.id);
        let record = match record::read(identity, first, &values) {
            Ok(record) => record,
            Err(Unreadable::Newer(found)) => {
                let supported = record::RECORD_VERSION;
                return Err(LoadError::Newer { file: map.place().to_owned(), found, supported });
            }
            Err(_) => {
                is_closed |= row.as_ref().is_some_and(|row| reaches(row).index > snapshot.index);
                row = row.filter(|_| is_closed);
                continue;
            }
        };
        record.entries.iter().for_each(|entry| salvage.saw(entry.id));
        if is_closed {
            continue;
        }
        let before = EntryId { index: Index(first).previous(), term: record.previous_term };
        match &mut row {
            Some(chain) if reaches(chain) == before && chain.2 == record.previous => {
                chain.1.extend(record.entries);
                chain.2 = record.checksum;
            }
            Some(chain) if reaches(chain).index > snapshot.index => is_closed = true,
            _ => row = Some((before, record.entries, record.checksum)),
        }
    }
    if let Some((before, entries, _)) = row {
        salvage.entries = behind_snapshot(snapshot, before, entries);
    }
    Ok(salvage)
}

/// One pass over all values.
struct Scan<'a> {
    map: &'a dyn ByteMap,
    identity: u64,
    /// Entries up to here are covered by a snapshot.
    covered: u64,
    /// The values of the record being collected, and its first index and parts.
    group: Option<Group>,
    records: VecDeque<Held>,
    entries: Vec<Entry>,
    terms: Vec<(u64, Term)>,
    /// The first index of the first verified record, and the term before it.
    first: Option<(u64, Term)>,
    /// The last entry of the last verified record.
    last: Option<EntryId>,
    checksum: Option<u64>,
    fingerprint: Option<u64>,
    torn: Option<TornRecord>,
}

struct Group {
    first: u64,
    parts: Vec<u32>,
    values: Vec<Vec<u8>>,
}

struct TornRecord {
    first: u64,
    parts: Range<u32>,
    why: String,
}

impl<'a> Scan<'a> {
    fn run(map: &'a dyn ByteMap, identity: u64, covered: u64) -> Result<Scan<'a>, LoadError> {
        let mut scan = Scan {
            map,
            identity,
            covered,
            group: None,
            records: VecDeque::new(),
            entries: Vec::new(),
            terms: Vec::new(),
            first: None,
            last: None,
            checksum: None,
            fingerprint: None,
            torn: None,
        };
        let mut failed = None;
        map.scan(&record::key(0, 0), &mut |key, value| {
            let (first, part) = record::parse_key(key);
            if scan.group.as_ref().is_some_and(|group| group.first != first)
                && let Err(error) = scan.close_group(Some(first))
            {
                failed = Some(error);
                return false;
            }
            let group = scan.group.get_or_insert_with(|| Group { first, parts: Vec::new(), values: Vec::new() });
            group.parts.push(part);
            group.values.push(value.to_vec());
            true
        })?;
        match failed {
            Some(error) => Err(error),
            None => {
                scan.close_group(None)?;
                Ok(scan)
            }
        }
    }

    fn damage(&self, what: String) -> Result<(), LoadError> {
        Err(Damage::new(self.map.place(), what).into())
    }

    /// All values of a record are there; `next` is the first index of the record after it.
    fn close_group(&mut self, next: Option<u64>) -> Result<(), LoadError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let first = group.first;
        if let Some(torn) = &self.torn {
            return self.damage(format!("the record at index {} is damaged ({})", torn.first, torn.why));
        }
        let (Some(low), Some(high)) = (group.parts.first().copied(), group.parts.last().copied()) else {
            return Ok(());
        };
        let parts = low..high.saturating_add(1);
        // Only a record in parts can lack its first one, and has exactly one entry: a prefix truncation was
        // interrupted.
        let beheaded = low > 0 && first <= self.covered;
        if beheaded || next.is_some_and(|next| next <= self.covered + 1) {
            let checksum = group.values.last().map_or(0, |value| record::stored_checksum(value));
            let last = if beheaded { first } else { next.map_or(first, |next| next - 1) };
            self.records.push_back(Held { first, last, parts, checksum });
            return Ok(());
        }
        if group.parts.iter().zip(0..).any(|(part, expected)| *part != expected) {
            return self.damage(format!("the record at index {first} lacks parts"));
        }
        match record::read(self.identity, first, &group.values) {
            Ok(record) => self.take(first, parts, record),
            Err(Unreadable::Torn(why)) => {
                self.torn = Some(TornRecord { first, parts, why });
                Ok(())
            }
            Err(Unreadable::Wrong(why)) => self.damage(format!("the record at index {first} is damaged ({why})")),
            Err(Unreadable::Foreign) => Err(Damage::foreign(self.map.place()).into()),
            Err(Unreadable::Newer(found)) => {
                Err(LoadError::Newer { file: self.map.place().to_owned(), found, supported: record::RECORD_VERSION })
            }
        }
    }

    fn take(&mut self, first: u64, parts: Range<u32>, record: Record) -> Result<(), LoadError> {
        if let Some(last) = self.last {
            if first != last.index.0 + 1 {
                return self.damage(format!("the record at index {first} follows entry {last}: a hole or an overlap"));
            }
            if self.checksum != Some(record.previous) || record.previous_term != last.term {
                return self.damage(format!("the record at index {first} does not follow the one before it"));
            }
        } else {
            self.first = Some((first, record.previous_term));
        }
        let Some(last) = record.entries.last().map(|entry| entry.id) else { return Ok(()) };
        for entry in &record.entries {
            if self.terms.last().is_none_or(|(_, term)| *term != entry.id.term) {
                self.terms.push((entry.id.index.0, entry.id.term));
            }
        }
        self.records.push_back(Held { first, last: last.index.0, parts, checksum: record.checksum });
        self.checksum = Some(record.checksum);
        self.fingerprint = Some(record.fingerprint);
        self.last = Some(last);
        let covered = self.covered;
        self.entries.extend(record.entries.into_iter().filter(|entry| entry.id.index.0 > covered));
        Ok(())
    }
}
