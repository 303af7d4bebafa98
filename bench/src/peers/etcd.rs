//! A cluster of etcd: three nodes with their defaults, asked at the leader, which is where etcd is fastest.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Uri;

use crate::peers::grpc::{Channel, bytes_of, fields, number_of, put_bytes};
use crate::peers::{self, installed};
use madkv_testkit::measure::Trouble;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;

/// What it is called in tables.
pub(super) const NAME: &str = "etcd";
/// Its program.
const PROGRAM: &str = "etcd";
/// How long it may take to have a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to pause between two looks for a leader, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10;
/// How long a node may take to describe itself.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// Beyond this size of its database etcd refuses writes: more than its default, so that long runs end well, in bytes.
const QUOTA_BYTES: u64 = 8 << 30;

/// How many nodes, and how many clients share a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) nodes: u16,
    pub(super) connections_max: usize,
}

/// A running cluster.
#[derive(Debug)]
pub struct Etcd {
    nodes: Vec<(SocketAddr, Process)>,
    connections_max: usize,
    description: String,
    _ports: Ports,
}

impl Etcd {
    /// Starts it, with its data in `directory`; `None` if it is not installed.
    pub(super) async fn start(wanted: Wanted, directory: &Path) -> Result<Option<Etcd>, Trouble> {
        let Some(program) = installed(PROGRAM) else { return Ok(None) };
        std::fs::create_dir_all(directory)?;
        let version = Command::new(&program).arg("--version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let version = version.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap_or("?").to_owned();
        let ports = Ports::claim(2 * wanted.nodes)?;
        let port = |number: u16, offset: u16| ports.first() + 2 * number + offset;
        let url = |number: u16, offset: u16| format!("http://127.0.0.1:{}", port(number, offset));
        let cluster: Vec<String> = (0..wanted.nodes).map(|number| format!("n{number}={}", url(number, 1))).collect();
        let nodes = (0..wanted.nodes).map(|number| {
            let process = node(&program, directory, number, &url(number, 0), &url(number, 1), &cluster.join(","));
            ((Ipv4Addr::LOCALHOST, port(number, 0)).into(), process)
        });
        let mut etcd = Etcd {
            nodes: nodes.collect(),
            connections_max: wanted.connections_max,
            description: format!(
                "{version}, {} nodes, defaults (fdatasync before each acknowledgement), asked at the leader, \
                 gRPC over at most {} HTTP/2 connections",
                wanted.nodes, wanted.connections_max
            ),
            _ports: ports,
        };
        etcd.nodes.iter_mut().try_for_each(|(_, process)| process.start())?;
        if let Err(error) = etcd.wait_leader(READY_TIMEOUT).await {
            let logs: Vec<String> = etcd.nodes.iter().map(|(_, process)| process.log_tail()).collect();
            return Err(format!("{error}:\n{}", logs.join("\n")).into());
        }
        Ok(Some(etcd))
    }

    pub(super) fn description(&self) -> &str {
        &self.description
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|(_, process)| process.pid()).collect()
    }

    /// Where its nodes serve clients.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|(address, _)| *address).collect()
    }

    /// The process of a node.
    pub(super) fn process(&mut self, node: usize) -> &mut Process {
        &mut self.nodes[node].1
    }

    /// Waits until each node follows a leader.
    pub(super) async fn wait_whole(&self, timeout: Duration) -> Result<(), Trouble> {
        let start = Instant::now();
        for (address, _) in &self.nodes {
            while !matches!(tokio::time::timeout(STATUS_TIMEOUT, leader_of(*address)).await, Ok(Ok((_, Some(_), _)))) {
                if start.elapsed() > timeout {
                    return Err(format!("etcd's node at {address} does not come back").into());
                }
                tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
            }
        }
        Ok(())
    }

    /// Which node leads: of those that say so, the one with the highest term.
    pub(super) async fn leader(&self) -> Option<usize> {
        let mut best = None;
        for (number, (address, _)) in self.nodes.iter().enumerate() {
            let answer = tokio::time::timeout(STATUS_TIMEOUT, leads(*address)).await;
            if let Ok(Ok(Some(term))) = answer {
                best = best.max(Some((term, number)));
            }
        }
        best.map(|(_, number)| number)
    }

    /// Waits until a node leads.
    pub(super) async fn wait_leader(&self, timeout: Duration) -> Result<usize, Trouble> {
        let start = Instant::now();
        loop {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            if start.elapsed() > timeout {
                return Err("etcd has no leader".into());
            }
            tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
        }
    }

    pub(super) async fn connect(&self, clients: usize) -> Result<Vec<peers::Connection>, Trouble> {
        let leader = self.wait_leader(READY_TIMEOUT).await?;
        let (address, _) = self.nodes[leader];
        let mut channels = Vec::new();
        for _ in 0..clients.min(self.connections_max) {
            channels.push(Connection::new(address).await?);
        }
        Ok((0..clients).map(|client| peers::Connection::Etcd(channels[client % channels.len()].clone())).collect())
    }
}

fn node(program: &Path, directory: &Path, number: u16, client: &str, peer: &str, cluster: &str) -> Process {
    let data: PathBuf = directory.join(format!("n{number}"));
    let quota = QUOTA_BYTES.to_string();
    let name = format!("n{number}");
    let arguments = [
        ("--name", name.as_str()),
        ("--listen-client-urls", client),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", cluster),
        ("--initial-cluster-state", "new"),
        ("--quota-backend-bytes", &quota),
        // Its chatter on stderr is no part of the measurement.
        ("--log-level", "error"),
        ("--logger", "zap"),
    ];
    let mut arguments: Vec<OsString> =
        arguments.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]).collect();
    arguments.extend(["--data-dir".into(), data.into_os_string()]);
    Process::new(program.to_path_buf(), arguments, directory.join(format!("n{number}.log")))
}

/// The term in which a node leads, if it does.
async fn leads(address: SocketAddr) -> Result<Option<u64>, Trouble> {
    let (me, leader, term) = leader_of(address).await?;
    Ok((Some(me) == leader).then_some(term))
}

/// A node's own number, that of its leader if it has one, and its term.
async fn leader_of(address: SocketAddr) -> Result<(u64, Option<u64>, u64), Trouble> {
    let mut channel = Channel::connect(address).await?;
    let method = method(address, "Maintenance/Status")?;
    // StatusResponse: header 1 (of it member_id 2), leader 4, raftTerm 6.
    let status = fields(channel.call(&method, &BytesMut::new()).await?)?;
    let header = fields(bytes_of(&status, 1).ok_or("a status without a header")?)?;
    let leader = Some(number_of(&status, 4)).filter(|&leader| leader != 0);
    Ok((number_of(&header, 2), leader, number_of(&status, 6)))
}

fn method(address: SocketAddr, name: &str) -> Result<Uri, Trouble> {
    Ok(format!("http://{address}/etcdserverpb.{name}").parse()?)
}

/// A share in a connection.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    put: Uri,
    range: Uri,
}

impl Connection {
    pub(super) async fn new(address: SocketAddr) -> Result<Connection, Trouble> {
        let channel = Channel::connect(address).await?;
        Ok(Connection { channel, put: method(address, "KV/Put")?, range: method(address, "KV/Range")? })
    }

    /// Sets a value.
    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Trouble> {
        // PutRequest: key 1, value 2.
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        put_bytes(&mut message, 1, key);
        put_bytes(&mut message, 2, value);
        self.channel.call(&self.put, &message).await.map(drop)
    }

    /// The value of a key; linearizable, which is the default.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Trouble> {
        // RangeRequest: key 1. RangeResponse: kvs 2, of it value 5.
        let mut message = BytesMut::with_capacity(key.len() + 8);
        put_bytes(&mut message, 1, key);
        let answer = fields(self.channel.call(&self.range, &message).await?)?;
        let Some(record) = bytes_of(&answer, 2) else { return Ok(None) };
        Ok(Some(bytes_of(&fields(record)?, 5).unwrap_or_default()))
    }
}
