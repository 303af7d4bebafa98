//! A run: the load phase, the measured phase, and the check of what is there afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::ycsb::binding::Binding;
use crate::ycsb::caller::{Caller, How, Stopper};
use crate::ycsb::distribution::Distribution;
use crate::ycsb::keys::{Keys, key_name};
use crate::ycsb::value::{FIRST, Values, stamp};
use crate::ycsb::workload::{Generator, Kind, Operation, Workload};
use madkv_testkit::history::{Action, Answer};
use madkv_testkit::measure::{Latencies, Trouble};
use madkv_testkit::progress::Progress;
use madkv_testkit::swaps::Swap;

/// What is said of a run that a signal has ended.
pub(crate) const INTERRUPTED: &str = "interrupted";
/// How often to look for a signal.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    pub(super) distribution: Distribution,
    pub(super) records: u64,
    /// At most this many.
    pub(super) operations: u64,
    /// At most so long.
    pub(super) length: Option<Duration>,
    pub(super) value_bytes: usize,
    pub(super) scan_max: u64,
    pub(super) clients: u64,
    /// Operations per second of all clients together; `None`: each one as soon as the last one is answered.
    pub(super) target: Option<f64>,
    /// YCSB's own generator, if this is its directory.
    pub(super) ycsb: Option<PathBuf>,
    pub(super) how: How,
    pub(super) managers: Vec<String>,
    pub(super) seed: u64,
}

/// What the clients saw.
#[derive(Default)]
pub(super) struct Seen {
    /// By kind. A read-modify-write counts as such, and its parts as well.
    pub(super) kinds: BTreeMap<Kind, Latencies>,
    /// Each operation once.
    pub(super) all: Latencies,
    /// How many operations were answered in each second.
    pub(super) per_second: Vec<u64>,
    /// Records that scans asked for, and that they returned.
    pub(super) scanned: (u64, u64),
    /// Reads of keys that no one has written, which only YCSB's own generator does.
    pub(super) absent: u64,
    /// In an open loop: operations that were due before the end and that no one had got to.
    pub(super) never_begun: u64,
    /// When the last answer came.
    last: Option<Instant>,
    /// All swaps, for the check.
    pub(super) swaps: Vec<Swap>,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        for (kind, latencies) in other.kinds {
            self.kinds.entry(kind).or_default().add(&latencies);
        }
        self.all.add(&other.all);
        self.per_second.resize(self.per_second.len().max(other.per_second.len()), 0);
        self.per_second.iter_mut().zip(other.per_second).for_each(|(sum, one)| *sum += one);
        self.scanned = (self.scanned.0 + other.scanned.0, self.scanned.1 + other.scanned.1);
        self.absent += other.absent;
        self.never_begun += other.never_begun;
        self.last = self.last.max(other.last);
        self.swaps.extend(other.swaps);
    }
}

/// What the threads of a phase share.
struct Shared {
    keys: Keys,
    stop: AtomicBool,
    begun: AtomicU64,
    answered: AtomicU64,
    failure: Mutex<Option<String>>,
    start: Instant,
}

impl Shared {
    fn new(keys: Keys) -> Arc<Shared> {
        Arc::new(Shared {
            keys,
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failure: Mutex::new(None),
            start: Instant::now(),
        })
    }

    /// Whether it makes no sense to go on.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, what: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().get_or_insert(what);
    }

    fn failure(&self) -> Result<(), Trouble> {
        let failure = self.failure.lock().take();
        failure.map_or(Ok(()), |what| Err(what.into()))
    }

    fn look(&self, all: u64, length: Option<Duration>, phase: &str) -> (f64, String) {
        let (answered, passed) = (self.answered.load(Ordering::Relaxed), self.start.elapsed().as_secs_f64());
        let time = length.map_or(0.0, |length| passed / length.as_secs_f64().max(1e-3));
        let rate = answered as f64 / passed.max(1e-3);
        let text = format!("{phase}: {answered} of at most {all} operations in {passed:.0} s, {rate:.0} per second");
        ((answered as f64 / all.max(1) as f64).max(time), text)
    }
}

/// Clients whose records are loaded.
pub(super) struct Loaded {
    plan: Plan,
    keys: Keys,
    callers: Vec<Caller>,
    values: Arc<Values>,
    /// Of the load phase.
    pub(super) latencies: Latencies,
    /// How long it took.
    pub(super) took: Duration,
}

/// What is left to check after a run.
pub(super) struct Ran {
    pub(super) keys: Keys,
    pub(super) seen: Seen,
    pub(super) took: Duration,
    /// One of the clients.
    pub(super) caller: Caller,
}

/// Starts the clients and writes each record once.
pub(super) fn load(plan: &Plan, interrupted: &dyn Fn() -> bool) -> Result<Loaded, Trouble> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let values = Arc::new(Values::new(plan.value_bytes, &mut rng));
    let callers = (0..plan.clients).map(|_| Caller::new(&plan.how, &plan.managers)).collect::<Result<Vec<_>, _>>()?;
    let binding = binding(plan, "load", interrupted)?;
    let shared = Shared::new(Keys::loaded(if binding.is_some() { 0 } else { plan.records }));
    let (records, by_binding) = (plan.records, binding.clone());
    let job = move |shared: &Shared| {
        let Some(binding) = &by_binding else {
            let number = shared.begun.fetch_add(1, Ordering::Relaxed);
            return Ok((number < records).then(|| key_name(number)));
        };
        loop {
            match binding.next(&|| shared.is_over())? {
                Some(Operation::Insert(_, key)) => return Ok(Some(key)),
                Some(_) => {}
                None => return Ok::<_, Trouble>(None),
            }
        }
    };
    let progress = {
        let shared = Arc::clone(&shared);
        Progress::show(move || shared.look(records, None, "load"))
    };
    let origin = shared.start;
    let done = on_threads(&shared, callers, interrupted, |number, caller, shared| {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ (number << 32));
        let mut latencies = Latencies::default();
        while !shared.is_over() {
            let Some(key) = job(shared)? else { break };
            let action = put(&key, values.make(&key, FIRST, &mut rng));
            let start = Instant::now();
            put_answered(caller.call(&action)?)?;
            latencies.record(start.elapsed());
            shared.answered.fetch_add(1, Ordering::Relaxed);
            if binding.is_some() {
                shared.keys.acknowledge(None, &key);
            }
        }
        Ok(latencies)
    });
    progress.end();
    let (callers, parts) = done?;
    let mut latencies = Latencies::default();
    parts.iter().for_each(|part| latencies.add(part));
    let took = origin.elapsed();
    let keys = Arc::into_inner(shared).unwrap_or_else(|| panic!("all threads of the phase were joined")).keys;
    let loaded = keys.count();
    if loaded != plan.records {
        return Err(format!("{loaded} records were loaded instead of {}", plan.records).into());
    }
    Ok(Loaded { plan: plan.clone(), keys, callers, values, latencies, took })
}

fn binding(plan: &Plan, phase: &str, interrupted: &dyn Fn() -> bool) -> Result<Option<Arc<Binding>>, Trouble> {
    let Some(directory) = &plan.ycsb else { return Ok(None) };
    let properties = [
        ("recordcount", plan.records.to_string()),
        ("operationcount", plan.operations.to_string()),
        ("requestdistribution", format!("{:?}", plan.distribution).to_lowercase()),
        ("maxscanlength", plan.scan_max.to_string()),
        ("basicdb.verbose", "true".to_owned()),
        // The values are ours; the less it prints, the better.
        ("fieldcount", "1".to_owned()),
        ("fieldlength", "1".to_owned()),
    ];
    Ok(Some(Arc::new(Binding::start(directory, phase, plan.workload, &properties, interrupted)?)))
}

/// Runs a client's part on a thread each; gives the clients back, with what each part gave. Once one has failed, or a
/// signal came, no one waits for an answer any more.
fn on_threads<T: Send>(
    shared: &Arc<Shared>,
    callers: Vec<Caller>,
    interrupted: &dyn Fn() -> bool,
    part: impl Fn(u64, &mut Caller, &Shared) -> Result<T, Trouble> + Sync,
) -> Result<(Vec<Caller>, Vec<T>), Trouble> {
    let mut stoppers: Vec<Stopper> = callers.iter().map(Caller::stopper).collect();
    let ended = thread::scope(|scope| {
        let threads: Vec<_> = callers
            .into_iter()
            .zip(0..)
            .map(|(mut caller, number)| {
                let part = &part;
                scope.spawn(move || {
                    let result = part(number, &mut caller, shared);
                    let result = result.map_err(|error| shared.fail(format!("client {number}: {error}"))).ok();
                    (caller, result)
                })
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            if interrupted() {
                shared.fail(INTERRUPTED.to_owned());
            }
            if shared.is_over() {
                stoppers.drain(..).for_each(|stopper| stopper.stop());
            }
            thread::sleep(LOOK_AGAIN);
        }
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    if shared.is_over() {
        // A Ctrl-C reaches client programs too, and their end may be seen first.
        thread::sleep(4 * LOOK_AGAIN);
        if interrupted() {
            return Err(INTERRUPTED.into());
        }
    }
    shared.failure()?;
    let (mut callers, mut results) = (Vec::new(), Vec::new());
    for end in ended {
        let (caller, result) = end.ok_or("a client's thread panicked")?;
        callers.push(caller);
        results.extend(result);
    }
    Ok((callers, results))
}

/// Lets one client do something, with an end to it once a signal comes.
pub(super) fn on_thread<T: Send>(
    caller: &mut Caller,
    interrupted: &dyn Fn() -> bool,
    part: impl FnOnce(&mut Caller, &AtomicBool) -> Result<T, Trouble> + Send,
) -> Result<T, Trouble> {
    let (stopper, over) = (caller.stopper(), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        let thread = scope.spawn(|| part(caller, &over));
        while !thread.is_finished() {
            if interrupted() && !over.swap(true, Ordering::Relaxed) {
                stopper.stop();
            }
            thread::sleep(LOOK_AGAIN);
        }
        thread.join().unwrap_or_else(|_| Err("a client's thread panicked".into()))
    });
    if result.is_err() {
        thread::sleep(4 * LOOK_AGAIN);
    }
    if interrupted() { Err(INTERRUPTED.into()) } else { result }
}

/// Runs the measured phase.
pub(super) fn run(loaded: Loaded, interrupted: &dyn Fn() -> bool) -> Result<Ran, Trouble> {
    let Loaded { plan, keys, callers, values, .. } = loaded;
    let Plan { workload, distribution, records, operations, scan_max, .. } = plan;
    // What takes time is done before the clock starts.
    let seed = |number: u64| plan.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let generator = Generator::new(workload, distribution, records, operations, scan_max);
    let binding = binding(&plan, "run", interrupted)?;
    let shared = Shared::new(keys);
    let progress = {
        let (shared, length) = (Arc::clone(&shared), plan.length);
        Progress::show(move || shared.look(operations, length, "run"))
    };
    let done = on_threads(&shared, callers, interrupted, |number, caller, shared| {
        let worker = Worker {
            plan: &plan,
            number,
            caller,
            shared,
            values: &values,
            rng: ChaCha8Rng::seed_from_u64(!seed(number)),
            count: 0,
            sent: None,
            heard: shared.start,
            seen: Seen::default(),
        };
        worker.work(generator.seeded(seed(number)), binding.as_deref())
    });
    progress.end();
    let (mut callers, parts) = done?;
    let mut seen = Seen::default();
    parts.into_iter().for_each(|part| seen.add(part));
    // The bound on operations may have left some of them out on purpose.
    seen.never_begun = seen.never_begun.min(operations - seen.all.count());
    let took = seen.last.map_or(Duration::ZERO, |last| last - shared.start);
    let keys = Arc::into_inner(shared).unwrap_or_else(|| panic!("all threads of the phase were joined")).keys;
    let caller = callers.pop().ok_or("no clients")?;
    Ok(Ran { keys, seen, took, caller })
}

/// One client's life in the measured phase.
struct Worker<'a> {
    plan: &'a Plan,
    number: u64,
    caller: &'a mut Caller,
    shared: &'a Shared,
    values: &'a Values,
    rng: ChaCha8Rng,
    count: u64,
    /// When the present operation began: in an open loop its turn, or else when its first request left.
    sent: Option<Instant>,
    /// When its last answer came.
    heard: Instant,
    seen: Seen,
}

impl Worker<'_> {
    fn work(mut self, mut generator: Generator, binding: Option<&Binding>) -> Result<Seen, Trouble> {
        let plan = self.plan;
        let start = self.shared.start;
        let end = plan.length.map(|length| start + length);
        // Of all clients together one operation each interval, and each client its share of it.
        let interval = plan.target.map(|target| Duration::from_secs_f64(plan.clients as f64 / target));
        let mut turn = start + interval.unwrap_or_default().mul_f64(self.number as f64 / plan.clients as f64);
        while !self.shared.is_over() {
            if let Some(interval) = interval {
                let now = Instant::now();
                if let Some(end) = end.filter(|&end| now.max(turn) >= end) {
                    let missed = end.saturating_duration_since(turn).as_secs_f64() / interval.as_secs_f64();
                    self.seen.never_begun = missed.ceil() as u64;
                    break;
                }
            } else if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if self.shared.begun.fetch_add(1, Ordering::Relaxed) >= plan.operations {
                break;
            }
            let operation = match binding {
                Some(binding) => binding.next(&|| self.shared.is_over())?,
                None => Some(generator.next(&self.shared.keys)),
            };
            let Some(operation) = operation else { break };
            if let Some(interval) = interval {
                // An operation that had to wait for the one before it is late from its own turn on.
                thread::sleep(turn.saturating_duration_since(Instant::now()));
                self.sent = Some(turn);
                turn += interval;
            } else {
                self.sent = None;
            }
            let kind = operation.kind();
            self.perform(operation)?;
            self.record(kind);
            self.seen.all.record(self.latency());
            let second = self.heard.saturating_duration_since(start).as_secs() as usize;
            self.seen.per_second.resize(self.seen.per_second.len().max(second + 1), 0);
            self.seen.per_second[second] += 1;
            self.seen.last = Some(self.heard);
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.seen)
    }

    /// Of the present operation, once it is answered: without what the generator and the checks take.
    fn latency(&self) -> Duration {
        self.sent.map_or(Duration::ZERO, |sent| self.heard.saturating_duration_since(sent))
    }

    fn record(&mut self, kind: Kind) {
        let latency = self.latency();
        self.seen.kinds.entry(kind).or_default().record(latency);
    }

    /// Sends a request and waits for the answer.
    fn call(&mut self, action: &Action) -> Result<Answer, Trouble> {
        self.sent.get_or_insert_with(Instant::now);
        let answer = self.caller.call(action);
        self.heard = Instant::now();
        answer
    }

    fn perform(&mut self, operation: Operation) -> Result<(), Trouble> {
        match operation {
            Operation::Read(key) => self.read(&key),
            Operation::Update(key) => self.update(key),
            Operation::Insert(number, key) => {
                let value = self.values.make(&key, FIRST, &mut self.rng);
                put_answered(self.call(&put(&key, value))?)?;
                self.shared.keys.acknowledge(number, &key);
                Ok(())
            }
            Operation::Scan(start, count) => self.scan(&start, count),
            Operation::ReadModifyWrite(key) => {
                self.read(&key)?;
                self.record(Kind::Read);
                let whole = self.sent.take();
                self.update(key)?;
                self.record(Kind::Update);
                self.sent = whole;
                Ok(())
            }
        }
    }

    fn read(&mut self, key: &str) -> Result<(), Trouble> {
        match self.call(&Action::Get { key: Bytes::from(key.to_owned()) })? {
            Answer::Value(Some(value)) => check_value(key, &value),
            // YCSB's own generator does not wait for our acknowledgements.
            Answer::Value(None) if self.plan.ycsb.is_some() => {
                self.seen.absent += 1;
                Ok(())
            }
            other => Err(format!("GET of {key}, which was written, answered {other:?}").into()),
        }
    }

    fn update(&mut self, key: String) -> Result<(), Trouble> {
        let new = format!("c{}-{}", self.number, self.count);
        self.count += 1;
        let value = self.values.make(&key, &new, &mut self.rng);
        let action = Action::Swap { key: Bytes::from(key.clone()), value: Bytes::from(value) };
        let started = Instant::now();
        let Answer::Value(old) = self.call(&action)? else { return Err("no answer to a SWAP".into()) };
        let old = match old {
            None => None,
            Some(old) => {
                let old_stamp = stamp(&key, &old).ok_or_else(|| strange(&key, &old))?;
                Some(old_stamp.to_owned())
            }
        };
        self.seen.swaps.push(Swap { key, new, started, answer: Some((self.heard, old)) });
        Ok(())
    }

    fn scan(&mut self, start: &str, count: usize) -> Result<(), Trouble> {
        let expected = self.shared.keys.from(start, count);
        // YCSB's own generator may begin after all that is acknowledged.
        let last = expected.last().map_or(start, String::as_str);
        let action = Action::Scan { from: Bytes::from(start.to_owned()), to: Bytes::from(last.to_owned()) };
        let Answer::Records(records) = self.call(&action)? else { return Err("no answer to a SCAN".into()) };
        self.seen.scanned.0 += count as u64;
        self.seen.scanned.1 += records.len() as u64;
        // What was acknowledged before must be there; more may have come meanwhile.
        let mut found = records.iter();
        for key in &expected {
            let Some((_, value)) = found.find(|(found, _)| found == key.as_bytes()) else {
                return Err(format!("a SCAN from {start} to {last} misses {key}, which was written").into());
            };
            check_value(key, value)?;
        }
        Ok(())
    }
}

fn put(key: &str, value: String) -> Action {
    Action::Put { key: Bytes::from(key.to_owned()), value: Bytes::from(value) }
}

fn put_answered(answer: Answer) -> Result<(), Trouble> {
    match answer {
        Answer::Found(_) => Ok(()),
        other => Err(format!("PUT answered {other:?}").into()),
    }
}

fn check_value(key: &str, value: &[u8]) -> Result<(), Trouble> {
    stamp(key, value).map(drop).ok_or_else(|| strange(key, value))
}

fn strange(key: &str, value: &[u8]) -> Trouble {
    let shown = String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned();
    format!("{key} holds {shown:?}, which is no value of this key").into()
}
