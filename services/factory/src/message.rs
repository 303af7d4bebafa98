//! What travels between customers and factories, and between factories, and how long it may be.
//!
//! Whoever dials says first who it is ([`Hello`]); the other side answers [`Welcome`] or [`Refusal`]. After that the
//! dialling side asks and the other one answers, in the same order. A factory dials only while it is, or is about to
//! be, the primary.

use serde::{Deserialize, Serialize};
use smr::id::{ClientId, ClusterId};
use smr::version::VersionRange;

use crate::log::Run;
use crate::words::{Attempts, Entry, Epoch, Incarnation, ServerId, View, ViewId};

/// The versions of all that is said here. What groups under managers need came with version 3.
pub const VERSIONS: VersionRange = VersionRange::new(2, 3);
/// The first bytes of a [`Hello`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"factory\n");

/// The longest greeting, in bytes.
pub const GREETING_MAX_BYTES: usize = 4 << 10;
/// The longest frame of a customer, and the longest to one, in bytes.
pub const CUSTOMER_FRAME_MAX_BYTES: usize = 1 << 10;
/// The longest frame between factories, in bytes.
pub const PEER_FRAME_MAX_BYTES: usize = 4 << 20;
/// Entries in one message.
pub const ENTRIES_MAX: usize = 4096;
/// Runs in one message: those of the latest epochs. A log that parts from another one before them is replaced from its
/// beginning.
pub const RUNS_MAX: usize = 64 << 10;
/// Factories of one group.
pub const SERVERS_MAX: usize = 64;
/// Takeovers that one factory has promised to and not heard the end of; further ones are not promised to. More than one
/// of a server takes that its directory was emptied in between.
pub const ATTEMPTS_MAX: usize = 256;

/// Kinds of frames.
pub const KIND_HELLO: u16 = 0x4601;
/// See [`Welcome`].
pub const KIND_WELCOME: u16 = 0x4602;
/// See [`Refusal`].
pub const KIND_REFUSAL: u16 = 0x4603;
/// See [`CustomerRequest`].
pub const KIND_CUSTOMER_REQUEST: u16 = 0x4604;
/// See [`CustomerAnswer`].
pub const KIND_CUSTOMER_ANSWER: u16 = 0x4605;
/// See [`PeerRequest`].
pub const KIND_PEER_REQUEST: u16 = 0x4606;
/// See [`PeerAnswer`].
pub const KIND_PEER_ANSWER: u16 = 0x4607;

/// Who is at the other end of a connection that was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialler {
    /// A client, which orders and reads.
    Customer,
    /// The admin of a factory, and the group as it knows it, itself included.
    Factory {
        /// Its id.
        id: ServerId,
        /// Whom it believes to have dialled.
        to: ServerId,
        /// All ids of the group, in order.
        group: Vec<ServerId>,
    },
    /// A factory of a group under managers that is about to ask them to make it the primary: to the one that is.
    Successor {
        /// Its id.
        id: ServerId,
        /// Whom it believes to have dialled.
        to: ServerId,
        /// All ids of the group, in order.
        group: Vec<ServerId>,
        /// The managers' cluster.
        cluster: ClusterId,
        /// The group's number in their layout.
        partition: u16,
    },
}

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u64,
    /// The oldest version that the dialling side speaks.
    pub oldest: u16,
    /// The newest version that it speaks.
    pub newest: u16,
    /// Who is dialling.
    pub dialler: Dialler,
}

impl Hello {
    /// The hello of this build.
    pub fn new(dialler: Dialler) -> Hello {
        Hello { magic: MAGIC, oldest: VERSIONS.oldest(), newest: VERSIONS.newest(), dialler }
    }
}

/// The answer to a [`Hello`] that is welcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of all that follows.
    pub version: u16,
    /// Who answers.
    pub id: ServerId,
}

/// The answer to one that is not; the connection is closed after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For a person.
    pub reason: String,
}

/// The request type of an order.
pub const ORDER: i32 = 1;
/// The request type of a read.
pub const READ: i32 = 2;

/// What a customer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustomerRequest {
    /// An order, or a read of a record.
    Request {
        /// Who asks.
        customer_id: i32,
        /// The number of the order; -1 in a read.
        order_number: i32,
        /// [`ORDER`] or [`READ`].
        request_type: i32,
        /// For a read: every order that was acknowledged before it must be seen.
        linearizable: bool,
    },
    /// How far the factory is.
    Indexes,
    /// A customer of a group under managers: a session in which its orders are numbered, in whichever factory.
    OpenSession,
    /// An order in a session: however often it comes, and wherever, it is recorded once.
    Numbered {
        /// The session.
        session: ClientId,
        /// The number of this request in it, from 1, one after the other.
        number: u64,
        /// Who orders.
        customer_id: i32,
        /// The number of the order.
        order_number: i32,
    },
}

/// What a customer hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustomerAnswer {
    /// The robot that was ordered.
    Robot {
        /// As in the order.
        customer_id: i32,
        /// As in the order.
        order_number: i32,
        /// As in the order.
        request_type: i32,
        /// The engineer who made it: the number of the customer's connection.
        engineer_id: i32,
        /// The admin who recorded it: the id of the factory.
        admin_id: i32,
        /// The index of its operation in the log.
        index: u64,
    },
    /// A customer's record.
    Record {
        /// The customer; -1 if there is no record.
        customer_id: i32,
        /// Its last order; -1 if there is no record.
        last_order: i32,
    },
    /// How far the factory is.
    Indexes(Indexes),
    /// Nothing was done.
    NotDone {
        /// Why, for a person.
        reason: String,
        /// Where to ask instead, if that is known.
        ask: Option<String>,
    },
    /// The order may have been recorded, or may yet be.
    Unknown {
        /// Why, for a person.
        reason: String,
    },
    /// A session was opened.
    Session(ClientId),
    /// There is no such session any more: nothing was done by this copy of the order.
    SessionGone,
    /// This factory goes by no managers: nothing was done, and it knows no sessions.
    NoManagers,
}

/// What every node keeps track of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexes {
    /// The last written index of the log.
    pub last_index: u64,
    /// Up to where operations are committed and applied.
    pub committed_index: u64,
    /// The production factory; -1 if none is known.
    pub primary_id: i64,
}

/// What a primary, or one that is about to be one, asks of another factory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// Take no word from lower epochs any more, and say what you have.
    Prepare {
        /// The dialling side's epoch.
        epoch: Epoch,
        /// Whether it leads in it already.
        leads: bool,
    },
    /// Give out entries of your log.
    Fetch {
        /// The dialling side's epoch.
        epoch: Epoch,
        /// From this index on.
        from: u64,
    },
    /// Make your log as mine.
    Replicate {
        /// The dialling side's epoch.
        epoch: Epoch,
        /// Up to here it is committed.
        committed: u64,
        /// This many of your entries stay.
        keep: u64,
        /// These come after them.
        entries: Vec<Entry>,
        /// The live set, if it has changed since you were told; after the entries.
        view: Option<View>,
        /// The change of this epoch whose view all of its members have recorded, if that is the present one: whoever
        /// has recorded it, too, counts as live from now on.
        established: Option<u64>,
    },
}

/// What a factory answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerAnswer {
    /// To [`PeerRequest::Prepare`].
    Promised {
        /// As in the request.
        epoch: Epoch,
        /// What it has.
        summary: Summary,
    },
    /// There is a higher epoch.
    Refused {
        /// It.
        promised: Epoch,
        /// What is known of its server.
        standing: Standing,
    },
    /// To [`PeerRequest::Fetch`].
    Entries {
        /// As in the request.
        epoch: Epoch,
        /// As in the request.
        from: u64,
        /// Up to [`ENTRIES_MAX`] of them.
        entries: Vec<Entry>,
    },
    /// To [`PeerRequest::Replicate`]: all of it is on disk.
    Replicated {
        /// As in the request.
        epoch: Epoch,
        /// The last index of its log, which is the primary's up to there.
        last_index: u64,
        /// The view that it has recorded.
        view: ViewId,
        /// Whether it counts as live.
        live: bool,
    },
}

/// What is known of the server of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nothing: it may be long dead.
    Unknown,
    /// It lives, and is about to lead.
    TakesOver,
    /// It is the primary of its view.
    Leads,
}

/// What a factory has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether it has led since it was started, or was told since then that all members of a view with itself in it
    /// have recorded that view.
    pub live: bool,
    /// Which use of its directory it is.
    pub incarnation: Incarnation,
    /// The last view that it recorded.
    pub view: View,
    /// The takeovers that it has promised to since then.
    pub attempts: Attempts,
    /// The last index of its log.
    pub last_index: u64,
    /// What its log is made of, the latest [`RUNS_MAX`] runs.
    pub runs: Vec<Run>,
}

impl PeerRequest {
    /// Whether it keeps to the bounds.
    pub fn is_bounded(&self) -> bool {
        match self {
            PeerRequest::Replicate { entries, view, .. } => {
                entries.len() <= ENTRIES_MAX && view.as_ref().is_none_or(|view| view.live.len() <= SERVERS_MAX)
            }
            PeerRequest::Prepare { .. } | PeerRequest::Fetch { .. } => true,
        }
    }
}

impl PeerAnswer {
    /// Whether it keeps to the bounds.
    pub fn is_bounded(&self) -> bool {
        match self {
            PeerAnswer::Promised { summary, .. } => {
                summary.runs.len() <= RUNS_MAX
                    && summary.view.live.len() <= SERVERS_MAX
                    && summary.attempts.len() <= ATTEMPTS_MAX
            }
            PeerAnswer::Entries { entries, .. } => entries.len() <= ENTRIES_MAX,
            PeerAnswer::Refused { .. } | PeerAnswer::Replicated { .. } => true,
        }
    }
}
