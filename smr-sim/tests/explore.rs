//! Every order of events in a group of three real Raft cores, up to bounds that are completed here, each time. What
//! that means, what is checked and what is left out: `smr_sim::explore`. `just explore` goes further, for as long as
//! told.

use std::time::Duration;

use smr_sim::explore::{Bounds, FIGURE_8, Report, explore};

/// A slow machine may take this long; the bounds are chosen so that an idle one takes seconds.
const TIME: Duration = Duration::from_secs(300);

fn completed(bounds: Bounds) -> Report {
    let report = explore(&Bounds { time: TIME, ..bounds.clone() }, |_| {});
    if let Some(violation) = &report.violation {
        panic!("{bounds:?}: {}\n{}", violation.what, violation.steps.join("\n"));
    }
    assert!(report.completed, "{bounds:?}: {:?} after {:?}", report.stopped, report.progress);
    println!("{bounds:?}: {:?}, {:?}", report.progress, report.situations);
    report
}

// covers I1 I2 I4 I5 I6 I7 I8 I10 I11
#[test]
fn explore_one_term_one_command_every_order_is_safe() {
    let report = completed(Bounds { terms: 1, entries: 1, crashes: 0, ..Bounds::default() });
    assert!(report.situations.elections > 0 && report.situations.commits > 0, "{:?}", report.situations);
}

// covers I1 I2 I6 I8 I11 E4 E5
#[test]
fn explore_one_term_and_a_crash_every_order_is_safe() {
    let report = completed(Bounds { terms: 1, entries: 1, crashes: 1, ..Bounds::default() });
    assert!(report.situations.lossy_crashes > 0, "{:?}", report.situations);
}

// covers I1 I5 I6 I7 L3
#[test]
fn explore_two_terms_one_command_every_order_is_safe() {
    let report = completed(Bounds { terms: 2, entries: 1, crashes: 0, ..Bounds::default() });
    assert!(report.situations.rival_leaders > 0 && report.situations.truncations > 0, "{:?}", report.situations);
}

// covers I1 I2 I6 I8 I11 E4 E5
#[test]
fn explore_two_terms_and_a_crash_every_order_is_safe() {
    let report = completed(Bounds { terms: 2, entries: 0, crashes: 1, ..Bounds::default() });
    assert!(report.situations.lossy_crashes > 0, "{:?}", report.situations);
}

// Three terms are the fewest in which an append can meet another entry where its previous one should be. covers I5 L3
#[test]
fn explore_three_terms_every_order_is_safe() {
    let report = completed(Bounds { terms: 3, entries: 0, crashes: 0, ..Bounds::default() });
    assert!(report.situations.truncations > 0, "{:?}", report.situations);
}

// Four terms and a crash are the fewest in which counting copies of old entries loses one. covers I6 L1
#[test]
fn explore_from_figure_8_every_order_is_safe() {
    let from = FIGURE_8.to_owned();
    let report = completed(Bounds { terms: 4, entries: 0, crashes: 1, from, ..Bounds::default() });
    assert!(report.situations.elections > 0 && report.situations.commits > 0, "{:?}", report.situations);
}

/// A and B lead terms 2 and 3, each alone with its entry 2.
const RIVALS: &str = "
    A: time out
    B: Vote of A
    A: VoteGranted of B
    B: time out
    C: Vote of B
    B: VoteGranted of C
";

/// Explores from where this history ends, and fails if one of its steps is not offered.
fn offered(terms: u8, entries: u8, history: &str) {
    let report = explore(
        &Bounds {
            terms,
            entries,
            crashes: 0,
            from: RIVALS.to_owned() + history,
            time: Duration::ZERO,
            ..Bounds::default()
        },
        |_| {},
    );
    assert_eq!(report.stopped.as_deref(), Some("out of time"), "{:?}", report.violation);
}

// The shortest history that breaks a core which takes an append after any entry 2, whatever its term. covers L3
#[test]
fn explore_offers_append_behind_an_entry_of_another_term() {
    offered(3, 0, "A: Heartbeat of B\nA: time out\nC: Vote of A\nA: VoteGranted of C\nB: Append of A");
}

// The shortest history that breaks a core which votes for the longer log, whatever its last term. covers E2
#[test]
fn explore_offers_vote_for_a_longer_log_of_an_older_term() {
    offered(
        3,
        1,
        "C: Append of B
         A: propose
         A: Heartbeat of B
         B: AppendAccepted of C
         B: sync
         A: time out
         C: Vote of A",
    );
}

#[test]
fn explore_from_an_impossible_history_says_so() {
    let report = explore(&Bounds { from: "A: VoteGranted of B".to_owned(), ..Bounds::default() }, |_| {});
    assert!(report.stopped.is_some_and(|why| why.contains("is not offered")) && !report.completed);
}

#[test]
fn explore_twice_finds_the_same() {
    let bounds = Bounds { terms: 1, entries: 0, crashes: 0, ..Bounds::default() };
    let (one, other) = (completed(bounds.clone()).progress, completed(bounds).progress);
    assert_eq!((one.states, one.transitions, one.depth), (other.states, other.transitions, other.depth));
}

// The same with a wire that takes one message, once each, all of them sent: pre-votes too, and what has no effect.
#[test]
fn explore_bounded_wire_without_reductions_every_order_is_safe() {
    let report = completed(Bounds {
        terms: 1,
        entries: 0,
        crashes: 0,
        messages: Some(1),
        abstract_pre_vote: false,
        keep_dead: true,
        ..Bounds::default()
    });
    assert!(report.situations.elections > 0, "{:?}", report.situations);
}

#[test]
fn explore_out_of_time_says_so() {
    let report = explore(&Bounds { time: Duration::ZERO, ..Bounds::default() }, |_| {});
    assert!(!report.completed && report.stopped.as_deref() == Some("out of time") && report.violation.is_none());
}
