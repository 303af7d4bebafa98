//! The truth about tiny histories: every order is tried. And random histories to compare the checkers with.
//!
//! Written from the meaning of the operations alone; shares nothing with the checkers but the type of a history.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::history::{Action, Answer, History, Operation, Outcome};

/// Whether each key on its own has an order.
pub(crate) fn linearizable(history: &History) -> bool {
    let mut keys: BTreeSet<&Bytes> = history.initially.iter().map(|(key, _)| key).collect();
    for operation in &history.operations {
        match (&operation.action, operation.answer()) {
            (Action::Scan { .. }, Some(Answer::Records(records))) => keys.extend(records.iter().map(|(key, _)| key)),
            (Action::Scan { .. }, _) => {}
            (Action::Put { key, .. } | Action::Swap { key, .. }, _) => drop(keys.insert(key)),
            (Action::Get { key } | Action::Delete { key }, _) => drop(keys.insert(key)),
        }
    }
    keys.into_iter().all(|key| {
        let touches = |operation: &&Operation| match &operation.action {
            Action::Put { key: own, .. } | Action::Swap { key: own, .. } => own == key,
            Action::Get { key: own } | Action::Delete { key: own } => own == key,
            Action::Scan { from, to } => from <= key && key <= to,
        };
        let counts = |operation: &&Operation| !matches!(operation.outcome, Outcome::NotDone { .. });
        let operations: Vec<&Operation> = history.operations.iter().filter(touches).filter(counts).collect();
        let state = history.initially.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone());
        orders(key, &operations, state)
    })
}

/// Whether all operations on all keys together have an order in which each SCAN sees one moment.
pub(crate) fn linearizable_at_once(history: &History) -> bool {
    let counts = |operation: &&Operation| !matches!(operation.outcome, Outcome::NotDone { .. });
    let operations: Vec<&Operation> = history.operations.iter().filter(counts).collect();
    orders_of_all(&operations, &history.initially.iter().cloned().collect())
}

fn orders_of_all(left: &[&Operation], state: &BTreeMap<Bytes, Bytes>) -> bool {
    if left.iter().all(|operation| operation.outcome == Outcome::Unknown) {
        return true;
    }
    (0..left.len()).any(|first| {
        let operation = left[first];
        if left.iter().any(|other| other.returned().is_some_and(|at| at < operation.call)) {
            return false;
        }
        let mut after = state.clone();
        let old = match &operation.action {
            Action::Put { key, value } | Action::Swap { key, value } => after.insert(key.clone(), value.clone()),
            Action::Delete { key } => after.remove(key),
            Action::Get { key } => state.get(key).cloned(),
            Action::Scan { .. } => None,
        };
        let allowed = match (&operation.action, operation.answer()) {
            (_, None) => true,
            (_, Some(Answer::Found(found))) => *found == old.is_some(),
            (_, Some(Answer::Value(value))) => *value == old,
            (Action::Scan { from, to }, Some(Answer::Records(records))) => {
                records.iter().map(|(key, value)| (key, value)).eq(state.range(from.clone()..=to.clone()))
            }
            (_, Some(Answer::Records(_))) => false,
        };
        let rest: Vec<&Operation> =
            left.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, other)| *other).collect();
        allowed && orders_of_all(&rest, &after)
    })
}

fn orders(key: &Bytes, left: &[&Operation], state: Option<Bytes>) -> bool {
    if left.iter().all(|operation| operation.outcome == Outcome::Unknown) {
        return true;
    }
    (0..left.len()).any(|first| {
        let operation = left[first];
        let is_late = left.iter().any(|other| other.returned().is_some_and(|at| at < operation.call));
        if is_late {
            return false;
        }
        let allowed = match operation.answer() {
            None => true,
            Some(Answer::Found(found)) => *found == state.is_some(),
            Some(Answer::Value(value)) => *value == state,
            Some(Answer::Records(records)) => {
                records.iter().find(|(other, _)| other == key).map(|(_, value)| value) == state.as_ref()
            }
        };
        let after = match &operation.action {
            Action::Put { value, .. } | Action::Swap { value, .. } => Some(value.clone()),
            Action::Delete { .. } => None,
            Action::Get { .. } | Action::Scan { .. } => state.clone(),
        };
        let rest: Vec<&Operation> =
            left.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, other)| *other).collect();
        allowed && orders(key, &rest, after)
    })
}

/// What random histories are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Operations.
    pub(crate) operations: usize,
    /// Keys.
    pub(crate) keys: usize,
    /// How many clients.
    pub(crate) clients: u32,
    /// Whether values may be written more than once.
    pub(crate) values_repeat: bool,
    /// In how many of 100 cases an outcome is not known to the client.
    pub(crate) unknown: u32,
    /// How many answers are changed at random afterwards.
    pub(crate) lies: usize,
}

/// A history as a correct store could have given it, with `mix.lies` changes.
///
/// Each operation takes effect at a moment of its own; calls and returns lie around it. A SCAN sees each key at its own
/// moment.
pub(crate) fn random(seed: u64, mix: Mix) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let key = |number: usize| Bytes::from(format!("k{number}"));
    let mut history = History::default();
    let mut state: Vec<Option<Bytes>> = vec![None; mix.keys];
    if rng.random_range(0..4) == 0 {
        let value = Bytes::from_static(b"first");
        history.initially.push((key(0), value.clone()));
        state[0] = Some(value);
    }
    let mut free_at = vec![0u64; mix.clients as usize];
    let mut values = vec![Bytes::from_static(b"first"), Bytes::from_static(b"never")];
    // The moments of effect grow; clients wait for their own return only.
    let mut moment = 10u64;
    for number in 0..mix.operations {
        moment += rng.random_range(0..4);
        let client = rng.random_range(0..mix.clients);
        moment = moment.max(free_at[client as usize]);
        let call = moment.saturating_sub(rng.random_range(0..8)).max(free_at[client as usize]);
        let at = moment + rng.random_range(0..8);
        free_at[client as usize] = at + 1;
        let on = rng.random_range(0..mix.keys);
        let value = if mix.values_repeat {
            Bytes::from(format!("v{}", rng.random_range(0..2)))
        } else {
            Bytes::from(format!("v{number}"))
        };
        let action = match rng.random_range(0..11) {
            0..=2 => Action::Put { key: key(on), value: value.clone() },
            3..=4 => Action::Swap { key: key(on), value: value.clone() },
            5..=7 => Action::Get { key: key(on) },
            8..=9 => Action::Delete { key: key(on) },
            _ => Action::Scan { from: key(0), to: key(mix.keys - 1) },
        };
        let fate = rng.random_range(0..100u32);
        let is_unknown = fate < mix.unknown;
        let has_effect = !(is_unknown && rng.random_range(0..2) == 0 || fate == 99);
        let old = state[on].clone();
        let answer = match &action {
            Action::Put { .. } | Action::Delete { .. } => Answer::Found(old.is_some()),
            Action::Swap { .. } | Action::Get { .. } => Answer::Value(old),
            Action::Scan { .. } => Answer::Records(
                state.iter().enumerate().filter_map(|(at, value)| Some((key(at), value.clone()?))).collect(),
            ),
        };
        if has_effect {
            match &action {
                Action::Put { .. } | Action::Swap { .. } => {
                    state[on] = Some(value.clone());
                    values.push(value);
                }
                Action::Delete { .. } => state[on] = None,
                Action::Get { .. } | Action::Scan { .. } => {}
            }
        }
        let outcome = match fate {
            _ if is_unknown => Outcome::Unknown,
            99 => Outcome::NotDone { at },
            _ => Outcome::Answered { at, answer },
        };
        history.operations.push(Operation { client, action, call, outcome });
    }
    for _ in 0..mix.lies {
        lie(&mut history, &values, &mut rng);
    }
    history
}

/// Changes one thing.
fn lie(history: &mut History, values: &[Bytes], rng: &mut StdRng) {
    let at = rng.random_range(0..history.operations.len());
    let value = values[rng.random_range(0..values.len())].clone();
    let operation = &mut history.operations[at];
    match &mut operation.outcome {
        Outcome::Answered { answer: Answer::Found(found), .. } => *found = !*found,
        Outcome::Answered { answer: Answer::Value(old), .. } => {
            *old = if old.is_some() && rng.random_range(0..3) == 0 { None } else { Some(value) };
        }
        Outcome::Answered { answer: Answer::Records(records), .. } => {
            if let Some(record) = records.first_mut() {
                record.1 = value;
            }
        }
        Outcome::NotDone { .. } | Outcome::Unknown => {
            // It now claims to have been over in time.
            let answer = match operation.action {
                Action::Put { .. } | Action::Delete { .. } => Answer::Found(true),
                Action::Swap { .. } | Action::Get { .. } => Answer::Value(Some(value)),
                Action::Scan { .. } => return,
            };
            operation.outcome = Outcome::Answered { at: operation.call + 1, answer };
        }
    }
}

/// How many of the histories that were compared had an order, and how many had none.
#[derive(Debug, Default)]
struct Tally {
    good: u32,
    bad: u32,
}

/// Compares `judge` (true: has an order) with the truth.
fn compare(seeds: std::ops::Range<u64>, mix: Mix, judge: impl Fn(&History) -> bool) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let history = random(seed, mix);
        let truth = linearizable(&history);
        let mut text = Vec::new();
        if judge(&history) != truth {
            history.write(&mut text).expect("memory takes all");
            panic!("seed {seed}: an order exists: {truth}\n{}", String::from_utf8_lossy(&text));
        }
        if truth { tally.good += 1 } else { tally.bad += 1 }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearize::chains::{check_key, check_moments};
    use crate::linearize::keys::split;
    use crate::linearize::search::{Found, search};

    fn finds_order(history: &History) -> bool {
        split(history).iter().all(|key| match search(key, 100_000).0 {
            Found::Order => true,
            Found::NoOrder { .. } => false,
            Found::Undecided => panic!("undecided"),
        })
    }

    const MIX: Mix = Mix { operations: 7, keys: 1, clients: 4, values_repeat: false, unknown: 20, lies: 1 };

    #[test]
    fn search_random_tiny_histories_agrees_with_brute_force() {
        let mut seeds = 0..4_000;
        for clients in [2, 4, 7] {
            for lies in [0, 1, 2] {
                for unknown in [0, 20, 50] {
                    let mix = Mix { clients, lies, unknown, ..MIX };
                    let tally = compare(seeds.clone(), mix, finds_order);
                    if lies == 0 {
                        assert_eq!(tally.bad, 0, "{mix:?}");
                    } else {
                        assert!(tally.bad > 150 && tally.good > 150, "{mix:?}: {tally:?}");
                    }
                    seeds = seeds.end..seeds.end + 4_000;
                }
            }
        }
    }

    #[test]
    fn search_values_written_more_than_once_agrees_with_brute_force() {
        for (number, unknown) in [0, 20, 50].into_iter().enumerate() {
            let mix = Mix { values_repeat: true, unknown, lies: 2, ..MIX };
            let seeds = number as u64 * 10_000..number as u64 * 10_000 + 6_000;
            let tally = compare(seeds, mix, finds_order);
            assert!(tally.bad > 300 && tally.good > 300, "{mix:?}: {tally:?}");
        }
    }

    #[test]
    fn search_several_keys_with_scans_agrees_with_brute_force() {
        let mix = Mix { operations: 9, keys: 2, unknown: 10, ..MIX };
        let tally = compare(0..6_000, mix, finds_order);
        assert!(tally.bad > 300 && tally.good > 300, "{tally:?}");
    }

    #[test]
    fn search_longer_histories_agrees_with_brute_force() {
        let mix = Mix { operations: 10, clients: 6, ..MIX };
        let tally = compare(0..1_500, mix, finds_order);
        assert!(tally.bad > 100 && tally.good > 100, "{tally:?}");
    }

    #[test]
    fn chains_whatever_they_find_is_wrong_and_they_find_most() {
        let (mut bad, mut found) = (0, 0);
        for unknown in [0, 20, 50] {
            let mix = Mix { unknown, ..MIX };
            for seed in 0..8_000 {
                let history = random(seed, mix);
                let contradiction = split(&history).iter().find_map(|key| check_key(key, &history.operations).err());
                let truth = linearizable(&history);
                assert!(!truth || contradiction.is_none(), "seed {seed}, {mix:?}: {contradiction:?}");
                bad += u32::from(!truth);
                found += u32::from(contradiction.is_some());
            }
        }
        println!("chains found {found} of {bad}");
        assert!(bad > 2_000 && found * 10 > bad * 9, "{found} of {bad}");
    }

    #[test]
    fn moments_whatever_they_find_is_wrong_and_they_find_most() {
        let (mut bad, mut found) = (0, 0);
        for seed in 0..20_000 {
            let mix = Mix { operations: 7, keys: 2, clients: 3, unknown: 10, lies: 0, ..MIX };
            let mut history = random(seed, mix);
            skew_a_scan(&mut history, seed);
            let keys = split(&history);
            let chains = |key| check_key(key, &history.operations).ok();
            let Some(chains) = keys.iter().map(|key| Some((key, chains(key)?))).collect::<Option<Vec<_>>>() else {
                continue;
            };
            // Where the keys on their own are fine, the moment is what is wrong.
            if !linearizable(&history) {
                continue;
            }
            let contradictions = check_moments(&history, &chains, 1);
            let truth = linearizable_at_once(&history);
            assert!(!truth || contradictions.is_empty(), "seed {seed}: {contradictions:?}");
            bad += u32::from(!truth);
            found += u32::from(!contradictions.is_empty());
        }
        println!("moments found {found} of {bad}");
        assert!(bad > 100 && found * 10 > bad * 8, "{found} of {bad}");
    }

    /// Makes some SCAN long, and lets it see one of its keys as an earlier or later read did.
    fn skew_a_scan(history: &mut History, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let reads: Vec<(Bytes, Option<Bytes>)> = history
            .operations
            .iter()
            .filter_map(|operation| match (&operation.action, &operation.outcome) {
                (Action::Put { key, value } | Action::Swap { key, value }, Outcome::Answered { .. }) => {
                    Some((key.clone(), Some(value.clone())))
                }
                (Action::Delete { key }, Outcome::Answered { .. }) => Some((key.clone(), None)),
                _ => None,
            })
            .collect();
        let scan = history.operations.iter_mut().find(|operation| matches!(operation.action, Action::Scan { .. }));
        let Some(scan) = scan else { return };
        if reads.is_empty() {
            return;
        }
        scan.client = 99;
        let (key, value) = reads[rng.random_range(0..reads.len())].clone();
        if let Outcome::Answered { at, answer: Answer::Records(records) } = &mut scan.outcome {
            scan.call = scan.call.saturating_sub(20);
            *at += 20;
            records.retain(|(other, _)| *other != key);
            records.extend(value.map(|value| (key, value)));
            records.sort();
        }
    }
}
