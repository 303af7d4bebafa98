//! The files of golden scripts: replayed, compared, and written again if wanted.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Play, Script};

/// The scripts in a folder below `tests`; fewer than `scripts_min` mean that it was not found.
pub(crate) fn scripts(folder: &str, scripts_min: usize) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= scripts_min, "only {} scripts", paths.len());
    paths
}

/// Each trace must be what its script holds. `UPDATE_GOLDEN` writes those that differ, `SCRIPT` names some.
pub(crate) fn assert_same_traces<P: Play>(scripts: &[PathBuf], begin: impl Fn() -> Script<P>) {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let mut failures = Vec::new();
    for path in scripts.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let expected = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match catch_unwind(AssertUnwindSafe(|| replay(&expected, begin()))) {
            Err(_) => failures.push(format!("{name}: stopped; the reason is above")),
            Ok(actual) if actual == expected => {}
            Ok(actual) if update => fs::write(path, actual).unwrap(),
            Ok(actual) => failures.push(format!("{name}, {}", difference(&expected, &actual))),
        }
    }
    assert!(failures.is_empty(), "{} scripts differ:\n\n{}", failures.len(), failures.join("\n\n"));
}

/// A story without its number is found by no one who looks for a case.
pub(crate) fn assert_stories_name(scripts: &[PathBuf], marks: &[&str]) {
    for path in scripts {
        let text = fs::read_to_string(path).unwrap();
        let story: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(marks.iter().all(|mark| story.contains(mark)), "{}: {story}", path.display());
    }
}

fn replay<P: Play>(text: &str, mut script: Script<P>) -> String {
    let mut result = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            result += &format!("> {command}\n");
            for line in script.run(command) {
                result += &format!("{line}\n");
            }
            result.push('\n');
        } else if line.starts_with('#') {
            result += &format!("{line}\n");
        }
    }
    result
}

/// The first lines that differ, with a little of what stands before them.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(one, other)| one == other).count();
    let context = expected[same.saturating_sub(6)..same].iter().map(|line| format!("  {line}"));
    let minus = expected[same..].iter().take(8).map(|line| format!("- {line}"));
    let plus = actual[same..].iter().take(8).map(|line| format!("+ {line}"));
    format!("line {}:\n{}", same + 1, context.chain(minus).chain(plus).collect::<Vec<_>>().join("\n"))
}
