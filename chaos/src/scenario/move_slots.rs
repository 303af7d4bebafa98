//! Moves all keys of a partition to another one and back, while clients read and write those very keys: does a request
//! fail, and how much slower are they?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_client::Client;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_testkit::measure::Latencies;
use madkv_testkit::place::{Outcome, library_client};
use tokio::task::JoinSet;

use crate::scenario::{Place, Stage, verdict};

/// During a move the slowest of 100 requests is at most this much slower than normally.
const P99_TARGET: f64 = 3.0;
/// Keys that are written at a time before anything is measured.
const FILL_WRITES: usize = 128;
/// Pause before each move and after it, so that it is told apart from what is normal.
const SETTLE: Duration = Duration::from_secs(1);

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
    runtime.block_on(work(plan, Arc::new(keys), &clients, &operator, SlotSet::range(0, end)))?;
    stage.done()
}

async fn work(
    plan: &Plan,
    keys: Arc<Vec<Bytes>>,
    clients: &[Client],
    operator: &Client,
    slots: SlotSet,
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
    let moving = latencies(&taken, &moves);
    for (what, latencies) in [("normally", &normal), ("during moves", &moving)] {
        let figures = latencies.figures();
        println!(
            "{what}: {} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
            figures.count, figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms
        );
    }
    let ratio = moving.figures().p99_ms / normal.figures().p99_ms;
    println!(
        "no request failed, each key has its last value; p99 is {ratio:.2} x its normal (target {P99_TARGET}: {})",
        verdict(ratio <= P99_TARGET)
    );
    Ok(())
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
