//! Checkpoints of a `passive` group: their names, and what a backup does with one.

use serde::{Deserialize, Serialize};

use crate::entry::{EntryId, Term};

/// Names a checkpoint: whose it is, and what it goes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointName {
    /// The epoch of the primary that took it.
    pub epoch: Term,
    /// The entry at which the state has to be that it is taken over at.
    pub base: EntryId,
    /// The last entry that the primary had applied.
    pub end: EntryId,
}

/// What a backup does with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFit {
    /// Takes it over: its state is at the base.
    Apply,
    /// Applies its own log up to the base first.
    ReplayTo(EntryId),
    /// Cannot use it, and asks for a whole image.
    WholeWanted,
    /// Drops it: it is of another epoch, or not newer than the state, or its end is not in this log yet.
    Drop,
}
