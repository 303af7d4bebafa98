//! Heartbeats between the two replicas, on a thread of their own with a connection of its own.
//!
//! Each asks the other at each interval, and takes an answer for a heartbeat. Without any for some intervals in a row
//! the other one counts as dead. What follows from that is to be started again, if this is the primary: a silent link
//! looks the same, so who is the primary is decided by the managers alone.

use std::thread;
use std::time::Duration;

use madkv_proto::map::ClusterMap;
use smr::codec;
use smr::id::ClusterId;
use smr_service::dial::Dialled;
use smr_service::frames::{ClientRequest, ClientResponse};
use smr_service::process::Fatal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::words::{Ask, Said, service};

/// Whether the other replica is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It has not been heard yet, and not for long enough.
    #[default]
    Unknown,
    /// It has answered lately.
    Alive,
    /// It has missed enough heartbeats to count as dead.
    Dead,
}

/// Whom to ask, and how often.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The partition that the managers' layout has for the group.
    pub partition: u16,
    /// This replica.
    pub from: u16,
    /// Where the other one answers.
    pub other: String,
    /// The cluster that it must be of.
    pub cluster: ClusterId,
    /// The interval.
    pub interval: Duration,
    /// This many without an answer, and it counts as dead.
    pub missed_max: u32,
}

/// What is known after each interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    health: Health,
    missed: u32,
}

impl Count {
    fn after(self, is_heard: bool, missed_max: u32) -> Count {
        let missed = if is_heard { 0 } else { self.missed.saturating_add(1) };
        let health = match (is_heard, missed >= missed_max) {
            (true, _) => Health::Alive,
            (false, true) => Health::Dead,
            (false, false) => self.health,
        };
        Count { health, missed }
    }
}

impl Pulse {
    /// Starts the thread; `say` hears what changes. It ends with the process.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(self, say: fn(&str)) -> Result<watch::Receiver<Health>, Fatal> {
        let failed = |error: std::io::Error| Fatal::Failed(format!("cannot start threads: {error}"));
        let (health, watch) = watch::channel(Health::default());
        // With nothing of the network's threads: if these hang, it still beats.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || runtime.block_on(self.beat(&health, say)))
            .map_err(failed)?;
        Ok(watch)
    }

    async fn beat(self, health: &watch::Sender<Health>, say: fn(&str)) {
        let other = 1 - self.from;
        let mut connection = None;
        let mut count = Count::default();
        for number in 1.. {
            let next = Instant::now() + self.interval;
            let is_heard = matches!(timeout(self.interval, self.ask(&mut connection, number)).await, Ok(Some(())));
            if !is_heard {
                // An answer that comes late must not be taken for the next one.
                connection = None;
            }
            let before = count.health;
            count = count.after(is_heard, self.missed_max);
            match (before, count.health) {
                (Health::Alive | Health::Unknown, Health::Dead) => {
                    let intervals = self.missed_max;
                    say(&format!("no heartbeat of replica {other} for {intervals} intervals: it counts as dead"));
                }
                (Health::Dead, Health::Alive) => say(&format!("replica {other} is heard again")),
                _ => {}
            }
            health.send_replace(count.health);
            sleep_until(next).await;
        }
    }

    async fn ask(&self, connection: &mut Option<Dialled>, number: u64) -> Option<()> {
        let mut other = match connection.take() {
            Some(other) => other,
            None => Dialled::to(&self.other, service(self.partition), Some(self.cluster), self.interval).await.ok()?,
        };
        let ask = Ask::Heartbeat { from: self.from, number };
        let answer = other.ask::<ClusterMap>(ClientRequest::Control(codec::encode(&ask).into())).await.ok()?;
        let ClientResponse::Answer(answer) = answer else { return None };
        let is_answer = matches!(codec::decode(&answer), Ok(Said::Heartbeat { number: of, .. }) if of == number);
        *connection = Some(other);
        is_answer.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_counts_as_dead_after_so_many_misses_in_a_row_and_lives_with_one_answer() {
        let mut count = Count::default();
        let mut after = |heard: &[bool]| {
            for is_heard in heard {
                count = count.after(*is_heard, 3);
            }
            count.health
        };
        assert_eq!(after(&[false, false]), Health::Unknown, "it may just not have started yet");
        assert_eq!(after(&[true]), Health::Alive);
        assert_eq!(after(&[false, false, true, false, false]), Health::Alive, "not in a row");
        assert_eq!(after(&[false]), Health::Dead);
        assert_eq!(after(&[false; 10]), Health::Dead);
        assert_eq!(after(&[true]), Health::Alive);
    }
}
