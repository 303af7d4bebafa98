//! Who is brought up to date next: one newcomer at a time, those that failed least often first, each after a pause.

use super::{Arbiter, all_are_complete, has_its_place};
use crate::epoch_service::record::EpochRecord;
use crate::id::NodeId;
use crate::protocol::Time;

/// A newcomer may take this long to be brought up to date while others wait, in microseconds; twice as long after each
/// time that it was removed or did not make it, for it may just have much to read.
const JOIN_US: u64 = 30_000_000;
/// That time is doubled at most this many times.
const JOIN_DOUBLINGS_MAX: u32 = 5;
/// Removals that are longer ago do not make the pause longer, in microseconds.
const REMOVALS_COUNT_US: u64 = 600_000_000;

impl Arbiter {
    pub(super) fn look_for_newcomers(&mut self, now: Time, record: &EpochRecord) {
        let present = record.present();
        if self.joining.is_some_and(|node| !self.is_there(node, now)) {
            (self.joining, self.caught_up) = (None, None);
        }
        if !all_are_complete(record) {
            // It is not its turn yet.
            self.joining_since = now;
        }
        let waits = |node: &NodeId| {
            let is_there = self.is_there(*node, now) && !has_its_place(present, *node);
            is_there && Some(*node) != self.joining && self.has_paused(*node, now)
        };
        let next = self.heard.keys().copied().filter(waits).min_by_key(|node| (self.failures(*node, now), *node));
        match self.joining {
            Some(late) if next.is_some() && self.caught_up.is_none() && self.is_late(late, now) => {
                self.note_failure(late, now);
                (self.joining, self.joining_since) = (next, now);
            }
            Some(_) => {}
            None => (self.joining, self.joining_since) = (next, now),
        }
        let (heard, alive_us) = (&mut self.heard, self.settings.alive_us);
        heard.retain(|node, at| present.is_member(*node) || now.since_us(*at) < alive_us);
    }

    fn is_late(&self, newcomer: NodeId, now: Time) -> bool {
        let doublings = self.failures(newcomer, now).min(JOIN_DOUBLINGS_MAX);
        now.since_us(self.joining_since) >= JOIN_US << doublings
    }

    /// It was removed, or took too long to join.
    pub(super) fn note_failure(&mut self, node: NodeId, now: Time) {
        let times = self.failures(node, now);
        self.failed.insert(node.name, (times.saturating_add(1), now));
    }

    fn failures(&self, node: NodeId, now: Time) -> u32 {
        let lately = self.failed.get(&node.name).filter(|(_, at)| now.since_us(*at) < REMOVALS_COUNT_US);
        lately.map_or(0, |(times, _)| *times)
    }

    fn has_paused(&self, node: NodeId, now: Time) -> bool {
        let Some((times, at)) = self.failed.get(&node.name) else { return true };
        let doublings = times.saturating_sub(1).min(16);
        now.since_us(*at) >= (self.settings.pause_us << doublings).min(self.settings.pause_max_us)
    }
}
