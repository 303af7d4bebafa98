//! What travels between a client and a server or manager, in the frames of [`smr::codec`].
//!
//! The side that dials sends [`Hello`] and may send requests right behind it; the other side answers [`Welcome`], or
//! [`Refusal`] and closes. Requests carry a number of the connection's own; responses carry it back, in any order. The
//! answer to a SCAN comes in [`Body::Part`]s and ends with a [`Body::Answer`].

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smr::entry::{Genesis, GenesisHash, GenesisRequest, Incumbent};
use smr::id::{ClientId, ClusterId, Disqualified, Incarnation, StartTrail};
use smr::status::ReplicaStatus;

/// What a manager tells clients about where the parts of a service are. Opaque here: the service's own client and
/// servers know what it means.
pub trait Map: Serialize + DeserializeOwned + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {}

impl<M: Serialize + DeserializeOwned + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static> Map for M {}

/// The first bytes of a [`Hello`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"madkv/1\n");

/// Kind of the frame that carries a [`Hello`].
pub const KIND_HELLO: u16 = 0x4d01;
/// Kind of the frame that carries a [`Welcome`].
pub const KIND_WELCOME: u16 = 0x4d02;
/// Kind of the frame that carries a [`Refusal`].
pub const KIND_REFUSAL: u16 = 0x4d03;
/// Kind of the frame that carries a [`Request`].
pub const KIND_REQUEST: u16 = 0x4d04;
/// Kind of the frame that carries a [`Response`].
pub const KIND_RESPONSE: u16 = 0x4d05;

/// Who dials, and whom it wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u64,
    /// The cluster that the dialling side means, once it knows.
    pub cluster: Option<ClusterId>,
    /// The service that it expects.
    pub service: Service,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its cluster; a manager that is not born yet has none.
    pub cluster: Option<ClusterId>,
    /// Epoch of the map that it knows; 0 for none.
    pub epoch: u64,
}

/// Why a connection was not accepted. It is closed behind this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For a person to read.
    pub reason: String,
}

/// A replica's service, by its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// A manager replica, whichever.
    Manager,
    /// A replica of a partition, whichever.
    Server {
        /// The partition.
        partition: u16,
    },
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The connection's own number for it.
    pub id: u64,
    /// Epoch of the map that the sender routed by; 0 if it has none.
    pub epoch: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Server: open a session.
    OpenSession,
    /// Server: apply a command exactly once.
    Write {
        /// The session.
        client: ClientId,
        /// The request's number in it, from 1.
        number: u64,
        /// The lowest number whose answer the client still waits for.
        lowest_unanswered: u64,
        /// The command.
        command: Bytes,
    },
    /// Server: answer a query.
    Read {
        /// The query.
        query: Bytes,
    },
    /// Both: describe the replica.
    Status,
    /// Both: hand leadership over.
    Transfer {
        /// The replica that is to lead.
        to: u16,
    },
    /// Both: put the present incarnation of a seat into the place of the former one.
    Readmit {
        /// The seat.
        replica: u16,
    },
    /// Manager: the map.
    Map,
    /// Manager: a server says who it is.
    Register(Registration),
    /// Manager: a server that could found its partition's group asks that the genesis be recorded.
    RecordGenesis(GenesisRequest),
}

/// A server, to the manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its partition.
    pub partition: u16,
    /// Its replica number.
    pub replica: u16,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// Whether that incarnation is a member of its group (born, and named by the configuration), as opposed to a
    /// fresh directory.
    pub member: bool,
    /// The genesis of that group, for a member.
    pub genesis: Option<GenesisHash>,
    /// This start of its process.
    pub start: StartTrail,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response<M> {
    /// The request's number.
    pub id: u64,
    /// What became of it.
    pub body: Body<M>,
}

/// What became of a request. Unless it says otherwise the request had no effect and never will.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body<M> {
    /// It was applied, or read: the state machine's answer (for a SCAN: its last part).
    Answer(Bytes),
    /// More of a SCAN's answer follows.
    Part(Bytes),
    /// The session is open.
    SessionOpened(ClientId),
    /// The replica.
    Status(Box<ReplicaStatus>),
    /// The operator's wish was fulfilled.
    Done,
    /// The map.
    Map(Box<M>),
    /// This manager replica has not applied a map yet; try another, or again.
    NoMap,
    /// The server is registered; the map says what it owns.
    Registered(Box<M>),
    /// The seat belongs to another incarnation. A server that hears this is not a member until it is readmitted.
    Occupied {
        /// The one that has it.
        by: Incarnation,
        /// The map all the same.
        map: Box<M>,
    },
    /// Ask the leader.
    NotLeader {
        /// Its replica number, if it is known.
        leader: Option<u16>,
        /// The term in which it leads.
        term: u64,
    },
    /// The key lives elsewhere, by the map of this epoch.
    WrongPartition {
        /// The answering side's epoch.
        epoch: u64,
    },
    /// Too much is under way.
    Busy {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// A key or value beyond the limits.
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u32,
    },
    /// Not applied now; whether an earlier copy was is unknown.
    SessionExpired,
    /// Applied once; the answer is no longer stored.
    AnswerGone,
    /// It may or may not take effect.
    Unknown,
    /// It makes no sense, or cannot be granted.
    Refused(String),
    /// The replica is unborn or quarantined.
    OutOfService(String),
    /// The genesis is recorded.
    GenesisRecorded,
    /// The partition has another group already.
    GenesisRefused {
        /// That one.
        incumbent: Incumbent,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
    },
    /// The directory that registers must not take part any longer.
    Disqualified {
        /// Why.
        why: Disqualified,
        /// The map all the same.
        map: Box<M>,
    },
    /// Not done: the leader's disk is full, and the request may make the state larger.
    DiskFull,
}
