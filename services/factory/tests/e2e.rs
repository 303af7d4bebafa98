//! Real factories and clients.

#![cfg(test)]

mod group;

use std::path::Path;
use std::process::{Command, Stdio};

use group::{Group, Indexes, TIMEOUT, acknowledged};
use madkv_testkit::wait::wait_for;

const SERVER: &str = env!("CARGO_BIN_EXE_factory-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_factory-client");

fn group(servers: u16) -> Group {
    Group::start(servers, Path::new(SERVER), Path::new(CLIENT)).unwrap()
}

fn indexes(last: u64, committed: u64, primary: i64) -> Indexes {
    Indexes { last, committed, primary }
}

#[test]
fn switching_the_primary_gives_the_indexes_of_section_2_6() {
    let group = group(3);
    // x = 100 orders at factory 0.
    group.order(0, 10, 10, &[]).unwrap();
    group.wait_indexes(0, indexes(100, 100, 0)).unwrap();
    for idle in [1, 2] {
        group.wait_indexes(idle, indexes(100, 99, 0)).unwrap();
    }
    // The next one goes to an idle factory: appended at x + 1, and x is committed and applied there.
    group.order(1, 1, 1, &["--first_customer", "50"]).unwrap();
    group.wait_indexes(1, indexes(101, 101, 1)).unwrap();
    for idle in [0, 2] {
        group.wait_indexes(idle, indexes(101, 100, 1)).unwrap();
    }
    let whole = group.records(1, 60, &[]).unwrap();
    assert_eq!(whole.len(), 11, "{whole:?}");
    assert_eq!(group.records(0, 60, &[]).unwrap().len(), 10, "an idle factory applies an order with the next one");
    assert_eq!(group.records(0, 60, &["--linearizable"]).unwrap(), whole);
    group.order(2, 10, 10, &["--first_order", "10"]).unwrap();
    group.wait_indexes(2, indexes(201, 201, 2)).unwrap();
    group.wait_indexes(0, indexes(201, 200, 2)).unwrap();
}

#[test]
fn output_is_that_of_the_document() {
    let group = group(1);
    let numbers = |text: &str| -> Vec<f64> {
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        text.trim_end().split('\t').map(|word| word.parse().unwrap()).collect()
    };
    let ordered = group.client(0, &["3", "100", "1", "--first_customer", "11"]).unwrap();
    assert_eq!(ordered.code, Some(0), "{}", ordered.stderr);
    let [mean, min, max, rate] = numbers(&ordered.stdout)[..] else { panic!("{}", ordered.stdout) };
    assert!(min <= mean && mean <= max && min > 0.0 && rate > 0.0, "{}", ordered.stdout);
    let read = group.client(0, &["3", "10", "2", "--first_customer", "11"]).unwrap();
    assert_eq!((read.code, numbers(&read.stdout).len(), read.stderr.as_str()), (Some(0), 4, ""));
    let scanned = group.scan(0, 128, &[]).unwrap();
    assert_eq!(scanned.stdout, "11\t99\n12\t99\n13\t99\n");
    assert_eq!(scanned.stderr, "factory-client: last_index 300, committed_index 300, primary_id 0\n");
    assert_eq!(group.scan(0, 12, &[]).unwrap().stdout, "11\t99\n12\t99\n", "the last customer to look for");
}

/// The permutations of three.
const ORDERS: [[u16; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Customers with an id of at most this are in use.
const CUSTOMERS: u32 = 8;

/// Orders at a server, and those that were acknowledged before.
fn order_more(group: &Group, at: u16, next: &mut u32) {
    let first = next.to_string();
    group.order(at, CUSTOMERS, 3, &["--first_order", &first]).unwrap();
    *next += 3;
}

#[test]
fn every_order_of_kills_and_repairs_loses_no_acknowledged_order() {
    let mut group = group(3);
    let mut next = 0;
    for kills in ORDERS {
        for repairs in ORDERS {
            let what = format!("killed {kills:?}, repaired {repairs:?}");
            // Each of those that are left takes orders, and then dies.
            order_more(&group, kills[0], &mut next);
            group.kill(kills[0]);
            order_more(&group, kills[1], &mut next);
            group.kill(kills[1]);
            order_more(&group, kills[2], &mut next);
            group.kill(kills[2]);
            for server in repairs {
                group.start_server(server).unwrap();
                // As long as the one that was left last is not back, no one may take this order.
                if server == kills[2] {
                    order_more(&group, repairs[0], &mut next);
                    let records = group.records(repairs[0], CUSTOMERS, &[]).unwrap();
                    let last = next as i32 - 1;
                    assert_eq!(records.len(), CUSTOMERS as usize, "{what}");
                    assert!(records.values().all(|&order| order == last), "{what}: {records:?}, not {last}");
                }
            }
            // All are live again before the next one dies.
            order_more(&group, repairs[2], &mut next);
            let total = u64::from(next * CUSTOMERS);
            for id in 0..3 {
                let committed = if id == repairs[2] { total } else { total - 1 };
                group.wait_indexes(id, indexes(total, committed, i64::from(repairs[2]))).unwrap();
            }
        }
    }
}

#[test]
fn order_waits_for_the_last_live_set_and_then_goes_on() {
    let mut group = group(2);
    group.order(0, 1, 1, &[]).unwrap();
    group.kill(1);
    group.order(0, 1, 1, &["--first_order", "1"]).unwrap();
    group.kill(0);
    group.start_server(1).unwrap();
    // Server 1 lacks an order that only server 0 has.
    let mut waiting = group.client_process(1, &["1", "1", "1", "--first_order", "2"]).unwrap();
    let says = "an order waits until these servers are back, which may have what this one lacks: 0";
    let server = group.server(1);
    wait_for(TIMEOUT, "the server to say that it waits", || server.log_text().contains(says).then_some(())).unwrap();
    assert!(waiting.is_running(), "{}", waiting.log_text());
    group.start_server(0).unwrap();
    let ended = waiting.wait_end(TIMEOUT);
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", waiting.log_text());
    group.wait_indexes(1, indexes(3, 3, 1)).unwrap();
}

#[test]
fn servers_killed_under_load_clients_end_normally_and_nothing_acknowledged_is_lost() {
    let mut group = group(3);
    let mut newest = [-1; 8];
    // The primary, then a backup of the next one, and so on; each is repaired afterwards.
    for (round, (production, victim)) in [(0, 0), (1, 2), (1, 1), (2, 0)].into_iter().enumerate() {
        let file = group.directory.path().join(format!("acknowledged.{round}"));
        let first = (newest.iter().max().unwrap() + 1).to_string();
        let path = file.display().to_string();
        let line = ["8", "1000000", "1", "--first_order", &first, "--acknowledged", &path];
        let mut client = group.client_process(production, &line).unwrap();
        let before = group.indexes(production).map_or(0, |found| found.committed);
        let goes_on = |group: &Group, past: u64| {
            wait_for(TIMEOUT, "orders", || group.indexes(production).ok().filter(|found| found.committed > past + 200))
        };
        let reached = goes_on(&group, before).unwrap().committed;
        group.kill(victim);
        if victim != production {
            goes_on(&group, reached).unwrap();
            group.kill(production);
        }
        let ended = client.wait_end(TIMEOUT);
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", client.log_text());
        assert!(client.log_text().contains("the server is gone after"), "{}", client.log_text());
        for (customer, order, _) in acknowledged(&file) {
            let known = &mut newest[customer as usize];
            *known = (*known).max(order);
        }
        let survivor = (0..3).find(|&id| id != production && id != victim).unwrap();
        group.order(survivor, 1, 1, &["--first_customer", "20"]).unwrap();
        let records = group.records(survivor, 20, &[]).unwrap();
        for (customer, &order) in newest.iter().enumerate() {
            let found = records.get(&(customer as i32)).copied().unwrap_or(-1);
            // One order of each customer may have been recorded and not acknowledged.
            assert!(found == order || found == order + 1, "customer {customer}: {found}, acknowledged {order}");
        }
        newest.iter_mut().enumerate().for_each(|(customer, order)| *order = records[&(customer as i32)]);
        for id in [victim, production] {
            group.start_server(id).unwrap();
        }
        let total = group.indexes(survivor).unwrap().last;
        for id in (0..3).filter(|&id| id != survivor) {
            group.wait_indexes(id, indexes(total, total - 1, i64::from(survivor))).unwrap();
        }
    }
}

// covers B9
#[test]
fn wrong_use_is_answered_with_one_line() {
    let line = |program: &str, words: &str| {
        let output = Command::new(program).args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty() && stderr.lines().count() == 1, "{words}: {stderr}");
        (output.status.code(), stderr)
    };
    let peers = "1 127.0.0.1 7001 2 127.0.0.1 7002";
    for (words, part) in [
        (format!("7000 0 2 {peers} --partition_id 1"), "--partition_id is for factories with --managers"),
        ("7000 0 2 1 127.0.0.1 7001".to_owned(), "2 peers are 6 words"),
        (format!("7000 1 2 {peers}"), "peer 1 has this factory's own id"),
        (format!("7000 3 3 {peers} 2 127.0.0.1 7003"), "peer 2 is given twice"),
        (format!("7000 3 3 {peers} 4 127.0.0.1 7002"), "another peer's address"),
        ("7000 0 1 1 127.0.0.1 70000".to_owned(), "a port is a number"),
        ("0 0 0".to_owned(), "the port is a number"),
        ("7000 -1 0".to_owned(), "-1"),
        ("7000 0".to_owned(), "PEERS"),
    ] {
        let (code, text) = line(SERVER, &words);
        assert_eq!(code, Some(2), "{words}: {text}");
        assert!(text.contains(part), "{words}: {text}");
    }
    for (words, part) in [
        ("127.0.0.1 7000 1 1 4", "request type 4"),
        ("127.0.0.1 7000 0 1 1", "0 customers"),
        ("127.0.0.1 7000 1 -1 1", "not negative"),
        ("127.0.0.1 7000 1 1 1 --partition_id 1", "--partition_id is for factories with --managers"),
        ("127.0.0.1 7000 1 1", "REQUEST TYPE"),
    ] {
        let (code, text) = line(CLIENT, words);
        assert_eq!(code, Some(2), "{words}: {text}");
        assert!(text.contains(part), "{words}: {text}");
    }
}

// covers D13
#[test]
fn directory_of_another_server_or_group_is_refused_and_left_alone() {
    let mut group = group(1);
    group.order(0, 1, 1, &[]).unwrap();
    let directory = group.directory.path().join("server.0").display().to_string();
    let start = |words: &[&str]| {
        let line = [words, &["--backer_path", &directory, "--listen_host", "127.0.0.1"]].concat();
        let output = Command::new(SERVER).args(line).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let port = madkv_testkit::ports::Ports::claim(1).unwrap();
    let port = port.first().to_string();
    let (code, text) = start(&[&port, "0", "0"]);
    assert!(code == Some(1) && text.contains("another process uses this directory"), "{text}");
    group.kill(0);
    for words in [&[port.as_str(), "1", "0"][..], &[&port, "0", "1", "5", "127.0.0.1", "7001"]] {
        let (code, text) = start(words);
        assert!(code == Some(1) && text.contains("this is the directory of server 0"), "{words:?}: {text}");
    }
    group.start_server(0).unwrap();
    group.order(0, 1, 1, &["--first_order", "1"]).unwrap();
    group.wait_indexes(0, indexes(2, 2, 0)).unwrap();
}

#[test]
fn server_ends_in_order_at_sigterm_and_goes_on_where_it_was() {
    let mut group = group(2);
    group.order(0, 2, 5, &[]).unwrap();
    for id in [1, 0] {
        group.server(id).send_terminate();
        let ended = group.server(id).wait_end(TIMEOUT);
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", group.server(id).log_text());
    }
    for id in [0, 1] {
        group.start_server(id).unwrap();
    }
    group.order(1, 2, 5, &["--first_order", "5"]).unwrap();
    group.wait_indexes(1, indexes(20, 20, 1)).unwrap();
    assert_eq!(group.scan(1, 5, &[]).unwrap().stdout, "0\t9\n1\t9\n");
}
