//! A client of a service that is one group: writes and reads, whoever leads it.
//!
//! A service of many groups, like a store with partitions, has a client of its own that knows which of them a request
//! is for; it is made of the same parts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::{
    Context, Exchange, Failure, Final, Group, Jitter, RequestNames, TimedOut, Trace, World, Write, WriteEnd,
};
use crate::frames::{ClientRequest, ClientResponse, Service};

/// What a client of a service needs to know.
#[derive(Clone, Default)]
pub struct ServiceOptions {
    /// `host:port` where each replica serves clients, by number.
    pub replicas: Vec<String>,
    /// How long a call may take; `None` retries until it succeeds.
    pub timeout: Option<Duration>,
    /// Hears of each message.
    pub trace: Option<Arc<dyn Trace>>,
    /// What replaces the outside world in a simulation; `None` in service.
    pub world: Option<World>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The time given to the call is over.
    #[error("timeout: {}", fate(*may_have_happened))]
    Timeout {
        /// Whether a copy of the write may have been, or may yet be, applied. Always false for reads.
        may_have_happened: bool,
    },
    /// The session, or the answer stored in it, was evicted while the outcome of a write was unknown.
    #[error("{what}: the write may have happened")]
    Evicted {
        /// What was evicted.
        what: &'static str,
    },
    /// The service refused, and says why.
    #[error("refused: {reason}; {}", fate(*may_have_happened))]
    Refused {
        /// For a person to read.
        reason: String,
        /// Whether an earlier copy of the write may have been applied.
        may_have_happened: bool,
    },
    /// The service gave an answer that makes no sense: this one. A write may have happened.
    #[error("senseless answer: {0}; a write may have happened")]
    BadAnswer(String),
}

impl CallError {
    /// Whether the write may have been, or may yet be, applied.
    pub fn may_have_happened(&self) -> bool {
        match self {
            CallError::Timeout { may_have_happened } | CallError::Refused { may_have_happened, .. } => {
                *may_have_happened
            }
            CallError::Evicted { .. } | CallError::BadAnswer(_) => true,
        }
    }

    fn of(failure: Failure) -> CallError {
        match failure {
            Failure::TimedOut => CallError::Timeout { may_have_happened: false },
            Failure::Refused(reason) => CallError::Refused { reason, may_have_happened: false },
            Failure::Senseless(what) => CallError::BadAnswer(what),
        }
    }
}

impl From<TimedOut> for CallError {
    fn from(_: TimedOut) -> CallError {
        CallError::Timeout { may_have_happened: false }
    }
}

fn fate(may_have_happened: bool) -> &'static str {
    if may_have_happened { "the write may have happened" } else { "nothing was changed" }
}

/// A handle to a service. Cheap to clone; clones share connections and the session. Calls may run at the same time, in
/// any number, and are then unordered. Dropping a call's future abandons it: a write may then have happened.
#[derive(Clone)]
pub struct ServiceClient {
    context: Arc<Context>,
    group: Arc<Group<()>>,
    timeout: Option<Duration>,
}

impl ServiceClient {
    /// Makes a client of the service called `name`; nothing is contacted before the first call. Its calls must run on a
    /// tokio runtime with time and network enabled.
    ///
    /// # Panics
    /// If no replica is named.
    pub fn connect(name: &str, options: ServiceOptions) -> ServiceClient {
        assert!(!options.replicas.is_empty(), "no address of a replica");
        let ServiceOptions { replicas, timeout, trace, world } = options;
        let (seed, network) = world.map(|world| (world.seed, world.network)).unzip();
        let names = RequestNames::new(None, trace.is_some());
        let context = Arc::new(Context { cluster: OnceLock::new(), jitter: Jitter::new(seed), trace, names, network });
        let group = Arc::new(Group::new(&context, name.to_owned(), Service::ONLY_GROUP, 1, &replicas));
        ServiceClient { context, group, timeout }
    }

    /// Has a command applied exactly once, and gives the state machine's answer.
    ///
    /// # Errors
    /// See [`CallError`], which says whether the write may have happened.
    pub async fn write(&self, command: impl Into<Bytes>) -> Result<Bytes, CallError> {
        let (command, deadline, number) = (command.into(), self.deadline(), self.context.names.next());
        loop {
            let begun = Write::begin(&self.context, &self.group, 0, command.clone(), deadline).await;
            let mut write = begun.map_err(CallError::of)?.numbered(number);
            let Ok(end) = write.run(0).await else {
                return Err(CallError::Timeout { may_have_happened: write.may_have_happened() });
            };
            match end {
                WriteEnd::Answer(answer) => return Ok(answer),
                WriteEnd::NotDone => {}
                WriteEnd::Evicted { what } => return Err(CallError::Evicted { what }),
                WriteEnd::Senseless(what) => return Err(CallError::BadAnswer(what)),
                WriteEnd::Response(other) => return Err(refusal(other, write.may_have_happened())),
            }
        }
    }

    /// Answers a query, linearizably.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Bytes, CallError> {
        let (query, deadline) = (query.into(), self.deadline());
        let _admission = self.group.admit(query.len(), deadline).await?;
        let mut exchange = Exchange::new(&self.context, &self.group, deadline).numbered(self.context.names.next());
        match exchange.run(0, &|| ClientRequest::Read { query: query.clone() }).await? {
            Final::Answer(parts) => Ok(parts.concat().into()),
            Final::Response(other) => Err(refusal(other, false)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }
}

fn refusal(response: ClientResponse<()>, may_have_happened: bool) -> CallError {
    let reason = match response {
        ClientResponse::Refused(reason) => reason,
        ClientResponse::DiskFull => "the leader's disk is full".to_owned(),
        ClientResponse::TooLarge { limit_bytes } => format!("too large, the limit is {limit_bytes} bytes"),
        other => return CallError::BadAnswer(format!("{other:?}")),
    };
    CallError::Refused { reason, may_have_happened }
}
