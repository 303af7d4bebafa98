//! A replica of a service beside the key-value store whose members the managers name: its registration with them,
//! before it takes part and while it does.
//!
//! The managers know such a service as a group of their layout, and its replicas by the same messages as those of the
//! key-value store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use madkv_proto::map::ClusterMap;
use smr::epoch::GroupKind;
use smr::id::Incarnation;
use smr::internals::storage::Witness;
use smr::replica::{Opened, ReplicaHandle};
use smr::state_machine::StateMachine;
use smr_service::args::BadArgument;
use smr_service::process::{Fatal, jittered, say};
use tokio::runtime::Handle;

use crate::register::{Recorders, Registrar, Verdict};
use crate::service_link::ServiceLink;
use crate::settings::Follower;

/// How often a running server looks whether the managers should hear something new, in milliseconds.
const LOOK_MS: u64 = 500;
/// Who says it, in the reason for a quarantine.
const MANAGER: &str = "the manager";
/// Exit code of a server that the managers refuse while it runs.
const EXIT_REFUSED: i32 = 1;

/// Which replica of the managers' layout a server wants to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The name of its program, for what it says.
    pub program: &'static str,
    /// What groups of its service are called in the managers' layout.
    pub service: &'static str,
    /// The managers, by replica number.
    pub managers: Vec<String>,
    /// The number of the group in their layout.
    pub partition: u16,
    /// The number of the replica in the group.
    pub replica: u16,
    /// Its directory.
    pub directory: PathBuf,
    /// The kind of group that its directory was opened for.
    pub kind: GroupKind,
}

/// A replica that the managers know.
pub struct ServiceReplica {
    program: &'static str,
    /// How it talks to them.
    pub registrar: Registrar,
    /// What they say of the cluster.
    pub map: ClusterMap,
}

impl Wanted {
    /// Registers, however long it takes until a manager answers.
    ///
    /// # Errors
    /// Why this replica has no place there.
    pub async fn register(&self, mut opened: Opened) -> Result<(Opened, ServiceReplica), Fatal> {
        let Wanted { program, service, managers, partition, replica, directory, kind } = self.clone();
        let directory = directory.display();
        if opened.succession().is_some() {
            return Err(Fatal::Failed(format!("{directory}: was recovered, which is not for here")));
        }
        let (cluster, incarnation, start) = (opened.cluster(), opened.incarnation(), opened.start());
        let mut registrar = Registrar { managers, cluster, partition, replica, incarnation, start };
        if let Some((manager, theirs)) = registrar.foreign_manager().await {
            let ours = registrar.cluster.map_or_else(String::new, |cluster| format!(" to cluster {cluster}"));
            return Err(Fatal::Failed(format!("{directory}: belongs{ours}, manager {manager} to cluster {theirs}")));
        }
        let waits = |why: &str| say(program, &format!("waiting for a manager ({why})"));
        // Before it registers: a group of another service has no place for it.
        registrar.until_of_service(service, waits).await?;
        let map = match registrar.until_answered(opened.genesis(), waits).await {
            Verdict::Registered(map) => map,
            Verdict::Occupied { by, map } => {
                let own: Incarnation = opened.incarnation();
                say(
                    program,
                    &format!(
                        "replica {replica} was incarnation {by}; {directory}, which is {own}, joins as a newcomer"
                    ),
                );
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
        if let Some(theirs) = registrar.kind().await.filter(|theirs| *theirs != kind) {
            let what = format!("--protocol: {kind}; the managers say that the group is of kind {theirs}");
            return Err(BadArgument(what).into());
        }
        registrar.cluster = Some(map.cluster);
        Ok((opened, ServiceReplica { program, registrar, map }))
    }
}

impl ServiceReplica {
    /// Runs the replica, with the managers as the ones who name its members. `state` is the empty state.
    ///
    /// # Errors
    /// If threads or sockets cannot be made.
    pub fn run<S: StateMachine>(&self, opened: Opened, state: S, runtime: &Handle) -> Result<ReplicaHandle, Fatal> {
        let (managers, partition) = (self.registrar.managers.clone(), self.registrar.partition);
        let link = ServiceLink::new(managers, Some(self.map.cluster), partition, runtime.clone());
        let recorders = Recorders { registrar: self.registrar.clone(), link, runtime: runtime.clone() };
        Ok(opened.run_in(self.map.cluster, Arc::new(recorders), state)?)
    }

    /// Follows the settings that operators change while everything runs.
    pub fn settings(&self) -> Follower {
        let first = usize::from(self.registrar.replica);
        Follower { managers: self.registrar.managers.clone(), cluster: self.map.cluster, first }
    }

    /// Tells the managers what they do not know yet: that the directory has become a member's, or that another
    /// incarnation has begun in it. Never returns.
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
                        say(self.program, &format!("the manager refuses this replica: {why}"));
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
