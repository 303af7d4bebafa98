//! The store: what the replica's storage thread drives.
//!
//! One thread owns it and does, in the order of the core's writes: [`Store::save`], [`Store::apply`] for
//! each change, and one [`Store::sync`] for all that waits. What rests on a write may leave the node once `sync` has
//! returned; a hard state is durable when `save` returns.
//!
//! After the first error every call fails with it: what is on the device is then unknown, and only a new start reads it
//! (D6).

use std::path::Path;

use super::directory::{DirectoryIncarnation, ReplicaDirectory};
use super::hard_state::{BootstrapState, HardStateFile, HardStateRecord, Witness};
use super::open_error::OpenError;
use super::quarantine::{self, Quarantined};
use super::readmission;
use super::room::RoomWatch;
use super::watermark::{SyncedWatermark, WatermarkFile};
use super::{Identity, LogStore, StorageError};
use crate::entry::{Entry, EntryId, Genesis, Index, Payload, SnapshotMeta, Term};
use crate::epoch::{EpochConfiguration, GroupKind};
use crate::id::ClusterId;
use crate::protocol::{LogChange, StoredState};

/// A replica's durable state. Holds the directory's lock.
pub struct Store {
    log: Box<dyn LogStore>,
    hard_state: HardStateFile,
    /// There once the node is initialized.
    watermark: Option<WatermarkFile>,
    room: RoomWatch,
    failed: Option<StorageError>,
    // Last: the lock outlives what it protects.
    directory: ReplicaDirectory,
}

impl Store {
    pub(crate) fn new(
        directory: ReplicaDirectory,
        hard_state: HardStateFile,
        log: Box<dyn LogStore>,
        watermark: Option<WatermarkFile>,
    ) -> Store {
        Store { log, hard_state, watermark, room: RoomWatch::default(), failed: None, directory }
    }

    /// Who it belongs to.
    pub fn identity(&self) -> &Identity {
        &self.hard_state.record().identity
    }

    /// Whether the node counts.
    pub fn bootstrap(&self) -> &BootstrapState {
        &self.hard_state.record().bootstrap
    }

    /// What the node is bound by, as it is on the device.
    pub fn stored(&self) -> &StoredState {
        &self.hard_state.record().stored
    }

    /// The kind of its group.
    pub fn kind(&self) -> GroupKind {
        self.hard_state.record().kind
    }

    /// The entry that the log starts after.
    pub fn start(&self) -> EntryId {
        self.log.start()
    }

    /// The last entry of the log, synced or not.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The directory of its present incarnation.
    pub fn path(&self) -> &Path {
        &self.directory.root
    }

    /// Looks how much room there is: `Some` if the disk has become full (true), or is no longer.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn look_at_room(&mut self) -> Result<Option<bool>, StorageError> {
        self.attempt(|store| {
            let directory = &store.directory;
            let failed = |error| StorageError::new(&directory.root, "asking for room", error);
            store.room.look(directory.disk.as_ref(), &directory.root).map_err(failed)
        })
    }

    /// Lets the node begin to count, once and for ever. A founder's log gets the genesis as entry 1, and its term
    /// becomes 1; where a service decides on members, the genesis is the configuration of epoch 1, and entry 1 the
    /// no-op that begins it. When this returns, all of it is durable; after a crash before, the node is uninitialized.
    ///
    /// # Errors
    /// Fatal ones of the device.
    ///
    /// # Panics
    /// If the node is initialized already, or `bootstrap` does not contain it, or is that of another cluster or group:
    /// bugs all.
    pub fn initialize(&mut self, bootstrap: BootstrapState, cluster: ClusterId) -> Result<(), StorageError> {
        self.attempt(|store| store.try_initialize(bootstrap, cluster))
    }

    fn try_initialize(&mut self, bootstrap: BootstrapState, cluster: ClusterId) -> Result<(), StorageError> {
        let record = self.hard_state.record().clone();
        assert!(!record.bootstrap.is_initialized(), "{} is initialized twice", record.identity);
        let identity = Identity { cluster: Some(cluster), ..record.identity.clone() };
        let known = record.identity.cluster.unwrap_or(cluster);
        assert!(known == cluster, "{} is initialized into cluster {cluster}", record.identity);
        let mut stored = record.stored;

        self.log.adopt(identity.hash());
        let mut watermark = SyncedWatermark::default();
        match &bootstrap {
            BootstrapState::Uninitialized | BootstrapState::Excluded { .. } => {
                panic!("{identity}: no group to be initialized for")
            }
            BootstrapState::Initialized { founders: None, .. } => {}
            BootstrapState::Initialized { genesis, founders: Some(founders) } => {
                let fits = founders.hash() == *genesis
                    && founders.cluster_id() == cluster
                    && founders.group == identity.group
                    && founders.members.contains(&identity.node);
                assert!(fits, "{identity} is founded by {founders:?}, hash {genesis}");
                let entry = first_entry(record.kind, founders);
                stored = match stored {
                    StoredState::Raft(mut hard_state) => {
                        hard_state.term = hard_state.term.max(entry.id.term);
                        hard_state.into()
                    }
                    StoredState::Configured(_) => StoredState::Configured(first_epoch(record.kind, founders)),
                };
                self.log.append(&[entry])?;
                watermark = SyncedWatermark { last: self.log.last(), fingerprint: self.log.fingerprint_at(Index(1))? };
            }
        }
        self.log.flush()?;
        let disk = self.directory.disk.as_ref();
        self.watermark = Some(WatermarkFile::create(disk, &self.directory.root, identity.hash(), watermark, None)?);
        // Last: from here on it counts, and everything that it rests on is there.
        let record = HardStateRecord { identity, bootstrap, stored, kind: record.kind, start: record.start };
        self.hard_state.write(record)
    }

    /// The node has heard that its group exists without it. When this returns, no later start founds a group by itself.
    ///
    /// # Errors
    /// Fatal ones of the device.
    ///
    /// # Panics
    /// If the node is initialized: a bug.
    pub fn exclude(&mut self, witness: Witness) -> Result<(), StorageError> {
        self.attempt(|store| {
            let record = store.hard_state.record();
            assert!(!record.bootstrap.is_initialized(), "{} is excluded after its bootstrap", record.identity);
            if record.bootstrap != BootstrapState::Uninitialized {
                return Ok(()); // the first one who said so is enough
            }
            let record = HardStateRecord { bootstrap: BootstrapState::Excluded { witness }, ..record.clone() };
            store.hard_state.write(record)
        })
    }

    /// Makes a hard state durable. When this returns, anything may rest on it.
    ///
    /// # Errors
    /// Fatal ones of the device.
    ///
    /// # Panics
    /// If the node is uninitialized or of another kind, if the term falls, if a vote of the same term changes (I2, I3),
    /// or if an epoch falls, or gets another configuration: bugs all.
    pub fn save(&mut self, stored: &StoredState) -> Result<(), StorageError> {
        let record = self.hard_state.record();
        let old = &record.stored;
        assert!(record.bootstrap.is_initialized(), "{} saves {stored:?} before its bootstrap", record.identity);
        assert!(keeps(old, stored), "{}: hard state {stored:?} after {old:?}", record.identity);
        if stored == old {
            return self.attempt(|_| Ok(()));
        }
        let record = HardStateRecord { stored: stored.clone(), ..record.clone() };
        self.attempt(|store| store.hard_state.write(record))
    }

    /// Makes a change of the log. Durable after the next [`Store::sync`].
    ///
    /// # Errors
    /// Fatal ones of the device.
    ///
    /// # Panics
    /// If the node is uninitialized, or the change does not fit the log: bugs.
    pub fn apply(&mut self, change: &LogChange) -> Result<(), StorageError> {
        self.attempt(|store| {
            let Some(watermark) = &mut store.watermark else {
                panic!("{} changes its log before its bootstrap", store.hard_state.record().identity)
            };
            match change {
                LogChange::Append(entries) => store.log.append(entries),
                LogChange::RemoveFrom(index) => remove_from(store.log.as_mut(), watermark, *index),
                LogChange::RemoveThrough(index) => {
                    // A durable snapshot covers them, and so a watermark among them.
                    store.log.remove_through(*index);
                    Ok(())
                }
                LogChange::Install(meta) => install(store.log.as_mut(), watermark, meta),
            }
        })
    }

    /// Makes all changes durable, and lets the watermark follow: [`Store::flush`], then [`Store::follow`].
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        self.follow()
    }

    /// Makes all changes durable, with one flush.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.attempt(|store| {
            store.log.compact_slice()?;
            store.log.flush()
        })
    }

    /// Lets the watermark follow the log that was flushed, and the log prepare for what comes. No one need wait for
    /// this: a watermark that is too low proves less, but nothing wrong.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn follow(&mut self) -> Result<(), StorageError> {
        self.attempt(|store| {
            store.log.tidy()?;
            let Some(watermark) = &mut store.watermark else { return Ok(()) };
            let last = store.log.last();
            if last == watermark.watermark().last {
                return Ok(());
            }
            // Under a snapshot there is nothing to compare with, and no need to.
            let fingerprint = if last == store.log.start() { 0 } else { store.log.fingerprint_at(last.index)? };
            watermark.follow(SyncedWatermark { last, fingerprint })
        })
    }

    /// Does a bounded part of the removals that wait, for moments without other work; returns whether some are left.
    /// They become durable with the next flush.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn compact_slice(&mut self) -> Result<bool, StorageError> {
        self.attempt(|store| store.log.compact_slice())
    }

    /// The log lacks nothing any more that the node may have acknowledged: from now on a start believes it.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn end_healing(&mut self) -> Result<(), StorageError> {
        // Before the word is taken back the watermark names what the log has to have from now on.
        self.sync()?;
        self.attempt(|store| store.watermark.as_mut().map_or(Ok(()), WatermarkFile::end_healing))
    }

    /// Ends a quarantine: says durably that this store, the quarantined directory's next incarnation, was taken in by
    /// its group. It goes on where it is; the next start moves it up.
    ///
    /// # Errors
    /// Fatal ones of the device.
    ///
    /// # Panics
    /// If it is no next incarnation, or uninitialized.
    pub fn complete_readmission(&mut self) -> Result<(), StorageError> {
        self.attempt(|store| {
            let record = store.hard_state.record();
            assert!(record.bootstrap.is_initialized(), "{} is readmitted before its bootstrap", record.identity);
            match &store.directory.incarnation {
                DirectoryIncarnation::Next { of } => readmission::mark_ready(store.directory.disk.as_ref(), of),
                DirectoryIncarnation::Present => panic!("{} is readmitted without a quarantine", record.identity),
            }
        })
    }

    /// Puts the node into quarantine while it runs: it met its group and is not the member that the group knows (M6).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn into_quarantine(self, reason: &str, now_unix_s: u64) -> Result<Quarantined, OpenError> {
        let Store { log, directory, .. } = self;
        drop(log);
        quarantine::enter(directory, reason, now_unix_s)
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Store) -> Result<T, StorageError>) -> Result<T, StorageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = work(self);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}

/// Whether the new state takes nothing of the old one back.
fn keeps(old: &StoredState, new: &StoredState) -> bool {
    match (old, new) {
        (StoredState::Raft(old), StoredState::Raft(new)) => {
            let votes = new.term > old.term || new.term == old.term && (old.vote.is_none() || old.vote == new.vote);
            votes && new.lease_us >= old.lease_us
        }
        (StoredState::Configured(None), StoredState::Configured(_)) => true,
        (StoredState::Configured(Some(old)), StoredState::Configured(Some(new))) => {
            new.kind == old.kind && (new.epoch > old.epoch || new == old)
        }
        _ => false,
    }
}

/// What each founder's log begins with.
pub(crate) fn first_entry(kind: GroupKind, founders: &Genesis) -> Entry {
    let entry = founders.first_entry();
    match kind {
        GroupKind::Raft => entry,
        // Who the members are is not in the log of these kinds.
        GroupKind::Epochs(_) => Entry { payload: Payload::Noop, ..entry },
    }
}

/// The configuration that a group with epochs is founded with. No one orders anything in it: none of its members enters
/// it, they all begin there.
fn first_epoch(kind: GroupKind, founders: &Genesis) -> Option<EpochConfiguration> {
    let kind = kind.epochs()?;
    let members = founders.members.iter().copied().collect();
    Some(EpochConfiguration { epoch: Term(1), kind, members, incomplete: None })
}

/// Removes entries that contradict the leader's. The watermark goes down first: a crash in between must not look like
/// damage.
fn remove_from(log: &mut dyn LogStore, watermark: &mut WatermarkFile, index: Index) -> Result<(), StorageError> {
    if watermark.watermark().last.index >= index {
        let end = index.previous();
        let term = log.term_at(end).unwrap_or_else(|| panic!("no term at {end}, log from {}", log.start()));
        let fingerprint = if end == log.start().index { 0 } else { log.fingerprint_at(end)? };
        watermark.lower(SyncedWatermark { last: EntryId { index: end, term }, fingerprint })?;
    }
    log.remove_from(index)
}

/// Makes a stored snapshot the log's start (Raft §7).
fn install(log: &mut dyn LogStore, watermark: &mut WatermarkFile, meta: &SnapshotMeta) -> Result<(), StorageError> {
    let end = meta.last;
    assert!(end.index >= log.start().index, "a snapshot at {end} for a log from {}", log.start());
    if log.term_at(end.index) == Some(end.term) {
        log.remove_through(end.index);
        return Ok(());
    }
    reset(log, watermark, end)
}

/// Empties a log that contradicts, or ends before, the snapshot at `end`.
pub(crate) fn reset(log: &mut dyn LogStore, watermark: &mut WatermarkFile, end: EntryId) -> Result<(), StorageError> {
    let lowered = SyncedWatermark { last: end, fingerprint: 0 };
    if watermark.watermark().last.index > end.index {
        watermark.lower(lowered)?;
    }
    log.reset_to(end)
}

impl Store {
    /// The term of the log at an index from its start to its end.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }
}
