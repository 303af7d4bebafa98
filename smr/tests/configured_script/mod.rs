//! Golden scripts on a group of configured cores, and its service: the commands that only these know.

use std::collections::BTreeSet;

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Index, Payload, SnapshotMeta};
use smr::epoch::{EpochConfiguration, EpochKind};
use smr::id::NodeId;
use smr::internals::configured::checkpoint::CheckpointFit;
use smr::internals::configured::message::Body;
use smr::internals::configured::{Message, Settings};
use smr::internals::protocol::{Input, Protocol, Route, Time};
use smr::status::ReadMode;
use smr_sim::clock::Clock;

use crate::configured_cluster::{Call, Cluster, Disk, Flying, Outputs, trace};
use crate::core_cluster::name;
use crate::golden::words::{entry_id, list, needed, node, number, term, value};
use crate::golden::{Play, Script};

/// A [`Cluster`] that scripts are played on.
pub(crate) struct Stage {
    cluster: Cluster,
    /// Snapshots that someone was asked for, from whom and for whom.
    wanted: BTreeSet<(NodeId, NodeId)>,
    /// Leases that the service granted, and that were not handed on.
    grants: Vec<(NodeId, Input<Message>)>,
}

/// Before its first command.
pub(crate) fn script() -> Script<Stage> {
    let cluster = Cluster::new(7, Settings::default(), &[NodeId::new(0, 1)]);
    Script::new(Stage { cluster, wanted: BTreeSet::new(), grants: Vec::new() })
}

fn kind(text: &str) -> EpochKind {
    match text {
        "chain" => EpochKind::Chain,
        "active" => EpochKind::Active,
        "passive" => EpochKind::Passive,
        _ => panic!("no kind: {text:?}"),
    }
}

impl Play for Stage {
    type Message = Message;
    type Outputs = Outputs;

    fn execute(script: &mut Script<Stage>, words: &[&str]) {
        match words {
            ["begin"] => {
                script.play.tell_all();
                script.settle();
            }
            _ => script.play.perform(words),
        }
    }

    fn note(&mut self, id: NodeId, outputs: Outputs) {
        self.wanted.extend(outputs.effects.snapshots_wanted.into_iter().map(|to| (id, to)));
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
        self.cluster.read(id)
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
        trace::state(id, node.core.as_ref(), &node.disk)
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
            ("group", [of, words @ ..]) => self.found(kind(of), words),
            ("node", [id, options @ ..]) => self.add(node(id), options),
            ("epoch", members) => self.decide(members),
            ("tell", ["all"]) => self.tell_all(),
            ("tell", [id, options @ ..]) => {
                let present = self.cluster.service.present().epoch;
                let outputs = self.cluster.tell(node(id), options.first().map_or(present, |text| term(text)));
                self.note(node(id), outputs);
            }
            ("grant", [id]) => {
                let grant = self.cluster.grant(node(id));
                self.cluster.say(match &grant {
                    Some(_) => format!("the service grants {id} a lease"),
                    None => format!("the service grants {id} nothing"),
                });
                self.grants.extend(grant.map(|grant| (node(id), grant)));
            }
            ("hand", [id]) => {
                let at = self.grants.iter().position(|(to, _)| *to == node(id)).expect("a lease that was granted");
                let (id, grant) = self.grants.remove(at);
                self.step(id, grant);
            }
            ("join", [id, newcomer]) => {
                let of = self.cluster.core(node(id)).status().term;
                let newcomer = (*newcomer != "none").then(|| node(newcomer));
                self.step(node(id), Input::Join { epoch: of, newcomer });
            }
            ("connect", [id, from]) => self.step(node(id), Input::Connected(node(from))),
            ("route", [id]) => self.say_routing(node(id)),
            ("detection", [id, ms]) => {
                let core = self.cluster.nodes.get_mut(&node(id)).and_then(|node| node.core.as_mut());
                core.expect("a node that is up").set_detection(number::<u64>(ms) * 1000);
            }
            ("fit", [id, options @ ..]) => {
                let of = |key| entry_id(needed(options, key));
                let core = self.cluster.core(node(id));
                let fit = core.checkpoint_fit(term(needed(options, "epoch")), of("base"), of("end"), of("applied"));
                let text = match fit {
                    CheckpointFit::Apply => "applies it".to_owned(),
                    CheckpointFit::ReplayTo(base) => format!("replays its own log up to {}.e{}", base.index, base.term),
                    CheckpointFit::WholeWanted => "wants a whole image".to_owned(),
                    CheckpointFit::Drop => "drops it".to_owned(),
                };
                self.cluster.say(format!("{id} {text}"));
            }
            ("carry", [from, to, options @ ..]) => self.carry(node(from), node(to), options),
            ("failover", []) => {
                let now = self.cluster.now;
                self.cluster.service.fail_over(now);
            }
            // What a backup of yesterday would hold.
            ("setback", [id, options @ ..]) => {
                let keep = Index(number(needed(options, "keep")));
                self.cluster.forged = true;
                let node = self.cluster.nodes.get_mut(&node(id)).expect("a node");
                assert!(node.core.is_none(), "{id} is up");
                node.disk.entries.retain(|entry| entry.id.index <= keep);
            }
            ("inject", [from, "->", to, rest @ ..]) => {
                self.cluster.forged = true;
                let message = parse_message(rest);
                self.step(node(to), Input::Receive { from: node(from), message });
            }
            _ => panic!("no command: {words:?}"),
        }
    }

    fn step(&mut self, id: NodeId, call: impl Into<Call>) {
        let outputs = self.cluster.step(id, call);
        self.note(id, outputs);
    }

    fn found(&mut self, of: EpochKind, words: &[&str]) {
        let mut settings = Settings { kind: of, ..Settings::default() };
        let mut members = Vec::new();
        let mut rates = Vec::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                members.push(node(word));
                continue;
            };
            match key {
                "reads" => settings.reads = if value == "lease" { ReadMode::Lease } else { ReadMode::Index },
                "append_entries_max" => settings.append_entries_max = number(value),
                "inflight_appends_max" => settings.inflight_appends_max = number(value),
                "reads_waiting_max" => settings.reads_waiting_max = number(value),
                "log_retain_bytes" => settings.log_retain_bytes = number(value),
                "checkpoint_entries_max" => settings.checkpoint_entries_max = number(value),
                "clock_drift_permille" => settings.clock_drift_permille = number(value),
                "rate" => rates = value.split(',').map(number).collect(),
                _ => panic!("no setting: {key}"),
            }
        }
        self.cluster = Cluster::new(7, settings, &members);
        for (position, member) in members.into_iter().enumerate() {
            let rate_permille = rates.get(position).copied().unwrap_or(1000);
            self.cluster.add(member, Disk::default(), Clock { origin_us: 0, rate_permille });
        }
    }

    fn add(&mut self, id: NodeId, options: &[&str]) {
        let mut disk = Disk::default();
        for text in list(value(options, "log").unwrap_or_default()) {
            let index = disk.entries.len() as u64 + 1;
            let is_first = disk.entries.last().is_none_or(|last| last.id.term != term(text));
            let id = EntryId { index: Index(index), term: term(text) };
            let command = Payload::Command(Bytes::from(format!("c{index}")));
            disk.entries.push(Entry { id, payload: if is_first { Payload::Noop } else { command } });
        }
        if let Some(of) = value(options, "epoch").map(term) {
            disk.configuration = self.cluster.service.of(of).cloned();
        }
        self.cluster.add(id, disk, Clock::TRUE);
    }

    fn decide(&mut self, words: &[&str]) {
        let members: Vec<_> = words.iter().map(|word| node(word)).collect();
        let known = self.cluster.service.decide(members);
        self.cluster.say(format!("the service decides on {}", trace::configuration(&known)));
    }

    fn tell_all(&mut self) {
        let present = self.cluster.service.present().clone();
        for member in present.members.iter().filter(|member| self.cluster.is_up(**member)).collect::<Vec<_>>() {
            let outputs = self.cluster.tell(*member, present.epoch);
            self.note(*member, outputs);
        }
    }

    fn say_routing(&mut self, id: NodeId) {
        let core = self.cluster.core(id);
        let (routing, applies) = (core.routing(), core.applies());
        let told = |route: Route| match route {
            Route::Here => "here".to_owned(),
            Route::There(Some(at)) => format!("at {}", name(NodeId::new(at.0, 1))),
            Route::There(None) => "nowhere".to_owned(),
        };
        self.cluster.say(format!(
            "{}: writes {}, reads {}, answers {}{}{}",
            name(id),
            told(routing.writes),
            told(routing.reads),
            told(routing.answers),
            if applies { "" } else { "; does not apply" },
            if core.keeps_writes() && !routing.writes.is_here() { "; keeps writes" } else { "" }
        ));
    }

    fn carry(&mut self, from: NodeId, to: NodeId, options: &[&str]) {
        let is_wanted = self.wanted.remove(&(from, to)) || options.contains(&"again");
        assert!(is_wanted, "no one asked for a snapshot from {from} to {to}");
        let meta: SnapshotMeta = self.cluster.node(from).disk.snapshot.clone();
        let fails = options.contains(&"fails");
        if !fails {
            let outputs = self.cluster.send_snapshot(meta.clone(), to);
            self.note(to, outputs);
        }
        self.step(from, Input::SnapshotSent { to, last: (!fails).then_some(meta.last) });
    }
}

fn parse_message(words: &[&str]) -> Message {
    let (in_epoch, rest) = words.split_first().expect("an epoch");
    let (kind_word, args) = rest.split_first().expect("a kind");
    let number_of = |key| number(needed(args, key));
    let entry_of = |key| entry_id(needed(args, key));
    let body = match *kind_word {
        "Append" => {
            let ids = list(value(args, "entries").unwrap_or_default());
            let entries = ids.map(entry_id).map(|id| Entry { id, payload: Payload::Noop }).collect();
            Body::Append { previous: entry_of("previous"), entries, commit: Index(number_of("commit")) }
        }
        "Accepted" => Body::Accepted { last: entry_of("last") },
        "Rejected" => Body::Rejected { previous: Index(number_of("previous")), hint: entry_of("hint") },
        "Durable" => Body::Durable { through: entry_of("through") },
        "Commit" => Body::Commit { last: entry_of("last") },
        "Heartbeat" => Body::Heartbeat { commit: entry_of("commit"), through: EntryId::ZERO },
        "Confirmed" => Body::Confirmed { start: number_of("start"), round: number_of("round") },
        "ConfigurationWanted" => Body::ConfigurationWanted,
        "Announce" => Body::Announce,
        _ => panic!("no message: {kind_word}"),
    };
    let configuration = value(args, "with").map(|text| {
        let (of, members) = text.split_once(':').expect("kind:members");
        let members = list(members).map(node).collect();
        EpochConfiguration { epoch: term(in_epoch), kind: kind(of), members, incomplete: None }
    });
    Message { epoch: term(in_epoch), configuration, body }
}
