//! What an operator asks of a Raft group: transfers of leadership, readmissions, and other members.
//!
//! Only the leader knows of what is under way; if it loses its role the operator asks again, and the next leader goes
//! on from the configuration in force.

use std::sync::Arc;

use bytes::Bytes;

use super::readmission::{ConnectedPeers, READMISSION_UNDER_WAY, Readmission, Step};
use super::scaling::{self, CHANGE_UNDER_WAY, Scaling};
use super::{Admin, AdminContext, AdminRequest};
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{CoreStatus, NotHere, PeerStatus, Route, Routing, Time};
use crate::raft::{Change, ChangeRefused, Control, TransferRefused};
use crate::replica::{Outcome, ReplySink, ReplyTo, Tuning};
use crate::session::Addresses;

/// How long the operator waits for a transfer of leadership before it counts as failed, in microseconds.
const TRANSFER_TIMEOUT_US: u64 = 5_000_000;
/// Why a transfer failed.
const TRANSFER_TIMED_OUT: &str = "the target did not take over in time";
/// How often what is under way is looked after, in microseconds.
const TICK_INTERVAL_US: u64 = 50_000;
/// A member that was heard within this time may take over, in microseconds.
const HEARD_LATELY_US: u64 = 500_000;

/// A transfer of leadership that an operator waits for.
struct PendingTransfer {
    to: ReplicaId,
    reply: ReplyTo,
    give_up_at: Time,
}

/// See the module.
#[derive(Default)]
pub struct RaftAdmin {
    transfer: Option<PendingTransfer>,
    readmission: Option<(Readmission, ReplyTo)>,
    scaling: Option<(Scaling, ReplyTo)>,
    connected_peers: ConnectedPeers,
    tick_at: Option<Time>,
}

impl<P: Control> Admin<P> for RaftAdmin {
    fn begin(&mut self, context: AdminContext<'_, P>, request: AdminRequest, reply: ReplyTo) {
        match request {
            AdminRequest::Transfer { to } => self.begin_transfer(context, to, reply),
            AdminRequest::Readmit { name } => self.begin_readmission(context, name, reply),
            AdminRequest::Scale { replicas } => self.begin_scaling(context, replicas, reply),
        }
    }

    /// A leader of before has members of before: asked for these it would call them done.
    fn needs_confirmation(&self, request: &AdminRequest) -> bool {
        matches!(request, AdminRequest::Scale { .. })
    }

    fn tick(&mut self, mut context: AdminContext<'_, P>) {
        self.tick_at = None;
        self.look_after(&mut context);
    }

    fn next_tick(&self) -> Option<Time> {
        self.tick_at
    }

    fn tune(&mut self, context: AdminContext<'_, P>, tuning: &Tuning) {
        let us = tuning.election_timeout_ms.saturating_mul(1000);
        if let Err(error) = context.core.set_election_timeout(us) {
            context
                .lines
                .push(format!("an election timeout of {} ms is not used: {error}", tuning.election_timeout_ms));
        }
    }

    fn waiting(&self) -> usize {
        [self.transfer.is_some(), self.readmission.is_some(), self.scaling.is_some()].map(usize::from).iter().sum()
    }

    fn met(&mut self, now: Time, node: NodeId) {
        self.connected_peers.met(now, node);
    }

    fn routing_changed(&mut self, routing: &Routing) {
        if let (Some(transfer), Route::There(Some(leader))) = (&self.transfer, routing.writes) {
            let outcome = if leader == transfer.to {
                Outcome::Done
            } else {
                Outcome::Refused(format!("replica {leader} leads instead"))
            };
            self.end_transfer(outcome);
        }
    }

    fn transfer_failed(&mut self) {
        self.end_transfer(Outcome::Refused(TRANSFER_TIMED_OUT.to_owned()));
    }

    /// A leader hands over to the best of the others ([`successor`]).
    fn hand_over(&mut self, context: AdminContext<'_, P>) -> bool {
        let Some(to) = successor(context.now, &context.core.status()) else { return false };
        self.begin_transfer(context, to.name, ReplyTo { tag: 0, sink: Arc::new(NoOneWaits) });
        true
    }

    fn stop(&mut self, lines: &mut Vec<String>) {
        self.end_transfer(Outcome::Unknown);
        self.end_readmission(Outcome::Unknown, lines);
        self.end_scaling(Outcome::Unknown, lines);
    }
}

impl RaftAdmin {
    fn begin_transfer<P: Control>(&mut self, context: AdminContext<'_, P>, to: ReplicaId, reply: ReplyTo) {
        let AdminContext { now, core, effects, .. } = context;
        if self.transfer.is_some() {
            return reply.send(Outcome::Refused("another transfer is under way".to_owned()));
        }
        match core.transfer(now, to, effects) {
            Ok(()) => {
                self.transfer = Some(PendingTransfer { to, reply, give_up_at: now.plus_us(TRANSFER_TIMEOUT_US) });
                self.schedule_tick(now);
            }
            Err(TransferRefused::NotLeader(not_here)) => reply.send(Outcome::NotLeader(not_here.into())),
            Err(refused) => reply.send(Outcome::Refused(refused.to_string())),
        }
    }

    fn end_transfer(&mut self, outcome: Outcome) {
        if let Some(transfer) = self.transfer.take() {
            transfer.reply.send(outcome);
        }
    }

    fn begin_readmission<P: Control>(&mut self, mut context: AdminContext<'_, P>, name: ReplicaId, reply: ReplyTo) {
        let now = context.now;
        let Routing { term, writes, .. } = context.core.routing();
        if let Route::There(at) = writes {
            return reply.send(Outcome::NotLeader(NotHere { at, term }.into()));
        }
        if self.scaling.is_some() {
            return reply.send(Outcome::Refused(CHANGE_UNDER_WAY.to_owned()));
        }
        let status = context.core.status();
        if let Some((readmission, _)) = &self.readmission {
            let Some(why) = readmission.gives_way(now, name, &status, &self.connected_peers) else {
                return reply.send(Outcome::Refused(READMISSION_UNDER_WAY.to_owned()));
            };
            self.end_readmission(Outcome::Refused(why), context.lines);
        }
        match Readmission::start(now, name, &status, &self.connected_peers) {
            Ok(readmission) => {
                context.lines.push(format!("readmission of {} begins", readmission.describe()));
                self.readmission = Some((readmission, reply));
                self.look_after(&mut context);
            }
            Err(outcome) => reply.send(outcome),
        }
    }

    fn begin_scaling<P: Control>(&mut self, mut context: AdminContext<'_, P>, replicas: Addresses, reply: ReplyTo) {
        let Routing { term, writes, .. } = context.core.routing();
        if let Route::There(at) = writes {
            return reply.send(Outcome::NotLeader(NotHere { at, term }.into()));
        }
        if let Some((scaling, waiting)) = &mut self.scaling
            && scaling.is_for(&replicas)
        {
            // Whoever asks for the same again has given up on the first question: the outcome goes to the newest one.
            let before = std::mem::replace(waiting, reply);
            return before.send(Outcome::Refused(CHANGE_UNDER_WAY.to_owned()));
        }
        if self.scaling.is_some() || self.readmission.is_some() {
            return reply.send(Outcome::Refused(CHANGE_UNDER_WAY.to_owned()));
        }
        match Scaling::start(context.now, replicas, &context.core.status()) {
            Ok(scaling) => {
                context.lines.push(format!("change to {} begins", scaling.describe()));
                self.scaling = Some((scaling, reply));
                self.look_after(&mut context);
            }
            Err(outcome) => reply.send(outcome),
        }
    }

    fn end_scaling(&mut self, outcome: Outcome, lines: &mut Vec<String>) {
        if let Some((scaling, reply)) = self.scaling.take() {
            lines.push(format!("change to {} ended: {outcome:?}", scaling.describe()));
            reply.send(outcome);
        }
    }

    fn end_readmission(&mut self, outcome: Outcome, lines: &mut Vec<String>) {
        if let Some((readmission, reply)) = self.readmission.take() {
            lines.push(format!("readmission of {} ended: {outcome:?}", readmission.describe()));
            reply.send(outcome);
        }
    }

    fn schedule_tick(&mut self, now: Time) {
        self.tick_at = Some(now.plus_us(TICK_INTERVAL_US));
    }

    fn look_after<P: Control>(&mut self, context: &mut AdminContext<'_, P>) {
        let now = context.now;
        if self.transfer.as_ref().is_some_and(|transfer| transfer.give_up_at <= now) {
            self.end_transfer(Outcome::Refused(TRANSFER_TIMED_OUT.to_owned()));
        }
        if let Some((readmission, _)) = &self.readmission {
            match readmission.next(now, &context.core.status()) {
                Step::Wait => {}
                Step::Change(change) => {
                    if let Err(why) = change_members(context, &change) {
                        self.end_readmission(Outcome::Refused(why), context.lines);
                    }
                }
                Step::End(outcome) => self.end_readmission(outcome, context.lines),
            }
        }
        if let Some((scaling, _)) = &mut self.scaling {
            match scaling.next(now, &context.core.status(), context.addresses, &self.connected_peers) {
                scaling::Step::Wait => {}
                scaling::Step::Propose(addresses) => match context.addresses_are_fixed.take() {
                    None => *context.moves = Some(addresses),
                    Some(why) => self.end_scaling(Outcome::Refused(why), context.lines),
                },
                scaling::Step::Change(change) => {
                    if let Err(why) = change_members(context, &change) {
                        self.end_scaling(Outcome::Refused(why), context.lines);
                    }
                }
                scaling::Step::End(outcome) => self.end_scaling(outcome, context.lines),
            }
        }
        if self.transfer.is_some() || self.readmission.is_some() || self.scaling.is_some() {
            self.schedule_tick(now);
        }
    }
}

/// Begins a change, or lets it wait for the next look, until the deadline of what it belongs to.
///
/// # Errors
/// Why it makes no sense.
fn change_members<P: Control>(context: &mut AdminContext<'_, P>, change: &Change) -> Result<(), String> {
    match context.core.change_members(context.now, change, context.effects) {
        Ok(_) | Err(ChangeRefused::NotYet(_) | ChangeRefused::NotLeader(_)) => Ok(()),
        Err(ChangeRefused::Senseless(why)) => Err(why),
    }
}

/// Whom a leader hands over to: the voter that is furthest among those that are alive, that the log reaches, and whose
/// disks keep up.
fn successor(now: Time, status: &CoreStatus) -> Option<NodeId> {
    let alive = |heard: Option<Time>| heard.is_some_and(|heard| now.since_us(heard) <= HEARD_LATELY_US);
    let voters = status.peers.iter().filter(|peer| status.configuration.voters.contains(&peer.node));
    let worth = |peer: &&PeerStatus| (alive(peer.heard_at), !peer.needs_snapshot, !peer.disk_is_slow, peer.match_index);
    voters.max_by_key(worth).map(|peer| peer.node)
}

/// Where the outcome of a transfer goes that no one waits for.
struct NoOneWaits;

impl ReplySink for NoOneWaits {
    fn deliver(&self, _tag: u64, _outcome: Outcome) {}

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Configuration, EntryId, Index, Term};
    use crate::status::{ReadMode, Role};

    const NOW: Time = Time(100_000_000);

    /// What a leader knows of the others, from replica 1 on: whether each is alive, whether its disk is slow, how far
    /// it is. All of them vote.
    fn status(peers: &[(bool, bool, u64)]) -> CoreStatus {
        let node = |name: usize| NodeId::new(name as u16, 7);
        let peers = peers.iter().enumerate().map(|(at, &(is_alive, disk_is_slow, match_index))| PeerStatus {
            node: node(at + 1),
            match_index: Index(match_index),
            heard_at: is_alive.then_some(NOW),
            needs_snapshot: false,
            disk_is_slow,
        });
        let peers: Vec<PeerStatus> = peers.collect();
        CoreStatus {
            node: node(0),
            role: Role::Leader,
            term: Term(2),
            leader: Some(node(0)),
            log_start: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index::ZERO,
            durable: Index::ZERO,
            log_bytes: 0,
            configuration: Configuration::of((0..=peers.len()).map(node)),
            configuration_index: Index::ZERO,
            reads: ReadMode::Index,
            peers,
        }
    }

    // covers M12
    #[test]
    fn members_are_changed_only_by_a_leader_that_is_confirmed() {
        let admin = RaftAdmin::default();
        let needs = |request| Admin::<crate::raft::Raft>::needs_confirmation(&admin, &request);
        assert!(needs(AdminRequest::Scale { replicas: Addresses::default() }));
        assert!(!needs(AdminRequest::Transfer { to: ReplicaId(1) }), "its own term decides that");
    }

    // covers E21
    #[test]
    fn leader_that_ends_hands_over_to_a_voter_whose_disk_keeps_up() {
        let to = |peers: &[(bool, bool, u64)]| successor(NOW, &status(peers)).map(|node| node.name.0);
        assert_eq!(to(&[(true, false, 7), (true, false, 9)]), Some(2), "that is furthest");
        assert_eq!(to(&[(true, false, 7), (true, true, 9)]), Some(1), "or whose disk is not slow");
        assert_eq!(to(&[(false, false, 7), (true, true, 9)]), Some(2), "if it is there");
        assert_eq!(to(&[(true, true, 7), (true, true, 9)]), Some(2), "if there is one");
        assert_eq!(to(&[]), None);
    }
}
