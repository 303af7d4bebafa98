//! A client's log: a line `<Vote ID> <Yes> <No>` for each result, in order, without a gap and without a repeat.
//!
//! The file is all that a client remembers: where it goes on is after the last whole line. A line that a crash cut off
//! is dropped; its result comes again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::words::Tally;

/// An open log. No other process writes to it meanwhile.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: PathBuf,
    /// The vote id of the last line; 0 for none.
    last: u64,
    /// Whether something could not be appended: it may have been written in part, so nothing may follow it.
    has_failed: bool,
}

fn said(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

impl LogFile {
    /// Opens the log, or makes it.
    ///
    /// # Errors
    /// Those of the file system; if another process has it; or if it is no such log. Nothing is changed then.
    pub fn open(path: &Path) -> io::Result<LogFile> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(|error| said(path, error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => said(path, "another client writes to it"),
            TryLockError::Error(error) => said(path, error),
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| said(path, error))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let last = last_of(&text[..whole]).map_err(|error| said(path, error))?;
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        Ok(LogFile { file, path: path.to_path_buf(), last, has_failed: false })
    }

    /// The vote id of the next line.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Appends results, the first of which is the next one.
    ///
    /// # Errors
    /// Those of the file system, and from then on always: the client must end, and the next one finds out how much was
    /// written.
    ///
    /// # Panics
    /// If one is left out, or repeated.
    pub fn append(&mut self, results: &[(u64, Tally)]) -> io::Result<()> {
        if self.has_failed {
            return Err(said(&self.path, "an append has failed before"));
        }
        let mut lines = String::new();
        for (vote, Tally { yes, no }) in results {
            assert_eq!(*vote, self.last + 1, "a gap or a repeat in {}", self.path.display());
            self.last = *vote;
            lines.push_str(&format!("{vote} {yes} {no}\n"));
        }
        let written = self.file.write_all(lines.as_bytes());
        self.has_failed = written.is_err();
        written.map_err(|error| said(&self.path, error))
    }
}

/// The last vote id of whole lines.
fn last_of(text: &str) -> Result<u64, String> {
    let mut last = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let is_count = |word: &&str| word.parse::<u32>().is_ok();
        let vote = match words[..] {
            [vote, yes, no] if is_count(&yes) && is_count(&no) => vote.parse::<u64>().ok(),
            _ => None,
        };
        if vote != Some(last + 1) {
            let expected = last + 1;
            return Err(format!("line {expected} is {line:?}, and not the result of vote {expected}"));
        }
        last += 1;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tally(yes: u32, no: u32) -> Tally {
        Tally { yes, no }
    }

    #[test]
    fn log_goes_on_after_its_last_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        assert_eq!(log.next(), 1);
        log.append(&[(1, tally(3, 2)), (2, tally(0, 0))]).unwrap();
        assert!(LogFile::open(&path).unwrap_err().to_string().contains("another client writes to it"));
        drop(log);
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(whole, "1 3 2\n2 0 0\n");
        for cut in 1..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = LogFile::open(&path).unwrap();
            // Each line has six bytes.
            let expected = cut as u64 / 6 + 1;
            assert_eq!(log.next(), expected, "cut at {cut}");
            let rest = [(1, tally(3, 2)), (2, tally(0, 0))].into_iter().filter(|(vote, _)| *vote >= expected);
            log.append(&rest.collect::<Vec<_>>()).unwrap();
            drop(log);
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn file_that_is_no_such_log_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for text in ["1 2\n", "2 1 1\n", "1 1 1\n1 1 1\n", "1 1 1\n3 1 1\n", "1 -1 2\n", "1  1 1\n", "dear diary\nx"] {
            fs::write(&path, text).unwrap();
            let error = LogFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("and not the result of vote"), "{text:?}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn nothing_is_appended_after_what_could_not_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        let writable = std::mem::replace(&mut log.file, File::open(&path).unwrap());
        assert!(log.append(&[(1, tally(1, 1))]).is_err(), "it was opened for reading alone");
        log.file = writable;
        for results in [&[(2, tally(1, 1))][..], &[]] {
            let error = log.append(results).unwrap_err().to_string();
            assert!(error.contains("an append has failed before"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    #[should_panic(expected = "a gap or a repeat")]
    fn gap_is_never_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&directory.path().join("log")).unwrap();
        let _ = log.append(&[(2, tally(1, 1))]);
    }
}
