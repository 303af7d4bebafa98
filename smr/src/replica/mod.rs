//! The replica: drives a protocol core with threads, disk and network.
//!
//! | module | what it is |
//! |---|---|
//! | [`api`](Request) | what the front door may ask, and what it hears back |
//! | [`handle`](Opened) | opening a directory, starting the threads, the orderly end |
//! | [`birth`], `waiting_room` | before there is a group, or for one who came too late |
//! | [`ConfigurationSource`] | who records which group was founded |
//! | [`engine`], [`readmission`] | the logic: core, sessions and state machine as one value, without threads |
//! | [`turn`] | what is decided between two looks at the queues: what waits, what is dropped, when time passes |
//! | [`disk`] | everything durable, in order |
//! | `driver`, `helm`, `snapshots` | a turn with its queues; which thread runs it; threads for what takes long |
//!
//! The replica does not know Raft: it drives any [`crate::protocol::Protocol`]. Only [`Opened::run`] names the one that
//! is used.

mod api;
pub mod birth;
mod configuration_source;
pub mod disk;
mod driver;
pub mod engine;
mod handle;
mod helm;
pub mod message;
pub mod readmission;
mod recovery;
mod scans;
mod snapshots;
pub mod turn;
mod waiting_room;
mod worker;

pub use api::*;
pub use configuration_source::*;
pub use handle::*;
pub use recovery::{RecoverOptions, Recovered, recover};
