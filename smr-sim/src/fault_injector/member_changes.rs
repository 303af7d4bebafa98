//! Other members, as a fault: replicas that the group was not founded with are added, voters are removed or replaced,
//! and several such changes are asked for at once, of whoever takes itself for the leader (M1 to M5, M7, M11 to M13).
//!
//! They are asked of the core itself. What operators ask takes the next step only once the last one is committed, and
//! would never show whether the core refuses a second change while one is open.

use std::collections::BTreeSet;

use smr::entry::Configuration;
use smr::id::{NodeId, ReplicaId};
use smr::internals::protocol::{CoreStatus, Protocol};
use smr::internals::raft::Change;
use smr::replica::Request;
use smr::state_machine::StateMachine;
use smr::status::Role;

use super::is_outside;
use crate::sim_node::SimNode;
use crate::sim_rng::SimRng;
use crate::workload::Workload;
use crate::world::World;

/// This many changes are asked for at once, at most.
const AT_ONCE_MAX: u64 = 4;

/// Asks for one change or for several, mostly of the leader, sometimes of all who believe that they lead.
pub(super) fn ask<W: Workload>(world: &mut World<W>, rng: &mut SimRng) {
    if has_lost_voters(world) {
        return;
    }
    let Some(leader) = world.leader() else { return };
    let Some(CoreStatus { configuration, .. }) = status(world, leader) else { return };
    let leads = |world: &World<W>, replica: usize| status(world, replica).is_some_and(|own| own.role == Role::Leader);
    if rng.chance(300) {
        let mut replicas: Vec<ReplicaId> = world.nodes.iter().map(|node| node.id.name).collect();
        replicas.retain(|_| rng.chance(700));
        return ask_to_scale(world, leader, replicas);
    }
    let everyone = rng.chance(300);
    for replica in (0..world.nodes.len()).filter(|replica| *replica == leader || everyone) {
        if leads(world, replica) {
            let count = if rng.chance(500) { 1 } else { rng.between(2, AT_ONCE_MAX + 1) };
            let changes = (0..count).filter_map(|_| draw(world, rng, &configuration)).collect();
            world.ask_for_members(replica, changes);
        }
    }
}

/// An operator asks for these replicas, each at an address of its own.
pub(super) fn ask_to_scale<W: Workload>(world: &mut World<W>, leader: usize, replicas: Vec<ReplicaId>) {
    let replicas = replicas.into_iter().map(|name| (name, format!("host-{name}:1"))).collect();
    world.ask(leader, Request::Scale { replicas });
}

fn draw<W: Workload>(world: &World<W>, rng: &mut SimRng, configuration: &Configuration) -> Option<Change> {
    let voters: Vec<NodeId> = configuration.voters.iter().copied().collect();
    let learners: Vec<NodeId> = configuration.learners.iter().copied().collect();
    // As for voters: who is promoted while its directory is lost would be counted on for ever.
    let is_there = |node: &NodeId| world.nodes.iter().any(|machine| machine.id == *node);
    let sound_learners: Vec<NodeId> = learners.iter().copied().filter(is_there).collect();
    let outside: Vec<NodeId> =
        world.nodes.iter().map(|node| node.id).filter(|node| !configuration.is_member(*node)).collect();
    let some = |rng: &mut SimRng, nodes: &[NodeId]| (!nodes.is_empty()).then(|| rng.pick(nodes));
    Some(match rng.below(10) {
        0..=3 => Change::AddLearner(some(rng, &outside)?),
        4 => Change::RemoveLearner(some(rng, &learners)?),
        5 => Change::Replace { incoming: some(rng, &sound_learners)?, outgoing: some(rng, &voters)? },
        6..=7 => {
            let joining = some(rng, &sound_learners)?;
            Change::Voters(voters.into_iter().chain([joining]).collect())
        }
        8 => {
            let leaving = some(rng, &voters)?;
            Change::Voters(voters.into_iter().filter(|voter| *voter != leaving).collect())
        }
        // An empty set, too: it is refused.
        _ => Change::Voters(
            voters.into_iter().chain(sound_learners).filter(|_| rng.chance(600)).collect::<BTreeSet<_>>(),
        ),
    })
}

/// Whether someone in service counts on a voter whose directory is lost. Then a group that gives up others may be left
/// with too few.
fn has_lost_voters<W: Workload>(world: &World<W>) -> bool {
    let is_lost = |voter: &NodeId| world.nodes[usize::from(voter.name.0)].id != *voter;
    (0..world.nodes.len()).filter_map(|replica| status(world, replica)).any(|status| {
        let Configuration { voters, outgoing, .. } = &status.configuration;
        voters.iter().chain(outgoing).any(is_lost)
    })
}

/// Whether the group can do without this directory while its members change: all of them are in service under the same
/// configuration, which is committed and not joint, no other change is asked for, and less than half of its voters are
/// lost then. So no log has another configuration that may still count.
pub(super) fn may_lose<W: Workload>(world: &World<W>, victim: usize) -> bool {
    let Some(leader) = world.leader() else { return false };
    let Some(lead) = status(world, leader) else { return false };
    let configuration = &lead.configuration;
    let is_settled = !configuration.is_joint()
        && lead.configuration_index <= lead.commit
        && !world.nodes.iter().any(|node| node.requested_changes.is_waiting() || changes_members(node));
    let agrees = |member: &NodeId| {
        let replica = usize::from(member.name.0);
        world.nodes[replica].id != *member
            || status(world, replica).is_some_and(|own| own.configuration == *configuration)
    };
    let is_voter = |replica: usize| configuration.voters.iter().any(|voter| usize::from(voter.name.0) == replica);
    let lost = (0..world.nodes.len())
        .filter(|replica| is_voter(*replica) && (*replica == victim || is_outside(world, leader, *replica)))
        .count();
    is_settled && configuration.members().iter().all(agrees) && lost * 2 < configuration.voters.len()
}

/// Whether an operator's change is under way here, or will be.
fn changes_members<S: StateMachine>(node: &SimNode<S>) -> bool {
    let asks = |request: &Request| matches!(request, Request::Scale { .. } | Request::Readmit { .. });
    node.requests.iter().any(|(_, request)| asks(request))
        || node.serving().is_some_and(|serving| serving.engine().looks_after_members())
}

fn status<W: Workload>(world: &World<W>, replica: usize) -> Option<CoreStatus> {
    Some(Protocol::status(world.nodes[replica].serving()?.engine().core()))
}
