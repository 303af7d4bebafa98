//! A partition's records as of one moment, a part at a time.
//!
//! The leader is asked over a connection of its own: what is not taken from there yet keeps the server waiting, and
//! nothing piles up here.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::command::decode_records;
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::limits::KEY_MAX_BYTES;
use madkv_proto::map::ClusterMap;
use smr_service::dial::Dialled;
use smr_service::log_sink;
use tokio::time::{Instant, sleep, timeout};

use super::BackupError;
use crate::client::{refusal, scan_queries};
use crate::{Client, Error};

/// How long a server may take for each part of its answer; less, if a call of the client may take less.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before a partition is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// After this long without a map that is a reason to name.
const MAP_TIMEOUT: Duration = Duration::from_secs(2);
/// Reasons for waiting that are said; what comes after them is one of the same, most likely.
const REASONS_MAX: usize = 16;

/// Why there are no records, or no more.
pub(super) enum NotYet {
    /// The slots are others, by the map of this epoch.
    Moved(u64),
    /// Ask again: they will be of another moment.
    Again(String),
    /// It would be the same again.
    Never(Error),
}

impl From<io::Error> for NotYet {
    fn from(error: io::Error) -> NotYet {
        match error.kind() {
            // What answers speaks otherwise than we do.
            io::ErrorKind::InvalidData | io::ErrorKind::Unsupported => NotYet::Never(senseless(&error)),
            _ => NotYet::Again(error.to_string()),
        }
    }
}

fn senseless(what: &dyn std::fmt::Display) -> Error {
    Error::BadAnswer { what: what.to_string() }
}

/// What a response means that is no part of an answer: a state that passes, or the same again and again.
fn trouble(response: ClientResponse) -> NotYet {
    let passes = match response {
        ClientResponse::WrongPartition { epoch } => return NotYet::Moved(epoch),
        ClientResponse::NotLeader { .. } => "whoever led does so no more".to_owned(),
        ClientResponse::Busy { .. } => "the leader is busy".to_owned(),
        ClientResponse::OutOfService(why) => format!("the leader is out of service: {why}"),
        ClientResponse::Unknown => "the leader has lost track of the request".to_owned(),
        other => return NotYet::Never(refusal(other, false)),
    };
    NotYet::Again(passes)
}

/// An answer that comes.
pub(super) struct PartitionScan {
    connection: Dialled,
    /// What came and was not taken yet.
    response: Option<ClientResponse>,
    /// The last key that was taken.
    last: Option<Bytes>,
}

impl PartitionScan {
    /// Asks for all that the partition has.
    pub(super) async fn begin(client: &Client, map: &ClusterMap, partition: usize) -> Result<PartitionScan, NotYet> {
        let leader = client.leader_of(partition).await;
        let leader = leader.ok_or_else(|| NotYet::Again("no leader answers".to_owned()))?;
        let service = Service::Server { partition: partition as u16 }; // at most PARTITIONS_MAX
        let part_timeout = client.call_timeout().map_or(PART_TIMEOUT, |timeout| timeout.min(PART_TIMEOUT));
        let mut connection = Dialled::to(&leader, service, Some(map.cluster), part_timeout).await?;
        // By this map, so that a server that knows of moved slots refuses.
        let mut response = ClientResponse::Refused("no question".to_owned());
        for query in scan_queries(map, partition, (&[], &[0xff; KEY_MAX_BYTES])) {
            response = connection.ask_by(map.epoch, ClientRequest::Read { query }).await?;
            if !matches!(response, ClientResponse::Refused(_)) {
                break;
            }
        }
        Ok(PartitionScan { connection, response: Some(response), last: None })
    }

    /// The next records, in the order of their keys; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, NotYet> {
        let Some(response) = self.response.take() else { return Ok(None) };
        let part = match response {
            ClientResponse::Part(part) => {
                self.response = Some(self.connection.more().await?);
                part
            }
            ClientResponse::Answer(part) => part,
            other => return Err(trouble(other)),
        };
        let records = decode_records(&part).map_err(|error| NotYet::Never(senseless(&error)))?;
        for (key, _) in &records {
            if self.last.as_ref().is_some_and(|last| last >= key) {
                return Err(NotYet::Never(senseless(&"keys out of order")));
            }
            self.last = Some(key.clone());
        }
        Ok(Some(records))
    }
}

/// When to give up. There is one for a whole backup: what breaks again and again at the same place uses it up, however
/// much comes before that place.
pub(super) struct RetryBudget {
    /// How long a wait may take, if that is bounded.
    allowed: Option<Duration>,
    since: Instant,
    /// The most partitions that were ever complete.
    most_complete: usize,
    /// The reasons that were said.
    said: Vec<String>,
}

impl RetryBudget {
    /// It begins now.
    pub(super) fn of(client: &Client) -> RetryBudget {
        RetryBudget { allowed: client.call_timeout(), since: Instant::now(), most_complete: 0, said: Vec::new() }
    }

    /// This many partitions are complete. It begins anew if that is more than ever before.
    pub(super) fn complete(&mut self, partitions: usize) {
        if partitions > self.most_complete {
            self.most_complete = partitions;
            self.since = Instant::now();
        }
    }

    /// Waits before the next attempt. Without a limit each new reason is said, once, on stderr.
    ///
    /// # Errors
    /// If it is used up.
    pub(super) async fn pause(&mut self, why: &str) -> Result<(), BackupError> {
        match self.allowed {
            Some(after) if self.since.elapsed() >= after => {
                return Err(BackupError::Late { after, why: why.to_owned() });
            }
            Some(_) => {}
            None if self.said.len() >= REASONS_MAX || self.said.iter().any(|said| said == why) => {}
            None => {
                log_sink::line(format!("waiting: {why}"));
                self.said.push(why.to_owned());
            }
        }
        sleep(RETRY_PAUSE).await;
        Ok(())
    }

    /// Waits after slots have moved, and returns the map by which they did, if a manager has it by now.
    ///
    /// # Errors
    /// If it is used up.
    pub(super) async fn newer_map(&mut self, client: &Client, epoch: u64) -> Result<ClusterMap, BackupError> {
        self.pause("slots have moved to other partitions").await?;
        self.map(client, epoch).await
    }

    /// The map, of at least this epoch if a manager has that by now.
    ///
    /// # Errors
    /// If it is used up.
    pub(super) async fn map(&mut self, client: &Client, epoch: u64) -> Result<ClusterMap, BackupError> {
        loop {
            match timeout(MAP_TIMEOUT, client.map_of(epoch)).await {
                Ok(map) => return Ok(map?),
                Err(_) => self.pause("no manager has the cluster's map to give").await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_budget(allowed_ms: u64) -> RetryBudget {
        let allowed = Some(Duration::from_millis(allowed_ms));
        RetryBudget { allowed, since: Instant::now(), most_complete: 0, said: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_is_renewed_by_further_partitions_and_by_nothing_else() {
        let mut retry_budget = retry_budget(1_000);
        // The first partition is complete each time; the second breaks.
        let mut attempts = 0;
        let late = loop {
            retry_budget.complete(1);
            match retry_budget.pause("it breaks").await {
                Ok(()) => attempts += 1,
                Err(late) => break late,
            }
            assert!(attempts <= 11, "it never ends");
        };
        assert!(late.to_string().contains("it breaks"), "{late}");
        retry_budget.complete(2);
        assert!(retry_budget.pause("it breaks").await.is_ok());
    }

    #[test]
    fn permanent_answers_are_not_asked_for_again() {
        for response in [ClientResponse::Refused("no".to_owned()), ClientResponse::NoMap, ClientResponse::Done] {
            assert!(matches!(trouble(response), NotYet::Never(_)));
        }
        assert!(matches!(trouble(ClientResponse::Busy { retry_after_ms: 1 }), NotYet::Again(_)));
        assert!(matches!(trouble(ClientResponse::WrongPartition { epoch: 3 }), NotYet::Moved(3)));
    }
}
