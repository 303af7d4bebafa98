//! Golden scripts, whichever core they are about: commands in, a trace out, which is compared with what the file holds.
//!
//! Commands about the wire, disks and time are the same for all, and are here; what else a core can be told is for its
//! [`Play::execute`].

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

pub(crate) mod files;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use smr::id::NodeId;
use smr::internals::protocol::{Input, Time};

use self::words::{millis, node, number, value};
use crate::core_cluster::{Flying, name};

/// More steps than this in one command mean that it never ends.
const STEPS_MAX: usize = 20_000;

/// A cluster of cores that scripts are played on, and what its own commands have to remember.
pub(crate) trait Play: Sized {
    type Message: Clone;
    type Outputs;

    /// Does what only this core knows.
    fn execute(script: &mut Script<Self>, words: &[&str]);

    /// Remembers what a step asked for.
    fn note(&mut self, id: NodeId, outputs: Self::Outputs);

    fn trace(&mut self) -> &mut Option<Vec<String>>;
    fn wire(&mut self) -> &mut Vec<Flying<Self::Message>>;
    fn now(&mut self) -> &mut Time;
    fn nodes(&self) -> Vec<NodeId>;
    fn is_up(&self, id: NodeId) -> bool;
    /// When a node that is up wants to look at its clock.
    fn due_at(&self, id: NodeId) -> Time;
    /// How many writes are issued and not durable.
    fn writes(&self, id: NodeId) -> usize;
    fn sync(&mut self, id: NodeId, count: usize) -> Option<Self::Outputs>;
    fn deliver(&mut self, position: usize) -> Option<Self::Outputs>;
    fn happens(&mut self, id: NodeId, input: Input<Self::Message>) -> Self::Outputs;
    fn propose(&mut self, id: NodeId, commands: &[&str]) -> Self::Outputs;
    fn read(&mut self, id: NodeId) -> Self::Outputs;
    fn take_snapshot(&mut self, id: NodeId) -> Option<Self::Outputs>;
    fn crash(&mut self, id: NodeId, survive: usize);
    fn start(&mut self, id: NodeId);

    /// One line about a node.
    fn state(&self, id: NodeId) -> String;
    /// The first word of a message.
    fn kind(message: &Self::Message) -> String;
    /// A message in words.
    fn told(message: &Self::Message) -> String;
}

/// A script that runs.
pub(crate) struct Script<P: Play> {
    pub(crate) play: P,
    cut: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeSet<NodeId>,
    delayed: Vec<Flying<P::Message>>,
    shown: BTreeMap<NodeId, String>,
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl<P: Play> Script<P> {
    pub(crate) fn new(play: P) -> Script<P> {
        Script { play, cut: BTreeSet::new(), slow: BTreeSet::new(), delayed: Vec::new(), shown: BTreeMap::new() }
    }

    /// Runs a command; returns its trace.
    pub(crate) fn run(&mut self, command: &str) -> Vec<String> {
        let mut words: Vec<_> = command.split_whitespace().collect();
        let (quiet, panics) = (words[0] == "quiet", words[0] == "panics");
        if quiet || panics {
            words.remove(0);
        }
        *self.play.trace() = Some(Vec::new());
        if panics {
            let silence = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let result = catch_unwind(AssertUnwindSafe(|| self.execute(&words)));
            std::panic::set_hook(silence);
            let panic = result.expect_err("the node should have stopped");
            self.say(format!("    stops: {}", panic_text(panic.as_ref())));
            self.shown.clear();
            return self.play.trace().take().unwrap_or_default();
        }
        self.execute(&words);
        let mut lines = self.play.trace().take().unwrap_or_default();
        if quiet {
            lines.clear();
        }
        lines.extend(self.changed_states());
        lines
    }

    fn changed_states(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for id in self.play.nodes() {
            let state = self.play.state(id);
            if self.shown.get(&id) != Some(&state) {
                lines.push(state.clone());
                self.shown.insert(id, state);
            }
        }
        lines
    }

    fn execute(&mut self, words: &[&str]) {
        let (command, rest) = words.split_first().expect("a command");
        match (*command, rest) {
            ("tick", ids) => ids.iter().for_each(|id| self.tick(node(id))),
            ("wait", [time]) => {
                let now = self.play.now();
                *now = now.plus_us(millis(time) * 1000);
            }
            ("run", [time]) => self.run_for(millis(time) * 1000),
            ("settle", []) => self.settle(),
            ("propose", [id, commands @ ..]) => {
                let outputs = self.play.propose(node(id), commands);
                self.play.note(node(id), outputs);
            }
            ("read", [id]) => {
                let outputs = self.play.read(node(id));
                self.play.note(node(id), outputs);
            }
            ("snapshot", [id]) => {
                let outputs = self.play.take_snapshot(node(id)).expect("something new for a snapshot");
                self.play.note(node(id), outputs);
            }
            ("disconnect", [id, from]) => self.happens(node(id), Input::Disconnected(node(from))),
            ("deliver" | "drop" | "copy" | "delay", [from, to, kind @ ..]) => {
                self.pick(command, from, to, kind.first().copied());
            }
            ("arrive", []) => {
                let delayed = std::mem::take(&mut self.delayed);
                self.play.wire().extend(delayed);
            }
            ("cut", [from, "->", to]) => drop(self.cut.insert((node(from), node(to)))),
            ("cut", [one, other]) => self.cut.extend([(node(one), node(other)), (node(other), node(one))]),
            ("isolate", [id]) => {
                let id = node(id);
                let others = self.play.nodes().into_iter().filter(|other| *other != id);
                self.cut.extend(others.flat_map(|other| [(id, other), (other, id)]));
            }
            ("heal", []) => self.cut.clear(),
            ("sync", [id, count @ ..]) => {
                let count = count.first().map_or_else(|| self.play.writes(node(id)), |text| number(text));
                self.sync(node(id), count);
            }
            ("slow", [id]) => drop(self.slow.insert(node(id))),
            ("fast", [id]) => drop(self.slow.remove(&node(id))),
            ("crash", [id, options @ ..]) => {
                let survive = value(options, "survive").map_or(0, number);
                self.play.crash(node(id), survive);
            }
            ("restart", [id]) => self.play.start(node(id)),
            ("state", []) => self.shown.clear(),
            _ => P::execute(self, words),
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, line: String) {
        if let Some(trace) = self.play.trace() {
            trace.push(line);
        }
    }

    pub(crate) fn happens(&mut self, id: NodeId, input: Input<P::Message>) {
        let outputs = self.play.happens(id, input);
        self.play.note(id, outputs);
    }

    pub(crate) fn tick(&mut self, id: NodeId) {
        let due = self.play.due_at(id);
        let now = self.play.now();
        *now = (*now).max(due);
        self.happens(id, Input::Tick);
    }

    fn sync(&mut self, id: NodeId, count: usize) {
        let outputs = self.play.sync(id, count).expect("something to write");
        self.play.note(id, outputs);
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let writes = |id: &NodeId| self.play.is_up(*id) && self.play.writes(*id) > 0 && !self.slow.contains(id);
            let writer = self.play.nodes().into_iter().find(writes);
            if !self.play.wire().is_empty() {
                self.deliver(0);
            } else if let Some(id) = writer {
                self.sync(id, self.play.writes(id));
            } else {
                return;
            }
        }
        panic!("messages without end");
    }

    fn run_for(&mut self, us: u64) {
        let end = self.play.now().plus_us(us);
        for _ in 0..STEPS_MAX {
            self.settle();
            let up = self.play.nodes().into_iter().filter(|id| self.play.is_up(*id));
            let due = up.map(|id| (self.play.due_at(id), id)).min();
            let Some((at, id)) = due.filter(|(at, _)| *at <= end) else {
                *self.play.now() = end;
                return;
            };
            let now = self.play.now();
            *now = (*now).max(at);
            self.happens(id, Input::Tick);
        }
        panic!("timers without end");
    }

    fn deliver(&mut self, position: usize) {
        let flying = &self.play.wire()[position];
        let (from, to) = (flying.from, flying.to);
        if self.cut.contains(&(from, to)) || !self.play.is_up(to) {
            self.lose(position);
        } else if let Some(outputs) = self.play.deliver(position) {
            self.play.note(to, outputs);
        }
    }

    fn lose(&mut self, position: usize) {
        let flying = self.play.wire().remove(position);
        let (from, to) = (name(flying.from), name(flying.to));
        self.say(format!("lost from {from} to {to}: {}", P::told(&flying.message)));
    }

    fn pick(&mut self, command: &str, from: &str, to: &str, kind: Option<&str>) {
        let fits = |flying: &Flying<P::Message>| {
            (from == "*" || flying.from == node(from))
                && (to == "*" || flying.to == node(to))
                && kind.is_none_or(|kind| P::kind(&flying.message) == kind)
        };
        let mut picked = 0;
        // Only what is there now, not what the deliveries cause.
        let mut remaining = self.play.wire().len();
        let mut position = 0;
        while remaining > 0 {
            remaining -= 1;
            if !fits(&self.play.wire()[position]) {
                position += 1;
                continue;
            }
            picked += 1;
            match command {
                "deliver" => self.deliver(position),
                "drop" => self.lose(position),
                "delay" => {
                    let flying = self.play.wire().remove(position);
                    self.delayed.push(flying);
                }
                _ => {
                    let flying = self.play.wire()[position].clone();
                    self.delayed.push(flying);
                    position += 1;
                }
            }
        }
        assert!(picked > 0, "no such message on the wire: {from} {to} {kind:?}");
    }
}
