//! sled as an ordered map of bytes. The only file that names sled.
//!
//! Everything here makes up for something that was measured (sled 0.34.7, power cuts and damaged files):
//! - its flush does not reach the device, and it reuses old segments while believing so: all its inodes carry S;
//! - it takes an error while reading for damage: everything is read once before it is opened;
//! - it panics at some damage, and repeats every error for ever: panics are caught, errors are final;
//! - a `.generating` file left by a crash, or a damaged `snap.*` or `conf`, makes every later open fail although its
//!   log is whole;
//! - a page beyond a quarter of a segment goes to `blobs/`, which is never synced: records are small, and no blob may
//!   be there;
//! - its background flusher syncs before its own write has happened: it is switched off;
//! - a database that is cut off or missing opens shorter or empty, without an error: not found here, but by the
//!   [`super::watermark`] and by [`super::open::sled_present`], which has to be asked *before* anything is opened.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::open_error::{OpenError, Trouble};
use super::record::{RECORD_MAX_BYTES, SLED_SEGMENT_BYTES};
use super::{ByteMap, Damage, KEY_LEN_BYTES, Key, LoadError, StorageError};
use crate::disk::sync_mode::{self, FileSystem, SyncMode};

const TREE: &str = "log";
const BLOBS: &str = "blobs";
const CACHE_BYTES: u64 = 64 << 20;

/// In which steps its files are read before it is opened.
const READ_STEP_BYTES: usize = 1 << 20;

/// In one process, a pool thread of sled may keep the lock of a database for a moment after it was closed.
const REOPEN_TRIES_MAX: usize = 100;
const REOPEN_PAUSE_MS: u64 = 20;

const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
/// sled's snapshot ends with its length (8 bytes) and a checksum (4 bytes) over what is before them, its `conf` with a
/// checksum.
const SNAP_TRAILER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// The log's map in sled.
struct SledMap {
    directory: PathBuf,
    // The tree before the database: it must not outlive it.
    tree: ::sled::Tree,
    database: ::sled::Db,
}

/// What opening found.
pub(crate) struct OpenedMap {
    pub(crate) map: Box<dyn ByteMap>,
    pub(crate) sync_mode: SyncMode,
    pub(crate) notes: Vec<String>,
}

/// Opens the database in `directory`, which is created if need be.
pub(crate) fn open(directory: &Path, allow_unsynced: bool) -> Result<OpenedMap, Trouble> {
    let doing = |what: &'static str| move |error: io::Error| Trouble::io(directory, what, error);
    let mut notes = Vec::new();
    fs::create_dir_all(directory).map_err(doing("creating"))?;
    let file_system = sync_mode::file_system(directory).map_err(doing("asking for the file system"))?;
    let mut unverified = Vec::new();
    verify(directory, &mut unverified).map_err(doing("setting the attribute S"))?;
    if let Some(parent) = directory.parent() {
        sync(parent).map_err(doing("syncing the parent directory"))?;
    }

    refuse_unreadable_names(directory)?;
    clean(directory, &mut notes).map_err(doing("cleaning"))?;
    // A copy of a directory has neither the attribute nor, perhaps, its content on the device.
    verify_contents(directory, &mut unverified).map_err(doing("setting the attribute S"))?;
    let refuse = |unverified: &[PathBuf]| {
        let mode = mode(file_system, unverified);
        if mode == SyncMode::Unsynced && !allow_unsynced { Err(not_durable(directory, unverified)) } else { Ok(mode) }
    };
    // Before anything is touched, as far as it can be known by then; new files come later.
    refuse(&unverified)?;
    read_through(directory)?;
    let database = open_database(directory)?;
    let tree = guarded(|| database.open_tree(TREE)).map_err(|failure| failure.at_open(directory))?;
    // sled writes a new tree when it pleases. Without this a node that was initialized with an empty log and killed
    // would look like one whose file was emptied.
    guarded(|| database.flush()).map_err(|failure| failure.at_open(directory))?;
    let map = SledMap { directory: directory.to_owned(), tree, database };

    verify_contents(directory, &mut unverified).map_err(doing("setting the attribute S"))?;
    for blob in names_in(&directory.join(BLOBS))? {
        // sled names a blob by a number; all else is someone else's.
        if blob.to_str().is_some_and(|name| name.parse::<i64>().is_ok()) {
            let what =
                format!("not empty: a record of more than {RECORD_MAX_BYTES} bytes was stored where sled never syncs");
            return Err(Damage::new(&directory.join(BLOBS), what).into());
        }
    }
    sync(directory).map_err(doing("syncing"))?;

    let sync_mode = refuse(&unverified)?;
    Ok(OpenedMap { map: Box::new(map), sync_mode, notes })
}

fn mode(file_system: FileSystem, unverified: &[PathBuf]) -> SyncMode {
    match file_system {
        FileSystem::Tmpfs => SyncMode::Tmpfs,
        FileSystem::Proven if unverified.is_empty() => SyncMode::Synced,
        FileSystem::Proven | FileSystem::Unknown => SyncMode::Unsynced,
    }
}

fn not_durable(directory: &Path, unverified: &[PathBuf]) -> Trouble {
    let why = match unverified.first() {
        Some(path) => format!("{} does not keep the attribute S (FS_SYNC_FL)", path.display()),
        None => "the kind of file system is not known to honour the attribute S (FS_SYNC_FL)".to_owned(),
    };
    let why = format!("{why}; --log_engine segments needs no attribute");
    Trouble::Refuse(OpenError::NotDurable { directory: directory.to_owned(), why })
}

fn sync(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

fn verify(path: &Path, unverified: &mut Vec<PathBuf>) -> io::Result<()> {
    if !sync_mode::set_and_verify(path)? {
        unverified.push(path.to_owned());
    }
    Ok(())
}

fn verify_contents(directory: &Path, unverified: &mut Vec<PathBuf>) -> io::Result<()> {
    for path in own_files(directory)? {
        // Not inherited on btrfs, so each inode is asked.
        verify(&path, unverified)?;
        File::open(&path)?.sync_all()?;
    }
    Ok(())
}

/// What sled keeps in its directory. Others may have left files there too, perhaps ones that we may not even open.
fn own_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_of_sled) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn is_of_sled(name: &str) -> bool {
    matches!(name, "db" | "conf" | BLOBS) || name.starts_with("snap.")
}

fn names_in(directory: &Path) -> Result<Vec<OsString>, Trouble> {
    let failed = |error| Trouble::io(directory, "listing", error);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
}

/// sled panics at a name among its blobs that is no text, which would look like damage.
fn refuse_unreadable_names(directory: &Path) -> Result<(), Trouble> {
    let blobs = directory.join(BLOBS);
    match names_in(&blobs)?.into_iter().find(|name| name.to_str().is_none()) {
        Some(name) => {
            let error = io::Error::other("is no file of ours, and its name is not UTF-8: move it elsewhere");
            Err(Trouble::io(&blobs.join(name), "opening the log", error))
        }
        None => Ok(()),
    }
}

/// Reads all files to their ends, so that a device that cannot read them is found out here: sled takes such an error
/// for damage, and overwrites what it could not read. What was read here it then finds in the page cache.
fn read_through(directory: &Path) -> Result<(), Trouble> {
    let mut buffer = vec![0; READ_STEP_BYTES];
    for path in own_files(directory).map_err(|error| Trouble::io(directory, "listing", error))? {
        let doing = |error: io::Error| Trouble::io(&path, "reading", error);
        let file = File::open(&path).map_err(doing)?;
        if !file.metadata().map_err(doing)?.is_file() {
            continue;
        }
        let mut offset = 0;
        loop {
            match file.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(count) => offset += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(doing(error)),
            }
        }
    }
    Ok(())
}

/// Removes and sets aside what would make sled fail although its log is whole.
fn clean(directory: &Path, notes: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with("snap.") {
            continue;
        }
        if name.ends_with(".generating") {
            fs::remove_file(&path)?;
            notes.push(format!("{}: removed, an earlier start was interrupted", path.display()));
        } else if !snap_is_sound(&path)? {
            // Without it sled reads its log from the start.
            let aside = directory.join(format!("set-aside.{name}"));
            fs::rename(&path, &aside)?;
            notes.push(format!("{}: damaged, renamed to {}", path.display(), aside.display()));
        }
    }
    let conf = directory.join("conf");
    let bytes = match fs::read(&conf) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    // It holds the settings, which never change, so sled can write it again, and does if it is missing or empty (a
    // power cut may leave it so). What is in the log shows by itself whether it is whole.
    if directory.join("db").exists() && !conf_is_sound(&bytes) {
        if !bytes.is_empty() {
            fs::rename(&conf, directory.join("set-aside.conf"))?;
        }
        notes.push(format!("{}: missing or damaged ({} bytes), written again", conf.display(), bytes.len()));
    }
    Ok(())
}

/// sled itself only warns.
fn conf_is_sound(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(content, stored)| !content.is_empty() && CRC32.checksum(content).to_le_bytes() == *stored)
}

fn snap_is_sound(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    if bytes.len() <= SNAP_TRAILER_BYTES {
        return Ok(false);
    }
    let (content, trailer) = bytes.split_at(bytes.len() - SNAP_TRAILER_BYTES);
    let stored = &trailer[SNAP_TRAILER_BYTES - CHECKSUM_BYTES..];
    Ok(CRC32.checksum(content).to_le_bytes() == stored)
}

fn open_database(directory: &Path) -> Result<::sled::Db, Trouble> {
    let mut tries = 1;
    loop {
        let config = ::sled::Config::new()
            .path(directory)
            .segment_size(SLED_SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        match guarded(|| config.open()) {
            Err(Failure::LogEngine(::sled::Error::Io(error)))
                if tries < REOPEN_TRIES_MAX && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                thread::sleep(Duration::from_millis(REOPEN_PAUSE_MS));
            }
            other => return other.map_err(|failure| failure.at_open(directory)),
        }
    }
}

enum Failure {
    LogEngine(::sled::Error),
    Panic(String),
}

fn guarded<T>(work: impl FnOnce() -> ::sled::Result<T>) -> Result<T, Failure> {
    // Nothing of sled is used again after a panic in it, so no broken state is seen.
    match crate::panics::guarded(work) {
        Ok(result) => result.map_err(Failure::LogEngine),
        Err(panic) => Err(Failure::Panic(panic)),
    }
}

impl Failure {
    /// Sorts by fate: an error of the device may go away, everything else is what sled makes of a damaged file.
    fn at_load(self, directory: &Path) -> LoadError {
        match self {
            Failure::LogEngine(::sled::Error::Io(error)) if !is_about_content(&error) => {
                StorageError::new(directory, "reading the log", error).into()
            }
            Failure::LogEngine(error) => Damage::new(directory, format!("sled: {error}")).into(),
            Failure::Panic(text) => Damage::new(directory, format!("sled panicked: {text}")).into(),
        }
    }

    fn at_open(self, directory: &Path) -> Trouble {
        match self {
            Failure::LogEngine(::sled::Error::Io(error)) if !is_about_content(&error) => {
                Trouble::io(directory, "opening the log", error)
            }
            other => other.at_load(directory).into(),
        }
    }

    fn fatal(self, directory: &Path, doing: &'static str) -> StorageError {
        match self {
            Failure::LogEngine(error) => StorageError::new(directory, doing, error),
            Failure::Panic(text) => StorageError::new(directory, doing, format!("sled panicked: {text}")),
        }
    }
}

/// Errors that speak of what was read rather than of the reading.
fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

impl ByteMap for SledMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        assert!(value.len() <= RECORD_MAX_BYTES, "a value of {} bytes, limit {RECORD_MAX_BYTES}", value.len());
        match guarded(|| self.tree.insert(key, value)) {
            Ok(_before) => Ok(()),
            Err(failure) => Err(failure.fatal(&self.directory, "writing")),
        }
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        match guarded(|| self.tree.remove(key)) {
            Ok(_before) => Ok(()),
            Err(failure) => Err(failure.fatal(&self.directory, "removing")),
        }
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        let mut values = self.tree.range::<&[u8], _>(from.as_slice()..);
        loop {
            // Only sled's own work is guarded: a panic of the visitor is a bug of ours.
            let next = guarded(|| values.next().transpose()).map_err(|failure| failure.at_load(&self.directory))?;
            let Some((key, value)) = next else { return Ok(()) };
            let Ok(key) = <Key>::try_from(key.as_ref()) else {
                let what = format!("a key of {} bytes, expected {KEY_LEN_BYTES}", key.len());
                return Err(Damage::new(&self.directory, what).into());
            };
            if !visit(&key, &value) {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        match guarded(|| self.database.flush()) {
            Ok(_bytes) => Ok(()),
            Err(failure) => Err(failure.fatal(&self.directory, "flushing")),
        }
    }

    fn place(&self) -> &Path {
        &self.directory
    }
}
