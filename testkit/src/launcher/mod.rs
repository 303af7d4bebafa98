//! `madkv-local`: a whole cluster on this machine in one command, and a client on it.
//!
//! Nothing but the client writes to stdout. The client runs inside this process, and has words of the launcher's own
//! (`kill`, `cut`, ...) for the processes that were started. Everything that was started has ended when the launcher
//! ends, also on Ctrl-C, SIGTERM and SIGHUP. While a client's prompt is on the terminal, Ctrl-C is for that client: it
//! takes back a line, or stops waiting for an answer.

mod words;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use madkv_client::cli::session;
use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use smr::epoch::GroupKind;
use smr::internals::storage::{LogEngine, SyncMode, probe_sync};
use smr_service::{log_sink, process};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::agents::AgentPlan;
use crate::cluster::{AddressOverrides, Cluster, Layout, NotReady, Shape};
use crate::ports::Ports;
use crate::programs::{CLIENT, NoPrograms, Programs};
use crate::wiring::Network;
use words::Words;

/// The most processes that have a proxy between them: each pair that talks takes a listener.
const PROXIED_NODES_MAX: u16 = 30;
/// Partitions that may be added while the cluster runs: their ports are taken from the beginning.
const ROOM_PARTITIONS: u16 = 2;
/// The most partitions of a cluster.
const PARTITIONS_MAX: u16 = madkv_proto::map::PARTITIONS_MAX as u16;
/// How long the cluster may take until each group has a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to look for signals, in milliseconds.
const LOOK_AGAIN_MS: u64 = 5;
/// How long to wait for readiness between two looks for signals, in milliseconds.
const READY_SLICE_MS: u64 = 100;
/// The flag of servers and clients that lets them print each message.
const TRACE_MESSAGES: &str = "--trace_messages";
/// What remembers a kept cluster's shape and ports.
const LAYOUT_FILE: &str = "cluster.json";
/// What a shell reports for a process that a signal ended, minus the signal's number.
const EXIT_CODE_SIGNAL: i32 = 128;

/// Start a whole MadKV cluster on this machine, and a client on it.
///
/// On a terminal the client is a prompt; otherwise it runs the lines of its input. Everything ends with the client,
/// and its exit code is the launcher's.
#[derive(Clone, Debug, Parser)]
#[command(name = "madkv-local", version)]
pub struct Options {
    /// Replicas of each partition: 1, 3, 5, 7 or 9, for other kinds than raft any from 1 to 9 [default: 3]
    #[arg(long = "server_rf", alias = "server-rf", value_name = "COUNT")]
    pub server_rf: Option<u16>,
    /// Replicas of the manager: 1, 3, 5, 7 or 9 [default: 3]
    #[arg(long = "manager_rf", alias = "manager-rf", value_name = "COUNT")]
    pub manager_rf: Option<u16>,
    /// Partitions: 1 to 50 [default: 2]
    #[arg(long, value_name = "COUNT")]
    pub partitions: Option<u16>,
    /// How the partitions' groups are kept in step: raft, chain, active or passive; one for all, or one for each,
    /// separated by commas. A kept cluster has to be given the same again [default: raft]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub protocol: Vec<GroupKind>,
    /// Keep data and logs in this directory, and go on with what is there; without it they live in a fresh directory
    /// beside the executables that is removed at the end
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Do not remove the fresh directory at the end
    #[arg(long, conflicts_with = "directory")]
    pub keep: bool,
    /// What keeps the logs: sled or segments
    #[arg(long = "log_engine", alias = "log-engine", value_name = "ENGINE")]
    pub log_engine: Option<LogEngine>,
    /// Watch the servers by agents, one for each replica of a partition as if that were a host of its own; what is
    /// killed or hangs is launched again
    #[arg(long)]
    pub agents: bool,
    /// A further flag for each server and manager, for example --node_flag=--reads=lease; may be given several times
    #[arg(long = "node_flag", alias = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub node_flags: Vec<OsString>,
    /// Let processes dial each other without the proxy between them that the words cut and heal need
    #[arg(long)]
    pub direct: bool,
    /// Let servers and the client print each message and state: servers to their logs, the client here
    #[arg(long = "trace_messages", alias = "trace-messages")]
    pub trace_messages: bool,
    /// A further flag for the client; may be given several times
    #[arg(long = "client_flag", alias = "client-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub client_flags: Vec<OsString>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum NoCluster {
    /// No executables.
    #[error("{0}")]
    Programs(#[from] NoPrograms),
    /// It does not come up.
    #[error("{0}")]
    NotReady(#[from] NotReady),
    /// Options that make no sense.
    #[error("{0}")]
    Options(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        error: io::Error,
    },
}

/// Runs the launcher; the result is its exit code.
///
/// # Errors
/// If there is no cluster to run a client on.
pub fn run(options: &Options) -> Result<u8, NoCluster> {
    let interrupted = Interrupted::watch().map_err(trouble("cannot watch signals"))?;
    let programs = Programs::of_a_cluster()?;
    let place = Place::prepare(options, &programs)?;
    choose_log_engine(options.log_engine).map_err(NoCluster::Options)?;
    let mut flags = sync_flags(place.path());
    flags.extend(options.node_flags.iter().cloned());
    let network = network(options, place.layout)?;
    let overrides = network.as_ref().map_or_else(AddressOverrides::new, Network::overrides);
    let mut cluster = Cluster::with_overrides(&programs, place.layout, place.path(), &flags, overrides)
        .map_err(trouble("cannot prepare the cluster"))?;
    if options.protocol.is_empty() {
        cluster.leave_room(ROOM_PARTITIONS);
    } else {
        cluster.set_kinds(&options.protocol);
    }
    if options.trace_messages {
        cluster.add_server_flags(&[TRACE_MESSAGES.into()]);
    }
    if !says_where_http_is(&options.node_flags) {
        cluster.listen_for_http().map_err(trouble("cannot find free ports"))?;
    }
    if options.agents {
        let hosts = cluster.layout().shape.server_rf;
        let flags = if options.trace_messages { vec![TRACE_MESSAGES.into()] } else { Vec::new() };
        let plan = AgentPlan { flags, ..AgentPlan::for_hosts(hosts) };
        cluster.watch_by_agents(&plan).map_err(trouble("cannot prepare the agents"))?;
    }
    cluster.start_all().map_err(trouble("cannot start the cluster"))?;
    match wait_ready(&mut cluster, &interrupted)? {
        Some(code) => {
            Running::new(cluster, place).end();
            Ok(code)
        }
        None => run_client(cluster, place, network, options, &interrupted),
    }
}

/// The proxy between the processes, if there is to be one.
fn network(options: &Options, layout: Layout) -> Result<Option<Network>, NoCluster> {
    if options.direct || layout.shape.nodes_count() > PROXIED_NODES_MAX {
        return Ok(None);
    }
    Network::between_nodes(layout, 0).map(Some).map_err(trouble("cannot start the proxy between the processes"))
}

/// Whether the flags for nodes have one of their own for HTTP.
fn says_where_http_is(flags: &[OsString]) -> bool {
    flags.iter().any(|flag| flag.to_string_lossy().replace('-', "_").starts_with("__http_listen"))
}

fn say(line: &str) {
    process::say("madkv-local", line);
}

/// `Some` with an exit code if a signal came first.
fn wait_ready(cluster: &mut Cluster, interrupted: &Interrupted) -> Result<Option<u8>, NoCluster> {
    let start = Instant::now();
    loop {
        match cluster.wait_ready(Duration::from_millis(READY_SLICE_MS)) {
            Ok(leaders) => {
                let nodes = cluster.layout().shape.nodes_count();
                say(&format!("{nodes} processes run, managers at {}", cluster.manager_addresses()));
                let addressed = cluster.layout().shape.nodes();
                for (node, address) in addressed.filter_map(|node| Some((node, cluster.http_address(node)?))) {
                    say(&format!("{node} shows what it does at http://{address}/"));
                }
                if let Some(agents) = cluster.agents() {
                    say(&format!("{} agents watch the servers", agents.count()));
                }
                for (group, leader) in leaders {
                    say(&format!("{leader} leads {group} ({})", cluster.client_address(leader)));
                }
                return Ok(None);
            }
            Err(NotReady::WaitTimeout(_)) if start.elapsed() < READY_TIMEOUT => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(signal) = interrupted.signal() {
            return Ok(Some(exit_code(EXIT_CODE_SIGNAL + signal)));
        }
    }
}

/// A cluster that runs, and its place, until it is ended.
struct Running {
    cluster: Arc<Mutex<Option<Cluster>>>,
    place: Mutex<Option<Place>>,
}

impl Running {
    fn new(cluster: Cluster, place: Place) -> Running {
        Running { cluster: Arc::new(Mutex::new(Some(cluster))), place: Mutex::new(Some(place)) }
    }

    /// Ends all processes, and removes the directory unless it is kept. Does nothing the second time.
    fn end(&self) {
        // Held to the end: whoever calls it again, and ends this process then, waits.
        let mut running = self.cluster.lock();
        let Some(mut cluster) = running.take() else { return };
        let place = self.place.lock().take();
        if let Some(place) = place.as_ref().filter(|place| place.is_kept()) {
            // One that is paused would not hear that it is to end.
            cluster.processes().for_each(|(_, process)| process.thaw());
            cluster.stop_all();
            say(&format!("data and logs are kept in {}", place.path().display()));
        }
        // Only what no one uses any more can be removed.
        drop(cluster);
        drop(place);
    }
}

/// Runs the client in this process. A signal ends the cluster, and then the process.
fn run_client(
    cluster: Cluster,
    place: Place,
    network: Option<Network>,
    options: &Options,
    interrupted: &Interrupted,
) -> Result<u8, NoCluster> {
    let line = [CLIENT.into(), "--manager_addrs".into(), cluster.manager_addresses().into()];
    let trace = options.trace_messages.then(|| TRACE_MESSAGES.into());
    let line: Vec<OsString> = line.into_iter().chain(trace).chain(options.client_flags.iter().cloned()).collect();
    let shape = cluster.layout().shape;
    let terminal = Terminal::remember();
    if terminal.is_some() {
        // It goes to all processes on the terminal, and means the request that the client waits for, not the cluster.
        interrupted.leave_ctrl_c_to_others();
    }
    let running = Arc::new(Running::new(cluster, place));
    let words = Words::new(&running.cluster, shape, network);
    let (ended, interrupted) = (Arc::clone(&running), interrupted.clone());
    thread::Builder::new()
        .name("end".to_owned())
        .spawn(move || {
            let signal = interrupted.wait();
            if let Some(terminal) = terminal {
                terminal.restore();
            }
            ended.end();
            log_sink::flush();
            // The client may be waiting for a line, and nothing takes it from there.
            std::process::exit(EXIT_CODE_SIGNAL + signal);
        })
        .map_err(trouble("cannot start a thread"))?;
    let code = session::run(line, Some(&words));
    running.end();
    Ok(code)
}

/// The settings of the terminal on stdin. A client that is killed while someone edits a line leaves it without echo
/// and line ends.
struct Terminal(Termios);

impl Terminal {
    fn remember() -> Option<Terminal> {
        tcgetattr(io::stdin()).ok().map(Terminal)
    }

    fn restore(&self) {
        // If it is gone, no one misses its settings.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn trouble(what: &str) -> impl FnOnce(io::Error) -> NoCluster + use<> {
    let what = what.to_owned();
    move |error| NoCluster::Io { what, error }
}

/// The environment variable that names the log engine of every cluster that no flag names one for: so that tests,
/// scenarios and chaos can be run with either.
pub const LOG_ENGINE_VARIABLE: &str = "MADKV_LOG_ENGINE";

static LOG_ENGINE: OnceLock<LogEngine> = OnceLock::new();

/// The log engine of the clusters that this process starts: what its command line says, or else the environment, or
/// else the default. Only the first call counts.
///
/// # Errors
/// If the environment names none that there is.
pub fn choose_log_engine(said: Option<LogEngine>) -> Result<LogEngine, String> {
    if let Some(&chosen) = LOG_ENGINE.get() {
        return Ok(chosen);
    }
    let chosen = engine_of(said, std::env::var(LOG_ENGINE_VARIABLE).ok().as_deref())?;
    Ok(*LOG_ENGINE.get_or_init(|| chosen))
}

fn engine_of(said: Option<LogEngine>, environment: Option<&str>) -> Result<LogEngine, String> {
    match (said, environment) {
        (Some(engine), _) => Ok(engine),
        (None, Some(name)) => name.parse().map_err(|error| format!("{LOG_ENGINE_VARIABLE}={name}: {error}")),
        (None, None) => Ok(LogEngine::default()),
    }
}

/// The flags that a server or manager needs so that it runs on this directory's file system, with the engine that was
/// chosen.
///
/// # Panics
/// As [`log_flags`].
pub fn sync_flags(directory: &Path) -> Vec<OsString> {
    log_flags(directory, None)
}

/// The same, with this engine, if it is one.
///
/// # Panics
/// If no one has chosen, and the environment names none that there is: programs call [`choose_log_engine`] before.
pub fn log_flags(directory: &Path, engine: Option<LogEngine>) -> Vec<OsString> {
    let engine = engine.unwrap_or_else(|| choose_log_engine(None).unwrap_or_else(|error| panic!("{error}")));
    if engine == LogEngine::default() {
        unsynced_flags(directory)
    } else {
        // It needs no more of a file system than that it can sync.
        vec![format!("--log_engine={engine}").into()]
    }
}

fn unsynced_flags(directory: &Path) -> Vec<OsString> {
    match probe_sync(directory) {
        Ok(SyncMode::Unsynced) => {
            say(&format!(
                "on the file system of {} writes cannot be made durable: a power loss may lose acknowledged data",
                directory.display()
            ));
            vec!["--allow_unsynced".into()]
        }
        // On a memory file system the servers say themselves what that means. What the probe could not do, they will
        // not be able to do either, and say why.
        Ok(SyncMode::Synced | SyncMode::Tmpfs) | Err(_) => Vec::new(),
    }
}

/// The cluster's directory: given and kept, or fresh and removed.
#[derive(Debug)]
struct Place {
    layout: Layout,
    path: PathBuf,
    fresh: Option<TempDir>,
    _lock: File,
    _ports: Option<Ports>,
}

impl Place {
    fn prepare(options: &Options, programs: &Programs) -> Result<Place, NoCluster> {
        let mut fresh = None;
        let path = match &options.directory {
            Some(directory) => directory.clone(),
            None => {
                let made = tempfile::Builder::new()
                    .prefix("madkv-local-")
                    .tempdir_in(programs.directory())
                    .map_err(trouble("cannot make a fresh directory"))?;
                if options.keep { made.keep() } else { fresh.insert(made).path().to_path_buf() }
            }
        };
        let named = |what: &str| trouble(&format!("{what} {}", path.display()));
        fs::create_dir_all(&path).map_err(named("cannot make"))?;
        let lock = File::create(path.join("lock")).map_err(named("cannot write to"))?;
        lock.try_lock()
            .map_err(|_| NoCluster::Options(format!("another madkv-local runs the cluster in {}", path.display())))?;
        let (layout, ports) = layout(options, &path)?;
        Ok(Place { layout, path, fresh, _lock: lock, _ports: ports })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn is_kept(&self) -> bool {
        self.fresh.is_none()
    }
}

/// A kept cluster goes on with its shape and its ports, because its members know each other by them.
fn layout(options: &Options, directory: &Path) -> Result<(Layout, Option<Ports>), NoCluster> {
    let file = directory.join(LAYOUT_FILE);
    if let Ok(text) = fs::read(&file) {
        let layout: Layout = serde_json::from_slice(&text)
            .map_err(|error| NoCluster::Options(format!("{} is damaged: {error}", file.display())))?;
        let kept = layout.shape;
        for (name, asked, kept) in [
            ("server_rf", options.server_rf, kept.server_rf),
            ("manager_rf", options.manager_rf, kept.manager_rf),
            ("partitions", options.partitions, kept.partitions),
        ] {
            if asked.is_some_and(|asked| asked != kept) {
                let place = directory.display();
                return Err(NoCluster::Options(format!("the cluster in {place} was founded with --{name} {kept}")));
            }
        }
        return Ok((layout, None));
    }
    let shape = Shape {
        server_rf: options.server_rf.unwrap_or(3),
        manager_rf: options.manager_rf.unwrap_or(3),
        partitions: options.partitions.unwrap_or(2),
    };
    let kinds = if options.protocol.is_empty() { &[GroupKind::Raft][..] } else { &options.protocol };
    shape.check_for(kinds).map_err(NoCluster::Options)?;
    let room = ROOM_PARTITIONS.min(PARTITIONS_MAX.saturating_sub(shape.partitions));
    let count = 2 * (shape.nodes_count() + room * shape.server_rf);
    let ports = Ports::claim(count).map_err(trouble("cannot find free ports"))?;
    let layout = Layout { shape, first_port: ports.first() };
    remember(&layout, directory)?;
    Ok((layout, Some(ports)))
}

/// The next start goes on with this layout.
fn remember(layout: &Layout, directory: &Path) -> Result<(), NoCluster> {
    let text = serde_json::to_vec(layout).map_err(|error| NoCluster::Options(error.to_string()))?;
    fs::write(directory.join(LAYOUT_FILE), text).map_err(trouble("cannot write the layout"))
}

/// Whether a signal asked the launcher to end.
#[derive(Clone, Debug)]
pub struct Interrupted {
    signal: Arc<AtomicI32>,
    leaves_ctrl_c: Arc<AtomicBool>,
}

impl Interrupted {
    /// Starts to watch: Ctrl-C, SIGTERM and SIGHUP no longer end this process.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn watch() -> io::Result<Interrupted> {
        let seen = Arc::new(AtomicI32::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // Before the thread starts, so that no signal falls through.
        let (mut int, mut term, mut hup) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        let leaves_ctrl_c = Arc::new(AtomicBool::new(false));
        let (shared, leaves) = (Arc::clone(&seen), Arc::clone(&leaves_ctrl_c));
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let number = runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = int.recv() => if !leaves.load(Ordering::Relaxed) { break SignalKind::interrupt() },
                        _ = term.recv() => break SignalKind::terminate(),
                        _ = hup.recv() => break SignalKind::hangup(),
                    }
                }
            });
            shared.store(number.as_raw_value(), Ordering::Relaxed);
        })?;
        Ok(Interrupted { signal: seen, leaves_ctrl_c })
    }

    /// From now on Ctrl-C (SIGINT) is for other processes on the same terminal.
    fn leave_ctrl_c_to_others(&self) {
        self.leaves_ctrl_c.store(true, Ordering::Relaxed);
    }

    /// Waits for a signal, and says which came.
    fn wait(&self) -> i32 {
        loop {
            if let Some(signal) = self.signal() {
                return signal;
            }
            thread::sleep(Duration::from_millis(LOOK_AGAIN_MS));
        }
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|&number| number != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["madkv-local"], arguments].concat()).unwrap()
    }

    #[test]
    fn engine_in_the_environment_that_there_is_not_is_an_error_unless_a_flag_says_another() {
        assert_eq!(engine_of(None, None).unwrap(), LogEngine::default());
        assert_eq!(engine_of(None, Some("segments")).unwrap(), LogEngine::Segments);
        assert_eq!(engine_of(Some(LogEngine::Sled), Some("nonsense")).unwrap(), LogEngine::Sled);
        let error = engine_of(None, Some("nonsense")).unwrap_err();
        assert!(error.starts_with("MADKV_LOG_ENGINE=nonsense: "), "{error}");
    }

    #[test]
    fn options_underscore_and_hyphen_mean_the_same() {
        assert_eq!(options(&["--server_rf", "5"]).server_rf, Some(5));
        assert_eq!(options(&["--server-rf", "5"]).server_rf, Some(5));
    }

    #[test]
    fn layout_kept_directory_goes_on_with_shape_and_ports() {
        let directory = tempfile::tempdir().unwrap();
        let first = layout(&options(&["--partitions", "1"]), directory.path()).unwrap().0;
        let second = layout(&options(&[]), directory.path()).unwrap().0;
        assert_eq!(first, second);
        let error = layout(&options(&["--partitions", "2"]), directory.path()).unwrap_err();
        assert!(error.to_string().contains("--partitions 1"), "{error}");
    }

    #[test]
    fn layout_impossible_shape_is_refused_with_the_possible_ones() {
        let directory = tempfile::tempdir().unwrap();
        for bad in [["--server_rf", "2"], ["--manager_rf", "0"], ["--partitions", "51"]] {
            let error = layout(&options(&bad), directory.path()).unwrap_err();
            assert!(error.to_string().contains("possible"), "{error}");
        }
    }
}
