//! Golden scripts: each file under `tests/scripts` tells a story about one rule, as commands with the full trace of
//! what they caused below them. The trace is compared with what happens now; all invariants are checked after each
//! step.
//!
//! `UPDATE_GOLDEN=1 cargo test -p smr --test raft_scripts` writes the traces again. Read a changed trace before you
//! keep it.
//!
//! # Format
//! Lines that start with `#` are the story, with `>` commands; everything else is trace. The commands (`A` to `H` are
//! nodes, `A/2` is the second incarnation of `A`'s directory):
//! ```text
//! cluster A B C [key=value ...]     found a group; settings are fields of `Settings`
//! node D [term=3] [vote=B] [voters=A,B,C] [log=1,1,2] [snapshot=2.t1] [applied..]
//!                                   start a node from a disk: entry terms from 1 on; entry 1 names the voters
//! tick A ...                        wait until A's timer is due, and let it look at the clock
//! wait 50ms                         time passes, no one looks at the clock
//! run 300ms                         time passes as in real life: timers fire, messages arrive, disks write
//! elect A                           tick A and settle until it leads
//! settle                            deliver all messages, complete all writes, until nothing is left
//! propose A x y | read A | transfer A B | snapshot A | disconnect B A (B sees A's connection close)
//! deliver A B [Kind] | drop A B [Kind] | copy A B [Kind] | delay A B [Kind]     messages on the wire; * is anyone
//! arrive                            what was delayed is on the wire again
//! cut A B | cut A -> B | isolate A | heal
//! sync A [count] | slow A | fast A  complete writes by hand; the disk of a slow node writes only by hand
//! crash A [survive=n] | restart A   n writes reached the disk, and no one was told
//! carry A B | fail A B              the snapshot that A was asked for arrives at B, or does not; `carry A B late`
//!                                   keeps a copy: `carry late B`; `carry A B broken`: it arrives, but A hears that it
//!                                   did not
//! change A add D | remove D | replace B by D | voters A,B,C
//! inject A -> B t3 Kind [args]      a message out of nowhere; `current`: an answer to B's pre-votes on the wire
//! state                             everyone's state
//! quiet COMMAND                     do not show how, only the states after it
//! panics COMMAND                    must stop the node; the reason is shown
//! ```
//! Below each command stand its steps and then the states that it changed.

mod raft_cluster;
mod raft_script;

use std::fs;
use std::path::{Path, PathBuf};

use raft_script::Script;

/// Fewer scripts than this mean that the folder was not found.
const SCRIPTS_MIN: usize = 40;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
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
            continue;
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
fn scripts_name_section_and_case() {
    for file in fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let story: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(story.contains('§') && story.contains("covers "), "{}: {story}", path.display());
    }
}
