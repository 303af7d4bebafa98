//! A running cluster for one test.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use madkv_testkit::cluster::{Cluster, Group, Layout, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::line_client::LineClient;
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Network;
use smr::status::ReplicaStatus;
use tempfile::TempDir;

/// How long anything may take that must happen in the end.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// For how long something that must not happen is watched.
pub(crate) const WATCH: Duration = Duration::from_millis(1500);
/// A process that cannot start says so within 2 s; the rest is for a busy machine. One that started would go on for
/// ever.
pub(crate) const REFUSAL_TIMEOUT: Duration = TIMEOUT;
/// The only partition of most tests.
pub(crate) const ONLY: Group = Group::Partition(0);

/// One partition of three servers, and one manager.
pub(crate) const SMALL: Shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };

/// Reads under leases.
pub(crate) const LEASES: [&str; 2] = ["--reads", "lease"];

/// A cluster in a directory that goes with it.
pub(crate) struct Scene {
    cluster: Cluster,
    directory: Option<TempDir>,
    _ports: Option<Ports>,
}

impl Scene {
    /// A cluster that is ready.
    pub(crate) fn new(shape: Shape) -> Scene {
        let mut scene = Scene::stopped(shape);
        scene.start_all().unwrap();
        scene.ready();
        scene
    }

    /// A cluster that is ready, with more flags for servers and managers.
    pub(crate) fn with_flags(shape: Shape, more: &[&str]) -> Scene {
        let mut scene = Scene::stopped_with_flags(shape, more);
        scene.start_all().unwrap();
        scene.ready();
        scene
    }

    /// A cluster of which nothing runs.
    pub(crate) fn stopped(shape: Shape) -> Scene {
        Scene::stopped_with_flags(shape, &[])
    }

    /// The same, with more flags for servers and managers.
    pub(crate) fn stopped_with_flags(shape: Shape, more: &[&str]) -> Scene {
        let directory = fresh_directory();
        let mut flags = sync_flags(directory.path());
        flags.extend(more.iter().map(Into::into));
        let cluster = Cluster::on_free_ports(programs(), shape, directory.path(), &flags).unwrap();
        Scene { cluster, directory: Some(directory), _ports: None }
    }

    /// A cluster that is ready, and the network that all its connections go over.
    pub(crate) fn wired(shape: Shape) -> (Scene, Network) {
        Scene::wired_with(shape, &[])
    }

    /// The same, with more flags for servers and managers.
    pub(crate) fn wired_with(shape: Shape, more: &[&str]) -> (Scene, Network) {
        let directory = fresh_directory();
        let mut flags = sync_flags(directory.path());
        flags.extend(more.iter().map(Into::into));
        let ports = Ports::claim(2 * shape.nodes_count()).unwrap();
        let layout = Layout { shape, first_port: ports.first() };
        let network = Network::new(layout, 1).unwrap();
        let overrides = network.overrides();
        let cluster = Cluster::with_overrides(programs(), layout, directory.path(), &flags, overrides).unwrap();
        let mut scene = Scene { cluster, directory: Some(directory), _ports: Some(ports) };
        scene.start_all().unwrap();
        scene.ready();
        (scene, network)
    }

    /// Waits until each group has a leader.
    pub(crate) fn ready(&mut self) {
        self.cluster.wait_ready(TIMEOUT).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The leader of a group, once there is one.
    pub(crate) fn leader_of(&self, group: Group) -> Node {
        self.wait_leader(group, TIMEOUT).unwrap()
    }

    /// Some follower of a group.
    pub(crate) fn follower_of(&self, group: Group) -> Node {
        let leader = self.leader_of(group);
        self.nodes_of(group).find(|&node| node != leader).unwrap()
    }

    /// What a node says of itself, once it says something: on a busy machine it may be silent for a moment.
    pub(crate) fn status_of(&self, node: Node) -> ReplicaStatus {
        wait_for(TIMEOUT, &format!("what {node} says"), || self.status(node).ok()).unwrap()
    }

    /// Four clients on five keys.
    pub(crate) fn load(&self) -> Load {
        Load::start(self, &Plan { clients: 4, keys: 5, prefix: "k".to_owned() }).unwrap()
    }

    /// A client that has been answered once, so it knows the cluster.
    pub(crate) fn warm_client(&self) -> LineClient {
        let mut client = self.client().unwrap();
        client.get("warm", TIMEOUT).unwrap();
        client
    }
}

impl Deref for Scene {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (node, process) in self.cluster.processes() {
            let state = process.ended().map_or("running or never started".to_owned(), |status| status.to_string());
            eprintln!("---- {node}: {state}\n{}", process.log_tail());
        }
        if let Some(directory) = self.directory.take() {
            eprintln!("---- kept: {}", directory.keep().display());
        }
    }
}

/// A directory on the disk that the build is on, not in memory.
pub(crate) fn fresh_directory() -> TempDir {
    tempfile::Builder::new().prefix("e2e-").tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

/// The executables, built once.
pub(crate) fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| Programs::beside_this_one().unwrap_or_else(|error| panic!("{error}")))
}
