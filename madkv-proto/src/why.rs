//! What is asked of servers beside the requests of clients, as the body of
//! [`ClientRequest::Control`](crate::frames::ClientRequest::Control), and the answers: where the time of one write
//! goes, other replicas, slots that move.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::id::ClientId;
use smr::status::{EntryTimings, TimedEntry};

/// A question to a server. Grows at its end only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyRequest {
    /// Apply a command as [`ClientRequest::Write`](crate::frames::ClientRequest::Write) does, and say how long it was
    /// here. Answered with a [`TimedAnswer`].
    TimedWrite {
        /// The session.
        client: ClientId,
        /// The request's number in it.
        number: u64,
        /// The lowest number whose answer the client still waits for.
        lowest_unanswered: u64,
        /// The command.
        command: Bytes,
    },
    /// When an entry got how far here. Answered with an `Option<EntryTimings>`.
    Timings(TimedEntry),
    /// An order of the managers to the leader of a group: that these replicas be the group, and be reached by their
    /// peers at these addresses; an empty one says nothing. Answered with `Done`.
    Scale {
        /// By number.
        replicas: Vec<(u16, String)>,
    },
    /// A [`SlotCommand`](crate::slot_move::SlotCommand), as bytes, of the managers. Answered with a
    /// [`SlotReply`](crate::slot_move::SlotReply).
    MoveSlots(Bytes),
    /// A [`SlotQuery`](crate::slot_move::SlotQuery), as bytes, of the managers. Answered in the same way.
    AskSlots(Bytes),
    /// A write, also to a slot that is known to be another partition's: an earlier copy of it may have been applied
    /// here before the slot moved, and only this group's sessions tell. Either there is the answer of that copy, or the
    /// write is refused under this number for good.
    Settle {
        /// The session.
        client: ClientId,
        /// The request's number in it.
        number: u64,
        /// The lowest number whose answer the client still waits for.
        lowest_unanswered: u64,
        /// The command.
        command: Bytes,
    },
    /// How fast the parts of this replica are. Answered with a [`PaceReport`](smr_service::pace::PaceReport), by the
    /// process itself, also while its replica hangs.
    Pace,
    /// What has changed of some keys. Answered with a [`WatchAnswer`](crate::watch::WatchAnswer) and its group, or
    /// "elsewhere".
    Watch {
        /// A [`WatchQuery`](crate::watch::WatchQuery), as bytes.
        query: Bytes,
        /// How long the server may keep the question if there is nothing new, in milliseconds.
        hold_ms: u32,
    },
}

/// The answer to a write, and how long it was at the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedAnswer {
    /// The state machine's answer.
    pub answer: Bytes,
    /// From the arrival of the request at the server to its answer, in microseconds.
    pub at_server_us: u64,
}

impl WhyRequest {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// Why they are no question that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<WhyRequest, String> {
        codec::decode(bytes).map_err(|error| format!("no question to a server that this build knows: {error}"))
    }
}

impl TimedAnswer {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<TimedAnswer, String> {
        codec::decode(bytes).map_err(|error| format!("no timed answer: {error}"))
    }
}

/// What a server knows of an entry, from bytes; `None` if it does not know it.
///
/// # Errors
/// If they are something else.
pub fn decode_timings(bytes: &[u8]) -> Result<Option<EntryTimings>, String> {
    codec::decode(bytes).map_err(|error| format!("no timings: {error}"))
}
