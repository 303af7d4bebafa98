//! The network between processes: what is sent may be lost, doubled, delayed, overtaken, and delivered once more much
//! later.
//!
//! Messages between replicas travel as the bytes that the production codec makes of them. Links may be cut one way. TCP
//! does less than this network; the core must not rely on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use smr::entry::Term;
use smr::id::{NodeId, StartId};
use smr::internals::protocol::Time;

use crate::sim_rng::{Purpose, SimRng};

/// A place that messages go to and come from: a replica, or [`CLIENTS`].
pub type Endpoint = u16;

/// Where clients are, as one end of a link.
pub const CLIENTS: Endpoint = Endpoint::MAX;

/// What was held back arrives within this many microseconds after it is of an older term.
const HELD_LATE_US: u64 = 20_000;
/// Messages held back at a time.
const HELD_MAX: usize = 64;
/// Old messages kept, to be delivered once more.
const OLD_MAX: usize = 256;

/// How the network is on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Lost, per mille.
    pub loss: u64,
    /// Delivered twice, per mille.
    pub doubled: u64,
    /// Held back for up to `late_us`, per mille.
    pub late: u64,
    /// See `late`.
    pub late_us: u64,
    /// With this many messages per mille an old one is delivered once more.
    pub replayed: u64,
    /// This many per mille of the votes and acknowledgements are held back until who they are for campaigns or leads in
    /// a later term.
    pub held: u64,
    /// The shortest way, in microseconds.
    pub least_us: u64,
    /// What is added to it at random, in microseconds: beyond the gaps between messages they overtake each other.
    pub jitter_us: u64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            loss: 0,
            doubled: 10,
            late: 20,
            late_us: 100_000,
            replayed: 1,
            held: 0,
            least_us: 50,
            jitter_us: 1_000,
        }
    }
}

impl Weather {
    /// A network that does nothing worse than to take its time.
    pub fn calm() -> Weather {
        // Without jitter nothing is overtaken, as on the connections in service.
        Weather { loss: 0, doubled: 0, late: 0, late_us: 0, replayed: 0, held: 0, least_us: 150, jitter_us: 0 }
    }
}

/// A message between replicas, as bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The node that has sent it.
    pub from: NodeId,
    /// The start of the sender's process.
    pub start: StartId,
    /// The node that it is for; another incarnation does not get it.
    pub to: NodeId,
    /// What the codec made of the message.
    pub bytes: Bytes,
}

/// All links between nodes, what is under way on them, and what goes wrong there.
#[derive(Debug)]
pub struct Network {
    /// How it is on the whole.
    pub weather: Weather,
    /// Links that carry nothing, one way.
    pub cut: BTreeSet<(Endpoint, Endpoint)>,
    /// Where places are, if that matters.
    sites: BTreeMap<Endpoint, u16>,
    /// What the way from one site to another takes on top, in microseconds.
    between_sites_us: u64,
    rng: SimRng,
    old: VecDeque<Frame>,
    /// Messages that are held back, with their terms.
    held: VecDeque<(Term, Frame)>,
}

impl Network {
    /// A network without cuts.
    pub fn new(seed: u64, weather: Weather) -> Network {
        Network {
            weather,
            cut: BTreeSet::new(),
            sites: BTreeMap::new(),
            between_sites_us: 0,
            rng: SimRng::new(seed, Purpose::Network),
            old: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    /// Whether the link from one place to another carries nothing.
    pub fn is_cut(&self, from: Endpoint, to: Endpoint) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(from, to))
    }

    /// Cuts a link, one way.
    pub fn cut_one_way(&mut self, from: Endpoint, to: Endpoint) {
        self.cut.insert((from, to));
    }

    /// Places are at these sites, and it takes this much longer from one site to another, in microseconds.
    pub fn spread(&mut self, sites: BTreeMap<Endpoint, u16>, between_sites_us: u64) {
        (self.sites, self.between_sites_us) = (sites, between_sites_us);
    }

    fn distance_us(&self, from: Endpoint, to: Endpoint) -> u64 {
        if self.sites.get(&from) == self.sites.get(&to) { 0 } else { self.between_sites_us }
    }

    /// Perhaps holds a vote or an acknowledgement back, besides or instead of delivering it; true if instead.
    pub fn hold_back(&mut self, term: Term, frame: &Frame) -> bool {
        if self.weather.held == 0 || !self.rng.chance(self.weather.held) {
            return false;
        }
        if self.held.len() >= HELD_MAX {
            self.held.pop_front();
        }
        self.held.push_back((term, frame.clone()));
        self.rng.chance(500)
    }

    /// What was held back for a node that is now a candidate or leader in `term`, with how late it comes, in
    /// microseconds.
    pub fn release(&mut self, to: NodeId, term: Term) -> Vec<(u64, Frame)> {
        let held = std::mem::take(&mut self.held).into_iter();
        let (due, held) = held.partition(|(of, frame)| frame.to == to && *of < term);
        self.held = held;
        let due: VecDeque<(Term, Frame)> = due;
        due.into_iter().map(|(_, frame)| (self.rng.below(HELD_LATE_US), frame)).collect()
    }

    /// When the copies of what is sent now arrive; none if it is lost.
    pub fn arrivals(&mut self, now: Time, from: Endpoint, to: Endpoint) -> Arrivals {
        let lot = self.rng.below(1000);
        if lot < self.weather.loss || self.is_cut(from, to) {
            return Arrivals { at: [None; 2] };
        }
        let leaves_at = now.plus_us(self.distance_us(from, to));
        let first = Some(self.arrival(leaves_at));
        let doubled = 999 - lot < self.weather.doubled;
        Arrivals { at: [first, doubled.then(|| self.arrival(leaves_at))] }
    }

    fn arrival(&mut self, now: Time) -> Time {
        let mut us = self.weather.least_us + self.rng.below(self.weather.jitter_us + 1);
        if self.weather.late > 0 && self.rng.chance(self.weather.late) {
            us += self.rng.below(self.weather.late_us + 1);
        }
        now.plus_us(us)
    }

    /// Remembers what was sent; now and then gives back something that was sent long ago.
    pub fn remember(&mut self, frame: &Frame) -> Option<Frame> {
        if self.weather.replayed == 0 {
            return None;
        }
        let replayed = self.rng.chance(self.weather.replayed);
        if self.old.len() < OLD_MAX {
            self.old.push_back(frame.clone());
        } else if self.rng.chance(50) {
            // Old ones stay for long, so that they are of another time when they come back.
            self.old.pop_front();
            self.old.push_back(frame.clone());
        }
        if !replayed {
            return None;
        }
        let at = self.rng.below(self.old.len() as u64) as usize;
        self.old.get(at).cloned()
    }
}

/// When the copies of a message arrive.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    at: [Option<Time>; 2],
}

impl Iterator for Arrivals {
    type Item = Time;

    fn next(&mut self) -> Option<Time> {
        let next = self.at[0].take();
        self.at.swap(0, 1);
        next
    }
}
