//! The record log over a map in memory, so that each record can be damaged, moved and left out, and each prefix of the
//! writes be what a crash has left.

use std::collections::BTreeMap;

use smr::entry::{Entry, EntryId, Index};
use smr::internals::storage::record_log::{RecordLog, Recovered};
use smr::internals::storage::watermark::SyncedWatermark;
use smr::internals::storage::{Key, LoadError, LogStore};
use smr_sim::memory::MemoryMap;

use crate::support::*;

const ME_HASH: u64 = 1;

fn recover(map: &MemoryMap, start: EntryId, watermark: Option<SyncedWatermark>) -> Result<Recovered, LoadError> {
    RecordLog::recover(Box::new(map.clone()), ME_HASH, start, watermark)
}

fn new_log(map: &MemoryMap) -> RecordLog {
    recover(map, EntryId::ZERO, None).unwrap().log
}

fn damage(result: Result<Recovered, LoadError>) -> String {
    match result {
        Err(LoadError::Damage(damage)) => damage.to_string(),
        Err(error) => panic!("{error}"),
        Ok(recovered) => panic!("opened with {:?}", ids(&recovered.entries)),
    }
}

fn watermark(log: &mut RecordLog, index: u64) -> SyncedWatermark {
    let term = log.term_at(Index(index)).unwrap();
    SyncedWatermark { last: EntryId::new(index, term.0), fingerprint: log.fingerprint_at(Index(index)).unwrap() }
}

fn first_index(key: &Key) -> u64 {
    u64::from_be_bytes(key[..8].try_into().unwrap())
}

/// Five records: 1–10, 11, 12 in parts, 13–14, 15.
fn sample() -> (MemoryMap, Vec<Entry>, RecordLog) {
    let map = MemoryMap::default();
    let mut log = new_log(&map);
    let batches =
        [batch(1, 10, 1, 20), batch(11, 1, 1, 5), batch(12, 1, 2, 60_000), batch(13, 2, 2, 9), batch(15, 1, 4, 7)];
    for entries in &batches {
        log.append(entries).unwrap();
    }
    log.flush().unwrap();
    (map, batches.concat(), log)
}

type Contents = BTreeMap<Key, Vec<u8>>;

fn changed(map: &MemoryMap, change: impl FnOnce(&mut Contents)) -> MemoryMap {
    let mut contents = map.contents();
    change(&mut contents);
    MemoryMap::with_contents(contents)
}

// covers D2
#[test]
fn last_record_unreadable_and_not_marked_is_cut() {
    let (map, all, mut log) = sample();
    let watermark = watermark(&mut log, 14);
    for at in [0, 20, 72, 79, 85, 110] {
        let torn = changed(&map, |contents| contents.last_entry().unwrap().get_mut()[at] ^= 1);
        let recovered = recover(&torn, EntryId::ZERO, Some(watermark)).unwrap();
        assert_eq!(recovered.entries, all[..14], "byte {at}");
        assert!(recovered.notes[0].contains("cut an interrupted write at index 15"), "{:?}", recovered.notes);
        // It is gone for good, and the log goes on.
        let mut log = recovered.log;
        log.append(&batch(15, 1, 9, 3)).unwrap();
        log.flush().unwrap();
        let again = recover(&torn, EntryId::ZERO, Some(watermark)).unwrap();
        assert_eq!((again.entries.len(), again.notes.len()), (15, 0));
    }
}

// covers D2
#[test]
fn last_record_lacking_parts_and_not_marked_is_cut() {
    let map = MemoryMap::default();
    let mut log = new_log(&map);
    log.append(&batch(1, 3, 1, 20)).unwrap();
    let watermark = watermark(&mut log, 3);
    log.flush().unwrap();
    log.append(&batch(4, 1, 1, 100_000)).unwrap();
    assert_eq!(map.pending(), 5);
    for kept in 0..=5 {
        let recovered = recover(&map.after_crash(kept), EntryId::ZERO, Some(watermark)).unwrap();
        assert_eq!(recovered.entries.len(), if kept == 5 { 4 } else { 3 }, "{kept} parts");
        assert_eq!(recovered.notes.len(), usize::from(kept > 0 && kept < 5), "{kept} parts");
    }
}

// covers D3
#[test]
fn last_record_unreadable_though_marked_is_damage() {
    let (map, _, mut log) = sample();
    let watermark = watermark(&mut log, 15);
    let torn = changed(&map, |contents| contents.last_entry().unwrap().get_mut()[90] ^= 1);
    let text = damage(recover(&torn, EntryId::ZERO, Some(watermark)));
    assert!(text.contains("record at index 15 is damaged") && text.contains("15.t4 is marked as synced"), "{text}");
}

/// Every byte of every record but the last one, whatever the watermark says; and of that too if it is marked.
// covers D3
#[test]
fn any_byte_changed_is_damage_and_never_fewer_or_other_entries() {
    let (map, all, mut log) = sample();
    let end = watermark(&mut log, 15);
    let contents = map.contents();
    let last = *contents.keys().next_back().unwrap();
    for (key, value) in &contents {
        // Small values whole, the others at samples.
        for at in (0..value.len()).step_by(if value.len() > 1_000 { 97 } else { 1 }) {
            let flipped = changed(&map, |contents| contents.get_mut(key).unwrap()[at] ^= 1 << (at % 8));
            damage(recover(&flipped, EntryId::ZERO, Some(end)));
            match recover(&flipped, EntryId::ZERO, None) {
                Err(LoadError::Damage(_)) => assert!(*key != last),
                Ok(recovered) => assert!(*key == last && recovered.entries == all[..14], "{key:?} byte {at}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

// covers D3, I10
#[test]
fn record_missing_is_damage() {
    let (map, _, mut log) = sample();
    let end = watermark(&mut log, 15);
    for key in map.contents().into_keys() {
        let holed = changed(&map, |contents| {
            contents.remove(&key);
        });
        let index = first_index(&key);
        let text = damage(recover(&holed, EntryId::ZERO, Some(end)));
        assert!(text.contains("index") || text.contains("is marked as synced"), "{index}: {text}");
        if index != 15 {
            damage(recover(&holed, EntryId::ZERO, None));
        }
    }
}

// covers D11
#[test]
fn record_of_another_owner_place_or_generation_is_damage() {
    let (map, _, mut log) = sample();
    let contents = map.contents();
    // Another owner, equal in all else.
    let foreign = MemoryMap::default();
    let mut other = RecordLog::recover(Box::new(foreign.clone()), 2, EntryId::ZERO, None).unwrap().log;
    other.append(&batch(1, 10, 1, 20)).unwrap();
    let text = damage(recover(&foreign, EntryId::ZERO, None));
    assert!(text.contains("another node"), "{text}");
    // Another place, also the one after the end.
    let last = contents.values().next_back().unwrap().clone();
    for index in [11, 16] {
        let mut key = *contents.keys().next_back().unwrap();
        key[..8].copy_from_slice(&u64::to_be_bytes(index));
        let text =
            damage(recover(&changed(&map, |contents| drop(contents.insert(key, last.clone()))), EntryId::ZERO, None));
        assert!(text.contains("belongs to index 15"), "{text}");
    }
    // An older generation of the same place: what was there before a conflict.
    log.remove_from(Index(13)).unwrap();
    log.append(&batch(13, 2, 3, 9)).unwrap();
    log.append(&batch(15, 1, 4, 7)).unwrap();
    let old = contents.iter().filter(|(key, _)| first_index(key) == 15);
    for (key, value) in old {
        let text =
            damage(recover(&changed(&map, |contents| drop(contents.insert(*key, value.clone()))), EntryId::ZERO, None));
        assert!(text.contains("does not follow"), "{text}");
    }
}

// covers M8
#[test]
fn watermark_of_another_entry_or_beyond_the_end_is_damage() {
    let (map, _, mut log) = sample();
    let good = watermark(&mut log, 14);
    assert_eq!(recover(&map, EntryId::ZERO, Some(good)).unwrap().entries.len(), 15);
    let wrong = [
        SyncedWatermark { fingerprint: good.fingerprint ^ 1, ..good },
        SyncedWatermark { last: EntryId::new(14, 3), ..good },
        SyncedWatermark { last: EntryId::new(16, 4), ..good },
    ];
    for watermark in wrong {
        let text = damage(recover(&map, EntryId::ZERO, Some(watermark)));
        assert!(text.contains("marked as synced"), "{text}");
    }
    // Under a snapshot it is vouched for.
    let under = SyncedWatermark { last: EntryId::new(14, 3), ..good };
    assert_eq!(recover(&map, EntryId::new(14, 2), Some(under)).unwrap().entries.len(), 1);
}

/// The newest snapshot is lost after the log was cut under it.
// covers S6
#[test]
fn log_that_starts_behind_the_snapshot_is_damage() {
    let (map, all, mut log) = sample();
    log.remove_through(Index(12));
    while log.compact_slice().unwrap() {}
    assert_eq!(recover(&map, EntryId::new(12, 2), None).unwrap().entries, all[12..]);
    for snapshot in [EntryId::ZERO, EntryId::new(11, 1)] {
        let text = damage(recover(&map, snapshot, None));
        assert!(text.contains("the log starts at index 13"), "{text}");
    }
    let text = damage(recover(&map, EntryId::new(12, 1), None));
    assert!(text.contains("starts after a term 2 entry"), "{text}");
}

/// Records under the snapshot are no one's business any more, not even broken ones.
#[test]
fn damage_wholly_under_the_snapshot_is_harmless() {
    let (map, all, _) = sample();
    let flipped = changed(&map, |contents| contents.values_mut().next().unwrap()[90] ^= 1);
    let recovered = recover(&flipped, EntryId::new(10, 1), None).unwrap();
    assert_eq!(recovered.entries, all[10..]);
}

/// Every prefix of the writes of each kind of change, with the watermark where the store has it by then.
// covers D1
#[test]
fn any_prefix_of_writes_is_a_sound_log_on_the_way() {
    type Work = fn(&mut RecordLog);
    let works: [(&str, Work, u64); 4] = [
        ("append", |log| log.append(&[batch(16, 40, 5, 3_000), batch(56, 1, 5, 90_000)].concat()).unwrap(), 15),
        ("conflict at a record", |log| log.remove_from(Index(11)).unwrap(), 10),
        ("conflict inside a record", |log| log.remove_from(Index(4)).unwrap(), 3),
        (
            "conflict, then append",
            |log| {
                log.remove_from(Index(14)).unwrap();
                log.append(&batch(14, 1, 6, 70_000)).unwrap();
            },
            13,
        ),
    ];
    for (name, work, marked) in works {
        let (map, before, mut log) = sample();
        let watermark = watermark(&mut log, marked);
        work(&mut log);
        let after = log.load().unwrap();
        let common = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
        assert!(map.pending() > 2, "{name}");
        for kept in 0..=map.pending() {
            let recovered = recover(&map.after_crash(kept), EntryId::ZERO, Some(watermark));
            let recovered = recovered.unwrap_or_else(|error| panic!("{name}, {kept} writes kept: {error}"));
            let found = recovered.entries;
            let on_the_way =
                found.starts_with(&before[..common]) && (before.starts_with(&found) || after.starts_with(&found));
            assert!(on_the_way, "{name}, {kept} writes kept: {:?}", ids(&found));
        }
    }
}

/// The same for what happens under a snapshot: everything after it stays.
// covers D1
#[test]
fn any_prefix_of_a_compaction_or_reset_keeps_what_the_snapshot_does_not_cover() {
    for (snapshot, kept_entries) in
        [(EntryId::new(12, 2), 3), (EntryId::new(5, 1), 10), (EntryId::new(13, 9), 0), (EntryId::new(40, 9), 0)]
    {
        let (map, all, mut log) = sample();
        if kept_entries > 0 {
            log.remove_through(snapshot.index);
            while log.compact_slice().unwrap() {}
        } else {
            log.reset_to(snapshot).unwrap();
        }
        for kept in 0..=map.pending() {
            let recovered =
                recover(&map.after_crash(kept), snapshot, None).unwrap_or_else(|error| panic!("{kept}: {error}"));
            let mut log = recovered.log;
            if !recovered.fits {
                assert_eq!(kept_entries, 0);
                log.reset_to(snapshot).unwrap();
            }
            assert_eq!(log.load().unwrap(), all[15 - kept_entries..], "{snapshot}, {kept} writes kept");
            assert_eq!(log.start(), snapshot);
            let next = log.last().index.0 + 1;
            log.append(&batch(next, 2, 9, 30_000)).unwrap();
            assert_eq!(log.load().unwrap().len(), kept_entries + 2);
        }
    }
}

#[test]
fn record_of_a_newer_format_is_refused_not_quarantined() {
    let (map, _, _) = sample();
    let newer = changed(&map, |contents| {
        let value = contents.values_mut().next_back().unwrap();
        value[0] = 2;
        let checksum = smr::codec::checksum(&[&value[..72], &value[80..]]);
        value[72..80].copy_from_slice(&checksum.to_le_bytes());
    });
    let error = recover(&newer, EntryId::ZERO, None).err().unwrap();
    assert!(matches!(error, LoadError::Newer { found: 2, supported: 1, .. }), "{error}");
}
