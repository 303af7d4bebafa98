//! Was each write applied exactly once? Judged from the clients' answers alone.
//!
//! Clients swap values that are unique in the run, and never delete. So a write that was applied twice, or lost after
//! it was seen, leaves a history that is not linearizable, and [`linearize`] finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

use crate::history::{Action, Answer, History, Operation, Outcome, readable};
use crate::linearize::{self, Options};

/// One swap, as its client saw it.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The key whose value was swapped.
    pub key: String,
    /// The value swapped in; unique in the run.
    pub new: String,
    /// When the client began.
    pub started: Instant,
    /// When it was answered and with which old value; `None` if its fate is unknown.
    pub answer: Option<(Instant, Option<String>)>,
}

/// The history cannot come from swaps that took effect exactly once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key}: {what}")]
pub struct Broken {
    /// The key on which it shows.
    pub key: String,
    /// What gives it away.
    pub what: String,
}

/// Checks the swaps of a run against the values read at its end (all keys that were swapped).
///
/// # Errors
/// The first thing found that cannot be, and a key on which the check was given up.
pub fn check(swaps: &[Swap], last: &BTreeMap<String, Option<String>>) -> Result<(), Broken> {
    let Some(origin) = swaps.iter().map(|swap| swap.started).min() else { return Ok(()) };
    // A run lasts for less than 500 years.
    let time = |at: Instant| at.duration_since(origin).as_nanos() as u64;
    let mut operations = Vec::with_capacity(swaps.len() + last.len());
    for swap in swaps {
        if !last.contains_key(&swap.key) {
            return Err(Broken { key: swap.key.clone(), what: "was not read at the end".to_owned() });
        }
        let outcome = match &swap.answer {
            Some((at, old)) => Outcome::Answered { at: time(*at), answer: Answer::Value(bytes_of(old.as_deref())) },
            None => Outcome::Unknown,
        };
        let action = Action::Swap { key: swap.key.clone().into(), value: swap.new.clone().into() };
        operations.push(Operation { client: 0, action, call: time(swap.started), outcome });
    }
    let after_all = operations.iter().map(|swap| swap.returned().unwrap_or(swap.call)).max().unwrap_or_default() + 1;
    let swapped: BTreeSet<&str> = swaps.iter().map(|swap| swap.key.as_str()).collect();
    for (key, value) in last.iter().filter(|(key, _)| swapped.contains(key.as_str())) {
        let outcome = Outcome::Answered { at: after_all, answer: Answer::Value(bytes_of(value.as_deref())) };
        operations.push(Operation {
            client: 0,
            action: Action::Get { key: key.clone().into() },
            call: after_all,
            outcome,
        });
    }
    let history = History { operations, ..History::default() };
    let verdict = linearize::check(&history, &Options::default());
    // The chains of values say in words what the search only finds to be impossible.
    let told = verdict.violations.iter().find(|violation| violation.check == "chains");
    if let Some(violation) = told.or(verdict.violations.first()) {
        let key = violation.key.as_ref().map(|key| readable(key)).unwrap_or_default();
        return Err(Broken { key, what: violation.what.clone() });
    }
    match verdict.undecided.first() {
        Some(key) => Err(Broken { key: readable(key), what: "too many orders are possible to judge".to_owned() }),
        None => Ok(()),
    }
}

fn bytes_of(value: Option<&str>) -> Option<Bytes> {
    value.map(|value| Bytes::copy_from_slice(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Swaps of one key, one after the other: value, and what was answered (`None`: unknown).
    fn history(swaps: &[(&str, Option<Option<&str>>)]) -> Vec<Swap> {
        let origin = Instant::now();
        let at = |step: usize| origin + Duration::from_millis(step as u64);
        let swap = |(step, (new, answer)): (usize, &(&str, Option<Option<&str>>))| Swap {
            key: "k".to_owned(),
            new: (*new).to_owned(),
            started: at(2 * step),
            answer: answer.map(|old| (at(2 * step + 1), old.map(str::to_owned))),
        };
        swaps.iter().enumerate().map(swap).collect()
    }

    fn verdict(swaps: &[(&str, Option<Option<&str>>)], last: Option<&str>) -> Result<(), String> {
        let last = BTreeMap::from([("k".to_owned(), last.map(str::to_owned))]);
        check(&history(swaps), &last).map_err(|broken| broken.what)
    }

    #[test]
    fn check_plain_chain_passes() {
        assert_eq!(verdict(&[("a", Some(None)), ("b", Some(Some("a")))], Some("b")), Ok(()));
    }

    #[test]
    fn check_unknown_swap_may_be_applied_or_not() {
        assert_eq!(verdict(&[("a", Some(None)), ("u", None)], Some("u")), Ok(()));
        assert_eq!(verdict(&[("a", Some(None)), ("u", None)], Some("a")), Ok(()));
        let seen = [("a", Some(None)), ("u", None), ("b", Some(Some("u")))];
        assert_eq!(verdict(&seen, Some("b")), Ok(()));
    }

    #[test]
    fn check_value_replaced_twice_fails() {
        let swaps = [("a", Some(None)), ("b", Some(Some("a"))), ("c", Some(Some("a")))];
        assert!(verdict(&swaps, Some("c")).unwrap_err().contains("replaced twice"));
    }

    #[test]
    fn check_write_applied_again_later_fails() {
        // a, b, a again, c: the absence, a (by b), b (by the second a, unseen), a again (by c).
        let swaps = [("a", Some(None)), ("b", Some(Some("a"))), ("c", Some(Some("a")))];
        assert!(verdict(&swaps, Some("c")).is_err());
        // The second a is the last.
        let swaps = [("a", Some(None)), ("b", Some(Some("a")))];
        assert!(verdict(&swaps, Some("a")).is_err());
    }

    #[test]
    fn check_acknowledged_last_write_lost_fails() {
        assert!(verdict(&[("a", Some(None)), ("b", Some(Some("a")))], Some("a")).is_err());
        assert!(verdict(&[("a", Some(None))], None).is_err());
    }

    #[test]
    fn check_value_from_nowhere_fails() {
        assert!(verdict(&[("a", Some(Some("x")))], Some("a")).unwrap_err().contains("no one wrote"));
    }

    #[test]
    fn check_swap_behind_a_later_one_fails() {
        let swaps = [("b", Some(Some("a"))), ("a", Some(None))];
        assert!(verdict(&swaps, Some("b")).is_err());
    }

    #[test]
    fn check_chain_that_nothing_leads_to_fails() {
        // u was applied, because b saw it; then the last value cannot be the end of the chain before it.
        let swaps = [("a", Some(None)), ("u", None), ("b", Some(Some("u")))];
        assert!(verdict(&swaps, Some("a")).is_err());
    }
}
