//! How a process starts, from what its disk holds, and how its waiting for the group ends.

use std::path::Path;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use smr::entry::EntryId;
use smr::epoch::GroupKind;
use smr::id::Incarnation;
use smr::internals::bootstrap::{Bootstrap, Claim, Newcomer, Verdict};
use smr::internals::disk::Disk;
use smr::internals::protocol::{Recovered, Time};
use smr::internals::snapshot::SnapshotDir;
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, LogEngine, OpenError, OpenOutcome, ReplicaDirectory, Store, StoreOptions,
    peek_watermark,
};
use smr::state_machine::StateMachine;

use super::serving::serve;
use super::shape::{CLUSTER, Common, group};
use super::{DIRECTORY, ProcessState, SimNode, Waiting};
use crate::virtual_disk::Loss;

/// What is wrong with a start that is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTrouble {
    /// The power goes at this operation of the disk, counted from the start (D14).
    PowerOff(u64),
    /// This read fails (D8).
    ReadError(u64),
    /// In this read this bit comes back flipped.
    FlippedBit(u64, usize),
}

/// What became of a start.
pub(crate) enum Start {
    /// The process runs.
    Runs {
        /// What was found and repaired.
        notes: Vec<String>,
        /// Why the previous incarnation of the directory ended, if that was found now.
        quarantined: Option<String>,
    },
    /// Its device failed: the process has ended.
    Failed(String),
}

impl<S: StateMachine> SimNode<S> {
    /// What the watermark on its disk names. `None` where a quarantined incarnation is still in the directory: the
    /// watermark may be of that one.
    pub(crate) fn read_watermark(&self) -> Option<EntryId> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.after_crash(Loss::Nothing));
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let directory = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected).ok()?;
        if directory.is_next_incarnation() || directory.quarantined().is_some() {
            return None;
        }
        peek_watermark(disk.as_ref(), Path::new(DIRECTORY))
    }

    /// Starts the process from what the disk holds.
    pub(crate) fn start(&mut self, world: &Common<S>, now: Time, rng: ChaCha8Rng) -> Start {
        assert!(self.is_down(), "{} is started twice", self.id);
        match self.try_start(world, now, rng) {
            Ok(start) => start,
            Err(why) => {
                self.process = ProcessState::Down;
                Start::Failed(why)
            }
        }
    }

    fn try_start(&mut self, world: &Common<S>, now: Time, rng: ChaCha8Rng) -> Result<Start, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let failed = |error: OpenError| error.to_string();
        let mut directory = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected).map_err(failed)?;
        let mut incarnation = self.id.incarnation;
        let mut next_incarnation = directory.is_next_incarnation();
        let mut reason = None;
        loop {
            let known = directory.quarantined().is_some();
            let nonce = rng.clone().next_u64();
            let (opened, snapshots) =
                open_incarnation(&disk, directory, GroupKind::Raft, incarnation, nonce, world.shape.engine)?;
            match (opened, snapshots) {
                (OpenOutcome::Store(opened), Some(snapshots)) => {
                    let mut notes = opened.notes.clone();
                    notes.extend(snapshots.notes().iter().cloned());
                    self.id = opened.identity.node;
                    self.engine = world.shape.engine;
                    (self.start, self.seen_starts) = (opened.start, Some(opened.seen_starts.clone()));
                    self.process = if !opened.bootstrap.is_initialized() {
                        // Who joins later founds nothing.
                        let joins = !world.replicas.contains(&self.id.name);
                        let is_excluded =
                            next_incarnation || opened.bootstrap != BootstrapState::Uninitialized || joins;
                        let bootstrap = Bootstrap::new(Newcomer {
                            node: self.id,
                            cluster: Some(CLUSTER),
                            group: group(),
                            replicas: world.replicas.iter().copied().chain([self.id.name]).collect(),
                            claim: Claim { is_excluded, found_anew: self.found_anew && !next_incarnation },
                            is_recorded: world.is_recorded,
                        });
                        ProcessState::Waiting(Box::new(Waiting {
                            bootstrap,
                            call_at: now,
                            opened: *opened,
                            snapshots,
                            next_incarnation,
                        }))
                    } else {
                        ProcessState::Serving(Box::new(serve(
                            world,
                            *opened,
                            snapshots,
                            next_incarnation,
                            (self.clock.at(now), &self.requested_changes),
                            rng,
                        )?))
                    };
                    return Ok(Start::Runs { notes, quarantined: reason });
                }
                (OpenOutcome::Quarantined(quarantined), _) => {
                    next_incarnation = true;
                    // In service it is drawn at random, and never comes twice.
                    self.latest_incarnation = self.latest_incarnation.max(incarnation.0) + 1;
                    incarnation = Incarnation(self.latest_incarnation);
                    if known {
                        // What an experiment did to the previous incarnation does not matter any more.
                        (self.is_damaged, self.is_healing, self.is_set_back) = (false, false, false);
                    } else {
                        reason.get_or_insert(quarantined.reason.clone());
                    }
                    directory = quarantined.into_next_incarnation().map_err(failed)?;
                }
                (OpenOutcome::Store(_), None) => return Err("a directory was opened without its snapshots".to_owned()),
            }
        }
    }

    /// What a start would find if the power went now, and took everything that is not synced.
    pub(crate) fn found_after_power_cut(&self) -> Result<Recovered, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.after_crash(Loss::Everything));
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let failed = |error: OpenError| error.to_string();
        let mut directory = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected).map_err(failed)?;
        loop {
            match open_incarnation(&disk, directory, GroupKind::Raft, self.id.incarnation, 0, self.engine)? {
                (OpenOutcome::Store(opened), Some(snapshots)) if opened.identity.node == self.id => {
                    let snapshot = snapshots.latest().map(|info| info.meta).unwrap_or_default();
                    let heals_past = opened.healing.map(|healing| healing.past);
                    let (hard_state, entries) = (opened.stored.hard_state(), opened.entries);
                    return Ok(Recovered { stored: hard_state.into(), snapshot, entries, heals_past });
                }
                (OpenOutcome::Store(opened), _) => return Err(format!("it would be {}", opened.identity.node)),
                (OpenOutcome::Quarantined(quarantined), _) => {
                    if quarantined.identity.as_ref().is_some_and(|identity| identity.node == self.id) {
                        return Err(format!("quarantine: {}", quarantined.reason));
                    }
                    directory = quarantined.into_next_incarnation().map_err(failed)?;
                }
            }
        }
    }

    /// What waits for the group has a verdict.
    pub(crate) fn conclude(
        &mut self,
        world: &Common<S>,
        verdict: Verdict,
        now: Time,
        rng: ChaCha8Rng,
    ) -> Option<Start> {
        let (bootstrap, cluster) = match verdict {
            Verdict::Wait | Verdict::Stranger(_) | Verdict::Ask(_) => return None,
            Verdict::Excluded(witness) => {
                let ProcessState::Waiting(waiting) = &mut self.process else {
                    panic!("{} is excluded in service", self.id)
                };
                return waiting.opened.store.exclude(witness).err().map(|error| {
                    self.process = ProcessState::Down;
                    Start::Failed(error.to_string())
                });
            }
            Verdict::Founder(genesis) => {
                let cluster = genesis.cluster_id();
                (BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis) }, cluster)
            }
            Verdict::TakenIn { genesis, .. } => (BootstrapState::Initialized { genesis, founders: None }, CLUSTER),
        };
        let ProcessState::Waiting(waiting) = std::mem::replace(&mut self.process, ProcessState::Down) else {
            panic!("{} is initialized without waiting for it", self.id);
        };
        let Waiting { mut opened, snapshots, next_incarnation, .. } = *waiting;
        if let Err(error) = opened.store.initialize(bootstrap.clone(), cluster) {
            return Some(Start::Failed(error.to_string()));
        }
        opened.stored = opened.store.stored().clone();
        if let BootstrapState::Initialized { founders: Some(founders), .. } = &bootstrap {
            opened.entries = vec![founders.first_entry()];
        }
        opened.bootstrap = bootstrap;
        match serve(world, opened, snapshots, next_incarnation, (self.clock.at(now), &self.requested_changes), rng) {
            Ok(serving) => {
                self.process = ProcessState::Serving(Box::new(serving));
                Some(Start::Runs { notes: Vec::new(), quarantined: None })
            }
            Err(why) => Some(Start::Failed(why)),
        }
    }
}

/// Opens what is in a directory, with its snapshots unless it is in quarantine.
pub(crate) fn open_incarnation(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
    kind: GroupKind,
    incarnation: Incarnation,
    start_nonce: u64,
    engine: LogEngine,
) -> Result<(OpenOutcome, Option<SnapshotDir>), String> {
    let mut found = None;
    if directory.quarantined().is_none() {
        let opened = SnapshotDir::open(disk.clone(), directory.snapshots(), group(), directory.genesis());
        found = Some(opened.map_err(|error| error.to_string())?);
    }
    let options = StoreOptions {
        snapshot: found.as_ref().and_then(|(_, newest)| newest.clone()).map(|info| info.meta).unwrap_or_default(),
        kind,
        incarnation_if_new: incarnation,
        engine,
        allow_unsynced: true,
        now_unix_s: 0,
        start_nonce,
    };
    let opened = Store::open(directory, &options).map_err(|error| error.to_string())?;
    Ok((opened, found.map(|(snapshots, _)| snapshots)))
}
