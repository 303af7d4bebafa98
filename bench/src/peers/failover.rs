//! How long a client waits when its leader is killed or hangs: MadKV, and etcd if wanted, in turns.
//!
//! One client with one write under way at a time. After some answers the leader is killed (or stopped); the longest
//! wait of the client until some answers later is the pause. Then the node comes back, and it begins again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use smr::LogEngine;
use smr::epoch::GroupKind;

use crate::peers::madkv::{MadKv, Wanted, cores, kinds};
use madkv_testkit::cluster::Shape;
use madkv_testkit::failover::{Way, inject};
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::percentile;
use madkv_testkit::measure::{Trouble, commit};
use madkv_testkit::place::{Outcome, fresh_directory};
use madkv_testkit::programs::Programs;

/// Kills of one store before it is the other's turn.
const TURN_KILLS: usize = 5;

/// A store whose leader can be killed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Three nodes of etcd
    Etcd,
}

/// What to do to leaders.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Kills of each kind
    #[arg(long, default_value_t = 20)]
    pub kills: usize,
    /// How
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Way::Kill, Way::Freeze])]
    pub ways: Vec<Way>,
    /// Others to do the same to: etcd
    #[arg(long, value_enum, value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// Replicas of each group; also etcd's nodes
    #[arg(long = "server_rf", alias = "server-rf", default_value_t = 3)]
    pub server_rf: u16,
    /// MadKV: how the partitions' groups are kept in step: raft, chain, active or passive; one for all, or one for each
    /// [default: raft]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub protocol: Vec<GroupKind>,
    /// MadKV: log engine
    #[arg(long = "log_engine", alias = "log-engine")]
    pub log_engine: Option<LogEngine>,
    /// MadKV: a further flag for each server and manager; may be given several times
    #[arg(long = "node_flag", alias = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub node_flags: Vec<OsString>,
    /// Put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// Kills, and prints the pauses.
///
/// # Errors
/// If a store does not come up, or does not come back; or if MadKV lost a write.
pub fn run(options: &Options) -> Result<(), Trouble> {
    shape(options).check_for(kinds(&options.protocol))?;
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, options.directory.as_deref())?;
    let interrupted = Interrupted::watch()?;
    let done = all_ways(options, &programs, directory.path(), &interrupted);
    match done {
        Ok(()) => Ok(directory.close()?),
        Err(error) => Err(format!("{error}\nlogs and data are kept in {}", directory.keep().display()).into()),
    }
}

fn shape(options: &Options) -> Shape {
    Shape { server_rf: options.server_rf, manager_rf: 3, partitions: 1 }
}

fn all_ways(
    options: &Options,
    programs: &Programs,
    directory: &std::path::Path,
    interrupted: &Interrupted,
) -> Result<(), Trouble> {
    println!("commit {}, {} cores shared by stores and client", commit(), cores());
    let wanted = Wanted {
        name: "madkv".to_owned(),
        programs: programs.clone(),
        shape: shape(options),
        kinds: options.protocol.clone(),
        engine: options.log_engine,
        flags: options.node_flags.clone(),
        server_flags: Vec::new(),
        connections_max: usize::MAX,
    };
    let mut ours = MadKv::start(&wanted, &directory.join("madkv"))?;
    println!("madkv: {}", ours.description());
    let mut etcd = Rival::start(options, &directory.join("etcd"))?;
    let go_on = || if interrupted.signal().is_some() { Err("interrupted".into()) } else { Ok(()) };
    for &way in &options.ways {
        let (mut our_pauses, mut its_pauses) = (Vec::new(), Vec::new());
        while our_pauses.len() < options.kills {
            let kills = TURN_KILLS.min(options.kills - our_pauses.len());
            let prefix = format!("{way:?}{}-", our_pauses.len());
            our_pauses.extend(inject(ours.cluster(), way, kills, &prefix, &go_on)?);
            its_pauses.extend(etcd.inject(way, kills, &go_on)?);
            eprintln!("{}: {} of {} kills", way.name(), our_pauses.len(), options.kills);
        }
        tell(way, "madkv", &mut our_pauses);
        tell(way, "etcd", &mut its_pauses);
    }
    Ok(())
}

fn tell(way: Way, store: &str, pauses: &mut [Duration]) {
    if pauses.is_empty() {
        return;
    }
    pauses.sort();
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| percentile(pauses, share).as_secs_f64() * 1e3);
    println!(
        "{store}, {}: pause of the client in {} kills, ms: median {p50:.0}, p90 {p90:.0}, p99 {p99:.0}, max {max:.0}",
        way.name(),
        pauses.len()
    );
    let all: Vec<String> = pauses.iter().map(|pause| pause.as_millis().to_string()).collect();
    println!("  all, sorted: {}", all.join(" "));
}

/// The other store, if it is wanted and there.
#[cfg(feature = "peers")]
struct Rival(Option<(super::etcd::Etcd, tokio::runtime::Runtime)>);

#[cfg(feature = "peers")]
impl Rival {
    fn start(options: &Options, directory: &std::path::Path) -> Result<Rival, Trouble> {
        if !options.peers.contains(&Peer::Etcd) {
            return Ok(Rival(None));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let wanted = super::etcd::Wanted { nodes: options.server_rf, connections_max: 1 };
        let store = runtime.block_on(super::etcd::Etcd::start(wanted, directory))?;
        match &store {
            Some(store) => println!("etcd: {}; here by way of any node, as clients do", store.description()),
            None => eprintln!("etcd is not installed and is left out; {}", super::INSTALL),
        }
        Ok(Rival(store.map(|store| (store, runtime))))
    }

    fn inject(&mut self, way: Way, kills: usize, go_on: &dyn Fn() -> Outcome) -> Result<Vec<Duration>, Trouble> {
        match &mut self.0 {
            Some((store, runtime)) => runtime.block_on(super::etcd_failover::inject(store, way, kills, go_on)),
            None => Ok(Vec::new()),
        }
    }
}

/// None: this was built without it.
#[cfg(not(feature = "peers"))]
struct Rival;

#[cfg(not(feature = "peers"))]
impl Rival {
    fn start(options: &Options, _: &std::path::Path) -> Result<Rival, Trouble> {
        if options.peers.contains(&Peer::Etcd) {
            eprintln!(
                "etcd is left out: this was built without it; cargo run --release --features madkv-bench/peers ..."
            );
        }
        Ok(Rival)
    }

    fn inject(&mut self, _: Way, _: usize, _: &dyn Fn() -> Outcome) -> Result<Vec<Duration>, Trouble> {
        Ok(Vec::new())
    }
}
