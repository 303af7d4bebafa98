//! An agent process, from start to end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use madkv_proto::agent::ProcessId;
use madkv_proto::control::{AgentOrders, ReplicaReport};
use rustix::process::Signal;
use smr::internals::disk::RealDisk;
use smr_service::log_sink;
use smr_service::process::{self, Fatal, Signals, say};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::known::{self, Known};
use super::local::{self, FromReplica, ToReplica};
use super::options::{Options, PROGRAM, Plan};
use super::placement::Placement;
use super::process::{Ended, Processes, has_room, is_alive, is_alive_as};
use super::replica::{ConnectionId, Name};
use super::reports::{self, Dialler, Reporter};
use super::supervisor::{Effect, Setup, Supervisor};

/// What waits to be handled at most; who has more to say waits.
const INPUTS_MAX: usize = 1024;
/// Held by the agent that uses a directory, for its whole life.
const LOCK_FILE: &str = "lock";

/// Runs an agent until a signal ends it. Its replicas go on.
///
/// # Errors
/// Why it cannot run.
pub fn run(options: Options) -> Result<(), Fatal> {
    let plan = options.check()?;
    let listener = process::bind("--listen", plan.listen)?;
    let _lock = take_directory(&plan.directory)?;
    let runtime = process::runtime()?;
    let failed = |error: std::io::Error| Fatal::Failed(format!("--listen: {error}"));
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let placement = placement(&plan)?;
    let known = known::load(&RealDisk, &plan.directory).unwrap_or_else(|why| {
        say(PROGRAM, &format!("{why}; knows no replica until it dials"));
        None
    });
    runtime.block_on(async {
        let mut signals = Signals::listen(plan.end_with_stdin)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let agent = Agent::start(&plan, address, placement, known, listener);
        tokio::select! {
            () = agent.run() => {}
            () = signals.next() => {}
        }
        Ok::<(), Fatal>(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Makes the directory if it does not exist, and takes it for this process.
fn take_directory(directory: &Path) -> Result<File, Fatal> {
    let refused = |error: std::io::Error| Fatal::Failed(format!("--directory: {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(refused)?;
    let lock = File::create(directory.join(LOCK_FILE)).map_err(refused)?;
    let taken = |_| Fatal::Failed(format!("--directory: another agent uses {}", directory.display()));
    lock.try_lock().map_err(taken)?;
    Ok(lock)
}

fn placement(plan: &Plan) -> Result<Placement, Fatal> {
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(|error| Fatal::Failed(error.to_string()));
    let program = std::env::current_exe().map_err(|error| Fatal::Failed(error.to_string()))?;
    Ok(Placement {
        programs: program.parent().map(Path::to_path_buf).unwrap_or_default(),
        directory: absolute(plan.directory.clone())?,
        managers: plan.managers.clone(),
        flags: plan.server_flags.clone(),
    })
}

/// Something that happened.
enum Input {
    /// A process is gone.
    Gone(ProcessId, Ended),
    /// What came of a launch.
    Launched(Name, Result<(ProcessId, Option<PathBuf>), String>),
}

/// The agent: its rules, and what carries them out.
struct Agent {
    supervisor: Supervisor,
    processes: Processes,
    connections: BTreeMap<ConnectionId, ToReplica>,
    inputs: mpsc::Receiver<Input>,
    input: mpsc::Sender<Input>,
    at_port: mpsc::Receiver<(ConnectionId, FromReplica)>,
    orders: mpsc::Receiver<(Instant, AgentOrders)>,
    reports: watch::Sender<Vec<ReplicaReport>>,
    known: watch::Sender<Arc<Known>>,
    traces: bool,
}

impl Agent {
    /// Starts everything that runs beside it.
    fn start(
        plan: &Plan,
        address: String,
        placement: Placement,
        known: Option<Known>,
        listener: tokio::net::TcpListener,
    ) -> Agent {
        let now = Instant::now();
        let setup = Setup {
            agent: plan.id,
            relaunch: plan.relaunch,
            freq: Duration::from_millis(plan.heartbeat_freq_ms),
            listen: address.clone(),
            placement,
        };
        let mut supervisor = Supervisor::new(setup, now);
        supervisor.adopt(known.unwrap_or_default(), is_alive, now);
        let (input, inputs) = mpsc::channel(INPUTS_MAX);
        let (from_port, at_port) = mpsc::channel(INPUTS_MAX);
        tokio::spawn(local::accept(listener, plan.id, from_port));
        let (ordered, orders) = mpsc::channel(1);
        let (reports, reported) = watch::channel(supervisor.report());
        if !plan.managers.is_empty() {
            let start = rand::random::<u64>().max(1);
            let (agent, host, relaunches) = (plan.id, plan.host.clone(), plan.relaunch);
            let reporter = Reporter { agent, host, address, start, relaunches, spares: plan.spares.clone() };
            tokio::spawn(reports::report(reporter, Dialler::new(plan.managers.clone()), reported, ordered));
        }
        let (known, remembered) = watch::channel(Arc::new(supervisor.known()));
        tokio::spawn(remember(plan.directory.clone(), remembered));
        Agent {
            supervisor,
            processes: Processes::new(plan.end_with_stdin),
            connections: BTreeMap::new(),
            inputs,
            input,
            at_port,
            orders,
            reports,
            known,
            traces: plan.trace_messages,
        }
    }

    async fn run(mut self) {
        loop {
            self.carry_out();
            self.tell();
            tokio::select! {
                // What has been said counts before silence does.
                biased;
                Some((connection, word)) = self.at_port.recv() => self.heard(connection, word),
                Some(input) = self.inputs.recv() => self.happened(input),
                Some((asked, orders)) = self.orders.recv() => self.supervisor.ordered(orders, asked, Instant::now()),
                () = sleep_until(self.supervisor.next_wakeup()) => self.supervisor.tick(Instant::now()),
            }
        }
    }

    fn heard(&mut self, connection: ConnectionId, word: FromReplica) {
        let now = Instant::now();
        match word {
            FromReplica::Registered { registration, to, verdict } => {
                let is_visible = is_alive_as(registration.process, &registration.command.executable);
                if !is_visible {
                    let name = Name { partition: registration.partition, replica: registration.replica };
                    let process = registration.process;
                    let what = format!(
                        "{name} says that it is {process}, which cannot be seen from here: it is heartbeaten, and \
                         neither ended nor launched"
                    );
                    say(PROGRAM, &what);
                }
                let registered = self.supervisor.registered(connection, *registration, is_visible, now);
                if registered.is_ok() {
                    self.connections.insert(connection, to);
                }
                // If it has gone meanwhile, that is said next.
                let _ = verdict.send(registered);
            }
            FromReplica::Answered(answer) => self.supervisor.answered(connection, answer, now),
            FromReplica::Farewell => self.supervisor.farewell(connection),
            FromReplica::Disconnected => {
                self.connections.remove(&connection);
                self.supervisor.disconnected(connection);
            }
        }
    }

    fn happened(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Gone(process, mut ended) => {
                // Whoever finds no room to write crashes, too, and would in any directory of that disk.
                ended.is_crash &= self.supervisor.directory_of(process).is_some_and(has_room);
                self.supervisor.gone(process, &ended, now);
            }
            Input::Launched(name, Ok((process, aside))) => {
                if let Some(aside) = aside {
                    say(PROGRAM, &format!("{name}: its old directory is {} now", aside.display()));
                }
                self.supervisor.launched(name, process, now);
            }
            Input::Launched(name, Err(why)) => self.supervisor.launch_failed(name, &why, now),
        }
    }

    /// Does what the rules say.
    fn carry_out(&mut self) {
        for effect in self.supervisor.effects() {
            match effect {
                Effect::Heartbeat { to, count } => {
                    if let Some(to) = self.connections.get(&to) {
                        to.heartbeat(count);
                    }
                }
                Effect::Disconnect(connection) => drop(self.connections.remove(&connection)),
                Effect::Watch(process) => {
                    let (processes, input) = (self.processes.clone(), self.input.clone());
                    tokio::spawn(async move {
                        let ended = processes.gone(process).await;
                        // The agent may be ending.
                        let _ = input.send(Input::Gone(process, ended)).await;
                    });
                }
                Effect::Terminate(process) => {
                    self.processes.signal(process, Signal::TERM);
                    // One that is stopped hears nothing until it goes on.
                    self.processes.signal(process, Signal::CONT);
                }
                Effect::Kill(process) => self.processes.signal(process, Signal::KILL),
                Effect::Launch { name, command, fresh } => {
                    let (processes, input) = (self.processes.clone(), self.input.clone());
                    tokio::task::spawn_blocking(move || {
                        let launched = processes.launch(&command, fresh);
                        let _ = input.blocking_send(Input::Launched(name, launched));
                    });
                }
                Effect::Remember => drop(self.known.send_replace(Arc::new(self.supervisor.known()))),
                Effect::Trace(text) if self.traces => log_sink::message(format_args!("{text}")),
                Effect::Trace(_) => {}
                Effect::Say(text) => say(PROGRAM, &text),
            }
        }
    }

    /// Whoever reports hears of changes.
    fn tell(&self) {
        let report = self.supervisor.report();
        self.reports.send_if_modified(|present| {
            let has_changed = *present != report;
            *present = report;
            has_changed
        });
    }
}

/// Writes down what is known, whenever that has changed.
async fn remember(directory: PathBuf, mut known: watch::Receiver<Arc<Known>>) {
    let mut complained = false;
    while known.changed().await.is_ok() {
        let (directory, present) = (directory.clone(), Arc::clone(&known.borrow_and_update()));
        let saved = tokio::task::spawn_blocking(move || known::save(&RealDisk, &directory, &present)).await;
        if let Ok(Err(error)) = saved
            && !std::mem::replace(&mut complained, true)
        {
            say(PROGRAM, &format!("cannot remember its replicas in --directory: {error}"));
        }
    }
}
