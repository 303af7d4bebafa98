//! Calls for operators: how the cluster is, hand over leadership, readmit a replica.

use std::sync::Arc;
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest, Membership};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::group_service::GroupService;
use madkv_proto::slots::slot_of;
use smr::epoch::GroupKind;
use smr::id::ClusterId;
use smr::status::{ReplicaStatus, Role, ServiceState};
use smr_service::client::{CopyEvent, Event, Exchange, Final};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "cli")]
use crate::client::no_store;
use crate::client::refusal;
use crate::limits::STATUS_TIMEOUT;
use crate::{Client, Error, Group, Link};

/// How a cluster is, as far as it answers.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The cluster, if a manager has given a map.
    pub cluster: Option<ClusterId>,
    /// The epoch of that map; 0 for none.
    pub epoch: u64,
    /// All replicas: managers first, then by partition and replica.
    pub nodes: Vec<NodeReport>,
    /// Hosts and members as the managers count them; `None` if they did not say within a second.
    pub membership: Option<Membership>,
    /// The kinds of the partitions' groups, by partition; empty if no manager of this build says so.
    pub kinds: Vec<GroupKind>,
    /// The services of the partitions' groups, by partition; empty if no manager of this build says so.
    pub services: Vec<GroupService>,
}

/// What one replica says of itself.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its group: `m`, `s0`, ...
    pub group: String,
    /// Its number in the group, by the order of the addresses.
    pub replica: u16,
    /// `host:port`.
    pub address: String,
    /// Its own description, or why there is none.
    pub status: Result<Box<ReplicaStatus>, String>,
}

impl ClusterStatus {
    /// Whether a manager answered: without one this is no cluster's status, but silence.
    pub fn has_manager(&self) -> bool {
        self.nodes.iter().any(|node| node.group == "m" && node.status.is_ok())
    }
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The slot that the key falls into.
    pub slot: u16,
    /// The number of the partition that owns the slot.
    pub partition: usize,
    /// The epoch of the map that says so.
    pub epoch: u64,
    /// Who leads that partition, and where it serves clients; `None` if no one said so within a second.
    pub leader: Option<(u16, String)>,
}

impl Client {
    /// Where a key is: by the map, and by what the partition's replicas say of their leader.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no manager gives a map, and [`Error::Refused`] if that gives keys to no one.
    pub async fn place_of(&self, key: &[u8]) -> Result<KeyPlace, Error> {
        let routes = self.store_routes(self.deadline()).await?;
        let partition = routes.map.partition_of(key);
        let leader = leader_of(&routes.groups[partition]).await;
        Ok(KeyPlace { slot: slot_of(key), partition, epoch: routes.map.epoch, leader })
    }

    /// Where the leader of a partition serves clients, if one says within a second that it leads.
    #[cfg(feature = "cli")]
    pub(crate) async fn leader_of(&self, partition: usize) -> Option<String> {
        let routes = self.shared.router.routes(self.deadline()).await.ok()?;
        leader_of(routes.groups.get(partition)?).await.map(|(_, address)| address)
    }

    /// The map, of at least this epoch if a manager has that by now, if anyone owns keys by it.
    #[cfg(feature = "cli")]
    pub(crate) async fn map_of(&self, epoch: u64) -> Result<madkv_proto::map::ClusterMap, Error> {
        let routes = self.shared.router.refreshed(epoch, self.deadline()).await;
        let routes = routes.map_err(|late| self.failure(late.into(), false))?;
        if routes.map.has_store() { Ok(routes.map.clone()) } else { Err(no_store()) }
    }

    /// Asks every replica how it is; each has a second to answer. Without a map only the managers are known.
    pub async fn status(&self) -> ClusterStatus {
        let router = &self.shared.router;
        let deadline = Instant::now() + STATUS_TIMEOUT;
        let routes = router.routes(Some(deadline)).await.ok();
        let mut groups = vec![Arc::clone(&router.managers)];
        groups.extend(routes.iter().flat_map(|routes| routes.groups.iter().cloned()));
        let deadline = Instant::now() + STATUS_TIMEOUT;
        let mut tasks = JoinSet::new();
        let links: Vec<_> = groups.iter().map(|group| group.links()).collect();
        for (place, links) in links.iter().enumerate() {
            for (replica, link) in links.iter().enumerate() {
                let link = Arc::clone(link);
                tasks.spawn(async move { (place, replica, ask_status(&link, deadline).await) });
            }
        }
        let until = Some(deadline);
        let (membership, kinds, services, mut answers) = tokio::join!(
            self.membership_until(until),
            self.kinds_until(until),
            self.services_until(until),
            tasks.join_all()
        );
        answers.sort_by_key(|(place, replica, _)| (*place, *replica));
        let nodes = answers.into_iter().map(|(place, replica, status)| NodeReport {
            group: groups[place].name.clone(),
            replica: replica as u16, // below REPLICAS_MAX
            address: links[place][replica].address().to_owned(),
            status,
        });
        ClusterStatus {
            cluster: routes.as_ref().map(|routes| routes.map.cluster),
            epoch: routes.as_ref().map_or(0, |routes| routes.map.epoch),
            nodes: nodes.collect(),
            membership: membership.ok(),
            kinds: kinds.unwrap_or_default(),
            services: services.unwrap_or_default(),
        }
    }

    /// The groups by name, each with its number of replicas: `m`, and `s0`, `s1`, ... if a manager gives a map in time.
    pub async fn groups(&self, wait: Duration) -> Vec<(String, usize)> {
        let router = &self.shared.router;
        let routes = router.routes(Some(Instant::now() + wait)).await.ok();
        let partitions = routes.iter().flat_map(|routes| &routes.groups);
        [&router.managers]
            .into_iter()
            .chain(partitions)
            .map(|group| (group.name.clone(), group.links().len()))
            .collect()
    }

    /// Hands the leadership of `group` (`m`, `s0`, ...) to its replica number `to`.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such group, or the group refuses; see [`Error`].
    pub async fn transfer(&self, group: &str, to: u16) -> Result<(), Error> {
        let deadline = self.deadline();
        let number = group.strip_prefix('s').and_then(|number| number.parse::<u16>().ok());
        if let Some(partition) = number {
            // No answer, or one of an older build: the group itself will say.
            let soon = Instant::now() + STATUS_TIMEOUT;
            let until = deadline.map_or(soon, |deadline| deadline.min(soon));
            let kinds = self.kinds_until(Some(until)).await.unwrap_or_default();
            if kinds.get(usize::from(partition)).is_some_and(|kind| *kind != GroupKind::Raft) {
                let request = ControlRequest::Promote { partition, replica: to };
                return match self.control(&request, deadline).await? {
                    ControlReply::Done => Ok(()),
                    other => Err(Error::BadAnswer { what: format!("{other:?}") }),
                };
            }
        }
        self.command(group, &|| ClientRequest::Transfer { to }).await
    }

    /// Puts the present incarnation of replica number `replica` into the place of its former one.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such group, or the group refuses; see [`Error`].
    pub async fn readmit(&self, group: &str, replica: u16) -> Result<(), Error> {
        self.command(group, &|| ClientRequest::Readmit { replica }).await
    }

    async fn command(&self, group: &str, ask: &(dyn Fn() -> ClientRequest + Sync)) -> Result<(), Error> {
        let deadline = self.deadline();
        let (group, epoch) = self.group_named(group, deadline).await?;
        let mut exchange = Exchange::new(&self.shared.context, &group, deadline).without_resends();
        match exchange.run(epoch, ask).await {
            Ok(Final::Response(ClientResponse::Done)) => Ok(()),
            Ok(Final::Response(other)) => Err(refusal(other, exchange.may_have_happened())),
            Ok(Final::Answer(_)) => Err(Error::BadAnswer { what: "an answer to an operator's order".into() }),
            Err(late) => Err(self.failure(late.into(), exchange.may_have_happened())),
        }
    }

    async fn group_named(&self, name: &str, deadline: Option<Instant>) -> Result<(Arc<Group>, u64), Error> {
        let router = &self.shared.router;
        if name == router.managers.name {
            return Ok((Arc::clone(&router.managers), 0));
        }
        let routes = router.routes(deadline).await.map_err(|late| self.failure(late.into(), false))?;
        let group = routes.groups.iter().find(|group| group.name == name);
        let Some(group) = group else {
            let reason = format!("no group {name:?}; there are m and s0 to s{}", routes.groups.len() - 1);
            return Err(Error::Refused { reason, may_have_happened: false });
        };
        Ok((Arc::clone(group), routes.map.epoch))
    }
}

/// Who leads a group: its number, and where it serves clients.
async fn leader_of(group: &Group) -> Option<(u16, String)> {
    let deadline = Instant::now() + STATUS_TIMEOUT;
    let mut tasks = JoinSet::new();
    let links = group.links();
    for (replica, link) in links.iter().enumerate() {
        let link = Arc::clone(link);
        tasks.spawn(async move { (replica, ask_status(&link, deadline).await) });
    }
    // Asked and not believed: what was learnt earlier may be long past.
    let answers = tasks.join_all().await.into_iter();
    let leaders = answers.filter_map(|(replica, status)| {
        let status = status.ok().filter(|status| status.role == Role::Leader)?;
        (status.service_state == ServiceState::InService).then_some((status.term, replica))
    });
    leaders.max().map(|(_, replica)| {
        // Below REPLICAS_MAX.
        (replica as u16, links[replica].address().to_owned())
    })
}

async fn ask_status(link: &Link, deadline: Instant) -> Result<Box<ReplicaStatus>, String> {
    match ask(link, ClientRequest::Status, deadline).await? {
        ClientResponse::Status(status) => Ok(status),
        other => Err(format!("{other:?}")),
    }
}

/// Asks this one replica once.
///
/// # Errors
/// Why it says nothing.
pub(crate) async fn ask(link: &Link, what: ClientRequest, deadline: Instant) -> Result<ClientResponse, String> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let posted = link.connection().and_then(|connection| connection.post(what, 0, &sender, 0));
    if posted.is_none() {
        return Err(link.trouble().unwrap_or_else(|| "unreachable".to_owned()));
    }
    let heard = timeout_at(deadline, events.recv()).await.map(|event| event.map(|CopyEvent { event, .. }| *event));
    match heard {
        Ok(Some(Event::Reply(response))) => Ok(response),
        Ok(Some(Event::Broken { .. }) | None) => Err(link.trouble().unwrap_or_else(|| "unreachable".to_owned())),
        Err(_) => Err("silent".to_owned()),
    }
}
