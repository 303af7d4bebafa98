//! MadKV's client.
//!
//! # Guarantees
//! - Every write takes effect exactly once, however often it is sent: it carries the session of its partition's group
//!   and a number in it. A request that never left may move to another session; one whose outcome is unknown never
//!   does ([`Error::Evicted`]).
//! - Every read is linearizable; reads are repeated freely. A SCAN is whole or fails, never partial.
//! - Without a timeout a call returns when it succeeded. With one, [`Error::Timeout`] says whether the write may have
//!   happened. "Has not happened" rests on one of two facts only: no copy left this process, or each copy that left was
//!   refused before it was proposed (fault catalogue C9).
//! - Everything is bounded: requests and bytes under way, redirects in a row, the rate of retries ([`limits`]).
//!
//! # Vocabulary
//! - A *group* is a partition's replicas (or the managers); it has a *belief* about who leads, and terms keep it from
//!   going back. A *suspect* is a replica that was silent or unreachable and has not spoken since.
//! - An *exchange* is one request's way to its answer. It may send several *copies*, at most one to a replica at a
//!   time.
//! - A *link* is the way to one address; it holds at most one *connection*, which all requests share.
//! - A *finder* asks all replicas of a group who leads, once for all that wait for the answer.
//!
//! # The journey of a call
//! [`Client`] checks limits, takes the map from the router, reserves a number in the group's session and starts an
//! exchange. The exchange sends a copy to the believed leader. A refusal, a broken connection or
//! 500 ms of silence change the group's belief; if no leader is left the finder runs, and a copy goes to whom it finds.
//! Copies that are still out count: the first real answer, from whomever, ends the exchange.
//!
//! # Left out
//! Reads from followers, streaming of SCAN results (they are collected before the call returns), authentication.

// Lines for a person go through the log sink: these panic if nobody takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod admin;
mod backoff;
mod belief;
pub mod cli;
mod client;
mod connection;
mod error;
mod exchange;
mod finder;
mod group;
pub mod limits;
mod link;
mod mailbox;
mod network;
mod router;
mod scan;
mod session;
mod trace;

pub use admin::{ClusterStatus, KeyPlace, NodeReport};
pub use client::{Client, Options};
pub use error::Error;
pub use network::{Dial, Input, Network, Output, World};
pub use trace::Trace;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smr::id::ClusterId;
use tokio::time::Instant;

/// What all parts of one client share.
struct Context {
    /// The cluster, once the first map has told it. A client never moves to another one.
    cluster: OnceLock<ClusterId>,
    jitter: backoff::Jitter,
    trace: Option<Arc<dyn Trace>>,
    /// Where connections lead; `None` for TCP.
    network: Option<Arc<dyn Network>>,
}

/// The deadline of a call has passed.
#[derive(Clone, Copy, Debug)]
struct TimedOut;

/// Locks; a panic elsewhere under the lock does not stop us, each critical section leaves the data sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until `at`, for ever if there is none.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The earlier of two times, where none is never.
fn earlier(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// Awaits `future` until `deadline`.
async fn before<F: Future>(deadline: Option<Instant>, future: F) -> Result<F::Output, TimedOut> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at, future).await.map_err(|_| TimedOut),
        None => Ok(future.await),
    }
}
