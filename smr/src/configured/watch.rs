//! Who holds up the group: the peers' word decides who is removed.
//!
//! Every commit needs every member, so one that does not answer stops all of them. Those who wait for it say so
//! ([`Report::Blocked`]), for as long as it lasts; the service removes it, if it believes them.

use super::Configured;
use crate::id::NodeId;
use crate::protocol::{Report, Time};

impl Configured {
    /// Goes by another detection from now on; two heartbeats fit into it at least.
    pub fn set_detection(&mut self, detection_us: u64) {
        self.settings.detection_us = detection_us.max(2 * self.settings.heartbeat_us);
    }

    /// Those whose messages this member waits for: in a star the first waits for all, and all for the first; in a chain
    /// neighbours wait for each other.
    fn watched(&self) -> Vec<NodeId> {
        let Some(membership) = self.membership() else { return Vec::new() };
        if self.is_first() && !self.orders() {
            // It says nothing, so no one answers.
            return Vec::new();
        }
        if self.is_chain() {
            membership.before(self.node).into_iter().chain(membership.after(self.node)).collect()
        } else if self.is_first() {
            self.others()
        } else {
            vec![membership.first()]
        }
    }

    /// Says who has been in the way for too long.
    pub(super) fn report_blocked(&mut self) {
        let (now, detection_us) = (self.now, self.settings.detection_us);
        let is_long_ago = |at: Time| now.since_us(at) >= detection_us;
        let begun_at = self.entered_at.unwrap_or(self.started_at);
        let (end, sends) = (self.log.last().index, self.noop_index().is_some());
        let watched = self.watched();
        let mut blocking: Vec<NodeId> = Vec::new();
        for node in watched {
            let owes_since = match self.peers.get_mut(&node) {
                Some(progress) if sends => progress.owes(end, now),
                _ => None,
            };
            let heard_at = self.heard.get(&node).copied().unwrap_or(begun_at);
            if is_long_ago(heard_at) || owes_since.is_some_and(is_long_ago) {
                blocking.push(node);
            }
        }
        // Only it knows that its own disk does not write.
        if self.membership().is_some() && self.out.oldest_write_at().is_some_and(is_long_ago) {
            blocking.push(self.node);
        }
        for by in blocking {
            self.report_blocked_by(by);
        }
    }

    pub(super) fn report_blocked_by(&mut self, by: NodeId) {
        let (epoch, last) = (self.epoch(), self.log.last());
        self.report(Report::Blocked { epoch, by, last });
    }
}
