//! One fault, and how long it takes until all is well again.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use madkv_testkit::cluster::{Cluster, Group, Node};
use madkv_testkit::measure::Trouble;
use madkv_testkit::wait::wait_for;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::ServiceState;

use super::watch::wait_redundant;
use crate::scenario::TIMEOUT;

/// How long an agent or a manager stays away at most, in milliseconds.
const AWAY_MAX_MS: u64 = 3_000;
/// The longest pause after all is well, in milliseconds: so that faults hit different moments.
const PAUSE_MAX_MS: u64 = 1_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A server is killed.
    Kill,
    /// A server is stopped (SIGSTOP).
    Stop,
    /// A server is killed, and its directory emptied.
    Empty,
    /// An agent is killed, and started again later.
    Agent,
    /// A manager is killed, and started again later.
    Manager,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::Stop => "stop",
            Kind::Empty => "emptied directory",
            Kind::Agent => "agent killed",
            Kind::Manager => "manager killed",
        })
    }
}

/// A fault, and whom it hits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    kind: Kind,
    victim: Victim,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Node(Node),
    Host(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.victim {
            Victim::Node(node) => write!(f, "{} ({node})", self.kind),
            Victim::Host(host) => write!(f, "{} (LFD{})", self.kind, host + 1),
        }
    }
}

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// Until the agent of its host said that the replica is none any more.
    pub(super) detected: Option<Duration>,
    /// Until full redundancy was back.
    pub(super) repaired: Duration,
}

impl Fault {
    /// Draws whom it hits.
    pub(super) fn draw(kind: Kind, cluster: &Cluster, hosts: u16, rng: &mut ChaCha8Rng) -> Fault {
        let shape = cluster.layout().shape;
        let victim = match kind {
            Kind::Kill | Kind::Stop | Kind::Empty => Victim::Node(Node::Server {
                partition: rng.random_range(0..shape.partitions),
                replica: rng.random_range(0..shape.server_rf),
            }),
            Kind::Agent => Victim::Host(rng.random_range(0..hosts)),
            Kind::Manager => Victim::Node(Node::Manager(rng.random_range(0..shape.manager_rf))),
        };
        Fault { kind, victim }
    }

    /// Injects it, and waits until all is well again. `deletions` counts, by host, how often its agent has to have said
    /// that a replica is none any more.
    pub(super) fn inject_and_repair(
        &self,
        cluster: &mut Cluster,
        deletions: &mut [usize],
        rng: &mut ChaCha8Rng,
    ) -> Result<Took, Trouble> {
        thread::sleep(Duration::from_millis(rng.random_range(0..PAUSE_MAX_MS)));
        let away = Duration::from_millis(rng.random_range(0..AWAY_MAX_MS));
        match self.victim {
            Victim::Host(host) => agent_away(cluster, host, away),
            Victim::Node(node @ Node::Manager(_)) => manager_away(cluster, node, away),
            Victim::Node(node) => self.hurt(cluster, node, deletions),
        }
    }

    fn hurt(&self, cluster: &mut Cluster, node: Node, deletions: &mut [usize]) -> Result<Took, Trouble> {
        let old = cluster.pid_of(node).ok_or_else(|| format!("{node} does not run"))?;
        let host = cluster.agents().ok_or("no agents")?.host_of(node.replica());
        let start = match self.kind {
            Kind::Stop => {
                signal(old, Signal::STOP);
                Instant::now()
            }
            Kind::Empty => {
                // Stopped, for its agent would launch it before the directory is empty.
                signal(old, Signal::STOP);
                empty(&cluster.backer_path(node))?;
                signal(old, Signal::KILL);
                Instant::now()
            }
            Kind::Kill | Kind::Agent | Kind::Manager => {
                signal(old, Signal::KILL);
                Instant::now()
            }
        };
        deletions[usize::from(host)] += 1;
        let expected = deletions[usize::from(host)];
        let what = format!("LFD{} to notice {self}", host + 1);
        wait_for(TIMEOUT, &what, || (deletions_of(cluster, host) >= expected).then_some(()))?;
        let detected = start.elapsed();
        let another = format!("another process of {node} after {self}");
        wait_for(TIMEOUT, &another, || cluster.pid_of(node).filter(|pid| *pid != old))?;
        wait_redundant(cluster, TIMEOUT).map_err(|error| format!("{self}: {error}"))?;
        Ok(Took { detected: Some(detected), repaired: start.elapsed() })
    }
}

/// An agent is killed and started again: its replicas are the same processes before and after.
fn agent_away(cluster: &mut Cluster, host: u16, away: Duration) -> Result<Took, Trouble> {
    let shape = cluster.layout().shape;
    let hosts = cluster.agents().ok_or("no agents")?.count();
    let its: Vec<Node> =
        shape.nodes().filter(|node| matches!(node, Node::Server { replica, .. } if replica % hosts == host)).collect();
    let pids: Vec<_> = its.iter().map(|&node| cluster.pid_of(node)).collect();
    let heard = count(cluster, host, "add replica");
    cluster.agents().ok_or("no agents")?.process(host).kill();
    thread::sleep(away);
    cluster.agents().ok_or("no agents")?.process(host).start()?;
    let start = Instant::now();
    let what = format!("LFD{} to adopt its replicas", host + 1);
    wait_for(TIMEOUT, &what, || (count(cluster, host, "add replica") >= heard + its.len()).then_some(()))?;
    wait_redundant(cluster, TIMEOUT)?;
    let repaired = start.elapsed();
    if its.iter().map(|&node| cluster.pid_of(node)).ne(pids) {
        return Err(format!("replicas of LFD{} were launched again because of it", host + 1).into());
    }
    Ok(Took { detected: None, repaired })
}

fn manager_away(cluster: &mut Cluster, node: Node, away: Duration) -> Result<Took, Trouble> {
    cluster.process(node).kill();
    thread::sleep(away);
    cluster.process(node).start()?;
    let start = Instant::now();
    wait_for(TIMEOUT, &format!("{node} to serve"), || {
        let is_in_service = cluster.status(node).ok()?.service_state == ServiceState::InService;
        (is_in_service && cluster.leader(Group::Manager).is_some()).then_some(())
    })?;
    wait_redundant(cluster, TIMEOUT)?;
    Ok(Took { detected: None, repaired: start.elapsed() })
}

/// Nothing but what was hurt was taken for dead or hung.
pub(super) fn no_false_alarm(cluster: &mut Cluster, expected: &[usize]) -> Result<(), Trouble> {
    for (host, &expected) in (0..).zip(expected) {
        let said = deletions_of(cluster, host);
        if said != expected {
            return Err(format!("LFD{} deleted replicas {said} times, after {expected} faults", host + 1).into());
        }
    }
    Ok(())
}

fn deletions_of(cluster: &mut Cluster, host: u16) -> usize {
    count(cluster, host, "delete replica")
}

/// How often an agent has said something.
fn count(cluster: &mut Cluster, host: u16, text: &str) -> usize {
    cluster.agents().map_or(0, |agents| agents.process(host).log_text().matches(text).count())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // If it has just ended, its agent notices that as well.
        let _ = kill_process(pid, signal);
    }
}

/// Removes what is in a directory, not the directory: it may be a mount point or a link to one.
fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
