//! A server process, from start to end.
//!
//! Order matters: what can be wrong with the command line, the ports and the directory is found out first, and quickly.
//! Only then does the process wait for others.

use std::sync::Arc;
use std::time::Duration;

use madkv_proto::group_service::KEY_VALUE;
use madkv_proto::map::ClusterMap;
use smr::entry::Incumbent;
use smr::id::{GroupName, Incarnation, ReplicaId, StartTrail};
use smr::internals::disk::RealDisk;
use smr::internals::storage::{Succession, Witness};
use smr::replica::{Opened, ReplicaHandle, ReplicaOptions};
use smr_service::args::BadArgument;
use smr_service::fatal::{StderrReports, end_with};
use smr_service::http::{ReplicaSurface, Served, Whom};
use smr_service::listener::{Listener, ListenerLimits};
use smr_service::notify;
use smr_service::pace::Pace;
use smr_service::process::{self, Fatal, Signals, jittered, say};
use smr_service::recover::{self, RecoverFlags};
use smr_service::serve::serve_until_signal;

use crate::advertised::Watch;
use crate::agent_link::AgentLink;
use crate::assignment;
use crate::backend::ServerBackend;
use crate::joining::{MapFollower, follow, has_lost_place, retire, retired, take};
use crate::map::{self, Map};
use crate::options::{Options, PROGRAM, Plan};
use crate::register::{Membership, Recorders, Registrar, Verdict};
use crate::service_link::ServiceLink;
use crate::settings::Follower;
use crate::trace;
use crate::watch::Holding;

/// How often a running server looks whether the manager should hear something new, in milliseconds.
const REGISTRATION_LOOK_MS: u64 = 500;
/// Exit code of a server whose directory is of another group than the manager has recorded.
const EXIT_REFUSED: i32 = 1;
/// How long a server that knows its map waits at its start for a manager that hangs, in milliseconds.
const FIRST_ANSWER_MAX_MS: u64 = 1_000;
/// Who says it, in the reason for a quarantine.
const MANAGER: &str = "the manager";

/// Runs a server until a signal ends it.
///
/// # Errors
/// Why it cannot run.
pub fn run(options: Options) -> Result<(), Fatal> {
    let plan = options.check()?;
    let api = process::bind("--api_listen", plan.api_listen)?;
    let p2p = process::bind("--p2p_listen", plan.p2p_listen)?;
    if plan.trace_messages {
        let number = plan.console_number();
        trace::enable(format!("S{number}"), number - u32::from(plan.replica));
    }
    let surface = plan.http_listen.map(|address| ReplicaSurface::open(PROGRAM, address, whom(&plan))).transpose()?;
    process::check_directory(&plan.directory)?;
    let runtime = process::runtime()?;
    let mut opened = Opened::open(ReplicaOptions {
        group: group_name(plan.partition)?,
        name: ReplicaId(plan.replica),
        peers: plan.peers.iter().map(|(id, address)| (ReplicaId(*id), address.clone())).collect(),
        listener: p2p,
        directory: plan.directory.clone(),
        log_engine: plan.log_engine,
        allow_unsynced: plan.allow_unsynced,
        found_anew: plan.found_anew,
        joins: plan.join,
        kind: plan.kind,
        reads: plan.reads.0,
        clock_drift_permille: plan.reads.1,
        reports: Arc::new(StderrReports),
        runtime: runtime.handle().clone(),
    })?;
    let mut signals = runtime.block_on(async { Signals::listen(plan.end_with_stdin) })?;
    notify::ready();
    notify::status("waits for others");

    let agent = {
        let _inside = runtime.enter();
        AgentLink::start(&plan, opened.incarnation())
    };
    let mut registrar = Registrar {
        managers: plan.managers.clone(),
        cluster: opened.cluster(),
        partition: plan.partition,
        replica: plan.replica,
        incarnation: opened.incarnation(),
        start: opened.start(),
    };
    // M9: a directory that was mixed up with another cluster's is refused, as far as that can be known now.
    if let Some((manager, theirs)) = runtime.block_on(registrar.foreign_manager()) {
        let ours = registrar.cluster.map_or_else(String::new, |cluster| format!(" to cluster {cluster}"));
        let what = format!("{}: belongs{ours}, manager {manager} to cluster {theirs}", plan.directory.display());
        return Err(Fatal::Failed(what));
    }
    if let Some(succession) = opened.succession().cloned() {
        let recorded = runtime.block_on(async {
            tokio::select! {
                recorded = registrar.until_recorded(&succession, waits) => Some(recorded),
                () = signals.next() => None,
            }
        });
        match recorded {
            None => return Ok(()),
            Some(Ok(())) => opened.settle()?,
            Some(Err(incumbent)) => return Err(Fatal::Failed(superseded(&plan, &succession, incumbent))),
        }
    }
    let remembered = remembered(&plan);
    let member = opened.genesis();
    let joins = plan.join && member.is_none();
    if remembered.is_none() {
        // Before it registers: a group of another service has a place for none of these.
        let is_ours = runtime.block_on(async {
            tokio::select! {
                is_ours = registrar.until_of_service(KEY_VALUE, waits) => Some(is_ours),
                () = signals.next() => None,
            }
        });
        match is_ours {
            None => return Ok(()),
            Some(is_ours) => is_ours?,
        }
    }
    let verdict = runtime.block_on(async {
        tokio::select! {
            verdict = first_verdict(&registrar, member, remembered.is_some(), joins) => Some(verdict),
            () = signals.next() => None,
        }
    });
    let Some(verdict) = verdict else { return Ok(()) };
    if let (Some(Verdict::Refused(_)), Some(_)) = (&verdict, &remembered)
        && runtime.block_on(has_lost_place(&registrar, &plan))
    {
        say(PROGRAM, &retired(&plan));
        return Ok(());
    }
    let mut registered_as = (verdict.is_some() && !joins).then_some((registrar.incarnation, registrar.start, member));
    if let Some(Verdict::Occupied { .. }) = verdict {
        // Durable before the map is: the next start may not ask again.
        opened.exclude(Witness::Recorder)?;
    }
    let has_answered = verdict.is_some();
    let map = match (verdict, remembered) {
        (Some(Verdict::Disqualified { why, map }), _) => {
            opened = opened.disqualify(why, MANAGER)?;
            (registrar.incarnation, registrar.start) = (opened.incarnation(), opened.start());
            registered_as = None;
            map
        }
        (Some(verdict), Some(map)) => {
            // The present layout is what counts; a newer map is taken in later.
            map_of(verdict, &plan, opened.incarnation())?;
            map
        }
        (Some(verdict), None) => {
            let map = map_of(verdict, &plan, opened.incarnation())?;
            assignment::save(&RealDisk, &plan.directory, &map)
                .map_err(|error| Fatal::Failed(format!("{}: {error}", plan.directory.display())))?;
            map
        }
        (None, Some(map)) => map,
        (None, None) => return Err(Fatal::Failed("no manager has answered".to_owned())),
    };
    check_replica(&map, &plan)?;
    if has_answered && let Some(kind) = runtime.block_on(registrar.kind()).filter(|kind| *kind != plan.kind) {
        let (node, given) = (plan.node(), plan.kind);
        let what = format!("--protocol: {given}; the managers say that the group of {node} is of kind {kind}");
        return Err(Fatal::Usage(BadArgument(what)));
    }

    let registrar = Registrar { cluster: Some(map.cluster), ..registrar };
    let handle = runtime.handle().clone();
    let link = ServiceLink::new(plan.managers.clone(), Some(map.cluster), plan.partition, handle.clone());
    let recorders = Recorders { registrar: registrar.clone(), link, runtime: handle };
    let state = Map::default();
    let (judges_keys, bell) = (state.judges_keys(), state.bell());
    let replica = opened.run_in(map.cluster, Arc::new(recorders), state)?;
    end_with(runtime.handle(), replica.clone());
    if let Some(agent) = &agent {
        agent.answers_for(replica.clone());
    }
    let backend = ServerBackend::new(replica.clone(), plan.partition, &map, judges_keys).of_kind(plan.kind);
    let backend = Arc::new(backend);
    let pace = Pace::keep(runtime.handle(), replica.clone());
    backend.tells_pace(pace.clone());
    backend.holds(Holding::new(replica.clone(), runtime.handle().clone(), bell));
    let (limits, meter) = (ListenerLimits::default(), surface.as_ref().map(ReplicaSurface::requests));
    let listener = Listener::open_counted(runtime.handle(), api, Arc::clone(&backend), limits, meter)
        .map_err(|error| Fatal::Failed(format!("--api_listen: {error}")))?;
    if let Some(surface) = surface {
        let (completing, advertising, replica_id) = (Arc::clone(&backend), Arc::clone(&backend), plan.replica);
        surface.serves(Served {
            replica: replica.clone(),
            listener: listener.watch(),
            probe: map::probe(),
            advertised: Box::new(move || advertising.servers().get(usize::from(replica_id)).cloned()),
            pace,
            complete: Box::new(move |status| completing.complete(status)),
        });
    }
    let watch = Watch {
        partition: plan.partition,
        replica: plan.replica,
        cluster: map.cluster,
        api_listen: listener.address(),
        handle: replica.clone(),
        backend: Arc::clone(&backend),
    };
    runtime.spawn(watch.run());
    let first = usize::from(plan.partition) + usize::from(plan.replica);
    let follower = Follower { managers: plan.managers.clone(), cluster: map.cluster, first };
    runtime.spawn(follower.run(replica.clone()));
    let map_follower = MapFollower {
        registrar: registrar.clone(),
        plan: plan.clone(),
        replica: replica.clone(),
        backend: Arc::clone(&backend),
    };
    runtime.spawn(follow(map_follower));
    runtime.spawn(keep_registered(registrar, plan, replica.clone(), backend, registered_as));
    runtime.block_on(serve_until_signal(signals, listener, replica));
    if let Some(agent) = agent {
        runtime.block_on(agent.farewell());
    }
    runtime.shutdown_background();
    Ok(())
}

/// This replica, as those who watch it know it.
fn whom(plan: &Plan) -> Whom {
    Whom {
        group: format!("s{}", plan.partition),
        replica: plan.replica,
        address: plan.api_listen.to_string(),
        directory: plan.directory.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// What a manager says to a server that starts. One that has a map need not wait for any: but where one answers, it is
/// heard before the first word to a peer, for it may know that this directory was set back.
async fn first_verdict(registrar: &Registrar, member: Membership, has_map: bool, joins: bool) -> Option<Verdict> {
    if joins {
        // It has no place yet, and asks for none: an operator gives it one.
        return Some(Verdict::Registered(registrar.until_map(complain).await));
    }
    if has_map {
        let limit = Duration::from_millis(FIRST_ANSWER_MAX_MS);
        return tokio::time::timeout(limit, registrar.one_round(member)).await.ok()?.ok();
    }
    Some(registrar.until_answered(member, waits).await)
}

fn superseded(plan: &Plan, succession: &Succession, incumbent: Incumbent) -> String {
    let present = match incumbent {
        Incumbent::Recorded(genesis) => format!("with genesis {genesis}"),
        Incumbent::Unrecorded => "of an older build".to_owned(),
    };
    format!(
        "{}: was recovered from a group with genesis {}, but the manager has another one recorded by now, {present}: \
         nothing is replaced",
        plan.directory.display(),
        succession.instead_of,
    )
}

/// Makes a new directory of what verifies in an old one.
///
/// # Errors
/// Why nothing was recovered.
pub fn recover(flags: RecoverFlags) -> Result<(), Fatal> {
    let is_ours =
        |group: &GroupName| group.as_str().strip_prefix('s').is_some_and(|number| number.parse::<u16>().is_ok());
    // Damaged or missing, it only means that one thing less is known.
    let cluster = assignment::load(&RealDisk, &flags.from).ok().flatten().map(|map| map.cluster);
    recover::recover(flags, cluster, Map::default(), is_ours, |_| None)
}

fn group_name(partition: u16) -> Result<GroupName, Fatal> {
    format!("s{partition}").parse().map_err(|error: smr::id::BadGroupName| Fatal::Failed(error.to_string()))
}

/// The map of an earlier run, if it can be used.
fn remembered(plan: &Plan) -> Option<ClusterMap> {
    assignment::load(&RealDisk, &plan.directory).unwrap_or_else(|error| {
        say(PROGRAM, &format!("{error}; asking the managers again"));
        None
    })
}

/// While nothing is served yet.
fn waits(reason: &str) {
    notify::status(&format!("waits for a manager ({reason})"));
    complain(reason);
}

fn complain(reason: &str) {
    say(PROGRAM, &format!("waiting for a manager ({reason})"));
}

/// What a verdict means for this process.
fn map_of(verdict: Verdict, plan: &Plan, own: Incarnation) -> Result<ClusterMap, Fatal> {
    match verdict {
        Verdict::Registered(map) => Ok(map),
        Verdict::Occupied { by, map } => {
            say(PROGRAM, &occupied(plan, own, by));
            Ok(map)
        }
        Verdict::Disqualified { map, .. } => Ok(map),
        Verdict::Refused(reason) => Err(Fatal::Failed(format!("the manager refuses {}: {reason}", plan.node()))),
    }
}

fn occupied(plan: &Plan, own: Incarnation, by: Incarnation) -> String {
    format!(
        "{} belongs to incarnation {by}, not to {own} in {}: in quarantine until readmitted (madkv-client \
         --manager_addrs {} readmit \
         s{} {}); if the data of the whole group is lost, start all its replicas with --found_anew",
        plan.node(),
        plan.directory.display(),
        plan.managers.join(","),
        plan.partition,
        plan.replica,
    )
}

/// The map must have this replica, in a group of this size.
fn check_replica(map: &ClusterMap, plan: &Plan) -> Result<(), Fatal> {
    let Some(partition) = map.partitions.get(usize::from(plan.partition)) else {
        let count = map.partitions.len();
        return Err(Fatal::Failed(format!("--partition_id: {}; the cluster has {count} partitions", plan.partition)));
    };
    let (size, given) = (partition.servers.len(), plan.peers.len() + 1);
    // Where members have changed, flags are of another time.
    if size != given && map.epoch == 1 && !plan.join {
        let what =
            format!("--peer_addrs: {} others make a group of {given}; the cluster has groups of {size}", given - 1);
        return Err(Fatal::Failed(what));
    }
    Ok(())
}

/// Tells the manager what it does not know yet: that this server runs, after a restart without a manager; that its
/// directory has become a member's; that another incarnation has begun in it. Hears from it whether the directory must
/// not take part any longer.
async fn keep_registered(
    registrar: Registrar,
    plan: Plan,
    replica: ReplicaHandle,
    backend: Arc<ServerBackend>,
    mut registered_as: Option<(Incarnation, StartTrail, Membership)>,
) {
    let mut complained = false;
    loop {
        let (incarnation, start) = replica.start();
        let present = (incarnation, start, replica.genesis());
        // One that joins has a place only when the map has it.
        let has_place = backend.servers().len() > usize::from(plan.replica);
        if registered_as != Some(present) && has_place {
            let registrar = Registrar { incarnation, start, ..registrar.clone() };
            match registrar.one_round(present.2).await {
                Ok(Verdict::Disqualified { why, .. }) => {
                    // Unless another incarnation has begun meanwhile.
                    if replica.start() == (incarnation, start) && replica.disqualify(why, MANAGER) {
                        registered_as = Some(present);
                    }
                }
                Ok(verdict) => {
                    registered_as = Some(present);
                    match verdict {
                        Verdict::Occupied { .. } => replica.exclude(Witness::Recorder),
                        Verdict::Refused(_) if has_lost_place(&registrar, &plan).await => {
                            return retire(&plan, replica).await;
                        }
                        _ => {}
                    }
                    if let Err(fatal) = note(verdict, &registrar, &plan, &backend) {
                        say(PROGRAM, &fatal.to_string());
                        // It must not go on in the place of the group that counts.
                        let _ = tokio::task::spawn_blocking(move || replica.shutdown()).await;
                        std::process::exit(EXIT_REFUSED);
                    }
                }
                Err(reason) if !complained => {
                    complained = true;
                    complain(&reason);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(jittered(Duration::from_millis(REGISTRATION_LOOK_MS))).await;
    }
}

/// Takes in what a manager said to a server that runs already.
///
/// # Errors
/// If it has no place in the cluster, or a directory of another group.
fn note(verdict: Verdict, registrar: &Registrar, plan: &Plan, backend: &ServerBackend) -> Result<(), Fatal> {
    let map = map_of(verdict, plan, registrar.incarnation)?;
    take(&map, plan, backend);
    Ok(())
}
