//! The replica thread before there is anything to drive: an unborn replica, or one that came too late.
//!
//! It tells every peer that it is unborn, again and again, until it learns how it is born (or is told to stop).
//! Whatever is asked of it meanwhile is out of service, except its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{EntryId, Index, Term};
use crate::id::{GroupName, NodeId, NodeName};
use crate::protocol::{Protocol, ReadMode, Role};
use crate::replica::birth::{BirthMessage, Unborn, Verdict};
use crate::replica::driver::{Happening, Inbox};
use crate::replica::message::{BIRTH_MESSAGE_BYTES, PeerMessage};
use crate::replica::{Advertised, Outcome, ReplicaStatus, ReplyTo, Request, Standing};
use crate::report::Reporter;
use crate::transport::{Lane, Transport, TransportEvent};

/// How often an unborn replica says so.
const BIRTH_INTERVAL: Duration = Duration::from_millis(50);

/// How the wait ended.
pub(super) enum Departure {
    /// The replica knows how it is born: as a founder or taken in, never `Wait` or `Stranger`.
    Birth(Verdict),
    /// The replica was told to stop.
    Stopped,
}

/// What an unborn replica works with.
pub(super) struct WaitingRoom<'a, P: Protocol, S> {
    pub(super) group: &'a GroupName,
    pub(super) node: NodeId,
    pub(super) seats: &'a BTreeSet<NodeName>,
    pub(super) standing: Standing,
    pub(super) sync_mode: String,
    pub(super) inbox: &'a Inbox<P, S>,
    pub(super) transport: &'a Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) reporter: &'a Reporter,
}

impl<P: Protocol, S> WaitingRoom<'_, P, S> {
    /// Waits for the birth.
    pub(super) fn wait(mut self, mut unborn: Unborn) -> Departure {
        let mut next_call = std::time::Instant::now();
        let mut verdict = unborn.verdict();
        loop {
            match verdict {
                Verdict::Founder(_) | Verdict::TakenIn(_) => return Departure::Birth(verdict),
                Verdict::Stranger(reason) => self.turned_away(reason),
                Verdict::Wait => {}
            }
            verdict = Verdict::Wait;
            let now = std::time::Instant::now();
            if now >= next_call {
                next_call = now + BIRTH_INTERVAL;
                self.call(&unborn);
            }
            self.inbox.wait(next_call.saturating_duration_since(now));
            while let Ok((request, reply)) = self.inbox.requests.try_recv() {
                self.refuse(request, reply);
            }
            while let Ok(event) = self.inbox.events.try_recv() {
                match event {
                    Happening::Peer(TransportEvent::Received { from, message: PeerMessage::Birth(message) }) => {
                        verdict = unborn.receive(from, &message);
                        // The other one may wait for nothing but this.
                        if let BirthMessage::Unborn { .. } = message
                            && let Verdict::Founder(_) = verdict
                        {
                            self.call(&unborn);
                        }
                        break;
                    }
                    Happening::Peer(TransportEvent::Refused { peer, reason }) => {
                        self.reporter.line(&format!("replica {peer} and this one do not fit together: {reason}"));
                    }
                    Happening::Shutdown(done) => {
                        let _ = done.send(());
                        return Departure::Stopped;
                    }
                    // Nothing else concerns one who is no member.
                    _ => {}
                }
            }
        }
    }

    fn call(&self, unborn: &Unborn) {
        for &name in self.seats.iter().filter(|&&name| name != self.node.name) {
            if let Some(incarnation) = self.transport.incarnation_of(name) {
                let to = NodeId { name, incarnation };
                self.transport.send(to, PeerMessage::Birth(unborn.message()), Lane::Urgent, BIRTH_MESSAGE_BYTES);
            }
        }
    }

    fn turned_away(&mut self, reason: String) {
        if self.standing == Standing::Unborn {
            self.reporter.line(&format!("quarantined: {reason}"));
            self.standing = Standing::Quarantined { reason };
        }
    }

    fn refuse(&self, request: Request, reply: ReplyTo) {
        let outcome = match request {
            Request::Status => Outcome::Status(Box::new(self.status())),
            _ => Outcome::OutOfService(match &self.standing {
                Standing::Quarantined { reason } => format!("quarantined: {reason}"),
                Standing::Unborn | Standing::InService => "waits for its group to be founded".to_owned(),
            }),
        };
        reply.send(outcome);
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            group: self.group.clone(),
            node: self.node,
            standing: self.standing.clone(),
            role: Role::Learner,
            term: Term::ZERO,
            leader: None,
            snapshot: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            log_bytes: 0,
            sessions: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            digest: None,
            sync_mode: self.sync_mode.clone(),
            reads: ReadMode::default(),
            peers: Vec::new(),
            advertised: Advertised::Unknown,
        }
    }
}
