//! `madkv-bench`: how fast MadKV is, and how fast its peers are. One word each:
//!
//! - `compare`: the same load on MadKV, etcd and Redis, in turns.

use clap::{Parser, Subcommand};

use crate::measure::Trouble;
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
}

/// Does what the command line says.
///
/// # Errors
/// If it could not be done.
pub fn run(options: &Options) -> Result<(), Trouble> {
    match &options.word {
        Word::Compare(options) => compare::run(options),
    }
}
