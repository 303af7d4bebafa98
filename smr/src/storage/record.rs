//! The format of a log record: one value of the byte map, or several.
//!
//! A *record* holds a batch of entries. If it is one entry too large for a value, it comes in *parts*, each a value of
//! its own. Every value starts with a header:
//! ```text
//!  0 version u16 | 2 reserved u16 | 4 length of the value u32
//!  8 hash of the owner's identity u64
//! 16 first index u64 | 24 part u32 | 28 parts u32
//! 32 entries u32 | 36 reserved u32
//! 40 term of the first entry u64 | 48 term of the last entry u64 | 56 term of the entry before the first u64
//! 64 checksum of the value before it u64
//! 72 checksum over all the other bytes u64
//! ```
//! little endian, then the entries, each after its length (u32); of a record in parts each value carries a piece of
//! that. A value's checksum covers the one before it, so all values from the first to the last form one chain: a value
//! of another place, generation or owner does not fit in, however well-formed it is (D11).

use crate::codec;
use crate::entry::{Entry, Index, Term};

use super::{KEY_LEN_BYTES, Key};

/// The version of this format.
pub(crate) const RECORD_VERSION: u16 = 1;

/// The longest value, in bytes. sled keeps up to [`SLED_LEAF_RECORDS`] of them in one page, and a page of more than a
/// quarter of its segment would leave the log for a file that is never synced.
pub const RECORD_MAX_BYTES: usize = 24 << 10;

/// About how many values sled keeps in a leaf at most.
const SLED_LEAF_RECORDS: usize = 20;

/// sled's segment size in bytes: a constant for ever, because its `conf` file may have to be written again.
pub(crate) const SLED_SEGMENT_BYTES: usize = 2 << 20;

const _: () = assert!(SLED_LEAF_RECORDS * RECORD_MAX_BYTES < SLED_SEGMENT_BYTES / 4);

/// Length of the header in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 80;

const CHECKSUM_OFFSET: usize = 72;
const BODY_MAX_BYTES: usize = RECORD_MAX_BYTES - RECORD_HEADER_BYTES;
/// Before each entry stands its length.
pub(crate) const ENTRY_LENGTH_BYTES: usize = 4;

/// The key of a part of the record that starts at `first`.
pub fn key(first: u64, part: u32) -> Key {
    let mut key = [0; KEY_LEN_BYTES];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The first index and the part that a key stands for.
pub(crate) fn parse_key(key: &Key) -> (u64, u32) {
    let [i0, i1, i2, i3, i4, i5, i6, i7, p0, p1, p2, p3] = *key;
    (u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]), u32::from_be_bytes([p0, p1, p2, p3]))
}

/// The fingerprint of an entry: a checksum of what is stored of it.
pub fn fingerprint(encoded: &[u8]) -> u64 {
    codec::checksum(&[b"entry", encoded])
}

/// Where a record is put into the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The owner.
    pub(crate) identity: u64,
    /// The checksum of the value before it.
    pub(crate) previous: u64,
    /// The term of the entry before its first.
    pub(crate) previous_term: Term,
}

/// A record to be written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) values: Vec<Vec<u8>>,
    /// The checksum of the last value.
    pub(crate) checksum: u64,
    /// The fingerprint of the last entry.
    pub(crate) fingerprint: u64,
}

/// Cuts entries into records, and links them after `link`. Entries must not be empty.
pub(crate) fn write(entries: &[Entry], mut link: Link) -> Vec<Written> {
    let mut records = Vec::new();
    let mut body = Vec::new();
    let mut begin = 0;
    let mut fingerprint_last = 0;
    let mut close = |batch: &[Entry], body: &mut Vec<u8>, fingerprint: u64| {
        let written = write_one(batch, body, link, fingerprint);
        link.previous = written.checksum;
        link.previous_term = last_of(batch).id.term;
        body.clear();
        records.push(written);
    };
    for (position, entry) in entries.iter().enumerate() {
        let encoded = codec::encode(entry);
        // An entry that is too large goes alone, so that a record in parts has exactly one entry and is never
        // shortened.
        if !body.is_empty() && body.len() + ENTRY_LENGTH_BYTES + encoded.len() > BODY_MAX_BYTES {
            close(&entries[begin..position], &mut body, fingerprint_last);
            begin = position;
        }
        fingerprint_last = fingerprint(&encoded);
        let length = u32::try_from(encoded.len()).unwrap_or_else(|_| panic!("an entry of {} bytes", encoded.len()));
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&encoded);
    }
    close(&entries[begin..], &mut body, fingerprint_last);
    records
}

fn last_of(entries: &[Entry]) -> &Entry {
    entries.last().unwrap_or_else(|| panic!("a record without entries"))
}

fn write_one(entries: &[Entry], body: &[u8], link: Link, fingerprint: u64) -> Written {
    let (first, last) = (&entries[0], last_of(entries));
    let pieces: Vec<&[u8]> = body.chunks(BODY_MAX_BYTES).collect();
    let mut checksum = link.previous;
    let mut values = Vec::with_capacity(pieces.len());
    for (part, piece) in pieces.iter().enumerate() {
        let mut value = vec![0; RECORD_HEADER_BYTES];
        value.extend_from_slice(piece);
        value[0..2].copy_from_slice(&RECORD_VERSION.to_le_bytes());
        let length = value.len() as u32; // at most RECORD_MAX_BYTES
        value[4..8].copy_from_slice(&length.to_le_bytes());
        value[8..16].copy_from_slice(&link.identity.to_le_bytes());
        value[16..24].copy_from_slice(&first.id.index.0.to_le_bytes());
        value[24..28].copy_from_slice(&(part as u32).to_le_bytes());
        value[28..32].copy_from_slice(&(pieces.len() as u32).to_le_bytes());
        value[32..36].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        value[40..48].copy_from_slice(&first.id.term.0.to_le_bytes());
        value[48..56].copy_from_slice(&last.id.term.0.to_le_bytes());
        value[56..64].copy_from_slice(&link.previous_term.0.to_le_bytes());
        value[64..72].copy_from_slice(&checksum.to_le_bytes());
        checksum = checksum_of(&value);
        value[72..80].copy_from_slice(&checksum.to_le_bytes());
        values.push(value);
    }
    Written { first: first.id.index.0, last: last.id.index.0, values, checksum, fingerprint }
}

fn checksum_of(value: &[u8]) -> u64 {
    codec::checksum(&[&value[..CHECKSUM_OFFSET], &value[RECORD_HEADER_BYTES..]])
}

/// A record that was read back and fits together.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Entry>,
    /// The checksum of the value before its first.
    pub(crate) previous: u64,
    /// The term of the entry before its first.
    pub(crate) previous_term: Term,
    /// The checksum of its last value.
    pub(crate) checksum: u64,
    /// The fingerprint of its last entry.
    pub(crate) fingerprint: u64,
}

/// Why values are no record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Incomplete, or a checksum that does not fit: what an interrupted write may leave at the end of a log.
    Torn(String),
    /// Written like this, but not for this place: never the trace of a crash.
    Wrong(String),
    /// Sound, and written by another node, or in another incarnation of this one.
    Foreign,
    /// Written by a newer build.
    Newer(u16),
}

/// Puts the values of one record together; `values` are its parts, in order, from part 0.
pub(crate) fn read(identity: u64, first: u64, values: &[Vec<u8>]) -> Result<Record, Unreadable> {
    let torn = |what: &str| Err(Unreadable::Torn(what.to_owned()));
    let wrong = |what: String| Err(Unreadable::Wrong(what));
    let mut body = Vec::new();
    let mut parts = 0;
    let mut count = 0;
    let mut terms = (0, 0);
    let mut previous = None;
    let mut previous_term = 0;
    let mut checksum = 0;
    for (part, value) in values.iter().enumerate() {
        if value.len() < RECORD_HEADER_BYTES {
            return torn("a value shorter than its header");
        }
        // The checksum comes first, also before the version: in a torn value no field means anything.
        let stored = u64_at(value, 72);
        if checksum_of(value) != stored {
            return torn("a checksum that does not fit");
        }
        match u16::from_le_bytes([value[0], value[1]]) {
            RECORD_VERSION => {}
            newer if newer > RECORD_VERSION => return Err(Unreadable::Newer(newer)),
            other => return wrong(format!("format version {other}")),
        }
        if u32_at(value, 4) as usize != value.len() {
            return wrong(format!("{} bytes, written as {}", value.len(), u32_at(value, 4)));
        }
        if u64_at(value, 8) != identity {
            return Err(Unreadable::Foreign);
        }
        if (u64_at(value, 16), u32_at(value, 24) as usize) != (first, part) {
            return wrong(format!("belongs to index {} part {}", u64_at(value, 16), u32_at(value, 24)));
        }
        if part == 0 {
            parts = u32_at(value, 28) as usize;
            count = u32_at(value, 32) as usize;
            terms = (u64_at(value, 40), u64_at(value, 48));
            previous = Some(u64_at(value, 64));
            previous_term = u64_at(value, 56);
        } else if u64_at(value, 64) != checksum {
            return wrong(format!("part {part} does not follow part {}", part - 1));
        }
        checksum = stored;
        body.extend_from_slice(&value[RECORD_HEADER_BYTES..]);
    }
    let Some(previous) = previous else { return torn("no values") };
    if values.len() < parts {
        return torn(&format!("{} of {parts} parts", values.len()));
    }
    if values.len() > parts {
        return wrong(format!("{} parts, written as {parts}", values.len()));
    }
    let (entries, fingerprint) = read_entries(first, count, &body).map_err(Unreadable::Wrong)?;
    let found = (entries[0].id.term.0, last_of(&entries).id.term.0);
    if found != terms || previous_term > terms.0 {
        return wrong(format!("terms {previous_term}, {found:?}, written as {terms:?}"));
    }
    Ok(Record { entries, previous, previous_term: Term(previous_term), checksum, fingerprint })
}

/// Reads the entries of a record, `count` of them from index `first` on, and the fingerprint of the last.
pub(crate) fn read_entries(first: u64, count: usize, mut body: &[u8]) -> Result<(Vec<Entry>, u64), String> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut last_fingerprint = 0;
    while !body.is_empty() {
        let Some((length, rest)) = body.split_first_chunk::<ENTRY_LENGTH_BYTES>() else {
            return Err("entries end in a length".to_owned());
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(format!("an entry of {length} bytes in {}", rest.len()));
        }
        let (encoded, rest) = rest.split_at(length);
        let entry: Entry = codec::decode(encoded).map_err(|error| error.to_string())?;
        let expected = first + entries.len() as u64;
        if entry.id.index != Index(expected) {
            return Err(format!("entry {} at index {expected}", entry.id));
        }
        if let Some(before) = entries.last()
            && before.id.term > entry.id.term
        {
            return Err(format!("entry {} follows {}", entry.id, before.id));
        }
        last_fingerprint = fingerprint(encoded);
        entries.push(entry);
        body = rest;
    }
    if entries.is_empty() || entries.len() != count {
        return Err(format!("{} entries, written as {count}", entries.len()));
    }
    Ok((entries, last_fingerprint))
}

/// Whose value this is, if it verifies.
pub(crate) fn owner(value: &[u8]) -> Option<u64> {
    (value.len() >= RECORD_HEADER_BYTES && checksum_of(value) == u64_at(value, CHECKSUM_OFFSET))
        .then(|| u64_at(value, 8))
}

/// The checksum that a value carries, unverified; 0 if it is too short for one.
pub(crate) fn stored_checksum(value: &[u8]) -> u64 {
    if value.len() < RECORD_HEADER_BYTES { 0 } else { u64_at(value, CHECKSUM_OFFSET) }
}

fn u32_at(value: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&value[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(value: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&value[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}
