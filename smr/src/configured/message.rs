//! What the members of a configured group say to each other.

use serde::{Deserialize, Serialize};

use crate::core_kit::matching::validate_append;
use crate::entry::{Entry, EntryId, Index, Term};
use crate::epoch::{EPOCH_LIMIT, EpochConfiguration};
use crate::id::NodeId;

/// Indexes at or above this one are reached by no log: whoever names one is broken (B5).
pub const INDEX_LIMIT: Index = Index(u64::MAX / 2);

/// A message: what is said, and in which epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's epoch; 0 before its first.
    pub epoch: Term,
    /// The configuration of that epoch, until the receiver is known to have it: so a member needs the service for
    /// leases only.
    pub configuration: Option<EpochConfiguration>,
    /// What is said.
    pub body: Body,
}

/// What is said. The table in [`crate::configured`] shows who says it to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Entries for the log; without any it only asks whether the log reaches here.
    Append {
        /// The entry right before `entries`.
        previous: EntryId,
        /// Consecutive entries.
        entries: Vec<Entry>,
        /// The sender's commit index.
        commit: Index,
    },
    /// My durable log equals yours up to this entry.
    Accepted {
        /// The entry.
        last: EntryId,
    },
    /// My log has no such previous entry.
    Rejected {
        /// The previous entry's index in the append.
        previous: Index,
        /// The last entry at which the logs may still agree; before `previous`.
        hint: EntryId,
    },
    /// What you sent contradicts what is committed here.
    Contradicted {
        /// The last entry that the sender knows to be committed.
        commit: EntryId,
    },
    /// In a chain: I and all before me have the log durable up to this entry.
    Durable {
        /// The entry.
        through: EntryId,
    },
    /// The sender is there.
    Heartbeat {
        /// The last entry that is committed and, as far as the sender knows, in the receiver's log.
        commit: EntryId,
        /// As in [`Body::Durable`]; entry 0 outside of a chain.
        through: EntryId,
    },
    /// A heartbeat was heard.
    HeartbeatAck {
        /// In a chain, the last entry that the sender knows to be committed; else entry 0.
        commit: EntryId,
    },
    /// This entry is committed: from the first to the others, in a chain from the tail on upwards.
    Commit {
        /// The entry.
        last: EntryId,
    },
    /// Are you still in this epoch? I have reads that wait for that.
    Confirm {
        /// Names this start of the sender; drawn at random, comes back in the answer.
        start: u64,
        /// Counts up in a start.
        round: u64,
    },
    /// I am.
    Confirmed {
        /// From the question.
        start: u64,
        /// From the question.
        round: u64,
    },
    /// The message's configuration is all that there is to say: your epoch is over, or you asked.
    Announce,
    /// You spoke in an epoch that I do not know.
    ConfigurationWanted,
}

impl Message {
    /// A lower bound for the fixed part on the wire, in bytes.
    const FIXED_BYTES: usize = 64;

    /// About how many bytes the message takes on the wire.
    pub(super) fn size_bytes(&self) -> usize {
        let configuration = self.configuration.as_ref().map_or(0, |known| known.members.len() * size_of::<NodeId>());
        let entries = match &self.body {
            Body::Append { entries, .. } => entries.iter().map(Entry::size_bytes).sum(),
            _ => 0,
        };
        Message::FIXED_BYTES + configuration + entries
    }

    /// Whether the message is sound, judged by itself (B5); if not, why.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.epoch >= EPOCH_LIMIT {
            return Err(format!("{:?} is beyond all epochs", self.epoch));
        }
        if self.epoch == Term::ZERO && self.body != Body::ConfigurationWanted {
            return Err("a message of epoch 0".to_owned());
        }
        if let Some(configuration) = &self.configuration {
            configuration.validate()?;
            if configuration.epoch != self.epoch {
                return Err(format!("{configuration} in a message of epoch {}", self.epoch));
            }
        }
        let named = match &self.body {
            Body::Append { previous, entries, .. } => {
                validate_append(self.epoch, *previous, entries)?;
                [*previous, EntryId::ZERO]
            }
            Body::Rejected { previous, hint } => {
                if hint.index >= *previous {
                    return Err(format!("hint {hint} is not before the rejected entry {previous}"));
                }
                [*hint, EntryId::ZERO]
            }
            Body::Heartbeat { commit, through } => [*commit, *through],
            Body::Accepted { last: named }
            | Body::Durable { through: named }
            | Body::HeartbeatAck { commit: named }
            | Body::Contradicted { commit: named }
            | Body::Commit { last: named } => [*named, EntryId::ZERO],
            Body::Confirm { .. } | Body::Confirmed { .. } | Body::Announce | Body::ConfigurationWanted => {
                [EntryId::ZERO; 2]
            }
        };
        let is_possible = |id: &EntryId| {
            id.term <= self.epoch && id.index < INDEX_LIMIT && (id.index == Index::ZERO) == (id.term == Term::ZERO)
        };
        match named.iter().find(|id| !is_possible(id)) {
            Some(id) => Err(format!("entry {id} cannot exist in epoch {}", self.epoch)),
            None => Ok(()),
        }
    }
}
