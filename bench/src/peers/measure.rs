//! One measurement: clients in a closed loop for some seconds, and what that cost the store.

use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::peers::{Connection, Store};
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::{Figures, Latencies, Trouble, Usage, total};

/// How long a store may say nothing, beyond the time that is measured, before it counts as hung.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long all keys may take to be written.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How often to look for a signal.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Many clients, each PUTs.
    Put,
    /// Many clients, each GETs.
    Get,
    /// Many clients, each GETs or PUTs, by the toss of a coin.
    Mixed,
    /// One client PUTs.
    LonePut,
    /// One client GETs.
    LoneGet,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 5] = [Measure::Put, Measure::Get, Measure::Mixed, Measure::LonePut, Measure::LoneGet];

    /// How it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Put => "PUT only",
            Measure::Get => "GET only",
            Measure::Mixed => "GET/PUT 50/50",
            Measure::LonePut => "lone PUT",
            Measure::LoneGet => "lone GET",
        }
    }

    /// Whether one client is alone with the store.
    pub fn is_lone(self) -> bool {
        matches!(self, Measure::LonePut | Measure::LoneGet)
    }

    fn is_put(self, rng: &mut ChaCha8Rng) -> bool {
        match self {
            Measure::Put | Measure::LonePut => true,
            Measure::Get | Measure::LoneGet => false,
            Measure::Mixed => rng.random_bool(0.5),
        }
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) clients: usize,
    pub(super) warm_up: Duration,
    pub(super) length: Duration,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
}

/// What came out.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Found {
    /// Operations answered in a second.
    pub(super) rate: f64,
    /// Of all operations.
    pub(super) latencies: Figures,
    /// Processor time of all processes of the store for 1,000 operations, in seconds.
    pub(super) cpu_seconds_per_1000: f64,
}

/// A key of the space that all clients share.
fn key(number: u64) -> String {
    format!("compare{number:08}")
}

/// A value that says whose it is, so that what is read can be checked.
fn value(key: &str, stamp: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{key}={stamp:016x}=").into_bytes();
    value.resize(bytes.max(key.len() + 1), b'v');
    value
}

/// Waits for work that a store may leave undone, but neither for ever nor when a signal came.
async fn bounded<T>(
    timeout: Duration,
    interrupted: &Interrupted,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let end = async {
        let start = Instant::now();
        loop {
            if interrupted.signal().is_some() {
                return "interrupted".to_owned();
            }
            if start.elapsed() > timeout {
                return format!("hangs: not done within {timeout:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        why = end => Err(why.into()),
    }
}

/// Writes each key once.
pub(super) fn load(runtime: &Runtime, store: &Store, plan: &Plan, interrupted: &Interrupted) -> Result<(), Trouble> {
    let connections = store.connect(runtime, plan.clients)?;
    runtime.block_on(bounded(LOAD_TIMEOUT, interrupted, async {
        let (plan, clients) = (*plan, connections.len() as u64);
        let tasks: Vec<_> = (0..)
            .zip(connections)
            .map(|(number, mut connection)| {
                tokio::spawn(async move {
                    for number in (number..plan.keys).step_by(clients as usize) {
                        let key = key(number);
                        connection.put(key.as_bytes(), &value(&key, 0, plan.value_bytes)).await?;
                    }
                    Ok::<_, Trouble>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    }))
}

/// Measures once.
pub(super) fn measure(
    runtime: &Runtime,
    store: &Store,
    measure: Measure,
    plan: &Plan,
    seed: u64,
    interrupted: &Interrupted,
) -> Result<Found, Trouble> {
    let connections = store.connect(runtime, if measure.is_lone() { 1 } else { plan.clients })?;
    let pids = store.pids();
    let from = Instant::now() + plan.warm_up;
    let until = from + plan.length;
    // On a thread of its own: a busy runtime would look too late.
    let watcher = thread::spawn(move || {
        let at = |moment: Instant| {
            thread::sleep(moment.saturating_duration_since(Instant::now()));
            total(&pids)
        };
        (at(from), at(until))
    });
    let timeout = plan.warm_up + plan.length + SILENCE_MAX;
    let done = runtime.block_on(bounded(timeout, interrupted, async {
        let tasks: Vec<_> = (0..)
            .zip(connections)
            .map(|(number, connection)| {
                let rng = ChaCha8Rng::seed_from_u64(seed ^ (number << 32));
                tokio::spawn(work(connection, measure, *plan, rng, from, until))
            })
            .collect();
        let (mut latencies, mut answered) = (Latencies::default(), 0);
        for task in tasks {
            let (its, count) = task.await??;
            latencies.add(&its);
            answered += count;
        }
        Ok((latencies, answered))
    }))?;
    let (latencies, answered) = done;
    let (before, after): (Usage, Usage) = watcher.join().map_err(|_| "the watcher of the processes panicked")?;
    let count = answered.max(1) as f64;
    Ok(Found {
        rate: answered as f64 / plan.length.as_secs_f64(),
        latencies: latencies.figures(),
        cpu_seconds_per_1000: after.cpu.saturating_sub(before.cpu).as_secs_f64() / count * 1e3,
    })
}

/// One operation after the other. Latencies are of those that begin between the two moments, however late they are
/// answered: a stall at the end is not left out. With how many were answered between them.
async fn work(
    mut connection: Connection,
    measure: Measure,
    plan: Plan,
    mut rng: ChaCha8Rng,
    from: Instant,
    until: Instant,
) -> Result<(Latencies, u64), Trouble> {
    let (mut latencies, mut answered) = (Latencies::default(), 0);
    loop {
        let key = key(rng.random_range(0..plan.keys));
        let is_put = measure.is_put(&mut rng);
        let value = is_put.then(|| value(&key, rng.random(), plan.value_bytes));
        let start = Instant::now();
        if start >= until {
            return Ok((latencies, answered));
        }
        match &value {
            Some(value) => connection.put(key.as_bytes(), value).await?,
            None => {
                let found = connection.get(key.as_bytes()).await?;
                if !found.as_ref().is_some_and(|found| found.starts_with(key.as_bytes())) {
                    return Err(format!("{key} holds {found:?}").into());
                }
            }
        }
        let end = Instant::now();
        if start >= from {
            latencies.record(end - start);
        }
        answered += u64::from((from..until).contains(&end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_work_that_never_ends_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let interrupted = Interrupted::watch().unwrap();
        let hang = bounded(Duration::ZERO, &interrupted, std::future::pending::<Result<(), Trouble>>());
        assert!(runtime.block_on(hang).unwrap_err().to_string().starts_with("hangs: "));
        let quick = bounded(Duration::ZERO, &interrupted, async { Ok(7) });
        assert_eq!(runtime.block_on(quick).unwrap(), 7);
    }
}
