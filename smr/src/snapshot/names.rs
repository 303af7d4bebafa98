//! The names of the files in a snapshot directory. Numbers are padded, so names sort like entries.

use super::SnapshotOffer;
use crate::entry::EntryId;

/// What a file's name says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Snapshot(EntryId),
    Writing,
    Incoming(EntryId),
    /// `resumable` is its name as an incoming one.
    Received {
        resumable: String,
    },
    Bad,
    Unknown,
}

pub(super) fn snapshot(last: EntryId) -> String {
    format!("{}.snap", place(last))
}

pub(super) fn writing(last: EntryId, count: u64) -> String {
    format!("{}.{count}.writing", place(last))
}

pub(super) fn incoming(offer: &SnapshotOffer) -> String {
    format!("{}.incoming", transfer(offer))
}

pub(super) fn received(offer: &SnapshotOffer, count: u64) -> String {
    format!("{}.{count}.received", transfer(offer))
}

pub(super) fn bad(name: &str) -> String {
    format!("{name}.bad")
}

fn place(last: EntryId) -> String {
    format!("{:020}-{:020}", last.index.0, last.term.0)
}

fn transfer(offer: &SnapshotOffer) -> String {
    format!("{}-{:016x}-{:016x}", place(offer.meta.last), offer.len_bytes, offer.fingerprint)
}

/// Whether a file of this name in a snapshot directory is one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    parse(name) != Name::Unknown
}

pub(super) fn parse(name: &str) -> Name {
    let Some((stem, extension)) = name.rsplit_once('.') else { return Name::Unknown };
    let parsed = match extension {
        "snap" => parse_place(stem).map(Name::Snapshot),
        "writing" => stem.split_once('.').and_then(|(stem, _)| parse_place(stem)).map(|_| Name::Writing),
        "incoming" => parse_transfer(stem).map(Name::Incoming),
        "received" => stem
            .split_once('.')
            .filter(|(stem, _)| parse_transfer(stem).is_some())
            .map(|(stem, _)| Name::Received { resumable: format!("{stem}.incoming") }),
        "bad" => matches!(parse(stem), Name::Snapshot(_)).then_some(Name::Bad),
        _ => None,
    };
    parsed.unwrap_or(Name::Unknown)
}

fn parse_place(stem: &str) -> Option<EntryId> {
    let (index, term) = stem.split_once('-')?;
    let last = EntryId::new(index.parse().ok()?, term.parse().ok()?);
    (place(last) == stem).then_some(last)
}

fn parse_transfer(stem: &str) -> Option<EntryId> {
    let mut parts = stem.splitn(3, '-');
    let (index, term, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (len, fingerprint) = rest.split_once('-')?;
    let hex = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex(len) && hex(fingerprint) { parse_place(&format!("{index}-{term}")) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{GenesisHash, SnapshotMeta};

    #[test]
    fn name_made_is_name_parsed() {
        let last = EntryId::new(120, 7);
        let offer = SnapshotOffer {
            meta: SnapshotMeta { last, ..SnapshotMeta::default() },
            genesis: GenesisHash(1),
            len_bytes: 4096,
            fingerprint: 0xfeed,
        };
        assert_eq!(parse(&snapshot(last)), Name::Snapshot(last));
        assert_eq!(parse(&writing(last, 3)), Name::Writing);
        assert_eq!(parse(&incoming(&offer)), Name::Incoming(last));
        assert_eq!(parse(&received(&offer, 2)), Name::Received { resumable: incoming(&offer) });
        assert_eq!(parse(&bad(&snapshot(last))), Name::Bad);
        for name in ["", "notes.txt", "1-2.snap", "x.incoming", "1.received", "lost+found"] {
            assert_eq!(parse(name), Name::Unknown, "{name}");
        }
    }
}
