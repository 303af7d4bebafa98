//! The primary: appends orders, hands them to the others, and acknowledges them.

use std::collections::{BTreeMap, VecDeque};

use super::takeover::Waiting;
use super::{Change, Core, Effect, Outcome, Role};
use crate::message::{ENTRIES_MAX, PeerAnswer, PeerRequest, Summary};
use crate::words::{Entry, Incarnation, ServerId, View, ViewId};

/// Messages to one factory that it has not answered yet.
const UNANSWERED_MAX: usize = 4;
/// How many entries one may lack that is taken into the live set; orders wait for these.
const JOINER_LACKS_MAX: u64 = 256;

/// What the primary knows of another factory that is connected.
#[derive(Clone, Debug)]
struct Link {
    incarnation: Incarnation,
    /// Whether it counts as live, as it said last; and the view that it was told all have recorded (rule 5).
    live: bool,
    established_sent: Option<u64>,
    /// Sent up to here.
    sent: u64,
    /// On its disk up to here.
    acked: u64,
    /// The view that it was told, and the one that it has recorded, of this epoch.
    view_sent: Option<u64>,
    view_acked: Option<u64>,
    /// What it was told is committed.
    commit_sent: u64,
    unanswered: usize,
}

/// In office.
#[derive(Debug, Default)]
pub(super) struct Leading {
    links: BTreeMap<ServerId, Link>,
    /// Not in the log yet.
    pub(super) arrived: Vec<Waiting>,
    /// Answered once this index is committed.
    pub(super) noted: VecDeque<(u64, Waiting)>,
}

impl Leading {
    pub(super) fn add(&mut self, other: ServerId, summary: &Summary, common: u64) {
        let link = Link {
            incarnation: summary.incarnation,
            live: summary.live,
            established_sent: None,
            sent: common,
            acked: common,
            view_sent: None,
            view_acked: None,
            commit_sent: 0,
            unanswered: 0,
        };
        self.links.insert(other, link);
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.arrived.len() + self.noted.len()
    }

    /// The other members of the view; `None` for one that is not connected.
    fn members<'l>(&'l self, view: &'l View, own: ServerId) -> impl Iterator<Item = Option<&'l Link>> {
        let others = view.live.iter().filter(move |(other, _)| **other != own);
        others.map(|(other, incarnation)| self.links.get(other).filter(|link| link.incarnation == *incarnation))
    }

    /// Whether all members have recorded the view.
    fn is_established(&self, view: &View, own: ServerId) -> bool {
        self.members(view, own).all(|link| link.is_some_and(|link| link.view_acked == Some(view.id.change)))
    }

    /// Up to where all members of the view have the log; `None` if some have not recorded the view yet, or do not count
    /// as live: any of them must be able to go on alone with what is acknowledged.
    fn replicated(&self, view: &View, own: ServerId, last: u64) -> Option<u64> {
        if !self.is_established(view, own) {
            return None;
        }
        self.members(view, own).try_fold(last, |everywhere, link| {
            let link = link.filter(|link| link.live)?;
            Some(everywhere.min(link.acked))
        })
    }
}

impl Core {
    pub(super) fn gone_while_leading(&mut self, other: ServerId) {
        let Role::Leading(leading) = &mut self.role else { return };
        leading.links.remove(&other);
        if self.view.live.contains_key(&other) {
            let mut live = self.view.live.clone();
            live.remove(&other);
            self.change_view(live);
        }
    }

    pub(super) fn answered_while_leading(&mut self, other: ServerId, answer: PeerAnswer) {
        let epoch = self.promised;
        let Role::Leading(leading) = &mut self.role else { return };
        match answer {
            PeerAnswer::Promised { epoch: of, summary } if of == epoch && !leading.links.contains_key(&other) => {
                leading.add(other, &summary, self.log.common(&summary.runs));
            }
            PeerAnswer::Replicated { epoch: of, last_index, view, live } if of == epoch => {
                let Some(link) = leading.links.get_mut(&other) else { return };
                link.unanswered = link.unanswered.saturating_sub(1);
                link.acked = link.acked.max(last_index.min(link.sent));
                link.live = live;
                if view.epoch == epoch {
                    link.view_acked = Some(view.change);
                }
            }
            // Of an earlier attempt.
            _ => {}
        }
    }

    fn change_view(&mut self, live: BTreeMap<ServerId, Incarnation>) {
        let ViewId { epoch, change } = self.view.id;
        self.record(View { id: ViewId { epoch, change: change + 1 }, live });
    }

    /// Appends what has arrived, sends what others lack, and acknowledges what all have.
    pub(super) fn replicate(&mut self) {
        let epoch = self.promised;
        let Role::Leading(leading) = &mut self.role else { return };
        let mut fresh = Vec::new();
        for waiting in leading.arrived.drain(..) {
            if let Some(op) = waiting.order() {
                let entry = Entry { epoch, op };
                self.log.push(entry);
                fresh.push(entry);
            }
            leading.noted.push_back((self.log.last_index(), waiting));
        }
        self.take_in_joiners();
        // The others' disks and this one work at the same time; what they answer is heard after this one is done.
        self.send();
        if !fresh.is_empty() {
            self.persist(Change::Append { committed: self.committed, entries: fresh });
        }
        if self.acknowledge() {
            self.send();
        }
    }

    /// Whoever was caught up is a member again: from now on no order is acknowledged without it (rule 3).
    fn take_in_joiners(&mut self) {
        let Role::Leading(leading) = &self.role else { return };
        let last = self.log.last_index();
        let joiners: Vec<(ServerId, Incarnation)> = leading
            .links
            .iter()
            .filter(|(other, link)| {
                !self.view.live.contains_key(other) && link.acked.saturating_add(JOINER_LACKS_MAX) >= last
            })
            .map(|(&other, link)| (other, link.incarnation))
            .collect();
        if !joiners.is_empty() {
            let mut live = self.view.live.clone();
            live.extend(joiners);
            self.change_view(live);
        }
    }

    fn send(&mut self) {
        let epoch = self.promised;
        let Role::Leading(leading) = &mut self.role else { return };
        let last = self.log.last_index();
        let is_established = leading.is_established(&self.view, self.id);
        for (&other, link) in &mut leading.links {
            while link.unanswered < UNANSWERED_MAX {
                let entries = self.log.slice(link.sent + 1, ENTRIES_MAX);
                let end = link.sent + entries.len() as u64;
                // A view comes after all entries: whoever records it has them.
                let is_told = end == last
                    && self.view.live.get(&other) == Some(&link.incarnation)
                    && link.view_sent != Some(self.view.id.change);
                // Rule 8.
                let committed = self.committed.min(end.saturating_sub(1));
                let is_newcomer = !link.live && self.view.live.get(&other) == Some(&link.incarnation);
                let established = (is_established && is_newcomer).then_some(self.view.id.change);
                let established = established.filter(|_| link.established_sent != established);
                if entries.is_empty() && !is_told && established.is_none() && committed <= link.commit_sent {
                    break;
                }
                let request = PeerRequest::Replicate {
                    epoch,
                    committed,
                    keep: link.sent,
                    entries: entries.to_vec(),
                    view: is_told.then(|| self.view.clone()),
                    established,
                };
                link.established_sent = established.or(link.established_sent);
                if is_told {
                    link.view_sent = Some(self.view.id.change);
                }
                link.sent = end;
                link.commit_sent = link.commit_sent.max(committed);
                link.unanswered += 1;
                self.effects.push(Effect::Send(other, request));
            }
        }
    }

    /// Commits what the disks of all members of the view have; whether that is more than before.
    fn acknowledge(&mut self) -> bool {
        let Role::Leading(leading) = &mut self.role else { return false };
        let Some(everywhere) = leading.replicated(&self.view, self.id, self.log.last_index()) else { return false };
        let before = self.committed;
        let mut finished = Vec::new();
        while let Some((index, waiting)) = leading.noted.pop_front_if(|(index, _)| *index <= everywhere.max(before)) {
            finished.push((index, waiting));
        }
        self.apply(everywhere.max(before));
        for (index, waiting) in finished {
            let outcome = match waiting {
                Waiting::Order(..) => Outcome::Recorded(index),
                Waiting::Read(_, customer) => Outcome::Record(self.records.get(&customer).copied()),
            };
            self.finish(waiting.ticket(), outcome);
        }
        self.committed > before
    }
}
