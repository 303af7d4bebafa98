//! Each layer alone, without disk and network but for the snapshot: `cargo bench -p madkv-bench`.
//!
//! What counts is the processor time of the thread that works, so that what else the machine does is not in the
//! figures; only snapshots, which wait for the disk, are measured by the clock. `-- --quick`, a name, or
//! `--save-baseline NAME` and `--baseline NAME` are criterion's.

mod cores;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use madkv_proto::command::{Command, Query};
use madkv_proto::frames::{ClientRequest, ClientResponse, KIND_REQUEST, KIND_RESPONSE, RequestFrame, ResponseFrame};
use madkv_server::map::Map;
use rustix::time::{ClockId, clock_gettime};
use smr::codec::{FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES, decode, frame};
use smr::entry::{Configuration, EntryId, GenesisHash, Index, SnapshotMeta};
use smr::id::NodeId;
use smr::internals::disk::RealDisk;
use smr::internals::snapshot::SnapshotDir;
use smr::state_machine::{Image, StateMachine};

use cores::{COMMAND_BYTES, Cores, commands};

/// Size of a value, in bytes.
const VALUE_BYTES: usize = 100;
/// Keys of the map.
const KEYS: u64 = 100_000;
/// Steps between the keys of one command and the next: no order that a cache could learn.
const STRIDE: u64 = 7_919;

/// Processor time of the thread that measures.
struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        // Neither is ever negative.
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, left: &Duration, right: &Duration) -> Duration {
        *left + *right
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn core(criterion: &mut Criterion<ProcessorTime>) {
    let mut group = criterion.benchmark_group(format!("Raft core, 3 nodes, {COMMAND_BYTES} B"));
    for batch in [1, 8, 64, 512] {
        let (mut cores, batch) = (Cores::new(), commands(batch));
        group.throughput(Throughput::Elements(batch.len() as u64));
        group.bench_function(format!("proposed {} at a time", batch.len()), |bencher| {
            bencher.iter(|| cores.propose(&batch));
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion<ProcessorTime>) {
    let command = Command::Put { key: b"key00000001", value: &[b'v'; VALUE_BYTES] }.encode();
    let client = smr::id::ClientId::at(3);
    let request = RequestFrame {
        id: 7,
        epoch: 1,
        ask: ClientRequest::Write { client, number: 9, lowest_unanswered: 8, command },
    };
    let response: ResponseFrame = ResponseFrame { id: 7, body: ClientResponse::Answer(Bytes::from_static(&[1])) };
    let mut buffer = Vec::new();
    // Frames this small always fit.
    let _ = frame(&mut buffer, KIND_REQUEST, &request);
    let bytes = buffer.clone();
    assert_eq!(read::<RequestFrame>(&bytes).as_ref(), Some(&request), "a request comes back as it was");
    let mut group = criterion.benchmark_group("codec");
    group.bench_function("a PUT request into a frame", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            let _ = frame(&mut buffer, KIND_REQUEST, black_box(&request));
        });
    });
    group.bench_function("a frame, verified, into a PUT request", |bencher| {
        bencher.iter(|| read::<RequestFrame>(black_box(&bytes)));
    });
    group.bench_function("an answer into a frame", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            let _ = frame(&mut buffer, KIND_RESPONSE, black_box(&response));
        });
    });
    group.finish();
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (header, payload) = bytes.split_first_chunk::<HEADER_LEN_BYTES>()?;
    let header = FrameHeader::parse(header, FRAME_PAYLOAD_MAX_BYTES).ok()?;
    header.verify(payload).ok()?;
    decode(payload).ok()
}

fn key(number: u64) -> String {
    format!("key{number:012}")
}

fn filled() -> Map {
    let mut map = Map::default();
    for number in 0..KEYS {
        let command = Command::Put { key: key(number).as_bytes(), value: &[b'v'; VALUE_BYTES] }.encode();
        map.apply(Index(number + 1), &command);
    }
    map
}

fn map(criterion: &mut Criterion<ProcessorTime>) {
    let mut map = filled();
    let put = |number| Command::Put { key: key(number).as_bytes(), value: &[b'w'; VALUE_BYTES] }.encode();
    let puts: Vec<Bytes> = (0..KEYS).map(put).collect();
    let gets: Vec<Bytes> = (0..KEYS).map(|number| Query::Get { key: key(number).as_bytes() }.encode()).collect();
    let (mut number, mut index) = (0, KEYS);
    let mut next = || {
        number = (number + STRIDE) % KEYS;
        index += 1;
        (number as usize, Index(index))
    };
    let mut group = criterion.benchmark_group(format!("map of {KEYS} keys"));
    group.bench_function(format!("apply a PUT of {VALUE_BYTES} B"), |bencher| {
        bencher.iter(|| {
            let (number, index) = next();
            map.apply(index, &puts[number])
        });
    });
    group.bench_function("query a GET", |bencher| bencher.iter(|| map.query(&gets[next().0])));
    group.bench_function("image for a snapshot", |bencher| bencher.iter(|| map.image()));
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let place = tempfile::Builder::new().prefix("madkv-micro-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let place = place.expect("a directory below the target directory");
    let map = filled();
    let group_name = "s0".parse().expect("a group's name");
    let opened = SnapshotDir::open(Arc::new(RealDisk), place.path().join("snapshots"), group_name, None);
    let (snapshots, _) = opened.expect("a fresh directory");
    let meta = |last| SnapshotMeta {
        last: EntryId::new(last, 1),
        configuration: Configuration::of([NodeId::new(0, 1)]),
        configuration_index: Index(1),
    };
    let write = |last| snapshots.write(&meta(last), GenesisHash(1), |output| map.image().write(output));
    let mut last = KEYS;
    let info = write(last).expect("room for a snapshot");
    let mut group = criterion.benchmark_group(format!("snapshot of {KEYS} keys"));
    group.throughput(Throughput::Bytes(info.len_bytes)).sample_size(10);
    group.bench_function("read into a map", |bencher| {
        bencher.iter(|| {
            let mut reader = snapshots.read(&info).expect("the snapshot");
            let restored = Map::restore(&mut reader).expect("a map");
            reader.finish().expect("a whole snapshot");
            assert_eq!(restored.len(), map.len());
        });
    });
    group.bench_function("written, synced and verified", |bencher| {
        let next = || {
            last += 1;
            last
        };
        bencher.iter_batched(next, |last| write(last).expect("room for a snapshot"), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group! {
    name = processor_time;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = core, codec, map
}
criterion_group!(by_the_clock, snapshot);
criterion_main!(processor_time, by_the_clock);
