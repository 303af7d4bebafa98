//! The search: breadth first through all states, each once.

use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::group::{Broken, Group, Situations};
use super::local::Rules;
use super::script::{Stop, walk};
use super::tables::Tables;
use super::telling::describe;
use super::{Bounds, NODES};

/// States in one piece of memory. Pieces are never moved, so growth costs no copy.
const CHUNK: usize = 1 << 20;
/// The table of states starts with this many places, a power of two.
const PLACES_MIN: usize = 1 << 16;
/// How many states are expanded between two looks at the clock.
const STATES_PER_LOOK: usize = 1 << 12;
const NUMBERS: usize = NODES + 2;
const NOBODY: u32 = u32::MAX;

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Different states found.
    pub states: usize,
    /// Of those, how many were expanded.
    pub expanded: usize,
    /// Events tried.
    pub transitions: u64,
    /// Events from the beginning to the states that are being expanded.
    pub depth: usize,
    /// Time taken.
    pub elapsed: Duration,
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether every state within the bounds was seen.
    pub completed: bool,
    /// If not, why.
    pub stopped: Option<String>,
    /// How far it came.
    pub progress: Progress,
    /// Different nodes, messages, and (node, event) pairs: how much of the real core was run.
    pub sizes: (usize, usize, usize),
    /// Memory taken, in bytes; see [`Bounds::memory_bytes`].
    pub memory_bytes: usize,
    /// What happened how often.
    pub situations: Situations,
    /// The shortest history that breaks an invariant.
    pub violation: Option<Violation>,
}

/// A history that breaks an invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// Events, and what they led to.
    pub steps: Vec<String>,
    /// How many events these are.
    pub events: usize,
}

/// All states found so far, in the order in which they were found; each with the one it was found from.
struct Visited {
    states: Vec<Vec<[u32; NUMBERS]>>,
    parents: Vec<Vec<u32>>,
    places: Vec<u32>,
    count: usize,
}

impl Visited {
    fn new() -> Visited {
        Visited { states: Vec::new(), parents: Vec::new(), places: vec![NOBODY; PLACES_MIN], count: 0 }
    }

    fn get(&self, number: u32) -> Group {
        let packed = &self.states[number as usize / CHUNK][number as usize % CHUNK];
        unpack(packed)
    }

    fn parent(&self, number: u32) -> u32 {
        self.parents[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// Adds a state unless it is known.
    fn add(&mut self, group: &Group, parent: u32) {
        if 3 * self.places.len() < 4 * self.count + 4 {
            self.grow();
        }
        let packed = pack(group);
        let place = self.place(&packed);
        if self.places[place] != NOBODY {
            return;
        }
        self.places[place] = self.count as u32;
        if self.count.is_multiple_of(CHUNK) {
            self.states.push(Vec::with_capacity(CHUNK));
            self.parents.push(Vec::with_capacity(CHUNK));
        }
        if let (Some(states), Some(parents)) = (self.states.last_mut(), self.parents.last_mut()) {
            states.push(packed);
            parents.push(parent);
        }
        self.count += 1;
    }

    /// Where the state is, or would be.
    fn place(&self, packed: &[u32; NUMBERS]) -> usize {
        let mask = self.places.len() - 1;
        let mut place = hash(packed) as usize & mask;
        loop {
            let number = self.places[place];
            if number == NOBODY || self.states[number as usize / CHUNK][number as usize % CHUNK] == *packed {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let mask = 2 * self.places.len() - 1;
        self.places = Vec::new();
        self.places = vec![NOBODY; mask + 1];
        for (number, packed) in self.states.iter().flatten().enumerate() {
            let mut place = hash(packed) as usize & mask;
            while self.places[place] != NOBODY {
                place = (place + 1) & mask;
            }
            self.places[place] = number as u32;
        }
    }

    fn memory_bytes(&self) -> usize {
        self.states.len() * CHUNK * (size_of::<[u32; NUMBERS]>() + size_of::<u32>())
            + self.places.len() * size_of::<u32>()
    }
}

fn pack(group: &Group) -> [u32; NUMBERS] {
    let [a, b, c] = group.locals;
    [a, b, c, group.wire, group.book]
}

fn unpack(packed: &[u32; NUMBERS]) -> Group {
    let [a, b, c, wire, book] = *packed;
    Group { locals: [a, b, c], wire, book }
}

fn hash(packed: &[u32; NUMBERS]) -> u64 {
    let mut bytes = [0; NUMBERS * size_of::<u32>()];
    for (four, number) in bytes.chunks_exact_mut(size_of::<u32>()).zip(packed) {
        four.copy_from_slice(&number.to_le_bytes());
    }
    xxh3_64(&bytes)
}

/// Memory of this process, where the system tells it.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kilobytes| kilobytes << 10)
}

/// Where an exploration begins, and how it came there.
struct Start {
    group: Group,
    steps: Vec<String>,
    events: usize,
}

/// Explores everything within the bounds, and says how far it is now and then.
pub fn explore(bounds: &Bounds, look: impl FnMut(&Progress)) -> Report {
    explore_and_see(bounds, look, |_, _| {})
}

/// The same; `see` is shown every state that is found.
pub(super) fn explore_and_see(
    bounds: &Bounds,
    mut look: impl FnMut(&Progress),
    mut see: impl FnMut(&Group, &Tables),
) -> Report {
    let begun = Instant::now();
    let mut tables = Tables::new(Rules { abstract_pre_vote: bounds.abstract_pre_vote, keep_dead: bounds.keep_dead });
    let mut visited = Visited::new();
    let mut situations = Situations::default();
    let mut progress = Progress { states: 0, expanded: 0, transitions: 0, depth: 0, elapsed: Duration::ZERO };
    let (mut stopped, mut violation) = (None, None);
    let mut start = Start { group: Group::first(&mut tables), steps: Vec::new(), events: 0 };
    match walk(start.group, &bounds.from, bounds, &mut tables, &mut situations, |before, by, after, tables| {
        start.steps.extend(describe(before, by, after, tables));
        start.events += 1;
    }) {
        Ok(group) => start.group = group,
        Err(Stop::Broken(what)) => {
            start.steps.push(format!("    BROKEN: {what}"));
            violation = Some(Violation { what, steps: start.steps.clone(), events: start.events });
        }
        Err(Stop::NotOffered(why)) => stopped = Some(why),
    }
    let same_name = |group: Group, tables: &mut Tables| if bounds.symmetry { group.canonical(tables) } else { group };
    visited.add(&same_name(start.group, &mut tables), NOBODY);
    let mut level_end = 1;
    let mut found = Vec::new();
    while progress.expanded < visited.count && stopped.is_none() && violation.is_none() {
        if progress.expanded == level_end {
            (level_end, progress.depth) = (visited.count, progress.depth + 1);
        }
        if progress.expanded.is_multiple_of(STATES_PER_LOOK) {
            (progress.states, progress.elapsed) = (visited.count, begun.elapsed());
            look(&progress);
            let memory = resident_bytes().unwrap_or_else(|| visited.memory_bytes());
            if progress.elapsed >= bounds.time {
                stopped = Some("out of time".to_owned());
                break;
            }
            if memory >= bounds.memory_bytes || visited.count >= (NOBODY - 1) as usize / 2 {
                stopped = Some("out of memory".to_owned());
                break;
            }
        }
        let number = progress.expanded as u32;
        let group = visited.get(number);
        see(&group, &tables);
        if let Err(Broken { what, .. }) = group.successors(bounds, &mut tables, &mut situations, &mut found) {
            violation = Some(tell(&visited, number, what, &start, bounds, &mut tables));
            break;
        }
        progress.transitions += found.len() as u64;
        for (_, next) in &found {
            visited.add(&same_name(*next, &mut tables), number);
        }
        progress.expanded += 1;
    }
    (progress.states, progress.elapsed) = (visited.count, begun.elapsed());
    Report {
        completed: stopped.is_none() && violation.is_none(),
        stopped,
        progress,
        sizes: tables.sizes(),
        memory_bytes: resident_bytes().unwrap_or_else(|| visited.memory_bytes()),
        situations,
        violation,
    }
}

/// The history that leads to a state in which the next event breaks something, with the same names all along.
fn tell(visited: &Visited, last: u32, what: String, start: &Start, bounds: &Bounds, tables: &mut Tables) -> Violation {
    let mut path = vec![last];
    while let Some(before) = path.last().map(|number| visited.parent(*number)).filter(|parent| *parent != NOBODY) {
        path.push(before);
    }
    path.reverse();
    let mut situations = Situations::default();
    let mut found = Vec::new();
    let mut group = start.group;
    let mut steps = start.steps.clone();
    for number in path.iter().skip(1) {
        let target = visited.get(*number);
        // On the way nothing breaks; if it did, the history would end there.
        if group.successors(bounds, tables, &mut situations, &mut found).is_err() {
            break;
        }
        let same = |next: &Group, tables: &mut Tables| if bounds.symmetry { next.canonical(tables) } else { *next };
        let step = found.iter().find(|(_, next)| same(next, tables) == target).copied();
        let Some((by, next)) = step else { break };
        steps.extend(describe(&group, by, Some(&next), tables));
        group = next;
    }
    let broken = group.successors(bounds, tables, &mut situations, &mut found);
    let mut what = what;
    if let Err(Broken { by, what: with_these_names }) = broken {
        steps.extend(describe(&group, by, None, tables));
        what = with_these_names;
    }
    steps.push(format!("    BROKEN: {what}"));
    Violation { what, steps, events: start.events + path.len() }
}
