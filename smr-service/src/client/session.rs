//! The client's side of a session: which number is next, and which is the lowest still waited for.
//!
//! A number is waited for from [`Session::reserve`] until its [`Ticket`] is dropped: answered, failed or abandoned. The
//! server then forgets its answer, and drops a late copy of it as a duplicate.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use smr::id::ClientId;
use tokio::sync::Notify;

use crate::client::limits::SESSION_WINDOW_MAX;
use crate::client::lock;

/// A session in one group.
pub struct Session {
    /// Its id there.
    pub client: ClientId,
    window: Mutex<Window>,
    moved: Notify,
}

/// The numbers from the lowest waited for to the last given out.
struct Window {
    /// The lowest number that is waited for, or the next to be given out. Starts at 1.
    lowest: u64,
    /// For each number from `lowest` on that was given out: whether it is done.
    done: VecDeque<bool>,
}

/// A number in a session, waited for until dropped.
pub struct Ticket {
    session: Arc<Session>,
    number: u64,
}

impl Session {
    /// The session that was opened as `client`; no number is given out yet.
    pub fn new(client: ClientId) -> Session {
        Session { client, window: Mutex::new(Window { lowest: 1, done: VecDeque::new() }), moved: Notify::new() }
    }

    /// The next number, as soon as the window has room for it.
    pub async fn reserve(self: &Arc<Session>) -> Ticket {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable(); // before looking, so that a move in between is not missed
            if let Some(number) = lock(&self.window).give() {
                return Ticket { session: Arc::clone(self), number };
            }
            moved.await;
        }
    }

    /// The lowest number that is still waited for.
    pub fn lowest_unanswered(&self) -> u64 {
        lock(&self.window).lowest
    }
}

impl Window {
    fn give(&mut self) -> Option<u64> {
        if self.done.len() as u64 >= SESSION_WINDOW_MAX {
            return None;
        }
        self.done.push_back(false);
        Some(self.lowest + self.done.len() as u64 - 1)
    }

    /// Returns whether the lowest number moved.
    fn finish(&mut self, number: u64) -> bool {
        let place = number.checked_sub(self.lowest).and_then(|place| self.done.get_mut(place as usize));
        let Some(done) = place else { panic!("number {number} is not in the window from {}", self.lowest) };
        *done = true;
        let before = self.lowest;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.lowest += 1;
        }
        self.lowest != before
    }
}

impl Ticket {
    /// The number under which the request goes, in all its copies.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if lock(&self.session.window).finish(self.number) {
            self.session.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_out_of_order_lowest_moves_over_gap_at_once() {
        let mut window = Window { lowest: 1, done: VecDeque::new() };
        assert_eq!([window.give(), window.give(), window.give()], [Some(1), Some(2), Some(3)]);
        assert!(!window.finish(2));
        assert_eq!(window.lowest, 1);
        assert!(window.finish(1));
        assert_eq!(window.lowest, 3);
        assert!(window.finish(3));
        assert_eq!(window.give(), Some(4));
    }

    #[test]
    fn give_window_full_waits_for_the_lowest() {
        let mut window = Window { lowest: 1, done: VecDeque::new() };
        for number in 1..=SESSION_WINDOW_MAX {
            assert_eq!(window.give(), Some(number));
        }
        window.finish(2);
        assert_eq!(window.give(), None, "2 is done, but 1 holds the window");
        window.finish(1);
        assert_eq!(window.give(), Some(SESSION_WINDOW_MAX + 1));
    }
}
