//! The messages of a client, for whoever watches, and how its requests are called there.

use std::sync::atomic::{AtomicU32, Ordering};

/// Hears of each message. Called from the client's tasks: must not block.
///
/// A request's number is the client's own count of its reads and writes, the same for all copies of one. What a client
/// asks for itself, as a session, has none, and is not told.
pub trait Trace: Send + Sync + 'static {
    /// A copy of request `number` was handed to the connection to `server` (from 1, partition by partition).
    fn sent(&self, server: usize, number: u32);
    /// The answer to request `number` came from `server`.
    fn received(&self, server: usize, number: u32);
    /// `server` has not carried out request `number`. Says why.
    fn refused(&self, _server: usize, _number: u32, _why: &'static str) {}
    /// An answer to request `number` came from `server`, but an earlier one had ended it.
    fn duplicate(&self, server: usize, number: u32);
    /// That answer was another one than the first: the states of two replicas differ.
    fn diverged(&self, _server: usize, _number: u32) {}
    /// A request's attempt failed, or has heard nothing for too long; the request goes on. Says why.
    fn retried(&self, _why: &'static str) {}
}

/// What a client and its requests are called on consoles. Without a name, and with no one who watches, nothing is
/// counted.
#[derive(Default)]
pub struct RequestNames {
    client: Option<u32>,
    counts: bool,
    last: AtomicU32,
}

impl RequestNames {
    /// Those of `client`, as it calls itself to servers. `traced` if someone watches.
    pub fn new(client: Option<u32>, traced: bool) -> RequestNames {
        RequestNames { client, counts: traced || client.is_some(), last: AtomicU32::new(0) }
    }

    /// What the client calls itself.
    pub fn client(&self) -> Option<u32> {
        self.client
    }

    /// The number of the next request, from 1; 0 if none is counted.
    pub fn next(&self) -> u32 {
        if !self.counts {
            return 0;
        }
        // After 2^32 requests they begin again; the 0 between is one that no console shows.
        self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}
