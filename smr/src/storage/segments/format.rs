//! The bytes of a segment: its header, and the frames after it. The module above says what they mean.

use crate::codec;
use crate::entry::{EntryId, Index, Term};

/// The unit in which a segment is written: what the kernel reads first if only a part of it is written.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Frames begin here: the header has a block of its own.
pub(super) const FRAMES_OFFSET: usize = BLOCK_BYTES;
/// The part of the header's block that says whether the segment was begun: one sector, which a disk writes whole or not
/// at all.
pub(super) const HEADER_BYTES: usize = 512;
/// Length of a frame's own header.
pub(super) const FRAME_HEADER_BYTES: usize = 16;
/// The version of this format.
pub(super) const SEGMENT_VERSION: u16 = 2;
/// The first version with [`Kind::Synced`]; segments of an older one are read, and written on without it.
const SYNCED_SINCE_VERSION: u16 = 2;

const MAGIC: [u8; 8] = *b"SMRSEGM\0";
const HEADER_CHECKSUM_OFFSET: usize = 64;
const HEADER_END: usize = HEADER_CHECKSUM_OFFSET + 8;
/// No segment was ever longer, in bytes.
const SEGMENT_LIMIT_BYTES: u64 = 1 << 30;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The version of its format.
    pub(super) version: u16,
    /// Its length in bytes.
    pub(super) size: u64,
    /// The owner.
    pub(super) identity: u64,
    /// Its number, which its name repeats.
    pub(super) number: u64,
    /// The last entry of the log when it was begun.
    pub(super) base: EntryId,
    /// The checksum of the last frame of the segment before it.
    pub(super) seed: u64,
    /// Whether its first frame goes on with a record of the segment before it.
    pub(super) continues: bool,
}

/// What stands in a header's place.
pub(super) enum FoundHeader {
    /// Zeros: prepared, and not begun.
    Blank,
    /// A header, and its checksum.
    Begun(Header, u64),
    /// One of a newer format.
    Newer(u16),
    /// Anything else, and what is wrong with it.
    Damaged(String),
}

impl Header {
    /// Whether the log can be read from this segment on, if everything up to `index` is known.
    pub(super) fn is_readable_from(&self, index: Index) -> bool {
        !self.continues && self.base.index <= index
    }

    /// Whether it may hold records of the kind [`Kind::Synced`].
    pub(super) fn says_what_is_synced(&self) -> bool {
        self.version >= SYNCED_SINCE_VERSION
    }

    /// Its bytes, and its checksum, which its first frame is chained to.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], u64) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = u8::from(self.continues);
        let fields =
            [self.size, self.identity, self.number, self.base.index.0, self.base.term.0, self.seed].into_iter();
        for (place, field) in fields.enumerate() {
            bytes[16 + place * 8..24 + place * 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = codec::checksum(&[&bytes[..HEADER_CHECKSUM_OFFSET]]);
        bytes[HEADER_CHECKSUM_OFFSET..HEADER_END].copy_from_slice(&checksum.to_le_bytes());
        (bytes, checksum)
    }

    /// Reads the header of the segment with this number, from the first block of a file of this length.
    pub(super) fn parse(bytes: &[u8], number: u64, file_bytes: u64) -> FoundHeader {
        let damaged = |what: String| FoundHeader::Damaged(what);
        let Some(sector) = bytes.get(..HEADER_BYTES) else {
            return damaged(format!("cut off: {} bytes", bytes.len()));
        };
        if sector.iter().all(|byte| *byte == 0) {
            return FoundHeader::Blank;
        }
        let checksum = codec::checksum(&[&sector[..HEADER_CHECKSUM_OFFSET]]);
        if sector[..8] != MAGIC || u64_at(sector, HEADER_CHECKSUM_OFFSET) != checksum {
            return damaged("a damaged header".to_owned());
        }
        let version = u16::from_le_bytes([sector[8], sector[9]]);
        match version {
            1..=SEGMENT_VERSION => {}
            0 => return damaged("format version 0".to_owned()),
            newer => return FoundHeader::Newer(newer),
        }
        let field = |place: usize| u64_at(sector, 16 + place * 8);
        let header = Header {
            version,
            size: field(0),
            identity: field(1),
            number: field(2),
            base: EntryId { index: Index(field(3)), term: Term(field(4)) },
            seed: field(5),
            continues: sector[10] != 0,
        };
        if header.number != number {
            return damaged(format!("the header of segment {}", header.number));
        }
        if bytes[HEADER_END..].iter().any(|byte| *byte != 0) {
            return damaged("no zeros behind the header".to_owned());
        }
        if header.size != file_bytes || header.size > SEGMENT_LIMIT_BYTES {
            return damaged(format!("{file_bytes} bytes, written as {}", header.size));
        }
        FoundHeader::Begun(header, checksum)
    }
}

/// What a record does to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries come to its end: first index u64, term of the entry before u64, how many u32, the entries, each after
    /// its length u32.
    Append = 1,
    /// An entry and all after it go: index u64.
    RemoveFrom = 2,
    /// The log is emptied: the entry that it starts after, index u64 and term u64.
    Reset = 3,
    /// A process has opened the log: for the how-manieth time, u64.
    Opened = 4,
    /// What of this segment was synced before this was written: a [`SyncedClaim`].
    Synced = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        let known = [Kind::Append, Kind::RemoveFrom, Kind::Reset, Kind::Opened, Kind::Synced];
        known.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Says that a segment was synced up to some byte. It is found, and believed, without the chain: after a frame that
/// does not fit into it this is what tells damage from an interrupted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SyncedClaim {
    /// The number of the segment.
    pub(super) segment: u64,
    /// Everything before this byte is on the device.
    pub(super) end: u64,
    /// The last entry of the log there.
    pub(super) last: EntryId,
}

impl SyncedClaim {
    pub(super) const BYTES: usize = 48;
    const MAGIC: [u8; 8] = *b"SMRSYNC\0";
    const CHECKSUM_OFFSET: usize = Self::BYTES - 8;

    pub(super) fn encode(&self, identity: u64) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        for (place, field) in [self.segment, self.end, self.last.index.0, self.last.term.0].into_iter().enumerate() {
            bytes[8 + place * 8..16 + place * 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = codec::checksum(&[&identity.to_le_bytes(), &bytes[..Self::CHECKSUM_OFFSET]]);
        bytes[Self::CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The one at the beginning of `bytes`, if it is of this owner.
    fn parse(bytes: &[u8], identity: u64) -> Option<SyncedClaim> {
        let bytes = bytes.get(..Self::BYTES)?;
        let field = |place: usize| u64_at(bytes, 8 + place * 8);
        let claim = SyncedClaim { segment: field(0), end: field(1), last: EntryId::new(field(2), field(3)) };
        (claim.encode(identity) == *bytes).then_some(claim)
    }

    /// The one that reaches furthest of those that stand in this segment at or after byte `from`, wherever a frame
    /// begins. Those of the segment's previous incarnations name other segments.
    pub(super) fn furthest(bytes: &[u8], from: usize, header: &Header) -> Option<SyncedClaim> {
        let rest = bytes.get(from..)?;
        let magics = rest.windows(8).enumerate().filter(|(_, window)| *window == Self::MAGIC);
        let claims = magics.filter_map(|(at, _)| Self::parse(&rest[at..], header.identity));
        claims.filter(|claim| claim.segment == header.number).max_by_key(|claim| claim.end)
    }
}

/// Whether a frame is the first, or the last, of its record.
pub(super) const FIRST_PIECE: u8 = 1;
pub(super) const LAST_PIECE: u8 = 2;

/// A frame that fits into the chain.
pub(super) struct Frame<'a> {
    /// `None` for one that this build does not know.
    pub(super) kind: Option<Kind>,
    pub(super) pieces: u8,
    pub(super) payload: &'a [u8],
    pub(super) checksum: u64,
}

impl Frame<'_> {
    pub(super) fn len(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload.len()
    }
}

/// Reads the frame at the beginning of `bytes`, if it follows the one with this checksum.
pub(super) fn parse(bytes: &[u8], previous: u64) -> Option<Frame<'_>> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let payload = bytes[FRAME_HEADER_BYTES..].get(..length)?;
    let checksum = u64_at(header, 0);
    // No kind is zero, so zeros are no frame, whatever their checksum.
    if header[12] == 0 || checksum_of(&bytes[8..FRAME_HEADER_BYTES + length], previous) != checksum {
        return None;
    }
    Some(Frame { kind: Kind::of(header[12]), pieces: header[13], payload, checksum })
}

/// Fills the header of a frame whose payload is in its place; returns its checksum.
pub(super) fn seal(frame: &mut [u8], kind: Kind, pieces: u8, previous: u64) -> u64 {
    let length =
        u32::try_from(frame.len() - FRAME_HEADER_BYTES).unwrap_or_else(|_| panic!("a frame of {} bytes", frame.len()));
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    frame[12..16].copy_from_slice(&[kind as u8, pieces, 0, 0]);
    let checksum = checksum_of(&frame[8..], previous);
    frame[..8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

fn checksum_of(frame: &[u8], previous: u64) -> u64 {
    codec::checksum(&[&previous.to_le_bytes(), frame])
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}
