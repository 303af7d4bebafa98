//! What one metric was, second by second: the last seconds, and all before them in blocks that grow.

use std::collections::VecDeque;

use super::{Level, PRESENT_SECONDS, PRESENT_SECONDS_MIN};

/// Blocks of the past that are kept. When there are this many, neighbours become one, until blocks are as long as they
/// may get; then the oldest goes.
const PAST_BLOCKS_MAX: usize = 256;
/// The length of a block at most, in seconds. So what is normal is taken from two hours at most.
const BLOCK_MAX_S: u32 = 32;
/// With fewer blocks that have anything nothing is normal yet.
const PAST_BLOCKS_MIN: usize = 3;

/// What was measured in each second. A second without anything to measure is `None`.
#[derive(Clone, Debug)]
pub(super) struct Window {
    present: VecDeque<Option<Level>>,
    past: VecDeque<Option<Level>>,
    /// The length of each block of the past, in seconds.
    block_s: u32,
    /// The block that is being filled: seconds that it has, and those of them in which there was something.
    filling_s: u32,
    filling: Vec<Level>,
}

impl Default for Window {
    fn default() -> Window {
        Window { present: VecDeque::new(), past: VecDeque::new(), block_s: 1, filling_s: 0, filling: Vec::new() }
    }
}

impl Window {
    /// A second is over.
    pub(super) fn push(&mut self, second: Option<Level>) {
        self.present.push_back(second);
        if self.present.len() <= PRESENT_SECONDS {
            return;
        }
        self.filling.extend(self.present.pop_front().flatten());
        self.filling_s += 1;
        if self.filling_s < self.block_s {
            return;
        }
        let block = merged(&self.filling);
        self.filling.clear();
        self.filling_s = 0;
        self.past.push_back(block);
        if self.past.len() < PAST_BLOCKS_MAX {
            return;
        }
        if self.block_s < BLOCK_MAX_S {
            let blocks: Vec<Option<Level>> = self.past.drain(..).collect();
            let pairs = blocks.chunks(2).map(|pair| merged(&pair.iter().copied().flatten().collect::<Vec<_>>()));
            self.past.extend(pairs);
            self.block_s *= 2;
        } else {
            self.past.pop_front();
        }
    }

    /// The level of most of the last seconds.
    pub(super) fn present(&self) -> Option<Level> {
        at_share(self.present.iter().copied().flatten().collect(), PRESENT_SECONDS_MIN, |count| count / 2)
    }

    /// The level before those.
    pub(super) fn normal(&self) -> Option<Level> {
        at_share(self.past.iter().copied().flatten().collect(), PAST_BLOCKS_MIN, |count| count / 4)
    }

    /// Whether nothing was measured for as long as it remembers.
    pub(super) fn is_empty(&self) -> bool {
        self.filling.is_empty() && self.present.iter().chain(&self.past).all(Option::is_none)
    }
}

/// Of levels by their average the one at a place that depends on how many there are; and the extremes of all.
fn at_share(mut levels: Vec<Level>, count_min: usize, place: impl Fn(usize) -> usize) -> Option<Level> {
    if levels.len() < count_min {
        return None;
    }
    levels.sort_unstable_by_key(|level| level.average);
    let extremes = merged(&levels)?;
    Some(Level { average: levels[place(levels.len())].average, ..extremes })
}

fn merged(levels: &[Level]) -> Option<Level> {
    let count = levels.len() as u64;
    let sum = levels.iter().fold(0u64, |sum, level| sum.saturating_add(level.average));
    Some(Level {
        average: sum.checked_div(count)?,
        min: levels.iter().map(|level| level.min).min()?,
        max: levels.iter().map(|level| level.max).max()?,
    })
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;

    fn level(average: u64) -> Option<Level> {
        Some(Level { average, min: average / 2, max: average * 2 })
    }

    fn window(seconds: impl IntoIterator<Item = Option<Level>>) -> Window {
        let mut window = Window::default();
        seconds.into_iter().for_each(|second| window.push(second));
        window
    }

    #[test]
    fn present_is_the_last_seconds_and_normal_what_was_before() {
        let window = window([10; 20].into_iter().chain([100; PRESENT_SECONDS]).map(level));
        assert_eq!(window.present(), Some(Level { average: 100, min: 50, max: 200 }));
        assert_eq!(window.normal(), Some(Level { average: 10, min: 5, max: 20 }));
    }

    #[test]
    fn one_bad_second_is_not_the_present() {
        let window = window([10, 10, 5_000, 10, 10].map(level));
        assert_eq!(window.present().unwrap().average, 10);
        assert_eq!(window.present().unwrap().max, 10_000);
    }

    #[test]
    fn too_few_seconds_say_nothing() {
        let sparse = window([level(1), None, level(1), None, None]);
        assert_eq!((sparse.present(), sparse.is_empty()), (None, false));
        assert!(window([None; 30]).is_empty());
        let young = window([level(1); PRESENT_SECONDS + PAST_BLOCKS_MIN - 1]);
        assert_eq!((young.present().is_some(), young.normal()), (true, None));
    }

    #[test]
    fn fault_of_an_hour_does_not_become_normal() {
        let window = window(repeat_n(level(10), 4_000).chain(repeat_n(level(900), 3_600)));
        assert_eq!(window.normal().unwrap().average, 10);
        assert_eq!(window.present().unwrap().average, 900);
    }

    // covers I17
    #[test]
    fn memory_is_bounded_however_long_it_measures() {
        let window = window((0..100_000).map(level));
        assert!(window.past.len() < PAST_BLOCKS_MAX && window.filling.len() <= BLOCK_MAX_S as usize);
        assert_eq!(window.block_s, BLOCK_MAX_S);
        let oldest = window.past.front().copied().flatten().unwrap().average;
        let remembered_s = 100_000 - oldest;
        assert!((7_000..9_000).contains(&remembered_s), "{remembered_s}");
    }
}
