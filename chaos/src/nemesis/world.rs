//! What the faults hit: the cluster, its network, and the book of who is hurt at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::nemesis::monitor::Monitor;
use crate::nemesis::plan::Kind;
use madkv_testkit::cluster::{Cluster, Group, Layout, Node, Shape};
use madkv_testkit::mount::{Mount, text};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::Programs;
use madkv_testkit::wiring::Network;

/// Size of the small file system, in bytes: room for a log, a snapshot and what sled keeps beside them.
const SMALL_DISK_BYTES: u64 = 512 << 20;
/// The replica that lives on it.
pub const SMALL_DISK_NODE: Node = Node::Server { partition: 0, replica: 0 };

/// Something went wrong with the cluster, or with the harness.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// A cluster behind its network, and what is being done to it.
#[derive(Debug)]
pub struct World {
    /// The processes. Before the mount, because it must be gone first.
    pub cluster: Cluster,
    /// Their connections.
    pub network: Network,
    /// What they say.
    pub monitor: Monitor,
    /// What was done and seen, with times.
    pub diary: Diary,
    /// Nodes whose process belongs to a fault, so no other may touch it.
    pub held: BTreeSet<Node>,
    /// Nodes that should run.
    pub running: BTreeSet<Node>,
    small_disk: Option<Mount>,
    pids: Pids,
    _ports: Ports,
}

type Pids = Arc<Mutex<BTreeMap<Node, u32>>>;

impl World {
    /// A cluster of which nothing runs yet, in `directory`; `flags` are for each node. With [`Kind::Disk`] among the
    /// faults one replica gets a small file system; if that cannot be had, the error says why.
    ///
    /// # Errors
    /// If the system refuses something.
    pub fn new(
        programs: &Programs,
        shape: Shape,
        directory: &Path,
        flags: &[OsString],
        seed: u64,
        small_disk: bool,
    ) -> io::Result<World> {
        let ports = Ports::claim(2 * shape.nodes_count())?;
        let layout = Layout { shape, first_port: ports.first() };
        let network = Network::new(layout, seed)?;
        let cluster = Cluster::with_overrides(programs, layout, directory, flags, network.overrides())?;
        let small_disk = if small_disk { Some(World::mount(&cluster, directory)?) } else { None };
        Ok(World {
            monitor: Monitor::watch(&cluster),
            cluster,
            network,
            diary: Diary::create(&directory.join("faults.log"))?,
            held: BTreeSet::new(),
            running: BTreeSet::new(),
            small_disk,
            pids: Pids::default(),
            _ports: ports,
        })
    }

    fn mount(cluster: &Cluster, directory: &Path) -> io::Result<Mount> {
        let image = directory.join("small-disk.image");
        Mount::make_image(&image, SMALL_DISK_BYTES)?;
        let mount = Mount::new(&image, directory.join("small-disk"))?;
        let data = mount.path().join("data");
        fs::create_dir(&data)?;
        std::os::unix::fs::symlink(&data, cluster.backer_path(SMALL_DISK_NODE))?;
        Ok(mount)
    }

    /// Where the small file system is, if there is one.
    pub fn small_disk(&self) -> Option<PathBuf> {
        self.small_disk.as_ref().map(|mount| mount.path().to_path_buf())
    }

    /// Unmounts the small file system; nothing may run any more.
    ///
    /// # Errors
    /// If someone still uses it.
    pub fn unmount(&mut self) -> io::Result<()> {
        self.small_disk.as_mut().map_or(Ok(()), Mount::end)
    }

    /// Starts everything that does not run and should not be dead.
    ///
    /// # Errors
    /// If a process cannot be created.
    pub fn start_all(&mut self) -> Result<(), Failure> {
        let nodes: Vec<Node> = self.cluster.layout().shape.nodes().collect();
        nodes.into_iter().try_for_each(|node| self.start(node))
    }

    /// Starts a node.
    ///
    /// # Errors
    /// If the process cannot be created.
    pub fn start(&mut self, node: Node) -> Result<(), Failure> {
        self.cluster.process(node).start()?;
        self.monitor.new_run(node);
        self.running.insert(node);
        if let Some(pid) = self.cluster.process(node).pid() {
            self.pids.lock().insert(node, pid);
        }
        Ok(())
    }

    /// Kills nodes at the same instant, and waits until they are gone.
    pub fn kill(&mut self, nodes: &[Node]) {
        for &node in nodes {
            self.expect_end(node);
        }
        nodes.iter().for_each(|&node| self.cluster.process(node).send_kill());
        for &node in nodes {
            self.cluster.process(node).kill();
        }
    }

    /// From now on this node's process may end.
    pub fn expect_end(&mut self, node: Node) {
        self.monitor.new_run(node);
        self.running.remove(&node);
        self.pids.lock().remove(&node);
    }

    /// A node that should run and does not.
    pub fn dead(&mut self) -> Option<Failure> {
        let running: Vec<Node> = self.running.iter().copied().collect();
        running.into_iter().find_map(|node| {
            let process = self.cluster.process(node);
            let status = process.ended()?;
            Some(Failure(format!("{node} ended by itself ({status}):\n{}", process.log_tail())))
        })
    }

    /// How many replicas of a group may fail.
    pub fn may_fail(&self, group: Group) -> usize {
        (self.cluster.nodes_of(group).count() - 1) / 2
    }

    /// A program that kills the processes of this cluster and then this one, unless it is called off in time: for the
    /// case that the harness itself hangs.
    pub fn watchdog(&self, timeout: Duration) -> Watchdog {
        let called_off = Arc::new(AtomicBool::new(false));
        let (seen, pids) = (Arc::clone(&called_off), Arc::clone(&self.pids));
        let deadline = Instant::now() + timeout;
        let mount = self.small_disk();
        thread::spawn(move || {
            while Instant::now() < deadline {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
            eprintln!("FAILED: the run hangs, it should have ended by now ({timeout:?} since its start)");
            for pid in pids.lock().values() {
                // Not waited for as long as it stands here, so the number is still the child's.
                if let Some(pid) = Pid::from_raw(*pid as i32) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if let Some(at) = mount {
                let _ = madkv_testkit::mount::command("umount", &["-l", &text(&at)]);
            }
            std::process::exit(3);
        });
        Watchdog(called_off)
    }
}

/// Ends everything if the run hangs. Called off when dropped.
#[derive(Debug)]
pub struct Watchdog(Arc<AtomicBool>);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was done to the cluster, in a file with times since the start, and on demand on stderr.
#[derive(Debug)]
pub struct Diary {
    start: Instant,
    file: File,
    aloud: bool,
    counts: BTreeMap<String, u64>,
    kinds: BTreeMap<Kind, u64>,
}

impl Diary {
    fn create(path: &Path) -> io::Result<Diary> {
        let file = File::create(path)?;
        Ok(Diary { start: Instant::now(), file, aloud: false, counts: BTreeMap::new(), kinds: BTreeMap::new() })
    }

    /// From now on everything is said on stderr, too.
    pub fn speak(&mut self) {
        self.aloud = true;
    }

    /// Notes what happens now.
    pub fn note(&mut self, what: &str) {
        let line = format!("{:10.3} {what}", self.start.elapsed().as_secs_f64());
        // The diary is for people; a run is not judged by it.
        let _ = writeln!(self.file, "{line}");
        if self.aloud {
            eprintln!("{line}");
        }
    }

    /// Counts a fault that was injected.
    pub fn count(&mut self, kind: Kind, what: String) {
        *self.kinds.entry(kind).or_default() += 1;
        *self.counts.entry(what).or_default() += 1;
    }

    /// Counts something else worth telling.
    pub fn count_event(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// How often each kind of fault was injected.
    pub fn kinds(&self) -> &BTreeMap<Kind, u64> {
        &self.kinds
    }

    /// How often what has happened.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// When the run began.
    pub fn start(&self) -> Instant {
        self.start
    }
}
