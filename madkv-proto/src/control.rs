//! What agents, servers and operators say to a manager beside the map: the body of
//! [`ClientRequest::Control`](crate::frames::ClientRequest::Control) and of the answer to it.
//!
//! The enums grow at their end only. Whoever gets a variant that it does not know refuses it
//! ([`ControlRequest::decode`]). From the first release on structs stay as they are.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::epoch::GroupKind;
use smr::id::Incarnation;

use crate::group_service::GroupService;
use crate::map::{PARTITIONS_MAX, REPLICAS_MAX};
use crate::slot_set::SlotSet;

/// The longest name of a host, in bytes.
pub const HOST_NAME_MAX_BYTES: usize = 64;
/// The longest address, in bytes.
pub const ADDRESS_MAX_BYTES: usize = 280;
/// The longest detail of a replica and the longest reason of its condition, in bytes.
pub const DETAIL_MAX_BYTES: usize = 256;
/// The most replicas of one host: all of the largest cluster.
pub const HOST_REPLICAS_MAX: usize = PARTITIONS_MAX * REPLICAS_MAX;
/// The most hosts with an agent: each replica of the largest cluster on its own, and as many spare ones as a group has
/// replicas.
pub const HOSTS_MAX: usize = HOST_REPLICAS_MAX + REPLICAS_MAX;
/// The most replicas that a host offers to take over.
pub const SPARES_MAX: usize = REPLICAS_MAX;
/// The longest text of an event, in bytes.
pub const EVENT_TEXT_MAX_BYTES: usize = 512;
/// The longest subject of an event, in bytes.
pub const EVENT_SUBJECT_MAX_BYTES: usize = HOST_NAME_MAX_BYTES + 16;
/// The most events of one answer.
pub const EVENTS_PER_ANSWER_MAX: usize = 256;
/// The longest name of a setting, in bytes.
pub const SETTING_NAME_MAX_BYTES: usize = 64;
/// The longest value of a setting as it is written, in bytes.
pub const SETTING_VALUE_MAX_BYTES: usize = 64;

/// The longest report of a member to its configuration service, in bytes.
pub const EXCHANGE_MAX_BYTES: usize = 4 << 10;

/// A question to a manager, or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// An agent says how its host is. Answered with [`ControlReply::Orders`] by the manager that leads; each report is
    /// a sign of life.
    AgentReport(AgentReport),
    /// The settings. Any manager replica answers, from what it has applied.
    Settings,
    /// Change a setting.
    Set {
        /// Its name.
        name: String,
        /// Its new value, as the operator wrote it.
        value: String,
        /// The version of the settings that the operator has seen: nothing is changed if it is another one by now, so
        /// that a copy of this that arrives late undoes nothing.
        version: u64,
    },
    /// What was decided, and why.
    Events {
        /// Only events with a higher number; 0 for all that are kept.
        after: u64,
        /// The most events wanted; never more than [`EVENTS_PER_ANSWER_MAX`] come.
        limit: u32,
    },
    /// Hosts, and the members of each group.
    Membership,
    /// A server says where it is. One that is in no map waits to be wanted; one that the map has elsewhere is moved.
    Announce(Announcement),
    /// An operator wants this many replicas in a partition's group. Answered with [`ControlReply::Change`], as all that
    /// follow.
    Scale {
        /// The partition.
        partition: u16,
        /// How many replicas.
        replicas: u16,
        /// The epoch of the map that the operator has seen: nothing is changed if it is another one by now, so that a
        /// copy of this that arrives late undoes nothing.
        epoch: u64,
    },
    /// An operator has moved a replica, or is about to.
    Relocate(Announcement),
    /// How the changes of a partition's group are.
    Change {
        /// The partition.
        partition: u16,
    },
    /// The kinds of all groups. Any manager replica answers, from what it has applied: they never change.
    Kinds,
    /// A replica of a group whose members the manager decides on says how it is, and asks what was decided. Answered
    /// with [`ControlReply::Word`] by the manager that leads.
    Exchange {
        /// The partition.
        partition: u16,
        /// A `smr::epoch_service::MemberReport`, as bytes; at most [`EXCHANGE_MAX_BYTES`].
        report: Bytes,
    },
    /// An operator adds a partition, without slots. Answered with [`ControlReply::Done`].
    AddPartition {
        /// `host:port` where its replicas serve clients, by number.
        servers: Vec<String>,
    },
    /// An operator moves slots, all of one partition, to another one. Answered with [`ControlReply::Change`], as what
    /// follows.
    MoveSlots {
        /// The slots.
        slots: SlotSet,
        /// The partition that is to have them.
        to: u16,
    },
    /// How moves of slots are.
    SlotMoves,
    /// An operator gives the move of slots up that is under way.
    GiveUpMove {
        /// Its number: a copy of this that arrives late gives up no other one.
        id: u64,
    },
    /// An operator wants another first for a group whose members the manager decides on. Answered with
    /// [`ControlReply::Done`] by the manager that leads, once it is so.
    Promote {
        /// The partition.
        partition: u16,
        /// Who is to be first.
        replica: u16,
    },
    /// How fast the parts of this manager replica are. Any answers, for itself, with a
    /// [`PaceReport`](smr_service::pace::PaceReport) and nothing around it.
    Pace,
    /// The services of all groups. Any manager replica answers, from what it has applied: they never change.
    Services,
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The partition that it serves.
    pub partition: u16,
    /// Its number in the partition.
    pub replica: u16,
    /// `host:port` where it serves clients.
    pub api_address: String,
    /// `host:port` where its peers reach it.
    pub p2p_address: String,
    /// The epoch of the map that whoever says so has seen: nothing is changed if it is another one by now.
    pub epoch: u64,
}

/// How the changes of a partition's group are. They are numbered by the events that say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// The one that is under way.
    pub open: Option<u64>,
    /// The last one that ended, and why it came to nothing, if it did.
    pub ended: Option<(u64, Option<String>)>,
    /// The epoch of the map; what is asked for names it.
    pub epoch: u64,
}

/// An answer to a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    /// The report was taken; this is what the host is to do.
    Orders(AgentOrders),
    /// The value of every setting, and the version of all of them.
    Settings(Settings),
    /// Some of the events.
    Events(Events),
    /// Hosts and members.
    Membership(Membership),
    /// It is so now, and recorded by a majority of the managers.
    Done,
    /// Not done, for this reason; nothing has changed.
    Refused(String),
    /// How the changes of a group, or the moves of slots, are.
    Change(ChangeReport),
    /// The kinds of all groups, by partition; empty while there is no map.
    Kinds(Vec<GroupKind>),
    /// What was decided: a `smr::epoch_service::ServiceWord`, as bytes. `None` if no one can say now.
    Word(Option<Bytes>),
    /// The services of all groups, by partition; empty while there is no map.
    Services(Vec<GroupService>),
}

/// How a host is, by its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// The agent's number: LFD*n* on consoles.
    pub agent: u16,
    /// The host's name; at most [`HOST_NAME_MAX_BYTES`].
    pub host: String,
    /// `host:port` where the agent listens for replicas of its host; at most [`ADDRESS_MAX_BYTES`].
    pub address: String,
    /// Random for each start of the agent's process, and never 0.
    pub start: u64,
    /// Counts this start's reports, from 1: a report that arrives late does not undo a newer one. The same report keeps
    /// its number when it is sent again.
    pub number: u64,
    /// Whether the agent relaunches by itself what has ended (`--relaunch yes`). If not, a person or an orchestrator
    /// does, and the manager orders nothing of the kind.
    pub relaunches: bool,
    /// Where this host can take replicas over whose own host is gone; at most [`SPARES_MAX`]. One that is used already
    /// may be among them.
    pub spares: Vec<Spare>,
    /// The replicas of the host, in order of partition and replica; at most [`HOST_REPLICAS_MAX`].
    pub replicas: Vec<ReplicaReport>,
}

/// Room for a replica on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// `host:port` where it would serve clients.
    pub api_address: String,
    /// `host:port` where its peers would reach it.
    pub p2p_address: String,
}

/// How a replica is, by the agent of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The partition that it serves.
    pub partition: u16,
    /// Its number in the partition.
    pub replica: u16,
    /// The incarnation that it runs as, or ran as last; `None` if it never said.
    pub incarnation: Option<Incarnation>,
    /// What is known of its process.
    pub condition: Condition,
    /// How often the agent has launched it, in this start of the agent.
    pub launches: u32,
    /// The last order that the agent has carried out for it, or has tried to; 0 for none.
    pub order: u64,
    /// Whether its last end was of a kind for which its directory may be to blame: it crashed, and its disk has room.
    pub directory_suspect: bool,
    /// `host:port` where it reaches its peers, in replica order; without itself, and as it was launched.
    pub peers: Vec<String>,
    /// More for a person to read: why the order failed, what the process said last. At most [`DETAIL_MAX_BYTES`].
    pub detail: String,
}

/// How a replica's process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Launched, and not registered yet.
    Starting,
    /// It answers heartbeats.
    Alive {
        /// What it says of itself.
        service: Service,
    },
    /// It runs, and has not answered for the stated number of heartbeats.
    Hung,
    /// Its process has ended, or its connection is gone and no process of it is there.
    Dead {
        /// How it ended; at most [`DETAIL_MAX_BYTES`].
        reason: String,
    },
    /// It has ended too often in a row; the agent launches it again after a pause.
    BackingOff {
        /// How it ended last; at most [`DETAIL_MAX_BYTES`].
        reason: String,
    },
    /// It was ended in order, by a person or by an order, and stays so until a person starts it again. No one else
    /// does.
    Stopped,
}

/// What a live replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// It is a member of its group, and takes part.
    InService,
    /// It waits for its group to be founded, or to be readmitted.
    Uninitialized,
    /// Its data cannot be trusted, so it takes no part.
    Quarantined {
        /// Whether the reason is proof that someone has lost something durable. Then its data may be the only copy of
        /// what was lost, and only an operator decides about it.
        proof_of_loss: bool,
        /// The reason; at most [`DETAIL_MAX_BYTES`].
        reason: String,
    },
}

/// What an agent is to do, and the settings that concern it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOrders {
    /// How often the agent heartbeats its replicas, in milliseconds.
    pub lfd_heartbeat_freq_ms: u64,
    /// How often the agent reports, in milliseconds.
    pub gfd_heartbeat_freq_ms: u64,
    /// Whether the manager wants agents to relaunch by themselves what has ended. An agent with `--relaunch no` does
    /// not in any case.
    pub relaunch: bool,
    /// What is to be done, at most one order for each replica of the host. An order comes with each answer until a
    /// report names it, or it is withdrawn; an agent carries each out once.
    pub orders: Vec<Order>,
}

/// Something to be done for a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The number of the event that says why. Higher for later orders.
    pub id: u64,
    /// The partition of the replica that it is for.
    pub partition: u16,
    /// Its number in the partition.
    pub replica: u16,
    /// What the agent is to do.
    pub what: OrderKind,
}

/// What to do for a replica. Before anything is launched, the replica's old process must be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderKind {
    /// Launch it with the directory that it has.
    Relaunch,
    /// Set its directory aside, which is never removed, and launch it with an empty one, to be readmitted as a new
    /// incarnation.
    FreshDirectory,
    /// End it, and do not launch it again. Its directory stays.
    Retire,
    /// Launch it on this host, on an empty directory: its own host is gone.
    Place(Launch),
}

/// How a replica that this host has never run is launched. What this leaves open is the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// `host:port` where it serves clients.
    pub api_address: String,
    /// `host:port` where it listens for its peers.
    pub p2p_address: String,
    /// `host:port` where its peers listen, in replica order; without itself.
    pub peers: Vec<String>,
}

/// The settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How often a setting was changed. Who follows the settings never goes back to a lower version.
    pub version: u64,
    /// All settings, by name. Names that a build does not know are not its business.
    pub values: Vec<Setting>,
}

impl Settings {
    /// The value of a setting, if it is among them.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|setting| setting.name == name).map(|setting| setting.value)
    }
}

/// The value of a setting, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// As operators name it: `detection`, `replicas.s0`.
    pub name: String,
    /// Its value, in its unit.
    pub value: u64,
    /// Whether an operator has set it; if not, this is the default.
    pub is_set: bool,
}

/// A part of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The number of the oldest event that is kept; 0 if there is none. Older ones are gone.
    pub oldest: u64,
    /// The number of the newest event; 0 if there is none.
    pub newest: u64,
    /// In the order of their numbers.
    pub events: Vec<Event>,
}

/// Something that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1, without holes.
    pub number: u64,
    /// When, by the clock of the manager that proposed it: milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What it is about: `s0.1`, `host b`, `settings`. At most [`EVENT_SUBJECT_MAX_BYTES`].
    pub subject: String,
    /// What was decided, and why. At most [`EVENT_TEXT_MAX_BYTES`].
    pub text: String,
}

/// Hosts and members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// All that have an agent, in the order of their numbers.
    pub hosts: Vec<Host>,
    /// By partition.
    pub groups: Vec<GroupMembers>,
}

/// A host with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What `--name` of its agent says.
    pub name: String,
    /// The number of its agent.
    pub agent: u16,
    /// Where the agent listens.
    pub address: String,
    /// Whether it counts as failed.
    pub has_failed: bool,
}

/// The members of a group, as the global fault detector counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembers {
    /// The partition whose group this is.
    pub partition: u16,
    /// The numbers of the replicas that are members now: alive, by the agent of a host that has not failed.
    pub members: Vec<u16>,
    /// How many they are.
    pub member_count: u16,
    /// All replicas of which an agent has told, by number.
    pub replicas: Vec<WatchedReplica>,
}

/// A replica of which an agent has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedReplica {
    /// The name of its host.
    pub host: String,
    /// What the agent said last.
    pub report: ReplicaReport,
}

macro_rules! bytes_of {
    ($what:ty, $name:literal) => {
        impl $what {
            /// As bytes.
            pub fn encode(&self) -> Bytes {
                codec::encode(self).into()
            }

            /// From bytes.
            ///
            /// # Errors
            /// If they are nothing of the kind, or of a newer build.
            pub fn decode(bytes: &[u8]) -> Result<Self, String> {
                codec::decode(bytes)
                    .map_err(|error| format!(concat!("this build knows no such ", $name, ": {}"), error))
            }
        }
    };
}

bytes_of!(ControlRequest, "request");
bytes_of!(ControlReply, "answer");

impl AgentReport {
    /// Checks what a stranger might have made too large, or senseless.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let long = |what: &str, text: &str, limit: usize| {
            (text.len() > limit).then(|| format!("{what} of {} bytes; {limit} are possible", text.len()))
        };
        let plain = |text: &str| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_graphic());
        if !plain(&self.host) || !plain(&self.address) {
            return Err("a host needs a name and an address, of letters without spaces".into());
        }
        if self.start == 0 || self.number == 0 {
            return Err("a report without a start or without a number".into());
        }
        let count = self.replicas.len();
        if count > HOST_REPLICAS_MAX {
            return Err(format!("{count} replicas on one host; {HOST_REPLICAS_MAX} are possible"));
        }
        let place = |report: &ReplicaReport| (report.partition, report.replica);
        if !self.replicas.is_sorted_by(|one, next| place(one) < place(next)) {
            return Err("the replicas of a report are not in order, or one is there twice".into());
        }
        if self.spares.len() > SPARES_MAX {
            return Err(format!("room for {} replicas; {SPARES_MAX} are possible", self.spares.len()));
        }
        if self.replicas.iter().any(|report| report.peers.len() >= REPLICAS_MAX) {
            return Err("more peers than a group has".into());
        }
        let spares = self.spares.iter().flat_map(|spare| [&spare.api_address, &spare.p2p_address]);
        let mut addresses = spares.chain(self.replicas.iter().flat_map(|report| &report.peers));
        if addresses.any(|address| address.len() > ADDRESS_MAX_BYTES) {
            return Err(format!("an address of more than {ADDRESS_MAX_BYTES} bytes"));
        }
        let texts = self.replicas.iter().flat_map(|report| [report.detail.as_str(), report.condition.reason()]);
        let too_long = long("a host's name", &self.host, HOST_NAME_MAX_BYTES)
            .or_else(|| long("an address", &self.address, ADDRESS_MAX_BYTES))
            .or_else(|| texts.filter_map(|text| long("a detail", text, DETAIL_MAX_BYTES)).next());
        too_long.map_or(Ok(()), Err)
    }

    /// Whether it says the same as `other`, whatever their numbers and details. What does is not recorded.
    pub fn says_the_same(&self, other: &AgentReport) -> bool {
        let AgentReport { agent, host, address, start, number: _, relaunches, spares, replicas } = self;
        (agent, host, address, start, relaunches, spares)
            == (&other.agent, &other.host, &other.address, &other.start, &other.relaunches, &other.spares)
            && replicas.len() == other.replicas.len()
            && replicas.iter().zip(&other.replicas).all(|(one, other)| one.says_the_same(other))
    }
}

impl ReplicaReport {
    fn says_the_same(&self, other: &ReplicaReport) -> bool {
        *self == ReplicaReport { detail: self.detail.clone(), ..other.clone() }
    }
}

impl Condition {
    /// Whether the replica counts as a member of its group: it is there, and does its part.
    pub fn is_member(&self) -> bool {
        matches!(self, Condition::Alive { service: Service::InService })
    }

    /// The reason in it; empty if it has none.
    pub fn reason(&self) -> &str {
        match self {
            Condition::Dead { reason }
            | Condition::BackingOff { reason }
            | Condition::Alive { service: Service::Quarantined { reason, .. } } => reason,
            Condition::Starting | Condition::Hung | Condition::Alive { .. } | Condition::Stopped => "",
        }
    }
}

/// `text`, cut to at most `limit` bytes where a letter ends.
pub fn bounded(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
