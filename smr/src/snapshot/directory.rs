//! The directory that holds a replica's snapshots.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::format::{Header, Pieces};
use super::names::{self, Name};
use super::reader::{SendingFile, SnapshotReader};
use super::writer::SnapshotWriter;
use super::{BAD_FILES_MAX, Incoming, SnapshotError, SnapshotInfo, SnapshotOffer, at, corrupt};
use crate::disk::Disk;
use crate::entry::{EntryId, GenesisHash, SnapshotMeta};
use crate::id::GroupName;

/// A replica's snapshots. Copies share the directory; all calls block on the disk and may come from any thread.
#[derive(Clone)]
pub struct SnapshotDir {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    group: GroupName,
    notes: Vec<String>,
    state: Mutex<State>,
}

/// What several threads change: one that writes a snapshot, one that receives, one that installs.
#[derive(Default)]
pub(super) struct State {
    /// The newest whole snapshot.
    pub(super) latest: Option<SnapshotInfo>,
    /// The transfer that may write, and what it brings.
    pub(super) receiving: Option<(TransferId, EntryId)>,
    /// For names and transfers that must not collide.
    counter: u64,
}

/// Tells a transfer from the one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransferId(u64);

impl State {
    pub(super) fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn begin_transfer(&mut self, last: EntryId) -> TransferId {
        let id = TransferId(self.count());
        self.receiving = Some((id, last));
        id
    }
}

impl SnapshotDir {
    /// Opens the directory, or makes it; brings it in order after a crash; finds the newest sound snapshot of `group`,
    /// and of `genesis` if that is known already. Reads it whole.
    ///
    /// Damaged and foreign snapshots are set aside, each with a note in [`SnapshotDir::notes`]. Whether the log can do
    /// without them is for the caller to find out.
    ///
    /// # Errors
    /// `Disk`; `Version` if a file is of another version: then the directory is as it was, but for leftovers of a
    /// crash.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        group: GroupName,
        genesis: Option<GenesisHash>,
    ) -> Result<(SnapshotDir, Option<SnapshotInfo>), SnapshotError> {
        if !disk.exists(&directory).map_err(at(&directory))? {
            disk.create_dir_all(&directory).map_err(at(&directory))?;
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            disk.sync_dir(parent).map_err(at(parent))?;
        }
        let mut inner = Inner { disk, directory, group, notes: Vec::new(), state: Mutex::default() };
        let mut snapshots = Vec::new();
        for name in inner.list()? {
            match names::parse(&name) {
                Name::Snapshot(last) => snapshots.push(last),
                Name::Writing => inner.remove(&name)?,
                Name::Received { resumable } => inner.rename(&name, &resumable)?,
                Name::Incoming(_) | Name::Bad => {}
                Name::Unknown => inner.notes.push(format!("{}: unknown file", inner.path(&name).display())),
            }
        }
        snapshots.sort();
        let mut latest = None;
        while let Some(last) = snapshots.pop() {
            match inner.verify_twice(last, genesis) {
                Ok(info) => {
                    latest = Some(info);
                    break;
                }
                Err(error @ SnapshotError::Corrupt { .. }) => {
                    inner.set_aside(last)?;
                    inner.notes.push(format!("{error}; set aside"));
                }
                Err(error) => return Err(error),
            }
        }
        for older in snapshots {
            inner.remove(&names::snapshot(older))?;
        }
        inner.keep_newest_incoming(latest.as_ref())?;
        inner.state().latest.clone_from(&latest);
        Ok((SnapshotDir { inner: Arc::new(inner) }, latest))
    }

    /// What was wrong at open, a line each.
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// The newest whole snapshot.
    pub fn latest(&self) -> Option<SnapshotInfo> {
        self.state().latest.clone()
    }

    /// Writes a snapshot of what `fill` writes, and removes older ones. When this returns, the snapshot is whole, was
    /// read back and is on the device. Long work, for a background thread; `fill` may make many small writes.
    ///
    /// # Errors
    /// `Disk`, `State`: the older snapshot is as it was. `Obsolete` if a newer one was adopted meanwhile.
    pub fn write(
        &self,
        meta: &SnapshotMeta,
        genesis: GenesisHash,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let name = names::writing(meta.last, self.state().count());
        let written = self.write_as(&name, meta, genesis, fill).and_then(|info| self.publish(&name, info));
        if written.is_err() {
            // Makes room on a full disk. If it fails too, the next open does it.
            let _ = self.inner.remove(&name);
        }
        written
    }

    /// The payload of a snapshot.
    ///
    /// # Errors
    /// `Corrupt` if the file is not (or no longer) this snapshot; `Disk`, also if it was removed meanwhile.
    pub fn read(&self, info: &SnapshotInfo) -> Result<SnapshotReader, SnapshotError> {
        self.inner.read(&names::snapshot(info.meta.last), info)
    }

    /// A snapshot for another node.
    ///
    /// # Errors
    /// `Corrupt` if the file is not (or no longer) this snapshot; `Disk`, also if it was removed meanwhile.
    pub fn open_for_sending(&self, info: &SnapshotInfo) -> Result<SendingFile, SnapshotError> {
        let pieces = self.inner.pieces(&names::snapshot(info.meta.last))?;
        check_is(&pieces, &self.inner.group, info)?;
        Ok(SendingFile::new(pieces, info.clone()))
    }

    /// Begins, or resumes, the receipt of a snapshot; see [`Incoming::begin`].
    ///
    /// # Errors
    /// Those of [`Incoming::begin`].
    pub fn receive(&self, offer: SnapshotOffer) -> Result<Incoming, SnapshotError> {
        Incoming::begin(self, offer)
    }

    /// Puts a snapshot out of service that was found damaged while it was read. A new one should be taken at once, and
    /// takes its place; until then the file stays, for a device may have misread it once, and the log is cut under it.
    pub fn doubt(&self, info: &SnapshotInfo) {
        let mut state = self.state();
        if state.latest.as_ref() == Some(info) {
            state.latest = None;
        }
    }

    fn write_as(
        &self,
        name: &str,
        meta: &SnapshotMeta,
        genesis: GenesisHash,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let path = self.inner.path(name);
        let file = self.inner.disk.open(&path, true).map_err(at(&path))?;
        let header = Header { group: self.inner.group.clone(), genesis, meta: meta.clone() };
        let mut writer = SnapshotWriter::new(file, &path, &header)?;
        let mut output = RoomLeft { output: &mut writer, disk: self.disk(), directory: self.inner.path(""), looked: 0 };
        if let Err(error) = fill(&mut output) {
            return Err(writer.take_failure().unwrap_or(SnapshotError::State(error)));
        }
        let (len_bytes, fingerprint) = writer.finish()?;
        let info = SnapshotInfo { meta: meta.clone(), genesis, len_bytes, fingerprint };
        // The log will be cut on the strength of this file, so look at it once more, from the outside (S6).
        let found = self.inner.read(name, &info)?.verify()?;
        assert_eq!(found, info, "the snapshot read back is not the one written");
        Ok(info)
    }

    /// Gives a whole, synced file its final name, and makes it the newest.
    pub(super) fn publish(&self, name: &str, info: SnapshotInfo) -> Result<SnapshotInfo, SnapshotError> {
        let mut state = self.state();
        let previous = state.latest.as_ref().map_or(EntryId::ZERO, |latest| latest.meta.last);
        if previous > info.meta.last {
            return Err(SnapshotError::Obsolete { have: previous });
        }
        self.inner.rename(name, &names::snapshot(info.meta.last))?;
        self.inner.sync()?;
        state.latest = Some(info.clone());
        for name in self.inner.list()? {
            if let Name::Snapshot(last) = names::parse(&name)
                && last < info.meta.last
            {
                self.inner.remove(&name)?;
            }
        }
        Ok(info)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    pub(super) fn group(&self) -> &GroupName {
        &self.inner.group
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), SnapshotError> {
        self.inner.rename(from, to)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        self.inner.remove(name)
    }

    /// Opens the file for reading, and checks by its header that it is what `info` says.
    pub(super) fn read_file(&self, name: &str, info: &SnapshotInfo) -> Result<SnapshotReader, SnapshotError> {
        self.inner.read(name, info)
    }

    /// Removes what was received of other snapshots.
    pub(super) fn remove_incoming_but(&self, keep: &str) -> Result<(), SnapshotError> {
        for name in self.inner.list()? {
            if matches!(names::parse(&name), Name::Incoming(_)) && name != keep {
                self.inner.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed in single assignments, so a thread that panicked left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn list(&self) -> Result<Vec<String>, SnapshotError> {
        self.disk.list(&self.directory).map_err(at(&self.directory))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), SnapshotError> {
        let from = self.path(from);
        self.disk.rename(&from, &self.path(to)).map_err(at(&from))
    }

    fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        let path = self.path(name);
        self.disk.remove_file(&path).map_err(at(&path))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.disk.sync_dir(&self.directory).map_err(at(&self.directory))
    }

    fn pieces(&self, name: &str) -> Result<Pieces, SnapshotError> {
        let path = self.path(name);
        let file = self.disk.open(&path, false).map_err(at(&path))?;
        let len_bytes = file.len().map_err(at(&path))?;
        Pieces::open(file, &path, len_bytes)
    }

    fn read(&self, name: &str, info: &SnapshotInfo) -> Result<SnapshotReader, SnapshotError> {
        let pieces = self.pieces(name)?;
        check_is(&pieces, &self.group, info)?;
        Ok(SnapshotReader::new(pieces, Some(info.fingerprint)))
    }

    /// Reads the whole snapshot that ends with `last`.
    fn verify(&self, last: EntryId, genesis: Option<GenesisHash>) -> Result<SnapshotInfo, SnapshotError> {
        let pieces = self.pieces(&names::snapshot(last))?;
        let path = pieces.path();
        let header = &pieces.header;
        if header.group != self.group || genesis.is_some_and(|genesis| genesis != header.genesis) {
            let (group, found) = (&header.group, header.genesis);
            let own = genesis.map_or(String::new(), |genesis| format!(" with genesis {genesis}"));
            let what = format!("is of group {group} with genesis {found}, not of {}{own}", self.group);
            return Err(corrupt(path, what));
        }
        if header.meta.last != last {
            return Err(corrupt(path, format!("is the snapshot at {}", header.meta.last)));
        }
        SnapshotReader::new(pieces, None).verify()
    }

    /// As [`Inner::verify`]. A device may misread once: what is damaged is so twice.
    fn verify_twice(&mut self, last: EntryId, genesis: Option<GenesisHash>) -> Result<SnapshotInfo, SnapshotError> {
        let first = match self.verify(last, genesis) {
            Err(error @ SnapshotError::Corrupt { .. }) => error,
            verified => return verified,
        };
        self.disk.forget_cached(&self.path(&names::snapshot(last)));
        let info = self.verify(last, genesis)?;
        self.notes.push(format!("{first}; read again, it is sound"));
        Ok(info)
    }

    fn set_aside(&self, last: EntryId) -> Result<(), SnapshotError> {
        let name = names::snapshot(last);
        self.rename(&name, &names::bad(&name))?;
        self.sync()?;
        let mut bad = self.list()?;
        bad.retain(|name| names::parse(name) == Name::Bad);
        // Names sort by index: the oldest go.
        let surplus = bad.len().saturating_sub(BAD_FILES_MAX);
        for name in &bad[..surplus] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// A part of a snapshot can be resumed if it reaches further than what is here; of several the newest is kept.
    fn keep_newest_incoming(&self, latest: Option<&SnapshotInfo>) -> Result<(), SnapshotError> {
        let here = latest.map_or(EntryId::ZERO, |latest| latest.meta.last);
        let mut kept: Option<String> = None;
        // Names sort by index, so the newest comes last.
        for name in self.list()? {
            if let Name::Incoming(last) = names::parse(&name) {
                let superfluous = if last > here { kept.replace(name) } else { Some(name) };
                if let Some(name) = superfluous {
                    self.remove(&name)?;
                }
            }
        }
        Ok(())
    }
}

fn check_is(pieces: &Pieces, group: &GroupName, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    let header = &pieces.header;
    let same = header.group == *group
        && header.genesis == info.genesis
        && header.meta == info.meta
        && pieces.len_bytes == info.len_bytes;
    if same {
        return Ok(());
    }
    let what = format!("is the snapshot of {} at {}, of {} bytes", header.group, header.meta.last, pieces.len_bytes);
    Err(corrupt(pieces.path(), format!("{what}, not the one at {} of {} bytes", info.meta.last, info.len_bytes)))
}

/// How often whoever writes a snapshot looks whether there is room for more, in bytes.
const LOOK_AT_ROOM_BYTES: usize = 1 << 20;

/// Writes as long as that leaves room for the log.
struct RoomLeft<'o> {
    output: &'o mut dyn Write,
    disk: &'o dyn Disk,
    directory: PathBuf,
    /// Bytes since the last look.
    looked: usize,
}

impl Write for RoomLeft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.looked == 0 && !self.disk.room(&self.directory)?.suffices_for_snapshot() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the rest of the disk is left to the log"));
        }
        let written = self.output.write(bytes)?;
        self.looked += written;
        if self.looked >= LOOK_AT_ROOM_BYTES {
            self.looked = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
