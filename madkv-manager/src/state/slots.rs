//! Which slots each partition has: partitions that are added, and slots that move, one move at a time.
//!
//! A move is open from the moment it is recorded until its source has dropped what it gave away. The manager that leads
//! carries it out ([`crate::slot_driver`]); what is recorded here is all that another one needs to go on. The map
//! changes in one step, when everything is copied: from then on there is no way back, and no other attempt. Before, an
//! operator may give the move up, or the leader if a group cannot take part: it is open until both groups have heard
//! so.

use std::sync::Arc;

use madkv_proto::control::{ChangeReport, ControlReply, EVENT_TEXT_MAX_BYTES, bounded};
use madkv_proto::map::{PARTITIONS_MAX, Partition, REPLICAS_MAX};
use madkv_proto::slot_set::SlotSet;
use serde::{Deserialize, Serialize};
use smr::epoch::GroupKind;
use smr_service::address::{are_same, is_same};

use super::members::is_address;
use super::{ManagerState, Reply};

/// What events about slots are about.
const SUBJECT: &str = "slots";
/// The most ranges of slots in a map: whoever moves slots one by one gets no further.
pub const MAP_RANGES_MAX: usize = 1024;

/// A move of slots that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMove {
    /// Its number: that of the event that says so.
    pub id: u64,
    /// The partition that has them.
    pub from: u16,
    /// The partition that is to have them.
    pub to: u16,
    /// Which slots move.
    pub slots: SlotSet,
    /// The last attempt to copy them; 0 before the first.
    pub attempt: u64,
    /// How far it is.
    pub phase: MovePhase,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovePhase {
    /// Records are copied; the source has the slots.
    Copying,
    /// All is copied, and the map gives the slots to the destination: the source is to release them, and then the
    /// destination is to own them.
    Handover {
        /// In how many pieces they came.
        pieces: u64,
        /// The epoch of that map.
        epoch: u64,
    },
    /// The destination owns them; the source is to drop their records.
    Dropping,
    /// It is given up, and the source keeps the slots: both groups are to end it. Came with version 5.
    GivenUp {
        /// Why.
        why: String,
        /// The group that could not take part when nothing had happened yet, and need not hear of the end.
        unable: Option<u16>,
    },
}

/// The moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slots {
    open: Option<SlotMove>,
    /// The last one that ended, and why it came to nothing, if it did.
    ended: Option<(u64, Option<String>)>,
}

/// What the manager that leads has done for a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// It begins this attempt.
    Attempt(u64),
    /// In this attempt everything was copied, and the slots are frozen.
    Copied {
        /// The attempt.
        attempt: u64,
        /// In how many pieces.
        pieces: u64,
    },
    /// The destination owns the slots.
    Owned,
    /// The source has dropped what it gave away.
    Dropped,
    /// A group cannot take part, and nothing has happened yet. Where all managers know of [`MovePhase::GivenUp`] that
    /// takes its place, so that the other group hears of it.
    Failed {
        /// The attempt, which is the first.
        attempt: u64,
        /// The reason.
        why: String,
    },
}

impl ManagerState {
    /// The move that is open.
    pub(super) fn slot_move(&self) -> Option<SlotMove> {
        self.contents.slots.open.clone()
    }

    /// How moves of slots are.
    pub(super) fn slot_moves(&self) -> ControlReply {
        let Slots { open, ended } = &self.contents.slots;
        let epoch = self.contents.map.as_ref().map_or(0, |map| map.epoch);
        ControlReply::Change(ChangeReport { open: open.as_ref().map(|open| open.id), ended: ended.clone(), epoch })
    }

    /// An operator adds a partition, which has no slots at first.
    pub(super) fn add_partition(&mut self, servers: Vec<String>, at_unix_ms: u64) -> ControlReply {
        let Some(map) = &self.contents.map else {
            return ControlReply::Refused("there is no cluster map yet".to_owned());
        };
        let is_added = |last: &Partition| last.is_store && last.slots.is_empty() && are_same(&last.servers, &servers);
        if map.partitions.last().is_some_and(is_added) {
            return ControlReply::Done;
        }
        let number = map.partitions.len();
        let refused = |why: String| ControlReply::Refused(why);
        if !map.has_store() {
            return refused("all groups are of other services: there are no slots for another partition".to_owned());
        }
        if number >= PARTITIONS_MAX {
            return refused(format!("there are {number} partitions; {PARTITIONS_MAX} are possible"));
        }
        if servers.len() > REPLICAS_MAX || servers.len().is_multiple_of(2) {
            return refused(format!("{} replicas; 1, 3, 5, 7 and 9 are possible", servers.len()));
        }
        for (replica, server) in servers.iter().enumerate() {
            if !is_address(server) {
                return refused("an address is host:port".to_owned());
            }
            if servers[..replica].iter().any(|other| is_same(other, server)) {
                return refused(format!("server address {server} is given twice"));
            }
            for (number, part) in map.partitions.iter().enumerate() {
                if let Some(other) = part.servers.iter().position(|other| is_same(other, server)) {
                    return refused(format!("{server} is the address of s{number}.{other} already"));
                }
            }
        }
        let contents = Arc::make_mut(&mut self.contents);
        let text = format!("partition s{number} is added, without slots: {}", servers.join(", "));
        contents.control.events.append(at_unix_ms, SUBJECT, &text);
        if let Some(map) = &mut contents.map {
            map.partitions.push(Partition { slots: SlotSet::default(), servers, is_store: true });
            map.epoch += 1;
        }
        ControlReply::Done
    }

    /// An operator moves slots.
    pub(super) fn move_slots(&mut self, slots: SlotSet, to: u16, at_unix_ms: u64) -> ControlReply {
        let refused = |why: String| ControlReply::Refused(why);
        let Some(map) = &self.contents.map else { return refused("there is no cluster map yet".to_owned()) };
        let Some(destination) = map.partitions.get(usize::from(to)) else {
            return refused(format!("the cluster has no s{to}"));
        };
        if slots.is_empty() || !slots.is_sound() {
            return refused("these are no slots".to_owned());
        }
        let service = self.service(to);
        if !service.is_key_value() {
            return refused(format!("s{to} is of service {service}, and owns no slots"));
        }
        if let Some(open) = &self.contents.slots.open {
            return match (&open.slots, open.to) == (&slots, to) {
                true => self.slot_moves(),
                false => refused(format!("another move of slots is under way: {} to s{}", open.slots, open.to)),
            };
        }
        if destination.slots.contains_all(&slots) {
            return self.slot_moves();
        }
        let source = map.partitions.iter().position(|part| part.slots.contains_all(&slots));
        let Some(from) = source.and_then(|from| u16::try_from(from).ok()) else {
            let has_some = |part: &Partition| slots.without(&part.slots) != slots;
            let owners = map.partitions.iter().enumerate().filter(|(_, part)| has_some(part));
            let owners: Vec<String> = owners.map(|(number, _)| format!("s{number}")).collect();
            return refused(format!("slots {slots} are not all of one partition, but of {}", owners.join(", ")));
        };
        for partition in [from, to] {
            // The others have no leader whose log alone decides.
            if self.kind(partition) != GroupKind::Raft {
                return refused(format!("s{partition} is no group of kind raft: its slots stay"));
            }
            if !self.contents.founded.contains_key(&partition) {
                return refused(format!("the group of s{partition} has not begun yet: start its servers"));
            }
        }
        let ranges = |part: &Partition| part.slots.ranges().len();
        let others =
            map.partitions.iter().enumerate().filter(|(number, _)| ![from, to].map(usize::from).contains(number));
        let source_slots = map.partitions[usize::from(from)].slots.without(&slots);
        let moved = source_slots.ranges().len() + destination.slots.with(&slots).ranges().len();
        if others.map(|(_, part)| ranges(part)).sum::<usize>() + moved > MAP_RANGES_MAX {
            return refused(format!("the map would have more than {MAP_RANGES_MAX} ranges of slots"));
        }
        let contents = Arc::make_mut(&mut self.contents);
        let text = format!("slots {slots} are to move from s{from} to s{to}");
        let id = contents.control.events.append(at_unix_ms, SUBJECT, &text);
        contents.slots.open = Some(SlotMove { id, from, to, slots, attempt: 0, phase: MovePhase::Copying });
        self.slot_moves()
    }

    /// The manager that leads has taken a step. Answered with the move as it is now, or refused if the step does not
    /// follow from where the move is.
    pub(super) fn slot_step(&mut self, id: u64, step: MoveStep, at_unix_ms: u64) -> Reply {
        let contents = Arc::make_mut(&mut self.contents);
        let Some(open) = contents.slots.open.as_mut().filter(|open| open.id == id) else {
            return Reply::Refused("another move is open, or none".to_owned());
        };
        let SlotMove { from, to, .. } = *open;
        let mut ended = None;
        let text = match (open.phase.clone(), step) {
            (MovePhase::Copying, MoveStep::Attempt(number)) if number == open.attempt + 1 => {
                open.attempt = number;
                // Groups that cannot be reached are tried again and again: that must not push all else out.
                number.is_power_of_two().then(|| format!("move {id}: attempt {number} begins"))
            }
            (MovePhase::Copying, MoveStep::Copied { attempt, pieces }) if attempt == open.attempt => {
                let Some(map) = &mut contents.map else { return Reply::NoMap };
                map.epoch += 1;
                let source = &mut map.partitions[usize::from(from)].slots;
                *source = source.without(&open.slots);
                let destination = &mut map.partitions[usize::from(to)].slots;
                *destination = destination.with(&open.slots);
                open.phase = MovePhase::Handover { pieces, epoch: map.epoch };
                let epoch = map.epoch;
                Some(format!("move {id}: copied in {pieces} pieces; the map of epoch {epoch} gives the slots to s{to}"))
            }
            (MovePhase::Handover { .. }, MoveStep::Owned) => {
                open.phase = MovePhase::Dropping;
                Some(format!("move {id}: s{from} has released the slots, s{to} owns them"))
            }
            (MovePhase::Dropping, MoveStep::Dropped) => {
                ended = Some(None);
                Some(format!("move {id} is done: s{from} has dropped the records"))
            }
            (MovePhase::Copying, MoveStep::Failed { attempt: 1, why }) if open.attempt == 1 => {
                let text = format!("move {id} came to nothing: {why}");
                ended = Some(Some(why));
                Some(text)
            }
            (phase, step) => return Reply::Refused(format!("{step:?} does not follow {phase:?}")),
        };
        if let Some(text) = text {
            contents.control.events.append(at_unix_ms, SUBJECT, &text);
        }
        if let Some(outcome) = ended {
            contents.slots.end(outcome);
        }
        Reply::SlotMove(contents.slots.open.clone())
    }

    /// A move is given up, while its source has the slots. Answered with how it is then.
    pub(super) fn give_up(&mut self, id: u64, why: &str, unable: Option<u16>, at_unix_ms: u64) -> ControlReply {
        if self.contents.slots.ended.as_ref().is_some_and(|(ended, refused)| *ended == id && refused.is_some()) {
            // From someone who did not hear the answer.
            return self.slot_moves();
        }
        let contents = Arc::make_mut(&mut self.contents);
        let Some(open) = contents.slots.open.as_mut().filter(|open| open.id == id) else {
            return ControlReply::Refused(format!("move {id} is not under way"));
        };
        match open.phase {
            MovePhase::GivenUp { .. } => {}
            MovePhase::Copying => {
                let text = format!("move {id} is given up, s{} keeps slots {}: {why}", open.from, open.slots);
                contents.control.events.append(at_unix_ms, SUBJECT, &text);
                open.phase = MovePhase::GivenUp { why: bounded(why, EVENT_TEXT_MAX_BYTES).to_owned(), unable };
                if open.attempt == 0 {
                    // No one has been told of it.
                    contents.slots.end(Some(why.to_owned()));
                }
            }
            MovePhase::Handover { epoch, .. } => {
                let to = open.to;
                return ControlReply::Refused(format!(
                    "the map of epoch {epoch} gives the slots to s{to}: no way back"
                ));
            }
            MovePhase::Dropping => {
                return ControlReply::Refused(format!("s{} owns the slots: no way back", open.to));
            }
        }
        self.slot_moves()
    }

    /// Both groups have ended a move that was given up.
    pub(super) fn given_up(&mut self, id: u64, at_unix_ms: u64) -> Reply {
        let contents = Arc::make_mut(&mut self.contents);
        let Some(open) = contents.slots.open.as_ref().filter(|open| open.id == id) else {
            return Reply::Refused("another move is open, or none".to_owned());
        };
        let MovePhase::GivenUp { why, .. } = open.phase.clone() else {
            return Reply::Refused(format!("it is not given up, but {:?}", open.phase));
        };
        let text = format!("move {id} came to nothing, and nothing is left of it: {why}");
        contents.control.events.append(at_unix_ms, SUBJECT, &text);
        contents.slots.end(Some(why));
        Reply::SlotMove(None)
    }

    /// A group has forgotten its part in a move whose slots are handed over: it goes on by the map. Said once.
    pub(super) fn slots_forgotten(&mut self, id: u64, partition: u16, at_unix_ms: u64) -> Reply {
        let contents = Arc::make_mut(&mut self.contents);
        let Some(open) = contents.slots.open.as_ref().filter(|open| open.id == id) else {
            return Reply::Refused("another move is open, or none".to_owned());
        };
        let what = match partition == open.to {
            true => "it has the slots, and of their records those that it has: the others are in backups, if anywhere",
            false => "it does not have the slots any more",
        };
        let text = format!(
            "move {id}: s{partition} has forgotten its part, for its group was founded anew or recovered while \
             slots {} were handed over: {what}",
            open.slots
        );
        if !contents.control.events.has(SUBJECT, &text) {
            contents.control.events.append(at_unix_ms, SUBJECT, &text);
        }
        Reply::SlotMove(contents.slots.open.clone())
    }

    /// A group cannot be told yet that a move is over which was given up. Said once.
    pub(super) fn move_waits(&mut self, id: u64, partition: u16, why: &str, at_unix_ms: u64) -> Reply {
        let contents = Arc::make_mut(&mut self.contents);
        let Some(open) = contents.slots.open.as_ref().filter(|open| open.id == id) else {
            return Reply::Refused("another move is open, or none".to_owned());
        };
        if !matches!(open.phase, MovePhase::GivenUp { .. }) {
            return Reply::Refused(format!("it is not given up, but {:?}", open.phase));
        }
        let text = format!("move {id}: s{partition} cannot be told yet that it is over: {why}");
        if !contents.control.events.has(SUBJECT, &text) {
            contents.control.events.append(at_unix_ms, SUBJECT, &text);
        }
        Reply::SlotMove(contents.slots.open.clone())
    }
}

impl Slots {
    /// Whether there is something of version 5 of the commands.
    pub(super) fn is_of_version_5(&self) -> bool {
        self.open.as_ref().is_some_and(|open| matches!(open.phase, MovePhase::GivenUp { .. }))
    }

    fn end(&mut self, refused: Option<String>) {
        if let Some(open) = self.open.take() {
            self.ended = Some((open.id, refused));
        }
    }
}
