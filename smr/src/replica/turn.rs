//! What the replica thread decides in a turn, without the thread: the production driver and the simulator run this very
//! code.
//!
//! In a turn the driver hands over everything that has arrived, then the requests, then lets time pass, applies what is
//! committed as long as the turn may take, and then does what is asked. Three things are decided here:
//! - *What waits.* While a leader has [`WRITES_AT_ONCE`] writes on their way to the disk, further proposals wait and
//!   form a batch; batches are bounded in bytes. Once its disk has kept proposals waiting for [`SLOW_DISK_US`], the
//!   quorum's takes its place for as long as it has a backlog: proposals wait for the commit of those before, as far as
//!   the backlog's bounds allow. So a leader with the slowest disk of its group does not hold the group up (fault
//!   catalogue E22).
//! - *What is dropped.* With too many writes under way messages of peers are lost instead, as on a bad network.
//! - *News before timers.* After a pause (SIGSTOP, a slow machine) what has arrived is older than what the clock says,
//!   so a tick waits for it, for a bounded number of turns (fault catalogue E18).
//!
//! Besides, it knows what an uninitialized peer is answered, and when a readmission is complete.

use std::collections::VecDeque;

use crate::entry::{Genesis, GenesisHash, Index};
use crate::id::{ClusterId, NodeId};
use crate::protocol::{Protocol, Time, WriteId};
use crate::replica::bootstrap::BootstrapMessage;
use crate::replica::engine::{Action, BUSY_RETRY_MS, Engine, Worked};
use crate::replica::{Outcome, ReplyTo, Request};
use crate::state_machine::StateMachine;
use crate::status::ServiceState;

/// Events that may wait for the replica thread; messages beyond are dropped.
pub const EVENTS_MAX: usize = 8 << 10;
/// Bytes of messages that may wait for the replica thread; messages beyond are dropped. A larger one goes alone.
pub const EVENTS_MAX_BYTES: usize = 64 << 20;
/// Requests that may wait for the replica thread; the next ones are `Busy`.
pub const REQUESTS_MAX: usize = 8 << 10;
/// Events that are taken in one turn.
pub const EVENTS_PER_TURN: usize = 1024;
/// Requests that are taken in one turn.
pub const REQUESTS_PER_TURN: usize = 1024;
/// After this many turns everything that had arrived when a tick became due is taken in.
const OVERDUE_TURNS_MAX: usize = EVENTS_MAX / EVENTS_PER_TURN;
/// And for this long, in microseconds, if these turns take long: half an interval of heartbeats.
const OVERDUE_MAX_US: u64 = 50_000;
/// With this many writes under way at the disk, messages of peers are dropped.
pub const WRITES_UNDER_WAY_HIGH: u64 = 1 << 10;
/// With this many writes under way a leader lets further proposals wait and form a batch.
const WRITES_AT_ONCE: u64 = 2;
/// A leader's disk that has kept proposals waiting for longer is a slow one, in microseconds. Several times what a
/// batch takes on a sound disk.
const SLOW_DISK_US: u64 = 10_000;
/// This many batches may wait for their commit before the next one is proposed past a slow disk: twice as many as for a
/// disk, since a commit is a sync and two ways through the network.
const BATCHES_AT_ONCE: usize = 4;
/// Writes under way at a slow disk beyond which proposals wait for it after all, and at most half of what is too much
/// for messages.
const SLOW_DISK_WRITES_MAX: u64 = WRITES_UNDER_WAY_HIGH / 2;
/// Bytes of entries under way at a slow disk beyond which proposals wait for it after all. A disk gets through with
/// that before it is taken for hung, unless it is slower than 16 MiB/s.
const SLOW_DISK_BYTES_MAX: usize = 16 << 20;
/// Bytes of commands that are proposed as one batch at most, and so one write: a disk must get through with it long
/// before it is taken for hung. A larger command goes alone.
const PROPOSAL_MAX_BYTES: usize = 4 << 20;
/// How often a replica that is being readmitted looks whether it has become a voter, in microseconds.
const READMISSION_LOOK_US: u64 = 200_000;

/// A bootstrap record, to be shown to whoever asks.
#[derive(Clone, Debug)]
pub struct BootstrapRecord {
    /// The hash of the group's genesis.
    pub genesis: GenesisHash,
    /// The genesis itself, if the replica is a founder.
    pub founders: Option<Genesis>,
    /// The cluster that the group belongs to, once it is known.
    pub cluster: Option<ClusterId>,
}

/// An engine, and what waits for it between two turns.
pub struct Turns<P: Protocol, S: StateMachine> {
    engine: Engine<P, S>,
    bootstrap_record: BootstrapRecord,
    /// True in an incarnation that follows a quarantined one, until the group counts it as a voter.
    readmission_open: bool,
    readmission_look_at: Time,
    /// The last write handed to the disk, and the last known to be done.
    issued: WriteId,
    done: WriteId,
    /// The entries' bytes of each write under way that has any, and their sum.
    bytes_of_writes: VecDeque<(WriteId, usize)>,
    bytes_under_way: usize,
    /// Since when this replica's own disk alone has kept proposals waiting.
    disk_waited_for_since: Option<Time>,
    /// Whether the quorum's disks take its place.
    disk_is_slow: bool,
    /// Where the latest batches that were proposed end, oldest first: [`BATCHES_AT_ONCE`] of them at most.
    batch_ends: VecDeque<Index>,
    writes_under_way_high: u64,
    /// Turns since a tick was due, and the first of them.
    overdue_turns: usize,
    overdue_since: Option<Time>,
    held: Vec<(Request, ReplyTo)>,
}

impl<P: Protocol, S: StateMachine> Turns<P, S> {
    /// Before the first turn. `readmission_open`: this incarnation follows a quarantined one, which is not closed yet.
    /// `writes_under_way_high`: with this many of them messages of peers are dropped; in service
    /// [`WRITES_UNDER_WAY_HIGH`].
    pub fn new(
        engine: Engine<P, S>,
        bootstrap_record: BootstrapRecord,
        readmission_open: bool,
        writes_under_way_high: u64,
    ) -> Turns<P, S> {
        Turns {
            engine,
            bootstrap_record,
            readmission_open,
            readmission_look_at: Time(0),
            issued: WriteId(0),
            done: WriteId(0),
            bytes_of_writes: VecDeque::new(),
            bytes_under_way: 0,
            disk_waited_for_since: None,
            disk_is_slow: false,
            batch_ends: VecDeque::with_capacity(BATCHES_AT_ONCE),
            writes_under_way_high,
            overdue_turns: 0,
            overdue_since: None,
            held: Vec::new(),
        }
    }

    /// The engine, to look at.
    pub fn engine(&self) -> &Engine<P, S> {
        &self.engine
    }

    /// The engine, for what goes to it as it comes: whatever the methods here do not name.
    pub fn engine_mut(&mut self) -> &mut Engine<P, S> {
        &mut self.engine
    }

    /// What this replica shows to those who ask how its group was founded.
    pub fn bootstrap_record(&self) -> &BootstrapRecord {
        &self.bootstrap_record
    }

    /// Whether the group does not count this incarnation as a voter yet.
    pub fn readmission_open(&self) -> bool {
        self.readmission_open
    }

    /// How many requests wait, for a write to be done or for their outcome.
    pub fn waiting(&self) -> usize {
        self.held.len() + self.engine.requests_waiting()
    }

    /// How many requests wait for a write to be done.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// With this many writes under way messages of peers are dropped.
    pub fn writes_under_way_high(&self) -> u64 {
        self.writes_under_way_high
    }

    /// Whether there is something to do without any news: what was held back because a batch was full goes next, and
    /// what is committed and not applied.
    pub fn is_ready(&self) -> bool {
        self.engine.has_work() || (!self.held.is_empty() && self.may_propose())
    }

    /// When a turn is due without any news.
    pub fn wake_at(&self) -> Time {
        let deadline = self.engine.deadline();
        if self.readmission_open { deadline.min(self.readmission_look_at) } else { deadline }
    }

    /// The writes up to this one have reached the device.
    pub fn durable(&mut self, now: Time, id: WriteId) {
        self.done = id;
        while let Some((_, bytes)) = self.bytes_of_writes.pop_front_if(|(write, _)| *write <= id) {
            self.bytes_under_way -= bytes;
        }
        self.engine.durable(now, id);
    }

    /// A message of a peer arrived. With too many writes under way it is dropped, and false comes back: a disk that
    /// hangs must not fill memory, and the core loses messages, as on a bad network.
    pub fn receive(&mut self, now: Time, from: NodeId, message: P::Message) -> bool {
        let taken = self.writes_under_way() < self.writes_under_way_high;
        if taken {
            self.engine.receive(now, from, message);
        }
        taken
    }

    /// What a peer is answered that speaks of its bootstrap.
    pub fn answer_bootstrap(&self, message: &BootstrapMessage) -> Option<BootstrapMessage> {
        let BootstrapMessage::Uninitialized { .. } = message else { return None };
        Some(BootstrapMessage::Initialized {
            genesis: self.bootstrap_record.genesis,
            founders: self.bootstrap_record.founders.clone(),
            cluster: self.bootstrap_record.cluster,
            configuration: self.engine.core().status().configuration,
        })
    }

    /// Takes the requests of a turn. `present` is asked for the incarnations that are connected, when it matters.
    pub fn requests(
        &mut self,
        now: Time,
        requests: impl Iterator<Item = (Request, ReplyTo)>,
        present: impl Fn() -> Vec<NodeId>,
    ) {
        let mut reads = Vec::new();
        if self.engine.looks_after_members() {
            present().into_iter().for_each(|node| self.engine.met(now, node));
        }
        for (request, reply) in requests {
            match request {
                Request::OpenSession | Request::Write { .. } | Request::Idempotent { .. } => {
                    self.held.push((request, reply));
                }
                Request::Readmit { .. } | Request::Scale { .. } => {
                    present().into_iter().for_each(|node| self.engine.met(now, node));
                    reads.push((request, reply));
                }
                _ => reads.push((request, reply)),
            }
        }
        self.judge_disk(now);
        let takes_writes = self.engine.core().routing().writes.is_here();
        let writes = if !takes_writes {
            // They may name entries that another leader has removed.
            self.batch_ends.clear();
            std::mem::take(&mut self.held)
        } else if self.may_propose() {
            let rest = self.held.split_off(batch_len(&self.held));
            std::mem::replace(&mut self.held, rest)
        } else {
            Vec::new()
        };
        if self.held.len() > REQUESTS_MAX {
            for (_, reply) in self.held.drain(REQUESTS_MAX..) {
                reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
            }
        }
        let proposes = takes_writes && !writes.is_empty();
        if !writes.is_empty() || !reads.is_empty() {
            self.engine.requests(now, writes.into_iter().chain(reads));
        }
        if proposes {
            self.note_batch();
        }
    }

    /// News before timers: a tick waits until what had arrived is taken in, but not longer, or a flood would keep the
    /// heartbeats back.
    pub fn tick_if_due(&mut self, now: Time, news_left: bool) {
        if now < self.engine.deadline() {
            (self.overdue_turns, self.overdue_since) = (0, None);
            return;
        }
        // Not since the deadline: after a pause that lies far back, and nothing has been taken in yet.
        let since = *self.overdue_since.get_or_insert(now);
        let waited = self.overdue_turns >= OVERDUE_TURNS_MAX || now.since_us(since) >= OVERDUE_MAX_US;
        if news_left && !waited {
            self.overdue_turns += 1;
        } else {
            (self.overdue_turns, self.overdue_since) = (0, None);
            self.engine.tick(now);
        }
    }

    /// Applies what is committed and answers confirmed reads, as long as `in_time` says so, and a little in any case.
    pub fn work(&mut self, in_time: impl FnMut(Worked) -> bool) {
        self.engine.work(in_time);
    }

    /// True once: when the committed configuration counts this incarnation as a voter. The disk then has to complete
    /// the readmission, and must get that job, or the directory would be in quarantine at the next start.
    pub fn closes_readmission(&mut self, now: Time) -> bool {
        if !self.readmission_open || now < self.readmission_look_at || self.engine.is_quarantined() {
            return false;
        }
        self.readmission_look_at = now.plus_us(READMISSION_LOOK_US);
        let status = self.engine.core().status();
        let closes = status.configuration.voters.contains(&status.node) && status.configuration_index <= status.commit;
        if closes {
            self.readmission_open = false;
            self.engine.set_service_state(ServiceState::InService);
        }
        closes
    }

    /// What is to be done, in order.
    pub fn take_actions(&mut self) -> Vec<Action<P, S>> {
        let actions = self.engine.take_actions();
        for action in &actions {
            if let Action::Write(write) = action {
                self.issued = write.id();
                let bytes = write.entries_bytes();
                if bytes > 0 {
                    self.bytes_of_writes.push_back((write.id(), bytes));
                    self.bytes_under_way += bytes;
                }
            }
        }
        actions
    }

    /// The requests that wait, when the replica stops.
    pub fn take_held(&mut self) -> Vec<(Request, ReplyTo)> {
        std::mem::take(&mut self.held)
    }

    fn writes_under_way(&self) -> u64 {
        self.issued.0 - self.done.0
    }

    /// Whether the disk takes another batch at once.
    fn disk_keeps_up(&self) -> bool {
        self.writes_under_way() < WRITES_AT_ONCE
    }

    /// Whether the next batch may be proposed.
    fn may_propose(&self) -> bool {
        let most_writes = SLOW_DISK_WRITES_MAX.min(self.writes_under_way_high / 2);
        let has_room = self.writes_under_way() < most_writes && self.bytes_under_way < SLOW_DISK_BYTES_MAX;
        let committed = self.batch_ends.len() < BATCHES_AT_ONCE
            || self.batch_ends.front().is_some_and(|end| *end <= self.engine.core().commit());
        self.disk_keeps_up() || (self.disk_is_slow && has_room && committed)
    }

    /// Finds out whether proposals have waited for this replica's own disk for long. It stays a slow one until it has
    /// caught up.
    fn judge_disk(&mut self, now: Time) {
        if self.disk_keeps_up() {
            (self.disk_waited_for_since, self.disk_is_slow) = (None, false);
        } else if !self.disk_is_slow && !self.held.is_empty() {
            let since = *self.disk_waited_for_since.get_or_insert(now);
            self.disk_is_slow = now.since_us(since) >= SLOW_DISK_US;
        }
    }

    /// Remembers where the batch that was just proposed ends.
    fn note_batch(&mut self) {
        if self.batch_ends.len() == BATCHES_AT_ONCE {
            self.batch_ends.pop_front();
        }
        let core = self.engine.core();
        self.batch_ends.push_back(Index(core.commit().0 + core.uncommitted_entries()));
    }
}

/// Takes up to `most` things that have arrived, and the time *after* that (duty 7 of [`crate::protocol`]): were the
/// process stopped in between, a read that arrived meanwhile would be judged by a lease that is long over (R6).
pub(super) fn arrived<T>(queue: impl Iterator<Item = T>, most: usize, clock: impl FnOnce() -> Time) -> (Vec<T>, Time) {
    let taken = queue.take(most).collect();
    (taken, clock())
}

/// How many of the writes that wait are proposed together.
fn batch_len(waiting: &[(Request, ReplyTo)]) -> usize {
    let mut bytes = 0;
    let fitting = waiting.iter().take_while(|(request, _)| {
        bytes += match request {
            Request::Write { command, .. } | Request::Idempotent { command } => command.len(),
            _ => 0,
        };
        bytes <= PROPOSAL_MAX_BYTES
    });
    fitting.count().max(1).min(waiting.len())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::replica::ReplySink;

    struct NoOne;

    impl ReplySink for NoOne {
        fn deliver(&self, _tag: u64, _outcome: Outcome) {}

        fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
            false
        }
    }

    fn waiting(lengths: &[usize]) -> Vec<(Request, ReplyTo)> {
        let write = |&len: &usize| {
            let request = Request::Idempotent { command: Bytes::from(vec![0; len]) };
            (request, ReplyTo { tag: 0, sink: Arc::new(NoOne) })
        };
        lengths.iter().map(write).collect()
    }

    // covers R6 E18
    #[test]
    fn time_of_what_has_arrived_is_not_before_the_arrival_of_any_of_it() {
        // The process is stopped for a second before each request is taken: it arrived only then.
        let now = Cell::new(Time(0));
        let queue = std::iter::repeat_with(|| {
            now.set(now.get().plus_us(1_000_000));
            now.get()
        });
        let (arrivals, judged_at) = arrived(queue, 3, || now.get());
        assert_eq!(arrivals, [Time(1_000_000), Time(2_000_000), Time(3_000_000)]);
        assert_eq!(judged_at, Time(3_000_000), "as late as the last of them, and no later than it must be");
    }

    // covers E19 I17: many large values at once are no hanging disk.
    #[test]
    fn batch_is_bounded_in_bytes_but_never_empty() {
        assert_eq!(batch_len(&waiting(&[])), 0);
        assert_eq!(batch_len(&waiting(&[10; 5000])), 5000);
        assert_eq!(batch_len(&waiting(&[1 << 20; 64])), 4);
        assert_eq!(batch_len(&waiting(&[PROPOSAL_MAX_BYTES + 1, 1])), 1);
        assert_eq!(batch_len(&waiting(&[PROPOSAL_MAX_BYTES, 1])), 1);
    }
}
