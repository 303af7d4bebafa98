//! A simulated machine of such a group: its disk, and what of the production code runs there.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use smr::entry::{Entry, EntryId, Genesis, Payload};
use smr::epoch::{EpochConfiguration, GroupKind};
use smr::epoch_service::ServiceWord;
use smr::id::{Incarnation, NodeId, ReplicaId};
use smr::internals::admin::ServiceDecides;
use smr::internals::bootstrap::{Bootstrap, Claim, Newcomer, Verdict};
use smr::internals::configured::Configured;
use smr::internals::disk::Disk;
use smr::internals::engine::{BuiltCheckpoint, Engine, EngineStart, Install, UNCOMMITTED_ENTRIES_MAX};
use smr::internals::protocol::{Protocol, Recovered, StoredState, Time, WriteId};
use smr::internals::session::SessionLimits;
use smr::internals::snapshot::SnapshotDir;
use smr::internals::storage::{BootstrapState, ExpectedIdentity, OpenOutcome, OpenedStore, ReplicaDirectory};
use smr::internals::turn::{BootstrapRecord, EVENTS_MAX, Turns, WRITES_UNDER_WAY_HIGH};
use smr::replica::Request;
use smr::status::{ServiceState, StateDigest};

use super::swarm::SwarmConfig;
use crate::clock::Clock;
use crate::probe::Chained;
use crate::sim_node::{
    CLUSTER, DIGEST_EVERY_ENTRIES, DIRECTORY, Mailbox, Restored, Serving, group, open_incarnation, restore,
};
use crate::virtual_disk::{Fault, Loss, VirtualDisk};
use crate::workload::{Register, Registers, Workload};

/// The production code of a member.
pub(super) type Member = Serving<Register, Configured>;

/// What reaches a replica's thread besides requests.
pub(super) enum Input {
    Peer { from: NodeId, bytes: Bytes },
    Reset { from: NodeId },
    Connected { from: NodeId },
    Durable(WriteId),
    SnapshotTaken { last: EntryId, len_bytes: u64 },
    SnapshotSent { to: NodeId, last: Option<EntryId> },
    SnapshotBuilt(Box<Install<Chained<Register>>>, u64),
    DigestTaken(StateDigest),
    CheckpointMade,
    CheckpointBuilt(BuiltCheckpoint<Chained<Register>>),
    Service(Option<Box<ServiceWord>>),
}

/// What a process is doing.
pub enum Process {
    /// There is none.
    Down,
    /// Of an incarnation that is no member yet.
    Waiting(Box<Waiting>),
    /// A node of the group.
    Serving(Box<Member>),
}

/// A process that waits until its group takes it in.
pub struct Waiting {
    pub(super) bootstrap: Bootstrap,
    pub(super) call_at: Time,
    opened: OpenedStore,
    snapshots: SnapshotDir,
    next_incarnation: bool,
}

/// What all machines have in common.
pub(super) struct Common {
    pub(super) config: SwarmConfig,
    pub(super) genesis: Genesis,
    pub(super) replicas: BTreeSet<ReplicaId>,
}

/// What a process found on its disk.
pub(super) struct Found {
    pub(super) configuration: Option<EpochConfiguration>,
    pub(super) snapshot: EntryId,
    pub(super) entries: Vec<Entry>,
    /// Why the incarnation before this one ended, if that was found now.
    pub(super) quarantined: Option<String>,
}

/// See the module.
pub struct Machine {
    /// Who lives there.
    pub id: NodeId,
    latest_incarnation: u64,
    /// What outlives its processes.
    pub disk: VirtualDisk,
    /// Its clock.
    pub clock: Clock,
    /// What runs there at the moment.
    pub process: Process,
    /// Counts up with each end of a process.
    pub run: u64,
    /// Until then the process is stopped.
    pub paused_until: Time,
    /// Until then nothing that is written arrives.
    pub disk_hangs_until: Time,
    pub(super) inbox: VecDeque<Input>,
    pub(super) requests: VecDeque<(u64, Request)>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The turn that is scheduled.
    pub(super) turn_at: Time,
    /// What its core knew to be committed when someone looked last.
    pub(super) committed: u64,
    /// Violations of the protocol that its engine counted when someone looked last.
    pub(super) violations: u64,
}

impl Machine {
    pub(super) fn new(name: u16, clock: Clock) -> Machine {
        let incarnation = 100 * (1 + u64::from(name));
        Machine {
            id: NodeId::new(name, incarnation),
            latest_incarnation: incarnation,
            disk: VirtualDisk::new(),
            clock,
            process: Process::Down,
            run: 0,
            paused_until: Time(0),
            disk_hangs_until: Time(0),
            inbox: VecDeque::new(),
            requests: VecDeque::new(),
            mailbox: Arc::default(),
            turn_at: Time(u64::MAX),
            committed: 0,
            violations: 0,
        }
    }

    /// The process, if it serves.
    pub fn serving(&self) -> Option<&Member> {
        match &self.process {
            Process::Serving(serving) => Some(serving),
            Process::Down | Process::Waiting(_) => None,
        }
    }

    pub(super) fn serving_mut(&mut self) -> Option<&mut Member> {
        match &mut self.process {
            Process::Serving(serving) => Some(serving),
            Process::Down | Process::Waiting(_) => None,
        }
    }

    /// Whether there is no process.
    pub fn is_down(&self) -> bool {
        matches!(self.process, Process::Down)
    }

    /// The core, if the process serves.
    pub fn core(&self) -> Option<&Configured> {
        self.serving().map(|serving| serving.engine().core())
    }

    /// The directory is gone; what comes next is another incarnation.
    pub(super) fn empty(&mut self) {
        assert!(self.is_down(), "{} runs while its directory is emptied", self.id);
        self.disk = VirtualDisk::new();
        self.latest_incarnation += 1;
        self.id.incarnation = Incarnation(self.latest_incarnation);
    }

    /// Starts the process from what the disk holds.
    pub(super) fn start(&mut self, common: &Common, now: Time, rng: ChaCha8Rng) -> Result<Found, String> {
        assert!(self.is_down(), "{} is started twice", self.id);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let expected = ExpectedIdentity { group: group(), name: self.id.name, cluster: Some(CLUSTER) };
        let opening = ReplicaDirectory::open(disk.clone(), Path::new(DIRECTORY), expected);
        let mut directory = opening.map_err(|error| error.to_string())?;
        let mut incarnation = self.id.incarnation;
        let mut next_incarnation = directory.is_next_incarnation();
        let mut quarantined = None;
        loop {
            let (kind, engine) = (GroupKind::Epochs(common.config.settings.kind), common.config.engine);
            let is_known = directory.quarantined().is_some();
            let nonce = rng.clone().next_u64();
            let opened = open_incarnation(&disk, directory, kind, incarnation, nonce, engine)?;
            match opened {
                (OpenOutcome::Store(opened), Some(snapshots)) => {
                    self.id = opened.identity.node;
                    let found = self.begin(common, now, *opened, snapshots, next_incarnation, rng)?;
                    return Ok(Found { quarantined, ..found });
                }
                (OpenOutcome::Quarantined(old), _) => {
                    next_incarnation = true;
                    self.latest_incarnation = self.latest_incarnation.max(incarnation.0) + 1;
                    incarnation = Incarnation(self.latest_incarnation);
                    if !is_known {
                        quarantined.get_or_insert(old.reason.clone());
                    }
                    directory = old.into_next_incarnation().map_err(|error| error.to_string())?;
                }
                (OpenOutcome::Store(_), None) => return Err("a directory was opened without its snapshots".to_owned()),
            }
        }
    }

    /// A founder begins with its genesis; whoever is initialized serves; everyone else waits.
    fn begin(
        &mut self,
        common: &Common,
        now: Time,
        mut opened: OpenedStore,
        snapshots: SnapshotDir,
        next_incarnation: bool,
        rng: ChaCha8Rng,
    ) -> Result<Found, String> {
        if !opened.bootstrap.is_initialized() && common.genesis.members.contains(&opened.identity.node) {
            let (genesis, founders) = (common.genesis.hash(), Some(common.genesis.clone()));
            initialize(&mut opened, BootstrapState::Initialized { genesis, founders })?;
        }
        if opened.bootstrap.is_initialized() {
            return self.serve(common, now, opened, snapshots, next_incarnation, rng);
        }
        let bootstrap = Bootstrap::new(Newcomer {
            node: self.id,
            cluster: Some(CLUSTER),
            group: group(),
            replicas: common.replicas.clone(),
            // Its group is there already, whoever says so.
            claim: Claim { is_excluded: true, found_anew: false },
            is_recorded: true,
        });
        let waiting = Waiting { bootstrap, call_at: now, opened, snapshots, next_incarnation };
        self.process = Process::Waiting(Box::new(waiting));
        Ok(Found { configuration: None, snapshot: EntryId::ZERO, entries: Vec::new(), quarantined: None })
    }

    /// What waits has heard something of its group; `Some` if it was taken in.
    pub(super) fn conclude(
        &mut self,
        common: &Common,
        verdict: Verdict,
        now: Time,
        rng: ChaCha8Rng,
    ) -> Option<Result<Found, String>> {
        let genesis = match verdict {
            Verdict::Wait => return None,
            Verdict::TakenIn { genesis, .. } => genesis,
            Verdict::Excluded(witness) => {
                let Process::Waiting(waiting) = &mut self.process else { return None };
                return waiting.opened.store.exclude(witness).err().map(|error| Err(error.to_string()));
            }
            Verdict::Ask(_) | Verdict::Founder(_) | Verdict::Stranger(_) => {
                return Some(Err(format!("{} concludes {verdict:?}", self.id)));
            }
        };
        let Process::Waiting(waiting) = std::mem::replace(&mut self.process, Process::Down) else {
            panic!("{} is taken in, and does not wait for it", self.id);
        };
        let Waiting { mut opened, snapshots, next_incarnation, .. } = *waiting;
        let taken_in = BootstrapState::Initialized { genesis, founders: None };
        if let Err(why) = initialize(&mut opened, taken_in) {
            return Some(Err(why));
        }
        Some(self.serve(common, now, opened, snapshots, next_incarnation, rng))
    }

    fn serve(
        &mut self,
        common: &Common,
        now: Time,
        opened: OpenedStore,
        snapshots: SnapshotDir,
        next_incarnation: bool,
        rng: ChaCha8Rng,
    ) -> Result<Found, String> {
        let config = &common.config;
        let BootstrapState::Initialized { genesis, founders } = opened.bootstrap else {
            panic!("{} serves uninitialized", self.id)
        };
        let limits = SessionLimits::default();
        let Restored { sessions, state, meta, snapshot_len_bytes } =
            restore(&snapshots, limits, || Registers::new(config.registers, 0).machine())?;
        let StoredState::Configured(configuration) = opened.stored.clone() else {
            panic!("{} is of another kind: {:?}", self.id, opened.stored)
        };
        let found = Found { configuration, snapshot: meta.last, entries: opened.entries.clone(), quarantined: None };
        let snapshot = meta.last;
        let heals_past = opened.healing.as_ref().map(|healing| healing.past);
        let recovered = Recovered { stored: opened.stored, snapshot: meta, entries: opened.entries, heals_past };
        let nonce_seed = rng.clone().next_u64();
        let core = Configured::new(config.settings.clone(), self.id, recovered, rng, self.clock.at(now));
        self.committed = core.commit().0;
        self.violations = 0;
        let engine = Engine::new(EngineStart {
            group: group(),
            service_state: ServiceState::InService,
            healing: None,
            sync_mode: String::new(),
            core,
            admin: Box::new(ServiceDecides { kind: config.settings.kind }),
            state,
            sessions,
            snapshot,
            snapshot_len_bytes,
            log_limits: config.log_limits(),
            digest_every_entries: DIGEST_EVERY_ENTRIES,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            nonce_seed,
            portion: config.portion,
        });
        let record = BootstrapRecord { genesis, founders, cluster: Some(CLUSTER) };
        let turns = Turns::new(engine, record, next_incarnation, WRITES_UNDER_WAY_HIGH);
        self.process = Process::Serving(Box::new(Serving::new(turns, EVENTS_MAX, snapshots, opened.store)));
        Ok(found)
    }

    /// Ends the process, with its threads somewhere in the middle of what they had to do, `progress` operations
    /// further. `Loss::Killed` is a kill, everything else a power cut.
    pub(super) fn end(&mut self, progress: u64, loss: Loss) {
        self.run += 1;
        self.inbox.clear();
        self.requests.clear();
        self.mailbox = Arc::default();
        self.paused_until = Time(0);
        self.disk_hangs_until = Time(0);
        self.turn_at = Time(u64::MAX);
        if let Process::Serving(serving) = std::mem::replace(&mut self.process, Process::Down) {
            self.disk.fault_at(self.disk.operations() + progress, Fault::PowerOff);
            serving.go_on_until_the_end();
        }
        self.disk = self.disk.after_crash(loss);
    }

    /// Ends the process because it found out that it lost something.
    pub(super) fn quarantine(&mut self, reason: &str) {
        if let Process::Serving(serving) = std::mem::replace(&mut self.process, Process::Down) {
            // If that cannot be written down, it is found out again.
            drop(serving.into_disk_batch().quarantine(reason));
        }
    }
}

fn initialize(opened: &mut OpenedStore, bootstrap: BootstrapState) -> Result<(), String> {
    opened.store.initialize(bootstrap.clone(), CLUSTER).map_err(|error| error.to_string())?;
    opened.identity = opened.store.identity().clone();
    opened.stored = opened.store.stored().clone();
    if let BootstrapState::Initialized { founders: Some(founders), .. } = &bootstrap {
        // Of these kinds, a no-op takes the place of the genesis.
        opened.entries = vec![Entry { payload: Payload::Noop, ..founders.first_entry() }];
    }
    opened.bootstrap = bootstrap;
    Ok(())
}
