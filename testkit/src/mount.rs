//! A file system of its own in a file: small, or cut off from the machine's. Needs root and a loop device.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image. Unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Makes a sparse image with an ext4 in it.
    ///
    /// # Errors
    /// If that is not possible here.
    pub fn make_image(image: &Path, size_bytes: u64) -> io::Result<()> {
        File::create(image)?.set_len(size_bytes)?;
        // All of it for whoever writes: no blocks are kept back for root.
        command("mkfs.ext4", &["-q", "-F", "-m", "0", &text(image)])
    }

    /// Mounts an image at a directory, which is made.
    ///
    /// # Errors
    /// If that is not possible here.
    pub fn new(image: &Path, at: PathBuf) -> io::Result<Mount> {
        fs::create_dir_all(&at)?;
        command("mount", &["-t", "ext4", "-o", "loop,commit=600,noatime", &text(image), &text(&at)]).map_err(
            |error| io::Error::new(error.kind(), format!("{error} (mounting needs root and a loop device)")),
        )?;
        Ok(Mount { at, mounted: true })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// If someone still uses it.
    pub fn end(&mut self) -> io::Result<()> {
        if self.mounted {
            command("umount", &[&text(&self.at)])?;
            self.mounted = false;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
    }
}

/// Runs a program of the system.
///
/// # Errors
/// If it cannot be run, or fails; with what it said.
pub fn command(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}: {}", arguments.join(" "), output.status, said.trim())))
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
