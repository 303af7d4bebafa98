//! What can happen to a file at rest.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How far to look for a byte that is not zero, in bytes: most of a log's last segment is zeros, and to flip one of
/// them says little.
const LOOK_AHEAD_BYTES: usize = 64 << 10;
/// By how many bytes files are cut, besides by half.
pub const CUTS_BYTES: [u64; 3] = [1, 100, 4096];

/// One damage to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file is gone.
    Deleted,
    /// It has no content.
    Emptied,
    /// This many bytes are missing at its end; all, if it has fewer.
    CutBy(u64),
    /// The second half is missing.
    Halved,
    /// One bit is another.
    Flipped {
        /// Offset of its byte.
        at: u64,
        /// Its number in the byte.
        bit: u8,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Deleted => write!(f, "deleted"),
            Damage::Emptied => write!(f, "emptied"),
            Damage::CutBy(bytes) => write!(f, "cut by {bytes}"),
            Damage::Halved => write!(f, "halved"),
            Damage::Flipped { at, bit } => write!(f, "bit {bit} of byte {at} flipped"),
        }
    }
}

impl Damage {
    /// Does it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn apply(self, path: &Path) -> io::Result<()> {
        let file = || OpenOptions::new().read(true).write(true).open(path);
        match self {
            Damage::Deleted => fs::remove_file(path),
            Damage::Emptied => file()?.set_len(0),
            Damage::CutBy(bytes) => {
                let file = file()?;
                file.set_len(file.metadata()?.len().saturating_sub(bytes))
            }
            Damage::Halved => {
                let file = file()?;
                file.set_len(file.metadata()?.len() / 2)
            }
            Damage::Flipped { at, bit } => {
                let file = file()?;
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                byte[0] ^= 1 << bit;
                file.write_all_at(&byte, at)
            }
        }
    }

    /// In a table, flips stand together and so do cuts.
    pub fn kind(self) -> &'static str {
        match self {
            Damage::Deleted => "deleted",
            Damage::Emptied => "emptied",
            Damage::CutBy(_) | Damage::Halved => "cut",
            Damage::Flipped { .. } => "bit flipped",
        }
    }
}

/// Each kind of damage to a file; `flips` bits spread over it, where possible in bytes that are not zero.
///
/// # Errors
/// Those of the file system.
pub fn of_each_kind(path: &Path, flips: u64) -> io::Result<Vec<Damage>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut all = vec![Damage::Deleted];
    if len == 0 {
        return Ok(all);
    }
    all.extend([Damage::Emptied, Damage::Halved]);
    all.extend(CUTS_BYTES.map(Damage::CutBy));
    let mut ahead = vec![0; LOOK_AHEAD_BYTES];
    let flips = flips.min(len * 8);
    for number in 0..flips {
        let from = (u128::from(number) * u128::from(len) / u128::from(flips)) as u64; // below len
        let count = file.read_at(&mut ahead, from)?;
        let step = ahead[..count].iter().position(|byte| *byte != 0).unwrap_or(0);
        all.push(Damage::Flipped { at: from + step as u64, bit: (number % 8) as u8 });
    }
    Ok(all)
}

/// All files below a directory, as paths relative to it, in order.
///
/// # Errors
/// Those of the file system.
pub fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(directory).map_err(io::Error::other)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a directory with all in it. `to` must not exist.
///
/// # Errors
/// Those of the file system.
pub fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_directory(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_damage_changes_a_file_as_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let sound: Vec<u8> = (0..5000u32).map(|at| (at % 7) as u8).collect();
        fs::write(&path, &sound).unwrap();
        let all = of_each_kind(&path, 20).unwrap();
        assert_eq!(all.len(), 26);
        for damage in all {
            fs::write(&path, &sound).unwrap();
            damage.apply(&path).unwrap();
            let found = fs::read(&path).ok();
            match damage {
                Damage::Deleted => assert_eq!(found, None),
                Damage::Emptied => assert_eq!(found, Some(Vec::new())),
                Damage::CutBy(bytes) => assert_eq!(found.unwrap(), sound[..5000 - bytes as usize]),
                Damage::Halved => assert_eq!(found.unwrap(), sound[..2500]),
                Damage::Flipped { at, bit } => {
                    let at = at as usize;
                    assert!(sound[at] != 0, "{at}");
                    let found = found.unwrap();
                    assert_eq!(found[at] ^ sound[at], 1 << bit);
                    assert_eq!((&found[..at], &found[at + 1..]), (&sound[..at], &sound[at + 1..]));
                }
            }
        }
    }
}
