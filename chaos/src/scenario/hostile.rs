//! Thousands of hostile connections to one leader: does a normal client notice, does memory stay bounded, does the
//! leader stay (fault catalogue B)?
//!
//! Those who hold the connections share one thread, which takes half a core at most: what is measured is what they do
//! to the servers, not that they take the processor away. A connection that is shown out comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_client::Client;
use madkv_proto::command::Query;
use madkv_proto::frames::{ClientRequest, Hello, KIND_HELLO, KIND_REQUEST, MAGIC, RequestFrame, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use smr::codec::frame;
use smr_service::limits::TOTAL_MAX_BYTES;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::scenario::{FIRST, Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::measure::{Figures, Latencies, Usage};
use madkv_testkit::place::{Outcome, library_client};

/// Large values, which hostile connections ask for again and again.
const LARGE_KEYS: usize = 16;
/// Their size, in bytes.
const LARGE_BYTES: usize = 1_000_000;
/// Requests that a hostile connection sends at once, and whose answers it does not read.
const PIPELINED: u64 = 64;
/// How long a hostile connection stays after its last byte, unless it is shown out.
const STAY: Duration = Duration::from_secs(20);
/// How long it then waits before it comes back.
const PAUSE: Duration = Duration::from_millis(200);
/// How long it waits for a connection to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// One byte of a slow hello after the other.
const DRIP: Duration = Duration::from_millis(100);
/// How often the thread of the hostile connections looks at what it took of the processor.
const GOVERN: Duration = Duration::from_millis(5);
/// How much of one core they get.
const SHARE: f64 = 0.5;
/// The normal client's p99 stays below this many times its normal.
const P99_TARGET: f64 = 10.0;
/// Memory may grow by what all connections together may hold, and this, in bytes.
const MEMORY_SLACK_BYTES: u64 = 64 << 20;
/// Files that this process has besides connections.
const OTHER_FILES: u64 = 200;

/// What a hostile connection does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Says nothing.
    Silent,
    /// Says nothing to the port that is for replicas.
    SilentPeer,
    /// Says most of a hello.
    Half,
    /// Says a hello byte by byte.
    Drip,
    /// Announces a frame of the greatest length there is.
    Huge,
    /// Says what is no frame.
    Garbage,
    /// Says who it is, and nothing more.
    Idle,
    /// Asks for many large values, and reads none.
    Greedy,
    /// Asks for many scans of all there is, and reads none.
    Scan,
    /// Opens session after session.
    Open,
}

const KINDS: [Kind; 10] = [
    Kind::Silent,
    Kind::SilentPeer,
    Kind::Half,
    Kind::Drip,
    Kind::Huge,
    Kind::Garbage,
    Kind::Idle,
    Kind::Greedy,
    Kind::Scan,
    Kind::Open,
];

/// What to measure.
pub(super) struct Plan {
    pub(super) connections: usize,
    pub(super) length: Duration,
}

pub(super) fn run(plan: &Plan, place: &Place) -> Outcome {
    room_for_files(plan.connections)?;
    let mut stage = Stage::set(place)?;
    let cluster = &mut stage.cluster;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = library_client(cluster);
    runtime.block_on(fill(&client))?;

    let leader = cluster.wait_leader(FIRST, TIMEOUT)?;
    let servers: Vec<Node> = cluster.layout().shape.nodes().collect();
    let terms = |cluster: &Cluster| -> Result<Vec<u64>, std::io::Error> {
        servers.iter().map(|&node| Ok(cluster.status(node)?.term.0)).collect()
    };
    let normal = runtime.block_on(reads_and_writes(&client, plan.length))?;
    let (terms_before, memory_before) = (terms(cluster)?, cluster.process(leader).resident_bytes().unwrap_or_default());

    let crowd = Crowd::gather(plan.connections, cluster.client_address(leader), cluster.peer_address(leader))?;
    let attacked = runtime.block_on(reads_and_writes(&client, plan.length));
    // The crowd goes before anything is said of what the client met.
    let told = crowd.disperse()?;
    let attacked = attacked?;
    let peak = cluster.process(leader).pid().and_then(Usage::of).map_or(0, |usage| usage.peak_bytes);
    let is_same_terms = terms(cluster)? == terms_before;

    let (normal, attacked) = (normal.figures(), attacked.figures());
    println!("{told}");
    for (what, figures) in [("normally", &normal), ("meanwhile", &attacked)] {
        println!("{what}: {}", line(figures));
    }
    let ratio = attacked.p99_ms / normal.p99_ms;
    println!("p99 is {ratio:.1} x its normal (target {P99_TARGET}: {})", verdict(ratio < P99_TARGET));
    let grown = peak.saturating_sub(memory_before);
    let limit = TOTAL_MAX_BYTES as u64 + MEMORY_SLACK_BYTES;
    println!(
        "{leader}: memory {} MiB before, {} MiB more at most (target {}: {})",
        memory_before >> 20,
        grown >> 20,
        limit >> 20,
        verdict(grown <= limit)
    );
    println!("no election: {}", verdict(is_same_terms));
    if grown > 2 * limit {
        return Err(format!("{leader} has grown by {grown} bytes").into());
    }
    runtime.block_on(check_large(&client))?;
    stage.done()
}

fn line(figures: &Figures) -> String {
    format!(
        "{} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        figures.count, figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms
    )
}

/// Each connection is a file.
fn room_for_files(connections: usize) -> Outcome {
    let needed = connections as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|files| files < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
            .map_err(|error| format!("{connections} connections need {needed} files: {error}"))?;
    }
    Ok(())
}

fn large_key(number: usize) -> String {
    format!("large{number:02}")
}

async fn fill(client: &Client) -> Outcome {
    for number in 0..LARGE_KEYS {
        client.put(large_key(number).as_bytes(), &vec![b'v'; LARGE_BYTES]).await?;
    }
    Ok(())
}

async fn check_large(client: &Client) -> Outcome {
    for number in 0..LARGE_KEYS {
        let found = client.get(large_key(number).as_bytes()).await?;
        if found.as_deref() != Some(vec![b'v'; LARGE_BYTES].as_slice()) {
            return Err(format!("{} has lost its value", large_key(number)).into());
        }
    }
    Ok(())
}

/// What a normal client does, one request after the other, for this long; each read must show the last write.
async fn reads_and_writes(
    client: &Client,
    length: Duration,
) -> Result<Latencies, Box<dyn std::error::Error + Send + Sync>> {
    let mut latencies = Latencies::default();
    let begin = Instant::now();
    let mut number = 0u64;
    while begin.elapsed() < length {
        let (key, value) = (format!("normal{}", number % 10), number.to_string());
        let start = Instant::now();
        client.put(key.as_bytes(), value.as_bytes()).await?;
        latencies.record(start.elapsed());
        let start = Instant::now();
        let found = client.get(key.as_bytes()).await?;
        latencies.record(start.elapsed());
        if found.as_deref() != Some(value.as_bytes()) {
            return Err(format!("{key} holds {found:?}, not {value}").into());
        }
        number += 1;
    }
    Ok(latencies)
}

/// The hostile connections, on a thread of their own.
struct Crowd {
    stop: Arc<AtomicBool>,
    came: Arc<AtomicU64>,
    connections: usize,
    began: Instant,
    thread: thread::JoinHandle<Duration>,
}

impl Crowd {
    fn gather(connections: usize, clients: SocketAddr, peers: SocketAddr) -> std::io::Result<Crowd> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, came) = (Arc::clone(&stop), Arc::clone(&came));
            thread::Builder::new().name("hostile".to_owned()).spawn(move || {
                let used = runtime.block_on(async {
                    for number in 0..connections {
                        let kind = KINDS[number % KINDS.len()];
                        let address = if matches!(kind, Kind::SilentPeer) { peers } else { clients };
                        tokio::spawn(come_again(kind, address, Arc::clone(&came)));
                    }
                    govern(&stop).await
                });
                // What is still connected is dropped with it.
                drop(runtime);
                used
            })?
        };
        Ok(Crowd { stop, came, connections, began: Instant::now(), thread })
    }

    /// Ends them; what they were, in words.
    fn disperse(self) -> Result<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        let length = self.began.elapsed();
        let used = self.thread.join().map_err(|_| "the hostile thread panicked".to_owned())?;
        Ok(format!(
            "{} hostile connections of {} kinds, which came {} times in {:.1} s and took {:.2} of a core",
            self.connections,
            KINDS.len(),
            self.came.load(Ordering::Relaxed),
            length.as_secs_f64(),
            used.as_secs_f64() / length.as_secs_f64()
        ))
    }
}

/// Lets the thread sleep when it has taken more than its share of a core. What it took.
async fn govern(stop: &AtomicBool) -> Duration {
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let ahead = used().as_secs_f64() / SHARE - begin.elapsed().as_secs_f64();
        if ahead > 0.0 {
            // The thread itself, with all that runs on it.
            thread::sleep(Duration::from_secs_f64(ahead));
        }
        tokio::time::sleep(GOVERN).await;
    }
    used()
}

/// What this thread took of the processor.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

async fn come_again(kind: Kind, address: SocketAddr, came: Arc<AtomicU64>) {
    loop {
        if let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            came.fetch_add(1, Ordering::Relaxed);
            // Whatever becomes of it, it comes again.
            let _ = tokio::time::timeout(STAY, annoy(kind, &mut stream)).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends when the connection does.
async fn annoy(kind: Kind, stream: &mut TcpStream) -> std::io::Result<()> {
    let hello = hello();
    match kind {
        Kind::Silent | Kind::SilentPeer => {}
        Kind::Half => stream.write_all(&hello[..hello.len() - 1]).await?,
        Kind::Drip => {
            for byte in hello {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(DRIP).await;
            }
        }
        Kind::Huge => stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x4d]).await?,
        Kind::Garbage => stream.write_all(&[b'?'; 4096]).await?,
        Kind::Idle => stream.write_all(&hello).await?,
        Kind::Greedy => {
            let ask = |number: u64| {
                let key = large_key(number as usize % LARGE_KEYS);
                ClientRequest::Read { query: Query::Get { key: key.as_bytes() }.encode() }
            };
            stream.write_all(&asked(hello, ask)).await?;
        }
        Kind::Scan => {
            let query: Bytes = Query::Scan { from: b"a", to: b"z" }.encode();
            stream.write_all(&asked(hello, |_| ClientRequest::Read { query: query.clone() })).await?;
        }
        Kind::Open => stream.write_all(&asked(hello, |_| ClientRequest::OpenSession)).await?,
    }
    // Nothing is read. Who closes it shows: then nothing more can be written.
    loop {
        tokio::time::sleep(DRIP).await;
        let ready = stream.ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE).await?;
        if ready.is_read_closed() || ready.is_write_closed() || ready.is_error() {
            return Ok(());
        }
    }
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello = Hello { magic: MAGIC, cluster: None, service: Service::Server { partition: 0 } };
    frame(&mut bytes, KIND_HELLO, &hello).unwrap_or_else(|error| panic!("a hello is no frame: {error}"));
    bytes
}

fn asked(mut bytes: Vec<u8>, ask: impl Fn(u64) -> ClientRequest) -> Vec<u8> {
    for id in 0..PIPELINED {
        frame(&mut bytes, KIND_REQUEST, &RequestFrame { id, epoch: 0, ask: ask(id) })
            .unwrap_or_else(|error| panic!("a request is no frame: {error}"));
    }
    bytes
}
