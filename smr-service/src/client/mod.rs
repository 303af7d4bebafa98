//! What a client of any service needs: connections, who leads a group, sessions, and one request's way to its answer.
//! Which group a request is for, and what it means, is the business of a service's own client; a service that is one
//! group has [`ServiceClient`].
//!
//! # Vocabulary
//! - A [`Group`] is the replicas of one log (or the managers); it has a *leader cache*: who leads, as far as it has
//!   heard, and terms keep it from going back. A *suspect* is a replica that was silent or unreachable and has not
//!   spoken since.
//! - An [`Exchange`] is one request's way to its answer. It may send several *copies*, at most one to a replica at a
//!   time.
//! - A [`Link`] is the way to one address; it holds at most one [`Connection`], which all requests share.
//! - *Discovery* asks all replicas of a group who leads, once for all that wait for the answer.
//!
//! # The journey of a request
//! The exchange sends a copy to the believed leader. A refusal, a broken connection or
//! 500 ms of silence change the group's leader cache; if no leader is left discovery runs, and a copy goes to whom it
//! finds. Copies that are still out count: the first real answer, from whomever, ends the exchange.
//!
//! Where all replicas take writes, as they say in their welcome, a write goes to each of them at once, and the first
//! answer counts; the others are discarded when they come.

mod backoff;
mod connection;
mod discovery;
mod exchange;
mod group;
mod inbox;
mod leader_cache;
pub mod limits;
mod link;
mod network;
mod service_client;
mod session;
mod session_opening;
mod trace;
mod write;

pub use backoff::Jitter;
pub use connection::{Connection, CopyEvent, Event, EventSender, Posted};
pub use exchange::{Exchange, Failure, Final};
pub use group::{Admission, Group};
pub use link::{Link, troubles};
pub use network::{Dial, Input, Network, Output, World};
pub use service_client::{CallError, ServiceClient, ServiceOptions};
pub use session::{Session, Ticket};
pub use trace::{RequestNames, Trace};
pub use write::{Write, WriteEnd};

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smr::id::ClusterId;
use tokio::time::Instant;

/// What all parts of one client share.
pub struct Context {
    /// The cluster, once the first map has told it. A client never moves to another one.
    pub cluster: OnceLock<ClusterId>,
    /// Where the lengths of pauses come from.
    pub jitter: Jitter,
    /// Hears of each message.
    pub trace: Option<Arc<dyn Trace>>,
    /// What consoles call this client and its requests.
    pub names: RequestNames,
    /// Where connections lead; `None` for TCP.
    pub network: Option<Arc<dyn Network>>,
}

impl Context {
    /// Of a client over TCP whose messages no one hears of, and that no console names.
    pub fn plain(cluster: Option<ClusterId>) -> Context {
        let cluster = cluster.map(OnceLock::from).unwrap_or_default();
        Context { cluster, jitter: Jitter::new(None), trace: None, names: RequestNames::default(), network: None }
    }
}

/// The deadline of a call has passed.
#[derive(Clone, Copy, Debug)]
pub struct TimedOut;

/// Locks; a panic elsewhere under the lock does not stop us, each critical section leaves the data sound.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until `at`, for ever if there is none.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The earlier of two times, where none is never.
pub(crate) fn earlier(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// Awaits `future` until `deadline`.
///
/// # Errors
/// If it has passed.
pub async fn before<F: Future>(deadline: Option<Instant>, future: F) -> Result<F::Output, TimedOut> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at, future).await.map_err(|_| TimedOut),
        None => Ok(future.await),
    }
}
