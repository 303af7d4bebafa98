//! The manager that moves slots, as the groups see it: one after another takes over, and what an earlier one has said
//! comes late.
//!
//! It takes the steps of [`madkv_proto::slot_move`] in the order of the production driver, which keeps a record in the
//! managers' group; here that record is this value, for the managers of this simulation are no group.

use bytes::Bytes;
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{Attempt, Exported, SlotCommand, SlotQuery, SlotReply};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use smr::internals::protocol::Time;
use smr::replica::{Outcome, Request};
use smr_sim::sim_rng::SimRng;

use super::partition::Partition;

/// After this long without an answer a step is said again, in microseconds.
const ASK_AGAIN_US: u64 = 300_000;
/// How often it looks for an answer, in microseconds.
const LOOK_US: u64 = 2_000;
/// Rounds in which what has changed is copied before the slots are frozen.
const ROUNDS: u32 = 2;
/// Of a thousand steps, this many are the first of another one that takes over.
const TAKES_OVER: u64 = 20;
/// Of a thousand steps, before this many something said earlier comes again.
const SAYS_AGAIN: u64 = 300;

/// What is to be done next.
#[derive(Clone, Debug)]
enum Todo {
    Accept,
    Begin,
    Export(Copy),
    Install(Copy, Exported),
    Freeze {
        since: u64,
    },
    Release,
    Own,
    Drop,
    /// It is given up: the source hears of it first, and then the destination.
    End {
        at_source: bool,
    },
    /// The source cannot be told that yet: it begins another attempt, so that what is frozen takes writes again.
    BeginLater,
    /// The source has refused the first attempt: has another leader of it begun that all the same?
    HasBegun,
}

/// How far copying is.
#[derive(Clone, Debug)]
struct Copy {
    since: Option<u64>,
    last_change: Option<u64>,
    after: Option<Bytes>,
    rounds: u32,
    is_frozen: bool,
}

struct Move {
    from: u16,
    to: u16,
    slots: SlotSet,
    by: Attempt,
    pieces: u64,
    epoch: u64,
    todo: Todo,
    /// The question that is out: to whom, under which tag, since when.
    asked: Option<(u16, u64, Time)>,
    said: Vec<(u16, SlotCommand)>,
    /// A group that cannot take part, and need not hear of the end.
    unable: Option<u16>,
}

impl Move {
    /// Whether there is no other attempt any more.
    fn is_settled(&self) -> bool {
        matches!(self.todo, Todo::Release | Todo::Own | Todo::Drop | Todo::End { .. } | Todo::BeginLater)
    }

    /// Whether this group needs no end: it could not take part when nothing had happened, or was not asked then.
    fn knows_nothing(&self, partition: u16) -> bool {
        self.unable.is_some_and(|unable| unable == partition || partition == self.from)
    }
}

/// See the module.
pub(super) struct SlotMover {
    /// The map that counts.
    pub(super) map: ClusterMap,
    /// Whether slots have moved.
    pub(super) has_moved: bool,
    open: Option<Move>,
    /// What was asked last was refused: some member that is gone is not known to apply these commands.
    is_refused: bool,
    rng: SimRng,
    look_at: Option<Time>,
    ids: u64,
}

impl SlotMover {
    pub(super) fn new(map: ClusterMap, rng: SimRng) -> SlotMover {
        SlotMover { map, has_moved: false, open: None, is_refused: false, rng, look_at: None, ids: 0 }
    }

    /// When it is to run again.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.look_at
    }

    /// Whether all that was begun is done, or waits for a member that may never come back.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() || self.is_refused
    }

    /// Moves some slots of one partition to another, unless a move is open or there is no other.
    pub(super) fn begin(&mut self, now: Time) {
        let count = self.map.partitions.len() as u64; // at most PARTITIONS_MAX
        if self.open.is_some() || count < 2 {
            return;
        }
        let from = self.rng.below(count);
        let to = (from + 1 + self.rng.below(count - 1)) % count;
        let (first, end) = self.rng.pick(&[(0, SLOTS), (0, SLOTS / 2), (SLOTS / 3, SLOTS)]);
        let range = SlotSet::range(first, end);
        let owned = &self.map.partitions[from as usize].slots;
        let slots = owned.without(&owned.without(&range));
        if slots.is_empty() {
            return;
        }
        self.ids += 1;
        let by = Attempt { id: self.ids, number: 1 };
        let (from, to) = (from as u16, to as u16);
        let todo = Todo::Accept;
        self.open =
            Some(Move { from, to, slots, by, pieces: 0, epoch: 0, todo, asked: None, said: Vec::new(), unable: None });
        self.look_at = Some(now);
    }

    /// Gives the move up that is open, unless the map gives the slots to the destination. Returns whether a group may
    /// have heard of it.
    pub(super) fn give_up(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        let is_too_late = open.is_settled();
        if !is_too_late {
            // Whatever is still answered to the step before.
            open.asked = None;
            open.todo = Todo::End { at_source: true };
        }
        !is_too_late && !open.said.is_empty()
    }

    /// Takes the next step, if the last one was answered. Returns whether the map that counts has changed.
    pub(super) fn run(&mut self, now: Time, partitions: &mut [Partition]) -> bool {
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        let before = self.map.epoch;
        self.look_at = None;
        if let Some(mut open) = self.open.take()
            && !self.go_on(&mut open, now, partitions)
        {
            self.open = Some(open);
            self.look_at = Some(now.plus_us(LOOK_US));
        }
        self.map.epoch != before
    }

    /// Returns whether the move is done.
    fn go_on(&mut self, open: &mut Move, now: Time, partitions: &mut [Partition]) -> bool {
        if let Some((partition, tag, since)) = open.asked {
            match partitions[usize::from(partition)].answer_to_managers(tag) {
                Some(Outcome::Answer(answer)) => {
                    // By a later attempt nothing is done yet of what was refused.
                    self.is_refused &= matches!(open.todo, Todo::BeginLater);
                    open.asked = None;
                    let reply = SlotReply::decode(&answer).unwrap_or_else(|why| panic!("{why}: {answer:?}"));
                    if self.answered(open, reply) {
                        return true;
                    }
                }
                // It has heard nothing of the move, or takes no record of it.
                Some(Outcome::Refused(_)) if matches!(open.todo, Todo::End { .. }) && open.knows_nothing(partition) => {
                    open.asked = None;
                    match open.todo {
                        Todo::End { at_source: true } => open.todo = Todo::End { at_source: false },
                        _ => return true,
                    }
                }
                Some(Outcome::Refused(_)) if matches!(open.todo, Todo::End { at_source: true } | Todo::BeginLater) => {
                    (open.asked, self.is_refused) = (None, true);
                    open.todo = match open.todo {
                        Todo::BeginLater => Todo::End { at_source: true },
                        _ => Todo::BeginLater,
                    };
                    open.by.number += u64::from(matches!(open.todo, Todo::BeginLater));
                }
                // A member that is gone for good is not known to apply these commands: the move comes to nothing.
                Some(Outcome::Refused(_))
                    if matches!(open.todo, Todo::Accept | Todo::Begin) && open.by.number == 1 && open.pieces == 0 =>
                {
                    open.asked = None;
                    open.todo = match open.todo {
                        Todo::Begin => Todo::HasBegun,
                        _ => {
                            open.unable = Some(partition);
                            Todo::End { at_source: true }
                        }
                    };
                }
                None if now < since.plus_us(ASK_AGAIN_US) => return false,
                // Not done, unknown, or no one answers: it is said again.
                other => {
                    open.asked = None;
                    self.is_refused = matches!(other, Some(Outcome::Refused(_)));
                }
            }
        }
        if !open.is_settled() && self.rng.chance(TAKES_OVER) {
            open.by.number += 1;
            open.todo = Todo::Accept;
        }
        if self.rng.chance(SAYS_AGAIN) && !open.said.is_empty() {
            let (partition, command) = &open.said[self.rng.below(open.said.len() as u64) as usize];
            partitions[usize::from(*partition)].ask_for_managers(Request::Idempotent { command: command.encode() });
        }
        let (partition, request) = self.next(open);
        let tag = partitions[usize::from(partition)].ask_for_managers(request);
        open.asked = Some((partition, tag, now));
        false
    }

    fn next(&mut self, open: &mut Move) -> (u16, Request) {
        let Move { from, to, by, ref slots, pieces, epoch, .. } = *open;
        let slots = slots.clone();
        let owned = |partition: u16| self.map.partitions[usize::from(partition)].slots.clone();
        let (partition, command) = match &open.todo {
            Todo::Accept => (to, SlotCommand::Accept { by, slots, owned: owned(to), epoch: self.map.epoch }),
            Todo::Begin | Todo::BeginLater => {
                (from, SlotCommand::Begin { by, slots, owned: owned(from), epoch: self.map.epoch })
            }
            Todo::Export(copy) => {
                let query = SlotQuery::Export { by, changed_since: copy.since, after: copy.after.clone() };
                return (from, Request::Read { query: query.encode() });
            }
            Todo::HasBegun => {
                let query = SlotQuery::Export { by, changed_since: Some(u64::MAX), after: None };
                return (from, Request::Read { query: query.encode() });
            }
            Todo::Install(_, exported) => {
                (to, SlotCommand::Install { by, number: pieces, piece: exported.piece.clone() })
            }
            Todo::Freeze { .. } => (from, SlotCommand::Freeze { by }),
            Todo::Release => (from, SlotCommand::Release { by, epoch }),
            Todo::Own => (to, SlotCommand::Own { by, pieces, epoch }),
            Todo::Drop => (from, SlotCommand::Drop { by }),
            Todo::End { at_source } => {
                let partition = if *at_source { from } else { to };
                (partition, SlotCommand::End { by, slots, owned: owned(partition), epoch: self.map.epoch })
            }
        };
        open.said.push((partition, command.clone()));
        (partition, Request::Idempotent { command: command.encode() })
    }

    /// What a step was answered. Returns whether the move is done.
    fn answered(&mut self, open: &mut Move, reply: SlotReply) -> bool {
        open.todo = match (open.todo.clone(), reply) {
            (Todo::Accept, SlotReply::Done) => {
                open.pieces = 0;
                Todo::Begin
            }
            (Todo::Begin, SlotReply::Done) => {
                Todo::Export(Copy { since: None, last_change: None, after: None, rounds: ROUNDS, is_frozen: false })
            }
            (Todo::Export(copy), SlotReply::Piece(exported)) => {
                let last_change = Some(copy.last_change.unwrap_or(exported.last_change));
                Todo::Install(Copy { last_change, ..copy }, exported)
            }
            (Todo::Install(copy, exported), SlotReply::Done) => {
                open.pieces += 1;
                // All changes since the beginning come after the first pass.
                let since = copy.since.map_or(0, |_| copy.last_change.unwrap_or(0));
                match (exported.more_after, copy.rounds) {
                    (Some(after), _) => Todo::Export(Copy { after: Some(after), ..copy }),
                    (None, _) if copy.is_frozen => {
                        self.flip(open);
                        Todo::Release
                    }
                    (None, 0) => Todo::Freeze { since },
                    (None, rounds) => {
                        let (since, rounds) = (Some(since), rounds - 1);
                        Todo::Export(Copy { since, last_change: None, after: None, rounds, ..copy })
                    }
                }
            }
            (Todo::Freeze { since }, SlotReply::Done) => {
                let since = Some(since);
                Todo::Export(Copy { since, last_change: None, after: None, rounds: 0, is_frozen: true })
            }
            (Todo::Release, SlotReply::Done) => Todo::Own,
            (Todo::Own, SlotReply::Done) => Todo::Drop,
            (Todo::Drop, SlotReply::Done) => return true,
            (Todo::HasBegun, SlotReply::Piece(_)) => {
                open.by.number += 1;
                Todo::Accept
            }
            (Todo::HasBegun, SlotReply::Refused(_)) => {
                open.unable = Some(open.from);
                Todo::End { at_source: true }
            }
            (Todo::BeginLater, SlotReply::Done) => Todo::End { at_source: true },
            (Todo::End { at_source: true }, SlotReply::Done) => Todo::End { at_source: false },
            (Todo::End { at_source: false }, SlotReply::Done) => return true,
            (todo @ (Todo::Drop | Todo::End { .. }), SlotReply::Again) => todo,
            (todo, reply) => panic!("{todo:?} was answered {reply:?}"),
        };
        false
    }

    /// Everything is copied: the next map gives the slots to their new owner.
    fn flip(&mut self, open: &mut Move) {
        self.has_moved = true;
        self.map.epoch += 1;
        let source = &mut self.map.partitions[usize::from(open.from)].slots;
        *source = source.without(&open.slots);
        let destination = &mut self.map.partitions[usize::from(open.to)].slots;
        *destination = destination.with(&open.slots);
        open.epoch = self.map.epoch;
    }
}
