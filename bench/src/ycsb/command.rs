//! `madkv-bench ycsb`: one run against a running service, or against a cluster of its own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use madkv_client::ClusterStatus;
use madkv_proto::limits::VALUE_MAX_BYTES;
use smr::LogEngine;
use smr::epoch::GroupKind;
use tempfile::TempDir;

use crate::peers::madkv::{MadKv, Wanted, cores, kinds};
use crate::ycsb::caller::{Caller, How};
use crate::ycsb::distribution::Distribution;
use crate::ycsb::outcome::{ALL, Cost, Outcome};
use crate::ycsb::replicas::{Operator, SERVICE_TIMEOUT, processes, usages, value_of};
use crate::ycsb::run::{INTERRUPTED, Plan, Ran, load, on_thread, run};
use crate::ycsb::verify::{judge, read_all};
use crate::ycsb::workload::{SCAN_MAX_DEFAULT, Workload};
use madkv_testkit::cluster::Shape;
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::{Trouble, commit, positive};
use madkv_testkit::place::fresh_directory;
use madkv_testkit::programs::{CLIENT, Programs};
use madkv_testkit::swaps::Swap;

/// The most records and operations: the names of the records, and the history of the updates, are kept in memory.
const RECORDS_MAX: u64 = 100_000_000;
const OPERATIONS_MAX: u64 = 1_000_000_000;
/// Values below this size are longer than told, because they name their key and their writer, in bytes.
const VALUE_MIN_BYTES: usize = 64;

/// What kind of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clients {
    /// The real program, driven through its pipes
    Program,
    /// The library, inside the benchmarker
    Library,
}

/// What to run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Which of YCSB's core workloads
    #[arg(long, value_enum, ignore_case = true, default_value_t = Workload::A)]
    pub workload: Workload,
    /// How many clients
    #[arg(
        long = "nclis",
        alias = "client_count",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=1000)
    )]
    pub client_count: u64,
    /// Managers of a running service, as host:port, separated by commas; without them a cluster is started for the run
    #[arg(long, alias = "manager_addrs")]
    pub managers: Option<String>,
    /// Replicas of each partition; of a running service, what the report is to say
    #[arg(long = "server_rf", alias = "server-rf", default_value_t = 3)]
    pub server_rf: u16,
    /// Own cluster: replicas of the manager
    #[arg(long = "manager_rf", alias = "manager-rf", default_value_t = 3)]
    pub manager_rf: u16,
    /// Own cluster: partitions
    #[arg(long, default_value_t = 2)]
    pub partitions: u16,
    /// Own cluster: how the partitions' groups are kept in step: raft, chain, active or passive; one for all, or one
    /// for each [default: raft]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub protocol: Vec<GroupKind>,
    /// Own cluster: log engine
    #[arg(long = "log_engine", alias = "log-engine")]
    pub log_engine: Option<LogEngine>,
    /// Own cluster: how servers confirm reads: index or lease
    #[arg(long)]
    pub reads: Option<String>,
    /// Own cluster: a further flag for each server and manager; may be given several times
    #[arg(long = "node_flag", alias = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub node_flags: Vec<OsString>,
    /// Own cluster: put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// What the clients are
    #[arg(long, value_enum, default_value_t = Clients::Program)]
    pub clients: Clients,
    /// Any other command that speaks the line protocol, as a client
    #[arg(long = "client_command", alias = "client-command", conflicts_with = "clients", value_name = "COMMAND")]
    pub client_command: Option<String>,
    /// Records that are loaded
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=RECORDS_MAX))]
    pub records: u64,
    /// At most this many operations
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=OPERATIONS_MAX))]
    pub operations: u64,
    /// At most so long, in seconds
    #[arg(long, value_parser = positive)]
    pub seconds: Option<f64>,
    /// Fields of a record
    #[arg(long, default_value_t = 10)]
    pub fields: usize,
    /// Size of a field, in bytes
    #[arg(long = "field_bytes", alias = "field-bytes", default_value_t = 100)]
    pub field_bytes: usize,
    /// Which records are asked for [default: the workload's own]
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// Scans ask for 1 to this many records, each as often
    #[arg(
        long = "scan_max",
        alias = "scan-max",
        default_value_t = SCAN_MAX_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=RECORDS_MAX)
    )]
    pub scan_max: u64,
    /// An open loop: this many operations per second begin, whether others are answered or not; each client has one
    /// under way at a time, and what begins late is late from its own turn on
    #[arg(long, value_parser = positive)]
    pub target: Option<f64>,
    /// Let the basic binding of the YCSB in this directory say what is asked for [without a value: ycsb]
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, default_missing_value = "ycsb")]
    pub ycsb: Option<PathBuf>,
    /// After the run let each replica lead in turn, and read everything from it; always done with an own cluster
    #[arg(long = "check_replicas", alias = "check-replicas")]
    pub check_replicas: bool,
    /// Decides what is asked for
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write what is written to stdout to this file too, and all numbers as JSON beside it
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Runs it, and prints what came out; whether it passed.
///
/// # Errors
/// If it cannot be carried out.
pub fn execute(options: &Options) -> Result<bool, Trouble> {
    let interrupted = Interrupted::watch()?;
    if let Some(log) = &options.log {
        can_keep(log)?;
    }
    let outcome = measure(options, &Programs::beside_this_one()?, &|| interrupted.signal().is_some())?;
    if let Some(log) = &options.log {
        keep(log, &outcome)?;
    }
    if let Some(failure) = outcome.failure {
        return Err(failure.into());
    }
    print!("{}", outcome.text());
    Ok(outcome.passed)
}

/// Whether a log can be kept there, before anything is measured; an older one stays as it is.
pub(crate) fn can_keep(log: &Path) -> Result<(), Trouble> {
    let trouble = |error| format!("{}: {error}", log.display());
    let was_there = log.exists();
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).map_err(trouble)?;
    }
    fs::OpenOptions::new().append(true).create(true).open(log).map_err(trouble)?;
    if was_there { Ok(()) } else { Ok(fs::remove_file(log)?) }
}

/// Writes the log and the JSON beside it.
pub(crate) fn keep(log: &Path, outcome: &Outcome) -> Result<(), Trouble> {
    fs::write(log, outcome.text()).map_err(|error| format!("{}: {error}", log.display()))?;
    fs::write(log.with_extension("json"), serde_json::to_vec_pretty(outcome)?)?;
    Ok(())
}

/// Runs it. A run that begins and cannot be carried out, because a client fails or hears what cannot be, has an outcome
/// that says why.
///
/// # Errors
/// If it does not begin, or is interrupted.
pub fn measure(
    options: &Options,
    programs: &Programs,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Outcome, Trouble> {
    let plan = plan(options, programs)?;
    if options.client_command.is_some() && options.managers.is_none() {
        // Its managers are none of our business.
        return on_service(options, plan, interrupted);
    }
    if let Some(managers) = &options.managers {
        let managers = smr_service::args::addresses("--managers", managers).map_err(|bad| bad.0)?;
        return on_service(options, Plan { managers, ..plan }, interrupted);
    }
    let (mut store, directory) = start_own(options, programs)?;
    let managers = store.cluster().manager_addresses().split(',').map(str::to_owned).collect();
    let done = on_service(options, Plan { managers, ..plan }, interrupted);
    drop(store);
    if interrupted() || done.as_ref().is_ok_and(|outcome| outcome.passed) {
        directory.close()?;
    } else {
        eprintln!("logs and data are kept in {}", directory.keep().display());
    }
    done
}

/// A cluster of its own, with a directory that goes with it.
///
/// # Errors
/// If it does not come up.
pub(crate) fn start_own(options: &Options, programs: &Programs) -> Result<(MadKv, TempDir), Trouble> {
    shape(options).check_for(kinds(&options.protocol))?;
    let directory = fresh_directory(programs, options.directory.as_deref())?;
    match start(options, programs, directory.path()) {
        Ok(store) => Ok((store, directory)),
        Err(error) => Err(format!("{error}\nlogs and data are kept in {}", directory.keep().display()).into()),
    }
}

fn shape(options: &Options) -> Shape {
    Shape { server_rf: options.server_rf, manager_rf: options.manager_rf, partitions: options.partitions }
}

fn start(options: &Options, programs: &Programs, directory: &Path) -> Result<MadKv, Trouble> {
    let wanted = Wanted {
        name: "madkv".to_owned(),
        programs: programs.clone(),
        shape: shape(options),
        kinds: options.protocol.clone(),
        engine: options.log_engine,
        flags: options.node_flags.clone(),
        server_flags: options.reads.iter().flat_map(|reads| ["--reads".into(), reads.into()]).collect(),
        connections_max: usize::MAX,
    };
    MadKv::start(&wanted, &directory.join("madkv"))
}

/// What to run; the managers are not known yet.
fn plan(options: &Options, programs: &Programs) -> Result<Plan, Trouble> {
    let how = match (&options.client_command, options.clients) {
        (Some(command), _) => How::Command(command.clone()),
        (None, Clients::Library) => How::Library,
        (None, Clients::Program) => How::Program(programs.path(CLIENT)),
    };
    let value_bytes = options.fields.checked_mul(options.field_bytes).filter(|bytes| *bytes <= VALUE_MAX_BYTES);
    let value_bytes = value_bytes.ok_or(format!("--fields times --field_bytes is at most {VALUE_MAX_BYTES}"))?;
    Ok(Plan {
        workload: options.workload,
        distribution: options.distribution.unwrap_or(options.workload.distribution()),
        records: options.records,
        operations: options.operations,
        length: options.seconds.map(Duration::from_secs_f64),
        value_bytes,
        scan_max: options.scan_max,
        clients: options.client_count,
        target: options.target,
        ycsb: options.ycsb.clone(),
        how,
        managers: Vec::new(),
        seed: options.seed,
    })
}

/// What there is of the service: the operator's handle, and its processes on this machine.
struct Service {
    operator: Option<Operator>,
    processes: Vec<(String, u32, Vec<String>)>,
}

fn on_service(options: &Options, plan: Plan, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Outcome, Trouble> {
    let mut service = Service { operator: None, processes: Vec::new() };
    let mut status = ClusterStatus {
        cluster: None,
        epoch: 0,
        nodes: Vec::new(),
        membership: None,
        kinds: Vec::new(),
        services: Vec::new(),
    };
    if !plan.managers.is_empty() {
        let operator = Operator::new(&plan.managers)?;
        status = operator.wait_service(&plan.managers, SERVICE_TIMEOUT, interrupted)?;
        service = Service { operator: Some(operator), processes: processes(&status) };
    }
    let mut outcome = Outcome { header: header(options, &plan, &service, &status), ..Outcome::default() };
    outcome.header.iter().for_each(|(name, value)| eprintln!("{name}: {value}"));
    let done = phases(&plan, &service, every_replica(options), interrupted, &mut outcome);
    if interrupted() {
        return Err(INTERRUPTED.into());
    }
    outcome.failure = done.err().map(|error| error.to_string());
    Ok(outcome)
}

fn every_replica(options: &Options) -> bool {
    options.check_replicas || options.managers.is_none()
}

/// Load, run, check.
fn phases(
    plan: &Plan,
    service: &Service,
    every_replica: bool,
    interrupted: &(dyn Fn() -> bool + Sync),
    outcome: &mut Outcome,
) -> Result<(), Trouble> {
    let origin = Instant::now();
    let loaded = load(plan, interrupted).map_err(|error| format!("load phase: {error}"))?;
    outcome.header.push((
        "load phase".to_owned(),
        format!(
            "{} PUTs in {:.1} s, p99 {:.2} ms",
            loaded.latencies.count(),
            loaded.took.as_secs_f64(),
            loaded.latencies.quantile_ms(0.99)
        ),
    ));
    let figures = loaded.latencies.figures();
    outcome.load = Some((figures.count as f64 / loaded.took.as_secs_f64().max(1e-9), figures));
    let before = usages(&service.processes);
    let ran = run(loaded, interrupted).map_err(|error| format!("measured phase: {error}"))?;
    let after = usages(&service.processes);

    outcome.seconds = ran.took.as_secs_f64();
    outcome.rate = ran.seen.all.count() as f64 / outcome.seconds.max(1e-9);
    outcome.figures =
        ran.seen.kinds.iter().map(|(kind, latencies)| (kind.name().to_owned(), latencies.figures())).collect();
    outcome.figures.insert(ALL.to_owned(), ran.seen.all.figures());
    outcome.per_second = ran.seen.per_second.clone();
    outcome.scanned = ran.seen.scanned;
    outcome.never_begun = ran.seen.never_begun;
    let costs = service.processes.iter().zip(before).zip(after).map(|(((node, pid, _), before), after)| Cost {
        node: node.clone(),
        pid: *pid,
        cpu_seconds: before.zip(after).map(|(before, after)| after.cpu.saturating_sub(before.cpu).as_secs_f64()),
        written_bytes: before
            .zip(after)
            .and_then(|(before, after)| Some(after.written_bytes?.saturating_sub(before.written_bytes?))),
        peak_mib: after.map(|after| after.peak_bytes as f64 / f64::from(1 << 20)),
    });
    outcome.costs = costs.collect();
    if ran.seen.all.count() == 0 {
        return Err("measured phase: no operation was answered in time".into());
    }
    if ran.seen.absent > 0 {
        outcome.verification.push(format!("{} reads found nothing", ran.seen.absent));
    }
    let Ran { keys, seen, mut caller, .. } = ran;
    let (keys, verification) = (keys.sorted(), &mut outcome.verification);
    let check = Check { keys: &keys, value_bytes: plan.value_bytes, swaps: &seen.swaps, origin };
    let operator = service.operator.as_ref().filter(|_| every_replica);
    match on_thread(&mut caller, interrupted, |caller, over| check.carry_out(caller, operator, over, verification)) {
        Ok(()) => outcome.passed = true,
        Err(error) => outcome.verification.push(format!("WRONG: {error}")),
    }
    Ok(())
}

/// What must be there after a run.
struct Check<'a> {
    keys: &'a [String],
    value_bytes: usize,
    swaps: &'a [Swap],
    origin: Instant,
}

impl Check<'_> {
    /// Reads everything back, from each replica if there is an operator to let them lead.
    fn carry_out(
        &self,
        caller: &mut Caller,
        operator: Option<&Operator>,
        over: &AtomicBool,
        said: &mut Vec<String>,
    ) -> Result<(), Trouble> {
        let Check { keys, value_bytes, swaps, origin } = *self;
        judge(&read_all(caller, keys, value_bytes)?, swaps, origin)?;
        said.push(format!("all {} keys hold what was written last, after {} updates", keys.len(), swaps.len()));
        let Some(operator) = operator else {
            said.push("replicas were not looked at one by one".to_owned());
            return Ok(());
        };
        if !operator.all_hand_over() {
            said.push("replicas were not looked at one by one: not all groups hand over to one another".to_owned());
            return Ok(());
        }
        let replicas = operator.replicas();
        for replica in 0..replicas {
            operator.let_lead(replica, over)?;
            let held = read_all(caller, keys, value_bytes)?;
            judge(&held, swaps, origin).map_err(|error| format!("with replica {replica} as leader: {error}"))?;
        }
        said.push(format!("the same from each of {replicas} replicas, made leader one after the other"));
        Ok(())
    }
}

fn header(options: &Options, plan: &Plan, service: &Service, status: &ClusterStatus) -> Vec<(String, String)> {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "release" };
    let load = madkv_testkit::proc::load_average().map_or("?".to_owned(), |load| format!("{load:.2}"));
    let nodes = &status.nodes;
    // "synced, log in sled"
    let mut modes: Vec<(&str, &str)> = nodes
        .iter()
        .filter_map(|node| Some(node.status.as_ref().ok()?.sync_mode.as_str()))
        .map(|mode| mode.split_once(", log in ").unwrap_or((mode, "unknown")))
        .collect();
    modes.sort_unstable();
    modes.dedup();
    let servers = nodes.iter().filter(|node| node.group != "m");
    let partitions = servers.clone().filter(|node| node.replica == 0).count();
    let found_rf = servers.map(|node| node.replica + 1).max();
    let rf = match found_rf {
        Some(found) if found != options.server_rf => format!("{found} ({} was said)", options.server_rf),
        _ => options.server_rf.to_string(),
    };
    let flag = |name: &str, default: &str| {
        if service.processes.is_empty() {
            return "unknown: no process of it is on this machine".to_owned();
        }
        let server = service.processes.iter().find(|(node, ..)| node.starts_with('s'));
        let words = server.map(|(_, _, words)| words.as_slice()).unwrap_or_default();
        value_of(words, name).unwrap_or(format!("{default} (default)"))
    };
    let placement = if service.processes.is_empty() {
        "on this machine; no process of the service was found on it"
    } else {
        "on the same machine and cores as the service"
    };
    let longer = if plan.value_bytes < VALUE_MIN_BYTES { ", longer by what names key and writer" } else { "" };
    let kinds: Vec<String> =
        plan.workload.percents().iter().map(|(kind, percent)| format!("{percent} % {kind}")).collect();
    let source =
        plan.ycsb.as_ref().map_or("ours".to_owned(), |place| format!("YCSB's basic binding in {}", place.display()));
    let bounds = plan.length.map_or(String::new(), |length| format!(", at most {} s", length.as_secs_f64()));
    let lines = [
        ("workload", plan.workload.to_string()),
        ("clients", plan.clients.to_string()),
        ("replication factor", rf),
        ("partitions", if partitions == 0 { "unknown".to_owned() } else { partitions.to_string() }),
        (
            "mix",
            format!("{}; {}; generator: {source}", kinds.join(", "), format!("{:?}", plan.distribution).to_lowercase()),
        ),
        ("records", format!("{} of {} x {} B{longer}", plan.records, options.fields, options.field_bytes)),
        ("operations", format!("at most {}{bounds}", plan.operations)),
        ("client kind", format!("{}, {placement}", plan.how)),
        (
            "loop",
            plan.target.map_or("closed".to_owned(), |target| {
                format!("open, {target} operations per second, latency from the intended start")
            }),
        ),
        ("commit", format!("{}, {build} build", commit())),
        ("machine", format!("{} cores", cores())),
        ("load average at the start", load),
        ("sync mode", joined(modes.iter().map(|(mode, _)| *mode))),
        ("log engine", joined(modes.iter().map(|(_, engine)| *engine))),
        ("reads", flag("__reads", "index")),
        ("managers", plan.managers.join(",")),
        ("seed", plan.seed.to_string()),
    ];
    lines.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The words, or that there are none.
fn joined<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { "unknown".to_owned() } else { words.join("; ") }
}
