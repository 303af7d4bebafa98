//! Reading a snapshot: as a stream, to restore a state, and in parts, to send it to another node.

use std::io::{self, Read};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::format::{CHUNK_HEADER_LEN_BYTES, FOOTER_LEN_BYTES, Header, Pieces};
use super::{SnapshotError, SnapshotInfo, corrupt};

/// The payload of a snapshot as a stream. Bytes come out only after their chunk was checked; the end comes only after
/// the whole file was.
pub struct SnapshotReader {
    pieces: Pieces,
    chunk: Vec<u8>,
    /// How much of `chunk` has been given out, its header included.
    given_bytes: usize,
    /// The number of the chunk to be read next.
    next: u64,
    whole: Xxh3,
    /// The fingerprint that the file must have; `None` to take the one that it has.
    expected: Option<u64>,
    /// Set once the end was reached and everything fits.
    fingerprint: Option<u64>,
}

impl SnapshotReader {
    pub(super) fn new(pieces: Pieces, expected: Option<u64>) -> SnapshotReader {
        let mut whole = Xxh3::new();
        whole.update(&pieces.header_bytes);
        SnapshotReader { pieces, chunk: Vec::new(), given_bytes: 0, next: 0, whole, expected, fingerprint: None }
    }

    /// Says that the reader has had enough, and checks that this was all of it.
    ///
    /// # Errors
    /// `Corrupt` if payload is left, or the file as a whole is not sound; `Disk`.
    pub fn finish(mut self) -> Result<(), SnapshotError> {
        if self.given_bytes < self.chunk.len() || self.next < self.pieces.chunks {
            return Err(corrupt(self.pieces.path(), "the state ends before the snapshot does"));
        }
        self.end()?;
        Ok(())
    }

    /// Reads all that is left, for the checks alone, and gives the file's description.
    pub(super) fn verify(mut self) -> Result<SnapshotInfo, SnapshotError> {
        while self.next_chunk()? {}
        let fingerprint = self.end()?;
        let Header { genesis, meta, .. } = self.pieces.header;
        Ok(SnapshotInfo { meta, genesis, len_bytes: self.pieces.len_bytes, fingerprint })
    }

    /// Reads the next chunk; false at the end.
    fn next_chunk(&mut self) -> Result<bool, SnapshotError> {
        if self.next == self.pieces.chunks {
            return Ok(false);
        }
        if let Err(error) = self.pieces.read_chunk(self.next, &mut self.chunk) {
            // Nothing of it may be given out, also if the caller tries again.
            self.chunk.clear();
            self.given_bytes = 0;
            return Err(error);
        }
        self.whole.update(&self.chunk);
        self.given_bytes = CHUNK_HEADER_LEN_BYTES;
        self.next += 1;
        Ok(true)
    }

    /// Checks the file as a whole. All chunks have been read.
    fn end(&mut self) -> Result<u64, SnapshotError> {
        if let Some(fingerprint) = self.fingerprint {
            return Ok(fingerprint);
        }
        let footer = self.pieces.read_footer()?;
        let found = self.whole.digest();
        if footer.fingerprint != found || self.expected.is_some_and(|expected| expected != found) {
            return Err(corrupt(self.pieces.path(), format!("fingerprint {found:016x} does not fit")));
        }
        self.fingerprint = Some(found);
        Ok(found)
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.given_bytes == self.chunk.len() && !self.next_chunk()? {
            self.end()?;
            return Ok(0);
        }
        let count = buffer.len().min(self.chunk.len() - self.given_bytes);
        buffer[..count].copy_from_slice(&self.chunk[self.given_bytes..self.given_bytes + count]);
        self.given_bytes += count;
        Ok(count)
    }
}

/// A snapshot being sent. It can be read also after a newer one took its place in the directory.
pub struct SendingFile {
    pieces: Pieces,
    info: SnapshotInfo,
    /// The piece that was read last, as whole pieces are checked and parts of them are asked for.
    piece: Bytes,
    /// Where it stands in the file.
    piece_start: u64,
}

impl SendingFile {
    pub(super) fn new(pieces: Pieces, info: SnapshotInfo) -> SendingFile {
        let piece = Bytes::from(pieces.header_bytes.clone());
        SendingFile { pieces, info, piece, piece_start: 0 }
    }

    /// Where the snapshot ends, and how long its file is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Up to `len_max_bytes` of the file at `offset`, never across the border of a chunk, so often fewer; none at the
    /// end. What is given out has been checked: a damaged snapshot is not passed on (S8).
    ///
    /// # Errors
    /// `Corrupt`: this snapshot is lost, take another. `Disk`.
    pub fn read_at(&mut self, offset: u64, len_max_bytes: usize) -> Result<Bytes, SnapshotError> {
        if offset >= self.pieces.len_bytes {
            return Ok(Bytes::new());
        }
        if !(self.piece_start..self.piece_start + self.piece.len() as u64).contains(&offset) {
            (self.piece, self.piece_start) = self.read_piece(offset)?;
        }
        let from = (offset - self.piece_start) as usize;
        let to = self.piece.len().min(from.saturating_add(len_max_bytes));
        Ok(self.piece.slice(from..to))
    }

    /// The piece that holds the byte at `offset`, and where it starts.
    fn read_piece(&self, offset: u64) -> Result<(Bytes, u64), SnapshotError> {
        let header_bytes = &self.pieces.header_bytes;
        if offset < header_bytes.len() as u64 {
            return Ok((Bytes::from(header_bytes.clone()), 0));
        }
        let number = self.pieces.chunk_at(offset);
        let start = self.pieces.chunk_offset(number);
        if number < self.pieces.chunks {
            let mut chunk = Vec::new();
            self.pieces.read_chunk(number, &mut chunk)?;
            return Ok((Bytes::from(chunk), start));
        }
        let footer = self.pieces.read_footer()?;
        if footer.fingerprint != self.info.fingerprint {
            return Err(corrupt(self.pieces.path(), "the footer is of another snapshot"));
        }
        let bytes: [u8; FOOTER_LEN_BYTES] = self.pieces.encode_footer(&footer);
        Ok((Bytes::copy_from_slice(&bytes), start))
    }
}
