//! Moves all keys of a partition to another one and back, and lets the partition have more replicas for a while, while
//! clients read and write those very keys: does a request fail, and how much slower are they?

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_client::Client;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_testkit::cluster::Cluster;
use madkv_testkit::measure::Latencies;
use madkv_testkit::newcomer;
use madkv_testkit::place::{Outcome, library_client};
use madkv_testkit::ports::Ports;
use tokio::task::JoinSet;

use crate::scenario::{Place, Stage, TIMEOUT, verdict};

/// During a change the slowest of 100 requests is at most this much slower than normally.
const P99_TARGET: f64 = 3.0;
/// Keys that are written at a time before anything is measured.
const FILL_WRITES: usize = 128;
/// Pause before each change and after it, so that it is told apart from what is normal.
const SETTLE: Duration = Duration::from_secs(1);

/// How many replicas more the partition has for a while.
const NEWCOMERS: u16 = 2;

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// What is done.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Keys that move.
    pub(super) keys: usize,
    /// Size of a value, in bytes.
    pub(super) value_bytes: usize,
    /// Clients in a loop, each with a connection and keys of its own.
    pub(super) clients: usize,
    /// Moves, back and forth.
    pub(super) moves: u32,
    /// How often the partition has two replicas more afterwards, and then as many as before.
    pub(super) scales: u32,
    /// How long the clients are watched before the first move.
    pub(super) normal: Duration,
}

/// What a client did: when each request began, and how long it took.
type Taken = Vec<(Instant, Duration)>;

pub(super) fn run(plan: &Plan, place: &Place) -> Outcome {
    if place.shape.partitions < 2 {
        return Err("slots move between two partitions at least: --partitions 2".into());
    }
    let stage = Stage::set(place)?;
    // Those of the first partition.
    let end = SLOTS / place.shape.partitions;
    let keys: Vec<Bytes> = (0u64..)
        .map(|number| format!("key{number}"))
        .filter(|key| slot_of(key.as_bytes()) < end)
        .take(plan.keys)
        .map(Bytes::from)
        .collect();
    let clients: Vec<Client> = (0..plan.clients).map(|_| library_client(&stage.cluster)).collect();
    let operator = library_client(&stage.cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work(plan, Arc::new(keys), &clients, &operator, SlotSet::range(0, end), &stage.cluster))?;
    stage.done()
}

/// Lets the first partition have two replicas more, and then as many as before. Returns when it began to, and when each
/// of both was done.
async fn scale(operator: &Client, cluster: &Cluster, round: u32) -> Result<Vec<(Instant, Instant)>, Trouble> {
    let size = cluster.layout().shape.server_rf;
    let ports = Ports::claim(2 * NEWCOMERS)?;
    let port = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.first() + offset));
    let mut newcomers = Vec::new();
    for number in 0..NEWCOMERS {
        let (replica, at) = (size + number, (port(2 * number), port(2 * number + 1)));
        newcomers.push(newcomer::start(cluster, (0, replica), at, &format!("newcomer.{round}.{replica}"))?);
    }
    tokio::time::sleep(SETTLE).await;
    let mut times = Vec::new();
    for replicas in [size + NEWCOMERS, size] {
        let mut began = Instant::now();
        let given_up_at = began + TIMEOUT;
        // Until both have said where they are.
        while let Err(error) = operator.scale(0, replicas).await {
            if Instant::now() > given_up_at {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            began = Instant::now();
        }
        times.push((began, Instant::now()));
        println!("change {}: to {replicas} replicas in {} ms", round + 1, began.elapsed().as_millis());
        tokio::time::sleep(SETTLE).await;
    }
    for mut newcomer in newcomers {
        // Retired, as soon as it has heard of that.
        newcomer.wait_end(TIMEOUT).ok_or("a replica that left goes on")?;
    }
    Ok(times)
}

async fn work(
    plan: &Plan,
    keys: Arc<Vec<Bytes>>,
    clients: &[Client],
    operator: &Client,
    slots: SlotSet,
    cluster: &Cluster,
) -> Result<(), Trouble> {
    fill(operator, &keys, plan.value_bytes).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (client, keys, stop) = (client.clone(), Arc::clone(&keys), Arc::clone(&stop));
        let (clients, value_bytes) = (clients.len(), plan.value_bytes);
        tasks.spawn(async move { read_and_write(client, number, clients, &keys, value_bytes, &stop).await });
    }
    let normal_from = Instant::now();
    tokio::time::sleep(plan.normal).await;
    let normal_until = Instant::now();
    let mut moves = Vec::new();
    for number in 0..plan.moves {
        tokio::time::sleep(SETTLE).await;
        let began = Instant::now();
        operator.move_slots(slots.clone(), u16::from(number.is_multiple_of(2))).await?;
        moves.push((began, Instant::now()));
        println!("move {}: {} keys in {} ms", number + 1, keys.len(), began.elapsed().as_millis());
    }
    let mut changes = Vec::new();
    for round in 0..plan.scales {
        tokio::time::sleep(SETTLE).await;
        changes.extend(scale(operator, cluster, round).await?);
    }
    tokio::time::sleep(SETTLE).await;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Taken::new();
    while let Some(task) = tasks.join_next().await {
        taken.append(&mut task??);
    }
    let found = operator.scan(b"", &[0xff; 16]).await?.len();
    if found != keys.len() {
        return Err(format!("a SCAN shows {found} keys, not {}", keys.len()).into());
    }
    let normal = latencies(&taken, &[(normal_from, normal_until)]);
    let normal = tell("normally", &normal);
    for (what, times) in [("during moves", moves), ("while members change", changes)] {
        if times.is_empty() {
            continue;
        }
        let ratio = tell(what, &latencies(&taken, &times)) / normal;
        let verdict = verdict(ratio <= P99_TARGET);
        println!("{what} p99 is {ratio:.2} x its normal (target {P99_TARGET}: {verdict})");
    }
    println!("no request failed, each key has its last value");
    Ok(())
}

/// Returns the latency of the slowest of 100 requests, in milliseconds.
fn tell(what: &str, latencies: &Latencies) -> f64 {
    let figures = latencies.figures();
    println!(
        "{what}: {} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        figures.count, figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms
    );
    figures.p99_ms
}

async fn fill(client: &Client, keys: &[Bytes], value_bytes: usize) -> Result<(), Trouble> {
    let mut tasks = JoinSet::new();
    for key in keys {
        while tasks.len() >= FILL_WRITES {
            ended(tasks.join_next().await)?;
        }
        let (client, key, value) = (client.clone(), key.clone(), format!("{:0>value_bytes$}", 0));
        tasks.spawn(async move { client.put(&key, value.as_bytes()).await });
    }
    while !tasks.is_empty() {
        ended(tasks.join_next().await)?;
    }
    Ok(())
}

fn ended(task: Option<Result<Result<bool, madkv_client::Error>, tokio::task::JoinError>>) -> Result<(), Trouble> {
    if let Some(task) = task {
        task??;
    }
    Ok(())
}

/// Writes and reads keys that no one else writes, until told to stop. Each read must show the last write, and in the
/// end all keys must.
async fn read_and_write(
    client: Client,
    number: usize,
    clients: usize,
    keys: &[Bytes],
    value_bytes: usize,
    stop: &AtomicBool,
) -> Result<Taken, Trouble> {
    let own: Vec<&Bytes> = keys.iter().skip(number).step_by(clients).collect();
    let mut written = vec![0u64; own.len()];
    let value = |count: u64| format!("{count:0>value_bytes$}");
    let mut taken = Taken::new();
    let mut draw = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
    while !stop.load(Ordering::Relaxed) {
        // xorshift: which key does not matter, only that all are met.
        draw ^= draw << 13;
        draw ^= draw >> 7;
        draw ^= draw << 17;
        let which = (draw % own.len() as u64) as usize;
        let began = Instant::now();
        if draw.is_multiple_of(2) {
            client.put(own[which], value(written[which] + 1).as_bytes()).await?;
            written[which] += 1;
        } else {
            check(&client, own[which], &value(written[which])).await?;
        }
        taken.push((began, began.elapsed()));
    }
    for (key, written) in own.iter().zip(written) {
        check(&client, key, &value(written)).await?;
    }
    Ok(taken)
}

async fn check(client: &Client, key: &[u8], value: &str) -> Result<(), Trouble> {
    let found = client.get(key).await?;
    if found.as_deref() == Some(value.as_bytes()) {
        return Ok(());
    }
    Err(format!("{} holds {found:?}, not {value}", String::from_utf8_lossy(key)).into())
}

/// The latencies of requests that were under way in one of these times.
fn latencies(taken: &Taken, times: &[(Instant, Instant)]) -> Latencies {
    let mut latencies = Latencies::default();
    for (began, length) in taken {
        if times.iter().any(|(from, until)| began < until && *began + *length > *from) {
            latencies.record(*length);
        }
    }
    latencies
}
