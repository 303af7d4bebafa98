//! Members: who has the place of another incarnation, and what waits until it is certain who leads.

use std::collections::BTreeMap;

use smr::entry::{Configuration, Entry, EntryId, Index, Payload};
use smr::id::{Incarnation, NodeId};
use smr::internals::engine::{Action, Replaced};
use smr::internals::protocol::{Effects, ReadOutcome, Time};
use smr::replica::{Outcome, Request};

use crate::stage::*;

type Said = Vec<Action<Core, Journal>>;

/// The members become these; returns what the replica does about it.
fn members_become(replica: &mut Replica, voters: &[NodeId], learners: &[NodeId]) -> Said {
    let learners = learners.iter().copied().collect();
    let configuration = Configuration { learners, ..Configuration::of(voters.iter().copied()) };
    {
        let mut core = replica.core.0.lock().unwrap();
        let id = EntryId::new(core.log.len() as u64 + 1, TERM);
        core.log.push(Entry { id, payload: Payload::Configuration(configuration) });
    }
    replica.core.commit_up_to(usize::MAX);
    replica.engine.work(|_| true);
    replica.engine.take_actions()
}

/// What this node hears when it connects.
fn heard_by(replica: &mut Replica, node: NodeId) -> Option<Replaced> {
    replica.engine.connected(Time(1), node);
    let said = replica.engine.take_actions();
    said.into_iter().find_map(|action| match action {
        Action::SendReplaced(to, replaced) if to == node => Some(replaced),
        _ => None,
    })
}

// A learner may be left of an earlier incarnation, or be taken in by an entry that is undone: a sound voter of before
// that ends for it is one too few.
// covers M21
#[test]
fn only_a_voter_has_the_place_of_another_incarnation() {
    let mut replica = Replica::new();
    let (one, other) = (NodeId::new(3, 1), NodeId::new(3, 2));
    members_become(&mut replica, &[ME, B, C], &[one]);
    assert_eq!(heard_by(&mut replica, other), None, "a learner is no one's successor");
    assert_eq!(heard_by(&mut replica, one), None, "it is a member itself");
    members_become(&mut replica, &[ME, B, C, one], &[]);
    let replaced = Replaced { by: Incarnation(1), since: Index(2) };
    assert_eq!(heard_by(&mut replica, other), Some(replaced));
    assert_eq!(heard_by(&mut replica, one), None);
}

// covers M21
#[test]
fn node_that_is_left_out_is_quarantined_only_if_a_voter_has_its_place() {
    let next = NodeId { incarnation: Incarnation(9), ..ME };
    let is_quarantined = |said: &Said| said.iter().any(|action| matches!(action, Action::Quarantine(_)));
    let is_retired = |said: &Said| said.iter().any(|action| matches!(action, Action::Retired(Some(_))));
    let said = members_become(&mut Replica::new(), &[B, C], &[next]);
    assert!(is_retired(&said) && !is_quarantined(&said));
    let said = members_become(&mut Replica::new(), &[B, C, next], &[]);
    assert!(is_quarantined(&said) && !is_retired(&said));
}

// A leader that was deposed without knowing it has the members of before: asked for these, it would call done what was
// undone since.
// covers M12
#[test]
fn change_of_members_begins_once_it_is_certain_who_leads() {
    let (mut replica, _) = Replica::with_session();
    let scale = || Request::Scale { replicas: BTreeMap::new() };
    let ready = |token| {
        let reads = vec![ReadOutcome::Ready { token, index: Index(1) }];
        Effects { reads, ..Effects::default() }
    };
    replica.ask(vec![(0, 1, scale())]);
    assert_eq!(replica.outcome(0, 1), None, "others may lead by now");
    let token = replica.core.last_token();
    replica.happens(ready(token));
    replica.engine.tick(Time(1));
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Refused("not here".to_owned())), "it is begun");

    replica.ask(vec![(0, 2, scale())]);
    let token = replica.core.last_token();
    replica.happens(deposed());
    assert!(matches!(replica.outcome(0, 2), Some(Outcome::NotLeader(_))), "another one leads");
    // A second answer would fail in the connection.
    replica.happens(ready(token));
    replica.engine.tick(Time(1));
}
