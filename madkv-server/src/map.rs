//! The ordered map, as a state machine.
//!
//! Records live in a persistent B-tree: a copy of the whole map costs as much as a copy of a pointer, and shares everything
//! with the original until one of them changes. Snapshots and long scans work on such copies, while writes go on.
//!
//! A record is one allocation: key length, key, value. Keys and values apart would be easier, and cost 30 % more memory
//! at 100 bytes a value. The price: an inner node holds whole records as separators, so up to one in eight replaced or removed values
//! stays in memory until its leaf is split or merged.
//!
//! # Image
//! ```text
//! magic | block* | 0u32        block: length u32 | records as in `madkv_api::command`
//! ```
//! Records come in key order, so that the same map gives the same bytes on every replica.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;
use madkv_api::command::{self, Command, Query, decode_records, encode_found, encode_value, push_record};
use madkv_api::limits::{KEY_MAX_BYTES, SCAN_PART_MAX_BYTES, VALUE_MAX_BYTES};
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};

use crate::trace;

/// The first bytes of an image.
const MAGIC: &[u8; 8] = b"madkvm1\n";
/// A block of an image ends with the record that reaches this length.
const BLOCK_AIM_BYTES: usize = 64 << 10;
/// The longest block: the last record may pass the aim.
const BLOCK_MAX_BYTES: usize = BLOCK_AIM_BYTES + 8 + KEY_MAX_BYTES + VALUE_MAX_BYTES;
/// The bytes before the key.
const KEY_LEN_BYTES: usize = 2;

// A key's length must fit before it.
const _: () = assert!(KEY_MAX_BYTES <= u16::MAX as usize);

/// Key length u16, key, value. Ordered and looked up by its key alone.
#[derive(Clone)]
struct Record(Arc<[u8]>);

impl Record {
    fn key(&self) -> &[u8] {
        &self.0[KEY_LEN_BYTES..self.value_start()]
    }

    fn value(&self) -> &[u8] {
        &self.0[self.value_start()..]
    }

    fn value_start(&self) -> usize {
        KEY_LEN_BYTES + usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Record {}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Record) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Record) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl Borrow<[u8]> for Record {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

/// The map.
#[derive(Default)]
pub struct Map {
    records: OrdSet<Record>,
    /// Where the next record is put together, so that it is allocated once, at its own size.
    scratch: Vec<u8>,
}

impl Map {
    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(key).map(Record::value)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Record> {
        let key_len = u16::try_from(key.len()).unwrap_or_else(|_| panic!("a key of {} bytes passed", key.len()));
        self.scratch.clear();
        self.scratch.extend_from_slice(&key_len.to_le_bytes());
        self.scratch.extend_from_slice(key);
        self.scratch.extend_from_slice(value);
        self.records.insert(Record(Arc::from(&self.scratch[..])))
    }

    fn carry_out(&mut self, command: &[u8]) -> Vec<u8> {
        match Command::decode(command) {
            Ok(command) if !within_limits(command.key(), command.value()) => Vec::new(),
            Ok(Command::Put { key, value }) => encode_found(self.put(key, value).is_some()),
            Ok(Command::Swap { key, value }) => encode_value(self.put(key, value).as_ref().map(Record::value)),
            Ok(Command::Delete { key }) => encode_found(self.records.remove(key).is_some()),
            // The front door lets none of these in. Should one get into the log all the same, it has the same answer on each
            // replica: no bytes, which is an answer to nothing.
            Err(command::Malformed(_)) => Vec::new(),
        }
    }
}

fn within_limits(key: &[u8], value: &[u8]) -> bool {
    key.len() <= KEY_MAX_BYTES && value.len() <= VALUE_MAX_BYTES
}

impl StateMachine for Map {
    type Image = MapImage;

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        let Some(tracer) = trace::tracer() else { return self.carry_out(command) };
        let request = tracer.before(index, self.len(), command);
        let answer = self.carry_out(command);
        tracer.after(&request, self.len());
        answer
    }

    fn query(&self, query: &[u8]) -> Answer {
        match Query::decode(query) {
            Ok(Query::Get { key }) => Answer::Now(encode_value(self.get(key))),
            Ok(Query::Scan { from, to }) => scan(&self.records, from, to),
            Err(command::Malformed(_)) => Answer::Now(Vec::new()),
        }
    }

    fn image(&self) -> MapImage {
        MapImage { records: self.records.clone() }
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Map> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(invalid("no image of a map"));
        }
        let mut map = Map::default();
        let mut last: Option<Bytes> = None;
        while let Some(block) = read_block(input)? {
            for (key, value) in decode_records(&block).map_err(invalid)? {
                if !within_limits(&key, &value) {
                    return Err(invalid("a record beyond the limits"));
                }
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(invalid("records out of order"));
                }
                map.put(&key, &value);
                last = Some(key);
            }
        }
        Ok(map)
    }
}

/// A copy of a map as of one moment.
pub struct MapImage {
    records: OrdSet<Record>,
}

impl Image for MapImage {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(MAGIC)?;
        let mut block = Vec::with_capacity(2 * BLOCK_AIM_BYTES);
        for record in &self.records {
            push_record(&mut block, record.key(), record.value());
            if block.len() >= BLOCK_AIM_BYTES {
                write_block(output, &block)?;
                block.clear();
            }
        }
        if !block.is_empty() {
            write_block(output, &block)?;
        }
        write_block(output, &[])
    }
}

fn write_block(output: &mut dyn io::Write, block: &[u8]) -> io::Result<()> {
    let len = u32::try_from(block.len()).map_err(invalid)?;
    output.write_all(&len.to_le_bytes())?;
    output.write_all(block)
}

/// The next block; `None` at the end.
fn read_block(input: &mut dyn io::Read) -> io::Result<Option<Bytes>> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > BLOCK_MAX_BYTES {
        return Err(invalid("a block beyond the limit"));
    }
    let mut block = vec![0; len];
    input.read_exact(&mut block)?;
    Ok((len > 0).then(|| block.into()))
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// All records from `from` to `to`, both included: at once if they fit into one part.
fn scan(records: &OrdSet<Record>, from: &[u8], to: &[u8]) -> Answer {
    if from > to {
        return Answer::Now(Vec::new());
    }
    let (part, more_behind) = scan_part(records, Bound::Included(from), to);
    match more_behind {
        None => Answer::Now(part),
        Some(last) => Answer::Parts(Box::new(Scan {
            records: records.clone(),
            to: to.into(),
            next: Some(part),
            more_behind: Some(last),
        })),
    }
}

/// One part of a scan, and the record that it ends with if there are more behind it.
fn scan_part(records: &OrdSet<Record>, from: Bound<&[u8]>, to: &[u8]) -> (Vec<u8>, Option<Record>) {
    let mut part = Vec::new();
    let mut range = records.range::<_, [u8]>((from, Bound::Included(to))).peekable();
    while let Some(record) = range.next() {
        push_record(&mut part, record.key(), record.value());
        if part.len() >= SCAN_PART_MAX_BYTES && range.peek().is_some() {
            return (part, Some(record.clone()));
        }
    }
    (part, None)
}

/// A long scan, on a copy of the map.
struct Scan {
    records: OrdSet<Record>,
    to: Box<[u8]>,
    /// A part that was drawn already.
    next: Option<Vec<u8>>,
    /// The last record drawn, while there are more.
    more_behind: Option<Record>,
}

impl Iterator for Scan {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(part) = self.next.take() {
            return Some(part);
        }
        let last = self.more_behind.take()?;
        let (part, more_behind) = scan_part(&self.records, Bound::Excluded(last.key()), &self.to);
        self.more_behind = more_behind;
        Some(part)
    }
}
