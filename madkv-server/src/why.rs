//! What is asked of a server beside requests of clients: where the time of a write goes, and other replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use madkv_proto::frames::{ClientRequest, ClientResponse};
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
        WhyRequest::Scale { replicas } => {
            Ok(Asked::Scale(replicas.into_iter().map(|(name, address)| (ReplicaId(name), address)).collect()))
        }
    }
}

/// Lets the answer say how long the request has been here, from now on.
pub fn timed(reply: ReplyTo) -> ReplyTo {
    ReplyTo { tag: reply.tag, sink: Arc::new(TimedReply { arrived: Instant::now(), inner: reply }) }
}

struct TimedReply {
    arrived: Instant,
    inner: ReplyTo,
}

impl TimedReply {
    fn told(&self, outcome: Outcome) -> Outcome {
        let Outcome::Answer(answer) = outcome else { return outcome };
        let at_server_us = u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        Outcome::Answer(TimedAnswer { answer, at_server_us }.encode())
    }
}

impl ReplySink for TimedReply {
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
