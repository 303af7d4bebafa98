//! Bad command lines, ports and directories, with the real binary.

#![cfg(test)]

#[path = "../../smr-service/tests/node_arguments/mod.rs"]
mod node_arguments;

use node_arguments::Program;

const SERVER: Program = Program {
    name: "madkv-server",
    path: env!("CARGO_BIN_EXE_madkv-server"),
    good: &[
        ("--partition_id", "0"),
        ("--replica_id", "1"),
        ("--manager_addrs", "127.0.0.1:1"),
        ("--api_listen", "127.0.0.1:0"),
        ("--p2p_listen", "127.0.0.1:0"),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:3"),
        ("--backer_path", "/nonexistent/never/made"),
    ],
};

// covers B9
#[test]
fn command_line_that_cannot_work_one_line_and_exit_code_2() {
    SERVER.refuses_values(&[
        ("--partition_id", "50", "--partition_id"),
        ("--partition_id", "x", "--partition_id"),
        ("--partition_id", "70000", "--partition_id"),
        ("--replica_id", "3", "--replica_id"),
        ("--replica_id", "-1", "--replica_id"),
        ("--manager_addrs", "none", "--manager_addrs"),
        ("--manager_addrs", "", "--manager_addrs"),
        ("--manager_addrs", "127.0.0.1", "port"),
        ("--manager_addrs", "127.0.0.1:1,127.0.0.1:1", "twice"),
        ("--api_listen", "somewhere", "--api_listen"),
        ("--p2p_listen", "127.0.0.1:99999", "--p2p_listen"),
        ("--peer_addrs", "127.0.0.1:2", "group of 2"),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:2", "twice"),
        ("--peer_addrs", "127.0.0.1:2;127.0.0.1:3", "--peer_addrs"),
        ("--peer_addrs", "300.0.0.1:2,127.0.0.1:3", "IPv4"),
    ]);
    SERVER.refuses_lines("--api_listen");
}

// covers B9
#[test]
fn flags_of_groups_that_change_are_refused_where_the_manager_names_the_members() {
    for kind in ["chain", "active"] {
        for flags in [&["--join"][..], &["--advertise", "127.0.0.1:5,127.0.0.1:6"]] {
            let mut line = SERVER.with("--replica_id", "1");
            line.extend(["--protocol", kind].iter().chain(flags).map(|&word| word.to_owned()));
            SERVER.expect_line(&line, 2, flags[0]);
        }
    }
}

// covers B9
#[test]
fn port_in_use_one_line_and_exit_code_1() {
    SERVER.refuses_port_in_use("--api_listen");
}

// covers B9
#[test]
fn directory_that_is_a_file_one_line_and_exit_code_1() {
    SERVER.refuses_file_as_directory();
}

#[test]
fn help_publishes_the_limits_and_both_spellings_of_flags_are_accepted() {
    SERVER.explains_itself();
}

// covers B9
#[test]
fn http_address_that_cannot_work_one_line() {
    SERVER.refuses_http_listen("--api_listen");
}
