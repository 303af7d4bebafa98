//! Clients: they ask whoever they believe to lead, follow redirects, repeat what stays unanswered, and keep sessions.
//!
//! Plain ones, written for the simulation; they do what the protocol between clients and replicas allows and asks for.
//! A client begins operations at its own pace and has up to `window` of them under way.

use std::collections::BTreeMap;

use smr::entry::Term;
use smr::id::{ClientId, REQUESTS_IN_FLIGHT_MAX};
use smr::internals::engine::BEFORE_UPGRADE;
use smr::internals::protocol::Time;
use smr::internals::session::{ANSWERS_MAX_BYTES, SESSIONS_MAX, SessionLimits};
use smr::replica::{NotLeader, Outcome, Request};

use crate::rare::{Rare, RareCounts};
use crate::sim_rng::{Purpose, SimRng};
use crate::workload::{Operation, Seen, Workload};

/// Tags from here on are those of floods, which no one waits for.
pub const FLOOD: u64 = 1 << 61;
/// Tags from here on are those of a process's own listener.
pub const LISTENER: u64 = 1 << 62;
/// Tags from here on are an operator's.
pub const OPERATOR: u64 = 1 << 63;

/// After this long without an answer a client asks another replica, in microseconds.
const TIMEOUT_US: u64 = 500_000;
/// How long a client waits before it repeats what was refused, in microseconds.
const AGAIN_US: u64 = 10_000;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many clients there are.
    pub clients: usize,
    /// How many operations a client has under way at most.
    pub window: usize,
    /// The time from the beginning of one operation to that of the next, in microseconds: between ...
    pub pause_min_us: u64,
    /// ... and this many.
    pub pause_max_us: u64,
    /// This many operations per mille get up to two copies at once, to different replicas.
    pub doubled: u64,
    /// This many per mille of the clients' operations are given up when the first try stays unanswered, and the session
    /// with them: a process that dies and comes back as another client.
    pub given_up: u64,
    /// This many per mille of the writes whose only copy is refused are not repeated: the client takes the word for it
    /// that they have no effect and never will.
    pub trusting: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            clients: 4,
            window: 2,
            pause_min_us: 1_000,
            pause_max_us: 12_000,
            doubled: 10,
            given_up: 2,
            trusting: 50,
        }
    }
}

/// What is to be sent for a client.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) replica: usize,
    pub(super) tag: u64,
    pub(super) request: Request,
}

#[derive(Debug)]
struct Pending {
    operation: Option<Operation>,
    /// The request's number in the session, for writes.
    number: u64,
    began_at: Time,
    /// When it is asked again.
    again_at: Time,
    tries: u64,
}

#[derive(Debug, Default)]
struct Client {
    session: Option<ClientId>,
    next_number: u64,
    /// Operations under way by their serial number. The one without an operation opens the session.
    pending: BTreeMap<u64, Pending>,
    next_serial: u64,
    next_at: Time,
    replica: usize,
    term: Term,
    wakes_at: Option<Time>,
}

/// All clients of a world, and what they saw.
pub struct Clients<W> {
    /// Their pace.
    pub pace: Pace,
    /// What they ask.
    pub workload: W,
    /// What the operator heard.
    pub operator: Vec<(u64, Outcome)>,
    clients: Vec<Client>,
    history: Vec<Seen>,
    replicas: usize,
    rng: SimRng,
    inventing: SimRng,
    stopping: bool,
    /// Clients from this number on begin nothing new.
    active: usize,
    begun: u64,
    acknowledged: u64,
    done: Vec<u64>,
    last_write_at: Time,
    asks: Vec<Ask>,
    violation: Option<String>,
    /// What the group's sessions may hold: without a limit within reach none expires, and no answer goes.
    limits: SessionLimits,
    habits: Habits,
}

/// Whom clients ask, where not one replica takes everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// Each read goes to any replica.
    pub reads_anywhere: bool,
    /// Each write goes to all replicas, and the first answer counts.
    pub writes_everywhere: bool,
    /// Each read goes to this replica.
    pub reads_at: Option<usize>,
}

impl<W: Workload> Clients<W> {
    pub(super) fn new(seed: u64, replicas: usize, pace: Pace, workload: W) -> Clients<W> {
        let client = |replica: usize| Client { next_number: 1, replica: replica % replicas, ..Client::default() };
        Clients {
            pace,
            workload,
            operator: Vec::new(),
            clients: (0..pace.clients).map(client).collect(),
            history: Vec::new(),
            replicas,
            rng: SimRng::new(seed, Purpose::Clients),
            inventing: SimRng::new(seed, Purpose::Workload),
            stopping: false,
            active: pace.clients,
            begun: 0,
            acknowledged: 0,
            done: vec![0; pace.clients],
            last_write_at: Time(0),
            asks: Vec::new(),
            violation: None,
            limits: SessionLimits::default(),
            habits: Habits::default(),
        }
    }

    /// The same with other habits.
    pub(super) fn with_habits(self, habits: Habits) -> Clients<W> {
        Clients { habits, ..self }
    }

    /// The same in a group whose sessions may hold so much.
    pub(super) fn with_limits(self, limits: SessionLimits) -> Clients<W> {
        Clients { limits, ..self }
    }

    /// Begins the last reads of the workload.
    pub(super) fn begin_last_reads(&mut self, now: Time) {
        for operation in self.workload.last_reads() {
            self.begun += 1;
            self.push(0, Some(operation), now);
        }
    }

    /// How many operations were begun.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// How many of them were answered.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many operations of each client were answered.
    pub fn done(&self) -> &[u64] {
        &self.done
    }

    /// When the last write was acknowledged.
    pub fn last_write_at(&self) -> Time {
        self.last_write_at
    }

    /// Operations under way are ended, no new ones are begun.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Half of the clients believe in someone else from now on.
    pub(super) fn scatter(&mut self) {
        for number in (0..self.clients.len()).step_by(2) {
            self.clients[number].replica = self.rng.below(self.replicas as u64) as usize;
        }
    }

    /// No client dies any more. With requests that wait longer than one lives (a full queue before a slow disk), each
    /// death would add a client that asks afresh, and no answer would find the one that it is for.
    pub(super) fn live_on(&mut self) {
        self.pace.given_up = 0;
    }

    /// Only this many clients begin something new from now on.
    pub(super) fn keep(&mut self, count: usize) {
        self.active = self.active.min(count);
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.pending.values().all(|pending| pending.operation.is_none()))
    }

    /// What clients saw so far. Operations that have no outcome yet are not in it.
    pub fn history(&self) -> &[Seen] {
        &self.history
    }

    /// Judges what clients saw.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self) -> Result<(), String> {
        let mut history = self.history.clone();
        for (number, client) in self.clients.iter().enumerate() {
            history.extend(client.pending.values().filter_map(|pending| {
                let operation = pending.operation.clone()?;
                Some(Seen {
                    client: number,
                    operation,
                    began_at: pending.began_at,
                    ended_at: Time(u64::MAX),
                    answer: None,
                    refused: false,
                })
            }));
        }
        self.workload.judge(&history)
    }

    pub(super) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    pub(super) fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// How many clients there are.
    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// When a client has something to do, if that is sooner than what was said before.
    pub(super) fn wakes_at(&mut self, number: usize, now: Time) -> Option<Time> {
        let may_begin = !self.stopping && self.may_begin(number);
        let client = &mut self.clients[number];
        let due = client.pending.values().map(|pending| pending.again_at).min();
        let begins = may_begin.then_some(client.next_at);
        let at = due.into_iter().chain(begins).min()?.max(now);
        if client.wakes_at.is_some_and(|before| before <= at) {
            return None;
        }
        client.wakes_at = Some(at);
        Some(at)
    }

    fn may_begin(&self, number: usize) -> bool {
        let client = &self.clients[number];
        let writes = client.pending.values().filter(|p| matches!(p.operation, Some(Operation::Write(_))));
        // What is lost again and again while others are answered keeps the window where it is.
        let is_in_window =
            writes.map(|p| p.number).min().is_none_or(|lowest| client.next_number < lowest + REQUESTS_IN_FLIGHT_MAX);
        number < self.active && client.pending.len() < self.pace.window && is_in_window
    }

    /// A client's time has come; false if it was an old alarm.
    pub(super) fn wake(&mut self, number: usize, now: Time) -> bool {
        if self.clients[number].wakes_at != Some(now) {
            return false;
        }
        self.clients[number].wakes_at = None;
        let due: Vec<u64> = {
            let pending = self.clients[number].pending.iter();
            pending.filter(|(_, pending)| pending.again_at <= now).map(|(serial, _)| *serial).collect()
        };
        for serial in due {
            if !self.clients[number].pending.contains_key(&serial) {
                continue;
            }
            // Silence: perhaps someone else knows more.
            if self.clients[number].pending[&serial].tries > 0 && !self.give_up(number, serial, now) {
                self.clients[number].replica = self.rng.below(self.replicas as u64) as usize;
            }
            self.ask(number, serial, now);
        }
        if !self.stopping && self.may_begin(number) && self.clients[number].next_at <= now {
            self.begin(number, now);
        }
        true
    }

    /// Now and then a client dies with all that it had under way, and another one takes its place.
    fn give_up(&mut self, number: usize, serial: u64, now: Time) -> bool {
        let is_operation = self.clients[number].pending[&serial].operation.is_some();
        if !is_operation || !self.rng.chance(self.pace.given_up) {
            return false;
        }
        let pending = std::mem::take(&mut self.clients[number].pending);
        for (_, pending) in pending {
            self.leave_open(number, pending);
        }
        let client = &mut self.clients[number];
        (client.session, client.next_number) = (None, 1);
        client.next_at = now;
        true
    }

    fn leave_open(&mut self, number: usize, pending: Pending) {
        if let Some(operation) = pending.operation {
            let ended_at = Time(u64::MAX);
            let began_at = pending.began_at;
            self.history.push(Seen { client: number, operation, began_at, ended_at, answer: None, refused: false });
        }
    }

    fn begin(&mut self, number: usize, now: Time) {
        let pause_us = self.rng.between(self.pace.pause_min_us, self.pace.pause_max_us);
        self.clients[number].next_at = now.plus_us(pause_us);
        if self.clients[number].session.is_none() {
            // One at a time, before anything else.
            if self.clients[number].pending.is_empty() {
                self.push(number, None, now);
            }
            return;
        }
        let operation = self.workload.next(number, &mut self.inventing);
        self.begun += 1;
        self.push(number, Some(operation), now);
    }

    /// The operation that was begun is under way from now on.
    fn push(&mut self, number: usize, operation: Option<Operation>, now: Time) {
        let client = &mut self.clients[number];
        let serial = client.next_serial;
        client.next_serial += 1;
        let is_write = matches!(operation, Some(Operation::Write(_)));
        let request_number = client.next_number;
        client.next_number += u64::from(is_write);
        let pending = Pending { operation, number: request_number, began_at: now, again_at: now, tries: 0 };
        client.pending.insert(serial, pending);
        self.ask(number, serial, now);
    }

    fn ask(&mut self, number: usize, serial: u64, now: Time) {
        let doubled = self.rng.chance(self.pace.doubled);
        let timeout_us = TIMEOUT_US + self.rng.below(TIMEOUT_US / 4);
        let elsewhere = self.rng.below(self.replicas as u64) as usize;
        let client = &mut self.clients[number];
        let lowest = client.pending.values().filter(|p| matches!(p.operation, Some(Operation::Write(_))));
        let lowest_unanswered = lowest.map(|pending| pending.number).min();
        let (mut replica, mut elsewhere, session) = (client.replica, elsewhere, client.session);
        let Some(pending) = client.pending.get_mut(&serial) else { return };
        if matches!(pending.operation, Some(Operation::Read(_))) {
            if self.habits.reads_anywhere {
                std::mem::swap(&mut replica, &mut elsewhere);
            }
            replica = self.habits.reads_at.unwrap_or(replica);
        }
        pending.again_at = now.plus_us(timeout_us);
        let request = match (&pending.operation, session) {
            (None, _) => Request::OpenSession,
            (Some(Operation::Read(query)), _) => Request::Read { query: query.clone().into() },
            (Some(Operation::Write(command)), Some(session)) => Request::Write {
                client: session,
                number: pending.number,
                lowest_unanswered: lowest_unanswered.unwrap_or(pending.number),
                command: command.clone().into(),
            },
            (Some(Operation::Write(_)), None) => panic!("client {number} writes without a session"),
        };
        let tag = |tries: u64| (number as u64) << 48 | (serial & 0xffff_ffff) << 16 | (tries & 0xffff);
        if self.habits.writes_everywhere && matches!(pending.operation, Some(Operation::Write(_))) {
            // The refusal of the last one, who is believed to be first, is what counts.
            for other in (0..self.replicas).filter(|other| *other != replica) {
                pending.tries += 1;
                self.asks.push(Ask { replica: other, tag: tag(pending.tries), request: request.clone() });
            }
        }
        pending.tries += 1;
        self.asks.push(Ask { replica, tag: tag(pending.tries), request: request.clone() });
        if doubled {
            pending.tries += 1;
            self.asks.push(Ask { replica: elsewhere, tag: tag(pending.tries), request });
        }
    }

    /// A refused write of which no other copy is under way may end here, as one without effect.
    fn believe_refusal(&mut self, number: usize, serial: u64, now: Time, rare: &mut RareCounts) -> bool {
        let only = self.clients[number]
            .pending
            .get(&serial)
            .is_some_and(|pending| pending.tries == 1 && matches!(pending.operation, Some(Operation::Write(_))));
        if !only || !self.rng.chance(self.pace.trusting) {
            return false;
        }
        let Some(Pending { operation: Some(operation), began_at, .. }) = self.clients[number].pending.remove(&serial)
        else {
            return false;
        };
        rare.saw(Rare::RefusalBelieved);
        self.history.push(Seen { client: number, operation, began_at, ended_at: now, answer: None, refused: true });
        true
    }

    /// A request did not get through to a process.
    pub(super) fn refused(&mut self, tag: u64, now: Time) {
        self.repeat(tag, now, AGAIN_US, None);
    }

    /// Asks once more, if that was the latest try.
    fn repeat(&mut self, tag: u64, now: Time, after_us: u64, replica: Option<usize>) {
        if tag >= OPERATOR {
            return;
        }
        let (number, serial, try_number) = ((tag >> 48) as usize, tag >> 16 & 0xffff_ffff, tag & 0xffff);
        let elsewhere = self.rng.below(self.replicas as u64) as usize;
        let client = &mut self.clients[number];
        let Some(pending) = client.pending.get_mut(&serial) else { return };
        if pending.tries & 0xffff == try_number {
            pending.again_at = now.plus_us(after_us);
            // Whoever is told whom to ask does not count this as silence.
            client.replica = replica.unwrap_or(elsewhere);
        }
    }

    /// The outcome of a try arrived.
    pub(super) fn take(&mut self, tag: u64, outcome: Outcome, now: Time, rare: &mut RareCounts) {
        if tag >= OPERATOR {
            self.operator.push((tag, outcome));
            return;
        }
        let (number, serial) = ((tag >> 48) as usize, tag >> 16 & 0xffff_ffff);
        match outcome {
            Outcome::SessionOpened(session) => {
                let client = &mut self.clients[number];
                if client.pending.get(&serial).is_some_and(|pending| pending.operation.is_none()) {
                    client.pending.remove(&serial);
                    (client.session, client.next_number, client.next_at) = (Some(session), 1, now);
                }
            }
            Outcome::Answer(answer) => {
                let Some(Pending { operation: Some(operation), began_at, .. }) =
                    self.clients[number].pending.remove(&serial)
                else {
                    return;
                };
                self.acknowledged += 1;
                self.done[number] += 1;
                if let Operation::Write(_) = operation {
                    self.last_write_at = now;
                }
                let answer = Some(answer.to_vec());
                self.history.push(Seen { client: number, operation, began_at, ended_at: now, answer, refused: false });
            }
            Outcome::NotLeader(NotLeader { leader, term }) => {
                let known = self.clients[number].term;
                let replica = leader.map(|leader| usize::from(leader.0)).filter(|replica| *replica < self.replicas);
                if term < known && replica.is_some() {
                    rare.saw(Rare::OldLeaderNamed);
                }
                self.clients[number].term = known.max(term);
                if self.believe_refusal(number, serial, now, rare) {
                    return;
                }
                // An older leader is not followed.
                let replica = replica.filter(|_| term >= known);
                let after_us = if replica.is_some() { 100 } else { AGAIN_US };
                self.repeat(tag, now, after_us, replica);
            }
            Outcome::Unknown | Outcome::OutOfService(_) => self.repeat(tag, now, AGAIN_US, None),
            Outcome::DiskFull => {
                rare.saw(Rare::DiskFullAnswered);
                if self.believe_refusal(number, serial, now, rare) {
                    return;
                }
                self.repeat(tag, now, AGAIN_US, Some(self.clients[number].replica));
            }
            // The leader has not met all members since it started.
            Outcome::Refused(why) if why.starts_with(BEFORE_UPGRADE) => {
                if self.believe_refusal(number, serial, now, rare) {
                    return;
                }
                self.repeat(tag, now, AGAIN_US, Some(self.clients[number].replica));
            }
            Outcome::Busy { retry_after_ms } => {
                rare.saw(Rare::Busy);
                if self.believe_refusal(number, serial, now, rare) {
                    return;
                }
                let replica = self.clients[number].replica;
                self.repeat(tag, now, u64::from(retry_after_ms) * 1000, Some(replica));
            }
            Outcome::SessionExpired => {
                if self.clients[number].pending.contains_key(&serial) {
                    rare.saw(Rare::SessionExpired);
                    if self.limits.sessions_max >= SESSIONS_MAX {
                        self.violation
                            .get_or_insert(format!("client {number}: session expired, and none was evicted (C4)"));
                    }
                    // Whether earlier copies took effect is unknown, and nothing moves to a new session.
                    let client = &mut self.clients[number];
                    let writes: Vec<u64> = client.pending.keys().copied().collect();
                    for serial in writes {
                        if let Some(pending) = self.clients[number].pending.remove(&serial) {
                            self.leave_open(number, pending);
                        }
                    }
                    let client = &mut self.clients[number];
                    (client.session, client.next_number, client.next_at) = (None, 1, now);
                }
            }
            Outcome::AnswerGone => {
                if let Some(pending) = self.clients[number].pending.remove(&serial) {
                    rare.saw(Rare::AnswerGone);
                    if self.limits.answers_max_bytes >= ANSWERS_MAX_BYTES {
                        self.violation
                            .get_or_insert(format!("client {number}: answer gone, and none was evicted (C6)"));
                    }
                    self.leave_open(number, pending);
                }
            }
            other => {
                let alive = self.clients[number].pending.contains_key(&serial);
                if alive {
                    self.violation.get_or_insert(format!("client {number} was told {other:?}"));
                }
            }
        }
    }
}
