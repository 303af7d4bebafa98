//! When redundancy is full, and that no group ever plans for fewer voters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Cluster, Group, Node, service_of};
use madkv_testkit::wait::{WaitTimeout, wait_for};
use smr::status::{ReplicaStatus, Role, ServiceState};

/// How often the monitor looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long one replica may take to describe itself.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits until each partition has all its voters in service, and each of them has what was committed a moment before.
///
/// # Errors
/// What is missing, if it does not come in time.
pub(super) fn wait_redundant(cluster: &Cluster, timeout: Duration) -> Result<(), WaitTimeout> {
    wait_redundant_by(cluster, |node| cluster.status(node).ok(), timeout)
}

/// The same, where `status` says how a replica is, wherever it runs by now.
pub(super) fn wait_redundant_by(
    cluster: &Cluster,
    status: impl Fn(Node) -> Option<ReplicaStatus>,
    timeout: Duration,
) -> Result<(), WaitTimeout> {
    for partition in 0..cluster.layout().shape.partitions {
        let group = Group::Partition(partition);
        let mut missing = String::new();
        let found =
            wait_for(timeout, &format!("full redundancy of {group}"), || match lacks(cluster, group, &status) {
                None => Some(()),
                Some(what) => {
                    missing = what;
                    None
                }
            });
        found.map_err(|error| WaitTimeout { what: format!("{}: {missing}", error.what), ..error })?;
    }
    Ok(())
}

/// What a group lacks of full redundancy, if anything.
fn lacks(cluster: &Cluster, group: Group, status: &impl Fn(Node) -> Option<ReplicaStatus>) -> Option<String> {
    let statuses: Vec<(Node, Option<ReplicaStatus>)> =
        cluster.nodes_of(group).map(|node| (node, status(node))).collect();
    let in_service = |status: &&ReplicaStatus| status.service_state == ServiceState::InService;
    let described = statuses.iter().filter_map(|(_, status)| status.as_ref());
    let leads = |status: &&ReplicaStatus| in_service(status) && status.role == Role::Leader;
    let Some(leader) = described.filter(leads).max_by_key(|status| status.term) else {
        return Some("no leader".to_owned());
    };
    if leader.voters.len() != statuses.len() || !leader.learners.is_empty() {
        return Some(format!("voters {:?}, learners {:?}", leader.voters, leader.learners));
    }
    // Asked in this order, the leader's may be newer than a follower's that is level; the next look is soon.
    statuses.iter().find_map(|(node, status)| {
        let Some(status) = status.as_ref().filter(in_service) else { return Some(format!("{node} is not in service")) };
        let is_voter = leader.voters.contains(&status.node);
        let lag = leader.commit.0.saturating_sub(status.applied.0);
        (!is_voter || status.term != leader.term || lag > LAG_MAX).then(|| format!("{node} lacks {lag} entries"))
    })
}

/// How many entries a replica may lack between two questions under full load.
const LAG_MAX: u64 = 2_000;

/// Looks all the time whether a leader plans for fewer voters than the replication factor.
pub(super) struct Monitor {
    stop: Arc<AtomicBool>,
    violation: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    pub(super) fn start(cluster: &Cluster) -> std::io::Result<Monitor> {
        let stop = Arc::new(AtomicBool::new(false));
        let violation = Arc::new(Mutex::new(None));
        let shape = cluster.layout().shape;
        let servers: Vec<_> = shape
            .nodes()
            .filter(|node| matches!(node, Node::Server { .. }))
            .map(|node| (node, cluster.client_address(node)))
            .collect();
        let (stopped, found) = (Arc::clone(&stop), Arc::clone(&violation));
        let thread = thread::Builder::new().name("monitor".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for &(node, address) in &servers {
                    let answer = ask(address, service_of(node), ClientRequest::Status, STATUS_TIMEOUT);
                    let Ok(ClientResponse::Status(status)) = answer else { continue };
                    let is_leader = status.service_state == ServiceState::InService && status.role == Role::Leader;
                    if is_leader && status.voters.len() < usize::from(shape.server_rf) {
                        let what = format!("{node} leads a group of {:?}", status.voters);
                        found.lock().get_or_insert(what);
                    }
                }
                thread::sleep(LOOK);
            }
        })?;
        Ok(Monitor { stop, violation, thread: Some(thread) })
    }

    /// What it has seen that must not be.
    pub(super) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell any more.
            let _ = thread.join();
        }
    }
}
