//! A cluster inside the test: real frames, no replication. Replicas of a group share one state, so whoever is named
//! leader serves; a test scripts each replica's deviations, and reads back what reached it.
//!
//! Its nodes are reached in memory. So a test that is annotated with `start_paused` has a clock that moves on only
//! while everyone waits, and no other load of the machine changes what it sees. Tests with processes or threads of
//! their own use sockets.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use madkv_client::{Client, Dial, Input, Network, Options, Output, World};
use madkv_proto::command::{Command, Query, encode_found, encode_value, push_record};
use madkv_proto::frames::{
    ClientRequest, ClientResponse, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE,
    MAGIC, RangedHello, RangedWelcome, Refusal, RequestFrame, ResponseFrame, Service, WelcomeFields,
};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{encode_elsewhere, encode_settled};
use madkv_proto::why::WhyRequest;
use smr::codec;
use smr::entry::{EntryId, Index, Term};
use smr::id::{ClientId, ClusterId, NodeId};
use smr::status::{ReplicaStatus, Role, ServiceState};
use smr::wire::FrameReader;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

pub const CLUSTER: ClusterId = ClusterId(0x77);

/// What a node does about a request.
#[derive(Clone, Debug)]
pub enum Act {
    Reply(Vec<ClientResponse>),
    /// Some of it, and then the connection breaks.
    ReplyAndClose(Vec<ClientResponse>),
    Silent,
    /// The process stands still for a while, and then answers.
    ReplyLate(Duration, Vec<ClientResponse>),
}

impl From<ClientResponse> for Act {
    fn from(body: ClientResponse) -> Act {
        Act::Reply(vec![body])
    }
}

type Handler = Arc<dyn Fn(&RequestFrame) -> Act + Send + Sync>;

/// How much of a connection in memory may be under way in each direction.
const STREAM_BYTES: usize = 64 * 1024;

/// Where nodes listen in memory.
#[derive(Default)]
pub struct Switchboard {
    listeners: Mutex<BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>>,
    /// This many clients have been connected: each has a seed of its own.
    clients: AtomicU64,
}

impl Network for Switchboard {
    fn dial(&self, address: &str) -> Dial {
        let listener = self.listeners.lock().unwrap().get(address).cloned();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(STREAM_BYTES);
            // A listener whose node was killed takes no one.
            if listener.is_none_or(|listener| listener.send(far).is_err()) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (input, output) = tokio::io::split(near);
            Ok((Box::new(input) as Input, Box::new(output) as Output))
        })
    }
}

/// How the nodes of a test are reached.
#[derive(Clone)]
pub enum Ground {
    Sockets,
    Memory(Arc<Switchboard>),
}

impl Ground {
    /// Begins to listen at `address`, or at a new one.
    async fn listen(&self, address: Option<&str>) -> io::Result<(String, Listener)> {
        match self {
            Ground::Sockets => {
                let listener = TcpListener::bind(address.unwrap_or("127.0.0.1:0")).await?;
                Ok((listener.local_addr()?.to_string(), Listener::Socket(listener)))
            }
            Ground::Memory(board) => {
                let mut listeners = board.listeners.lock().unwrap();
                let address = address.map_or_else(|| format!("127.0.0.1:{}", listeners.len() + 1), str::to_owned);
                let (listener, visitors) = mpsc::unbounded_channel();
                listeners.insert(address.clone(), listener);
                Ok((address, Listener::Memory(visitors)))
            }
        }
    }

    pub fn world(&self) -> Option<World> {
        let Ground::Memory(board) = self else { return None };
        let seed = board.clients.fetch_add(1, Ordering::Relaxed);
        Some(World { network: Arc::clone(board) as Arc<dyn Network>, seed })
    }
}

enum Listener {
    Socket(TcpListener),
    Memory(mpsc::UnboundedReceiver<DuplexStream>),
}

/// A listening process.
pub struct Node {
    pub address: String,
    ground: Ground,
    service: Service,
    cluster: ClusterId,
    fields: WelcomeFields,
    handler: Handler,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    pub async fn start(ground: &Ground, service: Service, cluster: ClusterId, handler: Handler) -> Node {
        Node::start_with(ground, service, cluster, WelcomeFields::default(), handler).await
    }

    /// One that says this in its welcome.
    pub async fn start_with(
        ground: &Ground,
        service: Service,
        cluster: ClusterId,
        fields: WelcomeFields,
        handler: Handler,
    ) -> Node {
        let (address, listener) = ground.listen(None).await.unwrap();
        let (ground, task) = (ground.clone(), Mutex::new(None));
        let node = Node { address, ground, service, cluster, fields, handler, task };
        node.run(listener);
        node
    }

    fn run(&self, mut listener: Listener) {
        let (service, cluster, fields, handler) = (self.service, self.cluster, self.fields, Arc::clone(&self.handler));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let handler = Arc::clone(&handler);
                match &mut listener {
                    Listener::Socket(listener) => {
                        let Ok((stream, _)) = listener.accept().await else { return };
                        connections.spawn(serve(stream, service, cluster, fields, handler));
                    }
                    Listener::Memory(visitors) => {
                        let Some(stream) = visitors.recv().await else { return };
                        connections.spawn(serve(stream, service, cluster, fields, handler));
                    }
                }
            }
        });
        *self.task.lock().unwrap() = Some(task);
    }

    /// Like kill -9: the port is free and all connections are broken when this returns.
    pub async fn kill(&self) {
        let task = self.task.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    pub async fn revive(&self) {
        for _ in 0..500 {
            if let Ok((_, listener)) = self.ground.listen(Some(&self.address)).await {
                return self.run(listener);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} is taken", self.address);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite,
    service: Service,
    cluster: ClusterId,
    fields: WelcomeFields,
    handler: Handler,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, codec::FRAME_PAYLOAD_MAX_BYTES);
    let Ok(Some(frame)) = reader.next().await else { return };
    assert_eq!(frame.kind, KIND_RANGED_HELLO);
    let hello: RangedHello = codec::decode(frame.payload).unwrap();
    assert_eq!(hello.magic, MAGIC);
    let mut out = Vec::new();
    if hello.service != service || hello.cluster.is_some_and(|other| other != cluster) {
        let reason = format!("{:?} of {cluster}, not {:?} of {:?}", service, hello.service, hello.cluster);
        codec::frame(&mut out, KIND_REFUSAL, &Refusal { reason }).unwrap();
        let _ = writer.write_all(&out).await;
        return;
    }
    let version = hello.agree().unwrap();
    let welcome = RangedWelcome { version, cluster: Some(cluster), epoch: 1, later: fields.encode() };
    codec::frame(&mut out, KIND_RANGED_WELCOME, &welcome).unwrap();
    if writer.write_all(&out).await.is_err() {
        return;
    }
    while let Ok(Some(frame)) = reader.next().await {
        assert_eq!(frame.kind, KIND_REQUEST);
        let request: RequestFrame = codec::decode(frame.payload).unwrap();
        let (bodies, close) = match handler(&request) {
            Act::Reply(bodies) => (bodies, false),
            Act::ReplyAndClose(bodies) => (bodies, true),
            Act::Silent => continue,
            Act::ReplyLate(pause, bodies) => {
                tokio::time::sleep(pause).await;
                (bodies, false)
            }
        };
        let mut out = Vec::new();
        for body in bodies {
            codec::frame(&mut out, KIND_RESPONSE, &ResponseFrame { id: request.id, body }).unwrap();
        }
        if writer.write_all(&out).await.is_err() || close {
            return;
        }
    }
}

/// A request that reached a replica.
#[derive(Clone, Debug)]
pub struct Seen {
    pub replica: u16,
    pub ask: ClientRequest,
}

type Rule = Box<dyn FnMut(&mut GroupState, &ClientRequest) -> Option<Act> + Send>;

/// What the replicas of a group share.
pub struct GroupState {
    pub leader: Option<u16>,
    pub term: u64,
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Answers by session and number.
    pub sessions: BTreeMap<u64, BTreeMap<u64, Bytes>>,
    pub opened: u64,
    pub seen: Vec<Seen>,
    /// How many commands were executed.
    pub executed: u64,
    partition: usize,
    map: Arc<Mutex<Option<ClusterMap>>>,
    /// All replicas take writes, and answer them.
    all_take_writes: bool,
}

pub struct Group {
    pub state: Arc<Mutex<GroupState>>,
    pub nodes: Vec<Node>,
    rules: Vec<Arc<Mutex<Option<Rule>>>>,
}

pub struct Cluster {
    pub ground: Ground,
    pub groups: Vec<Group>,
    pub managers: Vec<Node>,
    pub map: Arc<Mutex<Option<ClusterMap>>>,
}

impl Cluster {
    /// In memory, for clients of the test.
    pub async fn start(partitions: usize, server_rf: usize) -> Cluster {
        Cluster::start_on(Ground::Memory(Arc::default()), partitions, server_rf, false).await
    }

    /// In memory, one group, all of whose replicas take writes.
    pub async fn start_taking_writes_everywhere(server_rf: usize) -> Cluster {
        Cluster::start_on(Ground::Memory(Arc::default()), 1, server_rf, true).await
    }

    /// On sockets, for clients in processes of their own, or behind a real listener.
    pub async fn start_on_sockets(partitions: usize, server_rf: usize) -> Cluster {
        Cluster::start_on(Ground::Sockets, partitions, server_rf, false).await
    }

    async fn start_on(ground: Ground, partitions: usize, server_rf: usize, all_take_writes: bool) -> Cluster {
        let map = Arc::new(Mutex::new(None));
        let mut groups = Vec::new();
        for partition in 0..partitions {
            groups.push(Group::start(&ground, partition, server_rf, Arc::clone(&map), all_take_writes).await);
        }
        let servers: Vec<String> =
            groups.iter().flat_map(|group| group.nodes.iter().map(|node| node.address.clone())).collect();
        *map.lock().unwrap() = Some(ClusterMap::deal(CLUSTER, server_rf, &servers).unwrap());
        let mut managers = Vec::new();
        for _ in 0..3 {
            let map = Arc::clone(&map);
            managers.push(manager(&ground, move || map.lock().unwrap().clone()).await);
        }
        Cluster { ground, groups, managers, map }
    }

    pub fn manager_addrs(&self) -> Vec<String> {
        self.managers.iter().map(|node| node.address.clone()).collect()
    }

    pub fn client(&self, timeout_ms: Option<u64>) -> Client {
        self.client_of(self.manager_addrs(), timeout_ms)
    }

    pub fn client_of(&self, managers: Vec<String>, timeout_ms: Option<u64>) -> Client {
        self.connect(Options { managers, timeout: timeout_ms.map(Duration::from_millis), ..Options::default() })
    }

    /// A client that reaches the nodes, wherever they are.
    pub fn connect(&self, options: Options) -> Client {
        Client::connect(Options { world: self.ground.world(), ..options })
    }

    pub fn group(&self, number: usize) -> std::sync::MutexGuard<'_, GroupState> {
        self.groups[number].state.lock().unwrap()
    }

    /// Lets `rule` decide first about each request at a replica, until it is replaced.
    pub fn rule(
        &self,
        group: usize,
        replica: usize,
        rule: impl FnMut(&mut GroupState, &ClientRequest) -> Option<Act> + Send + 'static,
    ) {
        *self.groups[group].rules[replica].lock().unwrap() = Some(Box::new(rule));
    }

    pub fn no_rule(&self, group: usize, replica: usize) {
        *self.groups[group].rules[replica].lock().unwrap() = None;
    }

    /// The writes that reached a group: replica, session, number, lowest unanswered.
    pub fn writes(&self, group: usize) -> Vec<(u16, u64, u64, u64)> {
        let state = self.group(group);
        let write = |seen: &Seen| match seen.ask {
            ClientRequest::Write { client, number, lowest_unanswered, .. } => {
                Some((seen.replica, client.index, number, lowest_unanswered))
            }
            _ => None,
        };
        state.seen.iter().filter_map(write).collect()
    }
}

pub async fn manager(ground: &Ground, map: impl Fn() -> Option<ClusterMap> + Send + Sync + 'static) -> Node {
    let handler: Handler = Arc::new(move |request| match (&request.ask, map()) {
        (ClientRequest::Map, Some(map)) => ClientResponse::Map(Box::new(map)).into(),
        (ClientRequest::Map, None) => ClientResponse::NoMap.into(),
        _ => ClientResponse::Refused("only maps here".into()).into(),
    });
    Node::start(ground, Service::Manager, CLUSTER, handler).await
}

impl Group {
    async fn start(
        ground: &Ground,
        partition: usize,
        server_rf: usize,
        map: Arc<Mutex<Option<ClusterMap>>>,
        all_take_writes: bool,
    ) -> Group {
        let state = Arc::new(Mutex::new(GroupState {
            leader: Some(0),
            term: 5,
            data: BTreeMap::new(),
            sessions: BTreeMap::new(),
            opened: 100,
            seen: Vec::new(),
            executed: 0,
            partition,
            map,
            all_take_writes,
        }));
        let mut nodes = Vec::new();
        let mut rules = Vec::new();
        for replica in 0..server_rf as u16 {
            let rule = Arc::new(Mutex::new(None::<Rule>));
            rules.push(Arc::clone(&rule));
            let state = Arc::clone(&state);
            let handler: Handler = Arc::new(move |request| {
                let mut state = state.lock().unwrap();
                state.seen.push(Seen { replica, ask: request.ask.clone() });
                let scripted = rule.lock().unwrap().as_mut().and_then(|rule| rule(&mut state, &request.ask));
                scripted.unwrap_or_else(|| state.answer(replica, request))
            });
            let service = Service::Server { partition: partition as u16 };
            let fields = WelcomeFields { all_take_writes };
            nodes.push(Node::start_with(ground, service, CLUSTER, fields, handler).await);
        }
        Group { state, nodes, rules }
    }
}

impl GroupState {
    /// What a sound replica does.
    pub fn answer(&mut self, replica: u16, request: &RequestFrame) -> Act {
        if let ClientRequest::Status = request.ask {
            return ClientResponse::Status(Box::new(self.status(replica))).into();
        }
        let is_write = matches!(request.ask, ClientRequest::Write { .. });
        if self.leader != Some(replica) && !(self.all_take_writes && is_write) {
            return ClientResponse::NotLeader { leader: self.leader, term: self.term }.into();
        }
        if let Some(epoch) = self.foreign(&request.ask) {
            return ClientResponse::WrongPartition { epoch }.into();
        }
        self.lead(&request.ask)
    }

    /// What a leader does.
    pub fn lead(&mut self, ask: &ClientRequest) -> Act {
        match ask {
            ClientRequest::OpenSession => {
                self.opened += 1;
                self.sessions.insert(self.opened, BTreeMap::new());
                ClientResponse::SessionOpened(ClientId::at(self.opened)).into()
            }
            ClientRequest::Write { client, number, command, .. } => {
                let Some(answers) = self.sessions.get(&client.index) else {
                    return ClientResponse::SessionExpired.into();
                };
                if let Some(answer) = answers.get(number) {
                    return ClientResponse::Answer(answer.clone()).into();
                }
                let answer = self.execute(command);
                self.sessions.get_mut(&client.index).unwrap().insert(*number, answer.clone());
                ClientResponse::Answer(answer).into()
            }
            ClientRequest::Read { query } => Act::Reply(self.query(query)),
            ClientRequest::Control(control) => self.settle(control).into(),
            ClientRequest::Transfer { to } => {
                self.leader = Some(*to);
                self.term += 1;
                ClientResponse::Done.into()
            }
            _ => ClientResponse::Refused("not here".into()).into(),
        }
    }

    /// Whatever the map says: the sessions tell what became of a write, and it is not applied any more.
    fn settle(&mut self, control: &Bytes) -> ClientResponse {
        let Ok(WhyRequest::Settle { client, number, .. }) = WhyRequest::decode(control) else {
            return ClientResponse::Refused("not here".into());
        };
        let epoch = self.map.lock().unwrap().as_ref().map_or(0, |map| map.epoch);
        let Some(answers) = self.sessions.get_mut(&client.index) else { return ClientResponse::SessionExpired };
        let answer = answers.entry(number).or_insert_with(|| encode_elsewhere(epoch).into());
        ClientResponse::Answer(encode_settled(answer))
    }

    fn execute(&mut self, command: &Bytes) -> Bytes {
        self.executed += 1;
        match Command::decode(command).unwrap() {
            Command::Put { key, value } => encode_found(self.data.insert(key.to_vec(), value.to_vec()).is_some()),
            Command::Swap { key, value } => encode_value(self.data.insert(key.to_vec(), value.to_vec()).as_deref()),
            Command::Delete { key } => encode_found(self.data.remove(key).is_some()),
        }
        .into()
    }

    /// The answer to a query; each record of a SCAN is a part of its own.
    pub fn query(&self, query: &Bytes) -> Vec<ClientResponse> {
        let (from, to) = match Query::decode(query).unwrap() {
            Query::Get { key } => {
                return vec![ClientResponse::Answer(encode_value(self.data.get(key).map(Vec::as_slice)).into())];
            }
            Query::Scan { from, to } | Query::ScanOf { from, to, .. } => (from.to_vec(), to.to_vec()),
        };
        let part = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            let mut part = Vec::new();
            push_record(&mut part, key, value);
            ClientResponse::Part(part.into())
        };
        let mut bodies: Vec<ClientResponse> = self.data.range(from..=to).map(part).collect();
        bodies.push(ClientResponse::Answer(Bytes::new()));
        bodies
    }

    /// The map's epoch, if the request's key lives elsewhere.
    fn foreign(&self, ask: &ClientRequest) -> Option<u64> {
        let map = self.map.lock().unwrap();
        let map = map.as_ref()?;
        let owner = match ask {
            ClientRequest::Write { command, .. } => map.partition_of(Command::decode(command).unwrap().key()),
            ClientRequest::Read { query } => match Query::decode(query).unwrap() {
                Query::Get { key } => map.partition_of(key),
                Query::Scan { .. } | Query::ScanOf { .. } => return None,
            },
            _ => return None,
        };
        (owner != self.partition).then_some(map.epoch)
    }

    pub fn status(&self, replica: u16) -> ReplicaStatus {
        let leads = self.leader == Some(replica);
        ReplicaStatus {
            group: format!("s{}", self.partition).parse().unwrap(),
            node: NodeId::new(replica, 1),
            service_state: ServiceState::InService,
            role: if leads { Role::Leader } else { Role::Follower },
            term: Term(self.term),
            leader: self.leader.map(|leader| NodeId::new(leader, 1)),
            snapshot: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index(self.executed),
            applied: Index(self.executed),
            digest: None,
            log_bytes: 0,
            sessions: self.sessions.len() as u64,
            voters: Vec::new(),
            learners: Vec::new(),
            sync_mode: "synced".into(),
            reads: smr::status::ReadMode::Index,
            peers: Vec::new(),
            advertised: smr::status::Advertised::Unknown,
        }
    }

    /// Another replica takes over, in a new term.
    pub fn elect(&mut self, leader: u16) {
        self.leader = Some(leader);
        self.term += 1;
    }
}

/// A key of each partition of the map.
pub fn key_in(map: &ClusterMap, partition: usize) -> Vec<u8> {
    (0u32..).map(|number| format!("key{number}").into_bytes()).find(|key| map.partition_of(key) == partition).unwrap()
}

/// Waits until `done` holds, and fails after a minute: only a hang takes this long.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within a minute: {what}");
}
