//! What agents have said so far. Their logs grow all the time, so each line is read once.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The log of each host's agent, in their order.
pub(super) struct AgentLogs(Vec<AgentLog>);

/// What an agent has said of its replicas.
#[derive(Default)]
pub(super) struct AgentLog {
    path: PathBuf,
    read_bytes: u64,
    /// The beginning of a line that is being written.
    rest: String,
    /// How often it has added a replica.
    pub(super) added: usize,
    /// How often it has deleted one.
    pub(super) deleted: usize,
    /// How often it was given reason to.
    pub(super) deletions_expected: usize,
}

impl AgentLogs {
    /// Those at these places.
    pub(super) fn at(paths: impl Iterator<Item = PathBuf>) -> AgentLogs {
        AgentLogs(paths.map(|path| AgentLog { path, ..AgentLog::default() }).collect())
    }

    /// The log of a host's agent, with what is new in it.
    pub(super) fn of(&mut self, host: u16) -> io::Result<&mut AgentLog> {
        let log = &mut self.0[usize::from(host)];
        log.read()?;
        Ok(log)
    }

    /// Nothing but what was hurt was taken for dead or hung.
    pub(super) fn no_false_alarm(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for (host, log) in (1..).zip(&mut self.0) {
            log.read()?;
            let (said, expected) = (log.deleted, log.deletions_expected);
            if said != expected {
                return Err(format!("LFD{host} deleted replicas {said} times, after {expected} faults").into());
            }
        }
        Ok(())
    }
}

impl AgentLog {
    fn read(&mut self) -> io::Result<()> {
        let mut file = File::open::<&Path>(&self.path)?;
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut bytes = Vec::new();
        self.read_bytes += file.read_to_end(&mut bytes)? as u64;
        self.take(&String::from_utf8_lossy(&bytes));
        Ok(())
    }

    fn take(&mut self, text: &str) {
        self.rest.push_str(text);
        let Some(end) = self.rest.rfind('\n') else { return };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        self.added += lines.matches("add replica").count();
        self.deleted += lines.matches("delete replica").count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_counts_once_however_it_comes() {
        let mut log = AgentLog::default();
        for piece in ["LFD1: add replica S1\nLFD1: del", "ete replica S1\n", "", "LFD1: add replica S1", "\n"] {
            log.take(piece);
        }
        assert_eq!((log.added, log.deleted, log.rest.as_str()), (2, 1, ""));
    }
}
