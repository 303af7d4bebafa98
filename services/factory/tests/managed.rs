//! Real factories under managers, and clients.

#![cfg(test)]

mod group;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use group::{Group, Indexes, TIMEOUT, acknowledged};
use madkv_testkit::programs::{MANAGER, Programs as Built};
use madkv_testkit::wait::wait_for;

const SERVER: &str = env!("CARGO_BIN_EXE_factory-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_factory-client");
/// What lets a factory that was killed again and again come back soon.
const QUICK: [&str; 2] = ["--rejoin_pause_max", "1000"];

fn group(kind: &str, servers: u16) -> Group {
    group_of((kind, 0), servers, "factory")
}

fn group_of(kind: (&str, u16), servers: u16, services: &str) -> Group {
    let built = Built::of_a_cluster().unwrap_or_else(|error| panic!("{error}"));
    let programs = [Path::new(SERVER), Path::new(CLIENT), &built.path(MANAGER)];
    Group::under_manager(kind, servers, programs, &[&QUICK[..], &["--service", services]].concat()).unwrap()
}

fn indexes(last: u64, committed: u64, primary: i64) -> Indexes {
    Indexes { last, committed, primary }
}

/// What all servers have said of themselves.
fn said(group: &Group) -> String {
    let logs =
        group.servers.iter().map(|server| format!("---- {}\n{}", server.log_path().display(), server.log_tail()));
    logs.collect::<Vec<_>>().join("\n")
}

#[test]
fn server_that_is_sent_an_order_becomes_the_primary_and_the_other_one_has_it() {
    // Beside a partition of the key-value store.
    let group = group_of(("active", 1), 2, "kv,factory");
    group.order(1, 1, 1, &["--first_customer", "7"]).unwrap();
    group.wait_indexes(1, indexes(1, 1, 1)).unwrap();
    group.order(0, 1, 1, &["--first_customer", "8"]).unwrap();
    group.wait_indexes(0, indexes(2, 2, 0)).unwrap();
    group.wait_indexes(1, indexes(2, 1, 0)).unwrap();
    assert_eq!(group.scan(0, 10, &[]).unwrap().stdout, "7\t0\n8\t0\n");
    assert_eq!(group.scan(1, 10, &[]).unwrap().stdout, "7\t0\n", "an idle factory applies an order with the next one");
    assert_eq!(group.scan(1, 10, &["--linearizable"]).unwrap().stdout, "7\t0\n8\t0\n");
}

#[test]
fn switching_the_primary_gives_the_indexes_of_section_2_6() {
    for kind in ["passive", "active"] {
        let group = group(kind, 3);
        group.order(0, 10, 10, &[]).unwrap();
        group.wait_indexes(0, indexes(100, 100, 0)).unwrap();
        for idle in [1, 2] {
            group.wait_indexes(idle, indexes(100, 99, 0)).unwrap();
        }
        group.order(1, 1, 1, &["--first_customer", "50"]).unwrap();
        group.wait_indexes(1, indexes(101, 101, 1)).unwrap();
        for idle in [0, 2] {
            group.wait_indexes(idle, indexes(101, 100, 1)).unwrap();
        }
        let whole = group.records(1, 60, &[]).unwrap();
        assert_eq!(whole.len(), 11, "{kind}: {whole:?}");
        assert_eq!(group.records(0, 60, &[]).unwrap().len(), 10, "{kind}: it applies an order with the next one");
        assert_eq!(group.records(0, 60, &["--linearizable"]).unwrap(), whole, "{kind}");
        group.order(2, 10, 10, &["--first_order", "10"]).unwrap();
        group.wait_indexes(2, indexes(201, 201, 2)).unwrap();
        group.wait_indexes(0, indexes(201, 200, 2)).unwrap();
    }
}

/// Kills whoever is primary while customers order, again and again; each comes back.
fn kill_primaries_under_orders(kind: &str) {
    const CUSTOMERS: u32 = 6;
    const ORDERS: u32 = 400;
    let mut group = group(kind, 3);
    let file = group.directory.path().join("acknowledged");
    let path = file.display().to_string();
    let line = [&CUSTOMERS.to_string(), &ORDERS.to_string(), "1", "--acknowledged", &path];
    let mut client = group.client_process(0, &line).unwrap();
    let total = u64::from(CUSTOMERS * ORDERS);
    for kill in 1..=3 {
        // It still orders when the primary dies.
        let goal = total * kill / 4;
        let primary = wait_for(TIMEOUT, "orders at a primary", || {
            let found = (0..3).filter_map(|id| group.indexes(id).ok().map(|found| (id, found)));
            let is_primary = |(id, found): &(u16, Indexes)| found.primary == i64::from(*id) && found.last >= goal;
            found.into_iter().find(is_primary).map(|(id, _)| id)
        });
        let primary =
            primary.unwrap_or_else(|error| panic!("{kind}: {error}\n{}\n{}", said(&group), client.log_text()));
        group.kill(primary);
        group.start_server(primary).unwrap();
    }
    let ended = client.wait_end(TIMEOUT).and_then(|status| status.code());
    assert_eq!(ended, Some(0), "{kind}: {}\n{}", client.log_text(), said(&group));
    // Each order was acknowledged once, at an index of its own, and there are no others.
    let mut at: Vec<u64> = acknowledged(&file).into_iter().map(|(_, _, index)| index).collect();
    at.sort_unstable();
    assert!(at.iter().copied().eq(1..=total), "{kind}: {at:?}");
    // All are back, and have all of it.
    group.order(0, CUSTOMERS, 1, &["--first_order", &ORDERS.to_string()]).unwrap();
    let total = total + u64::from(CUSTOMERS);
    group.wait_indexes(0, indexes(total, total, 0)).unwrap();
    for idle in [1, 2] {
        group.wait_indexes(idle, indexes(total, total - 1, 0)).unwrap();
    }
    let records = group.records(2, CUSTOMERS, &["--linearizable"]).unwrap();
    assert!(
        records.len() == CUSTOMERS as usize && records.values().all(|&order| order == ORDERS as i32),
        "{records:?}"
    );
}

#[test]
fn primaries_killed_under_orders_lose_none_and_make_none_twice_in_a_passive_group() {
    kill_primaries_under_orders("passive");
}

#[test]
fn primaries_killed_under_orders_lose_none_and_make_none_twice_in_an_active_group() {
    kill_primaries_under_orders("active");
}

#[test]
fn all_but_one_die_and_come_back_and_nothing_is_lost() {
    let mut group = group("passive", 3);
    let mut first = 0;
    for kills in [[0_u16, 1, 2], [2, 0, 1]] {
        for (at, victim) in [(kills[1], Some(kills[0])), (kills[2], Some(kills[1])), (kills[2], None)] {
            group.order(at, 4, 2, &["--first_order", &first.to_string()]).unwrap();
            first += 2;
            if let Some(victim) = victim {
                group.kill(victim);
            }
        }
        for back in [kills[0], kills[1]] {
            group.start_server(back).unwrap();
        }
        // Whoever came back takes part, and takes over.
        group.order(kills[0], 4, 2, &["--first_order", &first.to_string()]).unwrap();
        first += 2;
        let total = 4 * u64::from(first as u32);
        let agreed = wait_for(TIMEOUT, "all to have the same", || {
            let found: Vec<Indexes> = (0..3).filter_map(|id| group.indexes(id).ok()).collect();
            let primary = found.first()?.primary;
            let expected = (0..3).map(|id| indexes(total, if id == primary { total } else { total - 1 }, primary));
            (found == expected.collect::<Vec<_>>()).then_some(())
        });
        agreed.unwrap_or_else(|error| panic!("{error}\n{}", said(&group)));
    }
}

fn epoch_of(group: &Group, id: u16) -> u64 {
    let log = group.servers[usize::from(id)].log_text();
    let epochs = log.lines().filter_map(|line| line.rsplit_once("in epoch ")?.1.parse().ok());
    epochs.max().unwrap_or(0)
}

#[test]
fn servers_that_are_sent_orders_in_turn_move_the_production_once_a_second_and_leave_no_one_in_doubt() {
    for kind in ["passive", "active"] {
        let mut group = group(kind, 2);
        group.order(0, 1, 1, &[]).unwrap();
        let (before, began) = (epoch_of(&group, 0), Instant::now());
        // These know of one server each, and could not send an order again: what is unknown they would say.
        group.client_flags.clear();
        let ids = [0, 1];
        let mut clients = ids.map(|id| {
            let first = (100 * (id + 1)).to_string();
            group.client_process(id, &["4", "250", "1", "--first_customer", &first]).unwrap()
        });
        for client in &mut clients {
            let ended = client.wait_end(TIMEOUT).and_then(|status| status.code());
            assert_eq!(ended, Some(0), "{kind}: {}\n{}", client.log_text(), said(&group));
        }
        let epochs = ids.map(|id| epoch_of(&group, id)).into_iter().max().unwrap() - before;
        let seconds = began.elapsed().as_secs_f64();
        assert!(
            epochs >= 1 && epochs as f64 <= seconds + 1.0,
            "{kind}: {epochs} epochs in {seconds} s\n{}",
            said(&group)
        );
        let last = wait_for(TIMEOUT, "all orders", || {
            let found = ids.map(|id| group.indexes(id).ok().map(|found| found.last));
            (found == [Some(2_001); 2]).then_some(2_001)
        });
        assert_eq!(last.unwrap(), 2_001, "{kind}: none was made twice");
    }
}

#[test]
fn without_managers_the_primary_goes_on_and_an_idle_factory_says_that_it_cannot_take_over() {
    let mut group = group("passive", 2);
    group.order(0, 1, 1, &[]).unwrap();
    group.wait_indexes(1, indexes(1, 0, 0)).unwrap();
    group.manager.as_mut().unwrap().kill();
    // Clients that need no manager.
    group.client_flags.clear();
    group.order(0, 1, 1, &["--first_order", "1"]).unwrap();
    let refused = group.client(1, &["1", "1", "1", "--first_order", "2"]).unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("the managers do not say whether this factory is the primary"),
        "{}",
        refused.stderr
    );
    // It had stopped for that, and goes on.
    group.order(0, 1, 1, &["--first_order", "3"]).unwrap();
    group.wait_indexes(0, indexes(3, 3, 0)).unwrap();
    group.wait_indexes(1, indexes(3, 2, 0)).unwrap();
}

fn line(program: &str, words: &str) -> (Option<i32>, String) {
    let output = Command::new(program).args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && stderr.lines().count() == 1, "{words}: {stderr}");
    (output.status.code(), stderr)
}

// covers B9
#[test]
fn wrong_use_is_answered_with_one_line() {
    let group = group("passive", 2);
    let managers = group.client_flags[..2].join(" ");
    let (port, other) = (group.port(0), group.port(1));
    let free = madkv_testkit::ports::Ports::claim(2).unwrap();
    let free = free.first();
    let directory = group.directory.path().join("none").display().to_string();
    let flags = format!("--listen_host 127.0.0.1 --p2p_offset 1 --backer_path {directory} {managers}");
    for (words, part) in [
        (format!("{free} 5 1 0 127.0.0.1 {port} {flags}"), "the 2 factories of a group have the ids 0 to 1"),
        (format!("{free} 0 1 1 127.0.0.1 {port} {flags}"), "the managers have other factories in s0"),
        (format!("{free} 0 2 1 127.0.0.1 {other} 2 127.0.0.1 1 {flags}"), "the managers have other factories in s0"),
        (format!("{free} 0 0 {flags} --partition_id 3"), "--partition_id: 3; the managers have partitions 0 to 0"),
        (format!("{free} 0 0 {flags} --found_anew"), "--found_anew is for factories without --managers"),
        (format!("{free} 0 0 --managers none"), "at least one manager"),
        (format!("{free} 0 0 --p2p_offset 5"), "--p2p_offset is for factories with --managers"),
        (format!("65000 0 0 {managers}"), "--p2p_offset: 1000"),
    ] {
        let (code, text) = line(SERVER, &words);
        assert!(code == Some(2) && text.contains(part), "{words}: {code:?} {text}");
    }
    for (words, part, expected) in [
        (format!("127.0.0.1 {free} 1 1 1 {managers}"), "is none of the factories that the managers have in s0", 2),
        (format!("127.0.0.1 {port} 1 1 1 --managers 127.0.0.1:{free}"), "no manager answers", 1),
        (format!("127.0.0.1 {port} 1 1 1 --partition_id 1"), "--partition_id is for factories with --managers", 2),
    ] {
        let (code, text) = line(CLIENT, &words);
        assert!(code == Some(expected) && text.contains(part), "{words}: {code:?} {text}");
    }
}

// covers B9 D13
#[test]
fn group_of_another_service_or_kind_and_a_directory_of_the_other_mode_are_refused() {
    let said_by_server = |kind: &str, service: &str| {
        let mut group = group_of((kind, 0), 1, service);
        let ended = group.server(0).wait_end(TIMEOUT).and_then(|status| status.code());
        let text = group.server(0).log_text();
        assert_eq!(ended, Some(2), "{text}");
        text
    };
    let text = said_by_server("raft", "factory");
    assert!(text.contains("s0 is of kind raft there; factories need passive or active"), "{text}");
    let text = said_by_server("passive", "voting");
    assert!(text.contains("--partition_id: 0; the managers say that s0 is of service voting, not factory"), "{text}");

    let mut group = group("passive", 1);
    group.order(0, 1, 1, &[]).unwrap();
    group.kill(0);
    let directory = group.directory.path().join("server.0").display().to_string();
    let port = group.port(0);
    let (code, text) = line(SERVER, &format!("{port} 0 0 --listen_host 127.0.0.1 --backer_path {directory}"));
    assert!(code == Some(1) && text.contains("this is the directory of a factory with --managers"), "{text}");
    group.start_server(0).unwrap();
    group.order(0, 1, 1, &["--first_order", "1"]).unwrap();
    group.wait_indexes(0, indexes(2, 2, 0)).unwrap();
}
