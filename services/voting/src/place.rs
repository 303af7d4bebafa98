//! Which replica this is: registration with the managers, before it takes part and while it does.
//!
//! The managers know the service as a group that they name the members of, and its replicas by the same messages as
//! those of the key-value store.

use std::sync::Arc;
use std::time::Duration;

use madkv_proto::map::ClusterMap;
use madkv_server::register::{Recorders, Registrar, Verdict};
use madkv_server::service_link::ServiceLink;
use madkv_server::settings::Follower;
use smr::epoch::GroupKind;
use smr::id::Incarnation;
use smr::internals::storage::Witness;
use smr::replica::{Opened, ReplicaHandle};
use smr_service::address::are_same;
use smr_service::args::BadArgument;
use smr_service::process::{Fatal, jittered, say};
use tokio::runtime::Handle;

use crate::options::{PROGRAM, Plan};
use crate::state::Votes;
use crate::words::SERVICE_NAME;

/// How often a running server looks whether the managers should hear something new, in milliseconds.
const LOOK_MS: u64 = 500;
/// Who says it, in the reason for a quarantine.
const MANAGER: &str = "the manager";
/// Exit code of a server that the managers refuse while it runs.
const EXIT_REFUSED: i32 = 1;

/// A replica that the managers know.
pub struct Place {
    /// How it talks to them.
    pub registrar: Registrar,
    /// What they say of the cluster.
    pub map: ClusterMap,
}

impl Place {
    /// Registers, however long it takes until a manager answers.
    ///
    /// # Errors
    /// Why this replica has no place there.
    pub async fn take(mut opened: Opened, plan: &Plan, kind: GroupKind) -> Result<(Opened, Place), Fatal> {
        if opened.succession().is_some() {
            return Err(Fatal::Failed(format!("{}: was recovered, which is not for here", plan.directory.display())));
        }
        let mut registrar = Registrar {
            managers: plan.managers.clone(),
            cluster: opened.cluster(),
            partition: plan.partition,
            replica: plan.replica,
            incarnation: opened.incarnation(),
            start: opened.start(),
        };
        if let Some((manager, theirs)) = registrar.foreign_manager().await {
            let directory = plan.directory.display();
            let ours = registrar.cluster.map_or_else(String::new, |cluster| format!(" to cluster {cluster}"));
            return Err(Fatal::Failed(format!("{directory}: belongs{ours}, manager {manager} to cluster {theirs}")));
        }
        let waits = |why: &str| say(PROGRAM, &format!("waiting for a manager ({why})"));
        // Before it registers: a group of another service has no place for it.
        registrar.until_of_service(SERVICE_NAME, waits).await?;
        let map = match registrar.until_answered(opened.genesis(), waits).await {
            Verdict::Registered(map) => map,
            Verdict::Occupied { by, map } => {
                occupied(plan, opened.incarnation(), by);
                opened.exclude(Witness::Recorder)?;
                map
            }
            Verdict::Disqualified { why, map } => {
                opened = opened.disqualify(why, MANAGER)?;
                (registrar.incarnation, registrar.start) = (opened.incarnation(), opened.start());
                map
            }
            Verdict::Refused(why) => return Err(Fatal::Failed(format!("the manager refuses this replica: {why}"))),
        };
        check(&map, plan)?;
        if let Some(theirs) = registrar.kind().await.filter(|theirs| *theirs != kind) {
            let what = format!("--protocol: {kind}; the managers say that the group is of kind {theirs}");
            return Err(BadArgument(what).into());
        }
        registrar.cluster = Some(map.cluster);
        Ok((opened, Place { registrar, map }))
    }

    /// Runs the replica, with the managers as the ones who name its members.
    ///
    /// # Errors
    /// If threads or sockets cannot be made.
    pub fn run(&self, opened: Opened, state: Votes, runtime: &Handle) -> Result<ReplicaHandle, Fatal> {
        let managers = self.registrar.managers.clone();
        let link = ServiceLink::new(managers, Some(self.map.cluster), self.registrar.partition, runtime.clone());
        let recorders = Recorders { registrar: self.registrar.clone(), link, runtime: runtime.clone() };
        Ok(opened.run_in(self.map.cluster, Arc::new(recorders), state)?)
    }

    /// Follows the settings that operators change while everything runs.
    pub fn settings(&self) -> Follower {
        let first = usize::from(self.registrar.replica);
        Follower { managers: self.registrar.managers.clone(), cluster: self.map.cluster, first }
    }

    /// Tells the managers what they do not know yet: that the directory has become a member's, or that another
    /// incarnation has begun in it.
    pub async fn keep(self, replica: ReplicaHandle) {
        let mut known = None;
        loop {
            let (incarnation, start) = replica.start();
            let present = (incarnation, start, replica.genesis());
            if known != Some(present) {
                let registrar = Registrar { incarnation, start, ..self.registrar.clone() };
                match registrar.one_round(present.2).await {
                    Ok(Verdict::Disqualified { why, .. }) => {
                        // Unless another incarnation has begun meanwhile.
                        if replica.start() == (incarnation, start) && replica.disqualify(why, MANAGER) {
                            known = Some(present);
                        }
                    }
                    Ok(Verdict::Refused(why)) => {
                        say(PROGRAM, &format!("the manager refuses this replica: {why}"));
                        let _ = tokio::task::spawn_blocking(move || replica.shutdown()).await;
                        smr_service::log_sink::exit(EXIT_REFUSED);
                    }
                    Ok(Verdict::Occupied { .. }) => {
                        known = Some(present);
                        replica.exclude(Witness::Recorder);
                    }
                    Ok(Verdict::Registered(_)) => known = Some(present),
                    // It is tried again.
                    Err(_) => {}
                }
            }
            tokio::time::sleep(jittered(Duration::from_millis(LOOK_MS))).await;
        }
    }
}

fn occupied(plan: &Plan, own: Incarnation, by: Incarnation) {
    let (replica, directory) = (plan.replica, plan.directory.display());
    say(PROGRAM, &format!("replica {replica} was incarnation {by}; {directory}, which is {own}, joins as a newcomer"));
}

/// The managers must have just these two servers there.
fn check(map: &ClusterMap, plan: &Plan) -> Result<(), Fatal> {
    let theirs = map.partitions.get(usize::from(plan.partition)).map(|partition| partition.servers.as_slice());
    let theirs = theirs.unwrap_or_default();
    if are_same(theirs, &plan.servers) {
        return Ok(());
    }
    let (given, theirs) = (plan.servers.join(","), theirs.join(","));
    Err(BadArgument(format!("--servers: {given}; the managers have {theirs} (--server_addrs)")).into())
}
