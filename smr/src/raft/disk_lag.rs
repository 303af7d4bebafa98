//! Whether a leader's own disk keeps up with what its group commits.
//!
//! A quorum may do without the leader's copy, so a leader whose syncs are slow (and never hang, see `disk_stall_us`)
//! would keep its role for ever and hold the group up with everything that waits for its own disk. How long a single
//! write takes tells little: a large batch on a sound disk takes long too. What counts is whether the leader's disk has
//! what the *others* had made durable a moment ago, and whether that stays so for seconds.

use std::collections::VecDeque;

use super::settings::Settings;
use crate::entry::Index;
use crate::protocol::Time;

/// A leader's look at its own disk, once for each round of heartbeats.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskLag {
    /// The commit index at earlier looks, oldest first. The first one is `disk_lag_us` old, once there are that many;
    /// so these are about as many as heartbeats fit into that time.
    commits: VecDeque<(Time, Index)>,
    /// Since when each look has found the disk to lag.
    since: Option<Time>,
}

impl DiskLag {
    /// Looks: the log is `durable` here, and committed up to `commit`. True if the disk has lagged for so long that the
    /// group is better off with another leader; then it begins to count again.
    pub(super) fn look(&mut self, now: Time, durable: Index, commit: Index, settings: &Settings) -> bool {
        self.commits.push_back((now, commit));
        let is_old = |at: &Time| now.since_us(*at) >= settings.disk_lag_us;
        while self.commits.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.commits.pop_front();
        }
        let lags = self.commits.front().is_some_and(|(at, commit)| is_old(at) && durable < *commit);
        let since = *self.since.get_or_insert(now);
        if !lags {
            self.since = None;
        }
        let gives_way = lags && now.since_us(since) >= settings.disk_lag_timeout_us;
        if gives_way {
            self.since = None;
        }
        gives_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT_US: u64 = 100_000;

    /// The look at which a leader gives way, if it does within `looks`. The group commits ten entries between two
    /// looks; the disk has what was committed `after` looks ago.
    fn gives_way_at(looks: u64, behind: impl Fn(u64) -> u64) -> Option<u64> {
        let settings = Settings::default();
        let mut lag = DiskLag::default();
        (0..looks).find(|look| {
            let durable = Index(10 * look.saturating_sub(behind(*look)));
            lag.look(Time(look * HEARTBEAT_US), durable, Index(10 * look), &settings)
        })
    }

    // covers E21
    #[test]
    fn disk_that_lags_by_more_than_the_bound_for_seconds_gives_way() {
        let settings = Settings::default();
        let bound = settings.disk_lag_us / HEARTBEAT_US;
        let most = settings.disk_lag_timeout_us / HEARTBEAT_US;
        let at = gives_way_at(100, |_| bound + 1).unwrap();
        assert!((most..most + 2 * bound + 2).contains(&at), "{at}");
    }

    #[test]
    fn disk_that_lags_within_the_bound_keeps_the_role() {
        assert_eq!(gives_way_at(1000, |_| Settings::default().disk_lag_us / HEARTBEAT_US), None);
    }

    #[test]
    fn disk_that_catches_up_now_and_then_keeps_the_role() {
        assert_eq!(gives_way_at(1000, |look| if look % 20 == 0 { 0 } else { 10 }), None);
    }

    // covers I17
    #[test]
    fn looks_that_are_remembered_are_bounded() {
        let mut lag = DiskLag::default();
        for look in 0..1000 {
            lag.look(Time(look * HEARTBEAT_US), Index(look), Index(look), &Settings::default());
        }
        assert!(lag.commits.len() <= 5, "{}", lag.commits.len());
    }
}
