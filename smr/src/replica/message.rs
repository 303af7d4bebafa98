//! What replicas of a group send each other: the protocol's own messages, and those around bootstrap and about their
//! states.

use serde::{Deserialize, Serialize};

use crate::entry::Index;
use crate::id::Incarnation;
use crate::replica::bootstrap::BootstrapMessage;
use crate::replica::engine::{CheckpointPiece, ForwardedWrite};
use crate::status::StateDigest;
use crate::version::ImageVersions;

/// A message between replicas.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerMessage<M> {
    /// From core to core.
    Protocol(M),
    /// Before there is a group, or for one who asks whether there is one.
    Bootstrap(BootstrapMessage),
    /// What the sender's state was, as images of [`ImageVersions::FIRST`] have it. All that peer protocol 5 knows.
    Digest(StateDigest),
    /// The receiver is no member any more.
    Replaced {
        /// The incarnation that has its place.
        by: Incarnation,
        /// The committed configuration that says so, by the entry that carries it.
        since: Index,
    },
    /// What the sender's state was. From peer protocol 6 on.
    VersionedDigest {
        /// The versions of the bytes that it is a hash of.
        input: ImageVersions,
        /// The hash.
        digest: StateDigest,
    },
    /// What has changed in a primary's state, in part. Only in groups of kind `passive`, of which each build that
    /// serves them knows it.
    Checkpoint(CheckpointPiece),
    /// Writes that clients sent to a member which does not order them. From peer protocol 8 on, in groups of kind
    /// `active`.
    Forward(Vec<ForwardedWrite>),
}

/// The first peer protocol in which writes are sent on.
const FORWARDS_SINCE: u16 = 8;

/// The first peer protocol whose digests name what they hash.
const VERSIONED_DIGESTS_SINCE: u16 = 6;

impl<M> PeerMessage<M> {
    /// A hash over bytes of these versions, for a connection of that version of the peer protocol; `None` if that
    /// protocol has no word for it.
    pub fn digest(peer_version: u16, input: ImageVersions, digest: StateDigest) -> Option<PeerMessage<M>> {
        if peer_version >= VERSIONED_DIGESTS_SINCE {
            return Some(PeerMessage::VersionedDigest { input, digest });
        }
        (input == ImageVersions::FIRST).then_some(PeerMessage::Digest(digest))
    }

    /// These writes, for a connection of that version of the peer protocol; `None` if it has no word for them: whoever
    /// orders them is of a build whose clients send them to it alone.
    pub fn forward(peer_version: u16, writes: Vec<ForwardedWrite>) -> Option<PeerMessage<M>> {
        (peer_version >= FORWARDS_SINCE).then_some(PeerMessage::Forward(writes))
    }
}

/// About how many bytes a digest message takes.
pub const DIGEST_MESSAGE_BYTES: usize = 64;
/// About how many bytes the news of a replacement takes.
pub const REPLACED_MESSAGE_BYTES: usize = 64;
/// About how many bytes a part of a checkpoint takes beside its own.
pub const CHECKPOINT_PIECE_OVERHEAD_BYTES: usize = 128;
/// About how many bytes a bootstrap message takes.
pub const BOOTSTRAP_MESSAGE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    const DIGEST: StateDigest = StateDigest { index: Index(8), hash: 1 };

    // covers I7
    #[test]
    fn digest_for_the_former_protocol_is_the_message_that_it_knows_or_none() {
        let of = |peer_version, input| PeerMessage::<()>::digest(peer_version, input, DIGEST);
        let former = codec::encode(&of(5, ImageVersions::FIRST).unwrap());
        assert_eq!(former, codec::encode(&PeerMessage::<()>::Digest(DIGEST)));
        assert_eq!(former[..4], [2, 0, 0, 0]);
        assert!(of(5, ImageVersions::with_machine(2)).is_none(), "it would be compared with a hash of other bytes");
        for input in [ImageVersions::FIRST, ImageVersions::with_machine(2)] {
            let present = of(6, input);
            let Some(PeerMessage::VersionedDigest { input: said, digest }) = present else { panic!("{present:?}") };
            assert_eq!((said, digest), (input, DIGEST));
        }
    }
}
