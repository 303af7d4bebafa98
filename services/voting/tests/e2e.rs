//! Real servers, managers and clients.

#![cfg(test)]

mod group;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use group::{Programs, Service, Setup, TIMEOUT};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::{CLIENT as STORE_CLIENT, MANAGER, Programs as Built, SERVER as STORE_SERVER};

const SERVER: &str = env!("CARGO_BIN_EXE_voting-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_voting-client");

fn built() -> Built {
    Built::beside_this_one().unwrap_or_else(|error| panic!("{error}"))
}

fn service(clients: usize, flags: &[&str]) -> Service {
    service_beside(None, clients, flags)
}

/// Beside a partition of the store, if its executable is given.
fn service_beside(store: Option<PathBuf>, clients: usize, flags: &[&str]) -> Service {
    let built = built();
    let programs = Programs { manager: built.path(MANAGER), server: SERVER.into(), client: CLIENT.into() };
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let setup = Setup { managers: 1, clients, flags, manager_flags: Vec::new(), store };
    Service::new(&programs, &setup, Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

/// Everything is quick, so that much happens in a short time.
const QUICK: [&str; 10] = [
    "--voters",
    "5",
    "--ballot_interval",
    "100",
    "--heartbeat_interval",
    "100",
    "--heartbeats_missed",
    "3",
    "--start_delay",
    "300",
];

// covers K14 K16
#[test]
fn logs_of_all_clients_are_the_same_whatever_dies_and_when_the_link_is_cut() {
    let mut service = service(5, &QUICK);
    service.start().unwrap();
    service.wait_results(5).unwrap();

    // The primary dies: the backup goes on alone, and starts it again.
    let (primary, backup) = service.wait_both().unwrap();
    service.kill(&primary).unwrap();
    service.wait_primary("the backup to take over", |now| now.pid == backup.pid).unwrap();
    // A client dies meanwhile, and goes on where its log ends.
    service.clients[4].kill();
    service.clients[4].start().unwrap();
    service.wait_results(3).unwrap();
    let (now_primary, now_backup) = service.wait_both().unwrap();
    assert_eq!((now_primary.pid, now_backup.replica), (backup.pid, primary.replica));
    service.wait_results(3).unwrap();

    // The backup dies: the primary goes on, and starts it again.
    service.kill(&now_backup).unwrap();
    service.wait_results(3).unwrap();
    let (primary, backup) = service.wait_both().unwrap();
    assert_eq!(primary.pid, now_primary.pid);
    assert_ne!(backup.pid, now_backup.pid);

    // The link between the two is cut: one goes on, the other one does not.
    let alone = service.cut_and_wait_alone().unwrap();
    service.wait_results(3).unwrap();
    service.wait_only_primary(&alone).unwrap();
    service.mend();
    service.wait_both().unwrap();
    service.wait_results(50_usize.saturating_sub(service.logged(0)).max(3)).unwrap();

    let results = service.finish().unwrap();
    assert!(results >= 50, "{results}");
    for client in &service.clients {
        let said = client.log_text();
        for told in [", alone", ", backup ", "result "] {
            assert!(said.contains(told), "{told:?} is not in {said}");
        }
    }
}

fn ends(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

// covers B9
#[test]
fn wrong_use_gives_one_line_and_exit_code_2() {
    let server = ["--manager_addrs=127.0.0.1:1", "--p2p=127.0.0.1:4,127.0.0.1:5", "--backer_path=./b"];
    let client = ["--servers=127.0.0.1:1", "--log=/nonexistent/log"];
    let wrong = [
        (SERVER, [&server[..], &["--servers=127.0.0.1:2,127.0.0.1:3", "--replica_id=2"]].concat()),
        (SERVER, [&server[..], &["--servers=127.0.0.1:2", "--replica_id=0"]].concat()),
        (SERVER, server.to_vec()),
        (CLIENT, [&client[..], &["--name=a b"]].concat()),
        (CLIENT, [&client[..], &["--name=a", "--vote=perhaps"]].concat()),
        (CLIENT, vec![]),
    ];
    for (program, arguments) in wrong {
        let (code, said) = ends(program, &arguments);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{arguments:?}: {said}");
    }
    let (code, said) = ends(CLIENT, &[&client[..], &["--name=a"]].concat());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("/nonexistent/log"), "{said}");
}

// covers B9
#[test]
fn client_of_two_services_or_with_the_log_of_another_one_ends_with_one_line() {
    let mut services = [service(0, &["--start_delay", "0"]), service(0, &["--start_delay", "0"])];
    services.iter_mut().for_each(|service| service.start().unwrap());
    let log = services[0].directory.path().join("votes");
    let of = |servers: &str| {
        let arguments = ["--servers", servers, "--name", "a", "--log", log.to_str().unwrap()];
        let (code, said) = ends(CLIENT, &arguments);
        assert_eq!(code, Some(1), "{said}");
        said.lines().last().unwrap_or_default().to_owned()
    };
    let said = of(&format!("{},{}", services[0].address(0), services[1].address(0)));
    assert!(said.contains("but results are logged of cluster"), "{said}");
    // More than there can be by now.
    let lines: String = (1..=9_999).map(|vote| format!("{vote} 1 0\n")).collect();
    fs::write(&log, &lines).unwrap();
    let said = of(&format!("{},{}", services[0].address(0), services[0].address(1)));
    assert!(said.contains("goes on with vote 10000, but the newest result here is"), "{said}");
    assert_eq!(fs::read_to_string(&log).unwrap(), lines);
}

// covers B9
#[test]
fn server_of_another_kind_than_the_managers_say_ends_with_one_line() {
    let mut service = service(0, &["--start_delay", "0"]);
    service.managers[0].start().unwrap();
    let server = &mut service.servers[0];
    server.add_arguments(&["--protocol".into(), "active".into()]);
    server.start().unwrap();
    let ended = server.wait_end(TIMEOUT).expect("an end");
    let said = server.log_tail();
    assert_eq!(ended.code(), Some(2), "{said}");
    assert!(said.contains("--protocol: active; the managers say that the group is of kind passive"), "{said}");
}

/// A partition of the key-value store and the voting service in one layout: each serves, and neither takes a server of
/// the other one.
// covers B9 G12
#[test]
fn group_beside_a_partition_of_the_store_serves_and_takes_none_of_its_servers() {
    let mut service = service_beside(Some(built().path(STORE_SERVER)), 2, &["--start_delay", "0", "--voters", "2"]);
    service.start().unwrap();
    service.wait_results(3).unwrap();
    let store = |words: &[&str], input: &[u8]| {
        let mut client = Command::new(built().path(STORE_CLIENT));
        client.args(["--manager_addrs", &service.manager_addrs]).args(words);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(input).unwrap();
        let output = client.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let lines = b"PUT a 1\nSCAN a z\nWATCH a z 1\nSTOP\n";
    let (_, said) = store(&[], lines);
    assert!(said.starts_with("PUT a not_found\nSCAN a z BEGIN\n  a 1\nSCAN END\nEVENT "), "{said}");
    let (_, status) = store(&["status"], b"");
    let row = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(row("s1.0").contains("in service, voting, passive"), "{status}");
    assert!(row("s0.0").contains("in service, passive"), "{status}");
    let (code, _) = store(&["move-slots", "0-9", "s1"], b"");
    assert_eq!(code, Some(1), "slots for the voting service");

    // Each says so before it takes a place.
    let directory = service.directory.path().join("other").display().to_string();
    let managers = service.manager_addrs.clone();
    let flags = [
        "--partition_id=1",
        "--replica_id=0",
        "--api_listen=127.0.0.1:0",
        "--p2p_listen=127.0.0.1:0",
        "--peer_addrs=127.0.0.1:1",
        "--protocol=passive",
        "--allow_unsynced",
    ];
    let flags = [&flags[..], &["--manager_addrs", &managers, "--backer_path", &directory]].concat();
    let (code, said) = ends(built().path(STORE_SERVER).to_str().unwrap(), &flags);
    assert!(said.contains("--partition_id: 1; the managers say that s1 is of service voting"), "{said}");
    assert_eq!(code, Some(2), "{said}");
    let ports = Ports::claim(4).unwrap();
    let pair = |first: u16| {
        let at = |offset: u16| format!("127.0.0.1:{}", ports.first() + first + offset);
        format!("{},{}", at(0), at(1))
    };
    let (servers, p2p) = (pair(0), pair(2));
    let flags = ["--partition_id=0", "--replica_id=0", "--start_delay=0", "--allow_unsynced", "--servers", &servers];
    let flags = [&flags[..], &["--p2p", &p2p, "--manager_addrs", &managers, "--backer_path", &directory]].concat();
    let (code, said) = ends(SERVER, &flags);
    assert!(said.contains("--partition_id: 0; the managers say that s0 is of service kv, not voting"), "{said}");
    assert_eq!(code, Some(2), "{said}");
    service.wait_results(1).unwrap();
    service.finish().unwrap();
}
