//! Random histories of whole groups: crashes, losses, doubles, reordering, snapshots, changes of members, transfers.
//! First chaos, in which only safety is judged, then calm, in which the group has to agree again. One seed decides
//! everything; a failure names it.

mod core_cluster;
mod raft_cluster;

use std::collections::BTreeMap;

use raft_cluster::{Answer, Call, Cluster, Disk, Outputs};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smr::entry::{Entry, EntryId, Genesis, HardState, Payload, SnapshotMeta, Term};
use smr::id::{NodeId, ReplicaId};
use smr::internals::protocol::{Input, Protocol, Time};
use smr::internals::raft::message::Body;
use smr::internals::raft::{Change, Settings};
use smr::status::{ReadMode, Role};

/// How many histories, and how many events each.
const HISTORIES: u64 = 300;
const EVENTS: u64 = 700;

struct Chaos {
    cluster: Cluster,
    rng: ChaCha8Rng,
    /// Links that are cut, one way.
    cut: Vec<(NodeId, NodeId)>,
    /// Snapshots under way: from whom to whom.
    transfers: Vec<(NodeId, NodeId, SnapshotMeta)>,
    next_name: u16,
    /// How much goes well between two events: 0 nothing, 1 a little, 2 most.
    mood: usize,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let settings = Settings {
            append_entries_max: 3,
            append_bytes_max: 300,
            inflight_appends_max: 3,
            log_retain_bytes: 400,
            log_retain_held_bytes: if seed.is_multiple_of(3) { 400 } else { 100 },
            log_retain_sending_bytes: 800,
            reads: if seed % 4 == 3 { ReadMode::Lease } else { ReadMode::Index },
            lease_us: Settings::default().election_timeout_us,
            ..Settings::default()
        };
        let mut cluster = Cluster::new(seed, settings);
        let size = [1, 2, 3, 3, 3, 4, 5, 5][(rng.next_u32() % 8) as usize];
        let members: Vec<_> = (0..size).map(|name| NodeId::new(name, 1)).collect();
        cluster.found(&members);
        let mood = (seed % 3) as usize;
        Chaos { cluster, rng, cut: Vec::new(), transfers: Vec::new(), next_name: size, mood }
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.rng.next_u64() % limit.max(1) as u64) as usize
    }

    fn any(&mut self, ids: &[NodeId]) -> Option<NodeId> {
        let position = self.below(ids.len());
        ids.get(position).copied()
    }

    fn any_up(&mut self) -> Option<NodeId> {
        let up: Vec<_> = self.cluster.up().into_iter().collect();
        self.any(&up)
    }

    fn note(&mut self, id: NodeId, outputs: Outputs) {
        for to in outputs.effects.snapshots_wanted {
            self.transfers.push((id, to, SnapshotMeta::default()));
        }
    }

    /// Some messages arrive and some disks write, without any fault.
    fn go_well(&mut self) {
        for _ in 0..self.mood * 3 {
            if !self.cluster.wire.is_empty() {
                let flying = &self.cluster.wire[0];
                let (to, cut) = (flying.to, self.cut.contains(&(flying.from, flying.to)));
                if cut {
                    self.cluster.wire.remove(0);
                } else if let Some((_, outputs)) = self.cluster.deliver(0) {
                    self.note(to, outputs);
                }
            }
            if let Some(id) = self.any_up()
                && let Some(outputs) = self.cluster.sync(id, 9)
            {
                self.note(id, outputs);
            }
        }
    }

    fn event(&mut self) {
        self.go_well();
        match self.below(100) {
            0..=39 => self.deliver_any(),
            40..=64 => {
                if let Some(id) = self.any_up() {
                    let count = 1 + self.below(3);
                    if let Some(outputs) = self.cluster.sync(id, count) {
                        self.note(id, outputs);
                    }
                }
            }
            65..=75 => self.advance(),
            76..=84 => {
                let id = match self.cluster.leader() {
                    Some(leader) if self.below(10) > 0 => Some(leader),
                    _ => self.any_up(),
                };
                if let Some(id) = id {
                    let text = format!("command {}", self.rng.next_u32());
                    let outputs = self.cluster.propose(id, &[&text, "more"]);
                    self.note(id, outputs);
                }
            }
            85..=87 => {
                if let Some(id) = self.cluster.leader() {
                    let (_, outputs) = self.cluster.read(id);
                    self.note(id, outputs);
                }
            }
            88..=89 if self.mood < 2 || self.below(4) == 0 => self.crash_or_start(),
            88..=89 => self.carry_snapshot(),
            90 => self.cut_or_heal(),
            91..=92 => {
                if let Some(id) = self.any_up()
                    && let Some(outputs) = self.cluster.take_snapshot(id)
                {
                    self.note(id, outputs);
                }
            }
            93..=95 => self.carry_snapshot(),
            96 => {
                if let (Some(id), Some(other)) = (self.any_up(), self.cluster.leader()) {
                    let outputs = self.cluster.step(id, Input::Disconnected(other));
                    self.note(id, outputs);
                }
            }
            97 => {
                if let (Some(leader), Some(target)) = (self.cluster.leader(), self.any_up()) {
                    let outputs = self.cluster.step(leader, Call::Transfer(target.name));
                    self.note(leader, outputs);
                }
            }
            _ => self.change(),
        }
    }

    fn deliver_any(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        // Mostly in order, sometimes any.
        let position = if self.below(3) > 0 { 0 } else { self.below(self.cluster.wire.len()) };
        let flying = &self.cluster.wire[position];
        let cut = self.cut.contains(&(flying.from, flying.to));
        let to = flying.to;
        match self.below(20) {
            _ if cut => drop(self.cluster.wire.remove(position)),
            0 => drop(self.cluster.wire.remove(position)),
            1 => {
                let copy = self.cluster.wire[position].clone();
                self.cluster.wire.push(copy);
            }
            _ => {
                if let Some((_, outputs)) = self.cluster.deliver(position) {
                    self.note(to, outputs);
                }
            }
        }
    }

    fn advance(&mut self) {
        let step_us = [1_000, 20_000, 100_000, 100_000, 700_000][self.below(5)];
        self.cluster.now = self.cluster.now.plus_us(step_us);
        for id in self.cluster.up() {
            // Not everyone looks at the clock at once.
            if self.below(3) > 0 && self.cluster.raft(id).deadline() <= self.cluster.now {
                let outputs = self.cluster.step(id, Input::Tick);
                self.note(id, outputs);
                assert!(self.cluster.raft(id).deadline() > self.cluster.now, "{id} would tick for ever");
            }
        }
    }

    fn crash_or_start(&mut self) {
        let all: Vec<_> = self.cluster.nodes.keys().copied().collect();
        let Some(id) = self.any(&all) else { return };
        if self.cluster.is_up(id) {
            let survive = self.below(4);
            self.cluster.crash(id, survive);
            self.cluster.count("crash");
        } else {
            self.cluster.start(id);
        }
    }

    fn cut_or_heal(&mut self) {
        let all: Vec<_> = self.cluster.nodes.keys().copied().collect();
        if self.below(3) == 0 {
            self.cut.clear();
        } else if let (Some(from), Some(to)) = (self.any(&all), self.any(&all)) {
            self.cut.push((from, to));
            if self.below(2) == 0 {
                self.cut.push((to, from));
            }
        }
    }

    /// A transfer begins (the sender's snapshot of that moment), ends well, or fails.
    fn carry_snapshot(&mut self) {
        let position = self.below(self.transfers.len());
        let Some((from, to, meta)) = self.transfers.get(position).cloned() else { return };
        if meta == SnapshotMeta::default() {
            self.transfers[position].2 = self.cluster.node(from).disk.snapshot.clone();
            return;
        }
        self.transfers.remove(position);
        let mut ended: Option<EntryId> = None;
        if self.cluster.is_up(to) && self.below(4) > 0 {
            let outputs = self.cluster.send_snapshot(meta.clone(), to);
            self.note(to, outputs);
            ended = Some(meta.last);
        }
        if self.cluster.is_up(from) {
            let outputs = self.cluster.step(from, Input::SnapshotSent { to, last: ended });
            self.note(from, outputs);
        }
    }

    fn change(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let configuration = self.cluster.raft(leader).status().configuration;
        let voters: Vec<_> = configuration.voters.iter().copied().collect();
        let learners: Vec<_> = configuration.learners.iter().copied().collect();
        let change = match self.below(6) {
            0 | 1 if self.cluster.nodes.len() < 8 => {
                let node = NodeId { name: ReplicaId(self.next_name), ..NodeId::new(0, 1) };
                self.next_name += 1;
                self.cluster.add(node, Disk::default());
                Change::AddLearner(node)
            }
            2 => match self.any(&learners) {
                Some(learner) => Change::RemoveLearner(learner),
                None => return,
            },
            3 | 4 => match (self.any(&learners), self.any(&voters)) {
                (Some(incoming), Some(outgoing)) => Change::Replace { incoming, outgoing },
                _ => return,
            },
            _ => {
                let members: Vec<_> = configuration.members().into_iter().collect();
                Change::Voters(members.into_iter().filter(|_| self.below(3) > 0).collect())
            }
        };
        let outputs = self.cluster.step(leader, change);
        if matches!(outputs.answer, Answer::Changed(Ok(_))) {
            self.cluster.count("change begun");
        }
        self.note(leader, outputs);
    }

    /// Everyone runs, nothing is lost, time passes: there must be one leader that commits a fresh entry everywhere.
    fn calm(&mut self) {
        self.cut.clear();
        let all: Vec<_> = self.cluster.nodes.keys().copied().collect();
        for id in &all {
            if !self.cluster.is_up(*id) {
                self.cluster.start(*id);
            }
        }
        let mut proposed = false;
        for _ in 0..1500 {
            self.settle();
            if let Some(leader) = self.cluster.leader() {
                if !proposed {
                    let outputs = self.cluster.propose(leader, &["calm"]);
                    proposed = matches!(outputs.answer, Answer::Proposed(Ok(_)));
                    self.note(leader, outputs);
                } else if self.agrees(leader) {
                    return;
                }
            }
            self.cluster.now = Time(self.cluster.now.0 + 10_000);
            for id in &all {
                if self.cluster.raft(*id).deadline() <= self.cluster.now {
                    let outputs = self.cluster.step(*id, Input::Tick);
                    self.note(*id, outputs);
                }
            }
        }
        let states: Vec<_> = all.iter().map(|id| format!("{:#?}", self.cluster.raft(*id).status())).collect();
        panic!("no agreement in calm (proposed: {proposed}): {}", states.join("\n"));
    }

    /// Delivers everything.
    fn settle(&mut self) {
        for _ in 0..2000 {
            for id in self.cluster.up() {
                let waiting = self.cluster.node(id).writes.len();
                if let Some(outputs) = self.cluster.sync(id, waiting) {
                    self.note(id, outputs);
                }
            }
            for (from, to, meta) in std::mem::take(&mut self.transfers) {
                let snapshot = self.cluster.node(from).disk.snapshot.clone();
                let meta = if meta == SnapshotMeta::default() { snapshot } else { meta };
                let outputs = self.cluster.send_snapshot(meta.clone(), to);
                self.note(to, outputs);
                let outputs = self.cluster.step(from, Input::SnapshotSent { to, last: Some(meta.last) });
                self.note(from, outputs);
            }
            if self.cluster.wire.is_empty() {
                return;
            }
            let to = self.cluster.wire[0].to;
            if let Some((_, outputs)) = self.cluster.deliver(0) {
                self.note(to, outputs);
            }
        }
        panic!("messages without end");
    }

    fn agrees(&self, leader: NodeId) -> bool {
        let status = self.cluster.raft(leader).status();
        let members = status.configuration.members();
        let done = |id: &NodeId| self.cluster.raft(*id).status().commit == status.last.index;
        let others = self.cluster.nodes.keys().filter(|id| **id != leader);
        let leaders = others.filter(|id| self.cluster.raft(**id).role() == Role::Leader).count();
        !status.configuration.is_joint() && leaders == 0 && members.iter().all(done)
    }
}

fn run(seed: u64, counts: &mut BTreeMap<&'static str, u64>) {
    let mut chaos = Chaos::new(seed);
    for _ in 0..EVENTS {
        chaos.event();
    }
    chaos.calm();
    for (what, count) in &chaos.cluster.counts {
        *counts.entry(what).or_default() += count;
    }
    *counts.entry("entries committed").or_default() += chaos.cluster.history.len() as u64;
}

// covers I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 I15 M11 R1
#[test]
fn histories_random_faults_keep_invariants_and_recover() {
    let from: u64 = std::env::var("RAFT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let histories = std::env::var("RAFT_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let mut counts = BTreeMap::new();
    for seed in from..from + histories {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut own = BTreeMap::new();
            run(seed, &mut own);
            own
        }));
        match result {
            Ok(own) => own.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count),
            Err(panic) => {
                eprintln!("replay with: RAFT_SEED={seed} RAFT_HISTORIES=1 cargo test -p smr --test raft_random");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // Rare situations must have happened, or the test tests nothing.
    if histories >= HISTORIES {
        for what in ["leader elected", "crash", "snapshot taken", "snapshot installed", "change begun", "read answered"]
        {
            assert!(counts.get(what).copied().unwrap_or(0) > histories / 10, "too few of {what:?}: {counts:?}");
        }
    }
    println!("{counts:?}");
}

// covers E3
#[test]
fn elections_all_time_out_together_leader_emerges_within_ten_rounds() {
    const SEEDS: u64 = 1000;
    let mut stuck = 0;
    for seed in 0..SEEDS {
        let mut chaos = Chaos::new(seed);
        let size = 3 + (seed % 3) as u16;
        chaos.cluster = Cluster::new(seed, Settings::default());
        chaos.cluster.found(&(0..size).map(|name| NodeId::new(name, 1)).collect::<Vec<_>>());
        let elected = (0..10).any(|_| {
            chaos.cluster.now = chaos.cluster.now.plus_us(2 * Settings::default().election_timeout_us);
            for id in chaos.cluster.up() {
                let outputs = chaos.cluster.step(id, Input::Tick);
                chaos.note(id, outputs);
            }
            // Everyone has asked before anyone hears of it, and messages arrive in any order.
            while !chaos.cluster.wire.is_empty() {
                let position = chaos.below(chaos.cluster.wire.len());
                drop(chaos.cluster.deliver(position));
                for id in chaos.cluster.up() {
                    drop(chaos.cluster.sync(id, 9));
                }
            }
            chaos.cluster.leader().is_some()
        });
        stuck += u64::from(!elected);
    }
    assert!(stuck * 1000 <= SEEDS, "{stuck} of {SEEDS} groups had no leader after ten rounds");
}

/// What happens at a moment of a timed run.
enum Observation {
    Arrives(raft_cluster::Flying),
    Written(NodeId),
    Closed(NodeId),
}

/// Kills the leader at time 0 and returns after how many microseconds another one has committed an entry. Messages take
/// 0.1 to 1 ms, syncs 1 to 4 ms, and each follower notices the closed connection within 5 ms.
fn failover_us(seed: u64, size: u16) -> u64 {
    let mut chaos = Chaos::new(seed);
    chaos.cluster = Cluster::new(seed, Settings::default());
    chaos.cluster.found(&(0..size).map(|name| NodeId::new(name, 1)).collect::<Vec<_>>());
    let dead = NodeId::new((seed % u64::from(size)) as u16, 1);
    while chaos.cluster.leader() != Some(dead) {
        let due = chaos.cluster.raft(dead).deadline();
        chaos.cluster.now = chaos.cluster.now.max(due);
        let outputs = chaos.cluster.step(dead, Input::Tick);
        chaos.note(dead, outputs);
        chaos.settle();
    }
    // Some time into the reign: heartbeats were answered.
    chaos.cluster.now = chaos.cluster.now.plus_us(Settings::default().heartbeat_us);
    let outputs = chaos.cluster.step(dead, Input::Tick);
    chaos.note(dead, outputs);
    chaos.settle();
    chaos.cluster.crash(dead, 0);
    let start = chaos.cluster.now;
    let mut queue: BTreeMap<(Time, u64), Observation> = BTreeMap::new();
    let mut order = 0;
    for id in chaos.cluster.up() {
        order += 1;
        let at = start.plus_us(chaos.below(5000) as u64);
        queue.insert((at, order), Observation::Closed(id));
    }
    let mut writing: BTreeMap<NodeId, bool> = BTreeMap::new();
    loop {
        let committed = |id: NodeId| {
            let status = chaos.cluster.raft(id).status();
            status.role == Role::Leader && status.commit == status.last.index
        };
        if chaos.cluster.leader().is_some_and(committed) {
            return chaos.cluster.now.since_us(start);
        }
        let up = chaos.cluster.up();
        let timer = up.iter().map(|id| (chaos.cluster.raft(*id).deadline(), *id)).min();
        let (due, id) = timer.expect("someone is up");
        if queue.first_key_value().is_none_or(|((at, _), _)| due < *at) {
            chaos.cluster.now = chaos.cluster.now.max(due);
            drop(chaos.cluster.step(id, Input::Tick));
        } else if let Some(((at, _), happening)) = queue.pop_first() {
            chaos.cluster.now = chaos.cluster.now.max(at);
            match happening {
                Observation::Arrives(flying) => drop(chaos.cluster.hand_over(flying)),
                Observation::Closed(id) => drop(chaos.cluster.step(id, Input::Disconnected(dead))),
                Observation::Written(id) => {
                    writing.insert(id, false);
                    drop(chaos.cluster.sync(id, 9));
                }
            }
        }
        for flying in std::mem::take(&mut chaos.cluster.wire) {
            order += 1;
            let at = chaos.cluster.now.plus_us(100 + chaos.below(900) as u64);
            queue.insert((at, order), Observation::Arrives(flying));
        }
        for id in up {
            let busy = writing.entry(id).or_insert(false);
            if !*busy && !chaos.cluster.node(id).writes.is_empty() {
                *busy = true;
                order += 1;
                let at = chaos.cluster.now.plus_us(1000 + chaos.below(3000) as u64);
                queue.insert((at, order), Observation::Written(id));
            }
        }
    }
}

// covers E1
#[test]
fn failover_leader_killed_new_one_commits_within_budget() {
    for size in [3, 5] {
        let mut times: Vec<_> = (0..400).map(|seed| failover_us(seed, size)).collect();
        times.sort_unstable();
        let (median, late, worst) = (times[200], times[396], times[399]);
        println!("{size} nodes: median {median} us, 99 % {late} us, worst {worst} us");
        assert!(median <= 60_000, "{size} nodes: median {median} us");
        assert!(late <= 3 * Settings::default().election_timeout_us, "{size} nodes: 99 % {late} us");
    }
}

// covers L10
#[test]
fn backup_hundred_diverging_terms_questions_proportional_to_terms() {
    const TERMS: u64 = 100;
    const ENTRIES_PER_TERM: u64 = 50;
    let members: Vec<_> = (0..3).map(|name| NodeId::new(name, 1)).collect();
    let log = |parity: u64| {
        let founding =
            Genesis { cluster: None, group: "g".parse().unwrap(), members: members.iter().copied().collect() };
        let mut entries = vec![founding.first_entry()];
        for number in 0..TERMS * ENTRIES_PER_TERM {
            let id = EntryId::new(number + 2, 2 + number / ENTRIES_PER_TERM * 2 + parity);
            entries.push(Entry { id, payload: Payload::Noop });
        }
        entries
    };
    let mut cluster = Cluster::new(1, Settings::default());
    for (position, member) in members.iter().enumerate() {
        let hard_state = HardState { term: Term(2 * TERMS + 9), vote: None, lease_us: 0 };
        // Two agree; the third has as many entries, all of other terms.
        let entries = log(u64::from(position < 2));
        cluster.add(*member, Disk { hard_state, entries, ..Disk::default() });
    }
    let mut questions = 0;
    cluster.now = cluster.raft(members[0]).deadline();
    cluster.step(members[0], Input::Tick);
    while cluster.raft(members[2]).status().commit < cluster.raft(members[0]).status().last.index {
        if let Some(flying) = cluster.wire.first() {
            questions += usize::from(matches!(flying.message.body, Body::AppendRejected { .. }));
            drop(cluster.deliver(0));
        } else if members.iter().all(|member| cluster.sync(*member, 9).is_none()) {
            panic!("nothing happens any more");
        }
    }
    assert!(questions <= 2 + TERMS as usize, "{questions} questions for {TERMS} terms");
    assert!(questions > 2, "the logs did not diverge");
}
