//! Checkpoints of a `passive` group are made, sent and built on a thread of their own: what is in them is the engine's.

use std::time::Duration;

use crate::protocol::Protocol;
use crate::replica::driver::Driver;
use crate::replica::engine::{BuildCheckpoint, CHECKPOINT_PIECE_MAX_BYTES, MakeCheckpoint};
use crate::replica::inbox::NodeInput;
use crate::replica::message::{CHECKPOINT_PIECE_OVERHEAD_BYTES, PeerMessage};
use crate::replica::worker::Worker;
use crate::state_machine::StateMachine;
use crate::transport::Lane;
use crate::version::ImageVersions;

/// The pause after each part that was sent. Parts share their way with the log, on which each write waits for every
/// backup: so a part goes at a time, and others get in between.
const PIECE_PAUSE: Duration = Duration::from_millis(1);
/// This many such pauses a part waits at most for what lies in front of it on its way to a backup: about a second.
/// Where the log alone fills a slow link, the rest is given up.
const PAUSES_MAX: usize = 1_000;

/// Whether less than one part lies in front of the next one, or soon does. Else checkpoints would fill the lane of a
/// backup at the end of a slow link, entries of the log would find no room there, and the backup would be taken for one
/// that has failed.
fn has_room(waiting_bytes: impl Fn() -> usize, mut pause: impl FnMut()) -> bool {
    (0..PAUSES_MAX).any(|_| {
        let has_room = waiting_bytes() < CHECKPOINT_PIECE_MAX_BYTES;
        if !has_room {
            pause();
        }
        has_room
    })
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    fn checkpoint_worker(&self) -> &Worker {
        self.checkpoint_worker.as_ref().unwrap_or_else(|| panic!("a checkpoint in a group without backups"))
    }

    /// What is lost on the way is not sent again: the backup applies its own log instead. One that cannot take the rest
    /// is sent a mark in its place.
    pub(super) fn make_checkpoint(&self, make: MakeCheckpoint<S>) {
        let (inputs, transport) = (self.inputs.clone(), self.transport.clone());
        self.checkpoint_worker().give(move || {
            let bytes = make.bytes();
            let mut to = make.to.clone();
            for piece in make.pieces(ImageVersions::with_machine(S::IMAGE_VERSION), bytes) {
                to.retain(|node| {
                    let waiting_bytes = || transport.bulk_bytes_waiting(node.name);
                    let goes_on = piece.is_mark() || has_room(waiting_bytes, || std::thread::sleep(PIECE_PAUSE));
                    let piece = if goes_on { piece.clone() } else { piece.mark() };
                    let size_bytes = CHECKPOINT_PIECE_OVERHEAD_BYTES + piece.bytes.len();
                    transport.queue(*node, PeerMessage::Checkpoint(piece), Lane::Bulk, size_bytes);
                    goes_on
                });
                transport.flush();
                if to.is_empty() {
                    break;
                }
                if piece.offset + (piece.bytes.len() as u64) < piece.len_bytes {
                    std::thread::sleep(PIECE_PAUSE);
                }
            }
            drop(make);
            // If no one listens any more the replica has been shut down.
            let _ = inputs.tell(NodeInput::CheckpointMade);
            Ok(())
        });
    }

    pub(super) fn build_checkpoint(&self, build: BuildCheckpoint<S>) {
        let inputs = self.inputs.clone();
        self.checkpoint_worker().give(move || {
            let _ = inputs.tell(NodeInput::CheckpointBuilt(build.build()));
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn part_waits_for_what_is_in_front_of_it_but_not_for_ever() {
        let waiting = Cell::new(CHECKPOINT_PIECE_MAX_BYTES + 2);
        let goes_out = || waiting.set(waiting.get() - 1);
        assert!(has_room(|| waiting.get(), goes_out));
        assert_eq!(waiting.get(), CHECKPOINT_PIECE_MAX_BYTES - 1, "it went as soon as it could");
        let mut pauses = 0;
        assert!(!has_room(|| CHECKPOINT_PIECE_MAX_BYTES, || pauses += 1));
        assert_eq!(pauses, PAUSES_MAX);
    }
}
