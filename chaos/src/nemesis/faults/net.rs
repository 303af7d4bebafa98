//! The network between nodes, and before clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{ActiveFault, Injection, Links, Scene, headline, heal_when_over, names};
use crate::nemesis::plan::Fault;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node, Origin, Port};
use madkv_testkit::proxy::{Flow, Gate, Rules};
use madkv_testkit::wiring::{Network, Way};

/// What is done to which ways.
type Changes = BTreeMap<Way, Rules>;

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let fault = scene.event.fault;
    let group = scene.event.group;
    let links = match fault {
        Fault::LoseAnswers
        | Fault::BreakRequests
        | Fault::CutClientsFromLeader
        | Fault::LateClients
        | Fault::ReplayClients => Links::Clients(group),
        Fault::CutServersFromManagers => Links::Managers,
        _ => Links::Peers(group),
    };
    if scene.taken.contains(&links) {
        return Ok(Injection::Skipped("another fault has changed these links"));
    }
    let mut nodes: Vec<Node> = scene.world.cluster.nodes_of(group).collect();
    if nodes.len() < 3 && matches!(links, Links::Peers(_)) {
        return Ok(Injection::Skipped("no peers to cut off"));
    }
    // The leader first, the others in the order that chance gave.
    let free = scene.free();
    nodes.sort_by_key(|node| free.iter().position(|other| other == node).unwrap_or(usize::MAX));
    match fault {
        Fault::ResetAll => {
            within(&nodes).for_each(|way| scene.world.network.reset(way));
            return Ok(Injection::Done(headline(fault, &nodes)));
        }
        Fault::ReplayPeers | Fault::ReplayClients => return Ok(replay(scene, &nodes)),
        _ => {}
    }
    let Some((changes, costs, who)) = draw(scene, &nodes) else {
        return Ok(Injection::Skipped("the group is too small"));
    };
    if costs > scene.budget {
        return Ok(Injection::Skipped("as many are hurt as may be"));
    }
    for (&way, &rules) in &changes {
        scene.world.network.set(way, rules);
    }
    let how = changes.values().next().map(|rules| format!(" {rules:?}")).unwrap_or_default();
    let said = format!("{}: {fault:?} {who}{how}", fault.kind());
    // Either the old connections go on, or they are found broken.
    let reset = scene.coin();
    Ok(Injection::Active(
        Box::new(Bent { group, links, costs, ways: changes.into_keys().collect(), ends: scene.ends(), reset }),
        said,
    ))
}

/// All ways between some nodes.
fn within(nodes: &[Node]) -> impl Iterator<Item = Way> {
    nodes.iter().flat_map(move |&from| nodes.iter().filter(move |&&to| to != from).map(move |&to| Way::peers(from, to)))
}

/// All ways between two sides.
fn across<'a>(one: &'a [Node], other: &'a [Node]) -> impl Iterator<Item = Way> + 'a {
    one.iter().flat_map(move |&left| other.iter().flat_map(move |&right| Network::between(left, right)))
}

/// What a fault does to which ways, how many replicas it takes away, and who is named. `nodes`: the leader first.
fn draw(scene: &mut Scene<'_>, nodes: &[Node]) -> Option<(Changes, usize, String)> {
    let group = scene.event.group;
    let may_fail = scene.world.may_fail(group);
    let cut = if scene.coin() { Rules::silent() } else { Rules::shut() };
    let random = &mut scene.random;
    let all = |ways: Vec<Way>, rules: Rules| ways.into_iter().map(|way| (way, rules)).collect::<Changes>();
    let (leader, rest) = nodes.split_first()?;
    let clients = || nodes.iter().map(|&node| Way::clients(node)).collect::<Vec<_>>();
    Some(match scene.event.fault {
        Fault::IsolateLeader => (all(across(&[*leader], rest).collect(), cut), 1, leader.to_string()),
        Fault::IsolateFollower => {
            let (follower, rest) = nodes.split_last()?;
            (all(across(&[*follower], rest).collect(), cut), 1, follower.to_string())
        }
        Fault::Halves => {
            let count = scene.budget.clamp(1, may_fail);
            let (few, many) = nodes.split_at(count);
            (all(across(few, many).collect(), cut), count, format!("{} | {}", names(few), names(many)))
        }
        Fault::Ring => {
            let count = nodes.len();
            if count < 5 {
                return None;
            }
            let apart =
                |one: usize, other: usize| !matches!(one.abs_diff(other), 0 | 1) && one.abs_diff(other) != count - 1;
            let pairs = (0..count)
                .flat_map(|one| (0..one).map(move |other| (one, other)))
                .filter(|&(one, other)| apart(one, other));
            let ways = pairs.flat_map(|(one, other)| Network::between(nodes[one], nodes[other])).collect();
            (all(ways, cut), may_fail, names(nodes))
        }
        Fault::Bridge => {
            let (bridge, others) = nodes.split_last()?;
            let (left, right) = others.split_at(others.len() / 2);
            let who = format!("{} | {bridge} | {}", names(left), names(right));
            (all(across(left, right).collect(), cut), may_fail, who)
        }
        Fault::CutLink => {
            let other = *rest.choose(random)?;
            (all(Network::between(*leader, other).to_vec(), cut), 1, names(&[*leader, other]))
        }
        Fault::DeafLeader | Fault::MuteLeader => {
            let mut changes = Changes::new();
            for &other in rest {
                let deaf = scene.event.fault == Fault::DeafLeader;
                let (from, to) = if deaf { (other, *leader) } else { (*leader, other) };
                changes.entry(Way::peers(from, to)).or_default().forward = Flow::Hold;
                changes.entry(Way::peers(to, from)).or_default().backward = Flow::Hold;
            }
            (changes, 1, leader.to_string())
        }
        Fault::FlapLink => {
            let other = *rest.choose(random)?;
            let rules = flapping(Duration::from_millis(100));
            (all(Network::between(*leader, other).to_vec(), rules), 1, names(&[*leader, other]))
        }
        Fault::FlapAll => {
            let rules = flapping(Duration::from_millis(random.random_range(50..=700)));
            (all(within(nodes).collect(), rules), 0, names(nodes))
        }
        Fault::Late | Fault::VeryLate => {
            let range = if scene.event.fault == Fault::Late { 2..=60 } else { 700..=1_500 };
            let rules = late(random.random_range(range));
            (all(within(nodes).collect(), rules), 0, names(nodes))
        }
        Fault::Thin => {
            let rules = Rules::both(Flow::Thin { bytes_per_s: random.random_range(2_000..=200_000) });
            (all(within(nodes).collect(), rules), 0, names(nodes))
        }
        Fault::BreakFrames => {
            let other = *rest.choose(random)?;
            let flow = Flow::ResetAfter { bytes_max: random.random_range(100..=20_000) };
            let rules = Rules { forward: flow, ..Rules::default() };
            (all(Network::between(*leader, other).to_vec(), rules), 1, names(&[*leader, other]))
        }
        Fault::Stall => {
            let (follower, rest) = nodes.split_last()?;
            let ways = rest.iter().map(|&from| Way::peers(from, *follower)).collect();
            (all(ways, Rules { forward: Flow::Hold, ..Rules::default() }), 1, follower.to_string())
        }
        Fault::LoseAnswers => (all(clients(), Rules::answers_lost(random.random_range(100..=20_000))), 0, names(nodes)),
        Fault::BreakRequests => {
            let flow = Flow::ResetAfter { bytes_max: random.random_range(100..=20_000) };
            (all(clients(), Rules { forward: flow, ..Rules::default() }), 0, names(nodes))
        }
        Fault::CutClientsFromLeader => (all(vec![Way::clients(*leader)], cut), 0, leader.to_string()),
        Fault::LateClients => (all(clients(), late(random.random_range(5..=300))), 0, names(nodes)),
        Fault::CutServersFromManagers => {
            let is_server = |from: Origin| matches!(from, Origin::Node(node) if node.group() != Group::Manager);
            let of_servers = |way: &Way| is_server(way.from) && matches!(way.to, Port::Api(_));
            (all(scene.world.network.ways().filter(of_servers).collect(), cut), 0, "all".to_owned())
        }
        _ => return None,
    })
}

fn flapping(period: Duration) -> Rules {
    Rules { gate: Gate::Flapping { period }, ..Rules::default() }
}

fn late(delay_ms: u64) -> Rules {
    let delay = Duration::from_millis(delay_ms);
    Rules::both(Flow::Late { delay, jitter: delay })
}

/// Says again what an old connection said, on one way of the group.
fn replay(scene: &mut Scene<'_>, nodes: &[Node]) -> Injection {
    let ways: Vec<Way> = if scene.event.fault == Fault::ReplayPeers {
        within(nodes).collect()
    } else {
        nodes.iter().map(|&node| Way::clients(node)).collect()
    };
    let Some(&way) = ways.choose(&mut scene.random) else { return Injection::Skipped("no way") };
    match scene.world.network.replay(way) {
        Ok(replayed) => {
            Injection::Done(format!("{}: {:?} {way:?} {replayed:?}", scene.event.fault.kind(), scene.event.fault))
        }
        Err(_) => Injection::Skipped("nothing on record, or no one there"),
    }
}

/// Links that misbehave until their time comes.
struct Bent {
    group: Group,
    links: Links,
    costs: usize,
    ways: Vec<Way>,
    ends: Instant,
    reset: bool,
}

impl ActiveFault for Bent {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        heal_when_over(self.ends, self, world)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        for &way in &self.ways {
            if self.reset {
                world.network.reset(way);
            }
            world.network.set(way, Rules::default());
        }
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.group, self.costs)
    }

    fn links(&self) -> Option<Links> {
        Some(self.links)
    }
}
