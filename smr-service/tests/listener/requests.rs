//! Greetings, requests and their answers, and the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::codec::FORMAT_VERSION;
use smr::id::ClusterId;
use smr_service::frames::{
    ClientRequest, Hello, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_RESPONSE, KIND_WELCOME, RangedHello,
    RangedWelcome, Service, Welcome,
};
use smr_service::listener::{Listener, ListenerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::support::{
    CLUSTER, Client, ClientResponse, Fake, ResponseFrame, SERVICE, TIMEOUT, eventually, expect_baseline,
    expect_service, frame, hello, open, quick, read, request, write,
};

#[tokio::test]
async fn request_behind_hello_in_one_write_answered() {
    let (listener, _) = open(ListenerLimits::default());
    let mut client = Client::dial(&listener).await;
    let mut bytes = frame(KIND_HELLO, &hello());
    bytes.extend(request(9, ClientRequest::Status));
    bytes.extend(request(10, ClientRequest::Map));
    client.send(&bytes).await;
    client.expect::<Welcome>(KIND_WELCOME).await;
    assert_eq!(client.response().await, (9, ClientResponse::Done));
    assert_eq!(
        client.response().await,
        (10, ClientResponse::WrongPartition { epoch: 4 }),
        "the epoch is handed through"
    );
}

#[tokio::test]
async fn request_in_single_bytes_answered() {
    let (listener, _) = open(ListenerLimits::default());
    let mut client = Client::dial(&listener).await;
    client.stream.set_nodelay(true).unwrap();
    let mut bytes = frame(KIND_HELLO, &hello());
    bytes.extend(request(9, read("slow")));
    for byte in bytes {
        client.send(&[byte]).await;
    }
    client.expect::<Welcome>(KIND_WELCOME).await;
    assert_eq!(client.response().await, (9, ClientResponse::Answer(Bytes::from_static(b"slow"))));
}

#[tokio::test]
async fn requests_pipelined_each_answered_once() {
    let (listener, fake) = open(ListenerLimits::default());
    let mut client = Client::greeted(&listener).await;
    let mut bytes = Vec::new();
    for id in 0..1000 {
        let ask = if id % 2 == 0 { read(id.to_string()) } else { write("w") };
        bytes.extend(request(id, ask));
    }
    client.send(&bytes).await;
    eventually("all writes are held", || fake.held() == 500).await;
    fake.release();
    let mut answers = BTreeMap::new();
    for _ in 0..1000 {
        let (id, body) = client.response().await;
        assert!(answers.insert(id, body).is_none(), "request {id} was answered twice");
    }
    for (id, body) in answers {
        let expected = if id % 2 == 0 { id.to_string().into() } else { Bytes::from_static(b"released") };
        assert_eq!(body, ClientResponse::Answer(expected));
    }
    drop(client);
    expect_baseline(&listener).await;
}

#[tokio::test]
async fn hello_with_a_range_of_versions_is_answered_in_the_highest_common_one() {
    let (listener, _) = open(ListenerLimits::default());
    let ranged = RangedHello::new(Some(CLUSTER), SERVICE);
    let newer = RangedHello { newest: 9, later: Bytes::from_static(b"of a build to come"), ..ranged.clone() };
    let former = RangedHello { newest: 1, ..ranged.clone() };
    for (hello, version) in [(&ranged, 3), (&newer, 3), (&former, 1)] {
        let mut client = Client::dial(&listener).await;
        client.send(&frame(KIND_RANGED_HELLO, hello)).await;
        let welcome: RangedWelcome = client.expect(KIND_RANGED_WELCOME).await;
        assert_eq!(welcome, RangedWelcome { version, cluster: Some(CLUSTER), epoch: 5, later: Bytes::new() });
        client.send(&request(1, read("x"))).await;
        let _: ResponseFrame = client.expect(KIND_RESPONSE).await;
    }
    let cases = [
        (RangedHello { newest: 9, oldest: 4, ..ranged.clone() }, "versions 4 to 9"),
        (RangedHello { oldest: 4, ..ranged.clone() }, "ends before it begins"),
        (RangedHello { magic: 1, ..ranged.clone() }, "protocol"),
        (RangedHello { service: Service::Manager, ..ranged }, "Manager"),
    ];
    for (hello, word) in cases {
        let mut client = Client::dial(&listener).await;
        client.send(&frame(KIND_RANGED_HELLO, &hello)).await;
        let reason = client.expect_refusal().await;
        assert!(reason.contains(word), "{reason}");
    }
    expect_service(&listener).await;
}

// covers B4
#[tokio::test]
async fn hello_of_another_protocol_cluster_service_or_version_refused_with_reason() {
    let (listener, _) = open(ListenerLimits::default());
    let cases = [
        (Hello { magic: 1, ..hello() }, "protocol"),
        (Hello { cluster: Some(ClusterId(78)), ..hello() }, "cluster"),
        (Hello { service: Service::Manager, ..hello() }, "Manager"),
        (Hello { service: Service::Server { partition: 4 }, ..hello() }, "partition: 4"),
    ];
    for (hello, word) in cases {
        let mut client = Client::dial(&listener).await;
        // What the client sends after its hello must not cost it the reason.
        let mut bytes = frame(KIND_HELLO, &hello);
        bytes.extend(request(1, read("hasty")));
        client.send(&bytes).await;
        let reason = client.expect_refusal().await;
        assert!(reason.contains(word), "{reason}");
    }
    let mut client = Client::dial(&listener).await;
    let mut bytes = frame(KIND_HELLO, &hello());
    bytes[4..6].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    client.send(&bytes).await;
    assert!(client.expect_refusal().await.contains("version"));
    let mut client = Client::dial(&listener).await;
    client.send(&request(1, ClientRequest::Status)).await;
    assert!(client.expect_refusal().await.contains("kind"));
    expect_service(&listener).await;
    expect_baseline(&listener).await;
}

#[tokio::test]
async fn hello_without_cluster_is_welcome() {
    let (listener, _) = open(ListenerLimits::default());
    let mut client = Client::dial(&listener).await;
    client.send(&frame(KIND_HELLO, &Hello { cluster: None, ..hello() })).await;
    client.expect::<Welcome>(KIND_WELCOME).await;
}

// covers R13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_long_answer_in_order_and_as_fast_as_the_client_reads() {
    let (listener, _) = open(ListenerLimits::default());
    let mut client = Client::greeted(&listener).await;
    client.send(&request(1, read("*300"))).await;
    client.send(&request(2, read("short"))).await;
    eventually("the worker waits for the client", || listener.held_bytes() > 1 << 20).await;
    let (mut parts, mut ended, mut short) = (0u64, false, false);
    while !ended {
        assert!(listener.held_bytes() < 2 << 20, "{} bytes are held for 30 MB of parts", listener.held_bytes());
        match client.response().await {
            (1, ClientResponse::Part(part)) => {
                assert_eq!(part[..8], parts.to_le_bytes());
                parts += 1;
            }
            (1, ClientResponse::Answer(last)) => {
                assert_eq!(last, Bytes::from_static(b"end"));
                ended = true;
            }
            (2, _) => short = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((parts, short), (300, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_client_that_went_away_end_their_worker() {
    let (listener, _) = open(quick());
    let mut client = Client::greeted(&listener).await;
    client.send(&request(1, read("*1000000"))).await;
    assert!(matches!(client.response().await, (1, ClientResponse::Part(_))));
    drop(client);
    expect_baseline(&listener).await;
}

#[tokio::test]
async fn client_that_closes_its_side_still_hears_its_answers() {
    let (listener, fake) = open(ListenerLimits::default());
    let mut client = Client::greeted(&listener).await;
    client.send(&request(1, write("w"))).await;
    client.stream.shutdown().await.unwrap();
    eventually("the write is held", || fake.held() == 1).await;
    fake.release();
    assert_eq!(client.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"released"))));
    assert_eq!(client.expect_end().await, b"");
}

#[tokio::test]
async fn client_gone_with_unanswered_request_not_waited_for_long() {
    let (listener, fake) = open(quick());
    let mut client = Client::greeted(&listener).await;
    client.send(&request(1, write("w"))).await;
    eventually("the write is held", || fake.held() == 1).await;
    drop(client);
    eventually("the connection ends", || listener.connections() == 0).await;
    fake.release(); // answers no one, harms no one
    expect_baseline(&listener).await;
}

// covers B10
#[tokio::test]
async fn close_answers_what_is_under_way_and_takes_nothing_new() {
    let (listener, fake) = open(ListenerLimits::default());
    let mut client = Client::greeted(&listener).await;
    let mut idle = Client::greeted(&listener).await;
    client.send(&request(1, write("w"))).await;
    eventually("the write is held", || fake.held() == 1).await;
    let address = listener.address();
    listener.stop_accepting();
    client.send(&request(2, read("still served"))).await;
    assert_eq!(client.response().await.0, 2);
    let start = Instant::now();
    let closing = tokio::spawn(listener.close(TIMEOUT));
    idle.expect_end().await;
    fake.release();
    assert_eq!(client.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"released"))));
    assert_eq!(client.expect_end().await, b"");
    closing.await.unwrap();
    assert!(start.elapsed() < TIMEOUT);
    assert!(TcpStream::connect(address).await.is_err(), "no one listens any more");
}

/// `cargo test --release -p smr-service --test listener -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; needs a release build"]
async fn cost_of_a_request_at_the_listener() {
    const REQUESTS: u64 = 300_000;
    let (listener, _) = open(ListenerLimits::default());
    for (connections, depth) in [(1, 1), (64, 1), (1, 64), (8, 64)] {
        let per_connection = REQUESTS / if depth == 1 { 3 } else { 1 } / connections;
        let start = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let mut client = Client::greeted(&listener).await;
            tasks.push(tokio::spawn(async move {
                let burst: Vec<u8> = (0..depth).flat_map(|id| request(id, read(vec![7; 100]))).collect();
                let answers =
                    frame(KIND_RESPONSE, &ResponseFrame { id: 0, body: ClientResponse::Answer(vec![7; 100].into()) })
                        .len();
                let mut scrap = vec![0; answers * depth as usize];
                for _ in 0..per_connection / depth {
                    client.send(&burst).await;
                    client.stream.read_exact(&mut scrap).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let count = per_connection / depth * depth * connections;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        println!("{connections} connections, {depth} requests each: {rate:.0} requests/s");
    }
}

#[tokio::test]
async fn listener_on_all_addresses_knows_by_which_one_it_was_reached() {
    let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let listener = Listener::open(&Handle::current(), socket, Arc::new(Fake::default()), ListenerLimits::default());
    let listener = listener.unwrap();
    let watch = listener.watch();
    assert_eq!(watch.reached_at(), None);
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], listener.address().port()));
    let _stream = TcpStream::connect(at).await.unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while watch.reached_at().is_none() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(watch.reached_at(), Some(at));
}
