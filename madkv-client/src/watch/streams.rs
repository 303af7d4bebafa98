//! What a watch has heard of each partition, and what it has to ask. Without time and sockets.
//!
//! A *stream* is what is heard of one partition, in the order of its log. When slots leave a partition, its stream says
//! so, and streams of the partitions that are not watched yet begin where the slots came. When slots come to a
//! partition, its stream stops until all others were heard up to what they had then: only after the former owner has
//! released the slots does the new one own them, so what the former one has told of their keys is heard before what the
//! new one tells. If several streams stand still, the one of the earliest move goes on first; moves follow one another,
//! so one that stands at a later move has told all that an earlier one waits for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::slot_of;
use madkv_proto::watch::{Notice, SlotsMoved, WatchAnswer, WatchFrom};

use super::{KeyChange, WatchError, WatchEvent, WatchStart};
use crate::Error;
use crate::client::owns_slots;

/// This many events are kept until all partitions have begun; those that have are asked on once the others have, too.
const EVENTS_BEFORE_ALL_BEGAN_MAX: usize = 10_000;

/// What is heard of all partitions.
#[derive(Debug)]
pub(super) struct Streams {
    /// The only key, if it is one.
    key: Option<Bytes>,
    start: WatchStart,
    map: ClusterMap,
    /// A map of this epoch is wanted.
    wanted_epoch: u64,
    /// Whether the key was not where the map said: any newer map is wanted.
    is_lost: bool,
    streams: BTreeMap<u16, Stream>,
    /// The number of the last question.
    asked: u64,
    /// Questions up to this one are to be answered soon.
    mark: u64,
    /// Slots have left by the map of this epoch, and where they went is not watched yet.
    left_by: Option<u64>,
    /// Slots have left by the maps of these epochs, and have not been found where they went.
    away: BTreeSet<u64>,
    /// A partition that is watched later than the first ones is heard from where slots came to it by the map of this
    /// epoch or a later one: what its keys did before was elsewhere.
    base_epoch: u64,
    /// Whether all was asked once: only then there are events.
    was_begun: bool,
    events: VecDeque<WatchEvent>,
}

/// What is heard of a partition.
#[derive(Debug)]
struct Stream {
    from: WatchFrom,
    /// Whether it was answered once.
    has_begun: bool,
    /// The group, once it is known.
    genesis: Option<u128>,
    /// The question that is under way.
    under_way: Option<u64>,
    /// The last question whose answer was up to the end of what there was.
    reached: u64,
    /// Where it stands still.
    stop: Option<Stop>,
    /// What was heard beyond that.
    pending: VecDeque<(u64, Notice)>,
}

/// Slots came.
#[derive(Debug)]
struct Stop {
    /// By the map of this epoch.
    epoch: u64,
    /// Questions after this one, to the other partitions, are to be answered first.
    after: u64,
    slots: SlotSet,
}

/// What is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) partition: u16,
    pub(super) from: WatchFrom,
    /// The partition must own the key.
    pub(super) begins: bool,
    /// Someone waits for the answer, whatever it is.
    pub(super) is_urgent: bool,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// The partition's answer.
    Answer { answer: WatchAnswer, genesis: u128 },
    /// The key lives elsewhere, by the map of this epoch.
    Elsewhere { epoch: u64 },
}

impl Streams {
    pub(super) fn new(key: Option<Bytes>, start: WatchStart, map: &ClusterMap) -> Streams {
        let mut streams = Streams {
            key,
            start,
            map: map.clone(),
            wanted_epoch: 0,
            is_lost: false,
            streams: BTreeMap::new(),
            asked: 0,
            mark: 0,
            left_by: None,
            away: BTreeSet::new(),
            base_epoch: 1,
            was_begun: false,
            events: VecDeque::new(),
        };
        streams.begin();
        streams
    }

    fn begin(&mut self) {
        let owners = match &self.key {
            Some(key) => vec![self.map.partition_of(key) as u16], // at most PARTITIONS_MAX
            None => self.owners(),
        };
        (self.left_by, self.away) = (None, BTreeSet::new());
        // Whoever begins now has missed nothing that was over when this map was published.
        self.base_epoch = if self.start == WatchStart::Now { self.map.epoch.saturating_add(1) } else { 1 };
        self.events.clear();
        self.streams = owners.into_iter().map(|partition| (partition, Stream::new(self.start_in(partition)))).collect();
    }

    fn partitions(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.map.partitions.len() as u16 // at most PARTITIONS_MAX
    }

    /// The partitions that have slots.
    fn owners(&self) -> Vec<u16> {
        self.partitions().filter(|partition| owns_slots(&self.map, usize::from(*partition))).collect()
    }

    fn start_in(&self, partition: u16) -> WatchFrom {
        match &self.start {
            WatchStart::Now => WatchFrom::Now,
            // No entry has index 0.
            WatchStart::Index(index) => WatchFrom::Index(*index.max(&1)),
            WatchStart::Indexes(indexes) => {
                // Slots may have moved there since these were noted.
                let came = WatchFrom::Slots { epoch: 1 };
                indexes.get(&partition).map_or(came, |index| WatchFrom::Index(*index.max(&1)))
            }
        }
    }

    /// Whether all was asked once, by a map that is not outdated.
    pub(super) fn has_begun(&self) -> bool {
        self.wants_map().is_none() && self.counting(false).all(|(_, stream)| stream.has_begun)
    }

    /// The epoch of a map that is wanted, if one is.
    pub(super) fn wants_map(&self) -> Option<u64> {
        (self.is_lost || self.wanted_epoch > self.map.epoch).then_some(self.wanted_epoch)
    }

    /// From now on answers are wanted soon, until [`Streams::has_reached`] the returned mark.
    pub(super) fn mark(&mut self) -> u64 {
        // What is under way may be kept by its server; it is asked once more, and its answer passed over.
        self.streams.values_mut().for_each(|stream| stream.under_way = None);
        self.mark = self.asked;
        self.mark
    }

    /// Whether all was heard that there was at the mark.
    pub(super) fn has_reached(&self, mark: u64) -> bool {
        // Where slots have gone is heard, too.
        self.wants_map().is_none()
            && self.counting(!self.away.is_empty()).all(|(_, stream)| stream.stop.is_none() && stream.reached > mark)
    }

    /// The next entry to be heard, by partition.
    pub(super) fn next_indexes(&self) -> Vec<(u16, u64)> {
        let next = |stream: &Stream| match (stream.pending.front(), stream.from) {
            (Some((index, _)), _) => Some(*index),
            (None, WatchFrom::Index(index)) => Some(index),
            (None, WatchFrom::Now | WatchFrom::Slots { .. }) => None,
        };
        self.streams.iter().filter_map(|(partition, stream)| Some((*partition, next(stream)?))).collect()
    }

    /// What was heard since this was last called.
    pub(super) fn events(&mut self) -> impl Iterator<Item = WatchEvent> + '_ {
        let count = if self.was_begun { self.events.len() } else { 0 };
        self.events.drain(..count)
    }

    /// Once all was asked. What was heard until then of what came after *now* is of no moment common to all partitions:
    /// it may lack what came next.
    fn note_begun(&mut self) {
        if !self.was_begun && self.has_begun() {
            self.was_begun = true;
            if self.start == WatchStart::Now {
                self.events.clear();
                self.away.clear();
            }
        }
    }

    /// What to ask now, of each partition one question at a time.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        // Each that stands still waits for the others, up to some question.
        let stops = self.streams.values().filter_map(|stream| stream.stop.as_ref().map(|stop| stop.after));
        let wanted = stops.fold(self.mark, u64::max);
        let is_single = self.key.is_some();
        let waits_for_others = !self.was_begun && self.events.len() >= EVENTS_BEFORE_ALL_BEGAN_MAX;
        let mut questions = Vec::new();
        for (&partition, stream) in &mut self.streams {
            if stream.stop.is_some() || stream.under_way.is_some() || waits_for_others && stream.has_begun {
                continue;
            }
            self.asked += 1;
            stream.under_way = Some(self.asked);
            let begins = is_single && !stream.has_begun && !matches!(stream.from, WatchFrom::Slots { .. });
            let is_urgent = !stream.has_begun || stream.reached <= wanted;
            questions.push(Question { number: self.asked, partition, from: stream.from, begins, is_urgent });
        }
        questions
    }

    /// There is a map that may be newer.
    pub(super) fn follow(&mut self, map: &ClusterMap) {
        let known = std::mem::replace(&mut self.map, map.clone()).epoch;
        let is_newer = map.epoch > known;
        if std::mem::take(&mut self.is_lost) || is_newer && !self.was_begun {
            self.begin();
        } else if is_newer && self.key.is_none() {
            // What they had before the map that was known is heard where it was.
            for partition in self.owners() {
                self.watch_too(partition, self.base_epoch);
            }
        }
        self.follow_slots();
        self.release();
        self.note_begun();
    }

    /// Watches all partitions of the store once slots have left one: theirs may have been at any of them since. One
    /// that has no slots by now may have had them in between; groups of other services never have any.
    fn follow_slots(&mut self) {
        let Some(left_by) = self.left_by.take_if(|epoch| *epoch <= self.map.epoch) else { return };
        // A single key has been in one place until it left.
        let epoch = if self.key.is_some() { left_by } else { self.base_epoch };
        for partition in self.partitions() {
            if self.map.partitions[usize::from(partition)].is_store {
                self.watch_too(partition, epoch);
            }
        }
    }

    fn watch_too(&mut self, partition: u16, epoch: u64) {
        self.streams.entry(partition).or_insert_with(|| Stream::new(WatchFrom::Slots { epoch }));
    }

    /// A question has failed. Where the partition has no slots, and was never heard, it may be of a build that knows no
    /// watches, and has nothing to tell.
    pub(super) fn fail(&mut self, question: &Question, error: Error) -> Result<(), WatchError> {
        let partition = question.partition;
        let Some(stream) = self.streams.get(&partition).filter(|stream| stream.under_way == Some(question.number))
        else {
            return Ok(()); // it was asked again
        };
        if !stream.has_begun && !owns_slots(&self.map, usize::from(partition)) {
            self.streams.remove(&partition);
            self.release();
            return Ok(());
        }
        Err(error.into())
    }

    /// Takes in an answer.
    pub(super) fn take(&mut self, question: &Question, heard: Heard) -> Result<(), WatchError> {
        let Question { number, partition, .. } = *question;
        let Some(stream) = self.streams.get_mut(&partition) else { return Ok(()) };
        if stream.under_way != Some(number) {
            return Ok(()); // it was asked again
        }
        stream.under_way = None;
        let (answer, of) = match heard {
            Heard::Answer { answer, genesis } => (answer, genesis),
            Heard::Elsewhere { epoch } if question.begins => {
                (self.is_lost, self.wanted_epoch) = (true, self.wanted_epoch.max(epoch));
                return Ok(());
            }
            Heard::Elsewhere { .. } => return Err(senseless("elsewhere")),
        };
        let wanted = if let WatchFrom::Index(index) = stream.from { index } else { 0 };
        if *stream.genesis.get_or_insert(of) != of {
            return Err(WatchError::AnotherGroup { partition, wanted });
        }
        match answer {
            WatchAnswer::Compacted { oldest } => Err(WatchError::Compacted { partition, wanted, oldest }),
            WatchAnswer::Ahead { .. } => Err(WatchError::AnotherGroup { partition, wanted }),
            WatchAnswer::Changes { items, position, is_end, epoch } => {
                let mut next = wanted;
                for (index, item) in items {
                    if index < next || index > position {
                        return Err(senseless(&format!("entry {index} of {next} to {position}")));
                    }
                    let notice = Notice::decode(&item).map_err(|bad| senseless(&bad.to_string()))?;
                    stream.pending.push_back((index, notice));
                    next = index.saturating_add(1);
                }
                if position.saturating_add(1) < next {
                    return Err(senseless(&format!("position {position} before {next}")));
                }
                (stream.from, stream.has_begun) = (WatchFrom::Index(position.saturating_add(1)), true);
                if is_end {
                    stream.reached = number;
                }
                self.wanted_epoch = self.wanted_epoch.max(epoch);
                self.tell(partition);
                self.release();
                self.note_begun();
                Ok(())
            }
        }
    }

    /// Tells what was heard of a partition, up to where its stream stands still.
    fn tell(&mut self, partition: u16) {
        loop {
            let Some(stream) = self.streams.get_mut(&partition).filter(|stream| stream.stop.is_none()) else { return };
            let Some((index, notice)) = stream.pending.pop_front() else { return };
            match notice {
                Notice::Changed { key, value } => {
                    self.events.push_back(WatchEvent::Changed(KeyChange { partition, index, key, value }));
                }
                Notice::Slots(SlotsMoved { epoch, left, came }) => {
                    let concerns = |slots: &SlotSet| match &self.key {
                        Some(key) => slots.contains(slot_of(key)),
                        None => !slots.is_empty(),
                    };
                    let (leaves, comes) = (concerns(&left), concerns(&came));
                    if comes {
                        stream.stop = Some(Stop { epoch, after: self.asked, slots: came });
                    }
                    if leaves {
                        self.events.push_back(WatchEvent::Moved { partition, epoch });
                        self.wanted_epoch = self.wanted_epoch.max(epoch);
                        self.away.insert(epoch);
                        self.left_by = Some(self.left_by.map_or(epoch, |earlier| earlier.min(epoch)));
                        self.follow_slots();
                    }
                }
            }
        }
    }

    /// Lets streams go on for which all others were heard far enough.
    fn release(&mut self) {
        while self.left_by.is_none() {
            let stopped =
                self.streams.iter().filter_map(|(partition, stream)| Some((stream.stop.as_ref()?, *partition)));
            let Some((stop, partition)) = stopped.min_by_key(|(stop, partition)| (stop.epoch, *partition)) else {
                return;
            };
            let is_behind = |(other, stream): (u16, &Stream)| {
                other != partition && stream.stop.is_none() && stream.reached <= stop.after
            };
            // Keys may have been elsewhere meanwhile, perhaps at one that has no slots any more.
            let skips_one = self.away.first().is_some_and(|away| *away < stop.epoch);
            if self.counting(skips_one).any(is_behind) {
                return;
            }
            let is_here = self.key.as_ref().is_some_and(|key| stop.slots.contains(slot_of(key)));
            self.away.remove(&stop.epoch);
            if let Some(stream) = self.streams.get_mut(&partition) {
                stream.stop = None;
            }
            if is_here {
                // No one else has the key now; whoever has it next is found by where it leaves.
                self.streams.retain(|other, stream| *other == partition || stream.stop.is_some());
            }
            self.tell(partition);
        }
    }

    /// The streams that others wait for. A partition without slots may not even run; nothing waits for its first word.
    fn counting(&self, with_all: bool) -> impl Iterator<Item = (u16, &Stream)> {
        let counts = move |partition: u16, stream: &Stream| {
            with_all || stream.has_begun || owns_slots(&self.map, usize::from(partition))
        };
        self.streams
            .iter()
            .map(|(partition, stream)| (*partition, stream))
            .filter(move |(p, stream)| counts(*p, stream))
    }
}

impl Stream {
    fn new(from: WatchFrom) -> Stream {
        let (has_begun, reached, under_way) = (false, 0, None);
        Stream { from, has_begun, genesis: None, under_way, reached, stop: None, pending: VecDeque::new() }
    }
}

fn senseless(what: &str) -> WatchError {
    Error::BadAnswer { what: what.to_owned() }.into()
}

#[cfg(test)]
mod tests;
