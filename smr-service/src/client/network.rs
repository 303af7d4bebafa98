//! How connections come about: over TCP, or over whatever a simulation puts in its place.
//!
//! With a [`World`] a client is deterministic: on tokio's single-threaded runtime with a paused clock, the same world
//! and the same calls give the same messages at the same times. So nothing in this crate may depend on the order of a
//! `HashMap`, on an unbiased `select!`, on `tokio::sync::watch` (which wakes its receivers in random order), or on
//! another source of randomness than [`crate::client::Context`]'s.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// What the other side sends.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// What the other side gets.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;
/// A connection that is coming about. Dropping it gives it up.
pub type Dial = Pin<Box<dyn Future<Output = io::Result<(Input, Output)>> + Send>>;

/// Makes connections.
pub trait Network: Send + Sync + 'static {
    /// Connects to `address` (`host:port`, as the map or the options name it). May take for ever: the caller gives up
    /// after [`crate::client::limits::CONNECT_TIMEOUT`]. Dropping both halves closes the connection.
    fn dial(&self, address: &str) -> Dial;
}

/// What replaces the outside world in a simulation.
#[derive(Clone)]
pub struct World {
    /// Where connections lead.
    pub network: Arc<dyn Network>,
    /// Decides the lengths of all pauses.
    pub seed: u64,
}
