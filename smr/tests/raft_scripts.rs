//! Golden scripts: each file under `tests/scripts` tells a story about one rule, as commands with the full trace of
//! what they caused below them. The trace is compared with what happens now; all invariants are checked after each
//! step.
//!
//! `UPDATE_GOLDEN=1 cargo test -p smr --test raft_scripts` writes the traces again. Read a changed trace before you
//! keep it.
//!
//! # Format
//! Lines that start with `#` are the story, with `>` commands; everything else is trace. The commands (`A` to `H` are
//! nodes, `A/2` is the second incarnation of `A`'s directory):
//! ```text
//! cluster A B C [key=value ...]     found a group; settings are fields of `Settings`
//! node D [term=3] [vote=B] [voters=A,B,C] [log=1,1,2] [snapshot=2.t1] [applied..]
//!                                   start a node from a disk: entry terms from 1 on; entry 1 names the voters
//! tick A ...                        wait until A's timer is due, and let it look at the clock
//! wait 50ms                         time passes, no one looks at the clock
//! run 300ms                         time passes as in real life: timers fire, messages arrive, disks write
//! elect A                           tick A and settle until it leads
//! settle                            deliver all messages, complete all writes, until nothing is left
//! propose A x y | read A | transfer A B | snapshot A | disconnect B A (B sees A's connection close)
//! deliver A B [Kind] | drop A B [Kind] | copy A B [Kind] | delay A B [Kind]     messages on the wire; * is anyone
//! arrive                            what was delayed is on the wire again
//! cut A B | cut A -> B | isolate A | heal
//! sync A [count] | slow A | fast A  complete writes by hand; the disk of a slow node writes only by hand
//! crash A [survive=n] | restart A   n writes reached the disk, and no one was told
//! carry A B | fail A B              the snapshot that A was asked for arrives at B, or does not; `carry A B late`
//!                                   keeps a copy: `carry late B`; `carry A B broken`: it arrives, but A hears that it
//!                                   did not
//! change A add D | remove D | replace B by D | voters A,B,C
//! inject A -> B t3 Kind [args]      a message out of nowhere; `current`: an answer to B's pre-votes on the wire
//! state                             everyone's state
//! quiet COMMAND                     do not show how, only the states after it
//! panics COMMAND                    must stop the node; the reason is shown
//! ```
//! Below each command stand its steps and then the states that it changed.

mod core_cluster;
mod golden;
mod raft_cluster;
mod raft_script;

use golden::files::{assert_same_traces, assert_stories_name, scripts};

/// Where they are, and how many there are at least.
const FOLDER: (&str, usize) = ("scripts", 40);

#[test]
fn scripts_replayed_give_the_same_traces() {
    assert_same_traces(&scripts(FOLDER.0, FOLDER.1), raft_script::script);
}

#[test]
fn scripts_name_section_and_case() {
    assert_stories_name(&scripts(FOLDER.0, FOLDER.1), &["§", "covers "]);
}
