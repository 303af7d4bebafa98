//! Large histories as a correct store gives them, to measure the checkers with.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::history::{Action, Answer, History, Operation, Outcome};

/// What a large history is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Operations.
    pub(crate) operations: usize,
    /// Clients; each always has an operation under way.
    pub(crate) clients: u32,
    /// Keys.
    pub(crate) keys: usize,
    /// In how many of 1000 cases an operation gets no answer. A write among them takes effect much later, or never.
    pub(crate) unknown: u32,
}

/// Builds it: first the times, then the effects in the order of their moments.
pub(crate) fn sample(seed: u64, plan: Sample) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut operations = Vec::with_capacity(plan.operations);
    let mut moments = Vec::with_capacity(plan.operations);
    let mut free_at = vec![0u64; plan.clients as usize];
    for number in 0..plan.operations {
        let client = (0..plan.clients).min_by_key(|&client| free_at[client as usize]).unwrap_or_default();
        let call = free_at[client as usize] + rng.random_range(1..50);
        let mut moment = call + rng.random_range(0..1000);
        let returned = moment + rng.random_range(0..1000);
        free_at[client as usize] = returned;
        let key = Bytes::from(format!("k{}", rng.random_range(0..plan.keys)));
        let value = Bytes::from(format!("v{number}"));
        let action = match rng.random_range(0..100) {
            0..=29 => Action::Put { key, value },
            30..=54 => Action::Swap { key, value },
            55..=84 => Action::Get { key },
            85..=97 => Action::Delete { key },
            _ => Action::Scan { from: "k".into(), to: "l".into() },
        };
        let mut outcome = Outcome::Answered { at: returned, answer: Answer::Found(false) };
        if rng.random_range(0..1000) < plan.unknown {
            outcome = Outcome::Unknown;
            moment = if rng.random_range(0..2) == 0 { u64::MAX } else { call + rng.random_range(0..20_000) };
        }
        moments.push((moment, operations.len()));
        operations.push(Operation { client, action, call, outcome });
    }
    moments.sort_unstable();
    let mut state: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for &(_, number) in moments.iter().filter(|(moment, _)| *moment != u64::MAX) {
        let operation: &mut Operation = &mut operations[number];
        let found = match &operation.action {
            Action::Put { key, value } => Answer::Found(state.insert(key.clone(), value.clone()).is_some()),
            Action::Swap { key, value } => Answer::Value(state.insert(key.clone(), value.clone())),
            Action::Delete { key } => Answer::Found(state.remove(key).is_some()),
            Action::Get { key } => Answer::Value(state.get(key).cloned()),
            Action::Scan { .. } => {
                Answer::Records(state.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
            }
        };
        if let Outcome::Answered { answer, .. } = &mut operation.outcome {
            *answer = found;
        }
    }
    History { operations, partitions: Some(1), ..History::default() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::linearize::{Options, check};

    /// The target is 10 s in a release build on a quiet machine; this is for a debug build on a busy one.
    const TIMEOUT: Duration = Duration::from_secs(600);

    fn measure(what: &str, history: &History, passes: bool) {
        let start = Instant::now();
        let verdict = check(history, &Options::default());
        let took = start.elapsed();
        println!("{what}: {took:.2?}, {} configurations", verdict.configurations);
        assert_eq!(verdict.passed(), passes, "{what}: {:?}", verdict.violations.first());
        assert_eq!(verdict.undecided, Vec::<Bytes>::new(), "{what}");
        assert!(took < TIMEOUT, "{what} took {took:?}");
    }

    const LARGE: Sample = Sample { operations: 100_000, clients: 12, keys: 8, unknown: 0 };

    #[test]
    fn check_100_000_operations_of_12_clients_is_quick() {
        measure("8 keys", &sample(1, LARGE), true);
        measure("1 key", &sample(2, Sample { keys: 1, ..LARGE }), true);
    }

    #[test]
    fn check_many_unknown_outcomes_is_quick() {
        measure("8 keys, 10 % unknown", &sample(3, Sample { unknown: 100, ..LARGE }), true);
        measure("1 key, 10 % unknown", &sample(4, Sample { keys: 1, unknown: 100, ..LARGE }), true);
        measure("1 key, 50 % unknown", &sample(5, Sample { keys: 1, unknown: 500, ..LARGE }), true);
    }

    #[test]
    fn check_wrong_at_the_very_end_is_quick() {
        for (what, unknown) in [("1 key, wrong", 0), ("1 key, 10 % unknown, wrong", 100)] {
            let mut history = sample(6, Sample { keys: 1, unknown, ..LARGE });
            // Someone reads a value that was replaced long ago.
            let end = history.operations.iter().filter_map(Operation::returned).max().unwrap();
            let old = history.operations.iter().find_map(|operation| match operation.answer() {
                Some(Answer::Value(old @ Some(_))) => Some(old.clone()),
                _ => None,
            });
            let answer = Answer::Value(old.unwrap());
            let action = Action::Get { key: "k0".into() };
            let outcome = Outcome::Answered { at: end + 2, answer };
            history.operations.push(Operation { client: 0, action, call: end + 1, outcome });
            measure(what, &history, false);
        }
    }
}
