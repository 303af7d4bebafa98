//! What has changed lately, for clients that watch keys.
//!
//! Every write that changes something leaves a notification beside the records, as in
//! [`smr_service::notifications::recent`]: its own bytes, under the index of its entry. So does a move of slots, once
//! they have left or come. None of it is a part of the replicated state: images, digests and checkpoints are as without
//! it. While no one watches it costs a copy of the command to the end of the last one.
//!
//! A server keeps a question to which there is nothing new for a while ([`Holding`]). Whoever waits has asked the state
//! first, between two commands; that arms a bell, and the next entry rings it, whatever key it is about. So a write
//! that no one waits for looks at a flag, and none takes a lock.

mod holding;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use madkv_proto::slot_move::{decode_elsewhere, encode_elsewhere};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::slot_of;
use madkv_proto::watch::{LOOKED_AT_MAX, PART_MAX_BYTES, SlotsMoved, WatchAnswer, WatchFrom, WatchQuery, concerns};
use smr::replica::ReplyTo;
use smr_service::notifications::recent::{NotHere, RecentLog};
use tokio::sync::watch;

use crate::ownership::Ownership;
use crate::why::answering;

pub use self::holding::Holding;

/// Moves of slots that are remembered by their epoch.
const MOVES_MAX: usize = 1_024;

/// What has changed in a partition, as far as it is remembered.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    log: RecentLog,
    /// Those among them that are moves of slots.
    moves: VecDeque<Moved>,
    /// The epoch of the last move before these.
    epoch_before: u64,
    bell: Bell,
}

/// A move in the log.
#[derive(Debug)]
struct Moved {
    index: u64,
    epoch: u64,
    has_come: bool,
}

/// Rings when something is applied, once someone waits for it. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<BellState>);

#[derive(Debug, Default)]
struct BellState {
    is_armed: AtomicBool,
    rung: watch::Sender<()>,
}

impl Bell {
    fn arm(&self) {
        self.0.is_armed.store(true, Ordering::Relaxed);
    }

    fn is_armed(&self) -> bool {
        self.0.is_armed.load(Ordering::Relaxed)
    }

    fn ring(&self) {
        self.0.is_armed.store(false, Ordering::Relaxed);
        self.0.rung.send_replace(());
    }
}

impl Changes {
    /// The command of the entry at `index` has changed something.
    pub(crate) fn note(&mut self, index: u64, command: &[u8]) {
        self.log.emit(index, command);
    }

    /// By the entry at `index` slots have moved, if they have: the partition had these, and the others now.
    pub(crate) fn note_slots(&mut self, index: u64, before: &SlotSet, ownership: &Ownership) {
        let (left, came) = (before.without(ownership.owned()), ownership.owned().without(before));
        if left.is_empty() && came.is_empty() {
            return;
        }
        let (epoch, has_come) = (ownership.epoch(), !came.is_empty());
        self.log.emit(index, &SlotsMoved { epoch, left, came }.encode());
        self.moves.push_back(Moved { index, epoch, has_come });
        if self.moves.len() > MOVES_MAX {
            self.epoch_before = self.moves.pop_front().map_or(self.epoch_before, |moved| moved.epoch);
        }
    }

    /// The command at `index` was applied.
    pub(crate) fn applied(&mut self, index: u64) {
        self.log.passed(index);
    }

    /// The entry at `index` was applied, a command or not: whoever waits may look.
    pub(crate) fn passed(&mut self, index: u64) {
        self.log.passed(index);
        if self.bell.is_armed() {
            self.bell.ring();
        }
    }

    /// Changes of entries after `index` follow; slots have last moved by the map of this epoch.
    pub(crate) fn begin_after(&mut self, index: u64, epoch: u64) {
        self.log.begin_after(index);
        (self.moves, self.epoch_before) = (VecDeque::new(), epoch);
        self.bell.ring();
    }

    /// Takes over the bell of the state whose place this one takes.
    pub(crate) fn inherit(&mut self, from: &Changes) {
        self.bell = from.bell();
    }

    /// What rings once there is something new.
    pub(crate) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// What a watcher hears of a partition with this ownership.
    pub(crate) fn answer(&self, query: &WatchQuery, ownership: Option<&Ownership>) -> Vec<u8> {
        if let (true, Some(key), Some(ownership)) = (query.begins, query.only_key(), ownership)
            && !ownership.owned().contains(slot_of(key))
        {
            return encode_elsewhere(ownership.epoch());
        }
        self.look_up(query, ownership.map_or(0, moved_epoch)).encode()
    }

    fn look_up(&self, query: &WatchQuery, epoch: u64) -> WatchAnswer {
        let from = match query.from {
            WatchFrom::Now => self.log.position() + 1,
            WatchFrom::Index(index) => index,
            WatchFrom::Slots { epoch } => match self.since_slots_came(epoch) {
                Some(index) => index,
                None => return WatchAnswer::Compacted { oldest: self.log.oldest() },
            },
        };
        let notifications = match self.log.since(from) {
            Ok(notifications) => notifications,
            Err(NotHere::Compacted { oldest }) => return WatchAnswer::Compacted { oldest },
            Err(NotHere::Ahead { position }) => return WatchAnswer::Ahead { position },
        };
        let (mut items, mut bytes, mut last) = (Vec::new(), 0, 0);
        for (looked_at, (index, notification)) in notifications.enumerate() {
            if bytes >= PART_MAX_BYTES || looked_at >= LOOKED_AT_MAX {
                return WatchAnswer::Changes { items, position: last, is_end: false, epoch };
            }
            last = index;
            if concerns(notification, query) {
                bytes += notification.len();
                items.push((index, Bytes::copy_from_slice(notification)));
            }
        }
        if query.waits && items.is_empty() {
            self.bell.arm();
        }
        WatchAnswer::Changes { items, position: self.log.position(), is_end: true, epoch }
    }

    /// The entry by which slots have come by the map of this epoch or a later one; the next one, if none have yet.
    /// `None` if that is not known any more.
    fn since_slots_came(&self, epoch: u64) -> Option<u64> {
        let (oldest, mut before) = (self.log.oldest(), self.epoch_before);
        for moved in &self.moves {
            if moved.index < oldest {
                before = moved.epoch;
            } else if before < epoch && moved.epoch >= epoch && moved.has_come {
                return Some(moved.index);
            }
        }
        (before < epoch).then(|| self.log.position() + 1)
    }
}

/// The epoch of the map by which slots have last moved; 0 if none have.
pub(crate) fn moved_epoch(ownership: &Ownership) -> u64 {
    if ownership.has_changed() { ownership.epoch() } else { 0 }
}

/// Lets the answer say of which group it is.
pub(crate) fn of_group(reply: ReplyTo, genesis: u128) -> ReplyTo {
    answering(reply, move |answer| match decode_elsewhere(&answer) {
        Some(_) => answer,
        None => WatchAnswer::of_group(&answer, genesis),
    })
}
