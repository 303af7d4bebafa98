//! Clients that swap unique values on a few keys as fast as they are answered, and keep the history for
//! [`crate::swaps`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::line_client::{ClientProcess, LineClient, NoAnswer};
use crate::swaps::{Broken, Swap, check};
use crate::wait::{WaitTimeout, wait_for};

/// How long a client waits for one answer before the run has failed.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

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

/// A running load. Its client processes have ended when it is dropped, whatever they were waiting for.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    processes: Vec<ClientProcess>,
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
    WaitTimeout(#[from] WaitTimeout),
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
        let clients = (0..plan.clients).map(|_| cluster.client()).collect::<io::Result<Vec<_>>>()?;
        Ok(Load::with(clients, plan))
    }

    /// The same, of clients that were started before.
    pub fn with(clients: Vec<LineClient>, plan: &Plan) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let processes = clients.iter().map(|client| client.process().clone()).collect();
        let workers = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let (plan, stop, answered) = (plan.clone(), Arc::clone(&stop), Arc::clone(&answered));
                thread::spawn(move || work(client, number, &plan, &stop, &answered))
            })
            .collect();
        Load { stop, answered, processes, workers }
    }

    /// How many swaps were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` swaps have been answered from now on.
    ///
    /// # Errors
    /// If that does not happen in time, or a client has failed.
    pub fn wait_answers(&mut self, more: u64, timeout: Duration) -> Result<(), Failed> {
        let target = self.answered() + more;
        let failed = wait_for(timeout, &format!("answer number {target}"), || {
            if self.answered() >= target {
                return Some(None);
            }
            // No one told it to stop.
            self.workers.iter().position(JoinHandle::is_finished).map(Some)
        })?;
        let Some(failed) = failed else { return Ok(()) };
        let worker = self.workers.swap_remove(failed).join().map_err(|_| Failed::Panic)?;
        Err(worker.failure.map_or(Failed::Panic, Failed::Client))
    }

    /// Why a client has failed, if one has. No one told it to stop.
    pub fn failure(&mut self) -> Option<Failed> {
        let failed = self.workers.iter().position(JoinHandle::is_finished)?;
        let worker = self.workers.swap_remove(failed).join();
        Some(worker.map_or(Failed::Panic, |worker| worker.failure.map_or(Failed::Panic, Failed::Client)))
    }

    /// Ends the clients, each after the answer it waits for.
    ///
    /// # Errors
    /// If a client got no answer.
    pub fn finish(mut self) -> Result<History, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        while let Some(worker) = self.workers.pop() {
            let worker = worker.join().map_err(|_| Failed::Panic)?;
            if let Some(failure) = worker.failure {
                return Err(failure.into());
            }
            history.swaps.extend(worker.swaps);
        }
        Ok(history)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A client whose cluster is gone may wait for its answer for minutes, and outlives its pipes as long.
        self.processes.iter().for_each(ClientProcess::end);
        for worker in self.workers.drain(..) {
            // Whoever wanted to know how a client fared has asked before.
            let _ = worker.join();
        }
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
                last.insert(swap.key.clone(), client.get(&swap.key, ANSWER_TIMEOUT)?);
            }
        }
        Ok(check(&self.swaps, &last)?)
    }

    /// The longest time that a client waited for an answer which came after `from`, and before `until` if that is
    /// given.
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
        let answer = client.swap(&key, &new, ANSWER_TIMEOUT);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// How long anything may take that must happen; far below [`ANSWER_TIMEOUT`].
    const TIMEOUT: Duration = Duration::from_secs(60);
    /// A client that answers each swap as if nothing had been there.
    const ANSWERS: &str = "while read verb key value; do echo SWAP $key null; done";
    /// One that never answers, and does not notice that its input has ended.
    const SILENT: &str = "exec sleep 1000";
    /// One that ends at once.
    const ENDS: &str = "exit 0";

    fn load(scripts: &[&str]) -> (Load, Vec<u32>) {
        let start = |script: &&str| LineClient::start(Path::new("/bin/sh"), &["-c".to_owned(), (*script).to_owned()]);
        let clients: Vec<_> = scripts.iter().map(|script| start(script).unwrap()).collect();
        let pids = clients.iter().map(|client| client.process().pid()).collect();
        (Load::with(clients, &Plan { clients: scripts.len(), keys: 2, prefix: "k".to_owned() }), pids)
    }

    fn alive(pids: &[u32]) -> Vec<u32> {
        pids.iter().copied().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
    }

    #[test]
    fn load_dropped_while_clients_wait_leaves_no_process() {
        let (mut load, pids) = load(&[ANSWERS, SILENT, SILENT]);
        load.wait_answers(3, TIMEOUT).unwrap();
        assert_eq!(alive(&pids), pids);
        let start = Instant::now();
        drop(load);
        assert_eq!(alive(&pids), Vec::<u32>::new());
        assert!(start.elapsed() < TIMEOUT, "waited for an answer: {:?}", start.elapsed());
    }

    #[test]
    fn load_with_a_failed_client_leaves_no_process() {
        let (mut load, pids) = load(&[SILENT, ENDS, SILENT]);
        let failure = wait_for(TIMEOUT, "a failure", || load.failure()).unwrap();
        assert!(matches!(failure, Failed::Client(_)), "{failure}");
        drop(load);
        assert_eq!(alive(&pids), Vec::<u32>::new());
    }

    #[test]
    fn load_that_cannot_finish_leaves_no_process() {
        // The last one is looked at first.
        let (load, pids) = load(&[SILENT, ANSWERS, ENDS]);
        wait_for(TIMEOUT, "its end", || load.workers[2].is_finished().then_some(())).unwrap();
        assert!(matches!(load.finish().unwrap_err(), Failed::Client(_)));
        assert_eq!(alive(&pids), Vec::<u32>::new());
    }

    #[test]
    fn load_finished_gives_the_history_and_leaves_no_process() {
        let (mut load, pids) = load(&[ANSWERS, ANSWERS]);
        load.wait_answers(10, TIMEOUT).unwrap();
        let history = load.finish().unwrap();
        assert!(history.swaps.len() >= 10 && history.swaps.iter().all(|swap| swap.answer.is_some()));
        assert_eq!(alive(&pids), Vec::<u32>::new());
    }
}
