//! The client at the servers' real listener, with a state machine of the test behind it.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use fake::{Act, CLUSTER, Cluster, GroupState};
use madkv_client::{Client, Error};
use madkv_proto::frames::{ClientRequest, ClientResponse, RequestFrame, Service};
use madkv_proto::map::ClusterMap;
use smr::id::ClusterId;
use smr::replica::{Outcome, ReplyTo};
use smr_service::listener::{Backend, Listener, ListenerLimits};

/// The only replica of partition 0.
struct Lone {
    state: Arc<Mutex<GroupState>>,
    cluster: ClusterId,
}

impl Backend for Lone {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Server { partition: 0 }
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(self.cluster)
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn ask(&self, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        let Act::Reply(mut bodies) = self.state.lock().unwrap().answer(0, &RequestFrame { id: 0, epoch, ask }) else {
            panic!("only sound answers here");
        };
        let last = bodies.pop()?;
        if bodies.is_empty() {
            return Some(last);
        }
        // As a replica does it: parts come from a thread that may block.
        std::thread::spawn(move || {
            assert!(reply.sink.begin_parts(reply.tag));
            for body in bodies {
                let ClientResponse::Part(part) = body else { panic!("{body:?} before the end") };
                while reply.sink.poll_room(reply.tag, &mut Context::from_waker(Waker::noop())).is_pending() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert!(reply.sink.deliver_part(reply.tag, part));
            }
            reply.send(Outcome::Answer(Bytes::new()));
        });
        None
    }
}

async fn behind_listener(cluster: ClusterId) -> (Cluster, Listener<Lone>, Client) {
    let fake = Cluster::start_on_sockets(1, 1).await;
    let backend = Arc::new(Lone { state: Arc::clone(&fake.groups[0].state), cluster });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Handle::current();
    let listener = Listener::open(&runtime, listener, backend, ListenerLimits::default()).unwrap();
    fake.map.lock().unwrap().as_mut().unwrap().partitions[0].servers[0] = listener.address().to_string();
    let client = fake.client(Some(60_000));
    (fake, listener, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_the_real_listener_all_answered_on_one_connection() {
    let (fake, listener, client) = behind_listener(CLUSTER).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..5000u32 {
        let client = client.clone();
        calls.spawn(async move { client.put(&number.to_be_bytes(), &[0; 100]).await.unwrap() });
    }
    calls.join_all().await;
    assert_eq!(fake.group(0).executed, 5000);
    assert_eq!(listener.connections(), 1);
    let records = client.scan(&0u32.to_be_bytes(), &u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(records.len(), 5000);
    assert_eq!(client.get(&7u32.to_be_bytes()).await.unwrap().as_deref(), Some(&[0; 100][..]));
}

// covers B4
#[tokio::test(flavor = "multi_thread")]
async fn call_listener_of_another_cluster_nothing_is_applied() {
    let (fake, _listener, _) = behind_listener(ClusterId(1)).await;
    let client = fake.client(Some(300));
    let error = client.put(b"a", b"1").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { may_have_happened: false, .. }), "{error}");
    assert_eq!(fake.group(0).executed, 0);
}
