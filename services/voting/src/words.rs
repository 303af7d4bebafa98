//! What clients and servers say to each other, and how long it may be.
//!
//! All of it travels in the frames of [`smr_service::frames`], as [`ClientRequest::Control`] and its answer.
//!
//! [`ClientRequest::Control`]: smr_service::frames::ClientRequest::Control

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr_service::frames::Service;
use smr_service::notifications::Batch;

/// What groups of this service are called in the managers' layout (`madkv-manager --service`).
pub const SERVICE_NAME: &str = "voting";
/// Voters at one time.
pub const VOTERS_MAX: usize = 1024;
/// The longest name of a voter, in bytes.
pub const VOTER_MAX_BYTES: usize = 64;
/// How long a server keeps a [`Ask::Poll`] while there is nothing new, in milliseconds.
pub const POLL_HOLD_MS: u64 = 2_000;
/// Results in one answer.
pub const RESULTS_MAX: usize = 1024;
/// Bytes of results in one answer.
pub const RESULTS_MAX_BYTES: usize = 256 << 10;

/// The group of the voting service, as handshakes name it: that of this partition of the managers' layout.
pub fn service(partition: u16) -> Service {
    Service::Server { partition }
}

/// What a client, or the other replica, asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A client: what is new? Kept for up to [`POLL_HOLD_MS`] while nothing is.
    Poll {
        /// Who asks; the primary lets it vote from now on.
        voter: String,
        /// The vote id whose result it wants next.
        from: u64,
        /// The situation that it knows.
        seen: Option<Situation>,
    },
    /// A client: my vote. Sent to both replicas, and again as often as one likes: the first one counts.
    Vote {
        /// The vote id.
        ballot: u64,
        /// Who votes.
        voter: String,
        /// What it votes.
        yes: bool,
    },
    /// The other replica: I am here.
    Heartbeat {
        /// Which one it is.
        from: u16,
        /// How many it has sent.
        number: u64,
    },
    /// An operator, or a test: how are you?
    Describe,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// To [`Ask::Poll`].
    News {
        /// Results from the one on that was asked for, by vote id. None from a backup.
        results: Batch,
        /// How things are; a backup does not say.
        situation: Option<Situation>,
    },
    /// To [`Ask::Vote`].
    Vote(VoteFate),
    /// To [`Ask::Heartbeat`]: so am I.
    Heartbeat {
        /// Which one answers.
        from: u16,
        /// The number that it answers.
        number: u64,
    },
    /// To [`Ask::Describe`].
    Description(Description),
    /// It makes no sense.
    Refused(String),
}

/// What became of a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteFate {
    /// It is counted, by both replicas if there are two, or was before.
    Counted,
    /// The backup keeps it, and sees that it is counted if it becomes the primary.
    Kept,
    /// There is no such ballot, or not any more.
    Closed,
    /// Not done; to be sent again.
    NotNow(String),
}

/// The switch: what a server is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Opens ballots, counts votes, tells clients the results.
    Primary,
    /// Knows what the primary knows, and waits.
    Backup,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Primary => "primary",
            Mode::Backup => "backup",
        })
    }
}

/// How things are, as the primary says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// Counts the managers' decisions about who is primary and backup: a lower one is outdated.
    pub epoch: u64,
    /// Where the primary is.
    pub primary: String,
    /// How it is with the backup.
    pub backup: Backup,
    /// The ballot that is open.
    pub ballot: Option<u64>,
}

/// How it is with the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backup {
    /// There is none: the primary alone collects votes.
    Alone,
    /// There is none yet: it was started again, which takes a while.
    Starting,
    /// It is being brought up to date.
    Joining,
    /// It is here: votes go to it, too.
    Ready {
        /// Where it is.
        address: String,
    },
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "primary {}", self.primary)?;
        match &self.backup {
            Backup::Alone => f.write_str(", alone"),
            Backup::Starting => f.write_str(", alone; the backup starts"),
            Backup::Joining => f.write_str(", alone; the backup joins"),
            Backup::Ready { address } => write!(f, ", backup {address}"),
        }
    }
}

/// A server, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Which replica it is.
    pub replica: u16,
    /// Its process.
    pub pid: u32,
    /// What it is at this moment.
    pub mode: Mode,
    /// How things are, if it is the primary.
    pub situation: Option<Situation>,
    /// The newest result that it knows; 0 for none.
    pub newest: u64,
    /// Whether it hears the heartbeats of the other one.
    pub hears_other: bool,
}

/// The result of a ballot. Its number among the notifications is the vote id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Votes for it.
    pub yes: u32,
    /// Votes against it.
    pub no: u32,
}

impl Tally {
    /// As it travels, and is kept.
    pub fn encode(self) -> Bytes {
        codec::encode(&self).into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// If these bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Tally, String> {
        codec::decode(bytes).map_err(|error| format!("this is no result: {error}"))
    }

    /// How many of a hundred voted yes.
    pub fn yes_percent(self) -> f64 {
        let all = f64::from(self.yes) + f64::from(self.no);
        if all > 0.0 { f64::from(self.yes) * 100.0 / all } else { 0.0 }
    }
}

/// Whether this can be a voter's name.
///
/// # Errors
/// Why not.
pub fn check_voter(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > VOTER_MAX_BYTES || !name.bytes().all(good) {
        return Err(format!("{name:?} is no name: 1 to {VOTER_MAX_BYTES} letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_voters_are_short_words() {
        assert!(check_voter("alice-2.x_Y").is_ok() && check_voter(&"v".repeat(VOTER_MAX_BYTES)).is_ok());
        for bad in ["", "a b", "ä", "a\n", &"v".repeat(VOTER_MAX_BYTES + 1)] {
            assert!(check_voter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tally_comes_back_and_gives_percents() {
        let tally = Tally { yes: 11, no: 9 };
        assert_eq!(Tally::decode(&tally.encode()), Ok(tally));
        assert!(Tally::decode(b"x").is_err());
        assert_eq!((tally.yes_percent(), Tally { yes: 0, no: 0 }.yes_percent()), (55.0, 0.0));
    }
}
