//! Everything that reads bytes from outside, as one function of bytes each: for the property tests in
//! `tests/decoders.rs` and, the same ones, for the `cargo fuzz` targets in `fuzz/` (fault catalogue B1, B2, D11, G6).
//!
//! An entry must take any bytes: it may find an error or a value, but not panic, not believe a length before its bytes
//! are there, and not take more than linear time. Each comes with sound bytes to start from.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use madkv_manager::state as manager;
use madkv_proto::command::{Command, Query};
use madkv_proto::frames::{self, ClientRequest, ClientResponse, Registration, Service};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{
    Attempt, Piece, SlotCommand, SlotQuery, SlotReply, decode_elsewhere, decode_settled, encode_elsewhere,
};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use madkv_proto::{command, line};
use serde::de::DeserializeOwned;
use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES};
use smr::entry::{Configuration, Entry, EntryId, Genesis, HardState, Index, Payload, SnapshotMeta, Term};
use smr::epoch::GroupKind;
use smr::id::{ClientId, ClusterId, Incarnation, NodeId, ReplicaId, StartTrail};
use smr::internals::bootstrap::{BootstrapMessage, Claim};
use smr::internals::disk::{Disk, read_file};
use smr::internals::engine::{CheckpointPiece, ForwardedWrite};
use smr::internals::message::PeerMessage;
use smr::internals::protocol::{CheckpointName, LogChange};
use smr::internals::raft::Message;
use smr::internals::raft::message::Body as Said;
use smr::internals::session::{SessionCommand, SessionTable};
use smr::internals::snapshot::{SnapshotDir, SnapshotInfo, SnapshotOffer};
use smr::internals::storage::record_log::RecordLog;
use smr::internals::storage::{
    BootstrapState, ByteMap, ExpectedIdentity, KEY_LEN_BYTES, Key, LoadError, LogStore, OpenOutcome, ReplicaDirectory,
    StorageError, Store, StoreOptions,
};
use smr::state_machine::{Answer, Image, StateMachine};
use smr::version::ImageVersions;
use smr::wire::FrameReader;
use smr_service::args;
use smr_service::pace::{Level, Measure, Metric, PaceReport, judge};
use smr_sim::journal;
use smr_sim::virtual_disk::{Loss, VirtualDisk};

use madkv_testkit::history;

/// Something that reads bytes from outside.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Its name; that of its fuzz target too.
    pub name: &'static str,
    /// Reads bytes. Whatever they are, it returns.
    pub run: fn(&[u8]),
    /// Sound bytes.
    pub sound: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: [Decoder; 17] = [
    Decoder { name: "frames", run: frames, sound: sound_frames },
    Decoder { name: "peer_messages", run: peer_messages, sound: sound_peer_messages },
    Decoder { name: "stored_values", run: stored_values, sound: sound_stored_values },
    Decoder { name: "hard_state_file", run: |bytes| open_with(HARD_STATE, bytes), sound: || sound_file(HARD_STATE) },
    Decoder { name: "watermark_file", run: |bytes| open_with(WATERMARK, bytes), sound: || sound_file(WATERMARK) },
    Decoder { name: "journal_file", run: |bytes| open_with(JOURNAL, bytes), sound: || sound_file(JOURNAL) },
    Decoder { name: "quarantine_file", run: |bytes| open_with(QUARANTINE, bytes), sound: sound_quarantine },
    Decoder { name: "log_records", run: log_records, sound: sound_log_records },
    Decoder { name: "snapshot_file", run: snapshot_file, sound: sound_snapshot_file },
    Decoder { name: "snapshot_transfer", run: snapshot_transfer, sound: sound_snapshot_transfer },
    Decoder { name: "sessions", run: sessions, sound: sound_sessions },
    Decoder { name: "client_frames", run: client_frames, sound: sound_client_frames },
    Decoder { name: "map_commands", run: map_commands, sound: sound_map_commands },
    Decoder { name: "manager_commands", run: manager_commands, sound: sound_manager_commands },
    Decoder { name: "assignment_file", run: assignment_file, sound: sound_assignment_file },
    Decoder { name: "text_lines", run: text_lines, sound: sound_text_lines },
    Decoder { name: "history_file", run: history_file, sound: sound_history_file },
];

/// Runs the decoder of this name.
///
/// # Panics
/// If there is none.
pub fn run(name: &str, bytes: &[u8]) {
    let decoder = ALL.iter().find(|decoder| decoder.name == name);
    decoder.unwrap_or_else(|| panic!("no decoder {name}")).run_on(bytes);
}

impl Decoder {
    /// Reads bytes.
    pub fn run_on(&self, bytes: &[u8]) {
        (self.run)(bytes);
    }
}

/// A value that was decoded is no longer than what it came from (a set may have been written in another order, or with
/// doubles), and once encoded it stays as it is.
fn decode<T: DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let encoded = codec::encode(&value);
    assert!(encoded.len() <= bytes.len(), "{} bytes became {}", bytes.len(), encoded.len());
    let again: T = codec::decode(&encoded).unwrap_or_else(|error| panic!("what was encoded: {error}"));
    assert!(codec::encode(&again) == encoded, "{} bytes are encoded in two ways", bytes.len());
}

// ---- frames, and what travels between replicas

fn frames(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let mut reader = FrameReader::new(bytes, FRAME_PAYLOAD_MAX_BYTES);
        let mut payloads = 0;
        while let Ok(Some(frame)) = reader.next().await {
            payloads += frame.payload.len() + codec::HEADER_LEN_BYTES;
            assert!(payloads <= bytes.len(), "more was read than there is");
        }
    });
}

fn sound_frames() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (kind, value) in [vec![1u8, 2, 3], vec![], vec![9; 70]].iter().enumerate() {
        codec::frame(&mut bytes, kind as u16, value).unwrap_or_else(|error| panic!("{error}"));
    }
    vec![bytes]
}

fn peer_messages(bytes: &[u8]) {
    decode::<PeerMessage<Message>>(bytes);
    decode::<SnapshotOffer>(bytes);
}

fn sound_peer_messages() -> Vec<Vec<u8>> {
    let say = |body| codec::encode(&PeerMessage::Protocol(Message { term: Term(3), body }));
    let bootstrap = |message| codec::encode(&PeerMessage::<Message>::Bootstrap(message));
    vec![
        say(Said::Append { previous: EntryId::new(1, 1), entries: entries(), commit: Index(1) }),
        say(Said::Vote { last: EntryId::new(4, 2), transfer: true }),
        say(Said::AppendRejected { previous: Index(5), hint: EntryId::new(4, 2) }),
        bootstrap(BootstrapMessage::Uninitialized {
            replicas: (0..3).map(ReplicaId).collect(),
            claim: Claim { is_excluded: true, found_anew: true },
            sees: None,
        }),
        bootstrap(BootstrapMessage::Initialized {
            genesis: genesis().hash(),
            founders: Some(genesis()),
            cluster: genesis().cluster,
            configuration: Configuration { voters: genesis().members, ..Configuration::default() },
        }),
        codec::encode(&PeerMessage::<Message>::Checkpoint(CheckpointPiece {
            name: CheckpointName { epoch: Term(3), base: EntryId::new(4, 2), end: EntryId::new(9, 3) },
            count: 7,
            input: ImageVersions::FIRST,
            len_bytes: 900,
            offset: 256,
            bytes: Bytes::from_static(b"a part of it"),
        })),
        codec::encode(&PeerMessage::<Message>::Forward(vec![ForwardedWrite {
            client: ClientId::at(2),
            number: 3,
            lowest_unanswered: 1,
            command: Bytes::from_static(b"command"),
        }])),
        codec::encode(&SnapshotOffer { meta: meta(), genesis: genesis().hash(), len_bytes: 900, fingerprint: 7 }),
    ]
}

fn stored_values(bytes: &[u8]) {
    decode::<Vec<Entry>>(bytes);
    decode::<Entry>(bytes);
    decode::<Configuration>(bytes);
    decode::<SnapshotMeta>(bytes);
    decode::<HardState>(bytes);
    decode::<Genesis>(bytes);
}

fn sound_stored_values() -> Vec<Vec<u8>> {
    let hard_state = HardState { term: Term(3), vote: Some(ME), lease_us: 0 };
    vec![codec::encode(&entries()), codec::encode(&meta()), codec::encode(&hard_state), codec::encode(&genesis())]
}

// ---- files

const ME: NodeId = NodeId::new(0, 0xa);
const ROOT: &str = "/data/node";
const HARD_STATE: &str = "promise";
const WATERMARK: &str = "mark";
const JOURNAL: &str = "log/journal";
const QUARANTINE: &str = "quarantine";

fn genesis() -> Genesis {
    let group = "s0".parse().unwrap_or_else(|error| panic!("{error}"));
    Genesis { cluster: None, group, members: [ME, NodeId::new(1, 0xb), NodeId::new(2, 0xc)].into() }
}

fn entries() -> Vec<Entry> {
    let entry = |index, payload| Entry { id: EntryId::new(index, 2), payload };
    let configuration = Configuration { voters: genesis().members, ..Configuration::default() };
    vec![
        entry(2, Payload::Noop),
        entry(3, Payload::Command(Bytes::from_static(b"a command"))),
        entry(4, Payload::Configuration(configuration)),
    ]
}

fn meta() -> SnapshotMeta {
    let configuration = Configuration { voters: genesis().members, ..Configuration::default() };
    SnapshotMeta { last: EntryId::new(4, 2), configuration, configuration_index: Index(4) }
}

fn open(disk: &VirtualDisk) -> Option<OpenOutcome> {
    let expected = ExpectedIdentity { group: genesis().group, name: ME.name, cluster: None };
    let directory = ReplicaDirectory::open(Arc::new(disk.clone()), Path::new(ROOT), expected).ok()?;
    let options = StoreOptions {
        snapshot: SnapshotMeta::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: Incarnation(0xa),
        engine: journal::JOURNAL,
        allow_unsynced: true,
        now_unix_s: 1,
        start_nonce: 1,
    };
    Store::open(directory, &options).ok()
}

/// A founder with a vote and some entries, closed.
fn founder() -> VirtualDisk {
    let disk = VirtualDisk::new();
    let Some(OpenOutcome::Store(opened)) = open(&disk) else { panic!("an empty disk opens") };
    let mut store = opened.store;
    let bootstrap = BootstrapState::Initialized { genesis: genesis().hash(), founders: Some(genesis()) };
    let fatal = |error: StorageError| panic!("{error}");
    store.initialize(bootstrap, genesis().cluster_id()).unwrap_or_else(fatal);
    store.save(&HardState { term: Term(2), vote: Some(ME), lease_us: 0 }.into()).unwrap_or_else(fatal);
    store.apply(&LogChange::Append(entries())).unwrap_or_else(fatal);
    store.sync().unwrap_or_else(fatal);
    drop(store);
    disk.after_crash(Loss::Nothing)
}

fn put(disk: &VirtualDisk, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(file, true)?;
    file.set_len(bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

/// Opens the founder's directory with other bytes in one file. What opens has the founder's vote and all its entries,
/// heals, or is known to be damaged; the journal's end may be missing, as far as the watermark does not speak for it.
fn open_with(file: &str, bytes: &[u8]) {
    let disk = founder();
    put(&disk, &Path::new(ROOT).join(file), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Some(OpenOutcome::Store(opened)) = open(&disk) {
        assert_eq!(opened.hard_state(), HardState { term: Term(2), vote: Some(ME), lease_us: 0 });
        // One that heals knows that it lacks some.
        if opened.healing.is_none() {
            assert_eq!(opened.entries.len(), 1 + entries().len(), "entries are missing");
        }
    }
}

fn sound_file(file: &str) -> Vec<Vec<u8>> {
    let bytes = read_file(&founder(), &Path::new(ROOT).join(file), 1 << 20);
    vec![bytes.unwrap_or_else(|error| panic!("{file}: {error}"))]
}

fn sound_quarantine() -> Vec<Vec<u8>> {
    vec![b"reason: /data/node/mark: missing\nsince_unix_s: 1700000000\n".to_vec()]
}

/// A map of bytes that holds whatever it is given.
#[derive(Default)]
struct AnyMap(BTreeMap<Key, Vec<u8>>);

impl ByteMap for AnyMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        self.0.insert(*key, value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        self.0.remove(key);
        Ok(())
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        for (key, value) in self.0.range(*from..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn place(&self) -> &Path {
        Path::new("/log")
    }
}

/// The values of a log: key, length (u16), value, and so on. What a log is recovered from is without holes, and belongs
/// to the one who asks.
fn log_records(mut bytes: &[u8]) {
    let mut map = AnyMap::default();
    while let Some((key, rest)) = bytes.split_first_chunk::<KEY_LEN_BYTES>() {
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { break };
        let (value, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        map.0.insert(*key, value.to_vec());
        bytes = rest;
    }
    if let Ok(recovered) = RecordLog::recover(Box::new(map), IDENTITY, EntryId::ZERO, None) {
        for (position, entry) in recovered.entries.iter().enumerate() {
            assert_eq!(entry.id.index, Index(position as u64 + 1), "a hole");
        }
    }
}

const IDENTITY: u64 = 0x1d;

fn sound_log_records() -> Vec<Vec<u8>> {
    let recovered = RecordLog::recover(Box::new(Recorder::default()), IDENTITY, EntryId::ZERO, None);
    let mut log = recovered.unwrap_or_else(|error| panic!("{error}")).log;
    let mut all = vec![genesis().first_entry()];
    all.extend(entries());
    RECORDED.with_borrow_mut(Vec::clear);
    for batch in all.chunks(2) {
        log.append(batch).unwrap_or_else(|error| panic!("{error}"));
    }
    vec![RECORDED.take()]
}

thread_local! {
    static RECORDED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Writes down what a log puts into its map, in the form of [`log_records`].
#[derive(Default)]
struct Recorder(AnyMap);

impl ByteMap for Recorder {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        RECORDED.with_borrow_mut(|bytes| {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
            bytes.extend_from_slice(value);
        });
        self.0.insert(key, value)
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        self.0.remove(key)
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        self.0.scan(from, visit)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn place(&self) -> &Path {
        self.0.place()
    }
}

const SNAPSHOTS: &str = "/data/node/snapshots";
const STATE: &[u8] = b"the state, which is not looked into";

fn snapshots(disk: &VirtualDisk) -> Option<(SnapshotDir, Option<SnapshotInfo>)> {
    SnapshotDir::open(Arc::new(disk.clone()), PathBuf::from(SNAPSHOTS), genesis().group, None).ok()
}

fn with_snapshot() -> (VirtualDisk, SnapshotDir, SnapshotInfo) {
    let disk = VirtualDisk::new();
    let (dir, _) = snapshots(&disk).unwrap_or_else(|| panic!("an empty directory opens"));
    let info = dir.write(&meta(), genesis().hash(), |output| output.write_all(STATE));
    let info = info.unwrap_or_else(|error| panic!("{error}"));
    (disk, dir, info)
}

fn snapshot_name(disk: &VirtualDisk) -> PathBuf {
    let names = disk.list(Path::new(SNAPSHOTS)).unwrap_or_else(|error| panic!("{error}"));
    Path::new(SNAPSHOTS).join(&names[0])
}

/// A snapshot file counts only if it is the one that was written, byte for byte, or at least whole.
fn snapshot_file(bytes: &[u8]) {
    let (disk, _, written) = with_snapshot();
    put(&disk, &snapshot_name(&disk), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Some((dir, Some(found))) = snapshots(&disk) {
        let mut state = Vec::new();
        let mut reader = dir.read(&found).unwrap_or_else(|error| panic!("a snapshot that counts: {error}"));
        reader.read_to_end(&mut state).unwrap_or_else(|error| panic!("a snapshot that counts cannot be read: {error}"));
        assert!(found != written || state == STATE, "another state");
    }
}

fn sound_snapshot_file() -> Vec<Vec<u8>> {
    let (disk, _, _) = with_snapshot();
    vec![read_file(&disk, &snapshot_name(&disk), 1 << 20).unwrap_or_else(|error| panic!("{error}"))]
}

/// A receiver that was offered the snapshot gets these bytes, in pieces. They are adopted only if they are the
/// snapshot's.
fn snapshot_transfer(bytes: &[u8]) {
    let (_, _, info) = with_snapshot();
    let disk = VirtualDisk::new();
    let (dir, _) = snapshots(&disk).unwrap_or_else(|| panic!("an empty directory opens"));
    let mut incoming = dir.receive(info.offer()).unwrap_or_else(|error| panic!("{error}"));
    let mut offset = 0;
    for piece in bytes.chunks(100) {
        if incoming.append(offset, piece).is_err() {
            return;
        }
        offset += piece.len() as u64;
    }
    if let Ok(adopted) = incoming.finish().and_then(smr::internals::snapshot::ReceivedSnapshot::adopt) {
        assert_eq!(adopted, info);
    }
}

fn sound_snapshot_transfer() -> Vec<Vec<u8>> {
    sound_snapshot_file()
}

fn sessions(bytes: &[u8]) {
    let owned = Bytes::copy_from_slice(bytes);
    if let Ok(command) = SessionCommand::decode(&owned) {
        assert_eq!(SessionCommand::decode(&command.encode()), Ok(command));
    }
    if let Ok(table) = SessionTable::restore(&mut &bytes[..]) {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        assert!(bytes.starts_with(&image), "a table that is written differently than it was read");
    }
    if let Ok(table) = two_sessions().image().advance(&mut &bytes[..]) {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        SessionTable::restore(&mut &image[..]).unwrap_or_else(|error| panic!("a table that is none: {error}"));
    }
}

fn two_sessions() -> SessionTable {
    let open = SessionCommand::Open { nonce: 0 };
    let mut table = SessionTable::new();
    table.apply(Index(2), &open, |_| Vec::new());
    table.apply(Index(3), &open, |_| Vec::new());
    table
}

fn sound_sessions() -> Vec<Vec<u8>> {
    let open = SessionCommand::Open { nonce: 0 };
    let mut table = two_sessions();
    let base = table.image();
    let write = SessionCommand::Write {
        client: ClientId::at(2),
        number: 1,
        lowest_unanswered: 1,
        command: Bytes::from_static(b"a command"),
    };
    table.apply(Index(4), &write, |_| b"its answer".to_vec());
    let (mut image, mut difference) = (Vec::new(), Vec::new());
    table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    table.image().write_difference(&base, &mut difference).unwrap_or_else(|error| panic!("{error}"));
    vec![image, difference, open.encode().to_vec(), write.encode().to_vec()]
}

// ---- clients, servers and managers

fn cluster_map() -> ClusterMap {
    let servers: Vec<String> = (0..6).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    ClusterMap::deal(ClusterId(7), 3, &servers).unwrap_or_else(|error| panic!("{error}"))
}

fn client_frames(bytes: &[u8]) {
    decode::<frames::Hello>(bytes);
    decode::<frames::Welcome>(bytes);
    decode::<frames::RangedHello>(bytes);
    decode::<frames::RangedWelcome>(bytes);
    decode::<frames::Refusal>(bytes);
    decode::<frames::RequestFrame>(bytes);
    decode::<frames::ResponseFrame>(bytes);
    decode::<ClusterMap>(bytes);
    if let Ok(report) = PaceReport::decode(bytes) {
        assert_eq!(PaceReport::decode(&report.encode()), Ok(report.clone()));
        // Whoever asks goes by it at once.
        judge(&[(0, &report), (1, &report), (2, &report)]);
    }
}

fn registration(partition: u16) -> Registration {
    let genesis = Some(genesis().hash());
    let start = StartTrail::default().next(2);
    Registration { partition, replica: 2, incarnation: Incarnation(5), member: true, genesis, start }
}

fn sound_client_frames() -> Vec<Vec<u8>> {
    let registration = registration(1);
    let ask = |ask| codec::encode(&frames::RequestFrame { id: 1, epoch: 2, ask });
    let body = |body| codec::encode(&frames::ResponseFrame { id: 1, body });
    vec![
        codec::encode(&frames::Hello {
            magic: frames::MAGIC,
            cluster: None,
            service: Service::Server { partition: 1 },
        }),
        codec::encode(&frames::Welcome { cluster: Some(ClusterId(7)), epoch: 1 }),
        codec::encode(&frames::RangedHello::new(Some(ClusterId(7)), Service::Manager)),
        codec::encode(&frames::RangedWelcome { version: 2, cluster: None, epoch: 1, later: Bytes::new() }),
        codec::encode(&frames::Refusal { reason: "no".to_owned() }),
        ask(ClientRequest::Write {
            client: ClientId::at(2),
            number: 3,
            lowest_unanswered: 1,
            command: Bytes::from_static(b"command"),
        }),
        ask(ClientRequest::Read { query: Query::Get { key: b"k" }.encode() }),
        ask(ClientRequest::Register(registration)),
        body(ClientResponse::Map(Box::new(cluster_map()))),
        body(ClientResponse::Answer(Bytes::from_static(b"answer"))),
        pace_report().encode().to_vec(),
    ]
}

fn pace_report() -> PaceReport {
    let level = Some(Level { average: 3, min: 1, max: 1 << 40 });
    let measure = |metric, peer| Measure { metric, peer, normal: level, present: level };
    let measures = vec![measure(Metric::Sync, None), measure(Metric::Network, Some(2))];
    PaceReport { leads: true, stands_back: false, watched_s: 600, measures }
}

/// Commands, queries and answers of the map, and its image in a snapshot (G6: whatever is decoded, a key belongs to one
/// partition).
fn map_commands(bytes: &[u8]) {
    let mut map = madkv_server::map::Map::default();
    map.apply(Index(1), bytes);
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        let partition = cluster_map().partition_of(command.key());
        assert!(partition < 2);
    }
    if let Ok(query) = Query::decode(bytes) {
        assert_eq!(Query::decode(&query.encode()), Ok(query));
    }
    match map.query(bytes) {
        Answer::Now(_) => {}
        Answer::Parts(parts) => assert!(parts.count() <= 2),
    }
    let owned = Bytes::copy_from_slice(bytes);
    let _ = command::decode_found(bytes);
    let _ = command::decode_value(owned.clone());
    let _ = command::decode_records(&owned);
    let _ = (decode_elsewhere(bytes), decode_settled(&owned), SlotReply::decode(bytes));
    if let Ok(map) = madkv_server::map::Map::restore(&mut &bytes[..]) {
        let mut image = Vec::new();
        map.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        let again = madkv_server::map::Map::restore(&mut &image[..]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.len(), map.len());
    }
    if let Ok(map) = madkv_server::map::Map::advance(map_of_one().image(), &mut &bytes[..]) {
        let mut image = Vec::new();
        map.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        madkv_server::map::Map::restore(&mut &image[..]).unwrap_or_else(|error| panic!("a map that is none: {error}"));
    }
}

fn map_of_one() -> madkv_server::map::Map {
    let mut map = madkv_server::map::Map::default();
    map.apply(Index(1), &Command::Put { key: b"key", value: b"value" }.encode());
    map
}

fn sound_map_commands() -> Vec<Vec<u8>> {
    let put = Command::Put { key: b"key", value: b"value" };
    let mut map = map_of_one();
    let base = map.image();
    map.apply(Index(2), &Command::Put { key: b"other", value: b"" }.encode());
    let mut image = Vec::new();
    map.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    let mut records = Vec::new();
    command::push_record(&mut records, b"key", b"value");
    let by = Attempt { id: 1, number: 1 };
    let (slots, owned) = (SlotSet::range(0, SLOTS / 2), SlotSet::range(0, SLOTS));
    let begin = SlotCommand::Begin { by, slots: slots.clone(), owned, epoch: 1 }.encode();
    map.apply(Index(3), &begin);
    map.apply(Index(4), &put.encode());
    map.apply(Index(5), &Command::Delete { key: b"other" }.encode());
    let mut difference = Vec::new();
    map.image().write_difference(&base, &mut difference).unwrap_or_else(|error| panic!("{error}"));
    let mut moving = Vec::new();
    map.image().write(&mut moving).unwrap_or_else(|error| panic!("{error}"));
    let install = |records| SlotCommand::Install { by, number: 0, piece: Piece { whole: Some((None, None)), records } };
    vec![
        begin.to_vec(),
        install(vec![(Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")))]).encode().to_vec(),
        SlotQuery::Export { by, changed_since: Some(0), after: None }.encode().to_vec(),
        Query::ScanOf { slots: &slots.to_bytes(), from: b"a", to: b"z" }.encode().to_vec(),
        encode_elsewhere(1),
        moving,
        difference,
        put.encode().to_vec(),
        Query::Get { key: b"key" }.encode().to_vec(),
        Query::Scan { from: b"a", to: b"z" }.encode().to_vec(),
        command::encode_found(true),
        command::encode_value(Some(b"value")),
        records,
        image,
    ]
}

fn manager_commands(bytes: &[u8]) {
    for mut state in [manager::ManagerState::default(), manager_with_map()] {
        state.apply(Index(2), bytes);
        let Answer::Now(_) = state.query(bytes) else { panic!("a manager answers in parts") };
        let mut image = Vec::new();
        state.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    }
    manager::Reply::decode(bytes);
    let _ = manager::ManagerState::restore(&mut &bytes[..]);
}

fn manager_with_map() -> manager::ManagerState {
    let mut state = manager::ManagerState::default();
    state.apply(Index(1), &manager::encode(&layout()));
    state
}

fn layout() -> manager::Command {
    let servers = (0..3).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    manager::Command::Layout { cluster: ClusterId(7), server_rf: 3, servers }
}

fn sound_manager_commands() -> Vec<Vec<u8>> {
    let registration = registration(0);
    let mut image = Vec::new();
    manager_with_map().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    vec![
        codec::encode(&layout()),
        codec::encode(&manager::Command::Register(registration)),
        codec::encode(&manager::Command::AddPartition { servers: vec!["127.0.0.1:1".to_owned()], at_unix_ms: 1 }),
        codec::encode(&manager::Command::MoveSlots { slots: SlotSet::range(0, 9), to: 0, at_unix_ms: 1 }),
        codec::encode(&manager::Query::Map),
        codec::encode(&manager::Reply::Map(cluster_map())),
        image,
    ]
}

const DIRECTORY: &str = "/data";

fn assignment_file(bytes: &[u8]) {
    let disk = VirtualDisk::new();
    disk.create_dir_all(Path::new(DIRECTORY)).unwrap_or_else(|error| panic!("{error}"));
    put(&disk, &Path::new(DIRECTORY).join("assignment"), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = madkv_server::assignment::load(&disk, Path::new(DIRECTORY)) {
        assert!(error.starts_with("/data/assignment: "), "{error}");
    }
}

fn sound_assignment_file() -> Vec<Vec<u8>> {
    let disk = VirtualDisk::new();
    disk.create_dir_all(Path::new(DIRECTORY)).unwrap_or_else(|error| panic!("{error}"));
    let saved = madkv_server::assignment::save(&disk, Path::new(DIRECTORY), &cluster_map());
    saved.unwrap_or_else(|error| panic!("{error}"));
    let bytes = read_file(&disk, &Path::new(DIRECTORY).join("assignment"), 1 << 20);
    vec![bytes.unwrap_or_else(|error| panic!("{error}"))]
}

/// Lines of the client's protocol, and address lists of command lines.
fn text_lines(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = line::parse(line);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(addresses) = args::addresses("--peer_addrs", &text) {
        assert!(addresses.iter().all(|address| args::check_address("--peer_addrs", address).is_ok()));
    }
    let _ = args::listen_address("--api_listen", &text);
}

fn sound_text_lines() -> Vec<Vec<u8>> {
    let lines = "PUT key value\nSWAP\tkey  value\nGET k\u{f6}\nDELETE k\nSCAN a z\nSTOP\n";
    vec![lines.into(), "127.0.0.1:80,[::1]:8080,host-name.example:65535".into(), "0.0.0.0:0".into()]
}

fn history_file(bytes: &[u8]) {
    if let Ok(history) = history::History::read(bytes) {
        let mut again = Vec::new();
        history.write(&mut again).unwrap_or_else(|error| panic!("{error}"));
        history::History::read(&again[..]).unwrap_or_else(|error| panic!("what was read and written: {error}"));
    }
}

fn sound_history_file() -> Vec<Vec<u8>> {
    vec![HISTORY.into()]
}

const HISTORY: &str = "\
madkv-history 1
note seed 17
partitions 2
initially run7-k3 old
0 1200 450000 PUT run7-k0 c0-1 -> not_found
0 451000 480000 GET run7-k1 -> absent
2 491000 520000 SCAN run7-k0 run7-k9 -> records run7-k3 %00%41
4 500000 - SWAP run7-k2 c4-1 -> unknown
end 4
";
