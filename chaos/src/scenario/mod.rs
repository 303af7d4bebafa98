//! `madkv-scenario`: longer runs that measure a cluster or inject faults into one, with real processes.
//!
//! Each scenario prints what it found, and on what (cores, sync mode, build). A missed target is printed as such; the
//! exit code is non-zero only if data was lost, doubled or wrong, if something grows without bound, or if the scenario
//! could not be carried out.

mod bounded;
mod catch_up;
mod cli_transcript;
mod damage;
mod disk_errors;
mod disk_full;
mod durable;
mod failover;
mod hostile;
mod kill_all;
mod move_slots;
mod power_cuts;
mod rolling;
mod self_repair;
mod shapes;
mod slow;
mod snapshots;
mod speed;
mod upgrade;

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use madkv_testkit::place::{Outcome, fresh_directory};
use smr::LogEngine;
use tempfile::TempDir;

use madkv_testkit::cluster::{Cluster, Group, Shape};
use madkv_testkit::launcher::{choose_log_engine, sync_flags};
use madkv_testkit::programs::Programs;
pub use rolling::round as rolling_restart;

/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The partition into which faults are injected.
const FIRST: Group = Group::Partition(0);

/// Measure a cluster of real processes on this machine, or inject faults into it.
#[derive(Debug, Parser)]
#[command(name = "madkv-scenario", version)]
pub struct Options {
    /// Which scenario.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// What keeps the logs: sled or segments
    #[arg(long = "log_engine", alias = "log-engine", value_name = "ENGINE", global = true)]
    pub log_engine: Option<LogEngine>,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Kill the leader under a running client (kill -9, then SIGSTOP); print the longest pause of each kill
    Failover {
        /// Kills of each kind
        #[arg(long, default_value_t = 20)]
        kills: usize,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Kill every process at once under load; check that no acknowledged write is lost or applied twice
    KillAll {
        /// How often
        #[arg(long, default_value_t = 50)]
        rounds: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Restart all nodes in turn under load, again and again; check that no acknowledged write is lost, and how long
    /// writes wait
    Rolling {
        /// How often
        #[arg(long, default_value_t = 100)]
        rounds: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Kill leaders under one command-line client; each line must get one answer, in order, STOP included
    Transcript {
        /// Kills
        #[arg(long, default_value_t = 300)]
        kills: usize,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Cut the power under load on a loop-mounted ext4; every write acknowledged before must be there (needs root)
    PowerCuts {
        /// How often
        #[arg(long, default_value_t = 40)]
        cuts: usize,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Trace the system calls under a load: is each write on the device of a majority before its answer leaves? (needs
    /// strace)
    Durable {
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Latency of a lone PUT against the disk's own fdatasync; PUT/s of many clients
    Speed {
        /// Clients
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// PUTs of the lone client
        #[arg(long, default_value_t = 3_000)]
        lone_puts: usize,
        /// Length of each measurement with many clients, in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Size of a value, in bytes
        #[arg(long, default_value_t = 100)]
        value_bytes: usize,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Many overwrites of a thousand keys: directories are bounded, memory is flat; print sizes and restart time
    Bounded {
        /// Overwrites
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
        overwrites: u64,
        /// Size of a value, in bytes
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(20..=1 << 20))]
        value_bytes: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Time requests while snapshots of a large state are taken
    Snapshots {
        /// Keys of the state
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Kill a follower under full load, again and again; print how long until it has everything, and the longest wait
    /// of a request
    CatchUp {
        /// Keys of the state
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
        /// Size of a value, in bytes
        #[arg(long, default_value_t = 100)]
        value_bytes: usize,
        /// Clients
        #[arg(long, default_value_t = 64)]
        clients: u64,
        /// How long the follower stays away each time, in seconds
        #[arg(long, value_delimiter = ',', default_value = "2,10,60")]
        absences: Vec<u64>,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Damage each file of a replica's directory in many ways; it must start whole, or not at all, or in quarantine
    Damage {
        /// Flipped bits for each file
        #[arg(long, default_value_t = 200)]
        flips: u64,
        /// Of each kind of directory, how many damages to try under real processes
        #[arg(long, default_value_t = 40)]
        processes: usize,
        /// Where the cluster lives.
        #[command(flatten)]
        place: Place,
    },
    /// Fill up the disk of a follower and of the leader; nothing acknowledged is lost, the group goes on (needs root)
    DiskFull {
        /// Where the cluster lives.
        #[command(flatten)]
        place: Place,
    },
    /// Let system calls on the disk of a running server fail, and hang (needs strace)
    DiskErrors {
        /// At how many calls of each kind
        #[arg(long, default_value_t = 10)]
        places: u32,
        /// Where the cluster lives.
        #[command(flatten)]
        place: Place,
    },
    /// Roll a cluster under load from an older build to this one, replica by replica; check that the history of
    /// this build's clients is linearizable, and that nothing is lost that the older build acknowledged
    Upgrade {
        /// The directory of the older build's executables
        #[arg(long, value_name = "DIRECTORY")]
        older: PathBuf,
        /// Draws the order in which the nodes are restarted
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Random faults in a cluster whose hosts have agents: full redundancy returns by itself after each of them, soon
    /// enough, and what clients hear is linearizable
    #[command(args_override_self = true)]
    SelfRepair {
        /// Faults
        #[arg(long, default_value_t = 200)]
        faults: u64,
        /// Kinds of faults
        #[arg(long, value_delimiter = ',', default_value = "kill,stop,empty,agent,manager,cut,gone")]
        kinds: Vec<self_repair::Kind>,
        /// Draws the faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Keys of the state
        #[arg(long, default_value_t = 100_000)]
        keys: u64,
        /// Clients in a loop
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        clients: u32,
        /// Hosts, each with an agent; the replicas of a partition are spread over them
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
        hosts: u16,
        /// Milliseconds from one heartbeat of an agent to the next
        #[arg(long = "heartbeat_freq", alias = "heartbeat-freq", default_value_t = 500)]
        heartbeat_freq: u64,
        /// Fail if it takes more than this many minutes
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Move all keys of a partition to another one and back under load, and let that partition have two replicas more
    /// and then less; check that no request fails and that each key has its last value, and print how much slower
    /// requests are
    MoveSlots {
        /// Keys that move
        #[arg(long, default_value_t = 100_000)]
        keys: usize,
        /// Size of a value, in bytes
        #[arg(long, default_value_t = 100)]
        value_bytes: usize,
        /// Clients in a loop, each with keys of its own
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
        clients: u16,
        /// Moves, back and forth
        #[arg(long, default_value_t = 4)]
        moves: u32,
        /// How often two more replicas come and go after that
        #[arg(long, default_value_t = 1)]
        scales: u32,
        /// How long the clients are watched before the first move, in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Where and with what shape; two partitions at least.
        #[command(flatten)]
        place: Place,
    },
    /// Time a normal client's requests beside thousands of hostile connections to the leader, which take half a core;
    /// print how much slower they are, and what memory the leader takes
    Hostile {
        /// Connections at a time
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u16).range(1..))]
        connections: u16,
        /// How long the normal client is timed, before and meanwhile, in seconds
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Where and with what shape.
        #[command(flatten)]
        place: Place,
    },
    /// Make one replica slow in one way after the other, and check that it is the one that is found slow, by what was
    /// made slow; write down what was measured, normally and with the fault
    Slow {
        /// What is made slow
        #[arg(long, value_delimiter = ',', default_value = "disk,network,cpu")]
        faults: Vec<slow::Fault>,
        /// How long the cluster is measured before, in seconds, at least
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(9..=3_600))]
        seconds: u64,
        /// Where what was measured is written to
        #[arg(long, default_value = "report/slow.tsv", value_name = "FILE")]
        out: PathBuf,
        /// Where the cluster lives.
        #[command(flatten)]
        place: Place,
    },
    /// Bring up clusters of many shapes, and run README's script on each
    Shapes {
        /// The directory to work in.
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

/// Where a scenario's cluster lives, and its shape.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// How many of what.
    #[command(flatten)]
    pub shape: Shape,
}

/// Runs a scenario.
///
/// # Errors
/// Why it failed.
pub fn run(options: &Options) -> Outcome {
    choose_log_engine(options.log_engine)?;
    match &options.scenario {
        Scenario::Failover { kills, place } => failover::run(*kills, place),
        Scenario::KillAll { rounds, place } => kill_all::run(*rounds, place),
        Scenario::Rolling { rounds, place } => rolling::run(*rounds, place),
        Scenario::Transcript { kills, place } => cli_transcript::run(*kills, place),
        Scenario::PowerCuts { cuts, place } => power_cuts::run(*cuts, place),
        Scenario::Durable { place } => durable::run(place),
        Scenario::Speed { clients, lone_puts, seconds, value_bytes, place } => {
            let plan = speed::Plan {
                clients: *clients,
                lone_puts: *lone_puts,
                length: Duration::from_secs(*seconds),
                value_bytes: *value_bytes,
            };
            speed::run(&plan, place)
        }
        Scenario::Bounded { overwrites, value_bytes, place } => bounded::run(*overwrites, *value_bytes as usize, place),
        Scenario::Snapshots { keys, place } => snapshots::run(*keys, place),
        Scenario::CatchUp { keys, value_bytes, clients, absences, place } => {
            let plan = catch_up::Plan {
                keys: *keys,
                value_bytes: *value_bytes,
                clients: *clients,
                absences: absences.iter().copied().map(Duration::from_secs).collect(),
            };
            catch_up::run(&plan, place)
        }
        Scenario::Damage { flips, processes, place } => damage::run(*flips, *processes, place),
        Scenario::DiskFull { place } => disk_full::run(place),
        Scenario::DiskErrors { places, place } => disk_errors::run(*places, place),
        Scenario::Upgrade { older, seed, place } => upgrade::run(older, *seed, place),
        Scenario::SelfRepair { faults, kinds, seed, keys, clients, hosts, heartbeat_freq, minutes, place } => {
            let plan = self_repair::Plan {
                faults: *faults,
                kinds: kinds.clone(),
                seed: *seed,
                keys: *keys,
                clients: *clients,
                hosts: *hosts,
                heartbeat_freq_ms: *heartbeat_freq,
                limit: Duration::from_secs(minutes * 60),
            };
            self_repair::run(&plan, place)
        }
        Scenario::MoveSlots { keys, value_bytes, clients, moves, scales, seconds, place } => {
            let plan = move_slots::Plan {
                keys: *keys,
                value_bytes: *value_bytes,
                clients: usize::from(*clients),
                moves: *moves,
                scales: *scales,
                normal: Duration::from_secs(*seconds),
            };
            move_slots::run(&plan, place)
        }
        Scenario::Hostile { connections, seconds, place } => {
            let plan = hostile::Plan { connections: usize::from(*connections), length: Duration::from_secs(*seconds) };
            hostile::run(&plan, place)
        }
        Scenario::Slow { faults, seconds, out, place } => {
            slow::run(&slow::Plan { seconds: *seconds, faults, out }, place)
        }
        Scenario::Shapes { directory } => shapes::run(directory.as_deref()),
    }
}

/// A cluster that is ready, in a fresh directory that is removed once the scenario is [`Stage::done`]. If it fails
/// before, logs and data are kept, and where they are is said.
struct Stage {
    cluster: Cluster,
    directory: Option<TempDir>,
}

impl Stage {
    fn set(place: &Place) -> Result<Stage, Box<dyn Error + Send + Sync>> {
        let programs = Programs::beside_this_one()?;
        Stage::set_with(&programs, &programs, place)
    }

    /// As [`Stage::set`], but the nodes are programs of another build.
    fn set_with(nodes: &Programs, programs: &Programs, place: &Place) -> Result<Stage, Box<dyn Error + Send + Sync>> {
        let directory = fresh_directory(programs, place.directory.as_deref())?;
        let flags = sync_flags(directory.path());
        let cluster = Cluster::on_free_ports(nodes, place.shape, directory.path(), &flags)?;
        let mut stage = Stage { cluster, directory: Some(directory) };
        stage.cluster.start_all()?;
        stage.cluster.wait_ready(TIMEOUT)?;
        describe(&stage.cluster)?;
        Ok(stage)
    }

    /// Ends the cluster, and removes what it left.
    fn done(mut self) -> Outcome {
        self.cluster.kill_all();
        if let Some(directory) = self.directory.take() {
            directory.close()?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            self.cluster.kill_all();
            eprintln!("madkv-scenario: logs and data are kept in {}", directory.keep().display());
        }
    }
}

/// One line that says on what was measured.
fn describe(cluster: &Cluster) -> Outcome {
    let shape = cluster.layout().shape;
    let leader = cluster.wait_leader(FIRST, TIMEOUT)?;
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    println!(
        "{} managers, {} partitions x {} servers on {cores} cores, {build}, log {}",
        shape.manager_rf,
        shape.partitions,
        shape.server_rf,
        cluster.status(leader)?.sync_mode
    );
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_each_trial_parse() {
        for scenario in [
            "failover",
            "kill-all",
            "power-cuts",
            "durable",
            "speed",
            "bounded",
            "snapshots",
            "catch-up",
            "shapes",
            "rolling",
            "transcript",
            "self-repair",
            "move-slots",
            "hostile",
            "slow",
        ] {
            Options::try_parse_from(["madkv-scenario", scenario]).unwrap();
        }
        assert!(Options::try_parse_from(["madkv-scenario", "upgrade"]).is_err(), "from what?");
        Options::try_parse_from(["madkv-scenario", "upgrade", "--older", "x", "--partitions", "2"]).unwrap();
    }
}
