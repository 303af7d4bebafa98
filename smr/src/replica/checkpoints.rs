//! Checkpoints of a `passive` group are made, sent and built on a thread of their own: what is in them is the engine's.

use std::time::Duration;

use crate::protocol::Protocol;
use crate::replica::driver::Driver;
use crate::replica::engine::{BuildCheckpoint, MakeCheckpoint};
use crate::replica::inbox::NodeInput;
use crate::replica::message::{CHECKPOINT_PIECE_OVERHEAD_BYTES, PeerMessage};
use crate::replica::worker::Worker;
use crate::state_machine::StateMachine;
use crate::transport::Lane;
use crate::version::ImageVersions;

/// The pause after each part that was sent. Parts share their way with the log, on which each write waits for every
/// backup: so a part goes at a time, and others get in between.
const PIECE_PAUSE: Duration = Duration::from_millis(1);

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    fn checkpoint_worker(&self) -> &Worker {
        self.checkpoint_worker.as_ref().unwrap_or_else(|| panic!("a checkpoint in a group without backups"))
    }

    /// What is lost on the way is not sent again: the backup applies its own log instead.
    pub(super) fn make_checkpoint(&self, make: MakeCheckpoint<S>) {
        let (inputs, transport) = (self.inputs.clone(), self.transport.clone());
        self.checkpoint_worker().give(move || {
            let bytes = make.bytes();
            for piece in make.pieces(ImageVersions::with_machine(S::IMAGE_VERSION), bytes) {
                let size_bytes = CHECKPOINT_PIECE_OVERHEAD_BYTES + piece.bytes.len();
                for to in &make.to {
                    transport.queue(*to, PeerMessage::Checkpoint(piece.clone()), Lane::Bulk, size_bytes);
                }
                transport.flush();
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
