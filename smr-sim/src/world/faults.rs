//! What goes wrong: methods of the world, for scenarios and for the fault injector alike.

use std::io;
use std::path::Path;

use smr::entry::EntryId;
use smr::id::{Incarnation, NodeId, StartId};
use smr::internals::disk::Disk;
use smr::internals::protocol::{Protocol, Time};
use smr::internals::raft::invariants;

use super::{Event, World};
use crate::network::Weather;
use crate::observation::{End, Observation, Spoiled};
use crate::rare::Rare;
use crate::sim_node::{Input, StartTrouble};
use crate::virtual_disk::MapDamage;
use crate::virtual_disk::{Fault, Loss, ReadFault, VirtualDisk};
use crate::workload::Workload;

impl<W: Workload> World<W> {
    /// Ends a process, by a kill or a power cut; it comes back after a random time.
    pub fn crash(&mut self, replica: usize, power_cut: bool) {
        // Sometimes it is back before anyone has given it up.
        let down_max_us = self.faults.pick(&[30_000, 2_000_000]);
        let down_us = 1_000 + self.faults.below(down_max_us);
        self.crash_for(replica, power_cut, Some(down_us));
    }

    /// Ends a process; it comes back after this many microseconds, or when [`World::start_at`] says so.
    pub fn crash_for(&mut self, replica: usize, power_cut: bool, down_us: Option<u64>) {
        if !self.nodes[replica].is_down() {
            let end = if power_cut { End::PowerCut } else { End::Killed };
            self.end(replica, end);
        }
        self.nodes[replica].run += 1;
        if let Some(down_us) = down_us {
            self.start_at(replica, self.now.plus_us(down_us));
        }
    }

    /// A process that is down starts then, instead of when it would have.
    pub fn start_at(&mut self, replica: usize, at: Time) {
        self.nodes[replica].run += 1;
        let run = self.nodes[replica].run;
        self.schedule(at, Event::Start { replica, run });
    }

    /// Stops a process (SIGSTOP) for this long; what arrives meanwhile waits.
    pub fn pause(&mut self, replica: usize, us: u64) {
        if self.nodes[replica].is_down() {
            return;
        }
        let until = self.now.plus_us(us).max(self.nodes[replica].paused_until);
        self.nodes[replica].paused_until = until;
        let run = self.nodes[replica].run;
        self.schedule(until, Event::Resume { replica, run });
    }

    /// Nothing that is written reaches the device before then.
    pub fn hang_disk(&mut self, replica: usize, until: Time) {
        self.nodes[replica].disk_hangs_until = until;
    }

    /// Each sync of a device takes this much longer, before then.
    pub fn slow_disk(&mut self, replica: usize, us: u64, until: Time) {
        let machine = &mut self.nodes[replica];
        (machine.disk_slow_us, machine.disk_slow_until) = (us, until);
    }

    /// A device that hung works again.
    pub fn mend_disk(&mut self, replica: usize) {
        if self.nodes[replica].disk_hangs_until > self.now {
            self.nodes[replica].disk_hangs_until = self.now;
            let run = self.nodes[replica].run;
            // Work that was to end later ends now.
            self.schedule(self.now, Event::Disk { replica, run });
        }
    }

    /// Cuts a link, one way. `CLIENTS` is an end, too.
    pub fn cut(&mut self, from: u16, to: u16) {
        self.network.cut_one_way(from, to);
        self.watch.observe(&Observation::Cut { from, to });
        if !self.network.is_cut(to, from) {
            self.watch.rare.saw(Rare::OneWayCut);
        }
    }

    /// Cuts all links of a node to the others, both ways. With `resets` the others hear at once that its connections
    /// are gone.
    pub fn cut_off(&mut self, replica: usize, resets: bool) {
        for other in (0..self.nodes.len()).filter(|other| *other != replica) {
            self.cut(replica as u16, other as u16);
            self.cut(other as u16, replica as u16);
            if resets {
                self.reset(replica, other);
            }
        }
    }

    /// All links carry again.
    pub fn heal_cuts(&mut self) {
        self.network.cut.clear();
        self.watch.observe(&Observation::CutsHealed);
        for replica in 0..self.nodes.len() {
            self.connect(replica);
        }
    }

    /// The connection from one node to another breaks, and is made again at once.
    pub fn reset(&mut self, from: usize, to: usize) {
        let from = self.nodes[from].id;
        self.schedule(self.now, Event::Reset { from, to });
    }

    /// A process ends and its directory is emptied; it comes back as another incarnation.
    pub fn lose_directory(&mut self, replica: usize) {
        self.crash(replica, false);
        self.next_incarnation += 100;
        let machine = &mut self.nodes[replica];
        let node = machine.id;
        machine.disk = VirtualDisk::new();
        machine.id.incarnation = Incarnation(self.next_incarnation);
        (machine.is_damaged, machine.is_healing, machine.is_set_back) = (false, false, false);
        machine.marked = None;
        self.watch.observe(&Observation::DirectorySpoiled { node, how: Spoiled::Emptied });
    }

    /// A process ends and a file of its directory is changed; false if the file does not exist.
    pub fn damage(&mut self, replica: usize, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let reached = self.reached(replica);
        self.crash(replica, false);
        let machine = &mut self.nodes[replica];
        let marked = machine.read_watermark();
        let done = machine.disk.damage(path, change).is_ok();
        if done {
            machine.marked = marked;
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.observe(&Observation::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
        done
    }

    /// A process ends and one slot of a file with two is changed: the other one says the same, or as much as counts.
    pub fn damage_slot(&mut self, replica: usize, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.crash(replica, false);
        // There may be no such file yet.
        let _ = self.nodes[replica].disk.damage(path, change);
    }

    /// A process ends, and a bit of a snapshot is flipped.
    pub fn damage_snapshot(&mut self, replica: usize, last: EntryId, lot: u64) -> bool {
        let Some(name) = self.snapshot_name(replica, last) else { return false };
        let path = crate::sim_node::path("snapshots").join(name);
        self.damage(replica, &path, |bytes| crate::virtual_disk::flip(bytes, lot))
    }

    /// Where the newest snapshot on a disk ends.
    pub fn snapshot_of(&self, replica: usize) -> Option<EntryId> {
        let names = self.nodes[replica].disk.list(&crate::sim_node::path("snapshots")).ok()?;
        let number = |text: &str| text.parse::<u64>().ok();
        let place = |name: &String| {
            let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
            Some(EntryId::new(number(index)?, number(term)?))
        };
        names.iter().filter_map(place).max()
    }

    fn snapshot_name(&self, replica: usize, last: EntryId) -> Option<String> {
        let names = self.nodes[replica].disk.list(&crate::sim_node::path("snapshots")).ok()?;
        names.into_iter().filter(|name| name.ends_with(".snap")).find(|name| name.contains(&last.index.0.to_string()))
    }

    /// A copy of a directory as it is now, for [`World::set_back`].
    pub fn backup(&self, replica: usize) -> VirtualDisk {
        self.nodes[replica].disk.after_crash(Loss::Nothing)
    }

    /// Whether the manager has seen a later start of a node than this one.
    pub fn is_seen_since(&self, node: NodeId, start: StartId) -> bool {
        self.manager.get(&node).is_some_and(|newest| newest.number > start.number)
    }

    fn reached(&self, replica: usize) -> EntryId {
        let machine = &self.nodes[replica];
        machine.serving().map_or(machine.reached, |serving| serving.engine().core().status().last)
    }

    /// A process ends, and its directory is set back to what `disk` holds.
    pub fn set_back(&mut self, replica: usize, disk: VirtualDisk) {
        let reached = self.reached(replica);
        self.crash(replica, false);
        let machine = &mut self.nodes[replica];
        machine.disk = disk;
        (machine.marked, machine.is_healing) = (None, false);
        (machine.is_set_back, machine.forgot, machine.reached) = (true, true, reached);
        let node = machine.id;
        self.watch.observe(&Observation::DirectorySpoiled { node, how: Spoiled::SetBack });
    }

    /// The device of a node fails at its next operations but `after` that change or sync something (D6).
    pub fn fail_disk(&mut self, replica: usize, after: u64) {
        let disk = &self.nodes[replica].disk;
        disk.fault_at(disk.operations() + after, Fault::Error(io::ErrorKind::Other));
    }

    /// The device of a node has no room until then (D7).
    pub fn fill_disk(&mut self, replica: usize, until: Time) {
        let machine = &mut self.nodes[replica];
        machine.full_until = until;
        machine.disk.fault_at(machine.disk.operations(), Fault::Error(io::ErrorKind::StorageFull));
    }

    /// The disk of a node has so little room until then that snapshots leave it to the log (D7).
    pub fn leave_little_room(&mut self, replica: usize, until: Time) {
        self.room_changes(replica, true);
        self.schedule(until, Event::Room { replica });
    }

    /// The disk of a node has become full, or has room again.
    pub(super) fn room_changes(&mut self, replica: usize, is_full: bool) {
        let machine = &mut self.nodes[replica];
        machine.disk.set_full(is_full);
        if machine.serving().is_some() {
            machine.inbox.push_back(Input::Room { is_full });
            self.turn_soon(replica);
        }
    }

    /// One of the next reads of a node fails: the one after `after` others (D8).
    pub fn fail_read(&mut self, replica: usize, after: u64) {
        let disk = &self.nodes[replica].disk;
        disk.read_fault_at(disk.reads() + after, ReadFault::Error(io::ErrorKind::Other));
    }

    /// The state of a received snapshot takes until then to be built.
    pub fn hold_install(&mut self, replica: usize, until: Time) {
        self.nodes[replica].builds_until = until;
    }

    /// Whether a received snapshot is still held back. It is not any more once the log has entries where it ends, and
    /// they are not known to be committed.
    pub fn holds_install_back(&mut self, replica: usize) -> bool {
        let machine = &self.nodes[replica];
        let Some(serving) = machine.serving() else { return false };
        let Some(file) = serving.building.as_ref().filter(|_| machine.builds_until > self.now) else { return false };
        let end = file.info().meta.last;
        let span = invariants::span(serving.engine().core().raft());
        if span.commit < end.index && span.last.index > end.index {
            self.let_install_go(replica);
            return false;
        }
        true
    }

    fn let_install_go(&mut self, replica: usize) {
        if self.nodes[replica].builds_until > self.now {
            self.nodes[replica].builds_until = self.now;
            let run = self.nodes[replica].run;
            self.schedule(self.now, Event::Built { replica, run });
        }
    }

    /// A process is killed, and something will be wrong with its next start.
    pub fn trouble_start(&mut self, replica: usize, trouble: StartTrouble) {
        let reached = self.reached(replica);
        self.crash(replica, false);
        let machine = &mut self.nodes[replica];
        machine.start_trouble = Some(trouble);
        if let StartTrouble::FlippedBit(..) = trouble {
            machine.marked = machine.read_watermark();
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.observe(&Observation::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
    }

    /// A process ends, and its log, a simulated map, is damaged; false if there is none.
    pub fn damage_map(&mut self, replica: usize, damage: MapDamage) -> bool {
        let reached = self.reached(replica);
        self.crash(replica, false);
        let machine = &mut self.nodes[replica];
        let marked = machine.read_watermark();
        let done = machine.disk.damage_map(&crate::sim_node::path("log"), damage).is_ok();
        if done {
            machine.marked = marked;
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.observe(&Observation::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
        done
    }

    /// Ends all faults but those of disks that were lost: links carry, processes go on, disks work, the network is
    /// calm.
    pub fn end_faults(&mut self) {
        self.heal_cuts();
        self.network.weather = Weather::calm();
        for replica in 0..self.nodes.len() {
            self.nodes[replica].full_until = Time(0);
            self.nodes[replica].disk_slow_until = Time(0);
            self.nodes[replica].start_trouble = None;
            self.nodes[replica].requested_changes.clear();
            self.nodes[replica].disk.clear_faults();
            self.room_changes(replica, false);
            self.mend_disk(replica);
            self.unpause(replica);
            self.let_install_go(replica);
        }
    }

    /// A stopped process goes on now.
    pub fn unpause(&mut self, replica: usize) {
        if self.nodes[replica].paused_until > self.now {
            self.nodes[replica].paused_until = self.now;
            let run = self.nodes[replica].run;
            self.schedule(self.now, Event::Resume { replica, run });
        }
    }
}
