//! Moving slots from one partition to another: what the manager that leads tells the two groups, and asks them.
//!
//! A move has a number, which the managers give, and *attempts*: whoever drives it begins another one when it takes
//! over, and the groups refuse what is late from an earlier one. Each step is a command in the log of a group. All of
//! them may come again, at any time; one that has been taken, or was overtaken, changes nothing.
//!
//! | at the source | at the destination | who answers for the slots |
//! |---|---|---|
//! | [`Begin`]: it notes which keys change from now on | [`Accept`]: records may come | the source |
//! | read in pieces: all, then what has changed, again and again | [`Install`] | the source |
//! | [`Freeze`]: no writes; last changes are read | [`Install`] | the source, reads only |
//! | [`Release`] | | no one |
//! | | [`Own`] | the destination |
//! | [`Drop`], again until all is gone | | the destination |
//!
//! The managers record that all has been copied, and publish the map of the next epoch, between *freeze* and *release*;
//! from there on there is no other attempt. Before, a move may be given up: [`End`] tells the source, and then the
//! destination, that all is as it was. It also tells a group that has forgotten its part in a move, because it was
//! founded anew, what is its own by the map.
//!
//! [`Begin`]: SlotCommand::Begin
//! [`Accept`]: SlotCommand::Accept
//! [`Install`]: SlotCommand::Install
//! [`Freeze`]: SlotCommand::Freeze
//! [`Release`]: SlotCommand::Release
//! [`Own`]: SlotCommand::Own
//! [`Drop`]: SlotCommand::Drop
//! [`End`]: SlotCommand::End

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;

use crate::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use crate::slot_set::SlotSet;

/// A piece of a partition's records is at most this long, in bytes, or a single record: its installation holds up the
/// destination's other writes for about a millisecond.
pub const PIECE_MAX_BYTES: usize = 64 << 10;
/// The most records of one piece.
pub const PIECE_RECORDS_MAX: usize = 512;
/// How many records one [`SlotCommand::Drop`] looks at.
pub const DROP_STEP: usize = 1024;
/// Changed keys of slots that move which a source notes. Beyond that it freezes the slots by itself.
pub const CHANGED_MAX: usize = 1 << 20;
/// The same for their bytes.
pub const CHANGED_MAX_BYTES: usize = 64 << 20;

/// The first byte of a command of this kind.
pub(crate) const COMMAND: u8 = 4;
/// How many kinds of [`SlotCommand`] of version 2 there are.
const COMMAND_KINDS_OF_VERSION_2: u32 = 7;
/// How many kinds of [`SlotCommand`] there are.
const COMMAND_KINDS: u32 = 8;
/// The first byte of a question of this kind.
const QUERY: u8 = 4;
/// How an answer begins that says that the key lives elsewhere: no other answer does, for no key is so long.
const ELSEWHERE: [u8; 4] = [0xff; 4];
/// How the answer begins of a write that was to be settled; no other answer does, either.
const SETTLED: [u8; 4] = [0xff, 0xff, 0xff, 0xfe];

/// What a record takes in a piece beside its key and its value, in bytes.
pub const PIECE_RECORD_BYTES: usize = 17;

// A piece of a single record, with its two ends and what else is around it, still is a command.
const _: () = assert!(KEY_MAX_BYTES + VALUE_MAX_BYTES + 2 * KEY_MAX_BYTES + 1024 < (1 << 20) + (64 << 10));

/// An attempt to carry out a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The move. Later ones have higher numbers.
    pub id: u64,
    /// Its attempt, from 1.
    pub number: u64,
}

/// What a group of servers is told. Grows at its end only, and each kind belongs to a version of the commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotCommand {
    /// The source begins an attempt: slots that an earlier one has frozen take writes again, and from now on it is
    /// noted which of their keys change.
    Begin {
        /// The attempt.
        by: Attempt,
        /// The slots.
        slots: SlotSet,
        /// All slots that the partition owns, in case that it does not know it yet.
        owned: SlotSet,
        /// By the map of this epoch.
        epoch: u64,
    },
    /// The destination begins an attempt: pieces are counted from 0.
    Accept {
        /// The attempt.
        by: Attempt,
        /// The slots.
        slots: SlotSet,
        /// All slots that the partition owns, in case that it does not know it yet.
        owned: SlotSet,
        /// By the map of this epoch.
        epoch: u64,
    },
    /// A piece for the destination. One that is not the next is not taken.
    Install {
        /// The attempt.
        by: Attempt,
        /// The number of the piece.
        number: u64,
        /// The piece.
        piece: Piece,
    },
    /// The source takes no more writes to the slots.
    Freeze {
        /// The attempt.
        by: Attempt,
    },
    /// The source gives the slots away.
    Release {
        /// The attempt.
        by: Attempt,
        /// The epoch of the map in which they are the destination's.
        epoch: u64,
    },
    /// The destination owns the slots, if it has taken this many pieces.
    Own {
        /// The attempt.
        by: Attempt,
        /// How many.
        pieces: u64,
        /// The epoch of the map in which they are its own.
        epoch: u64,
    },
    /// The source removes some of the records that it has given away. Answered with [`SlotReply::Again`] until all are
    /// gone.
    Drop {
        /// The attempt.
        by: Attempt,
    },
    /// The move is over here, whatever became of it, and what is late of it has no effect. Records of its slots that
    /// the partition does not own are removed, some at a time: answered with [`SlotReply::Again`] until all are gone.
    /// Version 3.
    End {
        /// The last attempt.
        by: Attempt,
        /// The slots.
        slots: SlotSet,
        /// All slots that the partition owns from now on.
        owned: SlotSet,
        /// By the map of this epoch.
        epoch: u64,
    },
}

/// Some of a partition's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// If there is one, these are all records of the slots with keys after the first key (from the least one on) up to
    /// the second one (up to the greatest); others that are there are gone.
    pub whole: Option<(Option<Bytes>, Option<Bytes>)>,
    /// In the order of their keys. Without a value: there is no such record.
    pub records: Vec<(Bytes, Option<Bytes>)>,
}

/// What a group is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotQuery {
    /// The next piece of what is to move. Answered with [`SlotReply::Piece`].
    Export {
        /// The attempt.
        by: Attempt,
        /// Only keys that were changed after this entry; `None` for all records.
        changed_since: Option<u64>,
        /// Keys after this one.
        after: Option<Bytes>,
    },
}

/// An answer to either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotReply {
    /// It is so now, or was before.
    Done,
    /// Not all of it is done.
    Again,
    /// Not done: this attempt was overtaken, or another step is missing.
    Refused(String),
    /// Some of the keys that move.
    Piece(Exported),
}

/// A piece, and what there is beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The keys themselves, with their values.
    pub piece: Piece,
    /// The key to go on after; `None` if nothing is left.
    pub more_after: Option<Bytes>,
    /// The entry that was the last to change a key when the piece was read.
    pub last_change: u64,
}

impl SlotCommand {
    /// Its bytes, as logs keep them and frames carry them.
    pub fn encode(&self) -> Bytes {
        tagged(COMMAND, codec::encode(self))
    }

    /// From bytes; `None` if they are a command of another kind.
    pub fn decode(bytes: &[u8]) -> Option<SlotCommand> {
        codec::decode(bytes.strip_prefix(&[COMMAND])?).ok()
    }

    /// The version in which the kind came that bytes after the first one begin as; `None` if this build knows none.
    pub(crate) fn version(bytes: &[u8]) -> Option<u16> {
        match bytes.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind))? {
            0..COMMAND_KINDS_OF_VERSION_2 => Some(2),
            COMMAND_KINDS_OF_VERSION_2..COMMAND_KINDS => Some(3),
            _ => None,
        }
    }
}

impl SlotQuery {
    /// Its bytes, as logs keep them and frames carry them.
    pub fn encode(&self) -> Bytes {
        tagged(QUERY, codec::encode(self))
    }

    /// From bytes; `None` if they are a question of another kind.
    pub fn decode(bytes: &[u8]) -> Option<SlotQuery> {
        codec::decode(bytes.strip_prefix(&[QUERY])?).ok()
    }
}

impl SlotReply {
    /// Its bytes, as logs keep them and frames carry them.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<SlotReply, String> {
        codec::decode(bytes).map_err(|error| format!("no answer of a group whose slots move: {error}"))
    }
}

fn tagged(tag: u8, bytes: Vec<u8>) -> Bytes {
    [vec![tag], bytes].concat().into()
}

/// The answer of a partition that does not own a key's slot, or takes no writes to it: nothing was done, and never will
/// be under this number of the session. The map may be of this epoch by now.
pub fn encode_elsewhere(epoch: u64) -> Vec<u8> {
    [&ELSEWHERE[..], &epoch.to_le_bytes()].concat()
}

/// Reads what [`encode_elsewhere`] wrote; `None` for every other answer.
pub fn decode_elsewhere(answer: &[u8]) -> Option<u64> {
    answer.strip_prefix(&ELSEWHERE)?.try_into().ok().map(u64::from_le_bytes)
}

/// The answer to a [`Settle`](crate::why::WhyRequest::Settle): that of the write, told apart from what comes late for a
/// copy that was sent before.
pub fn encode_settled(answer: &[u8]) -> Bytes {
    [&SETTLED, answer].concat().into()
}

/// Reads what [`encode_settled`] wrote; `None` for every other answer.
pub fn decode_settled(answer: &Bytes) -> Option<Bytes> {
    answer.starts_with(&SETTLED).then(|| answer.slice(SETTLED.len()..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, decode_found, decode_records, decode_value};

    fn commands() -> [SlotCommand; COMMAND_KINDS as usize] {
        let by = Attempt { id: 3, number: 2 };
        let (slots, owned, epoch) = (SlotSet::range(1, 3), SlotSet::range(0, 9), 5);
        let records = vec![(Bytes::from_static(b"k"), None)];
        [
            SlotCommand::Begin { by, slots: slots.clone(), owned: owned.clone(), epoch },
            SlotCommand::Accept { by, slots: slots.clone(), owned: owned.clone(), epoch },
            SlotCommand::Install { by, number: 7, piece: Piece { whole: Some((None, None)), records } },
            SlotCommand::Freeze { by },
            SlotCommand::Release { by, epoch },
            SlotCommand::Own { by, pieces: 8, epoch },
            SlotCommand::Drop { by },
            SlotCommand::End { by, slots, owned, epoch },
        ]
    }

    #[test]
    fn every_kind_is_of_a_version_and_no_write_of_a_client() {
        for (number, command) in commands().into_iter().enumerate() {
            let bytes = command.encode();
            assert_eq!(SlotCommand::decode(&bytes), Some(command));
            let version = if number < 7 { 2 } else { 3 };
            assert_eq!((Command::version(&bytes), bytes[1]), (Some(version), number as u8));
            assert!(Command::decode(&bytes).is_err(), "a client may not send {bytes:?}");
        }
        let unknown = [&[COMMAND][..], &COMMAND_KINDS.to_le_bytes()].concat();
        assert_eq!(Command::version(&unknown), None);
    }

    #[test]
    fn elsewhere_is_no_other_answer() {
        let answer = encode_elsewhere(7);
        assert_eq!(decode_elsewhere(&answer), Some(7));
        assert!(decode_found(&answer).is_err() && decode_value(answer.clone().into()).is_err());
        assert!(decode_records(&answer.into()).is_err());
        assert_eq!((decode_elsewhere(&[]), decode_elsewhere(&[1; 12])), (None, None));
        let settled = encode_settled(&encode_elsewhere(7));
        assert_eq!(decode_settled(&settled), Some(encode_elsewhere(7).into()));
        assert_eq!((decode_elsewhere(&settled), decode_settled(&encode_elsewhere(7).into())), (None, None));
    }
}
