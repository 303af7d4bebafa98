//! The manager's replicated state.
//!
//! It holds the cluster map, for each partition the genesis of its group, and for each replica (by partition and
//! number) the incarnation of the directory that fills it. Commands come again after lost answers and lost leaders, so
//! each of them is idempotent (fault catalogue G1).
//!
//! - [`command`]: what is proposed and asked.
//! - [`registrations`]: the layout, which group a partition has, and who becomes a replica.
//! - [`watch`]: hosts, and how their replicas are; who is a member of its group.
//! - [`repairs`]: what is being done for replicas that have failed; [`placed`]: those that another host has taken over.
//! - [`members`]: which replicas each group is to have, and where.
//! - [`epochs`]: the kinds of groups, and who the members are of those that are not Raft's.
//! - [`slots`]: partitions that are added, and slots that move between them.
//! - [`settings`], [`events`]: what operators have changed, and what was decided.
//! - [`view`]: all of that, for the tasks of the manager that leads.
//! - [`image`]: the state as bytes.

mod command;
mod epochs;
mod events;
mod image;
mod members;
mod placed;
mod registrations;
mod repairs;
mod settings;
mod slots;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use madkv_proto::control::ControlReply;
use madkv_proto::frames::Registration;
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::entry::Index;
use smr::epoch::GroupKind;
use smr::id::{ClusterId, StartTrail};
use smr::state_machine::{Answer, StateMachine};

pub use command::{Command, Query, Reply, encode};

pub use events::EVENTS_KEPT_MAX;
pub use members::Wanted;
pub use repairs::{Decision, GroupRepairs, Repair, Stage, Verdict, forbids_exchange};
pub use slots::{MAP_RANGES_MAX, MovePhase, MoveStep, SlotMove};
pub use view::{GroupView, HostView, ReplicaView, View};

use epochs::Epochs;
use events::EventLog;
use members::Members;
use placed::Placed;
use registrations::{Founded, ReplicaRecord};
use settings::SettingsRecord;
use slots::Slots;
use watch::{HostRecord, ReplicaWatch};

/// A replica, by partition and number.
pub type Place = (u16, u16);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contents {
    map: Option<ClusterMap>,
    records: BTreeMap<Place, ReplicaRecord>,
    /// By partition.
    founded: BTreeMap<u16, Founded>,
    control: Control,
    epochs: Epochs,
    /// What came with version 4.
    slots: Slots,
    /// What came with version 6: the services of groups that are no part of the key-value store, by partition.
    services: BTreeMap<u16, GroupService>,
}

/// What came with version 2 of the commands. A state without any of it is that of a build before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Control {
    /// By agent.
    hosts: BTreeMap<u16, HostRecord>,
    replicas: BTreeMap<Place, ReplicaWatch>,
    /// By partition.
    repairs: BTreeMap<u16, GroupRepairs>,
    settings: SettingsRecord,
    events: EventLog,
    members: Members,
    /// Replicas that were placed on another host than their own, by replica.
    placed: BTreeMap<Place, Placed>,
}

/// How a replica is called on consoles: S1, S2, ..., by partition first, in the order of the map.
pub fn console_name(map: &ClusterMap, (partition, replica): Place) -> String {
    let before: usize = map.partitions.iter().take(usize::from(partition)).map(|part| part.servers.len()).sum();
    format!("S{}", before + usize::from(replica) + 1)
}

/// The state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerState {
    contents: Arc<Contents>,
}

impl ManagerState {
    /// The cluster, once it has a map.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.contents.map.as_ref().map(|map| map.cluster)
    }

    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Layout { cluster, server_rf, servers } => {
                self.lay_out(cluster, server_rf, &servers, &[GroupKind::Raft], &[GroupService::default()])
            }
            Command::RegisterUnproved { partition, replica, incarnation, member } => {
                let known =
                    self.contents.records.get(&(partition, replica)).map(|record| record.start).unwrap_or_default();
                let start = StartTrail { id: known, ..StartTrail::default() };
                let registration = Registration { partition, replica, incarnation, member, genesis: None, start };
                self.register_unproved(registration)
            }
            Command::Register(registration) => self.register(registration),
            Command::RecordGenesis(request) => self.record_genesis(request),
            Command::AgentReport { report, at_unix_ms } => Reply::Control(self.take_report(&report, at_unix_ms)),
            Command::HostSilent { agent, last, silent_ms, at_unix_ms } => {
                Reply::Control(self.host_silent(agent, last, silent_ms, at_unix_ms))
            }
            Command::Set { name, value, version, at_unix_ms } => {
                Reply::Control(self.set(&name, value, version, at_unix_ms))
            }
            Command::Decide { decision, at_unix_ms } => Reply::Control(self.decide(&decision, at_unix_ms)),
            Command::Announce { announcement, at_unix_ms } => Reply::Control(self.announce(announcement, at_unix_ms)),
            Command::Scale { partition, replicas, epoch, at_unix_ms } => {
                Reply::Control(self.scale(partition, replicas, epoch, at_unix_ms))
            }
            Command::Relocate { announcement, at_unix_ms } => Reply::Control(self.relocate(announcement, at_unix_ms)),
            Command::ChangeEnded { partition, id, refused, at_unix_ms } => {
                Reply::Control(self.change_ended(partition, id, refused, at_unix_ms))
            }
            Command::LayoutOfKinds { cluster, server_rf, servers, kinds } => {
                self.lay_out(cluster, server_rf, &servers, &kinds, &[GroupService::default()])
            }
            Command::LayoutOfServices { cluster, server_rf, servers, kinds, services } => {
                self.lay_out(cluster, server_rf, &servers, &kinds, &services)
            }
            Command::DecideEpoch { partition, decision, at_unix_ms } => {
                Reply::Control(self.decide_epoch(partition, &decision, at_unix_ms))
            }
            Command::AddPartition { servers, at_unix_ms } => Reply::Control(self.add_partition(servers, at_unix_ms)),
            Command::MoveSlots { slots, to, at_unix_ms } => Reply::Control(self.move_slots(slots, to, at_unix_ms)),
            Command::SlotStep { id, step, at_unix_ms } => self.slot_step(id, step, at_unix_ms),
            Command::GiveUpMove { id, why, unable, at_unix_ms } => {
                Reply::Control(self.give_up(id, &why, unable, at_unix_ms))
            }
            Command::MoveGivenUp { id, at_unix_ms } => self.given_up(id, at_unix_ms),
            Command::SlotsForgotten { id, partition, at_unix_ms } => self.slots_forgotten(id, partition, at_unix_ms),
            Command::MoveWaits { id, partition, why, at_unix_ms } => self.move_waits(id, partition, &why, at_unix_ms),
        }
    }

    /// The service of a partition's group.
    fn service(&self, partition: u16) -> GroupService {
        self.contents.services.get(&partition).cloned().unwrap_or_default()
    }

    /// Those of all groups.
    fn services(&self) -> Vec<GroupService> {
        let partitions = self.contents.map.as_ref().map_or(0, |map| map.partitions.len());
        (0..partitions).zip(0..).map(|(_, partition)| self.service(partition)).collect()
    }

    fn control_mut(&mut self) -> &mut Control {
        &mut Arc::make_mut(&mut self.contents).control
    }

    fn answer(&self, query: Query) -> Reply {
        let Contents { map, control, .. } = &*self.contents;
        match query {
            Query::Map => map.clone().map_or(Reply::NoMap, Reply::Map),
            Query::Report(report) if self.differs(&report) => Reply::ReportDiffers,
            Query::Report(report) => Reply::Control(self.orders(&report)),
            Query::Settings => Reply::Control(ControlReply::Settings(control.settings.all(map.as_ref()))),
            Query::Events { after, limit } => Reply::Control(ControlReply::Events(control.events.after(after, limit))),
            Query::Membership => Reply::Control(ControlReply::Membership(self.membership())),
            Query::View => Reply::View(Box::new(self.view())),
            Query::Changes => Reply::Changes(self.open_changes()),
            Query::Change { partition } => Reply::Control(self.change_of(partition)),
            Query::Kinds => Reply::Control(ControlReply::Kinds(self.kinds())),
            Query::Services => Reply::Control(ControlReply::Services(self.services())),
            Query::Epochs { partition } => Reply::Epochs(self.epochs_of(partition).cloned().map(Box::new)),
            Query::EpochsFor { partition, replica } => {
                let is_laid_out = self.servers(partition).is_ok_and(|servers| usize::from(replica) < servers.len());
                Reply::Epochs(self.epochs_of(partition).filter(|_| is_laid_out).cloned().map(Box::new))
            }
            Query::AllEpochs => Reply::AllEpochs(self.all_epochs()),
            Query::SlotMoves => Reply::Control(self.slot_moves()),
            Query::SlotMove => Reply::SlotMove(self.slot_move()),
        }
    }
}

impl StateMachine for ManagerState {
    type Image = ManagerState;

    /// Not with the commands: a state in which none of later versions was applied is written as before, and no build
    /// that does not apply them is asked to keep another one.
    const IMAGE_VERSION: u16 = 1;

    const COMMANDS_VERSION: u16 = 6;

    fn command_version(command: &[u8]) -> Option<u16> {
        command::version(command)
    }

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let reply = match codec::decode(command) {
            Ok(command) => self.carry_out(command),
            Err(error) => Reply::Refused(format!("no command of a manager: {error}")),
        };
        codec::encode(&reply)
    }

    /// How large this state can become is given by the layout and by constants; servers that start must be able to
    /// register.
    fn frees(_command: &[u8]) -> bool {
        true
    }

    fn query(&self, query: &[u8]) -> Answer {
        let reply = match codec::decode(query) {
            Ok(query) => self.answer(query),
            Err(error) => Reply::Refused(format!("no question to a manager: {error}")),
        };
        Answer::Now(codec::encode(&reply))
    }

    fn image(&self) -> ManagerState {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<ManagerState> {
        ManagerState::read_image(input)
    }
}
