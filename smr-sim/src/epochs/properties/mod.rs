//! What must always hold of these groups, one file for each property. They judge by the observer's books
//! ([`super::ledger`]).

mod acknowledged_is_kept;
mod committed_is_everywhere;
mod complete_has_all;
mod durable_before_said;
mod entries_are_equal;
mod history_is_immutable;
mod no_lease_without_membership;
mod one_first_per_epoch;
mod record_keeps_the_complete;
mod same_commands_same_state;
mod sound_cores;

use super::ledger::{Ledger, Seen};

/// Something that must always hold.
pub trait Property: Send {
    /// Its number in the catalogue and what it says, for a report.
    fn name(&self) -> &'static str;

    /// Something happened; it is not in the books yet.
    ///
    /// # Errors
    /// What is wrong.
    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String>;
}

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Property>> {
    vec![
        Box::new(one_first_per_epoch::OneFirstPerEpoch::default()),
        Box::new(entries_are_equal::EntriesAreEqual::default()),
        Box::new(committed_is_everywhere::CommittedIsEverywhere),
        Box::new(history_is_immutable::HistoryIsImmutable),
        Box::new(complete_has_all::CompleteHasAll::default()),
        Box::new(durable_before_said::DurableBeforeSaid),
        Box::new(acknowledged_is_kept::AcknowledgedIsKept),
        Box::new(same_commands_same_state::SameCommandsSameState::default()),
        Box::new(no_lease_without_membership::NoLeaseWithoutMembership),
        Box::new(record_keeps_the_complete::RecordKeepsTheComplete),
        Box::new(sound_cores::SoundCores::default()),
    ]
}
