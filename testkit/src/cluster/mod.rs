//! All processes of a cluster on this machine.
//!
//! - `layout`: what is in it, and where it listens. `leaders`: who leads where, and waiting for that.

mod layout;
mod leaders;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::Signal;
use smr::epoch::GroupKind;

use crate::agents::{AgentPlan, Agents, end_all_of, running_with};
use crate::cluster::layout::program_of;
pub use crate::cluster::layout::{AddressOverrides, Group, Layout, Node, Origin, Port, Shape, service_of};
pub use crate::cluster::leaders::NotReady;
use crate::line_client::LineClient;
use crate::ports::Ports;
use crate::process::Process;
use crate::programs::{CLIENT, Programs};

/// How long nodes that were asked to end may take before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster, each node a process of its own; data and logs in one directory.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    directory: PathBuf,
    programs: Programs,
    nodes: BTreeMap<Node, Process>,
    overrides: AddressOverrides,
    /// What each server and manager gets besides.
    flags: Vec<OsString>,
    /// How many partitions may be added.
    room: u16,
    agents: Option<Agents>,
    _ports: Option<Ports>,
    http: Option<Ports>,
}

impl Cluster {
    /// A cluster on free ports. Starts nothing yet. `flags` go to each server and manager.
    ///
    /// # Errors
    /// If there are no free ports, or the directory cannot be made.
    pub fn on_free_ports(
        programs: &Programs,
        shape: Shape,
        directory: &Path,
        flags: &[OsString],
    ) -> io::Result<Cluster> {
        Cluster::with_room(programs, shape, 0, directory, flags)
    }

    /// The same, with ports for further partitions ([`Cluster::add_partition`]).
    ///
    /// # Errors
    /// As [`Cluster::on_free_ports`].
    pub fn with_room(
        programs: &Programs,
        shape: Shape,
        room: u16,
        directory: &Path,
        flags: &[OsString],
    ) -> io::Result<Cluster> {
        let ports = Ports::claim(2 * (shape.nodes_count() + room * shape.server_rf))?;
        let layout = Layout { shape, first_port: ports.first() };
        let mut cluster = Cluster::with_layout(programs, layout, directory, flags)?;
        (cluster._ports, cluster.room) = (Some(ports), room);
        Ok(cluster)
    }

    /// A cluster on given ports. Starts nothing yet. `flags` go to each server and manager.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn with_layout(
        programs: &Programs,
        layout: Layout,
        directory: &Path,
        flags: &[OsString],
    ) -> io::Result<Cluster> {
        Cluster::with_overrides(programs, layout, directory, flags, AddressOverrides::new())
    }

    /// The same, but whoever dials uses the overrides. This process itself always asks nodes directly.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn with_overrides(
        programs: &Programs,
        layout: Layout,
        directory: &Path,
        flags: &[OsString],
        overrides: AddressOverrides,
    ) -> io::Result<Cluster> {
        fs::create_dir_all(directory)?;
        let mut cluster = Cluster {
            layout,
            directory: directory.to_path_buf(),
            programs: programs.clone(),
            nodes: BTreeMap::new(),
            overrides,
            flags: flags.to_vec(),
            room: 0,
            agents: None,
            _ports: None,
            http: None,
        };
        layout.shape.nodes().for_each(|node| cluster.prepare(node));
        Ok(cluster)
    }

    fn prepare(&mut self, node: Node) {
        let mut arguments: Vec<OsString> = self.arguments(node).into_iter().map(OsString::from).collect();
        // This process may be killed, and then end no one.
        arguments.push("--end_with_stdin".into());
        arguments.extend(["--backer_path".into(), self.backer_path(node).into_os_string()]);
        arguments.extend(self.flags.iter().cloned());
        let log = self.directory.join(format!("{node}.log"));
        let process = Process::new(self.programs.path(program_of(node)), arguments, log).with_stdin();
        self.nodes.insert(node, process);
    }

    /// This many partitions may be added: the ports after those of the layout are free.
    pub fn leave_room(&mut self, partitions: u16) {
        self.room = partitions;
    }

    /// Where the servers of the next partition will serve clients; `None` if there is no room for one.
    pub fn next_partition(&self) -> Option<Vec<String>> {
        let partition = self.layout.shape.partitions;
        let nodes = (0..self.layout.shape.server_rf).map(|replica| Node::Server { partition, replica });
        (self.room > 0).then(|| nodes.map(|node| self.client_address(node).to_string()).collect())
    }

    /// That partition belongs to this cluster from now on. Its servers do not run yet: they can start once the managers
    /// know of it.
    ///
    /// # Panics
    /// If there is no room.
    pub fn add_partition(&mut self) -> Group {
        assert!(self.room > 0, "no ports are free for another partition");
        self.room -= 1;
        let group = Group::Partition(self.layout.shape.partitions);
        self.layout.shape.partitions += 1;
        self.nodes_of(group).for_each(|node| self.prepare(node));
        group
    }

    /// What a node is started with, up to its data directory.
    fn arguments(&self, node: Node) -> Vec<String> {
        let peers: Vec<String> = self
            .nodes_of(node.group())
            .filter(|&peer| peer != node)
            .map(|peer| self.dialled(Origin::Node(node), Port::Peers(peer)).to_string())
            .collect();
        let peers = if peers.is_empty() { "none".to_owned() } else { peers.join(",") };
        let api = self.client_address(node).to_string();
        let p2p = self.peer_address(node).to_string();
        let replica = node.replica().to_string();
        let list = match node {
            Node::Manager(_) => vec![
                ("--replica_id", replica),
                ("--man_listen", api),
                ("--p2p_listen", p2p),
                ("--peer_addrs", peers),
                ("--server_rf", self.layout.shape.server_rf.to_string()),
                ("--server_addrs", self.server_addresses_for(Origin::Clients)),
            ],
            Node::Server { partition, .. } => vec![
                ("--partition_id", partition.to_string()),
                ("--replica_id", replica),
                ("--manager_addrs", self.manager_addresses_for(Origin::Node(node))),
                ("--api_listen", api),
                ("--p2p_listen", p2p),
                ("--peer_addrs", peers),
            ],
        };
        list.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Its layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where its data and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its executables.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Its groups, the manager first.
    pub fn groups(&self) -> impl Iterator<Item = Group> + use<> {
        std::iter::once(Group::Manager).chain((0..self.layout.shape.partitions).map(Group::Partition))
    }

    /// The nodes of a group, by replica number.
    pub fn nodes_of(&self, group: Group) -> impl Iterator<Item = Node> + use<> {
        self.layout.shape.nodes().filter(move |node| node.group() == group)
    }

    /// The storage directory of a node.
    pub fn backer_path(&self, node: Node) -> PathBuf {
        self.directory.join(format!("backer.{node}"))
    }

    /// Where a node serves clients.
    pub fn client_address(&self, node: Node) -> SocketAddr {
        self.address(node, 0)
    }

    /// Where a node talks to its peers.
    pub fn peer_address(&self, node: Node) -> SocketAddr {
        self.address(node, 1)
    }

    fn address(&self, node: Node, offset: u16) -> SocketAddr {
        self.layout.address(node, offset)
    }

    /// Where someone dials a port.
    pub fn dialled(&self, origin: Origin, port: Port) -> SocketAddr {
        self.overrides.get(&(origin, port)).copied().unwrap_or_else(|| self.layout.port_address(port))
    }

    /// The addresses of all manager replicas, as the flags of clients take them.
    pub fn manager_addresses(&self) -> String {
        self.manager_addresses_for(Origin::Clients)
    }

    fn manager_addresses_for(&self, origin: Origin) -> String {
        self.address_list(origin, |node| matches!(node, Node::Manager(_)))
    }

    fn server_addresses_for(&self, origin: Origin) -> String {
        self.address_list(origin, |node| matches!(node, Node::Server { .. }))
    }

    fn address_list(&self, origin: Origin, wanted: impl Fn(Node) -> bool) -> String {
        let addresses = self.layout.shape.nodes().filter(|&node| wanted(node));
        addresses.map(|node| self.dialled(origin, Port::Api(node)).to_string()).collect::<Vec<_>>().join(",")
    }

    /// The process of a node.
    ///
    /// # Panics
    /// If the layout has no such node.
    pub fn process(&mut self, node: Node) -> &mut Process {
        self.nodes.get_mut(&node).unwrap_or_else(|| panic!("no node {node} in {:?}", self.layout))
    }

    /// All processes.
    pub fn processes(&mut self) -> impl Iterator<Item = (Node, &mut Process)> {
        self.nodes.iter_mut().map(|(&node, process)| (node, process))
    }

    /// Lets a node be a program of another build, from its next start on.
    ///
    /// # Panics
    /// If the layout has no such node.
    pub fn set_programs_of(&mut self, node: Node, programs: &Programs) {
        self.process(node).set_program(programs.path(program_of(node)));
    }

    /// Lets clients that are started from now on be those of another build.
    pub fn set_client_programs(&mut self, programs: &Programs) {
        self.programs = programs.clone();
    }

    /// Gives each server further flags, from its next start on.
    pub fn add_server_flags(&mut self, flags: &[OsString]) {
        let servers = self.nodes.iter_mut().filter(|(node, _)| matches!(node, Node::Server { .. }));
        servers.for_each(|(_, process)| process.add_arguments(flags));
    }

    /// Lets the partitions' groups be of these kinds: one for all, or one for each. Before the first start.
    pub fn set_kinds(&mut self, kinds: &[GroupKind]) {
        let all = kinds.iter().map(GroupKind::to_string).collect::<Vec<_>>().join(",");
        for (node, process) in &mut self.nodes {
            let kind = match node {
                Node::Manager(_) => Some(all.clone()),
                Node::Server { partition, .. } => {
                    kinds.get(usize::from(*partition)).or(kinds.first()).map(GroupKind::to_string)
                }
            };
            if let Some(kind) = kind {
                process.add_arguments(&["--protocol".into(), kind.into()]);
            }
        }
    }

    /// Lets each node answer HTTP on a free port, from its next start on.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn listen_for_http(&mut self) -> io::Result<()> {
        self.http = Some(Ports::claim(self.layout.shape.nodes_count())?);
        for node in self.layout.shape.nodes() {
            if let Some(address) = self.http_address(node) {
                self.process(node).add_arguments(&["--http_listen".into(), address.to_string().into()]);
            }
        }
        Ok(())
    }

    /// Where a node answers HTTP, if it does.
    pub fn http_address(&self, node: Node) -> Option<SocketAddr> {
        let port = self.http.as_ref()?.first() + self.layout.number(node);
        Some((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The numbers of all processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.values().filter_map(Process::pid).collect()
    }

    /// Holds these ports, which its nodes use, as long as it lives.
    pub fn keep_ports(&mut self, ports: Ports) {
        self._ports = Some(ports);
    }

    /// Gives each host an agent, and each server the agent of its host. Before anything is started.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn watch_by_agents(&mut self, plan: &AgentPlan) -> io::Result<()> {
        let managers = |host| self.manager_addresses_for(Origin::Agent(host));
        let agents = Agents::new(plan, &self.programs, &self.directory, managers)?;
        for (node, process) in &mut self.nodes {
            if let Node::Server { replica, .. } = node {
                let host = agents.host_of(*replica);
                process.add_arguments(&["--agent".into(), agents.address(host).to_string().into()]);
            }
        }
        self.agents = Some(agents);
        Ok(())
    }

    /// The agents of the hosts, if there are any.
    pub fn agents(&mut self) -> Option<&mut Agents> {
        self.agents.as_mut()
    }

    /// The number of the process that is a node at this moment, whoever launched it.
    pub fn pid_of(&self, node: Node) -> Option<u32> {
        running_with(self.backer_path(node).as_os_str(), &[program_of(node)]).pop()
    }

    /// Starts all that does not run.
    ///
    /// # Errors
    /// If a process cannot be created.
    pub fn start_all(&mut self) -> io::Result<()> {
        if let Some(agents) = &mut self.agents {
            agents.start_all()?;
        }
        self.nodes.values_mut().try_for_each(Process::start)
    }

    /// Kills everything at the same instant, then waits until it is gone.
    pub fn kill_all(&mut self) {
        if let Some(agents) = &mut self.agents {
            // First, for they launch what has ended.
            agents.kill_all();
        }
        self.nodes.values_mut().for_each(Process::send_kill);
        self.nodes.values_mut().for_each(Process::kill);
        if self.agents.is_some() {
            end_all_of(&self.directory, Signal::KILL);
        }
    }

    /// Asks everything to end, and kills what does not within a few seconds.
    pub fn stop_all(&mut self) {
        if let Some(agents) = &mut self.agents {
            agents.kill_all();
            end_all_of(&self.directory, Signal::TERM);
        }
        self.nodes.values_mut().for_each(Process::send_terminate);
        let start = Instant::now();
        for process in self.nodes.values_mut() {
            process.wait_end(STOP_TIMEOUT.saturating_sub(start.elapsed()));
            process.kill();
        }
    }

    /// A command-line client of this cluster, driven through pipes.
    ///
    /// # Errors
    /// If the process cannot be created.
    pub fn client(&self) -> io::Result<LineClient> {
        self.client_with(&[])
    }

    /// The same with further flags.
    ///
    /// # Errors
    /// If the process cannot be created.
    pub fn client_with(&self, flags: &[&str]) -> io::Result<LineClient> {
        let mut arguments = vec!["--manager_addrs".to_owned(), self.manager_addresses()];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        LineClient::start(&self.programs.path(CLIENT), &arguments)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(directory: &Path, shape: Shape) -> Cluster {
        let programs = Programs::at(Path::new("/nowhere"));
        Cluster::with_layout(&programs, Layout { shape, first_port: 20_000 }, directory, &[]).unwrap()
    }

    #[test]
    fn arguments_of_server_name_only_its_own_partition_as_peers() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(directory.path(), Shape { server_rf: 3, manager_rf: 1, partitions: 2 });
        let arguments = cluster.arguments(Node::Server { partition: 1, replica: 1 }).join(" ");
        assert_eq!(
            arguments,
            "--partition_id 1 --replica_id 1 --manager_addrs 127.0.0.1:20000 --api_listen 127.0.0.1:20010 \
             --p2p_listen 127.0.0.1:20011 --peer_addrs 127.0.0.1:20009,127.0.0.1:20013"
        );
    }

    #[test]
    fn arguments_of_lone_manager_name_no_peers_and_all_servers() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(directory.path(), Shape { server_rf: 1, manager_rf: 1, partitions: 2 });
        let arguments = cluster.arguments(Node::Manager(0)).join(" ");
        assert_eq!(
            arguments,
            "--replica_id 0 --man_listen 127.0.0.1:20000 --p2p_listen 127.0.0.1:20001 --peer_addrs none \
             --server_rf 1 --server_addrs 127.0.0.1:20002,127.0.0.1:20004"
        );
    }

    #[test]
    fn arguments_with_detours_lead_each_dialler_its_own_way_and_listeners_stay() {
        let directory = tempfile::tempdir().unwrap();
        let programs = Programs::at(Path::new("/nowhere"));
        let layout = Layout { shape: Shape { server_rf: 3, manager_rf: 1, partitions: 1 }, first_port: 20_000 };
        let [me, peer] = [0, 1].map(|replica| Node::Server { partition: 0, replica });
        let manager = Node::Manager(0);
        let overrides = AddressOverrides::from([
            ((Origin::Node(me), Port::Peers(peer)), "127.0.0.1:1".parse().unwrap()),
            ((Origin::Node(me), Port::Api(manager)), "127.0.0.1:2".parse().unwrap()),
            ((Origin::Clients, Port::Api(manager)), "127.0.0.1:3".parse().unwrap()),
            ((Origin::Clients, Port::Api(peer)), "127.0.0.1:4".parse().unwrap()),
        ]);
        let cluster = Cluster::with_overrides(&programs, layout, directory.path(), &[], overrides).unwrap();
        assert_eq!(
            cluster.arguments(me).join(" "),
            "--partition_id 0 --replica_id 0 --manager_addrs 127.0.0.1:2 --api_listen 127.0.0.1:20002 \
             --p2p_listen 127.0.0.1:20003 --peer_addrs 127.0.0.1:1,127.0.0.1:20007"
        );
        assert_eq!(cluster.manager_addresses(), "127.0.0.1:3");
        assert!(cluster.arguments(manager).join(" ").contains("127.0.0.1:20002,127.0.0.1:4,127.0.0.1:20006"));
    }

    #[test]
    fn start_all_missing_program_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster(directory.path(), Shape { server_rf: 1, manager_rf: 1, partitions: 1 });
        assert_eq!(cluster.start_all().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
