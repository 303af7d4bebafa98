//! A log in words.

use smr::entry::{Entry, Payload};

/// `3.t2=1` is command 1 at index 3 in term 2.
pub(super) fn told_log<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let told = |entry: &Entry| match &entry.payload {
        Payload::Command(command) => format!("{}={}", entry.id, command.first().copied().unwrap_or_default()),
        _ => entry.id.to_string(),
    };
    entries.into_iter().map(told).collect::<Vec<_>>().join(" ")
}
