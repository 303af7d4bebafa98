//! A partition's records as of one moment, a part at a time.
//!
//! The leader is asked over a connection of its own: what is not taken from there yet keeps the server waiting, and
//! nothing piles up here.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::command::{Query, decode_records};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::limits::KEY_MAX_BYTES;
use madkv_proto::map::ClusterMap;
use smr_service::dial::Dialled;
use tokio::time::{Instant, sleep};

use crate::{Client, Error};

/// How long a server may take for each part of its answer.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before a partition is asked again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why there are no records, or no more.
pub(super) enum NotYet {
    /// The slots are others, by the map of this epoch.
    Moved(u64),
    /// Ask again: they will be of another moment.
    Again(String),
}

impl From<io::Error> for NotYet {
    fn from(error: io::Error) -> NotYet {
        NotYet::Again(error.to_string())
    }
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
        let mut connection = Dialled::to(&leader, service, Some(map.cluster), PART_TIMEOUT).await?;
        let query = Query::Scan { from: b"", to: &[0xff; KEY_MAX_BYTES] }.encode();
        // By this map, so that a server that knows of moved slots refuses.
        let response = connection.ask_by(map.epoch, ClientRequest::Read { query }).await?;
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
            ClientResponse::WrongPartition { epoch } => return Err(NotYet::Moved(epoch)),
            other => return Err(NotYet::Again(format!("{other:?}"))),
        };
        let records = decode_records(&part).map_err(|error| NotYet::Again(error.to_string()))?;
        for (key, _) in &records {
            if self.last.as_ref().is_some_and(|last| last >= key) {
                return Err(NotYet::Again("keys out of order".to_owned()));
            }
            self.last = Some(key.clone());
        }
        Ok(Some(records))
    }
}

/// When to give up on a partition.
pub(super) struct Patience<'c> {
    client: &'c Client,
    heard_at: Instant,
}

impl Patience<'_> {
    /// It begins now.
    pub(super) fn of(client: &Client) -> Patience<'_> {
        Patience { client, heard_at: Instant::now() }
    }

    /// Something came.
    pub(super) fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If nothing has come for as long as a call of the client may take.
    pub(super) async fn pause(&self, why: &str) -> Result<(), Error> {
        tracing::debug!(why, "a partition is asked again");
        match self.client.call_timeout() {
            Some(after) if self.heard_at.elapsed() >= after => Err(Error::Timeout { after, may_have_happened: false }),
            _ => {
                sleep(RETRY_PAUSE).await;
                Ok(())
            }
        }
    }
}
