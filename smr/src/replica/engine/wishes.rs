//! The operator's wishes that take more than one step: transfers of leadership, and readmissions.
//!
//! A wish is begun when it arrives, looked after every [`CHORES_INTERVAL_US`], and answered once. Only the leader knows
//! of it; if it loses its role the operator asks again, and the next leader goes on from the configuration in force.

use crate::id::NodeName;
use crate::protocol::{Change, ChangeRefused, Input, Protocol, Time, TransferRefused};
use crate::replica::engine::Engine;
use crate::replica::readmission::{READMISSION_UNDER_WAY, Readmission, Step};
use crate::replica::{Outcome, ReplyTo};
use crate::state_machine::StateMachine;
use crate::status::Role;

/// How long the operator waits for a transfer of leadership before it counts as failed, in microseconds.
const TRANSFER_TIMEOUT_US: u64 = 5_000_000;
/// How often waiting wishes of the operator are looked after, in microseconds.
const CHORES_INTERVAL_US: u64 = 50_000;

/// A transfer of leadership that an operator waits for.
pub(super) struct PendingTransfer {
    pub(super) to: NodeName,
    reply: ReplyTo,
    give_up_at: Time,
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    pub(super) fn start_transfer(&mut self, now: Time, to: NodeName, reply: ReplyTo) {
        if self.transfer.is_some() {
            return reply.send(Outcome::Refused("another transfer is under way".to_owned()));
        }
        let mut outputs = self.core.step(now, Input::Transfer(to));
        match outputs.transfer.take() {
            Some(Ok(())) => {
                self.transfer = Some(PendingTransfer { to, reply, give_up_at: now.plus_us(TRANSFER_TIMEOUT_US) });
                self.schedule_chores(now);
            }
            Some(Err(TransferRefused::NotLeader(hint))) => reply.send(Outcome::NotLeader(hint)),
            Some(Err(refused)) => reply.send(Outcome::Refused(refused.to_string())),
            None => panic!("the core left a transfer to {to} unanswered"),
        }
        self.absorb(now, outputs);
    }

    pub(super) fn end_transfer(&mut self, outcome: Outcome) {
        if let Some(transfer) = self.transfer.take() {
            transfer.reply.send(outcome);
        }
    }

    pub(super) fn start_readmission(&mut self, now: Time, name: NodeName, reply: ReplyTo) {
        if self.role != Role::Leader {
            return reply.send(Outcome::NotLeader(self.core.leader_hint()));
        }
        if let Some((readmission, _)) = &self.readmission {
            let Some(why) = readmission.gives_way(now, name, &self.core.status(), &self.presence) else {
                return reply.send(Outcome::Refused(READMISSION_UNDER_WAY.to_owned()));
            };
            self.end_readmission(Outcome::Refused(why));
        }
        match Readmission::start(now, name, &self.core.status(), &self.presence) {
            Ok(readmission) => {
                self.report(format!("readmission of {} begins", readmission.describe()));
                self.readmission = Some((readmission, reply));
                self.do_chores(now);
            }
            Err(outcome) => reply.send(outcome),
        }
    }

    pub(super) fn end_readmission(&mut self, outcome: Outcome) {
        if let Some((readmission, reply)) = self.readmission.take() {
            self.report(format!("readmission of {} ended: {outcome:?}", readmission.describe()));
            reply.send(outcome);
        }
    }

    fn schedule_chores(&mut self, now: Time) {
        self.chores_at = Some(now.plus_us(CHORES_INTERVAL_US));
    }

    /// Looks after the operator's wishes that take more than one step.
    pub(super) fn do_chores(&mut self, now: Time) {
        if self.transfer.as_ref().is_some_and(|transfer| transfer.give_up_at <= now) {
            self.end_transfer(Outcome::Refused("the target did not take over in time".to_owned()));
        }
        if let Some((readmission, _)) = &self.readmission {
            match readmission.next(now, &self.core.status()) {
                Step::Wait => {}
                Step::Change(change) => self.change(now, change),
                Step::End(outcome) => self.end_readmission(outcome),
            }
        }
        if self.transfer.is_some() || self.readmission.is_some() {
            self.schedule_chores(now);
        }
    }

    fn change(&mut self, now: Time, change: Change) {
        let mut outputs = self.core.step(now, Input::Change(change.clone()));
        match outputs.change.take() {
            // Not yet: the next look tries again, until the readmission's own deadline.
            Some(Ok(_) | Err(ChangeRefused::NotYet(_) | ChangeRefused::NotLeader(_))) => {}
            Some(Err(ChangeRefused::Senseless(why))) => {
                self.end_readmission(Outcome::Refused(why));
            }
            None => panic!("the core left {change:?} unanswered"),
        }
        self.absorb(now, outputs);
    }
}
