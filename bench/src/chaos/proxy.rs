//! A TCP proxy of our own, for bad networks: links whose behaviour can be changed while connections run over them.
//!
//! A [`LinkId`] is one listener in front of one target. Whoever dials the listener talks to the target, as the link's
//! [`Rules`] allow. The *forward* direction is from the dialler to the target.
//!
//! # What it can and cannot do
//! Inside a TCP stream nothing is lost, doubled or reordered: the kernels see to that in any network. So *loss* here means what
//! loss means to a program over TCP: silence ([`Flow::Hold`]; what was sent meanwhile arrives later, as by a kernel's
//! retransmission) or the end of the connection, with the bytes under way lost ([`Flow::ResetAfter`], [`Gate::Shut`]).
//! Old bytes come again on a connection of their own ([`Proxy::replay`]).
//! The listener always accepts; a dialler behind a cut link therefore sees a connection that is reset or silent, where a real
//! network would leave its connection attempt unanswered.
//!
//! Everything is bounded: bytes on their way in each direction, connections of a link, recorded bytes. Random choices
//! (jitter, where to cut) come from the seed, the link and the number of the connection.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Threads that carry all links.
const THREADS: usize = 2;
/// Connections of one link at a time; beyond them new ones are reset.
pub const LINK_CONNECTIONS_MAX: usize = 256;
/// Bytes taken with one read.
const CHUNK_MAX_BYTES: usize = 16 << 10;
/// Chunks on their way in one direction of a connection; beyond them the proxy does not read.
pub const CHUNKS_UNDER_WAY_MAX: usize = 32;
/// Bytes that a dialler may send before its connection reaches the target.
const EARLY_MAX_BYTES: usize = 64 << 10;
/// How much of the beginning of each connection is recorded for [`Proxy::replay`], in bytes.
pub const RECORDED_MAX_BYTES: usize = 256 << 10;
/// How many connections of a link are kept on record.
const RECORDS_MAX: usize = 4;
/// How long the target may take to accept, in milliseconds.
const CONNECT_MAX_MS: u64 = 2_000;
/// How long a replay listens for answers before it hangs up, in milliseconds.
const REPLAY_LISTEN_MS: u64 = 300;
/// How long a replay may take to send, in milliseconds: a target may be frozen.
const REPLAY_SEND_MS: u64 = 1_000;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// Nothing arrives, the end of the connection neither; and nothing is read, once the bounded buffers are full. What was
    /// held arrives when the flow changes.
    Hold,
    /// They arrive late, in order.
    Late {
        /// By this much.
        delay: Duration,
        /// And by up to this much more.
        jitter: Duration,
    },
    /// They arrive at this rate.
    Thin {
        /// Bytes per second.
        bytes_per_s: u32,
    },
    /// One byte at a time, with this pause after each.
    Trickle {
        /// The pause.
        pause: Duration,
    },
    /// After a random number of bytes the connection is reset, on both sides: most often in the middle of a frame.
    ResetAfter {
        /// At most so many bytes arrive on each connection.
        bytes_max: u32,
    },
}

/// Whether there can be connections at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    #[default]
    Open,
    /// No: those that are there are reset, and so are new ones.
    Shut,
    /// Open and shut by turns, each for this long.
    Flapping {
        /// How long each state lasts.
        period: Duration,
    },
}

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// From the dialler to the target.
    pub forward: Flow,
    /// From the target to the dialler.
    pub backward: Flow,
    /// Whether there can be connections.
    pub gate: Gate,
}

impl Rules {
    /// The same for both directions.
    pub fn both(flow: Flow) -> Rules {
        Rules { forward: flow, backward: flow, gate: Gate::Open }
    }

    /// Nothing gets through, and nobody is told.
    pub fn silent() -> Rules {
        Rules::both(Flow::Hold)
    }

    /// Nothing gets through, and everybody is told.
    pub fn shut() -> Rules {
        Rules { gate: Gate::Shut, ..Rules::default() }
    }

    /// Requests arrive; the connection breaks before all of the answers have come back.
    pub fn answers_lost(bytes_max: u32) -> Rules {
        Rules { backward: Flow::ResetAfter { bytes_max }, ..Rules::default() }
    }
}

/// A link of a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(usize);

/// What went over a link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are there now.
    pub live: usize,
    /// Connections that the proxy reset.
    pub reset: u64,
    /// Bytes given to the target.
    pub forward_bytes: u64,
    /// Bytes given to the diallers.
    pub backward_bytes: u64,
}

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Recorded bytes that were sent again.
    pub sent_bytes: usize,
    /// Bytes that the target answered.
    pub answered_bytes: usize,
}

/// The proxy: all links of a cluster. Ends, with all connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    runtime: Option<Runtime>,
    seed: u64,
    links: Vec<Arc<Link>>,
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    target: SocketAddr,
    seed: u64,
    setting: watch::Sender<Setting>,
    records: Mutex<VecDeque<Record>>,
    live: AtomicUsize,
    accepted: AtomicU64,
    reset: AtomicU64,
    forward_bytes: AtomicU64,
    backward_bytes: AtomicU64,
}

type Record = Arc<Mutex<Vec<u8>>>;

/// The rules, since when, and how often all connections were reset by hand.
#[derive(Clone, Copy, Debug)]
struct Setting {
    rules: Rules,
    since: Instant,
    resets: u64,
}

impl Setting {
    /// Whether the gate is shut now, and when that changes by itself.
    fn gate(&self, now: Instant) -> (bool, Option<Instant>) {
        match self.rules.gate {
            Gate::Open => (false, None),
            Gate::Shut => (true, None),
            Gate::Flapping { period } => {
                let period = period.max(Duration::from_millis(1));
                let periods = (now - self.since).as_nanos() / period.as_nanos();
                let turn = self.since + period.saturating_mul(u32::try_from(periods + 1).unwrap_or(u32::MAX));
                // Shut first: the flapping is felt at once.
                (periods.is_multiple_of(2), Some(turn))
            }
        }
    }

    fn holds(&self) -> bool {
        self.rules.forward == Flow::Hold || self.rules.backward == Flow::Hold
    }
}

impl Proxy {
    /// A proxy without links.
    ///
    /// # Errors
    /// If the system gives it no threads.
    pub fn start(seed: u64) -> io::Result<Proxy> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("proxy")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Proxy { runtime: Some(runtime), seed, links: Vec::new() })
    }

    /// A new link to `target`, which need not listen yet.
    ///
    /// # Errors
    /// If there is no port.
    pub fn link(&mut self, target: SocketAddr) -> io::Result<LinkId> {
        let runtime = self.runtime();
        // A port from the system's range is safe here: the listener never lets go of it.
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let setting = Setting { rules: Rules::default(), since: Instant::now(), resets: 0 };
        let link = Arc::new(Link {
            address: listener.local_addr()?,
            target,
            seed: self.seed.wrapping_mul(1_000_003).wrapping_add(self.links.len() as u64),
            setting: watch::Sender::new(setting),
            records: Mutex::default(),
            live: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            forward_bytes: AtomicU64::new(0),
            backward_bytes: AtomicU64::new(0),
        });
        runtime.spawn(accept_forever(Arc::clone(&link), listener));
        self.links.push(link);
        Ok(LinkId(self.links.len() - 1))
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("taken only when dropped"))
    }

    /// Where to dial instead of the target.
    pub fn address(&self, link: LinkId) -> SocketAddr {
        self.links[link.0].address
    }

    /// Changes how a link behaves, for the connections that are there and for new ones.
    pub fn set(&self, link: LinkId, rules: Rules) {
        let change = |setting: &mut Setting| *setting = Setting { rules, since: Instant::now(), ..*setting };
        self.links[link.0].setting.send_modify(change);
    }

    /// How a link behaves.
    pub fn rules(&self, link: LinkId) -> Rules {
        self.links[link.0].setting.borrow().rules
    }

    /// Resets the connections that are there. New ones come about.
    pub fn reset(&self, link: LinkId) {
        self.links[link.0].setting.send_modify(|setting| setting.resets += 1);
    }

    /// What went over a link.
    pub fn counts(&self, link: LinkId) -> Counts {
        let link = &self.links[link.0];
        Counts {
            accepted: link.accepted.load(Ordering::Relaxed),
            live: link.live.load(Ordering::Relaxed),
            reset: link.reset.load(Ordering::Relaxed),
            forward_bytes: link.forward_bytes.load(Ordering::Relaxed),
            backward_bytes: link.backward_bytes.load(Ordering::Relaxed),
        }
    }

    /// Sends what the oldest connection on record sent at its beginning, on a new connection, around the rules.
    ///
    /// # Errors
    /// If nothing is on record, or the target cannot be reached.
    pub fn replay(&self, link: LinkId) -> io::Result<Replayed> {
        let link = Arc::clone(&self.links[link.0]);
        let record = locked(&link.records).iter().map(|record| locked(record).clone()).find(|bytes| !bytes.is_empty());
        let record = record.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nothing is on record"))?;
        self.runtime().block_on(async move {
            let connecting = timeout(Duration::from_millis(CONNECT_MAX_MS), TcpStream::connect(link.target));
            let mut stream = connecting.await??;
            // The target may hang up in the middle, or take nothing; what it has taken is what counts.
            let mut sent_bytes = 0;
            let sending = async {
                for chunk in record.chunks(CHUNK_MAX_BYTES) {
                    if stream.write_all(chunk).await.is_err() {
                        break;
                    }
                    sent_bytes += chunk.len();
                }
            };
            let _late = timeout(Duration::from_millis(REPLAY_SEND_MS), sending).await;
            let mut answered_bytes = 0;
            let mut buffer = vec![0; CHUNK_MAX_BYTES];
            let listening = async {
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    answered_bytes += count;
                }
            };
            let _late = timeout(Duration::from_millis(REPLAY_LISTEN_MS), listening).await;
            Ok(Replayed { sent_bytes, answered_bytes })
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept_forever(link: Arc<Link>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: others have to let go first.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let number = link.accepted.fetch_add(1, Ordering::Relaxed);
        if link.live.fetch_add(1, Ordering::Relaxed) >= LINK_CONNECTIONS_MAX {
            link.live.fetch_sub(1, Ordering::Relaxed);
            link.reset.fetch_add(1, Ordering::Relaxed);
            drop(End::new(stream));
            continue;
        }
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            serve(&link, stream, number).await;
            link.live.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Why a connection ends other than by its two ends.
struct Cut;

/// One end of a connection. Reset when dropped, unless it was closed in order.
struct End {
    stream: TcpStream,
    orderly: bool,
}

impl End {
    fn new(stream: TcpStream) -> End {
        // Some platforms refuse on a connection that is gone already; then there is nothing to hurry.
        let _ = stream.set_nodelay(true);
        End { stream, orderly: false }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.orderly {
            // A connection that is gone already needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

async fn serve(link: &Link, dialler: TcpStream, number: u64) {
    let rules = link.setting.subscribe();
    let mut gate = rules.clone();
    let carried = tokio::select! {
        biased;
        () = until_shut(&mut gate) => Err(Cut),
        carried = carry(link, End::new(dialler), number, rules) => carried,
    };
    if carried.is_err() {
        link.reset.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends when the gate is shut, or all connections are reset by hand.
async fn until_shut(rules: &mut watch::Receiver<Setting>) {
    let resets = rules.borrow().resets;
    loop {
        let setting = *rules.borrow_and_update();
        let (shut, turn) = setting.gate(Instant::now());
        if shut || setting.resets != resets {
            return;
        }
        let turned = async {
            match turn {
                Some(turn) => sleep_until(turn).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = turned => {}
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

async fn carry(link: &Link, mut dialler: End, number: u64, mut rules: watch::Receiver<Setting>) -> Result<(), Cut> {
    let Some(early) = until_open(&mut dialler.stream, &mut rules).await else { return Ok(()) };
    let connecting = timeout(Duration::from_millis(CONNECT_MAX_MS), TcpStream::connect(link.target));
    let Ok(Ok(target)) = connecting.await else { return Err(Cut) };
    let mut target = End::new(target);

    let record = link.new_record();
    let random = |direction: u64| ChaCha8Rng::seed_from_u64(link.seed ^ (number << 20) ^ (direction << 19));
    let carried = {
        let (from_dialler, to_dialler) = dialler.stream.split();
        let (from_target, to_target) = target.stream.split();
        let forward = Direction { flow: |rules| rules.forward, record: Some(record), delivered: &link.forward_bytes };
        let backward = Direction { flow: |rules| rules.backward, record: None, delivered: &link.backward_bytes };
        tokio::try_join!(
            forward.pump(rules.clone(), random(0), early, from_dialler, to_target),
            backward.pump(rules, random(1), Vec::new(), from_target, to_dialler),
        )
    };
    carried?;
    dialler.orderly = true;
    target.orderly = true;
    Ok(())
}

/// Waits until bytes may pass; `None` if the dialler has gone by then: an attempt to connect that never got through must not
/// reach the target later. Gives what the dialler sent meanwhile.
async fn until_open(dialler: &mut TcpStream, rules: &mut watch::Receiver<Setting>) -> Option<Vec<u8>> {
    let mut early = Vec::new();
    let mut buffer = vec![0; CHUNK_MAX_BYTES];
    loop {
        if !rules.borrow_and_update().holds() {
            return Some(early);
        }
        tokio::select! {
            biased;
            changed = rules.changed() => changed.ok()?,
            read = dialler.read(&mut buffer), if early.len() < EARLY_MAX_BYTES => match read {
                Ok(count @ 1..) => early.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return None,
            },
        }
    }
}

impl Link {
    /// The record of a new connection; the oldest one goes.
    fn new_record(&self) -> Record {
        let record = Record::default();
        let mut records = locked(&self.records);
        if records.len() >= RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(Arc::clone(&record));
        record
    }
}

/// One direction of one connection.
struct Direction<'a> {
    flow: fn(&Rules) -> Flow,
    record: Option<Record>,
    delivered: &'a AtomicU64,
}

/// Bytes on their way, and when they may arrive.
struct Chunk {
    bytes: Vec<u8>,
    due: Instant,
}

impl Direction<'_> {
    /// Carries bytes until the reading side ends, and that end too.
    async fn pump(
        &self,
        rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        early: Vec<u8>,
        read: ReadHalf<'_>,
        write: WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let (chunks, waiting) = mpsc::channel(CHUNKS_UNDER_WAY_MAX);
        let for_writer = ChaCha8Rng::seed_from_u64(random.random());
        tokio::try_join!(
            self.take_in(rules.clone(), random, early, read, chunks),
            self.give_out(rules, for_writer, waiting, write),
        )
        .map(drop)
    }

    async fn take_in(
        &self,
        rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        early: Vec<u8>,
        mut read: ReadHalf<'_>,
        chunks: mpsc::Sender<Chunk>,
    ) -> Result<(), Cut> {
        let mut buffer = vec![0; CHUNK_MAX_BYTES];
        let mut last_due = Instant::now();
        let mut bytes = early;
        loop {
            if !bytes.is_empty() {
                if let Some(record) = &self.record {
                    let mut record = locked(record);
                    let room = RECORDED_MAX_BYTES.saturating_sub(record.len());
                    record.extend_from_slice(&bytes[..room.min(bytes.len())]);
                }
                let flow = (self.flow)(&rules.borrow().rules);
                let late = match flow {
                    Flow::Late { delay, jitter } => delay + jitter.mul_f64(random.random_range(0.0..1.0)),
                    _ => Duration::ZERO,
                };
                // Never before what came before it.
                last_due = last_due.max(Instant::now() + late);
                let chunk = Chunk { bytes, due: last_due };
                if chunks.send(chunk).await.is_err() {
                    return Ok(()); // the writing side has ended, and says why
                }
            }
            match read.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => bytes = buffer[..count].to_vec(),
                // A process that dies with unread bytes resets its connections; the other side is to know at once.
                Err(_) => return Err(Cut),
            }
        }
    }

    async fn give_out(
        &self,
        mut rules: watch::Receiver<Setting>,
        mut random: ChaCha8Rng,
        mut waiting: mpsc::Receiver<Chunk>,
        mut write: WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let mut left_bytes: Option<usize> = None;
        while let Some(chunk) = waiting.recv().await {
            sleep_until(chunk.due).await;
            let mut rest = &chunk.bytes[..];
            while !rest.is_empty() {
                let (count, pause) = match self.flow_now(&mut rules).await {
                    Flow::Trickle { pause } => (1, pause),
                    Flow::Thin { bytes_per_s } => {
                        // A tenth of a second's worth at a time.
                        let count = (bytes_per_s as usize / 10).clamp(1, rest.len());
                        (count, Duration::from_secs_f64(count as f64 / f64::from(bytes_per_s.max(1))))
                    }
                    Flow::ResetAfter { bytes_max } => {
                        let left = left_bytes.get_or_insert_with(|| random.random_range(0..=bytes_max as usize));
                        let count = rest.len().min(*left);
                        *left -= count;
                        (count, Duration::ZERO)
                    }
                    Flow::Pass | Flow::Late { .. } | Flow::Hold => (rest.len(), Duration::ZERO),
                };
                if count == 0 {
                    return Err(Cut);
                }
                // Counted first: whoever has them can see that they were counted.
                self.delivered.fetch_add(count as u64, Ordering::Relaxed);
                write.write_all(&rest[..count]).await.map_err(|_| Cut)?;
                rest = &rest[count..];
                sleep(pause).await;
            }
        }
        // The end of the connection is held up like everything else.
        self.flow_now(&mut rules).await;
        write.shutdown().await.map_err(|_| Cut)
    }

    /// How bytes flow, once they flow.
    async fn flow_now(&self, rules: &mut watch::Receiver<Setting>) -> Flow {
        loop {
            match (self.flow)(&rules.borrow_and_update().rules) {
                Flow::Hold => {}
                flow => return flow,
            }
            if rules.changed().await.is_err() {
                return Flow::Hold; // the proxy ends
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};
    use std::thread;
    use std::time::Instant as StdInstant;

    use super::*;
    use crate::wait::wait_for;

    /// How long anything may take that must happen.
    const PATIENCE: Duration = Duration::from_secs(20);
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
        wait_for(PATIENCE, "no connection", || (proxy.counts(link).live == 0).then_some(())).unwrap();
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
        wait_for(PATIENCE, "bytes at the target", || (proxy.counts(link).forward_bytes == 3).then_some(())).unwrap();
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
        wait_for(PATIENCE, "the connection", || (proxy.counts(link).live == 1).then_some(())).unwrap();
        drop(stream);
        wait_for(PATIENCE, "its end", || (proxy.counts(link).live == 0).then_some(())).unwrap();
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
        wait_for(PATIENCE, "six changes between working and not", || {
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
}
