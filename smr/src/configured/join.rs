//! Joining: a newcomer is brought up to date before it is made a member, so that the group does not wait for it.
//!
//! The service names a complete member that does it, in a chain the tail. The newcomer is no member yet: it takes the
//! log from whoever of the members sends it, and what it acknowledges counts for nothing but to see how far it is. Once
//! it lacks no more than was written a moment ago, it is reported as caught up, and the service makes it a member, as
//! incomplete.

use super::Configured;
use super::progress::{Pace, Progress};
use crate::entry::Term;
use crate::id::NodeId;
use crate::protocol::Report;

/// Whom this member brings up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newcomer {
    pub(super) node: NodeId,
}

impl Configured {
    /// The service wants this member to bring someone up to date, or no one any more.
    pub(super) fn join(&mut self, epoch: Term, newcomer: Option<NodeId>) {
        if epoch != self.epoch() || !self.is_complete() {
            return;
        }
        let is_new = |node: NodeId| self.configuration.as_ref().is_some_and(|known| !known.is_member(node));
        let newcomer = newcomer.filter(|node| is_new(*node)).map(|node| Newcomer { node });
        if newcomer == self.newcomer {
            return;
        }
        if let Some(old) = self.newcomer.take() {
            self.peers.remove(&old.node);
        }
        if let Some(Newcomer { node }) = newcomer {
            self.peers.insert(node, Progress::new(self.log.last().index, self.now));
        }
        self.newcomer = newcomer;
        self.replicate_to_all();
    }

    /// Says that the newcomer is caught up, while it is.
    pub(super) fn report_newcomer(&mut self) {
        let Some(Newcomer { node }) = self.newcomer else { return };
        let end = self.log.last().index;
        let progress = self.peers.get(&node);
        let is_level = progress.is_some_and(|progress| {
            progress.pace == Pace::Replicate && progress.is_level(end, self.now, &self.settings)
        });
        if is_level {
            self.report(Report::CaughtUp { epoch: self.epoch(), newcomer: node });
        }
    }
}
