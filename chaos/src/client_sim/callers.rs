//! Those who use the client library: processes that die and come back under a new identity, each with a few callers
//! that do one thing after another, and the book in which everything stands that they asked and heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_client::{Client, Error, Options, ReadFrom, World};
use parking_lot::{Mutex, MutexGuard};
use smr::internals::protocol::Time;
use smr_sim::sim_rng::{Purpose, SimRng};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::endpoint::Host;
use super::rare::{Counts, Rare};
use super::sim_net::SimNet;
use madkv_testkit::history::{Action, Answer, History, Operation, Outcome};

/// What is asked, and how.
#[derive(Clone, Debug)]
pub struct Habits {
    /// How many client processes there are at a time.
    pub clients: u32,
    /// How many calls of a process run at a time.
    pub callers: u32,
    /// The keys.
    pub keys: Vec<Bytes>,
    /// The pause between two calls of a caller, in microseconds, at most.
    pub pause_max_us: u64,
    /// The time that a call may take, in milliseconds, for each client in turn; `None` for as long as it takes.
    pub timeouts_ms: Vec<Option<u64>>,
    /// Shares of PUT, SWAP, GET, DELETE, SCAN.
    pub shares: [u64; 5],
    /// This many calls per mille are abandoned after a random time.
    pub abandoned: u64,
    /// This many values per mille are this long, in bytes.
    pub long: (u64, usize),
}

/// What all callers asked and heard.
pub struct Book {
    state: Mutex<State>,
    clock: Clock,
    /// Whether a SCAN asks several partitions.
    wide: bool,
    /// Whether tables of sessions and answers can be full.
    evictions: bool,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, (u32, u64, Action)>,
    next: u64,
    last_stamp: u64,
    history: History,
    counts: Counts,
    violation: Option<String>,
    answered: u64,
    failed: u64,
    /// Values whose writer's outcome is unknown after a timeout.
    unknown: Vec<Bytes>,
    hash: u64,
    stopping: bool,
}

impl Book {
    fn new(clock: Clock, wide: bool, evictions: bool) -> Arc<Book> {
        Arc::new(Book { state: Mutex::default(), clock, wide, evictions })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The next moment: nanoseconds of virtual time, and no two are equal.
    fn stamp(&self, state: &mut State) -> u64 {
        state.last_stamp = (self.clock.now().0 * 1000).max(state.last_stamp + 1);
        state.last_stamp
    }

    fn begin(&self, caller: u32, action: Action) -> u64 {
        let mut state = self.lock();
        let call = self.stamp(&mut state);
        let id = state.next;
        state.next += 1;
        state.open.insert(id, (caller, call, action));
        id
    }

    fn end(&self, id: u64, heard: Result<Answer, Error>) {
        let mut state = self.lock();
        let at = self.stamp(&mut state);
        let Some((client, call, action)) = state.open.remove(&id) else { return };
        let outcome = match heard {
            Ok(answer) => {
                state.answered += 1;
                Outcome::Answered { at, answer }
            }
            Err(error) => {
                state.failed += 1;
                let unknown = error.may_have_happened() && action.is_write();
                match &error {
                    Error::Timeout { may_have_happened: true, .. } if !action.is_write() => {
                        state.violation.get_or_insert(format!("a read that may have happened: {error}"));
                    }
                    Error::Timeout { may_have_happened: false, .. } => state.counts.saw(Rare::TimeoutNotDone),
                    Error::Timeout { may_have_happened: true, .. } => {
                        if let Action::Put { value, .. } | Action::Swap { value, .. } = &action {
                            state.unknown.push(value.clone());
                        }
                    }
                    Error::Evicted { what: "session evicted" | "answer evicted" } if !self.evictions => {
                        state.violation.get_or_insert(format!("client {client}: {error}, though no table was full"));
                    }
                    Error::Evicted { .. } => state.counts.saw(Rare::EvictedCall),
                    other => {
                        let what = format!("client {client}: {action:?} failed: {other}");
                        state.violation.get_or_insert(what);
                    }
                }
                if unknown { Outcome::Unknown } else { Outcome::NotDone { at } }
            }
        };
        if let (Action::Scan { .. }, Outcome::Answered { .. }, true) = (&action, &outcome, self.wide) {
            state.counts.saw(Rare::WideScan);
        }
        let operation = Operation { client, action, call, outcome };
        let text = operation.to_string();
        state.hash = smr::codec::checksum(&[&state.hash.to_le_bytes(), text.as_bytes()]);
        state.history.operations.push(operation);
    }

    /// Nothing will be heard of this call.
    fn forget(&self, id: u64) {
        let mut state = self.lock();
        let Some((client, call, action)) = state.open.remove(&id) else { return };
        let at = self.stamp(&mut state);
        let outcome = if action.is_write() { Outcome::Unknown } else { Outcome::NotDone { at } };
        state.history.operations.push(Operation { client, action, call, outcome });
    }

    /// How many calls were answered.
    pub fn answered(&self) -> u64 {
        self.lock().answered
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// What must not be, if it was seen.
    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// Of all calls and their outcomes, in the order of their ends.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// Everything, with what is still open as unknown; and what was seen on the way.
    pub fn close(&self) -> (History, Counts) {
        let open: Vec<u64> = self.lock().open.keys().copied().collect();
        open.into_iter().for_each(|id| self.forget(id));
        let state = self.lock();
        let mut counts = state.counts.clone();
        for value in &state.unknown {
            let took_effect = state.history.operations.iter().any(|operation| match operation.answer() {
                Some(Answer::Value(Some(seen))) => seen == value,
                Some(Answer::Records(records)) => records.iter().any(|(_, seen)| seen == value),
                _ => false,
            });
            counts.saw(if took_effect { Rare::TimeoutTookEffect } else { Rare::TimeoutNoEffect });
        }
        (state.history.clone(), counts)
    }
}

/// A client process.
struct Process {
    host: Host,
    tasks: Vec<JoinHandle<()>>,
}

/// All client processes.
pub struct Callers {
    /// What they asked and heard.
    pub book: Arc<Book>,
    habits: Habits,
    seed: u64,
    net: Arc<SimNet>,
    clock: Clock,
    managers: Vec<String>,
    processes: Vec<Process>,
    next_host: Host,
}

impl Callers {
    /// No one yet.
    pub fn new(
        seed: u64,
        habits: Habits,
        net: Arc<SimNet>,
        clock: Clock,
        managers: Vec<String>,
        wide: bool,
        evictions: bool,
    ) -> Callers {
        Callers {
            book: Book::new(clock, wide, evictions),
            habits,
            seed,
            net,
            clock,
            managers,
            processes: Vec::new(),
            next_host: 0,
        }
    }

    /// The client processes that live.
    pub fn hosts(&self) -> Vec<Host> {
        self.processes.iter().map(|process| process.host).collect()
    }

    /// Starts all.
    pub fn start(&mut self) {
        for place in 0..self.habits.clients {
            let process = self.process(place);
            self.processes.push(process);
        }
    }

    /// Kills a client process; another takes its place. Calls under way end with an unknown outcome.
    pub fn kill(&mut self, place: usize) {
        let next = self.process(place as u32);
        let dead = std::mem::replace(&mut self.processes[place], next);
        dead.tasks.iter().for_each(JoinHandle::abort);
        self.net.host_ended(dead.host);
        let mut state = self.book.lock();
        let callers = dead.host * CALLERS_MAX..(dead.host + 1) * CALLERS_MAX;
        let lost: Vec<u64> =
            state.open.iter().filter(|(_, (caller, ..))| callers.contains(caller)).map(|(id, _)| *id).collect();
        if !lost.is_empty() {
            state.counts.saw(Rare::ClientKilled);
        }
        drop(state);
        lost.into_iter().for_each(|id| self.book.forget(id));
    }

    /// No new calls.
    pub fn stop(&self) {
        self.book.lock().stopping = true;
    }

    /// Whether all callers have ended.
    pub fn have_ended(&self) -> bool {
        self.processes.iter().flat_map(|process| &process.tasks).all(JoinHandle::is_finished)
    }

    /// A new client, which no one uses yet.
    pub fn client(&mut self, timeout_ms: Option<u64>) -> (Host, Client) {
        let host = self.next_host;
        self.next_host += 1;
        let seed = SimRng::new(self.seed.wrapping_add(u64::from(host) << 32), Purpose::Clients).any();
        let client = Client::connect(Options {
            managers: self.managers.clone(),
            timeout: timeout_ms.map(Duration::from_millis),
            trace: None,
            client_id: None,
            read_from: ReadFrom::Leader,
            world: Some(World { network: self.net.of_host(host), seed }),
        });
        (host, client)
    }

    /// An operator asks for a readmission, and tries for as long as it takes.
    pub fn readmit(&mut self, group: u16, replica: u16) {
        let (_, client) = self.client(None);
        let book = Arc::clone(&self.book);
        tokio::spawn(async move {
            let heard = client.readmit(&format!("s{group}"), replica).await;
            let mut state = book.lock();
            state.counts.saw(if heard.is_ok() { Rare::Readmitted } else { Rare::ReadmissionRefused });
        });
    }

    fn process(&mut self, place: u32) -> Process {
        let timeouts = &self.habits.timeouts_ms;
        let timeout_ms = timeouts[place as usize % timeouts.len()];
        let (host, client) = self.client(timeout_ms);
        let callers = 0..self.habits.callers.min(CALLERS_MAX);
        let tasks = callers.map(|number| {
            let number = host * CALLERS_MAX + number;
            let caller = Caller {
                number,
                client: client.clone(),
                book: Arc::clone(&self.book),
                habits: self.habits.clone(),
                rng: SimRng::new(self.seed ^ u64::from(number) << 20, Purpose::Workload),
                clock: self.clock,
                values: 0,
            };
            tokio::spawn(caller.run())
        });
        Process { host, tasks: tasks.collect() }
    }

    /// Reads every key once more, as someone who was not there before.
    pub fn last_reads(&mut self) -> JoinHandle<()> {
        let (host, client) = self.client(None);
        let book = Arc::clone(&self.book);
        let keys = self.habits.keys.clone();
        tokio::spawn(async move {
            let number = host * CALLERS_MAX;
            for key in &keys {
                call(&book, number, &client, Action::Get { key: key.clone() }).await;
            }
            let range = keys.iter().min().cloned().zip(keys.iter().max().cloned());
            if let Some((from, to)) = range {
                call(&book, number, &client, Action::Scan { from, to }).await;
            }
        })
    }
}

/// Callers of one process at most: histories number callers by process first.
const CALLERS_MAX: u32 = 8;

struct Caller {
    number: u32,
    client: Client,
    book: Arc<Book>,
    habits: Habits,
    rng: SimRng,
    clock: Clock,
    values: u64,
}

impl Caller {
    async fn run(mut self) {
        loop {
            let at = Time(self.clock.now().0 + self.rng.below(self.habits.pause_max_us));
            self.clock.sleep_until(at).await;
            if self.book.lock().stopping {
                return;
            }
            let action = self.invent();
            let id = self.book.begin(self.number, action.clone());
            let abandoned = self.rng.chance(self.habits.abandoned);
            let timeout = Duration::from_micros(self.rng.below(300_000));
            let call = perform(&self.client, action);
            let heard = if abandoned {
                match tokio::time::timeout(timeout, call).await {
                    Ok(heard) => heard,
                    Err(_) => {
                        self.book.lock().counts.saw(Rare::Abandoned);
                        self.book.forget(id);
                        continue;
                    }
                }
            } else {
                call.await
            };
            self.book.end(id, heard);
        }
    }

    fn invent(&mut self) -> Action {
        let total = self.habits.shares.iter().sum();
        let mut lot = self.rng.below(total);
        let mut kind = 0;
        while lot >= self.habits.shares[kind] {
            lot -= self.habits.shares[kind];
            kind += 1;
        }
        let key = self.key();
        match kind {
            0 => Action::Put { key, value: self.value() },
            1 => Action::Swap { key, value: self.value() },
            2 => Action::Get { key },
            3 => Action::Delete { key },
            _ => {
                let other = self.key();
                let (from, to) = if key <= other { (key, other) } else { (other, key) };
                Action::Scan { from, to }
            }
        }
    }

    fn key(&mut self) -> Bytes {
        let place = self.rng.below(self.habits.keys.len() as u64) as usize;
        self.habits.keys[place].clone()
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        let mut value = format!("c{}-{}", self.number, self.values);
        let (permille, len) = self.habits.long;
        if self.rng.chance(permille) {
            value.extend(std::iter::repeat_n('.', len));
        }
        value.into()
    }
}

async fn call(book: &Book, caller: u32, client: &Client, action: Action) {
    let id = book.begin(caller, action.clone());
    let heard = perform(client, action).await;
    book.end(id, heard);
}

async fn perform(client: &Client, action: Action) -> Result<Answer, Error> {
    match action {
        Action::Put { key, value } => client.put(&key, &value).await.map(Answer::Found),
        Action::Swap { key, value } => client.swap(&key, &value).await.map(Answer::Value),
        Action::Get { key } => client.get(&key).await.map(Answer::Value),
        Action::Delete { key } => client.delete(&key).await.map(Answer::Found),
        Action::Scan { from, to } => client.scan(&from, &to).await.map(Answer::Records),
    }
}
