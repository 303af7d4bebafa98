//! What a replica's threads do, step by step: turns, disk work, snapshots, checkpoints.

use smr::codec;
use smr::entry::{EntryId, Index, Term};
use smr::epoch_service::MemberReport;
use smr::id::NodeId;
use smr::internals::bootstrap::{BootstrapMessage, Verdict};
use smr::internals::configured::{Configured, Message, invariants};
use smr::internals::disk_jobs::DiskJob;
use smr::internals::engine::{Action, CheckpointPiece, MakeCheckpoint, Replaced};
use smr::internals::message::PeerMessage;
use smr::internals::protocol::{LogChange, Protocol, Time};
use smr::internals::session::SessionLimits;
use smr::internals::snapshot::SendingFile;
use smr::internals::turn::{EVENTS_PER_TURN, REQUESTS_PER_TURN};
use smr::replica::{Outcome, ReplyTo, Request};
use smr::state_machine::StateMachine;
use smr::status::StateDigest;
use smr::version::{CommandVersions, ImageVersions};

use super::{CALL_US, Event, Transfer, World};
use crate::epochs::ledger::Seen;
use crate::epochs::machine::{Input, Member, Process};
use crate::epochs::rare::Rare;
use crate::network::CLIENTS;
use crate::probe::Chained;
use crate::sim_node::{Broken, carry};
use crate::workload::Register;

/// A checkpoint travels in this many messages, or in one more.
const CHECKPOINT_PIECES: usize = 3;

impl World {
    /// Something reaches a process: it waits for the next turn.
    pub(super) fn put(&mut self, replica: usize, input: Input) {
        self.machines[replica].inbox.push_back(input);
        self.turn_soon(replica);
    }

    pub(super) fn turn_soon(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.machines[replica];
        if machine.paused_until <= now {
            machine.turn_at = now;
            self.turn(replica);
        }
    }

    pub(super) fn resume(&mut self, replica: usize, run: u64) {
        let machine = &self.machines[replica];
        if machine.run == run && machine.paused_until <= self.now && !machine.is_down() {
            self.turn_soon(replica);
        }
    }

    /// News, then requests, then time.
    pub(super) fn turn(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.machines[replica];
        if machine.turn_at != now {
            return;
        }
        machine.turn_at = Time(u64::MAX);
        if machine.paused_until > now || machine.is_down() {
            return;
        }
        let run = machine.run;
        for _ in 0..EVENTS_PER_TURN {
            if self.machines[replica].run != run {
                return;
            }
            let Some(input) = self.machines[replica].inbox.pop_front() else { break };
            self.take_in(replica, input);
            self.look(replica);
        }
        self.take_requests(replica);
        let machine = &mut self.machines[replica];
        match &mut machine.process {
            Process::Down => return,
            Process::Waiting(waiting) => {
                if waiting.call_at <= now {
                    waiting.call_at = now.plus_us(CALL_US);
                    let call = waiting.bootstrap.message();
                    self.call(replica, &call);
                }
            }
            Process::Serving(serving) => {
                let now = machine.clock.at(now);
                serving.turns.tick_if_due(now, !machine.inbox.is_empty());
                serving.turns.work(|_| false);
                if serving.turns.closes_readmission(now) {
                    serving.give_to_disk(DiskJob::CompleteReadmission);
                }
            }
        }
        self.settle(replica);
    }

    /// One who waits says so to all others, and to the service.
    fn call(&mut self, replica: usize, call: &BootstrapMessage) {
        let from = self.machines[replica].id;
        let others: Vec<NodeId> =
            self.machines.iter().filter(|other| other.id != from && !other.is_down()).map(|other| other.id).collect();
        for to in others {
            self.send(from, to, &PeerMessage::Bootstrap(call.clone()));
        }
        let (epoch, last) = (Term::ZERO, EntryId::ZERO);
        self.exchange(MemberReport { node: from, epoch, last, reports: Vec::new() });
    }

    fn take_in(&mut self, replica: usize, input: Input) {
        let machine = &mut self.machines[replica];
        let now = machine.clock.at(self.now);
        if let Input::Peer { from, bytes } = &input {
            let message: PeerMessage<Message> = match codec::decode(bytes) {
                Ok(message) => message,
                Err(error) => return self.violate("B1 decoding what was encoded", error.to_string()),
            };
            return self.take_message(replica, *from, message);
        }
        if let (Input::Reset { from }, Process::Waiting(waiting)) = (&input, &mut machine.process) {
            waiting.bootstrap.disconnected(*from);
        }
        let Process::Serving(serving) = &mut machine.process else { return };
        let engine = serving.turns.engine_mut();
        match input {
            Input::Peer { .. } => {}
            Input::Reset { from } => engine.disconnected(now, from),
            Input::Connected { from } => {
                engine.peer_applies(from, CommandVersions::with_machine(Register::COMMANDS_VERSION));
                engine.connected(now, from);
            }
            Input::Durable(id) => serving.turns.durable(now, id),
            Input::SnapshotTaken { last, len_bytes } => engine.snapshot_taken(now, last, len_bytes),
            Input::SnapshotSent { to, last } => engine.snapshot_sent(now, to, last),
            Input::SnapshotBuilt(install, len_bytes) => {
                if engine.install(now, *install, len_bytes) {
                    self.rare.saw(Rare::SnapshotInstalled);
                }
            }
            Input::DigestTaken(digest) => engine.digest_taken(digest),
            Input::CheckpointMade => engine.checkpoint_made(),
            Input::CheckpointBuilt(built) => {
                let before = engine.applied();
                let is_built = built.is_ok();
                engine.checkpoint_built(built);
                let is_taken = is_built && engine.applied() != before;
                self.rare.saw(if is_taken { Rare::CheckpointTaken } else { Rare::CheckpointDropped });
            }
            Input::Service(word) => engine.service_says(now, word.map(|word| *word)),
        }
    }

    fn take_message(&mut self, replica: usize, from: NodeId, message: PeerMessage<Message>) {
        let machine = &mut self.machines[replica];
        let (node, now) = (machine.id, machine.clock.at(self.now));
        let serving = match &mut machine.process {
            Process::Down => return,
            Process::Waiting(waiting) => {
                if let PeerMessage::Bootstrap(message) = message {
                    let verdict = waiting.bootstrap.receive(from, &message);
                    self.conclude(replica, verdict);
                }
                return;
            }
            Process::Serving(serving) => serving,
        };
        match message {
            PeerMessage::Protocol(message) => {
                let epoch = serving.engine().core().routing().term;
                if message.epoch < epoch {
                    self.rare.saw(Rare::OldEpochSpoken);
                }
                serving.turns.receive(now, from, message);
                if serving.engine().core().routing().term > epoch.next() && epoch.0 > 0 {
                    self.rare.saw(Rare::EpochSkipped);
                }
            }
            PeerMessage::Bootstrap(message) => {
                if let Some(answer) = serving.turns.answer_bootstrap(&message) {
                    self.send(node, from, &PeerMessage::Bootstrap(answer));
                }
            }
            PeerMessage::Digest(digest) | PeerMessage::VersionedDigest { digest, .. } => {
                serving.turns.engine_mut().digest_heard(from, digest);
            }
            PeerMessage::Replaced { by, since } => {
                serving.turns.engine_mut().replaced_heard(from, Replaced { by, since });
            }
            PeerMessage::Forward(writes) => {
                self.rare.saw(Rare::WriteForwarded);
                serving.turns.engine_mut().forwarded(now, writes);
            }
            PeerMessage::Checkpoint(piece) => {
                let applied = serving.applied();
                let told = format!(
                    "{node}, which has applied {applied}, hears from {from} {:?} from {} on",
                    piece.name, piece.offset
                );
                serving.turns.engine_mut().checkpoint_heard(from, piece);
                self.say(|| told);
            }
        }
    }

    fn conclude(&mut self, replica: usize, verdict: Verdict) {
        let rng = self.rolls.rng();
        match self.machines[replica].conclude(&self.common, verdict, self.now, rng) {
            None => {}
            Some(Ok(found)) => {
                self.rare.saw(Rare::TakenIn);
                self.started(replica, &found);
            }
            Some(Err(why)) => self.violate("M6 one who waits is taken in", why),
        }
    }

    fn take_requests(&mut self, replica: usize) {
        let machine = &mut self.machines[replica];
        let now = machine.clock.at(self.now);
        let count = machine.requests.len().min(REQUESTS_PER_TURN);
        let sink = machine.mailbox.clone();
        let requests: Vec<(Request, ReplyTo)> = machine
            .requests
            .drain(..count)
            .map(|(tag, request)| (request, ReplyTo { tag, sink: sink.clone() }))
            .collect();
        match &mut machine.process {
            Process::Serving(serving) if count > 0 || serving.turns.held() > 0 => {
                let reads = requests.iter().any(|(request, _)| matches!(request, Request::Read { .. }));
                let core = serving.engine().core();
                if reads && core.routing().reads.is_here() && !invariants::orders(core) {
                    self.rare.saw(Rare::ReadElsewhere);
                }
                serving.turns.requests(now, requests.into_iter(), Vec::new);
            }
            Process::Serving(_) => {}
            Process::Waiting(_) | Process::Down => {
                requests.into_iter().for_each(|(_, reply)| reply.send(Outcome::OutOfService("waits".to_owned())));
            }
        }
    }

    /// Carries out what a process asks for, tells everyone what it did, and looks when it has something to do next.
    pub(super) fn settle(&mut self, replica: usize) {
        loop {
            self.look(replica);
            let from = self.machines[replica].id;
            let Some(serving) = self.machines[replica].serving_mut() else { break };
            let actions = serving.turns.take_actions();
            if actions.is_empty() {
                break;
            }
            let run = self.machines[replica].run;
            for action in actions {
                if self.machines[replica].run != run {
                    break;
                }
                self.carry_out(replica, from, action);
            }
        }
        for (tag, outcome) in self.machines[replica].mailbox.take() {
            if let Some(at) = self.network.arrivals(self.now, replica as u16, CLIENTS).next() {
                self.schedule(at, Event::Answer { tag, outcome });
            }
        }
        self.schedule_work(replica);
    }

    fn carry_out(&mut self, replica: usize, from: NodeId, action: Action<Configured, Chained<Register>>) {
        let run = self.machines[replica].run;
        let Some(serving) = self.machines[replica].serving_mut() else { return };
        match action {
            Action::Send(envelope) => self.send_message(from, envelope.to, envelope.message),
            Action::Write(write) => serving.give_to_disk(DiskJob::Write(write)),
            Action::PublishSnapshot(file) => serving.give_to_disk(DiskJob::PublishSnapshot(file)),
            Action::Discard(file) => serving.give_to_disk(DiskJob::Discard(file)),
            Action::Healed => self.violate("D18 these kinds do not heal", from.to_string()),
            Action::Quarantine(reason) => self.quarantine(replica, &reason),
            Action::Stop(why) => self.violate("L20 a command of this very build is unknown to it", why),
            Action::TakeSnapshot(image) => {
                serving.taking = Some(image);
                let at = self.now.plus_us(2_000 + self.disks.below(60_000));
                self.schedule(at, Event::Taken { replica, run });
            }
            Action::TakeDigest(image) => {
                let digest = StateDigest::over(image.meta.last.index, |output| image.write_whole(output));
                self.machines[replica].inbox.push_back(Input::DigestTaken(digest));
            }
            Action::SendDigest(to, digest) => self.send(from, to, &PeerMessage::Digest(digest)),
            Action::SendReplaced(to, Replaced { by, since }) => {
                self.send(from, to, &PeerMessage::Replaced { by, since });
            }
            Action::SendSnapshot(to) => {
                let snapshots = &serving.snapshots;
                let file = snapshots.latest().and_then(|info| snapshots.open_for_sending(&info).ok());
                let at = self.now.plus_us(2_000 + self.disks.below(60_000));
                self.schedule(at, Event::Transferred(Box::new(Transfer { from, run, to, file })));
            }
            Action::MakeCheckpoint(make) => self.make_checkpoint(replica, from, &make),
            Action::BuildCheckpoint(build) => {
                let at = self.now.plus_us(self.disks.below(self.common.config.checkpoint_work_us));
                self.schedule(at, Event::BuildCheckpoint { replica, run, build });
            }
            Action::Forward(to, writes) => self.send(from, to, &PeerMessage::Forward(writes)),
            Action::Exchange(report) => self.exchange(report),
            Action::AnswerParts { reply, parts } => reply.send(Outcome::Answer(parts.flatten().collect())),
            Action::Report(line) => self.say(|| format!("{from}: {line}")),
            Action::SetAddresses(_) | Action::Retired(_) | Action::DropInBackground(_) => {}
        }
    }

    /// In parts, one after the other: any of them may be lost.
    fn make_checkpoint(&mut self, replica: usize, from: NodeId, make: &MakeCheckpoint<Chained<Register>>) {
        let bytes = make.bytes();
        self.rare.saw(if bytes.is_empty() { Rare::CheckpointMark } else { Rare::CheckpointMade });
        self.say(|| format!("{from} makes a checkpoint of {} bytes, {:?}", bytes.len(), make.name));
        let work_us = self.common.config.checkpoint_work_us;
        let mut at = self.now;
        for whole in make.pieces(ImageVersions::with_machine(Register::IMAGE_VERSION), bytes) {
            let piece_bytes = (whole.bytes.len() / CHECKPOINT_PIECES).max(1);
            let starts = (0..whole.bytes.len().max(1)).step_by(piece_bytes);
            for start in starts {
                at = at.plus_us(self.disks.below(work_us));
                let end = whole.bytes.len().min(start + piece_bytes);
                let (offset, bytes) = (whole.offset + start as u64, whole.bytes.slice(start.min(end)..end));
                let piece = CheckpointPiece { offset, bytes, ..whole.clone() };
                for to in &make.to {
                    self.send_at(at, from, *to, &PeerMessage::Checkpoint(piece.clone()));
                }
            }
        }
        let run = self.machines[replica].run;
        self.schedule(at, Event::CheckpointMade { replica, run });
    }

    /// Disk work, and the next turn.
    fn schedule_work(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.machines[replica];
        let (run, hangs_until) = (machine.run, machine.disk_hangs_until);
        let wake_at = match &mut machine.process {
            Process::Down => return,
            Process::Waiting(waiting) => waiting.call_at,
            Process::Serving(serving) => {
                let begins = serving.begin_disk_work();
                let has_news = !machine.inbox.is_empty() || !machine.requests.is_empty() || serving.turns.is_ready();
                let wake_at = if has_news { now } else { machine.clock.moment(serving.turns.wake_at()) };
                if begins {
                    let at = now.plus_us(100 + self.disks.below(self.common.config.disk_us)).max(hangs_until);
                    self.schedule(at, Event::Disk { replica, run });
                }
                wake_at
            }
        };
        let machine = &mut self.machines[replica];
        let wake_at = wake_at.max(now);
        if wake_at < machine.turn_at {
            machine.turn_at = wake_at;
            self.schedule(wake_at, Event::Turn { replica });
        }
    }

    pub(super) fn disk(&mut self, replica: usize, run: u64) {
        let machine = &mut self.machines[replica];
        if machine.run != run {
            return;
        }
        let until = machine.disk_hangs_until.max(machine.paused_until);
        if until > self.now {
            return self.schedule(until, Event::Disk { replica, run });
        }
        let node = machine.id;
        let Some(serving) = machine.serving_mut() else { return };
        if !serving.is_at_work() {
            return;
        }
        let writes = match serving.end_disk_work() {
            Ok(writes) => writes,
            Err(error) => return self.violate("D5 a disk without faults", error.to_string()),
        };
        let mut last = None;
        for write in writes {
            if write.log().iter().any(|change| matches!(change, LogChange::RemoveFrom(_))) {
                self.rare.saw(Rare::LogCut);
            }
            self.observe(&Seen::Durable { node, write: &write });
            let (id, messages) = write.durable();
            last = Some(id);
            for envelope in messages {
                self.send_message(node, envelope.to, envelope.message);
            }
        }
        let followed = self.machines[replica].serving_mut().map(Member::follow);
        if let Some(Err(error)) = followed {
            return self.violate("D5 a disk without faults", error.to_string());
        }
        match last {
            Some(id) => self.put(replica, Input::Durable(id)),
            None => self.settle(replica),
        }
    }

    pub(super) fn taken(&mut self, replica: usize, run: u64) {
        let machine = &mut self.machines[replica];
        if machine.run != run {
            return;
        }
        let until = machine.disk_hangs_until.max(machine.paused_until);
        if until > self.now {
            return self.schedule(until, Event::Taken { replica, run });
        }
        let Some(serving) = machine.serving_mut() else { return };
        match serving.end_taking() {
            Ok(None) => {}
            Ok(Some((last, len_bytes, _))) => self.put(replica, Input::SnapshotTaken { last, len_bytes }),
            Err(error) => self.violate("D5 a disk without faults", error.to_string()),
        }
    }

    pub(super) fn transferred(&mut self, transfer: Transfer) {
        let Transfer { from, run, to, mut file } = transfer;
        let replica = usize::from(from.name.0);
        if self.machines[replica].run != run {
            return;
        }
        let until = self.machines[replica].paused_until;
        if until > self.now {
            return self.schedule(until, Event::Transferred(Box::new(Transfer { from, run, to, file })));
        }
        let last = file.as_ref().map(|file| file.info().meta.last);
        let arrived = file.as_mut().is_some_and(|file| self.carry(from, to, file));
        let last = last.filter(|_| arrived);
        let at = self.now.plus_us(self.rolls.below(200_000));
        self.schedule(at, Event::Sent { replica, run, to, last });
    }

    /// Carries a snapshot over, if there is a way; one in five times the connection breaks.
    fn carry(&mut self, from: NodeId, to: NodeId, file: &mut SendingFile) -> bool {
        let up_to = if self.disks.below(5) == 0 { self.disks.below(file.info().len_bytes) } else { u64::MAX };
        let delay_us = 1_000 + self.disks.below(100_000);
        let (here, there) = (from.name.0, to.name.0);
        let is_cut = self.network.is_cut(here, there) || self.network.is_cut(there, here);
        let replica = usize::from(there);
        let receiver = &mut self.machines[replica];
        let is_reachable = receiver.id == to && receiver.paused_until <= self.now && !is_cut;
        let run = receiver.run;
        let Some(serving) = receiver.serving_mut().filter(|serving| is_reachable && serving.building.is_none()) else {
            return false;
        };
        match carry(file, &serving.snapshots, up_to) {
            Ok(received) => {
                serving.building = Some(received);
                self.schedule(self.now.plus_us(delay_us), Event::Built { replica, run });
                true
            }
            Err(Broken::OnTheWay | Broken::Source) => false,
            Err(Broken::SendersDisk(why) | Broken::ReceiversDisk(why)) => {
                self.violate("D5 a disk without faults", why);
                false
            }
        }
    }

    pub(super) fn built(&mut self, replica: usize, run: u64) {
        let machine = &mut self.machines[replica];
        if machine.run != run {
            return;
        }
        let until = machine.paused_until;
        if until > self.now {
            return self.schedule(until, Event::Built { replica, run });
        }
        let Some(serving) = machine.serving_mut() else { return };
        match serving.end_building(SessionLimits::default()) {
            Ok(None) => {}
            Ok(Some((install, len_bytes))) => self.put(replica, Input::SnapshotBuilt(Box::new(install), len_bytes)),
            Err(error) => self.violate("D5 a disk without faults", error.to_string()),
        }
    }

    /// Tells everyone what the core and the state machine of a process did.
    fn look(&mut self, replica: usize) {
        let machine = &self.machines[replica];
        let (node, run) = (machine.id, machine.run);
        let Some(serving) = machine.serving() else { return };
        let (engine, core) = (serving.engine(), serving.engine().core());
        let commit = core.commit().0;
        let mut committed = Vec::new();
        if commit > machine.committed {
            // What a snapshot has brought was committed by someone before.
            let known = machine.committed.max(core.status().log_start.index.0);
            committed = core.committed_from(Index(known + 1), usize::MAX, usize::MAX);
        }
        let configuration = core.configuration().cloned();
        let mut states: Vec<(Index, u64)> = {
            let executions = std::mem::take(&mut *engine.state().notes.borrow_mut());
            executions.iter().map(|execution| (execution.index, execution.digest)).collect()
        };
        states.push((engine.state().last, engine.state().digest));
        let violations = engine.counts().violations;
        let is_leased = self.is_leased(replica);
        // The books and the machines are apart, so that the core can be shown as it is.
        let machines = std::mem::take(&mut self.machines);
        if let Some(core) = machines[replica].core() {
            self.observe(&Seen::Stepped { node, run, core, is_leased });
        }
        self.machines = machines;
        if let Some(configuration) = &configuration {
            for entry in &committed {
                self.observe(&Seen::Committed { node, entry, configuration });
            }
        }
        for (last, digest) in states {
            self.observe(&Seen::State { node, last, digest });
        }
        let machine = &mut self.machines[replica];
        machine.committed = machine.committed.max(commit);
        if violations > machine.violations {
            machine.violations = violations;
            self.violate("B5 no violation by sound peers", format!("{node} dropped what a sound peer had sent"));
        }
    }
}
