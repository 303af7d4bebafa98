//! What the transport tests share: whole nodes on loopback, and a hand-made peer that speaks the wire format from its
//! own description of it, so that a change of the format is noticed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smr::codec::{self, FrameHeader, HEADER_LEN_BYTES};
use smr::entry::GenesisHash;
use smr::id::{ClusterId, Disqualified, EARLIER_STARTS, GroupName, NodeId, ReplicaId, StartId, StartTrail};
use smr::internals::transport::{
    AdmitAll, EventSink, NoSnapshots, Pace, SnapshotSink, Transport, TransportConfig, TransportEvent,
};
use smr::version::CommandVersions;

/// The start that everyone shows.
pub const START: StartTrail = StartTrail { id: StartId { number: 1, nonce: 1 }, earlier: [0; EARLIER_STARTS] };

/// How long a test waits for what must come.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// For tests of what happens when nothing happens: as the default, five times as fast.
pub const BRISK: Pace =
    Pace { handshake_max_ms: 2_000, ping_interval_ms: 200, write_stall_max_ms: 1_000, snapshot_stall_max_ms: 1_500 };

/// What the tests send: a number and some ballast.
pub type Message = (u64, Vec<u8>);
pub type Event = TransportEvent<Message>;

/// One runtime for all tests of a file.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

pub fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Listens again where a node that is going away has listened.
pub fn listen_again(address: &str) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(began.elapsed() < TIMEOUT, "{address}: {error}"),
        }
        std::thread::yield_now();
    }
}

pub fn config(node: NodeId, peers: &[(u16, &str)]) -> TransportConfig {
    TransportConfig {
        group: "s0".parse().unwrap(),
        node,
        cluster: Some(ClusterId(7)),
        genesis: Some(GenesisHash(70)),
        start: START,
        kind: smr::epoch::GroupKind::Raft,
        commands: CommandVersions::FIRST,
        admission: Arc::new(AdmitAll),
        peers: peers.iter().map(|(name, address)| (ReplicaId(*name), (*address).to_owned())).collect(),
    }
}

/// A transport and what it told.
pub struct Node {
    pub transport: Transport<Message>,
    pub events: Receiver<Event>,
}

impl Node {
    pub fn start(config: TransportConfig, listener: TcpListener) -> Node {
        Node::start_with(config, listener, Arc::new(NoSnapshots), Pace::default())
    }

    pub fn start_with(
        config: TransportConfig,
        listener: TcpListener,
        snapshots: Arc<dyn SnapshotSink>,
        pace: Pace,
    ) -> Node {
        let (sender, events) = channel();
        let sink: Arc<dyn EventSink<Message>> = Arc::new(move |event| {
            // The test may be over before its nodes are.
            drop(sender.send(event));
            true
        });
        let handle = runtime().handle().clone();
        let transport = Transport::start_at_pace(config, listener, handle, sink, snapshots, pace).unwrap();
        Node { transport, events }
    }

    /// Waits for the first event that `wanted` maps to something; skips others.
    #[track_caller]
    pub fn await_event<T>(&self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        let mut skipped = Vec::new();
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => match wanted(&event) {
                    Some(found) => return found,
                    None => skipped.push(event),
                },
                Err(error) => panic!("{error} for an event; seen: {skipped:?}"),
            }
        }
    }

    #[track_caller]
    pub fn await_connected(&self, peer: NodeId) {
        self.await_event(|event| (*event == TransportEvent::Connected { peer }).then_some(()));
    }

    /// All events until none came for `quiet`.
    pub fn drain(&self, quiet: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.events.recv_timeout(quiet) {
                Ok(event) => events.push(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return events,
            }
        }
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub mod kind {
    pub const HELLO: u16 = 0x5001;
    pub const WELCOME: u16 = 0x5002;
    pub const REFUSAL: u16 = 0x5003;
    pub const PING: u16 = 0x5004;
    pub const PONG: u16 = 0x5005;
    pub const MESSAGE: u16 = 0x5006;
    pub const OFFER: u16 = 0x5007;
    pub const RESUME: u16 = 0x5008;
    pub const CHUNK: u16 = 0x5009;
    pub const ACK: u16 = 0x500a;
    pub const BUSY: u16 = 0x500b;
    pub const FINISHED: u16 = 0x500c;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub cluster: Option<ClusterId>,
    pub group: GroupName,
    pub node: NodeId,
    pub genesis: Option<GenesisHash>,
    pub start: StartTrail,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Purpose {
    Messages,
    Snapshot,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub magic: u64,
    pub newest: u16,
    pub oldest: u16,
    pub facts: Facts,
    pub commands: CommandVersions,
    pub to: ReplicaId,
    pub purpose: Purpose,
    pub later: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub magic: u64,
    pub version: u16,
    pub facts: Facts,
    pub commands: CommandVersions,
    pub later: Vec<u8>,
}

/// What builds say that speak version 5 alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HelloOf5 {
    pub magic: u64,
    pub version: u16,
    pub facts: Facts,
    pub to: ReplicaId,
    pub purpose: Purpose,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WelcomeOf5 {
    pub magic: u64,
    pub version: u16,
    pub facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: String,
    pub disqualified: Option<Disqualified>,
}

impl Refusal {
    pub fn new(reason: &str) -> Refusal {
        Refusal { reason: reason.to_owned(), disqualified: None }
    }
}

/// What these replicas speak. Written down once more, so that no one changes it unawares.
pub const VERSION: u16 = 6;
/// And what the build before them speaks.
pub const FORMER_VERSION: u16 = 5;
/// The first eight bytes of each handshake.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MadKVsmr");

pub fn facts(node: NodeId) -> Facts {
    Facts {
        cluster: Some(ClusterId(7)),
        group: "s0".parse().unwrap(),
        node,
        genesis: Some(GenesisHash(70)),
        start: START,
    }
}

pub fn hello(from: NodeId, to: u16) -> Hello {
    Hello {
        magic: MAGIC,
        newest: VERSION,
        oldest: FORMER_VERSION,
        facts: facts(from),
        commands: CommandVersions::FIRST,
        to: ReplicaId(to),
        purpose: Purpose::Messages,
        later: Vec::new(),
    }
}

pub fn welcome(from: NodeId) -> Welcome {
    let (magic, version, commands) = (MAGIC, VERSION, CommandVersions::FIRST);
    Welcome { magic, version, facts: facts(from), commands, later: Vec::new() }
}

pub fn hello_of_5(from: NodeId, to: u16) -> HelloOf5 {
    let (magic, version, purpose) = (MAGIC, FORMER_VERSION, Purpose::Messages);
    HelloOf5 { magic, version, facts: facts(from), to: ReplicaId(to), purpose }
}

pub fn welcome_of_5(from: NodeId) -> WelcomeOf5 {
    WelcomeOf5 { magic: MAGIC, version: FORMER_VERSION, facts: facts(from) }
}

pub fn frame<T: Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

/// A hand-made connection.
pub struct Wire(pub TcpStream);

impl Wire {
    pub fn dial(address: &str) -> Wire {
        let address: SocketAddr = address.parse().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire(stream)
    }

    /// Dials and is welcomed.
    pub fn dial_as(address: &str, from: NodeId, to: u16) -> Wire {
        Wire::dial_for(address, from, to, Purpose::Messages)
    }

    pub fn dial_for(address: &str, from: NodeId, to: u16, purpose: Purpose) -> Wire {
        let mut wire = Wire::dial(address);
        wire.send(kind::HELLO, &Hello { purpose, ..hello(from, to) });
        let (found, payload) = wire.receive().unwrap();
        assert_eq!(found, kind::WELCOME, "{payload:?}");
        wire
    }

    pub fn accept(listener: &TcpListener) -> Wire {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Wire(stream)
    }

    /// Accepts, and welcomes as `node`; returns the Hello too.
    pub fn accept_as(listener: &TcpListener, node: NodeId) -> (Wire, Hello) {
        let mut wire = Wire::accept(listener);
        let (found, payload) = wire.receive().unwrap();
        assert_eq!(found, kind::HELLO);
        wire.send(kind::WELCOME, &welcome(node));
        (wire, codec::decode(&payload).unwrap())
    }

    pub fn send<T: Serialize>(&mut self, kind: u16, value: &T) {
        self.0.write_all(&frame(kind, value)).unwrap();
    }

    /// The next frame, or `None` at the end of the connection, however it ended.
    pub fn receive(&mut self) -> Option<(u16, Vec<u8>)> {
        let mut head = [0; HEADER_LEN_BYTES];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither a frame nor the end"),
            Err(_) => return None,
        }
        let header = FrameHeader::parse(&head, 1 << 20).unwrap();
        let mut payload = vec![0; header.payload_len_bytes];
        self.0.read_exact(&mut payload).ok()?;
        header.verify(&payload).unwrap();
        Some((header.kind, payload))
    }

    /// Waits until the other side has closed, whatever it says before.
    #[track_caller]
    pub fn await_end(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        let mut rest = [0; 4096];
        loop {
            assert!(Instant::now() < deadline, "still open");
            match self.0.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("still open"),
                Err(_) => return,
            }
        }
    }
}
