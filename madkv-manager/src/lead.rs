//! What the manager that leads does besides answering: it judges agents by their silence (GFD), decides what to do for
//! replicas that have failed (RM), and sees to readmissions.
//!
//! All that is decided here is proposed, and counts once it is applied; each proposal names what it rests on, so that
//! one that was overtaken has no effect. What is only in memory here (when an agent was heard, how long a replica has
//! been down) begins again with each election: so a failover of the managers loses nothing and accuses no one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use madkv_proto::control::ControlReply;
use madkv_proto::map::ClusterMap;
use madkv_proto::settings::{GFD_HEARTBEAT_FREQ, HOST_GRACE, definition};
use smr::epoch::GroupKind;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::{Role, ServiceState};
use smr_service::log_sink;

use crate::heard::{Heard, Records, Sign};
use crate::readmit::Readmissions;
use crate::rm::{self, Phase, Seen, Sight};
use crate::state::{Command, Decision, HostView, Place, Query, Reply, Stage, View, console_name, encode};

/// How often the leader looks, in milliseconds.
const LOOK_MS: u64 = 100;
/// And how often while there is no host to judge, or while another manager leads, in milliseconds: each look costs the
/// cluster's processors a little. Below [`STOOD_STILL_MS`].
const IDLE_LOOK_MS: u64 = 500;
/// A look that comes later than this, in milliseconds, shows that this process stood still: what seemed to be the
/// silence of others was its own.
const STOOD_STILL_MS: u64 = 1_000;
/// How long an answer of the own replica may take, in milliseconds.
const ANSWER_MS: u64 = 2_000;
/// An agent that was silent for this many intervals of `gfd_heartbeat_freq` has failed, and its host with it.
pub const SILENT_INTERVALS: u64 = 6;
/// But no sooner than this, in milliseconds: an election of the managers takes a while.
pub const SILENT_MIN_MS: u64 = 2_000;

/// Milliseconds since 1970, by the clock of this machine.
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Does the leader's work whenever this replica leads. Never returns.
pub async fn run(replica: ReplicaHandle, heard: Arc<Heard>, trace: bool) {
    let mut lead: Option<Lead> = None;
    let mut look_ms = LOOK_MS;
    loop {
        tokio::time::sleep(Duration::from_millis(look_ms)).await;
        look_ms = IDLE_LOOK_MS;
        let Some(term) = term_of_lead(&replica).await else {
            lead = None;
            continue;
        };
        if lead.as_ref().is_none_or(|lead| lead.term != term) {
            lead = Some(Lead::new(term));
        }
        let Some(lead) = &mut lead else { continue };
        let Some(Reply::View(view)) = ask(&replica, Request::LocalRead { query: encode(&Query::View) }).await else {
            continue;
        };
        if trace || !view.hosts.is_empty() {
            look_ms = LOOK_MS;
        }
        if trace {
            lead.print_members(&view);
        }
        lead.looks(Instant::now());
        lead.judge_hosts(&replica, &heard, &view).await;
        lead.repair(&replica, &view).await;
    }
}

/// The term in which this replica leads, if it does.
pub(crate) async fn term_of_lead(replica: &ReplicaHandle) -> Option<u64> {
    let asked = tokio::time::timeout(Duration::from_millis(ANSWER_MS), replica.ask(Request::Status)).await;
    let Ok(Some(Outcome::Status(status))) = asked else { return None };
    let leads = status.role == Role::Leader && status.service_state == ServiceState::InService;
    leads.then_some(status.term.0)
}

/// The replica's answer, if it is one of its state.
pub(crate) async fn ask(replica: &ReplicaHandle, request: Request) -> Option<Reply> {
    match tokio::time::timeout(Duration::from_millis(ANSWER_MS), replica.ask(request)).await {
        Ok(Some(Outcome::Answer(answer))) => Some(Reply::decode(&answer)),
        Ok(Some(outcome)) => {
            tracing::debug!(?outcome, "not decided");
            None
        }
        Ok(None) | Err(_) => None,
    }
}

/// Proposes a command. What comes of it shows in the state.
pub(crate) async fn propose(replica: &ReplicaHandle, command: &Command) {
    if let Some(Reply::Control(ControlReply::Refused(why))) =
        ask(replica, Request::Idempotent { command: encode(command) }).await
    {
        tracing::debug!(why, ?command, "not decided");
    }
}

/// What one leader keeps in mind.
struct Lead {
    term: u64,
    /// When it looked last.
    looked_at: Instant,
    /// No one is accused of silence before this.
    accused_from: Instant,
    /// What was recorded of the hosts.
    records: Records,
    /// How long each replica has been seen as it is.
    phases: BTreeMap<Place, (Phase, Instant)>,
    /// Since when each group's open repair has been seen at its decision.
    stages: BTreeMap<u16, (u64, Instant)>,
    readmissions: Readmissions,
    /// What was printed last.
    printed: BTreeMap<u16, Vec<u16>>,
}

impl Lead {
    fn new(term: u64) -> Lead {
        Lead {
            term,
            looked_at: Instant::now(),
            accused_from: Instant::now(),
            records: Records::default(),
            phases: BTreeMap::new(),
            stages: BTreeMap::new(),
            readmissions: Readmissions::default(),
            printed: BTreeMap::new(),
        }
    }

    /// It has what is recorded before it, and judges next. If it has not come to that for long, this process stood
    /// still, wherever it was just then: what it has not heard meanwhile, and for how long it has seen something, says
    /// nothing, and all begins again.
    fn looks(&mut self, now: Instant) {
        let is_late = now.saturating_duration_since(self.looked_at) > Duration::from_millis(STOOD_STILL_MS);
        self.looked_at = now;
        if is_late {
            self.accused_from = now;
            self.phases.clear();
            self.stages.clear();
        }
    }

    /// The members of each group, whenever they have changed.
    fn print_members(&mut self, view: &View) {
        let Some(map) = &view.map else { return };
        for (partition, group) in (0..).zip(&view.groups) {
            if self.printed.get(&partition) == Some(&group.members) {
                continue;
            }
            for who in ["GFD", "RM"] {
                let line = members_line(who, map, partition, &group.members);
                log_sink::message(format_args!("{line}"));
            }
            self.printed.insert(partition, group.members.clone());
        }
    }

    async fn judge_hosts(&mut self, replica: &ReplicaHandle, heard: &Heard, view: &View) {
        let agents: BTreeSet<u16> = view.hosts.iter().map(|host| host.agent).collect();
        heard.keep(|agent| agents.contains(&agent));
        self.records.keep(|agent| agents.contains(&agent));
        let freq_ms = setting(view, GFD_HEARTBEAT_FREQ);
        // Not the present: it may stand still at any moment from here on.
        let now = self.looked_at;
        for &HostView { agent, last, has_failed, .. } in &view.hosts {
            let recorded = self.records.unchanged_since(agent, last, has_failed, now).max(self.accused_from);
            let silence = silence(heard.last(agent), recorded, freq_ms, now);
            if let Some(silent_ms) = silence.filter(|_| !has_failed) {
                propose(replica, &Command::HostSilent { agent, last, silent_ms, at_unix_ms: now_unix_ms() }).await;
            }
        }
    }

    async fn repair(&mut self, replica: &ReplicaHandle, view: &View) {
        let Some(map) = &view.map else { return };
        let now = self.looked_at;
        let seen_places: BTreeSet<Place> = view.replicas.iter().map(|seen| seen.place).collect();
        self.phases.retain(|place, _| seen_places.contains(place));
        for (partition, group) in (0..).zip(&view.groups) {
            // There the members go and come by epochs, or are of another program; agents relaunch them by themselves.
            if group.kind != GroupKind::Raft || !group.service.is_key_value() {
                continue;
            }
            let mut replicas = Vec::new();
            for seen in view.replicas.iter().filter(|seen| seen.place.0 == partition) {
                let host = view.hosts.iter().find(|host| host.agent == seen.agent);
                let host_has_failed = host.is_none_or(|host| host.has_failed);
                let phase = if host_has_failed { Phase::Lost } else { Phase::of(&seen.condition) };
                let since = self.phases.entry(seen.place).or_insert((phase, now));
                if since.0 != phase {
                    *since = (phase, now);
                }
                let for_ms = millis(now.duration_since(since.1));
                replicas.push(Seen {
                    replica: seen,
                    relaunches: host.is_some_and(|host| host.relaunches),
                    host_has_failed,
                    for_ms,
                });
            }
            let open = group.repairs.open.as_ref();
            let readmission = match open {
                Some(open) if open.stage == Stage::Readmit => {
                    self.readmissions.follow(map, partition, open.replica, open.order)
                }
                _ => {
                    self.readmissions.none(partition);
                    rm::Readmission::default()
                }
            };
            let order = open.map_or(0, |open| open.order);
            let stage = self.stages.entry(partition).or_insert((order, now));
            if stage.0 != order {
                *stage = (order, now);
            }
            let sight = Sight {
                group,
                replicas: &replicas,
                stage_for_ms: millis(now.duration_since(stage.1)),
                readmission: &readmission,
                now_unix_ms: now_unix_ms(),
                host_grace_ms: setting(view, HOST_GRACE),
                spare: spare_for(view, partition),
            };
            if let Some((of, verdict, reason)) = rm::choose(&sight) {
                let after = group.repairs.last;
                let decision = Decision { partition, after, replica: of, verdict, reason };
                propose(replica, &Command::Decide { decision, at_unix_ms: now_unix_ms() }).await;
            }
        }
    }
}

/// The value of a setting that is in force.
fn setting(view: &View, name: &str) -> u64 {
    let default = || definition(name).map_or(0, |definition| definition.default);
    view.settings.get(name).unwrap_or_else(default)
}

/// The agent of a host that has room for a replica of a partition, and none of its replicas; the one with the fewest
/// replicas.
fn spare_for(view: &View, partition: u16) -> Option<u16> {
    let replicas_of = |agent: u16| view.replicas.iter().filter(move |replica| replica.agent == agent);
    let can = |host: &&HostView| {
        let is_free = replicas_of(host.agent).all(|replica| replica.place.0 != partition);
        host.has_room && host.relaunches && !host.has_failed && is_free
    };
    view.hosts.iter().filter(can).map(|host| host.agent).min_by_key(|agent| replicas_of(*agent).count())
}

/// For how long an agent has been silent, in milliseconds, if that is too long: since it was heard, or since `since` if
/// that was later.
fn silence(heard: Option<Sign>, since: Instant, freq_ms: u64, now: Instant) -> Option<u64> {
    let heard_at = heard.map_or(since, |sign| sign.at.max(since));
    // It goes by what it was told last, and may have been told the present interval meanwhile: the longer one counts.
    let freq_ms = heard.map_or(freq_ms, |sign| sign.told_ms.max(freq_ms));
    let silent_ms = millis(now.saturating_duration_since(heard_at));
    (silent_ms > silence_limit_ms(freq_ms)).then_some(silent_ms)
}

/// After how much silence an agent's host has failed, in milliseconds.
fn silence_limit_ms(gfd_heartbeat_freq_ms: u64) -> u64 {
    gfd_heartbeat_freq_ms.saturating_mul(SILENT_INTERVALS).max(SILENT_MIN_MS)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `GFD: 2 members: S1, S3`, with the group's name where there are several.
fn members_line(who: &str, map: &ClusterMap, partition: u16, members: &[u16]) -> String {
    let group = if map.partitions.len() > 1 { format!("s{partition}: ") } else { String::new() };
    let names: Vec<String> = members.iter().map(|replica| console_name(map, (partition, *replica))).collect();
    match &names[..] {
        [] => format!("{who}: {group}0 members"),
        [one] => format!("{who}: {group}1 member: {one}"),
        more => format!("{who}: {group}{} members: {}", more.len(), more.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use madkv_proto::control::Condition;
    use smr::id::ClusterId;

    use super::*;
    use crate::state::ReplicaView;

    #[test]
    fn shorter_interval_fails_no_agent_that_was_told_a_longer_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let heard = |told_ms| Some(Sign { at: start, told_ms });
        assert_eq!(silence(heard(10_000), start, 100, at(9_900)), None, "it is not to report yet");
        assert_eq!(silence(heard(10_000), start, 100, at(60_001)), Some(60_001));
        assert_eq!(silence(heard(100), start, 10_000, at(9_900)), None, "the longer one counts at once");
        assert_eq!(silence(heard(100), start, 100, at(SILENT_MIN_MS + 1)), Some(SILENT_MIN_MS + 1));
        assert_eq!(silence(heard(100), at(1_000), 100, at(SILENT_MIN_MS + 1)), None, "accused later");
        assert_eq!(silence(None, start, 100, at(SILENT_MIN_MS)), None);
    }

    #[test]
    fn leader_that_stood_still_wherever_it_was_accuses_no_one_and_begins_again() {
        let mut lead = Lead::new(1);
        let start = lead.looked_at;
        let seen = |lead: &mut Lead, now| {
            lead.phases.insert((0, 1), (Phase::Down, now));
            lead.stages.insert(0, (7, now));
        };
        let at = |ms| start + Duration::from_millis(ms);
        seen(&mut lead, start);
        for ms in [100, 100 + STOOD_STILL_MS] {
            lead.looks(at(ms));
            assert_eq!((lead.phases.len(), lead.stages.len()), (1, 1), "it came in time");
            assert!(lead.accused_from <= at(1) && lead.looked_at == at(ms));
        }
        // Stopped for a minute after it had asked what is recorded, say.
        let woken = at(60_000);
        lead.looks(woken);
        assert_eq!((lead.phases.len(), lead.stages.len(), lead.accused_from), (0, 0, woken));
        let last_heard = Some(Sign { at: start, told_ms: 100 });
        assert_eq!(silence(last_heard, lead.accused_from, 100, lead.looked_at), None);
    }

    #[test]
    fn room_is_looked_for_on_the_emptiest_host_that_has_none_of_the_group() {
        let host = |agent, has_room| HostView {
            agent,
            name: format!("h{agent}"),
            last: (1, 1),
            relaunches: true,
            has_failed: false,
            has_room,
        };
        let replica = |place, agent| ReplicaView {
            place,
            agent,
            condition: Condition::Starting,
            incarnation: None,
            order: 0,
            launches_in_vain: 0,
            loss_proven: false,
            needs_move: false,
            directory_suspect: false,
            detail: String::new(),
        };
        let mut view = View {
            hosts: vec![host(1, true), host(2, false), host(3, true), host(4, true)],
            replicas: vec![replica((0, 0), 1), replica((1, 0), 3), replica((1, 1), 3), replica((1, 2), 4)],
            ..View::default()
        };
        assert_eq!((spare_for(&view, 0), spare_for(&view, 1), spare_for(&view, 2)), (Some(4), Some(1), Some(1)));
        view.hosts[3].has_failed = true;
        assert_eq!(spare_for(&view, 0), Some(3));
        view.hosts[2].relaunches = false;
        assert_eq!(spare_for(&view, 0), None);
    }

    #[test]
    fn members_lines_are_those_of_the_contract() {
        let servers = |count: u16| (0..count).map(|number| format!("h:{}", 1 + number)).collect::<Vec<_>>();
        let one = ClusterMap::deal(ClusterId(1), 3, &servers(3)).unwrap();
        let two = ClusterMap::deal(ClusterId(1), 3, &servers(6)).unwrap();
        assert_eq!(members_line("GFD", &one, 0, &[]), "GFD: 0 members");
        assert_eq!(members_line("RM", &one, 0, &[0]), "RM: 1 member: S1");
        assert_eq!(members_line("GFD", &one, 0, &[0, 2]), "GFD: 2 members: S1, S3");
        assert_eq!(members_line("GFD", &two, 1, &[0, 2]), "GFD: s1: 2 members: S4, S6");
        assert_eq!(members_line("RM", &two, 0, &[]), "RM: s0: 0 members");
    }
}
