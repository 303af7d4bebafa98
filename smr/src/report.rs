//! Lines for a person, on stderr. They go through [`crate::log_sink`], so that a replica never waits for who reads
//! them.

use std::time::SystemTime;

use crate::id::{GroupName, NodeName};
use crate::log_sink;

/// Seconds and milliseconds since 1970, UTC.
pub fn timestamp() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}", since.as_secs(), since.subsec_millis())
}

/// Who speaks: `s0.2` for replica 2 of group `s0`.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    who: String,
}

impl Reporter {
    /// The reporter of one replica.
    pub(crate) fn new(group: &GroupName, name: NodeName) -> Reporter {
        Reporter { who: format!("{group}.{name}") }
    }

    /// One line.
    pub(crate) fn line(&self, text: &str) {
        log_sink::line(format!("[{}] {}: {text}", timestamp(), self.who));
    }

    /// Who speaks.
    pub(crate) fn who(&self) -> &str {
        &self.who
    }
}
