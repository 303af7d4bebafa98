//! Which slots the partition owns, and moves of slots that it takes part in: a part of the replicated state.
//!
//! A partition that never took part in a move has none of this: it owns what the map gave it when it was founded, and
//! says so at its listener ([`crate::backend`]). From its first move on every write and every read is judged here, in
//! the order of the log, so that a key has one owner at each moment, whatever clients, servers and managers know.
//! [`madkv_proto::slot_move`] has the steps.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use madkv_proto::slot_move::{Attempt, CHANGED_MAX, CHANGED_MAX_BYTES};
use madkv_proto::slot_set::SlotSet;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ownership {
    /// The epoch of the map by which it last changed.
    epoch: u64,
    owned: SlotSet,
    /// Whether slots have come or gone since the group was founded.
    has_changed: bool,
    outgoing: Option<Outgoing>,
    incoming: Option<Incoming>,
    /// The last move that has ended here: what is late of it, or of one before it, has no effect.
    ended: u64,
}

/// Slots on their way from here; or, released, those of which there are records here that are to be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    by: Attempt,
    slots: SlotSet,
    phase: Phase,
    /// Keys that were changed in this attempt, with the entries that did so last.
    #[serde(skip)]
    changed: OrdMap<Arc<[u8]>, u64>,
    /// How long these keys are together.
    #[serde(skip)]
    changed_bytes: usize,
    last_change: u64,
    /// What is to be dropped comes after this key.
    drop_after: Option<Vec<u8>>,
}

/// Slots on their way to here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Incoming {
    by: Attempt,
    slots: SlotSet,
    /// The number of the next piece.
    pieces: u64,
    /// Whether there may have been records of these slots before the first piece.
    is_stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Copying,
    Frozen,
    Released,
}

/// What a source has yet to drop.
pub(crate) struct ToDrop {
    /// The slots.
    pub(crate) slots: SlotSet,
    /// Records of keys up to this one are gone.
    pub(crate) after: Option<Vec<u8>>,
}

/// A step is not taken, for this reason.
pub(crate) type Refused = String;

/// What becomes of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Installation {
    /// It is to be installed.
    Next {
        /// It holds records of these slots.
        slots: SlotSet,
        /// Whether there may be others of them, from an attempt before.
        is_stale: bool,
    },
    /// It was, before.
    Known,
}

fn overtaken(what: &str, by: Attempt) -> Refused {
    format!("{what}: attempt {} of move {} is not under way here", by.number, by.id)
}

impl Ownership {
    /// Of a partition that owns these slots by the map of this epoch, before its first move.
    pub(crate) fn founding(owned: SlotSet, epoch: u64) -> Ownership {
        Ownership { epoch, owned, has_changed: false, outgoing: None, incoming: None, ended: 0 }
    }

    /// The epoch of the map by which it last changed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether slots have come or gone since the group was founded.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// What the partition answers reads of.
    pub(crate) fn owned(&self) -> &SlotSet {
        &self.owned
    }

    /// Whether there may be records of slots that are not owned.
    pub(crate) fn has_foreign_records(&self) -> bool {
        self.incoming.is_some() || self.outgoing.as_ref().is_some_and(|outgoing| outgoing.phase == Phase::Released)
    }

    /// Whether keys of this slot may be written.
    pub(crate) fn takes_writes(&self, slot: u16) -> bool {
        let is_frozen = |outgoing: &Outgoing| outgoing.phase == Phase::Frozen && outgoing.slots.contains(slot);
        self.owned.contains(slot) && !self.outgoing.as_ref().is_some_and(is_frozen)
    }

    /// Whether it is to be noted which keys of this slot change.
    pub(crate) fn notes_changes(&self, slot: u16) -> bool {
        let copies = |outgoing: &Outgoing| outgoing.phase == Phase::Copying && outgoing.slots.contains(slot);
        self.outgoing.as_ref().is_some_and(copies)
    }

    /// The entry at `index` changes this key, of a slot of which that is to be noted.
    pub(crate) fn note_change(&mut self, key: &[u8], index: u64) {
        let Some(outgoing) = &mut self.outgoing else { return };
        outgoing.last_change = index;
        outgoing.change(key, index);
        if outgoing.changed.len() >= CHANGED_MAX || outgoing.changed_bytes >= CHANGED_MAX_BYTES {
            outgoing.phase = Phase::Frozen;
        }
    }

    /// An attempt begins at the source.
    pub(crate) fn begin(&mut self, by: Attempt, slots: SlotSet) -> Result<(), Refused> {
        if by.id <= self.ended {
            return Err(overtaken("it has ended", by));
        }
        if let Some(outgoing) = &self.outgoing {
            let is_later = (by.id, by.number) > (outgoing.by.id, outgoing.by.number);
            if outgoing.by == by {
                return Ok(());
            }
            if !is_later || outgoing.phase == Phase::Released {
                return Err(overtaken("another one is under way", by));
            }
        }
        if !self.owned.contains_all(&slots) {
            return Err("the partition does not own these slots".to_owned());
        }
        self.outgoing = Some(Outgoing::new(by, slots));
        Ok(())
    }

    /// An attempt begins at the destination.
    pub(crate) fn accept(&mut self, by: Attempt, slots: SlotSet) -> Result<(), Refused> {
        if by.id <= self.ended {
            return Err(overtaken("it has ended", by));
        }
        if let Some(incoming) = &self.incoming {
            if incoming.by == by {
                return Ok(());
            }
            if (by.id, by.number) <= (incoming.by.id, incoming.by.number) {
                return Err(overtaken("another one is under way", by));
            }
        }
        if slots.without(&self.owned) != slots {
            return Err("the partition owns some of these slots already".to_owned());
        }
        let is_stale = self.has_foreign_records();
        self.incoming = Some(Incoming { by, slots, pieces: 0, is_stale });
        Ok(())
    }

    /// A piece comes to the destination.
    pub(crate) fn install(&mut self, by: Attempt, number: u64) -> Result<Installation, Refused> {
        let incoming = self.incoming.as_mut().filter(|incoming| incoming.by == by);
        let Some(incoming) = incoming else { return Err(overtaken("a piece", by)) };
        if number < incoming.pieces {
            return Ok(Installation::Known);
        }
        if number > incoming.pieces {
            return Err(format!("piece {number} before piece {}", incoming.pieces));
        }
        incoming.pieces += 1;
        Ok(Installation::Next { slots: incoming.slots.clone(), is_stale: incoming.is_stale })
    }

    /// No more writes to the slots at the source.
    pub(crate) fn freeze(&mut self, by: Attempt) -> Result<(), Refused> {
        let outgoing = self.outgoing.as_mut().filter(|outgoing| outgoing.by == by);
        let Some(outgoing) = outgoing else { return Err(overtaken("freeze", by)) };
        if outgoing.phase == Phase::Copying {
            outgoing.phase = Phase::Frozen;
        }
        Ok(())
    }

    /// The source gives the slots away.
    pub(crate) fn release(&mut self, by: Attempt, epoch: u64) -> Result<(), Refused> {
        if by.id <= self.ended {
            return Ok(());
        }
        let outgoing = self.outgoing.as_mut().filter(|outgoing| outgoing.by == by);
        let Some(outgoing) = outgoing else { return Err(overtaken("release", by)) };
        match outgoing.phase {
            Phase::Copying => return Err("release before freeze".to_owned()),
            Phase::Frozen => {}
            Phase::Released => return Ok(()),
        }
        outgoing.phase = Phase::Released;
        (outgoing.changed, outgoing.changed_bytes) = (OrdMap::new(), 0);
        let slots = outgoing.slots.clone();
        self.owned = self.owned.without(&slots);
        (self.epoch, self.has_changed) = (epoch, true);
        Ok(())
    }

    /// The destination owns the slots.
    pub(crate) fn own(&mut self, by: Attempt, pieces: u64, epoch: u64) -> Result<(), Refused> {
        if by.id <= self.ended {
            return Ok(());
        }
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.by == by && incoming.pieces == pieces) else {
            return Err(overtaken("own", by));
        };
        self.owned = self.owned.with(&incoming.slots);
        (self.epoch, self.has_changed, self.ended) = (epoch, true, by.id);
        Ok(())
    }

    /// A move is over, whatever became of it: the partition owns these slots by the map of this epoch. Returns what is
    /// to be dropped of the slots that were on their way; `None` if all of it is gone.
    ///
    /// One that is late does nothing: what it says of the map was overtaken by a later move, even where none that has
    /// ended here tells so.
    pub(crate) fn end(&mut self, by: Attempt, slots: &SlotSet, owned: SlotSet, epoch: u64) -> Option<ToDrop> {
        if by.id > self.ended && epoch >= self.epoch && !self.takes_part_after(by) {
            if self.owned != owned {
                (self.owned, self.epoch, self.has_changed) = (owned, self.epoch.max(epoch), true);
            }
            self.ended = by.id;
            // Also what is left of a move before: a group that was set back may know of one.
            let left = self.outgoing.take().map(|outgoing| outgoing.slots);
            let left = left.into_iter().chain(self.incoming.take().map(|incoming| incoming.slots));
            let foreign = left.fold(slots.clone(), |all, more| all.with(&more)).without(&self.owned);
            if !foreign.is_empty() {
                self.outgoing = Some(Outgoing { phase: Phase::Released, ..Outgoing::new(by, foreign) });
            }
        }
        let dropping = |outgoing: &&Outgoing| outgoing.by.id == by.id && outgoing.phase == Phase::Released;
        self.outgoing.as_ref().filter(dropping).map(Outgoing::to_drop)
    }

    /// Whether there is something here of a move after this one.
    fn takes_part_after(&self, by: Attempt) -> bool {
        let outgoing = self.outgoing.as_ref().map(|outgoing| outgoing.by.id);
        let incoming = self.incoming.as_ref().map(|incoming| incoming.by.id);
        outgoing.max(incoming).is_some_and(|id| id > by.id)
    }

    /// What to drop at the source; `None` if all of it is gone.
    pub(crate) fn to_drop(&self, by: Attempt) -> Result<Option<ToDrop>, Refused> {
        if by.id <= self.ended {
            return Ok(None);
        }
        match &self.outgoing {
            Some(outgoing) if outgoing.by == by && outgoing.phase == Phase::Released => Ok(Some(outgoing.to_drop())),
            _ => Err(overtaken("drop", by)),
        }
    }

    /// All is dropped up to this key; everything, if there is none.
    pub(crate) fn dropped(&mut self, up_to: Option<Vec<u8>>) {
        match (&mut self.outgoing, up_to) {
            (Some(outgoing), Some(up_to)) => outgoing.drop_after = Some(up_to),
            (outgoing, _) => {
                self.ended = outgoing.take().map_or(self.ended, |outgoing| outgoing.by.id);
            }
        }
    }

    /// The move of this attempt, while its records can be read here.
    pub(crate) fn exported(&self, by: Attempt) -> Result<&Outgoing, Refused> {
        let outgoing = self.outgoing.as_ref().filter(|outgoing| outgoing.by == by);
        outgoing.filter(|outgoing| outgoing.phase != Phase::Released).ok_or_else(|| overtaken("export", by))
    }

    /// Changed keys, with the entries that did so last, for an image.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.outgoing.iter().flat_map(|outgoing| outgoing.changed.iter().map(|(key, index)| (&**key, *index)))
    }

    /// A changed key, from an image. Whether there can be one.
    pub(crate) fn restore_change(&mut self, key: &[u8], index: u64) -> bool {
        self.outgoing.as_mut().is_some_and(|outgoing| outgoing.change(key, index))
    }
}

impl Outgoing {
    fn new(by: Attempt, slots: SlotSet) -> Outgoing {
        let (changed, phase) = (OrdMap::new(), Phase::Copying);
        Outgoing { by, slots, phase, changed, changed_bytes: 0, last_change: 0, drop_after: None }
    }

    fn to_drop(&self) -> ToDrop {
        ToDrop { slots: self.slots.clone(), after: self.drop_after.clone() }
    }

    /// Whether the key is new here.
    fn change(&mut self, key: &[u8], index: u64) -> bool {
        let is_new = self.changed.insert(key.into(), index).is_none();
        self.changed_bytes += if is_new { key.len() } else { 0 };
        is_new
    }

    /// The slots.
    pub(crate) fn slots(&self) -> &SlotSet {
        &self.slots
    }

    /// The last entry that changed one of their keys in this attempt; 0 if none has.
    pub(crate) fn last_change(&self) -> u64 {
        self.last_change
    }

    /// Keys that were changed after this entry, from the one after `after` on.
    pub(crate) fn changed_since<'o>(
        &'o self,
        since: u64,
        after: Option<&'o [u8]>,
    ) -> impl Iterator<Item = &'o [u8]> + 'o {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.changed.range::<_, [u8]>((from, Bound::Unbounded));
        range.filter(move |(_, index)| **index > since).map(|(key, _)| &**key)
    }
}

#[cfg(test)]
mod tests {
    use smr::codec;

    use super::*;

    fn by(number: u64) -> Attempt {
        Attempt { id: 1, number }
    }

    /// As a replica has it that goes on from an image.
    fn restored(ownership: &Ownership) -> Ownership {
        let mut restored: Ownership = codec::decode(&codec::encode(ownership)).unwrap();
        for (key, index) in ownership.changed() {
            assert!(restored.restore_change(key, index));
        }
        restored
    }

    // covers G10
    #[test]
    fn long_keys_that_change_freeze_their_slots_before_they_fill_the_memory() {
        const KEY_BYTES: usize = 1 << 20;
        let all = SlotSet::range(0, 10);
        let mut source = Ownership::founding(all.clone(), 1);
        source.begin(by(1), all).unwrap();
        let keys = (CHANGED_MAX_BYTES / KEY_BYTES) as u64;
        for number in 0..keys {
            assert!(source.takes_writes(3) && source.notes_changes(3), "after {number} keys");
            let key = [&number.to_be_bytes()[..], &[0; KEY_BYTES - 8]].concat();
            source.note_change(&key, 2 * number + 1);
            source.note_change(&key, 2 * number + 2);
            if number + 2 == keys {
                source = restored(&source);
            }
        }
        assert!(!source.takes_writes(3) && !source.notes_changes(3));
        source.release(by(1), 2).unwrap();
        assert_eq!(source.changed().count(), 0);
    }

    #[test]
    fn records_are_looked_for_that_are_not_in_a_piece_only_where_an_attempt_before_may_have_left_some() {
        let slots = SlotSet::range(0, 10);
        let mut destination = Ownership::founding(SlotSet::default(), 1);
        for (number, is_stale) in [(1, false), (2, true), (3, true)] {
            destination.accept(by(number), slots.clone()).unwrap();
            destination = restored(&destination);
            let next = Installation::Next { slots: slots.clone(), is_stale };
            assert_eq!(destination.install(by(number), 0), Ok(next), "attempt {number}");
        }
    }
}
