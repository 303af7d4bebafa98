//! What a server follows while it runs: the cluster map, whether its group goes on without it, and, where `--advertise`
//! says where it is, that the managers know.
//!
//! A server with `--join` is in no map at first. It says where it is, waits, and is taken in when an operator wants it
//! (`madkv-client scale`); then the map has it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use madkv_proto::control::Announcement;
use madkv_proto::map::ClusterMap;
use smr::internals::disk::RealDisk;
use smr::replica::ReplicaHandle;
use smr_service::fatal::{AFTER_A_FAILURE, EXIT_FATAL};
use smr_service::listener::Backend as _;
use smr_service::process::{jittered, say};

use crate::assignment;
use crate::backend::ServerBackend;
use crate::options::{PROGRAM, Plan};
use crate::register::Registrar;

/// How often a server looks for a newer map, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// Looks in a row by which a group goes on without this replica before it ends: while its log is applied after a start,
/// an older configuration may say so for a moment.
const RETIRED_LOOKS: u32 = 2;
/// Exit code of a server whose group goes on without it: its work is done, and no one should start it again.
const EXIT_RETIRED: i32 = 0;

/// What [`follow`] works with.
pub(crate) struct MapFollower {
    pub(crate) registrar: Registrar,
    pub(crate) plan: Plan,
    pub(crate) replica: ReplicaHandle,
    pub(crate) backend: Arc<ServerBackend>,
}

impl Plan {
    /// What it has to say of where it is, if it has.
    pub(crate) fn announcement(&self, epoch: u64) -> Option<Announcement> {
        let (api_address, p2p_address) = self.advertise.clone()?;
        Some(Announcement { partition: self.partition, replica: self.replica, api_address, p2p_address, epoch })
    }
}

/// Follows as long as the process lives.
pub(crate) async fn follow(MapFollower { registrar, plan, replica, backend }: MapFollower) {
    let mut is_announced = false;
    let mut complained = false;
    let mut retired_looks = 0;
    loop {
        // With the map of the last look: what it says of one that has changed since is not taken, and it says it again.
        if !is_announced && let Some(announcement) = plan.announcement(backend.epoch()) {
            match registrar.announce(&announcement).await {
                Ok(()) => is_announced = true,
                Err(why) if !complained => {
                    complained = true;
                    say(PROGRAM, &format!("--advertise: not yet: {why}"));
                }
                Err(_) => {}
            }
        }
        if let Ok(map) = registrar.map().await {
            take(&map, &plan, &backend);
        }
        retired_looks = if replica.retired().is_some() { retired_looks + 1 } else { 0 };
        if retired_looks >= RETIRED_LOOKS {
            return retire(&plan, replica).await;
        }
        tokio::time::sleep(jittered(Duration::from_millis(LOOK_MS))).await;
    }
}

/// Ends a server whose group goes on without it.
pub(crate) async fn retire(plan: &Plan, replica: ReplicaHandle) {
    say(PROGRAM, &retired(plan));
    let _ = tokio::task::spawn_blocking(move || replica.shutdown()).await;
    smr_service::log_sink::exit(EXIT_RETIRED);
}

/// Whether a server that had a place has none any more. The managers may know before its peers have told it: they hear
/// of a removal when it is done, and it is not asked any more by then.
pub(crate) async fn has_lost_place(registrar: &Registrar, plan: &Plan) -> bool {
    let lacks = |map: &ClusterMap| {
        let servers = map.partitions.get(usize::from(plan.partition)).map(|partition| partition.servers.len());
        Some(map.cluster) == registrar.cluster && servers.is_some_and(|servers| servers <= usize::from(plan.replica))
    };
    registrar.map().await.is_ok_and(|map| lacks(&map))
}

/// What a server says whose group goes on without it.
pub(crate) fn retired(plan: &Plan) -> String {
    format!(
        "{} is retired: its group goes on without it. The directory {} is needed no more; to join again, start with \
         --join on an empty one",
        plan.node(),
        plan.directory.display()
    )
}

/// Goes by this map from now on, if it is newer, and remembers it. Ends the process if its disk fails; one that is full
/// bears it, for the next start asks for the map again.
pub(crate) fn take(map: &ClusterMap, plan: &Plan, backend: &ServerBackend) {
    /// Whoever hears of a map: the file has one writer at a time, and the newest map is written last.
    static TAKING: Mutex<()> = Mutex::new(());
    let _taking = TAKING.lock();
    if backend.adopt(map)
        && let Err(error) = assignment::save(&RealDisk, &plan.directory, map)
    {
        let what = format!("cannot remember the cluster map in {}: {error}", plan.directory.display());
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return say(PROGRAM, &what);
        }
        say(PROGRAM, &format!("{what}; this process ends; {AFTER_A_FAILURE}"));
        smr_service::log_sink::exit(EXIT_FATAL);
    }
}
