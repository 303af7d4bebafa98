//! Linearizable reads at any member that applies.
//!
//! Every committed entry is in the log of every complete member: it was committed by the acknowledgements of all. So
//! such a member *notes* the end of its own log, and answers once that is committed and applied. Who knows all that is
//! committed, the first of a star or the tail of a chain, notes its commit index: but only in an epoch that it entered
//! in this start, once it has committed in it ([`Configured::knows_commits`]). What is cut from the log was not
//! committed, so the end becomes the cut.
//!
//! A member may have been removed without knowing. So a read that arrives needs to know that its member still is one:
//! by a lease ([`super::lease`]), or by one round in which every other member of the epoch says, after the read has
//! arrived, that it is still in that epoch. No one can have committed anything in a later one then without this member.
//! All reads that wait share a round, one round runs at a time, and rounds have fresh numbers in a start, which is
//! named too: so answers to an older question confirm nothing (R3).

use std::collections::{BTreeMap, BTreeSet};

use super::Configured;
use super::message::Body;
use crate::entry::Index;
use crate::id::NodeId;
use crate::protocol::{NotHere, ReadOutcome, ReadToken};

/// The reads that wait at a member. Invariant: without `confirming` there are none in `next`.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// The number of the latest round in this start; 0 before the first.
    round: u64,
    /// Those of the running round, with the end that was noted when they arrived. Empty: no round runs.
    confirming: Vec<(ReadToken, Index)>,
    /// Those that arrived after the running round had started: they need the next one.
    next: Vec<(ReadToken, Index)>,
    /// Who has answered the running round.
    answered: BTreeSet<NodeId>,
    /// Those that wait until this member is complete in its epoch. They have no end yet.
    early: Vec<ReadToken>,
    /// Those that wait until what they noted is committed.
    noted: BTreeMap<Index, Vec<ReadToken>>,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        let noted: usize = self.noted.values().map(Vec::len).sum();
        self.confirming.len() + self.next.len() + self.early.len() + noted
    }

    /// The log ends with `end` now: what was after it was not committed.
    pub(super) fn cut(&mut self, end: Index) {
        for (_, noted) in self.confirming.iter_mut().chain(&mut self.next) {
            *noted = (*noted).min(end);
        }
        let mut cut: Vec<ReadToken> = Vec::new();
        for (_, tokens) in self.noted.split_off(&end.next()) {
            cut.extend(tokens);
        }
        if !cut.is_empty() {
            self.noted.entry(end).or_default().extend(cut);
        }
    }

    /// Those that no one has confirmed, in the order of arrival.
    fn take_unconfirmed(&mut self) -> Vec<ReadToken> {
        self.answered.clear();
        let waiting = self.confirming.drain(..).chain(self.next.drain(..)).map(|(token, _)| token);
        waiting.chain(self.early.drain(..)).collect()
    }
}

impl Configured {
    /// Whether reads may come here. A newcomer takes none before it is complete; any other member lets them wait.
    pub(super) fn serves_reads(&self) -> bool {
        self.membership().is_some_and(|membership| {
            self.applies_here() && (membership.incomplete != Some(self.node) || self.is_complete())
        })
    }

    fn applies_here(&self) -> bool {
        self.settings.kind.all_apply() || self.is_first()
    }

    /// A read arrived.
    pub(super) fn take_read(&mut self, token: ReadToken) -> Result<(), NotHere> {
        if !self.serves_reads() || self.reads.len() >= self.settings.reads_waiting_max {
            let first = self.visible_first().filter(|first| *first != self.node);
            return Err(NotHere { at: first.map(|first| first.name), term: self.epoch() });
        }
        if self.is_complete() {
            self.note_read(token);
            self.confirm_next();
        } else {
            self.reads.early.push(token);
        }
        Ok(())
    }

    fn note_read(&mut self, token: ReadToken) {
        let end = if self.knows_commits() { self.commit } else { self.log.last().index };
        self.reads.next.push((token, end));
    }

    /// Reads have a noted end now. A lease confirms them at once; otherwise they need the next round.
    fn confirm_next(&mut self) {
        if self.reads.next.is_empty() {
            return;
        }
        if self.holds_lease() {
            for (token, end) in std::mem::take(&mut self.reads.next) {
                self.reads.noted.entry(end).or_default().push(token);
            }
        } else if self.reads.confirming.is_empty() {
            self.reads.confirming = std::mem::take(&mut self.reads.next);
            self.reads.answered.clear();
            self.reads.round += 1;
            self.ask_again();
            self.confirm_round();
        }
    }

    /// Asks everyone who has not answered the running round.
    pub(super) fn ask_again(&mut self) {
        if self.reads.confirming.is_empty() {
            return;
        }
        let (start, round) = (self.start, self.reads.round);
        for node in self.others() {
            if !self.reads.answered.contains(&node) {
                self.send(node, Body::Confirm { start, round });
            }
        }
    }

    /// All other members of the epoch, complete or not: the commits of the next one need whoever is left of them.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let members = self.membership().map(|membership| &membership.members);
        members.into_iter().flatten().copied().filter(|member| *member != self.node).collect()
    }

    /// A member asks whether this one is still in the epoch.
    pub(super) fn receive_confirm(&mut self, from: NodeId, start: u64, round: u64) {
        if self.others().contains(&from) {
            self.send(from, Body::Confirmed { start, round });
        }
    }

    /// A member was still in this epoch, after it was asked.
    pub(super) fn receive_confirmed(&mut self, from: NodeId, start: u64, round: u64) {
        if start != self.start || round != self.reads.round || !self.others().contains(&from) {
            return;
        }
        self.reads.answered.insert(from);
        self.confirm_round();
    }

    fn confirm_round(&mut self) {
        if self.reads.confirming.is_empty() || self.others().iter().any(|node| !self.reads.answered.contains(node)) {
            return;
        }
        for (token, end) in std::mem::take(&mut self.reads.confirming) {
            self.reads.noted.entry(end).or_default().push(token);
        }
        self.confirm_next();
    }

    /// Lets go what may be answered: early reads once this member is complete, noted ones once their end is committed.
    pub(super) fn release_reads(&mut self) {
        if !self.reads.early.is_empty() && self.is_complete() {
            for token in std::mem::take(&mut self.reads.early) {
                self.note_read(token);
            }
            self.confirm_next();
        }
        while let Some(noted) = self.reads.noted.first_entry().filter(|noted| *noted.key() <= self.commit) {
            let (index, tokens) = noted.remove_entry();
            let ready = tokens.into_iter().map(|token| ReadOutcome::Ready { token, index });
            self.out.effects.reads.extend(ready);
        }
    }

    /// In a new epoch what no one has confirmed needs to be asked again. Who does not serve any more fails them all:
    /// it would not hear that what they noted is committed.
    pub(super) fn reads_enter_epoch(&mut self) {
        let mut unconfirmed = self.reads.take_unconfirmed();
        if self.membership().is_some() && self.applies_here() {
            self.reads.early = unconfirmed;
            return;
        }
        unconfirmed.extend(std::mem::take(&mut self.reads.noted).into_values().flatten());
        self.out.effects.reads.extend(unconfirmed.into_iter().map(|token| ReadOutcome::Failed { token }));
    }
}
