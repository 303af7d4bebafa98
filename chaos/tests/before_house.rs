//! What the build before this one said and wrote, recorded once from its programs and replayed here: its frames decode
//! and are answered in its words, to the byte, and its directories open with everything in them.
//!
//! The recording is of the commit that CHANGELOG.md notes as `before-house`: three managers and one partition of three
//! servers, on sled, and the same on segments, with sixty keys and a few more requests of one command-line client. It
//! is not made again: when this build's own version is no longer the newest, that of its release takes its place.
//!
//! # Files
//! `frames` holds connections, each with all of its frames: length of the name u8 | name | frames u16, then each frame
//! after a `>` (from who dialled) or a `<`. A directory is a list of its files: length of the path u16 | path | length
//! of the file u64 | extents u32, then each extent that is not zeros: offset u64 | length u32 | bytes.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use madkv_chaos::disk_faults::judge::{Found, Held, open};
use madkv_manager::state::{self as manager, ManagerState, Reply};
use madkv_proto::command::{Query, decode_value};
use madkv_proto::frames::{
    ClientRequest, ClientResponse, Hello, KIND_HELLO, KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, Refusal,
    RequestFrame, ResponseFrame, Service, Welcome,
};
use madkv_proto::map::ClusterMap;
use madkv_server::map::Map;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES};
use smr::entry::{GenesisHash, Payload};
use smr::id::{ClusterId, GroupName, NodeId, ReplicaId, StartTrail};
use smr::internals::message::PeerMessage;
use smr::internals::raft::Message;
use smr::internals::session::{SessionCommand, SessionTable};
use smr::internals::storage::ExpectedIdentity;
use smr::internals::transport::{AdmitAll, NoSnapshots, Transport, TransportConfig, TransportEvent};
use smr::replica::ReplyTo;
use smr::state_machine::{Answer, StateMachine};
use smr::version::CommandVersions;
use smr_service::listener::{Backend, Listener, ListenerLimits};

const FRAMES: &[u8] = include_bytes!("before_house/frames");
/// How long anything may take that must happen.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Kinds of the peers' frames.
mod peers {
    pub(super) const HELLO: u16 = 0x5001;
    pub(super) const WELCOME: u16 = 0x5002;
    pub(super) const REFUSAL: u16 = 0x5003;
    pub(super) const PING: u16 = 0x5004;
    pub(super) const PONG: u16 = 0x5005;
    pub(super) const MESSAGE: u16 = 0x5006;
}

/// A recorded frame.
struct Recorded {
    by_dialler: bool,
    kind: u16,
    bytes: &'static [u8],
}

impl Recorded {
    fn decode<T: DeserializeOwned>(&self) -> T {
        codec::decode(&self.bytes[HEADER_LEN_BYTES..]).unwrap_or_else(|error| panic!("{:#06x}: {error}", self.kind))
    }
}

/// The recorded connections.
fn connections() -> Vec<(&'static str, Vec<Recorded>)> {
    let mut rest = FRAMES;
    let mut connections = Vec::new();
    while rest.has_remaining() {
        let length = usize::from(rest.get_u8());
        let name = std::str::from_utf8(&rest[..length]).unwrap();
        rest.advance(length);
        let count = rest.get_u16_le();
        let frames = (0..count).map(|_| {
            let by_dialler = rest.get_u8() == b'>';
            let head = rest[..HEADER_LEN_BYTES].try_into().unwrap();
            let header = FrameHeader::parse(head, FRAME_PAYLOAD_MAX_BYTES).unwrap();
            let (bytes, behind) = rest.split_at(HEADER_LEN_BYTES + header.payload_len_bytes);
            header.verify(&bytes[HEADER_LEN_BYTES..]).unwrap();
            rest = behind;
            Recorded { by_dialler, kind: header.kind, bytes }
        });
        connections.push((name, frames.collect()));
    }
    connections
}

fn frame<T: Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

/// One frame from a socket.
fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    let header = FrameHeader::parse(bytes[..].try_into().unwrap(), FRAME_PAYLOAD_MAX_BYTES).unwrap();
    bytes.resize(HEADER_LEN_BYTES + header.payload_len_bytes, 0);
    stream.read_exact(&mut bytes[HEADER_LEN_BYTES..]).unwrap();
    bytes
}

// covers D16
#[test]
fn each_recorded_frame_is_what_this_build_would_write() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (name, frames) in connections() {
        for recorded in frames {
            let (kind, mut what) = (recorded.kind, format!("{:#06x}", recorded.kind));
            let again = match kind {
                peers::HELLO | peers::WELCOME | peers::REFUSAL => continue, // see the tests of handshakes
                peers::PING | peers::PONG => frame(kind, &recorded.decode::<()>()),
                peers::MESSAGE => {
                    let message: PeerMessage<Message> = recorded.decode();
                    if let PeerMessage::Protocol(message) = &message {
                        what = format!("{:?}", message.body).split([' ', '(', '{']).next().unwrap().to_owned();
                    }
                    frame(kind, &message)
                }
                KIND_HELLO => frame(kind, &recorded.decode::<Hello>()),
                KIND_WELCOME => frame(kind, &recorded.decode::<Welcome>()),
                KIND_REFUSAL => frame(kind, &recorded.decode::<Refusal>()),
                KIND_REQUEST => frame(kind, &recorded.decode::<RequestFrame>()),
                KIND_RESPONSE => frame(kind, &recorded.decode::<ResponseFrame>()),
                other => panic!("a frame of kind {other:#06x} between {name}"),
            };
            assert_eq!(again, recorded.bytes, "a frame of kind {kind:#06x} between {name}");
            *seen.entry(what).or_default() += 1;
        }
    }
    println!("{seen:?}");
    for what in ["Append", "AppendAccepted", "Heartbeat", "HeartbeatAck", "0x5004", "0x4d01", "0x4d05"] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "no {what} was recorded: {seen:?}");
    }
}

/// What a replica of that build says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    cluster: Option<ClusterId>,
    group: GroupName,
    node: NodeId,
    genesis: Option<GenesisHash>,
    start: StartTrail,
}

/// Its first frame; 0 stands for messages, 1 for a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PeerHello {
    magic: u64,
    version: u16,
    facts: Facts,
    to: ReplicaId,
    purpose: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PeerWelcome {
    magic: u64,
    version: u16,
    facts: Facts,
}

/// A transport that says of itself what was recorded.
fn transport(facts: Facts, peer: ReplicaId, address: String) -> (Transport<PeerMessage<Message>>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let config = TransportConfig {
        group: facts.group,
        node: facts.node,
        cluster: facts.cluster,
        genesis: facts.genesis,
        start: facts.start,
        kind: smr::epoch::GroupKind::Raft,
        commands: CommandVersions::FIRST,
        admission: Arc::new(AdmitAll),
        peers: [(peer, address)].into(),
    };
    let sink = |_: TransportEvent<PeerMessage<Message>>| true;
    let runtime = tokio::runtime::Handle::current();
    (Transport::start(config, listener, runtime, Arc::new(sink), Arc::new(NoSnapshots)).unwrap(), own)
}

/// The greetings of all recorded connections between replicas.
fn peer_greetings() -> Vec<(Recorded, Recorded)> {
    let between = connections().into_iter().filter(|(name, _)| name.starts_with("peer"));
    let greetings = between.filter_map(|(_, frames)| {
        let mut frames = frames.into_iter();
        Some((frames.next()?, frames.next()?))
    });
    greetings.filter(|(hello, welcome)| (hello.kind, welcome.kind) == (peers::HELLO, peers::WELCOME)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_peers_are_welcomed_in_their_words() {
    let greetings = peer_greetings();
    assert!(greetings.len() > 10, "{}", greetings.len());
    for (recorded, expected) in greetings {
        let (hello, welcome): (PeerHello, PeerWelcome) = (recorded.decode(), expected.decode());
        let (_transport, address) = transport(welcome.facts, hello.facts.node.name, "127.0.0.1:1".to_owned());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(recorded.bytes).unwrap();
        assert_eq!(receive(&mut stream), expected.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_peers_that_refuse_ranges_are_dialled_in_their_words() {
    for (expected, answer) in peer_greetings().into_iter().take(4) {
        let hello: PeerHello = expected.decode();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_transport, _) = transport(hello.facts, hello.to, listener.local_addr().unwrap().to_string());
        let accept = || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream
        };
        let mut first = accept();
        assert_ne!(receive(&mut first), expected.bytes);
        first.write_all(&refusal(peers::REFUSAL)).unwrap();
        let mut second = accept();
        assert_eq!(receive(&mut second), expected.bytes);
        second.write_all(answer.bytes).unwrap();
        // A message, or the first ping.
        let follows = receive(&mut second);
        assert_eq!(u16::from_le_bytes([follows[6], follows[7]]), peers::PING);
    }
}

/// How that build refused this one's first frame: recorded from one of its processes that met one of this build.
fn refusal(kind: u16) -> Vec<u8> {
    let mut refusals = connections().into_iter().filter(|(name, _)| name.starts_with("refusal"));
    let (_, frames) = refusals.find(|(_, frames)| frames[0].kind == kind).unwrap();
    frames[0].bytes.to_vec()
}

#[test]
fn refusal_of_a_ranged_client_is_known_for_what_it_is() {
    let bytes = refusal(KIND_REFUSAL);
    let refusal: Refusal = codec::decode(&bytes[HEADER_LEN_BYTES..]).unwrap();
    assert!(smr_service::frames::is_before_ranges(&refusal.reason), "{}", refusal.reason);
}

/// Says what was recorded.
struct Recording {
    service: Service,
    welcome: Welcome,
    answers: Mutex<VecDeque<(ClientRequest, ClientResponse)>>,
}

impl Backend for Recording {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        self.service
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.welcome.cluster
    }

    fn epoch(&self) -> u64 {
        self.welcome.epoch
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, _reply: ReplyTo) -> Option<ClientResponse> {
        let (asked, answer) = self.answers.lock().unwrap().pop_front().unwrap();
        assert_eq!(ask, asked);
        Some(answer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_clients_and_servers_are_answered_in_their_words() {
    let mut requests = 0;
    for (name, frames) in connections().into_iter().filter(|(_, frames)| frames[0].kind == KIND_HELLO) {
        let hello: Hello = frames[0].decode();
        let welcome = frames.iter().find(|frame| frame.kind == KIND_WELCOME).unwrap();
        let of_kind = |kind| frames.iter().filter(move |frame| frame.kind == kind);
        let answers: BTreeMap<u64, ClientResponse> = of_kind(KIND_RESPONSE)
            .map(|frame| frame.decode::<ResponseFrame>())
            .map(|said| (said.id, said.body))
            .collect();
        let asked = of_kind(KIND_REQUEST).map(|frame| frame.decode::<RequestFrame>());
        let answers = asked.map(|request| (request.ask, answers[&request.id].clone())).collect();
        let backend = Recording { service: hello.service, welcome: welcome.decode(), answers: Mutex::new(answers) };
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let runtime = tokio::runtime::Handle::current();
        let _listener = Listener::open(&runtime, socket, Arc::new(backend), ListenerLimits::default()).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        for recorded in frames.iter().filter(|recorded| recorded.by_dialler) {
            stream.write_all(recorded.bytes).unwrap();
        }
        assert_eq!(receive(&mut stream), welcome.bytes, "{name}");
        let mut expected: Vec<&[u8]> = of_kind(KIND_RESPONSE).map(|frame| frame.bytes).collect();
        expected.sort_by_key(|bytes| codec::decode::<ResponseFrame>(&bytes[HEADER_LEN_BYTES..]).unwrap().id);
        for expected in expected {
            assert_eq!(receive(&mut stream), expected, "{name}");
            requests += 1;
        }
    }
    assert!(requests > 100, "{requests}");
}

/// Makes a recorded directory again.
fn unpack(mut packed: &[u8], directory: &Path) {
    while packed.has_remaining() {
        let length = usize::from(packed.get_u16_le());
        let path = directory.join(std::str::from_utf8(&packed[..length]).unwrap());
        packed.advance(length);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(packed.get_u64_le()).unwrap();
        for _ in 0..packed.get_u32_le() {
            let (offset, length) = (packed.get_u64_le(), packed.get_u32_le() as usize);
            file.write_all_at(&packed[..length], offset).unwrap();
            packed.advance(length);
        }
    }
}

/// Opens a recorded directory of replica 0 of this group, and applies what its log holds.
fn replay<S: StateMachine + Default>(packed: &[u8], group: &str) -> (Held, S) {
    let directory = tempfile::Builder::new().prefix("before-house-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    unpack(packed, directory.path());
    let expected = ExpectedIdentity { group: group.parse().unwrap(), name: ReplicaId(0), cluster: None };
    let found = open(directory.path(), &expected).unwrap();
    let Found::Open(held) = found else { panic!("{found:?}") };
    let (mut sessions, mut state) = (SessionTable::new(), S::default());
    for entry in &held.entries {
        if let Payload::Command(bytes) = &entry.payload {
            let command = SessionCommand::decode(bytes).unwrap();
            sessions.apply(entry.id.index, &command, |command| state.apply(entry.id.index, command));
        }
    }
    (*held, state)
}

// covers D16
#[test]
fn recorded_directories_of_servers_open_with_all_keys() {
    for packed in [&include_bytes!("before_house/sled-s0")[..], include_bytes!("before_house/segments-s0")] {
        let (held, map) = replay::<Map>(packed, "s0");
        assert!(held.hard_state.term.0 > 0 && held.snapshot.index.0 == 0, "{held:?}");
        let expected = |key| match key {
            0 => Some("swapped".to_owned()),
            1 => None,
            2 => Some("x".repeat(300)),
            other => Some(format!("value-{other}")),
        };
        for key in 0..60 {
            let Answer::Now(answer) = map.query(&Query::Get { key: format!("key{key:03}").as_bytes() }.encode()) else {
                panic!("the value of a key in parts")
            };
            let found = decode_value(Bytes::from(answer)).unwrap();
            assert_eq!(found.map(|value| String::from_utf8(value.to_vec()).unwrap()), expected(key), "key {key}");
        }
        assert_eq!(map.len(), 59);
    }
}

// covers D16
#[test]
fn recorded_directories_of_managers_open_with_the_map() {
    for packed in [&include_bytes!("before_house/sled-m0")[..], include_bytes!("before_house/segments-m0")] {
        let (held, state) = replay::<ManagerState>(packed, "m");
        let Answer::Now(answer) = state.query(&manager::encode(&manager::Query::Map)) else { panic!("a map in parts") };
        let Reply::Map(map) = Reply::decode(&answer) else { panic!("no map") };
        assert_eq!(Some(map.cluster), held.identity.cluster);
        assert_eq!(map.partitions.iter().map(|partition| partition.servers.len()).collect::<Vec<_>>(), [3]);
    }
}
