//! The incarnations of a directory in one process: from bootstrap, if that is still to come, to the end in order, or to
//! quarantine, after which the next one begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::entry::{Entry, GenesisHash, Payload, SnapshotMeta};
use crate::fatal::Lifeline;
use crate::id::{ClusterId, NodeId, ReplicaId, StartTrail};
use crate::protocol::{Recovered, Time};
use crate::replica::bootstrap::{Bootstrap, Claim, Newcomer, Verdict};
use crate::replica::bootstrap_wait::{BootstrapWait, Departure};
use crate::replica::clock::Clock;
use crate::replica::configuration_source::ConfigurationSource;
use crate::replica::disk::{self, DiskJob};
use crate::replica::driver::{Behind, DISK_JOBS_MAX, Driver, join_disk};
use crate::replica::engine::{
    Counts, DIGEST_EVERY_ENTRIES, Engine, EngineStart, LOG_LIMITS, Portion, UNCOMMITTED_ENTRIES_MAX,
};
use crate::replica::handle::{Facts, Present, RequestQueue};
use crate::replica::inbox::{ANY_INCARNATION, Inbox, InputSender, NodeInput};
use crate::replica::incarnations::{now_unix_s, open_incarnations};
use crate::replica::kind::Kind;
use crate::replica::message::PeerMessage;
use crate::replica::metrics::Meters;
use crate::replica::options::{ReplicaOptions, StartError};
use crate::replica::scans::Scans;
use crate::replica::snapshots::{Fullness, Intake, SnapshotFiles, Watched};
use crate::replica::turn::{BootstrapRecord, Turns, WRITES_UNDER_WAY_HIGH};
use crate::replica::turn_executor::TurnExecutor;
use crate::replica::worker::Worker;
use crate::report::Reporter;
use crate::session::{Addresses, SessionCommand, SessionTable};
use crate::snapshot::SnapshotDir;
use crate::state_machine::StateMachine;
use crate::status::ServiceState;
use crate::storage::store::first_entry;
use crate::storage::{BootstrapState, Healing, OpenedStore, Quarantined, SeenStarts, Witness};
use crate::transport::{Admission, NotAdmitted, Transport, TransportConfig};
use crate::version::CommandVersions;

/// How often the queue is emptied while a quarantine is written down.
const QUARANTINE_LOOK: Duration = Duration::from_millis(5);

type Peers<P> = Transport<PeerMessage<<P as crate::protocol::Protocol>::Message>>;

/// Admits peers by what was seen of them.
#[derive(Debug)]
struct Gate {
    seen: Arc<SeenStarts>,
    lifeline: Lifeline,
    who: String,
}

impl Admission for Gate {
    fn admit(&self, node: NodeId, start: StartTrail) -> Result<(), NotAdmitted> {
        match self.seen.admit(node, start) {
            Ok(admitted) => Ok(admitted?),
            Err(error) => {
                self.lifeline.fail(&self.who, &format!("disk failed: {error}"));
                Err(NotAdmitted::Unable)
            }
        }
    }
}

/// What all incarnations of a directory that a process sees have in common.
pub(super) struct Site<P: Kind, S: StateMachine> {
    pub(super) options: Arc<ReplicaOptions>,
    pub(super) replicas: BTreeSet<ReplicaId>,
    pub(super) cluster: Option<ClusterId>,
    pub(super) source: Option<Arc<dyn ConfigurationSource>>,
    pub(super) exclusions: Receiver<Witness>,
    /// The image of the empty state, which each incarnation begins with.
    pub(super) empty: Arc<[u8]>,
    /// An empty state, of which each incarnation inherits what is not replicated.
    pub(super) origin: S,
    pub(super) inbox: Arc<Inbox<P, S>>,
    pub(super) inputs: InputSender<P, S>,
    pub(super) reporter: Reporter,
    pub(super) facts: Arc<Facts>,
    pub(super) queue: Arc<RequestQueue>,
    pub(super) executor: Arc<TurnExecutor<Driver<P, S>>>,
    pub(super) lifeline: Lifeline,
    pub(super) meters: Arc<Meters>,
}

impl<P: Kind, S: StateMachine> Site<P, S> {
    /// Whom work at snapshots belongs to.
    fn watched(&self) -> Watched {
        Watched { reporter: self.reporter.clone(), lifeline: self.lifeline.clone() }
    }
}

/// What the replica thread works with: one incarnation of the directory. If that ends in quarantine, the next one
/// begins.
pub(super) struct IncarnationRun<P: Kind, S: StateMachine> {
    site: Site<P, S>,
    number: u64,
    store: Box<OpenedStore>,
    quarantine: Option<String>,
    files: SnapshotFiles,
    state: S,
    inputs: InputSender<P, S>,
    transport: Arc<Peers<P>>,
    /// Empty until it is initialized; whoever takes snapshots in looks at it.
    genesis: Arc<OnceLock<GenesisHash>>,
}

/// What an incarnation begins with, from the image of the empty state.
pub(super) fn empty_state<S: StateMachine>(image: &[u8], origin: &S) -> Result<S, StartError> {
    let state = S::restore(&mut &image[..]);
    let mut state = state.map_err(|error| StartError::new(format!("the empty state: {error}")))?;
    state.inherit(origin);
    Ok(state)
}

/// Where the replicas of the group are reached, by all that is here: they have to be reached before it can be known
/// what of the log is committed. Who answers there is compared.
fn addresses_in(sessions: &SessionTable, entries: &[Entry]) -> Addresses {
    let mut addresses = sessions.addresses().clone();
    for entry in entries {
        if let Payload::Command(bytes) = &entry.payload
            && let Ok(SessionCommand::Addresses { addresses: newer }) = SessionCommand::decode(bytes)
        {
            addresses.extend(newer);
        }
    }
    addresses
}

/// How an incarnation ended.
enum End<P: Kind, S: StateMachine> {
    /// The replica was stopped.
    Stopped,
    /// It is in quarantine.
    Quarantined(Box<(Site<P, S>, Quarantined)>),
}

impl<P: Kind, S: StateMachine> IncarnationRun<P, S> {
    /// Makes connections; the replica thread does the rest.
    pub(super) fn begin(
        site: Site<P, S>,
        number: u64,
        store: Box<OpenedStore>,
        snapshots: SnapshotDir,
        quarantine: Option<String>,
        state: S,
    ) -> Result<IncarnationRun<P, S>, StartError> {
        let options = &site.options;
        let node = store.identity.node;
        let initialized = match &store.bootstrap {
            BootstrapState::Initialized { genesis, .. } => Some(*genesis),
            BootstrapState::Uninitialized | BootstrapState::Excluded { .. } => None,
        };
        let files = SnapshotFiles { dir: snapshots, fullness: Fullness::default() };
        let inputs = site.inputs.of_incarnation(number);
        let genesis = Arc::new(OnceLock::new());
        let intake =
            Intake::<P, S>::new(files.clone(), genesis.clone(), inputs.clone(), site.watched(), site.meters.clone());
        let config = TransportConfig {
            group: options.group.clone(),
            node,
            cluster: store.identity.cluster.or(site.cluster),
            genesis: initialized,
            start: store.start,
            kind: options.kind,
            commands: CommandVersions::with_machine(S::COMMANDS_VERSION),
            admission: Arc::new(Gate {
                seen: store.seen_starts.clone(),
                lifeline: site.lifeline.clone(),
                who: site.reporter.who().to_owned(),
            }),
            peers: options.peers.clone(),
        };
        let cannot = |error| StartError::new(format!("cannot serve peers: {error}"));
        // The next incarnation listens where this one did.
        let listener = options.listener.try_clone().map_err(cannot)?;
        let (runtime, sink) = (options.runtime.clone(), Arc::new(inputs.clone()));
        let transport = Transport::start(config, listener, runtime, sink, Arc::new(intake)).map_err(cannot)?;
        *site.facts.present() =
            Present { incarnation: node.incarnation, start: store.start, genesis: initialized, retired: None };
        let transport = Arc::new(transport);
        let (watched, timed) = (Arc::downgrade(&transport), Arc::downgrade(&transport));
        site.meters.watch_transport(
            move || watched.upgrade().map(|transport| transport.stats()),
            move |known_after| timed.upgrade().map(|transport| transport.take_round_trips(known_after)),
        );
        Ok(IncarnationRun { number, store, quarantine, files, state, inputs, transport, genesis, site })
    }

    /// One incarnation after the other, to the orderly end.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            let number = self.number;
            match self.live()? {
                End::Stopped => return Ok(()),
                End::Quarantined(quarantined) => {
                    let (site, quarantined) = *quarantined;
                    self = IncarnationRun::after(site, number, quarantined).map_err(|error| error.to_string())?;
                }
            }
        }
    }

    /// The incarnation after one that is in quarantine: uninitialized, until the group takes it in.
    fn after(site: Site<P, S>, number: u64, quarantined: Quarantined) -> Result<IncarnationRun<P, S>, StartError> {
        let reason = quarantined.reason.clone();
        let directory = quarantined.into_next_incarnation()?;
        let (store, snapshots, _) = open_incarnations(directory, &site.options, &site.reporter, &site.lifeline)?;
        let state = empty_state(&site.empty, &site.origin)?;
        IncarnationRun::begin(site, number + 1, store, snapshots, Some(reason), state)
    }

    /// From the bootstrap, if that is still to come, to the end of this incarnation.
    fn live(mut self) -> Result<End<P, S>, String> {
        if !self.store.bootstrap.is_initialized() {
            match self.initialize()? {
                Departure::Initialized(_) => {}
                Departure::Stopped => {
                    self.site.queue.close();
                    return Ok(End::Stopped);
                }
                Departure::Disqualified(reason) => {
                    let IncarnationRun { site, store, transport, .. } = self;
                    transport.shutdown();
                    site.reporter.line(&format!("quarantined: {reason}"));
                    let quarantined = store.store.into_quarantine(&reason, now_unix_s());
                    let quarantined = quarantined.map_err(|error| error.to_string())?;
                    return Ok(End::Quarantined(Box::new((site, quarantined))));
                }
            }
        }
        let BootstrapState::Initialized { genesis, founders } = self.store.bootstrap.clone() else {
            panic!("replica {} serves uninitialized", self.store.identity.node);
        };
        let cluster = self.store.identity.cluster.or(self.site.cluster);
        self.transport.set_bootstrap(cluster, genesis);
        // Set once for an incarnation.
        let _ = self.genesis.set(genesis);
        if let Some(cluster) = cluster {
            let _ = self.site.facts.cluster.set(cluster);
        }
        self.site.facts.present().genesis = Some(genesis);
        self.serve(BootstrapRecord { genesis, founders, cluster })
    }

    /// Waits for the bootstrap and makes it durable, or says what else ended the wait.
    fn initialize(&mut self) -> Result<Departure, String> {
        let site = &self.site;
        let node = self.store.identity.node;
        let service_state = match (&self.quarantine, &self.store.bootstrap) {
            (Some(reason), _) => ServiceState::Quarantined { reason: reason.clone() },
            (None, BootstrapState::Excluded { witness }) => {
                let reason = Bootstrap::excluded_because(&site.options.group, node, *witness);
                site.reporter.line(&format!("quarantined: {reason}"));
                ServiceState::Quarantined { reason }
            }
            (None, _) => ServiceState::Uninitialized,
        };
        let group = &site.options.group;
        let is_excluded = service_state != ServiceState::Uninitialized || site.options.joins;
        let bootstrap = Bootstrap::new(Newcomer {
            node,
            cluster: site.cluster,
            group: group.clone(),
            replicas: site.replicas.clone(),
            // The operator's word was for the incarnation that was there when it was given.
            claim: Claim { is_excluded, found_anew: site.options.found_anew && self.quarantine.is_none() },
            is_recorded: site.source.is_some(),
        });
        let wait = BootstrapWait {
            group,
            node,
            replicas: &site.replicas,
            service_state,
            sync_mode: self.store.durability(),
            inbox: &site.inbox,
            incarnation: self.number,
            transport: &self.transport,
            reporter: &site.reporter,
            store: &mut self.store.store,
            source: site.source.as_ref(),
            exclusions: &site.exclusions,
            has_service: site.options.kind.epochs().is_some(),
            lifeline: &site.lifeline,
        };
        let departure = wait.wait(bootstrap)?;
        let (bootstrap, cluster) = match &departure {
            Departure::Stopped | Departure::Disqualified(_) => return Ok(departure),
            Departure::Initialized(Verdict::Founder(genesis)) => {
                site.reporter.line(&format!("founder of group {group} with {} members", genesis.members.len()));
                let cluster = genesis.cluster_id();
                (BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis.clone()) }, cluster)
            }
            Departure::Initialized(Verdict::TakenIn { genesis, cluster }) => {
                site.reporter.line(&format!("taken into group {group}"));
                // The founding group's genesis is the cluster's id, unless it follows another group.
                let cluster = site.cluster.or(*cluster).unwrap_or(ClusterId(genesis.0));
                (BootstrapState::Initialized { genesis: *genesis, founders: None }, cluster)
            }
            Departure::Initialized(verdict) => panic!("replica {node} stopped waiting for its group with {verdict:?}"),
        };
        let store = &mut self.store.store;
        store.initialize(bootstrap.clone(), cluster).map_err(|error| format!("disk failed: {error}"))?;
        self.store.identity = store.identity().clone();
        self.store.stored = store.stored().clone();
        if let BootstrapState::Initialized { founders: Some(founders), .. } = &bootstrap {
            self.store.entries = vec![first_entry(store.kind(), founders)];
        }
        self.store.bootstrap = bootstrap;
        Ok(departure)
    }

    /// Recovers the state, starts the disk thread, and drives the core until the replica stops or is quarantined.
    fn serve(self, bootstrap_record: BootstrapRecord) -> Result<End<P, S>, String> {
        let IncarnationRun { site, store: opened, quarantine, files: snapshots, state, inputs, transport, .. } = self;
        let (options, reporter, lifeline) = (&site.options, &site.reporter, &site.lifeline);
        let node = opened.identity.node;
        let latest = snapshots.dir.latest();
        let (sessions, state, meta, snapshot_len_bytes) = match latest {
            None => (SessionTable::new(), state, SnapshotMeta::default(), 0),
            Some(info) => {
                let (sessions, mut restored) = snapshots.restore::<S>(lifeline, &info).map_err(|error| {
                    let why = format!("snapshot {:?} cannot be read: {error}", info.meta.last);
                    if error.is_of_another_format() {
                        lifeline.outdated(reporter.who(), &why);
                    }
                    why
                })?;
                restored.inherit(&state);
                restored.begins_after(info.meta.last.index);
                (sessions, restored, info.meta, info.len_bytes)
            }
        };
        transport.set_addresses(&addresses_in(&sessions, &opened.entries));
        let clock = Clock::start();
        let snapshot = meta.last;
        let sync_mode = opened.durability();
        let healing = opened.healing;
        let heals_past = healing.as_ref().map(|healing| healing.past);
        let recovered = Recovered { stored: opened.stored, snapshot: meta, entries: opened.entries, heals_past };
        let (core, admin) = P::build(options, node, recovered, clock.now());
        let has_checkpoints = core.makes_checkpoints();
        let service_state = match quarantine.clone() {
            Some(reason) => ServiceState::Quarantined { reason },
            None => ServiceState::InService,
        };
        let engine = Engine::new(EngineStart {
            group: options.group.clone(),
            service_state,
            healing: healing.as_ref().map(Healing::describe),
            sync_mode,
            core,
            admin,
            state,
            sessions,
            snapshot,
            snapshot_len_bytes,
            log_limits: LOG_LIMITS,
            digest_every_entries: DIGEST_EVERY_ENTRIES,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            nonce_seed: rand::random(),
            portion: Portion::default(),
        });
        let mut engine = engine;
        engine.tune(clock.now(), &site.facts.tuning());
        let (jobs, jobs_inbox) = bounded::<DiskJob<P::Message>>(DISK_JOBS_MAX);
        let disk_thread = {
            let (inputs, transport, store) = (inputs.clone(), transport.clone(), opened.store);
            let meters = site.meters.clone();
            lifeline
                .spawn(format!("{} disk", reporter.who()), move || {
                    disk::run::<P, S>(store, &jobs_inbox, &inputs, &transport, &meters)
                })
                .map_err(|error| format!("no disk thread: {error}"))?
        };
        let no_thread = |error: std::io::Error| format!("no thread: {error}");
        let scans = Scans::start(lifeline, reporter.who(), options.runtime.clone()).map_err(no_thread)?;
        let snapshot_worker = Worker::start(lifeline, format!("{} snapshot", reporter.who())).map_err(no_thread)?;
        let digest_worker = Worker::start(lifeline, format!("{} digest", reporter.who())).map_err(no_thread)?;
        let start_worker = || Worker::start(lifeline, format!("{} checkpoint", reporter.who()));
        let checkpoint_worker = has_checkpoints.then(start_worker).transpose().map_err(no_thread)?;
        let (quarantined, is_quarantined) = bounded(1);
        let driver = Driver {
            sending: BTreeMap::new(),
            turns: Turns::new(engine, bootstrap_record, quarantine.is_some(), WRITES_UNDER_WAY_HIGH),
            clock,
            facts: site.facts.clone(),
            inbox: site.inbox.clone(),
            inputs: inputs.clone(),
            disk: jobs,
            transport: transport.clone(),
            snapshots,
            runtime: options.runtime.clone(),
            reporter: reporter.clone(),
            source: site.source.clone(),
            scans,
            snapshot_worker,
            digest_worker,
            checkpoint_worker,
            lifeline: lifeline.clone(),
            meters: site.meters.clone(),
            counted: Counts::default(),
            behind: Behind::default(),
            next_wakeup: Time(0),
            concerned: 0,
            stopping: None,
            quarantined,
            is_quarantined: false,
        };
        let ended = site.executor.run(driver);
        transport.shutdown();
        ended?;
        let mut stopping = None;
        loop {
            match is_quarantined.recv_timeout(QUARANTINE_LOOK) {
                Ok(quarantined) if stopping.is_none() => {
                    return Ok(End::Quarantined(Box::new((site, quarantined))));
                }
                // Nothing is under way that would send it, or someone has asked meanwhile that the replica stop.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                // The disk thread may wait for room here before it comes to its last job.
                Err(RecvTimeoutError::Timeout) => {
                    while let Some(event) = site.inbox.next_event(ANY_INCARNATION) {
                        if let NodeInput::Shutdown(done) = event {
                            stopping = Some(done);
                        }
                    }
                }
            }
        }
        site.queue.close();
        // The queues close, so that no one waits for room there.
        drop(site);
        join_disk(disk_thread);
        if let Some(done) = stopping {
            // No one may be waiting for it any more.
            let _ = done.send(());
        }
        Ok(End::Stopped)
    }
}
