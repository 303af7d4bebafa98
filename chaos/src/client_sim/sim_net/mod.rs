//! The network between clients and listeners: byte streams as TCP gives them, with what TCP does not prevent.
//!
//! Bytes of one direction arrive in order and once, or not at all. A connection may be slow, deliver half a frame and
//! the rest later, break in the middle of an answer, go silent one way or both, be refused, or never come about. A
//! process that is killed takes its connections along; one that is stopped keeps them open and says nothing.
//!
//! [`SimNet`] holds all connections and their timeline. The event loop ([`super::run()`]) calls [`SimNet::run`] when
//! the next event is due ([`SimNet::next_at`]), and is woken by [`SimNet::posted`] when someone has written or
//! dialled.

mod ends;
mod timeline;

use std::sync::Arc;
use std::task::Waker;

use madkv_client::Network;
use parking_lot::{Mutex, MutexGuard};
use smr::internals::protocol::Time;
use smr::wire::SharedOutput;
use tokio::sync::Notify;

use super::clock::Clock;
use super::endpoint::{Endpoint, Host, Way};
use super::recorder::Recorder;
use ends::HostNetwork;
pub use ends::{Reader, Writer};
use timeline::State;

/// How the network is on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way, in microseconds.
    pub least_us: u64,
    /// What is added to it at random, in microseconds.
    pub jitter_us: u64,
    /// This many pieces per mille take up to `late_us` longer, and all that is after them on the connection.
    pub late: u64,
    /// See `late`.
    pub late_us: u64,
    /// This many writes per mille arrive in two pieces.
    pub split: u64,
    /// This many pieces per mille on the way up break the connection: a part arrives, then both sides hear of a reset.
    pub broken_up: u64,
    /// This many pieces per mille on the way down do: answers get lost.
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

/// A connection that a listener has to serve.
pub struct Incoming {
    /// Whose listener.
    pub place: Endpoint,
    /// What the client sends.
    pub input: Reader,
    /// What it gets.
    pub output: Arc<dyn SharedOutput>,
}

/// All connections between clients and listeners.
pub struct SimNet {
    state: Mutex<State>,
    posted: Notify,
}

impl SimNet {
    /// No connections yet; everyone is down.
    pub fn new(seed: u64, clock: Clock, weather: Weather) -> Arc<SimNet> {
        Arc::new(SimNet { state: Mutex::new(State::new(seed, clock, weather)), posted: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The network as a client process sees it.
    pub fn of_host(self: &Arc<SimNet>, host: Host) -> Arc<dyn Network> {
        Arc::new(HostNetwork { net: Arc::clone(self), host })
    }

    /// Something was put on the timeline.
    pub async fn posted(&self) {
        self.posted.notified().await;
    }

    /// Wakes the event loop: someone has something for it.
    pub fn wake(&self) {
        self.posted.notify_one();
    }

    /// When something is due.
    pub fn next_at(&self) -> Option<Time> {
        self.lock().timeline.keys().next().map(|(at, _)| *at)
    }

    /// Lets happen what is due; gives the connections that listeners have to serve.
    pub fn run(self: &Arc<SimNet>) -> Vec<Incoming> {
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
        let serve = |(place, connection)| Incoming {
            place,
            input: Reader { net: Arc::clone(self), connection, way: Way::Up },
            output: Arc::new(Writer { net: Arc::clone(self), connection, way: Way::Down }),
        };
        incoming.into_iter().map(serve).collect()
    }

    /// What frames went by.
    pub fn recorder<T>(&self, look: impl FnOnce(&mut Recorder) -> T) -> T {
        look(&mut self.lock().recorder)
    }

    /// From now on the network is like this.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// From now on a place does this with those who dial.
    pub fn listen(&self, place: Endpoint, listening: Listening) {
        self.lock().listening.insert(place, listening);
    }

    /// Stops a process, or lets it go on: its connections stay open.
    pub fn stop(&self, place: Endpoint, stopped: bool) {
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
    pub fn silence(&self, host: Host, place: Endpoint, way: Way, silent: bool) {
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

    /// A process with a listener has ended. Its connections are reset, or (its machine is gone) fall silent until it is
    /// back.
    pub fn place_ended(&self, place: Endpoint, silently: bool) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.listening.insert(place, if silently { Listening::Silent } else { Listening::Down });
        state.stopped.remove(&place);
        let ended: Vec<u64> =
            state.connections.iter().filter(|(_, connection)| connection.place == place).map(|(id, _)| *id).collect();
        for id in ended {
            // The process is gone: no one reads or writes at that end any more, not even what it had begun.
            state.process_gone(id, Way::Up, &mut wakers);
            let keep_under_way = state.rng.chance(500);
            if !keep_under_way && let Some(connection) = state.connections.get_mut(&id) {
                connection.broken = true;
            }
            if !silently {
                state.post_reset(id, Way::Down);
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// A machine whose process had vanished is back: whoever still believes in an old connection hears that it is
    /// reset.
    pub fn place_started(&self, place: Endpoint) {
        let mut state = self.lock();
        state.listening.insert(place, Listening::Open);
        let stale: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, connection)| connection.place == place && connection.lanes[Way::Up as usize].reader_reset)
            .map(|(id, _)| *id)
            .collect();
        stale.into_iter().for_each(|id| state.post_reset(id, Way::Down));
        drop(state);
        self.posted.notify_one();
    }

    /// A client process was killed: nothing that it still does reaches anyone.
    pub fn host_ended(&self, host: Host) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let ended: Vec<u64> =
            state.connections.iter().filter(|(_, connection)| connection.host == host).map(|(id, _)| *id).collect();
        for id in ended {
            state.process_gone(id, Way::Down, &mut wakers);
            state.post_reset(id, Way::Up);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.posted.notify_one();
    }

    /// Resets a connection between a client and a place, if there is one; what is under way is lost.
    pub fn reset(&self, host: Host, place: Endpoint) {
        let mut state = self.lock();
        let found =
            state.connections.iter().filter(|(_, connection)| (connection.host, connection.place) == (host, place));
        let found: Vec<u64> = found.map(|(id, _)| *id).collect();
        found.into_iter().for_each(|id| state.break_wire(id));
        drop(state);
        self.posted.notify_one();
    }
}
