//! Writes a backup.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use madkv_proto::map::ClusterMap;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use smr_service::log_sink;

use super::BackupError;
use super::format::{Header, Writer};
use super::scan::{NotYet, PartitionScan, RetryBudget};
use crate::Client;
use crate::client::owns_slots;

/// Who may read a backup: its owner.
const FILE_MODE: u32 = 0o600;

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// How many keys it has.
    pub keys: u64,
    /// How many partitions the cluster had.
    pub partitions: usize,
    /// The epoch of the map.
    pub epoch: u64,
    /// How long the file is.
    pub len_bytes: u64,
}

/// Writes all keys of the cluster to `path`: beside it first, then synced and renamed, so that there is the whole
/// backup or none. Goes on until it succeeds, or until an attempt fails and no further partition has been completed for
/// as long as the client's timeout.
///
/// # Errors
/// Those of the file, or of the client.
pub async fn save(client: &Client, path: &Path) -> Result<Saved, BackupError> {
    if path.symlink_metadata().is_ok() {
        return Err(BackupError::Exists);
    }
    let beside = Beside::create(path)?;
    let saved = save_to(client, &beside.file).await?;
    beside.publish(path)?;
    Ok(saved)
}

async fn save_to(client: &Client, mut file: &File) -> Result<Saved, BackupError> {
    let mut retry_budget = RetryBudget::of(client);
    let mut map = retry_budget.map(client, 0).await?;
    'epoch: loop {
        file.set_len(0).map_err(BackupError::Write)?;
        file.rewind().map_err(BackupError::Write)?;
        let header = header_of(&map);
        let mut writer = Writer::begin(BufWriter::new(file), &header).map_err(BackupError::Write)?;
        for partition in 0..map.partitions.len() {
            match save_partition(client, &map, partition, &mut writer, &mut retry_budget).await? {
                None => {
                    writer.end_partition().map_err(BackupError::Write)?;
                    retry_budget.complete(partition + 1);
                }
                // Keys may have moved from a partition that is still to come to one that is already written.
                Some(epoch) => {
                    map = retry_budget.newer_map(client, epoch).await?;
                    continue 'epoch;
                }
            }
        }
        let (_, keys, len_bytes) = writer.end().map_err(BackupError::Write)?;
        return Ok(Saved { keys, partitions: map.partitions.len(), epoch: map.epoch, len_bytes });
    }
}

fn header_of(map: &ClusterMap) -> Header {
    Header {
        cluster: map.cluster.to_string(),
        epoch: map.epoch,
        partitions: map.partitions.len(),
        replicas: map.partitions.iter().map(|partition| partition.servers.len()).collect(),
        taken_at: log_sink::timestamp(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Writes a partition's records, as of one moment. Returns the epoch of a newer map, if that counts.
async fn save_partition(
    client: &Client,
    map: &ClusterMap,
    partition: usize,
    writer: &mut Writer<BufWriter<&File>>,
    retry_budget: &mut RetryBudget,
) -> Result<Option<u64>, BackupError> {
    if !owns_slots(map, partition) {
        return Ok(None);
    }
    let begin = writer.place();
    loop {
        let why = match copy(client, map, partition, writer).await? {
            Ok(()) => return Ok(None),
            Err(NotYet::Moved(epoch)) => return Ok(Some(epoch)),
            Err(NotYet::Never(error)) => return Err(error.into()),
            Err(NotYet::Again(why)) => why,
        };
        retry_budget.pause(&why).await?;
        // Another answer is of another moment.
        let out = writer.back_to(begin).map_err(BackupError::Write)?;
        let file = out.get_mut();
        file.set_len(begin.len_bytes).map_err(BackupError::Write)?;
        file.seek(SeekFrom::Start(begin.len_bytes)).map_err(BackupError::Write)?;
    }
}

/// One attempt. The outer error is of the file.
async fn copy(
    client: &Client,
    map: &ClusterMap,
    partition: usize,
    writer: &mut Writer<BufWriter<&File>>,
) -> Result<Result<(), NotYet>, BackupError> {
    let mut scan = match PartitionScan::begin(client, map, partition).await {
        Ok(scan) => scan,
        Err(not_yet) => return Ok(Err(not_yet)),
    };
    loop {
        let records = match scan.next().await {
            Ok(Some(records)) => records,
            Ok(None) => return Ok(Ok(())),
            Err(not_yet) => return Ok(Err(not_yet)),
        };
        for (key, value) in records {
            writer.record(&key, &value).map_err(BackupError::Write)?;
        }
    }
}

/// A file beside the one that there is to be; removed, unless it takes that one's place.
struct Beside {
    path: PathBuf,
    file: File,
}

impl Beside {
    fn create(path: &Path) -> Result<Beside, BackupError> {
        let Some(name) = path.file_name() else {
            return Err(BackupError::Write(io::Error::other(format!("{} names no file", path.display()))));
        };
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}", std::process::id()));
        let path = path.with_file_name(beside);
        // All that the cluster knows goes into it.
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(BackupError::Write)?;
        Ok(Beside { path, file })
    }

    fn publish(self, path: &Path) -> Result<(), BackupError> {
        self.file.sync_all().map_err(BackupError::Write)?;
        match self.take_place(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(BackupError::Exists),
            taken => taken.map_err(BackupError::Write)?,
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(BackupError::NotSynced)
    }

    /// Gives it its name in one step, which fails if there is such a file by now.
    fn take_place(&self, path: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            // Not every file system can: a second name is refused as well if there is one. The first is removed later.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::hard_link(&self.path, path),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After the rename it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn file_that_came_meanwhile_is_not_replaced_and_a_published_one_is_its_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        let beside = Beside::create(&path).unwrap();
        fs::write(&path, "another").unwrap();
        assert!(matches!(beside.publish(&path), Err(BackupError::Exists)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
        fs::remove_file(&path).unwrap();
        Beside::create(&path).unwrap().publish(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["backup"]);
    }
}
