//! Short ways to tell a property a history, for the tests of the properties.

use std::collections::BTreeMap;

use smr::entry::{Configuration, Entry, EntryId, HardState, Payload, SnapshotMeta, Term};
use smr::id::{ClientId, NodeId};
use smr::internals::protocol::{LogChange, Recovered, Time, Write, WriteId};
use smr::internals::raft::Message;
use smr::internals::raft::message::Body;
use smr::internals::session::SessionCommand;
use smr::replica::{Outcome, Request};
use smr::status::Role;

use super::{NodeView, Property, SimNodes, View};
use crate::ledger::Ledger;
use crate::observation::{End, Observation};

pub(super) const A: NodeId = NodeId::new(0, 1);
pub(super) const B: NodeId = NodeId::new(1, 1);
pub(super) const C: NodeId = NodeId::new(2, 1);
pub(super) const D: NodeId = NodeId::new(3, 1);
pub(super) const E: NodeId = NodeId::new(4, 1);

pub(super) fn noop(index: u64, term: u64) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Noop }
}

pub(super) fn command(index: u64, term: u64, bytes: &'static [u8]) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Command(bytes.into()) }
}

/// A write with a number in a session.
pub(super) fn write(index: u64, term: u64, client: u64, number: u64) -> Entry {
    let client = ClientId::at(client);
    let command = SessionCommand::Write { client, number, lowest_unanswered: number, command: b"x".as_slice().into() };
    Entry { id: EntryId::new(index, term), payload: Payload::Command(command.encode()) }
}

pub(super) fn members(index: u64, term: u64, voters: &[NodeId], outgoing: &[NodeId]) -> Entry {
    let outgoing = outgoing.iter().copied().collect();
    let configuration = Configuration { outgoing, ..Configuration::of(voters.iter().copied()) };
    Entry { id: EntryId::new(index, term), payload: Payload::Configuration(configuration) }
}

pub(super) fn append(entries: &[Entry]) -> LogChange {
    LogChange::Append(entries.to_vec())
}

type Parts = (WriteId, Option<HardState>, Vec<LogChange>);

/// A property that is told a history.
pub(super) struct Play<P> {
    pub(super) property: P,
    ledger: Ledger,
    next: u64,
    step: u64,
    pending: BTreeMap<NodeId, Vec<Parts>>,
}

struct NoNodes;

impl SimNodes for NoNodes {
    fn node(&self, _replica: usize) -> Option<NodeView<'_>> {
        None
    }

    fn deep_digest(&self, _replica: usize) -> Option<u64> {
        None
    }

    fn found_after_power_cut(&self, _replica: usize) -> Option<Result<Recovered, String>> {
        None
    }

    fn replicas(&self) -> usize {
        0
    }
}

impl<P: Property> Play<P> {
    pub(super) fn new(property: P) -> Play<P> {
        Play { property, ledger: Ledger::default(), next: 1, step: 0, pending: BTreeMap::new() }
    }

    pub(super) fn feed(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        self.property.before(observation, &self.ledger)?;
        self.ledger.note(observation);
        self.property.on(observation, &self.ledger)
    }

    /// Ends the step.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.step += 1;
        let view = View { now: Time(self.step), step: self.step, touched: &[], nodes: &NoNodes };
        self.property.after_step(&view, &self.ledger)
    }

    /// A core asks for a write.
    pub(super) fn issues(
        &mut self,
        node: NodeId,
        hard_state: Option<(u64, Option<NodeId>)>,
        log: Vec<LogChange>,
    ) -> Result<(), String> {
        let hard_state = hard_state.map(|(term, vote)| HardState { term: Term(term), vote, lease_us: 0 });
        let id = WriteId(self.next);
        self.next += 1;
        self.pending.entry(node).or_default().push((id, hard_state, log.clone()));
        self.feed(&Observation::WriteIssued {
            node,
            write: &Write::new(id, hard_state.map(Into::into), log, Vec::new()),
        })
    }

    /// All its writes reach the device.
    pub(super) fn completes(&mut self, node: NodeId) -> Result<(), String> {
        for (id, hard_state, log) in self.pending.remove(&node).unwrap_or_default() {
            self.feed(&Observation::WriteDurable {
                node,
                write: &Write::new(id, hard_state.map(Into::into), log, Vec::new()),
            })?;
        }
        Ok(())
    }

    /// A core asks for a write, and it reaches the device.
    pub(super) fn writes(
        &mut self,
        node: NodeId,
        hard_state: Option<(u64, Option<NodeId>)>,
        log: Vec<LogChange>,
    ) -> Result<(), String> {
        self.issues(node, hard_state, log)?;
        self.completes(node)
    }

    pub(super) fn sends(&mut self, from: NodeId, to: NodeId, term: u64, body: Body) -> Result<(), String> {
        self.feed(&Observation::Sent { from, to, message: &Message { term: Term(term), body } })
    }

    pub(super) fn leads(&mut self, node: NodeId, term: u64) -> Result<(), String> {
        self.feed(&Observation::RoleChanged { node, role: Role::Leader, term: Term(term), leader: Some(node) })
    }

    pub(super) fn follows(&mut self, node: NodeId, term: u64, leader: Option<NodeId>) -> Result<(), String> {
        self.feed(&Observation::RoleChanged { node, role: Role::Follower, term: Term(term), leader })
    }

    pub(super) fn applies(&mut self, node: NodeId, entry: Entry) -> Result<(), String> {
        self.feed(&Observation::Committed { node, entry: &entry })?;
        let took_effect = matches!(entry.payload, Payload::Command(_));
        self.feed(&Observation::Applied { node, entry: &entry, took_effect, digest: 0, deep: None })
    }

    pub(super) fn installs(&mut self, node: NodeId, meta: &SnapshotMeta) -> Result<(), String> {
        self.feed(&Observation::SnapshotInstalled { node, meta, accepted: true })
    }

    pub(super) fn ends(&mut self, node: NodeId) -> Result<(), String> {
        self.feed(&Observation::Ended { node, end: &End::Killed })
    }

    /// It ends, and starts with these on its disk.
    pub(super) fn starts(&mut self, node: NodeId, recovered: &Recovered) -> Result<(), String> {
        self.ends(node)?;
        self.feed(&Observation::Started { node, recovered, forgot: false })
    }

    /// It ends, and starts with an empty disk.
    pub(super) fn restarts(&mut self, node: NodeId) -> Result<(), String> {
        self.starts(node, &Recovered::default())
    }

    pub(super) fn asks_write(&mut self, node: NodeId, tag: u64, client: u64, number: u64) -> Result<(), String> {
        let client = ClientId::at(client);
        let command = b"x".as_slice().into();
        let request = Request::Write { client, number, lowest_unanswered: number, command };
        self.feed(&Observation::Asked { node, tag, request: &request })
    }

    pub(super) fn answers(&mut self, node: NodeId, tag: u64, outcome: Outcome) -> Result<(), String> {
        self.feed(&Observation::Answered { node, tag, outcome: &outcome })
    }
}
