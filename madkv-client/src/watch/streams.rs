//! What a watch has heard of each partition, and what it has to ask. Without time and sockets.
//!
//! A *stream* is what is heard of one partition, in the order of its log. When slots leave a partition, its stream says
//! so, and streams of the partitions that are not watched yet begin where the slots came. When slots come to a
//! partition, its stream stops until all others were heard up to what they had then: only after the former owner has
//! released the slots does the new one own them, so what the former one has told of their keys is heard before what the
//! new one tells. If several streams stand still, the one of the earliest move goes on first; moves follow one another,
//! so one that stands at a later move has told all that an earlier one waits for.

use std::collections::{BTreeMap, VecDeque};

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
    /// Slots have left, and where they went is not watched yet.
    left_by: Option<Left>,
    /// Slots that have left by the maps of these epochs, and have not been found where they went. They may be there by
    /// a later map than that by which they left: if the group that they went to was founded anew meanwhile, say.
    away: BTreeMap<u64, SlotSet>,
    /// A partition that is watched later than the first ones is heard from where slots came to it by the map of this
    /// epoch or a later one: what its keys did before was elsewhere. `None` if the first ones tell of moves that are
    /// long over; then it is the epoch of the first one that they tell of.
    base_epoch: Option<u64>,
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

/// Slots came whose keys are watched.
#[derive(Debug)]
struct Stop {
    /// By this entry.
    index: u64,
    /// By the map of this epoch.
    epoch: u64,
    /// Questions after this one, to the other partitions, are to be answered first.
    after: u64,
    slots: SlotSet,
}

/// Slots have left partitions.
#[derive(Debug)]
struct Left {
    /// By the map of this epoch, or of later ones.
    epoch: u64,
    /// After questions up to this one were asked.
    after: u64,
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
    pub(super) fn new(key: Option<Bytes>, start: WatchStart, map: &ClusterMap) -> Result<Streams, WatchError> {
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
            away: BTreeMap::new(),
            base_epoch: None,
            was_begun: false,
            events: VecDeque::new(),
        };
        streams.begin()?;
        Ok(streams)
    }

    fn begin(&mut self) -> Result<(), WatchError> {
        let owners = self.owners_of_keys();
        self.check_start(&owners)?;
        (self.left_by, self.away) = (None, BTreeMap::new());
        // Whoever begins now has missed nothing that was over when this map was published.
        self.base_epoch = (self.start == WatchStart::Now).then(|| self.map.epoch.saturating_add(1));
        self.events.clear();
        self.streams = match &self.start {
            WatchStart::Indexes(indexes) => {
                let stream = |(partition, index): (&u16, &u64)| (*partition, Stream::new(from_index(*index)));
                indexes.iter().map(stream).collect()
            }
            WatchStart::Index(index) => {
                owners.into_iter().map(|partition| (partition, Stream::new(from_index(*index)))).collect()
            }
            WatchStart::Now => owners.into_iter().map(|partition| (partition, Stream::new(WatchFrom::Now))).collect(),
        };
        Ok(())
    }

    /// A number of one log means nothing in another one. Where it would have to, changes would be left out without a
    /// word.
    fn check_start(&self, owners: &[u16]) -> Result<(), WatchError> {
        match &self.start {
            WatchStart::Index(index) if *index > 1 && owners.len() > 1 => {
                Err(WatchError::Ambiguous { index: *index, partitions: owners.to_vec() })
            }
            WatchStart::Indexes(indexes) => {
                let is_missing = |partition: &&u16| !indexes.contains_key(*partition);
                if let Some(&partition) = owners.iter().find(is_missing) {
                    return Err(WatchError::NotNamed { partition });
                }
                let partitions = &self.map.partitions;
                let is_known = |number: &u16| partitions.get(usize::from(*number)).is_some_and(|known| known.is_store);
                match indexes.keys().find(|partition| !is_known(partition)) {
                    Some(&partition) => Err(WatchError::NoPartition { partition }),
                    None => Ok(()),
                }
            }
            WatchStart::Now | WatchStart::Index(_) => Ok(()),
        }
    }

    fn partitions(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.map.partitions.len() as u16 // at most PARTITIONS_MAX
    }

    /// The partitions that have slots.
    fn owners(&self) -> Vec<u16> {
        self.partitions().filter(|partition| owns_slots(&self.map, usize::from(*partition))).collect()
    }

    /// Those of them that may have keys that are watched.
    fn owners_of_keys(&self) -> Vec<u16> {
        self.key.as_ref().map_or_else(|| self.owners(), |key| vec![self.owner_of(key)])
    }

    fn owner_of(&self, key: &[u8]) -> u16 {
        self.map.partition_of(key) as u16 // at most PARTITIONS_MAX
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
            && self.left_by.is_none()
            && self.counting(!self.away.is_empty()).all(|(_, stream)| stream.stop.is_none() && stream.reached > mark)
    }

    /// The next entry to be heard, by partition, if these numbers say it all: whoever goes on from them misses nothing,
    /// and hears nothing twice.
    pub(super) fn position(&self) -> Option<BTreeMap<u16, u64>> {
        let is_following = self.left_by.is_some() || !self.away.is_empty() || !self.has_begun();
        if is_following || !self.events.is_empty() || self.streams.values().any(|stream| stream.stop.is_some()) {
            return None;
        }
        // One that has not begun has no slots, and none have passed through it.
        let next = |(partition, stream): (&u16, &Stream)| match stream.from {
            WatchFrom::Index(index) => Some((*partition, index)),
            WatchFrom::Now | WatchFrom::Slots { .. } => None,
        };
        Some(self.streams.iter().filter_map(next).collect())
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
        let left = self.left_by.as_ref().map(|left| left.after);
        let wanted = stops.chain(left).fold(self.mark, u64::max);
        let key_is_at = self.key.as_ref().map(|key| self.owner_of(key));
        let waits_for_others = !self.was_begun && self.events.len() >= EVENTS_BEFORE_ALL_BEGAN_MAX;
        let mut questions = Vec::new();
        for (&partition, stream) in &mut self.streams {
            if stream.stop.is_some() || stream.under_way.is_some() || waits_for_others && stream.has_begun {
                continue;
            }
            self.asked += 1;
            stream.under_way = Some(self.asked);
            let is_at_start = !stream.has_begun && !matches!(stream.from, WatchFrom::Slots { .. });
            let begins = is_at_start && key_is_at == Some(partition);
            let is_urgent = !stream.has_begun || stream.reached <= wanted;
            questions.push(Question { number: self.asked, partition, from: stream.from, begins, is_urgent });
        }
        questions
    }

    /// There is a map that may be newer.
    ///
    /// # Errors
    /// If the watch cannot begin by that.
    pub(super) fn follow(&mut self, map: &ClusterMap) -> Result<(), WatchError> {
        let known = std::mem::replace(&mut self.map, map.clone()).epoch;
        let is_newer = map.epoch > known;
        if std::mem::take(&mut self.is_lost) || is_newer && !self.was_begun {
            self.begin()?;
        } else if let (true, None, Some(epoch)) = (is_newer, &self.key, self.base_epoch) {
            // What they had before the map that was known is heard where it was.
            self.owners().into_iter().for_each(|partition| self.watch_too(partition, epoch));
        }
        self.release()?;
        self.note_begun();
        Ok(())
    }

    /// Watches all partitions of the store once slots have left one: theirs may have been at any of them since. One
    /// that has no slots by now may have had them in between; groups of other services never have any.
    fn follow_slots(&mut self) {
        let Some(left) = self.left_by.as_ref().filter(|left| left.epoch <= self.map.epoch) else { return };
        let epoch = match self.base_epoch.filter(|_| self.key.is_none()) {
            Some(base_epoch) => base_epoch,
            None if self.key.is_none() && self.may_tell_of_earlier(left) => return,
            // A single key has been in one place until it left; and what all keys did before the first of them left
            // was where they were.
            None => left.epoch,
        };
        self.left_by = None;
        for partition in self.partitions() {
            if self.map.partitions[usize::from(partition)].is_store {
                self.watch_too(partition, epoch);
            }
        }
    }

    /// Whether slots may have left one that is watched by an earlier map, and it has not told so yet. Moves follow one
    /// another, so that is in its log by now.
    fn may_tell_of_earlier(&self, left: &Left) -> bool {
        let may_tell = |stream: &Stream| match &stream.stop {
            Some(stop) => stop.epoch < left.epoch,
            None => stream.reached <= left.after,
        };
        self.counting(false).any(|(_, stream)| may_tell(stream))
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
        let was_named = matches!(stream.from, WatchFrom::Index(_));
        if !stream.has_begun && !was_named && !owns_slots(&self.map, usize::from(partition)) {
            self.streams.remove(&partition);
            return self.release();
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
                self.release()?;
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
                    let (left, slots) = (self.of_interest(&left), self.of_interest(&came));
                    if !slots.is_empty()
                        && let Some(stream) = self.streams.get_mut(&partition)
                    {
                        stream.stop = Some(Stop { index, epoch, after: self.asked, slots });
                    }
                    if !left.is_empty() {
                        self.events.push_back(WatchEvent::Moved { partition, epoch });
                        self.wanted_epoch = self.wanted_epoch.max(epoch);
                        let away = self.away.entry(epoch).or_default();
                        *away = away.with(&left);
                        let left = self.left_by.get_or_insert(Left { epoch, after: self.asked });
                        left.epoch = left.epoch.min(epoch);
                        self.follow_slots();
                    }
                }
            }
        }
    }

    /// Those of these slots that have keys that are watched.
    fn of_interest(&self, slots: &SlotSet) -> SlotSet {
        match self.key.as_ref().map(|key| slot_of(key)) {
            None => slots.clone(),
            Some(slot) if slots.contains(slot) => SlotSet::range(slot, slot + 1),
            Some(_) => SlotSet::default(),
        }
    }

    /// Lets streams go on for which all others were heard far enough.
    fn release(&mut self) -> Result<(), WatchError> {
        loop {
            self.follow_slots();
            let stopped =
                self.streams.iter().filter_map(|(partition, stream)| Some((stream.stop.as_ref()?, *partition)));
            let Some((stop, partition)) = stopped.min_by_key(|(stop, partition)| (stop.epoch, *partition)) else {
                return Ok(());
            };
            // Where slots went before is heard first.
            if self.left_by.as_ref().is_some_and(|left| left.epoch <= stop.epoch) {
                return Ok(());
            }
            let is_behind = |(other, stream): (u16, &Stream)| {
                other != partition && stream.stop.is_none() && stream.reached <= stop.after
            };
            // Keys may have been elsewhere meanwhile, perhaps at one that has no slots any more.
            let skips_one = self.away.first_key_value().is_some_and(|(epoch, _)| *epoch < stop.epoch);
            if self.counting(skips_one).any(is_behind) {
                return Ok(());
            }
            let (is_here, slots) = (self.key.is_some(), stop.slots.clone());
            // One number was named, of this log: what the keys did elsewhere since would be left out without a word.
            let unseen = self.away.values().fold(slots.clone(), |unseen, away| unseen.without(away));
            if matches!(self.start, WatchStart::Index(2..)) && !unseen.is_empty() {
                return Err(WatchError::CameFromElsewhere { partition, index: stop.index });
            }
            self.away.values_mut().for_each(|away| *away = away.without(&slots));
            self.away.retain(|_, away| !away.is_empty());
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

    /// The streams that others wait for. A partition without slots may not even run; nothing waits for its first word,
    /// unless the watch goes on where another one has heard it.
    fn counting(&self, with_all: bool) -> impl Iterator<Item = (u16, &Stream)> {
        let counts = move |partition: u16, stream: &Stream| {
            let is_known = matches!(stream.from, WatchFrom::Index(_));
            with_all || is_known || owns_slots(&self.map, usize::from(partition))
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

/// No entry has index 0.
fn from_index(index: u64) -> WatchFrom {
    WatchFrom::Index(index.max(1))
}

fn senseless(what: &str) -> WatchError {
    Error::BadAnswer { what: what.to_owned() }.into()
}

#[cfg(test)]
mod tests;
