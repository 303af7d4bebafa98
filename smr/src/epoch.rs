//! The configuration of a group whose members are decided elsewhere: by a configuration service, one epoch after
//! another.
//!
//! Raft's members agree on themselves ([`crate::entry::Configuration`]). The other kinds keep *every* member in step
//! and let the service change who that is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::id::NodeId;

/// Members of an epoch at most.
pub const EPOCH_MEMBERS_MAX: usize = 9;
/// Epochs at or above this one are no result of decisions: whoever names one is broken (B5).
pub const EPOCH_LIMIT: Term = Term(u64::MAX / 2);

/// A way to keep all members in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EpochKind {
    /// Chain replication: writes enter at the head, are committed by the tail, reads go to any member.
    Chain,
    /// Active replication: clients send to all, the first member orders, all answer.
    Active,
    /// Warm passive replication: the primary orders, applies and answers; the others store what it says.
    Passive,
}

impl EpochKind {
    /// Whether the log travels from member to member instead of from the first to all.
    pub fn is_chain(self) -> bool {
        self == EpochKind::Chain
    }

    /// Whether clients send writes to all members, each of which answers.
    pub fn all_take_writes(self) -> bool {
        self == EpochKind::Active
    }

    /// Whether every member applies what is committed, and so can answer reads.
    pub fn all_apply(self) -> bool {
        self != EpochKind::Passive
    }
}

impl fmt::Display for EpochKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EpochKind::Chain => "chain",
            EpochKind::Active => "active",
            EpochKind::Passive => "passive",
        })
    }
}

/// How a group is kept in step. Chosen when the group is laid out, and the same for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GroupKind {
    /// By a majority of members that agree on themselves.
    #[default]
    Raft,
    /// By all members of an epoch, which a configuration service decides on.
    Epochs(EpochKind),
}

impl GroupKind {
    /// All of them, in the order in which they are listed for a person.
    pub const ALL: [GroupKind; 4] = [
        GroupKind::Raft,
        GroupKind::Epochs(EpochKind::Chain),
        GroupKind::Epochs(EpochKind::Active),
        GroupKind::Epochs(EpochKind::Passive),
    ];

    /// The kind of its epochs, if it has any.
    pub fn epochs(self) -> Option<EpochKind> {
        match self {
            GroupKind::Raft => None,
            GroupKind::Epochs(kind) => Some(kind),
        }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupKind::Raft => f.write_str("raft"),
            GroupKind::Epochs(kind) => kind.fmt(f),
        }
    }
}

/// No kind of group has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of group: raft, chain, active or passive")]
pub struct UnknownKind(String);

impl FromStr for GroupKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<GroupKind, UnknownKind> {
        let known = GroupKind::ALL.into_iter().find(|kind| kind.to_string() == name);
        known.ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// Who the members are in one epoch, as the service decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochConfiguration {
    /// Its number: counts up, one for each decision.
    pub epoch: Term,
    /// The kind of the group, the same in all epochs.
    pub kind: EpochKind,
    /// The members in order: the first orders writes, and is the head of a chain.
    pub members: Vec<NodeId>,
    /// The newcomer, which has not shown yet that it holds all that was ever committed. Every commit needs it all the
    /// same.
    pub incomplete: Option<NodeId>,
}

impl EpochConfiguration {
    /// Who orders writes.
    ///
    /// # Panics
    /// If there are no members: [`EpochConfiguration::validate`] is for what comes from outside.
    pub fn first(&self) -> NodeId {
        *self.members.first().unwrap_or_else(|| panic!("{self} has no members"))
    }

    /// Who comes last: the tail of a chain.
    ///
    /// # Panics
    /// As in [`EpochConfiguration::first`].
    pub fn last(&self) -> NodeId {
        *self.members.last().unwrap_or_else(|| panic!("{self} has no members"))
    }

    /// Whether a node is a member, complete or not.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// The member before this one.
    pub fn before(&self, node: NodeId) -> Option<NodeId> {
        let position = self.members.iter().position(|member| *member == node)?;
        self.members.get(position.checked_sub(1)?).copied()
    }

    /// The member after this one.
    pub fn after(&self, node: NodeId) -> Option<NodeId> {
        let position = self.members.iter().position(|member| *member == node)?;
        self.members.get(position + 1).copied()
    }

    /// Whether it can be a decision of a sound service (B5).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        let distinct = (1..self.members.len()).all(|at| !self.members[..at].contains(&self.members[at]));
        let rules = [
            (self.epoch > Term::ZERO && self.epoch < EPOCH_LIMIT, "no epoch has this number"),
            (!self.members.is_empty(), "it has no members"),
            (self.members.len() <= EPOCH_MEMBERS_MAX, "it has too many members"),
            (distinct, "a member is named twice"),
            (self.incomplete.is_none_or(|node| self.is_member(node)), "the newcomer is no member"),
            (self.incomplete.is_none() || self.incomplete != self.members.first().copied(), "the newcomer is first"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(format!("configuration {self}: {broken}")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for EpochConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of epoch {}: ", self.kind, self.epoch)?;
        for (position, member) in self.members.iter().enumerate() {
            let newcomer = if self.incomplete == Some(*member) { " (incomplete)" } else { "" };
            write!(f, "{}{member}{newcomer}", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(names: &[u16]) -> EpochConfiguration {
        let members = names.iter().map(|name| NodeId::new(*name, 1)).collect();
        EpochConfiguration { epoch: Term(3), kind: EpochKind::Chain, members, incomplete: None }
    }

    // covers B5
    #[test]
    fn validate_what_no_service_decides_refused() {
        let sound = configuration(&[2, 0, 1]);
        let newcomer = |name| EpochConfiguration { incomplete: Some(NodeId::new(name, 1)), ..sound.clone() };
        assert_eq!(sound.validate(), Ok(()));
        assert_eq!(newcomer(1).validate(), Ok(()));
        let unsound = [
            configuration(&[]),
            configuration(&[0, 1, 0]),
            configuration(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            newcomer(2),
            newcomer(7),
            EpochConfiguration { epoch: Term::ZERO, ..sound.clone() },
            EpochConfiguration { epoch: EPOCH_LIMIT, ..sound },
        ];
        for configuration in unsound {
            assert!(configuration.validate().is_err(), "{configuration}");
        }
    }

    #[test]
    fn kinds_are_read_back_from_their_names_and_others_refused() {
        for kind in GroupKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "Chain".parse::<GroupKind>().unwrap_err();
        assert_eq!(error.to_string(), "\"Chain\" is no kind of group: raft, chain, active or passive");
    }

    #[test]
    fn neighbours_of_the_ends_and_of_strangers_are_none() {
        let chain = configuration(&[2, 0, 1]);
        let node = |name| NodeId::new(name, 1);
        assert_eq!((chain.first(), chain.last()), (node(2), node(1)));
        assert_eq!((chain.before(node(2)), chain.after(node(2))), (None, Some(node(0))));
        assert_eq!((chain.before(node(1)), chain.after(node(1))), (Some(node(0)), None));
        assert_eq!((chain.before(node(5)), chain.after(node(5))), (None, None));
    }
}
