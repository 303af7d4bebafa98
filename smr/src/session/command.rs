//! What the log carries for the session table.
//!
//! ```text
//! Open        4 | nonce u64
//! Write       5 | index u64 | nonce u64 | number u64 | lowest unanswered u64 | command, the rest
//! Idempotent  3 | command, the rest
//! Addresses   6 | a map from replica numbers to addresses, as `codec` encodes it
//! ```
//! In logs of builds whose sessions had no random part, `Open` is a 1 alone, and `Write` a 2 without the nonce.
//! Integers are little endian. Written by hand, because decoding runs once per entry on every replica and must not
//! copy the command. The log's own framing gives the length and the checksum.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec;
use crate::id::{ClientId, ReplicaId};
use crate::state_machine::StateMachine;

const TAG_OPEN_PLAIN: u8 = 1;
const TAG_WRITE_PLAIN: u8 = 2;
const TAG_IDEMPOTENT: u8 = 3;
const TAG_OPEN: u8 = 4;
const TAG_WRITE: u8 = 5;
const TAG_ADDRESSES: u8 = 6;

/// Addresses that one command may carry: more than a group has members.
pub const ADDRESSES_MAX: usize = 64;
/// The longest address, in bytes: a host name and a port.
pub const ADDRESS_MAX_BYTES: usize = 300;

const TAG_LEN_BYTES: usize = 1;
const OPEN_LEN_BYTES: usize = TAG_LEN_BYTES + size_of::<u64>();
const WRITE_PLAIN_HEADER_LEN_BYTES: usize = TAG_LEN_BYTES + 3 * size_of::<u64>();
/// What a write of a session has in the log before its command.
pub(crate) const WRITE_HEADER_LEN_BYTES: usize = TAG_LEN_BYTES + 4 * size_of::<u64>();

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    /// Open a session; its name is the index of this very entry, with the nonce.
    Open {
        /// The random part of its name.
        nonce: u64,
    },
    /// Apply a command exactly once.
    Write {
        /// The session.
        client: ClientId,
        /// The request's number in the session, from 1.
        number: u64,
        /// The lowest number whose answer the client still waits for, from 1; at most `number`.
        lowest_unanswered: u64,
        /// For the state machine.
        command: Bytes,
    },
    /// Apply a command as often as it stands in the log.
    Idempotent {
        /// For the state machine.
        command: Bytes,
    },
    /// From now on these replicas of the group are reached at these addresses, as `host:port`; at an empty one no more.
    /// Those that are not named stay where they are.
    Addresses {
        /// By replica.
        addresses: BTreeMap<ReplicaId, String>,
    },
}

/// Bytes in the log that this build does not understand. They are committed, so other replicas may well understand
/// them: the replica must stop before it applies anything after them, never skip them (fault catalogue L20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionCommandError {
    /// A command that this build does not know.
    #[error("unknown session command {tag}")]
    Unknown {
        /// Its first byte.
        tag: u8,
    },
    /// A known command of an impossible length.
    #[error("session command {tag} of {len_bytes} bytes")]
    Malformed {
        /// Its first byte; 0 if there is none.
        tag: u8,
        /// Its length, in bytes.
        len_bytes: usize,
    },
}

/// Session and number of a write, as it stands in the log; `None` for anything else. Looks at the first bytes alone.
pub(crate) fn write_name(bytes: &[u8]) -> Option<(ClientId, u64)> {
    let (&[tag], rest) = bytes.split_first_chunk()?;
    let number_at = |place: usize| Some(u64::from_le_bytes(*rest.get(8 * place..)?.first_chunk()?));
    match tag {
        TAG_WRITE => Some((ClientId { index: number_at(0)?, nonce: number_at(1)? }, number_at(2)?)),
        _ => None,
    }
}

impl SessionCommand {
    /// Whether it is taken while the disk is full: a session costs little, and without one no one could free anything.
    pub fn frees<S: StateMachine>(&self) -> bool {
        match self {
            SessionCommand::Open { .. } | SessionCommand::Addresses { .. } => true,
            SessionCommand::Write { command, .. } | SessionCommand::Idempotent { command } => S::frees(command),
        }
    }

    /// The version in which its kind came ([`crate::version::CommandVersions`]). A kind keeps its meaning; a new one is
    /// of a version of its own, and is proposed only once every member applies that.
    pub(crate) fn version(&self) -> u16 {
        match self {
            SessionCommand::Open { .. } | SessionCommand::Write { .. } | SessionCommand::Idempotent { .. } => 1,
            SessionCommand::Addresses { .. } => 2,
        }
    }

    /// What is in it for the state machine.
    pub(crate) fn for_machine(&self) -> Option<&Bytes> {
        match self {
            SessionCommand::Open { .. } | SessionCommand::Addresses { .. } => None,
            SessionCommand::Write { command, .. } | SessionCommand::Idempotent { command } => Some(command),
        }
    }

    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        match self {
            SessionCommand::Open { nonce } => {
                let mut bytes = BytesMut::with_capacity(OPEN_LEN_BYTES);
                bytes.put_u8(TAG_OPEN);
                bytes.put_u64_le(*nonce);
                bytes.freeze()
            }
            SessionCommand::Write { client, number, lowest_unanswered, command } => {
                let mut bytes = BytesMut::with_capacity(WRITE_HEADER_LEN_BYTES + command.len());
                bytes.put_u8(TAG_WRITE);
                bytes.put_u64_le(client.index);
                bytes.put_u64_le(client.nonce);
                bytes.put_u64_le(*number);
                bytes.put_u64_le(*lowest_unanswered);
                bytes.put_slice(command);
                bytes.freeze()
            }
            SessionCommand::Idempotent { command } => {
                let mut bytes = BytesMut::with_capacity(TAG_LEN_BYTES + command.len());
                bytes.put_u8(TAG_IDEMPOTENT);
                bytes.put_slice(command);
                bytes.freeze()
            }
            SessionCommand::Addresses { addresses } => {
                let mut bytes = vec![TAG_ADDRESSES];
                codec::encode_into(&mut bytes, addresses);
                bytes.into()
            }
        }
    }

    /// The command in `bytes`, which it shares.
    ///
    /// # Errors
    /// If the bytes are no command that this build knows; see [`SessionCommandError`] for what to do then.
    pub fn decode(bytes: &Bytes) -> Result<SessionCommand, SessionCommandError> {
        let Some(&tag) = bytes.first() else {
            return Err(SessionCommandError::Malformed { tag: 0, len_bytes: 0 });
        };
        match tag {
            TAG_OPEN if bytes.len() == OPEN_LEN_BYTES => {
                Ok(SessionCommand::Open { nonce: u64_at(bytes, TAG_LEN_BYTES) })
            }
            TAG_OPEN_PLAIN if bytes.len() == TAG_LEN_BYTES => Ok(SessionCommand::Open { nonce: 0 }),
            TAG_WRITE if bytes.len() >= WRITE_HEADER_LEN_BYTES => Ok(SessionCommand::Write {
                client: ClientId { index: u64_at(bytes, TAG_LEN_BYTES), nonce: u64_at(bytes, TAG_LEN_BYTES + 8) },
                number: u64_at(bytes, TAG_LEN_BYTES + 16),
                lowest_unanswered: u64_at(bytes, TAG_LEN_BYTES + 24),
                command: bytes.slice(WRITE_HEADER_LEN_BYTES..),
            }),
            TAG_WRITE_PLAIN if bytes.len() >= WRITE_PLAIN_HEADER_LEN_BYTES => Ok(SessionCommand::Write {
                client: ClientId::at(u64_at(bytes, TAG_LEN_BYTES)),
                number: u64_at(bytes, TAG_LEN_BYTES + 8),
                lowest_unanswered: u64_at(bytes, TAG_LEN_BYTES + 16),
                command: bytes.slice(WRITE_PLAIN_HEADER_LEN_BYTES..),
            }),
            TAG_IDEMPOTENT => Ok(SessionCommand::Idempotent { command: bytes.slice(TAG_LEN_BYTES..) }),
            TAG_ADDRESSES => match codec::decode(&bytes[TAG_LEN_BYTES..]) {
                Ok(addresses) if are_sensible(&addresses) => Ok(SessionCommand::Addresses { addresses }),
                _ => Err(SessionCommandError::Malformed { tag, len_bytes: bytes.len() }),
            },
            TAG_OPEN | TAG_WRITE | TAG_OPEN_PLAIN | TAG_WRITE_PLAIN => {
                Err(SessionCommandError::Malformed { tag, len_bytes: bytes.len() })
            }
            tag => Err(SessionCommandError::Unknown { tag }),
        }
    }
}

/// Whether these addresses may be proposed: neither too many nor too long.
pub fn are_sensible(addresses: &BTreeMap<ReplicaId, String>) -> bool {
    addresses.len() <= ADDRESSES_MAX && addresses.values().all(|address| address.len() <= ADDRESS_MAX_BYTES)
}

/// The integer at `offset`, which lies inside: the caller has checked the length.
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_roundtrip_shares_the_bytes() {
        let commands = [
            SessionCommand::Open { nonce: u64::MAX },
            SessionCommand::Write {
                client: ClientId { index: 7, nonce: 70 },
                number: u64::MAX,
                lowest_unanswered: 3,
                command: Bytes::from_static(b"put a 1"),
            },
            SessionCommand::Write {
                client: ClientId::at(u64::MAX),
                number: 1,
                lowest_unanswered: 1,
                command: Bytes::new(),
            },
            SessionCommand::Idempotent { command: Bytes::from_static(b"register") },
            SessionCommand::Idempotent { command: Bytes::new() },
            SessionCommand::Addresses { addresses: BTreeMap::new() },
            SessionCommand::Addresses {
                addresses: [(ReplicaId(3), "[::1]:3703".to_owned()), (ReplicaId(4), String::new())].into(),
            },
        ];
        for command in commands {
            let bytes = command.encode();
            let decoded = SessionCommand::decode(&bytes).unwrap();
            assert_eq!(decoded, command);
            if let SessionCommand::Write { command, .. } | SessionCommand::Idempotent { command } = decoded
                && !command.is_empty()
            {
                assert!(bytes.as_ptr_range().contains(&command.as_ptr()), "the command was copied");
            }
        }
    }

    // covers L20
    #[test]
    fn command_of_another_build_is_an_error_not_a_guess() {
        use SessionCommandError::{Malformed, Unknown};
        let decode = |bytes: &[u8]| SessionCommand::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(&[]), Err(Malformed { tag: 0, len_bytes: 0 }));
        assert_eq!(decode(&[0]), Err(Unknown { tag: 0 }));
        assert_eq!(decode(&[7, 1, 2, 3]), Err(Unknown { tag: 7 }));
        assert_eq!(decode(&[6, 1, 2, 3]), Err(Malformed { tag: 6, len_bytes: 4 }));
        assert_eq!(decode(&[1, 0]), Err(Malformed { tag: 1, len_bytes: 2 }));
        let whole =
            SessionCommand::Write { client: ClientId::at(1), number: 1, lowest_unanswered: 1, command: Bytes::new() }
                .encode();
        for len in 1..whole.len() {
            assert_eq!(decode(&whole[..len]), Err(Malformed { tag: 5, len_bytes: len }));
        }
    }

    // covers D16
    #[test]
    fn command_of_a_build_without_nonces_is_one_of_a_session_without_a_random_part() {
        let decode = |bytes: &[u8]| SessionCommand::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(&[1]), Ok(SessionCommand::Open { nonce: 0 }));
        let numbers = [300u64, 7, 6].map(u64::to_le_bytes).concat();
        let command = Bytes::from_static(b"put");
        let write = SessionCommand::Write { client: ClientId::at(300), number: 7, lowest_unanswered: 6, command };
        assert_eq!(decode(&[&[2], &numbers[..], b"put"].concat()), Ok(write));
        assert_eq!(decode(&[2, 0]), Err(SessionCommandError::Malformed { tag: 2, len_bytes: 2 }));
    }
}
