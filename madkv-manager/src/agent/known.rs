//! What an agent remembers of its replicas, for the one that comes after it.
//!
//! The file `replicas` in the agent's directory is one frame of [`smr::codec`]. It is written beside, synced and
//! renamed, so a crash leaves the old one or the new one. It names the boot of the host: process numbers mean nothing
//! in another.

use std::io;
use std::path::Path;

use madkv_proto::agent::{LaunchCommand, ProcessId};
use serde::{Deserialize, Serialize};
use smr::codec::{self, FrameHeader, HEADER_LEN_BYTES};
use smr::id::Incarnation;
use smr::internals::disk::{Disk, read_file};

use super::replica::Name;

/// The file's name.
const FILE: &str = "replicas";
/// The name under which it is written.
const FILE_NEW: &str = "replicas.new";
/// Kind of its frame.
const KIND_KNOWN: u16 = 0x4d28;
/// The version of its bytes.
const VERSION: u16 = 1;
/// The longest file, in bytes: that many replicas with ordinary command lines, several times over.
const FILE_MAX_BYTES: u64 = codec::FRAME_PAYLOAD_MAX_BYTES as u64;

/// What is known of the replicas of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Where the agent listened.
    pub(super) listen: String,
    pub(super) replicas: Vec<KnownReplica>,
}

/// What is known of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownReplica {
    pub(super) name: Name,
    pub(super) console: u32,
    pub(super) command: Option<LaunchCommand>,
    pub(super) incarnation: Option<Incarnation>,
    /// Its process, if it had one.
    pub(super) process: Option<ProcessId>,
    /// Whether it was ended in order.
    pub(super) is_stopped: bool,
    /// The last order that was carried out.
    pub(super) order: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u16,
    boot: String,
    known: Known,
}

/// Which boot of the host this is.
fn boot() -> String {
    // Without it, every process counts as one of another boot: what runs then has to dial before it is known.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Reads what the agent before this one knew; `None` if there was none. Processes of another boot are left out.
///
/// # Errors
/// If the file cannot be read, or is damaged; the text names it.
pub(super) fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Known>, String> {
    let path = directory.join(FILE);
    let damaged = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let bytes = match read_file(disk, &path, FILE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(damaged(&error)),
    };
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
        return Err(damaged(&"too short"));
    };
    let header = FrameHeader::parse(header, FILE_MAX_BYTES as usize).map_err(|error| damaged(&error))?;
    if header.kind != KIND_KNOWN || header.payload_len_bytes != payload.len() {
        return Err(damaged(&"of another kind or length"));
    }
    header.verify(payload).map_err(|error| damaged(&error))?;
    let file: File = codec::decode(payload).map_err(|error| damaged(&error))?;
    if file.version != VERSION {
        let what = format!("of version {}, and this build reads version {VERSION}", file.version);
        return Err(damaged(&what));
    }
    let mut known = file.known;
    if file.boot.is_empty() || file.boot != boot() {
        known.replicas.iter_mut().for_each(|replica| replica.process = None);
    }
    Ok(Some(known))
}

/// Remembers `known` in `directory`, durably.
///
/// # Errors
/// Those of the file system.
pub(super) fn save(disk: &dyn Disk, directory: &Path, known: &Known) -> io::Result<()> {
    let file = File { version: VERSION, boot: boot(), known: known.clone() };
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, KIND_KNOWN, &file).map_err(io::Error::other)?;
    let new = directory.join(FILE_NEW);
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&new, &directory.join(FILE))?;
    disk.sync_dir(directory)
}

#[cfg(test)]
mod tests {
    use smr::internals::disk::RealDisk;

    use super::*;

    fn known() -> Known {
        let replica = |number| KnownReplica {
            name: Name { partition: 0, replica: number },
            console: u32::from(number) + 1,
            command: None,
            incarnation: Some(Incarnation(7)),
            process: Some(ProcessId { pid: 8, started_ticks: 9 }),
            is_stopped: number == 1,
            order: 3,
        };
        Known { listen: "127.0.0.1:1".to_owned(), replicas: vec![replica(0), replica(1)] }
    }

    #[test]
    fn load_after_save_gives_the_same_and_of_another_boot_no_process() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load(&RealDisk, directory.path()), Ok(None));
        save(&RealDisk, directory.path(), &known()).unwrap();
        assert_eq!(load(&RealDisk, directory.path()), Ok(Some(known())));
        let file = File { version: VERSION, boot: "another".to_owned(), known: known() };
        let mut bytes = Vec::new();
        codec::frame(&mut bytes, KIND_KNOWN, &file).unwrap();
        std::fs::write(directory.path().join(FILE), bytes).unwrap();
        let found = load(&RealDisk, directory.path()).unwrap().unwrap();
        assert!(found.replicas.len() == 2 && found.replicas.iter().all(|replica| replica.process.is_none()));
    }

    #[test]
    fn load_damaged_or_newer_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        save(&RealDisk, directory.path(), &known()).unwrap();
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for place in [0, 8, 20, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let error = load(&RealDisk, directory.path()).unwrap_err();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        let file = File { version: 2, boot: String::new(), known: known() };
        let mut bytes = Vec::new();
        codec::frame(&mut bytes, KIND_KNOWN, &file).unwrap();
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&RealDisk, directory.path()).unwrap_err().contains("version 2"));
    }
}
