//! What is too much, too slow or no frame at all ends, and no one else hears of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::codec::HEADER_LEN_BYTES;
use smr_service::frames::{ClientRequest, KIND_HELLO, KIND_REFUSAL, KIND_REQUEST, Refusal};
use smr_service::listener::ListenerLimits;
use tokio::io::AsyncWriteExt;

use crate::support::{
    Client, ClientResponse, NEVER, SHORT, TIMEOUT, eventually, expect_baseline, expect_service, frame, hello, open,
    quick, read, request, write,
};

// covers B3
#[tokio::test]
async fn http_request_closed_without_waiting_for_more() {
    let (listener, _) = open(ListenerLimits { handshake_timeout: NEVER, ..ListenerLimits::default() });
    let mut client = Client::dial(&listener).await;
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    client.expect_refusal().await;
    expect_service(&listener).await;
    expect_baseline(&listener).await;
}

// covers B1, B3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_before_and_after_hello_closed_and_everything_given_back() {
    let (listener, _) = open(quick());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let valid = [frame(KIND_HELLO, &hello()), request(1, read("x")), request(2, write(vec![0; 300]))].concat();
    for round in 0..300 {
        let mut bytes = match round % 3 {
            0 => (0..random() % 500).map(|_| random() as u8).collect(),
            _ => valid.clone(),
        };
        if round % 3 == 1 {
            bytes.truncate((random() as usize) % bytes.len());
        } else if round % 3 == 2 {
            let bit = (random() as usize) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut client = Client::dial(&listener).await;
        client.send(&bytes).await;
    }
    expect_service(&listener).await;
    expect_baseline(&listener).await;
}

// covers B2
#[tokio::test]
async fn frame_length_beyond_the_limit_ends_that_connection_only() {
    // The frame's rest is not waited for.
    let limits = ListenerLimits { request_max_bytes: 1000, frame_timeout: NEVER, ..quick() };
    let (listener, _) = open(limits);
    let mut bystander = Client::greeted(&listener).await;
    for length in [1001, u32::MAX] {
        let mut client = Client::greeted(&listener).await;
        let mut bytes = request(1, ClientRequest::Status);
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        client.send(&bytes).await;
        assert_eq!(client.expect_end().await, b"");
    }
    // A payload of no bytes is a valid frame, and no request.
    let mut client = Client::greeted(&listener).await;
    let empty = frame(KIND_REQUEST, &());
    assert_eq!(empty.len(), HEADER_LEN_BYTES);
    client.send(&empty).await;
    assert_eq!(client.expect_end().await, b"");
    // One at the limit is taken.
    let rest = request(1, read("")).len() - HEADER_LEN_BYTES;
    bystander.send(&request(1, read(vec![b'x'; 1000 - rest]))).await;
    assert!(matches!(bystander.response().await, (1, ClientResponse::Answer(_))));
}

// covers B7
#[tokio::test]
async fn half_frames_closed_after_deadline_idle_connection_stays() {
    let (listener, _) = open(ListenerLimits { handshake_timeout: SHORT, frame_timeout: SHORT, ..quick() });
    let mut silent = Client::dial(&listener).await;
    let mut half_hello = Client::dial(&listener).await;
    half_hello.send(&frame(KIND_HELLO, &hello())[..20]).await;
    let mut idle = Client::greeted(&listener).await;
    let mut half_request = Client::greeted(&listener).await;
    let whole = request(1, read("x"));
    half_request.send(&[&whole[..], &whole[..10]].concat()).await;
    assert_eq!(half_request.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"x"))));
    for client in [&mut silent, &mut half_hello, &mut half_request] {
        client.expect_end().await;
    }
    eventually("only the idle one is left", || listener.connections() == 1).await;
    idle.send(&whole).await;
    assert_eq!(idle.response().await.0, 1);
}

// covers B7
#[tokio::test]
async fn half_frame_trickling_in_closed_after_deadline() {
    let (listener, _) = open(ListenerLimits { frame_timeout: SHORT, ..quick() });
    let mut client = Client::greeted(&listener).await;
    let whole = request(1, read(vec![b'x'; 10_000]));
    let start = Instant::now();
    for byte in &whole {
        if client.stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < TIMEOUT);
    }
    client.expect_end().await;
    expect_baseline(&listener).await;
}

// covers I17
#[tokio::test]
async fn requests_beyond_in_flight_limit_busy_the_others_answered() {
    let (listener, fake) = open(ListenerLimits { requests_max: 8, ..ListenerLimits::default() });
    let mut client = Client::greeted(&listener).await;
    let bytes: Vec<u8> = (0..10).flat_map(|id| request(id, write("w"))).collect();
    client.send(&bytes).await;
    for id in [8, 9] {
        let (busy, body) = client.response().await;
        assert_eq!(busy, id);
        assert!(matches!(body, ClientResponse::Busy { retry_after_ms: 1.. }), "{body:?}");
    }
    assert_eq!(fake.held(), 8);
    fake.release();
    for _ in 0..8 {
        assert_eq!(client.response().await.1, ClientResponse::Answer(Bytes::from_static(b"released")));
    }
    client.send(&request(10, read("again"))).await;
    assert_eq!(client.response().await, (10, ClientResponse::Answer(Bytes::from_static(b"again"))));
}

#[tokio::test]
async fn bytes_in_flight_beyond_limit_busy() {
    let (listener, fake) = open(ListenerLimits { in_flight_max_bytes: 10_000, ..ListenerLimits::default() });
    let mut client = Client::greeted(&listener).await;
    for id in 0..3 {
        client.send(&request(id, write(vec![0; 4000]))).await;
    }
    let (id, body) = client.response().await;
    assert_eq!(id, 2);
    assert!(matches!(body, ClientResponse::Busy { .. }));
    fake.release();
    for _ in 0..2 {
        client.response().await;
    }
}

// covers N7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_never_reads_bounded_then_closed() {
    let limits = ListenerLimits { answers_max_bytes: 1 << 20, ..quick() };
    let (listener, _) = open(limits);
    let client = Client::greeted(&listener).await;
    let (_reads_nothing, mut output) = client.stream.into_split();
    let asking = async {
        for id in 0.. {
            if output.write_all(&request(id, read("#100000"))).await.is_err() {
                return;
            }
        }
    };
    let watching = async {
        let mut most = 0;
        loop {
            most = most.max(listener.held_bytes());
            tokio::time::sleep(Duration::from_millis(1)).await;
            if listener.connections() == 0 {
                return most;
            }
        }
    };
    let both = async { tokio::join!(asking, watching) };
    let ((), most) = tokio::time::timeout(TIMEOUT, both).await.expect("the connection ends");
    assert!((100_000..3 << 20).contains(&most), "{most} bytes were held");
    expect_service(&listener).await;
    expect_baseline(&listener).await;
}

// covers N7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_reads_a_byte_now_and_then_closed() {
    let (listener, _) = open(quick());
    let mut client = Client::greeted(&listener).await;
    for id in 0..10 {
        client.send(&request(id, read("#1000000"))).await;
    }
    let start = Instant::now();
    while listener.connections() > 0 {
        let mut byte = [0];
        let _ = client.stream.try_read(&mut byte);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() < TIMEOUT, "the connection stays open");
    }
    expect_baseline(&listener).await;
}

// covers B7
#[tokio::test]
async fn connections_beyond_the_limit_turned_away_until_one_ends() {
    let (listener, _) = open(ListenerLimits { connections_max: 3, ..ListenerLimits::default() });
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::greeted(&listener).await);
    }
    let mut refused = Client::dial(&listener).await;
    refused.send(&frame(KIND_HELLO, &hello())).await;
    let Refusal { reason } = refused.expect(KIND_REFUSAL).await;
    assert!(reason.contains("too many"), "{reason}");
    clients.pop();
    eventually("a place is free", || listener.connections() == 2).await;
    expect_service(&listener).await;
}

// covers B32
#[tokio::test]
async fn strangers_who_say_nothing_keep_out_only_each_other() {
    let (listener, _) = open(ListenerLimits { connections_max: 3, strangers_max: 4, ..ListenerLimits::default() });
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Client::dial(&listener).await);
    }
    // The four that came last are still there; none of them has a place of those for clients.
    eventually("the others are shown out", || listener.connections() == 4).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::greeted(&listener).await);
    }
    for client in &mut clients {
        client.send(&request(1, read("x"))).await;
        assert_eq!(client.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"x"))));
    }
    drop(silent);
}

// covers B7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_idle_connections_a_normal_client_is_served() {
    let (listener, _) = open(ListenerLimits { handshake_timeout: NEVER, ..ListenerLimits::default() });
    let mut idle = Vec::new();
    for number in 0..200 {
        let client = if number % 2 == 0 { Client::greeted(&listener).await } else { Client::dial(&listener).await };
        idle.push(client);
    }
    eventually("all are there", || listener.connections() == 200).await;
    expect_service(&listener).await;
    drop(idle);
    expect_baseline(&listener).await;
}
