//! When a snapshot is taken, and what becomes of one that was received.

use super::actions::{Install, SnapshotImage};
use super::admission::LOG_MAX_BYTES;
use super::limits::LOG_FREEING_BYTES;
use super::waiting::WRITES_WAITING_MAX_BYTES;
use super::{Action, Engine};
use crate::entry::{EntryId, SnapshotMeta};
use crate::id::NodeId;
use crate::protocol::{Effects, Input, Protocol, Time};
use crate::state_machine::StateMachine;

/// A snapshot for which there was no room is tried again after this time, in microseconds.
const SNAPSHOT_ROOM_RETRY_US: u64 = 5_000_000;

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// The snapshot that was to be taken is durable.
    pub fn snapshot_taken(&mut self, now: Time, last: EntryId, len_bytes: u64) {
        if self.silent {
            return;
        }
        self.snapshot_under_way = false;
        self.snapshot_waits_for_room = None;
        if last.index > self.snapshot.index {
            self.snapshot = last;
            self.snapshot_len_bytes = len_bytes;
            self.step(now, Input::SnapshotTaken(last));
        }
        self.take_snapshot_if_due();
    }

    /// There is no room for the snapshot that was to be taken. It is tried again; until it succeeds a leader takes
    /// nothing that makes the state larger. False if the log has become so long meanwhile that this replica cannot go
    /// on without one.
    #[must_use]
    pub fn snapshot_lacks_room(&mut self, now: Time) -> bool {
        self.snapshot_under_way = false;
        self.snapshot_waits_for_room = Some(now.plus_us(SNAPSHOT_ROOM_RETRY_US));
        self.core.log_load().needed_bytes <= self.log_max_bytes() + LOG_FREEING_BYTES + WRITES_WAITING_MAX_BYTES
    }

    /// What the log that cannot be cut may hold.
    pub(super) fn log_max_bytes(&self) -> usize {
        self.log_limits.max_for(self.snapshot_len_bytes)
    }

    /// The disk has become full, or has room again.
    pub fn disk_is_full(&mut self, is_full: bool) {
        self.disk_is_full = is_full;
        if let Some(at) = &mut self.snapshot_waits_for_room
            && !is_full
        {
            *at = Time(0);
        }
        if self.takes_writes || !is_full {
            self.report(if is_full {
                "the disk is full: only what makes the state smaller is taken".to_owned()
            } else {
                "the disk has room again".to_owned()
            });
        }
    }

    /// The newest snapshot was found damaged and put out of service: another one is made at once, or a restart would
    /// find a gap, and followers that need one would wait for the log to grow.
    pub fn snapshot_lost(&mut self) {
        if !self.snapshot_under_way && !self.silent {
            self.take_snapshot();
        }
    }

    /// The transfer of a snapshot to this node, or what is made of it there, got further.
    pub fn snapshot_progress(&mut self, now: Time, to: NodeId) {
        self.step(now, Input::SnapshotProgress(to));
    }

    /// How full the log was when requests were last looked at, in thousandths of what it may hold.
    pub fn log_fullness_permille(&self) -> u32 {
        self.admission.fullness_permille()
    }

    /// The transfer of a snapshot ended.
    pub fn snapshot_sent(&mut self, now: Time, to: NodeId, last: Option<EntryId>) {
        self.step(now, Input::SnapshotSent { to, last });
    }

    /// A snapshot arrived and its state is built. False if it is not newer than what is here; it is then dropped.
    pub fn install(&mut self, now: Time, install: Install<S>, len_bytes: u64) -> bool {
        if self.silent {
            // Nothing goes over what this node has. What came stays a part of a transfer; no one resumes it.
            return false;
        }
        let meta = install.meta;
        let mut effects = Effects::default();
        let accepted = self.core.install(now, &meta, &mut effects).is_ok();
        if accepted {
            assert!(
                meta.last.index > self.applied.index,
                "snapshot {:?} would undo applied {}",
                meta.last,
                self.applied
            );
            let mut installed = install.state;
            installed.inherit(&self.state);
            installed.begins_after(meta.last.index);
            let state = std::mem::replace(&mut self.state, installed);
            let sessions = std::mem::replace(&mut self.sessions, install.sessions);
            self.actions.push(Action::DropInBackground(Box::new((state, sessions))));
            self.actions.push(Action::SetAddresses(self.sessions.addresses().clone()));
            self.applied = meta.last;
            self.snapshot = meta.last;
            self.snapshot_len_bytes = len_bytes;
            self.audit.replaced(meta.last.index);
            self.members_changed(meta.configuration_index, meta.configuration.clone());
            // S12: what waited under the snapshot has an unknown outcome.
            self.fail_waiting_writes();
            // Of what another member orders the table of the snapshot knows.
            self.kept.snapshot_installed();
            self.actions.push(Action::PublishSnapshot(install.file));
            let node = self.node;
            self.report(format!("replica {node} installed a snapshot that ends at {}", meta.last));
        } else {
            self.actions.push(Action::DropInBackground(Box::new((install.state, install.sessions))));
            self.actions.push(Action::Discard(install.file));
        }
        self.absorb(effects);
        accepted
    }

    pub(super) fn take_snapshot_if_due(&mut self) {
        if self.snapshot_waits_for_room.is_some() {
            return;
        }
        let threshold = self.log_limits.snapshot_after(self.snapshot_len_bytes);
        // The logs of a group grow in step. Replicas that shared a machine would all take their snapshots at once.
        let threshold = threshold + threshold / 8 * usize::from(self.node.name.0 % 4);
        // In the middle of a large backlog it would end far in front of the log's end, and make little room. But the
        // log is in memory.
        let due = !self.snapshot_under_way
            && self.applied.index > self.snapshot.index
            && self.core.log_load().new_bytes >= threshold
            && (self.backlog() <= self.portion.entries_max as u64 || self.core.log_bytes() > LOG_MAX_BYTES);
        if due {
            self.take_snapshot();
        }
    }

    pub(super) fn take_snapshot(&mut self) {
        self.snapshot_under_way = true;
        let image = self.image();
        self.actions.push(Action::TakeSnapshot(Box::new(image)));
    }

    pub(super) fn image(&self) -> SnapshotImage<S> {
        let (configuration, configuration_index) = self.core.configuration_at(self.applied.index);
        SnapshotImage {
            meta: SnapshotMeta { last: self.applied, configuration, configuration_index },
            sessions: self.sessions.image(),
            state: self.state.image(),
        }
    }
}
