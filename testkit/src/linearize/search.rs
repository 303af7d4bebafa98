//! The search: is there an order of a key's steps that a single register would have answered alike, and that respects
//! real time?
//!
//! Wing & Gong's search with Lowe's memory of what was tried ("Testing for linearizability", 2017), cut at quiescent
//! points. It walks along the *returns* of the steps. A configuration is: how many returns were passed, which of the
//! steps that are open there have taken effect already (a mask over slots), and the state. To pass a return its step
//! must have taken effect. Configurations that were met before are not tried again. Where no step is open the history
//! is cut: each piece hands the states that it can end in to the next.
//!
//! # What keeps it small
//! Each rule loses no order (the tests compare with brute force):
//! - A step that changes nothing and is allowed now takes effect now.
//! - A value that no one sees (any more) is *dead*: all dead values are one state. A PUT of a dead value that found the
//!   key present thus changes nothing in that state.
//! - If each value that is seen was written once, then a value with open observers cannot be left, except by the SWAP
//!   that saw it, as the last of them. So a write is followed by a forced run over its observers. A run that ends
//!   before it needs a step that is not called yet is *closed*.
//! - A closed run from dead to dead takes place at once. Of closed runs with equal demands and equal ends, the one with
//!   the earliest deadline goes first.
//! - A write without an answer whose value no one saw, or a DELETE without an answer, is a *spare*: it may make the key
//!   present (absent) once, at any time after its call. Spares are only counted; fewer used is better.
//! - A write without an answer whose value was seen has taken effect before the first of its observers returned.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::linearize::keys::{Effect, KeyHistory, Saw, ValueId};

/// Entries of the table of open steps; a history beyond it is left undecided, in 4 bytes each.
const OPEN_ENTRIES_MAX: usize = 100_000_000;
/// The state without a value.
const ABSENT: u32 = 0;
/// The state with a value that no one sees from now on.
const DEAD: u32 = 1;
/// The state with value 0; the others follow.
const LIVE: u32 = 2;
/// A return that never comes.
const NEVER: u32 = u32::MAX;

/// What a search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is an order.
    Order,
    /// There is none. In each attempt some step could not take effect before it returned; this is the place in
    /// [`KeyHistory::steps`] of the one that the longest attempt ended at.
    NoOrder {
        /// The step.
        stuck: usize,
    },
    /// The budget was used up, or too many steps are open at once.
    Undecided,
}

/// Searches for an order of `history`, with at most `budget` configurations. Also says how many were looked at.
pub(crate) fn search(history: &KeyHistory, budget: u64) -> (Found, u64) {
    let Some(plan) = Plan::new(history) else { return (Found::Undecided, 0) };
    match plan.slots.div_ceil(64) {
        0..=1 => Search::<1>::new(&plan, budget).run(),
        2 => Search::<2>::new(&plan, budget).run(),
        3..=8 => Search::<8>::new(&plan, budget).run(),
        9..=64 => Search::<64>::new(&plan, budget).run(),
        _ => (Found::Undecided, 0),
    }
}

/// A step that has its place in masks.
#[derive(Clone, Copy, Debug)]
struct Planned {
    /// Its place among all events.
    call: u32,
    /// Its place among the returns, or [`NEVER`].
    returned: u32,
    slot: u32,
    /// Whether and to which state it leads.
    leads_to: Option<u32>,
    saw: Saw,
}

/// What is known of a value's observers.
#[derive(Clone, Copy, Debug, Default)]
struct Observers {
    any: bool,
    /// The latest call of those that leave the value as it is.
    last_read_call: Option<u32>,
    /// The SWAP that saw it. If there are two, no order exists, whichever stands here.
    swap: Option<u32>,
}

/// A history, prepared.
struct Plan {
    steps: Vec<Planned>,
    start: u32,
    slots: usize,
    /// The steps that return, in that order.
    returns: Vec<u32>,
    /// The place of each return among all events.
    return_places: Vec<u32>,
    /// For each return where its part of `open` begins; one more at the end.
    open_starts: Vec<usize>,
    /// The steps that were called before a return and do not return before it.
    open: Vec<u32>,
    observers: Vec<Observers>,
    /// Per return, how many spare writes were called before it.
    spare_ups: Vec<u32>,
    /// Per return, how many spare removals were called before it.
    spare_downs: Vec<u32>,
    /// After which returns nothing is open, the last one included.
    cuts: Vec<usize>,
    /// Whether each value that is seen was written once.
    unique: bool,
    /// From planned step to the history's.
    origins: Vec<usize>,
}

impl Plan {
    fn new(history: &KeyHistory) -> Option<Plan> {
        let values = history.values.len();
        let (mut writers, mut first_seen) = (vec![0u32; values], vec![None::<u64>; values]);
        let mut seen = vec![false; values];
        if let Some(start) = history.start {
            writers[start as usize] += 1;
        }
        for step in &history.steps {
            if let Effect::Set(value) = step.effect {
                writers[value as usize] += 1;
            }
            if let Saw::Value(value) = step.saw {
                seen[value as usize] = true;
                let first = &mut first_seen[value as usize];
                *first = step.returned.min(first.or(step.returned)).or(*first);
            }
        }
        let unique = (0..values).all(|value| !seen[value] || writers[value] <= 1);

        // Events: (time, is a return, step). Steps that overlap by an instant overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.steps.len());
        let (mut spare_ups, mut spare_downs) = (Vec::new(), Vec::new());
        let mut kept = vec![false; history.steps.len()];
        for (at, step) in history.steps.iter().enumerate() {
            let mut returned = step.returned;
            if returned.is_none() {
                match step.effect {
                    Effect::None => continue,
                    Effect::Remove => {
                        spare_downs.push(step.call);
                        continue;
                    }
                    Effect::Set(value) if !seen[value as usize] => {
                        spare_ups.push(step.call);
                        continue;
                    }
                    Effect::Set(value) if unique => {
                        returned = first_seen[value as usize].map(|seen| seen.max(step.call));
                    }
                    Effect::Set(_) => {}
                }
            }
            kept[at] = true;
            events.push((step.call, false, at));
            if let Some(returned) = returned {
                events.push((returned, true, at));
            }
        }
        events.sort_unstable();
        spare_ups.sort_unstable();
        spare_downs.sort_unstable();

        let mut plan = Plan {
            steps: Vec::new(),
            start: ABSENT,
            slots: 0,
            returns: Vec::new(),
            return_places: Vec::new(),
            open_starts: vec![0],
            open: Vec::new(),
            observers: vec![Observers::default(); values],
            spare_ups: Vec::new(),
            spare_downs: Vec::new(),
            cuts: Vec::new(),
            unique,
            origins: Vec::new(),
        };
        plan.start = history.start.map_or(ABSENT, |value| plan.state_of(value, &seen));
        let returns_later: Vec<bool> = {
            let mut later = vec![false; history.steps.len()];
            events.iter().filter(|event| event.1).for_each(|event| later[event.2] = true);
            later
        };
        let mut planned = vec![0u32; history.steps.len()];
        let (mut open, mut free): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut open_returning = 0usize;
        let (mut ups, mut downs) = (0, 0);
        for (place, &(time, is_return, at)) in events.iter().enumerate() {
            let step = &history.steps[at];
            if is_return {
                while spare_ups.get(ups).is_some_and(|&call| call <= time) {
                    ups += 1;
                }
                while spare_downs.get(downs).is_some_and(|&call| call <= time) {
                    downs += 1;
                }
                let this = planned[at];
                plan.steps[this as usize].returned = plan.returns.len() as u32;
                plan.returns.push(this);
                plan.return_places.push(place as u32);
                plan.open.extend_from_slice(&open);
                plan.open_starts.push(plan.open.len());
                plan.spare_ups.push(ups as u32);
                plan.spare_downs.push(downs as u32);
                open.retain(|&other| other != this);
                free.push(plan.steps[this as usize].slot);
                open_returning -= 1;
                if open_returning == 0 {
                    plan.cuts.push(plan.returns.len());
                }
                if plan.open.len() > OPEN_ENTRIES_MAX {
                    return None;
                }
                continue;
            }
            let slot = free.pop().unwrap_or_else(|| {
                plan.slots += 1;
                plan.slots as u32 - 1
            });
            planned[at] = plan.steps.len() as u32;
            open.push(planned[at]);
            open_returning += usize::from(returns_later[at]);
            if let Saw::Value(value) = step.saw {
                let observers = &mut plan.observers[value as usize];
                observers.any = true;
                if step.effect == Effect::None {
                    observers.last_read_call = observers.last_read_call.max(Some(place as u32));
                } else {
                    observers.swap = observers.swap.or(Some(planned[at]));
                }
            }
            let leads_to = match step.effect {
                Effect::None => None,
                Effect::Remove => Some(ABSENT),
                Effect::Set(value) => Some(plan.state_of(value, &seen)),
            };
            plan.steps.push(Planned { call: place as u32, returned: NEVER, slot, leads_to, saw: step.saw });
            plan.origins.push(at);
        }
        Some(plan)
    }

    fn state_of(&self, value: ValueId, seen: &[bool]) -> u32 {
        if seen[value as usize] { LIVE + value } else { DEAD }
    }

    fn open_at(&self, passed: usize) -> &[u32] {
        &self.open[self.open_starts[passed]..self.open_starts[passed + 1]]
    }
}

/// Which open steps have taken effect, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mask<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Mask<WORDS> {
    fn has(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] & (1 << (slot % 64)) != 0
    }

    fn set(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn clear(&mut self, slot: u32) {
        self.0[slot as usize / 64] &= !(1 << (slot % 64));
    }
}

#[derive(Clone, Copy, Debug)]
struct Configuration<const WORDS: usize> {
    /// How many returns were passed.
    passed: usize,
    done: Mask<WORDS>,
    state: u32,
    /// Spares used so far.
    ups: u32,
    downs: u32,
}

/// Where a forced run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Absent or dead: free to go on with any write.
    Closed,
    /// At a value with observers that are not called yet, or, if values are not unique, at any value that is seen.
    Open,
}

/// Per place and state, the numbers of spares with which it was reached, none worse than another.
type Reached<const WORDS: usize> = HashMap<(usize, Mask<WORDS>, u32), Vec<(u32, u32)>>;

struct Search<'p, const WORDS: usize> {
    plan: &'p Plan,
    budget: u64,
    looked_at: u64,
    reached: Reached<WORDS>,
    /// The most returns that were passed.
    furthest: usize,
}

impl<'p, const WORDS: usize> Search<'p, WORDS> {
    fn new(plan: &'p Plan, budget: u64) -> Search<'p, WORDS> {
        Search { plan, budget, looked_at: 0, reached: HashMap::new(), furthest: 0 }
    }

    fn run(mut self) -> (Found, u64) {
        let start = Configuration { passed: 0, done: Mask([0; WORDS]), state: self.plan.start, ups: 0, downs: 0 };
        let mut starts = vec![start];
        for (number, &end) in self.plan.cuts.iter().enumerate() {
            let one_is_enough = number + 1 == self.plan.cuts.len();
            self.reached.clear();
            match self.piece(&starts, end, one_is_enough) {
                None => return (Found::Undecided, self.looked_at),
                Some(ends) if ends.is_empty() => {
                    let stuck = self.plan.origins[self.plan.returns[self.furthest] as usize];
                    return (Found::NoOrder { stuck }, self.looked_at);
                }
                Some(ends) => starts = ends,
            }
        }
        (Found::Order, self.looked_at)
    }

    /// All configurations (or one) in which the piece up to return `end` can end; `None` if the budget is used up.
    fn piece(
        &mut self,
        starts: &[Configuration<WORDS>],
        end: usize,
        one_is_enough: bool,
    ) -> Option<Vec<Configuration<WORDS>>> {
        let mut stack: Vec<Configuration<WORDS>> = Vec::new();
        let mut next = Vec::new();
        for &start in starts {
            next.push(start);
            loop {
                // Last in, first out; so the best of the choices comes last.
                for mut configuration in next.drain(..) {
                    self.settle(&mut configuration, end);
                    self.furthest = self.furthest.max(configuration.passed.min(self.plan.returns.len() - 1));
                    if self.is_new(&configuration) {
                        stack.push(configuration);
                    }
                }
                let Some(configuration) = stack.pop() else { break };
                if configuration.passed == end {
                    if one_is_enough {
                        return Some(vec![configuration]);
                    }
                    continue;
                }
                self.looked_at += 1;
                if self.looked_at > self.budget {
                    return None;
                }
                self.choices(&configuration, &mut next);
            }
        }
        let mut ends = Vec::new();
        for (&(passed, done, state), spares) in &self.reached {
            if passed == end {
                let with = |&(ups, downs): &(u32, u32)| Configuration { passed, done, state, ups, downs };
                ends.extend(spares.iter().map(with));
            }
        }
        // The map's order is random; the search shall not be.
        ends.sort_unstable_by_key(|end| (end.done, end.state, end.ups, end.downs));
        Some(ends)
    }

    fn is_new(&mut self, configuration: &Configuration<WORDS>) -> bool {
        let spares = (configuration.ups, configuration.downs);
        match self.reached.entry((configuration.passed, configuration.done, configuration.state)) {
            Entry::Vacant(entry) => {
                entry.insert(vec![spares]);
                true
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                if known.iter().any(|other| other.0 <= spares.0 && other.1 <= spares.1) {
                    return false;
                }
                known.retain(|other| other.0 < spares.0 || other.1 < spares.1);
                known.push(spares);
                true
            }
        }
    }

    /// Takes every step that is forced or free of choice, and passes the returns that this allows.
    fn settle(&self, configuration: &mut Configuration<WORDS>, end: usize) {
        while configuration.passed < end {
            self.calm(configuration);
            let step = &self.plan.steps[self.plan.returns[configuration.passed] as usize];
            if !configuration.done.has(step.slot) {
                return;
            }
            while configuration.passed < end {
                let step = &self.plan.steps[self.plan.returns[configuration.passed] as usize];
                if !configuration.done.has(step.slot) {
                    break;
                }
                configuration.done.clear(step.slot);
                configuration.passed += 1;
            }
        }
    }

    /// Takes the steps that change nothing, and closed runs from dead to dead.
    fn calm(&self, configuration: &mut Configuration<WORDS>) {
        if configuration.state >= LIVE {
            self.forced_run(configuration);
        }
        if configuration.state >= LIVE {
            return;
        }
        loop {
            let mut again = false;
            for &number in self.plan.open_at(configuration.passed) {
                let step = &self.plan.steps[number as usize];
                if configuration.done.has(step.slot) {
                    continue;
                }
                match (configuration.state, step.saw, step.leads_to) {
                    (ABSENT, Saw::Absent, None) => configuration.done.set(step.slot),
                    (DEAD, Saw::Present, None | Some(DEAD)) => configuration.done.set(step.slot),
                    (DEAD, Saw::Present, Some(LIVE..)) if self.plan.unique => {
                        let mut after = *configuration;
                        if self.take(&mut after, number) == Run::Closed {
                            *configuration = after;
                            again = true; // the run may have taken steps that were passed over
                        }
                    }
                    _ => {}
                }
            }
            if !again {
                return;
            }
        }
    }

    /// Lets an open write take effect, and what it forces.
    fn take(&self, configuration: &mut Configuration<WORDS>, number: u32) -> Run {
        let step = &self.plan.steps[number as usize];
        configuration.done.set(step.slot);
        configuration.state = step.leads_to.unwrap_or(configuration.state);
        if configuration.state >= LIVE { self.forced_run(configuration) } else { Run::Closed }
    }

    /// At a value: takes its reads that are open, and if all its observers are, goes on to the SWAP that ends it, or it
    /// becomes dead.
    fn forced_run(&self, configuration: &mut Configuration<WORDS>) -> Run {
        let open = self.plan.open_at(configuration.passed);
        let now = self.plan.return_places[configuration.passed];
        loop {
            let value = configuration.state - LIVE;
            for &number in open {
                let step = &self.plan.steps[number as usize];
                if step.saw == Saw::Value(value) && step.leads_to.is_none() {
                    configuration.done.set(step.slot);
                }
            }
            let observers = &self.plan.observers[value as usize];
            if !self.plan.unique || observers.last_read_call.is_some_and(|call| call > now) {
                return Run::Open;
            }
            let Some(swap) = observers.swap else {
                configuration.state = DEAD;
                return Run::Closed;
            };
            let step = &self.plan.steps[swap as usize];
            // It may have taken effect before only where values come back, and then we are not here; see `unique`.
            if step.call > now || step.returned < configuration.passed as u32 || configuration.done.has(step.slot) {
                return Run::Open;
            }
            configuration.done.set(step.slot);
            configuration.state = step.leads_to.unwrap_or(DEAD);
            if configuration.state < LIVE {
                return Run::Closed;
            }
        }
    }

    /// Where one can go from a settled configuration whose next return waits for its step. The best comes last.
    fn choices(&self, from: &Configuration<WORDS>, choices: &mut Vec<Configuration<WORDS>>) {
        let plan = self.plan;
        if plan.unique && from.state >= LIVE {
            return; // it cannot be left before its observers are called
        }
        let waits = plan.steps[plan.returns[from.passed] as usize].slot;
        // The closed run with the earliest deadline, per demand and end: [Anything, flag] x [ABSENT, DEAD].
        let mut best: [Option<(u32, Configuration<WORDS>)>; 4] = [None; 4];
        let mut open_ends = Vec::new();
        for &number in plan.open_at(from.passed) {
            let step = &plan.steps[number as usize];
            let allowed = match step.saw {
                Saw::Anything => true,
                Saw::Absent => from.state == ABSENT,
                Saw::Present => from.state != ABSENT,
                Saw::Value(value) => from.state == LIVE + value,
            };
            if step.leads_to.is_none() || !allowed || from.done.has(step.slot) {
                continue;
            }
            let mut after = *from;
            let run = self.take(&mut after, number);
            if !plan.unique {
                open_ends.push(after);
            } else if run == Run::Open {
                // Nothing else can happen before a further call, so the next return must be in the run.
                if after.done.has(waits) {
                    open_ends.push(after);
                }
            } else {
                let class = usize::from(step.saw != Saw::Anything) + 2 * usize::from(after.state == DEAD);
                let deadline = self.deadline(from, &after);
                if best[class].as_ref().is_none_or(|other| deadline < other.0) {
                    best[class] = Some((deadline, after));
                }
            }
        }
        // A spare is worth nothing while a step that must happen anyway does the same.
        let spare_is_idle = |end: u32| best[2 * usize::from(end == DEAD) + 1].is_some();
        if from.state == ABSENT && !spare_is_idle(DEAD) && from.ups < plan.spare_ups[from.passed] {
            choices.push(Configuration { state: DEAD, ups: from.ups + 1, ..*from });
        }
        if from.state != ABSENT && !spare_is_idle(ABSENT) && from.downs < plan.spare_downs[from.passed] {
            choices.push(Configuration { state: ABSENT, downs: from.downs + 1, ..*from });
        }
        choices.extend(best.into_iter().flatten().map(|(_, after)| after));
        choices.extend(open_ends);
    }

    /// The first return among the steps that took effect between two configurations at the same place.
    fn deadline(&self, before: &Configuration<WORDS>, after: &Configuration<WORDS>) -> u32 {
        let steps = self.plan.open_at(before.passed).iter().map(|&number| &self.plan.steps[number as usize]);
        let took = steps.filter(|step| after.done.has(step.slot) && !before.done.has(step.slot));
        took.map(|step| step.returned).min().unwrap_or(NEVER)
    }
}
