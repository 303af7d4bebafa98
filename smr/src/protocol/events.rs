//! What a core has to tell: events for logs and whoever waits, reports for the configuration service.

use serde::{Deserialize, Serialize};

use super::Time;
use crate::entry::{EntryId, Index, Term};
use crate::id::NodeId;
use crate::status::Role;

/// What has changed in a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node's part, its term or epoch, or whom it follows has changed, and with that perhaps its routing.
    RoleChanged {
        /// Its part now.
        role: Role,
        /// The term or epoch now.
        term: Term,
        /// Whom it follows now, if that is known, or itself.
        leader: Option<NodeId>,
    },
    /// This node orders no more writes, of its own accord.
    StandsDown {
        /// Why.
        cause: StandDown,
    },
    /// A transfer of leadership came to nothing; this node serves again.
    TransferFailed,
    /// This node's disk does not keep up with the group that it orders writes for; it hands over (E21).
    DiskLags {
        /// To this one.
        successor: NodeId,
    },
    /// The leader counts on an entry that this node acknowledged in the present term, and the node does not have it:
    /// its directory was set back, or its disk lied (M8). It must not take part any longer.
    Forgot {
        /// The entry.
        entry: EntryId,
    },
    /// The node lacks nothing any more that it may have acknowledged: from now on it counts. The disk has to know.
    Healed {
        /// Up to where its log had to be brought.
        through: Index,
    },
    /// In a `passive` group, the primary's backups should be brought up to date with its state.
    CheckpointDue {
        /// The epoch.
        epoch: Term,
        /// Up to here: the last entry that is committed.
        end: EntryId,
    },
    /// What a member says and what this node knows cannot both be, unless some directory has lost what was durable
    /// there: two leaders of one term, two entries under one id, a leader without an entry that is committed. Going on
    /// would destroy what is left, so this node must keep what it has, and not take part any longer.
    LossProven {
        /// Both sides of it.
        what: String,
    },
    /// A message was dropped because it cannot come from a sound peer (B5).
    ProtocolViolation {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        what: String,
    },
}

/// Why a member that orders writes gives that up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandDown {
    /// No quorum has answered for long enough that it may have elected another one (E8, E10).
    QuorumSilent {
        /// For how long, in microseconds.
        for_us: u64,
    },
    /// Its disk does not finish a write (E19).
    DiskStalled {
        /// For how long it has not, in microseconds.
        for_us: u64,
        /// Who is to take over.
        successor: NodeId,
    },
}

/// What a member says to its group's configuration service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first entry of this epoch is committed: every member of it holds all that was ever committed.
    Activated {
        /// The epoch.
        epoch: Term,
    },
    /// A member of this epoch does not answer, or does not acknowledge, for long enough that it counts as gone.
    Blocked {
        /// The epoch.
        epoch: Term,
        /// That member.
        by: NodeId,
        /// The end of the log of the node that says so: among complete ones, the highest is to be first.
        last: EntryId,
    },
    /// The newcomer lacks no more than was written a moment ago: it may be made a member.
    CaughtUp {
        /// From [`Input::Join`](super::Input::Join).
        epoch: Term,
        /// The newcomer.
        newcomer: NodeId,
    },
    /// A lease is wanted, to be answered with [`Input::LeaseGranted`](super::Input::LeaseGranted).
    LeaseWanted {
        /// The epoch in which this member acts.
        epoch: Term,
        /// Now.
        asked_at: Time,
    },
    /// The first of this epoch has restarted: it orders nothing before the next one.
    FirstRestarted {
        /// The epoch.
        epoch: Term,
        /// The end of its log.
        last: EntryId,
    },
}

impl Report {
    /// Whether the service should hear it at once, and not with the next heartbeat.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Report::LeaseWanted { .. })
    }

    /// Whether the later one of the two says all that the other one says.
    pub fn is_about_the_same(&self, other: &Report) -> bool {
        match (self, other) {
            (Report::Blocked { by, .. }, Report::Blocked { by: other, .. }) => by == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}
