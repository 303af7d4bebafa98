//! Recognises rare situations in what happens.

use std::collections::{BTreeMap, BTreeSet};

use smr::entry::{Configuration, Entry, EntryId, Index, Payload, Term};
use smr::id::{ClientId, NodeId};
use smr::internals::protocol::LogChange;
use smr::internals::raft::message::Body;
use smr::internals::session::SessionCommand;
use smr::replica::{Outcome, Request};
use smr::status::Role;

use crate::observation::{End, Observation, Spoiled};
use crate::rare::{Rare, RareCounts};

/// What is kept of a node to recognise something later.
#[derive(Default)]
struct Known {
    leads: Option<Term>,
    campaigned: Option<Term>,
    committed: Index,
    last: EntryId,
    /// Terms of the latest entries, as far back as they are needed.
    terms: BTreeMap<Index, Term>,
    /// Configurations in the log.
    configurations: BTreeMap<Index, Configuration>,
}

impl Known {
    fn append(&mut self, entry: &Entry) {
        self.last = entry.id;
        self.terms.insert(entry.id.index, entry.id.term);
        if self.terms.len() > TERMS_MAX {
            self.terms.pop_first();
        }
        if let Payload::Configuration(configuration) = &entry.payload {
            self.configurations.insert(entry.id.index, configuration.clone());
        }
    }

    fn is_joint(&self) -> bool {
        self.configurations.values().next_back().is_some_and(Configuration::is_joint)
    }
}

/// Terms that are remembered of a log's end.
const TERMS_MAX: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(super) struct RareWatch {
    nodes: BTreeMap<NodeId, Known>,
    leaders: usize,
    /// Requests that took effect, and how far they were looked at.
    executed: BTreeSet<(ClientId, u64)>,
    looked_at: Index,
    /// Copies of such requests that wait for their answer.
    copies: BTreeSet<u64>,
}

impl RareWatch {
    /// Whether this node led in this term until now.
    pub(super) fn leads(&self, node: NodeId, term: Term) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.leads == Some(term))
    }

    pub(super) fn on(&mut self, observation: &Observation<'_>, rare: &mut RareCounts) {
        match observation {
            Observation::Started { node, recovered, .. } => {
                let mut known = Known { last: recovered.snapshot.last, ..Known::default() };
                known.committed = recovered.snapshot.last.index;
                recovered.entries.iter().for_each(|entry| known.append(entry));
                self.nodes.insert(*node, known);
            }
            Observation::RoleChanged { node, role, term, .. } => self.role_changed(*node, *role, *term, rare),
            Observation::Ended { node, end } => {
                let known = self.nodes.remove(node);
                if known.is_some_and(|known| known.leads.is_some()) {
                    self.leaders -= 1;
                }
                if let End::DiskError(_) = end {
                    rare.saw(Rare::DiskErrorStop);
                }
            }
            Observation::DirectorySpoiled { how: Spoiled::Emptied, .. } => rare.saw(Rare::DirectoryEmptied),
            Observation::Forgot { .. } => rare.saw(Rare::SetBackFound),
            Observation::Sent { from, message, .. } => self.sent(*from, message.term, &message.body, rare),
            Observation::WriteIssued { node, write } => {
                let known = self.nodes.entry(*node).or_default();
                write.log().iter().for_each(|change| known.change(change, rare));
            }
            Observation::Committed { node, entry } => self.committed(*node, entry, rare),
            Observation::Applied { entry, took_effect, .. } => self.applied(entry, *took_effect, rare),
            Observation::SnapshotTaken { .. } => rare.saw(Rare::SnapshotTaken),
            Observation::SnapshotInstalled { node, meta, accepted } => {
                rare.saw(if *accepted { Rare::SnapshotInstalled } else { Rare::SnapshotDiscarded });
                if *accepted {
                    self.nodes.entry(*node).or_default().committed = meta.last.index;
                }
            }
            Observation::SnapshotSent { last: None, .. } => rare.saw(Rare::TransferBroken),
            Observation::Asked { tag, request: Request::Write { client, number, .. }, .. }
                if self.executed.contains(&(*client, *number)) =>
            {
                self.copies.insert(*tag);
            }
            Observation::Answered { tag, outcome, .. } => match outcome {
                Outcome::Unknown => rare.saw(Rare::WriteUnknown),
                Outcome::Answer(_) if self.copies.remove(tag) => rare.saw(Rare::DuplicateAnswered),
                _ => {}
            },
            _ => {}
        }
    }

    fn role_changed(&mut self, node: NodeId, role: Role, term: Term, rare: &mut RareCounts) {
        let known = self.nodes.entry(node).or_default();
        let led = known.leads.is_some();
        known.leads = (role == Role::Leader).then_some(term);
        match (led, known.leads.is_some()) {
            (false, true) => {
                known.campaigned = None;
                self.leaders += 1;
                if self.leaders > 1 {
                    rare.saw(Rare::TwoLeaders);
                }
                if known.configurations.keys().next_back().is_some_and(|last| *last > known.committed) {
                    rare.saw(Rare::InheritedChange);
                }
                if known.is_joint() {
                    rare.saw(Rare::TermInJointPhase);
                }
            }
            (true, false) => {
                self.leaders -= 1;
                if known.configurations.values().next_back().is_some_and(|last| !last.is_voter(node)) {
                    rare.saw(Rare::LeaderLeft);
                }
            }
            _ => {}
        }
    }

    fn sent(&mut self, from: NodeId, term: Term, body: &Body, rare: &mut RareCounts) {
        match body {
            Body::PreVoteRefused { .. } => rare.saw(Rare::PreVoteRefused),
            Body::VoteRefused => rare.saw(Rare::VoteRefused),
            Body::StaleTerm => rare.saw(Rare::StaleTerm),
            Body::AppendRejected { .. } => rare.saw(Rare::AppendRejected),
            Body::Vote { .. } => {
                let before = self.nodes.entry(from).or_default().campaigned.replace(term);
                if before.is_some_and(|before| before < term) {
                    rare.saw(Rare::ElectionFailed);
                }
            }
            _ => {}
        }
    }

    fn committed(&mut self, node: NodeId, entry: &Entry, rare: &mut RareCounts) {
        let known = self.nodes.entry(node).or_default();
        known.committed = entry.id.index;
        if known.leads.is_some_and(|term| entry.id.term < term) {
            rare.saw(Rare::OldTermCommitted);
        }
    }

    fn applied(&mut self, entry: &Entry, took_effect: bool, rare: &mut RareCounts) {
        if entry.id.index <= self.looked_at {
            return;
        }
        self.looked_at = entry.id.index;
        if let Payload::Command(bytes) = &entry.payload
            && let Ok(SessionCommand::Write { client, number, .. }) = SessionCommand::decode(bytes)
        {
            if took_effect {
                self.executed.insert((client, number));
            } else if self.executed.contains(&(client, number)) {
                rare.saw(Rare::DuplicateInLog);
            }
        }
    }
}

impl Known {
    fn change(&mut self, change: &LogChange, rare: &mut RareCounts) {
        match change {
            LogChange::Append(entries) => entries.iter().for_each(|entry| self.append(entry)),
            LogChange::RemoveFrom(index) => {
                rare.saw(Rare::Truncation);
                if !self.configurations.split_off(index).is_empty() {
                    rare.saw(Rare::ConfigurationTruncated);
                }
                self.terms.split_off(index);
                let end = index.previous();
                let term = self.terms.get(&end).copied().unwrap_or_default();
                self.last = EntryId { index: end, term };
            }
            LogChange::RemoveThrough(_) => {}
            LogChange::Install(meta) => {
                let end = meta.last;
                if self.terms.get(&end.index) == Some(&end.term) {
                    if self.last.index > end.index {
                        rare.saw(Rare::SnapshotKeptSuffix);
                    }
                    return;
                }
                if self.last.index > Index::ZERO {
                    rare.saw(Rare::SnapshotOverLog);
                }
                self.last = end;
                self.terms.clear();
                self.configurations.clear();
                self.configurations.insert(meta.configuration_index, meta.configuration.clone());
            }
        }
    }
}
