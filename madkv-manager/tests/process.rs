//! A manager as a process, in a group of one.

#![cfg(test)]

#[path = "../../madkv-server/tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Registration, Service};
use madkv_proto::map::ClusterMap;
use rustix::process::Signal;
use smr::entry::GenesisHash;
use smr::id::{Incarnation, StartTrail};
use support::{Process, TIMEOUT, ask, dial, eventually, free_address};

/// The contract: an orderly end takes at most this long.
const ORDERLY_END: Duration = Duration::from_secs(60);

struct Site {
    directory: tempfile::TempDir,
    address: String,
    p2p: String,
}

impl Site {
    fn new() -> Site {
        Site { directory: tempfile::tempdir().unwrap(), address: free_address(), p2p: free_address() }
    }

    fn start(&self, server_rf: usize, servers: &str) -> Process {
        Process::start(&self.line(server_rf, servers))
    }

    fn line(&self, server_rf: usize, servers: &str) -> Vec<String> {
        let backer = self.directory.path().join("backer.m.0").to_str().unwrap().to_owned();
        let rf = server_rf.to_string();
        let mut line = vec![env!("CARGO_BIN_EXE_madkv-manager").to_owned(), "--allow_unsynced".to_owned()];
        let flags = [
            ("--replica_id", "0"),
            ("--man_listen", &self.address),
            ("--p2p_listen", &self.p2p),
            ("--peer_addrs", "none"),
            ("--server_rf", &rf),
            ("--server_addrs", servers),
            ("--backer_path", &backer),
        ];
        line.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]));
        line
    }

    async fn map(&self) -> ClusterMap {
        match ask(&self.address, Service::Manager, ClientRequest::Map).await {
            ClientResponse::Map(map) => *map,
            other => panic!("{other:?}"),
        }
    }

    async fn register(&self, partition: u16, incarnation: u64, member: bool) -> ClientResponse {
        let registration = Registration {
            partition,
            replica: 0,
            incarnation: Incarnation(incarnation),
            member,
            genesis: member.then_some(GenesisHash(70)),
            start: StartTrail::default().next(1),
        };
        ask(&self.address, Service::Manager, ClientRequest::Register(registration)).await
    }
}

// covers G1, G2, G3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_lays_out_registers_and_remembers_across_restarts() {
    let site = Site::new();
    let mut manager = site.start(1, "127.0.0.1:11,127.0.0.1:12");
    let map = site.map().await;
    assert_eq!((map.epoch, map.partitions.len()), (1, 2));
    assert_eq!(map.partitions[1].servers, ["127.0.0.1:12"]);
    assert!(matches!(site.register(1, 7, true).await, ClientResponse::Registered(same) if *same == map));
    assert!(matches!(site.register(1, 8, false).await, ClientResponse::Occupied { by: Incarnation(7), .. }));
    assert!(matches!(site.register(2, 7, false).await, ClientResponse::Refused(_)));
    let refused = ask(&site.address, Service::Manager, ClientRequest::OpenSession).await;
    assert!(matches!(refused, ClientResponse::Refused(_)), "{refused:?}");

    manager.signal(Signal::TERM);
    assert_eq!(manager.expect_end(ORDERLY_END), Some(0), "{:#?}", manager.all_lines());
    let mut manager = site.start(1, "127.0.0.1:11,127.0.0.1:12");
    assert_eq!(site.map().await, map, "the same map, in the same epoch, of the same cluster");
    assert!(matches!(site.register(1, 8, false).await, ClientResponse::Occupied { by: Incarnation(7), .. }));
    let connection = dial(&site.address, Service::Manager).await;
    assert_eq!(connection.welcome().cluster, Some(map.cluster));

    manager.signal(Signal::KILL);
    manager.expect_end(TIMEOUT);
    let mut manager = site.start(1, "127.0.0.1:11,127.0.0.1:13");
    let line = manager.expect_line("another layout");
    assert!(line.contains("--server_rf 1 --server_addrs 127.0.0.1:11,127.0.0.1:12"), "{line}");
    assert_eq!(manager.expect_end(TIMEOUT), Some(2), "{:#?}", manager.all_lines());
    let _manager = site.start(1, "127.0.0.1:11,127.0.0.1:12");
    assert_eq!(site.map().await, map);
}

// covers B9 G12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_with_other_services_than_those_of_its_directory_ends_with_one_line_and_loses_nothing() {
    let site = Site::new();
    let servers = "127.0.0.1:11,127.0.0.1:12,127.0.0.1:13";
    let start = |services: &[&str]| {
        let mut line = site.line(1, servers);
        line.extend(services.iter().map(|services| format!("--service={services}")));
        Process::start(&line)
    };
    let mut manager = start(&["kv,voting,kv"]);
    let map = site.map().await;
    assert!(map.partitions[1].slots.is_empty() && !map.partitions[1].is_store);
    assert!(matches!(site.register(1, 7, true).await, ClientResponse::Registered(_)));
    manager.signal(Signal::KILL);
    manager.expect_end(TIMEOUT);
    for others in [&[][..], &["voting"], &["kv,factory,kv"]] {
        let mut manager = start(others);
        let line = manager.expect_line("other services");
        assert!(line.contains("--service: ") && line.contains("start it with --service kv,voting,kv"), "{line}");
        assert_eq!(manager.expect_end(TIMEOUT), Some(2), "{:#?}", manager.all_lines());
    }
    let _manager = start(&["kv,voting,kv"]);
    assert_eq!(site.map().await, map);
    assert!(matches!(site.register(1, 8, false).await, ClientResponse::Occupied { by: Incarnation(7), .. }));
    let asked = ask(&site.address, Service::Manager, ClientRequest::Control(ControlRequest::Services.encode())).await;
    let ClientResponse::Answer(answer) = asked else { panic!("{asked:?}") };
    let ControlReply::Services(services) = ControlReply::decode(&answer).unwrap() else { panic!("{answer:?}") };
    assert_eq!(services.iter().map(ToString::to_string).collect::<Vec<_>>(), ["kv", "voting", "kv"]);
}

// covers B20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_whose_log_no_one_takes_serves_and_ends_in_order() {
    let site = Site::new();
    let (mut blocked, _unread) = UnixStream::pair().unwrap();
    blocked.set_nonblocking(true).unwrap();
    while blocked.write(b".").is_ok() {}
    blocked.set_nonblocking(false).unwrap();
    let mut manager = Process::start_into(&site.line(1, "127.0.0.1:11"), OwnedFd::from(blocked).into());
    site.map().await;
    manager.signal(Signal::TERM);
    assert_eq!(manager.expect_end(ORDERLY_END), Some(0));
}

// covers G4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_without_quorum_and_map_says_that_it_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let (address, p2p) = (free_address(), free_address());
    let backer = directory.path().join("m").to_str().unwrap().to_owned();
    let peers = format!("{},{}", free_address(), free_address());
    let line = [
        env!("CARGO_BIN_EXE_madkv-manager"),
        "--allow_unsynced",
        "--replica_id=0",
        &format!("--man_listen={address}"),
        &format!("--p2p_listen={p2p}"),
        &format!("--peer_addrs={peers}"),
        "--server_rf=1",
        "--server_addrs=127.0.0.1:11",
        &format!("--backer_path={backer}"),
    ];
    let _manager = Process::start(&line.map(str::to_owned));
    let body = eventually("an answer", || async {
        let mut connection = dial(&address, Service::Manager).await;
        connection.ask(ClientRequest::Map).await.ok()
    })
    .await;
    assert!(matches!(body, ClientResponse::NoMap | ClientResponse::OutOfService(_)), "{body:?}");
}

#[test]
fn service_manager_hears_of_the_start_and_of_the_end() {
    let site = Site::new();
    let socket = site.directory.path().join("notify");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(TIMEOUT)).unwrap();
    let heard = || {
        let mut bytes = [0; 64];
        let len = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let mut manager = Process::start_under(&site.line(1, "127.0.0.1:11"), &socket);
    assert_eq!(heard(), "READY=1");
    manager.signal(Signal::TERM);
    // Until then it may say what it is at.
    while heard() != "STOPPING=1" {}
    assert_eq!(manager.expect_end(ORDERLY_END), Some(0));
}
