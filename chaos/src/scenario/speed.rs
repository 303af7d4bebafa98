//! How fast writes are, against what the disk itself can do in the same run.
//!
//! Each number is of acknowledged PUTs, durable on a majority. The data is read back at the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use madkv_client::Client;
use tokio::runtime::Runtime;

use crate::scenario::{Place, Stage, verdict};
use madkv_testkit::cluster::Cluster;
use madkv_testkit::measure::percentile;
use madkv_testkit::place::{Outcome, library_client};

/// Size of one write to the disk, in bytes.
const BLOCK_BYTES: usize = 4 << 10;
/// Blocks in the file that is overwritten.
const BLOCKS: u64 = 256;
/// Overwrites that are measured.
const OVERWRITES: u64 = 1_000;
/// Keys of each client.
const KEYS: u64 = 100;
/// Calls of the lone client before the measurement begins.
const WARM_UP: usize = 200;
/// A lone PUT may take this many times a 4 KiB fdatasync.
const LONE_TARGET: f64 = 6.0;
/// PUT/s of many clients.
const MANY_TARGET: f64 = 25_000.0;

/// What to measure.
pub(super) struct Plan {
    pub(super) clients: usize,
    pub(super) lone_puts: usize,
    pub(super) length: Duration,
    pub(super) value_bytes: usize,
}

pub(super) fn run(plan: &Plan, place: &Place) -> Outcome {
    let stage = Stage::set(place)?;
    let cluster = &stage.cluster;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let mut disk = overwrites(cluster.directory())?;
    // Like the command-line client: one thread, so that no hand-over between threads of the client is measured.
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lone = lone(&alone, cluster, plan)?;
    disk.extend(overwrites(cluster.directory())?);
    disk.sort();
    let disk_p50 = percentile(&disk, 0.5);
    println!(
        "fdatasync after a 4 KiB overwrite, before and after the lone client: p50 {disk_p50:?} p99 {:?}",
        percentile(&disk, 0.99)
    );
    let p50 = percentile(&lone, 0.5);
    let ratio = p50.as_secs_f64() / disk_p50.as_secs_f64();
    println!(
        "lone PUT of {} B: p50 {p50:?} p99 {:?}; p50 is {ratio:.1} x fdatasync (target {LONE_TARGET}: {})",
        plan.value_bytes,
        percentile(&lone, 0.99),
        verdict(ratio <= LONE_TARGET)
    );

    let clients: Vec<Client> = (0..plan.clients).map(|_| library_client(cluster)).collect();
    many(&runtime, &clients, plan, "a connection each")?;
    let shared = library_client(cluster);
    let clients: Vec<Client> = (0..plan.clients).map(|_| shared.clone()).collect();
    many(&runtime, &clients, plan, "one connection shared")?;
    stage.done()
}

/// Latencies of overwriting a block of a preallocated file and waiting for the device.
fn overwrites(directory: &Path) -> io::Result<Vec<Duration>> {
    let path = directory.join("overwrites");
    let file = File::create(&path)?;
    let block = vec![0x5a; BLOCK_BYTES];
    for number in 0..BLOCKS {
        file.write_all_at(&block, number * BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    let mut taken = Vec::with_capacity(OVERWRITES as usize);
    for number in 0..OVERWRITES {
        let start = Instant::now();
        file.write_all_at(&block, (number % BLOCKS) * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        taken.push(start.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(taken)
}

/// Latencies of one PUT after the other, sorted.
fn lone(
    runtime: &Runtime,
    cluster: &Cluster,
    plan: &Plan,
) -> Result<Vec<Duration>, Box<dyn std::error::Error + Send + Sync>> {
    let client = library_client(cluster);
    let value = vec![b'v'; plan.value_bytes];
    let mut taken = runtime.block_on(async {
        let mut taken = Vec::with_capacity(plan.lone_puts);
        for number in 0..WARM_UP + plan.lone_puts {
            let key = format!("lone{}", number as u64 % KEYS);
            let start = Instant::now();
            client.put(key.as_bytes(), &value).await?;
            taken.push(start.elapsed());
        }
        Ok::<_, madkv_client::Error>(taken)
    })?;
    taken.drain(..WARM_UP);
    taken.sort();
    Ok(taken)
}

/// All clients at once, each with one PUT under way at a time.
fn many(runtime: &Runtime, clients: &[Client], plan: &Plan, how: &str) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let (mut taken, length) = runtime.block_on(async {
        let tasks: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                tokio::spawn(put_and_check(client.clone(), number, plan.value_bytes, Arc::clone(&stop)))
            })
            .collect();
        tokio::time::sleep(plan.length).await;
        stop.store(true, Ordering::Relaxed);
        let length = start.elapsed();
        let mut taken = Vec::new();
        for task in tasks {
            taken.extend(task.await??);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((taken, length))
    })?;
    taken.sort();
    let rate = taken.len() as f64 / length.as_secs_f64();
    println!(
        "{} clients, {how}: {rate:.0} PUT/s (target {MANY_TARGET:.0}: {}), p50 {:?} p99 {:?}; data read back",
        clients.len(),
        verdict(rate >= MANY_TARGET),
        percentile(&taken, 0.5),
        percentile(&taken, 0.99)
    );
    Ok(())
}

/// Writes numbered values to keys of its own until told to stop, then reads each key back.
async fn put_and_check(
    client: Client,
    number: usize,
    value_bytes: usize,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Duration>, Box<dyn std::error::Error + Send + Sync>> {
    let key = |count: u64| format!("many{number}-{}", count % KEYS);
    let value = |count: u64| format!("{count:0>value_bytes$}");
    let mut taken = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        client.put(key(count).as_bytes(), value(count).as_bytes()).await?;
        taken.push(start.elapsed());
        count += 1;
    }
    for last in count.saturating_sub(KEYS)..count {
        let found = client.get(key(last).as_bytes()).await?;
        if found.as_deref() != Some(value(last).as_bytes()) {
            return Err(format!("{} holds {found:?}, not write number {last}", key(last)).into());
        }
    }
    Ok(taken)
}
