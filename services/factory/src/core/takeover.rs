//! A factory becomes the primary: it takes an epoch, asks all others, and adopts the most complete log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::primary::Leading;
use super::{Core, Effect, Note, Outgoing, Role, Ticket};
use crate::message::{PeerAnswer, PeerRequest, Summary};
use crate::words::{Attempts, Epoch, Incarnation, MapOp, ServerId, View, ViewId};

/// What waits for a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Order(Ticket, MapOp),
    Read(Ticket, i32),
}

impl Waiting {
    pub(super) fn ticket(&self) -> Ticket {
        match *self {
            Waiting::Order(ticket, _) | Waiting::Read(ticket, _) => ticket,
        }
    }

    pub(super) fn order(&self) -> Option<MapOp> {
        match *self {
            Waiting::Order(_, op) => Some(op),
            Waiting::Read(..) => None,
        }
    }
}

/// What another factory has said.
#[derive(Clone, Debug)]
enum Heard {
    /// Nothing yet.
    Pending,
    /// It is dead, as far as can be seen.
    Gone,
    Summary(Box<Summary>),
}

/// What decides whether someone may lead.
#[derive(Clone, Copy)]
struct Standpoint<'s> {
    id: ServerId,
    incarnation: Incarnation,
    live: bool,
    view: &'s View,
    attempts: &'s Attempts,
}

/// On the way to being the primary.
#[derive(Debug)]
pub(super) struct Takeover {
    heard: BTreeMap<ServerId, Heard>,
    /// Whose log is being adopted, and up to where.
    fetching: Option<(ServerId, u64)>,
    pub(super) waiting: Vec<Waiting>,
    /// Already in the log, at these indexes: this one led before.
    pub(super) noted: VecDeque<(u64, Waiting)>,
    /// Who is not back, by what was said last.
    missing: Vec<ServerId>,
    /// The latest view that was heard of, also from those that are gone since.
    latest: View,
    /// Who was found dead, stands in that view, and was dialled once more.
    redialled: BTreeSet<ServerId>,
}

impl Takeover {
    /// Whether it waits for others to come back (rule 6).
    pub(super) fn is_blocked(&self) -> bool {
        !self.missing.is_empty() && !self.is_pending()
    }

    pub(super) fn ask_again(&mut self, dead: &[ServerId]) {
        for other in dead {
            self.heard.insert(*other, Heard::Pending);
        }
    }

    fn hear_view(&mut self, view: &View) {
        if view.id > self.latest.id {
            self.latest.clone_from(view);
            self.redialled.clear();
        }
    }

    /// Who was found dead, and may have become live since: it stands in the latest view. None of them is named twice.
    fn passed_over(&mut self) -> Vec<ServerId> {
        let is_gone = |id: &ServerId| matches!(self.heard.get(id), Some(Heard::Gone));
        let found: Vec<ServerId> = self.latest.live.keys().copied().filter(is_gone).collect();
        found.into_iter().filter(|&id| self.redialled.insert(id)).collect()
    }

    fn is_pending(&self) -> bool {
        self.fetching.is_some() || self.heard.values().any(|heard| matches!(heard, Heard::Pending))
    }

    fn summaries(&self) -> impl Iterator<Item = (ServerId, &Summary)> {
        self.heard.iter().filter_map(|(&other, heard)| match heard {
            Heard::Summary(summary) => Some((other, &**summary)),
            Heard::Pending | Heard::Gone => None,
        })
    }

    /// Who must be back before this one may lead (rule 6).
    fn missing(&self, own: Standpoint<'_>) -> Vec<ServerId> {
        let others = self.summaries().map(|(id, summary)| {
            let Summary { incarnation, live, view, attempts, .. } = summary;
            (id, Standpoint { id, incarnation: *incarnation, live: *live, view, attempts })
        });
        let here: BTreeMap<ServerId, Standpoint<'_>> = others.chain([(own.id, own)]).collect();
        if here.values().any(|standpoint| standpoint.live) {
            return Vec::new();
        }
        let Some(last) = here.values().map(|standpoint| standpoint.view).max_by_key(|view| view.id) else {
            return Vec::new();
        };
        let is_here = |id: &ServerId, incarnation: Incarnation| {
            here.get(id).is_some_and(|standpoint| standpoint.incarnation == incarnation)
        };
        // In the beginning, all; in any incarnation, for no one has anything yet.
        let members: BTreeSet<ServerId> = match last.is_none() {
            true => self.heard.keys().copied().chain([own.id]).collect(),
            false => last.live.keys().copied().collect(),
        };
        let is_back = |id: &ServerId| match last.live.get(id) {
            Some(incarnation) => is_here(id, *incarnation),
            None => here.contains_key(id),
        };
        let mut missing: BTreeSet<ServerId> = members.iter().filter(|id| !is_back(id)).copied().collect();
        let attempts = here.values().flat_map(|standpoint| standpoint.attempts.iter());
        for (by, attempt) in attempts.filter(|(_, attempt)| attempt.epoch > last.id.epoch) {
            let all_promised = members.iter().filter(|id| **id != by.0).all(|id| {
                let promised = here.get(id).and_then(|standpoint| standpoint.attempts.get(by));
                promised.is_some_and(|promised| promised.epoch > last.id.epoch)
            });
            if !is_here(&by.0, by.1) && (attempt.live || all_promised) {
                missing.insert(by.0);
            }
        }
        missing.into_iter().collect()
    }
}

impl Core {
    /// Takes an epoch above all that it has heard of (rule 1), for what waits. The one place where an epoch begins.
    pub(super) fn begin_takeover(&mut self, waiting: Vec<Waiting>, noted: VecDeque<(u64, Waiting)>) {
        let highest = self.promised.counter.max(self.view.id.epoch.counter);
        self.promise(Epoch { counter: highest + 1, server: self.id, incarnation: self.incarnation });
        self.primary = None;
        self.primary_link = None;
        let heard = self.others.keys().map(|&other| (other, Heard::Pending)).collect();
        self.role = Role::Taking(Takeover {
            heard,
            fetching: None,
            waiting,
            noted,
            missing: Vec::new(),
            latest: self.view.clone(),
            redialled: self.view.live.keys().copied().collect(),
        });
        let others: Vec<(ServerId, Outgoing)> =
            self.others.iter().map(|(&other, &outgoing)| (other, outgoing)).collect();
        for (other, outgoing) in others {
            if outgoing == Outgoing::None {
                self.dial(other);
            }
        }
        self.decide();
    }

    pub(super) fn gone_while_taking(&mut self, other: ServerId) {
        let Role::Taking(takeover) = &mut self.role else { return };
        takeover.heard.insert(other, Heard::Gone);
        if takeover.fetching.is_some_and(|(from, _)| from == other) {
            takeover.fetching = None;
        }
        self.decide();
    }

    pub(super) fn answered_while_taking(&mut self, other: ServerId, answer: PeerAnswer) {
        let epoch = self.promised;
        let Role::Taking(takeover) = &mut self.role else { return };
        match answer {
            PeerAnswer::Promised { epoch: of, summary } if of == epoch => {
                takeover.hear_view(&summary.view);
                takeover.heard.insert(other, Heard::Summary(Box::new(summary)));
                self.decide();
            }
            PeerAnswer::Entries { epoch: of, from, entries } if of == epoch => {
                let Some((_, until)) = takeover.fetching.filter(|&(source, _)| source == other) else { return };
                let next = self.log.last_index() + 1;
                let end = next + entries.len() as u64 - 1;
                if from != next || entries.is_empty() || end > until {
                    // It does not have what it said it has: of no use.
                    self.disconnect(other);
                    self.gone_while_taking(other);
                    return;
                }
                self.adopt(entries);
                if end < until {
                    self.effects.push(Effect::Send(other, PeerRequest::Fetch { epoch, from: end + 1 }));
                } else {
                    self.lead();
                }
            }
            // Of an earlier attempt.
            _ => {}
        }
    }

    /// Goes on if all others have answered, or are dead.
    fn decide(&mut self) {
        let epoch = self.promised;
        let Role::Taking(takeover) = &mut self.role else { return };
        if takeover.is_pending() {
            return;
        }
        // Its view may be younger than the dial: whoever told of it has promised, and takes no one in any more.
        let passed_over = takeover.passed_over();
        if !passed_over.is_empty() {
            takeover.ask_again(&passed_over);
            passed_over.into_iter().for_each(|other| self.dial(other));
            return;
        }
        let own = Standpoint {
            id: self.id,
            incarnation: self.incarnation,
            live: self.live,
            view: &self.view,
            attempts: &self.attempts,
        };
        let missing = if self.found_anew { Vec::new() } else { takeover.missing(own) };
        if !missing.is_empty() {
            if missing != takeover.missing {
                takeover.missing.clone_from(&missing);
                self.effects.push(Effect::Say(Note::WaitsFor(missing)));
            }
            return;
        }
        takeover.missing.clear();
        // Rule 2. Of those that are equally complete this one's needs no copy.
        let own = (self.view.id, self.log.last_index());
        let best = takeover.summaries().max_by_key(|(_, summary)| (summary.view.id, summary.last_index));
        let best = best.filter(|(_, summary)| (summary.view.id, summary.last_index) > own);
        let Some((source, summary)) = best else {
            self.lead();
            return;
        };
        let until = summary.last_index;
        let keep = self.log.common(&summary.runs).min(until);
        if keep < until {
            takeover.fetching = Some((source, until));
        }
        self.cut(keep);
        if keep < until {
            self.effects.push(Effect::Send(source, PeerRequest::Fetch { epoch, from: keep + 1 }));
        } else {
            self.lead();
        }
    }

    /// It has the most complete log: from here on it is the primary, with all that have answered.
    fn lead(&mut self) {
        let Role::Taking(takeover) = std::mem::replace(&mut self.role, Role::Idle) else { return };
        let mut live: BTreeMap<_, _> =
            takeover.summaries().map(|(other, summary)| (other, summary.incarnation)).collect();
        let with: Vec<ServerId> = live.keys().copied().collect();
        let mut leading = Leading::default();
        for (other, summary) in takeover.summaries() {
            leading.add(other, summary, self.log.common(&summary.runs));
        }
        leading.arrived = takeover.waiting;
        leading.noted = takeover.noted;
        live.insert(self.id, self.incarnation);
        self.found_anew = false;
        // All others were asked while this one was there: no one leads that has passed it over.
        self.live = true;
        self.record(View { id: ViewId { epoch: self.promised, change: 0 }, live });
        self.primary = Some(self.id);
        self.role = Role::Leading(leading);
        self.effects.push(Effect::Say(Note::Leads(self.promised, with)));
    }
}
