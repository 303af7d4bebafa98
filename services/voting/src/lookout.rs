//! Looks what this server is at the moment, primary or backup, and how it is with the other one.
//!
//! The replica says so: who comes first in the managers' present epoch is the primary. What is found out here is for
//! clients and for what a primary does besides. Nothing that must not happen twice rests on it: whoever takes itself
//! for the primary and is not any more can commit nothing.

use std::time::Duration;

use smr::id::ReplicaId;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::{ReplicaStatus, Role, ServiceState};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::state::Progress;
use crate::words::{Backup, Situation};

/// How often it looks, in milliseconds. A change of the ballots is seen at once.
const LOOK_MS: u64 = 25;

/// What it looks at.
#[derive(Debug)]
pub struct Lookout {
    /// Where each replica serves clients.
    pub servers: [String; 2],
    /// How far the ballots are.
    pub progress: watch::Receiver<Progress>,
    /// Whether a backup that was started again is not heard yet.
    pub is_starting: watch::Receiver<bool>,
}

impl Lookout {
    /// Looks as long as the process lives. `situation` is `None` while this server is the backup. `say` hears what
    /// changes.
    pub async fn run(mut self, replica: ReplicaHandle, situation: watch::Sender<Option<Situation>>, say: fn(&str)) {
        loop {
            if let Some(Outcome::Status(status)) = replica.ask(Request::Status).await {
                let now = self.situation(&status);
                let shown = |situation: &Option<Situation>| situation.as_ref().map(ToString::to_string);
                let before = situation.borrow().clone();
                if shown(&before) != shown(&now) {
                    say(&shown(&now).unwrap_or_else(|| "is the backup".to_owned()));
                }
                situation.send_if_modified(|known| {
                    let is_new = *known != now;
                    *known = now;
                    is_new
                });
            }
            tokio::select! {
                changed = self.progress.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep(Duration::from_millis(LOOK_MS)) => {}
            }
        }
    }

    fn situation(&self, status: &ReplicaStatus) -> Option<Situation> {
        if status.role != Role::Leader || status.service_state != ServiceState::InService {
            return None;
        }
        let (own, other) = (status.node.name, ReplicaId(1 - status.node.name.0.min(1)));
        let address = |name: ReplicaId| self.servers[usize::from(name.0.min(1))].clone();
        let is_there = |name| status.voters.iter().any(|node| node.name == name);
        let backup = if is_there(other) {
            Backup::Ready { address: address(other) }
        } else if status.learners.iter().any(|node| node.name == other) {
            Backup::Joining
        } else if *self.is_starting.borrow() {
            Backup::Starting
        } else {
            Backup::Alone
        };
        let ballot = self.progress.borrow().open;
        Some(Situation { epoch: status.term.0, primary: address(own), backup, ballot })
    }
}
