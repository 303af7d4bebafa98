//! The table of queues and bounds in docs/ARCHITECTURE.md, against the constants that it describes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::path::Path;

/// The rows of the table, by their first cell, each with the constants that its bounds come from, in the order in which
/// they are told. A number that is no constant stands for itself.
const ROWS: &[(&str, &[&str])] = &[
    (
        "requests of one connection",
        &["service:limits.rs:CONNECTION_REQUESTS_MAX", "service:limits.rs:CONNECTION_IN_FLIGHT_MAX_BYTES"],
    ),
    (
        "changes that a replica remembers for watches",
        &["service:notifications/recent.rs:KEPT_MAX_BYTES", "service:notifications/recent.rs:KEPT_MAX"],
    ),
    ("questions of watches that a server keeps", &["server:watch/holding.rs:HELD_MAX", "proto:watch.rs:HOLD_MAX_MS"]),
    ("answers of one connection that have not left", &["service:limits.rs:CONNECTION_IN_FLIGHT_MAX_BYTES"]),
    (
        "requests and answers of all connections",
        &["service:limits.rs:TOTAL_MAX_BYTES", "service:listener/pool.rs:CONNECTION_OWN_BYTES"],
    ),
    ("a connection's buffer that is not counted among them", &["service:listener/connection.rs:READ_FREE_BYTES"]),
    ("connections of clients", &["service:limits.rs:CONNECTIONS_MAX"]),
    (
        "connections to the listener that have not said who they are",
        &["service:limits.rs:STRANGERS_MAX", "service:limits.rs:HANDSHAKE_TIMEOUT_MS"],
    ),
    ("HTTP connections", &["service:http/server.rs:CONNECTIONS_MAX", "service:http/server.rs:REQUEST_MAX_BYTES"]),
    ("listener → replica", &["replica/turn.rs:REQUESTS_MAX"]),
    (
        "writes waiting for their commit",
        &["replica/engine/waiting.rs:WRITES_WAITING_MAX", "replica/engine/waiting.rs:WRITES_WAITING_MAX_BYTES"],
    ),
    (
        "entries of a leader's log that are not committed, those of earlier leaders included",
        &["replica/engine/waiting.rs:WRITES_WAITING_MAX"],
    ),
    ("reads waiting", &["replica/engine/limits.rs:READS_WAITING_MAX"]),
    ("scans of one connection under way", &["service:limits.rs:CONNECTION_SCANS_MAX"]),
    ("parts of a scan that wait to be written", &["service:listener/queue.rs:PARTS_WAIT_BYTES"]),
    ("network → replica", &["replica/turn.rs:EVENTS_MAX", "replica/turn.rs:EVENTS_MAX_BYTES"]),
    (
        "replica → one peer",
        &[
            "transport/outbound.rs:LANE_MESSAGES_MAX",
            "transport/outbound.rs:URGENT_LANE_MAX_BYTES",
            "transport/outbound.rs:BULK_LANE_MAX_BYTES",
        ],
    ),
    ("sessions", &["session/mod.rs:SESSIONS_MAX"]),
    ("answers stored", &["session/mod.rs:ANSWERS_MAX_BYTES"]),
    ("request numbers of one session under way", &["id.rs:REQUESTS_IN_FLIGHT_MAX"]),
    ("log in memory that cannot be cut", &["replica/engine/admission.rs:LOG_MAX_BYTES"]),
    (
        "writes that a member of an `active` group keeps for the first to order",
        &["replica/engine/kept.rs:KEPT_MAX", "replica/engine/kept.rs:KEPT_MAX_BYTES"],
    ),
    ("of these, sent on at a time", &["replica/engine/kept.rs:FORWARD_MAX_BYTES"]),
    (
        "applied at a time",
        &["replica/engine/backlog.rs:APPLY_ENTRIES_MAX", "replica/engine/backlog.rs:APPLY_MAX_BYTES"],
    ),
    (
        "checkpoint of a `passive` group",
        &[
            "replica/engine/checkpoints.rs:CHECKPOINT_MAX_BYTES",
            "replica/engine/checkpoints.rs:CHECKPOINT_PIECE_MAX_BYTES",
        ],
    ),
    ("room on the disk", &["disk/room.rs:LOW_BYTES"]),
    ("applying and answering in one turn", &["replica/engine/backlog.rs:WORK_PER_TURN_MAX_US"]),
    ("answers of one turn", &["replica/engine/backlog.rs:ANSWERS_PER_TURN_MAX_BYTES"]),
];
/// Rows whose bounds are settings of the core or need more than a number to be told.
const TOLD_IN_WORDS: &[&str] = &[
    "connections between replicas: of strangers; of one peer",
    "scans that make a part of their answer",
    "replica → disk",
    "appends in flight to one follower",
];

/// The value of a constant, read from the source, in bytes, microseconds or pieces: numbers and shifts of them are all
/// that occurs.
fn value(constant: &str) -> u64 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (file, name) = constant.rsplit_once(':').unwrap();
    let path = match file.split_once(':') {
        Some(("service", file)) => root.join("../smr-service/src").join(file),
        Some(("proto", file)) => root.join("../madkv-proto/src").join(file),
        Some(("server", file)) => root.join("../madkv-server/src").join(file),
        Some((other, _)) => panic!("no crate is called {other}"),
        None => root.join("src").join(file),
    };
    let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = source.lines().find(|line| line.contains(&format!("const {name}: ")));
    let line = line.unwrap_or_else(|| panic!("{}: no constant {name}", path.display()));
    let expression = line.split_once(" = ").unwrap().1.trim_end_matches(';');
    let number = |text: &str| -> u64 { text.replace('_', "").parse().unwrap_or_else(|_| panic!("{line}")) };
    let value = match expression.split_once(" << ") {
        Some((left, right)) => number(left) << number(right),
        None => number(expression),
    };
    if name.ends_with("_MS") { value * 1_000 } else { value }
}

/// The numbers of a cell, in plain units: bytes, microseconds, pieces.
fn numbers(cell: &str) -> Vec<u64> {
    let words: Vec<&str> = cell.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let mut numbers = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Ok(number) = word.replace(',', "").parse::<u64>() else { continue };
        let unit = words.get(at + 1).map_or("", |unit| unit.trim_end_matches(','));
        numbers.push(match unit {
            "KiB" => number << 10,
            "MiB" => number << 20,
            "ms" => number * 1_000,
            "s" => number * 1_000_000,
            _ => number,
        });
    }
    numbers
}

// covers I17
#[test]
fn bounds_in_the_architecture_document_are_those_of_the_code() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(document).unwrap();
    let table = text.split("| queue | bound | beyond it |\n|---|---|---|\n").nth(1).expect("the table of bounds");
    let mut told = Vec::new();
    for row in table.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        told.push(cells[0]);
        let Some((_, constants)) = ROWS.iter().find(|(name, _)| *name == cells[0]) else {
            assert!(TOLD_IN_WORDS.contains(&cells[0]), "no test knows the row {:?}", cells[0]);
            continue;
        };
        let expected: Vec<u64> = constants.iter().map(|constant| value(constant)).collect();
        assert_eq!(numbers(cells[1]), expected, "{}: the document says {:?}", cells[0], cells[1]);
    }
    for (name, _) in ROWS {
        assert!(told.contains(name), "the document does not tell of {name:?}");
    }
}
