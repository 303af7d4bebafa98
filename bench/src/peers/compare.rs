//! The same load on MadKV and its peers, in turns.
//!
//! All stores run all the time; in each round each one is measured for some seconds, in one order and in the next round
//! in the other, so that whatever the machine does meanwhile hits all alike. Ratios are taken within a round; what is
//! shown is the median of the rounds, with the smallest and the greatest.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use madkv_proto::limits::VALUE_MAX_BYTES;
use smr::LogEngine;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::peers::comparison::{Comparison, Side};
use crate::peers::madkv::{MadKv, Wanted, cores};
use crate::peers::measure::{Measure, Plan, load, measure};
use crate::peers::{Store, table};
use madkv_testkit::cluster::Shape;
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::{Trouble, positive, total};
use madkv_testkit::place::fresh_directory;
use madkv_testkit::programs::Programs;

/// A store that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Ours
    Madkv,
    /// Three nodes of etcd
    Etcd,
    /// A single Redis that syncs each write
    Redis,
}

/// What to compare, and how.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Which stores
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Madkv, Kind::Etcd, Kind::Redis])]
    pub stores: Vec<Kind>,
    /// What to measure [default: all]
    #[arg(long = "measure", value_enum, value_delimiter = ',')]
    pub measures: Vec<Measure>,
    /// Clients, each with one request under way at a time
    #[arg(
        long,
        default_value_t = 64,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    pub clients: usize,
    /// Length of each measurement, in seconds
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub seconds: f64,
    /// How long the clients run before each measurement, in milliseconds
    #[arg(long = "warm_up_ms", alias = "warm-up-ms", default_value_t = 500)]
    pub warm_up_ms: u64,
    /// How often each store's turn comes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Keys, all written before
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Size of a value, in bytes
    #[arg(long = "value_bytes", alias = "value-bytes", default_value_t = 100,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..=VALUE_MAX_BYTES as u64))]
    pub value_bytes: usize,
    /// MadKV: replicas of each partition; also etcd's nodes
    #[arg(long = "server_rf", alias = "server-rf", default_value_t = 3)]
    pub server_rf: u16,
    /// MadKV: replicas of the manager
    #[arg(long = "manager_rf", alias = "manager-rf", default_value_t = 3)]
    pub manager_rf: u16,
    /// MadKV: partitions
    #[arg(long, default_value_t = 1)]
    pub partitions: u16,
    /// MadKV: log engines; several are compared with each other too
    #[arg(long = "log_engine", alias = "log-engine", value_delimiter = ',')]
    pub log_engines: Vec<LogEngine>,
    /// MadKV: how servers confirm reads: index or lease; several are compared with each other too
    #[arg(long, value_delimiter = ',')]
    pub reads: Vec<String>,
    /// MadKV: a further flag for each server and manager, for example --node_flag=--trace_messages
    #[arg(long = "node_flag", alias = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub node_flags: Vec<OsString>,
    /// MadKV: compare with the executables in this directory too (of another commit, say); may be given several times
    #[arg(long = "against", value_name = "DIRECTORY")]
    pub against: Vec<PathBuf>,
    /// MadKV: at most this many connections to each server, which the clients share
    #[arg(long = "madkv_connections", alias = "madkv-connections", default_value_t = 1,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub madkv_connections: usize,
    /// etcd: at most this many HTTP/2 connections, which the clients share; of 1, 4, 16 and 64 one was the fastest
    #[arg(long = "etcd_connections", alias = "etcd-connections", default_value_t = 1)]
    pub etcd_connections: usize,
    /// Put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Write all numbers to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Decides which keys are asked for
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs the comparison, and prints it.
///
/// # Errors
/// If a store that is installed does not come up, or answers with an error.
pub fn run(options: &Options) -> Result<(), Trouble> {
    shape(options).check()?;
    let interrupted = Interrupted::watch()?;
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, options.directory.as_deref())?;
    match compare(options, &programs, &directory, &interrupted) {
        Ok(()) => Ok(directory.close()?),
        Err(error) => Err(format!("{error}\nlogs and data are kept in {}", directory.keep().display()).into()),
    }
}

fn compare(
    options: &Options,
    programs: &Programs,
    directory: &TempDir,
    interrupted: &Interrupted,
) -> Result<(), Trouble> {
    let many = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // A lone client needs no hand-over between threads, whatever it talks to.
    let lone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let header = header(options);
    header.iter().for_each(|line| println!("{line}"));

    let stores = start(options, programs, directory.path(), &many)?;
    let plan = Plan {
        clients: options.clients,
        warm_up: Duration::from_millis(options.warm_up_ms),
        length: Duration::from_secs_f64(options.seconds),
        keys: options.keys,
        value_bytes: options.value_bytes,
    };
    for store in &stores {
        println!("{}: {}", store.name(), store.description());
        load(&many, store, &plan, interrupted).map_err(|error| format!("{}: {error}", store.name()))?;
    }

    let measures = if options.measures.is_empty() { Measure::ALL.to_vec() } else { options.measures.clone() };
    let mut found = vec![vec![Vec::new(); measures.len()]; stores.len()];
    for round in 0..options.rounds {
        for (place, &kind) in measures.iter().enumerate() {
            let mut order: Vec<usize> = (0..stores.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                if interrupted.signal().is_some() {
                    return Err("interrupted".into());
                }
                let (store, runtime) = (&stores[number], if kind.is_lone() { &lone } else { &many });
                let one = measure(runtime, store, kind, &plan, options.seed ^ round, interrupted)
                    .map_err(|error| format!("{}, {}: {error}", store.name(), kind.name()))?;
                eprintln!("round {} of {}: {}", round + 1, options.rounds, table::line(store.name(), kind, &one));
                found[number][place].push(one);
            }
        }
    }

    let stores = stores.iter().zip(found).map(|(store, found)| {
        let pids = store.pids();
        Side {
            name: store.name().to_owned(),
            is_ours: store.is_ours(),
            description: store.description().to_owned(),
            found,
            peak_bytes: total(&pids).peak_bytes,
            processes: pids.len(),
        }
    });
    let comparison =
        Comparison { header, stores: stores.collect(), measures, clients: plan.clients, value_bytes: plan.value_bytes };
    print!("{}", table::text(&comparison));
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&comparison)?)?;
    }
    Ok(())
}

fn header(options: &Options) -> Vec<String> {
    let build = if cfg!(debug_assertions) { "DEBUG build" } else { "release build" };
    vec![
        format!("commit {}, {} cores shared by stores and clients, {build}", madkv_testkit::measure::commit(), cores()),
        format!(
            "{} clients of the library in this process, closed loop; values of {} B, {} keys, {} rounds of {} s",
            options.clients, options.value_bytes, options.keys, options.rounds, options.seconds
        ),
        format!(
            "the clients share {} connection(s) to each server of MadKV, {} to etcd; each has one of its own to Redis",
            options.madkv_connections.min(options.clients),
            options.etcd_connections.clamp(1, options.clients)
        ),
    ]
}

/// Starts those that are wanted and installed.
fn start(options: &Options, programs: &Programs, directory: &Path, runtime: &Runtime) -> Result<Vec<Store>, Trouble> {
    let mut stores = Vec::new();
    for kind in &options.stores {
        match kind {
            Kind::Madkv => {
                for wanted in ours(options, programs) {
                    let store = MadKv::start(&wanted, &directory.join(&wanted.name))?;
                    stores.push(Store::MadKv(Box::new(store)));
                }
            }
            Kind::Etcd => stores.extend(etcd(options, &directory.join("etcd"), runtime)?),
            Kind::Redis => stores.extend(redis(&directory.join("redis"))?),
        }
    }
    Ok(stores)
}

#[cfg(feature = "peers")]
fn etcd(options: &Options, directory: &Path, runtime: &Runtime) -> Result<Option<Store>, Trouble> {
    let wanted = super::etcd::Wanted { nodes: options.server_rf, connections_max: options.etcd_connections.max(1) };
    let store = runtime.block_on(super::etcd::Etcd::start(wanted, directory))?;
    if store.is_none() {
        eprintln!("etcd is not installed and is left out; {}", super::INSTALL);
    }
    Ok(store.map(Store::Etcd))
}

#[cfg(feature = "peers")]
fn redis(directory: &Path) -> Result<Option<Store>, Trouble> {
    let store = super::redis::Redis::start(directory)?;
    if store.is_none() {
        eprintln!("redis is not installed and is left out; {}", super::INSTALL);
    }
    Ok(store.map(Store::Redis))
}

#[cfg(not(feature = "peers"))]
fn etcd(_: &Options, _: &Path, _: &Runtime) -> Result<Option<Store>, Trouble> {
    Ok(not_built("etcd"))
}

#[cfg(not(feature = "peers"))]
fn redis(_: &Path) -> Result<Option<Store>, Trouble> {
    Ok(not_built("redis"))
}

#[cfg(not(feature = "peers"))]
fn not_built(name: &str) -> Option<Store> {
    eprintln!("{name} is left out: this was built without it; cargo run --release --features madkv-bench/peers ...");
    None
}

/// The clusters of ours: one for each log engine, way of reading and directory of executables.
fn ours(options: &Options, programs: &Programs) -> Vec<Wanted> {
    let mut all = Vec::new();
    for engine in given(&options.log_engines) {
        for reads in given(&options.reads) {
            let mut name = "madkv".to_owned();
            name += &engine.map_or(String::new(), |engine| format!("-{engine}"));
            let mut server_flags = Vec::new();
            if let Some(reads) = &reads {
                name += &format!("-{reads}");
                server_flags.extend(["--reads".into(), reads.into()]);
            }
            let flags = options.node_flags.clone();
            let shape = shape(options);
            let connections_max = options.madkv_connections;
            let kinds = Vec::new();
            let here =
                Wanted { name, programs: programs.clone(), shape, kinds, engine, flags, server_flags, connections_max };
            let others = options.against.iter().zip(1..).map(|(directory, number)| Wanted {
                name: format!("{}-against{number}", here.name),
                programs: Programs::at(directory),
                ..here.clone()
            });
            let others: Vec<Wanted> = others.collect();
            all.push(here);
            all.extend(others);
        }
    }
    all
}

fn shape(options: &Options) -> Shape {
    Shape { server_rf: options.server_rf, manager_rf: options.manager_rf, partitions: options.partitions }
}

/// Each one that was given, or the one `None`.
fn given<T: Clone>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().cloned().map(Some).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn ours_two_engines_and_another_build_are_four_clusters() {
        let line = ["x", "--log_engine", "sled,segments", "--reads", "lease", "--against", "/old"];
        let options = Line::try_parse_from(line).unwrap().options;
        let all = ours(&options, &Programs::at(Path::new("/new")));
        let names: Vec<&str> = all.iter().map(|wanted| wanted.name.as_str()).collect();
        assert_eq!(
            names,
            ["madkv-sled-lease", "madkv-sled-lease-against1", "madkv-segments-lease", "madkv-segments-lease-against1"]
        );
        assert_eq!(all[2].engine, Some(LogEngine::Segments));
        assert_eq!(all[2].server_flags, ["--reads", "lease"]);
        assert_eq!(all[3].programs.directory(), Path::new("/old"));
    }

    #[test]
    fn options_defaults_are_all_stores_and_all_measures() {
        let options = Line::try_parse_from(["x"]).unwrap().options;
        assert_eq!(options.stores, [Kind::Madkv, Kind::Etcd, Kind::Redis]);
        assert!(options.measures.is_empty());
        let options = Line::try_parse_from(["x", "--measure", "put,lone-get"]).unwrap().options;
        assert_eq!(options.measures, [Measure::Put, Measure::LoneGet]);
    }
}
