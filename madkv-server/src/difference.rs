//! What has changed between two copies of the map: what a `passive` group's checkpoint has of it.
//!
//! ```text
//! magic | ownership u8: 0 as before, 1 it follows, 2 there is none any more
//! a block for each 64 KiB of records that are new or have another value, ended by an empty one
//! the same for the keys that are gone, as records without a value
//! ```
//! Blocks, records and the ownership are as in an image ([`crate::map`]).

use std::io;
use std::sync::Arc;

use madkv_proto::command::decode_records;

use crate::blocks::{invalid, read_block, read_ownership, write_ownership, write_records};
use crate::ownership::Ownership;
use crate::packed::{Records, within_limits};

/// What it is, and the version of its form, a digit.
const MAGIC: &[u8; 8] = b"madkvd1\n";
const OWNERSHIP_SAME: u8 = 0;
const OWNERSHIP_FOLLOWS: u8 = 1;
const OWNERSHIP_GONE: u8 = 2;

/// Writes what is to be done to the second of each to get the first.
pub(crate) fn write(
    (records, base): (&Records, &Records),
    ownership: (Option<&Arc<Ownership>>, Option<&Arc<Ownership>>),
    output: &mut dyn io::Write,
) -> io::Result<()> {
    output.write_all(MAGIC)?;
    match ownership {
        (None, None) => output.write_all(&[OWNERSHIP_SAME])?,
        (Some(now), Some(before)) if Arc::ptr_eq(now, before) => output.write_all(&[OWNERSHIP_SAME])?,
        (Some(now), _) => {
            output.write_all(&[OWNERSHIP_FOLLOWS])?;
            write_ownership(output, now)?;
        }
        (None, Some(_)) => output.write_all(&[OWNERSHIP_GONE])?,
    }
    let changes = records.changes_since(base);
    write_records(output, changes.iter().filter_map(|(key, value)| value.map(|value| (*key, value))))?;
    write_records(output, changes.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| (*key, &[][..])))
}

/// Does to the records what was written, and returns the ownership.
///
/// # Errors
/// If it is no difference from these records.
pub(crate) fn read(
    records: &mut Records,
    ownership: Option<Arc<Ownership>>,
    input: &mut dyn io::Read,
) -> io::Result<Option<Arc<Ownership>>> {
    let mut head = [0; MAGIC.len() + 1];
    input.read_exact(&mut head)?;
    if !head.starts_with(MAGIC) {
        return Err(invalid("no difference of a map that this build reads"));
    }
    let ownership = match head[MAGIC.len()] {
        OWNERSHIP_SAME => ownership,
        OWNERSHIP_FOLLOWS => Some(Arc::new(read_ownership(input)?)),
        OWNERSHIP_GONE => None,
        _ => return Err(invalid("a difference with an ownership of no known form")),
    };
    while let Some(block) = read_block(input)? {
        for (key, value) in decode_records(&block).map_err(invalid)? {
            if !within_limits(&key, &value) {
                return Err(invalid("a record beyond the limits"));
            }
            records.insert(&key, &value);
        }
    }
    while let Some(block) = read_block(input)? {
        for (key, _) in decode_records(&block).map_err(invalid)? {
            if !records.remove(&key) {
                return Err(invalid("a key is gone that was not there"));
            }
        }
    }
    Ok(ownership)
}

#[cfg(test)]
mod tests {
    use madkv_proto::command::Command;
    use madkv_proto::slot_move::{Attempt, SlotCommand};
    use madkv_proto::slot_set::SlotSet;
    use madkv_proto::slots::SLOTS;
    use smr::entry::Index;
    use smr::state_machine::{Image as _, StateMachine as _};

    use crate::map::Map;

    fn written(map: &Map) -> Vec<u8> {
        let mut bytes = Vec::new();
        map.image().write(&mut bytes).unwrap();
        bytes
    }

    // covers K14
    #[test]
    fn map_after_a_difference_is_the_one_that_applied_everything() {
        let mut map = Map::default();
        let mut index = 0;
        for round in 0..60_u64 {
            let base = map.image();
            for step in 0..round * 7 % 50 {
                index += 1;
                let (key, value) = (format!("key{}", (round * 31 + step * 17) % 400), vec![round as u8; step as usize]);
                let command = match step % 4 {
                    0 => Command::Delete { key: key.as_bytes() },
                    _ => Command::Put { key: key.as_bytes(), value: &value },
                };
                map.apply(Index(index), &command.encode());
            }
            if round % 20 == 10 {
                index += 1;
                // From now on it is noted which keys of these slots change.
                let (slots, owned) = (SlotSet::range(0, SLOTS / 2), SlotSet::range(0, SLOTS));
                let begin = SlotCommand::Begin { by: Attempt { id: round, number: 1 }, slots, owned, epoch: 1 };
                map.apply(Index(index), &begin.encode());
            }
            let mut difference = Vec::new();
            assert!(map.image().write_difference(&base, &mut difference).unwrap());
            let advanced = Map::advance(base, &mut &difference[..]).unwrap();
            assert!(written(&advanced) == written(&map), "round {round}");
        }
    }

    #[test]
    fn difference_that_is_cut_or_from_another_map_is_an_error() {
        let mut map = Map::default();
        map.apply(Index(1), &Command::Put { key: b"a", value: b"1" }.encode());
        let base = map.image();
        map.apply(Index(2), &Command::Put { key: b"b", value: b"2" }.encode());
        map.apply(Index(3), &Command::Delete { key: b"a" }.encode());
        let mut difference = Vec::new();
        map.image().write_difference(&base, &mut difference).unwrap();
        for len in 0..difference.len() {
            assert!(Map::advance(map.image(), &mut &difference[..len]).is_err(), "{len} bytes of it");
        }
        assert!(Map::advance(Map::default().image(), &mut &difference[..]).is_err(), "it removes what is not there");
    }
}
