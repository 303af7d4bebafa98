//! One fault, and how long it takes until all is well again.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use madkv_proto::control::{ControlReply, ControlRequest, Membership};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Cluster, Group, Node, service_of};
use madkv_testkit::measure::Trouble;
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Network;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::ServiceState;

use super::agent_logs::AgentLogs;
use super::watch::{Names, wait_redundant, wait_redundant_by};
use crate::scenario::TIMEOUT;

/// How long an agent or a manager stays away at most, in milliseconds.
const AWAY_MAX_MS: u64 = 3_000;
/// How long a host is cut off at least: longer than the managers wait.
const CUT_MIN: Duration = Duration::from_millis(4_000);
/// How long one manager may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
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
    /// A host with its agent and its servers is cut off from all others, for longer than managers wait. Clients still
    /// reach it: a leader there must not answer them.
    Cut,
    /// A host is gone for good, with its agent and its servers, and a spare one takes its replicas over. Once in a run,
    /// at its end.
    Gone,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::Stop => "stop",
            Kind::Empty => "emptied directory",
            Kind::Agent => "agent killed",
            Kind::Manager => "manager killed",
            Kind::Cut => "host cut off",
            Kind::Gone => "host gone",
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
#[derive(Clone, Debug)]
pub(super) struct Took {
    /// Until the agent of its host said that the replica is none any more.
    pub(super) detected: Option<Duration>,
    /// Until full redundancy was back.
    pub(super) repaired: Duration,
    /// Who the servers are by then.
    pub(super) names: Names,
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
            Kind::Agent | Kind::Cut | Kind::Gone => Victim::Host(rng.random_range(0..hosts)),
            Kind::Manager => Victim::Node(Node::Manager(rng.random_range(0..shape.manager_rf))),
        };
        Fault { kind, victim }
    }

    /// The servers that it may keep from being there.
    pub(super) fn hits(&self, cluster: &mut Cluster) -> Result<Vec<Node>, Trouble> {
        match self.victim {
            Victim::Node(Node::Manager(_)) => Ok(Vec::new()),
            Victim::Node(node) => Ok(vec![node]),
            Victim::Host(host) if self.kind != Kind::Agent => servers_of(cluster, host),
            Victim::Host(_) => Ok(Vec::new()),
        }
    }

    /// Injects it after a random pause, and waits until all is well again.
    pub(super) fn inject_and_repair(
        &self,
        cluster: &mut Cluster,
        network: &Network,
        logs: &mut AgentLogs,
        rng: &mut ChaCha8Rng,
    ) -> Result<Took, Trouble> {
        thread::sleep(Duration::from_millis(rng.random_range(0..PAUSE_MAX_MS)));
        let away = Duration::from_millis(rng.random_range(0..AWAY_MAX_MS));
        match self.victim {
            Victim::Host(host) if self.kind == Kind::Gone => host_gone(cluster, host),
            Victim::Host(host) if self.kind == Kind::Cut => cut_off(cluster, network, host, CUT_MIN + away),
            Victim::Host(host) => agent_away(cluster, host, logs, away),
            Victim::Node(node @ Node::Manager(_)) => manager_away(cluster, node, away),
            Victim::Node(node) => self.hurt(cluster, node, logs),
        }
    }

    /// Whoever lost its directory is another one now, and everyone else the same as before: a replica whose directory
    /// is there is launched with it, and not replaced.
    pub(super) fn right_ones_were_replaced(&self, hits: &[Node], before: &Names, now: &Names) -> Result<(), Trouble> {
        let loses_directories = matches!(self.kind, Kind::Empty | Kind::Gone);
        for (node, name) in now {
            let is_new = before.get(node) != Some(name);
            if is_new != (loses_directories && hits.contains(node)) {
                let what = if is_new { "is another one" } else { "is the same as before" };
                return Err(format!("{node} {what} after {self}").into());
            }
        }
        Ok(())
    }

    fn hurt(&self, cluster: &mut Cluster, node: Node, logs: &mut AgentLogs) -> Result<Took, Trouble> {
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
            Kind::Kill | Kind::Agent | Kind::Manager | Kind::Cut | Kind::Gone => {
                signal(old, Signal::KILL);
                Instant::now()
            }
        };
        let log = logs.of(host)?;
        log.deletions_expected += 1;
        let expected = log.deletions_expected;
        let what = format!("LFD{} to notice {self}", host + 1);
        wait_for(TIMEOUT, &what, || (logs.of(host).ok()?.deleted >= expected).then_some(()))?;
        let detected = start.elapsed();
        let another = format!("another process of {node} after {self}");
        wait_for(TIMEOUT, &another, || cluster.pid_of(node).filter(|pid| *pid != old))?;
        let names = wait_redundant(cluster, TIMEOUT).map_err(|error| format!("{self}: {error}"))?;
        Ok(Took { detected: Some(detected), repaired: start.elapsed(), names })
    }
}

/// An agent is killed and started again: its replicas are the same processes before and after.
fn agent_away(cluster: &mut Cluster, host: u16, logs: &mut AgentLogs, away: Duration) -> Result<Took, Trouble> {
    let its = servers_of(cluster, host)?;
    let pids: Vec<_> = its.iter().map(|&node| cluster.pid_of(node)).collect();
    let expected = logs.of(host)?.added + its.len();
    cluster.agents().ok_or("no agents")?.process(host).kill();
    thread::sleep(away);
    cluster.agents().ok_or("no agents")?.process(host).start()?;
    let start = Instant::now();
    let what = format!("LFD{} to adopt its replicas", host + 1);
    wait_for(TIMEOUT, &what, || (logs.of(host).ok()?.added >= expected).then_some(()))?;
    let names = wait_redundant(cluster, TIMEOUT)?;
    let repaired = start.elapsed();
    if its.iter().map(|&node| cluster.pid_of(node)).ne(pids) {
        return Err(format!("replicas of LFD{} were launched again because of it", host + 1).into());
    }
    Ok(Took { detected: None, repaired, names })
}

/// A host is cut off until the managers count it as failed, and for a while longer; then it is heard again.
fn cut_off(cluster: &mut Cluster, network: &Network, host: u16, away: Duration) -> Result<Took, Trouble> {
    let its = servers_of(cluster, host)?;
    let pids: Vec<_> = its.iter().map(|&node| cluster.pid_of(node)).collect();
    network.cut_off(host, &its);
    let start = Instant::now();
    let has_failed = |cluster: &Cluster| {
        let membership = membership(cluster)?;
        membership.hosts.iter().find(|known| known.agent == host + 1).map(|known| known.has_failed)
    };
    let what = format!("the managers to miss LFD{}", host + 1);
    let missed = wait_for(TIMEOUT, &what, || has_failed(cluster).filter(|has_failed| *has_failed));
    let detected = start.elapsed();
    if missed.is_ok() {
        thread::sleep(away.saturating_sub(detected));
    }
    network.heal();
    missed?;
    let start = Instant::now();
    let what = format!("the managers to hear LFD{} again", host + 1);
    wait_for(TIMEOUT, &what, || has_failed(cluster).filter(|has_failed| !has_failed))?;
    let names = wait_redundant(cluster, TIMEOUT)?;
    let repaired = start.elapsed();
    if its.iter().map(|&node| cluster.pid_of(node)).ne(pids) {
        return Err(format!("replicas of LFD{} were launched again because it was cut off", host + 1).into());
    }
    Ok(Took { detected: Some(detected), repaired, names })
}

/// A host ends, and nothing of it comes back.
fn host_gone(cluster: &mut Cluster, host: u16) -> Result<Took, Trouble> {
    let its = servers_of(cluster, host)?;
    let pids: Vec<u32> = its.iter().filter_map(|&node| cluster.pid_of(node)).collect();
    cluster.agents().ok_or("no agents")?.process(host).kill();
    pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    let start = Instant::now();
    let elsewhere = format!("a map with the replicas of LFD{} on another host", host + 1);
    wait_for(TIMEOUT, &elsewhere, || {
        let map = map(cluster)?;
        let is_elsewhere = |&node: &Node| map(node).is_some_and(|at| at != cluster.client_address(node));
        its.iter().all(is_elsewhere).then_some(())
    })?;
    let status = |node| match ask(map(cluster)?(node)?, service_of(node), ClientRequest::Status, ANSWER_TIMEOUT) {
        Ok(ClientResponse::Status(status)) => Some(*status),
        _ => None,
    };
    let names = wait_redundant_by(cluster, status, TIMEOUT)?;
    Ok(Took { detected: None, repaired: start.elapsed(), names })
}

/// Where servers are, by the map of a manager.
fn map(cluster: &Cluster) -> Option<impl Fn(Node) -> Option<SocketAddr>> {
    let map = cluster.nodes_of(Group::Manager).find_map(|node| {
        match ask(cluster.client_address(node), service_of(node), ClientRequest::Map, ANSWER_TIMEOUT) {
            Ok(ClientResponse::Map(map)) => Some(map),
            _ => None,
        }
    })?;
    Some(move |node: Node| {
        let Node::Server { partition, replica } = node else { return None };
        let servers = &map.partitions.get(usize::from(partition))?.servers;
        servers.get(usize::from(replica))?.parse().ok()
    })
}

/// Sets a setting of the managers.
pub(super) fn set(cluster: &Cluster, name: &str, value: u64) -> Result<(), Trouble> {
    let answer = |request: &ControlRequest| {
        cluster.nodes_of(Group::Manager).find_map(|node| {
            let question = ClientRequest::Control(request.encode());
            match ask(cluster.client_address(node), service_of(node), question, ANSWER_TIMEOUT) {
                Ok(ClientResponse::Answer(answer)) => ControlReply::decode(&answer).ok(),
                _ => None,
            }
        })
    };
    wait_for(TIMEOUT, name, || {
        let ControlReply::Settings(settings) = answer(&ControlRequest::Settings)? else { return None };
        let (name, value) = (name.to_owned(), value.to_string());
        let done = answer(&ControlRequest::Set { name, value, version: settings.version })?;
        (done == ControlReply::Done).then_some(())
    })?;
    Ok(())
}

/// Hosts and members, by the managers' leader.
fn membership(cluster: &Cluster) -> Option<Membership> {
    cluster.nodes_of(Group::Manager).find_map(|node| {
        let question = ClientRequest::Control(ControlRequest::Membership.encode());
        match ask(cluster.client_address(node), service_of(node), question, ANSWER_TIMEOUT) {
            Ok(ClientResponse::Answer(answer)) => match ControlReply::decode(&answer) {
                Ok(ControlReply::Membership(membership)) => Some(membership),
                _ => None,
            },
            _ => None,
        }
    })
}

/// The servers that live on a host.
fn servers_of(cluster: &mut Cluster, host: u16) -> Result<Vec<Node>, Trouble> {
    let hosts = cluster.agents().ok_or("no agents")?.count();
    let is_his = |node: &Node| matches!(node, Node::Server { replica, .. } if replica % hosts == host);
    Ok(cluster.layout().shape.nodes().filter(is_his).collect())
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
    let names = wait_redundant(cluster, TIMEOUT)?;
    Ok(Took { detected: None, repaired: start.elapsed(), names })
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
