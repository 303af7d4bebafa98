//! How a server starts, waits, says what it does, and ends.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use madkv_proto::command::{Command, Query, decode_records};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::map::ClusterMap;
use rustix::process::Signal;
use smr::id::Incarnation;
use smr::status::{Advertised, Role};
use smr_service::dial::Dialled;

use crate::site::{CLUSTER, Manager, ORDERLY_END, SERVICE, Site, map, page, registered};
use crate::support::{Process, TIMEOUT, ask, dial, eventually, free_address};

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

// covers B9 G12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_of_a_group_of_another_service_ends_with_one_line_before_it_registers() {
    for joins in [false, true] {
        let site = Site::new();
        let services = vec!["voting".parse().unwrap()];
        let manager = Manager::start_with(&site.manager, registered(), Some(services));
        let mut line = site.line();
        if joins {
            line = site.line_in_group("0", "127.0.0.1:1");
            line.extend(["--join", "--advertise=127.0.0.1:2,127.0.0.1:3"].map(str::to_owned));
        }
        let mut server = Process::start(&line);
        assert_eq!(server.expect_end(TIMEOUT), Some(2), "{:#?}", server.all_lines());
        let lines = server.all_lines();
        let said = "--partition_id: 0; the managers say that s0 is of service voting, not kv";
        assert!(lines.last().is_some_and(|line| line.contains(said)), "{lines:#?}");
        assert_eq!(manager.heard(), [], "it has a place");
    }
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
