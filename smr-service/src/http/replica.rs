//! What a replica's process shows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustix::fs::statvfs;
use serde_json::Value;
use smr::replica::{Outcome, ReplicaHandle, ReplicaMetrics, Request};
use smr::status::{Advertised, ReplicaStatus, Role, ServiceState};
use tokio::time::timeout;

use super::{Families, HttpListener, Labels, Page, Surface, process};
use crate::listener::{ListenerWatch, RequestMeter};
use crate::process::{Fatal, bind, say};
use crate::status_json::{self, Whose};

/// How long the replica may take to describe itself.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// What it said of itself counts this long: whoever asks more often costs it nothing more.
pub const STATUS_FRESH: Duration = Duration::from_millis(50);
/// A replica that has not described itself for this long since it was first asked in vain is not live.
pub const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a probe may take: a read that a leader asks itself.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A probe that went through counts this long. So a replica is ready if a read went through within this time, or goes
/// through within [`PROBE_TIMEOUT`] from now on.
pub const PROBE_FRESH: Duration = Duration::from_secs(1);

/// Which replica it is, and where.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Its group: `m`, `s0`, ...
    pub group: String,
    /// Its number in the group.
    pub replica: u16,
    /// Where it listens for clients.
    pub address: String,
    /// Its directory.
    pub directory: PathBuf,
    /// The version of the program.
    pub version: &'static str,
}

/// What a surface shows once the replica serves.
pub struct Served {
    /// The replica.
    pub replica: ReplicaHandle,
    /// Its listener.
    pub listener: ListenerWatch,
    /// A query that costs little, for probes.
    pub probe: Bytes,
    /// Adds to its description what the replica itself cannot know.
    pub complete: Box<dyn Fn(&mut ReplicaStatus) + Send + Sync>,
}

/// The surface of a replica's process. It is there from the beginning: until the replica serves, the process is live
/// and not ready.
#[derive(Clone)]
pub struct ReplicaSurface(Arc<Shared>);

struct Shared {
    whom: Whom,
    started: SystemTime,
    requests: Arc<RequestMeter>,
    served: OnceLock<Served>,
    seen: tokio::sync::Mutex<Option<Seen>>,
    /// When the replica was first asked in vain, since it last answered.
    silent_since: Mutex<Option<Instant>>,
    /// When a probe last went through; one at a time is under way.
    proven: tokio::sync::Mutex<Option<Instant>>,
}

struct Seen {
    at: Instant,
    what: Result<Arc<ReplicaStatus>, String>,
}

impl ReplicaSurface {
    /// Of a process that starts.
    pub fn new(whom: Whom) -> ReplicaSurface {
        ReplicaSurface(Arc::new(Shared {
            whom,
            started: SystemTime::now(),
            requests: Arc::default(),
            served: OnceLock::new(),
            seen: tokio::sync::Mutex::default(),
            silent_since: Mutex::default(),
            proven: tokio::sync::Mutex::default(),
        }))
    }

    /// Shows it at `address`, with one line that says where.
    ///
    /// # Errors
    /// If no one can listen there.
    pub fn open(program: &str, address: SocketAddr, whom: Whom) -> Result<ReplicaSurface, Fatal> {
        let listener = bind("--http_listen", address)?;
        let surface = ReplicaSurface::new(whom);
        let open = HttpListener::open(listener, Arc::new(surface.clone()))?;
        say(program, &format!("HTTP at http://{}/", open.address()));
        Ok(surface)
    }

    /// Where the replica's listener counts its requests.
    pub fn requests(&self) -> Arc<RequestMeter> {
        Arc::clone(&self.0.requests)
    }

    /// From now on the replica serves. Said once.
    pub fn serves(&self, served: Served) {
        // A process has one replica.
        let _ = self.0.served.set(served);
    }
}

impl Surface for ReplicaSurface {
    fn live(&self) -> Page<Result<(), String>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.live().await })
    }

    fn ready(&self) -> Page<Result<(), String>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.ready().await })
    }

    fn status(&self) -> Page<Result<Value, Value>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let Whom { group, replica, address, .. } = &shared.whom;
            let whose = Whose { group, replica: *replica, address };
            match shared.status().await {
                Ok(status) => Ok(Value::Object(status_json::described(whose, &status, status.commit.0))),
                Err(why) => Err(Value::Object(status_json::unreachable(whose, &why))),
            }
        })
    }

    fn metrics(&self) -> Page<Families> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.metrics().await })
    }
}

impl Shared {
    /// What the replica says of itself, or why it says nothing.
    async fn status(&self) -> Result<Arc<ReplicaStatus>, String> {
        let served = self.served.get().ok_or_else(|| "starting".to_owned())?;
        let mut seen = self.seen.lock().await;
        if let Some(Seen { at, what }) = &*seen
            && at.elapsed() < STATUS_FRESH
        {
            return what.clone();
        }
        let asked_at = Instant::now();
        let what = match timeout(STATUS_TIMEOUT, served.replica.ask(Request::Status)).await {
            Ok(Some(Outcome::Status(mut status))) => {
                (served.complete)(&mut status);
                Ok(Arc::from(status))
            }
            Ok(Some(Outcome::OutOfService(why))) => Err(why),
            Ok(Some(Outcome::Busy { .. })) => Err("busy".to_owned()),
            Ok(_) => Err("ended".to_owned()),
            Err(_) => Err(format!("no answer within {} s", STATUS_TIMEOUT.as_secs())),
        };
        {
            let mut silent_since = locked(&self.silent_since);
            *silent_since = if what.is_ok() { None } else { silent_since.or(Some(asked_at)) };
        }
        *seen = Some(Seen { at: Instant::now(), what: what.clone() });
        what
    }

    async fn live(&self) -> Result<(), String> {
        if self.served.get().is_none() || self.status().await.is_ok() {
            return Ok(());
        }
        let silent = locked(&self.silent_since).map_or(Duration::ZERO, |since| since.elapsed());
        if silent < LIVE_WITHIN {
            return Ok(());
        }
        Err(format!("the replica has not answered for {} s", silent.as_secs()))
    }

    /// A leader proves itself by a read. A follower takes its leader's word: that one falls silent within two election
    /// timeouts if it has no quorum, and then this one believes in no leader.
    async fn ready(&self) -> Result<(), String> {
        let status = self.status().await?;
        match &status.service_state {
            ServiceState::InService => {}
            ServiceState::Uninitialized => return Err("waits for its group to be founded".to_owned()),
            ServiceState::Quarantined { reason } => return Err(format!("quarantined: {reason}")),
        }
        match (status.role, status.leader) {
            (Role::Leader, _) => self.prove().await,
            (Role::Follower, Some(_)) => Ok(()),
            (Role::Learner, _) => Err("has no vote yet".to_owned()),
            (Role::Candidate | Role::Follower, _) => Err("knows no leader".to_owned()),
        }
    }

    async fn prove(&self) -> Result<(), String> {
        let Some(served) = self.served.get() else { return Err("starting".to_owned()) };
        let mut proven = self.proven.lock().await;
        if proven.is_some_and(|at| at.elapsed() < PROBE_FRESH) {
            return Ok(());
        }
        let read = served.replica.ask(Request::Read { query: served.probe.clone() });
        match timeout(PROBE_TIMEOUT, read).await {
            Ok(Some(Outcome::Answer(_))) => {
                *proven = Some(Instant::now());
                Ok(())
            }
            Ok(Some(Outcome::NotLeader(_))) => Err("has just lost its leadership".to_owned()),
            Ok(Some(outcome)) => Err(format!("a read did not go through: {outcome:?}")),
            Ok(None) => Err("a read did not go through: the replica ends".to_owned()),
            Err(_) => Err(format!("a read did not go through within {} s", PROBE_TIMEOUT.as_secs())),
        }
    }

    async fn metrics(&self) -> Families {
        let Whom { group, replica, version, .. } = &self.whom;
        let mut families = Families::new(vec![("group", group.clone()), ("replica", replica.to_string())]);
        let version = vec![("version", (*version).to_owned())];
        families.gauges("smr_build", "The version of the program; always 1", [(version, 1)]);
        let status = self.status().await;
        let what = "Whether it has described itself for this scrape; if not, what follows from that is left out";
        families.gauge("smr_answers", what, u64::from(status.is_ok()));
        if let Ok(status) = &status {
            add_status(&mut families, status);
        }
        if let Some(served) = self.served.get() {
            add_parts(&mut families, &served.replica.metrics());
            let what = "Connections of clients, those included that have not said who they are";
            families.gauge("smr_client_connections", what, served.listener.connections() as u64);
            let what = "Bytes of requests and answers that the connections of clients hold";
            families.gauge("smr_client_bytes", what, served.listener.held_bytes() as u64);
        }
        self.add_requests(&mut families);
        if let Ok(room) = statvfs(&self.whom.directory) {
            let what = "Room that is left on the disk of its directory";
            families.gauge("smr_disk_free_bytes", what, room.f_bavail.saturating_mul(room.f_frsize));
            families.gauge("smr_disk_size_bytes", "Size of that disk", room.f_blocks.saturating_mul(room.f_frsize));
        }
        process::add(&mut families, self.started);
        families
    }

    fn add_requests(&self, families: &mut Families) {
        let counts = self.requests.read();
        let outcomes = counts.iter().flat_map(|counts| {
            // Those that never came are noise, but each kind is there from the beginning.
            let that_came = counts.outcomes.iter().filter(|(outcome, count)| *count > 0 || *outcome == "ok");
            that_came.map(|(outcome, count)| {
                (vec![("kind", counts.kind.to_owned()), ("outcome", (*outcome).to_owned())], *count)
            })
        });
        families.counters("smr_requests", "Requests of clients, by what became of them", outcomes);
        let what = "From when a request was read to when its answer waits to be written";
        let durations = counts.iter().map(|counts| (vec![("kind", counts.kind.to_owned())], counts.durations));
        families.durations("smr_request_duration_seconds", what, durations);
    }
}

fn add_status(families: &mut Families, status: &ReplicaStatus) {
    let in_service = status.service_state == ServiceState::InService;
    let state = match &status.service_state {
        ServiceState::InService => "in_service",
        ServiceState::Uninitialized => "uninitialized",
        ServiceState::Quarantined { .. } => "quarantined",
    };
    let states = ["in_service", "uninitialized", "quarantined"];
    families.state("smr_service_state", "Whether it is in service", "state", &states, state);
    let roles = [Role::Leader, Role::Candidate, Role::Follower, Role::Learner].map(|role| role.to_string());
    let role = if in_service { status.role.to_string() } else { String::new() };
    let roles = roles.each_ref().map(String::as_str);
    families.state("smr_role", "The part that it plays; none out of service", "role", &roles, &role);
    families.gauge("smr_has_leader", "Whether it knows who leads", u64::from(status.leader.is_some()));
    families.gauge("smr_term", "Its term", status.term.0);
    for (name, help, index) in [
        ("smr_last_index", "The last entry of its log", status.last.index.0),
        ("smr_commit_index", "The last entry that it knows to be committed", status.commit.0),
        ("smr_applied_index", "The last entry that it has applied", status.applied.0),
        ("smr_snapshot_index", "The last entry under its newest snapshot", status.snapshot.index.0),
    ] {
        families.gauge(name, help, index);
    }
    families.gauge("smr_log_bytes", "Its log, as it is in memory", status.log_bytes);
    families.gauge("smr_sessions", "Sessions of clients", status.sessions);
    families.gauge("smr_voters", "Voters of its group", status.voters.len() as u64);
    families.gauge("smr_learners", "Learners of its group", status.learners.len() as u64);
    let unreached = matches!(status.advertised, Advertised::Unreached { .. });
    let what = "Whether it does not answer at the address that clients are given for it";
    families.gauge("smr_advertised_unreached", what, u64::from(unreached));
    let lags = status.peers.iter().map(|(node, index)| {
        let lag = status.last.index.0.saturating_sub(index.0);
        (vec![("peer", node.name.to_string())], lag)
    });
    let what = "For a leader: by how many entries another member's durable log is behind its own";
    families.gauges("smr_follower_lag_entries", what, lags);
}

fn add_parts(families: &mut Families, metrics: &ReplicaMetrics) {
    families.gauge("smr_durable_index", "The last entry that has reached its own device", metrics.durable.0);
    families.gauge("smr_snapshot_bytes", "Its newest snapshot", metrics.snapshot_bytes);
    let what = "How long making a batch of writes durable takes";
    families.durations("smr_sync_duration_seconds", what, [(Labels::new(), metrics.syncs)]);
    let queue = |name: &str, depth| (vec![("queue", name.to_owned())], depth);
    families.gauges(
        "smr_queue_depth",
        "What waits, by where it does",
        [
            queue("requests", metrics.requests_queued),
            queue("inputs", metrics.inputs_queued),
            queue("disk", metrics.disk_jobs_queued),
            queue("outcomes", metrics.requests_waiting),
            queue("proposals", metrics.requests_held),
        ],
    );
    let what = "Bytes of messages from other replicas that wait to be taken in";
    families.gauge("smr_inputs_queued_bytes", what, metrics.inputs_queued_bytes);
    families.counter("smr_elections", "How often it became a candidate", metrics.elections);
    families.counter("smr_elections_won", "How often it became the leader", metrics.elections_won);
    families.counter("smr_violations", "Messages that no sound replica sends", metrics.violations);
    let Some(transport) = &metrics.transport else { return };
    let reason = |name: &str, count| (vec![("reason", name.to_owned())], count);
    families.counters(
        "smr_messages_dropped",
        "Messages between replicas that were lost, by why",
        [
            reason("unconnected", transport.dropped_unconnected),
            reason("queue_full", transport.dropped_full),
            reason("too_long", transport.dropped_too_long),
            reason("inbox_full", transport.dropped_by_sink),
            reason("disk_behind", metrics.messages_refused),
        ],
    );
    for (name, help, count) in [
        ("smr_messages_sent", "Messages written to other replicas", transport.messages_sent),
        ("smr_message_batches_sent", "Writes that these messages shared", transport.batches_sent),
        ("smr_messages_sent_bytes", "Their bytes", transport.bytes_sent),
        ("smr_messages_received", "Messages taken in from other replicas", transport.messages_received),
        ("smr_messages_received_bytes", "Their bytes", transport.bytes_received),
        ("smr_snapshots_sent", "Snapshots sent to the end", transport.snapshots_sent),
        ("smr_snapshots_received", "Snapshots received to the end", transport.snapshots_received),
    ] {
        families.counter(name, help, count);
    }
    let way = |name: &str, count| (vec![("direction", name.to_owned())], count);
    families.counters(
        "smr_peer_connections",
        "Connections with other replicas that were made, by who dialled",
        [way("dialled", transport.dialled), way("accepted", transport.accepted)],
    );
    families.counters(
        "smr_peer_connections_closed",
        "Connections with other replicas that this one closed, by why",
        [
            reason("turned_away", transport.turned_away),
            reason("violation", transport.closed_for_violations),
            reason("silence", transport.closed_for_silence),
        ],
    );
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
