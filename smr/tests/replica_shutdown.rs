//! A replica that is shut down while requests stream in: each of them gets exactly one outcome.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use smr::replica::{Opened, Outcome, ReplicaHandle, ReplySink, ReplyTo, Request};

use replica_support::{Counter, listener, options};

/// How long an outcome may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many outcomes each request got.
#[derive(Default)]
struct Outcomes {
    counts: Mutex<BTreeMap<u64, u32>>,
    changed: Condvar,
}

impl Outcomes {
    fn wait_until(&self, done: impl Fn(&BTreeMap<u64, u32>) -> bool) -> BTreeMap<u64, u32> {
        let counts = self.counts.lock().unwrap();
        let (counts, _) = self.changed.wait_timeout_while(counts, TIMEOUT, |counts| !done(counts)).unwrap();
        counts.clone()
    }
}

impl ReplySink for Outcomes {
    fn deliver(&self, tag: u64, _outcome: Outcome) {
        *self.counts.lock().unwrap().entry(tag).or_default() += 1;
        self.changed.notify_all();
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        panic!("no long answers in this test");
    }
}

/// Asks without pause until told to stop; how many requests that were.
fn ask(replica: &ReplicaHandle, outcomes: &Arc<Outcomes>, enough: &AtomicBool) -> u64 {
    let mut asked = 0;
    while !enough.load(Ordering::SeqCst) {
        let request = match asked % 2 {
            0 => Request::Idempotent { command: Bytes::from_static(b"up") },
            _ => Request::Read { query: Bytes::new() },
        };
        replica.submit(request, ReplyTo { tag: asked, sink: outcomes.clone() });
        asked += 1;
        // A client waits for its answers; here it only has to leave the others some time.
        thread::yield_now();
    }
    asked
}

// covers B10
#[test]
fn shutdown_under_load_each_request_gets_one_outcome() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let opened = Opened::open(options(0, [], listener(), &directory.path().join("g.0"), &runtime)).unwrap();
    let replica = opened.run(Counter::default()).unwrap();
    let outcomes = Arc::new(Outcomes::default());
    let enough = Arc::new(AtomicBool::new(false));
    let asking = {
        let (replica, outcomes, enough) = (replica.clone(), outcomes.clone(), enough.clone());
        thread::spawn(move || ask(&replica, &outcomes, &enough))
    };
    assert!(outcomes.wait_until(|counts| counts.len() > 1_000).len() > 1_000, "no answers");
    replica.shutdown();
    enough.store(true, Ordering::SeqCst);
    let asked = asking.join().unwrap();
    let counts = outcomes.wait_until(|counts| counts.len() as u64 == asked);
    assert_eq!(
        counts.len() as u64,
        asked,
        "requests without an outcome: the first is {:?}",
        (0..asked).find(|tag| !counts.contains_key(tag))
    );
    assert!(counts.values().all(|&count| count == 1), "a request with two outcomes");
    runtime.shutdown_background();
}
