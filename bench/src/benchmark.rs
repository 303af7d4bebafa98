//! `madkv-bench`: how fast MadKV is, and how fast its peers are. One word each:
//!
//! - `ycsb`: one of YCSB's core workloads, on a running service or a cluster of its own.
//! - `matrix`, `report`: all runs that the report wants; the report.
//! - `compare`: the same load on MadKV, etcd and Redis, in turns.
//! - `failover`: how long a client waits when its leader is killed or hangs; etcd's too if wanted.
//! - `protocols`: YCSB and kills on groups of all four kinds, as table and pictures.
//! - `log`: the log engines alone against a bare file.
//! - `factory`: orders and reads of the robot factories, as pictures.
//! - `slow`: slow replicas, as pictures.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::factory;
use crate::log;
use crate::peers::{compare, failover};
use crate::protocols;
use crate::report;
use crate::slow;
use crate::ycsb;
use madkv_testkit::measure::Trouble;

/// Measure MadKV, and its peers on the same machine.
#[derive(Debug, Parser)]
#[command(name = "madkv-bench", version)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// One of YCSB's core workloads A to F, on a running service or a cluster of its own; everything is read back
    Ycsb(Box<ycsb::command::Options>),
    /// All runs that the report wants and that are missing, each on a cluster of its own
    Matrix(report::matrix::Options),
    /// Markdown with plots, from the logs that `p3::bench` and `p3::fuzz` keep
    Report(report::Options),
    /// The same load on MadKV, etcd and Redis, in turns, with ratios and their spread
    Compare(Box<compare::Options>),
    /// Kill the leader under a running client (kill -9, then SIGSTOP); the distribution of the client's pause
    Failover(failover::Options),
    /// Orders with one to three robot factories, and reads with one and two, as pictures
    Factory(factory::Options),
    /// The same YCSB runs and the same kills on all four protocols, with 2, 3 and 5 replicas
    Protocols(protocols::Options),
    /// What `madkv-scenario slow` has measured of slow replicas, as pictures
    Slow(slow::Options),
    /// Both log engines alone, append and flush, against a bare preallocated file, in turns
    Log {
        /// Where to write; what is made there is removed
        #[arg(long, value_name = "DIRECTORY", default_value = ".")]
        directory: PathBuf,
        /// For how long, in seconds
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        seconds: u64,
    },
}

/// Does what the command line says; whether all data was as it must be.
///
/// # Errors
/// If it could not be done.
pub fn run(options: &Options) -> Result<bool, Trouble> {
    match &options.command {
        CliCommand::Ycsb(options) => ycsb::command::execute(options),
        CliCommand::Matrix(options) => report::matrix::run(options),
        CliCommand::Report(options) => report::run(options).map(|()| true),
        CliCommand::Compare(options) => compare::run(options).map(|()| true),
        CliCommand::Failover(options) => failover::run(options).map(|()| true),
        CliCommand::Protocols(options) => protocols::run(options).map(|()| true),
        CliCommand::Factory(options) => factory::run(options).map(|()| true),
        CliCommand::Slow(options) => slow::run(options).map(|()| true),
        CliCommand::Log { directory, seconds } => log::run(directory, Duration::from_secs(*seconds)).map(|()| true),
    }
}
