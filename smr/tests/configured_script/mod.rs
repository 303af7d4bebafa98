//! Runs the commands of golden scripts against a [`Cluster`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Index, Payload, SnapshotMeta, Term};
use smr::epoch::{EpochConfiguration, EpochKind};
use smr::id::NodeId;
use smr::internals::configured::checkpoint::CheckpointFit;
use smr::internals::configured::message::Body;
use smr::internals::configured::{Message, Settings};
use smr::internals::protocol::{Input, Protocol, Route};
use smr::status::ReadMode;
use smr_sim::clock::Clock;

use crate::configured_cluster::{Call, Cluster, Disk, Flying, Outputs, trace};

/// More steps than this in one command mean that it never ends.
const STEPS_MAX: usize = 20_000;

/// A script that runs.
pub(crate) struct Script {
    cluster: Cluster,
    cut: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeSet<NodeId>,
    delayed: Vec<Flying>,
    /// Snapshots that someone was asked for, from whom and for whom.
    wanted: BTreeSet<(NodeId, NodeId)>,
    /// Leases that the service granted, and that were not handed on.
    grants: Vec<(NodeId, Input<Message>)>,
    shown: BTreeMap<NodeId, String>,
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

fn node(text: &str) -> NodeId {
    let (replica, incarnation) = text.split_once('/').unwrap_or((text, "1"));
    match replica.as_bytes() {
        [letter @ b'A'..=b'H'] => NodeId::new(u16::from(letter - b'A'), number(incarnation)),
        _ => panic!("no node: {text:?}"),
    }
}

fn epoch(text: &str) -> Term {
    Term(number(text.strip_prefix('e').unwrap_or(text)))
}

fn entry_id(text: &str) -> EntryId {
    let (index, of) = text.split_once('.').unwrap_or_else(|| panic!("no entry: {text:?}"));
    EntryId { index: Index(number(index)), term: epoch(of) }
}

fn millis(text: &str) -> u64 {
    number(text.strip_suffix("ms").unwrap_or_else(|| panic!("no time: {text:?}")))
}

fn kind(text: &str) -> EpochKind {
    match text {
        "chain" => EpochKind::Chain,
        "active" => EpochKind::Active,
        "passive" => EpochKind::Passive,
        _ => panic!("no kind: {text:?}"),
    }
}

/// The value of `key=value` among the words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn needed<'a>(words: &[&'a str], key: &str) -> &'a str {
    value(words, key).unwrap_or_else(|| panic!("{key}= is missing in {words:?}"))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl Script {
    pub(crate) fn new() -> Script {
        Script {
            cluster: Cluster::new(7, Settings::default(), &[NodeId::new(0, 1)]),
            cut: BTreeSet::new(),
            slow: BTreeSet::new(),
            delayed: Vec::new(),
            wanted: BTreeSet::new(),
            grants: Vec::new(),
            shown: BTreeMap::new(),
        }
    }

    /// Runs a command; returns its trace.
    pub(crate) fn run(&mut self, command: &str) -> Vec<String> {
        let mut words: Vec<_> = command.split_whitespace().collect();
        let (quiet, panics) = (words[0] == "quiet", words[0] == "panics");
        if quiet || panics {
            words.remove(0);
        }
        self.cluster.trace = Some(Vec::new());
        if panics {
            let silence = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let result = catch_unwind(AssertUnwindSafe(|| self.execute(&words)));
            std::panic::set_hook(silence);
            let panic = result.expect_err("the node should have stopped");
            self.cluster.say(format!("    stops: {}", panic_text(panic.as_ref())));
            self.shown.clear();
            return self.cluster.trace.take().unwrap_or_default();
        }
        self.execute(&words);
        let mut lines = self.cluster.trace.take().unwrap_or_default();
        if quiet {
            lines.clear();
        }
        lines.extend(self.changed_states());
        lines
    }

    fn changed_states(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, node) in &self.cluster.nodes {
            let state = trace::state(*id, node.core.as_ref(), &node.disk);
            if self.shown.get(id) != Some(&state) {
                lines.push(state.clone());
                self.shown.insert(*id, state);
            }
        }
        lines
    }

    fn execute(&mut self, words: &[&str]) {
        let (command, rest) = words.split_first().expect("a command");
        match (*command, rest) {
            ("group", [of, words @ ..]) => self.found(kind(of), words),
            ("node", [id, options @ ..]) => self.add(node(id), options),
            ("begin", []) => {
                self.tell_all();
                self.settle();
            }
            ("epoch", members) => self.decide(members),
            ("tell", ["all"]) => self.tell_all(),
            ("tell", [id, options @ ..]) => {
                let present = self.cluster.service.present().epoch;
                let outputs = self.cluster.tell(node(id), options.first().map_or(present, |text| epoch(text)));
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
            ("tick", ids) => ids.iter().for_each(|id| self.tick(node(id))),
            ("wait", [time]) => self.cluster.now = self.cluster.now.plus_us(millis(time) * 1000),
            ("run", [time]) => self.run_for(millis(time) * 1000),
            ("settle", []) => self.settle(),
            ("propose", [id, commands @ ..]) => {
                let outputs = self.cluster.propose(node(id), commands);
                self.note(node(id), outputs);
            }
            ("read", [id]) => {
                let outputs = self.cluster.read(node(id));
                self.note(node(id), outputs);
            }
            ("route", [id]) => self.say_routing(node(id)),
            ("fit", [id, options @ ..]) => {
                let of = |key| entry_id(needed(options, key));
                let core = self.cluster.core(node(id));
                let fit = core.checkpoint_fit(epoch(needed(options, "epoch")), of("base"), of("end"), of("applied"));
                let text = match fit {
                    CheckpointFit::Apply => "applies it".to_owned(),
                    CheckpointFit::ReplayTo(base) => format!("replays its own log up to {}.e{}", base.index, base.term),
                    CheckpointFit::WholeWanted => "wants a whole image".to_owned(),
                    CheckpointFit::Drop => "drops it".to_owned(),
                };
                self.cluster.say(format!("{id} {text}"));
            }
            ("snapshot", [id]) => {
                let outputs = self.cluster.take_snapshot(node(id)).expect("something new was committed");
                self.note(node(id), outputs);
            }
            ("carry", [from, to, options @ ..]) => self.carry(node(from), node(to), options),
            ("disconnect", [id, from]) => self.step(node(id), Input::Disconnected(node(from))),
            ("deliver" | "drop" | "copy" | "delay", [from, to, kind @ ..]) => {
                self.pick(command, from, to, kind.first().copied());
            }
            ("arrive", []) => {
                let delayed = std::mem::take(&mut self.delayed);
                self.cluster.wire.extend(delayed);
            }
            ("cut", [from, "->", to]) => drop(self.cut.insert((node(from), node(to)))),
            ("cut", [one, other]) => self.cut.extend([(node(one), node(other)), (node(other), node(one))]),
            ("isolate", [id]) => {
                let id = node(id);
                let others: Vec<_> = self.cluster.nodes.keys().copied().filter(|other| *other != id).collect();
                self.cut.extend(others.iter().flat_map(|other| [(id, *other), (*other, id)]));
            }
            ("heal", []) => self.cut.clear(),
            ("sync", [id, count @ ..]) => {
                let all = self.cluster.node(node(id)).writes.len();
                let count = count.first().map_or(all, |text| number(text));
                let outputs = self.cluster.sync(node(id), count).expect("something to write");
                self.note(node(id), outputs);
            }
            ("slow", [id]) => drop(self.slow.insert(node(id))),
            ("fast", [id]) => drop(self.slow.remove(&node(id))),
            ("crash", [id, options @ ..]) => {
                let survive = value(options, "survive").map_or(0, number);
                self.cluster.crash(node(id), survive);
            }
            ("restart", [id]) => self.cluster.start(node(id)),
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
            ("state", []) => self.shown.clear(),
            _ => panic!("no command: {words:?}"),
        }
    }

    fn step(&mut self, id: NodeId, call: impl Into<Call>) {
        let outputs = self.cluster.step(id, call);
        self.note(id, outputs);
    }

    fn note(&mut self, id: NodeId, outputs: Outputs) {
        self.wanted.extend(outputs.effects.snapshots_wanted.into_iter().map(|to| (id, to)));
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
        for text in value(options, "log").unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
            let index = disk.entries.len() as u64 + 1;
            let is_first = disk.entries.last().is_none_or(|last| last.id.term != epoch(text));
            let id = EntryId { index: Index(index), term: epoch(text) };
            let command = Payload::Command(Bytes::from(format!("c{index}")));
            disk.entries.push(Entry { id, payload: if is_first { Payload::Noop } else { command } });
        }
        if let Some(of) = value(options, "epoch").map(epoch) {
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
            Route::There(Some(at)) => format!("at {}", trace::name(NodeId::new(at.0, 1))),
            Route::There(None) => "nowhere".to_owned(),
        };
        self.cluster.say(format!(
            "{}: writes {}, reads {}, answers {}{}",
            trace::name(id),
            told(routing.writes),
            told(routing.reads),
            told(routing.answers),
            if applies { "" } else { "; does not apply" }
        ));
    }

    fn tick(&mut self, id: NodeId) {
        self.cluster.now = self.cluster.now.max(self.cluster.due_at(id));
        self.step(id, Input::Tick);
    }

    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let writer = self
                .cluster
                .nodes
                .iter()
                .find(|(id, node)| node.core.is_some() && !node.writes.is_empty() && !self.slow.contains(*id));
            let writer = writer.map(|(id, node)| (*id, node.writes.len()));
            if !self.cluster.wire.is_empty() {
                self.deliver(0);
            } else if let Some((id, count)) = writer {
                let outputs = self.cluster.sync(id, count).expect("something to write");
                self.note(id, outputs);
            } else {
                return;
            }
        }
        panic!("messages without end");
    }

    fn run_for(&mut self, us: u64) {
        let end = self.cluster.now.plus_us(us);
        for _ in 0..STEPS_MAX {
            self.settle();
            let up = self.cluster.up();
            let due = up.iter().map(|id| (self.cluster.due_at(*id), *id)).min();
            let Some((at, id)) = due.filter(|(at, _)| *at <= end) else {
                self.cluster.now = end;
                return;
            };
            self.cluster.now = self.cluster.now.max(at);
            self.step(id, Input::Tick);
        }
        panic!("timers without end");
    }

    fn deliver(&mut self, position: usize) {
        let flying = &self.cluster.wire[position];
        let (from, to) = (flying.from, flying.to);
        if self.cut.contains(&(from, to)) || !self.cluster.is_up(to) {
            self.lose(position);
        } else if let Some((_, outputs)) = self.cluster.deliver(position) {
            self.note(to, outputs);
        }
    }

    fn lose(&mut self, position: usize) {
        let flying = self.cluster.wire.remove(position);
        let (from, to) = (trace::name(flying.from), trace::name(flying.to));
        self.cluster.say(format!("lost from {from} to {to}: {}", trace::message(&flying.message)));
    }

    fn pick(&mut self, command: &str, from: &str, to: &str, kind: Option<&str>) {
        let fits = |flying: &Flying| {
            (from == "*" || flying.from == node(from))
                && (to == "*" || flying.to == node(to))
                && kind.is_none_or(|kind| trace::kind(&flying.message) == kind)
        };
        let mut picked = 0;
        // Only what is there now, not what the deliveries cause.
        let mut remaining = self.cluster.wire.len();
        let mut position = 0;
        while remaining > 0 {
            remaining -= 1;
            if !fits(&self.cluster.wire[position]) {
                position += 1;
                continue;
            }
            picked += 1;
            match command {
                "deliver" => self.deliver(position),
                "drop" => self.lose(position),
                "delay" => self.delayed.push(self.cluster.wire.remove(position)),
                _ => {
                    self.delayed.push(self.cluster.wire[position].clone());
                    position += 1;
                }
            }
        }
        assert!(picked > 0, "no such message on the wire: {from} {to} {kind:?}");
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
            let ids = value(args, "entries").unwrap_or_default().split(',').filter(|text| !text.is_empty());
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
        let members = members.split(',').filter(|text| !text.is_empty()).map(node).collect();
        EpochConfiguration { epoch: epoch(in_epoch), kind: kind(of), members, incomplete: None }
    });
    Message { epoch: epoch(in_epoch), configuration, body }
}
