//! A listener without file descriptors. In a process of its own, because the limit is the whole process's.

#![cfg(test)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smr::id::ClusterId;
use smr::replica::ReplyTo;
use smr_service::dial::Dialled;
use smr_service::frames::{ClientRequest, Service};
use smr_service::listener::{Backend, Listener, ListenerLimits};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

type ClientResponse = smr_service::frames::ClientResponse<()>;

const TIMEOUT: Duration = Duration::from_secs(60);

struct Fake;

impl Backend for Fake {
    type Map = ();

    fn service(&self) -> Service {
        Service::Manager
    }

    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn ask(&self, _ask: ClientRequest, _epoch: u64, _reply: ReplyTo) -> Option<ClientResponse> {
        Some(ClientResponse::Done)
    }
}

/// Processor time that this process has used, from its open `stat` file: there may be no descriptor to open it again.
fn processor_time(stat: &File) -> Duration {
    let mut bytes = [0; 1024];
    let count = stat.read_at(&mut bytes, 0).unwrap();
    let stat = String::from_utf8_lossy(&bytes[..count]);
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

// covers B8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepting_without_descriptors_pauses_without_spinning_and_recovers() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: hard }).unwrap();
    let limits = ListenerLimits { connections_max: 1000, ..ListenerLimits::default() };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener::open(&Handle::current(), listener, Arc::new(Fake), limits).unwrap();
    let address = listener.address().to_string();
    let mut old = Dialled::to(&address, Service::Manager, None, TIMEOUT).await.unwrap();

    let stat = File::open("/proc/self/stat").unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // One for a client's socket, and none for the listener.
    files.pop();
    let waiting = TcpStream::connect(&address).await.unwrap();
    assert!(File::open("/dev/null").is_err(), "all descriptors are taken");
    let before = processor_time(&stat);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        assert_eq!(
            old.ask(ClientRequest::Map).await.unwrap(),
            ClientResponse::Done,
            "a client that is there is served"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(listener.connections(), 1, "there was no descriptor for another one");
    let used = processor_time(&stat) - before;
    files.clear();
    assert!(used < Duration::from_millis(300), "{used:?} of {:?}: accepting spins", start.elapsed());
    drop(waiting);
    let mut new = Dialled::to(&address, Service::Manager, None, TIMEOUT).await.unwrap();
    assert_eq!(new.ask(ClientRequest::Map).await.unwrap(), ClientResponse::Done);
}
