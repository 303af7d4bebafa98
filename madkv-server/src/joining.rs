//! What a server follows while it runs: the cluster map, whether its group goes on without it, and, where `--advertise`
//! says where it is, that the managers know.
//!
//! A server with `--join` is in no map at first. It says where it is, waits, and is taken in when an operator wants it
//! (`madkv-client scale`); then the map has it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use madkv_proto::control::Announcement;
use madkv_proto::map::ClusterMap;
use parking_lot::Mutex;
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

/// Goes by this map from now on, if it is newer, and remembers it. Ends the process if its disk fails; where it is
/// full, or the system lacks something else for a while, that is tried again at the next look.
pub(crate) fn take(map: &ClusterMap, plan: &Plan, backend: &ServerBackend) {
    /// The newest map, until it is remembered. Whoever hears of a map: the file has one writer at a time, and the
    /// newest map is written last.
    static UNSAVED: Mutex<Option<ClusterMap>> = Mutex::new(None);
    let mut unsaved = UNSAVED.lock();
    let is_newer = backend.adopt(map);
    if is_newer {
        *unsaved = Some(map.clone());
    }
    let Some(newest) = &*unsaved else { return };
    let Err(error) = assignment::save(&RealDisk, &plan.directory, newest) else {
        *unsaved = None;
        return;
    };
    let what = format!("cannot remember the cluster map in {}: {error}", plan.directory.display());
    if !may_pass(&error) {
        say(PROGRAM, &format!("{what}; this process ends; {AFTER_A_FAILURE}"));
        smr_service::log_sink::exit(EXIT_FATAL);
    }
    if is_newer {
        say(PROGRAM, &format!("{what}; it is tried again"));
    }
}

/// Whether this is no failure of the disk, but something that an operator may free or allow while the server goes on.
/// Nothing is lost meanwhile: the next start asks for the map again.
fn may_pass(error: &io::Error) -> bool {
    /// Too many open files: of the machine, and of this process.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::OutOfMemory,
        io::ErrorKind::PermissionDenied,
    ];
    kinds.contains(&error.kind()) || [ENFILE, EMFILE].map(Some).contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers D7
    #[test]
    fn server_ends_by_a_failed_disk_and_not_by_what_the_system_lacks_for_a_while() {
        let of =
            |numbers: &[i32]| numbers.iter().map(|&number| may_pass(&io::Error::from_raw_os_error(number))).collect();
        let lacks: Vec<bool> = of(&[12, 13, 23, 24, 28, 122]);
        assert_eq!(lacks, [true; 6], "memory, rights, files of the machine and of the process, space, quota");
        let fails: Vec<bool> = of(&[5, 21, 30]);
        assert_eq!(fails, [false; 3], "input or output, a directory in the way, a disk that is read-only by now");
    }
}
