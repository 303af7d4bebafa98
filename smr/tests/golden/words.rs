//! The words of a command.

use std::str::FromStr;

use smr::entry::{EntryId, Index, Term};
use smr::id::NodeId;

pub(crate) fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

/// `A` to `H`; `A/2` is the second incarnation of A's directory.
pub(crate) fn node(text: &str) -> NodeId {
    let (replica, incarnation) = text.split_once('/').unwrap_or((text, "1"));
    match replica.as_bytes() {
        [letter @ b'A'..=b'H'] => NodeId::new(u16::from(letter - b'A'), number(incarnation)),
        _ => panic!("no node: {text:?}"),
    }
}

/// `t3` for a term or `e3` for an epoch; the letter may be left out.
pub(crate) fn term(text: &str) -> Term {
    Term(number(text.strip_prefix(['t', 'e']).unwrap_or(text)))
}

/// The index, and the term or epoch.
pub(crate) fn entry_id(text: &str) -> EntryId {
    let (index, of) = text.split_once('.').unwrap_or_else(|| panic!("no entry: {text:?}"));
    EntryId { index: Index(number(index)), term: term(of) }
}

pub(crate) fn millis(text: &str) -> u64 {
    number(text.strip_suffix("ms").unwrap_or_else(|| panic!("no time: {text:?}")))
}

/// The parts of a list, none if it is empty.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// The value of `key=value` among the words.
pub(crate) fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

pub(crate) fn needed<'a>(words: &[&'a str], key: &str) -> &'a str {
    value(words, key).unwrap_or_else(|| panic!("{key}= is missing in {words:?}"))
}
