//! What the agent makes of what it hears: who is a member, who is dead, who hangs, what is launched when. Pure: it gets
//! what happened with the time of it, and returns what is to be done.
//!
//! # Rules
//! - A replica is *dead* once its process is gone; that alone. A connection that breaks is no news but that it has to
//!   be dialled again.
//! - It *hangs* if it has answered nothing for [`HUNG_AFTER_INTERVALS`] intervals and a half. Time in which this agent
//!   itself was held up does not count.
//! - Nothing is launched while a process of the replica may still be there: whoever hangs is killed first, and its end
//!   waited for. So no directory ever has two processes that want it because of an agent.
//! - A replica that ended because someone asked it to (it says so, or exits with 0) stays ended until someone starts
//!   it: neither this agent nor the managers launch it again.
//! - An order of the managers is carried out once. One that takes a replica's directory is carried out only while no
//!   one uses that, and only if the replica was not in service since the report that the order answers: what the
//!   managers knew then may be wrong by now. What is not carried out comes again if they still want it.
//! - A process that was launched has [`START_MAX_MS`] to register, then it is killed like one that hangs; the next one
//!   has longer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use madkv_proto::agent::{HeartbeatAnswer, LaunchCommand, ProcessId, ReplicaRegistration};
use madkv_proto::control::{AgentOrders, Order, OrderKind, ReplicaReport, Service};
use tokio::time::Instant;

use super::known::{Known, KnownReplica};
use super::options::{HEARTBEAT_FREQ_MAX_MS, HEARTBEAT_FREQ_MIN_MS};
use super::placement::Placement;
use super::process::Ended;
use super::replica::{ConnectionId, Name, Phase, Replica, Then};

/// After how many intervals without an answer, and a half, a replica hangs: three heartbeats in a row were not
/// answered.
pub const HUNG_AFTER_INTERVALS: u32 = 3;
/// How long a replica that ran before this agent did may take to dial it at least, in milliseconds.
pub const RETURN_MIN_MS: u64 = 3_000;
/// How long a replica that is told to end in order may take before it is killed, in milliseconds: the contract's 5 s,
/// twice.
pub const END_MAX_MS: u64 = 10_000;
/// How long a replica that was launched may take until it registers, in milliseconds. It does so before it heals or
/// catches up, but after it has read its directory: so each time that this was not enough doubles it.
pub const START_MAX_MS: u64 = 30_000;
/// How often that is doubled at most.
pub const START_DOUBLINGS_MAX: u32 = 5;
/// How long after a report an answer to it still counts, in milliseconds: an older one tells of a world that is gone.
pub const ANSWER_AGE_MAX_MS: u64 = 1_000;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send a heartbeat.
    Heartbeat {
        /// To whom.
        to: ConnectionId,
        /// Its count.
        count: u64,
    },
    /// Close a connection.
    Disconnect(ConnectionId),
    /// From now on say when this process is gone.
    Watch(ProcessId),
    /// Ask a process to end (SIGTERM).
    Terminate(ProcessId),
    /// Kill a process (SIGKILL).
    Kill(ProcessId),
    /// Launch a replica, and say what came of it.
    Launch {
        /// Which.
        name: Name,
        /// How.
        command: LaunchCommand,
        /// Whether its directory is set aside before.
        fresh: bool,
    },
    /// Write down what is known of the replicas.
    Remember,
    /// Print a message of `--trace_messages`.
    Trace(String),
    /// Tell the operator.
    Say(String),
}

/// How an agent is set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Its number.
    pub(super) agent: u16,
    /// Whether it launches anything.
    pub(super) relaunch: bool,
    /// How often it heartbeats.
    pub(super) freq: Duration,
    /// Where it listens.
    pub(super) listen: String,
    /// How replicas are launched that this host has never run.
    pub(super) placement: Placement,
}

/// The replicas of a host, and what is to be done about them.
pub(super) struct Supervisor {
    setup: Setup,
    /// Whether the managers want agents to relaunch by themselves.
    managers_relaunch: bool,
    /// Heartbeats sent so far.
    count: u64,
    replicas: BTreeMap<Name, Replica>,
    next_beat: Instant,
    last_tick: Instant,
    effects: Vec<Effect>,
}

impl Supervisor {
    pub(super) fn new(setup: Setup, now: Instant) -> Supervisor {
        Supervisor {
            setup,
            managers_relaunch: true,
            count: 0,
            replicas: BTreeMap::new(),
            next_beat: now,
            last_tick: now,
            effects: Vec::new(),
        }
    }

    /// What is to be done since it was asked last.
    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Supervisor::tick`] is due.
    pub(super) fn next_wakeup(&self) -> Instant {
        let deadlines = self.replicas.values().filter_map(|replica| self.deadline(replica));
        deadlines.fold(self.next_beat, Instant::min)
    }

    /// How the replicas are, for the managers. One that ran before this agent did and has not dialled it yet is
    /// starting, as far as anyone can tell: this host is not silent until all have returned, or the managers would
    /// fail it.
    pub(super) fn report(&self) -> Vec<ReplicaReport> {
        self.replicas.values().map(Replica::report).collect()
    }

    /// What an agent that comes after this one has to know.
    pub(super) fn known(&self) -> Known {
        let replicas = self.replicas.values().map(|replica| KnownReplica {
            name: replica.name,
            console: replica.console,
            command: replica.command.clone(),
            incarnation: replica.incarnation,
            process: replica.process,
            is_stopped: replica.phase == Phase::Stopped || replica.said_farewell,
            order: replica.order,
        });
        Known { listen: self.setup.listen.clone(), replicas: replicas.collect() }
    }

    /// Takes over what an agent before this one knew. `is_alive` says whether a process still runs.
    pub(super) fn adopt(&mut self, known: Known, is_alive: impl Fn(ProcessId) -> bool, now: Instant) {
        let same_address = known.listen == self.setup.listen;
        for one in known.replicas {
            let mut replica = Replica::new(one.name, now);
            (replica.console, replica.command, replica.incarnation) = (one.console, one.command, one.incarnation);
            replica.order = one.order;
            replica.said_farewell = one.is_stopped;
            let name = replica.name;
            match one.process {
                Some(process) if is_alive(process) => {
                    replica.process = Some(process);
                    replica.phase = Phase::Returning;
                    replica.may_be_replaced = same_address;
                    self.effects.push(Effect::Watch(process));
                    self.replicas.insert(name, replica);
                }
                Some(process) => {
                    replica.process = Some(process);
                    self.replicas.insert(name, replica);
                    self.gone(process, &Ended::somehow("it ended while no agent ran here"), now);
                }
                None if one.is_stopped => {
                    replica.phase = Phase::Stopped;
                    self.replicas.insert(name, replica);
                }
                None => {
                    self.replicas.insert(name, replica);
                    self.ended(name, "it was not running when this agent started", now);
                }
            }
        }
    }

    /// A replica has dialled. `is_visible` says whether its process can be seen from here.
    ///
    /// # Errors
    /// Why it is not watched.
    pub(super) fn registered(
        &mut self,
        connection: ConnectionId,
        registration: ReplicaRegistration,
        is_visible: bool,
        now: Instant,
    ) -> Result<(), String> {
        let ReplicaRegistration { partition, replica, console, incarnation, process, command } = registration;
        let name = Name { partition, replica };
        let replica = self.replicas.entry(name).or_insert_with(|| Replica::new(name, now));
        // One that was launched and is not registered has not got as far as the directory's lock; this one has.
        let is_pending = matches!(replica.phase, Phase::Launching | Phase::Starting);
        if let Some(other) = replica.process.filter(|&other| other != process && !is_pending) {
            return Err(format!("{name} runs here as {other}"));
        }
        if replica.phase == Phase::Ending {
            return Err(format!("{name} is being ended"));
        }
        let is_new = replica.process != Some(process);
        if is_new {
            (replica.service, replica.is_added) = (None, false);
            replica.backoff.launched();
        }
        if let Some(old) = replica.connection.replace(connection) {
            self.effects.push(Effect::Disconnect(old));
        }
        replica.console = console;
        replica.command = Some(command);
        replica.incarnation = Some(incarnation);
        replica.process = Some(process);
        replica.is_visible = is_visible;
        replica.phase = Phase::Running;
        replica.said_farewell = false;
        replica.may_be_replaced = true;
        replica.slow_starts = 0;
        replica.heard = now;
        let then = replica.launch_is_over();
        if is_visible && is_new {
            self.effects.push(Effect::Watch(process));
        }
        self.effects.push(Effect::Remember);
        self.beat(name);
        if then == Then::Retire {
            self.end(name, process, then, now);
        }
        Ok(())
    }

    /// A replica has answered a heartbeat.
    pub(super) fn answered(&mut self, connection: ConnectionId, answer: HeartbeatAnswer, now: Instant) {
        let agent = self.setup.agent;
        let Some(replica) = self.replica_at(connection) else { return };
        let console = replica.console;
        replica.heard = now;
        let is_other = replica.incarnation != Some(answer.incarnation);
        replica.incarnation = Some(answer.incarnation);
        replica.service = answer.service;
        if replica.service == Some(Service::InService) {
            replica.in_service_at = Some(now);
            replica.backoff.serves();
        }
        if replica.service.is_some() {
            replica.backoff.is_well(now);
        }
        if replica.phase == Phase::Hung {
            replica.phase = Phase::Running;
        }
        let is_added = std::mem::replace(&mut replica.is_added, true);
        self.effects.push(Effect::Trace(format!("[{}] LFD{agent} receives heartbeat from S{console}", answer.count)));
        if !is_added {
            self.effects.push(Effect::Trace(format!("LFD{agent}: add replica S{console}")));
        }
        if is_other {
            self.effects.push(Effect::Remember);
        }
    }

    /// A replica says that it ends because it was asked to.
    pub(super) fn farewell(&mut self, connection: ConnectionId) {
        if let Some(replica) = self.replica_at(connection) {
            if replica.phase == Phase::Ending && matches!(replica.then, Then::Launch { .. }) {
                // It was this agent that asked, in order to launch it again; the agent that comes after this one must
                // not take that for the order of a person.
                return;
            }
            replica.said_farewell = true;
            self.effects.push(Effect::Remember);
        }
    }

    /// A connection is over.
    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        if let Some(replica) = self.replica_at(connection) {
            replica.connection = None;
        }
    }

    /// The directory of the replica that is this process.
    pub(super) fn directory_of(&self, process: ProcessId) -> Option<&Path> {
        let replica = self.replicas.values().find(|replica| replica.process == Some(process))?;
        replica.command.as_ref().map(|command| Path::new(OsStr::from_bytes(&command.directory)))
    }

    /// A process is gone.
    pub(super) fn gone(&mut self, process: ProcessId, ended: &Ended, now: Instant) {
        let Ended { how, in_order, is_crash } = ended;
        let Some(replica) = self.replicas.values_mut().find(|replica| replica.process == Some(process)) else { return };
        let name = replica.name;
        replica.process = None;
        replica.killed_at = None;
        replica.directory_suspect = *is_crash;
        if let Some(connection) = replica.connection.take() {
            self.effects.push(Effect::Disconnect(connection));
        }
        self.delete(name, how);
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        match std::mem::replace(&mut replica.then, Then::Judge) {
            Then::Judge if *in_order || replica.said_farewell => {
                replica.phase = Phase::Stopped;
                replica.detail = "it ended in order".to_owned();
                self.effects
                    .push(Effect::Say(format!("{name} has ended in order, and stays so until someone starts it")));
            }
            Then::Judge => self.ended(name, how, now),
            Then::Replace => self.ended(name, "it did not answer", now),
            Then::Launch { fresh } => self.launch(name, fresh),
            Then::Retire => {
                replica.phase = Phase::Stopped;
                replica.order_is_over("");
            }
        }
        self.effects.push(Effect::Remember);
    }

    /// A replica has a process.
    pub(super) fn launched(&mut self, name: Name, process: ProcessId, now: Instant) {
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        // Otherwise someone else has started it meanwhile, and this process will find the directory taken.
        if replica.phase == Phase::Launching {
            replica.process = Some(process);
            replica.is_visible = true;
            replica.phase = Phase::Starting;
            replica.heard = now;
            let then = replica.launch_is_over();
            self.effects.push(Effect::Watch(process));
            self.effects.push(Effect::Remember);
            if then == Then::Retire {
                self.end(name, process, then, now);
            }
        }
    }

    /// A replica could not be launched.
    pub(super) fn launch_failed(&mut self, name: Name, why: &str, now: Instant) {
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        if replica.phase == Phase::Launching {
            self.effects.push(Effect::Say(format!("{name} cannot be launched: {why}")));
            if std::mem::replace(&mut replica.then, Then::Judge) == Then::Retire {
                replica.phase = Phase::Stopped;
                replica.order_is_over("");
                self.effects.push(Effect::Remember);
            } else {
                replica.order_is_over(why);
                replica.directory_suspect = false;
                self.ended(name, why, now);
            }
        }
    }

    /// The managers have answered a report that was made at `asked`.
    pub(super) fn ordered(&mut self, orders: AgentOrders, asked: Instant, now: Instant) {
        if now.duration_since(asked) > Duration::from_millis(ANSWER_AGE_MAX_MS) {
            // What still is wanted comes again with the next answer.
            return;
        }
        self.managers_relaunch = orders.relaunch;
        let freq_ms = orders.lfd_heartbeat_freq_ms.clamp(HEARTBEAT_FREQ_MIN_MS, HEARTBEAT_FREQ_MAX_MS);
        self.set_freq(Duration::from_millis(freq_ms), now);
        for order in orders.orders {
            self.carry_out(order, asked, now);
        }
    }

    fn set_freq(&mut self, freq: Duration, now: Instant) {
        let old = std::mem::replace(&mut self.setup.freq, freq);
        if old != freq {
            self.next_beat = self.next_beat.min(now + freq);
            // No one hangs because the clock by which it is judged goes faster now.
            self.replicas.values_mut().for_each(|replica| replica.heard = replica.heard.max(now));
            self.last_tick = now;
            let agent = self.setup.agent;
            self.effects.push(Effect::Trace(format!("LFD{agent}: heartbeat_freq is {} ms", freq.as_millis())));
        }
    }

    fn carry_out(&mut self, order: Order, asked: Instant, now: Instant) {
        let Order { id, partition, replica, what } = order;
        let name = Name { partition, replica };
        let may_launch = self.setup.relaunch;
        let replica = self.replicas.entry(name).or_insert_with(|| Replica::new(name, now));
        if id <= replica.order || replica.order_under_way.is_some_and(|under_way| id <= under_way) {
            return;
        }
        let before = replica.order_under_way.replace(id);
        if what != OrderKind::Retire && !may_launch {
            replica.order_is_over("this agent launches nothing: --relaunch no");
            return;
        }
        let is_stopped = replica.phase == Phase::Stopped || replica.said_farewell;
        if is_stopped && matches!(what, OrderKind::Relaunch | OrderKind::FreshDirectory) {
            replica.order_is_over("it was ended in order, and waits for the one who did that");
            return;
        }
        if matches!(what, OrderKind::FreshDirectory | OrderKind::Place(_)) && replica.uses_directory_since(asked) {
            replica.order_under_way = before;
            return;
        }
        let then = match what {
            OrderKind::Relaunch => Then::Launch { fresh: false },
            OrderKind::FreshDirectory => Then::Launch { fresh: true },
            OrderKind::Retire => Then::Retire,
            OrderKind::Place(launch) => {
                let console = replica.console;
                match self.setup.placement.command(name, &launch, &self.setup.listen) {
                    Ok(command) => (replica.command, replica.console) = (Some(command), console),
                    Err(why) => return replica.order_is_over(&why),
                }
                // Whatever is in its place was another one's.
                Then::Launch { fresh: true }
            }
        };
        self.effects.push(Effect::Say(format!("the managers want {name} {} (event {id})", words(then))));
        match (replica.process, then) {
            // It has no process that is known, and will have one soon: what came of the launch is waited for.
            _ if replica.phase == Phase::Launching => replica.then = then,
            (Some(process), _) => self.end(name, process, then, now),
            (None, Then::Launch { fresh }) => self.launch(name, fresh),
            (None, _) => {
                replica.phase = Phase::Stopped;
                replica.order_is_over("");
                self.effects.push(Effect::Remember);
            }
        }
    }

    /// Ends a replica's process for an order.
    fn end(&mut self, name: Name, process: ProcessId, then: Then, now: Instant) {
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        let is_hung = matches!(replica.phase, Phase::Hung | Phase::Ending);
        (replica.phase, replica.then) = (Phase::Ending, then);
        if is_hung {
            self.effects.push(Effect::Kill(process));
        } else {
            replica.killed_at = Some(now + Duration::from_millis(END_MAX_MS));
            self.effects.push(Effect::Terminate(process));
        }
    }

    /// Time has passed: heartbeats are due, or someone has been silent for too long.
    pub(super) fn tick(&mut self, now: Instant) {
        // Held up for longer than the pause between two heartbeats, this agent has heard no one meanwhile.
        let late = now.duration_since(self.last_tick).saturating_sub(self.setup.freq);
        self.last_tick = now;
        if !late.is_zero() {
            self.replicas.values_mut().for_each(|replica| replica.heard += late);
        }
        let names: Vec<Name> = self.replicas.keys().copied().collect();
        for &name in &names {
            let due = self.replicas.get(&name).and_then(|replica| self.deadline(replica));
            if due.is_some_and(|due| due <= now) {
                self.overdue(name);
            }
        }
        if self.next_beat <= now {
            self.next_beat = (self.next_beat + self.setup.freq).max(now);
            names.into_iter().for_each(|name| self.beat(name));
        }
    }

    /// When something is to be done about a replica, if nothing happens before.
    fn deadline(&self, replica: &Replica) -> Option<Instant> {
        let hung = self.setup.freq * HUNG_AFTER_INTERVALS + self.setup.freq / 2;
        match &replica.phase {
            Phase::Running => Some(replica.heard + hung),
            Phase::Returning => Some(replica.heard + hung.max(Duration::from_millis(RETURN_MIN_MS))),
            Phase::BackingOff { until, .. } => Some(*until),
            Phase::Starting => Some(replica.heard + start_max(replica.slow_starts)),
            Phase::Ending => replica.killed_at,
            Phase::Launching | Phase::Hung | Phase::Dead { .. } | Phase::Stopped => None,
        }
    }

    fn overdue(&mut self, name: Name) {
        let relaunches = self.relaunches();
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        match replica.phase {
            Phase::Running | Phase::Returning | Phase::Starting => {
                if replica.phase == Phase::Starting {
                    replica.slow_starts = replica.slow_starts.saturating_add(1);
                }
                let process = replica.process.filter(|_| replica.is_visible);
                if let Some(connection) = replica.connection.filter(|_| process.is_none()) {
                    // Its connection is all that there is of it here.
                    self.effects.push(Effect::Disconnect(connection));
                    replica.connection = None;
                }
                match process {
                    Some(process) if relaunches && replica.may_be_replaced => {
                        (replica.phase, replica.then) = (Phase::Ending, Then::Replace);
                        self.effects.push(Effect::Say(format!("{name} does not answer: {process} is killed")));
                        self.effects.push(Effect::Kill(process));
                    }
                    _ => {
                        replica.phase = Phase::Hung;
                        self.effects.push(Effect::Say(format!("{name} does not answer")));
                    }
                }
                self.delete(name, "no answer");
            }
            Phase::BackingOff { .. } if relaunches => self.launch(name, false),
            Phase::BackingOff { ref reason, .. } => replica.phase = Phase::Dead { reason: reason.clone() },
            Phase::Ending => {
                replica.killed_at = None;
                if let Some(process) = replica.process {
                    self.effects.push(Effect::Say(format!("{name} does not end: {process} is killed")));
                    self.effects.push(Effect::Kill(process));
                }
            }
            Phase::Launching | Phase::Hung | Phase::Dead { .. } | Phase::Stopped => {}
        }
    }

    /// A replica has ended, or could not be launched, without anyone's order.
    fn ended(&mut self, name: Name, how: &str, now: Instant) {
        let relaunches = self.relaunches();
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        let pause = replica.backoff.ended(now);
        let reason = how.to_owned();
        if !relaunches || replica.command.is_none() {
            replica.phase = Phase::Dead { reason };
        } else if pause.is_zero() {
            self.effects.push(Effect::Say(format!("{name} has ended ({how}): it is launched again")));
            self.launch(name, false);
        } else {
            let what = format!("{name} has ended ({how}): it is launched again in {} ms", pause.as_millis());
            self.effects.push(Effect::Say(what));
            replica.phase = Phase::BackingOff { reason, until: now + pause };
        }
    }

    fn launch(&mut self, name: Name, fresh: bool) {
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        let Some(command) = replica.command.clone() else {
            replica.phase = Phase::Dead { reason: "it has never run on this host".to_owned() };
            replica.order_is_over("no one has said how it is launched");
            return;
        };
        assert!(replica.process.is_none(), "{name} is launched while {:?} may run", replica.process);
        (replica.phase, replica.said_farewell) = (Phase::Launching, false);
        (replica.service, replica.is_added) = (None, false);
        replica.backoff.launched();
        replica.launches = replica.launches.saturating_add(1);
        self.effects.push(Effect::Launch { name, command, fresh });
    }

    /// Sends a heartbeat to a replica that is to be heard.
    fn beat(&mut self, name: Name) {
        let agent = self.setup.agent;
        let Some(replica) = self.replicas.get(&name) else { return };
        if !matches!(replica.phase, Phase::Running | Phase::Hung) {
            return;
        }
        self.count += 1;
        let (count, console) = (self.count, replica.console);
        match replica.connection {
            Some(to) => {
                self.effects.push(Effect::Trace(format!("[{count}] LFD{agent} sending heartbeat to S{console}")));
                self.effects.push(Effect::Heartbeat { to, count });
            }
            None => self
                .effects
                .push(Effect::Trace(format!("[{count}] LFD{agent}: heartbeat to S{console} failed: no connection"))),
        }
    }

    /// A replica is a member no longer.
    fn delete(&mut self, name: Name, why: &str) {
        let (agent, count) = (self.setup.agent, self.count);
        let Some(replica) = self.replicas.get_mut(&name) else { return };
        if std::mem::take(&mut replica.is_added) {
            let console = replica.console;
            let failed = format!("[{count}] LFD{agent}: heartbeat to S{console} failed: {why}");
            self.effects.push(Effect::Trace(failed));
            self.effects.push(Effect::Trace(format!("LFD{agent}: delete replica S{console}")));
        }
    }

    fn relaunches(&self) -> bool {
        self.setup.relaunch && self.managers_relaunch
    }

    fn replica_at(&mut self, connection: ConnectionId) -> Option<&mut Replica> {
        self.replicas.values_mut().find(|replica| replica.connection == Some(connection))
    }
}

/// How long a launched replica has to register after this many in a row that took too long.
fn start_max(slow_starts: u32) -> Duration {
    Duration::from_millis(START_MAX_MS << slow_starts.min(START_DOUBLINGS_MAX))
}

fn words(then: Then) -> &'static str {
    match then {
        Then::Launch { fresh: false } => "launched again",
        Then::Launch { fresh: true } => "launched with an empty directory",
        Then::Retire => "ended",
        Then::Judge | Then::Replace => "replaced",
    }
}
