//! The ordered map, as a state machine.
//!
//! Records live in a persistent map ([`crate::packed`]): a copy of the whole costs as much as a copy of a pointer, and
//! shares everything with the original until one of them changes. Snapshots and long scans work on such copies, while
//! writes go on.
//!
//! # Image
//! ```text
//! magic | block* | 0u32        block: length u32 | records as in `madkv_proto::command`
//! ```
//! Records come in key order, and a block ends by what is in it, so that the same map gives the same bytes on every
//! replica.

use std::io;
use std::ops::Bound;
use std::sync::OnceLock;

use bytes::Bytes;
use madkv_proto::command::{self, Command, Query, decode_records, encode_found, encode_value, push_record};
use madkv_proto::limits::{KEY_MAX_BYTES, SCAN_PART_MAX_BYTES, VALUE_MAX_BYTES};
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};
use xxhash_rust::xxh3::xxh3_64;

use crate::packed::{Builder, Records};
use crate::trace;

/// The first bytes of an image: what it is, and the version of its format, a digit.
const MAGIC: &[u8; 8] = b"madkvm1\n";
/// A block of an image ends with the record that reaches this length.
const BLOCK_AIM_BYTES: usize = 64 << 10;
/// The longest block: the last record may pass the aim.
const BLOCK_MAX_BYTES: usize = BLOCK_AIM_BYTES + 8 + KEY_MAX_BYTES + VALUE_MAX_BYTES;

/// The map.
#[derive(Default)]
pub struct Map {
    records: Records,
    /// The digest of the records, for messages that show the state; made when one first does, and kept up from then.
    shown_digest: OnceLock<u64>,
}

impl Map {
    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.records.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(key)
    }

    fn carry_out(&mut self, command: &[u8]) -> Vec<u8> {
        match Command::decode(command) {
            Ok(command) if !within_limits(command.key(), command.value()) => Vec::new(),
            Ok(Command::Put { key, value }) => encode_found(self.records.insert(key, value)),
            Ok(Command::Swap { key, value }) => {
                let answer = encode_value(self.records.get(key));
                self.records.insert(key, value);
                answer
            }
            Ok(Command::Delete { key }) => encode_found(self.records.remove(key)),
            // The listener lets none of these in. Should one get into the log all the same, it has the same answer on
            // each replica: no bytes, which is an answer to nothing.
            Err(command::Malformed(_)) => Vec::new(),
        }
    }

    fn look_up(&self, query: &[u8]) -> Answer {
        match Query::decode(query) {
            Ok(Query::Get { key }) => Answer::Now(encode_value(self.get(key))),
            Ok(Query::Scan { from, to }) => scan(&self.records, from, to),
            Err(command::Malformed(_)) => Answer::Now(Vec::new()),
        }
    }

    /// The state, as messages show it: two replicas that show the same have the same records.
    fn shown(&self) -> String {
        format!("{} keys (digest {:016x})", self.len(), self.shown_digest())
    }

    fn shown_digest(&self) -> u64 {
        let all = || self.records.starting(Bound::Unbounded).fold(0, |sum, (key, value)| sum ^ digest(key, value));
        *self.shown_digest.get_or_init(all)
    }

    /// The part of the digest that is of this key.
    fn digest_of(&self, key: &[u8]) -> u64 {
        self.get(key).map_or(0, |value| digest(key, value))
    }
}

/// A record's part of the digest; those of all records together, in whatever order, are the digest.
fn digest(key: &[u8], value: &[u8]) -> u64 {
    let mut record = Vec::with_capacity(key.len() + value.len() + 8);
    push_record(&mut record, key, value);
    xxh3_64(&record)
}

/// A query that costs little, by which a leader proves itself whenever its readiness is asked for. Unless a client
/// sent the same, it is not traced.
pub(crate) fn probe() -> Bytes {
    Query::Get { key: b"" }.encode()
}

fn within_limits(key: &[u8], value: &[u8]) -> bool {
    key.len() <= KEY_MAX_BYTES && value.len() <= VALUE_MAX_BYTES
}

impl StateMachine for Map {
    type Image = MapImage;

    fn command_version(command: &[u8]) -> Option<u16> {
        Command::version(command)
    }

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        let Some(tracer) = trace::tracer() else { return self.carry_out(command) };
        let request = tracer.before(&self.shown(), command, || format!("entry {}", index.0));
        let key = Command::decode(command).map(|command| command.key().to_vec()).unwrap_or_default();
        let digest = self.shown_digest() ^ self.digest_of(&key);
        let answer = self.carry_out(command);
        self.shown_digest = OnceLock::from(digest ^ self.digest_of(&key));
        tracer.after(&self.shown(), &request);
        answer
    }

    fn frees(command: &[u8]) -> bool {
        matches!(Command::decode(command), Ok(Command::Delete { .. }))
    }

    fn query(&self, query: &[u8]) -> Answer {
        let Some(tracer) = trace::tracer() else { return self.look_up(query) };
        if query == probe() && !tracer.knows(query) {
            return self.look_up(query);
        }
        let request = tracer.before(&self.shown(), query, || "a read".to_owned());
        let answer = self.look_up(query);
        tracer.after(&self.shown(), &request);
        answer
    }

    fn image(&self) -> MapImage {
        MapImage { records: self.records.clone() }
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Map> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        match magic {
            _ if magic == *MAGIC => {}
            [b'm', b'a', b'd', b'k', b'v', b'm', version, b'\n'] if version.is_ascii_graphic() => {
                let found = char::from(version);
                return Err(invalid(format!("an image of a map of version {found}, this build reads version 1")));
            }
            _ => return Err(invalid("no image of a map")),
        }
        let mut records = Builder::default();
        let mut last: Option<Bytes> = None;
        while let Some(block) = read_block(input)? {
            for (key, value) in decode_records(&block).map_err(invalid)? {
                if !within_limits(&key, &value) {
                    return Err(invalid("a record beyond the limits"));
                }
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(invalid("records out of order"));
                }
                records.push(&key, &value);
                last = Some(key);
            }
        }
        Ok(Map { records: records.build(), shown_digest: OnceLock::new() })
    }
}

/// A copy of a map as of one moment.
pub struct MapImage {
    records: Records,
}

impl Image for MapImage {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(MAGIC)?;
        let mut block = Vec::with_capacity(2 * BLOCK_AIM_BYTES);
        for (key, value) in self.records.starting(Bound::Unbounded) {
            push_record(&mut block, key, value);
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
fn scan(records: &Records, from: &[u8], to: &[u8]) -> Answer {
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

/// One part of a scan, and the key that it ends with if there are more records after it.
fn scan_part(records: &Records, from: Bound<&[u8]>, to: &[u8]) -> (Vec<u8>, Option<Box<[u8]>>) {
    let mut part = Vec::new();
    let mut range = records.starting(from).take_while(|(key, _)| *key <= to).peekable();
    while let Some((key, value)) = range.next() {
        push_record(&mut part, key, value);
        if part.len() >= SCAN_PART_MAX_BYTES && range.peek().is_some() {
            return (part, Some(key.into()));
        }
    }
    (part, None)
}

/// A long scan, on a copy of the map.
struct Scan {
    records: Records,
    to: Box<[u8]>,
    /// A part that was drawn already.
    next: Option<Vec<u8>>,
    /// The last key drawn, while there are more.
    more_behind: Option<Box<[u8]>>,
}

impl Iterator for Scan {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(part) = self.next.take() {
            return Some(part);
        }
        let last = self.more_behind.take()?;
        let (part, more_behind) = scan_part(&self.records, Bound::Excluded(&last), &self.to);
        self.more_behind = more_behind;
        Some(part)
    }
}
