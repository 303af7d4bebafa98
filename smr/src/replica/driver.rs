//! The threads around an [`Engine`]: they carry things to and fro and decide nothing.
//!
//! ```text
//! front door ──requests──▶┌─────────┐──writes──▶┌──────┐
//!                         │ replica │           │ disk │──messages that waited for a sync──▶ transport
//! transport ────events───▶└─────────┘◀─durable──└──────┘
//!                          │      ▲
//!                          └─▶ snapshot and scan threads, when there is work
//! ```
//!
//! Both queues into the replica thread are bounded and their senders drop or refuse rather than wait. The replica
//! thread never waits for the disk: it stops feeding the core when too many writes are under way. The disk thread takes
//! all writes that wait, makes them durable with one sync, and sends what rested on them itself. So batches form while
//! the disk is busy, and a lone request waits for nobody.
//!
//! In each turn news comes before timers: after a pause (SIGSTOP, a slow machine) what has arrived is older than what
//! the clock says (fault catalogue E18).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Select, Sender};

use crate::entry::{EntryId, Genesis, GenesisHash};
use crate::fatal::spawn_vital;
use crate::id::{NodeId, NodeName};
use crate::protocol::{Protocol, Role, Time, WriteId};
use crate::replica::birth::BirthMessage;
use crate::replica::disk::DiskJob;
use crate::replica::engine::{Action, Engine, Install, SnapshotImage};
use crate::replica::message::{BIRTH_MESSAGE_BYTES, PeerMessage};
use crate::replica::snapshots::SnapshotFiles;
use crate::replica::{Outcome, ReplySink, ReplyTo, Request, Standing};
use crate::report::Reporter;
use crate::snapshot::SnapshotError;
use crate::state_machine::StateMachine;
use crate::transport::{Lane, Transport, TransportEvent};

/// Events that may wait for the replica thread; messages beyond are dropped.
pub(super) const EVENTS_MAX: usize = 8 << 10;
/// Requests that may wait for the replica thread; the next ones are `Busy`.
pub(super) const REQUESTS_MAX: usize = 8 << 10;
/// Jobs that may wait for the disk thread.
pub(super) const DISK_JOBS_MAX: usize = 4 << 10;
/// With this many writes under way at the disk, messages of peers are dropped.
const WRITES_UNDER_WAY_HIGH: u64 = 1 << 10;
/// With this many writes under way a leader lets further proposals wait and form a batch.
const WRITES_AT_ONCE: u64 = 2;
/// Bytes of commands that are proposed as one batch at most, and so one write: a disk must get through with it long before
/// it is taken for hung. A larger command goes alone.
const PROPOSAL_MAX_BYTES: usize = 4 << 20;
/// Events that are taken in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// After this many turns everything that had arrived when a tick became due is taken in.
const OVERDUE_TURNS_MAX: usize = EVENTS_MAX / EVENTS_PER_TURN;
/// Requests that are taken in one turn.
const REQUESTS_PER_TURN: usize = 1024;
/// Long answers (scans) under way at once; the next ones are `Busy`.
const SCANS_MAX: usize = 64;
/// How far the thread that writes a snapshot stands back behind the others (Linux gives each thread its own niceness).
const SNAPSHOT_NICE: i32 = 10;
/// How long an orderly shutdown waits for another leader.
const HANDOVER: Duration = Duration::from_millis(1500);
/// How long it waits to hear of the new leader once it has stepped down, to name it to those who wait.
const SUCCESSOR: Duration = Duration::from_millis(100);
/// A member that was heard within this time may take over, in microseconds.
const HEARD_LATELY_US: u64 = 500_000;
/// How long it then waits for the disk.
const DISK_FAREWELL: Duration = Duration::from_millis(1500);
/// How often a replica that is being readmitted looks whether it has become a voter, in microseconds.
const READMISSION_LOOK_US: u64 = 200_000;

/// What reaches the replica thread besides requests.
pub(super) enum Happening<P: Protocol, S> {
    /// From the network.
    Peer(TransportEvent<PeerMessage<P::Message>>),
    /// From the disk: writes up to this one are done.
    Durable(WriteId),
    /// A snapshot was taken.
    SnapshotTaken {
        /// Where it ends.
        last: EntryId,
        /// How long its file is.
        len_bytes: u64,
    },
    /// The newest snapshot is damaged, and was put out of service.
    SnapshotLost(String),
    /// A snapshot arrived and its state is built.
    SnapshotBuilt(Box<Install<S>>, u64),
    /// Stop in an orderly way, then say so.
    Shutdown(Sender<()>),
}

/// The replica's clock: monotonic, from 0.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(self) -> Time {
        Time(self.0.elapsed().as_micros() as u64)
    }
}

/// The two queues into the replica thread, their reading ends.
pub(super) struct Inbox<P: Protocol, S> {
    pub(super) events: Receiver<Happening<P, S>>,
    pub(super) requests: Receiver<(Request, ReplyTo)>,
}

impl<P: Protocol, S> Inbox<P, S> {
    /// Waits until something is there, or for this long.
    pub(super) fn wait(&self, at_most: Duration) {
        let mut select = Select::new();
        select.recv(&self.events);
        select.recv(&self.requests);
        // Ready or not, the turn looks at both.
        let _ = select.ready_timeout(at_most);
    }

    /// Waits until something other than a request is there, or for this long.
    fn wait_for_events(&self, at_most: Duration) {
        let mut select = Select::new();
        select.recv(&self.events);
        let _ = select.ready_timeout(at_most);
    }
}

/// A birth certificate, to be shown to whoever asks.
#[derive(Clone)]
pub(super) struct Certificate {
    pub(super) genesis: GenesisHash,
    pub(super) founders: Option<Genesis>,
}

/// The replica thread in service.
pub(super) struct Driver<P: Protocol, S: StateMachine> {
    pub(super) engine: Engine<P, S>,
    pub(super) clock: Clock,
    pub(super) inbox: Inbox<P, S>,
    pub(super) events: Sender<Happening<P, S>>,
    pub(super) disk: Sender<DiskJob<P::Message>>,
    pub(super) transport: Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) snapshots: SnapshotFiles,
    pub(super) certificate: Certificate,
    pub(super) seats: BTreeSet<NodeName>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) reporter: Reporter,
    /// True in a life that follows a quarantined one, until the group counts it as a voter.
    pub(super) readmission_open: bool,
    /// The last write handed to the disk, and the last known to be done.
    pub(super) issued: WriteId,
    pub(super) done: WriteId,
    /// Turns since a tick was due.
    pub(super) overdue_turns: usize,
    pub(super) held: Vec<(Request, ReplyTo)>,
    pub(super) scans: Arc<AtomicUsize>,
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    /// Runs until the replica is shut down.
    pub(super) fn run(mut self) -> Result<(), String> {
        let mut look_at = Time(0);
        loop {
            let now = self.clock.now();
            let wake_at =
                if self.readmission_open { self.engine.deadline().min(look_at) } else { self.engine.deadline() };
            // What was held back because a batch was full goes next, without waiting for news.
            let ready = !self.held.is_empty() && self.writes_under_way() < WRITES_AT_ONCE;
            self.inbox.wait(if ready { Duration::ZERO } else { Duration::from_micros(wake_at.since_us(now)) });
            if let Some(done) = self.take_events() {
                self.hand_over();
                self.refuse_requests();
                self.engine.stop();
                self.perform()?;
                let _ = done.send(());
                return Ok(());
            }
            self.take_requests();
            let now = self.clock.now();
            self.tick_if_due(now);
            if self.readmission_open && now >= look_at {
                look_at = now.plus_us(READMISSION_LOOK_US);
                self.close_readmission()?;
            }
            self.perform()?;
        }
    }

    /// News before timers: a tick waits until what had arrived is taken in, but not longer, or a flood would keep the
    /// heartbeats back.
    fn tick_if_due(&mut self, now: Time) {
        if now < self.engine.deadline() {
            self.overdue_turns = 0;
        } else if self.inbox.events.is_empty() || self.overdue_turns >= OVERDUE_TURNS_MAX {
            self.overdue_turns = 0;
            self.engine.tick(now);
        } else {
            self.overdue_turns += 1;
        }
    }

    /// Feeds what has happened to the engine; `Some` if the replica is to stop.
    fn take_events(&mut self) -> Option<Sender<()>> {
        for _ in 0..EVENTS_PER_TURN {
            let Ok(event) = self.inbox.events.try_recv() else { return None };
            let now = self.clock.now();
            match event {
                Happening::Durable(id) => {
                    self.done = id;
                    self.engine.durable(now, id);
                }
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Protocol(message) }) => {
                    // A disk that hangs must not fill memory: the core loses messages instead, as on a bad network.
                    if self.writes_under_way() < WRITES_UNDER_WAY_HIGH {
                        self.engine.receive(now, from, message);
                    }
                }
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Birth(message) }) => {
                    self.answer_birth(from, &message);
                }
                Happening::Peer(TransportEvent::Connected { .. }) => {}
                Happening::Peer(TransportEvent::Disconnected { peer }) => self.engine.disconnected(now, peer),
                Happening::Peer(TransportEvent::Refused { peer, reason }) => {
                    self.reporter.line(&format!("replica {peer} and this one do not fit together: {reason}"));
                }
                Happening::Peer(TransportEvent::SnapshotSent { to, last }) => self.engine.snapshot_sent(now, to, last),
                Happening::SnapshotTaken { last, len_bytes } => self.engine.snapshot_taken(now, last, len_bytes),
                Happening::SnapshotLost(why) => {
                    self.reporter.line(&format!("the newest snapshot is lost, another one is made: {why}"));
                    self.engine.snapshot_lost();
                }
                Happening::SnapshotBuilt(install, len_bytes) => {
                    self.engine.install(now, *install, len_bytes);
                }
                Happening::Shutdown(done) => return Some(done),
            }
        }
        None
    }

    fn writes_under_way(&self) -> u64 {
        self.issued.0 - self.done.0
    }

    fn take_requests(&mut self) {
        let now = self.clock.now();
        let mut reads = Vec::new();
        for (request, reply) in self.inbox.requests.try_iter().take(REQUESTS_PER_TURN) {
            match request {
                Request::OpenSession | Request::Write { .. } | Request::Idempotent { .. } => {
                    self.held.push((request, reply));
                }
                Request::Readmit { .. } => {
                    for &name in &self.seats {
                        if let Some(incarnation) = self.transport.incarnation_of(name) {
                            self.engine.met(now, NodeId { name, incarnation });
                        }
                    }
                    reads.push((request, reply));
                }
                _ => reads.push((request, reply)),
            }
        }
        let writes = if self.engine.core().role() != Role::Leader {
            std::mem::take(&mut self.held)
        } else if self.writes_under_way() < WRITES_AT_ONCE {
            let rest = self.held.split_off(batch_len(&self.held));
            std::mem::replace(&mut self.held, rest)
        } else {
            Vec::new()
        };
        if self.held.len() > REQUESTS_MAX {
            for (_, reply) in self.held.drain(REQUESTS_MAX..) {
                reply.send(Outcome::Busy { retry_after_ms: crate::replica::engine::BUSY_RETRY_MS });
            }
        }
        if !writes.is_empty() || !reads.is_empty() {
            self.engine.requests(now, writes.into_iter().chain(reads));
        }
    }

    fn answer_birth(&mut self, from: NodeId, message: &BirthMessage) {
        if let BirthMessage::Unborn { .. } = message {
            let answer = BirthMessage::Born {
                genesis: self.certificate.genesis,
                founders: self.certificate.founders.clone(),
                configuration: self.engine.core().status().configuration,
            };
            self.transport.send(from, PeerMessage::Birth(answer), Lane::Urgent, BIRTH_MESSAGE_BYTES);
        }
    }

    /// Does what the engine asks, in order.
    fn perform(&mut self) -> Result<(), String> {
        loop {
            let actions = self.engine.take_actions();
            if actions.is_empty() {
                self.transport.flush();
                return Ok(());
            }
            for action in actions {
                match action {
                    Action::Send(envelope) => queue::<P>(&self.transport, envelope),
                    Action::Write(write) => {
                        self.issued = write.id();
                        self.give_to_disk(DiskJob::Write(write))?;
                    }
                    Action::Adopt(file) => self.give_to_disk(DiskJob::Adopt(file))?,
                    Action::Discard(file) => self.give_to_disk(DiskJob::Discard(file))?,
                    Action::Quarantine(reason) => {
                        // Nobody hears of this node any more; the disk thread ends the process.
                        self.transport.shutdown();
                        self.give_to_disk(DiskJob::Quarantine(reason))?;
                    }
                    Action::TakeSnapshot(image) => self.take_snapshot(image)?,
                    Action::SendSnapshot(to) => self.send_snapshot(to),
                    Action::AnswerParts { reply, parts } => self.answer_parts(reply, parts),
                    Action::Report(line) => self.reporter.line(&line),
                }
            }
        }
    }

    fn give_to_disk(&mut self, job: DiskJob<P::Message>) -> Result<(), String> {
        // Never full: beyond WRITES_UNDER_WAY_HIGH nothing is fed to the core that could cause more than a few writes.
        self.disk.try_send(job).map_err(|error| format!("the disk thread takes no more work: {error}"))
    }

    fn take_snapshot(&mut self, image: Box<SnapshotImage<S>>) -> Result<(), String> {
        let files = self.snapshots.clone();
        let events = self.events.clone();
        let genesis = self.certificate.genesis;
        spawn_vital(format!("{} snapshot", self.reporter.who()), move || {
            // Where the system does not allow it, the snapshot is merely felt more.
            let _ = rustix::process::setpriority_process(None, SNAPSHOT_NICE);
            let last = image.meta.last;
            let len_bytes =
                files.take(*image, genesis).map_err(|error| format!("taking a snapshot failed: {error}"))?;
            // If nobody listens any more the replica has been shut down.
            let _ = events.send(Happening::SnapshotTaken { last, len_bytes });
            Ok(())
        })
        .map(|_| ())
        .map_err(|error| format!("no thread for a snapshot: {error}"))
    }

    /// Opening the file may take the disk's time, so it happens elsewhere.
    fn send_snapshot(&mut self, to: NodeId) {
        let (files, transport) = (self.snapshots.clone(), self.transport.clone());
        let (events, reporter) = (self.events.clone(), self.reporter.clone());
        let lost = {
            let events = self.events.clone();
            // If nobody listens any more the replica has been shut down.
            move |why| drop(events.send(Happening::SnapshotLost(why)))
        };
        self.runtime.spawn_blocking(move || {
            match files.open_newest(reporter.clone(), lost) {
                Ok(Some(source)) => return transport.send_snapshot(to, Box::new(source)),
                Ok(None) => {}
                // A newer one took its place between looking and opening.
                Err(SnapshotError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => reporter.line(&format!("a snapshot for replica {to} cannot be sent: {error}")),
            }
            let _ = events.send(Happening::Peer(TransportEvent::SnapshotSent { to, last: None }));
        });
    }

    fn answer_parts(&mut self, reply: ReplyTo, parts: Box<dyn Iterator<Item = Vec<u8>> + Send>) {
        if self.scans.fetch_add(1, Ordering::SeqCst) >= SCANS_MAX {
            self.scans.fetch_sub(1, Ordering::SeqCst);
            return reply.send(Outcome::Busy { retry_after_ms: crate::replica::engine::BUSY_RETRY_MS });
        }
        let scans = self.scans.clone();
        self.runtime.spawn_blocking(move || {
            let mut parts = parts.peekable();
            let mut last = Vec::new();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    last = part;
                } else if !reply.sink.deliver_part(reply.tag, part.into()) {
                    break;
                }
            }
            reply.send(Outcome::Answer(last.into()));
            scans.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// A readmission is complete once the committed configuration counts this incarnation as a voter.
    fn close_readmission(&mut self) -> Result<(), String> {
        let status = self.engine.core().status();
        if status.configuration.voters.contains(&status.node) && status.configuration_index <= status.commit {
            // A job that got lost would leave the directory in quarantine at the next start.
            self.give_to_disk(DiskJob::CompleteReadmission)?;
            self.readmission_open = false;
            self.engine.set_standing(Standing::InService);
            self.reporter.line("readmitted: the former life of this directory is closed for good");
        }
        Ok(())
    }

    /// Before an orderly shutdown a leader hands over to the member that is furthest among those that are alive. Requests
    /// wait meanwhile: a few milliseconds later they can be told who leads.
    fn hand_over(&mut self) {
        let status = self.engine.core().status();
        let target = status.peers.iter().filter(|peer| status.configuration.voters.contains(&peer.node));
        let now = self.clock.now();
        let alive = |heard: Option<Time>| heard.is_some_and(|heard| now.since_us(heard) <= HEARD_LATELY_US);
        let Some(target) = target.max_by_key(|peer| (alive(peer.heard_at), peer.match_index)) else { return };
        let reply = ReplyTo { tag: 0, sink: Arc::new(Nobody) };
        self.engine.requests(now, [(Request::Transfer { to: target.node.name }, reply)]);
        let mut until = Instant::now() + HANDOVER;
        let mut stepped_down = false;
        while Instant::now() < until && self.perform().is_ok() {
            if self.engine.core().role() != Role::Leader {
                if self.engine.core().status().leader.is_some() {
                    return;
                }
                if !stepped_down {
                    stepped_down = true;
                    until = Instant::now() + SUCCESSOR;
                }
            }
            self.inbox.wait_for_events(Duration::from_millis(5));
            if self.take_events().is_some() {
                return;
            }
            self.engine.tick(self.clock.now());
        }
    }

    /// Answers what waits in the queue, so that nobody waits for a replica that has stopped.
    fn refuse_requests(&mut self) {
        let held = std::mem::take(&mut self.held);
        let waiting: Vec<_> = held.into_iter().chain(self.inbox.requests.try_iter().take(REQUESTS_MAX)).collect();
        if self.engine.core().role() != Role::Leader {
            return self.engine.requests(self.clock.now(), waiting);
        }
        for (_, reply) in waiting {
            reply.send(Outcome::OutOfService("stopping".to_owned()));
        }
    }
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

/// Queues one message of the core, to leave with the transport's next flush; never blocks.
pub(super) fn queue<P>(transport: &Transport<PeerMessage<P::Message>>, envelope: crate::protocol::Envelope<P::Message>)
where
    P: Protocol,
{
    let lane = if P::is_bulk(&envelope.message) { Lane::Bulk } else { Lane::Urgent };
    let size_bytes = P::message_size_bytes(&envelope.message);
    transport.queue(envelope.to, PeerMessage::Protocol(envelope.message), lane, size_bytes);
}

/// Waits for the disk thread to finish what it was given, but not for ever: a disk that hangs must not keep the process.
pub(super) fn join_disk(thread: std::thread::JoinHandle<()>) {
    let until = Instant::now() + DISK_FAREWELL;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where the outcome of a request goes that nobody waits for.
struct Nobody;

impl ReplySink for Nobody {
    fn deliver(&self, _tag: u64, _outcome: Outcome) {}

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(lengths: &[usize]) -> Vec<(Request, ReplyTo)> {
        let write = |&len: &usize| {
            let request = Request::Idempotent { command: Bytes::from(vec![0; len]) };
            (request, ReplyTo { tag: 0, sink: Arc::new(Nobody) })
        };
        lengths.iter().map(write).collect()
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
