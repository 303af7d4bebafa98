//! *Every* order of events in a small configured group, up to bounds that are completed here, each time.
//!
//! Real cores, each with a disk, and a service with a plan of epochs: a join and a removal among them. Then anything
//! may happen in any order: the service decides, a node hears of a decision, a message arrives, a write completes, a
//! node crashes and comes back with any part of what it had not synced, a client proposes or reads, a lease is granted
//! or runs out. Breadth first, so the history that breaks an invariant is a shortest one.
//!
//! # What a state is
//! Time is no part of it ([`smr::internals::configured`]), and timers do not fire: all they do is repeat what was lost.
//! Nothing is: the wire keeps every message for ever, each may arrive as often as it likes or never. What a node does
//! depends on the node alone, so each (node, event) is computed once, by the real core, and a state is a few numbers.
//!
//! # Bounds
//! Those of the tests below; each completes in seconds on an idle machine. `explore_what_is_asked_for` goes further,
//! for as long as told; what it completed is in `docs/TESTING.md`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Entry, EntryId, Index, Term};
use smr::epoch::{EpochConfiguration, EpochKind};
use smr::id::NodeId;
use smr::internals::configured::message::Body;
use smr::internals::configured::{Configured, LEASE_MAX_US, Message, Settings, invariants};
use smr::internals::configured::{NOW, end_lease, entries, forget_time, join_latest_write};
use smr::internals::protocol::{
    Effects, Event, Input, LogChange, Protocol, ReadOutcome, ReadToken, Recovered, Report, StoredState, Time, Write,
    WriteId,
};
use smr::status::ReadMode;

/// States at most: about 4 GB.
const STATES_MAX: usize = 12_000_000;

/// How far an exploration goes.
#[derive(Clone, Debug)]
struct Bounds {
    kind: EpochKind,
    /// The members of each epoch, in order; a newcomer stands at the end.
    plan: Vec<Vec<u16>>,
    entries: u8,
    crashes: u8,
    reads: u8,
    leases: bool,
    time: Duration,
}

/// A part of a write that the disk may have when the rest of it is lost.
#[derive(Clone, Debug)]
enum Part {
    Stored(StoredState),
    Log(LogChange),
}

#[derive(Clone, Debug, Default)]
struct Disk {
    configuration: Option<EpochConfiguration>,
    entries: Vec<Entry>,
}

impl Disk {
    fn apply(&mut self, part: &Part) {
        match part {
            Part::Stored(StoredState::Configured(configuration)) => self.configuration = configuration.clone(),
            Part::Log(LogChange::RemoveFrom(index)) => self.entries.retain(|entry| entry.id.index < *index),
            Part::Log(LogChange::Append(new)) => self.entries.extend(new.iter().cloned()),
            Part::Stored(_) | Part::Log(_) => panic!("{part:?} is not written here"),
        }
    }
}

/// A write on its way to the disk.
#[derive(Clone, Debug)]
struct Pending {
    parts: Vec<Part>,
    then: Vec<(NodeId, Message)>,
}

/// A node: the real core, its disk and the writes between them.
#[derive(Clone, Debug)]
struct Local {
    core: Configured,
    disk: Disk,
    queue: VecDeque<Pending>,
    starts: u64,
}

/// What may happen to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Happens {
    Told(u8),
    Delivered(u32),
    Synced,
    Crashed(u8),
    Proposed(u8),
    Read(u8),
    Granted,
    Ended,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
struct Outcome {
    sent: Vec<(NodeId, Message)>,
    committed: Vec<Entry>,
    activated: Option<Term>,
    reads: Vec<ReadOutcome>,
}

/// A group: numbers of nodes and messages, and what is known outside of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    locals: Vec<u32>,
    wire: Vec<u32>,
    decided: u8,
    complete: u8,
    /// Epochs whose activation was reported, and not heard yet.
    reported: u8,
    leased: u8,
    crashes: u8,
    proposed: u8,
    /// For each read that was begun: who takes it, and how much was committed when it arrived.
    reads: Vec<(u8, u8)>,
    /// What is committed, and in which epoch.
    history: Vec<(EntryId, u64, u8)>,
}

/// Everything that was met, by number.
struct Tables {
    bounds: Bounds,
    locals: Vec<Local>,
    local_numbers: HashMap<String, u32>,
    messages: Vec<(NodeId, NodeId, Message)>,
    message_numbers: HashMap<String, u32>,
    steps: HashMap<(u32, Happens), Result<(u32, Outcome), String>>,
}

fn node(name: u16) -> NodeId {
    NodeId::new(name, 1)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn content(entry: &Entry) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("{:?}", entry.payload).as_bytes())
}

impl Local {
    fn start(bounds: &Bounds, id: NodeId, disk: Disk, starts: u64) -> Local {
        let reads = if bounds.leases { ReadMode::Lease } else { ReadMode::Index };
        let settings = Settings { kind: bounds.kind, inflight_appends_max: 1, reads, ..Settings::default() };
        let stored = StoredState::Configured(disk.configuration.clone());
        let recovered = Recovered { stored, entries: disk.entries.clone(), ..Recovered::default() };
        let mut core = Configured::new(settings, id, recovered, ChaCha8Rng::seed_from_u64(starts), Time(0));
        forget_time(&mut core);
        Local { core, disk, queue: VecDeque::new(), starts }
    }

    fn parts(&self) -> usize {
        self.queue.iter().map(|pending| pending.parts.len()).sum()
    }

    fn run(&mut self, bounds: &Bounds, happens: &Happens, message: Option<(NodeId, Message)>) -> Outcome {
        let mut outcome = Outcome::default();
        match happens {
            Happens::Told(epoch) => {
                let configuration = configuration(bounds, *epoch);
                self.act(&mut outcome, |core, effects| *effects = core.step(NOW, Input::Configured(configuration)));
            }
            Happens::Delivered(_) => {
                let (from, message) = message.expect("a message");
                self.act(&mut outcome, |core, effects| *effects = core.step(NOW, Input::Receive { from, message }));
            }
            Happens::Synced => {
                let Pending { parts, then } = self.queue.pop_front().expect("a write");
                parts.iter().for_each(|part| self.disk.apply(part));
                then.into_iter().for_each(|(to, message)| self.leave(to, message, &mut outcome));
                self.act(&mut outcome, |core, effects| *effects = core.step(NOW, Input::Durable(WriteId(1))));
            }
            Happens::Crashed(kept) => {
                let mut disk = self.disk.clone();
                let parts = self.queue.iter().flat_map(|pending| &pending.parts);
                parts.take(usize::from(*kept)).for_each(|part| disk.apply(part));
                *self = Local::start(bounds, self.core.status().node, disk, self.starts + 1);
            }
            Happens::Proposed(number) => {
                let commands = vec![Bytes::copy_from_slice(&[*number])];
                self.act(&mut outcome, |core, effects| {
                    core.propose(NOW, commands, effects).unwrap_or_else(|_| panic!("it orders"));
                });
            }
            Happens::Read(number) => {
                let token = ReadToken(u64::from(*number));
                self.act(&mut outcome, |core, effects| {
                    if core.read(NOW, token, effects).is_err() {
                        effects.reads.push(ReadOutcome::Failed { token });
                    }
                });
            }
            Happens::Granted => {
                let epoch = self.core.status().term;
                let grant = Input::LeaseGranted { epoch, asked_at: NOW, length_us: LEASE_MAX_US };
                self.act(&mut outcome, |core, effects| *effects = core.step(NOW, grant));
            }
            Happens::Ended => end_lease(&mut self.core),
        }
        forget_time(&mut self.core);
        outcome.sent.sort_by_cached_key(|sent| format!("{sent:?}"));
        outcome.sent.dedup();
        outcome
    }

    fn act(&mut self, outcome: &mut Outcome, act: impl FnOnce(&mut Configured, &mut Effects<Message>)) {
        let before = invariants::summary(&self.core);
        let commit = self.core.commit();
        let mut effects = Effects::default();
        act(&mut self.core, &mut effects);
        invariants::check(&self.core);
        invariants::check_transition(&before, &self.core);
        for write in effects.writes {
            self.take(&write);
        }
        for envelope in effects.messages {
            self.leave(envelope.to, envelope.message, outcome);
        }
        outcome.committed.extend(self.core.committed_from(commit.next(), usize::MAX, usize::MAX));
        for report in effects.reports {
            if let Report::Activated { epoch } = report {
                outcome.activated = Some(epoch);
            }
        }
        outcome.reads.extend(effects.reads);
        for event in effects.events {
            let broken =
                matches!(event, Event::ProtocolViolation { .. } | Event::Forgot { .. } | Event::LossProven { .. });
            assert!(!broken, "{event:?}");
        }
    }

    fn take(&mut self, write: &Write<Message>) {
        let stored = write.stored_state().cloned().map(Part::Stored);
        let parts: Vec<_> = stored.into_iter().chain(write.log().iter().cloned().map(Part::Log)).collect();
        // What only waits its turn leaves with the write it waits for. (Later would be the same as a slow network.)
        if parts.is_empty() {
            join_latest_write(&mut self.core);
        } else {
            self.queue.push_back(Pending { parts, then: Vec::new() });
        }
        let then = &mut self.queue.back_mut().expect("a write").then;
        then.extend(write.peek().iter().map(|envelope| (envelope.to, envelope.message.clone())));
        then.sort_by_cached_key(|sent| format!("{sent:?}"));
        then.dedup();
    }

    /// I11: what a message rests on is on the disk.
    fn leave(&self, to: NodeId, message: Message, outcome: &mut Outcome) {
        let epoch = self.disk.configuration.as_ref().map_or(Term::ZERO, |known| known.epoch);
        assert!(epoch >= message.epoch, "left before its epoch was durable: {message:?} (I11)");
        if let Body::Accepted { last } | Body::Durable { through: last } = &message.body {
            let has = *last == EntryId::ZERO || self.disk.entries.iter().any(|entry| entry.id == *last);
            assert!(has || epoch > message.epoch, "acknowledged before it was durable: {message:?} (I11)");
        }
        outcome.sent.push((to, message));
    }
}

fn configuration(bounds: &Bounds, epoch: u8) -> EpochConfiguration {
    let at = usize::from(epoch) - 1;
    let members: Vec<NodeId> = bounds.plan[at].iter().map(|name| node(*name)).collect();
    let before = at.checked_sub(1).map(|before| &bounds.plan[before]);
    let newcomer = bounds.plan[at].last().filter(|name| before.is_some_and(|before| !before.contains(name)));
    EpochConfiguration {
        epoch: Term(u64::from(epoch)),
        kind: bounds.kind,
        members,
        incomplete: newcomer.map(|name| node(*name)),
    }
}

fn mask(names: &[u16]) -> u8 {
    names.iter().fold(0, |mask, name| mask | 1 << name)
}

impl Tables {
    fn local(&mut self, local: Local) -> u32 {
        let key = format!("{local:?}");
        let next = self.locals.len() as u32;
        let number = *self.local_numbers.entry(key).or_insert(next);
        if number == next {
            self.locals.push(local);
        }
        number
    }

    fn message(&mut self, from: NodeId, to: NodeId, message: Message) -> u32 {
        let key = format!("{from:?}{to:?}{message:?}");
        let next = self.messages.len() as u32;
        let number = *self.message_numbers.entry(key).or_insert(next);
        if number == next {
            self.messages.push((from, to, message));
        }
        number
    }

    fn step(&mut self, local: u32, happens: &Happens) -> Result<(u32, Outcome), String> {
        if let Some(known) = self.steps.get(&(local, happens.clone())) {
            return known.clone();
        }
        let message = match happens {
            Happens::Delivered(number) => {
                let (from, _, message) = self.messages[*number as usize].clone();
                Some((from, message))
            }
            _ => None,
        };
        let (mut next, bounds) = (self.locals[local as usize].clone(), self.bounds.clone());
        let stepped = catch_unwind(AssertUnwindSafe(move || {
            let outcome = next.run(&bounds, happens, message);
            (next, outcome)
        }));
        let result =
            stepped.map_err(|panic| text_of(panic.as_ref())).map(|(next, outcome)| (self.local(next), outcome));
        self.steps.insert((local, happens.clone()), result.clone());
        result
    }

    /// Everything that may happen next.
    fn successors(&mut self, state: &State) -> Result<Vec<(String, State)>, String> {
        let mut found = Vec::new();
        let bounds = self.bounds.clone();
        for at in 0..state.locals.len() {
            let number = state.locals[at];
            let local = &self.locals[number as usize];
            let (parts, writes) = (local.parts(), !local.queue.is_empty());
            let (epoch, orders) = (local.core.status().term.0 as u8, invariants::orders(&local.core));
            let (complete, leased) = (invariants::is_complete(&local.core), state.leased & 1 << at != 0);
            let mut happens = Vec::new();
            happens.extend((epoch + 1..=state.decided).map(Happens::Told));
            let arrive = |number: &&u32| self.messages[**number as usize].1 == node(at as u16);
            happens.extend(state.wire.iter().filter(arrive).map(|number| Happens::Delivered(*number)));
            if writes {
                happens.push(Happens::Synced);
            }
            if state.crashes < bounds.crashes {
                happens.extend((0..=parts as u8).map(Happens::Crashed));
            }
            if orders && state.proposed < bounds.entries {
                happens.push(Happens::Proposed(state.proposed + 1));
            }
            if complete && state.reads.len() < usize::from(bounds.reads) {
                happens.push(Happens::Read(state.reads.len() as u8));
            }
            if bounds.leases && complete && !leased && self.may_lease(state, at as u16, epoch) {
                happens.push(Happens::Granted);
            }
            if leased {
                happens.push(Happens::Ended);
            }
            for event in happens {
                let (next, outcome) =
                    self.step(number, &event).map_err(|what| format!("node {at}, {event:?}: {what}"))?;
                let after = self.after(state, at, next, &event, outcome);
                let after = after.map_err(|what| format!("node {at}, {}: {what}", self.told(&event)))?;
                if after != *state {
                    found.push((format!("node {at}: {}", self.told(&event)), after));
                }
            }
        }
        if let Some(next) = self.decide(state) {
            found.push((format!("the service decides on {}", configuration(&bounds, next.decided)), next));
        }
        for epoch in 1..=state.decided {
            if state.reported & 1 << epoch != 0 {
                let mut next = state.clone();
                next.reported &= !(1 << epoch);
                if epoch == state.decided {
                    next.complete = mask(&bounds.plan[usize::from(epoch) - 1]);
                }
                found.push((format!("the service hears that epoch {epoch} is activated"), next));
            }
        }
        Ok(found)
    }

    fn told(&self, event: &Happens) -> String {
        match event {
            Happens::Delivered(number) => {
                let (from, _, message) = &self.messages[*number as usize];
                format!("hears from {from}: epoch {}, {:?}", message.epoch, message.body)
            }
            other => format!("{other:?}"),
        }
    }

    /// The service's rule for leases.
    fn may_lease(&self, state: &State, name: u16, epoch: u8) -> bool {
        let since = epoch.max(1)..=state.decided;
        let always = since.into_iter().all(|epoch| self.bounds.plan[usize::from(epoch) - 1].contains(&name));
        always && state.complete & 1 << name != 0
    }

    /// The service's rules for the next epoch of its plan.
    fn decide(&self, state: &State) -> Option<State> {
        let present = &self.bounds.plan[usize::from(state.decided) - 1];
        let members = self.bounds.plan.get(usize::from(state.decided))?;
        let joins = members.iter().any(|name| !present.contains(name));
        let first_is_complete = state.complete & 1 << members[0] != 0;
        let all_complete = mask(present) == state.complete;
        let gone = mask(present) & !mask(members);
        if !first_is_complete || (joins && !all_complete) || state.leased & gone != 0 {
            return None;
        }
        let mut next = state.clone();
        next.decided += 1;
        next.complete &= mask(members);
        Some(next)
    }

    /// The state after a node's step, with all that has to hold for the group.
    fn after(
        &mut self,
        state: &State,
        at: usize,
        local: u32,
        event: &Happens,
        outcome: Outcome,
    ) -> Result<State, String> {
        let mut next = state.clone();
        next.locals[at] = local;
        let wire: BTreeSet<u32> = outcome
            .sent
            .into_iter()
            .map(|(to, message)| self.message(node(at as u16), to, message))
            .chain(next.wire.iter().copied())
            .collect();
        next.wire = wire.into_iter().collect();
        match event {
            Happens::Crashed(_) => {
                next.crashes += 1;
                next.leased &= !(1 << at);
            }
            Happens::Proposed(_) => next.proposed += 1,
            Happens::Read(_) => next.reads.push((at as u8, state.history.len() as u8)),
            Happens::Granted => next.leased |= 1 << at,
            Happens::Ended => next.leased &= !(1 << at),
            Happens::Told(_) | Happens::Delivered(_) | Happens::Synced => {}
        }
        let core = &self.locals[local as usize].core;
        let epoch = core.status().term.0 as u8;
        for entry in &outcome.committed {
            let place = entry.id.index.0 as usize - 1;
            match next.history.get(place) {
                Some((id, hash, _)) if (*id, *hash) == (entry.id, content(entry)) => {}
                Some((id, ..)) => return Err(format!("commits {} where {id} was committed (I7)", entry.id)),
                None => {
                    let members = &self.bounds.plan[usize::from(epoch) - 1];
                    for member in members {
                        let disk = &self.locals[next.locals[usize::from(*member)] as usize].disk;
                        if !disk.entries.contains(entry) {
                            return Err(format!("commits {}, which {member} does not have on disk (I8)", entry.id));
                        }
                    }
                    next.history.push((entry.id, content(entry), epoch));
                }
            }
        }
        if let Some(activated) = outcome.activated {
            next.reported |= 1 << activated.0;
        }
        for read in outcome.reads {
            if let ReadOutcome::Ready { token, index } = read {
                let (_, needed) = next.reads[token.0 as usize];
                if index < Index(u64::from(needed)) {
                    return Err(format!("stale read: answers from {index}, and {needed} was committed"));
                }
            }
        }
        self.check_group(&next)?;
        Ok(next)
    }

    /// What is committed is in the log of every complete member of this epoch and of later ones; equal names are equal
    /// entries.
    fn check_group(&self, state: &State) -> Result<(), String> {
        let mut seen: BTreeMap<EntryId, u64> = BTreeMap::new();
        for (at, number) in state.locals.iter().enumerate() {
            let local = &self.locals[*number as usize];
            let epoch = local.core.status().term.0 as u8;
            let log: Vec<_> = entries(&local.core).collect();
            let is_durable = local.disk.configuration.as_ref().is_some_and(|known| known.epoch.0 as u8 == epoch);
            for entry in log.iter().filter(|_| is_durable) {
                if *seen.entry(entry.id).or_insert_with(|| content(entry)) != content(entry) {
                    return Err(format!("two entries {} (I5)", entry.id));
                }
            }
            if invariants::is_complete(&local.core) {
                for (place, (id, hash, committed_in)) in state.history.iter().enumerate() {
                    let own = log.get(place).map(|entry| (entry.id, content(entry)));
                    if *committed_in <= epoch && own != Some((*id, *hash)) {
                        return Err(format!("node {at} is complete in epoch {epoch} without {id}"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many states and commits were met, or the shortest history that breaks something.
fn explore(bounds: Bounds) -> (usize, usize, bool) {
    let begun = Instant::now();
    let nodes = bounds.plan.iter().flatten().copied().max().unwrap_or(0) + 1;
    let mut tables = Tables {
        bounds: bounds.clone(),
        locals: Vec::new(),
        local_numbers: HashMap::new(),
        messages: Vec::new(),
        message_numbers: HashMap::new(),
        steps: HashMap::new(),
    };
    let locals = (0..nodes).map(|name| Local::start(&bounds, node(name), Disk::default(), 1));
    let locals: Vec<_> = locals.collect::<Vec<_>>().into_iter().map(|local| tables.local(local)).collect();
    let first = State {
        locals,
        wire: Vec::new(),
        decided: 1,
        complete: mask(&bounds.plan[0]),
        reported: 0,
        leased: 0,
        crashes: 0,
        proposed: 0,
        reads: Vec::new(),
        history: Vec::new(),
    };
    let silence = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut known: HashSet<u128> = HashSet::new();
    let mut parents: Vec<(u32, String)> = vec![(0, String::new())];
    let mut queue = VecDeque::from([(0_u32, first.clone())]);
    let key = |state: &State| xxhash_rust::xxh3::xxh3_128(format!("{state:?}").as_bytes());
    known.insert(key(&first));
    let (mut broken, mut completed, mut longest) = (None, true, 0);
    while let Some((number, state)) = queue.pop_front() {
        longest = longest.max(state.history.len());
        match tables.successors(&state) {
            Err(what) => {
                broken = Some((number, what));
                break;
            }
            Ok(found) => {
                for (by, next) in found {
                    if known.insert(key(&next)) {
                        parents.push((number, by));
                        queue.push_back((parents.len() as u32 - 1, next));
                    }
                }
            }
        }
        if begun.elapsed() > bounds.time || known.len() > STATES_MAX {
            completed = false;
            break;
        }
    }
    std::panic::set_hook(silence);
    if let Some((mut number, what)) = broken {
        let mut steps = Vec::new();
        while number != 0 {
            let (parent, by) = &parents[number as usize];
            steps.push(by.clone());
            number = *parent;
        }
        steps.reverse();
        panic!("{what}\n{}", steps.join("\n"));
    }
    let (states, nodes) = (known.len(), tables.locals.len());
    println!(
        "{bounds:?}: {states} states, {nodes} different nodes, {} messages, {longest} commits, {:?}, completed: \
         {completed}",
        tables.messages.len(),
        begun.elapsed()
    );
    (states, longest, completed)
}

fn completed(bounds: Bounds, commits: usize) {
    let (states, longest, completed) = explore(bounds.clone());
    assert!(completed, "{bounds:?}: not completed after {states} states");
    assert!(longest >= commits, "{bounds:?}: no history commits more than {longest} entries");
}

fn bounds(kind: EpochKind, plan: &[&[u16]]) -> Bounds {
    let plan = plan.iter().map(|members| members.to_vec()).collect();
    let time = Duration::from_secs(300);
    Bounds { kind, plan, entries: 1, crashes: 0, reads: 0, leases: false, time }
}

// covers K1 K3 K7 K9 K17: a newcomer joins a single member, which is removed then; either may crash.
#[test]
fn explore_join_and_removal_every_order_is_safe() {
    completed(Bounds { crashes: 1, ..bounds(EpochKind::Active, &[&[0], &[0, 1], &[1]]) }, 4);
    completed(bounds(EpochKind::Chain, &[&[0], &[0, 1], &[1]]), 4);
}

// covers K9 K18: two members, and either may crash at any moment with the loss of any part of what it had not synced.
#[test]
fn explore_crash_and_next_epoch_every_order_is_safe() {
    for kind in [EpochKind::Active, EpochKind::Chain] {
        completed(Bounds { crashes: 1, entries: 0, ..bounds(kind, &[&[0, 1], &[0, 1]]) }, 2);
    }
}

// covers K2: a read at any member, by a lease or by asking.
#[test]
fn explore_read_and_removal_every_order_is_safe() {
    for leases in [false, true] {
        completed(Bounds { reads: 1, leases, entries: 0, ..bounds(EpochKind::Active, &[&[0, 1], &[0]]) }, 2);
    }
}

/// What the environment asks for: a kind, the members of each epoch in order, and how much may happen, for example
/// `EXPLORE="active 0/01/1 entries=1 crashes=1 reads=1 leases minutes=10"`.
#[test]
#[ignore = "takes as long as told"]
fn explore_what_is_asked_for() {
    let asked = std::env::var("EXPLORE").expect("EXPLORE=\"active 0/01/1 entries=1\"");
    let words: Vec<&str> = asked.split_whitespace().collect();
    let number = |key: &str| {
        let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.map_or(0, |text| text.parse().unwrap_or_else(|error| panic!("{key}={text}: {error}")))
    };
    let kind = match words[0] {
        "active" => EpochKind::Active,
        "chain" => EpochKind::Chain,
        other => panic!("no kind that is explored: {other}"),
    };
    let member = |digit: char| digit.to_digit(10).unwrap_or_else(|| panic!("no member: {digit}")) as u16;
    explore(Bounds {
        kind,
        plan: words[1].split('/').map(|epoch| epoch.chars().map(member).collect()).collect(),
        entries: number("entries"),
        crashes: number("crashes"),
        reads: number("reads"),
        leases: words.contains(&"leases"),
        time: Duration::from_secs(60 * u64::from(number("minutes").max(1))),
    });
}
