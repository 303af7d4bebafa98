//! Leases of the configuration service: the word that a member will be one for a while.
//!
//! A member asks with each heartbeat ([`Report::LeaseWanted`]) and says when, by its own clock. What is granted counts
//! from then, not from when it was heard, and a little less than it says, for clocks that drift
//! ([`crate::core_kit::lease`]). The service lets it pass before it decides on a configuration without the member. It
//! is forgotten in a restart, and with the epoch that it was asked in.
//!
//! A member that is still in an epoch whose successors all hold it too may count on it: nothing is committed there
//! without its acknowledgement, which it does not give before it enters them. That is why the service looks at every
//! configuration since the epoch that the request names: one that was removed and came back as a newcomer is a member
//! of the present one, and commits were made without it meanwhile (K17).

use super::Configured;
use super::settings::LEASE_MAX_US;
use crate::core_kit::lease::countable_us;
use crate::entry::Term;
use crate::protocol::{Report, Time};
use crate::status::ReadMode;

impl Configured {
    /// Asks for the next lease, if this member answers reads by one.
    pub(super) fn want_lease(&mut self) {
        if self.settings.reads == ReadMode::Lease && self.serves_reads() && self.is_complete() {
            self.report(Report::LeaseWanted { epoch: self.epoch(), asked_at: self.now });
        }
    }

    /// The service granted one.
    pub(super) fn lease_granted(&mut self, epoch: Term, asked_at: Time, length_us: u64) {
        // Asked in another epoch, or before a restart, or never.
        let since = self.entered_at.unwrap_or(self.started_at);
        if epoch != self.epoch() || asked_at < since || asked_at > self.now {
            return;
        }
        let counts_us = countable_us(length_us.min(LEASE_MAX_US), self.settings.clock_drift_permille);
        self.leased_until = self.leased_until.max(asked_at.plus_us(counts_us));
    }

    /// Whether it is a member now, by the service's word.
    pub(super) fn holds_lease(&self) -> bool {
        self.settings.reads == ReadMode::Lease && self.now < self.leased_until
    }
}
