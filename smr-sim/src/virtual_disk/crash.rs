//! What a crash makes of all that is not synced.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::file::{File, FileChange};
use super::names::NameChange;
use super::{State, VirtualDisk};

/// The unit in which writes tear, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// What a crash makes of volatile writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// They all happened to reach the device.
    Nothing,
    /// They are all gone.
    Everything,
    /// Only the process was killed: files keep everything, ordered maps a prefix of what was not flushed, decided by
    /// this seed.
    Killed(u64),
    /// Each has its own fate, decided by this seed.
    Seeded(u64),
    /// Of those that [`VirtualDisk::volatile_changes`] counts, the ones whose bit is set are kept: to go through every
    /// subset.
    Chosen(u64),
    /// The same, and a sector may also come back as neither the old nor the new one. Worse than what disks guarantee:
    /// for files that have to survive a spoiled sector anyway.
    Spoiled(u64),
}

/// What a crash makes of one volatile change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Spoiled,
}

impl VirtualDisk {
    /// The disk after a crash of the machine at this moment. Open files and locks of this one do not reach it.
    #[must_use]
    pub fn after_crash(&self, loss: Loss) -> VirtualDisk {
        let mut rng = match loss {
            Loss::Seeded(seed) | Loss::Spoiled(seed) | Loss::Killed(seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
            Loss::Nothing | Loss::Everything | Loss::Chosen(_) => None,
        };
        let kept_of = |unflushed| match &mut rng {
            None if loss == Loss::Nothing => unflushed,
            None => 0,
            Some(rng) => rng.random_range(0..=unflushed),
        };
        self.crash(loss, kept_of).0
    }

    /// The same, except that ordered maps keep the first `kept` of their unflushed writes.
    #[must_use]
    pub fn after_crash_keeping(&self, loss: Loss, kept: usize) -> VirtualDisk {
        self.crash(loss, |_| kept).0
    }

    /// How many fates a crash at this moment would decide if each change were kept: one for each sector, size and name
    /// that is not synced yet.
    pub fn volatile_changes(&self) -> u32 {
        self.crash(Loss::Nothing, |unflushed| unflushed).1
    }

    /// What a crash leaves, and how many fates it decided.
    fn crash(&self, loss: Loss, mut kept_of: impl FnMut(usize) -> usize) -> (VirtualDisk, u32) {
        let state = self.lock_state();
        let mut rng = match loss {
            Loss::Seeded(seed) | Loss::Spoiled(seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
            Loss::Nothing | Loss::Everything | Loss::Killed(_) | Loss::Chosen(_) => None,
        };
        let mut decided = 0;
        let mut fate = || {
            let number = decided;
            decided += 1;
            match (&mut rng, loss) {
                (None, Loss::Everything) => Fate::Lost,
                (None, Loss::Chosen(kept)) if kept.checked_shr(number).unwrap_or(0) & 1 == 0 => Fate::Lost,
                (None, _) => Fate::Kept,
                (Some(rng), _) => {
                    let (spoiled, kept) = (rng.random_bool(0.5), rng.random_bool(0.5));
                    match (spoiled && matches!(loss, Loss::Spoiled(_)), kept) {
                        (true, _) => Fate::Spoiled,
                        (false, true) => Fate::Kept,
                        (false, false) => Fate::Lost,
                    }
                }
            }
        };
        let mut after = State { durable: state.durable.clone(), next_inode: state.next_inode, ..State::default() };
        let mut lost: Vec<&NameChange> = Vec::new();
        for change in &state.pending {
            if !lost.iter().any(|earlier| earlier.touches(change)) && fate() != Fate::Lost {
                change.apply(&mut after.durable);
            } else {
                lost.push(change);
            }
        }
        after.current = after.durable.clone();
        for (inode, file) in &state.files {
            let bytes = file.after_crash(&mut fate);
            after.files.insert(*inode, File { current: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        for (inode, map) in &state.maps {
            after.maps.insert(*inode, map.after_crash(kept_of(map.unflushed())));
        }
        (VirtualDisk { state: Arc::new(Mutex::new(after)) }, decided)
    }
}

impl File {
    fn after_crash(&self, fate: &mut dyn FnMut() -> Fate) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut size = self.durable.len();
        let mut current_size = size;
        for change in &self.pending {
            match change {
                FileChange::Size(new) => {
                    current_size = *new;
                    if fate() != Fate::Lost {
                        size = *new;
                        bytes.truncate(size);
                    }
                }
                FileChange::Write { offset, bytes: written } => {
                    let end = offset + written.len();
                    if end > current_size {
                        current_size = end;
                        // The size has a fate of its own: without it what was written after the end is not seen.
                        if fate() != Fate::Lost {
                            size = size.max(end);
                        }
                    }
                    let mut from = *offset;
                    while from < end {
                        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                        let fate = fate();
                        if fate != Fate::Lost && bytes.len() < to {
                            bytes.resize(to, 0);
                        }
                        match fate {
                            Fate::Lost => {}
                            Fate::Kept => bytes[from..to].copy_from_slice(&written[from - offset..to - offset]),
                            Fate::Spoiled => bytes[from..to].iter_mut().for_each(|byte| *byte = !*byte),
                        }
                        from = to;
                    }
                }
            }
        }
        bytes.resize(size, 0);
        bytes
    }
}
