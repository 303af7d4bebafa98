//! What a core knows of itself and of its peers, for those who look.

use super::Time;
use crate::entry::{Configuration, EntryId, Index, Term};
use crate::id::NodeId;
use crate::status::{ReadMode, Role};

/// What a core knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreStatus {
    /// The replica and its incarnation.
    pub node: NodeId,
    /// The part that it plays in its group at present.
    pub role: Role,
    /// The latest term or epoch that it has entered.
    pub term: Term,
    /// Whom it follows, or itself.
    pub leader: Option<NodeId>,
    /// The entry that the log starts after (the last one under the snapshot, or cut).
    pub log_start: EntryId,
    /// The last entry.
    pub last: EntryId,
    /// The last entry that it knows to be committed.
    pub commit: Index,
    /// The last entry that has reached its own device.
    pub durable: Index,
    /// The log's size, from the start to the end, by [`Entry::size_bytes`](crate::entry::Entry::size_bytes).
    pub log_bytes: usize,
    /// The configuration in force and the entry that carried it.
    pub configuration: Configuration,
    /// See `configuration`.
    pub configuration_index: Index,
    /// How it confirms reads while it leads.
    pub reads: ReadMode,
    /// For a leader: how far each other member is. Empty otherwise.
    pub peers: Vec<PeerStatus>,
}

/// What a log in memory holds, in bytes of entries ([`Entry::size_bytes`](crate::entry::Entry::size_bytes)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLoad {
    /// After the newest snapshot: what the next one makes dispensable.
    pub new_bytes: usize,
    /// What cannot be removed at present: that, and what is kept for members that are behind.
    pub needed_bytes: usize,
    /// For a leader: the last of the members that are coming back and still work off what they lack.
    pub returning: Option<Returning>,
}

/// A member that is coming back and has to be faster than those who write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returning {
    /// How far it is, in bytes of entries from some fixed point on.
    pub position_bytes: u64,
    /// Since when it has been taking in entries.
    pub since: Time,
}

/// What a leader knows of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member that it is about.
    pub node: NodeId,
    /// The last entry known to be durable there (Raft §5.3, `matchIndex`).
    pub match_index: Index,
    /// When it was last heard from in this term.
    pub heard_at: Option<Time>,
    /// Whether it waits for a snapshot.
    pub needs_snapshot: bool,
    /// Whether its acknowledgements have shown that its disk does not keep up.
    pub disk_is_slow: bool,
}
