//! A cluster of ours, of real processes.

use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use smr::LogEngine;
use smr::epoch::GroupKind;

use crate::peers::Connection;
use madkv_testkit::cluster::{Cluster, Group, Shape};
use madkv_testkit::launcher::log_flags;
use madkv_testkit::measure::Trouble;
use madkv_testkit::place::library_client;
use madkv_testkit::programs::Programs;

/// How long the cluster may take until each group has a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it is called in tables.
    pub name: String,
    /// Its executables.
    pub programs: Programs,
    /// How many of what.
    pub shape: Shape,
    /// How its partitions' groups are kept in step, one for all or one for each; Raft if there is none.
    pub kinds: Vec<GroupKind>,
    /// Its log engine; `None` for the one that the environment names, or the default.
    pub engine: Option<LogEngine>,
    /// Further flags for each server and manager.
    pub flags: Vec<OsString>,
    /// Further flags for each server.
    pub server_flags: Vec<OsString>,
    /// At most this many connections to each replica, which the clients share.
    pub connections_max: usize,
}

/// A running cluster.
#[derive(Debug)]
pub struct MadKv {
    name: String,
    description: String,
    cluster: Cluster,
    connections_max: usize,
}

impl MadKv {
    /// Starts it, with its data below `directory`, and waits until each group has a leader.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(wanted: &Wanted, directory: &Path) -> Result<MadKv, Trouble> {
        let mut flags = log_flags(directory.parent().unwrap_or(directory), wanted.engine);
        flags.extend(wanted.flags.iter().cloned());
        let mut cluster = Cluster::on_free_ports(&wanted.programs, wanted.shape, directory, &flags)?;
        if !wanted.kinds.is_empty() {
            cluster.set_kinds(&wanted.kinds);
        }
        cluster.add_server_flags(&wanted.server_flags);
        cluster.start_all()?;
        cluster.wait_ready(READY_TIMEOUT)?;
        let leader = cluster.wait_leader(Group::Partition(0), READY_TIMEOUT)?;
        let Shape { server_rf, manager_rf, partitions } = wanted.shape;
        let given: Vec<_> =
            wanted.flags.iter().chain(&wanted.server_flags).map(|flag| flag.to_string_lossy()).collect();
        let description = format!(
            "{manager_rf} managers, {partitions} partition(s) x {server_rf} servers, {}, flags [{}], {}",
            cluster.status(leader)?.sync_mode,
            given.join(" "),
            wanted.programs.directory().display(),
        );
        Ok(MadKv { name: wanted.name.clone(), description, cluster, connections_max: wanted.connections_max })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn description(&self) -> &str {
        &self.description
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.cluster.pids()
    }

    pub(super) fn connect(&self, clients: usize) -> Vec<Connection> {
        // A clone shares its original's connections.
        let originals: Vec<_> = (0..clients.min(self.connections_max)).map(|_| library_client(&self.cluster)).collect();
        originals.iter().cycle().take(clients).map(|client| Connection::MadKv(client.clone())).collect()
    }

    /// Its processes.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// What these say, or what it means that they say nothing.
pub(crate) fn kinds(said: &[GroupKind]) -> &[GroupKind] {
    if said.is_empty() { &[GroupKind::Raft] } else { said }
}

/// How many cores this process may use.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(0, usize::from)
}
