//! Taking entries: from the first, from the one before in a chain, or from whoever feeds a newcomer (§5.3).

use super::Configured;
use super::message::Body;
use crate::entry::{Entry, EntryId, Index};
use crate::id::NodeId;
use crate::protocol::{Event, LogChange};

impl Configured {
    /// Entries, or a probe without any.
    pub(super) fn receive_append(&mut self, from: NodeId, previous: EntryId, entries: Vec<Entry>, commit: Index) {
        let proven = entries.last().map_or(previous, |last| last.id);
        // What is committed here is in the log of every later first, so the logs agree at least up to there.
        if previous.index > self.commit && !self.log.has(previous) {
            let hint = self.log.agreement_hint(previous, self.committed_id());
            return self.send(from, Body::Rejected { previous: previous.index, hint });
        }
        if let Some(what) = self.log.contradiction(&from, previous, &entries, self.commit) {
            return self.refuse_contradiction(from, what);
        }
        self.take_entries(entries);
        let committed = self.committed_id();
        let last = if proven.index > committed.index { proven } else { committed };
        // Only what this message proved: the log may go on with entries that the sender does not have (L8).
        self.advance_commit(commit.min(proven.index));
        let accepted = self.message(from, Body::Accepted { last });
        self.out.send_after_log(from, accepted);
        // In a chain they go on at once, before they are durable here: what counts is said separately.
        self.replicate_to_all();
    }

    /// What the sender has is not what is committed here, or it calls two entries by one name. This node keeps what it
    /// has, acknowledges nothing, and tells both the sender, whose directory may have been set back, and the service.
    fn refuse_contradiction(&mut self, from: NodeId, what: String) {
        self.violation(from, what);
        let commit = self.committed_id();
        self.send(from, Body::Contradicted { commit });
        if self.membership().is_some() {
            self.report_blocked_by(from);
        }
    }

    /// What this node sent contradicts what is committed elsewhere. If it lacks that, it was set back: whoever is first
    /// has all that was ever committed.
    pub(super) fn receive_contradicted(&mut self, from: NodeId, commit: EntryId) {
        let is_known = commit.index <= self.log.start().index || self.log.has(commit);
        if self.peers.contains_key(&from) && !is_known {
            let end = self.log.last();
            self.contradicted(
                from,
                format!("{from} knows entry {commit} to be committed, and this log ends with {end}"),
            );
        }
    }

    /// Adds what is new; removes what contradicts it.
    fn take_entries(&mut self, entries: Vec<Entry>) {
        let (differs_from, fresh) = self.log.news(entries, self.commit);
        if let Some(index) = differs_from {
            self.remove_from(index);
        }
        if fresh.is_empty() {
            return;
        }
        for entry in &fresh {
            self.log.append(entry.clone());
        }
        self.out.change(LogChange::Append(fresh));
    }

    fn remove_from(&mut self, index: Index) {
        assert!(
            index > self.commit,
            "removing entries from {index}, but {} is committed, in epoch {}",
            self.commit,
            self.epoch()
        );
        self.log.truncate_from(index);
        self.out.cap_durable(index);
        self.reads.cut(index.previous());
        // Whoever was sent what is gone now is asked again where the logs agree.
        for progress in self.peers.values_mut() {
            progress.match_index = progress.match_index.min(index.previous());
            progress.probe_from(index);
        }
        self.out.change(LogChange::RemoveFrom(index));
    }

    /// The sender is there, and says what is committed.
    pub(super) fn receive_heartbeat(&mut self, from: NodeId, commit: EntryId, through: EntryId) {
        self.receive_commit(from, commit);
        self.receive_durable(through);
        let commit =
            if self.is_chain() && self.log.last().term == self.epoch() { self.committed_id() } else { EntryId::ZERO };
        self.send(from, Body::HeartbeatAck { commit });
    }

    /// Who knows it says what is committed.
    pub(super) fn receive_commit_from(&mut self, from: NodeId, last: EntryId) {
        let may_say = match self.membership() {
            Some(membership) if self.is_chain() => membership.after(self.node) == Some(from),
            Some(membership) => membership.first() == from,
            None => self.takes_entries_from(from),
        };
        if may_say {
            self.receive_commit(from, last);
        } else {
            self.violation(from, format!("says that {last} is committed"));
        }
    }

    /// An entry is committed that this node acknowledged in this epoch. If it is missing, the disk has forgotten it.
    pub(super) fn receive_commit(&mut self, from: NodeId, last: EntryId) {
        if last.index <= self.commit {
            if let Some(own) = self.log.id_at(last.index).filter(|own| *own != last) {
                self.contradicted(from, format!("{from} has entry {last} where {own} is committed"));
            }
        } else if self.log.has(last) {
            self.advance_commit(last.index);
        } else {
            self.out.effects.events.push(Event::Forgot { entry: last });
        }
    }
}
