//! The file `promise`: who this node is, whether it was initialized, and its term and vote, or the configuration of the
//! epoch that it acts in.
//!
//! It is the only home of those, and it is synced before anything that rests on it leaves the node. Of a Raft group the
//! record is what it has always been; of the other kinds it is longer, stands in wide slots, and names the kind.
//!
//! A change goes to one slot, is synced, then to the other, is synced: so a crash leaves the old or the new one,
//! and later damage to either slot cannot bring back an older vote.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::slots::{self, Found, Slots, Width};
use super::{Damage, Identity, StorageError};
use crate::codec::{self, CodecError};
use crate::entry::{Genesis, GenesisHash, HardState, Term};
use crate::epoch::{EpochConfiguration, EpochKind, GroupKind};
use crate::id::{NodeId, StartTrail};
use crate::protocol::StoredState;

/// The file's name, as every version has called it.
pub(crate) const HARD_STATE: &str = "promise";
const MAGIC: [u8; 8] = *b"SMRPROMS";

/// Whether a node has begun to count. Only an initialized one may vote, and none is initialized twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootstrapState {
    /// Waits for its group to be founded, or to be taken in.
    Uninitialized,
    /// Belongs to a group.
    Initialized {
        /// The hash of the group's genesis.
        genesis: GenesisHash,
        /// The genesis itself, for a founder; `None` for a node that was taken in later.
        founders: Option<Genesis>,
    },
    /// Belongs to no group, and knows that its group exists without it. It waits to be taken in, and never founds a
    /// group unless the operator says so: whoever it would found one with may have been emptied, too.
    Excluded {
        /// Who said so.
        witness: Witness,
    },
}

impl BootstrapState {
    /// Whether the node belongs to a group.
    pub fn is_initialized(&self) -> bool {
        matches!(self, BootstrapState::Initialized { .. })
    }
}

/// Who told a node that its group exists without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Witness {
    /// Another replica of the group.
    Peer(NodeId),
    /// Whoever records which group was founded: the manager.
    Recorder,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Witness::Peer(node) => write!(f, "replica {node} knows"),
            Witness::Recorder => f.write_str("the manager knows"),
        }
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardStateRecord {
    /// Whose it is.
    pub identity: Identity,
    /// Whether the node has begun to count.
    pub bootstrap: BootstrapState,
    /// The kind of its group.
    pub kind: GroupKind,
    /// What it is bound by, in the form of that kind.
    pub stored: StoredState,
    /// The latest start of a process on this directory.
    pub start: StartTrail,
}

impl HardStateRecord {
    /// Of a directory that begins.
    pub(crate) fn begin(identity: Identity, kind: GroupKind) -> HardStateRecord {
        let stored = match kind {
            GroupKind::Raft => StoredState::default(),
            GroupKind::Epochs(_) => StoredState::Configured(None),
        };
        let (bootstrap, start) = (BootstrapState::Uninitialized, StartTrail::default());
        HardStateRecord { identity, bootstrap, kind, stored, start }
    }
}

/// The record of a node of a Raft group, from version 3 on.
#[derive(Serialize, Deserialize)]
struct RaftRecord {
    identity: Identity,
    bootstrap: BootstrapState,
    hard_state: HardState,
    start: StartTrail,
}

/// The record of version 4, in wide slots.
#[derive(Serialize, Deserialize)]
struct TaggedRecord {
    identity: Identity,
    bootstrap: BootstrapState,
    start: StartTrail,
    state: TaggedState,
}

/// What a node is bound by, by the kind of its group. Other kinds to come are appended.
#[derive(Serialize, Deserialize)]
enum TaggedState {
    Epochs { kind: EpochKind, configuration: Option<EpochConfiguration> },
}

fn encode(record: &HardStateRecord) -> (Width, Vec<u8>) {
    let HardStateRecord { identity, bootstrap, kind, stored, start } = record.clone();
    match (kind, stored) {
        (GroupKind::Raft, StoredState::Raft(hard_state)) => {
            (Width::Narrow, codec::encode(&RaftRecord { identity, bootstrap, hard_state, start }))
        }
        (GroupKind::Epochs(kind), StoredState::Configured(configuration)) => {
            let state = TaggedState::Epochs { kind, configuration };
            (Width::Wide, codec::encode(&TaggedRecord { identity, bootstrap, start, state }))
        }
        (kind, stored) => panic!("{identity}: {stored:?} in a group of kind {kind}"),
    }
}

/// The record of version 2, which did not count starts.
#[derive(Deserialize)]
struct StartlessRecord {
    identity: Identity,
    bootstrap: BootstrapState,
    hard_state: HardState,
}

/// The record of version 1, which knew of no leases.
#[derive(Deserialize)]
struct LeaselessRecord {
    identity: Identity,
    bootstrap: BootstrapState,
    term: Term,
    vote: Option<NodeId>,
}

/// What the file says. Records of older versions are shorter, and none is the beginning of another; each is replaced by
/// the next write.
fn decode(width: Width, content: &[u8]) -> Result<HardStateRecord, CodecError> {
    if width == Width::Wide {
        let TaggedRecord { identity, bootstrap, start, state } = codec::decode(content)?;
        let TaggedState::Epochs { kind, configuration } = state;
        let (kind, stored) = (GroupKind::Epochs(kind), StoredState::Configured(configuration));
        return Ok(HardStateRecord { identity, bootstrap, kind, stored, start });
    }
    let start = StartTrail::default();
    let record = codec::decode(content)
        .or_else(|error| {
            let StartlessRecord { identity, bootstrap, hard_state } = codec::decode(content).map_err(|_| error)?;
            Ok(RaftRecord { identity, bootstrap, hard_state, start })
        })
        .or_else(|error: CodecError| {
            let LeaselessRecord { identity, bootstrap, term, vote } = codec::decode(content).map_err(|_| error)?;
            Ok(RaftRecord { identity, bootstrap, hard_state: HardState { term, vote, lease_us: 0 }, start })
        })?;
    let RaftRecord { identity, bootstrap, hard_state, start } = record;
    Ok(HardStateRecord { identity, bootstrap, kind: GroupKind::Raft, stored: hard_state.into(), start })
}

/// The open file.
pub(crate) struct HardStateFile {
    slots: Slots,
    record: HardStateRecord,
}

pub(crate) enum FoundHardState {
    Missing,
    Newer { file: PathBuf, found: u16 },
    Broken(Damage),
    Sound { file: Box<HardStateFile>, repair: Option<String> },
}

impl HardStateFile {
    /// Looks at the file without changing it.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> std::io::Result<FoundHardState> {
        let path = directory.join(HARD_STATE);
        Ok(match slots::read(disk, &path, MAGIC)? {
            Found::Missing => FoundHardState::Missing,
            Found::Newer { found } => FoundHardState::Newer { file: path, found },
            Found::Broken(damage) => FoundHardState::Broken(damage),
            Found::Sound { slots, content, amiss } => match decode(slots.width(), &content) {
                Ok(record) => FoundHardState::Sound {
                    file: Box::new(HardStateFile { slots, record }),
                    repair: amiss.map(|what| format!("{}: {what}, repaired", path.display())),
                },
                Err(error) => FoundHardState::Broken(Damage::new(&path, error)),
            },
        })
    }

    pub(crate) fn create(
        disk: &dyn Disk,
        directory: &Path,
        record: HardStateRecord,
    ) -> Result<HardStateFile, StorageError> {
        let (width, content) = encode(&record);
        let slots = Slots::create_of(width, disk, &directory.join(HARD_STATE), MAGIC, &content)?;
        Ok(HardStateFile { slots, record })
    }

    pub(crate) fn record(&self) -> &HardStateRecord {
        &self.record
    }

    /// Makes `record` durable. When this returns, anything may rest on it.
    pub(crate) fn write(&mut self, record: HardStateRecord) -> Result<(), StorageError> {
        let (width, content) = encode(&record);
        assert!(width == self.slots.width(), "{} becomes one of a group of kind {}", record.identity, record.kind);
        self.slots.write_both(&content)?;
        self.record = record;
        Ok(())
    }

    /// Counts a start. When this returns it is durable, in both slots: no damage to one of them takes it back.
    pub(crate) fn begin_start(&mut self, nonce: u64) -> Result<StartTrail, StorageError> {
        let start = self.record.start.next(nonce);
        self.write(HardStateRecord { start, ..self.record.clone() })?;
        Ok(start)
    }

    /// Writes what counts to both slots again.
    pub(crate) fn repair(&mut self) -> Result<(), StorageError> {
        self.write(self.record.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers D16
    #[test]
    fn decode_records_of_versions_1_and_2_are_ones_without_lease_and_start() {
        let identity = Identity { cluster: None, group: "g".parse().unwrap(), node: NodeId::new(1, 7) };
        let start = StartTrail::default();
        let record = |hard_state: HardState| HardStateRecord {
            identity: identity.clone(),
            bootstrap: BootstrapState::Uninitialized,
            kind: GroupKind::Raft,
            stored: hard_state.into(),
            start,
        };
        let decode = |content: &[u8]| decode(Width::Narrow, content);
        let hard_state = HardState { term: Term(7), vote: Some(NodeId::new(2, 9)), lease_us: 0 };
        let version_1 =
            codec::encode(&(identity.clone(), BootstrapState::Uninitialized, hard_state.term, hard_state.vote));
        assert_eq!(decode(&version_1).unwrap(), record(hard_state));
        let leased = HardState { lease_us: 300_000, ..hard_state };
        let version_2 = codec::encode(&(identity.clone(), BootstrapState::Uninitialized, leased));
        assert_eq!(decode(&version_2).unwrap(), record(leased));
        let started = HardStateRecord { start: StartTrail::default().next(8).next(9), ..record(leased) };
        let (_, mut version_3) = encode(&started);
        assert_eq!(decode(&version_3).unwrap(), started);
        version_3.truncate(version_3.len() - 1);
        assert!(decode(&version_3).is_err());
    }

    /// Of the largest group there can be.
    fn largest(kind: GroupKind, stored: StoredState) -> HardStateRecord {
        let group: crate::id::GroupName = "g".repeat(crate::id::GroupName::LEN_MAX_BYTES).parse().unwrap();
        let cluster = Some(crate::id::ClusterId(u128::MAX));
        let members = (0..9).map(|name| NodeId::new(name, u64::MAX)).collect();
        let genesis = Genesis { cluster, group: group.clone(), members };
        HardStateRecord {
            identity: Identity { cluster, group, node: NodeId::new(8, u64::MAX) },
            bootstrap: BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis) },
            kind,
            stored,
            start: StartTrail::default(),
        }
    }

    #[test]
    fn record_of_the_largest_group_fits_into_a_slot() {
        let hard_state = HardState { term: Term(u64::MAX), vote: Some(NodeId::new(8, u64::MAX)), lease_us: u64::MAX };
        let (width, content) = encode(&largest(GroupKind::Raft, hard_state.into()));
        assert_eq!(width, Width::Narrow);
        assert!(content.len() <= slots::CONTENT_MAX_BYTES, "{} bytes", content.len());
    }

    #[test]
    fn record_of_the_largest_epoch_fits_into_a_wide_slot_and_is_read_back() {
        let members: Vec<NodeId> = (0..9).map(|name| NodeId::new(name, u64::MAX)).collect();
        for kind in [EpochKind::Chain, EpochKind::Active, EpochKind::Passive] {
            let incomplete = Some(NodeId::new(8, u64::MAX));
            let epoch = EpochConfiguration { epoch: Term(u64::MAX), kind, members: members.clone(), incomplete };
            for configuration in [None, Some(epoch)] {
                let record = largest(GroupKind::Epochs(kind), StoredState::Configured(configuration));
                let (width, content) = encode(&record);
                assert_eq!(width, Width::Wide);
                assert!(content.len() <= slots::WIDE_CONTENT_MAX_BYTES, "{} bytes", content.len());
                assert_eq!(decode(width, &content).unwrap(), record);
                assert!(decode(width, &content[..content.len() - 1]).is_err());
            }
        }
    }
}
