//! Damaged, full and failing disks under real servers: the fixed part of what the scenarios `damage`, `disk-full` and
//! `disk-errors` do.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use madkv_chaos::disk_faults::Skipped;
use madkv_chaos::disk_faults::arranged::{Arranged, Past};
use madkv_chaos::disk_faults::damage::{self, Damage};
use madkv_chaos::disk_faults::errors::{BadDiskGroup, Role, Start, WRITING, log_sync};
use madkv_chaos::disk_faults::full::SmallDiskGroup;
use madkv_chaos::disk_faults::judge::{Panics, Verdict};
use madkv_chaos::disk_faults::matrix::{Matrix, damages, open_copies};
use madkv_testkit::launcher::choose_log_engine;
use madkv_testkit::programs::Programs;
use smr::LogEngine;
use tempfile::TempDir;

/// Flipped bits for each file.
const FLIPS: u64 = 6;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| Programs::beside_this_one().unwrap_or_else(|error| panic!("{error}")))
}

/// On the disk that the build is on, not in memory.
fn fresh_directory() -> TempDir {
    tempfile::Builder::new().prefix("disk-faults-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What cannot be had on this machine is said by name, and no failure. `None` then.
fn or_skip<T>(outcome: Outcome<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) if error.is::<Skipped>() => {
            eprintln!("skipped: {}: {error}", std::thread::current().name().unwrap_or_default());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn snapshot_of(sample: &Path) -> PathBuf {
    let mut names = std::fs::read_dir(sample.join("snapshots")).unwrap();
    Path::new("snapshots").join(names.next().unwrap().unwrap().file_name())
}

/// The file that has most of the log: sled's database, or the segment that is written to.
fn log_of(sample: &Path) -> PathBuf {
    if choose_log_engine(None).unwrap() != LogEngine::Segments {
        return PathBuf::from("log/db");
    }
    let mut names = damage::files_below(&sample.join("log")).unwrap();
    // The one that is prepared has zeros in its header.
    names.retain(|name| std::fs::read(sample.join("log").join(name)).unwrap()[0] != 0);
    Path::new("log").join(names.pop().unwrap())
}

// covers D3, D4, D5, M6
#[test]
fn damaged_directory_starts_whole_or_heals_or_is_quarantined_and_never_costs_an_acknowledged_write() {
    let directory = fresh_directory();
    let mut arranged = Arranged::set(programs(), directory.path(), Past::Compacted).unwrap();
    let sample = arranged.sample();
    let mut matrix = Matrix::default();
    open_copies(&sample, &damages(&sample, FLIPS).unwrap(), &mut matrix, &Panics::default()).unwrap();
    assert_eq!(matrix.wrong, Vec::<String>::new());
    assert!(matrix.count("whole") > 20 && matrix.count("heals") > 10, "{matrix}");
    // Only where the hard state is lost.
    assert!(matrix.count("quarantined") <= 4, "{matrix}");

    // The same under processes, where one that forgets would let the lagging replica lead.
    for (file, damage, expected) in [
        (snapshot_of(&sample), Damage::Deleted, Verdict::Heals),
        (PathBuf::from("promise"), Damage::Deleted, Verdict::Quarantined),
        (PathBuf::from("mark"), Damage::Emptied, Verdict::Heals),
        (log_of(&sample), Damage::Deleted, Verdict::Heals),
        (PathBuf::from("promise"), Damage::Halved, Verdict::Whole),
        (PathBuf::from("assignment"), Damage::Emptied, Verdict::Whole),
    ] {
        assert_eq!(arranged.try_damage(&file, damage).unwrap(), expected, "{} {damage}", file.display());
    }
}

// covers D7
#[test]
fn full_disk_stops_its_replica_with_a_line_and_costs_nothing_acknowledged() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(SmallDiskGroup::start(programs(), directory.path())) else { return };
    group.run_full_under_load().unwrap();
    let line = group.receive_snapshot_without_room().unwrap();
    assert!(line.contains("receiving a snapshot failed"), "{line}");
}

// covers D7, D31
#[test]
fn leader_with_little_room_refuses_growth_takes_deletes_and_comes_back() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(SmallDiskGroup::start(programs(), directory.path())) else { return };
    let refusal = group.leave_leader_little_room().unwrap();
    assert!(refusal.contains("nothing was changed"), "{refusal}");
}

/// How long a call hangs that never returns, in milliseconds: an hour.
const FOR_EVER_MS: u64 = 3_600_000;

// covers D6, D15
#[test]
fn failing_write_or_sync_ends_the_process_and_costs_nothing_acknowledged() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(BadDiskGroup::start(programs(), directory.path())) else { return };
    for (role, file, calls) in [
        (Role::Follower, "log", "pwrite64"),
        (Role::Follower, "mark", "pwrite64"),
        (Role::Leader, "log", log_sync().unwrap()),
        (Role::Leader, "log", "pwrite64"),
    ] {
        let Some(line) = or_skip(group.fail(role, file, calls, 1)) else { return };
        assert!(line.contains(file) && line.contains("this process ends"), "{line}");
    }
}

// covers D12, E19
#[test]
fn disk_that_hangs_for_ever_concerns_its_replica_only_and_ends_with_it() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(BadDiskGroup::start(programs(), directory.path())) else { return };
    for role in [Role::Follower, Role::Leader] {
        if or_skip(group.hang(role, FOR_EVER_MS)).is_none() {
            return;
        }
    }
}

// covers D8
#[test]
fn snapshot_that_cannot_be_read_while_it_is_sent_ends_the_leader() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(BadDiskGroup::start(programs(), directory.path())) else { return };
    // Its header, and what is after it.
    for number in [1, 3] {
        let Some(line) = or_skip(group.fail_sending(number)) else { return };
        let line = line.unwrap_or_else(|| panic!("a snapshot is sent with fewer than {number} reads"));
        assert!(line.contains("reading a snapshot failed"), "{line}");
    }
}

// covers D8, D14
#[test]
fn start_that_fails_or_is_killed_anywhere_leaves_a_replica_that_starts_whole() {
    let directory = fresh_directory();
    let Some(mut group) = or_skip(BadDiskGroup::start(programs(), directory.path())) else { return };
    group.write_some().unwrap();
    for (calls, number) in [("pread64", 1), ("pread64", 4), ("fdatasync,fsync", 2)] {
        let Some(start) = or_skip(group.fail_at_start(calls, number)) else { return };
        if let Start::Refused(line) = start {
            assert!(line.contains("Input/output error"), "{line}");
        }
    }
    for number in [1, 3] {
        group.kill_at_start(WRITING, number).unwrap();
    }
    group.kill_in_starts(30).unwrap();
}
