//! A server as a process: a partition of one replica, with a manager that says what the test wants.

#![cfg(test)]

mod support;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_proto::command::{Command, Query, decode_found, decode_records, decode_value};
use madkv_proto::frames::{
    ClientRequest, ClientResponse, Hello, KIND_HELLO, KIND_REQUEST, MAGIC, Registration, RequestFrame, Service,
};
use madkv_proto::map::ClusterMap;
use rustix::process::Signal;
use smr::id::{ClientId, ClusterId, Incarnation};
use smr::replica::ReplyTo;
use smr::status::{Advertised, ReplicaStatus, Role};
use smr_service::dial::Dialled;
use smr_service::limits::TOTAL_MAX_BYTES;
use smr_service::listener::{Backend, Listener, ListenerLimits};
use support::{Process, TIMEOUT, ask, dial, eventually, free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

const SERVICE: Service = Service::Server { partition: 0 };
const CLUSTER: ClusterId = ClusterId(31);
/// The contract: an orderly end takes at most this long.
const ORDERLY_END: Duration = TIMEOUT;

/// Gives every registration the same answer, and remembers it.
struct FakeManager {
    answer: ClientResponse,
    heard: Mutex<Vec<Registration>>,
}

impl Backend for FakeManager {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Manager
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, _reply: ReplyTo) -> Option<ClientResponse> {
        match ask {
            ClientRequest::Register(registration) => {
                self.heard.lock().unwrap().push(registration);
                Some(self.answer.clone())
            }
            // A replica that has just heard that its replica is taken asks for nothing of the kind.
            ClientRequest::RecordGenesis(_) => {
                assert!(
                    !matches!(self.answer, ClientResponse::Occupied { .. }),
                    "an excluded replica would found a group"
                );
                Some(ClientResponse::GenesisRecorded)
            }
            other => panic!("{other:?}"),
        }
    }
}

struct Manager {
    backend: Arc<FakeManager>,
    _listener: Listener<FakeManager>,
}

impl Manager {
    fn start(address: &str, answer: ClientResponse) -> Manager {
        let backend = Arc::new(FakeManager { answer, heard: Mutex::default() });
        let listener = std::net::TcpListener::bind(address).unwrap();
        let listener =
            Listener::open(&Handle::current(), listener, Arc::clone(&backend), ListenerLimits::default()).unwrap();
        Manager { backend, _listener: listener }
    }

    fn heard(&self) -> Vec<Registration> {
        self.backend.heard.lock().unwrap().clone()
    }
}

fn map() -> ClusterMap {
    // The address says nothing about where a server listens; it is for clients only.
    ClusterMap::deal(CLUSTER, 1, &["127.0.0.1:3777".into()]).unwrap()
}

fn registered() -> ClientResponse {
    ClientResponse::Registered(Box::new(map()))
}

/// Where a server under test listens, and for whom.
struct Site {
    directory: tempfile::TempDir,
    api: String,
    p2p: String,
    manager: String,
}

impl Site {
    fn new() -> Site {
        Site {
            directory: tempfile::tempdir().unwrap(),
            api: free_address(),
            p2p: free_address(),
            manager: free_address(),
        }
    }

    fn backer(&self) -> std::path::PathBuf {
        self.directory.path().join("backer.s0.0")
    }

    fn line(&self) -> Vec<String> {
        self.line_in_group("0", "none")
    }

    fn line_in_group(&self, replica: &str, peers: &str) -> Vec<String> {
        let backer = self.backer().to_str().unwrap().to_owned();
        let mut line = vec![env!("CARGO_BIN_EXE_madkv-server").to_owned(), "--allow_unsynced".to_owned()];
        let flags = [
            ("--partition_id", "0"),
            ("--replica_id", replica),
            ("--manager_addrs", &self.manager),
            ("--api_listen", &self.api),
            ("--p2p_listen", &self.p2p),
            ("--peer_addrs", peers),
            ("--backer_path", &backer),
        ];
        line.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]));
        line
    }

    fn start(&self) -> Process {
        Process::start(&self.line())
    }

    /// The answer, also if it is none that helps.
    async fn ask_once(&self, question: ClientRequest) -> ClientResponse {
        dial(&self.api, SERVICE).await.ask(question).await.unwrap()
    }

    async fn status(&self) -> Box<ReplicaStatus> {
        match ask(&self.api, SERVICE, ClientRequest::Status).await {
            ClientResponse::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn open_session(&self) -> ClientId {
        match ask(&self.api, SERVICE, ClientRequest::OpenSession).await {
            ClientResponse::SessionOpened(client) => client,
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, client: ClientId, number: u64, key: &[u8], value: &[u8]) -> bool {
        let command = Command::Put { key, value }.encode();
        match ask(&self.api, SERVICE, ClientRequest::Write { client, number, lowest_unanswered: number, command }).await
        {
            ClientResponse::Answer(answer) => decode_found(&answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn get(&self, key: &[u8]) -> Option<Bytes> {
        match ask(&self.api, SERVICE, ClientRequest::Read { query: Query::Get { key }.encode() }).await {
            ClientResponse::Answer(answer) => decode_value(answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

// covers G5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_registers_serves_and_restarts_without_manager() {
    let site = Site::new();
    let manager = Manager::start(&site.manager, registered());
    let mut server = site.start();
    let client = site.open_session().await;
    assert!(!site.put(client, 1, b"k", b"v1").await);
    assert!(site.put(client, 2, b"k", b"v2").await);
    assert!(site.put(client, 2, b"k", b"v2").await, "the same answer to the same request");
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v2"[..]));
    let heard = || async { manager.heard().iter().any(|registration| registration.member).then_some(()) };
    eventually("the manager hears that the server is a member", heard).await;
    let first = manager.heard()[0].clone();
    assert_eq!((first.partition, first.replica, first.member), (0, 0, false));
    assert!(manager.heard().iter().all(|registration| registration.incarnation == first.incarnation));

    drop(manager);
    server.signal(Signal::TERM);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0), "{:#?}", server.all_lines());
    let mut server = site.start();
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v2"[..]));
    assert!(site.put(client, 3, b"k", b"v3").await);
    server.signal(Signal::KILL);
    server.expect_end(TIMEOUT);
    let _server = site.start();
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v3"[..]), "the session and the key have survived");
}

// covers D4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_with_damaged_assignment_asks_the_manager_again() {
    let site = Site::new();
    let mut manager = Some(Manager::start(&site.manager, registered()));
    let mut server = site.start();
    let client = site.open_session().await;
    site.put(client, 1, b"k", b"v").await;
    server.signal(Signal::KILL);
    server.expect_end(TIMEOUT);
    manager.take();
    damage(&site.backer().join("assignment"));
    let mut server = site.start();
    server.expect_line("assignment");
    server.expect_line("waiting for a manager");
    let _manager = eventually("the manager's port is free again", || async {
        let free = std::net::TcpListener::bind(&site.manager).is_ok();
        free.then(|| Manager::start(&site.manager, registered()))
    })
    .await;
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v"[..]));
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

// covers G5, B10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_waiting_for_a_manager_says_so_once_and_ends_at_a_signal() {
    let site = Site::new();
    let mut server = site.start();
    server.expect_line("waiting for a manager");
    server.signal(Signal::INT);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0));
    let lines = server.all_lines();
    assert_eq!(lines.iter().filter(|line| line.contains("waiting for a manager")).count(), 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_told_to_end_with_stdin_does_so_and_not_while_a_non_blocking_one_is_merely_silent() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // For all who share it, as a program beside this one on the same terminal might.
    theirs.set_nonblocking(true).unwrap();
    let mut line = site.line();
    line.push("--end_with_stdin".to_owned());
    let mut server = Process::start_on(&line, OwnedFd::from(theirs).into());
    let client = site.open_session().await;
    ours.write_all(b"to no one").unwrap();
    assert!(!site.put(client, 1, b"k", b"v").await);
    assert!(server.child.try_wait().unwrap().is_none(), "{:#?}", server.all_lines());
    drop(ours);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0), "{:#?}", server.all_lines());
}

/// A stderr that takes nothing: full, and read by no one; the other end is the result's second half.
fn full_pipe(non_blocking: bool) -> (OwnedFd, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    while theirs.write(&[b'.'; 4096]).is_ok() {}
    while theirs.write(b".").is_ok() {}
    theirs.set_nonblocking(non_blocking).unwrap();
    (theirs.into(), ours)
}

// covers B20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_whose_log_no_one_takes_serves_and_ends_in_order() {
    let (blocked, _unread) = full_pipe(false);
    let (non_blocking, _unread_either) = full_pipe(true);
    let (broken, gone) = UnixStream::pair().unwrap();
    drop(gone);
    let full_disk = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let kinds = [
        ("blocked", blocked),
        ("full and non-blocking", non_blocking),
        ("without a reader", broken.into()),
        ("on a full disk", full_disk.into()),
    ];
    for (kind, stderr) in kinds {
        let site = Site::new();
        let _manager = Manager::start(&site.manager, registered());
        let mut line = site.line();
        line.push("--trace-messages".into());
        let mut server = Process::start_into(&line, stderr.into());
        let client = site.open_session().await;
        for number in 1..=100 {
            site.put(client, number, b"k", b"v").await;
        }
        server.signal(Signal::TERM);
        assert_eq!(server.expect_end(ORDERLY_END), Some(0), "{kind}");
    }
}

// covers B21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_told_that_logs_are_rotated_or_the_terminal_is_gone_serves_on() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let mut server = site.start();
    let client = site.open_session().await;
    for number in 1..=3 {
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
            server.signal(signal);
        }
        site.put(client, number, b"k", b"v").await;
    }
    server.signal(Signal::TERM);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0), "{:#?}", server.all_lines());
}

/// The command line under a limit, in units of 512 bytes, of how long a file may be.
fn with_file_limit(line: &[String], blocks: usize) -> Vec<String> {
    let quoted: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    vec!["sh".to_owned(), "-c".to_owned(), format!("ulimit -f {blocks}; exec {}", quoted.join(" "))]
}

// covers B22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_at_the_limit_of_a_file_ends_with_a_line_and_goes_on_without_it() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let mut segments = site.line();
    segments.push("--log_engine=segments".into());
    // Less than one segment: it is found out at the start.
    let mut server = Process::start(&with_file_limit(&segments, 4096));
    server.expect_line("File too large");
    assert_eq!(server.expect_end(TIMEOUT), Some(1), "{:#?}", server.all_lines());
    let mut server = Process::start(&segments);
    let client = site.open_session().await;
    site.put(client, 1, b"k", b"v").await;
    server.signal(Signal::TERM);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0));

    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let mut server = Process::start(&with_file_limit(&site.line(), 8192));
    let client = site.open_session().await;
    site.put(client, 1, b"k", b"v").await;
    let mut connection = dial(&site.api, SERVICE).await;
    let value = vec![b'x'; 200_000];
    for number in 2..200 {
        let command = Command::Put { key: b"k", value: &value }.encode();
        if connection
            .ask::<ClusterMap>(ClientRequest::Write { client, number, lowest_unanswered: number, command })
            .await
            .is_err()
        {
            break;
        }
    }
    let line = server.expect_line("this process ends");
    assert!(line.contains("File too large") && line.contains("start it again"), "{line}");
    assert_eq!(server.expect_end(TIMEOUT), Some(70));
    let _server = site.start();
    assert!(site.get(b"k").await.is_some());
}

// covers G3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_whose_replica_is_taken_or_unknown_says_so() {
    let site = Site::new();
    let taken =
        Manager::start(&site.manager, ClientResponse::Occupied { by: Incarnation(0xbeef), map: Box::new(map()) });
    let mut server = site.start();
    let line = server.expect_line("beef");
    assert!(line.contains("readmit s0 0") && line.contains("s0.0"), "{line}");
    assert!(matches!(site.ask_once(ClientRequest::OpenSession).await, ClientResponse::OutOfService(_)));
    // It is remembered: neither a start without managers nor one with managers that know nothing makes it a founder.
    server.signal(Signal::KILL);
    server.expect_end(TIMEOUT);
    drop(taken);
    let mut server = site.start();
    server.expect_line("the manager knows that group s0 exists");
    assert!(matches!(site.ask_once(ClientRequest::OpenSession).await, ClientResponse::OutOfService(_)));
    let read = site.ask_once(ClientRequest::Read { query: Query::Get { key: b"k" }.encode() }).await;
    assert!(matches!(read, ClientResponse::OutOfService(_)), "{read:?}");
    drop(server);

    let site = Site::new();
    let _unknown = Manager::start(&site.manager, ClientResponse::Refused("the cluster has no s0.0".into()));
    let mut server = site.start();
    server.expect_line("no s0.0");
    assert_eq!(server.expect_end(TIMEOUT), Some(1));

    let site = Site::new();
    let servers: Vec<String> = (1..4).map(|port| format!("127.0.0.1:{port}")).collect();
    let three = ClusterMap::deal(CLUSTER, 3, &servers).unwrap();
    let _larger = Manager::start(&site.manager, ClientResponse::Registered(Box::new(three)));
    let mut server = site.start();
    server.expect_line("the cluster has groups of 3");
    assert_eq!(server.expect_end(TIMEOUT), Some(1));
}

// covers R13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scan_of_many_parts_comes_whole() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let _server = site.start();
    let client = site.open_session().await;
    for number in 1..=8u64 {
        site.put(client, number, format!("key{number}").as_bytes(), &[number as u8; 200_000]).await;
    }
    let mut connection = dial(&site.api, SERVICE).await;
    let mut body = connection
        .ask(ClientRequest::Read { query: Query::Scan { from: b"key2", to: b"key7" }.encode() })
        .await
        .unwrap();
    let (mut parts, mut records) = (0, Vec::new());
    while let ClientResponse::Part(part) = &body {
        parts += 1;
        records.extend(decode_records(part).unwrap());
        body = connection.more().await.unwrap();
    }
    let ClientResponse::Answer(last) = body else { panic!("{body:?}") };
    records.extend(decode_records(&last).unwrap());
    let keys: Vec<&[u8]> = records.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys, [b"key2", b"key3", b"key4", b"key5", b"key6", b"key7"]);
    assert!(records.iter().all(|(key, value)| value[..] == [key[3] - b'0'; 200_000]));
    assert!(parts >= 2, "{parts} parts");
}

// covers B3, B4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_each_port_closed_and_the_server_serves_on() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let mut server = site.start();
    let client = site.open_session().await;
    site.put(client, 1, b"k", b"v").await;
    for address in [&site.api, &site.p2p] {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5000], &[0; 64]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The other side may be faster to hang up than we are to finish.
            let _ = stream.write_all(garbage).await;
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "{address} listens to garbage");
        }
    }
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v"[..]));
    server.signal(Signal::TERM);
    assert_eq!(server.expect_end(ORDERLY_END), Some(0));
    assert!(server.all_lines().iter().all(|line| !line.contains("panick")));
}

/// Processor time that a process has used.
fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

// covers B8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_with_few_file_descriptors_outlives_a_crowd() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let quoted: Vec<String> = site.line().iter().map(|word| format!("'{word}'")).collect();
    let script = format!("ulimit -n 48; exec {}", quoted.join(" "));
    let server = Process::start(&["sh".to_owned(), "-c".to_owned(), script]);
    let client = site.open_session().await;
    let mut old = dial(&site.api, SERVICE).await;
    let mut crowd = Vec::new();
    for _ in 0..150 {
        crowd.push(TcpStream::connect(&site.api).await.unwrap());
    }
    let (start, before) = (Instant::now(), processor_time(server.child.id()));
    for number in 1..=5 {
        let command = Command::Put { key: b"k", value: b"v" }.encode();
        let body = old.ask(ClientRequest::Write { client, number, lowest_unanswered: number, command }).await.unwrap();
        assert!(matches!(body, ClientResponse::Answer(_)), "{body:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let used = processor_time(server.child.id()) - before;
    assert!(used < start.elapsed() / 2, "{used:?} of {:?}: accepting spins", start.elapsed());
    drop(crowd);
    assert_eq!(site.get(b"k").await.as_deref(), Some(&b"v"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traced_server_prints_messages_and_state() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let mut line = site.line();
    line.push("--trace-messages".into());
    let mut server = Process::start(&line);
    let client = site.open_session().await;
    site.put(client, 101, b"k", b"v").await;
    let request = format!("<C{}, S1, 101, request>", client.index);
    let received = server.expect_line(&format!("Received {request}"));
    let stamp = received.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap().0;
    assert!(stamp.contains('T') && stamp.ends_with('Z'), "{received}");
    server.expect_line(&format!("my_state_S1 = 0 keys (digest 0000000000000000) before processing {request}"));
    let after = server.expect_line(&format!("after processing {request}"));
    assert!(after.contains("my_state_S1 = 1 keys (digest "), "{after}");
    server.expect_line(&format!("Sending <C{}, S1, 101, reply>", client.index));
}

// covers B29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_listens_elsewhere_than_the_map_says_tells_it_and_gives_way() {
    let sites: Vec<Site> = (0..3).map(|_| Site::new()).collect();
    // No one listens where the map says that s0.0 is.
    let mapped = [free_address(), sites[1].api.clone(), sites[2].api.clone()];
    let map = ClusterMap::deal(CLUSTER, 3, &mapped).unwrap();
    let _managers: Vec<Manager> = sites
        .iter()
        .map(|site| Manager::start(&site.manager, ClientResponse::Registered(Box::new(map.clone()))))
        .collect();
    let mut servers: Vec<Process> = (0..3)
        .map(|replica| {
            let peers = (0..3).filter(|peer| *peer != replica).map(|peer| sites[peer].p2p.clone());
            let peers = peers.collect::<Vec<_>>().join(",");
            Process::start(&sites[replica].line_in_group(&replica.to_string(), &peers))
        })
        .collect();
    let line = servers[0].expect_line("does not answer at");
    assert!(line.contains(&mapped[0]) && line.contains(&sites[0].api), "{line}");
    // An operator who does not know hands it the leadership, again and again until it has led: it may just have led,
    // too.
    let has_led = async {
        loop {
            for site in &sites[1..] {
                if let Ok(mut connection) = Dialled::to(&site.api, SERVICE, None, TIMEOUT).await {
                    let _ = connection.ask::<ClusterMap>(ClientRequest::Transfer { to: 0 }).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let line = tokio::select! {
        line = tokio::task::spawn_blocking(move || {
            (servers[0].expect_line("has handed leadership over"), servers)
        }) => line.unwrap(),
        () = has_led => unreachable!("the loop has no end"),
    };
    assert!(line.0.contains("s0.0 has handed leadership over to s0."), "{}", line.0);
    let leads_nothing = || async {
        let ClientResponse::Status(status) = ask(&sites[0].api, SERVICE, ClientRequest::Status).await else {
            panic!("no status")
        };
        let says_it = matches!(&status.advertised, Advertised::Unreached { address, .. } if *address == mapped[0]);
        (says_it && status.role == Role::Follower && status.leader.is_some()).then_some(())
    };
    eventually("another one leads", leads_nothing).await;
}

fn frame<T: serde::Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    smr::codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

/// A connection that sends `bytes`, and never reads.
async fn deaf(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Whoever is shown out meanwhile need not take it.
    let _ = stream.write_all(bytes).await;
    stream
}

// covers B30 B31 B32 B33
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowd_of_hostile_connections_keeps_no_client_from_being_served() {
    let site = Site::new();
    let _manager = Manager::start(&site.manager, registered());
    let _server = site.start();
    let client = site.open_session().await;
    let value = vec![b'v'; 256 << 10];
    for number in 1..=24 {
        site.put(client, number, format!("k{number:02}").as_bytes(), &value).await;
    }
    let hello = frame(KIND_HELLO, &Hello { magic: MAGIC, cluster: None, service: SERVICE });
    let scan = || ClientRequest::Read { query: Query::Scan { from: b"k", to: b"l" }.encode() };
    let mut crowd = Vec::new();
    for number in 0..100 {
        crowd.push(deaf(&site.api, b"").await);
        crowd.push(deaf(&site.api, &hello[..hello.len() - 1]).await);
        crowd.push(deaf(&site.p2p, b"").await);
        let mut scans = hello.clone();
        for id in 0..4 {
            scans.extend(frame(KIND_REQUEST, &RequestFrame { id, epoch: 1, ask: scan() }));
        }
        crowd.push(deaf(&site.api, &scans).await);
        let mut sessions = hello.clone();
        for id in 0..150 {
            sessions.extend(frame(KIND_REQUEST, &RequestFrame { id, epoch: 1, ask: ClientRequest::OpenSession }));
        }
        crowd.push(deaf(&site.api, &sessions).await);
        // All the while one client goes on as if nothing was.
        assert!(site.put(client, 25 + number, b"k01", &value).await);
        assert_eq!(site.get(b"k02").await.as_deref(), Some(&value[..]));
    }
    let mut connection = Dialled::to(&site.api, SERVICE, None, TIMEOUT).await.unwrap();
    let mut body = connection.ask(scan()).await.unwrap();
    let mut parts = Vec::new();
    while let ClientResponse::Part(part) = body {
        parts.push(part);
        body = connection.more().await.unwrap();
    }
    let ClientResponse::Answer(last) = body else { panic!("{body:?}") };
    parts.push(last);
    let records: usize = parts.iter().map(|part| decode_records(part).unwrap().len()).sum();
    assert_eq!(records, 24);
    // The flood has opened more sessions than there may be, and none that writes was driven out.
    let ClientResponse::Status(status) = ask(&site.api, SERVICE, ClientRequest::Status).await else {
        panic!("no status")
    };
    assert!(status.sessions <= 10_000 && status.sessions > 5_000, "{}", status.sessions);
    assert!(site.put(client, 125, b"k01", b"still here").await);
    drop(crowd);
}

/// The most memory that a process has had in RAM at a time, in bytes.
fn peak_memory(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

// covers B13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_ask_for_much_and_do_not_read_cost_no_more_than_the_bound_and_depose_no_one() {
    const GREEDY: u64 = 120;
    const QUESTIONS: u64 = 1_000;
    /// What a process takes besides what is counted: its state, its log, the buffers of its threads.
    const BESIDES_BYTES: usize = 64 << 20;
    /// What one connection and a turn may hold: 16 MiB of answers, 4 MiB of a turn, and what is being written.
    const ALONE_BYTES: usize = 48 << 20;
    let sites: Vec<Site> = (0..3).map(|_| Site::new()).collect();
    let addresses: Vec<String> = sites.iter().map(|site| site.api.clone()).collect();
    let map = ClientResponse::Registered(Box::new(ClusterMap::deal(CLUSTER, 3, &addresses).unwrap()));
    let _managers: Vec<Manager> = sites.iter().map(|site| Manager::start(&site.manager, map.clone())).collect();
    let servers: Vec<Process> = (0..3)
        .map(|replica| {
            let peers = (0..3).filter(|peer| *peer != replica).map(|peer| sites[peer].p2p.clone());
            let peers = peers.collect::<Vec<_>>().join(",");
            Process::start(&sites[replica].line_in_group(&replica.to_string(), &peers))
        })
        .collect();
    let leads = || async {
        for (at, site) in sites.iter().enumerate() {
            if site.status().await.role == Role::Leader {
                return Some(at);
            }
        }
        None
    };
    let leader = eventually("a leader", leads).await;
    let site = &sites[leader];
    let client = site.open_session().await;
    site.put(client, 1, b"large", &vec![b'v'; 1 << 20]).await;
    site.put(client, 2, b"small", b"v").await;
    let (before, memory) = (site.status().await, peak_memory(servers[leader].child.id()));
    let mut questions = frame(KIND_HELLO, &Hello { magic: MAGIC, cluster: None, service: SERVICE });
    for id in 0..QUESTIONS {
        let ask = ClientRequest::Read { query: Query::Get { key: b"large" }.encode() };
        questions.extend(frame(KIND_REQUEST, &RequestFrame { id, epoch: 1, ask }));
    }
    let mut crowd = Vec::new();
    for number in 3..3 + GREEDY {
        crowd.push(deaf(&site.api, &questions).await);
        if number == 3 {
            let heard = || async {
                let used = peak_memory(servers[leader].child.id()) - memory;
                (used > 8 << 20).then_some(used)
            };
            let used = eventually("the first one is heard", heard).await;
            assert!(used <= ALONE_BYTES, "{} MiB for one connection", used >> 20);
        }
        // All the while one client goes on as if nothing was.
        assert!(site.put(client, number, b"small", b"v").await);
        assert_eq!(site.get(b"small").await.as_deref(), Some(&b"v"[..]));
    }
    let (after, used) = (site.status().await, peak_memory(servers[leader].child.id()) - memory);
    assert!(used > 32 << 20, "{used} bytes: the crowd has not been heard");
    assert!(used <= TOTAL_MAX_BYTES + BESIDES_BYTES, "{} MiB more than before", used >> 20);
    assert_eq!((after.term, after.role), (before.term, Role::Leader), "the leader was deposed");
    drop(crowd);
}

/// A page of a process, once it has the code.
async fn page(address: &str, path: &str, code: u16) -> String {
    eventually("a page", || async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with(&format!("HTTP/1.1 {code} ")).then_some(text)
    })
    .await
}

#[tokio::test]
async fn status_page_names_the_address_that_clients_are_given() {
    let mut site = Site::new();
    let http = free_address();
    // As in a container: on all addresses, none of which is one to dial.
    site.api = format!("0.0.0.0:{}", site.api.rsplit_once(':').unwrap().1);
    let _manager = Manager::start(&site.manager, registered());
    let mut line = site.line();
    line.extend(["--http_listen".to_owned(), http.clone()]);
    let _server = Process::start(&line);
    page(&http, "/readyz", 200).await;
    let status = page(&http, "/status", 200).await;
    assert!(status.contains("\"address\":\"127.0.0.1:3777\""), "{status}");
}

#[tokio::test]
async fn service_manager_is_not_kept_waiting_by_a_server_that_waits_for_a_manager() {
    let site = Site::new();
    let http = free_address();
    let socket = site.directory.path().join("notify");
    let listener = tokio::net::UnixDatagram::bind(&socket).unwrap();
    let heard = async || {
        let mut bytes = [0; 512];
        let len = tokio::time::timeout(TIMEOUT, listener.recv(&mut bytes)).await.unwrap().unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let mut line = vec!["/usr/bin/env".to_owned(), format!("NOTIFY_SOCKET={}", socket.display())];
    line.extend(site.line());
    line.extend(["--http_listen".to_owned(), http.clone()]);
    let server = Process::start(&line);
    assert_eq!(heard().await, "READY=1", "no boot waits for it");
    assert_eq!(heard().await, "STATUS=waits for others");
    let waits = heard().await;
    assert!(waits.starts_with("STATUS=waits for a manager ("), "{waits}");
    // No one may take it for a replica that hangs, nor for one that serves.
    let numbers = page(&http, "/metrics", 200).await;
    let starting = numbers.lines().find(|line| line.starts_with("smr_starting{"));
    assert!(starting.is_some_and(|line| line.ends_with(" 1")), "{numbers}");
    page(&http, "/readyz", 503).await;

    let _manager = Manager::start(&site.manager, registered());
    assert_eq!(heard().await, "STATUS=listens for clients");
    page(&http, "/readyz", 200).await;
    let numbers = page(&http, "/metrics", 200).await;
    let starting = numbers.lines().find(|line| line.starts_with("smr_starting{"));
    assert!(starting.is_some_and(|line| line.ends_with(" 0")), "{numbers}");
    // All outcomes are there before the first of them, or its increase would not be seen.
    assert!(numbers.contains("outcome=\"disk_full\"") && numbers.contains("outcome=\"dropped\""), "{numbers}");
    server.signal(Signal::TERM);
    assert_eq!(heard().await, "STOPPING=1");
}
