//! The cluster map: where it comes from, and which group owns a key.
//!
//! Any manager replica that has applied a map gives it out. They are asked in turn, each with a head start over the
//! next. The epoch never goes down: an older map, or one of another cluster, is thrown away (fault catalogue G2, B4).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::{ClusterMap, PARTITIONS_MAX, REPLICAS_MAX};
use madkv_proto::slots::{SLOTS, slot_of};
use smr_service::client::{Context, CopyEvent, Event, TimedOut, before, lock, troubles};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::limits::{MANAGER_HEDGE, MANAGER_PAUSE, MAP_LOOK};
use crate::{Group, Posted};

/// One version of the map, ready for use.
pub(crate) struct Routes {
    pub(crate) map: ClusterMap,
    /// By partition number.
    pub(crate) groups: Vec<Arc<Group>>,
    /// The partition of each slot.
    slots: Vec<u8>,
}

/// The way from keys to groups.
pub(crate) struct Router {
    context: Arc<Context>,
    /// The managers, as a group of their own.
    pub(crate) managers: Arc<Group>,
    current: Mutex<Option<Arc<Routes>>>,
    /// Held while a map is fetched: many requests fetch one.
    fetching: tokio::sync::Mutex<()>,
    /// The manager that answered last.
    preferred: AtomicUsize,
    complained: AtomicBool,
    /// Set once someone looks for newer maps.
    follows: AtomicBool,
    me: Weak<Router>,
}

impl Routes {
    /// The group that owns `key`, by a map with a store.
    pub(crate) fn group_of(&self, key: &[u8]) -> &Arc<Group> {
        &self.groups[usize::from(self.slots[usize::from(slot_of(key))])]
    }

    fn build(context: &Arc<Context>, map: ClusterMap, former: Option<&Routes>) -> Result<Routes, String> {
        let slots = slot_table(&map)?;
        // Which service a group is of never changes. Who was given a map with a store goes by that for all that follow.
        let had_store = |former: &Routes| former.map.has_store();
        if former.is_some_and(had_store) && !map.has_store() {
            return Err("no group is of the key-value store any more".to_owned());
        }
        let groups = map.partitions.iter().enumerate().map(|(number, partition)| {
            // Sessions, beliefs and what is under way belong to the partition, wherever its replicas are.
            let kept = former.and_then(|former| former.groups.get(number));
            let new = || {
                let service = Service::Server { partition: number as u16 }; // at most PARTITIONS_MAX
                let first = number * partition.servers.len() + 1;
                Arc::new(Group::new(context, format!("s{number}"), service, first, &partition.servers))
            };
            let group = kept.map_or_else(new, Arc::clone);
            group.move_to(&partition.servers);
            group
        });
        let groups = groups.collect();
        Ok(Routes { map, groups, slots })
    }
}

/// Each slot's partition. Fails if the map leaves a slot to no one or to two, or is beyond the limits. Without any
/// group of the store no slot has an owner.
fn slot_table(map: &ClusterMap) -> Result<Vec<u8>, String> {
    if map.partitions.is_empty() || map.partitions.len() > PARTITIONS_MAX {
        return Err(format!("{} partitions", map.partitions.len()));
    }
    let mut slots = vec![u8::MAX; usize::from(SLOTS)];
    for (number, partition) in map.partitions.iter().enumerate() {
        if partition.servers.is_empty() || partition.servers.len() > REPLICAS_MAX {
            return Err(format!("partition {number} has {} replicas", partition.servers.len()));
        }
        if !partition.slots.is_sound() {
            return Err(format!("partition {number} has slots that do not exist"));
        }
        if !partition.is_store && !partition.slots.is_empty() {
            return Err(format!("partition {number} is of another service, and has slots"));
        }
        for &(first, end) in partition.slots.ranges() {
            let Some(own) = slots.get_mut(usize::from(first)..usize::from(end)) else {
                return Err(format!("partition {number} has slots that do not exist"));
            };
            if own.iter().any(|owner| *owner != u8::MAX) {
                return Err(format!("partition {number} has slots of another"));
            }
            own.fill(number as u8); // at most PARTITIONS_MAX
        }
    }
    match slots.iter().position(|owner| *owner == u8::MAX) {
        Some(slot) if map.has_store() => Err(format!("slot {slot} belongs to no one")),
        _ => Ok(slots),
    }
}

impl Router {
    pub(crate) fn new(context: &Arc<Context>, managers: &[String]) -> Arc<Router> {
        Arc::new_cyclic(|me| Router {
            context: Arc::clone(context),
            managers: Arc::new(Group::new(context, "m".to_owned(), Service::Manager, 1, managers)),
            current: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            preferred: AtomicUsize::new(context.jitter.pick(managers.len())),
            complained: AtomicBool::new(false),
            follows: AtomicBool::new(false),
            me: me.clone(),
        })
    }

    /// The map; fetches the first one.
    pub(crate) async fn routes(&self, deadline: Option<Instant>) -> Result<Arc<Routes>, TimedOut> {
        if let Some(routes) = self.current() {
            return Ok(routes);
        }
        // A simulated client does without: its world has an end.
        if self.context.network.is_none() && !self.follows.swap(true, Ordering::Relaxed) {
            tokio::spawn(Router::keep_fresh(self.me.clone()));
        }
        before(deadline, self.fetch_first()).await
    }

    /// Looks for a newer map now and then, as long as anyone has the router: replicas may have moved, or all of a group
    /// been replaced while this client had nothing to ask.
    pub(crate) async fn keep_fresh(router: Weak<Router>) {
        loop {
            let Some(pause) = router.upgrade().map(|router| router.context.jitter.between(MAP_LOOK.0, MAP_LOOK.1))
            else {
                return;
            };
            tokio::time::sleep(pause).await;
            let Some(router) = router.upgrade() else { return };
            if router.current().is_some() {
                let _fetching = router.fetching.lock().await;
                router.ask_round(0).await;
            }
        }
    }

    /// A map of at least `epoch`, if a manager has it by now; otherwise the newest known. Asks each manager once at
    /// most.
    pub(crate) async fn refreshed(&self, epoch: u64, deadline: Option<Instant>) -> Result<Arc<Routes>, TimedOut> {
        before(deadline, async {
            let _fetching = self.fetching.lock().await;
            if self.current().is_none_or(|routes| routes.map.epoch < epoch) {
                self.ask_round(epoch).await;
            }
        })
        .await?;
        self.routes(deadline).await
    }

    fn current(&self) -> Option<Arc<Routes>> {
        lock(&self.current).clone()
    }

    async fn fetch_first(&self) -> Arc<Routes> {
        let _fetching = self.fetching.lock().await;
        for round in 0.. {
            if let Some(routes) = self.current() {
                return routes;
            }
            if self.ask_round(0).await {
                continue;
            }
            if !self.complained.swap(true, Ordering::Relaxed) {
                let why = troubles(&self.managers.links()).unwrap_or_else(|| "none has a map".to_owned());
                tracing::warn!("no manager gives a map yet, trying on ({why})");
            }
            tokio::time::sleep(self.context.jitter.growing(round, MANAGER_PAUSE)).await;
        }
        unreachable!("the loop has no end")
    }

    /// Asks the managers in turn, until one gave a map of at least `epoch`. Returns whether one did.
    async fn ask_round(&self, epoch: u64) -> bool {
        let (sender, mut events) = mpsc::unbounded_channel();
        let count = self.managers.links().len();
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut questions: Vec<Option<Posted>> = (0..count).map(|_| None).collect();
        for manager in (0..count).map(|step| (preferred + step) % count) {
            let Some(connection) = self.managers.link(manager as u16).and_then(|link| link.connection()) else {
                continue;
            };
            questions[manager] = connection.post(ClientRequest::Map, 0, &sender, manager as u32);
            let hedge_at = Instant::now() + MANAGER_HEDGE;
            while questions.iter().any(Option::is_some) {
                let asked = tokio::time::timeout_at(hedge_at, events.recv());
                let Ok(Some(CopyEvent { copy, event })) = asked.await else { break };
                let answering = copy as usize;
                questions[answering] = None;
                if let Event::Reply(ClientResponse::Map(map)) = *event {
                    let offered = map.epoch;
                    if self.install(*map) && offered >= epoch {
                        self.preferred.store(answering, Ordering::Relaxed);
                        return true;
                    }
                }
                if answering == manager {
                    break; // no use in waiting for it
                }
            }
        }
        false
    }

    /// Takes a map unless it is older than, or foreign to, the one in use. Returns false for a map that is no good.
    fn install(&self, map: ClusterMap) -> bool {
        if *self.context.cluster.get_or_init(|| map.cluster) != map.cluster {
            tracing::warn!("a manager belongs to another cluster: {}", map.cluster);
            return false;
        }
        let mut current = lock(&self.current);
        if current.as_ref().is_some_and(|routes| routes.map.epoch >= map.epoch) {
            return true;
        }
        match Routes::build(&self.context, map, current.as_deref()) {
            Ok(routes) => {
                tracing::debug!(epoch = routes.map.epoch, "map");
                *current = Some(Arc::new(routes));
                true
            }
            Err(why) => {
                tracing::warn!("a manager gave a senseless map: {why}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use madkv_proto::map::Partition;
    use madkv_proto::slot_set::SlotSet;
    use smr::id::ClusterId;

    use super::*;

    fn map(epoch: u64, borders: &[(u16, u16)]) -> ClusterMap {
        let partitions = borders.iter().map(|&(slot_first, slot_end)| Partition {
            slots: SlotSet::from_ranges(vec![(slot_first, slot_end)]),
            servers: vec![format!("127.0.0.1:{}", 1 + slot_first)],
            is_store: true,
        });
        ClusterMap { cluster: ClusterId(7), epoch, partitions: partitions.collect() }
    }

    fn router() -> Arc<Router> {
        Router::new(&Arc::new(Context::plain(None)), &["127.0.0.1:1".to_owned()])
    }

    // covers G2
    #[test]
    fn install_older_map_keeps_newer() {
        let router = router();
        assert!(router.install(map(3, &[(0, SLOTS)])));
        router.install(map(2, &[(0, 100), (100, SLOTS)]));
        assert_eq!(router.current().unwrap().map.epoch, 3);
        assert!(router.install(map(4, &[(0, 100), (100, SLOTS)])));
        assert_eq!(router.current().unwrap().groups.len(), 2);
    }

    // covers B4
    #[test]
    fn install_other_cluster_refused() {
        let router = router();
        assert!(router.install(map(3, &[(0, SLOTS)])));
        let foreign = ClusterMap { cluster: ClusterId(8), ..map(9, &[(0, SLOTS)]) };
        assert!(!router.install(foreign));
        assert_eq!(router.current().unwrap().map.epoch, 3);
    }

    // covers B5
    #[test]
    fn slot_table_gap_overlap_or_excess_refused() {
        assert!(slot_table(&map(1, &[(0, 100), (101, SLOTS)])).is_err());
        assert!(slot_table(&map(1, &[(0, 100), (99, SLOTS)])).is_err());
        assert!(slot_table(&map(1, &[(0, SLOTS + 1)])).is_err());
        assert!(slot_table(&map(1, &[(200, 100), (0, SLOTS)])).is_err());
        assert!(slot_table(&map(1, &[])).is_err());
        assert!(slot_table(&map(1, &[(0, 100), (100, SLOTS)])).is_ok());
    }

    fn of_another_service(epoch: u64, slots: SlotSet) -> ClusterMap {
        let partition = Partition { slots, servers: vec!["127.0.0.1:1".to_owned()], is_store: false };
        ClusterMap { cluster: ClusterId(7), epoch, partitions: vec![partition] }
    }

    // covers B5 G12
    #[test]
    fn map_without_a_store_has_groups_and_never_comes_after_one_with_a_store() {
        let router = router();
        assert!(router.install(of_another_service(1, SlotSet::default())));
        assert_eq!(router.current().unwrap().groups.len(), 1);
        assert!(router.install(map(2, &[(0, SLOTS)])));
        assert!(!router.install(of_another_service(3, SlotSet::default())));
        assert_eq!(router.current().unwrap().map.epoch, 2);
        assert!(slot_table(&of_another_service(1, SlotSet::range(0, SLOTS))).is_err(), "slots of another service");
    }

    #[test]
    fn install_group_unmoved_keeps_its_belief() {
        let router = router();
        router.install(map(3, &[(0, SLOTS)]));
        let group = Arc::clone(&router.current().unwrap().groups[0]);
        router.install(map(4, &[(0, 100), (100, SLOTS)]));
        assert!(Arc::ptr_eq(&group, &router.current().unwrap().groups[0]));
    }
}
