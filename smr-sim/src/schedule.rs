//! What is yet to happen in a world: in the order of time, and at one time in the order in which it was scheduled.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use smr::internals::protocol::Time;

/// See the module.
pub(crate) struct Schedule<E> {
    queue: BinaryHeap<Scheduled<E>>,
    /// How many there ever were.
    count: u64,
}

struct Scheduled<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Schedule<E> {
    /// Nothing.
    pub(crate) fn new() -> Schedule<E> {
        Schedule { queue: BinaryHeap::new(), count: 0 }
    }

    /// `event` happens then.
    pub(crate) fn add(&mut self, at: Time, event: E) {
        self.count += 1;
        self.queue.push(Scheduled { at, number: self.count, event });
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|next| next.at)
    }

    /// Whether something happens until then.
    pub(crate) fn has_until(&self, until: Time) -> bool {
        self.next_at().is_some_and(|at| at <= until)
    }

    /// The next thing, and when it happens.
    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        self.queue.pop().map(|next| (next.at, next.event))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<E> Eq for Scheduled<E> {}
impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Scheduled<E> {
    /// The earliest is the greatest: the heap gives that one first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
