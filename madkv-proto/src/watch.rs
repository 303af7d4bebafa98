//! Watching keys: what a client asks of a partition, and what it hears of changes.
//!
//! A change is told as the command that made it, with the index of its entry in the partition's log. So changes of one
//! partition are in the order of that log, and whoever knows the index of the last one can go on at any replica. Slots
//! that leave a partition or come to it are told in the same order, so that a client can follow its keys.
//!
//! ```text
//! question       5 | a WatchQuery
//! answer         a WatchAnswer | the genesis of the partition's group, u128
//! notification   a command as in `crate::command` | or 5 and a SlotsMoved
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;

use crate::command::{Command, Malformed};
use crate::limits::SCAN_PART_MAX_BYTES;
use crate::slot_set::SlotSet;

/// How many bytes of changes one answer holds before it ends, beside the last one.
pub const PART_MAX_BYTES: usize = SCAN_PART_MAX_BYTES;
/// How many changes are looked at for one answer, whether they are of the range or not: the replica does nothing else
/// meanwhile.
pub const LOOKED_AT_MAX: usize = 8_192;
/// The longest time for which a server keeps a question to which there is nothing new yet, in milliseconds. Less than
/// what a client takes for silence.
pub const HOLD_MAX_MS: u32 = 300;

/// The first byte of a question, and of a notification that is no command.
const WATCH: u8 = 5;
/// The bytes of a genesis.
const GENESIS_BYTES: usize = 16;

/// From where on changes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchFrom {
    /// Those after all that is applied when the question is answered.
    Now,
    /// Those of this entry and later ones.
    Index(u64),
    /// Those since slots have come here by the map of this epoch or a later one, or will come.
    Slots {
        /// The epoch.
        epoch: u64,
    },
}

/// A question: what has changed?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchQuery {
    /// From where on.
    pub from: WatchFrom,
    /// The first key.
    pub first: Bytes,
    /// The last key, included.
    pub last: Bytes,
    /// A watch of a single key begins here: the partition must own it.
    pub begins: bool,
    /// Whoever asks waits if there is nothing new. Said by the server alone.
    pub waits: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchAnswer {
    /// Notifications with the indexes of their entries, in order.
    Changes {
        /// They, if there are any.
        items: Vec<(u64, Bytes)>,
        /// All up to this entry are there.
        position: u64,
        /// Whether these were all that there are.
        is_end: bool,
        /// The epoch of the map by which the partition's slots last changed; 0 if they never did.
        epoch: u64,
    },
    /// Some are not kept any more.
    Compacted {
        /// Those of this entry and of later ones are.
        oldest: u64,
    },
    /// The partition has never had this entry.
    Ahead {
        /// Its last one.
        position: u64,
    },
}

/// Slots have left a partition, or come to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsMoved {
    /// The epoch of the map by which they have.
    pub epoch: u64,
    /// These have left.
    pub left: SlotSet,
    /// These have come.
    pub came: SlotSet,
}

/// What has happened in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A key has this value now, or is gone.
    Changed {
        /// The key.
        key: Bytes,
        /// Its new value; `None` if it was removed.
        value: Option<Bytes>,
    },
    /// Slots have moved.
    Slots(SlotsMoved),
}

impl WatchQuery {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        tagged(self)
    }

    /// From bytes; `None` if they are no such question.
    pub fn decode(bytes: &[u8]) -> Option<WatchQuery> {
        codec::decode(bytes.strip_prefix(&[WATCH])?).ok()
    }

    /// Whether a key is of the range.
    pub fn has(&self, key: &[u8]) -> bool {
        self.first <= key && key <= self.last
    }

    /// The key, if it is a single one.
    pub fn only_key(&self) -> Option<&Bytes> {
        (self.first == self.last).then_some(&self.first)
    }
}

impl WatchAnswer {
    /// As the state machine gives it: without the genesis.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// What [`WatchAnswer::encode`] wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn decode(bytes: &[u8]) -> Result<WatchAnswer, Malformed> {
        codec::decode(bytes).map_err(|_| Malformed("answer to a watch"))
    }

    /// As it travels: an answer of the state machine, of the group with this genesis.
    pub fn of_group(answer: &[u8], genesis: u128) -> Bytes {
        [answer, &genesis.to_le_bytes()].concat().into()
    }

    /// What [`WatchAnswer::of_group`] wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn decode_of_group(bytes: &[u8]) -> Result<(WatchAnswer, u128), Malformed> {
        let (answer, genesis) = bytes.split_last_chunk::<GENESIS_BYTES>().ok_or(Malformed("answer to a watch"))?;
        Ok((WatchAnswer::decode(answer)?, u128::from_le_bytes(*genesis)))
    }
}

impl SlotsMoved {
    /// As a notification.
    pub fn encode(&self) -> Bytes {
        tagged(self)
    }
}

impl Notice {
    /// What a notification says.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &Bytes) -> Result<Notice, Malformed> {
        if let Some(moved) = bytes.strip_prefix(&[WATCH]) {
            return codec::decode(moved).map(Notice::Slots).map_err(|_| Malformed("notification"));
        }
        let command = Command::decode(bytes).map_err(|_| Malformed("notification"))?;
        let value = match command {
            Command::Put { value, .. } | Command::Swap { value, .. } => Some(bytes.slice_ref(value)),
            Command::Delete { .. } => None,
        };
        Ok(Notice::Changed { key: bytes.slice_ref(command.key()), value })
    }
}

/// Whether a notification is of a range: one that says that slots have moved is of each.
pub fn concerns(notification: &[u8], query: &WatchQuery) -> bool {
    match Command::decode(notification) {
        Ok(command) => query.has(command.key()),
        Err(_) => true,
    }
}

fn tagged<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![WATCH];
    codec::encode_into(&mut bytes, value);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Query;
    use crate::slot_move::{SlotCommand, SlotQuery};

    fn query() -> WatchQuery {
        let (first, last) = (Bytes::from_static(b"a"), Bytes::from_static(b"m"));
        WatchQuery { from: WatchFrom::Index(7), first, last, begins: true, waits: false }
    }

    #[test]
    fn question_is_none_of_another_kind() {
        let bytes = query().encode();
        assert_eq!(WatchQuery::decode(&bytes), Some(query()));
        assert!(Query::decode(&bytes).is_err() && Command::decode(&bytes).is_err());
        assert!(SlotQuery::decode(&bytes).is_none() && SlotCommand::decode(&bytes).is_none());
        assert_eq!(WatchQuery::decode(&Query::Get { key: b"a" }.encode()), None);
        assert_eq!(WatchQuery::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn notification_says_what_the_command_did_and_whom_it_concerns() {
        let said = |bytes: Bytes| (concerns(&bytes, &query()), Notice::decode(&bytes).unwrap());
        let changed = |key: &'static str, value: Option<&'static str>| Notice::Changed {
            key: Bytes::from_static(key.as_bytes()),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        };
        assert_eq!(said(Command::Put { key: b"b", value: b"1" }.encode()), (true, changed("b", Some("1"))));
        assert_eq!(said(Command::Swap { key: b"m", value: b"" }.encode()), (true, changed("m", Some(""))));
        assert_eq!(said(Command::Delete { key: b"n" }.encode()), (false, changed("n", None)));
        let moved = SlotsMoved { epoch: 3, left: SlotSet::range(0, 5), came: SlotSet::default() };
        assert_eq!(said(moved.encode()), (true, Notice::Slots(moved)));
        assert!(Notice::decode(&Bytes::from_static(&[5, 1])).is_err() && Notice::decode(&Bytes::new()).is_err());
    }

    #[test]
    fn answer_comes_back_with_its_group_and_short_ones_are_refused() {
        let items = vec![(3, Bytes::from_static(b"x"))];
        let answer = WatchAnswer::Changes { items, position: 9, is_end: true, epoch: 0 };
        let bytes = WatchAnswer::of_group(&answer.encode(), 77);
        assert_eq!(WatchAnswer::decode_of_group(&bytes), Ok((answer, 77)));
        assert!((0..bytes.len()).all(|cut| WatchAnswer::decode_of_group(&bytes[..cut]).is_err()));
    }
}
