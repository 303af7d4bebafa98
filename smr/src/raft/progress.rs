//! What a leader knows of one other member, and how much it may send there.

use super::disk_lag::DiskLag;
use super::settings::Settings;
use crate::core_kit::inflight::Inflight;
use crate::core_kit::log::Log;
use crate::entry::{EntryId, Index};
use crate::protocol::Time;

/// See the module. Invariants: match < next; next ≤ the leader's last entry + 1.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The last entry known to be durable there, equal to the leader's. Never falls in a term, unless it was lost. 0 at
    /// first.
    pub(super) match_index: Index,
    /// The next entry to send. Runs ahead of `match_index` by what is on its way.
    pub(super) next_index: Index,
    /// How to send.
    pub(super) pace: Pace,
    /// What is on its way.
    pub(super) inflight: Inflight,
    /// When this leader began to count on the member: for the quorum check before the first sign of life.
    pub(super) since: Time,
    /// The last sign of life in this term.
    pub(super) heard_at: Option<Time>,
    /// The latest heartbeat round that the member answered.
    pub(super) confirmed_round: u64,
    /// When the latest heartbeat was sent whose lease the member granted.
    pub(super) lease_asked_at: Option<Time>,
    /// The highest commit index that it was told.
    pub(super) commit_sent: Index,
    /// The end of the oldest append in flight at the last heartbeat: if it is still in flight at the next one, it may
    /// be lost.
    pub(super) overdue: Option<Index>,
    /// Since when it has been coming back: heard again after a silence, or for the first time, and not level since.
    returning_since: Option<Time>,
    /// Since when it has what the log's entries continue, while it is coming back.
    replicating_since: Time,
    /// When it last got further, by an entry or a piece of a snapshot.
    advanced_at: Time,
    /// Where the log ended at some moment, and the moment: a member that has this much lacks no more than was written
    /// since.
    round: (Index, Time),
    /// The latest moment of which it is known that the member has all that was in the log then.
    level_at: Option<Time>,
    /// The member heals ([`super::healing`]): it is sent to, and counts for nothing.
    pub(super) healing: Option<HealingPeer>,
    /// Whether its disk keeps up, by what it acknowledges.
    pub(super) disk_lag: DiskLag,
}

/// What a leader knows of a member that heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HealingPeer {
    /// Names the start in which it does.
    start: u64,
    /// Its last sign of life.
    heard_at: Time,
}

/// How a leader sends to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Where the logs agree is unknown: one append at a time.
    Probe {
        /// An append was sent and not answered yet.
        asked: bool,
    },
    /// The logs agree: a pipeline.
    Replicate,
    /// The log no longer reaches back to where they agree: a snapshot first.
    Snapshot(SnapshotTransfer),
}

/// Where a snapshot for a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SnapshotTransfer {
    /// The driver was asked to send one.
    Wanted {
        /// The newest snapshot at that time: what is sent ends here or later.
        newest: Index,
    },
    /// It failed; it will be wanted again at the next heartbeat.
    Failed,
    /// It arrived; the member's acknowledgement is awaited.
    Sent {
        /// What it ends with.
        last: EntryId,
        /// When that was.
        at: Time,
    },
}

impl Progress {
    /// Of a member about which nothing is known, in a log that ends at `last`.
    pub(super) fn new(last: Index, now: Time) -> Progress {
        Progress {
            match_index: Index::ZERO,
            next_index: last.next(),
            pace: Pace::Probe { asked: false },
            inflight: Inflight::default(),
            since: now,
            heard_at: None,
            confirmed_round: 0,
            lease_asked_at: None,
            commit_sent: Index::ZERO,
            overdue: None,
            returning_since: None,
            replicating_since: now,
            advanced_at: now,
            round: (last, now),
            level_at: None,
            healing: None,
            disk_lag: DiskLag::default(),
        }
    }

    /// The member was heard, with an answer that only a sound one gives. After a silence of `silence_us` it is coming
    /// back.
    pub(super) fn hear(&mut self, now: Time, silence_us: u64) {
        if self.heard_at.is_none_or(|at| now.since_us(at) >= silence_us) {
            self.returning_since = Some(now);
            (self.replicating_since, self.advanced_at) = (now, now);
        }
        self.heard_at = Some(now);
        self.healing = None;
    }

    /// As if nothing were known of how long it was away.
    pub(super) fn forget_return(&mut self, now: Time) {
        (self.returning_since, self.level_at) = (None, None);
        (self.replicating_since, self.advanced_at, self.round.1) = (now, now, now);
    }

    /// The member got further, by a piece of a snapshot, say.
    pub(super) fn advance(&mut self, now: Time) {
        self.advanced_at = now;
    }

    /// Notes how level the member is with a log that ends with `last`. One that is, and votes, is back.
    fn take_level(&mut self, last: Index, is_voter: bool, now: Time, settings: &Settings) {
        if self.match_index >= self.round.0 {
            self.level_at = Some(if self.match_index == last { now } else { self.round.1 });
            self.round = (last, now);
        }
        if is_voter && self.is_level(last, now, settings) {
            self.returning_since = None;
        }
    }

    /// Whether the member has all that was in the log, which ends with `last`, a moment ago. Measured in time: how many
    /// entries or bytes that is depends on the load, and under a steady one a member never has everything.
    pub(super) fn is_level(&self, last: Index, now: Time, settings: &Settings) -> bool {
        self.match_index == last || self.level_at.is_some_and(|at| now.since_us(at) < settings.level_us)
    }

    /// Whether the log is kept for it, whatever that costs: it is coming back, lives, gets further, and has not taken
    /// too long. One that falls behind while it is there is not held on to like this: it is too slow, and would slow
    /// down everyone.
    pub(super) fn holds_log(&self, now: Time, settings: &Settings) -> bool {
        let within = |at: Time, us: u64| now.since_us(at) < us;
        self.returning_since.is_some_and(|at| within(at, settings.return_us))
            && self.is_alive(now, settings)
            && within(self.advanced_at, settings.return_stall_us)
    }

    fn is_alive(&self, now: Time, settings: &Settings) -> bool {
        self.has_answered() && now.since_us(self.reached_at()) < settings.election_timeout_us
    }

    /// After which entry of a log that starts with `start` the member needs it, as far as is known.
    pub(super) fn needs_after(&self, start: Index, now: Time, settings: &Settings) -> Option<Index> {
        match &self.pace {
            Pace::Snapshot(SnapshotTransfer::Wanted { newest }) => Some(*newest),
            Pace::Snapshot(SnapshotTransfer::Sent { last, .. }) => Some(last.index),
            Pace::Snapshot(SnapshotTransfer::Failed) => None,
            // While it is being asked how far it is, the answer may be: just as far as the log reaches.
            Pace::Probe { .. } | Pace::Replicate => {
                let known = self.match_index > Index::ZERO && self.holds_log(now, settings);
                known.then(|| self.match_index.max(start))
            }
        }
    }

    /// Since when the member has been working off what it lacks of the log, if it is coming back and not level.
    pub(super) fn catching_up_since(&self, last: Index, now: Time, settings: &Settings) -> Option<Time> {
        let catches_up =
            self.pace == Pace::Replicate && self.holds_log(now, settings) && !self.is_level(last, now, settings);
        catches_up.then_some(self.replicating_since)
    }

    /// The member heals, in the start with this name; true if that is news. What it had before it may have no more.
    pub(super) fn begin_healing(&mut self, start: u64, last: Index, now: Time) -> bool {
        let is_news = !self.hear_healing(start, now);
        if is_news {
            let Progress { since, heard_at, confirmed_round, lease_asked_at, .. } = *self;
            let healing = Some(HealingPeer { start, heard_at: now });
            // It is coming back, and needs the log kept like anyone who is.
            let fresh = Progress { returning_since: Some(now), ..Progress::new(last, now) };
            *self = Progress { since, heard_at, confirmed_round, lease_asked_at, healing, ..fresh };
        }
        is_news
    }

    /// A member that heals was heard. False if it is not known to heal, in this start.
    pub(super) fn hear_healing(&mut self, start: u64, now: Time) -> bool {
        match &mut self.healing {
            Some(healing) if healing.start == start => healing.heard_at = now,
            _ => return false,
        }
        true
    }

    /// The last entry that counts as being there.
    pub(super) fn counted(&self) -> Index {
        if self.healing.is_some() { Index::ZERO } else { self.match_index }
    }

    /// Whether it has answered in this term, whatever that counts for.
    pub(super) fn has_answered(&self) -> bool {
        self.heard_at.is_some() || self.healing.is_some()
    }

    /// When it was there for the last time, whatever that counts for.
    pub(super) fn reached_at(&self) -> Time {
        self.healing.map_or(self.alive_at(), |healing| healing.heard_at)
    }

    /// The last sign of life, or when one was first expected.
    pub(super) fn alive_at(&self) -> Time {
        self.heard_at.unwrap_or(self.since)
    }

    /// Back to single steps from `next` on, or from after what is known to match.
    pub(super) fn probe_from(&mut self, next: Index) {
        self.pace = Pace::Probe { asked: false };
        self.next_index = next.max(self.match_index.next());
        self.inflight.restart();
    }

    /// A snapshot has to come first.
    pub(super) fn want_snapshot(&mut self, newest: Index) {
        self.pace = Pace::Snapshot(SnapshotTransfer::Wanted { newest });
        self.inflight.restart();
    }

    /// The member, which votes or not, has `last`, durably. Notes how level it is with `log`.
    pub(super) fn accept_in(&mut self, last: Index, log: &Log, is_voter: bool, now: Time, settings: &Settings) {
        let (before, from_snapshot) = (self.match_index, matches!(self.pace, Pace::Snapshot(_)));
        self.accept(last, log.start().index);
        if self.match_index > before {
            self.advanced_at = now;
        }
        if from_snapshot && self.pace == Pace::Replicate {
            self.replicating_since = now;
        }
        self.take_level(log.last().index, is_voter, now, settings);
    }

    /// The member has `last`, durably.
    fn accept(&mut self, last: Index, log_start: Index) {
        // The question is still open: this answers an append that was sent before it.
        let answers_probe = last.next() >= self.next_index;
        if last > self.match_index {
            self.inflight.widen();
        }
        self.match_index = self.match_index.max(last);
        self.next_index = self.next_index.max(self.match_index.next());
        self.inflight.free_through(self.match_index);
        match self.pace {
            Pace::Replicate => {}
            // It has its snapshot, but the log was cut meanwhile: another one.
            Pace::Snapshot(SnapshotTransfer::Sent { last, .. })
                if (last.index..log_start).contains(&self.match_index) =>
            {
                self.pace = Pace::Snapshot(SnapshotTransfer::Failed);
            }
            Pace::Snapshot(_) if self.match_index < log_start => {}
            Pace::Probe { .. } if !answers_probe => {}
            Pace::Probe { .. } | Pace::Snapshot(_) => {
                self.pace = Pace::Replicate;
                self.next_index = self.match_index.next();
                self.inflight.clear();
            }
        }
    }

    /// The transfer of a snapshot ended, with the one that ends with `last` if it was carried over.
    pub(super) fn snapshot_sent(&mut self, last: Option<EntryId>, now: Time) {
        let Pace::Snapshot(transfer) = &mut self.pace else { return };
        match last {
            None => *transfer = SnapshotTransfer::Failed,
            // The end of an earlier transfer, heard late: the one that is wanted now ends further on.
            Some(last) if matches!(transfer, SnapshotTransfer::Wanted { newest } if last.index < *newest) => {}
            // The member was faster to say that it has it, and the log was cut meanwhile: nothing more is to come,
            // another one is needed.
            Some(last) if last.index <= self.match_index => *transfer = SnapshotTransfer::Failed,
            Some(last) => {
                *transfer = SnapshotTransfer::Sent { last, at: now };
                self.advanced_at = now;
            }
        }
    }

    /// Whether the pipeline has room.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        self.inflight.has_room(settings.inflight_appends_max, settings.inflight_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers I17: what was sent before the question is no answer to it, and the pipeline after a probe begins narrow.
    // Otherwise appends that overtake each other cause a full pipeline each.
    #[test]
    fn accept_behind_a_probe_pipeline_begins_narrow_and_widens_with_what_is_new() {
        let settings = Settings::default();
        let mut progress = Progress::new(Index(20), Time(0));
        progress.accept(Index(20), Index::ZERO);
        progress.accept(Index(30), Index::ZERO);
        progress.probe_from(Index(36));
        progress.pace = Pace::Probe { asked: true };
        progress.accept(Index(33), Index::ZERO);
        assert_eq!((progress.pace.clone(), progress.next_index), (Pace::Probe { asked: true }, Index(36)));
        assert_eq!(progress.match_index, Index(33));
        progress.probe_from(Index(36));
        progress.accept(Index(35), Index::ZERO);
        assert_eq!((progress.pace.clone(), progress.next_index), (Pace::Replicate, Index(36)));
        let room = |progress: &Progress| {
            let mut progress = progress.clone();
            (0..10)
                .take_while(|end| {
                    progress.has_room(&settings) && {
                        progress.inflight.add(Index(90 + end), 1);
                        true
                    }
                })
                .count()
        };
        assert_eq!(room(&progress), 2);
        progress.accept(Index(35), Index::ZERO);
        assert_eq!(room(&progress), 2, "nothing new");
        progress.accept(Index(36), Index::ZERO);
        assert_eq!(room(&progress), 3);
    }

    // covers S19
    #[test]
    fn snapshot_sent_of_an_earlier_transfer_or_of_what_is_there_already_is_not_waited_for() {
        let mut progress = Progress::new(Index(9), Time(0));
        progress.want_snapshot(Index(7));
        progress.snapshot_sent(Some(EntryId::new(5, 1)), Time(1));
        assert_eq!(progress.pace, Pace::Snapshot(SnapshotTransfer::Wanted { newest: Index(7) }), "of an earlier one");
        // The log was cut meanwhile.
        progress.accept(Index(7), Index(8));
        progress.snapshot_sent(Some(EntryId::new(7, 1)), Time(2));
        assert_eq!(progress.pace, Pace::Snapshot(SnapshotTransfer::Failed), "it said so before");
        progress.want_snapshot(Index(8));
        progress.snapshot_sent(Some(EntryId::new(9, 1)), Time(3));
        assert_eq!(progress.pace, Pace::Snapshot(SnapshotTransfer::Sent { last: EntryId::new(9, 1), at: Time(3) }));
    }

    // covers S17: one that is there and slow is not held on to, nor one that stands still, nor one that takes too long.
    #[test]
    fn log_is_held_for_who_was_away_lives_and_gets_further_until_it_is_level() {
        let settings = Settings::default();
        let log = Log::new(EntryId::new(50, 1));
        let mut progress = Progress::new(Index(50), Time(0));
        let mut now = Time(1_000_000);
        let holds = |progress: &Progress, now| progress.holds_log(now, &settings);
        let hear = |progress: &mut Progress, now| progress.hear(now, settings.election_timeout_us);
        assert!(!holds(&progress, now), "not heard yet");
        hear(&mut progress, now);
        assert!(holds(&progress, now));
        for _ in 0..40 {
            now = now.plus_us(100_000);
            hear(&mut progress, now);
        }
        assert!(!holds(&progress, now), "it stands still");
        progress.advance(now);
        assert!(holds(&progress, now), "it gets further");
        assert!(!holds(&progress, now.plus_us(settings.election_timeout_us)), "it is silent");
        progress.accept_in(Index(50), &log, false, now, &settings);
        assert!(holds(&progress, now), "a learner is not back before it votes");
        progress.accept_in(Index(50), &log, true, now, &settings);
        assert!(!holds(&progress, now), "level");
        now = now.plus_us(settings.election_timeout_us);
        hear(&mut progress, now);
        assert!(holds(&progress, now), "it was away again");
        for _ in 0..settings.return_us / 500_000 {
            now = now.plus_us(500_000);
            hear(&mut progress, now);
            progress.advance(now);
        }
        assert!(!holds(&progress, now), "for too long");
    }

    #[test]
    fn accept_late_acknowledgement_never_lowers_match() {
        let mut progress = Progress::new(Index(9), Time(0));
        progress.accept(Index(9), Index::ZERO);
        assert_eq!((progress.match_index, progress.next_index), (Index(9), Index(10)));
        progress.accept(Index(4), Index::ZERO);
        assert_eq!((progress.match_index, progress.next_index), (Index(9), Index(10)));
        progress.probe_from(Index(3));
        assert_eq!(progress.next_index, Index(10), "what matches is not sent again");
    }
}
