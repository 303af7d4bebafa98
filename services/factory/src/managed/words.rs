//! What a factory that is about to become the primary says to the one that is.
//!
//! The managers alone decide who the primary is. This only has the present one stop first and commit what it has: so
//! nothing is under way when the epoch ends, and no customer is left without knowing what became of an order.

use serde::{Deserialize, Serialize};

/// Kinds of frames, beside those of [`crate::message`].
pub const KIND_YIELD: u16 = 0x4608;
/// See [`YieldAnswer`].
pub const KIND_YIELD_ANSWER: u16 = 0x4609;

/// Stop: the managers are about to be asked for another primary. Whoever says so keeps the connection open until that
/// is decided; if it breaks before, the primary goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// The epoch that is to end.
    pub epoch: u64,
}

/// What the primary answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum YieldAnswer {
    /// It has stopped: everything that it was given is committed.
    Stopped,
    /// It is not the primary of that epoch.
    NotPrimary,
    /// It goes on, for this reason: for a person.
    GoesOn(String),
}
