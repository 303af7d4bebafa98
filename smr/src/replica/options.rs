//! What a replica needs to know to start, and why it may not be able to.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use crate::epoch::GroupKind;
use crate::id::{GroupName, ReplicaId};
use crate::raft::CLOCK_DRIFT_PERMILLE;
use crate::report::{ReportSink, TracingReports};
use crate::status::ReadMode;
use crate::storage::{self, OpenError};

/// What a replica needs to know to start.
pub struct ReplicaOptions {
    /// The name of its group, which all replicas of it give alike.
    pub group: GroupName,
    /// Its number in the group.
    pub name: ReplicaId,
    /// `host:port` of every other replica of the group.
    pub peers: BTreeMap<ReplicaId, String>,
    /// Where peers reach this replica; bound by the caller, so that a test can take a free port.
    pub listener: TcpListener,
    /// Its directory; made if it does not exist.
    pub directory: PathBuf,
    /// What keeps the log. A directory keeps the one that it was made with.
    pub log_engine: storage::LogEngine,
    /// Start although writes cannot be proved to reach the device. (On tmpfs they never do; there a replica starts
    /// without this, and says so.)
    pub allow_unsynced: bool,
    /// The operator's word that the group begins again: together with all other replicas of the group, if they were all
    /// told so and none of them has data, this one founds a group in place of the one that was there.
    pub found_anew: bool,
    /// The group exists: this replica joins it, and never founds one, whatever it hears. Says nothing to a directory
    /// that has data.
    pub joins: bool,
    /// The kind of its group. A directory keeps the one that it was made for.
    pub kind: GroupKind,
    /// How reads are confirmed while this replica leads.
    pub reads: ReadMode,
    /// For leases: by how much the rates of two replicas' clocks may differ, per thousand.
    pub clock_drift_permille: u64,
    /// Takes what the replica tells a person.
    pub reports: Arc<dyn ReportSink>,
    /// Where the network tasks run.
    pub runtime: tokio::runtime::Handle,
}

impl ReplicaOptions {
    /// Replica `name` of `group`, reached by its peers over `listener`, with its data in `directory`, and alone until
    /// `peers` are named. Everything else is as most want it: writes that reach the device or a refusal to start, the
    /// default log engine, reads confirmed by a round of messages.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime, which the network tasks run on.
    pub fn new(group: GroupName, name: ReplicaId, listener: TcpListener, directory: impl Into<PathBuf>) -> Self {
        ReplicaOptions {
            group,
            name,
            peers: BTreeMap::new(),
            listener,
            directory: directory.into(),
            log_engine: storage::LogEngine::default(),
            allow_unsynced: false,
            found_anew: false,
            joins: false,
            kind: GroupKind::Raft,
            reads: ReadMode::Index,
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
            reports: Arc::new(TracingReports),
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

/// Why a replica cannot start. One line for a person; the programs end with it and a non-zero code.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// What is wrong, in one line for a person.
    pub what: String,
    /// Whether another command line would do.
    pub is_usage: bool,
}

impl StartError {
    pub(super) fn of(error: impl std::fmt::Display) -> StartError {
        StartError::new(error.to_string())
    }

    pub(super) fn new(what: String) -> StartError {
        StartError { what, is_usage: false }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> StartError {
        StartError {
            what: error.to_string(),
            is_usage: matches!(error, OpenError::OtherEngine { .. } | OpenError::OtherKind { .. }),
        }
    }
}

impl From<storage::StorageError> for StartError {
    fn from(error: storage::StorageError) -> StartError {
        StartError::of(error)
    }
}
