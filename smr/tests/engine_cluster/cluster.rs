//! The group: machines, the network between them, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smr::entry::{EntryId, Index, Term};
use smr::id::{NodeId, NodeName};
use smr::protocol::{Protocol, Role, Time};
use smr::raft::invariants;
use smr::raft::message::Body;
use smr::replica::birth::BirthMessage;
use smr::replica::disk::DiskJob;
use smr::replica::engine::{Action, StateDigest};
use smr::replica::message::PeerMessage;
use smr::replica::{Outcome, ReplyTo, Request};
use smr::snapshot::SendingFile;
use smr::storage::virtual_disk::Loss;
use smr::storage::virtual_disk::VirtualDisk;

use crate::machine::{Broken, Life, Machine, Message, carry, end_of};
use crate::workload::{Mailbox, Workload};

/// What has happened, to know that a test has met what it is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) crashes: u64,
    pub(crate) snapshots_taken: u64,
    pub(crate) installs: u64,
    pub(crate) installs_refused: u64,
    pub(crate) transfers_broken: u64,
    pub(crate) leaders: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.crashes += other.crashes;
        self.snapshots_taken += other.snapshots_taken;
        self.installs += other.installs;
        self.installs_refused += other.installs_refused;
        self.transfers_broken += other.transfers_broken;
        self.leaders += other.leaders;
    }
}

/// What a node has told others, and must know again after a crash.
#[derive(Default)]
struct Told {
    /// The highest term that it spoke in.
    term: Term,
    /// Whom it gave its vote, by term.
    votes: BTreeMap<Term, NodeId>,
    /// The furthest entry that it acknowledged, and in which term.
    acknowledged: (Term, EntryId),
}

struct Transfer {
    from: NodeId,
    to: NodeId,
    /// `None` if there was nothing to send.
    file: Option<SendingFile>,
    done_at: Time,
}

pub(crate) struct Cluster {
    pub(crate) seed: u64,
    pub(crate) now: Time,
    rng: ChaCha8Rng,
    pub(crate) machines: Vec<Machine>,
    seats: BTreeSet<NodeName>,
    network: BTreeMap<(Time, u64), (NodeId, NodeId, PeerMessage<Message>)>,
    sent: u64,
    transfers: Vec<Transfer>,
    pub(crate) loss_percent: u64,
    /// How long a write takes to the device, in microseconds, at most.
    pub(crate) disk_us: u64,
    /// Links that carry nothing, one way.
    pub(crate) cut: BTreeSet<(u16, u16)>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) workload: Workload,
    pub(crate) counts: Counts,
    next_incarnation: u64,
    leaders: BTreeMap<Term, NodeId>,
    history: BTreeMap<Index, u64>,
    told: BTreeMap<NodeId, Told>,
    steps: u64,
}

impl Cluster {
    /// A group of `size` empty directories, which found their group in the first moments.
    pub(crate) fn new(seed: u64, size: u16, writers: u64, readers: u64) -> Cluster {
        Cluster {
            seed,
            now: Time(0),
            rng: ChaCha8Rng::seed_from_u64(seed),
            machines: (0..size).map(|name| Machine::new(name, 100 * (1 + u64::from(name)))).collect(),
            seats: (0..size).map(NodeName).collect(),
            network: BTreeMap::new(),
            sent: 0,
            transfers: Vec::new(),
            loss_percent: 0,
            disk_us: 2_000,
            cut: BTreeSet::new(),
            mailbox: Arc::new(Mailbox::default()),
            workload: Workload::new(writers, readers),
            counts: Counts::default(),
            next_incarnation: 10_000,
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            told: BTreeMap::new(),
            steps: 0,
        }
    }

    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn position(node: NodeId) -> usize {
        usize::from(node.name.0)
    }

    /// Ends a process: by a kill, or by a power cut.
    pub(crate) fn crash(&mut self, position: usize, power_cut: bool) {
        let progress_max = [1, 4, 16, 80][self.draw(4) as usize];
        let progress = self.draw(progress_max);
        let loss = match (power_cut, self.draw(4)) {
            (false, _) => Loss::Nothing,
            (true, 0) => Loss::Everything,
            (true, _) => Loss::Seeded(self.rng.next_u64()),
        };
        // Sometimes it is back before anybody has given it up.
        let down_max_us = [30_000, 2_000_000][self.draw(2) as usize];
        let down_us = 1_000 + self.draw(down_max_us);
        let machine = &mut self.machines[position];
        if machine.is_down() {
            return;
        }
        self.counts.crashes += 1;
        machine.crash(progress, loss);
        machine.restart_at = self.now.plus_us(down_us);
        machine.paused_until = Time(0);
        machine.asked_in_pause.clear();
        machine.disk_hangs_until = Time(0);
        let dead = machine.id;
        self.lose_connections_from(dead);
    }

    /// A node has found out that it forgot something: its process ends.
    fn quarantine(&mut self, position: usize, reason: &str) {
        let machine = &mut self.machines[position];
        assert!(machine.is_set_back, "seed {}: {} has forgotten something by itself: {reason}", self.seed, machine.id);
        let Life::Serving(serving) = std::mem::replace(&mut machine.life, Life::Down) else { return };
        serving.into_desk().quarantine(reason);
        machine.restart_at = self.now.plus_us(100_000);
        let dead = machine.id;
        self.lose_connections_from(dead);
    }

    /// A process ends, and its directory is set back to what `disk` holds.
    pub(crate) fn set_back(&mut self, position: usize, disk: VirtualDisk) {
        self.crash(position, false);
        self.machines[position].disk = disk;
        self.machines[position].is_set_back = true;
    }

    /// A process ends and its directory is emptied; it comes back as another incarnation.
    pub(crate) fn lose_directory(&mut self, position: usize) {
        self.crash(position, false);
        self.next_incarnation += 100;
        let restart_at = self.machines[position].restart_at;
        self.machines[position] = Machine::new(position as u16, self.next_incarnation);
        self.machines[position].restart_at = restart_at;
    }

    /// Cuts all links of a node, both ways. With `resets` the others hear at once that its connections are gone.
    pub(crate) fn cut_off(&mut self, node: usize, resets: bool) {
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            self.cut.extend([(node as u16, other as u16), (other as u16, node as u16)]);
            if resets {
                self.reset(node, other);
            }
        }
    }

    /// The news of a closed connection comes behind everything that was sent on it; a power cut or a firewall sends none,
    /// but that is only slower.
    fn lose_connections_from(&mut self, dead: NodeId) {
        self.network.retain(|_, (from, _, _)| *from != dead);
        self.transfers.retain(|transfer| transfer.from != dead);
        for other in 0..self.machines.len() {
            let reachable = !self.cut.contains(&(dead.name.0, other as u16));
            if let Some(serving) = self.machines[other].serving_mut()
                && reachable
            {
                serving.engine.disconnected(self.now, dead);
            }
            self.act(other);
        }
    }

    /// The connections from one node to another break, and are made again at once.
    pub(crate) fn reset(&mut self, from: usize, to: usize) {
        let (from, to_id) = (self.machines[from].id, self.machines[to].id);
        self.network.retain(|_, (sender, receiver, _)| (*sender, *receiver) != (from, to_id));
        if let Some(serving) = self.machines[to].serving_mut() {
            serving.engine.disconnected(self.now, from);
        }
        self.act(to);
    }

    /// Asks a node something on behalf of a client.
    pub(crate) fn ask(&mut self, position: usize, request: Request, tag: u64) -> bool {
        let now = self.now;
        if self.machines[position].paused_until > now {
            // It waits in the socket.
            let sink = self.mailbox.clone();
            self.machines[position].asked_in_pause.push((request, ReplyTo { tag, sink }));
            return true;
        }
        if let Request::Readmit { .. } = request {
            let present: Vec<NodeId> = self.machines.iter().filter(|m| !m.is_down()).map(|m| m.id).collect();
            if let Some(serving) = self.machines[position].serving_mut() {
                present.into_iter().for_each(|node| serving.engine.met(now, node));
            }
        }
        let sink = self.mailbox.clone();
        let Some(serving) = self.machines[position].serving_mut() else { return false };
        serving.engine.requests(now, [(request, ReplyTo { tag, sink })]);
        self.act(position);
        true
    }

    /// Carries out what an engine asks.
    fn act(&mut self, position: usize) {
        let from = self.machines[position].id;
        let Life::Serving(serving) = &mut self.machines[position].life else { return };
        let mut digests = Vec::new();
        for action in serving.engine.take_actions() {
            let disk_us = 100 + self.draw(self.disk_us);
            let slow_us = 2_000 + self.draw(60_000);
            let (now, machine) = (self.now, &mut self.machines[position]);
            let hangs_until = machine.disk_hangs_until;
            let done_at = now.plus_us(disk_us).max(hangs_until);
            let Life::Serving(serving) = &mut machine.life else { return };
            match action {
                Action::Send(envelope) => self.send(from, envelope.to, PeerMessage::Protocol(envelope.message)),
                Action::Write(write) => serving.give_to_disk(DiskJob::Write(write)),
                Action::Adopt(file) => serving.give_to_disk(DiskJob::Adopt(file)),
                Action::Discard(file) => serving.give_to_disk(DiskJob::Discard(file)),
                Action::Quarantine(reason) => {
                    self.quarantine(position, &reason);
                    return;
                }
                Action::TakeSnapshot(image) => serving.taking = Some((now.plus_us(slow_us), image)),
                Action::TakeDigest(image) => {
                    let digest = StateDigest::over(image.meta.last.index, |output| image.write_whole(output));
                    digests.push(digest);
                }
                Action::SendDigest(to, digest) => self.send(from, to, PeerMessage::Digest(digest)),
                Action::SendSnapshot(to) => {
                    let done_at = now.plus_us(slow_us);
                    let file =
                        serving.snapshots.latest().map(|info| serving.snapshots.open_for_sending(&info).unwrap());
                    self.transfers.push(Transfer { from, to, file, done_at });
                }
                Action::AnswerParts { .. } => panic!("no scans in this test"),
                Action::Report(_) => {}
            }
            if let Life::Serving(serving) = &mut self.machines[position].life {
                serving.begin_disk_work(done_at);
            }
        }
        if let Life::Serving(serving) = &mut self.machines[position].life
            && !digests.is_empty()
        {
            digests.into_iter().for_each(|digest| serving.engine.digest_taken(digest));
            self.act(position);
        }
    }

    /// Notes what a node promises with a message (I2).
    fn note(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let (term, told) = (message.term, self.told.entry(from).or_default());
        match message.body {
            // Of a term that nobody has entered.
            Body::PreVote { .. } | Body::PreVoteGranted { .. } => return,
            Body::VoteGranted | Body::Vote { .. } => {
                let candidate = if message.body == Body::VoteGranted { to } else { from };
                let first = *told.votes.entry(term).or_insert(candidate);
                assert_eq!(first, candidate, "seed {}: {from} votes twice in {term:?} (I2)", self.seed);
            }
            Body::AppendAccepted { last } | Body::SnapshotInstalled { last } => {
                told.acknowledged = told.acknowledged.max((term, last));
            }
            _ => {}
        }
        told.term = told.term.max(term);
    }

    /// Judges what a node knows when it is back (I11).
    fn judge_restarted(&self, position: usize) {
        let machine = &self.machines[position];
        if machine.is_set_back {
            return;
        }
        let (Some(serving), Some(told)) = (machine.serving(), self.told.get(&machine.id)) else { return };
        let status = serving.engine.core().status();
        let (term, last) = told.acknowledged;
        assert!(status.term >= told.term, "seed {}: {} forgot {:?}", self.seed, machine.id, told.term);
        // In that term nothing contradicts what it acknowledged; in a later one its log may have been cut.
        let kept = status.term > term || status.last.index >= last.index;
        assert!(kept, "seed {}: {} forgot {last} of {term:?}, has {}", self.seed, machine.id, status.last);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage<Message>) {
        if let PeerMessage::Protocol(message) = &message {
            self.note(from, to, message);
        }
        let copies = match self.draw(100) {
            percent if percent < self.loss_percent => 0,
            99 => 2,
            _ => 1,
        };
        if self.cut.contains(&(from.name.0, to.name.0)) {
            return;
        }
        for _ in 0..copies {
            let late = match self.draw(200) {
                0 => 1_000_000,
                1..4 => 100_000,
                _ => 0,
            };
            let arrives = self.now.plus_us(50 + self.draw(1_000) + self.draw(late + 1));
            self.sent += 1;
            self.network.insert((arrives, self.sent), (from, to, message.clone()));
        }
    }

    /// Moves time to the next thing that happens, and lets it happen.
    pub(crate) fn step(&mut self) {
        let mut next = self.now.plus_us(5_000);
        next = self.network.keys().next().map_or(next, |(at, _)| next.min(*at));
        for machine in self.machines.iter().filter(|machine| machine.paused_until <= self.now) {
            if let Some(serving) = machine.serving() {
                next = next.min(serving.engine.deadline());
                next = serving.next_at().map_or(next, |at| next.min(at));
            }
        }
        self.now = next.max(self.now);
        for position in 0..self.machines.len() {
            self.wake(position);
        }
        self.deliver();
        for position in 0..self.machines.len() {
            self.run_machine(position);
        }
        self.end_transfers();
        let mut workload = std::mem::take(&mut self.workload);
        workload.serve(self);
        self.workload = workload;
        self.judge();
    }

    /// What clients asked of a process while it was stopped is read before or after what peers sent: who knows.
    fn wake(&mut self, position: usize) {
        let (now, late) = (self.now, self.draw(2) == 0);
        let machine = &mut self.machines[position];
        if machine.paused_until > now || machine.asked_in_pause.is_empty() || late {
            return;
        }
        let requests = std::mem::take(&mut machine.asked_in_pause);
        if let Some(serving) = machine.serving_mut() {
            serving.engine.requests(now, requests);
        }
        self.act(position);
    }

    fn deliver(&mut self) {
        let now = self.now;
        while let Some(first) = self.network.first_entry()
            && first.key().0 <= now
        {
            let ((_, number), (from, to, message)) = first.remove_entry();
            let position = Cluster::position(to);
            let machine = &mut self.machines[position];
            if machine.id != to || self.cut.contains(&(from.name.0, to.name.0)) {
                continue;
            }
            if machine.paused_until > now {
                // It waits in the socket.
                let at = machine.paused_until;
                self.network.insert((at, number), (from, to, message));
                continue;
            }
            let mut answer = None;
            let mut verdict = None;
            match (&mut machine.life, message) {
                (Life::Down, _) | (Life::Waiting(_), PeerMessage::Protocol(_) | PeerMessage::Digest(_)) => {}
                (Life::Waiting(waiting), PeerMessage::Birth(message)) => {
                    verdict = Some(waiting.unborn.receive(from, &message));
                    if let BirthMessage::Unborn { .. } = message {
                        answer = Some(waiting.unborn.message());
                    }
                }
                (Life::Serving(serving), PeerMessage::Protocol(message)) => serving.engine.receive(now, from, message),
                (Life::Serving(serving), PeerMessage::Digest(digest)) => serving.engine.digest_heard(from, digest),
                (Life::Serving(serving), PeerMessage::Birth(BirthMessage::Unborn { .. })) => {
                    answer = Some(BirthMessage::Born {
                        genesis: serving.genesis,
                        founders: serving.founders.clone(),
                        configuration: serving.engine.core().status().configuration,
                    });
                }
                (Life::Serving(_), PeerMessage::Birth(_)) => {}
            }
            if let Some(answer) = answer.filter(|answer| matches!(answer, BirthMessage::Born { .. })) {
                self.send(to, from, PeerMessage::Birth(answer));
            }
            if let Some(verdict) = verdict {
                let seed = self.rng.next_u64();
                self.machines[position].conclude(verdict, now, seed);
            }
            self.act(position);
        }
    }

    fn run_machine(&mut self, position: usize) {
        let (now, seed) = (self.now, self.rng.next_u64());
        let machine = &mut self.machines[position];
        if machine.paused_until > now {
            return;
        }
        if machine.is_down() && machine.restart_at <= now {
            machine.start(&self.seats, now, seed);
            self.judge_restarted(position);
        }
        let machine = &mut self.machines[position];
        let from = machine.id;
        let mut messages = Vec::new();
        match &mut machine.life {
            Life::Down => {}
            Life::Waiting(waiting) => {
                if waiting.call_at <= now {
                    waiting.call_at = now.plus_us(50_000);
                    let call = waiting.unborn.message();
                    let verdict = waiting.unborn.verdict();
                    let others = self.machines.iter().filter(|other| other.id != from && !other.is_down());
                    messages.extend(others.map(|other| (other.id, PeerMessage::Birth(call.clone()))));
                    self.machines[position].conclude(verdict, now, seed);
                }
            }
            Life::Serving(serving) => {
                if serving.disk_is_done(now) {
                    let released = serving.end_disk_work(now);
                    messages.extend(released.into_iter().map(|e| (e.to, PeerMessage::Protocol(e.message))));
                }
                self.counts.snapshots_taken += u64::from(serving.end_taking(now));
                match serving.end_building(now) {
                    Some(true) => self.counts.installs += 1,
                    Some(false) => self.counts.installs_refused += 1,
                    None => {}
                }
                if serving.engine.deadline() <= now {
                    serving.engine.tick(now);
                }
                if serving.readmission_open {
                    let status = serving.engine.core().status();
                    if status.configuration.voters.contains(&from) && status.configuration_index <= status.commit {
                        serving.readmission_open = false;
                        serving.give_to_disk(DiskJob::CompleteReadmission);
                    }
                }
            }
        }
        for (to, message) in messages {
            self.send(from, to, message);
        }
        self.act(position);
        let done_at = now.plus_us(100 + self.draw(self.disk_us)).max(self.machines[position].disk_hangs_until);
        if let Some(serving) = self.machines[position].serving_mut() {
            serving.begin_disk_work(done_at);
        }
    }

    fn end_transfers(&mut self) {
        let now = self.now;
        let (done, under_way) = std::mem::take(&mut self.transfers).into_iter().partition(|t| t.done_at <= now);
        self.transfers = under_way;
        for transfer in done {
            let Transfer { from, to, file, .. } = transfer;
            let last = file.as_ref().map(end_of);
            let arrived = file.map_or(Err(Broken::OnTheWay), |file| self.carry(from, to, file));
            let sender = &mut self.machines[Cluster::position(from)];
            if let Some(serving) = sender.serving_mut() {
                if let Err(Broken::Source) = arrived {
                    let info = serving.snapshots.latest().unwrap();
                    serving.snapshots.set_aside(&info).unwrap();
                    serving.engine.snapshot_lost();
                }
                serving.engine.snapshot_sent(now, to, last.filter(|_| arrived.is_ok()));
            }
            self.counts.transfers_broken += u64::from(arrived.is_err());
            self.act(Cluster::position(from));
        }
    }

    /// Carries a snapshot over, if there is a way; one in five times the connection breaks, and it is resumed later.
    fn carry(&mut self, from: NodeId, to: NodeId, mut file: SendingFile) -> Result<(), Broken> {
        let up_to = if self.draw(5) == 0 { self.draw(file.info().len_bytes) } else { u64::MAX };
        let delay_us = 1_000 + self.draw(100_000);
        let (there, back) = ((from.name.0, to.name.0), (to.name.0, from.name.0));
        let receiver = &mut self.machines[Cluster::position(to)];
        let reachable = receiver.id == to && receiver.paused_until <= self.now;
        match receiver.serving_mut() {
            Some(serving)
                if reachable
                    && serving.building.is_none()
                    && !self.cut.contains(&there)
                    && !self.cut.contains(&back) =>
            {
                let received = carry(&mut file, &serving.snapshots, up_to)?;
                serving.building = Some((self.now.plus_us(delay_us), received));
                Ok(())
            }
            _ => Err(Broken::OnTheWay),
        }
    }

    /// What must hold after each step.
    fn judge(&mut self) {
        self.steps += 1;
        for machine in &self.machines {
            let Some(serving) = machine.serving() else { continue };
            let engine = &serving.engine;
            if engine.core().role() == Role::Leader {
                let term = engine.core().leader_hint().term;
                let leader = *self.leaders.entry(term).or_insert(machine.id);
                assert_eq!(leader, machine.id, "seed {}: two leaders of {term:?} (I1)", self.seed);
                self.counts.leaders = self.leaders.len() as u64;
            }
            let state = engine.state();
            let digest = *self.history.entry(state.last).or_insert(state.digest);
            assert_eq!(digest, state.digest, "seed {}: {} differs at {} (I7)", self.seed, machine.id, state.last);
            if self.steps.is_multiple_of(64) {
                invariants::check(engine.core());
            }
        }
    }

    pub(crate) fn run_until(&mut self, until: Time) {
        while self.now < until {
            self.step();
        }
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        self.run_until(self.now.plus_us(us));
    }

    /// Steps until something holds, or the test fails.
    pub(crate) fn run_until_that(&mut self, within_us: u64, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let deadline = self.now.plus_us(within_us);
        while !holds(self) {
            assert!(self.now < deadline, "seed {}: not within {within_us} us: {what}", self.seed);
            self.step();
        }
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |machine: &Machine| machine.serving().is_some_and(|s| s.engine.core().role() == Role::Leader);
        let term = |machine: &Machine| machine.serving().map(|s| s.engine.core().leader_hint().term);
        let leaders = (0..self.machines.len()).filter(|position| leads(&self.machines[*position]));
        leaders.max_by_key(|position| term(&self.machines[*position]))
    }

    /// The leader, of whom there must be one soon.
    pub(crate) fn some_leader(&mut self) -> usize {
        self.run_until_that(10_000_000, "a leader", |cluster| cluster.leader().is_some());
        self.leader().unwrap()
    }

    /// Removes all faults; then everybody must get on, and all replicas must agree in the end.
    pub(crate) fn calm_down(&mut self) {
        self.loss_percent = 0;
        self.cut.clear();
        for machine in &mut self.machines {
            machine.disk_hangs_until = Time(0);
            machine.paused_until = machine.paused_until.min(self.now);
        }
        let before = self.workload.done();
        self.run_for(4_000_000);
        for (client, (before, after)) in before.iter().zip(self.workload.done()).enumerate() {
            assert!(after > *before, "seed {}: client {client} made no progress in the calm", self.seed);
        }
        self.workload.stop();
        self.run_until_that(10_000_000, "every request is answered", |cluster| cluster.workload.is_idle());
        self.run_until_that(10_000_000, "all replicas are equally far", |cluster| {
            let ends: BTreeSet<Index> =
                cluster.machines.iter().filter_map(Machine::serving).map(|s| s.engine.status().applied).collect();
            ends.len() == 1
        });
        let states: BTreeSet<u64> =
            self.machines.iter().filter_map(Machine::serving).map(|serving| serving.engine.state().digest).collect();
        assert_eq!(states.len(), 1, "seed {}: replicas end with different states", self.seed);
        self.workload.check(self.seed);
    }

    pub(crate) fn take_outcomes(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut *self.mailbox.0.lock().unwrap())
    }
}
