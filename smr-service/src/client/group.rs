//! A group as a client sees it: the links to its replicas, what it has heard of its leader, its session, and what is
//! under way in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::address::is_same;
use crate::client::inbox::Inboxes;
use crate::client::leader_cache::LeaderCache;
use crate::client::limits::{ASIDE_PAUSE, GROUP_IN_FLIGHT_MAX_BYTES, GROUP_REQUESTS_MAX};
use crate::client::link::Link;
use crate::client::session::Session;
use crate::client::{Context, TimedOut, before, lock};
use crate::frames::{Map, Service};

/// The replicas of a group, or the managers.
pub struct Group<M: Map> {
    /// `s0`, `s1`, ..., `m`.
    pub name: String,
    context: Arc<Context>,
    service: Service,
    /// What the first replica is called in traces; the others count on from it.
    first: usize,
    /// The replicas, by number. They may move, and others join; sessions and what is under way go on.
    links: RwLock<Arc<[Arc<Link<M>>]>>,
    state: Mutex<State>,
    /// The believed leader has changed; whoever waits for a leader looks again, in the order of coming.
    changed: Notify,
    /// The open session.
    session: Mutex<Option<Arc<Session>>>,
    /// Held while a session is being opened, so that many writes open one.
    pub(super) session_opening: tokio::sync::Mutex<()>,
    /// A replica has said that all of them take writes.
    sends_to_all: Arc<AtomicBool>,
    requests: Semaphore,
    bytes: Semaphore,
    /// What the next requests hear by.
    pub(super) inboxes: Inboxes<M>,
}

#[derive(Default)]
struct State {
    leader_cache: LeaderCache,
    /// Requests that wait for a leader. Without any discovery stops.
    waiting: usize,
    /// Whether discovery runs.
    finding: bool,
    /// The replica that is read at next, where any will do.
    next_aside: usize,
    /// A replica has refused a read at this time, because another one leads.
    refused_aside_at: Option<Instant>,
    /// When a replica that had been silent was tried again, to see whether it is back.
    suspect_aside_at: Option<Instant>,
}

/// Room for one request; gives it back when dropped.
pub struct Admission<'g> {
    _request: SemaphorePermit<'g>,
    _bytes: SemaphorePermit<'g>,
}

impl<M: Map> Group<M> {
    /// The group called `name`, whose replicas listen at `addresses` and count from `first` in traces.
    pub fn new(context: &Arc<Context>, name: String, service: Service, first: usize, addresses: &[String]) -> Group<M> {
        let group = Group {
            name,
            context: Arc::clone(context),
            service,
            first,
            links: RwLock::new(Arc::new([])),
            state: Mutex::default(),
            changed: Notify::new(),
            session: Mutex::default(),
            session_opening: tokio::sync::Mutex::default(),
            sends_to_all: Arc::default(),
            requests: Semaphore::new(GROUP_REQUESTS_MAX),
            bytes: Semaphore::new(GROUP_IN_FLIGHT_MAX_BYTES),
            inboxes: Inboxes::new(),
        };
        group.move_to(addresses);
        group
    }

    /// The replicas, by number.
    pub fn links(&self) -> Arc<[Arc<Link<M>>]> {
        Arc::clone(&self.links.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The link to a replica, if there is one.
    pub fn link(&self, replica: u16) -> Option<Arc<Link<M>>> {
        self.links().get(usize::from(replica)).cloned()
    }

    /// The replicas listen there from now on. Links to those that stay where they are stay, and so do sessions: they
    /// belong to the group, wherever it is.
    pub fn move_to(&self, addresses: &[String]) {
        let before = self.links();
        let stays = |replica: usize, address: &String| {
            before.get(replica).filter(|link| is_same(link.address(), address)).map(Arc::clone)
        };
        let new = |replica: usize, address: &String| {
            let (context, sends_to_all) = (Arc::clone(&self.context), Arc::clone(&self.sends_to_all));
            Arc::new(Link::new(context, address.clone(), self.service, self.first + replica, sends_to_all))
        };
        let links = addresses.iter().enumerate();
        let links = links.map(|(replica, address)| stays(replica, address).unwrap_or_else(|| new(replica, address)));
        *self.links.write().unwrap_or_else(PoisonError::into_inner) = links.collect();
    }

    /// Waits until the group has room for a request of `len_bytes`.
    pub async fn admit(&self, len_bytes: usize, deadline: Option<Instant>) -> Result<Admission<'_>, TimedOut> {
        let closed = |_| panic!("the semaphores of group {} are never closed", self.name);
        let request = before(deadline, self.requests.acquire()).await?.unwrap_or_else(closed);
        let len = u32::try_from(len_bytes.min(GROUP_IN_FLIGHT_MAX_BYTES)).unwrap_or(u32::MAX);
        let bytes = before(deadline, self.bytes.acquire_many(len)).await?.unwrap_or_else(closed);
        Ok(Admission { _request: request, _bytes: bytes })
    }

    /// The session that is open.
    pub(super) fn open_session(&self) -> Option<Arc<Session>> {
        lock(&self.session).clone()
    }

    /// `session` is the open one from now on.
    pub(super) fn keep_session(&self, session: &Arc<Session>) {
        *lock(&self.session) = Some(Arc::clone(session));
    }

    /// The servers no longer know `session`: the next write opens another.
    pub fn forget_session(&self, session: &Arc<Session>) {
        let mut current = lock(&self.session);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *current = None;
        }
    }

    /// Whether writes go to all replicas, as far as is known.
    pub(crate) fn sends_to_all(&self) -> bool {
        self.sends_to_all.load(Ordering::Relaxed)
    }

    /// Who leads, as far as is known.
    pub(crate) fn leader(&self) -> Option<u16> {
        lock(&self.state).leader_cache.leader()
    }

    /// The next replica to read at, where any will do: in turn; those that were silent only now and then. None for a
    /// while after one has refused that: in a Raft group all but the leader do.
    pub fn next_aside(&self) -> Option<u16> {
        let count = self.links().len();
        let mut state = lock(&self.state);
        if state.refused_aside_at.is_some_and(|at| at.elapsed() < ASIDE_PAUSE) {
            return None;
        }
        (0..count).find_map(|_| {
            let replica = (state.next_aside % count) as u16; // below REPLICAS_MAX
            state.next_aside = state.next_aside.wrapping_add(1);
            if state.leader_cache.is_suspect(replica) {
                if state.suspect_aside_at.is_some_and(|at| at.elapsed() < ASIDE_PAUSE) {
                    return None;
                }
                state.suspect_aside_at = Some(Instant::now());
            }
            Some(replica)
        })
    }

    /// A replica has refused to answer in the leader's place.
    pub(crate) fn refused_aside(&self) {
        lock(&self.state).refused_aside_at = Some(Instant::now());
    }

    /// Hears of the next change of the believed leader.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Changes what is believed.
    pub(crate) fn learn<T>(&self, lesson: impl FnOnce(&mut LeaderCache) -> T) -> T {
        let mut state = lock(&self.state);
        let before = state.leader_cache.leader();
        let result = lesson(&mut state.leader_cache);
        let after = state.leader_cache.leader();
        drop(state);
        if before != after {
            tracing::debug!(group = self.name, ?before, ?after, "leader");
            self.changed.notify_waiters();
        }
        result
    }

    /// Whether discovery is needed and does not run; from now on it does.
    pub(super) fn start_finding(&self) -> bool {
        let mut state = lock(&self.state);
        let start = !state.finding && state.leader_cache.leader().is_none();
        state.finding |= start;
        start
    }

    /// Whether the discovery's work is done; it then no longer runs.
    pub(crate) fn stop_finding(&self) -> bool {
        let mut state = lock(&self.state);
        let stop = state.waiting == 0 || state.leader_cache.leader().is_some();
        state.finding &= !stop;
        stop
    }
}

/// Counts a request that waits for a leader.
pub(super) struct Waiting<'g, M: Map>(&'g Group<M>);

impl<M: Map> Waiting<'_, M> {
    pub(super) fn new(group: &Group<M>) -> Waiting<'_, M> {
        lock(&group.state).waiting += 1;
        Waiting(group)
    }
}

impl<M: Map> Drop for Waiting<'_, M> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting -= 1;
    }
}
