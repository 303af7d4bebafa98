//! A plain client of one listener: one connection, one question at a time.
//!
//! For servers that register, for tools and for tests. What keys need (routing, retries, sessions, pipelining) is the
//! business of the client library.

use std::io;
use std::time::Duration;

use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES};
use smr::id::ClusterId;
use smr::internals::reach;
use smr::wire::{Frame, WireError, read_frame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::frames::{
    ClientRequest, ClientResponse, Hello, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL,
    KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, MAGIC, Map, RangedHello, RangedWelcome, Refusal, RequestFrame,
    ResponseFrame, Service, VERSION_BEFORE_RANGES, Welcome, is_before_ranges, needs_newer,
};

/// A connection that was welcomed.
pub struct Dialled {
    stream: TcpStream,
    buffer: Vec<u8>,
    asked: u64,
    welcome: Welcome,
    /// What both sides speak.
    version: u16,
    timeout: Duration,
}

impl Dialled {
    /// Dials `address` and says hello. From here on every step may take `timeout`.
    ///
    /// # Errors
    /// If no one answers in time, or refuses ([`io::ErrorKind::PermissionDenied`]; the text is the other side's
    /// reason), or if what answers is no listener of ours ([`io::ErrorKind::InvalidData`]).
    pub async fn to(
        address: &str,
        service: Service,
        cluster: Option<ClusterId>,
        timeout: Duration,
    ) -> io::Result<Dialled> {
        match Dialled::greet(address, KIND_RANGED_HELLO, &RangedHello::new(cluster, service), timeout).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_before_ranges(&error.to_string()) => {
                Dialled::greet(address, KIND_HELLO, &Hello { magic: MAGIC, cluster, service }, timeout).await
            }
            ended => ended,
        }
    }

    async fn greet<T: serde::Serialize>(address: &str, kind: u16, hello: &T, timeout: Duration) -> io::Result<Dialled> {
        let stream = reach::connect(address, timeout).await?;
        let welcome = Welcome { cluster: None, epoch: 0 };
        let version = VERSION_BEFORE_RANGES;
        let mut dialled = Dialled { stream, buffer: Vec::new(), asked: 0, welcome, version, timeout };
        dialled.send(kind, hello).await?;
        let frame = dialled.next().await?;
        (dialled.welcome, dialled.version) = match frame.kind {
            KIND_WELCOME => (codec::decode(frame.payload).map_err(io::Error::other)?, VERSION_BEFORE_RANGES),
            KIND_RANGED_WELCOME => {
                let welcome: RangedWelcome = codec::decode(frame.payload).map_err(io::Error::other)?;
                let version = welcome.version;
                (welcome.checked().map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?, version)
            }
            KIND_REFUSAL => {
                let Refusal { reason } = codec::decode(frame.payload).map_err(io::Error::other)?;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
            }
            kind => {
                let what = format!("a frame of kind {kind:#06x} is no welcome");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        };
        if let Ok(reached) = dialled.stream.peer_addr() {
            reach::greeted(address, reached);
        }
        Ok(dialled)
    }

    /// How the other side introduced itself.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Asks, and waits for the answer. The parts of a long answer come one by one, from [`Dialled::more`].
    ///
    /// # Errors
    /// If the connection breaks, or the answer does not come in time. What was asked may have been done all the same.
    /// [`io::ErrorKind::Unsupported`] if the other side's build does not know such a request; then it was not sent.
    pub async fn ask<M: Map>(&mut self, ask: ClientRequest) -> io::Result<ClientResponse<M>> {
        self.ask_by(self.welcome.epoch, ask).await
    }

    /// The same, by a map of this epoch.
    ///
    /// # Errors
    /// As of [`Dialled::ask`].
    pub async fn ask_by<M: Map>(&mut self, epoch: u64, ask: ClientRequest) -> io::Result<ClientResponse<M>> {
        if ask.version() > self.version {
            return Err(io::Error::new(io::ErrorKind::Unsupported, needs_newer(ask.version(), self.version)));
        }
        self.asked += 1;
        let request = RequestFrame { id: self.asked, epoch, ask };
        self.send(KIND_REQUEST, &request).await?;
        self.more().await
    }

    /// The next part of an answer that began with a [`ClientResponse::Part`].
    ///
    /// # Errors
    /// As of [`Dialled::ask`].
    pub async fn more<M: Map>(&mut self) -> io::Result<ClientResponse<M>> {
        let asked = self.asked;
        let frame = self.next().await?;
        if frame.kind != KIND_RESPONSE {
            return Err(io::Error::other(format!("a frame of kind {:#06x} is no response", frame.kind)));
        }
        let ResponseFrame { id, body } = codec::decode(frame.payload).map_err(io::Error::other)?;
        if id != asked {
            return Err(io::Error::other(format!("an answer to request {id}, which was not asked")));
        }
        Ok(body)
    }

    async fn send<T: serde::Serialize>(&mut self, kind: u16, value: &T) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::frame(&mut bytes, kind, value).map_err(io::Error::other)?;
        timeout(self.timeout, self.stream.write_all(&bytes)).await?
    }

    async fn next(&mut self) -> io::Result<Frame<'_>> {
        let next = read_frame(&mut self.stream, &mut self.buffer, FRAME_PAYLOAD_MAX_BYTES);
        match timeout(self.timeout, next).await? {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
            Err(WireError::Io(error)) => Err(error),
            Err(WireError::Codec(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
