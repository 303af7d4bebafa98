//! The replica thread before there is anything to drive: an unborn replica, or one that came too late.
//!
//! It tells every peer that it is unborn, again and again, until it learns how it is born (or is told to stop). If it
//! may be a founder it asks that the genesis be recorded, again and again. That its group exists without it is durable
//! before anything else is done with that. Whatever is asked of it meanwhile is out of service, except its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use crate::entry::{EntryId, GenesisRequest, Index, Term};
use crate::fatal::Lifeline;
use crate::id::{GroupName, NodeId, ReplicaId};
use crate::protocol::Protocol;
use crate::replica::birth::{BirthMessage, Unborn, Verdict};
use crate::replica::configuration_source::{ConfigurationSource, GenesisAnswer};
use crate::replica::inbox::{Inbox, NodeInput};
use crate::replica::message::{BIRTH_MESSAGE_BYTES, PeerMessage};
use crate::replica::{Outcome, ReplyTo, Request};
use crate::report::Reporter;
use crate::status::{Advertised, ReadMode, ReplicaStatus, Role, Standing};
use crate::storage::{Store, Witness};
use crate::transport::{Lane, Transport, TransportEvent};

/// How often an unborn replica says so.
const BIRTH_INTERVAL: Duration = Duration::from_millis(50);
/// After this long a request that nobody could answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// So many answers that help nothing are nothing to talk about: managers may be starting, too.
const UNANSWERED_MAX: u32 = 10;

/// How the wait ended.
pub(super) enum Departure {
    /// The replica knows how it is born: as a founder or taken in.
    Birth(Verdict),
    /// The replica must not take part any longer, for this reason.
    Disqualified(String),
    /// The replica was told to stop.
    Stopped,
}

/// What an unborn replica works with.
pub(super) struct WaitingRoom<'a, P: Protocol, S> {
    pub(super) group: &'a GroupName,
    pub(super) node: NodeId,
    pub(super) replicas: &'a BTreeSet<ReplicaId>,
    pub(super) standing: Standing,
    pub(super) sync_mode: String,
    pub(super) inbox: &'a Inbox<P, S>,
    /// The life that waits.
    pub(super) life: u64,
    pub(super) transport: &'a Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) reporter: &'a Reporter,
    pub(super) store: &'a mut Store,
    pub(super) source: Option<&'a Arc<dyn ConfigurationSource>>,
    /// Who says that the group exists without this replica, besides peers.
    pub(super) exclusions: &'a Receiver<Witness>,
    pub(super) lifeline: &'a Lifeline,
}

/// The request to record a genesis.
struct Asking {
    answers: (Sender<GenesisAnswer>, Receiver<GenesisAnswer>),
    /// When an answer that helps nothing counts, and the next request may follow.
    not_yet: Option<(Instant, GenesisAnswer)>,
    in_vain: u32,
}

impl Asking {
    fn new() -> Asking {
        // One request at a time is under way.
        Asking { answers: bounded(1), not_yet: None, in_vain: 0 }
    }

    fn ask(&self, source: &Arc<dyn ConfigurationSource>, request: GenesisRequest) {
        let answers = self.answers.0.clone();
        source.record_genesis(
            request,
            Box::new(move |answer| {
                // If it is not wanted any more, the replica has been born or stopped.
                let _ = answers.try_send(answer);
            }),
        );
    }

    /// The answer that counts now, if there is one.
    fn answer(&mut self, now: Instant, reporter: &Reporter) -> Option<GenesisAnswer> {
        match self.answers.1.try_recv() {
            Ok(answer @ GenesisAnswer::NotYet(_)) => {
                self.in_vain += 1;
                if self.in_vain == UNANSWERED_MAX
                    && let GenesisAnswer::NotYet(reason) = &answer
                {
                    reporter.line(&format!("waits until a majority of the managers has recorded its group ({reason})"));
                }
                self.not_yet = Some((now + ASK_AGAIN, answer));
            }
            Ok(answer) => return Some(answer),
            Err(_) => {}
        }
        let due = self.not_yet.as_ref().is_some_and(|(at, _)| *at <= now);
        if due { self.not_yet.take().map(|(_, answer)| answer) } else { None }
    }
}

impl<P: Protocol, S> WaitingRoom<'_, P, S> {
    /// Waits for the birth.
    ///
    /// # Errors
    /// If the disk failed.
    pub(super) fn wait(mut self, mut unborn: Unborn) -> Result<Departure, String> {
        let mut asking = Asking::new();
        let mut next_call = Instant::now();
        let mut verdict = unborn.verdict();
        loop {
            match verdict {
                Verdict::Founder(_) | Verdict::TakenIn { .. } => return Ok(Departure::Birth(verdict)),
                Verdict::Ask(request) => match self.source {
                    Some(source) => asking.ask(source, request),
                    None => panic!("{} asks, and nobody is there to answer", self.node),
                },
                Verdict::Excluded(witness) => self.excluded(witness)?,
                Verdict::Stranger(reason) => self.turned_away(reason),
                Verdict::Wait => {}
            }
            if self.lifeline.has_failed() {
                return Err("a part of the replica has failed".to_owned());
            }
            let now = Instant::now();
            if now >= next_call {
                next_call = now + BIRTH_INTERVAL;
                self.call(&unborn);
            }
            self.wait_until(next_call, &asking);
            while let Ok((request, reply)) = self.inbox.requests.try_recv() {
                self.refuse(request, reply);
            }
            verdict = match self.hear(&mut unborn, &mut asking) {
                Ok(verdict) => verdict,
                Err(departure) => return Ok(departure),
            };
        }
    }

    /// Waits until something has arrived.
    fn wait_until(&self, at: Instant, asking: &Asking) {
        let mut select = Select::new();
        select.recv(&self.inbox.events);
        select.recv(&self.inbox.requests);
        select.recv(&asking.answers.1);
        select.recv(self.exclusions);
        // Ready or not, the caller looks at all of them.
        let _ = select.ready_deadline(at);
    }

    /// Takes in what has arrived, up to the first thing from which something follows. `Err` if the wait is over without
    /// a birth.
    fn hear(&self, unborn: &mut Unborn, asking: &mut Asking) -> Result<Verdict, Departure> {
        if let Ok(witness) = self.exclusions.try_recv() {
            return Ok(unborn.exclude(witness));
        }
        if let Some(answer) = asking.answer(Instant::now(), self.reporter) {
            return Ok(unborn.answered(answer));
        }
        while let Some(event) = self.inbox.next_event(self.life) {
            match event {
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Birth(message) }) => {
                    let before = unborn.message();
                    let verdict = unborn.receive(from, &message);
                    // The other one may wait for nothing but this.
                    if let BirthMessage::Unborn { .. } = message
                        && (matches!(verdict, Verdict::Founder(_) | Verdict::Ask(_)) || unborn.message() != before)
                    {
                        self.call(unborn);
                    }
                    return Ok(verdict);
                }
                NodeInput::Peer(TransportEvent::Disconnected { peer }) => unborn.disconnected(peer),
                NodeInput::Peer(TransportEvent::Refused { peer, reason }) => {
                    self.reporter.line(&format!("replica {peer} and this one do not fit together: {reason}"));
                }
                NodeInput::Peer(TransportEvent::Disqualified { by, why }) => {
                    return Err(Departure::Disqualified(why.said_by(&format!("replica {by}"))));
                }
                NodeInput::Disqualified(reason) => return Err(Departure::Disqualified(reason)),
                NodeInput::Shutdown(done) => {
                    // No one may be waiting for it any more.
                    let _ = done.send(());
                    return Err(Departure::Stopped);
                }
                // Nothing else concerns one who is no member.
                _ => {}
            }
        }
        Ok(unborn.verdict())
    }

    fn call(&self, unborn: &Unborn) {
        for &name in self.replicas.iter().filter(|&&name| name != self.node.name) {
            if let Some(incarnation) = self.transport.incarnation_of(name) {
                let to = NodeId { name, incarnation };
                self.transport.send(to, PeerMessage::Birth(unborn.message()), Lane::Urgent, BIRTH_MESSAGE_BYTES);
            }
        }
    }

    /// Durable before anybody is told, and before anything else is done with it.
    fn excluded(&mut self, witness: Witness) -> Result<(), String> {
        self.store.exclude(witness).map_err(|error| format!("disk failed: {error}"))?;
        self.turned_away(Unborn::excluded_because(self.group, self.node, witness));
        Ok(())
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
