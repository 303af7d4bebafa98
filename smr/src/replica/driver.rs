//! What a replica's turns are made of: takes what has arrived to the engine, and does what the engine asks.
//!
//! ```text
//! listener ──requests──▶┌────────┐──writes──▶┌──────┐
//!                       │ driver │           │ disk │──messages that waited for a sync──▶ transport
//! transport ───inputs──▶└────────┘◀─durable──└──────┘
//!                        │      ▲
//!                        └─▶ snapshot and scan threads, when there is work
//! ```
//!
//! Who runs the turns is the business of the [executor](crate::replica::turn_executor). A turn never waits for the
//! disk: it stops feeding the core when too many writes are under way. The disk thread takes all writes that wait,
//! makes them durable with one sync, and sends what rested on them itself. So batches form while the disk is busy, and
//! a lone request waits for no one.
//!
//! In each turn inputs come before timers: after a pause (SIGSTOP, a slow machine) what has arrived is older than what
//! the clock says (fault catalogue E18).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::entry::Index;
use crate::epoch_service::{MemberReport, ServiceWord};
use crate::fatal::Lifeline;
use crate::id::NodeId;
use crate::protocol::{Protocol, Route, Time};
use crate::replica::clock::Clock;
use crate::replica::configuration_source::ConfigurationSource;
use crate::replica::disk::DiskJob;
use crate::replica::engine::{Action, Counts, ForwardedWrite, Replaced, SnapshotImage, WORK_PER_TURN_MAX_US, Worked};
use crate::replica::handle::Facts;
use crate::replica::inbox::{Inbox, InputSender, NodeInput};
use crate::replica::message::{BOOTSTRAP_MESSAGE_BYTES, DIGEST_MESSAGE_BYTES, PeerMessage, REPLACED_MESSAGE_BYTES};
use crate::replica::metrics::Meters;
use crate::replica::outgoing::queue;
use crate::replica::scans::Scans;
use crate::replica::snapshots::{Fullness, Pacer, SnapshotFiles, Watched, drop_in_background};
use crate::replica::turn::{EVENTS_PER_TURN, REQUESTS_MAX, REQUESTS_PER_TURN, Turns, arrived};
use crate::replica::turn_executor::TakeTurns;
use crate::replica::worker::Worker;
use crate::replica::{Outcome, ReplyTo, Request};
use crate::report::Reporter;
use crate::snapshot::SnapshotError;
use crate::state_machine::StateMachine;
use crate::status::StateDigest;
use crate::storage::Quarantined;
use crate::transport::{Lane, Transport, TransportEvent};
use crate::version::ImageVersions;

/// Jobs that may wait for the disk thread.
pub(super) const DISK_JOBS_MAX: usize = 4 << 10;
/// A turn that concerns more requests than these is one of many: a single client has one under way, and a second one
/// may just have come.
const BUSY_REQUESTS: usize = 2;
/// How long an orderly shutdown waits for another leader.
const HANDOVER: Duration = Duration::from_millis(1500);
/// How long it waits to hear of the new leader once it has stepped down, to name it to those who wait.
const SUCCESSOR: Duration = Duration::from_millis(100);
/// How long the word of the configuration service waits for room.
const SERVICE_WORD_TIMEOUT: Duration = Duration::from_millis(50);
/// How long it then waits for the disk.
const DISK_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1500);

/// A commit index that the leader has named, and when: how far a follower has got is only known by what it was told,
/// and under load it is never quite there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behind {
    told: Option<(Time, Index)>,
}

impl Behind {
    /// The leader, last heard `at`, has named `commit` as its highest one; everything up to `applied` is applied. If
    /// that is as far as what it was held against: when the leader said so.
    fn reached(&mut self, applied: Index, at: Time, commit: Index) -> Option<Time> {
        // Nothing is said by zero: a leader that does not know yet what this node has says it too.
        let told = self.told.or((commit > Index::ZERO).then_some((at, commit)));
        let reached = told.filter(|(_, index)| applied >= *index);
        self.told = if reached.is_some() { None } else { told };
        // What it says now may be reached as well.
        let present = reached.filter(|_| applied >= commit).map(|_| at);
        present.or(reached.map(|(told_at, _)| told_at))
    }
}

/// A replica in service: what its turns are made of. Whoever has the [executor](crate::replica::turn_executor) runs
/// them.
pub(super) struct Driver<P: Protocol, S: StateMachine> {
    pub(super) turns: Turns<P, S>,
    pub(super) clock: Clock,
    pub(super) facts: Arc<Facts>,
    pub(super) inbox: Arc<Inbox<P, S>>,
    pub(super) inputs: InputSender<P, S>,
    pub(super) disk: Sender<DiskJob<P::Message>>,
    pub(super) transport: Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) snapshots: SnapshotFiles,
    /// Of the snapshots that are being sent: how often the receiver got further, and how much of that the core knows.
    pub(super) sending: BTreeMap<NodeId, (Arc<AtomicU64>, u64)>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) reporter: Reporter,
    /// Who decides on members, if someone does.
    pub(super) source: Option<Arc<dyn ConfigurationSource>>,
    pub(super) scans: Scans,
    pub(super) snapshot_worker: Worker,
    pub(super) digest_worker: Worker,
    /// Only in a group that has checkpoints.
    pub(super) checkpoint_worker: Option<Worker>,
    pub(super) lifeline: Lifeline,
    pub(super) meters: Arc<Meters>,
    /// What the meters have of the engine's counts: another incarnation's begin anew, those of the process go on.
    pub(super) counted: Counts,
    pub(super) behind: Behind,
    /// When the replica thread looks again by itself.
    pub(super) next_wakeup: Time,
    /// Requests that the last turn found waiting or took in.
    pub(super) concerned: usize,
    /// Whom to tell when the replica has stopped, once it was told to.
    pub(super) stopping: Option<Sender<()>>,
    /// Where the disk thread sends what is left of this incarnation, should it end in quarantine.
    pub(super) quarantined: Sender<Quarantined>,
    /// It has.
    pub(super) is_quarantined: bool,
}

impl<P: Protocol, S: StateMachine> TakeTurns for Driver<P, S> {
    fn turn(&mut self) -> Result<(), String> {
        if self.is_stopping() {
            return Ok(());
        }
        self.concerned = self.turns.waiting();
        if let Some(done) = self.take_inputs()? {
            self.stopping = Some(done);
            return Ok(());
        }
        self.concerned += self.take_requests();
        let now = self.clock.now();
        self.note_progress(now);
        self.turns.tick_if_due(now, !self.inbox.events.is_empty());
        if self.turns.closes_readmission(now) {
            self.give_to_disk(DiskJob::CompleteReadmission)?;
            self.reporter.line("readmitted: the previous incarnation of this directory is closed for good");
        }
        self.work(now);
        self.perform()?;
        self.measure(now);
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_some() || self.is_quarantined
    }

    fn is_busy(&self) -> bool {
        self.concerned > BUSY_REQUESTS || self.turns.engine().has_work()
    }

    /// Hands over, answers what waits, and says so.
    fn shutdown(&mut self) -> Result<(), String> {
        if self.is_quarantined {
            // It says nothing more to anyone but those who wait for an answer.
            self.refuse_requests();
            drop(self.turns.take_actions());
            return Ok(());
        }
        self.hand_over();
        self.refuse_requests();
        self.turns.engine_mut().stop();
        self.perform()?;
        if let Some(done) = self.stopping.take() {
            // No one may be waiting for it any more.
            let _ = done.send(());
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.transport.shutdown();
        // What was proposed may take effect, where others have it.
        self.turns.engine_mut().stop();
        self.refuse_waiting();
    }

    fn set_next_wakeup(&mut self) -> Duration {
        let now = self.clock.now();
        self.next_wakeup = if self.turns.is_ready() { now } else { self.turns.wake_at() };
        Duration::from_micros(self.next_wakeup.since_us(now))
    }

    fn brings_wakeup_forward(&mut self) -> bool {
        let earlier = self.turns.is_ready() || self.turns.wake_at() < self.next_wakeup;
        if earlier {
            self.next_wakeup = Time(0);
        }
        earlier
    }
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    /// Feeds what has happened to the engine; `Some` if the replica is to stop.
    ///
    /// # Errors
    /// If the replica cannot go on.
    fn take_inputs(&mut self) -> Result<Option<Sender<()>>, String> {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.inbox.next_event(self.inputs.incarnation) else { return Ok(None) };
            let now = self.clock.now();
            match event {
                NodeInput::Durable(id) => self.turns.durable(now, id),
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Protocol(message) }) => {
                    // What is dropped is sent again.
                    if !self.turns.receive(now, from, message) {
                        self.meters.messages_refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Bootstrap(message) }) => {
                    if let Some(answer) = self.turns.answer_bootstrap(&message) {
                        self.transport.send(
                            from,
                            PeerMessage::Bootstrap(answer),
                            Lane::Urgent,
                            BOOTSTRAP_MESSAGE_BYTES,
                        );
                    }
                }
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Digest(digest) }) => {
                    self.digest_heard(from, ImageVersions::FIRST, digest);
                }
                NodeInput::Peer(TransportEvent::Received {
                    from,
                    message: PeerMessage::VersionedDigest { input, digest },
                }) => self.digest_heard(from, input, digest),
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Checkpoint(piece) }) => {
                    self.turns.engine_mut().checkpoint_heard(from, piece);
                }
                NodeInput::Peer(TransportEvent::Received { message: PeerMessage::Forward(writes), .. }) => {
                    self.turns.engine_mut().forwarded(now, writes);
                }
                NodeInput::CheckpointMade => self.turns.engine_mut().checkpoint_made(),
                NodeInput::CheckpointBuilt(built) => self.turns.engine_mut().checkpoint_built(built),
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Replaced { by, since } }) => {
                    self.turns.engine_mut().replaced_heard(from, Replaced { by, since });
                }
                NodeInput::Peer(TransportEvent::Connected { peer }) => {
                    if let Some(commands) = self.transport.commands_of(peer) {
                        self.turns.engine_mut().peer_applies(peer, commands);
                    }
                    self.turns.engine_mut().connected(now, peer);
                }
                NodeInput::Peer(TransportEvent::Disconnected { peer }) => {
                    self.turns.engine_mut().disconnected(now, peer)
                }
                NodeInput::Peer(TransportEvent::Refused { peer, reason }) => {
                    self.reporter.line(&format!("replica {peer} and this one do not fit together: {reason}"));
                }
                NodeInput::Peer(TransportEvent::Disqualified { by, why }) => {
                    let reason = why.said_by(&format!("replica {by}"));
                    self.turns.engine_mut().quarantine(reason);
                }
                NodeInput::Disqualified(reason) => self.turns.engine_mut().quarantine(reason),
                NodeInput::Peer(TransportEvent::SnapshotSent { to, last }) => {
                    self.sending.remove(&to);
                    self.turns.engine_mut().snapshot_sent(now, to, last)
                }
                NodeInput::SnapshotTaken { last, len_bytes } => {
                    self.turns.engine_mut().snapshot_taken(now, last, len_bytes)
                }
                NodeInput::SnapshotLacksRoom(why) => {
                    if !self.turns.engine_mut().snapshot_lacks_room(now) {
                        return Err(why);
                    }
                    self.reporter.line(&format!("no room for a snapshot, it is tried again: {why}"));
                }
                NodeInput::Room { is_full } => self.turns.engine_mut().disk_is_full(is_full),
                NodeInput::DigestTaken(digest) => self.turns.engine_mut().digest_taken(digest),
                NodeInput::SnapshotLost(why) => {
                    self.reporter.line(&format!("the newest snapshot is lost, another one is made: {why}"));
                    self.turns.engine_mut().snapshot_lost();
                }
                NodeInput::SnapshotBuilt(install, len_bytes) => {
                    self.meters.intake.clear();
                    self.turns.engine_mut().install(now, *install, len_bytes);
                }
                NodeInput::Service(word) => self.turns.engine_mut().service_says(now, word.map(|word| *word)),
                NodeInput::Tuned(tuning) => self.turns.engine_mut().tune(now, &tuning),
                NodeInput::Shutdown(done) => return Ok(Some(done)),
            }
        }
        Ok(None)
    }

    /// Lets whoever watches see what the turn has left behind.
    fn measure(&mut self, now: Time) {
        let (meters, engine) = (&self.meters, self.turns.engine());
        let (counts, applied) = (engine.counts(), engine.applied().index);
        let new = counts.since(&self.counted);
        for (meter, more) in [&meters.elections, &meters.elections_won, &meters.violations].into_iter().zip(new) {
            if more > 0 {
                meter.fetch_add(more, Ordering::Relaxed);
            }
        }
        for (meter, value) in [
            (&meters.snapshot_bytes, engine.snapshot_len_bytes()),
            (&meters.disk_jobs_queued, self.disk.len() as u64),
            (&meters.requests_waiting, self.turns.waiting() as u64),
            (&meters.requests_held, self.turns.held() as u64),
            (&meters.applied, applied.0),
            (&meters.checkpoint_count, engine.checkpoint_count().unwrap_or(0)),
            (&meters.disk_is_slow, u64::from(engine.core().disk_is_slow())),
        ] {
            meter.store(value, Ordering::Relaxed);
        }
        match engine.core().leader_heard() {
            Some((at, commit)) => {
                meters.leader_commit.store(commit.0, Ordering::Relaxed);
                meters.leader_heard.was(Duration::from_micros(now.since_us(at)));
                if let Some(told_at) = self.behind.reached(applied, at, commit) {
                    meters.caught_up.was(Duration::from_micros(now.since_us(told_at)));
                }
            }
            None => {
                meters.leader_heard.clear();
                meters.caught_up.clear();
                self.behind = Behind::default();
            }
        }
        meters.turn_ended.was(Duration::ZERO);
        self.counted = counts;
    }

    /// Tells the core which snapshots got further, and those who work at snapshots how full the log is.
    fn note_progress(&mut self, now: Time) {
        for (to, (advances, known)) in &mut self.sending {
            let count = advances.load(Ordering::Relaxed);
            if count != *known {
                *known = count;
                self.turns.engine_mut().snapshot_progress(now, *to);
            }
        }
        self.snapshots.fullness.set(self.turns.engine().log_fullness_permille());
    }

    /// Returns how many there were.
    fn take_requests(&mut self) -> usize {
        let (requests, now) = arrived(self.inbox.requests.try_iter(), REQUESTS_PER_TURN, || self.clock.now());
        let transport = &self.transport;
        let present = || transport.connected();
        let count = requests.len();
        self.turns.requests(now, requests.into_iter(), present);
        count
    }

    /// Applies and answers, for as long as a turn that began at `began` may take.
    fn work(&mut self, began: Time) {
        let clock = self.clock;
        let mut worked_until = clock.now();
        let (mut applied, mut applying_us) = (0, 0);
        self.turns.work(|worked| {
            let now = clock.now();
            // Answering reads is not applying: the pace of a replica that is asked a lot says nothing of that.
            if let Worked::Applied(entries) = worked {
                applied += entries;
                applying_us += now.since_us(worked_until);
            }
            worked_until = now;
            now.since_us(began) < WORK_PER_TURN_MAX_US
        });
        if let Some(each_us) = applying_us.checked_div(applied) {
            self.meters.recent_applies.record(Duration::from_micros(each_us));
        }
    }

    /// Does what the engine asks, in order.
    fn perform(&mut self) -> Result<(), String> {
        let mut messages_leave = false;
        loop {
            let actions = self.turns.take_actions();
            if actions.is_empty() {
                if messages_leave {
                    self.transport.flush();
                }
                return Ok(());
            }
            for action in actions {
                match action {
                    Action::Send(envelope) => messages_leave |= queue::<P>(&self.transport, envelope),
                    Action::Write(write) => self.give_to_disk(DiskJob::Write(write))?,
                    Action::PublishSnapshot(file) => self.give_to_disk(DiskJob::PublishSnapshot(file))?,
                    Action::Discard(file) => self.give_to_disk(DiskJob::Discard(file))?,
                    Action::DropInBackground(state) => drop_in_background(state),
                    Action::Healed => self.give_to_disk(DiskJob::Healed)?,
                    Action::Quarantine(reason) => {
                        // No one hears of this node any more, and nothing else is done for it.
                        self.transport.shutdown();
                        self.reporter.line(&format!("quarantined: {reason}"));
                        self.give_to_disk(DiskJob::Quarantine(reason, self.quarantined.clone()))?;
                        self.is_quarantined = true;
                        return Ok(());
                    }
                    Action::Stop(why) => {
                        self.lifeline.outdated(self.reporter.who(), &why);
                        return Err(why);
                    }
                    Action::TakeSnapshot(image) => self.take_snapshot(image),
                    Action::TakeDigest(image) => self.take_digest(image),
                    Action::SendDigest(to, digest) => {
                        let message = |version| PeerMessage::digest(version, Self::IMAGES, digest);
                        self.transport.queue_for(to, message, Lane::Urgent, DIGEST_MESSAGE_BYTES);
                        messages_leave = true;
                    }
                    Action::SendReplaced(to, Replaced { by, since }) => {
                        let message = PeerMessage::Replaced { by, since };
                        self.transport.queue(to, message, Lane::Urgent, REPLACED_MESSAGE_BYTES);
                        messages_leave = true;
                    }
                    Action::Retired(since) => self.facts.present().retired = since,
                    Action::SetAddresses(addresses) => self.transport.set_addresses(&addresses),
                    Action::SendSnapshot(to) => self.send_snapshot(to),
                    Action::AnswerParts { reply, parts } => self.scans.begin(reply, parts),
                    Action::MakeCheckpoint(make) => self.make_checkpoint(*make),
                    Action::BuildCheckpoint(build) => self.build_checkpoint(*build),
                    Action::Forward(to, writes) => {
                        let size_bytes = writes.iter().map(ForwardedWrite::size_bytes).sum();
                        let message = |version| PeerMessage::forward(version, writes);
                        self.transport.queue_for(to, message, Lane::Bulk, size_bytes);
                        messages_leave = true;
                    }
                    Action::Exchange(report) => self.exchange(report),
                    Action::Report(line) => self.reporter.line(&line),
                }
            }
        }
    }

    fn give_to_disk(&mut self, job: DiskJob<P::Message>) -> Result<(), String> {
        // Never full: with too many writes under way nothing is fed to the core that could cause more than a few
        // writes.
        self.disk.try_send(job).map_err(|error| format!("the disk thread takes no more work: {error}"))
    }

    fn take_snapshot(&mut self, image: Box<SnapshotImage<S>>) {
        let files = self.snapshots.clone();
        let inputs = self.inputs.clone();
        let genesis = self.turns.bootstrap_record().genesis;
        self.snapshot_worker.give(move || {
            let last = image.meta.last;
            let input = match files.take(*image, genesis) {
                Ok(len_bytes) => NodeInput::SnapshotTaken { last, len_bytes },
                Err(error) => {
                    let why = format!("taking a snapshot failed: {error}");
                    if !error.is_lack_of_room() {
                        return Err(why);
                    }
                    NodeInput::SnapshotLacksRoom(why)
                }
            };
            // If no one listens any more the replica has been shut down.
            let _ = inputs.tell(input);
            Ok(())
        });
    }

    /// What this replica hashes.
    const IMAGES: ImageVersions = ImageVersions::with_machine(S::IMAGE_VERSION);

    /// A peer's hash. One over other bytes says nothing about this replica's state.
    fn digest_heard(&mut self, from: NodeId, input: ImageVersions, digest: StateDigest) {
        if input == Self::IMAGES {
            self.turns.engine_mut().digest_heard(from, digest);
        }
    }

    fn take_digest(&mut self, image: Box<SnapshotImage<S>>) {
        let inputs = self.inputs.clone();
        self.digest_worker.give(move || {
            let digest = StateDigest::over(image.meta.last.index, |output| {
                image.write_whole(&mut Pacer::new(output, Fullness::default()))
            });
            // If no one listens any more the replica has been shut down.
            let _ = inputs.tell(NodeInput::DigestTaken(digest));
            Ok(())
        });
    }

    /// Talks to the configuration service. An answer that finds no room is as good as none.
    fn exchange(&self, report: MemberReport) {
        let Some(source) = &self.source else {
            panic!("{} has no configuration service, and says {report:?}", report.node)
        };
        let inputs = self.inputs.clone();
        let reply = move |word: Option<ServiceWord>| {
            let _ = inputs.tell_within(NodeInput::Service(word.map(Box::new)), SERVICE_WORD_TIMEOUT);
        };
        source.exchange(report, Box::new(reply));
    }

    /// Opening the file may take the disk's time, so it happens elsewhere.
    fn send_snapshot(&mut self, to: NodeId) {
        let (files, transport) = (self.snapshots.clone(), self.transport.clone());
        let (inputs, reporter, lifeline) = (self.inputs.clone(), self.reporter.clone(), self.lifeline.clone());
        let lost = {
            let inputs = self.inputs.clone();
            // If no one listens any more the replica has been shut down.
            move |why| {
                let _ = inputs.tell(NodeInput::SnapshotLost(why));
            }
        };
        let advances = Arc::new(AtomicU64::new(0));
        self.sending.insert(to, (Arc::clone(&advances), 0));
        self.runtime.spawn_blocking(move || {
            match files.open_newest(Watched { reporter: reporter.clone(), lifeline }, lost, advances) {
                Ok(Some(source)) => return transport.send_snapshot(to, Box::new(source)),
                Ok(None) => {}
                // A newer one took its place between looking and opening; or the disk failed, and the replica ends with
                // that as its reason: a line behind it would hide it.
                Err(SnapshotError::Disk { .. }) => {}
                Err(error) => reporter.line(&format!("a snapshot for replica {to} cannot be sent: {error}")),
            }
            let _ = inputs.tell(NodeInput::Peer(TransportEvent::SnapshotSent { to, last: None }));
        });
    }

    /// Before an orderly shutdown a replica that takes writes hands over to another one, if it can. Requests wait
    /// meanwhile: a few milliseconds later they can be told whom to ask.
    fn hand_over(&mut self) {
        let now = self.clock.now();
        if !self.turns.engine_mut().hand_over(now) {
            return;
        }
        let mut until = Instant::now() + HANDOVER;
        let mut stepped_down = false;
        while Instant::now() < until && self.perform().is_ok() {
            if let Route::There(successor) = self.turns.engine().core().routing().writes {
                if successor.is_some() {
                    return;
                }
                if !stepped_down {
                    stepped_down = true;
                    until = Instant::now() + SUCCESSOR;
                }
            }
            self.inbox.wait_for_events(Duration::from_millis(5));
            // A second word to stop changes nothing, and what has failed ends in the next turn.
            if !matches!(self.take_inputs(), Ok(None)) {
                return;
            }
            let now = self.clock.now();
            self.turns.engine_mut().tick(now);
            self.work(now);
        }
    }

    /// Answers what waits in the queue, so that no one waits for a replica that has stopped.
    fn refuse_requests(&mut self) {
        if self.is_quarantined || !self.turns.engine().core().routing().writes.is_here() {
            let waiting = self.take_waiting();
            return self.turns.engine_mut().requests(self.clock.now(), waiting);
        }
        self.refuse_waiting();
    }

    fn take_waiting(&mut self) -> Vec<(Request, ReplyTo)> {
        let held = self.turns.take_held();
        held.into_iter().chain(self.inbox.requests.try_iter().take(REQUESTS_MAX)).collect()
    }

    fn refuse_waiting(&mut self) {
        for (_, reply) in self.take_waiting() {
            reply.send(Outcome::OutOfService("stopping".to_owned()));
        }
    }
}

/// Waits for the disk thread to finish what it was given, but not for ever: a disk that hangs must not keep the
/// process.
pub(super) fn join_disk(thread: std::thread::JoinHandle<()>) {
    let until = Instant::now() + DISK_SHUTDOWN_TIMEOUT;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_is_reached_by_what_was_told_and_as_of_then() {
        let mut behind = Behind::default();
        assert_eq!(behind.reached(Index(0), Time(1), Index(0)), None, "zero says nothing");
        assert_eq!(behind.reached(Index(3), Time(2), Index(10)), None);
        // The leader goes on, and is heard all the time; what counts is what it said first.
        assert_eq!(behind.reached(Index(9), Time(7), Index(90)), None);
        assert_eq!(behind.reached(Index(10), Time(8), Index(99)), Some(Time(2)));
        assert_eq!(behind.reached(Index(50), Time(9), Index(100)), None);
        assert_eq!(behind.reached(Index(100), Time(10), Index(100)), Some(Time(10)), "and now it has everything");
    }
}
