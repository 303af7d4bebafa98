//! `madkv-bench`: how fast MadKV is, and how fast its peers are. One word each:
//!
//! - `compare`: the same load on MadKV, etcd and Redis, in turns.
//! - `log`: the log engines alone against a bare file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::measure::Trouble;
use crate::micro;
use crate::peers::compare;

/// Measure MadKV, and its peers on the same machine.
#[derive(Debug, Parser)]
#[command(name = "madkv-bench", version)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub word: Word,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// The same load on MadKV, etcd and Redis, in turns, with ratios and their spread
    Compare(Box<compare::Options>),
    /// Both log engines alone, append and flush, against a bare preallocated file, in turns
    Log {
        /// Where to write; what is made there is removed
        #[arg(long, value_name = "DIRECTORY", default_value = ".")]
        directory: PathBuf,
        /// For how long, in seconds
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
}

/// Does what the command line says.
///
/// # Errors
/// If it could not be done.
pub fn run(options: &Options) -> Result<(), Trouble> {
    match &options.word {
        Word::Compare(options) => compare::run(options),
        Word::Log { directory, seconds } => micro::log::run(directory, Duration::from_secs(*seconds)),
    }
}
