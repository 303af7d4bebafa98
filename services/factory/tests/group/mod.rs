//! A group of real factories on loopback ports, and clients of it.

#![allow(dead_code, reason = "the tests and the demonstration use a part each")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use madkv_testkit::launcher::sync_flags;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::wait::wait_for;
use tempfile::TempDir;

/// How long anything may take that must happen in the end.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// What a client printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// Last index, committed index and primary of a server, as a client shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indexes {
    pub(crate) last: u64,
    pub(crate) committed: u64,
    pub(crate) primary: i64,
}

/// The group.
pub(crate) struct Group {
    pub(crate) servers: Vec<Process>,
    /// The manager, if the group is under one.
    pub(crate) manager: Option<Process>,
    /// What each client is told besides.
    pub(crate) client_flags: Vec<String>,
    ports: Ports,
    pub(crate) directory: TempDir,
    client: PathBuf,
    clients: u32,
}

/// Runs a client to its end.
fn ran(command: &mut Command) -> io::Result<Ran> {
    let Output { status, stdout, stderr } = command.output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { stdout: text(stdout), stderr: text(stderr), code: status.code() })
}

/// The command line of a server.
fn server_line(directory: &Path, first_port: u16, servers: u16, id: u16) -> Vec<String> {
    let mut line = vec![(first_port + id).to_string(), id.to_string(), (servers - 1).to_string()];
    for peer in (0..servers).filter(|&peer| peer != id) {
        line.extend([peer.to_string(), "127.0.0.1".to_owned(), (first_port + peer).to_string()]);
    }
    let backer = directory.join(format!("server.{id}"));
    line.extend(["--backer_path".to_owned(), backer.display().to_string()]);
    line.extend(["--listen_host", "127.0.0.1", "--end_with_stdin"].map(str::to_owned));
    line
}

impl Group {
    /// A group of which nothing runs yet.
    pub(crate) fn new(servers: u16, server: &Path, client: &Path) -> io::Result<Group> {
        let directory = tempfile::tempdir()?;
        let ports = Ports::claim(servers)?;
        let first = ports.first();
        let processes = (0..servers).map(|id| {
            let line = server_line(directory.path(), first, servers, id);
            let log = directory.path().join(format!("server.{id}.log"));
            let line = line.into_iter().map(OsString::from).collect();
            Process::new(server.to_path_buf(), line, log).with_stdin()
        });
        let servers = processes.collect();
        let (client, client_flags) = (client.to_path_buf(), Vec::new());
        Ok(Group { servers, manager: None, client_flags, ports, directory, client, clients: 0 })
    }

    /// A group of this kind under a manager, which runs; its clients know that, too. In the manager's layout it is this
    /// partition; of one before it no server runs.
    pub(crate) fn under_manager(
        (kind, partition): (&str, u16),
        servers: u16,
        [server, client, manager]: [&Path; 3],
        manager_flags: &[&str],
    ) -> io::Result<Group> {
        let mut group = Group::new(servers, server, client)?;
        // Those of the customers, those of the replicas, two of the manager, and those of which no one listens.
        group.ports = Ports::claim((2 + partition) * servers + 2)?;
        let first = group.ports.first();
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let (listen, p2p) = (loopback(first + 2 * servers), loopback(first + 2 * servers + 1));
        let sync = sync_flags(group.directory.path());
        let unused = (0..partition * servers).map(|unused| loopback(first + 2 * servers + 2 + unused));
        let addresses = unused.chain((0..servers).map(|id| loopback(first + id))).collect::<Vec<_>>().join(",");
        let of_layout = ["--managers", &listen, "--partition_id", &partition.to_string()].map(str::to_owned);
        let (size, backer) = (servers.to_string(), group.directory.path().join("manager").display().to_string());
        let line = [
            ["--replica_id", "0"],
            ["--man_listen", &listen],
            ["--p2p_listen", &p2p],
            ["--peer_addrs", "none"],
            ["--server_rf", &size],
            ["--protocol", kind],
            ["--server_addrs", &addresses],
            ["--backer_path", &backer],
        ];
        let line = line.iter().flatten().chain(manager_flags).chain(&["--end_with_stdin"]).map(OsString::from);
        let log = group.directory.path().join("manager.log");
        let line = line.chain(sync.iter().cloned()).collect();
        let mut process = Process::new(manager.to_path_buf(), line, log).with_stdin();
        process.start()?;
        group.manager = Some(process);
        group.client_flags = of_layout.to_vec();
        for id in 0..servers {
            let mut line = server_line(group.directory.path(), first, servers, id);
            line.extend(of_layout.clone().into_iter().chain(["--p2p_offset", &size].map(str::to_owned)));
            let line = line.into_iter().map(OsString::from).chain(sync.iter().cloned()).collect();
            let log = group.directory.path().join(format!("server.{id}.log"));
            group.servers[usize::from(id)] = Process::new(server.to_path_buf(), line, log).with_stdin();
            group.start_server(id)?;
        }
        Ok(group)
    }

    /// A group that runs, and takes connections.
    pub(crate) fn start(servers: u16, server: &Path, client: &Path) -> io::Result<Group> {
        let mut group = Group::new(servers, server, client)?;
        for id in 0..servers {
            group.start_server(id)?;
        }
        Ok(group)
    }

    pub(crate) fn port(&self, id: u16) -> u16 {
        self.ports.first() + id
    }

    pub(crate) fn server(&mut self, id: u16) -> &mut Process {
        &mut self.servers[usize::from(id)]
    }

    /// Starts a server and waits until it listens.
    pub(crate) fn start_server(&mut self, id: u16) -> io::Result<()> {
        let port = self.port(id);
        self.server(id).start()?;
        let server = self.server(id);
        wait_for(TIMEOUT, &format!("server {id} to listen"), || std::net::TcpStream::connect(("127.0.0.1", port)).ok())
            .map(drop)
            .map_err(|error| io::Error::other(format!("{error}: {}", server.log_tail())))
    }

    pub(crate) fn kill(&mut self, id: u16) {
        self.server(id).kill();
    }

    fn command(&self, id: u16, rest: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["127.0.0.1", &self.port(id).to_string()]).args(rest).stdin(Stdio::null());
        command
    }

    /// Runs a client of server `id` to its end.
    pub(crate) fn client(&self, id: u16, rest: &[&str]) -> io::Result<Ran> {
        ran(self.command(id, rest).args(&self.client_flags))
    }

    /// Starts a client of server `id`, its output in a log.
    pub(crate) fn client_process(&mut self, id: u16, rest: &[&str]) -> io::Result<Process> {
        self.clients += 1;
        let log = self.directory.path().join(format!("client.{}.log", self.clients));
        let port = self.port(id).to_string();
        let line = ["127.0.0.1", &port].into_iter().chain(rest.iter().copied());
        let line = line.chain(self.client_flags.iter().map(String::as_str)).map(OsString::from).collect();
        let mut process = Process::new(self.client.clone(), line, log);
        process.start()?;
        Ok(process)
    }

    /// Orders of customers at server `id`, all of which must be acknowledged.
    pub(crate) fn order(&self, id: u16, customers: u32, orders: u32, flags: &[&str]) -> io::Result<()> {
        let (customers, orders) = (customers.to_string(), orders.to_string());
        let ran = self.client(id, &[&[&customers, &orders, "1"], flags].concat())?;
        if ran.code == Some(0) && ran.stderr.is_empty() { Ok(()) } else { Err(io::Error::other(ran.stderr)) }
    }

    /// The records of server `id`, of no other one, as type 3 prints them.
    pub(crate) fn scan(&self, id: u16, last_customer: u32, flags: &[&str]) -> io::Result<Ran> {
        ran(&mut self.command(id, &[&["1", &last_customer.to_string(), "3"], flags].concat()))
    }

    /// The same, by customer.
    pub(crate) fn records(&self, id: u16, last_customer: u32, flags: &[&str]) -> io::Result<BTreeMap<i32, i32>> {
        let ran = self.scan(id, last_customer, flags)?;
        let lines = ran.stdout.lines().map(|line| {
            let (customer, order) = line.split_once('\t')?;
            Some((customer.parse().ok()?, order.parse().ok()?))
        });
        lines.collect::<Option<_>>().ok_or_else(|| io::Error::other(format!("no records: {}", ran.stdout)))
    }

    pub(crate) fn indexes(&self, id: u16) -> io::Result<Indexes> {
        let ran = self.scan(id, 0, &[])?;
        let numbers: Vec<i64> = ran
            .stderr
            .split(|letter: char| !letter.is_ascii_digit() && letter != '-')
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [last, committed, primary] => Ok(Indexes { last: last as u64, committed: committed as u64, primary }),
            _ => Err(io::Error::other(format!("no indexes: {}", ran.stderr))),
        }
    }

    /// Waits until server `id` shows these indexes.
    pub(crate) fn wait_indexes(&self, id: u16, expected: Indexes) -> io::Result<()> {
        let mut last = None;
        let found = wait_for(TIMEOUT, "indexes", || {
            last = self.indexes(id).ok();
            (last == Some(expected)).then_some(())
        });
        found.map_err(|error| io::Error::other(format!("server {id}: {error}: {last:?}, not {expected:?}")))
    }
}

/// The acknowledged orders in a file that a client wrote: customer, order, index.
pub(crate) fn acknowledged(path: &Path) -> Vec<(i32, i32, u64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split('\t').collect();
        let [customer, order, index] = words[..] else { return None };
        Some((customer.parse().ok()?, order.parse().ok()?, index.parse().ok()?))
    });
    lines.collect()
}
