//! Checkpoints of a group whose backups do not apply (`passive`): what is in one, and its way from the primary's memory
//! into its backups'.
//!
//! The log of every member holds all requests, durably, so no acknowledged write hangs on a checkpoint: a backup that
//! is promoted applies what it has stored since its last one. Checkpoints only bound how much that is. They carry what
//! has *changed* in state and sessions between two moments of the primary, the base and the end; so they cost by what
//! was written in between, not by how much there is. Both sides work at them in the background, on point-in-time
//! copies: no turn of a replica waits for one, and what they take in memory and on the wire is bounded
//! ([`CHECKPOINT_MAX_BYTES`]).
//!
//! A checkpoint may also be a *mark*, without any bytes: the backup then applies its own log up to there, a portion at
//! a time. It is one
//! - at the beginning of an epoch, when the primary does not know what state its backups are in;
//! - if the change is larger than the bound, or the state machine cannot tell it;
//! - for a backup that is not at the base (a checkpoint was lost, or it came back) or whose build writes other bytes:
//!   it applies its own log up to the base, and then takes the checkpoint over, or up to the end.
//!
//! Whether one fits is for the core to say ([`Protocol::judge_checkpoint`]); it is asked when the checkpoint arrives,
//! and again before it becomes the state. One that is half there, or of another epoch, never does (K14).

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::actions::SnapshotImage;
use super::{Action, Engine};
use crate::entry::{EntryId, Index, Term};
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{CheckpointFit, CheckpointName, Protocol};
use crate::session::SessionTable;
use crate::state_machine::{Checkpointed, StateMachine};
use crate::version::ImageVersions;

/// Bytes of a checkpoint at most; beyond, it is a mark. As much as the log that brings one about: the core's default
/// for `checkpoint_bytes_max`.
pub const CHECKPOINT_MAX_BYTES: usize = 16 << 20;
/// Bytes of a checkpoint that travel in one message at most.
pub const CHECKPOINT_PIECE_MAX_BYTES: usize = 256 << 10;

/// A part of a checkpoint on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPiece {
    /// Which checkpoint.
    pub name: CheckpointName,
    /// The primary's `checkpoint_count`.
    pub count: u64,
    /// The versions of its bytes.
    pub input: ImageVersions,
    /// How many bytes the whole has; 0 for a mark.
    pub len_bytes: u64,
    /// Where in the whole these begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

impl CheckpointPiece {
    /// Whether there is nothing to take over but the name.
    pub fn is_mark(&self) -> bool {
        self.len_bytes == 0
    }

    /// In place of the rest of its checkpoint: the backup applies its own log up to the same end.
    pub fn mark(&self) -> CheckpointPiece {
        let name = CheckpointName { base: self.name.end, ..self.name };
        CheckpointPiece { name, len_bytes: 0, offset: 0, bytes: Bytes::new(), ..self.clone() }
    }
}

/// A checkpoint to be made in the background, and sent.
pub struct MakeCheckpoint<S: StateMachine> {
    /// Its name.
    pub name: CheckpointName,
    /// The primary's `checkpoint_count`.
    pub count: u64,
    /// Whom for.
    pub to: Vec<NodeId>,
    /// The primary at the base and at the end; nothing for a mark.
    pub images: Option<Box<(SnapshotImage<S>, SnapshotImage<S>)>>,
}

/// A checkpoint that is to become the state.
pub struct BuildCheckpoint<S: StateMachine> {
    /// Its name.
    pub name: CheckpointName,
    /// The backup at the base.
    pub image: SnapshotImage<S>,
    /// The whole of it.
    pub bytes: Vec<u8>,
}

/// What came of that: sessions and state at the end, or why there are none.
pub type BuiltCheckpoint<S> = Result<Box<(SessionTable, S)>, String>;

impl<S: StateMachine> MakeCheckpoint<S> {
    /// Its bytes: none for a mark, or if they were too many.
    pub fn bytes(&self) -> Vec<u8> {
        let Some((base, end)) = self.images.as_deref() else { return Vec::new() };
        let mut bounded = Bounded(Vec::new());
        match end.write_difference(base, &mut bounded) {
            Ok(true) => bounded.0,
            // The only error that there is: it would be too long.
            Ok(false) | Err(_) => Vec::new(),
        }
    }

    /// The messages that it travels in.
    pub fn pieces(&self, input: ImageVersions, bytes: Vec<u8>) -> impl Iterator<Item = CheckpointPiece> + use<S> {
        let CheckpointName { epoch, base, end } = self.name;
        // A mark names no base: whoever gets there applies the log.
        let name = CheckpointName { epoch, base: if bytes.is_empty() { end } else { base }, end };
        let (count, bytes) = (self.count, Bytes::from(bytes));
        let starts = (0..bytes.len().max(1)).step_by(CHECKPOINT_PIECE_MAX_BYTES);
        starts.map(move |start| {
            let piece = bytes.slice(start..bytes.len().min(start + CHECKPOINT_PIECE_MAX_BYTES));
            CheckpointPiece { name, count, input, len_bytes: bytes.len() as u64, offset: start as u64, bytes: piece }
        })
    }
}

impl<S: StateMachine> BuildCheckpoint<S> {
    /// Builds it.
    pub fn build(self) -> BuiltCheckpoint<S> {
        let mut bytes = &self.bytes[..];
        match self.image.advance(&mut bytes) {
            Ok(_) if !bytes.is_empty() => Err(format!("{} bytes after its end", bytes.len())),
            Ok(built) => Ok(Box::new(built)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Takes up to [`CHECKPOINT_MAX_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > CHECKPOINT_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A checkpoint that is arriving, or is here.
struct Received {
    from: NodeId,
    name: CheckpointName,
    count: u64,
    input: ImageVersions,
    len_bytes: u64,
    bytes: Vec<u8>,
}

/// What a replica knows of checkpoints.
pub(super) struct Checkpoints<S: StateMachine> {
    /// `checkpoint_count`: at the primary the number of its next one, at a backup that of the last one.
    count: u64,
    /// Whether `count` is of one that came from another.
    is_anothers: bool,
    /// One that the core wants, as soon as its end is applied.
    due: Option<(Term, EntryId)>,
    /// One is being made.
    is_making: bool,
    /// The primary as of its last checkpoint in this epoch.
    base: Option<(Term, SnapshotImage<S>)>,
    arriving: Option<Received>,
    /// The newest one that is here and not the state yet.
    whole: Option<Received>,
    /// One is being built.
    building: Option<(NodeId, CheckpointName)>,
    /// Up to where a backup applies its own log, as far as that is committed.
    replay_to: Index,
}

impl<S: StateMachine> Default for Checkpoints<S> {
    fn default() -> Checkpoints<S> {
        Checkpoints {
            count: 1,
            is_anothers: false,
            due: None,
            is_making: false,
            base: None,
            arriving: None,
            whole: None,
            building: None,
            replay_to: Index::ZERO,
        }
    }
}

impl<S: StateMachine> Checkpoints<S> {
    /// The number of the checkpoint that is made now.
    fn next_count(&mut self) -> u64 {
        if std::mem::take(&mut self.is_anothers) {
            self.count += 1;
        }
        self.count += 1;
        self.count - 1
    }

    /// Up to where a replica that does not apply what is committed does so all the same.
    pub(super) fn replay_to(&self) -> Index {
        self.replay_to
    }

    /// What the primary knew of its backups in another epoch does not hold any more. What is of this one stays, in
    /// whatever order the core says things.
    pub(super) fn begin_epoch(&mut self, epoch: Term) {
        self.due = self.due.filter(|(of, _)| *of == epoch);
        self.base = self.base.take().filter(|(of, _)| *of == epoch);
        self.arriving = self.arriving.take().filter(|arriving| arriving.name.epoch == epoch);
    }
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// `checkpoint_count`, of a replica in a group that has checkpoints.
    pub fn checkpoint_count(&self) -> Option<u64> {
        self.core.makes_checkpoints().then_some(self.checkpoints.count)
    }

    /// The core wants a checkpoint.
    pub(super) fn checkpoint_due(&mut self, epoch: Term, end: EntryId) {
        self.checkpoints.due = Some((epoch, end));
        self.take_checkpoint_if_due();
    }

    /// The checkpoint that was to be made is on its way.
    pub fn checkpoint_made(&mut self) {
        self.checkpoints.is_making = false;
        self.take_checkpoint_if_due();
    }

    pub(super) fn take_checkpoint_if_due(&mut self) {
        if let Some((epoch, end)) = self.checkpoints.due
            && end.index <= self.applied.index
        {
            self.take_checkpoint(epoch);
        }
    }

    /// The state is hashed as it is now: so is that of the backups, if they get it like this.
    pub(super) fn take_checkpoint_for_digest(&mut self) {
        if let Some((epoch, _)) = self.checkpoints.base {
            self.take_checkpoint(epoch);
        }
    }

    fn take_checkpoint(&mut self, epoch: Term) {
        let routing = self.core.routing();
        if self.checkpoints.is_making || self.silent || epoch != routing.term || !routing.writes.is_here() {
            return;
        }
        // One that is taken for a digest may end before the one that is due.
        self.checkpoints.due = self.checkpoints.due.filter(|(_, end)| end.index > self.applied.index);
        let to: Vec<NodeId> = self.core.digest_peers().members.into_iter().filter(|node| *node != self.node).collect();
        if to.is_empty() {
            self.checkpoints.base = None;
            return;
        }
        let end = self.applied;
        let base = self.checkpoints.base.replace((epoch, self.image())).filter(|(of, _)| *of == epoch);
        let images = base.map(|(_, base)| Box::new((base, self.image())));
        let base = images.as_deref().map_or(end, |(base, _)| base.meta.last);
        let count = self.checkpoints.next_count();
        self.checkpoints.is_making = true;
        let names: Vec<ReplicaId> = to.iter().map(|node| node.name).collect();
        self.state.checkpointed(&Checkpointed::Sent { to: &names, count });
        let name = CheckpointName { epoch, base, end };
        self.actions.push(Action::MakeCheckpoint(Box::new(MakeCheckpoint { name, count, to, images })));
    }

    /// A part of a checkpoint arrived. Parts come in order; one that is missing makes the others useless.
    pub fn checkpoint_heard(&mut self, from: NodeId, piece: CheckpointPiece) {
        let CheckpointPiece { name, count, input, len_bytes, offset, bytes } = piece;
        let fit = self.core.judge_checkpoint(from, &name, self.applied);
        if self.silent || fit == CheckpointFit::Drop || len_bytes > CHECKPOINT_MAX_BYTES as u64 {
            // What a former primary still has to say does not disturb what the present one sends.
            return;
        }
        let arriving = self.checkpoints.arriving.take().filter(|known| known.from == from && known.name == name);
        let begins = || Received { from, name, count, input, len_bytes, bytes: Vec::new() };
        let Some(mut received) = arriving.or_else(|| (offset == 0).then(begins)) else { return };
        let is_next = offset == received.bytes.len() as u64 && len_bytes == received.len_bytes;
        if !is_next || bytes.len() as u64 > len_bytes - offset {
            return;
        }
        received.bytes.extend_from_slice(&bytes);
        if received.bytes.len() as u64 == len_bytes {
            // One that is still here is overtaken: who is not at the base of this one applies its log up to there.
            self.checkpoints.whole = Some(received);
            self.look_at_checkpoint();
        } else {
            self.checkpoints.arriving = Some(received);
        }
    }

    /// Looks what is to be done next with the checkpoint that is here. Called whenever that may have changed.
    pub(super) fn look_at_checkpoint(&mut self) {
        let Some(whole) = &self.checkpoints.whole else { return };
        if self.checkpoints.building.is_some() || self.silent {
            return;
        }
        let (from, name, end) = (whole.from, whole.name, whole.name.end);
        let is_readable = !whole.bytes.is_empty() && whole.input == ImageVersions::with_machine(S::IMAGE_VERSION);
        if self.applied == end && self.checkpoints.replay_to == end.index {
            return self.taken_over();
        }
        match self.core.judge_checkpoint(from, &name, self.applied) {
            CheckpointFit::Drop => self.checkpoints.whole = None,
            CheckpointFit::ReplayTo(base) => self.checkpoints.replay_to = base.index,
            // What it does not know to be committed it must not have in its state.
            CheckpointFit::Apply if is_readable && self.core.commit() < end.index => {}
            CheckpointFit::Apply if is_readable => {
                let bytes = self.checkpoints.whole.as_mut().map(|whole| std::mem::take(&mut whole.bytes));
                self.checkpoints.building = Some((from, name));
                let build = BuildCheckpoint { name, image: self.image(), bytes: bytes.unwrap_or_default() };
                self.actions.push(Action::BuildCheckpoint(Box::new(build)));
            }
            // Its own log reaches back to its state, always: so no one has to be asked for a whole image.
            CheckpointFit::Apply | CheckpointFit::WholeWanted => self.checkpoints.replay_to = end.index,
        }
    }

    /// The checkpoint that was to be built is, or cannot be.
    pub fn checkpoint_built(&mut self, built: BuiltCheckpoint<S>) {
        let Some((from, name)) = self.checkpoints.building.take() else { return };
        let (sessions, mut state) = match built {
            Ok(built) => *built,
            Err(why) => {
                self.report(format!("a checkpoint that ends at {} cannot be read: {why}", name.end));
                // The log has the same.
                self.checkpoints.replay_to = self.checkpoints.replay_to.max(name.end.index);
                return self.look_at_checkpoint();
            }
        };
        let fits = self.core.judge_checkpoint(from, &name, self.applied) == CheckpointFit::Apply;
        if !fits || self.silent {
            // It is of another epoch by now, or this replica has applied its log meanwhile.
            self.actions.push(Action::DropInBackground(Box::new((state, sessions))));
            return self.look_at_checkpoint();
        }
        state.inherit(&self.state);
        state.begins_after(name.end.index);
        let state = std::mem::replace(&mut self.state, state);
        let sessions = std::mem::replace(&mut self.sessions, sessions);
        if sessions.addresses() != self.sessions.addresses() {
            self.actions.push(Action::SetAddresses(self.sessions.addresses().clone()));
        }
        self.actions.push(Action::DropInBackground(Box::new((state, sessions))));
        self.applied = name.end;
        self.checkpoints.replay_to = name.end.index;
        // What it had hashed before stays its own: the checkpoint has only what has changed since.
        if self.audit.begins_at(name.end.index) {
            self.actions.push(Action::TakeDigest(Box::new(self.image())));
        }
        self.take_snapshot_if_due();
        self.look_at_checkpoint();
    }

    /// The state is at the end of the checkpoint that is here.
    fn taken_over(&mut self) {
        let Some(Received { from, count, .. }) = self.checkpoints.whole.take() else { return };
        (self.checkpoints.count, self.checkpoints.is_anothers) = (count, true);
        self.state.checkpointed(&Checkpointed::TakenOver { from: from.name, count });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn bytes_beyond_the_bound_are_refused_and_those_within_are_kept() {
        let mut bounded = Bounded(Vec::new());
        bounded.write_all(&vec![1; CHECKPOINT_MAX_BYTES]).unwrap();
        assert!(bounded.write_all(&[2]).is_err());
        assert_eq!(bounded.0.len(), CHECKPOINT_MAX_BYTES);
    }
}
