//! What clients asked and heard: the history of a run, in memory and as a file that can be checked again later.
//!
//! # The file
//! Text, one line each, in any order between the first and the last:
//!
//! ```text
//! madkv-history 1
//! note seed 17
//! partitions 2
//! initially run7-k3 old
//! 0 1200 450000 PUT run7-k0 c0-1 -> not_found
//! 1 1300 470000 SWAP run7-k0 c1-1 -> value c0-1
//! 0 451000 480000 GET run7-k1 -> absent
//! 2 452000 490000 DELETE run7-k0 -> found
//! 2 491000 520000 SCAN run7-k0 run7-k9 -> records run7-k3 old
//! 3 500000 900000 PUT run7-k2 c3-1 -> not_done
//! 4 500000 - SWAP run7-k2 c4-1 -> unknown
//! end 7
//! ```
//!
//! - An operation's line is: client, call, return, request `->` what became of it. Times are nanoseconds since the
//!   start of the run on one monotonic clock, or any other numbers that grow; an operation that returned at 5 was over
//!   before one that was called at 6, but not before one that was called at 5. `-` is "never returned".
//! - `not_done`: certainly no effect, neither before nor later. `unknown`: it may have taken effect at any time after
//!   its call, or may yet do so, or never will.
//! - `initially` gives the value that a key had before the run; all other keys were absent. `partitions` says over how
//!   many partitions the slots were dealt evenly (without it nothing is known). A `note` is for people.
//! - `end` counts the operations. Operations are written when they end, so a file without this line lacks those that
//!   were under way when the writer died, and cannot be judged.
//! - Keys and values are any bytes: those that are no visible ASCII, and `%`, are written as `%` and two hexadecimal
//!   digits; the empty string is a lone `%`.

use std::fmt;
use std::io::{self, BufRead, Write};

use bytes::Bytes;

/// The first line of a file.
const HEAD: &str = "madkv-history 1";
/// The longest line that is read, in bytes: a SCAN of many long records.
const LINE_MAX_BYTES: usize = 64 << 20;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set a value; was the key there before?
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Set a value; which one was there before?
    Swap {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Which value is there?
    Get {
        /// The key.
        key: Bytes,
    },
    /// Remove a key; was it there?
    Delete {
        /// The key.
        key: Bytes,
    },
    /// All records with `from <= key <= to`.
    Scan {
        /// The first key of the range.
        from: Bytes,
        /// The last key of the range.
        to: Bytes,
    },
}

/// An answer; each kind of request has one kind of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// PUT, DELETE: whether the key was there.
    Found(bool),
    /// SWAP, GET: the value that was there.
    Value(Option<Bytes>),
    /// SCAN: records sorted by key.
    Records(Vec<(Bytes, Bytes)>),
}

/// What became of an operation, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered at `at`.
    Answered {
        /// When, in the history's time.
        at: u64,
        /// With what.
        answer: Answer,
    },
    /// It failed at `at`, and certainly has no effect, now or later.
    NotDone {
        /// When, in the history's time.
        at: u64,
    },
    /// It may have taken effect after its call, may do so at any later time, or never.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which client, by its number in the run.
    pub client: u32,
    /// What it asked for.
    pub action: Action,
    /// When it was called, in the history's time.
    pub call: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// All operations of a run, in no particular order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What each client asked for and heard.
    pub operations: Vec<Operation>,
    /// The keys that were there before the run, with their values.
    pub initially: Vec<(Bytes, Bytes)>,
    /// Over how many partitions the slots were dealt evenly, if that is known.
    pub partitions: Option<u16>,
    /// Remarks for people.
    pub notes: Vec<String>,
}

/// A file that is no history: where, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Action {
    /// The word of the line protocol.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Put { .. } => "PUT",
            Action::Swap { .. } => "SWAP",
            Action::Get { .. } => "GET",
            Action::Delete { .. } => "DELETE",
            Action::Scan { .. } => "SCAN",
        }
    }

    /// Whether it can change anything.
    pub fn is_write(&self) -> bool {
        matches!(self, Action::Put { .. } | Action::Swap { .. } | Action::Delete { .. })
    }

    /// Whether `answer` is of the kind that this request gets.
    pub fn fits(&self, answer: &Answer) -> bool {
        match self {
            Action::Put { .. } | Action::Delete { .. } => matches!(answer, Answer::Found(_)),
            Action::Swap { .. } | Action::Get { .. } => matches!(answer, Answer::Value(_)),
            Action::Scan { .. } => matches!(answer, Answer::Records(_)),
        }
    }
}

impl Operation {
    /// When it returned; `None` if it is not known to have.
    pub fn returned(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Answered { at, .. } | Outcome::NotDone { at } => Some(at),
            Outcome::Unknown => None,
        }
    }

    /// Its answer, if it got one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered { answer, .. } => Some(answer),
            Outcome::NotDone { .. } | Outcome::Unknown => None,
        }
    }
}

/// A byte string as it stands in the file.
struct Word<'a>(&'a [u8]);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("%");
        }
        for &byte in self.0 {
            match byte {
                b'%' => f.write_str("%25")?,
                0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// A byte string as people may read it: as it stands in the file.
pub fn readable(bytes: &[u8]) -> String {
    Word(bytes).to_string()
}

fn word(text: &str) -> Result<Bytes, String> {
    if text == "%" {
        return Ok(Bytes::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8, // two digits: below 256
                    _ => return Err(format!("{text:?}: % needs two hexadecimal digits")),
                }
            }
            0x21..=0x7e => byte,
            _ => return Err(format!("{text:?} is no word of visible ASCII")),
        });
    }
    Ok(Bytes::from(bytes))
}

impl fmt::Display for Operation {
    /// The line of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.client, self.call)?;
        match self.returned() {
            Some(at) => write!(f, "{at} ")?,
            None => f.write_str("- ")?,
        }
        f.write_str(self.action.verb())?;
        match &self.action {
            Action::Put { key, value } | Action::Swap { key, value } => write!(f, " {} {}", Word(key), Word(value))?,
            Action::Get { key } | Action::Delete { key } => write!(f, " {}", Word(key))?,
            Action::Scan { from, to } => write!(f, " {} {}", Word(from), Word(to))?,
        }
        f.write_str(" -> ")?;
        match &self.outcome {
            Outcome::NotDone { .. } => f.write_str("not_done"),
            Outcome::Unknown => f.write_str("unknown"),
            Outcome::Answered { answer: Answer::Found(true), .. } => f.write_str("found"),
            Outcome::Answered { answer: Answer::Found(false), .. } => f.write_str("not_found"),
            Outcome::Answered { answer: Answer::Value(None), .. } => f.write_str("absent"),
            Outcome::Answered { answer: Answer::Value(Some(value)), .. } => write!(f, "value {}", Word(value)),
            Outcome::Answered { answer: Answer::Records(records), .. } => {
                f.write_str("records")?;
                records.iter().try_for_each(|(key, value)| write!(f, " {} {}", Word(key), Word(value)))
            }
        }
    }
}

fn operation(text: &str) -> Result<Operation, String> {
    let mut words = text.split(' ');
    let mut next = |what: &str| words.next().ok_or_else(|| format!("{what} is missing"));
    let number = |what: &str, text: &str| text.parse().map_err(|_| format!("{what} {text:?} is no number"));
    let client = next("the client")?;
    let client = client.parse().map_err(|_| format!("client {client:?} is no number"))?;
    let call = number("call time", next("the call time")?)?;
    let returned = match next("the return time")? {
        "-" => None,
        text => Some(number("return time", text)?),
    };
    let action = match next("the request")? {
        "PUT" => Action::Put { key: word(next("the key")?)?, value: word(next("the value")?)? },
        "SWAP" => Action::Swap { key: word(next("the key")?)?, value: word(next("the value")?)? },
        "GET" => Action::Get { key: word(next("the key")?)? },
        "DELETE" => Action::Delete { key: word(next("the key")?)? },
        "SCAN" => Action::Scan { from: word(next("the first key")?)?, to: word(next("the last key")?)? },
        other => return Err(format!("{other:?} is no request")),
    };
    match next("the arrow")? {
        "->" => {}
        other => return Err(format!("{other:?} stands where -> should")),
    }
    let answer = match next("the outcome")? {
        "unknown" => None,
        "not_done" => Some(None),
        "found" => Some(Some(Answer::Found(true))),
        "not_found" => Some(Some(Answer::Found(false))),
        "absent" => Some(Some(Answer::Value(None))),
        "value" => Some(Some(Answer::Value(Some(word(next("the old value")?)?)))),
        "records" => {
            let mut records = Vec::new();
            while let Some(key) = words.next() {
                let value = words.next().ok_or("a record has no value")?;
                records.push((word(key)?, word(value)?));
            }
            Some(Some(Answer::Records(records)))
        }
        other => return Err(format!("{other:?} is no outcome")),
    };
    if let Some(more) = words.next() {
        return Err(format!("{more:?} is too much"));
    }
    let outcome = match (returned, answer) {
        (None, None) => Outcome::Unknown,
        (Some(at), Some(_)) if at < call => return Err(format!("it returned at {at}, before its call at {call}")),
        (Some(at), Some(None)) => Outcome::NotDone { at },
        (Some(at), Some(Some(answer))) if action.fits(&answer) => Outcome::Answered { at, answer },
        (Some(_), Some(Some(_))) => return Err(format!("no {} is answered like that", action.verb())),
        (None, Some(_)) => return Err("it has an outcome but no return time".to_owned()),
        (Some(_), None) => return Err("its outcome is unknown, yet it has a return time".to_owned()),
    };
    Ok(Operation { client, action, call, outcome })
}

/// Writes a history while it happens.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    operations: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        writeln!(out, "{HEAD}")?;
        Ok(Writer { out, operations: 0 })
    }

    /// A remark for people; line ends in it become spaces.
    ///
    /// # Errors
    /// Those of the file.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "note {}", text.replace(['\n', '\r'], " "))
    }

    /// Over how many partitions the slots were dealt evenly.
    ///
    /// # Errors
    /// Those of the file.
    pub fn partitions(&mut self, count: u16) -> io::Result<()> {
        writeln!(self.out, "partitions {count}")
    }

    /// A key that was there before the run.
    ///
    /// # Errors
    /// Those of the file.
    pub fn initially(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        writeln!(self.out, "initially {} {}", Word(key), Word(value))
    }

    /// An operation that has ended.
    ///
    /// # Errors
    /// Those of the file.
    pub fn operation(&mut self, operation: &Operation) -> io::Result<()> {
        self.operations += 1;
        writeln!(self.out, "{operation}")
    }

    /// Ends the file: nothing was under way any more that is not in it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(mut self) -> io::Result<W> {
        writeln!(self.out, "end {}", self.operations)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl History {
    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut writer = Writer::new(out)?;
        self.notes.iter().try_for_each(|note| writer.note(note))?;
        self.partitions.map_or(Ok(()), |count| writer.partitions(count))?;
        self.initially.iter().try_for_each(|(key, value)| writer.initially(key, value))?;
        self.operations.iter().try_for_each(|operation| writer.operation(operation))?;
        writer.finish().map(|_| ())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, also if it cannot be read to its end.
    pub fn read(mut input: impl BufRead) -> Result<History, Malformed> {
        let mut history = History::default();
        let mut text = Vec::new();
        let mut line = 0;
        let mut ended = false;
        loop {
            line += 1;
            let bad = |what: String| Malformed { line, what };
            text.clear();
            let len = io::Read::take(&mut input, LINE_MAX_BYTES as u64).read_until(b'\n', &mut text);
            if len.map_err(|error| bad(error.to_string()))? == 0 {
                break;
            }
            if text.pop() != Some(b'\n') {
                return Err(bad("the file is cut off in the middle of this line".to_owned()));
            }
            let text = std::str::from_utf8(&text).map_err(|_| bad("no text".to_owned()))?;
            if line == 1 {
                if text != HEAD {
                    return Err(bad(format!("no history: it does not begin with {HEAD:?}")));
                }
            } else if ended {
                return Err(bad("something stands after the end".to_owned()));
            } else {
                ended = history.take_line(text).map_err(bad)?;
            }
        }
        let what = if line == 1 { "the file is empty" } else { "the file is cut off: its end line is missing" };
        if ended { Ok(history) } else { Err(Malformed { line, what: what.to_owned() }) }
    }

    /// Takes one line after the first. Returns whether it was the last.
    fn take_line(&mut self, text: &str) -> Result<bool, String> {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        match first {
            "note" => self.notes.push(rest.to_owned()),
            "partitions" => match rest.parse() {
                Ok(count @ 1..) => self.partitions = Some(count),
                _ => return Err(format!("{rest:?} is no number of partitions")),
            },
            "initially" => {
                let (key, value) = rest.split_once(' ').ok_or("a key and a value are needed")?;
                self.initially.push((word(key)?, word(value)?));
            }
            "end" => {
                let count = self.operations.len();
                if rest.parse() != Ok(count) {
                    return Err(format!("{rest:?} operations were written, {count} are here"));
                }
                return Ok(true);
            }
            _ => self.operations.push(operation(text)?),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "madkv-history 1\nnote seed 17\npartitions 2\ninitially k3 old\n\
        0 1200 450000 PUT k0 c0-1 -> not_found\n1 1300 470000 SWAP k0 c1-1 -> value c0-1\n\
        0 451000 480000 GET k1 -> absent\n2 452000 490000 DELETE k0 -> found\n\
        2 491000 520000 SCAN k0 k9 -> records k3 old\n3 500000 900000 PUT k2 c3-1 -> not_done\n\
        4 500000 - SWAP k2 % -> unknown\nend 7\n";

    fn text(history: &History) -> String {
        let mut out = Vec::new();
        history.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn read_what_was_written_gives_the_same() {
        let history = History::read(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(history.operations.len(), 7);
        assert_eq!(history.partitions, Some(2));
        assert_eq!(history.operations[6].outcome, Outcome::Unknown);
        assert_eq!(text(&history), EXAMPLE);
    }

    #[test]
    fn read_bad_file_one_line_that_says_where_and_what() {
        let with = |line: &str| format!("madkv-history 1\n{line}\nend 1\n");
        for (file, part) in [
            (String::new(), "line 1: the file is empty"),
            ("PUT a 1\n".to_owned(), "line 1: no history"),
            ("madkv-history 1\n0 1 2 GET k -> absent\n".to_owned(), "line 3: the file is cut off"),
            ("madkv-history 1\n0 1 2 GET k -> abs".to_owned(), "line 2: the file is cut off in the middle"),
            ("madkv-history 1\nend 1\n".to_owned(), "0 are here"),
            ("madkv-history 1\nend 0\nend 0\n".to_owned(), "line 3: something stands after"),
            (with("x 1 2 GET k -> absent"), "client \"x\""),
            (with("0 1 0 GET k -> absent"), "before its call"),
            (with("0 1 2 GET k -> found"), "no GET is answered like that"),
            (with("0 1 2 PUT k v -> absent"), "no PUT is answered like that"),
            (with("0 1 - GET k -> absent"), "no return time"),
            (with("0 1 2 GET k -> unknown"), "yet it has a return time"),
            (with("0 1 2 JUMP k -> found"), "no request"),
            (with("0 1 2 GET k%2 -> absent"), "hexadecimal"),
            (with("0 1 2 GET k -> absent absent"), "too much"),
            (with("0 1 2 SCAN a b -> records k"), "a record has no value"),
            (with("0 1 2 GET"), "the key is missing"),
            (with("partitions 0"), "no number of partitions"),
        ] {
            let error = History::read(file.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{file:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn word_any_bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let text = readable(&bytes);
            prop_assert!(!text.is_empty() && !text.contains(' '));
            prop_assert_eq!(word(&text).unwrap(), bytes);
        }

        // covers B1
        #[test]
        fn read_damaged_file_never_panics(at in 0..EXAMPLE.len(), byte in any::<u8>()) {
            let mut file = EXAMPLE.as_bytes().to_vec();
            file[at] = byte;
            let _ = History::read(&file[..]);
            let _ = History::read(&file[..at]);
        }
    }
}
