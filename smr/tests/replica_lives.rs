//! A replica's directory whose lives are damaged one after the other: each start ends in a life that can be readmitted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use smr::id::{Incarnation, NodeName};
use smr::protocol::ReadMode;
use smr::raft::CLOCK_DRIFT_PERMILLE;
use smr::replica::{Opened, ReplicaOptions};

fn open(directory: &Path, runtime: &tokio::runtime::Runtime) -> Incarnation {
    let opened = Opened::open(ReplicaOptions {
        group: "g".parse().unwrap(),
        name: NodeName(0),
        peers: BTreeMap::from([(NodeName(1), "127.0.0.1:1".to_owned()), (NodeName(2), "127.0.0.1:2".to_owned())]),
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        directory: directory.to_owned(),
        log_engine: smr::storage::Engine::Sled,
        allow_unsynced: true,
        reads: ReadMode::Index,
        clock_drift_permille: CLOCK_DRIFT_PERMILLE,
        runtime: runtime.handle().clone(),
    })
    .unwrap();
    assert!(!opened.is_born());
    opened.incarnation()
}

// covers D4
#[test]
fn next_life_damaged_too_is_put_aside_and_another_one_begins() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("g.0");
    // A log without a promise: whatever was promised there is forgotten.
    fs::create_dir_all(directory.join("log")).unwrap();
    let first = open(&directory, &runtime);
    assert!(directory.join("quarantine").exists());
    assert_eq!(open(&directory, &runtime), first, "a next life that is whole goes on");

    fs::write(directory.join("next").join("promise"), [0xff; 1024]).unwrap();
    let second = open(&directory, &runtime);
    assert_ne!(second, first);
    assert!(directory.join("damaged-next").exists());
    assert_eq!(open(&directory, &runtime), second);
}
