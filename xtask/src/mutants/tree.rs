//! The copy of the tree that bugs are put into.
//!
//! It lies in `target/mutants/`, with a target directory of its own that all bugs share, so a build compiles only what
//! the bug changes. A file is written only if its content differs: cargo goes by times.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// See the module.
#[derive(Debug)]
pub struct Tree {
    /// The repository.
    root: PathBuf,
    /// The copy.
    copy: PathBuf,
    /// Where the copy is built.
    target: PathBuf,
}

/// Why the copy cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file system.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// A program that is needed.
    #[error("{0}")]
    Program(String),
    /// The bug does not fit the tree.
    #[error("does not apply: {0}")]
    Stale(String),
}

fn at(path: &Path) -> impl Fn(io::Error) -> TreeError {
    let path = path.to_owned();
    move |error| TreeError::Io(path.clone(), error)
}

fn output(command: &mut Command) -> Result<Output, TreeError> {
    command.output().map_err(|error| TreeError::Program(format!("{command:?}: {error}")))
}

fn stdout(command: &mut Command) -> Result<String, TreeError> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(TreeError::Program(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// The root of the repository that the present directory lies in.
///
/// # Errors
/// If it lies in none.
pub fn root() -> Result<PathBuf, TreeError> {
    let root = stdout(Command::new("git").args(["rev-parse", "--show-toplevel"]))?;
    Ok(PathBuf::from(root.trim_end_matches('\n')))
}

impl Tree {
    /// Makes the copy, or brings an earlier one up to date.
    ///
    /// # Errors
    /// Those of `git` and of the file system.
    pub fn prepare(root: &Path) -> Result<Tree, TreeError> {
        let place = root.join("target").join("mutants");
        let tree = Tree { root: root.to_owned(), copy: place.join("tree"), target: place.join("target") };
        fs::create_dir_all(&tree.copy).map_err(at(&tree.copy))?;
        tree.refresh()?;
        Ok(tree)
    }

    /// The copy.
    pub fn path(&self) -> &Path {
        &self.copy
    }

    /// Where it is built.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the copy equal to the tree again: whatever was put in is gone.
    ///
    /// # Errors
    /// Those of `git` and of the file system.
    pub fn refresh(&self) -> Result<(), TreeError> {
        let mut command = Command::new("git");
        command.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(&self.root);
        let listed = stdout(&mut command)?;
        let mut wanted = BTreeSet::new();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (self.root.join(name), self.copy.join(name));
            // One that was removed and not committed yet is still listed.
            let Ok(content) = fs::read(&from) else { continue };
            wanted.insert(to.clone());
            if fs::read(&to).is_ok_and(|present| present == content) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            fs::write(&to, content).map_err(at(&to))?;
        }
        remove_others(&self.copy, &wanted)
    }

    /// Replaces files of the copy.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, files: &[(PathBuf, String)]) -> Result<(), TreeError> {
        files.iter().try_for_each(|(path, content)| fs::write(path, content).map_err(at(path)))
    }
}

fn remove_others(directory: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), TreeError> {
    for item in fs::read_dir(directory).map_err(at(directory))? {
        let path = item.map_err(at(directory))?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}
