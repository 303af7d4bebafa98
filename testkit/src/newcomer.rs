//! A replica that a cluster's layout does not have: it joins while everything runs.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;

use crate::cluster::{Cluster, Group};
use crate::launcher::sync_flags;
use crate::process::Process;
use crate::programs::SERVER;

/// Starts a replica of a partition with `--join` on an empty directory of the cluster's, named `name`, which asks the
/// partition's first replicas. `api` and `p2p` are free: where it serves clients, and where its peers reach it.
///
/// # Errors
/// If the process cannot be started.
pub fn start(
    cluster: &Cluster,
    (partition, replica): (u16, u16),
    (api, p2p): (SocketAddr, SocketAddr),
    name: &str,
) -> io::Result<Process> {
    let others = cluster.nodes_of(Group::Partition(partition)).filter(|node| node.replica() != replica);
    let peers = others.map(|node| cluster.peer_address(node).to_string());
    let mut arguments: Vec<OsString> = [
        "--partition_id",
        &partition.to_string(),
        "--replica_id",
        &replica.to_string(),
        "--manager_addrs",
        &cluster.manager_addresses(),
        "--api_listen",
        &api.to_string(),
        "--p2p_listen",
        &p2p.to_string(),
        "--peer_addrs",
        &peers.collect::<Vec<_>>().join(","),
        "--join",
        "--advertise",
        &format!("{api},{p2p}"),
        "--end_with_stdin",
        "--backer_path",
    ]
    .map(Into::into)
    .into();
    arguments.push(cluster.directory().join(name).into());
    arguments.extend(sync_flags(cluster.directory()));
    let log = cluster.directory().join(format!("{name}.log"));
    let mut process = Process::new(cluster.programs().path(SERVER), arguments, log).with_stdin();
    process.start()?;
    Ok(process)
}
