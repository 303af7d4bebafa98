//! State machine replication.

pub mod codec;
pub mod entry;
pub mod id;
pub mod protocol;
pub mod raft;
pub mod replica;
pub mod session;
pub mod snapshot;
pub mod state_machine;
pub mod storage;
pub mod transport;
pub mod wire;
