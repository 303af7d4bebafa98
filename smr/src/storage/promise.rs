//! The file `promise`: who this node is, whether it was born, and what it has promised.
//!
//! It is the only home of term, vote and longest lease, and it is synced before anything that rests on it leaves the node. A change goes to one
//! slot, is synced, then to the other, is synced: so a crash leaves the old or the new one, and later damage to either slot
//! cannot bring back an older vote.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::slots::{self, Found, Slots};
use super::{Damage, Identity, StorageError};
use crate::codec::{self, CodecError};
use crate::entry::{Genesis, GenesisHash, Promise, Term};
use crate::id::NodeId;

pub(crate) const PROMISE: &str = "promise";
const MAGIC: [u8; 8] = *b"SMRPROMS";

/// Whether a node has begun to count. Only a born one may vote, and none is born twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Birth {
    /// Waits for its group to be founded, or to be taken in.
    Unborn,
    /// Belongs to a group.
    Born {
        /// The group's birth certificate.
        genesis: GenesisHash,
        /// The certificate itself, for a founder; `None` for a node that was taken in later.
        founders: Option<Genesis>,
    },
    /// Belongs to no group, and knows that its group exists without it. It waits to be taken in, and never founds a group
    /// unless the operator says so: whoever it would found one with may have been emptied, too.
    Excluded {
        /// Who said so.
        witness: Witness,
    },
}

impl Birth {
    /// Whether the node belongs to a group.
    pub fn is_born(&self) -> bool {
        matches!(self, Birth::Born { .. })
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
pub struct PromiseRecord {
    /// Whose it is.
    pub identity: Identity,
    /// Whether the node has begun to count.
    pub birth: Birth,
    /// Term and vote.
    pub promise: Promise,
}

/// The record of version 1, which knew of no leases.
#[derive(Deserialize)]
struct LeaselessRecord {
    identity: Identity,
    birth: Birth,
    term: Term,
    vote: Option<NodeId>,
}

/// What the file says. A record of version 1 is shorter, and no beginning of the other; it is replaced by the next write.
fn decode(content: &[u8]) -> Result<PromiseRecord, CodecError> {
    codec::decode(content).or_else(|error| {
        let LeaselessRecord { identity, birth, term, vote } = codec::decode(content).map_err(|_| error)?;
        Ok(PromiseRecord { identity, birth, promise: Promise { term, vote, lease_us: 0 } })
    })
}

/// The open file.
pub(crate) struct PromiseFile {
    slots: Slots,
    record: PromiseRecord,
}

pub(crate) enum FoundPromise {
    Missing,
    Newer { file: PathBuf, found: u16 },
    Broken(Damage),
    Sound { file: Box<PromiseFile>, repair: Option<String> },
}

impl PromiseFile {
    /// Looks at the file without changing it.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> std::io::Result<FoundPromise> {
        let path = directory.join(PROMISE);
        Ok(match slots::read(disk, &path, MAGIC)? {
            Found::Missing => FoundPromise::Missing,
            Found::Newer { found } => FoundPromise::Newer { file: path, found },
            Found::Broken(damage) => FoundPromise::Broken(damage),
            Found::Sound { slots, content, amiss } => match decode(&content) {
                Ok(record) => FoundPromise::Sound {
                    file: Box::new(PromiseFile { slots, record }),
                    repair: amiss.map(|what| format!("{}: {what}, repaired", path.display())),
                },
                Err(error) => FoundPromise::Broken(Damage::new(&path, error)),
            },
        })
    }

    pub(crate) fn create(
        disk: &dyn Disk,
        directory: &Path,
        record: PromiseRecord,
    ) -> Result<PromiseFile, StorageError> {
        let slots = Slots::create(disk, &directory.join(PROMISE), MAGIC, &codec::encode(&record))?;
        Ok(PromiseFile { slots, record })
    }

    pub(crate) fn record(&self) -> &PromiseRecord {
        &self.record
    }

    /// Makes `record` durable. When this returns, anything may rest on it.
    pub(crate) fn write(&mut self, record: PromiseRecord) -> Result<(), StorageError> {
        self.slots.write_both(&codec::encode(&record))?;
        self.record = record;
        Ok(())
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
    fn decode_record_of_version_1_is_one_without_a_lease() {
        let identity = Identity { cluster: None, group: "g".parse().unwrap(), node: NodeId::new(1, 7) };
        let record = |promise| PromiseRecord { identity: identity.clone(), birth: Birth::Unborn, promise };
        let promise = Promise { term: Term(7), vote: Some(NodeId::new(2, 9)), lease_us: 0 };
        let version_1 = codec::encode(&(identity.clone(), Birth::Unborn, promise.term, promise.vote));
        assert_eq!(decode(&version_1).unwrap(), record(promise));
        let leased = Promise { lease_us: 300_000, ..promise };
        let mut version_2 = codec::encode(&record(leased));
        assert_eq!(decode(&version_2).unwrap(), record(leased));
        version_2.truncate(version_2.len() - 1);
        assert!(decode(&version_2).is_err());
    }
}
