//! A manager process, from start to end.

use std::sync::{Arc, OnceLock};

use smr::epoch::GroupKind;
use smr::id::{GroupName, ReplicaId};
use smr::replica::{Opened, ReplicaOptions};
use smr_service::args::BadArgument;
use smr_service::fatal::{StderrReports, end_with};
use smr_service::http::{ReplicaSurface, Served, Whom};
use smr_service::listener::{Listener, ListenerLimits};
use smr_service::notify;
use smr_service::pace::Pace;
use smr_service::process::{self, Fatal, Signals};
use smr_service::recover::{self, RecoverFlags};
use smr_service::serve::serve_until_signal;

use crate::backend::ManagerBackend;
use crate::epochs::EpochService;
use crate::heard::Heard;
use crate::layout;
use crate::lead;
use crate::options::{Options, PROGRAM, Plan};
use crate::state::{ManagerState, Query, encode};
use crate::{scale, slot_driver};

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
    let surface = plan.http_listen.map(|address| ReplicaSurface::open(PROGRAM, address, whom(&plan))).transpose()?;
    process::check_directory(&plan.directory)?;
    let runtime = process::runtime()?;
    let mut opened = Opened::open(ReplicaOptions {
        group: GROUP.parse().map_err(|error: smr::id::BadGroupName| Fatal::Failed(error.to_string()))?,
        name: ReplicaId(plan.replica),
        peers: plan.peers.iter().map(|(id, address)| (ReplicaId(*id), address.clone())).collect(),
        listener: p2p,
        directory: plan.directory.clone(),
        log_engine: plan.log_engine,
        allow_unsynced: plan.allow_unsynced,
        found_anew: plan.found_anew,
        joins: false,
        kind: GroupKind::Raft,
        reads: plan.reads.0,
        clock_drift_permille: plan.reads.1,
        reports: Arc::new(StderrReports),
        runtime: runtime.handle().clone(),
    })?;
    let signals = runtime.block_on(async { Signals::listen(plan.end_with_stdin) })?;
    notify::ready();
    notify::status("starts");
    // The managers' genesis makes the cluster id, and no one else records it; the operator's word is enough.
    opened.settle()?;
    let replica = opened.run(ManagerState::default())?;
    end_with(runtime.handle(), replica.clone());
    let heard = Arc::new(Heard::default());
    let epochs = Arc::new(EpochService::new(plan.reads.1, plan.rejoin_pause_max));
    let pace = Pace::keep(runtime.handle(), replica.clone());
    let (handle, heard_too) = (runtime.handle().clone(), Arc::clone(&heard));
    let backend = ManagerBackend::new(replica.clone(), handle, heard_too, epochs.clone(), pace.clone());
    let backend = Arc::new(backend);
    let (limits, meter) = (ListenerLimits::default(), surface.as_ref().map(ReplicaSurface::requests));
    let listener = Listener::open_counted(runtime.handle(), listener, backend, limits, meter)
        .map_err(|error| Fatal::Failed(format!("--man_listen: {error}")))?;
    if let Some(surface) = surface {
        let watch = listener.watch();
        surface.serves(Served {
            replica: replica.clone(),
            listener: listener.watch(),
            probe: encode(&Query::Map),
            // No map names managers: those who came say where they found it.
            advertised: Box::new(move || watch.reached_at().map(|address| address.to_string())),
            pace,
            complete: Box::new(|_| {}),
        });
    }
    runtime.spawn(lead::run(replica.clone(), heard, plan.trace_messages));
    runtime.spawn(scale::run(replica.clone()));
    runtime.spawn({
        let replica = replica.clone();
        async move { epochs.run(replica).await }
    });
    runtime.spawn(slot_driver::run(replica.clone()));
    let misfit = Arc::new(OnceLock::new());
    runtime.spawn(end_if_misfit(layout::propose(replica.clone(), plan), Arc::clone(&misfit)));
    runtime.block_on(serve_until_signal(signals, listener, replica));
    runtime.shutdown_background();
    misfit.get().map_or(Ok(()), |misfit: &BadArgument| Err(Fatal::Usage(misfit.clone())))
}

/// This replica, as those who watch it know it.
fn whom(plan: &Plan) -> Whom {
    Whom {
        group: GROUP.to_owned(),
        replica: plan.replica,
        address: plan.man_listen.to_string(),
        directory: plan.directory.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Makes a new directory of what verifies in an old one.
///
/// # Errors
/// Why nothing was recovered.
pub fn recover(flags: RecoverFlags) -> Result<(), Fatal> {
    let is_ours = |group: &GroupName| group.as_str() == GROUP;
    recover::recover(flags, None, ManagerState::default(), is_ours, ManagerState::cluster)
}

/// A manager with another layout than its group's ends in order, so that a group that it leads misses nothing.
async fn end_if_misfit(proposal: impl Future<Output = Result<(), BadArgument>>, misfit: Arc<OnceLock<BadArgument>>) {
    if let Err(why) = proposal.await {
        // Set once: this runs once.
        let _ = misfit.set(why);
        process::terminate();
    }
}
