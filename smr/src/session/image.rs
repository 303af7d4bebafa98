//! Point-in-time copies of the table, and their form in a snapshot.
//!
//! ```text
//! magic u32 | sessions_max u64 | answers_max_bytes u64 | applied u64
//! versions of commands, in SES3 and SES4: library u16 | machine u16
//! addresses, in SES4 u32
//! each address, in order of replicas: replica u16 | length u32 | address
//! sessions u32
//! each session, in order of clients:
//!     client: index u64, nonce u64 | last_used u64 | lowest u64 | executed, 16 words u64 | stored answers u32
//!     each stored answer, in order of numbers:
//!         number u64 | index u64 | hash of the command u64 | length u32 | answer
//! ```
//! SES3 is written once a command of a newer version than the first is applied, which only builds propose and apply
//! that read it, and SES4 likewise once there are addresses. Until then the bytes are those that builds without them
//! write. Little endian. Equal tables give equal bytes. The snapshot file around it has the checksums, so what fails
//! to parse here is of another format, or a bug; still every length is checked before anything is allocated for it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::command::ADDRESS_MAX_BYTES;
use super::table::{Addresses, Session, SessionTable, Stored, Window};
use super::{REQUESTS_IN_FLIGHT_MAX, SessionLimits};
use crate::codec::Hashing;
use crate::entry::Index;
use crate::id::{ClientId, ReplicaId};
use crate::version::CommandVersions;

/// "SES" and the version of the format, a digit.
const MAGIC: u32 = u32::from_le_bytes(*b"SES2");
/// The same with versions of commands, if these are not the first.
const MAGIC_VERSIONS: u32 = u32::from_le_bytes(*b"SES3");
/// The same with addresses of replicas.
const MAGIC_ADDRESSES: u32 = u32::from_le_bytes(*b"SES4");
/// The same without nonces, as older builds wrote it.
const MAGIC_PLAIN: u32 = u32::from_le_bytes(*b"SES1");

/// What to say of a beginning that is none of these.
fn not_read(magic: u32) -> String {
    match magic.to_le_bytes() {
        [b'S', b'E', b'S', version] if version.is_ascii_graphic() => {
            format!("it is of version {}, this build reads versions 1 to 4", char::from(version))
        }
        _ => format!("starts with {magic:08x}"),
    }
}

/// A table as it was at one moment. Cheap to make, to keep and to hand to another thread.
#[derive(Clone)]
pub struct SessionImage {
    pub(super) limits: SessionLimits,
    pub(super) applied: Index,
    pub(super) open_versions: CommandVersions,
    pub(super) addresses: Arc<Addresses>,
    pub(super) sessions: OrdMap<ClientId, Arc<Session>>,
}

impl fmt::Debug for SessionImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionImage of {} sessions at {}", self.sessions.len(), self.applied)
    }
}

impl SessionImage {
    /// Writes the image in the form that [`SessionTable::restore`] reads. Makes many small writes.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        let has_versions = self.open_versions != CommandVersions::FIRST;
        let magic = match (has_versions, self.addresses.is_empty()) {
            (_, false) => MAGIC_ADDRESSES,
            (true, true) => MAGIC_VERSIONS,
            (false, true) => MAGIC,
        };
        output.write_all(&magic.to_le_bytes())?;
        write_u64(output, self.limits.sessions_max as u64)?;
        write_u64(output, self.limits.answers_max_bytes as u64)?;
        write_u64(output, self.applied.0)?;
        if magic != MAGIC {
            output.write_all(&self.open_versions.library.to_le_bytes())?;
            output.write_all(&self.open_versions.machine.to_le_bytes())?;
        }
        if magic == MAGIC_ADDRESSES {
            write_u32(output, self.addresses.len())?;
            for (name, address) in self.addresses.iter() {
                output.write_all(&name.0.to_le_bytes())?;
                write_u32(output, address.len())?;
                output.write_all(address.as_bytes())?;
            }
        }
        write_u32(output, self.sessions.len())?;
        for (client, session) in &self.sessions {
            write_u64(output, client.index)?;
            write_u64(output, client.nonce)?;
            write_u64(output, session.last_used.0)?;
            write_u64(output, session.lowest)?;
            for word in session.executed.0 {
                write_u64(output, word)?;
            }
            write_u32(output, session.stored.len())?;
            for stored in &session.stored {
                write_u64(output, stored.number)?;
                write_u64(output, stored.index.0)?;
                write_u64(output, stored.command_hash)?;
                write_u32(output, stored.answer.len())?;
                output.write_all(&stored.answer)?;
            }
        }
        Ok(())
    }

    /// A hash over everything in the image.
    pub fn digest(&self) -> u64 {
        let mut hashing = Hashing::default();
        self.write(&mut hashing).unwrap_or_else(|error| panic!("hashing failed: {error}"));
        hashing.digest()
    }
}

impl SessionTable {
    /// The table that [`SessionImage::write`] wrote, under the limits that production has. Reads exactly what was
    /// written and nothing after it.
    ///
    /// # Errors
    /// Those of `input`; `InvalidData` if the bytes are no table, or one with other limits.
    pub fn restore(input: &mut dyn Read) -> io::Result<SessionTable> {
        SessionTable::restore_with_limits(input, SessionLimits::default())
    }

    /// The same for a table with limits of one's own.
    ///
    /// # Errors
    /// Those of `input`; `InvalidData` if the bytes are no table, or one with other limits.
    pub fn restore_with_limits(input: &mut dyn Read, limits: SessionLimits) -> io::Result<SessionTable> {
        let magic = read_u32(input)?;
        check([MAGIC_PLAIN, MAGIC, MAGIC_VERSIONS, MAGIC_ADDRESSES].contains(&magic), || not_read(magic))?;
        let (sessions_max, answers_max_bytes) = (read_u64(input)?, read_u64(input)?);
        check(
            sessions_max == limits.sessions_max as u64 && answers_max_bytes == limits.answers_max_bytes as u64,
            || {
                format!(
                    "written for {sessions_max} sessions and {answers_max_bytes} bytes of answers, not for {limits:?}"
                )
            },
        )?;
        let applied = Index(read_u64(input)?);
        let mut open_versions = CommandVersions::FIRST;
        if [MAGIC_VERSIONS, MAGIC_ADDRESSES].contains(&magic) {
            open_versions = CommandVersions { library: read_u16(input)?, machine: read_u16(input)? };
            let CommandVersions { library, machine } = open_versions;
            let says_something = library.max(machine) > 1 || magic == MAGIC_ADDRESSES;
            check(library.min(machine) >= 1 && says_something, || {
                format!("commands of version {library} of the library and {machine} of the state machine")
            })?;
        }
        let addresses = if magic == MAGIC_ADDRESSES { read_addresses(input)? } else { Addresses::new() };
        let count = read_u32(input)?;
        check(u64::from(count) <= sessions_max, || format!("{count} sessions"))?;

        let mut restored = Restored {
            applied,
            answers_room_bytes: limits.answers_max_bytes,
            used: BTreeSet::new(),
            executed: BTreeSet::new(),
        };
        let mut sessions: OrdMap<ClientId, Arc<Session>> = OrdMap::new();
        for _ in 0..count {
            let index = read_u64(input)?;
            let nonce = if magic == MAGIC_PLAIN { 0 } else { read_u64(input)? };
            let client = ClientId { index, nonce };
            let last = sessions.get_max().map_or(0, |(client, _)| client.index);
            check(index > last, || format!("session {index} behind session {last}"))?;
            sessions.insert(client, Arc::new(restored.session(client, input)?));
        }
        Ok(SessionTable::from_parts(limits, applied, open_versions, Arc::new(addresses), sessions))
    }
}

/// The addresses of an image that has some.
fn read_addresses(input: &mut dyn Read) -> io::Result<Addresses> {
    let count = read_u32(input)?;
    // Whoever has left is in no later command, so there may be more than one command may name.
    check((1..=u32::from(u16::MAX)).contains(&count), || format!("{count} addresses"))?;
    let mut addresses = Addresses::new();
    for _ in 0..count {
        let name = ReplicaId(read_u16(input)?);
        let len = read_u32(input)? as usize;
        check((1..=ADDRESS_MAX_BYTES).contains(&len), || format!("an address of {len} bytes"))?;
        let mut bytes = vec![0; len];
        input.read_exact(&mut bytes)?;
        let address = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        check(addresses.last_key_value().is_none_or(|(last, _)| *last < name), || format!("{name} out of order"))?;
        addresses.insert(name, address);
    }
    Ok(addresses)
}

/// What must hold across the sessions of a table that is being read.
struct Restored {
    applied: Index,
    /// What is left of the limit.
    answers_room_bytes: usize,
    /// The last entries of the sessions so far.
    used: BTreeSet<Index>,
    /// The entries whose answers are stored, so far.
    executed: BTreeSet<Index>,
}

impl Restored {
    fn session(&mut self, client: ClientId, input: &mut dyn Read) -> io::Result<Session> {
        let last_used = Index(read_u64(input)?);
        let in_order = (client.index..=self.applied.0).contains(&last_used.0);
        check(in_order && self.used.insert(last_used), || {
            format!("session {} last used at {last_used}", client.index)
        })?;
        let lowest = read_u64(input)?;
        check(lowest > 0, || format!("session {} with lowest number 0", client.index))?;
        let mut executed = Window::default();
        for word in &mut executed.0 {
            *word = read_u64(input)?;
        }
        let count = read_u32(input)?;
        check(u64::from(count) <= REQUESTS_IN_FLIGHT_MAX, || format!("{count} answers in session {}", client.index))?;
        let mut session = Session { last_used, lowest, executed, stored: VecDeque::new() };
        for _ in 0..count {
            let stored = self.stored(client, &session, input)?;
            session.stored.push_back(stored);
        }
        Ok(session)
    }

    fn stored(&mut self, client: ClientId, session: &Session, input: &mut dyn Read) -> io::Result<Stored> {
        let number = read_u64(input)?;
        let behind = session.stored.back().is_none_or(|last| last.number < number);
        let inside = number >= session.lowest && number - session.lowest < REQUESTS_IN_FLIGHT_MAX;
        check(behind && inside && session.executed.contains(number), || {
            format!("answer {number} of session {} in a window from {}", client.index, session.lowest)
        })?;
        let index = Index(read_u64(input)?);
        let in_order = client.index < index.0 && index <= session.last_used;
        check(in_order && self.executed.insert(index), || format!("answer of {index} in session {}", client.index))?;
        let command_hash = read_u64(input)?;

        let len_bytes = read_u32(input)? as usize;
        let mut stored = Stored { number, index, command_hash, answer: Bytes::new() };
        let cost_bytes = stored.cost_bytes() + len_bytes;
        check(cost_bytes <= self.answers_room_bytes, || format!("answer of {len_bytes} bytes at {index}"))?;
        self.answers_room_bytes -= cost_bytes;
        let mut answer = Vec::new();
        // Grows with what arrives, not with what was announced.
        input.take(len_bytes as u64).read_to_end(&mut answer)?;
        if answer.len() < len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        stored.answer = Bytes::from(answer.into_boxed_slice());
        Ok(stored)
    }
}

pub(super) fn check(holds: bool, what: impl FnOnce() -> String) -> io::Result<()> {
    if holds {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("no session table: {}", what())))
}

pub(super) fn write_u64(output: &mut dyn Write, value: u64) -> io::Result<()> {
    output.write_all(&value.to_le_bytes())
}

/// Writes a count or length that the table's limits keep far below 2^32.
pub(super) fn write_u32(output: &mut dyn Write, value: usize) -> io::Result<()> {
    let value = u32::try_from(value).unwrap_or_else(|_| panic!("{value} in a session image"));
    output.write_all(&value.to_le_bytes())
}

pub(super) fn read_u64(input: &mut dyn Read) -> io::Result<u64> {
    let mut word = [0; 8];
    input.read_exact(&mut word)?;
    Ok(u64::from_le_bytes(word))
}

fn read_u16(input: &mut dyn Read) -> io::Result<u16> {
    let mut word = [0; 2];
    input.read_exact(&mut word)?;
    Ok(u16::from_le_bytes(word))
}

pub(super) fn read_u32(input: &mut dyn Read) -> io::Result<u32> {
    let mut word = [0; 4];
    input.read_exact(&mut word)?;
    Ok(u32::from_le_bytes(word))
}
