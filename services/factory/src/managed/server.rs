//! A factory of a group under managers, from start to end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use madkv_server::service_replica::Wanted;
use smr::LogEngine;
use smr::ReplicaId;
use smr::epoch::{EpochKind, GroupKind};
use smr::replica::{Opened, ReplicaOptions};
use smr_service::address::is_same;
use smr_service::args::{self, BadArgument};
use smr_service::fatal::{StderrReports, end_with};
use smr_service::limits::REPLICAS_MAX;
use smr_service::process::{self, Fatal, Signals};
use tokio::sync::watch;

use crate::admin::Group;
use crate::listener::{self, Listener};
use crate::managed::engineers::Engineers;
use crate::managed::gate::Gate;
use crate::managed::lookout::{self, Situation};
use crate::managed::managers::{Layout, Managers, SERVICE_NAME};
use crate::managed::promotion::{Promotion, Successor};
use crate::managed::records::Records;
use crate::words::ServerId;

/// By default factories listen for each other's replicas at a port that is higher by this than that for customers.
pub const P2P_OFFSET: u16 = 1_000;
/// A file that is there in a directory of a factory without managers.
pub const RECORD_WITHOUT_MANAGERS: &str = "record";
/// A file that is there in a directory of one under managers.
pub const RECORD_UNDER_MANAGERS: &str = "promise";

/// The flags of a group under managers.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// The managers that decide who produces: host:port, separated by commas, in replica order
    #[arg(long = "managers", value_name = "ADDRESSES")]
    pub managers: Option<String>,
    /// With --managers: the number of the factories' group in their layout; 0 by default
    #[arg(long = "partition_id", value_name = "N", allow_negative_numbers = true)]
    pub partition_id: Option<u16>,
    /// With --managers: how much higher the port is at which a factory listens for the others' replicas; 1000 by
    /// default
    #[arg(long = "p2p_offset", value_name = "N", allow_negative_numbers = true)]
    pub p2p_offset: Option<u16>,
    /// With --managers: what keeps the log, sled or segments. A directory keeps the one that it was made with
    #[arg(long = "log_engine", value_name = "ENGINE")]
    pub log_engine: Option<LogEngine>,
    /// With --managers: start although writes cannot be proved to reach the device
    #[arg(long = "allow_unsynced")]
    pub allow_unsynced: bool,
}

impl Flags {
    /// Refuses what means something with managers alone.
    ///
    /// # Errors
    /// Which flag that is.
    pub fn check_without_managers(&self) -> Result<(), BadArgument> {
        let given = [
            ("--partition_id", self.partition_id.is_some()),
            ("--p2p_offset", self.p2p_offset.is_some()),
            ("--log_engine", self.log_engine.is_some()),
            ("--allow_unsynced", self.allow_unsynced),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(BadArgument(format!("{flag} is for factories with --managers"))),
            None => Ok(()),
        }
    }
}

/// The program that it is part of.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Says something to the operator.
    pub say: fn(&str),
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// This factory and the others.
    pub group: Arc<Group>,
    /// Whom to ask.
    pub managers: Managers,
    /// Where this one listens for customers.
    pub listen: SocketAddr,
    /// Where it listens for the others' replicas.
    pub p2p_listen: SocketAddr,
    /// Where theirs listen, by number.
    pub peers: BTreeMap<ReplicaId, String>,
    /// Its directory.
    pub directory: PathBuf,
    /// What keeps the log.
    pub log_engine: LogEngine,
    /// Whether it starts although writes cannot be proved to reach the device.
    pub allow_unsynced: bool,
    /// Whether it ends with its stdin.
    pub end_with_stdin: bool,
}

impl Plan {
    /// Checks what can be checked before the managers are asked.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(
        flags: &Flags,
        managers: &str,
        group: Arc<Group>,
        listen: SocketAddr,
        directory: PathBuf,
        end_with_stdin: bool,
    ) -> Result<Plan, BadArgument> {
        let managers = managers_of(managers)?;
        let size = group.others.len() + 1;
        if size > REPLICAS_MAX {
            let what = format!("{size} factories; up to {REPLICAS_MAX} are possible with --managers");
            return Err(BadArgument(what));
        }
        if let Some(id) = group.ids().into_iter().find(|id| id.0 as usize >= size) {
            let last = size - 1;
            let what = format!("id {id}: with --managers the {size} factories of a group have the ids 0 to {last}");
            return Err(BadArgument(what));
        }
        let offset = flags.p2p_offset.unwrap_or(P2P_OFFSET);
        let p2p_port = |port: u16| {
            let p2p = port.checked_add(offset).filter(|_| offset > 0);
            p2p.ok_or_else(|| BadArgument(format!("--p2p_offset: {offset}; there is no such port beside {port}")))
        };
        let mut peers = BTreeMap::new();
        for (id, address) in &group.others {
            let Some((host, Ok(port))) = address.rsplit_once(':').map(|(host, port)| (host, port.parse())) else {
                return Err(BadArgument(format!("peer {id}: {address} is no address")));
            };
            peers.insert(ReplicaId(id.0 as u16), format!("{host}:{}", p2p_port(port)?)); // below REPLICAS_MAX
        }
        let p2p_listen = SocketAddr::new(listen.ip(), p2p_port(listen.port())?);
        let managers = Managers { addresses: managers, cluster: None, partition: flags.partition_id.unwrap_or(0) };
        let log_engine = flags.log_engine.unwrap_or_default();
        let allow_unsynced = flags.allow_unsynced;
        Ok(Plan { group, managers, listen, p2p_listen, peers, directory, log_engine, allow_unsynced, end_with_stdin })
    }

    /// The managers must have just these factories there.
    fn check(&self, layout: &Layout) -> Result<(), BadArgument> {
        let (partition, id) = (self.managers.partition, self.group.id);
        if !matches!(layout.kind, GroupKind::Epochs(EpochKind::Active | EpochKind::Passive)) {
            let kind = layout.kind;
            let what = format!("--managers: s{partition} is of kind {kind} there; factories need passive or active");
            return Err(BadArgument(what));
        }
        let size = self.group.others.len() + 1;
        let mut addresses = layout.servers.iter().zip(0..);
        let is_as_there = |(theirs, number): (&String, u32)| match self.group.others.get(&ServerId(number)) {
            Some(ours) => is_same(ours, theirs),
            // The own address is not on the command line, but for its port.
            None => number == id.0 && theirs.ends_with(&format!(":{}", self.listen.port())),
        };
        if layout.servers.len() != size || !addresses.all(is_as_there) {
            let theirs = layout.servers.join(", ");
            let what = format!(
                "the managers have other factories in s{partition} than this command line: {theirs}, with the ids 0 to \
                 {} (--server_addrs)",
                layout.servers.len().saturating_sub(1)
            );
            return Err(BadArgument(what));
        }
        Ok(())
    }
}

/// Reads where the managers are.
///
/// # Errors
/// What is wrong.
pub fn managers_of(text: &str) -> Result<Vec<String>, BadArgument> {
    let managers = args::addresses("--managers", text)?;
    if managers.is_empty() {
        return Err(BadArgument("--managers: at least one manager is needed".to_owned()));
    }
    Ok(managers)
}

/// Refuses a directory of the other mode.
///
/// # Errors
/// Which one it is of.
pub fn check_mode(directory: &Path, foreign_file: &str, mode: &str) -> Result<(), Fatal> {
    if directory.join(foreign_file).exists() {
        return Err(Fatal::Failed(format!("{}: this is the directory of a factory {mode}", directory.display())));
    }
    Ok(())
}

/// Runs a factory until a signal ends it.
///
/// # Errors
/// Why it cannot run.
pub fn run(mut plan: Plan, Program { name, say }: Program) -> Result<(), Fatal> {
    let listener = process::bind("port", plan.listen)?;
    let p2p = process::bind("--p2p_offset", plan.p2p_listen)?;
    process::check_directory(&plan.directory)?;
    check_mode(&plan.directory, RECORD_WITHOUT_MANAGERS, "without --managers")?;
    let runtime = process::runtime()?;
    let mut signals = runtime.block_on(async { Signals::listen(plan.end_with_stdin) })?;
    let layout = runtime.block_on(async {
        let waits = |why: &str| say(&format!("waiting for a manager ({why})"));
        tokio::select! {
            layout = plan.managers.layout(None, waits) => Some(layout),
            () = signals.next() => None,
        }
    });
    let Some(layout) = layout else { return Ok(()) };
    let layout = layout.map_err(BadArgument)?;
    plan.check(&layout)?;

    let replica_id = plan.group.id.0 as u16; // below REPLICAS_MAX
    let partition = plan.managers.partition;
    let group_name = format!("s{partition}");
    let opened = {
        let _inside = runtime.enter();
        let unnamed = |error: smr::id::BadGroupName| Fatal::Failed(error.to_string());
        Opened::open(ReplicaOptions {
            peers: plan.peers.clone(),
            log_engine: plan.log_engine,
            allow_unsynced: plan.allow_unsynced,
            kind: layout.kind,
            reports: Arc::new(StderrReports),
            ..ReplicaOptions::new(group_name.parse().map_err(unnamed)?, ReplicaId(replica_id), p2p, &plan.directory)
        })?
    };
    let wanted = Wanted {
        program: name,
        service: SERVICE_NAME,
        managers: plan.managers.addresses.clone(),
        partition,
        replica: replica_id,
        directory: plan.directory.clone(),
        kind: layout.kind,
    };
    let registered = runtime.block_on(async {
        tokio::select! {
            registered = wanted.register(opened) => Some(registered),
            () = signals.next() => None,
        }
    });
    let Some(registered) = registered else { return Ok(()) };
    let (opened, member) = registered?;
    let cluster = member.map.cluster;
    plan.managers.cluster = Some(cluster);
    let replica = member.run(opened, Records::default(), runtime.handle())?;
    end_with(runtime.handle(), replica.clone());

    let (situation_of, situation) = watch::channel(Situation::unknown());
    runtime.spawn(lookout::look(plan.group.id, replica.clone(), situation_of, say));
    let promotion = Promotion::new(situation.clone());
    let successor = Successor { group: Arc::clone(&plan.group), managers: plan.managers.clone(), cluster };
    runtime.spawn({
        let promotion = Arc::clone(&promotion);
        async move { promotion.run(successor).await }
    });
    runtime.spawn(member.settings().run(replica.clone()));
    runtime.spawn(member.keep(replica.clone()));
    let engineers = Engineers {
        group: Arc::clone(&plan.group),
        cluster,
        partition,
        replica: replica.clone(),
        situation,
        gate: Arc::new(Gate::default()),
        promotion,
        applied_to: AtomicU64::new(0),
    };
    let listener = {
        let _inside = runtime.enter();
        listener::adopt(listener, plan.listen)?
    };
    let (id, peers) = (plan.group.id, plan.group.others.len());
    say(&format!("server {id} listens on {}, with {peers} peers, under managers", plan.listen));
    runtime.spawn(Listener::new(engineers).open(listener));
    runtime.block_on(end_in_order(signals, replica));
    runtime.shutdown_background();
    Ok(())
}

/// Waits for a signal, and then until another factory has taken over and what is under way is answered. A second signal
/// ends the process at once.
async fn end_in_order(mut signals: Signals, replica: smr::replica::ReplicaHandle) {
    signals.next().await;
    let ended = tokio::task::spawn_blocking(move || replica.shutdown());
    tokio::select! {
        _ = ended => {}
        () = signals.next() => {}
    }
}
