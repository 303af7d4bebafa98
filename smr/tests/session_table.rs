//! The session table, case by case, with the limits of production.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

use std::time::Instant;

use bytes::Bytes;
use smr::entry::Index;
use smr::id::{ClientId, REQUESTS_IN_FLIGHT_MAX, ReplicaId};
use smr::internals::session::{
    ANSWER_OVERHEAD_BYTES, ANSWERS_MAX_BYTES, SESSIONS_MAX, SessionCommand, SessionLimits, SessionTable, UNUSED_SHARE,
};
use smr::replica::Outcome;

/// A table that applies entry after entry to a state machine that counts.
struct Replica {
    table: SessionTable,
    index: u64,
    runs: u64,
}

impl Replica {
    fn new() -> Replica {
        Replica { table: SessionTable::new(), index: 0, runs: 0 }
    }

    fn apply(&mut self, command: &SessionCommand) -> Outcome {
        self.index += 1;
        self.table.apply(Index(self.index), command, |command| {
            self.runs += 1;
            [command, b" done"].concat()
        })
    }

    /// As in a log of an earlier build.
    fn open(&mut self) -> ClientId {
        self.open_with(0)
    }

    fn open_with(&mut self, nonce: u64) -> ClientId {
        match self.apply(&SessionCommand::Open { nonce }) {
            Outcome::SessionOpened(client) => client,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, client: ClientId, number: u64, lowest_unanswered: u64, command: &'static str) -> Outcome {
        let command = Bytes::from_static(command.as_bytes());
        self.apply(&SessionCommand::Write { client, number, lowest_unanswered, command })
    }
}

fn answer(text: &'static str) -> Outcome {
    Outcome::Answer(Bytes::from_static(text.as_bytes()))
}

fn refused(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

// covers C1, C2
#[test]
fn write_repeated_takes_effect_once_and_gets_the_same_answer() {
    let mut replica = Replica::new();
    let client = replica.open();
    assert_eq!(client, ClientId::at(1));
    assert_eq!(replica.write(client, 1, 1, "swap a"), answer("swap a done"));
    assert_eq!(replica.write(client, 1, 1, "swap a"), answer("swap a done"));
    assert_eq!(replica.write(client, 2, 1, "swap a"), answer("swap a done"));
    assert_eq!(replica.write(client, 1, 1, "swap a"), answer("swap a done"));
    assert_eq!(replica.runs, 2);
}

// covers C7
#[test]
fn numbers_in_the_window_come_in_any_order_with_gaps() {
    let mut replica = Replica::new();
    let client = replica.open();
    for number in [REQUESTS_IN_FLIGHT_MAX, 3, 700, 1, 2] {
        assert_eq!(replica.write(client, number, 1, "x"), answer("x done"));
    }
    assert!(refused(replica.write(client, REQUESTS_IN_FLIGHT_MAX + 1, 1, "x")));
    assert_eq!(replica.runs, 5);
    assert_eq!(replica.write(client, REQUESTS_IN_FLIGHT_MAX + 1, 2, "x"), answer("x done"));
    assert_eq!(replica.write(client, 1, 1, "x"), Outcome::AnswerGone);
    assert_eq!(replica.write(client, 2, 1, "x"), answer("x done"), "the lowest number is not taken back");
    assert_eq!(replica.runs, 6);
}

// covers C7
#[test]
fn senseless_numbers_are_refused_and_nothing_of_them_is_believed() {
    let mut replica = Replica::new();
    let client = replica.open();
    replica.write(client, 5, 1, "x");
    assert!(refused(replica.write(client, 0, 0, "x")));
    assert!(refused(replica.write(client, 6, 0, "x")));
    assert!(refused(replica.write(client, 6, 7, "x")));
    assert!(refused(replica.write(client, 5, 5, "another command")));
    assert!(refused(replica.write(client, u64::MAX, 1, "x")));
    assert_eq!(replica.write(client, 1, 1, "x"), answer("x done"), "the window did not move");
    assert_eq!(replica.write(client, u64::MAX, u64::MAX, "last"), answer("last done"));
    assert_eq!(replica.write(client, u64::MAX, u64::MAX, "last"), answer("last done"));
    assert_eq!(replica.runs, 3);
}

// covers C4
#[test]
fn write_without_a_session_is_not_applied() {
    let mut replica = Replica::new();
    let client = replica.open();
    assert_eq!(replica.write(ClientId::at(0), 1, 1, "x"), Outcome::SessionExpired);
    assert_eq!(replica.write(ClientId::at(2), 1, 1, "x"), Outcome::SessionExpired);
    assert_eq!(replica.write(ClientId::at(u64::MAX), 1, 1, "x"), Outcome::SessionExpired);
    assert_eq!(replica.runs, 0);
    assert_eq!(replica.write(client, 1, 1, "x"), answer("x done"));
}

#[test]
fn idempotent_command_needs_no_session_and_runs_each_time() {
    let mut replica = Replica::new();
    let command = SessionCommand::Idempotent { command: Bytes::from_static(b"register") };
    assert_eq!(replica.apply(&command), answer("register done"));
    assert_eq!(replica.apply(&command), answer("register done"));
    assert_eq!(replica.runs, 2);
    assert_eq!(replica.table.answers_bytes(), 0);
}

// covers C2, C4
#[test]
fn check_answers_what_is_certain_and_nothing_else() {
    let mut replica = Replica::new();
    let client = replica.open();
    replica.write(client, 1, 1, "x");
    replica.write(client, 3, 2, "x");
    let check = |client, number, lowest, command: &str| replica.table.check(client, number, lowest, command.as_bytes());
    assert_eq!(check(client, 3, 2, "x"), Some(answer("x done")));
    assert_eq!(check(client, 1, 1, "x"), Some(Outcome::AnswerGone));
    assert!(check(client, 3, 2, "y").is_some_and(refused));
    assert!(check(client, 2 + REQUESTS_IN_FLIGHT_MAX, 2, "y").is_some_and(refused));
    assert_eq!(check(client, 2, 2, "x"), None, "new");
    assert_eq!(check(client, 2 + REQUESTS_IN_FLIGHT_MAX, 3, "y"), None, "new, behind the window as it stands");
    assert_eq!(check(ClientId::at(3), 1, 1, "x"), Some(Outcome::SessionExpired), "entry 3 opened no session");
    assert_eq!(check(ClientId::at(4), 1, 1, "x"), None, "entry 4 may be about to");
}

// covers C6
#[test]
fn answer_evicted_leaves_the_number_executed() {
    let mut replica = Replica::new();
    let (first, second) = (replica.open(), replica.open());
    let command = Bytes::from(vec![b'v'; 1 << 20]);
    let big = |client, number| SessionCommand::Write { client, number, lowest_unanswered: 1, command: command.clone() };
    assert_eq!(replica.write(first, 1, 1, "x"), answer("x done"));
    let fit = (ANSWERS_MAX_BYTES / (command.len() + 5 + ANSWER_OVERHEAD_BYTES)) as u64;
    for number in 1..=fit {
        assert!(matches!(replica.apply(&big(second, number)), Outcome::Answer(_)));
    }
    assert!(matches!(replica.apply(&big(second, 1)), Outcome::Answer(_)), "all of them fit");
    replica.apply(&big(second, fit + 1));
    assert!(replica.table.answers_bytes() <= ANSWERS_MAX_BYTES);
    let runs = replica.runs;
    // The oldest by log index went, whosever it was.
    assert_eq!(replica.write(first, 1, 1, "x"), Outcome::AnswerGone);
    assert_eq!(replica.write(first, 1, 1, "y"), Outcome::AnswerGone);
    assert_eq!(replica.apply(&big(second, 1)), Outcome::AnswerGone);
    assert!(matches!(replica.apply(&big(second, 2)), Outcome::Answer(_)));
    assert_eq!(replica.runs, runs);
}

// covers C5, C8
#[test]
fn session_least_recently_used_by_log_index_goes_first() {
    let mut replica = Replica::new();
    let clients: Vec<ClientId> = (0..SESSIONS_MAX).map(|_| replica.open()).collect();
    // Idle for as long as the table is not full, however long the log grows.
    replica.index += 1 << 40;
    assert_eq!(replica.write(clients[0], 1, 1, "x"), answer("x done"));
    // A refused request and a duplicate are signs of life, too.
    assert!(refused(replica.write(clients[1], 0, 0, "x")));
    assert_eq!(replica.table.len(), SESSIONS_MAX);

    replica.open();
    assert_eq!(replica.table.len(), SESSIONS_MAX);
    assert_eq!(replica.write(clients[2], 1, 1, "x"), Outcome::SessionExpired);
    assert_eq!(replica.table.check(clients[2], 1, 1, b"x"), Some(Outcome::SessionExpired));
    for client in [clients[0], clients[1], clients[3]] {
        assert_eq!(replica.write(client, 1, 1, "x"), answer("x done"));
    }
}

// covers B30
#[test]
fn flood_of_opened_sessions_drives_out_none_that_writes() {
    let mut replica = Replica::new();
    let working = SESSIONS_MAX - SESSIONS_MAX / UNUSED_SHARE;
    let clients: Vec<ClientId> = (0..working).map(|_| replica.open_with(7)).collect();
    for client in &clients {
        assert_eq!(replica.write(*client, 1, 1, "x"), answer("x done"));
    }
    let mut flood = Vec::new();
    for _ in 0..3 * SESSIONS_MAX {
        flood.push(replica.open_with(7));
        assert!(replica.table.len() <= SESSIONS_MAX);
    }
    // Restored from an image it goes on in the same way.
    let mut bytes = Vec::new();
    replica.table.image().write(&mut bytes).unwrap();
    replica.table = SessionTable::restore(&mut bytes.as_slice()).unwrap();
    flood.push(replica.open_with(7));
    assert_eq!(replica.table.len(), SESSIONS_MAX);
    for client in &clients {
        assert_eq!(replica.write(*client, 2, 2, "y"), answer("y done"), "{client:?} was driven out");
    }
    // The newest of the flood are there, and become clients like others by their first write.
    let newest = *flood.last().unwrap();
    assert_eq!(replica.write(newest, 1, 1, "x"), answer("x done"));
    assert_eq!(replica.table.check(flood[0], 1, 1, b"x"), Some(Outcome::SessionExpired));
}

// covers L20: what earlier builds have applied has the same outcome when it is replayed, on whichever replica.
#[test]
fn sessions_opened_by_earlier_builds_are_driven_out_in_the_order_of_their_use() {
    let mut replica = Replica::new();
    let working = replica.open();
    assert_eq!(replica.write(working, 1, 1, "x"), answer("x done"));
    for _ in 0..SESSIONS_MAX {
        replica.open();
    }
    assert_eq!(replica.write(working, 2, 2, "y"), Outcome::SessionExpired);
}

// covers B30 C5
#[test]
fn session_that_wrote_once_and_never_again_goes_before_those_in_use() {
    let mut replica = Replica::new();
    let clients: Vec<ClientId> = (0..SESSIONS_MAX).map(|_| replica.open()).collect();
    for client in clients.iter().rev() {
        replica.write(*client, 1, 1, "x");
    }
    let next = replica.open();
    assert_eq!(replica.table.check(clients[SESSIONS_MAX - 1], 2, 1, b"y"), Some(Outcome::SessionExpired));
    assert_eq!(replica.write(next, 1, 1, "x"), answer("x done"));
    assert_eq!(replica.write(clients[0], 2, 1, "y"), answer("y done"));
}

#[test]
#[should_panic(expected = "entry 5 applied after entry 5")]
fn entry_applied_twice_stops_the_process() {
    let mut table = SessionTable::new();
    for _ in 0..2 {
        table.apply(Index(5), &SessionCommand::Open { nonce: 0 }, |_| Vec::new());
    }
}

// covers C3, S10
#[test]
fn restored_table_answers_from_store_and_leaves_the_rest_of_the_stream() {
    let mut replica = Replica::new();
    let client = replica.open();
    replica.write(client, 2, 1, "swap a");
    let mut bytes = Vec::new();
    replica.table.image().write(&mut bytes).unwrap();
    bytes.extend_from_slice(b"the state machine");
    let mut input = bytes.as_slice();
    let table = SessionTable::restore(&mut input).unwrap();
    assert_eq!(input, b"the state machine");
    assert_eq!(table.digest(), replica.table.digest());
    replica.table = table;
    assert_eq!(replica.write(client, 2, 1, "swap a"), answer("swap a done"));
    assert_eq!(replica.runs, 1);
}

#[test]
fn restore_under_other_limits_is_refused() {
    let mut bytes = Vec::new();
    SessionTable::new().image().write(&mut bytes).unwrap();
    let other = SessionLimits { sessions_max: 7, ..SessionLimits::default() };
    let error = SessionTable::restore_with_limits(&mut bytes.as_slice(), other).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    SessionTable::restore(&mut bytes.as_slice()).unwrap();
}

/// Prints what a write costs; run with `--release --nocapture` for figures that mean something.
#[test]
fn table_under_load_keeps_its_bounds() {
    let mut replica = Replica::new();
    let clients: Vec<ClientId> = (0..1000).map(|_| replica.open()).collect();
    let command = Bytes::from(vec![b'c'; 200]);
    const COUNT: u64 = 100_000;
    let started = Instant::now();
    for request in 0..COUNT {
        let client = clients[(request * 7 % 1000) as usize];
        let number = request / 1000 + 1;
        let lowest_unanswered = number.saturating_sub(16).max(1);
        let command = SessionCommand::Write { client, number, lowest_unanswered, command: command.clone() };
        assert!(matches!(replica.apply(&command), Outcome::Answer(_)));
    }
    let each = started.elapsed() / COUNT as u32;
    let started = Instant::now();
    let image = replica.table.image();
    let image_took = started.elapsed();
    assert_eq!(replica.runs, COUNT);
    assert_eq!(replica.table.answers_bytes(), 1000 * 17 * (205 + ANSWER_OVERHEAD_BYTES));
    println!("{each:?} for a write, {image_took:?} for an image of {image:?}");
}

// covers C16: an answer to a stranger would look like one's own.
#[test]
fn write_in_a_session_of_the_same_index_but_another_group_is_expired_and_not_executed() {
    let mut table = SessionTable::new();
    let opened = table.apply(Index(1), &SessionCommand::Open { nonce: 7 }, |_| Vec::new());
    let own = ClientId { index: 1, nonce: 7 };
    assert_eq!(opened, Outcome::SessionOpened(own));
    let write = |client| SessionCommand::Write { client, number: 1, lowest_unanswered: 1, command: Bytes::from("x") };
    let answer = Outcome::Answer(Bytes::from("own"));
    assert_eq!(table.apply(Index(2), &write(own), |_| b"own".to_vec()), answer);
    for stranger in [ClientId::at(1), ClientId { index: 1, nonce: 8 }] {
        assert_eq!(table.check(stranger, 1, 1, b"x"), Some(Outcome::SessionExpired));
        let outcome = table.apply(Index(table.applied().0 + 1), &write(stranger), |_| panic!("executed"));
        assert_eq!(outcome, Outcome::SessionExpired);
    }
    let mut image = Vec::new();
    table.image().write(&mut image).unwrap();
    let restored = SessionTable::restore(&mut &image[..]).unwrap();
    assert_eq!(restored.check(own, 1, 1, b"x"), Some(answer));
    assert_eq!(restored.check(ClientId::at(1), 1, 1, b"x"), Some(Outcome::SessionExpired));
}

// covers D16
#[test]
fn restore_image_without_nonces_is_a_table_of_sessions_without_a_random_part() {
    let mut table = SessionTable::new();
    table.apply(Index(3), &SessionCommand::Open { nonce: 0 }, |_| Vec::new());
    let mut image = Vec::new();
    table.image().write(&mut image).unwrap();
    // Magic, two limits, the last entry and a count; then the session, with its nonce as the second word.
    let sessions_at = 4 + 3 * 8 + 4;
    image.drain(sessions_at + 8..sessions_at + 16);
    image[..4].copy_from_slice(b"SES1");
    assert_eq!(SessionTable::restore(&mut &image[..]).unwrap().digest(), table.digest());
}

// covers D16
#[test]
fn restore_table_of_a_newer_version_is_refused_with_both_versions() {
    let error = SessionTable::restore(&mut &b"SES5whatever"[..]).unwrap_err().to_string();
    assert_eq!(error, "no session table: it is of version 5, this build reads versions 1 to 4");
}

// covers D16 L20
#[test]
fn addresses_are_merged_and_part_of_an_image_only_where_there_are_some() {
    let mut table = SessionTable::new();
    let say = |table: &mut SessionTable, index: u64, addresses: &[(u16, &str)]| {
        let addresses = addresses.iter().map(|(name, address)| (ReplicaId(*name), (*address).to_owned())).collect();
        table.apply(Index(index), &SessionCommand::Addresses { addresses }, |_| panic!("nothing for the machine"))
    };
    let image = |table: &SessionTable| {
        let mut bytes = Vec::new();
        table.image().write(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(&image(&table)[..4], b"SES2", "as builds write it that know no addresses");
    assert_eq!(say(&mut table, 3, &[(1, "a:1"), (2, "b:1")]), Outcome::Done);
    assert_eq!(say(&mut table, 4, &[(2, ""), (3, "[::1]:9"), (1, "a:2")]), Outcome::Done);
    let known = [(ReplicaId(1), "a:2".to_owned()), (ReplicaId(3), "[::1]:9".to_owned())].into();
    assert_eq!(table.addresses(), &known);
    let bytes = image(&table);
    let restored = SessionTable::restore(&mut &bytes[..]).unwrap();
    assert_eq!((restored.addresses(), restored.digest()), (&known, table.digest()));
    for cut in 0..bytes.len() {
        assert!(SessionTable::restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
}
