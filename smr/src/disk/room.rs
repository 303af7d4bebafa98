//! How much room a disk has left, and when that is too little.
//!
//! A replica must stop when its log cannot grow any more. Before it comes to that, while there is room for a while yet,
//! a leader takes only what makes the state smaller, and a snapshot leaves the log its room: so a group whose disks run
//! full can still be emptied by its clients (fault catalogue D7).

use std::io;
use std::path::Path;

use super::Disk;

/// With less room a disk counts as full, in bytes; on a small one it is [`LOW_SHARE`] of it. A busy leader writes this
/// much in about a second.
const LOW_BYTES: u64 = 64 << 20;
/// The same as a share of the whole disk: one in this many bytes.
const LOW_SHARE: u64 = 8;
/// A disk that was full is no longer when it has this many quarters of that room: otherwise it would change with each
/// segment.
const AGAIN_QUARTERS: u64 = 5;
/// A snapshot leaves the log one in this many bytes of that room.
const SNAPSHOT_LEAVES_SHARE: u64 = 4;

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What may still be written.
    pub free: u64,
    /// The whole disk.
    pub total: u64,
}

impl Room {
    /// Without bound.
    pub const ENDLESS: Room = Room { free: u64::MAX, total: u64::MAX };

    fn low(self) -> u64 {
        (self.total / LOW_SHARE).min(LOW_BYTES)
    }

    /// Whether a snapshot may go on being written.
    pub(crate) fn suffices_for_snapshot(self) -> bool {
        self.free >= self.low() / SNAPSHOT_LEAVES_SHARE
    }
}

/// Whether a disk counts as full, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct RoomWatch {
    is_full: bool,
}

impl RoomWatch {
    /// Looks at the disk of `directory`; `Some` if it has become full (true), or has room again.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn look(&mut self, disk: &dyn Disk, directory: &Path) -> io::Result<Option<bool>> {
        Ok(self.judge(disk.room(directory)?))
    }

    fn judge(&mut self, room: Room) -> Option<bool> {
        let is_full = room.free < if self.is_full { room.low() / 4 * AGAIN_QUARTERS } else { room.low() };
        (std::mem::replace(&mut self.is_full, is_full) != is_full).then_some(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    // covers D31
    #[test]
    fn disk_is_full_below_its_low_mark_until_it_has_a_quarter_more() {
        let mut watch = RoomWatch::default();
        let mut judge = |free| watch.judge(Room { free, total: 100 << 30 });
        assert_eq!(judge(64 * MIB), None);
        assert_eq!(judge(64 * MIB - 1), Some(true));
        assert_eq!(judge(80 * MIB - 1), None);
        assert_eq!(judge(80 * MIB), Some(false));
        assert_eq!(judge(64 * MIB), None);
    }

    #[test]
    fn small_disk_has_a_low_mark_of_its_own() {
        let mut watch = RoomWatch::default();
        assert_eq!(watch.judge(Room { free: 8 * MIB, total: 64 * MIB }), None);
        assert_eq!(watch.judge(Room { free: 8 * MIB - 1, total: 64 * MIB }), Some(true));
    }

    #[test]
    fn snapshot_leaves_room_for_the_log() {
        assert!(Room { free: 16 * MIB, total: 100 << 30 }.suffices_for_snapshot());
        assert!(!Room { free: 16 * MIB - 1, total: 100 << 30 }.suffices_for_snapshot());
        assert!(Room::ENDLESS.suffices_for_snapshot());
    }
}
