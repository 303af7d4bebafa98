//! All connections and what is going to happen on them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use smr::internals::protocol::Time;
use smr_sim::sim_rng::{Purpose, SimRng};
use tokio::sync::oneshot;

use super::{Listening, Weather};
use crate::client_sim::clock::Clock;
use crate::client_sim::endpoint::{Endpoint, Host, Way};
use crate::client_sim::recorder::Recorder;

/// What happens on the timeline.
pub(super) enum Event {
    /// Something arrives at the end of a lane.
    Parcel { connection: u64, way: Way, parcel: Parcel },
    /// Someone dials.
    Knock { connection: u64 },
    /// The one who dialled hears how it went.
    Dialled { connection: u64, welcome: bool },
    /// One side hears that the connection was reset: the reader of this lane and the writer of the other.
    Reset { connection: u64, reader_of: Way },
}

pub(super) enum Parcel {
    Bytes(Vec<u8>),
    /// The writer has closed its side.
    End,
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Lane {
    /// Arrived, not yet read.
    pub(super) arrived: VecDeque<u8>,
    /// After what has arrived nothing more comes.
    pub(super) ended: bool,
    /// The reader's side of the connection was reset.
    pub(super) reader_reset: bool,
    /// The writer's side of the connection was reset.
    pub(super) writer_reset: bool,
    /// Written and not yet arrived, in bytes.
    pub(super) under_way: usize,
    /// When the last parcel arrives: none overtakes another.
    last_at: Time,
    /// Arrived while nothing got through; goes on when the silence is over.
    held: VecDeque<Parcel>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

pub(super) struct Connection {
    pub(super) host: Host,
    pub(super) place: Endpoint,
    pub(super) lanes: [Lane; 2],
    /// Reset: what is under way arrives nowhere.
    pub(super) broken: bool,
    /// Ends of it that someone holds.
    halves: u8,
    dialled: Option<oneshot::Sender<bool>>,
}

pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) rng: SimRng,
    pub(super) weather: Weather,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_wire: u64,
    pub(super) timeline: BTreeMap<(Time, u64), Event>,
    posted: u64,
    pub(super) listening: BTreeMap<Endpoint, Listening>,
    /// Processes that are stopped: what is sent to them waits.
    pub(super) stopped: BTreeSet<Endpoint>,
    /// Links on which nothing arrives.
    pub(super) silent: BTreeSet<(Host, Endpoint, Way)>,
    pub(super) incoming: Vec<(Endpoint, u64)>,
    pub(super) recorder: Recorder,
}

impl State {
    /// No connections yet; everyone is down.
    pub(super) fn new(seed: u64, clock: Clock, weather: Weather) -> State {
        State {
            clock,
            rng: SimRng::new(seed, Purpose::Network),
            weather,
            connections: BTreeMap::new(),
            next_wire: 0,
            timeline: BTreeMap::new(),
            posted: 0,
            listening: BTreeMap::new(),
            stopped: BTreeSet::new(),
            silent: BTreeSet::new(),
            incoming: Vec::new(),
            recorder: Recorder::default(),
        }
    }

    fn delay(&mut self) -> u64 {
        let Weather { least_us, jitter_us, late, late_us, .. } = self.weather;
        let us = least_us + self.rng.below(jitter_us + 1);
        if self.rng.chance(late) { us + self.rng.below(late_us + 1) } else { us }
    }

    fn post(&mut self, at: Time, event: Event) {
        self.posted += 1;
        self.timeline.insert((at, self.posted), event);
    }

    pub(super) fn dial(&mut self, host: Host, address: &str, dialled: oneshot::Sender<bool>) -> Option<u64> {
        let place = Endpoint::of(address)?;
        let id = self.next_wire;
        self.next_wire += 1;
        let connection =
            Connection { host, place, lanes: Default::default(), broken: false, halves: 2, dialled: Some(dialled) };
        self.connections.insert(id, connection);
        self.recorder.dialled(self.clock.now(), id, host, place);
        let at = self.clock.now().plus_us(self.delay());
        self.post(at, Event::Knock { connection: id });
        Some(id)
    }

    /// Sends what fits; 0 if nothing does.
    pub(super) fn send(&mut self, id: u64, way: Way, bytes: &[u8]) -> usize {
        let room_bytes = self.weather.room_bytes;
        let Some(connection) = self.connections.get(&id) else { return bytes.len() };
        let lane = &connection.lanes[way as usize];
        let room = room_bytes.saturating_sub(lane.under_way + lane.arrived.len());
        let taken = bytes.len().min(room);
        if taken == 0 {
            return 0;
        }
        let bytes = &bytes[..taken];
        if way == Way::Up {
            self.recorder.sent(self.clock.now(), id, bytes);
        }
        let split = if self.rng.chance(self.weather.split) { self.rng.below(taken as u64) as usize } else { 0 };
        for piece in [&bytes[..split], &bytes[split..]] {
            if !piece.is_empty() {
                self.send_parcel(id, way, Parcel::Bytes(piece.to_vec()));
            }
        }
        taken
    }

    pub(super) fn send_parcel(&mut self, id: u64, way: Way, parcel: Parcel) {
        let at = self.clock.now().plus_us(self.delay());
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let lane = &mut connection.lanes[way as usize];
        if let Parcel::Bytes(bytes) = &parcel {
            lane.under_way += bytes.len();
        }
        let at = at.max(lane.last_at);
        lane.last_at = at;
        self.post(at, Event::Parcel { connection: id, way, parcel });
    }

    /// Whether nothing gets through on this connection in this direction.
    fn is_held(&self, connection: &Connection, way: Way) -> bool {
        self.silent.contains(&(connection.host, connection.place, way))
            || (way == Way::Up && self.stopped.contains(&connection.place))
    }

    /// Some silence is over: what was held back arrives now, before what is still on the timeline.
    pub(super) fn release(&mut self, wakers: &mut Vec<Waker>) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for way in [Way::Up, Way::Down] {
                let Some(connection) = self.connections.get(&id) else { continue };
                if self.is_held(connection, way) {
                    continue;
                }
                let held = match self.connections.get_mut(&id) {
                    Some(connection) => std::mem::take(&mut connection.lanes[way as usize].held),
                    None => continue,
                };
                for parcel in held {
                    self.arrive(id, way, parcel, wakers);
                }
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event, wakers: &mut Vec<Waker>) {
        let now = self.clock.now();
        match event {
            Event::Knock { connection: id } => {
                let Some(connection) = self.connections.get(&id) else { return };
                let (host, place) = (connection.host, connection.place);
                let cut = [Way::Up, Way::Down].into_iter().any(|way| self.silent.contains(&(host, place, way)));
                let listening = self.listening.get(&place).copied().unwrap_or_default();
                if cut || listening == Listening::Silent {
                    return;
                }
                let welcome = listening == Listening::Open;
                if welcome {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.halves += 2;
                    }
                    self.incoming.push((place, id));
                }
                let at = now.plus_us(self.delay());
                self.post(at, Event::Dialled { connection: id, welcome });
            }
            Event::Dialled { connection: id, welcome } => {
                if let Some(dialled) = self.connections.get_mut(&id).and_then(|connection| connection.dialled.take()) {
                    // Whoever does not wait any more has closed its side by that.
                    let _ = dialled.send(welcome);
                }
            }
            Event::Reset { connection, reader_of } => self.reset_side(connection, reader_of, wakers),
            Event::Parcel { connection: id, way, parcel } => self.arrive(id, way, parcel, wakers),
        }
    }

    fn arrive(&mut self, id: u64, way: Way, mut parcel: Parcel, wakers: &mut Vec<Waker>) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.broken {
            return;
        }
        if self.is_held(connection, way) || !connection.lanes[way as usize].held.is_empty() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.lanes[way as usize].held.push_back(parcel);
            }
            return;
        }
        let breaks = if way == Way::Up { self.weather.broken_up } else { self.weather.broken_down };
        let mut full = 0;
        if let Parcel::Bytes(bytes) = &mut parcel {
            full = bytes.len();
            if self.rng.chance(breaks) {
                let part = self.rng.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(part);
                self.break_wire(id);
            }
        }
        let now = self.clock.now();
        if let Parcel::Bytes(bytes) = &parcel {
            self.recorder.arrived(now, id, way, bytes);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let lane = &mut connection.lanes[way as usize];
        lane.under_way -= full;
        match parcel {
            Parcel::Bytes(bytes) => lane.arrived.extend(bytes),
            Parcel::End => lane.ended = true,
        }
        wakers.extend(lane.reader.take());
    }

    /// Breaks a connection: what is under way is lost, and both sides hear of it.
    pub(super) fn break_wire(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.broken, true) {
            return;
        }
        self.recorder.broken();
        self.post_reset(id, Way::Up);
        self.post_reset(id, Way::Down);
    }

    pub(super) fn post_reset(&mut self, connection: u64, reader_of: Way) {
        let at = self.clock.now().plus_us(self.delay());
        // Not before what was sent earlier has arrived.
        let last_at = self
            .connections
            .get(&connection)
            .map_or(Time(0), |connection| connection.lanes[reader_of as usize].last_at);
        self.post(at.max(last_at), Event::Reset { connection, reader_of });
    }

    /// The side that reads this lane, and writes the other one, has no connection any more.
    fn reset_side(&mut self, id: u64, reader_of: Way, wakers: &mut Vec<Waker>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        for (way, lane) in [Way::Up, Way::Down].into_iter().zip(&mut connection.lanes) {
            if way == reader_of {
                lane.reader_reset = true;
                wakers.extend(lane.reader.take());
            } else {
                lane.writer_reset = true;
                wakers.extend(lane.writer.take());
            }
        }
    }

    /// The process at the side that reads this lane is gone: no one reads what has arrived.
    pub(super) fn process_gone(&mut self, id: u64, reader_of: Way, wakers: &mut Vec<Waker>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.lanes[reader_of as usize].arrived.clear();
        }
        self.reset_side(id, reader_of, wakers);
    }

    pub(super) fn half_dropped(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.halves -= 1;
        if connection.halves == 0 {
            self.connections.remove(&id);
            self.recorder.closed(id);
        }
    }
}
