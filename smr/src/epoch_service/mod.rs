//! What a configuration service decides for a group whose members it names: the other half of [`crate::configured`].
//!
//! A service is itself replicated. What it decided is an [`EpochRecord`], part of its replicated state, and changes by
//! [`EpochDecision`]s alone, in the order of its log. What its leader has heard, and whom it granted leases, is an
//! [`Arbiter`], in its memory only: it takes in what members say ([`MemberReport`]), answers ([`ServiceWord`]), and
//! proposes the next decision. Both are values without clock or thread.
//!
//! # What a host of it has to see to
//! - It takes in a report at a leader that was confirmed *after* the report had arrived: by a linearizable read that
//!   brings the record. Only then a lease that is granted in the answer means something.
//! - A leader makes a new arbiter for each time that it becomes one, and nothing that an earlier one had proposed may
//!   be applied after the new one has granted something. So decisions carry the name of the arbiter, which is itself
//!   made known by a decision ([`EpochDecision::Presides`]) before it grants anything.

mod arbiter;
mod record;

use serde::{Deserialize, Serialize};

use crate::entry::{EntryId, Term};
use crate::epoch::EpochConfiguration;
use crate::id::NodeId;
use crate::protocol::{Report, Time};

/// Monotonic time of a host of the service, in microseconds since an origin of its choice.
pub use crate::protocol::Time as ServiceTime;

pub use self::arbiter::{Arbiter, ArbiterSettings, BadArbiterSettings, NotPromoted};
pub use self::record::{EpochDecision, EpochRecord, NotDecided, PresiderId};

/// What a member, or who would be one, says to the service. Said again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Who.
    pub node: NodeId,
    /// The epoch in which it acts; 0 before its first.
    pub epoch: Term,
    /// The end of its log.
    pub last: EntryId,
    /// What it has to say besides.
    pub reports: Vec<Report>,
}

/// Members of an epoch can be in the way of it, and a few other things can be said.
pub const REPORTS_MAX: usize = 16;

/// What it hears back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceWord {
    /// The present configuration of its group.
    pub configuration: EpochConfiguration,
    /// The lease that it asked for.
    pub lease: Option<LeaseGrant>,
    /// Whom it is to bring up to date, if it is complete in the present epoch.
    pub feeds: Option<NodeId>,
}

/// See [`Report::LeaseWanted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// From the request.
    pub epoch: Term,
    /// From the request.
    pub asked_at: Time,
    /// How long it lasts from then on, in microseconds.
    pub length_us: u64,
}
