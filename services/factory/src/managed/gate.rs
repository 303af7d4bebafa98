//! The orders that a primary has under way, and how it stops: no further one begins, and those that have are finished.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What every order goes through.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    under_way: usize,
}

/// An order that is under way, until this is dropped.
#[derive(Debug)]
pub struct UnderWay<'a>(&'a Gate);

/// A gate that is closed, until this is dropped.
#[derive(Debug)]
pub struct Closed<'a>(&'a Gate);

impl Gate {
    /// Begins an order, as soon as the gate is open.
    pub async fn enter(&self) -> UnderWay<'_> {
        self.when(|state| {
            if state.is_closed {
                return None;
            }
            state.under_way += 1;
            Some(UnderWay(self))
        })
        .await
    }

    /// Closes the gate, and waits until nothing is under way. `None`, and open again, if that takes longer than this;
    /// `None` at once if it is closed already.
    pub async fn close(&self, limit: Duration) -> Option<Closed<'_>> {
        let until = Instant::now() + limit;
        let closed = {
            let mut state = self.state.lock();
            if state.is_closed {
                return None;
            }
            state.is_closed = true;
            Closed(self)
        };
        let empty = self.when(|state| (state.under_way == 0).then_some(()));
        timeout_at(until, empty).await.ok().map(|()| closed)
    }

    /// Waits until `look` finds something.
    async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            changed.await;
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
        self.0.changed.notify_waiters();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = false;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    /// How long something must not happen for.
    const A_WHILE: Duration = Duration::from_millis(50);

    async fn is_open(gate: &Gate) -> bool {
        timeout_at(Instant::now() + A_WHILE, gate.enter()).await.is_ok()
    }

    #[tokio::test]
    async fn closed_gate_lets_no_order_in_and_is_closed_once_those_inside_are_through() {
        let gate = Arc::new(Gate::default());
        let inside = gate.enter().await;
        let closing = gate.close(LONG);
        tokio::pin!(closing);
        assert!(timeout_at(Instant::now() + A_WHILE, &mut closing).await.is_err(), "an order is inside");
        assert!(!is_open(&gate).await);
        assert!(gate.close(LONG).await.is_none(), "it is being closed");
        drop(inside);
        let closed = closing.await;
        assert!(closed.is_some() && !is_open(&gate).await);
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { drop(gate.enter().await) }
        });
        drop(closed);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn gate_is_open_again_if_an_order_does_not_end_in_time() {
        let gate = Gate::default();
        let inside = gate.enter().await;
        assert!(gate.close(A_WHILE).await.is_none());
        drop(gate.enter().await);
        drop(inside);
        assert!(gate.close(LONG).await.is_some());
    }
}
