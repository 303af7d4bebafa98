//! Directories: which name stands for what, as programs see it and as it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::{Inode, ROOT, State};

/// One atomic change of names.
#[derive(Clone)]
pub(super) struct NameChange {
    /// What each name stands for from then on.
    names: Vec<(Inode, String, Option<Inode>)>,
    /// The directories whose sync it still waits for.
    unsynced: BTreeSet<Inode>,
}

impl NameChange {
    pub(super) fn touches(&self, other: &NameChange) -> bool {
        self.names.iter().any(|(directory, name, _)| {
            other
                .names
                .iter()
                .any(|(other_directory, other_name, _)| directory == other_directory && name == other_name)
        })
    }

    pub(super) fn apply(&self, directories: &mut BTreeMap<Inode, BTreeMap<String, Inode>>) {
        for (directory, name, inode) in &self.names {
            let names = directories.entry(*directory).or_default();
            match inode {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
    }
}

impl State {
    pub(super) fn find(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for name in names(path) {
            let names = self.current.get(&inode).ok_or(io::ErrorKind::NotADirectory)?;
            inode = *names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(inode)
    }

    /// The directory that a path lies in, and its name there.
    pub(super) fn find_parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let name = names(path).pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.find(path.parent().unwrap_or(Path::new("")))?;
        if self.current.contains_key(&parent) { Ok((parent, name)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn change(&mut self, names: Vec<(Inode, String, Option<Inode>)>) {
        let unsynced = names.iter().map(|(directory, _, _)| *directory).collect();
        let change = NameChange { names, unsynced };
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn make_directory(&mut self) -> Inode {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.current.insert(inode, BTreeMap::new());
        self.durable.insert(inode, BTreeMap::new());
        inode
    }

    pub(super) fn sync_dir(&mut self, directory: Inode) {
        for change in &mut self.pending {
            change.unsynced.remove(&directory);
        }
        // In order, and never one without the earlier ones of the same name.
        let mut waiting: Vec<NameChange> = Vec::new();
        let durable: Vec<usize> = (0..self.pending.len()).filter(|at| self.pending[*at].unsynced.is_empty()).collect();
        let mut needed: BTreeSet<usize> = durable.into_iter().collect();
        for at in (0..self.pending.len()).rev() {
            let change = &self.pending[at];
            if needed.iter().any(|later| *later > at && self.pending[*later].touches(change)) {
                needed.insert(at);
            }
        }
        for (at, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if needed.contains(&at) {
                change.apply(&mut self.durable);
            } else {
                waiting.push(change);
            }
        }
        self.pending = waiting;
    }
}

pub(super) fn names(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect()
}
