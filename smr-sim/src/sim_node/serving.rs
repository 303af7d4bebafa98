//! A process in service: the production turns, and what their threads have still to do.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use smr::codec;
use smr::entry::{EntryId, GenesisHash, HardState, SnapshotMeta, Term};
use smr::internals::disk_jobs::{DiskBatch, DiskError, DiskJob};
use smr::internals::engine::{Engine as ReplicaEngine, EngineStart, Install, SnapshotImage};
use smr::internals::protocol::{Envelope, LogChange, Protocol, Recovered, Time, Write};
use smr::internals::raft::Raft;
use smr::internals::session::{SessionLimits, SessionTable};
use smr::internals::snapshot::{ReceivedSnapshot, SendingFile, SnapshotDir, SnapshotError, SnapshotReader};
use smr::internals::storage::{BootstrapState, Healing, OpenedStore, Store};
use smr::internals::turn::{BootstrapRecord, Turns};
use smr::state_machine::StateMachine;
use smr::status::ServiceState;

use super::shape::{CLUSTER, Common, group};
use crate::asking_admin::{AskingAdmin, RequestedChanges};
use crate::probe::{Chained, Core};

/// At multiples of this index the states are hashed.
pub(crate) const DIGEST_EVERY_ENTRIES: u64 = 128;

/// Bytes of a snapshot that travel at a time.
const PIECE_BYTES: usize = 700;

/// The production engine with the production core and the user's state machine, each in its probe.
pub type Replica<S, P = Core> = ReplicaEngine<P, Chained<S>>;

/// A process in service.
pub struct Serving<S: StateMachine, P: Protocol = Core> {
    pub(crate) turns: Turns<P, Chained<S>>,
    /// Events that may wait for a turn.
    pub(crate) events_max: usize,
    /// The production directory of snapshots, on the virtual disk.
    pub snapshots: SnapshotDir,
    disk_batch: DiskBatch<P::Message>,
    pub(crate) jobs: VecDeque<DiskJob<P::Message>>,
    /// How many of the jobs are being worked at.
    at_work: usize,
    /// A snapshot that is being written.
    pub(crate) taking: Option<Box<SnapshotImage<Chained<S>>>>,
    /// A received snapshot whose state is being built.
    pub(crate) building: Option<ReceivedSnapshot>,
}

pub(super) fn serve<S: StateMachine>(
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
    let Restored { sessions, state, meta, snapshot_len_bytes } =
        restore(&snapshots, world.shape.sessions, || (world.empty)())?;
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
    let turns = Turns::new(
        engine,
        BootstrapRecord { genesis, founders, cluster: Some(CLUSTER) },
        next_incarnation,
        world.shape.writes_under_way_high,
    );
    Ok(Serving::new(turns, world.shape.events_max, snapshots, opened.store))
}

/// What a node starts from besides its log.
pub(crate) struct Restored<S> {
    pub(crate) sessions: SessionTable,
    pub(crate) state: Chained<S>,
    pub(crate) meta: SnapshotMeta,
    pub(crate) snapshot_len_bytes: u64,
}

/// The state of the newest snapshot, or the empty one.
pub(crate) fn restore<S: StateMachine>(
    snapshots: &SnapshotDir,
    limits: SessionLimits,
    empty: impl FnOnce() -> S,
) -> Result<Restored<S>, String> {
    let latest = snapshots.latest();
    let (sessions, state) = match &latest {
        Some(info) => {
            let reader = snapshots.read(info).map_err(|error| error.to_string())?;
            build(limits, reader).map_err(|error| error.to_string())?
        }
        None => (SessionTable::with_limits(limits), Chained::new(empty())),
    };
    let (meta, snapshot_len_bytes) = latest.map(|info| (info.meta, info.len_bytes)).unwrap_or_default();
    Ok(Restored { sessions, state, meta, snapshot_len_bytes })
}

/// The state that a snapshot holds.
pub(crate) fn build<S: StateMachine>(
    limits: SessionLimits,
    mut reader: SnapshotReader,
) -> Result<(SessionTable, Chained<S>), SnapshotError> {
    let sessions = SessionTable::restore_with_limits(&mut reader, limits).map_err(SnapshotError::State)?;
    let state = Chained::restore(&mut reader).map_err(SnapshotError::State)?;
    reader.finish()?;
    Ok((sessions, state))
}

impl<S: StateMachine, P: Protocol> Serving<S, P> {
    pub(crate) fn new(
        turns: Turns<P, Chained<S>>,
        events_max: usize,
        snapshots: SnapshotDir,
        store: Store,
    ) -> Serving<S, P> {
        Serving {
            turns,
            events_max,
            snapshots,
            disk_batch: DiskBatch::new(store),
            jobs: VecDeque::new(),
            at_work: 0,
            taking: None,
            building: None,
        }
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> EntryId {
        self.engine().applied()
    }

    /// The production engine.
    pub fn engine(&self) -> &Replica<S, P> {
        self.turns.engine()
    }

    /// Whether this incarnation follows a quarantined one, and the group does not count it as a voter yet.
    pub fn readmission_open(&self) -> bool {
        self.turns.readmission_open()
    }

    pub(crate) fn into_disk_batch(self) -> DiskBatch<P::Message> {
        self.disk_batch
    }

    pub(crate) fn give_to_disk(&mut self, job: DiskJob<P::Message>) {
        self.jobs.push_back(job);
    }

    /// The disk takes everything that waits, if it is idle; true if it does.
    pub(crate) fn begin_disk_work(&mut self) -> bool {
        let begins = self.at_work == 0 && !self.jobs.is_empty();
        if begins {
            self.at_work = self.jobs.len();
        }
        begins
    }

    /// Whether the disk is at work.
    pub(crate) fn is_at_work(&self) -> bool {
        self.at_work > 0
    }

    /// Does what the disk took; gives the writes that are durable by that.
    pub(crate) fn end_disk_work(&mut self) -> Result<Vec<Write<P::Message>>, DiskError> {
        let count = std::mem::take(&mut self.at_work);
        for job in self.jobs.drain(..count) {
            self.disk_batch.take(job)?;
        }
        Ok(self.disk_batch.flush()?.collect())
    }

    /// Lets the watermark follow, after the answers have left.
    pub(crate) fn follow(&mut self) -> Result<(), DiskError> {
        self.disk_batch.follow()
    }

    /// Messages that wait for a sync.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = &Envelope<P::Message>> {
        self.jobs.iter().flat_map(|job| match job {
            DiskJob::Write(write) => write.peek(),
            _ => &[],
        })
    }

    /// Whether a received snapshot waits to be adopted.
    pub(crate) fn installs(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, DiskJob::PublishSnapshot(_)))
    }

    /// Whether entries that contradict the leader's wait to be removed.
    pub(crate) fn truncates(&self) -> bool {
        let removes =
            |write: &Write<P::Message>| write.log().iter().any(|change| matches!(change, LogChange::RemoveFrom(_)));
        self.jobs.iter().any(|job| matches!(job, DiskJob::Write(write) if removes(write)))
    }

    /// Writes the snapshot that was to be taken: where it ends, its length, a checksum of its payload.
    pub(crate) fn end_taking(&mut self) -> Result<Option<(EntryId, u64, u64)>, SnapshotError> {
        let Some(image) = self.taking.take() else { return Ok(None) };
        match write_snapshot(&self.snapshots, &image, self.turns.bootstrap_record().genesis) {
            Ok((len_bytes, checksum)) => Ok(Some((image.meta.last, len_bytes, checksum))),
            Err(SnapshotError::Obsolete { .. }) => Ok(Some((image.meta.last, 0, 0))),
            Err(error) => Err(error),
        }
    }

    /// Builds the state of a received snapshot.
    #[expect(clippy::type_complexity, reason = "used once")]
    pub(crate) fn end_building(
        &mut self,
        limits: SessionLimits,
    ) -> Result<Option<(Install<Chained<S>>, u64)>, SnapshotError> {
        let Some(file) = self.building.take() else { return Ok(None) };
        let (sessions, state) = build(limits, file.read()?)?;
        let (meta, len_bytes) = (file.info().meta.clone(), file.info().len_bytes);
        Ok(Some((Install { meta, sessions, state, file }, len_bytes)))
    }

    /// Does what still waits until the power goes. No one hears of it any more.
    pub(crate) fn go_on_until_the_end(mut self: Box<Self>) {
        // Whoever comes first: the threads run side by side.
        let snapshot_first = self.jobs.len().is_multiple_of(2);
        let taking = self.taking.take();
        let write = |serving: &Serving<S, P>| {
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
pub(crate) enum Broken {
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
pub(crate) fn carry(from: &mut SendingFile, into: &SnapshotDir, up_to: u64) -> Result<ReceivedSnapshot, Broken> {
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
