//! Does anyone wait because a snapshot of a large state is taken, or sent?
//!
//! The state is filled first; then some clients overwrite it, which makes the log grow and the replicas take snapshots.
//! Every request is timed, and sorted by whether the leader was writing a snapshot meanwhile. Then a follower is
//! stopped (SIGSTOP), left behind, and goes on: the requests until it has the leader's snapshot are a third lot. The
//! fourth are those when it was killed instead, and on the same cores reads what it had before it takes in the
//! snapshot.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madkv_client::{Client, Error};
use smr::entry::Index;

use crate::scenario::{FIRST, Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::measure::Usage;
use madkv_testkit::measure::percentile;
use madkv_testkit::place::{Outcome, library_client};

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
/// No request waits longer because a snapshot is taken.
const WAIT_TARGET: Duration = Duration::from_millis(50);
/// The p99 of requests while a snapshot is taken or sent, against the p99 without.
const P99_TARGET: f64 = 2.0;
/// Memory of a server with a million keys, at its peak, in bytes.
const MEMORY_TARGET_BYTES: u64 = 450_000_000;
/// How often the replicas are asked how far they are, in milliseconds.
const ASK_MS: u64 = 20;

/// From when to when.
type Span = (Instant, Instant);

pub(super) fn run(keys: u64, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = library_client(&stage.cluster);

    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let filled = Arc::new(AtomicBool::new(false));
    runtime.block_on(write(&client, &next, keys, keys, FILLERS, &filled))?;
    println!("{keys} keys x {VALUE_BYTES} B written in {:.1} s", start.elapsed().as_secs_f64());

    let leader = stage.cluster.wait_leader(FIRST, TIMEOUT)?;
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
    let apart = Lot::of(&apart);
    let during = Lot::of(&during);
    apart.describe("while none was written");
    during.describe("while one was written");
    let more = during.longest().saturating_sub(apart.longest());
    println!(
        "longest wait: {:?} without, {:?} with a snapshot (target: at most {WAIT_TARGET:?} more: {})",
        apart.longest(),
        during.longest(),
        verdict(more <= WAIT_TARGET)
    );
    compare("taken", &during, &apart);

    for (absence, what) in [(Absence::Stopped, "sent"), (Absence::Killed, "sent to a replica that is just started")] {
        let sent = runtime.block_on(while_sent(&mut stage, leader, absence, &client, &next, keys))?;
        let sent = Lot::of(&sent);
        sent.describe(&format!("while one was {what}"));
        compare(what, &sent, &apart);
    }

    for node in stage.cluster.nodes_of(FIRST).collect::<Vec<_>>() {
        let pid = stage.cluster.process(node).pid().ok_or_else(|| format!("{node} has ended"))?;
        let peak = Usage::of(pid).ok_or_else(|| format!("the memory of {node} cannot be read"))?.peak_bytes;
        println!(
            "{node}: at most {:.0} MB of memory (target at most {:.0} MB: {})",
            peak as f64 / 1e6,
            MEMORY_TARGET_BYTES as f64 / 1e6,
            verdict(peak <= MEMORY_TARGET_BYTES)
        );
    }
    stage.done()
}

/// How a follower comes to be left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// SIGSTOP, SIGCONT.
    Stopped,
    /// SIGKILL, and a new process.
    Killed,
}

/// Takes a follower away, lets the leader's log be cut beyond it, and brings it back; the requests until it has the
/// snapshot.
async fn while_sent(
    stage: &mut Stage,
    leader: Node,
    absence: Absence,
    client: &Client,
    next: &Arc<AtomicU64>,
    keys: u64,
) -> Result<Vec<Span>, Box<dyn std::error::Error + Send + Sync>> {
    let cluster = &mut stage.cluster;
    let follower = cluster.nodes_of(FIRST).find(|node| *node != leader).ok_or("a group of one sends no snapshots")?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = {
        let (client, next, stop) = (client.clone(), Arc::clone(next), Arc::clone(&stop));
        tokio::spawn(async move { write(&client, &next, u64::MAX, keys, WRITERS, &stop).await })
    };
    let behind = cluster.status(follower)?.last.index;
    match absence {
        Absence::Stopped => cluster.process(follower).freeze(),
        Absence::Killed => cluster.process(follower).kill(),
    }
    let reached = |cluster: &Cluster, node: Node, index: Index| {
        cluster.status(node).is_ok_and(|status| status.snapshot.index > index)
    };
    wait(|| reached(cluster, leader, behind)).await?;
    let cut = cluster.status(leader)?.snapshot.index;
    let from = Instant::now();
    match absence {
        Absence::Stopped => cluster.process(follower).thaw(),
        Absence::Killed => cluster.process(follower).start()?,
    }
    wait(|| reached(cluster, follower, cut.previous())).await?;
    let to = Instant::now();
    stop.store(true, Ordering::Relaxed);
    let spans = writers.await??;
    println!("{follower}, left behind, had the leader's snapshot {:?} after it was back ({absence:?})", to - from);
    Ok(spans.into_iter().filter(|&(begun, ended)| from <= ended && begun <= to).collect())
}

async fn wait(mut until: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + TIME_MAX;
    while !until() {
        if Instant::now() > deadline {
            return Err(format!("no snapshot within {TIME_MAX:?}"));
        }
        tokio::time::sleep(Duration::from_millis(ASK_MS)).await;
    }
    Ok(())
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

/// How long some requests took, sorted.
struct Lot(Vec<Duration>);

impl Lot {
    fn of(spans: &[Span]) -> Lot {
        let mut taken: Vec<Duration> = spans.iter().map(|(from, to)| *to - *from).collect();
        taken.sort();
        Lot(taken)
    }

    fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    fn p99(&self) -> Duration {
        percentile(&self.0, 0.99)
    }

    fn describe(&self, when: &str) {
        println!(
            "{} requests {when}: p50 {:?} p99 {:?} p99.9 {:?} longest {:?}",
            self.0.len(),
            percentile(&self.0, 0.5),
            self.p99(),
            percentile(&self.0, 0.999),
            self.longest()
        );
    }
}

fn compare(what: &str, during: &Lot, apart: &Lot) {
    let ratio = during.p99().as_secs_f64() / apart.p99().as_secs_f64();
    println!(
        "p99 while a snapshot is {what}: {ratio:.2} x that without (target at most {P99_TARGET}: {})",
        verdict(ratio <= P99_TARGET)
    );
}
