//! Every order of events in a group of three real Raft cores, up to bounds that are completed here, each time. What that
//! means, what is checked and what is left out: `smr::explore`. `just explore` goes further, for as long as told.

use std::time::Duration;

use smr::explore::{Bounds, Report, explore};

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
fn explore_two_terms_every_order_is_safe() {
    let report = completed(Bounds { terms: 2, entries: 0, crashes: 0, ..Bounds::default() });
    assert!(report.situations.rival_leaders > 0 && report.situations.truncations > 0, "{:?}", report.situations);
}

#[test]
fn explore_twice_finds_the_same() {
    let bounds = Bounds { terms: 1, entries: 0, crashes: 0, ..Bounds::default() };
    let (one, other) = (completed(bounds.clone()).progress, completed(bounds).progress);
    assert_eq!((one.states, one.transitions, one.depth), (other.states, other.transitions, other.depth));
}

// The same with a wire that takes two messages, once each, all of them sent: pre-votes too, and what has no effect.
#[test]
fn explore_bounded_wire_without_reductions_every_order_is_safe() {
    completed(Bounds {
        terms: 1,
        entries: 0,
        crashes: 0,
        messages: Some(1),
        abstract_pre_vote: false,
        keep_dead: true,
        ..Bounds::default()
    });
}

#[test]
fn explore_out_of_time_says_so() {
    let report = explore(&Bounds { time: Duration::ZERO, ..Bounds::default() }, |_| {});
    assert!(!report.completed && report.stopped == Some("out of time") && report.violation.is_none());
}
