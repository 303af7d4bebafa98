//! The smallest part of a key's history that has no order.
//!
//! Leaving an operation out can make a history *worse* (a value appears from nowhere), so nothing is simply left out.
//! Each step only ever demands less than before, so what still has no order shows that the whole has none:
//! - The end is cut: what returned later has an unknown outcome.
//! - The beginning is cut: what returned before is forgotten, and the key may have held anything then. What was under
//!   way at the cut takes effect some time, whatever it saw.
//! - One by one: a read is dropped, a write's outcome becomes unknown, or at least what it saw is ignored.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::linearize::keys::{Effect, KeyHistory, Saw, Step, ValueId};
use crate::linearize::search::{Found, search};

/// The most steps for which the longest possible order is sought.
const EXPLAINED_STEPS_MAX: usize = 8;

/// How an operation stands in the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is needed with all that it says.
    Needed,
    /// It is needed, but not what it saw.
    AnswerIgnored,
    /// It could have taken effect at any time, or never; it is here because it wrote a value that was seen.
    Context,
}

/// What shows that a history has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The operations, as places in the history, by time.
    pub operations: Vec<(usize, Role)>,
    /// The operation that the longest attempt cannot place, as a place in the history.
    pub stuck: Option<usize>,
    /// Why there is no order, in a sentence or two. Numbers are places among those that are no context, from 1.
    pub why: String,
    /// How many other operations on the key do not matter: whatever they did, there is no order.
    pub others: usize,
}

/// A part of a history, and what is not known about it.
#[derive(Clone, Debug)]
struct Part<'h> {
    whole: &'h KeyHistory,
    steps: Vec<Step>,
    /// Before this time anything may have happened; 0: the part begins with the history.
    cut: u64,
    budget: u64,
}

impl Part<'_> {
    /// Whether it certainly has no order. If the search cannot say, the part is no evidence.
    fn fails(&self) -> bool {
        // Only the values that stand in the steps, so that a small part is cheap.
        let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut renumbered = |value: ValueId| {
            let next = ids.len() as ValueId;
            *ids.entry(value).or_insert(next)
        };
        let start = self.whole.start.filter(|_| self.cut == 0).map(&mut renumbered);
        let mut steps = self.steps.clone();
        for step in &mut steps {
            if let Effect::Set(value) = &mut step.effect {
                *value = renumbered(*value);
            }
            if let Saw::Value(value) = &mut step.saw {
                *value = renumbered(*value);
            }
        }
        let no_one_saw = ids.len() as ValueId;
        let values = vec![Bytes::new(); ids.len() + 1];
        let mut history = KeyHistory { key: Bytes::new(), start, steps, values };
        if self.cut == 0 {
            return matches!(search(&history, self.budget).0, Found::NoOrder { .. });
        }
        // What was before the cut: absence, a value that no one saw, or one that was seen and not written since.
        let mut written = vec![false; history.values.len()];
        let mut seen = vec![false; history.values.len()];
        for step in &history.steps {
            if let Effect::Set(value) = step.effect {
                written[value as usize] = true;
            }
            if let Saw::Value(value) = step.saw {
                seen[value as usize] = true;
            }
        }
        let mut before = vec![Effect::Remove, Effect::Set(no_one_saw)];
        let from_before = (0..no_one_saw).filter(|&value| seen[value as usize] && !written[value as usize]);
        // If there are two, each of them lacks the other.
        before.extend(from_before.take(2).map(Effect::Set));
        let count = history.steps.len();
        before.into_iter().all(|effect| {
            let returned = Some(self.cut - 1);
            let first = Step { source: usize::MAX, call: 0, returned, effect, saw: Saw::Anything };
            history.steps.truncate(count);
            history.steps.push(first);
            matches!(search(&history, self.budget).0, Found::NoOrder { .. })
        })
    }

    /// Without the writes of unknown outcome that are too many to matter: between two other steps one that makes the
    /// key present and one that makes it absent are enough, and the earlier they were called the better.
    fn without_surplus(mut self) -> Self {
        let mut seen: Vec<ValueId> = Vec::new();
        for step in &self.steps {
            if let Saw::Value(value) = step.saw {
                seen.push(value);
            }
        }
        seen.sort_unstable();
        let is_spare = |step: &Step| match step.effect {
            Effect::None => false,
            Effect::Remove => step.returned.is_none(),
            Effect::Set(value) => step.returned.is_none() && seen.binary_search(&value).is_err(),
        };
        let (mut spares, mut steps): (Vec<Step>, Vec<Step>) = self.steps.iter().partition(|step| is_spare(step));
        spares.sort_by_key(|step| step.call);
        let enough = steps.len() + 2;
        let (mut removals, mut writes) = (0, 0);
        spares.retain(|step| {
            let count = if step.effect == Effect::Remove { &mut removals } else { &mut writes };
            *count += 1;
            *count <= enough
        });
        steps.extend(spares);
        self.steps = steps;
        self
    }

    fn with(&self, steps: Vec<Step>) -> Self {
        Part { steps, ..self.clone() }
    }
}

/// Demands nothing of a step any more; `None` if nothing is left of it.
fn relaxed(step: &Step) -> Option<Step> {
    (step.effect != Effect::None).then_some(Step { returned: None, saw: Saw::Anything, ..*step })
}

/// Shrinks a history that has no order; its search ended at the step `stuck`. `budget` is for each of many searches.
pub(crate) fn shrink(history: &KeyHistory, stuck: usize, budget: u64) -> Evidence {
    let whole = Part { whole: history, steps: history.steps.clone(), cut: 0, budget };
    let part = cut_end(whole, history.steps[stuck].returned);
    let part = cut_beginning(part);
    let part = relax(part);
    evidence(&part)
}

/// The shortest beginning that has no order: up to the return that the search could not pass.
fn cut_end<'h>(whole: Part<'h>, end: Option<u64>) -> Part<'h> {
    let Some(end) = end else { return whole };
    let steps = whole.steps.iter().filter(|step| step.call <= end);
    // `None <= Some(_)`: unknown outcomes stay.
    let steps = steps.filter_map(|step| if step.returned <= Some(end) { Some(*step) } else { relaxed(step) });
    let part = whole.with(steps.collect()).without_surplus();
    if part.fails() { part } else { whole }
}

/// The latest cut after which it has no order.
fn cut_beginning<'h>(whole: Part<'h>) -> Part<'h> {
    let mut cuts: Vec<u64> = whole.steps.iter().map(|step| step.call).filter(|&call| call > 0).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let from = |cut: u64| {
        let steps = whole.steps.iter().filter_map(|step| match step.returned {
            Some(returned) if returned < cut => None,
            Some(_) if step.call < cut => (step.effect != Effect::None).then_some(Step { saw: Saw::Anything, ..*step }),
            _ => Some(*step),
        });
        Part { cut, ..whole.with(steps.collect()) }.without_surplus()
    };
    // From the end in growing steps, because what shows it mostly lies near the end: short parts are cheap.
    let (mut low, mut high) = (cuts.len(), cuts.len());
    let mut stride = 8;
    while low > 0 {
        low = low.saturating_sub(stride);
        if from(cuts[low]).fails() {
            break;
        }
        high = low;
        stride *= 2;
    }
    if low == high {
        return whole; // no cut is early enough
    }
    // The cut at `low` fails, that at `high` does not, or is the end.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if from(cuts[middle]).fails() { low = middle } else { high = middle }
    }
    from(cuts[low])
}

/// Demands less of as many steps as possible, many at a time first.
fn relax(mut part: Part<'_>) -> Part<'_> {
    let mut size = part.steps.len().next_power_of_two();
    while size >= 1 {
        let mut at = 0;
        while at < part.steps.len() {
            let chunk = at..(at + size).min(part.steps.len());
            let is_idle = part.steps[chunk.clone()].iter().all(|step| relaxed(step) == Some(*step));
            if !is_idle {
                let mut steps = part.steps.clone();
                steps.splice(chunk.clone(), part.steps[chunk.clone()].iter().filter_map(relaxed));
                let fewer = part.with(steps);
                if fewer.fails() {
                    let shrunk = part.steps.len() - fewer.steps.len();
                    at += chunk.len() - shrunk;
                    part = fewer;
                    continue;
                }
            }
            at += chunk.len();
        }
        size /= 2;
    }
    for at in 0..part.steps.len() {
        if part.steps[at].saw != Saw::Anything && part.steps[at].effect != Effect::None {
            let mut fewer = part.clone();
            fewer.steps[at].saw = Saw::Anything;
            if fewer.fails() {
                part = fewer;
            }
        }
    }
    part
}

fn evidence(part: &Part<'_>) -> Evidence {
    let is_needed = |step: &&Step| step.returned.is_some();
    let mut needed: Vec<&Step> = part.steps.iter().filter(is_needed).collect();
    needed.sort_by_key(|step| (step.call, step.source));
    let mut operations: Vec<(usize, Role)> = needed
        .iter()
        .map(|step| (step.source, if step.saw == Saw::Anything { Role::AnswerIgnored } else { Role::Needed }))
        .collect();
    // Who wrote what was seen: from the whole history, for the reader.
    for step in &needed {
        let Saw::Value(value) = step.saw else { continue };
        let wrote = |other: &&Step| other.effect == Effect::Set(value);
        for writer in part.whole.steps.iter().filter(wrote) {
            if operations.iter().all(|(source, _)| *source != writer.source) {
                operations.push((writer.source, Role::Context));
            }
        }
    }
    let call_of = |source: usize| part.whole.steps.iter().find(|step| step.source == source).map(|step| step.call);
    operations.sort_by_key(|&(source, _)| (call_of(source), source));
    operations.dedup();
    let (stuck, why) = explain(part, &needed);
    let others = part.whole.steps.len().saturating_sub(operations.len());
    Evidence { operations, stuck, why, others }
}

/// What the key may hold in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Not known: before the first write of the part, where the beginning was cut.
    AnyThing,
    Nothing,
    Value(ValueId),
}

/// The longest order of the needed steps that fits, and the step that cannot follow.
fn explain(part: &Part<'_>, needed: &[&Step]) -> (Option<usize>, String) {
    let name = |value: ValueId| crate::history::readable(&part.whole.values[value as usize]);
    if needed.len() > EXPLAINED_STEPS_MAX {
        return (
            None,
            format!("{} operations on this key have no order that explains all their answers.", needed.len()),
        );
    }
    let start = match (part.cut, part.whole.start) {
        (0, None) => Holds::Nothing,
        (0, Some(value)) => Holds::Value(value),
        _ => Holds::AnyThing,
    };
    let mut best: Vec<(usize, Holds)> = Vec::new();
    longest(needed, &mut Vec::new(), start, &mut best);
    let order: Vec<usize> = best.iter().map(|(at, _)| *at).collect();
    let holds = best.last().map_or(start, |(_, holds)| *holds);
    let left = (0..needed.len()).filter(|at| !order.contains(at));
    let Some(next) = left.min_by_key(|&at| needed[at].returned) else {
        return (None, "Only operations that are not shown stand between these and an order.".to_owned());
    };
    let step = needed[next];
    let saw = match step.saw {
        Saw::Anything => "has returned".to_owned(),
        Saw::Absent => "found the key absent".to_owned(),
        Saw::Present => "found the key present".to_owned(),
        Saw::Value(value) => format!("saw {}", name(value)),
    };
    let holds = match holds {
        Holds::AnyThing => "nothing is known of the key's value".to_owned(),
        Holds::Nothing => "the key is absent".to_owned(),
        Holds::Value(value) => format!("the key holds {}", name(value)),
    };
    let mut why = String::from("There is no order that explains these answers and respects time. ");
    if order.is_empty() {
        why += &format!("At the start {holds}, but operation {} {saw}.", next + 1);
    } else {
        let order: Vec<String> = order.iter().map(|at| (at + 1).to_string()).collect();
        why += &format!("One attempt: {}; then {holds}, but operation {} {saw}.", order.join(", then "), next + 1);
    }
    (Some(step.source), why)
}

fn longest(steps: &[&Step], done: &mut Vec<(usize, Holds)>, holds: Holds, best: &mut Vec<(usize, Holds)>) {
    if done.len() > best.len() {
        best.clone_from(done);
    }
    let left: Vec<usize> = (0..steps.len()).filter(|at| done.iter().all(|(other, _)| other != at)).collect();
    for &at in &left {
        let step = steps[at];
        let is_late = left.iter().any(|&other| steps[other].returned.is_some_and(|returned| returned < step.call));
        let fits = match (step.saw, holds) {
            (Saw::Anything, _) | (_, Holds::AnyThing) => true,
            (Saw::Absent, holds) => holds == Holds::Nothing,
            (Saw::Present, holds) => holds != Holds::Nothing,
            (Saw::Value(value), holds) => holds == Holds::Value(value),
        };
        if is_late || !fits {
            continue;
        }
        let after = match (step.effect, step.saw) {
            (Effect::Set(value), _) | (Effect::None, Saw::Value(value)) => Holds::Value(value),
            (Effect::Remove, _) | (Effect::None, Saw::Absent) => Holds::Nothing,
            (Effect::None, _) => holds,
        };
        done.push((at, after));
        longest(steps, done, after, best);
        done.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearize::brute::{Mix, linearizable, random};
    use crate::linearize::keys::split;
    use crate::linearize::known::history;
    use crate::linearize::sample::{Sample, sample};

    const BUDGET: u64 = 100_000;

    fn stuck(key: &KeyHistory) -> usize {
        match search(key, BUDGET).0 {
            Found::NoOrder { stuck } => stuck,
            other => panic!("{other:?}"),
        }
    }

    fn evidence_of(lines: &str) -> Evidence {
        let history = history(lines);
        let key = &split(&history)[0];
        shrink(key, stuck(key), BUDGET)
    }

    #[test]
    fn shrink_stale_read_among_others_leaves_what_shows_it() {
        let evidence = evidence_of(
            "0 1 2 PUT k a -> not_found\n1 1 3 GET k -> absent\n0 4 5 PUT k b -> found\n1 5 8 GET k -> value b\n\
             2 6 9 PUT k c -> found\n0 10 11 GET k -> value a\n1 12 13 DELETE k -> found\n1 14 15 GET k -> absent",
        );
        let needed: Vec<usize> =
            evidence.operations.iter().filter(|(_, role)| *role != Role::Context).map(|(at, _)| *at).collect();
        assert_eq!(needed, [4, 5], "{evidence:?}");
        assert_eq!(evidence.operations[0], (0, Role::Context), "who wrote the old value");
        assert_eq!(evidence.stuck, Some(5));
        assert_eq!(
            evidence.why,
            "There is no order that explains these answers and respects time. \
             One attempt: 1; then the key holds c, but operation 2 saw a."
        );
    }

    #[test]
    fn shrink_random_bad_histories_evidence_fails_by_itself_and_is_minimal() {
        let mut shrunk = 0;
        for seed in 0..1_500 {
            let mix = Mix { operations: 9, keys: 1, clients: 4, values_repeat: false, unknown: 15, lies: 1 };
            let history = random(seed, mix);
            if linearizable(&history) {
                continue;
            }
            let keys = split(&history);
            let whole = Part { whole: &keys[0], steps: keys[0].steps.clone(), cut: 0, budget: BUDGET };
            let part = relax(cut_beginning(cut_end(whole, keys[0].steps[stuck(&keys[0])].returned)));
            assert!(part.fails(), "seed {seed}");
            for at in 0..part.steps.len() {
                if relaxed(&part.steps[at]) == Some(part.steps[at]) {
                    continue;
                }
                let mut steps = part.steps.clone();
                steps.splice(at..=at, relaxed(&part.steps[at]));
                assert!(!part.with(steps).fails(), "seed {seed}: step {at} of {:?} is not needed", part.steps);
            }
            shrunk += 1;
        }
        assert!(shrunk > 300, "{shrunk}");
    }

    #[test]
    fn shrink_large_history_leaves_a_handful() {
        let plan = Sample { operations: 5_000, clients: 12, keys: 1, unknown: 50 };
        for seed in 0..4 {
            let mut history = sample(seed, plan);
            // A PUT in the middle claims the opposite of what it found, or a GET an old value.
            let at = history.operations.iter().enumerate().skip(2_500).find_map(|(at, operation)| {
                matches!(operation.answer(), Some(crate::history::Answer::Value(Some(_)))).then_some(at)
            });
            let old = crate::history::Answer::Value(Some(bytes::Bytes::from_static(b"v1")));
            if let crate::history::Outcome::Answered { answer, .. } = &mut history.operations[at.unwrap()].outcome {
                *answer = old;
            }
            let key = &split(&history)[0];
            let evidence = shrink(key, stuck(key), BUDGET);
            assert!(evidence.operations.len() <= 6, "{evidence:?}");
        }
    }
}
