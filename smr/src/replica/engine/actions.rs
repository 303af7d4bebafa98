//! What the engine asks of the world around it.

use std::io;

use super::checkpoints::{BuildCheckpoint, MakeCheckpoint};
use super::kept::ForwardedWrite;
use crate::codec;
use crate::entry::{Index, SnapshotMeta};
use crate::epoch_service::MemberReport;
use crate::id::{Incarnation, NodeId};
use crate::protocol::{Envelope, Protocol, Write};
use crate::replica::ReplyTo;
use crate::session::{Addresses, SessionTable};
use crate::snapshot::ReceivedSnapshot;
use crate::state_machine::{Image as _, StateMachine};
use crate::status::StateDigest;

/// What the engine asks of the world around it.
pub enum Action<P: Protocol, S: StateMachine> {
    /// Send this; it rests on nothing.
    Send(Envelope<P::Message>),
    /// Make this durable, in order with the other writes and adoptions.
    Write(Write<P::Message>),
    /// Make this received snapshot the current one, before the write that follows.
    PublishSnapshot(ReceivedSnapshot),
    /// Remove this received snapshot; it came too late.
    Discard(ReceivedSnapshot),
    /// Drop this on another thread: a state that a snapshot has taken the place of, which may take long.
    DropInBackground(Box<(S, SessionTable)>),
    /// Write a snapshot of this in the background, then call `Engine::snapshot_taken`.
    TakeSnapshot(Box<SnapshotImage<S>>),
    /// Hash this in the background, then call `Engine::digest_taken` or `Engine::digest_given_up`.
    TakeDigest(Box<SnapshotImage<S>>),
    /// Tell this node what the hash of the state was; no one waits for it.
    SendDigest(NodeId, StateDigest),
    /// Tell this node that it is no member any more; it may not have heard of it. No one waits for this.
    SendReplaced(NodeId, Replaced),
    /// The group goes on without this node since this entry, or with it again.
    Retired(Option<Index>),
    /// These replicas are reached at these addresses from now on; at an empty one no more.
    SetAddresses(Addresses),
    /// Send the newest snapshot to this node, then call `Engine::snapshot_sent`.
    SendSnapshot(NodeId),
    /// Draw the parts of a long answer on a worker thread.
    AnswerParts {
        /// Whom for.
        reply: ReplyTo,
        /// The parts.
        parts: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    },
    /// The log lacks nothing any more that this node may have acknowledged: the disk has to know that it has healed.
    Healed,
    /// Make a checkpoint and send it, in the background, then call `Engine::checkpoint_made`.
    MakeCheckpoint(Box<MakeCheckpoint<S>>),
    /// Build what a checkpoint makes of the state, in the background, then call `Engine::checkpoint_built`.
    BuildCheckpoint(Box<BuildCheckpoint<S>>),
    /// Send these writes on to this node, which orders them. What is lost comes again.
    Forward(NodeId, Vec<ForwardedWrite>),
    /// Say this to the configuration service, and hand its answer to `Engine::service_says`.
    Exchange(MemberReport),
    /// Put this node into quarantine for this reason, and end: it must not say anything more. Nothing that was to
    /// follow matters.
    Quarantine(String),
    /// End the replica for this reason: a committed entry is of a kind that this build does not know. Nothing that was
    /// to follow matters.
    Stop(String),
    /// Tell a person: one line.
    Report(String),
}

/// A node that was a member has another incarnation in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The incarnation that is there.
    pub by: Incarnation,
    /// The entry that carries the committed configuration.
    pub since: Index,
}

/// Everything that a snapshot holds, as of one moment.
pub struct SnapshotImage<S: StateMachine> {
    /// Where it ends, and who is a member there.
    pub meta: SnapshotMeta,
    /// The session table.
    pub sessions: crate::session::SessionImage,
    /// The state machine.
    pub state: S::Image,
}

/// A received snapshot whose state is built, ready to take over.
pub struct Install<S> {
    /// Where it ends, and who is a member there.
    pub meta: SnapshotMeta,
    /// The session table.
    pub sessions: SessionTable,
    /// The state machine.
    pub state: S,
    /// The file, not yet the current one.
    pub file: ReceivedSnapshot,
}

impl<S: StateMachine> SnapshotImage<S> {
    /// Writes what a snapshot file holds after its header: sessions, then the state machine.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        self.sessions.write(output)?;
        self.state.write(output)
    }

    /// Writes what has changed since `base`, an image of the same replica; false if the state machine cannot tell it.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write_difference(&self, base: &SnapshotImage<S>, output: &mut dyn io::Write) -> io::Result<bool> {
        self.sessions.write_difference(&base.sessions, output)?;
        self.state.write_difference(&base.state, output)
    }

    /// Sessions and state machine after what [`SnapshotImage::write_difference`] wrote.
    ///
    /// # Errors
    /// Those of `input`; `InvalidData` if the bytes are no difference from this image.
    pub fn advance(self, input: &mut dyn io::Read) -> io::Result<(SessionTable, S)> {
        let sessions = self.sessions.advance(input)?;
        Ok((sessions, S::advance(self.state, input)?))
    }

    /// Writes all that must be equal on all replicas, and so is hashed: also who is a member.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    pub fn write_whole(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(&codec::encode(&self.meta))?;
        self.write(output)
    }
}
