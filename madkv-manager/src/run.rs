//! A manager process, from start to end.

use std::sync::Arc;

use madkv_api::door::{Door, DoorLimits};
use madkv_api::process::{self, Fatal, Signals};
use smr::id::NodeName;
use smr::replica::{Opened, ReplicaOptions};

use crate::backend::ManagerBackend;
use crate::layout;
use crate::options::Options;
use crate::state::ManagerState;

/// The name of the managers' group.
const GROUP: &str = "m";

/// Runs a manager until a signal ends it.
///
/// # Errors
/// Why it cannot run.
pub fn run(options: Options) -> Result<(), Fatal> {
    let plan = options.check()?;
    let listener = process::bind("--man_listen", plan.man_listen)?;
    let p2p = process::bind("--p2p_listen", plan.p2p_listen)?;
    process::check_directory(&plan.directory)?;
    let runtime = process::runtime()?;
    let opened = Opened::open(ReplicaOptions {
        group: GROUP.parse().map_err(|error: smr::id::BadGroupName| Fatal::Failed(error.to_string()))?,
        name: NodeName(plan.replica),
        peers: plan.peers.iter().map(|(seat, address)| (NodeName(*seat), address.clone())).collect(),
        listener: p2p,
        directory: plan.directory.clone(),
        log_engine: plan.log_engine,
        allow_unsynced: plan.allow_unsynced,
        reads: plan.reads.0,
        clock_drift_permille: plan.reads.1,
        runtime: runtime.handle().clone(),
    })?;
    let signals = runtime.block_on(async { Signals::listen(plan.end_with_stdin) })?;
    // The managers' genesis makes the cluster id.
    let replica = opened.run(None, ManagerState::default())?;
    let backend = Arc::new(ManagerBackend::new(replica.clone()));
    let door = Door::open(runtime.handle(), listener, backend, DoorLimits::default())
        .map_err(|error| Fatal::Failed(format!("--man_listen: {error}")))?;
    runtime.spawn(layout::propose(replica.clone(), plan));
    runtime.block_on(process::serve_until_signal(signals, door, replica));
    runtime.shutdown_background();
    Ok(())
}
