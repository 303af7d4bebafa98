//! The backend, a listener in front of it, and a client.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::codec;
use smr::id::{ClientId, ClusterId};
use smr::replica::{Outcome, ReplyTo};
use smr::wire::read_frame;
use smr_service::frames::{
    ClientRequest, Hello, KIND_HELLO, KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, MAGIC, Refusal,
    RequestFrame, Service, Welcome,
};
use smr_service::listener::{Backend, Listener, ListenerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

pub(crate) type ClientResponse = smr_service::frames::ClientResponse<()>;
pub(crate) type ResponseFrame = smr_service::frames::ResponseFrame<()>;

pub(crate) const CLUSTER: ClusterId = ClusterId(77);
pub(crate) const SERVICE: Service = Service::Server { partition: 3 };
/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that is waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// A limit that must not be what ended something.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// Answers `Status` with `Done` at once, reads by what their query says, and keeps writes until [`Fake::release`].
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) held: Mutex<Vec<ReplyTo>>,
}

impl Fake {
    pub(crate) fn release(&self) {
        for reply in self.held.lock().unwrap().drain(..) {
            reply.send(Outcome::Answer(Bytes::from_static(b"released")));
        }
    }

    pub(crate) fn held(&self) -> usize {
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
pub(crate) fn deliver_part(reply: &ReplyTo, part: Bytes) -> bool {
    loop {
        match reply.sink.poll_room(reply.tag, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(true) => return reply.sink.deliver_part(reply.tag, part),
            Poll::Ready(false) => return false,
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

pub(crate) fn deliver_parts(count: u64, reply: ReplyTo) {
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
pub(crate) fn quick() -> ListenerLimits {
    ListenerLimits { write_timeout: SHORT, drain_timeout: SHORT, ..ListenerLimits::default() }
}

pub(crate) fn open(limits: ListenerLimits) -> (Listener<Fake>, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener::open(&Handle::current(), listener, Arc::clone(&fake), limits).unwrap();
    (listener, fake)
}

pub(crate) fn hello() -> Hello {
    Hello { magic: MAGIC, cluster: Some(CLUSTER), service: SERVICE }
}

pub(crate) fn frame<T: serde::Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

pub(crate) fn request(id: u64, ask: ClientRequest) -> Vec<u8> {
    frame(KIND_REQUEST, &RequestFrame { id, epoch: 4, ask })
}

pub(crate) fn read(query: impl Into<Bytes>) -> ClientRequest {
    ClientRequest::Read { query: query.into() }
}

pub(crate) fn write(command: impl Into<Bytes>) -> ClientRequest {
    ClientRequest::Write { client: ClientId::at(1), number: 1, lowest_unanswered: 1, command: command.into() }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn dial(listener: &Listener<Fake>) -> Client {
        Client { stream: TcpStream::connect(listener.address()).await.unwrap(), buffer: Vec::new() }
    }

    pub(crate) async fn greeted(listener: &Listener<Fake>) -> Client {
        let mut client = Client::dial(listener).await;
        client.send(&frame(KIND_HELLO, &hello())).await;
        let welcome: Welcome = client.expect(KIND_WELCOME).await;
        assert_eq!(welcome, Welcome { cluster: Some(CLUSTER), epoch: 5 });
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        tokio::time::timeout(TIMEOUT, self.stream.write_all(bytes)).await.unwrap().unwrap();
    }

    pub(crate) async fn expect<T: serde::de::DeserializeOwned>(&mut self, kind: u16) -> T {
        let next = read_frame(&mut self.stream, &mut self.buffer, codec::FRAME_PAYLOAD_MAX_BYTES);
        let frame = tokio::time::timeout(TIMEOUT, next).await.unwrap().unwrap().expect("a frame");
        assert_eq!(frame.kind, kind);
        codec::decode(frame.payload).unwrap()
    }

    pub(crate) async fn response(&mut self) -> (u64, ClientResponse) {
        let ResponseFrame { id, body } = self.expect(KIND_RESPONSE).await;
        (id, body)
    }

    pub(crate) async fn expect_refusal(&mut self) -> String {
        let Refusal { reason } = self.expect(KIND_REFUSAL).await;
        self.expect_end().await;
        reason
    }

    /// Waits for the other side to end the connection, however it does; gives what came before.
    pub(crate) async fn expect_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(TIMEOUT, self.stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "the connection stays open");
        bytes
    }
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client with nothing special about it is served.
pub(crate) async fn expect_service(listener: &Listener<Fake>) {
    let mut client = Client::greeted(listener).await;
    client.send(&request(1, read("still there?"))).await;
    assert_eq!(client.response().await, (1, ClientResponse::Answer(Bytes::from_static(b"still there?"))));
}

pub(crate) async fn expect_baseline(listener: &Listener<Fake>) {
    eventually("all connections end", || listener.connections() == 0).await;
    eventually("all bytes are given back", || listener.held_bytes() == 0).await;
}
