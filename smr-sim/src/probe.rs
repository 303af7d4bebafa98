//! The production core and the user's state machine, each in a shell that notes what goes through it.
//!
//! Neither shell changes anything: the core is driven by the production engine, and what it is told and says is copied
//! on the way.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use smr::codec;
use smr::entry::{Configuration, Entry, EntryId, Index, SnapshotMeta};
use smr::id::{NodeId, ReplicaId};
use smr::internals::protocol::{
    CoreStatus, DigestPeers, Effects, Event, Input, LogLoad, NotHere, Protocol, ReadOutcome, ReadToken, Recovered,
    Routing, Superseded, Time,
};
use smr::internals::raft::message::Body;
use smr::internals::raft::{BadSettings, Change, ChangeRefused, Control, Message, Raft, TransferRefused, invariants};
use smr::state_machine::{Answer, Image, StateMachine};
use smr::status::{ReadMode, Role};

/// Raft, and notes of what it committed and told.
#[derive(Debug)]
pub struct Core {
    raft: Raft,
    pub(super) notes: RefCell<CoreNotes>,
}

/// What a core did since someone looked.
#[derive(Debug, Default)]
pub(super) struct CoreNotes {
    pub(super) recovered: Option<Recovered>,
    pub(super) committed: Vec<Entry>,
    /// What was taken from it to be applied.
    pub(super) applied: Vec<Entry>,
    pub(super) events: Vec<Event>,
    pub(super) transfers: u64,
    pub(super) reads_failed: u64,
    pub(super) reads_leased: u64,
    pub(super) reads_unleased: u64,
    pub(super) leases_kept: u64,
}

impl Core {
    /// A core that starts from `recovered`.
    pub(super) fn new(raft: Raft, recovered: Recovered) -> Core {
        Core { raft, notes: RefCell::new(CoreNotes { recovered: Some(recovered), ..CoreNotes::default() }) }
    }

    /// The production core.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The part that the core plays at present.
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// Lets it do one thing, and notes what came of it.
    fn noting<T>(
        &mut self,
        effects: &mut Effects<Message>,
        act: impl FnOnce(&mut Raft, &mut Effects<Message>) -> T,
    ) -> T {
        let commit = self.raft.commit();
        let answer = act(&mut self.raft, effects);
        self.note_committed(commit);
        self.note(effects);
        answer
    }

    fn note_committed(&mut self, since: Index) {
        let committed = self.raft.committed_from(since.next(), usize::MAX, usize::MAX);
        self.notes.get_mut().committed.extend(committed);
    }

    /// Effects of one call, which began without any.
    fn note(&mut self, effects: &Effects<Message>) {
        let notes = self.notes.get_mut();
        notes.events.extend(effects.events.iter().cloned());
        let failed = |read: &&ReadOutcome| matches!(read, ReadOutcome::Failed { .. });
        notes.reads_failed += effects.reads.iter().filter(failed).count() as u64;
    }
}

impl Control for Core {
    fn set_election_timeout(&mut self, us: u64) -> Result<(), BadSettings> {
        self.raft.set_election_timeout(us)
    }

    fn change_members(
        &mut self,
        now: Time,
        change: &Change,
        effects: &mut Effects<Message>,
    ) -> Result<EntryId, ChangeRefused> {
        self.noting(effects, |raft, effects| raft.change_members(now, change, effects))
    }

    fn transfer(&mut self, now: Time, to: ReplicaId, effects: &mut Effects<Message>) -> Result<(), TransferRefused> {
        let begun = self.noting(effects, |raft, effects| raft.transfer(now, to, effects));
        self.notes.get_mut().transfers += u64::from(begun.is_ok());
        begun
    }
}

impl Protocol for Core {
    type Message = Message;

    fn step(&mut self, now: Time, input: Input<Message>) -> Effects<Message> {
        let canvassed = matches!(
            &input,
            Input::Receive {
                message: Message { body: Body::PreVote { .. } | Body::Vote { transfer: false, .. }, .. },
                ..
            }
        );
        let mut effects = Effects::default();
        self.noting(&mut effects, |raft, effects| *effects = raft.step(now, input));
        self.notes.get_mut().leases_kept += u64::from(canvassed && invariants::is_bound(&self.raft));
        effects
    }

    fn propose(&mut self, now: Time, commands: Vec<Bytes>, effects: &mut Effects<Message>) -> Result<EntryId, NotHere> {
        self.noting(effects, |raft, effects| raft.propose(now, commands, effects))
    }

    fn read(&mut self, now: Time, token: ReadToken, effects: &mut Effects<Message>) -> Result<(), NotHere> {
        let taken = self.noting(effects, |raft, effects| raft.read(now, token, effects));
        let notes = self.notes.get_mut();
        notes.reads_failed += u64::from(taken.is_err());
        if self.raft.settings().reads == ReadMode::Lease && self.raft.role() == Role::Leader {
            let ready = effects
                .reads
                .iter()
                .any(|read| matches!(read, ReadOutcome::Ready { token: ready, .. } if *ready == token));
            // Alone it needs no lease.
            notes.reads_leased += u64::from(ready && self.raft.status().configuration.voters.len() > 1);
            notes.reads_unleased += u64::from(!ready);
        }
        taken
    }

    fn install(
        &mut self,
        now: Time,
        snapshot: &SnapshotMeta,
        effects: &mut Effects<Message>,
    ) -> Result<(), Superseded> {
        let commit = self.raft.commit();
        let installed = self.raft.install(now, snapshot, effects);
        // A snapshot that is installed raises the commit index to its end, and commits nothing.
        if installed.is_err() {
            self.note_committed(commit);
        }
        self.note(effects);
        installed
    }

    fn routing(&self) -> Routing {
        self.raft.routing()
    }

    fn deadline(&self) -> Time {
        self.raft.deadline()
    }

    fn status(&self) -> CoreStatus {
        self.raft.status()
    }

    fn digest_peers(&self) -> DigestPeers {
        self.raft.digest_peers()
    }

    fn committed_from(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let entries = self.raft.committed_from(from, entries_max, bytes_max);
        self.notes.borrow_mut().applied.extend(entries.iter().cloned());
        entries
    }

    fn log_bytes(&self) -> usize {
        self.raft.log_bytes()
    }

    fn commit(&self) -> Index {
        self.raft.commit()
    }

    fn disk_is_slow(&self) -> bool {
        self.raft.disk_is_slow()
    }

    fn held_by(&self, member: NodeId) -> Option<Index> {
        self.raft.held_by(member)
    }

    fn entry_at(&self, index: Index) -> Option<EntryId> {
        self.raft.entry_at(index)
    }

    fn log_load(&self) -> LogLoad {
        self.raft.log_load()
    }

    fn uncommitted_entries(&self) -> u64 {
        self.raft.uncommitted_entries()
    }

    fn message_size_bytes(message: &Message) -> usize {
        Raft::message_size_bytes(message)
    }

    fn is_bulk(message: &Message) -> bool {
        Raft::is_bulk(message)
    }

    fn may_wait(message: &Message) -> bool {
        Raft::may_wait(message)
    }

    fn configuration_at(&self, index: Index) -> (Configuration, Index) {
        self.raft.configuration_at(index)
    }
}

/// A state machine that remembers its whole history as a number: commands, places and answers. The number is part of
/// its snapshots, so a replica restored from one compares with those that applied everything.
#[derive(Debug)]
pub struct Chained<S> {
    /// The user's state machine, which sees what it would see in service.
    pub inner: S,
    /// The last entry with a command that took effect.
    pub last: Index,
    /// Of all commands up to there, their places and their answers.
    pub digest: u64,
    pub(super) notes: RefCell<Vec<Execution>>,
}

/// After how many entries a hash of the whole state is taken, at the first command after them.
pub const DEEP_DIGEST_EVERY: u64 = 256;

/// A command took effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Execution {
    pub(super) index: Index,
    /// The digest before and after.
    pub(super) before: u64,
    pub(super) digest: u64,
    /// A hash of the whole state after it, now and then.
    pub(super) deep: Option<u64>,
}

impl<S> Chained<S> {
    /// The state before the first entry.
    pub fn new(inner: S) -> Chained<S> {
        Chained { inner, last: Index::ZERO, digest: 0, notes: RefCell::default() }
    }
}

impl<S: StateMachine> StateMachine for Chained<S> {
    type Image = ChainedImage<S::Image>;

    const IMAGE_VERSION: u16 = S::IMAGE_VERSION;
    const COMMANDS_VERSION: u16 = S::COMMANDS_VERSION;

    fn command_version(command: &[u8]) -> Option<u16> {
        S::command_version(command)
    }

    fn frees(command: &[u8]) -> bool {
        S::frees(command)
    }

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        let answer = self.inner.apply(index, command);
        let parts: [&[u8]; 4] = [&self.digest.to_le_bytes(), &index.0.to_le_bytes(), command, &answer];
        let before = std::mem::replace(&mut self.digest, codec::checksum(&parts));
        // At the same entries on every replica, since `last` is part of the snapshots.
        let due = index.0 / DEEP_DIGEST_EVERY > self.last.0 / DEEP_DIGEST_EVERY;
        let deep = due.then(|| deep_digest(&self.inner));
        self.last = index;
        self.notes.get_mut().push(Execution { index, before, digest: self.digest, deep });
        answer
    }

    fn query(&self, query: &[u8]) -> Answer {
        self.inner.query(query)
    }

    fn image(&self) -> ChainedImage<S::Image> {
        ChainedImage { inner: self.inner.image(), last: self.last, digest: self.digest }
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Chained<S>> {
        let (last, digest) = read_numbers(input)?;
        Ok(Chained { inner: S::restore(input)?, last, digest, notes: RefCell::default() })
    }

    fn advance(image: ChainedImage<S::Image>, difference: &mut dyn io::Read) -> io::Result<Chained<S>> {
        let (last, digest) = read_numbers(difference)?;
        Ok(Chained { inner: S::advance(image.inner, difference)?, last, digest, notes: RefCell::default() })
    }

    fn inherit(&mut self, from: &Chained<S>) {
        self.inner.inherit(&from.inner);
    }

    fn begins_after(&mut self, index: Index) {
        self.inner.begins_after(index);
    }

    fn passed(&mut self, index: Index) {
        self.inner.passed(index);
    }
}

/// The last command's place, and the digest.
fn read_numbers(input: &mut dyn io::Read) -> io::Result<(Index, u64)> {
    let mut numbers = [0; 16];
    input.read_exact(&mut numbers)?;
    let (last, digest) = numbers.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok((Index(number(last)), number(digest)))
}

fn deep_digest<S: StateMachine>(state: &S) -> u64 {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap_or_else(|error| panic!("writing to memory failed: {error}"));
    codec::checksum(&[&bytes])
}

/// A copy of a [`Chained`].
#[derive(Debug)]
pub struct ChainedImage<I> {
    inner: I,
    last: Index,
    digest: u64,
}

impl<I: Image> Image for ChainedImage<I> {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(&self.last.0.to_le_bytes())?;
        output.write_all(&self.digest.to_le_bytes())?;
        self.inner.write(output)
    }

    fn write_difference(&self, base: &ChainedImage<I>, output: &mut dyn io::Write) -> io::Result<bool> {
        let mut difference = Vec::new();
        if !self.inner.write_difference(&base.inner, &mut difference)? {
            return Ok(false);
        }
        output.write_all(&self.last.0.to_le_bytes())?;
        output.write_all(&self.digest.to_le_bytes())?;
        output.write_all(&difference)?;
        Ok(true)
    }
}
