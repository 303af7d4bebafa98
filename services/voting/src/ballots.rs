//! What a primary does about ballots: opens one after the other, and closes one that has been open for too long.
//!
//! It proposes; what counts is what is committed. A primary that is none any more commits nothing, and the next one
//! goes on from what is: the same ballot is open there, with the votes that were counted.
//!
//! A backup keeps the votes that clients send to it. Once it is the primary it proposes them itself: those that the old
//! primary had not committed are not lost with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smr::replica::{Outcome, ReplicaHandle, Request};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::state::{Command, Progress};
use crate::words::{Situation, VOTERS_MAX};

/// How often it looks at the clock, in milliseconds.
const LOOK_MS: u64 = 10;

/// Votes that a backup was sent: the last one of each client.
#[derive(Debug, Default)]
pub struct KeptVotes(Mutex<BTreeMap<String, (u64, bool)>>);

impl KeptVotes {
    /// Keeps a vote, in the place of an older one of that client. If there is no room for another client those of the
    /// lowest ballot go: that is over, if a later one was voted on. False if the vote itself is of no later one.
    pub fn keep(&self, voter: String, ballot: u64, yes: bool) -> bool {
        let mut kept = self.0.lock();
        if kept.len() >= VOTERS_MAX && !kept.contains_key(&voter) {
            let lowest = kept.values().map(|(ballot, _)| *ballot).min();
            if lowest.is_some_and(|lowest| ballot <= lowest) {
                return false;
            }
            kept.retain(|_, (ballot, _)| Some(*ballot) != lowest);
        }
        let entry = kept.entry(voter).or_insert((ballot, yes));
        if entry.0 < ballot {
            *entry = (ballot, yes);
        }
        true
    }

    /// Gives out those of the ballot that is open, and drops the others.
    fn take(&self, open: Option<u64>) -> Vec<Command> {
        let kept = std::mem::take(&mut *self.0.lock());
        let of_open = kept.into_iter().filter(|(_, (ballot, _))| Some(*ballot) == open);
        of_open.map(|(voter, (ballot, yes))| Command::Vote { ballot, voter, yes }).collect()
    }
}

/// When ballots begin and end.
#[derive(Clone, Copy, Debug)]
pub struct Timetable {
    /// This many clients must be there before one begins.
    pub voters_min: usize,
    /// There is none after this vote id.
    pub last: Option<u64>,
    /// Between the end of one and the beginning of the next.
    pub interval: Duration,
    /// After this long one ends with the votes that there are.
    pub open_max: Duration,
}

/// Since when the primary has seen what it sees.
#[derive(Clone, Copy, Debug)]
struct Seen {
    epoch: u64,
    progress: Progress,
    since: Instant,
}

impl Timetable {
    /// What is to be proposed after this has been so for this long.
    fn due(&self, progress: Progress, for_long: Duration) -> Option<Command> {
        match progress.open {
            Some(ballot) => (for_long >= self.open_max).then_some(Command::Close { ballot }),
            None => {
                let ballot = progress.newest + 1;
                let is_due = for_long >= self.interval && progress.voters >= self.voters_min;
                (is_due && self.last.is_none_or(|last| ballot <= last)).then_some(Command::Open { ballot })
            }
        }
    }

    /// Does so as long as the process lives, whenever this server is the primary.
    pub async fn run(
        self,
        replica: ReplicaHandle,
        mut progress: watch::Receiver<Progress>,
        situation: watch::Receiver<Option<Situation>>,
        kept: Arc<KeptVotes>,
    ) {
        let mut seen: Option<Seen> = None;
        loop {
            let epoch = situation.borrow().as_ref().map(|situation| situation.epoch);
            let now = *progress.borrow_and_update();
            match epoch {
                None => seen = None,
                Some(epoch) => {
                    if seen.is_none_or(|seen| seen.epoch != epoch) {
                        for vote in kept.take(now.open) {
                            propose(&replica, &vote).await;
                        }
                    }
                    let is_same = |seen: &Seen| seen.progress.open == now.open && seen.progress.newest == now.newest;
                    let since = seen.filter(is_same).map_or_else(Instant::now, |seen| seen.since);
                    seen = Some(Seen { epoch, progress: now, since });
                    if let Some(command) = self.due(now, since.elapsed()) {
                        propose(&replica, &command).await;
                    }
                }
            }
            tokio::select! {
                changed = progress.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep(Duration::from_millis(LOOK_MS)) => {}
            }
        }
    }
}

/// Whatever becomes of it: if it is still due it is proposed again.
async fn propose(replica: &ReplicaHandle, command: &Command) {
    let outcome: Option<Outcome> = replica.ask(Request::Idempotent { command: command.encode().into() }).await;
    tracing::debug!(?command, ?outcome, "proposed");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable() -> Timetable {
        let (interval, open_max) = (Duration::from_millis(100), Duration::from_secs(5));
        Timetable { voters_min: 2, last: Some(3), interval, open_max }
    }

    #[test]
    fn next_ballot_is_opened_when_enough_are_there_until_the_last_one_was() {
        let due =
            |newest, voters, ms| timetable().due(Progress { newest, open: None, voters }, Duration::from_millis(ms));
        assert_eq!(due(0, 1, 9_999), None, "too few voters");
        assert_eq!(due(0, 2, 99), None, "the interval");
        assert_eq!(due(0, 2, 100), Some(Command::Open { ballot: 1 }));
        assert_eq!(due(2, 2, 100), Some(Command::Open { ballot: 3 }));
        assert_eq!(due(3, 2, 9_999), None, "that was the last one");
    }

    #[test]
    fn open_ballot_is_closed_when_it_was_open_for_too_long() {
        let due = |ms| timetable().due(Progress { newest: 6, open: Some(7), voters: 0 }, Duration::from_millis(ms));
        assert_eq!((due(4_999), due(5_000)), (None, Some(Command::Close { ballot: 7 })));
    }

    #[test]
    fn backup_keeps_the_last_vote_of_each_client_and_gives_it_out_once() {
        let kept = KeptVotes::default();
        let keep = |voter: &str, ballot, yes| kept.keep(voter.to_owned(), ballot, yes);
        assert!(keep("a", 1, true) && keep("a", 2, false) && keep("b", 2, true));
        assert!(keep("a", 2, true) && keep("b", 1, false), "these come too late");
        let vote = |ballot, voter: &str, yes| Command::Vote { ballot, voter: voter.to_owned(), yes };
        assert_eq!(kept.take(Some(2)), [vote(2, "a", false), vote(2, "b", true)]);
        assert_eq!(kept.take(Some(2)), []);
        assert!(keep("a", 2, true) && keep("b", 3, true));
        assert_eq!(kept.take(Some(3)), [vote(3, "b", true)], "the other ballot is over");
        assert!(keep("a", 3, true));
        assert_eq!((kept.take(None), kept.take(Some(3))), (vec![], vec![]), "none is open");
        for number in 0..VOTERS_MAX {
            assert!(keep(&number.to_string(), 1, true));
        }
        assert!(!keep("one more", 1, true) && keep("7", 2, true));
        assert!(keep("one more", 3, true), "those of ballot 1 make room");
        assert_eq!(kept.0.lock().keys().collect::<Vec<_>>(), ["7", "one more"]);
    }
}
