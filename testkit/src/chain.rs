//! Was each write applied exactly once? Judged from the clients' answers alone.
//!
//! Clients swap values that are unique in the run, and never delete. Each swap that was answered says which value it
//! replaced, so the answers of one key link up into chains `null -> a -> b -> ...`. If each swap took effect exactly
//! once, then
//! - no value (nor the initial absence) was replaced twice: a write applied twice, or lost after it was seen, shows
//!   here;
//! - each value that was replaced had been written by somebody;
//! - the chain that starts with the absence, and those that start with a swap whose fate is unknown (its client died
//!   or gave up), join to one chain that ends with the value read at the end;
//! - no swap stands behind one that was started only after it had been answered (real-time order).
//!
//! The check is not a whole linearizability checker: it knows one kind of operation, and orders unknown swaps only as
//! far as others saw them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// One swap, as its client saw it.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The key.
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
    /// The key.
    pub key: String,
    /// What gives it away.
    pub what: String,
}

/// Checks the swaps of a run against the values read at its end (all keys that were swapped).
///
/// # Errors
/// The first thing found that cannot be.
pub fn check(swaps: &[Swap], last: &BTreeMap<String, Option<String>>) -> Result<(), Broken> {
    let mut by_key: BTreeMap<&str, Vec<&Swap>> = BTreeMap::new();
    for swap in swaps {
        by_key.entry(&swap.key).or_default().push(swap);
    }
    for (key, swaps) in by_key {
        let broken = |what: String| Broken { key: key.to_owned(), what };
        let last = last.get(key).ok_or_else(|| broken("was not read at the end".to_owned()))?;
        check_key(&swaps, last.as_deref()).map_err(broken)?;
    }
    Ok(())
}

fn check_key(swaps: &[&Swap], last: Option<&str>) -> Result<(), String> {
    let written: BTreeMap<&str, &Swap> = swaps.iter().map(|swap| (swap.new.as_str(), *swap)).collect();
    if written.len() != swaps.len() {
        return Err("the test itself wrote a value twice".to_owned());
    }
    let mut next: BTreeMap<Option<&str>, &Swap> = BTreeMap::new();
    for &swap in swaps {
        let Some((_, old)) = &swap.answer else { continue };
        if let Some(value) = old.as_deref().filter(|value| !written.contains_key(value)) {
            return Err(format!("{} replaced {value}, which nobody wrote", swap.new));
        }
        if let Some(other) = next.insert(old.as_deref(), swap) {
            return Err(format!("{old:?} was replaced twice, by {} and by {}", other.new, swap.new));
        }
    }
    // Chains begin with the absence or with a swap of unknown fate; answered swaps stand inside.
    let unknown = swaps.iter().filter(|swap| swap.answer.is_none());
    let heads: Vec<Option<&str>> = std::iter::once(None).chain(unknown.map(|swap| Some(swap.new.as_str()))).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut end_found = false;
    let mut chains_certain = 0;
    for &head in &heads {
        let chain = walk(head, &next);
        check_real_time(&chain)?;
        seen.extend(chain.iter().map(|swap| swap.new.as_str()));
        let end = chain.last().map_or(head, |swap| Some(swap.new.as_str()));
        end_found |= end == last;
        if head.is_none() && end == last {
            chains_certain = heads[1..].iter().filter(|&&head| next.contains_key(&head)).count();
        }
    }
    if !end_found {
        return Err(format!("the last value is {last:?}, which is no chain's end: a write was lost or came twice"));
    }
    if chains_certain > 0 {
        return Err(format!("{last:?} ends the first chain, yet {chains_certain} more chains were seen"));
    }
    match swaps.iter().find(|swap| swap.answer.is_some() && !seen.contains(swap.new.as_str())) {
        Some(lost) => Err(format!("{} was acknowledged and is in no chain", lost.new)),
        None => Ok(()),
    }
}

fn walk<'a>(head: Option<&'a str>, next: &BTreeMap<Option<&'a str>, &'a Swap>) -> Vec<&'a Swap> {
    let mut chain: Vec<&Swap> = Vec::new();
    let mut at = head;
    while let Some(&swap) = next.get(&at) {
        chain.push(swap);
        at = Some(&swap.new);
        if chain.len() > next.len() {
            break; // a circle; its members have two predecessors or none, which the caller reports
        }
    }
    chain
}

fn check_real_time(chain: &[&Swap]) -> Result<(), String> {
    let mut first_answer: Option<&Swap> = None;
    for &swap in chain.iter().rev() {
        if let Some(behind) = first_answer
            && behind.answer.as_ref().is_some_and(|(answered, _)| *answered < swap.started)
        {
            return Err(format!("{} stands behind {}, which began only after its answer", behind.new, swap.new));
        }
        let earlier = |other: &Swap| answered_at(swap) < answered_at(other);
        if first_answer.is_none_or(earlier) {
            first_answer = Some(swap);
        }
    }
    Ok(())
}

fn answered_at(swap: &Swap) -> Option<Instant> {
    swap.answer.as_ref().map(|(answered, _)| *answered)
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
        assert!(verdict(&swaps, Some("a")).unwrap_err().contains("no chain's end"));
    }

    #[test]
    fn check_acknowledged_last_write_lost_fails() {
        assert!(verdict(&[("a", Some(None)), ("b", Some(Some("a")))], Some("a")).is_err());
        assert!(verdict(&[("a", Some(None))], None).is_err());
    }

    #[test]
    fn check_value_from_nowhere_fails() {
        assert!(verdict(&[("a", Some(Some("x")))], Some("a")).unwrap_err().contains("nobody wrote"));
    }

    #[test]
    fn check_swap_behind_a_later_one_fails() {
        let swaps = [("b", Some(Some("a"))), ("a", Some(None))];
        assert!(verdict(&swaps, Some("b")).unwrap_err().contains("began only after"));
    }

    #[test]
    fn check_chain_that_nothing_leads_to_fails() {
        // u was applied, because b saw it; then the last value cannot be the end of the chain before it.
        let swaps = [("a", Some(None)), ("u", None), ("b", Some(Some("u")))];
        assert!(verdict(&swaps, Some("a")).unwrap_err().contains("more chains"));
    }
}
