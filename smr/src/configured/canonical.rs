//! A core without time and chance: what an exhaustive explorer needs so that states which behave alike *are* equal. Not
//! part of the protocol, and reached through [`crate::internals`] only.
//!
//! The struct is taken apart by name, so a new field does not compile before someone has decided what it means here.

use super::{Checkpoints, Configured};
use crate::entry::Entry;
use crate::protocol::Time;

/// When every event of an exploration happens: no lease has run out that was not taken away.
pub const NOW: Time = Time(1 << 40);
/// When a lease would run out by itself.
const LATER: Time = Time(1 << 41);
const BEFORE: Time = Time(0);

/// Forgets when things happened, and numbers the writes under way from 1 on.
pub fn forget_time(core: &mut Configured) {
    let Configured {
        settings: _,
        node: _,
        start: _,
        started_at,
        now,
        configuration: _,
        entered_at,
        log: _,
        commit: _,
        peers,
        told: _,
        heard,
        durable_before: _,
        durable_said: _,
        commit_said: _,
        newcomer: _,
        reads: _,
        leased_until,
        checkpoints,
        is_activated: _,
        heartbeat_at,
        out,
    } = core;
    *leased_until = if *leased_until > *now { LATER } else { BEFORE };
    *entered_at = entered_at.map(|_| BEFORE);
    (*started_at, *now, *heartbeat_at) = (BEFORE, BEFORE, BEFORE);
    heard.clear();
    *checkpoints = Checkpoints::new(BEFORE);
    peers.values_mut().for_each(|progress| progress.forget_time(BEFORE));
    out.forget_time(BEFORE);
}

/// The lease has run out.
pub fn end_lease(core: &mut Configured) {
    core.leased_until = BEFORE;
}

/// The latest write, which has nothing to write and only waits its turn, is complete as soon as the one before it.
pub fn join_latest_write(core: &mut Configured) {
    core.out.join_latest();
}

/// The log after its start.
pub fn entries(core: &Configured) -> impl Iterator<Item = &Entry> {
    core.log.range(core.log.start().index.next(), core.log.last().index)
}
