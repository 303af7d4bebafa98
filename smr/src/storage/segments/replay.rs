//! Reading segments back: the journal's records are played one after the other, and what they leave is the log.

use std::collections::VecDeque;
use std::path::Path;

use super::super::Damage;
use super::super::record;
use super::format::{self, FIRST_PIECE, FRAMES_OFFSET, Header, Kind, LAST_PIECE, SyncedClaim, u64_at};
use super::{APPEND_HEADER_BYTES, Held, Place};
use crate::entry::{Entry, EntryId, Index, Term};

/// What the records so far have made of the log.
pub(super) struct Replay {
    /// The entry before the first of `entries`.
    pub(super) base: EntryId,
    /// Whether nothing before `base` is there: the log was begun, or emptied, after it.
    pub(super) is_rebased: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) records: VecDeque<Held>,
    /// The fingerprint of the last entry, if it is known.
    pub(super) fingerprint: Option<u64>,
    /// The checksum of the last frame.
    pub(super) checksum: u64,
    /// Where the chain ends in the last segment.
    pub(super) end: u64,
    /// How often the log was opened.
    pub(super) opened: u64,
    /// Pieces of a record whose last one has not come yet.
    pieces: Option<(Kind, Place, Vec<u8>)>,
    /// The record of a removal went below `base`: the term there is not known.
    pub(super) is_base_term_known: bool,
}

impl Replay {
    /// Before a segment that was begun after this entry.
    pub(super) fn new(base: EntryId, is_rebased: bool) -> Replay {
        Replay {
            base,
            is_rebased,
            entries: Vec::new(),
            records: VecDeque::new(),
            fingerprint: None,
            checksum: 0,
            end: 0,
            opened: 0,
            pieces: None,
            is_base_term_known: true,
        }
    }

    pub(super) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Whether the segment with this header was begun where the chain has got to.
    pub(super) fn is_followed_by(&self, header: &Header) -> bool {
        self.checksum == header.seed
    }

    /// Whether the last record is incomplete.
    pub(super) fn is_interrupted(&self) -> bool {
        self.pieces.is_some()
    }

    /// Plays a segment, up to the end of the chain in it.
    pub(super) fn play(&mut self, path: &Path, header: &Header, bytes: &[u8]) -> Result<(), Damage> {
        let place = Place { segment: header.number, offset: FRAMES_OFFSET as u64, previous: header.encode().1 };
        self.play_from(path, place, bytes, None)
    }

    /// Plays what stands in a segment from `place` on: up to the end of the chain, or of the record that entry `until`
    /// is in.
    pub(super) fn play_from(
        &mut self,
        path: &Path,
        place: Place,
        bytes: &[u8],
        until: Option<u64>,
    ) -> Result<(), Damage> {
        self.checksum = place.previous;
        let mut offset = place.offset as usize;
        while let Some(frame) = bytes.get(offset..).and_then(|rest| format::parse(rest, self.checksum)) {
            let place = Place { offset: offset as u64, previous: self.checksum, ..place };
            let damaged = |what: String| Damage::new(path, format!("the record at byte {offset}: {what}"));
            let Some(kind) = frame.kind else { return Err(damaged("an unknown kind".to_owned())) };
            self.checksum = frame.checksum;
            if frame.pieces & FIRST_PIECE != 0 {
                // An interrupted record is never gone on with: the next start begins one of its own.
                if self.pieces.take().is_some() && kind != Kind::Opened {
                    return Err(damaged("the one before it has no end".to_owned()));
                }
                self.pieces = Some((kind, place, Vec::new()));
            }
            match &mut self.pieces {
                Some((begun, _, payload)) if *begun == kind => payload.extend_from_slice(frame.payload),
                _ => return Err(damaged("a piece of nothing".to_owned())),
            }
            if frame.pieces & LAST_PIECE != 0
                && let Some((_, place, payload)) = self.pieces.take()
            {
                self.record(kind, place, &payload).map_err(damaged)?;
            }
            offset += frame.len();
            if until.is_some_and(|until| self.last().index.0 >= until) {
                break;
            }
        }
        self.end = offset as u64;
        Ok(())
    }

    fn record(&mut self, kind: Kind, place: Place, payload: &[u8]) -> Result<(), String> {
        let length = match kind {
            Kind::Append => payload.len().max(APPEND_HEADER_BYTES),
            Kind::RemoveFrom | Kind::Opened => 8,
            Kind::Reset => 16,
            Kind::Synced => SyncedClaim::BYTES,
        };
        if payload.len() != length {
            return Err(format!("{} bytes of {kind:?}", payload.len()));
        }
        match kind {
            Kind::Append => self.append(place, payload),
            Kind::RemoveFrom => self.remove_from(u64_at(payload, 0)),
            Kind::Opened => {
                self.opened = u64_at(payload, 0);
                Ok(())
            }
            // Says nothing of the log itself.
            Kind::Synced => Ok(()),
            Kind::Reset => {
                let base = EntryId::new(u64_at(payload, 0), u64_at(payload, 8));
                *self = Replay { base, is_rebased: true, ..self.emptied() };
                Ok(())
            }
        }
    }

    /// The same place in the journal, and no entries.
    fn emptied(&self) -> Replay {
        Replay {
            checksum: self.checksum,
            end: self.end,
            opened: self.opened,
            ..Replay::new(self.base, self.is_rebased)
        }
    }

    fn append(&mut self, place: Place, payload: &[u8]) -> Result<(), String> {
        let (first, before) = (u64_at(payload, 0), Term(u64_at(payload, 8)));
        let count = u32::from_le_bytes([payload[16], payload[17], payload[18], payload[19]]) as usize;
        if !self.is_base_term_known && self.entries.is_empty() {
            self.base.term = before;
            self.is_base_term_known = true;
        }
        let last = self.last();
        if first != last.index.0 + 1 || before != last.term {
            return Err(format!("entry {first}, behind one of term {before}, follows {last}"));
        }
        let (entries, fingerprint) = record::read_entries(first, count, &payload[APPEND_HEADER_BYTES..])?;
        if let Some(entry) = entries.first().filter(|entry| entry.id.term < before) {
            return Err(format!("entry {} follows {last}", entry.id));
        }
        self.entries.extend(entries);
        self.records.push_back(Held { first, last: self.last().index.0, place });
        self.fingerprint = Some(fingerprint);
        Ok(())
    }

    fn remove_from(&mut self, index: u64) -> Result<(), String> {
        let last = self.last();
        if index == 0 || index > last.index.0 {
            return Err(format!("removes entry {index}, the last one is {last}"));
        }
        self.fingerprint = None;
        cut(&mut self.records, index);
        match (index - 1).checked_sub(self.base.index.0) {
            Some(kept) => self.entries.truncate(kept as usize),
            None => {
                self.entries.clear();
                self.base = EntryId { index: Index(index - 1), term: Term::ZERO };
                self.is_base_term_known = false;
            }
        }
        Ok(())
    }
}

/// Takes the entries at and behind `index` out of the list of records.
pub(super) fn cut(records: &mut VecDeque<Held>, index: u64) {
    while records.back().is_some_and(|held| held.first >= index) {
        records.pop_back();
    }
    if let Some(held) = records.back_mut() {
        held.last = held.last.min(index - 1);
    }
}
