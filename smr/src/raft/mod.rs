//! The Raft core.
