//! Bytes on the wire and on disk. The one module that names bincode.
//!
//! A *frame* is a header of [`HEADER_LEN_BYTES`] and a payload:
//! ```text
//! length of payload u32 | version u16 | kind u16 | checksum u64 over the eight bytes before it and the payload
//! ```
//! all little endian. Length and version are checked before anything is allocated (fault catalogue B2), the
//! checksum before anything is decoded. bincode decodes from slices only and with a limit: from a reader without one
//! a hostile length aborts the process (RUSTSEC-2025-0141: bincode 1.3 is unmaintained, hence the guards here).

use std::io;

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3;

/// Version of every format that [`frame`] carries. Peers of another version are refused.
pub const FORMAT_VERSION: u16 = 1;
/// The largest payload of a frame, in bytes. Fits the largest value, and a batch of appends.
pub const FRAME_PAYLOAD_MAX_BYTES: usize = 8 << 20;
/// Length of a frame's header, in bytes.
pub const HEADER_LEN_BYTES: usize = 16;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A frame of another format version.
    #[error("format version {found}, expected {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// A frame longer than allowed.
    #[error("frame of {found} bytes, limit {limit}")]
    TooLong {
        /// The length found, in bytes.
        found: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The checksum does not fit.
    #[error("checksum mismatch")]
    Checksum,
    /// The payload is no value of the expected type.
    #[error("malformed payload: {0}")]
    Malformed(String),
}

/// Encodes a value.
///
/// # Panics
/// Never for the types of this project: they have no unsized sequences and no failing `Serialize`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    options().serialize(value).unwrap_or_else(|error| panic!("a value cannot be encoded: {error}"))
}

/// Encodes a value after what `buffer` holds.
///
/// # Panics
/// Never for the types of this project, as with [`encode`].
pub fn encode_into<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) {
    options().serialize_into(buffer, value).unwrap_or_else(|error| panic!("a value cannot be encoded: {error}"));
}

/// Decodes a value from all of `bytes`.
///
/// # Errors
/// [`CodecError::Malformed`] if the bytes are no such value, or have trailing bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options()
        .with_limit(bytes.len() as u64)
        .deserialize(bytes)
        .map_err(|error| CodecError::Malformed(error.to_string()))
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding()
}

/// A checksum of `parts`, one after the other.
pub fn checksum(parts: &[&[u8]]) -> u64 {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.digest()
}

/// The checked header of a frame whose payload is still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is; each protocol numbers its own kinds.
    pub kind: u16,
    /// How long the payload is, in bytes; at most the limit given to [`FrameHeader::parse`].
    pub payload_len_bytes: usize,
    first: [u8; 8],
    checksum: u64,
}

impl FrameHeader {
    /// Reads a header, and checks version and length.
    ///
    /// # Errors
    /// [`CodecError::Version`], [`CodecError::TooLong`].
    pub fn parse(bytes: &[u8; HEADER_LEN_BYTES], payload_max_bytes: usize) -> Result<FrameHeader, CodecError> {
        let [l0, l1, l2, l3, v0, v1, k0, k1, c0, c1, c2, c3, c4, c5, c6, c7] = *bytes;
        let version = u16::from_le_bytes([v0, v1]);
        if version != FORMAT_VERSION {
            return Err(CodecError::Version { found: version });
        }
        let payload_len_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if payload_len_bytes > payload_max_bytes {
            return Err(CodecError::TooLong { found: payload_len_bytes, limit: payload_max_bytes });
        }
        Ok(FrameHeader {
            kind: u16::from_le_bytes([k0, k1]),
            payload_len_bytes,
            first: [l0, l1, l2, l3, v0, v1, k0, k1],
            checksum: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
        })
    }

    /// Whether `payload` is what the sender framed.
    ///
    /// # Errors
    /// [`CodecError::Checksum`].
    pub fn verify(&self, payload: &[u8]) -> Result<(), CodecError> {
        if checksum(&[&self.first, payload]) == self.checksum { Ok(()) } else { Err(CodecError::Checksum) }
    }
}

/// Appends a frame with `value` as its payload to `buffer`.
///
/// # Errors
/// [`CodecError::TooLong`] if the value does not fit into a frame; `buffer` is then as it was.
pub fn frame<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, kind: u16, value: &T) -> Result<(), CodecError> {
    let start = buffer.len();
    buffer.resize(start + HEADER_LEN_BYTES, 0);
    options().serialize_into(&mut *buffer, value).unwrap_or_else(|error| panic!("a value cannot be encoded: {error}"));
    let payload_len = buffer.len() - start - HEADER_LEN_BYTES;
    if payload_len > FRAME_PAYLOAD_MAX_BYTES {
        buffer.truncate(start);
        return Err(CodecError::TooLong { found: payload_len, limit: FRAME_PAYLOAD_MAX_BYTES });
    }
    let mut first = [0; 8];
    first[0..4].copy_from_slice(&(payload_len as u32).to_le_bytes());
    first[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    first[6..8].copy_from_slice(&kind.to_le_bytes());
    let (header, payload) = buffer[start..].split_at_mut(HEADER_LEN_BYTES);
    header[0..8].copy_from_slice(&first);
    header[8..16].copy_from_slice(&checksum(&[&first, payload]).to_le_bytes());
    Ok(())
}

/// A sink that only hashes.
#[derive(Default)]
pub(crate) struct Hashing(Xxh3);

impl Hashing {
    pub(crate) fn digest(&self) -> u64 {
        self.0.digest()
    }
}

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_roundtrip_restores_value() {
        let mut buffer = vec![7];
        frame(&mut buffer, 3, &("key", 42u64)).unwrap();
        let header = FrameHeader::parse(buffer[1..17].try_into().unwrap(), 1000).unwrap();
        assert_eq!(header.kind, 3);
        assert_eq!(header.payload_len_bytes, buffer.len() - 17);
        header.verify(&buffer[17..]).unwrap();
        assert_eq!(decode::<(String, u64)>(&buffer[17..]).unwrap(), ("key".to_owned(), 42));
    }

    // covers B2
    #[test]
    fn header_length_beyond_limit_refused_before_allocation() {
        let mut buffer = Vec::new();
        frame(&mut buffer, 3, &vec![0u8; 100]).unwrap();
        buffer[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let header = FrameHeader::parse(buffer[..16].try_into().unwrap(), 1000);
        assert_eq!(header, Err(CodecError::TooLong { found: u32::MAX as usize, limit: 1000 }));
    }
}
