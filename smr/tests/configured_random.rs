//! Random walks of configured groups: crashes that lose what was not synced, restarts, messages lost, doubled and
//! overtaken, joins, removals, reorders, epochs that are heard late or not at all, leases on clocks that drift, and a
//! service that fails over. First chaos, in which only safety is judged, then calm, in which the group has to serve
//! again. One seed decides everything; a failure names it.
//!
//! The walk is judged, too: with any of the service's rules left out it has to find something.

mod configured_cluster;
mod core_cluster;
mod seed_range;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use configured_cluster::service::Fault;
use configured_cluster::{Answer, Cluster, Disk, Outputs};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smr::entry::{EntryId, SnapshotMeta, Term};
use smr::epoch::EpochKind;
use smr::id::NodeId;
use smr::internals::configured::{Settings, invariants};
use smr::internals::protocol::{Input, Protocol};
use smr::status::ReadMode;
use smr_sim::clock::Clock;

/// How many walks, and how many events each.
const WALKS: u64 = 400;
const EVENTS: u64 = 500;
/// With a rule of the service left out, it is noticed within this many walks.
const WALKS_TO_NOTICE: u64 = 3000;
/// Members and spares.
const NODES: u16 = 4;
/// Members at most.
const MEMBERS_MAX: usize = 3;
/// More messages than this are not under way.
const WIRE_MAX: usize = 60;

struct Walk {
    cluster: Cluster,
    rng: ChaCha8Rng,
    /// Leases on their way from the service.
    grants: Vec<(NodeId, Input<smr::internals::configured::Message>)>,
    /// Cut off from everyone but, at times, the service.
    isolated: Option<NodeId>,
    /// How much goes well between two events: 0 nothing, 1 a little, 2 most.
    mood: usize,
}

impl Walk {
    fn new(seed: u64, fault: Option<Fault>) -> Walk {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let kind = [EpochKind::Chain, EpochKind::Active, EpochKind::Passive][(seed % 3) as usize];
        let settings = Settings {
            kind,
            append_entries_max: 3,
            inflight_appends_max: 3,
            log_retain_bytes: 300,
            reads: if rng.next_u32().is_multiple_of(3) { ReadMode::Index } else { ReadMode::Lease },
            ..Settings::default()
        };
        let size = 1 + (rng.next_u32() % 3) as u16;
        let members: Vec<_> = (0..size).map(|name| NodeId::new(name, 1)).collect();
        let mut cluster = Cluster::new(seed, settings, &members);
        cluster.service.fault = fault;
        for name in 0..NODES {
            let rate_permille = 1000 + u64::from(rng.next_u32() % 9);
            let clock = Clock { origin_us: u64::from(rng.next_u32() % 1_000_000), rate_permille };
            cluster.add(NodeId::new(name, 1), Disk::default(), clock);
        }
        let mood = (rng.next_u32() % 3) as usize;
        Walk { cluster, rng, grants: Vec::new(), isolated: None, mood }
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.rng.next_u64() % limit.max(1) as u64) as usize
    }

    fn any<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        let position = self.below(list.len());
        list.get(position).copied()
    }

    fn any_up(&mut self) -> Option<NodeId> {
        let up: Vec<_> = self.cluster.up().into_iter().collect();
        self.any(&up)
    }

    /// Snapshots that are wanted travel, well or not.
    fn note(&mut self, id: NodeId, outputs: Outputs) {
        for to in outputs.effects.snapshots_wanted {
            let meta = self.cluster.node(id).disk.snapshot.clone();
            let arrives = self.cluster.is_up(to) && self.below(4) > 0;
            if arrives {
                self.carry(meta.clone(), to);
            }
            let last = arrives.then_some(meta.last);
            let outputs = self.cluster.step(id, Input::SnapshotSent { to, last });
            self.note(id, outputs);
        }
    }

    fn carry(&mut self, meta: SnapshotMeta, to: NodeId) {
        let outputs = self.cluster.send_snapshot(meta, to);
        self.note(to, outputs);
    }

    fn go_well(&mut self) {
        for _ in 0..self.mood * 3 {
            if !self.cluster.wire.is_empty() {
                self.deliver(0);
            }
            if let Some(id) = self.any_up() {
                self.sync(id, 9);
            }
        }
    }

    fn deliver(&mut self, position: usize) {
        let flying = &self.cluster.wire[position];
        if self.isolated.is_some_and(|node| flying.from == node || flying.to == node) {
            self.cluster.wire.remove(position);
        } else if let Some((to, outputs)) = self.cluster.deliver(position) {
            self.note(to, outputs);
        }
    }

    fn sync(&mut self, id: NodeId, count: usize) {
        if let Some(outputs) = self.cluster.sync(id, count) {
            self.note(id, outputs);
        }
    }

    fn step(&mut self, id: NodeId, input: Input<smr::internals::configured::Message>) {
        let outputs = self.cluster.step(id, input);
        self.note(id, outputs);
    }

    fn event(&mut self) {
        self.go_well();
        match self.below(100) {
            0..=33 => self.deliver_any(),
            34..=49 => {
                if let Some(id) = self.any_up() {
                    let count = 1 + self.below(3);
                    self.sync(id, count);
                }
            }
            50..=61 => self.advance(),
            62..=67 => {
                if let Some(id) = self.cluster.first().or_else(|| self.any_up()) {
                    let text = format!("command {}", self.rng.next_u32());
                    let outputs = self.cluster.propose(id, &[&text, "more"]);
                    self.note(id, outputs);
                }
            }
            68..=75 => {
                let isolated = self.isolated.filter(|id| self.cluster.is_up(*id) && self.mood > 0);
                if let Some(id) = isolated.or_else(|| self.any_up()) {
                    let outputs = self.cluster.read(id);
                    self.note(id, outputs);
                }
            }
            76..=79 => {
                if let Some(id) = self.any_up()
                    && let Some(grant) = self.cluster.grant(id)
                {
                    self.grants.push((id, grant));
                }
            }
            80..=83 => {
                if !self.grants.is_empty() {
                    let at = self.below(self.grants.len());
                    let (id, grant) = self.grants.remove(at);
                    if self.cluster.is_up(id) {
                        self.step(id, grant);
                    }
                }
            }
            84..=87 => self.tell_any(),
            88..=91 => self.crash_or_start(),
            92..=95 => self.decide_any(),
            96 => {
                if let Some(id) = self.any_up()
                    && let Some(outputs) = self.cluster.take_snapshot(id)
                {
                    self.note(id, outputs);
                }
            }
            97 => {
                if let (Some(id), Some(other)) = (self.any_up(), self.any_up())
                    && id != other
                {
                    self.step(id, Input::Disconnected(other));
                }
            }
            98 => {
                let now = self.cluster.now;
                self.cluster.service.fail_over(now);
                if self.isolated.is_some() {
                    self.decide_any();
                }
            }
            _ if self.below(2) == 0 => {
                let nodes: Vec<_> = self.cluster.nodes.keys().copied().collect();
                self.isolated = if self.isolated.is_some() { None } else { self.any(&nodes) };
            }
            _ => self.join_any(),
        }
        while self.cluster.wire.len() > WIRE_MAX {
            let position = self.below(self.cluster.wire.len());
            self.cluster.wire.remove(position);
        }
    }

    /// Any message arrives, is lost, or arrives and stays under way.
    fn deliver_any(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        let position = self.below(self.cluster.wire.len());
        match self.below(10) {
            0 => drop(self.cluster.wire.remove(position)),
            1 => {
                let copy = self.cluster.wire[position].clone();
                self.cluster.wire.push(copy);
                self.deliver(position);
            }
            _ => self.deliver(position),
        }
    }

    fn advance(&mut self) {
        let us = [1_000, 10_000, 50_000, 200_000][self.below(4)];
        self.cluster.now = self.cluster.now.plus_us(us);
        for id in self.cluster.up() {
            if self.below(3) > 0 && self.cluster.due_at(id) <= self.cluster.now {
                self.step(id, Input::Tick);
                if self.below(3) > 0
                    && let Some(grant) = self.cluster.grant(id)
                {
                    self.step(id, grant);
                }
            }
        }
    }

    /// A node hears of some configuration that was decided on, the latest or not.
    fn tell_any(&mut self) {
        let Some(id) = self.any_up().filter(|id| self.isolated != Some(*id)) else { return };
        let epochs: Vec<Term> = self.cluster.service.configurations.iter().map(|known| known.epoch).collect();
        let epoch = if self.below(2) == 0 { epochs.last().copied() } else { self.any(&epochs) };
        if let Some(epoch) = epoch {
            let outputs = self.cluster.tell(id, epoch);
            self.note(id, outputs);
        }
    }

    fn crash_or_start(&mut self) {
        let down: Vec<_> = self.cluster.nodes.keys().copied().filter(|id| !self.cluster.is_up(*id)).collect();
        if let Some(id) = self.any(&down)
            && self.below(4) > 0
        {
            return self.cluster.start(id);
        }
        if let Some(id) = self.any_up() {
            let survive = self.below(3);
            self.cluster.crash(id, survive);
        }
    }

    fn shuffled(&mut self, mut list: Vec<NodeId>) -> Vec<NodeId> {
        for position in (1..list.len()).rev() {
            let other = self.below(position + 1);
            list.swap(position, other);
        }
        list
    }

    /// The service decides: a removal (in two steps, for the lease), another order, a newcomer.
    fn decide_any(&mut self) {
        let present = self.cluster.service.present().clone();
        let now = self.cluster.now;
        // A chain only loses members; in a star the service may ask for another first.
        let is_chain = present.kind.is_chain();
        match self.below(10) {
            0..=5 => {
                let isolated = self.isolated.filter(|node| present.is_member(*node));
                let Some(gone) = isolated.or_else(|| self.any(&present.members)) else { return };
                self.cluster.service.begin_removal(gone);
                if !self.cluster.service.may_remove(gone, now) {
                    return;
                }
                let left: Vec<_> = present.members.iter().copied().filter(|member| *member != gone).collect();
                let candidates = self.cluster.service.candidates(&left);
                let first = if is_chain { candidates.first().copied() } else { self.any(&candidates) };
                let Some(first) = first else { return };
                let others: Vec<_> = left.into_iter().filter(|member| *member != first).collect();
                let others = if is_chain { others } else { self.shuffled(others) };
                self.decide(std::iter::once(first).chain(others).collect());
            }
            6..=7 => {
                let candidates = self.cluster.service.candidates(&present.members);
                let first = if is_chain { candidates.first().copied() } else { self.any(&candidates) };
                let Some(first) = first else { return };
                let others = present.members.iter().copied().filter(|member| *member != first).collect();
                let others = if is_chain { others } else { self.shuffled(others) };
                self.decide(std::iter::once(first).chain(others).collect());
            }
            _ => {
                let spare: Vec<_> =
                    self.cluster.nodes.keys().copied().filter(|node| !present.is_member(*node)).collect();
                let all_complete = present.members.iter().all(|node| self.cluster.service.complete.contains(node));
                if !all_complete || present.members.len() >= MEMBERS_MAX {
                    return;
                }
                if let Some(newcomer) = self.any(&spare) {
                    self.decide(present.members.iter().copied().chain([newcomer]).collect());
                }
            }
        }
    }

    fn decide(&mut self, members: Vec<NodeId>) {
        self.cluster.service.decide(members);
        self.cluster.count("epoch decided");
    }

    /// Some member brings some node up to date.
    fn join_any(&mut self) {
        let (Some(id), Some(newcomer)) = (self.any_up(), self.any_up()) else { return };
        if id != newcomer {
            let epoch = self.cluster.core(id).status().term;
            let newcomer = Some(newcomer).filter(|_| self.below(4) > 0);
            self.step(id, Input::Join { epoch, newcomer });
        }
    }

    /// All faults are over: the group serves again, and every member has everything.
    fn calm_down(&mut self) {
        self.isolated = None;
        for id in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            if !self.cluster.is_up(id) {
                self.cluster.start(id);
            }
        }
        let mut proposed: Option<EntryId> = None;
        for round in 0..400 {
            self.settle();
            let present = self.cluster.service.present().clone();
            for member in &present.members {
                let outputs = self.cluster.tell(*member, present.epoch);
                self.note(*member, outputs);
            }
            self.settle();
            let first = present.first();
            if !invariants::orders(self.cluster.core(first)) {
                // It has restarted, and asks for the next epoch.
                self.decide(present.members.clone());
            } else if proposed.is_none_or(|id| id.term != present.epoch) {
                let outputs = self.cluster.propose(first, &["calm"]);
                if let Answer::Proposed(Ok(id)) = outputs.answer {
                    proposed = Some(id);
                }
                self.note(first, outputs);
            } else if round > 3 && self.agree(&present.members, proposed) {
                return;
            }
            self.cluster.now = self.cluster.now.plus_us(100_000);
            for id in self.cluster.up() {
                if self.cluster.due_at(id) <= self.cluster.now {
                    self.step(id, Input::Tick);
                }
            }
        }
        let states: Vec<_> =
            self.cluster.up().iter().map(|id| format!("{:#?}", self.cluster.core(*id).status())).collect();
        panic!("no agreement in calm (proposed: {proposed:?}): {}", states.join("\n"));
    }

    fn settle(&mut self) {
        for _ in 0..3000 {
            for id in self.cluster.up() {
                let waiting = self.cluster.node(id).writes.len();
                self.sync(id, waiting);
            }
            if self.cluster.wire.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("messages without end");
    }

    fn agree(&mut self, members: &[NodeId], proposed: Option<EntryId>) -> bool {
        let Some(proposed) = proposed else { return false };
        let all_have = members.iter().all(|id| {
            let status = self.cluster.core(*id).status();
            status.commit >= proposed.index && invariants::is_complete(self.cluster.core(*id))
        });
        if all_have {
            // Nothing waits for ever, and reads are answered wherever they are taken.
            for id in members {
                let before = self.cluster.counts.get("read answered").copied();
                let outputs = self.cluster.read(*id);
                let taken = outputs.answer == Answer::Read(Ok(()));
                self.note(*id, outputs);
                self.settle();
                let answered = self.cluster.counts.get("read answered").copied() != before;
                assert!(!taken || answered, "a read at {id} is not answered in calm");
                assert_eq!(invariants::load(self.cluster.core(*id)).reads_waiting, 0, "reads wait at {id} in calm");
            }
        }
        all_have
    }
}

fn walk(seed: u64, fault: Option<Fault>) -> BTreeMap<&'static str, u64> {
    let mut walk = Walk::new(seed, fault);
    if std::env::var_os("TRACE").is_some() {
        walk.cluster.trace = Some(Vec::new());
    }
    for _ in 0..EVENTS {
        walk.event();
        if let Some(trace) = &mut walk.cluster.trace {
            for line in trace.drain(..) {
                println!("{line}");
            }
        }
    }
    walk.calm_down();
    walk.cluster.counts
}

// covers I16 K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12 K17 K18
#[test]
fn walks_keep_every_invariant_and_serve_in_calm() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let seeds = seed_range::seeds(WALKS);
    let is_whole = seeds == (0..WALKS);
    for seed in seeds {
        let result = catch_unwind(AssertUnwindSafe(|| walk(seed, None)));
        match result {
            Ok(walked) => walked.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count),
            Err(_) => panic!("seed {seed}: see above"),
        }
    }
    println!("{counts:?}");
    if is_whole {
        for what in ["committed", "read answered", "activated", "epoch decided", "snapshot installed", "caught up"] {
            assert!(counts.get(what).copied().unwrap_or(0) >= WALKS / 10, "only {:?} times {what}", counts.get(what));
        }
    }
}

#[test]
fn walks_with_a_rule_of_the_service_left_out_find_it() {
    let silence = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let faults = [
        Fault::AnySurvivorIsFirst,
        Fault::NewcomerIsComplete,
        Fault::LeaseWhateverTheEpoch,
        Fault::LeasesNotWaitedFor,
        Fault::GrantsForgottenInFailover,
        Fault::OldActivationCounts,
    ];
    let found = faults.map(|fault| {
        let finds = |seed: &u64| catch_unwind(AssertUnwindSafe(|| walk(*seed, Some(fault)))).is_err();
        (fault, (0..WALKS_TO_NOTICE).find(finds))
    });
    std::panic::set_hook(silence);
    println!("{found:?}");
    for (fault, seed) in found {
        assert!(seed.is_some(), "{fault:?} is not noticed in {WALKS_TO_NOTICE} walks");
    }
}
