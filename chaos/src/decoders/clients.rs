//! What clients, servers and managers say and keep, and what people type.

use std::path::Path;

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
use madkv_proto::watch::{Notice, SlotsMoved, WatchAnswer, WatchFrom, WatchQuery};
use madkv_proto::{command, line};
use madkv_testkit::history;
use smr::codec;
use smr::entry::Index;
use smr::epoch::{EpochKind, GroupKind};
use smr::id::{ClientId, ClusterId, Incarnation, StartTrail};
use smr::internals::disk::{Disk, read_file};
use smr::state_machine::{Answer, Image, StateMachine};
use smr_service::args;
use smr_service::pace::{Level, Measure, Metric, PaceReport, judge};
use smr_sim::virtual_disk::VirtualDisk;

use super::decode;
use super::directory::{genesis, put};

fn cluster_map() -> ClusterMap {
    let servers: Vec<String> = (0..6).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    ClusterMap::deal(ClusterId(7), 3, &servers).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn client_frames(bytes: &[u8]) {
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

pub(super) fn sound_client_frames() -> Vec<Vec<u8>> {
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
pub(super) fn map_commands(bytes: &[u8]) {
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
    let _ = (WatchAnswer::decode_of_group(bytes), Notice::decode(&owned));
    if let Some(query) = WatchQuery::decode(bytes) {
        assert_eq!(WatchQuery::decode(&query.encode()), Some(query));
    }
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

pub(super) fn sound_map_commands() -> Vec<Vec<u8>> {
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
    let [first, last] = [b"a", b"z"].map(|key| Bytes::from_static(key));
    let watch = WatchQuery { from: WatchFrom::Slots { epoch: 2 }, first, last, begins: false, waits: true };
    let told = WatchAnswer::Changes { items: vec![(3, put.encode())], position: 9, is_end: true, epoch: 2 };
    vec![
        begin.to_vec(),
        install(vec![(Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")))]).encode().to_vec(),
        SlotQuery::Export { by, changed_since: Some(0), after: None }.encode().to_vec(),
        Query::ScanOf { slots: &slots.to_bytes(), from: b"a", to: b"z" }.encode().to_vec(),
        encode_elsewhere(1),
        watch.encode().to_vec(),
        WatchAnswer::of_group(&told.encode(), 7).to_vec(),
        SlotsMoved { epoch: 2, left: slots.clone(), came: SlotSet::default() }.encode().to_vec(),
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

pub(super) fn manager_commands(bytes: &[u8]) {
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

fn layout_of_services() -> manager::Command {
    let servers = (0..4).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    let kinds = vec![GroupKind::Epochs(EpochKind::Passive)];
    let services = ["kv", "voting"].map(|name| name.parse().unwrap_or_else(|error| panic!("{error}"))).into();
    manager::Command::LayoutOfServices { cluster: ClusterId(7), server_rf: 2, servers, kinds, services }
}

pub(super) fn sound_manager_commands() -> Vec<Vec<u8>> {
    let registration = registration(0);
    let mut image = Vec::new();
    manager_with_map().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    vec![
        codec::encode(&layout()),
        codec::encode(&manager::Command::Register(registration)),
        codec::encode(&layout_of_services()),
        codec::encode(&manager::Command::AddPartition { servers: vec!["127.0.0.1:1".to_owned()], at_unix_ms: 1 }),
        codec::encode(&manager::Command::MoveSlots { slots: SlotSet::range(0, 9), to: 0, at_unix_ms: 1 }),
        codec::encode(&manager::Query::Map),
        codec::encode(&manager::Reply::Map(cluster_map())),
        image,
    ]
}

const DIRECTORY: &str = "/data";

pub(super) fn assignment_file(bytes: &[u8]) {
    let disk = VirtualDisk::new();
    disk.create_dir_all(Path::new(DIRECTORY)).unwrap_or_else(|error| panic!("{error}"));
    put(&disk, &Path::new(DIRECTORY).join("assignment"), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = madkv_server::assignment::load(&disk, Path::new(DIRECTORY)) {
        assert!(error.starts_with("/data/assignment: "), "{error}");
    }
}

pub(super) fn sound_assignment_file() -> Vec<Vec<u8>> {
    let disk = VirtualDisk::new();
    disk.create_dir_all(Path::new(DIRECTORY)).unwrap_or_else(|error| panic!("{error}"));
    let saved = madkv_server::assignment::save(&disk, Path::new(DIRECTORY), &cluster_map());
    saved.unwrap_or_else(|error| panic!("{error}"));
    let bytes = read_file(&disk, &Path::new(DIRECTORY).join("assignment"), 1 << 20);
    vec![bytes.unwrap_or_else(|error| panic!("{error}"))]
}

/// Lines of the client's protocol, and address lists of command lines.
pub(super) fn text_lines(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = line::parse(line);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(addresses) = args::addresses("--peer_addrs", &text) {
        assert!(addresses.iter().all(|address| args::check_address("--peer_addrs", address).is_ok()));
    }
    let _ = args::listen_address("--api_listen", &text);
}

pub(super) fn sound_text_lines() -> Vec<Vec<u8>> {
    let lines = "PUT key value\nSWAP\tkey  value\nGET k\u{f6}\nDELETE k\nSCAN a z\nSTOP\n";
    vec![lines.into(), "127.0.0.1:80,[::1]:8080,host-name.example:65535".into(), "0.0.0.0:0".into()]
}

pub(super) fn history_file(bytes: &[u8]) {
    if let Ok(history) = history::History::read(bytes) {
        let mut again = Vec::new();
        history.write(&mut again).unwrap_or_else(|error| panic!("{error}"));
        history::History::read(&again[..]).unwrap_or_else(|error| panic!("what was read and written: {error}"));
    }
}

pub(super) fn sound_history_file() -> Vec<Vec<u8>> {
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
