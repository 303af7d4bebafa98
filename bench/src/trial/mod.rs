//! `madkv-trial`: longer runs that measure or torment a cluster of real processes.
//!
//! Each trial prints what it found, and on what (cores, sync mode, build). A missed target is printed as such; the exit
//! code is non-zero only if data was lost, doubled or wrong, if something grows without bound, or if the trial could
//! not be carried out.

mod bounded;
mod catch_up;
mod damage;
mod disk_errors;
mod disk_full;
mod durable;
mod failover;
mod kill_all;
mod power_cuts;
mod rolling;
mod shapes;
mod snapshots;
mod speed;
mod transcript;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use madkv_client::{Client, Options as ClientOptions};
use smr::storage::Engine;
use tempfile::TempDir;

use crate::cluster::{Cluster, Group, Shape};
use crate::launcher::{choose_log_engine, sync_flags};
use crate::programs::Programs;
pub use failover::Way;
pub(crate) use failover::strike;
pub use rolling::round as rolling_restart;

/// How long anything may take that must happen in the end.
const PATIENCE: Duration = Duration::from_secs(120);
/// The partition that is tormented.
const FIRST: Group = Group::Partition(0);

/// What a trial ends with: nothing, or why it failed.
pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Measure or torment a cluster of real processes on this machine.
#[derive(Debug, Parser)]
#[command(name = "madkv-trial", version)]
pub struct Options {
    /// Which trial.
    #[command(subcommand)]
    pub trial: Trial,
    /// What keeps the logs: sled or segments
    #[arg(long = "log_engine", alias = "log-engine", value_name = "ENGINE", global = true)]
    pub log_engine: Option<Engine>,
}

/// The trials.
#[derive(Debug, Subcommand)]
pub enum Trial {
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
        /// Where.
        #[command(flatten)]
        place: Place,
    },
    /// Fill up the disk of a follower and of the leader; nothing acknowledged is lost, the group goes on (needs root)
    DiskFull {
        /// Where.
        #[command(flatten)]
        place: Place,
    },
    /// Let system calls on the disk of a running server fail, and hang (needs strace)
    DiskErrors {
        /// At how many calls of each kind
        #[arg(long, default_value_t = 10)]
        places: u32,
        /// Where.
        #[command(flatten)]
        place: Place,
    },
    /// Bring up clusters of many shapes, and run README's script on each
    Shapes {
        /// Where.
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

/// Where a trial's cluster lives, and its shape.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// How many of what.
    #[command(flatten)]
    pub shape: Shape,
}

/// Runs a trial.
///
/// # Errors
/// Why it failed.
pub fn run(options: &Options) -> Outcome {
    choose_log_engine(options.log_engine)?;
    match &options.trial {
        Trial::Failover { kills, place } => failover::run(*kills, place),
        Trial::KillAll { rounds, place } => kill_all::run(*rounds, place),
        Trial::Rolling { rounds, place } => rolling::run(*rounds, place),
        Trial::Transcript { kills, place } => transcript::run(*kills, place),
        Trial::PowerCuts { cuts, place } => power_cuts::run(*cuts, place),
        Trial::Durable { place } => durable::run(place),
        Trial::Speed { clients, lone_puts, seconds, value_bytes, place } => {
            let plan = speed::Plan {
                clients: *clients,
                lone_puts: *lone_puts,
                length: Duration::from_secs(*seconds),
                value_bytes: *value_bytes,
            };
            speed::run(&plan, place)
        }
        Trial::Bounded { overwrites, value_bytes, place } => bounded::run(*overwrites, *value_bytes as usize, place),
        Trial::Snapshots { keys, place } => snapshots::run(*keys, place),
        Trial::CatchUp { keys, value_bytes, clients, absences, place } => {
            let plan = catch_up::Plan {
                keys: *keys,
                value_bytes: *value_bytes,
                clients: *clients,
                absences: absences.iter().copied().map(Duration::from_secs).collect(),
            };
            catch_up::run(&plan, place)
        }
        Trial::Damage { flips, processes, place } => damage::run(*flips, *processes, place),
        Trial::DiskFull { place } => disk_full::run(place),
        Trial::DiskErrors { places, place } => disk_errors::run(*places, place),
        Trial::Shapes { directory } => shapes::run(directory.as_deref()),
    }
}

/// A cluster that is ready, in a fresh directory that is removed once the trial is [`Stage::done`]. If it fails before,
/// logs and data are kept, and where they are is said.
struct Stage {
    cluster: Cluster,
    directory: Option<TempDir>,
}

impl Stage {
    fn set(place: &Place) -> Result<Stage, Box<dyn Error + Send + Sync>> {
        let programs = Programs::beside_this_one()?;
        let directory = fresh_directory(&programs, place.directory.as_deref())?;
        let flags = sync_flags(directory.path());
        let cluster = Cluster::on_free_ports(&programs, place.shape, directory.path(), &flags)?;
        let mut stage = Stage { cluster, directory: Some(directory) };
        stage.cluster.start_all()?;
        stage.cluster.wait_ready(PATIENCE)?;
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
            eprintln!("madkv-trial: logs and data are kept in {}", directory.keep().display());
        }
    }
}

pub(crate) fn fresh_directory(programs: &Programs, below: Option<&Path>) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("madkv-trial-").tempdir_in(below.unwrap_or(programs.directory()))
}

/// One line that says on what was measured.
fn describe(cluster: &Cluster) -> Outcome {
    let shape = cluster.layout().shape;
    let leader = cluster.wait_leader(FIRST, PATIENCE)?;
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

/// A client library's handle of this cluster; its calls must run on a runtime.
pub(crate) fn library_client(cluster: &Cluster) -> Client {
    let managers = cluster.manager_addresses().split(',').map(str::to_owned).collect();
    Client::connect(ClientOptions { managers, timeout: Some(PATIENCE), ..ClientOptions::default() })
}

/// The value below which the given share of `sorted` lies.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_of_few_values_is_one_of_them() {
        let sorted: Vec<Duration> = (1..=5).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(3));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(5));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn options_of_each_trial_parse() {
        for trial in [
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
        ] {
            Options::try_parse_from(["madkv-trial", trial]).unwrap();
        }
    }
}
