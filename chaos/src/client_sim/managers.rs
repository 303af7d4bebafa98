//! The managers, as clients see them: a fixed source of the cluster map that is sometimes down, silent, empty or
//! after.
//!
//! They stand behind the production listener, but are no replica group: a manager gives a map from whatever it has
//! applied, so to a client a group of them is a few sources of which some may be behind. The map does not change in the
//! run. Its epoch is 2; a manager that is behind has no map yet, or one of epoch 0 with other borders, by which no
//! server ever served.

use std::sync::Arc;

use parking_lot::Mutex;

use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::{ClusterMap, Partition};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use smr::id::ClusterId;
use smr::replica::ReplyTo;
use smr_service::listener::Backend;

use super::endpoint::Endpoint;

/// The cluster of every simulation.
pub const CLUSTER: ClusterId = ClusterId(1);

/// The map of a cluster with this many partitions and replicas.
pub fn cluster_map(partitions: u16, replicas: u16) -> ClusterMap {
    let place = |group| (0..replicas).map(move |replica| Endpoint { group, replica }.address());
    let servers: Vec<String> = (0..partitions).flat_map(place).collect();
    let map = ClusterMap::deal(CLUSTER, usize::from(replicas), &servers);
    ClusterMap { epoch: 2, ..map.unwrap_or_else(|error| panic!("{error}")) }
}

/// A map before that one: the same partitions with other borders.
pub fn older_map(map: &ClusterMap) -> ClusterMap {
    let mut older = ClusterMap { epoch: 0, ..map.clone() };
    let last = older.partitions.len() - 1;
    let mut first = 0;
    for number in 0..=last {
        let border = last_range(&map.partitions[number]).1;
        let end = border + (SLOTS - border) / 3;
        older.partitions[number].slots = SlotSet::range(first, end);
        first = end;
    }
    older
}

/// What a server goes by that has not heard of the map: it refuses some of what is its own, and takes nothing else.
pub fn narrow_map(map: &ClusterMap) -> ClusterMap {
    let mut narrow = ClusterMap { epoch: 1, ..map.clone() };
    for partition in &mut narrow.partitions {
        let (first, end) = last_range(partition);
        partition.slots = SlotSet::range(first, end - (end - first) / 2);
    }
    narrow
}

/// The slots of a partition, which are one range here.
fn last_range(partition: &Partition) -> (u16, u16) {
    partition.slots.ranges().last().copied().unwrap_or_default()
}

/// One manager, behind its listener.
pub struct Manager {
    map: Mutex<Option<ClusterMap>>,
}

impl Manager {
    /// One that has this map.
    pub fn new(map: Option<ClusterMap>) -> Arc<Manager> {
        Arc::new(Manager { map: Mutex::new(map) })
    }

    /// It has applied this.
    pub fn learn(&self, map: ClusterMap) {
        *self.map.lock() = Some(map);
    }

    fn map(&self) -> Option<ClusterMap> {
        self.map.lock().clone()
    }
}

impl Backend for Manager {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Manager
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    fn epoch(&self) -> u64 {
        self.map().map_or(0, |map| map.epoch)
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, _reply: ReplyTo) -> Option<ClientResponse> {
        Some(match ask {
            ClientRequest::Map => self.map().map_or(ClientResponse::NoMap, |map| ClientResponse::Map(Box::new(map))),
            other => ClientResponse::Refused(format!("{other:?} is nothing for a manager")),
        })
    }
}
