//! The threads around an engine and its [`Turns`]: they carry things to and fro and decide nothing.
//!
//! ```text
//!   listener ──requests──▶┌───────┐──writes──▶┌──────┐
//!                         │ turns │           │ disk │──messages that waited for a sync──▶ transport
//! transport ────events───▶└───────┘◀─durable──└──────┘
//!                          │      ▲
//!                          └─▶ snapshot and scan threads, when there is work
//! ```
//!
//! Both queues into the replica are bounded and their senders drop or refuse rather than wait. Who runs the turns is
//! the business of the [helm](crate::replica::helm). A turn never waits for the disk: it stops feeding the core when
//! too many writes are under way. The disk thread takes all writes that wait, makes them durable with one sync, and
//! sends what rested on them itself. So batches form while the disk is busy, and a lone request waits for nobody.
//!
//! In each turn news comes before timers: after a pause (SIGSTOP, a slow machine) what has arrived is older than what
//! the clock says (fault catalogue E18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender};

use crate::entry::EntryId;
use crate::fatal::end_process;
use crate::id::{NodeId, NodeName};
use crate::protocol::{Protocol, Route, Time, WriteId};
use crate::replica::disk::DiskJob;
use crate::replica::engine::{Action, Install, Replaced, SnapshotImage, WORK_PER_TURN_MAX_US};
use crate::replica::handle::disqualification;
use crate::replica::helm::{Helm, Steered};
use crate::replica::message::{BIRTH_MESSAGE_BYTES, DIGEST_MESSAGE_BYTES, PeerMessage, REPLACED_MESSAGE_BYTES};
use crate::replica::scans::Scans;
use crate::replica::snapshots::{Fullness, Paced, SnapshotFiles, let_go};
use crate::replica::turn::{EVENTS_MAX_BYTES, EVENTS_PER_TURN, REQUESTS_MAX, REQUESTS_PER_TURN, Turns, arrived};
use crate::replica::worker::Worker;
use crate::replica::{Outcome, ReplyTo, Request};
use crate::report::Reporter;
use crate::snapshot::SnapshotError;
use crate::state_machine::StateMachine;
use crate::status::StateDigest;
use crate::storage::Quarantined;
use crate::transport::{EventSink, Lane, Transport, TransportEvent};
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
/// How long it then waits for the disk.
const DISK_FAREWELL: Duration = Duration::from_millis(1500);
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
    /// There was no room for a snapshot.
    SnapshotLacksRoom(String),
    /// The disk has become full, or has room again.
    Room {
        /// Which of the two.
        is_full: bool,
    },
    /// The state was hashed.
    DigestTaken(StateDigest),
    /// The newest snapshot is damaged, and was put out of service.
    SnapshotLost(String),
    /// A snapshot arrived and its state is built.
    SnapshotBuilt(Box<Install<S>>, u64),
    /// Somebody outside of the group says why this replica must not take part any longer.
    Disqualified(String),
    /// Stop in an orderly way, then say so.
    Shutdown(Sender<()>),
}

/// The replica's clock: monotonic, from 0. It goes on while the machine is suspended, or a lease would outlive its
/// length there.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    started_us: u64,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started_us: since_boot_us() }
    }

    pub(super) fn now(self) -> Time {
        Time(since_boot_us().saturating_sub(self.started_us))
    }
}

fn since_boot_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Something that happened to one life of a directory. A process that goes on in the next one does not mistake it for
/// its own.
pub(super) struct Sent<P: Protocol, S> {
    /// Which life, counted from 1; [`ANY_LIFE`] for whichever there is.
    life: u64,
    what: Happening<P, S>,
}

/// For what concerns the process.
pub(super) const ANY_LIFE: u64 = 0;

/// The two queues into the replica, their reading ends.
pub(super) struct Inbox<P: Protocol, S> {
    pub(super) events: Receiver<Sent<P, S>>,
    pub(super) requests: Receiver<(Request, ReplyTo)>,
    pub(super) waiting_bytes: Arc<WaitingBytes>,
}

/// Bytes of messages of peers in the inbox.
#[derive(Default)]
pub(super) struct WaitingBytes(AtomicUsize);

impl WaitingBytes {
    /// Whether so many more fit in; if so they are counted.
    fn add(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= EVENTS_MAX_BYTES;
        if !fits {
            self.remove(bytes);
        }
        fits
    }

    fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What something in the inbox is counted with.
fn size_bytes<P: Protocol, S>(happening: &Happening<P, S>) -> usize {
    match happening {
        Happening::Peer(TransportEvent::Received { message: PeerMessage::Protocol(message), .. }) => {
            P::message_size_bytes(message)
        }
        _ => 0,
    }
}

impl<P: Protocol, S> Inbox<P, S> {
    /// Whether something is there.
    pub(super) fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.requests.is_empty()
    }

    /// The next event that concerns this life; those of others are dropped.
    pub(super) fn next_event(&self, life: u64) -> Option<Happening<P, S>> {
        self.events.try_iter().find_map(|Sent { life: of, what }| {
            self.waiting_bytes.remove(size_bytes(&what));
            (of == life || of == ANY_LIFE).then_some(what)
        })
    }

    /// Waits until something other than a request is there, or for this long.
    fn wait_for_events(&self, at_most: Duration) {
        let mut select = Select::new();
        select.recv(&self.events);
        let _ = select.ready_timeout(at_most);
    }
}

/// The way into the inbox for a replica's own threads.
pub(super) struct News<P: Protocol, S: StateMachine> {
    pub(super) events: Sender<Sent<P, S>>,
    /// The life that it speaks for.
    pub(super) life: u64,
    pub(super) waiting_bytes: Arc<WaitingBytes>,
    pub(super) helm: Arc<Helm<Driver<P, S>>>,
}

impl<P: Protocol, S: StateMachine> Clone for News<P, S> {
    fn clone(&self) -> News<P, S> {
        News {
            events: self.events.clone(),
            life: self.life,
            waiting_bytes: self.waiting_bytes.clone(),
            helm: self.helm.clone(),
        }
    }
}

impl<P: Protocol, S: StateMachine> News<P, S> {
    /// The same way, for another life.
    pub(super) fn of_life(&self, life: u64) -> News<P, S> {
        News { life, ..self.clone() }
    }

    /// Puts it in, waiting for room. False if nobody listens any more.
    pub(super) fn send(&self, what: Happening<P, S>) -> bool {
        self.events.send(Sent { life: self.life, what }).is_ok()
    }

    /// Puts it in, waiting for room, and leaves it to the replica thread. False if nobody listens any more.
    pub(super) fn tell(&self, happening: Happening<P, S>) -> bool {
        let told = self.send(happening);
        self.helm.wake();
        told
    }

    /// As [`News::tell`], but gives up after a while: false.
    pub(super) fn tell_within(&self, happening: Happening<P, S>, timeout: Duration) -> bool {
        let told = self.events.send_timeout(Sent { life: self.life, what: happening }, timeout).is_ok();
        self.helm.wake();
        told
    }
}

impl<P: Protocol, S: StateMachine> EventSink<PeerMessage<P::Message>> for News<P, S> {
    fn take(&self, event: TransportEvent<PeerMessage<P::Message>>) -> bool {
        let what = Happening::Peer(event);
        let bytes = size_bytes(&what);
        if !self.waiting_bytes.add(bytes) {
            return false;
        }
        let taken = self.events.try_send(Sent { life: self.life, what }).is_ok();
        if !taken {
            self.waiting_bytes.remove(bytes);
        }
        taken
    }

    fn flush(&self) {
        self.helm.steer();
    }
}

/// A replica in service: what its turns are made of. Whoever has the [helm](crate::replica::helm) runs them.
pub(super) struct Driver<P: Protocol, S: StateMachine> {
    pub(super) turns: Turns<P, S>,
    pub(super) clock: Clock,
    pub(super) inbox: Arc<Inbox<P, S>>,
    pub(super) news: News<P, S>,
    pub(super) disk: Sender<DiskJob<P::Message>>,
    pub(super) transport: Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) snapshots: SnapshotFiles,
    /// Of the snapshots that are being sent: how often the receiver got further, and how much of that the core knows.
    pub(super) sending: BTreeMap<NodeId, (Arc<AtomicU64>, u64)>,
    pub(super) seats: BTreeSet<NodeName>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) reporter: Reporter,
    pub(super) scans: Scans,
    pub(super) snapshot_worker: Worker,
    pub(super) digest_worker: Worker,
    /// When the replica thread looks again by itself.
    pub(super) alarm: Time,
    /// Requests that the last turn found waiting or took in.
    pub(super) concerned: usize,
    /// Whom to tell when the replica has stopped, once it was told to.
    pub(super) stopping: Option<Sender<()>>,
    /// Where the disk thread sends what is left of this life, should it end in quarantine.
    pub(super) quarantined: Sender<Quarantined>,
    /// It has.
    pub(super) is_quarantined: bool,
}

impl<P: Protocol, S: StateMachine> Steered for Driver<P, S> {
    fn turn(&mut self) -> Result<(), String> {
        if self.is_stopping() {
            return Ok(());
        }
        self.concerned = self.turns.waiting();
        if let Some(done) = self.take_events() {
            self.stopping = Some(done);
            return Ok(());
        }
        self.concerned += self.take_requests();
        let now = self.clock.now();
        self.note_progress(now);
        self.turns.tick_if_due(now, !self.inbox.events.is_empty());
        if self.turns.closes_readmission(now) {
            self.give_to_disk(DiskJob::CompleteReadmission)?;
            self.reporter.line("readmitted: the former life of this directory is closed for good");
        }
        self.work(now);
        self.perform()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_some() || self.is_quarantined
    }

    fn is_busy(&self) -> bool {
        self.concerned > BUSY_REQUESTS || self.turns.engine().has_work()
    }

    /// Hands over, answers what waits, and says so.
    fn farewell(&mut self) -> Result<(), String> {
        if self.is_quarantined {
            // It says nothing more to anybody but those who wait for an answer.
            self.refuse_requests();
            drop(self.turns.take_actions());
            return Ok(());
        }
        self.hand_over();
        self.refuse_requests();
        self.turns.engine_mut().stop();
        self.perform()?;
        if let Some(done) = self.stopping.take() {
            // If nobody waits for it any more, the process ends.
            let _ = done.send(());
        }
        Ok(())
    }

    fn set_alarm(&mut self) -> Duration {
        let now = self.clock.now();
        self.alarm = if self.turns.is_ready() { now } else { self.turns.wake_at() };
        Duration::from_micros(self.alarm.since_us(now))
    }

    fn brings_alarm_forward(&mut self) -> bool {
        let earlier = self.turns.is_ready() || self.turns.wake_at() < self.alarm;
        if earlier {
            self.alarm = Time(0);
        }
        earlier
    }
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    /// Feeds what has happened to the engine; `Some` if the replica is to stop.
    fn take_events(&mut self) -> Option<Sender<()>> {
        for _ in 0..EVENTS_PER_TURN {
            let event = self.inbox.next_event(self.news.life)?;
            let now = self.clock.now();
            match event {
                Happening::Durable(id) => self.turns.durable(now, id),
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Protocol(message) }) => {
                    // What is dropped is sent again.
                    let _ = self.turns.receive(now, from, message);
                }
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Birth(message) }) => {
                    if let Some(answer) = self.turns.answer_birth(&message) {
                        self.transport.send(from, PeerMessage::Birth(answer), Lane::Urgent, BIRTH_MESSAGE_BYTES);
                    }
                }
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Digest(digest) }) => {
                    self.digest_heard(from, ImageVersions::FIRST, digest);
                }
                Happening::Peer(TransportEvent::Received {
                    from,
                    message: PeerMessage::VersionedDigest { input, digest },
                }) => self.digest_heard(from, input, digest),
                Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Replaced { by, since } }) => {
                    self.turns.engine_mut().replaced_heard(from, Replaced { by, since });
                }
                Happening::Peer(TransportEvent::Connected { peer }) => self.turns.engine_mut().connected(peer),
                Happening::Peer(TransportEvent::Disconnected { peer }) => {
                    self.turns.engine_mut().disconnected(now, peer)
                }
                Happening::Peer(TransportEvent::Refused { peer, reason }) => {
                    self.reporter.line(&format!("replica {peer} and this one do not fit together: {reason}"));
                }
                Happening::Peer(TransportEvent::Disqualified { by, why }) => {
                    let reason = disqualification(why, &format!("replica {by}"));
                    self.turns.engine_mut().quarantine(reason);
                }
                Happening::Disqualified(reason) => self.turns.engine_mut().quarantine(reason),
                Happening::Peer(TransportEvent::SnapshotSent { to, last }) => {
                    self.sending.remove(&to);
                    self.turns.engine_mut().snapshot_sent(now, to, last)
                }
                Happening::SnapshotTaken { last, len_bytes } => {
                    self.turns.engine_mut().snapshot_taken(now, last, len_bytes)
                }
                Happening::SnapshotLacksRoom(why) => {
                    if !self.turns.engine_mut().snapshot_lacks_room(now) {
                        end_process(self.reporter.who(), &why);
                    }
                    self.reporter.line(&format!("no room for a snapshot, it is tried again: {why}"));
                }
                Happening::Room { is_full } => self.turns.engine_mut().disk_is_full(is_full),
                Happening::DigestTaken(digest) => self.turns.engine_mut().digest_taken(digest),
                Happening::SnapshotLost(why) => {
                    self.reporter.line(&format!("the newest snapshot is lost, another one is made: {why}"));
                    self.turns.engine_mut().snapshot_lost();
                }
                Happening::SnapshotBuilt(install, len_bytes) => {
                    self.turns.engine_mut().install(now, *install, len_bytes);
                }
                Happening::Shutdown(done) => return Some(done),
            }
        }
        None
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
        let (seats, transport) = (&self.seats, &self.transport);
        let present = || {
            let connected = |&name: &NodeName| Some(NodeId { name, incarnation: transport.incarnation_of(name)? });
            seats.iter().filter_map(connected).collect()
        };
        let count = requests.len();
        self.turns.requests(now, requests.into_iter(), present);
        count
    }

    /// Applies and answers, for as long as a turn that began at `began` may take.
    fn work(&mut self, began: Time) {
        let clock = self.clock;
        self.turns.work(|| clock.now().since_us(began) < WORK_PER_TURN_MAX_US);
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
                    Action::Adopt(file) => self.give_to_disk(DiskJob::Adopt(file))?,
                    Action::Discard(file) => self.give_to_disk(DiskJob::Discard(file))?,
                    Action::LetGo(state) => let_go(state),
                    Action::Healed => self.give_to_disk(DiskJob::Healed)?,
                    Action::Quarantine(reason) => {
                        // Nobody hears of this node any more, and nothing else is done for it.
                        self.transport.shutdown();
                        self.reporter.line(&format!("quarantined: {reason}"));
                        self.give_to_disk(DiskJob::Quarantine(reason, self.quarantined.clone()))?;
                        self.is_quarantined = true;
                        return Ok(());
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
                    Action::SendSnapshot(to) => self.send_snapshot(to),
                    Action::AnswerParts { reply, parts } => self.scans.begin(reply, parts),
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
        let news = self.news.clone();
        let genesis = self.turns.certificate().genesis;
        self.snapshot_worker.give(move || {
            let last = image.meta.last;
            let happening = match files.take(*image, genesis) {
                Ok(len_bytes) => Happening::SnapshotTaken { last, len_bytes },
                Err(error) => {
                    let why = format!("taking a snapshot failed: {error}");
                    if !error.is_lack_of_room() {
                        return Err(why);
                    }
                    Happening::SnapshotLacksRoom(why)
                }
            };
            // If nobody listens any more the replica has been shut down.
            let _ = news.tell(happening);
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
        let news = self.news.clone();
        self.digest_worker.give(move || {
            let digest = StateDigest::over(image.meta.last.index, |output| {
                image.write_whole(&mut Paced::new(output, Fullness::default()))
            });
            // If nobody listens any more the replica has been shut down.
            let _ = news.tell(Happening::DigestTaken(digest));
            Ok(())
        });
    }

    /// Opening the file may take the disk's time, so it happens elsewhere.
    fn send_snapshot(&mut self, to: NodeId) {
        let (files, transport) = (self.snapshots.clone(), self.transport.clone());
        let (news, reporter) = (self.news.clone(), self.reporter.clone());
        let lost = {
            let news = self.news.clone();
            // If nobody listens any more the replica has been shut down.
            move |why| {
                let _ = news.tell(Happening::SnapshotLost(why));
            }
        };
        let advances = Arc::new(AtomicU64::new(0));
        self.sending.insert(to, (Arc::clone(&advances), 0));
        self.runtime.spawn_blocking(move || {
            match files.open_newest(reporter.clone(), lost, advances) {
                Ok(Some(source)) => return transport.send_snapshot(to, Box::new(source)),
                Ok(None) => {}
                // A newer one took its place between looking and opening.
                Err(SnapshotError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => reporter.line(&format!("a snapshot for replica {to} cannot be sent: {error}")),
            }
            let _ = news.tell(Happening::Peer(TransportEvent::SnapshotSent { to, last: None }));
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
            if self.take_events().is_some() {
                return;
            }
            let now = self.clock.now();
            self.turns.engine_mut().tick(now);
            self.work(now);
        }
    }

    /// Answers what waits in the queue, so that nobody waits for a replica that has stopped.
    fn refuse_requests(&mut self) {
        let held = self.turns.take_held();
        let waiting: Vec<_> = held.into_iter().chain(self.inbox.requests.try_iter().take(REQUESTS_MAX)).collect();
        if self.is_quarantined || !self.turns.engine().core().routing().writes.is_here() {
            return self.turns.engine_mut().requests(self.clock.now(), waiting);
        }
        for (_, reply) in waiting {
            reply.send(Outcome::OutOfService("stopping".to_owned()));
        }
    }
}

/// Queues one message of the core, to leave with the transport's next flush; never blocks. Returns whether it is worth
/// one.
#[must_use]
pub(super) fn queue<P>(
    transport: &Transport<PeerMessage<P::Message>>,
    envelope: crate::protocol::Envelope<P::Message>,
) -> bool
where
    P: Protocol,
{
    let lane = if P::is_bulk(&envelope.message) { Lane::Bulk } else { Lane::Urgent };
    let size_bytes = P::message_size_bytes(&envelope.message);
    let leaves_now = !P::may_wait(&envelope.message);
    transport.queue(envelope.to, PeerMessage::Protocol(envelope.message), lane, size_bytes);
    leaves_now
}

/// Waits for the disk thread to finish what it was given, but not for ever: a disk that hangs must not keep the
/// process.
pub(super) fn join_disk(thread: std::thread::JoinHandle<()>) {
    let until = Instant::now() + DISK_FAREWELL;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B14: many large appends do not fill memory while a turn takes long, and one is never too large.
    #[test]
    fn messages_that_wait_are_bounded_in_bytes_and_one_always_fits() {
        let waiting = WaitingBytes::default();
        assert!(waiting.add(2 * EVENTS_MAX_BYTES), "alone");
        assert!(!waiting.add(1));
        waiting.remove(2 * EVENTS_MAX_BYTES);
        let messages = (0..1_000).filter(|_| waiting.add(1 << 20)).count();
        assert_eq!(messages, EVENTS_MAX_BYTES >> 20);
        waiting.remove(1 << 20);
        assert!(waiting.add(1 << 20) && !waiting.add(1 << 20));
    }
}
