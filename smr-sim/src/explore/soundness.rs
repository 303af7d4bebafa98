//! What can be reached with a reduction, and what without it.
//!
//! Compared is what a core holds that outlives its messages: whether it leads, its term, vote, log and commit index, of
//! all three, up to their names. The disk is left out where writes complete early (that they do is the reduction); a
//! crash shows what was on it.

use std::collections::BTreeSet;
use std::time::Duration;

use smr::entry::Entry;
use smr::internals::raft::Canonical;
use smr::status::Role;

use super::Bounds;
use super::group::Group;
use super::search::explore_and_see;
use super::tables::Tables;
use super::{NODES, PERMUTATIONS};

/// Leads; term; vote; log; commit index.
type View = (bool, u64, Option<u16>, Vec<(u64, u64, String)>, u64);

fn view(group: &Group, tables: &Tables) -> [View; NODES] {
    let entry = |entry: &Entry| (entry.id.index.0, entry.id.term.0, format!("{:?}", entry.payload));
    let nodes: Vec<View> = group
        .locals
        .iter()
        .map(|local| {
            let leads = tables.info(*local).role == Role::Leader;
            let raft = &tables.local(*local).raft;
            let hard_state = raft.hard_state();
            let vote = hard_state.vote.map(|vote| vote.name.0);
            (leads, hard_state.term.0, vote, raft.entries().map(entry).collect(), raft.committed().index.0)
        })
        .collect();
    let renamed = PERMUTATIONS.iter().map(|names| {
        let mut views: [View; NODES] = Default::default();
        for (replica, (leads, term, vote, log, commit)) in nodes.iter().cloned().enumerate() {
            let vote = vote.map(|vote| u16::from(names[usize::from(vote)]));
            views[usize::from(names[replica])] = (leads, term, vote, log, commit);
        }
        views
    });
    renamed.min().unwrap_or_default()
}

/// All views of a completed exploration, and how many states it had.
fn reachable(bounds: &Bounds) -> (BTreeSet<[View; NODES]>, usize) {
    let mut views = BTreeSet::new();
    let bounds = Bounds { time: Duration::from_secs(300), ..bounds.clone() };
    let report = explore_and_see(&bounds, |_| {}, |group, tables| _ = views.insert(view(group, tables)));
    assert!(report.completed, "{bounds:?}: {:?} {:?}", report.stopped, report.violation);
    println!("{bounds:?}: {} states, {} views", report.progress.states, views.len());
    (views, report.progress.states)
}

fn tiny(terms: u8, entries: u8, crashes: u8) -> Bounds {
    Bounds { terms, entries, crashes, ..Bounds::default() }
}

/// Sizes at which exploring without a reduction takes seconds.
const TINY: [(u8, u8, u8); 3] = [(1, 0, 0), (1, 1, 0), (1, 0, 1)];

fn assert_same_without(sizes: &[(u8, u8, u8)], change: impl Fn(&mut Bounds)) {
    for (terms, entries, crashes) in sizes {
        let reduced = tiny(*terms, *entries, *crashes);
        let mut full = reduced.clone();
        change(&mut full);
        let ((with, _), (without, _)) = (reachable(&reduced), reachable(&full));
        let lost = without.difference(&with).next();
        assert!(lost.is_none(), "not reached with the reduction: {lost:?}");
        let invented = with.difference(&without).next();
        assert!(invented.is_none(), "reached only with the reduction: {invented:?}");
    }
}

#[test]
fn dead_messages_kept_same_reached() {
    assert_same_without(&TINY[..2], |bounds| bounds.keep_dead = true);
}

#[test]
fn names_told_apart_same_reached() {
    assert_same_without(&TINY, |bounds| bounds.symmetry = false);
}

#[test]
fn writes_completed_late_same_reached() {
    assert_same_without(&TINY, |bounds| bounds.sync_early = false);
}

// What `reminders` adds: a question that is repeated tells a follower that lacks entries of a later commit index.
#[test]
fn unanswered_appends_repeated_reach_nothing_less() {
    let with = reachable(&tiny(1, 0, 0)).0;
    let without = reachable(&Bounds { reminders: true, ..tiny(1, 0, 0) }).0;
    assert!(with.is_subset(&without), "{:?}", with.difference(&without).next());
    let told_early = |view: &[View; NODES]| view.iter().any(|(_, _, _, log, commit)| *commit == log.len() as u64);
    assert!(
        without.difference(&with).all(told_early),
        "{:?}",
        without.difference(&with).find(|view| !told_early(view))
    );
}

#[test]
fn three_reductions_off_same_reached() {
    assert_same_without(&TINY[..1], |bounds| {
        (bounds.keep_dead, bounds.symmetry, bounds.sync_early) = (true, false, false);
    });
}

#[test]
fn real_pre_votes_reach_nothing_more() {
    let with = reachable(&tiny(1, 0, 0)).0;
    let without = reachable(&Bounds { abstract_pre_vote: false, ..tiny(1, 0, 0) }).0;
    assert!(without.len() > 1, "no one was elected");
    assert!(without.is_subset(&with), "{:?}", without.difference(&with).next());
}

// Each message once, two of them on the wire: a part of what any number of messages reach.
#[test]
fn wire_of_two_messages_reaches_nothing_more() {
    let with = reachable(&Bounds { reminders: true, ..tiny(1, 0, 0) }).0;
    let without = reachable(&Bounds { messages: Some(2), ..tiny(1, 0, 0) }).0;
    assert!(without.is_subset(&with), "{:?}", without.difference(&with).next());
}
