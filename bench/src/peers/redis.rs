//! A single Redis that syncs each write, and its protocol (RESP 2), as much of it as SET and GET need.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
/// The largest answer that we take, in bytes.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// Room for an answer in a fresh buffer, in bytes.
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
            let (input, output) = (BytesMut::with_capacity(BUFFER_BYTES), Vec::with_capacity(BUFFER_BYTES));
            connections.push(peers::Connection::Redis(Box::new(Connection { stream, input, output })));
        }
        Ok(connections)
    }
}

/// A connection of its own for each client, as Redis clients do.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Simple(Bytes),
    Error(Bytes),
    Bulk(Option<Bytes>),
}

impl Connection {
    /// Sets a value.
    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Trouble> {
        match self.call(&[b"SET", key, value]).await? {
            Reply::Simple(text) if &text[..] == b"OK" => Ok(()),
            other => Err(format!("redis answered SET with {other:?}").into()),
        }
    }

    /// The value of a key.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Trouble> {
        match self.call(&[b"GET", key]).await? {
            Reply::Bulk(value) => Ok(value),
            other => Err(format!("redis answered GET with {other:?}").into()),
        }
    }

    async fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        encode(words, &mut self.output);
        self.stream.write_all(&self.output).await?;
        loop {
            if let Some(reply) = parse(&mut self.input)? {
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// An array of bulk strings.
fn encode(words: &[&[u8]], output: &mut Vec<u8>) {
    output.clear();
    output.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        output.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        output.extend_from_slice(word);
        output.extend_from_slice(b"\r\n");
    }
}

/// Takes one answer off the input, if it is there as a whole.
fn parse(input: &mut BytesMut) -> io::Result<Option<Reply>> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("from redis: {what}"));
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let (kind, line) = input[..end].split_first().ok_or_else(|| malformed("an empty line"))?;
    match kind {
        b'+' | b'-' => {
            let is_error = *kind == b'-';
            let text = input.split_to(end).freeze().slice(1..);
            input.advance(2);
            Ok(Some(if is_error { Reply::Error(text) } else { Reply::Simple(text) }))
        }
        b'$' => {
            let length: i64 = std::str::from_utf8(line)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| malformed("a length"))?;
            let Ok(length) = usize::try_from(length) else {
                input.advance(end + 2);
                return Ok(Some(Reply::Bulk(None)));
            };
            if length > ANSWER_MAX_BYTES {
                return Err(malformed("an answer beyond all bounds"));
            }
            if input.len() < end + 2 + length + 2 {
                return Ok(None);
            }
            input.advance(end + 2);
            let value = input.split_to(length).freeze();
            input.advance(2);
            Ok(Some(Reply::Bulk(Some(value))))
        }
        _ => Err(malformed("an answer of another kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_words_are_bulk_strings() {
        let mut output = Vec::new();
        encode(&[b"SET", b"k", b""], &mut output);
        assert_eq!(output, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    #[test]
    fn parse_answers_arriving_byte_by_byte_are_taken_once_whole() {
        let stream = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n-ERR no\r\n";
        let (mut input, mut replies) = (BytesMut::new(), Vec::new());
        for byte in stream {
            input.extend_from_slice(&[*byte]);
            replies.extend(parse(&mut input).unwrap());
        }
        let bulk = |text: &'static str| Reply::Bulk(Some(Bytes::from_static(text.as_bytes())));
        assert_eq!(
            replies,
            [Reply::Simple("OK".into()), bulk("a\r\n"), Reply::Bulk(None), Reply::Error("ERR no".into())]
        );
        assert!(input.is_empty());
    }

    #[test]
    fn parse_malformed_is_an_error() {
        for wrong in ["?\r\n", "$x\r\n", "\r\n", "$99999999999\r\n"] {
            assert!(parse(&mut BytesMut::from(wrong)).is_err(), "{wrong:?}");
        }
    }
}
