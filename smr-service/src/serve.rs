//! How a process that serves clients ends: in order, within what the contract gives it.

use std::time::Duration;

use smr::replica::ReplicaHandle;

use crate::args::BadArgument;
use crate::listener::{Backend, Listener};
use crate::log_sink;
use crate::notify;
use crate::process::{Fatal, Signals};

/// Exit code after a second signal.
const EXIT_INTERRUPTED: i32 = 130;
/// How long an orderly end may take in the replica, in milliseconds; the replica takes 3 s at most.
const SHUTDOWN_REPLICA_MS: u64 = 3_500;
/// How long connections may take for what they still have to say, in milliseconds.
const SHUTDOWN_LISTENER_MS: u64 = 1_000;

// The contract: exit within 5 s of the first signal.
const _: () = assert!(SHUTDOWN_REPLICA_MS + SHUTDOWN_LISTENER_MS < 5_000);

impl From<smr::replica::StartError> for Fatal {
    fn from(error: smr::replica::StartError) -> Fatal {
        if error.is_usage { Fatal::Usage(BadArgument(error.what)) } else { Fatal::Failed(error.what) }
    }
}

/// Serves at `listener` until a signal comes, then ends in order: no new connections, leadership handed over, what is
/// under way answered, connections closed. A second signal ends the process at once.
pub async fn serve_until_signal<B: Backend>(mut signals: Signals, listener: Listener<B>, replica: ReplicaHandle) {
    notify::status("listens for clients");
    signals.next().await;
    notify::stopping();
    tokio::spawn(async move {
        signals.next().await;
        log_sink::exit(EXIT_INTERRUPTED);
    });
    listener.stop_accepting();
    let handover = tokio::task::spawn_blocking(move || replica.shutdown());
    if tokio::time::timeout(Duration::from_millis(SHUTDOWN_REPLICA_MS), handover).await.is_err() {
        tracing::warn!("the replica did not stop in time");
    }
    listener.close(Duration::from_millis(SHUTDOWN_LISTENER_MS)).await;
}
