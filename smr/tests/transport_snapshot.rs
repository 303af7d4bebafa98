//! Snapshots over real sockets: whole, resumed, refused, replaced.
#![allow(missing_docs, dead_code, unreachable_pub, reason = "each test file uses a part of the shared helpers")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod transport_support;

use std::io;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use smr::codec;
use smr::entry::EntryId;
use smr::id::NodeId;
use smr::internals::transport::{
    CHUNK_MAX_BYTES, Lane, NotBegun, Offer, SNAPSHOT_SENDS_MAX, SnapshotSink, SnapshotSource,
};
use transport_support::*;

const A: NodeId = NodeId::new(0, 100);
const B: NodeId = NodeId::new(1, 101);
const C: NodeId = NodeId::new(2, 102);

/// A snapshot in memory.
struct Image {
    last: EntryId,
    bytes: Vec<u8>,
}

impl Image {
    fn boxed(index: u64, len: usize) -> Box<Image> {
        let bytes = (0..len).map(|at| (at * 7 + at / 253 + index as usize) as u8).collect();
        Box::new(Image { last: EntryId::new(index, 1), bytes })
    }
}

impl SnapshotSource for Image {
    fn offer(&self) -> Offer {
        Offer {
            header: b"header".to_vec(),
            last: self.last,
            len_bytes: self.bytes.len() as u64,
            fingerprint: codec::checksum(&[&self.bytes]),
        }
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let rest = &self.bytes[offset as usize..];
        Ok(rest[..len.min(rest.len())].to_vec())
    }
}

/// A store in memory that keeps the part of a broken transfer, and remembers what happened to it.
#[derive(Default)]
struct Store {
    state: Mutex<State>,
    changed: Condvar,
    /// While set, appending waits.
    held: AtomicBool,
    /// How long a chunk takes to append, in milliseconds.
    append_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    offer: Option<Offer>,
    part: Vec<u8>,
    /// What `begin` answered, each time.
    resumed_at: Vec<u64>,
    appended_bytes: usize,
    finished: Vec<(EntryId, Vec<u8>)>,
    inside: bool,
    refuses: bool,
    /// This many offers still come too early.
    early: u32,
}

impl Store {
    fn hold(&self, held: bool) {
        let _state = self.state.lock().unwrap();
        self.held.store(held, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    fn wait_while_held(&self) {
        let mut state = self.state.lock().unwrap();
        assert!(!state.inside, "two calls at once");
        state.inside = true;
        while self.held.load(Ordering::SeqCst) {
            state = self.changed.wait(state).unwrap();
        }
        state.inside = false;
    }
}

impl SnapshotSink for Store {
    fn begin(&self, _: NodeId, offer: &Offer) -> Result<u64, NotBegun> {
        let mut state = self.state.lock().unwrap();
        assert!(!state.inside, "a transfer begins while another one is inside a call");
        assert_eq!(offer.header, b"header");
        if state.refuses || state.finished.iter().any(|(last, _)| *last > offer.last) {
            return Err(NotBegun::Refused("not wanted".to_owned()));
        }
        if state.early > 0 {
            state.early -= 1;
            return Err(NotBegun::Early("no group yet".to_owned()));
        }
        if state.offer.as_ref() != Some(offer) {
            state.part.clear();
            state.offer = Some(offer.clone());
        }
        let have = state.part.len() as u64;
        state.resumed_at.push(have);
        self.changed.notify_all();
        Ok(have)
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.wait_while_held();
        std::thread::sleep(Duration::from_millis(self.append_ms.load(Ordering::SeqCst)));
        let mut state = self.state.lock().unwrap();
        assert_eq!(offset, state.part.len() as u64);
        assert!(bytes.len() <= CHUNK_MAX_BYTES);
        state.part.extend_from_slice(bytes);
        state.appended_bytes += bytes.len();
        self.changed.notify_all();
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let offer = state.offer.clone().unwrap();
        if codec::checksum(&[&state.part]) != offer.fingerprint {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let part = state.part.clone();
        state.finished.push((offer.last, part));
        Ok(())
    }
}

fn with_store(config: smr::internals::transport::TransportConfig, listener: TcpListener) -> (Node, Arc<Store>) {
    let store = Arc::new(Store::default());
    (Node::start_with(config, listener, store.clone(), BRISK), store)
}

/// A that knows B at `address_b`, through which B need not be reached directly.
fn pair_through(address_b: &str, listener_b: TcpListener) -> (Node, Node, Arc<Store>) {
    let (listener_a, address_a) = listen();
    let a = Node::start_with(config(A, &[(1, address_b)]), listener_a, Arc::new(Store::default()), BRISK);
    let (b, store) = with_store(config(B, &[(0, &address_a)]), listener_b);
    a.await_connected(B);
    (a, b, store)
}

fn pair() -> (Node, Node, Arc<Store>) {
    let (listener_b, address_b) = listen();
    pair_through(&address_b, listener_b)
}

#[track_caller]
fn outcome(node: &Node) -> (NodeId, Option<EntryId>) {
    node.await_event(|event| match event {
        Event::SnapshotSent { to, last } => Some((*to, *last)),
        _ => None,
    })
}

#[test]
fn snapshots_of_all_sizes_arrive_whole() {
    let (a, b, store) = pair();
    let sizes = [0, 1, CHUNK_MAX_BYTES, CHUNK_MAX_BYTES + 1, 5_000_000];
    for (index, len) in (1u64..).zip(sizes) {
        let image = Image::boxed(index, len);
        let bytes = image.bytes.clone();
        a.transport.send_snapshot(B, image);
        assert_eq!(outcome(&a), (B, Some(EntryId::new(index, 1))));
        assert!(store.with(|state| state.finished.last() == Some(&(EntryId::new(index, 1), bytes))));
    }
    await_that("counted", || b.transport.stats().snapshots_received == sizes.len() as u64);
    assert_eq!(a.transport.stats().snapshots_sent, sizes.len() as u64);
}

// Both ends serve requests meanwhile, on the same processors and disks.
#[test]
fn sender_rests_as_long_as_the_receiver_worked() {
    const CHUNKS: u32 = 8;
    const APPEND: Duration = Duration::from_millis(20);
    let (a, _b, store) = pair();
    store.append_ms.store(APPEND.as_millis() as u64, Ordering::SeqCst);
    let began = Instant::now();
    a.transport.send_snapshot(B, Image::boxed(1, CHUNKS as usize * CHUNK_MAX_BYTES));
    assert_eq!(outcome(&a), (B, Some(EntryId::new(1, 1))));
    let took = began.elapsed();
    assert!(took >= 2 * CHUNKS * APPEND, "{CHUNKS} chunks, each {APPEND:?} of work, in {took:?}");
}

#[test]
fn messages_flow_while_a_snapshot_is_held_up() {
    let (a, b, store) = pair();
    store.hold(true);
    a.transport.send_snapshot(B, Image::boxed(5, 3_000_000));
    await_that("the transfer has begun", || store.with(|state| state.inside));
    a.transport.send(B, (1, vec![]), Lane::Urgent, 10);
    b.await_event(|event| matches!(event, Event::Received { .. }).then_some(()));
    assert!(store.with(|state| state.finished.is_empty()));
    store.hold(false);
    assert_eq!(outcome(&a), (B, Some(EntryId::new(5, 1))));
}

/// Passes connections on to `target`; the first one that has carried `cut_after` bytes is cut, later ones are not.
fn cutting_proxy(target: String, cut_after: usize) -> String {
    let (listener, address) = listen();
    let cut = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let Ok(near) = near else { return };
            let Ok(far) = TcpStream::connect(&target) else { continue };
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            let cut = cut.clone();
            std::thread::spawn(move || pass(near, far, cut_after, &cut));
            std::thread::spawn(move || pass(back.0, back.1, usize::MAX, &AtomicBool::new(false)));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut_after: usize, cut: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed += count;
        if (passed > cut_after && !cut.swap(true, Ordering::SeqCst)) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

// covers N8
#[test]
fn transfer_cut_in_the_middle_goes_on_where_the_receiver_is() {
    let (listener_b, address_b) = listen();
    let proxy = cutting_proxy(address_b, 3_000_000);
    let (a, _b, store) = pair_through(&proxy, listener_b);
    let image = Image::boxed(9, 8_000_000);
    let bytes = image.bytes.clone();
    a.transport.send_snapshot(B, image);
    assert_eq!(outcome(&a), (B, Some(EntryId::new(9, 1))));
    store.with(|state| {
        assert_eq!(state.resumed_at.len(), 2, "{:?}", state.resumed_at);
        assert!(state.resumed_at[1] > 1_000_000, "{:?}", state.resumed_at);
        assert_eq!(state.appended_bytes, bytes.len(), "nothing was sent twice");
        assert!(state.finished == [(EntryId::new(9, 1), bytes)]);
    });
}

#[test]
fn receiver_that_restarts_in_the_middle_gets_the_rest() {
    let (listener_b, address_b) = listen();
    let (a, b, store) = pair_through(&address_b, listener_b);
    let image = Image::boxed(9, 4_000_000);
    let bytes = image.bytes.clone();
    store.hold(true);
    a.transport.send_snapshot(B, image);
    await_that("the transfer has begun", || store.with(|state| state.inside));
    drop(b);
    let listener_b = listen_again(&address_b);
    store.hold(false);
    await_that("the last call has returned", || store.with(|state| state.appended_bytes > 0 && !state.inside));
    let _b = Node::start_with(config(B, &[(0, "127.0.0.1:1")]), listener_b, store.clone(), BRISK);
    assert_eq!(outcome(&a), (B, Some(EntryId::new(9, 1))));
    store.with(|state| {
        assert!(*state.resumed_at.last().unwrap() > 0, "{:?}", state.resumed_at);
        assert_eq!(state.appended_bytes, bytes.len());
        assert!(state.finished == [(EntryId::new(9, 1), bytes)]);
    });
}

/// A replica that is about to learn of its group is asked again: its leader does not hear of a transfer that failed.
#[test]
fn offer_that_comes_too_early_is_made_again() {
    let (a, _b, store) = pair();
    store.state.lock().unwrap().early = 3;
    a.transport.send_snapshot(B, Image::boxed(7, 100_000));
    assert_eq!(outcome(&a), (B, Some(EntryId::new(7, 1))));
    assert_eq!(store.state.lock().unwrap().early, 0);
}

#[test]
fn transfer_that_cannot_succeed_ends_with_none() {
    struct Broken;
    impl SnapshotSource for Broken {
        fn offer(&self) -> Offer {
            Image::boxed(5, 1000).offer()
        }
        fn read_at(&self, _: u64, _: usize) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
    struct Short;
    impl SnapshotSource for Short {
        fn offer(&self) -> Offer {
            Image::boxed(6, 1000).offer()
        }
        fn read_at(&self, _: u64, _: usize) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }
    let (a, _b, store) = pair();
    a.transport.send_snapshot(B, Box::new(Broken));
    assert_eq!(outcome(&a), (B, None));
    a.transport.send_snapshot(B, Box::new(Short));
    assert_eq!(outcome(&a), (B, None));
    // Another incarnation (M7), and no one.
    let earlier = NodeId::new(1, 1);
    a.transport.send_snapshot(earlier, Image::boxed(5, 1000));
    assert_eq!(outcome(&a), (earlier, None));
    a.transport.send_snapshot(C, Image::boxed(5, 1000));
    assert_eq!(outcome(&a), (C, None));
    store.state.lock().unwrap().refuses = true;
    a.transport.send_snapshot(B, Image::boxed(7, 1000));
    assert_eq!(outcome(&a), (B, None));
    assert!(store.with(|state| state.finished.is_empty()));
    store.state.lock().unwrap().refuses = false;
    a.transport.send_snapshot(B, Image::boxed(7, 1000));
    assert_eq!(outcome(&a), (B, Some(EntryId::new(7, 1))));
}

#[test]
fn second_snapshot_for_the_same_node_fails_and_the_first_goes_on() {
    let (a, _b, store) = pair();
    store.hold(true);
    a.transport.send_snapshot(B, Image::boxed(5, 1000));
    await_that("the transfer has begun", || store.with(|state| state.inside));
    a.transport.send_snapshot(B, Image::boxed(6, 1000));
    assert_eq!(outcome(&a), (B, None));
    store.hold(false);
    assert_eq!(outcome(&a), (B, Some(EntryId::new(5, 1))));
}

#[test]
fn newer_snapshot_of_another_sender_replaces_the_one_under_way_and_an_older_is_refused() {
    let (listener_b, address_b) = listen();
    let peers = [(1, address_b.as_str())];
    let (a, _) = with_store(config(A, &peers), listen().0);
    let (c, _) = with_store(config(C, &peers), listen().0);
    let (_b, store) = with_store(config(B, &[(0, "127.0.0.1:1"), (2, "127.0.0.1:1")]), listener_b);
    store.hold(true);
    a.transport.send_snapshot(B, Image::boxed(5, 2_000_000));
    await_that("the transfer has begun", || store.with(|state| state.inside));
    c.transport.send_snapshot(B, Image::boxed(5, 2_000_000));
    assert_eq!(outcome(&c), (B, None));
    c.transport.send_snapshot(B, Image::boxed(6, 2_000_000));
    // Refused when it comes again, though the one that replaced it still waits for the call under way.
    assert_eq!(outcome(&a), (B, None));
    store.hold(false);
    assert_eq!(outcome(&c), (B, Some(EntryId::new(6, 1))));
    assert_eq!(store.with(|state| state.finished.len()), 1);
}

/// Counts how many of them are being read at once.
struct Counted {
    image: Box<Image>,
    crowd: Arc<(Mutex<(usize, usize)>, Condvar)>,
}

impl SnapshotSource for Counted {
    fn offer(&self) -> Offer {
        self.image.offer()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (counts, changed) = &*self.crowd;
        let mut guard = counts.lock().unwrap();
        guard.0 += 1;
        guard.1 = guard.1.max(guard.0);
        changed.notify_all();
        // Stays inside until as many as allowed have been there, and then until one more is, or it is clear that none
        // will come.
        let mut guard = changed.wait_timeout_while(guard, TIMEOUT, |counts| counts.1 < SNAPSHOT_SENDS_MAX).unwrap().0;
        let wait = Duration::from_millis(300);
        guard = changed.wait_timeout_while(guard, wait, |counts| counts.0 <= SNAPSHOT_SENDS_MAX).unwrap().0;
        guard.0 -= 1;
        drop(guard);
        self.image.read_at(offset, len)
    }
}

#[test]
fn snapshots_beyond_the_limit_wait_for_their_turn() {
    let crowd = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let receivers: Vec<(Node, Arc<Store>, NodeId, String)> = (1..=4u16)
        .map(|name| {
            let (listener, address) = listen();
            let node = NodeId::new(name, 100 + u64::from(name));
            let (receiver, store) = with_store(config(node, &[(0, "127.0.0.1:1")]), listener);
            (receiver, store, node, address)
        })
        .collect();
    let peers: Vec<(u16, &str)> = receivers.iter().map(|(.., node, address)| (node.name.0, address.as_str())).collect();
    let (a, _) = with_store(config(A, &peers), listen().0);
    for (_, _, node, _) in &receivers {
        a.transport.send_snapshot(*node, Box::new(Counted { image: Image::boxed(5, 1000), crowd: crowd.clone() }));
    }
    for _ in &receivers {
        assert_eq!(outcome(&a).1, Some(EntryId::new(5, 1)));
    }
    assert_eq!(crowd.0.lock().unwrap().1, SNAPSHOT_SENDS_MAX);
    assert!(receivers.iter().all(|(_, store, ..)| store.with(|state| state.finished.len() == 1)));
}

// covers N7
#[test]
fn receiver_that_never_answers_costs_one_deadline() {
    let (listener_b, address_b) = listen();
    let (a, _) = with_store(config(A, &[(1, &address_b)]), listen().0);
    let (_messages, _) = Wire::accept_as(&listener_b, B);
    a.transport.send_snapshot(B, Image::boxed(5, 1000));
    let (_silent, hello) = Wire::accept_as(&listener_b, B);
    assert_eq!(hello.purpose, Purpose::Snapshot);
    assert_eq!(outcome(&a), (B, None));
}

// covers N7
#[test]
fn sender_that_falls_silent_does_not_keep_others_out() {
    let (listener_a, address_a) = listen();
    let (_a, store) = with_store(config(A, &[(1, "127.0.0.1:1"), (2, "127.0.0.1:1")]), listener_a);
    let mut silent = Wire::dial_for(&address_a, B, 0, Purpose::Snapshot);
    silent.send(kind::OFFER, &Image::boxed(5, 10).offer());
    assert_eq!(silent.receive().unwrap().0, kind::RESUME);
    let mut other = Wire::dial_for(&address_a, C, 0, Purpose::Snapshot);
    other.send(kind::OFFER, &Image::boxed(5, 10).offer());
    assert_eq!(other.receive().unwrap().0, kind::REFUSAL);
    silent.await_end();
    let mut other = Wire::dial_for(&address_a, C, 0, Purpose::Snapshot);
    other.send(kind::OFFER, &Image::boxed(5, 10).offer());
    assert_eq!(other.receive().unwrap().0, kind::RESUME);
    assert_eq!(store.with(|state| state.resumed_at.len()), 2);
}

// covers B1, B5
#[test]
fn malformed_frame_in_a_transfer_ends_it_and_stores_nothing() {
    let (listener_a, address_a) = listen();
    let (_a, store) = with_store(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    let chunk = |offset: u64, len: usize| frame(kind::CHUNK, &(offset, vec![0u8; len]));
    let mut damaged = chunk(0, 10);
    damaged[30] ^= 1;
    let malformed = [
        chunk(1, 10),
        chunk(0, 11),
        chunk(0, 0),
        chunk(u64::MAX, 10),
        damaged,
        frame(kind::CHUNK, &()),
        frame(kind::OFFER, &Image::boxed(6, 10).offer()),
        frame(kind::CHUNK, &(0u64, vec![0u8; 2 * CHUNK_MAX_BYTES])),
    ];
    for bytes in malformed {
        let mut wire = Wire::dial_for(&address_a, B, 0, Purpose::Snapshot);
        wire.send(kind::OFFER, &Image::boxed(5, 10).offer());
        assert_eq!(wire.receive(), Some((kind::RESUME, codec::encode(&0u64))));
        drop(wire.0.write_all(&bytes));
        wire.await_end();
    }
    assert_eq!(store.with(|state| (state.appended_bytes, state.finished.len())), (0, 0));
    let mut wire = Wire::dial_for(&address_a, B, 0, Purpose::Snapshot);
    let image = Image::boxed(5, 10);
    wire.send(kind::OFFER, &image.offer());
    assert_eq!(wire.receive(), Some((kind::RESUME, codec::encode(&0u64))));
    wire.send(kind::CHUNK, &(0u64, image.bytes.clone()));
    assert_eq!(wire.receive(), Some((kind::ACK, codec::encode(&10u64))));
    assert_eq!(wire.receive(), Some((kind::FINISHED, vec![])));
}

#[test]
fn receiver_whose_disk_is_slow_says_so_and_is_waited_for() {
    let (listener_a, address_a) = listen();
    let (a, store) = with_store(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    store.hold(true);
    let mut wire = Wire::dial_for(&address_a, B, 0, Purpose::Snapshot);
    let image = Image::boxed(5, 10);
    wire.send(kind::OFFER, &image.offer());
    assert_eq!(wire.receive().unwrap().0, kind::RESUME);
    wire.send(kind::CHUNK, &(0u64, image.bytes.clone()));
    assert_eq!(wire.receive(), Some((kind::BUSY, vec![])));
    store.hold(false);
    let mut answer = wire.receive();
    while answer == Some((kind::BUSY, vec![])) {
        answer = wire.receive();
    }
    assert_eq!(answer, Some((kind::ACK, codec::encode(&10u64))));
    assert_eq!(wire.receive(), Some((kind::FINISHED, vec![])));
    await_that("counted", || a.transport.stats().snapshots_received == 1);
}
