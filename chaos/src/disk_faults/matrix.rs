//! Many damages to copies of one directory, and what became of each.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::arranged::Arranged;
use super::damage::{self, Damage, copy_directory, files_below};
use super::judge::{self, Found, Panics, Verdict};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What became of damaged files: kind of file, kind of damage, verdict; and how often.
#[derive(Debug, Default)]
pub struct Matrix {
    counts: BTreeMap<(String, &'static str, &'static str), u64>,
    /// A line for each damage that was believed, or refused without a useful word.
    pub wrong: Vec<String>,
}

impl Matrix {
    /// Takes in one verdict.
    pub fn note(&mut self, file: &Path, damage: Damage, verdict: Verdict) {
        *self.counts.entry((kind_of(file), damage.kind(), verdict.word())).or_default() += 1;
        if let Verdict::Wrong(what) = verdict {
            self.wrong.push(format!("{} {damage}: {what}", file.display()));
        }
    }

    /// How many damages came to this verdict.
    pub fn count(&self, verdict: &str) -> u64 {
        self.counts.iter().filter(|((_, _, word), _)| *word == verdict).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((file, kind, verdict), count) in &self.counts {
            writeln!(f, "  {file:<24} {kind:<12} {verdict:<12} {count}")?;
        }
        Ok(())
    }
}

/// Names with numbers in them fall together.
fn kind_of(file: &Path) -> String {
    let name = file.display().to_string();
    match name.split_once("snap.") {
        Some((before, _)) => format!("{before}snap.*"),
        None if name.contains("snapshots/") => "snapshots/*".to_owned(),
        None => name,
    }
}

/// All damages that [`damage::of_each_kind`] knows to the files of `sample`.
///
/// # Errors
/// Those of the file system.
pub fn damages(sample: &Path, flips: u64) -> Outcome<Vec<(std::path::PathBuf, Damage)>> {
    let mut all = Vec::new();
    for file in files_below(sample)? {
        let kinds = damage::of_each_kind(&sample.join(&file), flips)?;
        all.extend(kinds.into_iter().map(|damage| (file.clone(), damage)));
    }
    Ok(all)
}

/// Does each of `damages` to a copy of `sample`, and opens it in this process.
///
/// # Errors
/// If a copy cannot be made, or cannot be judged.
pub fn open_copies(
    sample: &Path,
    damages: &[(std::path::PathBuf, Damage)],
    matrix: &mut Matrix,
    panics: &Panics,
) -> Outcome<()> {
    let expected = Arranged::expected()?;
    // In memory where there is such a place: this is about content, not about power.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let copy = scratch.path().join("node");
    let open = |change: &dyn Fn(&Path) -> io::Result<()>| -> Outcome<Found> {
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_directory(sample, &copy)?;
        change(&copy)?;
        judge::open(&copy, &expected)
    };
    let before = open(&|_| Ok(()))?;
    for (file, damage) in damages {
        let after = open(&|copy| damage.apply(&copy.join(file)))?;
        let verdict = match panics.take_of_other_threads() {
            // In a server this ends the process, at each start, without the name of a file.
            Some(panic) => Verdict::Wrong(format!("a background thread panicked: {panic}")),
            None => judge::judge(&copy, file, &before, &after),
        };
        matrix.note(file, *damage, verdict);
    }
    Ok(())
}
