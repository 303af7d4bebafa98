//! What a listener may ask of a replica, and what it hears back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::entry::Term;
use crate::id::{ClientId, ReplicaId};
use crate::protocol::NotHere;
use crate::status::{ReplicaStatus, TimedEntry};

/// What can be asked of a replica. Each request gets exactly one [`Outcome`] through its [`ReplyTo`].
#[derive(Clone, Debug)]
pub enum Request {
    /// Open a session. Repeating it is harmless: an abandoned session is evicted some day.
    OpenSession,
    /// Apply a command exactly once.
    Write {
        /// The session.
        client: ClientId,
        /// The request's number in the session, from 1.
        number: u64,
        /// The lowest number whose answer the client still waits for; answers below it are forgotten.
        lowest_unanswered: u64,
        /// For the state machine.
        command: Bytes,
    },
    /// Apply a command whose repetition is harmless, without a session.
    Idempotent {
        /// For the state machine.
        command: Bytes,
    },
    /// Answer a query, linearizably.
    Read {
        /// For the state machine.
        query: Bytes,
    },
    /// Answer a query from whatever is applied here, however old; also without a quorum.
    LocalRead {
        /// For the state machine.
        query: Bytes,
    },
    /// Describe the replica.
    Status,
    /// When an entry got how far here. The answer is an `Option<EntryTimings>`, encoded by [`crate::codec`].
    Timings(TimedEntry),
    /// Hand leadership to another replica.
    Transfer {
        /// The new leader.
        to: ReplicaId,
    },
    /// Let these replicas be the group from now on, each reached by its peers at this address; an empty one says
    /// nothing. Newcomers catch up first; whoever is not named leaves. With the same replicas only addresses change.
    Scale {
        /// By replica.
        replicas: BTreeMap<ReplicaId, String>,
    },
    /// Put the present incarnation of this replica into the place of the one that the configuration names.
    Readmit {
        /// The replica.
        name: ReplicaId,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was applied, or read; this is the state machine's answer.
    Answer(Bytes),
    /// A session was opened; requests in it are numbered under this id.
    SessionOpened(ClientId),
    /// What the replica says of itself.
    Status(Box<ReplicaStatus>),
    /// What the operator asked for was done (transfer, readmission).
    Done,
    /// Not done, and it never will be: ask the leader.
    NotLeader(NotLeader),
    /// Not done: too much is waiting. Try again after this many milliseconds.
    Busy {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// Not done: the leader's disk is full. What makes the state smaller is taken
    /// ([`crate::state_machine::StateMachine::frees`]), and everything once there is room again.
    DiskFull,
    /// Not done: the command or query is larger than the limit.
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u32,
    },
    /// Not applied: the session does not exist (any more). Whether an earlier copy of the request was applied is
    /// unknown.
    SessionExpired,
    /// It was applied once, but the answer is no longer stored.
    AnswerGone,
    /// Refused without effect: the request makes no sense, or what the operator asks for cannot be done.
    Refused(String),
    /// The replica lost its leadership after it proposed the command: it may or may not take effect.
    Unknown,
    /// Not done: the replica is not in service (uninitialized or quarantined), with the reason.
    OutOfService(String),
}

/// Whom to ask instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeader {
    /// Who leads, as far as this replica knows.
    pub leader: Option<ReplicaId>,
    /// The term in which it does.
    pub term: Term,
}

impl From<NotHere> for NotLeader {
    fn from(NotHere { at, term }: NotHere) -> NotLeader {
        NotLeader { leader: at, term }
    }
}

/// Takes requests: a running replica, or what stands in for one in a simulation.
pub trait Submit: Send + Sync + 'static {
    /// Takes a request, which may wait for [`Submit::flush`]; never blocks. Its outcome comes through `reply`.
    fn queue(&self, request: Request, reply: ReplyTo);

    /// Sees to what was queued, perhaps on this very thread, which then takes the time of a few turns; never waits.
    fn flush(&self) {}

    /// Takes a request and sees to it.
    fn submit(&self, request: Request, reply: ReplyTo) {
        self.queue(request, reply);
        self.flush();
    }
}

/// Where the outcome of a request goes: the queue of a connection, with the request's number there.
#[derive(Clone)]
pub struct ReplyTo {
    /// The request's number, chosen by the connection.
    pub tag: u64,
    /// The connection's queue.
    pub sink: Arc<dyn ReplySink>,
}

impl ReplyTo {
    /// Delivers the outcome.
    pub fn send(self, outcome: Outcome) {
        self.sink.deliver(self.tag, outcome);
    }
}

/// A connection's queue of outcomes.
pub trait ReplySink: Send + Sync + 'static {
    /// Takes the outcome of request `tag`. Called exactly once for each request, from the replica's threads: never
    /// blocks. The connection bounds its requests, so it has room.
    fn deliver(&self, tag: u64, outcome: Outcome);

    /// Like [`ReplySink::deliver`], for one of very few outcomes of its turn: the sink may pass it on at once, with a
    /// system call. For a lone request that is quicker than waking someone.
    fn deliver_now(&self, tag: u64, outcome: Outcome) {
        self.deliver(tag, outcome);
    }

    /// Whether an answer would be taken now. A read whose sink has no room is `Busy` without having been looked at.
    fn has_room(&self) -> bool {
        true
    }

    /// Keeps room for an answer of this many bytes to request `tag` until it is delivered, at the end of the turn.
    /// False if there is none: the read is then `Busy`.
    fn reserve(&self, _tag: u64, _bytes: usize) -> bool {
        true
    }

    /// The answer to request `tag` will be a long one, in parts. False if the connection has too many of these under
    /// way.
    fn begin_parts(&self, _tag: u64) -> bool {
        true
    }

    /// Whether there is room for a part of the answer to request `tag`; false if no one listens any more.
    fn poll_room(&self, _tag: u64, _context: &mut Context<'_>) -> Poll<bool> {
        Poll::Ready(true)
    }

    /// Takes a part of a long answer, for which there was room; more follow, and at last an [`Outcome::Answer`] through
    /// [`ReplySink::deliver`]. Never blocks. False if no one listens any more.
    fn deliver_part(&self, tag: u64, part: Bytes) -> bool;
}
