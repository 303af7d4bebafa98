//! The network of a cluster: every connection between two processes goes over a link of the proxy.
//!
//! One link for each directed pair of peers, for each server and manager, and before each port that clients use. The
//! harness itself asks nodes directly, so it sees a replica that is cut off from everyone else.
//!
//! Who a replica is does not depend on its address: peers are told apart by their handshake, and the map names servers
//! by `--server_addrs`. So the production code needs nothing for this.

use std::collections::BTreeMap;
use std::io;

use crate::cluster::{AddressOverrides, Layout, Node, Origin, Port};
use crate::proxy::{Flow, LinkId, Proxy, Replayed, Rules};

/// Which way a connection is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Who opens the connection.
    pub from: Origin,
    /// What is dialled.
    pub to: Port,
}

impl Way {
    /// From a node to a peer of its group.
    pub fn peers(from: Node, to: Node) -> Way {
        Way { from: Origin::Node(from), to: Port::Peers(to) }
    }

    /// From clients to a node.
    pub fn clients(to: Node) -> Way {
        Way { from: Origin::Clients, to: Port::Api(to) }
    }

    /// From a server to a manager.
    pub fn manager(from: Node, to: Node) -> Way {
        Way { from: Origin::Node(from), to: Port::Api(to) }
    }
}

/// The links of a cluster.
#[derive(Debug)]
pub struct Network {
    proxy: Proxy,
    links: BTreeMap<Way, LinkId>,
}

impl Network {
    /// Links for all connections of a cluster of this layout.
    ///
    /// # Errors
    /// If the system refuses ports or threads.
    pub fn new(layout: Layout, seed: u64) -> io::Result<Network> {
        let mut network = Network::between_nodes(layout, seed)?;
        for node in layout.shape.nodes() {
            network.add(layout, Way::clients(node))?;
        }
        Ok(network)
    }

    /// Links for the connections between nodes. Clients, and the map, name the nodes' own ports.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn between_nodes(layout: Layout, seed: u64) -> io::Result<Network> {
        let mut network = Network { proxy: Proxy::start(seed)?, links: BTreeMap::new() };
        let nodes: Vec<Node> = layout.shape.nodes().collect();
        for &from in &nodes {
            for &to in nodes.iter().filter(|&&to| to != from) {
                if from.group() == to.group() {
                    network.add(layout, Way::peers(from, to))?;
                } else if matches!((from, to), (Node::Server { .. }, Node::Manager(_))) {
                    network.add(layout, Way::manager(from, to))?;
                }
            }
        }
        Ok(network)
    }

    /// Links from the agents of this many hosts to the managers.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_agents(mut self, layout: Layout, hosts: u16) -> io::Result<Network> {
        for host in 0..hosts {
            for node in layout.shape.nodes().filter(|node| matches!(node, Node::Manager(_))) {
                self.add(layout, Way { from: Origin::Agent(host), to: Port::Api(node) })?;
            }
        }
        Ok(self)
    }

    /// Cuts a host with its agent and these servers off from everyone else, silently.
    pub fn cut_off(&self, host: u16, servers: &[Node]) {
        let is_in = |origin: Origin| match origin {
            Origin::Node(node) => servers.contains(&node),
            Origin::Agent(agent) => agent == host,
            Origin::Clients => false,
        };
        let leads_in = |port: Port| match port {
            Port::Api(node) | Port::Peers(node) => servers.contains(&node),
        };
        for way in self.ways().filter(|way| is_in(way.from) != leads_in(way.to)) {
            self.set(way, Rules::silent());
        }
    }

    fn add(&mut self, layout: Layout, way: Way) -> io::Result<()> {
        let link = self.proxy.link(layout.port_address(way.to))?;
        self.links.insert(way, link);
        Ok(())
    }

    /// What the processes are told to dial.
    pub fn overrides(&self) -> AddressOverrides {
        self.links.iter().map(|(way, &link)| ((way.from, way.to), self.proxy.address(link))).collect()
    }

    /// The proxy, and a link of it.
    ///
    /// # Panics
    /// If the cluster has no such way.
    pub fn link(&self, way: Way) -> (&Proxy, LinkId) {
        let link = self.links.get(&way).unwrap_or_else(|| panic!("no way {way:?}"));
        (&self.proxy, *link)
    }

    /// Each way on which there is a proxy.
    pub fn ways(&self) -> impl Iterator<Item = Way> {
        self.links.keys().copied()
    }

    /// Changes how a way behaves.
    pub fn set(&self, way: Way, rules: Rules) {
        let (proxy, link) = self.link(way);
        proxy.set(link, rules);
    }

    /// Cuts everything that `from` would send to its peer `to`, silently: what it says on its own connection, and what
    /// it answers on the other's.
    pub fn silence(&self, from: Node, to: Node) {
        let change = |way: Way, change: fn(&mut Rules)| {
            let (proxy, link) = self.link(way);
            let mut rules = proxy.rules(link);
            change(&mut rules);
            proxy.set(link, rules);
        };
        change(Way::peers(from, to), |rules| rules.forward = Flow::Hold);
        change(Way::peers(to, from), |rules| rules.backward = Flow::Hold);
    }

    /// The ways between two peers, both.
    pub fn between(one: Node, other: Node) -> [Way; 2] {
        [Way::peers(one, other), Way::peers(other, one)]
    }

    /// Everything passes again. Connections that were held go on where they were, as they do when a real network heals.
    pub fn heal(&self) {
        for &link in self.links.values() {
            self.proxy.set(link, Rules::default());
        }
    }

    /// Resets all connections of a way.
    pub fn reset(&self, way: Way) {
        let (proxy, link) = self.link(way);
        proxy.reset(link);
    }

    /// Sends the beginning of an old connection of a way again, see [`Proxy::replay`].
    ///
    /// # Errors
    /// If there was none, or the target cannot be reached.
    pub fn replay(&self, way: Way) -> io::Result<Replayed> {
        let (proxy, link) = self.link(way);
        proxy.replay(link)
    }
}
