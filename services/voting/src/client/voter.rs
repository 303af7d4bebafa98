//! What a client knows: which results it has logged, how things are, and what it votes. Without time, sockets and
//! files.

use bytes::Bytes;
use smr_service::address::is_same;
use smr_service::notifications::{Batch, Missed, Subscription};

use crate::words::{Backup, Situation, Tally};

/// A vote that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The vote id.
    pub ballot: u64,
    /// What is voted.
    pub yes: bool,
    /// The epoch in which it is sent: in the next one it is sent again, for who kept it may have gone.
    pub epoch: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Voter {
    subscription: Subscription,
    situation: Option<Situation>,
    cast: Option<Cast>,
}

/// A result that is no number of votes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotGoOn {
    /// Results are missing.
    #[error("{0}; the log would have a gap")]
    Missed(#[from] Missed),
    /// A result makes no sense.
    #[error("{0}")]
    Senseless(String),
}

impl Voter {
    /// A client whose log goes on with the result of vote `next`.
    pub fn new(next: u64) -> Voter {
        Voter { subscription: Subscription::from(next), situation: None, cast: None }
    }

    /// The vote id whose result it wants next.
    pub fn next(&self) -> u64 {
        self.subscription.next()
    }

    /// How things are, as far as it knows.
    pub fn situation(&self) -> Option<&Situation> {
        self.situation.as_ref()
    }

    /// Takes in results, from whichever server: those that are new.
    ///
    /// # Errors
    /// If one would be left out.
    pub fn results(&mut self, batch: Batch) -> Result<Vec<(u64, Tally)>, CannotGoOn> {
        let new = self.subscription.take(batch)?;
        let tally = |(vote, bytes): (u64, Bytes)| Ok((vote, Tally::decode(&bytes).map_err(CannotGoOn::Senseless)?));
        new.into_iter().map(tally).collect()
    }

    /// Takes in what a server says of how things are. Returns whether that is new. One that does not know yet that it
    /// is the primary no longer says it of an older epoch.
    pub fn hear(&mut self, situation: Situation) -> bool {
        let known_epoch = self.situation.as_ref().map_or(0, |known| known.epoch);
        if situation.epoch < known_epoch || self.situation.as_ref() == Some(&situation) {
            return false;
        }
        self.situation = Some(situation);
        true
    }

    /// What is to be voted now, if anything: on the ballot that is open, if its result is the next one. `choose` is
    /// asked once for each ballot.
    pub fn cast(&mut self, choose: impl FnOnce(u64) -> bool) -> Option<Cast> {
        let situation = self.situation.as_ref()?;
        let ballot = situation.ballot.filter(|ballot| *ballot == self.subscription.next())?;
        let yes = match self.cast {
            Some(cast) if cast.ballot == ballot => cast.yes,
            _ => choose(ballot),
        };
        self.cast = Some(Cast { ballot, yes, epoch: situation.epoch });
        self.cast
    }

    /// Whether the server at this address collects votes.
    pub fn votes_at(&self, address: &str) -> bool {
        let Some(situation) = &self.situation else { return false };
        let is_backup = |backup: &Backup| matches!(backup, Backup::Ready { address: there } if is_same(there, address));
        is_same(&situation.primary, address) || is_backup(&situation.backup)
    }

    /// Where the situation says that servers are.
    pub fn named(&self) -> Vec<String> {
        let Some(situation) = &self.situation else { return Vec::new() };
        let backup = match &situation.backup {
            Backup::Ready { address } => Some(address.clone()),
            Backup::Alone | Backup::Starting | Backup::Joining => None,
        };
        [situation.primary.clone()].into_iter().chain(backup).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:1";
    const THERE: &str = "127.0.0.1:2";

    fn situation(epoch: u64, primary: &str, backup: Backup, ballot: Option<u64>) -> Situation {
        Situation { epoch, primary: primary.to_owned(), backup, ballot }
    }

    fn ready(address: &str) -> Backup {
        Backup::Ready { address: address.to_owned() }
    }

    fn results(first: u64, count: u64) -> Batch {
        let items = (first..first + count).map(|vote| Tally { yes: vote as u32, no: 1 }.encode());
        Batch::Notifications { first, items: items.collect() }
    }

    #[test]
    fn results_of_both_servers_are_taken_once_each_in_order() {
        let mut voter = Voter::new(3);
        let ids = |new: Vec<(u64, Tally)>| new.into_iter().map(|(vote, _)| vote).collect::<Vec<_>>();
        assert_eq!(ids(voter.results(results(3, 2)).unwrap()), [3, 4]);
        assert_eq!(ids(voter.results(results(3, 3)).unwrap()), [5]);
        assert_eq!(ids(voter.results(results(1, 2)).unwrap()), [0_u64; 0]);
        assert!(matches!(voter.results(results(7, 1)), Err(CannotGoOn::Missed(_))));
        assert_eq!(voter.next(), 6);
    }

    #[test]
    fn vote_is_chosen_once_and_sent_again_in_the_next_epoch() {
        let mut voter = Voter::new(1);
        assert_eq!(voter.cast(|_| true), None, "nothing is known yet");
        assert!(voter.hear(situation(4, HERE, ready(THERE), Some(1))));
        assert_eq!(voter.cast(|_| true), Some(Cast { ballot: 1, yes: true, epoch: 4 }));
        assert!(voter.hear(situation(5, THERE, Backup::Alone, Some(1))));
        assert_eq!(voter.cast(|_| panic!("asked twice")), Some(Cast { ballot: 1, yes: true, epoch: 5 }));
        voter.results(results(1, 1)).unwrap();
        assert_eq!(voter.cast(|_| panic!("it is over")), None);
        assert!(voter.hear(situation(5, THERE, Backup::Alone, Some(2))));
        assert_eq!(voter.cast(|ballot| ballot == 1), Some(Cast { ballot: 2, yes: false, epoch: 5 }));
    }

    #[test]
    fn old_primary_that_does_not_know_it_is_one_no_more_is_not_believed() {
        let mut voter = Voter::new(1);
        assert!(voter.hear(situation(5, THERE, Backup::Alone, None)));
        assert!(!voter.hear(situation(4, HERE, ready(THERE), Some(1))));
        assert!(!voter.hear(situation(5, THERE, Backup::Alone, None)), "nothing new");
        assert_eq!(voter.situation().map(|known| known.epoch), Some(5));
    }

    #[test]
    fn votes_go_to_the_primary_and_to_a_backup_that_is_ready() {
        let mut voter = Voter::new(1);
        let mut at = |backup| {
            voter.situation = Some(situation(1, HERE, backup, None));
            ([HERE, THERE, "127.0.0.1:3"].map(|address| voter.votes_at(address)), voter.named().len())
        };
        assert_eq!(at(ready(THERE)), ([true, true, false], 2));
        for alone in [Backup::Alone, Backup::Starting, Backup::Joining] {
            assert_eq!(at(alone), ([true, false, false], 1));
        }
    }
}
