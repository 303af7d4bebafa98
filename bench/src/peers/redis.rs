//! A single Redis that syncs each write.
//!
//! Commands and answers are those of the crate `redis`, the socket is ours: the crate's own connections hand each
//! request to a task and its answer back, for many to share one. Here each client has a connection of its own, and
//! Redis is shown at its best without these two hand-overs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use redis::{Value, parse_redis_value_async};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::peers::{self, installed};
use madkv_testkit::measure::Trouble;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::wait::wait_for;

/// What it is called in tables.
pub const NAME: &str = "redis";
/// Its program.
const PROGRAM: &str = "redis-server";
/// How long it may take to listen.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for a command in a fresh buffer, in bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
    description: String,
    _ports: Ports,
}

impl Redis {
    /// Starts it, with its data in `directory`; `None` if it is not installed.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(directory: &Path) -> Result<Option<Redis>, Trouble> {
        let Some(program) = installed(PROGRAM) else { return Ok(None) };
        std::fs::create_dir_all(directory)?;
        let version = Command::new(&program).arg("--version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let version = version.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("?");
        let ports = Ports::claim(1)?;
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, ports.first()).into();
        let port = address.port().to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always"];
        let mut arguments: Vec<_> = arguments.map(Into::into).into();
        // No snapshots beside the log: they would only cost it.
        arguments.extend(["--save".into(), "".into(), "--dir".into(), directory.as_os_str().to_owned()]);
        let mut process = Process::new(program, arguments, directory.join("redis.log"));
        process.start()?;
        wait_for(READY_TIMEOUT, "redis to listen", || std::net::TcpStream::connect(address).ok())
            .map_err(|error| format!("{error}:\n{}", process.log_tail()))?;
        let description = format!("{version}, 1 node (no replication), appendonly yes, appendfsync always");
        Ok(Some(Redis { process, address, description, _ports: ports }))
    }

    pub(super) fn description(&self) -> &str {
        &self.description
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.process.pid().into_iter().collect()
    }

    pub(super) async fn connect(&self, clients: usize) -> Result<Vec<peers::Connection>, Trouble> {
        let mut connections = Vec::with_capacity(clients);
        for _ in 0..clients {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let output = Vec::with_capacity(BUFFER_BYTES);
            connections.push(peers::Connection::Redis(Box::new(Connection { stream, output })));
        }
        Ok(connections)
    }
}

/// A connection of its own for each client, as Redis clients do.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    output: Vec<u8>,
}

impl Connection {
    /// Sets a value.
    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Trouble> {
        match self.call(redis::cmd("SET").arg(key).arg(value)).await? {
            Value::Okay => Ok(()),
            other => Err(format!("redis answered SET with {other:?}").into()),
        }
    }

    /// The value of a key.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Trouble> {
        match self.call(redis::cmd("GET").arg(key)).await? {
            Value::BulkString(value) => Ok(Some(value.into())),
            Value::Nil => Ok(None),
            other => Err(format!("redis answered GET with {other:?}").into()),
        }
    }

    async fn call(&mut self, command: &redis::Cmd) -> Result<Value, Trouble> {
        self.output.clear();
        command.write_packed_command(&mut self.output);
        self.stream.write_all(&self.output).await?;
        // A fresh one each time: with one request under way, nothing is read beyond its answer.
        Ok(parse_redis_value_async(&mut Default::default(), &mut self.stream).await?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connection_takes_answers_that_arrive_byte_by_byte_and_no_others() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut connection = Connection { stream, output: Vec::new() };
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let set = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n";
            let get = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
            for (command, answer) in [
                (set, "+OK\r\n"),
                (get, "$3\r\na\r\n\r\n"),
                (get, "$-1\r\n"),
                (set, "-ERR no\r\n"),
                (get, "+OK\r\n"),
                (get, "?\r\n"),
            ] {
                let mut received = vec![0; command.len()];
                stream.read_exact(&mut received).await.unwrap();
                assert_eq!(received, command.as_bytes());
                for byte in answer.as_bytes() {
                    stream.write_all(&[*byte]).await.unwrap();
                }
            }
        });
        connection.put(b"k", b"").await.unwrap();
        assert_eq!(connection.get(b"k").await.unwrap().as_deref(), Some(&b"a\r\n"[..]));
        assert_eq!(connection.get(b"k").await.unwrap(), None);
        let refused = connection.put(b"k", b"").await.unwrap_err().to_string();
        assert!(refused.contains("SET"), "{refused}");
        assert!(connection.get(b"k").await.is_err());
        assert!(connection.get(b"k").await.is_err());
        server.await.unwrap();
    }
}
