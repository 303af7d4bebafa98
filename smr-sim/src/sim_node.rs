//! A simulated node: the disk, and what of the production code runs on it at the moment.
//!
//! What the replica's threads do in production is done here step by step: the disk thread's jobs are taken all at once,
//! done when virtual time says so, and end with one flush; snapshots are written and built "in the background", later.
//!
//! - `shape`: what all nodes of a world have in common. `opening`: how a process starts. `serving`: one in service.

mod opening;
mod serving;
mod shape;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smr::entry::{EntryId, Term};
use smr::id::{Disqualified, NodeId, StartId, StartTrail};
use smr::internals::bootstrap::{Bootstrap, Verdict};
use smr::internals::engine::Install;
use smr::internals::protocol::{Protocol, Time, WriteId};
use smr::internals::snapshot::SnapshotDir;
use smr::internals::storage::{LogEngine, OpenedStore, SeenStarts};
use smr::replica::{GenesisAnswer, Outcome, ReplySink, Request};
use smr::state_machine::StateMachine;
use smr::status::StateDigest;

pub use self::opening::StartTrouble;
pub(crate) use self::opening::{Start, open_incarnation};
pub(crate) use self::serving::{Broken, DIGEST_EVERY_ENTRIES, Restored, carry, restore};
pub use self::serving::{Replica, Serving};
pub(crate) use self::shape::Common;
pub use self::shape::{CLUSTER, Shape, group};
use crate::asking_admin::RequestedChanges;
use crate::clock::Clock;
use crate::journal::JOURNAL;
use crate::probe::Chained;
use crate::virtual_disk::{Fault, Loss, VirtualDisk};

/// Where a replica's directory is on its disk.
pub const DIRECTORY: &str = "/node";

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

/// What a process is doing.
pub enum ProcessState<S: StateMachine> {
    /// There is none.
    Down,
    /// Uninitialized, or of an incarnation that no one knows.
    Waiting(Box<Waiting>),
    /// A member of its group, with engine, disk thread and snapshots.
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

/// A replica: a disk, and a process now and then.
pub struct SimNode<S: StateMachine> {
    /// Who lives there.
    pub id: NodeId,
    /// The latest incarnation that anything here ever had: a directory that was set back begins another one.
    latest_incarnation: u64,
    /// What outlives its processes.
    pub disk: VirtualDisk,
    /// Its clock, which is all that the process knows of the time.
    pub clock: Clock,
    /// What keeps the log on it.
    engine: LogEngine,
    /// What of the production code runs there at the moment.
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

/// The path of a file in a replica's directory.
pub fn path(file: &str) -> PathBuf {
    Path::new(DIRECTORY).join(file)
}
