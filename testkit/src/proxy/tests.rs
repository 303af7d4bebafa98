//! The proxy in front of an echo.

use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use super::*;
use crate::wait::wait_for;

/// How long anything may take that must happen.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For how long something that must not happen is watched.
const WATCH: Duration = Duration::from_millis(200);

/// A link to an echo.
fn echo() -> (Proxy, LinkId) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                let mut stream = stream;
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let mut proxy = Proxy::start(1).unwrap();
    let link = proxy.link(target).unwrap();
    (proxy, link)
}

fn dial(proxy: &Proxy, link: LinkId) -> StdStream {
    let stream = StdStream::connect(proxy.address(link)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

fn ask(stream: &mut StdStream, text: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn silent_for(stream: &mut StdStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    let silent = matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    silent
}

#[test]
fn pass_link_carries_bytes_both_ways_and_the_end() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    assert_eq!(ask(&mut stream, b"hello").unwrap(), b"hello");
    let counts = proxy.counts(link);
    assert_eq!((counts.accepted, counts.live, counts.forward_bytes, counts.backward_bytes), (1, 1, 5, 5));
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    wait_for(TIMEOUT, "no connection", || (proxy.counts(link).live == 0).then_some(())).unwrap();
    assert_eq!(proxy.counts(link).reset, 0);
}

#[test]
fn large_stream_arrives_whole() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes);
}

#[test]
fn hold_keeps_bytes_and_gives_them_out_afterwards() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    ask(&mut stream, b"a").unwrap();
    proxy.set(link, Rules::silent());
    stream.write_all(b"held").unwrap();
    assert!(silent_for(&mut stream, WATCH));
    proxy.set(link, Rules::default());
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"held");
}

#[test]
fn hold_one_way_lets_the_other_pass() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    ask(&mut stream, b"a").unwrap();
    proxy.set(link, Rules { backward: Flow::Hold, ..Rules::default() });
    stream.write_all(b"go").unwrap();
    wait_for(TIMEOUT, "bytes at the target", || (proxy.counts(link).forward_bytes == 3).then_some(())).unwrap();
    assert!(silent_for(&mut stream, WATCH));
    assert_eq!(proxy.counts(link).backward_bytes, 1);
}

#[test]
fn hold_takes_only_bounded_bytes_from_a_dialler() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    ask(&mut stream, b"a").unwrap();
    proxy.set(link, Rules { forward: Flow::Hold, ..Rules::default() });
    stream.set_write_timeout(Some(WATCH)).unwrap();
    let mut taken = 0;
    while let Ok(count) = stream.write(&[7; 65_536]) {
        taken += count;
        // The kernels' own buffers come on top of ours.
        assert!(taken < 64 << 20, "the proxy takes everything");
    }
    assert_eq!(proxy.counts(link).forward_bytes, 1);
}

#[test]
fn hold_forgets_a_dialler_that_gave_up() {
    let (proxy, link) = echo();
    proxy.set(link, Rules::silent());
    let mut stream = dial(&proxy, link);
    stream.write_all(b"hello").unwrap();
    wait_for(TIMEOUT, "the connection", || (proxy.counts(link).live == 1).then_some(())).unwrap();
    drop(stream);
    wait_for(TIMEOUT, "its end", || (proxy.counts(link).live == 0).then_some(())).unwrap();
    proxy.set(link, Rules::default());
    assert_eq!(ask(&mut dial(&proxy, link), b"x").unwrap(), b"x");
    assert_eq!(proxy.counts(link).forward_bytes, 1);
}

#[test]
fn shut_resets_old_and_new_connections_until_opened() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    ask(&mut stream, b"a").unwrap();
    proxy.set(link, Rules::shut());
    assert!(stream.read(&mut [0]).is_err(), "reset, not closed");
    assert!(ask(&mut dial(&proxy, link), b"b").is_err());
    proxy.set(link, Rules::default());
    assert_eq!(ask(&mut dial(&proxy, link), b"c").unwrap(), b"c");
    assert!(proxy.counts(link).reset >= 2);
}

#[test]
fn reset_by_hand_ends_connections_and_new_ones_come_about() {
    let (proxy, link) = echo();
    let mut stream = dial(&proxy, link);
    ask(&mut stream, b"a").unwrap();
    proxy.reset(link);
    assert!(stream.read(&mut [0]).is_err());
    assert_eq!(ask(&mut dial(&proxy, link), b"b").unwrap(), b"b");
}

#[test]
fn flapping_gate_is_shut_and_open_by_turns() {
    let (proxy, link) = echo();
    proxy.set(link, Rules { gate: Gate::Flapping { period: Duration::from_millis(60) }, ..Rules::default() });
    let mut changes = 0;
    let mut worked = false;
    wait_for(TIMEOUT, "six changes between working and not", || {
        let works = ask(&mut dial(&proxy, link), b"x").is_ok();
        changes += u32::from(works != worked);
        worked = works;
        (changes >= 6).then_some(())
    })
    .unwrap();
}

#[test]
fn late_bytes_come_after_the_delay_and_in_order() {
    let (proxy, link) = echo();
    let delay = Duration::from_millis(150);
    proxy.set(link, Rules { forward: Flow::Late { delay, jitter: delay }, ..Rules::default() });
    let mut stream = dial(&proxy, link);
    let start = StdInstant::now();
    for byte in 0..20 {
        stream.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let mut back = [0; 20];
    stream.read_exact(&mut back).unwrap();
    assert!(start.elapsed() >= delay);
    assert!(back.is_sorted(), "{back:?}");
}

#[test]
fn thin_link_keeps_its_rate() {
    let (proxy, link) = echo();
    proxy.set(link, Rules { forward: Flow::Thin { bytes_per_s: 10_000 }, ..Rules::default() });
    let start = StdInstant::now();
    ask(&mut dial(&proxy, link), &[1; 4_000]).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

#[test]
fn trickle_gives_one_byte_at_a_time() {
    let (proxy, link) = echo();
    proxy.set(link, Rules { forward: Flow::Trickle { pause: Duration::from_millis(10) }, ..Rules::default() });
    let start = StdInstant::now();
    assert_eq!(ask(&mut dial(&proxy, link), b"slowly does it").unwrap(), b"slowly does it");
    assert!(start.elapsed() >= Duration::from_millis(130), "{:?}", start.elapsed());
}

#[test]
fn answers_lost_request_arrives_and_the_answer_does_not() {
    let (proxy, link) = echo();
    proxy.set(link, Rules::answers_lost(0));
    let mut stream = dial(&proxy, link);
    assert!(ask(&mut stream, b"request").is_err());
    assert_eq!((proxy.counts(link).forward_bytes, proxy.counts(link).backward_bytes), (7, 0));
}

#[test]
fn reset_after_cuts_within_the_bound() {
    let (proxy, link) = echo();
    proxy.set(link, Rules { forward: Flow::ResetAfter { bytes_max: 100 }, ..Rules::default() });
    let mut ends = Vec::new();
    for _ in 0..5 {
        let before = proxy.counts(link).forward_bytes;
        assert!(ask(&mut dial(&proxy, link), &[9; 101]).is_err());
        ends.push(proxy.counts(link).forward_bytes - before);
    }
    assert!(ends.iter().all(|&bytes| bytes <= 100), "{ends:?}");
    assert!(ends.iter().any(|&bytes| bytes != ends[0]), "always at the same place: {ends:?}");
}

#[test]
fn replay_sends_an_old_connections_bytes_on_a_new_one() {
    let (proxy, link) = echo();
    assert_eq!(proxy.replay(link).unwrap_err().kind(), io::ErrorKind::NotFound);
    drop(ask(&mut dial(&proxy, link), b"old words").unwrap());
    let replayed = proxy.replay(link).unwrap();
    assert_eq!(replayed, Replayed { sent_bytes: 9, answered_bytes: 9 });
}

#[test]
fn target_that_is_not_there_resets_the_dialler() {
    let target = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut proxy = Proxy::start(1).unwrap();
    let link = proxy.link(target).unwrap();
    assert!(dial(&proxy, link).read(&mut [0]).is_err());
}
