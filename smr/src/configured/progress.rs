//! What a member knows of another one that it sends its log to, and how much it may send there.

use super::settings::Settings;
use crate::core_kit::inflight::Inflight;
use crate::core_kit::log::Log;
use crate::entry::Index;
use crate::protocol::Time;

/// See the module. Invariants: match < next; next ≤ the own log's last entry + 1.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The last entry known *in this epoch* to be durable there, equal to the own log's.
    pub(super) match_index: Index,
    /// The next entry to send.
    pub(super) next_index: Index,
    /// How to send.
    pub(super) pace: Pace,
    /// What is on its way.
    pub(super) inflight: Inflight,
    /// The highest commit index that it was told.
    pub(super) commit_sent: Index,
    /// The end of the oldest append in flight at the last heartbeat: if it is still in flight at the next one, it may
    /// be lost.
    overdue: Option<Index>,
    /// Since when it lacks something and has acknowledged nothing new.
    owes_since: Option<Time>,
    /// Where the log ended at some moment, and the moment: who has this much lacks no more than was written since.
    round: (Index, Time),
    /// The latest moment of which it is known that it has all that was in the log then.
    level_at: Option<Time>,
}

/// How to send to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Where the logs agree is unknown: one append at a time.
    Probe {
        /// An append was sent and not answered yet.
        asked: bool,
    },
    /// The logs agree: a pipeline.
    Replicate,
    /// The log no longer reaches back to where they agree: a snapshot first.
    Snapshot {
        /// The driver was asked to send one. If not, the last transfer failed.
        asked: bool,
    },
}

impl Progress {
    /// Of a member about which nothing is known in this epoch, in a log that ends at `last`.
    pub(super) fn new(last: Index, now: Time) -> Progress {
        Progress {
            match_index: Index::ZERO,
            next_index: last.next(),
            pace: Pace::Probe { asked: false },
            inflight: Inflight::default(),
            commit_sent: Index::ZERO,
            overdue: None,
            owes_since: None,
            round: (last, now),
            level_at: None,
        }
    }

    /// Back to single steps from `next` on, or from after what is known to match.
    pub(super) fn probe_from(&mut self, next: Index) {
        self.pace = Pace::Probe { asked: false };
        self.next_index = next.max(self.match_index.next());
        self.inflight.restart();
    }

    /// A snapshot has to come first.
    pub(super) fn want_snapshot(&mut self) {
        self.pace = Pace::Snapshot { asked: true };
        self.inflight.restart();
    }

    /// It has `last`, durably.
    pub(super) fn accept(&mut self, last: Index, log: &Log, now: Time) {
        // The question is still open: this answers an append that was sent before it.
        let answers_probe = last.next() >= self.next_index;
        if last > self.match_index {
            self.inflight.widen();
            self.match_index = last;
            self.owes_since = None;
        }
        self.next_index = self.next_index.max(self.match_index.next());
        self.inflight.free_through(self.match_index);
        match self.pace {
            Pace::Replicate => {}
            Pace::Snapshot { .. } if self.match_index < log.start().index => {}
            Pace::Probe { .. } if !answers_probe => {}
            Pace::Probe { .. } | Pace::Snapshot { .. } => {
                self.pace = Pace::Replicate;
                self.next_index = self.match_index.next();
                self.inflight.clear();
            }
        }
        let end = log.last().index;
        if self.match_index >= self.round.0 {
            self.level_at = Some(if self.match_index == end { now } else { self.round.1 });
            self.round = (end, now);
        }
    }

    /// Notes whether it lacks something; returns since when it has lacked something without getting further.
    pub(super) fn owes(&mut self, end: Index, now: Time) -> Option<Time> {
        if self.match_index >= end {
            self.owes_since = None;
        } else if self.owes_since.is_none() {
            self.owes_since = Some(now);
        }
        self.owes_since
    }

    /// Whether it lacks no more of a log that ends at `end` than was written a moment ago.
    pub(super) fn is_level(&self, end: Index, now: Time, settings: &Settings) -> bool {
        let is_new = self.match_index == Index::ZERO && end > Index::ZERO;
        !is_new && (self.match_index == end || self.level_at.is_some_and(|at| now.since_us(at) < settings.level_us))
    }

    /// Whether the oldest append in flight was in flight at the last call already.
    pub(super) fn is_stuck(&mut self) -> bool {
        let oldest = self.inflight.oldest();
        let stuck = oldest.is_some() && oldest == self.overdue;
        self.overdue = oldest;
        stuck
    }

    /// Whether the pipeline has room.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        self.inflight.has_room(settings.inflight_appends_max, settings.inflight_bytes_max)
    }

    /// For exploration, see [`super::canonical`].
    pub(super) fn forget_time(&mut self, now: Time) {
        (self.owes_since, self.level_at, self.round) = (None, None, (Index::ZERO, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryId;

    #[test]
    fn accept_late_acknowledgement_never_lowers_match() {
        let log = Log::new(EntryId::new(9, 1));
        let mut progress = Progress::new(Index(9), Time(0));
        progress.accept(Index(9), &log, Time(1));
        progress.accept(Index(4), &log, Time(2));
        assert_eq!((progress.match_index, progress.next_index), (Index(9), Index(10)));
    }

    // covers K11
    #[test]
    fn owes_counts_from_the_first_entry_that_is_lacking_and_again_after_each_step() {
        let log = Log::new(EntryId::new(9, 1));
        let mut progress = Progress::new(Index(9), Time(0));
        assert_eq!(progress.owes(Index(9), Time(5)), Some(Time(5)));
        assert_eq!(progress.owes(Index(9), Time(8)), Some(Time(5)));
        progress.accept(Index(7), &log, Time(9));
        assert_eq!(progress.owes(Index(9), Time(10)), Some(Time(10)), "it got further");
        progress.accept(Index(9), &log, Time(11));
        assert_eq!(progress.owes(Index(9), Time(12)), None);
    }
}
