//! What a factory has on its disk: a record with its promise and its view, and the log.
//!
//! ```text
//! lock      held while the process runs
//! record    who this is, what it has promised, the last view; replaced as a whole
//! log       frames: entries, or where a cut was made; only ever appended to
//! surplus.N what was cut off, as text
//! ```
//! Each write is one frame and ends with a sync, so at most the last frame of the log can be torn: that one was not
//! answered for, and is dropped at the next start. Whatever else does not verify is damage; then the factory does not
//! start, and touches nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smr::codec::{self, CodecError, FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES};
use smr::internals::disk::{Disk, DiskFile, DiskLock, read_file, read_fully};

use crate::core::{Change, Stored};
use crate::log::Log;
use crate::message::{ATTEMPTS_MAX, ENTRIES_MAX, SERVERS_MAX};
use crate::words::{Attempts, Entry, Epoch, Incarnation, ServerId, View};

const KIND_RECORD: u16 = 0x4620;
const KIND_ENTRIES: u16 = 0x4621;
const KIND_CUT: u16 = 0x4622;
/// The longest record, in bytes.
const RECORD_MAX_BYTES: u64 = 64 << 10;
const _: () = assert!(ATTEMPTS_MAX * 64 + SERVERS_MAX * 32 < RECORD_MAX_BYTES as usize);
/// Surplus files that a directory may hold.
const SURPLUS_FILES_MAX: u32 = 100_000;
const RECORD: &str = "record";
const RECORD_NEW: &str = "record.new";
const LOG: &str = "log";
const LOCK: &str = "lock";

/// Why a directory cannot be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses it.
    #[error("{0}: another process uses this directory")]
    InUse(PathBuf),
    /// It belongs to another factory, or to another group.
    #[error("{path}: this is the directory of server {id} of the group {group:?}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        id: ServerId,
        /// All ids of its group.
        group: Vec<u32>,
    },
    /// It has lost something.
    #[error("{path}: damaged ({what}); nothing was changed. Empty the directory, and a primary will fill it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system says so.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

/// The file `record`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    id: ServerId,
    group: Vec<ServerId>,
    incarnation: Incarnation,
    promised: Epoch,
    attempts: Attempts,
    view: View,
    /// The log had this many entries, at least, when this was written.
    log_floor: u64,
}

#[derive(Serialize, Deserialize)]
struct Entries {
    first: u64,
    committed: u64,
    entries: Vec<Entry>,
}

/// A directory in use.
pub struct Store<D> {
    disk: D,
    directory: PathBuf,
    record: Record,
    log: Box<dyn DiskFile>,
    end: u64,
    last_index: u64,
    _lock: DiskLock,
}

impl<D: Disk> Store<D> {
    /// Opens a directory, or makes it. `draw` gives a random number for a new one.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed in a directory that existed.
    pub fn open(
        disk: D,
        directory: &Path,
        id: ServerId,
        group: &[ServerId],
        draw: impl FnOnce() -> u64,
    ) -> Result<(Store<D>, Stored), StoreError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error: io::Error| StoreError::Io { path, error }
        };
        disk.create_dir_all(directory).map_err(at(directory))?;
        let lock = disk.lock(&directory.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::InUse(directory.to_path_buf()),
            _ => StoreError::Io { path: directory.to_path_buf(), error },
        })?;
        let (record_path, log_path) = (directory.join(RECORD), directory.join(LOG));
        let known = match disk.exists(&record_path).map_err(at(&record_path))? {
            true => Some(read_record(&disk, &record_path)?),
            false => None,
        };
        let is_new = known.is_none();
        if let Some(known) = known.as_ref().filter(|known| known.id != id || known.group != group) {
            let (path, group) = (directory.to_path_buf(), known.group.iter().map(|id| id.0).collect());
            return Err(StoreError::Foreign { path, id: known.id, group });
        }
        if is_new && disk.exists(&log_path).map_err(at(&log_path))? {
            let what = "there is a log, and no record of what was promised".to_owned();
            return Err(StoreError::Damaged { path: record_path, what });
        }
        let record = known.unwrap_or_else(|| Record {
            id,
            group: group.to_vec(),
            incarnation: Incarnation(draw()),
            promised: Epoch::NONE,
            attempts: Attempts::new(),
            view: View::none(),
            log_floor: 0,
        });
        if is_new {
            // First: a log without it is damage.
            write_record(&disk, directory, &record).map_err(at(&record_path))?;
        }
        let log = disk.open(&log_path, true).map_err(at(&log_path))?;
        disk.sync_dir(directory).map_err(at(directory))?;
        let found = read_log(&*log, &log_path)?;
        if found.log.last_index() < record.log_floor {
            let what = format!("{} entries, and there were {}", found.log.last_index(), record.log_floor);
            return Err(StoreError::Damaged { path: log_path, what });
        }
        if found.end < log.len().map_err(at(&log_path))? {
            log.set_len(found.end).and_then(|()| log.sync()).map_err(at(&log_path))?;
        }
        let stored = Stored {
            incarnation: record.incarnation,
            promised: record.promised,
            attempts: record.attempts.clone(),
            view: record.view.clone(),
            committed: found.committed.min(found.log.last_index()),
            log: found.log,
        };
        let last_index = stored.log.last_index();
        let directory = directory.to_path_buf();
        Ok((Store { disk, directory, record, log, end: found.end, last_index, _lock: lock }, stored))
    }

    /// Makes a change durable. Returns where surplus entries went, if there are any.
    ///
    /// # Errors
    /// Those of the disk. What was asked may be durable or not; the process must end.
    pub fn persist(&mut self, change: &Change) -> io::Result<Option<PathBuf>> {
        match change {
            Change::Promise(epoch, attempts) => {
                self.record.promised = *epoch;
                self.record.attempts = attempts.clone();
                self.write_record()?;
            }
            Change::View(view, attempts) => {
                self.record.view = view.clone();
                self.record.attempts = attempts.clone();
                self.write_record()?;
            }
            Change::Append { committed, entries } => {
                for part in entries.chunks(ENTRIES_MAX) {
                    let entries = part.to_vec();
                    let first = self.last_index + 1;
                    self.append(KIND_ENTRIES, &Entries { first, committed: *committed, entries })?;
                    self.last_index += part.len() as u64;
                }
            }
            Change::Cut { keep, applied, surplus } => {
                let path = self.write_surplus(*keep, *applied, surplus)?;
                self.last_index = *keep;
                self.write_record()?;
                self.append(KIND_CUT, keep)?;
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn write_record(&mut self) -> io::Result<()> {
        self.record.log_floor = self.last_index;
        write_record(&self.disk, &self.directory, &self.record)
    }

    fn append<T: Serialize>(&mut self, kind: u16, value: &T) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::frame(&mut bytes, kind, value).map_err(io::Error::other)?;
        self.log.write_at(&bytes, self.end)?;
        self.log.sync()?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_surplus(&self, keep: u64, applied: u64, surplus: &[Entry]) -> io::Result<PathBuf> {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# {} entries after index {keep}, of which {applied} were applied here", surplus.len());
        let _ = writeln!(text, "# index\tepoch\tcustomer_id\tlast_order");
        for (place, Entry { epoch, op }) in surplus.iter().enumerate() {
            let _ = writeln!(text, "{}\t{epoch}\t{}\t{}", keep + 1 + place as u64, op.arg1, op.arg2);
        }
        for number in 1..=SURPLUS_FILES_MAX {
            let path = self.directory.join(format!("surplus.{number}"));
            if !self.disk.exists(&path)? {
                let file = self.disk.open(&path, true)?;
                file.write_at(text.as_bytes(), 0)?;
                file.sync()?;
                self.disk.sync_dir(&self.directory)?;
                return Ok(path);
            }
        }
        Err(io::Error::other(format!("{} holds {SURPLUS_FILES_MAX} surplus files", self.directory.display())))
    }
}

fn write_record(disk: &dyn Disk, directory: &Path, record: &Record) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, KIND_RECORD, record).map_err(io::Error::other)?;
    let (path, new) = (directory.join(RECORD), directory.join(RECORD_NEW));
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(directory)
}

fn read_record(disk: &dyn Disk, path: &Path) -> Result<Record, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_path_buf(), what };
    let bytes = read_file(disk, path, RECORD_MAX_BYTES).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => damaged(error.to_string()),
        _ => StoreError::Io { path: path.to_path_buf(), error },
    })?;
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
        return Err(damaged("it is cut off".to_owned()));
    };
    let header = FrameHeader::parse(head, RECORD_MAX_BYTES as usize).map_err(|error| damaged(error.to_string()))?;
    if header.kind != KIND_RECORD || header.payload_len_bytes != payload.len() {
        return Err(damaged("it is no record".to_owned()));
    }
    header.verify(payload).and_then(|()| codec::decode(payload)).map_err(|error| damaged(error.to_string()))
}

/// What a log file holds.
struct Found {
    log: Log,
    committed: u64,
    /// Where the last whole frame ends.
    end: u64,
}

fn read_log(file: &dyn DiskFile, path: &Path) -> Result<Found, StoreError> {
    let failed = |error: io::Error| StoreError::Io { path: path.to_path_buf(), error };
    let len = file.len().map_err(failed)?;
    let mut found = Found { log: Log::default(), committed: 0, end: 0 };
    let mut payload = Vec::new();
    loop {
        let damaged = |what: String| StoreError::Damaged {
            path: path.to_path_buf(),
            what: format!("{what} at byte {}", found.end),
        };
        let rest = len - found.end;
        let mut head = [0; HEADER_LEN_BYTES];
        if read_fully(file, &mut head, found.end).map_err(failed)? < HEADER_LEN_BYTES {
            return Ok(found);
        }
        let parsed = FrameHeader::parse(&head, FRAME_PAYLOAD_MAX_BYTES);
        if let Err(error @ CodecError::Version { found: 1.. }) = &parsed {
            return Err(damaged(error.to_string()));
        }
        let whole = parsed.as_ref().ok().map(|header| (HEADER_LEN_BYTES + header.payload_len_bytes) as u64);
        let Some((header, whole)) = parsed.ok().zip(whole.filter(|whole| *whole <= rest)) else {
            // Torn; unless what is damaged is a header, and the frames after it would be lost without a word.
            return match another_frame_after(file, found.end, len).map_err(failed)? {
                false => Ok(found),
                true => Err(damaged("no whole frame, and another one after it".to_owned())),
            };
        };
        payload.resize(header.payload_len_bytes, 0);
        read_fully(file, &mut payload, found.end + HEADER_LEN_BYTES as u64).map_err(failed)?;
        match header.verify(&payload) {
            Ok(()) => {}
            Err(_) if whole == rest => return Ok(found),
            Err(error) => return Err(damaged(error.to_string())),
        }
        match header.kind {
            KIND_ENTRIES => {
                let Entries { first, committed, entries } =
                    codec::decode(&payload).map_err(|error| damaged(error.to_string()))?;
                if first != found.log.last_index() + 1 {
                    return Err(damaged(format!("entry {first} after entry {}", found.log.last_index())));
                }
                entries.into_iter().for_each(|entry| found.log.push(entry));
                found.committed = found.committed.max(committed);
            }
            KIND_CUT => {
                let keep = codec::decode(&payload).map_err(|error| damaged(error.to_string()))?;
                found.log.cut(keep);
                found.committed = found.committed.min(keep);
            }
            kind => return Err(damaged(format!("a frame of kind {kind:#06x}"))),
        }
        found.end += whole;
    }
}

/// Whether a whole frame of a log begins anywhere after `from`, or so much follows that one must have.
fn another_frame_after(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<bool> {
    if to - from > (HEADER_LEN_BYTES + FRAME_PAYLOAD_MAX_BYTES) as u64 {
        return Ok(true);
    }
    let mut bytes = vec![0; (to - from) as usize];
    let count = read_fully(file, &mut bytes, from)?;
    bytes.truncate(count);
    Ok((1..bytes.len()).any(|at| {
        let Some((head, rest)) = bytes[at..].split_first_chunk::<HEADER_LEN_BYTES>() else { return false };
        let Ok(header) = FrameHeader::parse(head, rest.len()) else { return false };
        matches!(header.kind, KIND_ENTRIES | KIND_CUT) && header.verify(&rest[..header.payload_len_bytes]).is_ok()
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use smr::internals::disk::RealDisk;
    use tempfile::TempDir;

    use super::*;
    use crate::words::{Attempt, MapOp, ViewId};

    const ID: ServerId = ServerId(1);
    const GROUP: [ServerId; 2] = [ServerId(0), ServerId(1)];
    const EPOCH: Epoch = Epoch { counter: 3, server: ID, incarnation: Incarnation(7) };

    fn open(directory: &TempDir) -> Result<(Store<RealDisk>, Stored), StoreError> {
        Store::open(RealDisk, directory.path(), ID, &GROUP, || 7)
    }

    fn entries(orders: std::ops::Range<i32>) -> Vec<Entry> {
        orders.map(|order| Entry { epoch: EPOCH, op: MapOp::update(1, order) }).collect()
    }

    fn append(store: &mut Store<RealDisk>, orders: std::ops::Range<i32>) {
        let committed = orders.start as u64;
        store.persist(&Change::Append { committed, entries: entries(orders) }).unwrap();
    }

    fn orders(stored: &Stored) -> Vec<i32> {
        stored.log.slice(1, usize::MAX).iter().map(|entry| entry.op.arg2).collect()
    }

    #[test]
    fn open_again_has_all_that_was_persisted() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, stored) = open(&directory).unwrap();
        assert!(stored.view.is_none() && stored.log.last_index() == 0);
        let view = View { id: ViewId { epoch: EPOCH, change: 2 }, live: [(ID, stored.incarnation)].into() };
        let attempts = Attempts::from([((ServerId(0), Incarnation(9)), Attempt { epoch: EPOCH, live: true })]);
        store.persist(&Change::Promise(EPOCH, attempts.clone())).unwrap();
        append(&mut store, 0..5);
        store.persist(&Change::View(view.clone(), attempts.clone())).unwrap();
        let surplus = entries(2..5);
        let path = store.persist(&Change::Cut { keep: 2, applied: 1, surplus }).unwrap().unwrap();
        append(&mut store, 2..4);
        drop(store);
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("# 3 entries after index 2, of which 1 were applied here\n"), "{text}");
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), ["3\t3.1\t1\t2", "4\t3.1\t1\t3", "5\t3.1\t1\t4"]);
        let (_, stored) = open(&directory).unwrap();
        assert_eq!((stored.incarnation, stored.promised, stored.view), (Incarnation(7), EPOCH, view));
        assert_eq!((stored.committed, stored.attempts), (2, attempts));
        let (_store, stored) = {
            drop(stored.log);
            open(&directory).unwrap()
        };
        assert_eq!(orders(&stored), [0, 1, 2, 3]);
    }

    #[test]
    fn torn_last_frame_is_dropped_wherever_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&directory).unwrap();
        append(&mut store, 0..3);
        let whole = store.end;
        append(&mut store, 3..6);
        drop(store);
        let path = directory.path().join(LOG);
        let bytes = fs::read(&path).unwrap();
        for len in whole..bytes.len() as u64 {
            let mut torn = bytes[..len as usize].to_vec();
            for zeros in [0, 40] {
                torn.resize(len as usize + zeros, 0);
                // Zeros after a beginning of the frame make it whole in length, but not in content.
                if zeros > 0 && len > whole {
                    torn.truncate(bytes.len());
                }
                if torn == bytes {
                    continue;
                }
                fs::write(&path, &torn).unwrap();
                let (mut store, stored) = open(&directory).unwrap_or_else(|error| panic!("{len}+{zeros}: {error}"));
                assert_eq!(orders(&stored), [0, 1, 2], "{len}+{zeros}");
                append(&mut store, 3..4);
                drop(store);
                assert_eq!(orders(&open(&directory).unwrap().1), [0, 1, 2, 3], "{len}+{zeros}");
            }
        }
    }

    #[test]
    fn damage_before_the_last_frame_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&directory).unwrap();
        append(&mut store, 0..3);
        let whole = store.end as usize;
        append(&mut store, 3..6);
        drop(store);
        for (name, end) in [(LOG, whole), (RECORD, usize::MAX)] {
            let path = directory.path().join(name);
            let bytes = fs::read(&path).unwrap();
            for at in 0..end.min(bytes.len()) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                fs::write(&path, &damaged).unwrap();
                match open(&directory) {
                    Err(StoreError::Damaged { .. }) => {}
                    Err(error) => panic!("{name} at {at}: {error}"),
                    Ok((_, stored)) => panic!("{name} at {at}: opened with {:?}", orders(&stored)),
                }
                assert_eq!(fs::read(&path).unwrap(), damaged, "{name} at {at} was changed");
                fs::write(&path, &bytes).unwrap();
            }
        }
    }

    #[test]
    fn log_shorter_than_the_record_knows_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, stored) = open(&directory).unwrap();
        append(&mut store, 0..3);
        let whole = store.end;
        append(&mut store, 3..6);
        let view = View { id: ViewId { epoch: EPOCH, change: 0 }, live: [(ID, stored.incarnation)].into() };
        store.persist(&Change::View(view, Attempts::new())).unwrap();
        drop(store);
        let path = directory.path().join(LOG);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..whole as usize]).unwrap();
        assert!(matches!(open(&directory), Err(StoreError::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(open(&directory), Err(StoreError::Damaged { .. })));
        fs::write(&path, &bytes).unwrap();
        fs::remove_file(directory.path().join(RECORD)).unwrap();
        assert!(matches!(open(&directory), Err(StoreError::Damaged { .. })), "a log without a record");
    }
}
