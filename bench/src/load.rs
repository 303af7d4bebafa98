//! Clients that swap unique values on a few keys as fast as they are answered, and keep the history for
//! [`crate::chain`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::chain::{Broken, Swap, check};
use crate::cluster::Cluster;
use crate::line_client::{LineClient, NoAnswer};
use crate::wait::{InVain, wait_for};

/// How long a client waits for one answer before the run has failed.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// What kind of load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many client processes.
    pub clients: usize,
    /// How many keys they share.
    pub keys: usize,
    /// What the keys begin with; a run that shares a cluster with others chooses its own.
    pub prefix: String,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Worker>>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct History {
    /// All swaps, in no order.
    pub swaps: Vec<Swap>,
}

/// The run cannot be judged, or is judged badly.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A client got no answer.
    #[error("a client failed: {0}")]
    Client(#[from] NoAnswer),
    /// The history is impossible.
    #[error("not exactly once: {0}")]
    Broken(#[from] Broken),
    /// Nothing happens.
    #[error("{0}")]
    InVain(#[from] InVain),
    /// A process could not be started.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A client thread panicked.
    #[error("a client thread panicked")]
    Panic,
}

struct Worker {
    swaps: Vec<Swap>,
    failure: Option<NoAnswer>,
}

impl Load {
    /// Starts the clients.
    ///
    /// # Errors
    /// If a process cannot be created.
    pub fn start(cluster: &Cluster, plan: &Plan) -> io::Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let clients = (0..plan.clients).map(|_| cluster.client()).collect::<io::Result<Vec<_>>>()?;
        let workers = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let (plan, stop, answered) = (plan.clone(), Arc::clone(&stop), Arc::clone(&answered));
                thread::spawn(move || work(client, number, &plan, &stop, &answered))
            })
            .collect();
        Ok(Load { stop, answered, workers })
    }

    /// How many swaps were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` swaps have been answered from now on.
    ///
    /// # Errors
    /// If that does not happen in time, or a client has failed.
    pub fn wait_answers(&mut self, more: u64, patience: Duration) -> Result<(), Failed> {
        let target = self.answered() + more;
        let failed = wait_for(patience, &format!("answer number {target}"), || {
            if self.answered() >= target {
                return Some(None);
            }
            // Nobody told it to stop.
            self.workers.iter().position(JoinHandle::is_finished).map(Some)
        })?;
        let Some(failed) = failed else { return Ok(()) };
        let worker = self.workers.swap_remove(failed).join().map_err(|_| Failed::Panic)?;
        Err(worker.failure.map_or(Failed::Panic, Failed::Client))
    }

    /// Why a client has failed, if one has. Nobody told it to stop.
    pub fn failure(&mut self) -> Option<Failed> {
        let failed = self.workers.iter().position(JoinHandle::is_finished)?;
        let worker = self.workers.swap_remove(failed).join();
        Some(worker.map_or(Failed::Panic, |worker| worker.failure.map_or(Failed::Panic, Failed::Client)))
    }

    /// Ends the clients, each after the answer it waits for.
    ///
    /// # Errors
    /// If a client got no answer.
    pub fn finish(self) -> Result<History, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for worker in self.workers {
            let worker = worker.join().map_err(|_| Failed::Panic)?;
            if let Some(failure) = worker.failure {
                return Err(failure.into());
            }
            history.swaps.extend(worker.swaps);
        }
        Ok(history)
    }
}

impl History {
    /// Reads what the keys hold now, and checks that each swap took effect exactly once.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, cluster: &Cluster) -> Result<(), Failed> {
        let mut client = cluster.client()?;
        let mut last = BTreeMap::new();
        for swap in &self.swaps {
            if !last.contains_key(&swap.key) {
                last.insert(swap.key.clone(), client.get(&swap.key, ANSWER_PATIENCE)?);
            }
        }
        Ok(check(&self.swaps, &last)?)
    }

    /// The longest time that a client waited for an answer which came after `from`, and before `until` if that is given.
    pub fn longest_wait(&self, from: Instant, until: Option<Instant>) -> Duration {
        let waits = self.swaps.iter().filter_map(|swap| {
            let (answered, _) = swap.answer.as_ref()?;
            let inside = *answered >= from && until.is_none_or(|until| *answered < until);
            inside.then(|| answered.duration_since(swap.started))
        });
        waits.max().unwrap_or_default()
    }
}

fn work(mut client: LineClient, number: usize, plan: &Plan, stop: &AtomicBool, answered: &AtomicU64) -> Worker {
    let mut worker = Worker { swaps: Vec::new(), failure: None };
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{}{}", plan.prefix, (number + count) % plan.keys);
        let new = format!("c{number}-{count}");
        let started = Instant::now();
        let answer = client.swap(&key, &new, ANSWER_PATIENCE);
        let (answer, failure) = match answer {
            Ok(old) => (Some((Instant::now(), old)), None),
            Err(failure) => (None, Some(failure)),
        };
        worker.swaps.push(Swap { key, new, started, answer });
        if failure.is_some() {
            worker.failure = failure;
            break;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    worker
}
