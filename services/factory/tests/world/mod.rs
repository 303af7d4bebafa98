//! A group of cores without sockets, disks or clocks: messages wait in queues until they are delivered, one by one.
//!
//! A process that is killed loses all but what it made durable, and its connections break: what was sent over them and
//! not delivered is lost, and the other end hears of it. Fail-stop, as the document assumes; [`World::cut`] is the
//! exception, for what happens then.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use factory::core::{Change, Core, Effect, Input, LinkId, Note, Outcome, Stored, Ticket};
use factory::message::{PeerAnswer, PeerRequest};
use factory::words::{Entry, Incarnation, MapOp, ServerId};

/// What waits to happen at a server.
#[derive(Clone, Debug)]
enum Pending {
    /// A dial reaches its target.
    Dial {
        from: ServerId,
        to: ServerId,
    },
    Request {
        link: LinkId,
        request: PeerRequest,
    },
    Answer {
        link: LinkId,
        answer: PeerAnswer,
    },
    /// An end of a connection hears that it is broken.
    Broken {
        link: LinkId,
        at: ServerId,
    },
}

/// A connection: who dialled whom.
#[derive(Clone, Copy, Debug)]
struct Link {
    from: ServerId,
    to: ServerId,
    /// Which ends still know of it.
    from_knows: bool,
    to_knows: bool,
}

struct Server {
    stored: Stored,
    core: Option<Core>,
    shown: BTreeMap<i32, i32>,
}

/// The group.
pub(crate) struct World {
    servers: BTreeMap<ServerId, Server>,
    links: BTreeMap<LinkId, Link>,
    /// What waits, in the order of each connection and direction.
    queues: BTreeMap<(u64, bool), VecDeque<Pending>>,
    loose: VecDeque<Pending>,
    cuts: BTreeSet<(ServerId, ServerId)>,
    next_link: u64,
    next_ticket: u64,
    incarnations: u64,
    /// Orders under way: to whom, customer and order.
    pub(crate) asked: BTreeMap<Ticket, (ServerId, i32, i32)>,
    /// Acknowledged orders: index, customer, order.
    pub(crate) acknowledged: Vec<(u64, i32, i32)>,
    /// Requests that ended, in order.
    pub(crate) ended: Vec<(Ticket, Outcome)>,
    /// What was cut off: server, what was kept, what was applied, entries.
    pub(crate) surplus: Vec<(ServerId, u64, u64, Vec<Entry>)>,
    /// What happened, for scripts.
    pub(crate) trace: String,
}

impl World {
    pub(crate) fn new(servers: u32) -> World {
        let mut world = World {
            servers: BTreeMap::new(),
            links: BTreeMap::new(),
            queues: BTreeMap::new(),
            loose: VecDeque::new(),
            cuts: BTreeSet::new(),
            next_link: 1,
            next_ticket: 1,
            incarnations: 0,
            asked: BTreeMap::new(),
            acknowledged: Vec::new(),
            ended: Vec::new(),
            surplus: Vec::new(),
            trace: String::new(),
        };
        for id in 0..servers {
            let stored = world.empty_directory();
            world.servers.insert(ServerId(id), Server { stored, core: None, shown: BTreeMap::new() });
        }
        world
    }

    fn empty_directory(&mut self) -> Stored {
        self.incarnations += 1;
        Stored::new(Incarnation(self.incarnations))
    }

    pub(crate) fn ids(&self) -> Vec<ServerId> {
        self.servers.keys().copied().collect()
    }

    pub(crate) fn is_up(&self, id: u32) -> bool {
        self.servers[&ServerId(id)].core.is_some()
    }

    pub(crate) fn core(&self, id: u32) -> &Core {
        self.servers[&ServerId(id)].core.as_ref().expect("it runs")
    }

    /// What the server has on its disk.
    pub(crate) fn stored(&self, id: u32) -> &Stored {
        &self.servers[&ServerId(id)].stored
    }

    pub(crate) fn start(&mut self, id: u32) {
        self.start_with(id, false);
    }

    pub(crate) fn start_with(&mut self, id: u32, found_anew: bool) {
        let ids: BTreeSet<ServerId> = self.servers.keys().copied().collect();
        let id = ServerId(id);
        let server = self.servers.get_mut(&id).expect("a server");
        assert!(server.core.is_none(), "server {id} runs");
        let core = Core::new(id, &ids, server.stored.clone(), found_anew);
        server.shown = core.records().clone();
        server.core = Some(core);
    }

    /// Kill -9.
    pub(crate) fn kill(&mut self, id: u32) {
        let id = ServerId(id);
        self.servers.get_mut(&id).expect("a server").core = None;
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, l)| l.from == id || l.to == id).map(|(&l, _)| l).collect();
        for link in links {
            let Link { from, to, .. } = self.links[&link];
            if from == id {
                self.links.get_mut(&link).expect("a link").from_knows = false;
            } else {
                self.links.get_mut(&link).expect("a link").to_knows = false;
            }
            // What was on its way to the other end may still arrive; what comes back finds no one.
            self.queues.remove(&(link.0, from != id));
            let other = if from == id { to } else { from };
            let towards_target = from == id;
            self.queues.entry((link.0, towards_target)).or_default().push_back(Pending::Broken { link, at: other });
        }
        self.asked.retain(|_, (at, ..)| *at != id);
        self.loose.retain(|pending| !matches!(pending, Pending::Dial { from, .. } if *from == id));
    }

    /// Kill -9, and its directory is emptied.
    pub(crate) fn wipe(&mut self, id: u32) {
        if self.is_up(id) {
            self.kill(id);
        }
        let stored = self.empty_directory();
        self.servers.get_mut(&ServerId(id)).expect("a server").stored = stored;
    }

    /// The link between two servers fails: both hear of broken connections.
    pub(crate) fn cut(&mut self, one: u32, other: u32) {
        let (one, other) = (ServerId(one), ServerId(other));
        self.cuts.insert((one.min(other), one.max(other)));
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, l)| (l.from, l.to) == (one, other) || (l.from, l.to) == (other, one))
            .map(|(&l, _)| l)
            .collect();
        for link in links {
            let Link { from, to, .. } = self.links[&link];
            for (towards_target, at) in [(true, to), (false, from)] {
                self.queues.insert((link.0, towards_target), VecDeque::from([Pending::Broken { link, at }]));
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn order(&mut self, id: u32, customer: i32, order: i32) -> Ticket {
        let ticket = self.ticket();
        self.asked.insert(ticket, (ServerId(id), customer, order));
        self.step(ServerId(id), [Input::Order { ticket, op: MapOp::update(customer, order) }]);
        ticket
    }

    /// Orders that come together.
    pub(crate) fn orders(&mut self, id: u32, orders: &[(i32, i32)]) {
        let inputs: Vec<Input> = orders
            .iter()
            .map(|&(customer, order)| {
                let ticket = self.ticket();
                self.asked.insert(ticket, (ServerId(id), customer, order));
                Input::Order { ticket, op: MapOp::update(customer, order) }
            })
            .collect();
        self.step(ServerId(id), inputs);
    }

    pub(crate) fn read(&mut self, id: u32, customer: i32) -> Ticket {
        let ticket = self.ticket();
        self.step(ServerId(id), [Input::Read { ticket, customer }]);
        ticket
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }

    pub(crate) fn tick(&mut self, id: u32) {
        self.step(ServerId(id), [Input::Tick]);
    }

    pub(crate) fn tick_all(&mut self) {
        for id in self.ids() {
            self.step(id, [Input::Tick]);
        }
    }

    /// How many things can happen next.
    pub(crate) fn choices(&self) -> usize {
        self.queues.values().filter(|queue| !queue.is_empty()).count() + self.loose.len()
    }

    /// Lets one of them happen.
    pub(crate) fn happen(&mut self, choice: usize) {
        let ready: Vec<(u64, bool)> =
            self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(&key, _)| key).collect();
        let pending = match ready.get(choice) {
            Some(key) => self.queues.get_mut(key).and_then(VecDeque::pop_front),
            None => self.loose.remove(choice - ready.len()),
        };
        self.queues.retain(|_, queue| !queue.is_empty());
        if let Some(pending) = pending {
            self.deliver(pending);
        }
    }

    /// Lets all happen, in turn, until nothing is left.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.choices() == 0 {
                return;
            }
            self.happen(0);
        }
        panic!("the group does not come to rest:\n{}", self.trace);
    }

    /// Lets all happen, and what is tried again, too.
    pub(crate) fn settle_with_ticks(&mut self) {
        for _ in 0..4 {
            self.settle();
            self.tick_all();
        }
        self.settle();
    }

    fn deliver(&mut self, pending: Pending) {
        if std::env::var_os("SEED").is_some() {
            let _ = writeln!(self.trace, "    {pending:?}");
        }
        match pending {
            Pending::Dial { from, to } => {
                let is_cut = self.cuts.contains(&(from.min(to), from.max(to)));
                if self.servers[&from].core.is_none() {
                    return;
                }
                if is_cut || self.servers[&to].core.is_none() {
                    self.step(from, [Input::Failed(to)]);
                    return;
                }
                let link = LinkId(self.next_link);
                self.next_link += 1;
                self.links.insert(link, Link { from, to, from_knows: true, to_knows: true });
                self.step(from, [Input::Connected(to)]);
            }
            Pending::Request { link, request } => {
                let Some(&Link { from, to, to_knows: true, .. }) = self.links.get(&link) else { return };
                self.step(to, [Input::Asked { link, from, request }]);
            }
            Pending::Answer { link, answer } => {
                let Some(&Link { from, to, from_knows: true, .. }) = self.links.get(&link) else { return };
                self.step(from, [Input::Answered(to, answer)]);
            }
            Pending::Broken { link, at } => {
                let Some(known) = self.links.get_mut(&link) else { return };
                let Link { from, to, .. } = *known;
                if at == from {
                    if std::mem::take(&mut known.from_knows) {
                        self.step(from, [Input::Failed(to)]);
                    }
                } else if std::mem::take(&mut known.to_knows) {
                    self.step(to, [Input::Closed(link)]);
                }
                if self.links.get(&link).is_some_and(|link| !link.from_knows && !link.to_knows) {
                    self.links.remove(&link);
                }
            }
        }
    }

    fn link_from(&self, from: ServerId, to: ServerId) -> Option<LinkId> {
        self.links.iter().rev().find(|(_, l)| l.from == from && l.to == to && l.from_knows).map(|(&link, _)| link)
    }

    fn step(&mut self, id: ServerId, inputs: impl IntoIterator<Item = Input>) {
        let Some(core) = self.servers.get_mut(&id).and_then(|server| server.core.as_mut()) else { return };
        for effect in core.step(inputs) {
            self.carry_out(id, effect);
        }
        let server = &self.servers[&id];
        let core = server.core.as_ref().expect("it runs");
        assert_eq!(core.records(), &server.shown, "server {id} shows other records than it has applied");
    }

    fn carry_out(&mut self, id: ServerId, effect: Effect) {
        match effect {
            Effect::Persist(change) => self.persist(id, change),
            Effect::Connect(to) => self.loose.push_back(Pending::Dial { from: id, to }),
            Effect::Disconnect(to) => {
                // A dial on its way is given up as well.
                self.loose.retain(
                    |pending| !matches!(pending, Pending::Dial { from, to: target } if (*from, *target) == (id, to)),
                );
                if let Some(link) = self.link_from(id, to) {
                    self.links.get_mut(&link).expect("a link").from_knows = false;
                    self.queues.remove(&(link.0, false));
                    self.queues.entry((link.0, true)).or_default().push_back(Pending::Broken { link, at: to });
                }
            }
            Effect::Send(to, request) => {
                assert!(request.is_bounded());
                if let Some(link) = self.link_from(id, to) {
                    self.queues.entry((link.0, true)).or_default().push_back(Pending::Request { link, request });
                }
            }
            Effect::Reply(link, answer) => {
                assert!(answer.is_bounded());
                if self.links.get(&link).is_some_and(|link| link.to_knows) {
                    self.queues.entry((link.0, false)).or_default().push_back(Pending::Answer { link, answer });
                }
            }
            Effect::Close(_, why) => panic!("server {id} hears nonsense: {why}\n{}", self.trace),
            Effect::Apply { customer, order } => {
                self.servers.get_mut(&id).expect("a server").shown.insert(customer, order);
            }
            Effect::Reset(records) => self.servers.get_mut(&id).expect("a server").shown = records,
            Effect::Finish(ticket, outcome) => {
                if let (Some((_, customer, order)), Outcome::Recorded(index)) = (self.asked.remove(&ticket), &outcome) {
                    self.acknowledged.push((*index, customer, order));
                }
                let _ = writeln!(self.trace, "  {id}: request {} ends: {outcome:?}", ticket.0);
                self.ended.push((ticket, outcome));
            }
            Effect::Say(note) => {
                let text = match note {
                    Note::Leads(epoch, with) => format!("leads in {epoch} with {:?}", plain(&with)),
                    Note::WaitsFor(missing) => format!("waits for {:?}", plain(&missing)),
                    Note::Deposed(epoch) => format!("is deposed by {epoch}"),
                };
                let _ = writeln!(self.trace, "  {id}: {text}");
            }
        }
    }

    fn persist(&mut self, id: ServerId, change: Change) {
        let stored = &mut self.servers.get_mut(&id).expect("a server").stored;
        match change {
            Change::Promise(epoch, attempts) => {
                stored.promised = epoch;
                stored.attempts = attempts;
            }
            Change::View(view, attempts) => {
                stored.attempts = attempts;
                let live: Vec<u32> = view.live.keys().map(|id| id.0).collect();
                let _ = writeln!(self.trace, "  {id}: view {} {live:?}", view.id);
                stored.view = view;
            }
            Change::Append { committed, entries } => {
                entries.into_iter().for_each(|entry| stored.log.push(entry));
                stored.committed = stored.committed.max(committed);
            }
            Change::Cut { keep, applied, surplus } => {
                let cut = stored.log.cut(keep);
                assert_eq!(cut, surplus, "what is kept aside is what is cut off");
                stored.committed = stored.committed.min(keep);
                let _ = writeln!(self.trace, "  {id}: cuts {} after {keep}, {applied} of them applied", surplus.len());
                self.surplus.push((id, keep, applied, surplus));
            }
        }
    }

    /// One line for each server: what it is and has.
    pub(crate) fn state(&self) -> String {
        let mut text = String::new();
        for (id, server) in &self.servers {
            let _ = match &server.core {
                Some(core) => {
                    let indexes = core.indexes();
                    let (last, committed) = (indexes.last_index, indexes.committed_index);
                    let live = if core.is_live() { "live" } else { "dead" };
                    let records: Vec<String> = core.records().iter().map(|(c, o)| format!("{c}={o}")).collect();
                    writeln!(
                        text,
                        "  {id}: {live}, last {last}, committed {committed}, primary {}, records {}",
                        indexes.primary_id,
                        records.join(" ")
                    )
                }
                None => writeln!(text, "  {id}: down"),
            };
        }
        text
    }
}

fn plain(ids: &[ServerId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}
