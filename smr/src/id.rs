//! Who is who: the names that a replica carries in its directory, in every handshake and in every configuration.
//!
//! A *node* is a name plus an incarnation. The name says which seat of the group the process fills and never
//! changes; the incarnation is drawn at random when a data directory is made, and dies with it. So a process
//! that comes back on an emptied disk is another node, and nobody mistakes it for the one that made promises
//! (fault catalogue M6, M7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The seat of a replica in its group, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeName(pub u16);

/// One life of a data directory: random, never reused, never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A member of a group: a name and the incarnation that fills it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// The seat.
    pub name: NodeName,
    /// The life that fills it.
    pub incarnation: Incarnation,
}

impl NodeId {
    /// The node `name` in its life `incarnation`.
    pub const fn new(name: u16, incarnation: u64) -> NodeId {
        NodeId { name: NodeName(name), incarnation: Incarnation(incarnation) }
    }
}

/// The cluster that a group belongs to: the hash of the genesis of its manager group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// The name of a group inside its cluster, for example `m` or `s0`: 1 to [`GroupName::LEN_MAX_BYTES`] bytes of
/// ASCII letters, digits, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

impl GroupName {
    /// The longest name, in bytes; it must fit into a slot of the promise file.
    pub const LEN_MAX_BYTES: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no group name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a group name has 1 to 32 letters, digits, '-' or '_', not {0:?}")]
pub struct BadGroupName(String);

impl TryFrom<String> for GroupName {
    type Error = BadGroupName;

    fn try_from(text: String) -> Result<GroupName, BadGroupName> {
        let fits = (1..=GroupName::LEN_MAX_BYTES).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if fits && plain { Ok(GroupName(text)) } else { Err(BadGroupName(text)) }
    }
}

impl FromStr for GroupName {
    type Err = BadGroupName;

    fn from_str(text: &str) -> Result<GroupName, BadGroupName> {
        GroupName::try_from(text.to_owned())
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> String {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.incarnation)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
