//! What goes wrong, and how processes begin and end.

use smr::id::NodeId;
use smr::internals::configured::LEASE_MAX_US;
use smr::internals::protocol::Time;

use super::{CONNECT_US, Event, World};
use crate::epochs::ledger::Seen;
use crate::epochs::machine::{Found, Process};
use crate::epochs::rare::Rare;
use crate::network::Weather;
use crate::virtual_disk::Loss;

impl World {
    /// A number below `end`, for experiments.
    pub fn draw(&mut self, end: u64) -> u64 {
        self.faults.below(end)
    }

    /// A process that is down starts then.
    pub fn start_at(&mut self, replica: usize, at: Time) {
        self.machines[replica].run += 1;
        let run = self.machines[replica].run;
        self.schedule(at, Event::Start { replica, run });
    }

    pub(super) fn start(&mut self, replica: usize, run: u64) {
        let machine = &mut self.machines[replica];
        if machine.run != run || !machine.is_down() {
            return;
        }
        let rng = self.rolls.rng();
        match machine.start(&self.common, self.now, rng) {
            Ok(found) => {
                if let Some(reason) = &found.quarantined {
                    let why = format!("{}: {reason}", self.machines[replica].id);
                    self.violate("D3 no quarantine without damage", why);
                }
                self.started(replica, &found);
            }
            Err(why) => self.violate("D5 a disk without faults", why),
        }
        self.connect(replica);
        // The first turn says who waits, or that a member is there.
        self.turn_soon(replica);
    }

    pub(super) fn started(&mut self, replica: usize, found: &Found) {
        let (node, run) = (self.machines[replica].id, self.machines[replica].run);
        if self.machines[replica].serving().is_none() {
            return;
        }
        self.observe(&Seen::Started {
            node,
            run,
            configuration: found.configuration.as_ref(),
            snapshot: found.snapshot,
            entries: &found.entries,
        });
    }

    /// This process connects to all others, and they to it.
    pub(super) fn connect(&mut self, replica: usize) {
        let at = self.now.plus_us(CONNECT_US);
        for other in (0..self.machines.len()).filter(|other| *other != replica) {
            let (from, peer) = (self.machines[replica].id, self.machines[other].id);
            self.schedule(at, Event::Connected { from, to: other });
            self.schedule(at, Event::Connected { from: peer, to: replica });
        }
    }

    /// Ends a process, by a kill or a power cut; it comes back after this many microseconds.
    pub fn crash(&mut self, replica: usize, power_cut: bool, down_us: u64) {
        if !self.machines[replica].is_down() {
            let progress_max = self.disks.pick(&[1, 4, 16, 80]);
            let progress = self.disks.below(progress_max);
            let loss = match (power_cut, self.disks.below(4)) {
                (true, 0) => Loss::Everything,
                (true, _) => Loss::Seeded(self.disks.any()),
                (false, _) => Loss::Killed(self.disks.any()),
            };
            let node = self.machines[replica].id;
            self.observe(&Seen::Ended { node });
            self.machines[replica].end(progress, loss);
            if !power_cut {
                self.closed(node);
            }
        }
        self.start_at(replica, self.now.plus_us(down_us));
    }

    /// The others hear that the connections of a process are gone.
    fn closed(&mut self, node: NodeId) {
        for other in (0..self.machines.len()).filter(|other| *other != usize::from(node.name.0)) {
            let at = self.now.plus_us(50 + self.disks.below(1_000));
            self.schedule(at, Event::Reset { from: node, to: other });
        }
    }

    /// A node has found out that it lost something, which no one here does.
    pub(super) fn quarantine(&mut self, replica: usize, reason: &str) {
        let node = self.machines[replica].id;
        self.violate("M8 no node forgets by itself", format!("{node}: {reason}"));
        self.observe(&Seen::Ended { node });
        self.machines[replica].quarantine(reason);
        self.machines[replica].end(0, Loss::Nothing);
        self.start_at(replica, self.now.plus_us(100_000));
    }

    /// Stops a process for this long; what arrives meanwhile waits.
    pub fn pause(&mut self, replica: usize, us: u64) {
        if self.machines[replica].is_down() {
            return;
        }
        if self.is_leased(replica) && us > LEASE_MAX_US {
            self.rare.saw(Rare::SleptPastLease);
        }
        let until = self.now.plus_us(us).max(self.machines[replica].paused_until);
        self.machines[replica].paused_until = until;
        let run = self.machines[replica].run;
        self.schedule(until, Event::Resume { replica, run });
    }

    /// Nothing that is written reaches the device before then.
    pub fn hang_disk(&mut self, replica: usize, until: Time) {
        self.machines[replica].disk_hangs_until = until;
    }

    /// Cuts a link, one way.
    pub fn cut(&mut self, from: u16, to: u16) {
        self.network.cut_one_way(from, to);
    }

    /// All links carry again.
    pub fn heal_cuts(&mut self) {
        if self.network.cut.is_empty() {
            return;
        }
        self.network.cut.clear();
        for replica in 0..self.machines.len() {
            self.connect(replica);
        }
    }

    /// The connection from one node to another breaks, and is made again at once.
    pub fn reset(&mut self, from: usize, to: usize) {
        let from = self.machines[from].id;
        self.schedule(self.now, Event::Reset { from, to });
    }

    /// Whether the directory of a replica may be lost: others have everything, for certain, and are there, so that the
    /// group does not go on with this one alone.
    pub fn may_empty(&self, replica: usize) -> bool {
        let is_calm = self.network.cut.is_empty() && self.now >= self.service.stopped_until;
        let is_well = |other: &usize| {
            let machine = &self.machines[*other];
            let until = machine.paused_until.max(machine.disk_hangs_until);
            machine.serving().is_some() && until <= self.now && self.service.stays_complete(machine.id)
        };
        let others = (0..self.machines.len()).filter(|other| *other != replica && is_well(other)).count();
        let is_settled = self.service.record().present().incomplete.is_none() && !self.service.has_proposals();
        is_calm && is_settled && others >= 1
    }

    /// A process ends and its directory is emptied; it comes back as another incarnation.
    pub fn empty(&mut self, replica: usize, down_us: u64) {
        self.crash(replica, false, down_us);
        let node = self.machines[replica].id;
        self.observe(&Seen::Emptied { node });
        self.machines[replica].empty();
        self.rare.saw(Rare::DirectoryEmptied);
    }

    /// Whether some member that is known to have everything still has its directory.
    pub fn is_recoverable(&self) -> bool {
        self.machines.iter().any(|machine| self.service.record().complete().contains(&machine.id))
    }

    /// The service is without a leader for a while.
    pub fn fail_service_over(&mut self) {
        if !self.service.has_leader() {
            return;
        }
        let lost = self.service.depose();
        (0..lost).for_each(|_| self.rare.saw(Rare::DecisionLost));
        self.rare.saw(Rare::ServiceFailedOver);
        let leaderless_us = self.service.pace.leaderless_us;
        let at = self.now.plus_us(self.service.below(leaderless_us));
        self.schedule(at, Event::Lead);
    }

    /// The leader of the service is stopped for this long.
    pub fn stop_service(&mut self, us: u64) {
        self.service.stopped_until = self.now.plus_us(us).max(self.service.stopped_until);
    }

    /// Ends all faults: links carry, processes go on or start, disks work, network and service are calm.
    pub fn end_faults(&mut self) {
        self.heal_cuts();
        self.network.weather = Weather::calm();
        self.service.pace = self.service.pace.calm();
        self.service.stopped_until = Time(0);
        for replica in 0..self.machines.len() {
            let machine = &mut self.machines[replica];
            (machine.disk_hangs_until, machine.paused_until) = (Time(0), Time(0));
            let run = machine.run;
            match machine.process {
                Process::Down => self.start_at(replica, self.now),
                Process::Waiting(_) | Process::Serving(_) => {
                    self.schedule(self.now, Event::Disk { replica, run });
                    self.schedule(self.now, Event::Resume { replica, run });
                }
            }
        }
    }
}
