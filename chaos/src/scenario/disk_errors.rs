//! A failing and a hanging disk under a real replica (fault catalogue D6, D8, D12, D14, D15, E19).

use std::collections::BTreeMap;

use crate::disk_faults::errors::{BadDiskGroup, Role, Start, WRITING, log_sync};
use crate::scenario::{Place, describe};
use madkv_testkit::place::{Outcome, fresh_directory};
use madkv_testkit::programs::Programs;

/// How long each writing call hangs, in milliseconds; the last is for ever, compared with everything else.
const DELAYS_MS: [u64; 4] = [10, 100, 5_000, 3_600_000];
/// Calls of a start that are looked at at most; none makes this many.
const START_CALLS_MAX: u32 = 400;

pub(super) fn run(places: u32, place: &Place) -> Outcome {
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, place.directory.as_deref())?;
    let mut group = BadDiskGroup::start(&programs, directory.path())?;
    describe(&group.cluster)?;
    for role in [Role::Follower, Role::Leader] {
        // sled does its work on several threads, which count their calls each by itself.
        for (file, calls) in [("log", "pwrite64"), ("log", log_sync()?), ("mark", "pwrite64")] {
            for number in 1..=places {
                let line = group.fail(role, file, calls, number)?;
                println!("{role:?}, {calls} number {number} on {file} fails: {line}");
            }
        }
        // The watermark is synced once in a while only.
        println!("{role:?}, a sync of the watermark fails: {}", group.fail(role, "mark", "fdatasync", 1)?);
        for delay_ms in DELAYS_MS {
            let (longest, moved) = group.hang(role, delay_ms)?;
            let moved = moved.map_or_else(String::new, |after| format!(", another led after {after:?}"));
            println!("{role:?}, each write takes {delay_ms} ms: longest wait for an answer {longest:?}{moved}");
        }
    }
    for calls in ["pread64", "pwrite64", "fdatasync,fsync,sync_file_range", "openat", "rename,unlink,mkdir,ftruncate"] {
        let mut lines = BTreeMap::<String, u32>::new();
        for number in 1..=places {
            let what = match group.fail_at_start(calls, number)? {
                Start::Refused(line) => line,
                Start::Serves => "serves".to_owned(),
            };
            *lines.entry(what).or_default() += 1;
        }
        println!("{calls} fails at the start, {places} places:");
        lines.iter().for_each(|(line, count)| println!("  {count} x {line}"));
    }
    for number in 1..=places {
        let Some(line) = group.fail_sending(number)? else {
            println!("a snapshot is sent with fewer than {number} reads");
            break;
        };
        println!("pread64 number {number} fails while a snapshot is sent: {line}");
    }
    let mut kills = 0;
    while kills < START_CALLS_MAX && group.kill_at_start(&format!("{WRITING},rename,unlink,ftruncate"), kills + 1)? {
        kills += 1;
    }
    println!("killed with each of the first {kills} writing calls of a start: whole each time");
    group.write_some()?;
    group.kill_in_starts(10 * places)?;
    println!("killed in {} starts one after the other: whole", 10 * places);
    Ok(())
}
