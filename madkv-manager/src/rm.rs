//! The replication manager's table: what to do next for a group, by what is recorded and what the leader has seen.
//!
//! Pure, so that each row has a test. Times are how long the present leader has seen something: after an election they
//! begin again, and nothing is decided in haste.
//!
//! | a replica is                           | and                                   | then                |
//! |----------------------------------------|---------------------------------------|---------------------|
//! | in service, starting, uninitialized    |                                       | nothing             |
//! | on a host that has failed              | within the grace period               | nothing             |
//! | on a host that has failed              | longer, and another host has room     | place it there      |
//! | on a host that has failed              | longer, and none has                  | a person            |
//! | ended in order                         |                                       | nothing             |
//! | dead, or hung                          | its agent relaunches, and has not yet | relaunch            |
//! | dead, or hung, or backing off          | its agent does not relaunch           | a person            |
//! | backing off after crashes              | launched in vain again and again      | fresh directory     |
//! | backing off for any other reason       | launched in vain again and again      | a person            |
//! | quarantined, as the recorded member    | not for long                          | nothing: it heals   |
//! | quarantined, as the recorded member    | for long                              | a person            |
//! | quarantined, as a new incarnation      |                                       | readmit             |
//! | the same, on another host              | the map has it elsewhere              | move, then readmit  |
//!
//! # What is never done
//! - Nothing but a relaunch for a replica whose quarantine is *proof of a loss*: its data may be the only copy of what
//!   was lost. It waits for an operator.
//! - A replica gets a fresh directory or is readmitted only while a majority of its group's members is in service
//!   without it. So the last copy stays where it is, no group is founded here, and the group survives as many failures
//!   as before: a readmission puts the new incarnation into the place of the old one in one change.
//! - No second repair in a group while one is under way.

use madkv_proto::control::{Condition, EVENT_TEXT_MAX_BYTES, Service, bounded};

use crate::state::{GroupView, Repair, ReplicaView, Stage, Verdict, forbids_exchange};

/// How long a replica is seen quarantined before it is readmitted, in milliseconds: its agent may know more soon.
pub const QUARANTINED_MS: u64 = 300;
/// How long a member is quarantined, and should heal by itself, before a person is told that it does not, in
/// milliseconds: a large log takes a while.
pub const UNHEALED_MS: u64 = 120_000;
/// How long a replica is down or hung, although its agent relaunches, before the agent is told to, in milliseconds.
pub const DOWN_MS: u64 = 5_000;
/// How long a replica is down before it is given up with its directory, in milliseconds ...
pub const IN_VAIN_MS: u64 = 15_000;
/// ... and how often it was launched since it was in service.
pub const LAUNCHES_IN_VAIN: u32 = 4;
/// How long an agent has for an order, and the replica to come up after it, in milliseconds.
pub const ORDER_MS: u64 = 30_000;
/// How long a readmission may take, in milliseconds. The group's leader gives up by itself before.
pub const READMISSION_MS: u64 = 660_000;
/// How long a replica that is being readmitted may be down, in milliseconds.
pub const NEWCOMER_DOWN_MS: u64 = 20_000;
/// After a repair that came to nothing the next one for that replica waits this long, in milliseconds, and twice as
/// long after each more ...
pub const PAUSE_MIN_MS: u64 = 5_000;
/// ... but never longer than this, in milliseconds.
pub const PAUSE_MAX_MS: u64 = 600_000;

/// A replica, as the leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is recorded.
    pub replica: &'a ReplicaView,
    /// Whether its agent relaunches by itself.
    pub relaunches: bool,
    /// Whether its host counts as failed.
    pub host_has_failed: bool,
    /// For how long the leader has seen it in this [`Phase`], in milliseconds.
    pub for_ms: u64,
}

/// What the leader times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// In service, or about to be.
    Fine,
    /// Its process is gone, or is just being launched.
    Down,
    /// Its process does not answer.
    Hung,
    /// Its data cannot be trusted, so it takes no part in its group.
    Quarantined,
    /// Its host counts as failed.
    Lost,
}

impl Phase {
    /// The phase of a condition.
    pub fn of(condition: &Condition) -> Phase {
        match condition {
            Condition::Alive { service: Service::Quarantined { .. } } => Phase::Quarantined,
            Condition::Alive { .. } => Phase::Fine,
            Condition::Starting | Condition::Dead { .. } | Condition::BackingOff { .. } | Condition::Stopped => {
                Phase::Down
            }
            Condition::Hung => Phase::Hung,
        }
    }
}

/// A group, as the leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// What is recorded.
    pub group: &'a GroupView,
    /// Its replicas of which an agent has told, by number.
    pub replicas: &'a [Seen<'a>],
    /// For how long the leader has seen the open repair at its present decision, in milliseconds.
    pub stage_for_ms: u64,
    /// What the group says of the readmission under way.
    pub readmission: &'a Readmission,
    /// The leader's clock, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// How long a host has to be gone until its replicas are placed elsewhere, in milliseconds.
    pub host_grace_ms: u64,
    /// The agent of a host that has room, and no replica of this group.
    pub spare: Option<u16>,
}

/// How far a readmission is, by the word of the group's leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Readmission {
    /// It has not said.
    #[default]
    Asked,
    /// It has refused, for this reason; it is asked again.
    Refused(String),
    /// It has refused because the replica that it knows is a member. That may still be the old incarnation, of which it
    /// has heard a moment ago, so it is asked again.
    MemberAlready,
    /// The new incarnation is a member in the place of the old one.
    Done,
}

/// What to decide: for which replica, what, and why.
pub type Choice = (u16, Verdict, String);

/// What a replica needs, as far as it alone is concerned.
enum Need {
    Nothing,
    Repair(Stage, String),
    Wait(String),
}

/// What to decide next, if anything.
pub fn choose(sight: &Sight<'_>) -> Option<Choice> {
    if let Some(open) = &sight.group.repairs.open {
        return go_on(sight, open).map(|(verdict, reason)| (open.replica, verdict, reason));
    }
    let needs: Vec<(u16, Need)> = sight.replicas.iter().map(|seen| (seen.replica.place.1, need(sight, seen))).collect();
    // What brings members back comes before what needs them.
    let repairs = needs.iter().filter_map(|(replica, need)| match need {
        Need::Repair(stage, reason) if !is_paused(sight, *replica) => Some((*replica, *stage, reason)),
        _ => None,
    });
    let first = repairs.min_by_key(|(_, stage, _)| match stage {
        Stage::Relaunch => 0,
        Stage::Move | Stage::Readmit => 1,
        Stage::FreshDirectory => 2,
        Stage::Place { .. } => 3,
    });
    if let Some((replica, stage, reason)) = first {
        return Some((replica, Verdict::Repair(stage), reason.clone()));
    }
    let is_known = |replica: u16, reason: &str| {
        let known = sight.group.repairs.waiting.get(&replica);
        known.is_some_and(|known| known == bounded(reason, EVENT_TEXT_MAX_BYTES))
    };
    needs.into_iter().find_map(|(replica, need)| match need {
        Need::Wait(reason) if !is_known(replica, &reason) => Some((replica, Verdict::Wait, reason)),
        _ => None,
    })
}

/// Whether an earlier repair of this replica came to nothing just now.
fn is_paused(sight: &Sight<'_>, replica: u16) -> bool {
    let Some(&(count, at)) = sight.group.repairs.abandoned.get(&replica) else { return false };
    let pause = PAUSE_MIN_MS.saturating_mul(1 << count.saturating_sub(1).min(16)).min(PAUSE_MAX_MS);
    // A clock that was set back must not make it wait for ever.
    sight.now_unix_ms.checked_sub(at).is_some_and(|since| since < pause)
}

fn need(sight: &Sight<'_>, seen: &Seen<'_>) -> Need {
    if seen.host_has_failed {
        return lost(sight, seen);
    }
    match &seen.replica.condition {
        Condition::Starting | Condition::Alive { service: Service::InService | Service::Uninitialized } => {
            Need::Nothing
        }
        Condition::Alive { service: Service::Quarantined { reason, .. } } => quarantined(sight, seen, reason),
        // Planned: no one is surprised by it, and it is no one's to undo.
        Condition::Stopped => Need::Nothing,
        condition if !seen.relaunches => {
            if seen.for_ms < DOWN_MS {
                return Need::Nothing;
            }
            let how = if *condition == Condition::Hung { "hung" } else { "down" };
            Need::Wait(format!("it is {how}, and its agent leaves relaunching to others (--relaunch no)"))
        }
        Condition::BackingOff { reason }
            if seen.for_ms >= IN_VAIN_MS && seen.replica.launches_in_vain >= LAUNCHES_IN_VAIN =>
        {
            if !seen.replica.directory_suspect {
                // A full disk, a port that is taken, arguments: another directory would help nothing.
                return Need::Wait(format!(
                    "however often it is launched it does not come into service, and nothing says that its directory \
                     is to blame: {reason}"
                ));
            }
            let launches = seen.replica.launches_in_vain;
            let why = format!("it was launched {launches} times and did not come into service: {reason}");
            renew(sight, seen, Stage::FreshDirectory, why)
        }
        Condition::Dead { reason } if seen.for_ms >= DOWN_MS => {
            Need::Repair(Stage::Relaunch, format!("it has been down for {} ms: {reason}", seen.for_ms))
        }
        Condition::Hung if seen.for_ms >= DOWN_MS => {
            Need::Repair(Stage::Relaunch, format!("it has not answered its agent for {} ms", seen.for_ms))
        }
        Condition::Dead { .. } | Condition::Hung | Condition::BackingOff { .. } => Need::Nothing,
    }
}

/// A replica whose host counts as failed.
fn lost(sight: &Sight<'_>, seen: &Seen<'_>) -> Need {
    if seen.for_ms < sight.host_grace_ms || !sight.group.is_founded || seen.replica.condition == Condition::Stopped {
        return Need::Nothing;
    }
    match sight.spare {
        Some(agent) => {
            let why = format!("its host has been gone for more than {} ms", sight.host_grace_ms);
            renew(sight, seen, Stage::Place { agent }, why)
        }
        None => Need::Wait("its host is gone, and no other one has room for it (madkv-agent --spare)".to_owned()),
    }
}

fn quarantined(sight: &Sight<'_>, seen: &Seen<'_>, reason: &str) -> Need {
    if seen.replica.loss_proven {
        return renew(sight, seen, Stage::Readmit, String::new());
    }
    let recorded = sight.group.recorded.get(usize::from(seen.replica.place.1)).copied().flatten();
    if !sight.group.is_founded || recorded == seen.replica.incarnation {
        if seen.for_ms < UNHEALED_MS {
            return Need::Nothing;
        }
        return Need::Wait(format!("it is quarantined as the member that it was, and does not heal: {reason}"));
    }
    if seen.for_ms < QUARANTINED_MS {
        return Need::Nothing;
    }
    let stage = if seen.replica.needs_move { Stage::Move } else { Stage::Readmit };
    renew(sight, seen, stage, format!("it is quarantined: {reason}"))
}

/// What replaces a replica's data, unless that must not be.
fn renew(sight: &Sight<'_>, seen: &Seen<'_>, stage: Stage, why: String) -> Need {
    match forbids(sight, seen) {
        Some(because) => Need::Wait(because),
        None => Need::Repair(stage, why),
    }
}

/// Why this replica's data must not be replaced now.
fn forbids(sight: &Sight<'_>, seen: &Seen<'_>) -> Option<String> {
    let GroupView { size, members, .. } = sight.group;
    forbids_exchange(seen.replica.place.1, *size, members, seen.replica.loss_proven)
}

/// What becomes of the repair under way; `None` while there is nothing to do but to wait.
fn go_on(sight: &Sight<'_>, open: &Repair) -> Option<(Verdict, String)> {
    let abandon = |reason: String| Some((Verdict::Abandon, reason));
    let Some(seen) = sight.replicas.iter().find(|seen| seen.replica.place.1 == open.replica) else {
        return abandon("no agent names it".to_owned());
    };
    let is_taken_in = match open.stage {
        // In service, and a member by the word of the group: whichever incarnation it is.
        Stage::Readmit => matches!(sight.readmission, Readmission::Done | Readmission::MemberAlready),
        Stage::Relaunch | Stage::FreshDirectory | Stage::Place { .. } | Stage::Move => true,
    };
    if seen.replica.condition.is_member() && is_taken_in && !seen.host_has_failed {
        let incarnation = seen.replica.incarnation.map_or_else(String::new, |it| format!(" as incarnation {it}"));
        return Some((Verdict::Done, format!("it is in service{incarnation}")));
    }
    let is_elsewhere = matches!(open.stage, Stage::Place { agent } if agent != seen.replica.agent);
    if seen.host_has_failed && !is_elsewhere {
        return abandon("its host counts as failed".to_owned());
    }
    let was_told = seen.replica.order >= open.order;
    let is_late = sight.stage_for_ms >= ORDER_MS;
    let detail = if seen.replica.detail.is_empty() { String::new() } else { format!(": {}", seen.replica.detail) };
    match open.stage {
        Stage::Relaunch => match need(sight, seen) {
            Need::Repair(Stage::Relaunch, _) | Need::Nothing if !is_late => None,
            Need::Repair(Stage::Relaunch, _) | Need::Nothing => {
                let what = if was_told { "it did not come into service" } else { "its agent did not do it" };
                abandon(format!("{what} within {} ms{detail}", sight.stage_for_ms))
            }
            // It must have had a chance since.
            Need::Repair(Stage::FreshDirectory, _) if !is_late => None,
            Need::Repair(stage, reason) => Some((Verdict::Repair(stage), reason)),
            Need::Wait(reason) => Some((Verdict::Wait, reason)),
        },
        Stage::FreshDirectory => match (forbids(sight, seen), Phase::of(&seen.replica.condition)) {
            (Some(because), _) => Some((Verdict::Wait, because)),
            (None, Phase::Quarantined) if was_told && seen.for_ms >= QUARANTINED_MS => {
                Some((Verdict::Repair(Stage::Readmit), "it runs with an empty directory".to_owned()))
            }
            (None, _) if is_late => abandon(format!("it did not come up with an empty directory{detail}")),
            (None, _) => None,
        },
        Stage::Place { .. } => match (forbids(sight, seen), Phase::of(&seen.replica.condition)) {
            (Some(because), _) => Some((Verdict::Wait, because)),
            (None, Phase::Quarantined) if !is_elsewhere && seen.for_ms >= QUARANTINED_MS => {
                Some((Verdict::Repair(Stage::Move), "it runs on its new host".to_owned()))
            }
            (None, _) if is_late && is_elsewhere => abandon("the other host has not launched it".to_owned()),
            (None, _) if is_late => abandon(format!("it did not come up there{detail}")),
            (None, _) => None,
        },
        // The change that goes with it ends in any case: it has its own limits.
        Stage::Move => match forbids(sight, seen) {
            _ if sight.group.is_changing => None,
            Some(because) => Some((Verdict::Wait, because)),
            None if seen.replica.needs_move => abandon("its group does not know it there".to_owned()),
            None => Some((Verdict::Repair(Stage::Readmit), "its group knows where it is".to_owned())),
        },
        Stage::Readmit => {
            if seen.replica.loss_proven
                && let Some(because) = forbids(sight, seen)
            {
                return Some((Verdict::Wait, because));
            }
            if let Some(because) = forbids(sight, seen) {
                return abandon(because);
            }
            let refusal = match sight.readmission {
                Readmission::Refused(why) => format!(": {why}"),
                Readmission::Asked | Readmission::Done | Readmission::MemberAlready => String::new(),
            };
            if matches!(Phase::of(&seen.replica.condition), Phase::Down | Phase::Hung)
                && seen.for_ms >= NEWCOMER_DOWN_MS
            {
                return abandon(format!("it has not been there for {} ms{detail}", seen.for_ms));
            }
            if sight.stage_for_ms >= READMISSION_MS {
                return abandon(format!("it was not taken in within {} ms{refusal}", sight.stage_for_ms));
            }
            None
        }
    }
}
