//! A replica that is tuned while it runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use smr::replica::{Opened, Outcome, Request, Tuning};

use replica_support::{Counter, ask, listener, options, status, wait_until};

const BOUND: u64 = 64 << 10;

#[test]
fn snapshots_follow_the_bound_that_is_set_while_it_runs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::open(options(0, [], listener(), directory.path(), &runtime)).unwrap();
    let state = Counter::default();
    let shown = state.shown.clone();
    let replica = opened.run(state).unwrap();
    wait_until("a leader", || status(&replica).leader);
    let write = || {
        let command = Bytes::from(vec![7; 8 << 10]);
        wait_until("a write", || match ask(&replica, Request::Idempotent { command: command.clone() }) {
            Outcome::Answer(_) => Some(()),
            _ => None,
        });
    };
    for _ in 0..16 {
        write();
    }
    assert_eq!(status(&replica).snapshot.index.0, 0, "by itself only after 16 MiB");
    let tuning = Tuning { snapshot_log_max_bytes: BOUND, ..Tuning::default() };
    assert!(replica.tune(tuning) && replica.tune(tuning));
    write();
    let first = wait_until("a snapshot", || Some(status(&replica).snapshot.index.0).filter(|index| *index > 0));
    for _ in 0..16 {
        write();
    }
    wait_until("another one", || Some(status(&replica).snapshot.index.0).filter(|index| *index > first));
    // What no core can work with is not used, and does no harm.
    assert!(replica.tune(Tuning { election_timeout_ms: 1, ..tuning }));
    write();
    assert!(replica.tune(Tuning { election_timeout_ms: 5_000, ..tuning }));
    write();
    replica.shutdown();
    // Its last thread may still be on its way out.
    let tunings = [BOUND + 1, BOUND].into_iter().cycle();
    let mut tunings = tunings.map(|bound| Tuning { snapshot_log_max_bytes: bound, ..tuning });
    wait_until("that no one hears it any more", || (!replica.tune(tunings.next()?)).then_some(()));

    // What the host looks into is, after a restart, what the snapshot holds, and what came after it.
    let before = shown.load(Ordering::SeqCst);
    let options = || options(0, [], listener(), directory.path(), &runtime);
    let opened = wait_until("the directory's lock", || Opened::open(options()).ok());
    let state = Counter::default();
    let shown = state.shown.clone();
    let replica = opened.run(state).unwrap();
    wait_until("what was counted", || (shown.load(Ordering::SeqCst) == before).then_some(()));
    replica.shutdown();
}
