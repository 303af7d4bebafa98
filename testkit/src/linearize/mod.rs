//! Is a history linearizable? And if not, what is the smallest part of it that shows it?
//!
//! Two checks that know nothing of each other look at each key:
//! - [`search`]: looks for an order of the key's operations, and either finds one or knows that there is none. A SCAN
//!   counts as a read of each key of its range that stands anywhere in the history.
//! - [`chains`]: orders the versions of a key by who replaced whom and by time, and looks for contradictions. It also
//!   checks that the keys of one partition in one SCAN were so at *one* moment, if the number of partitions is known.
//!
//! What the search finds bad is cut down to the smallest part that shows it ([`shrink`]), and drawn ([`picture()`]).
//!
//! That keys can be looked at one by one is a theorem (Herlihy & Wing, "Linearizability", 1990, locality); SCANs are
//! no more than that plus the single moment per partition.
//!
//! A history on which the search has used up its budget is *undecided*, and that is not a pass.

#[cfg(test)]
mod brute;
mod chains;
mod keys;
#[cfg(test)]
mod known;
mod picture;
#[cfg(test)]
mod sample;
mod search;
pub mod shrink;

use bytes::Bytes;

use crate::history::{Action, Answer, History, Operation, readable};
use crate::linearize::chains::{Chains, Contradiction};
use crate::linearize::keys::KeyHistory;
use crate::linearize::search::Found;
use crate::linearize::shrink::Evidence;

pub use crate::linearize::picture::picture;

/// How many configurations the search may look at per key, if nothing else is said. A healthy history needs about one
/// per operation.
pub const BUDGET_DEFAULT: u64 = 10_000_000;

/// For how many keys the smallest part is sought.
const SHRUNK_MAX: usize = 4;
/// How many configurations each of the many searches may look at meanwhile.
const SHRINK_BUDGET: u64 = 200_000;

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many configurations the search may look at per key.
    pub budget: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { budget: BUDGET_DEFAULT }
    }
}

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key; `None` if it takes several keys to see it.
    pub key: Option<Bytes>,
    /// Who found it: `search`, `chains`, `moments`, or `shape` for the answer to a SCAN that is none.
    pub check: &'static str,
    /// What cannot be, in one sentence.
    pub what: String,
    /// Operations that it can be seen in, as places in [`History::operations`]; not necessarily all it takes.
    pub operations: Vec<usize>,
    /// The smallest part that shows it, for the first few keys that the search found bad.
    pub evidence: Option<Evidence>,
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How many keys were looked at.
    pub keys: usize,
    /// How many configurations the search looked at.
    pub configurations: u64,
    /// What is wrong, by key.
    pub violations: Vec<Violation>,
    /// Keys on which the search used up its budget.
    pub undecided: Vec<Bytes>,
}

impl Verdict {
    /// Whether the history is linearizable, for certain.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }
}

/// Checks a history.
pub fn check(history: &History, options: &Options) -> Verdict {
    let keys = keys::split(history);
    let mut verdict = Verdict { keys: keys.len(), ..Verdict::default() };
    let mut all_chains: Vec<(&KeyHistory, Option<Chains>)> = Vec::with_capacity(keys.len());
    for key in &keys {
        let (found, configurations) = search::search(key, options.budget);
        verdict.configurations += configurations;
        match found {
            Found::Order => {}
            Found::NoOrder { stuck } => {
                let mut violation = stuck_at(history, key, stuck);
                if verdict.violations.iter().filter(|other| other.evidence.is_some()).count() < SHRUNK_MAX {
                    let evidence = shrink::shrink(key, stuck, SHRINK_BUDGET.min(options.budget));
                    violation.operations = evidence.operations.iter().map(|(source, _)| *source).collect();
                    violation.evidence = Some(evidence);
                }
                verdict.violations.push(violation);
            }
            Found::Undecided => verdict.undecided.push(key.key.clone()),
        }
        match chains::check_key(key, &history.operations) {
            Ok(chains) => all_chains.push((key, chains)),
            Err(contradiction) => verdict.violations.push(violation(Some(&key.key), "chains", contradiction)),
        }
    }
    verdict.violations.extend(history.operations.iter().enumerate().filter_map(shape));
    if let Some(partitions) = history.partitions {
        let found = chains::check_moments(history, &all_chains, partitions);
        verdict.violations.extend(found.into_iter().map(|what| violation(None, "moments", what)));
    }
    verdict
}

fn stuck_at(history: &History, key: &KeyHistory, stuck: usize) -> Violation {
    let source = key.steps[stuck].source;
    let what = format!(
        "no order of the operations on {} explains the answers; the longest attempt ends at: {}",
        readable(&key.key),
        history.operations[source]
    );
    Violation { key: Some(key.key.clone()), check: "search", what, operations: vec![source], evidence: None }
}

/// A SCAN whose answer is no sorted list of keys inside its range.
fn shape((source, operation): (usize, &Operation)) -> Option<Violation> {
    let (Action::Scan { from, to }, Some(Answer::Records(records))) = (&operation.action, operation.answer()) else {
        return None;
    };
    let is_sorted = records.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let is_inside = records.iter().all(|(key, _)| from <= key && key <= to);
    let what = match (is_sorted, is_inside) {
        (true, true) => return None,
        (false, _) => "the answer to a SCAN is not sorted, or has a key twice",
        (true, false) => "the answer to a SCAN has a key outside its range",
    };
    let contradiction = Contradiction { what: what.to_owned(), sources: vec![source] };
    Some(violation(None, "shape", contradiction))
}

fn violation(key: Option<&Bytes>, check: &'static str, contradiction: Contradiction) -> Violation {
    let Contradiction { what, sources } = contradiction;
    Violation { key: key.cloned(), check, what, operations: sources, evidence: None }
}
