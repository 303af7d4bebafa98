//! What the connections of a listener hold together, and what each of them may take.
//!
//! They share [`ListenerLimits::total_max_bytes`]. A part of it is dealt out: each has
//! [`CONNECTION_OWN_BYTES`] that no one takes from it, so a client that asks for little is served however many others
//! take what they get. The rest, the *pool*, is for whoever needs more: of its first half a connection gets a quarter
//! of what is free at the moment; the third quarter is for those who hold next to nothing and need a large thing alone;
//! the last one is for parts of long answers. What does not fit is `Busy`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ListenerLimits;

/// What each connection has for itself, in bytes; less where there may be this many connections that it would be more
/// than half of the total.
const CONNECTION_OWN_BYTES: usize = 32 << 10;
/// Beyond that a connection gets one part in this many of what is free of the pool's first half.
const POOL_SHARE: usize = 4;

/// What the connections of a listener hold together.
#[derive(Default)]
pub(super) struct Held {
    /// All of it.
    all_bytes: AtomicUsize,
    /// What connections hold beyond their own.
    pub(super) pool_bytes: AtomicUsize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.all_bytes.load(Ordering::Relaxed)
    }
}

/// A connection's part in it.
pub(super) struct Share {
    pub(super) held: Arc<Held>,
    own_bytes: usize,
    pub(super) pool_max_bytes: usize,
}

impl Share {
    pub(super) fn new(limits: &ListenerLimits, held: Arc<Held>) -> Share {
        let own_bytes = CONNECTION_OWN_BYTES.min(limits.total_max_bytes / 2 / limits.connections_max.max(1));
        let pool_max_bytes = limits.total_max_bytes - own_bytes * limits.connections_max;
        Share { held, own_bytes, pool_max_bytes }
    }

    /// Whether a connection that holds `mine` bytes, of which a frame that is being read has `reading`, may
    /// hold `more`.
    pub(super) fn fits(&self, mine: usize, reading: usize, more: usize) -> bool {
        let beyond = (mine + more).saturating_sub(self.own_bytes);
        let used = self.held.pool_bytes.load(Ordering::Relaxed);
        let free = (self.pool_max_bytes / 2).saturating_sub(used);
        // A frame that is being read is what asks here, and no reason to refuse the rest of it.
        let lone = mine - reading <= self.own_bytes && used + beyond <= self.pool_max_bytes / 4 * 3;
        beyond <= free / POOL_SHARE || lone || beyond == 0
    }

    /// Counts that a connection which held `before` bytes holds `now`.
    pub(super) fn count(&self, before: usize, now: usize) {
        let beyond = |bytes: usize| bytes.saturating_sub(self.own_bytes);
        for (total, before, now) in
            [(&self.held.all_bytes, before, now), (&self.held.pool_bytes, beyond(before), beyond(now))]
        {
            if now > before {
                total.fetch_add(now - before, Ordering::Relaxed);
            } else if before > now {
                total.fetch_sub(before - now, Ordering::Relaxed);
            }
        }
    }

    /// What is left of the pool for parts of long answers, in bytes.
    pub(super) fn left(&self) -> usize {
        self.pool_max_bytes.saturating_sub(self.held.pool_bytes.load(Ordering::Relaxed))
    }
}
