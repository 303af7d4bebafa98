//! What is proposed to the managers' state and asked of it, and what it answers.

use bytes::Bytes;
use madkv_proto::control::{AgentReport, Announcement, ControlReply};
use madkv_proto::frames::{ClientResponse, Registration};
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use madkv_proto::settings::definition;
use madkv_proto::slot_set::SlotSet;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::entry::{Genesis, GenesisRequest, Incumbent};
use smr::epoch::GroupKind;
use smr::epoch_service::{EpochDecision, EpochRecord};
use smr::id::{ClusterId, Disqualified, Incarnation};

use super::members::Wanted;
use super::repairs::Decision;
use super::slots::{MoveStep, SlotMove};
use super::view::View;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Deal the slots to these servers. Only the first layout counts.
    Layout {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas of each partition.
        server_rf: u64,
        /// The servers' addresses, by partition first.
        servers: Vec<String>,
    },
    /// What a server of an older build said of itself. It is in logs of that time; no one proposes it any more.
    RegisterUnproved {
        /// Its partition.
        partition: u16,
        /// Its replica number.
        replica: u16,
        /// The incarnation of its directory.
        incarnation: Incarnation,
        /// Whether that one is a member of its group, as it says.
        member: bool,
    },
    /// A server says who it is.
    Register(Registration),
    /// A server that could found its partition's group asks that the genesis be recorded.
    RecordGenesis(GenesisRequest),
    /// An agent's report, which differs from what is recorded. Version 2, as all that follow.
    AgentReport {
        /// The report.
        report: AgentReport,
        /// When it came, by the clock of the manager that proposes it: milliseconds since 1970.
        at_unix_ms: u64,
    },
    /// The leader has not heard an agent for too long.
    HostSilent {
        /// The agent.
        agent: u16,
        /// The start and the number of its last report that is recorded: another one was recorded meanwhile if they
        /// are others.
        last: (u64, u64),
        /// For how long it has been silent, in milliseconds.
        silent_ms: u64,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator changes a setting.
    Set {
        /// Its name.
        name: String,
        /// Its value.
        value: u64,
        /// The version of the settings that the operator has seen.
        version: u64,
        /// As above.
        at_unix_ms: u64,
    },
    /// The replication manager has decided.
    Decide {
        /// What.
        decision: Decision,
        /// As above.
        at_unix_ms: u64,
    },
    /// A server says where it is.
    Announce {
        /// What it says.
        announcement: Announcement,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator wants this many replicas.
    Scale {
        /// The partition.
        partition: u16,
        /// How many.
        replicas: u16,
        /// The epoch of the map that the operator has seen.
        epoch: u64,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator moves a replica.
    Relocate {
        /// Where to.
        announcement: Announcement,
        /// As above.
        at_unix_ms: u64,
    },
    /// A change of a group has ended.
    ChangeEnded {
        /// The partition.
        partition: u16,
        /// The number of the change.
        id: u64,
        /// Why it came to nothing, if it did.
        refused: Option<String>,
        /// As above.
        at_unix_ms: u64,
    },
    /// As [`Command::Layout`], to groups that are not all of kind raft. Version 3, as all that follow.
    LayoutOfKinds {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas of each partition.
        server_rf: u64,
        /// The servers' addresses, by partition first.
        servers: Vec<String>,
        /// One kind for all groups, or one for each.
        kinds: Vec<GroupKind>,
    },
    /// A decision about a group whose members the manager names.
    DecideEpoch {
        /// The partition.
        partition: u16,
        /// What.
        decision: EpochDecision,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator adds a partition. Version 4, as all that follow.
    AddPartition {
        /// Where its replicas serve clients, by number.
        servers: Vec<String>,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator moves slots.
    MoveSlots {
        /// The slots.
        slots: SlotSet,
        /// The partition that is to have them.
        to: u16,
        /// As above.
        at_unix_ms: u64,
    },
    /// The leader has taken a step of a move of slots.
    SlotStep {
        /// The move.
        id: u64,
        /// The step.
        step: MoveStep,
        /// As above.
        at_unix_ms: u64,
    },
    /// An operator gives a move of slots up, or the leader does because a group cannot take part. Version 5, as all
    /// that follow.
    GiveUpMove {
        /// The move.
        id: u64,
        /// Why.
        why: String,
        /// The group that cannot take part.
        unable: Option<u16>,
        /// As above.
        at_unix_ms: u64,
    },
    /// Both groups have ended a move that was given up.
    MoveGivenUp {
        /// The move.
        id: u64,
        /// As above.
        at_unix_ms: u64,
    },
    /// A group has forgotten its part in a move whose slots are handed over.
    SlotsForgotten {
        /// The move.
        id: u64,
        /// Its partition.
        partition: u16,
        /// As above.
        at_unix_ms: u64,
    },
    /// A group cannot be told yet that a move is over which was given up.
    MoveWaits {
        /// The move.
        id: u64,
        /// Its partition.
        partition: u16,
        /// Why.
        why: String,
        /// As above.
        at_unix_ms: u64,
    },
    /// As [`Command::LayoutOfKinds`], with groups that are no part of the key-value store. Version 6.
    LayoutOfServices {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas of each partition.
        server_rf: u64,
        /// The servers' addresses, by partition first.
        servers: Vec<String>,
        /// One kind for all groups, or one for each.
        kinds: Vec<GroupKind>,
        /// One service for all groups, or one for each.
        services: Vec<GroupService>,
    },
}

/// How many kinds of commands of version 1 there are.
const COMMAND_KINDS_OF_VERSION_1: u32 = 4;
/// How many kinds of commands of versions 1 and 2 there are.
const COMMAND_KINDS_OF_VERSION_2: u32 = 12;
/// How many kinds of commands of versions 1 to 3 there are.
const COMMAND_KINDS_OF_VERSION_3: u32 = 14;
/// How many kinds of commands of versions 1 to 4 there are.
const COMMAND_KINDS_OF_VERSION_4: u32 = 17;
/// How many kinds of commands of versions 1 to 5 there are.
const COMMAND_KINDS_OF_VERSION_5: u32 = 21;
/// How many kinds of commands there are.
const COMMAND_KINDS: u32 = 22;

/// The number with which [`Command::Set`] begins.
const SET: u32 = 6;

/// The version in which the kind of a command came: the number that it begins with. A setting may have come later than
/// the settings as such: whoever knows it not would refuse what others carry out.
pub(super) fn version(command: &[u8]) -> Option<u16> {
    match command.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind)) {
        None | Some(0..COMMAND_KINDS_OF_VERSION_1) => Some(1),
        Some(SET) => match codec::decode(command) {
            Ok(Command::Set { name, .. }) => Some(definition(&name).map_or(2, |definition| definition.since)),
            _ => Some(2),
        },
        Some(COMMAND_KINDS_OF_VERSION_1..COMMAND_KINDS_OF_VERSION_2) => Some(2),
        Some(COMMAND_KINDS_OF_VERSION_2..COMMAND_KINDS_OF_VERSION_3) => Some(3),
        Some(COMMAND_KINDS_OF_VERSION_3..COMMAND_KINDS_OF_VERSION_4) => Some(4),
        Some(COMMAND_KINDS_OF_VERSION_4..COMMAND_KINDS_OF_VERSION_5) => Some(5),
        Some(COMMAND_KINDS_OF_VERSION_5..COMMAND_KINDS) => Some(6),
        Some(_) => None,
    }
}

/// What is read from the state; each is answered with one [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The cluster map.
    Map,
    /// What an agent is to do, if its report differs in nothing from what is recorded.
    Report(AgentReport),
    /// The values of all settings, and their version.
    Settings,
    /// Some of the events.
    Events {
        /// Those after this one.
        after: u64,
        /// The most of them.
        limit: u32,
    },
    /// Hosts and members.
    Membership,
    /// Everything that detector and replication manager look at.
    View,
    /// All changes of groups that are open.
    Changes,
    /// How the changes of one group are.
    Change {
        /// Its partition.
        partition: u16,
    },
    /// The kinds of all groups.
    Kinds,
    /// What was decided about the members of one group.
    Epochs {
        /// Its partition.
        partition: u16,
    },
    /// The same of all groups whose members the manager names.
    AllEpochs,
    /// How moves of slots are, for operators.
    SlotMoves,
    /// The move of slots that is open, for the leader.
    SlotMove,
    /// What was decided about the members of one group, for one that the layout has; nothing for any other.
    EpochsFor {
        /// Its partition.
        partition: u16,
        /// The replica.
        replica: u16,
    },
    /// The services of all groups.
    Services,
}

/// An answer to either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// There is no map yet.
    NoMap,
    /// The map of the newest epoch.
    Map(ClusterMap),
    /// The server is that replica.
    Registered(ClusterMap),
    /// Another one has it.
    Occupied {
        /// The incarnation that is there.
        by: Incarnation,
        /// The map.
        map: ClusterMap,
    },
    /// It makes no sense.
    Refused(String),
    /// The genesis that was shown is recorded now, or was before.
    GenesisRecorded,
    /// The partition has another group already.
    GenesisRefused {
        /// The group that is recorded.
        incumbent: Incumbent,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
    },
    /// Whether the server is a member shows only when a member that is known has registered.
    NotProved,
    /// The server must not take part any longer.
    Disqualified {
        /// The reason.
        why: Disqualified,
        /// The map.
        map: ClusterMap,
    },
    /// The answer to a control request.
    Control(ControlReply),
    /// The report differs from what is recorded: it must become a command.
    ReportDiffers,
    /// What detector and replication manager look at.
    View(Box<View>),
    /// All changes of groups that are open, by partition.
    Changes(Vec<(u16, Wanted)>),
    /// What was decided about the members of one group; `None` if it is not founded, or they are not named here.
    Epochs(Option<Box<EpochRecord>>),
    /// The same of all groups, by partition.
    AllEpochs(Vec<(u16, EpochRecord)>),
    /// The server has said where it is, and no map has it yet.
    NotInMapYet,
    /// The move of slots that is open.
    SlotMove(Option<SlotMove>),
}

impl Reply {
    /// Reads what the state machine answered.
    pub fn decode(answer: &[u8]) -> Reply {
        codec::decode(answer)
            .unwrap_or_else(|error| Reply::Refused(format!("the state machine gave a malformed answer: {error}")))
    }

    /// For the one who asked.
    pub fn into_body(self) -> ClientResponse {
        match self {
            Reply::NoMap => ClientResponse::NoMap,
            Reply::Map(map) => ClientResponse::Map(Box::new(map)),
            Reply::Registered(map) => ClientResponse::Registered(Box::new(map)),
            Reply::Occupied { by, map } => ClientResponse::Occupied { by, map: Box::new(map) },
            Reply::Refused(reason) => ClientResponse::Refused(reason),
            Reply::GenesisRecorded => ClientResponse::GenesisRecorded,
            Reply::GenesisRefused { incumbent, genesis } => ClientResponse::GenesisRefused { incumbent, genesis },
            Reply::NotProved => {
                ClientResponse::OutOfService("no known member of the partition has registered yet".into())
            }
            Reply::NotInMapYet => ClientResponse::OutOfService("the map does not have it yet".into()),
            Reply::Disqualified { why, map } => ClientResponse::Disqualified { why, map: Box::new(map) },
            Reply::Control(reply) => ClientResponse::Answer(reply.encode()),
            // These stay inside of the manager.
            Reply::ReportDiffers
            | Reply::View(_)
            | Reply::Changes(_)
            | Reply::Epochs(_)
            | Reply::AllEpochs(_)
            | Reply::SlotMove(_) => ClientResponse::Unknown,
        }
    }
}

/// As bytes for the log.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}
