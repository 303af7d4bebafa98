//! What the first does: it orders, and in a star it knows what is committed. In a chain the tail does.

use bytes::Bytes;

use super::message::Body;
use super::{Configured, Pace};
use crate::entry::{Entry, EntryId, Index, Payload, Term};
use crate::protocol::{LogChange, NotHere, Report};

impl Configured {
    /// Whether it orders writes: it is the first, and entered its epoch in this start. A first that restarts may have
    /// lost entries that others have; it would give their names to other ones (K18).
    pub(super) fn orders(&self) -> bool {
        self.is_first() && self.entered_at.is_some()
    }

    /// Appends commands and sends them off.
    pub(super) fn append_commands(&mut self, commands: Vec<Bytes>) -> Result<EntryId, NotHere> {
        let epoch = self.epoch();
        if !self.orders() {
            return Err(NotHere { at: self.visible_first().map(|first| first.name), term: epoch });
        }
        let first = EntryId { index: self.log.last().index.next(), term: epoch };
        let mut entries = Vec::with_capacity(commands.len());
        for command in commands {
            let id = EntryId { index: self.log.last().index.next(), term: epoch };
            let entry = Entry { id, payload: Payload::Command(command) };
            self.log.append(entry.clone());
            entries.push(entry);
        }
        if !entries.is_empty() {
            self.out.change(LogChange::Append(entries));
            self.replicate_to_all();
        }
        Ok(first)
    }

    /// Commits what all members of this epoch have durably, if this node is the one to know.
    pub(super) fn commit_if_all_have_it(&mut self) {
        if let Some(all_have) = self.held_by_all() {
            self.advance_commit(all_have);
        }
        // In a chain the first hears it from the tail.
        let is_begun = self.orders() && self.noop_index().is_some_and(|noop| noop <= self.commit);
        if is_begun && !self.is_activated {
            self.is_activated = true;
            self.report(Report::Activated { epoch: self.epoch() });
        }
    }

    /// Up to where all members of this epoch have the log durably; `None` where someone else knows.
    fn held_by_all(&self) -> Option<Index> {
        let membership = self.membership()?;
        if self.is_chain() {
            return (membership.last() == self.node).then(|| self.durable_up_to_here());
        }
        if !self.orders() {
            return None;
        }
        // All of them, the incomplete one too: it may be the only one left one day.
        let others = membership.members.iter().filter(|member| **member != self.node);
        let acknowledged =
            others.map(|member| self.peers.get(member).map_or(Index::ZERO, |progress| progress.match_index));
        Some(acknowledged.min().map_or(self.out.durable(), |others| others.min(self.out.durable())))
    }

    /// In a chain: up to where this node and all before it have the log durable.
    ///
    /// What the one before says is about its own log. That this log is the same, as far as it goes, is known once it
    /// holds an entry of this epoch: those come from the head alone.
    pub(super) fn durable_up_to_here(&self) -> Index {
        if self.noop_index().is_none() {
            return Index::ZERO;
        }
        let own = self.out.durable();
        if self.is_first() { own } else { own.min(self.durable_before.index) }
    }

    /// The one before says up to where it, and all before it, have the log durable.
    pub(super) fn receive_durable(&mut self, through: EntryId) {
        if through.index > self.durable_before.index {
            self.durable_before = through;
        }
    }

    /// Says what others wait for: in a chain, down what is durable and up what is committed; in a star what is
    /// committed, if the others answer by it.
    pub(super) fn announce(&mut self) {
        if self.is_chain() {
            self.announce_in_chain();
        } else if self.orders() && self.settings.kind.all_apply() {
            let commit = self.commit;
            let due = self.peers.iter_mut().filter_map(|(node, progress)| {
                let index = commit.min(progress.match_index);
                let is_news = index > progress.commit_sent && progress.pace == Pace::Replicate;
                is_news.then(|| {
                    progress.commit_sent = index;
                    (*node, index)
                })
            });
            for (node, index) in due.collect::<Vec<_>>() {
                self.send_commit(node, index);
            }
        }
    }

    fn announce_in_chain(&mut self) {
        let Some(membership) = self.membership() else { return };
        let (before, after) = (membership.before(self.node), membership.after(self.node));
        let durable = self.durable_up_to_here();
        if let Some(next) = after
            && durable > self.durable_said
            && let Some(through) = self.log.id_at(durable)
        {
            self.durable_said = durable;
            self.send(next, Body::Durable { through });
        }
        if let Some(previous) = before
            && self.commit > self.commit_said
            && self.log.last().term == self.epoch()
        {
            self.commit_said = self.commit;
            self.send_commit(previous, self.commit);
        }
    }

    fn send_commit(&mut self, to: crate::id::NodeId, index: Index) {
        if let Some(last) = self.log.id_at(index) {
            self.send(to, Body::Commit { last });
        }
    }

    /// Whether it has committed in this epoch, and was there when it began: then it knows all that is committed.
    pub(super) fn knows_commits(&self) -> bool {
        let decides = if self.is_chain() {
            self.membership().is_some_and(|membership| membership.last() == self.node)
        } else {
            self.is_first()
        };
        decides && self.entered_at.is_some() && self.noop_index().is_some_and(|noop| noop <= self.commit)
    }

    /// What it says of its epoch when it may not order in it.
    pub(super) fn report_restart(&mut self) {
        if self.is_first() && !self.orders() {
            let (epoch, last): (Term, EntryId) = (self.epoch(), self.log.last());
            self.report(Report::FirstRestarted { epoch, last });
        }
    }
}
