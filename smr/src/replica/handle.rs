//! How a process starts a replica and talks to it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{ClusterId, GroupName, Incarnation, NodeName};
use crate::replica::{ReplyTo, Request};
use crate::state_machine::StateMachine;

/// What a replica needs to know to start.
pub struct ReplicaOptions {
    /// Its group.
    pub group: GroupName,
    /// Its seat.
    pub name: NodeName,
    /// `host:port` of every other seat of the group.
    pub peers: BTreeMap<NodeName, String>,
    /// Where peers reach this replica; bound by the caller, so that a test can take a free port.
    pub listener: TcpListener,
    /// Its directory; made if it does not exist.
    pub directory: PathBuf,
    /// Start although writes cannot be proved to reach the device.
    pub allow_unsynced: bool,
    /// Where the network tasks run.
    pub runtime: tokio::runtime::Handle,
}

/// Why a replica cannot start. One line for a person; the process exits with a non-zero code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A replica whose directory is open and locked, but which does not run yet. In between, a server registers with the
/// manager under the incarnation that it found or made.
pub struct Opened {
    incarnation: Incarnation,
    cluster: Option<ClusterId>,
}

impl Opened {
    /// Opens (or makes) the directory and locks it.
    ///
    /// # Errors
    /// If it is locked, foreign, of another version, or cannot be read. Damage is no error: the replica is then quarantined.
    pub fn open(_options: ReplicaOptions) -> Result<Opened, StartError> {
        Err(StartError("under construction".into()))
    }

    /// The incarnation of this directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The cluster that this directory belongs to, if it is recorded.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Whether this directory has been born: is or was a member of its group.
    pub fn is_born(&self) -> bool {
        false
    }

    /// Runs the replica. `cluster` is `None` only for the group whose genesis makes the cluster id. `state` is the empty state; the
    /// snapshot and the log are applied on top of it. Threads of the replica end the process on a fatal error.
    ///
    /// # Errors
    /// If `cluster` is not the recorded one, or threads or sockets cannot be made.
    pub fn run<S: StateMachine>(self, _cluster: Option<ClusterId>, _state: S) -> Result<ReplicaHandle, StartError> {
        Err(StartError("under construction".into()))
    }
}

/// A running replica. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaHandle {
    inner: Arc<()>,
}

impl ReplicaHandle {
    /// Hands a request to the replica; never blocks. If its queue is full the outcome is `Busy`, at once.
    pub fn submit(&self, _request: Request, _reply: ReplyTo) {
        let _ = &self.inner;
    }

    /// The cluster id once it is known (a founding group learns it at birth).
    pub fn cluster(&self) -> Option<ClusterId> {
        None
    }

    /// Whether the replica is born: a member, or about to be one.
    pub fn is_born(&self) -> bool {
        false
    }

    /// Hands leadership over if it leads, lets what is under way finish, and stops. Blocks for at most 3 s.
    pub fn shutdown(&self) {}
}
