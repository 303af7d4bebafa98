//! Durable state of a replica.

pub mod disk;
