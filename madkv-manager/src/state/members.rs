//! Which replicas a partition's group is to have, and where they are: what operators want, and what became of it.
//!
//! A change of a group is open from the moment it is recorded until the manager that leads says how it ended: the
//! group itself carries it out ([`crate::scale`]). Only then is there a new map. The same order again, from someone who
//! did not hear the answer, joins the change that is open, or finds it done (G1).

use std::collections::BTreeMap;

use madkv_proto::control::{ADDRESS_MAX_BYTES, Announcement, ChangeReport, ControlReply};
use madkv_proto::map::{ClusterMap, REPLICAS_MAX};
use serde::{Deserialize, Serialize};
use smr::epoch::GroupKind;
use smr_service::address::is_same;

use super::{ManagerState, Place};

/// Replicas that a group is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The number of the event that says so.
    pub id: u64,
    /// Where they serve clients, by number.
    pub servers: Vec<String>,
    /// Where their peers reach them, by number; empty for those who stay where they are.
    pub peers: Vec<String>,
}

/// What was announced and wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Members {
    /// Where replicas that are in no map say that they are: for clients, and for peers.
    announced: BTreeMap<Place, (String, String)>,
    /// By partition.
    changes: BTreeMap<u16, Changes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changes {
    open: Option<Wanted>,
    /// The last one that ended, and why it was refused, if it was.
    ended: Option<(u64, Option<String>)>,
}

impl Members {
    fn report(&self, partition: u16, epoch: u64) -> ControlReply {
        let changes = self.changes.get(&partition).cloned().unwrap_or_default();
        ControlReply::Change(ChangeReport { open: changes.open.map(|wanted| wanted.id), ended: changes.ended, epoch })
    }

    /// Where its peers reach a replica, if it was announced.
    pub(super) fn p2p_address(&self, place: Place) -> Option<&String> {
        self.announced.get(&place).map(|(_, peer)| peer)
    }

    /// The repair that is decision number `id` moves a replica: it is from now on where these addresses say.
    pub(super) fn open_move(&mut self, place: Place, id: u64, servers: Vec<String>, peer: &str) {
        let (partition, replica) = place;
        let mut peers = vec![String::new(); servers.len()];
        peer.clone_into(&mut peers[usize::from(replica)]);
        self.announced.insert(place, (servers[usize::from(replica)].clone(), peer.to_owned()));
        self.changes.entry(partition).or_default().open = Some(Wanted { id, servers, peers });
    }
}

fn group(partition: u16) -> String {
    format!("s{partition}")
}

impl ManagerState {
    /// Whether a change of a partition's members is open.
    pub(super) fn is_changing(&self, partition: u16) -> bool {
        self.contents.control.members.changes.get(&partition).is_some_and(|changes| changes.open.is_some())
    }

    /// All changes that are open, by partition.
    pub(super) fn open_changes(&self) -> Vec<(u16, Wanted)> {
        let changes = &self.contents.control.members.changes;
        changes.iter().filter_map(|(partition, changes)| Some((*partition, changes.open.clone()?))).collect()
    }

    /// How the changes of a partition's group are.
    pub(super) fn change_of(&self, partition: u16) -> ControlReply {
        let epoch = self.contents.map.as_ref().map_or(0, |map| map.epoch);
        self.contents.control.members.report(partition, epoch)
    }

    /// A replica says where it is. One that the map has, somewhere else, wants to be moved.
    pub(super) fn announce(&mut self, announcement: Announcement, at_unix_ms: u64) -> ControlReply {
        let Announcement { partition, replica, api_address, p2p_address, epoch } = announcement.clone();
        let servers = match self.servers(partition) {
            Ok(servers) => servers,
            Err(why) => return ControlReply::Refused(why),
        };
        if usize::from(replica) >= REPLICAS_MAX || !is_address(&api_address) || !is_address(&p2p_address) {
            return ControlReply::Refused(format!("{}.{replica} at {api_address} makes no sense", group(partition)));
        }
        let place = (partition, replica);
        if servers.get(usize::from(replica)).is_some() {
            if self.contents.control.placed.contains_key(&place) {
                let what = format!("{}.{replica} was placed on another host; an operator moves it", group(partition));
                return ControlReply::Refused(what);
            }
            let known = self.contents.control.members.announced.get(&place);
            let is_known = known == Some(&(api_address.clone(), p2p_address.clone()));
            return match is_known {
                true => ControlReply::Done,
                false => self.relocate(announcement, at_unix_ms),
            };
        }
        if let Some(why) = self.is_stale(epoch) {
            return ControlReply::Refused(why);
        }
        let announced = &self.contents.control.members.announced;
        if announced.get(&place) != Some(&(api_address.clone(), p2p_address.clone())) {
            self.control_mut().members.announced.insert(place, (api_address, p2p_address));
        }
        ControlReply::Done
    }

    /// Why operators cannot change a group, if they cannot.
    fn cannot_change(&self, partition: u16) -> Option<String> {
        let (kind, service) = (self.kind(partition), self.service(partition));
        let which = match service.is_key_value() {
            true if kind == GroupKind::Raft => return None,
            true => format!("of kind {kind}"),
            false => format!("of service {service}"),
        };
        Some(format!("groups {which} keep the replicas that they were laid out with"))
    }

    /// An operator wants this many replicas.
    pub(super) fn scale(&mut self, partition: u16, replicas: u16, epoch: u64, at_unix_ms: u64) -> ControlReply {
        let present = match self.servers(partition) {
            Ok(servers) => servers,
            Err(why) => return ControlReply::Refused(why),
        };
        if let Some(why) = self.cannot_change(partition) {
            return ControlReply::Refused(why);
        }
        let name = group(partition);
        let count = usize::from(replicas);
        if count == 0 {
            return ControlReply::Refused(format!("the last replica of {name} cannot be removed"));
        }
        if count > REPLICAS_MAX || count.is_multiple_of(2) {
            return ControlReply::Refused(format!("{count} replicas; 1, 3, 5, 7 and 9 are possible"));
        }
        let mut wanted = Wanted { id: 0, servers: Vec::new(), peers: Vec::new() };
        for replica in 0..replicas {
            let announced = self.contents.control.members.announced.get(&(partition, replica));
            let (server, peer) = match (present.get(usize::from(replica)), announced) {
                (Some(server), _) => (server.clone(), String::new()),
                (None, Some((server, peer))) => (server.clone(), peer.clone()),
                (None, None) => {
                    return ControlReply::Refused(format!(
                        "no one has said where {name}.{replica} is: start it with --join first"
                    ));
                }
            };
            wanted.servers.push(server);
            wanted.peers.push(peer);
        }
        if let Some((at, server)) = self.taken(partition, &wanted.servers) {
            return ControlReply::Refused(format!("{server} is the address of {at} already"));
        }
        let text = format!("{replicas} replicas instead of {}", present.len());
        self.want(partition, wanted, &text, epoch, at_unix_ms)
    }

    /// A replica is to be found somewhere else.
    pub(super) fn relocate(&mut self, announcement: Announcement, at_unix_ms: u64) -> ControlReply {
        let Announcement { partition, replica, api_address: server, p2p_address: peer, epoch } = announcement;
        let place = (partition, replica);
        if let Some(why) = self.cannot_change(partition) {
            return ControlReply::Refused(why);
        }
        let mut servers = match self.servers(partition) {
            Ok(servers) => servers,
            Err(why) => return ControlReply::Refused(why),
        };
        let Some(present) = servers.get_mut(usize::from(replica)) else {
            return ControlReply::Refused(format!("the cluster has no {}.{replica}", group(partition)));
        };
        if !is_address(&server) || !is_address(&peer) {
            return ControlReply::Refused("an address is host:port".to_owned());
        }
        let is_there = *present == server && self.contents.control.members.p2p_address(place) == Some(&peer);
        if is_there && !self.is_changing(partition) {
            return self.change_of(partition);
        }
        let text = format!("replica {replica} moves from {present} to {server}, for peers {peer}");
        present.clone_from(&server);
        if let Some((at, server)) = self.taken(partition, &servers) {
            return ControlReply::Refused(format!("{server} is the address of {at} already"));
        }
        let mut peers = vec![String::new(); servers.len()];
        peers[usize::from(replica)].clone_from(&peer);
        let reply = self.want(partition, Wanted { id: 0, servers, peers }, &text, epoch, at_unix_ms);
        if !matches!(reply, ControlReply::Refused(_)) {
            let control = self.control_mut();
            control.members.announced.insert(place, (server, peer));
            // An operator's word is the newer one.
            control.placed.remove(&place);
        }
        reply
    }

    /// The manager that leads says how a change ended.
    pub(super) fn change_ended(
        &mut self,
        partition: u16,
        id: u64,
        refused: Option<String>,
        at_unix_ms: u64,
    ) -> ControlReply {
        let open = self.contents.control.members.changes.get(&partition).and_then(|changes| changes.open.clone());
        let Some(wanted) = open.filter(|wanted| wanted.id == id) else {
            return ControlReply::Refused("another change is open, or none".to_owned());
        };
        let text = match &refused {
            None => format!("change {id} is done: {}", wanted.servers.join(", ")),
            Some(why) => format!("change {id} came to nothing: {why}"),
        };
        let control = self.control_mut();
        control.members.changes.insert(partition, Changes { open: None, ended: Some((id, refused.clone())) });
        control.events.append(at_unix_ms, &group(partition), &text);
        match refused {
            None => self.publish(partition, wanted.servers),
            // Whoever is in the map is where the map says, as far as anyone knows, and may say otherwise again.
            Some(_) => {
                let present = self.servers(partition).map_or(0, |servers| servers.len());
                let is_in_map = |place: &Place| place.0 == partition && usize::from(place.1) < present;
                self.control_mut().members.announced.retain(|place, _| !is_in_map(place));
            }
        }
        self.change_of(partition)
    }

    /// A map of the next epoch, in which a partition has these servers.
    fn publish(&mut self, partition: u16, servers: Vec<String>) {
        let contents = std::sync::Arc::make_mut(&mut self.contents);
        let Some(map) = &mut contents.map else { return };
        let Some(part) = map.partitions.get_mut(usize::from(partition)) else { return };
        let left = |place: &Place| place.0 == partition && usize::from(place.1) >= servers.len();
        // Whoever comes under that number is someone else.
        contents.records.retain(|place, _| !left(place));
        contents.control.replicas.retain(|place, _| !left(place));
        contents.control.members.announced.retain(|place, _| !left(place));
        contents.control.placed.retain(|place, _| !left(place));
        if let Some(repairs) = contents.control.repairs.get_mut(&partition) {
            // Or the repair of one that is gone would stay open, and keep all others of the group waiting.
            let gone = |replica: &u16| left(&(partition, *replica));
            repairs.open = repairs.open.take().filter(|open| !gone(&open.replica));
            repairs.waiting.retain(|replica, _| !gone(replica));
            repairs.abandoned.retain(|replica, _| !gone(replica));
        }
        part.servers = servers;
        map.epoch += 1;
    }

    /// Why what someone asks who has seen the map of this epoch no longer counts, if so.
    fn is_stale(&self, epoch: u64) -> Option<String> {
        let present = self.contents.map.as_ref().map_or(0, |map| map.epoch);
        (epoch != present).then(|| format!("the cluster map has changed meanwhile (epoch {present}, not {epoch})"))
    }

    fn want(&mut self, partition: u16, mut wanted: Wanted, text: &str, epoch: u64, at_unix_ms: u64) -> ControlReply {
        let members = &self.contents.control.members;
        if let Some(open) = members.changes.get(&partition).and_then(|changes| changes.open.as_ref()) {
            let same = (&open.servers, &open.peers) == (&wanted.servers, &wanted.peers);
            return match same {
                true => self.change_of(partition),
                false => ControlReply::Refused(format!("another change of {} is under way", group(partition))),
            };
        }
        // Both exchange members, and each counts on the others being what they are.
        let repairs = self.contents.control.repairs.get(&partition).and_then(|repairs| repairs.open.as_ref());
        if let Some(open) = repairs.filter(|open| open.stage.exchanges_a_member()) {
            let what = format!("{}.{} is being repaired; try again", group(partition), open.replica);
            return ControlReply::Refused(what);
        }
        let is_there = self.servers(partition).as_ref() == Ok(&wanted.servers);
        if is_there && wanted.peers.iter().all(String::is_empty) {
            return self.change_of(partition);
        }
        if let Some(why) = self.is_stale(epoch) {
            return ControlReply::Refused(why);
        }
        let control = self.control_mut();
        wanted.id = control.events.append(at_unix_ms, &group(partition), text);
        control.members.changes.entry(partition).or_default().open = Some(wanted);
        self.change_of(partition)
    }

    fn map(&self) -> Result<&ClusterMap, String> {
        self.contents.map.as_ref().ok_or_else(|| "there is no cluster map yet".to_owned())
    }

    pub(super) fn servers(&self, partition: u16) -> Result<Vec<String>, String> {
        let part = self.map()?.partitions.get(usize::from(partition));
        part.map(|part| part.servers.clone()).ok_or_else(|| format!("the cluster has no {}", group(partition)))
    }

    /// Whose address one of these is already: another one's of the same group, or someone's of another.
    fn taken(&self, partition: u16, servers: &[String]) -> Option<(String, String)> {
        for (replica, server) in servers.iter().enumerate() {
            if let Some(other) = servers[..replica].iter().position(|other| is_same(other, server)) {
                // One of the two has it now.
                let has = |at: usize| {
                    self.servers(partition).is_ok_and(|now| now.get(at).is_some_and(|at| is_same(at, server)))
                };
                let holder = if has(other) { other } else { replica };
                return Some((format!("{}.{holder}", group(partition)), server.clone()));
            }
            let others = self.map().ok()?.partitions.iter().enumerate();
            for (number, part) in others.filter(|(number, _)| *number != usize::from(partition)) {
                if let Some(other) = part.servers.iter().position(|other| is_same(other, server)) {
                    return Some((format!("s{number}.{other}"), server.clone()));
                }
            }
        }
        None
    }
}

/// Whether this may be an address; whether someone is there shows later.
pub(super) fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    text.len() <= ADDRESS_MAX_BYTES && text.chars().all(|letter| letter.is_ascii_graphic()) && port > Some(0)
}
