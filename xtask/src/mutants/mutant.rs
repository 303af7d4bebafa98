//! One mutant: a head, and find-and-replace.
//!
//! ```text
//! Breaks: the rule that no longer holds
//! Noticed by: E4, I2
//! Harness: sim
//! Note: anything else, if there is
//!
//! File: smr/src/raft/voter.rs
//! In: fn receive_vote
//! Find: self.set_hard_state(HardState { term, vote: Some(from), ..self.hard_state });
//! Replace: self.hard_state.vote = Some(from);
//! ```
//! The last four may come again. A field that goes on in the next line is indented there; `mutants/README.md` says the
//! rest.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::edit::{self, Edit};
use super::harness::Harness;

/// How the files end.
const ENDING: &str = "mutant";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The file's name without its ending.
    pub name: String,
    /// The rule that it breaks.
    pub breaks: String,
    /// The cases and invariants of the fault catalogue that should notice.
    pub noticed_by: String,
    /// Who is to find it: each of them. At least one.
    pub harnesses: Vec<Harness>,
    /// What it changes; at least one.
    pub edits: Vec<Edit>,
}

/// Why a file is no mutant.
#[derive(Debug, thiserror::Error)]
pub struct BadMutant {
    path: PathBuf,
    what: String,
}

impl fmt::Display for BadMutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// All mutants of a directory, by name.
///
/// # Errors
/// If the directory cannot be read, or a file in it ends in `.mutant` and is none.
pub fn load(directory: &Path) -> Result<Vec<Mutant>, BadMutant> {
    let bad = |path: &Path, what: String| BadMutant { path: path.to_owned(), what };
    let files = fs::read_dir(directory).map_err(|error| bad(directory, error.to_string()))?;
    let mut mutants = Vec::new();
    for file in files {
        let path = file.map_err(|error| bad(directory, error.to_string()))?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            let text = fs::read_to_string(&path).map_err(|error| bad(&path, error.to_string()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            mutants.push(parse(&name, &text).map_err(|what| bad(&path, what))?);
        }
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutants)
}

impl Mutant {
    /// The files that the bug changes in the tree at `root`, as they are with it.
    ///
    /// # Errors
    /// What of it does not fit the tree, one line each.
    pub fn applied_to(&self, root: &Path) -> Result<Vec<(PathBuf, String)>, String> {
        let mut files: Vec<&str> = self.edits.iter().map(|edit| &edit.file[..]).collect();
        files.sort_unstable();
        files.dedup();
        let (mut changed, mut misfits) = (Vec::new(), Vec::new());
        for file in files {
            let edits: Vec<&Edit> = self.edits.iter().filter(|edit| edit.file == file).collect();
            let path = root.join(file);
            let mutated = fs::read_to_string(&path)
                .map_err(|error| vec![edits[0].misfit(error.to_string())])
                .and_then(|source| edit::apply(&source, &edits));
            match mutated {
                Ok(mutated) => changed.push((path, mutated)),
                Err(new) => misfits.extend(new.iter().map(ToString::to_string)),
            }
        }
        if misfits.is_empty() { Ok(changed) } else { Err(misfits.join("\n")) }
    }
}

/// A `Name: value` of a file. The value may have several lines.
struct Field<'a> {
    name: &'a str,
    value: String,
    line: usize,
}

fn fields(text: &str) -> Result<Vec<Field<'_>>, String> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with(char::is_whitespace) {
            if let Some(field) = fields.last_mut() {
                field.value.push('\n');
                field.value.push_str(line);
            }
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("line {number} is neither indented nor a field: {line}"));
        };
        fields.push(Field { name, value: value.to_owned(), line: number });
    }
    for field in &mut fields {
        field.value = field.value.trim().to_owned();
    }
    Ok(fields)
}

fn parse(name: &str, text: &str) -> Result<Mutant, String> {
    let fields = fields(text)?;
    let head_len = fields.iter().position(|field| field.name == "File").unwrap_or(fields.len());
    let (head, blocks) = fields.split_at(head_len);
    if let Some(other) = head.iter().find(|field| !["Breaks", "Noticed by", "Harness", "Note"].contains(&field.name)) {
        return Err(format!("line {}: no field is called \"{}\" here", other.line, other.name));
    }
    let needed = |name: &str| {
        let field = head.iter().find(|field| field.name == name && !field.value.is_empty());
        let value = field.ok_or(format!("no field \"{name}:\" in front of the first \"File:\""))?;
        Ok::<String, String>(value.value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    if blocks.is_empty() {
        return Err("no \"File:\", so it changes nothing".to_owned());
    }
    Ok(Mutant {
        name: name.to_owned(),
        breaks: needed("Breaks")?,
        noticed_by: needed("Noticed by")?,
        harnesses: needed("Harness")?.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?,
        edits: blocks.chunks(4).map(edit).collect::<Result<_, _>>()?,
    })
}

fn edit(block: &[Field<'_>]) -> Result<Edit, String> {
    let expected = ["File", "In", "Find", "Replace"];
    if let Some((field, name)) = block.iter().zip(expected).find(|(field, name)| field.name != *name) {
        return Err(format!("line {}: \"{}:\" where \"{name}:\" is expected", field.line, field.name));
    }
    let [file, place, find, replace] = block else {
        return Err(format!("the last block has no \"{}:\"", expected[block.len()]));
    };
    if find.value.is_empty() || find.value == replace.value {
        return Err(format!("line {}: nothing is changed", find.line));
    }
    Ok(Edit {
        file: file.value.clone(),
        place: place.value.parse().map_err(|error| format!("line {}: {error}", place.line))?,
        find: find.value.clone(),
        replace: replace.value.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Breaks: one rule\n  that is long\nNoticed by: E4, I2\nHarness: sim\nNote: why\n\n";
    const BLOCK: &str = "File: x.rs\nIn: fn a\nFind: sync();\nReplace:\n";

    #[track_caller]
    fn refused(text: &str) -> String {
        parse("some_bug", text).unwrap_err()
    }

    #[test]
    fn parse_head_of_several_lines_and_several_blocks() {
        let second = "File: y.rs\nIn: impl B, fn c\nFind:\n    if a {\n        b: c\n\n    }\nReplace: d\n";
        let mutant = parse("some_bug", &format!("{HEAD}{BLOCK}\n{second}")).unwrap();
        assert_eq!((mutant.name.as_str(), mutant.breaks.as_str()), ("some_bug", "one rule that is long"));
        assert_eq!((mutant.noticed_by.as_str(), &mutant.harnesses[..]), ("E4, I2", &[Harness::Sim][..]));
        let [first, second] = &mutant.edits[..] else { panic!("{:?}", mutant.edits) };
        assert_eq!((&first.file[..], &first.find[..], &first.replace[..]), ("x.rs", "sync();", ""));
        assert_eq!((second.place.to_string(), &second.replace[..]), ("impl B, fn c".to_owned(), "d"));
        assert_eq!(second.find, "if a {\n        b: c\n\n    }");
        let both = HEAD.replace("Harness: sim", "Harness: scripts, sim_epochs");
        assert_eq!(parse("b", &format!("{both}{BLOCK}")).unwrap().harnesses, [Harness::Scripts, Harness::SimEpochs]);
    }

    #[test]
    fn parse_says_what_is_missing_or_wrong() {
        assert!(refused(HEAD).contains("no \"File:\""));
        assert!(refused(&format!("Breaks: x\nHarness: sim\n{BLOCK}")).contains("Noticed by:"));
        assert!(refused(&format!("Breaks: x\nNoticed by: E1\nHarness: luck\n{BLOCK}")).contains("luck"));
        assert_eq!(refused(&format!("Brakes: x\n{HEAD}{BLOCK}")), "line 1: no field is called \"Brakes\" here");
        assert!(refused(&format!("{HEAD}{BLOCK}File: y.rs\nIn: fn b\n")).contains("no \"Find:\""));
        assert!(refused(&format!("{HEAD}File: y.rs\nFind: b\n")).contains("\"Find:\" where \"In:\" is expected"));
        assert!(refused(&format!("{HEAD}{BLOCK}}}\n")).contains("line 11 is neither indented nor a field: }"));
        assert!(refused(&format!("{HEAD}{}", BLOCK.replace("sync();", ""))).contains("nothing is changed"));
        assert!(refused(&format!("{HEAD}{}", BLOCK.replace("fn a", "a"))).contains("line 8: \"a\" names no item"));
    }

    #[test]
    fn applied_to_tree_changes_all_files_or_names_all_that_does_not_fit() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x.rs"), "fn a() { sync(); }").unwrap();
        fs::write(root.path().join("y.rs"), "fn b() { 1 }").unwrap();
        let of = |find: &str| {
            let text = format!("{HEAD}{BLOCK}File: y.rs\nIn: fn b\nFind: {find}\nReplace: 2\n");
            parse("some_bug", &text).unwrap().applied_to(root.path())
        };
        let files = vec![
            (root.path().join("x.rs"), "fn a() {  }".to_owned()),
            (root.path().join("y.rs"), "fn b() { 2 }".to_owned()),
        ];
        assert_eq!(of("1"), Ok(files));
        fs::remove_file(root.path().join("x.rs")).unwrap();
        let said = of("3").unwrap_err();
        assert!(
            said.starts_with("x.rs, fn a: ") && said.ends_with("\ny.rs, fn b: the text is not there: `3`"),
            "{said}"
        );
    }
}
