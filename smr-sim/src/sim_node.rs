//! A simulated node: the disk, and what of the production code runs on it at the moment.
//!
//! What the replica's threads do in production is done here step by step: the disk thread's jobs are taken all at once,
//! done when virtual time says so, and end with one flush; snapshots are written and built "in the background", later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use smr::codec;
use smr::entry::{EntryId, GenesisHash, HardState, Term};
use smr::epoch::GroupKind;
use smr::id::{ClusterId, Disqualified, GroupName, Incarnation, NodeId, ReplicaId, StartId, StartTrail};
use smr::internals::bootstrap::{Bootstrap, Claim, Newcomer, Verdict};
use smr::internals::disk::Disk;
use smr::internals::disk_jobs::{DiskBatch, DiskError, DiskJob};
use smr::internals::engine::{
    Engine as ReplicaEngine, EngineStart, Install, LogLimits, Portion, SnapshotImage, UNCOMMITTED_ENTRIES_MAX,
};
use smr::internals::protocol::{Envelope, LogChange, Protocol, Recovered, Time, Write, WriteId};
use smr::internals::raft::{Message, Raft, Settings};
use smr::internals::session::{SessionLimits, SessionTable};
use smr::internals::snapshot::{ReceivedSnapshot, SendingFile, SnapshotDir, SnapshotError, SnapshotReader};
use smr::internals::storage::peek_watermark;
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, Healing, LogEngine, OpenError, OpenOutcome, OpenedStore, ReplicaDirectory,
    SeenStarts, Store, StoreOptions,
};
use smr::internals::turn::{BootstrapRecord, EVENTS_MAX, Turns, WRITES_UNDER_WAY_HIGH};
use smr::replica::{GenesisAnswer, Outcome, ReplySink, Request};
use smr::state_machine::StateMachine;
use smr::status::{ServiceState, StateDigest};

use crate::asking_admin::{AskingAdmin, RequestedChanges};
use crate::clock::Clock;
use crate::journal::JOURNAL;
use crate::probe::{Chained, Core};
use crate::virtual_disk::{Fault, Loss, VirtualDisk};
use crate::virtual_map::SIMULATED;

/// Where a replica's directory is on its disk.
pub const DIRECTORY: &str = "/node";
/// At multiples of this index the states are hashed.
const DIGEST_EVERY_ENTRIES: u64 = 128;
/// A pipeline of one small append at a time carries little more through the slowest disk.
const SLOWED_MIN_BYTES_PER_S: u64 = 200;
/// Bytes of a snapshot that travel at a time.
const PIECE_BYTES: usize = 700;

/// The production engine with the production core and the user's state machine, each in its probe.
pub type Replica<S> = ReplicaEngine<Core, Chained<S>>;

/// What all nodes of a world have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many replicas found the group.
    pub size: u16,
    /// How many others may join it later.
    pub spares: u16,
    /// Limits of the cores.
    pub settings: Settings,
    /// When snapshots are taken, by bytes in the log.
    pub snapshot_log_bytes: RangeInclusive<usize>,
    /// What the log that cannot be cut may hold, in bytes.
    pub log_max_bytes: usize,
    /// See [`LogLimits::drain_us`] and [`LogLimits::grace_us`].
    pub log_drain_us: u64,
    /// Entries of a leader that are not committed, at most.
    pub uncommitted_entries_max: u64,
    /// Events that wait for a replica's thread, at most: messages beyond are dropped.
    pub events_max: usize,
    /// With this many writes under way at the disk messages are dropped.
    pub writes_under_way_high: u64,
    /// Limits of the session tables.
    pub sessions: SessionLimits,
    /// What a turn of a replica's thread takes, in microseconds; as much again for each eight things that it takes in.
    pub turn_us: u64,
    /// What is applied in a turn.
    pub portion: Portion,
    /// What applying an entry takes, in microseconds.
    pub apply_us: u64,
    /// What keeps the logs: the record log over a journal file or over a map with sled's manners, or segments.
    pub engine: LogEngine,
}

impl Shape {
    /// A group of `size` with small limits, so that everything that takes megabytes in service happens every second.
    pub fn small(size: u16) -> Shape {
        Shape {
            size,
            spares: 0,
            settings: Settings {
                append_entries_max: 16,
                log_retain_bytes: 1_000,
                log_retain_held_bytes: 300,
                log_retain_sending_bytes: 4_000,
                snapshot_install_us: 2_000_000,
                ..Settings::default()
            },
            snapshot_log_bytes: 5_000..=10_000,
            log_max_bytes: 400_000,
            log_drain_us: 200_000,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            events_max: EVENTS_MAX,
            writes_under_way_high: WRITES_UNDER_WAY_HIGH,
            sessions: SessionLimits::default(),
            turn_us: 0,
            portion: Portion::default(),
            apply_us: 0,
            engine: JOURNAL,
        }
    }

    fn log_limits(&self) -> LogLimits {
        LogLimits {
            snapshot_bytes: self.snapshot_log_bytes.clone(),
            max_bytes: self.log_max_bytes,
            drain_us: self.log_drain_us,
            grace_us: self.log_drain_us,
            slowed_min_bytes_per_s: SLOWED_MIN_BYTES_PER_S,
        }
    }

    /// A group of `size` as in service.
    pub fn production(size: u16) -> Shape {
        use smr::internals::engine::LOG_LIMITS;
        Shape {
            size,
            spares: 0,
            settings: Settings::default(),
            snapshot_log_bytes: LOG_LIMITS.snapshot_bytes,
            log_max_bytes: LOG_LIMITS.max_bytes,
            log_drain_us: LOG_LIMITS.drain_us,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            events_max: EVENTS_MAX,
            writes_under_way_high: WRITES_UNDER_WAY_HIGH,
            sessions: SessionLimits::default(),
            turn_us: 0,
            portion: Portion::default(),
            apply_us: 0,
            engine: SIMULATED,
        }
    }
}

/// The group's name in every simulation.
pub fn group() -> GroupName {
    GroupName::try_from("g".to_owned()).unwrap_or_else(|error| panic!("{error}"))
}

/// The cluster in every simulation.
pub const CLUSTER: ClusterId = ClusterId(1);

/// Outcomes that a process has given, by the request's tag.
#[derive(Default)]
pub(super) struct Mailbox(Mutex<Vec<(u64, Outcome)>>);

impl Mailbox {
    pub(super) fn take(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl ReplySink for Mailbox {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        self.0.lock().push((tag, outcome));
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        // A long answer arrives as a whole; its parts are joined by whoever draws them.
        true
    }
}

/// What reaches a replica's thread besides requests, and waits for its next turn.
pub(super) enum Input<S> {
    Peer {
        from: NodeId,
        bytes: Bytes,
    },
    Reset {
        from: NodeId,
    },
    Connected {
        from: NodeId,
    },
    Durable(WriteId),
    SnapshotTaken {
        last: EntryId,
        len_bytes: u64,
    },
    SnapshotLost,
    /// There was no room for a snapshot.
    SnapshotLacksRoom,
    Room {
        is_full: bool,
    },
    DigestTaken(StateDigest),
    SnapshotSent {
        to: NodeId,
        last: Option<EntryId>,
    },
    /// Someone knows why this node must not take part any longer.
    Disqualified(Disqualified),
    SnapshotBuilt(Box<Install<Chained<S>>>, u64),
}

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

/// What a process is doing.
pub enum ProcessState<S: StateMachine> {
    /// There is none.
    Down,
    /// Uninitialized, or of an incarnation that no one knows.
    Waiting(Box<Waiting>),
    /// In service.
    Serving(Box<Serving<S>>),
}

/// A process that waits for its group.
pub struct Waiting {
    pub(super) bootstrap: Bootstrap,
    pub(super) call_at: Time,
    opened: OpenedStore,
    snapshots: SnapshotDir,
    next_incarnation: bool,
}

/// A process in service.
pub struct Serving<S: StateMachine> {
    pub(super) turns: Turns<Core, Chained<S>>,
    /// Events that may wait for a turn.
    pub(super) events_max: usize,
    /// Its snapshots.
    pub snapshots: SnapshotDir,
    disk_batch: DiskBatch<Message>,
    pub(super) jobs: VecDeque<DiskJob<Message>>,
    /// How many of the jobs are being worked at.
    at_work: usize,
    /// A snapshot that is being written.
    pub(super) taking: Option<Box<SnapshotImage<Chained<S>>>>,
    /// A received snapshot whose state is being built.
    pub(super) building: Option<ReceivedSnapshot>,
}

/// A replica: a disk, and a process now and then.
pub struct SimNode<S: StateMachine> {
    /// Who lives there.
    pub id: NodeId,
    /// The latest incarnation that anything here ever had: a directory that was set back begins another one.
    latest_incarnation: u64,
    /// Its disk.
    pub disk: VirtualDisk,
    /// Its clock, which is all that the process knows of the time.
    pub clock: Clock,
    /// What keeps the log on it.
    engine: LogEngine,
    /// The process.
    pub process: ProcessState<S>,
    /// The start of the process.
    pub(super) start: StartTrail,
    /// Whom the process has met: with whom it shook hands, and who was told that it must not take part.
    pub(super) met: BTreeMap<(NodeId, StartId), Result<(), Disqualified>>,
    /// What its directory remembers of the starts of others.
    pub(super) seen_starts: Option<Arc<SeenStarts>>,
    /// Tells processes apart: counts up with each end of one.
    pub(super) run: u64,
    /// Until then the process is stopped.
    pub paused_until: Time,
    /// Until then nothing that is written arrives.
    pub disk_hangs_until: Time,
    /// Each sync takes this much longer than on the others, in microseconds ...
    pub disk_slow_us: u64,
    /// ... until then.
    pub disk_slow_until: Time,
    /// Whether an experiment has damaged the directory, and it was not readmitted since.
    pub is_damaged: bool,
    /// Whether it was found to be damaged, and heals by itself.
    pub is_healing: bool,
    /// It has healed, and the disk has not been told for good: should the process end first, it heals again.
    pub ends_healing: bool,
    /// The latest leader that it heals by.
    pub(super) healed_by: Option<Term>,
    /// Whether an experiment has put an older directory in its place.
    pub is_set_back: bool,
    pub(super) forgot: bool,
    /// What its watermark named as synced when its log was damaged.
    pub(super) marked: Option<EntryId>,
    /// How far its log reached when that was done.
    pub(super) reached: EntryId,
    pub(super) inbox: VecDeque<Input<S>>,
    /// The most that was in it since the process began, right after something came from the network.
    pub(super) inbox_most: usize,
    pub(super) requests: VecDeque<(u64, Request)>,
    /// Its thread is at work until then.
    pub(super) busy_until: Time,
    /// The state of a received snapshot is being built until then, at least.
    pub(super) builds_until: Time,
    /// Its device has no room until then.
    pub(super) full_until: Time,
    pub(super) start_trouble: Option<StartTrouble>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The turn that is scheduled.
    pub(super) turn_at: Time,
    /// Whether its command line has the operator's word that the group begins again.
    pub found_anew: bool,
    /// Changes of members that its process is asked for.
    pub(super) requested_changes: RequestedChanges,
}

/// What became of a start.
pub(super) enum Start {
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
    pub(super) fn new(name: u16, incarnation: u64) -> SimNode<S> {
        SimNode {
            id: NodeId::new(name, incarnation),
            latest_incarnation: incarnation,
            disk: VirtualDisk::new(),
            clock: Clock::TRUE,
            engine: JOURNAL,
            process: ProcessState::Down,
            start: StartTrail::default(),
            met: BTreeMap::new(),
            seen_starts: None,
            run: 0,
            paused_until: Time(0),
            disk_hangs_until: Time(0),
            disk_slow_us: 0,
            disk_slow_until: Time(0),
            is_damaged: false,
            is_healing: false,
            ends_healing: false,
            healed_by: None,
            is_set_back: false,
            forgot: false,
            marked: None,
            reached: EntryId::ZERO,
            inbox: VecDeque::new(),
            inbox_most: 0,
            requests: VecDeque::new(),
            busy_until: Time(0),
            builds_until: Time(0),
            full_until: Time(0),
            start_trouble: None,
            mailbox: Arc::default(),
            turn_at: Time(u64::MAX),
            found_anew: false,
            requested_changes: RequestedChanges::default(),
        }
    }

    /// The process, if it is in service.
    pub fn serving(&self) -> Option<&Serving<S>> {
        match &self.process {
            ProcessState::Serving(serving) => Some(serving),
            ProcessState::Down | ProcessState::Waiting(_) => None,
        }
    }

    pub(super) fn serving_mut(&mut self) -> Option<&mut Serving<S>> {
        match &mut self.process {
            ProcessState::Serving(serving) => Some(serving),
            ProcessState::Down | ProcessState::Waiting(_) => None,
        }
    }

    /// Tells processes on this replica apart.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Whether there is no process.
    pub fn is_down(&self) -> bool {
        matches!(self.process, ProcessState::Down)
    }

    /// Whether the process waits for its group.
    pub fn is_waiting(&self) -> bool {
        matches!(self.process, ProcessState::Waiting(_))
    }

    /// A node whose directory was set back, or lost its end, counts again once it has as much as it had before.
    pub(super) fn has_caught_up(&mut self) {
        let last = self.serving().map_or(EntryId::ZERO, |serving| serving.engine().core().status().last);
        if self.is_set_back && (last.term, last.index) >= (self.reached.term, self.reached.index) {
            self.is_set_back = false;
        }
    }

    /// What the watermark on its disk names. `None` where a quarantined incarnation is still in the directory: the
    /// watermark may be of that one.
    pub(super) fn read_watermark(&self) -> Option<EntryId> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.after_crash(Loss::Nothing));
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let directory = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected).ok()?;
        if directory.is_next_incarnation() || directory.quarantined().is_some() {
            return None;
        }
        peek_watermark(disk.as_ref(), Path::new(DIRECTORY))
    }

    /// Starts the process from what the disk holds.
    pub(super) fn start(&mut self, world: &Common<S>, now: Time, rng: ChaCha8Rng) -> Start {
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
            let (opened, snapshots) = open_incarnation(&disk, directory, incarnation, nonce, world.shape.engine)?;
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
    pub(super) fn found_after_power_cut(&self) -> Result<Recovered, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.after_crash(Loss::Everything));
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let failed = |error: OpenError| error.to_string();
        let mut directory = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected).map_err(failed)?;
        loop {
            match open_incarnation(&disk, directory, self.id.incarnation, 0, self.engine)? {
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
    pub(super) fn conclude(
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

    /// How much longer a sync takes here than on a sound device, in microseconds.
    pub(super) fn slow_by_us(&self, now: Time) -> u64 {
        if self.disk_slow_until > now { self.disk_slow_us } else { 0 }
    }

    /// What follows from the answer of those who record a genesis.
    pub(super) fn genesis_answered(&mut self, answer: GenesisAnswer) -> Option<Verdict> {
        match &mut self.process {
            ProcessState::Waiting(waiting) => Some(waiting.bootstrap.answered(answer)),
            ProcessState::Down | ProcessState::Serving(_) => None,
        }
    }

    /// Ends the process, with the disk thread and the one that takes snapshots somewhere in the middle of what they had
    /// to do: `progress` operations further. `Loss::Nothing` is a kill, everything else a power cut.
    pub(super) fn end(&mut self, progress: u64, loss: Loss) {
        self.run += 1;
        self.met.clear();
        self.seen_starts = None;
        self.inbox.clear();
        self.inbox_most = 0;
        self.requests.clear();
        self.requested_changes.clear();
        self.busy_until = Time(0);
        self.mailbox = Arc::default();
        self.paused_until = Time(0);
        self.disk_hangs_until = Time(0);
        self.builds_until = Time(0);
        self.turn_at = Time(u64::MAX);
        if let ProcessState::Serving(serving) = std::mem::replace(&mut self.process, ProcessState::Down) {
            self.disk.fault_at(self.disk.operations() + progress, Fault::PowerOff);
            serving.go_on_until_the_end();
        }
        self.disk = self.disk.after_crash(loss);
    }
}

/// What starts need, and all nodes share.
pub(super) struct Common<S> {
    pub(super) shape: Shape,
    pub(super) replicas: BTreeSet<ReplicaId>,
    pub(super) empty: Box<dyn Fn() -> S + Send>,
    /// Whether the group's genesis has to be recorded before it counts.
    pub(super) is_recorded: bool,
}

fn open_incarnation(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
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
        kind: GroupKind::Raft,
        incarnation_if_new: incarnation,
        engine,
        allow_unsynced: true,
        now_unix_s: 0,
        start_nonce,
    };
    let opened = Store::open(directory, &options).map_err(|error| error.to_string())?;
    Ok((opened, found.map(|(snapshots, _)| snapshots)))
}

fn serve<S: StateMachine>(
    world: &Common<S>,
    opened: OpenedStore,
    snapshots: SnapshotDir,
    next_incarnation: bool,
    (now, requested_changes): (Time, &RequestedChanges),
    rng: ChaCha8Rng,
) -> Result<Serving<S>, String> {
    let BootstrapState::Initialized { genesis, founders } = opened.bootstrap else {
        panic!("an uninitialized node serves")
    };
    let latest = snapshots.latest();
    let (sessions, state) = match &latest {
        Some(info) => {
            let reader = snapshots.read(info).map_err(|error| error.to_string())?;
            build(world.shape.sessions, reader).map_err(|error| error.to_string())?
        }
        None => (SessionTable::with_limits(world.shape.sessions), Chained::new((world.empty)())),
    };
    let (meta, snapshot_len_bytes) = latest.map(|info| (info.meta, info.len_bytes)).unwrap_or_default();
    let snapshot = meta.last;
    let hard_state = if opened.stored.hard_state().term == Term::ZERO {
        HardState { term: Term(1), ..HardState::default() }
    } else {
        opened.stored.hard_state()
    };
    let heals_past = opened.healing.as_ref().map(|healing| healing.past);
    let recovered = Recovered { stored: hard_state.into(), snapshot: meta, entries: opened.entries, heals_past };
    let nonce_seed = rng.clone().next_u64();
    let raft = Raft::new(world.shape.settings.clone(), opened.identity.node, recovered.clone(), rng, now);
    let engine = Replica::new(EngineStart {
        group: group(),
        service_state: ServiceState::InService,
        healing: opened.healing.as_ref().map(Healing::describe),
        sync_mode: String::new(),
        core: Core::new(raft, recovered),
        admin: Box::new(AskingAdmin::new(requested_changes.clone())),
        state,
        sessions,
        snapshot,
        snapshot_len_bytes,
        log_limits: world.shape.log_limits(),
        digest_every_entries: DIGEST_EVERY_ENTRIES,
        uncommitted_entries_max: world.shape.uncommitted_entries_max,
        nonce_seed,
        portion: world.shape.portion,
    });
    Ok(Serving {
        turns: Turns::new(
            engine,
            BootstrapRecord { genesis, founders, cluster: Some(CLUSTER) },
            next_incarnation,
            world.shape.writes_under_way_high,
        ),
        events_max: world.shape.events_max,
        snapshots,
        disk_batch: DiskBatch::new(opened.store),
        jobs: VecDeque::new(),
        at_work: 0,
        taking: None,
        building: None,
    })
}

/// The state that a snapshot holds.
pub(super) fn build<S: StateMachine>(
    limits: SessionLimits,
    mut reader: SnapshotReader,
) -> Result<(SessionTable, Chained<S>), SnapshotError> {
    let sessions = SessionTable::restore_with_limits(&mut reader, limits).map_err(SnapshotError::State)?;
    let state = Chained::restore(&mut reader).map_err(SnapshotError::State)?;
    reader.finish()?;
    Ok((sessions, state))
}

impl<S: StateMachine> Serving<S> {
    /// The last entry that was applied.
    pub fn applied(&self) -> EntryId {
        self.engine().applied()
    }

    /// The production engine.
    pub fn engine(&self) -> &Replica<S> {
        self.turns.engine()
    }

    /// Whether this incarnation follows a quarantined one, and the group does not count it as a voter yet.
    pub fn readmission_open(&self) -> bool {
        self.turns.readmission_open()
    }

    pub(super) fn into_disk_batch(self) -> DiskBatch<Message> {
        self.disk_batch
    }

    pub(super) fn give_to_disk(&mut self, job: DiskJob<Message>) {
        self.jobs.push_back(job);
    }

    /// The disk takes everything that waits, if it is idle; true if it does.
    pub(super) fn begin_disk_work(&mut self) -> bool {
        let begins = self.at_work == 0 && !self.jobs.is_empty();
        if begins {
            self.at_work = self.jobs.len();
        }
        begins
    }

    /// Whether the disk is at work.
    pub(super) fn is_at_work(&self) -> bool {
        self.at_work > 0
    }

    /// Does what the disk took; gives the writes that are durable by that.
    pub(super) fn end_disk_work(&mut self) -> Result<Vec<Write<Message>>, DiskError> {
        let count = std::mem::take(&mut self.at_work);
        for job in self.jobs.drain(..count) {
            self.disk_batch.take(job)?;
        }
        Ok(self.disk_batch.flush()?.collect())
    }

    /// Lets the watermark follow, after the answers have left.
    pub(super) fn follow(&mut self) -> Result<(), DiskError> {
        self.disk_batch.follow()
    }

    /// Messages that wait for a sync.
    pub(super) fn held_back(&self) -> impl Iterator<Item = &Envelope<Message>> {
        self.jobs.iter().flat_map(|job| match job {
            DiskJob::Write(write) => write.peek(),
            _ => &[],
        })
    }

    /// Whether a received snapshot waits to be adopted.
    pub(super) fn installs(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, DiskJob::PublishSnapshot(_)))
    }

    /// Whether entries that contradict the leader's wait to be removed.
    pub(super) fn truncates(&self) -> bool {
        let removes =
            |write: &Write<Message>| write.log().iter().any(|change| matches!(change, LogChange::RemoveFrom(_)));
        self.jobs.iter().any(|job| matches!(job, DiskJob::Write(write) if removes(write)))
    }

    /// Writes the snapshot that was to be taken: where it ends, its length, a checksum of its payload.
    pub(super) fn end_taking(&mut self) -> Result<Option<(EntryId, u64, u64)>, SnapshotError> {
        let Some(image) = self.taking.take() else { return Ok(None) };
        match write_snapshot(&self.snapshots, &image, self.turns.bootstrap_record().genesis) {
            Ok((len_bytes, checksum)) => Ok(Some((image.meta.last, len_bytes, checksum))),
            Err(SnapshotError::Obsolete { .. }) => Ok(Some((image.meta.last, 0, 0))),
            Err(error) => Err(error),
        }
    }

    /// Builds the state of a received snapshot.
    #[expect(clippy::type_complexity, reason = "used once")]
    pub(super) fn end_building(
        &mut self,
        limits: SessionLimits,
    ) -> Result<Option<(Install<Chained<S>>, u64)>, SnapshotError> {
        let Some(file) = self.building.take() else { return Ok(None) };
        let (sessions, state) = build(limits, file.read()?)?;
        let (meta, len_bytes) = (file.info().meta.clone(), file.info().len_bytes);
        Ok(Some((Install { meta, sessions, state, file }, len_bytes)))
    }

    /// Does what still waits until the power goes. No one hears of it any more.
    fn go_on_until_the_end(mut self: Box<Serving<S>>) {
        // Whoever comes first: the threads run side by side.
        let snapshot_first = self.jobs.len().is_multiple_of(2);
        let taking = self.taking.take();
        let write = |serving: &Serving<S>| {
            if let Some(image) = &taking {
                // The power goes somewhere in the middle: an error is what is wanted.
                let _ = write_snapshot(&serving.snapshots, image, serving.turns.bootstrap_record().genesis);
            }
        };
        if snapshot_first {
            write(&self);
        }
        while let Some(job) = self.jobs.pop_front() {
            if self.disk_batch.take(job).is_err() {
                return;
            }
        }
        if self.disk_batch.flush().is_err() || self.disk_batch.follow().is_err() {
            return;
        }
        if !snapshot_first {
            write(&self);
        }
    }
}

fn write_snapshot<S: StateMachine>(
    snapshots: &SnapshotDir,
    image: &SnapshotImage<S>,
    genesis: GenesisHash,
) -> Result<(u64, u64), SnapshotError> {
    let mut payload = Vec::new();
    image.write(&mut payload).map_err(SnapshotError::State)?;
    let info = snapshots.write(&image.meta, genesis, |output| output.write_all(&payload))?;
    Ok((info.len_bytes, codec::checksum(&[&payload])))
}

/// Why a snapshot did not arrive.
pub(super) enum Broken {
    /// The file itself is damaged.
    Source,
    /// The sender's device failed.
    SendersDisk(String),
    /// The receiver's device failed.
    ReceiversDisk(String),
    /// The receiver does not want it, or the connection broke.
    OnTheWay,
}

/// Carries a snapshot from one directory into another, or `up_to` a number of bytes of it.
pub(super) fn carry(from: &mut SendingFile, into: &SnapshotDir, up_to: u64) -> Result<ReceivedSnapshot, Broken> {
    let receiving = |error: SnapshotError| match error {
        SnapshotError::Disk { .. } => Broken::ReceiversDisk(error.to_string()),
        _ => Broken::OnTheWay,
    };
    let mut incoming = into.receive(from.info().offer()).map_err(receiving)?;
    loop {
        let bytes = from.read_at(incoming.offset(), PIECE_BYTES).map_err(|error| match error {
            SnapshotError::Disk { .. } => Broken::SendersDisk(error.to_string()),
            _ => Broken::Source,
        })?;
        if bytes.is_empty() || incoming.offset() >= up_to {
            return incoming.finish().map_err(receiving);
        }
        incoming.append(incoming.offset(), &bytes).map_err(receiving)?;
    }
}

/// The path of a file in a replica's directory.
pub fn path(file: &str) -> PathBuf {
    Path::new(DIRECTORY).join(file)
}
