//! What a server answers to clients, and to the other replica.
//!
//! The switch between primary and backup is [`crate::lookout`]'s word at the moment when something is asked: a primary
//! counts votes and tells results, a backup keeps votes and says nothing, though it would know.

use std::sync::Arc;
use std::time::Duration;

use madkv_proto::map::ClusterMap;
use smr::codec;
use smr::id::ClusterId;
use smr::replica::{Outcome, ReplicaHandle, ReplyTo, Request, Submit};
use smr_service::frames::{ClientRequest, ClientResponse, Service};
use smr_service::listener::Backend;
use smr_service::notifications::Batch;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::ballots::KeptVotes;
use crate::pulse::Health;
use crate::state::{Command, News, Progress, Query, Reply};
use crate::words::{Ask, Description, Mode, POLL_HOLD_MS, Said, Situation, VOTERS_MAX, VoteFate, check_voter, service};

/// Questions of clients that are being answered, or kept, at one time.
const ASKED_MAX: usize = 4 * VOTERS_MAX;
/// When a client that is one too many may try again, in milliseconds.
const RETRY_MS: u32 = 100;
/// How long a vote may wait to be committed before its client is told to send it again, in milliseconds.
const VOTE_MS: u64 = 2_000;

/// What the parts of a server know of each other.
#[derive(Clone)]
pub struct Counter {
    /// The partition that the managers' layout has for the group.
    pub partition: u16,
    /// Which replica this is.
    pub replica_id: u16,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The replica.
    pub replica: ReplicaHandle,
    /// How far the ballots are.
    pub progress: watch::Receiver<Progress>,
    /// How things are, while this is the primary.
    pub situation: watch::Receiver<Option<Situation>>,
    /// Whether the other replica is heard.
    pub health: watch::Receiver<Health>,
    /// The votes that it keeps while it is the backup.
    pub kept: Arc<KeptVotes>,
}

/// A server behind its listener.
pub struct VotingBackend {
    counter: Counter,
    runtime: Handle,
    asked: Arc<Semaphore>,
}

impl VotingBackend {
    /// Answers with tasks on `runtime`.
    pub fn new(counter: Counter, runtime: Handle) -> VotingBackend {
        VotingBackend { counter, runtime, asked: Arc::new(Semaphore::new(ASKED_MAX)) }
    }

    /// Answers when `said` is there.
    fn later(
        &self,
        reply: ReplyTo,
        said: impl Future<Output = Said> + Send + 'static,
    ) -> Option<ClientResponse<ClusterMap>> {
        let permit: OwnedSemaphorePermit = match Arc::clone(&self.asked).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => return Some(ClientResponse::Busy { retry_after_ms: RETRY_MS }),
        };
        self.runtime.spawn(async move {
            let said = said.await;
            reply.send(Outcome::Answer(codec::encode(&said).into()));
            drop(permit);
        });
        None
    }

    fn answer_to(&self, ask: Ask, reply: ReplyTo) -> Option<ClientResponse<ClusterMap>> {
        match ask {
            Ask::Heartbeat { from, number } if from == 1 - self.counter.replica_id => {
                now(&Said::Heartbeat { from: self.counter.replica_id, number })
            }
            Ask::Heartbeat { from, .. } => now(&Said::Refused(format!("replica {from} is not the other one"))),
            Ask::Poll { voter, .. } | Ask::Vote { voter, .. } if check_voter(&voter).is_err() => {
                now(&Said::Refused(check_voter(&voter).err().unwrap_or_default()))
            }
            Ask::Poll { voter, from, seen } => {
                let counter = self.counter.clone();
                self.later(reply, async move { counter.news(voter, from, seen).await })
            }
            Ask::Vote { ballot, voter, yes } if self.counter.is_primary() => {
                let counter = self.counter.clone();
                self.later(reply, async move { Said::Vote(counter.count(ballot, voter, yes).await) })
            }
            Ask::Vote { ballot, voter, yes } => now(&Said::Vote(if self.counter.kept.keep(voter, ballot, yes) {
                VoteFate::Kept
            } else {
                VoteFate::NotNow("too many voters".to_owned())
            })),
            Ask::Describe => now(&Said::Description(self.counter.describe())),
        }
    }
}

fn now(said: &Said) -> Option<ClientResponse<ClusterMap>> {
    Some(ClientResponse::Answer(codec::encode(said).into()))
}

impl Counter {
    fn is_primary(&self) -> bool {
        self.situation.borrow().is_some()
    }

    fn describe(&self) -> Description {
        let situation = self.situation.borrow().clone();
        Description {
            replica: self.replica_id,
            pid: std::process::id(),
            mode: if situation.is_some() { Mode::Primary } else { Mode::Backup },
            situation,
            newest: self.progress.borrow().newest,
            hears_other: *self.health.borrow() == Health::Alive,
        }
    }

    /// Has a vote counted.
    async fn count(&self, ballot: u64, voter: String, yes: bool) -> VoteFate {
        let command = Command::Vote { ballot, voter, yes }.encode().into();
        let limit = Duration::from_millis(VOTE_MS);
        // Proposed, it may be counted later all the same; sent again, it counts once.
        match timeout(limit, self.replica.ask(Request::Idempotent { command })).await {
            Ok(Some(Outcome::Answer(answer))) => match Reply::decode(&answer) {
                Reply::Done => VoteFate::Counted,
                Reply::NotOpen => VoteFate::Closed,
                other => VoteFate::NotNow(format!("{other:?}")),
            },
            Ok(other) => VoteFate::NotNow(format!("{other:?}")),
            Err(_) => VoteFate::NotNow("it is not committed yet".to_owned()),
        }
    }

    /// Waits until there is something new for a client, for [`POLL_HOLD_MS`] at most.
    async fn news(mut self, voter: String, from: u64, seen: Option<Situation>) -> Said {
        let until = Instant::now() + Duration::from_millis(POLL_HOLD_MS);
        loop {
            let situation = self.situation.borrow_and_update().clone();
            self.progress.mark_unchanged();
            let is_over = Instant::now() >= until;
            if situation.is_some() && self.is_ahead(&voter, from, until).await {
                let newest = self.progress.borrow().newest;
                return Said::Refused(format!(
                    "the log of {voter} goes on with vote {from}, but the newest result here is {newest}: it is that \
                     of another service, or this one was founded anew"
                ));
            }
            // A backup holds its tongue; what it says once it is the primary it has heard by then.
            let news = if situation.is_some() { self.look(&voter, from).await } else { None };
            let results = match news {
                Some(News { may_vote, results }) => {
                    if !may_vote {
                        self.enter(&voter);
                    }
                    results
                }
                None => Batch::Notifications { first: from, items: Vec::new() },
            };
            let has_results = !matches!(&results, Batch::Notifications { items, .. } if items.is_empty());
            if has_results || is_over || is_news(situation.as_ref(), seen.as_ref()) {
                return Said::News { results, situation };
            }
            tokio::select! {
                changed = self.situation.changed() => if changed.is_err() { return Said::News { results, situation } },
                changed = self.progress.changed() => if changed.is_err() { return Said::News { results, situation } },
                () = sleep_until(until) => {}
            }
        }
    }

    /// Whether a client has results that this service never had. A primary that is none any more, or has not applied
    /// everything yet, has only not heard of them: so a read that sees all that was counted before comes first.
    async fn is_ahead(&self, voter: &str, from: u64, until: Instant) -> bool {
        if !is_after_next(from, self.progress.borrow().newest) {
            return false;
        }
        let query = Query { voter: voter.to_owned(), from }.encode().into();
        let read = timeout_at(until, self.replica.ask(Request::Read { query })).await;
        matches!(read, Ok(Some(Outcome::Answer(_)))) && is_after_next(from, self.progress.borrow().newest)
    }

    /// What is applied here, which is committed: every replica has the same under the same numbers, or less.
    async fn look(&self, voter: &str, from: u64) -> Option<News> {
        let query = Query { voter: voter.to_owned(), from }.encode().into();
        match self.replica.ask(Request::LocalRead { query }).await? {
            Outcome::Answer(answer) => codec::decode(&answer).ok(),
            _ => None,
        }
    }

    /// Lets a client vote. No one waits for it: it asks again.
    fn enter(&self, voter: &str) {
        let command = Command::Enter { voter: voter.to_owned() }.encode().into();
        let replica = self.replica.clone();
        tokio::spawn(async move { replica.ask(Request::Idempotent { command }).await });
    }
}

/// Whether this vote id is beyond the one that follows the newest result.
fn is_after_next(from: u64, newest: u64) -> bool {
    from.saturating_sub(newest) > 1
}

/// Whether a client that has seen this has something to hear. One that knows a later epoch has not: it would only ask
/// again at once.
fn is_news(situation: Option<&Situation>, seen: Option<&Situation>) -> bool {
    match (situation, seen) {
        (Some(now), Some(seen)) => now.epoch >= seen.epoch && now != seen,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

impl Backend for VotingBackend {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        service(self.counter.partition)
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(self.counter.cluster)
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, reply: ReplyTo) -> Option<ClientResponse<ClusterMap>> {
        match ask {
            ClientRequest::Control(bytes) => match codec::decode(&bytes) {
                Ok(ask) => self.answer_to(ask, reply),
                Err(error) => now(&Said::Refused(format!("this build knows no such question: {error}"))),
            },
            ClientRequest::Status => {
                self.counter.replica.queue(Request::Status, reply);
                None
            }
            _ => Some(ClientResponse::Refused("this is a voting service, and no key-value store".to_owned())),
        }
    }

    fn flush(&self) {
        self.counter.replica.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Backup;

    #[test]
    fn client_may_need_any_result_up_to_the_next_one() {
        assert!([(1, 0), (7, 6), (6, 6), (1, 6)].into_iter().all(|(from, newest)| !is_after_next(from, newest)));
        assert!([(2, 0), (8, 6), (u64::MAX, 6)].into_iter().all(|(from, newest)| is_after_next(from, newest)));
    }

    #[test]
    fn client_hears_of_a_situation_that_it_has_not_seen_and_that_is_not_outdated() {
        let of = |epoch, ballot| Situation { epoch, primary: "127.0.0.1:1".to_owned(), backup: Backup::Alone, ballot };
        let is_news = |now: Option<Situation>, seen: Option<Situation>| is_news(now.as_ref(), seen.as_ref());
        assert!(is_news(Some(of(3, None)), None) && is_news(Some(of(3, Some(7))), Some(of(3, None))));
        assert!(is_news(Some(of(4, None)), Some(of(3, None))));
        assert!(!is_news(Some(of(3, None)), Some(of(3, None))), "it knows that");
        assert!(!is_news(Some(of(3, Some(7))), Some(of(4, None))), "that is outdated");
        assert!(!is_news(None, None) && !is_news(None, Some(of(3, None))), "a backup");
    }
}
