//! A replica's directory whose incarnations are damaged one after the other: each start ends in an incarnation that can
//! be readmitted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::fs;
use std::path::Path;

use smr::id::Incarnation;
use smr::replica::Opened;

use replica_support::{listener, options};

fn open(directory: &Path, runtime: &tokio::runtime::Runtime) -> Incarnation {
    let peers = [(1, "127.0.0.1:1".to_owned()), (2, "127.0.0.1:2".to_owned())];
    let opened = Opened::open(options(0, peers, listener(), directory, runtime)).unwrap();
    assert!(!opened.is_initialized());
    opened.incarnation()
}

// covers D4
#[test]
fn next_incarnation_damaged_too_is_put_aside_and_another_one_begins() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("g.0");
    // A log without a hard state: term and vote are forgotten.
    fs::create_dir_all(directory.join("log")).unwrap();
    let first = open(&directory, &runtime);
    assert!(directory.join("quarantine").exists());
    assert_eq!(open(&directory, &runtime), first, "a next incarnation that is whole goes on");

    fs::write(directory.join("next").join("promise"), [0xff; 1024]).unwrap();
    let second = open(&directory, &runtime);
    assert_ne!(second, first);
    assert!(directory.join("damaged-next").exists());
    assert_eq!(open(&directory, &runtime), second);
}
