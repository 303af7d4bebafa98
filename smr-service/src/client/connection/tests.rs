//! A connection against a server that is made by hand.

use tokio::net::TcpListener;

use super::*;
use crate::frames::VERSION_OF_CONTROL;

type Connection = super::Connection<()>;
type Posted = super::Posted<()>;
type ResponseFrame = crate::frames::ResponseFrame<()>;

fn context() -> Arc<Context> {
    Arc::new(Context::plain(None))
}

// covers C9
#[tokio::test]
async fn withdraw_before_the_writer_took_it_never_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connection = Connection::open(context(), address, Service::Manager, 1, Arc::default());
    let (sender, mut events) = mpsc::unbounded_channel();
    // The connection's task has not run yet on this single thread, so nothing was taken.
    let posted: Vec<Posted> =
        (0..3u16).map(|to| connection.post(ClientRequest::Transfer { to }, 0, &sender, 0).unwrap()).collect();
    assert!(posted[1].withdraw());
    drop(connection.post(ClientRequest::Transfer { to: 9 }, 0, &sender, 0).unwrap());
    let (stream, _) = listener.accept().await.unwrap();
    let mut reader = FrameReader::new(stream, FRAME_PAYLOAD_MAX_BYTES);
    assert_eq!(reader.next().await.unwrap().unwrap().kind, KIND_RANGED_HELLO);
    for expected in [0, 2] {
        let request: RequestFrame = codec::decode(reader.next().await.unwrap().unwrap().payload).unwrap();
        assert_eq!(request.ask, ClientRequest::Transfer { to: expected });
    }
    assert!(!posted[0].withdraw(), "it has left");
    connection.close("enough", true);
    assert!(reader.next().await.unwrap().is_none());
    for _ in 0..2 {
        assert!(matches!(*events.recv().await.unwrap().event, Event::Broken { sent: true }));
    }
}

fn welcome() -> RangedWelcome {
    RangedWelcome { version: VERSION_OF_CONTROL, cluster: None, epoch: 0, later: bytes::Bytes::new() }
}

// covers B4
#[tokio::test(start_paused = true)]
async fn request_that_an_older_build_does_not_know_waits_for_the_version_and_is_refused_there() {
    for version in [VERSION_OF_CONTROL - 1, VERSION_OF_CONTROL] {
        let (connection, task, mut far) = held();
        let mut task = std::pin::pin!(task);
        let (sender, mut events) = mpsc::unbounded_channel();
        let control = |copy| {
            let ask = ClientRequest::Control(bytes::Bytes::from_static(b"what"));
            connection.post(ask, 0, &sender, copy).unwrap()
        };
        let _early = control(1);
        let withdrawn = control(2);
        let _map = connection.post(ClientRequest::Map, 0, &sender, 3).unwrap();
        assert!(withdrawn.withdraw(), "it has not left");
        assert_eq!(meanwhile(&mut task, far.next_request()).await, 3, "the only one that each build knows");
        meanwhile(&mut task, far.say(KIND_RANGED_WELCOME, &RangedWelcome { version, ..welcome() })).await;
        if version == VERSION_OF_CONTROL {
            assert_eq!(meanwhile(&mut task, far.next_request()).await, 1);
            let _late = control(4);
            assert_eq!(meanwhile(&mut task, far.next_request()).await, 4);
            continue;
        }
        meanwhile(&mut task, tokio::time::sleep(std::time::Duration::from_millis(1))).await;
        let _late = control(4);
        for expected in [1, 4] {
            let heard = meanwhile(&mut task, events.recv()).await.unwrap();
            let Event::Reply(ClientResponse::Refused(why)) = *heard.event else { panic!("not refused") };
            assert!(heard.copy == expected && why.contains("older build"), "{why}");
        }
        // It is still there for what it knows.
        meanwhile(&mut task, far.say(KIND_RESPONSE, &ResponseFrame { id: 3, body: ClientResponse::NoMap })).await;
        assert!(matches!(*meanwhile(&mut task, events.recv()).await.unwrap().event, Event::Reply(_)));
    }
}

#[tokio::test]
async fn replica_that_knows_no_ranges_gets_everything_again_behind_its_own_greeting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connection = Connection::open(context(), address, Service::Manager, 1, Arc::default());
    let (sender, mut events) = mpsc::unbounded_channel();
    let transfer = |to| connection.post(ClientRequest::Transfer { to }, 0, &sender, 0).unwrap();
    let first = transfer(0);
    let (stream, _) = listener.accept().await.unwrap();
    let (read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(read, FRAME_PAYLOAD_MAX_BYTES);
    assert_eq!(reader.next().await.unwrap().unwrap().kind, KIND_RANGED_HELLO);
    assert_eq!(reader.next().await.unwrap().unwrap().kind, KIND_REQUEST);
    // As before-house says it.
    let reason = "this is no greeting: frame of kind 0x4d06".to_owned();
    let mut refusal = Vec::new();
    append(&mut refusal, KIND_REFUSAL, &Refusal { reason });
    tokio::io::AsyncWriteExt::write_all(&mut write, &refusal).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    // One that has not left, and is withdrawn, leaves from its place after those that had left before.
    let (second, third) = (transfer(1), transfer(2));
    assert!(second.withdraw());
    let (read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(read, FRAME_PAYLOAD_MAX_BYTES);
    let frame = reader.next().await.unwrap().unwrap();
    let hello: Hello = codec::decode(frame.payload).unwrap();
    let expected = Hello { magic: MAGIC, cluster: None, service: Service::Manager };
    assert_eq!((frame.kind, hello), (KIND_HELLO, expected));
    for expected in [0, 2] {
        let request: RequestFrame = codec::decode(reader.next().await.unwrap().unwrap().payload).unwrap();
        assert_eq!(request.ask, ClientRequest::Transfer { to: expected });
    }
    let mut answers = Vec::new();
    append(&mut answers, KIND_WELCOME, &Welcome { cluster: None, epoch: 0 });
    append(&mut answers, KIND_RESPONSE, &ResponseFrame { id: first.id, body: ClientResponse::Done });
    append(&mut answers, KIND_RESPONSE, &ResponseFrame { id: third.id, body: ClientResponse::Done });
    tokio::io::AsyncWriteExt::write_all(&mut write, &answers).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(*events.recv().await.unwrap().event, Event::Reply(ClientResponse::Done)));
    }
    assert!(connection.end().is_none());
}

// covers B1, B3
#[tokio::test]
async fn connection_garbage_or_half_frame_ends_and_requests_hear_of_it() {
    let half = {
        let mut frame = Vec::new();
        append(&mut frame, KIND_RESPONSE, &ResponseFrame { id: 1, body: ClientResponse::Done });
        frame.truncate(frame.len() - 1);
        frame
    };
    for bytes in [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![0xff; 64], half] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connection = Connection::open(context(), address, Service::Manager, 1, Arc::default());
        let (sender, mut events) = mpsc::unbounded_channel();
        let _posted = connection.post(ClientRequest::Map, 0, &sender, 0).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
        drop(stream);
        assert!(matches!(*events.recv().await.unwrap().event, Event::Broken { .. }));
        assert!(connection.end().is_some_and(|end| !end.welcomed));
    }
}

/// The other side of a connection in memory.
struct Far {
    reader: FrameReader<tokio::io::ReadHalf<tokio::io::DuplexStream>>,
    writer: tokio::io::WriteHalf<tokio::io::DuplexStream>,
}

impl Far {
    async fn say<T: serde::Serialize>(&mut self, kind: u16, value: &T) {
        let mut bytes = Vec::new();
        append(&mut bytes, kind, value);
        tokio::io::AsyncWriteExt::write_all(&mut self.writer, &bytes).await.unwrap();
    }

    /// The number of the next request.
    async fn next_request(&mut self) -> u64 {
        loop {
            let frame = self.reader.next().await.unwrap().unwrap();
            if frame.kind == KIND_REQUEST {
                return codec::decode::<RequestFrame>(frame.payload).unwrap().id;
            }
        }
    }
}

/// A connection whose task is run by no one, and what it would do.
fn held() -> (Arc<Connection>, impl Future<Output = Result<(), Broken>>, Far) {
    let (address, service, reached, wake) = (String::new(), Service::Manager, OnceLock::new(), Notify::new());
    let state = Mutex::default();
    let connection = Connection {
        sends_to_all: Arc::default(),
        context: context(),
        address,
        service,
        number: 1,
        reached,
        state,
        wake,
    };
    let connection = Arc::new(connection);
    let (near, far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(near);
    let served = Arc::clone(&connection);
    let task = async move { served.talk(served.ranged_greeting(), reader, writer).await };
    let (reader, writer) = tokio::io::split(far);
    (connection, task, Far { reader: FrameReader::new(reader, FRAME_PAYLOAD_MAX_BYTES), writer })
}

/// Runs the connection until the other side has done its part. The connection must not end before.
async fn meanwhile<T>(
    task: &mut (impl Future<Output = Result<(), Broken>> + Unpin),
    part: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        done = part => done,
        ended = task => panic!("the connection ended: {}", why(ended)),
    }
}

fn why(ended: Result<(), Broken>) -> String {
    match ended {
        Ok(()) => "closed".to_owned(),
        Err(Broken::Refused(why) | Broken::Lost(why)) => why,
    }
}

// covers N15
#[tokio::test(start_paused = true)]
async fn silence_of_a_client_that_stood_still_is_not_the_servers() {
    let (connection, task, mut far) = held();
    let mut task = std::pin::pin!(task);
    let (sender, mut events) = mpsc::unbounded_channel();
    meanwhile(&mut task, far.say(KIND_RANGED_WELCOME, &welcome())).await;
    for pause_s in [3, 9, 11, 12, 3600] {
        // A program that waits for its user's next line: nothing runs, and then the request is there at once.
        tokio::time::advance(std::time::Duration::from_secs(pause_s)).await;
        let _posted = connection.post(ClientRequest::Map, 0, &sender, 0).unwrap();
        let id = meanwhile(&mut task, far.next_request()).await;
        // The answer takes a while, too.
        meanwhile(&mut task, tokio::time::sleep(CONNECTION_DEAD - std::time::Duration::from_millis(1))).await;
        meanwhile(&mut task, far.say(KIND_RESPONSE, &ResponseFrame { id, body: ClientResponse::NoMap })).await;
        let heard = meanwhile(&mut task, events.recv()).await.unwrap();
        assert!(matches!(*heard.event, Event::Reply(ClientResponse::NoMap)), "after {pause_s} s");
    }
}

// covers N15
#[tokio::test(start_paused = true)]
async fn silence_after_a_request_was_written_ends_the_connection_in_time() {
    let (connection, task, mut far) = held();
    let mut task = std::pin::pin!(task);
    let (sender, _events) = mpsc::unbounded_channel();
    meanwhile(&mut task, far.say(KIND_RANGED_WELCOME, &welcome())).await;
    meanwhile(&mut task, tokio::time::sleep(std::time::Duration::from_secs(60))).await;
    let _first = connection.post(ClientRequest::Map, 0, &sender, 0).unwrap();
    meanwhile(&mut task, far.next_request()).await;
    let written_at = Instant::now();
    // Later requests are no sign of life of the server.
    meanwhile(&mut task, tokio::time::sleep(std::time::Duration::from_secs(6))).await;
    let _second = connection.post(ClientRequest::Map, 0, &sender, 1).unwrap();
    assert_eq!(why(task.await), "silent for too long");
    let waited = written_at.elapsed();
    let late = std::time::Duration::from_millis(2);
    assert!(waited >= CONNECTION_DEAD && waited <= CONNECTION_DEAD + late, "{waited:?}");
}

// covers N13
#[tokio::test(start_paused = true)]
async fn somebody_who_accepts_and_never_welcomes_is_given_up() {
    let (_connection, task, _far) = held();
    let began = Instant::now();
    assert_eq!(why(task.await), "silent for too long");
    assert!(began.elapsed() < CONNECTION_DEAD);
}
