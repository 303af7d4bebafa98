//! How much may be on its way to one member, and what is.

use std::collections::VecDeque;

use crate::entry::Index;

/// The appends on their way to a member, oldest first. Acknowledgements are cumulative.
#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    appends: VecDeque<(Index, usize)>,
    bytes: usize,
    /// How many appends may be on their way: 1 after a probe, and one more with each acknowledgement of something new,
    /// as TCP's slow start does it. The limit in the settings is for the steady state. A pipeline at full width right
    /// after a probe would multiply where messages overtake each other: each rejection of one that came too early
    /// restarts it.
    window: usize,
}

impl Default for Inflight {
    fn default() -> Inflight {
        Inflight { appends: VecDeque::new(), bytes: 0, window: 1 }
    }
}

impl Inflight {
    /// An append that ends with `last` was sent.
    pub(crate) fn add(&mut self, last: Index, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `last` arrived.
    pub(crate) fn free_through(&mut self, last: Index) {
        while let Some((_, bytes)) = self.appends.pop_front_if(|(end, _)| *end <= last) {
            self.bytes -= bytes;
        }
    }

    /// Where the oldest append on its way ends.
    pub(crate) fn oldest(&self) -> Option<Index> {
        self.appends.front().map(|(last, _)| *last)
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// How many appends are on their way.
    pub(crate) fn len(&self) -> usize {
        self.appends.len()
    }

    /// Nothing is on its way any more.
    pub(crate) fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }

    /// The same, and the pipeline begins narrow.
    pub(crate) fn restart(&mut self) {
        self.clear();
        self.window = 1;
    }

    /// Something new was acknowledged.
    pub(crate) fn widen(&mut self) {
        self.window = self.window.saturating_add(1);
    }

    /// Whether one more append may leave, with these limits. The one that crosses the limit in bytes still goes.
    pub(crate) fn has_room(&self, appends_max: usize, bytes_max: usize) -> bool {
        self.appends.len() < self.window.min(appends_max) && self.bytes < bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inflight_acknowledged_frees_cumulatively() {
        let mut inflight = Inflight { window: 100, ..Inflight::default() };
        for last in [2, 4, 6] {
            assert!(inflight.has_room(3, 100));
            inflight.add(Index(last), 10);
        }
        assert!(!inflight.has_room(3, 100), "three appends");
        inflight.free_through(Index(5));
        assert_eq!((inflight.len(), inflight.bytes), (1, 10));
        inflight.add(Index(7), 90);
        assert!(!inflight.has_room(3, 100), "a hundred bytes");
        inflight.free_through(Index(7));
        assert!(inflight.is_empty() && inflight.bytes == 0);
    }
}
