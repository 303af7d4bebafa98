//! The second check: version chains. Linear time apart from sorting; shares nothing with the search but the splitting
//! into keys.
//!
//! Each value that was seen was written once, so each *version* of a key has one writer and known observers, and a SWAP
//! says which version followed which: versions link up into *chains*, with nothing in between. A chain existed from the
//! first return among its steps (`low`) until the last call (`high`), if that is later; then its zone is *certain*. If
//! `low` comes later, it existed at some moment between. One chain comes before another if a step of it returned before
//! a step of the other was called; both ways round is a contradiction (Gibbons & Korach, "Testing shared memories").
//!
//! # Limits
//! What it finds is wrong for certain; but it does not find everything. Absences have no identity, so a DELETE and the
//! flags of PUT are only counted: becoming present and becoming absent must be able to alternate. Keys on which a value
//! was written twice are left to the search.
//!
//! # SCANs at one moment
//! All keys of one partition in a SCAN must have been as they were seen at *one* moment between call and return. Each
//! version bounds that moment (not before what preceded its chain was gone, not after what followed was there), each
//! absence forbids the times at which its key certainly had a value. A moment that all allow must be left. The search
//! cannot see this: it looks at one key at a time. Not found are SCANs that contradict each other only through the
//! order in which they saw versions whose time is not known.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use madkv_proto::slots::{SLOTS, slot_of};

use crate::history::{Action, Answer, History, Operation, Outcome, readable};
use crate::linearize::keys::{Effect, KeyHistory, Saw, Step};

/// Times here may lie before 0: the start of everything.
type Time = i128;
/// Before everything.
const START: Time = -1;
/// Later than everything.
const END: Time = Time::MAX;

/// Something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// What, in one sentence.
    pub(crate) what: String,
    /// The operations that it can be seen in, as places in [`History::operations`].
    pub(crate) sources: Vec<usize>,
}

/// A step's part in a zone.
#[derive(Clone, Copy, Debug)]
struct Bound {
    time: Time,
    /// The operation; `None`: the start.
    source: Option<usize>,
}

/// When a version, or a chain of them, existed.
#[derive(Clone, Copy, Debug)]
struct Zone {
    /// The first return among its steps.
    low: Bound,
    /// The last call among them.
    high: Bound,
}

impl Zone {
    const EMPTY: Zone = Zone { low: Bound { time: END, source: None }, high: Bound { time: START - 1, source: None } };

    fn add(&mut self, step: &Step) {
        let (call, returned) = (Time::from(step.call), step.returned.map_or(END, Time::from));
        self.join(Zone {
            low: Bound { time: returned, source: Some(step.source) },
            high: Bound { time: call, source: Some(step.source) },
        });
    }

    fn join(&mut self, other: Zone) {
        if other.low.time < self.low.time {
            self.low = other.low;
        }
        if other.high.time > self.high.time {
            self.high = other.high;
        }
    }

    /// Whether it existed for certain from `low` to `high`.
    fn is_certain(&self) -> bool {
        self.low.time < self.high.time
    }
}

/// What follows from one key's versions.
pub(crate) struct Chains {
    /// When the key certainly had some value, borders excluded; by time, without overlaps.
    present: Vec<(Time, Time)>,
    /// Per value: the earliest and the latest moment at which it may have been there.
    windows: Vec<(Time, Time)>,
}

/// Checks one key. `Ok(None)`: a value was written twice, so there are no versions.
///
/// # Errors
/// What cannot be.
pub(crate) fn check_key(history: &KeyHistory, operations: &[Operation]) -> Result<Option<Chains>, Contradiction> {
    let count = history.values.len();
    let mut writers: Vec<Option<&Step>> = vec![None; count];
    let mut written = vec![0u32; count];
    let mut seen: Vec<Option<&Step>> = vec![None; count];
    let mut next: Vec<Option<&Step>> = vec![None; count];
    for step in &history.steps {
        if let Effect::Set(value) = step.effect {
            writers[value as usize] = Some(step);
            written[value as usize] += 1;
        }
        if let Saw::Value(value) = step.saw {
            seen[value as usize] = seen[value as usize].or(Some(step));
        }
    }
    if let Some(start) = history.start {
        written[start as usize] += 1;
    }
    // Seen or not: two writes of one value would be taken for one version.
    if written.iter().any(|&times| times > 1) {
        return Ok(None);
    }
    let name = |value: usize| readable(&history.values[value]);
    for value in 0..count {
        if let (Some(observer), 0) = (seen[value], written[value]) {
            let failed = operations.iter().position(|operation| {
                let (Action::Put { key, value: own } | Action::Swap { key, value: own }) = &operation.action else {
                    return false;
                };
                *key == history.key
                    && *own == history.values[value]
                    && matches!(operation.outcome, Outcome::NotDone { .. })
            });
            let why = if failed.is_some() { "whose write certainly failed" } else { "which no one wrote" };
            let sources = failed.into_iter().chain([observer.source]).collect();
            return Err(Contradiction { what: format!("{} was seen, {why}", name(value)), sources });
        }
    }
    // Zones of versions, and which followed which.
    let mut zones = vec![Zone::EMPTY; count];
    let exists: Vec<bool> = (0..count)
        .map(|value| {
            let answered = writers[value].is_some_and(|step| step.returned.is_some());
            seen[value].is_some() || answered || history.start == Some(value as u32)
        })
        .collect();
    if let Some(start) = history.start {
        let bound = Bound { time: START, source: None };
        zones[start as usize] = Zone { low: bound, high: bound };
    }
    for step in &history.steps {
        if let Effect::Set(value) = step.effect {
            zones[value as usize].add(step);
        }
        let Saw::Value(value) = step.saw else { continue };
        let value = value as usize;
        if let Some(writer) = writers[value]
            && step.returned.is_some_and(|returned| returned < writer.call)
        {
            let what = format!("{} was seen before its write began", name(value));
            return Err(Contradiction { what, sources: vec![step.source, writer.source] });
        }
        zones[value].add(step);
        if let Effect::Set(_) = step.effect
            && let Some(other) = next[value].replace(step)
        {
            let what = format!("{} was replaced twice", name(value));
            return Err(Contradiction { what, sources: vec![other.source, step.source] });
        }
    }
    let chains = link(history, &exists, &writers, &next, &zones)?;
    let mut whole: Vec<Zone> = Vec::with_capacity(chains.len());
    for chain in &chains {
        let mut zone = Zone::EMPTY;
        chain.iter().for_each(|&value| zone.join(zones[value]));
        whole.push(zone);
    }
    disjoint(&whole)?;
    let present = present(history, &whole);
    absences(history, &present)?;
    alternation(history)?;
    let windows = windows(history, &chains, &zones, &whole, &writers);
    Ok(Some(Chains { present, windows }))
}

/// The chains of versions, each in its order.
fn link(
    history: &KeyHistory,
    exists: &[bool],
    writers: &[Option<&Step>],
    next: &[Option<&Step>],
    zones: &[Zone],
) -> Result<Vec<Vec<usize>>, Contradiction> {
    let count = exists.len();
    let is_head = |value: usize| !writers[value].is_some_and(|step| matches!(step.saw, Saw::Value(_)));
    let mut in_chain = vec![false; count];
    let mut chains = Vec::new();
    for head in (0..count).filter(|&value| exists[value] && is_head(value)) {
        let mut chain = vec![head];
        in_chain[head] = true;
        let mut at = head;
        while let Some(Step { effect: Effect::Set(value), .. }) = next[at] {
            at = *value as usize;
            if std::mem::replace(&mut in_chain[at], true) {
                break; // a circle that hangs on the chain; impossible while each version has one writer
            }
            chain.push(at);
        }
        // Looking back from the end: what follows must not be over before what it followed.
        let mut later = Zone::EMPTY;
        for &value in chain.iter().rev() {
            if later.low.time < zones[value].high.time {
                let what = format!(
                    "what replaced {} was there before the last that saw it began",
                    readable(&history.values[value])
                );
                let sources = [later.low.source, zones[value].high.source].into_iter().flatten().collect();
                return Err(Contradiction { what, sources });
            }
            later.join(zones[value]);
        }
        chains.push(chain);
    }
    if let Some(value) = (0..count).find(|&value| exists[value] && !in_chain[value]) {
        let what = format!(
            "{} is in a circle of SWAPs, each of which saw the next one's value",
            readable(&history.values[value])
        );
        return Err(Contradiction { what, sources: writers[value].map(|step| step.source).into_iter().collect() });
    }
    Ok(chains)
}

/// Checks that no two zones contradict.
fn disjoint(zones: &[Zone]) -> Result<(), Contradiction> {
    let both = |left: &Zone, right: &Zone| {
        let what = "two versions must each come before the other".to_owned();
        let sources = [left.low, left.high, right.low, right.high].into_iter().filter_map(|bound| bound.source);
        let mut sources: Vec<usize> = sources.collect();
        sources.sort_unstable();
        sources.dedup();
        Contradiction { what, sources }
    };
    let mut certain: Vec<&Zone> = zones.iter().filter(|zone| zone.is_certain()).collect();
    certain.sort_by_key(|zone| zone.low.time);
    for pair in certain.windows(2) {
        if pair[1].low.time < pair[0].high.time {
            return Err(both(pair[0], pair[1]));
        }
    }
    for zone in zones.iter().filter(|zone| !zone.is_certain()) {
        // The others are disjoint, so only the last that begins before can be around this one.
        let before = certain.partition_point(|other| other.low.time < zone.high.time);
        if let Some(around) = certain[..before].last().filter(|around| zone.low.time < around.high.time) {
            return Err(both(around, zone));
        }
    }
    Ok(())
}

/// When the key certainly had some value: from a chain's `low` until someone can have removed it.
fn present(history: &KeyHistory, zones: &[Zone]) -> Vec<(Time, Time)> {
    // Removals by their return, with the earliest call from there on.
    let removals = history.steps.iter().filter(|step| step.effect == Effect::Remove);
    let mut removals: Vec<(Time, Time)> =
        removals.map(|step| (step.returned.map_or(END, Time::from), Time::from(step.call))).collect();
    removals.sort_unstable();
    let mut earliest = END;
    for removal in removals.iter_mut().rev() {
        earliest = earliest.min(removal.1);
        removal.1 = earliest;
    }
    let mut found: Vec<(Time, Time)> = Vec::new();
    for zone in zones {
        // What ends it comes after `high`, which it outlived.
        let behind = removals.partition_point(|removal| removal.0 < zone.high.time);
        let until = removals.get(behind).map_or(END, |removal| removal.1.max(zone.high.time));
        if zone.low.time < until {
            found.push((zone.low.time, until));
        }
    }
    found.sort_unstable();
    let mut merged: Vec<(Time, Time)> = Vec::with_capacity(found.len());
    for (from, until) in found {
        match merged.last_mut() {
            Some(last) if from < last.1 => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}

/// No one may have seen an absence while the key certainly had a value.
fn absences(history: &KeyHistory, present: &[(Time, Time)]) -> Result<(), Contradiction> {
    for step in history.steps.iter().filter(|step| step.saw == Saw::Absent) {
        let Some(returned) = step.returned.map(Time::from) else { continue };
        let before = present.partition_point(|(from, _)| *from < Time::from(step.call));
        if present[..before].last().is_some_and(|(_, until)| returned < *until) {
            let what = "the key was seen absent while it certainly had a value".to_owned();
            return Err(Contradiction { what, sources: vec![step.source] });
        }
    }
    Ok(())
}

/// Becoming present and becoming absent must be able to alternate; someone who saw a value needs one to be there.
fn alternation(history: &KeyHistory) -> Result<(), Contradiction> {
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Event {
        MayRise,
        MayFall,
        Rose,
        Fell,
        Present,
    }
    let mut events: Vec<(Time, Event, usize)> = Vec::new();
    for step in &history.steps {
        let (call, returned) = (Time::from(step.call), step.returned.map(Time::from));
        let (may, did) = match (step.effect, step.saw) {
            (Effect::Set(_), Saw::Absent) => (Some(Event::MayRise), Some(Event::Rose)),
            (Effect::Set(_), Saw::Anything) => (Some(Event::MayRise), None),
            (Effect::Remove, Saw::Anything) => (Some(Event::MayFall), None),
            (Effect::Remove, _) => (Some(Event::MayFall), Some(Event::Fell)),
            (_, Saw::Present | Saw::Value(_)) => (None, Some(Event::Present)),
            _ => (None, None),
        };
        events.extend(may.map(|event| (call, event, step.source)));
        events.extend(did.zip(returned).map(|(event, returned)| (returned, event, step.source)));
    }
    events.sort_unstable(); // at equal times what may be comes before what was
    let starts_present = u64::from(history.start.is_some());
    let (mut may_rise, mut may_fall, mut rose, mut fell) = (starts_present, 1 - starts_present, 0u64, 0u64);
    for (_, event, source) in events {
        match event {
            Event::MayRise => may_rise += 1,
            Event::MayFall => may_fall += 1,
            Event::Rose => rose += 1,
            Event::Fell => fell += 1,
            Event::Present => {}
        }
        let what = if rose > may_fall {
            "more operations found the key absent and gave it a value than anyone can have removed one"
        } else if fell > may_rise {
            "more operations removed a value than anyone can have put one there"
        } else if event == Event::Present && may_rise == 0 {
            "the key was found present before anyone can have given it a value"
        } else {
            continue;
        };
        return Err(Contradiction { what: what.to_owned(), sources: vec![source] });
    }
    Ok(())
}

/// The largest and the second largest of some times, with whose the largest is.
#[derive(Clone, Copy)]
struct Top {
    first: (Time, usize),
    second: Time,
}

impl Top {
    const NONE: Top = Top { first: (Time::MIN, usize::MAX), second: Time::MIN };

    fn with(self, time: Time, whose: usize) -> Top {
        if time > self.first.0 {
            Top { first: (time, whose), second: self.first.0 }
        } else {
            Top { second: self.second.max(time), ..self }
        }
    }

    fn without(self, whose: usize) -> Time {
        if self.first.1 == whose { self.second } else { self.first.0 }
    }
}

/// Per value, the earliest and the latest moment at which it may have been there.
fn windows(
    history: &KeyHistory,
    chains: &[Vec<usize>],
    zones: &[Zone],
    whole: &[Zone],
    writers: &[Option<&Step>],
) -> Vec<(Time, Time)> {
    // What comes before or after a chain: other chains, and the absences that were seen.
    let mut others: Vec<(Time, Time)> = whole.iter().map(|zone| (zone.low.time, zone.high.time)).collect();
    let absences = history.steps.iter().filter(|step| step.saw == Saw::Absent);
    others.extend(absences.filter_map(|step| Some((step.returned?.into(), step.call.into()))));
    // One whose `low` is before my `high` comes before me and lasted until its `high`; and the mirror image.
    let prefix = |key: &dyn Fn(&(Time, Time)) -> Time, value: &dyn Fn(&(Time, Time)) -> Time| {
        let mut order: Vec<usize> = (0..others.len()).collect();
        order.sort_by_key(|&other| key(&others[other]));
        let mut tops = vec![Top::NONE];
        let mut top = Top::NONE;
        for &other in &order {
            top = top.with(value(&others[other]), other);
            tops.push(top);
        }
        let keys: Vec<Time> = order.iter().map(|&other| key(&others[other])).collect();
        move |below: Time, whose: usize| tops[keys.partition_point(|&key| key < below)].without(whose)
    };
    let gone_before = prefix(&|other| other.0, &|other| other.1);
    // Mirrored: times are negated, so that the latest becomes the earliest.
    let mirror = |time: Time| -time;
    let there_after = prefix(&|other| mirror(other.1), &|other| mirror(other.0));
    let mut windows = vec![(START, END); zones.len()];
    for (number, chain) in chains.iter().enumerate() {
        let mut from = gone_before(whole[number].high.time, number);
        let until = there_after(mirror(whole[number].low.time), number);
        let until = if until == Time::MIN { END } else { mirror(until) }; // nothing follows
        for &value in chain {
            from = from.max(writers[value].map_or(START, |step| step.call.into()));
            windows[value].0 = from;
            from = from.max(zones[value].high.time);
        }
        let mut until = until;
        for &value in chain.iter().rev() {
            windows[value].1 = until;
            until = until.min(zones[value].low.time);
        }
    }
    windows
}

/// Checks that each SCAN's part of each partition agrees with one moment.
pub(crate) fn check_moments(
    history: &History,
    keys: &[(&KeyHistory, Option<Chains>)],
    partitions: u16,
) -> Vec<Contradiction> {
    let partition_of = |key: &Bytes| partition_of(slot_of(key), partitions);
    let ids: Vec<HashMap<&Bytes, usize>> = keys.iter().map(|(key, _)| key.values.iter().zip(0..).collect()).collect();
    let mut found = Vec::new();
    for (source, operation) in history.operations.iter().enumerate() {
        let (Action::Scan { from, to }, Outcome::Answered { at, answer: Answer::Records(records) }) =
            (&operation.action, &operation.outcome)
        else {
            continue;
        };
        let (call, returned) = (Time::from(operation.call), Time::from(*at));
        // Per partition: the window that is left, and what is forbidden in it.
        let mut left: BTreeMap<u16, (Time, Time)> = BTreeMap::new();
        let mut forbidden: BTreeMap<u16, Vec<(Time, Time)>> = BTreeMap::new();
        let first = keys.partition_point(|(key, _)| key.key < *from);
        for (number, (key, chains)) in keys.iter().enumerate().skip(first).take_while(|(_, (key, _))| key.key <= *to) {
            let Some(chains) = chains else { continue };
            let partition = partition_of(&key.key);
            let window = left.entry(partition).or_insert((call, returned));
            match records.binary_search_by(|(other, _)| other.cmp(&key.key)) {
                Ok(at) => {
                    let Some(&value) = ids[number].get(&records[at].1) else { continue };
                    let (from, until) = chains.windows[value];
                    *window = (window.0.max(from), window.1.min(until));
                }
                Err(_) => {
                    let first = chains.present.partition_point(|(_, until)| *until <= call);
                    let near = chains.present[first..].iter().take_while(|(from, _)| *from < returned);
                    forbidden.entry(partition).or_default().extend(near);
                }
            }
        }
        for (partition, window) in left {
            let mut forbidden = forbidden.remove(&partition).unwrap_or_default();
            forbidden.sort_unstable();
            if !has_moment(window, &forbidden) {
                let what = format!("what the SCAN saw in partition {partition} was never there at one moment");
                let concerns = |key: &Bytes| from <= key && key <= to && partition_of(key) == partition;
                found.push(Contradiction { what, sources: around_scan(history, source, records, &concerns) });
            }
        }
    }
    found
}

/// The SCAN, who wrote what it saw, and the writes that were under way with it.
fn around_scan(
    history: &History,
    scan: usize,
    records: &[(Bytes, Bytes)],
    concerns: &dyn Fn(&Bytes) -> bool,
) -> Vec<usize> {
    let this = &history.operations[scan];
    let is_near = |operation: &Operation| match &operation.action {
        Action::Put { key, value } | Action::Swap { key, value } => {
            let was_seen = records.iter().any(|(other, seen)| other == key && seen == value);
            concerns(key) && (was_seen || overlap(operation, this))
        }
        Action::Delete { key } => concerns(key) && overlap(operation, this),
        Action::Get { .. } | Action::Scan { .. } => false,
    };
    let near = (0..history.operations.len()).filter(|&at| is_near(&history.operations[at]));
    std::iter::once(scan).chain(near).collect()
}

fn overlap(left: &Operation, right: &Operation) -> bool {
    let begins_before_end = |one: &Operation, other: &Operation| other.returned().is_none_or(|end| one.call <= end);
    begins_before_end(left, right) && begins_before_end(right, left)
}

/// Whether `window` has a moment that lies strictly inside none of `forbidden` (by their begin).
fn has_moment(window: (Time, Time), forbidden: &[(Time, Time)]) -> bool {
    let mut moment = window.0;
    for &(from, until) in forbidden {
        if from < moment && moment < until {
            moment = until;
        }
    }
    // A zone that begins at or after the moment leaves it free.
    moment <= window.1
}

/// The partition of a slot, where slots were dealt evenly and in order.
fn partition_of(slot: u16, partitions: u16) -> u16 {
    // The inverse of how `ClusterMap::deal` draws its borders; a test compares the two.
    let (slot, partitions, slots) = (u32::from(slot), u32::from(partitions), u32::from(SLOTS));
    (((slot + 1) * partitions - 1) / slots) as u16 // below `partitions`
}

#[cfg(test)]
mod tests {
    use madkv_proto::map::{ClusterMap, PARTITIONS_MAX};
    use smr::id::ClusterId;

    use super::*;

    #[test]
    fn partition_of_each_slot_agrees_with_the_map() {
        for count in 1..=PARTITIONS_MAX {
            let servers: Vec<String> = (0..count).map(|number| format!("127.0.0.1:{}", 3000 + number)).collect();
            let map = ClusterMap::deal(ClusterId(1), 1, &servers).unwrap();
            for slot in 0..SLOTS {
                let owner = partition_of(slot, count as u16);
                assert!(map.partitions[usize::from(owner)].owns(slot), "slot {slot} of {count}");
            }
        }
    }

    #[test]
    fn has_moment_between_zones_and_at_their_borders() {
        assert!(has_moment((5, 5), &[]));
        assert!(!has_moment((6, 5), &[]));
        assert!(has_moment((5, 10), &[(0, 10)]));
        assert!(!has_moment((5, 9), &[(0, 10)]));
        assert!(has_moment((5, 9), &[(0, 7), (7, 20)]));
        assert!(!has_moment((5, 9), &[(0, 7), (6, 20)]));
        assert!(has_moment((5, 9), &[(5, 20)]));
    }
}
