//! What operators ask that only a replica may begin that leads for certain: it waits for a confirmation, as a read
//! does.
//!
//! A leader that was deposed without knowing it remembers the members of before. Asked for just these, it would call
//! done what its successors have undone (M12).

use std::collections::BTreeMap;

use super::Engine;
use super::limits::BUSY_RETRY_MS;
use crate::protocol::{Effects, Protocol, ReadToken, Time};
use crate::replica::admin::AdminRequest;
use crate::replica::{NotLeader, Outcome, ReplyTo};
use crate::state_machine::StateMachine;

/// Such requests that wait, at most. An operator asks for one thing at a time.
const UNCONFIRMED_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct OperatorRequests {
    unconfirmed: BTreeMap<ReadToken, (AdminRequest, ReplyTo)>,
    /// Those that may begin.
    confirmed: Vec<(AdminRequest, ReplyTo)>,
}

impl OperatorRequests {
    pub(super) fn len(&self) -> usize {
        self.unconfirmed.len() + self.confirmed.len()
    }

    /// When they are to be looked at.
    pub(super) fn look_at(&self) -> Option<Time> {
        (!self.confirmed.is_empty()).then_some(Time(0))
    }

    /// The replica led when this was asked for, or later. False if it was a read.
    pub(super) fn confirm(&mut self, token: ReadToken) -> bool {
        let request = self.unconfirmed.remove(&token);
        let is_known = request.is_some();
        self.confirmed.extend(request);
        is_known
    }

    /// It does not lead, as far as this request is concerned. False if it was a read.
    pub(super) fn fail(&mut self, token: ReadToken, hint: NotLeader) -> bool {
        let request = self.unconfirmed.remove(&token);
        let is_known = request.is_some();
        request.into_iter().for_each(|(_, reply)| reply.send(Outcome::NotLeader(hint)));
        is_known
    }

    /// None of them is for this replica any more.
    pub(super) fn fail_all(&mut self, hint: NotLeader) {
        let unconfirmed = std::mem::take(&mut self.unconfirmed).into_values();
        let all = unconfirmed.chain(std::mem::take(&mut self.confirmed));
        all.for_each(|(_, reply)| reply.send(Outcome::NotLeader(hint)));
    }
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// An operator asks for something.
    pub(super) fn begin_operators(&mut self, now: Time, request: AdminRequest, reply: ReplyTo) {
        if !self.admin.needs_confirmation(&request) {
            return self.with_admin(now, |admin, context| admin.begin(context, request, reply));
        }
        if self.operators.len() >= UNCONFIRMED_MAX {
            return reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        let token = ReadToken(self.next_read_token);
        self.next_read_token += 1;
        let mut effects = Effects::default();
        match self.core.read(now, token, &mut effects) {
            Ok(()) => _ = self.operators.unconfirmed.insert(token, (request, reply)),
            Err(not_here) => reply.send(Outcome::NotLeader(not_here.into())),
        }
        self.absorb(effects);
    }

    /// Begins what is confirmed.
    pub(super) fn begin_confirmed(&mut self, now: Time) {
        for (request, reply) in std::mem::take(&mut self.operators.confirmed) {
            self.with_admin(now, |admin, context| admin.begin(context, request, reply));
        }
    }
}
