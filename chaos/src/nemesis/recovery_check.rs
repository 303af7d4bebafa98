//! After the faults: everything must be well again, by itself and soon.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_client::{Client, Options};
use smr::epoch::{EpochKind, GroupKind};
use smr::status::ServiceState;

use crate::nemesis::traffic::Traffic;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Cluster, Group, Node};
use madkv_testkit::wait::wait_for;

/// How long it may take until every replica serves, has applied what its leader had committed, and clients are
/// answered. The catalogue says 10 T (6 to 12 s); the rest is for a busy machine. What it did take is reported.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// As much longer where managers decide about members: one that was removed again and again comes back after a pause
/// that doubles each time, up to 64 s, and is brought up to date then.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(90);
/// Acknowledgements that must come after the faults.
const ACKNOWLEDGED_MIN: u64 = 10;
/// What a process may use at most; above this something has no bound. Memory in bytes.
const MEMORY_MAX_BYTES: u64 = 1 << 30;
/// Descriptors that a process may hold at most: connections of peers and clients, and the log's files.
const DESCRIPTORS_MAX: usize = 600;
/// How long one request of the final comparison may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long handing over leadership may take altogether, with refusals.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(40);
/// Above all keys that a test uses.
const LAST_KEY: [u8; 8] = [0xff; 8];

/// What the processes use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Health {
    /// The larger of each.
    #[must_use]
    pub fn worse(self, other: Health) -> Health {
        Health {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// Waits until all is well, and says how long that took. `feel` hears how many operations were acknowledged.
///
/// # Errors
/// If it does not get well in time.
pub fn wait(world: &mut World, traffic: &mut dyn Traffic, feel: &mut dyn FnMut(u64)) -> Result<Duration, Failure> {
    let start = Instant::now();
    let acknowledged = traffic.acknowledged();
    let groups: Vec<Group> = world.cluster.groups().collect();
    let timeout = match all_decide_themselves(&world.cluster)? {
        true => RECOVERY_TIMEOUT,
        false => RECOVERY_TIMEOUT + REJOIN_TIMEOUT,
    };
    loop {
        feel(traffic.acknowledged());
        if let Some(failure) = world.dead() {
            return Err(failure);
        }
        if let Some(why) = traffic.failure() {
            return Err(Failure(format!("a client failed: {why}")));
        }
        if let Some(violation) = world.monitor.violations().first() {
            return Err(Failure(violation.clone()));
        }
        let mut missing: Vec<String> = groups.iter().filter_map(|&group| ill(world, group)).collect();
        let more = traffic.acknowledged() - acknowledged;
        if more < ACKNOWLEDGED_MIN {
            missing.push(format!("{more} operations were acknowledged"));
        }
        if missing.is_empty() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > timeout {
            return Err(Failure(format!("not well after {timeout:?} after the faults: {}", missing.join("; "))));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether all partitions are Raft groups, which decide about their members and leaders themselves.
fn all_decide_themselves(cluster: &Cluster) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let status = runtime.block_on(async { client(cluster).status().await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(status.kinds.iter().all(|kind| *kind == GroupKind::Raft))
}

fn client(cluster: &Cluster) -> Client {
    let managers: Vec<String> = cluster.manager_addresses().split(',').map(str::to_owned).collect();
    Client::connect(Options { managers, timeout: Some(REQUEST_TIMEOUT), ..Options::default() })
}

/// What is wrong with a group, if anything is.
fn ill(world: &World, group: Group) -> Option<String> {
    let Some(leader) = world.monitor.leader(group) else { return Some(format!("{group} has no leader")) };
    let leading = world.monitor.status(leader)?;
    let lags = |node: Node| {
        let Some(status) = world.monitor.status(node) else { return Some(format!("{node} is silent")) };
        if status.service_state != ServiceState::InService {
            return Some(format!("{node} is {:?}", status.service_state));
        }
        if status.leader != Some(leading.node) && node != leader {
            return Some(format!("{node} follows {:?}, not {}", status.leader, leading.node));
        }
        // Two samples at different moments: it may have applied more than the leader had then, or a little less.
        None
    };
    if !leading.learners.is_empty() || leading.voters.len() != world.cluster.nodes_of(group).count() {
        return Some(format!("{group} has voters {:?} and learners {:?}", leading.voters, leading.learners));
    }
    world.cluster.nodes_of(group).find_map(lags)
}

/// What the processes use now.
///
/// # Errors
/// If one uses more than this, something is without a bound.
pub fn health(world: &mut World) -> Result<Health, Failure> {
    let mut all = Health::default();
    for (node, process) in world.cluster.processes() {
        let health = Health {
            memory_bytes: process.resident_bytes().unwrap_or_default(),
            descriptors: process.descriptors().unwrap_or_default(),
        };
        if health.memory_bytes > MEMORY_MAX_BYTES || health.descriptors > DESCRIPTORS_MAX {
            return Err(Failure(format!("I17: {node} uses {health:?}")));
        }
        all = all.worse(health);
    }
    Ok(all)
}

/// When the clients have stopped: all replicas of each group have applied the same, and a read that each of them serves
/// as the leader finds the same records.
///
/// # Errors
/// If not.
pub fn compare(world: &World) -> Result<u64, Failure> {
    let cluster = &world.cluster;
    for group in cluster.groups() {
        wait_for(RECOVERY_TIMEOUT, &format!("all replicas of {group} to have applied the same"), || {
            let statuses = cluster.nodes_of(group).map(|node| cluster.status(node).ok()).collect::<Option<Vec<_>>>()?;
            let first = statuses.first()?;
            statuses.iter().all(|status| (status.applied, status.commit) == (first.applied, first.commit)).then_some(())
        })
        .map_err(|error| Failure(error.to_string()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let compared = runtime.block_on(async { compare_records(cluster, &client(cluster)).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    compared
}

async fn compare_records(cluster: &Cluster, client: &Client) -> Result<u64, Failure> {
    let shape = cluster.layout().shape;
    if client.status().await.kinds.contains(&GroupKind::Epochs(EpochKind::Chain)) {
        // A chain keeps its order, so no one is made the first there; who answers has what all have applied.
        let records = client.scan(b"", &LAST_KEY).await;
        return records
            .map(|records| records.len() as u64)
            .map_err(|error| Failure(format!("the last SCAN failed: {error}")));
    }
    let mut reference: Option<Vec<(Bytes, Bytes)>> = None;
    // One replica of each partition leads at a time; after as many turns as there are replicas each has answered for
    // its part.
    for replica in 0..shape.server_rf {
        for partition in 0..shape.partitions {
            lead(cluster, client, Node::Server { partition, replica }).await?;
        }
        let records =
            client.scan(b"", &LAST_KEY).await.map_err(|error| Failure(format!("the last SCAN failed: {error}")))?;
        // Whoever has lost its leadership meanwhile did not answer for sure; without faults no one does.
        for partition in 0..shape.partitions {
            let leader = cluster.leader(Group::Partition(partition));
            if leader != Some(Node::Server { partition, replica }) {
                return Err(Failure(format!(
                    "leadership of partition {partition} moved without a fault, to {leader:?}"
                )));
            }
        }
        match &reference {
            None => reference = Some(records),
            Some(first) if *first == records => {}
            Some(first) => {
                let differing = first.iter().filter(|record| !records.contains(record)).count();
                return Err(Failure(format!(
                    "I7: replicas number 0 hold {} records and number {replica} {}, {differing} of them differ",
                    first.len(),
                    records.len()
                )));
            }
        }
    }
    Ok(reference.map_or(0, |records| records.len() as u64))
}

/// Hands leadership to a node.
async fn lead(cluster: &Cluster, client: &Client, node: Node) -> Result<(), Failure> {
    let start = Instant::now();
    let Group::Partition(partition) = node.group() else { return Ok(()) };
    let mut said = String::new();
    while start.elapsed() < TRANSFER_TIMEOUT {
        if cluster.leader(node.group()) == Some(node) {
            return Ok(());
        }
        if let Err(error) = client.transfer(&format!("s{partition}"), node.replica()).await {
            said = error.to_string();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Err(Failure(format!("{node} could not be made the leader within {TRANSFER_TIMEOUT:?}: {said}")))
}
