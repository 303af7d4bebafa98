//! Layout, geneses and registrations: which group a partition has, and who its replicas are.
//!
//! # Which group a partition has
//! A group acknowledges nothing before its genesis is recorded here ([`smr::replica::ConfigurationSource`]). The first
//! one is; the same one again is fine; another one is refused, unless the operator says that it replaces the very one
//! that is recorded.
//!
//! Managers of older builds recorded replicas only. There a group whose members are known is not founded again; its
//! genesis is the one that the first of these members names which registers. If no member is known, any directory of
//! this cluster that is initialized belongs to that group: nothing was founded here since, or its genesis would be
//! recorded.
//!
//! # Who becomes a replica
//! | the replica has    | newcomer                 | result                                                     |
//! |--------------------|--------------------------|------------------------------------------------------------|
//! | no one             | a directory, no member   | registered                                                 |
//! | the same directory | itself                   | registered; once a member always a member                  |
//! | a non-member       | a directory, no member   | registered: the other one has never voted                  |
//! | a member           | a directory, no member   | occupied: it may have been emptied (M6), or be a second one |
//! | anyone            | a member of the recorded group | registered: the group's configuration has taken it in |
//! | anyone            | a member of another group | refused                                                    |
//! | the same directory | itself, in an older start | disqualified: it was set back, or is a copy                |
//!
//! One whose place is in no map is refused, unless it has said where it is: its group may have taken it in just now,
//! and the map follows.
//!
//! Members are those who found the recorded group, from that moment on, and who prove to belong to it by its genesis.
//! The group's configuration decides who votes: whether another one has taken the place of a member for good, the
//! members say. This table only tells a server early that it will not vote.

use std::collections::BTreeMap;
use std::sync::Arc;

use madkv_proto::frames::Registration;
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use serde::{Deserialize, Serialize};
use smr::entry::{Genesis, GenesisHash, GenesisRequest, Incumbent};
use smr::epoch::GroupKind;
use smr::id::{ClusterId, Incarnation, NodeId, ReplicaId, StartId};

use super::epochs::Epochs;
use super::{ManagerState, Reply};

/// Which incarnation a replica has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplicaRecord {
    pub(super) incarnation: Incarnation,
    /// Whether it has been seen as a member of its group.
    pub(super) member: bool,
    /// Its newest start that was seen; number 0 if none was.
    pub(super) start: StartId,
}

/// The group of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Founded {
    pub(super) hash: GenesisHash,
    /// `None` for a group of an older build, of which a member has told the hash.
    pub(super) genesis: Option<Genesis>,
}

impl ManagerState {
    pub(super) fn lay_out(
        &mut self,
        cluster: ClusterId,
        server_rf: u64,
        servers: &[String],
        kinds: &[GroupKind],
        services: &[GroupService],
    ) -> Reply {
        let server_rf = usize::try_from(server_rf).unwrap_or(usize::MAX);
        let wanted = match ClusterMap::deal_to_services(cluster, server_rf, servers, kinds, services) {
            Ok(map) => map,
            Err(error) => return Reply::Refused(error.to_string()),
        };
        let epochs = Epochs::of(kinds, wanted.partitions.len());
        let service_of = |at: usize| services.get(at).or(services.first()).filter(|service| !service.is_key_value());
        let services: BTreeMap<u16, GroupService> = (0..wanted.partitions.len())
            .zip(0..)
            .filter_map(|(at, partition)| Some((partition, service_of(at)?.clone())))
            .collect();
        let is_same = |map: &ClusterMap| {
            map.cluster == wanted.cluster
                && is_same_layout(map, &wanted)
                && self.contents.epochs.are_of_the_same_kinds(&epochs)
                && self.contents.services == services
        };
        match &self.contents.map {
            Some(map) if is_same(map) => Reply::Map(map.clone()),
            Some(_) => Reply::Refused("the cluster has another layout already".into()),
            None => {
                let contents = Arc::make_mut(&mut self.contents);
                (contents.map, contents.epochs, contents.services) = (Some(wanted.clone()), epochs, services);
                Reply::Map(wanted)
            }
        }
    }

    pub(super) fn register(&mut self, newcomer: Registration) -> Reply {
        let map = match self.map_with((newcomer.partition, newcomer.replica)) {
            Ok(map) => map,
            Err(reply) => return reply,
        };
        let Registration { partition, replica, incarnation, .. } = newcomer;
        if newcomer.member {
            let Some(genesis) = newcomer.genesis else {
                return Reply::Refused("a member names no genesis".into());
            };
            match self.contents.founded.get(&partition) {
                Some(Founded { hash, .. }) if *hash != genesis => {
                    return Reply::Refused(format!(
                        "the group of s{partition} has genesis {hash}, this directory is of one with genesis {genesis}"
                    ));
                }
                Some(_) => {}
                None if self.proves(partition, replica, incarnation) => {
                    let founded = Founded { hash: genesis, genesis: None };
                    Arc::make_mut(&mut self.contents).founded.insert(partition, founded);
                }
                None => return Reply::NotProved,
            }
        }
        self.admit(newcomer, map)
    }

    pub(super) fn register_unproved(&mut self, newcomer: Registration) -> Reply {
        match self.map_with((newcomer.partition, newcomer.replica)) {
            Ok(map) => self.admit(newcomer, map),
            Err(reply) => reply,
        }
    }

    /// The map, if it has this replica.
    fn map_with(&self, (partition, replica): (u16, u16)) -> Result<ClusterMap, Reply> {
        let Some(map) = self.contents.map.clone() else { return Err(Reply::NoMap) };
        let servers = map.partitions.get(usize::from(partition)).map_or(0, |partition| partition.servers.len());
        if usize::from(replica) >= servers {
            if self.contents.control.members.p2p_address((partition, replica)).is_some() {
                return Err(Reply::NotInMapYet);
            }
            let since = if map.epoch > 1 { " any more: if it was there, its group goes on without it" } else { "" };
            return Err(Reply::Refused(format!("the cluster has no s{partition}.{replica}{since}")));
        }
        Ok(map)
    }

    /// See the table of this module.
    fn admit(&mut self, newcomer: Registration, map: ClusterMap) -> Reply {
        let place = (newcomer.partition, newcomer.replica);
        let fresh =
            ReplicaRecord { incarnation: newcomer.incarnation, member: newcomer.member, start: newcomer.start.id };
        let recorded = self.contents.records.get(&place);
        let record = match recorded {
            None => fresh,
            Some(record) if record.incarnation == newcomer.incarnation => match newcomer.start.judge(record.start) {
                Err(why) => return Reply::Disqualified { why, map },
                Ok(_) => ReplicaRecord {
                    member: record.member || newcomer.member,
                    start: newcomer.start.id,
                    ..record.clone()
                },
            },
            Some(record) if record.member && !newcomer.member => {
                return Reply::Occupied { by: record.incarnation, map };
            }
            Some(_) => fresh,
        };
        if recorded != Some(&record) {
            Arc::make_mut(&mut self.contents).records.insert(place, record);
        }
        Reply::Registered(map)
    }

    /// Whether a server, where no genesis is recorded, proves by its incarnation which group its partition has.
    fn proves(&self, partition: u16, replica: u16, incarnation: Incarnation) -> bool {
        let recorded = self.contents.records.get(&(partition, replica));
        !self.has_members(partition)
            || recorded.is_some_and(|record| record.member && record.incarnation == incarnation)
    }

    fn has_members(&self, partition: u16) -> bool {
        self.contents.records.range((partition, 0)..=(partition, u16::MAX)).any(|(_, record)| record.member)
    }

    pub(super) fn record_genesis(&mut self, request: GenesisRequest) -> Reply {
        let GenesisRequest { genesis, instead_of } = request;
        let Some(map) = &self.contents.map else { return Reply::NoMap };
        let Some(partition) = partition_of(&genesis, map, instead_of.is_some()) else {
            return Reply::Refused(format!("the cluster has no group {} with these members", genesis.group));
        };
        let hash = genesis.hash();
        let founded = self.contents.founded.get(&partition);
        let incumbent = match founded {
            Some(founded) if founded.hash == hash => return Reply::GenesisRecorded,
            Some(founded) => Some(Incumbent::Recorded(founded.hash)),
            None => self.has_members(partition).then_some(Incumbent::Unrecorded),
        };
        if let Some(incumbent) = incumbent
            && instead_of != Some(incumbent)
        {
            return Reply::GenesisRefused { incumbent, genesis: founded.and_then(|founded| founded.genesis.clone()) };
        }
        let contents = Arc::make_mut(&mut self.contents);
        // No one of the group that was there is a replica of this one, unless it is named.
        contents.records.retain(|&(of, name), record| {
            let node = NodeId { name: ReplicaId(name), incarnation: record.incarnation };
            of != partition || incumbent.is_none() || genesis.members.contains(&node)
        });
        for member in &genesis.members {
            // From now on it may vote at any time.
            let place = (partition, member.name.0);
            let known = contents.records.get(&place).filter(|record| record.incarnation == member.incarnation);
            let start = known.map(|record| record.start).unwrap_or_default();
            // Members of a group that this one follows are refused for their genesis.
            let record = ReplicaRecord { incarnation: member.incarnation, member: true, start };
            contents.records.insert(place, record);
        }
        contents.founded.insert(partition, Founded { hash, genesis: Some(genesis.clone()) });
        self.begin_epochs(partition, &genesis);
        Reply::GenesisRecorded
    }
}

/// Which partition of the cluster this is the genesis of: one with that name, and with one member for each of its
/// replicas; or, for a group that replaces another one, with a single member, whose directory was recovered.
fn partition_of(genesis: &Genesis, map: &ClusterMap, is_successor: bool) -> Option<u16> {
    let number: u16 = genesis.group.as_str().strip_prefix('s')?.parse().ok()?;
    let partition = map.partitions.get(usize::from(number))?;
    let names = genesis.members.iter().map(|member| member.name);
    let replicas = (0..=u16::MAX).map(ReplicaId).take(partition.servers.len());
    let is_recovered =
        is_successor && names.len() == 1 && names.clone().all(|name| usize::from(name.0) < partition.servers.len());
    let is_named_so = genesis.group.as_str() == format!("s{number}");
    (is_named_so && genesis.cluster == Some(map.cluster) && (is_recovered || names.eq(replicas))).then_some(number)
}

/// Whether two maps deal the same slots to the same servers, however their addresses are spelled.
fn is_same_layout(map: &ClusterMap, other: &ClusterMap) -> bool {
    map.partitions.len() == other.partitions.len()
        && map.partitions.iter().zip(&other.partitions).all(|(one, other)| one.is_same(other))
}
