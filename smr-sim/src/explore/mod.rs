//! Bounded exhaustive exploration of the real Raft core: *every* order of events, up to named bounds.
//!
//! A simulator samples long histories; this looks at all short ones. Three nodes, each the production
//! [`smr::internals::raft`] core with a disk, start as founding members and then anything may happen in any order: a
//! message arrives, gets lost or arrives twice, a write completes, a node crashes and comes back with any part of what
//! it had not synced, a timer fires, a client proposes. Breadth first, so the history that breaks an invariant is a
//! shortest one.
//!
//! # What is checked
//! | | in each state or step |
//! |---|---|
//! | I1 | a term has one leader, over the whole history |
//! | I2 | the hard state on disk is never taken back; no vote leaves before it is there (which together are I2) |
//! | I3, I4, I10 | [`smr::internals::raft::invariants`], before and after each step |
//! | I5 | all logs, in memory and on disk, match pairwise, payloads included |
//! | I6 | a leader has everything that was committed in an earlier term |
//! | I7, I9 | no one commits another entry where one was committed, nor leaves a gap |
//! | I8 | what was committed is on a majority of disks, then and ever after |
//! | I11 | whatever leaves a node rests on what is on its disk at that moment |
//!
//! Any assertion of the core counts too, and so does a message that the core calls a violation: no one lies here.
//!
//! # What a state is
//! Time and chance are no part of it ([`smr::internals::raft`]): before each event all timers are due and every
//! leader was heard long ago. This is sound: each moment that is left out differs from one that is explored only in
//! that someone *refuses* by the clock. A voter that heard its leader within T ignores the candidate (E12), which is
//! what the loss of the question does; a node whose timer is not due does nothing; one whose disk is slow does not
//! campaign. A leader's timer has both outcomes, with followers heard and unheard. The connection that breaks
//! ([`smr::internals::protocol::Input::Disconnected`]) only makes timers due.
//!
//! States that differ only by an exchange of the nodes' names are one. No rule of the core that can be met here depends
//! on the order of names.
//!
//! What a node does in a situation depends on the node alone. So each different node (core, disk and writes under way)
//! has a number, found by a 128-bit hash, and each (node, event) is computed once, by the real core. A state of the
//! group is then eight numbers, and they are kept and compared as they are: no two states are ever mistaken for each
//! other unless two *nodes* share 128 bits.
//!
//! # Reductions
//! - A message that is lost is one that never arrives. Without [`Bounds::messages`] the wire takes any number of
//!   messages, each may arrive as often as it likes, and nothing is ever dropped. With it, every choice is tried of
//!   what is lost when the wire is full.
//! - A message that can never have an effect again (`Tables::is_dead`) is taken off the wire; [`Bounds::keep_dead`]
//!   leaves it there, for who mistrusts this: a core that counts what it should ignore would hide behind it.
//! - On the unlimited wire, the heartbeats that a leader would send are there at once. Without [`Bounds::reminders`]
//!   its timer repeats no appends: nothing is lost that would need it. (Probes without entries are then left out,
//!   besides a new leader's.) One thing is: a probe repeated later can tell a follower that lacks entries of a later
//!   commit index.
//! - On the unlimited wire, once no one can crash any more, all but leaders complete their writes at once: later is a
//!   slow network.
//! - An answer that only waits its turn after a write leaves with that write.
//! - A process that is down and one whose messages do not arrive are the same; so a crash and the restart are one
//!   event.
//! - Equal messages on the wire are one. A second copy is a duplicate ([`Bounds::duplicates`]).
//! - Pre-votes bind no one. By default they are abstract: who times out either hears from some voter that it would win,
//!   which is more than can happen, or that someone is in a later term. [`Bounds::abstract_pre_vote`] `= false` sends
//!   the messages.
//!
//! `soundness` compares, at small bounds, what can be reached with and without each of these.
//!
//! # Directed starts
//! Some histories that the paper warns of are longer than any bound that can be completed from the beginning.
//! [`Bounds::from`] is the first part of one, written down ([`FIGURE_8`]); each of its steps must be one that the
//! explorer itself offers, and from where it ends everything is explored. This says nothing about histories that begin
//! otherwise.
//!
//! # Left out
//! Reads, snapshots, changes of members, transfers of leadership (so `TimeoutNow`, and the leader whose disk hangs),
//! more than one append in flight, more than one command in a proposal, lying and forgetful disks. The simulator and
//! the golden scripts have those.

mod group;
mod local;
mod log_text;
mod script;
mod search;
#[cfg(test)]
mod soundness;
mod tables;
mod telling;

use std::time::Duration;

use smr::id::NodeId;

pub use self::group::Situations;
pub use self::local::LocalEvent;
pub use self::script::{FIGURE_8, named};
pub use self::search::{Progress, Report, Violation, explore};

/// The nodes of the group.
pub const NODES: usize = 3;

type Permutation = [u8; NODES];

/// All exchanges of names, that of no one first.
const PERMUTATIONS: [Permutation; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// How far an exploration goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Terms with elections. (The group is founded in another one.)
    pub terms: u8,
    /// Commands that clients propose, in all. Besides these each leader appends an entry of its own.
    pub entries: u8,
    /// Crashes of nodes in all; each may happen between any two steps.
    pub crashes: u8,
    /// Messages on the wire at once. `None`: no limit, and every message may arrive as often as it likes.
    pub messages: Option<u8>,
    /// With a limit, messages that are delivered and yet stay on the wire, in all.
    pub duplicates: u8,
    /// Without a limit on messages: whether leaders also repeat, as probes without entries, what was not answered in
    /// time.
    pub reminders: bool,
    /// See the module.
    pub abstract_pre_vote: bool,
    /// See the module.
    pub keep_dead: bool,
    /// Whether states that differ only by the nodes' names are one.
    pub symmetry: bool,
    /// Whether writes that may as well be complete are; see the module.
    pub sync_early: bool,
    /// A history to begin with, see `script`; empty: begin at the beginning. Only what can come after it is explored.
    pub from: String,
    /// Memory at most, in bytes, of the whole process where the system tells it (Linux), else of the states alone.
    pub memory_bytes: usize,
    /// Time at most.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            terms: 2,
            entries: 1,
            crashes: 1,
            messages: None,
            duplicates: 0,
            reminders: false,
            abstract_pre_vote: true,
            keep_dead: false,
            symmetry: true,
            sync_early: true,
            from: String::new(),
            memory_bytes: 4 << 30,
            time: Duration::from_secs(60),
        }
    }
}

fn node(replica: u8) -> NodeId {
    NodeId::new(u16::from(replica), 1)
}

/// `A` for replica 0.
fn letter(node: NodeId) -> char {
    char::from(b'A'.wrapping_add(node.name.0 as u8))
}
