//! The command line of an agent.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use madkv_proto::control::{HOST_NAME_MAX_BYTES, SPARES_MAX, Spare};
use smr_service::args::{self, BadArgument};

/// The program's name.
pub const PROGRAM: &str = "madkv-agent";
/// The shortest time between two heartbeats, in milliseconds.
pub const HEARTBEAT_FREQ_MIN_MS: u64 = 10;
/// The longest time between two heartbeats, in milliseconds.
pub const HEARTBEAT_FREQ_MAX_MS: u64 = 60_000;
/// The time between two heartbeats unless the command line or the managers say otherwise, in milliseconds.
pub const HEARTBEAT_FREQ_MS: u64 = 500;

/// The agent of a host, which is its local fault detector: it heartbeats the replicas of MadKV that run here, launches
/// again what has ended or hangs, and tells the managers.
///
/// Replicas find it by their flag --agent. They go on if it ends, and it finds them again when it returns.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = PROGRAM, version)]
pub struct Options {
    /// Number of this agent, from 1: LFD1 on consoles.
    #[arg(long = "id", value_name = "N", allow_negative_numbers = true)]
    pub id: u16,
    /// The host's name; each host has another.
    #[arg(long = "host", value_name = "NAME")]
    pub host: String,
    /// Where the managers' replicas listen: host:port, separated by commas, in replica order; or the word none.
    #[arg(long = "manager_addrs", value_name = "LIST")]
    pub manager_addrs: String,
    /// Where to listen for the replicas of this host: an address of the host itself (loopback).
    #[arg(long = "listen", value_name = "ADDR")]
    pub listen: String,
    /// The agent's directory, which remembers the replicas; made if it does not exist. Replicas that this host is to
    /// take over get their directories in it.
    #[arg(long = "directory", value_name = "DIR")]
    pub directory: PathBuf,
    /// Milliseconds from one heartbeat of a replica to the next; the managers' setting lfd_heartbeat_freq counts
    /// instead once they are heard.
    #[arg(
        long = "heartbeat_freq",
        value_name = "MS",
        default_value_t = HEARTBEAT_FREQ_MS,
        allow_negative_numbers = true
    )]
    pub heartbeat_freq: u64,
    /// Whether to launch again what has ended or hangs, or to leave that to others.
    #[arg(long = "relaunch", value_name = "yes|no", default_value = "yes")]
    pub relaunch: YesNo,
    /// Room for a replica whose own host is gone: where it would serve clients and where its peers would reach it, as
    /// others are told; may be given several times.
    #[arg(long = "spare", value_name = "ADDR,P2P_ADDR")]
    pub spares: Vec<String>,
    /// A further flag for replicas that this host takes over; may be given several times.
    #[arg(long = "server_flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub server_flags: Vec<OsString>,
    /// End in order, as at SIGTERM, when stdin ends, and let the replicas that were launched here do the same.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
    /// Print each heartbeat to stderr, and what becomes of the replicas.
    #[arg(long = "trace_messages")]
    pub trace_messages: bool,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The agent's number.
    pub id: u16,
    /// The host's name.
    pub host: String,
    /// The managers, by replica number; none if there is no one to tell.
    pub managers: Vec<String>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the agent remembers its replicas.
    pub directory: PathBuf,
    /// Milliseconds from one heartbeat to the next.
    pub heartbeat_freq_ms: u64,
    /// Whether to launch again what has ended or hangs.
    pub relaunch: bool,
    /// Room for replicas of other hosts.
    pub spares: Vec<Spare>,
    /// See [`Options::server_flags`].
    pub server_flags: Vec<OsString>,
    /// See [`Options::end_with_stdin`].
    pub end_with_stdin: bool,
    /// See [`Options::trace_messages`].
    pub trace_messages: bool,
}

impl Options {
    /// Checks everything that can be checked without touching the world.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(self) -> Result<Plan, BadArgument> {
        if self.id == 0 {
            return Err(BadArgument("--id: 0; agents are numbered from 1".to_owned()));
        }
        let is_name = |letter: u8| letter.is_ascii_alphanumeric() || b".-_".contains(&letter);
        if self.host.is_empty() || self.host.len() > HOST_NAME_MAX_BYTES || !self.host.bytes().all(is_name) {
            let what = format!(
                "--host: {:?} is no name of 1 to {HOST_NAME_MAX_BYTES} letters, digits, dots, hyphens and underscores",
                self.host
            );
            return Err(BadArgument(what));
        }
        let listen = args::listen_address("--listen", &self.listen)?;
        if !listen.ip().is_loopback() {
            let what = format!(
                "--listen: {listen} can be reached from other hosts; only replicas of this one may register, so it \
                 has to be a loopback address"
            );
            return Err(BadArgument(what));
        }
        if !(HEARTBEAT_FREQ_MIN_MS..=HEARTBEAT_FREQ_MAX_MS).contains(&self.heartbeat_freq) {
            return Err(BadArgument(format!(
                "--heartbeat_freq: {}; {HEARTBEAT_FREQ_MIN_MS} to {HEARTBEAT_FREQ_MAX_MS} ms are possible",
                self.heartbeat_freq
            )));
        }
        Ok(Plan {
            id: self.id,
            host: self.host,
            managers: args::addresses("--manager_addrs", &self.manager_addrs)?,
            listen,
            directory: self.directory,
            heartbeat_freq_ms: self.heartbeat_freq,
            relaunch: self.relaunch == YesNo::Yes,
            spares: spares(&self.spares)?,
            server_flags: self.server_flags,
            end_with_stdin: self.end_with_stdin,
            trace_messages: self.trace_messages,
        })
    }
}

fn spares(given: &[String]) -> Result<Vec<Spare>, BadArgument> {
    if given.len() > SPARES_MAX {
        return Err(BadArgument(format!("--spare: given {} times; {SPARES_MAX} are possible", given.len())));
    }
    let pair = |text: &String| match &args::addresses("--spare", text)?[..] {
        [api, p2p] if api != p2p => Ok(Spare { api_address: api.clone(), p2p_address: p2p.clone() }),
        _ => Err(BadArgument(format!("--spare: {text:?} is no ADDR,P2P_ADDR"))),
    };
    given.iter().map(pair).collect()
}
