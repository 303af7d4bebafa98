//! Sets of slots, as ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::slots::SLOTS;

/// The most ranges of one set: twice as many ends as a bit for each slot would take.
pub const RANGES_MAX: usize = SLOTS as usize / 2;
/// Bytes of a range, as [`SlotSet::to_bytes`] writes it.
const RANGE_BYTES: usize = 4;

/// A set of slots: ranges in order that neither touch nor overlap. What comes from outside may be none
/// ([`SlotSet::is_sound`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(Vec<(u16, u16)>);

impl SlotSet {
    /// The slots from `first` to the one before `end`.
    pub fn range(first: u16, end: u16) -> SlotSet {
        if first < end { SlotSet(vec![(first, end)]) } else { SlotSet::default() }
    }

    /// These ranges, as they are: first slot, and the slot after the last.
    pub fn from_ranges(ranges: Vec<(u16, u16)>) -> SlotSet {
        SlotSet(ranges)
    }

    /// The ranges: first slot, and the slot after the last.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether these are ranges of slots that exist, in order, none empty, and none next to another.
    pub fn is_sound(&self) -> bool {
        self.0.iter().all(|&(first, end)| first < end && end <= SLOTS)
            && self.0.windows(2).all(|two| two[0].1 < two[1].0)
    }

    /// Whether there is no slot in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many slots are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|&(first, end)| usize::from(end.saturating_sub(first))).sum()
    }

    /// Whether `slot` is in it.
    pub fn contains(&self, slot: u16) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= slot);
        after.checked_sub(1).is_some_and(|place| slot < self.0[place].1)
    }

    /// Whether all slots of `other` are in it.
    pub fn contains_all(&self, other: &SlotSet) -> bool {
        // Ranges do not touch, so each of the other lies within one of these.
        let is_inside = |&(first, end): &(u16, u16)| {
            let after = self.0.partition_point(|&(own, _)| own <= first);
            after.checked_sub(1).is_some_and(|place| end <= self.0[place].1)
        };
        other.0.iter().all(is_inside)
    }

    /// What is in one of them.
    pub fn with(&self, other: &SlotSet) -> SlotSet {
        self.combined(other, |here, there| here || there)
    }

    /// What is in this one and not in the other.
    pub fn without(&self, other: &SlotSet) -> SlotSet {
        self.combined(other, |here, there| here && !there)
    }

    fn combined(&self, other: &SlotSet, is_in: impl Fn(bool, bool) -> bool) -> SlotSet {
        // Between two neighbours of these nothing changes in either.
        let mut ends: Vec<u16> = self.0.iter().chain(&other.0).flat_map(|&(first, end)| [first, end]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for two in ends.windows(2).filter(|two| is_in(self.contains(two[0]), other.contains(two[0]))) {
            match ranges.last_mut() {
                Some((_, end)) if *end == two[0] => *end = two[1],
                _ => ranges.push((two[0], two[1])),
            }
        }
        SlotSet(ranges)
    }

    /// As bytes: for each range its first slot and the one after its last, u16, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(first, end)| [first.to_le_bytes(), end.to_le_bytes()].concat()).collect()
    }

    /// From bytes; `None` if they are no sound set.
    pub fn from_bytes(bytes: &[u8]) -> Option<SlotSet> {
        if !bytes.len().is_multiple_of(RANGE_BYTES) || bytes.len() / RANGE_BYTES > RANGES_MAX {
            return None;
        }
        let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let ranges = bytes.chunks_exact(RANGE_BYTES).map(|range| (number(&range[..2]), number(&range[2..])));
        let set = SlotSet(ranges.collect());
        set.is_sound().then_some(set)
    }
}

/// As operators write them, both ends included: `0-99,200`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (number, &(first, end)) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            match end.saturating_sub(1) {
                last if last == first => write!(f, "{comma}{first}")?,
                last => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(slots: &BTreeSet<u16>) -> SlotSet {
        slots.iter().fold(SlotSet::default(), |set, &slot| set.with(&SlotSet::range(slot, slot + 1)))
    }

    fn few() -> impl Strategy<Value = BTreeSet<u16>> {
        let slot = prop_oneof![4 => 0u16..12, 1 => SLOTS - 3..SLOTS];
        proptest::collection::btree_set(slot, 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn operations_are_those_of_sets(one in few(), other in few()) {
            let (left, right) = (of(&one), of(&other));
            prop_assert!(left.is_sound());
            prop_assert_eq!(left.len(), one.len());
            prop_assert_eq!(left.with(&right), of(&one.union(&other).copied().collect()));
            prop_assert_eq!(left.without(&right), of(&one.difference(&other).copied().collect()));
            prop_assert_eq!(left.contains_all(&right), one.is_superset(&other));
            prop_assert_eq!(SlotSet::from_bytes(&left.to_bytes()), Some(left.clone()));
            for slot in (0..13).chain(SLOTS - 4..=SLOTS) {
                prop_assert_eq!(left.contains(slot), one.contains(&slot));
            }
        }

        // covers B1
        #[test]
        fn from_bytes_any_bytes_sound_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some(set) = SlotSet::from_bytes(&bytes) {
                prop_assert!(set.is_sound());
                prop_assert_eq!(set.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn display_names_both_ends() {
        let set = SlotSet::range(0, 100).with(&SlotSet::range(200, 201));
        assert_eq!((set.to_string(), SlotSet::default().to_string()), ("0-99,200".to_owned(), "none".to_owned()));
    }
}
