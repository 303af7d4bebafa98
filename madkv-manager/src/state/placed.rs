//! Replicas whose own host is gone, and the hosts that have taken them over.
//!
//! Until the new host's replica runs, the old host may come back with the old one in service: then it keeps it. From
//! the decision on that the group is to know the new address, the place is the new host's; the old one, which no group
//! knows any more, is to end when its host comes back, but not before the new one is in service: until then it may be
//! one that its group needs. It is ended by its agent, and keeps its directory.

use madkv_proto::control::{AgentReport, Condition, Launch, Order, OrderKind, Spare};
use madkv_proto::map::ClusterMap;
use serde::{Deserialize, Serialize};

use super::{Control, ManagerState, Place};

/// To which host a replica belongs that was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placed {
    /// The host's agent.
    pub(super) agent: u16,
    /// How it is launched there.
    pub(super) launch: Launch,
    /// Whether no other host gets it back by coming back.
    pub(super) is_settled: bool,
    /// The number of the event since which it is this host's.
    event: u64,
}

impl ManagerState {
    /// How a replica would be launched on the host of `agent`.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn room_for(&self, place: Place, agent: u16) -> Result<Launch, String> {
        let control = &self.contents.control;
        let (partition, replica) = place;
        let watch = control.replicas.get(&place).ok_or_else(|| "no agent has told of it".to_owned())?;
        if control.hosts.get(&watch.agent).is_some_and(|host| !host.has_failed) {
            return Err(format!("s{partition}.{replica}: its host is there"));
        }
        let host = control.hosts.get(&agent).filter(|host| !host.has_failed && host.relaunches);
        let host = host.ok_or_else(|| format!("LFD{agent} is not there, or launches nothing"))?;
        if control.has_replica_of(agent, partition) {
            return Err(format!("host {} has a replica of s{partition}", host.name));
        }
        let spare = self.free_spares(agent).next();
        let spare = spare.ok_or_else(|| format!("host {} has no room for a replica", host.name))?;
        let size = self.servers(partition)?.len();
        if watch.report.peers.len() + 1 != size {
            return Err(format!("no agent has told where s{partition}.{replica} reaches its peers"));
        }
        let others = (0..size as u16).filter(|other| *other != replica); // at most REPLICAS_MAX
        let peers = others.zip(&watch.report.peers).map(|(other, launched)| {
            // It may have moved since.
            control.members.p2p_address((partition, other)).unwrap_or(launched).clone()
        });
        let (api_address, p2p_address) = (spare.api_address.clone(), spare.p2p_address.clone());
        Ok(Launch { api_address, p2p_address, peers: peers.collect() })
    }

    /// The room of a host that no replica uses, or is about to.
    pub(super) fn free_spares(&self, agent: u16) -> impl Iterator<Item = &Spare> {
        let control = &self.contents.control;
        let spares = control.hosts.get(&agent).map_or(&[][..], |host| &host.spares);
        let partitions = self.contents.map.as_ref().map_or(&[][..], |map| &map.partitions);
        spares.iter().filter(move |spare| {
            let is_in_map = partitions.iter().any(|part| part.servers.contains(&spare.api_address));
            let is_promised = control.placed.values().any(|placed| placed.launch.api_address == spare.api_address);
            !is_in_map && !is_promised
        })
    }

    /// Whether a replica runs where it was placed, and the map does not say so yet.
    pub(super) fn needs_move(&self, place: Place, agent: u16) -> bool {
        let placed = self.contents.control.placed.get(&place).filter(|placed| placed.agent == agent);
        let servers = self.servers(place.0).unwrap_or_default();
        placed.is_some_and(|placed| servers.get(usize::from(place.1)) != Some(&placed.launch.api_address))
    }
}

impl Control {
    /// Another host is to launch a replica.
    pub(super) fn place(&mut self, place: Place, agent: u16, launch: Launch, event: u64) {
        self.placed.insert(place, Placed { agent, launch, is_settled: false, event });
    }

    /// The group of a replica, and the map, are to know it where it was placed.
    pub(super) fn move_there(&mut self, place: Place, event: u64, map: &ClusterMap) {
        let Some(placed) = self.placed.get_mut(&place) else { return };
        (placed.is_settled, placed.event) = (true, event);
        let mut servers = servers_of(map, place.0);
        if let Some(server) = servers.get_mut(usize::from(place.1)) {
            server.clone_from(&placed.launch.api_address);
            self.members.open_move(place, event, servers, &placed.launch.p2p_address);
        }
    }

    /// A replica is in service on the host of `agent`: if it was to be placed on another one, it is not any more.
    pub(super) fn serves_at(&mut self, place: Place, agent: u16, map: &ClusterMap) {
        let event = self.events.newest();
        let Some(placed) = self.placed.get_mut(&place).filter(|placed| placed.agent != agent) else { return };
        let api_address = servers_of(map, place.0).get(usize::from(place.1)).cloned().unwrap_or_default();
        let launch = Launch { api_address, ..placed.launch.clone() };
        *placed = Placed { agent, launch, is_settled: true, event: event.max(placed.event + 1) };
    }

    /// Whether a host has a replica of a partition, or is to have one.
    pub(super) fn has_replica_of(&self, agent: u16, partition: u16) -> bool {
        let (first, last) = ((partition, 0), (partition, u16::MAX));
        self.replicas.range(first..=last).any(|(_, watch)| watch.agent == agent)
            || self.placed.range(first..=last).any(|(_, placed)| placed.agent == agent)
    }

    /// The replicas of a host that are another one's by now, and are to end.
    pub(super) fn retirements(&self, report: &AgentReport) -> impl Iterator<Item = Order> {
        report.replicas.iter().filter_map(|own| {
            let (partition, replica) = (own.partition, own.replica);
            let place = (partition, replica);
            let placed = self.placed.get(&place).filter(|placed| placed.is_settled)?;
            let is_due =
                placed.agent != report.agent && own.condition != Condition::Stopped && own.order < placed.event;
            // A newcomer is in service once its group has readmitted it.
            let has_taken_over =
                self.replicas.get(&place).is_some_and(|watch| watch.agent == placed.agent) && self.is_member(place);
            (is_due && has_taken_over).then_some(Order {
                id: placed.event,
                partition,
                replica,
                what: OrderKind::Retire,
            })
        })
    }
}

fn servers_of(map: &ClusterMap, partition: u16) -> Vec<String> {
    map.partitions.get(usize::from(partition)).map(|part| part.servers.clone()).unwrap_or_default()
}
