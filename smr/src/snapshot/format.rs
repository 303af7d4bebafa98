//! The pieces of a snapshot file: header, chunks, footer. See the module above for their layout.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CHUNK_PAYLOAD_MAX_BYTES, HEADER_PAYLOAD_MAX_BYTES, SNAPSHOT_VERSION, SnapshotError, at, corrupt};
use crate::codec::{self, checksum};
use crate::disk::DiskFile;
use crate::entry::{GenesisHash, SnapshotMeta};
use crate::id::GroupName;

const MAGIC: [u8; 8] = *b"SMRSNAP\n";
const CHUNK_TAG: u32 = u32::from_le_bytes(*b"CHNK");
const FOOTER_TAG: u32 = u32::from_le_bytes(*b"FOOT");

/// What precedes the header's payload; the same in all versions.
const PRELUDE_LEN_BYTES: usize = 24;
pub(super) const CHUNK_HEADER_LEN_BYTES: usize = 24;
const CHUNK_LEN_MAX_BYTES: usize = CHUNK_HEADER_LEN_BYTES + CHUNK_PAYLOAD_MAX_BYTES;
pub(super) const FOOTER_LEN_BYTES: usize = 40;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) group: GroupName,
    pub(super) genesis: GenesisHash,
    pub(super) meta: SnapshotMeta,
}

/// The checksum of the header: which snapshot a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotId(u64);

/// The last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) chunks: u64,
    pub(super) payload_len_bytes: u64,
    pub(super) fingerprint: u64,
}

impl Header {
    /// The header's bytes, and the id that they give the snapshot.
    pub(super) fn encode(&self) -> (Vec<u8>, SnapshotId) {
        let payload = codec::encode(self);
        assert!(payload.len() <= HEADER_PAYLOAD_MAX_BYTES, "a snapshot header of {} bytes", payload.len());
        let mut bytes = Vec::with_capacity(PRELUDE_LEN_BYTES + payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let id = checksum(&[&bytes, &payload]);
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&payload);
        (bytes, SnapshotId(id))
    }
}

/// Puts the header of chunk `number` into the first bytes of `chunk`; its payload is already after them.
pub(super) fn seal_chunk(chunk: &mut [u8], id: SnapshotId, number: u64) {
    let (header, payload) = chunk.split_at_mut(CHUNK_HEADER_LEN_BYTES);
    header[0..4].copy_from_slice(&CHUNK_TAG.to_le_bytes());
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&number.to_le_bytes());
    let sum = checksum(&[&id.0.to_le_bytes(), &header[..16], payload]);
    header[16..24].copy_from_slice(&sum.to_le_bytes());
}

impl Footer {
    pub(super) fn encode(&self, id: SnapshotId) -> [u8; FOOTER_LEN_BYTES] {
        let mut bytes = [0; FOOTER_LEN_BYTES];
        bytes[0..4].copy_from_slice(&FOOTER_TAG.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.payload_len_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.fingerprint.to_le_bytes());
        let sum = checksum(&[&id.0.to_le_bytes(), &bytes[..32]]);
        bytes[32..40].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// A snapshot file, piece by piece. The length decides where each piece must stand; a piece is given out only if it
/// is the one that belongs there.
pub(super) struct Pieces {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    id: SnapshotId,
    pub(super) header: Header,
    pub(super) header_bytes: Vec<u8>,
    pub(super) len_bytes: u64,
    pub(super) chunks: u64,
}

impl Pieces {
    /// Reads the header of a file that is `len_bytes` long, or will be, once it has been received.
    ///
    /// # Errors
    /// `Corrupt` if there is none, or no footer fits after it; `Version`; `Disk`.
    pub(super) fn open(file: Box<dyn DiskFile>, path: &Path, len_bytes: u64) -> Result<Pieces, SnapshotError> {
        let mut prelude = [0; PRELUDE_LEN_BYTES];
        read_exact(&*file, path, &mut prelude, 0)?;
        if prelude[..8] != MAGIC {
            return Err(corrupt(path, "no snapshot"));
        }
        let payload_len_bytes = u32_at(&prelude, 12) as usize;
        if payload_len_bytes > HEADER_PAYLOAD_MAX_BYTES {
            return Err(corrupt(path, format!("header of {payload_len_bytes} bytes")));
        }
        let mut header_bytes = prelude.to_vec();
        header_bytes.resize(PRELUDE_LEN_BYTES + payload_len_bytes, 0);
        read_exact(&*file, path, &mut header_bytes[PRELUDE_LEN_BYTES..], PRELUDE_LEN_BYTES as u64)?;
        let payload = &header_bytes[PRELUDE_LEN_BYTES..];
        let id = u64_at(&prelude, 16);
        if checksum(&[&prelude[..16], payload]) != id {
            return Err(corrupt(path, "the header is damaged"));
        }
        // The version is looked at only now: a flipped bit in it is damage, not a newer format.
        let found = u32_at(&prelude, 8);
        if found != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { path: path.to_owned(), found });
        }
        let header: Header = codec::decode(payload).map_err(|error| corrupt(path, format!("header: {error}")))?;

        let around = (header_bytes.len() + FOOTER_LEN_BYTES) as u64;
        let Some(between) = len_bytes.checked_sub(around) else {
            return Err(corrupt(path, format!("{len_bytes} bytes are too few")));
        };
        let chunks = between.div_ceil(CHUNK_LEN_MAX_BYTES as u64);
        let rest = between % CHUNK_LEN_MAX_BYTES as u64;
        if rest != 0 && rest <= CHUNK_HEADER_LEN_BYTES as u64 {
            return Err(corrupt(path, format!("no last chunk ends at {len_bytes} bytes")));
        }
        Ok(Pieces { file, path: path.to_owned(), id: SnapshotId(id), header, header_bytes, len_bytes, chunks })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the chunk starts; for the number after the last one, where the footer does.
    pub(super) fn chunk_offset(&self, number: u64) -> u64 {
        let offset = self.header_bytes.len() as u64 + number * CHUNK_LEN_MAX_BYTES as u64;
        offset.min(self.len_bytes - FOOTER_LEN_BYTES as u64)
    }

    /// The number of the chunk that holds the byte at `offset`, which lies after the header; [`Pieces::chunks`] for
    /// the footer.
    pub(super) fn chunk_at(&self, offset: u64) -> u64 {
        if offset >= self.len_bytes - FOOTER_LEN_BYTES as u64 {
            return self.chunks;
        }
        (offset - self.header_bytes.len() as u64) / CHUNK_LEN_MAX_BYTES as u64
    }

    /// Reads the chunk into `chunk`, its header included.
    ///
    /// # Errors
    /// `Corrupt` if it is not this chunk of this snapshot; `Disk`.
    pub(super) fn read_chunk(&self, number: u64, chunk: &mut Vec<u8>) -> Result<(), SnapshotError> {
        assert!(number < self.chunks, "chunk {number} of {}", self.chunks);
        let start = self.chunk_offset(number);
        chunk.resize((self.chunk_offset(number + 1) - start) as usize, 0);
        read_exact(&*self.file, &self.path, chunk, start)?;
        let (header, payload) = chunk.split_at(CHUNK_HEADER_LEN_BYTES);
        let in_place = u32_at(header, 0) == CHUNK_TAG
            && u32_at(header, 4) as usize == payload.len()
            && u64_at(header, 8) == number
            && u64_at(header, 16) == checksum(&[&self.id.0.to_le_bytes(), &header[..16], payload]);
        if in_place {
            Ok(())
        } else {
            Err(corrupt(&self.path, format!("chunk {number} of {} is damaged", self.chunks)))
        }
    }

    /// The bytes of a footer that [`Pieces::read_footer`] gave.
    pub(super) fn encode_footer(&self, footer: &Footer) -> [u8; FOOTER_LEN_BYTES] {
        footer.encode(self.id)
    }

    /// Reads the footer.
    ///
    /// # Errors
    /// `Corrupt` if it is not this snapshot's; `Disk`.
    pub(super) fn read_footer(&self) -> Result<Footer, SnapshotError> {
        let start = self.chunk_offset(self.chunks);
        let mut bytes = [0; FOOTER_LEN_BYTES];
        read_exact(&*self.file, &self.path, &mut bytes, start)?;
        let footer = Footer {
            chunks: u64_at(&bytes, 8),
            payload_len_bytes: u64_at(&bytes, 16),
            fingerprint: u64_at(&bytes, 24),
        };
        let headers = self.header_bytes.len() as u64 + self.chunks * CHUNK_HEADER_LEN_BYTES as u64;
        let in_place = bytes == footer.encode(self.id)
            && footer.chunks == self.chunks
            && footer.payload_len_bytes == start - headers
            && self.file.len().map_err(at(&self.path))? == self.len_bytes;
        if in_place { Ok(footer) } else { Err(corrupt(&self.path, "the footer is damaged")) }
    }
}

/// Fills `buffer` from `offset`. A file that ends before is damaged; it was whole when it got its name.
fn read_exact(file: &dyn DiskFile, path: &Path, buffer: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Err(corrupt(path, format!("ends at {} bytes", offset + filled as u64))),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(at(path)(error)),
        }
    }
    Ok(())
}

/// The integer at `offset`, which lies inside.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// The integer at `offset`, which lies inside.
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}
