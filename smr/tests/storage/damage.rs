//! Damaged directories: each either starts with every record, or is refused or quarantined with a line that names a
//! file.

use std::fs;
use std::path::{Path, PathBuf};

use smr::entry::{Entry, HardState, Term};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{OpenOutcome, probe_sync};

use crate::support::*;

/// A node with some votes and records after it, closed. `reopened` times it was opened again, which makes sled write a
/// snapshot of its own.
struct Sample {
    bench: Bench,
    entries: Vec<Entry>,
    hard_state: HardState,
    files: Vec<PathBuf>,
}

fn sample(reopened: usize) -> Sample {
    let bench = Bench::new();
    let mut store = bench.founded();
    let hard_state = HardState { term: Term(3), vote: Some(NodeId::new(1, 0xb)), lease_us: 0 };
    let mut entries = vec![genesis().first_entry()];
    let batches = [batch(2, 40, 1, 100), batch(42, 1, 2, 70_000), batch(43, 100, 3, 30), batch(143, 1, 3, 500)];
    for batch in batches {
        store.apply(&LogChange::Append(batch.clone())).unwrap();
        store.sync().unwrap();
        entries.extend(batch);
    }
    store.save(&hard_state.into()).unwrap();
    drop(store);
    for _ in 0..reopened {
        drop(bench.reopen().store());
    }
    let files = contents(&bench.path).into_keys().collect();
    Sample { bench, entries, hard_state, files }
}

/// Damages one file of a copy of the directory, opens it, and says what became of it. Anything but all records, or a
/// line that names the file or at least the log, fails.
fn outcome(sample: &Sample, file: &Path, how: &str, damage: impl FnOnce(&Path)) -> &'static str {
    let copy = scratch();
    let bench = Bench::at(&copy.path().join("node"));
    copy_directory(&sample.bench.path, &bench.path);
    damage(&bench.path.join(file));
    let at = format!("{} {how}", file.display());
    let names_it = |text: &str| {
        let named = if file.starts_with("log") { bench.path.join("log") } else { bench.path.join(file) };
        assert!(text.contains(&named.display().to_string()), "{at}: {text}");
        assert_eq!(text.lines().count(), 1, "{at}: {text}");
    };
    match bench.open() {
        Ok(OpenOutcome::Store(opened)) if opened.healing.is_none() => {
            assert_eq!(ids(&opened.entries), ids(&sample.entries), "{at}");
            assert!(opened.entries == sample.entries && opened.hard_state() == sample.hard_state, "{at}");
            assert_eq!((opened.bootstrap, opened.identity.node), (initialized(), ME), "{at}");
            "whole"
        }
        Ok(opened @ OpenOutcome::Store(_)) => {
            let (opened, reason) = opened.heals();
            names_it(&reason);
            assert!(sample.entries.starts_with(&opened.entries) && opened.hard_state() == sample.hard_state, "{at}");
            assert_eq!((&opened.bootstrap, opened.identity.node), (&initialized(), ME), "{at}");
            drop(opened);
            // It sticks.
            assert_eq!(bench.reopen().heals().1, reason, "{at}");
            "heals"
        }
        Ok(OpenOutcome::Quarantined(quarantined)) => {
            names_it(&quarantined.reason);
            drop(quarantined);
            bench.reopen().quarantined();
            "quarantined"
        }
        Err(error) => {
            names_it(&error.to_string());
            "refused"
        }
    }
}

fn cut(path: &Path, bytes: u64) {
    let len = fs::metadata(path).unwrap().len();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len.saturating_sub(bytes)).unwrap();
}

// covers D4
#[test]
fn any_file_deleted_emptied_or_cut_is_noticed_or_harmless() {
    for reopened in [0, 1] {
        let sample = sample(reopened);
        assert!(sample.files.len() >= 5, "{:?}", sample.files);
        for file in &sample.files {
            let len = fs::metadata(sample.bench.path.join(file)).unwrap().len();
            let mut seen = vec![
                outcome(&sample, file, "deleted", |path| fs::remove_file(path).unwrap()),
                outcome(&sample, file, "emptied", |path| fs::write(path, "").unwrap()),
            ];
            for bytes in [1, 100, 4096, len / 2] {
                seen.push(outcome(&sample, file, &format!("cut by {bytes}"), |path| cut(path, bytes)));
            }
            let expected = match file.to_str().unwrap() {
                // The lock has no content, and what sled can make again from the log it does.
                "lock" | "log/conf" => "whole",
                "promise" => "quarantined",
                "mark" | "log/db" => "heals",
                _ => continue,
            };
            let seen_first = if expected == "whole" { &seen[..] } else { &seen[..2] };
            assert!(seen_first.iter().all(|seen| *seen == expected), "{file:?}, reopened {reopened}: {seen:?}");
        }
    }
}

// covers D4, D3
#[test]
fn any_bit_flipped_is_noticed_or_harmless() {
    let mut noticed = 0;
    for reopened in [0, 1] {
        let sample = sample(reopened);
        for file in &sample.files {
            let bytes = fs::read(sample.bench.path.join(file)).unwrap();
            // Only where something is: most of sled's first segment is zeros.
            let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            let places = if file.starts_with("log/db") { 100 } else { 20 };
            for place in 0..places.min(used.len()) {
                let at = used[place * used.len() / places.min(used.len())];
                let seen = outcome(&sample, file, &format!("bit flipped at {at}"), |path| {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1 << (place % 8);
                    fs::write(path, bytes).unwrap();
                });
                noticed += usize::from(seen == "heals");
            }
        }
    }
    assert!(noticed > 20, "only {noticed} of the flips were noticed");
}

// covers D5
#[test]
fn hard_state_missing_or_broken_beside_a_log_is_quarantined() {
    for broken in [None, Some(vec![]), Some(vec![7; 1024])] {
        let Sample { bench, .. } = sample(0);
        let hard_state = bench.path.join("promise");
        match broken {
            None => fs::remove_file(&hard_state).unwrap(),
            Some(bytes) => fs::write(&hard_state, bytes).unwrap(),
        }
        let log = contents(&bench.path.join("log"));
        let quarantined = bench.reopen().quarantined();
        assert!(quarantined.reason.contains("node/promise: "), "{}", quarantined.reason);
        assert_eq!(quarantined.since_unix_s, Some(bench.options.now_unix_s));
        drop(quarantined);
        // It sticks, and the log is not even opened.
        assert!(bench.reopen().quarantined().reason.contains("node/promise: "));
        assert_eq!(contents(&bench.path.join("log")), log);
    }
}

/// sled would make a new database without a word. It is not even asked.
// covers D4
#[test]
fn database_file_missing_or_empty_heals_and_the_engine_is_not_opened() {
    for empty in [false, true] {
        let Sample { bench, .. } = sample(0);
        let database = bench.path.join("log/db");
        if empty {
            fs::write(&database, "").unwrap();
        } else {
            fs::remove_file(&database).unwrap();
        }
        let log = contents(&bench.path.join("log"));
        let (_, reason) = bench.reopen().heals();
        assert!(reason.ends_with(if empty { "log/db: empty" } else { "log/db: missing" }), "{reason}");
        assert_eq!(contents(&bench.path.join("damaged-log")), log);
    }
}

/// Either slot may go bad at rest: the other one says the same, so no vote and no entry is forgotten.
// covers D4, D5
#[test]
fn hard_state_with_one_bad_slot_keeps_term_and_vote() {
    for slot in [0, 1] {
        let Sample { bench, hard_state, .. } = sample(0);
        let path = bench.path.join("promise");
        let mut bytes = fs::read(&path).unwrap();
        bytes[slot * 4096 + 30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let opened = bench.reopen().store();
        assert_eq!(opened.hard_state(), hard_state);
        assert!(opened.notes[0].contains(&format!("promise: slot {slot} was damaged")), "{:?}", opened.notes);
        // Repaired: now the other one may go.
        drop(opened.store);
        let mut bytes = fs::read(&path).unwrap();
        bytes[(1 - slot) * 4096 + 30] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(bench.reopen().store().hard_state(), hard_state);
    }
}

/// Yesterday's log beside today's watermark.
// covers M8
#[test]
fn log_restored_from_an_older_copy_heals() {
    let Sample { bench, .. } = sample(0);
    let older = tempfile::tempdir().unwrap();
    copy_directory(&bench.path.join("log"), older.path());
    let mut store = bench.reopen().store().store;
    store.apply(&LogChange::Append(batch(144, 1, 3, 10))).unwrap();
    store.sync().unwrap();
    drop(store);
    fs::remove_dir_all(bench.path.join("log")).unwrap();
    copy_directory(older.path(), &bench.path.join("log"));
    let (_, reason) = bench.reopen().heals();
    assert!(reason.contains("node/log: ") && reason.contains("144.t3 is marked as synced"), "{reason}");
}

// covers D11, M9
#[test]
fn log_or_watermark_of_another_node_is_quarantined() {
    for part in ["log", "mark"] {
        let Sample { bench, .. } = sample(0);
        let mut other = Bench::new();
        other.options.incarnation_if_new = NodeId::new(0, 0xb).incarnation;
        let mut store = other.reopen().store().store;
        let genesis = smr::entry::Genesis { members: [NodeId::new(0, 0xb)].into(), ..genesis() };
        let bootstrap = smr::internals::storage::BootstrapState::Initialized {
            genesis: genesis.hash(),
            founders: Some(genesis.clone()),
        };
        store.initialize(bootstrap, genesis.cluster_id()).unwrap();
        drop(store);
        let (from, to) = (other.path.join(part), bench.path.join(part));
        if part == "log" {
            fs::remove_dir_all(&to).unwrap();
            copy_directory(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
        let reason = bench.reopen().quarantined().reason;
        assert!(reason.contains(&format!("node/{part}: ")) && reason.contains("another node"), "{reason}");
    }
}

#[test]
fn blob_in_the_log_is_damage() {
    let Sample { bench, .. } = sample(0);
    fs::write(bench.path.join("log/blobs/1"), "x").unwrap();
    let (_, reason) = bench.reopen().heals();
    assert!(reason.contains("log/blobs: not empty"), "{reason}");
}

/// What an uninitialized node has never counted for anyone.
#[test]
fn log_and_watermark_of_an_uninitialized_node_are_made_again() {
    let bench = Bench::new();
    drop(bench.reopen().store());
    fs::remove_file(bench.path.join("log/db")).unwrap();
    fs::write(bench.path.join("mark"), "rubbish").unwrap();
    fs::create_dir(bench.path.join("snapshots")).unwrap();
    fs::write(bench.path.join("snapshots/1"), "rubbish").unwrap();
    drop(bench.founded());
    assert_eq!(bench.reopen().store().entries.len(), 1);
    assert!(!bench.path.join("snapshots").exists());
}

/// With a damaged snapshot gone, the log it covered is missing.
// covers D4
#[test]
fn snapshot_lost_after_the_log_was_cut_heals_from_nothing() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.apply(&LogChange::Append(batch(2, 99, 1, 10))).unwrap();
    store.sync().unwrap();
    store.apply(&LogChange::RemoveThrough(smr::entry::Index(100))).unwrap();
    store.sync().unwrap();
    drop(store);
    let opened = bench.reopen_with(snapshot(100, 1)).store();
    assert!(opened.entries.is_empty());
    drop(opened.store);
    let (_, reason) = bench.reopen().heals();
    assert!(reason.contains("100.t1 is marked as synced"), "{reason}");
    // It is a snapshot that is missing: the line says where.
    assert!(reason.contains("node/snapshots"), "{reason}");
}

#[test]
fn probe_leaves_nothing_and_fails_where_nothing_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    probe_sync(directory.path()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    fs::write(directory.path().join("file"), "").unwrap();
    assert!(probe_sync(&directory.path().join("file")).is_err());
}
