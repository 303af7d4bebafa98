//! Runs the commands of golden scripts against a [`Cluster`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::Input;
use smr::internals::raft::message::{Body, Lease};
use smr::internals::raft::{Change, Message, Settings};
use smr::status::{ReadMode, Role};

use crate::raft_cluster::{Call, Cluster, Disk, Flying, Outputs, trace};

/// More steps than this in one command mean that it never ends.
const STEPS_MAX: usize = 20_000;

/// A script that runs.
pub(crate) struct Script {
    cluster: Cluster,
    cut: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeSet<NodeId>,
    delayed: Vec<Flying>,
    /// Snapshots that someone was asked for, from whom and for whom, as they were then.
    wanted: BTreeMap<(NodeId, NodeId), SnapshotMeta>,
    late: Option<SnapshotMeta>,
    unheard: Option<EntryId>,
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

fn nodes(text: &str) -> BTreeSet<NodeId> {
    text.split(',').filter(|part| !part.is_empty()).map(node).collect()
}

fn term(text: &str) -> Term {
    Term(number(text.strip_prefix('t').unwrap_or(text)))
}

fn entry_id(text: &str) -> EntryId {
    let (index, of) = text.split_once('.').unwrap_or_else(|| panic!("no entry: {text:?}"));
    EntryId { index: Index(number(index)), term: term(of) }
}

fn millis(text: &str) -> u64 {
    number(text.strip_suffix("ms").unwrap_or_else(|| panic!("no time: {text:?}")))
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
            cluster: Cluster::new(7, Settings::default()),
            cut: BTreeSet::new(),
            slow: BTreeSet::new(),
            delayed: Vec::new(),
            wanted: BTreeMap::new(),
            late: None,
            unheard: None,
            shown: BTreeMap::new(),
        }
    }

    /// Runs a command; returns its trace.
    pub(crate) fn run(&mut self, command: &str) -> Vec<String> {
        let mut words: Vec<_> = command.split_whitespace().collect();
        let quiet = words[0] == "quiet";
        let panics = words[0] == "panics";
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
            let state = trace::state(*id, node.raft.as_ref(), &node.disk);
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
            ("cluster", _) => self.found(rest),
            ("node", [id, options @ ..]) => self.add(node(id), options),
            ("tick", ids) => ids.iter().for_each(|id| self.tick(node(id))),
            ("wait", [time]) => self.cluster.now = self.cluster.now.plus_us(millis(time) * 1000),
            // A node's own: other members may ask for leases, and all the same are bound by those of others.
            ("reads", [mode]) => {
                self.cluster.settings.reads = if *mode == "lease" { ReadMode::Lease } else { ReadMode::Index }
            }
            ("clock", [id, permille]) => self.cluster.set_clock(node(id), number(permille)),
            ("run", [time]) => self.run_for(millis(time) * 1000),
            ("elect", [id]) => self.elect(node(id)),
            ("settle", []) => self.settle(),
            ("propose", [id, commands @ ..]) => {
                let outputs = self.cluster.propose(node(id), commands);
                self.note(node(id), outputs);
            }
            ("read", [id]) => {
                let (_, outputs) = self.cluster.read(node(id));
                self.note(node(id), outputs);
            }
            ("transfer", [id, to]) => self.step(node(id), Call::Transfer(node(to).name)),
            ("snapshot", [id]) => {
                let outputs = self.cluster.take_snapshot(node(id)).expect("something new was applied");
                self.note(node(id), outputs);
            }
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
            // Of a node that is down: entries are lost, and its disk knows.
            ("lose", [id, options @ ..]) => {
                let keep = Index(number(needed(options, "keep")));
                self.cluster.lose(node(id), keep, Index(number(needed(options, "past"))));
            }
            ("restart", [id]) => self.cluster.start(node(id)),
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
            ("change", [id, wish @ ..]) => {
                let change = match wish {
                    ["add", who] => Change::AddLearner(node(who)),
                    ["remove", who] => Change::RemoveLearner(node(who)),
                    ["replace", old, "by", new] => Change::Replace { incoming: node(new), outgoing: node(old) },
                    ["voters", list] => Change::Voters(nodes(list)),
                    ["voters"] => Change::Voters(BTreeSet::new()),
                    _ => panic!("no change: {wish:?}"),
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
            ("state", []) => self.shown.clear(),
            _ => panic!("no command: {words:?}"),
        }
    }

    fn step(&mut self, id: NodeId, call: impl Into<Call>) {
        let outputs = self.cluster.step(id, call);
        self.note(id, outputs);
    }

    fn note(&mut self, id: NodeId, outputs: Outputs) {
        for to in outputs.effects.snapshots_wanted {
            let meta = self.cluster.node(id).disk.snapshot.clone();
            self.wanted.insert((id, to), meta);
        }
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
        for text in value(options, "log").unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
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

    fn tick(&mut self, id: NodeId) {
        self.cluster.now = self.cluster.now.max(self.cluster.due_at(id));
        self.step(id, Input::Tick);
    }

    fn elect(&mut self, id: NodeId) {
        for _ in 0..10 {
            self.tick(id);
            self.settle();
            if self.cluster.raft(id).role() == Role::Leader {
                return;
            }
        }
        panic!("{} was not elected: {:#?}", trace::name(id), self.cluster.trace);
    }

    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let writer = self
                .cluster
                .nodes
                .iter()
                .find(|(id, node)| node.raft.is_some() && !node.writes.is_empty() && !self.slow.contains(*id));
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
        let asked = asked.unwrap_or_else(|| panic!("no question of {} is on the wire", trace::name(candidate)));
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
            let ids = value(args, "entries").unwrap_or_default().split(',').filter(|text| !text.is_empty());
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
