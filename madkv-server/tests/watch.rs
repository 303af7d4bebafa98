//! What a partition remembers of changes, for those who watch keys: by the entries that made them, beside the state.

#![cfg(test)]

use bytes::Bytes;
use madkv_proto::command::Command;
use madkv_proto::slot_move::{Attempt, SlotCommand, SlotReply, decode_elsewhere};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_proto::watch::{LOOKED_AT_MAX, Notice, PART_MAX_BYTES, SlotsMoved, WatchAnswer, WatchFrom, WatchQuery};
use madkv_server::map::Map;
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};
use smr_service::notifications::recent::KEPT_MAX_BYTES;

fn put(key: &str, value: &str) -> Bytes {
    Command::Put { key: key.as_bytes(), value: value.as_bytes() }.encode()
}

fn query(from: WatchFrom, first: &str, last: &str) -> WatchQuery {
    let [first, last] = [first, last].map(|key| Bytes::copy_from_slice(key.as_bytes()));
    WatchQuery { from, first, last, begins: true, waits: false }
}

fn bytes_of(map: &Map, query: &WatchQuery) -> Vec<u8> {
    let Answer::Now(answer) = map.query(&query.encode()) else { panic!("parts") };
    answer
}

fn ask(map: &Map, from: WatchFrom, first: &str, last: &str) -> WatchAnswer {
    // As one that goes on, wherever its key is by now.
    let query = WatchQuery { begins: false, ..query(from, first, last) };
    WatchAnswer::decode(&bytes_of(map, &query)).unwrap()
}

/// What was told, as `index key=value`, and up to where.
fn told(answer: WatchAnswer) -> (Vec<String>, u64, bool) {
    let WatchAnswer::Changes { items, position, is_end, .. } = answer else { panic!("{answer:?}") };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = |(index, item): (u64, Bytes)| match Notice::decode(&item).unwrap() {
        Notice::Changed { key, value: Some(value) } => format!("{index} {}={}", text(&key), text(&value)),
        Notice::Changed { key, value: None } => format!("{index} {} gone", text(&key)),
        Notice::Slots(SlotsMoved { epoch, left, came }) => format!("{index} {epoch}: -{left} +{came}"),
    };
    (items.into_iter().map(line).collect(), position, is_end)
}

fn image(map: &Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.image().write(&mut bytes).unwrap();
    bytes
}

#[test]
fn changes_are_told_once_by_entry_and_what_changes_nothing_is_not() {
    let mut map = Map::default();
    map.apply(Index(3), &put("a", "1"));
    map.apply(Index(5), &Command::Swap { key: b"b", value: b"2" }.encode());
    map.apply(Index(6), &Command::Delete { key: b"c" }.encode());
    map.apply(Index(7), &Command::Delete { key: b"a" }.encode());
    map.apply(Index(8), b"no command");
    map.apply(Index(9), &put("z", "3"));
    let all = ["3 a=1", "5 b=2", "7 a gone", "9 z=3"].map(str::to_owned).to_vec();
    assert_eq!(told(ask(&map, WatchFrom::Index(1), "", "~")), (all, 9, true));
    assert_eq!(told(ask(&map, WatchFrom::Index(4), "a", "b")).0, ["5 b=2", "7 a gone"]);
    assert_eq!(told(ask(&map, WatchFrom::Index(1), "a", "a")).0, ["3 a=1", "7 a gone"]);
    assert_eq!(told(ask(&map, WatchFrom::Now, "", "~")), (vec![], 9, true));
    assert_eq!(ask(&map, WatchFrom::Index(11), "", "~"), WatchAnswer::Ahead { position: 9 });
}

// A watch may hear one replica after the other: one that has replayed the log, and one that began with a snapshot which
// ends at an entry that is no command of the state.
// covers C17
#[test]
fn replicas_count_entries_alike_whether_they_are_commands_or_not() {
    let mut replayed = Map::default();
    replayed.apply(Index(3), &put("a", "1"));
    for index in 1..=4 {
        replayed.passed(Index(index));
    }
    let mut built = Map::restore(&mut &image(&replayed)[..]).unwrap();
    built.begins_after(Index(4));
    for (one, other) in [(&replayed, &built), (&built, &replayed)] {
        let (_, position, is_end) = told(ask(one, WatchFrom::Now, "", "~"));
        assert!(is_end);
        assert_eq!(told(ask(other, WatchFrom::Index(position + 1), "", "~")), (vec![], 4, true));
    }
}

// covers C17
#[test]
fn state_and_its_image_know_nothing_of_what_is_told() {
    let (mut map, mut other) = (Map::default(), Map::default());
    for number in 1..=100u64 {
        map.apply(Index(number), &put(&format!("k{}", number % 7), &number.to_string()));
    }
    for number in 94..=100u64 {
        other.apply(Index(2 * number), &put(&format!("k{}", number % 7), &number.to_string()));
    }
    assert_eq!(image(&map), image(&other));
    let mut restored = Map::restore(&mut &image(&map)[..]).unwrap();
    restored.inherit(&map);
    restored.begins_after(Index(100));
    assert_eq!(ask(&restored, WatchFrom::Index(100), "", "~"), WatchAnswer::Compacted { oldest: 101 });
    assert_eq!(told(ask(&restored, WatchFrom::Index(101), "", "~")), (vec![], 100, true));
    // Whoever has heard everything up to the snapshot goes on here, though its next entry is a later one.
    restored.apply(Index(105), &put("k", "v"));
    assert_eq!(told(ask(&restored, WatchFrom::Index(101), "", "~")), (vec!["105 k=v".to_owned()], 105, true));
}

// covers C19
#[test]
fn answers_are_bounded_and_whoever_is_too_slow_is_told() {
    let mut map = Map::default();
    let value = "v".repeat(1_000);
    let mut index = 0;
    while index < 2 * (KEPT_MAX_BYTES / 1_000) as u64 {
        index += 1;
        map.apply(Index(index), &put(if index % 2 == 0 { "even" } else { "odd" }, &value));
    }
    let WatchAnswer::Compacted { oldest } = ask(&map, WatchFrom::Index(1), "", "~") else { panic!("all is kept") };
    assert!(index - oldest > (KEPT_MAX_BYTES / 2 / 1_000) as u64 && oldest > 1, "{oldest} of {index}");
    let (mut next, mut heard) = (oldest, 0);
    loop {
        let answer = ask(&map, WatchFrom::Index(next), "even", "even");
        assert!(answer.encode().len() < PART_MAX_BYTES + 20_000);
        let (lines, position, is_end) = told(answer);
        assert!(position - next < LOOKED_AT_MAX as u64, "looked at {}", position - next);
        (next, heard) = (position + 1, heard + lines.len() as u64);
        if is_end {
            break;
        }
    }
    assert_eq!(heard, index / 2 - (oldest - 1) / 2);
    // What is of no interest is looked at, and no more than a bounded number at a time.
    let mut map = Map::default();
    (1..=3 * LOOKED_AT_MAX as u64).for_each(|index| drop(map.apply(Index(index), &put("a", ""))));
    let (lines, position, is_end) = told(ask(&map, WatchFrom::Index(1), "b", "c"));
    assert_eq!((lines.len(), position, is_end), (0, LOOKED_AT_MAX as u64, false));
}

/// Two partitions; the slots of the first half move from the first one to the second one by the map of epoch 2.
struct Moving {
    maps: [Map; 2],
    applied: [u64; 2],
}

const HALF: u16 = SLOTS / 2;

impl Moving {
    fn new() -> Moving {
        Moving { maps: [Map::default(), Map::default()], applied: [0, 0] }
    }

    fn apply(&mut self, partition: usize, command: &[u8]) -> Vec<u8> {
        self.applied[partition] += 1;
        self.maps[partition].apply(Index(self.applied[partition]), command)
    }

    fn step(&mut self, partition: usize, command: SlotCommand) {
        let reply = SlotReply::decode(&self.apply(partition, &command.encode()));
        assert_eq!(reply, Ok(SlotReply::Done), "{command:?}");
    }

    /// Up to where no one owns the slots.
    fn release(&mut self) {
        let (by, slots) = (Attempt { id: 1, number: 1 }, SlotSet::range(0, HALF));
        let owned = [slots.clone(), SlotSet::range(HALF, SLOTS)];
        let [first, second] = owned;
        self.step(1, SlotCommand::Accept { by, slots: slots.clone(), owned: second, epoch: 1 });
        self.step(0, SlotCommand::Begin { by, slots, owned: first, epoch: 1 });
        self.step(0, SlotCommand::Freeze { by });
        self.step(0, SlotCommand::Release { by, epoch: 2 });
    }

    fn own(&mut self) {
        self.step(1, SlotCommand::Own { by: Attempt { id: 1, number: 1 }, pieces: 0, epoch: 2 });
    }
}

/// A key of the slots that move.
fn moving_key() -> String {
    (0..).map(|number| format!("k{number}")).find(|key| slot_of(key.as_bytes()) < HALF).unwrap()
}

// covers C18
#[test]
fn slots_that_leave_and_come_are_told_in_order_and_can_be_followed() {
    let (mut moving, key) = (Moving::new(), moving_key());
    moving.apply(0, &put(&key, "before"));
    moving.release();
    let since = WatchFrom::Slots { epoch: 2 };
    let left = told(ask(&moving.maps[0], WatchFrom::Index(1), &key, &key));
    assert_eq!(left.0, [format!("1 {key}=before"), format!("4 2: -0-{} +none", HALF - 1)]);
    // The slots have not come yet: what comes next is what is wanted.
    assert_eq!(told(ask(&moving.maps[1], since, "", "~")), (vec![], 1, true));
    let begins = |partition: usize, map: &Moving| {
        decode_elsewhere(&bytes_of(&map.maps[partition], &query(WatchFrom::Now, &key, &key)))
    };
    assert_eq!((begins(0, &moving), begins(1, &moving)), (Some(2), Some(1)), "no one has the key");
    moving.own();
    moving.apply(1, &put(&key, "after"));
    let came = told(ask(&moving.maps[1], since, &key, &key));
    assert_eq!(came.0, [format!("2 2: -none +0-{}", HALF - 1), format!("3 {key}=after")]);
    assert_eq!((begins(0, &moving), begins(1, &moving)), (Some(2), None));
    // One that was built of a snapshot since does not know any more where they came.
    let mut restored = Map::restore(&mut &image(&moving.maps[1])[..]).unwrap();
    restored.begins_after(Index(3));
    assert_eq!(ask(&restored, since, &key, &key), WatchAnswer::Compacted { oldest: 4 });
    assert_eq!(told(ask(&restored, WatchFrom::Slots { epoch: 3 }, &key, &key)), (vec![], 3, true));
}
