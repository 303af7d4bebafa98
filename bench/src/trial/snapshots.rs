//! Does anybody wait because a snapshot of a large state is taken?
//!
//! The state is filled first; then some clients overwrite it, which makes the log grow and the replicas take snapshots.
//! Every request is timed, and sorted by whether the leader was writing a snapshot meanwhile.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madkv_client::{Client, Error};

use crate::trial::{FIRST, Outcome, PATIENCE, Place, Stage, library_client, percentile, verdict};

/// Size of a value, in bytes.
const VALUE_BYTES: usize = 100;
/// Writes under way while the state is filled.
const FILLERS: u64 = 256;
/// Writes under way while requests are timed: a moderate load.
const WRITERS: u64 = 8;
/// Snapshots of the leader that are waited for.
const SNAPSHOTS: usize = 3;
/// How long to wait for them.
const TIME_MAX: Duration = Duration::from_secs(240);
/// How often to look for the file that a snapshot is written to, in milliseconds.
const LOOK_MS: u64 = 2;
/// No request waits longer because of a snapshot.
const WAIT_TARGET: Duration = Duration::from_millis(50);

/// From when to when.
type Span = (Instant, Instant);

pub(super) fn run(keys: u64, place: &Place) -> Outcome {
    let stage = Stage::set(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = library_client(&stage.cluster);

    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let filled = Arc::new(AtomicBool::new(false));
    runtime.block_on(write(&client, &next, keys, keys, FILLERS, &filled))?;
    println!("{keys} keys x {VALUE_BYTES} B written in {:.1} s", start.elapsed().as_secs_f64());

    let leader = stage.cluster.wait_leader(FIRST, PATIENCE)?;
    let directory = stage.cluster.backer_path(leader).join("snapshots");
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || watch(&directory, &stop))
    };
    let requests = runtime.block_on(write(&client, &next, u64::MAX, keys, WRITERS, &stop))?;
    let snapshots = watcher.join().map_err(|_| "the watcher of the snapshots failed")?;
    if snapshots.len() < SNAPSHOTS {
        return Err(format!("only {} snapshots in {TIME_MAX:?}", snapshots.len()).into());
    }

    let overlaps = |&(from, to): &Span| snapshots.iter().any(|&(begun, ended)| from <= ended && begun <= to);
    let (during, apart): (Vec<Span>, Vec<Span>) = requests.into_iter().partition(overlaps);
    let longest: Vec<Duration> = snapshots.iter().map(|(begun, ended)| *ended - *begun).collect();
    println!("the leader {leader} wrote {} snapshots, in {longest:?}", snapshots.len());
    let apart = describe("while none was written", &apart);
    let during = describe("while one was written", &during);
    let more = during.saturating_sub(apart);
    println!(
        "longest wait: {apart:?} without, {during:?} with a snapshot (target: at most {WAIT_TARGET:?} more: {})",
        verdict(more <= WAIT_TARGET)
    );
    stage.done()
}

/// Writes numbers up to `end` over `keys` keys, `at_a_time` at a time, until told to stop; when each began and ended.
async fn write(
    client: &Client,
    next: &Arc<AtomicU64>,
    end: u64,
    keys: u64,
    at_a_time: u64,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Span>, Box<dyn std::error::Error + Send + Sync>> {
    let tasks: Vec<_> = (0..at_a_time)
        .map(|_| {
            let (client, next, stop) = (client.clone(), Arc::clone(next), Arc::clone(stop));
            tokio::spawn(async move {
                let mut spans = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || stop.load(Ordering::Relaxed) {
                        return Ok::<_, Error>(spans);
                    }
                    let from = Instant::now();
                    let (key, value) = (format!("key{:08}", number % keys), format!("{number:0>VALUE_BYTES$}"));
                    client.put(key.as_bytes(), value.as_bytes()).await?;
                    spans.push((from, Instant::now()));
                }
            })
        })
        .collect();
    let mut spans = Vec::new();
    for task in tasks {
        spans.extend(task.await??);
    }
    Ok(spans)
}

/// Notes when a snapshot's file was being written, until enough were seen or time is up; then says stop.
fn watch(directory: &Path, stop: &AtomicBool) -> Vec<Span> {
    let until = Instant::now() + TIME_MAX;
    let mut spans = Vec::new();
    let mut begun: Option<Instant> = None;
    while spans.len() < SNAPSHOTS && Instant::now() < until {
        match (is_writing(directory), begun) {
            (true, None) => begun = Some(Instant::now()),
            (false, Some(from)) => {
                spans.push((from, Instant::now()));
                begun = None;
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    stop.store(true, Ordering::Relaxed);
    spans
}

fn is_writing(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".writing"))
}

fn describe(when: &str, spans: &[Span]) -> Duration {
    let mut taken: Vec<Duration> = spans.iter().map(|(from, to)| *to - *from).collect();
    taken.sort();
    let longest = taken.last().copied().unwrap_or_default();
    println!(
        "{} requests {when}: p50 {:?} p99 {:?} p99.9 {:?} longest {longest:?}",
        taken.len(),
        percentile(&taken, 0.5),
        percentile(&taken, 0.99),
        percentile(&taken, 0.999)
    );
    longest
}
