//! Writing a snapshot file, as a stream that is cut into chunks.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::format::{CHUNK_HEADER_LEN_BYTES, Footer, Header, SnapshotId, seal_chunk};
use super::{CHUNK_PAYLOAD_MAX_BYTES, SYNC_EVERY_BYTES, SnapshotError, at};
use crate::disk::DiskFile;

/// Takes the payload in pieces of any size.
pub(super) struct SnapshotWriter {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    id: SnapshotId,
    /// The chunk being filled, with room for its header in front.
    chunk: Vec<u8>,
    chunks: u64,
    payload_len_bytes: u64,
    /// How far the file is written.
    len_bytes: u64,
    /// How far it is synced.
    synced_bytes: u64,
    whole: Xxh3,
    /// The first failure of the disk. Nothing is written after it, whatever the source of the payload makes of it.
    failed: Option<io::Error>,
}

impl SnapshotWriter {
    /// A writer into `file`, which is empty.
    pub(super) fn new(file: Box<dyn DiskFile>, path: &Path, header: &Header) -> Result<SnapshotWriter, SnapshotError> {
        let (bytes, id) = header.encode();
        let mut chunk = Vec::with_capacity(CHUNK_HEADER_LEN_BYTES + CHUNK_PAYLOAD_MAX_BYTES);
        chunk.resize(CHUNK_HEADER_LEN_BYTES, 0);
        let mut writer = SnapshotWriter {
            file,
            path: path.to_owned(),
            id,
            chunk,
            chunks: 0,
            payload_len_bytes: 0,
            len_bytes: 0,
            synced_bytes: 0,
            whole: Xxh3::new(),
            failed: None,
        };
        writer.file.write_at(&bytes, 0).map_err(at(path))?;
        writer.whole.update(&bytes);
        writer.len_bytes = bytes.len() as u64;
        Ok(writer)
    }

    /// The disk's failure, if there was one.
    pub(super) fn take_failure(&mut self) -> Option<SnapshotError> {
        self.failed.take().map(at(&self.path))
    }

    /// Ends the file and syncs it. Gives its length and fingerprint.
    pub(super) fn finish(mut self) -> Result<(u64, u64), SnapshotError> {
        if let Some(failure) = self.take_failure() {
            return Err(failure);
        }
        let path = self.path.clone();
        if self.chunk.len() > CHUNK_HEADER_LEN_BYTES {
            self.end_chunk().map_err(at(&path))?;
        }
        let fingerprint = self.whole.digest();
        let footer = Footer { chunks: self.chunks, payload_len_bytes: self.payload_len_bytes, fingerprint };
        let bytes = footer.encode(self.id);
        self.file.write_at(&bytes, self.len_bytes).map_err(at(&path))?;
        self.file.sync().map_err(at(&path))?;
        Ok((self.len_bytes + bytes.len() as u64, fingerprint))
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        seal_chunk(&mut self.chunk, self.id, self.chunks);
        self.file.write_at(&self.chunk, self.len_bytes)?;
        self.whole.update(&self.chunk);
        self.len_bytes += self.chunk.len() as u64;
        self.payload_len_bytes += (self.chunk.len() - CHUNK_HEADER_LEN_BYTES) as u64;
        self.chunks += 1;
        self.chunk.truncate(CHUNK_HEADER_LEN_BYTES);
        if self.len_bytes - self.synced_bytes >= SYNC_EVERY_BYTES {
            self.file.sync()?;
            self.synced_bytes = self.len_bytes;
        }
        // A snapshot is background work: whoever waits for this core goes first.
        std::thread::yield_now();
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failed {
            return Err(failure.kind().into());
        }
        let room = CHUNK_HEADER_LEN_BYTES + CHUNK_PAYLOAD_MAX_BYTES - self.chunk.len();
        let count = room.min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if count == room
            && let Err(failure) = self.end_chunk()
        {
            let kind = failure.kind();
            self.failed = Some(failure);
            return Err(kind.into());
        }
        Ok(count)
    }

    /// Does nothing: a chunk is written when it is full, and the file is synced when it ends.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
