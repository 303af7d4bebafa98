//! The map against a model, its images, and the parts of its scans.

#![cfg(test)]

use std::collections::BTreeMap;

use bytes::Bytes;
use madkv_proto::command::{Command, Query, decode_found, decode_records, decode_value};
use madkv_proto::limits::{KEY_MAX_BYTES, SCAN_PART_MAX_BYTES, VALUE_MAX_BYTES};
use madkv_server::map::Map;
use proptest::prelude::*;
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn apply(map: &mut Map, command: Command<'_>) -> Vec<u8> {
    map.apply(Index(1), &command.encode())
}

fn put(map: &mut Map, key: &[u8], value: &[u8]) -> bool {
    decode_found(&apply(map, Command::Put { key, value })).unwrap()
}

fn get(map: &Map, key: &[u8]) -> Option<Bytes> {
    match map.query(&Query::Get { key }.encode()) {
        Answer::Now(answer) => decode_value(answer.into()).unwrap(),
        Answer::Parts(_) => panic!("a GET in parts"),
    }
}

/// The parts of a scan, decoded one by one.
fn scan_parts(map: &Map, from: &[u8], to: &[u8]) -> Vec<Vec<(Bytes, Bytes)>> {
    let parts: Vec<Vec<u8>> = match map.query(&Query::Scan { from, to }.encode()) {
        Answer::Now(part) => vec![part],
        Answer::Parts(parts) => parts.collect(),
    };
    assert!(parts.len() == 1 || parts.iter().all(|part| !part.is_empty()), "an empty part among several");
    for part in &parts {
        let record_max = 8 + KEY_MAX_BYTES + VALUE_MAX_BYTES;
        assert!(part.len() < SCAN_PART_MAX_BYTES + record_max, "a part of {} bytes", part.len());
    }
    parts.into_iter().map(|part| decode_records(&part.into()).unwrap()).collect()
}

fn scan(map: &Map, from: &[u8], to: &[u8]) -> Model {
    let records: Vec<(Bytes, Bytes)> = scan_parts(map, from, to).into_iter().flatten().collect();
    assert!(records.is_sorted_by(|left, right| left.0 < right.0), "unsorted, or a key twice");
    records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn image(map: &Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.image().write(&mut bytes).unwrap();
    bytes
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Swap(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Get(Vec<u8>),
    Scan(Vec<u8>, Vec<u8>),
    Malformed(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few and short keys, so that steps meet; the empty one and the extreme bytes among them.
    let key = || proptest::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4);
    let value = || proptest::collection::vec(any::<u8>(), 0..20);
    let step = prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key(), value()).prop_map(|(key, value)| Step::Swap(key, value)),
        2 => key().prop_map(Step::Delete),
        2 => key().prop_map(Step::Get),
        1 => (key(), key()).prop_map(|(from, to)| Step::Scan(from, to)),
        1 => proptest::collection::vec(any::<u8>(), 0..12).prop_map(Step::Malformed),
    ];
    proptest::collection::vec(step, 0..200)
}

fn range(model: &Model, from: &[u8], to: &[u8]) -> Model {
    let inside = |key: &[u8]| key >= from && key <= to;
    model.iter().filter(|(key, _)| inside(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn take_step(map: &mut Map, model: &mut Model, step: &Step) {
    match step {
        Step::Put(key, value) => {
            let found = model.insert(key.clone(), value.clone()).is_some();
            assert_eq!(put(map, key, value), found);
        }
        Step::Swap(key, value) => {
            let old = decode_value(apply(map, Command::Swap { key, value }).into()).unwrap();
            assert_eq!(old.map(Vec::from), model.insert(key.clone(), value.clone()));
        }
        Step::Delete(key) => {
            let found = decode_found(&apply(map, Command::Delete { key })).unwrap();
            assert_eq!(found, model.remove(key).is_some());
        }
        Step::Get(key) => assert_eq!(get(map, key).map(Vec::from), model.get(key).cloned()),
        Step::Scan(from, to) => assert_eq!(scan(map, from, to), range(model, from, to)),
        Step::Malformed(bytes) => {
            // By chance it may make sense; then the model takes it, too.
            let expected = match Command::decode(bytes) {
                Ok(Command::Put { key, value } | Command::Swap { key, value }) => {
                    model.insert(key.to_vec(), value.to_vec());
                    None
                }
                Ok(Command::Delete { key }) => {
                    model.remove(key);
                    None
                }
                Err(_) => Some(Vec::<u8>::new()),
            };
            let answer = map.apply(Index(1), bytes);
            assert!(expected.is_none_or(|expected| expected == answer));
        }
    }
    assert_eq!(map.len(), model.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // covers R12
    #[test]
    fn map_any_history_equals_model(steps in steps()) {
        let (mut map, mut model) = (Map::default(), Model::new());
        for step in &steps {
            take_step(&mut map, &mut model, step);
        }
        prop_assert_eq!(scan(&map, &[], &[0xff; 8]), model);
    }

    // covers S10, I7
    #[test]
    fn image_of_replayed_and_restored_map_same_bytes(before in steps(), behind in steps()) {
        let (mut replayed, mut model) = (Map::default(), Model::new());
        for step in &before {
            take_step(&mut replayed, &mut model, step);
        }
        let snapshot = image(&replayed);
        let mut restored = Map::restore(&mut &snapshot[..]).unwrap();
        let mut other_model = model.clone();
        for step in &behind {
            take_step(&mut replayed, &mut model, step);
            take_step(&mut restored, &mut other_model, step);
        }
        prop_assert_eq!(image(&replayed), image(&restored));
    }

    // covers B1
    #[test]
    fn restore_of_cut_or_bent_image_error_or_a_map_never_a_panic(cut in 0usize..4000, bit in 0usize..32000) {
        let mut map = Map::default();
        for number in 0..100u32 {
            put(&mut map, &number.to_be_bytes(), &[7; 30]);
        }
        let whole = image(&map);
        let cut = cut % whole.len();
        prop_assert!(Map::restore(&mut &whole[..cut]).is_err());
        let mut bent = whole;
        let bit = bit % (bent.len() * 8);
        bent[bit / 8] ^= 1 << (bit % 8);
        let _ = Map::restore(&mut &bent[..]);
    }
}

#[test]
fn image_taken_before_writes_shows_the_moment_it_was_taken() {
    let mut map = Map::default();
    for number in 0..1000u32 {
        put(&mut map, &number.to_be_bytes(), b"before");
    }
    let (before, moment) = (image(&map), map.image());
    for number in 500..1500u32 {
        put(&mut map, &number.to_be_bytes(), b"after");
    }
    for number in 0..250u32 {
        apply(&mut map, Command::Delete { key: &number.to_be_bytes() });
    }
    let mut bytes = Vec::new();
    moment.write(&mut bytes).unwrap();
    assert_eq!(bytes, before);
}

#[test]
fn restore_with_other_magic_huge_block_or_disorder_is_refused() {
    let mut map = Map::default();
    put(&mut map, b"a", b"1");
    put(&mut map, b"b", b"2");
    let whole = image(&map);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        Map::restore(&mut &bytes[..]).err().expect("refused").to_string()
    };
    refused(&|bytes| bytes[0] ^= 1);
    assert!(refused(&|bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes())).contains("limit"));
    let second_key = whole.iter().position(|&byte| byte == b'b').unwrap();
    assert!(refused(&|bytes| bytes[second_key] = b'a').contains("order"));
    assert!(Map::restore(&mut &image(&Map::default())[..]).unwrap().is_empty());
}

// covers R12
#[test]
fn scan_between_equal_crossed_and_extreme_ends_gives_what_lies_between() {
    let mut map = Map::default();
    for key in [&b""[..], b"a", b"b", &[0xff; KEY_MAX_BYTES]] {
        put(&mut map, key, b"v");
    }
    assert_eq!(scan(&map, b"a", b"a").len(), 1);
    assert_eq!(scan(&map, b"b", b"a").len(), 0);
    assert_eq!(scan(&map, b"aa", b"az").len(), 0);
    assert_eq!(scan(&map, b"", b"").len(), 1);
    assert_eq!(scan(&map, b"", &[0xff; KEY_MAX_BYTES]).len(), 4);
}

// covers R12, G6
#[test]
fn scan_over_part_borders_loses_and_repeats_nothing() {
    // Records of every size around the aim of a part, so that borders fall everywhere.
    for value_len in
        [100, 1000, SCAN_PART_MAX_BYTES / 2, SCAN_PART_MAX_BYTES - 12, SCAN_PART_MAX_BYTES, VALUE_MAX_BYTES]
    {
        let count = (4 * SCAN_PART_MAX_BYTES / value_len).max(3) as u32;
        let mut map = Map::default();
        for number in 0..count {
            put(&mut map, &number.to_be_bytes(), &vec![1; value_len]);
        }
        for (from, to) in [(0u32, count - 1), (1, count - 2), (0, count / 2)] {
            let keys: Vec<u32> = scan_parts(&map, &from.to_be_bytes(), &to.to_be_bytes())
                .into_iter()
                .flatten()
                .map(|(key, _)| u32::from_be_bytes(key[..].try_into().unwrap()))
                .collect();
            assert!(keys.iter().copied().eq(from..=to), "values of {value_len} bytes, {from} to {to}: {keys:?}");
        }
    }
}

#[test]
fn scan_that_just_fills_a_part_comes_at_once_and_one_record_more_in_two() {
    let mut map = Map::default();
    put(&mut map, b"a", &vec![1; SCAN_PART_MAX_BYTES - 9]);
    assert!(matches!(
        map.query(&Query::Scan { from: b"a", to: b"z" }.encode()),
        Answer::Now(part) if part.len() == SCAN_PART_MAX_BYTES
    ));
    put(&mut map, b"b", b"");
    assert_eq!(scan_parts(&map, b"a", b"z").len(), 2);
    assert_eq!(scan_parts(&map, b"a", b"a").len(), 1);
}

// covers R12
#[test]
fn scan_in_parts_while_records_change_shows_one_moment() {
    let mut map = Map::default();
    for number in 0..10_000u32 {
        put(&mut map, &number.to_be_bytes(), &[1; 100]);
    }
    let Answer::Parts(mut parts) = map.query(&Query::Scan { from: b"", to: &[0xff; 4] }.encode()) else {
        panic!("a megabyte at once");
    };
    let mut seen = decode_records(&parts.next().unwrap().into()).unwrap();
    for number in 0..10_000u32 {
        match number % 3 {
            0 => drop(apply(&mut map, Command::Delete { key: &number.to_be_bytes() })),
            _ => drop(put(&mut map, &number.to_be_bytes(), &[2; 100])),
        }
    }
    for part in parts {
        seen.extend(decode_records(&part.into()).unwrap());
    }
    assert_eq!(seen.len(), 10_000);
    assert!(seen.iter().all(|(_, value)| value[..] == [1; 100]));
}

// covers B6
#[test]
fn records_at_the_limits_kept_beyond_them_ignored() {
    let mut map = Map::default();
    let (key, value) = (vec![0xfe; KEY_MAX_BYTES], vec![0xfd; VALUE_MAX_BYTES]);
    assert!(!put(&mut map, &key, &value));
    assert_eq!(get(&map, &key).unwrap(), value);
    let restored = Map::restore(&mut &image(&map)[..]).unwrap();
    assert_eq!(get(&restored, &key).unwrap(), value);
    let longer = [&key[..], b"x"].concat();
    assert_eq!(apply(&mut map, Command::Put { key: &longer, value: b"" }), b"");
    assert_eq!(map.len(), 1);
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Slow without optimisation: `cargo test --release -p madkv-server --test map -- --ignored --nocapture`.
#[test]
#[ignore = "measures; needs a release build and a process of its own"]
fn million_records_of_100_bytes_fit_into_300_megabytes() {
    use std::time::Instant;
    let key = |number: u32| format!("user{number:08}");
    let start_bytes = resident_bytes();
    let start = Instant::now();
    let mut map = Map::default();
    for number in 0..1_000_000u32 {
        let shuffled = (u64::from(number) * 7_368_787 % 1_000_000) as u32;
        put(&mut map, key(shuffled).as_bytes(), &[b'v'; 100]);
    }
    assert_eq!(map.len(), 1_000_000);
    let filled_bytes = resident_bytes() - start_bytes;
    println!("filled: {} MB, {:?}", filled_bytes >> 20, start.elapsed());
    assert!(filled_bytes < 300 << 20);

    let start = Instant::now();
    let moment = map.image();
    println!("image: {:?}", start.elapsed());
    assert!(start.elapsed().as_micros() < 1000);

    let start = Instant::now();
    for number in 0..1_000_000u32 {
        put(&mut map, key(number).as_bytes(), &[b'w'; 100]);
    }
    println!("all overwritten under the image: {} MB, {:?}", (resident_bytes() - start_bytes) >> 20, start.elapsed());
    let start = Instant::now();
    let mut bytes = Vec::new();
    moment.write(&mut bytes).unwrap();
    println!("image written: {} MB, {:?}", bytes.len() >> 20, start.elapsed());
    drop((map, moment));
    let before = resident_bytes();
    let start = Instant::now();
    let restored = Map::restore(&mut &bytes[..]).unwrap();
    println!("restored: {:?}, resident {} MB, before {} MB", start.elapsed(), resident_bytes() >> 20, before >> 20);
    assert_eq!(restored.len(), 1_000_000);
}

// covers D16
#[test]
fn restore_image_of_a_newer_version_is_refused_with_both_versions() {
    let error = Map::restore(&mut &b"madkvm3\nwhatever"[..]).err().unwrap().to_string();
    assert_eq!(error, "an image of a map of version 3, this build reads versions 1 and 2");
    let error = Map::restore(&mut &b"MADKVM1\n"[..]).err().unwrap().to_string();
    assert_eq!(error, "no image of a map");
}
