//! Slots that move between two maps, step by step, while keys are written, read and scanned, and what was said before
//! is said again.

#![cfg(test)]

use std::collections::BTreeMap;

use bytes::Bytes;
use madkv_proto::command::{Command, Query, decode_records, decode_value};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use madkv_proto::slot_move::{
    Attempt, DROP_STEP, Exported, PIECE_MAX_BYTES, PIECE_RECORDS_MAX, Piece, SlotCommand, SlotQuery, SlotReply,
    decode_elsewhere,
};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_server::map::Map;
use proptest::prelude::*;
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};

const FOUNDING_EPOCH: u64 = 3;
const MOVED_EPOCH: u64 = 4;
const HALF: u16 = SLOTS / 2;
/// Few keys, so that they meet.
const KEYS: u16 = 40;

/// A partition: a map, and the entries that it has applied.
struct Partition {
    map: Map,
    applied: u64,
}

impl Partition {
    fn new() -> Partition {
        Partition { map: Map::default(), applied: 0 }
    }

    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        self.applied += 1;
        self.map.apply(Index(self.applied), command)
    }

    fn step(&mut self, command: &SlotCommand) -> SlotReply {
        SlotReply::decode(&self.apply(&command.encode())).unwrap()
    }

    /// The answer, unless the key lives elsewhere.
    fn swap(&mut self, key: &[u8], value: &[u8]) -> Option<Option<Bytes>> {
        let answer = self.apply(&Command::Swap { key, value }.encode());
        decode_elsewhere(&answer).is_none().then(|| decode_value(answer.into()).unwrap())
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        decode_elsewhere(&self.apply(&Command::Delete { key }.encode())).is_none()
    }

    fn ask(&self, query: &[u8]) -> Vec<u8> {
        match self.map.query(query) {
            Answer::Now(answer) => answer,
            Answer::Parts(parts) => parts.flatten().collect(),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let answer = self.ask(&Query::Get { key }.encode());
        decode_elsewhere(&answer).is_none().then(|| decode_value(answer.into()).unwrap())
    }

    fn scan(&self, query: Query<'_>) -> Option<Model> {
        let answer = self.ask(&query.encode());
        decode_elsewhere(&answer).is_none().then(|| {
            let records = decode_records(&answer.into()).unwrap();
            records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
        })
    }

    fn scan_of(&self, slots: &SlotSet) -> Option<Model> {
        self.scan(Query::ScanOf { slots: &slots.to_bytes(), from: b"", to: &[0xff; 8] })
    }

    fn export(&self, by: Attempt, changed_since: Option<u64>, after: Option<Bytes>) -> Exported {
        let answer = self.ask(&SlotQuery::Export { by, changed_since, after }.encode());
        match SlotReply::decode(&answer).unwrap() {
            SlotReply::Piece(exported) => exported,
            other => panic!("{other:?}"),
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.map.image().write(&mut bytes).unwrap();
        bytes
    }

    /// Goes on from its image, as a replica does that was sent one.
    fn begin_again(&mut self) {
        let image = self.image();
        self.map = Map::restore(&mut &image[..]).unwrap();
        assert_eq!(self.image(), image);
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(number: u16) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

fn moving() -> SlotSet {
    SlotSet::range(HALF / 3, HALF)
}

/// What a driver has yet to do, in its present attempt.
#[derive(Clone, Debug)]
enum Todo {
    Begin,
    Copy {
        since: Option<u64>,
        last_change: Option<u64>,
        after: Option<Bytes>,
        rounds: u8,
        frozen: bool,
    },
    Release,
    Own,
    Drop,
    /// It is given up: the source is to end it, then the destination.
    GiveUp,
    GiveUpThere,
    Nothing,
}

/// A source, a destination, and what both together should hold.
struct Pair {
    source: Partition,
    destination: Partition,
    model: Model,
    by: Attempt,
    pieces: u64,
    todo: Todo,
    is_given_up: bool,
    /// Everything that either was told, to be said again.
    said: Vec<(bool, SlotCommand)>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            source: Partition::new(),
            destination: Partition::new(),
            model: Model::new(),
            by: Attempt { id: 9, number: 1 },
            pieces: 0,
            todo: Todo::Begin,
            is_given_up: false,
            said: Vec::new(),
        }
    }

    fn say(&mut self, to_source: bool, command: SlotCommand) -> SlotReply {
        let partition = if to_source { &mut self.source } else { &mut self.destination };
        let reply = partition.step(&command);
        self.said.push((to_source, command));
        reply
    }

    /// Whoever drives takes the next step.
    fn drive(&mut self) {
        let by = self.by;
        self.todo = match self.todo.clone() {
            Todo::Begin => {
                let (slots, epoch) = (moving(), FOUNDING_EPOCH);
                let accept =
                    SlotCommand::Accept { by, slots: slots.clone(), owned: SlotSet::range(HALF, SLOTS), epoch };
                let begin = SlotCommand::Begin { by, slots, owned: SlotSet::range(0, HALF), epoch };
                assert_eq!(self.say(false, accept), SlotReply::Done);
                assert_eq!(self.say(true, begin), SlotReply::Done);
                self.pieces = 0;
                Todo::Copy { since: None, last_change: None, after: None, rounds: 2, frozen: false }
            }
            Todo::Copy { since, last_change, after, rounds, frozen } => {
                let mut exported = self.source.export(by, since, after.clone());
                // A smaller piece, as if keys were long, so that what is written comes in between.
                if exported.piece.records.len() > 5 {
                    exported.piece.records.truncate(5);
                    exported.more_after = exported.piece.records.last().map(|(key, _)| key.clone());
                    exported.piece.whole = since.is_none().then(|| (after, exported.more_after.clone()));
                }
                let Exported { piece, more_after, last_change: now } = exported;
                let last_change = last_change.unwrap_or(now);
                let install = SlotCommand::Install { by, number: self.pieces, piece };
                assert_eq!(self.say(false, install), SlotReply::Done);
                self.pieces += 1;
                match (more_after, rounds) {
                    (Some(after), _) => {
                        Todo::Copy { since, last_change: Some(last_change), after: Some(after), rounds, frozen }
                    }
                    (None, 0) if frozen => Todo::Release,
                    (None, 0) => {
                        assert_eq!(self.say(true, SlotCommand::Freeze { by }), SlotReply::Done);
                        let since = Some(since.map_or(0, |_| last_change));
                        Todo::Copy { since, last_change: None, after: None, rounds, frozen: true }
                    }
                    (None, _) => {
                        let since = Some(since.map_or(0, |_| last_change));
                        Todo::Copy { since, last_change: None, after: None, rounds: rounds - 1, frozen }
                    }
                }
            }
            Todo::Release => {
                assert_eq!(self.say(true, SlotCommand::Release { by, epoch: MOVED_EPOCH }), SlotReply::Done);
                Todo::Own
            }
            Todo::Own => {
                let own = SlotCommand::Own { by, pieces: self.pieces, epoch: MOVED_EPOCH };
                assert_eq!(self.say(false, own), SlotReply::Done);
                Todo::Drop
            }
            Todo::Drop => match self.say(true, SlotCommand::Drop { by }) {
                SlotReply::Again => Todo::Drop,
                SlotReply::Done => Todo::Nothing,
                other => panic!("{other:?}"),
            },
            Todo::GiveUp => {
                assert_eq!(self.say(true, self.end(SlotSet::range(0, HALF))), SlotReply::Done);
                Todo::GiveUpThere
            }
            Todo::GiveUpThere => match self.say(false, self.end(SlotSet::range(HALF, SLOTS))) {
                SlotReply::Again => Todo::GiveUpThere,
                SlotReply::Done => Todo::Nothing,
                other => panic!("{other:?}"),
            },
            Todo::Nothing => Todo::Nothing,
        }
    }

    fn end(&self, owned: SlotSet) -> SlotCommand {
        SlotCommand::End { by: self.by, slots: moving(), owned, epoch: FOUNDING_EPOCH }
    }

    /// An operator gives it up, if no map says anything of it yet.
    fn give_up(&mut self) {
        if matches!(self.todo, Todo::Begin | Todo::Copy { .. }) {
            (self.todo, self.is_given_up) = (Todo::GiveUp, true);
        }
    }

    /// Another one takes over, if the move may still be begun again.
    fn take_over(&mut self) {
        if matches!(self.todo, Todo::Copy { .. } | Todo::Release) {
            self.by.number += 1;
            self.todo = Todo::Begin;
        }
    }

    /// A write goes to both, as from clients that do not know better: one of them takes it at most.
    fn write(&mut self, number: u16, value: Option<u8>) {
        let key = key(number);
        let is_taken = match value {
            Some(value) => {
                let answers = [&mut self.source, &mut self.destination].map(|part| part.swap(&key, &[value]));
                let before = self.model.get(&key).cloned();
                for answer in answers.iter().flatten() {
                    assert_eq!(answer.as_ref().map(|value| value.to_vec()), before, "key{number}");
                }
                if answers.iter().any(Option::is_some) {
                    self.model.insert(key.clone(), vec![value]);
                }
                answers.map(|answer| answer.is_some())
            }
            None => {
                let taken = [&mut self.source, &mut self.destination].map(|part| part.delete(&key));
                if taken.contains(&true) {
                    self.model.remove(&key);
                }
                taken
            }
        };
        assert!(is_taken != [true, true], "two owners of key{number} take a write");
        let is_moving = moving().contains(slot_of(&key));
        // One that has taken over has not told the source yet, which may be frozen still.
        let begins_again = matches!(self.todo, Todo::Begin) && self.by.number > 1;
        let may_refuse = begins_again
            || matches!(self.todo, Todo::Copy { frozen: true, .. } | Todo::Release | Todo::Own | Todo::GiveUp);
        assert!(is_taken != [false, false] || (is_moving && may_refuse), "no one takes key{number}: {:?}", self.todo);
    }

    /// A key is read from both, and all keys are scanned by the map before the move and the one after it.
    fn read(&self, number: u16) {
        let key = key(number);
        // A partition says what it owns only since its first move; its listener keeps others out before.
        if matches!(self.todo, Todo::Begin) && self.by.number == 1 {
            return;
        }
        let answers = [&self.source, &self.destination].map(|part| part.get(&key));
        assert!(answers.iter().flatten().count() <= 1, "two owners of key{number} answer: {answers:?}");
        for answer in answers.iter().flatten() {
            assert_eq!(answer.as_ref().map(|value| value.to_vec()), self.model.get(&key).cloned(), "key{number}");
        }
        assert!(
            answers.iter().any(Option::is_some) || matches!(self.todo, Todo::Own),
            "no one answers for key{number}"
        );
        let (low, high) = (SlotSet::range(0, HALF), SlotSet::range(HALF, SLOTS));
        for [low, high] in [[low.clone(), high.clone()], [low.without(&moving()), high.with(&moving())]] {
            let (Some(mut scanned), Some(more)) = (self.source.scan_of(&low), self.destination.scan_of(&high)) else {
                continue;
            };
            for (key, value) in more {
                assert!(scanned.insert(key.clone(), value).is_none(), "a SCAN shows {key:?} twice");
            }
            assert_eq!(scanned, self.model, "a SCAN by one map");
        }
        // Who names no slots goes by the founding layout.
        let all = [&self.source, &self.destination].map(|part| part.scan(Query::Scan { from: b"", to: &[0xff; 8] }));
        if let [Some(mut scanned), Some(more)] = all {
            scanned.extend(more);
            assert_eq!(scanned, self.model, "a SCAN that names no slots");
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Write(u16, Option<u8>),
    Read(u16),
    Drive,
    TakeOver,
    GiveUp,
    SayAgain(prop::sample::Index),
    BeginAgain(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => (0..KEYS, any::<Option<u8>>()).prop_map(|(key, value)| Event::Write(key, value)),
        4 => (0..KEYS).prop_map(Event::Read),
        8 => Just(Event::Drive),
        1 => Just(Event::TakeOver),
        1 => (0..8u8).prop_map(|draw| if draw == 0 { Event::GiveUp } else { Event::Drive }),
        4 => any::<prop::sample::Index>().prop_map(Event::SayAgain),
        1 => any::<bool>().prop_map(Event::BeginAgain),
    ];
    proptest::collection::vec(event, 20..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // covers C10 G7 G10 G11: one owner at a time, no write lost, doubled or misplaced, no SCAN with a key twice or
    // never.
    #[test]
    fn slots_move_while_keys_are_written_and_each_step_is_said_again_at_any_time(events in events()) {
        let mut pair = Pair::new();
        for number in 0..KEYS {
            let key = key(number);
            let is_low = slot_of(&key) < HALF;
            let owner = if is_low { &mut pair.source } else { &mut pair.destination };
            owner.swap(&key, &[0]);
            pair.model.insert(key, vec![0]);
        }
        pair.drive();
        for event in events {
            match event {
                Event::Write(number, value) => pair.write(number, value),
                Event::Read(number) => pair.read(number),
                Event::Drive => pair.drive(),
                Event::TakeOver => pair.take_over(),
                Event::GiveUp => pair.give_up(),
                Event::SayAgain(which) => {
                    let (to_source, command) = which.get(&pair.said).clone();
                    // Whatever it is answered.
                    pair.say(to_source, command);
                }
                Event::BeginAgain(true) => pair.source.begin_again(),
                Event::BeginAgain(false) => pair.destination.begin_again(),
            }
        }
        while !matches!(pair.todo, Todo::Nothing) {
            pair.drive();
        }
        (0..KEYS).for_each(|number| pair.read(number));
        let (all, left) = (pair.destination.map.len() + pair.source.map.len(), pair.model.len());
        prop_assert_eq!(all, left, "records that no one owns are left");
        let owner = if pair.is_given_up { &pair.source } else { &pair.destination };
        let mut moved = (0..KEYS).map(key).filter(|key| moving().contains(slot_of(key)));
        prop_assert!(moved.all(|key| owner.get(&key).is_some()));
    }
}

/// A source that has begun, and its attempt.
fn begun(records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> (Partition, Attempt) {
    let (mut source, by) = (Partition::new(), Attempt { id: 1, number: 1 });
    for (key, value) in records {
        source.apply(&Command::Put { key: &key, value: &value }.encode());
    }
    let (slots, owned) = (SlotSet::range(0, SLOTS), SlotSet::range(0, SLOTS));
    assert_eq!(source.step(&SlotCommand::Begin { by, slots, owned, epoch: 1 }), SlotReply::Done);
    (source, by)
}

#[test]
fn pieces_are_bounded_and_a_largest_record_still_is_a_command() {
    let long_key = |first: u8| [&[first][..], &[b'k'; KEY_MAX_BYTES - 1]].concat();
    let many = (0..4 * PIECE_RECORDS_MAX).map(|number| (format!("m{number:05}").into_bytes(), vec![1; 200]));
    let largest = (b'x'..=b'z').map(|first| (long_key(first), vec![2; VALUE_MAX_BYTES]));
    let (source, by) = begun(many.chain(largest));
    let (mut after, mut records, mut number) = (None, 0, 0);
    let mut destination = Partition::new();
    let accept = SlotCommand::Accept { by, slots: SlotSet::range(0, SLOTS), owned: SlotSet::default(), epoch: 1 };
    assert_eq!(destination.step(&accept), SlotReply::Done);
    loop {
        let Exported { piece, more_after, .. } = source.export(by, None, after);
        records += piece.records.len();
        let install = SlotCommand::Install { by, number, piece: piece.clone() };
        // The limit of a replica's commands.
        assert!(install.encode().len() < (1 << 20) + (64 << 10), "{} bytes", install.encode().len());
        assert!(piece.records.len() == 1 || install.encode().len() <= PIECE_MAX_BYTES + 1024);
        assert!(piece.records.len() <= PIECE_RECORDS_MAX);
        assert_eq!(destination.step(&install), SlotReply::Done);
        number += 1;
        let Some(more) = more_after else { break };
        after = Some(more);
    }
    assert_eq!((records, destination.map.len()), (source.map.len(), source.map.len()));
}

#[test]
fn steps_that_make_no_sense_are_refused_and_change_nothing() {
    let by = Attempt { id: 1, number: 1 };
    let (slots, epoch) = (SlotSet::range(0, 10), 1);
    let mut map = Partition::new();
    for command in [
        SlotCommand::Freeze { by },
        SlotCommand::Release { by, epoch },
        SlotCommand::Own { by, pieces: 0, epoch },
        SlotCommand::Drop { by },
        SlotCommand::Begin { by, slots: SlotSet::from_ranges(vec![(9, 3)]), owned: slots.clone(), epoch },
        SlotCommand::Begin { by, slots: SlotSet::default(), owned: slots.clone(), epoch },
        SlotCommand::Begin { by, slots: SlotSet::range(5, 20), owned: slots.clone(), epoch },
        SlotCommand::Accept { by, slots: SlotSet::range(5, 20), owned: slots.clone(), epoch },
    ] {
        let before = map.image();
        assert!(matches!(map.step(&command), SlotReply::Refused(_)), "{command:?}");
        assert_eq!(map.image(), before, "{command:?}");
    }
}

// covers G10
#[test]
fn destination_that_lacks_a_piece_owns_nothing() {
    let (by, epoch) = (Attempt { id: 1, number: 1 }, 2);
    let mut map = Partition::new();
    let accept = SlotCommand::Accept { by, slots: SlotSet::range(0, 10), owned: SlotSet::default(), epoch: 1 };
    assert_eq!(map.step(&accept), SlotReply::Done);
    let install = |number| SlotCommand::Install { by, number, piece: Piece::default() };
    assert!(matches!(map.step(&install(1)), SlotReply::Refused(_)), "piece 0 has not come");
    assert_eq!(map.step(&install(0)), SlotReply::Done);
    assert!(matches!(map.step(&SlotCommand::Own { by, pieces: 2, epoch }), SlotReply::Refused(_)));
    assert_eq!(map.step(&install(1)), SlotReply::Done);
    assert_eq!(map.step(&SlotCommand::Own { by, pieces: 2, epoch }), SlotReply::Done);
}

// covers G10
#[test]
fn move_that_is_given_up_leaves_nothing_at_the_destination_and_what_is_late_of_it_does_nothing() {
    let by = Attempt { id: 5, number: 2 };
    let (slots, owned, epoch) = (SlotSet::range(0, HALF), SlotSet::range(HALF, SLOTS), 1);
    let mut destination = Partition::new();
    let records = (0..2 * DROP_STEP as u32).map(|number| format!("key{number}").into_bytes());
    let (moving, own): (Vec<_>, Vec<_>) = records.partition(|key| slots.contains(slot_of(key)));
    for key in &own {
        destination.swap(key, b"own");
    }
    let accept = SlotCommand::Accept { by, slots: slots.clone(), owned: owned.clone(), epoch };
    assert_eq!(destination.step(&accept), SlotReply::Done);
    let records = moving.iter().map(|key| (Bytes::from(key.clone()), Some(Bytes::from_static(b"v")))).collect();
    let install = SlotCommand::Install { by, number: 0, piece: Piece { whole: None, records } };
    assert_eq!(destination.step(&install), SlotReply::Done);
    let end = SlotCommand::End { by, slots: slots.clone(), owned: owned.clone(), epoch };
    let mut replies = vec![destination.step(&end)];
    while replies.last() == Some(&SlotReply::Again) {
        // What is late comes in between.
        for late in [&accept, &install] {
            assert!(matches!(destination.step(late), SlotReply::Refused(_)), "{late:?}");
        }
        destination.begin_again();
        replies.push(destination.step(&end));
    }
    assert_eq!((replies.len(), destination.map.len()), (2, own.len()), "{replies:?}");
    assert_eq!(replies.last(), Some(&SlotReply::Done));
    let image = destination.image();
    assert_eq!(destination.step(&end), SlotReply::Done, "again, and late");
    for late in [accept, install, SlotCommand::Own { by, pieces: 1, epoch: 2 }] {
        destination.step(&late);
    }
    assert_eq!(destination.image(), image);
    assert_eq!((destination.get(&moving[0]), destination.get(&own[0])), (None, Some(Some(Bytes::from_static(b"own")))));
    // The next move finds it as if this one had never been.
    let by = Attempt { id: 6, number: 1 };
    assert_eq!(destination.step(&SlotCommand::Accept { by, slots, owned, epoch }), SlotReply::Done);
}

// covers G10
#[test]
fn source_that_was_frozen_takes_writes_again_once_the_move_is_given_up() {
    let (mut source, by) = begun([(b"k".to_vec(), b"v".to_vec())]);
    assert_eq!(source.step(&SlotCommand::Freeze { by }), SlotReply::Done);
    assert_eq!(source.swap(b"k", b"w"), None);
    let all = SlotSet::range(0, SLOTS);
    assert_eq!(
        source.step(&SlotCommand::End { by, slots: all.clone(), owned: all.clone(), epoch: 1 }),
        SlotReply::Done
    );
    assert_eq!(source.swap(b"k", b"w"), Some(Some(Bytes::from_static(b"v"))));
    let again = SlotCommand::Begin { by: Attempt { number: 9, ..by }, slots: all.clone(), owned: all, epoch: 1 };
    assert!(matches!(source.step(&again), SlotReply::Refused(_)), "an attempt that is late");
    assert_eq!(source.swap(b"k", b"x"), Some(Some(Bytes::from_static(b"w"))));
}

// covers G10
#[test]
fn end_of_a_move_that_comes_late_in_the_next_one_changes_nothing() {
    let (first, by) = (Attempt { id: 1, number: 1 }, Attempt { id: 2, number: 1 });
    let (low, high, all) = (SlotSet::range(0, HALF), SlotSet::range(HALF, SLOTS), SlotSet::range(0, SLOTS));
    // No end of the first one, which the map knows nothing of, was applied here.
    let late = SlotCommand::End { by: first, slots: low.clone(), owned: all.clone(), epoch: 1 };
    let mut source = Partition::new();
    assert_eq!(source.step(&SlotCommand::Begin { by, slots: low.clone(), owned: all, epoch: 1 }), SlotReply::Done);
    assert_eq!(source.step(&SlotCommand::Freeze { by }), SlotReply::Done);
    let say_late = |partition: &mut Partition, late: &SlotCommand, when: &str| {
        let before = partition.image();
        assert_eq!(partition.step(late), SlotReply::Done, "{when}");
        assert_eq!(partition.image(), before, "{when}");
    };
    say_late(&mut source, &late, "frozen");
    assert_eq!(source.step(&SlotCommand::Release { by, epoch: 2 }), SlotReply::Done);
    say_late(&mut source, &late, "released");

    let late = SlotCommand::End { by: first, slots: low.clone(), owned: high.clone(), epoch: 1 };
    let mut destination = Partition::new();
    assert_eq!(destination.step(&SlotCommand::Accept { by, slots: low, owned: high, epoch: 1 }), SlotReply::Done);
    say_late(&mut destination, &late, "accepted");
    assert_eq!(destination.step(&SlotCommand::Own { by, pieces: 0, epoch: 2 }), SlotReply::Done);
    say_late(&mut destination, &late, "owned");
}

// covers G10
#[test]
fn source_that_cannot_be_told_the_end_yet_takes_writes_again_by_another_attempt() {
    let (mut source, by) = begun([(b"k".to_vec(), b"v".to_vec())]);
    let all = SlotSet::range(0, SLOTS);
    let begin = |number| {
        let by = Attempt { number, ..by };
        SlotCommand::Begin { by, slots: all.clone(), owned: all.clone(), epoch: 1 }
    };
    for number in [by.number + 1, by.number + 2, by.number + 7] {
        let by = Attempt { number: number - 1, ..by };
        source.step(&begin(by.number));
        assert_eq!(source.step(&SlotCommand::Freeze { by }), SlotReply::Done);
        assert_eq!(source.swap(b"k", b"w"), None);
        assert_eq!(source.step(&begin(number)), SlotReply::Done);
        assert!(source.swap(b"k", b"w").is_some(), "attempt {number}");
    }
    // By whatever attempt the source is at.
    let end = SlotCommand::End { by, slots: all.clone(), owned: all.clone(), epoch: 1 };
    assert_eq!(source.step(&end), SlotReply::Done);
    let late = begin(by.number + 9);
    assert!(matches!(source.step(&late), SlotReply::Refused(_)), "{late:?}");
    assert!(source.swap(b"k", b"x").is_some());
}

// covers G10
#[test]
fn scan_of_slots_in_a_state_of_before_they_moved_has_no_others() {
    // As after a recovery from a copy that is older than the move; the listener knows the map of today.
    let mut source = Partition::new();
    let mut keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    keys.sort();
    keys.iter().for_each(|key| drop(source.swap(key, b"v")));
    let low = SlotSet::range(0, HALF);
    let own: Vec<&Vec<u8>> = keys.iter().filter(|key| low.contains(slot_of(key))).collect();
    assert!(!own.is_empty() && own.len() < keys.len());
    assert!(source.scan_of(&low).unwrap().keys().eq(own));
    assert_eq!(source.scan_of(&SlotSet::range(0, SLOTS)).unwrap().len(), keys.len());
}

// covers G10
#[test]
fn group_that_has_forgotten_its_part_is_told_what_it_owns() {
    let by = Attempt { id: 5, number: 1 };
    let (low, high) = (SlotSet::range(0, HALF), SlotSet::range(HALF, SLOTS));
    let key_in = |slots: &SlotSet| (0..KEYS).map(key).find(|key| slots.contains(slot_of(key))).unwrap();
    let (low_key, high_key) = (key_in(&low), key_in(&high));
    // The source, founded anew: it does not have the slots any more.
    let mut source = Partition::new();
    assert!(matches!(source.step(&SlotCommand::Release { by, epoch: 2 }), SlotReply::Refused(_)));
    let end = SlotCommand::End { by, slots: high.clone(), owned: low.clone(), epoch: 2 };
    assert_eq!(source.step(&end), SlotReply::Done);
    assert_eq!((source.swap(&high_key, b"v"), source.swap(&low_key, b"v")), (None, Some(None)));
    for late in [SlotCommand::Release { by, epoch: 2 }, SlotCommand::Drop { by }] {
        assert_eq!(source.step(&late), SlotReply::Done);
    }
    // The destination: it has them, and none of their records.
    let mut destination = Partition::new();
    let own = SlotCommand::Own { by, pieces: 3, epoch: 2 };
    assert!(matches!(destination.step(&own), SlotReply::Refused(_)));
    let end = SlotCommand::End { by, slots: high.clone(), owned: high, epoch: 2 };
    assert_eq!(destination.step(&end), SlotReply::Done);
    assert_eq!((destination.swap(&high_key, b"v"), destination.swap(&low_key, b"v")), (Some(None), None));
    assert_eq!(destination.step(&own), SlotReply::Done);
    // One that was recovered as it was before the slots were frozen: it still has records of them.
    let (mut source, by) = begun([(low_key.clone(), b"v".to_vec()), (high_key.clone(), b"v".to_vec())]);
    assert!(matches!(source.step(&SlotCommand::Release { by, epoch: 2 }), SlotReply::Refused(_)));
    let end = SlotCommand::End { by, slots: low, owned: SlotSet::range(HALF, SLOTS), epoch: 2 };
    assert_eq!(source.step(&end), SlotReply::Done);
    assert_eq!((source.get(&low_key), source.map.len()), (None, 1));
}

// covers D16
#[test]
fn image_is_that_of_older_builds_until_slots_move() {
    let mut map = Partition::new();
    map.swap(b"k", b"v");
    assert!(map.image().starts_with(b"madkvm1\n"));
    let (mut source, by) = begun([(b"k".to_vec(), b"v".to_vec())]);
    source.swap(b"k", b"w");
    let image = source.image();
    assert!(image.starts_with(b"madkvm2\n"));
    for cut in 8..image.len() {
        assert!(Map::restore(&mut &image[..cut]).is_err(), "cut at {cut}");
    }
    source.begin_again();
    let changed = source.export(by, Some(0), None).piece.records;
    assert_eq!(changed, [(Bytes::from_static(b"k"), Some(Bytes::from_static(b"w")))]);
}
