//! The engines that can keep a log, and their names.

use std::fmt;
use std::str::FromStr;

use super::MapEngine;

/// What keeps the log's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogEngine {
    /// sled, in a directory of the operating system. Sets the file attribute `S` (`chattr +S`) on it, so that its
    /// writes are synced.
    #[cfg_attr(feature = "sled", default)]
    Sled,
    /// Segment files of our own, on any disk.
    #[cfg_attr(not(feature = "sled"), default)]
    Segments,
    /// The same records as in sled, in an ordered map of someone else's. For tests and simulations.
    Map(&'static dyn MapEngine),
}

impl fmt::Display for LogEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogEngine::Sled => "sled",
            LogEngine::Segments => "segments",
            LogEngine::Map(map) => map.name(),
        })
    }
}

/// A word that names no engine that an operator can choose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sled and segments are possible")]
pub struct NoSuchEngine;

impl FromStr for LogEngine {
    type Err = NoSuchEngine;

    fn from_str(name: &str) -> Result<LogEngine, NoSuchEngine> {
        [LogEngine::Sled, LogEngine::Segments].into_iter().find(|engine| engine.to_string() == name).ok_or(NoSuchEngine)
    }
}
