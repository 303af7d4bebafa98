//! Opens a copy of a replica's directory as the server does, and compares what it finds with what was there.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use smr::entry::{Entry, EntryId, HardState};
use smr::epoch::GroupKind;
use smr::id::Incarnation;
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::snapshot::{SnapshotDir, SnapshotError};
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, Identity, LogEngine, OpenError, OpenOutcome, ReplicaDirectory, Store,
    StoreOptions,
};

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose it is.
    pub identity: Identity,
    /// Whether it was initialized.
    pub bootstrap: BootstrapState,
    /// Term and vote.
    pub hard_state: HardState,
    /// Where the newest snapshot ends.
    pub snapshot: EntryId,
    /// The log after it.
    pub entries: Vec<Entry>,
}

/// What an attempt to open one gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It opened.
    Open(Box<Held>),
    /// It opened, and is silent until it has healed, for this reason; what was noted on the way stands before it.
    Heals(Box<Held>, String),
    /// The replica is in quarantine, for this reason; what was noted on the way stands before it.
    Quarantined(String),
    /// It was refused.
    Refused(String),
}

/// What became of a damaged copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has everything.
    Whole,
    /// It does not start, and says why.
    Refused,
    /// It runs, neither votes nor acknowledges, and says why; it heals by itself.
    Heals,
    /// It runs, neither votes nor acknowledges, and says why; an operator has to readmit it.
    Quarantined,
    /// It forgot something without a word, or the words are of no use.
    Wrong(String),
}

impl Verdict {
    /// One word for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Whole => "whole",
            Verdict::Refused => "refused",
            Verdict::Heals => "heals",
            Verdict::Quarantined => "quarantined",
            Verdict::Wrong(_) => "WRONG",
        }
    }
}

/// Opens the directory of `replica` at `path`, as a server does.
///
/// # Errors
/// If that cannot even be tried.
pub fn open(path: &Path, expected: &ExpectedIdentity) -> Result<Found, Box<dyn Error + Send + Sync>> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let directory = match ReplicaDirectory::open(Arc::clone(&disk), path, expected.clone()) {
        Ok(directory) => directory,
        Err(error) => return Ok(Found::Refused(error.to_string())),
    };
    let mut notes = Vec::new();
    let mut snapshot = Default::default();
    if directory.quarantined().is_none() {
        match SnapshotDir::open(disk, directory.snapshots(), expected.group.clone(), None) {
            Ok((opened, newest)) => {
                notes.extend(opened.notes().iter().cloned());
                snapshot = newest.map(|info| info.meta).unwrap_or_default();
            }
            Err(error @ (SnapshotError::Disk { .. } | SnapshotError::Version { .. })) => {
                return Ok(Found::Refused(error.to_string()));
            }
            Err(error) => return Err(format!("opening snapshots: {error}").into()),
        }
    }
    let end = snapshot.last;
    let options = StoreOptions {
        snapshot,
        kind: GroupKind::Raft,
        incarnation_if_new: Incarnation(0xdead),
        engine: engine_of(path),
        allow_unsynced: true,
        now_unix_s: 1,
        start_nonce: 1,
    };
    match Store::open(directory, &options) {
        Ok(OpenOutcome::Store(opened)) => {
            let held = Box::new(Held {
                identity: opened.identity,
                bootstrap: opened.bootstrap,
                hard_state: opened.stored.hard_state(),
                snapshot: end,
                entries: opened.entries,
            });
            Ok(match opened.healing {
                None => Found::Open(held),
                Some(healing) => {
                    notes.push(healing.reason);
                    Found::Heals(held, notes.join("; "))
                }
            })
        }
        Ok(OpenOutcome::Quarantined(quarantined)) => {
            notes.push(quarantined.reason.clone());
            Ok(Found::Quarantined(notes.join("; ")))
        }
        Err(error @ OpenError::Locked { .. }) => Err(error.into()),
        Err(error) => Ok(Found::Refused(error.to_string())),
    }
}

/// Which engine has written the log of the directory at `path`.
fn engine_of(path: &Path) -> LogEngine {
    let is_segment = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|ending| ending == "segment"))
    };
    let has_segments = std::fs::read_dir(path.join("log")).is_ok_and(|mut entries| entries.any(is_segment));
    if has_segments { LogEngine::Segments } else { LogEngine::Sled }
}

/// Panics while copies are opened. sled panics at some damage, and on its callers' threads these are caught; on a
/// thread of its own one would end a server.
#[derive(Debug, Default)]
pub struct Panics {
    seen: Arc<Mutex<Vec<(ThreadId, String)>>>,
}

impl Panics {
    /// Takes note of all panics of this process from now on, in the place of printing them.
    pub fn watch() -> Panics {
        let panics = Panics::default();
        let seen = Arc::clone(&panics.seen);
        std::panic::set_hook(Box::new(move |info| {
            let line = info.to_string().replace('\n', " ");
            seen.lock().push((thread::current().id(), line));
        }));
        panics
    }

    /// The first panic on another thread than this one since the last call.
    pub fn take_of_other_threads(&self) -> Option<String> {
        let seen = std::mem::take(&mut *self.seen.lock());
        seen.into_iter().find(|(thread, _)| *thread != thread::current().id()).map(|(_, line)| line)
    }
}

/// Judges what was found after `file` (relative to the directory at `path`) had been damaged.
pub fn judge(path: &Path, file: &Path, before: &Found, after: &Found) -> Verdict {
    let named = named(path, file).display().to_string();
    let names_it = |text: &str| text.contains(&named);
    match (before, after) {
        (_, Found::Refused(text)) if names_it(text) => Verdict::Refused,
        (_, Found::Quarantined(text)) if names_it(text) => Verdict::Quarantined,
        // It was in quarantine before, for a reason of its own.
        (Found::Quarantined(old), Found::Quarantined(new)) if old == new => Verdict::Quarantined,
        (_, Found::Refused(text)) => Verdict::Wrong(format!("refused without the file's name: {text}")),
        (_, Found::Quarantined(text)) => Verdict::Wrong(format!("quarantined without the file's name: {text}")),
        (Found::Open(before), Found::Open(after)) => match missing(before, after) {
            None => Verdict::Whole,
            Some(what) => Verdict::Wrong(what),
        },
        (Found::Open(before), Found::Heals(after, text)) if names_it(text) => match forgotten(before, after) {
            None => Verdict::Heals,
            Some(what) => Verdict::Wrong(what),
        },
        (_, Found::Heals(_, text)) => Verdict::Wrong(format!("it heals, without the file's name: {text}")),
        (_, Found::Open(_)) => Verdict::Wrong("it opened, and did not before the damage".to_owned()),
    }
}

/// What a line about the damaged `file` has to name. sled does not say in which of its files it found something, and
/// no one knows the name of a snapshot that is not there.
pub fn named(root: &Path, file: &Path) -> PathBuf {
    match file.components().next() {
        Some(first) if first.as_os_str() == "log" || !root.join(file).exists() => root.join(first),
        _ => root.join(file),
    }
}

/// What one that heals has forgotten of its votes, or has in another place. Entries may be missing at the end.
fn forgotten(before: &Held, after: &Held) -> Option<String> {
    if (&before.identity, &before.bootstrap) != (&after.identity, &after.bootstrap) {
        return Some(format!("it is {:?} ({:?}) now", after.identity, after.bootstrap));
    }
    if before.hard_state != after.hard_state {
        return Some(format!("it saved {:?}, and remembers {:?}", before.hard_state, after.hard_state));
    }
    let known = |entry: &&Entry| before.entries.iter().any(|known| known == *entry);
    let unknown =
        after.entries.iter().filter(|entry| entry.id.index > before.snapshot.index).find(|entry| !known(entry));
    unknown.map(|entry| format!("entry {} is another", entry.id))
}

/// What is missing, or another.
fn missing(before: &Held, after: &Held) -> Option<String> {
    if let Some(what) = forgotten(before, after) {
        return Some(what);
    }
    let mut expected = after.snapshot.index.next();
    for entry in &after.entries {
        if entry.id.index != expected {
            return Some(format!("a hole: {} in the place of {expected}", entry.id));
        }
        expected = expected.next();
    }
    let last = |held: &Held| held.entries.last().map_or(held.snapshot, |entry| entry.id);
    if last(before) != last(after) {
        return Some(format!("it ended with {}, and ends with {}", last(before), last(after)));
    }
    let both = before.entries.iter().rev().zip(after.entries.iter().rev());
    both.filter(|(one, other)| one != other).map(|(one, _)| format!("entry {} is another", one.id)).next()
}
