//! What a process that serves shows of itself over HTTP, if it is told to: `--http_listen`.
//!
//! | path | what it answers |
//! |---|---|
//! | `/metrics` | numbers, in the OpenMetrics text format, which Prometheus reads |
//! | `/livez` | 200 while the process does its work; an orchestrator may restart it if not |
//! | `/readyz` | 200 if it has lately been seen to serve, 503 with the reason if not |
//! | `/status` | what the replica says of itself, as JSON: the fields of `status --json` |
//!
//! What is behind the paths is a [`Surface`]: that of a replica is [`ReplicaSurface`]. Metrics are [`Families`], made
//! anew for each scrape.
//!
//! # What a stranger can do here
//! Nothing to the replica: no path changes anything. The listener has a thread of its own, so whoever keeps it busy
//! keeps other watchers waiting and no one else. Connections, their length in time, their rate and the size of a
//! request are bounded ([`CONNECTIONS_MAX`], [`CONNECTION_MAX`], [`CONNECTIONS_PER_S`], [`REQUEST_MAX_BYTES`]); each
//! serves one request. Of the host with most connections the oldest goes when there are too many, as in
//! [`smr::internals::lobby`].

mod exposition;
mod flags;
mod host;
mod process;
mod replica;
mod server;

pub use self::exposition::{Families, Labels};
pub use self::flags::HttpFlags;
pub use self::replica::{
    CAUGHT_UP_WITHIN, DISK_WITHIN, INTAKE_WITHIN, LIVE_WITHIN, PROBE_FRESH, PROBE_TIMEOUT, REFUSAL_FRESH,
    ReplicaSurface, STATUS_FRESH, STATUS_TIMEOUT, Served, Whom,
};
pub use self::server::{
    CONNECTION_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_S, HEADER_TIMEOUT, HEADERS_MAX, HttpListener, REQUEST_MAX_BYTES,
};

use std::pin::Pin;

/// A page that is being made.
pub type Page<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a process shows. Each page is made when it is asked for, on the HTTP listener's thread: it may wait for
/// others, for a bounded time, and must not block.
pub trait Surface: Send + Sync + 'static {
    /// Whether the process does its work, or why not.
    fn live(&self) -> Page<Result<(), String>>;

    /// Whether it has lately been seen to serve, or why not.
    fn ready(&self) -> Page<Result<(), String>>;

    /// What it says of itself, as JSON, and whether it could be asked.
    fn status(&self) -> Page<Result<serde_json::Value, serde_json::Value>>;

    /// Its numbers.
    fn metrics(&self) -> Page<Families>;
}
