//! The files of the segments: which there are, and how one is prepared before it is needed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::super::disk::{Disk, DiskFile, read_fully};
use super::super::{Damage, LoadError, StorageError};
use super::format::{FRAMES_OFFSET, FoundHeader, Header, SEGMENT_VERSION};

const SUFFIX: &str = ".segment";
/// A segment being made.
const NEW: &str = "new";
/// How many dead segments wait to be recycled; more are removed.
const DEAD_MAX: usize = 2;
/// In which steps a new segment is filled with zeros.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// The path of the segment with this number.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(file_name(number))
}

fn file_name(number: u64) -> String {
    format!("{number:08}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    // Others may leave a file of theirs here, "1.segment" for example; only a name that we would write is one of ours.
    (name == file_name(number)).then_some(number)
}

/// Whether there are segments in a directory. Only looks.
pub(crate) fn present(disk: &dyn Disk, directory: &Path) -> io::Result<Result<(), Damage>> {
    match disk.list(directory) {
        Ok(names) if names.iter().any(|name| number_of(name).is_some()) => Ok(Ok(())),
        Ok(_) => Ok(Err(Damage::new(directory, "all segments are missing"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Damage::new(directory, "missing"))),
        Err(error) => Err(error),
    }
}

/// What segments there are, by their headers.
#[derive(Default)]
pub(super) struct Found {
    /// With the header's checksum.
    pub(super) begun: BTreeMap<u64, (Header, u64)>,
    pub(super) blank: Vec<u64>,
    pub(super) damaged: BTreeMap<u64, String>,
}

/// Looks at all segments. The directory is made if need be, and nothing else is changed.
pub(super) fn find(disk: &dyn Disk, directory: &Path) -> Result<Found, LoadError> {
    let failed = |error: io::Error| StorageError::new(directory, "opening", error);
    disk.create_dir_all(directory).map_err(failed)?;
    if let Some(parent) = directory.parent() {
        disk.sync_dir(parent).map_err(failed)?;
    }
    let mut found = Found::default();
    for number in disk.list(directory).map_err(failed)?.iter().filter_map(|name| number_of(name)) {
        let path = segment_path(directory, number);
        let failed = |error: io::Error| StorageError::new(&path, "opening", error);
        let file = disk.open(&path, false).map_err(failed)?;
        let mut block = vec![0; FRAMES_OFFSET];
        let read = read_fully(file.as_ref(), &mut block, 0).map_err(failed)?;
        match Header::parse(&block[..read], number, file.len().map_err(failed)?) {
            FoundHeader::Blank => found.blank.push(number),
            FoundHeader::Begun(header, checksum) => {
                found.begun.insert(number, (header, checksum));
            }
            FoundHeader::Damaged(what) => {
                found.damaged.insert(number, what);
            }
            FoundHeader::Newer(version) => {
                return Err(LoadError::Newer { file: path, found: version, supported: SEGMENT_VERSION });
            }
        }
    }
    found.blank.sort_unstable();
    Ok(found)
}

/// Where segments come from, and go to.
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    size: u64,
    /// The next segment, ready for use.
    next: Option<Prepared>,
    /// Dead ones, the oldest first.
    dead: VecDeque<u64>,
    /// What is being done aside: at most one thing at a time.
    job: Option<Receiver<Result<Option<Prepared>, StorageError>>>,
}

struct Prepared {
    number: u64,
    file: Box<dyn DiskFile>,
}

impl Pool {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &Path, dead: impl IntoIterator<Item = u64>) -> Pool {
        let size = disk.segment_bytes();
        let dead = dead.into_iter().collect();
        Pool { disk, directory: directory.to_owned(), size, next: None, dead, job: None }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes back a segment that no one needs any more.
    pub(super) fn bury(&mut self, number: u64) {
        self.dead.push_back(number);
    }

    /// Begins, aside, what is to be done before segment `next` is needed, unless something is under way.
    pub(super) fn tidy(&mut self, next: u64) -> Result<(), StorageError> {
        if let Some(job) = &self.job {
            match job.try_recv() {
                Ok(done) => self.finish(done)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(self.lost()),
            }
        }
        let (disk, directory, size) = (Arc::clone(&self.disk), self.directory.clone(), self.size);
        let (done, job) = sync_channel(1);
        if self.next.is_none() {
            let recycled = self.dead.pop_front();
            self.disk.aside(Box::new(move || {
                let prepared = prepare(disk.as_ref(), &directory, size, next, recycled);
                // No one listens any more if the log was closed.
                let _ = done.send(prepared.map(Some));
            }));
        } else if self.dead.len() > DEAD_MAX
            && let Some(number) = self.dead.pop_front()
        {
            self.disk.aside(Box::new(move || {
                let path = segment_path(&directory, number);
                let removed = disk.remove_file(&path).map_err(|error| StorageError::new(&path, "removing", error));
                let _ = done.send(removed.map(|()| None));
            }));
        } else {
            return Ok(());
        }
        self.job = Some(job);
        Ok(())
    }

    /// The next segment, zeros in its header; prepared now if it is not yet.
    pub(super) fn take(&mut self, number: u64) -> Result<Box<dyn DiskFile>, StorageError> {
        self.wait()?;
        let prepared = match self.next.take() {
            Some(prepared) => prepared,
            None => {
                let recycled = self.dead.pop_front();
                prepare(self.disk.as_ref(), &self.directory, self.size, number, recycled)?
            }
        };
        assert!(prepared.number == number, "segment {} prepared as {number}", prepared.number);
        Ok(prepared.file)
    }

    fn wait(&mut self) -> Result<(), StorageError> {
        let Some(job) = &self.job else { return Ok(()) };
        match job.recv() {
            Ok(done) => self.finish(done),
            Err(_) => Err(self.lost()),
        }
    }

    fn finish(&mut self, done: Result<Option<Prepared>, StorageError>) -> Result<(), StorageError> {
        self.job = None;
        if let Some(prepared) = done? {
            self.next = Some(prepared);
        }
        Ok(())
    }

    fn lost(&self) -> StorageError {
        StorageError::new(&self.directory, "preparing a segment", "its thread died")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Whoever opens the directory next must not meet a thread of ours; what it failed with the next start will see.
        let _ = self.wait();
    }
}

/// Makes a segment, of a dead one if there is one that fits. When this returns it is durable under its name, and its
/// header zeros.
fn prepare(
    disk: &dyn Disk,
    directory: &Path,
    size: u64,
    number: u64,
    recycled: Option<u64>,
) -> Result<Prepared, StorageError> {
    let path = segment_path(directory, number);
    let failed = |error: io::Error| StorageError::new(&path, "preparing", error);
    let (from, file) = match recycled {
        Some(dead) => {
            let from = segment_path(directory, dead);
            let file = disk.open(&from, false).map_err(failed)?;
            if file.len().map_err(failed)? == size {
                file.write_at(&ZEROS[..FRAMES_OFFSET], 0).map_err(failed)?;
            } else {
                fill(file.as_ref(), size).map_err(failed)?;
            }
            (from, file)
        }
        None => {
            let from = directory.join(NEW);
            let file = disk.open(&from, true).map_err(failed)?;
            fill(file.as_ref(), size).map_err(failed)?;
            (from, file)
        }
    };
    file.sync().map_err(failed)?;
    if from != path {
        disk.rename(&from, &path).map_err(failed)?;
    }
    disk.sync_dir(directory).map_err(failed)?;
    Ok(Prepared { number, file })
}

/// Zeros that are written, not merely a length: only then are all blocks in their places.
fn fill(file: &dyn DiskFile, size: u64) -> io::Result<()> {
    file.set_len(0)?;
    let mut offset = 0;
    while offset < size {
        let step = (size - offset).min(ZEROS.len() as u64);
        file.write_at(&ZEROS[..step as usize], offset)?;
        offset += step;
    }
    Ok(())
}
