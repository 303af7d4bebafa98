//! Why a directory cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::identity::{ExpectedIdentity, Identity};
use super::log_engine::LogEngine;
use super::{Damage, LoadError, StorageError};
use crate::epoch::GroupKind;

/// Why a directory was refused. It is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open, or is stopped with it open.
    #[error("{}: in use by another process", .directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// It belongs to someone else.
    #[error(
        "{}: belongs to {found}, this process is node {} of group {}{}",
        .directory.display(), .expected.name, .expected.group,
        .expected.cluster.map_or(String::new(), |cluster| format!(" of cluster {cluster}"))
    )]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// Its owner.
        found: Identity,
        /// The replica that this process was started for.
        expected: Box<ExpectedIdentity>,
    },
    /// A newer build wrote it.
    #[error("{}: format version {found} is newer than this build's {supported}", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version that this build reads.
        supported: u16,
    },
    /// Another engine has written its log.
    #[error(
        "{}: its log was written by the log engine {found}; --log_engine {asked} cannot read it",
        .directory.display()
    )]
    OtherEngine {
        /// The directory.
        directory: PathBuf,
        /// Whose files are there.
        found: LogEngine,
        /// The one that it was to be opened with.
        asked: LogEngine,
    },
    /// It is of a group of another kind.
    #[error(
        "{}: holds a replica of a group of kind {found}, this process serves one of kind {asked}",
        .directory.display()
    )]
    OtherKind {
        /// The directory.
        directory: PathBuf,
        /// The kind of its group.
        found: GroupKind,
        /// The kind that it was to be opened for.
        asked: GroupKind,
    },
    /// What is written there may be lost with the power, and no one allowed that.
    #[error("{}: power loss would lose acknowledged data here: {why}", .directory.display())]
    NotDurable {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        why: String,
    },
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] StorageError),
}

/// Why a log could not be opened, sorted by what has to happen next.
pub(crate) enum Trouble {
    Quarantine(Damage),
    Refuse(OpenError),
}

impl Trouble {
    pub(crate) fn io(file: &Path, doing: &'static str, error: io::Error) -> Trouble {
        StorageError::new(file, doing, error).into()
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Trouble {
        Trouble::Refuse(error.into())
    }
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Quarantine(damage)
    }
}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Trouble {
        match error {
            LoadError::Storage(error) => error.into(),
            LoadError::Damage(damage) => damage.into(),
            LoadError::Newer { file, found, supported } => Trouble::Refuse(OpenError::Newer { file, found, supported }),
        }
    }
}
