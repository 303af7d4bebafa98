//! Places in the report for a person's words, which a report that is written again takes over.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What stands in a place where nothing was written yet.
const EMPTY: &str = "*Your comment here.*";
const BEGIN: &str = "<!-- comment: ";
const BEGIN_END: &str = " -->";
const END: &str = "<!-- end of comment -->";

/// What was written, by the name of its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comments(BTreeMap<String, String>);

impl Comments {
    /// Those of an earlier report.
    pub(super) fn read(report: &str) -> Comments {
        let mut comments = BTreeMap::new();
        for place in report.split(BEGIN).skip(1) {
            let named = place.split_once(BEGIN_END).and_then(|(name, rest)| Some((name, rest.split_once(END)?.0)));
            let Some((name, comment)) = named else { continue };
            if comment.trim() != EMPTY {
                comments.insert(name.to_owned(), comment.trim().to_owned());
            }
        }
        Comments(comments)
    }

    /// The place called `name`, with what was written there.
    pub(super) fn place(&self, name: &str) -> String {
        let comment = self.0.get(name).map_or(EMPTY, String::as_str);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{BEGIN}{name}{BEGIN_END}\n\n{comment}\n\n{END}");
        text
    }

    /// What was written in places that are not among `names`.
    pub(super) fn beyond(&self, names: &[&str]) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(move |name| !names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_gives_what_was_written_into_the_places_and_no_more() {
        let fresh = Comments::default();
        let report = format!("# Report\n{}\nbetween\n{}", fresh.place("design"), fresh.place("bonus"));
        assert_eq!(Comments::read(&report), fresh);
        let report = report.replacen(EMPTY, "It is *easy*.\n\nTwo paragraphs.", 1);
        let comments = Comments::read(&report);
        assert_eq!(comments.0, [("design".to_owned(), "It is *easy*.\n\nTwo paragraphs.".to_owned())].into());
        assert!(comments.place("design").contains("\nTwo paragraphs.\n"));
        assert_eq!(comments.beyond(&["bonus"]).collect::<Vec<_>>(), ["design"]);
        assert_eq!(Comments::read("<!-- comment: torn -->\nno end"), fresh);
    }
}
