//! The small files of a replica's directory.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, Genesis, HardState, Index, Payload, SnapshotMeta, Term};
use smr::epoch::GroupKind;
use smr::id::{Incarnation, NodeId};
use smr::internals::disk::{Disk, read_file};
use smr::internals::protocol::LogChange;
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, OpenOutcome, ReplicaDirectory, StorageError, Store, StoreOptions,
};
use smr_sim::journal;
use smr_sim::virtual_disk::{Loss, VirtualDisk};

pub(super) const ME: NodeId = NodeId::new(0, 0xa);
const ROOT: &str = "/data/node";
pub(super) const HARD_STATE: &str = "promise";
pub(super) const WATERMARK: &str = "mark";
pub(super) const JOURNAL: &str = "log/journal";
pub(super) const QUARANTINE: &str = "quarantine";

pub(super) fn genesis() -> Genesis {
    let group = "s0".parse().unwrap_or_else(|error| panic!("{error}"));
    Genesis { cluster: None, group, members: [ME, NodeId::new(1, 0xb), NodeId::new(2, 0xc)].into() }
}

pub(super) fn entries() -> Vec<Entry> {
    let entry = |index, payload| Entry { id: EntryId::new(index, 2), payload };
    let configuration = Configuration { voters: genesis().members, ..Configuration::default() };
    vec![
        entry(2, Payload::Noop),
        entry(3, Payload::Command(Bytes::from_static(b"a command"))),
        entry(4, Payload::Configuration(configuration)),
    ]
}

pub(super) fn meta() -> SnapshotMeta {
    let configuration = Configuration { voters: genesis().members, ..Configuration::default() };
    SnapshotMeta { last: EntryId::new(4, 2), configuration, configuration_index: Index(4) }
}

fn open(disk: &VirtualDisk) -> Option<OpenOutcome> {
    let expected = ExpectedIdentity { group: genesis().group, name: ME.name, cluster: None };
    let directory = ReplicaDirectory::open(Arc::new(disk.clone()), Path::new(ROOT), expected).ok()?;
    let options = StoreOptions {
        snapshot: SnapshotMeta::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: Incarnation(0xa),
        engine: journal::JOURNAL,
        allow_unsynced: true,
        now_unix_s: 1,
        start_nonce: 1,
    };
    Store::open(directory, &options).ok()
}

/// A founder with a vote and some entries, closed.
fn founder() -> VirtualDisk {
    let disk = VirtualDisk::new();
    let Some(OpenOutcome::Store(opened)) = open(&disk) else { panic!("an empty disk opens") };
    let mut store = opened.store;
    let bootstrap = BootstrapState::Initialized { genesis: genesis().hash(), founders: Some(genesis()) };
    let fatal = |error: StorageError| panic!("{error}");
    store.initialize(bootstrap, genesis().cluster_id()).unwrap_or_else(fatal);
    store.save(&HardState { term: Term(2), vote: Some(ME), lease_us: 0 }.into()).unwrap_or_else(fatal);
    store.apply(&LogChange::Append(entries())).unwrap_or_else(fatal);
    store.sync().unwrap_or_else(fatal);
    drop(store);
    disk.after_crash(Loss::Nothing)
}

pub(super) fn put(disk: &VirtualDisk, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(file, true)?;
    file.set_len(bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

/// Opens the founder's directory with other bytes in one file. What opens has the founder's vote and all its entries,
/// heals, or is known to be damaged; the journal's end may be missing, as far as the watermark does not speak for it.
pub(super) fn open_with(file: &str, bytes: &[u8]) {
    let disk = founder();
    put(&disk, &Path::new(ROOT).join(file), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Some(OpenOutcome::Store(opened)) = open(&disk) {
        assert_eq!(opened.hard_state(), HardState { term: Term(2), vote: Some(ME), lease_us: 0 });
        // One that heals knows that it lacks some.
        if opened.healing.is_none() {
            assert_eq!(opened.entries.len(), 1 + entries().len(), "entries are missing");
        }
    }
}

pub(super) fn sound_file(file: &str) -> Vec<Vec<u8>> {
    let bytes = read_file(&founder(), &Path::new(ROOT).join(file), 1 << 20);
    vec![bytes.unwrap_or_else(|error| panic!("{file}: {error}"))]
}

pub(super) fn sound_quarantine() -> Vec<Vec<u8>> {
    vec![b"reason: /data/node/mark: missing\nsince_unix_s: 1700000000\n".to_vec()]
}
