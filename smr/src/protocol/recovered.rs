//! What a core starts from, and what binds it in later starts.

use crate::entry::{Entry, HardState, Index, SnapshotMeta};
use crate::epoch::EpochConfiguration;

/// What a node brought back from its disk, for a core to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What it is bound by.
    pub stored: StoredState,
    /// Its snapshot; the default one for none.
    pub snapshot: SnapshotMeta,
    /// The entries right behind the snapshot, without a hole. Older ones in front of them are ignored.
    pub entries: Vec<Entry>,
    /// Entries are missing that it may have acknowledged: it is silent until it has more than up to this index, at
    /// least.
    pub heals_past: Option<Index>,
}

impl Recovered {
    /// What it is bound by, of a Raft node.
    ///
    /// # Panics
    /// If the node is of another kind.
    pub fn hard_state(&self) -> HardState {
        self.stored.hard_state()
    }
}

/// What binds a node in later starts, durable before anything that rests on it leaves: one record, in the form of its
/// kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredState {
    /// Of Raft: term, vote and leases.
    Raft(HardState),
    /// Of the kinds under a configuration service: the configuration of the epoch that the node acts in, whole; `None`
    /// before the first.
    Configured(Option<EpochConfiguration>),
}

impl StoredState {
    /// Term, vote and leases.
    ///
    /// # Panics
    /// If it is of another kind.
    pub fn hard_state(&self) -> HardState {
        match self {
            StoredState::Raft(hard_state) => *hard_state,
            StoredState::Configured(_) => panic!("{self:?} is no term and vote"),
        }
    }
}

impl Default for StoredState {
    fn default() -> StoredState {
        StoredState::Raft(HardState::default())
    }
}

impl From<HardState> for StoredState {
    fn from(hard_state: HardState) -> StoredState {
        StoredState::Raft(hard_state)
    }
}
