//! Between members and the service: reports, answers, decisions.

use smr::epoch_service::{EpochDecision, MemberReport, ServiceWord};
use smr::id::NodeId;
use smr::internals::configured::invariants;
use smr::internals::protocol::{Report, Time};

use super::{Event, SERVICE, World};
use crate::epochs::ledger::Seen;
use crate::epochs::machine::Input;
use crate::epochs::rare::Rare;
use crate::epochs::service::{Confirmed, LOOK_US};

impl World {
    /// A node says something to the service.
    pub(super) fn exchange(&mut self, report: MemberReport) {
        for at in self.network.arrivals(self.now, report.node.name.0, SERVICE) {
            self.schedule(at, Event::Report(report.clone()));
        }
    }

    /// While the service is stopped everything waits for it.
    fn waits_for_service(&self) -> Option<Time> {
        Some(self.service.stopped_until).filter(|until| *until > self.now)
    }

    pub(super) fn report(&mut self, report: MemberReport) {
        if let Some(until) = self.waits_for_service() {
            return self.schedule(until, Event::Report(report));
        }
        if !self.service.has_leader() {
            return self.answer_report(report.node, None);
        }
        let confirm_us = self.service.pace.confirm_us;
        let at = self.now.plus_us(self.service.below(confirm_us));
        self.schedule(at, Event::Confirm(report));
    }

    pub(super) fn confirm(&mut self, report: MemberReport) {
        if let Some(until) = self.waits_for_service() {
            return self.schedule(until, Event::Confirm(report));
        }
        let node = report.node;
        let Some(confirmed) = self.service.confirm(report) else { return self.answer_report(node, None) };
        let answer_us = self.service.pace.answer_us;
        let at = self.now.plus_us(self.service.below(answer_us));
        self.schedule(at, Event::Hear(Box::new(confirmed)));
    }

    pub(super) fn hear(&mut self, confirmed: Confirmed) {
        if let Some(until) = self.waits_for_service() {
            return self.schedule(until, Event::Hear(Box::new(confirmed)));
        }
        let Some((word, leads)) = self.service.hear(self.now, &confirmed) else { return };
        let report = &confirmed.report;
        self.say(|| format!("the service hears {report:?} and says {word:?}"));
        if !leads {
            self.rare.saw(Rare::FormerLeaderAnswered);
        }
        if report.reports.iter().any(|said| matches!(said, Report::LeaseWanted { .. })) {
            self.rare.saw(if word.lease.is_some() { Rare::LeaseGranted } else { Rare::LeaseRefused });
        }
        self.answer_report(report.node, Some(Box::new(word)));
    }

    fn answer_report(&mut self, node: NodeId, word: Option<Box<ServiceWord>>) {
        if let Some(at) = self.network.arrivals(self.now, SERVICE, node.name.0).next() {
            self.schedule(at, Event::Word { node, word });
        }
    }

    pub(super) fn word(&mut self, node: NodeId, word: Option<Box<ServiceWord>>) {
        let replica = usize::from(node.name.0);
        let machine = &self.machines[replica];
        let is_cut = self.network.is_cut(SERVICE, node.name.0);
        // Nothing follows from it for one who waits: whoever brings it up to date calls.
        if machine.id == node && machine.serving().is_some() && !is_cut {
            self.put(replica, Input::Service(word));
        }
    }

    pub(super) fn look_at_service(&mut self) {
        let at = self.waits_for_service().unwrap_or(self.now.plus_us(LOOK_US));
        self.schedule(at, Event::Look);
        if self.waits_for_service().is_none() && self.service.look(self.now) {
            let commit_us = self.service.pace.commit_us;
            // In the order of the log.
            let at = self.now.plus_us(1_000 + self.service.below(commit_us)).max(self.commits_until);
            self.commits_until = at;
            self.schedule(at, Event::Commit);
        }
    }

    pub(super) fn lead_service(&mut self) {
        if let Some(until) = self.waits_for_service() {
            return self.schedule(until, Event::Lead);
        }
        // What was kept of the log of the one before is committed first.
        while self.service.has_proposals() {
            self.commit_decision();
        }
        self.service.lead(self.now);
    }

    /// What was proposed first is committed. There may be nothing: it was lost with its leader.
    pub(super) fn commit_decision(&mut self) {
        if let Some(until) = self.waits_for_service() {
            return self.schedule(until, Event::Commit);
        }
        let before = self.service.record().clone();
        let Some((decision, applied)) = self.service.commit() else { return };
        self.say(|| format!("the service commits {decision:?}: {applied:?}"));
        match (&decision, applied) {
            (_, Err(_)) | (EpochDecision::Presides(_), Ok(())) => {}
            (EpochDecision::Activated(_), Ok(())) => self.rare.saw(Rare::NewcomerComplete),
            (EpochDecision::Next { configuration, .. }, Ok(())) => {
                let present = before.present();
                let stays = |member: &NodeId| configuration.is_member(*member);
                let gone: Vec<NodeId> = present.members.iter().copied().filter(|member| !stays(member)).collect();
                let saw = [
                    (true, Rare::EpochDecided),
                    (!gone.is_empty(), Rare::MemberRemoved),
                    (gone.contains(&present.first()), Rare::FirstRemoved),
                    (present.incomplete.is_some_and(|newcomer| gone.contains(&newcomer)), Rare::IncompleteRemoved),
                    (configuration.members.iter().any(|member| !present.is_member(*member)), Rare::MemberAppended),
                    (configuration.members == present.members, Rare::FirstRestarted),
                    (configuration.members.len() == 1, Rare::LastOne),
                ];
                saw.into_iter().filter(|(happened, _)| *happened).for_each(|(_, what)| self.rare.saw(what));
                if gone.iter().any(|member| self.takes_itself_for_a_member(*member)) {
                    self.rare.saw(Rare::RemovedUnaware);
                }
                let leased = self.leased();
                let complete = self.service.record().complete().len();
                self.observe(&Seen::Decided { configuration, complete, leased: &leased });
            }
        }
    }

    fn takes_itself_for_a_member(&self, node: NodeId) -> bool {
        let machine = &self.machines[usize::from(node.name.0)];
        machine.id == node && machine.core().is_some_and(invariants::is_complete)
    }

    /// Who may answer reads by a lease at this moment.
    fn leased(&self) -> Vec<NodeId> {
        let is_leased = |replica: &usize| self.is_leased(*replica);
        (0..self.machines.len()).filter(is_leased).map(|replica| self.machines[replica].id).collect()
    }

    pub(super) fn is_leased(&self, replica: usize) -> bool {
        let machine = &self.machines[replica];
        machine.core().is_some_and(|core| machine.clock.at(self.now) < invariants::leased_until(core))
    }
}
