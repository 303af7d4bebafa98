//! The ordered map's commands, queries and answers, as bytes.
//!
//! ```text
//! command  op u8 (1 PUT, 2 SWAP, 3 DELETE) | key length u32 | key | value
//! query    op u8 (1 GET, 2 SCAN)           | key length u32 | key (SCAN: from) | SCAN: to
//!          op u8 (3 SCAN OF SLOTS)         | length u32 | slots | length u32 | from | to
//! answer   PUT, DELETE: found u8 | SWAP, GET: 0, or 1 and the value | SCAN: records, in parts
//! record   key length u32 | key | value length u32 | value
//! ```
//! Integers are little endian. Decoding borrows; nothing is copied. Commands and questions that begin with 4 are those
//! of [`crate::slot_move`].

use bytes::{Buf, Bytes};

use crate::slot_move::{self, SlotCommand};

/// A change of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Set, and say whether the key was there.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Set, and give the old value.
    Swap {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Remove, and say whether the key was there.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

/// A question to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// The value of a key.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// All records between two keys, both included.
    Scan {
        /// The lower end.
        from: &'a [u8],
        /// The upper end.
        to: &'a [u8],
    },
    /// The same, of keys in certain slots. A partition answers only if it owns all of them: so whoever asks each
    /// partition for its slots by *one* map misses no key and has none twice, whatever moves meanwhile.
    ScanOf {
        /// The slots, as [`crate::slot_set::SlotSet::to_bytes`] writes them.
        slots: &'a [u8],
        /// The lower end.
        from: &'a [u8],
        /// The upper end.
        to: &'a [u8],
    },
}

/// Bytes that are no command, query or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

const PUT: u8 = 1;
const SWAP: u8 = 2;
const DELETE: u8 = 3;
const GET: u8 = 1;
const SCAN: u8 = 2;
const SCAN_OF: u8 = 3;

impl<'a> Command<'a> {
    /// The bytes that a client sends and a log keeps; their layout is part of the protocol.
    pub fn encode(&self) -> Bytes {
        match *self {
            Command::Put { key, value } => join(PUT, key, value),
            Command::Swap { key, value } => join(SWAP, key, value),
            Command::Delete { key } => join(DELETE, key, &[]),
        }
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are no command.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, Malformed> {
        let (op, key, value) = split(bytes).ok_or(Malformed("command"))?;
        match op {
            PUT => Ok(Command::Put { key, value }),
            SWAP => Ok(Command::Swap { key, value }),
            DELETE if value.is_empty() => Ok(Command::Delete { key }),
            _ => Err(Malformed("command")),
        }
    }

    /// The version in which the kind of a command came; `None` for a kind that this build does not know. Bytes that are
    /// no command are of version 1, whose answer to them stands.
    pub fn version(bytes: &[u8]) -> Option<u16> {
        match bytes.first() {
            None | Some(&(PUT | SWAP | DELETE)) => Some(1),
            Some(&slot_move::COMMAND) => SlotCommand::version(&bytes[1..]),
            Some(_) => None,
        }
    }

    /// The key that decides where the command belongs.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Command::Put { key, .. } | Command::Swap { key, .. } | Command::Delete { key } => key,
        }
    }

    /// The value that the command writes; empty for DELETE.
    pub fn value(&self) -> &'a [u8] {
        match *self {
            Command::Put { value, .. } | Command::Swap { value, .. } => value,
            Command::Delete { .. } => &[],
        }
    }
}

impl<'a> Query<'a> {
    /// The bytes that a client sends and a log keeps; their layout is part of the protocol.
    pub fn encode(&self) -> Bytes {
        match *self {
            Query::Get { key } => join(GET, key, &[]),
            Query::Scan { from, to } => join(SCAN, from, to),
            Query::ScanOf { slots, from, to } => {
                let mut rest = Vec::with_capacity(4 + from.len() + to.len());
                push_len(&mut rest, from);
                rest.extend_from_slice(from);
                rest.extend_from_slice(to);
                join(SCAN_OF, slots, &rest)
            }
        }
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are no query.
    pub fn decode(bytes: &'a [u8]) -> Result<Query<'a>, Malformed> {
        let (op, first, second) = split(bytes).ok_or(Malformed("query"))?;
        match op {
            GET if second.is_empty() => Ok(Query::Get { key: first }),
            SCAN => Ok(Query::Scan { from: first, to: second }),
            SCAN_OF => {
                let (from, to) = take(second).ok_or(Malformed("query"))?;
                Ok(Query::ScanOf { slots: first, from, to })
            }
            _ => Err(Malformed("query")),
        }
    }
}

fn join(op: u8, first: &[u8], second: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(5 + first.len() + second.len());
    bytes.push(op);
    push_len(&mut bytes, first);
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.into()
}

fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&op, rest) = bytes.split_first()?;
    let (first, second) = take(rest)?;
    Some((op, first, second))
}

fn push_len(bytes: &mut Vec<u8>, part: &[u8]) {
    let len = u32::try_from(part.len()).unwrap_or_else(|_| panic!("{} bytes passed the limits", part.len()));
    bytes.extend_from_slice(&len.to_le_bytes());
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// The answer to PUT and DELETE: whether the key was there before.
pub fn encode_found(found: bool) -> Vec<u8> {
    vec![u8::from(found)]
}

/// Reads what [`encode_found`] wrote.
///
/// # Errors
/// If it is nothing of the kind.
pub fn decode_found(answer: &[u8]) -> Result<bool, Malformed> {
    match answer {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Malformed("answer")),
    }
}

/// The answer to SWAP and GET: a value, or none.
pub fn encode_value(value: Option<&[u8]>) -> Vec<u8> {
    let Some(value) = value else { return vec![0] };
    let mut bytes = Vec::with_capacity(1 + value.len());
    bytes.push(1);
    bytes.extend_from_slice(value);
    bytes
}

/// Reads what [`encode_value`] wrote.
///
/// # Errors
/// If it is nothing of the kind.
pub fn decode_value(mut answer: Bytes) -> Result<Option<Bytes>, Malformed> {
    match (answer.first(), answer.len()) {
        (Some(0), 1) => Ok(None),
        (Some(1), _) => {
            answer.advance(1);
            Ok(Some(answer))
        }
        _ => Err(Malformed("answer")),
    }
}

/// Appends a record to a part of a SCAN's answer.
pub fn push_record(part: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    push_len(part, key);
    part.extend_from_slice(key);
    push_len(part, value);
    part.extend_from_slice(value);
}

/// Reads the records of a part of a SCAN's answer.
///
/// # Errors
/// If it is nothing of the kind.
pub fn decode_records(part: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    let mut records = Vec::new();
    let mut rest: &[u8] = part;
    while !rest.is_empty() {
        let (key, behind) = take(rest).ok_or(Malformed("scan answer"))?;
        let (value, behind) = take(behind).ok_or(Malformed("scan answer"))?;
        records.push((part.slice_ref(key), part.slice_ref(value)));
        rest = behind;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // covers B1
        #[test]
        fn decoders_arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Command::decode(&bytes).map(|command| prop_assert_eq_bytes(&command.encode(), &bytes));
            let _ = Query::decode(&bytes).map(|query| prop_assert_eq_bytes(&query.encode(), &bytes));
            let _ = decode_found(&bytes);
            let _ = decode_value(Bytes::from(bytes.clone()));
            let _ = decode_records(&Bytes::from(bytes));
        }

        // covers B6
        #[test]
        fn command_roundtrip_any_bytes_restored(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (put, swap) = (Command::Put { key: &key, value: &value }, Command::Swap { key: &key, value: &value });
            for command in [put, swap, Command::Delete { key: &key }] {
                let bytes = command.encode();
                prop_assert_eq!(Command::decode(&bytes), Ok(command));
            }
            let mut part = Vec::new();
            push_record(&mut part, &key, &value);
            push_record(&mut part, &value, &key);
            let records = decode_records(&part.into()).unwrap();
            let first = (Bytes::from(key.clone()), Bytes::from(value.clone()));
            prop_assert_eq!(records, vec![first, (value.into(), key.into())]);
        }
    }

    fn prop_assert_eq_bytes(left: &[u8], right: &[u8]) {
        assert_eq!(left, right, "a valid encoding is the only one");
    }
}
