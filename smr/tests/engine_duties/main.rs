//! The duties of the replica's logic towards any core ([`smr::internals::protocol`]), one by one: a core that says
//! exactly what a test wants it to say stands in for Raft, so that situations which Raft makes rare can be told in a
//! few lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod answers;
mod backlog;
mod checkpoints;
mod digests;
mod full_disk;
mod kept;
mod members;
mod requests;
mod stage;
mod versions;
