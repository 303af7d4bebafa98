//! Greetings, and frames with a deadline.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smr::codec;
use smr::internals::reach;
use smr::version::VersionRange;
use smr::wire::{FrameReader, WireError, write_all};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::message::{
    CUSTOMER_FRAME_MAX_BYTES, Dialler, GREETING_MAX_BYTES, Hello, KIND_HELLO, KIND_REFUSAL, KIND_WELCOME, MAGIC,
    Refusal, VERSIONS, Welcome,
};
use crate::words::ServerId;

/// How long a customer's connection may take to be made, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// How long the other side may take for a greeting, in milliseconds.
const GREETING_TIMEOUT_MS: u64 = 5_000;
/// How long the other side may take no byte of what is written, in milliseconds.
const STALL_MAX_MS: u64 = 10_000;
/// How long a connection may be silent before the other host is asked whether it still exists, in seconds.
const KEEPALIVE_IDLE_S: u64 = 5;
/// Seconds between two such questions.
const KEEPALIVE_INTERVAL_S: u64 = 2;
/// Unanswered questions before the connection counts as broken.
const KEEPALIVE_PROBES_MAX: u32 = 3;

/// How long what was sent may remain unheard by the other host, in milliseconds: as long as all questions take.
const UNHEARD_MAX_MS: u32 = 11_000;

/// A connection whose ends know each other.
pub struct Connection {
    /// From the other side.
    pub reader: FrameReader<OwnedReadHalf>,
    /// To the other side.
    pub writer: OwnedWriteHalf,
}

/// Splits a connection, and lets it notice a host that vanished without a word.
///
/// # Errors
/// Those of the operating system.
pub fn prepare(stream: TcpStream) -> io::Result<Connection> {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
    };
    stream.set_nodelay(true)?;
    set_socket_keepalive(&stream, true)?;
    set_tcp_keepidle(&stream, Duration::from_secs(KEEPALIVE_IDLE_S))?;
    set_tcp_keepintvl(&stream, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
    set_tcp_keepcnt(&stream, KEEPALIVE_PROBES_MAX)?;
    set_tcp_user_timeout(&stream, UNHEARD_MAX_MS)?;
    let (reader, writer) = stream.into_split();
    Ok(Connection { reader: FrameReader::new(reader, GREETING_MAX_BYTES), writer })
}

/// Connects to a factory, as a customer.
///
/// # Errors
/// If it is not there, or refuses.
pub async fn connect_as_customer(address: &str) -> io::Result<Connection> {
    let stream = reach::connect(address, Duration::from_millis(CONNECT_TIMEOUT_MS)).await?;
    let mut connection = prepare(stream)?;
    connection.greet(Dialler::Customer, CUSTOMER_FRAME_MAX_BYTES).await?;
    Ok(connection)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Connection {
    /// Sends one value.
    ///
    /// # Errors
    /// If the connection is broken, or the other side does not read.
    pub async fn send<T: Serialize>(&mut self, kind: u16, value: &T) -> io::Result<()> {
        send(&mut self.writer, kind, value).await
    }

    /// Waits for one value; `None` at the end of the connection.
    ///
    /// # Errors
    /// If the connection is broken, or what comes is something else.
    pub async fn receive<T: DeserializeOwned>(&mut self, kind: u16) -> io::Result<Option<T>> {
        receive(&mut self.reader, kind).await
    }

    /// Says who dials, and waits to be welcomed; after that frames may be `max_bytes` long. Returns who answered.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] with the other side's reason if it refuses; as the other methods else.
    pub async fn greet(&mut self, dialler: Dialler, max_bytes: usize) -> io::Result<ServerId> {
        let exchange = async {
            self.send(KIND_HELLO, &Hello::new(dialler)).await?;
            let frame = self.reader.next().await.map_err(broken)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match frame.kind {
                KIND_WELCOME => {
                    let Welcome { version, id } = codec::decode(frame.payload).map_err(|e| invalid(e.to_string()))?;
                    if !VERSIONS.contains(version) {
                        return Err(invalid(format!("version {version} answers one who speaks {VERSIONS}")));
                    }
                    Ok(id)
                }
                KIND_REFUSAL => {
                    let Refusal { reason } = codec::decode(frame.payload).map_err(|e| invalid(e.to_string()))?;
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
                }
                kind => Err(invalid(format!("a frame of kind {kind:#06x} is no welcome"))),
            }
        };
        let id = timeout(Duration::from_millis(GREETING_TIMEOUT_MS), exchange).await??;
        self.reader.set_payload_max_bytes(max_bytes);
        Ok(id)
    }

    /// Waits for a greeting, and answers it as `judge` says: a limit in bytes for the frames that follow, or a reason
    /// to refuse. `None` if it was refused.
    ///
    /// # Errors
    /// If the connection is broken, or no greeting comes.
    pub async fn welcome(
        &mut self,
        id: ServerId,
        judge: impl FnOnce(&Dialler) -> Result<usize, String>,
    ) -> io::Result<Option<Dialler>> {
        let exchange = async {
            let hello: Hello = self.receive(KIND_HELLO).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let verdict = check(&hello).and_then(|version| Ok((version, judge(&hello.dialler)?)));
            match verdict {
                Ok((version, max_bytes)) => {
                    self.send(KIND_WELCOME, &Welcome { version, id }).await?;
                    Ok(Some((hello.dialler, max_bytes)))
                }
                Err(reason) => {
                    self.send(KIND_REFUSAL, &Refusal { reason }).await?;
                    Ok(None)
                }
            }
        };
        let welcomed: io::Result<_> = timeout(Duration::from_millis(GREETING_TIMEOUT_MS), exchange).await?;
        Ok(welcomed?.map(|(dialler, max_bytes)| {
            self.reader.set_payload_max_bytes(max_bytes);
            dialler
        }))
    }
}

fn check(hello: &Hello) -> Result<u16, String> {
    if hello.magic != MAGIC {
        return Err("another protocol".to_owned());
    }
    let theirs = VersionRange::checked(hello.oldest, hello.newest)
        .ok_or_else(|| "a range of versions ends before it begins".to_owned())?;
    theirs.common(VERSIONS).ok_or_else(|| format!("one that speaks {theirs} meets one that speaks {VERSIONS}"))
}

/// Sends one value.
///
/// # Errors
/// As [`Connection::send`].
pub async fn send<T: Serialize>(writer: &mut OwnedWriteHalf, kind: u16, value: &T) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).map_err(io::Error::other)?;
    write_all(writer, &bytes, Duration::from_millis(STALL_MAX_MS)).await.map_err(broken)?;
    Ok(())
}

/// Waits for one value; `None` at the end of the connection. Cancel safe.
///
/// # Errors
/// As [`Connection::receive`].
pub async fn receive<T: DeserializeOwned>(reader: &mut FrameReader<OwnedReadHalf>, kind: u16) -> io::Result<Option<T>> {
    let Some(frame) = reader.next().await.map_err(broken)? else { return Ok(None) };
    if frame.kind != kind {
        return Err(invalid(format!("a frame of kind {:#06x}, not {kind:#06x}", frame.kind)));
    }
    codec::decode(frame.payload).map(Some).map_err(|error| invalid(error.to_string()))
}

fn broken(error: WireError) -> io::Error {
    match error {
        WireError::Io(error) => error,
        other => io::Error::other(other),
    }
}
