//! Does a cluster whose hosts have agents repair itself? Random faults, one after the other, under clients in a loop:
//! after each of them full redundancy returns by itself, soon enough, and what clients heard is linearizable.
//!
//! What is hurt is a replica (killed, stopped, killed with its directory emptied), an agent or a manager. Replicas come
//! back by agents and managers alone; agents and managers are started again by this program, as whatever started them
//! would do it. Nothing else may be taken for dead or hung meanwhile, or be replaced; whoever is not hurt is a live
//! voter all the time; and clients are answered again after each fault. In the end everything is there that was written
//! first.

mod agent_logs;
mod fault;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use madkv_manager::agent::HUNG_AFTER_INTERVALS;
use madkv_proto::settings::HOST_GRACE;
use madkv_testkit::agents::AgentPlan;
use madkv_testkit::cluster::{Cluster, Layout};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::place::{Outcome, fresh_directory, library_client};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Network;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::agent_logs::AgentLogs;
use self::fault::Fault;
pub(super) use self::fault::Kind;
use self::watch::{Monitor, wait_redundant};
use crate::fuzz::{Fuzz, FuzzOptions};
use crate::scenario::{FIRST, Place, Stage, TIMEOUT, describe, verdict};

/// The replica is a member again this soon after a kill.
const KILL_TARGET: Duration = Duration::from_secs(5);
/// The same, if its directory was emptied and the state has 100,000 keys.
const EMPTY_TARGET: Duration = Duration::from_secs(20);
/// An agent or a manager that was started again has found its place this soon.
const RETURN_TARGET: Duration = Duration::from_secs(5);
/// An end is noticed this soon.
const DEAD_TARGET: Duration = Duration::from_secs(1);
/// A host that is cut off counts as failed this soon: six intervals of `gfd_heartbeat_freq` at its default, and as much
/// as a manager may take.
const SILENCE_TARGET: Duration = Duration::from_secs(4);
/// How long a host has to be gone until its replicas are placed elsewhere, in milliseconds: longer than one is cut off.
const HOST_GRACE_MS: u64 = 5_000;
/// Faults under one history; then it is judged, and another one begins.
const FAULTS_PER_HISTORY: u64 = 8;
/// How long a request may take before its client counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(60);
/// Writes under way while the state is filled.
const FILLERS: u64 = 64;

/// How much of what.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) faults: u64,
    pub(super) kinds: Vec<Kind>,
    pub(super) seed: u64,
    pub(super) keys: u64,
    pub(super) clients: u32,
    pub(super) hosts: u16,
    pub(super) heartbeat_freq_ms: u64,
    pub(super) limit: Duration,
}

impl Plan {
    /// How soon a fault of this kind is to be noticed, if it is one that agents notice.
    fn detection_target(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Kill | Kind::Empty => Some(DEAD_TARGET),
            Kind::Stop => Some(Duration::from_millis(self.heartbeat_freq_ms) * (HUNG_AFTER_INTERVALS + 1)),
            Kind::Cut => Some(SILENCE_TARGET),
            Kind::Agent | Kind::Manager | Kind::Gone => None,
        }
    }

    /// How soon all is well again.
    fn repair_target(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Kill => KILL_TARGET,
            Kind::Stop => KILL_TARGET + self.detection_target(kind).unwrap_or_default(),
            Kind::Empty => EMPTY_TARGET,
            Kind::Agent | Kind::Manager | Kind::Cut => RETURN_TARGET,
            Kind::Gone => Duration::from_millis(HOST_GRACE_MS) + SILENCE_TARGET + EMPTY_TARGET,
        }
    }
}

/// What the faults of one kind came to.
#[derive(Debug, Default)]
struct Times {
    detected: Vec<Duration>,
    repaired: Vec<Duration>,
}

pub(super) fn run(plan: &Plan, place: &Place) -> Outcome {
    let passing: Vec<Kind> = plan.kinds.iter().copied().filter(|kind| *kind != Kind::Gone).collect();
    if passing.is_empty() {
        return Err("--kinds: a host that is gone comes last; name another kind, too".into());
    }
    let (mut stage, network) = set(plan, place)?;
    let paths: Vec<PathBuf> = {
        let agents = stage.cluster.agents().ok_or("no agents")?;
        (0..plan.hosts).map(|host| agents.process(host).log_path().to_path_buf()).collect()
    };
    let mut logs = AgentLogs::at(paths.into_iter());
    filled(&stage.cluster, plan.keys, Filled::Write)?;
    let mut names = wait_redundant(&stage.cluster, TIMEOUT)?;
    let monitor = Monitor::start(&stage.cluster, &names)?;
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut times: BTreeMap<Kind, Times> = BTreeMap::new();
    let (start, mut done, mut judged) = (Instant::now(), 0, 0);
    while done < plan.faults && start.elapsed() < plan.limit {
        let fuzz = clients(&stage.cluster, plan, rng.random())?;
        for _ in 0..FAULTS_PER_HISTORY.min(plan.faults - done) {
            if start.elapsed() >= plan.limit {
                break;
            }
            // What does not come back comes last.
            let is_last = done + 1 == plan.faults && plan.kinds.contains(&Kind::Gone);
            let kind = if is_last { Kind::Gone } else { passing[rng.random_range(0..passing.len())] };
            let fault = Fault::draw(kind, &stage.cluster, plan.hosts, &mut rng);
            done += 1;
            let hits = fault.hits(&mut stage.cluster)?;
            monitor.hit(&hits);
            let outcome = fault.inject_and_repair(&mut stage.cluster, &network, &mut logs, &mut rng)?;
            let detected =
                outcome.detected.map_or(String::new(), |time| format!("noticed after {} ms, ", time.as_millis()));
            println!("{done}: {fault}: {detected}well again after {} ms", outcome.repaired.as_millis());
            fault.right_ones_were_replaced(&hits, &names, &outcome.names)?;
            names.clone_from(&outcome.names);
            if kind != Kind::Gone {
                monitor.all_well(&names);
            }
            let entry = times.entry(kind).or_default();
            entry.detected.extend(outcome.detected);
            entry.repaired.push(outcome.repaired);
            let answered = fuzz.answered();
            let what = format!("an answer to a client after {fault}");
            let failed = || fuzz.failure().or_else(|| monitor.violation());
            wait_for(TIMEOUT, &what, || (fuzz.answered() > answered || failed().is_some()).then_some(()))?;
            if let Some(why) = failed() {
                return Err(format!("{fault}: {why}").into());
            }
            logs.no_false_alarm()?;
        }
        fuzz.stop();
        let report = fuzz.finish().map_err(|error| error.to_string())?;
        judged += report.statistics.answered();
        if !report.passed {
            return Err(format!("the history is not linearizable, or a client failed:\n{report}").into());
        }
    }
    filled(&stage.cluster, plan.keys, Filled::Read)?;
    if let Some(why) = monitor.violation() {
        return Err(why.into());
    }
    let missed = summary(plan, &times);
    let elapsed = start.elapsed();
    let looks = monitor.looks_min();
    println!(
        "{done} faults in {:.0} s; {judged} operations answered, linearizable; no false alarm; never fewer voters than \
         {}, and whoever was not hurt was one of them at each of at least {looks} looks",
        elapsed.as_secs_f64(),
        stage.cluster.layout().shape.server_rf
    );
    if looks == 0 {
        return Err("a replica was never seen".into());
    }
    if done < plan.faults || elapsed > plan.limit {
        let (seconds, minutes) = (elapsed.as_secs(), plan.limit.as_secs() / 60);
        return Err(format!("{done} faults of {} in {seconds} s; the limit is {minutes} minutes", plan.faults).into());
    }
    stage.done()?;
    if missed { Err("a target was missed".into()) } else { Ok(()) }
}

/// Prints what each kind came to. Returns whether a target was missed.
fn summary(plan: &Plan, times: &BTreeMap<Kind, Times>) -> bool {
    let mut missed = false;
    for (kind, times) in times {
        let mut line = |what: &str, times: &[Duration], target: Duration| {
            let mut times = times.to_vec();
            times.sort();
            let Some(longest) = times.last() else { return };
            let met = *longest <= target;
            missed |= !met;
            println!(
                "{kind}, {} times: {what} after {} to {} ms, half of them within {} ms (target {} ms: {})",
                times.len(),
                times[0].as_millis(),
                longest.as_millis(),
                times[times.len() / 2].as_millis(),
                target.as_millis(),
                verdict(met)
            );
        };
        if let Some(target) = plan.detection_target(*kind) {
            line("noticed", &times.detected, target);
        }
        line("well again", &times.repaired, plan.repair_target(*kind));
    }
    missed
}

/// A cluster on hosts with agents, ready.
fn set(plan: &Plan, place: &Place) -> Result<(Stage, Network), Box<dyn std::error::Error + Send + Sync>> {
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, place.directory.as_deref())?;
    let flags = sync_flags(directory.path());
    let shape = place.shape;
    let ports = Ports::claim(2 * shape.nodes_count())?;
    let layout = Layout { shape, first_port: ports.first() };
    // Clients, and this program, ask nodes directly.
    // No host takes two replicas of a group over, so one for each that a host has.
    let spare_hosts = if plan.kinds.contains(&Kind::Gone) { shape.server_rf.div_ceil(plan.hosts) } else { 0 };
    let network = Network::between_nodes(layout, plan.seed)?.with_agents(layout, plan.hosts + spare_hosts)?;
    let mut cluster = Cluster::with_overrides(&programs, layout, directory.path(), &flags, network.overrides())?;
    cluster.keep_ports(ports);
    let spare_flags = flags.iter().flat_map(|flag| ["--server_flag".into(), flag.clone()]);
    let agents = AgentPlan {
        heartbeat_freq_ms: plan.heartbeat_freq_ms,
        flags: spare_flags.chain(["--trace_messages".into()]).collect(),
        spare_hosts,
        rooms: shape.partitions,
        ..AgentPlan::for_hosts(plan.hosts)
    };
    cluster.watch_by_agents(&agents)?;
    let mut stage = Stage { cluster, directory: Some(directory) };
    stage.cluster.start_all()?;
    stage.cluster.wait_ready(TIMEOUT)?;
    describe(&stage.cluster)?;
    fault::set(&stage.cluster, HOST_GRACE, HOST_GRACE_MS)?;
    println!("{} hosts with agents, a heartbeat each {} ms, seed {}", plan.hosts, plan.heartbeat_freq_ms, plan.seed);
    Ok((stage, network))
}

/// What is to be done with the keys that are there all the time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    Write,
    Read,
}

/// Puts keys into the store, with values of the size of a line, or reads them back.
fn filled(cluster: &Cluster, keys: u64, what: Filled) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = Arc::new(library_client(cluster));
    let start = Instant::now();
    let tasks: Vec<_> = (0..FILLERS)
        .map(|first| {
            let client = Arc::clone(&client);
            runtime.spawn(async move {
                for number in (first..keys).step_by(FILLERS as usize) {
                    let (key, value) = (format!("filled-{number:08}"), format!("value of key {number}"));
                    if what == Filled::Write {
                        client.put(key.as_bytes(), value.as_bytes()).await.map_err(|error| error.to_string())?;
                        continue;
                    }
                    let read = client.get(key.as_bytes()).await.map_err(|error| error.to_string())?;
                    if read.as_deref() != Some(value.as_bytes()) {
                        return Err(format!("{key} is {read:?}, and was {value:?}"));
                    }
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task)??;
    }
    let done = if what == Filled::Write { "written" } else { "read back" };
    println!("{keys} keys {done} in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn clients(cluster: &Cluster, plan: &Plan, seed: u64) -> Result<Fuzz, Box<dyn std::error::Error + Send + Sync>> {
    let managers = cluster.manager_addresses().split(',').map(str::to_owned).collect();
    let history: PathBuf = cluster.directory().join("history");
    let options = FuzzOptions {
        clients: plan.clients,
        seed,
        length: plan.limit + TIMEOUT * 10,
        hang_timeout: HANG_TIMEOUT,
        ..FuzzOptions::new(managers, &history)
    };
    cluster.wait_leader(FIRST, TIMEOUT)?;
    Fuzz::start(options).map_err(|error| error.to_string().into())
}
