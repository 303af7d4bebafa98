//! An idle factory, and what every factory answers to one that is, or is about to be, the primary.

use super::takeover::Takeover;
use super::{Change, Core, Effect, LinkId, Role};
use crate::message::{ATTEMPTS_MAX, ENTRIES_MAX, PeerAnswer, PeerRequest, Standing};
use crate::words::{Entry, Epoch, OPCODE_UPDATE, ServerId, View, ViewId};

impl Core {
    pub(super) fn asked(&mut self, link: LinkId, from: ServerId, request: PeerRequest) {
        let (PeerRequest::Prepare { epoch, .. }
        | PeerRequest::Fetch { epoch, .. }
        | PeerRequest::Replicate { epoch, .. }) = request;
        if epoch.server != from || !self.others.contains_key(&from) {
            self.effects.push(Effect::Close(link, "an epoch is its own server's"));
            return;
        }
        let is_prepare = matches!(request, PeerRequest::Prepare { .. });
        if epoch > self.promised && matches!(request, PeerRequest::Prepare { leads: true, .. }) {
            self.insist(epoch);
        }
        if epoch < self.promised || (epoch > self.promised && !is_prepare) {
            let standing = match self.role {
                Role::Leading(_) => Standing::Leads,
                Role::Taking(_) => Standing::TakesOver,
                Role::Idle if self.primary_link.is_none() => Standing::Unknown,
                Role::Idle if self.primary.is_none() => Standing::TakesOver,
                Role::Idle => Standing::Leads,
            };
            self.effects.push(Effect::Reply(link, PeerAnswer::Refused { promised: self.promised, standing }));
            return;
        }
        if is_prepare && self.attempts.len() >= ATTEMPTS_MAX && !self.attempts.contains_key(&(from, epoch.incarnation))
        {
            self.effects.push(Effect::Close(link, "too many takeovers came to nothing"));
            return;
        }
        match request {
            PeerRequest::Prepare { epoch, .. } => self.prepare(link, epoch),
            PeerRequest::Fetch { epoch, from } => {
                let entries = self.log.slice(from, ENTRIES_MAX).to_vec();
                self.effects.push(Effect::Reply(link, PeerAnswer::Entries { epoch, from, entries }));
            }
            PeerRequest::Replicate { epoch, committed, keep, entries, view, established } => {
                self.follow(link, epoch, (committed, keep), entries, (view, established));
            }
        }
    }

    /// A primary of which it did not know finds it while it takes over: it was sent orders, so that one makes way.
    fn insist(&mut self, epoch: Epoch) {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Taking(Takeover { waiting, noted, .. }) => self.take_over_above(epoch, waiting, noted),
            role => self.role = role,
        }
    }

    fn prepare(&mut self, link: LinkId, epoch: Epoch) {
        if epoch > self.promised {
            self.step_down(epoch);
            self.primary = None;
            self.promise(epoch);
        }
        self.primary_link = Some(link);
        let summary = self.summary();
        self.effects.push(Effect::Reply(link, PeerAnswer::Promised { epoch, summary }));
    }

    /// Makes its log as the primary's.
    fn follow(
        &mut self,
        link: LinkId,
        epoch: Epoch,
        (committed, keep): (u64, u64),
        entries: Vec<Entry>,
        (view, established): (Option<View>, Option<u64>),
    ) {
        let flaw = if keep > self.log.last_index() {
            Some("entries come after ones that are not here")
        } else if entries.iter().any(|entry| entry.op.opcode != OPCODE_UPDATE || entry.epoch > epoch) {
            Some("an entry is of an unknown operation or of a later epoch")
        } else if view.as_ref().is_some_and(|view| {
            view.id.epoch != epoch || view.id < self.view.id || view.live.get(&self.id) != Some(&self.incarnation)
        }) {
            Some("a view is of another epoch, or without the one who is told")
        } else {
            None
        };
        if let Some(flaw) = flaw {
            self.effects.push(Effect::Close(link, flaw));
            return;
        }
        self.primary = Some(epoch.server);
        self.primary_link = Some(link);
        self.cut(keep);
        let before = self.committed;
        if !entries.is_empty() {
            entries.iter().for_each(|&entry| self.log.push(entry));
            let committed = before.max(committed.min(self.log.last_index()));
            self.persist(Change::Append { committed, entries });
        }
        if let Some(view) = view {
            self.record(view);
        }
        self.apply(committed.min(self.log.last_index()));
        // Rule 5: whoever takes over now, and is in the view, knows that this one is in it, too.
        if established.is_some_and(|change| self.view.id == ViewId { epoch, change }) {
            self.live = true;
        }
        let (last_index, view, live) = (self.log.last_index(), self.view.id, self.live);
        self.effects.push(Effect::Reply(link, PeerAnswer::Replicated { epoch, last_index, view, live }));
    }
}
