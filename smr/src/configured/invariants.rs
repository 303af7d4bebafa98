//! What must be true of a core, and of two states of one core in a row. Called by tests after each step.
//!
//! Only what one core can know; what concerns several (all members hold what is committed, entries of one epoch and
//! index are equal) belongs to the harness that sees them all.

use super::{Configured, Pace};
use crate::entry::{EntryId, Index, Term};
use crate::protocol::Time;

pub use super::output::IDLE_WRITES_MAX;

/// What is kept of a core to compare it with later.
#[derive(Clone, Debug)]
pub struct Summary {
    epoch: Term,
    orders: bool,
    entered_at: Option<Time>,
    commit: EntryId,
    snapshot: Index,
    start: Index,
    last: EntryId,
}

/// Summarises a core, for [`check_transition`].
pub fn summary(core: &Configured) -> Summary {
    Summary {
        epoch: core.epoch(),
        orders: core.orders(),
        entered_at: core.entered_at,
        commit: core.committed_id(),
        snapshot: core.log.snapshot().index,
        start: core.log.start().index,
        last: core.log.last(),
    }
}

/// Whether every entry that was ever committed is in this member's log, as far as it may say so.
pub fn is_complete(core: &Configured) -> bool {
    core.is_complete()
}

/// Whether it orders writes in its epoch.
pub fn orders(core: &Configured) -> bool {
    core.orders()
}

/// Whether it has entered the epoch it is in since its start.
pub fn has_entered(core: &Configured) -> bool {
    core.entered_at.is_some()
}

/// Whether it holds a lease at the time of its last step.
pub fn holds_lease(core: &Configured) -> bool {
    core.holds_lease()
}

/// Until when it may answer reads by its lease, by its own clock.
pub fn leased_until(core: &Configured) -> Time {
    core.leased_until
}

/// How much waits in a core, of what has a limit (I17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The most appends in flight to any one member.
    pub inflight_appends_most: usize,
    /// Reads that were taken and are not answered yet.
    pub reads_waiting: usize,
    /// Writes on their way to the disk that have nothing to write, at most [`IDLE_WRITES_MAX`].
    pub idle_writes_pending: usize,
}

/// See [`Load`].
pub fn load(core: &Configured) -> Load {
    Load {
        inflight_appends_most: core.peers.values().map(|progress| progress.inflight.len()).max().unwrap_or(0),
        reads_waiting: core.reads.len(),
        idle_writes_pending: core.out.idle_pending(),
    }
}

/// Checks one state. Walks the whole log; for tests.
///
/// # Panics
/// If an invariant is broken, with the values.
pub fn check(core: &Configured) {
    let (start, snapshot, last) = (core.log.start(), core.log.snapshot(), core.log.last());
    // I10
    core.log.assert_shape();
    assert!(
        start.index <= snapshot.index && snapshot.index <= core.commit && core.commit <= last.index,
        "start {start}, snapshot {snapshot}, commit {}, last {last}",
        core.commit
    );
    assert!(last.term <= core.epoch(), "entry {last} in epoch {}", core.epoch());
    assert!(core.out.durable() <= last.index, "durable {} after the last entry {last}", core.out.durable());
    core.out.assert_order();
    // I16: it orders only where it began the epoch itself.
    if core.orders() {
        assert!(core.is_first() && last.term == core.epoch(), "orders in {} after {last}", core.epoch());
    }
    if let Some(noop) = core.noop_index().filter(|noop| *noop > start.index) {
        let first = core.log.get(noop).map(|entry| &entry.payload);
        assert!(first == Some(&crate::entry::Payload::Noop), "epoch {} begins with {first:?}", core.epoch());
    }
    let is_alone = core.membership().is_none();
    assert!(!is_alone || core.peers.is_empty(), "an outsider sends its log to {:?}", core.peers.keys());
    for (node, progress) in &core.peers {
        let (matched, next) = (progress.match_index, progress.next_index);
        assert!(*node != core.node, "a member is its own follower");
        assert!(matched < next, "{node}: match {matched}, next {next}");
        assert!(next <= last.index.next(), "{node}: next {next}, but the log ends at {last}");
        assert!(progress.inflight.len() <= core.settings.inflight_appends_max + 1, "{node}: window overflow");
        let idle = progress.inflight.is_empty();
        assert!(idle || !matches!(progress.pace, Pace::Snapshot { .. }), "{node}: appends during a snapshot");
    }
}

/// Checks two states of the same run, one step (or more) apart.
///
/// # Panics
/// If an invariant is broken, with the values.
pub fn check_transition(before: &Summary, core: &Configured) {
    let after = summary(core);
    // I3
    assert!(after.epoch >= before.epoch, "the epoch fell: {before:?}, {after:?}");
    assert!(after.commit.index >= before.commit.index, "the commit index fell: {before:?}, {after:?}");
    assert!(after.snapshot >= before.snapshot, "the snapshot went back: {before:?}, {after:?}");
    assert!(after.start >= before.start, "the log's start went back: {before:?}, {after:?}");
    // What was committed is still the same entry, as far as one can still see it (I9).
    if let Some(id) = core.log.id_at(before.commit.index) {
        assert!(id == before.commit, "committed {} became {id}", before.commit);
    }
    if after.epoch == before.epoch {
        assert!(after.entered_at == before.entered_at, "an epoch was entered twice: {before:?}, {after:?}");
        assert!(after.orders == before.orders, "who orders changed inside an epoch: {before:?}, {after:?}");
        // I4
        if before.orders {
            assert!(after.last.index >= before.last.index, "a first's log shrank: {before:?}, {after:?}");
            let kept = before.last.index < after.start || core.log.has(before.last);
            assert!(kept, "a first rewrote its log: {before:?}, {after:?}");
        }
    }
}
