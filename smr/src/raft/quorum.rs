//! Quorum arithmetic, pure and alone: who is enough, and what enough of them have reached.

use std::collections::BTreeSet;

use crate::entry::Configuration;
use crate::id::NodeId;

/// Sets of voters up to this size are counted without allocating. Larger ones are fine, and slower.
const VOTERS_ON_STACK_MAX: usize = 16;

/// How many of `count` voters are a majority: more than half (E20).
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// Whether those for whom `agrees` holds are a quorum: a majority of the voters and, in a joint configuration, of the
/// outgoing ones too (§6). An empty configuration has no quorum.
pub fn is_quorum(configuration: &Configuration, agrees: impl Fn(NodeId) -> bool) -> bool {
    let enough = |set: &BTreeSet<NodeId>| set.iter().filter(|node| agrees(**node)).count() >= majority(set.len());
    enough(&configuration.voters) && (!configuration.is_joint() || enough(&configuration.outgoing))
}

/// The highest value that a quorum has reached: for match indexes the commit index, for times of the last sign of
/// life the moment since which a quorum is silent. `None` without voters.
pub fn reached<T: Ord + Copy + Default>(configuration: &Configuration, value: impl Fn(NodeId) -> T) -> Option<T> {
    let incoming = reached_by_majority(&configuration.voters, &value)?;
    if !configuration.is_joint() {
        return Some(incoming);
    }
    let outgoing = reached_by_majority(&configuration.outgoing, &value)?;
    Some(incoming.min(outgoing))
}

fn reached_by_majority<T: Ord + Copy + Default>(set: &BTreeSet<NodeId>, value: impl Fn(NodeId) -> T) -> Option<T> {
    if set.is_empty() {
        return None;
    }
    let mut on_stack = [T::default(); VOTERS_ON_STACK_MAX];
    let mut on_heap = Vec::new();
    let values = if set.len() <= VOTERS_ON_STACK_MAX {
        &mut on_stack[..set.len()]
    } else {
        on_heap.resize(set.len(), T::default());
        &mut on_heap[..]
    };
    for (slot, node) in values.iter_mut().zip(set) {
        *slot = value(*node);
    }
    values.sort_unstable();
    // Ascending: the value at this place and all after it are `majority` many.
    Some(values[set.len() - majority(set.len())])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn set(names: impl IntoIterator<Item = u16>) -> BTreeSet<NodeId> {
        names.into_iter().map(|name| NodeId::new(name, 1)).collect()
    }

    // covers E20
    #[test]
    fn is_quorum_exactly_half_is_not_enough() {
        for count in [2u16, 4, 6] {
            let configuration = Configuration::of(set(0..count));
            assert!(!is_quorum(&configuration, |node| node.name.0 < count / 2), "half of {count}");
            assert!(is_quorum(&configuration, |node| node.name.0 < count / 2 + 1), "more than half of {count}");
        }
    }

    // covers M13
    #[test]
    fn is_quorum_joint_needs_both_majorities() {
        let configuration = Configuration { voters: set([0, 1, 2]), outgoing: set([2, 3, 4]), learners: set([5]) };
        assert!(!is_quorum(&configuration, |node| node.name.0 <= 1));
        assert!(!is_quorum(&configuration, |node| node.name.0 >= 3));
        assert!(is_quorum(&configuration, |node| [1, 2, 3].contains(&node.name.0)));
    }

    #[test]
    fn is_quorum_empty_configuration_has_none() {
        assert!(!is_quorum(&Configuration::default(), |_| true));
        assert_eq!(reached(&Configuration::default(), |_| 7u64), None);
    }

    /// The definition, read aloud: the highest value such that a quorum has it or more.
    fn reached_naive(configuration: &Configuration, values: &BTreeMap<NodeId, u64>) -> Option<u64> {
        let value = |node: NodeId| values.get(&node).copied().unwrap_or(0);
        (0..=20).rev().find(|candidate| is_quorum(configuration, |node| value(node) >= *candidate))
    }

    proptest! {
        // covers L12
        #[test]
        fn reached_random_quorums_equals_naive(
            voters in prop::collection::btree_set(0u16..24, 1..20),
            outgoing in prop::collection::btree_set(0u16..24, 0..20),
            values in prop::collection::btree_map(0u16..24, 0u64..20, 0..24),
        ) {
            let configuration =
                Configuration { voters: set(voters), outgoing: set(outgoing), learners: BTreeSet::new() };
            let values: BTreeMap<_, _> =
                values.into_iter().map(|(name, value)| (NodeId::new(name, 1), value)).collect();
            let fast = reached(&configuration, |node| values.get(&node).copied().unwrap_or(0));
            prop_assert_eq!(fast, reached_naive(&configuration, &values));
        }
    }
}
