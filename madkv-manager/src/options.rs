//! The command line of a manager.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use madkv_proto::group_service::GroupService;
use madkv_proto::limits;
use madkv_proto::map::check_layout_of_services;
use smr::LogEngine;
use smr::epoch::GroupKind;
use smr::status::ReadMode;
use smr_service::args::{self, BadArgument};
use smr_service::http::HttpFlags;
use smr_service::read_flags::ReadFlags;
use smr_service::recover;

/// The program's name.
pub const PROGRAM: &str = "madkv-manager";
/// What [`Options::rejoin_pause_max`] can be at most, in milliseconds: an hour.
const REJOIN_PAUSE_LIMIT_MS: u64 = 3_600_000;

/// One replica of MadKV's manager.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = PROGRAM, version, after_help = recover::help(&limits::help()))]
pub struct Options {
    /// Number of this replica, from 0.
    #[arg(long = "replica_id", allow_negative_numbers = true)]
    pub replica_id: u16,
    /// Where to listen for clients and servers.
    #[arg(long = "man_listen")]
    pub man_listen: String,
    /// Where to listen for the other replicas.
    #[arg(long = "p2p_listen")]
    pub p2p_listen: String,
    /// Where the other replicas listen for this one, in replica order, or the word none.
    #[arg(long = "peer_addrs")]
    pub peer_addrs: String,
    /// Replicas of each partition.
    #[arg(long = "server_rf", allow_negative_numbers = true)]
    pub server_rf: usize,
    /// How the groups are kept in step: raft, chain, active or passive; one for all partitions, or one for each,
    /// separated by commas. Chosen once. Kinds other than raft allow even numbers of replicas.
    #[arg(long = "protocol", value_delimiter = ',', default_value = "raft")]
    pub protocol: Vec<GroupKind>,
    /// What the groups are for: kv, the key-value store, or the name of another service, whose groups own no slots
    /// (voting); one for all partitions, or one for each, separated by commas. Chosen once.
    #[arg(long = "service", value_delimiter = ',', default_value = "kv")]
    pub service: Vec<GroupService>,
    /// Where the servers listen for clients: host:port, separated by commas, by partition first, then by replica.
    #[arg(long = "server_addrs")]
    pub server_addrs: String,
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
    /// How long a replica that was removed from a group again and again waits at most before it may join again, in
    /// milliseconds: 1 s after the first time, and twice as long after each more within ten minutes.
    #[arg(long = "rejoin_pause_max", value_name = "MS", default_value_t = 64_000, allow_negative_numbers = true)]
    pub rejoin_pause_max: u64,
    /// End in order, as at SIGTERM, when stdin ends: for programs that start this one and may be killed.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
    /// How reads are confirmed.
    #[command(flatten)]
    pub reads: ReadFlags,
    /// Where it can be watched.
    #[command(flatten)]
    pub http: HttpFlags,
    /// Print each change of the members of a group to stderr, while this replica leads.
    #[arg(long = "trace_messages")]
    pub trace_messages: bool,
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of the replica.
    pub replica: u16,
    /// Where to listen for clients and servers.
    pub man_listen: SocketAddr,
    /// Where to listen for peers.
    pub p2p_listen: SocketAddr,
    /// The other replicas, by number.
    pub peers: Vec<(u16, String)>,
    /// Replicas of each partition; fits `servers`.
    pub server_rf: usize,
    /// The kinds of the groups: one for all, or one for each.
    pub kinds: Vec<GroupKind>,
    /// The services of the groups: one for all, or one for each.
    pub services: Vec<GroupService>,
    /// The servers, by partition first.
    pub servers: Vec<String>,
    /// Where its data is.
    pub directory: PathBuf,
    /// See [`Options::log_engine`].
    pub log_engine: LogEngine,
    /// See [`Options::allow_unsynced`].
    pub allow_unsynced: bool,
    /// See [`Options::found_anew`].
    pub found_anew: bool,
    /// See [`Options::rejoin_pause_max`].
    pub rejoin_pause_max: Duration,
    /// See [`Options::end_with_stdin`].
    pub end_with_stdin: bool,
    /// How reads are confirmed, and how much clocks may drift for that, per thousand.
    pub reads: (ReadMode, u64),
    /// Where to answer HTTP, if anywhere.
    pub http_listen: Option<SocketAddr>,
    /// See [`Options::trace_messages`].
    pub trace_messages: bool,
}

impl Options {
    /// Checks everything that can be checked without touching the world.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(self) -> Result<Plan, BadArgument> {
        let man_listen = args::listen_address("--man_listen", &self.man_listen)?;
        let p2p_listen = args::listen_address("--p2p_listen", &self.p2p_listen)?;
        args::distinct(("--man_listen", man_listen), ("--p2p_listen", p2p_listen))?;
        let http_listen = self.http.check(&[("--man_listen", man_listen), ("--p2p_listen", p2p_listen)])?;
        let peers = args::addresses("--peer_addrs", &self.peer_addrs)?;
        let peers = args::peers_by_id(self.replica_id, p2p_listen, &peers)?;
        let servers = args::addresses("--server_addrs", &self.server_addrs)?;
        check_layout_of_services(self.server_rf, &servers, &self.protocol, &self.service)
            .map_err(|error| BadArgument(format!("--server_rf, --server_addrs, --protocol, --service: {error}")))?;
        if self.rejoin_pause_max > REJOIN_PAUSE_LIMIT_MS {
            let given = self.rejoin_pause_max;
            return Err(BadArgument(format!("--rejoin_pause_max: {given} ms; at most {REJOIN_PAUSE_LIMIT_MS} ms")));
        }
        Ok(Plan {
            replica: self.replica_id,
            man_listen,
            p2p_listen,
            peers,
            server_rf: self.server_rf,
            kinds: self.protocol,
            services: self.service,
            servers,
            directory: self.backer_path,
            log_engine: self.log_engine,
            allow_unsynced: self.allow_unsynced,
            found_anew: self.found_anew,
            rejoin_pause_max: Duration::from_millis(self.rejoin_pause_max),
            end_with_stdin: self.end_with_stdin,
            reads: self.reads.check()?,
            http_listen,
            trace_messages: self.trace_messages,
        })
    }
}
