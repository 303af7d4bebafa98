//! The protocol, as a value: it is told what happened and says what to do. No clock, socket, file or thread.
//!
//! # Rules
//! 1. **Epochs.** An epoch is a counter and its primary's id. A factory that is sent an order and is not the primary
//!    takes an epoch above all that it has heard of, and asks every other one to take no word from lower ones. What was
//!    promised is on disk before it is said.
//! 2. **The most complete log first.** Before it orders anything it waits for the answer, or the broken connection, of
//!    each of them, and adopts the most complete log among its own and those that were named: that of the latest view,
//!    and of those the longest. Whoever it found dead and stands in the latest view it has heard of is dialled again.
//! 3. **Views.** The live set is recorded with the epoch, and counted in it. Whoever records it has all that was
//!    acknowledged before. An order is acknowledged once it is on the disk of each member of the present view, each of
//!    them has recorded that view, and each counts as live.
//! 4. **Broken connections count as death.** Then the primary goes on with a view without that one.
//! 5. **A factory that was started again counts as dead** until it leads itself, or a primary has caught it up and told
//!    it that all members of the present view have recorded it.
//! 6. **If no one is live**, a factory leads only when all of the last recorded live set have answered, with the
//!    directories that they had; in the beginning, all of the group. A takeover that was promised to, and of which
//!    nothing more was heard, may have come to a live set that no one here knows: if a live server promised, or all of
//!    that live set did, its server must be back, too.
//! 7. **Histories that meet are not merged.** What the higher epoch does not have is cut off, kept aside and reported.
//! 8. **An idle factory applies an order with the next one**: what it is told is committed ends before the last entry.
//!
//! # What is assumed, and what follows if it is wrong
//! A connection breaks only if the other process has ended. If a link can fail, both ends may lead, each without the
//! other, and rule 7 takes away what one of them has acknowledged. Nothing here can notice that in time; a
//! configuration service could. So an epoch is begun in one place only, [`Core::begin_takeover`]: that is where one
//! that is issued by such a service would come in.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod idle;
mod primary;
mod takeover;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::log::Log;
use crate::message::{Indexes, PeerAnswer, PeerRequest, Standing, Summary};
use crate::words::{Attempt, Attempts, Entry, Epoch, Incarnation, MapOp, ServerId, View};

use self::primary::Leading;
use self::takeover::{Takeover, Waiting};

/// Orders and linearizable reads that wait at one factory; the next ones are refused.
pub const WAITING_MAX: usize = 4096;

/// The name of a customer's request while it waits; the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An incoming connection of another factory; the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A customer has ordered.
    Order {
        /// Its name.
        ticket: Ticket,
        /// What the order does to the records.
        op: MapOp,
    },
    /// A customer wants its record, with all that was acknowledged so far.
    Read {
        /// Its name.
        ticket: Ticket,
        /// The customer.
        customer: i32,
    },
    /// The connection that was wanted to this factory is there.
    Connected(ServerId),
    /// It is not to be had, or is broken.
    Failed(ServerId),
    /// An answer came over it.
    Answered(ServerId, PeerAnswer),
    /// Another factory asks, over a connection of its own.
    Asked {
        /// The connection.
        link: LinkId,
        /// Who dialled.
        from: ServerId,
        /// What it asks.
        request: PeerRequest,
    },
    /// That connection is gone.
    Closed(LinkId),
    /// Some time has passed: who is dead may be back.
    Tick,
}

/// What is to be done, in this order, each before the next one is begun.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this durable.
    Persist(Change),
    /// Connect to this factory.
    Connect(ServerId),
    /// Give up that connection.
    Disconnect(ServerId),
    /// Send this over it.
    Send(ServerId, PeerRequest),
    /// Answer over an incoming connection.
    Reply(LinkId, PeerAnswer),
    /// Close that connection: what came over it makes no sense.
    Close(LinkId, &'static str),
    /// Show this record to customers from now on.
    Apply {
        /// The customer.
        customer: i32,
        /// Its last order.
        order: i32,
    },
    /// Show these records, and no others: the log was cut below what was applied.
    Reset(BTreeMap<i32, i32>),
    /// Tell a customer.
    Finish(Ticket, Outcome),
    /// Tell the operator.
    Say(Note),
}

/// What must be durable before anything else is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// No word from lower epochs; and what is not known of takeovers.
    Promise(Epoch, Attempts),
    /// The live set; and what is not known of takeovers since then.
    View(View, Attempts),
    /// These entries at the end of the log.
    Append {
        /// Up to where the log is known to be committed.
        committed: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log ends here.
    Cut {
        /// The last index that is kept.
        keep: u64,
        /// How many of those cut off were applied here.
        applied: u64,
        /// What is cut off, to be kept aside.
        surplus: Vec<Entry>,
    },
}

/// What becomes of a customer's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The order is recorded, at this index.
    Recorded(u64),
    /// The customer's last order.
    Record(Option<i32>),
    /// Nothing was done: this one is the primary, if anyone is known to be.
    NotDone(Option<ServerId>),
    /// Nothing was done: too many wait.
    Busy,
    /// The order is in the log of a factory that is the primary no more.
    Unknown,
}

/// What the operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// This factory is the primary, with these besides itself in the live set.
    Leads(Epoch, Vec<ServerId>),
    /// An order waits: no one is live, and these are not back.
    WaitsFor(Vec<ServerId>),
    /// Another one is the primary.
    Deposed(Epoch),
}

/// What a factory has on its disk when it starts.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Of its directory.
    pub incarnation: Incarnation,
    /// See [`Change::Promise`].
    pub promised: Epoch,
    /// See [`Change::Promise`].
    pub attempts: Attempts,
    /// See [`Change::View`].
    pub view: View,
    /// Its orders, committed or not.
    pub log: Log,
    /// Up to where it is known to be committed.
    pub committed: u64,
}

impl Stored {
    /// What is in a new directory.
    pub fn new(incarnation: Incarnation) -> Stored {
        let (promised, attempts, view) = (Epoch::NONE, Attempts::new(), View::none());
        Stored { incarnation, promised, attempts, view, log: Log::default(), committed: 0 }
    }
}

/// What a factory is.
#[derive(Debug)]
enum Role {
    Idle,
    Taking(Takeover),
    Leading(Leading),
}

/// The connection that this factory has to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    None,
    Dialling,
    Open,
}

/// One factory.
#[derive(Debug)]
pub struct Core {
    id: ServerId,
    incarnation: Incarnation,
    /// By the operator's word the first takeover need not wait for anyone.
    found_anew: bool,
    promised: Epoch,
    attempts: Attempts,
    view: View,
    log: Log,
    committed: u64,
    records: BTreeMap<i32, i32>,
    /// Rule 5.
    live: bool,
    primary: Option<ServerId>,
    /// Over which the primary speaks, or one that is about to be, if that is another one.
    primary_link: Option<LinkId>,
    role: Role,
    others: BTreeMap<ServerId, Outgoing>,
    effects: Vec<Effect>,
}

impl Core {
    /// A factory that was just started, with the others of its group. `found_anew` is the operator's word that what
    /// others may have is lost.
    pub fn new(id: ServerId, others: &BTreeSet<ServerId>, stored: Stored, found_anew: bool) -> Core {
        let Stored { incarnation, promised, attempts, view, log, committed } = stored;
        let mut core = Core {
            id,
            incarnation,
            found_anew,
            promised,
            attempts,
            view,
            log,
            committed: 0,
            records: BTreeMap::new(),
            live: false,
            primary: None,
            primary_link: None,
            role: Role::Idle,
            others: others.iter().filter(|&&other| other != id).map(|&other| (other, Outgoing::None)).collect(),
            effects: Vec::new(),
        };
        core.apply(committed.min(core.log.last_index()));
        // Whoever starts shows the records itself.
        core.effects.clear();
        core
    }

    /// Takes what happened, and returns what is to be done. What is ordered together is replicated together.
    pub fn step(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        for input in inputs {
            self.take(input);
        }
        self.replicate();
        std::mem::take(&mut self.effects)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Order { ticket, op } => self.ordered(ticket, op),
            Input::Read { ticket, customer } => self.read(ticket, customer),
            Input::Connected(other) => self.connected(other),
            Input::Failed(other) => self.failed(other),
            Input::Answered(other, answer) => self.answered(other, answer),
            Input::Asked { link, from, request } => self.asked(link, from, request),
            Input::Closed(link) => {
                if self.primary_link == Some(link) {
                    self.primary_link = None;
                    self.primary = None;
                }
            }
            Input::Tick => self.tick(),
        }
    }

    /// How far it is.
    pub fn indexes(&self) -> Indexes {
        let primary_id = self.primary.map_or(-1, |primary| i64::from(primary.0));
        Indexes { last_index: self.log.last_index(), committed_index: self.committed, primary_id }
    }

    /// The records as far as they are applied.
    pub fn records(&self) -> &BTreeMap<i32, i32> {
        &self.records
    }

    /// Its orders, committed or not.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The last recorded view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether it counts as live (rule 5).
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether it is the primary.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    fn ordered(&mut self, ticket: Ticket, op: MapOp) {
        self.wait(Waiting::Order(ticket, op));
    }

    /// A linearizable read is answered by the primary. Who has none becomes it, as for an order.
    fn read(&mut self, ticket: Ticket, customer: i32) {
        match self.primary {
            Some(primary) if primary != self.id => self.finish(ticket, Outcome::NotDone(Some(primary))),
            _ => self.wait(Waiting::Read(ticket, customer)),
        }
    }

    fn wait(&mut self, waiting: Waiting) {
        if let Role::Idle = self.role {
            self.begin_takeover(Vec::new(), VecDeque::new());
        }
        let queue_len = match &mut self.role {
            Role::Taking(takeover) => takeover.waiting.len() + takeover.noted.len(),
            Role::Leading(leading) => leading.waiting_len(),
            Role::Idle => 0,
        };
        if queue_len >= WAITING_MAX {
            self.finish(waiting.ticket(), Outcome::Busy);
            return;
        }
        match &mut self.role {
            Role::Taking(takeover) => takeover.waiting.push(waiting),
            Role::Leading(leading) => leading.arrived.push(waiting),
            Role::Idle => unreachable!("a takeover was begun"),
        }
    }

    fn connected(&mut self, other: ServerId) {
        let epoch = self.promised;
        let (wanted, leads) = (!matches!(self.role, Role::Idle), self.leads());
        let Some(outgoing) = self.others.get_mut(&other) else { return };
        if wanted {
            *outgoing = Outgoing::Open;
            self.effects.push(Effect::Send(other, PeerRequest::Prepare { epoch, leads }));
        } else {
            *outgoing = Outgoing::None;
            self.effects.push(Effect::Disconnect(other));
        }
    }

    fn failed(&mut self, other: ServerId) {
        let Some(outgoing) = self.others.get_mut(&other) else { return };
        *outgoing = Outgoing::None;
        match self.role {
            Role::Idle => {}
            Role::Taking(_) => self.gone_while_taking(other),
            Role::Leading(_) => self.gone_while_leading(other),
        }
    }

    fn answered(&mut self, other: ServerId, answer: PeerAnswer) {
        match (&self.role, answer) {
            (Role::Idle, _) => {}
            (_, PeerAnswer::Refused { promised, standing }) => self.refused(promised, standing),
            (Role::Taking(_), answer) => self.answered_while_taking(other, answer),
            (Role::Leading(_), answer) => self.answered_while_leading(other, answer),
        }
    }

    /// Someone has promised more to another one.
    fn refused(&mut self, promised: Epoch, standing: Standing) {
        if promised <= self.promised {
            return;
        }
        let (waiting, noted) = match std::mem::replace(&mut self.role, Role::Idle) {
            // Of two that take over, the one with the higher epoch goes on; a primary, or one that was, makes way.
            Role::Taking(Takeover { waiting, noted, .. }) if standing != Standing::TakesOver => (waiting, noted),
            // An attempt that came to nothing: once more, above it.
            Role::Leading(Leading { arrived, noted, .. }) if standing == Standing::Unknown => (arrived, noted),
            role => {
                self.role = role;
                self.step_down(promised);
                return;
            }
        };
        self.take_over_above(promised, waiting, noted);
    }

    fn take_over_above(&mut self, other: Epoch, waiting: Vec<Waiting>, noted: VecDeque<(u64, Waiting)>) {
        self.disconnect_all();
        self.promised.counter = other.counter;
        self.begin_takeover(waiting, noted);
    }

    fn tick(&mut self) {
        let dead: Vec<ServerId> =
            self.others.iter().filter(|(_, outgoing)| **outgoing == Outgoing::None).map(|(&other, _)| other).collect();
        match &mut self.role {
            Role::Idle => return,
            Role::Taking(takeover) => {
                if !takeover.is_blocked() {
                    return;
                }
                takeover.ask_again(&dead);
            }
            Role::Leading(_) => {}
        }
        dead.into_iter().for_each(|other| self.dial(other));
    }

    fn dial(&mut self, other: ServerId) {
        self.others.insert(other, Outgoing::Dialling);
        self.effects.push(Effect::Connect(other));
    }

    fn disconnect(&mut self, other: ServerId) {
        if self.others.insert(other, Outgoing::None) != Some(Outgoing::None) {
            self.effects.push(Effect::Disconnect(other));
        }
    }

    fn disconnect_all(&mut self) {
        let others: Vec<ServerId> = self.others.keys().copied().collect();
        others.into_iter().for_each(|other| self.disconnect(other));
    }

    /// Another one has, or takes, a higher epoch.
    fn step_down(&mut self, higher: Epoch) {
        let (unwritten, noted) = match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle => return,
            Role::Taking(Takeover { waiting, noted, .. }) => (waiting, noted),
            Role::Leading(Leading { arrived, noted, .. }) => {
                self.effects.push(Effect::Say(Note::Deposed(higher)));
                (arrived, noted)
            }
        };
        let other = Some(higher.server);
        for waiting in unwritten {
            self.finish(waiting.ticket(), Outcome::NotDone(other));
        }
        for (_, waiting) in noted {
            let outcome = waiting.order().map_or(Outcome::NotDone(other), |_| Outcome::Unknown);
            self.finish(waiting.ticket(), outcome);
        }
        self.primary = None;
        self.disconnect_all();
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        self.effects.push(Effect::Finish(ticket, outcome));
    }

    fn persist(&mut self, change: Change) {
        self.effects.push(Effect::Persist(change));
    }

    fn promise(&mut self, epoch: Epoch) {
        self.promised = epoch;
        if epoch.server != self.id {
            let by = (epoch.server, epoch.incarnation);
            let before = self.attempts.get(&by).is_some_and(|attempt| attempt.live);
            self.attempts.insert(by, Attempt { epoch, live: self.live || before });
        }
        self.persist(Change::Promise(epoch, self.attempts.clone()));
    }

    fn record(&mut self, view: View) {
        self.view = view.clone();
        self.attempts.retain(|_, attempt| attempt.epoch > view.id.epoch);
        self.persist(Change::View(view, self.attempts.clone()));
    }

    /// Applies entries up to this index.
    fn apply(&mut self, committed: u64) {
        while self.committed < committed {
            let Some(entry) = self.log.entry(self.committed + 1) else {
                panic!("entry {} of {} is committed, and not there", self.committed + 1, self.log.last_index());
            };
            let MapOp { arg1: customer, arg2: order, .. } = entry.op;
            self.committed += 1;
            self.records.insert(customer, order);
            self.effects.push(Effect::Apply { customer, order });
        }
    }

    /// Cuts off what another log does not have (rule 7).
    fn cut(&mut self, keep: u64) {
        if keep >= self.log.last_index() {
            return;
        }
        let surplus = self.log.cut(keep);
        if let Role::Taking(takeover) = &mut self.role {
            let lost = takeover.noted.partition_point(|(index, _)| *index <= keep);
            for (_, waiting) in takeover.noted.split_off(lost) {
                let outcome = waiting.order().map_or(Outcome::Busy, |_| Outcome::Unknown);
                self.effects.push(Effect::Finish(waiting.ticket(), outcome));
            }
        }
        let applied = self.committed.saturating_sub(keep);
        self.persist(Change::Cut { keep, applied, surplus });
        if applied > 0 {
            self.committed = keep;
            let kept = self.log.slice(1, keep as usize).iter();
            self.records = kept.map(|entry| (entry.op.arg1, entry.op.arg2)).collect();
            self.effects.push(Effect::Reset(self.records.clone()));
        }
    }

    /// Appends what another log has.
    fn adopt(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        entries.iter().for_each(|&entry| self.log.push(entry));
        self.persist(Change::Append { committed: self.committed, entries });
    }

    fn summary(&self) -> Summary {
        Summary {
            live: self.live,
            incarnation: self.incarnation,
            view: self.view.clone(),
            attempts: self.attempts.clone(),
            last_index: self.log.last_index(),
            runs: self.log.runs(crate::message::RUNS_MAX).to_vec(),
        }
    }
}
