//! When redundancy is full, and that no group ever has fewer live voters than the present fault explains.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Cluster, Group, Node, service_of};
use madkv_testkit::wait::{WaitTimeout, wait_for};
use smr::id::NodeId;
use smr::status::{ReplicaStatus, Role, ServiceState};

/// How often the monitor looks at a replica.
const LOOK: Duration = Duration::from_millis(50);
/// How long one replica may take to describe itself.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// A replica that nothing was done to may leave this many questions in a row without an answer, for the machine is
/// busy; [`STATUS_TIMEOUT`] each, together ten times as long as agents wait with the default heartbeat.
const SILENT_MAX: u32 = 35;

/// Which incarnation each server is.
pub(super) type Names = BTreeMap<Node, NodeId>;

/// Waits until each partition has all its voters in service, and each of them has what was committed a moment before.
/// Returns who they are.
///
/// # Errors
/// What is missing, if it does not come in time.
pub(super) fn wait_redundant(cluster: &Cluster, timeout: Duration) -> Result<Names, WaitTimeout> {
    wait_redundant_by(cluster, |node| cluster.status(node).ok(), timeout)
}

/// The same, where `status` says how a replica is, wherever it runs by now.
pub(super) fn wait_redundant_by(
    cluster: &Cluster,
    status: impl Fn(Node) -> Option<ReplicaStatus>,
    timeout: Duration,
) -> Result<Names, WaitTimeout> {
    let mut names = Names::new();
    for partition in 0..cluster.layout().shape.partitions {
        let group = Group::Partition(partition);
        let mut missing = String::new();
        let found = wait_for(timeout, &format!("full redundancy of {group}"), || {
            look(cluster, group, &status).inspect_err(|what| missing.clone_from(what)).ok()
        });
        names.extend(found.map_err(|error| WaitTimeout { what: format!("{}: {missing}", error.what), ..error })?);
    }
    Ok(names)
}

/// The replicas of a group that has full redundancy; what it lacks, if it does not.
fn look(cluster: &Cluster, group: Group, status: &impl Fn(Node) -> Option<ReplicaStatus>) -> Result<Names, String> {
    let statuses: Vec<(Node, Option<ReplicaStatus>)> =
        cluster.nodes_of(group).map(|node| (node, status(node))).collect();
    let in_service = |status: &&ReplicaStatus| status.service_state == ServiceState::InService;
    let described = statuses.iter().filter_map(|(_, status)| status.as_ref());
    let leads = |status: &&ReplicaStatus| in_service(status) && status.role == Role::Leader;
    let leader = described.filter(leads).max_by_key(|status| status.term).ok_or("no leader")?;
    if leader.voters.len() != statuses.len() || !leader.learners.is_empty() {
        return Err(format!("voters {:?}, learners {:?}", leader.voters, leader.learners));
    }
    // Asked in this order, the leader's may be newer than a follower's that is level; the next look is soon.
    let named = statuses.iter().map(|(node, status)| {
        let Some(status) = status.as_ref().filter(in_service) else { return Err(format!("{node} is not in service")) };
        let is_voter = leader.voters.contains(&status.node);
        let lag = leader.commit.0.saturating_sub(status.applied.0);
        if !is_voter || status.term != leader.term || lag > LAG_MAX {
            return Err(format!("{node} lacks {lag} entries"));
        }
        Ok((*node, status.node))
    });
    named.collect()
}

/// How many entries a replica may lack between two questions under full load.
const LAG_MAX: u64 = 2_000;

/// Looks at every replica all the time: whoever the present fault does not hit is there, in service, and a voter; and
/// no leader plans for fewer voters than the replication factor. So there are never fewer live voters than all of them
/// without those that are hit.
pub(super) struct Monitor {
    stop: Arc<AtomicBool>,
    sight: Arc<Mutex<Sight>>,
    threads: Vec<JoinHandle<()>>,
}

/// What is expected, and what was seen.
#[derive(Debug, Default)]
struct Sight {
    voters: usize,
    /// Counts how often it has changed who is hit. An answer that was asked for before counts for nothing.
    changes: u64,
    /// Whom the present fault may keep from being there.
    hit: BTreeSet<Node>,
    /// Who the others are.
    names: Names,
    /// Answers of replicas that nothing was done to, by replica.
    looks: BTreeMap<Node, u64>,
    /// Questions in a row that a replica left without an answer, and nothing was done to it.
    silent: BTreeMap<Node, u32>,
    violation: Option<String>,
}

impl Sight {
    /// Notes what a replica answered, or that it did not.
    fn note(&mut self, node: Node, answer: io::Result<ClientResponse>) {
        let is_hit = self.hit.contains(&node);
        let is_late = |error: &io::Error| matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        let silent = self.silent.entry(node).or_default();
        *silent = if !is_hit && answer.as_ref().is_err_and(is_late) { *silent + 1 } else { 0 };
        let silent = *silent;
        let wrong = match answer {
            Ok(ClientResponse::Status(status)) => {
                *self.looks.entry(node).or_default() += u64::from(!is_hit);
                self.wrong_with(node, is_hit, &status)
            }
            Ok(other) => (!is_hit).then(|| format!("{node} answers {other:?} to a question for its status")),
            // On a busy machine a few of them say nothing.
            Err(error) if is_late(&error) => (silent > SILENT_MAX)
                .then(|| format!("{node} has not answered {silent} questions in a row, and nothing was done to it")),
            Err(error) => (!is_hit).then(|| format!("{node} is gone, and nothing was done to it: {error}")),
        };
        if let Some(wrong) = wrong {
            self.violation.get_or_insert(wrong);
        }
    }

    fn wrong_with(&self, node: Node, is_hit: bool, status: &ReplicaStatus) -> Option<String> {
        let is_in_service = status.service_state == ServiceState::InService;
        if !is_hit && (!is_in_service || status.role == Role::Learner) {
            let ReplicaStatus { service_state, role, .. } = status;
            return Some(format!("{node} is no voter, and nothing was done to it: {service_state:?}, {role}"));
        }
        if !is_in_service || status.role != Role::Leader {
            return None;
        }
        if status.voters.len() < self.voters {
            return Some(format!("{node} leads a group of {:?}", status.voters));
        }
        let of_group = self.names.iter().filter(|(other, _)| other.group() == node.group());
        let mut sound = of_group.filter(|(other, _)| !self.hit.contains(other));
        let left_out = sound.find(|(_, name)| !status.voters.contains(name));
        left_out.map(|(other, _)| format!("{node} leads without {other}, to which nothing was done"))
    }
}

impl Monitor {
    /// Begins, in a cluster that has full redundancy and whose servers have these names.
    pub(super) fn start(cluster: &Cluster, names: &Names) -> io::Result<Monitor> {
        let stop = Arc::new(AtomicBool::new(false));
        let shape = cluster.layout().shape;
        let sight = Sight { voters: usize::from(shape.server_rf), names: names.clone(), ..Sight::default() };
        let mut monitor = Monitor { stop, sight: Arc::new(Mutex::new(sight)), threads: Vec::new() };
        for node in shape.nodes().filter(|node| matches!(node, Node::Server { .. })) {
            let (stop, sight) = (Arc::clone(&monitor.stop), Arc::clone(&monitor.sight));
            let address = cluster.client_address(node);
            // One for each: whoever does not answer holds up no look at the others.
            let thread = thread::Builder::new().name(format!("monitor of {node}"));
            monitor.threads.push(thread.spawn(move || watch(node, address, &stop, &sight))?);
        }
        Ok(monitor)
    }

    /// From now on these may be away, and come back under other names.
    pub(super) fn hit(&self, nodes: &[Node]) {
        let mut sight = self.sight.lock();
        sight.changes += 1;
        sight.hit = nodes.iter().copied().collect();
    }

    /// Redundancy is full again, with these.
    pub(super) fn all_well(&self, names: &Names) {
        let mut sight = self.sight.lock();
        sight.changes += 1;
        sight.hit.clear();
        sight.names.clone_from(names);
    }

    /// What it has seen that must not be.
    pub(super) fn violation(&self) -> Option<String> {
        self.sight.lock().violation.clone()
    }

    /// How often the replica was seen to be sound that was seen least often.
    pub(super) fn looks_min(&self) -> u64 {
        let sight = self.sight.lock();
        sight.names.keys().map(|node| sight.looks.get(node).copied().unwrap_or(0)).min().unwrap_or(0)
    }
}

fn watch(node: Node, address: SocketAddr, stop: &AtomicBool, sight: &Mutex<Sight>) {
    while !stop.load(Ordering::Relaxed) {
        let changes = sight.lock().changes;
        let answer = ask(address, service_of(node), ClientRequest::Status, STATUS_TIMEOUT);
        let mut now = sight.lock();
        if now.changes == changes {
            now.note(node, answer);
        }
        drop(now);
        thread::sleep(LOOK);
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to tell any more.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use smr::entry::{EntryId, Index, Term};
    use smr::status::{Advertised, ReadMode};

    use super::*;

    fn server(replica: u16) -> Node {
        Node::Server { partition: 0, replica }
    }

    fn sight() -> Sight {
        let names = (0..3).map(|replica| (server(replica), NodeId::new(replica, 1))).collect();
        Sight { voters: 3, names, ..Sight::default() }
    }

    fn status(replica: u16, role: Role, voters: &[NodeId]) -> io::Result<ClientResponse> {
        let status = ReplicaStatus {
            group: "s0".parse().unwrap(),
            node: NodeId::new(replica, 1),
            service_state: ServiceState::InService,
            role,
            term: Term(1),
            leader: None,
            snapshot: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            digest: None,
            log_bytes: 0,
            sessions: 0,
            voters: voters.to_vec(),
            learners: Vec::new(),
            sync_mode: String::new(),
            reads: ReadMode::Index,
            peers: Vec::new(),
            advertised: Advertised::Unknown,
        };
        Ok(ClientResponse::Status(Box::new(status)))
    }

    fn gone(kind: io::ErrorKind) -> io::Result<ClientResponse> {
        Err(io::Error::from(kind))
    }

    #[test]
    fn only_those_that_are_hit_may_be_away_or_other_ones() {
        let all = [0, 1, 2].map(|replica| NodeId::new(replica, 1));
        let renewed = [NodeId::new(0, 1), NodeId::new(1, 2), NodeId::new(2, 1)];
        let refused = io::ErrorKind::ConnectionRefused;
        let violated = |hit: &[Node], node, answer| {
            let mut sight = sight();
            sight.hit = hit.iter().copied().collect();
            sight.note(node, answer);
            sight.violation.is_some()
        };
        assert!(!violated(&[], server(0), status(0, Role::Leader, &all)));
        assert!(violated(&[], server(1), gone(refused)));
        assert!(!violated(&[server(1)], server(1), gone(refused)));
        assert!(violated(&[server(1)], server(2), gone(refused)), "another one, too");
        assert!(!violated(&[], server(2), gone(io::ErrorKind::WouldBlock)), "a busy machine");
        assert!(violated(&[], server(2), status(2, Role::Learner, &all)));
        assert!(!violated(&[server(1)], server(0), status(0, Role::Leader, &renewed)));
        assert!(violated(&[], server(0), status(0, Role::Leader, &renewed)), "not again by itself");
        assert!(
            violated(&[server(1)], server(0), status(0, Role::Leader, &[NodeId::new(0, 1), NodeId::new(2, 1)])),
            "one voter less"
        );
    }

    #[test]
    fn one_that_nothing_was_done_to_may_be_silent_for_a_while_only() {
        let late = || gone(io::ErrorKind::TimedOut);
        let mut sight = sight();
        for _ in 0..2 {
            (0..SILENT_MAX).for_each(|_| sight.note(server(1), late()));
            sight.note(server(1), status(1, Role::Follower, &[]));
        }
        sight.hit = BTreeSet::from([server(1)]);
        (0..=SILENT_MAX).for_each(|_| sight.note(server(1), late()));
        assert_eq!(sight.violation, None);
        sight.hit.clear();
        (0..SILENT_MAX).for_each(|_| sight.note(server(1), late()));
        assert_eq!(sight.violation, None);
        sight.note(server(1), late());
        assert!(sight.violation.is_some());
    }

    #[test]
    fn looks_are_counted_of_those_that_are_not_hit() {
        let mut sight = sight();
        sight.hit = BTreeSet::from([server(1)]);
        for replica in 0..2 {
            sight.note(server(replica), status(replica, Role::Follower, &[]));
        }
        assert_eq!(sight.looks.into_iter().filter(|(_, looks)| *looks > 0).collect::<Vec<_>>(), [(server(0), 1)]);
    }
}
