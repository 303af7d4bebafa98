//! Who records which group was founded, and may decide who its members are, as the replica sees it.
//!
//! A group that has lost all its directories looks like one that is to be founded for the first time. Only someone
//! outside of it can tell the two apart. The replicated manager does: it records the genesis of each partition, once,
//! and refuses another one. A replica is not initialized as a founder before that is done. It is needed at the first
//! start only.
//!
//! For a group of a kind whose members are decided elsewhere it is the configuration service as well, and needed as
//! long as the group is to survive failures ([`crate::epoch_service`]).

use serde::{Deserialize, Serialize};

use crate::entry::{Genesis, GenesisRequest, Incumbent};
use crate::epoch_service::{MemberReport, ServiceWord};

/// What becomes of a [`GenesisRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenesisAnswer {
    /// It is recorded, durably, now or since long.
    Recorded,
    /// There is another group.
    Refused {
        /// The group that is recorded.
        incumbent: Incumbent,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
    },
    /// No one could say, for this reason: to be asked again.
    NotYet(String),
}

/// Takes the answer. Called at most once, from any thread.
pub type GenesisReply = Box<dyn FnOnce(GenesisAnswer) + Send>;

/// Takes the answer of the configuration service; `None` if no one could speak for it. Called at most once, from any
/// thread.
pub type ServiceReply = Box<dyn FnOnce(Option<ServiceWord>) + Send>;

/// Where a replica learns what was decided about its group from outside.
pub trait ConfigurationSource: Send + Sync {
    /// Asks once that a genesis be recorded. Never blocks. A request may be carried out although its answer is lost; it
    /// is then asked again, with the same outcome.
    fn record_genesis(&self, request: GenesisRequest, reply: GenesisReply);

    /// Says something to the configuration service of the group, and asks what it decided. Never blocks. Said again
    /// with the next heartbeat, so it may come to nothing. A host of Raft groups alone need not know of this.
    fn exchange(&self, _report: MemberReport, reply: ServiceReply) {
        reply(None);
    }
}
