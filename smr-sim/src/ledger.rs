//! What an all-knowing observer writes down: which entries each node's log holds, which of them are on its device, what
//! it has saved of term and vote, and what the group has committed.
//!
//! Properties judge by these books, not by what nodes believe. The books follow from the writes that cores ask for and
//! that devices complete; [`Ledger::compare`] holds them against what a start really finds on a disk.
//!
//! # Chains
//! Each entry has a running hash over itself and everything below it. Two logs with the same chain at an index are the
//! same up to there, whatever their terms say. So all comparisons cost the same, however long the logs are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use smr::codec;
use smr::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, Term};
use smr::id::NodeId;
use smr::internals::protocol::{LogChange, Recovered, WriteId};

use crate::observation::{Observation, Spoiled};

/// A running hash over an entry and all below it.
pub type Chain = u64;

/// The chain of an entry after one with the chain `before`.
pub fn chain(before: Chain, entry: &Entry) -> Chain {
    let (index, term) = (entry.id.index.0.to_le_bytes(), entry.id.term.0.to_le_bytes());
    let encoded;
    let (kind, payload): (u8, &[u8]) = match &entry.payload {
        Payload::Noop => (0, &[]),
        Payload::Command(bytes) => (1, bytes),
        Payload::Configuration(configuration) => {
            encoded = codec::encode(configuration);
            (2, &encoded)
        }
    };
    codec::checksum(&[&before.to_le_bytes(), &index, &term, &[kind], payload])
}

/// An entry of a log, as the books know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its index and its term.
    pub id: EntryId,
    /// The hash of all entries up to it: equal for equal logs.
    pub chain: Chain,
    /// The one before it in that log.
    pub previous: EntryId,
}

/// A log as the observer knows it: ids, hashes and configurations, without commands.
#[derive(Clone, Debug, Default)]
pub struct BookLog {
    start: EntryId,
    start_chain: Chain,
    entries: VecDeque<(Term, Chain)>,
    /// The configurations that its entries, or its snapshot, carry; the last one is in force.
    configurations: VecDeque<(Index, Arc<Configuration>)>,
}

impl BookLog {
    fn behind(start: EntryId, start_chain: Chain, carrier: Index, configuration: &Configuration) -> BookLog {
        let configurations = [(carrier, Arc::new(configuration.clone()))].into();
        BookLog { start, start_chain, entries: VecDeque::new(), configurations }
    }

    /// The entry that it starts after.
    pub fn start(&self) -> EntryId {
        self.start
    }

    /// Its last entry.
    pub fn last(&self) -> EntryId {
        match self.entries.back() {
            Some((term, _)) => EntryId { index: self.last_index(), term: *term },
            None => self.start,
        }
    }

    fn last_index(&self) -> Index {
        Index(self.start.index.0 + self.entries.len() as u64)
    }

    fn last_chain(&self) -> Chain {
        self.entries.back().map_or(self.start_chain, |(_, chain)| *chain)
    }

    /// The entry and its chain at an index from the start's to the last one's.
    pub fn at(&self, index: Index) -> Option<(EntryId, Chain)> {
        if index == self.start.index {
            return Some((self.start, self.start_chain));
        }
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        let (term, chain) = *self.entries.get(usize::try_from(offset).ok()?)?;
        Some((EntryId { index, term }, chain))
    }

    /// Whether it has the entry with this chain. What lies under its start counts: only committed entries get there.
    pub fn covers(&self, index: Index, chain: Chain) -> bool {
        index < self.start.index || self.at(index).is_some_and(|(_, found)| found == chain)
    }

    /// The configuration in force, with its carrier.
    pub fn configuration(&self) -> Option<(Index, &Configuration)> {
        self.configurations.back().map(|(carrier, configuration)| (*carrier, configuration.as_ref()))
    }

    /// All configurations from its start on, oldest first, with their carriers.
    pub fn configurations(&self) -> impl DoubleEndedIterator<Item = (Index, &Configuration)> {
        self.configurations.iter().map(|(carrier, configuration)| (*carrier, configuration.as_ref()))
    }

    fn push(&mut self, entry: &Entry, chain: Chain) {
        self.entries.push_back((entry.id.term, chain));
        if let Payload::Configuration(configuration) = &entry.payload {
            self.configurations.push_back((entry.id.index, Arc::new(configuration.clone())));
        }
    }

    fn remove_from(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.start.index.0 + 1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        while self.configurations.len() > 1 && self.configurations.back().is_some_and(|(carrier, _)| *carrier >= index)
        {
            self.configurations.pop_back();
        }
    }

    fn remove_through(&mut self, index: Index) {
        let Some((id, chain)) = self.at(index) else { return };
        self.entries.drain(..(index.0 - self.start.index.0) as usize);
        (self.start, self.start_chain) = (id, chain);
        while self.configurations.get(1).is_some_and(|(carrier, _)| *carrier <= index) {
            self.configurations.pop_front();
        }
    }
}

/// A change of a log, with the chains already known.
#[derive(Clone, Debug)]
enum Booked {
    RemoveFrom(Index),
    Append(Vec<(Entry, Chain)>),
    RemoveThrough(Index),
    Install(BookLog),
}

impl Booked {
    fn apply(&self, log: &mut BookLog) {
        match self {
            Booked::RemoveFrom(index) => log.remove_from(*index),
            Booked::Append(entries) => entries.iter().for_each(|(entry, chain)| log.push(entry, *chain)),
            Booked::RemoveThrough(index) => log.remove_through(*index),
            Booked::Install(snapshot) => {
                let end = snapshot.start;
                if log.at(end.index).is_some_and(|(id, _)| id == end) {
                    log.remove_through(end.index);
                } else {
                    *log = snapshot.clone();
                }
            }
        }
    }
}

/// What is written down about one node.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its log as the core has it; empty while there is no process.
    pub log: BookLog,
    /// Its log as far as a completed sync covers it.
    pub durable: BookLog,
    /// Term and vote as far as a completed sync covers them.
    pub hard_state: HardState,
    /// The newest snapshot that it has written or adopted durably.
    pub snapshot: EntryId,
    /// Whether a process of it serves.
    pub serves: bool,
    /// Writes that were asked for and are not durable.
    pending: VecDeque<(WriteId, Option<HardState>, Vec<Booked>)>,
    /// Durable logs that an experiment took away from it. Whoever acknowledged them said the truth then.
    former: Vec<BookLog>,
}

impl Page {
    /// The highest term that it can be held to.
    pub fn durable_term(&self) -> Term {
        // Initialized nodes are in term 1 at least, and an entry's term is as good as a hard state of it.
        self.hard_state.term.max(self.durable.last().term).max(Term(1))
    }

    /// Whether this entry has survived a sync there, now or before an experiment took it away.
    pub fn has_synced(&self, index: Index, chain: Chain) -> bool {
        self.durable.covers(index, chain) || self.former.iter().any(|log| log.covers(index, chain))
    }
}

/// A page for each node, and what the group has committed.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pages: BTreeMap<NodeId, Page>,
    /// What the first node that applied each index applied there; index 1 is first.
    committed: Vec<(EntryId, Chain)>,
    /// The entries that the latest observation put into a log.
    appended: Vec<Line>,
    /// The first entries that the latest observation removed from a log's end, before it put others there.
    removed: Vec<(EntryId, Chain)>,
    /// Whether the latest observation committed something new.
    is_new: bool,
}

impl Ledger {
    /// What is written down about a node.
    pub fn page(&self, node: NodeId) -> Option<&Page> {
        self.pages.get(&node)
    }

    /// The last entry that anyone applied.
    pub fn committed(&self) -> EntryId {
        self.committed.last().map_or(EntryId::ZERO, |(id, _)| *id)
    }

    /// What was committed at an index, with its chain.
    pub fn committed_at(&self, index: Index) -> Option<(EntryId, Chain)> {
        match index.0.checked_sub(1) {
            None => Some((EntryId::ZERO, 0)),
            Some(offset) => self.committed.get(usize::try_from(offset).ok()?).copied(),
        }
    }

    /// The entries that the latest observation put into a node's log.
    pub fn appended(&self) -> &[Line] {
        &self.appended
    }

    /// The first entry of each piece that the latest observation removed from the end of a node's log.
    pub fn removed(&self) -> &[(EntryId, Chain)] {
        &self.removed
    }

    /// All nodes that ever were.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.pages.keys().copied()
    }

    /// Whether the latest observation applied an entry that no one had applied before.
    pub fn is_newly_committed(&self) -> bool {
        self.is_new
    }

    /// Writes down what happened. Comes before the properties hear of it.
    pub fn note(&mut self, observation: &Observation<'_>) {
        self.appended.clear();
        self.removed.clear();
        self.is_new = false;
        match observation {
            Observation::Started { node, recovered, forgot } => self.start(*node, recovered, *forgot),
            Observation::Ended { node, .. } => {
                let page = self.pages.entry(*node).or_default();
                (page.log, page.serves) = (BookLog::default(), false);
            }
            Observation::DirectorySpoiled { node, how } => {
                let page = self.pages.entry(*node).or_default();
                page.former.push(std::mem::take(&mut page.durable));
                page.snapshot = EntryId::ZERO;
                // Whoever is still itself after damage is held to it.
                if *how != Spoiled::Damaged {
                    page.hard_state = HardState::default();
                }
                page.pending.clear();
            }
            Observation::WriteIssued { node, write } => {
                let changes = write.log().iter().map(|change| self.book(*node, change)).collect();
                let page = self.pages.entry(*node).or_default();
                page.pending.push_back((write.id(), write.hard_state(), changes));
            }
            Observation::WriteDurable { node, write } => {
                let page = self.pages.entry(*node).or_default();
                while let Some((_, hard_state, changes)) = page.pending.pop_front_if(|(id, _, _)| *id <= write.id()) {
                    page.hard_state = hard_state.unwrap_or(page.hard_state);
                    changes.iter().for_each(|change| change.apply(&mut page.durable));
                    page.snapshot =
                        page.snapshot.max(changes.iter().fold(EntryId::ZERO, |most, change| match change {
                            Booked::Install(snapshot) => most.max(snapshot.start),
                            _ => most,
                        }));
                }
            }
            Observation::SnapshotTaken { node, last, checksum } if *checksum != 0 => {
                let page = self.pages.entry(*node).or_default();
                page.snapshot = page.snapshot.max(*last);
            }
            Observation::Committed { entry, .. } => {
                let next = self.committed().index.next();
                if entry.id.index == next {
                    let before = self.committed.last().map_or(0, |(_, chain)| *chain);
                    self.committed.push((entry.id, chain(before, entry)));
                    self.is_new = true;
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, node: NodeId, recovered: &Recovered, forgot: bool) {
        let log = self.read(recovered);
        let page = self.pages.entry(node).or_default();
        if forgot {
            page.former.push(std::mem::take(&mut page.durable));
        }
        page.pending.clear();
        page.hard_state = recovered.hard_state();
        page.snapshot = recovered.snapshot.last;
        page.serves = true;
        page.durable = log.clone();
        page.log = log;
    }

    /// What was found on a disk, as a log in the books.
    fn read(&self, recovered: &Recovered) -> BookLog {
        let snapshot = &recovered.snapshot;
        let chain_there = self.committed_at(snapshot.last.index).map_or(0, |(_, chain)| chain);
        let mut log =
            BookLog::behind(snapshot.last, chain_there, snapshot.configuration_index, &snapshot.configuration);
        for entry in recovered.entries.iter().filter(|entry| entry.id.index > snapshot.last.index) {
            let chain = chain(log.last_chain(), entry);
            log.push(entry, chain);
        }
        log
    }

    fn book(&mut self, node: NodeId, change: &LogChange) -> Booked {
        let booked = match change {
            LogChange::RemoveFrom(index) => {
                self.removed.extend(self.pages.get(&node).and_then(|page| page.log.at(*index)));
                Booked::RemoveFrom(*index)
            }
            LogChange::RemoveThrough(index) => Booked::RemoveThrough(*index),
            LogChange::Install(meta) => {
                let chain = self.committed_at(meta.last.index).map_or(0, |(_, chain)| chain);
                Booked::Install(BookLog::behind(meta.last, chain, meta.configuration_index, &meta.configuration))
            }
            LogChange::Append(entries) => {
                let log = &self.pages.entry(node).or_default().log;
                let (mut before, mut previous) = (log.last_chain(), log.last());
                let mut booked = Vec::with_capacity(entries.len());
                for entry in entries {
                    before = chain(before, entry);
                    self.appended.push(Line { id: entry.id, chain: before, previous });
                    previous = entry.id;
                    booked.push((entry.clone(), before));
                }
                Booked::Append(booked)
            }
        };
        booked.apply(&mut self.pages.entry(node).or_default().log);
        booked
    }

    /// Holds the books against the hard state that a start found: it never forgets one, unless an experiment set it
    /// back.
    ///
    /// # Errors
    /// What is missing.
    pub fn compare_hard_state(&self, node: NodeId, recovered: &Recovered) -> Result<(), String> {
        let Some(page) = self.pages.get(&node) else { return Ok(()) };
        let (saved, mut found) = (page.hard_state, recovered.hard_state());
        if found.term == Term::ZERO {
            // A node that was just taken in has no hard state yet, and begins in term 1.
            found.term = Term(1);
        }
        if found.term < saved.term
            || found.term == saved.term && saved.vote.is_some() && found.vote != saved.vote
            || found.lease_us < saved.lease_us
        {
            return Err(format!("{node} had {saved:?} on its device, and finds {found:?}"));
        }
        Ok(())
    }

    /// Holds the books against what a start found on the node's disk: all that a sync has confirmed must be there,
    /// except what a write under way was about to replace.
    ///
    /// # Errors
    /// What is missing.
    pub fn compare(&self, node: NodeId, recovered: &Recovered) -> Result<(), String> {
        self.compare_hard_state(node, recovered)?;
        let Some(page) = self.pages.get(&node) else { return Ok(()) };
        if recovered.snapshot.last.index < page.snapshot.index {
            let (had, has) = (page.snapshot, recovered.snapshot.last);
            return Err(format!("{node} had a snapshot at {had} on its device, and finds one at {has}"));
        }
        let changes = || page.pending.iter().flat_map(|(_, _, changes)| changes);
        if changes().any(|change| matches!(change, Booked::Install(_))) {
            return Ok(());
        }
        let cut = changes().filter_map(|change| match change {
            Booked::RemoveFrom(index) => Some(index.previous()),
            _ => None,
        });
        let sure = cut.min().unwrap_or(Index(u64::MAX)).min(page.durable.last().index);
        let log = self.read(recovered);
        match page.durable.at(sure) {
            Some((id, chain)) if !log.covers(sure, chain) => {
                let has = log.last();
                Err(format!("{node} had its log up to {id} on its device, and finds another one, up to {has}"))
            }
            _ => Ok(()),
        }
    }
}
