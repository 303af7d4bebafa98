//! Whether a member's own disk keeps up with what its group commits.
//!
//! A quorum may do without the leader's copy, so a leader whose syncs are slow (and never hang, see `disk_stall_us`)
//! would keep its role for ever and hold the group up with everything that waits for its own disk. How long a single
//! write takes tells little: a large batch on a sound disk takes long too. What counts is whether this disk has what
//! the *others* had made durable a moment ago, and whether that stays so for seconds.
//!
//! A member that has just started takes in what it lacks as fast as its disk can, and is behind by what is on its way
//! there: that says nothing of the disk. So it looks only once it was level.
//!
//! Every member looks, because one whose disk is slow should not come to lead in the first place: after it has handed
//! over it stands for election only after the others had their chance, until its disk was seen to keep up for as long
//! as it had to lag (E21). It does stand in the end: it may be the only one that has all that is committed.

use std::collections::VecDeque;

use super::settings::Settings;
use super::{Raft, Role};
use crate::entry::Index;
use crate::protocol::Time;

/// For how long after its first look a member may take to become level, in microseconds. One that takes longer counts
/// all the same: its disk may be what keeps it from that.
const CATCH_UP_US: u64 = 30_000_000;

/// A member's look at its own disk: a leader's once for each round of heartbeats, a follower's once for each that it
/// hears.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskLag {
    /// What was committed at earlier looks, oldest first. The first one is `disk_lag_us` old, once there are that many;
    /// so these are about as many as heartbeats fit into that time.
    commits: VecDeque<(Time, Committed)>,
    /// When it looked for the first time.
    began: Option<Time>,
    /// It was level once: it had everything that the group had committed a moment before.
    was_level: bool,
    /// Since when each look has found the disk to lag.
    since: Option<Time>,
    /// It was found slow. For how long since it last lagged looks have found it to keep up while the group wrote, in
    /// microseconds.
    kept_up_us: Option<u64>,
}

/// How far the group is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    /// What is known to be committed of what the member has in memory.
    pub(super) here: Index,
    /// What is known to be committed at all.
    pub(super) anywhere: Index,
}

impl From<Index> for Committed {
    fn from(commit: Index) -> Committed {
        Committed { here: commit, anywhere: commit }
    }
}

impl DiskLag {
    /// Looks: the log is `durable` on this disk, and the group is as far as `commit` says. True if the disk has lagged
    /// for long enough that the group is better off with another leader; then it begins to count again.
    pub(super) fn look(
        &mut self,
        now: Time,
        durable: Index,
        commit: impl Into<Committed>,
        settings: &Settings,
    ) -> bool {
        let commit: Committed = commit.into();
        let since_last_us = self.commits.back().map(|(at, _)| now.since_us(*at));
        // Heartbeats that were held up come all at once, and reads have rounds of their own.
        if since_last_us.is_some_and(|us| us < settings.heartbeat_us / 2) {
            return false;
        }
        self.commits.push_back((now, commit));
        let is_old = |at: &Time| now.since_us(*at) >= settings.disk_lag_us;
        while self.commits.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.commits.pop_front();
        }
        let before = self.commits.front().filter(|(at, _)| is_old(at)).map(|(_, commit)| *commit);
        let began = *self.began.get_or_insert(now);
        let is_level = commit.here >= commit.anywhere && before.is_some_and(|before| durable >= before.anywhere);
        self.was_level |= is_level || now.since_us(began) >= CATCH_UP_US;
        let lags = self.was_level && before.is_some_and(|before| durable < before.here);
        let since = *self.since.get_or_insert(now);
        if !lags {
            self.since = None;
        }
        let gives_way = lags && now.since_us(since) >= settings.disk_lag_timeout_us;
        if gives_way {
            self.since = None;
        }
        if lags && (gives_way || self.is_slow()) {
            self.found_slow();
        } else if let (Some(kept_up_us), Some(before)) = (&mut self.kept_up_us, before)
            && durable >= before.here
            && before.here < commit.here
        {
            // An idle disk proves nothing, nor does a long silence.
            *kept_up_us += since_last_us.unwrap_or(0).min(settings.disk_lag_us);
            if *kept_up_us >= settings.disk_lag_timeout_us {
                self.kept_up_us = None;
            }
        }
        gives_way
    }

    /// Its disk is taken for a slow one until it is seen to keep up.
    pub(super) fn found_slow(&mut self) {
        self.kept_up_us = Some(0);
    }

    /// Whether it was found slow, and has not kept up for long enough since.
    pub(super) fn is_slow(&self) -> bool {
        self.kept_up_us.is_some()
    }

    /// A leader begins: that its disk lagged before says nothing of how it leads, but it stays a slow one.
    pub(super) fn begin_again(&mut self) {
        *self = DiskLag { kept_up_us: self.kept_up_us, was_level: true, ..DiskLag::default() };
    }
}

impl Raft {
    /// A follower looks at its own disk. What its commit index says is durable with a quorum, and in its log in memory.
    pub(super) fn look_at_disk(&mut self) {
        if let Role::Follower(_) = self.role {
            let commit = Committed { here: self.commit, anywhere: self.leader.commit };
            self.disk_lag.look(self.now, self.out.durable(), commit, &self.settings);
        }
    }

    /// A leader looks at the others' disks, as far as their acknowledgements show them: it hands over to one whose disk
    /// keeps up, if it can choose.
    pub(super) fn look_at_their_disks(&mut self) {
        let (now, commit) = (self.now, self.commit);
        let Role::Leader(leader) = &mut self.role else { return };
        for progress in leader.peers.values_mut() {
            if progress.heard_at.is_some_and(|at| now.since_us(at) < self.settings.election_timeout_us) {
                progress.disk_lag.look(now, progress.match_index, commit, &self.settings);
            } else {
                // Of one that is away nothing is known. When it is back it catches up at first.
                progress.disk_lag = DiskLag::default();
            }
        }
    }

    /// How much longer than others this member waits before it stands because its leader's connection broke, in
    /// microseconds: many times what they need to ask each other.
    pub(super) fn stands_back_us(&self) -> u64 {
        if self.disk_lag.is_slow() { self.settings.election_timeout_us } else { 0 }
    }

    /// How long a follower waits for its leader to speak, in microseconds. Those who stand back let all others'
    /// timeouts pass first, which are below 2 T.
    pub(super) fn patience_us(&self) -> u64 {
        self.timeout_us + 2 * self.stands_back_us()
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

    /// The state after looks at a disk that is this many looks behind at each of them.
    fn seen(behind: &[u64]) -> DiskLag {
        let mut lag = DiskLag::default();
        for (look, behind) in (0..).zip(behind) {
            let durable = Index(10 * u64::saturating_sub(look, *behind));
            lag.look(Time(look * HEARTBEAT_US), durable, Index(10 * look), &Settings::default());
        }
        lag
    }

    // covers E21 D12
    #[test]
    fn disk_found_slow_stays_so_until_it_has_kept_up_for_as_long_as_it_had_to_lag() {
        let looks = (Settings::default().disk_lag_timeout_us / HEARTBEAT_US) as usize;
        let slow = vec![10; looks + 10];
        assert!(seen(&slow).is_slow());
        let after = |sound: usize| [slow.clone(), vec![0; sound]].concat();
        assert!(seen(&after(looks - 2)).is_slow());
        assert!(!seen(&after(looks + 2)).is_slow());
        let again = [after(looks - 2), vec![10; 5], vec![0; looks - 2]].concat();
        assert!(seen(&again).is_slow(), "one moment in between, and the time begins again");
    }

    #[test]
    fn idle_disk_that_was_slow_is_not_known_to_be_sound() {
        let settings = Settings::default();
        let mut lag = DiskLag::default();
        lag.found_slow();
        for look in 0..1000 {
            lag.look(Time(look * HEARTBEAT_US), Index(7), Index(7), &settings);
        }
        assert!(lag.is_slow());
        lag.begin_again();
        assert!(lag.is_slow(), "nor does it become sound by leading");
    }

    /// The state after a member has caught up with a group that is far ahead, for as many looks: the log in memory
    /// grows by a thousand entries between two of them, and the disk is five looks behind.
    fn catching_up(looks: u64) -> DiskLag {
        let mut lag = DiskLag::default();
        for look in 0..looks {
            let commit = Committed { here: Index(1_000 * look), anywhere: Index(10_000_000) };
            let durable = Index(1_000 * look.saturating_sub(5));
            assert!(!lag.look(Time(look * HEARTBEAT_US), durable, commit, &Settings::default()));
        }
        lag
    }

    // covers E21
    #[test]
    fn disk_of_a_member_that_catches_up_after_its_start_is_not_slow_for_that() {
        let settings = Settings::default();
        let looks = 2 * settings.disk_lag_timeout_us / HEARTBEAT_US;
        let mut lag = catching_up(looks);
        assert!(!lag.is_slow());
        // It has all by now, and the disk has, too. What it shows from here on counts.
        let level = Index(10_000_000);
        lag.look(Time(looks * HEARTBEAT_US), level, level, &settings);
        lag.look(Time((looks + 5) * HEARTBEAT_US), level, level, &settings);
        for look in looks + 6..2 * looks {
            let commit = Index(10_000_000 + look);
            lag.look(Time(look * HEARTBEAT_US), level, commit, &settings);
        }
        assert!(lag.is_slow());
    }

    #[test]
    fn member_that_never_becomes_level_is_looked_at_in_the_end() {
        let most = (CATCH_UP_US + Settings::default().disk_lag_timeout_us) / HEARTBEAT_US;
        assert!(catching_up(most - 10).kept_up_us.is_none());
        let mut lag = catching_up(most - 10);
        for look in most - 10..most + 10 {
            let commit = Committed { here: Index(1_000 * look), anywhere: Index(10_000_000) };
            lag.look(Time(look * HEARTBEAT_US), Index(1_000 * (look - 5)), commit, &Settings::default());
        }
        assert!(lag.is_slow());
    }

    // covers E18 I17
    #[test]
    fn heartbeats_that_come_at_once_are_one_look() {
        let mut lag = DiskLag::default();
        for _ in 0..10_000 {
            assert!(!lag.look(Time(5_000_000), Index(0), Index(9), &Settings::default()));
        }
        assert_eq!(lag.commits.len(), 1);
    }
}
