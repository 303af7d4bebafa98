//! A replica with a damaged directory is readmitted by its running group: the directory has to learn of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use smr::entry::Genesis;
use smr::epoch::GroupKind;
use smr::id::{Incarnation, NodeId, ReplicaId};
use smr::internals::disk::RealDisk;
use smr::internals::storage::{
    self, BootstrapState, ExpectedIdentity, LogEngine, ReplicaDirectory, Store, StoreOptions,
};
use smr::replica::{Opened, Outcome, ReplicaHandle, Request};
use smr::status::ServiceState;

use replica_support::{Counter, ask, listener, options, status, wait_until};

/// The one whose directory gets damaged.
const DAMAGED: u16 = 2;

fn founders() -> Genesis {
    let members = [0, 1, DAMAGED].map(|name| NodeId::new(name, u64::from(name) + 10));
    Genesis { cluster: None, group: "g".parse().unwrap(), members: members.into() }
}

/// A directory as the founding of the group leaves it.
fn found(directory: &Path, name: u16) {
    let expected = ExpectedIdentity { group: "g".parse().unwrap(), name: ReplicaId(name), cluster: None };
    let options = StoreOptions {
        snapshot: Default::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: Incarnation(u64::from(name) + 10),
        engine: LogEngine::Sled,
        allow_unsynced: true,
        now_unix_s: 0,
        start_nonce: 1,
    };
    let directory = ReplicaDirectory::open(Arc::new(RealDisk), directory, expected).unwrap();
    let storage::OpenOutcome::Store(opened) = Store::open(directory, &options).unwrap() else { panic!("quarantined") };
    let bootstrap = BootstrapState::Initialized { genesis: founders().hash(), founders: Some(founders()) };
    let mut store = opened.store;
    store.initialize(bootstrap, founders().cluster_id()).unwrap();
}

// covers D5: the group has taken the new incarnation in; a directory that does not hear of it would be in quarantine
// for ever.
#[test]
fn readmitted_replica_is_out_of_quarantine_at_its_next_start() {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: u16| temporary.path().join(format!("g.{name}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listeners = [listener(), listener(), listener()];
    let addresses: Vec<String> = listeners.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
    let peers_of =
        |name: u16| (0..).zip(addresses.clone()).filter(move |(peer, _)| *peer != name).collect::<Vec<(u16, String)>>();
    let mut replicas = Vec::new();
    for (name, listener) in (0..).zip(listeners) {
        found(&path(name), name);
        if name == DAMAGED {
            fs::write(path(name).join("promise"), [0xff; 1024]).unwrap();
        }
        let opened = Opened::open(options(name, peers_of(name), listener, &path(name), &runtime)).unwrap();
        replicas.push(opened.run(Counter::default()).unwrap());
    }
    let damaged = usize::from(DAMAGED);
    assert!(path(DAMAGED).join("quarantine").exists());
    wait_until("the readmission", || {
        // Refused until there is a leader, and until it has met the newcomer.
        let name = ReplicaId(DAMAGED);
        replicas[..damaged].iter().find(|replica| ask(replica, Request::Readmit { name }) == Outcome::Done)
    });
    let node = wait_until("the readmitted replica to serve", || {
        let status = status(&replicas[damaged]);
        (status.service_state == ServiceState::InService).then_some(status.node)
    });

    // What was handed to the disk before the end is done before the directory's lock is let go.
    replicas[damaged].shutdown();
    let again = wait_until("the directory's lock", || {
        Opened::open(options(DAMAGED, peers_of(DAMAGED), listener(), &path(DAMAGED), &runtime)).ok()
    });
    let left: Vec<_> = fs::read_dir(path(DAMAGED)).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert!(!path(DAMAGED).join("quarantine").exists(), "still in quarantine: {left:?}");
    assert!(!path(DAMAGED).join("next").exists(), "{left:?}");
    assert_eq!((again.is_initialized(), again.incarnation()), (true, node.incarnation));
    replicas[..damaged].iter().for_each(ReplicaHandle::shutdown);
    runtime.shutdown_background();
}
