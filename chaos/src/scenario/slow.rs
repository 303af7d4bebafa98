//! One replica is made slow in one way after the other: its disk, its ways to the others, its processor. The replica
//! and the part that `madkv-client status --slow` would name must be these. What was measured normally and with the
//! fault goes into a file, of which `madkv-bench slow` draws pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use madkv_client::{ClusterPace, NodePace};
use madkv_testkit::cluster::{Cluster, Layout, Node};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::load::{Load, Plan as LoadPlan};
use madkv_testkit::place::{Outcome, fresh_directory, library_client};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::Programs;
use madkv_testkit::proxy::{Flow, Rules};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::{Network, Way};
use rustix::process::{Pid, Signal, kill_process};
use smr_service::pace::{Finding, Metric, PRESENT_SECONDS};
use tempfile::TempDir;

use super::{FIRST, Place, TIMEOUT};
use crate::disk_faults::injector::{Injector, Tampering, available};

/// How late each call that writes begins, in milliseconds.
const DISK_DELAY_MS: u64 = 40;
/// The calls that write.
const WRITING: &str = "pwrite64,write,fdatasync,fsync,sync_file_range";
/// How late bytes arrive on a slow way, each way.
const WAY_DELAY: Duration = Duration::from_millis(40);
/// For how long by turns a starved process stands still, and runs.
const STARVED: (Duration, Duration) = (Duration::from_millis(180), Duration::from_millis(20));
/// Clients in a loop. Few: the machine itself is not to be what is slow.
const CLIENTS: usize = 2;

/// What to do.
pub(super) struct Plan<'a> {
    /// How long the cluster is measured without a fault, in seconds, at least.
    pub(super) seconds: u64,
    /// Which faults.
    pub(super) faults: &'a [Fault],
    /// Where what was measured is written to.
    pub(super) out: &'a Path,
}

/// What is made slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The disk of a follower (needs strace).
    Disk,
    /// The ways between a follower and both others.
    Network,
    /// A follower gets a tenth of a processor.
    Cpu,
}

impl Fault {
    fn metric(self) -> Metric {
        match self {
            Fault::Disk => Metric::Sync,
            Fault::Network => Metric::Network,
            Fault::Cpu => Metric::Cpu,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fault::Disk => "disk",
            Fault::Network => "network",
            Fault::Cpu => "cpu",
        }
    }
}

/// Does it. The other arguments of `place` than the directory are left out: three servers are needed, and are enough.
pub(super) fn run(plan: &Plan<'_>, place: &Place) -> Outcome {
    let programs = Programs::beside_this_one()?;
    let mut file = "fault\twhen\tnode\tfaulty\tmetric\taverage\tunit\n".to_owned();
    let mut skipped = Vec::new();
    for fault in plan.faults {
        if let (Fault::Disk, Err(why)) = (fault, available()) {
            println!("{}: SKIPPED: {why}", fault.name());
            skipped.push(fault.name());
            continue;
        }
        measure(*fault, plan, &programs, place, &mut file)?;
    }
    if let Some(directory) = plan.out.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(plan.out, file)?;
    println!("{}: what was measured, for `madkv-bench slow`", plan.out.display());
    if skipped.is_empty() { Ok(()) } else { Err(format!("skipped: {}", skipped.join(", ")).into()) }
}

fn measure(fault: Fault, plan: &Plan<'_>, programs: &Programs, place: &Place, file: &mut String) -> Outcome {
    let mut scene = Scene::set(programs, place)?;
    let load = Load::start(&scene.cluster, &LoadPlan { clients: CLIENTS, keys: 20, prefix: "key".to_owned() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let inside = runtime.enter();
    let client = library_client(&scene.cluster);
    drop(inside);
    let look = || runtime.block_on(client.pace());
    let is_measured = |pace: &ClusterPace| servers(pace).filter(|node| watched_s(node) >= plan.seconds).count() == 3;
    let normal = wait_for(TIMEOUT, "all servers to be measured", || Some(look()).filter(|pace| is_measured(pace)))?;
    write_rows(file, fault, "normal", None, &normal);

    let leader = scene.cluster.wait_leader(FIRST, TIMEOUT)?;
    let victim = scene.cluster.nodes_of(FIRST).find(|node| *node != leader).ok_or("no follower")?;
    let Node::Server { replica, .. } = victim else { return Err("a partition without servers".into()) };
    println!("{}: {victim} is made slow", fault.name());
    let injected = scene.inject(fault, victim)?;
    let began = Instant::now();
    let mut last = Vec::new();
    wait_for(TIMEOUT, &format!("{victim} to be found slow in {}", fault.metric()), || {
        let pace = look();
        let findings: Vec<Finding> =
            pace.findings().into_iter().filter(|(group, _)| *group == "s0").map(|(_, found)| found).collect();
        let is_found = matches!(&findings[..], [one] if one.replica == replica && one.metric == fault.metric());
        last = findings;
        is_found.then_some(())
    })
    .map_err(|late| format!("{}: {late}; found instead: {last:?}", fault.name()))?;
    let after_s = began.elapsed().as_secs_f64();
    let Some(Finding { present, normal, others, .. }) = last.first() else { return Err("nothing was found".into()) };
    println!(
        "{}: {victim} was found after {after_s:.1} s by its {}: {present} us, normally {normal:?}, others {others}",
        fault.name(),
        fault.metric()
    );
    // What is found as soon as most of the present shows it is to be seen as it is then.
    thread::sleep(Duration::from_secs(PRESENT_SECONDS as u64));
    write_rows(file, fault, "fault", Some(replica), &look());
    drop(injected);
    drop(load);
    scene.done()
}

fn servers(pace: &ClusterPace) -> impl Iterator<Item = &NodePace> {
    pace.nodes.iter().filter(|node| node.group == "s0")
}

fn watched_s(node: &NodePace) -> u64 {
    node.pace.as_ref().map_or(0, |report| u64::from(report.watched_s))
}

/// A row for each metric of each server; of its ways the fastest: one whose ways are all slow is the slow one.
fn write_rows(file: &mut String, fault: Fault, when: &str, faulty: Option<u16>, pace: &ClusterPace) {
    for node in servers(pace) {
        let Ok(report) = &node.pace else { continue };
        let mut levels: BTreeMap<Metric, u64> = BTreeMap::new();
        for measure in &report.measures {
            let Some(average) = measure.present.map(|level| level.average) else { continue };
            let known = levels.entry(measure.metric).or_insert(average);
            *known = average.min(*known);
        }
        for (metric, average) in levels {
            let is_faulty = faulty == Some(node.replica);
            // A string takes everything.
            let _ = writeln!(
                file,
                "{}\t{when}\t{}.{}\t{is_faulty}\t{metric}\t{average}\t{}",
                fault.name(),
                node.group,
                node.replica,
                metric.unit()
            );
        }
    }
}

/// A partition of three servers and a manager, over links that can be made slow.
struct Scene {
    cluster: Cluster,
    network: Network,
    _ports: Ports,
    directory: Option<TempDir>,
}

/// A fault, until it is dropped.
enum Injected {
    Traced(#[allow(dead_code, reason = "what matters is when it goes")] Injector),
    Starved(Starved),
    Wired,
}

impl Scene {
    fn set(programs: &Programs, place: &Place) -> Result<Scene, Box<dyn std::error::Error + Send + Sync>> {
        let directory = fresh_directory(programs, place.directory.as_deref())?;
        let flags = sync_flags(directory.path());
        let shape = madkv_testkit::cluster::Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
        let ports = Ports::claim(2 * shape.nodes_count())?;
        let layout = Layout { shape, first_port: ports.first() };
        let network = Network::between_nodes(layout, 1)?;
        let cluster = Cluster::with_overrides(programs, layout, directory.path(), &flags, network.overrides())?;
        let mut scene = Scene { cluster, network, _ports: ports, directory: Some(directory) };
        scene.cluster.start_all()?;
        scene.cluster.wait_ready(TIMEOUT)?;
        Ok(scene)
    }

    fn inject(&mut self, fault: Fault, victim: Node) -> Result<Injected, Box<dyn std::error::Error + Send + Sync>> {
        match fault {
            Fault::Disk => {
                let pid = self.cluster.process(victim).pid().ok_or("the victim has ended")?;
                let (backer, trace) = (self.cluster.backer_path(victim), self.cluster.directory().join("strace"));
                let delay = Tampering::DelayFrom(1, DISK_DELAY_MS);
                Ok(Injected::Traced(Injector::attach(pid, WRITING, delay, &backer, &trace)?))
            }
            Fault::Network => {
                let late = Rules::both(Flow::Late { delay: WAY_DELAY, jitter: Duration::ZERO });
                let others: Vec<Node> = self.cluster.nodes_of(FIRST).filter(|node| *node != victim).collect();
                for other in others {
                    for way in [Way::peers(victim, other), Way::peers(other, victim)] {
                        self.network.set(way, late);
                    }
                }
                Ok(Injected::Wired)
            }
            Fault::Cpu => {
                let pid = self.cluster.process(victim).pid().ok_or("the victim has ended")?;
                Ok(Injected::Starved(Starved::of(pid)?))
            }
        }
    }

    /// Ends the cluster, and removes what it left.
    fn done(mut self) -> Outcome {
        self.cluster.kill_all();
        if let Some(directory) = self.directory.take() {
            directory.close()?;
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            self.cluster.kill_all();
            eprintln!("madkv-scenario: logs and data are kept in {}", directory.keep().display());
        }
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        if let Injected::Starved(starved) = self {
            starved.end();
        }
    }
}

/// A process that stands still most of the time.
struct Starved {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Starved {
    /// The process must not end before this does: its number might be given to another one.
    fn of(pid: u32) -> Result<Starved, Box<dyn std::error::Error + Send + Sync>> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process number")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (still, running) = STARVED;
            while !stops.load(Ordering::Relaxed) {
                for (signal, length) in [(Signal::STOP, still), (Signal::CONT, running)] {
                    // It is this process's child, and is not waited for as long as this runs.
                    let _ = kill_process(pid, signal);
                    thread::sleep(length);
                }
            }
        });
        Ok(Starved { stop, thread: Some(thread) })
    }

    /// Lets the process run.
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends after the process may run.
            let _ = thread.join();
        }
    }
}
