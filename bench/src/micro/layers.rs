//! `madkv-bench micro`: each layer alone, without disk and network but for the snapshot.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use madkv_proto::command::{Command, Query};
use madkv_proto::frames::{ClientRequest, ClientResponse, KIND_REQUEST, KIND_RESPONSE, RequestFrame, ResponseFrame};
use madkv_server::map::Map;
use smr::codec::{FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES, decode, frame};
use smr::disk::RealDisk;
use smr::entry::{Configuration, EntryId, GenesisHash, Index, SnapshotMeta};
use smr::id::NodeId;
use smr::snapshot::SnapshotDir;
use smr::state_machine::{Answer, Image, StateMachine};

use crate::micro::core::{COMMAND_BYTES, Cores, commands};
use crate::micro::timed::{line, rate};
use madkv_testkit::measure::Trouble;

/// Size of a value, in bytes.
const VALUE_BYTES: usize = 100;
/// Keys of the map that commands are applied to, unless told otherwise.
pub const KEYS_DEFAULT: u64 = 100_000;
/// Steps between the keys of one command and the next: no order that a cache could learn.
const STRIDE: u64 = 7_919;

/// Runs them all.
///
/// # Errors
/// If a snapshot cannot be written or read, or a frame does not come back as it was.
pub fn run(directory: &Path, length: Duration, keys: u64) -> Result<(), Trouble> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "DEBUG build" } else { "release build" };
    println!("processor time of one thread, of {cores} cores, {build}; medians of short turns; snapshots by the clock");
    core(length);
    codec(length)?;
    apply(length, keys);
    snapshot(directory, keys)
}

fn core(length: Duration) {
    for batch in [1, 8, 64, 512] {
        let (mut cores, batch) = (Cores::new(), commands(batch));
        let committed = rate(length, || cores.propose(&batch));
        let what = format!("Raft core, 3 nodes, {COMMAND_BYTES} B, proposed {} at a time", batch.len());
        println!("{}", line(&what, "entries committed", committed));
    }
}

fn codec(length: Duration) -> Result<(), Trouble> {
    let command = Command::Put { key: b"key00000001", value: &[b'v'; VALUE_BYTES] }.encode();
    let request = RequestFrame {
        id: 7,
        epoch: 1,
        ask: ClientRequest::Write { client: smr::id::ClientId::at(3), number: 9, lowest_unanswered: 8, command },
    };
    let response = ResponseFrame { id: 7, body: ClientResponse::Answer(Bytes::from_static(&[1])) };
    let mut buffer = Vec::new();
    let encoded = rate(length, || {
        buffer.clear();
        // A frame this small always fits.
        let _ = frame(&mut buffer, KIND_REQUEST, black_box(&request));
        1
    });
    println!("{}", line("codec: a PUT request into a frame", "frames", encoded));
    let bytes = buffer.clone();
    if read::<RequestFrame>(&bytes).as_ref() != Some(&request) {
        return Err("a request does not come back as it was".into());
    }
    let decoded = rate(length, || u64::from(black_box(read::<RequestFrame>(black_box(&bytes))).is_some()));
    println!("{}", line("codec: a frame, verified, into a PUT request", "frames", decoded));
    let encoded = rate(length, || {
        buffer.clear();
        let _ = frame(&mut buffer, KIND_RESPONSE, black_box(&response));
        1
    });
    println!("{}", line("codec: an answer into a frame", "frames", encoded));
    Ok(())
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

fn filled(keys: u64) -> Map {
    let mut map = Map::default();
    for number in 0..keys {
        let command = Command::Put { key: key(number).as_bytes(), value: &[b'v'; VALUE_BYTES] }.encode();
        map.apply(Index(number + 1), &command);
    }
    map
}

fn apply(length: Duration, keys: u64) {
    let mut map = filled(keys);
    let puts: Vec<Bytes> = (0..keys)
        .map(|number| Command::Put { key: key(number).as_bytes(), value: &[b'w'; VALUE_BYTES] }.encode())
        .collect();
    let mut number = 0;
    let mut index = keys;
    let mut next = || {
        number = (number + STRIDE) % keys;
        index += 1;
        (number as usize, Index(index))
    };
    let applied = rate(length, || {
        let (number, index) = next();
        black_box(map.apply(index, &puts[number]));
        1
    });
    println!("{}", line(&format!("apply: a PUT of {VALUE_BYTES} B over one of {keys} keys"), "commands", applied));
    let gets: Vec<Bytes> = (0..keys).map(|number| Query::Get { key: key(number).as_bytes() }.encode()).collect();
    let got = rate(length, || {
        let (number, _) = next();
        u64::from(matches!(black_box(map.query(&gets[number])), Answer::Now(_)))
    });
    println!("{}", line(&format!("query: a GET among {keys} keys"), "queries", got));
    let images = rate(length, || {
        black_box(map.image());
        1
    });
    println!("{}", line("image: a copy of the map for a snapshot", "images", images));
}

fn snapshot(directory: &Path, keys: u64) -> Result<(), Trouble> {
    let place = tempfile::Builder::new().prefix("madkv-micro-").tempdir_in(directory)?;
    let map = filled(keys);
    let (snapshots, _) = SnapshotDir::open(Arc::new(RealDisk), place.path().join("snapshots"), "s0".parse()?, None)?;
    let meta = SnapshotMeta {
        last: EntryId::new(keys, 1),
        configuration: Configuration::of([NodeId::new(0, 1)]),
        configuration_index: Index(1),
    };
    let start = Instant::now();
    let info = snapshots.write(&meta, GenesisHash(1), |output| map.image().write(output))?;
    let written = start.elapsed();
    let start = Instant::now();
    let mut reader = snapshots.read(&info)?;
    let restored = Map::restore(&mut reader)?;
    reader.finish()?;
    let read = start.elapsed();
    if restored.len() != map.len() {
        return Err(format!("{} of {} keys came back", restored.len(), map.len()).into());
    }
    let mebibytes = info.len_bytes as f64 / f64::from(1 << 20);
    for (what, took) in [("written, synced and verified", written), ("read into a map", read)] {
        println!(
            "snapshot of {keys} keys, {mebibytes:.1} MiB, {what}: {:.0} ms, {:.0} MiB/s",
            took.as_secs_f64() * 1e3,
            mebibytes / took.as_secs_f64()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_on_a_small_map_works() {
        let directory = tempfile::tempdir().unwrap();
        run(directory.path(), Duration::from_millis(18), 500).unwrap();
    }
}
