//! Slots that move: what the steps of a move do to the records of a partition, and how these are read.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use madkv_proto::slot_move::{
    Attempt, DROP_STEP, Exported, PIECE_MAX_BYTES, PIECE_RECORD_BYTES, PIECE_RECORDS_MAX, Piece, SlotCommand,
    SlotQuery, SlotReply,
};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::slot_of;
use smr::state_machine::Answer;

use crate::ownership::{Installation, Ownership, Refused, ToDrop};
use crate::packed::{Records, within_limits};

/// Takes a step.
pub(crate) fn apply(records: &mut Records, ownership: &mut Option<Arc<Ownership>>, command: SlotCommand) -> SlotReply {
    match step(records, ownership, command) {
        Ok(reply) => reply,
        Err(why) => SlotReply::Refused(why),
    }
}

fn step(
    records: &mut Records,
    ownership: &mut Option<Arc<Ownership>>,
    command: SlotCommand,
) -> Result<SlotReply, Refused> {
    match command {
        SlotCommand::Begin { by, slots, owned, epoch } => {
            check_slots(&slots, &owned)?;
            let mut begun = ownership.clone().unwrap_or_else(|| founding(owned, epoch));
            Arc::make_mut(&mut begun).begin(by, slots)?;
            *ownership = Some(begun);
        }
        SlotCommand::Accept { by, slots, owned, epoch } => {
            check_slots(&slots, &owned)?;
            let mut begun = ownership.clone().unwrap_or_else(|| founding(owned, epoch));
            Arc::make_mut(&mut begun).accept(by, slots)?;
            *ownership = Some(begun);
        }
        SlotCommand::Install { by, number, piece } => {
            let is_possible =
                piece.records.iter().all(|(key, value)| within_limits(key, value.as_deref().unwrap_or_default()));
            if !is_possible {
                return Err("a record beyond the limits".to_owned());
            }
            if let Installation::Next { slots, is_stale } = known(ownership)?.install(by, number)? {
                install(records, &slots, is_stale, piece);
            }
        }
        SlotCommand::Freeze { by } => known(ownership)?.freeze(by)?,
        SlotCommand::Release { by, epoch } => known(ownership)?.release(by, epoch)?,
        SlotCommand::Own { by, pieces, epoch } => known(ownership)?.own(by, pieces, epoch)?,
        SlotCommand::Drop { by } => {
            let ownership = known(ownership)?;
            let to_drop = ownership.to_drop(by)?;
            return Ok(drop_next(records, ownership, to_drop));
        }
        SlotCommand::End { by, slots, owned, epoch } => {
            check_slots(&slots, &owned)?;
            let ownership = Arc::make_mut(ownership.get_or_insert_with(|| founding(owned.clone(), epoch)));
            let to_drop = ownership.end(by, &slots, owned, epoch);
            return Ok(drop_next(records, ownership, to_drop));
        }
    }
    Ok(SlotReply::Done)
}

fn drop_next(records: &mut Records, ownership: &mut Ownership, to_drop: Option<ToDrop>) -> SlotReply {
    let Some(ToDrop { slots, after }) = to_drop else { return SlotReply::Done };
    let up_to = drop_some(records, &slots, after);
    let reply = if up_to.is_some() { SlotReply::Again } else { SlotReply::Done };
    ownership.dropped(up_to);
    reply
}

fn founding(owned: SlotSet, epoch: u64) -> Arc<Ownership> {
    Arc::new(Ownership::founding(owned, epoch))
}

fn check_slots(slots: &SlotSet, owned: &SlotSet) -> Result<(), Refused> {
    let is_sound = slots.is_sound() && owned.is_sound() && !slots.is_empty();
    if is_sound { Ok(()) } else { Err("these are no slots".to_owned()) }
}

fn known(ownership: &mut Option<Arc<Ownership>>) -> Result<&mut Ownership, Refused> {
    ownership.as_mut().map(Arc::make_mut).ok_or_else(|| "no move has begun here".to_owned())
}

/// Installs a piece. Records of these slots that are not in it can be there only if some are stale: else the
/// destination's own, of which there may be very many, need not be looked at.
fn install(records: &mut Records, slots: &SlotSet, is_stale: bool, piece: Piece) {
    if let Some((after, up_to)) = piece.whole.as_ref().filter(|_| is_stale) {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = records.starting(from).map(|(key, _)| key);
        let range = range.take_while(|key| up_to.as_deref().is_none_or(|up_to| *key <= up_to));
        let stale = range.filter(|key| slots.contains(slot_of(key)));
        let is_there = |key: &[u8]| piece.records.binary_search_by(|(there, _)| (**there).cmp(key)).is_ok();
        let stale: Vec<Box<[u8]>> = stale.filter(|key| !is_there(key)).map(Box::from).collect();
        stale.iter().for_each(|key| {
            records.remove(key);
        });
    }
    for (key, value) in piece.records {
        // A piece speaks of these slots alone, whatever is in it.
        if slots.contains(slot_of(&key)) {
            match value {
                Some(value) => records.insert(&key, &value),
                None => records.remove(&key),
            };
        }
    }
}

/// Looks at some records, and removes those of these slots. Returns the last key that it has looked at, if there are
/// more after it.
fn drop_some(records: &mut Records, slots: &SlotSet, after: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let looked_at: Vec<Box<[u8]>> = records.starting(from).map(|(key, _)| Box::from(key)).take(DROP_STEP + 1).collect();
    let more = looked_at.len() > DROP_STEP;
    let looked_at = &looked_at[..looked_at.len().min(DROP_STEP)];
    for key in looked_at.iter().filter(|key| slots.contains(slot_of(key))) {
        records.remove(key);
    }
    looked_at.last().filter(|_| more).map(|last| last.to_vec())
}

/// Answers a question about slots that move.
pub(crate) fn answer(records: &Records, ownership: Option<&Arc<Ownership>>, query: SlotQuery) -> Answer {
    let SlotQuery::Export { by, changed_since, after } = query;
    let ownership = match ownership {
        Some(ownership) if ownership.exported(by).is_ok() => Arc::clone(ownership),
        Some(_) => return refused(format!("attempt {} of move {} is not under way here", by.number, by.id)),
        None => return refused("no move has begun here".to_owned()),
    };
    let records = records.clone();
    // A long way may lie between two records of these slots: none of it is for the replica's thread.
    Answer::Parts(Box::new(std::iter::once_with(move || {
        export(&records, &ownership, by, changed_since, after).unwrap_or_else(SlotReply::Refused).encode()
    })))
}

fn refused(why: String) -> Answer {
    Answer::Now(SlotReply::Refused(why).encode())
}

fn export(
    records: &Records,
    ownership: &Ownership,
    by: Attempt,
    changed_since: Option<u64>,
    after: Option<Bytes>,
) -> Result<SlotReply, Refused> {
    let outgoing = ownership.exported(by)?;
    let mut gathered = Gathered::default();
    match changed_since {
        Some(since) => {
            for key in outgoing.changed_since(since, after.as_deref()) {
                if !gathered.take(key, records.get(key)) {
                    break;
                }
            }
        }
        None => {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for (key, value) in records.starting(from).filter(|(key, _)| outgoing.slots().contains(slot_of(key))) {
                if !gathered.take(key, Some(value)) {
                    break;
                }
            }
        }
    }
    let Gathered { records, is_full, .. } = gathered;
    let more_after = records.last().map(|(key, _)| key.clone()).filter(|_| is_full);
    let whole = changed_since.is_none().then(|| (after, more_after.clone()));
    let last_change = outgoing.last_change();
    Ok(SlotReply::Piece(Exported { piece: Piece { whole, records }, more_after, last_change }))
}

/// Records of a piece.
#[derive(Default)]
struct Gathered {
    records: Vec<(Bytes, Option<Bytes>)>,
    len_bytes: usize,
    is_full: bool,
}

impl Gathered {
    /// Takes a record, if there is room for it.
    fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let len_bytes = PIECE_RECORD_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        let is_full = self.records.len() >= PIECE_RECORDS_MAX || self.len_bytes + len_bytes > PIECE_MAX_BYTES;
        self.is_full = is_full && !self.records.is_empty();
        if !self.is_full {
            self.len_bytes += len_bytes;
            self.records.push((Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice)));
        }
        !self.is_full
    }
}
