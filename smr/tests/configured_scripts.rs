//! Golden scripts of the configured core: each file under `tests/configured_scripts` tells a story about one rule, as
//! commands with the full trace of what they caused below them. The trace is compared with what happens now; all
//! invariants are checked after each step.
//!
//! `UPDATE_GOLDEN=1 cargo test -p smr --test configured_scripts` writes the traces again. Read a changed trace before
//! you keep it.
//!
//! # Format
//! As in `raft_scripts.rs`: lines that start with `#` are the story, with `>` commands; everything else is trace. An
//! entry `3.e2` is the one at index 3 of epoch 2. The commands:
//! ```text
//! group KIND A B C [key=value ...]  a service whose first epoch has these members, and their empty disks; settings are
//!                                   fields of `Settings`; rate=1000,1001 are what their clocks count in a millisecond
//! begin                             everyone is told of the present epoch; settle
//! node D [epoch=1] [log=1,1,2]      start a node from a disk: entry epochs from 1 on
//! epoch B C D                       the service decides: these members, in this order; no one is told
//! tell A [e1] | tell all            the service's decision reaches a node (the present one, if none is named)
//! grant A | hand A                  the service answers the lease that A asked for last | the answer reaches A
//! failover                          another one leads the service
//! join A D | join A none            the service wants A to bring D up to date
//! propose A x y | read A | route A  route: who takes what, as A sees it
//! fit A epoch=2 base=1.e1 end=3.e1 applied=1.e1     what A does with such a checkpoint
//! tick, wait, run, settle, snapshot, disconnect, deliver, drop, copy, delay, arrive, cut, isolate, heal, sync, slow,
//! fast, crash, restart, state, quiet, panics        as in `raft_scripts.rs`
//! carry A D [fails] [again]         the snapshot that A was asked for arrives at D, or does not; or once more
//! setback A keep=2                  the disk of a node that is down holds what an old copy of it would
//! inject A -> B e3 Kind [args] [with=chain:A,B]     a message out of nowhere
//! ```

mod configured_cluster;
mod configured_script;

use std::fs;
use std::path::{Path, PathBuf};

use configured_script::Script;

/// Fewer scripts than this mean that the folder was not found.
const SCRIPTS_MIN: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configured_scripts")
}

fn replay(text: &str) -> String {
    let mut script = Script::new();
    let mut result = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            result += &format!("> {command}\n");
            for line in script.run(command) {
                result += &format!("{line}\n");
            }
            result.push('\n');
        } else if line.starts_with('#') {
            result += &format!("{line}\n");
        }
    }
    result
}

/// The first lines that differ, with a little of what stands before them.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(one, other)| one == other).count();
    let context = expected[same.saturating_sub(6)..same].iter().map(|line| format!("  {line}"));
    let minus = expected[same..].iter().take(8).map(|line| format!("- {line}"));
    let plus = actual[same..].iter().take(8).map(|line| format!("+ {line}"));
    format!("line {}:\n{}", same + 1, context.chain(minus).chain(plus).collect::<Vec<_>>().join("\n"))
}

#[test]
fn scripts_replayed_give_the_same_traces() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let mut paths: Vec<_> = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= SCRIPTS_MIN, "only {} scripts", paths.len());
    let mut failures = Vec::new();
    for path in paths.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let expected = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let replayed = std::panic::catch_unwind(|| replay(&expected));
        match replayed {
            Err(_) => failures.push(format!("{name}: stopped; the reason is above")),
            Ok(actual) if actual == expected => {}
            Ok(actual) if update => fs::write(path, actual).unwrap(),
            Ok(actual) => failures.push(format!("{name}, {}", difference(&expected, &actual))),
        }
    }
    assert!(failures.is_empty(), "{} scripts differ:\n\n{}", failures.len(), failures.join("\n\n"));
}

/// A story without its number is found by no one who looks for a case.
#[test]
fn scripts_name_their_case() {
    for file in fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let story: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(story.contains("covers "), "{}: {story}", path.display());
    }
}
