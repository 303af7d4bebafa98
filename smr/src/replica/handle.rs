//! How a process starts a replica and talks to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::sync::oneshot;

use crate::disk::{Disk, RealDisk};
use crate::entry::{GenesisHash, Promise, SnapshotMeta, Term};
use crate::fatal::{end_process, exit_on_panic, spawn_vital};
use crate::id::{ClusterId, Disqualified, GroupName, Incarnation, NodeId, NodeName, StartTrail};
use crate::protocol::{Protocol, Recovered, Time};
use crate::raft::{CLOCK_DRIFT_PERMILLE, Raft, Settings};
use crate::replica::admin::RaftAdmin;
use crate::replica::birth::{Claim, Newcomer, Unborn, Verdict};
use crate::replica::configuration_source::ConfigurationSource;
use crate::replica::disk::{self, DiskJob};
use crate::replica::driver::{ANY_LIFE, Clock, DISK_JOBS_MAX, Driver, Happening, Inbox, News, WaitingBytes, join_disk};
use crate::replica::engine::{
    BUSY_RETRY_MS, DIGEST_EVERY_ENTRIES, Engine, EngineStart, LOG_LIMITS, Portion, UNCOMMITTED_ENTRIES_MAX,
};
use crate::replica::helm::Helm;
use crate::replica::message::PeerMessage;
use crate::replica::recovery::Unsettled;
use crate::replica::scans::Scans;
use crate::replica::snapshots::{Fullness, Intake, SnapshotFiles, aside};
use crate::replica::turn::{Certificate, EVENTS_MAX, REQUESTS_MAX, Turns, WRITES_UNDER_WAY_HIGH};
use crate::replica::waiting_room::{Departure, WaitingRoom};
use crate::replica::worker::Worker;
use crate::replica::{Outcome, ReplySink, ReplyTo, Request, Submit};
use crate::report::Reporter;
use crate::session::SessionTable;
use crate::snapshot::SnapshotDir;
use crate::state_machine::Image as _;
use crate::state_machine::StateMachine;
use crate::status::{ReadMode, Standing};
use crate::storage::{
    self, Birth, Healing, OpenedStore, Quarantined, ReplicaDirectory, Seat, SeenStarts, Store, StoreOptions,
    Succession, SyncMode, Witness,
};
use crate::transport::{Admission, Transport, TransportConfig};
use crate::version::CommandVersions;

/// How long [`ReplicaHandle::shutdown`] waits for the replica thread.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the queue is emptied while a quarantine is written down.
const QUARANTINE_LOOK: Duration = Duration::from_millis(5);

/// Lives of a directory that are looked at in one start: the damaged one, its damaged next one, and a fresh one.
const LIVES_MAX: usize = 3;

/// What a replica needs to know to start.
pub struct ReplicaOptions {
    /// Its group.
    pub group: GroupName,
    /// Its seat.
    pub name: NodeName,
    /// `host:port` of every other seat of the group.
    pub peers: BTreeMap<NodeName, String>,
    /// Where peers reach this replica; bound by the caller, so that a test can take a free port.
    pub listener: TcpListener,
    /// Its directory; made if it does not exist.
    pub directory: PathBuf,
    /// What keeps the log. A directory keeps the one that it was made with.
    pub log_engine: storage::Engine,
    /// Start although writes cannot be proved to reach the device.
    pub allow_unsynced: bool,
    /// The operator's word that the group begins again: together with all other replicas of the group, if they were all
    /// told so and none of them has data, this one founds a group in place of the one that was there.
    pub found_anew: bool,
    /// How reads are confirmed while this replica leads.
    pub reads: ReadMode,
    /// For leases: by how much the rates of two replicas' clocks may differ, per thousand.
    pub clock_drift_permille: u64,
    /// Where the network tasks run.
    pub runtime: tokio::runtime::Handle,
}

impl ReplicaOptions {
    /// Replica `name` of `group`, reached by its peers over `listener`, with its data in `directory`, and alone until
    /// `peers` are named. Everything else is as most want it: writes that reach the device or a refusal to start, the
    /// default log engine, reads confirmed by a round of messages.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime, which the network tasks run on.
    pub fn new(group: GroupName, name: NodeName, listener: TcpListener, directory: impl Into<PathBuf>) -> Self {
        ReplicaOptions {
            group,
            name,
            peers: BTreeMap::new(),
            listener,
            directory: directory.into(),
            log_engine: storage::Engine::default(),
            allow_unsynced: false,
            found_anew: false,
            reads: ReadMode::Index,
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

/// Why a replica cannot start. One line for a person; the process exits with a non-zero code.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// The line.
    pub what: String,
    /// Whether another command line would do.
    pub is_usage: bool,
}

impl StartError {
    pub(super) fn of(error: impl std::fmt::Display) -> StartError {
        StartError::new(error.to_string())
    }

    pub(super) fn new(what: String) -> StartError {
        StartError { what, is_usage: false }
    }
}

impl From<storage::OpenError> for StartError {
    fn from(error: storage::OpenError) -> StartError {
        StartError { what: error.to_string(), is_usage: matches!(error, storage::OpenError::OtherEngine { .. }) }
    }
}

impl From<storage::StorageError> for StartError {
    fn from(error: storage::StorageError) -> StartError {
        StartError::of(error)
    }
}

type Peers = Transport<PeerMessage<<Raft as Protocol>::Message>>;

/// A replica whose directory is open and locked, but which does not run yet. In between, a server registers with the
/// manager under the incarnation that it found or made.
pub struct Opened {
    options: ReplicaOptions,
    store: Box<OpenedStore>,
    snapshots: SnapshotDir,
    /// Why the former life of this directory ended, if it did.
    quarantine: Option<String>,
    reporter: Reporter,
    /// The group that this directory was recovered from, and has not replaced yet.
    unsettled: Option<Unsettled>,
}

impl Opened {
    /// Opens (or makes) the directory and locks it.
    ///
    /// # Errors
    /// If it is locked, foreign, of another version, or cannot be read. Damage is no error: the replica is then
    /// quarantined, and waits in a next life until it is readmitted.
    pub fn open(options: ReplicaOptions) -> Result<Opened, StartError> {
        exit_on_panic();
        let reporter = Reporter::new(&options.group, options.name);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let seat = Seat { group: options.group.clone(), name: options.name, cluster: None };
        let directory = ReplicaDirectory::open(disk.clone(), &options.directory, seat).map_err(StartError::of)?;
        let (store, snapshots, quarantine) = open_lives(directory, &options, &reporter)?;
        let mut opened = Opened::with(options, store, snapshots, quarantine, reporter);
        if opened.quarantine.is_none() {
            let (root, genesis) = (opened.options.directory.clone(), opened.genesis());
            opened.unsettled = Unsettled::of(&root, genesis, opened.options.found_anew)?;
        }
        opened.mind_the_word();
        Ok(opened)
    }

    /// The group that this directory's is to replace, by the operator's word: it was recovered. Nobody may run it
    /// before that is recorded, wherever geneses are, and [`Opened::settle`] has noted it.
    pub fn succession(&self) -> Option<&Succession> {
        self.unsettled.as_ref().map(|unsettled| &unsettled.0)
    }

    /// The old group is replaced. Durable when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn settle(&mut self) -> Result<(), StartError> {
        if let Some(Unsettled(succession)) = self.unsettled.take() {
            Succession::settle(&RealDisk, &self.options.directory)?;
            let (group, old) = (&self.options.group, succession.instead_of);
            self.reporter
                .line(&format!("group {group} goes on with this replica alone, instead of the one with genesis {old}"));
        }
        Ok(())
    }

    /// Puts the directory into quarantine for what somebody knows of it, and goes on in its next life.
    ///
    /// # Errors
    /// If that cannot be written down, or no other life can be begun.
    pub fn disqualify(self, why: Disqualified, by: &str) -> Result<Opened, StartError> {
        let Opened { options, store, reporter, quarantine, .. } = self;
        let quarantined = store.store.into_quarantine(&disqualification(why, by), now_unix_s())?;
        reporter.line(&format!("quarantined: {}", quarantined.reason));
        let reason = quarantine.unwrap_or_else(|| quarantined.reason.clone());
        let life = quarantined.into_next_life()?;
        let (store, snapshots, _) = open_lives(life, &options, &reporter)?;
        let mut opened = Opened::with(options, store, snapshots, Some(reason), reporter);
        opened.mind_the_word();
        Ok(opened)
    }

    fn with(
        options: ReplicaOptions,
        store: Box<OpenedStore>,
        snapshots: SnapshotDir,
        quarantine: Option<String>,
        reporter: Reporter,
    ) -> Opened {
        Opened { options, store, snapshots, quarantine, reporter, unsettled: None }
    }

    /// Where there is data, nothing is founded anew.
    fn mind_the_word(&mut self) {
        if !self.options.found_anew || !self.is_born() && self.quarantine.is_none() {
            return;
        }
        self.options.found_anew = false;
        if self.unsettled.is_none() {
            let directory = self.options.directory.display();
            let data = if self.quarantine.is_some() { "damaged data" } else { "data" };
            self.reporter.line(&format!("--found_anew: ignored, {directory} has {data} of the group"));
        }
    }

    /// The incarnation of this directory.
    pub fn incarnation(&self) -> Incarnation {
        self.store.identity.node.incarnation
    }

    /// This start of its process, counted durably.
    pub fn start(&self) -> StartTrail {
        self.store.start
    }

    /// The cluster that this directory belongs to, if it is recorded.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.store.identity.cluster
    }

    /// Whether this directory has been born: is or was a member of its group.
    pub fn is_born(&self) -> bool {
        self.store.birth.is_born()
    }

    /// The genesis of its group, once it has been born.
    pub fn genesis(&self) -> Option<GenesisHash> {
        match &self.store.birth {
            Birth::Born { genesis, .. } => Some(*genesis),
            Birth::Unborn | Birth::Excluded { .. } => None,
        }
    }

    /// Somebody says that the group exists without this directory: from now on it never founds one, unless the operator
    /// says so. Durable when this returns. A directory that has been born stays what it is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn exclude(&mut self, witness: Witness) -> Result<(), StartError> {
        if self.is_born() {
            return Ok(());
        }
        self.store.store.exclude(witness).map_err(StartError::of)?;
        self.store.birth = self.store.store.birth().clone();
        Ok(())
    }

    /// Runs the replica. `cluster` is `None` only for the group whose genesis makes the cluster id, and so is `source`:
    /// who records the geneses of the others. `state` is the empty state; the snapshot and the log are applied on top
    /// of it. Threads of the replica end the process on a fatal error.
    ///
    /// # Errors
    /// If `cluster` is not the recorded one, or threads or sockets cannot be made.
    pub fn run<S: StateMachine>(
        self,
        cluster: Option<ClusterId>,
        source: Option<Arc<dyn ConfigurationSource>>,
        state: S,
    ) -> Result<ReplicaHandle, StartError> {
        let genesis = self.genesis();
        let Opened { options, store, snapshots, quarantine, reporter, unsettled } = self;
        assert!(unsettled.is_none(), "{}: recovered, and not settled", options.directory.display());
        let node = store.identity.node;
        if let (Some(recorded), Some(given)) = (store.identity.cluster, cluster)
            && recorded != given
        {
            let directory = options.directory.display();
            return Err(StartError::new(format!("{directory}: belongs to cluster {recorded}, not to {given}")));
        }
        let cluster = store.identity.cluster.or(cluster);
        let (events, events_inbox) = bounded(EVENTS_MAX);
        let (requests, requests_inbox) = bounded(REQUESTS_MAX);
        let gate = Arc::new(RequestGate { leftovers: requests_inbox.clone(), closed: AtomicBool::new(false) });
        let (exclude, exclusions) = bounded(1);
        let facts = Arc::new(Facts {
            cluster: OnceLock::new(),
            present: Mutex::new(Present { incarnation: node.incarnation, start: store.start, genesis }),
        });
        let waiting_bytes = Arc::new(WaitingBytes::default());
        let inbox = Inbox { events: events_inbox, requests: requests_inbox, waiting_bytes: waiting_bytes.clone() };
        let inbox = Arc::new(inbox);
        let helm = {
            // The queues close with the driver, so that whoever would tell it something learns that it has stopped.
            let inbox = Arc::downgrade(&inbox);
            let has_news = move || inbox.upgrade().is_some_and(|inbox| inbox.has_news());
            Arc::new(Helm::new(format!("{} replica", reporter.who()), has_news))
        };
        let news = News { events, life: ANY_LIFE, waiting_bytes, helm: helm.clone() };
        let mut empty = Vec::new();
        state.image().write(&mut empty).map_err(|error| StartError::new(format!("the empty state: {error}")))?;
        let site = Site {
            seats: options.peers.keys().copied().chain([options.name]).collect(),
            cluster,
            source,
            exclusions,
            empty: empty.into(),
            inbox,
            news: news.clone(),
            reporter: reporter.clone(),
            facts: facts.clone(),
            gate: gate.clone(),
            options: Arc::new(options),
        };
        let replica = Life::begin(site, 1, store, snapshots, quarantine, state)?;
        spawn_vital(format!("{} replica", reporter.who()), move || replica.run())
            .map_err(|error| StartError::new(format!("no replica thread: {error}")))?;
        let disqualify = {
            let news = news.clone();
            move |reason| news.tell_within(Happening::Disqualified(reason), SHUTDOWN_TIMEOUT)
        };
        let stop = move || {
            let (done, stopped) = bounded(1);
            if news.tell_within(Happening::Shutdown(done), SHUTDOWN_TIMEOUT) {
                // Stopped, or too late: the process ends either way, and a restart recovers.
                let _ = stopped.recv_timeout(SHUTDOWN_TIMEOUT);
            }
        };
        let steer = Arc::new(move || helm.steer());
        let disqualify = Arc::new(disqualify);
        Ok(ReplicaHandle { requests, gate, steer, stop: Arc::new(stop), exclude, disqualify, facts })
    }
}

/// Opens the life of a directory that may count: the first one that is not damaged. Says why an earlier one ended, if
/// it did.
fn open_lives(
    directory: ReplicaDirectory,
    options: &ReplicaOptions,
    reporter: &Reporter,
) -> Result<(Box<OpenedStore>, SnapshotDir, Option<String>), StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut life = directory;
    let mut quarantine = None;
    for _ in 0..LIVES_MAX {
        let quarantined = match open_life(&disk, life, options, reporter)? {
            (storage::Opened::Store(store), snapshots) => {
                let snapshots = snapshots.ok_or_else(|| {
                    StartError::new("snapshots were not looked for in a directory that was opened".to_owned())
                })?;
                if store.sync_mode != SyncMode::Synced {
                    reporter.line(&format!("writes are not proved to reach the device: {}", store.sync_mode));
                }
                return Ok((store, snapshots, quarantine));
            }
            (storage::Opened::Quarantined(quarantined), _) => quarantined,
        };
        reporter.line(&format!("quarantined: {}", quarantined.reason));
        quarantine.get_or_insert(quarantined.reason.clone());
        // Should the next life be damaged, too, yet another one takes its place.
        life = quarantined.into_next_life().map_err(StartError::of)?;
    }
    Err(StartError::new(format!("{}: each life that is begun here is damaged at once", options.directory.display())))
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// For the file and for people.
pub(super) fn disqualification(why: Disqualified, by: &str) -> String {
    format!("{why} ({by} says so)")
}

/// Opens one life of a directory: snapshots first, because they say where the log must begin. A quarantined life is
/// left alone.
fn open_life(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
    options: &ReplicaOptions,
    reporter: &Reporter,
) -> Result<(storage::Opened, Option<SnapshotDir>), StartError> {
    let mut snapshot = SnapshotMeta::default();
    let mut snapshots = None;
    if directory.quarantined().is_none() {
        // Reads the newest one whole, on processors that others in service may share.
        let (disk, path, group) = (disk.clone(), directory.snapshots(), options.group.clone());
        let genesis = directory.genesis();
        let (found, newest) = aside(move || SnapshotDir::open(disk, path, group, genesis))
            .map_err(|error| StartError::new(format!("{}: {error}", directory.snapshots().display())))?;
        found.notes().iter().for_each(|note| reporter.line(note));
        snapshot = newest.map(|info| info.meta).unwrap_or_default();
        snapshots = Some(found);
    }
    let opened = Store::open(
        directory,
        &StoreOptions {
            snapshot,
            incarnation_if_new: Incarnation(rand::random::<u64>().max(1)),
            engine: options.log_engine,
            allow_unsynced: options.allow_unsynced,
            now_unix_s: now_unix_s(),
            start_nonce: rand::random(),
        },
    )
    .map_err(StartError::from)?;
    if let storage::Opened::Store(store) = &opened {
        store.notes.iter().for_each(|note| reporter.line(note));
    }
    Ok((opened, snapshots))
}

/// Admits peers by what was seen of them.
#[derive(Debug)]
struct Gate {
    seen: Arc<SeenStarts>,
    reporter: Reporter,
}

impl Admission for Gate {
    fn admit(&self, node: NodeId, start: StartTrail) -> Result<(), Disqualified> {
        let admitted = self.seen.admit(node, start);
        admitted.unwrap_or_else(|error| end_process(self.reporter.who(), &format!("disk failed: {error}")))
    }
}

/// What the handle may be asked without a trip through the replica thread.
struct Facts {
    cluster: OnceLock<ClusterId>,
    present: Mutex<Present>,
}

/// The present life.
struct Present {
    incarnation: Incarnation,
    start: StartTrail,
    /// Once it is born.
    genesis: Option<GenesisHash>,
}

impl Facts {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of requests once nobody serves it any more. Closing a queue of this kind leaves what is in it where it is.
struct RequestGate {
    leftovers: Receiver<(Request, ReplyTo)>,
    closed: AtomicBool,
}

impl RequestGate {
    /// From now on each request is refused, those that wait included.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.refuse_if_closed();
    }

    /// Called after each request that was queued: either the one who closed the gate has found it, or this does.
    fn refuse_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) {
            for (_, reply) in self.leftovers.try_iter() {
                reply.send(Outcome::OutOfService("stopping".to_owned()));
            }
        }
    }
}

/// A running replica. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaHandle {
    requests: Sender<(Request, ReplyTo)>,
    gate: Arc<RequestGate>,
    steer: Arc<dyn Fn() + Send + Sync>,
    stop: Arc<dyn Fn() + Send + Sync>,
    exclude: Sender<Witness>,
    disqualify: Arc<dyn Fn(String) -> bool + Send + Sync>,
    facts: Arc<Facts>,
}

impl ReplicaHandle {
    /// As [`Submit::submit`]. If the queue is full the outcome is `Busy`, at once.
    pub fn submit(&self, request: Request, reply: ReplyTo) {
        Submit::submit(self, request, reply);
    }

    /// Asks something whose answer comes whole, and waits for it; `None` if the answer came in parts or never will.
    pub async fn ask(&self, request: Request) -> Option<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let sink = Arc::new(Asker(Mutex::new(Some(sender))));
        self.submit(request, ReplyTo { tag: 0, sink });
        receiver.await.ok()
    }

    /// The cluster id once it is known (a founding group learns it at birth).
    pub fn cluster(&self) -> Option<ClusterId> {
        self.facts.cluster.get().copied()
    }

    /// Whether the replica is born: a member, or about to be one.
    pub fn is_born(&self) -> bool {
        self.facts.present().genesis.is_some()
    }

    /// The genesis of its group, once it is born.
    pub fn genesis(&self) -> Option<GenesisHash> {
        self.facts.present().genesis
    }

    /// As [`Opened::exclude`], while the replica runs. It is done soon, and has no effect on one that is born.
    pub fn exclude(&self, witness: Witness) {
        // If one waits there already, that one is enough; if nobody listens, the replica is born.
        let _ = self.exclude.try_send(witness);
    }

    /// The present incarnation of the directory, and this start of it.
    pub fn start(&self) -> (Incarnation, StartTrail) {
        let present = self.facts.present();
        (present.incarnation, present.start)
    }

    /// Somebody outside of the group knows why this replica must not take part any longer: it goes into quarantine.
    /// Says whether it was told.
    pub fn disqualify(&self, why: Disqualified, by: &str) -> bool {
        (self.disqualify)(disqualification(why, by))
    }

    /// Hands leadership over if it leads, lets what is under way finish, and stops. Blocks for at most 6 s.
    pub fn shutdown(&self) {
        (self.stop)();
    }
}

/// Somebody who waits for one outcome.
struct Asker(Mutex<Option<oneshot::Sender<Outcome>>>);

impl ReplySink for Asker {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Whoever waited may have gone.
            let _ = sender.send(outcome);
        }
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

impl Submit for ReplicaHandle {
    fn queue(&self, request: Request, reply: ReplyTo) {
        match self.requests.try_send((request, reply)) {
            Ok(()) => self.gate.refuse_if_closed(),
            Err(TrySendError::Full((_, reply))) => reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }),
            Err(TrySendError::Disconnected((_, reply))) => reply.send(Outcome::OutOfService("stopping".to_owned())),
        }
    }

    fn flush(&self) {
        (self.steer)();
    }
}

/// What all lives of a directory that a process sees have in common.
struct Site<S: StateMachine> {
    options: Arc<ReplicaOptions>,
    seats: BTreeSet<NodeName>,
    cluster: Option<ClusterId>,
    source: Option<Arc<dyn ConfigurationSource>>,
    exclusions: Receiver<Witness>,
    /// The image of the empty state, which each life begins with.
    empty: Arc<[u8]>,
    inbox: Arc<Inbox<Raft, S>>,
    news: News<Raft, S>,
    reporter: Reporter,
    facts: Arc<Facts>,
    gate: Arc<RequestGate>,
}

/// What the replica thread works with: one life of the directory. If that ends in quarantine, the next one begins.
struct Life<S: StateMachine> {
    site: Site<S>,
    number: u64,
    store: Box<OpenedStore>,
    quarantine: Option<String>,
    files: SnapshotFiles,
    state: S,
    news: News<Raft, S>,
    transport: Arc<Peers>,
    /// Empty until it is born; whoever takes snapshots in looks at it.
    genesis: Arc<OnceLock<GenesisHash>>,
}

/// How a life ended.
enum End<S: StateMachine> {
    /// The replica was stopped.
    Stopped,
    /// It is in quarantine.
    Quarantined(Box<(Site<S>, Quarantined)>),
}

impl<S: StateMachine> Life<S> {
    /// Makes connections; the replica thread does the rest.
    fn begin(
        site: Site<S>,
        number: u64,
        store: Box<OpenedStore>,
        snapshots: SnapshotDir,
        quarantine: Option<String>,
        state: S,
    ) -> Result<Life<S>, StartError> {
        let options = &site.options;
        let node = store.identity.node;
        let born = match &store.birth {
            Birth::Born { genesis, .. } => Some(*genesis),
            Birth::Unborn | Birth::Excluded { .. } => None,
        };
        let files = SnapshotFiles { dir: snapshots, fullness: Fullness::default() };
        let news = site.news.of_life(number);
        let genesis = Arc::new(OnceLock::new());
        let intake = Intake::<Raft, S>::new(files.clone(), genesis.clone(), news.clone(), site.reporter.clone());
        let config = TransportConfig {
            group: options.group.clone(),
            node,
            cluster: store.identity.cluster.or(site.cluster),
            genesis: born,
            start: store.start,
            commands: CommandVersions::FIRST,
            admission: Arc::new(Gate { seen: store.seen_starts.clone(), reporter: site.reporter.clone() }),
            peers: options.peers.clone(),
        };
        let cannot = |error| StartError::new(format!("cannot serve peers: {error}"));
        // The next life listens where this one did.
        let listener = options.listener.try_clone().map_err(cannot)?;
        let (runtime, sink) = (options.runtime.clone(), Arc::new(news.clone()));
        let transport = Transport::start(config, listener, runtime, sink, Arc::new(intake)).map_err(cannot)?;
        *site.facts.present() = Present { incarnation: node.incarnation, start: store.start, genesis: born };
        Ok(Life { number, store, quarantine, files, state, news, transport: Arc::new(transport), genesis, site })
    }

    /// One life after the other, to the orderly end.
    fn run(mut self) -> Result<(), String> {
        loop {
            let number = self.number;
            match self.live()? {
                End::Stopped => return Ok(()),
                End::Quarantined(quarantined) => {
                    let (site, quarantined) = *quarantined;
                    self = Life::after(site, number, quarantined).map_err(|error| error.to_string())?;
                }
            }
        }
    }

    /// The life after one that is in quarantine: unborn, until the group takes it in.
    fn after(site: Site<S>, number: u64, quarantined: Quarantined) -> Result<Life<S>, StartError> {
        let reason = quarantined.reason.clone();
        let directory = quarantined.into_next_life()?;
        let (store, snapshots, _) = open_lives(directory, &site.options, &site.reporter)?;
        let state = S::restore(&mut &site.empty[..]);
        let state = state.map_err(|error| StartError::new(format!("the empty state: {error}")))?;
        Life::begin(site, number + 1, store, snapshots, Some(reason), state)
    }

    /// From birth, if that is still to come, to the end of this life.
    fn live(mut self) -> Result<End<S>, String> {
        if !self.store.birth.is_born() {
            match self.be_born()? {
                Departure::Birth(_) => {}
                Departure::Stopped => {
                    self.site.gate.close();
                    return Ok(End::Stopped);
                }
                Departure::Disqualified(reason) => {
                    let Life { site, store, transport, .. } = self;
                    transport.shutdown();
                    site.reporter.line(&format!("quarantined: {reason}"));
                    let quarantined = store.store.into_quarantine(&reason, now_unix_s());
                    let quarantined = quarantined.map_err(|error| error.to_string())?;
                    return Ok(End::Quarantined(Box::new((site, quarantined))));
                }
            }
        }
        let Birth::Born { genesis, founders } = self.store.birth.clone() else {
            panic!("replica {} serves unborn", self.store.identity.node);
        };
        let cluster = self.store.identity.cluster.or(self.site.cluster);
        self.transport.set_birth(cluster, genesis);
        // Set once: a life is lived once.
        let _ = self.genesis.set(genesis);
        if let Some(cluster) = cluster {
            let _ = self.site.facts.cluster.set(cluster);
        }
        self.site.facts.present().genesis = Some(genesis);
        self.serve(Certificate { genesis, founders, cluster })
    }

    /// Waits for the birth and makes it durable, or says what else ended the wait.
    fn be_born(&mut self) -> Result<Departure, String> {
        let site = &self.site;
        let node = self.store.identity.node;
        let standing = match (&self.quarantine, &self.store.birth) {
            (Some(reason), _) => Standing::Quarantined { reason: reason.clone() },
            (None, Birth::Excluded { witness }) => {
                let reason = Unborn::excluded_because(&site.options.group, node, *witness);
                site.reporter.line(&format!("quarantined: {reason}"));
                Standing::Quarantined { reason }
            }
            (None, _) => Standing::Unborn,
        };
        let group = &site.options.group;
        let is_excluded = standing != Standing::Unborn;
        let unborn = Unborn::new(Newcomer {
            node,
            cluster: site.cluster,
            group: group.clone(),
            seats: site.seats.clone(),
            // The operator's word was for the life that was there when it was given.
            claim: Claim { is_excluded, found_anew: site.options.found_anew && self.quarantine.is_none() },
            is_recorded: site.source.is_some(),
        });
        let room = WaitingRoom {
            group,
            node,
            seats: &site.seats,
            standing,
            sync_mode: self.store.durability(),
            inbox: &site.inbox,
            life: self.number,
            transport: &self.transport,
            reporter: &site.reporter,
            store: &mut self.store.store,
            source: site.source.as_ref(),
            exclusions: &site.exclusions,
        };
        let departure = room.wait(unborn)?;
        let (birth, cluster) = match &departure {
            Departure::Stopped | Departure::Disqualified(_) => return Ok(departure),
            Departure::Birth(Verdict::Founder(genesis)) => {
                site.reporter.line(&format!("founder of group {group} with {} members", genesis.members.len()));
                let cluster = genesis.cluster_id();
                (Birth::Born { genesis: genesis.hash(), founders: Some(genesis.clone()) }, cluster)
            }
            Departure::Birth(Verdict::TakenIn { genesis, cluster }) => {
                site.reporter.line(&format!("taken into group {group}"));
                // The founding group's genesis is the cluster's id, unless it follows another group.
                let cluster = site.cluster.or(*cluster).unwrap_or(ClusterId(genesis.0));
                (Birth::Born { genesis: *genesis, founders: None }, cluster)
            }
            Departure::Birth(verdict) => panic!("replica {node} left the waiting room with {verdict:?}"),
        };
        let store = &mut self.store.store;
        store.be_born(birth.clone(), cluster).map_err(|error| format!("disk failed: {error}"))?;
        self.store.identity = store.identity().clone();
        self.store.promise = store.promise();
        if let Birth::Born { founders: Some(founders), .. } = &birth {
            self.store.entries = vec![founders.first_entry()];
        }
        self.store.birth = birth;
        Ok(departure)
    }

    /// Recovers the state, starts the disk thread, and drives the core until the replica stops or is quarantined.
    fn serve(self, certificate: Certificate) -> Result<End<S>, String> {
        let Life { site, store: life, quarantine, files: snapshots, state, news, transport, .. } = self;
        let (options, reporter) = (&site.options, &site.reporter);
        let node = life.identity.node;
        let latest = snapshots.dir.latest();
        let (sessions, state, meta, snapshot_len_bytes) = match latest {
            None => (SessionTable::new(), state, SnapshotMeta::default(), 0),
            Some(info) => {
                let (sessions, state) = snapshots
                    .restore(&info)
                    .map_err(|error| format!("snapshot {:?} cannot be read: {error}", info.meta.last))?;
                (sessions, state, info.meta, info.len_bytes)
            }
        };
        let clock = Clock::start();
        let snapshot = meta.last;
        // The genesis is of term 1, which nobody campaigned in.
        let promise = if life.promise.term == Term::ZERO {
            Promise { term: Term(1), ..Promise::default() }
        } else {
            life.promise
        };
        let sync_mode = life.durability();
        let healing = life.healing;
        let heals_past = healing.as_ref().map(|healing| healing.past);
        let recovered = Recovered { promise, snapshot: meta, entries: life.entries, heals_past };
        let settings = Settings {
            reads: options.reads,
            clock_drift_permille: options.clock_drift_permille,
            ..Settings::default()
        };
        let core = Raft::new(settings, node, recovered, ChaCha8Rng::seed_from_u64(rand::random()), clock.now());
        let standing = match quarantine.clone() {
            Some(reason) => Standing::Quarantined { reason },
            None => Standing::InService,
        };
        let engine = Engine::new(EngineStart {
            group: options.group.clone(),
            standing,
            healing: healing.as_ref().map(Healing::describe),
            sync_mode,
            core,
            admin: Box::new(RaftAdmin::default()),
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
        let (jobs, jobs_inbox) = bounded::<DiskJob<<Raft as Protocol>::Message>>(DISK_JOBS_MAX);
        let disk_thread = {
            let (news, transport, store) = (news.clone(), transport.clone(), life.store);
            spawn_vital(format!("{} disk", reporter.who()), move || {
                disk::run::<Raft, S>(store, &jobs_inbox, &news, &transport)
            })
            .map_err(|error| format!("no disk thread: {error}"))?
        };
        let no_thread = |error: std::io::Error| format!("no thread: {error}");
        let scans = Scans::start(reporter.who(), options.runtime.clone()).map_err(no_thread)?;
        let snapshot_worker = Worker::start(format!("{} snapshot", reporter.who())).map_err(no_thread)?;
        let digest_worker = Worker::start(format!("{} digest", reporter.who())).map_err(no_thread)?;
        let (quarantined, is_quarantined) = bounded(1);
        let driver = Driver {
            sending: BTreeMap::new(),
            turns: Turns::new(engine, certificate, quarantine.is_some(), WRITES_UNDER_WAY_HIGH),
            clock,
            inbox: site.inbox.clone(),
            news: news.clone(),
            disk: jobs,
            transport: transport.clone(),
            snapshots,
            seats: site.seats.clone(),
            runtime: options.runtime.clone(),
            reporter: reporter.clone(),
            scans,
            snapshot_worker,
            digest_worker,
            alarm: Time(0),
            concerned: 0,
            stopping: None,
            quarantined,
            is_quarantined: false,
        };
        let ended = news.helm.keep(driver);
        transport.shutdown();
        ended?;
        let mut stopping = None;
        loop {
            match is_quarantined.recv_timeout(QUARANTINE_LOOK) {
                Ok(quarantined) if stopping.is_none() => {
                    return Ok(End::Quarantined(Box::new((site, quarantined))));
                }
                // Nothing is under way that would send it, or somebody has asked meanwhile that the replica stop.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                // The disk thread may wait for room here before it comes to its last job.
                Err(RecvTimeoutError::Timeout) => {
                    while let Some(event) = site.inbox.next_event(ANY_LIFE) {
                        if let Happening::Shutdown(done) = event {
                            stopping = Some(done);
                        }
                    }
                }
            }
        }
        site.gate.close();
        // The queues close, so that nobody waits for room there.
        drop(site);
        join_disk(disk_thread);
        if let Some(done) = stopping {
            // If nobody waits for it any more, the process ends.
            let _ = done.send(());
        }
        Ok(End::Stopped)
    }
}
