//! The fuzzer: clients that ask for conflicting things, and a check of what they heard.
//!
//! It only observes. Whatever happens to the service meanwhile, its clients' history must be linearizable and none of
//! them may hang. [`run`] does all of it; [`Fuzz`] is for those who do something else meanwhile: start it, do harm to
//! the cluster, finish it.
//!
//! - [`workload`]: what is asked for. [`worker`]: one client's life.
//! - [`statistics`], [`progress`]: numbers, and what is seen of them during the run.
//! - [`report`]: verdict, files, the last line.
//!
//! # Rules
//! - A write without an answer may have happened; one that its client calls "not changed" may not
//!   ([`madkv_testkit::history`]).
//! - Keys begin with a word that is fresh for each run, and are read before the first operation, so that a service that
//!   holds data can be fuzzed again and again. No one else may write to those keys meanwhile.
//! - After the last operation all keys are read once more, so that a write lost at the end is seen.
//! - A client that gets no answer within its hang timeout, ends by itself, or says what is no answer has failed the
//!   run. The other clients stop then.

mod progress;
pub mod report;
pub mod statistics;
mod worker;
pub mod workload;

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use madkv_client::Client;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Runtime;

use crate::fuzz::report::Report;
use crate::fuzz::statistics::Statistics;
use crate::fuzz::worker::Worker;
use crate::fuzz::workload::{Plan, Weights, Workload};
use madkv_testkit::caller::{Heard, Maker};
use madkv_testkit::history::{Action, Answer, History, Operation, Outcome, Writer};
use madkv_testkit::linearize;
use madkv_testkit::progress::Progress;

/// What a run is to be like.
#[derive(Clone, Debug)]
pub struct FuzzOptions {
    /// `host:port` of each manager replica.
    pub managers: Vec<String>,
    /// How many clients.
    pub clients: u32,
    /// The client's executable; `None`: the library, in this process.
    pub program: Option<PathBuf>,
    /// How long the clients ask.
    pub length: Duration,
    /// How much longer they may, where someone else says when it is over.
    pub grace: Duration,
    /// After how many operations they stop, if before.
    pub operations: Option<u64>,
    /// Decides what they ask for.
    pub seed: u64,
    /// How many keys they share.
    pub keys: usize,
    /// 0: all keys alike; 1: the second half as often as the first, the third a third as often, and so on.
    pub skew: f64,
    /// How often which operation.
    pub weights: Weights,
    /// Values are padded to this size.
    pub value_bytes: usize,
    /// What the keys begin with; `None`: something fresh.
    pub prefix: Option<String>,
    /// How long a client tries before it gives up on a request; `None`: for ever.
    pub timeout: Option<Duration>,
    /// How long a request may take before its client counts as hung.
    pub hang_timeout: Duration,
    /// In how many of 1000 cases a client dies with its request under way, and another takes its place.
    pub deaths_permille: u32,
    /// Where the history goes; a picture of a failure goes beside it.
    pub history: PathBuf,
    /// How many configurations the checker may look at per key.
    pub budget: u64,
    /// How many of 100 operations must be answered.
    pub answered_percent_min: f64,
    /// Whether the run fails if no operation ever had to be tried again.
    pub must_retry: bool,
    /// Whether to show progress on stderr.
    pub progress: bool,
}

impl FuzzOptions {
    /// Five clients of the library on five keys for ten seconds; the history goes to `history`.
    pub fn new(managers: Vec<String>, history: &Path) -> FuzzOptions {
        FuzzOptions {
            managers,
            clients: 5,
            program: None,
            length: Duration::from_secs(10),
            grace: Duration::ZERO,
            operations: None,
            seed: 0,
            keys: 5,
            skew: 0.0,
            weights: Weights::default(),
            value_bytes: 0,
            prefix: None,
            timeout: None,
            hang_timeout: Duration::from_secs(60),
            deaths_permille: 0,
            history: history.to_path_buf(),
            budget: linearize::BUDGET_DEFAULT,
            answered_percent_min: 0.0,
            must_retry: false,
            progress: false,
        }
    }
}

/// There was no run to judge.
#[derive(Debug, thiserror::Error)]
pub enum CouldNotRun {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// The service does not answer at all.
    #[error("the service is not there: {0}")]
    Service(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        error: io::Error,
    },
}

pub(crate) fn trouble(what: impl Into<String>) -> impl FnOnce(io::Error) -> CouldNotRun {
    let what = what.into();
    move |error| CouldNotRun::Io { what, error }
}

/// What all threads of a run share.
pub(crate) struct Shared {
    options: FuzzOptions,
    /// Time 0 of the history.
    origin: Instant,
    stop: AtomicBool,
    begun: AtomicU64,
    answered: AtomicU64,
    book: Mutex<Book>,
}

/// What was heard so far.
struct Book {
    file: Writer<BufWriter<File>>,
    file_error: Option<io::Error>,
    history: History,
    statistics: Statistics,
    last_answer: Instant,
    failures: Vec<String>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// The history's time.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.origin.elapsed() >= self.options.length + self.options.grace
    }

    /// Whether there is one more operation to do; counts it.
    fn begin(&self) -> bool {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.options.operations.is_none_or(|most| number < most)
    }

    fn fail(&self, what: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.book().failures.push(what);
    }
}

impl Book {
    fn keep(&mut self, operation: Operation) {
        if let Err(error) = self.file.operation(&operation) {
            self.file_error.get_or_insert(error);
        }
        self.history.operations.push(operation);
    }
}

/// A run that is under way.
pub struct Fuzz {
    shared: Arc<Shared>,
    plan: Plan,
    maker: Maker,
    workers: Vec<JoinHandle<()>>,
    progress: Option<Progress>,
    /// The clients of the library live here.
    runtime: Runtime,
}

impl Fuzz {
    /// Reads what the keys hold now, and starts the clients.
    ///
    /// # Errors
    /// If there is nothing to fuzz.
    pub fn start(options: FuzzOptions) -> Result<Fuzz, CouldNotRun> {
        if options.clients == 0 || options.keys == 0 || options.managers.is_empty() {
            return Err(CouldNotRun::Options("at least one client, one key and one manager are needed".to_owned()));
        }
        let prefix = match &options.prefix {
            Some(prefix) if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(CouldNotRun::Options(format!("{prefix:?} is no word of visible ASCII to begin keys with")));
            }
            Some(prefix) => prefix.clone(),
            None => format!("fuzz-{:08x}-", rand::random::<u32>()),
        };
        let plan = Plan {
            seed: options.seed,
            prefix,
            values: options.prefix.as_ref().map_or(String::new(), |_| format!("{:08x}-", rand::random::<u32>())),
            keys: options.keys,
            skew: options.skew,
            weights: options.weights,
            value_bytes: options.value_bytes,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(trouble("no runtime"))?;
        let maker = Maker {
            program: options.program.clone(),
            managers: options.managers.clone(),
            timeout: options.timeout,
            hang_timeout: options.hang_timeout,
            runtime: runtime.handle().clone(),
        };
        let history = first_look(&options, &plan, &maker)?;
        let file = begin_file(&options.history, &history).map_err(trouble(options.history.display().to_string()))?;
        let workloads: Result<Vec<Workload>, String> =
            (0..options.clients).map(|client| Workload::new(&plan, client)).collect();
        let workloads = workloads.map_err(CouldNotRun::Options)?;
        let callers: io::Result<Vec<_>> = (0..options.clients).map(|client| maker.make(client)).collect();
        let callers = callers.map_err(trouble("cannot start a client"))?;
        let origin = Instant::now();
        let shared = Arc::new(Shared {
            options,
            origin,
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            book: Mutex::new(Book {
                file,
                file_error: None,
                history,
                statistics: Statistics::default(),
                last_answer: origin,
                failures: Vec::new(),
            }),
        });
        let workers = callers.into_iter().zip(workloads).zip(0..).map(|((caller, workload), client)| {
            let worker = Worker::new(Arc::clone(&shared), client, caller, workload, maker.clone());
            thread::spawn(move || worker.work())
        });
        let workers = workers.collect();
        let progress = shared.options.progress.then(|| {
            let shared = Arc::clone(&shared);
            Progress::show(move || progress::look(&shared))
        });
        Ok(Fuzz { shared, plan, maker, workers, progress, runtime })
    }

    /// How many operations were answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Why a client has failed, if one has.
    pub fn failure(&self) -> Option<String> {
        self.shared.book().failures.first().cloned()
    }

    /// Whether all clients have ended.
    pub fn is_over(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Asks the clients to end, each after the answer it waits for.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all clients have ended, reads all keys once more, and judges.
    ///
    /// # Errors
    /// If the history cannot be written.
    pub fn finish(mut self) -> Result<Report, CouldNotRun> {
        for (client, worker) in self.workers.drain(..).enumerate() {
            if worker.join().is_err() {
                self.shared.fail(format!("client {client}: its thread panicked"));
            }
        }
        if let Some(progress) = self.progress.take() {
            progress.end();
        }
        let took = self.shared.origin.elapsed();
        self.last_look();
        self.runtime.shutdown_background();
        drop(self.maker);
        let shared = Arc::into_inner(self.shared).unwrap_or_else(|| panic!("all threads of the run were joined"));
        let Shared { options, book, .. } = shared;
        let Book { file, file_error, history, mut statistics, failures, .. } = book.into_inner();
        let named = || trouble(options.history.display().to_string());
        file_error.map_or(Ok(()), Err).map_err(named())?;
        file.finish().map_err(named())?;
        statistics.took = took;
        Ok(Report::judge(&options, history, statistics, failures))
    }

    /// Reads all keys, with a client of its own, whose number is the next.
    fn last_look(&self) {
        let client = self.shared.options.clients;
        let mut caller = match self.maker.make(client) {
            Ok(caller) => caller,
            Err(error) => return self.shared.fail(format!("the last read: {error}")),
        };
        let gets = (0..self.plan.keys).map(|key| Action::Get { key: self.plan.key(key) });
        for action in std::iter::once(self.plan.all()).chain(gets) {
            let call = self.shared.now();
            match caller.call(&action) {
                Heard::Answer(answer) => {
                    let outcome = Outcome::Answered { at: self.shared.now(), answer };
                    self.shared.book().keep(Operation { client, action, call, outcome });
                }
                Heard::NotDone(why) | Heard::Unknown(why) | Heard::Broken(why) => {
                    return self.shared.fail(format!("the last read, after all clients had ended: {why}"));
                }
            }
        }
    }
}

/// Runs clients until the time or the operations are used up, a client fails, or `stop` is set; then judges.
///
/// # Errors
/// If there is nothing to fuzz, or the history cannot be written.
pub fn run(options: FuzzOptions, stop: &AtomicBool) -> Result<Report, CouldNotRun> {
    let fuzz = Fuzz::start(options)?;
    while !fuzz.is_over() {
        if stop.load(Ordering::Relaxed) {
            fuzz.stop();
        }
        thread::sleep(Duration::from_millis(LOOK_AGAIN_MS));
    }
    fuzz.finish()
}

/// How often to look for the end, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;
/// How long the service may take until it answers for the first time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the keys hold, and how many partitions there are.
fn first_look(options: &FuzzOptions, plan: &Plan, maker: &Maker) -> Result<History, CouldNotRun> {
    let maker =
        Maker { hang_timeout: options.hang_timeout.min(FIRST_TIMEOUT), program: None, timeout: None, ..maker.clone() };
    let mut caller = maker.make(options.clients).map_err(trouble("cannot start a client"))?;
    let initially = match caller.call(&plan.all()) {
        Heard::Answer(Answer::Records(records)) => records,
        Heard::Broken(why) | Heard::NotDone(why) | Heard::Unknown(why) => return Err(CouldNotRun::Service(why)),
        Heard::Answer(other) => return Err(CouldNotRun::Service(format!("{other:?} to a SCAN"))),
    };
    let mut notes = vec![format!("{options:?}")];
    if !initially.is_empty() {
        notes.push("the keys were there before; no one else may write to them".to_owned());
    }
    Ok(History { initially, partitions: partitions(&maker), notes, ..History::default() })
}

/// Over how many partitions the slots were dealt evenly: that is what the first map does.
fn partitions(maker: &Maker) -> Option<u16> {
    let status = maker.runtime.block_on(async {
        let managers = maker.managers.clone();
        Client::connect(madkv_client::Options { managers, ..Default::default() }).status().await
    });
    let groups = status.nodes.iter().filter_map(|node| node.group.strip_prefix('s')?.parse::<u16>().ok());
    if status.epoch == 1 { groups.max().map(|last| last + 1) } else { None }
}

fn begin_file(path: &Path, history: &History) -> io::Result<Writer<BufWriter<File>>> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let mut file = Writer::new(BufWriter::new(File::create(path)?))?;
    history.notes.iter().try_for_each(|note| file.note(note))?;
    history.partitions.map_or(Ok(()), |count| file.partitions(count))?;
    history.initially.iter().try_for_each(|(key, value)| file.initially(key, value))?;
    Ok(file)
}
