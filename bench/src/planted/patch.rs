//! One planted bug: a unified diff with a head.
//!
//! ```text
//! Breaks: the rule that no longer holds
//! Noticed by: E4, I2
//! Harness: sim
//! Note: anything else, if there is
//!
//! --- a/smr/src/...
//! ```
//! A field that goes on in the next line is indented there. `patch` and `git apply` skip everything in front of the diff.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::harness::Harness;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The file's name without its ending.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The rule that it breaks.
    pub breaks: String,
    /// The cases and invariants of the fault catalogue that should notice.
    pub noticed_by: String,
    /// Who is to find it.
    pub harness: Harness,
}

/// Why a file is no planted bug.
#[derive(Debug, thiserror::Error)]
pub struct BadPatch {
    path: PathBuf,
    what: String,
}

impl fmt::Display for BadPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// All patches of a directory, by name.
///
/// # Errors
/// If the directory cannot be read, or a file in it ends in `.patch` and is none.
pub fn load(directory: &Path) -> Result<Vec<Patch>, BadPatch> {
    let bad = |path: &Path, what: String| BadPatch { path: path.to_owned(), what };
    let files = fs::read_dir(directory).map_err(|error| bad(directory, error.to_string()))?;
    let mut patches = Vec::new();
    for file in files {
        let path = file.map_err(|error| bad(directory, error.to_string()))?.path();
        if path.extension().is_some_and(|ending| ending == "patch") {
            let text = fs::read_to_string(&path).map_err(|error| bad(&path, error.to_string()))?;
            patches.push(parse(&path, &text).map_err(|what| bad(&path, what))?);
        }
    }
    patches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(patches)
}

fn parse(path: &Path, text: &str) -> Result<Patch, String> {
    let Some((head, _)) = text.split_once("\n--- ") else { return Err("no diff in it".to_owned()) };
    let field = |name: &str| -> Option<String> {
        let mut lines = head.lines().skip_while(|line| !line.starts_with(name));
        let mut value = lines.next()?.strip_prefix(name)?.trim().to_owned();
        for line in lines.take_while(|line| line.starts_with(' ')) {
            value.push(' ');
            value.push_str(line.trim());
        }
        Some(value)
    };
    let needed = |name: &str| field(name).ok_or(format!("no field \"{name}\""));
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Patch {
        name,
        path: path.to_owned(),
        breaks: needed("Breaks:")?,
        noticed_by: needed("Noticed by:")?,
        harness: needed("Harness:")?.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "--- a/x.rs\n+++ b/x.rs\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn parse_head_of_several_lines() {
        let text = format!("Breaks: one rule\n  that is long\nNoticed by: E4, I2\nHarness: sim\n\n{DIFF}");
        let patch = parse(Path::new("/bank/some_bug.patch"), &text).unwrap();
        assert_eq!((patch.name.as_str(), patch.breaks.as_str()), ("some_bug", "one rule that is long"));
        assert_eq!((patch.noticed_by.as_str(), patch.harness), ("E4, I2", Harness::Sim));
    }

    #[test]
    fn parse_without_field_or_diff_says_what_is_missing() {
        let bad = |text: &str| parse(Path::new("x.patch"), text).unwrap_err();
        assert!(bad("Breaks: x\nHarness: sim\n").contains("no diff"));
        assert!(bad(&format!("Breaks: x\nHarness: sim\n\n{DIFF}")).contains("Noticed by:"));
        assert!(bad(&format!("Breaks: x\nNoticed by: E1\nHarness: luck\n\n{DIFF}")).contains("luck"));
    }
}
