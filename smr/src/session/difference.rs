//! What has changed between two images of a table: what a `passive` group's checkpoint has of it.
//!
//! ```text
//! magic u32 | a table in the form of an image, of the sessions that are new or have changed
//! sessions that are gone u32, each: index u64, nonce u64
//! ```
//! The head of the table that is inside has everything else of it, as it is at the end. Little endian, like the images.

use std::io::{self, Read, Write};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::image::{SessionImage, check, read_u32, read_u64, write_u32, write_u64};
use super::table::{Session, SessionTable};
use crate::id::ClientId;

/// "SED" and the version of the format, a digit.
const MAGIC: u32 = u32::from_le_bytes(*b"SED1");

impl SessionImage {
    /// Writes how to get from `base`, an earlier image, to this one, for [`SessionImage::advance`]. Takes time by what
    /// has changed.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write_difference(&self, base: &SessionImage, output: &mut dyn Write) -> io::Result<()> {
        let mut changed: OrdMap<ClientId, Arc<Session>> = OrdMap::new();
        let mut gone: Vec<ClientId> = Vec::new();
        for item in base.sessions.diff(&self.sessions) {
            match item {
                DiffItem::Add(client, session) | DiffItem::Update { new: (client, session), .. } => {
                    changed.insert(*client, session.clone());
                }
                DiffItem::Remove(client, _) => gone.push(*client),
            }
        }
        output.write_all(&MAGIC.to_le_bytes())?;
        SessionImage { sessions: changed, ..self.clone() }.write(output)?;
        write_u32(output, gone.len())?;
        gone.iter().try_for_each(|client| {
            write_u64(output, client.index)?;
            write_u64(output, client.nonce)
        })
    }

    /// The table that comes of this image and what [`SessionImage::write_difference`] wrote from its like. Reads
    /// exactly what was written and nothing after it.
    ///
    /// # Errors
    /// Those of `input`; `InvalidData` if the bytes are no difference from this image.
    pub fn advance(self, input: &mut dyn Read) -> io::Result<SessionTable> {
        let magic = read_u32(input)?;
        check(magic == MAGIC, || format!("a difference starts with {magic:08x}"))?;
        let changed = SessionTable::restore_with_limits(input, self.limits)?;
        check(changed.applied >= self.applied, || {
            format!("a difference that leads back from {} to {}", self.applied, changed.applied)
        })?;
        let mut sessions = self.sessions;
        let count = read_u32(input)?;
        check(count as usize <= sessions.len(), || format!("{count} sessions gone, of {}", sessions.len()))?;
        for _ in 0..count {
            let client = ClientId { index: read_u64(input)?, nonce: read_u64(input)? };
            check(sessions.remove(&client).is_some(), || format!("session {client:?} gone, which was not there"))?;
        }
        for (client, session) in &changed.sessions {
            sessions.insert(*client, session.clone());
        }
        let SessionTable { applied, open_versions, addresses, .. } = changed;
        let table = SessionTable::from_parts(self.limits, applied, open_versions, addresses, sessions);
        check(table.fits_together(), || "two sessions with one entry in common".to_owned())?;
        let bounds = table.limits();
        check(table.len() <= bounds.sessions_max && table.answers_bytes() <= bounds.answers_max_bytes, || {
            format!("{} sessions with {} bytes of answers", table.len(), table.answers_bytes())
        })?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::Index;
    use crate::request::Outcome;
    use crate::session::{SessionCommand, SessionLimits};

    fn write(client: ClientId, number: u64, lowest_unanswered: u64) -> SessionCommand {
        let command = Bytes::from(format!("{number}"));
        SessionCommand::Write { client, number, lowest_unanswered, command }
    }

    // covers K14 K15
    #[test]
    fn table_after_a_difference_is_the_one_that_applied_everything() {
        let limits = SessionLimits { sessions_max: 5, answers_max_bytes: 2_000 };
        let mut table = SessionTable::with_limits(limits);
        let mut clients: Vec<ClientId> = Vec::new();
        let mut index = 0;
        for round in 0..40_u64 {
            let base = table.image();
            for step in 0..round % 7 {
                index += 1 + step % 2;
                let command = match clients.last() {
                    Some(_) if (round + step) % 5 != 0 => {
                        let client = clients[(round * 3 + step) as usize % clients.len()];
                        write(client, round * 10 + step + 1, round * 10 + 1)
                    }
                    _ => SessionCommand::Open { nonce: index },
                };
                let answer = |command: &[u8]| vec![7; command.len() * (1 + round as usize)];
                if let Outcome::SessionOpened(client) = table.apply(Index(index), &command, answer) {
                    clients.push(client);
                }
            }
            let mut difference = Vec::new();
            table.image().write_difference(&base, &mut difference).unwrap();
            for len in 0..difference.len() {
                assert!(base.clone().advance(&mut &difference[..len]).is_err(), "{len} of {} bytes", difference.len());
            }
            let mut input = &difference[..];
            let advanced = base.advance(&mut input).unwrap();
            assert!(input.is_empty());
            assert_eq!(advanced.digest(), table.digest(), "round {round}");
            // What is not in an image follows from it.
            assert_eq!(format!("{advanced:?}"), format!("{table:?}"));
        }
        assert!(clients.len() > 8, "sessions were pushed out");
    }

    #[test]
    fn difference_from_another_table_is_an_error_or_a_table_within_the_bounds() {
        let mut table = SessionTable::new();
        let base = table.image();
        let Outcome::SessionOpened(client) = table.apply(Index(1), &SessionCommand::Open { nonce: 1 }, |_| Vec::new())
        else {
            panic!("no session")
        };
        let opened = table.image();
        let mut gone = Vec::new();
        base.write_difference(&opened, &mut gone).unwrap();
        assert!(opened.advance(&mut &gone[..]).is_err(), "it leads back");
        let mut more = Vec::new();
        let opened = table.image();
        let opened_again = table.image();
        table.apply(Index(2), &write(client, 1, 1), |_| vec![1; 10]);
        table.image().write_difference(&opened, &mut more).unwrap();
        assert!(base.advance(&mut &more[..]).is_ok());
        // Another session with the same entry: which of the two is to go when the table is full?
        let (mut other, mut foreign) = (SessionTable::new(), Vec::new());
        let empty = other.image();
        other.apply(Index(1), &SessionCommand::Open { nonce: 2 }, |_| Vec::new());
        other.apply(Index(5), &SessionCommand::Idempotent { command: Bytes::new() }, |_| Vec::new());
        other.image().write_difference(&empty, &mut foreign).unwrap();
        let refused = opened_again.advance(&mut &foreign[..]).unwrap_err();
        assert!(refused.to_string().contains("one entry in common"), "{refused}");
    }
}
