//! A whole replica program of a service that is one group: its flags, its start, what it answers, its end.
//!
//! A service of many groups needs more than this between its clients and its replicas (who serves which part), and has
//! a program of its own, made of the same parts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use smr::LogEngine;
use smr::epoch::GroupKind;
use smr::id::{ClusterId, ReplicaId};
use smr::replica::{Opened, ReplicaHandle, ReplicaOptions, ReplyTo, Request, Submit};
use smr::state_machine::StateMachine;

use crate::args::{self, BadArgument};
use crate::fatal::{StderrReports, end_with};
use crate::frames::{ClientRequest, ClientResponse, Service};
use crate::listener::{Backend, Listener, ListenerLimits};
use crate::process::{self, Fatal, Signals};
use crate::read_flags::ReadFlags;
use crate::serve::serve_until_signal;

/// Which replica it is, where it listens, and where its peers and its data are.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplicaFlags {
    /// Number of this replica, from 0.
    #[arg(long = "replica_id", allow_negative_numbers = true)]
    pub replica_id: u16,
    /// Where to listen for clients.
    #[arg(long = "listen")]
    pub listen: String,
    /// Where to listen for the other replicas.
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
    /// The data of the whole group is lost: found it again, empty, once all replicas were started with this.
    #[arg(long = "found_anew")]
    pub found_anew: bool,
    /// End in order, as at SIGTERM, when stdin ends: for programs that start this one and may be killed.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
    /// How reads are confirmed.
    #[command(flatten)]
    pub reads: ReadFlags,
}

/// Who listens where.
struct Addresses {
    /// This replica, for clients.
    listen: SocketAddr,
    /// This replica, for the others.
    p2p: SocketAddr,
    /// The others, by number.
    peers: Vec<(u16, String)>,
}

impl ReplicaFlags {
    fn addresses(&self) -> Result<Addresses, BadArgument> {
        let listen = args::listen_address("--listen", &self.listen)?;
        let p2p = args::listen_address("--p2p_listen", &self.p2p_listen)?;
        args::distinct(("--listen", listen), ("--p2p_listen", p2p))?;
        let peers = args::addresses("--peer_addrs", &self.peer_addrs)?;
        let peers = args::peers_by_id(self.replica_id, p2p, &peers)?;
        Ok(Addresses { listen, p2p, peers })
    }
}

/// Runs a replica of the service called `name` until a signal ends it: `state` is the empty state, which the log and
/// snapshots of the directory bring up to date.
///
/// # Errors
/// Why it cannot run.
pub fn run<S: StateMachine>(name: &str, flags: ReplicaFlags, state: S) -> Result<(), Fatal> {
    let Addresses { listen, p2p, peers } = flags.addresses()?;
    let (reads, clock_drift_permille) = flags.reads.check()?;
    let listener = process::bind("--listen", listen)?;
    let p2p = process::bind("--p2p_listen", p2p)?;
    process::check_directory(&flags.backer_path)?;
    let runtime = process::runtime()?;
    let mut opened = Opened::open(ReplicaOptions {
        group: name.parse().map_err(|error: smr::id::BadGroupName| Fatal::Failed(error.to_string()))?,
        name: ReplicaId(flags.replica_id),
        peers: peers.into_iter().map(|(id, address)| (ReplicaId(id), address)).collect(),
        listener: p2p,
        directory: flags.backer_path,
        log_engine: flags.log_engine,
        allow_unsynced: flags.allow_unsynced,
        found_anew: flags.found_anew,
        joins: false,
        kind: GroupKind::Raft,
        reads,
        clock_drift_permille,
        reports: Arc::new(StderrReports),
        runtime: runtime.handle().clone(),
    })?;
    let signals = runtime.block_on(async { Signals::listen(flags.end_with_stdin) })?;
    // The group's genesis makes the cluster id, and no one else records it; the operator's word is enough.
    opened.settle()?;
    let replica = opened.run(state)?;
    end_with(runtime.handle(), replica.clone());
    let backend = Arc::new(OneGroup { replica: replica.clone() });
    let listener = Listener::open(runtime.handle(), listener, backend, ListenerLimits::default())
        .map_err(|error| Fatal::Failed(format!("--listen: {error}")))?;
    runtime.block_on(serve_until_signal(signals, listener, replica));
    runtime.shutdown_background();
    Ok(())
}

/// Hands requests of clients to the replica as they are: commands and queries are the state machine's to judge.
struct OneGroup {
    replica: ReplicaHandle,
}

impl Backend for OneGroup {
    type Map = ();

    fn service(&self) -> Service {
        Service::ONLY_GROUP
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.replica.cluster()
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, reply: ReplyTo) -> Option<ClientResponse<()>> {
        match request_of(ask) {
            Ok(request) => {
                self.replica.queue(request, reply);
                None
            }
            Err(refusal) => Some(refusal),
        }
    }

    fn flush(&self) {
        self.replica.flush();
    }
}

fn request_of(ask: ClientRequest) -> Result<Request, ClientResponse<()>> {
    match ask {
        ClientRequest::OpenSession => Ok(Request::OpenSession),
        ClientRequest::Write { client, number, lowest_unanswered, command } => {
            Ok(Request::Write { client, number, lowest_unanswered, command })
        }
        ClientRequest::Read { query } => Ok(Request::Read { query }),
        ClientRequest::Status => Ok(Request::Status),
        ClientRequest::Transfer { to } => Ok(Request::Transfer { to: ReplicaId(to) }),
        ClientRequest::Readmit { replica } => Ok(Request::Readmit { name: ReplicaId(replica) }),
        _ => Err(ClientResponse::Refused("this service has no manager".to_owned())),
    }
}
