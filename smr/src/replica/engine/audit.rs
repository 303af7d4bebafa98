//! Whether the replicas of a group still have the same state.
//!
//! Equal commands in an equal order make equal states; unless memory rots, a state machine is not deterministic, or
//! there is a bug below it. No answer need ever show that, and each snapshot carries it on. So all replicas hash their
//! whole state at the same entries, in the background from a point-in-time copy, and tell each other (fault catalogue
//! I7, L17). At such an entry
//! - a replica whose hash differs from one that a majority of the voters has is the odd one out. It goes into
//!   quarantine: what it holds is wrong, on disk too, and a readmission takes a sound state from the others.
//! - replicas that differ without a majority on either side cannot tell who is wrong. They go on, and say so.
//!
//! Nothing waits for a comparison, and nothing is proven by its absence: a message may be lost, and who is busy with an
//! earlier hash leaves an entry out. From then on it takes every second one, or fourth, until it keeps up: multiples of
//! multiples, so that replicas of different speed still take the same entries. They are done with them at different
//! times, so the last [`HASHES_KEPT`] of each are kept.

use std::collections::BTreeMap;

use super::{Action, Engine};
use crate::entry::Index;
use crate::id::NodeId;
use crate::protocol::{DigestPeers, Protocol};
use crate::state_machine::StateMachine;
use crate::status::StateDigest;

/// The state is hashed at each entry whose index is a multiple of this: every few seconds under full load, when hashing
/// a million keys takes some tenths of a second of a thread of lower priority.
pub const DIGEST_EVERY_ENTRIES: u64 = 1 << 18;

/// A replica that does not keep up takes one of this many of these entries at least.
const STRIDE_MAX: u64 = 64;
/// This many of the newest hashes are kept, of this replica and of each other member. One that takes the fewest entries
/// meets the others if it is done with a hash before they have taken this many: at 60,000 writes per second, within
/// nine minutes.
const HASHES_KEPT: usize = 2 * STRIDE_MAX as usize;

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
    /// Of the entries at which hashes are taken, one of this many is this replica's: a power of two.
    stride: u64,
    /// A hash is being computed.
    under_way: bool,
    /// One had to be left out since that began.
    left_out: bool,
    /// What was applied up to here came with a snapshot of others: a hash of before says nothing about the state of
    /// now.
    valid_from: Index,
    own: Newest,
    peers: BTreeMap<NodeId, Newest>,
}

/// The newest hashes of one replica.
#[derive(Default)]
struct Newest(BTreeMap<Index, u64>);

impl Newest {
    /// Whether it says something new: one restarted meanwhile may have another hash at an entry than it had in its
    /// previous run.
    fn add(&mut self, digest: StateDigest) -> bool {
        let new = self.0.insert(digest.index, digest.hash) != Some(digest.hash);
        if self.0.len() > HASHES_KEPT {
            self.0.pop_first();
        }
        new && self.has(digest)
    }

    fn at(&self, index: Index) -> Option<StateDigest> {
        self.0.get(&index).map(|hash| StateDigest { index, hash: *hash })
    }

    fn has(&self, digest: StateDigest) -> bool {
        self.at(digest.index) == Some(digest)
    }

    fn last(&self) -> Option<StateDigest> {
        self.0.last_key_value().map(|(index, hash)| StateDigest { index: *index, hash: *hash })
    }
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
            own: Newest::default(),
            peers: BTreeMap::new(),
        }
    }

    /// Whether the state is to be hashed as it is after this entry. If so, [`Audit::taken`] or [`Audit::given_up`]
    /// must follow.
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
        (self.under_way, self.left_out) = (false, false);
    }

    /// This replica's hash. `None` if the state has been replaced meanwhile: then it is for no one.
    #[must_use]
    pub(super) fn taken(&mut self, digest: StateDigest) -> Option<StateDigest> {
        self.under_way = false;
        if !std::mem::take(&mut self.left_out) {
            self.stride = (self.stride / 2).max(1);
        }
        if digest.index < self.valid_from {
            return None;
        }
        self.own.add(digest);
        Some(digest)
    }

    /// The hash of another member; whether it is news. Copies and what comes much too late are none.
    #[must_use]
    pub(super) fn heard(&mut self, from: NodeId, digest: StateDigest) -> bool {
        self.peers.entry(from).or_default().add(digest)
    }

    /// The state was replaced by one that ends at this entry.
    pub(super) fn replaced(&mut self, last: Index) {
        self.valid_from = last;
        self.own = Newest::default();
    }

    /// This replica's newest hash.
    pub(super) fn own(&self) -> Option<StateDigest> {
        self.own.last()
    }

    /// Compares, after a hash as of `index` has come in from `news`: this replica itself, or a member.
    pub(super) fn compare(&mut self, me: NodeId, group: &DigestPeers, news: NodeId, index: Index) -> Vec<Finding> {
        self.peers.retain(|node, _| group.members.contains(node) && *node != me);
        let Some(own) = self.own.at(index) else { return Vec::new() };
        let others = self.peers.iter().filter(|(node, _)| news == me || **node == news);
        let theirs = others.filter_map(|(node, newest)| Some((node, newest.at(index)?)));
        let differing = theirs.filter(|(_, theirs)| theirs.hash != own.hash);
        let finding = |(node, theirs): (&NodeId, StateDigest)| {
            let what = format!(
                "replica {node} has state {:016x} at entry {}, this one {:016x}",
                theirs.hash, own.index, own.hash
            );
            if self.is_of_majority(group, theirs) { Finding::OddOneOut(what) } else { Finding::Differs(what) }
        };
        differing.map(finding).collect()
    }

    /// Whether more than half of each set that counts have this hash by their own word.
    fn is_of_majority(&self, group: &DigestPeers, digest: StateDigest) -> bool {
        let has = |node: &&NodeId| self.peers.get(*node).is_some_and(|newest| newest.has(digest));
        let sets = &group.majorities_of;
        !sets.is_empty() && sets.iter().all(|set| set.iter().filter(has).count() * 2 > set.len())
    }
}

/// What is told and heard of hashes.
impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// The state that was to be hashed is.
    pub fn digest_taken(&mut self, digest: StateDigest) {
        if self.silent {
            return;
        }
        let Some(digest) = self.audit.taken(digest) else { return };
        let others = self.core.digest_peers().members.into_iter().filter(|node| *node != self.node);
        self.actions.extend(others.map(|node| Action::SendDigest(node, digest)));
        self.compare_digests(self.node, digest.index);
    }

    /// The state that was to be hashed will not be.
    pub fn digest_given_up(&mut self) {
        self.audit.given_up();
    }

    /// Another member says what its state was.
    pub fn digest_heard(&mut self, from: NodeId, digest: StateDigest) {
        if !self.silent && self.audit.heard(from, digest) {
            self.compare_digests(from, digest.index);
        }
    }

    pub(super) fn compare_digests(&mut self, news: NodeId, index: Index) {
        for finding in self.audit.compare(self.node, &self.core.digest_peers(), news, index) {
            match finding {
                Finding::OddOneOut(what) => {
                    let why = format!("the state differs from that of a majority: {what}");
                    self.quarantine(why);
                }
                Finding::Differs(what) => self.report(format!("the states of replicas differ: {what}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Configuration;

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

    fn three() -> DigestPeers {
        DigestPeers::from(&Configuration::of([ME, B, C]))
    }

    fn is_odd(findings: &[Finding]) -> bool {
        findings.iter().any(|finding| matches!(finding, Finding::OddOneOut(_)))
    }

    // covers L17
    #[test]
    fn compare_only_a_majority_of_others_makes_this_one_odd() {
        let mut audit = audit();
        assert!(audit.heard(B, digest(8, 2)));
        let one = audit.compare(ME, &three(), B, Index(8));
        assert!(matches!(&one[..], [Finding::Differs(_)]), "one of three is no majority: {one:?}");
        assert!(audit.heard(C, digest(8, 3)));
        assert!(!is_odd(&audit.compare(ME, &three(), C, Index(8))), "three states, none of which a majority has");
        let mut audit = self::audit();
        assert!(audit.heard(B, digest(8, 2)) && audit.heard(C, digest(8, 2)));
        assert!(is_odd(&audit.compare(ME, &three(), C, Index(8))));
        // The same with the own hash coming last.
        assert!(is_odd(&audit.compare(ME, &three(), ME, Index(8))));
    }

    // covers L17: of four, two against two decide nothing; learners and strangers do not count; a joint change needs
    // both sets.
    #[test]
    fn compare_majority_is_of_all_voters_and_of_both_sets() {
        let [d, e] = [NodeId::new(3, 13), NodeId::new(4, 14)];
        let agree = |configuration: &Configuration, nodes: &[NodeId]| {
            let mut audit = audit();
            nodes.iter().for_each(|node| assert!(audit.heard(*node, digest(8, 2))));
            is_odd(&audit.compare(ME, &configuration.into(), ME, Index(8)))
        };
        assert!(!agree(&Configuration::of([ME, B, C, d]), &[B, C]));
        assert!(agree(&Configuration::of([ME, B, C, d]), &[B, C, d]));
        let with_learner = Configuration { learners: [d].into(), ..Configuration::of([ME, B, C]) };
        assert!(!agree(&with_learner, &[B, d]));
        assert!(!agree(&Configuration::of([ME, B, C]), &[B, e]));
        let joint = Configuration { outgoing: [ME, d, e].into(), ..Configuration::of([ME, B, C]) };
        assert!(!agree(&joint, &[B, C]));
        assert!(agree(&joint, &[B, C, d, e]));
    }

    #[test]
    fn compare_equal_or_other_entries_show_nothing() {
        let mut audit = audit();
        assert!(audit.heard(B, digest(8, 1)) && audit.heard(C, digest(16, 2)));
        assert_eq!(audit.compare(ME, &three(), ME, Index(8)), []);
        assert_eq!(audit.compare(ME, &three(), C, Index(16)), []);
        assert!(!audit.heard(C, digest(16, 2)), "a copy is no news");
        assert!(audit.heard(B, digest(8, 2)), "another hash at the same entry is");
        assert!(matches!(&audit.compare(ME, &three(), B, Index(8))[..], [Finding::Differs(_)]));
    }

    // covers I17
    #[test]
    fn hashes_kept_are_the_newest_ones_and_bounded() {
        let mut audit = audit();
        let count = 3 * HASHES_KEPT as u64;
        assert!((1..=count).all(|number| audit.heard(B, digest(8 * number, 1))));
        assert_eq!(audit.peers[&B].0.len(), HASHES_KEPT);
        assert!(!audit.heard(B, digest(8, 1)), "much too late");
        assert_eq!(audit.peers[&B].last(), Some(digest(8 * count, 1)));
    }

    #[test]
    fn state_replaced_meanwhile_hash_of_before_counts_no_more() {
        let mut audit = Audit::new(8);
        assert!(audit.begins_at(Index(8)));
        assert!(!audit.begins_at(Index(16)), "one at a time");
        audit.replaced(Index(20));
        assert_eq!(audit.taken(digest(8, 1)), None);
        assert!(audit.heard(B, digest(8, 2)) && audit.heard(C, digest(8, 2)));
        assert_eq!(audit.compare(ME, &three(), ME, Index(8)), []);
        assert!(audit.begins_at(Index(32)));
        assert!(!audit.begins_at(Index(33)));
    }

    // covers L17: all apply at the same pace; this one's hashes last as long as 20 entries, and it differs.
    #[test]
    fn replica_that_does_not_keep_up_is_found_out_while_the_others_go_on() {
        let nodes = [(ME, 20, 7), (B, 5, 1), (C, 3, 1)];
        let mut audits = nodes.map(|_| Audit::new(8));
        let mut due: [Option<(u64, u64)>; 3] = [None; 3];
        let mut odd = [0; 3];
        for index in 1..=400 {
            for at in 0..nodes.len() {
                let (node, busy, hash) = nodes[at];
                if let Some((begun, _)) = due[at].take_if(|(_, done_at)| *done_at == index) {
                    let mine = audits[at].taken(digest(begun, hash)).unwrap();
                    odd[at] += usize::from(is_odd(&audits[at].compare(node, &three(), node, mine.index)));
                    for (to, (other, ..)) in nodes.iter().enumerate().filter(|(to, _)| *to != at) {
                        assert!(audits[to].heard(node, mine));
                        odd[to] += usize::from(is_odd(&audits[to].compare(*other, &three(), node, mine.index)));
                    }
                }
                if audits[at].begins_at(Index(index)) {
                    due[at] = Some((index, index + busy));
                }
            }
        }
        assert!(odd[0] > 5 && odd[1..] == [0, 0], "{odd:?}");
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
