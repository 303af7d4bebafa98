//! A persistent ordered map of byte strings whose records are packed: neighbours share one allocation, a *leaf*.
//!
//! A copy of the whole map costs as much as a copy of a pointer, and shares everything with the original until one of
//! them changes; then a leaf is copied at a time. A record of its own allocation, with its place in a tree, costs about
//! 60 bytes more than its bytes; here it is 6 bytes and a share of its leaf, and a map that is read from a file is
//! built by tens of thousands of insertions instead of a million.
//!
//! A leaf is known by its *bound*, a byte string that none of its keys lies below and that lies above all keys of the
//! leaf before. The first leaf's bound is empty, so every key has a leaf that it belongs to.
//!
//! A record too large for a leaf has one of its own. Its neighbours come and go in the leaves beside it, and it is not
//! copied for them.

use std::ops::{Bound, Range};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};

/// A leaf that grows beyond this many bytes is split, unless it is a single record. An insertion copies a leaf, so not
/// much more; each leaf costs about 140 bytes beside its records, so not much less.
const LEAF_MAX_BYTES: usize = 2 << 10;
/// A leaf that shrinks below this is joined with a neighbour, if together they are at most half as large as a leaf may
/// be.
const LEAF_MIN_BYTES: usize = LEAF_MAX_BYTES / 4;
/// What stands before a record's key: the key's length, u16, and the value's, u32, both little endian.
const HEADER_BYTES: usize = 6;

const _: () = assert!(KEY_MAX_BYTES <= u16::MAX as usize && VALUE_MAX_BYTES <= u32::MAX as usize);

/// The map. Keys and values must be within the limits of `madkv_proto`.
#[derive(Default)]
pub(crate) struct Records {
    leaves: OrdMap<Arc<[u8]>, Leaf>,
    len: usize,
    /// Where a leaf is put together, so that it is allocated once, at its own size.
    scratch: Vec<u8>,
}

/// Whether a record may be put in.
pub(crate) fn within_limits(key: &[u8], value: &[u8]) -> bool {
    key.len() <= KEY_MAX_BYTES && value.len() <= VALUE_MAX_BYTES
}

/// A record that is new or has another value, or the key of one that is gone.
pub(crate) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// Records in the order of their keys, one after the other.
#[derive(Clone, PartialEq, Eq)]
struct Leaf(Arc<[u8]>);

impl Leaf {
    fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }

    /// Whether it holds a single record, one too large for a leaf.
    fn is_one_huge_record(&self) -> bool {
        self.0.len() > LEAF_MAX_BYTES && self.iter().nth(1).is_none()
    }

    /// Where the record of this key stands, or where it would have to.
    fn find(&self, key: &[u8]) -> Result<Range<usize>, usize> {
        let mut start = 0;
        for (found, value) in self.iter() {
            let end = start + HEADER_BYTES + found.len() + value.len();
            match found.cmp(key) {
                std::cmp::Ordering::Less => start = end,
                std::cmp::Ordering::Equal => return Ok(start..end),
                std::cmp::Ordering::Greater => break,
            }
        }
        Err(start)
    }
}

/// The shortest bound between two neighbouring keys: above the one, not above the other. A long key need not lie in
/// memory twice.
fn separator(before: &[u8], key: &[u8]) -> Arc<[u8]> {
    let common = before.iter().zip(key).take_while(|(left, right)| left == right).count();
    Arc::from(&key[..key.len().min(common + 1)])
}

/// The records of a leaf, or of what is left of it.
struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (header, rest) = self.0.split_first_chunk::<HEADER_BYTES>()?;
        let key_len = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let value_len = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
        let (key, rest) = rest.split_at(key_len);
        let (value, rest) = rest.split_at(value_len);
        self.0 = rest;
        Some((key, value))
    }
}

fn push(leaf: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let lengths = (u16::try_from(key.len()), u32::try_from(value.len()));
    let (Ok(key_len), Ok(value_len)) = lengths else {
        panic!("a record of {} and {} bytes passed", key.len(), value.len())
    };
    leaf.extend_from_slice(&key_len.to_le_bytes());
    leaf.extend_from_slice(&value_len.to_le_bytes());
    leaf.extend_from_slice(key);
    leaf.extend_from_slice(value);
}

impl Clone for Records {
    fn clone(&self) -> Records {
        Records { leaves: self.leaves.clone(), len: self.len, scratch: Vec::new() }
    }
}

impl Records {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, leaf) = self.leaves.get_prev(key)?;
        leaf.iter().take_while(|(found, _)| *found <= key).find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The records from this key on, in order.
    pub(crate) fn starting<'a>(&'a self, from: Bound<&'a [u8]>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let key = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let first = self.leaves.get_prev(key).map_or(&[][..], |(bound, _)| bound);
        let leaves = self.leaves.range::<_, [u8]>((Bound::Included(first), Bound::Unbounded));
        leaves.flat_map(|(_, leaf)| leaf.iter()).skip_while(move |(key, _)| match from {
            Bound::Included(from) => *key < from,
            Bound::Excluded(from) => *key <= from,
            Bound::Unbounded => false,
        })
    }

    /// What is to be done to `base`, an earlier copy, to get this map; in the order of keys. Looks at the leaves alone
    /// that the two do not share.
    pub(crate) fn changes_since<'a>(&'a self, base: &'a Records) -> Vec<Change<'a>> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for item in base.leaves.diff(&self.leaves) {
            match item {
                DiffItem::Add(_, leaf) => after.push(leaf),
                DiffItem::Remove(_, leaf) => before.push(leaf),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    before.push(old);
                    after.push(new);
                }
            }
        }
        // A record in a leaf that both have is in no other one of either: so these are all that may differ.
        let mut before = before.into_iter().flat_map(Leaf::iter).peekable();
        let mut changes = Vec::new();
        for (key, value) in after.into_iter().flat_map(Leaf::iter) {
            while let Some((gone, _)) = before.next_if(|(old, _)| *old < key) {
                changes.push((gone, None));
            }
            let old = before.next_if(|(old, _)| *old == key);
            if old.is_none_or(|(_, old)| old != value) {
                changes.push((key, Some(value)));
            }
        }
        changes.extend(before.map(|(gone, _)| (gone, None)));
        changes
    }

    /// Puts a record in; whether there was one of that key.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Records { leaves, len, scratch } = self;
        let Some((bound, leaf)) = leaves.get_prev_mut(key) else {
            scratch.clear();
            push(scratch, key, value);
            leaves.insert(Arc::default(), Leaf(Arc::from(&scratch[..])));
            *len += 1;
            return false;
        };
        let (place, found) = leaf.find(key).map_or_else(|at| (at..at, false), |place| (place, true));
        *len += usize::from(!found);
        if !found && leaf.is_one_huge_record() {
            let (bound, huge) = (bound.clone(), leaf.clone());
            self.insert_beside(bound, huge, key, value);
            return false;
        }
        if found
            && place.len() == HEADER_BYTES + key.len() + value.len()
            && let Some(bytes) = Arc::get_mut(&mut leaf.0)
        {
            bytes[place.end - value.len()..place.end].copy_from_slice(value);
            return true;
        }
        scratch.clear();
        scratch.extend_from_slice(&leaf.0[..place.start]);
        push(scratch, key, value);
        let end = scratch.len();
        scratch.extend_from_slice(&leaf.0[place.end..]);
        if scratch.len() > LEAF_MAX_BYTES {
            let bound = bound.clone();
            self.split(bound, place.start..end);
        } else if scratch.len() < LEAF_MIN_BYTES && scratch.len() < leaf.0.len() {
            let bound = bound.clone();
            self.join(bound);
        } else {
            *leaf = Leaf(Arc::from(&scratch[..]));
        }
        found
    }

    /// Puts a record in that belongs to the leaf of a huge one: into the leaf in front of that or the one after it, if
    /// there is room, else into one of its own. Only bounds change, so the huge record is not copied: many small ones
    /// may come beside it.
    fn insert_beside(&mut self, bound: Arc<[u8]>, huge: Leaf, key: &[u8], value: &[u8]) {
        let Some((huge_key, _)) = huge.iter().next() else { return };
        let len = HEADER_BYTES + key.len() + value.len();
        let has_room = |leaf: &Leaf| leaf.0.len() + len <= LEAF_MAX_BYTES;
        self.scratch.clear();
        if key < huge_key {
            let before = self.leaves.range::<_, [u8]>((Bound::Unbounded, Bound::Excluded(&bound[..]))).next_back();
            let before = before.filter(|(_, leaf)| has_room(leaf)).map(|(before, leaf)| (before.clone(), leaf.clone()));
            self.leaves.insert(separator(key, huge_key), huge.clone());
            // Without a leaf in front, the new one takes the huge record's old bound: it is the first leaf, perhaps.
            let taken = if let Some((before, leaf)) = before {
                self.leaves.remove(&bound);
                self.scratch.extend_from_slice(&leaf.0);
                before
            } else {
                bound
            };
            push(&mut self.scratch, key, value);
            self.leaves.insert(taken, Leaf(Arc::from(&self.scratch[..])));
        } else {
            let behind = self.leaves.range::<_, [u8]>((Bound::Excluded(&bound[..]), Bound::Unbounded)).next();
            let behind = behind.filter(|(_, leaf)| has_room(leaf)).map(|(behind, leaf)| (behind.clone(), leaf.clone()));
            push(&mut self.scratch, key, value);
            if let Some((behind, leaf)) = behind {
                self.scratch.extend_from_slice(&leaf.0);
                self.leaves.remove(&behind);
            }
            self.leaves.insert(separator(huge_key, key), Leaf(Arc::from(&self.scratch[..])));
        }
    }

    /// Removes a record; whether there was one.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Some((bound, leaf)) = self.leaves.get_prev(key) else { return false };
        let Ok(place) = leaf.find(key) else { return false };
        let bound = bound.clone();
        self.scratch.clear();
        self.scratch.extend_from_slice(&leaf.0[..place.start]);
        self.scratch.extend_from_slice(&leaf.0[place.end..]);
        self.len -= 1;
        if self.scratch.len() < LEAF_MIN_BYTES {
            self.join(bound);
        } else {
            self.leaves.insert(bound, Leaf(Arc::from(&self.scratch[..])));
        }
        true
    }

    /// Puts what is in `scratch`, too much for one leaf, into the place of a leaf. `new` is the record that was too
    /// much.
    fn split(&mut self, bound: Arc<[u8]>, new: Range<usize>) {
        let len = self.scratch.len();
        let is_last = || self.leaves.range::<_, [u8]>((Bound::Excluded(&bound[..]), Bound::Unbounded)).next().is_none();
        let cuts = if new.len() > LEAF_MAX_BYTES {
            // Its neighbours shall not be copied along with it.
            [new.start, new.end]
        } else if new.end == len && is_last() {
            // Keys that come in order leave full leaves behind.
            [new.start, len]
        } else {
            [middle(&self.scratch), len]
        };
        let mut start = 0;
        for end in cuts.into_iter().chain([len]) {
            if start < end {
                let piece = &self.scratch[start..end];
                let last = Iter(&self.scratch[..start]).last().map(|(key, _)| key);
                let first = Iter(piece).next().map_or(&[][..], |(key, _)| key);
                let bound = last.map_or_else(|| bound.clone(), |last| separator(last, first));
                self.leaves.insert(bound, Leaf(Arc::from(piece)));
                start = end;
            }
        }
    }

    /// Puts what is in `scratch`, rather little, into the place of a leaf, or joins it with a neighbour.
    fn join(&mut self, bound: Arc<[u8]>) {
        let fits = |leaf: &Leaf| leaf.0.len() + self.scratch.len() <= LEAF_MAX_BYTES / 2;
        let before = self
            .leaves
            .range::<_, [u8]>((Bound::Unbounded, Bound::Excluded(&bound[..])))
            .next_back()
            .filter(|(_, leaf)| fits(leaf));
        if let Some((before, leaf)) = before {
            let joined = [&leaf.0[..], &self.scratch].concat();
            let before = before.clone();
            self.leaves.insert(before, Leaf(Arc::from(joined)));
            self.leaves.remove(&bound);
            return;
        }
        let behind = self.leaves.range::<_, [u8]>((Bound::Excluded(&bound[..]), Bound::Unbounded)).next();
        if let Some((behind, leaf)) = behind.filter(|(_, leaf)| fits(leaf)) {
            self.scratch.extend_from_slice(&leaf.0);
            let behind = behind.clone();
            self.leaves.remove(&behind);
        }
        // Only the first leaf may be empty: it is there for every key below the second one's.
        if self.scratch.is_empty() && !bound.is_empty() {
            self.leaves.remove(&bound);
        } else {
            self.leaves.insert(bound, Leaf(Arc::from(&self.scratch[..])));
        }
    }
}

/// The border between two records that is the first one after the middle, or else the last one; the end of a single
/// record.
fn middle(leaf: &[u8]) -> usize {
    let (mut border, mut end) = (0, 0);
    for (key, value) in Iter(leaf) {
        if end >= leaf.len() / 2 && end > 0 {
            return end;
        }
        border = end;
        end += HEADER_BYTES + key.len() + value.len();
    }
    if border > 0 { border } else { leaf.len() }
}

/// Builds a map from records in order.
#[derive(Default)]
pub(crate) struct Builder {
    records: Records,
    leaf: Vec<u8>,
    bound: Arc<[u8]>,
}

impl Builder {
    /// Adds a record, whose key lies above all others.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let len = HEADER_BYTES + key.len() + value.len();
        if !self.leaf.is_empty() && self.leaf.len() + len > LEAF_MAX_BYTES {
            let last = Iter(&self.leaf).last().map_or(&[][..], |(key, _)| key);
            let bound = separator(last, key);
            self.end_leaf();
            self.bound = bound;
        }
        push(&mut self.leaf, key, value);
        self.records.len += 1;
    }

    /// The map.
    pub(crate) fn build(mut self) -> Records {
        if !self.leaf.is_empty() {
            self.end_leaf();
        }
        self.records
    }

    fn end_leaf(&mut self) {
        self.records.leaves.insert(self.bound.clone(), Leaf(Arc::from(&self.leaf[..])));
        self.leaf.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Fails unless the leaves are as the module says, and hold what the model does.
    fn check(records: &Records, model: &Model) {
        let mut last: Option<&[u8]> = None;
        let mut first = true;
        for (bound, leaf) in &records.leaves {
            assert_eq!(first, bound.is_empty(), "the first leaf has the empty bound, and no other");
            assert!(first || !leaf.0.is_empty(), "an empty leaf at {bound:?}");
            let count = leaf.iter().count();
            // A cut in the middle lies after the record there: of P and a new record at most (P + 1) / 2 + 1 leaves
            // stay together, and 3 is where that ends.
            assert!(count == 1 || leaf.0.len() <= 3 * LEAF_MAX_BYTES, "{count} records in {} bytes", leaf.0.len());
            for (key, _) in leaf.iter() {
                assert!(key >= &bound[..], "{key:?} below its bound {bound:?}");
                assert!(last.is_none_or(|last| last < key), "{key:?} behind {last:?}");
                last = Some(key);
            }
            assert!(
                leaf.iter().map(|(key, value)| HEADER_BYTES + key.len() + value.len()).sum::<usize>() == leaf.0.len()
            );
            first = false;
        }
        assert_eq!(records.len(), model.len());
        assert!(records.starting(Bound::Unbounded).eq(model.iter().map(|(key, value)| (&key[..], &value[..]))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Vec<u8>, usize, u8),
        Remove(Vec<u8>),
        RemoveRange(Vec<u8>, usize),
        Copy,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || {
            prop_oneof![
                8 => any::<u8>().prop_map(|byte| vec![byte]),
                8 => any::<[u8; 2]>().prop_map(Vec::from),
                1 => Just(Vec::new()),
            ]
        };
        let len = prop_oneof![6 => 0usize..150, 2 => 0usize..1500, 1 => LEAF_MAX_BYTES - 20..3 * LEAF_MAX_BYTES];
        let step = prop_oneof![
            12 => (key(), len, any::<u8>()).prop_map(|(key, len, byte)| Step::Insert(key, len, byte)),
            4 => key().prop_map(Step::Remove),
            1 => (key(), 0usize..60).prop_map(|(key, count)| Step::RemoveRange(key, count)),
            1 => Just(Step::Copy),
        ];
        proptest::collection::vec(step, 0..400)
    }

    /// What there is to do to get from the one to the other, by comparing everything.
    fn expected_changes<'a>(base: &'a Model, model: &'a Model) -> Vec<Change<'a>> {
        let put = model.iter().filter(|(key, value)| base.get(*key) != Some(value));
        let put = put.map(|(key, value)| (&key[..], Some(&value[..])));
        let gone = base.keys().filter(|key| !model.contains_key(*key)).map(|key| (&key[..], None));
        let mut changes: Vec<Change<'a>> = put.chain(gone).collect();
        changes.sort();
        changes
    }

    /// Where the value of this key lies.
    fn address(records: &Records, key: &[u8]) -> *const u8 {
        records.get(key).expect("a record").as_ptr()
    }

    /// Three records of 1 MiB, as read from a file.
    fn three_huge() -> Records {
        let mut builder = Builder::default();
        ["b", "d", "f"].iter().for_each(|key| builder.push(key.as_bytes(), &vec![7; VALUE_MAX_BYTES]));
        builder.build()
    }

    #[test]
    fn changes_are_found_among_the_leaves_that_have_changed() {
        let mut records = Records::default();
        for number in 0..10_000u32 {
            records.insert(&number.to_be_bytes(), &[1; 100]);
        }
        let base = records.clone();
        assert!(records.changes_since(&base).is_empty());
        records.insert(&7u32.to_be_bytes(), &[2; 100]);
        records.insert(&8u32.to_be_bytes(), &[1; 100]);
        records.remove(&9_999u32.to_be_bytes());
        let expected: Vec<(&[u8], Option<&[u8]>)> = vec![(&[0, 0, 0, 7], Some(&[2; 100])), (&[0, 0, 39, 15], None)];
        assert_eq!(records.changes_since(&base), expected);
    }

    #[test]
    fn small_records_beside_a_huge_one_in_any_order_never_copy_it() {
        type Order = fn(usize) -> usize;
        const COUNT: usize = 500;
        let orders: [(&str, Order); 3] =
            [("ascending", |step| step), ("descending", |step| COUNT - 1 - step), ("mixed", |step| step * 203 % COUNT)];
        for (name, order) in orders {
            let mut records = three_huge();
            let places = ["b", "d", "f"].map(|key| address(&records, key.as_bytes()));
            let mut model: Model =
                ["b", "d", "f"].iter().map(|key| (key.as_bytes().to_vec(), vec![7; VALUE_MAX_BYTES])).collect();
            for step in 0..COUNT {
                // In front of the first, between, and after the last; also such that lie between a key and what is
                // longer.
                for prefix in ["a", "b", "c", "d\0", "ez", "f"] {
                    let key = format!("{prefix}{:08}", order(step)).into_bytes();
                    assert!(!records.insert(&key, b"value"));
                    model.insert(key, b"value".to_vec());
                }
                // Deleting and putting the nearest neighbour again and again is no way to it, either.
                let nearest = b"d\0".to_vec();
                assert!(!records.insert(&nearest, b""));
                assert!(records.remove(&nearest));
            }
            check(&records, &model);
            assert_eq!(places, ["b", "d", "f"].map(|key| address(&records, key.as_bytes())), "{name}: copied");
            assert!(records.scratch.capacity() < 64 * LEAF_MAX_BYTES, "{name}: copied on the way");
            // Nor does each small record have a leaf of its own.
            let small_bytes = 6 * COUNT * (HEADER_BYTES + 15);
            let leaves = records.leaves.len();
            assert!(leaves <= 3 * small_bytes / LEAF_MAX_BYTES + 20, "{name}: {leaves} leaves for {small_bytes} bytes");
        }
    }

    #[test]
    fn bounds_between_long_keys_are_as_long_as_needed() {
        let long = |first: u8| [&[first][..], &[b'x'; KEY_MAX_BYTES - 1]].concat();
        let (mut records, mut builder) = (Records::default(), Builder::default());
        for first in 0..=u8::MAX {
            records.insert(&long(first.wrapping_mul(101)), b"");
            builder.push(&long(first), b"");
        }
        for records in [records, builder.build()] {
            assert_eq!(records.leaves.len(), 256);
            assert!(records.leaves.keys().all(|bound| bound.len() <= 1), "long keys lie in memory twice");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        // covers R12 S10 I7: leaves are split and joined all the time; a copy shows the moment it was made.
        #[test]
        fn any_history_equals_model_and_so_does_every_copy(steps in steps()) {
            let (mut records, mut model) = (Records::default(), Model::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, len, byte) => {
                        let found = records.insert(&key, &vec![byte; len]);
                        prop_assert_eq!(found, model.insert(key, vec![byte; len]).is_some());
                    }
                    Step::Remove(key) => prop_assert_eq!(records.remove(&key), model.remove(&key).is_some()),
                    Step::RemoveRange(from, count) => {
                        let keys: Vec<_> = model.range(from..).take(count).map(|(key, _)| key.clone()).collect();
                        for key in keys {
                            prop_assert!(records.remove(&key));
                            model.remove(&key);
                            prop_assert!(!records.remove(&key));
                        }
                    }
                    Step::Copy => copies.push((records.clone(), model.clone())),
                }
            }
            copies.push((records, model));
            for ((base, base_model), (records, model)) in copies.iter().zip(copies.iter().skip(1)) {
                let changes = records.changes_since(base);
                prop_assert_eq!(&changes, &expected_changes(base_model, model));
                let mut advanced = base.clone();
                for (key, value) in changes {
                    match value {
                        Some(value) => prop_assert_eq!(advanced.insert(key, value), base_model.contains_key(key)),
                        None => prop_assert!(advanced.remove(key)),
                    }
                }
                check(&advanced, model);
            }
            for (records, model) in &copies {
                check(records, model);
                let mut builder = Builder::default();
                model.iter().for_each(|(key, value)| builder.push(key, value));
                check(&builder.build(), model);
                for key in (0..=255).map(|byte| vec![byte]).chain([vec![]]) {
                    prop_assert_eq!(records.get(&key), model.get(&key).map(|value| &value[..]));
                    let behind = model.range((Bound::Excluded(key.clone()), Bound::Unbounded)).next();
                    let found = records.starting(Bound::Excluded(&key)).next();
                    prop_assert_eq!(found, behind.map(|(key, value)| (&key[..], &value[..])));
                }
            }
        }
    }

    #[test]
    fn keys_in_order_fill_their_leaves_and_removed_ones_leave_none_behind() {
        let mut records = Records::default();
        for number in 0..10_000u32 {
            records.insert(&number.to_be_bytes(), &[1; 100]);
        }
        let full = 10_000 / (LEAF_MAX_BYTES / (HEADER_BYTES + 4 + 100));
        assert!(records.leaves.len() <= full + 1, "{} leaves", records.leaves.len());
        for number in 0..10_000u32 {
            // In an order that meets every leaf again and again.
            assert!(records.remove(&(number.wrapping_mul(7919) % 10_000).to_be_bytes()));
        }
        assert!(records.len() == 0 && records.leaves.len() <= 1, "{} leaves of nothing", records.leaves.len());
    }
}
