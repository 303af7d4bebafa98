//! Opening a claimed directory: hard state, watermark and log are read, compared, and believed only together.
//!
//! Nothing in `log/` is opened before the other files were found in order, for opening changes it. Whatever does not
//! fit, twice, leads to healing, or to quarantine ([`super`]); an error of the device does not, because the next start
//! may read what this one could not.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::directory::{DirectoryIncarnation, ReplicaDirectory};
use super::hard_state::{BootstrapState, FoundHardState, HARD_STATE, HardStateFile, HardStateRecord};
use super::healing::{Healing, Salvage};
use super::log_aside::set_log_aside;
use super::log_engine::LogEngine;
use super::names::{LOG, NEXT, SNAPSHOTS};
use super::open_error::{OpenError, Trouble};
use super::quarantine::{self, Quarantined};
use super::record_log::{self, RecordLog, Recovered};
use super::segments::{self, SegmentLog};
use super::slots::SLOT_VERSION;
use super::starts::{STARTS, SeenStarts};
use super::store::Store;
use super::watermark::{FoundWatermark, SyncedWatermark, WATERMARK, WatermarkFile};
use super::{ByteMap, Damage, Identity, LoadError, LogStore, StorageError, sled};
use crate::disk::sync_mode::SyncMode;
use crate::entry::{Entry, EntryId, HardState, Index, SnapshotMeta};
use crate::epoch::GroupKind;
use crate::id::{Incarnation, NodeId, StartTrail};
use crate::protocol::StoredState;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The newest valid snapshot in [`ReplicaDirectory::snapshots`] that is of [`ReplicaDirectory::genesis`], or the
    /// default for none: a log that does not fit it is emptied. Ignored for an uninitialized node.
    pub snapshot: SnapshotMeta,
    /// The kind of the group. A directory keeps the one that it was made for.
    pub kind: GroupKind,
    /// The incarnation of a directory that is made now. Random and never used before.
    pub incarnation_if_new: Incarnation,
    /// The engine. A directory keeps the one it was made with.
    pub engine: LogEngine,
    /// Open even where power loss is not covered. The status shows it.
    pub allow_unsynced: bool,
    /// The time, in seconds of Unix time, to be written down in case of quarantine.
    pub now_unix_s: u64,
    /// Tells this start from one on a copy of the directory. Random.
    pub start_nonce: u64,
}

/// What became of it.
pub enum OpenOutcome {
    /// It is sound, or heals: it can be used.
    Store(Box<OpenedStore>),
    /// In quarantine, now or since long.
    Quarantined(Box<Quarantined>),
}

/// An open store, and what it holds.
pub struct OpenedStore {
    /// Where hard state and log are written from now on.
    pub store: Store,
    /// Who it belongs to.
    pub identity: Identity,
    /// Whether the node counts.
    pub bootstrap: BootstrapState,
    /// What the node is bound by.
    pub stored: StoredState,
    /// This start, counted durably.
    pub start: StartTrail,
    /// The newest starts of others that were seen from here.
    pub seen_starts: Arc<SeenStarts>,
    /// The log after the snapshot.
    pub entries: Vec<Entry>,
    /// Whether the log lacks entries that the node may have acknowledged: then it has to be silent.
    pub healing: Option<Healing>,
    /// What keeps the log.
    pub engine: LogEngine,
    /// How writes reach the device.
    pub sync_mode: SyncMode,
    /// What was found and repaired, a line each.
    pub notes: Vec<String>,
}

impl OpenedStore {
    /// Term and vote, of a node of a Raft group.
    ///
    /// # Panics
    /// If the group is of another kind.
    pub fn hard_state(&self) -> HardState {
        self.stored.hard_state()
    }

    /// How writes reach the device, and through what, for an operator: for example `synced, log in sled`.
    pub fn durability(&self) -> String {
        format!("{}, log in {}", self.sync_mode, self.engine)
    }
}

impl Store {
    /// Opens a claimed directory.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is no error but [`OpenOutcome::Quarantined`].
    pub fn open(mut directory: ReplicaDirectory, options: &StoreOptions) -> Result<OpenOutcome, OpenError> {
        if let Some(note) = directory.note.clone() {
            return Ok(OpenOutcome::Quarantined(Box::new(Quarantined::of(directory, note)?)));
        }
        match read(&mut directory, options) {
            Ok(parts) => {
                let Parts { mut hard_state, log, watermark, entries, sync_mode } = parts;
                let healing = watermark.as_ref().and_then(|watermark| watermark.healing().cloned());
                // Before anyone hears of this start, and after the last thing that could end it as damage.
                let start = hard_state.begin_start(options.start_nonce)?;
                let seen_starts = Arc::new(SeenStarts::open(&directory.disk, &directory.root, &mut directory.notes)?);
                let record = hard_state.record().clone();
                let notes = std::mem::take(&mut directory.notes);
                let store = Store::new(directory, hard_state, log, watermark);
                Ok(OpenOutcome::Store(Box::new(OpenedStore {
                    store,
                    identity: record.identity,
                    bootstrap: record.bootstrap,
                    stored: record.stored,
                    start,
                    seen_starts,
                    entries,
                    healing,
                    engine: options.engine,
                    sync_mode,
                    notes,
                })))
            }
            Err(Trouble::Refuse(error)) => Err(error),
            Err(Trouble::Quarantine(damage)) => {
                let quarantined = quarantine::enter(directory, &damage.to_string(), options.now_unix_s)?;
                Ok(OpenOutcome::Quarantined(Box::new(quarantined)))
            }
        }
    }
}

struct Parts {
    hard_state: HardStateFile,
    log: Box<dyn LogStore>,
    watermark: Option<WatermarkFile>,
    entries: Vec<Entry>,
    sync_mode: SyncMode,
}

fn read(directory: &mut ReplicaDirectory, options: &StoreOptions) -> Result<Parts, Trouble> {
    let disk = directory.disk.as_ref();
    let root = &directory.root;
    let hard_state =
        HardStateFile::read(disk, root).map_err(|error| Trouble::io(&root.join(HARD_STATE), "reading", error))?;
    match hard_state {
        FoundHardState::Missing => {
            refuse_remains(directory)?;
            let node = NodeId { name: directory.expected.name, incarnation: options.incarnation_if_new };
            let identity = Identity { cluster: None, group: directory.expected.group.clone(), node };
            let record = HardStateRecord::begin(identity, options.kind);
            // From here on the directory is an uninitialized node's, and before it there is nothing in it.
            let hard_state = HardStateFile::create(disk, root, record)?;
            begin(directory, options, hard_state)
        }
        FoundHardState::Broken(damage) => Err(damage.into()),
        FoundHardState::Newer { file, found } => {
            Err(Trouble::Refuse(OpenError::Newer { file, found, supported: SLOT_VERSION }))
        }
        FoundHardState::Sound { file, .. } if file.record().kind != options.kind => {
            let record = file.record().clone();
            if record.bootstrap != BootstrapState::Uninitialized {
                let (directory, found, asked) = (root.clone(), record.kind, options.kind);
                return Err(Trouble::Refuse(OpenError::OtherKind { directory, found, asked }));
            }
            // It has voted for no one, and knows of no group.
            let record =
                HardStateRecord { start: record.start, ..HardStateRecord::begin(record.identity, options.kind) };
            let hard_state = HardStateFile::create(disk, root, record)?;
            begin(directory, options, hard_state)
        }
        FoundHardState::Sound { mut file, repair } => {
            if !file.record().bootstrap.is_initialized() {
                repair_hard_state(directory, &mut file, repair)?;
                begin(directory, options, *file)
            } else {
                resume(directory, options, *file, repair)
            }
        }
    }
}

/// Without a hard state there must be nothing that one was given for.
fn refuse_remains(directory: &ReplicaDirectory) -> Result<(), Trouble> {
    let (disk, root) = (directory.disk.as_ref(), &directory.root);
    let looking = |error| Trouble::io(root, "looking", error);
    for name in [LOG, WATERMARK, NEXT, STARTS] {
        if disk.exists(&root.join(name)).map_err(looking)? {
            return Err(Damage::new(&root.join(HARD_STATE), format!("missing, though there is a {name}")).into());
        }
    }
    // The directory of the snapshots is made by whoever looks for one.
    let snapshots = root.join(SNAPSHOTS);
    if disk.exists(&snapshots).map_err(looking)?
        && disk.list(&snapshots).map_err(looking)?.iter().any(|name| crate::snapshot::is_ours(name))
    {
        return Err(Damage::new(&root.join(HARD_STATE), "missing, though there are snapshots").into());
    }
    Ok(())
}

/// An uninitialized node: an empty log, no watermark yet.
fn begin(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
    hard_state: HardStateFile,
) -> Result<Parts, Trouble> {
    let identity = hard_state.record().identity.hash();
    let OpenedLog { recovered: Recovered { log, .. }, sync_mode } =
        open_log(directory, options, identity, EntryId::ZERO, None)?;
    sync_root(directory)?;
    Ok(Parts { hard_state, log, watermark: None, entries: Vec::new(), sync_mode })
}

/// An initialized node: everything must be there and fit; what does not, read twice, has to heal, or is quarantined.
fn resume(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
    hard_state: HardStateFile,
    hard_state_repair: Option<String>,
) -> Result<Parts, Trouble> {
    let identity = hard_state.record().identity.hash();
    let found = match look(directory, options, identity) {
        Err(Trouble::Quarantine(first)) if !first.is_foreign => match look_again(directory, options, identity) {
            Ok(found) => {
                directory.notes.push(format!("{first}; read again, it is sound"));
                found
            }
            // Where all members have what is committed, whoever has lost something comes back as another one.
            Err(Trouble::Quarantine(damage)) if !damage.is_foreign && options.kind == GroupKind::Raft => {
                heal(directory, options, identity, &damage)?
            }
            Err(trouble) => return Err(trouble),
        },
        found => found?,
    };
    let Found { mut watermark, watermark_repair, opened } = found;
    let OpenedLog { recovered: Recovered { mut log, entries, fits, .. }, sync_mode } = opened;

    // Everything is in order; only now anything is written.
    let mut hard_state = hard_state;
    repair_hard_state(directory, &mut hard_state, hard_state_repair)?;
    if let Some(repair) = watermark_repair {
        watermark.repair()?;
        directory.notes.push(repair);
    }
    if !fits {
        let snapshot = options.snapshot.last;
        directory
            .notes
            .push(format!("{}: does not fit the snapshot at {snapshot}, emptied", directory.root.join(LOG).display()));
        super::store::reset(log.as_mut(), &mut watermark, snapshot)?;
    }
    sync_root(directory)?;
    Ok(Parts { hard_state, log, watermark: Some(watermark), entries, sync_mode })
}

/// The watermark and the log of an initialized node, which fit together.
struct Found {
    watermark: WatermarkFile,
    watermark_repair: Option<String>,
    opened: OpenedLog,
}

fn look_again(directory: &mut ReplicaDirectory, options: &StoreOptions, identity: u64) -> Result<Found, Trouble> {
    [WATERMARK, LOG].iter().for_each(|name| directory.disk.forget_cached(&directory.root.join(name)));
    look(directory, options, identity)
}

fn look(directory: &mut ReplicaDirectory, options: &StoreOptions, identity: u64) -> Result<Found, Trouble> {
    let log = directory.root.join(LOG);
    let looking = |error| Trouble::io(&log, "looking", error);
    let is_there = present(directory, options.engine, &log).map_err(looking)?;
    if is_there.is_err() {
        // Perhaps nothing is missing, and it is merely not this engine's.
        let others = [LogEngine::Sled, LogEngine::Segments].into_iter().filter(|engine| *engine != options.engine);
        for found in others {
            if present(directory, found, &log).map_err(looking)?.is_ok() {
                let (directory, asked) = (directory.root.clone(), options.engine);
                return Err(Trouble::Refuse(OpenError::OtherEngine { directory, found, asked }));
            }
        }
    }
    let found = WatermarkFile::read(directory.disk.as_ref(), &directory.root, identity)
        .map_err(|error| Trouble::io(&directory.root.join(WATERMARK), "reading", error))?;
    let (watermark, watermark_repair) = match found {
        FoundWatermark::Sound { file, repair } => (file, repair),
        FoundWatermark::Broken(damage) => return Err(damage.into()),
        FoundWatermark::Newer { file, found } => {
            return Err(Trouble::Refuse(OpenError::Newer { file, found, supported: SLOT_VERSION }));
        }
    };
    is_there?;
    let opened = open_log(directory, options, identity, options.snapshot.last, Some(watermark.watermark()))?;
    Ok(Found { watermark, watermark_repair, opened })
}

/// Begins a log in the place of a damaged one, in the order that [`super::healing`] explains.
fn heal(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
    identity: u64,
    damage: &Damage,
) -> Result<Found, Trouble> {
    let snapshot = options.snapshot.last;
    let marked = match WatermarkFile::read(directory.disk.as_ref(), &directory.root, identity) {
        Ok(FoundWatermark::Sound { file, .. }) => {
            file.watermark().last.index.max(file.healing().map_or(Index::ZERO, |healing| healing.past))
        }
        // A watermark that cannot be read tells nothing.
        Ok(_) => Index::ZERO,
        Err(error) => return Err(Trouble::io(&directory.root.join(WATERMARK), "reading", error)),
    };
    let Salvage { entries, highest } = salvage(directory, options, identity, snapshot)?;
    let past = marked.max(highest.index).max(snapshot.index);
    let healing = Healing::new(past, damage, options.now_unix_s);
    let behind_snapshot = SyncedWatermark { last: snapshot, fingerprint: 0 };
    let disk = Arc::clone(&directory.disk);
    let mut watermark =
        WatermarkFile::create(disk.as_ref(), &directory.root, identity, behind_snapshot, Some(healing))?;
    let aside = set_log_aside(directory)?;

    let mut opened = open_log(directory, options, identity, EntryId::ZERO, None)?;
    let log = &mut opened.recovered.log;
    if snapshot != EntryId::ZERO {
        log.reset_to(snapshot)?;
    }
    log.append(&entries)?;
    log.flush()?;
    let last = log.last();
    if last != snapshot {
        watermark.lower(SyncedWatermark { last, fingerprint: log.fingerprint_at(last.index)? })?;
    }
    let aside = aside.map_or(String::new(), |name| format!(" (the damaged log lies in {name})"));
    directory.notes.push(format!(
        "{damage}; goes on from {last}, and is silent until it has what it may have acknowledged, past {past}{aside}"
    ));
    opened.recovered = Recovered { entries, fits: true, ..opened.recovered };
    Ok(Found { watermark, watermark_repair: None, opened })
}

/// Reads what can still be read of a damaged log.
fn salvage(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
    identity: u64,
    snapshot: EntryId,
) -> Result<Salvage, Trouble> {
    let log = directory.root.join(LOG);
    let is_there = present(directory, options.engine, &log).map_err(|error| Trouble::io(&log, "looking", error))?;
    if is_there.is_err() {
        return Ok(Salvage::default());
    }
    let salvaged = if options.engine == LogEngine::Segments {
        segments::salvage(directory.disk.as_ref(), &log, identity, snapshot).map_err(Trouble::from)
    } else {
        open_map(directory, options).and_then(|(map, _)| Ok(record_log::salvage(map.as_ref(), identity, snapshot)?))
    };
    match salvaged {
        Err(Trouble::Quarantine(_)) => Ok(Salvage::default()),
        salvaged => salvaged,
    }
}

/// Whether the file of sled's database is there and has content. Only looks.
pub(crate) fn sled_present(directory: &Path) -> io::Result<Result<(), Damage>> {
    let file = directory.join("db");
    match std::fs::metadata(&file) {
        Ok(found) if found.is_file() && found.len() > 0 => Ok(Ok(())),
        Ok(_) => Ok(Err(Damage::new(&file, "empty"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Damage::new(&file, "missing"))),
        Err(error) => Err(error),
    }
}

fn present(directory: &ReplicaDirectory, engine: LogEngine, log: &Path) -> io::Result<Result<(), Damage>> {
    let disk = directory.disk.as_ref();
    match engine {
        // Its files are the operating system's, and no simulated disk has them.
        LogEngine::Sled if disk.is_simulated() => Ok(Err(Damage::new(log, "sled cannot be here"))),
        LogEngine::Sled => sled_present(log),
        LogEngine::Segments => segments::present(disk, log),
        LogEngine::Map(map) => map.present(disk, log),
    }
}

/// A log that does not reach back to its snapshot may be whole, and the snapshot missing.
fn naming_snapshots(error: LoadError, snapshots: &Path) -> LoadError {
    match error {
        LoadError::Damage(damage) => {
            let what = format!("{} (its snapshots are in {})", damage.what, snapshots.display());
            LoadError::Damage(Damage { what, ..damage })
        }
        other => other,
    }
}

fn repair_hard_state(
    directory: &mut ReplicaDirectory,
    hard_state: &mut HardStateFile,
    repair: Option<String>,
) -> Result<(), Trouble> {
    if let Some(repair) = repair {
        hard_state.repair()?;
        // A slot that is behind is what a crash leaves; only the other case is worth a line, and both are harmless to
        // tell.
        directory.notes.push(repair);
    }
    Ok(())
}

fn sync_root(directory: &ReplicaDirectory) -> Result<(), Trouble> {
    directory.disk.sync_dir(&directory.root).map_err(|error| Trouble::io(&directory.root, "syncing", error))
}

struct OpenedLog {
    recovered: Recovered<Box<dyn LogStore>>,
    sync_mode: SyncMode,
}

/// Opens the log, and notes what was repaired.
fn open_log(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
    identity: u64,
    snapshot: EntryId,
    watermark: Option<SyncedWatermark>,
) -> Result<OpenedLog, Trouble> {
    let log = directory.root.join(LOG);
    let disk = Arc::clone(&directory.disk);
    let snapshots = directory.root.join(SNAPSHOTS);
    let named = |error| naming_snapshots(error, &snapshots);
    if options.engine == LogEngine::Segments {
        let found = SegmentLog::recover(Arc::clone(&disk), &log, identity, snapshot, watermark).map_err(named)?;
        let in_memory = disk.is_in_memory(&log).map_err(|error| Trouble::io(&log, "asking for the disk", error))?;
        let sync_mode = if in_memory { SyncMode::Tmpfs } else { SyncMode::Synced };
        return Ok(OpenedLog { recovered: boxed(directory, found), sync_mode });
    }
    let (map, sync_mode) = open_map(directory, options)?;
    let found = RecordLog::recover(map, identity, snapshot, watermark).map_err(named)?;
    Ok(OpenedLog { recovered: boxed(directory, found), sync_mode })
}

/// The map that a record log is kept in.
fn open_map(directory: &mut ReplicaDirectory, options: &StoreOptions) -> Result<(Box<dyn ByteMap>, SyncMode), Trouble> {
    let log = directory.root.join(LOG);
    let disk = Arc::clone(&directory.disk);
    Ok(match options.engine {
        LogEngine::Segments => panic!("segments are no map"),
        LogEngine::Sled => {
            let opened = sled::open(&log, options.allow_unsynced)?;
            directory.notes.extend(opened.notes);
            (opened.map, opened.sync_mode)
        }
        LogEngine::Map(map) => (map.open(disk, &log)?, SyncMode::Synced),
    })
}

/// An empty log in a directory that has nothing but snapshots.
pub(crate) fn begin_log(
    directory: &mut ReplicaDirectory,
    options: &StoreOptions,
) -> Result<Box<dyn LogStore>, OpenError> {
    match open_log(directory, options, 0, EntryId::ZERO, None) {
        Ok(opened) => Ok(opened.recovered.log),
        Err(Trouble::Refuse(error)) => Err(error),
        Err(Trouble::Quarantine(damage)) => Err(StorageError::new(&damage.file, "beginning a log", damage.what).into()),
    }
}

fn boxed<L: LogStore + 'static>(directory: &mut ReplicaDirectory, found: Recovered<L>) -> Recovered<Box<dyn LogStore>> {
    let Recovered { log, entries, fits, notes } = found;
    directory.notes.extend(notes);
    Recovered { log: Box::new(log), entries, fits, notes: Vec::new() }
}

impl ReplicaDirectory {
    /// Whether this is the incarnation after a quarantine.
    pub fn is_next_incarnation(&self) -> bool {
        matches!(self.incarnation, DirectoryIncarnation::Next { .. })
    }
}
