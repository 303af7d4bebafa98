//! Golden scripts of the configured core: each file under `tests/configured_scripts` tells a story about one rule, as
//! commands with the full trace of what they caused below them. The trace is compared with what happens now; all
//! invariants are checked after each step.
//!
//! `UPDATE_GOLDEN=1 cargo test -p smr --test configured_scripts` writes the traces again. Read a changed trace before
//! you keep it.
//!
//! # Format
//! As in `raft_scripts.rs`: lines that start with `#` are the story, with `>` commands; everything else is trace. An
//! entry `3.e2` is the one at index 3 of epoch 2. The commands:
//! ```text
//! group KIND A B C [key=value ...]  a service whose first epoch has these members, and their empty disks; settings are
//!                                   fields of `Settings`; rate=1000,1001 are what their clocks count in a millisecond
//! begin                             everyone is told of the present epoch; settle
//! node D [epoch=1] [log=1,1,2]      start a node from a disk: entry epochs from 1 on
//! epoch B C D                       the service decides: these members, in this order; no one is told
//! tell A [e1] | tell all            the service's decision reaches a node (the present one, if none is named)
//! grant A | hand A                  the service answers the lease that A asked for last | the answer reaches A
//! failover                          another one leads the service
//! join A D | join A none            the service wants A to bring D up to date
//! connect A B                       A sees a connection from B, and did not see the end of the one before
//! propose A x y | read A | route A  route: who takes what, as A sees it
//! detection A 300                   A goes by another detection from now on, in milliseconds
//! fit A epoch=2 base=1.e1 end=3.e1 applied=1.e1     what A does with such a checkpoint
//! tick, wait, run, settle, snapshot, disconnect, deliver, drop, copy, delay, arrive, cut, isolate, heal, sync, slow,
//! fast, crash, restart, state, quiet, panics        as in `raft_scripts.rs`
//! carry A D [fails] [again]         the snapshot that A was asked for arrives at D, or does not; or once more
//! setback A keep=2                  the disk of a node that is down holds what an old copy of it would
//! inject A -> B e3 Kind [args] [with=chain:A,B]     a message out of nowhere
//! ```

mod configured_cluster;
mod configured_script;
mod core_cluster;
mod golden;

use golden::files::{assert_same_traces, assert_stories_name, scripts};

/// Where they are, and how many there are at least.
const FOLDER: (&str, usize) = ("configured_scripts", 60);

#[test]
fn scripts_replayed_give_the_same_traces() {
    assert_same_traces(&scripts(FOLDER.0, FOLDER.1), configured_script::script);
}

#[test]
fn scripts_name_their_case() {
    assert_stories_name(&scripts(FOLDER.0, FOLDER.1), &["covers "]);
}
