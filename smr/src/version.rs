//! Which versions two sides share.
//!
//! Each side of a handshake says from which version to which it speaks, and both use the highest that they have in
//! common. A release speaks its own version and that of the release before it, so that a cluster is upgraded replica by
//! replica. What is replicated has versions of its own ([`CommandVersions`]): a command of a newer one is proposed only
//! once every member of the group applies it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// All versions from the oldest to the newest that one side speaks, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    oldest: u16,
    newest: u16,
}

impl VersionRange {
    /// The versions from `oldest` to `newest`.
    ///
    /// # Panics
    /// If `oldest` is above `newest`; what comes from outside goes through [`VersionRange::checked`].
    pub const fn new(oldest: u16, newest: u16) -> VersionRange {
        assert!(oldest <= newest, "a range of versions ends before it begins");
        VersionRange { oldest, newest }
    }

    /// The versions from `oldest` to `newest`, as someone else says; `None` if that makes no sense.
    pub const fn checked(oldest: u16, newest: u16) -> Option<VersionRange> {
        if oldest <= newest { Some(VersionRange { oldest, newest }) } else { None }
    }

    /// The oldest version.
    pub const fn oldest(self) -> u16 {
        self.oldest
    }

    /// The newest version.
    pub const fn newest(self) -> u16 {
        self.newest
    }

    /// Whether this version is one of them.
    pub const fn contains(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The highest version of both ranges, if there is any.
    pub fn common(self, other: VersionRange) -> Option<u16> {
        let highest = self.newest.min(other.newest);
        (self.contains(highest) && other.contains(highest)).then_some(highest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.newest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

/// The newest kinds of replicated commands that a build applies. It applies all older ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandVersions {
    /// Entries and commands of this library.
    pub library: u16,
    /// Commands of the state machine.
    pub machine: u16,
}

impl CommandVersions {
    /// What is known of a build whose handshake does not say it.
    pub const FIRST: CommandVersions = CommandVersions { library: 1, machine: 1 };
    /// The newest kinds of entries and commands that this library applies. Raise it with each new kind. 2: addresses of
    /// replicas.
    pub const LIBRARY: u16 = 2;

    /// What a replica applies whose state machine applies commands up to this version.
    pub const fn with_machine(machine: u16) -> CommandVersions {
        CommandVersions { library: CommandVersions::LIBRARY, machine }
    }
}

/// The versions of the bytes that a state's image is written in. Raise one when its bytes change: replicas compare
/// hashes of their images, and hashes of different versions are not compared. A sound replica of another build would be
/// taken for the odd one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVersions {
    /// Configuration and session table.
    pub library: u16,
    /// The state machine.
    pub machine: u16,
}

impl ImageVersions {
    /// What a hash is of that does not say it.
    pub const FIRST: ImageVersions = ImageVersions { library: 1, machine: 1 };
    /// What this library writes.
    pub const LIBRARY: u16 = 1;

    /// What a group with a state machine of this version writes.
    pub const fn with_machine(machine: u16) -> ImageVersions {
        ImageVersions { library: ImageVersions::LIBRARY, machine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_version_is_the_highest_of_both_or_none() {
        let range = VersionRange::new;
        let cases = [
            (range(5, 6), range(5, 6), Some(6)),
            (range(5, 6), range(5, 5), Some(5)),
            (range(5, 6), range(6, 7), Some(6)),
            (range(5, 6), range(1, 9), Some(6)),
            (range(5, 6), range(7, 8), None),
            (range(5, 6), range(1, 4), None),
        ];
        for (one, other, expected) in cases {
            assert_eq!(one.common(other), expected, "{one} and {other}");
            assert_eq!(other.common(one), expected, "{other} and {one}");
        }
    }

    #[test]
    fn range_that_ends_before_it_begins_is_none() {
        assert_eq!(VersionRange::checked(7, 6), None);
        assert_eq!(VersionRange::checked(6, 6), Some(VersionRange::new(6, 6)));
    }
}
