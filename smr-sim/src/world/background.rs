//! What goes on beside a replica's thread: the disk, snapshots that are written, carried over and built.

use smr::id::NodeId;
use smr::internals::protocol::Envelope;
use smr::internals::snapshot::SendingFile;

use super::{Event, SnapshotTransfer, World};
use crate::observation::Observation;
use crate::rare::Rare;
use crate::sim_node::{Broken, Input, ProcessState, carry};
use crate::workload::Workload;

/// The sender of a snapshot hears within this time that it has arrived, in microseconds. Until the state is built takes
/// half of it.
const SENT_HEARD_US: u64 = 200_000;

impl<W: Workload> World<W> {
    pub(super) fn disk(&mut self, replica: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.run != run {
            return;
        }
        let hangs_until = machine.disk_hangs_until.max(machine.paused_until);
        if hangs_until > now {
            return self.schedule(hangs_until, Event::Disk { replica, run });
        }
        let node = machine.id;
        let ProcessState::Serving(serving) = &mut machine.process else { return };
        if !serving.is_at_work() {
            return;
        }
        let writes = match serving.end_disk_work() {
            Ok(writes) => writes,
            Err(error) => return self.disk_failed(replica, error.to_string()),
        };
        let mut last = None;
        for write in writes {
            self.watch.observe(&Observation::WriteDurable { node, write: &write });
            let (id, messages) = write.durable();
            last = Some(id);
            for Envelope { to, message } in messages {
                self.send_message(node, to, message);
            }
        }
        let ProcessState::Serving(serving) = &mut self.nodes[replica].process else { return };
        if let Err(error) = serving.follow() {
            return self.disk_failed(replica, error.to_string());
        }
        if serving.jobs.is_empty() {
            self.nodes[replica].ends_healing = false;
        }
        match last {
            Some(id) => self.put(replica, Input::Durable(id)),
            None => self.settle(replica),
        }
    }

    pub(super) fn taken(&mut self, replica: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.run != run {
            return;
        }
        let until = machine.paused_until.max(machine.disk_hangs_until);
        if until > now {
            return self.schedule(until, Event::Taken { replica, run });
        }
        let node = machine.id;
        let ProcessState::Serving(serving) = &mut machine.process else { return };
        match serving.end_taking() {
            Ok(None) => {}
            Ok(Some((last, len_bytes, checksum))) => {
                self.watch.observe(&Observation::SnapshotTaken { node, last, checksum });
                self.put(replica, Input::SnapshotTaken { last, len_bytes });
            }
            Err(error) if error.is_lack_of_room() && self.nodes[replica].full_until <= now => {
                self.put(replica, Input::SnapshotLacksRoom);
            }
            Err(error) => self.disk_failed(replica, error.to_string()),
        }
    }

    pub(super) fn built(&mut self, replica: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.nodes[replica];
        if machine.run != run {
            return;
        }
        let until = machine.paused_until.max(machine.builds_until);
        if until > now {
            return self.schedule(until, Event::Built { replica, run });
        }
        let ProcessState::Serving(serving) = &mut machine.process else { return };
        match serving.end_building(self.common.shape.sessions) {
            Ok(None) => {}
            Ok(Some((install, len_bytes))) => self.put(replica, Input::SnapshotBuilt(Box::new(install), len_bytes)),
            Err(error) => self.disk_failed(replica, error.to_string()),
        }
    }

    pub(super) fn transferred(&mut self, transfer: SnapshotTransfer) {
        let now = self.now;
        let SnapshotTransfer { from, run, to, mut file } = transfer;
        let replica = usize::from(from.name.0);
        if self.nodes[replica].run != run {
            return;
        }
        let until = self.nodes[replica].paused_until;
        if until > now {
            return self.schedule(until, Event::Transferred(Box::new(SnapshotTransfer { from, run, to, file })));
        }
        let last = file.as_ref().map(|file| file.info().meta.last);
        let arrived = file.as_mut().map_or(Err(Broken::OnTheWay), |file| self.carry(from, to, file));
        let last = last.filter(|_| arrived.is_ok());
        self.watch.observe(&Observation::SnapshotSent { from, to, last });
        match arrived {
            Err(Broken::Source) => self.snapshot_is_damaged(replica),
            Err(Broken::SendersDisk(why)) => return self.disk_failed(replica, why),
            Err(Broken::ReceiversDisk(why)) => self.disk_failed(usize::from(to.name.0), why),
            Ok(()) | Err(Broken::OnTheWay) => {}
        }
        // The receiver's own word takes another way, and may be faster (S19).
        let at = self.now.plus_us(self.order.below(SENT_HEARD_US));
        let run = self.nodes[replica].run;
        self.schedule(at, Event::Sent { replica, run, to, last });
    }

    /// The newest snapshot of a node turned out to be damaged: it is put out of service, and another one is made (S8).
    pub(super) fn snapshot_is_damaged(&mut self, replica: usize) {
        let Some(serving) = self.nodes[replica].serving_mut() else { return };
        let Some(info) = serving.snapshots.latest() else { return };
        self.watch.rare.saw(Rare::DamagedSnapshot);
        let Some(serving) = self.nodes[replica].serving_mut() else { return };
        serving.snapshots.doubt(&info);
        self.nodes[replica].inbox.push_back(Input::SnapshotLost);
    }

    /// Carries a snapshot over, if there is a way; one in five times the connection breaks, and it is resumed later.
    fn carry(&mut self, from: NodeId, to: NodeId, file: &mut SendingFile) -> Result<(), Broken> {
        let up_to = if self.disks.below(5) == 0 { self.disks.below(file.info().len_bytes) } else { u64::MAX };
        let delay_us = 1_000 + self.disks.below(100_000);
        let (here, there) = (from.name.0, to.name.0);
        let cut = self.network.is_cut(here, there) || self.network.is_cut(there, here);
        let replica = usize::from(there);
        let receiver = &mut self.nodes[replica];
        let reachable = receiver.id == to && receiver.paused_until <= self.now && !cut;
        let run = receiver.run;
        match receiver.serving_mut() {
            Some(serving) if reachable && serving.building.is_none() => {
                serving.building = Some(carry(file, &serving.snapshots, up_to)?);
                self.schedule(self.now.plus_us(delay_us), Event::Built { replica, run });
                Ok(())
            }
            _ => Err(Broken::OnTheWay),
        }
    }
}
