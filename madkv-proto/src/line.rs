//! The line protocol: a line of input, and the bytes of its answer. Pure; reading and running are elsewhere.
//!
//! Keywords are case-sensitive. Words are separated by any number of ASCII spaces and tabs; every other byte belongs to
//! a word, and the line must be valid UTF-8.

use std::collections::BTreeSet;
use std::io::{self, Write};

use bytes::Bytes;

/// A line that is a request; keys and values are words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// `PUT <key> <value>`.
    Put(&'a str, &'a str),
    /// `SWAP <key> <value>`.
    Swap(&'a str, &'a str),
    /// `GET <key>`.
    Get(&'a str),
    /// `DELETE <key>`.
    Delete(&'a str),
    /// `SCAN <from> <to>`.
    Scan(&'a str, &'a str),
    /// `WATCH <key>`, or `WATCH <from> <to> [<index>]`: the first key, the last one, and where to begin.
    Watch(&'a str, &'a str, Option<WatchIndex<'a>>),
    /// `STOP`.
    Stop,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchIndex<'a> {
    /// `7`: with the entry of this index.
    One(u64),
    /// `s0:7,s1:9`: with the entry of this index in each of these partitions.
    Each(PartitionIndexes<'a>),
}

/// Partitions with an index of each, in words; no partition twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionIndexes<'a>(&'a str);

/// Why a line is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Nothing on it.
    #[error("empty line")]
    Empty,
    /// Bytes that are no text.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// It does not begin with a known word.
    #[error("unknown word; expected PUT, SWAP, GET, DELETE, SCAN, WATCH or STOP")]
    UnknownWord,
    /// Nor does this one, but it is clear what was meant.
    #[error("unknown word; {0}")]
    Meant(&'static str),
    /// Too few or too many words.
    #[error("wrong number of words; expected {0}")]
    WordCount(&'static str),
    /// What should be a number is none.
    #[error("an index is a whole number, or one for each partition as s0:7,s1:9; expected {0}")]
    Index(&'static str),
    /// Longer than any request can be.
    #[error("line too long")]
    TooLong,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// PUT, DELETE: whether the key was there.
    Found(bool),
    /// SWAP, GET.
    Value(Option<Bytes>),
    /// SCAN: the keys in the range with their values, in the order of their bytes.
    Records(Vec<(Bytes, Bytes)>),
    /// STOP: it was the last line.
    Stopped,
}

/// Parses a line, without its end.
///
/// # Errors
/// Why it is no request.
pub fn parse(line: &[u8]) -> Result<Line<'_>, BadLine> {
    let text = std::str::from_utf8(line).map_err(|_| BadLine::NotUtf8)?;
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let keyword = words.next().ok_or(BadLine::Empty)?;
    let rest = [words.next(), words.next(), words.next()];
    match (keyword, rest) {
        ("PUT", [Some(key), Some(value), None]) => Ok(Line::Put(key, value)),
        ("SWAP", [Some(key), Some(value), None]) => Ok(Line::Swap(key, value)),
        ("GET", [Some(key), None, None]) => Ok(Line::Get(key)),
        ("DELETE", [Some(key), None, None]) => Ok(Line::Delete(key)),
        ("SCAN", [Some(from), Some(to), None]) => Ok(Line::Scan(from, to)),
        ("WATCH", _) => watch(rest, words.next().is_some()),
        ("STOP", [None, None, None]) => Ok(Line::Stop),
        ("PUT", _) => Err(BadLine::WordCount("PUT <key> <value>")),
        ("SWAP", _) => Err(BadLine::WordCount("SWAP <key> <value>")),
        ("GET", _) => Err(BadLine::WordCount("GET <key>")),
        ("DELETE", _) => Err(BadLine::WordCount("DELETE <key>")),
        ("SCAN", _) => Err(BadLine::WordCount("SCAN <from> <to>")),
        ("STOP", _) => Err(BadLine::WordCount("STOP")),
        _ => Err(hint(keyword).map_or(BadLine::UnknownWord, BadLine::Meant)),
    }
}

/// How a watch is said.
const WATCH: &str = "WATCH <key>, or WATCH <from> <to> [<index>]";

fn watch(words: [Option<&str>; 3], has_more: bool) -> Result<Line<'_>, BadLine> {
    match words {
        _ if has_more => Err(BadLine::WordCount(WATCH)),
        [Some(key), None, None] => Ok(Line::Watch(key, key, None)),
        [Some(from), Some(to), None] => Ok(Line::Watch(from, to, None)),
        [Some(from), Some(to), Some(index)] => {
            let index = WatchIndex::parse(index).ok_or(BadLine::Index(WATCH))?;
            Ok(Line::Watch(from, to, Some(index)))
        }
        _ => Err(BadLine::WordCount(WATCH)),
    }
}

impl WatchIndex<'_> {
    /// What a word says; `None` if it is no index.
    pub fn parse(word: &str) -> Option<WatchIndex<'_>> {
        if let Ok(index) = word.parse() {
            return Some(WatchIndex::One(index));
        }
        let mut partitions = BTreeSet::new();
        let is_new = |part| one_index(part).is_some_and(|(partition, _)| partitions.insert(partition));
        word.split(',').all(is_new).then_some(WatchIndex::Each(PartitionIndexes(word)))
    }
}

impl PartitionIndexes<'_> {
    /// The numbers of the partitions, each with its index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0.split(',').filter_map(one_index)
    }
}

fn one_index(part: &str) -> Option<(u16, u64)> {
    let (group, index) = part.split_once(':')?;
    Some((group.strip_prefix('s')?.parse().ok()?, index.parse().ok()?))
}

/// What someone means who says this word, if that is clear: words of other programs, and ours in small letters.
fn hint(keyword: &str) -> Option<&'static str> {
    let capitals = keyword.to_ascii_uppercase();
    Some(match capitals.as_str() {
        "PUT" | "SET" | "INSERT" | "UPDATE" => "perhaps PUT <key> <value>, in capitals",
        "SWAP" => "perhaps SWAP <key> <value>, in capitals",
        "GET" | "READ" => "perhaps GET <key>, in capitals",
        "DELETE" | "DEL" | "REMOVE" | "RM" => "perhaps DELETE <key>, in capitals",
        "SCAN" | "RANGE" => "perhaps SCAN <from> <to>, in capitals",
        "WATCH" | "SUBSCRIBE" => "perhaps WATCH <key>, in capitals",
        "STOP" | "EXIT" | "QUIT" | "BYE" | "Q" | ":Q" | "\\Q" => "STOP, in capitals, leaves",
        "HELP" | "STATUS" | "WHERE" | "TRANSFER" | "READMIT" => {
            "operators say this at a prompt, in small letters, or as an argument: madkv-client status"
        }
        _ => return None,
    })
}

/// Writes the answer to a request, line end included.
///
/// # Errors
/// Those of `out`.
pub fn write_answer(out: &mut impl Write, line: Line<'_>, answer: &Answer) -> io::Result<()> {
    match line {
        Line::Put(key, _) => write!(out, "PUT {key} ")?,
        Line::Swap(key, _) => write!(out, "SWAP {key} ")?,
        Line::Get(key) => write!(out, "GET {key} ")?,
        Line::Delete(key) => write!(out, "DELETE {key} ")?,
        Line::Scan(from, to) => writeln!(out, "SCAN {from} {to} BEGIN")?,
        Line::Stop => out.write_all(b"STOP")?,
        // Its lines are those of its events.
        Line::Watch(..) => return Ok(()),
    }
    match answer {
        Answer::Found(found) => out.write_all(if *found { b"found" } else { b"not_found" })?,
        Answer::Value(value) => out.write_all(value.as_deref().unwrap_or(b"null"))?,
        Answer::Records(records) => {
            for (key, value) in records {
                // Bytes as they are: other programs may have stored what is no text.
                out.write_all(b"  ")?;
                out.write_all(key)?;
                out.write_all(b" ")?;
                out.write_all(value)?;
                out.write_all(b"\n")?;
            }
            out.write_all(b"SCAN END")?;
        }
        Answer::Stopped => {}
    }
    out.write_all(b"\n")
}

/// Writes a change that a watch has heard; without a value the key was removed.
///
/// # Errors
/// Those of `out`.
pub fn write_event(out: &mut impl Write, index: u64, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    // Bytes as they are: other programs may have stored what is no text.
    write!(out, "EVENT {index} {} ", if value.is_some() { "PUT" } else { "DELETE" })?;
    out.write_all(key)?;
    if let Some(value) = value {
        out.write_all(b" ")?;
        out.write_all(value)?;
    }
    out.write_all(b"\n")
}

/// Writes the answer to a line that failed: one line, whatever the reason says.
///
/// # Errors
/// Those of `out`.
pub fn write_error(out: &mut impl Write, reason: &dyn std::fmt::Display) -> io::Result<()> {
    writeln!(out, "ERROR {}", reason.to_string().replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(line: &str, answer: Answer) -> String {
        let mut out = Vec::new();
        write_answer(&mut out, parse(line.as_bytes()).unwrap(), &answer).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn write_answer_each_request_matches_contract() {
        let value = |text: &'static str| Answer::Value(Some(Bytes::from_static(text.as_bytes())));
        assert_eq!(answer("PUT k v", Answer::Found(true)), "PUT k found\n");
        assert_eq!(answer("PUT k v", Answer::Found(false)), "PUT k not_found\n");
        assert_eq!(answer("SWAP k v", value("old")), "SWAP k old\n");
        assert_eq!(answer("SWAP k v", Answer::Value(None)), "SWAP k null\n");
        assert_eq!(answer("GET k", value("v")), "GET k v\n");
        assert_eq!(answer("GET k", Answer::Value(None)), "GET k null\n");
        assert_eq!(answer("DELETE k", Answer::Found(true)), "DELETE k found\n");
        assert_eq!(answer("DELETE k", Answer::Found(false)), "DELETE k not_found\n");
        assert_eq!(answer("STOP", Answer::Stopped), "STOP\n");
        let records = vec![("a".into(), "1".into()), ("b".into(), "2".into())];
        assert_eq!(answer("SCAN a z", Answer::Records(records)), "SCAN a z BEGIN\n  a 1\n  b 2\nSCAN END\n");
        assert_eq!(answer("SCAN a z", Answer::Records(vec![])), "SCAN a z BEGIN\nSCAN END\n");
    }

    #[test]
    fn parse_separators_any_number_of_spaces_and_tabs() {
        assert_eq!(parse(b"  PUT\t\tk \t v  "), Ok(Line::Put("k", "v")));
        assert_eq!(parse("GET\u{a0}k".as_bytes()), Err(BadLine::UnknownWord), "no-break space belongs to a word");
        assert_eq!(parse(b"GET a\rb\x0b\x00c"), Ok(Line::Get("a\rb\x0b\x00c")));
    }

    #[test]
    fn parse_keywords_are_case_sensitive() {
        for line in [&b"put k v"[..], b"Get k", b"stop", b"status", b"help", b"GETk"] {
            assert!(matches!(parse(line), Err(BadLine::UnknownWord | BadLine::Meant(_))));
        }
    }

    #[test]
    fn parse_word_of_another_program_or_in_small_letters_names_the_right_one() {
        for (line, right) in [
            ("get k", "GET <key>"),
            ("Put k v", "PUT <key> <value>"),
            ("set k v", "PUT <key> <value>"),
            ("del k", "DELETE <key>"),
            ("exit", "STOP"),
            ("quit", "STOP"),
            ("stop", "STOP"),
            ("status", "madkv-client status"),
        ] {
            let hint = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(hint.contains(right) && !hint.contains('\n'), "{line}: {hint}");
        }
        assert_eq!(parse(b"FROB"), Err(BadLine::UnknownWord));
    }

    #[test]
    fn parse_wrong_word_count_refused_with_usage() {
        for line in
            ["PUT", "PUT k", "PUT k v w", "SWAP k", "GET", "GET a b", "DELETE", "DELETE a b", "SCAN a", "STOP x"]
        {
            let keyword = line.split(' ').next().unwrap();
            let Err(BadLine::WordCount(usage)) = parse(line.as_bytes()) else { panic!("{line:?} was accepted") };
            assert!(usage.starts_with(keyword), "{line:?}: {usage}");
        }
        assert_eq!(parse(b""), Err(BadLine::Empty));
        assert_eq!(parse(b" \t "), Err(BadLine::Empty));
        assert_eq!(parse(b"GET \xff"), Err(BadLine::NotUtf8));
    }

    #[test]
    fn watch_index_is_a_number_or_one_for_each_partition() {
        assert_eq!(parse(b"WATCH a z 7"), Ok(Line::Watch("a", "z", Some(WatchIndex::One(7)))));
        let Ok(Line::Watch("a", "z", Some(WatchIndex::Each(each)))) = parse(b"WATCH a z s0:7,s12:9") else {
            panic!("it is refused");
        };
        assert_eq!(each.iter().collect::<Vec<_>>(), [(0, 7), (12, 9)]);
        for wrong in ["-1", "s0", "s0:", "0:7", "s0:7,", "7,8", "m:3", "s0:7,s0:8", "s99999:1"] {
            let line = format!("WATCH a z {wrong}");
            assert_eq!(parse(line.as_bytes()), Err(BadLine::Index(WATCH)), "{wrong}");
        }
    }

    #[test]
    fn write_error_reason_with_line_ends_stays_one_line() {
        let mut out = Vec::new();
        write_error(&mut out, &"one\ntwo\r\n").unwrap();
        assert_eq!(out, b"ERROR one two  \n");
    }

    proptest! {
        // covers B1
        #[test]
        fn parse_arbitrary_bytes_never_panics(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&line);
        }

        #[test]
        fn parse_words_with_any_separators_restored(
            key in "[^ \t\r\n]{1,20}",
            value in "[^ \t\r\n]{1,20}",
            gaps in proptest::array::uniform4("[ \t]{1,3}"),
        ) {
            let [before, first, second, behind] = gaps;
            let line = format!("{before}SWAP{first}{key}{second}{value}{behind}");
            prop_assert_eq!(parse(line.as_bytes()), Ok(Line::Swap(&key, &value)));
        }
    }
}
