//! Who is who: the names that a replica carries in its directory, in every handshake and in every configuration.
//!
//! A *node* is a replica's number plus an incarnation. The number says which replica of the group the process is and
//! never changes; the incarnation is drawn at random when a data directory is made, and dies with it. So a process
//! that comes back on an emptied disk is another node, and no one mistakes it for the one that voted
//! (fault catalogue M6, M7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A replica's number in its group, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u16);

/// One incarnation of a data directory: random, never reused, never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A member of a group: a replica and its incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// Its number in the group, which later incarnations have, too.
    pub name: ReplicaId,
    /// Which of the directories that the replica has had one after the other.
    pub incarnation: Incarnation,
}

impl NodeId {
    /// Replica `name` in its incarnation `incarnation`.
    pub const fn new(name: u16, incarnation: u64) -> NodeId {
        NodeId { name: ReplicaId(name), incarnation: Incarnation(incarnation) }
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
    /// The longest name, in bytes; it must fit into a slot of the hard state file.
    pub const LEN_MAX_BYTES: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A client's session in one group: the index of the entry that opened it, so unique in the group for ever, and a
/// random part. In another group, or in one that was restored from a backup, there is no such session, whatever was
/// opened at that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId {
    /// The index of the entry.
    pub index: u64,
    /// Chosen by the leader that proposed it; 0 in logs of builds that chose none.
    pub nonce: u64,
}

impl ClientId {
    /// A session without a random part.
    pub const fn at(index: u64) -> ClientId {
        ClientId { index, nonce: 0 }
    }
}

/// How many numbers of a session, counted from the lowest unanswered one, may be under way.
pub const REQUESTS_IN_FLIGHT_MAX: u64 = 1024;

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

/// One start of a process on a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StartId {
    /// The start number, from 1; 0 where no start was ever counted.
    pub number: u64,
    /// Drawn again at each start, never 0: two starts from copies of one directory have the same number.
    pub nonce: u64,
}

/// How many of the starts before it a start can name.
pub const EARLIER_STARTS: usize = 15;

/// A start, with those before it: a counter that is durable before the first connection. A directory that was set back,
/// or copied, does not know a start that others have seen, however often it is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTrail {
    /// The number and the nonce of this start.
    pub id: StartId,
    /// The nonces of the starts before it, the latest first; 0 where there was none.
    pub earlier: [u64; EARLIER_STARTS],
}

/// Why an incarnation must not take part any longer, as someone knows who has seen more of it than it knows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disqualified {
    /// Its directory is older than what was seen of it: it was set back, or is a copy.
    SetBack {
        /// The start that it shows.
        shown: StartId,
        /// The newest one that was seen.
        newest: StartId,
    },
    /// Another incarnation was given its place.
    Replaced {
        /// The incarnation that is there.
        by: Incarnation,
    },
}

impl Disqualified {
    /// For files and for people: `by` says so.
    pub(crate) fn said_by(self, by: &str) -> String {
        format!("{self} ({by} says so)")
    }
}

impl StartTrail {
    /// The start after this one.
    #[must_use]
    pub fn next(self, nonce: u64) -> StartTrail {
        let mut earlier = [0; EARLIER_STARTS];
        earlier[0] = self.id.nonce;
        earlier[1..].copy_from_slice(&self.earlier[..EARLIER_STARTS - 1]);
        StartTrail { id: StartId { number: self.id.number.saturating_add(1), nonce: nonce.max(1) }, earlier }
    }

    /// Judges this start of an incarnation whose newest known start is `newest`; returns whether it is news.
    ///
    /// # Errors
    /// If it is an older one, another one with the same number, or one that does not have that one after it.
    pub fn judge(self, newest: StartId) -> Result<bool, Disqualified> {
        if self.id == newest {
            return Ok(false);
        }
        let passed = self.id.number.checked_sub(newest.number).and_then(|starts| usize::try_from(starts).ok());
        let is_behind = match passed {
            None | Some(0) => false,
            // So long ago that no one can tell.
            Some(starts) if starts > EARLIER_STARTS => true,
            Some(starts) => self.earlier[starts - 1] == newest.nonce,
        };
        if is_behind { Ok(true) } else { Err(Disqualified::SetBack { shown: self.id, newest }) }
    }
}

impl fmt::Display for StartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.number, self.nonce)
    }
}

impl fmt::Display for Disqualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disqualified::SetBack { shown, newest } => {
                write!(f, "its directory was set back or copied: it shows start {shown}, and start {newest} was seen")
            }
            Disqualified::Replaced { by } => write!(f, "incarnation {by} has taken its place"),
        }
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
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

#[cfg(test)]
mod tests {
    use super::*;

    // covers M18 M19
    #[test]
    fn judge_only_a_start_that_knows_the_newest_one_is_news() {
        let first = StartTrail::default().next(11);
        let second = first.next(12);
        let copy = first.next(92);
        assert_eq!(second.judge(StartId::default()), Ok(true), "nothing was counted before");
        assert_eq!((second.judge(second.id), second.judge(first.id)), (Ok(false), Ok(true)));
        for shown in [first, copy, copy.next(93), copy.next(93).next(94)] {
            assert_eq!(shown.judge(second.id), Err(Disqualified::SetBack { shown: shown.id, newest: second.id }));
        }
        let far = (0..EARLIER_STARTS as u64).fold(second, |trail, nonce| trail.next(100 + nonce));
        let far_copy = (0..EARLIER_STARTS as u64).fold(copy, |trail, nonce| trail.next(200 + nonce));
        assert_eq!(far.judge(second.id), Ok(true));
        assert!(far_copy.judge(second.id).is_err());
        assert_eq!(far_copy.next(1).judge(second.id), Ok(true), "forgotten");
    }
}
