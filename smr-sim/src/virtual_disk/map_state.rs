//! An ordered map as the disk has it: what it holds, what of that a crash could lose, and how it can be damaged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smr::internals::storage::Key;

/// How many flushed writes can still be taken back by damage.
const HISTORY_WRITES_MAX: usize = 4096;

/// What a key maps to.
pub(crate) type Value = Arc<[u8]>;

/// Damage to a closed map, as sled shows it at the next open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapDamage {
    /// The file is cut off at its end: the newest writes, this many, never happened. Not reported.
    Shorter(usize),
    /// The file is cut off near its beginning: an empty map. Not reported.
    Emptied,
    /// The file is gone.
    Missing,
    /// Opening reports corruption, or panics.
    Unopenable,
    /// The value at this place in the order of keys (modulo their number) is reported as corrupt when it is read.
    Unreadable(usize),
    /// A bit of the value at this place comes back flipped. sled's own checksums rule this out; other engines may lack
    /// them.
    FlippedBit {
        /// Which value, counted from the last one backwards, modulo their number.
        value: usize,
        /// Which bit of it, modulo its length.
        bit: usize,
    },
}

/// A map as the disk has it.
#[derive(Clone, Default)]
pub(crate) struct MapState {
    /// With all writes.
    pub(crate) values: BTreeMap<Key, Value>,
    /// What the latest writes replaced, the newest at the back.
    replaced: VecDeque<(Key, Option<Value>)>,
    /// How many writes, the newest ones, are not flushed.
    unflushed: usize,
    pub(crate) unopenable: bool,
    pub(crate) unreadable: BTreeSet<Key>,
}

impl MapState {
    pub(crate) fn write(&mut self, key: &Key, value: Option<Value>) {
        let before = match value {
            Some(value) => self.values.insert(*key, value),
            None => self.values.remove(key),
        };
        self.unreadable.remove(key);
        self.replaced.push_back((*key, before));
        self.unflushed += 1;
    }

    pub(crate) fn flush(&mut self) {
        self.unflushed = 0;
        let too_many = self.replaced.len().saturating_sub(HISTORY_WRITES_MAX);
        self.replaced.drain(..too_many);
    }

    pub(crate) fn unflushed(&self) -> usize {
        self.unflushed
    }

    /// Takes back the newest writes.
    fn undo(&mut self, count: usize) {
        for _ in 0..count {
            let Some((key, before)) = self.replaced.pop_back() else { return };
            match before {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
        }
    }

    /// The map that is found after a crash that `kept` this many of the unflushed writes.
    pub(super) fn after_crash(&self, kept: usize) -> MapState {
        let mut after = self.clone();
        after.undo(self.unflushed.saturating_sub(kept));
        after.flush();
        after
    }

    pub(crate) fn damage(&mut self, damage: MapDamage) {
        match damage {
            MapDamage::Shorter(writes) => self.undo(writes),
            MapDamage::Emptied | MapDamage::Missing => *self = MapState::default(),
            MapDamage::Unopenable => self.unopenable = true,
            MapDamage::Unreadable(value) => {
                let key = self.nth(value);
                self.unreadable.extend(key);
            }
            MapDamage::FlippedBit { value, bit } => {
                let place = value.checked_rem(self.values.len()).map(|back| self.values.len() - 1 - back);
                if let Some(value) = place.and_then(|place| self.nth(place)).and_then(|key| self.values.get_mut(&key)) {
                    *value = flipped(value, bit);
                }
            }
        }
        self.unflushed = 0;
    }

    fn nth(&self, place: usize) -> Option<Key> {
        let place = place.checked_rem(self.values.len())?;
        self.values.keys().nth(place).copied()
    }
}

/// The value with a bit flipped: this one, modulo its length.
pub(crate) fn flipped(value: &[u8], bit: usize) -> Value {
    let mut bytes = value.to_vec();
    if let Some(bit) = bit.checked_rem(bytes.len() * 8) {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.into()
}
