//! The network between clients and doors: byte streams as TCP gives them, with what TCP does not prevent.
//!
//! Bytes of one direction arrive in order and once, or not at all. A connection may be slow, deliver half a frame and the rest
//! later, break in the middle of an answer, go silent one way or both, be refused, or never come about. A process that is
//! killed takes its connections along; one that is stopped keeps them open and says nothing.
//!
//! [`Wires`] holds all connections and their timeline. The event loop ([`super::run()`]) calls [`Wires::run`] when the next
//! event is due ([`Wires::next_at`]), and is woken by [`Wires::posted`] when somebody has written or dialled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use madkv_client::{Dial, Network};
use smr::protocol::Time;
use smr::sim::dice::{Dice, Purpose};
use smr::wire::SharedOutput;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};

use super::clock::Clock;
use super::tap::Tap;

/// A client process, by a number that is never used again.
pub type Host = u32;

/// The group number of the managers.
pub const MANAGERS: u16 = u16::MAX;

/// A process with a door: group (partition, or [`MANAGERS`]) and replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The group.
    pub group: u16,
    /// The replica.
    pub seat: u16,
}

impl Place {
    /// The address under which clients know it.
    pub fn address(self) -> String {
        format!("g{}.r{}:1", self.group, self.seat)
    }

    fn of(address: &str) -> Option<Place> {
        let (group, seat) = address.strip_prefix('g')?.strip_suffix(":1")?.split_once(".r")?;
        Some(Place { group: group.parse().ok()?, seat: seat.parse().ok()? })
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the door.
    Up = 0,
    /// From the door to the client.
    Down = 1,
}

/// How the network is on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way, in microseconds.
    pub least_us: u64,
    /// What is added to it at random, in microseconds.
    pub jitter_us: u64,
    /// So many pieces per mille take up to `late_us` longer, and all that is behind them on the connection.
    pub late: u64,
    /// See `late`.
    pub late_us: u64,
    /// So many writes per mille arrive in two pieces.
    pub split: u64,
    /// So many pieces per mille on the way up break the connection: a part arrives, then both sides hear of a reset.
    pub broken_up: u64,
    /// So many pieces per mille on the way down do: answers get lost.
    pub broken_down: u64,
    /// How much one direction of a connection holds before the writer has to wait, in bytes.
    pub room_bytes: usize,
}

impl Weather {
    /// Nothing worse than taking its time.
    pub fn calm() -> Weather {
        Weather {
            least_us: 50,
            jitter_us: 300,
            late: 0,
            late_us: 0,
            split: 0,
            broken_up: 0,
            broken_down: 0,
            room_bytes: 64 << 10,
        }
    }
}

/// What a place does with those who dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    /// No process: refused.
    #[default]
    Down,
    /// No machine, or its queue of connections is full: nothing comes back.
    Silent,
    /// They are taken.
    Open,
}

/// What happens on the timeline.
enum Event {
    /// Something arrives at the end of a lane.
    Parcel { wire: u64, way: Way, parcel: Parcel },
    /// Somebody dials.
    Knock { wire: u64 },
    /// The one who dialled hears how it went.
    Dialled { wire: u64, welcome: bool },
    /// One side hears that the connection was reset: the reader of this lane and the writer of the other.
    Reset { wire: u64, reader_of: Way },
}

enum Parcel {
    Bytes(Vec<u8>),
    /// The writer has closed its side.
    End,
}

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    /// Arrived, not yet read.
    arrived: VecDeque<u8>,
    /// Behind what has arrived nothing more comes.
    ended: bool,
    /// The reader's side of the connection was reset.
    reader_reset: bool,
    /// The writer's side of the connection was reset.
    writer_reset: bool,
    /// Written and not yet arrived, in bytes.
    under_way: usize,
    /// When the last parcel arrives: none overtakes another.
    last_at: Time,
    /// Arrived while nothing got through; goes on when the silence is over.
    held: VecDeque<Parcel>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Wire {
    host: Host,
    place: Place,
    lanes: [Lane; 2],
    /// Reset: what is under way arrives nowhere.
    broken: bool,
    /// Ends of it that somebody holds.
    halves: u8,
    dialled: Option<oneshot::Sender<bool>>,
}

/// A connection that a door has to serve.
pub struct Incoming {
    /// Whose door.
    pub place: Place,
    /// What the client sends.
    pub input: Reader,
    /// What it gets.
    pub output: Arc<dyn SharedOutput>,
}

struct State {
    clock: Clock,
    dice: Dice,
    weather: Weather,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    timeline: BTreeMap<(Time, u64), Event>,
    posted: u64,
    listening: BTreeMap<Place, Listening>,
    /// Processes that are stopped: what is sent to them waits.
    stopped: BTreeSet<Place>,
    /// Links on which nothing arrives.
    silent: BTreeSet<(Host, Place, Way)>,
    incoming: Vec<(Place, u64)>,
    tap: Tap,
}

/// All connections between clients and doors.
pub struct Wires {
    state: Mutex<State>,
    posted: Notify,
}

impl Wires {
    /// No connections yet; everybody is down.
    pub fn new(seed: u64, clock: Clock, weather: Weather) -> Arc<Wires> {
        let state = State {
            clock,
            dice: Dice::new(seed, Purpose::Network),
            weather,
            wires: BTreeMap::new(),
            next_wire: 0,
            timeline: BTreeMap::new(),
            posted: 0,
            listening: BTreeMap::new(),
            stopped: BTreeSet::new(),
            silent: BTreeSet::new(),
            incoming: Vec::new(),
            tap: Tap::default(),
        };
        Arc::new(Wires { state: Mutex::new(state), posted: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as a client process sees it.
    pub fn of_host(self: &Arc<Wires>, host: Host) -> Arc<dyn Network> {
        Arc::new(HostNetwork { wires: Arc::clone(self), host })
    }

    /// Something was put on the timeline.
    pub async fn posted(&self) {
        self.posted.notified().await;
    }

    /// Wakes the event loop: somebody has something for it.
    pub fn wake(&self) {
        self.posted.notify_one();
    }

    /// When something is due.
    pub fn next_at(&self) -> Option<Time> {
        self.lock().timeline.keys().next().map(|(at, _)| *at)
    }

    /// Lets happen what is due; gives the connections that doors have to serve.
    pub fn run(self: &Arc<Wires>) -> Vec<Incoming> {
        let mut state = self.lock();
        let now = state.clock.now();
        let mut wakers = Vec::new();
        while let Some(first) = state.timeline.first_entry()
            && first.key().0 <= now
        {
            let event = first.remove();
            state.happen(event, &mut wakers);
        }
        let incoming = std::mem::take(&mut state.incoming);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        let serve = |(place, wire)| Incoming {
            place,
            input: Reader { wires: Arc::clone(self), wire, way: Way::Up },
            output: Arc::new(Writer { wires: Arc::clone(self), wire, way: Way::Down }),
        };
        incoming.into_iter().map(serve).collect()
    }

    /// What frames went by.
    pub fn tap<T>(&self, look: impl FnOnce(&mut Tap) -> T) -> T {
        look(&mut self.lock().tap)
    }

    /// From now on the network is like this.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// From now on a place does this with those who dial.
    pub fn listen(&self, place: Place, listening: Listening) {
        self.lock().listening.insert(place, listening);
    }

    /// Stops a process, or lets it go on: its connections stay open.
    pub fn stop(&self, place: Place, stopped: bool) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        if stopped {
            state.stopped.insert(place);
        } else if state.stopped.remove(&place) {
            state.release(&mut wakers);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// From now on nothing arrives on a link, or everything again, that which was held back first.
    pub fn silence(&self, host: Host, place: Place, way: Way, silent: bool) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        if silent {
            state.silent.insert((host, place, way));
        } else if state.silent.remove(&(host, place, way)) {
            state.release(&mut wakers);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// Removes all silences.
    pub fn end_silences(&self) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.silent.clear();
        state.release(&mut wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// A process with a door has ended. Its connections are reset, or (its machine is gone) fall silent until it is back.
    pub fn place_ended(&self, place: Place, silently: bool) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.listening.insert(place, if silently { Listening::Silent } else { Listening::Down });
        state.stopped.remove(&place);
        let ended: Vec<u64> = state.wires.iter().filter(|(_, wire)| wire.place == place).map(|(id, _)| *id).collect();
        for id in ended {
            // The process is gone: nobody reads or writes at that end any more, not even what it had begun.
            state.process_gone(id, Way::Up, &mut wakers);
            let keep_under_way = state.dice.chance(500);
            if !keep_under_way && let Some(wire) = state.wires.get_mut(&id) {
                wire.broken = true;
            }
            if !silently {
                state.post_reset(id, Way::Down);
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// A machine whose process had vanished is back: whoever still believes in an old connection hears that it is reset.
    pub fn place_started(&self, place: Place) {
        let mut state = self.lock();
        state.listening.insert(place, Listening::Open);
        let stale: Vec<u64> = state
            .wires
            .iter()
            .filter(|(_, wire)| wire.place == place && wire.lanes[Way::Up as usize].reader_reset)
            .map(|(id, _)| *id)
            .collect();
        stale.into_iter().for_each(|id| state.post_reset(id, Way::Down));
        drop(state);
        self.posted.notify_one();
    }

    /// A client process was killed: nothing that it still does reaches anybody.
    pub fn host_ended(&self, host: Host) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let ended: Vec<u64> = state.wires.iter().filter(|(_, wire)| wire.host == host).map(|(id, _)| *id).collect();
        for id in ended {
            state.process_gone(id, Way::Down, &mut wakers);
            state.post_reset(id, Way::Up);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// Resets a connection between a client and a place, if there is one; what is under way is lost.
    pub fn reset(&self, host: Host, place: Place) {
        let mut state = self.lock();
        let found = state.wires.iter().filter(|(_, wire)| (wire.host, wire.place) == (host, place));
        let found: Vec<u64> = found.map(|(id, _)| *id).collect();
        found.into_iter().for_each(|id| state.break_wire(id));
        drop(state);
        self.posted.notify_one();
    }
}

impl State {
    fn delay(&mut self) -> u64 {
        let Weather { least_us, jitter_us, late, late_us, .. } = self.weather;
        let us = least_us + self.dice.below(jitter_us + 1);
        if self.dice.chance(late) { us + self.dice.below(late_us + 1) } else { us }
    }

    fn post(&mut self, at: Time, event: Event) {
        self.posted += 1;
        self.timeline.insert((at, self.posted), event);
    }

    fn dial(&mut self, host: Host, address: &str, dialled: oneshot::Sender<bool>) -> Option<u64> {
        let place = Place::of(address)?;
        let id = self.next_wire;
        self.next_wire += 1;
        let wire = Wire { host, place, lanes: Default::default(), broken: false, halves: 2, dialled: Some(dialled) };
        self.wires.insert(id, wire);
        self.tap.dialled(self.clock.now(), id, host, place);
        let at = self.clock.now().plus_us(self.delay());
        self.post(at, Event::Knock { wire: id });
        Some(id)
    }

    /// Sends what fits; 0 if nothing does.
    fn send(&mut self, id: u64, way: Way, bytes: &[u8]) -> usize {
        let room_bytes = self.weather.room_bytes;
        let Some(wire) = self.wires.get(&id) else { return bytes.len() };
        let lane = &wire.lanes[way as usize];
        let room = room_bytes.saturating_sub(lane.under_way + lane.arrived.len());
        let taken = bytes.len().min(room);
        if taken == 0 {
            return 0;
        }
        let bytes = &bytes[..taken];
        if way == Way::Up {
            self.tap.sent(self.clock.now(), id, bytes);
        }
        let split = if self.dice.chance(self.weather.split) { self.dice.below(taken as u64) as usize } else { 0 };
        for piece in [&bytes[..split], &bytes[split..]] {
            if !piece.is_empty() {
                self.send_parcel(id, way, Parcel::Bytes(piece.to_vec()));
            }
        }
        taken
    }

    fn send_parcel(&mut self, id: u64, way: Way, parcel: Parcel) {
        let at = self.clock.now().plus_us(self.delay());
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let lane = &mut wire.lanes[way as usize];
        if let Parcel::Bytes(bytes) = &parcel {
            lane.under_way += bytes.len();
        }
        let at = at.max(lane.last_at);
        lane.last_at = at;
        self.post(at, Event::Parcel { wire: id, way, parcel });
    }

    /// Whether nothing gets through on this wire in this direction.
    fn is_held(&self, wire: &Wire, way: Way) -> bool {
        self.silent.contains(&(wire.host, wire.place, way)) || (way == Way::Up && self.stopped.contains(&wire.place))
    }

    /// Some silence is over: what was held back arrives now, before what is still on the timeline.
    fn release(&mut self, wakers: &mut Vec<Waker>) {
        let ids: Vec<u64> = self.wires.keys().copied().collect();
        for id in ids {
            for way in [Way::Up, Way::Down] {
                let Some(wire) = self.wires.get(&id) else { continue };
                if self.is_held(wire, way) {
                    continue;
                }
                let held = match self.wires.get_mut(&id) {
                    Some(wire) => std::mem::take(&mut wire.lanes[way as usize].held),
                    None => continue,
                };
                for parcel in held {
                    self.arrive(id, way, parcel, wakers);
                }
            }
        }
    }

    fn happen(&mut self, event: Event, wakers: &mut Vec<Waker>) {
        let now = self.clock.now();
        match event {
            Event::Knock { wire: id } => {
                let Some(wire) = self.wires.get(&id) else { return };
                let (host, place) = (wire.host, wire.place);
                let cut = [Way::Up, Way::Down].into_iter().any(|way| self.silent.contains(&(host, place, way)));
                let listening = self.listening.get(&place).copied().unwrap_or_default();
                if cut || listening == Listening::Silent {
                    return;
                }
                let welcome = listening == Listening::Open;
                if welcome {
                    if let Some(wire) = self.wires.get_mut(&id) {
                        wire.halves += 2;
                    }
                    self.incoming.push((place, id));
                }
                let at = now.plus_us(self.delay());
                self.post(at, Event::Dialled { wire: id, welcome });
            }
            Event::Dialled { wire: id, welcome } => {
                if let Some(dialled) = self.wires.get_mut(&id).and_then(|wire| wire.dialled.take()) {
                    // Whoever does not wait any more has closed its side by that.
                    let _ = dialled.send(welcome);
                }
            }
            Event::Reset { wire, reader_of } => self.reset_side(wire, reader_of, wakers),
            Event::Parcel { wire: id, way, parcel } => self.arrive(id, way, parcel, wakers),
        }
    }

    fn arrive(&mut self, id: u64, way: Way, mut parcel: Parcel, wakers: &mut Vec<Waker>) {
        let Some(wire) = self.wires.get(&id) else { return };
        if wire.broken {
            return;
        }
        if self.is_held(wire, way) || !wire.lanes[way as usize].held.is_empty() {
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.lanes[way as usize].held.push_back(parcel);
            }
            return;
        }
        let breaks = if way == Way::Up { self.weather.broken_up } else { self.weather.broken_down };
        let mut full = 0;
        if let Parcel::Bytes(bytes) = &mut parcel {
            full = bytes.len();
            if self.dice.chance(breaks) {
                let part = self.dice.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(part);
                self.break_wire(id);
            }
        }
        let now = self.clock.now();
        if let Parcel::Bytes(bytes) = &parcel {
            self.tap.arrived(now, id, way, bytes);
        }
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let lane = &mut wire.lanes[way as usize];
        lane.under_way -= full;
        match parcel {
            Parcel::Bytes(bytes) => lane.arrived.extend(bytes),
            Parcel::End => lane.ended = true,
        }
        wakers.extend(lane.reader.take());
    }

    /// Breaks a connection: what is under way is lost, and both sides hear of it.
    fn break_wire(&mut self, id: u64) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if std::mem::replace(&mut wire.broken, true) {
            return;
        }
        self.tap.broken();
        self.post_reset(id, Way::Up);
        self.post_reset(id, Way::Down);
    }

    fn post_reset(&mut self, wire: u64, reader_of: Way) {
        let at = self.clock.now().plus_us(self.delay());
        // Not before what was sent earlier has arrived.
        let last_at = self.wires.get(&wire).map_or(Time(0), |wire| wire.lanes[reader_of as usize].last_at);
        self.post(at.max(last_at), Event::Reset { wire, reader_of });
    }

    /// The side that reads this lane, and writes the other one, has no connection any more.
    fn reset_side(&mut self, id: u64, reader_of: Way, wakers: &mut Vec<Waker>) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        for (way, lane) in [Way::Up, Way::Down].into_iter().zip(&mut wire.lanes) {
            if way == reader_of {
                lane.reader_reset = true;
                wakers.extend(lane.reader.take());
            } else {
                lane.writer_reset = true;
                wakers.extend(lane.writer.take());
            }
        }
    }

    /// The process at the side that reads this lane is gone: nobody reads what has arrived.
    fn process_gone(&mut self, id: u64, reader_of: Way, wakers: &mut Vec<Waker>) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.lanes[reader_of as usize].arrived.clear();
        }
        self.reset_side(id, reader_of, wakers);
    }

    fn half_dropped(&mut self, id: u64) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        wire.halves -= 1;
        if wire.halves == 0 {
            self.wires.remove(&id);
            self.tap.closed(id);
        }
    }
}

struct HostNetwork {
    wires: Arc<Wires>,
    host: Host,
}

impl Network for HostNetwork {
    fn dial(&self, address: &str) -> Dial {
        let (dialled, heard) = oneshot::channel();
        let wire = self.wires.lock().dial(self.host, address, dialled);
        self.wires.posted.notify_one();
        let Some(wire) = wire else {
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::NotFound, "no such address")) });
        };
        let input = Reader { wires: Arc::clone(&self.wires), wire, way: Way::Down };
        let output = Writer { wires: Arc::clone(&self.wires), wire, way: Way::Up };
        Box::pin(async move {
            match heard.await {
                Ok(true) => Ok((Box::new(input) as _, Box::new(output) as _)),
                Ok(false) | Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// Where bytes come out.
pub struct Reader {
    wires: Arc<Wires>,
    wire: u64,
    way: Way,
}

/// Where they go in.
pub struct Writer {
    wires: Arc<Wires>,
    wire: u64,
    way: Way,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wires.lock();
        let Some(wire) = state.wires.get_mut(&self.wire) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let lane = &mut wire.lanes[self.way as usize];
        // What has arrived can be read behind a reset, too, unless the process itself is gone: then nobody asks.
        if lane.arrived.is_empty() {
            if lane.reader_reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if lane.ended {
                return Poll::Ready(Ok(()));
            }
            lane.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (piece, _) = lane.arrived.as_slices();
        let count = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..count]);
        lane.arrived.drain(..count);
        let waiting = lane.writer.take();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.wires.lock().half_dropped(self.wire);
    }
}

impl Writer {
    fn write(&self, bytes: &[u8], context: Option<&mut Context<'_>>) -> Poll<io::Result<usize>> {
        let mut state = self.wires.lock();
        match state.wires.get(&self.wire) {
            Some(wire) if !wire.lanes[self.way as usize].writer_reset => {}
            _ => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        let taken = state.send(self.wire, self.way, bytes);
        if taken == 0 && !bytes.is_empty() {
            if let (Some(context), Some(wire)) = (context, state.wires.get_mut(&self.wire)) {
                wire.lanes[self.way as usize].writer = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        drop(state);
        self.wires.posted.notify_one();
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes, Some(context))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl SharedOutput for Writer {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.write(bytes, None) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wires.lock();
        let room_bytes = state.weather.room_bytes;
        let Some(wire) = state.wires.get_mut(&self.wire) else { return Poll::Ready(Ok(())) };
        let lane = &mut wire.lanes[self.way as usize];
        if lane.writer_reset || lane.under_way + lane.arrived.len() < room_bytes {
            return Poll::Ready(Ok(()));
        }
        lane.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.wires.lock();
        let open = state.wires.get(&self.wire).is_some_and(|wire| !wire.lanes[self.way as usize].writer_reset);
        if open {
            state.send_parcel(self.wire, self.way, Parcel::End);
        }
        state.half_dropped(self.wire);
        drop(state);
        self.wires.posted.notify_one();
    }
}
