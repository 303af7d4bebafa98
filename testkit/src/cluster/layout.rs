//! What is in a cluster, and where it listens.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use madkv_proto::frames::Service;
use serde::{Deserialize, Serialize};
use smr::epoch::GroupKind;

use crate::programs::{MANAGER, SERVER};

/// How many of what; also as flags of a program that launches a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Args)]
pub struct Shape {
    /// Replicas of each partition
    #[arg(long = "server_rf", alias = "server-rf", default_value_t = 3)]
    pub server_rf: u16,
    /// Replicas of the manager
    #[arg(long = "manager_rf", alias = "manager-rf", default_value_t = 3)]
    pub manager_rf: u16,
    /// Partitions
    #[arg(long, default_value_t = 1)]
    pub partitions: u16,
}

impl Shape {
    /// Whether there can be such a cluster.
    ///
    /// # Errors
    /// A line that says what is possible.
    pub fn check(self) -> Result<(), String> {
        self.check_for(&[GroupKind::Raft])
    }

    /// The same, with partitions' groups of these kinds.
    ///
    /// # Errors
    /// A line that says what is possible.
    pub fn check_for(self, kinds: &[GroupKind]) -> Result<(), String> {
        let is_odd = |factor| matches!(factor, 1 | 3 | 5 | 7 | 9);
        if !is_odd(self.manager_rf) {
            return Err(format!("--manager_rf {}: 1, 3, 5, 7 and 9 are possible", self.manager_rf));
        }
        if kinds.contains(&GroupKind::Raft) && !is_odd(self.server_rf) {
            return Err(format!("--server_rf {}: 1, 3, 5, 7 and 9 are possible", self.server_rf));
        }
        if !(1..=9).contains(&self.server_rf) {
            return Err(format!("--server_rf {}: 1 to 9 are possible", self.server_rf));
        }
        if kinds.len() != 1 && kinds.len() != usize::from(self.partitions) {
            let (kinds, partitions) = (kinds.len(), self.partitions);
            return Err(format!("--protocol: {kinds} kinds for {partitions} partitions"));
        }
        if !(1..=50).contains(&self.partitions) {
            return Err(format!("--partitions {}: 1 to 50 are possible", self.partitions));
        }
        Ok(())
    }

    /// All its nodes, managers first.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        let managers = (0..self.manager_rf).map(Node::Manager);
        let servers = (0..self.partitions)
            .flat_map(move |partition| (0..self.server_rf).map(move |replica| Node::Server { partition, replica }));
        managers.chain(servers)
    }

    /// How many nodes there are.
    pub fn nodes_count(self) -> u16 {
        self.manager_rf + self.partitions * self.server_rf
    }
}

/// A shape with its ports: two for each node, one for clients and one for peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// How many of what.
    pub shape: Shape,
    /// The first of the ports.
    pub first_port: u16,
}

impl Layout {
    /// Where a port of a node is.
    pub fn port_address(self, port: Port) -> SocketAddr {
        match port {
            Port::Api(node) => self.address(node, 0),
            Port::Peers(node) => self.address(node, 1),
        }
    }

    pub(super) fn address(self, node: Node, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first_port + 2 * self.number(node) + offset).into()
    }

    /// The place of a node among all of them.
    pub(super) fn number(self, node: Node) -> u16 {
        match node {
            Node::Manager(replica) => replica,
            Node::Server { partition, replica } => self.shape.manager_rf + partition * self.shape.server_rf + replica,
        }
    }
}

/// A process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Manager replica `m.X`.
    Manager(u16),
    /// Replica Y of partition X, `sX.Y`.
    Server {
        /// X.
        partition: u16,
        /// Y.
        replica: u16,
    },
}

/// A group of replicas with a leader of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The manager.
    Manager,
    /// A partition.
    Partition(u16),
}

impl Node {
    /// Its group.
    pub fn group(self) -> Group {
        match self {
            Node::Manager(_) => Group::Manager,
            Node::Server { partition, .. } => Group::Partition(partition),
        }
    }

    /// Its number in its group.
    pub fn replica(self) -> u16 {
        match self {
            Node::Manager(replica) | Node::Server { replica, .. } => replica,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Manager(replica) => write!(f, "m.{replica}"),
            Node::Server { partition, replica } => write!(f, "s{partition}.{replica}"),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Manager => write!(f, "manager"),
            Group::Partition(partition) => write!(f, "partition {partition}"),
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A node.
    Node(Node),
    /// All clients.
    Clients,
    /// The agent of a host.
    Agent(u16),
}

/// A port of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// The one for clients, and for servers if the node is a manager.
    Api(Node),
    /// The one for its peers.
    Peers(Node),
}

/// Where to dial instead of a node's own port: a proxy's listener. What is not in it is dialled itself.
pub type AddressOverrides = BTreeMap<(Origin, Port), SocketAddr>;

/// The executable that a node runs.
pub(super) fn program_of(node: Node) -> &'static str {
    if matches!(node, Node::Manager(_)) { MANAGER } else { SERVER }
}

/// What the node serves.
pub fn service_of(node: Node) -> Service {
    match node {
        Node::Manager(_) => Service::Manager,
        Node::Server { partition, .. } => Service::Server { partition },
    }
}
