//! Registration with managers that lead, follow, hang, refuse, or are not there.

#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Registration, Service};
use madkv_proto::map::ClusterMap;
use madkv_server::register::{Registrar, Verdict};
use smr::entry::GenesisHash;
use smr::id::{ClusterId, EARLIER_STARTS, Incarnation, StartId, StartTrail};
use smr::replica::ReplyTo;
use smr_service::listener::{Backend, Listener, ListenerLimits};
use tokio::runtime::Handle;

const CLUSTER: ClusterId = ClusterId(9);
const OWN: Incarnation = Incarnation(0xabc);
const GENESIS: GenesisHash = GenesisHash(7);
const START: StartTrail = StartTrail { id: StartId { number: 1, nonce: 33 }, earlier: [0; EARLIER_STARTS] };
const TIMEOUT: Duration = Duration::from_secs(60);

/// A manager that answers the n-th question by a script; the last line of the script is repeated.
struct Scripted {
    script: Vec<ClientResponse>,
    asked: AtomicUsize,
}

impl Backend for Scripted {
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
        let own = Registration {
            partition: 1,
            replica: 2,
            incarnation: OWN,
            member: true,
            genesis: Some(GENESIS),
            start: START,
        };
        let asks_for_services = ask == ClientRequest::Control(ControlRequest::Services.encode());
        assert!(asks_for_services || ask == ClientRequest::Register(own), "{ask:?}");
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.script.get(number).or(self.script.last()).cloned()
    }
}

struct Manager {
    listener: Listener<Scripted>,
    backend: Arc<Scripted>,
}

impl Manager {
    fn start(script: Vec<ClientResponse>) -> Manager {
        let backend = Arc::new(Scripted { script, asked: AtomicUsize::new(0) });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener =
            Listener::open(&Handle::current(), listener, Arc::clone(&backend), ListenerLimits::default()).unwrap();
        Manager { listener, backend }
    }

    fn address(&self) -> String {
        self.listener.address().to_string()
    }

    fn asked(&self) -> usize {
        self.backend.asked.load(Ordering::Relaxed)
    }
}

/// An address where no one listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn map() -> ClusterMap {
    ClusterMap::deal(CLUSTER, 1, &["127.0.0.1:1".into(), "127.0.0.1:2".into()]).unwrap()
}

fn registered() -> ClientResponse {
    ClientResponse::Registered(Box::new(map()))
}

fn follow(leader: Option<u16>) -> ClientResponse {
    ClientResponse::NotLeader { leader, term: 3 }
}

fn registrar(managers: Vec<String>, cluster: Option<ClusterId>) -> Registrar {
    Registrar { managers, cluster, partition: 1, replica: 2, incarnation: OWN, start: START }
}

async fn until_answered(managers: Vec<String>) -> (Verdict, Option<String>) {
    let mut complaint = None;
    let registrar = registrar(managers, None);
    let answered = registrar.until_answered(Some(GENESIS), |reason| complaint = Some(reason.to_owned()));
    let verdict = tokio::time::timeout(TIMEOUT, answered).await.expect("an answer");
    (verdict, complaint)
}

#[tokio::test]
async fn follower_that_knows_the_leader_leads_there() {
    let leader = Manager::start(vec![registered()]);
    let follower = Manager::start(vec![follow(Some(1))]);
    let (verdict, complaint) = until_answered(vec![follower.address(), leader.address()]).await;
    assert_eq!(verdict, Verdict::Registered(map()));
    assert_eq!((follower.asked(), leader.asked(), complaint), (1, 1, None));
}

// covers N9
#[tokio::test]
async fn followers_that_name_each_other_are_asked_a_bounded_number_of_times() {
    let first = Manager::start(vec![follow(Some(1))]);
    let second = Manager::start(vec![follow(Some(0))]);
    let registrar = registrar(vec![first.address(), second.address()], None);
    let outcome = tokio::time::timeout(TIMEOUT, registrar.one_round(Some(GENESIS))).await.expect("a bounded round");
    assert!(outcome.unwrap_err().contains("electing"));
    assert!(first.asked() + second.asked() <= 5, "{} and {}", first.asked(), second.asked());
}

// covers G5
#[tokio::test]
async fn managers_without_map_or_leader_asked_until_they_have_them() {
    let manager = Manager::start(vec![
        follow(None),
        ClientResponse::NoMap,
        ClientResponse::OutOfService("uninitialized".into()),
        registered(),
    ]);
    let (verdict, _) = until_answered(vec![nobody(), manager.address()]).await;
    assert_eq!(verdict, Verdict::Registered(map()));
    assert_eq!(manager.asked(), 4);
}

// covers G5
#[tokio::test]
async fn managers_absent_for_long_are_complained_about_once() {
    let lines = Arc::new(AtomicUsize::new(0));
    let address = nobody();
    let registrar = registrar(vec![address.clone()], None);
    let counted = Arc::clone(&lines);
    let count = move |_: &str| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let waiting = tokio::spawn(async move { registrar.until_answered(Some(GENESIS), count).await });
    while lines.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let backend = Arc::new(Scripted { script: vec![registered()], asked: AtomicUsize::new(0) });
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let _listener = Listener::open(&Handle::current(), listener, backend, ListenerLimits::default()).unwrap();
    let verdict = tokio::time::timeout(TIMEOUT, waiting).await.expect("an answer").unwrap();
    assert_eq!(verdict, Verdict::Registered(map()));
    assert_eq!(lines.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn manager_that_hangs_is_passed_over() {
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); // connections wait in its queue for ever
    let manager = Manager::start(vec![registered()]);
    let (verdict, _) = until_answered(vec![hung.local_addr().unwrap().to_string(), manager.address()]).await;
    assert_eq!(verdict, Verdict::Registered(map()));
}

// covers G3
#[tokio::test]
async fn replica_taken_or_unknown_is_a_verdict() {
    let taken = ClientResponse::Occupied { by: Incarnation(5), map: Box::new(map()) };
    let manager = Manager::start(vec![taken, ClientResponse::Refused("no such replica".into())]);
    let (verdict, _) = until_answered(vec![manager.address()]).await;
    assert_eq!(verdict, Verdict::Occupied { by: Incarnation(5), map: map() });
    let (verdict, _) = until_answered(vec![manager.address()]).await;
    assert_eq!(verdict, Verdict::Refused("no such replica".into()));
}

// covers B4
#[tokio::test]
async fn manager_of_another_cluster_gives_no_verdict() {
    let manager = Manager::start(vec![registered()]);
    let registrar = registrar(vec![manager.address()], Some(ClusterId(10)));
    let outcome = tokio::time::timeout(TIMEOUT, registrar.one_round(Some(GENESIS))).await.expect("an answer");
    assert!(outcome.unwrap_err().contains("cluster"));
    assert_eq!(manager.asked(), 0);
}

// covers M9
#[tokio::test]
async fn foreign_managers_are_noticed_unless_one_is_of_our_cluster() {
    let manager = Manager::start(vec![registered()]);
    let address = manager.address();
    let ours = registrar(vec![nobody(), address.clone()], Some(CLUSTER));
    assert_eq!(ours.foreign_manager().await, None);
    let other = registrar(vec![nobody(), address.clone()], Some(ClusterId(10)));
    assert_eq!(other.foreign_manager().await, Some((address.as_str(), CLUSTER)));
    let unknown = registrar(vec![address.clone()], None);
    assert_eq!(unknown.foreign_manager().await, None);
    let silent = registrar(vec![nobody()], Some(ClusterId(10)));
    assert_eq!(silent.foreign_manager().await, None);
    assert_eq!(manager.asked(), 0);
}

// covers G12
#[tokio::test]
async fn group_of_another_service_or_one_that_is_not_there_is_none_to_register_in() {
    let refused = Some("--partition_id: 1; the managers ");
    // The server wants partition 1.
    for (known, wanted, expected) in [
        (&["kv", "voting"][..], "voting", None),
        (&["kv", "voting"], "kv", refused),
        (&["voting", "kv"], "voting", refused),
        // What is added later is the store's, and this manager may lag behind.
        (&["voting"], "voting", refused),
        (&["voting"], "kv", None),
    ] {
        let services = known.iter().map(|name| name.parse().unwrap()).collect();
        let layout = ClientResponse::Answer(ControlReply::Services(services).encode());
        // The first answer says that there is no layout yet.
        let manager = Manager::start(vec![ClientResponse::NoMap, layout]);
        let registrar = registrar(vec![manager.address()], None);
        let judged = registrar.until_of_service(wanted, |_| ());
        let judged = tokio::time::timeout(TIMEOUT, judged).await.expect("an answer").map_err(|bad| bad.0);
        match (&judged, expected) {
            (Ok(()), None) => {}
            (Err(why), Some(begins)) => assert!(why.starts_with(begins), "{why}"),
            _ => panic!("{known:?}, {wanted}: {judged:?}"),
        }
        assert_eq!(manager.asked(), 2);
    }
}
