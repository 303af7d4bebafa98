//! What a leader knows of one other member, and how much it may send there.

use std::collections::VecDeque;

use super::settings::Settings;
use crate::entry::{EntryId, Index};
use crate::protocol::Time;

/// See the module. Invariants: match < next; next ≤ the leader's last entry + 1.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The last entry known to be durable there, equal to the leader's. Never falls in a term, unless it was lost. 0 at first.
    pub(super) match_index: Index,
    /// The next entry to send. Runs ahead of `match_index` by what is on its way.
    pub(super) next_index: Index,
    /// How to send.
    pub(super) pace: Pace,
    /// What is on its way.
    pub(super) inflight: Inflight,
    /// How many appends may be on their way: 1 after a probe, and one more with each acknowledgement of something new, as TCP's
    /// slow start does it. The limit in the settings is for the steady state. A pipeline at full width right behind a probe
    /// would multiply where messages overtake each other: each rejection of one that came too early restarts it.
    window: usize,
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
    /// The end of the oldest append in flight at the last heartbeat: if it is still in flight at the next one, it may be
    /// lost.
    pub(super) overdue: Option<Index>,
    /// The member heals ([`super::healing`]): it is sent to, and counts for nothing.
    pub(super) healing: Option<HealingPeer>,
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
    Snapshot(Transfer),
}

/// Where a snapshot for a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
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
            window: 1,
            since: now,
            heard_at: None,
            confirmed_round: 0,
            lease_asked_at: None,
            commit_sent: Index::ZERO,
            overdue: None,
            healing: None,
        }
    }

    /// The member heals, in the start with this name; true if that is news. What it had before it may have no more.
    pub(super) fn begin_healing(&mut self, start: u64, last: Index, now: Time) -> bool {
        let is_news = !self.hear_healing(start, now);
        if is_news {
            let Progress { since, heard_at, confirmed_round, lease_asked_at, .. } = *self;
            let healing = Some(HealingPeer { start, heard_at: now });
            let fresh = Progress::new(last, now);
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

    /// The member was heard, with an answer that only a sound one gives.
    pub(super) fn hear(&mut self, now: Time) {
        self.heard_at = Some(now);
        self.healing = None;
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

    /// Back to single steps from `next` on, or from behind what is known to match.
    pub(super) fn probe_from(&mut self, next: Index) {
        self.pace = Pace::Probe { asked: false };
        self.next_index = next.max(self.match_index.next());
        self.restart_pipeline();
    }

    fn restart_pipeline(&mut self) {
        self.inflight.clear();
        self.window = 1;
    }

    /// A snapshot has to come first.
    pub(super) fn want_snapshot(&mut self, newest: Index) {
        self.pace = Pace::Snapshot(Transfer::Wanted { newest });
        self.restart_pipeline();
    }

    /// The member has `last`, durably.
    pub(super) fn accept(&mut self, last: Index, log_start: Index) {
        // The question is still open: this answers an append that was sent before it.
        let answers_probe = last.next() >= self.next_index;
        if last > self.match_index {
            self.window = self.window.saturating_add(1);
        }
        self.match_index = self.match_index.max(last);
        self.next_index = self.next_index.max(self.match_index.next());
        self.inflight.free_through(self.match_index);
        match self.pace {
            Pace::Replicate => {}
            // It has its snapshot, but the log was cut meanwhile: another one.
            Pace::Snapshot(Transfer::Sent { last, .. }) if (last.index..log_start).contains(&self.match_index) => {
                self.pace = Pace::Snapshot(Transfer::Failed);
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

    /// Behind which entry it will need the log once the snapshot on its way has arrived.
    pub(super) fn snapshot_under_way(&self) -> Option<Index> {
        match &self.pace {
            Pace::Snapshot(Transfer::Wanted { newest }) => Some(*newest),
            Pace::Snapshot(Transfer::Sent { last, .. }) => Some(last.index),
            Pace::Snapshot(Transfer::Failed) | Pace::Probe { .. } | Pace::Replicate => None,
        }
    }

    /// Whether the pipeline has room.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        self.inflight.appends.len() < self.window.min(settings.inflight_appends_max)
            && self.inflight.bytes < settings.inflight_bytes_max
    }
}

/// The appends on their way to a member, oldest first. Acknowledgements are cumulative.
#[derive(Clone, Debug, Default)]
pub(super) struct Inflight {
    appends: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflight {
    /// An append that ends with `last` was sent.
    pub(super) fn add(&mut self, last: Index, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `last` arrived.
    pub(super) fn free_through(&mut self, last: Index) {
        while let Some((_, bytes)) = self.appends.pop_front_if(|(end, _)| *end <= last) {
            self.bytes -= bytes;
        }
    }

    /// Where the oldest append on its way ends.
    pub(super) fn oldest(&self) -> Option<Index> {
        self.appends.front().map(|(last, _)| *last)
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// How many appends are on their way.
    pub(super) fn len(&self) -> usize {
        self.appends.len()
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inflight_acknowledged_frees_cumulatively() {
        let mut progress = Progress::new(Index::ZERO, Time(0));
        let settings = Settings { inflight_appends_max: 3, inflight_bytes_max: 100, ..Settings::default() };
        progress.window = 100;
        for last in [2, 4, 6] {
            assert!(progress.has_room(&settings));
            progress.inflight.add(Index(last), 10);
        }
        assert!(!progress.has_room(&settings), "three appends");
        progress.inflight.free_through(Index(5));
        assert_eq!((progress.inflight.len(), progress.inflight.bytes), (1, 10));
        progress.inflight.add(Index(7), 90);
        assert!(!progress.has_room(&settings), "a hundred bytes");
        progress.inflight.free_through(Index(7));
        assert!(progress.inflight.is_empty() && progress.inflight.bytes == 0);
    }

    // covers I17: what was sent before the question is no answer to it, and the pipeline behind a probe begins narrow. Otherwise
    // appends that overtake each other cause a full pipeline each.
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
