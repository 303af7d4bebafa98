//! What the nodes say of themselves, watched from outside all the time, and judged.
//!
//! A thread for each node asks it again and again, directly and not through the proxy. So the injector knows who leads
//! without waiting for the frozen, and some invariants are checked on the way, as far as samples show them:
//! - I1: a term of a group has at most one leader.
//! - I3: term, commit and applied index never fall within a run of a process. (A term that was heard of and not yet
//!   synced may be forgotten by a crash.)
//! - I10: snapshot ≤ applied ≤ commit ≤ last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use madkv_proto::frames::{ClientRequest, ClientResponse};
use smr::id::NodeId;
use smr::status::{ReplicaStatus, Role, ServiceState};

use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Cluster, Group, Node, service_of};

/// How often each node is asked, in milliseconds.
const ASK_EVERY_MS: u64 = 150;
/// How long a node may take, in milliseconds; a frozen one takes all of it.
const ASK_TIMEOUT_MS: u64 = 400;
/// What is older says nothing about who leads now, in milliseconds.
const FRESH_MS: u64 = 1_000;
/// How many violations are kept.
const VIOLATIONS_MAX: usize = 20;

/// The monitor. Its threads end when it is dropped.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: BTreeMap<Node, Seen>,
    leaders: BTreeMap<(Group, u64), NodeId>,
    leader_changes: u64,
    violations: Vec<String>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How often its process was started; what an earlier process said is no measure for the next.
    run: u64,
    last: Option<(Instant, ReplicaStatus)>,
    /// Of this process.
    in_run: Option<ReplicaStatus>,
}

impl Monitor {
    /// Starts to watch a cluster.
    pub fn watch(cluster: &Cluster) -> Monitor {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = cluster
            .layout()
            .shape
            .nodes()
            .map(|node| {
                let address = cluster.client_address(node);
                shared.lock().nodes.insert(node, Seen::default());
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let run = shared.lock().nodes.get(&node).map_or(0, |seen| seen.run);
                        let answer = ask(
                            address,
                            service_of(node),
                            ClientRequest::Status,
                            Duration::from_millis(ASK_TIMEOUT_MS),
                        );
                        if let Ok(ClientResponse::Status(status)) = answer {
                            shared.lock().note(node, run, *status);
                        }
                        thread::sleep(Duration::from_millis(ASK_EVERY_MS));
                    }
                })
            })
            .collect();
        Monitor { shared, stop, threads }
    }

    /// A node's process is about to end, or has been started: what was under way from before says nothing about it.
    pub fn new_run(&self, node: Node) {
        if let Some(seen) = self.shared.lock().nodes.get_mut(&node) {
            seen.run += 1;
            seen.in_run = None;
            seen.last = None;
        }
    }

    /// Who leads, as far as it was heard lately: of those who say so, the one with the highest term.
    pub fn leader(&self, group: Group) -> Option<Node> {
        let shared = self.shared.lock();
        let fresh = shared.nodes.iter().filter_map(|(&node, seen)| {
            let (at, status) = seen.last.as_ref()?;
            let leads = status.service_state == ServiceState::InService && status.role == Role::Leader;
            (node.group() == group && leads && at.elapsed() < Duration::from_millis(FRESH_MS))
                .then_some((status.term.0, node))
        });
        fresh.max().map(|(_, node)| node)
    }

    /// What a node said last, if that was lately.
    pub fn status(&self, node: Node) -> Option<ReplicaStatus> {
        let shared = self.shared.lock();
        let (at, status) = shared.nodes.get(&node)?.last.as_ref()?;
        (at.elapsed() < Duration::from_millis(FRESH_MS)).then(|| status.clone())
    }

    /// How many leaders were seen so far, beyond the first of each group.
    pub fn leader_changes(&self) -> u64 {
        self.shared.lock().leader_changes
    }

    /// What cannot be, and was seen all the same.
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn note(&mut self, node: Node, run: u64, status: ReplicaStatus) {
        let Some(seen) = self.nodes.get_mut(&node) else { return };
        if seen.run != run {
            return; // of a process that has ended meanwhile, perhaps
        }
        let mut wrong = Vec::new();
        if let Some(before) = seen.in_run.as_ref().filter(|before| before.node == status.node) {
            for (what, before, now) in [
                ("term", before.term.0, status.term.0),
                ("commit index", before.commit.0, status.commit.0),
                ("applied index", before.applied.0, status.applied.0),
            ] {
                if now < before {
                    wrong.push(format!("I3: the {what} of {node} fell from {before} to {now}"));
                }
            }
        }
        let in_service = status.service_state == ServiceState::InService;
        let order = [status.snapshot.index, status.applied, status.commit, status.last.index];
        if in_service && !order.is_sorted() {
            wrong.push(format!("I10: snapshot, applied, commit, last of {node} are {order:?}"));
        }
        if in_service && status.role == Role::Leader {
            let group = node.group();
            match self.leaders.get(&(group, status.term.0)) {
                None => {
                    self.leader_changes += u64::from(self.leaders.keys().any(|(other, _)| *other == group));
                    self.leaders.insert((group, status.term.0), status.node);
                }
                Some(&other) if other != status.node => {
                    wrong.push(format!("I1: {other} and {} both lead {group} in term {}", status.node, status.term.0));
                }
                Some(_) => {}
            }
        }
        seen.in_run = Some(status.clone());
        seen.last = Some((Instant::now(), status));
        let room = VIOLATIONS_MAX.saturating_sub(self.violations.len());
        self.violations.extend(wrong.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use smr::entry::{EntryId, Index, Term};

    use super::*;

    const NODE: Node = Node::Server { partition: 0, replica: 0 };

    fn status(replica: u16, term: u64, role: Role, applied: u64) -> ReplicaStatus {
        ReplicaStatus {
            group: "s0".parse().unwrap(),
            node: NodeId::new(replica, 7),
            service_state: ServiceState::InService,
            role,
            term: Term(term),
            leader: None,
            snapshot: EntryId::default(),
            last: EntryId { index: Index(100), term: Term(1) },
            commit: Index(applied),
            applied: Index(applied),
            digest: None,
            log_bytes: 0,
            sessions: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            sync_mode: String::new(),
            reads: smr::status::ReadMode::Index,
            peers: Vec::new(),
            advertised: smr::status::Advertised::Unknown,
        }
    }

    fn shared() -> Shared {
        let nodes = (0..3).map(|replica| (Node::Server { partition: 0, replica }, Seen::default())).collect();
        Shared { nodes, ..Shared::default() }
    }

    // covers I1
    #[test]
    fn note_two_leaders_of_a_term_found_out_however_far_apart() {
        let mut shared = shared();
        shared.note(NODE, 0, status(0, 5, Role::Leader, 1));
        shared.note(NODE, 0, status(0, 6, Role::Follower, 1));
        let other = Node::Server { partition: 0, replica: 1 };
        shared.note(other, 0, status(1, 6, Role::Leader, 1));
        assert_eq!((shared.violations.len(), shared.leader_changes), (0, 1));
        shared.note(other, 0, status(1, 5, Role::Leader, 1));
        assert!(shared.violations.iter().any(|wrong| wrong.starts_with("I1")), "{:?}", shared.violations);
    }

    // covers I3
    #[test]
    fn note_what_falls_found_out_within_a_run_only() {
        let mut shared = shared();
        shared.note(NODE, 0, status(0, 5, Role::Follower, 9));
        shared.note(NODE, 0, status(0, 4, Role::Follower, 8));
        assert_eq!(shared.violations.len(), 3, "term, commit and applied");
        let mut shared = self::shared();
        shared.note(NODE, 0, status(0, 5, Role::Follower, 9));
        let seen = shared.nodes.get_mut(&NODE).unwrap();
        (seen.run, seen.in_run) = (1, None);
        shared.note(NODE, 0, status(0, 6, Role::Follower, 10));
        shared.note(NODE, 1, status(0, 5, Role::Follower, 3));
        assert!(shared.violations.is_empty(), "{:?}", shared.violations);
    }

    // covers I10
    #[test]
    fn note_applied_beyond_the_log_found_out() {
        let mut shared = shared();
        shared.note(NODE, 0, status(0, 5, Role::Follower, 101));
        assert!(shared.violations[0].starts_with("I10"));
    }
}
