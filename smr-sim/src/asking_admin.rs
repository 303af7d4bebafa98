//! What operators ask of a node, as in service, and beside it changes of members that are asked of the core itself.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use smr::id::NodeId;
use smr::internals::admin::{Admin, AdminContext, AdminRequest, RaftAdmin};
use smr::internals::protocol::{Routing, Time};
use smr::internals::raft::{Change, ChangeRefused, Control};
use smr::replica::ReplyTo;

use crate::probe::Core;
use crate::rare::{Rare, RareCounts};

/// Changes that a process is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestedChanges(Arc<Mutex<ChangeQueue>>);

#[derive(Debug, Default)]
struct ChangeQueue {
    waiting: Vec<Change>,
    begun: u64,
    refused: u64,
}

impl RequestedChanges {
    fn lock(&self) -> MutexGuard<'_, ChangeQueue> {
        self.0.lock()
    }

    pub(super) fn ask(&self, changes: Vec<Change>) {
        self.lock().waiting.extend(changes);
    }

    pub(super) fn clear(&self) {
        self.lock().waiting.clear();
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Counts what became of those that were looked at.
    pub(super) fn count(&self, rare: &mut RareCounts) {
        let (begun, refused) = {
            let mut requested_changes = self.lock();
            (std::mem::take(&mut requested_changes.begun), std::mem::take(&mut requested_changes.refused))
        };
        (0..begun).for_each(|_| rare.saw(Rare::MembersChanged));
        (0..refused).for_each(|_| rare.saw(Rare::ChangeRefused));
    }
}

/// The production code that carries out what operators ask, and beside it whoever asks the core.
pub(super) struct AskingAdmin {
    inner: RaftAdmin,
    requested_changes: RequestedChanges,
}

impl AskingAdmin {
    pub(super) fn new(requested_changes: RequestedChanges) -> AskingAdmin {
        AskingAdmin { inner: RaftAdmin::default(), requested_changes }
    }

    fn inner(&self) -> &dyn Admin<Core> {
        &self.inner
    }

    fn inner_mut(&mut self) -> &mut dyn Admin<Core> {
        &mut self.inner
    }
}

impl Admin<Core> for AskingAdmin {
    fn begin(&mut self, context: AdminContext<'_, Core>, request: AdminRequest, reply: ReplyTo) {
        self.inner.begin(context, request, reply);
    }

    fn needs_confirmation(&self, request: &AdminRequest) -> bool {
        self.inner().needs_confirmation(request)
    }

    fn tick(&mut self, context: AdminContext<'_, Core>) {
        let mut requested_changes = self.requested_changes.lock();
        for change in std::mem::take(&mut requested_changes.waiting) {
            match context.core.change_members(context.now, &change, context.effects) {
                Ok(_) => requested_changes.begun += 1,
                Err(ChangeRefused::NotYet(_) | ChangeRefused::Senseless(_)) => requested_changes.refused += 1,
                Err(ChangeRefused::NotLeader(_)) => {}
            }
        }
        drop(requested_changes);
        if self.inner().next_tick().is_some_and(|at| at <= context.now) {
            self.inner.tick(context);
        }
    }

    fn next_tick(&self) -> Option<Time> {
        if self.requested_changes.is_waiting() { Some(Time(0)) } else { self.inner().next_tick() }
    }

    fn waiting(&self) -> usize {
        self.inner().waiting()
    }

    fn met(&mut self, now: Time, node: NodeId) {
        self.inner_mut().met(now, node);
    }

    fn routing_changed(&mut self, routing: &Routing) {
        self.inner_mut().routing_changed(routing);
    }

    fn transfer_failed(&mut self) {
        self.inner_mut().transfer_failed();
    }

    fn hand_over(&mut self, context: AdminContext<'_, Core>) -> bool {
        self.inner.hand_over(context)
    }

    fn stop(&mut self, lines: &mut Vec<String>) {
        self.inner_mut().stop(lines);
    }
}
