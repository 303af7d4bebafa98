//! A running replica that must not take part any longer: it is put into quarantine where it stands, its data is kept,
//! it goes on answering for its status, and the group may readmit its replica without a restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use smr::entry::{EntryId, Genesis, GenesisHash, SnapshotMeta};
use smr::epoch::GroupKind;
use smr::id::{Disqualified, Incarnation, NodeId, ReplicaId};
use smr::internals::disk::RealDisk;
use smr::internals::snapshot::SnapshotDir;
use smr::internals::storage::{
    self, BootstrapState, ExpectedIdentity, LogEngine, ReplicaDirectory, Store, StoreOptions,
};
use smr::replica::{Opened, Outcome, ReplicaHandle, ReplicaOptions, Request};
use smr::status::ServiceState;
use tokio::runtime::Runtime;

use replica_support::{Counter, ask, listener, options, status, wait_until};

fn founders(size: u16) -> Genesis {
    let members = (0..size).map(|name| NodeId::new(name, u64::from(name) + 10)).collect();
    Genesis { cluster: None, group: "g".parse().unwrap(), members }
}

/// A directory as the founding of the group leaves it.
fn found(directory: &Path, name: u16, size: u16) {
    let expected = ExpectedIdentity { group: "g".parse().unwrap(), name: ReplicaId(name), cluster: None };
    let options = StoreOptions {
        snapshot: SnapshotMeta::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: Incarnation(u64::from(name) + 10),
        engine: LogEngine::Segments,
        allow_unsynced: true,
        now_unix_s: 0,
        start_nonce: 1,
    };
    let directory = ReplicaDirectory::open(Arc::new(RealDisk), directory, expected).unwrap();
    let storage::OpenOutcome::Store(opened) = Store::open(directory, &options).unwrap() else { panic!("quarantined") };
    let founders = founders(size);
    let bootstrap = BootstrapState::Initialized { genesis: founders.hash(), founders: Some(founders.clone()) };
    let mut store = opened.store;
    store.initialize(bootstrap, founders.cluster_id()).unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            fs::copy(item.path(), to).unwrap();
        }
    }
}

/// A group on loopback whose replicas may be stopped and started again.
struct Site {
    runtime: Runtime,
    directory: tempfile::TempDir,
    addresses: Vec<String>,
    /// Keeps the addresses of those that do not run.
    listeners: Vec<TcpListener>,
}

impl Site {
    fn of(size: u16) -> Site {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let listeners: Vec<TcpListener> = (0..size).map(|_| listener()).collect();
        let addresses = listeners.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
        let site = Site { runtime: runtime(), directory, addresses, listeners };
        (0..size).for_each(|name| found(&site.path(name), name, size));
        site
    }

    fn path(&self, name: u16) -> std::path::PathBuf {
        self.directory.path().join(format!("g.{name}"))
    }

    fn options(&self, name: u16) -> ReplicaOptions {
        let peers = (0..).zip(self.addresses.clone()).filter(|(peer, _)| *peer != name);
        let listener = self.listeners[usize::from(name)].try_clone().unwrap();
        let options = options(name, peers, listener, &self.path(name), &self.runtime);
        ReplicaOptions { log_engine: LogEngine::Segments, ..options }
    }

    /// Opens a directory as soon as no one has it any more.
    fn open(&self, name: u16) -> Opened {
        wait_until("the directory's lock", || Opened::open(self.options(name)).ok())
    }

    fn start(&self, name: u16) -> ReplicaHandle {
        self.start_shown(name).0
    }

    /// The second value shows what the replica has counted.
    fn start_shown(&self, name: u16) -> (ReplicaHandle, Arc<AtomicU64>) {
        let state = Counter::default();
        let shown = Arc::clone(&state.shown);
        (self.open(name).run(state).unwrap(), shown)
    }
}

fn await_quarantine(replica: &ReplicaHandle) -> String {
    wait_until("the quarantine", || match status(replica).service_state {
        ServiceState::Quarantined { reason } => Some(reason),
        ServiceState::InService | ServiceState::Uninitialized => None,
    })
}

fn await_leader<'a>(replicas: &[&'a ReplicaHandle]) -> &'a ReplicaHandle {
    wait_until("a leader that writes", || {
        let writes = |replica: &&&ReplicaHandle| {
            matches!(ask(replica, Request::Idempotent { command: Bytes::from("count") }), Outcome::Answer(_))
        };
        replicas.iter().find(writes).copied()
    })
}

// covers M18: two peers have seen a later start than that of the copy; the replica learns it from them, and its replica
// is readmitted while it runs.
#[test]
fn replica_on_a_copy_of_its_directory_is_quarantined_while_it_runs_and_readmitted_without_a_restart() {
    let site = Site::of(3);
    let ((first, counted), second) = (site.start_shown(0), site.start(1));
    let set_back = site.start(2);
    await_leader(&[&first, &second, &set_back]);
    set_back.shutdown();
    drop(set_back);
    drop(site.open(2));
    let backup = site.directory.path().join("backup");
    copy(&site.path(2), &backup);
    let later = site.start(2);
    let leader = await_leader(&[&first, &second, &later]);
    wait_until("the later start to be seen", || {
        let ahead = status(leader).commit;
        (status(&later).commit >= ahead).then_some(())
    });
    later.shutdown();
    drop(later);
    drop(site.open(2));

    fs::remove_dir_all(site.path(2)).unwrap();
    copy(&backup, &site.path(2));
    let (set_back, shown) = site.start_shown(2);
    let reason = await_quarantine(&set_back);
    assert!(reason.contains("set back or copied") && reason.contains("replica"), "{reason}");
    wait_until("the quarantine to be written down", || site.path(2).join("quarantine").exists().then_some(()));
    assert!(site.path(2).join("log").exists() && site.path(2).join("promise").exists(), "its data is kept");
    let write = ask(&set_back, Request::Idempotent { command: Bytes::from("count") });
    assert!(matches!(&write, Outcome::OutOfService(why) if why.contains("set back")), "{write:?}");
    let former = Incarnation(12);
    assert_ne!(set_back.start().0, former);

    wait_until("the readmission", || {
        let name = ReplicaId(2);
        [&first, &second].into_iter().find(|replica| ask(replica, Request::Readmit { name }) == Outcome::Done)
    });
    wait_until("the readmitted replica to serve", || {
        (status(&set_back).service_state == ServiceState::InService).then_some(())
    });
    // Its state is another one by now; the host looks into it as before.
    wait_until("what it has counted", || {
        let counts = [&counted, &shown].map(|count| count.load(Ordering::SeqCst));
        (counts[0] >= 2 && counts[0] == counts[1]).then_some(())
    });
    [&first, &second, &set_back].into_iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}

// covers M18 M21: what a manager knows, for one that runs and for one that does not yet; a restart ends in the same
// place.
#[test]
fn replica_that_the_manager_disqualifies_goes_into_quarantine_with_the_reason_and_stays_there() {
    let site = Site::of(1);
    let replica = site.start(0);
    await_leader(&[&replica]);
    let why = Disqualified::Replaced { by: Incarnation(0xbeef) };
    assert!(replica.disqualify(why, "the manager"));
    let reason = await_quarantine(&replica);
    assert!(reason.contains("beef") && reason.contains("the manager says so"), "{reason}");
    replica.shutdown();
    drop(replica);
    let replica = site.start(0);
    assert_eq!(await_quarantine(&replica), reason);
    replica.shutdown();
    drop(replica);

    let site = Site::of(1);
    let opened = site.open(0);
    assert!(opened.is_initialized());
    let opened = opened.disqualify(why, "the manager").unwrap();
    assert!(!opened.is_initialized());
    let replica = opened.run(Counter::default()).unwrap();
    assert_eq!(await_quarantine(&replica), reason);
    replica.shutdown();
    site.runtime.shutdown_background();
}

// covers M23 S6
#[test]
fn snapshot_of_another_group_among_ones_own_is_set_aside_and_the_log_stays() {
    let site = Site::of(1);
    let disk = Arc::new(RealDisk);
    let snapshots = site.path(0).join("snapshots");
    let (foreign, _) = SnapshotDir::open(disk, snapshots.clone(), "g".parse().unwrap(), None).unwrap();
    let meta = SnapshotMeta { last: EntryId::new(500, 9), ..SnapshotMeta::default() };
    foreign.write(&meta, GenesisHash(0xbad), |output| output.write_all(&[0; 64])).unwrap();
    drop(foreign);

    let replica = site.start(0);
    await_leader(&[&replica]);
    let status = status(&replica);
    assert_eq!((status.service_state, status.snapshot), (ServiceState::InService, EntryId::ZERO));
    assert!(status.last.index.0 < 500, "{}", status.last);
    let left: Vec<_> = fs::read_dir(&snapshots).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert!(left.iter().any(|name| name.to_string_lossy().contains("bad")), "kept for whoever operates it: {left:?}");
    replica.shutdown();
    site.runtime.shutdown_background();
}
