//! The replicated log's vocabulary: what stands at which place of it, and who is a member.
//!
//! Storage, snapshots, sessions and every protocol core share these words; none of them is Raft's alone.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, GroupName, NodeId};

/// A place in the log. The first entry has index 1; 0 is the place before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Index(pub u64);

impl Index {
    /// The place before the first entry.
    pub const ZERO: Index = Index(0);

    /// The place after this one.
    ///
    /// # Panics
    /// At `u64::MAX`, which no log reaches.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0.checked_add(1).unwrap_or_else(|| panic!("index overflow at {self}")))
    }

    /// The place before this one; [`Index::ZERO`] stays.
    #[must_use]
    pub fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

/// A term of leadership (Raft §5.1), or the epoch of a configuration for protocols that have epochs instead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// Before any election.
    pub const ZERO: Term = Term(0);

    /// The following term.
    ///
    /// # Panics
    /// At `u64::MAX`, which no group reaches.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.checked_add(1).unwrap_or_else(|| panic!("term overflow at {self}")))
    }
}

/// What identifies an entry for ever: two entries with equal index and term are equal (Raft §5.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct EntryId {
    /// Its place in the log, counted from 1.
    pub index: Index,
    /// The term whose leader made it.
    pub term: Term,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: EntryId = EntryId { index: Index::ZERO, term: Term::ZERO };

    /// The entry at `index` of `term`.
    pub const fn new(index: u64, term: u64) -> EntryId {
        EntryId { index: Index(index), term: Term(term) }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place and term.
    pub id: EntryId,
    /// What it carries.
    pub payload: Payload,
}

impl Entry {
    /// The entry's cost against byte limits: its payload plus a constant for the header.
    pub fn size_bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(bytes) => bytes.len(),
                Payload::Configuration(configuration) => configuration.size_bytes(),
            }
    }
}

/// What an entry costs beyond its payload, in memory, on the wire and on disk; an upper estimate in bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 64;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: a new leader's first entry (Raft §8).
    Noop,
    /// Bytes for the session table and, through it, the state machine. Never parsed on the way.
    Command(Bytes),
    /// The members from this entry on.
    Configuration(Configuration),
}

/// The members of a group, in force from the entry that carries it (Raft §6: as soon as it is *in* the log).
///
/// While a change is under way (`outgoing` not empty) elections, commits, reads and quorum checks need a majority of
/// `voters` *and* of `outgoing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Those who vote, or will vote alone once the change under way is done.
    pub voters: BTreeSet<NodeId>,
    /// The voters that a joint change leaves behind; empty outside of one.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log and do not count.
    pub learners: BTreeSet<NodeId>,
}

impl Configuration {
    /// A configuration of voters alone.
    pub fn of(voters: impl IntoIterator<Item = NodeId>) -> Configuration {
        Configuration { voters: voters.into_iter().collect(), ..Configuration::default() }
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in the old or the new set.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` has any part in the group.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Everyone with a part in the group, in order, once each.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    fn size_bytes(&self) -> usize {
        (self.voters.len() + self.outgoing.len() + self.learners.len()) * size_of::<NodeId>()
    }
}

/// The bootstrap record of a group: entry 1 of term 1 of every log of it is `Configuration::of(members)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The cluster; `None` only for the group whose genesis *makes* the cluster id (the manager).
    pub cluster: Option<ClusterId>,
    /// The group that is founded.
    pub group: GroupName,
    /// The founding members.
    pub members: BTreeSet<NodeId>,
}

/// The hash of a [`Genesis`]; groups with different hashes are strangers (fault catalogue M10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenesisHash(pub u128);

impl Genesis {
    /// The hash over all fields, the same on every platform.
    pub fn hash(&self) -> GenesisHash {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(b"smr genesis 1");
        bytes.push(u8::from(self.cluster.is_some()));
        bytes.extend_from_slice(&self.cluster.map_or(0, |cluster| cluster.0).to_le_bytes());
        bytes.push(self.group.as_str().len() as u8); // at most GroupName::LEN_MAX_BYTES
        bytes.extend_from_slice(self.group.as_str().as_bytes());
        for member in &self.members {
            bytes.extend_from_slice(&member.name.0.to_le_bytes());
            bytes.extend_from_slice(&member.incarnation.0.to_le_bytes());
        }
        GenesisHash(xxhash_rust::xxh3::xxh3_128(&bytes))
    }

    /// The cluster that the group belongs to: the recorded one, or, for the founding group, the one it makes.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster.unwrap_or(ClusterId(self.hash().0))
    }

    /// The first entry of every log of the group.
    pub fn first_entry(&self) -> Entry {
        Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Configuration(Configuration::of(self.members.iter().copied())),
        }
    }
}

/// What a founder asks for: that this genesis be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisRequest {
    /// What is to be recorded.
    pub genesis: Genesis,
    /// The operator's word that it replaces this one. `None`: there is to be no other.
    pub instead_of: Option<Incumbent>,
}

/// The group that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Incumbent {
    /// It was founded before such things were recorded: its members are known, its genesis is not.
    Unrecorded,
    /// The group with this genesis.
    Recorded(GenesisHash),
}

/// The term a node is in, the vote it gave there, and its leases (Raft §5.2, `currentTerm` and
/// `votedFor`). Durable before anything that rests on it leaves the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The highest term seen. Never falls.
    pub term: Term,
    /// The candidate that got this node's vote in `term`.
    pub vote: Option<NodeId>,
    /// The longest lease that it ever granted to a leader, in microseconds (0: none): this long it votes for no one
    /// after a start. Never falls.
    pub lease_us: u64,
}

/// What a snapshot stands for, besides the state itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot includes; [`EntryId::ZERO`] for "no snapshot".
    pub last: EntryId,
    /// The configuration in force at `last`.
    pub configuration: Configuration,
    /// The entry that carried this configuration.
    pub configuration_index: Index,
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.t{}", self.index, self.term)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for GenesisHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for GenesisHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
