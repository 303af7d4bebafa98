//! What the replication manager has decided to do for groups whose replicas have failed.
//!
//! A group has at most one repair at a time. Each decision names the last one of its group that the leader had seen
//! (compare-and-set), and becomes an event with its reason. The same decision again, from a leader that did not hear
//! the answer, has no effect (G1). What follows from what is in [`crate::rm`].
//!
//! The leader decided by what it had seen. Whether a replica's data may be replaced is judged once more here, by what
//! is recorded when the decision is applied, and again whenever its agent is told.

use std::collections::BTreeMap;

use madkv_proto::control::{AgentReport, ControlReply, EVENT_TEXT_MAX_BYTES, Order, OrderKind, bounded};
use serde::{Deserialize, Serialize};
use smr::id::Incarnation;

use super::{Control, ManagerState, Place, console_name};

/// What is being done for a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its agent is to launch it again, with the directory that it has.
    Relaunch,
    /// Its agent is to set its directory aside and launch it with an empty one.
    FreshDirectory,
    /// Its present incarnation is to take the place of the previous one: the group's leader is asked for it.
    Readmit,
    /// Its host is gone: the host of this agent is to launch it, on an empty directory.
    Place {
        /// The agent.
        agent: u16,
    },
    /// It runs on its new host: its group and the map are to know it there.
    Move,
}

impl Stage {
    /// Whether it ends with another incarnation in the group, or begins that.
    pub(super) fn exchanges_a_member(self) -> bool {
        !matches!(self, Stage::Relaunch)
    }
}

/// Why the data of `replica` must not be replaced now, if it must not, in a group of `size` with these `members` in
/// service. `loss_proven`: its quarantine was proof that someone has lost something durable.
pub fn forbids_exchange(replica: u16, size: u16, members: &[u16], loss_proven: bool) -> Option<String> {
    if loss_proven {
        return Some(
            "its quarantine is proof that something durable was lost, and its data may be the only copy of that: \
             compare the group's directories, then readmit the replica or recover the group"
                .to_owned(),
        );
    }
    let others = members.iter().filter(|member| **member != replica).count();
    let majority = usize::from(size) / 2 + 1;
    (others < majority).then(|| {
        if others == 0 {
            "no other replica of its group is in service, so it may be the last copy of the data".to_owned()
        } else {
            format!("without it only {others} of {size} replicas are in service, and {majority} are needed")
        }
    })
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// A repair begins, or goes on in this way.
    Repair(Stage),
    /// The replica is in service again: the repair is done.
    Done,
    /// The repair has come to nothing. It may be tried again, after a pause.
    Abandon,
    /// Nothing is done for the replica until a person does something.
    Wait,
}

/// A decision of the leader's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The partition whose group is repaired.
    pub partition: u16,
    /// The number of the group's last decision that the leader knows; 0 for none.
    pub after: u64,
    /// The replica that is repaired.
    pub replica: u16,
    /// What is decided.
    pub verdict: Verdict,
    /// Why, for the event that tells of it.
    pub reason: String,
}

/// A repair under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The replica.
    pub replica: u16,
    /// What is being done.
    pub stage: Stage,
    /// The number of the decision, and of the order to its agent.
    pub order: u64,
    /// When the repair began, by its proposer's clock: milliseconds since 1970.
    pub began_unix_ms: u64,
    /// The incarnation that the replica had when the repair began.
    pub incarnation: Option<Incarnation>,
}

/// The decisions about a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRepairs {
    /// The number of the last decision; 0 for none. It is that of its event.
    pub last: u64,
    /// That decision, to know it when it comes again.
    pub newest: Option<(u64, u16, Verdict)>,
    /// The repair under way.
    pub open: Option<Repair>,
    /// The replicas that wait for a person, and why.
    pub waiting: BTreeMap<u16, String>,
    /// By replica: how many repairs in a row came to nothing, and when the last one did.
    pub abandoned: BTreeMap<u16, (u32, u64)>,
}

impl ManagerState {
    /// Records a decision.
    pub(super) fn decide(&mut self, decision: &Decision, at_unix_ms: u64) -> ControlReply {
        let &Decision { partition, after, replica, verdict, ref reason } = decision;
        let place: Place = (partition, replica);
        let Some(map) = self.contents.map.clone() else { return ControlReply::Refused("there is no map yet".into()) };
        if map.partitions.get(usize::from(partition)).is_none_or(|part| usize::from(replica) >= part.servers.len()) {
            return ControlReply::Refused(format!("the cluster has no s{partition}.{replica}"));
        }
        let repairs = self.contents.control.repairs.get(&partition).cloned().unwrap_or_default();
        if repairs.newest == Some((after, replica, verdict)) {
            return ControlReply::Done;
        }
        if repairs.last != after {
            return ControlReply::Refused(format!("s{partition}: decision {} came first", repairs.last));
        }
        let is_open = repairs.open.as_ref().is_some_and(|open| open.replica == replica);
        match (verdict, &repairs.open) {
            (Verdict::Repair(_), Some(open)) if open.replica != replica => {
                let what = format!("s{partition}: s{partition}.{} is being repaired", open.replica);
                return ControlReply::Refused(what);
            }
            (Verdict::Repair(stage), _) if stage.exchanges_a_member() && self.is_changing(partition) => {
                return ControlReply::Refused(format!("s{partition}: its members are being changed"));
            }
            (Verdict::Repair(stage), _) if stage.exchanges_a_member() => {
                if let Some(because) = self.forbids(place) {
                    return ControlReply::Refused(format!("s{partition}.{replica}: {because}"));
                }
            }
            (Verdict::Done | Verdict::Abandon, _) if !is_open => {
                return ControlReply::Refused(format!("s{partition}.{replica} is not being repaired"));
            }
            _ => {}
        }
        let launch = match verdict {
            Verdict::Repair(Stage::Place { agent }) => self.room_for(place, agent).map(Some),
            Verdict::Repair(Stage::Move) if !self.contents.control.placed.contains_key(&place) => {
                Err(format!("s{partition}.{replica} is where it was"))
            }
            _ => Ok(None),
        };
        let launch = match launch {
            Ok(launch) => launch,
            Err(why) => return ControlReply::Refused(why),
        };
        let what = match verdict {
            Verdict::Repair(Stage::Relaunch) => "is to be launched again".to_owned(),
            Verdict::Repair(Stage::FreshDirectory) => {
                "is to begin with an empty directory; the old one is set aside".to_owned()
            }
            Verdict::Repair(Stage::Readmit) => "is to be readmitted as a new incarnation".to_owned(),
            Verdict::Repair(Stage::Place { agent }) => {
                let host = self.contents.control.hosts.get(&agent).map_or("", |host| host.name.as_str());
                let at = launch.as_ref().map_or("", |launch| launch.api_address.as_str());
                format!("is to be placed on host {host}, at {at}")
            }
            Verdict::Repair(Stage::Move) => "is to be known where it was placed".to_owned(),
            Verdict::Done => "is repaired".to_owned(),
            Verdict::Abandon => "could not be repaired yet".to_owned(),
            Verdict::Wait => "waits for an operator".to_owned(),
        };
        let text = format!("{} {what}: {reason}", console_name(&map, place));
        let incarnation = self.contents.records.get(&place).map(|record| record.incarnation);
        let control = self.control_mut();
        let number = control.events.append(at_unix_ms, &format!("s{partition}.{replica}"), &text);
        match (verdict, launch) {
            (Verdict::Repair(Stage::Place { agent }), Some(launch)) => control.place(place, agent, launch, number),
            (Verdict::Repair(Stage::Move), _) => control.move_there(place, number, &map),
            _ => {}
        }
        let repairs = control.repairs.entry(partition).or_default();
        repairs.newest = Some((after, replica, verdict));
        repairs.last = number;
        match verdict {
            Verdict::Repair(stage) => {
                let began = repairs.open.as_ref().map(|open| (open.began_unix_ms, open.incarnation));
                let (began_unix_ms, incarnation) = began.unwrap_or((at_unix_ms, incarnation));
                repairs.open = Some(Repair { replica, stage, order: number, began_unix_ms, incarnation });
                repairs.waiting.remove(&replica);
            }
            Verdict::Done => {
                repairs.open = None;
                repairs.waiting.remove(&replica);
                repairs.abandoned.remove(&replica);
            }
            Verdict::Abandon => {
                repairs.open = None;
                let count = repairs.abandoned.get(&replica).map_or(0, |(count, _)| *count);
                repairs.abandoned.insert(replica, (count.saturating_add(1), at_unix_ms));
            }
            Verdict::Wait => {
                if is_open {
                    repairs.open = None;
                }
                repairs.waiting.insert(replica, bounded(reason, EVENT_TEXT_MAX_BYTES).to_owned());
            }
        }
        ControlReply::Done
    }

    /// Why the data of a replica must not be replaced now, if it must not, by what is recorded.
    fn forbids(&self, place: Place) -> Option<String> {
        let (partition, replica) = place;
        let control = &self.contents.control;
        let size = self.servers(partition).map_or(0, |servers| servers.len()) as u16; // at most REPLICAS_MAX
        let loss_proven = control.replicas.get(&place).is_some_and(|watch| watch.loss_proven);
        forbids_exchange(replica, size, &control.members(partition), loss_proven)
    }

    /// What the agent that reports so is to do.
    pub(super) fn orders_for(&self, report: &AgentReport) -> Vec<Order> {
        let control = &self.contents.control;
        let repairs = control.repairs.iter().filter_map(|(&partition, repairs)| {
            let repair = repairs.open.as_ref()?;
            let place = (partition, repair.replica);
            let present = control.replicas.get(&place).map(|watch| watch.agent);
            let (agent, what) = match repair.stage {
                Stage::Relaunch => (present?, OrderKind::Relaunch),
                Stage::FreshDirectory => (present?, OrderKind::FreshDirectory),
                Stage::Place { agent } => (agent, OrderKind::Place(control.placed.get(&place)?.launch.clone())),
                Stage::Move | Stage::Readmit => return None,
            };
            let own = report.replicas.iter().find(|own| (own.partition, own.replica) == place);
            let is_due = agent == report.agent && own.is_none_or(|own| own.order < repair.order);
            // Others may have failed since it was decided; then it waits until they are back.
            let is_safe = !repair.stage.exchanges_a_member() || self.forbids(place).is_none();
            let order = Order { id: repair.order, partition, replica: repair.replica, what };
            (is_due && is_safe).then_some(order)
        });
        repairs.chain(control.retirements(report)).collect()
    }
}

impl Control {
    /// A replica that is in service waits for no one.
    pub(super) fn forget_troubles(&mut self, (partition, replica): Place) {
        if let Some(repairs) = self.repairs.get_mut(&partition) {
            repairs.waiting.remove(&replica);
        }
    }
}
