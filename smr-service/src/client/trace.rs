//! The messages of a client, for whoever watches.

/// Hears of each message. Called from the client's tasks: must not block.
pub trait Trace: Send + Sync + 'static {
    /// A copy of request `number` was handed to the connection to `server` (from 1, partition by partition).
    fn sent(&self, server: usize, number: u64);
    /// The answer to request `number` came from `server`.
    fn received(&self, server: usize, number: u64);
    /// An answer to request `number` came from `server`, but an earlier one had ended it.
    fn duplicate(&self, server: usize, number: u64);
    /// A request's attempt failed, or has heard nothing for too long; the request goes on. Says why.
    fn retried(&self, _why: &'static str) {}
}
