//! What happens in a run, as the books and the properties hear of it.

use smr::entry::{Entry, EntryId, Genesis, GenesisHash, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::{Recovered, Write};
use smr::internals::raft::Message;
use smr::replica::{Outcome, Request};
use smr::status::Role;

use crate::network::Endpoint;

/// Something that happened. References live as long as the call.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A process began to serve with what it found on its disk.
    Started {
        /// The node.
        node: NodeId,
        /// What it found.
        recovered: &'a Recovered,
        /// Term and vote, snapshot and log may be older than what it saved: an experiment set its directory back or
        /// damaged it, and nothing that it saved before counts any more.
        forgot: bool,
    },
    /// A process waits for its group to be founded, or to be taken in.
    Waits {
        /// The node.
        node: NodeId,
    },
    /// A node has heard that its group exists without it, and has made that durable.
    Excluded {
        /// The node.
        node: NodeId,
    },
    /// A node is about to be initialized as a founder.
    Founds {
        /// The node.
        node: NodeId,
        /// The group's genesis.
        genesis: &'a Genesis,
        /// Which genesis is recorded for the group at this moment; `None` for a group whose genesis no one records.
        recorded: Option<Option<GenesisHash>>,
    },
    /// The operator has told all replicas, which have no data, that the group begins again.
    ToldToFoundAnew,
    /// A process ended.
    Ended {
        /// The node.
        node: NodeId,
        /// How it ended.
        end: &'a End,
    },
    /// A directory was emptied, damaged or set back by an experiment; the process was ended before.
    DirectorySpoiled {
        /// The node that lived there.
        node: NodeId,
        /// What was done.
        how: Spoiled,
    },
    /// A message leaves a node, whatever the network makes of it.
    Sent {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// The message.
        message: &'a Message,
    },
    /// A message has reached a node's core; what follows from it is told later.
    Received {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// The message.
        message: &'a Message,
    },
    /// The core asked for a write.
    WriteIssued {
        /// The node.
        node: NodeId,
        /// The write.
        write: &'a Write<Message>,
    },
    /// A write has reached the device. The messages inside leave after this.
    WriteDurable {
        /// The node.
        node: NodeId,
        /// The write.
        write: &'a Write<Message>,
    },
    /// A node's core knows an entry to be committed.
    Committed {
        /// The node.
        node: NodeId,
        /// The entry.
        entry: &'a Entry,
    },
    /// A node applied an entry.
    Applied {
        /// The node.
        node: NodeId,
        /// The entry.
        entry: &'a Entry,
        /// Whether its command reached the state machine (no duplicate, no refusal, no entry without a command).
        took_effect: bool,
        /// A hash of all commands that took effect so far, their places and answers.
        digest: u64,
        /// A hash of the whole state after this entry, now and then; at the same entries on all replicas.
        deep: Option<u64>,
    },
    /// A node's role, its term or the leader it knows has changed.
    RoleChanged {
        /// The node.
        node: NodeId,
        /// Its role now.
        role: Role,
        /// Its term now.
        term: Term,
        /// The leader now, if one is known.
        leader: Option<NodeId>,
    },
    /// A node found out that it forgot something (M8), and goes into quarantine.
    Forgot {
        /// The node.
        node: NodeId,
        /// The reason.
        reason: &'a str,
    },
    /// A node has written a snapshot of its own.
    SnapshotTaken {
        /// The node.
        node: NodeId,
        /// Where it ends; the file may be obsolete already.
        last: EntryId,
        /// A hash over the payload of the file, sessions and state; 0 if it was obsolete before it was written.
        checksum: u64,
    },
    /// A received snapshot was offered to the engine.
    SnapshotInstalled {
        /// The node.
        node: NodeId,
        /// Where it ends, and who is a member there.
        meta: &'a SnapshotMeta,
        /// Whether it replaced the state; its write is issued after this.
        accepted: bool,
    },
    /// A transfer of a snapshot ended.
    SnapshotSent {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// Where it ends, if it arrived.
        last: Option<EntryId>,
    },
    /// A request reached a process.
    Asked {
        /// The node.
        node: NodeId,
        /// Names the request; unique in the run.
        tag: u64,
        /// The request.
        request: &'a Request,
    },
    /// A process gave a request its outcome.
    Answered {
        /// The node.
        node: NodeId,
        /// Names the request.
        tag: u64,
        /// The outcome.
        outcome: &'a Outcome,
    },
    /// A link was cut, one way.
    Cut {
        /// From here.
        from: Endpoint,
        /// To there.
        to: Endpoint,
    },
    /// All cut links carry again.
    CutsHealed,
    /// All faults are over: from here on progress is judged, of the replicas that are meant to be healthy.
    Calm,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed: what was written stays written.
    Killed,
    /// The power went: what was not synced is kept, lost or torn.
    PowerCut,
    /// Its device failed, and it ended itself.
    DiskError(String),
    /// It went into quarantine.
    Quarantined(String),
}

/// What was done to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiled {
    /// It is empty: the next process there is another node.
    Emptied,
    /// Something in it was changed: it will be quarantined.
    Damaged,
    /// It is as it was some time ago.
    SetBack,
}
