//! The way to one address: at most one connection, and pauses between attempts to make it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::client::connection::Connection;
use crate::client::limits::RECONNECT_PAUSE;
use crate::client::{Context, lock};
use crate::frames::{Map, Service};

/// The way to one replica.
pub struct Link<M: Map> {
    context: Arc<Context>,
    address: String,
    service: Service,
    /// The replica's number in traces.
    number: usize,
    /// Of its group: whether writes go to all replicas.
    sends_to_all: Arc<AtomicBool>,
    state: Mutex<State<M>>,
}

struct State<M: Map> {
    connection: Option<Arc<Connection<M>>>,
    /// Attempts in a row that were not welcomed.
    failures: u32,
    /// No attempt before this time.
    not_before: Option<Instant>,
    /// How the last connection ended.
    why: Option<String>,
}

impl<M: Map> Default for State<M> {
    fn default() -> State<M> {
        State { connection: None, failures: 0, not_before: None, why: None }
    }
}

impl<M: Map> Link<M> {
    pub(crate) fn new(
        context: Arc<Context>,
        address: String,
        service: Service,
        number: usize,
        sends_to_all: Arc<AtomicBool>,
    ) -> Link<M> {
        Link { context, address, service, number, sends_to_all, state: Mutex::default() }
    }

    /// `host:port` of the replica.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The replica's number in traces, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The connection, which may still be coming about; `None` while it is too early for another attempt.
    pub fn connection(&self) -> Option<Arc<Connection<M>>> {
        let mut state = lock(&self.state);
        state.reap(&self.context);
        if let Some(connection) = &state.connection {
            return Some(Arc::clone(connection));
        }
        if state.not_before.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let (context, sends_to_all) = (Arc::clone(&self.context), Arc::clone(&self.sends_to_all));
        let connection = Connection::open(context, self.address.clone(), self.service, self.number, sends_to_all);
        state.connection = Some(Arc::clone(&connection));
        Some(connection)
    }

    /// How the last connection ended, for a person to read.
    pub fn trouble(&self) -> Option<String> {
        let mut state = lock(&self.state);
        state.reap(&self.context);
        state.why.clone()
    }
}

/// How the last connections of a group ended: one line, or nothing if none did.
pub fn troubles<M: Map>(links: &[Arc<Link<M>>]) -> Option<String> {
    let of = |link: &Arc<Link<M>>| link.trouble().map(|why| format!("{}: {why}", link.address));
    let troubles: Vec<String> = links.iter().filter_map(of).collect();
    (!troubles.is_empty()).then(|| troubles.join("; "))
}

impl<M: Map> State<M> {
    /// Puts a closed connection away.
    fn reap(&mut self, context: &Context) {
        let Some(end) = self.connection.as_ref().and_then(|connection| connection.end()) else { return };
        self.connection = None;
        self.failures = if end.welcomed { 0 } else { self.failures.saturating_add(1) };
        // A server that was there a moment ago is tried again at once: it may have dropped just this connection.
        self.not_before =
            (self.failures > 0).then(|| Instant::now() + context.jitter.growing(self.failures - 1, RECONNECT_PAUSE));
        self.why = Some(end.why);
    }
}

impl<M: Map> Drop for Link<M> {
    fn drop(&mut self) {
        if let Some(connection) = &lock(&self.state).connection {
            connection.close("the client is gone", true);
        }
    }
}
