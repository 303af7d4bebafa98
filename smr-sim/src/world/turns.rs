//! What a replica's thread does: it takes in what has arrived, and carries out what the engine asks for.

use smr::codec;
use smr::internals::disk_jobs::DiskJob;
use smr::internals::engine::{Action, Replaced};
use smr::internals::message::PeerMessage;
use smr::internals::protocol::{Envelope, Event as CoreEvent, Protocol, Time};
use smr::internals::raft::Message;
use smr::internals::raft::message::Body;
use smr::internals::snapshot::SnapshotError;
use smr::internals::transport::EVENT_RETRY_MS;
use smr::internals::turn::EVENTS_PER_TURN;
use smr::replica::Outcome;
use smr::state_machine::StateMachine;
use smr::status::{Role, StateDigest};
use smr::version::CommandVersions;

use super::{BOOTSTRAP_INTERVAL_US, Event, SnapshotTransfer, World};
use crate::observation::Observation;
use crate::rare::Rare;
use crate::sim_node::{Input, ProcessState, SimNode};
use crate::workload::Workload;

impl<W: Workload> World<W> {
    /// Something reaches a process: it waits for the next turn.
    pub(super) fn put(&mut self, replica: usize, input: Input<W::Machine>) {
        let machine = &mut self.nodes[replica];
        if machine.inbox.len() >= self.common.shape.events_max {
            match input {
                Input::Peer { .. } => return self.watch.rare.saw(Rare::QueueFull),
                // The transport offers it until it is taken.
                Input::Reset { from } => {
                    let at = self.now.plus_us(EVENT_RETRY_MS * 1000);
                    return self.schedule(at, Event::Reset { from, to: replica });
                }
                Input::Connected { from } => {
                    let at = self.now.plus_us(EVENT_RETRY_MS * 1000);
                    return self.schedule(at, Event::Connected { from, to: replica });
                }
                // Threads of the replica wait for room.
                _ => {}
            }
        }
        if matches!(input, Input::Peer { .. } | Input::Reset { .. } | Input::Connected { .. }) {
            machine.inbox_most = machine.inbox_most.max(machine.inbox.len() + 1);
        }
        machine.inbox.push_back(input);
        self.turn_soon(replica);
    }

    /// The process's thread looks at its queues now, or when it has time.
    pub(super) fn turn_soon(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.paused_until > now {
            return;
        }
        if machine.busy_until <= now {
            machine.turn_at = now;
            return self.turn(replica);
        }
        let at = machine.busy_until;
        if at < machine.turn_at {
            machine.turn_at = at;
            self.schedule(at, Event::Turn { replica });
        }
    }

    fn take_in(&mut self, replica: usize, input: Input<W::Machine>) {
        let machine = &mut self.nodes[replica];
        let now = machine.clock.at(self.now);
        let node = machine.id;
        if let Input::Peer { from, bytes } = input {
            let message: PeerMessage<Message> = match codec::decode(&bytes) {
                Ok(message) => message,
                Err(error) => return self.watch.violate("B1 decoding what was encoded", error.to_string()),
            };
            return match message {
                PeerMessage::Bootstrap(message) => self.bootstrap_message(replica, from, &message),
                PeerMessage::Digest(digest) | PeerMessage::VersionedDigest { digest, .. } => {
                    let ProcessState::Serving(serving) = &mut machine.process else { return };
                    serving.turns.engine_mut().digest_heard(from, digest);
                }
                PeerMessage::Replaced { by, since } => {
                    let ProcessState::Serving(serving) = &mut machine.process else { return };
                    serving.turns.engine_mut().replaced_heard(from, Replaced { by, since });
                }
                PeerMessage::Forward(writes) => panic!("{from}, of a Raft group, sent {writes:?} on"),
                PeerMessage::Checkpoint(piece) => panic!("{from}, of a Raft group, sent {piece:?}"),
                PeerMessage::Protocol(message) => {
                    let ProcessState::Serving(serving) = &mut machine.process else { return };
                    if machine.is_healing && matches!(message.body, Body::Vote { .. }) {
                        self.watch.rare.saw(Rare::HealingVoteRefused);
                    }
                    if serving.turns.receive(now, from, message.clone()) {
                        self.watch.observe(&Observation::Received { from, to: node, message: &message });
                    } else {
                        self.watch.rare.saw(Rare::DiskTooSlow);
                    }
                }
            };
        }
        if let (Input::Reset { from }, ProcessState::Waiting(waiting)) = (&input, &mut machine.process) {
            waiting.bootstrap.disconnected(*from);
        }
        if let Input::SnapshotBuilt(..) = input {
            // What the turn applied so far comes before it; the state that remembers it is about to be replaced.
            self.look(replica);
        }
        let ProcessState::Serving(serving) = &mut self.nodes[replica].process else { return };
        match input {
            Input::Peer { .. } => {}
            Input::Reset { from } => serving.turns.engine_mut().disconnected(now, from),
            Input::Connected { from } => {
                // All replicas here run this build.
                let commands = CommandVersions::with_machine(W::Machine::COMMANDS_VERSION);
                serving.turns.engine_mut().peer_applies(from, commands);
                serving.turns.engine_mut().connected(now, from);
            }
            Input::Durable(id) => serving.turns.durable(now, id),
            Input::SnapshotTaken { last, len_bytes } => {
                serving.turns.engine_mut().snapshot_taken(now, last, len_bytes);
            }
            Input::DigestTaken(digest) => {
                self.watch.rare.saw(Rare::DigestTaken);
                serving.turns.engine_mut().digest_taken(digest);
            }
            Input::Disqualified(why) => serving.turns.engine_mut().quarantine(why.to_string()),
            Input::SnapshotLacksRoom => {
                self.watch.rare.saw(Rare::SnapshotLackedRoom);
                if !serving.turns.engine_mut().snapshot_lacks_room(now) {
                    self.disk_failed(replica, "no room for a snapshot".to_owned());
                }
            }
            Input::Room { is_full } => serving.turns.engine_mut().disk_is_full(is_full),
            Input::SnapshotLost => serving.turns.engine_mut().snapshot_lost(),
            Input::SnapshotSent { to, last } => serving.turns.engine_mut().snapshot_sent(now, to, last),
            Input::SnapshotBuilt(install, len_bytes) => {
                let meta = install.meta.clone();
                let accepted = serving.turns.engine_mut().install(now, *install, len_bytes);
                self.watch.observe(&Observation::SnapshotInstalled { node, meta: &meta, accepted });
            }
        }
    }

    /// What the replica's thread does in a turn: news, requests, time.
    pub(super) fn turn(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.turn_at != now {
            return;
        }
        machine.turn_at = Time(u64::MAX);
        if machine.paused_until > now || machine.is_down() {
            return;
        }
        let run = machine.run;
        let mut taken = 0;
        while taken < EVENTS_PER_TURN
            && self.nodes[replica].run == run
            && let Some(input) = self.nodes[replica].inbox.pop_front()
        {
            taken += 1;
            self.take_in(replica, input);
        }
        if self.nodes[replica].run != run {
            // A bootstrap that the device refused.
            return self.settle(replica);
        }
        self.take_requests(replica);
        let machine = &mut self.nodes[replica];
        let mut busy_us = self.common.shape.turn_us * (8 + taken as u64) / 8;
        match &mut machine.process {
            ProcessState::Down => return,
            ProcessState::Waiting(waiting) => {
                if waiting.call_at <= now {
                    waiting.call_at = now.plus_us(BOOTSTRAP_INTERVAL_US);
                    let (call, verdict) = (waiting.bootstrap.message(), waiting.bootstrap.verdict());
                    self.call(replica, &call);
                    self.conclude(replica, verdict);
                }
            }
            ProcessState::Serving(serving) => {
                let now = machine.clock.at(now);
                serving.turns.tick_if_due(now, !machine.inbox.is_empty());
                machine.requested_changes.count(&mut self.watch.rare);
                // One portion: what a machine has time for is a matter of luck, and here it has little.
                let applied = serving.engine().applied().index;
                serving.turns.work(|_| false);
                busy_us += self.common.shape.apply_us * (serving.engine().applied().index.0 - applied.0);
                if serving.engine().confirmed_reads_wait() {
                    self.watch.rare.saw(Rare::ReadConfirmedFirst);
                }
                if serving.turns.closes_readmission(now) {
                    serving.give_to_disk(DiskJob::CompleteReadmission);
                    self.watch.rare.saw(Rare::Readmitted);
                }
            }
        }
        self.nodes[replica].busy_until = self.now.plus_us(busy_us);
        self.settle(replica);
    }

    pub(super) fn resume(&mut self, replica: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.run != run || machine.paused_until > now || machine.is_down() {
            return;
        }
        if machine.inbox.len() > 100 {
            self.watch.rare.saw(Rare::LongPause);
        }
        let leads = |machine: &SimNode<W::Machine>| {
            machine.serving().is_some_and(|serving| serving.engine().core().role() == Role::Leader)
        };
        let led = leads(machine);
        machine.turn_at = now;
        self.turn(replica);
        if led && !leads(&self.nodes[replica]) {
            self.watch.rare.saw(Rare::DeposedInPause);
        }
    }

    /// Carries out what a process asks for, tells the others what it did, and looks when it has something to do next.
    pub(super) fn settle(&mut self, replica: usize) {
        if !self.touched.contains(&replica) {
            self.touched.push(replica);
        }
        loop {
            self.look(replica);
            let from = self.nodes[replica].id;
            let ProcessState::Serving(serving) = &mut self.nodes[replica].process else { break };
            let actions = serving.turns.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                let ProcessState::Serving(serving) = &mut self.nodes[replica].process else { break };
                match action {
                    Action::Send(Envelope { to, message }) => self.send_message(from, to, message),
                    Action::Write(write) => {
                        self.watch.observe(&Observation::WriteIssued { node: from, write: &write });
                        serving.give_to_disk(DiskJob::Write(write));
                    }
                    Action::PublishSnapshot(file) => serving.give_to_disk(DiskJob::PublishSnapshot(file)),
                    Action::Discard(file) => serving.give_to_disk(DiskJob::Discard(file)),
                    Action::Healed => {
                        serving.give_to_disk(DiskJob::Healed);
                        self.nodes[replica].is_healing = false;
                        self.nodes[replica].ends_healing = true;
                        self.watch.rare.saw(Rare::Healed);
                    }
                    Action::Quarantine(reason) => {
                        self.quarantine(replica, &reason);
                        break;
                    }
                    Action::Stop(why) => self.watch.violate("L20 a command of this very build is unknown to it", why),
                    Action::SetAddresses(_) => {}
                    Action::Retired(since) => {
                        if since.is_some() {
                            self.watch.rare.saw(Rare::Retired);
                        }
                    }
                    Action::TakeSnapshot(image) => {
                        if image.meta.last.index < serving.engine().core().commit() {
                            self.watch.rare.saw(Rare::SnapshotBehindCommit);
                        }
                        serving.taking = Some(image);
                        let slow_us = self.nodes[replica].slow_by_us(self.now);
                        let at = self.now.plus_us(2_000 + slow_us + self.disks.below(60_000));
                        let run = self.nodes[replica].run;
                        self.schedule(at, Event::Taken { replica, run });
                    }
                    // It takes no time here; the answer waits for the next turn as any other.
                    Action::TakeDigest(image) => {
                        let digest = StateDigest::over(image.meta.last.index, |output| image.write_whole(output));
                        self.nodes[replica].inbox.push_back(Input::DigestTaken(digest));
                    }
                    Action::SendDigest(to, digest) => self.send(from, to, &PeerMessage::Digest(digest)),
                    Action::SendReplaced(to, Replaced { by, since }) => {
                        self.send(from, to, &PeerMessage::Replaced { by, since });
                    }
                    Action::SendSnapshot(to) => {
                        let opened = match serving.snapshots.latest() {
                            Some(info) => serving.snapshots.open_for_sending(&info).map(Some),
                            None => Ok(None),
                        };
                        let file = match opened {
                            Ok(file) => file,
                            Err(SnapshotError::Corrupt { .. }) => {
                                self.snapshot_is_damaged(replica);
                                None
                            }
                            Err(error) => {
                                self.disk_failed(replica, error.to_string());
                                break;
                            }
                        };
                        let at = self.now.plus_us(2_000 + self.disks.below(60_000));
                        let run = self.nodes[replica].run;
                        self.schedule(at, Event::Transferred(Box::new(SnapshotTransfer { from, run, to, file })));
                    }
                    Action::MakeCheckpoint(_) | Action::BuildCheckpoint(_) => {
                        panic!("{from}, of a Raft group, has no backups")
                    }
                    Action::Forward(to, _) => panic!("{from}, of a Raft group, sends writes on to {to}"),
                    Action::Exchange(report) => panic!("{from}, of a Raft group, says {report:?} to no service"),
                    Action::AnswerParts { reply, parts } => reply.send(Outcome::Answer(parts.flatten().collect())),
                    Action::DropInBackground(_) | Action::Report(_) => {}
                }
            }
        }
        self.deliver_outcomes(replica);
        self.schedule_work(replica);
    }

    /// Disk work, and the next turn.
    fn schedule_work(&mut self, replica: usize) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        let (run, hangs_until) = (machine.run, machine.disk_hangs_until);
        let slow_us = machine.slow_by_us(now);
        let wake_at = match &mut machine.process {
            ProcessState::Down => return,
            ProcessState::Waiting(waiting) => waiting.call_at,
            ProcessState::Serving(serving) => {
                if serving.begin_disk_work() {
                    let at = now.plus_us(100 + slow_us + self.disks.below(self.disk_us)).max(hangs_until);
                    self.schedule(at, Event::Disk { replica, run });
                }
                let machine = &self.nodes[replica];
                let ProcessState::Serving(serving) = &machine.process else { return };
                let news = !machine.inbox.is_empty() || !machine.requests.is_empty() || serving.turns.is_ready();
                if news { now } else { machine.clock.moment(serving.turns.wake_at()) }
            }
        };
        let machine = &mut self.nodes[replica];
        let wake_at = wake_at.max(now).max(machine.busy_until);
        if wake_at < machine.turn_at {
            machine.turn_at = wake_at;
            self.schedule(wake_at, Event::Turn { replica });
        }
    }

    /// Tells everyone what the core and the state machine did.
    fn look(&mut self, replica: usize) {
        let machine = &self.nodes[replica];
        let node = machine.id;
        let ProcessState::Serving(serving) = &machine.process else { return };
        let engine = serving.engine();
        let core = std::mem::take(&mut *engine.core().notes.borrow_mut());
        let executions = std::mem::take(&mut *engine.state().notes.borrow_mut());
        if let Some(recovered) = &core.recovered {
            self.watch.observe(&Observation::Started { node, recovered, forgot: machine.forgot });
        }
        let mut executions = executions.into_iter().peekable();
        let mut digest = None;
        for entry in &core.committed {
            self.watch.observe(&Observation::Committed { node, entry });
        }
        // A turn may take more than it comes to apply: the rest is taken again, unless an entry put the node into
        // quarantine.
        let applied = engine.applied().index;
        for entry in core.applied.iter().filter(|entry| entry.id.index <= applied) {
            let execution = executions.next_if(|execution| execution.index == entry.id.index);
            digest = execution.map(|execution| execution.digest).or(digest);
            let digest = digest.unwrap_or_else(|| match executions.peek() {
                Some(next) => next.before,
                None => engine.state().digest,
            });
            let took_effect = execution.is_some();
            let deep = execution.and_then(|execution| execution.deep);
            self.watch.observe(&Observation::Applied { node, entry, took_effect, digest, deep });
        }
        let mut healed_by = None;
        for event in &core.events {
            match event {
                CoreEvent::RoleChanged { role, term, leader } => {
                    let (role, term, leader) = (*role, *term, *leader);
                    if leader.is_some() && machine.is_healing {
                        healed_by = Some(term);
                    }
                    let led = self.watch.rare_watch.leads(node, term);
                    if led && role != Role::Leader {
                        let stalled = machine.disk_hangs_until > self.now;
                        self.watch.rare.saw(if stalled { Rare::StalledLeader } else { Rare::CheckQuorum });
                    }
                    self.watch.observe(&Observation::RoleChanged { node, role, term, leader });
                }
                CoreEvent::DiskLags { .. } => self.watch.rare.saw(Rare::DiskLags),
                CoreEvent::TransferFailed => self.watch.rare.saw(Rare::TransferFailed),
                CoreEvent::StandsDown { .. }
                | CoreEvent::CheckpointDue { .. }
                | CoreEvent::Forgot { .. }
                | CoreEvent::LossProven { .. }
                | CoreEvent::Healed { .. } => {}
                CoreEvent::ProtocolViolation { from, what } => {
                    let why = format!("{node} dropped a message of {from}: {what}");
                    // Old messages of the same incarnation are sound; no one here violates the protocol.
                    self.watch.violate("B5 no violation by sound peers", why);
                }
            }
        }
        for (count, what) in [
            (core.reads_failed, Rare::ReadFailed),
            (core.reads_leased, Rare::LeasedRead),
            (core.reads_unleased, Rare::LeaseMissed),
            (core.leases_kept, Rare::LeaseKept),
        ] {
            (0..count).for_each(|_| self.watch.rare.saw(what));
        }
        if core.recovered.is_some() {
            (self.nodes[replica].forgot, self.nodes[replica].healed_by) = (false, None);
        }
        if healed_by.is_some() && std::mem::replace(&mut self.nodes[replica].healed_by, healed_by).is_some() {
            self.watch.rare.saw(Rare::HealingLeaderChanged);
        }
        if self.network.weather.held > 0 {
            for event in &core.events {
                if let CoreEvent::RoleChanged { role: Role::Candidate | Role::Leader, term, .. } = event {
                    self.release(node, *term);
                }
            }
        }
    }
}
