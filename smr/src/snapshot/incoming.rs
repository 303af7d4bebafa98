//! Receiving a snapshot from another node.

use std::path::Path;

use super::directory::{SnapshotDir, TransferId};
use super::format::{Header, Pieces};
use super::names;
use super::reader::SnapshotReader;
use super::{SNAPSHOT_MAX_BYTES, SYNC_EVERY_BYTES, SnapshotError, SnapshotInfo, SnapshotOffer, at, corrupt};
use crate::disk::DiskFile;

/// A snapshot on its way in. Dropping it ends the transfer; what has arrived is kept and can be resumed.
pub struct Incoming {
    dir: SnapshotDir,
    id: TransferId,
    offer: SnapshotOffer,
    name: String,
    file: Box<dyn DiskFile>,
    /// How far it has arrived.
    offset: u64,
    /// How far it is synced.
    synced_bytes: u64,
}

impl Incoming {
    /// Begins to receive what was offered, or goes on where an earlier transfer of the same file ended
    /// ([`Incoming::offset`]). Reads what is there of it.
    ///
    /// It takes the place of any other transfer (S4), which then hears `Superseded`; only a transfer that is under way
    /// and brings a newer snapshot stays.
    ///
    /// # Errors
    /// `Obsolete` if what is here, or under way, reaches at least as far; `Senseless` if no snapshot can have that
    /// length; `Disk`. The caller has compared the genesis.
    pub fn begin(dir: &SnapshotDir, offer: SnapshotOffer) -> Result<Incoming, SnapshotError> {
        if offer.len_bytes > SNAPSHOT_MAX_BYTES {
            let what = format!("a snapshot of {} bytes, limit {SNAPSHOT_MAX_BYTES}", offer.len_bytes);
            return Err(SnapshotError::Senseless(what));
        }
        let name = names::incoming(&offer);
        let path = dir.path(&name);
        let (id, file) = {
            let mut state = dir.state();
            let last = offer.meta.last;
            if let Some(latest) = &state.latest
                && latest.meta.last >= last
            {
                return Err(SnapshotError::Obsolete { have: latest.meta.last });
            }
            if let Some((_, other)) = state.receiving
                && other > last
            {
                return Err(SnapshotError::Obsolete { have: other });
            }
            dir.remove_incoming_but(&name)?;
            let file = dir.disk().open(&path, true).map_err(at(&path))?;
            (state.begin_transfer(last), file)
        };
        let mut incoming = Incoming { dir: dir.clone(), id, offer, name, file, offset: 0, synced_bytes: 0 };
        let offset = incoming.sound_bytes(&path)?;
        // What the earlier transfer left behind the last sound piece is torn, or will be sent again.
        incoming.file.set_len(offset).map_err(at(&path))?;
        incoming.offset = offset;
        Ok(incoming)
    }

    /// How many bytes of the file are here: the next one to come is the one at this offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What is being received.
    pub fn offer(&self) -> &SnapshotOffer {
        &self.offer
    }

    /// Takes the bytes at `offset`, which must be [`Incoming::offset`].
    ///
    /// # Errors
    /// `Senseless` for a gap, a repetition or bytes beyond the end; `Superseded`; `Disk`.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        if offset != self.offset {
            let what = format!("bytes at {offset} of a snapshot that has arrived up to {}", self.offset);
            return Err(SnapshotError::Senseless(what));
        }
        let end = offset + bytes.len() as u64;
        if end > self.offer.len_bytes {
            let what = format!("bytes up to {end} of a snapshot of {} bytes", self.offer.len_bytes);
            return Err(SnapshotError::Senseless(what));
        }
        let path = self.dir.path(&self.name);
        {
            // Under the lock: whoever takes this transfer's place then finds a file that no one else writes.
            let state = self.dir.state();
            if state.receiving.is_none_or(|(id, _)| id != self.id) {
                return Err(SnapshotError::Superseded);
            }
            self.file.write_at(bytes, offset).map_err(at(&path))?;
        }
        self.offset = end;
        if end - self.synced_bytes >= SYNC_EVERY_BYTES {
            self.file.sync().map_err(at(&path))?;
            self.synced_bytes = end;
        }
        Ok(())
    }

    /// Ends the transfer: syncs the file and reads all of it. Long work.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was offered: it is removed and must be sent again, from the start. `Senseless` if
    /// bytes are missing; `Superseded`; `Disk`.
    pub fn finish(self) -> Result<ReceivedSnapshot, SnapshotError> {
        if self.offset != self.offer.len_bytes {
            let what = format!("{} of {} bytes have arrived", self.offset, self.offer.len_bytes);
            return Err(SnapshotError::Senseless(what));
        }
        self.file.sync().map_err(at(&self.dir.path(&self.name)))?;
        let info = SnapshotInfo {
            meta: self.offer.meta.clone(),
            genesis: self.offer.genesis,
            len_bytes: self.offer.len_bytes,
            fingerprint: self.offer.fingerprint,
        };
        let verified = self.dir.read_file(&self.name, &info).and_then(SnapshotReader::verify);

        let mut state = self.dir.state();
        if state.receiving.is_none_or(|(id, _)| id != self.id) {
            return Err(SnapshotError::Superseded);
        }
        state.receiving = None;
        if let Err(error) = verified {
            if !matches!(error, SnapshotError::Disk { .. }) {
                self.dir.remove(&self.name)?;
            }
            return Err(error);
        }
        // Out of the reach of the next transfer, which clears away what is still incoming.
        let name = names::received(&self.offer, state.count());
        self.dir.rename(&self.name, &name)?;
        drop(state);
        Ok(ReceivedSnapshot { dir: self.dir.clone(), name, info })
    }

    /// How much of the file, from its start, is surely of the offered snapshot: whole pieces that fit.
    fn sound_bytes(&self, path: &Path) -> Result<u64, SnapshotError> {
        let len_bytes = self.file.len().map_err(at(path))?;
        let file = self.dir.disk().open(path, false).map_err(at(path))?;
        let sound = |file| -> Result<u64, SnapshotError> {
            let pieces = Pieces::open(file, path, self.offer.len_bytes)?;
            let expected =
                Header { group: self.dir.group().clone(), genesis: self.offer.genesis, meta: self.offer.meta.clone() };
            if pieces.header != expected {
                return Err(corrupt(path, "is another snapshot"));
            }
            let mut chunk = Vec::new();
            let mut number = 0;
            while number < pieces.chunks && pieces.chunk_offset(number + 1) <= len_bytes {
                match pieces.read_chunk(number, &mut chunk) {
                    Ok(()) => number += 1,
                    Err(SnapshotError::Corrupt { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            let all_here = number == pieces.chunks && len_bytes == pieces.len_bytes;
            Ok(if all_here { len_bytes } else { pieces.chunk_offset(number) })
        };
        match sound(file) {
            Err(SnapshotError::Corrupt { .. } | SnapshotError::Version { .. }) => Ok(0),
            other => other,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Else a transfer that died would keep an older, living one out for ever (S7).
        let mut state = self.dir.state();
        if state.receiving.is_some_and(|(id, _)| id == self.id) {
            state.receiving = None;
        }
    }
}

/// A snapshot that arrived whole, was verified and is on the device, but does not count yet. If it is neither adopted
/// nor discarded, the next open finds it and has nothing to fetch.
pub struct ReceivedSnapshot {
    dir: SnapshotDir,
    name: String,
    info: SnapshotInfo,
}

impl ReceivedSnapshot {
    /// Where the snapshot ends, and how long its file is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Its payload, from which the new state is built before anything is given up for it.
    ///
    /// # Errors
    /// `Corrupt`, `Disk`.
    pub fn read(&self) -> Result<SnapshotReader, SnapshotError> {
        self.dir.read_file(&self.name, &self.info)
    }

    /// Makes it the newest snapshot, durably, in one atomic step, and removes older ones. The log is changed after
    /// this.
    ///
    /// # Errors
    /// `Obsolete` if there is a newer one: then it is removed. `Disk`: after a restart either the old snapshot counts
    /// or this one.
    pub fn adopt(self) -> Result<SnapshotInfo, SnapshotError> {
        let adopted = self.dir.publish(&self.name, self.info);
        if let Err(SnapshotError::Obsolete { .. }) = adopted {
            self.dir.remove(&self.name)?;
        }
        adopted
    }

    /// Removes it.
    ///
    /// # Errors
    /// `Disk`.
    pub fn discard(self) -> Result<(), SnapshotError> {
        self.dir.remove(&self.name)
    }
}
