//! The records that there are: how they are called, which ones are acknowledged, and in which order they lie.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::ycsb::distribution::fnv_hash;

/// How YCSB calls record number `number`, with `insertorder=hashed`.
pub(super) fn key_name(number: u64) -> String {
    format!("user{}", fnv_hash(number))
}

/// The records, shared by all clients. An inserted one is chosen, and scanned for, only once it was acknowledged, and
/// so were all before it.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The number of the next insert.
    next: AtomicU64,
    /// All numbers below it are acknowledged.
    acknowledged: AtomicU64,
    /// Acknowledged ones beyond it.
    early: Mutex<BTreeSet<u64>>,
    /// All acknowledged keys.
    sorted: RwLock<BTreeSet<String>>,
}

impl Keys {
    /// Records 0 to `records` - 1 are there.
    pub(super) fn loaded(records: u64) -> Keys {
        Keys {
            next: AtomicU64::new(records),
            acknowledged: AtomicU64::new(records),
            sorted: RwLock::new((0..records).map(key_name).collect()),
            ..Keys::default()
        }
    }

    /// How many records there are without a gap.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// The number of a new record.
    pub(super) fn begin_insert(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A record is there now; `number` if it is one of ours.
    pub(super) fn acknowledge(&self, number: Option<u64>, key: &str) {
        self.sorted.write().insert(key.to_owned());
        let Some(number) = number else { return };
        let mut early = self.early.lock();
        early.insert(number);
        let mut limit = self.acknowledged();
        while early.remove(&limit) {
            limit += 1;
        }
        self.acknowledged.store(limit, Ordering::Release);
    }

    /// How many acknowledged keys there are.
    pub(super) fn count(&self) -> u64 {
        self.sorted.read().len() as u64
    }

    /// The keys from `start` on, at most `count`.
    pub(super) fn from(&self, start: &str, count: usize) -> Vec<String> {
        let sorted = self.sorted.read();
        sorted.range(start.to_owned()..).take(count).cloned().collect()
    }

    /// All acknowledged keys, sorted.
    pub(super) fn sorted(&self) -> Vec<String> {
        self.sorted.read().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledge_out_of_order_is_seen_once_the_gap_is_closed() {
        let keys = Keys::loaded(3);
        let numbers: Vec<u64> = (0..3).map(|_| keys.begin_insert()).collect();
        assert_eq!(numbers, [3, 4, 5]);
        keys.acknowledge(Some(5), &key_name(5));
        keys.acknowledge(Some(4), &key_name(4));
        assert_eq!(keys.acknowledged(), 3);
        assert_eq!(keys.sorted().len(), 5);
        keys.acknowledge(Some(3), &key_name(3));
        assert_eq!(keys.acknowledged(), 6);
    }

    #[test]
    fn from_a_key_gives_it_and_its_successors_in_order() {
        let keys = Keys::loaded(10);
        let sorted = keys.sorted();
        assert!(sorted.is_sorted());
        assert_eq!(keys.from(&sorted[7], 2), sorted[7..9]);
        assert_eq!(keys.from(&sorted[7], 20), sorted[7..]);
    }
}
