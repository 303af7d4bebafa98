//! The books of an all-knowing observer: what each node has on its device as far as it was told so, which entries were
//! ever seen under which name, what was committed, and what the service decided.
//!
//! They follow from what devices complete and what starts find there, not from what nodes believe.

use std::collections::BTreeMap;

use smr::codec;
use smr::entry::{Entry, EntryId, Index, Term};
use smr::epoch::EpochConfiguration;
use smr::id::NodeId;
use smr::internals::configured::{Configured, Message};
use smr::internals::protocol::{LogChange, StoredState, Write};

/// Something that happened.
pub enum Seen<'a> {
    /// A process begins with what is on its disk.
    Started {
        /// Whose.
        node: NodeId,
        /// Which of its processes.
        run: u64,
        /// The configuration that it acts in.
        configuration: Option<&'a EpochConfiguration>,
        /// The last entry of its snapshot.
        snapshot: EntryId,
        /// The entries after it.
        entries: &'a [Entry],
    },
    /// A write has reached a device.
    Durable {
        /// Whose.
        node: NodeId,
        /// What.
        write: &'a Write<Message>,
    },
    /// A message leaves.
    Sent {
        /// Whose.
        from: NodeId,
        /// For whom.
        to: NodeId,
        /// What.
        message: &'a Message,
    },
    /// A core has done something.
    Stepped {
        /// Whose.
        node: NodeId,
        /// Which of its processes.
        run: u64,
        /// As it is now.
        core: &'a Configured,
        /// Whether it may answer by a lease at this very moment, by its own clock.
        is_leased: bool,
    },
    /// A core has learned that this entry is committed, in this configuration.
    Committed {
        /// Whose.
        node: NodeId,
        /// What.
        entry: &'a Entry,
        /// In which it acts.
        configuration: &'a EpochConfiguration,
    },
    /// A state machine has gone on to this state.
    State {
        /// Whose.
        node: NodeId,
        /// The last command in it.
        last: Index,
        /// A hash of all commands up to there, their places and answers.
        digest: u64,
    },
    /// The service has decided on an epoch.
    Decided {
        /// The epoch.
        configuration: &'a EpochConfiguration,
        /// Members that have everything, by the service's record.
        complete: usize,
        /// Nodes that may answer reads by a lease now, by their own clocks.
        leased: &'a [NodeId],
    },
    /// A process has ended.
    Ended {
        /// Whose.
        node: NodeId,
    },
    /// A directory is gone for good.
    Emptied {
        /// Whose.
        node: NodeId,
    },
}

/// What a node has on its device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// The configuration that it acts in.
    pub configuration: Option<EpochConfiguration>,
    /// The last entry under its log.
    pub start: EntryId,
    /// Its log.
    pub entries: BTreeMap<Index, Term>,
}

impl Device {
    /// The epoch that it acts in.
    pub fn epoch(&self) -> Term {
        self.configuration.as_ref().map_or(Term::ZERO, |configuration| configuration.epoch)
    }

    /// Whether it has an entry; what is under its start, it has.
    pub fn holds(&self, id: EntryId) -> bool {
        id.index <= self.start.index || self.entries.get(&id.index) == Some(&id.term)
    }

    fn change(&mut self, change: &LogChange) {
        match change {
            LogChange::RemoveFrom(index) => drop(self.entries.split_off(index)),
            LogChange::Append(entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.id.index, entry.id.term)))
            }
            // What is removed lazily is under a snapshot.
            LogChange::RemoveThrough(_) => {}
            LogChange::Install(meta) => {
                if self.entries.get(&meta.last.index) == Some(&meta.last.term) {
                    self.entries = self.entries.split_off(&meta.last.index.next());
                } else {
                    self.entries.clear();
                }
                self.start = meta.last;
            }
        }
    }
}

/// An entry that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its name.
    pub id: EntryId,
    /// A hash of what it carries.
    pub payload: u64,
    /// The first epoch in which someone knew that it is committed.
    pub epoch: Term,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By node.
    pub devices: BTreeMap<NodeId, Device>,
    /// All that was ever committed.
    pub committed: BTreeMap<Index, Commit>,
    /// What the service decided last, if it has decided anything.
    pub decided: Option<EpochConfiguration>,
}

/// A hash of what an entry carries.
pub fn payload(entry: &Entry) -> u64 {
    codec::checksum(&[&codec::encode(&entry.payload)])
}

impl Ledger {
    /// Writes down what has happened, once all properties have judged it.
    pub fn note(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Started { node, configuration, snapshot, entries, .. } => {
                let entries = entries.iter().map(|entry| (entry.id.index, entry.id.term)).collect();
                let device = Device { configuration: configuration.cloned(), start: *snapshot, entries };
                self.devices.insert(*node, device);
            }
            Seen::Durable { node, write } => {
                let device = self.devices.entry(*node).or_default();
                if let Some(StoredState::Configured(configuration)) = write.stored_state() {
                    device.configuration = configuration.clone();
                }
                write.log().iter().for_each(|change| device.change(change));
            }
            Seen::Committed { entry, configuration, .. } => {
                let commit = || Commit { id: entry.id, payload: payload(entry), epoch: configuration.epoch };
                self.committed.entry(entry.id.index).or_insert_with(commit);
            }
            Seen::Decided { configuration, .. } => self.decided = Some((*configuration).clone()),
            // What it acknowledged before may count later, so what it had stays in the books.
            Seen::Emptied { .. } => {}
            Seen::Sent { .. } | Seen::Stepped { .. } | Seen::State { .. } | Seen::Ended { .. } => {}
        }
    }

    /// The last entry that was ever committed.
    pub fn last_committed(&self) -> Index {
        self.committed.last_key_value().map_or(Index::ZERO, |(index, _)| *index)
    }
}
