//! The replica: drives a protocol core with threads, disk and network.
//!
//! | module | what it is |
//! |---|---|
//! | [`api`](Request) | what a listener may ask, and what it hears back |
//! | [`client`](Client) | the host's own commands and queries: finds the leader, tries again, numbers requests |
//! | [`opening`](Opened), `incarnations`, `kind` | opening a directory, and building a node for the kind of its group |
//! | `incarnation` | from bootstrap to the end in order, or to quarantine and the next incarnation |
//! | [`handle`](ReplicaHandle) | how a process talks to its replica |
//! | `bootstrap`, `bootstrap_wait` | before there is a group, or for one who came too late |
//! | [`ConfigurationSource`] | who records which group was founded |
//! | `engine` | the logic: core, sessions and state machine as one value, without threads |
//! | `admin` | what operators ask for: transfers of leadership, readmissions |
//! | `turn` | what is decided between two looks at the queues: what waits, what is dropped, when time passes |
//! | `disk` | everything durable, in order |
//! | [`tuning`](Tuning) | what can be changed while a replica runs |
//! | `inbox`, `driver`, `turn_executor` | the queues; a turn with them; which thread runs it |
//! | `snapshots`, `scans`, `checkpoints`, `worker` | threads for what takes long |
//! | [`metrics`](ReplicaMetrics) | what these parts count, for whoever watches |
//!
//! The replica does not know Raft: it drives any [`crate::protocol::Protocol`]. Only `kind` and `opening` name those
//! that are used.

pub(crate) mod admin;
#[cfg(feature = "node")]
pub(crate) mod bootstrap;
#[cfg(feature = "node")]
mod bootstrap_wait;
#[cfg(feature = "node")]
mod checkpoints;
#[cfg(feature = "node")]
mod client;
#[cfg(feature = "node")]
mod clock;
#[cfg(feature = "node")]
mod configuration_source;
#[cfg(feature = "node")]
pub(crate) mod disk;
#[cfg(feature = "node")]
mod driver;
pub(crate) mod engine;
#[cfg(feature = "node")]
mod handle;
#[cfg(feature = "node")]
mod inbox;
#[cfg(feature = "node")]
mod incarnation;
#[cfg(feature = "node")]
mod incarnations;
#[cfg(feature = "node")]
mod kind;
#[cfg(feature = "node")]
pub(crate) mod message;
#[cfg(feature = "node")]
mod metrics;
#[cfg(feature = "node")]
mod opening;
#[cfg(feature = "node")]
mod options;
#[cfg(feature = "node")]
mod outgoing;
#[cfg(feature = "node")]
mod recovery;
#[cfg(feature = "node")]
mod scans;
#[cfg(feature = "node")]
mod snapshots;
#[cfg(feature = "node")]
mod sync;
mod tuning;
#[cfg(feature = "node")]
pub(crate) mod turn;
#[cfg(feature = "node")]
mod turn_executor;
#[cfg(all(test, feature = "node"))]
mod turn_executor_tests;
#[cfg(feature = "node")]
mod worker;

pub use crate::request::*;
pub use admin::readmission::MEMBER_ALREADY;
pub use admin::scaling::CHANGE_UNDER_WAY;
#[cfg(feature = "node")]
pub use client::{CLIENT_TIMEOUT, Client, ClientError, PARTS_MAX_BYTES, TRY_TIMEOUT};
#[cfg(feature = "node")]
pub use configuration_source::*;
#[cfg(feature = "node")]
pub use handle::ReplicaHandle;
#[cfg(feature = "node")]
pub use metrics::{ReplicaMetrics, ReplicaPace};
#[cfg(feature = "node")]
pub use opening::Opened;
#[cfg(feature = "node")]
pub use options::{ReplicaOptions, StartError};
#[cfg(feature = "node")]
pub use recovery::{RecoverOptions, Recovered, recover};
pub use tuning::Tuning;

#[cfg(feature = "node")]
pub use crate::transport::TransportStats;
