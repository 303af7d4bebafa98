//! The file `starts`: the newest start of each other node that this one has met.
//!
//! Whoever comes back with an older start, or with another one of the same number, comes from a directory that was set
//! back or copied: it has forgotten what it voted and acknowledged since, and is told so instead of being listened to.
//! What is written here is durable before a connection counts; only news are written, so a connection like the one
//! before it costs nothing.
//!
//! The file has room for [`STARTS_MAX`] nodes. When it is full, the node goes that was news the longest ago, of those
//! whose replica has a newer one: a replica is never forgotten.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::StorageError;
use super::disk::Disk;
use super::open_error::OpenError;
use super::slots::{self, Found, SLOT_VERSION, Slots};
use crate::codec;
use crate::id::{Disqualified, NodeId, StartId, StartTrail};

pub(crate) const STARTS: &str = "starts";
const MAGIC: [u8; 8] = *b"SMRSTART";
/// How many nodes are remembered. A group has nine replicas at most, and an incarnation of a replica follows another
/// one rarely.
pub const STARTS_MAX: usize = 16;
/// What one of them takes, in bytes, with the length of the list on top.
const STARTED_BYTES: usize = 26;
const _: () = assert!(8 + STARTS_MAX * STARTED_BYTES <= slots::CONTENT_MAX_BYTES);

/// The newest starts of other nodes. Shared by whoever makes connections.
pub struct SeenStarts {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// `None` until there is something to write.
    slots: Option<Slots>,
    /// The latest news last.
    seen: Vec<(NodeId, StartId)>,
    failed: Option<StorageError>,
}

impl SeenStarts {
    pub(crate) fn open(disk: &Arc<dyn Disk>, root: &Path, notes: &mut Vec<String>) -> Result<SeenStarts, OpenError> {
        let path = root.join(STARTS);
        let found = slots::read(disk.as_ref(), &path, MAGIC);
        let found = found.map_err(|error| StorageError::new(&path, "reading", error))?;
        let (mut slots, mut seen) = (None, Vec::new());
        let broken = match found {
            Found::Missing => None,
            Found::Newer { found } => return Err(OpenError::Newer { file: path, found, supported: SLOT_VERSION }),
            Found::Broken(damage) => Some(damage.to_string()),
            Found::Sound { slots: file, content, .. } => match codec::decode(&content) {
                Ok(decoded) => {
                    (slots, seen) = (Some(file), decoded);
                    None
                }
                Err(error) => Some(format!("{}: {error}", path.display())),
            },
        };
        // It holds nothing that this node is bound by, and others remember, too.
        notes.extend(broken.map(|what| format!("{what}; the starts of others are learnt again")));
        Ok(SeenStarts { disk: Arc::clone(disk), path, state: Mutex::new(State { slots, seen, failed: None }) })
    }

    /// A node shows itself with this start. When this returns, the start is remembered durably, or refused. May wait
    /// for the disk.
    ///
    /// # Errors
    /// Fatal ones of the device.
    pub fn admit(&self, node: NodeId, start: StartTrail) -> Result<Result<(), Disqualified>, StorageError> {
        let mut state = self.state.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let newest = state.seen.iter().find(|(other, _)| *other == node).map(|(_, newest)| *newest);
        match newest.map_or(Ok(true), |newest| start.judge(newest)) {
            Err(why) => return Ok(Err(why)),
            Ok(false) => return Ok(Ok(())),
            Ok(true) => {}
        }
        state.seen.retain(|(other, _)| *other != node);
        state.seen.push((node, start.id));
        make_room(&mut state.seen);
        let content = codec::encode(&state.seen);
        let written = match &mut state.slots {
            Some(slots) => slots.write_both(&content),
            None => Slots::create(self.disk.as_ref(), &self.path, MAGIC, &content).map(|slots| {
                state.slots = Some(slots);
            }),
        };
        if let Err(error) = written {
            state.failed = Some(error.clone());
            return Err(error);
        }
        Ok(Ok(()))
    }

    /// The newest start of a node that was seen.
    pub fn newest(&self, node: NodeId) -> Option<StartId> {
        let state = self.state.lock();
        state.seen.iter().find(|(other, _)| *other == node).map(|(_, newest)| *newest)
    }
}

impl fmt::Debug for SeenStarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

fn make_room(seen: &mut Vec<(NodeId, StartId)>) {
    while seen.len() > STARTS_MAX {
        let has_newer = |at: usize| seen[at + 1..].iter().any(|(other, _)| other.name == seen[at].0.name);
        // Without one there are more replicas than a group has.
        let goes = (0..seen.len()).find(|at| has_newer(*at)).unwrap_or(0);
        seen.remove(goes);
    }
}
