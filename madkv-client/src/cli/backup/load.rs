//! Restores a backup.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

use smr_service::log_sink;
use tokio::task::{JoinSet, yield_now};

use super::BackupError;
use super::format::{Block, Header, Reader};
use super::scan::{NotYet, PartitionScan, RetryBudget};
use crate::client::owns_slots;
use crate::{Client, Error};

/// Keys that are being written at a time.
const WRITES_MAX: usize = 256;
/// Bytes of keys and values that are being written at a time; a single record may be longer.
const WRITES_MAX_BYTES: usize = 8 << 20;

/// A backup that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How many keys were written.
    pub keys: u64,
    /// Where the backup comes from.
    pub header: Header,
}

/// Writes all keys of the backup at `path` to the cluster, which must have none unless `into_nonempty`.
///
/// # Errors
/// If the file does not verify, or the cluster has keys: nothing was written. If writing failed:
/// [`BackupError::Partly`].
pub async fn load(client: &Client, path: &Path, into_nonempty: bool) -> Result<Loaded, BackupError> {
    let mut file = File::open(path).map_err(BackupError::Read)?;
    let mut reader = Reader::open(BufReader::new(&file))?;
    let keys = loop {
        if let Block::End(keys) = reader.next()? {
            break keys;
        }
        // Whoever waits for a signal has a turn.
        yield_now().await;
    };
    if !into_nonempty && has_keys(client).await? {
        return Err(BackupError::NotEmpty);
    }
    file.rewind().map_err(BackupError::Read)?;
    // It is verified once more on the way: it may have been changed meanwhile.
    let mut reader = Reader::open(BufReader::new(&file))?;
    let header = reader.header().clone();
    let mut writes = Writes { client, tasks: JoinSet::new(), under_way_bytes: 0, written: 0, keys, is_over: false };
    let ended = write_all(&mut reader, &mut writes).await;
    writes.is_over = true;
    match ended {
        Ok(()) => Ok(Loaded { keys: writes.written, header }),
        Err(error) => Err(BackupError::Partly { written: writes.written, keys, error: Box::new(error) }),
    }
}

async fn write_all(reader: &mut Reader<BufReader<&File>>, writes: &mut Writes<'_>) -> Result<(), BackupError> {
    loop {
        match reader.next()? {
            Block::Records(records) => {
                for (key, value) in records {
                    writes.begin(key, value).await?;
                }
                yield_now().await;
            }
            Block::PartitionEnd => {}
            Block::End(_) => return writes.finish().await,
        }
    }
}

/// Whether any partition has a key.
async fn has_keys(client: &Client) -> Result<bool, BackupError> {
    let mut retry_budget = RetryBudget::of(client);
    let mut map = retry_budget.map(client, 0).await?;
    let mut partition = 0;
    while partition < map.partitions.len() {
        let first = match owns_slots(&map, partition) {
            true => match PartitionScan::begin(client, &map, partition).await {
                Ok(mut scan) => scan.next().await,
                Err(not_yet) => Err(not_yet),
            },
            false => Ok(None),
        };
        match first {
            Ok(Some(records)) if !records.is_empty() => return Ok(true),
            Ok(_) => {
                partition += 1;
                retry_budget.complete(partition);
            }
            Err(NotYet::Moved(epoch)) => {
                map = retry_budget.newer_map(client, epoch).await?;
                partition = 0;
            }
            Err(NotYet::Again(why)) => retry_budget.pause(&why).await?,
            Err(NotYet::Never(error)) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Writes that are under way.
struct Writes<'c> {
    client: &'c Client,
    tasks: JoinSet<Result<usize, Error>>,
    under_way_bytes: usize,
    written: u64,
    /// How many the file has.
    keys: u64,
    /// The result says what was written.
    is_over: bool,
}

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let Writes { written, keys, .. } = self;
            log_sink::line(format!("{written} of {keys} keys are certain; run it again with --into_nonempty"));
        }
    }
}

impl Writes<'_> {
    async fn begin(&mut self, key: bytes::Bytes, value: bytes::Bytes) -> Result<(), BackupError> {
        let len = key.len() + value.len();
        while self.tasks.len() >= WRITES_MAX
            || (!self.tasks.is_empty() && self.under_way_bytes + len > WRITES_MAX_BYTES)
        {
            self.end_one().await?;
        }
        let client = self.client.clone();
        self.under_way_bytes += len;
        self.tasks.spawn(async move { client.put(&key, &value).await.map(|_| len) });
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BackupError> {
        while !self.tasks.is_empty() {
            self.end_one().await?;
        }
        Ok(())
    }

    async fn end_one(&mut self) -> Result<(), BackupError> {
        let Some(ended) = self.tasks.join_next().await else { return Ok(()) };
        let len = ended.unwrap_or_else(|error| panic!("a write failed: {error}"))?;
        self.under_way_bytes -= len;
        self.written += 1;
        Ok(())
    }
}
