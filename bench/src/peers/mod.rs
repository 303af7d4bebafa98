//! Other stores, side by side with MadKV: started on loopback, asked the same, stopped by their handles.
//!
//! Everything is done so that a peer is shown at its best: its own defaults, its leader asked directly, clients without
//! superfluous layers. What is compared must guarantee the same: a write is on the device (of a majority, where there
//! are several nodes) before it is acknowledged, and a read is linearizable.
//!
//! - [`madkv`]: a cluster of ours.
//! - `redis`: a single Redis that syncs each write. `etcd`: a cluster of etcd, over `grpc`. Only with the feature
//!   `peers`.
//! - [`compare`]: the same load on all of them, in turns. [`failover`]: their leaders are killed.

pub mod compare;
mod comparison;
#[cfg(feature = "peers")]
mod etcd;
#[cfg(feature = "peers")]
mod etcd_failover;
pub mod failover;
#[cfg(feature = "peers")]
mod grpc;
pub mod madkv;
mod measure;
#[cfg(feature = "peers")]
pub mod redis;
mod table;

#[cfg(feature = "peers")]
use std::env;
#[cfg(feature = "peers")]
use std::path::PathBuf;

use bytes::Bytes;
use tokio::runtime::Runtime;

use madkv_testkit::measure::Trouble;

/// What installs the peers on Debian and its relatives.
#[cfg(feature = "peers")]
pub const INSTALL: &str = "apt-get install etcd-server redis-server";

/// A running store.
#[derive(Debug)]
pub enum Store {
    /// Ours.
    MadKv(Box<madkv::MadKv>),
    /// A cluster of etcd.
    #[cfg(feature = "peers")]
    Etcd(etcd::Etcd),
    /// A single Redis.
    #[cfg(feature = "peers")]
    Redis(redis::Redis),
}

/// A client's connection to a store: one request under way at a time.
pub enum Connection {
    /// The client library.
    MadKv(madkv_client::Client),
    /// A share in a connection over HTTP/2.
    #[cfg(feature = "peers")]
    Etcd(etcd::Connection),
    /// A connection of its own.
    #[cfg(feature = "peers")]
    Redis(Box<redis::Connection>),
}

impl Store {
    /// What it is called in tables.
    pub fn name(&self) -> &str {
        match self {
            Store::MadKv(store) => store.name(),
            #[cfg(feature = "peers")]
            Store::Etcd(_) => etcd::NAME,
            #[cfg(feature = "peers")]
            Store::Redis(_) => redis::NAME,
        }
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self, Store::MadKv(_))
    }

    /// One line: version, nodes, and what holds when a write is acknowledged.
    pub fn description(&self) -> &str {
        match self {
            Store::MadKv(store) => store.description(),
            #[cfg(feature = "peers")]
            Store::Etcd(store) => store.description(),
            #[cfg(feature = "peers")]
            Store::Redis(store) => store.description(),
        }
    }

    /// The numbers of its processes.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Store::MadKv(store) => store.pids(),
            #[cfg(feature = "peers")]
            Store::Etcd(store) => store.pids(),
            #[cfg(feature = "peers")]
            Store::Redis(store) => store.pids(),
        }
    }

    /// Connections for this many clients. What serves them lives on `runtime`.
    ///
    /// # Errors
    /// If the store cannot be reached.
    #[cfg_attr(not(feature = "peers"), allow(unused_variables, reason = "only peers need it"))]
    pub fn connect(&self, runtime: &Runtime, clients: usize) -> Result<Vec<Connection>, Trouble> {
        match self {
            Store::MadKv(store) => Ok(store.connect(clients)),
            #[cfg(feature = "peers")]
            Store::Etcd(store) => runtime.block_on(store.connect(clients)),
            #[cfg(feature = "peers")]
            Store::Redis(store) => runtime.block_on(store.connect(clients)),
        }
    }
}

impl Connection {
    /// Sets a value.
    ///
    /// # Errors
    /// If the store says no, or nothing.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Trouble> {
        match self {
            Connection::MadKv(client) => Ok(client.put(key, value).await.map(drop)?),
            #[cfg(feature = "peers")]
            Connection::Etcd(connection) => connection.put(key, value).await,
            #[cfg(feature = "peers")]
            Connection::Redis(connection) => connection.put(key, value).await,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the store says no, or nothing.
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Trouble> {
        match self {
            Connection::MadKv(client) => Ok(client.get(key).await?),
            #[cfg(feature = "peers")]
            Connection::Etcd(connection) => connection.get(key).await,
            #[cfg(feature = "peers")]
            Connection::Redis(connection) => connection.get(key).await,
        }
    }
}

/// Where a program of the system is.
#[cfg(feature = "peers")]
fn installed(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(all(test, feature = "peers"))]
mod tests {
    use super::*;

    #[test]
    fn installed_program_is_found_and_another_is_not() {
        assert!(installed("sh").is_some());
        assert_eq!(installed("no-such-program-anywhere"), None);
    }
}
