//! What a user of the library writes: a deterministic state machine.
//!
//! Determinism is the whole contract of [`StateMachine::apply`]: no clock, no randomness, no iteration over an
//! unordered map. Every replica applies the same commands in the same order and must end in the same state.

use std::io;

use crate::entry::Index;
use crate::id::ReplicaId;

/// The replicated state.
pub trait StateMachine: Sized + Send + 'static {
    /// A point-in-time copy, from which a snapshot is written in the background.
    type Image: Image;

    /// The version of the bytes that an image writes. Raise it when the same state is written with other bytes than
    /// before: replicas compare hashes of them, and those of different versions are not compared.
    const IMAGE_VERSION: u16 = 1;

    /// The version of the newest kind of command that this build applies; it applies all older ones, too.
    const COMMANDS_VERSION: u16 = 1;

    /// The version in which the kind of this command came, or `None` for a kind that this build does not know. A kind
    /// keeps its meaning for ever; what is to mean something else is a new kind, of a new version. A command is
    /// proposed only once every member of the group applies its version, and a replica that has to apply one of an
    /// unknown kind stops: had it been skipped, the states would differ. Bytes that are no command at all are of
    /// version 1.
    fn command_version(_command: &[u8]) -> Option<u16> {
        Some(1)
    }

    /// Applies the command of the entry at `index` and returns the answer for the client. Never fails: a command
    /// that makes no sense has an answer that says so, the same on each replica.
    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8>;

    /// Whether a command makes the state smaller, or at least not larger, by more than a few bytes. A leader whose disk
    /// is full takes no others. The answer decides only whether it is proposed, so it need not be the same everywhere.
    fn frees(_command: &[u8]) -> bool {
        false
    }

    /// Answers a question without changing anything.
    fn query(&self, query: &[u8]) -> Answer;

    /// A copy of the state as of now. Called on the replica's thread between two commands, so it must be cheap
    /// (microseconds): share structure, do not copy.
    fn image(&self) -> Self::Image;

    /// Builds the state from what [`Image::write`] wrote. Runs in the background. The bytes have passed their
    /// checksums; an error here means another format.
    ///
    /// # Errors
    /// If the bytes are not a state of this kind.
    fn restore(input: &mut dyn io::Read) -> io::Result<Self>;

    /// Takes over what is not replicated from the state whose place this one takes, fresh from
    /// [`StateMachine::restore`] or [`StateMachine::advance`]: handles by which the replica's host looks into the
    /// state, for instance. Called on each state that is built, before anything is applied to it, so all of them go
    /// back to the one with which the replica was made. Most states have nothing of that kind.
    fn inherit(&mut self, _from: &Self) {}

    /// The state is as of the entry at `index`, and the next command is of a later one. Called after
    /// [`StateMachine::inherit`], on each state that was built from a snapshot or a checkpoint: for what is kept beside
    /// the state and counts by entries. No other state of this replica has applied what comes from now on.
    fn begins_after(&mut self, _index: Index) {}

    /// The entry at `index` was applied, whether it was a command of this state ([`StateMachine::apply`] came before
    /// this) or anything else: for what is kept beside the state and counts by entries. Called for each entry, so it
    /// must be cheap.
    fn passed(&mut self, _index: Index) {}

    /// Builds the state that an image becomes by what [`Image::write_difference`] wrote from its like. Runs in the
    /// background. The bytes come from a replica that writes images of the same [`StateMachine::IMAGE_VERSION`].
    ///
    /// # Errors
    /// If the bytes are no difference from this image, or the state machine knows of none.
    fn advance(_image: Self::Image, _difference: &mut dyn io::Read) -> io::Result<Self> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// A checkpoint leaves this replica, or has become its state, as it is now. For messages; called between two
    /// commands.
    fn checkpointed(&self, _checkpoint: &Checkpointed<'_>) {}

    /// Whether this replica of an `active` group is ready to answer clients has changed, or a command was stored
    /// because it is not. For messages.
    fn readiness(&self, _readiness: &Readiness<'_>) {}
}

/// What there is to say about whether a member of an `active` group is ready to answer clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness<'a> {
    /// It has everything, and is in step with its group.
    Ready,
    /// It is not, or not any more.
    NotReady,
    /// It is not, and keeps a request until it is.
    Stored {
        /// What is in it for the state machine.
        command: &'a [u8],
    },
}

/// What has happened to a checkpoint of a `passive` group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointed<'a> {
    /// The primary is about to send it.
    Sent {
        /// To these replicas.
        to: &'a [ReplicaId],
        /// The primary's `checkpoint_count`.
        count: u64,
    },
    /// A backup has made it its state.
    TakenOver {
        /// The primary.
        from: ReplicaId,
        /// The primary's `checkpoint_count`, and now the backup's.
        count: u64,
    },
}

/// A point-in-time copy of a state machine.
pub trait Image: Send + 'static {
    /// Writes the copy in a form that [`StateMachine::restore`] reads. The same state gives the same bytes on
    /// every replica, so that digests can be compared.
    ///
    /// # Errors
    /// Those of `output`, handed through.
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()>;

    /// Writes how to get from `base`, an earlier image, to this one, in a form that [`StateMachine::advance`] reads.
    /// Takes time by what has changed, not by how much there is. False if that is not known: then nothing was written,
    /// and whoever is to get there applies the commands in between. A change of the form changes
    /// [`StateMachine::IMAGE_VERSION`].
    ///
    /// # Errors
    /// Those of `output`, handed through.
    fn write_difference(&self, _base: &Self, _output: &mut dyn io::Write) -> io::Result<bool>
    where
        Self: Sized,
    {
        Ok(false)
    }
}

/// The answer to a query.
pub enum Answer {
    /// Known at once, and small: it is computed on the thread of the replica.
    Now(Vec<u8>),
    /// Long work on a point-in-time copy (a scan): the parts of the answer, in order. Drawn by a worker thread, as fast
    /// as the client takes them, while the replica goes on.
    Parts(Box<dyn Iterator<Item = Vec<u8>> + Send>),
}
