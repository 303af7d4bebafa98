//! What an agent remembers of its replicas, for the one that comes after it.
//!
//! The file `replicas` in the agent's directory is one frame of [`smr::codec`]. It is written beside, synced and
//! renamed, so a crash leaves the old one or the new one. It names the boot of the host: process numbers mean nothing
//! in another.

use std::io;
use std::path::Path;

use madkv_proto::agent::{LaunchCommand, ProcessId};
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::id::Incarnation;
use smr::internals::disk::{Disk, FrameFile};

use super::replica::Name;

/// The file: at most that many replicas with ordinary command lines, several times over.
const FILE: FrameFile = FrameFile { name: "replicas", kind: 0x4d28, max_bytes: codec::FRAME_PAYLOAD_MAX_BYTES as u64 };
/// The version of its bytes.
const VERSION: u16 = 1;

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
    let Some(file) = FILE.load::<File>(disk, directory)? else { return Ok(None) };
    if file.version != VERSION {
        let path = directory.join(FILE.name);
        return Err(format!("{}: of version {}, and this build reads version {VERSION}", path.display(), file.version));
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
    FILE.save(disk, directory, &File { version: VERSION, boot: boot(), known: known.clone() })
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
        codec::frame(&mut bytes, FILE.kind, &file).unwrap();
        std::fs::write(directory.path().join(FILE.name), bytes).unwrap();
        let found = load(&RealDisk, directory.path()).unwrap().unwrap();
        assert!(found.replicas.len() == 2 && found.replicas.iter().all(|replica| replica.process.is_none()));
    }

    #[test]
    fn load_damaged_or_newer_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        save(&RealDisk, directory.path(), &known()).unwrap();
        let path = directory.path().join(FILE.name);
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
        codec::frame(&mut bytes, FILE.kind, &file).unwrap();
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&RealDisk, directory.path()).unwrap_err().contains("version 2"));
    }
}
