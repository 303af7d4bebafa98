//! What the tests of whole replicas share: a state machine that counts, and a replica's options on this machine.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpListener;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::entry::Index;
use smr::id::ReplicaId;
use smr::internals::raft::CLOCK_DRIFT_PERMILLE;
use smr::replica::{Outcome, ReplicaHandle, ReplicaOptions, ReplySink, ReplyTo, Request};
use smr::state_machine::{Answer, Image, StateMachine};
use smr::status::{ReadMode, ReplicaStatus};

/// How long anything may take that must happen, on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Counts commands, and shows the count to whoever has a copy of the value that the replica was made with.
#[derive(Clone, Default)]
pub(crate) struct Counter {
    count: u64,
    pub(crate) shown: Arc<AtomicU64>,
}

impl Image for Counter {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(&self.count.to_le_bytes())
    }

    /// By how much it has grown: from another base it leads to another number.
    fn write_difference(&self, base: &Counter, output: &mut dyn io::Write) -> io::Result<bool> {
        output.write_all(&(self.count - base.count).to_le_bytes())?;
        Ok(true)
    }
}

impl StateMachine for Counter {
    type Image = Counter;

    fn apply(&mut self, _index: Index, _command: &[u8]) -> Vec<u8> {
        self.count += 1;
        self.shown.store(self.count, Ordering::SeqCst);
        self.count.to_le_bytes().to_vec()
    }

    fn query(&self, _query: &[u8]) -> Answer {
        Answer::Now(self.count.to_le_bytes().to_vec())
    }

    fn image(&self) -> Counter {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Counter> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Counter { count: u64::from_le_bytes(bytes), shown: Arc::default() })
    }

    fn inherit(&mut self, from: &Counter) {
        self.shown = Arc::clone(&from.shown);
        self.shown.store(self.count, Ordering::SeqCst);
    }

    fn advance(image: Counter, difference: &mut dyn io::Read) -> io::Result<Counter> {
        Ok(Counter { count: image.count + Counter::restore(difference)?.count, shown: Arc::default() })
    }
}

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Prints each panic at once: a replica lets it end the process, before the harness shows what it has captured.
fn say_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            // Without stderr there is no one to tell.
            let _ = writeln!(io::stderr(), "{info}");
        }));
    });
}

/// ExpectedIdentity `name` of group `g`, with `peers` by replica and address.
pub(crate) fn options(
    name: u16,
    peers: impl IntoIterator<Item = (u16, String)>,
    listener: TcpListener,
    directory: &Path,
    runtime: &tokio::runtime::Runtime,
) -> ReplicaOptions {
    say_panics();
    let peers: BTreeMap<_, _> = peers.into_iter().map(|(name, address)| (ReplicaId(name), address)).collect();
    ReplicaOptions {
        group: "g".parse().unwrap(),
        name: ReplicaId(name),
        peers,
        listener,
        directory: directory.to_owned(),
        log_engine: smr::LogEngine::Sled,
        allow_unsynced: true,
        found_anew: false,
        joins: false,
        kind: smr::epoch::GroupKind::Raft,
        reads: ReadMode::Index,
        clock_drift_permille: CLOCK_DRIFT_PERMILLE,
        reports: Arc::new(smr::report::TracingReports),
        runtime: runtime.handle().clone(),
    }
}

/// Waits for one outcome.
struct Waiter(SyncSender<Outcome>);

impl ReplySink for Waiter {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        // Whoever has given up does not listen any more.
        let _ = self.0.send(outcome);
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

pub(crate) fn ask(replica: &ReplicaHandle, request: Request) -> Outcome {
    let (outcome, heard) = sync_channel(1);
    replica.submit(request, ReplyTo { tag: 0, sink: Arc::new(Waiter(outcome)) });
    heard.recv_timeout(TIMEOUT).unwrap()
}

pub(crate) fn status(replica: &ReplicaHandle) -> ReplicaStatus {
    match ask(replica, Request::Status) {
        Outcome::Status(status) => *status,
        other => panic!("the status is {other:?}"),
    }
}

pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < TIMEOUT, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
