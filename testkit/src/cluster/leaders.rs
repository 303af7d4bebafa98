//! Who leads where, and waiting for that.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use madkv_proto::frames::{ClientRequest, ClientResponse};
use smr::status::{ReplicaStatus, Role, ServiceState};

use crate::ask::ask;
use crate::cluster::{Cluster, Group, Node, service_of};
use crate::wait::{WaitTimeout, wait_for};

/// How long one replica may take to describe itself before it counts as silent.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// The cluster does not come up.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// A process ended by itself.
    #[error("{node} ended ({status}):\n{log}")]
    Ended {
        /// The node.
        node: Node,
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A group has no leader.
    #[error("{0}")]
    WaitTimeout(#[from] WaitTimeout),
}

impl Cluster {
    /// What a node says of itself.
    ///
    /// # Errors
    /// If it says nothing within half a second, or nothing of use.
    pub fn status(&self, node: Node) -> io::Result<ReplicaStatus> {
        match ask(self.client_address(node), service_of(node), ClientRequest::Status, STATUS_TIMEOUT)? {
            ClientResponse::Status(status) => Ok(*status),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Who leads a group: of those who say so, the one with the highest term. A frozen or killed leader says nothing.
    pub fn leader(&self, group: Group) -> Option<Node> {
        self.nodes_of(group)
            .filter_map(|node| Some((self.status(node).ok()?, node)))
            .filter(|(status, _)| status.service_state == ServiceState::InService && status.role == Role::Leader)
            .max_by_key(|(status, _)| status.term)
            .map(|(_, node)| node)
    }

    /// Waits until a group has a leader, and says which.
    ///
    /// # Errors
    /// If it has none in time.
    pub fn wait_leader(&self, group: Group, timeout: Duration) -> Result<Node, WaitTimeout> {
        wait_for(timeout, &format!("a leader of {group}"), || self.leader(group))
    }

    /// Waits until each group has a leader.
    ///
    /// # Errors
    /// If one has none in time, or a process that was started ends.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<BTreeMap<Group, Node>, NotReady> {
        let start = Instant::now();
        let mut leaders = BTreeMap::new();
        for group in self.groups() {
            let what = format!("a leader of {group}");
            let found = wait_for(timeout.saturating_sub(start.elapsed()), &what, || {
                self.dead_node().map(Err).or_else(|| self.leader(group).map(Ok))
            });
            leaders.insert(group, found??);
        }
        Ok(leaders)
    }

    fn dead_node(&mut self) -> Option<NotReady> {
        self.nodes.iter_mut().find_map(|(&node, process)| {
            let status = process.ended()?;
            Some(NotReady::Ended { node, status: status.to_string(), log: process.log_tail() })
        })
    }

    /// Waits until each running node of a group has applied what its leader had committed at the time of the call.
    ///
    /// # Errors
    /// If one does not get there in time.
    pub fn wait_caught_up(&self, group: Group, timeout: Duration) -> Result<(), WaitTimeout> {
        let start = Instant::now();
        let leader = self.wait_leader(group, timeout)?;
        let target = wait_for(timeout, "the leader's status", || self.status(leader).ok())?.commit;
        for node in self.nodes_of(group) {
            let what = format!("{node} to apply entry {target:?}");
            wait_for(timeout.saturating_sub(start.elapsed()), &what, || {
                self.status(node).ok().filter(|status| status.applied >= target)
            })?;
        }
        Ok(())
    }
}
