//! Checkpoints on their way from a primary to a backup that stores its log and does not apply it.

use bytes::Bytes;
use smr::entry::{EntryId, Index, Term};
use smr::id::ClientId;
use smr::internals::engine::{
    Action, BuildCheckpoint, CHECKPOINT_MAX_BYTES, CHECKPOINT_PIECE_MAX_BYTES, CheckpointPiece, MakeCheckpoint,
    Portion, UNCOMMITTED_ENTRIES_MAX,
};
use smr::internals::protocol::{CheckpointName, Effects, Event, Route, Routing, Time, WriteId};
use smr::internals::session::SessionCommand;
use smr::replica::Outcome;
use smr::status::{Role, StateDigest};
use smr::version::ImageVersions;

use crate::stage::*;

/// No entry's index is a multiple of this.
const NEVER: u64 = 1 << 30;
const INPUT: ImageVersions = ImageVersions::with_machine(1);

/// A primary and a backup, which call each other [`B`] and have the same log.
struct Pair {
    primary: Replica,
    backup: Replica,
    client: ClientId,
    written: u64,
}

/// What a replica asks for at the end of a turn.
fn actions(replica: &mut Replica) -> Vec<Action<Core, Journal>> {
    replica.engine.work(|_| true);
    replica.engine.take_actions()
}

fn made(actions: Vec<Action<Core, Journal>>) -> Option<MakeCheckpoint<Journal>> {
    actions.into_iter().find_map(|action| match action {
        Action::MakeCheckpoint(make) => Some(*make),
        _ => None,
    })
}

fn to_build(actions: Vec<Action<Core, Journal>>) -> Option<BuildCheckpoint<Journal>> {
    actions.into_iter().find_map(|action| match action {
        Action::BuildCheckpoint(build) => Some(*build),
        _ => None,
    })
}

impl Pair {
    /// Session 1 is open, and both have applied that: the first checkpoint of an epoch is a mark.
    fn new() -> Pair {
        Pair::hashed(NEVER)
    }

    fn hashed(digest_every: u64) -> Pair {
        let portion = |entries_max| Portion { entries_max, max_bytes: usize::MAX };
        let [primary, backup] =
            [100, 3].map(|entries| Replica::hashed(UNCOMMITTED_ENTRIES_MAX, portion(entries), digest_every));
        {
            let there = Route::There(Some(B.name));
            let mut core = backup.core.0.lock().unwrap();
            core.stores_only = true;
            core.routing = Some(Routing { term: Term(TERM), writes: there, reads: there, answers: there });
        }
        let mut pair = Pair { primary, backup, client: ClientId::at(1), written: 0 };
        pair.append(&SessionCommand::Open { nonce: 0 });
        pair.primary.commit_all();
        pair.backup.core.commit_up_to(usize::MAX);
        assert_eq!(actions(&mut pair.backup).len(), 0);
        assert_eq!(pair.backup.engine.applied(), EntryId::ZERO, "a backup stores");
        let mark = pair.checkpoint();
        assert!(mark.images.is_none());
        assert!(pair.deliver(&mark).is_none(), "it applies its own log");
        assert_eq!(pair.backup.engine.applied(), EntryId::new(1, TERM));
        assert_eq!(pair.counts(), [Some(2), Some(1)]);
        pair
    }

    fn append(&mut self, command: &SessionCommand) {
        [&self.primary, &self.backup].iter().for_each(|replica| replica.core.append(TERM, command));
    }

    /// A write that both have in their logs.
    fn append_write(&mut self, command: impl Into<Bytes>) {
        self.written += 1;
        let (client, number, command) = (self.client, self.written, command.into());
        self.append(&SessionCommand::Write { client, number, lowest_unanswered: number, command });
    }

    /// The same, and the primary has applied it.
    fn write(&mut self, command: impl Into<Bytes>) {
        self.append_write(command);
        self.primary.commit_all();
    }

    /// The backup knows what is committed.
    fn backup_hears(&mut self) {
        self.backup.core.commit_up_to(usize::MAX);
        self.backup.engine.tick(Time(1));
    }

    /// The primary takes a checkpoint.
    fn checkpoint(&mut self) -> MakeCheckpoint<Journal> {
        self.checkpoint_in(Term(TERM))
    }

    fn checkpoint_in(&mut self, epoch: Term) -> MakeCheckpoint<Journal> {
        let end = self.primary.core.0.lock().unwrap().log.last().unwrap().id;
        let due = Event::CheckpointDue { epoch, end };
        self.primary.core.0.lock().unwrap().next.push_back(Effects { events: vec![due], ..Effects::default() });
        self.primary.engine.durable(Time(1), WriteId(1));
        let made = made(actions(&mut self.primary)).expect("a checkpoint");
        self.primary.engine.checkpoint_made();
        made
    }

    /// All of it arrives.
    fn deliver(&mut self, checkpoint: &MakeCheckpoint<Journal>) -> Option<BuildCheckpoint<Journal>> {
        self.hear(pieces(checkpoint))
    }

    fn hear(&mut self, pieces: impl IntoIterator<Item = CheckpointPiece>) -> Option<BuildCheckpoint<Journal>> {
        pieces.into_iter().for_each(|piece| self.backup.engine.checkpoint_heard(B, piece));
        to_build(actions(&mut self.backup))
    }

    fn take_over(&mut self, build: BuildCheckpoint<Journal>) {
        self.backup.engine.checkpoint_built(build.build());
        actions(&mut self.backup);
    }

    fn counts(&self) -> [Option<u64>; 2] {
        [self.primary.engine.checkpoint_count(), self.backup.engine.checkpoint_count()]
    }

    /// The backup is where the primary is, in everything that makes up its state.
    fn assert_equal(&self) {
        let (primary, backup) = (&self.primary.engine, &self.backup.engine);
        assert_eq!(backup.applied(), primary.applied());
        assert_eq!(backup.state().0, primary.state().0);
        assert_eq!(backup.sessions().digest(), primary.sessions().digest());
    }
}

fn pieces(checkpoint: &MakeCheckpoint<Journal>) -> Vec<CheckpointPiece> {
    checkpoint.pieces(INPUT, checkpoint.bytes()).collect()
}

/// A command that does not fit into one message.
fn large(text: &str) -> String {
    text.repeat(CHECKPOINT_PIECE_MAX_BYTES)
}

// covers K14 K15
#[test]
fn checkpoint_becomes_the_state_of_a_backup_that_is_at_its_base() {
    let mut pair = Pair::new();
    for round in 0..3 {
        pair.write(format!("x{round}"));
        pair.write(format!("y{round}"));
        pair.backup_hears();
        let checkpoint = pair.checkpoint();
        assert_eq!(checkpoint.name.base, pair.backup.engine.applied());
        let build = pair.deliver(&checkpoint).expect("it is at the base");
        pair.take_over(build);
        pair.assert_equal();
        assert_eq!(pair.counts(), [Some(3 + round), Some(2 + round)]);
    }
}

// covers K14
#[test]
fn state_never_passes_what_the_backup_knows_to_be_committed() {
    let mut pair = Pair::new();
    pair.write("x");
    let checkpoint = pair.checkpoint();
    assert!(pair.deliver(&checkpoint).is_none(), "it knows nothing of x yet");
    pair.backup_hears();
    let build = to_build(actions(&mut pair.backup)).expect("now it does");
    pair.take_over(build);
    pair.assert_equal();
}

// covers K14
#[test]
fn half_a_checkpoint_never_becomes_the_state_and_the_next_one_finds_its_base() {
    let mut pair = Pair::new();
    pair.write(large("x"));
    pair.write(large("y"));
    pair.backup_hears();
    let parts = pieces(&pair.checkpoint());
    assert!(parts.len() > 2, "{} parts", parts.len());
    for missing in 0..parts.len() {
        let arriving = parts.iter().enumerate().filter(|(number, _)| *number != missing).map(|(_, part)| part.clone());
        assert!(pair.hear(arriving.collect::<Vec<_>>()).is_none(), "without part {missing}");
    }
    assert_eq!(pair.backup.engine.applied(), EntryId::new(1, TERM));
    // What is committed goes on: the log is applied up to the base, and no further.
    pair.write("z");
    let next = pair.checkpoint();
    pair.write("later");
    pair.backup_hears();
    let build = pair.deliver(&next).expect("it gets to the base by itself");
    assert_eq!(pair.backup.engine.applied(), next.name.base);
    assert_eq!(pair.backup.applied().len(), 2);
    pair.take_over(build);
    assert_eq!(pair.backup.applied()[2..], ["z"]);
    assert_eq!(pair.backup.engine.applied(), next.name.end);
}

// covers K14
#[test]
fn part_of_a_checkpoint_of_an_earlier_epoch_does_not_disturb_the_one_that_is_arriving() {
    let mut pair = Pair::new();
    pair.write(large("x"));
    pair.backup_hears();
    let checkpoint = pair.checkpoint();
    let mut parts = pieces(&checkpoint);
    assert!(parts.len() > 1, "{} parts", parts.len());
    let name = CheckpointName { epoch: Term(TERM - 1), ..checkpoint.name };
    parts.insert(1, CheckpointPiece { name, ..parts[1].clone() });
    let build = pair.hear(parts).expect("it is whole");
    pair.take_over(build);
    pair.assert_equal();
}

// covers K14 K12
#[test]
fn checkpoint_that_is_built_when_its_epoch_is_over_is_dropped_and_a_promoted_backup_applies_its_log() {
    let mut pair = Pair::new();
    pair.write("x");
    pair.backup_hears();
    let checkpoint = pair.checkpoint();
    let build = pair.deliver(&checkpoint).expect("it is at the base");
    // Written, acknowledged, and in no checkpoint.
    pair.write("y");
    pair.backup_hears();
    {
        let mut core = pair.backup.core.0.lock().unwrap();
        let elsewhere = Route::There(None);
        core.routing = Some(Routing { term: Term(TERM + 1), writes: elsewhere, reads: elsewhere, answers: elsewhere });
    }
    pair.take_over(build);
    assert_eq!(pair.backup.engine.applied(), EntryId::new(1, TERM), "it is of another epoch");
    {
        let mut core = pair.backup.core.0.lock().unwrap();
        core.stores_only = false;
        core.routing = None;
    }
    actions(&mut pair.backup);
    assert_eq!(pair.backup.applied(), ["x", "y"]);
    pair.assert_equal();
}

/// What of an epoch is said first, that it began or that a checkpoint is due in it, makes no difference.
// covers K14 K15
#[test]
fn first_checkpoint_of_an_epoch_is_the_base_of_the_second_whatever_the_core_says_first() {
    for is_role_first in [true, false] {
        let mut pair = Pair::new();
        pair.append_write("x");
        let end = pair.primary.core.0.lock().unwrap().log.last().unwrap().id;
        let (epoch, role) = (Term(TERM + 1), Role::Leader);
        let mut events =
            vec![Event::RoleChanged { role, term: epoch, leader: Some(ME) }, Event::CheckpointDue { epoch, end }];
        if !is_role_first {
            events.reverse();
        }
        // What is due waits until it is applied.
        pair.primary.happens(Effects { events, ..Effects::default() });
        pair.primary.core.commit_up_to(usize::MAX);
        let mark = made(actions(&mut pair.primary)).expect("one is due");
        assert!(mark.images.is_none(), "nothing is known of the backups in this epoch");
        assert_eq!((mark.name.epoch, mark.name.end), (epoch, end));
        pair.primary.engine.checkpoint_made();
        pair.write("y");
        let next = pair.checkpoint_in(epoch);
        assert!(next.images.is_some(), "what has changed since then");
        assert_eq!((next.name.epoch, next.name.base), (epoch, end));
    }
}

/// The rest of a checkpoint that is given up on a slow link.
// covers K14
#[test]
fn mark_in_place_of_the_rest_brings_a_backup_to_the_same_end() {
    let mut pair = Pair::new();
    pair.write(large("x"));
    pair.write(large("y"));
    pair.backup_hears();
    let parts = pieces(&pair.checkpoint());
    assert!(!parts[0].is_mark() && parts[1].mark().is_mark());
    assert!(pair.hear([parts[0].clone(), parts[1].mark()]).is_none(), "there is nothing to build");
    pair.assert_equal();
    assert_eq!(pair.counts()[1], Some(parts[0].count));
}

// covers K14 L17
#[test]
fn checkpoint_for_a_digest_does_not_stand_for_one_that_is_due_and_ends_later() {
    let mut pair = Pair::hashed(DIGEST_EVERY);
    ["x", "y", "z", "w"].into_iter().for_each(|command| pair.append_write(command));
    let end = pair.primary.core.0.lock().unwrap().log.last().unwrap().id;
    let due = Event::CheckpointDue { epoch: Term(TERM), end };
    pair.primary.happens(Effects { events: vec![due], ..Effects::default() });
    pair.primary.core.commit_up_to(usize::MAX);
    let for_digest = made(actions(&mut pair.primary)).expect("entry 4 is hashed");
    assert_eq!(for_digest.name.end, EntryId::new(DIGEST_EVERY, TERM));
    pair.primary.engine.checkpoint_made();
    let next = made(actions(&mut pair.primary)).expect("the one that was due");
    assert_eq!((next.name.base, next.name.end), (for_digest.name.end, end));
}

// covers K14
#[test]
fn checkpoint_that_cannot_be_read_or_would_be_too_long_is_made_up_for_by_the_log() {
    let mut pair = Pair::new();
    pair.write("x");
    pair.backup_hears();
    let checkpoint = pair.checkpoint();
    let broken = pieces(&checkpoint)
        .into_iter()
        .map(|piece| CheckpointPiece { bytes: Bytes::from(vec![7; piece.bytes.len()]), ..piece });
    let build = pair.hear(broken.collect::<Vec<_>>()).expect("no one has looked into it");
    pair.backup.engine.checkpoint_built(build.build());
    let lines: Vec<String> = actions(&mut pair.backup)
        .into_iter()
        .filter_map(|action| match action {
            Action::Report(line) => Some(line),
            _ => None,
        })
        .collect();
    assert!(matches!(&lines[..], [line] if line.contains("cannot be read")), "{lines:?}");
    pair.assert_equal();

    let count = CHECKPOINT_MAX_BYTES / CHECKPOINT_PIECE_MAX_BYTES;
    (0..count).for_each(|_| pair.write(large("z")));
    pair.backup_hears();
    let checkpoint = pair.checkpoint();
    let [mark] = &pieces(&checkpoint)[..] else { panic!("more than a mark") };
    assert_eq!((mark.len_bytes, mark.name.base), (0, mark.name.end));
    assert!(pair.hear([mark.clone()]).is_none());
    pair.assert_equal();
    // Bytes of another build say nothing to this one.
    pair.write("w");
    pair.backup_hears();
    let checkpoint = pair.checkpoint();
    let foreign = ImageVersions::with_machine(9);
    assert!(pair.hear(checkpoint.pieces(foreign, checkpoint.bytes()).collect::<Vec<_>>()).is_none());
    pair.assert_equal();
}

// covers K14 L17
#[test]
fn state_is_hashed_where_the_primary_hashes_it_also_after_a_checkpoint() {
    let mut pair = Pair::hashed(DIGEST_EVERY);
    pair.write("x");
    pair.write("y");
    pair.backup_hears();
    let digest = |actions: &[Action<Core, Journal>]| {
        actions.iter().find_map(|action| match action {
            Action::TakeDigest(image) => {
                Some(StateDigest::over(image.meta.last.index, |output| image.write_whole(output)))
            }
            _ => None,
        })
    };
    // Entry 4 is due, and others are committed along with it.
    let write = |number: u64| {
        let command = Bytes::from(format!("{number}"));
        SessionCommand::Write { client: ClientId::at(1), number, lowest_unanswered: 3, command }
    };
    for replica in [&pair.primary, &pair.backup] {
        (3..6).for_each(|number| replica.core.append(TERM, &write(number)));
    }
    pair.primary.core.commit_up_to(usize::MAX);
    let asked = actions(&mut pair.primary);
    let hashed = digest(&asked).expect("entry 4 is due");
    let checkpoint = made(asked).expect("a checkpoint at the same entry");
    assert_eq!((hashed.index, checkpoint.name.end.index), (Index(DIGEST_EVERY), Index(DIGEST_EVERY)));
    pair.backup_hears();
    let build = pair.deliver(&checkpoint).expect("it is at the base");
    pair.backup.engine.checkpoint_built(build.build());
    assert_eq!(digest(&actions(&mut pair.backup)), Some(hashed));
}

/// Clients of a primary that is none any more do not wait for it to apply what is committed: it does not.
// covers K3 C9
#[test]
fn writes_of_a_former_primary_that_are_committed_and_not_applied_are_unknown_at_once() {
    let mut replica = Replica::new();
    let open = smr::replica::Request::OpenSession;
    replica.ask(vec![(0, 1, open)]);
    replica.core.commit_up_to(usize::MAX);
    replica.core.0.lock().unwrap().stores_only = true;
    replica.happens(deposed());
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
    let promoted = Event::RoleChanged { role: Role::Leader, term: Term(TERM + 2), leader: Some(ME) };
    replica.core.0.lock().unwrap().stores_only = false;
    replica.happens(Effects { events: vec![promoted], ..Effects::default() });
    assert_eq!(replica.engine.sessions().len(), 1, "it has had its effect");
}
