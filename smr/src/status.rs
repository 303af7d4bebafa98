//! How a replica describes itself: to its clients, to operators and to the other replicas.
//!
//! These words need no replica, so that whoever only asks for a description does without one.

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::entry::{EntryId, Index, Term};
use crate::id::{ClientId, GroupName, NodeId};

/// A replica, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The group that it is a replica of.
    pub group: GroupName,
    /// Its number and its incarnation.
    pub node: NodeId,
    /// What it is up to.
    pub service_state: ServiceState,
    /// The part that it plays in its group; only meaningful in service.
    pub role: Role,
    /// The latest term (or epoch, in groups that have them) that it has entered.
    pub term: Term,
    /// Whom it takes for the leader, if it knows one; a leader names itself.
    pub leader: Option<NodeId>,
    /// The last entry under its snapshot.
    pub snapshot: EntryId,
    /// The last entry of its log.
    pub last: EntryId,
    /// The last entry it knows to be committed.
    pub commit: Index,
    /// The last entry it applied.
    pub applied: Index,
    /// The newest hash of its whole state, and where it was taken; equal on all sound replicas at the same entry.
    pub digest: Option<StateDigest>,
    /// Size of the log in memory, in bytes.
    pub log_bytes: u64,
    /// Sessions in the table.
    pub sessions: u64,
    /// The voters of the configuration in force.
    pub voters: Vec<NodeId>,
    /// The learners of the configuration in force: they receive the log and have no vote.
    pub learners: Vec<NodeId>,
    /// How writes reach the device: `synced`, or what is missing.
    pub sync_mode: String,
    /// How it confirms reads while it leads.
    pub reads: ReadMode,
    /// For a leader: each other member, and its last durable entry known.
    pub peers: Vec<(NodeId, Index)>,
    /// Whether clients find it. The replica itself cannot know; whoever serves it to clients fills this in.
    pub advertised: Advertised,
}

/// An entry whose way is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimedEntry {
    /// The one with this id.
    Entry(EntryId),
    /// The one that carries this write of a session. Known where it was proposed.
    Write {
        /// The session.
        client: ClientId,
        /// The request's number in it.
        number: u64,
    },
}

/// When an entry got how far at one replica, in microseconds of that replica's own clock: only differences between
/// times of one replica mean something. `None`: not yet, or too long ago to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryTimings {
    /// The replica whose clock the times are of.
    pub node: NodeId,
    /// Which entry the times are of.
    pub entry: EntryId,
    /// When it was appended to the log in memory, and went to the disk, and from a leader to the other members.
    pub appended_us: Option<u64>,
    /// When it was on this replica's device.
    pub durable_us: Option<u64>,
    /// When this replica knew that it is committed.
    pub committed_us: Option<u64>,
    /// When it was applied.
    pub applied_us: Option<u64>,
    /// The voters; empty while they change, when there is not one majority.
    pub voters: Vec<NodeId>,
    /// For a leader: when it heard that another member has it on its device.
    pub held_by: Vec<(NodeId, u64)>,
}

/// Whether clients find a replica at the address that they are given for it, as far as the replica's own process can
/// tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Advertised {
    /// No one has looked, or nothing certain came of it.
    #[default]
    Unknown,
    /// It answers there.
    Reached,
    /// It does not answer there.
    Unreached {
        /// The address.
        address: String,
        /// What is there instead.
        why: String,
    },
}

/// Whether a replica is in service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    /// Waits for its group to be founded, or to be taken in.
    Uninitialized,
    /// Does its part.
    InService,
    /// Neither votes nor acknowledges nor leads, until it is readmitted or, if the reason says so, has healed.
    Quarantined {
        /// The reason.
        reason: String,
    },
}

/// In the reason for a quarantine: what follows is proof that some replica of the group has lost something that was
/// durable. The data of each of them may be the only copy of it.
pub const LOSS_PROVEN: &str = "proof of a loss: ";

/// The part that a node plays. Protocols map their own roles onto these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Asks for votes, or asks whether to ask.
    Candidate,
    /// Takes in what a leader sends, and votes.
    Follower,
    /// Receives the log and has no vote.
    Learner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Candidate => "candidate",
            Role::Follower => "follower",
            Role::Learner => "learner",
        })
    }
}

/// How a leader makes sure that it still leads before it answers a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// It asks a quorum, once for all reads that wait. Rests on no clock.
    #[default]
    Index,
    /// A quorum has granted it a lease. Rests on a bound for how much clocks drift; asks a quorum when it has none.
    Lease,
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadMode::Index => "index",
            ReadMode::Lease => "lease",
        })
    }
}

/// A hash of configuration, sessions and state machine as of one entry. Equal on all sound replicas of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The last entry applied.
    pub index: Index,
    /// The hash of configuration, sessions and state right after that entry.
    pub hash: u64,
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} at entry {}", self.hash, self.index)
    }
}

impl StateDigest {
    /// The hash of what `write` writes.
    pub fn over(index: Index, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> StateDigest {
        let mut hashing = codec::Hashing::default();
        write(&mut hashing).unwrap_or_else(|error| panic!("hashing failed: {error}"));
        StateDigest { index, hash: hashing.digest() }
    }
}
