//! The file of a backup.
//!
//! ```text
//! magic | block*        block: kind u8 | length u32 | raw length u32 | checksum u64 | payload
//! ```
//! The first block is the [`Header`], in JSON, so that a person can read what a file is; then come the records of each
//! partition in blocks of their own, compressed with zstd, and an end for each partition; the last block is the end of
//! the file. A checksum covers its block's place in the file, too: blocks that were exchanged, doubled or dropped do
//! not verify. Neither side ever holds more than a block.

use std::io::{self, Read, Write};

use bytes::Bytes;
use madkv_proto::command::{decode_records, push_record};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::{Compressor, Decompressor};

use super::BackupError;

/// The first bytes of a file: what it is, and the version of its format, a digit.
const MAGIC: &[u8; 8] = b"madkvb1\n";
/// A block of records ends with the record that reaches this length, before compression.
const BLOCK_AIM_BYTES: usize = 256 << 10;
/// The longest block before compression: the last record may pass the aim.
const BLOCK_MAX_BYTES: usize = BLOCK_AIM_BYTES + 8 + KEY_MAX_BYTES + VALUE_MAX_BYTES;
/// The longest block in the file: what does not get shorter gets a little longer.
const PACKED_MAX_BYTES: usize = BLOCK_MAX_BYTES + (BLOCK_MAX_BYTES >> 7) + 1024;
/// zstd's own default: about as quick as a disk.
const COMPRESSION_LEVEL: i32 = 3;
/// Bytes of a block in front of its payload.
const BLOCK_HEAD_BYTES: usize = 17;

const KIND_HEADER: u8 = 1;
const KIND_RECORDS: u8 = 2;
const KIND_PARTITION_END: u8 = 3;
const KIND_END: u8 = 4;

/// Where a backup comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The id of the cluster, as `status` shows it.
    pub cluster: String,
    /// The epoch of the map by which its keys were found.
    pub epoch: u64,
    /// How many partitions it had.
    pub partitions: usize,
    /// How many replicas each partition had.
    pub replicas: Vec<usize>,
    /// When the backup began, RFC 3339, UTC.
    pub taken_at: String,
    /// The version of the program that made it.
    pub program: String,
}

/// What a file holds, block by block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Records of the partition whose end comes next.
    Records(Vec<(Bytes, Bytes)>),
    /// All records of a partition have come.
    PartitionEnd,
    /// All of the file has come: this many records.
    End(u64),
}

/// Where a writer stands, to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Bytes of the file that count.
    pub(super) len_bytes: u64,
    blocks: u64,
    records: u64,
}

/// Writes a file.
pub(super) struct Writer<W> {
    out: W,
    compressor: Compressor<'static>,
    /// Records that wait for more.
    raw: Vec<u8>,
    place: Place,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub(super) fn begin(mut out: W, header: &Header) -> io::Result<Writer<W>> {
        out.write_all(MAGIC)?;
        let place = Place { len_bytes: MAGIC.len() as u64, blocks: 0, records: 0 };
        let compressor = Compressor::new(COMPRESSION_LEVEL)?;
        let mut writer = Writer { out, compressor, raw: Vec::new(), place };
        let json = serde_json::to_vec_pretty(header)?;
        writer.block(KIND_HEADER, json.len(), &json)?;
        Ok(writer)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Those of the output.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        push_record(&mut self.raw, key, value);
        self.place.records += 1;
        if self.raw.len() >= BLOCK_AIM_BYTES { self.flush_records() } else { Ok(()) }
    }

    /// The partition's records are all there.
    ///
    /// # Errors
    /// Those of the output.
    pub(super) fn end_partition(&mut self) -> io::Result<()> {
        self.flush_records()?;
        self.block(KIND_PARTITION_END, 0, &[])
    }

    /// The file is complete. Returns the output, and how many records and bytes went there.
    ///
    /// # Errors
    /// Those of the output.
    pub(super) fn end(mut self) -> io::Result<(W, u64, u64)> {
        self.block(KIND_END, 8, &self.place.records.to_le_bytes())?;
        self.out.flush()?;
        Ok((self.out, self.place.records, self.place.len_bytes))
    }

    /// Where it stands, after the end of a partition or of the header.
    pub(super) fn place(&self) -> Place {
        assert!(self.raw.is_empty(), "{} bytes of records wait to be written", self.raw.len());
        self.place
    }

    /// Goes back to `place`. The output must do so, too: it is given back for that.
    ///
    /// # Errors
    /// Those of the output.
    pub(super) fn back_to(&mut self, place: Place) -> io::Result<&mut W> {
        self.raw.clear();
        self.place = place;
        self.out.flush()?;
        Ok(&mut self.out)
    }

    fn flush_records(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let packed = self.compressor.compress(&self.raw)?;
        self.block(KIND_RECORDS, self.raw.len(), &packed)?;
        self.raw.clear();
        Ok(())
    }

    fn block(&mut self, kind: u8, raw_len: usize, payload: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other(format!("a block of {} bytes", payload.len()));
        let len = u32::try_from(payload.len()).map_err(too_long)?;
        let raw_len = u32::try_from(raw_len).map_err(too_long)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&raw_len.to_le_bytes())?;
        self.out.write_all(&checksum(self.place.blocks, kind, raw_len, payload).to_le_bytes())?;
        self.out.write_all(payload)?;
        self.place.blocks += 1;
        self.place.len_bytes += (BLOCK_HEAD_BYTES + payload.len()) as u64;
        Ok(())
    }
}

fn checksum(place: u64, kind: u8, raw_len: u32, payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&place.to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(&raw_len.to_le_bytes());
    hasher.update(payload);
    hasher.digest()
}

/// Reads a file, and believes nothing that does not verify.
pub(super) struct Reader<R> {
    input: R,
    decompressor: Decompressor<'static>,
    header: Header,
    blocks: u64,
    records: u64,
    partitions: usize,
}

impl<R: Read> Reader<R> {
    /// Reads what a file is.
    ///
    /// # Errors
    /// If it is no backup, one of another version, damaged, or cannot be read.
    pub(super) fn open(mut input: R) -> Result<Reader<R>, BackupError> {
        let mut magic = [0; MAGIC.len()];
        let known = fill(&mut input, &mut magic)? == magic.len();
        match magic {
            _ if known && magic == *MAGIC => {}
            [b'm', b'a', b'd', b'k', b'v', b'b', version, b'\n'] if known && version.is_ascii_graphic() => {
                let found = char::from(version);
                return Err(damaged(format!("a backup of version {found}; this build reads version 1")));
            }
            _ => return Err(damaged("this is no backup of MadKV")),
        }
        let Some((KIND_HEADER, _, json)) = next_block(&mut input, 0)? else {
            return Err(damaged("it does not begin with a header"));
        };
        let header = serde_json::from_slice(&json).map_err(|error| damaged(format!("its header: {error}")))?;
        let decompressor = Decompressor::new().map_err(BackupError::Read)?;
        Ok(Reader { input, decompressor, header, blocks: 1, records: 0, partitions: 0 })
    }

    /// What the file is.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next block. After [`Block::End`] there is none.
    ///
    /// # Errors
    /// If it does not verify, or cannot be read.
    pub(super) fn next(&mut self) -> Result<Block, BackupError> {
        let Some((kind, raw_len, payload)) = next_block(&mut self.input, self.blocks)? else {
            return Err(damaged(format!("it ends after block {}, before its end", self.blocks)));
        };
        let block = self.blocks;
        self.blocks += 1;
        match kind {
            KIND_RECORDS => {
                let raw = self.decompressor.decompress(&payload, raw_len);
                let raw = raw.map_err(|error| damaged(format!("block {block}: {error}")))?;
                let records = decode_records(&Bytes::from(raw));
                let records = records.map_err(|error| damaged(format!("block {block}: {error}")))?;
                self.records += records.len() as u64;
                Ok(Block::Records(records))
            }
            KIND_PARTITION_END => {
                self.partitions += 1;
                Ok(Block::PartitionEnd)
            }
            KIND_END => self.end(&payload),
            other => Err(damaged(format!("block {block} is of unknown kind {other}"))),
        }
    }

    fn end(&mut self, payload: &[u8]) -> Result<Block, BackupError> {
        let records = <[u8; 8]>::try_from(payload).map(u64::from_le_bytes).ok();
        if records != Some(self.records) {
            return Err(damaged(format!("it says that it has {records:?} keys, and has {}", self.records)));
        }
        if self.partitions != self.header.partitions {
            let expected = self.header.partitions;
            return Err(damaged(format!("it has {} of {expected} partitions", self.partitions)));
        }
        if fill(&mut self.input, &mut [0])? != 0 {
            return Err(damaged("something stands after its end"));
        }
        Ok(Block::End(self.records))
    }
}

/// The next block: its kind, its length before compression, its payload. `None` at the end of the input.
fn next_block(input: &mut impl Read, place: u64) -> Result<Option<(u8, usize, Vec<u8>)>, BackupError> {
    let mut head = [0; BLOCK_HEAD_BYTES];
    match fill(input, &mut head)? {
        0 => return Ok(None),
        BLOCK_HEAD_BYTES => {}
        _ => return Err(damaged(format!("it ends in block {place}"))),
    }
    let [kind, l0, l1, l2, l3, r0, r1, r2, r3, sum @ ..] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let raw_len = u32::from_le_bytes([r0, r1, r2, r3]);
    if len > PACKED_MAX_BYTES || raw_len as usize > BLOCK_MAX_BYTES {
        return Err(damaged(format!("block {place} is longer than any")));
    }
    let mut payload = vec![0; len];
    if fill(input, &mut payload)? != len {
        return Err(damaged(format!("it ends in block {place}")));
    }
    if checksum(place, kind, raw_len, &payload) != u64::from_le_bytes(sum) {
        return Err(damaged(format!("block {place} does not verify")));
    }
    Ok(Some((kind, raw_len as usize, payload)))
}

/// Reads until `buffer` is full or the input ends. Returns how much came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, BackupError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BackupError::Read(error)),
        }
    }
    Ok(filled)
}

fn damaged(what: impl Into<String>) -> BackupError {
    BackupError::Damaged(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(partitions: usize) -> Header {
        Header {
            cluster: "c".to_owned(),
            epoch: 7,
            partitions,
            replicas: vec![3; partitions],
            taken_at: "2026-01-31T12:34:56.000000Z".to_owned(),
            program: "0".to_owned(),
        }
    }

    fn record(number: usize) -> (Vec<u8>, Vec<u8>) {
        (format!("key{number:06}").into_bytes(), format!("value {number} ").repeat(number % 50).into_bytes())
    }

    fn file(partitions: usize, records: usize) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &header(partitions)).unwrap();
        for partition in 0..partitions {
            for number in (partition..records).step_by(partitions) {
                let (key, value) = record(number);
                writer.record(&key, &value).unwrap();
            }
            writer.end_partition().unwrap();
        }
        let (bytes, count, len) = writer.end().unwrap();
        assert_eq!((count, len), (records as u64, bytes.len() as u64));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BackupError> {
        let mut reader = Reader::open(bytes)?;
        let mut all = Vec::new();
        loop {
            match reader.next()? {
                Block::Records(mut records) => all.append(&mut records),
                Block::PartitionEnd => {}
                Block::End(_) => return Ok(all),
            }
        }
    }

    #[test]
    fn file_read_again_has_its_records_and_its_header() {
        for (partitions, records) in [(1, 0), (1, 1), (2, 3), (3, 5000)] {
            let bytes = file(partitions, records);
            assert_eq!(Reader::open(&bytes[..]).unwrap().header(), &header(partitions));
            let mut found = read(&bytes).unwrap();
            found.sort();
            let expected: Vec<_> = (0..records).map(record).collect();
            let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn writer_that_goes_back_writes_what_it_would_have_written() {
        let mut writer = Writer::begin(Vec::new(), &header(1)).unwrap();
        let place = writer.place();
        for number in 0..3000 {
            let (key, value) = record(number);
            writer.record(&key, &value).unwrap();
        }
        writer.back_to(place).unwrap().truncate(place.len_bytes as usize);
        for number in 0..10 {
            let (key, value) = record(number);
            writer.record(&key, &value).unwrap();
        }
        writer.end_partition().unwrap();
        assert_eq!(writer.end().unwrap().0, file(1, 10));
    }

    #[test]
    fn any_flipped_bit_any_cut_and_anything_behind_is_found() {
        let bytes = file(2, 40);
        assert!(read(&bytes).is_ok());
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "bit {bit} of byte {place}");
            }
            assert!(read(&bytes[..place]).is_err(), "cut after {place}");
        }
        assert!(read(&[&bytes[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn blocks_out_of_place_do_not_verify() {
        // Two partitions with one block each of the same length.
        let bytes = file(2, 2);
        let end = bytes.len() - (BLOCK_HEAD_BYTES + 8);
        let doubled = [&bytes[..end], &bytes[end - BLOCK_HEAD_BYTES..]].concat();
        assert!(read(&doubled).unwrap_err().to_string().contains("does not verify"));
    }

    #[test]
    fn files_that_are_no_backup_say_so() {
        for (bytes, part) in [
            (&b""[..], "no backup"),
            (b"madkvm1\n1234567890", "no backup"),
            (b"madkvb2\nwhatever", "version 2"),
            (b"madkvb1\n", "header"),
        ] {
            let Err(error) = read(bytes) else { panic!("{bytes:?} was read") };
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
