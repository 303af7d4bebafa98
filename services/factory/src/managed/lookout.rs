//! Looks who the primary is at the moment.
//!
//! The replica says so: who comes first in the managers' present epoch is the primary. Nothing that must not happen
//! twice rests on it: whoever takes itself for the primary and is not any more can commit nothing.

use std::time::Duration;

use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::{ReplicaStatus, Role, ServiceState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::words::ServerId;

/// How often it looks, in milliseconds.
pub const LOOK_MS: u64 = 20;

/// How things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The managers' epoch; 0 before the first.
    pub epoch: u64,
    /// The primary, if one is known.
    pub primary: Option<ServerId>,
    /// Whether this factory is.
    pub is_primary: bool,
    /// Whether this factory is a member that has everything: one that can be the primary.
    pub is_member: bool,
    /// Since when the epoch is known here.
    pub since: Instant,
}

impl Situation {
    /// Before anything is known.
    pub fn unknown() -> Situation {
        Situation { epoch: 0, primary: None, is_primary: false, is_member: false, since: Instant::now() }
    }

    fn after(before: Situation, status: &ReplicaStatus) -> Situation {
        let is_in_service = status.service_state == ServiceState::InService;
        let epoch = status.term.0;
        Situation {
            epoch,
            primary: status.leader.map(|node| ServerId(u32::from(node.name.0))),
            is_primary: is_in_service && status.role == Role::Leader,
            is_member: is_in_service && status.voters.contains(&status.node),
            since: if epoch == before.epoch { before.since } else { Instant::now() },
        }
    }

    fn line(&self, id: ServerId) -> String {
        match self.primary {
            Some(_) if self.is_primary => format!("server {id} is the production factory in epoch {}", self.epoch),
            Some(primary) => {
                format!("server {id} is idle: server {primary} is the production factory in epoch {}", self.epoch)
            }
            None => format!("server {id} knows of no production factory in epoch {}", self.epoch),
        }
    }
}

/// Looks as long as the process lives; `say` hears what changes.
pub async fn look(id: ServerId, replica: ReplicaHandle, situation: watch::Sender<Situation>, say: fn(&str)) {
    loop {
        if let Some(Outcome::Status(status)) = replica.ask(Request::Status).await {
            let before = *situation.borrow();
            let now = Situation::after(before, &status);
            if now != before {
                if now.epoch > 0 && now.line(id) != before.line(id) {
                    say(&now.line(id));
                }
                situation.send_replace(now);
            }
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
