//! What services on [`smr`] share, whatever they replicate.
//!
//! - [`frames`]: what travels between a client and a replica or manager. What clients are told about where the parts of
//!   a service are is opaque here.
//! - [`limits`]: how much may be under way on a connection.
//! - [`address`]: `host:port`, and when two spellings mean the same one.
//! - [`notifications`]: what a state machine tells those who listen, each once and in order.
//! - [`dial`]: the plainest client; [`client`]: what one needs that goes on whatever happens.
//! - [`pace`]: how fast the parts of a replica are, and which replica of a group is a slow one.
//! - With the feature `process`, [`args`] and [`process`]: what command lines, starts and ends have in common;
//!   [`proc_stat`]: what the kernel says of a process;
//!   [`log_sink`]: lines for a person, which no one waits for; [`fatal`]: how a process ends that cannot go on;
//!   [`notify`]: what a service manager is told.
//! - With the feature `json`, [`status_json`]: what a replica says of itself, for programs.
//! - With the feature `serve`, [`listener`]: how a replica's process accepts connections and answers frames on them;
//!   [`serve`]: how it ends; [`read_flags`] and [`recover`]: flags, and a word, that all of them have; [`program`]: all
//!   of this for a service that is one group, as `examples/counter.rs` shows.
//! - With the feature `http`, [`http`]: what a process shows of itself to whoever watches it.

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod address;
#[cfg(feature = "process")]
pub mod args;
pub mod client;
pub mod dial;
#[cfg(feature = "process")]
pub mod fatal;
pub mod frames;
#[cfg(feature = "http")]
pub mod http;
pub mod limits;
#[cfg(feature = "serve")]
pub mod listener;
#[cfg(feature = "process")]
pub mod log_sink;
pub mod notifications;
#[cfg(feature = "process")]
pub mod notify;
pub mod pace;
#[cfg(feature = "process")]
pub mod proc_stat;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "serve")]
pub mod program;
#[cfg(feature = "serve")]
pub mod read_flags;
#[cfg(feature = "serve")]
pub mod recover;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "json")]
pub mod status_json;
