//! One replica of this host, as its agent knows it.

use std::fmt;

use madkv_proto::agent::{LaunchCommand, ProcessId};
use madkv_proto::control::{ADDRESS_MAX_BYTES, Condition, DETAIL_MAX_BYTES, ReplicaReport, Service, bounded};
use madkv_proto::map::REPLICAS_MAX;
use serde::{Deserialize, Serialize};
use smr::id::Incarnation;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::placement::peers_of;

/// Which replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) partition: u16,
    pub(super) replica: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}.{}", self.partition, self.replica)
    }
}

/// A connection of a replica to this agent; never used twice.
pub(super) type ConnectionId = u64;

/// What is going on with a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being launched, and has no process yet.
    Launching,
    /// It was launched, and has not registered yet.
    Starting,
    /// It was registered with an agent before this one, runs, and has not dialled this one yet.
    Returning,
    /// It is registered, and runs.
    Running,
    /// It runs, and does not answer.
    Hung,
    /// It was told to end, or killed; what follows is in [`Replica::then`].
    Ending,
    /// It has ended, and is not launched again by this agent alone.
    Dead {
        /// How it ended.
        reason: String,
    },
    /// It has ended, and is launched again later.
    BackingOff {
        /// How it ended.
        reason: String,
        /// When it is launched.
        until: Instant,
    },
    /// Someone ended it in order: a person, or the managers. It is launched again by neither.
    Stopped,
}

/// What follows when the process of a replica is gone; while it is being launched, what the managers have ordered
/// meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It ended by itself: how it ended decides.
    Judge,
    /// It did not answer, and was killed: as if it had crashed.
    Replace,
    /// It is launched at once, for the managers want it, with its directory or with an empty one.
    Launch {
        /// Whether its directory is set aside before.
        fresh: bool,
    },
    /// It is launched no more: its place was given to another host.
    Retire,
}

/// A replica of this host.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) name: Name,
    /// Its number on consoles.
    pub(super) console: u32,
    /// How it is launched; `None` if no one has ever said.
    pub(super) command: Option<LaunchCommand>,
    pub(super) incarnation: Option<Incarnation>,
    /// Its process, until that is gone for certain.
    pub(super) process: Option<ProcessId>,
    /// Whether this agent sees its process, and can end it.
    pub(super) is_visible: bool,
    pub(super) connection: Option<ConnectionId>,
    pub(super) phase: Phase,
    pub(super) then: Then,
    /// It has said that it ends because it was asked to.
    pub(super) said_farewell: bool,
    /// What it said of itself last.
    pub(super) service: Option<Service>,
    /// When it last said that it is in service.
    pub(super) in_service_at: Option<Instant>,
    /// Whether it counts as a member: from its first answer until it is dead or hung.
    pub(super) is_added: bool,
    /// Whether it may be killed if it does not answer: not before it is known to have this agent's address.
    pub(super) may_be_replaced: bool,
    /// When it was heard last, or anything else began that it has to answer soon; later by as much as this agent was
    /// held up itself.
    pub(super) heard: Instant,
    /// When it is killed if it does not end in order.
    pub(super) killed_at: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) launches: u32,
    /// Whether its directory may be to blame for its last end.
    pub(super) directory_suspect: bool,
    /// Launches in a row that did not come as far as registering in time.
    pub(super) slow_starts: u32,
    /// The last order that was carried out, or tried.
    pub(super) order: u64,
    /// The order that is being carried out.
    pub(super) order_under_way: Option<u64>,
    /// How the last order failed, or what else a person may want to know.
    pub(super) detail: String,
}

impl Replica {
    /// One of which nothing is known but its name.
    pub(super) fn new(name: Name, now: Instant) -> Replica {
        Replica {
            name,
            console: 0,
            command: None,
            incarnation: None,
            process: None,
            is_visible: true,
            connection: None,
            phase: Phase::Dead { reason: "it has never run on this host".to_owned() },
            then: Then::Judge,
            said_farewell: false,
            service: None,
            in_service_at: None,
            is_added: false,
            may_be_replaced: true,
            heard: now,
            killed_at: None,
            backoff: Backoff::default(),
            launches: 0,
            directory_suspect: false,
            slow_starts: 0,
            order: 0,
            order_under_way: None,
            detail: String::new(),
        }
    }

    /// The order under way has come to its end.
    pub(super) fn order_is_over(&mut self, detail: &str) {
        if let Some(order) = self.order_under_way.take() {
            self.order = order;
            self.detail = bounded(detail, DETAIL_MAX_BYTES).to_owned();
        }
    }

    /// Its launch has come to its end. Returns what was ordered meanwhile, if that is still to be done.
    pub(super) fn launch_is_over(&mut self) -> Then {
        let then = std::mem::replace(&mut self.then, Then::Judge);
        if then != Then::Retire {
            self.order_is_over("");
        }
        then
    }

    /// Whether someone uses its directory, or has served from it since then: it must not be taken away.
    pub(super) fn uses_directory_since(&self, then: Instant) -> bool {
        self.process.is_some() || self.phase == Phase::Launching || self.in_service_at.is_some_and(|at| at >= then)
    }

    /// For the managers.
    pub(super) fn report(&self) -> ReplicaReport {
        let reason = |reason: &str| bounded(reason, DETAIL_MAX_BYTES).to_owned();
        let condition = match &self.phase {
            Phase::Launching | Phase::Starting | Phase::Returning => Condition::Starting,
            Phase::Running => match &self.service {
                Some(service) => Condition::Alive { service: service.clone() },
                None => Condition::Starting,
            },
            Phase::Hung => Condition::Hung,
            Phase::Ending if self.then == Then::Replace => Condition::Hung,
            Phase::Ending => Condition::Dead { reason: "it is being ended".to_owned() },
            Phase::Dead { reason: why } => Condition::Dead { reason: reason(why) },
            Phase::BackingOff { reason: why, .. } => Condition::BackingOff { reason: reason(why) },
            Phase::Stopped => Condition::Stopped,
        };
        ReplicaReport {
            partition: self.name.partition,
            replica: self.name.replica,
            incarnation: self.incarnation,
            condition,
            launches: self.launches,
            order: self.order,
            directory_suspect: self.directory_suspect,
            // As many and as long as managers take.
            peers: self.command.as_ref().map(peers_of).filter(|peers| are_sensible(peers)).unwrap_or_default(),
            detail: self.detail.clone(),
        }
    }
}

fn are_sensible(peers: &[String]) -> bool {
    peers.len() < REPLICAS_MAX && peers.iter().all(|peer| peer.len() <= ADDRESS_MAX_BYTES)
}
