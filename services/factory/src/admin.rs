//! The admin of a factory: the thread that drives the core, and the connections that it makes to other factories.
//!
//! What happens comes in a bounded queue. The admin takes what waits, asks the core, and does what it says, one thing
//! after the other; so what is sent or told rests on what was made durable before it. It never waits for a connection:
//! one that takes nothing is given up.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use smr::internals::disk::Disk;
use smr::internals::reach;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::core::{Change, Core, Effect, Input, LinkId, Note, Outcome, Ticket};
use crate::message::{
    Dialler, Indexes, KIND_PEER_ANSWER, KIND_PEER_REQUEST, PEER_FRAME_MAX_BYTES, PeerAnswer, PeerRequest,
};
use crate::store::Store;
use crate::wire::{self, Connection};
use crate::words::{MapOp, ServerId};

/// Events that wait for the admin; whoever has another one waits.
pub const EVENTS_MAX: usize = 1024;
/// Events that are taken together, and replicated together.
const BATCH_MAX: usize = 512;
/// Messages that wait to be written to one factory.
pub const OUTGOING_MAX: usize = 16;
/// How long a factory that is to be reached may take, in milliseconds.
const DIAL_TIMEOUT_MS: u64 = 2_000;

/// What happens.
pub enum Event {
    /// A customer orders.
    Order(MapOp, oneshot::Sender<Outcome>),
    /// A customer reads, and wants all that was acknowledged.
    Read(i32, oneshot::Sender<Outcome>),
    /// Another factory has connected; answers go there.
    Opened(LinkId, mpsc::Sender<PeerAnswer>),
    /// That factory asks for something.
    Asked(LinkId, ServerId, PeerRequest),
    /// Its connection is closed.
    Closed(LinkId),
    /// A connection of this factory is there.
    Connected(ServerId, u64, mpsc::Sender<PeerRequest>),
    /// An answer came over it.
    Answered(ServerId, u64, PeerAnswer),
    /// It is broken, or was not to be had.
    Failed(ServerId, u64),
    /// Time passes.
    Tick,
}

/// What customers may see at any time.
#[derive(Debug)]
pub struct Public {
    /// The customer records.
    pub records: BTreeMap<i32, i32>,
    /// How far they are.
    pub indexes: Indexes,
}

/// The records, for whoever reads them.
pub type SharedRecords = Arc<RwLock<Public>>;

/// Who this factory is, and where the others are.
#[derive(Clone, Debug)]
pub struct Group {
    /// The number of this factory.
    pub id: ServerId,
    /// The others, with their addresses.
    pub others: BTreeMap<ServerId, String>,
}

impl Group {
    /// All ids, in order.
    pub fn ids(&self) -> Vec<ServerId> {
        let mut ids: Vec<ServerId> = self.others.keys().copied().chain([self.id]).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether one who says that it is factory `id` of this group, and has dialled `to`, may come in.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn check(&self, id: ServerId, to: ServerId, group: &[ServerId]) -> Result<(), String> {
        if to != self.id {
            return Err(format!("this is server {}, not {to}", self.id));
        }
        let ids = self.ids();
        if group != ids || !self.others.contains_key(&id) {
            let list = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("the servers of this group are {list}; the command lines differ"));
        }
        Ok(())
    }
}

/// A connection to another factory, or the attempt.
struct Outgoing {
    /// Events of earlier ones are passed over.
    generation: u64,
    sender: Option<mpsc::Sender<PeerRequest>>,
    task: AbortHandle,
}

/// Says something to the operator.
pub type Say = fn(&str);

/// See the module.
pub struct Admin<D> {
    group: Arc<Group>,
    core: Core,
    store: Store<D>,
    shared: SharedRecords,
    runtime: Handle,
    events: mpsc::Sender<Event>,
    say: Say,
    next_ticket: u64,
    tickets: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
    links: BTreeMap<LinkId, mpsc::Sender<PeerAnswer>>,
    outgoing: BTreeMap<ServerId, Outgoing>,
    generation: u64,
}

impl<D: Disk> Admin<D> {
    /// An admin whose core is as the store says.
    pub fn new(
        group: Arc<Group>,
        core: Core,
        store: Store<D>,
        runtime: Handle,
        events: mpsc::Sender<Event>,
        say: Say,
    ) -> Admin<D> {
        let shared = Arc::new(RwLock::new(Public { records: core.records().clone(), indexes: core.indexes() }));
        Admin {
            group,
            core,
            store,
            shared,
            runtime,
            events,
            say,
            next_ticket: 0,
            tickets: BTreeMap::new(),
            links: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            generation: 0,
        }
    }

    /// The records, for the engineers.
    pub fn shared(&self) -> SharedRecords {
        Arc::clone(&self.shared)
    }

    /// Runs until no one can send events any more.
    ///
    /// # Errors
    /// If the disk fails: the process must end.
    pub fn run(mut self, mut incoming: mpsc::Receiver<Event>) -> io::Result<()> {
        let mut events = Vec::with_capacity(BATCH_MAX);
        while incoming.blocking_recv_many(&mut events, BATCH_MAX) > 0 {
            let inputs: Vec<Input> = events.drain(..).filter_map(|event| self.input(event)).collect();
            for effect in self.core.step(inputs) {
                self.carry_out(effect)?;
            }
            self.publish_indexes();
        }
        Ok(())
    }

    fn publish_indexes(&self) {
        self.shared.write().indexes = self.core.indexes();
    }

    fn input(&mut self, event: Event) -> Option<Input> {
        Some(match event {
            Event::Order(op, answer) => Input::Order { ticket: self.ticket(answer), op },
            Event::Read(customer, answer) => Input::Read { ticket: self.ticket(answer), customer },
            Event::Opened(link, sender) => {
                self.links.insert(link, sender);
                return None;
            }
            Event::Asked(link, from, request) => {
                // It may have been closed meanwhile.
                self.links.get(&link)?;
                Input::Asked { link, from, request }
            }
            Event::Closed(link) => {
                self.links.remove(&link);
                Input::Closed(link)
            }
            Event::Connected(to, generation, sender) => {
                let outgoing = self.current(to, generation)?;
                outgoing.sender = Some(sender);
                Input::Connected(to)
            }
            Event::Answered(to, generation, answer) => {
                self.current(to, generation)?;
                Input::Answered(to, answer)
            }
            Event::Failed(to, generation) => {
                self.current(to, generation)?;
                self.outgoing.remove(&to);
                Input::Failed(to)
            }
            Event::Tick => Input::Tick,
        })
    }

    fn ticket(&mut self, answer: oneshot::Sender<Outcome>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, answer);
        ticket
    }

    fn current(&mut self, to: ServerId, generation: u64) -> Option<&mut Outgoing> {
        self.outgoing.get_mut(&to).filter(|outgoing| outgoing.generation == generation)
    }

    fn carry_out(&mut self, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Persist(change) => {
                let surplus = self.store.persist(&change)?;
                if let (Some(path), Change::Cut { applied, surplus, .. }) = (surplus, &change) {
                    self.tell_of_surplus(&path, surplus.len(), *applied);
                }
            }
            Effect::Connect(to) => self.connect(to),
            Effect::Disconnect(to) => {
                if let Some(outgoing) = self.outgoing.remove(&to) {
                    outgoing.task.abort();
                }
            }
            Effect::Send(to, request) => {
                let Some(outgoing) = self.outgoing.get_mut(&to) else { return Ok(()) };
                let taken = outgoing.sender.as_ref().is_some_and(|sender| sender.try_send(request).is_ok());
                if !taken && let Some(outgoing) = self.outgoing.get(&to) {
                    // Its end is heard of as any other one.
                    let generation = outgoing.generation;
                    outgoing.task.abort();
                    self.fail_later(to, generation);
                }
            }
            Effect::Reply(link, answer) => {
                if self.links.get(&link).is_some_and(|sender| sender.try_send(answer).is_err()) {
                    self.links.remove(&link);
                }
            }
            Effect::Close(link, why) => {
                tracing::warn!(why, "a factory says something that makes no sense");
                self.links.remove(&link);
            }
            Effect::Apply { customer, order } => {
                let mut public = self.shared.write();
                public.records.insert(customer, order);
            }
            Effect::Reset(records) => {
                self.shared.write().records = records;
            }
            Effect::Finish(ticket, outcome) => {
                // Whoever is answered may ask next how far this one is.
                self.publish_indexes();
                if let Some(answer) = self.tickets.remove(&ticket) {
                    // Whoever asked may be gone.
                    let _ = answer.send(outcome);
                }
            }
            Effect::Say(note) => self.tell(&note),
        }
        Ok(())
    }

    fn connect(&mut self, to: ServerId) {
        let Some(address) = self.group.others.get(&to).cloned() else { return };
        self.generation += 1;
        let generation = self.generation;
        let (group, events) = (Arc::clone(&self.group), self.events.clone());
        let task = self.runtime.spawn(async move {
            let ended = talk(&group, (to, &address), generation, &events).await;
            if let Err(error) = ended {
                tracing::debug!(%error, server = to.0, "no connection to a factory");
            }
            // The admin may be gone; then no one wants to know.
            let _ = events.send(Event::Failed(to, generation)).await;
        });
        let outgoing = Outgoing { generation, sender: None, task: task.abort_handle() };
        if let Some(before) = self.outgoing.insert(to, outgoing) {
            before.task.abort();
        }
    }

    fn fail_later(&self, to: ServerId, generation: u64) {
        let events = self.events.clone();
        self.runtime.spawn(async move {
            let _ = events.send(Event::Failed(to, generation)).await;
        });
    }

    fn tell_of_surplus(&self, path: &Path, entries: usize, applied: u64) {
        (self.say)(&format!(
            "{entries} orders that the primary does not have were cut off, \
             {applied} of them applied here; they are in {}",
            path.display()
        ));
    }

    fn tell(&self, note: &Note) {
        let list = |ids: &[ServerId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let id = self.group.id;
        (self.say)(&match note {
            Note::Leads(epoch, with) if with.is_empty() => {
                format!("server {id} is the production factory in epoch {epoch}, alone")
            }
            Note::Leads(epoch, with) => {
                format!("server {id} is the production factory in epoch {epoch}, with {}", list(with))
            }
            Note::WaitsFor(missing) => {
                format!(
                    "an order waits until these servers are back, which may have what this one lacks: {}",
                    list(missing)
                )
            }
            Note::Deposed(epoch) => format!("server {id} is idle: server {} takes over in epoch {epoch}", epoch.server),
        });
    }
}

/// Dials another factory, and carries messages until the connection ends.
async fn talk(
    group: &Group,
    (to, address): (ServerId, &str),
    generation: u64,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let stream = reach::connect(address, Duration::from_millis(DIAL_TIMEOUT_MS)).await?;
    let mut connection = wire::prepare(stream)?;
    let dialler = Dialler::Factory { id: group.id, to, group: group.ids() };
    connection.greet(dialler, PEER_FRAME_MAX_BYTES).await?;
    let Connection { mut reader, mut writer } = connection;
    let (sender, mut requests) = mpsc::channel::<PeerRequest>(OUTGOING_MAX);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    events.send(Event::Connected(to, generation, sender)).await.map_err(|_| gone())?;
    let write = async {
        while let Some(request) = requests.recv().await {
            wire::send(&mut writer, KIND_PEER_REQUEST, &request).await?;
        }
        Ok(())
    };
    let read = async {
        while let Some(answer) = wire::receive::<PeerAnswer>(&mut reader, KIND_PEER_ANSWER).await? {
            if !answer.is_bounded() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer beyond its bounds"));
            }
            events.send(Event::Answered(to, generation, answer)).await.map_err(|_| gone())?;
        }
        Ok(())
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}
