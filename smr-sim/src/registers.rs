//! The workload of our own tests: a few registers that clients swap unique values into, and read.
//!
//! Every swap answers with the value before, so the swaps of a register form one chain: nothing lost, nothing twice.
//! Each operation has its place in the chain, and places must not contradict real time. So linearizability is decided
//! in almost linear time, without a search.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use smr::codec;
use smr::entry::Index;
use smr::internals::protocol::Time;
use smr::state_machine::{Answer, Image, StateMachine};

use crate::sim_rng::SimRng;
use crate::workload::{Operation, Seen, Workload};

/// The workload.
#[derive(Clone, Debug)]
pub struct Registers {
    /// How many registers there are.
    pub registers: u8,
    /// How many of a hundred operations are reads.
    pub reads_percent: u64,
    /// Bytes of ballast in each command and answer.
    pub ballast_bytes: usize,
    /// Whether every second client only reads.
    pub readers: bool,
    next_value: u64,
}

impl Registers {
    /// A workload on this many registers.
    pub fn new(registers: u8, reads_percent: u64) -> Registers {
        Registers { registers, reads_percent, ballast_bytes: 0, readers: false, next_value: 1 }
    }

    /// The same with this many bytes of ballast in each command and answer.
    #[must_use]
    pub fn with_ballast(self, ballast_bytes: usize) -> Registers {
        Registers { ballast_bytes, ..self }
    }
}

/// The state machine: a command is (register, value, ballast), its answer the value before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    values: BTreeMap<u8, u64>,
}

impl Image for Register {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        let values: Vec<(u8, u64)> = self.values.iter().map(|(register, value)| (*register, *value)).collect();
        output.write_all(&codec::encode(&values))
    }

    fn write_difference(&self, base: &Register, output: &mut dyn io::Write) -> io::Result<bool> {
        let is_news = |(register, value): &(&u8, &u64)| base.values.get(*register) != Some(*value);
        let values: Vec<(u8, u64)> =
            self.values.iter().filter(is_news).map(|(register, value)| (*register, *value)).collect();
        output.write_all(&codec::encode(&values))?;
        Ok(true)
    }
}

impl StateMachine for Register {
    type Image = Register;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let Some((register, value, ballast)) = parse(command) else { return Vec::new() };
        let mut answer = self.values.insert(register, value).unwrap_or(0).to_le_bytes().to_vec();
        answer.extend_from_slice(ballast);
        answer
    }

    fn query(&self, query: &[u8]) -> Answer {
        let value = query.first().and_then(|register| self.values.get(register)).copied().unwrap_or(0);
        Answer::Now(value.to_le_bytes().to_vec())
    }

    fn image(&self) -> Register {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Register> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let values: Vec<(u8, u64)> = codec::decode(&bytes).map_err(io::Error::other)?;
        Ok(Register { values: values.into_iter().collect() })
    }

    fn advance(image: Register, difference: &mut dyn io::Read) -> io::Result<Register> {
        let Register { mut values } = image;
        values.extend(Register::restore(difference)?.values);
        Ok(Register { values })
    }
}

fn parse(command: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (register, rest) = command.split_first()?;
    let (value, ballast) = rest.split_first_chunk::<8>()?;
    Some((*register, u64::from_le_bytes(*value), ballast))
}

impl Workload for Registers {
    type Machine = Register;

    fn machine(&self) -> Register {
        Register::default()
    }

    fn next(&mut self, client: usize, rng: &mut SimRng) -> Operation {
        let register = rng.below(u64::from(self.registers)) as u8;
        let only_reads = self.readers && !client.is_multiple_of(2);
        if rng.below(100) < self.reads_percent || only_reads {
            return Operation::Read(vec![register]);
        }
        let mut command = vec![register];
        command.extend_from_slice(&self.next_value.to_le_bytes());
        command.resize(command.len() + self.ballast_bytes, 7);
        self.next_value += 1;
        Operation::Write(command)
    }

    fn last_reads(&self) -> Vec<Operation> {
        (0..self.registers).map(|register| Operation::Read(vec![register])).collect()
    }

    fn judge(&self, history: &[Seen]) -> Result<(), String> {
        let mut by_register: BTreeMap<u8, Vec<Place>> = BTreeMap::new();
        let mut refused: BTreeSet<u64> = BTreeSet::new();
        for seen in history {
            if let (true, Operation::Write(command)) = (seen.refused, &seen.operation) {
                refused.extend(parse(command).map(|(_, value, _)| value));
                continue;
            }
            let found = match &seen.answer {
                None => None,
                Some(answer) => {
                    let value = answer.first_chunk::<8>().ok_or_else(|| format!("{seen:?} has no value"))?;
                    Some(u64::from_le_bytes(*value))
                }
            };
            let (register, put) = match &seen.operation {
                Operation::Read(query) => (query.first().copied(), None),
                Operation::Write(command) => {
                    let parsed = parse(command);
                    (parsed.map(|(register, _, _)| register), parsed.map(|(_, value, _)| value))
                }
            };
            let register = register.ok_or_else(|| format!("{seen:?} names no register"))?;
            let place = Place { found, put, began_at: seen.began_at, ended_at: seen.ended_at };
            by_register.entry(register).or_default().push(place);
        }
        let mut found = by_register.values().flatten().filter_map(|place| place.found);
        if let Some(value) = found.find(|value| refused.contains(value)) {
            return Err(format!("{value} was refused, and yet it was put"));
        }
        for (register, operations) in by_register {
            judge(&operations).map_err(|why| format!("register {register}: {why}"))?;
        }
        Ok(())
    }
}

/// An operation on one register.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// What was read, or what was there before the swap; `None` if no one heard.
    found: Option<u64>,
    /// What the swap put there.
    put: Option<u64>,
    began_at: Time,
    ended_at: Time,
}

/// A piece of the chain whose beginning is known, or begins with a swap whose answer no one heard.
struct Segment {
    values: Vec<u64>,
    /// The earliest end and the latest beginning of its operations.
    min_end: Time,
    max_begin: Time,
}

fn judge(operations: &[Place]) -> Result<(), String> {
    let mut after: BTreeMap<u64, u64> = BTreeMap::new();
    let mut unheard: BTreeSet<u64> = BTreeSet::new();
    let mut times: BTreeMap<u64, (Time, Time)> = BTreeMap::new();
    let mut put_by: BTreeSet<u64> = BTreeSet::new();
    for place in operations {
        let value = match (place.found, place.put) {
            (Some(found), Some(put)) => {
                if let Some(other) = after.insert(found, put) {
                    return Err(format!("{found} was replaced by {put} and by {other}"));
                }
                put
            }
            (None, Some(put)) => {
                unheard.insert(put);
                put
            }
            (Some(found), None) => found,
            (None, None) => continue,
        };
        if place.put.is_some() && !put_by.insert(value) {
            return Err(format!("{value} was put twice by clients: a bug of the workload"));
        }
        // Reads stand with the value they found; an unheard swap never ended.
        let ended_at = if place.found.is_some() { place.ended_at } else { Time(u64::MAX) };
        let time = times.entry(value).or_insert((Time(u64::MAX), Time(0)));
        *time = (time.0.min(ended_at), time.1.max(place.began_at));
    }
    let order = chain(&after, &unheard, &times)?;
    let places: BTreeMap<u64, usize> = order.iter().enumerate().map(|(at, value)| (*value, at)).collect();
    in_real_time(operations, &places)
}

/// The values of a register in order, from 0 on. Unheard swaps that no one saw the value of are left out.
fn chain(
    after: &BTreeMap<u64, u64>,
    unheard: &BTreeSet<u64>,
    times: &BTreeMap<u64, (Time, Time)>,
) -> Result<Vec<u64>, String> {
    let mut placed: BTreeSet<u64> = BTreeSet::new();
    let mut segment_from = |head: u64| -> Result<Segment, String> {
        let mut segment = Segment { values: Vec::new(), min_end: Time(u64::MAX), max_begin: Time(0) };
        let mut value = Some(head);
        while let Some(present) = value {
            if !placed.insert(present) {
                return Err(format!("{present} comes twice"));
            }
            segment.values.push(present);
            if let Some((end, begin)) = times.get(&present) {
                segment.min_end = segment.min_end.min(*end);
                segment.max_begin = segment.max_begin.max(*begin);
            }
            value = after.get(&present).copied();
        }
        Ok(segment)
    };
    let first = segment_from(0)?;
    let mut rest = Vec::new();
    for head in unheard {
        // Seen by a read, or replaced by a swap: then it took effect.
        let read = times.get(head).is_some_and(|(end, _)| *end != Time(u64::MAX));
        if after.contains_key(head) || read {
            rest.push(segment_from(*head)?);
        }
    }
    let lost: Vec<u64> = after.values().copied().filter(|put| !placed.contains(put)).collect();
    if !lost.is_empty() {
        return Err(format!("the chain ends with {:?}; acknowledged and not in it: {lost:?}", first.values.last()));
    }
    let mut order = first.values;
    // A segment may come next if no other one has an operation that ended before one of its own began.
    while !rest.is_empty() {
        let may_come = |at: usize| {
            rest.iter().enumerate().all(|(other, segment)| other == at || segment.min_end >= rest[at].max_begin)
        };
        let next = (0..rest.len()).find(|at| may_come(*at)).ok_or("the pieces of the chain fit in no order")?;
        order.extend(rest.swap_remove(next).values);
    }
    Ok(order)
}

/// In real time places never fall: what begins after something has ended is after it.
fn in_real_time(operations: &[Place], places: &BTreeMap<u64, usize>) -> Result<(), String> {
    let mut placed = Vec::new();
    for operation in operations {
        let Some(value) = operation.put.or(operation.found) else { continue };
        match places.get(&value) {
            Some(place) => placed.push((*place, *operation)),
            None if operation.found.is_none() => {}
            None => return Err(format!("no one wrote what {operation:?} found")),
        }
    }
    let mut by_end = placed.clone();
    by_end.retain(|(_, operation)| operation.found.is_some());
    by_end.sort_by_key(|(_, operation)| operation.ended_at);
    placed.sort_by_key(|(_, operation)| operation.began_at);
    let mut ended = by_end.iter().peekable();
    let mut furthest: Option<(usize, Place)> = None;
    for (place, operation) in placed {
        while let Some((place, before)) = ended.next_if(|(_, before)| before.ended_at < operation.began_at) {
            if furthest.is_none_or(|(most, _)| most < *place) {
                furthest = Some((*place, *before));
            }
        }
        if let Some((most, before)) = furthest {
            let in_order = if operation.put.is_some() { place > most } else { place >= most };
            if !in_order {
                return Err(format!("{operation:?} began after {before:?} had ended, and yet comes before it"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swapped(found: u64, put: u64, began: u64, ended: u64) -> Place {
        Place { found: Some(found), put: Some(put), began_at: Time(began), ended_at: Time(ended) }
    }

    fn unheard(put: u64, began: u64) -> Place {
        Place { found: None, put: Some(put), began_at: Time(began), ended_at: Time(u64::MAX) }
    }

    fn read(found: u64, began: u64, ended: u64) -> Place {
        Place { put: None, ..swapped(found, 0, began, ended) }
    }

    #[test]
    fn judge_knows_good_histories_from_bad_ones() {
        let swaps = [swapped(0, 1, 0, 10), swapped(1, 2, 5, 20)];
        let with = |read: Place| judge(&[swaps[0], swaps[1], read]);
        assert_eq!(with(read(1, 12, 15)), Ok(()));
        assert_eq!(with(read(2, 12, 15)), Ok(()), "concurrent with the swap");
        assert_eq!(with(read(0, 0, 3)), Ok(()));
        assert!(with(read(0, 12, 15)).is_err(), "stale");
        assert!(with(read(1, 21, 25)).is_err(), "stale");
        assert!(with(read(7, 1, 2)).is_err(), "never written");
        assert!(judge(&[swapped(0, 1, 0, 1), swapped(0, 2, 2, 3)]).is_err(), "lost");
        assert!(judge(&[swapped(0, 1, 0, 1), swapped(5, 2, 2, 3)]).is_err(), "a gap");
        assert!(judge(&[swapped(0, 1, 5, 6), swapped(1, 2, 0, 3)]).is_err(), "out of order");
        assert!(judge(&[swaps[0], swaps[1], read(2, 12, 13), read(1, 14, 15)]).is_err(), "reads go back");
    }

    // covers C9
    #[test]
    fn judge_refused_swap_must_never_be_seen() {
        let seen = |operation: Operation, answer: Option<u64>, refused: bool| Seen {
            client: 0,
            operation,
            began_at: Time(0),
            ended_at: Time(10),
            answer: answer.map(|value| value.to_le_bytes().to_vec()),
            refused,
        };
        let swap = |value: u64| Operation::Write([&[0][..], &value.to_le_bytes()].concat());
        let history = [seen(swap(1), Some(0), false), seen(swap(2), None, true)];
        let workload = Registers::new(1, 0);
        assert_eq!(workload.judge(&history), Ok(()));
        let read = seen(Operation::Read(vec![0]), Some(2), false);
        assert!(workload.judge(&[history[0].clone(), history[1].clone(), read]).is_err());
    }

    #[test]
    fn judge_accepts_unheard_swaps_where_they_fit_and_nowhere_else() {
        let first = swapped(0, 1, 0, 10);
        assert_eq!(judge(&[first, unheard(2, 5)]), Ok(()), "never seen");
        assert_eq!(judge(&[first, unheard(2, 5), swapped(2, 3, 6, 20), read(3, 21, 22)]), Ok(()));
        assert_eq!(judge(&[first, unheard(2, 5), read(2, 50, 60)]), Ok(()), "much later");
        assert!(judge(&[first, unheard(2, 5), read(2, 1, 3)]).is_err(), "before it was begun");
        assert!(judge(&[first, unheard(2, 5), read(2, 30, 32), read(1, 33, 34)]).is_err(), "reads go back");
        let two = [first, unheard(2, 5), unheard(3, 5), swapped(3, 4, 12, 14), swapped(2, 5, 20, 24)];
        assert_eq!(judge(&two), Ok(()), "3 came before 2");
        assert!(judge(&[two[0], two[1], two[2], two[3], two[4], read(4, 30, 31)]).is_err());
    }
}
