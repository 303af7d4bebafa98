//! What the configuration service of the group is told, and what it says. Only for kinds that have one.
//!
//! With each heartbeat the member says where it is and what it has to report, and at once if that is urgent. One
//! exchange is under way at a time; what is to be said meanwhile waits for the next one, the latest of each subject.

use super::{Action, Engine};
use crate::configured::LEASE_MAX_US;
use crate::epoch_service::{LeaseGrant, MemberReport, REPORTS_MAX, ServiceWord};
use crate::protocol::{Input, Protocol, Report, Time};
use crate::state_machine::StateMachine;

/// After this long an exchange that was not answered does not count as under way any more, in microseconds. Little more
/// than [`LEASE_MAX_US`]: a lease that is granted later is over when it comes, and a member whose answer was lost, for
/// want of room in its inbox, must not be without one, nor be silent, for longer than that.
const EXCHANGE_TIMEOUT_US: u64 = LEASE_MAX_US + 50_000;

/// What is to be said, and when something was said last.
#[derive(Debug, Default)]
pub(super) struct ServiceTalk {
    reports: Vec<Report>,
    is_due: bool,
    under_way_since: Option<Time>,
    now: Time,
}

impl ServiceTalk {
    pub(super) fn is_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// The time has come to say where this member is.
    pub(super) fn note_due(&mut self) {
        self.is_due = true;
    }

    /// These are to be said.
    pub(super) fn report(&mut self, reports: Vec<Report>) {
        for report in reports {
            self.is_due |= report.is_urgent();
            self.reports.retain(|earlier| !report.is_about_the_same(earlier));
            // No more than there are members, and a few: each replaces the one before.
            if self.reports.len() < REPORTS_MAX {
                self.reports.push(report);
            }
        }
    }

    /// What is to be said now.
    fn take_due(&mut self) -> Option<Vec<Report>> {
        let now = self.now;
        let is_under_way = self.under_way_since.is_some_and(|since| now.since_us(since) < EXCHANGE_TIMEOUT_US);
        if !self.is_due || is_under_way {
            return None;
        }
        self.is_due = false;
        self.under_way_since = Some(now);
        Some(std::mem::take(&mut self.reports))
    }
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// Asks for the next exchange, if one is due.
    pub(super) fn talk_if_due(&mut self) {
        if self.silent || !self.core.has_service() {
            return;
        }
        if let Some(reports) = self.service_talk.take_due() {
            let status = self.core.status();
            let report = MemberReport { node: self.node, epoch: status.term, last: status.last, reports };
            self.actions.push(Action::Exchange(report));
        }
    }

    /// The configuration service has answered, or no one could speak for it.
    pub fn service_says(&mut self, now: Time, word: Option<ServiceWord>) {
        self.service_talk.under_way_since = None;
        let Some(ServiceWord { configuration, lease, feeds }) = word else { return };
        let epoch = configuration.epoch;
        self.step(now, Input::Configured(configuration));
        if let Some(LeaseGrant { epoch, asked_at, length_us }) = lease {
            self.step(now, Input::LeaseGranted { epoch, asked_at, length_us });
        }
        self.step(now, Input::Join { epoch, newcomer: feeds });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryId, Term};
    use crate::id::NodeId;

    fn blocked(name: u16) -> Report {
        Report::Blocked { epoch: Term(2), by: NodeId::new(name, 1), last: EntryId::ZERO }
    }

    #[test]
    fn talk_waits_for_the_answer_and_keeps_the_latest_of_each_subject() {
        let mut talk = ServiceTalk::default();
        let lease = |at| Report::LeaseWanted { epoch: Term(2), asked_at: Time(at) };
        talk.report(vec![lease(1)]);
        assert_eq!(talk.take_due(), None, "a lease waits for the heartbeat");
        talk.report(vec![blocked(1), blocked(2), lease(2), blocked(1)]);
        assert_eq!(talk.take_due(), Some(vec![blocked(2), lease(2), blocked(1)]));
        talk.report(vec![blocked(1)]);
        assert_eq!(talk.take_due(), None, "one is under way");
        talk.is_now(Time(EXCHANGE_TIMEOUT_US));
        assert_eq!(talk.take_due(), Some(vec![blocked(1)]), "it has no answer");
    }

    // covers K11
    #[test]
    fn member_whose_answer_was_lost_asks_again_with_the_first_heartbeat_after_its_lease() {
        let mut talk = ServiceTalk::default();
        let mut asked_at_ms = Vec::new();
        for now_ms in (0..=1000).step_by(100) {
            talk.is_now(Time(now_ms * 1000));
            talk.note_due();
            asked_at_ms.extend(talk.take_due().map(|_| now_ms));
        }
        assert_eq!(asked_at_ms, [0, 400, 800]);
    }
}
