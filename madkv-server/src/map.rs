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
//! replica. Once slots have moved, or are about to, it is of version 2: a block with the ownership
//! ([`crate::ownership`]) and then blocks with the keys that have changed, ended by an empty one, come before the
//! records.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use madkv_proto::command::{self, Command, Query, decode_records, encode_found, encode_value, push_record};
use madkv_proto::limits::SCAN_PART_MAX_BYTES;
use madkv_proto::slot_move::{SlotCommand, SlotQuery, encode_elsewhere};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_proto::watch::WatchQuery;
use smr::entry::Index;
use smr::state_machine::{Answer, Checkpointed, Image, Readiness, StateMachine};
use xxhash_rust::xxh3::xxh3_64;

use crate::blocks::{invalid, read_block, read_ownership, write_ownership, write_records};
use crate::difference;
use crate::migration;
use crate::ownership::Ownership;
use crate::packed::{Builder, Records, within_limits};
use crate::trace;
use crate::watch::{Bell, Changes, moved_epoch};

/// The first bytes of an image: what it is, and the version of its format, a digit.
const MAGIC: &[u8; 8] = b"madkvm1\n";
/// Those of an image with an ownership.
const MAGIC_2: &[u8; 8] = b"madkvm2\n";

/// Whether the map judges by itself which keys are its partition's, as others see it while the map is at work: it does
/// so once the partition has taken part in a move of slots. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct JudgesKeys(Arc<AtomicBool>);

impl JudgesKeys {
    /// Whether it does. Then every command and question that comes from now on is judged, for it comes after the entry
    /// by which this began.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set(&self, judges: bool) {
        self.0.store(judges, Ordering::Release);
    }
}

/// The keys of a partition with their values, and which slots are its own.
#[derive(Default)]
pub struct Map {
    records: Records,
    /// None until the partition takes part in a move of slots.
    ownership: Option<Arc<Ownership>>,
    /// Whether there is one; it is the same in all maps of a replica.
    judges_keys: JudgesKeys,
    /// What has changed lately. No part of what is replicated.
    changes: Changes,
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

    /// Whether it judges which keys are its partition's, now and from now on.
    pub fn judges_keys(&self) -> JudgesKeys {
        self.judges_keys.clone()
    }

    /// What rings once there is something new for those who watch keys.
    pub fn bell(&self) -> Bell {
        self.changes.bell()
    }

    fn carry_out(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        let answer = self.change(index, command);
        self.changes.applied(index.0);
        answer
    }

    fn change(&mut self, index: Index, bytes: &[u8]) -> Vec<u8> {
        if let Some(command) = SlotCommand::decode(bytes) {
            self.shown_digest = OnceLock::new();
            let before = self.ownership.as_ref().map(|ownership| ownership.owned().clone());
            let reply = migration::apply(&mut self.records, &mut self.ownership, command);
            self.judges_keys.set(self.ownership.is_some());
            if let (Some(before), Some(ownership)) = (before, &self.ownership) {
                self.changes.note_slots(index.0, &before, ownership);
            }
            return reply.encode();
        }
        let command = Command::decode(bytes);
        if let (Ok(command), Some(ownership)) = (&command, &mut self.ownership) {
            let slot = slot_of(command.key());
            if !ownership.takes_writes(slot) {
                return encode_elsewhere(ownership.epoch());
            }
            if ownership.notes_changes(slot) {
                Arc::make_mut(ownership).note_change(command.key(), index.0);
            }
        }
        match command {
            Ok(command) if !within_limits(command.key(), command.value()) => Vec::new(),
            Ok(Command::Put { key, value }) => {
                self.changes.note(index.0, bytes);
                encode_found(self.records.insert(key, value))
            }
            Ok(Command::Swap { key, value }) => {
                let answer = encode_value(self.records.get(key));
                self.changes.note(index.0, bytes);
                self.records.insert(key, value);
                answer
            }
            Ok(Command::Delete { key }) => {
                let was_there = self.records.remove(key);
                if was_there {
                    self.changes.note(index.0, bytes);
                }
                encode_found(was_there)
            }
            // The listener lets none of these in. Should one get into the log all the same, it has the same answer on
            // each replica: no bytes, which is an answer to nothing.
            Err(command::Malformed(_)) => Vec::new(),
        }
    }

    fn look_up(&self, query: &[u8]) -> Answer {
        if let Some(query) = SlotQuery::decode(query) {
            return migration::answer(&self.records, self.ownership.as_ref(), query);
        }
        match Query::decode(query) {
            Ok(Query::Get { key }) => match &self.ownership {
                Some(ownership) if !ownership.owned().contains(slot_of(key)) => self.elsewhere(),
                _ => Answer::Now(encode_value(self.get(key))),
            },
            // Whoever asks so names no slots, and goes by the layout that there was at the founding.
            Ok(Query::Scan { from, to }) => match &self.ownership {
                Some(ownership) if ownership.has_changed() => self.elsewhere(),
                Some(ownership) => self.scan_of(ownership.owned(), from, to),
                None => scan(&self.records, None, from, to),
            },
            Ok(Query::ScanOf { slots, from, to }) => match (SlotSet::from_bytes(slots), &self.ownership) {
                (None, _) => Answer::Now(Vec::new()),
                (Some(slots), Some(ownership)) if !ownership.owned().contains_all(&slots) => self.elsewhere(),
                (Some(slots), Some(_)) => self.scan_of(&slots, from, to),
                // The listener has compared the slots with those of the map. The state may be one of before slots
                // moved, set back by a recovery: then it has records of others, too.
                (Some(slots), None) => {
                    let some = (slots.len() < usize::from(SLOTS)).then(|| Arc::new(slots));
                    scan(&self.records, some, from, to)
                }
            },
            Err(command::Malformed(_)) => match WatchQuery::decode(query) {
                Some(query) => Answer::Now(self.changes.answer(&query, self.ownership.as_deref())),
                None => Answer::Now(Vec::new()),
            },
        }
    }

    /// A scan of slots that are owned. Where no others have records here, none need be looked at for its slot.
    fn scan_of(&self, slots: &SlotSet, from: &[u8], to: &[u8]) -> Answer {
        let is_all = self.ownership.as_ref().is_none_or(|owns| !owns.has_foreign_records() && owns.owned() == slots);
        scan(&self.records, (!is_all).then(|| Arc::new(slots.clone())), from, to)
    }

    fn elsewhere(&self) -> Answer {
        Answer::Now(encode_elsewhere(self.ownership.as_ref().map_or(0, |ownership| ownership.epoch())))
    }

    /// The state, as messages show it: two replicas that show the same have the same records.
    fn shown(&self) -> String {
        format!("{} keys (digest {:016x})", self.len(), self.shown_digest())
    }

    /// If it will be shown, the digest is made now: maps are built in the background, and shown in a replica's turn,
    /// which is no place to go through all records.
    fn ready_to_be_shown(self, is_shown: bool) -> Map {
        if is_shown {
            self.shown_digest();
        }
        self
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

impl StateMachine for Map {
    type Image = MapImage;

    /// Not with the commands: a state in which none of later versions was applied is written as before.
    const IMAGE_VERSION: u16 = 1;

    const COMMANDS_VERSION: u16 = 3;

    fn command_version(command: &[u8]) -> Option<u16> {
        Command::version(command)
    }

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        let Some(tracer) = trace::tracer() else { return self.carry_out(index, command) };
        let request = tracer.before(&self.shown(), command, || format!("entry {}", index.0));
        let key = Command::decode(command).map(|command| command.key().to_vec()).unwrap_or_default();
        let digest = self.shown_digest() ^ self.digest_of(&key);
        let answer = self.carry_out(index, command);
        if SlotCommand::decode(command).is_none() {
            self.shown_digest = OnceLock::from(digest ^ self.digest_of(&key));
        }
        tracer.after(&self.shown(), &request);
        answer
    }

    fn frees(command: &[u8]) -> bool {
        matches!(Command::decode(command), Ok(Command::Delete { .. }))
            || SlotCommand::decode(command).is_some_and(|command| !matches!(command, SlotCommand::Install { .. }))
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
        MapImage { records: self.records.clone(), ownership: self.ownership.clone() }
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Map> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        let ownership = match magic {
            _ if magic == *MAGIC => None,
            _ if magic == *MAGIC_2 => Some(Arc::new(read_ownership(input)?)),
            [b'm', b'a', b'd', b'k', b'v', b'm', version, b'\n'] if version.is_ascii_graphic() => {
                let found = char::from(version);
                return Err(invalid(format!(
                    "an image of a map of version {found}, this build reads versions 1 and 2"
                )));
            }
            _ => return Err(invalid("no image of a map")),
        };
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
        let judges_keys = JudgesKeys::default();
        judges_keys.set(ownership.is_some());
        let map = Map { records: records.build(), ownership, judges_keys, ..Map::default() };
        Ok(map.ready_to_be_shown(trace::tracer().is_some()))
    }

    fn inherit(&mut self, from: &Map) {
        self.judges_keys = from.judges_keys();
        self.judges_keys.set(self.ownership.is_some());
        self.changes.inherit(&from.changes);
    }

    fn begins_after(&mut self, index: Index) {
        self.changes.begin_after(index.0, self.ownership.as_deref().map_or(0, moved_epoch));
    }

    fn passed(&mut self, index: Index) {
        self.changes.passed(index.0);
    }

    fn advance(image: MapImage, input: &mut dyn io::Read) -> io::Result<Map> {
        let MapImage { mut records, ownership } = image;
        let ownership = difference::read(&mut records, ownership, input)?;
        let map = Map { records, ownership, ..Map::default() };
        Ok(map.ready_to_be_shown(trace::tracer().is_some()))
    }

    fn checkpointed(&self, checkpoint: &Checkpointed<'_>) {
        if let Some(tracer) = trace::tracer() {
            tracer.checkpointed(&self.shown(), checkpoint);
        }
    }

    fn readiness(&self, readiness: &Readiness<'_>) {
        if let Some(tracer) = trace::tracer() {
            tracer.readiness(readiness);
        }
    }
}

/// A copy of a map as of one moment.
pub struct MapImage {
    records: Records,
    ownership: Option<Arc<Ownership>>,
}

impl Image for MapImage {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        match &self.ownership {
            None => output.write_all(MAGIC)?,
            Some(ownership) => {
                output.write_all(MAGIC_2)?;
                write_ownership(output, ownership)?;
            }
        }
        write_records(output, self.records.starting(Bound::Unbounded))
    }

    fn write_difference(&self, base: &MapImage, output: &mut dyn io::Write) -> io::Result<bool> {
        let ownership = (self.ownership.as_ref(), base.ownership.as_ref());
        difference::write((&self.records, &base.records), ownership, output)?;
        Ok(true)
    }
}

/// All records from `from` to `to`, both included, of these slots or of all: at once if they fit into one part.
fn scan(records: &Records, slots: Option<Arc<SlotSet>>, from: &[u8], to: &[u8]) -> Answer {
    if from > to {
        return Answer::Now(Vec::new());
    }
    if let Some(slots) = slots {
        // A long way may lie between two of them: none of it is for the replica's thread.
        let (records, from, to) = (records.clone(), from.into(), to.into());
        return Answer::Parts(Box::new(SlotScan { records, slots, to, from: Some(Bound::Included(from)) }));
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

/// A scan of some slots, on a copy of the map.
struct SlotScan {
    records: Records,
    slots: Arc<SlotSet>,
    to: Box<[u8]>,
    /// Where the next part begins; `None` after the last.
    from: Option<Bound<Box<[u8]>>>,
}

impl Iterator for SlotScan {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let from = self.from.take()?;
        let from = match &from {
            Bound::Included(key) => Bound::Included(&**key),
            Bound::Excluded(key) => Bound::Excluded(&**key),
            Bound::Unbounded => Bound::Unbounded,
        };
        let mut part = Vec::new();
        let range = self.records.starting(from).take_while(|(key, _)| *key <= &*self.to);
        for (key, value) in range.filter(|(key, _)| self.slots.contains(slot_of(key))) {
            push_record(&mut part, key, value);
            if part.len() >= SCAN_PART_MAX_BYTES {
                self.from = Some(Bound::Excluded(key.into()));
                break;
            }
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_that_will_be_shown_has_its_digest_before_anyone_asks() {
        let mut map = Map::default();
        let command = Command::Put { key: b"k", value: b"v" };
        map.apply(Index(1), &command.encode());
        let mut written = Vec::new();
        map.image().write(&mut written).unwrap();
        let built = |is_shown| Map::restore(&mut &written[..]).unwrap().ready_to_be_shown(is_shown);
        assert_eq!(built(true).shown_digest.get().copied(), Some(map.shown_digest()));
        assert_eq!(built(false).shown_digest.get(), None, "no one asks");
    }
}
