//! What the storage tests share: a node with an identity, its directory, and short ways to write and open.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Genesis, Payload, SnapshotMeta};
use smr::epoch::GroupKind;
use smr::id::{Incarnation, NodeId, ReplicaId};
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, LogEngine, OpenError, OpenOutcome, OpenedStore, Quarantined, ReplicaDirectory,
    Store, StoreOptions,
};

/// The node that the tests are about.
pub(crate) const ME: NodeId = NodeId::new(0, 0xa);

pub(crate) fn genesis() -> Genesis {
    Genesis {
        cluster: None,
        group: "s0".parse().unwrap(),
        members: [ME, NodeId::new(1, 0xb), NodeId::new(2, 0xc)].into(),
    }
}

pub(crate) fn initialized() -> BootstrapState {
    BootstrapState::Initialized { genesis: genesis().hash(), founders: Some(genesis()) }
}

pub(crate) fn replica() -> ExpectedIdentity {
    ExpectedIdentity { group: "s0".parse().unwrap(), name: ReplicaId(0), cluster: None }
}

pub(crate) fn options(engine: LogEngine) -> StoreOptions {
    StoreOptions {
        snapshot: SnapshotMeta::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: ME.incarnation,
        engine,
        // So that the tests run on any file system; those about durability ask for it by themselves.
        allow_unsynced: true,
        now_unix_s: 1_700_000_000,
        start_nonce: 1,
    }
}

pub(crate) fn snapshot(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta { last: EntryId::new(index, term), ..SnapshotMeta::default() }
}

pub(crate) fn command(index: u64, term: u64, len: usize) -> Entry {
    let bytes = vec![(index % 251) as u8; len];
    Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::from(bytes)) }
}

pub(crate) fn batch(first: u64, count: u64, term: u64, len: usize) -> Vec<Entry> {
    (first..first + count).map(|index| command(index, term, len)).collect()
}

/// A node on some disk.
pub(crate) struct Bench {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) options: StoreOptions,
    _directory: Option<tempfile::TempDir>,
}

impl Bench {
    /// On the real disk, with sled.
    pub(crate) fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node");
        Bench { disk: Arc::new(RealDisk), path, options: options(LogEngine::Sled), _directory: Some(directory) }
    }

    /// On another disk, with this engine.
    pub(crate) fn with(engine: LogEngine, disk: impl Disk) -> Bench {
        Bench { disk: Arc::new(disk), path: PathBuf::from("/data/node"), options: options(engine), _directory: None }
    }

    /// The same node on another directory.
    pub(crate) fn at(path: &Path) -> Bench {
        Bench { disk: Arc::new(RealDisk), path: path.to_owned(), options: options(LogEngine::Sled), _directory: None }
    }

    pub(crate) fn open(&self) -> Result<OpenOutcome, OpenError> {
        self.open_with(&self.options)
    }

    pub(crate) fn open_with(&self, options: &StoreOptions) -> Result<OpenOutcome, OpenError> {
        Store::open(ReplicaDirectory::open(Arc::clone(&self.disk), &self.path, replica())?, options)
    }

    pub(crate) fn reopen(&self) -> OpenOutcome {
        self.open().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn reopen_with(&self, snapshot: SnapshotMeta) -> OpenOutcome {
        let options = StoreOptions { snapshot, ..self.options.clone() };
        self.open_with(&options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new node, initialized as a founder.
    pub(crate) fn founded(&self) -> Store {
        let mut store = self.reopen().store().store;
        store.initialize(initialized(), genesis().cluster_id()).unwrap();
        store
    }
}

/// Which way it went.
pub(crate) trait Which {
    /// Open, and whole.
    fn store(self) -> OpenedStore;
    /// Open, and silent because of damage: what was kept, and the reason.
    fn heals(self) -> (OpenedStore, String);
    fn quarantined(self) -> Quarantined;
}

impl Which for OpenOutcome {
    fn store(self) -> OpenedStore {
        match self {
            OpenOutcome::Store(store) => {
                assert_eq!(store.healing, None);
                *store
            }
            OpenOutcome::Quarantined(quarantined) => panic!("quarantined: {}", quarantined.reason),
        }
    }

    fn heals(self) -> (OpenedStore, String) {
        match self {
            OpenOutcome::Store(mut store) => {
                let healing = store.healing.take().unwrap_or_else(|| panic!("whole, {} entries", store.entries.len()));
                (*store, healing.reason)
            }
            OpenOutcome::Quarantined(quarantined) => panic!("quarantined: {}", quarantined.reason),
        }
    }

    fn quarantined(self) -> Quarantined {
        match self {
            OpenOutcome::Store(store) => panic!("opened with {} entries", store.entries.len()),
            OpenOutcome::Quarantined(quarantined) => *quarantined,
        }
    }
}

/// A node with another incarnation, for a next incarnation.
pub(crate) fn other_incarnation(options: &StoreOptions) -> StoreOptions {
    StoreOptions { incarnation_if_new: Incarnation(0xe), ..options.clone() }
}

/// All files under a directory with their content, by path relative to it.
pub(crate) fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

pub(crate) fn has_attribute(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    rustix::fs::ioctl_getflags(&file).unwrap().contains(rustix::fs::IFlags::SYNC)
}

/// The directory itself and what is in it, as far as it lacks the attribute S.
pub(crate) fn without_attribute(directory: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    inside.chain([directory.to_owned()]).filter(|path| !has_attribute(path)).collect()
}

/// For comparisons whose failure should be readable.
pub(crate) fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id).collect()
}

/// A temporary directory for what is about content alone: in memory where there is such a place, to spare the device.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
