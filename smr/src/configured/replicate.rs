//! Sending the log on, and what the answers tell (§5.3).

use super::message::Body;
use super::{Configured, Pace, Progress};
use crate::entry::{EntryId, Index};
use crate::id::NodeId;

impl Configured {
    /// Whether it may send its log: it holds the no-op of its epoch, so its log is a beginning of the first's. A first
    /// that has restarted sends nothing.
    fn may_send(&self) -> bool {
        let has_begun = self.noop_index().is_some();
        has_begun && self.membership().is_some() && (self.orders() || !self.is_first())
    }

    /// Sends what is new to everyone who can take it.
    pub(super) fn replicate_to_all(&mut self) {
        if self.may_send() {
            let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
            nodes.into_iter().for_each(|node| self.replicate_to(node));
        }
    }

    /// Sends as much as a member may be sent.
    fn replicate_to(&mut self, to: NodeId) {
        if !self.may_send() || !self.reach(to) {
            return;
        }
        match self.peers[&to].pace {
            Pace::Probe { asked: true } | Pace::Snapshot { .. } => {}
            Pace::Probe { asked: false } => {
                self.progress(to).pace = Pace::Probe { asked: true };
                self.send_append(to);
            }
            Pace::Replicate => loop {
                let progress = &self.peers[&to];
                if progress.next_index > self.log.last().index || !progress.has_room(&self.settings) {
                    return;
                }
                if let Some(last) = self.send_append(to) {
                    self.progress(to).next_index = last.next();
                }
            },
        }
    }

    fn progress(&mut self, node: NodeId) -> &mut Progress {
        self.peers.get_mut(&node).unwrap_or_else(|| panic!("{node} is sent nothing"))
    }

    /// Sends the batch that starts at the member's next index, and returns where it ends.
    fn send_append(&mut self, to: NodeId) -> Option<Index> {
        let next = self.peers[&to].next_index;
        let (entries, bytes) = self.log.batch(next, self.settings.append_entries_max, self.settings.append_bytes_max);
        let last = entries.last().map(|entry| entry.id.index);
        if let Some(last) = last {
            self.progress(to).inflight.add(last, bytes);
        }
        let (previous, commit) = (self.previous(next), self.commit);
        self.send(to, Body::Append { previous, entries, commit });
        last
    }

    /// Asks, without entries, whether the member's log reaches to its next index.
    fn send_probe(&mut self, to: NodeId) {
        if self.reach(to) {
            let (previous, commit) = (self.previous(self.peers[&to].next_index), self.commit);
            self.send(to, Body::Append { previous, entries: Vec::new(), commit });
        }
    }

    fn previous(&self, next: Index) -> EntryId {
        let index = next.previous();
        self.log.id_at(index).unwrap_or_else(|| {
            panic!("entry {index} should be sent, but the log is from {} to {}", self.log.start(), self.log.last())
        })
    }

    /// Whether the log reaches back to a member's next index. If not, a snapshot has to come first, once the member has
    /// answered in this epoch: then it takes nothing any more from a lower one, which the snapshot could contradict.
    fn reach(&mut self, to: NodeId) -> bool {
        let (start, is_told) = (self.log.start().index, self.told.contains(&to));
        let progress = self.progress(to);
        if matches!(progress.pace, Pace::Snapshot { .. }) {
            return false;
        }
        if progress.next_index > start {
            return true;
        }
        if !is_told {
            progress.probe_from(start.next());
            return true;
        }
        progress.want_snapshot();
        self.out.effects.snapshots_wanted.push(to);
        false
    }

    /// Says to those that take its log that it is there, and asks again what was not answered.
    pub(super) fn send_heartbeats(&mut self) {
        self.report_restart();
        if self.is_first() && !self.orders() {
            return;
        }
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for to in nodes {
            let commit = self.commit.min(self.peers[&to].match_index);
            let commit = self.log.id_at(commit).unwrap_or(EntryId::ZERO);
            let is_next = self.is_chain() && self.membership().and_then(|known| known.after(self.node)) == Some(to);
            let durable = if is_next { self.durable_up_to_here() } else { Index::ZERO };
            let through = self.log.id_at(durable).unwrap_or(EntryId::ZERO);
            self.send(to, Body::Heartbeat { commit, through });
            if self.may_send() {
                self.remind(to);
            }
        }
    }

    fn remind(&mut self, to: NodeId) {
        let stuck = self.progress(to).is_stuck();
        match self.peers[&to].pace {
            Pace::Probe { asked: false } => self.replicate_to(to),
            // Without entries: a slow disk at the other end must not be buried in copies.
            Pace::Probe { asked: true } => self.send_probe(to),
            // Appends or their acknowledgements may be lost. One question at the end of the pipeline finds out.
            Pace::Replicate if stuck => self.send_probe(to),
            Pace::Replicate | Pace::Snapshot { asked: true } => {}
            Pace::Snapshot { asked: false } => {
                // It may have the snapshot, from before a crash, and could not say so.
                let previous = self.log.snapshot();
                let commit = self.commit;
                self.send(to, Body::Append { previous, entries: Vec::new(), commit });
                self.progress(to).want_snapshot();
                self.out.effects.snapshots_wanted.push(to);
            }
        }
    }

    /// A member's durable log equals ours up to `last`, or it knows `last` to be committed.
    pub(super) fn receive_accepted(&mut self, from: NodeId, last: EntryId) {
        if !self.peers.contains_key(&from) {
            return;
        }
        let own = self.log.last();
        match self.log.id_at(last.index) {
            // In a chain this log may have lost in a restart what it had sent on. It will get there again.
            None if last.index > own.index => return,
            Some(here) if here != last => {
                self.contradicted(from, format!("{from} has entry {last}, and the log that it is sent has {here}"));
                return;
            }
            _ => {}
        }
        let now = self.now;
        let log = &self.log;
        if let Some(progress) = self.peers.get_mut(&from) {
            progress.accept(last.index, log, now);
        }
        self.replicate_to(from);
    }

    /// A member has no entry `previous`; `hint` is the last one at which the logs may agree, as seen from there.
    pub(super) fn receive_rejected(&mut self, from: NodeId, previous: Index, hint: EntryId) {
        let Some(progress) = self.peers.get(&from) else { return };
        let is_current = match progress.pace {
            Pace::Probe { .. } => previous == progress.next_index.previous(),
            Pace::Replicate => previous < progress.next_index,
            Pace::Snapshot { .. } => false,
        };
        // An answer to a question that was since answered otherwise.
        if !is_current || previous <= progress.match_index {
            return;
        }
        let agreed = self.log.back_up(hint.index, hint.term);
        let start = self.log.start().index;
        let progress = self.progress(from);
        match agreed {
            Some(agreed) => progress.probe_from(agreed.index.next()),
            None if progress.match_index >= start => progress.probe_from(Index::ZERO),
            None => {
                progress.want_snapshot();
                self.out.effects.snapshots_wanted.push(from);
                return;
            }
        }
        self.replicate_to(from);
    }

    /// A member answered a heartbeat.
    pub(super) fn receive_heartbeat_ack(&mut self, from: NodeId, commit: EntryId) {
        let is_next = self.is_chain() && self.membership().and_then(|known| known.after(self.node)) == Some(from);
        if is_next {
            self.receive_commit(from, commit);
        }
    }
}
