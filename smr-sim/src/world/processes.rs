//! Beginning and end of a process: starts, bootstraps, crashes, quarantine.

use std::io;

use smr::entry::{EntryId, Genesis};
use smr::id::NodeId;
use smr::internals::bootstrap::{BootstrapMessage, Verdict};
use smr::internals::message::PeerMessage;
use smr::internals::protocol::Protocol;
use smr::status::Role;

use super::{Event, World};
use crate::observation::{End, Observation};
use crate::rare::Rare;
use crate::sim_node::{ProcessState, Start, StartTrouble};
use crate::virtual_disk::{Fault, Loss, ReadFault};
use crate::workload::Workload;

/// How long two processes take to connect, in virtual microseconds.
const CONNECT_US: u64 = 500;

impl<W: Workload> World<W> {
    pub(super) fn bootstrap_message(&mut self, replica: usize, from: NodeId, message: &BootstrapMessage) {
        let machine = &mut self.nodes[replica];
        let node = machine.id;
        match &mut machine.process {
            ProcessState::Down => {}
            ProcessState::Waiting(waiting) => {
                let before = waiting.bootstrap.message();
                let verdict = waiting.bootstrap.receive(from, message);
                // The other one may wait for nothing but this.
                let call = match (message, &verdict) {
                    (BootstrapMessage::Uninitialized { .. }, Verdict::Founder(_) | Verdict::Ask(_)) => {
                        Some(waiting.bootstrap.message())
                    }
                    (BootstrapMessage::Uninitialized { .. }, _) => {
                        Some(waiting.bootstrap.message()).filter(|now| *now != before)
                    }
                    _ => None,
                };
                if let Some(call) = call {
                    self.call(replica, &call);
                }
                self.conclude(replica, verdict);
            }
            ProcessState::Serving(serving) => {
                if let Some(answer) = serving.turns.answer_bootstrap(message) {
                    self.send(node, from, &PeerMessage::Bootstrap(answer));
                }
            }
        }
    }

    pub(super) fn call(&mut self, replica: usize, call: &BootstrapMessage) {
        let from = self.nodes[replica].id;
        for other in 0..self.nodes.len() {
            let machine = &self.nodes[other];
            if other != replica && !machine.is_down() {
                let to = machine.id;
                self.send(from, to, &PeerMessage::Bootstrap(call.clone()));
            }
        }
    }

    pub(super) fn conclude(&mut self, replica: usize, verdict: Verdict) {
        let node = self.nodes[replica].id;
        let is_excluded = matches!(verdict, Verdict::Excluded(_));
        match &verdict {
            Verdict::Ask(request) => return self.ask_recorder(replica, request.clone()),
            Verdict::Founder(genesis) => {
                let recorded = self.recorder.recorded.as_ref().map(Genesis::hash);
                let recorded = self.has_recorder().then_some(recorded);
                self.watch.observe(&Observation::Founds { node, genesis, recorded });
            }
            _ => {}
        }
        let rng = self.rolls.rng();
        let start = self.nodes[replica].conclude(&self.common, verdict, self.now, rng);
        if let Some(start) = start {
            self.started(replica, start);
        } else if is_excluded {
            self.watch.rare.saw(Rare::Excluded);
            self.watch.observe(&Observation::Excluded { node });
        }
    }

    pub(super) fn start(&mut self, replica: usize, run: u64) {
        let machine = &mut self.nodes[replica];
        if machine.run != run || !machine.is_down() {
            return;
        }
        let (operations, reads) = (machine.disk.operations(), machine.disk.reads());
        match machine.start_trouble.take() {
            Some(StartTrouble::PowerOff(after)) => machine.disk.fault_at(operations + after, Fault::PowerOff),
            Some(StartTrouble::ReadError(after)) => {
                machine.disk.read_fault_at(reads + after, ReadFault::Error(io::ErrorKind::Other));
            }
            Some(StartTrouble::FlippedBit(after, bit)) => {
                machine.disk.read_fault_at(reads + after, ReadFault::FlippedBit(bit));
            }
            None => {}
        }
        if machine.full_until > self.now {
            let after = self.faults.below(8);
            machine.disk.fault_at(operations + after, Fault::Error(io::ErrorKind::StorageFull));
        }
        let rng = self.rolls.rng();
        let start = machine.start(&self.common, self.now, rng);
        self.started(replica, start);
        self.register(replica);
        self.settle(replica);
    }

    /// What a server does before its first word to a peer: the manager hears which start this is, and may know a later
    /// one.
    fn register(&mut self, replica: usize) {
        let machine = &self.nodes[replica];
        if machine.serving().is_none() {
            return;
        }
        let (node, start) = (machine.id, machine.start);
        if machine.is_set_back {
            self.copies.insert((node, start.id), start);
        }
        match self.manager.get(&node).map_or(Ok(true), |newest| start.judge(*newest)) {
            Ok(_) => {
                self.manager.insert(node, start.id);
            }
            Err(why) => self.quarantine(replica, &why.to_string()),
        }
    }

    /// This process connects to all others, and they to it, as far as they are there and the network lets them.
    pub(super) fn connect(&mut self, replica: usize) {
        let at = self.now.plus_us(CONNECT_US);
        for other in (0..self.nodes.len()).filter(|other| *other != replica) {
            let (from, peer) = (self.nodes[replica].id, self.nodes[other].id);
            self.schedule(at, Event::Connected { from, to: other });
            self.schedule(at, Event::Connected { from: peer, to: replica });
        }
    }

    fn started(&mut self, replica: usize, start: Start) {
        self.connect(replica);
        let machine = &mut self.nodes[replica];
        match start {
            Start::Runs { notes, quarantined } => {
                for note in &notes {
                    if note.contains("cut an interrupted write") {
                        self.watch.rare.saw(Rare::TornTailCut);
                    }
                    if note.contains("was damaged, repaired") {
                        self.watch.rare.saw(Rare::SlotRepaired);
                    }
                }
                let is_same_incarnation = quarantined.is_none();
                let heals = machine.serving().and_then(|serving| serving.engine().healing().map(str::to_owned));
                // By what the start says of itself: the end of an earlier healing may not have got to the disk.
                let began_healing = heals.is_some() && notes.iter().any(|note| note.contains("and is silent until"));
                (machine.is_healing, machine.ends_healing) = (heals.is_some(), false);
                if let Some(reason) = heals {
                    // An older directory may be of a time when it healed.
                    let expected = machine.is_damaged || machine.is_set_back || !began_healing;
                    let node = machine.id;
                    let in_log = reason.contains("/log");
                    (machine.is_damaged, machine.marked) = (false, None);
                    let what = match (began_healing, in_log) {
                        (false, _) => Rare::HealingInterrupted,
                        (true, true) => Rare::DamagedLog,
                        (true, false) => Rare::DamagedFile,
                    };
                    self.watch.rare.saw(what);
                    if !expected {
                        self.watch.violate("D3 no healing without damage", format!("{node}: {reason}"));
                    }
                }
                let machine = &mut self.nodes[replica];
                if let Some(reason) = quarantined {
                    let expected = machine.is_damaged || machine.is_set_back;
                    let (node, damage) = (machine.id, reason.contains("/log"));
                    (machine.is_damaged, machine.is_healing, machine.is_set_back) = (false, false, false);
                    self.watch.rare.saw(if damage { Rare::DamagedLog } else { Rare::DamagedFile });
                    if !expected {
                        self.watch.violate("D3 no quarantine without damage", format!("{node}: {reason}"));
                    }
                }
                let machine = &mut self.nodes[replica];
                let last = machine.serving().map(|serving| serving.engine().core().status().last);
                // Whoever is in another incarnation now has noticed.
                if let Some(what) = lost_in_silence(machine.marked.take(), last, is_same_incarnation) {
                    let why = format!("{} {what}", machine.id);
                    self.watch.violate("D3 nothing that is marked is lost in silence", why);
                }
                let machine = &mut self.nodes[replica];
                if std::mem::take(&mut machine.is_damaged) {
                    // It was what may be missing: the end of the log.
                    machine.is_set_back = true;
                }
                if self.nodes[replica].is_waiting() {
                    self.watch.observe(&Observation::Waits { node: self.nodes[replica].id });
                }
            }
            Start::Failed(why) => {
                machine.run += 1;
                let (node, power_cut) = (machine.id, machine.disk.power_is_off());
                let lot = self.disks.any();
                machine.disk = machine.disk.after_crash(if power_cut { Loss::Seeded(lot) } else { Loss::Killed(lot) });
                self.watch.rare.saw(if power_cut { Rare::CrashDuringStart } else { Rare::StartFailed });
                let end = if power_cut { End::PowerCut } else { End::DiskError(why) };
                self.watch.observe(&Observation::Ended { node, end: &end });
                let again_us = self.faults.between(10_000, 300_000);
                self.start_at(replica, self.now.plus_us(again_us));
            }
        }
    }

    /// A process ends, whyever.
    pub(super) fn end(&mut self, replica: usize, end: End) {
        let progress_max = self.disks.pick(&[1, 4, 16, 80]);
        let progress = self.disks.below(progress_max);
        let loss = match (&end, self.disks.below(4)) {
            (End::PowerCut, 0) => Loss::Everything,
            (End::PowerCut, _) => Loss::Seeded(self.disks.any()),
            // Also what was written and not flushed may still have been in the process.
            _ => Loss::Killed(self.disks.any()),
        };
        let node = self.nodes[replica].id;
        self.note_crash(replica);
        self.watch.observe(&Observation::Ended { node, end: &end });
        self.nodes[replica].end(progress, loss);
        // The news of a closed connection; a power cut sends none.
        if end != End::PowerCut {
            for other in (0..self.nodes.len()).filter(|other| *other != replica) {
                let at = self.now.plus_us(50 + self.disks.below(1_000));
                self.schedule(at, Event::Reset { from: node, to: other });
            }
        }
    }

    /// What a crash interrupts.
    fn note_crash(&mut self, replica: usize) {
        use smr::internals::raft::message::Body;
        let Some(serving) = self.nodes[replica].serving() else { return };
        let rare = &mut self.watch.rare;
        let core = serving.engine().core();
        if core.role() == Role::Leader {
            let status = core.status();
            if status.last.index > status.commit {
                rare.saw(Rare::LeaderCrashedWithProposals);
            }
        }
        for envelope in serving.held_back() {
            match envelope.message.body {
                Body::VoteGranted | Body::Vote { .. } => rare.saw(Rare::CrashBeforeVoteSent),
                Body::AppendAccepted { .. } => rare.saw(Rare::CrashBeforeAck),
                _ => {}
            }
        }
        if serving.installs() || serving.building.is_some() {
            rare.saw(Rare::CrashDuringInstall);
        }
        if serving.taking.is_some() {
            rare.saw(Rare::CrashDuringSnapshot);
        }
    }

    /// A node has found out that it forgot something: its process ends.
    pub(super) fn quarantine(&mut self, replica: usize, reason: &str) {
        let machine = &mut self.nodes[replica];
        let node = machine.id;
        // A copy stays one after it has caught up.
        let expected = machine.is_set_back || self.copies.contains_key(&(node, machine.start.id));
        let ProcessState::Serving(serving) = std::mem::replace(&mut machine.process, ProcessState::Down) else {
            return;
        };
        self.watch.observe(&Observation::Forgot { node, reason });
        if !expected {
            self.watch.violate("M8 no node forgets by itself", format!("{node}: {reason}"));
        }
        // If its device fails at that, it comes back as it was, and is found out again.
        drop(serving.into_disk_batch().quarantine(reason));
        self.end(replica, End::Quarantined(reason.to_owned()));
        self.start_at(replica, self.now.plus_us(100_000));
    }

    /// A process whose device failed ends by itself.
    pub(super) fn disk_failed(&mut self, replica: usize, why: String) {
        let machine = &self.nodes[replica];
        let end = if machine.disk.power_is_off() { End::PowerCut } else { End::DiskError(why) };
        if machine.full_until > self.now {
            self.watch.rare.saw(Rare::DiskFullStop);
        }
        self.end(replica, end);
        let down_us = self.faults.between(1_000, 500_000);
        self.start_at(replica, self.now.plus_us(down_us));
    }
}

/// What is wrong with a start, if anything: the watermark named an entry as synced, and the node serves without it, as
/// the one it was before (D3). `serves`: the last entry of a node in service.
fn lost_in_silence(marked: Option<EntryId>, serves: Option<EntryId>, is_same_incarnation: bool) -> Option<String> {
    let (marked, last) = (marked?, serves?);
    (is_same_incarnation && last.index < marked.index)
        .then(|| format!("serves up to {last}, and {marked} was marked as synced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers D3 D4
    #[test]
    fn node_that_serves_without_what_its_watermark_names_is_found_out_unless_it_is_in_another_incarnation() {
        let entry = |index| Some(EntryId::new(index, 2));
        assert!(lost_in_silence(entry(7), entry(6), true).is_some());
        assert_eq!(lost_in_silence(entry(7), entry(7), true), None);
        assert_eq!(lost_in_silence(entry(7), entry(6), false), None, "it was quarantined, and says so");
        assert_eq!(lost_in_silence(entry(7), None, true), None, "it does not serve");
        assert_eq!(lost_in_silence(None, entry(6), true), None, "nothing was acknowledged");
    }
}
