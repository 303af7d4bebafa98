//! What replicas of a group send each other: the protocol's own messages, and those around birth and about their
//! states.

use serde::{Deserialize, Serialize};

use crate::entry::Index;
use crate::id::Incarnation;
use crate::replica::birth::BirthMessage;
use crate::status::StateDigest;

/// A message between replicas.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerMessage<M> {
    /// From core to core.
    Protocol(M),
    /// Before there is a group, or for one who asks whether there is one.
    Birth(BirthMessage),
    /// What the sender's state was.
    Digest(StateDigest),
    /// The receiver is no member any more.
    Replaced {
        /// The incarnation that has its place.
        by: Incarnation,
        /// The committed configuration that says so, by the entry that carries it.
        since: Index,
    },
}

/// About how many bytes a digest message takes.
pub const DIGEST_MESSAGE_BYTES: usize = 64;
/// About how many bytes the news of a replacement takes.
pub const REPLACED_MESSAGE_BYTES: usize = 64;
/// About how many bytes a birth message takes.
pub const BIRTH_MESSAGE_BYTES: usize = 1024;
