//! What a replica tells a person: one line at a time, through a sink of the host's.

use std::fmt;
use std::sync::Arc;

use crate::id::{GroupName, ReplicaId};

/// Takes lines for a person. Called by the replica's threads: it never blocks, for a replica that waits for whoever
/// reads its lines is hung.
pub trait ReportSink: Send + Sync + 'static {
    /// Takes one line. `who` speaks: `s0.2` for replica 2 of group `s0`.
    fn line(&self, who: &str, text: &str);
}

/// Makes an event of [`tracing`] of each line, at the level `INFO`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingReports;

impl ReportSink for TracingReports {
    fn line(&self, who: &str, text: &str) {
        tracing::info!(who, "{text}");
    }
}

/// Tells a sink what one replica says.
#[derive(Clone)]
pub(crate) struct Reporter {
    who: Arc<str>,
    sink: Arc<dyn ReportSink>,
}

impl Reporter {
    /// The reporter of one replica.
    pub(crate) fn new(group: &GroupName, name: ReplicaId, sink: Arc<dyn ReportSink>) -> Reporter {
        Reporter { who: format!("{group}.{name}").into(), sink }
    }

    /// One line.
    pub(crate) fn line(&self, text: &str) {
        self.sink.line(&self.who, text);
    }

    /// Who speaks.
    pub(crate) fn who(&self) -> &str {
        &self.who
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}
