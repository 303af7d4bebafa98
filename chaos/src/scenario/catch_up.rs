//! Does a follower that was away have everything again, while clients write as fast as they are answered?
//!
//! The state is filled first; then clients overwrite it without a pause. A follower is killed, stays away for a while,
//! and is started again. It is level once it has all that the leader had a moment before. Meanwhile no request may wait
//! for long, and no other leader may be elected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madkv_client::{Client, Error};
use smr::entry::Index;

use crate::scenario::{FIRST, Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::place::{Outcome, library_client};

/// Writes under way while the state is filled.
const FILLERS: u64 = 256;
/// How often the leader is asked how far the follower is.
const ASK: Duration = Duration::from_millis(50);
/// A follower is level if it has what the leader had this long ago.
const LEVEL_WITHIN: Duration = Duration::from_secs(1);
/// How long the load runs undisturbed before each absence.
const UNDISTURBED: Duration = Duration::from_secs(5);
/// The follower is level within this ...
const LEVEL_TARGET: Duration = Duration::from_secs(30);
/// ... and the time that its state takes at this rate, in bytes per second.
const TRANSFER_TARGET_BYTES_PER_S: u64 = 40 << 20;
/// No request waits for longer.
const WAIT_TARGET: Duration = Duration::from_secs(2);
/// A follower that is not level then will never be: this many times the target.
const GIVE_UP_TIMES: u32 = 5;

/// How large a state, how much load, and how long the follower stays away.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) clients: u64,
    pub(super) absences: Vec<Duration>,
}

impl Plan {
    fn target(&self) -> Duration {
        let state_bytes = self.keys * self.value_bytes as u64;
        LEVEL_TARGET + Duration::from_millis(1000 * state_bytes / TRANSFER_TARGET_BYTES_PER_S)
    }
}

/// What the clients have seen since it was last asked.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    longest_us: AtomicU64,
}

impl Seen {
    fn take(&self) -> (u64, Duration) {
        let longest_us = self.longest_us.swap(0, Ordering::Relaxed);
        (self.answered.swap(0, Ordering::Relaxed), Duration::from_micros(longest_us))
    }
}

pub(super) fn run(plan: &Plan, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = library_client(&stage.cluster);
    let seen = Arc::new(Seen::default());

    let start = Instant::now();
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers = Writers { next, stop, end: plan.keys, plan: plan.clone(), seen: Arc::clone(&seen) };
    for task in writers.start(&runtime, &client, FILLERS) {
        runtime.block_on(task)??;
    }
    println!("{} keys x {} B written in {:.1} s", plan.keys, plan.value_bytes, start.elapsed().as_secs_f64());

    let leader = stage.cluster.wait_leader(FIRST, TIMEOUT)?;
    let term = stage.cluster.status(leader)?.term;
    let load = Writers { end: u64::MAX, ..writers };
    let tasks = load.start(&runtime, &client, plan.clients);
    let told = |what: &str, since: Instant| {
        let (answered, longest) = seen.take();
        let rate = answered as f64 / since.elapsed().as_secs_f64();
        println!("    {what}: {rate:.0} PUT/s, longest wait {} ms", longest.as_millis());
        longest
    };
    seen.take();
    let mut longest = Duration::ZERO;
    for absence in &plan.absences {
        let since = Instant::now();
        std::thread::sleep(UNDISTURBED);
        longest = longest.max(told("all there", since));
        let follower =
            stage.cluster.nodes_of(FIRST).find(|node| *node != leader).ok_or("a group of one has no followers")?;
        let since = Instant::now();
        stage.cluster.process(follower).kill();
        std::thread::sleep(*absence);
        longest = longest.max(told(&format!("{follower} away"), since));
        let since = Instant::now();
        stage.cluster.process(follower).start()?;
        let lacked = level(&stage.cluster, leader, follower, plan.target() * GIVE_UP_TIMES)?;
        let took = since.elapsed();
        longest = longest.max(told(&format!("{follower} back"), since));
        println!(
            "{follower}, away for {} s: level {:.1} s after its start, lacked up to {lacked} entries (target {:.1} \
             s: {})",
            absence.as_secs(),
            took.as_secs_f64(),
            plan.target().as_secs_f64(),
            verdict(took <= plan.target())
        );
    }
    load.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task)??;
    }
    let elected = stage.cluster.status(stage.cluster.wait_leader(FIRST, TIMEOUT)?)?.term.0 - term.0;
    println!(
        "longest wait {} ms (target {}: {})",
        longest.as_millis(),
        WAIT_TARGET.as_millis(),
        verdict(longest <= WAIT_TARGET)
    );
    println!("{elected} elections (target 0: {})", verdict(elected == 0));
    if elected > 0 {
        tell_roles(&mut stage.cluster, term.0);
    }
    stage.done()
}

/// Says who came to lead after that term and why, in the replicas' own words.
fn tell_roles(cluster: &mut Cluster, term: u64) {
    let nodes: Vec<Node> = cluster.nodes_of(FIRST).collect();
    for node in nodes {
        let log = cluster.process(node).log_text();
        let is_later = |line: &str| {
            let words = line.split_once("in term ").map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default());
            words.is_some_and(|number| number.parse::<u64>().is_ok_and(|number| number > term))
        };
        let is_why = |line: &str| line.contains("hands over") || line.contains("stands down");
        for line in log.lines().filter(|line| is_later(line) || is_why(line)) {
            println!("    {line}");
        }
    }
}

/// Waits until the follower has what the leader had a moment before; the most entries that it lacked.
fn level(cluster: &Cluster, leader: Node, follower: Node, timeout: Duration) -> Result<u64, String> {
    let deadline = Instant::now() + timeout;
    let mut ends: VecDeque<(Instant, Index)> = VecDeque::new();
    let mut most = 0;
    loop {
        let asked = Instant::now();
        // A leader under full load answers later, a follower that starts not at all.
        let (Ok(lead), follows) = (cluster.status(leader), cluster.status(follower)) else { continue };
        if let Ok(follows) = follows {
            most = most.max(lead.last.index.0.saturating_sub(follows.last.index.0));
            while ends.front().is_some_and(|(at, _)| asked - *at > LEVEL_WITHIN) {
                ends.pop_front();
            }
            if ends.front().is_some_and(|(_, end)| follows.last.index >= *end) {
                return Ok(most);
            }
        }
        ends.push_back((asked, lead.last.index));
        if asked > deadline {
            return Err(format!("{follower} is not level after {timeout:?}: it lacks {most} entries"));
        }
        std::thread::sleep(ASK);
    }
}

/// Whoever writes.
struct Writers {
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    end: u64,
    plan: Plan,
    seen: Arc<Seen>,
}

impl Writers {
    /// Writes numbers up to the end over all keys, this many at a time, until told to stop.
    fn start(
        &self,
        runtime: &tokio::runtime::Runtime,
        client: &Client,
        at_a_time: u64,
    ) -> Vec<tokio::task::JoinHandle<Result<(), Error>>> {
        let task = |_| {
            let (client, next, stop) = (client.clone(), Arc::clone(&self.next), Arc::clone(&self.stop));
            let (end, plan, seen) = (self.end, self.plan.clone(), Arc::clone(&self.seen));
            runtime.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let from = Instant::now();
                    let width = plan.value_bytes;
                    let (key, value) = (format!("key{:010}", number % plan.keys), format!("{number:0>width$}"));
                    client.put(key.as_bytes(), value.as_bytes()).await?;
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                    seen.longest_us.fetch_max(from.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
            })
        };
        (0..at_a_time).map(task).collect()
    }
}
