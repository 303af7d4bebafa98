//! Whether the replicas of a group still have the same state.
//!
//! Equal commands in an equal order make equal states; unless memory rots, a state machine is not deterministic, or there is a bug below it.
//! No answer need ever show that, and each snapshot carries it on. So all replicas hash their whole state at the same entries, in the
//! background from a point-in-time copy, and tell each other (fault catalogue I7, L17). At such an entry
//! - a replica whose hash differs from one that a majority of the voters has is the odd one out. It goes into quarantine and ends:
//!   what it holds is wrong, on disk too, and a readmission takes a sound state from the others.
//! - replicas that differ without a majority on either side cannot tell who is wrong. They go on, and say so.
//!
//! Nothing waits for a comparison, and nothing is proven by its absence: a message may be lost, and who is busy with an earlier hash leaves
//! an entry out. From then on it takes every second one, or fourth, until it keeps up: multiples of multiples, so that replicas of different
//! speed still meet at the same entries.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::SnapshotImage;
use crate::codec;
use crate::entry::{Configuration, Index};
use crate::id::NodeId;
use crate::state_machine::{Image as _, StateMachine};

/// The state is hashed at each entry whose index is a multiple of this: every few seconds under full load, when hashing a
/// million keys takes some tenths of a second of a thread that stands back.
pub const DIGEST_EVERY_ENTRIES: u64 = 1 << 18;

/// A replica that does not keep up takes one of so many of these entries at least.
const STRIDE_MAX: u64 = 64;

/// A hash of configuration, sessions and state machine as of one entry. Equal on all sound replicas of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The last entry applied.
    pub index: Index,
    /// The hash.
    pub hash: u64,
}

impl std::fmt::Display for StateDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x} at entry {}", self.hash, self.index)
    }
}

impl StateDigest {
    /// The hash of what `write` writes.
    pub fn over(index: Index, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> StateDigest {
        let mut hashing = codec::Hashing::default();
        write(&mut hashing).unwrap_or_else(|error| panic!("hashing failed: {error}"));
        StateDigest { index, hash: hashing.digest() }
    }
}

impl<S: StateMachine> SnapshotImage<S> {
    /// Writes what a snapshot file holds behind its header: sessions, then the state machine.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        self.sessions.write(output)?;
        self.state.write(output)
    }

    /// Writes all that must be equal on all replicas, and so is hashed: also who is a member.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write_whole(&self, output: &mut dyn Write) -> io::Result<()> {
        output.write_all(&codec::encode(&self.meta))?;
        self.write(output)
    }
}

/// What a comparison showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A majority has another state than this replica.
    OddOneOut(String),
    /// Replicas differ. No majority says that this one is wrong.
    Differs(String),
}

/// The hashes of this replica and of its peers.
pub(super) struct Audit {
    every: u64,
    /// Of the entries at which hashes are taken, one of so many is this replica's: a power of two.
    stride: u64,
    /// A hash is being computed.
    under_way: bool,
    /// One had to be left out since that began.
    left_out: bool,
    /// What was applied up to here came with a snapshot of others: a hash of before says nothing about the state of now.
    valid_from: Index,
    own: Option<StateDigest>,
    /// The newest one of each other member.
    peers: BTreeMap<NodeId, StateDigest>,
}

impl Audit {
    /// Hashes are taken at multiples of `every`.
    pub(super) fn new(every: u64) -> Audit {
        Audit {
            every,
            stride: 1,
            under_way: false,
            left_out: false,
            valid_from: Index::ZERO,
            own: None,
            peers: BTreeMap::new(),
        }
    }

    /// Whether the state is to be hashed as it is behind this entry. If so, [`Audit::taken`] or [`Audit::given_up`] must follow.
    pub(super) fn begins_at(&mut self, index: Index) -> bool {
        if !index.0.is_multiple_of(self.every * self.stride) {
            return false;
        }
        if self.under_way {
            self.left_out = true;
            self.stride = (self.stride * 2).min(STRIDE_MAX);
            return false;
        }
        self.under_way = true;
        true
    }

    /// The hash that was begun will not come.
    pub(super) fn given_up(&mut self) {
        self.under_way = false;
    }

    /// This replica's hash. `None` if the state has been replaced meanwhile: then it is for nobody.
    #[must_use]
    pub(super) fn taken(&mut self, digest: StateDigest) -> Option<StateDigest> {
        self.under_way = false;
        if !std::mem::take(&mut self.left_out) {
            self.stride = (self.stride / 2).max(1);
        }
        if digest.index < self.valid_from {
            return None;
        }
        self.own = Some(digest);
        self.own
    }

    /// The hash of another member. Copies and messages that were overtaken change nothing.
    pub(super) fn heard(&mut self, from: NodeId, digest: StateDigest) {
        let newest = self.peers.entry(from).or_insert(digest);
        if newest.index < digest.index {
            *newest = digest;
        }
    }

    /// The state was replaced by one that ends at this entry.
    pub(super) fn replaced(&mut self, last: Index) {
        self.valid_from = last;
        self.own = None;
    }

    /// This replica's newest hash.
    pub(super) fn own(&self) -> Option<StateDigest> {
        self.own
    }

    /// Compares, after the hash of `news` has come in: this replica's own, or that of a member.
    pub(super) fn compare(&mut self, me: NodeId, configuration: &Configuration, news: NodeId) -> Vec<Finding> {
        self.peers.retain(|node, _| configuration.is_member(*node) && *node != me);
        let Some(own) = self.own else { return Vec::new() };
        let others = self.peers.iter().filter(|(node, _)| news == me || **node == news);
        let differing = others.filter(|(_, theirs)| theirs.index == own.index && theirs.hash != own.hash);
        let finding = |(node, theirs): (&NodeId, &StateDigest)| {
            let what = format!(
                "replica {node} has state {:016x} at entry {}, this one {:016x}",
                theirs.hash, own.index, own.hash
            );
            if self.is_of_majority(configuration, *theirs) { Finding::OddOneOut(what) } else { Finding::Differs(what) }
        };
        differing.map(finding).collect()
    }

    /// Whether more than half of the voters, old and new ones, have this hash by their own word.
    fn is_of_majority(&self, configuration: &Configuration, digest: StateDigest) -> bool {
        let has = |node: &&NodeId| self.peers.get(*node) == Some(&digest);
        let sets = [&configuration.voters, &configuration.outgoing];
        sets.iter().all(|set| set.is_empty() || set.iter().filter(has).count() * 2 > set.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::new(0, 10);
    const B: NodeId = NodeId::new(1, 11);
    const C: NodeId = NodeId::new(2, 12);

    fn digest(index: u64, hash: u64) -> StateDigest {
        StateDigest { index: Index(index), hash }
    }

    /// An audit that has its own hash 1 at entry 8.
    fn audit() -> Audit {
        let mut audit = Audit::new(8);
        assert!(audit.begins_at(Index(8)));
        assert!(audit.taken(digest(8, 1)).is_some());
        audit
    }

    fn three() -> Configuration {
        Configuration::of([ME, B, C])
    }

    fn is_odd(findings: &[Finding]) -> bool {
        findings.iter().any(|finding| matches!(finding, Finding::OddOneOut(_)))
    }

    // covers L17
    #[test]
    fn compare_only_a_majority_of_others_makes_this_one_odd() {
        let mut audit = audit();
        audit.heard(B, digest(8, 2));
        let one = audit.compare(ME, &three(), B);
        assert!(matches!(&one[..], [Finding::Differs(_)]), "one of three is no majority: {one:?}");
        audit.heard(C, digest(8, 3));
        assert!(!is_odd(&audit.compare(ME, &three(), C)), "three states, none of which a majority has");
        let mut audit = self::audit();
        audit.heard(B, digest(8, 2));
        audit.heard(C, digest(8, 2));
        assert!(is_odd(&audit.compare(ME, &three(), C)));
        // The same with the own hash coming last.
        assert!(is_odd(&audit.compare(ME, &three(), ME)));
    }

    // covers L17: of four, two against two decide nothing; learners and strangers do not count; a joint change needs both sets.
    #[test]
    fn compare_majority_is_of_all_voters_and_of_both_sets() {
        let [d, e] = [NodeId::new(3, 13), NodeId::new(4, 14)];
        let agree = |configuration: &Configuration, nodes: &[NodeId]| {
            let mut audit = audit();
            nodes.iter().for_each(|node| audit.heard(*node, digest(8, 2)));
            is_odd(&audit.compare(ME, configuration, ME))
        };
        assert!(!agree(&Configuration::of([ME, B, C, d]), &[B, C]));
        assert!(agree(&Configuration::of([ME, B, C, d]), &[B, C, d]));
        let with_learner = Configuration { learners: [d].into(), ..three() };
        assert!(!agree(&with_learner, &[B, d]));
        assert!(!agree(&three(), &[B, e]));
        let joint = Configuration { outgoing: [ME, d, e].into(), ..three() };
        assert!(!agree(&joint, &[B, C]));
        assert!(agree(&joint, &[B, C, d, e]));
    }

    #[test]
    fn compare_equal_or_other_entries_show_nothing() {
        let mut audit = audit();
        audit.heard(B, digest(8, 1));
        audit.heard(C, digest(16, 2));
        assert_eq!(audit.compare(ME, &three(), ME), []);
        // An old copy does not take the newer one's place.
        audit.heard(C, digest(8, 2));
        assert_eq!(audit.compare(ME, &three(), C), []);
    }

    #[test]
    fn state_replaced_meanwhile_hash_of_before_counts_no_more() {
        let mut audit = Audit::new(8);
        assert!(audit.begins_at(Index(8)));
        assert!(!audit.begins_at(Index(16)), "one at a time");
        audit.replaced(Index(20));
        assert_eq!(audit.taken(digest(8, 1)), None);
        audit.heard(B, digest(8, 2));
        audit.heard(C, digest(8, 2));
        assert_eq!(audit.compare(ME, &three(), ME), []);
        assert!(audit.begins_at(Index(32)));
        assert!(!audit.begins_at(Index(33)));
    }

    // covers L17: whose hashes last longer than the entries between them would otherwise never meet the others.
    #[test]
    fn replica_that_does_not_keep_up_takes_multiples_that_others_take_too() {
        // One is busy for as long as 20 entries take, the other for 5.
        let taken = |busy: u64| {
            let mut audit = Audit::new(8);
            let (mut at, mut done_at) = (Vec::new(), None);
            for index in 1..=400 {
                if done_at == Some(index) {
                    let begun = *at.last().unwrap();
                    let _ = audit.taken(digest(begun, 1));
                }
                if audit.begins_at(Index(index)) {
                    at.push(index);
                    done_at = Some(index + busy);
                }
            }
            at
        };
        let (slow, quick) = (taken(20), taken(5));
        assert_eq!(quick.len(), 50, "who keeps up leaves nothing out");
        assert!(slow.len() >= 10 && slow.iter().all(|index| quick.contains(index)), "{slow:?}");
        let slower = taken(37);
        let met = slower.iter().filter(|index| slow.contains(index)).count();
        assert!(met >= 4, "{slower:?} and {slow:?} meet {met} times");
    }

    #[test]
    fn hash_given_up_leaves_room_for_the_next() {
        let mut audit = Audit::new(8);
        assert!(audit.begins_at(Index(8)));
        audit.given_up();
        assert!(audit.begins_at(Index(16)));
    }
}
