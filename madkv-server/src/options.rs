//! The command line of a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use madkv_proto::limits;
use madkv_proto::map::PARTITIONS_MAX;
use smr::LogEngine;
use smr::epoch::GroupKind;
use smr::status::ReadMode;
use smr_service::args::{self, BadArgument};
use smr_service::http::HttpFlags;
use smr_service::read_flags::ReadFlags;
use smr_service::recover;

/// The program's name.
pub const PROGRAM: &str = "madkv-server";

/// One replica of one partition of MadKV.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = PROGRAM, version, after_help = recover::help(&limits::help()))]
pub struct Options {
    /// Number of the partition, from 0.
    #[arg(long = "partition_id", allow_negative_numbers = true)]
    pub partition_id: u16,
    /// Number of this replica in its partition, from 0.
    #[arg(long = "replica_id", allow_negative_numbers = true)]
    pub replica_id: u16,
    /// How the partition's group is kept in step, as the managers were told: raft, chain, active or passive. A
    /// directory keeps the one that it was made with.
    #[arg(long = "protocol", default_value = "raft")]
    pub protocol: GroupKind,
    /// Where the managers' replicas listen: host:port, separated by commas, in replica order.
    #[arg(long = "manager_addrs")]
    pub manager_addrs: String,
    /// Where to listen for clients.
    #[arg(long = "api_listen")]
    pub api_listen: String,
    /// Where to listen for the other replicas of the partition.
    #[arg(long = "p2p_listen")]
    pub p2p_listen: String,
    /// Where the other replicas listen for this one, in replica order, or the word none.
    #[arg(long = "peer_addrs")]
    pub peer_addrs: String,
    /// The replica's directory; made if it does not exist.
    #[arg(long = "backer_path")]
    pub backer_path: PathBuf,
    /// What keeps the log: sled or segments. A directory keeps the one that it was made with.
    #[arg(long = "log_engine", default_value_t)]
    pub log_engine: LogEngine,
    /// Start although writes cannot be proved to reach the device.
    #[arg(long = "allow_unsynced")]
    pub allow_unsynced: bool,
    /// The data of the whole group is lost: found it again, empty, in place of the one that there was. Takes effect
    /// once all its replicas were started with this and none of them has data; ignored where there is data.
    #[arg(long = "found_anew")]
    pub found_anew: bool,
    /// Join a group that exists: found none, and wait until an operator takes this replica in (madkv-client scale).
    /// Needs --advertise. Says nothing to a directory that has data.
    #[arg(long = "join")]
    pub join: bool,
    /// Where this replica is: for clients, and for its peers, as host:port,host:port. Where the map has it elsewhere,
    /// the map and its peers learn it.
    #[arg(long = "advertise")]
    pub advertise: Option<String>,
    /// End in order, as at SIGTERM, when stdin ends: for programs that start this one and may be killed.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
    /// Where the agent of this host listens for its replicas; without it no agent watches this one.
    #[arg(long = "agent", value_name = "ADDR")]
    pub agent: Option<String>,
    /// How reads are confirmed.
    #[command(flatten)]
    pub reads: ReadFlags,
    /// Where it can be watched.
    #[command(flatten)]
    pub http: HttpFlags,
    /// Print each request, reply and state to stderr.
    #[arg(long = "trace_messages")]
    pub trace_messages: bool,
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of the partition.
    pub partition: u16,
    /// Number of the replica.
    pub replica: u16,
    /// The kind of the partition's group.
    pub kind: GroupKind,
    /// The managers, by replica number.
    pub managers: Vec<String>,
    /// Where to listen for clients.
    pub api_listen: SocketAddr,
    /// Where to listen for peers.
    pub p2p_listen: SocketAddr,
    /// The other replicas, by number.
    pub peers: Vec<(u16, String)>,
    /// Where its data is.
    pub directory: PathBuf,
    /// See [`Options::log_engine`].
    pub log_engine: LogEngine,
    /// See [`Options::allow_unsynced`].
    pub allow_unsynced: bool,
    /// See [`Options::found_anew`].
    pub found_anew: bool,
    /// See [`Options::join`].
    pub join: bool,
    /// See [`Options::advertise`]: for clients, and for peers.
    pub advertise: Option<(String, String)>,
    /// See [`Options::end_with_stdin`].
    pub end_with_stdin: bool,
    /// See [`Options::agent`].
    pub agent: Option<String>,
    /// How reads are confirmed, and how much clocks may drift for that, per thousand.
    pub reads: (ReadMode, u64),
    /// Where to answer HTTP, if anywhere.
    pub http_listen: Option<SocketAddr>,
    /// See [`Options::trace_messages`].
    pub trace_messages: bool,
}

impl Plan {
    /// How this replica is called, for example `s0.2`.
    pub fn node(&self) -> String {
        format!("s{}.{}", self.partition, self.replica)
    }

    /// Its number on consoles, S*k*: by partition first, then by replica, from 1.
    pub fn console_number(&self) -> u32 {
        let group_size = self.peers.len() as u32 + 1; // at most REPLICAS_MAX
        u32::from(self.partition) * group_size + u32::from(self.replica) + 1
    }
}

impl Options {
    /// Checks everything that can be checked without touching the world.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(self) -> Result<Plan, BadArgument> {
        if usize::from(self.partition_id) >= PARTITIONS_MAX {
            let last = PARTITIONS_MAX - 1;
            return Err(BadArgument(format!("--partition_id: {}; 0 to {last} are possible", self.partition_id)));
        }
        let managers = args::addresses("--manager_addrs", &self.manager_addrs)?;
        if managers.is_empty() {
            return Err(BadArgument("--manager_addrs: at least one manager is needed".into()));
        }
        let api_listen = args::listen_address("--api_listen", &self.api_listen)?;
        let p2p_listen = args::listen_address("--p2p_listen", &self.p2p_listen)?;
        args::distinct(("--api_listen", api_listen), ("--p2p_listen", p2p_listen))?;
        let http_listen = self.http.check(&[("--api_listen", api_listen), ("--p2p_listen", p2p_listen)])?;
        let peers = args::addresses("--peer_addrs", &self.peer_addrs)?;
        let peers = match self.join {
            true => args::peers_of_joiner(self.replica_id, &peers)?,
            false if self.protocol == GroupKind::Raft => args::peers_by_id(self.replica_id, p2p_listen, &peers)?,
            false => args::peers_of_any_number(self.replica_id, p2p_listen, &peers)?,
        };
        let advertise = match self.advertise.as_deref().map(|text| args::addresses("--advertise", text)).transpose()? {
            None => None,
            Some(addresses) => match <[String; 2]>::try_from(addresses) {
                Ok([api, p2p]) => Some((api, p2p)),
                Err(_) => return Err(BadArgument("--advertise: two addresses are needed, ADDR,P2P_ADDR".into())),
            },
        };
        if self.join && self.protocol != GroupKind::Raft {
            return Err(BadArgument("--join: only groups of kind raft grow".into()));
        }
        if advertise.is_some() && self.protocol != GroupKind::Raft {
            let kind = self.protocol;
            return Err(BadArgument(format!("--advertise: the replicas of groups of kind {kind} stay where they are")));
        }
        if self.join && advertise.is_none() {
            return Err(BadArgument("--join: needs --advertise, or no one could find this replica".into()));
        }
        self.agent.as_deref().map_or(Ok(()), |agent| args::check_address("--agent", agent))?;
        Ok(Plan {
            partition: self.partition_id,
            replica: self.replica_id,
            kind: self.protocol,
            managers,
            api_listen,
            p2p_listen,
            peers,
            directory: self.backer_path,
            log_engine: self.log_engine,
            allow_unsynced: self.allow_unsynced,
            found_anew: self.found_anew,
            join: self.join,
            advertise,
            end_with_stdin: self.end_with_stdin,
            agent: self.agent,
            reads: self.reads.check()?,
            http_listen,
            trace_messages: self.trace_messages,
        })
    }
}
