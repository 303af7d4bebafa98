//! The faults, a file for each family. A fault under way is an [`ActiveFault`], looked after until it has healed.

mod dir;
mod disk;
mod kill;
mod net;
mod stop;
mod term;

use std::time::Instant;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::nemesis::plan::{Event, Fault, Kind};
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};

/// A fault that is under way.
pub trait ActiveFault {
    /// Looks after it; true once it has healed. Does not wait.
    ///
    /// # Errors
    /// If the cluster does not behave.
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure>;

    /// Ends it before its time. May wait, up to a deadline.
    ///
    /// # Errors
    /// If the cluster does not behave.
    fn heal(&mut self, world: &mut World) -> Result<(), Failure>;

    /// The group that it is in, and how many of its replicas cannot do their part meanwhile.
    fn costs(&self) -> (Group, usize);

    /// Whether healing rests on others being well.
    fn heals_last(&self) -> bool {
        false
    }

    /// Whether it changes links, so that no other fault of the same group and side may.
    fn links(&self) -> Option<Links> {
        None
    }
}

/// The tick of a fault that ends when its time has come.
fn heal_when_over(ends: Instant, fault: &mut dyn ActiveFault, world: &mut World) -> Result<bool, Failure> {
    if Instant::now() < ends {
        return Ok(false);
    }
    fault.heal(world)?;
    Ok(true)
}

/// Links that only one fault at a time may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Between the replicas of a group.
    Peers(Group),
    /// Before the clients' ports of a group.
    Clients(Group),
    /// From servers to managers.
    Managers,
}

/// What came of an event.
pub enum Injection {
    /// It is under way; what was done, for the diary.
    Active(Box<dyn ActiveFault>, String),
    /// It is over already; what was done.
    Done(String),
    /// It cannot be done now; why not.
    Skipped(&'static str),
}

/// What a fault may know when it is injected.
pub(super) struct Scene<'a> {
    pub(super) world: &'a mut World,
    pub(super) event: Event,
    pub(super) random: ChaCha8Rng,
    /// How many more replicas of the group may be hurt.
    pub(super) budget: usize,
    /// Links that other faults have changed.
    pub(super) taken: Vec<Links>,
}

/// Injects the fault of an event.
///
/// # Errors
/// If the system refuses something.
pub fn inject(world: &mut World, event: Event, active: &[Box<dyn ActiveFault>]) -> Result<Injection, Failure> {
    let hurt: usize = active
        .iter()
        .map(|fault| fault.costs())
        .filter(|(group, _)| *group == event.group)
        .map(|(_, count)| count)
        .sum();
    let budget = world.may_fail(event.group).saturating_sub(hurt);
    let taken = active.iter().filter_map(|fault| fault.links()).collect();
    let random = ChaCha8Rng::seed_from_u64(event.seed);
    let mut scene = Scene { world, event, random, budget, taken };
    match event.fault.kind() {
        Kind::Kill => kill::inject(&mut scene),
        Kind::Stop => stop::inject(&mut scene),
        Kind::Net => net::inject(&mut scene),
        Kind::Dir => dir::inject(&mut scene),
        Kind::Disk => disk::inject(&mut scene),
        Kind::Term => term::inject(&mut scene),
    }
}

impl Scene<'_> {
    /// The replicas of the group that no fault holds, the leader first if it is known and free, the others in random
    /// order.
    pub(super) fn free(&mut self) -> Vec<Node> {
        let mut nodes: Vec<Node> =
            self.world.cluster.nodes_of(self.event.group).filter(|node| !self.world.held.contains(node)).collect();
        nodes.shuffle(&mut self.random);
        if let Some(leader) = self.world.monitor.leader(self.event.group)
            && let Some(place) = nodes.iter().position(|&node| node == leader)
        {
            nodes.swap(0, place);
        }
        nodes
    }

    /// The leader, if it is known and free.
    pub(super) fn leader(&mut self) -> Option<Node> {
        let leader = self.world.monitor.leader(self.event.group)?;
        (!self.world.held.contains(&leader)).then_some(leader)
    }

    /// A free replica that does not lead.
    pub(super) fn follower(&mut self) -> Option<Node> {
        let leader = self.world.monitor.leader(self.event.group);
        let free: Vec<Node> = self.free().into_iter().filter(|&node| Some(node) != leader).collect();
        free.choose(&mut self.random).copied()
    }

    /// Whom a fault of a process hits: by its place in the fault's family.
    pub(super) fn victims(&mut self, who: Who) -> Result<Vec<Node>, &'static str> {
        let all = self.world.cluster.nodes_of(self.event.group).count();
        let may_fail = self.world.may_fail(self.event.group);
        let victims: Vec<Node> = match who {
            Who::Leader => self.leader().into_iter().collect(),
            Who::Follower => self.follower().into_iter().collect(),
            Who::Minority => {
                let free = self.free();
                free.into_iter().take(self.budget.min(may_fail)).collect()
            }
            Who::Majority => self.free().into_iter().take(may_fail + 1).collect(),
            Who::Group => self.free().into_iter().take(all).collect(),
            Who::Cluster => {
                let nodes = self.world.cluster.layout().shape.nodes();
                nodes.filter(|node| !self.world.held.contains(node)).collect()
            }
        };
        if victims.is_empty() {
            return Err("no replica to hit");
        }
        let takes_quorum = matches!(who, Who::Majority | Who::Group | Who::Cluster);
        if !takes_quorum && victims.len() > self.budget {
            return Err("as many are hurt as may be");
        }
        Ok(victims)
    }

    /// When the fault is to end.
    pub(super) fn ends(&self) -> Instant {
        Instant::now() + self.event.lasts
    }

    /// Either way, with the same chance.
    pub(super) fn coin(&mut self) -> bool {
        self.random.random_bool(0.5)
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Leader,
    Follower,
    Minority,
    Majority,
    Group,
    Cluster,
}

/// Names of nodes, for the diary.
pub(super) fn names(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(" ")
}

/// How the diary begins a line about a fault.
pub(super) fn headline(fault: Fault, nodes: &[Node]) -> String {
    format!("{}: {fault:?} {}", fault.kind(), names(nodes))
}
