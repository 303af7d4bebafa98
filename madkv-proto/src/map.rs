//! The cluster map: which partition owns a slot, and where its replicas listen.
//!
//! Maps are numbered by epoch. Two maps never share an epoch, a published map never changes, and no one moves to a
//! lower epoch (fault catalogue G2).

use serde::{Deserialize, Serialize};
use smr::epoch::GroupKind;
use smr::id::ClusterId;
use smr_service::address::{are_same, is_same};

use crate::group_service::GroupService;
use crate::slot_set::SlotSet;
use crate::slots::{SLOTS, slot_of};

pub use smr_service::limits::REPLICAS_MAX;

/// The most partitions of a cluster.
pub const PARTITIONS_MAX: usize = 50;

/// One version of the cluster's layout.
///
/// Its bytes are those of the time when each partition had one range of slots: further ranges come after the
/// partitions, as entries without servers, two for each: the range, and the number of its owner in the place of both
/// its ends. A build of that time takes such a map for senseless and keeps the one that it has. A group of another
/// service has the empty range behind all slots, which others take for no slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlainMap", into = "PlainMap")]
pub struct ClusterMap {
    /// The cluster that it is the map of; one of another cluster is refused.
    pub cluster: ClusterId,
    /// The version, from 1.
    pub epoch: u64,
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
}

/// One partition: its slots and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its slots. A partition that was added has none at first.
    pub slots: SlotSet,
    /// `host:port` where each replica serves clients, by replica number.
    pub servers: Vec<String>,
    /// Whether it is of the key-value store. A group of another service never has slots.
    pub is_store: bool,
}

/// The range of a group of another service, in the bytes of a map.
const NO_SLOTS_EVER: (u16, u16) = (SLOTS, SLOTS);

/// A map as bytes have it.
#[derive(Serialize, Deserialize)]
struct PlainMap {
    cluster: ClusterId,
    epoch: u64,
    partitions: Vec<PlainPartition>,
}

#[derive(Serialize, Deserialize)]
struct PlainPartition {
    slot_first: u16,
    slot_end: u16,
    servers: Vec<String>,
}

impl From<ClusterMap> for PlainMap {
    fn from(map: ClusterMap) -> PlainMap {
        let ClusterMap { cluster, epoch, partitions } = map;
        let mut plain = Vec::with_capacity(partitions.len());
        let mut further = Vec::new();
        let entry = |(slot_first, slot_end), servers| PlainPartition { slot_first, slot_end, servers };
        for (number, Partition { slots, servers, is_store }) in partitions.into_iter().enumerate() {
            let mut ranges = slots.ranges().iter().copied();
            let none = if is_store { (0, 0) } else { NO_SLOTS_EVER };
            plain.push(entry(ranges.next().unwrap_or(none), servers));
            let owner = number as u16; // below PARTITIONS_MAX
            further.extend(ranges.flat_map(|range| [range, (owner, owner)]).map(|ends| entry(ends, Vec::new())));
        }
        plain.append(&mut further);
        PlainMap { cluster, epoch, partitions: plain }
    }
}

impl TryFrom<PlainMap> for ClusterMap {
    type Error = &'static str;

    fn try_from(plain: PlainMap) -> Result<ClusterMap, &'static str> {
        let PlainMap { cluster, epoch, mut partitions } = plain;
        let count = partitions.iter().position(|entry| entry.servers.is_empty()).unwrap_or(partitions.len());
        let further = partitions.split_off(count);
        let first = |entry: &PlainPartition| match (entry.slot_first, entry.slot_end) {
            (first, end) if first == end => Vec::new(),
            range => vec![range],
        };
        let mut ranges: Vec<Vec<(u16, u16)>> = partitions.iter().map(first).collect();
        for pair in further.chunks(2) {
            let [range, owner] = pair else { return Err("a range of slots without an owner") };
            let owner = ranges.get_mut(usize::from(owner.slot_first));
            owner.ok_or("slots of a partition that is not there")?.push((range.slot_first, range.slot_end));
        }
        let partitions = partitions.into_iter().zip(ranges).map(|(entry, ranges)| Partition {
            slots: SlotSet::from_ranges(ranges),
            is_store: (entry.slot_first, entry.slot_end) != NO_SLOTS_EVER,
            servers: entry.servers,
        });
        let partitions: Vec<Partition> = partitions.collect();
        if partitions.iter().any(|partition| !partition.is_store && !partition.slots.is_empty()) {
            return Err("slots of a group of another service");
        }
        Ok(ClusterMap { cluster, epoch, partitions })
    }
}

/// An address list that makes no cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// The number of servers is no multiple of the replication factor.
    #[error("{servers} server addresses do not divide into groups of {server_rf}")]
    Uneven {
        /// Addresses given.
        servers: usize,
        /// Replication factor given.
        server_rf: usize,
    },
    /// No partition, or too many.
    #[error("{partitions} partitions; 1 to {PARTITIONS_MAX} are possible")]
    Partitions {
        /// Partitions that result.
        partitions: usize,
    },
    /// A replication factor that is not one of 1, 3, 5, 7, 9.
    #[error("replication factor {server_rf}; 1, 3, 5, 7 and 9 are possible")]
    ReplicationFactor {
        /// Replication factor given.
        server_rf: usize,
    },
    /// A replication factor that is not one of 1 to 9, of groups that are not of kind raft.
    #[error("replication factor {server_rf}; 1 to 9 are possible")]
    ReplicationFactorOfEpochs {
        /// Replication factor given.
        server_rf: usize,
    },
    /// There are not as many kinds as groups.
    #[error("{kinds} kinds of groups for {partitions} partitions; one for all, or one for each, is possible")]
    Kinds {
        /// Kinds given.
        kinds: usize,
        /// Partitions that result.
        partitions: usize,
    },
    /// There are not as many services as groups.
    #[error("{services} services of groups for {partitions} partitions; one for all, or one for each, is possible")]
    Services {
        /// Services given.
        services: usize,
        /// Partitions that result.
        partitions: usize,
    },
    /// An address stands in the list twice.
    #[error("server address {address} is given twice")]
    Doubled {
        /// The address.
        address: String,
    },
}

impl ClusterMap {
    /// The first map: slots dealt evenly, in order, to as many partitions as the addresses fill.
    ///
    /// # Errors
    /// If the addresses do not fit the replication factor.
    pub fn deal(cluster: ClusterId, server_rf: usize, servers: &[String]) -> Result<ClusterMap, BadLayout> {
        ClusterMap::deal_to_kinds(cluster, server_rf, servers, &[GroupKind::Raft])
    }

    /// The same, to groups of these kinds: one for all, or one for each partition.
    ///
    /// # Errors
    /// If the addresses do not fit the replication factor, or the kinds do not fit either.
    pub fn deal_to_kinds(
        cluster: ClusterId,
        server_rf: usize,
        servers: &[String],
        kinds: &[GroupKind],
    ) -> Result<ClusterMap, BadLayout> {
        ClusterMap::deal_to_services(cluster, server_rf, servers, kinds, &[GroupService::default()])
    }

    /// The same, to groups of these services: one for all, or one for each partition. Those that are no part of the
    /// key-value store get no slots.
    ///
    /// # Errors
    /// If addresses, kinds and services do not fit each other.
    pub fn deal_to_services(
        cluster: ClusterId,
        server_rf: usize,
        servers: &[String],
        kinds: &[GroupKind],
        services: &[GroupService],
    ) -> Result<ClusterMap, BadLayout> {
        check_layout_of_services(server_rf, servers, kinds, services)?;
        let is_store =
            |number: usize| services.get(number).or(services.first()).is_some_and(GroupService::is_key_value);
        let count = (0..servers.len() / server_rf).filter(|number| is_store(*number)).count();
        let border = |number: usize| (usize::from(SLOTS) * number / count) as u16; // at most SLOTS
        let mut dealt = 0;
        let partitions = servers.chunks(server_rf).enumerate().map(|(number, group)| {
            let mut slots = SlotSet::default();
            if is_store(number) {
                slots = SlotSet::range(border(dealt), border(dealt + 1));
                dealt += 1;
            }
            Partition { slots, servers: group.to_vec(), is_store: is_store(number) }
        });
        Ok(ClusterMap { cluster, epoch: 1, partitions: partitions.collect() })
    }

    /// Whether any group is of the key-value store. If so, each slot has its owner; if not, no slot has one.
    pub fn has_store(&self) -> bool {
        self.partitions.iter().any(|partition| partition.is_store)
    }

    /// The number of the partition that owns `key`.
    ///
    /// # Panics
    /// If the map leaves the key's slot to no one; of those with a store ([`ClusterMap::has_store`]) none does.
    pub fn partition_of(&self, key: &[u8]) -> usize {
        let slot = slot_of(key);
        self.partitions
            .iter()
            .position(|partition| partition.owns(slot))
            .unwrap_or_else(|| panic!("slot {slot} belongs to no one in epoch {}", self.epoch))
    }
}

impl Partition {
    /// Whether `other` has the same slots and the same servers, however their addresses are spelled.
    pub fn is_same(&self, other: &Partition) -> bool {
        self.slots == other.slots && self.is_store == other.is_store && are_same(&self.servers, &other.servers)
    }

    /// Whether `slot` lives here.
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.contains(slot)
    }
}

/// Checks that `servers` divide into groups of `server_rf`.
///
/// # Errors
/// What is wrong with them.
pub fn check_layout(server_rf: usize, servers: &[String]) -> Result<(), BadLayout> {
    check_layout_of_kinds(server_rf, servers, &[GroupKind::Raft])
}

/// The same, for groups of these kinds: one for all, or one for each.
///
/// # Errors
/// What is wrong with them.
pub fn check_layout_of_kinds(server_rf: usize, servers: &[String], kinds: &[GroupKind]) -> Result<(), BadLayout> {
    // A majority of an even number survives no more failures than one of the odd number before it.
    if kinds.contains(&GroupKind::Raft) && (server_rf > REPLICAS_MAX || server_rf.is_multiple_of(2)) {
        return Err(BadLayout::ReplicationFactor { server_rf });
    }
    if server_rf == 0 || server_rf > REPLICAS_MAX {
        return Err(BadLayout::ReplicationFactorOfEpochs { server_rf });
    }
    if !servers.len().is_multiple_of(server_rf) {
        return Err(BadLayout::Uneven { servers: servers.len(), server_rf });
    }
    let partitions = servers.len() / server_rf;
    if partitions == 0 || partitions > PARTITIONS_MAX {
        return Err(BadLayout::Partitions { partitions });
    }
    if kinds.len() != 1 && kinds.len() != partitions {
        return Err(BadLayout::Kinds { kinds: kinds.len(), partitions });
    }
    for (position, address) in servers.iter().enumerate() {
        if servers[..position].iter().any(|other| is_same(other, address)) {
            return Err(BadLayout::Doubled { address: address.clone() });
        }
    }
    Ok(())
}

/// The same, of groups of these services.
///
/// # Errors
/// What is wrong with them.
pub fn check_layout_of_services(
    server_rf: usize,
    servers: &[String],
    kinds: &[GroupKind],
    services: &[GroupService],
) -> Result<(), BadLayout> {
    check_layout_of_kinds(server_rf, servers, kinds)?;
    let partitions = servers.len() / server_rf;
    if services.len() != 1 && services.len() != partitions {
        return Err(BadLayout::Services { services: services.len(), partitions });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use smr::epoch::EpochKind;

    use super::*;

    fn addresses(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect()
    }

    #[test]
    fn deal_gives_no_slots_to_groups_of_other_services() {
        let services = ["kv", "voting", "kv"].map(|name| name.parse().unwrap());
        let kinds = [GroupKind::Epochs(EpochKind::Passive)];
        let deal =
            |services: &[GroupService]| ClusterMap::deal_to_services(ClusterId(1), 2, &addresses(6), &kinds, services);
        let map = deal(&services).unwrap();
        let counts: Vec<usize> = map.partitions.iter().map(|partition| partition.slots.len()).collect();
        assert_eq!(counts, [usize::from(SLOTS) / 2, 0, usize::from(SLOTS) / 2]);
        assert!((0..200u32).all(|key| map.partition_of(&key.to_le_bytes()) != 1) && map.has_store());
        let without = deal(&services[1..2]).unwrap();
        assert!(without.partitions.iter().all(|part| part.slots.is_empty() && !part.is_store) && !without.has_store());
        for map in [map, without] {
            assert_eq!(smr::codec::decode::<ClusterMap>(&smr::codec::encode(&map)), Ok(map));
        }
        for misfit in [&services[..2], &services[..0]] {
            assert_eq!(deal(misfit), Err(BadLayout::Services { services: misfit.len(), partitions: 3 }));
        }
    }

    #[test]
    fn decode_of_slots_of_a_group_of_another_service_is_refused() {
        let entry = |(slot_first, slot_end), servers: &[String]| PlainPartition {
            slot_first,
            slot_end,
            servers: servers.to_vec(),
        };
        let servers = addresses(2);
        let groups = [entry((0, SLOTS), &servers[..1]), entry(NO_SLOTS_EVER, &servers[1..])];
        let further = [entry((5, 9), &[]), entry((1, 1), &[])];
        let map = |partitions| smr::codec::encode(&PlainMap { cluster: ClusterId(1), epoch: 2, partitions });
        assert!(smr::codec::decode::<ClusterMap>(&map(groups.into_iter().chain(further).collect())).is_err());
    }

    // covers G6
    #[test]
    fn deal_any_partition_count_gives_each_slot_one_owner() {
        for count in 1..=PARTITIONS_MAX {
            let map = ClusterMap::deal(ClusterId(1), 1, &addresses(count)).unwrap();
            for slot in 0..SLOTS {
                let owners = map.partitions.iter().filter(|partition| partition.owns(slot)).count();
                assert_eq!(owners, 1, "slot {slot} of {count} partitions");
            }
        }
    }

    // covers G2
    #[test]
    fn moved_slots_travel_in_the_bytes_of_a_plain_map() {
        let dealt = ClusterMap::deal(ClusterId(1), 1, &addresses(3)).unwrap();
        let bytes = smr::codec::encode(&dealt);
        assert_eq!(smr::codec::decode::<ClusterMap>(&bytes), Ok(dealt.clone()));
        let plain = |partition: &Partition| {
            let (slot_first, slot_end) = partition.slots.ranges()[0];
            PlainPartition { slot_first, slot_end, servers: partition.servers.clone() }
        };
        let entries = dealt.partitions.iter().map(plain).collect();
        let before = PlainMap { cluster: dealt.cluster, epoch: 1, partitions: entries };
        assert_eq!(smr::codec::encode(&before), bytes, "the bytes of a map whose slots never moved have changed");

        let mut moved = ClusterMap { epoch: 2, ..dealt };
        let (out, back) = (SlotSet::range(100, 200), SlotSet::range(16_000, 16_384));
        moved.partitions[0].slots = moved.partitions[0].slots.without(&out).with(&back);
        moved.partitions[2].slots = moved.partitions[2].slots.without(&back).with(&out);
        let servers = vec!["h:1".to_owned()];
        moved.partitions.push(Partition { slots: SlotSet::default(), servers, is_store: true });
        let bytes = smr::codec::encode(&moved);
        assert_eq!(smr::codec::decode::<ClusterMap>(&bytes), Ok(moved));
        // Whoever takes entries for partitions finds one without servers.
        let entries = smr::codec::decode::<PlainMap>(&bytes).unwrap().partitions;
        assert!(entries.len() > 4 && entries[..4].iter().all(|entry| !entry.servers.is_empty()));
        assert!(entries[4..].iter().all(|entry| entry.servers.is_empty()));
    }

    // covers B1
    #[test]
    fn decode_of_ranges_without_a_sound_owner_is_refused() {
        let entry = |slot_first, slot_end, servers: &[String]| PlainPartition {
            slot_first,
            slot_end,
            servers: servers.to_vec(),
        };
        for further in [vec![entry(5, 9, &[])], vec![entry(5, 9, &[]), entry(7, 7, &[])]] {
            let partitions = [entry(0, 5, &addresses(1))].into_iter().chain(further).collect();
            let bytes = smr::codec::encode(&PlainMap { cluster: ClusterId(1), epoch: 2, partitions });
            assert!(smr::codec::decode::<ClusterMap>(&bytes).is_err());
        }
    }

    #[test]
    fn check_layout_misfit_is_refused_with_reason() {
        assert!(matches!(check_layout(3, &addresses(5)), Err(BadLayout::Uneven { .. })));
        assert!(matches!(check_layout(0, &addresses(4)), Err(BadLayout::ReplicationFactor { .. })));
        assert!(matches!(check_layout(2, &addresses(4)), Err(BadLayout::ReplicationFactor { .. })));
        assert!(matches!(check_layout(1, &addresses(51)), Err(BadLayout::Partitions { .. })));
        assert!(matches!(check_layout(1, &[]), Err(BadLayout::Partitions { .. })));
        let mut doubled = addresses(3);
        doubled[2] = doubled[0].clone();
        assert!(matches!(check_layout(3, &doubled), Err(BadLayout::Doubled { .. })));
        let spelled = ["[::1]:1".to_owned(), "[0::1]:1".to_owned(), "b:1".to_owned()];
        assert!(matches!(check_layout(3, &spelled), Err(BadLayout::Doubled { .. })));
        assert_eq!(check_layout(3, &addresses(6)), Ok(()));
    }

    #[test]
    fn check_layout_even_sizes_are_for_groups_with_epochs_alone() {
        let chain = GroupKind::Epochs(EpochKind::Chain);
        for server_rf in 1..=REPLICAS_MAX {
            assert_eq!(check_layout_of_kinds(server_rf, &addresses(2 * server_rf), &[chain]), Ok(()));
        }
        for server_rf in [0, REPLICAS_MAX + 1] {
            let refused = check_layout_of_kinds(server_rf, &addresses(20), &[chain]);
            assert_eq!(refused, Err(BadLayout::ReplicationFactorOfEpochs { server_rf }));
        }
        let refused = check_layout_of_kinds(2, &addresses(4), &[chain, GroupKind::Raft]);
        assert_eq!(refused, Err(BadLayout::ReplicationFactor { server_rf: 2 }));
        let refused = check_layout_of_kinds(2, &addresses(6), &[chain, chain]);
        assert_eq!(refused, Err(BadLayout::Kinds { kinds: 2, partitions: 3 }));
    }
}
