//! I11, persist before send, judged at the moment of sending: no vote, no acknowledgement, no own candidacy and no word
//! in a term leaves a node before the state that it rests on is on its device.
//!
//! What is on its device is what the books say ([`Ledger`]); and those are compared with the disk itself: at each start
//! with what was found, and now and then with what would be found if the power went at this moment.

use smr::entry::{EntryId, Index};
use smr::id::NodeId;
use smr::internals::raft::message::{Body, Message};

use super::{Property, View};
use crate::ledger::{Ledger, Page};
use crate::observation::Observation;

/// How often, in steps, one of the disks is read as if the power had gone.
const READ_EVERY_STEPS: u64 = 4096;

#[derive(Default)]
pub(super) struct PersistBeforeSend {
    next_replica: usize,
}

impl Property for PersistBeforeSend {
    fn name(&self) -> &'static str {
        "I11 persist before send"
    }

    fn before(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Started { node, recovered, forgot: false } => ledger.compare(*node, recovered),
            Observation::Started { node, recovered, forgot: true } => ledger.compare_hard_state(*node, recovered),
            _ => Ok(()),
        }
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        let Observation::Sent { from, to, message } = observation else { return Ok(()) };
        let Some(page) = ledger.page(*from) else { return Err(format!("{from} speaks before it serves")) };
        let judged = judge(page, *from, *to, message);
        judged.map_err(|why| format!("{from} says {:?} in {:?} to {to}: {why}", message.body, message.term))
    }

    fn after_step(&mut self, view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        if !view.step.is_multiple_of(READ_EVERY_STEPS) {
            return Ok(());
        }
        self.next_replica = (self.next_replica + 1) % view.nodes.replicas().max(1);
        let Some(node) = view.nodes.node(self.next_replica) else { return Ok(()) };
        match view.nodes.found_after_power_cut(self.next_replica) {
            Some(Ok(recovered)) => ledger.compare(node.node, &recovered),
            Some(Err(why)) => Err(format!("{} could not start if the power went now: {why}", node.node)),
            None => Ok(()),
        }
    }
}

fn judge(page: &Page, from: NodeId, to: NodeId, message: &Message) -> Result<(), String> {
    let (term, durable) = (message.term, page.durable_term());
    // Of a term that no one has entered.
    if matches!(message.body, Body::PreVote { .. } | Body::PreVoteGranted { .. }) {
        return Ok(());
    }
    if term > durable {
        return Err(format!("only {durable:?} is on its device"));
    }
    match message.body {
        // In a later term the vote of this one is of no use to anyone.
        Body::VoteGranted | Body::Vote { .. } if durable == term => {
            let candidate = if message.body == Body::VoteGranted { to } else { from };
            if page.hard_state.term == term && page.hard_state.vote == Some(candidate) {
                return Ok(());
            }
            Err(format!("{:?} is on its device", page.hard_state))
        }
        // A later term may have cut what this one had.
        Body::AppendAccepted { last } | Body::SnapshotInstalled { last } | Body::AppendStored { last, .. }
            if durable == term && !has(page, last) =>
        {
            Err(format!("its durable log goes from {} to {}", page.durable.start(), page.durable.last()))
        }
        Body::HeartbeatAck { lease: Some(lease), .. } if page.hard_state.lease_us < lease.length_us => {
            Err(format!("its longest durable lease is {} us", page.hard_state.lease_us))
        }
        _ => Ok(()),
    }
}

fn has(page: &Page, last: EntryId) -> bool {
    last.index == Index::ZERO
        || last.index < page.durable.start().index
        || page.durable.at(last.index).is_some_and(|(id, _)| id == last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, Play, append, noop};
    use smr::internals::raft::message::Lease;

    fn play() -> Play<PersistBeforeSend> {
        let mut play = Play::new(PersistBeforeSend::default());
        play.writes(A, Some((2, Some(B))), vec![append(&[noop(1, 1), noop(2, 2)])]).unwrap();
        play
    }

    fn accepted(index: u64, term: u64) -> Body {
        Body::AppendAccepted { last: EntryId::new(index, term) }
    }

    // covers I11
    #[test]
    fn word_in_a_term_that_is_not_on_the_device_is_rejected() {
        let mut play = play();
        play.sends(A, B, 2, Body::HeartbeatAck { round: 1, lease: None }).unwrap();
        play.issues(A, Some((3, None)), vec![]).unwrap();
        assert!(play.sends(A, B, 3, Body::HeartbeatAck { round: 1, lease: None }).is_err());
    }

    // covers I11, E17
    #[test]
    fn lease_before_its_sync_is_rejected() {
        let lease = Some(Lease { asked_at_us: 7, length_us: 300_000 });
        play().sends(A, B, 2, Body::HeartbeatAck { round: 1, lease: None }).unwrap();
        assert!(play().sends(A, B, 2, Body::HeartbeatAck { round: 1, lease }).is_err());
    }

    // covers I11, E4
    #[test]
    fn vote_before_its_sync_is_rejected() {
        play().sends(A, B, 2, Body::VoteGranted).unwrap();
        assert!(play().sends(A, C, 2, Body::VoteGranted).is_err(), "another one");
        let own = Body::Vote { last: EntryId::new(2, 2), transfer: false };
        assert!(play().sends(A, C, 2, own).is_err(), "its own");
        let mut play = play();
        play.issues(A, Some((3, Some(C))), vec![]).unwrap();
        assert!(play.sends(A, C, 3, Body::VoteGranted).is_err(), "asked for, not durable");
        play.completes(A).unwrap();
        play.sends(A, C, 3, Body::VoteGranted).unwrap();
        play.sends(A, B, 2, Body::VoteGranted).unwrap();
    }

    // covers I11
    #[test]
    fn acknowledgement_before_its_sync_is_rejected() {
        play().sends(A, B, 2, accepted(2, 2)).unwrap();
        assert!(play().sends(A, B, 2, accepted(2, 1)).is_err(), "another entry");
        let mut play = play();
        play.issues(A, None, vec![append(&[noop(3, 2)])]).unwrap();
        assert!(play.sends(A, B, 2, accepted(3, 2)).is_err());
        play.completes(A).unwrap();
        play.sends(A, B, 2, accepted(3, 2)).unwrap();
    }

    // covers I11, I8
    #[test]
    fn disk_that_lacks_what_the_books_have_is_rejected() {
        let found = |log: &[smr::entry::Entry], term, vote| {
            let hard_state = smr::entry::HardState { term: smr::entry::Term(term), vote, lease_us: 0 };
            smr::internals::protocol::Recovered {
                stored: hard_state.into(),
                entries: log.to_vec(),
                ..Default::default()
            }
        };
        let both = [noop(1, 1), noop(2, 2)];
        play().starts(A, &found(&both, 2, Some(B))).unwrap();
        play().starts(A, &found(&both, 3, None)).unwrap();
        assert!(play().starts(A, &found(&both[..1], 2, Some(B))).is_err(), "an entry");
        assert!(play().starts(A, &found(&[noop(1, 1), noop(2, 1)], 2, Some(B))).is_err(), "another entry");
        assert!(play().starts(A, &found(&both, 1, None)).is_err(), "the term");
        assert!(play().starts(A, &found(&both, 2, None)).is_err(), "the vote");
        // A truncation under way may have happened; nothing below it may be gone.
        let cut = || {
            let mut play = play();
            play.issues(A, None, vec![smr::internals::protocol::LogChange::RemoveFrom(Index(2))]).unwrap();
            play
        };
        cut().starts(A, &found(&both[..1], 2, Some(B))).unwrap();
        assert!(cut().starts(A, &found(&[], 2, Some(B))).is_err());
    }
}
