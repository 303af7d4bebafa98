//! Golden scripts on a group of Raft cores: the commands that only these know.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::{Input, Time};
use smr::internals::raft::message::{Body, Lease};
use smr::internals::raft::{Change, Message, Settings};
use smr::status::{ReadMode, Role};

use crate::core_cluster::name;
use crate::golden::words::{entry_id, list, millis, needed, node, number, term, value};
use crate::golden::{Play, Script};
use crate::raft_cluster::{Call, Cluster, Disk, Flying, Outputs, trace};

/// A [`Cluster`] that scripts are played on.
pub(crate) struct Stage {
    cluster: Cluster,
    /// Snapshots that someone was asked for, from whom and for whom, as they were then.
    wanted: BTreeMap<(NodeId, NodeId), SnapshotMeta>,
    late: Option<SnapshotMeta>,
    unheard: Option<EntryId>,
}

/// Before its first command.
pub(crate) fn script() -> Script<Stage> {
    let cluster = Cluster::new(7, Settings::default());
    Script::new(Stage { cluster, wanted: BTreeMap::new(), late: None, unheard: None })
}

fn nodes(text: &str) -> BTreeSet<NodeId> {
    list(text).map(node).collect()
}

impl Play for Stage {
    type Message = Message;
    type Outputs = Outputs;

    fn execute(script: &mut Script<Stage>, words: &[&str]) {
        match words {
            ["elect", id] => elect(script, node(id)),
            _ => script.play.perform(words),
        }
    }

    fn note(&mut self, id: NodeId, outputs: Outputs) {
        for to in outputs.effects.snapshots_wanted {
            let meta = self.cluster.node(id).disk.snapshot.clone();
            self.wanted.insert((id, to), meta);
        }
    }

    fn trace(&mut self) -> &mut Option<Vec<String>> {
        &mut self.cluster.trace
    }

    fn wire(&mut self) -> &mut Vec<Flying> {
        &mut self.cluster.wire
    }

    fn now(&mut self) -> &mut Time {
        &mut self.cluster.now
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.cluster.nodes.keys().copied().collect()
    }

    fn is_up(&self, id: NodeId) -> bool {
        self.cluster.is_up(id)
    }

    fn due_at(&self, id: NodeId) -> Time {
        self.cluster.due_at(id)
    }

    fn writes(&self, id: NodeId) -> usize {
        self.cluster.node(id).writes.len()
    }

    fn sync(&mut self, id: NodeId, count: usize) -> Option<Outputs> {
        self.cluster.sync(id, count)
    }

    fn deliver(&mut self, position: usize) -> Option<Outputs> {
        self.cluster.deliver(position).map(|(_, outputs)| outputs)
    }

    fn happens(&mut self, id: NodeId, input: Input<Message>) -> Outputs {
        self.cluster.step(id, input)
    }

    fn propose(&mut self, id: NodeId, commands: &[&str]) -> Outputs {
        self.cluster.propose(id, commands)
    }

    fn read(&mut self, id: NodeId) -> Outputs {
        self.cluster.read(id).1
    }

    fn take_snapshot(&mut self, id: NodeId) -> Option<Outputs> {
        self.cluster.take_snapshot(id)
    }

    fn crash(&mut self, id: NodeId, survive: usize) {
        self.cluster.crash(id, survive);
    }

    fn start(&mut self, id: NodeId) {
        self.cluster.start(id);
    }

    fn state(&self, id: NodeId) -> String {
        let node = self.cluster.node(id);
        trace::state(id, node.raft.as_ref(), &node.disk)
    }

    fn kind(message: &Message) -> String {
        trace::kind(message)
    }

    fn told(message: &Message) -> String {
        trace::message(message)
    }
}

impl Stage {
    /// Does what only this core knows, with the cluster alone.
    fn perform(&mut self, words: &[&str]) {
        let (command, rest) = words.split_first().expect("a command");
        match (*command, rest) {
            ("cluster", _) => self.found(rest),
            ("node", [id, options @ ..]) => self.add(node(id), options),
            // A node's own: other members may ask for leases, and all the same are bound by those of others.
            ("reads", [mode]) => {
                self.cluster.settings.reads = if *mode == "lease" { ReadMode::Lease } else { ReadMode::Index }
            }
            ("clock", [id, permille]) => self.cluster.set_clock(node(id), number(permille)),
            ("transfer", [id, to]) => self.step(node(id), Call::Transfer(node(to).name)),
            // Of a node that is down: entries are lost, and its disk knows.
            ("lose", [id, options @ ..]) => {
                let keep = Index(number(needed(options, "keep")));
                self.cluster.lose(node(id), keep, Index(number(needed(options, "past"))));
            }
            // The sender hears of it only now that what was carried "unheard" has arrived.
            ("sent", [from, to]) => {
                let last = self.unheard.take();
                self.step(node(from), Input::SnapshotSent { to: node(to), last });
            }
            ("carry", ["late", to]) => {
                let meta = self.late.clone().expect("a late snapshot");
                let outputs = self.cluster.send_snapshot(meta, node(to));
                self.note(node(to), outputs);
            }
            ("carry", [from, to, options @ ..]) => self.carry(node(from), node(to), options),
            ("progress", [from, to]) => self.step(node(from), Input::SnapshotProgress(node(to))),
            ("fail", [from, to]) => {
                self.take_wanted(node(from), node(to));
                self.step(node(from), Input::SnapshotSent { to: node(to), last: None });
            }
            ("change", [id, what @ ..]) => {
                let change = match what {
                    ["add", who] => Change::AddLearner(node(who)),
                    ["remove", who] => Change::RemoveLearner(node(who)),
                    ["replace", old, "by", new] => Change::Replace { incoming: node(new), outgoing: node(old) },
                    ["voters", list] => Change::Voters(nodes(list)),
                    ["voters"] => Change::Voters(BTreeSet::new()),
                    _ => panic!("no change: {what:?}"),
                };
                self.step(node(id), change);
            }
            ("inject", [from, "->", to, rest @ ..]) => {
                let mut message = parse_message(rest);
                if rest.contains(&"current") {
                    self.join_campaign(node(to), &mut message);
                }
                if let Body::Append { entries, .. } = &mut message.body
                    && !rest.contains(&"altered")
                {
                    self.copy_known(node(to), entries);
                }
                self.cluster.forged |= matches!(
                    message.body,
                    Body::Append { .. }
                        | Body::AppendAccepted { .. }
                        | Body::SnapshotInstalled { .. }
                        | Body::Heartbeat { .. }
                        | Body::Commit { .. }
                );
                self.step(node(to), Input::Receive { from: node(from), message });
            }
            _ => panic!("no command: {words:?}"),
        }
    }

    fn step(&mut self, id: NodeId, call: impl Into<Call>) {
        let outputs = self.cluster.step(id, call);
        self.note(id, outputs);
    }

    fn found(&mut self, words: &[&str]) {
        let settings = &mut self.cluster.settings;
        let mut members = Vec::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                members.push(node(word));
                continue;
            };
            if key == "reads" {
                settings.reads = if value == "lease" { ReadMode::Lease } else { ReadMode::Index };
                continue;
            }
            let number: usize = number(value);
            match key {
                "append_entries_max" => settings.append_entries_max = number,
                "append_bytes_max" => settings.append_bytes_max = number,
                "inflight_appends_max" => settings.inflight_appends_max = number,
                "lease_us" => settings.lease_us = number as u64,
                "clock_drift_permille" => settings.clock_drift_permille = number as u64,
                "log_retain_bytes" => settings.log_retain_bytes = number,
                "log_retain_held_bytes" => settings.log_retain_held_bytes = number,
                "log_retain_sending_bytes" => settings.log_retain_sending_bytes = number,
                "level_us" => settings.level_us = number as u64,
                "return_us" => settings.return_us = number as u64,
                "return_stall_us" => settings.return_stall_us = number as u64,
                "reads_waiting_max" => settings.reads_waiting_max = number,
                _ => panic!("no setting: {key}"),
            }
        }
        if !members.is_empty() {
            self.cluster.found(&members);
        }
    }

    fn add(&mut self, id: NodeId, options: &[&str]) {
        let mut disk = Disk::default();
        disk.hard_state.term = value(options, "term").map_or(Term::ZERO, term);
        disk.hard_state.vote = value(options, "vote").map(node);
        let voters = value(options, "voters").map(nodes);
        for text in list(value(options, "log").unwrap_or_default()) {
            let index = disk.entries.len() as u64 + 1;
            let id = EntryId { index: Index(index), term: term(text) };
            let payload = match &voters {
                Some(voters) if index == 1 => Payload::Configuration(Configuration::of(voters.iter().copied())),
                _ => Payload::Command(Bytes::from(format!("c{index}"))),
            };
            disk.entries.push(Entry { id, payload });
            disk.hard_state = HardState { term: disk.hard_state.term.max(id.term), ..disk.hard_state };
        }
        if let Some(last) = value(options, "snapshot").map(entry_id) {
            let configuration = Configuration::of(voters.unwrap_or_default());
            disk.snapshot = SnapshotMeta { last, configuration, configuration_index: Index(1) };
        }
        self.cluster.add(id, disk);
    }

    /// An entry that the receiver has on its disk is that very entry.
    fn copy_known(&self, receiver: NodeId, entries: &mut [Entry]) {
        let known = self.cluster.nodes.get(&receiver).map(|node| &node.disk.entries);
        for entry in entries {
            if let Some(same) = known.and_then(|known| known.iter().find(|known| known.id == entry.id)) {
                entry.payload = same.payload.clone();
            }
        }
    }

    /// Lets an answer to a pre-vote be about the campaign of `candidate` whose questions are on the wire.
    fn join_campaign(&self, candidate: NodeId, answer: &mut Message) {
        let asked = self.cluster.wire.iter().find_map(|flying| match flying.message.body {
            Body::PreVote { campaign, .. } if flying.from == candidate => Some(campaign),
            _ => None,
        });
        let asked = asked.unwrap_or_else(|| panic!("no question of {} is on the wire", name(candidate)));
        if let Body::PreVoteGranted { campaign } | Body::PreVoteRefused { campaign } = &mut answer.body {
            *campaign = asked;
        }
    }

    fn take_wanted(&mut self, from: NodeId, to: NodeId) -> SnapshotMeta {
        let wanted = self.wanted.remove(&(from, to));
        wanted.unwrap_or_else(|| panic!("no one asked for a snapshot from {from} to {to}"))
    }

    fn carry(&mut self, from: NodeId, to: NodeId, options: &[&str]) {
        let meta = self.take_wanted(from, to);
        if options.contains(&"late") {
            self.late = Some(meta.clone());
        }
        let last = (!options.contains(&"broken")).then_some(meta.last);
        if options.contains(&"unheard") {
            self.unheard = last;
            let outputs = self.cluster.send_snapshot(meta, to);
            return self.note(to, outputs);
        }
        let outputs = self.cluster.send_snapshot(meta, to);
        self.note(to, outputs);
        self.step(from, Input::SnapshotSent { to, last });
    }
}

fn elect(script: &mut Script<Stage>, id: NodeId) {
    for _ in 0..10 {
        script.tick(id);
        script.settle();
        if script.play.cluster.raft(id).role() == Role::Leader {
            return;
        }
    }
    panic!("{} was not elected: {:#?}", name(id), script.play.cluster.trace);
}

fn parse_message(words: &[&str]) -> Message {
    let (in_term, rest) = words.split_first().expect("a term");
    let (kind, args) = rest.split_first().expect("a kind");
    let number_of = |key| number(needed(args, key));
    let entry_of = |key| entry_id(needed(args, key));
    let lease = || {
        let length_us = millis(value(args, "lease")?) * 1000;
        Some(Lease { asked_at_us: number_of("asked_at"), length_us })
    };
    let body = match *kind {
        "PreVote" => Body::PreVote { campaign: 1, last: entry_of("last") },
        "PreVoteGranted" => Body::PreVoteGranted { campaign: 1 },
        "PreVoteRefused" => Body::PreVoteRefused { campaign: 1 },
        "Vote" => Body::Vote { last: entry_of("last"), transfer: args.contains(&"transfer") },
        "VoteGranted" => Body::VoteGranted,
        "VoteRefused" => Body::VoteRefused,
        "Append" => {
            let ids = list(value(args, "entries").unwrap_or_default());
            let entries = ids.map(entry_id).map(|id| Entry { id, payload: Payload::Noop }).collect();
            Body::Append { previous: entry_of("previous"), entries, commit: Index(number_of("commit")) }
        }
        "AppendAccepted" => Body::AppendAccepted { last: entry_of("last") },
        "AppendRejected" => Body::AppendRejected { previous: Index(number_of("previous")), hint: entry_of("hint") },
        "Heartbeat" => Body::Heartbeat {
            round: number_of("round"),
            commit: entry_of("commit"),
            held_by_all: Index::ZERO,
            lease: lease(),
        },
        "HeartbeatAck" => Body::HeartbeatAck { round: number_of("round"), lease: lease() },
        "Commit" => Body::Commit { last: entry_of("last") },
        "StaleTerm" => Body::StaleTerm,
        "TimeoutNow" => Body::TimeoutNow,
        "SnapshotInstalled" => Body::SnapshotInstalled { last: entry_of("last") },
        "Healing" => Body::Healing { start: number_of("start") },
        "HealingHeard" => Body::HealingHeard { start: number_of("start"), last: entry_of("last") },
        "AppendStored" => Body::AppendStored { start: number_of("start"), last: entry_of("last") },
        _ => panic!("no message: {kind}"),
    };
    Message { term: term(in_term), body }
}
