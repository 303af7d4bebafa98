//! Bad command lines, ports and directories, with the real binary.

#![cfg(test)]

#[path = "../../smr-service/tests/node_arguments/mod.rs"]
mod node_arguments;

use node_arguments::Program;

const MANAGER: Program = Program {
    name: "madkv-manager",
    path: env!("CARGO_BIN_EXE_madkv-manager"),
    good: &[
        ("--replica_id", "1"),
        ("--man_listen", "127.0.0.1:0"),
        ("--p2p_listen", "127.0.0.1:0"),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:3"),
        ("--server_rf", "3"),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12,127.0.0.1:13"),
        ("--backer_path", "/nonexistent/never/made"),
    ],
};

// covers B9
#[test]
fn command_line_that_cannot_work_one_line_and_exit_code_2() {
    MANAGER.refuses_values(&[
        ("--replica_id", "3", "--replica_id"),
        ("--replica_id", "one", "--replica_id"),
        ("--replica_id", "-1", "--replica_id"),
        ("--server_rf", "-3", "--server_rf"),
        ("--man_listen", "somewhere", "--man_listen"),
        ("--p2p_listen", "127.0.0.1:99999", "--p2p_listen"),
        ("--peer_addrs", "127.0.0.1:2", "group of 2"),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:2", "twice"),
        ("--peer_addrs", "300.0.0.1:2,127.0.0.1:3", "IPv4"),
        ("--server_rf", "2", "replication factor 2"),
        ("--server_rf", "0", "replication factor 0"),
        ("--server_rf", "5", "5"),
        ("--server_rf", "many", "--server_rf"),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12", "2 server addresses"),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12,127.0.0.1:11", "twice"),
        ("--server_addrs", "none", "0 partitions"),
        ("--server_addrs", "a,b,c", "port"),
    ]);
    MANAGER.refuses_lines("--man_listen");
}

// covers B9 G12
#[test]
fn services_that_fit_no_layout_one_line_and_exit_code_2() {
    let wrong = [
        ("kv,voting", "2 services of groups for 1 partitions"),
        ("Voting", "names no service"),
        ("", "names no service"),
    ];
    for (services, word) in wrong {
        let mut line = MANAGER.with("--replica_id", "1");
        line.push(format!("--service={services}"));
        MANAGER.expect_line(&line, 2, word);
    }
}

// covers B9
#[test]
fn port_in_use_one_line_and_exit_code_1() {
    MANAGER.refuses_port_in_use("--man_listen");
}

// covers B9
#[test]
fn directory_that_is_a_file_one_line_and_exit_code_1() {
    MANAGER.refuses_file_as_directory();
}

#[test]
fn help_publishes_the_limits_and_both_spellings_of_flags_are_accepted() {
    MANAGER.explains_itself();
}

// covers B9
#[test]
fn http_address_that_cannot_work_one_line() {
    MANAGER.refuses_http_listen("--man_listen");
}
