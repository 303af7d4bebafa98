//! What detector and replication manager look at: a copy of what they need of the state.

use madkv_proto::control::{Condition, Settings};
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use serde::{Deserialize, Serialize};
use smr::epoch::GroupKind;
use smr::id::Incarnation;

use super::{GroupRepairs, ManagerState, Place};

/// A copy of the state, for a task of the manager that leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The map of the newest epoch; `None` before there is a layout.
    pub map: Option<ClusterMap>,
    /// The hosts of all agents that have ever reported.
    pub hosts: Vec<HostView>,
    /// All replicas of which an agent has told.
    pub replicas: Vec<ReplicaView>,
    /// By partition: whether its group is founded, its members now, and what is being done for it.
    pub groups: Vec<GroupView>,
    /// The values of all settings, those that were never changed included.
    pub settings: Settings,
}

/// What is recorded of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The number of its agent.
    pub agent: u16,
    /// What its agent calls it.
    pub name: String,
    /// Start and number of the last report that is recorded.
    pub last: (u64, u64),
    /// Whether the agent relaunches by itself.
    pub relaunches: bool,
    /// Whether it counts as failed.
    pub has_failed: bool,
    /// Whether it can take a replica over.
    pub has_room: bool,
}

/// What is recorded of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// The replica.
    pub place: Place,
    /// The agent of its host.
    pub agent: u16,
    /// What its agent said last of its process.
    pub condition: Condition,
    /// The incarnation that it runs as.
    pub incarnation: Option<Incarnation>,
    /// The last order that its agent has carried out.
    pub order: u64,
    /// Launches since it was in service.
    pub launches_in_vain: u32,
    /// It is or was quarantined because someone has provably lost something.
    pub loss_proven: bool,
    /// Whether it runs where it was placed, and the map does not say so yet.
    pub needs_move: bool,
    /// Whether its directory may be to blame for its last end.
    pub directory_suspect: bool,
    /// What the agent says besides.
    pub detail: String,
}

/// A partition's group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// How it is kept in step.
    pub kind: GroupKind,
    /// Which service it is of.
    pub service: GroupService,
    /// How many replicas the map gives it.
    pub size: u16,
    /// Whether its genesis is recorded.
    pub is_founded: bool,
    /// Its members now, by number.
    pub members: Vec<u16>,
    /// By replica: the incarnation that is recorded as a member's.
    pub recorded: Vec<Option<Incarnation>>,
    /// Whether a change of its members or of their addresses is open.
    pub is_changing: bool,
    /// What is being done for it.
    pub repairs: GroupRepairs,
}

impl ManagerState {
    pub(super) fn view(&self) -> View {
        let super::Contents { map, records, founded, control, .. } = &*self.contents;
        let hosts = control.hosts.iter().map(|(&agent, host)| HostView {
            agent,
            name: host.name.clone(),
            last: (host.start, host.number),
            relaunches: host.relaunches,
            has_failed: host.has_failed,
            has_room: self.free_spares(agent).next().is_some(),
        });
        let replicas = control.replicas.iter().map(|(&place, watch)| ReplicaView {
            place,
            agent: watch.agent,
            condition: watch.report.condition.clone(),
            incarnation: watch.report.incarnation,
            order: watch.report.order,
            launches_in_vain: watch.launches_in_vain(),
            loss_proven: watch.loss_proven,
            needs_move: self.needs_move(place, watch.agent),
            directory_suspect: watch.report.directory_suspect,
            detail: watch.report.detail.clone(),
        });
        let sizes = map.iter().flat_map(|map| map.partitions.iter().map(|part| part.servers.len()));
        let groups = sizes.enumerate().map(|(partition, size)| {
            // Below PARTITIONS_MAX and REPLICAS_MAX.
            let (partition, size) = (partition as u16, size as u16);
            let recorded = |replica| {
                records.get(&(partition, replica)).filter(|record| record.member).map(|record| record.incarnation)
            };
            GroupView {
                kind: self.kind(partition),
                service: self.service(partition),
                size,
                is_founded: founded.contains_key(&partition),
                members: control.members(partition),
                recorded: (0..size).map(recorded).collect(),
                is_changing: self.is_changing(partition),
                repairs: control.repairs.get(&partition).cloned().unwrap_or_default(),
            }
        });
        View {
            map: map.clone(),
            hosts: hosts.collect(),
            replicas: replicas.collect(),
            groups: groups.collect(),
            settings: control.settings.all(map.as_ref()),
        }
    }
}
