//! The store on the real file system, with sled: what is written is read back, and who must not open it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smr::entry::{EntryId, HardState, Index, SnapshotMeta, Term};
use smr::id::{ClusterId, Disqualified, NodeId, ReplicaId, StartTrail};
use smr::internals::disk::RealDisk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, LogEngine, OpenError, ReplicaDirectory, StoreOptions, SyncMode, Witness,
    probe_sync,
};

use crate::support::*;

#[test]
fn store_reopened_returns_all_that_was_synced() {
    let bench = Bench::new();
    let mut store = bench.founded();
    let hard_state = HardState { term: Term(3), vote: Some(NodeId::new(1, 0xb)), lease_us: 0 };
    store.save(&hard_state.into()).unwrap();
    store.apply(&LogChange::Append(batch(2, 64, 3, 200))).unwrap();
    store.apply(&LogChange::Append(batch(66, 1, 3, 1 << 20))).unwrap();
    store.sync().unwrap();
    drop(store);

    let opened = bench.reopen().store();
    assert_eq!((opened.hard_state(), opened.bootstrap, opened.notes), (hard_state, initialized(), Vec::new()));
    let expected = [vec![genesis().first_entry()], batch(2, 64, 3, 200), batch(66, 1, 3, 1 << 20)].concat();
    assert_eq!(opened.entries, expected);
    assert_eq!(opened.store.last(), EntryId::new(66, 3));
}

#[test]
fn directory_new_is_uninitialized_with_the_given_incarnation_and_keeps_it() {
    let bench = Bench::new();
    let opened = bench.reopen().store();
    assert_eq!((opened.hard_state(), opened.bootstrap), (HardState::default(), BootstrapState::Uninitialized));
    assert_eq!(opened.identity.node, ME);
    assert!(opened.entries.is_empty());
    drop(opened.store);
    // The incarnation is drawn again at each start, and counts only for a new directory.
    let opened = bench.open_with(&other_incarnation(&bench.options)).unwrap().store();
    assert_eq!((opened.identity.node, opened.bootstrap), (ME, BootstrapState::Uninitialized));
}

// covers M14
#[test]
fn node_excluded_stays_so_across_starts_and_can_still_be_taken_in() {
    let bench = Bench::new();
    let mut opened = bench.reopen().store();
    let (first, second) = (Witness::Recorder, Witness::Peer(NodeId::new(1, 0xb)));
    opened.store.exclude(first).unwrap();
    opened.store.exclude(second).unwrap();
    // As after a kill: closing the store would write more.
    let images = tempfile::tempdir().unwrap();
    let image = images.path().join("image");
    copy_directory(&bench.path, &image);
    let found = Bench::at(&image).reopen().store();
    assert_eq!(
        (found.identity.node, found.bootstrap),
        (ME, BootstrapState::Excluded { witness: first }),
        "the first word counts"
    );
    drop(opened);
    let mut store = bench.open_with(&other_incarnation(&bench.options)).unwrap().store().store;
    assert_eq!((store.identity().node, store.bootstrap()), (ME, &BootstrapState::Excluded { witness: first }));
    let bootstrap = BootstrapState::Initialized { genesis: genesis().hash(), founders: None };
    store.initialize(bootstrap.clone(), ClusterId(5)).unwrap();
    drop(store);
    assert_eq!(bench.reopen().store().bootstrap, bootstrap);
}

#[test]
fn founder_initialized_has_genesis_as_first_entry_in_term_one() {
    let bench = Bench::new();
    drop(bench.founded());
    let opened = bench.reopen().store();
    assert_eq!(opened.entries, [genesis().first_entry()]);
    assert_eq!(opened.hard_state(), HardState { term: Term(1), vote: None, lease_us: 0 });
    assert_eq!(opened.identity.cluster, Some(genesis().cluster_id()));
}

#[test]
fn latecomer_initialized_has_an_empty_log() {
    let bench = Bench::new();
    let mut store = bench.reopen().store().store;
    let bootstrap = BootstrapState::Initialized { genesis: genesis().hash(), founders: None };
    store.initialize(bootstrap.clone(), ClusterId(5)).unwrap();
    drop(store);
    let opened = bench.reopen().store();
    assert_eq!((opened.bootstrap, opened.store.last()), (bootstrap, EntryId::ZERO));
    assert_eq!(opened.identity.cluster, Some(ClusterId(5)));
}

// A process that is killed leaves what a copy of its open directory holds; closing a store writes more.
#[test]
fn latecomer_killed_after_each_step_opens_with_what_was_synced() {
    let bench = Bench::new();
    let mut store = bench.reopen().store().store;
    let images = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut opens = |meta: SnapshotMeta, last: EntryId| {
        number += 1;
        let image = images.path().join(format!("{number}"));
        copy_directory(&bench.path, &image);
        let opened = Bench::at(&image).reopen_with(meta).store();
        assert_eq!(
            (opened.store.last(), opened.bootstrap == BootstrapState::Uninitialized),
            (last, number == 1),
            "image {number}"
        );
    };
    let none = SnapshotMeta::default;
    opens(none(), EntryId::ZERO);
    store.initialize(BootstrapState::Initialized { genesis: genesis().hash(), founders: None }, ClusterId(5)).unwrap();
    opens(none(), EntryId::ZERO);
    store.save(&HardState { term: Term(2), vote: None, lease_us: 0 }.into()).unwrap();
    opens(none(), EntryId::ZERO);
    store.apply(&LogChange::Install(snapshot(70, 2))).unwrap();
    store.sync().unwrap();
    opens(snapshot(70, 2), EntryId::new(70, 2));
    store.apply(&LogChange::Append(batch(71, 5, 2, 100))).unwrap();
    store.sync().unwrap();
    opens(snapshot(70, 2), EntryId::new(75, 2));
}

#[test]
#[should_panic(expected = "is initialized twice")]
fn node_initialized_cannot_be_initialized_again() {
    let bench = Bench::new();
    bench.founded().initialize(initialized(), genesis().cluster_id()).unwrap();
}

// covers I2
#[test]
#[should_panic(expected = "hard state")]
fn hard_state_of_second_vote_in_a_term_panics() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.save(&HardState { term: Term(2), vote: Some(NodeId::new(1, 0xb)), lease_us: 0 }.into()).unwrap();
    let _ = store.save(&HardState { term: Term(2), vote: Some(ME), lease_us: 0 }.into());
}

// covers I3
#[test]
#[should_panic(expected = "hard state")]
fn hard_state_of_lower_term_panics() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.save(&HardState { term: Term(5), vote: None, lease_us: 0 }.into()).unwrap();
    let _ = store.save(&HardState { term: Term(4), vote: None, lease_us: 0 }.into());
}

#[test]
fn conflict_truncation_then_append_survives_reopen() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.apply(&LogChange::Append(batch(2, 99, 1, 200))).unwrap();
    store.sync().unwrap();
    store.apply(&LogChange::RemoveFrom(Index(51))).unwrap();
    store.apply(&LogChange::Append(batch(51, 3, 2, 200))).unwrap();
    store.sync().unwrap();
    drop(store);
    let opened = bench.reopen().store();
    assert_eq!(opened.entries[1..], [batch(2, 49, 1, 200), batch(51, 3, 2, 200)].concat());
}

// covers S1, S2
#[test]
fn install_keeps_the_suffix_behind_a_matching_entry_and_nothing_else() {
    for (term, kept) in [(1, 50), (9, 0)] {
        let bench = Bench::new();
        let mut store = bench.founded();
        store.apply(&LogChange::Append(batch(2, 99, 1, 200))).unwrap();
        store.sync().unwrap();
        store.apply(&LogChange::Install(snapshot(50, term))).unwrap();
        store.sync().unwrap();
        assert_eq!(store.start(), EntryId::new(50, term));
        let last = store.last();
        store.apply(&LogChange::Append(batch(last.index.0 + 1, 2, 9, 10))).unwrap();
        store.sync().unwrap();
        drop(store);
        let opened = bench.reopen_with(snapshot(50, term)).store();
        let expected = [batch(51, kept, 1, 200), batch(last.index.0 + 1, 2, 9, 10)].concat();
        assert_eq!(ids(&opened.entries), ids(&expected), "term {term}");
        assert_eq!((opened.entries == expected, opened.notes), (true, Vec::new()), "term {term}");
    }
}

/// The snapshot is durable, the process dies before the log was told.
// covers S5
#[test]
fn install_interrupted_before_the_log_is_finished_at_the_next_open() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.apply(&LogChange::Append(batch(2, 99, 1, 200))).unwrap();
    store.sync().unwrap();
    drop(store);
    let opened = bench.reopen_with(snapshot(60, 4)).store();
    assert_eq!((opened.entries.len(), opened.store.last()), (0, EntryId::new(60, 4)));
    assert!(opened.notes.iter().any(|note| note.contains("does not fit")), "{:?}", opened.notes);
    drop(opened.store);
    // Once more: the watermark was lowered with it.
    let opened = bench.reopen_with(snapshot(60, 4)).store();
    assert_eq!((opened.entries.len(), opened.store.last()), (0, EntryId::new(60, 4)));
}

/// The same where the conflict lies exactly between two records, so that no record shows both terms.
// covers S1, S5
#[test]
fn install_interrupted_at_a_border_of_records_is_no_damage() {
    for length in [10, 60_000] {
        let bench = Bench::new();
        let mut store = bench.founded();
        for index in 2..=6 {
            store.apply(&LogChange::Append(batch(index, 1, 1, length))).unwrap();
            store.sync().unwrap();
        }
        drop(store);
        for _ in 0..2 {
            let opened = bench.reopen_with(snapshot(4, 2)).store();
            assert_eq!((opened.entries.len(), opened.store.last()), (0, EntryId::new(4, 2)), "entries of {length}");
        }
        let mut store = bench.reopen_with(snapshot(4, 2)).store().store;
        store.apply(&LogChange::Append(batch(5, 2, 2, length))).unwrap();
        store.sync().unwrap();
        drop(store);
        assert_eq!(bench.reopen_with(snapshot(4, 2)).store().entries, batch(5, 2, 2, length));
    }
}

/// Without the entries in front of the seam nothing explains the conflict.
// covers D3
#[test]
fn log_that_begins_behind_another_entry_than_the_snapshots_heals() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.apply(&LogChange::Install(snapshot(50, 3))).unwrap();
    store.apply(&LogChange::Append(batch(51, 3, 3, 10))).unwrap();
    store.sync().unwrap();
    drop(store);
    assert!(bench.reopen_with(snapshot(50, 4)).heals().1.contains("starts after a term"));
}

#[test]
fn prefix_removed_under_a_snapshot_stays_removed() {
    let bench = Bench::new();
    let mut store = bench.founded();
    for index in 2..=600 {
        store.apply(&LogChange::Append(batch(index, 1, 1, 10))).unwrap();
    }
    store.sync().unwrap();
    store.apply(&LogChange::RemoveThrough(Index(590))).unwrap();
    store.sync().unwrap();
    drop(store);
    // Only one slice is gone; the rest lies under the snapshot.
    let opened = bench.reopen_with(snapshot(590, 1)).store();
    assert_eq!(opened.entries, batch(591, 10, 1, 10));
}

// covers M9
#[test]
fn directory_of_another_replica_is_refused_and_both_are_named() {
    let bench = Bench::new();
    drop(bench.founded());
    let before = contents(&bench.path);
    let replicas = [
        (ExpectedIdentity { name: ReplicaId(1), ..replica() }, "node 1 of group s0"),
        (ExpectedIdentity { group: "s1".parse().unwrap(), ..replica() }, "node 0 of group s1"),
        (ExpectedIdentity { cluster: Some(ClusterId(7)), ..replica() }, "of cluster 00000000000000000000000000000007"),
    ];
    for (expected, named) in replicas {
        let error = ReplicaDirectory::open(bench.disk.clone(), &bench.path, expected).err().unwrap();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(named) && text.contains("belongs to node 0@a of group s0 of cluster"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
    assert_eq!(contents(&bench.path), before);
    let right = ExpectedIdentity { cluster: Some(genesis().cluster_id()), ..replica() };
    assert!(ReplicaDirectory::open(bench.disk.clone(), &bench.path, right).is_ok());
}

// covers D13
#[test]
fn directory_open_in_the_same_process_is_refused_at_once() {
    let bench = Bench::new();
    let mut store = bench.founded();
    let error = bench.open().err().unwrap();
    assert_eq!(error, OpenError::Locked { directory: bench.path.clone() });
    assert!(error.to_string().ends_with("in use by another process"), "{error}");
    store.apply(&LogChange::Append(batch(2, 1, 1, 10))).unwrap();
    store.sync().unwrap();
    drop(store);
    assert_eq!(bench.reopen().store().entries.len(), 2);
}

// covers B23
#[test]
fn directory_whose_lock_file_was_cleaned_away_is_refused_all_the_same() {
    for engine in [LogEngine::Sled, LogEngine::Segments] {
        let mut bench = Bench::new();
        bench.options = options(engine);
        let store = bench.founded();
        fs::remove_file(bench.path.join("lock")).unwrap();
        let error = bench.open().err().unwrap();
        assert_eq!(error, OpenError::Locked { directory: bench.path.clone() });
        drop(store);
        assert_eq!(bench.reopen().store().entries.len(), 1);
    }
}

/// Leaves in `directory` what tools leave behind.
fn litter(directory: &Path) {
    for name in ["lost+found", ".snapshot"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    for name in [".DS_Store", ".nfs0000000001", "core.1234", "notes.txt~", "1.segment", "77.segment", "db.bak"] {
        fs::write(directory.join(name), "rubbish").unwrap();
    }
}

// covers B24
#[test]
fn directory_with_files_of_others_anywhere_opens_as_if_they_were_not_there() {
    for engine in [LogEngine::Sled, LogEngine::Segments] {
        let mut bench = Bench::new();
        bench.options = options(engine);
        fs::create_dir_all(bench.path.join("snapshots")).unwrap();
        litter(&bench.path);
        litter(&bench.path.join("snapshots"));
        let mut store = bench.founded();
        store.apply(&LogChange::Append(batch(2, 3, 1, 10))).unwrap();
        store.sync().unwrap();
        drop(store);
        litter(&bench.path.join("log"));
        if engine == LogEngine::Sled {
            litter(&bench.path.join("log/blobs"));
        }
        let opened = bench.reopen().store();
        assert_eq!((opened.entries.len(), opened.notes), (4, Vec::new()), "{engine}");
    }
}

// covers B24
#[test]
fn foreign_name_among_blobs_that_is_no_text_is_named_and_no_damage() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    drop(bench.founded());
    let foreign = bench.path.join("log/blobs").join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::write(&foreign, "").unwrap();
    let error = bench.open_with(&bench.options).err().unwrap();
    assert!(error.to_string().contains("move it elsewhere"), "{error}");
    fs::remove_file(&foreign).unwrap();
    assert_eq!(bench.reopen().store().entries.len(), 1);
}

const CHILD: &str = "SMR_TEST_HOLD_DIRECTORY";

/// Not a test by itself: what the child of the next one runs.
#[test]
fn child_holds_directory_until_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let bench = Bench::at(&PathBuf::from(&path));
    let _store = bench.founded();
    fs::write(format!("{path}.held"), "").unwrap();
    loop {
        std::thread::park();
    }
}

// covers D13
#[test]
fn directory_open_in_a_stopped_process_is_refused_at_once() {
    let bench = Bench::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::child_holds_directory_until_killed"])
        .env(CHILD, &bench.path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let held = PathBuf::from(format!("{}.held", bench.path.display()));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !held.exists() {
        assert!(Instant::now() < deadline, "the child did not open the directory");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let error = bench.open().err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.reopen().store().entries.len(), 1);
}

// covers D16
#[test]
fn directory_of_a_newer_format_is_refused_untouched() {
    for file in ["promise", "mark"] {
        let bench = Bench::new();
        drop(bench.founded());
        let path = bench.path.join(file);
        let mut bytes = fs::read(&path).unwrap();
        for slot in bytes.chunks_mut(4096) {
            slot[8..10].copy_from_slice(&5u16.to_le_bytes());
            let checksum = smr::codec::checksum(&[&slot[..504]]);
            slot[504..512].copy_from_slice(&checksum.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        let before = contents(&bench.path);
        let error = bench.open().err().unwrap();
        assert_eq!(error, OpenError::Newer { file: path, found: 5, supported: 4 });
        assert_eq!(contents(&bench.path), before, "{file}");
    }
}

#[test]
fn directory_read_only_or_under_a_file_is_refused_with_one_line() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("file");
    fs::write(&file, "").unwrap();
    let error = ReplicaDirectory::open(std::sync::Arc::new(RealDisk), &file.join("node"), replica()).err().unwrap();
    assert!(matches!(error, OpenError::Io(_)), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn sync_attribute_is_on_the_log_and_all_its_files_after_a_copy_too() {
    let bench = Bench::new();
    let parent = bench.path.parent().unwrap();
    if probe_sync(parent).unwrap() != SyncMode::Synced {
        eprintln!("skipped: sync_attribute_is_on_the_log_and_all_its_files_after_a_copy_too: no attribute S here");
        return;
    }
    let strict = StoreOptions { allow_unsynced: false, ..bench.options.clone() };
    let mut store = bench.open_with(&strict).unwrap().store().store;
    store.initialize(initialized(), genesis().cluster_id()).unwrap();
    assert_eq!(without_attribute(&bench.path.join("log")), Vec::<PathBuf>::new());
    assert!(!has_attribute(&bench.path.join("promise")));
    drop(store);

    let copy = Bench::at(&parent.join("copy"));
    copy_directory(&bench.path, &copy.path);
    assert!(!without_attribute(&copy.path.join("log")).is_empty());
    let opened = copy.open_with(&strict).unwrap().store();
    assert_eq!((opened.entries.len(), opened.sync_mode), (1, SyncMode::Synced));
    assert_eq!(without_attribute(&copy.path.join("log")), Vec::<PathBuf>::new());
}

/// tmpfs has no device to sync to.
#[test]
fn tmpfs_opens_and_says_so() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: tmpfs_opens_and_says_so: no /dev/shm");
        return;
    };
    let mode = probe_sync(directory.path()).unwrap();
    if mode != SyncMode::Tmpfs {
        eprintln!("skipped: tmpfs_opens_and_says_so: /dev/shm is no tmpfs");
        return;
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the probe left something");
    let bench = Bench::at(&directory.path().join("node"));
    let strict = StoreOptions { allow_unsynced: false, ..bench.options.clone() };
    let opened = bench.open_with(&strict).unwrap().store();
    assert_eq!(opened.sync_mode.to_string(), "tmpfs (power loss is not covered)");
}

/// A `.generating` file makes sled fail, and a damaged `snap.*` too; both only repeat what is in its log.
// covers D14
#[test]
fn sled_leftovers_of_a_crash_in_recovery_are_removed_or_set_aside() {
    let bench = Bench::new();
    let mut store = bench.founded();
    store.apply(&LogChange::Append(batch(2, 50, 1, 200))).unwrap();
    store.sync().unwrap();
    drop(store);
    drop(bench.reopen().store()); // writes a snapshot of its own
    let log = bench.path.join("log");
    let snap = contents(&log).into_keys().find(|path| path.to_string_lossy().contains("snap.")).unwrap();
    let bytes = fs::read(log.join(&snap)).unwrap();
    fs::write(log.join("snap.0000000000000FFF.generating"), &bytes[..bytes.len() / 2]).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    fs::write(log.join(&snap), damaged).unwrap();

    let opened = bench.reopen().store();
    assert_eq!(opened.entries.len(), 51);
    assert!(opened.notes.iter().any(|note| note.contains(".generating: removed")), "{:?}", opened.notes);
    assert!(opened.notes.iter().any(|note| note.contains("set-aside.snap.")), "{:?}", opened.notes);
}

// covers M23: by this a snapshot of another group is told from one's own before the log is compared with any.
#[test]
fn directory_of_an_initialized_node_names_its_genesis_and_another_none() {
    let bench = Bench::new();
    let claim = || ReplicaDirectory::open(Arc::clone(&bench.disk), &bench.path, replica()).unwrap();
    assert_eq!(claim().genesis(), None);
    drop(bench.reopen());
    assert_eq!(claim().genesis(), None);
    drop(bench.founded());
    assert_eq!(claim().genesis(), Some(genesis().hash()));
}

// covers M18 M19: a copy counts on from where it was made.
#[test]
fn each_start_is_counted_durably_and_names_those_before_it() {
    let bench = Bench::new();
    let open = |nonce| {
        let options = StoreOptions { start_nonce: nonce, ..bench.options.clone() };
        bench.open_with(&options).unwrap().store()
    };
    let first = {
        let mut opened = open(11);
        opened.store.initialize(initialized(), genesis().cluster_id()).unwrap();
        opened.start
    };
    let second = open(12).start;
    let third = open(13).start;
    assert_eq!([first, second, third].map(|start| (start.id.number, start.id.nonce)), [(1, 11), (2, 12), (3, 13)]);
    assert_eq!(third.earlier[..3], [12, 11, 0]);
}

// covers M18 M19: what was seen of another node outlives a restart, and a copy of that one never passes, however often
// it is started.
#[test]
fn starts_of_another_node_are_remembered_and_those_of_a_copy_refused() {
    let bench = Bench::new();
    drop(bench.founded());
    let peer = NodeId::new(1, 0xb);
    let copied = StartTrail::default().next(1);
    let newest = copied.next(2);
    assert_eq!(bench.reopen().store().seen_starts.admit(peer, newest), Ok(Ok(())));
    let seen = bench.reopen().store().seen_starts;
    let mut copy = copied;
    for nonce in 10..20 {
        assert!(matches!(seen.admit(peer, copy), Ok(Err(Disqualified::SetBack { .. }))), "{copy:?}");
        copy = copy.next(nonce);
    }
    assert_eq!(seen.admit(peer, newest.next(3)), Ok(Ok(())));
}
