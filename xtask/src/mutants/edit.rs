//! Find and replace in a source, at one place, with any white space as good as any other.

use std::fmt;
use std::ops::Range;

use super::source::{Place, Unclear};

/// One text of a file that becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The file, from the root of the repository.
    pub file: String,
    /// The item that the text stands in.
    pub place: Place,
    /// The text, which must be there exactly once.
    pub find: String,
    /// What comes in its stead.
    pub replace: String,
}

/// Why an edit does not fit its file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Misfit {
    file: String,
    place: String,
    what: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.file, self.place, self.what)
    }
}

impl Edit {
    /// Why the edit is not possible.
    pub fn misfit(&self, what: impl Into<String>) -> Misfit {
        Misfit { file: self.file.clone(), place: self.place.to_string(), what: what.into() }
    }

    fn locate(&self, source: &str) -> Result<Range<usize>, Misfit> {
        let place = self.place.find(source).map_err(|unclear| match unclear {
            Unclear::Missing => self.misfit("there is no such item"),
            Unclear::Several(count) => {
                self.misfit(format!("{count} items are called so; say which, as in `impl TYPE, fn NAME`"))
            }
        })?;
        match &occurrences(&source[place.clone()], &self.find)[..] {
            [at] => Ok(place.start + at.start..place.start + at.end),
            [] => Err(self.misfit(format!("the text is not there: `{}`", one_line(&self.find)))),
            several => Err(self.misfit(format!(
                "the text is there {} times, so find a longer one: `{}`",
                several.len(),
                one_line(&self.find)
            ))),
        }
    }
}

/// The source with all `edits` made. All of them are looked up before the first is made, so their order means nothing.
///
/// # Errors
/// The edits that do not fit; at least one.
pub fn apply(source: &str, edits: &[&Edit]) -> Result<String, Vec<Misfit>> {
    let mut changes: Vec<(Range<usize>, &Edit)> = Vec::new();
    let mut misfits = Vec::new();
    for edit in edits {
        match edit.locate(source) {
            Ok(range) => changes.push((range, edit)),
            Err(misfit) => misfits.push(misfit),
        }
    }
    changes.sort_by_key(|(range, _)| range.start);
    let overlaps = changes.windows(2).filter(|pair| pair[0].0.end > pair[1].0.start);
    misfits.extend(overlaps.map(|pair| pair[1].1.misfit("the text overlaps with that of another block")));
    if !misfits.is_empty() {
        return Err(misfits);
    }
    let mut changed = source.to_owned();
    for (range, edit) in changes.into_iter().rev() {
        changed.replace_range(range, &edit.replace);
    }
    Ok(changed)
}

/// Each place of `text` in `source`, also if they overlap.
fn occurrences(source: &str, text: &str) -> Vec<Range<usize>> {
    let (text, _) = blanks_joined(text.trim());
    let (source, offsets) = blanks_joined(source);
    if text.is_empty() {
        return Vec::new();
    }
    let hits = source.windows(text.len()).enumerate().filter(|(_, window)| *window == text);
    // Trimmed, it ends with a byte that stands for itself.
    hits.map(|(at, _)| offsets[at]..offsets[at + text.len() - 1] + 1).collect()
}

/// The text with one blank for each run of white space, and for each byte where it begins in the text as it was.
fn blanks_joined(text: &str) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut offsets) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len()));
    for (at, byte) in text.bytes().enumerate() {
        let byte = if byte.is_ascii_whitespace() { b' ' } else { byte };
        if byte == b' ' && bytes.last() == Some(&b' ') {
            continue;
        }
        bytes.push(byte);
        offsets.push(at);
    }
    (bytes, offsets)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn a() {\n    sync();\n    write(\n        1,\n    );\n}\nfn b() { sync(); sync(); }\n";

    fn edit(place: &str, find: &str, replace: &str) -> Edit {
        let (find, replace) = (find.to_owned(), replace.to_owned());
        Edit { file: "x.rs".to_owned(), place: place.parse().unwrap(), find, replace }
    }

    #[track_caller]
    fn refused(edits: &[&Edit]) -> Vec<String> {
        apply(SOURCE, edits).unwrap_err().iter().map(Misfit::to_string).collect()
    }

    #[test]
    fn apply_text_that_is_unique_in_its_function_only() {
        let changed = apply(SOURCE, &[&edit("fn a", "sync();", "skip();")]).unwrap();
        assert_eq!(changed, SOURCE.replacen("sync();", "skip();", 1));
        let removed = apply(SOURCE, &[&edit("fn a", "sync();", "")]).unwrap();
        assert_eq!(removed, SOURCE.replacen("sync();", "", 1));
    }

    #[test]
    fn apply_takes_any_white_space_for_any_other() {
        let changed = apply(SOURCE, &[&edit("fn a", "sync();   write( 1,\n)\t;", "")]);
        assert_eq!(changed.unwrap_err()[0].to_string(), "x.rs, fn a: the text is not there: `sync(); write( 1, ) ;`");
        let changed = apply(SOURCE, &[&edit("fn a", "  sync();   write( 1,\n);\n", "skip();")]).unwrap();
        assert_eq!(changed, "fn a() {\n    skip();\n}\nfn b() { sync(); sync(); }\n");
    }

    #[test]
    fn apply_refuses_what_is_missing_or_ambiguous_with_file_function_and_text() {
        assert_eq!(refused(&[&edit("fn b", "write(", "")]), ["x.rs, fn b: the text is not there: `write(`"]);
        let twice = "x.rs, fn b: the text is there 2 times, so find a longer one: `sync();`";
        assert_eq!(refused(&[&edit("fn b", "sync();", "")]), [twice]);
        assert_eq!(refused(&[&edit("fn c", "sync();", "")]), ["x.rs, fn c: there is no such item"]);
        assert_eq!(refused(&[&edit("file", "ync(); s", ""), &edit("file", "();", "")]).len(), 1);
    }

    #[test]
    fn apply_counts_occurrences_that_overlap() {
        assert_eq!(occurrences("aaa", "aa"), [0..2, 1..3]);
        assert_eq!(occurrences("a \n aa", "a a"), vec![Range { start: 0, end: 5 }]);
    }

    #[test]
    fn apply_several_edits_in_any_order_looked_up_in_the_source_as_it_was() {
        let first = edit("fn a", "sync();", "write( 1, );");
        let second = edit("fn a", "write( 1, );", "sync();");
        let changed = "fn a() {\n    write( 1, );\n    sync();\n}\nfn b() { sync(); sync(); }\n";
        assert_eq!(apply(SOURCE, &[&first, &second]).unwrap(), changed);
        assert_eq!(apply(SOURCE, &[&second, &first]).unwrap(), changed);
    }

    #[test]
    fn apply_refuses_edits_that_overlap_and_names_all_that_do_not_fit() {
        let (whole, part) = (edit("fn a", "sync(); write(", ""), edit("fn a", "write(", ""));
        assert_eq!(refused(&[&part, &whole]), ["x.rs, fn a: the text overlaps with that of another block"]);
        assert_eq!(refused(&[&edit("fn a", "x", ""), &edit("fn c", "y", ""), &part]).len(), 2);
    }
}
