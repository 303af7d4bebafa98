//! The replicated state: who may vote, the open ballot, and the results so far.
//!
//! One ballot is open at a time, and each ends in one result. So the results are numbered without a gap: a vote id is
//! the number of its result among the notifications ([`smr_service::notifications`]), and that is all that a client
//! has to know to go on.
//!
//! A ballot ends when everyone who may vote has voted, or when the primary says that it has been open for long enough.
//! Who has not voted by then may not vote any more until it asks again: a client that has gone holds up one ballot, not
//! all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smr::codec;
use smr::{Answer, Image, Index, StateMachine};
use smr_service::notifications::{Batch, NotificationLog};
use tokio::sync::watch;

use crate::words::{RESULTS_MAX, RESULTS_MAX_BYTES, Tally, VOTERS_MAX, check_voter};

/// Results that are kept, at least. A client that missed more of them cannot go on; part of the state, so it stays.
pub const RESULTS_KEPT: u64 = 16_384;
/// The most that is written of ballot and voters, in bytes.
const REST_MAX_BYTES: u64 = 1 << 20;

/// What changes the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// This client may vote from now on.
    Enter {
        /// Its name.
        voter: String,
    },
    /// A ballot begins.
    Open {
        /// Its vote id: the next one.
        ballot: u64,
    },
    /// A vote.
    Vote {
        /// The vote id.
        ballot: u64,
        /// Who votes.
        voter: String,
        /// What it votes.
        yes: bool,
    },
    /// A ballot has been open for long enough.
    Close {
        /// Its vote id.
        ballot: u64,
    },
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done, now or before.
    Done,
    /// There is no such open ballot.
    NotOpen,
    /// There are too many voters.
    Full,
    /// It is no command.
    Malformed,
}

impl Command {
    /// As it stands in the log.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

impl Reply {
    /// Reads the answer to a command.
    pub fn decode(bytes: &[u8]) -> Reply {
        codec::decode(bytes).unwrap_or(Reply::Malformed)
    }
}

/// A question of a server to its replica: what is new for this client?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The client.
    pub voter: String,
    /// The vote id whose result it wants next.
    pub from: u64,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Whether the client may vote.
    pub may_vote: bool,
    /// Results.
    pub results: Batch,
}

impl Query {
    /// As the replica is asked it.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

/// How far the state is, for whoever waits for it to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest result; 0 for none.
    pub newest: u64,
    /// The ballot that is open.
    pub open: Option<u64>,
    /// How many may vote.
    pub voters: usize,
}

/// What is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    results: NotificationLog,
    /// The votes of the ballot that is open.
    open: Option<BTreeMap<String, bool>>,
    voters: BTreeSet<String>,
}

/// The state, and who looks at it from outside.
#[derive(Debug)]
pub struct Votes {
    contents: Contents,
    progress: Arc<watch::Sender<Progress>>,
}

impl Default for Votes {
    fn default() -> Votes {
        let contents = Contents { results: NotificationLog::new(RESULTS_KEPT), open: None, voters: BTreeSet::new() };
        Votes { contents, progress: Arc::new(watch::Sender::new(Progress::default())) }
    }
}

impl Votes {
    /// How far this state is, and whichever takes its place.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn publish(&self) {
        let progress = self.contents.progress();
        self.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
    }
}

impl Contents {
    fn progress(&self) -> Progress {
        let next = self.results.next();
        Progress { newest: next - 1, open: self.open.is_some().then_some(next), voters: self.voters.len() }
    }

    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Enter { voter } => self.enter(voter),
            Command::Open { ballot } => {
                if self.open.is_none() && ballot == self.results.next() {
                    self.open = Some(BTreeMap::new());
                }
                if self.is_open(ballot) { Reply::Done } else { Reply::NotOpen }
            }
            Command::Vote { ballot, voter, yes } => self.vote(ballot, voter, yes),
            Command::Close { ballot } => {
                if !self.is_open(ballot) {
                    return Reply::NotOpen;
                }
                self.close();
                Reply::Done
            }
        }
    }

    fn enter(&mut self, voter: String) -> Reply {
        if check_voter(&voter).is_err() {
            return Reply::Malformed;
        }
        if !self.voters.contains(&voter) {
            if self.voters.len() >= VOTERS_MAX {
                return Reply::Full;
            }
            self.voters.insert(voter);
        }
        Reply::Done
    }

    fn vote(&mut self, ballot: u64, voter: String, yes: bool) -> Reply {
        if !self.is_open(ballot) {
            return Reply::NotOpen;
        }
        // Who votes may vote: it may have been left out while its vote was under way.
        let entered = self.enter(voter.clone());
        if entered != Reply::Done {
            return entered;
        }
        if let Some(votes) = &mut self.open {
            // The first one counts.
            votes.entry(voter).or_insert(yes);
            if votes.len() >= self.voters.len() {
                self.close();
            }
        }
        Reply::Done
    }

    fn is_open(&self, ballot: u64) -> bool {
        self.open.is_some() && ballot == self.results.next()
    }

    fn close(&mut self) {
        let Some(votes) = self.open.take() else { return };
        let yes = votes.values().filter(|yes| **yes).count() as u32; // at most VOTERS_MAX
        let tally = Tally { yes, no: votes.len() as u32 - yes };
        self.results.emit(tally.encode());
        self.voters.retain(|voter| votes.contains_key(voter));
    }
}

impl StateMachine for Votes {
    type Image = Contents;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let reply = match codec::decode(command) {
            Ok(command) => self.contents.carry_out(command),
            Err(_) => Reply::Malformed,
        };
        self.publish();
        codec::encode(&reply)
    }

    fn query(&self, query: &[u8]) -> Answer {
        let Ok(Query { voter, from }) = codec::decode(query) else { return Answer::Now(Vec::new()) };
        let results = self.contents.results.batch(from, RESULTS_MAX, RESULTS_MAX_BYTES);
        Answer::Now(codec::encode(&News { may_vote: self.contents.voters.contains(&voter), results }))
    }

    fn image(&self) -> Contents {
        self.contents.clone()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Votes> {
        let results = NotificationLog::read(RESULTS_KEPT, input)?;
        let mut rest = Vec::new();
        Read::take(input, REST_MAX_BYTES).read_to_end(&mut rest)?;
        let (open, voters) = codec::decode(&rest).map_err(io::Error::other)?;
        Ok(Votes { contents: Contents { results, open, voters }, ..Votes::default() })
    }

    fn inherit(&mut self, from: &Votes) {
        self.progress = Arc::clone(&from.progress);
        self.publish();
    }
}

impl Image for Contents {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        self.results.write(output)?;
        output.write_all(&codec::encode(&(&self.open, &self.voters)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(votes: &mut Votes, command: Command) -> Reply {
        Reply::decode(&votes.apply(Index(1), &command.encode()))
    }

    fn enter(votes: &mut Votes, voters: &[&str]) {
        for voter in voters {
            assert_eq!(apply(votes, Command::Enter { voter: (*voter).to_owned() }), Reply::Done);
        }
    }

    fn vote(votes: &mut Votes, ballot: u64, voter: &str, yes: bool) -> Reply {
        apply(votes, Command::Vote { ballot, voter: voter.to_owned(), yes })
    }

    fn news(votes: &Votes, voter: &str, from: u64) -> (bool, Vec<Tally>) {
        let Answer::Now(bytes) = votes.query(&Query { voter: voter.to_owned(), from }.encode()) else { panic!() };
        let News { may_vote, results } = codec::decode(&bytes).unwrap();
        let Batch::Notifications { first, items } = results else { panic!("{results:?}") };
        assert_eq!(first, from);
        (may_vote, items.iter().map(|item| Tally::decode(item).unwrap()).collect())
    }

    #[test]
    fn ballot_ends_with_the_last_vote_and_gives_one_result() {
        let mut votes = Votes::default();
        enter(&mut votes, &["a", "b", "c"]);
        assert_eq!(apply(&mut votes, Command::Open { ballot: 1 }), Reply::Done);
        assert_eq!(vote(&mut votes, 1, "a", true), Reply::Done);
        assert_eq!(vote(&mut votes, 1, "b", false), Reply::Done);
        assert_eq!(news(&votes, "a", 1), (true, vec![]));
        assert_eq!(vote(&mut votes, 1, "c", true), Reply::Done);
        assert_eq!(news(&votes, "a", 1), (true, vec![Tally { yes: 2, no: 1 }]));
        assert_eq!(*votes.progress().borrow(), Progress { newest: 1, open: None, voters: 3 });
    }

    #[test]
    fn vote_that_comes_again_or_to_both_replicas_counts_once_and_the_first_one_does() {
        let mut votes = Votes::default();
        enter(&mut votes, &["a", "b"]);
        apply(&mut votes, Command::Open { ballot: 1 });
        for yes in [true, true, false] {
            assert_eq!(vote(&mut votes, 1, "a", yes), Reply::Done);
        }
        assert_eq!(vote(&mut votes, 1, "b", false), Reply::Done);
        assert_eq!(news(&votes, "a", 1).1, [Tally { yes: 1, no: 1 }]);
        // Copies that come late touch neither this ballot nor the next one.
        assert_eq!(vote(&mut votes, 1, "a", true), Reply::NotOpen);
        apply(&mut votes, Command::Open { ballot: 2 });
        assert_eq!(vote(&mut votes, 1, "a", true), Reply::NotOpen);
        assert_eq!(vote(&mut votes, 2, "a", false), Reply::Done);
        assert_eq!(vote(&mut votes, 2, "b", false), Reply::Done);
        assert_eq!(news(&votes, "a", 1).1, [Tally { yes: 1, no: 1 }, Tally { yes: 0, no: 2 }]);
    }

    #[test]
    fn ballots_are_opened_and_closed_once_however_often_that_is_said() {
        let mut votes = Votes::default();
        enter(&mut votes, &["a"]);
        assert_eq!(apply(&mut votes, Command::Open { ballot: 2 }), Reply::NotOpen);
        assert_eq!(apply(&mut votes, Command::Close { ballot: 1 }), Reply::NotOpen);
        for _ in 0..2 {
            assert_eq!(apply(&mut votes, Command::Open { ballot: 1 }), Reply::Done);
        }
        assert_eq!(apply(&mut votes, Command::Close { ballot: 1 }), Reply::Done);
        // What the old primary said, and the new one after it.
        assert_eq!(apply(&mut votes, Command::Close { ballot: 1 }), Reply::NotOpen);
        assert_eq!(apply(&mut votes, Command::Open { ballot: 1 }), Reply::NotOpen);
        assert_eq!(news(&votes, "a", 1).1, [Tally { yes: 0, no: 0 }]);
    }

    #[test]
    fn client_that_has_gone_holds_up_one_ballot_only() {
        let mut votes = Votes::default();
        enter(&mut votes, &["a", "b"]);
        apply(&mut votes, Command::Open { ballot: 1 });
        vote(&mut votes, 1, "a", true);
        apply(&mut votes, Command::Close { ballot: 1 });
        assert!(!news(&votes, "b", 1).0 && news(&votes, "a", 1).0);
        apply(&mut votes, Command::Open { ballot: 2 });
        vote(&mut votes, 2, "a", true);
        assert_eq!(news(&votes, "a", 2).1, [Tally { yes: 1, no: 0 }]);
        // It is back, and votes without having asked.
        apply(&mut votes, Command::Open { ballot: 3 });
        vote(&mut votes, 3, "b", true);
        vote(&mut votes, 3, "a", false);
        assert_eq!(news(&votes, "b", 3), (true, vec![Tally { yes: 1, no: 1 }]));
    }

    #[test]
    fn senseless_commands_and_too_many_voters_are_refused_alike_everywhere() {
        let mut votes = Votes::default();
        assert_eq!(Reply::decode(&votes.apply(Index(1), b"what")), Reply::Malformed);
        assert_eq!(apply(&mut votes, Command::Enter { voter: "a b".to_owned() }), Reply::Malformed);
        for number in 0..VOTERS_MAX {
            enter(&mut votes, &[&format!("v{number}")]);
        }
        assert_eq!(apply(&mut votes, Command::Enter { voter: "late".to_owned() }), Reply::Full);
        apply(&mut votes, Command::Open { ballot: 1 });
        assert_eq!(vote(&mut votes, 1, "late", true), Reply::Full);
        enter(&mut votes, &["v7"]);
    }

    #[test]
    fn image_restores_the_same_state_and_those_who_wait_hear_of_it() {
        let mut votes = Votes::default();
        enter(&mut votes, &["a", "b"]);
        for ballot in 1..=600 {
            apply(&mut votes, Command::Open { ballot });
            vote(&mut votes, ballot, "a", ballot % 2 == 0);
            vote(&mut votes, ballot, "b", true);
        }
        apply(&mut votes, Command::Open { ballot: 601 });
        vote(&mut votes, 601, "b", false);
        let mut bytes = Vec::new();
        votes.image().write(&mut bytes).unwrap();
        let mut restored = Votes::restore(&mut &bytes[..]).unwrap();
        assert_eq!(restored.contents, votes.contents);
        let fresh = Votes::default();
        let watch = fresh.progress();
        restored.inherit(&fresh);
        assert_eq!(*watch.borrow(), Progress { newest: 600, open: Some(601), voters: 2 });
        vote(&mut restored, 601, "a", false);
        assert_eq!(watch.borrow().newest, 601);
        for cut in [0, 8, 20, bytes.len() - 1] {
            assert!(Votes::restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
