//! What a replica's process shows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use smr::replica::{Outcome, ReplicaHandle, ReplicaMetrics, Request};
use smr::status::{Advertised, ReplicaStatus, Role, ServiceState};
use tokio::time::timeout;

use super::host::Host;
use super::{Families, HttpListener, Labels, Page, Surface};
use crate::listener::{ListenerWatch, RequestMeter};
use crate::pace::{Measure, Metric, Pace, PaceReport};
use crate::process::{Fatal, bind, say};
use crate::status_json::{self, Whose};

/// How long the replica may take to describe itself.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// What it said of itself counts this long: whoever asks more often costs it nothing more.
pub const STATUS_FRESH: Duration = Duration::from_millis(50);
/// A replica that has neither described itself nor done anything for this long since it was first asked in vain is not
/// live.
pub const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a probe may take: a read that a leader asks itself.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A probe that went through counts this long. So a replica is ready if a read went through within this time, or goes
/// through within [`PROBE_TIMEOUT`] from now on.
pub const PROBE_FRESH: Duration = Duration::from_secs(1);
/// A probe that failed counts this long, whoever asks meanwhile.
pub const REFUSAL_FRESH: Duration = Duration::from_millis(250);
/// A follower is ready if, this long ago or later, its leader named a commit index that it has reached by now.
pub const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(3);
/// A replica whose disk has been at work on one batch for this long is not ready.
pub const DISK_WITHIN: Duration = Duration::from_secs(5);
/// A follower that takes in a snapshot is not ready; one that has not got further for this long was given up.
pub const INTAKE_WITHIN: Duration = Duration::from_secs(60);

/// Which replica it is, and where.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Its group: `m`, `s0`, ...
    pub group: String,
    /// Its number in the group.
    pub replica: u16,
    /// Where it listens for clients. Shown until it knows by which address they reach it.
    pub address: String,
    /// Where its data is; the room there is shown.
    pub directory: PathBuf,
    /// The version of the program.
    pub version: &'static str,
}

/// What a surface shows once the replica serves.
pub struct Served {
    /// The replica that is asked how it is.
    pub replica: ReplicaHandle,
    /// What counts connections and requests of clients.
    pub listener: ListenerWatch,
    /// A query that costs little, for probes.
    pub probe: Bytes,
    /// The address by which clients reach it, once that is known.
    pub advertised: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// What measures how fast its parts are.
    pub pace: Pace,
    /// Adds to its description what the replica itself cannot know.
    pub complete: Box<dyn Fn(&mut ReplicaStatus) + Send + Sync>,
}

/// The surface of a replica's process. It is there from the beginning: until the replica serves, the process is live
/// and not ready.
#[derive(Clone)]
pub struct ReplicaSurface(Arc<Shared>);

struct Shared {
    whom: Whom,
    requests: Arc<RequestMeter>,
    served: OnceLock<Served>,
    seen: tokio::sync::Mutex<Option<Seen>>,
    /// When the replica was first asked in vain, since it last answered.
    silent_since: Mutex<Option<Instant>>,
    /// What came of the last probe, and when; one at a time is under way.
    proven: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
    host: Host,
}

#[derive(Clone)]
struct Seen {
    at: Instant,
    what: Result<Arc<ReplicaStatus>, String>,
    /// It is at work, whatever it says.
    is_at_work: bool,
}

impl ReplicaSurface {
    /// Of a process that starts.
    pub fn new(whom: Whom) -> ReplicaSurface {
        let host = Host::new(whom.directory.clone(), SystemTime::now());
        ReplicaSurface(Arc::new(Shared {
            whom,
            host,
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
            let Whom { group, replica, .. } = &shared.whom;
            let address = &shared.address();
            let whose = Whose { group, replica: *replica, address };
            match shared.status().await {
                Ok(status) => {
                    let mut described = status_json::described(whose, &status, status.commit.0);
                    let count = shared.served.get().and_then(|served| served.replica.metrics().checkpoint_count);
                    if let Some(count) = count {
                        described.insert("checkpoint_count".to_owned(), count.into());
                    }
                    if let Some(served) = shared.served.get() {
                        let pace = served.pace.report();
                        described.insert("stands_back".to_owned(), pace.stands_back.into());
                        described.insert("pace".to_owned(), status_json::paced(&pace));
                    }
                    Ok(Value::Object(described))
                }
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
    /// Where clients reach the replica: where it listens may be an address of which no one is told.
    fn address(&self) -> String {
        let advertised = self.served.get().and_then(|served| (served.advertised)());
        advertised.unwrap_or_else(|| self.whom.address.clone())
    }

    /// What the replica says of itself, or why it says nothing.
    async fn status(&self) -> Result<Arc<ReplicaStatus>, String> {
        let served = self.served.get().ok_or_else(|| "starting".to_owned())?;
        self.see(served).await.what
    }

    async fn see(&self, served: &Served) -> Seen {
        let mut seen = self.seen.lock().await;
        if let Some(seen) = seen.as_ref().filter(|seen| seen.at.elapsed() < STATUS_FRESH) {
            return seen.clone();
        }
        let asked_at = Instant::now();
        let asked = timeout(STATUS_TIMEOUT, served.replica.ask(Request::Status)).await;
        let is_at_work = is_at_work(asked.as_ref().ok(), served.replica.metrics().since_turn);
        let what = match asked {
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
            let mut silent_since = self.silent_since.lock();
            *silent_since = if is_at_work { None } else { silent_since.or(Some(asked_at)) };
        }
        let present = Seen { at: Instant::now(), what, is_at_work };
        *seen = Some(present.clone());
        present
    }

    async fn live(&self) -> Result<(), String> {
        let Some(served) = self.served.get() else { return Ok(()) };
        if self.see(served).await.is_at_work {
            return Ok(());
        }
        let silent = self.silent_since.lock().map_or(Duration::ZERO, |since| since.elapsed());
        if silent < LIVE_WITHIN {
            return Ok(());
        }
        Err(format!("the replica has neither answered nor done anything for {} s", silent.as_secs()))
    }

    /// A leader proves itself by a read; a follower by what its leader says, which falls silent within two election
    /// timeouts if it has no quorum.
    async fn ready(&self) -> Result<(), String> {
        let status = self.status().await?;
        match &status.service_state {
            ServiceState::InService => {}
            ServiceState::Uninitialized => return Err("waits for its group to be founded".to_owned()),
            ServiceState::Quarantined { reason } => return Err(format!("quarantined: {reason}")),
        }
        let Some(served) = self.served.get() else { return Err("starting".to_owned()) };
        let metrics = served.replica.metrics();
        if metrics.sync_under_way >= DISK_WITHIN {
            return Err(format!("its disk has been at work on one batch for {} s", metrics.sync_under_way.as_secs()));
        }
        match (status.role, status.leader) {
            (Role::Leader, _) => self.prove(served).await,
            (Role::Follower, Some(_)) => follows(&metrics),
            (Role::Learner, _) => Err("has no vote yet".to_owned()),
            (Role::Candidate | Role::Follower, _) => Err("knows no leader".to_owned()),
        }
    }

    async fn prove(&self, served: &Served) -> Result<(), String> {
        let mut proven = self.proven.lock().await;
        if let Some((at, verdict)) = &*proven
            && at.elapsed() < if verdict.is_ok() { PROBE_FRESH } else { REFUSAL_FRESH }
        {
            return verdict.clone();
        }
        let verdict = probe(served).await;
        *proven = Some((Instant::now(), verdict.clone()));
        verdict
    }

    async fn metrics(&self) -> Families {
        let Whom { group, replica, version, .. } = &self.whom;
        let mut families = Families::new(vec![("group", group.clone()), ("replica", replica.to_string())]);
        let version = vec![("version", (*version).to_owned())];
        families.gauges("smr_build", "The version of the program; always 1", [(version, 1)]);
        let served = self.served.get();
        let what = "Whether the process waits for something before its replica begins, a manager for example";
        families.gauge("smr_starting", what, u64::from(served.is_none()));
        let seen = match served {
            Some(served) => Some(self.see(served).await),
            None => None,
        };
        let what = "Whether the replica is at work; what it says of itself is left out if it has not said it in time";
        families.gauge("smr_answers", what, u64::from(seen.as_ref().is_some_and(|seen| seen.is_at_work)));
        if let Some(Seen { what: Ok(status), .. }) = &seen {
            add_status(&mut families, status);
        }
        if let Some(served) = served {
            add_parts(&mut families, &served.replica.metrics());
            add_pace(&mut families, &served.pace.report());
            let what = "Connections of clients, those included that have not said who they are";
            families.gauge("smr_client_connections", what, served.listener.connections() as u64);
            let what = "Bytes of requests and answers that the connections of clients hold";
            families.gauge("smr_client_bytes", what, served.listener.held_bytes() as u64);
        }
        self.add_requests(&mut families);
        families.append(&self.host.present().await);
        families
    }

    fn add_requests(&self, families: &mut Families) {
        let counts = self.requests.read();
        // All of them from the beginning: an increase is only seen of what was there before.
        let outcomes = counts.iter().flat_map(|counts| {
            counts.outcomes.iter().map(|(outcome, count)| {
                (vec![("kind", counts.kind.to_owned()), ("outcome", (*outcome).to_owned())], *count)
            })
        });
        families.counters("smr_requests", "Requests of clients, by what became of them", outcomes);
        let what = "From when a request was read to when its answer waits to be written";
        let durations = counts.iter().map(|counts| (vec![("kind", counts.kind.to_owned())], counts.durations));
        families.durations("smr_request_duration_seconds", what, durations);
    }
}

/// Whether a replica is at work that was asked for its description: it has answered, or too many ask and its turns go
/// on. One whose queue is full because it hangs says `Busy`, too.
fn is_at_work(answer: Option<&Option<Outcome>>, since_turn: Option<Duration>) -> bool {
    match answer {
        Some(Some(Outcome::Status(_) | Outcome::OutOfService(_))) => true,
        Some(Some(Outcome::Busy { .. })) | None => since_turn.is_some_and(|since| since < LIVE_WITHIN),
        Some(_) => false,
    }
}

/// Whether a follower keeps up with its leader, or why not.
fn follows(metrics: &ReplicaMetrics) -> Result<(), String> {
    if metrics.since_intake.is_some_and(|since| since < INTAKE_WITHIN) {
        return Err("takes in a snapshot".to_owned());
    }
    if metrics.since_caught_up.is_some_and(|since| since < CAUGHT_UP_WITHIN) {
        return Ok(());
    }
    let lag = metrics.leader_commit.0.saturating_sub(metrics.applied.0);
    match metrics.since_leader {
        Some(since) if since >= CAUGHT_UP_WITHIN => Err(format!("has not heard its leader for {} s", since.as_secs())),
        Some(_) if lag > 0 => Err(format!("lacks {lag} entries, and has for {} s", CAUGHT_UP_WITHIN.as_secs())),
        _ => Err("has not yet heard how far its group is".to_owned()),
    }
}

async fn probe(served: &Served) -> Result<(), String> {
    let read = served.replica.ask(Request::Read { query: served.probe.clone() });
    match timeout(PROBE_TIMEOUT, read).await {
        Ok(Some(Outcome::Answer(_))) => Ok(()),
        Ok(Some(Outcome::NotLeader(_))) => Err("has just lost its leadership".to_owned()),
        Ok(Some(outcome)) => Err(format!("a read did not go through: {outcome:?}")),
        Ok(None) => Err("a read did not go through: the replica ends".to_owned()),
        Err(_) => Err(format!("a read did not go through within {} s", PROBE_TIMEOUT.as_secs())),
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
    let what = "For how long the disk has been at work on its present batch; 0 while it has none";
    families.gauge_f64("smr_sync_under_way_seconds", what, metrics.sync_under_way.as_secs_f64());
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
    families.counter("smr_elections", "In how many terms it was a candidate", metrics.elections);
    families.counter("smr_elections_won", "In how many terms it became the leader", metrics.elections_won);
    if let Some(count) = metrics.checkpoint_count {
        let what = "In a passive group: the number of the primary's next checkpoint, or of a backup's last one";
        families.gauge("smr_checkpoint_count", what, count);
    }
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

/// What the process costs has metrics of its own.
fn add_pace(families: &mut Families, pace: &PaceReport) {
    let what = "Whether it leaves leading to others as long as they can: it has found its own disk to be slow";
    families.gauge("smr_stands_back", what, u64::from(pace.stands_back));
    // Those without a peer are there from the beginning. What is not known yet is no ground for an alarm.
    let unknown = |metric| Measure { metric, peer: None, normal: None, present: None };
    let own = Metric::ALL.into_iter().filter(|metric| metric.is_duration() && *metric != Metric::Network);
    let own = own.map(|metric| pace.of(metric).copied().unwrap_or(unknown(metric)));
    let ways = pace.measures.iter().copied().filter(|measure| measure.metric == Metric::Network);
    let samples = own.chain(ways).flat_map(|Measure { metric, peer, normal, present }| {
        let peer = peer.map_or(String::new(), |peer| peer.to_string());
        [("present", present), ("normal", normal.or(present))].map(|(window, level)| {
            let phase = metric.name().to_owned();
            let labels = vec![("phase", phase), ("peer", peer.clone()), ("window", window.to_owned())];
            let seconds = level.map_or(0.0, |level| Duration::from_micros(level.average).as_secs_f64());
            (labels, seconds)
        })
    });
    let what = "What each part takes, in the last seconds and normally; 0 if there is nothing to measure";
    families.gauges_f64("smr_pace_seconds", what, samples);
}

#[cfg(test)]
mod tests {
    use smr::entry::Index;

    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(100));

    fn metrics(applied: u64, commit: u64, since_caught_up: Option<Duration>) -> ReplicaMetrics {
        let (applied, leader_commit) = (Index(applied), Index(commit));
        ReplicaMetrics { applied, leader_commit, since_caught_up, since_leader: SHORT, ..ReplicaMetrics::default() }
    }

    #[test]
    fn follower_is_ready_only_if_it_has_lately_reached_what_its_leader_said() {
        assert_eq!(follows(&metrics(90, 100, SHORT)), Ok(()), "under load it is never quite there");
        let late = Some(CAUGHT_UP_WITHIN);
        assert!(follows(&metrics(90, 100, late)).unwrap_err().starts_with("lacks 10 entries"));
        assert!(follows(&metrics(0, 100_000, None)).unwrap_err().starts_with("lacks 100000 entries"));
        assert!(follows(&metrics(0, 0, None)).unwrap_err().contains("how far"));
        let silent = ReplicaMetrics { since_leader: late, ..metrics(100, 100, late) };
        assert!(follows(&silent).unwrap_err().contains("has not heard its leader"));
        let installs = ReplicaMetrics { since_intake: SHORT, ..metrics(100, 100, SHORT) };
        assert!(follows(&installs).unwrap_err().contains("snapshot"));
        let given_up = ReplicaMetrics { since_intake: Some(INTAKE_WITHIN), ..metrics(100, 100, SHORT) };
        assert_eq!(follows(&given_up), Ok(()));
    }

    #[test]
    fn busy_or_late_is_at_work_as_long_as_turns_go_on() {
        let busy = Some(Outcome::Busy { retry_after_ms: 1 });
        for answer in [Some(&busy), None] {
            assert!(is_at_work(answer, SHORT));
            assert!(!is_at_work(answer, Some(LIVE_WITHIN)), "its queue is full because it hangs");
            assert!(!is_at_work(answer, None));
        }
        assert!(is_at_work(Some(&Some(Outcome::OutOfService("ends".to_owned()))), None));
        assert!(!is_at_work(Some(&None), SHORT), "it has ended");
    }
}
