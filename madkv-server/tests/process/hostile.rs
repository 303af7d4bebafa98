//! Who wants too much, sends garbage or does not read: the server serves all others.

use std::time::{Duration, Instant};

use madkv_proto::command::{Command, Query, decode_records};
use madkv_proto::frames::{ClientRequest, ClientResponse, Hello, KIND_HELLO, KIND_REQUEST, MAGIC, RequestFrame};
use madkv_proto::map::ClusterMap;
use rustix::process::Signal;
use smr::status::Role;
use smr_service::dial::Dialled;
use smr_service::limits::TOTAL_MAX_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::{CLUSTER, Manager, ORDERLY_END, SERVICE, Site, registered};
use crate::support::{Process, TIMEOUT, ask, dial, eventually};

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
