//! Appending to the log and waiting for the device: both engines, against a bare file.
//!
//! The bare file is written like a log in segments, with as many bytes at the same places: preallocated, full of zeros,
//! whole blocks, one write and one `fdatasync` for each batch. The three take turns, a few batches each, so that what
//! else the machine does touches all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Genesis, Index, Payload, SnapshotMeta};
use smr::epoch::GroupKind;
use smr::id::{Incarnation, NodeId, ReplicaId};
use smr::internals::disk::RealDisk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::segments::SEGMENT_BYTES;
use smr::internals::storage::{
    BootstrapState, ExpectedIdentity, LogEngine, OpenOutcome, ReplicaDirectory, Store, StoreOptions,
};

use madkv_testkit::launcher::LOG_ENGINE_VARIABLE;
use madkv_testkit::measure::{Latencies, Trouble, Usage};

/// Size of an entry's command, in bytes.
const COMMAND_BYTES: usize = 200;
/// What an entry, and a batch, occupy beside that in a segment, in bytes.
const ENTRY_BYTES: u64 = COMMAND_BYTES as u64 + 32;
const BATCH_BYTES: u64 = 36;
/// Batches of this many entries.
const BATCHES: [u64; 4] = [1, 8, 64, 512];
/// How many batches in a row, before it is the next one's turn.
const TURN_BATCHES: usize = 20;
/// This many entries stay in the log.
const RETAINED_ENTRIES: u64 = 10_000;
const BLOCK_BYTES: u64 = 4096;

/// One that is measured.
trait Contender {
    fn name(&self) -> String;
    /// Makes what is appended next.
    fn prepare(&mut self, count: u64);
    /// Appends it, and returns once it is on the device.
    fn write(&mut self) -> Result<(), Trouble>;
    /// What it does when no one waits any more.
    fn afterwards(&mut self) -> Result<(), Trouble>;
}

struct Log {
    engine: LogEngine,
    store: Store,
    command: Bytes,
    batch: LogChange,
}

impl Log {
    fn new(directory: &Path, engine: LogEngine) -> Result<Log, Trouble> {
        let node = NodeId { name: ReplicaId(0), incarnation: Incarnation(1) };
        let expected = ExpectedIdentity { group: "s0".parse()?, name: node.name, cluster: None };
        let options = StoreOptions {
            snapshot: SnapshotMeta::default(),
            kind: GroupKind::Raft,
            incarnation_if_new: node.incarnation,
            engine,
            allow_unsynced: true,
            now_unix_s: 0,
            start_nonce: 1,
        };
        let directory =
            ReplicaDirectory::open(Arc::new(RealDisk), &directory.join(engine.to_string()), expected.clone())?;
        let OpenOutcome::Store(opened) = Store::open(directory, &options)? else {
            return Err(format!("{engine}: a new directory is in quarantine").into());
        };
        let genesis = Genesis { cluster: None, group: expected.group, members: [node].into() };
        let mut store = opened.store;
        let cluster = genesis.cluster_id();
        store.initialize(BootstrapState::Initialized { genesis: genesis.hash(), founders: Some(genesis) }, cluster)?;
        let command = Bytes::from(vec![0x5a; COMMAND_BYTES]);
        Ok(Log { engine, store, command, batch: LogChange::Append(Vec::new()) })
    }
}

impl Contender for Log {
    fn name(&self) -> String {
        self.engine.to_string()
    }

    fn prepare(&mut self, count: u64) {
        let first = self.store.last().index.0 + 1;
        let payload = Payload::Command(self.command.clone());
        let entries = (first..first + count)
            .map(|index| Entry { id: EntryId::new(index, 1), payload: payload.clone() })
            .collect();
        self.batch = LogChange::Append(entries);
    }

    fn write(&mut self) -> Result<(), Trouble> {
        self.store.apply(&self.batch)?;
        Ok(self.store.flush()?)
    }

    fn afterwards(&mut self) -> Result<(), Trouble> {
        self.store.follow()?;
        let (start, last) = (self.store.start().index.0, self.store.last().index.0);
        if last > start + 2 * RETAINED_ENTRIES {
            self.store.apply(&LogChange::RemoveThrough(Index(last - RETAINED_ENTRIES)))?;
        }
        Ok(())
    }
}

struct Bare {
    file: File,
    begin: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Bare {
    fn new(directory: &Path) -> Result<Bare, Trouble> {
        let file = File::create(directory.join("bare"))?;
        file.write_all_at(&vec![0; SEGMENT_BYTES as usize], 0)?;
        file.sync_all()?;
        Ok(Bare { file, begin: 0, offset: 0, bytes: Vec::new() })
    }
}

impl Contender for Bare {
    fn name(&self) -> String {
        "bare file".to_owned()
    }

    fn prepare(&mut self, count: u64) {
        let length = count * ENTRY_BYTES + BATCH_BYTES;
        if self.offset + length + BLOCK_BYTES > SEGMENT_BYTES {
            self.offset = 0;
        }
        self.begin = self.offset - self.offset % BLOCK_BYTES;
        self.offset += length;
        self.bytes.resize((self.offset.next_multiple_of(BLOCK_BYTES) - self.begin) as usize, 0x5a);
    }

    fn write(&mut self) -> Result<(), Trouble> {
        self.file.write_all_at(&self.bytes, self.begin)?;
        Ok(self.file.sync_data()?)
    }

    fn afterwards(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

/// What one of them took for batches of one size.
#[derive(Default)]
struct Taken {
    latencies: Latencies,
    cpu: Duration,
    batches: u64,
}

/// Measures for about `length` in all, in a directory that is left as it was, and prints a table.
///
/// # Errors
/// If something fails.
pub fn run(directory: &Path, length: Duration) -> Result<(), Trouble> {
    let place = tempfile::Builder::new().prefix("madkv-log-").tempdir_in(directory)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "log: {COMMAND_BYTES} B commands, append and flush as the replica waits for them; below {} on {cores} cores",
        directory.display()
    );
    println!("batch  engine         p50 us   p99 us  entries/s  of bare p50  CPU s / 1,000 entries");
    for count in BATCHES {
        let sub = place.path().join(count.to_string());
        std::fs::create_dir(&sub)?;
        let mut contenders: Vec<Box<dyn Contender>> = vec![
            Box::new(Bare::new(&sub)?),
            Box::new(Log::new(&sub, LogEngine::Segments)?),
            Box::new(Log::new(&sub, LogEngine::Sled)?),
        ];
        let mut taken: Vec<Taken> = contenders.iter().map(|_| Taken::default()).collect();
        let end = Instant::now() + length / BATCHES.len() as u32;
        while Instant::now() < end {
            for (contender, taken) in contenders.iter_mut().zip(&mut taken) {
                let before = cpu();
                for _ in 0..TURN_BATCHES {
                    contender.prepare(count);
                    let begin = Instant::now();
                    contender.write()?;
                    taken.latencies.record(begin.elapsed());
                    contender.afterwards()?;
                }
                taken.cpu += cpu().saturating_sub(before);
                taken.batches += TURN_BATCHES as u64;
            }
        }
        let bare = taken.first().map_or(f64::NAN, |bare| bare.latencies.figures().p50_ms);
        for (contender, taken) in contenders.iter().zip(&taken) {
            let figures = taken.latencies.figures();
            let entries = (taken.batches * count) as f64;
            println!(
                "{count:>5}  {:<12} {:>8.1} {:>8.1} {:>10.0} {:>11.2}x {:>14.4}",
                contender.name(),
                figures.p50_ms * 1_000.0,
                figures.p99_ms * 1_000.0,
                count as f64 * 1_000.0 / figures.mean_ms,
                figures.p50_ms / bare,
                taken.cpu.as_secs_f64() / entries * 1_000.0,
            );
        }
    }
    println!("a cluster with segments: --log_engine segments, or {LOG_ENGINE_VARIABLE}=segments");
    Ok(())
}

/// What this process has used so far, all threads.
fn cpu() -> Duration {
    Usage::of(std::process::id()).map_or(Duration::ZERO, |usage| usage.cpu)
}
