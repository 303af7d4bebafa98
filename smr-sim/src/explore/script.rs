//! Histories written down, to be walked through what the explorer itself offers.
//!
//! One event a line: a node, a colon, and what happens to it. `#` begins a comment.
//! | | |
//! |---|---|
//! | `A: time out` | its timer fires, and it campaigns |
//! | `A: refused 3` | its timer fires, and it hears of term 3 |
//! | `A: sync` | all its writes under way are complete; nothing, if there are none |
//! | `A: silence` | it leads, heard no one for long, and steps down |
//! | `A: propose` | it is given the next command |
//! | `A: crash 1` | it crashes and comes back, with this many parts of its unsynced writes |
//! | `A: Vote of B` | that message arrives: of the latest term, and of those the latest |
//!
//! A step that is not offered is an error: the history is impossible, or the explorer leaves out what it must not.

use super::group::{Broken, Group, Move, Situations};
use super::tables::{EventKey, Tables};
use super::{Bounds, NODES, letter, node};

/// The paper's Figure 8 up to (c), before anything is copied: A led term 2 and is alone with its entry 2; C led term 3
/// and is alone with another entry 2; A leads term 4, with C still believing in its own term. Counting copies of A's
/// old entry commits it, and a crash of A makes way for C.
pub const FIGURE_8: &str = "
    A: time out
    A: sync
    B: Vote of A
    B: sync
    C: Vote of A
    C: sync
    A: VoteGranted of B
    A: sync
    # Term 3
    C: time out
    C: sync
    B: Vote of C
    B: sync
    C: VoteGranted of B
    C: sync
    # Term 4
    A: silence
    A: refused 3
    A: sync
    A: time out
    A: sync
    B: Vote of A
    B: sync
    A: VoteGranted of B
";

/// The history of this name.
pub fn named(name: &str) -> Option<&'static str> {
    match name {
        "figure8" => Some(FIGURE_8),
        _ => None,
    }
}

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// An invariant broke.
    Broken(String),
    /// The explorer has no such step there, or the line says nothing.
    NotOffered(String),
}

/// Walks from `group` on, and tells `see` of each step.
pub(super) fn walk(
    mut group: Group,
    script: &str,
    bounds: &Bounds,
    tables: &mut Tables,
    situations: &mut Situations,
    mut see: impl FnMut(&Group, Move, Option<&Group>, &Tables),
) -> Result<Group, Stop> {
    let mut found = Vec::new();
    let lines = script.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    for line in lines.filter(|line| !line.is_empty()) {
        let malformed = || Stop::NotOffered(format!("\"{line}\" of the history says nothing"));
        let (who, what) = line.split_once(": ").ok_or_else(malformed)?;
        let replica =
            (0..NODES).find(|replica| who == letter(node(*replica as u8)).to_string()).ok_or_else(malformed)?;
        loop {
            let is_sync = what == "sync";
            if is_sync && !tables.info(group.locals[replica]).writes {
                break;
            }
            if let Err(Broken { by, what }) = group.successors(bounds, tables, situations, &mut found) {
                see(&group, by, None, tables);
                return Err(Stop::Broken(what));
            }
            let offered =
                found.iter().filter(|(by, _)| usize::from(by.replica) == replica && is_meant(what, by.key, tables));
            // Later messages have higher numbers.
            let Some((by, next)) = offered.max_by_key(|(by, _)| (term_of(by.key, tables), by.key)).copied() else {
                return Err(Stop::NotOffered(format!("\"{line}\" of the history is not offered there")));
            };
            see(&group, by, Some(&next), tables);
            group = next;
            if !is_sync {
                break;
            }
        }
    }
    Ok(group)
}

fn term_of(key: u32, tables: &Tables) -> u64 {
    let is_message = key & !EventKey::ARGUMENT == 0;
    if is_message { tables.message(key & EventKey::ARGUMENT).message.term.0 } else { 0 }
}

fn is_meant(what: &str, key: u32, tables: &Tables) -> bool {
    let argument = key & EventKey::ARGUMENT;
    match key & !EventKey::ARGUMENT {
        EventKey::SYNC => what == "sync",
        EventKey::CRASH => what.strip_prefix("crash ") == Some(argument.to_string().as_str()),
        EventKey::TIME_OUT => what == "time out",
        EventKey::REFUSED => what.strip_prefix("refused ") == Some(argument.to_string().as_str()),
        EventKey::HEARTBEAT => what == "heartbeat",
        EventKey::SILENCE => what == "silence",
        EventKey::PROPOSE => what == "propose",
        _ => {
            let wired = tables.message(argument);
            let kind = format!("{:?}", wired.message.body);
            let kind = kind.split([' ', '{', '(']).next().unwrap_or_default();
            what == format!("{kind} of {}", letter(wired.from))
        }
    }
}
