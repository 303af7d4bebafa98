//! Garbage on ports, lines and command lines: one clear line or a closed connection, and nothing else happens.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use madkv_proto::frames::{ClientRequest, Hello, KIND_HELLO, KIND_REQUEST, MAGIC, RequestFrame, Service};
use madkv_proto::limits::VALUE_MAX_BYTES;
use madkv_testkit::process::Process;
use madkv_testkit::programs::{CLIENT, MANAGER, SERVER};
use madkv_testkit::wait::wait_for;
use smr::codec::frame;
use smr::id::ClusterId;

use crate::scene::{ONLY, REFUSAL_TIMEOUT, SMALL, Scene, TIMEOUT, fresh_directory, programs};

/// How long a connection that makes no sense may stay open; the handshake's own limit is 2 s.
const CLOSE_TIMEOUT: Duration = TIMEOUT;

// covers B2, B3, B4
#[test]
fn garbage_on_each_port_closes_the_connection_and_harms_no_one() {
    let mut scene = Scene::new(SMALL);
    let mut client = scene.warm_client();
    let nodes =
        [scene.leader_of(madkv_testkit::cluster::Group::Manager), scene.leader_of(ONLY), scene.follower_of(ONLY)];
    let descriptors = nodes.map(|node| scene.process(node).descriptors().unwrap());
    let garbage = garbage();
    // All at once: each may take as long as the handshake's limit.
    let addresses = nodes.iter().flat_map(|&node| [scene.client_address(node), scene.peer_address(node)]);
    let thrown: Vec<(TcpStream, SocketAddr, &[u8])> = addresses
        .flat_map(|address| garbage.iter().map(move |bytes| (throw(address, bytes), address, &bytes[..])))
        .collect();
    for (stream, address, bytes) in thrown {
        assert_closed(stream, address, bytes);
    }
    for (node, before) in nodes.into_iter().zip(descriptors) {
        let back = || scene.process(node).descriptors().filter(|&now| now <= before + 2);
        wait_for(TIMEOUT, &format!("{node}: descriptors back to {before}"), back).unwrap();
    }
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    for (node, process) in scene.processes() {
        assert!(process.is_running(), "{node}");
        assert!(!process.log_text().contains("panicked"), "{node}: {}", process.log_tail());
    }
}

/// What no port can make sense of. The frames are whole and valid, but for a client's or server's port they mean
/// nothing without, or before, a greeting that fits.
fn garbage() -> Vec<Vec<u8>> {
    let mut list: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        noise(64),
        noise(100_000),
        b"PUT a 1\n".to_vec(),
    ];
    let hello = |service, magic, cluster| {
        let mut bytes = Vec::new();
        frame(&mut bytes, KIND_HELLO, &Hello { magic, cluster, service }).unwrap();
        bytes
    };
    let good = hello(Service::Server { partition: 0 }, MAGIC, None);
    list.push(good[..good.len() / 2].to_vec());
    list.push(hello(Service::Server { partition: 0 }, MAGIC + 1, None));
    list.push(hello(Service::Server { partition: 49 }, MAGIC, None));
    list.push(hello(Service::Server { partition: 0 }, MAGIC, Some(ClusterId(1))));
    list.push(hello(Service::Manager, MAGIC, Some(ClusterId(1))));
    // A frame of another version, one that claims the largest length, one with a flipped bit.
    let mut other_version = good.clone();
    other_version[4] ^= 0x40;
    let mut longest = good.clone();
    longest[0..4].fill(0xff);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    list.extend([other_version, longest, flipped]);
    let mut no_greeting = Vec::new();
    frame(&mut no_greeting, KIND_REQUEST, &RequestFrame { id: 1, epoch: 0, ask: ClientRequest::Status }).unwrap();
    list.push(no_greeting);
    list
}

/// Bytes without a pattern, the same in each run (splitmix64).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 42u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 32) as u8
    });
    next.take(count).collect()
}

fn throw(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // The other side may close in the middle of it; that is what we want.
    let _ = stream.write_all(bytes);
    stream
}

/// What was said before the end (a refusal) does not matter.
fn assert_closed(mut stream: TcpStream, address: SocketAddr, bytes: &[u8]) {
    stream.set_read_timeout(Some(CLOSE_TIMEOUT)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => {
            panic!("{address} keeps the connection after {} bytes {:02x?}: {error}", bytes.len(), &bytes[..8])
        }
    }
}

// covers B6
#[test]
fn client_given_senseless_lines_answers_each_with_one_error_and_reads_on() {
    let scene = Scene::new(SMALL);
    let mut client = scene.warm_client();
    let too_long = "x".repeat(VALUE_MAX_BYTES + 1);
    let longest = "x".repeat(VALUE_MAX_BYTES);
    let huge = format!("PUT a {}", "x".repeat(5_000_000));
    let lines = [
        "",
        "   ",
        "put a 1",
        "FROB",
        "PUT",
        "PUT a",
        "PUT a 1 2",
        "SWAP a",
        "GET",
        "GET a b",
        "DELETE",
        "DELETE a b",
        "SCAN a",
        "SCAN a b c",
        "STOP now",
        "PUT \u{0} 1",
        &huge,
        &format!("PUT a {too_long}"),
        &format!("PUT {} 1", "k".repeat(4097)),
    ];
    for line in lines {
        let shown = &line[..line.len().min(30)];
        // A key of one zero byte is a word like any other.
        let answer = client.ask(line, TIMEOUT).unwrap();
        let fits = if line.contains('\u{0}') { answer.starts_with("PUT \u{0} ") } else { answer.starts_with("ERROR ") };
        assert!(fits, "{shown:?} was answered {answer:?}");
    }
    assert_eq!(client.ask("  PUT \t a   1 \r", TIMEOUT).unwrap(), "PUT a not_found");
    assert_eq!(client.ask(&format!("SWAP a {longest}"), TIMEOUT).unwrap(), "SWAP a 1");
    assert_eq!(client.get("a", TIMEOUT).unwrap().map(|value| value.len()), Some(VALUE_MAX_BYTES));
    assert_eq!(client.ask("STOP", TIMEOUT).unwrap(), "STOP");
    assert!(client.finish(TIMEOUT).unwrap().success());
}

#[test]
fn client_given_bytes_that_are_no_utf8_answers_error_and_ends_with_its_input() {
    let scene = Scene::new(SMALL);
    let mut child = Command::new(programs().path(CLIENT))
        .args(["--manager_addrs", &scene.manager_addresses()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"PUT a \xff\xfe\nGET a\nPUT a 1").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("ERROR "), "{text}");
    assert_eq!(lines[1..], ["GET a null", "PUT a not_found"]);
    assert!(output.status.success());
}

// covers B9
#[test]
fn process_that_cannot_start_says_why_in_one_line_and_ends_with_an_error() {
    let directory = fresh_directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(directory.path().join("a-file"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();

    let manager = |changes: &[(&str, &str)]| {
        let backer = path("m");
        let mut flags = vec![
            ("--replica_id", "0"),
            ("--man_listen", "127.0.0.1:0"),
            ("--p2p_listen", "127.0.0.1:0"),
            ("--peer_addrs", "none"),
            ("--server_rf", "3"),
            ("--server_addrs", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"),
            ("--backer_path", &backer),
        ];
        change(&mut flags, changes);
        refusal(MANAGER, &flags, changes[0])
    };
    let server = |changes: &[(&str, &str)]| {
        let backer = path("s");
        let mut flags = vec![
            ("--partition_id", "0"),
            ("--replica_id", "0"),
            ("--manager_addrs", "127.0.0.1:1"),
            ("--api_listen", "127.0.0.1:0"),
            ("--p2p_listen", "127.0.0.1:0"),
            ("--peer_addrs", "127.0.0.1:2,127.0.0.1:3"),
            ("--backer_path", &backer),
        ];
        change(&mut flags, changes);
        refusal(SERVER, &flags, changes[0])
    };
    let a_file = path("a-file");
    let below_a_file = path("a-file/below");
    for wrong in [
        ("--replica_id", "1"),
        ("--replica_id", "x"),
        ("--man_listen", "nowhere"),
        ("--man_listen", &taken),
        ("--p2p_listen", &taken),
        ("--peer_addrs", "127.0.0.1:9"),
        ("--peer_addrs", "127.0.0.1:9,127.0.0.1:9"),
        ("--peer_addrs", "127.0.0.1"),
        ("--server_rf", "2"),
        ("--server_rf", "5"),
        ("--server_addrs", "127.0.0.1:1,127.0.0.1:1,127.0.0.1:2"),
        ("--server_addrs", ""),
        ("--backer_path", &a_file),
        ("--backer_path", &below_a_file),
        ("--backer_path", "/proc/madkv"),
        ("--no_such_flag", "1"),
    ] {
        manager(&[wrong]);
    }
    for wrong in [
        ("--replica_id", "3"),
        ("--partition_id", "50"),
        ("--partition_id", "-1"),
        ("--manager_addrs", "localhost:0"),
        ("--api_listen", &taken),
        ("--p2p_listen", &taken),
        ("--peer_addrs", "127.0.0.1:2"),
        ("--backer_path", &a_file),
        ("--backer_path", &below_a_file),
    ] {
        server(&[wrong]);
    }
    for wrong in [("--manager_addrs", "nonsense"), ("--no_such_flag", "1")] {
        refusal(CLIENT, &[wrong], wrong);
    }
}

fn change<'a>(flags: &mut Vec<(&'a str, &'a str)>, changes: &[(&'a str, &'a str)]) {
    for &(name, value) in changes {
        match flags.iter_mut().find(|(flag, _)| *flag == name) {
            Some(flag) => flag.1 = value,
            None => flags.push((name, value)),
        }
    }
}

/// The one line must name the flag that is wrong, or its value.
fn refusal(program: &str, flags: &[(&str, &str)], wrong: (&str, &str)) {
    let log = fresh_directory();
    let arguments = flags.iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
    let mut process = Process::new(programs().path(program), arguments, PathBuf::from(log.path()).join("log"));
    let start = Instant::now();
    process.start().unwrap();
    let status = process.wait_end(REFUSAL_TIMEOUT);
    let text = process.log_text();
    let status = status.unwrap_or_else(|| panic!("{program} {flags:?} still runs after {:?}: {text}", start.elapsed()));
    assert!(!status.success(), "{program} {flags:?} ended with {status}: {text}");
    assert!(status.code().is_some_and(|code| code != 101), "{program} {flags:?} panicked: {text}");
    assert_eq!(text.lines().count(), 1, "{program} {flags:?} said: {text}");
    let named = text.contains(wrong.0) || (!wrong.1.is_empty() && text.contains(wrong.1));
    assert!(named, "{program} says nothing of {wrong:?}: {text}");
}
