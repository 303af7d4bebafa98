//! What a leader sends to each follower, and what the answers tell it (§5.3).

use super::message::{Body, Lease, Message};
use super::progress::{Pace, Progress, SnapshotTransfer};
use super::settings::Settings;
use super::{Leader, Raft, Role};
use crate::core_kit::log::Log;
use crate::core_kit::outbox::Outbox;
use crate::entry::{EntryId, Index, Term};
use crate::id::NodeId;
use crate::protocol::Time;

/// The last entry that is committed and known to be in a member's log; nothing if our log starts above it.
pub(super) fn commit_for(progress: &Progress, log: &Log, commit: Index) -> EntryId {
    log.id_at(commit.min(progress.match_index)).unwrap_or(EntryId::ZERO)
}

/// What sending needs to see of the leader besides the member.
struct View<'a> {
    term: Term,
    commit: Index,
    log: &'a Log,
    settings: &'a Settings,
    now: Time,
}

impl View<'_> {
    /// Sends as much as the member may be sent.
    fn send_appends(&self, to: NodeId, progress: &mut Progress, out: &mut Outbox<Message>) {
        if !self.reach(to, progress, out) {
            return;
        }
        match progress.pace {
            Pace::Probe { asked: true } | Pace::Snapshot(_) => {}
            // The question carries what would follow: most often the logs agree, and a round trip is saved.
            Pace::Probe { asked: false } => {
                progress.pace = Pace::Probe { asked: true };
                self.send_append(to, progress, out);
            }
            Pace::Replicate => {
                while progress.next_index <= self.log.last().index && progress.has_room(self.settings) {
                    if let Some(last) = self.send_append(to, progress, out) {
                        progress.next_index = last.next();
                    }
                }
            }
        }
    }

    /// Sends the batch that starts at the member's next index, and returns where it ends.
    fn send_append(&self, to: NodeId, progress: &mut Progress, out: &mut Outbox<Message>) -> Option<Index> {
        let (entries, bytes) =
            self.log.batch(progress.next_index, self.settings.append_entries_max, self.settings.append_bytes_max);
        let last = entries.last().map(|entry| entry.id.index);
        let previous = self.previous(progress);
        if let Some(last) = last {
            progress.inflight.add(last, bytes);
        }
        progress.commit_sent = progress.commit_sent.max(self.commit.min(last.unwrap_or(previous.index)));
        out.send(to, self.term, Body::Append { previous, entries, commit: self.commit });
        last
    }

    /// Asks, without entries, whether the member's log reaches to its next index.
    fn send_probe(&self, to: NodeId, progress: &mut Progress, out: &mut Outbox<Message>) {
        if self.reach(to, progress, out) {
            let previous = self.previous(progress);
            out.send(to, self.term, Body::Append { previous, entries: Vec::new(), commit: self.commit });
        }
    }

    fn previous(&self, progress: &Progress) -> EntryId {
        let index = progress.next_index.previous();
        self.log.id_at(index).unwrap_or_else(|| {
            panic!("entry {index} should be sent to, but the log is from {} to {}", self.log.start(), self.log.last())
        })
    }

    /// Whether the log reaches back to the member's next index. If not, a snapshot has to come first.
    ///
    /// Only for a member that has answered in this term. Its term is then durably at least ours, so it takes no entry
    /// any more from a deposed leader, whose log the snapshot could contradict. A silent one is asked further up.
    fn reach(&self, to: NodeId, progress: &mut Progress, out: &mut Outbox<Message>) -> bool {
        if matches!(progress.pace, Pace::Snapshot(_)) {
            return false;
        }
        if progress.next_index > self.log.start().index {
            return true;
        }
        if !progress.has_answered() {
            progress.probe_from(self.log.start().index.next());
            return true;
        }
        progress.want_snapshot(self.log.snapshot().index);
        out.effects.snapshots_wanted.push(to);
        false
    }

    /// What goes out with each heartbeat besides it: questions that were not answered are asked again.
    fn remind(&self, to: NodeId, progress: &mut Progress, out: &mut Outbox<Message>) {
        let oldest = progress.inflight.oldest();
        let stuck = oldest.is_some() && oldest == progress.overdue;
        progress.overdue = oldest;
        match &progress.pace {
            Pace::Probe { asked: false } => self.send_appends(to, progress, out),
            // Without entries: a slow disk at the other end must not be buried in copies.
            Pace::Probe { asked: true } => self.send_probe(to, progress, out),
            // Appends or their acknowledgements may be lost. One question at the end of the pipeline finds out.
            Pace::Replicate if stuck => self.send_probe(to, progress, out),
            Pace::Replicate => {}
            Pace::Snapshot(SnapshotTransfer::Wanted { .. }) => {}
            Pace::Snapshot(SnapshotTransfer::Failed) => {
                let alive = self.now.since_us(progress.reached_at()) < self.settings.election_timeout_us;
                if alive {
                    // It may have refused the snapshot because it has it, from before a crash, and could not say so.
                    let previous = self.log.snapshot();
                    out.send(to, self.term, Body::Append { previous, entries: Vec::new(), commit: self.commit });
                    progress.want_snapshot(previous.index);
                    out.effects.snapshots_wanted.push(to);
                }
            }
            Pace::Snapshot(SnapshotTransfer::Sent { last, at }) => {
                if self.now.since_us(*at) >= self.settings.snapshot_install_us {
                    progress.pace = Pace::Snapshot(SnapshotTransfer::Failed);
                } else if let Some(previous) = self.log.id_at(last.index) {
                    out.send(to, self.term, Body::Append { previous, entries: Vec::new(), commit: self.commit });
                }
            }
        }
    }
}

impl Raft {
    /// The leader, what it sees, and where its messages go; `None` for everyone else.
    fn leading(&mut self) -> Option<(&mut Leader, View<'_>, &mut Outbox<Message>)> {
        let Role::Leader(leader) = &mut self.role else { return None };
        let view = View {
            term: self.hard_state.term,
            commit: self.commit,
            log: &self.log,
            settings: &self.settings,
            now: self.now,
        };
        Some((leader, view, &mut self.out))
    }

    /// Sends new entries to everyone who can take them.
    pub(super) fn replicate_to_all(&mut self) {
        let Some((leader, view, out)) = self.leading() else { return };
        for (node, progress) in &mut leader.peers {
            view.send_appends(*node, progress, out);
        }
    }

    pub(super) fn replicate_to(&mut self, node: NodeId) {
        let Some((leader, view, out)) = self.leading() else { return };
        if let Some(progress) = leader.peers.get_mut(&node) {
            view.send_appends(node, progress, out);
        }
    }

    /// Asks a member that lacks entries, as far as is known, how far it is.
    pub(super) fn probe(&mut self, node: NodeId) {
        let Some((leader, view, out)) = self.leading() else { return };
        if let Some(progress) = leader.peers.get_mut(&node)
            && progress.match_index < view.log.last().index
        {
            view.send_probe(node, progress, out);
        }
    }

    /// Tells everyone that this node leads.
    pub(super) fn send_heartbeats(&mut self) {
        let (lease, held_by_all) = (self.lease_to_ask(), self.held_by_all());
        let Some((leader, view, out)) = self.leading() else { return };
        let round = leader.reads.round;
        for (node, progress) in &mut leader.peers {
            let commit = commit_for(progress, view.log, view.commit);
            progress.commit_sent = progress.commit_sent.max(commit.index);
            out.send(
                *node,
                view.term,
                Body::Heartbeat { round, commit, held_by_all: held_by_all.min(commit.index), lease },
            );
            view.remind(*node, progress, out);
        }
    }

    /// Tells the commit index to followers that have everything and would otherwise hear of it with the next heartbeat.
    /// The others hear of it with their next append.
    pub(super) fn announce_commit(&mut self) {
        let Some((leader, view, out)) = self.leading() else { return };
        for (node, progress) in &mut leader.peers {
            if progress.commit_sent >= view.commit || !progress.inflight.is_empty() || progress.pace != Pace::Replicate
            {
                continue;
            }
            let last = commit_for(progress, view.log, view.commit);
            if last.index > progress.commit_sent {
                progress.commit_sent = last.index;
                out.send(*node, view.term, Body::Commit { last });
            }
        }
    }

    /// A member's durable log equals ours up to `last`, or it knows `last` to be committed.
    pub(super) fn receive_append_accepted(&mut self, from: NodeId, last: EntryId) {
        let own = self.log.last();
        let here = self.log.id_at(last.index);
        if last.index <= own.index && here.is_none_or(|id| id == last) {
            self.member_has(from, last);
            return;
        }
        let has = here.unwrap_or(own);
        if last.term == self.hard_state.term {
            // Entries of this term come from here and nowhere else.
            self.violation(from, format!("accepted {last}, but the leader's log has {has}"));
        } else {
            self.contradicted(
                from,
                format!("{from} knows entry {last} to be committed, and its leader's log has {has}"),
            );
        }
    }

    /// A member's log begins with a snapshot now. Which was of this or an earlier leader; so it need not be in our log,
    /// if we should be deposed without knowing it.
    pub(super) fn receive_snapshot_installed(&mut self, from: NodeId, last: EntryId) {
        if self.log.has(last) || last.index < self.log.start().index {
            self.member_has(from, last);
        }
    }

    /// A member that heals, in the start with this name, has `last`, durably. It is not back, however level, before it
    /// has healed.
    pub(super) fn member_stored(&mut self, from: NodeId, start: u64, last: EntryId) {
        let now = self.now;
        let Some((leader, view, _)) = self.leading() else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        if progress.hear_healing(start, now) {
            progress.accept_in(last.index, view.log, false, now, view.settings);
            self.replicate_to(from);
        }
    }

    fn member_has(&mut self, from: NodeId, last: EntryId) {
        let (now, is_voter) = (self.now, self.configurations.current().is_voter(from));
        let Some((leader, view, _)) = self.leading() else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        progress.hear(now, view.settings.election_timeout_us);
        progress.accept_in(last.index, view.log, is_voter, now, view.settings);
        self.commit_replicated();
        self.replicate_to(from);
        self.continue_transfer();
    }

    /// A member has no entry `previous`; `hint` is the last one at which the logs may agree, as seen from there.
    pub(super) fn receive_append_rejected(&mut self, from: NodeId, previous: Index, hint: EntryId) {
        let now = self.now;
        let Some((leader, view, out)) = self.leading() else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        // Also a member that heals says so, and then it is no sign of life that counts.
        if progress.healing.is_none() {
            progress.hear(now, view.settings.election_timeout_us);
        }
        let current = match progress.pace {
            Pace::Probe { .. } => previous == progress.next_index.previous(),
            Pace::Replicate => previous < progress.next_index,
            // While the snapshot is being put in place, the log after it is of course missing.
            Pace::Snapshot(_) => false,
        };
        // An answer to a question that was since answered otherwise.
        if !current || previous <= progress.match_index {
            return;
        }
        match view.log.back_up(hint.index, hint.term) {
            // Strictly below the entry that was rejected, so this ends; a whole term at a time, so it ends soon (L10).
            Some(agreed) => progress.probe_from(agreed.index.next()),
            None if progress.match_index >= view.log.start().index => progress.probe_from(Index::ZERO),
            None => {
                progress.want_snapshot(view.log.snapshot().index);
                out.effects.snapshots_wanted.push(from);
                return;
            }
        }
        view.send_appends(from, progress, out);
    }

    /// A member answered a heartbeat. What is wrong with that, if anything is.
    pub(super) fn receive_heartbeat_ack(&mut self, from: NodeId, round: u64, lease: Option<Lease>) -> Option<String> {
        let now = self.now;
        if let Some(violation) = lease.and_then(|lease| self.receive_lease(from, lease)) {
            return Some(violation);
        }
        let (leader, view, _) = self.leading()?;
        if round > leader.reads.round {
            return Some(format!("answered round {round}, the latest is {}", leader.reads.round));
        }
        let progress = leader.peers.get_mut(&from)?;
        let has_healed = progress.healing.is_some();
        progress.hear(now, view.settings.election_timeout_us);
        if round > progress.confirmed_round {
            progress.confirmed_round = round;
            self.confirm_round();
        }
        if has_healed {
            // What it has counts from now on.
            self.commit_replicated();
            self.replicate_to(from);
            self.continue_transfer();
        }
        None
    }
}
