//! One node: its disk, and what of the production code runs on it at the moment.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{EntryId, Genesis, GenesisHash, Promise, Term};
use smr::id::{ClusterId, Incarnation, NodeId, NodeName};
use smr::protocol::{Protocol, Recovered, Time};
use smr::raft::{Raft, Settings};
use smr::replica::birth::{Unborn, Verdict};
use smr::replica::disk::{Desk, DiskJob};
use smr::replica::engine::{Engine as ReplicaEngine, EngineStart, Install, SnapshotImage};
use smr::replica::{ReplyTo, Request, Standing};
use smr::session::SessionTable;
use smr::snapshot::{ReceivedSnapshot, SendingFile, SnapshotDir, SnapshotReader};
use smr::state_machine::{Image, StateMachine};
use smr::storage::disk::Disk;
use smr::storage::virtual_disk::{Fault, Loss, VirtualDisk};
use smr::storage::{Birth, Engine, Opened, OpenedStore, ReplicaDirectory, Seat, Store, StoreOptions};

use crate::registers::Registers;

pub(crate) type Message = <Raft as Protocol>::Message;
pub(crate) type Replica = ReplicaEngine<Raft, Registers>;

/// Small limits, so that everything that takes megabytes in service happens every second.
pub(crate) fn settings() -> Settings {
    Settings {
        append_entries_max: 16,
        log_retain_bytes: 1_000,
        log_retain_sending_bytes: 4_000,
        snapshot_install_us: 2_000_000,
        promotion_lag_entries_max: 20,
        ..Settings::default()
    }
}

pub(crate) fn group() -> smr::id::GroupName {
    "g".parse().unwrap()
}

pub(crate) const CLUSTER: ClusterId = ClusterId(1);

/// What a node is doing.
pub(crate) enum Life {
    Down,
    /// Unborn, or of an incarnation that nobody knows.
    Waiting(Box<Waiting>),
    Serving(Box<Serving>),
}

pub(crate) struct Waiting {
    pub(crate) unborn: Unborn,
    pub(crate) call_at: Time,
    opened: OpenedStore,
    snapshots: SnapshotDir,
    next_life: bool,
}

pub(crate) struct Serving {
    pub(crate) engine: Replica,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) genesis: GenesisHash,
    pub(crate) founders: Option<Genesis>,
    pub(crate) readmission_open: bool,
    desk: Desk<Message>,
    jobs: VecDeque<DiskJob<Message>>,
    /// How many of the jobs are being worked at, and when they are done.
    at_work: Option<(usize, Time)>,
    /// A snapshot that is being written, and when it is done.
    pub(crate) taking: Option<(Time, Box<SnapshotImage<Registers>>)>,
    /// A received snapshot whose state is being built, and when it is there.
    pub(crate) building: Option<(Time, ReceivedSnapshot)>,
}

pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) disk: VirtualDisk,
    pub(crate) life: Life,
    pub(crate) restart_at: Time,
    pub(crate) paused_until: Time,
    /// Until then nothing that is written arrives.
    pub(crate) disk_hangs_until: Time,
    /// What clients have sent meanwhile.
    pub(crate) asked_in_pause: Vec<(Request, ReplyTo)>,
    /// Whether the test has damaged the directory.
    pub(crate) is_damaged: bool,
    /// Whether the test has put an older directory in its place.
    pub(crate) is_set_back: bool,
}

impl Serving {
    pub(crate) fn into_desk(self) -> Desk<Message> {
        self.desk
    }
}

impl Machine {
    pub(crate) fn new(name: u16, incarnation: u64) -> Machine {
        Machine {
            id: NodeId::new(name, incarnation),
            disk: VirtualDisk::new(),
            life: Life::Down,
            restart_at: Time(0),
            paused_until: Time(0),
            disk_hangs_until: Time(0),
            asked_in_pause: Vec::new(),
            is_damaged: false,
            is_set_back: false,
        }
    }

    pub(crate) fn serving(&self) -> Option<&Serving> {
        match &self.life {
            Life::Serving(serving) => Some(serving),
            Life::Down | Life::Waiting(_) => None,
        }
    }

    pub(crate) fn serving_mut(&mut self) -> Option<&mut Serving> {
        match &mut self.life {
            Life::Serving(serving) => Some(serving),
            Life::Down | Life::Waiting(_) => None,
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.life, Life::Down)
    }

    /// Starts the process: whatever the disk holds must be usable, for nothing but crashes has happened to it, unless the
    /// test damaged it and expects quarantine.
    pub(crate) fn start(&mut self, seats: &BTreeSet<NodeName>, now: Time, seed: u64) {
        assert!(self.is_down(), "{} is started twice", self.id);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let seat = Seat { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let directory = ReplicaDirectory::open(disk.clone(), &PathBuf::from("/node"), seat).unwrap();
        let incarnation = self.id.incarnation;
        let (mut opened, mut snapshots) = open_life(&disk, directory, incarnation);
        let mut next_life = false;
        if let Opened::Quarantined(quarantined) = opened {
            assert!(self.is_damaged || self.is_set_back, "{} is quarantined: {}", self.id, quarantined.reason);
            next_life = true;
            let incarnation = Incarnation(incarnation.0 + 1);
            let next = quarantined.into_next_life().unwrap();
            (opened, snapshots) = open_life(&disk, next, incarnation);
        }
        let (Opened::Store(opened), Some(snapshots)) = (opened, snapshots) else {
            panic!("{} is quarantined twice", self.id);
        };
        self.is_damaged = next_life;
        self.id = opened.identity.node;
        self.life = if opened.birth == Birth::Unborn {
            let unborn = Unborn::new(self.id, Some(CLUSTER), group(), seats.clone(), !next_life);
            Life::Waiting(Box::new(Waiting { unborn, call_at: now, opened: *opened, snapshots, next_life }))
        } else {
            Life::Serving(Box::new(serve(*opened, snapshots, next_life, now, seed)))
        };
    }

    /// The waiting room has a verdict.
    pub(crate) fn conclude(&mut self, verdict: Verdict, now: Time, seed: u64) {
        let (birth, cluster) = match verdict {
            Verdict::Wait | Verdict::Stranger(_) => return,
            Verdict::Founder(genesis) => {
                let cluster = genesis.cluster_id();
                (Birth::Born { genesis: genesis.hash(), founders: Some(genesis) }, cluster)
            }
            Verdict::TakenIn(genesis) => (Birth::Born { genesis, founders: None }, CLUSTER),
        };
        let Life::Waiting(waiting) = std::mem::replace(&mut self.life, Life::Down) else {
            panic!("{} is born without waiting for it", self.id);
        };
        let Waiting { mut opened, snapshots, next_life, .. } = *waiting;
        opened.store.be_born(birth.clone(), cluster).unwrap();
        opened.promise = opened.store.promise();
        if let Birth::Born { founders: Some(founders), .. } = &birth {
            opened.entries = vec![founders.first_entry()];
        }
        opened.birth = birth;
        self.life = Life::Serving(Box::new(serve(opened, snapshots, next_life, now, seed)));
    }

    /// Ends the process, with the disk thread and the one that takes snapshots somewhere in the middle of what they had to
    /// do: `progress` operations further. `Loss::Nothing` is a kill, everything else a power cut.
    pub(crate) fn crash(&mut self, progress: u64, loss: Loss) {
        if let Life::Serving(serving) = std::mem::replace(&mut self.life, Life::Down) {
            self.disk.fault_at(self.disk.operations() + progress, Fault::PowerOff);
            serving.go_on_until_the_end();
        }
        self.disk = self.disk.after_crash(loss);
    }
}

fn open_life(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
    incarnation: Incarnation,
) -> (Opened, Option<SnapshotDir>) {
    let mut found = None;
    if directory.quarantined().is_none() {
        let (snapshots, newest) = SnapshotDir::open(disk.clone(), directory.snapshots(), group(), None).unwrap();
        assert!(snapshots.notes().is_empty(), "{:?}", snapshots.notes());
        found = Some((snapshots, newest));
    }
    let options = StoreOptions {
        snapshot: found.as_ref().and_then(|(_, newest)| newest.clone()).map(|info| info.meta).unwrap_or_default(),
        incarnation_if_new: incarnation,
        engine: Engine::Journal,
        allow_unsynced: true,
        now_unix_s: 0,
    };
    (Store::open(directory, &options).unwrap(), found.map(|(snapshots, _)| snapshots))
}

fn serve(opened: OpenedStore, snapshots: SnapshotDir, next_life: bool, now: Time, seed: u64) -> Serving {
    let Birth::Born { genesis, founders } = opened.birth else { panic!("an unborn node serves") };
    let latest = snapshots.latest();
    let (sessions, state) = match &latest {
        Some(info) => build(snapshots.read(info).unwrap()),
        None => (SessionTable::new(), Registers::default()),
    };
    let (meta, snapshot_len_bytes) = latest.map(|info| (info.meta, info.len_bytes)).unwrap_or_default();
    let snapshot = meta.last;
    let promise = if opened.promise.term == Term::ZERO {
        Promise { term: Term(1), ..Promise::default() }
    } else {
        opened.promise
    };
    let recovered = Recovered { promise, snapshot: meta, entries: opened.entries };
    let core = Raft::new(settings(), opened.identity.node, recovered, ChaCha8Rng::seed_from_u64(seed), now);
    let engine = Replica::new(EngineStart {
        group: group(),
        standing: Standing::InService,
        sync_mode: String::new(),
        core,
        state,
        sessions,
        snapshot,
        snapshot_len_bytes,
        snapshot_log_bytes: 5_000..=10_000,
        digest_every_entries: 16,
    });
    Serving {
        engine,
        snapshots,
        genesis,
        founders,
        readmission_open: next_life,
        desk: Desk::new(opened.store),
        jobs: VecDeque::new(),
        at_work: None,
        taking: None,
        building: None,
    }
}

fn build(mut reader: SnapshotReader) -> (SessionTable, Registers) {
    let sessions = SessionTable::restore(&mut reader).unwrap();
    let state = Registers::restore(&mut reader).unwrap();
    reader.finish().unwrap();
    (sessions, state)
}

impl Serving {
    pub(crate) fn give_to_disk(&mut self, job: DiskJob<Message>) {
        self.jobs.push_back(job);
    }

    /// When the disk or a background thread is done with something.
    pub(crate) fn next_at(&self) -> Option<Time> {
        let disk = self.at_work.map(|(_, at)| at);
        let taking = self.taking.as_ref().map(|(at, _)| *at);
        let building = self.building.as_ref().map(|(at, _)| *at);
        disk.into_iter().chain(taking).chain(building).min()
    }

    /// The disk takes everything that waits, if it is idle.
    pub(crate) fn begin_disk_work(&mut self, done_at: Time) {
        if self.at_work.is_none() && !self.jobs.is_empty() {
            self.at_work = Some((self.jobs.len(), done_at));
        }
    }

    /// Whether the disk is done with what it took.
    pub(crate) fn disk_is_done(&self, now: Time) -> bool {
        self.at_work.is_some_and(|(_, at)| at <= now)
    }

    /// Does what the disk took; gives the messages that rested on it.
    pub(crate) fn end_disk_work(&mut self, now: Time) -> Vec<smr::protocol::Envelope<Message>> {
        let (count, _) = self.at_work.take().unwrap();
        for job in self.jobs.drain(..count) {
            self.desk.take(job).unwrap();
        }
        let mut released = Vec::new();
        let mut last = None;
        for write in self.desk.flush().unwrap() {
            let (id, messages) = write.durable();
            released.extend(messages);
            last = Some(id);
        }
        self.desk.follow().unwrap();
        if let Some(id) = last {
            self.engine.durable(now, id);
        }
        released
    }

    /// Writes the snapshot that was to be taken.
    pub(crate) fn end_taking(&mut self, now: Time) -> bool {
        let Some((_, image)) = self.taking.take_if(|(at, _)| *at <= now) else { return false };
        let last = image.meta.last;
        let len_bytes = match write_snapshot(&self.snapshots, &image, self.genesis) {
            Ok(len_bytes) => len_bytes,
            Err(smr::snapshot::SnapshotError::Obsolete { .. }) => 0,
            Err(error) => panic!("{error}"),
        };
        self.engine.snapshot_taken(now, last, len_bytes);
        true
    }

    /// Hands the state of a received snapshot to the engine; whether it was of use.
    pub(crate) fn end_building(&mut self, now: Time) -> Option<bool> {
        let (_, file) = self.building.take_if(|(at, _)| *at <= now)?;
        let (sessions, state) = build(file.read().unwrap());
        let (meta, len_bytes) = (file.info().meta.clone(), file.info().len_bytes);
        Some(self.engine.install(now, Install { meta, sessions, state, file }, len_bytes))
    }

    /// Does what still waits until the power goes. Nobody hears of it any more.
    fn go_on_until_the_end(mut self: Box<Serving>) {
        // Whoever comes first: the threads run side by side.
        let snapshot_first = self.jobs.len().is_multiple_of(2);
        let taking = self.taking.take();
        let write = |serving: &Serving| {
            if let Some((_, image)) = &taking {
                let _ = write_snapshot(&serving.snapshots, image, serving.genesis);
            }
        };
        if snapshot_first {
            write(&self);
        }
        while let Some(job) = self.jobs.pop_front() {
            if self.desk.take(job).is_err() {
                return;
            }
        }
        if self.desk.flush().is_err() || self.desk.follow().is_err() {
            return;
        }
        if !snapshot_first {
            write(&self);
        }
    }
}

fn write_snapshot(
    snapshots: &SnapshotDir,
    image: &SnapshotImage<Registers>,
    genesis: GenesisHash,
) -> Result<u64, smr::snapshot::SnapshotError> {
    let written = snapshots.write(&image.meta, genesis, |output| {
        image.sessions.write(output)?;
        image.state.write(output)
    });
    written.map(|info| info.len_bytes)
}

/// Why a snapshot did not arrive.
pub(crate) enum Broken {
    /// The file itself is damaged.
    Source,
    /// The receiver does not want it, or the connection broke.
    OnTheWay,
}

/// Carries a snapshot from one directory into another, or `up_to` a number of bytes of it.
pub(crate) fn carry(from: &mut SendingFile, into: &SnapshotDir, up_to: u64) -> Result<ReceivedSnapshot, Broken> {
    let mut incoming = into.receive(from.info().offer()).map_err(|_| Broken::OnTheWay)?;
    loop {
        let bytes = from.read_at(incoming.offset(), 700).map_err(|_| Broken::Source)?;
        if bytes.is_empty() || incoming.offset() >= up_to {
            return incoming.finish().map_err(|_| Broken::OnTheWay);
        }
        incoming.append(incoming.offset(), &bytes).map_err(|_| Broken::OnTheWay)?;
    }
}

/// The last entry of a snapshot on its way.
pub(crate) fn end_of(file: &SendingFile) -> EntryId {
    file.info().meta.last
}
