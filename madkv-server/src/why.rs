//! What is asked of a server beside requests of clients: where the time of a write goes, other replicas, slots that
//! move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::slot_move::{SlotCommand, SlotQuery, decode_elsewhere, encode_settled};
use madkv_proto::watch::WatchQuery;
use madkv_proto::why::{TimedAnswer, WhyRequest};
use smr::id::ReplicaId;
use smr::replica::{Outcome, ReplySink, ReplyTo};
use smr::status::TimedEntry;

/// What a request is, once a question of this kind is unpacked.
pub enum Asked {
    /// Any other request.
    Plain(ClientRequest),
    /// A write whose time here is to be told.
    Timed(ClientRequest),
    /// When an entry got how far.
    Timings(TimedEntry),
    /// Other replicas, with the addresses of some.
    Scale(BTreeMap<ReplicaId, String>),
    /// A step of a move of slots: a command that may come again.
    MoveSlots(Bytes),
    /// A question about slots that move.
    AskSlots(Bytes),
    /// A write, whoever owns its key.
    Settle(ClientRequest),
    /// How fast the parts of the replica are.
    Pace,
    /// What has changed of some keys, and for how long to wait for that, in milliseconds.
    Watch(WatchQuery, u32),
}

/// Unpacks a request.
///
/// # Errors
/// The answer to the client, if it asks what this build does not know.
pub fn unpacked(ask: ClientRequest) -> Result<Asked, ClientResponse> {
    let ClientRequest::Control(bytes) = ask else { return Ok(Asked::Plain(ask)) };
    match WhyRequest::decode(&bytes).map_err(ClientResponse::Refused)? {
        WhyRequest::TimedWrite { client, number, lowest_unanswered, command } => {
            Ok(Asked::Timed(ClientRequest::Write { client, number, lowest_unanswered, command }))
        }
        WhyRequest::Timings(which) => Ok(Asked::Timings(which)),
        WhyRequest::MoveSlots(command) => match SlotCommand::decode(&command) {
            Some(_) => Ok(Asked::MoveSlots(command)),
            None => Err(ClientResponse::Refused("no step of a move that this build knows".to_owned())),
        },
        WhyRequest::AskSlots(query) => match SlotQuery::decode(&query) {
            Some(_) => Ok(Asked::AskSlots(query)),
            None => Err(ClientResponse::Refused("no question about a move that this build knows".to_owned())),
        },
        WhyRequest::Settle { client, number, lowest_unanswered, command } => {
            Ok(Asked::Settle(ClientRequest::Write { client, number, lowest_unanswered, command }))
        }
        WhyRequest::Pace => Ok(Asked::Pace),
        WhyRequest::Watch { query, hold_ms } => match WatchQuery::decode(&query) {
            Some(query) => Ok(Asked::Watch(query, hold_ms)),
            None => Err(ClientResponse::Refused("no watch that this build knows".to_owned())),
        },
        WhyRequest::Scale { replicas } => {
            Ok(Asked::Scale(replicas.into_iter().map(|(name, address)| (ReplicaId(name), address)).collect()))
        }
    }
}

/// Lets the answer say how long the request has been here, from now on.
pub fn timed(reply: ReplyTo) -> ReplyTo {
    let arrived = Instant::now();
    answering(reply, move |answer| {
        if decode_elsewhere(&answer).is_some() {
            return answer;
        }
        let at_server_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        TimedAnswer { answer, at_server_us }.encode()
    })
}

/// Lets the answer say that it is the one to a write that was to be settled.
pub fn settled(reply: ReplyTo) -> ReplyTo {
    answering(reply, |answer| encode_settled(&answer))
}

pub(crate) fn answering(reply: ReplyTo, tell: impl Fn(Bytes) -> Bytes + Send + Sync + 'static) -> ReplyTo {
    ReplyTo { tag: reply.tag, sink: Arc::new(ToldReply { tell: Box::new(tell), inner: reply }) }
}

/// Tells answers in other words.
struct ToldReply {
    tell: Box<dyn Fn(Bytes) -> Bytes + Send + Sync>,
    inner: ReplyTo,
}

impl ToldReply {
    fn told(&self, outcome: Outcome) -> Outcome {
        let Outcome::Answer(answer) = outcome else { return outcome };
        Outcome::Answer((self.tell)(answer))
    }
}

impl ReplySink for ToldReply {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        self.inner.sink.deliver(tag, self.told(outcome));
    }

    fn deliver_now(&self, tag: u64, outcome: Outcome) {
        self.inner.sink.deliver_now(tag, self.told(outcome));
    }

    fn has_room(&self) -> bool {
        self.inner.sink.has_room()
    }

    fn reserve(&self, tag: u64, bytes: usize) -> bool {
        self.inner.sink.reserve(tag, bytes)
    }

    fn begin_parts(&self, tag: u64) -> bool {
        self.inner.sink.begin_parts(tag)
    }

    fn poll_room(&self, tag: u64, context: &mut Context<'_>) -> Poll<bool> {
        self.inner.sink.poll_room(tag, context)
    }

    fn deliver_part(&self, tag: u64, part: Bytes) -> bool {
        self.inner.sink.deliver_part(tag, part)
    }
}
