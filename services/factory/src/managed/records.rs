//! The customer records and the log of map operations as a replicated state.
//!
//! The document has an idle factory apply an operation when the next one comes, while the production factory applies it
//! as soon as all have it. So the state keeps the last operation beside the records, and it depends on who is asked
//! whether that counts as applied. Of the operations before it nothing is kept but their number: what is to be done
//! again after a crash is in the log of the replica.

use std::io::{self, Read, Write};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::{Answer, Image, Index, StateMachine};

use crate::words::{MapOp, OPCODE_UPDATE};

/// The first bytes of an image: what it is, and the version of its format, a digit.
const MAGIC: &[u8; 8] = b"factory1";
/// Those of a difference between two of them.
const MAGIC_DIFFERENCE: &[u8; 8] = b"factoryd";

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is in the log of map operations, at this index from 1.
    Recorded(u64),
    /// It is none.
    Malformed,
}

impl Reply {
    /// Reads the answer to an operation.
    pub fn decode(bytes: &[u8]) -> Reply {
        codec::decode(bytes).unwrap_or(Reply::Malformed)
    }
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The record of this customer is wanted.
    pub customer: i32,
    /// Operations up to this one count as applied, those before the last one in any case: the last one does for the
    /// production factory, and for one that was that when it was.
    pub applied_to: u64,
}

impl Query {
    /// As the replica is asked it.
    pub fn encode(self) -> Vec<u8> {
        codec::encode(&self)
    }
}

/// The answer to a [`Query`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The customer's last order, if there is a record.
    pub last_order: Option<i32>,
    /// The index of the last operation; 0 for none.
    pub last_index: u64,
    /// That of the last one that is committed and applied.
    pub committed_index: u64,
}

/// The state. A copy shares its records with the original until one of them changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// As of the operation before the last one.
    applied: OrdMap<i32, i32>,
    /// Customer and order of the last one.
    last: Option<(i32, i32)>,
    /// Its index.
    last_index: u64,
}

impl Records {
    fn carry_out(&mut self, op: MapOp) -> Reply {
        let MapOp { opcode, arg1: customer, arg2: order } = op;
        if opcode != OPCODE_UPDATE || customer < 0 || order < 0 {
            return Reply::Malformed;
        }
        if let Some((customer, order)) = self.last.replace((customer, order)) {
            self.applied.insert(customer, order);
        }
        self.last_index += 1;
        Reply::Recorded(self.last_index)
    }

    fn find(&self, Query { customer, applied_to }: Query) -> Found {
        let with_last = self.last_index <= applied_to;
        let last = self.last.filter(|(of, _)| with_last && *of == customer).map(|(_, order)| order);
        let last_index = self.last_index;
        Found {
            last_order: last.or_else(|| self.applied.get(&customer).copied()),
            last_index,
            committed_index: if with_last { last_index } else { last_index.saturating_sub(1) },
        }
    }

    fn write_head(&self, magic: &[u8; 8], output: &mut dyn Write) -> io::Result<()> {
        output.write_all(magic)?;
        output.write_all(&self.last_index.to_le_bytes())?;
        let (is_there, (customer, order)) = (u8::from(self.last.is_some()), self.last.unwrap_or_default());
        output.write_all(&[is_there])?;
        write_record(customer, order, output)
    }

    /// Reads what comes before the records, into a state with these.
    fn read_head(applied: OrdMap<i32, i32>, magic: &[u8; 8], input: &mut dyn Read) -> io::Result<Records> {
        if read_bytes::<8>(input)? != *magic {
            return Err(invalid("no customer records"));
        }
        let last_index = u64::from_le_bytes(read_bytes(input)?);
        let [is_there] = read_bytes::<1>(input)?;
        let last = read_record(input)?;
        Ok(Records { applied, last: (is_there != 0).then_some(last), last_index })
    }

    /// Reads records until there are no more of them.
    fn read_records(mut self, input: &mut dyn Read) -> io::Result<Records> {
        let mut count = u64::from_le_bytes(read_bytes(input)?);
        while count > 0 {
            let (customer, order) = read_record(input)?;
            self.applied.insert(customer, order);
            count -= 1;
        }
        Ok(self)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn write_record(customer: i32, order: i32, output: &mut dyn Write) -> io::Result<()> {
    output.write_all(&customer.to_le_bytes())?;
    output.write_all(&order.to_le_bytes())
}

fn read_bytes<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_record(input: &mut dyn Read) -> io::Result<(i32, i32)> {
    Ok((i32::from_le_bytes(read_bytes(input)?), i32::from_le_bytes(read_bytes(input)?)))
}

impl StateMachine for Records {
    type Image = Records;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        codec::encode(&match codec::decode(command) {
            Ok(op) => self.carry_out(op),
            Err(_) => Reply::Malformed,
        })
    }

    fn query(&self, query: &[u8]) -> Answer {
        Answer::Now(codec::decode(query).map_or_else(|_| Vec::new(), |query| codec::encode(&self.find(query))))
    }

    fn image(&self) -> Records {
        self.clone()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Records> {
        Records::read_head(OrdMap::new(), MAGIC, input)?.read_records(input)
    }

    fn advance(image: Records, difference: &mut dyn Read) -> io::Result<Records> {
        Records::read_head(image.applied, MAGIC_DIFFERENCE, difference)?.read_records(difference)
    }
}

impl Image for Records {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        self.write_head(MAGIC, output)?;
        output.write_all(&(self.applied.len() as u64).to_le_bytes())?;
        self.applied.iter().try_for_each(|(customer, order)| write_record(*customer, *order, output))
    }

    /// No record ever goes.
    fn write_difference(&self, base: &Records, output: &mut dyn Write) -> io::Result<bool> {
        let changed = || {
            base.applied.diff(&self.applied).filter_map(|item| match item {
                DiffItem::Add(customer, order) | DiffItem::Update { new: (customer, order), .. } => {
                    Some((*customer, *order))
                }
                DiffItem::Remove(..) => None,
            })
        };
        self.write_head(MAGIC_DIFFERENCE, output)?;
        output.write_all(&(changed().count() as u64).to_le_bytes())?;
        changed().try_for_each(|(customer, order)| write_record(customer, order, output))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(records: &mut Records, customer: i32, order: i32) -> Reply {
        Reply::decode(&records.apply(Index(1), &codec::encode(&MapOp::update(customer, order))))
    }

    fn find(records: &Records, customer: i32, with_last: bool) -> (Option<i32>, u64, u64) {
        find_applied(records, customer, if with_last { u64::MAX } else { 0 })
    }

    fn find_applied(records: &Records, customer: i32, applied_to: u64) -> (Option<i32>, u64, u64) {
        let Answer::Now(bytes) = records.query(&Query { customer, applied_to }.encode()) else { panic!("in parts") };
        let found: Found = codec::decode(&bytes).unwrap();
        (found.last_order, found.last_index, found.committed_index)
    }

    #[test]
    fn idle_factory_applies_an_operation_with_the_next_one_and_the_production_factory_at_once() {
        let mut records = Records::default();
        assert_eq!((find(&records, 7, true), find(&records, 7, false)), ((None, 0, 0), (None, 0, 0)));
        assert_eq!(order(&mut records, 7, 20), Reply::Recorded(1));
        assert_eq!((find(&records, 7, true), find(&records, 7, false)), ((Some(20), 1, 1), (None, 1, 0)));
        assert_eq!(order(&mut records, 8, 3), Reply::Recorded(2));
        assert_eq!((find(&records, 8, true), find(&records, 8, false)), ((Some(3), 2, 2), (None, 2, 1)));
        assert_eq!((find(&records, 7, true), find(&records, 7, false)), ((Some(20), 2, 2), (Some(20), 2, 1)));
        assert_eq!(order(&mut records, 7, 21), Reply::Recorded(3));
        assert_eq!((find(&records, 7, true), find(&records, 7, false)), ((Some(21), 3, 3), (Some(20), 3, 2)));
    }

    #[test]
    fn what_was_applied_at_the_production_factory_stays_so_when_another_one_takes_over() {
        let mut records = Records::default();
        order(&mut records, 7, 20);
        order(&mut records, 7, 21);
        assert_eq!(find_applied(&records, 7, 2), (Some(21), 2, 2), "it applied both while it produced");
        assert_eq!(find_applied(&records, 7, 1), (Some(20), 2, 1));
        order(&mut records, 7, 22);
        assert_eq!(find_applied(&records, 7, 2), (Some(21), 3, 2), "the next one is another's");
    }

    #[test]
    fn what_is_no_operation_changes_nothing_and_is_refused_alike_everywhere() {
        let mut records = Records::default();
        order(&mut records, 1, 1);
        let before = records.clone();
        let bad = |records: &mut Records, op| Reply::decode(&records.apply(Index(1), &codec::encode(&op)));
        for op in [MapOp { opcode: 2, arg1: 1, arg2: 1 }, MapOp::update(-1, 0), MapOp::update(0, -1)] {
            assert_eq!(bad(&mut records, op), Reply::Malformed, "{op:?}");
        }
        assert_eq!(Reply::decode(&records.apply(Index(1), b"what")), Reply::Malformed);
        assert_eq!(records, before);
    }

    #[test]
    fn image_and_difference_restore_the_same_state() {
        let mut records = Records::default();
        for number in 0..1_000 {
            order(&mut records, number % 97, number);
        }
        let base = records.image();
        let mut bytes = Vec::new();
        base.write(&mut bytes).unwrap();
        assert_eq!(Records::restore(&mut &bytes[..]).unwrap(), records);
        for number in 0..50 {
            order(&mut records, 90 + number, 5_000 + number);
        }
        let mut difference = Vec::new();
        assert!(records.write_difference(&base, &mut difference).unwrap());
        assert!(difference.len() < bytes.len(), "{} of {}", difference.len(), bytes.len());
        assert_eq!(Records::advance(base, &mut &difference[..]).unwrap(), records);
        for cut in [0, 7, 8, 20, bytes.len() - 1] {
            assert!(Records::restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Records::restore(&mut &difference[..]).is_err(), "a difference is no image");
    }
}
