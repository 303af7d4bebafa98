//! How a process opens a replica's directory, and starts the replica.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::configured::Configured;
use crate::disk::{Disk, RealDisk};
use crate::entry::GenesisHash;
use crate::epoch::GroupKind;
use crate::fatal::Lifeline;
use crate::id::{ClusterId, Disqualified, Incarnation, StartTrail};
use crate::raft::Raft;
use crate::replica::configuration_source::ConfigurationSource;
use crate::replica::handle::{Facts, Present, ReplicaHandle, RequestQueue};
use crate::replica::inbox::{ANY_INCARNATION, Inbox, InputSender, NodeInput, WaitingBytes};
use crate::replica::incarnation::{IncarnationRun, Site, empty_state};
use crate::replica::incarnations::{now_unix_s, open_incarnations};
use crate::replica::kind::Kind;
use crate::replica::metrics::Meters;
use crate::replica::options::{ReplicaOptions, StartError};
use crate::replica::recovery::Unsettled;
use crate::replica::turn::{EVENTS_MAX, REQUESTS_MAX};
use crate::replica::turn_executor::{ExecuteTurns as _, TurnExecutor};
use crate::report::Reporter;
use crate::snapshot::SnapshotDir;
use crate::state_machine::{Image as _, StateMachine};
use crate::storage::{BootstrapState, ExpectedIdentity, OpenedStore, ReplicaDirectory, Succession, Witness};

/// How long [`ReplicaHandle::shutdown`] waits for the replica thread.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica that is tuned may take to hear of it.
const TUNE_TIMEOUT: Duration = Duration::from_millis(100);

/// A replica whose directory is open and locked, but which does not run yet. In between, a server registers with the
/// manager under the incarnation that it found or made.
pub struct Opened {
    options: ReplicaOptions,
    store: Box<OpenedStore>,
    snapshots: SnapshotDir,
    /// Why the previous incarnation of this directory ended, if it did.
    quarantine: Option<String>,
    reporter: Reporter,
    lifeline: Lifeline,
    /// The group that this directory was recovered from, and has not replaced yet.
    unsettled: Option<Unsettled>,
}

impl Opened {
    /// Opens (or makes) the directory and locks it.
    ///
    /// # Errors
    /// If it is locked, foreign, of another version, or cannot be read. Damage is no error: the replica is then
    /// quarantined, and waits in a next incarnation until it is readmitted.
    pub fn open(options: ReplicaOptions) -> Result<Opened, StartError> {
        let reporter = Reporter::new(&options.group, options.name, options.reports.clone());
        let lifeline = Lifeline::new();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let expected = ExpectedIdentity { group: options.group.clone(), name: options.name, cluster: None };
        let directory = ReplicaDirectory::open(disk.clone(), &options.directory, expected).map_err(StartError::of)?;
        let (store, snapshots, quarantine) = open_incarnations(directory, &options, &reporter, &lifeline)?;
        let mut opened = Opened::with(options, store, snapshots, quarantine, reporter, lifeline);
        if opened.quarantine.is_none() {
            let (root, genesis) = (opened.options.directory.clone(), opened.genesis());
            opened.unsettled = Unsettled::of(&root, genesis, opened.options.found_anew)?;
        }
        opened.mind_the_word();
        Ok(opened)
    }

    /// The group that this directory's is to replace, by the operator's word: it was recovered. No one may run it
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

    /// Puts the directory into quarantine for what someone knows of it, and goes on in its next incarnation.
    ///
    /// # Errors
    /// If that cannot be written down, or no other incarnation can be begun.
    pub fn disqualify(self, why: Disqualified, by: &str) -> Result<Opened, StartError> {
        let Opened { options, store, reporter, lifeline, quarantine, .. } = self;
        let quarantined = store.store.into_quarantine(&why.said_by(by), now_unix_s())?;
        reporter.line(&format!("quarantined: {}", quarantined.reason));
        let reason = quarantine.unwrap_or_else(|| quarantined.reason.clone());
        let incarnation = quarantined.into_next_incarnation()?;
        let (store, snapshots, _) = open_incarnations(incarnation, &options, &reporter, &lifeline)?;
        let mut opened = Opened::with(options, store, snapshots, Some(reason), reporter, lifeline);
        opened.mind_the_word();
        Ok(opened)
    }

    fn with(
        options: ReplicaOptions,
        store: Box<OpenedStore>,
        snapshots: SnapshotDir,
        quarantine: Option<String>,
        reporter: Reporter,
        lifeline: Lifeline,
    ) -> Opened {
        Opened { options, store, snapshots, quarantine, reporter, lifeline, unsettled: None }
    }

    /// Where there is data, nothing is founded again.
    fn mind_the_word(&mut self) {
        if !self.options.found_anew || !self.is_initialized() && self.quarantine.is_none() {
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

    /// Whether this directory is initialized: is or was a member of its group.
    pub fn is_initialized(&self) -> bool {
        self.store.bootstrap.is_initialized()
    }

    /// The genesis of its group, once it is initialized.
    pub fn genesis(&self) -> Option<GenesisHash> {
        match &self.store.bootstrap {
            BootstrapState::Initialized { genesis, .. } => Some(*genesis),
            BootstrapState::Uninitialized | BootstrapState::Excluded { .. } => None,
        }
    }

    /// Someone says that the group exists without this directory: from now on it never founds one, unless the operator
    /// says so. Durable when this returns. A directory that is initialized stays what it is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn exclude(&mut self, witness: Witness) -> Result<(), StartError> {
        if self.is_initialized() {
            return Ok(());
        }
        self.store.store.exclude(witness).map_err(StartError::of)?;
        self.store.bootstrap = self.store.store.bootstrap().clone();
        Ok(())
    }

    /// Runs a replica of a Raft group that stands alone: its genesis makes the cluster id. `state` is the empty state;
    /// the snapshot and the log are applied on top of it. A replica that cannot go on says so by
    /// [`ReplicaHandle::ended`].
    ///
    /// # Errors
    /// If the group is of a kind that needs a configuration service, or threads or sockets cannot be made.
    pub fn run<S: StateMachine>(self, state: S) -> Result<ReplicaHandle, StartError> {
        // Hosts of such groups alone are built with the other core.
        if let GroupKind::Epochs(kind) = self.options.kind {
            return Err(StartError::new(format!("a group of kind {kind} needs a configuration service")));
        }
        self.run_as::<Raft, S>(None, None, state)
    }

    /// The same for a group of any kind in a `cluster` that is there: `source` records its genesis, and says who the
    /// members of groups are whose configuration is decided elsewhere.
    ///
    /// # Errors
    /// If `cluster` is not the recorded one, or threads or sockets cannot be made.
    pub fn run_in<S: StateMachine>(
        self,
        cluster: ClusterId,
        source: Arc<dyn ConfigurationSource>,
        state: S,
    ) -> Result<ReplicaHandle, StartError> {
        match self.options.kind {
            GroupKind::Raft => self.run_as::<Raft, S>(Some(cluster), Some(source), state),
            GroupKind::Epochs(_) => self.run_as::<Configured, S>(Some(cluster), Some(source), state),
        }
    }

    fn run_as<P: Kind, S: StateMachine>(
        self,
        cluster: Option<ClusterId>,
        source: Option<Arc<dyn ConfigurationSource>>,
        state: S,
    ) -> Result<ReplicaHandle, StartError> {
        let genesis = self.genesis();
        let Opened { options, store, snapshots, quarantine, reporter, lifeline, unsettled } = self;
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
        let queue = Arc::new(RequestQueue { leftovers: requests_inbox.clone(), closed: AtomicBool::new(false) });
        let (exclude, exclusions) = bounded(1);
        let facts = Arc::new(Facts {
            cluster: OnceLock::new(),
            present: Mutex::new(Present { incarnation: node.incarnation, start: store.start, genesis, retired: None }),
            tuning: Mutex::default(),
        });
        let waiting_bytes = Arc::new(WaitingBytes::default());
        let inbox = Inbox { events: events_inbox, requests: requests_inbox, waiting_bytes: waiting_bytes.clone() };
        let inbox = Arc::new(inbox);
        let meters = Arc::new(Meters::default());
        {
            let inbox = Arc::downgrade(&inbox);
            let waiting = move || inbox.upgrade().map(|inbox| (inbox.events.len(), inbox.waiting_bytes.get()));
            // Set once: these meters are new.
            let _ = meters.inputs.set(Box::new(waiting));
        }
        let executor: Arc<TurnExecutor<_>> = {
            // The queues close with the driver, so that whoever would tell it something learns that it has stopped.
            let inbox = Arc::downgrade(&inbox);
            let has_news = move || inbox.upgrade().is_some_and(|inbox| inbox.has_news());
            Arc::new(TurnExecutor::new(format!("{} replica", reporter.who()), lifeline.clone(), has_news))
        };
        {
            let executor = Arc::downgrade(&executor);
            lifeline.on_failure(move || executor.upgrade().into_iter().for_each(|executor| executor.wake()));
        }
        let inputs = InputSender { events, incarnation: ANY_INCARNATION, waiting_bytes, executor: executor.clone() };
        let mut empty = Vec::new();
        state.image().write(&mut empty).map_err(|error| StartError::new(format!("the empty state: {error}")))?;
        let origin = empty_state(&empty, &state)?;
        let site = Site {
            replicas: options.peers.keys().copied().chain([options.name]).collect(),
            cluster,
            source,
            exclusions,
            empty: empty.into(),
            origin,
            inbox,
            inputs: inputs.clone(),
            reporter: reporter.clone(),
            facts: facts.clone(),
            queue: queue.clone(),
            executor: executor.clone(),
            lifeline: lifeline.clone(),
            meters: meters.clone(),
            options: Arc::new(options),
        };
        let replica = IncarnationRun::<P, S>::begin(site, 1, store, snapshots, quarantine, state)?;
        let (closing, stopping) = (queue.clone(), lifeline.clone());
        let run = move || {
            // However it ends: whoever asks from then on is refused.
            let _closes = closing.close_at_end();
            replica.run()?;
            stopping.stopped();
            Ok(())
        };
        lifeline
            .spawn(format!("{} replica", reporter.who()), run)
            .map_err(|error| StartError::new(format!("no replica thread: {error}")))?;
        let disqualify = {
            let inputs = inputs.clone();
            move |reason| inputs.tell_within(NodeInput::Disqualified(reason), SHUTDOWN_TIMEOUT)
        };
        let tune = {
            let inputs = inputs.clone();
            Arc::new(move |tuning| inputs.tell_within(NodeInput::Tuned(tuning), TUNE_TIMEOUT))
        };
        let stop = move || {
            let (done, stopped) = bounded(1);
            if inputs.tell_within(NodeInput::Shutdown(done), SHUTDOWN_TIMEOUT) {
                // Stopped, or too late: the host ends either way, and a restart recovers.
                let _ = stopped.recv_timeout(SHUTDOWN_TIMEOUT);
            }
        };
        let disqualify = Arc::new(disqualify);
        let stop = Arc::new(stop);
        Ok(ReplicaHandle { requests, queue, executor, stop, exclude, disqualify, tune, facts, lifeline, meters })
    }
}
