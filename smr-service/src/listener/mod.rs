//! The listener of a server or manager: accepts connections, and answers the frames on them.
//!
//! ```text
//! accept loop --- one task per connection: handshake, then reads requests --- Backend::ask --- replica
//!                 one more per connection: writes responses           <--- Queue <--- ReplySink::deliver
//! ```
//! A connection may have many requests under way, and hears about them in any order. Its reader takes all the frames
//! that one read brought; its writer takes all the responses that wait, and writes them at once. So the busier a
//! connection is, the fewer system calls and wake-ups a request costs.
//!
//! # Guarantees
//! - Each request that was read is answered once, unless the connection breaks. What breaks says nothing about effects.
//! - Everything is bounded ([`ListenerLimits`]): connections and, apart from them, strangers who have not said who they
//!   are, requests and bytes under way, what waits to be written, the time for a handshake, for the rest of a frame,
//!   and for a client to read. Beyond a bound: [`ClientResponse::Busy`], or the connection ends.
//! - No bytes from a client, however mangled, do more than end their own connection (fault catalogue B1–B4, B7).
//! - Without file descriptors accepting pauses, and a reserve is left for peers and files (B8).

mod connection;
mod framing;
mod handshake;
mod meter;
mod pool;
mod queue;
#[cfg(test)]
mod queue_tests;
mod scan;
mod sync;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smr::id::ClusterId;
use smr::internals::lobby::Lobby;
use smr::replica::{Outcome, ReplyTo};
use smr::status::ReplicaStatus;
use smr::wire::SharedOutput;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::frames::{ClientRequest, ClientResponse, Map, Service};
use crate::limits;
use crate::process::descriptor_limit;

pub use self::meter::{RequestCounts, RequestMeter};

/// How long accepting pauses when it failed, in milliseconds: without file descriptors the next call would fail as
/// well.
const ACCEPT_PAUSE_MS: u64 = 100;
/// File descriptors that connections leave for peers, files and libraries.
const DESCRIPTORS_RESERVE: usize = 256;
/// How long a connection may be silent before its peer is asked whether it still exists, in seconds.
const KEEPALIVE_IDLE_S: u64 = 30;
/// Seconds between two such questions.
const KEEPALIVE_INTERVAL_S: u64 = 10;
/// Unanswered questions before the connection counts as broken.
const KEEPALIVE_PROBES_MAX: u32 = 3;

/// The reason that a connection is turned away with for which there is no permit now.
pub const TOO_MANY_CONNECTIONS: &str = "too many connections; try again later";

/// What consoles call a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The client, by the name that it gave.
    pub client: u32,
    /// Its number of the request.
    pub number: u32,
}

/// What a listener serves.
pub trait Backend: Send + Sync + 'static {
    /// What clients are told about where the parts of the service are.
    type Map: Map;

    /// Which service this is; a client that wants another one is refused.
    fn service(&self) -> Service;

    /// The cluster, once it is known; a client of another one is refused.
    fn cluster(&self) -> Option<ClusterId>;

    /// Epoch of the map that it knows; 0 for none.
    fn epoch(&self) -> u64;

    /// Whether clients are to send writes to all replicas of its group, each of which answers.
    fn all_take_writes(&self) -> bool {
        false
    }

    /// Answers at once (`Some`), or takes the request over and answers through `reply` (`None`). Runs on a network
    /// thread, so it must not block. `epoch` is the one that the client routed by. What was taken over may wait for
    /// [`Backend::flush`].
    fn ask(&self, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse<Self::Map>>;

    /// The same, for a request that consoles have a name for.
    fn ask_labelled(
        &self,
        _label: Label,
        ask: ClientRequest,
        epoch: u64,
        reply: ReplyTo,
    ) -> Option<ClientResponse<Self::Map>> {
        self.ask(ask, epoch, reply)
    }

    /// The requests that one read has brought were asked. Must not wait for anything either.
    fn flush(&self) {}

    /// What the replica says of itself, and what is known of it besides.
    fn status(&self, status: Box<ReplicaStatus>) -> ClientResponse<Self::Map> {
        ClientResponse::Status(status)
    }

    /// What the state machine's answer means to the client.
    fn answer(&self, answer: Bytes) -> ClientResponse<Self::Map> {
        ClientResponse::Answer(answer)
    }
}

/// The bounds of a listener. The defaults are those that the project publishes; tests take smaller ones.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Connections at one time, without those that have not said yet who they are.
    pub connections_max: usize,
    /// Connections that have not said yet who they are. One more takes the place of another: see
    /// [`smr::internals::lobby`].
    pub strangers_max: usize,
    /// Requests of one connection that are under way, or answered and not yet written.
    pub requests_max: usize,
    /// Bytes of requests of one connection that are under way.
    pub in_flight_max_bytes: usize,
    /// Bytes of one connection's answers that wait to be written. Beyond it reads are answered `Busy`, and a write's
    /// answer ends the connection: the client asks again for it.
    pub answers_max_bytes: usize,
    /// Long answers (scans) of one connection that are under way; the next ones are answered `Busy`.
    pub scans_max: usize,
    /// How long a scan may wait, in all, for its client to read, before …
    pub scan_grace: Duration,
    /// … each further second must be earned by this many bytes of the answer. A client that is slower is cut off.
    pub scan_min_bytes_per_s: u32,
    /// Bytes of requests and answers of all connections, of large frames that are being read and of what is being
    /// written; beyond it requests, and answers to reads, are `Busy`. A part of it is dealt out to the connections, so
    /// none is without room.
    pub total_max_bytes: usize,
    /// The longest request frame, in bytes. Longer ones end the connection.
    pub request_max_bytes: usize,
    /// Time for the handshake.
    pub handshake_timeout: Duration,
    /// Time for the rest of a frame, once it has begun.
    pub frame_timeout: Duration,
    /// Time in which a client that has answers waiting must take some of them.
    pub write_timeout: Duration,
    /// How long requests under way are waited for, when the client has closed its side.
    pub drain_timeout: Duration,
}

impl Default for ListenerLimits {
    fn default() -> ListenerLimits {
        ListenerLimits {
            connections_max: connections_for(descriptor_limit()),
            strangers_max: strangers_for(descriptor_limit()),
            requests_max: limits::CONNECTION_REQUESTS_MAX,
            in_flight_max_bytes: limits::CONNECTION_IN_FLIGHT_MAX_BYTES,
            answers_max_bytes: limits::CONNECTION_IN_FLIGHT_MAX_BYTES,
            scans_max: limits::CONNECTION_SCANS_MAX,
            scan_grace: Duration::from_secs(10),
            scan_min_bytes_per_s: limits::SCAN_MIN_BYTES_PER_S,
            total_max_bytes: limits::TOTAL_MAX_BYTES,
            // Values a little beyond the limit get a typed refusal; a client library checks before it sends.
            request_max_bytes: 2 << 20,
            handshake_timeout: Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS),
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The connections that fit into a process with this many file descriptors.
fn connections_for(descriptors: usize) -> usize {
    let rest = if descriptors > 2 * DESCRIPTORS_RESERVE { descriptors - DESCRIPTORS_RESERVE } else { descriptors / 2 };
    rest.saturating_sub(strangers_for(descriptors)).clamp(1, limits::CONNECTIONS_MAX)
}

/// The connections of strangers that fit besides.
fn strangers_for(descriptors: usize) -> usize {
    (descriptors / 8).clamp(1, limits::STRANGERS_MAX)
}

/// What the tasks of a listener share.
struct Shared<B> {
    backend: Arc<B>,
    limits: ListenerLimits,
    lobby: Arc<Lobby>,
    connections: Arc<AtomicUsize>,
    /// Bytes that all connections hold, see [`ListenerLimits::total_max_bytes`].
    held: Arc<pool::Held>,
    /// The address by which a peer reached it.
    reached: Arc<Mutex<Option<SocketAddr>>>,
    meter: Option<Arc<RequestMeter>>,
}

impl<B> Shared<B> {
    fn new(backend: Arc<B>, limits: ListenerLimits, meter: Option<Arc<RequestMeter>>) -> Shared<B> {
        let lobby = Lobby::new(limits.strangers_max);
        Shared {
            backend,
            limits,
            lobby,
            connections: Arc::default(),
            held: Arc::default(),
            reached: Arc::default(),
            meter,
        }
    }

    /// Someone has connected to this address. That of another host counts more than one that only this host knows.
    fn reached_at(&self, address: SocketAddr) {
        let mut reached = self.reached.lock();
        if !address.ip().is_loopback() || reached.is_none() {
            *reached = Some(address);
        }
    }
}

/// Looks at a listener, from anywhere and for as long as one likes.
#[derive(Clone)]
pub struct ListenerWatch {
    lobby: Arc<Lobby>,
    connections: Arc<AtomicUsize>,
    held: Arc<pool::Held>,
    reached: Arc<Mutex<Option<SocketAddr>>>,
}

impl ListenerWatch {
    /// Where others reach it, by the last one who did: what it listens on may be all addresses of its host.
    pub fn reached_at(&self) -> Option<SocketAddr> {
        *self.reached.lock()
    }

    /// How many connections there are, those of strangers included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed) + self.lobby.len()
    }

    /// How many bytes of requests and answers the connections hold.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Accepting,
    Serving,
    Closing,
}

/// A listener, with all its connections.
pub struct Listener<B> {
    shared: Arc<Shared<B>>,
    phase: watch::Sender<Phase>,
    /// Ends when the last task of the listener has dropped its sender; nothing is ever sent.
    finished: mpsc::Receiver<()>,
    address: SocketAddr,
}

impl<B: Backend> Listener<B> {
    /// Serves `backend` at `listener`, with tasks on `runtime`.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn open(
        runtime: &Handle,
        listener: std::net::TcpListener,
        backend: Arc<B>,
        limits: ListenerLimits,
    ) -> io::Result<Listener<B>> {
        Listener::open_counted(runtime, listener, backend, limits, None)
    }

    /// The same; requests are counted in `meter`, if there is one.
    ///
    /// # Errors
    /// As [`Listener::open`].
    pub fn open_counted(
        runtime: &Handle,
        listener: std::net::TcpListener,
        backend: Arc<B>,
        limits: ListenerLimits,
        meter: Option<Arc<RequestMeter>>,
    ) -> io::Result<Listener<B>> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared::new(backend, limits, meter));
        let (phase, phases) = watch::channel(Phase::Accepting);
        let (alive, finished) = mpsc::channel(1);
        runtime.spawn(accept(Arc::clone(&shared), listener, phases, alive));
        Ok(Listener { shared, phase, finished, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there are, those of strangers included.
    pub fn connections(&self) -> usize {
        self.watch().connections()
    }

    /// How many bytes of requests and answers the connections hold.
    pub fn held_bytes(&self) -> usize {
        self.shared.held.bytes()
    }

    /// Looks at it without holding it.
    pub fn watch(&self) -> ListenerWatch {
        let Shared { lobby, connections, held, reached, .. } = &*self.shared;
        ListenerWatch {
            lobby: Arc::clone(lobby),
            connections: Arc::clone(connections),
            held: Arc::clone(held),
            reached: Arc::clone(reached),
        }
    }

    /// Takes no new connections; those that exist go on.
    pub fn stop_accepting(&self) {
        self.phase.send_if_modified(|phase| {
            let accepting = *phase == Phase::Accepting;
            *phase = (*phase).max(Phase::Serving);
            accepting
        });
    }

    /// Reads no more requests, writes the answers to those under way, and closes the connections. Gives up after
    /// `timeout`.
    pub async fn close(mut self, timeout: Duration) {
        self.phase.send_replace(Phase::Closing);
        let _ = tokio::time::timeout(timeout, self.finished.recv()).await;
    }
}

async fn accept<B: Backend>(
    shared: Arc<Shared<B>>,
    listener: TcpListener,
    mut phases: watch::Receiver<Phase>,
    alive: mpsc::Sender<()>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            // First, or a stream of newcomers would keep it from being seen.
            _ = phases.wait_for(|phase| *phase > Phase::Accepting) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            }
        };
        let prepared = prepare(&stream);
        if let Ok(address) = stream.local_addr() {
            shared.reached_at(address);
        }
        let (input, output) = stream.into_split();
        if let Err(error) = prepared {
            tracing::debug!(%error, "a connection broke at once");
            continue;
        }
        let (phases, alive) = (phases.clone(), alive.clone());
        let (shared, guest) = (Arc::clone(&shared), shared.lobby.enter(Some(from.ip())));
        tokio::spawn(async move {
            connection::serve(&shared, guest, input, Arc::new(output), phases).await;
            drop(alive);
        });
        // Whoever has said already who he is leaves the lobby before others come in.
        tokio::task::yield_now().await;
    }
}

/// A listener without a socket, to which connections of any kind are brought: for simulations.
pub struct Acceptor<B> {
    shared: Arc<Shared<B>>,
    phase: watch::Sender<Phase>,
}

impl<B: Backend> Acceptor<B> {
    /// For connections to `backend`.
    pub fn new(backend: Arc<B>, limits: ListenerLimits) -> Acceptor<B> {
        Acceptor { shared: Arc::new(Shared::new(backend, limits, None)), phase: watch::Sender::new(Phase::Accepting) }
    }

    /// Serves a connection until it ends, as a listener does.
    pub fn serve(
        &self,
        input: impl AsyncRead + Unpin + Send + 'static,
        output: Arc<dyn SharedOutput>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (shared, guest) = (Arc::clone(&self.shared), self.shared.lobby.enter(None));
        let phases = self.phase.subscribe();
        async move { connection::serve(&shared, guest, input, output, phases).await }
    }
}

/// The permit of a connection among those that the limits allow, until dropped.
struct ConnectionPermit<'d>(&'d AtomicUsize);

impl<B> Shared<B> {
    /// A permit for a peer that has said who it is.
    fn permit(&self) -> Option<ConnectionPermit<'_>> {
        let permit = ConnectionPermit(&self.connections);
        (self.connections.fetch_add(1, Ordering::Relaxed) < self.limits.connections_max).then_some(permit)
    }
}

impl Drop for ConnectionPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers leave at once, and a peer that vanished without a word is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, Duration::from_secs(KEEPALIVE_IDLE_S))?;
    set_tcp_keepintvl(stream, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
    set_tcp_keepcnt(stream, KEEPALIVE_PROBES_MAX)?;
    Ok(())
}

/// What a replica's outcome is to a client. The one place where the two vocabularies meet.
fn response_of<B: Backend>(backend: &B, outcome: Outcome) -> ClientResponse<B::Map> {
    match outcome {
        Outcome::Answer(answer) => backend.answer(answer),
        Outcome::SessionOpened(client) => ClientResponse::SessionOpened(client),
        Outcome::Status(status) => backend.status(status),
        Outcome::Done => ClientResponse::Done,
        Outcome::NotLeader(not) => {
            ClientResponse::NotLeader { leader: not.leader.map(|name| name.0), term: not.term.0 }
        }
        Outcome::Busy { retry_after_ms } => ClientResponse::Busy { retry_after_ms },
        Outcome::DiskFull => ClientResponse::DiskFull,
        Outcome::TooLarge { limit_bytes } => ClientResponse::TooLarge { limit_bytes },
        Outcome::SessionExpired => ClientResponse::SessionExpired,
        Outcome::AnswerGone => ClientResponse::AnswerGone,
        Outcome::Refused(reason) => ClientResponse::Refused(reason),
        Outcome::Unknown => ClientResponse::Unknown,
        Outcome::OutOfService(reason) => ClientResponse::OutOfService(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B8
    #[test]
    fn connections_for_few_descriptors_leaves_a_reserve() {
        assert_eq!(connections_for(usize::MAX), limits::CONNECTIONS_MAX);
        assert_eq!(connections_for(1024), 640);
        assert_eq!(connections_for(64), 24);
        assert_eq!(connections_for(0), 1);
    }
}
