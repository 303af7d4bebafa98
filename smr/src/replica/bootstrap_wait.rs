//! The replica thread before there is anything to drive: an uninitialized replica, or one that came too late.
//!
//! It tells every peer that it is uninitialized, again and again, until it learns how it is initialized (or is told to
//! stop). If it may be a founder it asks that the genesis be recorded, again and again. That its group exists without
//! it is durable before anything else is done with that. Whatever is asked of it meanwhile is out of service, except
//! its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use crate::entry::{EntryId, GenesisRequest, Index, Term};
use crate::epoch_service::MemberReport;
use crate::fatal::Lifeline;
use crate::id::{GroupName, NodeId, ReplicaId};
use crate::protocol::Protocol;
use crate::replica::bootstrap::{Bootstrap, BootstrapMessage, Verdict};
use crate::replica::configuration_source::{ConfigurationSource, GenesisAnswer};
use crate::replica::inbox::{Inbox, NodeInput};
use crate::replica::message::{BOOTSTRAP_MESSAGE_BYTES, PeerMessage};
use crate::replica::{Outcome, ReplyTo, Request};
use crate::report::Reporter;
use crate::status::{Advertised, ReadMode, ReplicaStatus, Role, ServiceState};
use crate::storage::{Store, Witness};
use crate::transport::{Lane, Transport, TransportEvent};

/// How often an uninitialized replica says so.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_millis(50);
/// After this long a request that no one could answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// This many answers that help nothing are nothing to talk about: managers may be starting, too.
const UNANSWERED_MAX: u32 = 10;

/// How the wait ended.
pub(super) enum Departure {
    /// The replica knows how it is initialized: as a founder or taken in.
    Initialized(Verdict),
    /// The replica must not take part any longer, for this reason.
    Disqualified(String),
    /// The replica was told to stop.
    Stopped,
}

/// What an uninitialized replica works with.
pub(super) struct BootstrapWait<'a, P: Protocol, S> {
    pub(super) group: &'a GroupName,
    pub(super) node: NodeId,
    pub(super) replicas: &'a BTreeSet<ReplicaId>,
    pub(super) service_state: ServiceState,
    pub(super) sync_mode: String,
    pub(super) inbox: &'a Inbox<P, S>,
    /// The incarnation that waits.
    pub(super) incarnation: u64,
    pub(super) transport: &'a Arc<Transport<PeerMessage<P::Message>>>,
    pub(super) reporter: &'a Reporter,
    pub(super) store: &'a mut Store,
    pub(super) source: Option<&'a Arc<dyn ConfigurationSource>>,
    /// Who says that the group exists without this replica, besides peers.
    pub(super) exclusions: &'a Receiver<Witness>,
    /// Whether the source decides who the members are: then it is told who waits.
    pub(super) has_service: bool,
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
                // If it is not wanted any more, the replica has been initialized or stopped.
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

impl<P: Protocol, S> BootstrapWait<'_, P, S> {
    /// Waits for the bootstrap.
    ///
    /// # Errors
    /// If the disk failed.
    pub(super) fn wait(mut self, mut bootstrap: Bootstrap) -> Result<Departure, String> {
        let mut asking = Asking::new();
        let mut next_call = Instant::now();
        let mut verdict = bootstrap.verdict();
        loop {
            match verdict {
                Verdict::Founder(_) | Verdict::TakenIn { .. } => return Ok(Departure::Initialized(verdict)),
                Verdict::Ask(request) => match self.source {
                    Some(source) => asking.ask(source, request),
                    None => panic!("{} asks, and no one is there to answer", self.node),
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
                next_call = now + BOOTSTRAP_INTERVAL;
                self.call(&bootstrap);
                self.ask_to_join();
            }
            self.wait_until(next_call, &asking);
            while let Ok((request, reply)) = self.inbox.requests.try_recv() {
                self.refuse(request, reply);
            }
            verdict = match self.hear(&mut bootstrap, &mut asking) {
                Ok(verdict) => verdict,
                Err(departure) => return Ok(departure),
            };
        }
    }

    /// Says to the configuration service that this node is there. Nothing follows from the answer: whoever brings it up
    /// to date calls.
    fn ask_to_join(&self) {
        let waits = matches!(self.service_state, ServiceState::Quarantined { .. });
        if let Some(source) = self.source.filter(|_| self.has_service && waits) {
            let report = MemberReport { node: self.node, epoch: Term::ZERO, last: EntryId::ZERO, reports: Vec::new() };
            source.exchange(report, Box::new(|_| {}));
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
    /// a bootstrap.
    fn hear(&self, bootstrap: &mut Bootstrap, asking: &mut Asking) -> Result<Verdict, Departure> {
        if let Ok(witness) = self.exclusions.try_recv() {
            return Ok(bootstrap.exclude(witness));
        }
        if let Some(answer) = asking.answer(Instant::now(), self.reporter) {
            return Ok(bootstrap.answered(answer));
        }
        while let Some(event) = self.inbox.next_event(self.incarnation) {
            match event {
                NodeInput::Peer(TransportEvent::Received { from, message: PeerMessage::Bootstrap(message) }) => {
                    let before = bootstrap.message();
                    let verdict = bootstrap.receive(from, &message);
                    // The other one may wait for nothing but this.
                    if let BootstrapMessage::Uninitialized { .. } = message
                        && (matches!(verdict, Verdict::Founder(_) | Verdict::Ask(_)) || bootstrap.message() != before)
                    {
                        self.call(bootstrap);
                    }
                    return Ok(verdict);
                }
                NodeInput::Peer(TransportEvent::Disconnected { peer }) => bootstrap.disconnected(peer),
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
        Ok(bootstrap.verdict())
    }

    fn call(&self, bootstrap: &Bootstrap) {
        for &name in self.replicas.iter().filter(|&&name| name != self.node.name) {
            if let Some(incarnation) = self.transport.incarnation_of(name) {
                let to = NodeId { name, incarnation };
                self.transport.send(
                    to,
                    PeerMessage::Bootstrap(bootstrap.message()),
                    Lane::Urgent,
                    BOOTSTRAP_MESSAGE_BYTES,
                );
            }
        }
    }

    /// Durable before anyone is told, and before anything else is done with it.
    fn excluded(&mut self, witness: Witness) -> Result<(), String> {
        self.store.exclude(witness).map_err(|error| format!("disk failed: {error}"))?;
        self.turned_away(Bootstrap::excluded_because(self.group, self.node, witness));
        Ok(())
    }

    fn turned_away(&mut self, reason: String) {
        if self.service_state == ServiceState::Uninitialized {
            self.reporter.line(&format!("quarantined: {reason}"));
            self.service_state = ServiceState::Quarantined { reason };
        }
    }

    fn refuse(&self, request: Request, reply: ReplyTo) {
        let outcome = match request {
            Request::Status => Outcome::Status(Box::new(self.status())),
            _ => Outcome::OutOfService(match &self.service_state {
                ServiceState::Quarantined { reason } => format!("quarantined: {reason}"),
                ServiceState::Uninitialized | ServiceState::InService => "waits for its group to be founded".to_owned(),
            }),
        };
        reply.send(outcome);
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            group: self.group.clone(),
            node: self.node,
            service_state: self.service_state.clone(),
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
