//! The file `promise`: who this node is, whether it was initialized, and its term and vote.
//!
//! It is the only home of term, vote and longest lease, and it is synced before anything that rests on it leaves the
//! node. A change goes to one slot, is synced, then to the other, is synced: so a crash leaves the old or the new one,
//! and later damage to either slot cannot bring back an older vote.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::slots::{self, Found, Slots};
use super::{Damage, Identity, StorageError};
use crate::codec::{self, CodecError};
use crate::entry::{Genesis, GenesisHash, HardState, Term};
use crate::id::{NodeId, StartTrail};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardStateRecord {
    /// Whose it is.
    pub identity: Identity,
    /// Whether the node has begun to count.
    pub bootstrap: BootstrapState,
    /// Term and vote.
    pub hard_state: HardState,
    /// The latest start of a process on this directory.
    pub start: StartTrail,
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
fn decode(content: &[u8]) -> Result<HardStateRecord, CodecError> {
    let start = StartTrail::default();
    codec::decode(content)
        .or_else(|error| {
            let StartlessRecord { identity, bootstrap, hard_state } = codec::decode(content).map_err(|_| error)?;
            Ok(HardStateRecord { identity, bootstrap, hard_state, start })
        })
        .or_else(|error: CodecError| {
            let LeaselessRecord { identity, bootstrap, term, vote } = codec::decode(content).map_err(|_| error)?;
            Ok(HardStateRecord { identity, bootstrap, hard_state: HardState { term, vote, lease_us: 0 }, start })
        })
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
            Found::Sound { slots, content, amiss } => match decode(&content) {
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
        let slots = Slots::create(disk, &directory.join(HARD_STATE), MAGIC, &codec::encode(&record))?;
        Ok(HardStateFile { slots, record })
    }

    pub(crate) fn record(&self) -> &HardStateRecord {
        &self.record
    }

    /// Makes `record` durable. When this returns, anything may rest on it.
    pub(crate) fn write(&mut self, record: HardStateRecord) -> Result<(), StorageError> {
        self.slots.write_both(&codec::encode(&record))?;
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
        let record = |hard_state| HardStateRecord {
            identity: identity.clone(),
            bootstrap: BootstrapState::Uninitialized,
            hard_state,
            start,
        };
        let hard_state = HardState { term: Term(7), vote: Some(NodeId::new(2, 9)), lease_us: 0 };
        let version_1 =
            codec::encode(&(identity.clone(), BootstrapState::Uninitialized, hard_state.term, hard_state.vote));
        assert_eq!(decode(&version_1).unwrap(), record(hard_state));
        let leased = HardState { lease_us: 300_000, ..hard_state };
        let version_2 = codec::encode(&(identity.clone(), BootstrapState::Uninitialized, leased));
        assert_eq!(decode(&version_2).unwrap(), record(leased));
        let started = HardStateRecord { start: StartTrail::default().next(8).next(9), ..record(leased) };
        let mut version_3 = codec::encode(&started);
        assert_eq!(decode(&version_3).unwrap(), started);
        version_3.truncate(version_3.len() - 1);
        assert!(decode(&version_3).is_err());
    }

    #[test]
    fn record_of_the_largest_group_fits_into_a_slot() {
        let group: crate::id::GroupName = "g".repeat(crate::id::GroupName::LEN_MAX_BYTES).parse().unwrap();
        let cluster = Some(crate::id::ClusterId(u128::MAX));
        let members = (0..9).map(|name| NodeId::new(name, u64::MAX)).collect();
        let genesis = Genesis { cluster, group: group.clone(), members };
        let record = HardStateRecord {
            identity: Identity { cluster, group, node: NodeId::new(8, u64::MAX) },
            bootstrap: BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis) },
            hard_state: HardState { term: Term(u64::MAX), vote: Some(NodeId::new(8, u64::MAX)), lease_us: u64::MAX },
            start: StartTrail::default(),
        };
        let bytes = codec::encode(&record).len();
        assert!(bytes <= slots::CONTENT_MAX_BYTES, "{bytes} bytes");
    }
}
