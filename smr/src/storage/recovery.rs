//! Recovery: what can still be read of a replica's directory that no one uses, and a new directory made of it.
//!
//! # Reading
//! Nothing in the old directory is changed. It may hold several *incarnations*: itself, `next/`, and what was put aside
//! (`damaged-*`). The group is that of the first incarnation with a sound hard state; of another group nothing is
//! taken. Every snapshot and every log is tried with every other one, and the pair counts that ends with the highest
//! entry, by term first: a log whose last entry is of a term holds all that was committed in earlier terms. Entries
//! after it may never have been committed; they are kept, because they may have been.
//!
//! # Writing
//! The new directory is a founder's of a group of one, with a snapshot that covers everything. The hard state comes
//! last: without it no process takes the directory for one of a replica. Until it has been started with the operator's
//! word that this group replaces the old one, the file `recovered` says which one that is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::directory::{self, ReplicaDirectory};
use super::disk::{Disk, DiskLock};
use super::hard_state::{BootstrapState, FoundHardState, HARD_STATE, HardStateFile, HardStateRecord};
use super::healing::Salvage;
use super::log_aside::DAMAGED_LOG;
use super::names::{LOCK, LOG, NEXT, SNAPSHOTS};
use super::open::{begin_log, sled_present};
use super::open_error::{OpenError, Trouble};
use super::quarantine_note;
use super::slots::{self, Found, Slots};
use super::watermark::{SyncedWatermark, WATERMARK, WatermarkFile};
use super::{ByteMap, Identity, LoadError, LogEngine, StorageError, StoreOptions, record_log, segments, sled};
use crate::codec;
use crate::entry::{Entry, EntryId, Genesis, GenesisHash, HardState, Index, Term};
use crate::epoch::GroupKind;
use crate::id::{GroupName, ReplicaId};
use crate::snapshot::{self, Salvaged, SnapshotError};

/// The file that says which group a recovered one follows.
const RECOVERED: &str = "recovered";
const MAGIC: [u8; 8] = *b"SMRRECOV";
/// What every name begins with that something damaged was put aside under.
const DAMAGED: &str = "damaged-";

/// What was found of a replica.
#[derive(Default)]
pub(crate) struct Remains {
    /// Who it was, if that is readable.
    pub(crate) identity: Option<Identity>,
    /// Which replica of which group it was, as any incarnation here says, also one that has not begun.
    pub(crate) replica: Option<(GroupName, ReplicaId)>,
    /// The genesis of its group, if that is readable.
    pub(crate) genesis: Option<GenesisHash>,
    /// The highest term that is named anywhere.
    pub(crate) term: Term,
    /// The longest lease that it granted, in microseconds.
    pub(crate) lease_us: u64,
    /// The newest sound snapshot that counts.
    pub(crate) snapshot: Option<Salvaged>,
    /// The entries behind it, without a hole.
    pub(crate) entries: Vec<Entry>,
    /// How far its log had got at least.
    pub(crate) reached: Index,
    /// What its log was kept in.
    pub(crate) engine: Option<LogEngine>,
    /// What could not be read, a line each.
    pub(crate) notes: Vec<String>,
}

impl Remains {
    /// The last entry that there is.
    pub(crate) fn end(&self) -> EntryId {
        let snapshot = self.snapshot.as_ref().map_or(EntryId::ZERO, |snapshot| snapshot.info.meta.last);
        self.entries.last().map_or(snapshot, |entry| entry.id)
    }
}

/// Takes the locks of a directory without making anything in it.
pub(crate) fn claim(disk: &dyn Disk, from: &Path) -> Result<DiskLock, OpenError> {
    let looking = |error| StorageError::new(from, "looking", error);
    directory::lock_what_is_there(disk, from, disk.exists(&from.join(LOCK)).map_err(looking)?)
}

/// Reads all that verifies in a claimed directory. Maps are opened in copies, in `scratch`, because opening changes
/// them.
pub(crate) fn look(disk: &Arc<dyn Disk>, from: &Path, scratch: &Path) -> Result<Remains, LoadError> {
    let looking = |error: io::Error| StorageError::new(from, "looking", error);
    let mut remains = Remains::default();
    let (mut incarnations, mut logs) = (vec![from.join(NEXT), from.to_owned()], Vec::new());
    let mut names = disk.list(from).map_err(looking)?;
    names.sort();
    for name in names {
        if name.starts_with(DAMAGED_LOG) {
            logs.push(from.join(name));
        } else if name.starts_with(DAMAGED) {
            incarnations.push(from.join(name));
        }
    }
    if let Some(note) = quarantine_note::read(disk.as_ref(), from)? {
        remains.notes.push(format!("{}: was in quarantine: {}", from.display(), note.reason));
    }
    let mut hard_states = BTreeMap::new();
    for incarnation in &incarnations {
        let reading = |error| StorageError::new(&incarnation.join(HARD_STATE), "reading", error);
        match HardStateFile::read(disk.as_ref(), incarnation).map_err(reading)? {
            FoundHardState::Sound { file, .. } if file.record().kind != GroupKind::Raft => {
                let why = format!("of a group of kind {}: only those of kind raft are recovered", file.record().kind);
                return Err(StorageError::new(&incarnation.join(HARD_STATE), "recovering", why).into());
            }
            FoundHardState::Sound { file, .. } => {
                hard_states.insert(incarnation, file.record().clone());
            }
            FoundHardState::Broken(damage) => remains.notes.push(damage.to_string()),
            FoundHardState::Missing if incarnation == from => {
                remains.notes.push(format!("{}: missing", from.join(HARD_STATE).display()));
            }
            FoundHardState::Missing => {}
            FoundHardState::Newer { file, found } => {
                return Err(LoadError::Newer { file, found, supported: slots::SLOT_VERSION });
            }
        }
    }
    let initialized = incarnations.iter().filter_map(|incarnation| hard_states.get(incarnation)).find_map(|record| {
        match &record.bootstrap {
            BootstrapState::Initialized { genesis, .. } => Some((record.identity.clone(), *genesis)),
            BootstrapState::Uninitialized | BootstrapState::Excluded { .. } => None,
        }
    });
    (remains.identity, remains.genesis) = initialized.unzip();
    let known = remains.identity.as_ref().or(hard_states.values().next().map(|record| &record.identity));
    remains.replica = known.map(|identity| (identity.group.clone(), identity.node.name));

    // Of each incarnation, unless it is known to be of another group, or not to have begun.
    let mut strangers = BTreeSet::new();
    let mut sound = Vec::new();
    for incarnation in &incarnations {
        if let Some(record) = hard_states.get(incarnation) {
            let genesis = match &record.bootstrap {
                BootstrapState::Initialized { genesis, .. } => Some(*genesis),
                BootstrapState::Uninitialized | BootstrapState::Excluded { .. } => None,
            };
            if genesis.is_none() || genesis != remains.genesis {
                strangers.insert(record.identity.hash());
                continue;
            }
            let hard_state = record.stored.hard_state();
            remains.term = remains.term.max(hard_state.term);
            remains.lease_us = remains.lease_us.max(hard_state.lease_us);
        }
        let reading = |error| StorageError::new(&incarnation.join(WATERMARK), "reading", error);
        let reach = WatermarkFile::reach(disk.as_ref(), incarnation).map_err(reading)?;
        remains.reached = remains.reached.max(reach.unwrap_or(Index::ZERO));
        let (found, notes) = snapshot::salvage(disk.as_ref(), &incarnation.join(SNAPSHOTS)).map_err(of_snapshots)?;
        sound.extend(found);
        remains.notes.extend(notes);
        logs.push(incarnation.join(LOG));
    }
    sound.sort_by_key(|found| (found.info.meta.last.term, found.info.meta.last.index));
    if remains.genesis.is_none() {
        remains.genesis = sound.last().map(|newest| newest.info.genesis);
    }
    sound.retain(|found| Some(found.info.genesis) == remains.genesis);
    remains.reached = remains.reached.max(sound.last().map_or(Index::ZERO, |found| found.info.meta.last.index));
    remains.snapshot = sound.last().cloned();
    for (number, log) in logs.iter().enumerate() {
        read_log(disk, log, &scratch.join(number.to_string()), &strangers, &sound, &mut remains)?;
    }
    remains.term = remains.term.max(remains.end().term);
    Ok(remains)
}

fn of_snapshots(error: SnapshotError) -> LoadError {
    match error {
        SnapshotError::Version { path, found } => {
            let found = u16::try_from(found).unwrap_or(u16::MAX);
            LoadError::Newer { file: path, found, supported: snapshot::SNAPSHOT_VERSION as u16 } // a small constant
        }
        SnapshotError::Disk { path, source } => StorageError::new(&path, "reading", source).into(),
        other => StorageError::new(Path::new(SNAPSHOTS), "reading", other).into(),
    }
}

/// Tries one log after each snapshot, and after none, and keeps what is better than what there is.
fn read_log(
    disk: &Arc<dyn Disk>,
    log: &Path,
    scratch: &Path,
    strangers: &BTreeSet<u64>,
    sound: &[Salvaged],
    remains: &mut Remains,
) -> Result<(), LoadError> {
    let looking = |error: io::Error| StorageError::new(log, "looking", error);
    if !disk.exists(log).map_err(looking)? {
        return Ok(());
    }
    let damaged = |remains: &mut Remains, why: &dyn std::fmt::Display| remains.notes.push(why.to_string());
    let map: Option<Box<dyn ByteMap>> = if !disk.is_simulated() && sled_present(log).map_err(looking)?.is_ok() {
        copy(log, scratch).map_err(|error| StorageError::new(scratch, "copying the log", error))?;
        match sled::open(scratch, true) {
            Ok(opened) => Some(opened.map),
            Err(Trouble::Quarantine(damage)) => {
                damaged(remains, &format!("{}: {}", log.display(), damage.what));
                return Ok(());
            }
            Err(Trouble::Refuse(OpenError::Io(error))) => return Err(error.into()),
            Err(Trouble::Refuse(error)) => return Err(StorageError::new(log, "opening", error).into()),
        }
    } else if segments::present(disk.as_ref(), log).map_err(looking)?.is_ok() {
        None
    } else {
        damaged(remains, &format!("{}: nothing of a log is there", log.display()));
        return Ok(());
    };
    let engine = if map.is_some() { LogEngine::Sled } else { LogEngine::Segments };
    remains.engine.get_or_insert(engine);
    let owners = match &map {
        Some(map) => record_log::owners(map.as_ref()),
        None => segments::owners(disk.as_ref(), log),
    };
    let owners = match owners {
        Err(LoadError::Damage(damage)) => {
            damaged(remains, &format!("{}: {}", log.display(), damage.what));
            return Ok(());
        }
        owners => owners?,
    };
    let starts = sound.iter().map(Some).chain([None]);
    let tries = owners.difference(strangers).flat_map(|owner| starts.clone().map(move |start| (*owner, start)));
    for (owner, start) in tries {
        let from = start.map_or(EntryId::ZERO, |start| start.info.meta.last);
        let found = match &map {
            Some(map) => record_log::salvage(map.as_ref(), owner, from),
            None => segments::salvage(disk.as_ref(), log, owner, from),
        };
        let Salvage { entries, highest } = match found {
            Err(LoadError::Damage(damage)) => {
                damaged(remains, &format!("{}: {}", log.display(), damage.what));
                continue;
            }
            found => found?,
        };
        remains.reached = remains.reached.max(highest.index);
        remains.term = remains.term.max(highest.term);
        let Some(end) = entries.last().map(|entry| entry.id) else { continue };
        let present = remains.end();
        if (end.term, end.index) > (present.term, present.index) {
            (remains.snapshot, remains.entries) = (start.cloned(), entries);
        }
    }
    Ok(())
}

/// Copies a map's files, which are the operating system's.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Which group a recovered one follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The recovered group, of one.
    pub genesis: Genesis,
    /// The one that it was.
    pub instead_of: GenesisHash,
}

impl Succession {
    /// Reads it; `None` if the directory was not recovered, or this is settled.
    pub(crate) fn read(disk: &dyn Disk, root: &Path) -> Result<Option<Succession>, StorageError> {
        let path = root.join(RECOVERED);
        let failed = |error: &dyn std::fmt::Display| StorageError::new(&path, "reading", error.to_string());
        match slots::read(disk, &path, MAGIC).map_err(|error| failed(&error))? {
            Found::Missing => Ok(None),
            Found::Sound { content, .. } => codec::decode(&content).map(Some).map_err(|error| failed(&error)),
            Found::Broken(damage) => Err(failed(&damage.what)),
            Found::Newer { found } => Err(failed(&format!("format version {found} is newer than this build's"))),
        }
    }

    /// The old group is replaced, wherever that is recorded.
    pub(crate) fn settle(disk: &dyn Disk, root: &Path) -> Result<(), StorageError> {
        let path = root.join(RECOVERED);
        let failed = |error| StorageError::new(&path, "removing", error);
        disk.remove_file(&path).map_err(failed)?;
        disk.sync_dir(root).map_err(failed)
    }
}

/// What a recovered directory is to say.
pub(crate) struct NewIncarnation {
    pub(crate) identity: Identity,
    pub(crate) succession: Succession,
    pub(crate) term: Term,
    pub(crate) lease_us: u64,
    /// The last entry under its snapshot, which is there.
    pub(crate) last: EntryId,
}

/// Makes everything but the snapshot, in a claimed directory.
pub(crate) fn write(
    mut directory: ReplicaDirectory,
    options: &StoreOptions,
    incarnation: NewIncarnation,
) -> Result<(), OpenError> {
    let NewIncarnation { identity, succession, term, lease_us, last } = incarnation;
    let mut log = begin_log(&mut directory, options)?;
    log.adopt(identity.hash());
    log.reset_to(last)?;
    log.flush()?;
    drop(log);
    let (disk, root): (_, PathBuf) = (Arc::clone(&directory.disk), directory.root.clone());
    let watermark = SyncedWatermark { last, fingerprint: 0 };
    WatermarkFile::create(disk.as_ref(), &root, identity.hash(), watermark, None)?;
    Slots::create(disk.as_ref(), &root.join(RECOVERED), MAGIC, &codec::encode(&succession))?;
    let genesis = succession.genesis;
    let bootstrap = BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis) };
    let stored = HardState { term, vote: None, lease_us }.into();
    let record = HardStateRecord { bootstrap, stored, ..HardStateRecord::begin(identity, GroupKind::Raft) };
    HardStateFile::create(disk.as_ref(), &root, record)?;
    Ok(())
}
