//! What the global fault detector has recorded: hosts with their agents, and how their replicas are.
//!
//! An agent's report comes every [`GFD_HEARTBEAT_FREQ`]; only one that differs from what is recorded becomes a command.
//! When an agent was heard last is known to the leader alone, and is no part of this.
//!
//! # Which report counts
//! Reports may be late, doubled, and of a process that another one has replaced. An agent's *start* is random, and the
//! one before the present one is remembered: what comes from it is refused. Within a start, reports are numbered, and
//! one with a number that is not above the recorded one changes nothing (G1).
//!
//! # To which host a replica belongs
//! To the one whose agent said last that it runs there. A host that says that a replica of another host is dead takes
//! nothing away from it; one that no longer names its own replica says that it is dead. A replica that was placed on
//! another host because its own was gone belongs to that one until it is in service somewhere else ([`super::placed`]).

use std::collections::BTreeMap;

use madkv_proto::control::{
    AgentOrders, AgentReport, Condition, ControlReply, GroupMembers, HOSTS_MAX, Host, Membership, ReplicaReport,
    Service, Spare, WatchedReplica,
};
use madkv_proto::settings::{GFD_HEARTBEAT_FREQ, LFD_HEARTBEAT_FREQ};
use serde::{Deserialize, Serialize};
use smr::codec;

use super::{Control, ManagerState, Place, console_name};

/// How a replica is that its agent does not name any more.
const UNNAMED: &str = "its agent names it no longer";

/// A host with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostRecord {
    pub(super) name: String,
    pub(super) address: String,
    /// The agent's present start.
    pub(super) start: u64,
    /// The one before it; 0 if there was none.
    pub(super) replaced_start: u64,
    /// The number of the last report that is recorded.
    pub(super) number: u64,
    /// The hash of what it said.
    pub(super) content: u64,
    /// Whether the agent relaunches by itself.
    pub(super) relaunches: bool,
    pub(super) has_failed: bool,
    /// Where it can take replicas over.
    pub(super) spares: Vec<Spare>,
}

/// A replica of which an agent has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplicaWatch {
    /// The agent of its host.
    pub(super) agent: u16,
    /// What that said last.
    pub(super) report: ReplicaReport,
    /// How often this start of the agent had launched it when it was in service last.
    pub(super) launches_in_service: u32,
    /// It was quarantined because someone has provably lost something, and has not been in service since.
    pub(super) loss_proven: bool,
}

impl ReplicaWatch {
    /// Launches since it was in service.
    pub(super) fn launches_in_vain(&self) -> u32 {
        self.report.launches.saturating_sub(self.launches_in_service)
    }
}

/// A hash of what a report says, whatever its number and details.
fn content_of(report: &AgentReport) -> u64 {
    let mut said = AgentReport { number: 0, ..report.clone() };
    for replica in &mut said.replicas {
        replica.detail.clear();
    }
    codec::checksum(&[&codec::encode(&said)])
}

/// A condition, for an event.
fn described(condition: &Condition) -> String {
    match condition {
        Condition::Starting => "starting".to_owned(),
        Condition::Alive { service: Service::InService } => "alive and in service".to_owned(),
        Condition::Alive { service: Service::Uninitialized } => "alive and uninitialized".to_owned(),
        Condition::Alive { service: Service::Quarantined { reason, .. } } => format!("quarantined: {reason}"),
        Condition::Hung => "hung: it does not answer heartbeats".to_owned(),
        Condition::Dead { reason } => format!("dead: {reason}"),
        Condition::BackingOff { reason } => format!("dead, and launched again only after a pause: {reason}"),
        Condition::Stopped => "ended in order, until someone starts it".to_owned(),
    }
}

/// Whether two conditions are the same for an event: reasons may differ in their words.
fn same_kind(one: &Condition, other: &Condition) -> bool {
    let kind = |condition: &Condition| match condition {
        Condition::Starting => 0,
        Condition::Alive { service: Service::InService } => 1,
        Condition::Alive { service: Service::Uninitialized } => 2,
        Condition::Alive { service: Service::Quarantined { .. } } => 3,
        Condition::Hung => 4,
        Condition::Dead { .. } => 5,
        Condition::BackingOff { .. } => 6,
        Condition::Stopped => 7,
    };
    kind(one) == kind(other)
}

impl Control {
    /// Whether a replica is a member of its group now.
    pub(super) fn is_member(&self, place: Place) -> bool {
        self.replicas.get(&place).is_some_and(|watch| {
            watch.report.condition.is_member() && self.hosts.get(&watch.agent).is_some_and(|host| !host.has_failed)
        })
    }

    /// The members of a partition's group, by number.
    pub(super) fn members(&self, partition: u16) -> Vec<u16> {
        let places = self.replicas.range((partition, 0)..=(partition, u16::MAX));
        places.filter(|(place, _)| self.is_member(**place)).map(|((_, replica), _)| *replica).collect()
    }

    fn host_has_replicas(&self, agent: u16) -> bool {
        self.replicas.values().any(|watch| watch.agent == agent)
    }
}

impl ManagerState {
    /// Whether a report would change anything if it were recorded.
    pub(super) fn differs(&self, report: &AgentReport) -> bool {
        self.contents.control.hosts.get(&report.agent).is_none_or(|host| {
            host.start != report.start
                || host.has_failed
                || (report.number > host.number && host.content != content_of(report))
        })
    }

    /// Answers a report that needs no record, or says why it is refused.
    pub(super) fn orders(&self, report: &AgentReport) -> ControlReply {
        if let Err(why) = self.check_report(report) {
            return ControlReply::Refused(why);
        }
        let control = &self.contents.control;
        ControlReply::Orders(AgentOrders {
            lfd_heartbeat_freq_ms: control.settings.get(LFD_HEARTBEAT_FREQ),
            gfd_heartbeat_freq_ms: control.settings.get(GFD_HEARTBEAT_FREQ),
            relaunch: true,
            orders: self.orders_for(report),
        })
    }

    /// Whether this agent may report.
    fn check_report(&self, report: &AgentReport) -> Result<(), String> {
        report.check()?;
        if self.contents.map.is_none() {
            return Err("there is no cluster map yet".into());
        }
        let hosts = &self.contents.control.hosts;
        let AgentReport { agent, host, start, .. } = report;
        if let Some(known) = hosts.get(agent) {
            if known.name != *host && !known.has_failed {
                return Err(format!("LFD{agent} is the agent of host {}, not of host {host}", known.name));
            }
            if known.replaced_start == *start {
                return Err(format!("another process has taken the place of this one as LFD{agent}"));
            }
        } else if let Some((other, _)) = hosts.iter().find(|(_, known)| known.name == *host && !known.has_failed) {
            return Err(format!("host {host} has an agent already: LFD{other}"));
        }
        Ok(())
    }

    /// Records what an agent says.
    pub(super) fn take_report(&mut self, report: &AgentReport, at_unix_ms: u64) -> ControlReply {
        if let Err(why) = self.check_report(report) {
            return ControlReply::Refused(why);
        }
        if self.differs(report) {
            if let Err(why) = self.record_host(report, at_unix_ms) {
                return ControlReply::Refused(why);
            }
            self.record_replicas(report, at_unix_ms);
        }
        self.orders(report)
    }

    fn record_host(&mut self, report: &AgentReport, at_unix_ms: u64) -> Result<(), String> {
        let &AgentReport { agent, start, number, relaunches, .. } = report;
        let control = self.control_mut();
        let known = control.hosts.get(&agent).cloned();
        if known.is_none() && control.hosts.len() >= HOSTS_MAX {
            // Without a replica and without an agent it is nothing but a name.
            let idle = |(agent, host): (&u16, &HostRecord)| {
                (host.has_failed && !control.host_has_replicas(*agent)).then_some(*agent)
            };
            let idle = control.hosts.iter().find_map(idle);
            let idle = idle.ok_or_else(|| format!("there are {HOSTS_MAX} hosts already"))?;
            control.hosts.remove(&idle);
        }
        let is_new_start = known.as_ref().is_none_or(|known| known.start != start);
        let replaced_start = match &known {
            Some(known) if known.start != start => known.start,
            Some(known) => known.replaced_start,
            None => 0,
        };
        // A report that a newer one has overtaken still is a sign of life, and nothing more.
        let is_newest = is_new_start || known.as_ref().is_none_or(|known| number >= known.number);
        let (number, content) = match &known {
            Some(known) if !is_newest => (known.number, known.content),
            _ => (number, content_of(report)),
        };
        let record = HostRecord {
            name: report.host.clone(),
            address: report.address.clone(),
            start,
            replaced_start,
            number,
            content,
            relaunches,
            has_failed: false,
            spares: report.spares.clone(),
        };
        let text = match &known {
            None => Some(format!("has an agent: LFD{agent} at {}", report.address)),
            Some(known) if known.name != record.name => {
                Some(format!("has an agent: LFD{agent} at {}, that of host {} before", report.address, known.name))
            }
            Some(known) if known.has_failed => Some(format!("LFD{agent} is heard again")),
            Some(_) if is_new_start => Some(format!("LFD{agent} was started again")),
            Some(_) => None,
        };
        if is_new_start {
            // The new process counts its launches from the beginning.
            for watch in control.replicas.values_mut().filter(|watch| watch.agent == agent) {
                watch.launches_in_service = 0;
            }
        }
        control.hosts.insert(agent, record);
        if let Some(text) = text {
            control.events.append(at_unix_ms, &format!("host {}", report.host), &text);
        }
        Ok(())
    }

    fn record_replicas(&mut self, report: &AgentReport, at_unix_ms: u64) {
        let agent = report.agent;
        let Some(map) = self.contents.map.clone() else { return };
        let sizes: Vec<usize> = map.partitions.iter().map(|partition| partition.servers.len()).collect();
        let exists = |place: Place| sizes.get(usize::from(place.0)).is_some_and(|size| usize::from(place.1) < *size);
        let control = self.control_mut();
        if control.hosts.get(&agent).is_none_or(|host| host.number > report.number) {
            return;
        }
        let members_before: BTreeMap<Place, bool> =
            control.replicas.keys().map(|place| (*place, control.is_member(*place))).collect();
        let mut said: BTreeMap<Place, ReplicaReport> = report
            .replicas
            .iter()
            .map(|replica| ((replica.partition, replica.replica), replica.clone()))
            .filter(|(place, _)| exists(*place))
            .collect();
        for (place, watch) in control.replicas.iter().filter(|(_, watch)| watch.agent == agent) {
            said.entry(*place).or_insert_with(|| ReplicaReport {
                condition: Condition::Dead { reason: UNNAMED.to_owned() },
                ..watch.report.clone()
            });
        }
        for (place, replica) in said {
            let known = control.replicas.get(&place);
            let runs = matches!(replica.condition, Condition::Starting | Condition::Alive { .. } | Condition::Hung);
            let is_his = match control.placed.get(&place) {
                // Whoever had it before may come back with what it was then.
                Some(placed) if placed.agent != agent => !placed.is_settled && replica.condition.is_member(),
                _ => known.is_none_or(|known| {
                    let elsewhere = control.hosts.get(&known.agent).is_some_and(|host| !host.has_failed);
                    known.agent == agent || runs || !elsewhere
                }),
            };
            if !is_his {
                continue;
            }
            let in_service = replica.condition.is_member();
            let proof = matches!(
                replica.condition,
                Condition::Alive { service: Service::Quarantined { proof_of_loss: true, .. } }
            );
            let before = known.filter(|known| known.agent == agent);
            let launches_in_service = match before {
                _ if in_service => replica.launches,
                Some(before) => before.launches_in_service,
                None => 0,
            };
            let loss_proven = !in_service && (proof || known.is_some_and(|known| known.loss_proven));
            let is_news = known.is_none_or(|known| !same_kind(&known.report.condition, &replica.condition))
                && replica.condition != Condition::Starting;
            let text =
                format!("{}: {} on host {}", console_name(&map, place), described(&replica.condition), report.host);
            let watch = ReplicaWatch { agent, report: replica, launches_in_service, loss_proven };
            control.replicas.insert(place, watch);
            if in_service {
                control.forget_troubles(place);
                control.serves_at(place, agent, &map);
            }
            let (was, is) = (members_before.get(&place).copied().unwrap_or(false), control.is_member(place));
            if is_news || was != is {
                let what = match (was, is) {
                    (false, true) => "joins the members: ",
                    (true, false) => "leaves the members: ",
                    _ => "",
                };
                control.events.append(at_unix_ms, &format!("s{}.{}", place.0, place.1), &format!("{what}{text}"));
            }
        }
    }

    /// The leader has not heard an agent for too long. Counts only if nothing newer of it was recorded meanwhile.
    pub(super) fn host_silent(
        &mut self,
        agent: u16,
        (start, number): (u64, u64),
        silent_ms: u64,
        at_unix_ms: u64,
    ) -> ControlReply {
        let hosts = &self.contents.control.hosts;
        let Some(host) = hosts.get(&agent).filter(|host| (host.start, host.number) == (start, number)) else {
            return ControlReply::Refused(format!("LFD{agent} was heard meanwhile"));
        };
        if host.has_failed {
            return ControlReply::Done;
        }
        let map = self.contents.map.clone();
        let control = self.control_mut();
        let names: Vec<String> = control
            .replicas
            .iter()
            .filter(|(place, watch)| watch.agent == agent && control.is_member(**place))
            .filter_map(|(place, _)| map.as_ref().map(|map| console_name(map, *place)))
            .collect();
        let Some(host) = control.hosts.get_mut(&agent) else { return ControlReply::Done };
        host.has_failed = true;
        let leave = match &names[..] {
            [] => "none of its replicas was a member".to_owned(),
            [one] => format!("{one} leaves the members"),
            more => format!("{} leave the members", more.join(", ")),
        };
        let text = format!("counts as failed: LFD{agent} has been silent for {silent_ms} ms; {leave}");
        let subject = format!("host {}", host.name);
        control.events.append(at_unix_ms, &subject, &text);
        ControlReply::Done
    }

    /// Hosts, and the members of each group.
    pub(super) fn membership(&self) -> Membership {
        let control = &self.contents.control;
        let hosts = control.hosts.iter().map(|(&agent, host)| Host {
            name: host.name.clone(),
            agent,
            address: host.address.clone(),
            has_failed: host.has_failed,
        });
        let partitions = self.contents.map.as_ref().map_or(0, |map| map.partitions.len());
        let groups = (0..partitions).map(|partition| {
            let partition = partition as u16; // below PARTITIONS_MAX
            let members = control.members(partition);
            let replicas = control.replicas.range((partition, 0)..=(partition, u16::MAX)).map(|(_, watch)| {
                let host = control.hosts.get(&watch.agent).map_or_else(String::new, |host| host.name.clone());
                WatchedReplica { host, report: watch.report.clone() }
            });
            let (member_count, replicas) = (members.len() as u16, replicas.collect());
            GroupMembers { partition, members, member_count, replicas }
        });
        Membership { hosts: hosts.collect(), groups: groups.collect() }
    }
}
