//! Who a directory belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::{ClusterId, GroupName, NodeId, ReplicaId};

/// The owner of a directory. In every record, watermark and hard state, so that a file of another owner is found out
/// (D11, M9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster; unknown before bootstrap.
    pub cluster: Option<ClusterId>,
    /// The group that the replica belongs to.
    pub group: GroupName,
    /// The replica, and which of its incarnations.
    pub node: NodeId,
}

/// Which place in which group a process was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedIdentity {
    /// The group that it was started for.
    pub group: GroupName,
    /// The replica in it.
    pub name: ReplicaId,
    /// The cluster, if the process knows it.
    pub cluster: Option<ClusterId>,
}

impl Identity {
    /// A hash over all of it, for records and watermarks.
    pub fn hash(&self) -> u64 {
        codec::checksum(&[
            b"smr identity 1",
            &[u8::from(self.cluster.is_some())],
            &self.cluster.map_or(0, |cluster| cluster.0).to_le_bytes(),
            &self.node.name.0.to_le_bytes(),
            &self.node.incarnation.0.to_le_bytes(),
            self.group.as_str().as_bytes(),
        ])
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of group {}", self.node, self.group)?;
        match self.cluster {
            Some(cluster) => write!(f, " of cluster {cluster}"),
            None => f.write_str(" of no cluster yet"),
        }
    }
}
