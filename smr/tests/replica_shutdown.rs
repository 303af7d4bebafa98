//! A replica that is shut down while requests stream in: each of them gets exactly one outcome.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use smr::entry::Index;
use smr::id::NodeName;
use smr::protocol::ReadMode;
use smr::raft::CLOCK_DRIFT_PERMILLE;
use smr::replica::{Opened, Outcome, ReplicaHandle, ReplicaOptions, ReplySink, ReplyTo, Request};
use smr::state_machine::{Answer, Image, StateMachine};

/// How long an outcome may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts commands.
#[derive(Clone, Default)]
struct Counter(u64);

impl Image for Counter {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(&self.0.to_le_bytes())
    }
}

impl StateMachine for Counter {
    type Image = Counter;

    fn apply(&mut self, _index: Index, _command: &[u8]) -> Vec<u8> {
        self.0 += 1;
        self.0.to_le_bytes().to_vec()
    }

    fn query(&self, _query: &[u8]) -> Answer {
        Answer::Now(self.0.to_le_bytes().to_vec())
    }

    fn image(&self) -> Counter {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Counter> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Counter(u64::from_le_bytes(bytes)))
    }
}

/// How many outcomes each request got.
#[derive(Default)]
struct Outcomes {
    counts: Mutex<BTreeMap<u64, u32>>,
    changed: Condvar,
}

impl Outcomes {
    fn wait_until(&self, done: impl Fn(&BTreeMap<u64, u32>) -> bool) -> BTreeMap<u64, u32> {
        let counts = self.counts.lock().unwrap();
        let (counts, _) = self.changed.wait_timeout_while(counts, PATIENCE, |counts| !done(counts)).unwrap();
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
    let opened = Opened::open(ReplicaOptions {
        group: "g".parse().unwrap(),
        name: NodeName(0),
        peers: BTreeMap::new(),
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        directory: directory.path().join("g.0"),
        log_engine: smr::storage::Engine::Sled,
        allow_unsynced: true,
        reads: ReadMode::Index,
        clock_drift_permille: CLOCK_DRIFT_PERMILLE,
        runtime: runtime.handle().clone(),
    })
    .unwrap();
    let replica = opened.run(None, Counter::default()).unwrap();
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
