//! The listener over real sockets, with a backend that does what the test says.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::codec::{self, FORMAT_VERSION, HEADER_LEN_BYTES};
use smr::id::{ClientId, ClusterId};
use smr::replica::{Outcome, ReplyTo};
use smr::wire::read_frame;
use smr_service::frames::{
    ClientRequest, Hello, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL, KIND_REQUEST,
    KIND_RESPONSE, KIND_WELCOME, MAGIC, RangedHello, RangedWelcome, Refusal, RequestFrame, Service, Welcome,
};
use smr_service::listener::{Backend, Listener, ListenerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

type ClientResponse = smr_service::frames::ClientResponse<()>;
type ResponseFrame = smr_service::frames::ResponseFrame<()>;

const CLUSTER: ClusterId = ClusterId(77);
const SERVICE: Service = Service::Server { partition: 3 };
/// Longer than anything here takes; a test that reaches it has failed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that is waited for.
const SHORT: Duration = Duration::from_millis(300);
/// A limit that must not be what ended something.
const NEVER: Duration = Duration::from_secs(3600);

/// Answers `Status` with `Done` at once, reads by what their query says, and keeps writes until [`Fake::release`].
#[derive(Default)]
struct Fake {
    held: Mutex<Vec<ReplyTo>>,
}

impl Fake {
    fn release(&self) {
        for reply in self.held.lock().unwrap().drain(..) {
            reply.send(Outcome::Answer(Bytes::from_static(b"released")));
        }
    }

    fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }
}

impl Backend for Fake {
    type Map = ();

    fn service(&self) -> Service {
        SERVICE
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    fn epoch(&self) -> u64 {
        5
    }

    fn ask(&self, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        match ask {
            ClientRequest::Status => return Some(ClientResponse::Done),
            ClientRequest::Map => return Some(ClientResponse::WrongPartition { epoch }),
            ClientRequest::Read { query } => match query.split_first() {
                Some((b'#', length)) => {
                    let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
                    reply.send(Outcome::Answer(vec![7; length].into()));
                }
                Some((b'*', count)) => {
                    let count: u64 = std::str::from_utf8(count).unwrap().parse().unwrap();
                    std::thread::spawn(move || deliver_parts(count, reply));
                }
                _ => reply.send(Outcome::Answer(query)),
            },
            _ => self.held.lock().unwrap().push(reply),
        }
        None
    }
}

/// Delivers a part when there is room for it; false if no one listens any more.
fn deliver_part(reply: &ReplyTo, part: Bytes) -> bool {
    loop {
        match reply.sink.poll_room(reply.tag, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(true) => return reply.sink.deliver_part(reply.tag, part),
            Poll::Ready(false) => return false,
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn deliver_parts(count: u64, reply: ReplyTo) {
    assert!(reply.sink.begin_parts(reply.tag));
    for number in 0..count {
        let mut part = number.to_le_bytes().to_vec();
        part.resize(100 << 10, 1);
        if !deliver_part(&reply, part.into()) {
            break;
        }
    }
    reply.send(Outcome::Answer(Bytes::from_static(b"end")));
}

/// Soon done with clients that do not read or are gone. What a sound client has to be in time for is not shortened: on
/// a busy machine it might be late.
fn quick() -> ListenerLimits {
    ListenerLimits { write_timeout: SHORT, drain_timeout: SHORT, ..ListenerLimits::default() }
}

fn open(limits: ListenerLimits) -> (Listener<Fake>, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener::open(&Handle::current(), listener, Arc::clone(&fake), limits).unwrap();
    (listener, fake)
}

fn hello() -> Hello {
    Hello { magic: MAGIC, cluster: Some(CLUSTER), service: SERVICE }
}

fn frame<T: serde::Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

fn request(id: u64, ask: ClientRequest) -> Vec<u8> {
    frame(KIND_REQUEST, &RequestFrame { id, epoch: 4, ask })
}

fn read(query: impl Into<Bytes>) -> ClientRequest {
    ClientRequest::Read { query: query.into() }
}

fn write(command: impl Into<Bytes>) -> ClientRequest {
    ClientRequest::Write { client: ClientId::at(1), number: 1, lowest_unanswered: 1, command: command.into() }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn dial(listener: &Listener<Fake>) -> Client {
        Client { stream: TcpStream::connect(listener.address()).await.unwrap(), buffer: Vec::new() }
    }

    async fn greeted(listener: &Listener<Fake>) -> Client {
        let mut client = Client::dial(listener).await;
        client.send(&frame(KIND_HELLO, &hello())).await;
        let welcome: Welcome = client.expect(KIND_WELCOME).await;
        assert_eq!(welcome, Welcome { cluster: Some(CLUSTER), epoch: 5 });
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        tokio::time::timeout(TIMEOUT, self.stream.write_all(bytes)).await.unwrap().unwrap();
    }

    async fn expect<T: serde::de::DeserializeOwned>(&mut self, kind: u16) -> T {
        let next = read_frame(&mut self.stream, &mut self.buffer, codec::FRAME_PAYLOAD_MAX_BYTES);
        let frame = tokio::time::timeout(TIMEOUT, next).await.unwrap().unwrap().expect("a frame");
        assert_eq!(frame.kind, kind);
        codec::decode(frame.payload).unwrap()
    }

    async fn response(&mut self) -> (u64, ClientResponse) {
        let ResponseFrame { id, body } = self.expect(KIND_RESPONSE).await;
        (id, body)
    }

    async fn expect_refusal(&mut self) -> String {
        let Refusal { reason } = self.expect(KIND_REFUSAL).await;
        self.expect_end().await;
        reason
    }

    /// Waits for the other side to end the connection, however it does; gives what came before.
    async fn expect_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(TIMEOUT, self.stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "the connection stays open");
        bytes
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client with nothing special about it is served.
async fn expect_service(listener: &Listener<Fake>) {
    let mut client = Client::greeted(listener).await;
    client.send(&request(1, read("still there?"))).await;
    assert_eq!(client.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"still there?"))));
}

async fn expect_baseline(listener: &Listener<Fake>) {
    eventually("all connections end", || listener.connections() == 0).await;
    eventually("all bytes are given back", || listener.held_bytes() == 0).await;
}

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
