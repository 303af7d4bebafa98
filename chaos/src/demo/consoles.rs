//! What consoles say from some moment on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use madkv_testkit::cluster::Node;
use madkv_testkit::wait::wait_for;

use super::stage::{Outcome, Stage, TIMEOUT, claim, show_line};

/// Microseconds of a day.
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Whose console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    Node(Node),
    /// The client with this number.
    Client(u32),
}

/// Where all consoles ended at some moment.
#[derive(Debug)]
pub(super) struct Moment(BTreeMap<PathBuf, u64>);

impl Moment {
    fn end_of(&self, path: &Path) -> u64 {
        // A console that there was not yet begins after it.
        self.0.get(path).copied().unwrap_or_default()
    }
}

impl Stage {
    /// This moment.
    pub(super) fn moment(&self) -> Outcome<Moment> {
        let mut ends = BTreeMap::new();
        for entry in fs::read_dir(self.directory())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let end = fs::metadata(&path)?.len();
                ends.insert(path, end);
            }
        }
        Ok(Moment(ends))
    }

    fn file_of(&self, console: Console) -> PathBuf {
        let name = match console {
            Console::Node(node) => format!("{node}.log"),
            Console::Client(number) => format!("C{number}.log"),
        };
        self.directory().join(name)
    }

    fn owner_of(&self, console: Console) -> String {
        match console {
            Console::Node(node) => self.console_name(node),
            Console::Client(number) => format!("C{number}"),
        }
    }

    /// What a console has said since.
    pub(super) fn lines_since(&self, since: &Moment, console: Console) -> Vec<String> {
        let path = self.file_of(console);
        lines_from(&path, since.end_of(&path)).0
    }

    /// Shows a line of a console.
    pub(super) fn show(&self, console: Console, line: &str) {
        show_line(&self.owner_of(console), line);
    }

    /// Waits until a console has said a line of this kind since, and shows it.
    pub(super) fn says_since(
        &self,
        since: &Moment,
        console: Console,
        wanted: impl Fn(&str) -> bool,
    ) -> Outcome<String> {
        let path = self.file_of(console);
        let mut at = since.end_of(&path);
        let line = wait_for(TIMEOUT, &format!("a line on the console of {}", self.owner_of(console)), || {
            let (lines, end) = lines_from(&path, at);
            at = end;
            lines.into_iter().find(|line| wanted(line))
        })?;
        self.show(console, &line);
        Ok(line)
    }

    /// Claims that a console has said no line of this kind since.
    pub(super) fn has_not_said(
        &self,
        since: &Moment,
        console: Console,
        unwanted: impl Fn(&str) -> bool,
    ) -> Outcome<()> {
        let line = self.lines_since(since, console).into_iter().find(|line| unwanted(line));
        claim(line.is_none(), || format!("the console of {} has: {}", self.owner_of(console), line.unwrap_or_default()))
    }
}

/// The whole lines of a file from a place on, and where they end.
fn lines_from(path: &Path, from: u64) -> (Vec<String>, u64) {
    let mut bytes = Vec::new();
    // A console that there is not yet has said nothing.
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut bytes)
    });
    let whole = read.ok().and_then(|_| bytes.iter().rposition(|&byte| byte == b'\n')).map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]);
    (text.lines().map(str::to_owned).collect(), from + whole as u64)
}

/// The time of the day of a line, in microseconds: `[2026-01-31T12:34:56.789012Z] ...`.
fn micros_of(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let (clock, fraction) = time.split_once('.')?;
    let seconds = clock.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    Some(seconds * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// The average time from one of these lines to the next, in milliseconds.
pub(super) fn average_ms(lines: &[String]) -> Outcome<u64> {
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Err("no lines".into()) };
    let (Some(from), Some(to)) = (micros_of(first), micros_of(last)) else {
        return Err("a line without a time".into());
    };
    // It may be midnight in between.
    let micros = (to + DAY_US - from) % DAY_US;
    Ok(micros / 1000 / (lines.len() as u64 - 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_ones_from_the_place_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(lines_from(&path, 0), (Vec::new(), 0));
        fs::write(&path, "one\ntwo\nthr").unwrap();
        assert_eq!(lines_from(&path, 0), (vec!["one".to_owned(), "two".to_owned()], 8));
        assert_eq!(lines_from(&path, 8), (Vec::new(), 8));
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(lines_from(&path, 8), (vec!["three".to_owned()], 14));
    }

    #[test]
    fn average_is_of_the_times_of_lines_over_midnight_too() {
        let lines = |times: &[&str]| -> Vec<String> {
            times.iter().map(|time| format!("[2026-01-31T{time}Z] [7] LFD1 sending heartbeat to S1")).collect()
        };
        assert_eq!(average_ms(&lines(&["12:34:56.100000", "12:34:56.300000", "12:34:57.100000"])).unwrap(), 500);
        assert_eq!(average_ms(&lines(&["23:59:59.900000", "00:00:00.100000"])).unwrap(), 200);
        assert!(average_ms(&[]).is_err() && average_ms(&["no time".to_owned()]).is_err());
    }
}
