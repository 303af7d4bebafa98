//! What every protocol core needs and none of them owns: the log in memory, the outbox that holds messages back until
//! what they rest on is durable, and the window of what is on its way to a member, how logs
//! are made equal, what a lease counts for. As pure as the cores.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod inflight;
pub(crate) mod lease;
pub(crate) mod log;
pub(crate) mod matching;
pub(crate) mod outbox;
