//! The words that MadKV's client, servers and manager share.
//!
//! - [`limits`]: what is too large, and how much may be under way.
//! - [`slots`]: from a key to one of 16384 hash slots.
//! - [`map`]: from a slot to a partition, and from a partition to the addresses of its replicas.
//! - [`address`]: `host:port`, and when two spellings mean the same one.
//! - [`command`]: the commands, queries and answers of the ordered map, as bytes.
//! - [`frames`]: what travels between a client and a server or manager.
//! - [`door`]: how a server or manager accepts connections and answers frames on them.
//! - [`dial`]: the plainest client of a door.
//! - [`args`] and [`process`]: what their command lines, starts and ends have in common; [`recover`]: a word that both
//!   have.
//!
//! A command is encoded once, by the client, and travels unparsed through log and network until it is applied.

// Lines for a person go through the log sink: these panic if nobody takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod address;
pub mod args;
pub mod command;
pub mod dial;
pub mod door;
pub mod frames;
pub mod limits;
pub mod map;
pub mod process;
pub mod recover;
pub mod slots;
